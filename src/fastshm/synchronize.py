"""Locks, with the names and manners of multiprocessing.synchronize.

What the stdlib's locks cannot do: when the holder dies, the next one gets the lock within milliseconds and is told so by
`abandoned`. And these pickle anywhere.
"""

from __future__ import annotations

import threading
from multiprocessing import process
from typing import Any

from fastshm import _core

__all__ = ["Lock", "RLock"]


def _holder() -> str:
    name = process.current_process().name
    if threading.current_thread() is not threading.main_thread():
        name += "|" + threading.current_thread().name
    return name


class _SemLock:
    """What multiprocessing.Condition asks a lock of the stdlib for."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def _is_mine(self) -> bool:
        return self._count() > 0

    def _count(self) -> int:
        state = self._lock._state()
        holder, count = state if isinstance(state, tuple) else (state, 1)
        return count if holder == "mine" else 0


class Lock(_core.Mutex):
    """A non-recursive lock that any process or thread may release. `acquire(block=True, timeout=None)` returns a bool."""

    def __init__(self, *, ctx: Any = None) -> None:
        super().__init__()

    __enter__: Any = _core.Pass(0)
    __exit__: Any = _core.Pass(1)

    @property
    def _semlock(self) -> _SemLock:
        return _SemLock(self)

    def __repr__(self) -> str:
        holder = self._state()
        names = {None: "None", "thread": "SomeOtherThread", "process": "SomeOtherProcess"}
        return f"<{type(self).__name__}(owner={_holder() if holder == 'mine' else names[holder]})>"


class RLock(_core.RecursiveLock):
    """A recursive lock, owned by a thread of a process. `acquire(block=True, timeout=None)` returns a bool."""

    def __init__(self, *, ctx: Any = None) -> None:
        super().__init__()

    __enter__: Any = _core.Pass(0)
    __exit__: Any = _core.Pass(1)

    @property
    def _semlock(self) -> _SemLock:
        return _SemLock(self)

    def __repr__(self) -> str:
        holder, count = self._state()
        names = {None: "None, 0", "thread": "SomeOtherThread, nonzero", "process": "SomeOtherProcess, nonzero"}
        return f"<{type(self).__name__}({f'{_holder()}, {count}' if holder == 'mine' else names[holder]})>"


_core.set_rlock_class(RLock)
