"""The functions that fastshm exports, with the signatures of multiprocessing's context methods."""

from __future__ import annotations

from typing import Any

from fastshm import managers, sharedctypes, synchronize

__all__ = ["Context", "default"]


class Context:
    """Makes shared objects. They do not depend on a start method, so there is one context for all."""

    def Manager(self) -> managers.SyncManager:
        """A started manager, which needs no server process."""
        return managers.Manager()

    def Lock(self) -> synchronize.Lock:
        """A non-recursive lock that any process may release."""
        return synchronize.Lock()

    def RLock(self) -> synchronize.RLock:
        """A recursive lock, owned by one thread of one process."""
        return synchronize.RLock()

    def Semaphore(self, value: int = 1) -> synchronize.Semaphore:
        """Permits without owners."""
        return synchronize.Semaphore(value)

    def BoundedSemaphore(self, value: int = 1) -> synchronize.BoundedSemaphore:
        """Permits that come back when the process that acquired them ends."""
        return synchronize.BoundedSemaphore(value)

    def Condition(self, lock: Any = None) -> synchronize.Condition:
        """A condition over that lock, or over a new RLock."""
        return synchronize.Condition(lock)

    def Event(self) -> synchronize.Event:
        """A flag to wait for."""
        return synchronize.Event()

    def Barrier(self, parties: int, action: Any = None, timeout: float | None = None) -> synchronize.Barrier:
        """Lets `parties` go on together."""
        return synchronize.Barrier(parties, action, timeout)

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """A ctypes object in shared memory, without a lock."""
        return sharedctypes.RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any) -> Any:
        """A ctypes array in shared memory, without a lock."""
        return sharedctypes.RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """A shared value with a lock and atomic operations: see fastshm.sharedctypes.Value."""
        return sharedctypes.Value(typecode_or_type, *args, lock=lock)

    def Array(
        self,
        typecode_or_type: Any,
        size_or_initializer: Any,
        *,
        lock: Any = True,
        capacity: int | None = None,
        shape: Any = None,
    ) -> Any:
        """A shared array with a lock and atomic operations, which grows: see fastshm.sharedctypes.Array."""
        return sharedctypes.Array(typecode_or_type, size_or_initializer, lock=lock, capacity=capacity, shape=shape)


default = Context()
