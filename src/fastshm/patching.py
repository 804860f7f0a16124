"""Putting fastshm's shared objects in the place of multiprocessing's, for programs that are not to be changed.

What is replaced are names in the modules where multiprocessing itself looks them up at each call: so contexts, and functions
imported from multiprocessing before, make objects of fastshm, too. Queues keep their classes and change their methods.

Processes started by spawn and forkserver are told with what prepares them, so that they are patched before they import the main
module.
"""

from __future__ import annotations

import multiprocessing
import os
import types
from collections.abc import Iterator
from multiprocessing import context, queues, reduction, spawn
from multiprocessing import managers as _managers
from multiprocessing import sharedctypes as _sharedctypes
from multiprocessing import synchronize as _synchronize
from multiprocessing.reduction import ForkingPickler
from typing import Any

import fastshm
from fastshm import context as _context
from fastshm import managers, sharedctypes, synchronize
from fastshm import queues as _queues

__all__ = ["Patch", "is_patched", "patch", "unpatch"]

ENTRY = "fastshm"  # in what prepares a process
SYNCHRONIZED = ("Synchronized", "SynchronizedArray", "SynchronizedBase", "SynchronizedString")
CHILD = "import sys; sys.path[:] = path; from fastshm import patching; patching.patch()"

_get_preparation_data = spawn.get_preparation_data


def _get_preparation_data_and_patch(name: str) -> dict[str, Any]:
    data = _get_preparation_data(name)
    data[ENTRY] = _PatchedChild(data["sys_path"])
    return data


class _PatchedChild:
    """Unpickled, it patches: in a new process, before anything else is known there, where modules are, for example."""

    def __init__(self, path: list[str]) -> None:
        home = os.path.dirname(os.path.dirname(os.path.abspath(fastshm.__file__)))
        self.path = path if home in path else [*path, home]

    def __reduce__(self) -> Any:
        return exec, (CHILD, {"path": self.path})


def _methods_of_queues() -> Iterator[tuple[str, str, Any]]:
    """To go into the stdlib's classes, of which programs have derived others."""
    for kind in ("Queue", "SimpleQueue"):
        for name, method in vars(getattr(_queues, kind)).items():
            if isinstance(method, types.FunctionType):
                yield kind, name, method


def _reduce_stdlib(made_before: Any) -> Any:
    """For a process that is being started: pickled by name, it would be taken for one of ours."""
    _, (kind,), *rest = made_before.__reduce_ex__(2)
    return _new_stdlib, (kind.__name__,), *rest


def _new_stdlib(name: str) -> Any:
    kind = _stdlib_kinds[name]
    return kind.__new__(kind)


def _reduce_method(method: Any) -> Any:
    """For a server of a class that was imported before: its method, too, would be taken for one of ours."""
    if method.__self__ is _StdlibManager:
        return _method_of_stdlib_manager, (method.__func__.__name__,)
    return reduction._reduce_method(method)  # type: ignore[attr-defined]


def _method_of_stdlib_manager(name: str) -> Any:
    return getattr(_StdlibManager, name)


_StdlibManager = _managers.SyncManager
_stdlib_kinds = {name: vars(_synchronize)[name] for name in synchronize.__all__ if name != "SEM_VALUE_MAX"}


def _replacements() -> list[tuple[Any, str, Any]]:
    return [
        *((_sharedctypes, name, getattr(sharedctypes, name)) for name in (*sharedctypes.__all__, *SYNCHRONIZED)),
        *((_synchronize, name, getattr(synchronize, name)) for name in synchronize.__all__),
        *((getattr(queues, kind), name, method) for kind, name, method in _methods_of_queues()),
        (_managers, "SyncManager", managers.SyncManager),
        (context.BaseContext, "Manager", _context.Context.Manager),
        (multiprocessing, "Manager", _context.default.Manager),
        (spawn, "get_preparation_data", _get_preparation_data_and_patch),
    ]


_originals: list[tuple[Any, str, Any]] = []
_patches: list[Patch] = []


class Patch:
    """What patch() returns: `undo()`, or the end of a `with` block, takes this one back."""

    def undo(self) -> None:
        """Once all patches are taken back, multiprocessing is as it was. The objects that there are remain as they are."""
        if _patches == [self]:
            _restore()
        if self in _patches:  # last: what a signal's handler raises meanwhile leaves it to be taken back
            _patches.remove(self)

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()


def patch() -> Patch:
    """From now on multiprocessing makes fastshm's shared objects, in this process and those that it starts.

    Call it first, before other modules import by their names Manager, SyncManager or classes of multiprocessing.synchronize.
    """
    this = Patch()
    _patches.append(this)
    try:
        if _patches[0] is this:
            _replace()
    except BaseException:  # of a signal's handler
        this.undo()
        raise
    return this


def _replace() -> None:
    for place, name, replacement in _replacements():
        _originals.append((place, name, getattr(place, name)))
        setattr(place, name, replacement)
    for kind in _stdlib_kinds.values():
        ForkingPickler.register(kind, _reduce_stdlib)
    ForkingPickler.register(types.MethodType, _reduce_method)


def _restore() -> None:
    while _originals:
        place, name, original = _originals[-1]
        setattr(place, name, original)
        _originals.pop()
    for kind in _stdlib_kinds.values():
        ForkingPickler._extra_reducers.pop(kind, None)  # type: ignore[attr-defined]
    ForkingPickler.register(types.MethodType, reduction._reduce_method)  # type: ignore[attr-defined]


def unpatch() -> None:
    """Take back all patches of this process."""
    for this in _patches[:]:
        this.undo()


def is_patched() -> bool:
    """Whether multiprocessing makes fastshm's objects in this process."""
    return bool(_patches)
