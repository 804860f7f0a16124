"""What a rival lacks to be timed as an object that processes share."""

from __future__ import annotations

from importlib.util import find_spec
from multiprocessing.shared_memory import SharedMemory
from typing import Any

ATOMICSHM = find_spec("atomicshm") is not None


class Word:
    """64 bits of a SharedMemory, `cell` of which is atomicshm's. Another process opens it by name."""

    def __init__(self, value: int, name: str | None = None) -> None:
        import atomicshm

        self.memory = SharedMemory(name, create=name is None, size=64)
        self.is_ours = name is None
        self.view = atomicshm.AtomicView(self.memory.buf)
        self.cell = self.view.cell_u64(0)
        if self.is_ours:
            self.cell.store(value)

    def __reduce__(self) -> Any:
        return Word, (0, self.memory.name)

    def __del__(self) -> None:
        self.view.close()
        self.memory.close()
        if self.is_ours:
            self.memory.unlink()


def with_atomicshm(texts: dict[str, str], text: str) -> dict[str, str]:
    """The texts, and atomicshm's, where it is installed."""
    return texts | {"atomicshm": text} if ATOMICSHM else texts
