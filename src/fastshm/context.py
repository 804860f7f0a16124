"""Contexts: multiprocessing's own, that make shared objects of fastshm.

Everything else about them, processes, pools, pipes and the rest, is inherited. The objects do not depend on a start method; the
contexts differ by how they start processes.
"""

from __future__ import annotations

from multiprocessing import context
from multiprocessing.context import AuthenticationError, BaseContext, BufferTooShort, Process, ProcessError, TimeoutError
from typing import Any

from fastshm import _array, _typed, managers, queues, sharedctypes, stores, synchronize

__all__ = [
    "AuthenticationError",
    "BaseContext",
    "BufferTooShort",
    "Context",
    "DefaultContext",
    "ForkContext",
    "ForkServerContext",
    "Process",
    "ProcessError",
    "SpawnContext",
    "TimeoutError",
    "default",
    "get_context",
]


class Context(BaseContext):
    """What all contexts have in common: the calls that make shared objects."""

    def get_context(self, method: str | None = None) -> Any:
        """This context, or the one of that start method; ValueError for one that there is not."""
        if method is None:
            return self
        return _ours(method, super().get_context(method))

    def Manager(
        self,
        address: str | None = None,
        *,
        create: bool = True,
        persist: bool = False,
        live: bool | None = None,
        allow_pickle: bool = True,
    ) -> managers.SyncManager:
        """A started manager, whose dicts, lists, locks and so on are in shared memory and need no server process.

        Without an address its objects are this program's and those it hands them to; they go out of service when the manager is
        shut down. An address "shm://NAME" is that of a named store: all programs of this user that open it by that name share
        what is in its dict `root`. It is a fastshm.stores.Store, which also makes `Counter`, `ShardedCounter` and `frozen`.
        (Servers with addresses of their own, for other machines: fastshm.managers.SyncManager.)

        `live`: plain dicts and lists that are stored in its dicts and lists become shared ones. A store does so by default.
        Of a store alone: `create=False` opens only one that is there (else FileNotFoundError); `persist=True` keeps it until
        fastshm.unlink(address) or the next boot, not only as long as it is used; `allow_pickle=False` refuses to unpickle what
        others have stored, and to store what needs a pickle. TypeError when one of these is given without an address.
        """
        manager: managers.SyncManager
        if address is not None:
            manager = stores.Store(
                address, create=create, persist=persist, live=live is None or live, allow_pickle=allow_pickle
            )
        elif not create or persist or not allow_pickle:
            raise TypeError(
                "create, persist and allow_pickle are of named stores: give an address, as in "
                'fastshm.Manager("shm://myapp", persist=True)'
            )
        else:
            manager = managers.SyncManager(ctx=self.get_context(), live=bool(live))
        manager.start()
        return manager

    def Lock(self) -> synchronize.Lock:  # type: ignore[override]
        """A non-recursive lock that any process may release. A dead holder loses it; `abandoned` then tells the next one."""
        return synchronize.Lock()

    def RLock(self) -> synchronize.RLock:  # type: ignore[override]
        """A recursive lock, owned by one thread of one process. A dead holder loses it; `abandoned` then tells the next one."""
        return synchronize.RLock()

    def Semaphore(self, value: int = 1) -> synchronize.Semaphore:  # type: ignore[override]
        """Permits without owners."""
        return synchronize.Semaphore(value)

    def BoundedSemaphore(self, value: int = 1) -> synchronize.BoundedSemaphore:  # type: ignore[override]
        """Permits that come back when the process that acquired them ends."""
        return synchronize.BoundedSemaphore(value)

    def Condition(self, lock: Any = None) -> synchronize.Condition:  # type: ignore[override]
        """A condition over that lock, or over a new RLock."""
        return synchronize.Condition(lock)

    def Event(self) -> synchronize.Event:  # type: ignore[override]
        """A flag to wait for."""
        return synchronize.Event()

    def Barrier(self, parties: int, action: Any = None, timeout: float | None = None) -> synchronize.Barrier:  # type: ignore[override]
        """Lets `parties` go on together."""
        return synchronize.Barrier(parties, action, timeout)

    def Queue(self, maxsize: int = 0) -> queues.Queue:
        """A queue of pickled objects, written by a thread."""
        return queues.Queue(maxsize)

    def JoinableQueue(self, maxsize: int = 0) -> queues.JoinableQueue:
        """A queue that counts the tasks that are not done yet."""
        return queues.JoinableQueue(maxsize)

    def SimpleQueue(self) -> queues.SimpleQueue:
        """A pipe of pickled objects, with a lock at each end."""
        return queues.SimpleQueue()

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """A ctypes object in shared memory, without a lock."""
        return sharedctypes.RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any) -> Any:
        """A ctypes array in shared memory, without a lock."""
        return sharedctypes.RawArray(typecode_or_type, size_or_initializer)

    Value: Any = _typed.Value  # functions, which no instance is bound to
    Array: Any = _array.Array


class ForkContext(Context, context.ForkContext):
    """Starts processes by fork."""


class SpawnContext(Context, context.SpawnContext):
    """Starts processes by spawn."""


class ForkServerContext(Context, context.ForkServerContext):
    """Starts processes by forkserver."""


class DefaultContext(Context, context.DefaultContext):
    """Starts processes by the method that is set, in multiprocessing or here: it is one and the same."""

    def __init__(self) -> None:
        """Without a method of its own."""

    def get_context(self, method: str | None = None) -> Any:
        """The context of that start method, or of the one that is set."""
        return super().get_context(_stdlib.get_start_method() if method is None else method)

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        _stdlib.set_start_method(method, force)

    def get_start_method(self, allow_none: bool = False) -> Any:
        return _stdlib.get_start_method(allow_none)

    def get_all_start_methods(self) -> list[str]:
        return _stdlib.get_all_start_methods()


def _ours(method: str, theirs: BaseContext) -> Any:
    """Others, as joblib, have registered start methods of their own with multiprocessing."""
    if method not in _concrete:
        kind = type(theirs)
        _concrete[method] = object.__new__(type(kind.__name__, (Context, kind), {"__module__": __name__}))
        vars(_concrete[method]).update(vars(theirs))
    return _concrete[method]


_stdlib: context.DefaultContext = context._default_context
_concrete: dict[str, Any] = {"fork": ForkContext(), "spawn": SpawnContext(), "forkserver": ForkServerContext()}
default = DefaultContext()
get_context = default.get_context
