"""What a manager makes: handles on shared memory with the names and manners of the stdlib's proxies.

They are found under fastshm.managers.
"""

from __future__ import annotations

import array
import builtins
import types
from multiprocessing import managers as _managers
from typing import Any

from fastshm import _array, _codec, _containers, _core, _dict, _list, _locks, _set, _sync, heap, sharedctypes, synchronize  # noqa: F401  (hooks)

# --- proxies ------------------------------------------------------------------------------------------------------------------


managers: Any = _managers  # most of what is asked of it is not in the stubs


class Proxy:
    """What all proxies have in common. They act on the shared memory themselves, so a call is just a call."""

    __slots__ = ()
    _typeid = "object"
    _served_as: Any = managers.BaseProxy  # the stdlib's class for such objects when they are in a server
    _more: tuple[str, ...] = ()  # beyond what the stdlib's proxies expose in this version of Python

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The stdlib's, for isinstance(): its classes know no virtual subclasses."""
        return type(self)._served_as

    def __dir__(self) -> Any:
        return dir(type(self))

    def _getvalue(self) -> Any:
        """What it stands for, as a plain copy; for a lock, the proxy itself."""
        return self

    def _callmethod(self, methodname: str, args: Any = (), kwds: Any = {}) -> Any:  # noqa: B006  (the stdlib's signature)
        if methodname == "#GETVALUE":
            return self._getvalue()
        if methodname in ("__str__", "__repr__"):
            return self._text()
        exposed = (*self._served_as._exposed_, *self._more)
        if methodname not in exposed:
            raise managers.RemoteError(f"AttributeError: method {methodname!r} of {self!r} is not in exposed={exposed!r}\n")
        result = self._call(methodname, args, kwds)
        return self._getvalue() if result is self else result

    def _call(self, methodname: str, args: Any, kwds: Any) -> Any:
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
    _served_as = managers.DictProxy
    _more = ("__ior__", "__or__", "__reversed__", "__ror__", "fromkeys")
    __class_getitem__: Any = classmethod(types.GenericAlias)

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
    _served_as = managers.ListProxy
    _more = ("__iadd__", "clear", "copy")
    __class_getitem__: Any = classmethod(types.GenericAlias)

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


IN_PLACE = ("__iand__", "__ior__", "__isub__", "__ixor__")
OF_SETS = (
    *("__and__", "__class_getitem__", "__contains__", *IN_PLACE, "__iter__", "__len__", "__or__", "__rand__", "__ror__"),
    *(
        "__rsub__",
        "__rxor__",
        "__sub__",
        "__xor__",
        "__ge__",
        "__gt__",
        "__le__",
        "__lt__",
        "add",
        "clear",
        "copy",
        "difference",
    ),
    *("difference_update", "discard", "intersection", "intersection_update", "isdisjoint", "issubset", "issuperset", "pop"),
    *("remove", "symmetric_difference", "symmetric_difference_update", "union", "update"),
)


def _in_place(name: str) -> Any:
    def method(self: Any, value: Any) -> Any:
        self._callmethod(name, (value,))
        return self

    return method


class _ServedSetProxy(managers.MakeProxyType("BaseSetProxy", OF_SETS)):  # type: ignore[misc]
    """What Python 3.14 has as managers.SetProxy."""

    _method_to_typeid_: Any = {"__iter__": "Iterator"}  # noqa: RUF012  (the stdlib's)
    __iand__, __ior__, __isub__, __ixor__ = map(_in_place, IN_PLACE)
    __class_getitem__: Any = classmethod(types.GenericAlias)


_ServedSetProxy.__name__ = "SetProxy"
ServedSetProxy = getattr(managers, "SetProxy", _ServedSetProxy)


def _over_copies(name: str) -> Any:
    """A method of the builtin set."""

    def method(self: Any, *others: Any) -> Any:
        return getattr(self.copy(), name)(*map(_plain, others))

    method.__name__ = name
    return method


class SetProxy(Proxy, _set.Set):
    """A shared set: see Manager().set and fastshm.set.

    Each operation is one change, also one of several items (`|=`, `-=`, `&=`, `^=` and their methods), and also when its
    process is killed. What is decided by the code of items is decided on again when the set has changed meanwhile.
    """

    _typeid = "set"
    _served_as = ServedSetProxy
    __class_getitem__: Any = classmethod(types.GenericAlias)

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
        others = [other if isinstance(other, _READ_AGAIN) else builtins.list(other) for other in others]

        def choose(items: Any) -> Any:
            old = builtins.set(items)
            new = old.copy()
            getattr(new, name)(*map(_plain, others))  # in place, as a builtin's: which side is asked whether keys are equal
            gone, come = old - new, new - old
            if not gone and not come:
                return None
            if all(item in self.items for item in gone):
                return gone, builtins.dict.fromkeys(come)
            return None, builtins.dict.fromkeys(new)  # NaNs, which cannot be found

        self.items._exchange_keys(choose)

    def intersection_update(self, *others: Any) -> None:
        self._become("intersection_update", others)

    def difference_update(self, *others: Any) -> None:
        self._become("difference_update", others)

    def symmetric_difference_update(self, other: Any) -> None:
        self._become("symmetric_difference_update", (other,))

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(_plain(_set_only(other)))
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
    return other


_READ_AGAIN = (builtins.set, frozenset, builtins.dict, SetProxy, DictProxy)  # others may be iterators, which end


class NamespaceProxy(Proxy):
    """Shared attributes. Names that begin with an underscore belong to this proxy alone."""

    _typeid = "Namespace"
    _served_as = managers.NamespaceProxy

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

    def _call(self, methodname: str, args: Any, kwds: Any) -> Any:
        """Here all names are those of the namespace, as in a server."""
        result = getattr(self._getvalue(), methodname)(*args, **kwds)  # raises what there is to raise
        if methodname == "__setattr__":
            self._items[args[0]] = args[1]
        elif methodname == "__delattr__" and self._items.pop(args[0], self) is self:
            raise AttributeError(f"'Namespace' object has no attribute {args[0]!r}")
        return result

    def _text(self) -> str:
        shown = sorted(f"{name}={value!r}" for name, value in self._items.items() if not name.startswith("_"))
        return f"Namespace({', '.join(shown)})"


class ValueProxy(Proxy):
    """One shared object of any type that pickles."""

    _typeid = "Value"
    _served_as = managers.ValueProxy
    __class_getitem__: Any = classmethod(types.GenericAlias)

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
        return managers.Value(*self._items[:])

    def _text(self) -> str:
        typecode, value = self._items[:]
        return f"Value({typecode!r}, {value!r})"


class ArrayProxy(Proxy, _array.SynchronizedArray):
    """A shared array.array of fixed length."""

    _typeid = "Array"
    _served_as = managers.ArrayProxy

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return self._getvalue()[i]
        try:
            return self._get_item(i)
        except IndexError:
            raise IndexError("array index out of range") from None

    def __setitem__(self, i: Any, value: Any) -> None:
        if isinstance(i, slice):
            if not isinstance(value, array.array):
                raise TypeError(f"can only assign array (not {type(value).__name__!r}) to array slice")
            if value.typecode != self.typecode:
                raise TypeError(f"bad argument type for built-in operation: an array of {value.typecode!r}")
            self._write_slice(i, value)
        else:
            item = array.array(self.typecode, [value])[0]
            try:
                self._set_item(i, item)
            except IndexError:
                raise IndexError("array assignment index out of range") from None

    def _getvalue(self) -> Any:
        return array.array(self.typecode, self._read_bytes())


class _ThreadingLock:
    """What the two locks have in common: threading's arguments."""

    __slots__ = ()

    __enter__: Any = _locks.Pass(0)

    def acquire(self, blocking: Any = True, timeout: Any = None) -> bool:
        return super().acquire(blocking, _threading_timeout(blocking, timeout))  # type: ignore[misc,no-any-return]


@_core.own_methods
class AcquirerProxy(Proxy, _ThreadingLock, _locks.Mutex):
    """A shared lock with the manners of threading.Lock, which any process may release."""

    _typeid = "Lock"
    _served_as = managers.AcquirerProxy
    _more = ("locked",)

    __exit__: Any = _locks.Pass(1, lambda: RuntimeError("release unlocked lock"))

    def release(self) -> None:
        try:
            super().release()
        except ValueError:
            raise RuntimeError("release unlocked lock") from None

    def locked(self) -> bool:
        return self._state() is not None

    def _text(self) -> str:
        return f"<{'locked' if self._state() else 'unlocked'} lock of fastshm at {id(self):#x}>"


@_core.own_methods
class RecursiveAcquirerProxy(Proxy, _ThreadingLock, _locks.RecursiveLock):
    """A shared lock with the manners of threading.RLock."""

    _typeid = "RLock"
    _served_as = managers.AcquirerProxy
    _more = ("locked",)

    __exit__: Any = _locks.Pass(1, lambda: RuntimeError("cannot release un-acquired lock"))

    def release(self) -> None:
        try:
            super().release()
        except AssertionError:
            raise RuntimeError("cannot release un-acquired lock") from None

    def locked(self) -> bool:
        return self._state()[0] is not None

    def _text(self) -> str:
        holder, count = self._state()
        return f"<{'locked' if holder else 'unlocked'} recursive lock of fastshm, count={count}, at {id(self):#x}>"


class _Permits:
    """What the two semaphores have in common."""

    __slots__ = ()

    __enter__: Any = _locks.Pass(0)
    __exit__: Any = _locks.Pass(1)

    def locked(self) -> bool:
        return self.get_value() == 0  # type: ignore[attr-defined,no-any-return]

    def acquire(self, blocking: Any = True, timeout: Any = None) -> bool:
        if blocking:
            _refuse_nan(timeout)
            return super().acquire(True, timeout)  # type: ignore[misc,no-any-return]
        if timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        return super().acquire(False)  # type: ignore[misc,no-any-return]


@_core.own_methods
class SemaphoreProxy(Proxy, _Permits, _sync.Semaphore):
    """A shared semaphore with the manners of threading.Semaphore."""

    _typeid = "Semaphore"
    _served_as = managers.AcquirerProxy
    _more = ("locked",)

    def _text(self) -> str:
        return f"<Semaphore of fastshm at {id(self):#x}: value={self.get_value()}>"


@_core.own_methods
class BoundedSemaphoreProxy(Proxy, _Permits, _sync.BoundedSemaphore):
    """A shared semaphore with the manners of threading.BoundedSemaphore. Permits come back from processes that end."""

    _typeid = "BoundedSemaphore"
    _served_as = managers.AcquirerProxy
    _more = ("locked",)

    __exit__: Any = _locks.Pass(1, lambda: ValueError("Semaphore released too many times"))

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
    _served_as = managers.EventProxy

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(_no_nan(timeout))

    def _text(self) -> str:
        return f"<Event of fastshm at {id(self):#x}: {'set' if self.is_set() else 'unset'}>"


class ConditionProxy(Proxy, synchronize.Condition):
    """A shared condition with the manners of threading.Condition."""

    _typeid = "Condition"
    _served_as = managers.ConditionProxy
    _more = ("locked",)

    def __init__(self, lock: _locks.Mutex | _locks.RecursiveLock, waiters: _sync.Waiters) -> None:
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
        return self._waiters.wait(self._lock, self._count_held("wait"), _no_nan(timeout))

    def wait_for(self, predicate: Any, timeout: float | None = None) -> Any:
        _refuse_nan(timeout)
        return super().wait_for(predicate, timeout)

    def notify(self, n: int = 1) -> None:
        self._count_held("notify")
        self._waiters.notify(n)

    def _text(self) -> str:
        return f"<Condition of fastshm over {self._lock}, {self._waiters.count()} waiting>"


class BarrierProxy(Proxy, synchronize.Barrier):
    """A shared barrier. The action is run by the last process to come."""

    _typeid = "Barrier"
    _served_as = managers.BarrierProxy

    def __init__(self, parties: int, action: Any, timeout: float | None, gate: _core.Handle) -> None:
        _sync.Barrier.__init__(self, parties, gate=gate)
        self._action, self._timeout = action, timeout

    def wait(self, timeout: float | None = None) -> int:
        _refuse_nan(self._timeout if timeout is None else timeout)
        return super().wait(timeout)

    def _text(self) -> str:
        return synchronize.Barrier.__repr__(self)


def _threading_timeout(blocking: Any, timeout: Any) -> Any:
    if timeout is None or timeout == -1:
        return None
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    _refuse_nan(timeout)
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    return timeout


def _refuse_nan(timeout: Any) -> None:
    if timeout is not None and timeout != timeout:
        raise ValueError("Invalid value NaN (not a number)")


def _no_nan(timeout: Any) -> Any:
    """threading's events and conditions do not wait at all for what is not greater than 0."""
    return 0 if timeout is not None and timeout != timeout else timeout


_codec.set_proxy_classes(DictProxy, ListProxy)


def served_class(proxytype: Any) -> Any:
    """The stdlib's class for one of these, which a program may register for types of its own: those are in a server."""
    if not (isinstance(proxytype, type) and issubclass(proxytype, Proxy)):
        return proxytype
    if "_served_as" not in vars(proxytype):
        raise TypeError(
            f"{proxytype.__name__!r} cannot stand for what is in a server: derive it from "
            f"multiprocessing.managers.{proxytype._served_as.__name__}, not from fastshm's"
        )
    return proxytype._served_as


# --- live nesting -------------------------------------------------------------------------------------------------------------


def live(value: Any, beside: _core.Handle | None, done: builtins.dict[int, Any] | None = None) -> Any:
    """The live container for a plain dict or list, and for those in it; what contains itself does so as a live one, too."""
    done = {} if done is None else done
    new = done.get(id(value))
    if new is not None:
        return new
    if type(value) is builtins.dict:
        done[id(value)] = table = _dict.Dict._make(DictProxy, beside, True)
        shared = {}  # no comprehension, no items(): without memory, CPython loses what cells hold, and ends in an iterator's
        for key in value:
            shared[key] = live(value[key], table, done)
        table.update(shared)
        return table
    if type(value) is builtins.list:
        done[id(value)] = items = _list.List._make(ListProxy, beside, True)
        parts = []
        for item in value:
            parts.append(live(item, items, done))
        items.extend(parts)
        return items
    return value


def _plain_all_through(value: Any, done: builtins.dict[Any, Any]) -> Any:
    if not isinstance(value, (DictProxy, ListProxy)):
        plain = getattr(type(value), "_getvalue", None)
        return plain(value) if plain else value  # locks stand for themselves
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


_containers.set_live_maker(live)
_dict.set_deep_copier(lambda d: _plain_all_through(d, {}))


for _proxy_class in (
    *(DictProxy, ListProxy, SetProxy, NamespaceProxy, ValueProxy, ArrayProxy, AcquirerProxy, RecursiveAcquirerProxy),
    *(SemaphoreProxy, BoundedSemaphoreProxy, EventProxy, ConditionProxy, BarrierProxy),
):
    _proxy_class.__module__ = "fastshm.managers"
