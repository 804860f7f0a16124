"""Manager and its objects, with the names and manners of multiprocessing.managers, and no server.

A proxy here is a handle on shared memory. Shutting a manager down closes a gate that all its objects look at, in every process.
What has no form of its own (queues, pools, types that programs register) is in the stdlib's server, which is started at its
first use. A manager with an address is that server, or a client of one: all of its objects are there, where others find them.
"""

from __future__ import annotations

import array
import builtins
import functools
import os
import threading
from collections.abc import Callable
from multiprocessing import ProcessError, managers, process
from multiprocessing.managers import BaseProxy, SharedMemoryManager, Token
from typing import Any, Concatenate, ParamSpec, TypeVar

from fastshm import _array, _core, _dict, _list, _locks, _sync, proxies, served
from fastshm.proxies import (
    AcquirerProxy,
    ArrayProxy,
    BarrierProxy,
    BoundedSemaphoreProxy,
    ConditionProxy,
    DictProxy,
    EventProxy,
    ListProxy,
    NamespaceProxy,
    RecursiveAcquirerProxy,
    SemaphoreProxy,
    SetProxy,
    ValueProxy,
)

# Without dict, list and set, which would hide the builtins from those who import all.
__all__ = [
    "AcquirerProxy",
    "ArrayProxy",
    "BarrierProxy",
    "BaseManager",
    "BaseProxy",
    "BoundedSemaphoreProxy",
    "ConditionProxy",
    "DictProxy",
    "EventProxy",
    "ListProxy",
    "NamespaceProxy",
    "RecursiveAcquirerProxy",
    "SemaphoreProxy",
    "SetProxy",
    "SharedMemoryManager",
    "SyncManager",
    "Token",
    "ValueProxy",
]

_Stdlib: Any = managers  # some of what is asked of it is not in the stubs
State = _Stdlib.State


def __getattr__(name: str) -> Any:
    """All else that multiprocessing.managers has."""
    try:
        return getattr(managers, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> Any:
    return sorted({*globals(), *dir(managers)})


# --- making them --------------------------------------------------------------------------------------------------------------


def _new_dict(beside: _core.Handle | None, args: Any, kwargs: Any, live: bool = False) -> DictProxy:
    if len(args) > 1:
        raise TypeError(f"dict expected at most 1 argument, got {len(args)}")
    if live:
        return proxies.live(builtins.dict(*args, **kwargs), beside)  # type: ignore[no-any-return]
    new = _dict.Dict._make(DictProxy, beside)
    new.update(*args, **kwargs)
    return new


def _new_list(beside: _core.Handle | None, sequence: Any, live: bool = False) -> ListProxy:
    if live:
        return proxies.live(builtins.list(sequence), beside)  # type: ignore[no-any-return]
    new = _list.List._make(ListProxy, beside)
    new.extend(sequence)
    return new


def _new_set(beside: _core.Handle | None, iterable: Any) -> SetProxy:
    new = SetProxy(_dict.Dict._make(_dict.Dict, beside))
    new.update(iterable)
    return new


def dict(*args: Any, **kwargs: Any) -> DictProxy:
    """A new shared dict, filled with what the builtin dict takes. It lives as long as somebody has a handle on it."""
    return _new_dict(None, args, kwargs)


def list(sequence: Any = (), /) -> ListProxy:
    """A new shared list of the items of `sequence`. It lives as long as somebody has a handle on it."""
    return _new_list(None, sequence)


def live(value: Any, /) -> Any:
    """A live shared copy of a plain dict or list: what is stored in it as a plain dict or list becomes shared and live, too.

    So `d["list"].append(4)` and `d["a"]["b"]["c"] += 1` are seen by all. `copy(deep=True)` gives plain Python back.
    """
    if type(value) in (builtins.dict, builtins.list):
        return proxies.live(value, None)
    raise TypeError(f"a dict or list expected, not {type(value).__name__!r}")


def set(iterable: Any = (), /) -> SetProxy:
    """A new shared set of the items of `iterable`. It lives as long as somebody has a handle on it."""
    return _new_set(None, iterable)


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("semaphore initial value must be >= 0")
    return value


class BaseManager(managers.BaseManager):
    """The stdlib's manager of registered types, which may be registered with the classes of proxies that are here. Its server
    ends when the process that started it has died and nobody is connected."""

    _Server = served.Server

    @classmethod
    def _run_server(cls, *args: Any, **kwargs: Any) -> None:
        served.end_with_starter()
        super()._run_server(*args, **kwargs)  # type: ignore[misc]

    @classmethod
    def register(cls, typeid: str, callable: Any = None, proxytype: Any = None, *args: Any, **options: Any) -> None:
        super().register(typeid, callable, proxies.served_class(proxytype), *args, **options)


class _Served(BaseManager, _Stdlib.SyncManager):  # type: ignore[misc]
    """The stdlib's manager, with the sets that it has since Python 3.14, and with proxies that shared containers keep."""

    _registry: Any = {}  # noqa: RUF012  (the stdlib's)

    @classmethod
    def register(cls, typeid: str, callable: Any = None, proxytype: Any = None, *args: Any, **options: Any) -> None:
        kept = served.KeptProxy(proxies.served_class(proxytype or _Stdlib.AutoProxy))
        super().register(typeid, callable, kept, *args, **options)


for _typeid, (_make, _exposed, _typeids, _proxytype) in {
    "set": (builtins.set, None, None, proxies.ServedSetProxy),
    **_Stdlib.SyncManager._registry,
}.items():
    _Served.register(_typeid, _make, _proxytype, _exposed, _typeids, create_method=_make is not None)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _in_shared_memory(make: Callable[Concatenate[Any, _P], _R]) -> Callable[Concatenate[Any, _P], _R]:
    """A method that makes an object here, unless this manager's objects are in a server."""
    make_there = getattr(_Served, make.__name__)

    @functools.wraps(make)
    def method(self: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> Any:
        return (make_there if self._served else make)(self, *args, **kwargs)

    return method


class _StateOf:
    """The state of what is being started: nobody else's affair, but that its end is the manager's."""

    def __init__(self, state: Any) -> None:
        self._manager, self._value = state, State.INITIAL

    @property
    def value(self) -> Any:
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = value
        if value == State.SHUTDOWN:
            self._manager.value = value


class SyncManager(_Served):
    """Makes shared objects that go out of service, in all processes, when it is shut down.

    With an `address`, or connected to one, it is the stdlib's manager, and its objects are in a server process. Without, only
    queues, pools and registered types are: at the first of them, at an initializer, or when it is asked for its address, a
    server is started.
    """

    _process: Any = None
    _address: Any

    def __init__(
        self,
        address: Any = None,
        authkey: Any = None,
        serializer: str = "pickle",
        ctx: Any = None,
        *,
        shutdown_timeout: float = 1.0,
        live: bool = False,
    ) -> None:
        super().__init__(address, authkey, serializer, ctx, shutdown_timeout=shutdown_timeout)
        self._live = live
        self._served = False
        self._gate: _core.Gate | None = None
        self._starter = 0
        self._initializer: Any = (None, ())
        self._serving: builtins.dict[int, Any] = {}  # a lock for each process: a child is not to wait for its parent's threads
        self._stop_server: Any = None
        self._started: Any = None  # what was started: its end is the server's

    # --- its life

    def start(self, initializer: Any = None, initargs: Any = ()) -> None:
        """Open for service. An initializer runs in the server process, which is then started at once."""
        with self._serving_lock():
            self._check_initial()
            if initializer is not None and not callable(initializer):
                raise TypeError("initializer must be a callable")
            self._starter = os.getpid()
            self._initializer = initializer, initargs
            if self._address is not None:
                self._served = True
                self._start_server()
                self._state.value = State.STARTED
                return
            self._begin()
            self._state.value = State.STARTED
            if initializer is not None:
                self._serve()

    def get_server(self) -> Any:
        """A server of this manager's types, for this process to run: see multiprocessing.managers."""
        self._check_initial()
        return self._Server(self._registry, self._address, self._authkey, self._serializer)

    def _check_initial(self) -> None:
        if self._state.value == State.STARTED:
            raise ProcessError("Already started server")
        if self._state.value == State.SHUTDOWN:
            raise ProcessError("Manager has shut down")

    def _begin(self) -> None:
        self._gate = _core.Gate()

    def connect(self) -> None:
        """To the server at the address. This manager's objects are there."""
        super().connect()
        self._served = True

    def _serving_lock(self) -> Any:
        return self._serving.setdefault(os.getpid(), threading.RLock())  # a signal's handler may come in between

    def _serve(self) -> None:
        """There is a server from now on."""
        with self._serving_lock():
            if self._stop_server is None and not self._served:
                assert self._state.value == State.STARTED, "server not yet started, or shut down already"
                self._start_server()

    def _start_server(self) -> None:
        settings = process.current_process()._config  # type: ignore[attr-defined]
        daemonic = settings.pop("daemon", False)  # such a process may have no children, but this one
        started: Any = object.__new__(type(self))
        address = self._address if self._served else None  # not that of a server which a signal's handler has started meanwhile
        started.__dict__.update(vars(self), _address=address, _state=_StateOf(self._state))  # others do not see it half started
        try:
            managers.BaseManager.start(started, *self._initializer)
        finally:
            if daemonic:
                settings["daemon"] = daemonic
        if self._stop_server is not None:  # a signal's handler has started one meanwhile
            started._stop_server()
            return
        self._process, self._address = started._process, started._address
        self._started, self._stop_server = started, started._stop_server
        if self._state.value == State.SHUTDOWN:  # by a signal's handler
            self._stop_server()

    @property
    def address(self) -> Any:
        """Where others may connect to."""
        if self._state.value == State.STARTED:
            self._serve()
        return self._address

    @property
    def shutdown(self) -> Any:
        """Ends the service of all objects made here; may be called again, and does nothing in a forked process. There is no
        such method before start()."""
        if not self._starter:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute 'shutdown'")
        return self._shut_down

    @shutdown.setter
    def shutdown(self, stop: Any) -> None:
        self._stop_server = stop  # what the stdlib's start() sets

    def _shut_down(self) -> None:
        if self._starter != os.getpid():
            return
        with self._serving_lock():
            self._close()
            if self._stop_server is not None:
                self._stop_server()
            self._state.value = State.SHUTDOWN

    def _close(self) -> None:
        if self._gate is not None:
            self._gate.close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._starter:
            raise TypeError(f"{type(self).__name__!r} objects do not pickle; their proxies do")
        return super().__reduce_ex__(protocol)

    def __getstate__(self) -> Any:
        """Of one that is connected, or not started, for a process that is being started."""
        return {**vars(self), "_serving": None, "_started": None}

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)
        self._serving = {}

    # --- what it makes

    def _create(self, typeid: str, /, *args: Any, **kwds: Any) -> Any:
        self._serve()
        return super()._create(typeid, *args, **kwds)

    def _debug_info(self) -> Any:
        return super()._debug_info() if self._address is not None else ""

    def _number_of_objects(self) -> Any:
        """Of those in the server."""
        return super()._number_of_objects() if self._address is not None else 0

    @property
    def _makes_objects(self) -> bool:
        return not self._served and self._state.value == State.STARTED

    def _open(self) -> _core.Handle:
        """Beside what new objects are made."""
        assert self._gate is not None and self._state.value != State.SHUTDOWN, (  # noqa: PT018
            "server not yet started, or shut down already"
        )
        return self._gate

    @_in_shared_memory
    def dict(self, *args: Any, **kwargs: Any) -> DictProxy:
        """A shared dict of what the builtin dict takes."""
        return _new_dict(self._open(), args, kwargs, self._live)

    @_in_shared_memory
    def list(self, sequence: Any = (), /) -> ListProxy:
        """A shared list of the items of `sequence`."""
        return _new_list(self._open(), sequence, self._live)

    @_in_shared_memory
    def set(self, iterable: Any = (), /) -> SetProxy:
        """A shared set of the items of `iterable`."""
        return _new_set(self._open(), iterable)

    @_in_shared_memory
    def Namespace(self, /, **kwargs: Any) -> NamespaceProxy:
        """Shared attributes."""
        return NamespaceProxy(_new_dict(self._open(), (), kwargs))

    @_in_shared_memory
    def Value(self, typecode: Any, value: Any, lock: Any = True) -> ValueProxy:
        """One shared object of any type; the type code decides nothing, as in the stdlib."""
        return ValueProxy(_new_list(self._open(), (typecode, value)))

    @_in_shared_memory
    def Array(self, typecode: str, sequence: Any, lock: Any = True) -> ArrayProxy:
        """A shared array.array."""
        gate, items = self._open(), array.array(typecode, sequence)
        return _array.SynchronizedArray._make(ArrayProxy, items.typecode, 0, gate=gate, values=items)

    @_in_shared_memory
    def Lock(self) -> AcquirerProxy:
        return AcquirerProxy(gate=self._open())

    @_in_shared_memory
    def RLock(self) -> RecursiveAcquirerProxy:
        return RecursiveAcquirerProxy(gate=self._open())

    @_in_shared_memory
    def Event(self) -> EventProxy:
        return EventProxy(gate=self._open())

    @_in_shared_memory
    def Condition(self, lock: Any = None) -> ConditionProxy:
        """A condition over a lock of this or another manager of fastshm, or over a new RLock."""
        gate = self._open()
        if lock is not None and not isinstance(lock, (_locks.Mutex, _locks.RecursiveLock)):
            raise TypeError(f"a condition needs a lock of fastshm, not {type(lock).__name__!r}")
        return ConditionProxy(RecursiveAcquirerProxy(gate=gate) if lock is None else lock, _sync.Waiters(gate=gate))

    @_in_shared_memory
    def Semaphore(self, value: int = 1) -> SemaphoreProxy:
        return SemaphoreProxy(_not_negative(value), gate=self._open())

    @_in_shared_memory
    def BoundedSemaphore(self, value: int = 1) -> BoundedSemaphoreProxy:
        return BoundedSemaphoreProxy(_not_negative(value), gate=self._open())

    @_in_shared_memory
    def Barrier(self, parties: int, action: Any = None, timeout: float | None = None) -> BarrierProxy:
        threading.Barrier(parties)  # which numbers there may be depends on the version of Python
        return BarrierProxy(parties, action, timeout, self._open())
