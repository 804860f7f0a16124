"""Locks and what is waited for, with the names and manners of multiprocessing.synchronize.

What the stdlib's cannot do: when the holder of a lock dies, the next one gets it within milliseconds and is told so by
`abandoned`; a bounded semaphore's permits come back from the dead; no notification goes to them; a barrier that they were in
breaks. And these pickle anywhere.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import process
from typing import Any

from fastshm import _core, _locks, _sync

__all__ = ["SEM_VALUE_MAX", "Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore"]

SEM_VALUE_MAX = 2**31 - 1


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
        return int(self._lock._held())

    def _get_value(self) -> int:
        return int(not self._lock.locked())

    def _is_zero(self) -> bool:
        return bool(self._lock.locked())


@_core.own_methods
class Lock(_locks.Mutex):
    """A non-recursive lock that any process or thread may release. `acquire(block=True, timeout=None)` returns a bool."""

    def __init__(self, *, ctx: Any = None) -> None:
        super().__init__()

    __enter__: Any = _locks.Pass(0)
    __exit__: Any = _locks.Pass(1)

    def locked(self) -> bool:
        """Whether anybody holds it."""
        return self._state() is not None

    @property
    def _semlock(self) -> _SemLock:
        return _SemLock(self)

    def __repr__(self) -> str:
        holder = self._state()
        names = {None: "None", "thread": "SomeOtherThread", "process": "SomeOtherProcess"}
        return f"<{type(self).__name__}(owner={_holder() if holder == 'mine' else names[holder]})>"


@_core.own_methods
class RLock(_locks.RecursiveLock):
    """A recursive lock, owned by a thread of a process. `acquire(block=True, timeout=None)` returns a bool."""

    def __init__(self, *, ctx: Any = None) -> None:
        super().__init__()

    __enter__: Any = _locks.Pass(0)
    __exit__: Any = _locks.Pass(1)

    def locked(self) -> bool:
        """Whether anybody holds it."""
        return self._state()[0] is not None

    @property
    def _semlock(self) -> _SemLock:
        return _SemLock(self)

    def __repr__(self) -> str:
        holder, count = self._state()
        names = {None: "None, 0", "thread": "SomeOtherThread, nonzero", "process": "SomeOtherProcess, nonzero"}
        return f"<{type(self).__name__}({f'{_holder()}, {count}' if holder == 'mine' else names[holder]})>"


_locks.set_rlock_class(RLock)


class _SemaphoreSemLock:
    """What the stdlib looks up in a semaphore."""

    def __init__(self, semaphore: Any, maxvalue: int) -> None:
        self._get_value = semaphore.get_value
        self.maxvalue = maxvalue

    def _is_zero(self) -> bool:
        return bool(self._get_value() == 0)


class _Permits:
    """What the two semaphores have in common."""

    __slots__ = ()

    __enter__: Any = _locks.Pass(0)
    __exit__: Any = _locks.Pass(1)

    def locked(self) -> bool:
        """Whether there is no permit."""
        return self.get_value() == 0  # type: ignore[attr-defined,no-any-return]


@_core.own_methods
class Semaphore(_Permits, _sync.Semaphore):
    """Permits that any process may acquire and any may release. They have no owner: who is killed with one has consumed it.

    `acquire(block=True, timeout=None)` returns a bool.
    """

    def __init__(self, value: int = 1, *, ctx: Any = None) -> None:
        super().__init__(value)

    @property
    def _semlock(self) -> _SemaphoreSemLock:
        return _SemaphoreSemLock(self, SEM_VALUE_MAX)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()})>"


@_core.own_methods
class BoundedSemaphore(_Permits, _sync.BoundedSemaphore):
    """Permits that belong to the process that acquired them, and come back when it ends. Any process may release them, but
    never more than there were.

    `acquire(block=True, timeout=None)` returns a bool.
    """

    def __init__(self, value: int = 1, *, ctx: Any = None) -> None:
        super().__init__(value)

    @property
    def _semlock(self) -> _SemaphoreSemLock:
        return _SemaphoreSemLock(self, self._bound)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()}, maxvalue={self._bound})>"


@_core.own_methods
class Event(_sync.Event):
    """A flag to wait for. `wait(timeout=None)` returns whether it was set, also when it has been cleared again since."""

    def __init__(self, *, ctx: Any = None) -> None:
        super().__init__()

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} at {id(self):#x} {'set' if self.is_set() else 'unset'}>"


def _held(lock: Any) -> int:
    """How often this thread holds a lock of multiprocessing."""
    return int(lock._semlock._count()) if lock._semlock._is_mine() else 0


class _Count:
    """One of the semaphores that a condition of the stdlib consists of, as far as it can be looked at."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.get_value = count


class OfItsLock:
    """Descriptor for __enter__ and __exit__: hands out those of the lock itself, so that no Python code runs between it and the
    `with`, and no signal's handler."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return lambda it, *args: getattr(it._lock, self._name)(*args)
        return getattr(instance._lock, self._name)


class Condition:
    """Waiting for what others do under the same lock: of fastshm or of multiprocessing, a new RLock if none is given."""

    def __init__(self, lock: Any = None, *, ctx: Any = None) -> None:
        self.__setstate__((lock or RLock(), _sync.Waiters()))

    def __getstate__(self) -> tuple[Any, _sync.Waiters]:
        return self._lock, self._waiters

    def __setstate__(self, state: tuple[Any, _sync.Waiters]) -> None:
        self._lock, self._waiters = state
        self.acquire: Callable[..., bool] = self._lock.acquire
        self.release: Callable[[], None] = self._lock.release
        self._held: Callable[[], int] = getattr(self._lock, "_held", None) or functools.partial(_held, self._lock)

    __enter__: Any = OfItsLock("__enter__")
    __exit__: Any = OfItsLock("__exit__")

    @property
    def abandoned(self) -> bool:
        """Whether the last holder of the lock died inside: see Lock."""
        return bool(self._lock.abandoned)

    def wait(self, timeout: float | None = None) -> bool:
        """Lets go of the lock until notified, and has it again: True, or False when `timeout` seconds went by."""
        count = self._held()
        assert count, "must acquire() condition before using wait()"
        return self._waiters.wait(self._lock, count, timeout)

    def notify(self, n: int = 1) -> None:
        """Wakes the `n` that have waited longest."""
        assert self._held(), "lock is not owned"
        self._waiters.notify(n)

    def notify_all(self) -> None:
        """Wakes all who wait."""
        self.notify(sys.maxsize)

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Waits until the predicate, called with the lock held, is true; its last answer."""
        result = predicate()
        end = None if timeout is None else time.monotonic() + timeout
        while not result:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    @property
    def _sleeping_count(self) -> _Count:
        return _Count(self._waiters.count)

    @property
    def _woken_count(self) -> _Count:
        return _Count(lambda: 0)

    _wait_semaphore = _woken_count

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock}, {self._waiters.count()})>"


class Barrier(_sync.Barrier):
    """Lets `parties` threads go on together; the last to come first calls `action`. One that dies while it waits, or while it
    runs the action, breaks it for the others."""

    def __init__(
        self, parties: int, action: Callable[[], Any] | None = None, timeout: float | None = None, *, ctx: Any = None
    ) -> None:
        super().__init__(parties)
        self._action, self._timeout = action, timeout

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), (self._action, self._timeout))

    def __setstate__(self, state: tuple[Any, Any]) -> None:
        self._action, self._timeout = state

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the others: its number, in the order of coming. threading.BrokenBarrierError when it breaks, as it does
        when `timeout` seconds went by."""
        return self._pass(self._action, self._timeout if timeout is None else timeout)

    def __repr__(self) -> str:
        state = "broken" if self.broken else f"waiters={self.n_waiting}/{self.parties}"
        return f"<{type(self).__module__}.{type(self).__qualname__} at {id(self):#x}: {state}>"
