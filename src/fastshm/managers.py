"""Manager and its objects, with the names and manners of multiprocessing.managers, and no server.

A proxy here is a handle on shared memory. Shutting a manager down closes a gate that all its objects look at, in every process.
What has no form of its own yet (queues and pools) comes from the stdlib's server, which is started at its first use.
"""

from __future__ import annotations

import array
import builtins
import threading
from multiprocessing import ProcessError, managers
from multiprocessing.managers import BaseManager, BaseProxy
from multiprocessing.managers import SyncManager as _ServedManager
from typing import Any

from fastshm import _array, _codec, _containers, _core, _dict, _list, _set, _sync, heap, sharedctypes, synchronize  # noqa: F401  (hooks)

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
    "SyncManager",
    "ValueProxy",
    "dict",
    "list",
    "live",
    "set",
]


# --- proxies ------------------------------------------------------------------------------------------------------------------


class Proxy:
    """What all proxies have in common. They act on the shared memory themselves, so a call is just a call."""

    __slots__ = ()
    _typeid = "object"

    def _getvalue(self) -> Any:
        """What it stands for, as a plain copy; for a lock, the proxy itself."""
        return self

    def _callmethod(self, methodname: str, args: Any = (), kwds: Any = {}) -> Any:  # noqa: B006  (the stdlib's signature)
        return getattr(self, methodname)(*args, **kwds)

    def __deepcopy__(self, memo: Any) -> Any:
        return self._getvalue()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object, typeid {self._typeid!r} at {id(self):#x}>"

    def __str__(self) -> str:
        try:
            return self._text()
        except Exception:
            return f"{repr(self)[:-1]}; '__str__()' failed>"

    def _text(self) -> str:
        return repr(self._getvalue())


@_core.own_methods
class DictProxy(Proxy, _dict.Dict):
    """A shared dict: see Manager().dict and fastshm.dict.

    `keys()`, `values()`, `items()` are lists and, as `copy()`, of one instant. `dict(d)` asks for one key after the other:
    `copy()` does not. Plain dicts and lists that are stored come out as copies; stored proxies are live.
    """

    _typeid = "dict"

    def _getvalue(self) -> Any:
        return self.copy()

    def to_dict(self) -> Any:
        """copy(deep=True)."""
        return self.copy(True)

    def fromkeys(self, iterable: Any, value: Any = None, /) -> Any:
        """A plain dict, as it is with the stdlib's proxies."""
        return builtins.dict.fromkeys(iterable, value)

    def __or__(self, other: Any) -> Any:
        return self.copy() | _plain(other)

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self


@_core.own_methods
class ListProxy(Proxy, _list.List):
    """A shared list: see Manager().list and fastshm.list.

    Slices are lists of one instant, and so are `list(l)`, `tuple(l)` and `sorted(l)`; a `for` loop sees each item as it then
    is.
    """

    _typeid = "list"

    def _getvalue(self) -> Any:
        return self[:]

    def copy(self, deep: bool = False) -> Any:
        """A plain list of one instant. With `deep`, shared containers in it become plain ones, too, each of an instant of its
        own."""
        return _plain_all_through(self, {}) if deep else self[:]

    def clear(self) -> None:
        self[:] = ()

    def to_list(self) -> Any:
        """copy(deep=True)."""
        return self.copy(True)


def _over_copies(name: str) -> Any:
    """A method of the builtin set."""

    def method(self: Any, *others: Any) -> Any:
        return getattr(self.copy(), name)(*map(_plain, others))

    method.__name__ = name
    return method


class SetProxy(Proxy, _set.Set):
    """A shared set: see Manager().set and fastshm.set.

    What takes items away several at a time (`-=`, `&=`, `^=` and their methods) holds the set's lock: nobody sees the middle of
    it, but a process that is killed there leaves some of them.
    """

    _typeid = "set"

    def _getvalue(self) -> Any:
        return self.copy()

    union, intersection, difference = _over_copies("union"), _over_copies("intersection"), _over_copies("difference")
    symmetric_difference, isdisjoint = _over_copies("symmetric_difference"), _over_copies("isdisjoint")
    issubset, issuperset = _over_copies("issubset"), _over_copies("issuperset")
    __or__, __and__, __sub__, __xor__ = (
        _over_copies("__or__"),
        _over_copies("__and__"),
        _over_copies("__sub__"),
        _over_copies("__xor__"),
    )
    __ror__, __rand__, __rsub__, __rxor__ = (
        _over_copies("__ror__"),
        _over_copies("__rand__"),
        _over_copies("__rsub__"),
        _over_copies("__rxor__"),
    )
    __le__, __lt__, __ge__, __gt__ = (
        _over_copies("__le__"),
        _over_copies("__lt__"),
        _over_copies("__ge__"),
        _over_copies("__gt__"),
    )

    def _become(self, name: str, others: Any) -> None:
        with self.get_lock():
            old = self.copy()
            new = getattr(old, name)(*map(_plain, others))
            for item in old - new:
                self.discard(item)
            self.update(new - old)

    def intersection_update(self, *others: Any) -> None:
        self._become("intersection", others)

    def difference_update(self, *others: Any) -> None:
        self._become("difference", others)

    def symmetric_difference_update(self, other: Any) -> None:
        self._become("symmetric_difference", (other,))

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(_set_only(other))
        return self

    def __iand__(self, other: Any) -> Any:  # type: ignore[misc]
        self.intersection_update(_set_only(other))
        return self

    def __isub__(self, other: Any) -> Any:  # type: ignore[misc]
        self.difference_update(_set_only(other))
        return self

    def __ixor__(self, other: Any) -> Any:  # type: ignore[misc]
        self.symmetric_difference_update(_set_only(other))
        return self


def _plain(other: Any) -> Any:
    return other.copy() if isinstance(other, (SetProxy, DictProxy)) else other


def _set_only(other: Any) -> Any:
    if not isinstance(other, (builtins.set, frozenset, _set.Set)):
        raise TypeError(f"unsupported operand type(s): a shared set and {type(other).__name__!r}")
    return _plain(other)


class NamespaceProxy(Proxy):
    """Shared attributes. Names that begin with an underscore belong to this proxy alone."""

    _typeid = "Namespace"

    def __init__(self, items: _dict.Dict) -> None:
        object.__setattr__(self, "_items", items)

    def __getattr__(self, name: str) -> Any:
        if name[0] == "_":
            return object.__getattribute__(self, name)
        try:
            return self._items[name]
        except KeyError:
            raise AttributeError(f"'Namespace' object has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] == "_":
            object.__setattr__(self, name, value)
        else:
            self._items[name] = value

    def __delattr__(self, name: str) -> None:
        if name[0] == "_":
            object.__delattr__(self, name)
            return
        try:
            del self._items[name]
        except KeyError:
            raise AttributeError(f"'Namespace' object has no attribute {name!r}") from None

    def __reduce__(self) -> Any:
        return type(self), (self._items,)

    def _getvalue(self) -> Any:
        return managers.Namespace(**self._items.copy())

    def _text(self) -> str:
        shown = sorted(f"{name}={value!r}" for name, value in self._items.items() if not name.startswith("_"))
        return f"Namespace({', '.join(shown)})"


class ValueProxy(Proxy):
    """One shared object of any type that pickles."""

    _typeid = "Value"

    def __init__(self, items: _list.List) -> None:
        self._items = items  # its type code, which decides nothing, and the value

    def get(self) -> Any:
        return self._items[1]

    def set(self, value: Any) -> None:
        self._items[1] = value

    value = property(get, set)

    def __reduce__(self) -> Any:
        return type(self), (self._items,)

    def _getvalue(self) -> Any:
        return managers.Value(*self._items[:])  # type: ignore[attr-defined]

    def _text(self) -> str:
        typecode, value = self._items[:]
        return f"Value({typecode!r}, {value!r})"


class ArrayProxy(Proxy, _array.SynchronizedArray):
    """A shared array.array of fixed length."""

    _typeid = "Array"

    def __getitem__(self, i: Any) -> Any:
        if not isinstance(i, slice):
            return self.get_item(i)
        return self._getvalue()[i]

    def __setitem__(self, i: Any, value: Any) -> None:
        if isinstance(i, slice):
            if not isinstance(value, array.array):
                raise TypeError(f"can only assign array (not {type(value).__name__!r}) to array slice")
            if value.typecode != self.typecode:
                raise TypeError(f"bad argument type for built-in operation: an array of {value.typecode!r}")
            self.write_slice(i, value)
        else:
            self.set_item(i, array.array(self.typecode, [value])[0])

    def _getvalue(self) -> Any:
        return array.array(self.typecode, self.read_bytes())


@_core.own_methods
class AcquirerProxy(Proxy, _core.Mutex):
    """A shared lock with the manners of threading.Lock, which any process may release."""

    _typeid = "Lock"

    def acquire(self, blocking: Any = True, timeout: Any = None) -> bool:
        return super().acquire(blocking, _threading_timeout(blocking, timeout))

    def release(self) -> None:
        try:
            super().release()
        except ValueError:
            raise RuntimeError("release unlocked lock") from None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *args: object) -> None:
        self.release()

    def locked(self) -> bool:
        return self._state() is not None

    def _text(self) -> str:
        return f"<{'locked' if self._state() else 'unlocked'} lock of fastshm at {id(self):#x}>"


@_core.own_methods
class RecursiveAcquirerProxy(Proxy, _core.RecursiveLock):
    """A shared lock with the manners of threading.RLock."""

    _typeid = "RLock"

    def acquire(self, blocking: Any = True, timeout: Any = None) -> bool:
        return super().acquire(blocking, _threading_timeout(blocking, timeout))

    def release(self) -> None:
        try:
            super().release()
        except AssertionError:
            raise RuntimeError("cannot release un-acquired lock") from None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *args: object) -> None:
        self.release()

    def locked(self) -> bool:
        return self._state()[0] is not None

    def _text(self) -> str:
        holder, count = self._state()
        return f"<{'locked' if holder else 'unlocked'} recursive lock of fastshm, count={count}, at {id(self):#x}>"


class _Permits:
    """What the two semaphores have in common."""

    __slots__ = ()

    def locked(self) -> bool:
        return self.get_value() == 0  # type: ignore[attr-defined,no-any-return]

    def acquire(self, blocking: Any = True, timeout: Any = None) -> bool:
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        return super().acquire(blocking, timeout)  # type: ignore[misc,no-any-return]

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *args: object) -> None:
        self.release()  # type: ignore[attr-defined]


@_core.own_methods
class SemaphoreProxy(Proxy, _Permits, _sync.Semaphore):
    """A shared semaphore with the manners of threading.Semaphore."""

    _typeid = "Semaphore"

    def _text(self) -> str:
        return f"<Semaphore of fastshm at {id(self):#x}: value={self.get_value()}>"


@_core.own_methods
class BoundedSemaphoreProxy(Proxy, _Permits, _sync.BoundedSemaphore):
    """A shared semaphore with the manners of threading.BoundedSemaphore. Permits come back from processes that end."""

    _typeid = "BoundedSemaphore"

    def release(self) -> None:
        try:
            super().release()
        except ValueError:
            raise ValueError("Semaphore released too many times") from None

    def _text(self) -> str:
        return f"<BoundedSemaphore of fastshm at {id(self):#x}: value={self.get_value()}/{self._bound}>"


for _class in (RecursiveAcquirerProxy, SemaphoreProxy, BoundedSemaphoreProxy):
    _class.__name__ = "AcquirerProxy"  # as the stdlib calls all of them


class EventProxy(Proxy, _sync.Event):
    """A shared flag to wait for."""

    _typeid = "Event"

    def _text(self) -> str:
        return f"<Event of fastshm at {id(self):#x}: {'set' if self.is_set() else 'unset'}>"


class ConditionProxy(Proxy, synchronize.Condition):
    """A shared condition with the manners of threading.Condition."""

    _typeid = "Condition"

    def __init__(self, lock: _core.Mutex | _core.RecursiveLock, waiters: _sync.Waiters) -> None:
        self.__setstate__((lock, waiters))

    def __reduce__(self) -> Any:
        return type(self), (self._lock, self._waiters)

    def _count_held(self, doing: str) -> Any:
        """How often this thread holds the lock; a plain one belongs to whoever holds it."""
        state = self._lock._state()
        holder, count = state if isinstance(state, tuple) else (state and "mine", 1)
        if holder != "mine":
            raise RuntimeError(f"cannot {doing} on un-acquired lock")
        return count

    def wait(self, timeout: float | None = None) -> bool:
        return self._waiters.wait(self._lock, self._count_held("wait"), timeout)

    def notify(self, n: int = 1) -> None:
        self._count_held("notify")
        self._waiters.notify(n)

    def _text(self) -> str:
        return f"<Condition of fastshm over {self._lock}, {self._waiters.count()} waiting>"


class BarrierProxy(Proxy, synchronize.Barrier):
    """A shared barrier. The action is run by the last process to come."""

    _typeid = "Barrier"

    def __init__(self, parties: int, action: Any, timeout: float | None, gate: _core.Handle) -> None:
        _sync.Barrier.__init__(self, parties, gate=gate)
        self._action, self._timeout = action, timeout

    def _text(self) -> str:
        return synchronize.Barrier.__repr__(self)


def _threading_timeout(blocking: Any, timeout: Any) -> Any:
    if timeout is None or timeout == -1:
        return None
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    return timeout


_codec.set_proxy_classes(DictProxy, ListProxy)


# --- live nesting -------------------------------------------------------------------------------------------------------------


def _live(value: Any, beside: _core.Handle | None, done: builtins.dict[int, Any] | None = None) -> Any:
    """The live container for a plain dict or list, and for those in it; what contains itself does so as a live one, too."""
    done = {} if done is None else done
    new = done.get(id(value))
    if new is not None:
        return new
    if type(value) is builtins.dict:
        done[id(value)] = table = _dict.Dict.make(DictProxy, beside, True)
        table.update({key: _live(item, table, done) for key, item in value.items()})
        return table
    if type(value) is builtins.list:
        done[id(value)] = items = _list.List.make(ListProxy, beside, True)
        items.extend([_live(item, items, done) for item in value])
        return items
    return value


def _plain_all_through(value: Any, done: builtins.dict[Any, Any]) -> Any:
    if not isinstance(value, (DictProxy, ListProxy)):
        return value
    known = done.get(value._address)
    if known is not None:
        return known
    if isinstance(value, DictProxy):
        done[value._address] = plain = value.copy()
        for key, item in plain.items():
            plain[key] = _plain_all_through(item, done)
        return plain
    done[value._address] = items = value[:]
    items[:] = [_plain_all_through(item, done) for item in items]
    return items


_containers.set_live_maker(_live)
_dict.set_deep_copier(lambda d: _plain_all_through(d, {}))


# --- making them --------------------------------------------------------------------------------------------------------------


def _new_dict(beside: _core.Handle | None, args: Any, kwargs: Any, live: bool = False) -> DictProxy:
    if len(args) > 1:
        raise TypeError(f"dict expected at most 1 argument, got {len(args)}")
    if live:
        return _live(builtins.dict(*args, **kwargs), beside)  # type: ignore[no-any-return]
    new = _dict.Dict.make(DictProxy, beside)
    new.update(*args, **kwargs)
    return new


def _new_list(beside: _core.Handle | None, sequence: Any, live: bool = False) -> ListProxy:
    if live:
        return _live(builtins.list(sequence), beside)  # type: ignore[no-any-return]
    new = _list.List.make(ListProxy, beside)
    new.extend(sequence)
    return new


def _new_set(beside: _core.Handle | None, iterable: Any) -> SetProxy:
    new = SetProxy(_dict.Dict.make(_dict.Dict, beside))
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
        return _live(value, None)
    raise TypeError(f"a dict or list expected, not {type(value).__name__!r}")


def set(iterable: Any = (), /) -> SetProxy:
    """A new shared set of the items of `iterable`. It lives as long as somebody has a handle on it."""
    return _new_set(None, iterable)


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("semaphore initial value must be >= 0")
    return value


class SyncManager:
    """Makes shared objects that go out of service, in all processes, when it is shut down."""

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
        self._server_options = (address, authkey, serializer, ctx)
        self._shutdown_timeout = shutdown_timeout
        self._gate: _core.Gate | None = None
        self._state = "initial"
        self._live = live
        self._initializer: Any = (None, ())
        self._server: _ServedManager | None = None

    def start(self, initializer: Any = None, initargs: Any = ()) -> None:
        """Open for service. The initializer runs in the stdlib's server process, if that is ever needed."""
        if self._state == "started":
            raise ProcessError("Already started server")
        if self._state == "shut down":
            raise ProcessError("Manager has shut down")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._initializer = (initializer, initargs)
        self._begin()
        self._state = "started"

    def _begin(self) -> None:
        self._gate = _core.Gate()

    def join(self, timeout: float | None = None) -> None:
        if self._server is not None:
            self._server.join(timeout)

    @property
    def shutdown(self) -> Any:
        """Ends the service of all objects made here; may be called again. There is no such method before start()."""
        if self._state == "initial":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute 'shutdown'")
        return self._shut_down

    def _shut_down(self) -> None:
        if self._gate is not None:
            self._gate.close()
        self._state = "shut down"
        if self._server is not None:
            self._server.shutdown()

    def __enter__(self) -> SyncManager:
        if self._state == "initial":
            self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._shut_down()

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__!r} objects do not pickle; their proxies do")

    def _open(self) -> _core.Handle:
        """Beside what new objects are made."""
        assert self._state == "started" and self._gate is not None, "server not yet started"  # noqa: PT018
        return self._gate

    def dict(self, *args: Any, **kwargs: Any) -> DictProxy:
        """A shared dict of what the builtin dict takes."""
        return _new_dict(self._open(), args, kwargs, self._live)

    def list(self, sequence: Any = (), /) -> ListProxy:
        """A shared list of the items of `sequence`."""
        return _new_list(self._open(), sequence, self._live)

    def set(self, iterable: Any = (), /) -> SetProxy:
        """A shared set of the items of `iterable`."""
        return _new_set(self._open(), iterable)

    def Namespace(self, /, **kwargs: Any) -> NamespaceProxy:
        """Shared attributes."""
        return NamespaceProxy(_new_dict(self._open(), (), kwargs))

    def Value(self, typecode: Any, value: Any, lock: Any = True) -> ValueProxy:
        """One shared object of any type; the type code decides nothing, as in the stdlib."""
        return ValueProxy(_new_list(self._open(), (typecode, value)))

    def Array(self, typecode: str, sequence: Any, lock: Any = True) -> ArrayProxy:
        """A shared array.array."""
        gate, items = self._open(), array.array(typecode, sequence)
        return _array.SynchronizedArray.make(ArrayProxy, items.typecode, 0, gate=gate, values=items)

    def Lock(self) -> AcquirerProxy:
        return AcquirerProxy(gate=self._open())

    def RLock(self) -> RecursiveAcquirerProxy:
        return RecursiveAcquirerProxy(gate=self._open())

    def _stdlib(self) -> Any:
        """The stdlib's own manager, started at its first use."""
        self._open()
        if self._server is None:
            self._server = _ServedManager(*self._server_options, shutdown_timeout=self._shutdown_timeout)
            self._server.start(*self._initializer)
        return self._server

    def Event(self) -> EventProxy:
        return EventProxy(gate=self._open())

    def Condition(self, lock: Any = None) -> ConditionProxy:
        """A condition over a lock of this or another manager of fastshm, or over a new RLock."""
        gate = self._open()
        if lock is not None and not isinstance(lock, (_core.Mutex, _core.RecursiveLock)):
            raise TypeError(f"a condition needs a lock of fastshm, not {type(lock).__name__!r}")
        return ConditionProxy(RecursiveAcquirerProxy(gate=gate) if lock is None else lock, _sync.Waiters(gate=gate))

    def Semaphore(self, value: int = 1) -> SemaphoreProxy:
        return SemaphoreProxy(_not_negative(value), gate=self._open())

    def BoundedSemaphore(self, value: int = 1) -> BoundedSemaphoreProxy:
        return BoundedSemaphoreProxy(_not_negative(value), gate=self._open())

    def Barrier(self, parties: int, action: Any = None, timeout: float | None = None) -> BarrierProxy:
        threading.Barrier(parties)  # which numbers there may be depends on the version of Python
        return BarrierProxy(parties, action, timeout, self._open())

    def Queue(self, *args: Any, **kwargs: Any) -> Any:
        return self._stdlib().Queue(*args, **kwargs)

    def JoinableQueue(self, *args: Any, **kwargs: Any) -> Any:
        return self._stdlib().JoinableQueue(*args, **kwargs)

    def Pool(self, *args: Any, **kwargs: Any) -> Any:
        return self._stdlib().Pool(*args, **kwargs)
