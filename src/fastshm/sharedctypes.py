"""Typed shared memory, with the names and manners of multiprocessing.sharedctypes.

Values and arrays of one simple type are the core's own cells; structures, unions and nested arrays are ctypes objects over a
core array, with the stdlib's wrappers around them.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from multiprocessing import sharedctypes as _sharedctypes
from multiprocessing.reduction import ForkingPickler
from typing import Any

from fastshm import _array, _core, _typed, heap, ndarrays, synchronize  # noqa: F401  (heap and synchronize give the core its hooks)
from fastshm._array import SynchronizedArray
from fastshm._typed import Synchronized
from fastshm.arrays import SynchronizedString, codes_of_types, object_of, set_reducer, types

_stdlib: Any = _sharedctypes  # its types are not in the stubs

__all__ = ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"]

typecode_to_type: dict[str, Any] = dict(_stdlib.typecode_to_type)
_codes = {**{code: codes_of_types[kind] for code, kind in typecode_to_type.items()}, **codes_of_types}


def _code_of(typecode_or_type: Any) -> str | None:
    """The core's code for a simple type, None for any other ctypes type."""
    try:
        return _codes.get(typecode_or_type)
    except TypeError:
        return None


def _type_of(typecode_or_type: Any) -> Any:
    kind = typecode_to_type.get(typecode_or_type, typecode_or_type)
    try:
        ctypes.sizeof(kind)
    except TypeError:
        raise TypeError(
            f"this type has no size: {typecode_or_type!r}; give a type code ('i', 'q', 'd', ...) or a ctypes type "
            "(ctypes.c_double), for an Array also a type of NumPy (numpy.float64, numpy.dtype('f8'))"
        ) from None
    return kind


# --- raw ----------------------------------------------------------------------------------------------------------------------


def _new_raw(kind: Any) -> Any:
    return _raw_over(_array.Items._make(_array.Items, "\0", ctypes.sizeof(kind) or 1, 1), kind)


def _raw_over(items: _array.Items, kind: Any) -> Any:
    raw = kind.from_buffer(items)
    raw._wrapper = items  # the stdlib's name for what holds the memory, so that its reducers can be used on ours
    raw.__reduce_ex__ = _Reducer(raw)
    ForkingPickler.register(kind, _reduce_raw)
    return raw


class _Reducer:
    """Picklers ask an object's own `__reduce_ex__` first: so it is no copy that arrives, whatever the pickler's table says."""

    __slots__ = ("raw",)

    def __init__(self, raw: Any) -> None:
        self.raw = weakref.ref(raw)

    def __call__(self, protocol: int) -> Any:
        return _reduce_raw(self.raw())


def _reduce_raw(raw: Any) -> Any:
    items = vars(raw).get("_wrapper")
    if not isinstance(items, _array.Items):
        own = vars(raw).get("__reduce_ex__")
        return own(2) if own else _stdlib.reduce_ctype(raw)
    if isinstance(raw, ctypes.Array):
        return _rebuild_raw, (items, raw._type_, raw._length_)
    return _rebuild_raw, (items, type(raw), None)


def _rebuild_raw(items: _array.Items, kind: Any, length: int | None) -> Any:
    return _raw_over(items, kind if length is None else kind * length)


def RawValue(typecode_or_type: Any, *args: Any) -> Any:
    """A ctypes object in shared memory, without a lock. Zero without arguments; else they are the type's own."""
    raw = _new_raw(_type_of(typecode_or_type))
    raw.__init__(*args)
    return raw


def RawArray(typecode_or_type: Any, size_or_initializer: Any) -> Any:
    """A ctypes array in shared memory, without a lock: `size` zero items, or those of a sequence."""
    kind = _type_of(typecode_or_type)
    if isinstance(size_or_initializer, int):
        return _new_raw(kind * size_or_initializer)
    raw = _new_raw(kind * len(size_or_initializer))
    raw.__init__(*size_or_initializer)
    return raw


# --- with a lock --------------------------------------------------------------------------------------------------------------


def Value(typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any = None, beside: _core.Handle | None = None) -> Any:
    """See fastshm.Value. `ctx` decides nothing."""
    return _typed.Value(typecode_or_type, *args, lock=lock, beside=beside)


def _other_value(typecode_or_type: Any, *args: Any, lock: Any, beside: _core.Handle | None) -> Any:
    _refuse_beside(beside)
    return _with_lock(RawValue(typecode_or_type, *args), lock)


def Array(
    typecode_or_type: Any,
    size_or_initializer: Any,
    *,
    lock: Any = True,
    ctx: Any = None,
    capacity: int | None = None,
    shape: Any = None,
    beside: _core.Handle | None = None,
) -> Any:
    """See fastshm.Array. `ctx` decides nothing."""
    if size_or_initializer is None:
        raise TypeError("an array is made of a number of items or of a sequence of them, not of None")
    code = _code_of(typecode_or_type)
    if code is None or shape is not None:
        dtype = ndarrays.dtype_of(typecode_or_type)
        if dtype is None and shape is not None:
            dtype = ndarrays.dtype_of_code(code)
        if dtype is not None:
            if lock is not True and lock is not None:
                raise TypeError("an array of a NumPy type, or with a shape, has the lock that it comes with")
            return ndarrays.new(dtype, size_or_initializer, shape, _room(capacity), beside)
    if code is not None and (lock is True or lock is None):
        kind = SynchronizedString if code == "c" else SynchronizedArray
        if not isinstance(size_or_initializer, int):
            return SynchronizedArray._make(kind, code, 0, 0, beside, size_or_initializer, _room(capacity))
        if abs(size_or_initializer) > sys.maxsize:
            raise OverflowError(f"an array of {size_or_initializer} items cannot be: its length does not fit into 64 bits")
        if size_or_initializer < 0:
            raise ValueError(f"Array length must be >= 0, not {size_or_initializer}")
        return SynchronizedArray._make(kind, code, size_or_initializer, 0, beside, None, _room(capacity))
    if capacity is not None:
        raise TypeError("capacity: only arrays of a simple type, with the lock that they come with, can grow")
    _refuse_beside(beside)
    return _with_lock(RawArray(typecode_or_type, size_or_initializer), lock)


def _refuse_beside(beside: _core.Handle | None) -> None:
    if beside is not None:
        raise TypeError(
            "beside: only values of a simple type, and arrays of one or of a NumPy type, with the lock that they come with, "
            "are made beside others"
        )


def _room(capacity: int | None) -> int:
    if capacity is not None and not hasattr(type(capacity), "__index__"):
        raise TypeError(f"capacity is a number of items, not a {type(capacity).__name__!r}")
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity must be >= 0, not {capacity}")
    return capacity or 0


def _with_lock(raw: Any, lock: Any) -> Any:
    if lock is False:
        return raw
    if lock is True or lock is None:
        return synchronized(raw)
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return synchronized(raw, lock)


def copy(obj: Any) -> Any:
    """An independent shared object of the same type and contents, without a lock."""
    new = _new_raw(type(obj))
    ctypes.pointer(new)[0] = obj
    return new


def synchronized(obj: Any, lock: Any = None, ctx: Any = None) -> Any:
    """A wrapper that takes `lock` (or a new recursive one) around each access to a ctypes object."""
    assert not isinstance(obj, _locked_kinds), "object already synchronized"
    if lock is None:
        items = getattr(obj, "_wrapper", None)
        lock = items.get_lock() if isinstance(items, _array.Items) else synchronize.RLock()
    if isinstance(obj, ctypes._SimpleCData):
        return SynchronizedValue(obj, lock)
    if isinstance(obj, ctypes.Array):
        return SynchronizedCharacters(obj, lock) if obj._type_ is ctypes.c_char else SynchronizedItems(obj, lock)
    kind = type(obj)
    if kind not in _struct_classes:
        fields = [field[0] for base in reversed(kind.__mro__) for field in vars(base).get("_fields_", ())]
        _struct_classes[kind] = type(
            f"Synchronized{kind.__name__}", (SynchronizedBase,), {name: _field(name) for name in fields}
        )
    return _struct_classes[kind](obj, lock)


set_reducer(_reduce_raw)
_typed.set_makers(_codes, _other_value)
_array.set_makers(_codes, Array)
_typed.set_object_hook(lambda value: object_of(value, types[value.typecode]))


# --- wrappers around ctypes objects -------------------------------------------------------------------------------------------


class SynchronizedBase:
    """A ctypes object and the lock that is taken around each access."""

    def __init__(self, obj: Any, lock: Any = None, ctx: Any = None) -> None:
        self._obj = obj
        self._lock = lock or synchronize.RLock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    __enter__: Any = synchronize.OfItsLock("__enter__")
    __exit__: Any = synchronize.OfItsLock("__exit__")

    def __reduce__(self) -> Any:
        return _rebuild_synchronized, (*_reduce_raw(self._obj)[1], self._lock)

    def get_obj(self) -> Any:
        return self._obj

    def get_lock(self) -> Any:
        return self._lock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"


def _missing(wrapper: SynchronizedBase, kind: type, name: str) -> AttributeError:
    why = f": {name} is of those of a simple type with the lock that they come with (lock=True)" if hasattr(kind, name) else ""
    return AttributeError(f"{type(wrapper).__name__!r} object has no attribute {name!r}{why}", name=name, obj=wrapper)


def _rebuild_synchronized(items: _array.Items, kind: Any, length: int | None, lock: Any) -> Any:
    return synchronized(_rebuild_raw(items, kind, length), lock)


def _field(name: str) -> property:
    def get(self: SynchronizedBase) -> Any:
        with self._lock:
            return getattr(self._obj, name)

    def put(self: SynchronizedBase, value: Any) -> None:
        with self._lock:
            setattr(self._obj, name, value)

    return property(get, put)


class SynchronizedValue(SynchronizedBase):
    """A simple value behind a lock that the caller chose."""

    value = _field("value")

    def __getattr__(self, name: str) -> Any:
        raise _missing(self, Synchronized, name)


class SynchronizedItems(SynchronizedBase):
    """An array of structures or the like, or one behind a lock that the caller chose."""

    def __getattr__(self, name: str) -> Any:
        raise _missing(self, SynchronizedArray, name)

    def __len__(self) -> int:
        return len(self._obj)

    def __getitem__(self, i: Any) -> Any:
        with self._lock:
            return self._obj[i]

    def __setitem__(self, i: Any, value: Any) -> None:
        with self._lock:
            self._obj[i] = value

    def __getslice__(self, start: int, stop: int) -> Any:
        return self[start:stop]

    def __setslice__(self, start: int, stop: int, values: Any) -> None:
        self[start:stop] = values


class SynchronizedCharacters(SynchronizedItems):
    value = _field("value")
    raw = _field("raw")


SynchronizedValue.__name__ = SynchronizedValue.__qualname__ = "Synchronized"
SynchronizedItems.__name__ = SynchronizedItems.__qualname__ = "SynchronizedArray"
SynchronizedCharacters.__name__ = SynchronizedCharacters.__qualname__ = "SynchronizedString"

_struct_classes: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_locked_kinds = (SynchronizedBase, Synchronized, SynchronizedArray)
