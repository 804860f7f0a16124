"""The modules of multiprocessing that there is nothing to add to: `import fastshm.pool` finds multiprocessing.pool."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES = frozenset(
    {
        "connection",
        "dummy",
        "forkserver",
        "pool",
        "process",
        "reduction",
        "resource_tracker",
        "shared_memory",
        "spawn",
        "util",
    }
)


class _Finder:
    """The last one to be asked, so whatever this package has itself comes first."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        return ModuleSpec(name, _Loader) if package == "fastshm" and module in NAMES else None  # type: ignore[arg-type]


class _Loader:
    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """The import system hands out what is in sys.modules afterwards."""
        name = module.__name__
        sys.modules[name] = import_module(f"multiprocessing.{name.rpartition('.')[2]}")


def be_found() -> None:
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
