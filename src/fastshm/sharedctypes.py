"""Typed shared memory, with the names and manners of multiprocessing.sharedctypes.

Values and arrays of one simple type are the core's own cells; structures, unions and nested arrays are ctypes objects over a
core array, with the stdlib's wrappers around them.
"""

from __future__ import annotations

import ctypes
import weakref
from multiprocessing import sharedctypes as _sharedctypes
from multiprocessing.reduction import ForkingPickler
from typing import Any

from fastshm import _typed, heap, synchronize  # noqa: F401  (heap and synchronize give the core its hooks)

_stdlib: Any = _sharedctypes  # its types are not in the stubs

__all__ = ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"]

typecode_to_type: dict[str, Any] = dict(_stdlib.typecode_to_type)
_simple = {
    getattr(ctypes, name): getattr(ctypes, name)._type_
    for name in (
        "c_bool", "c_byte", "c_char", "c_double", "c_float", "c_int", "c_long", "c_longlong", "c_short", "c_ubyte", "c_uint",
        "c_ulong", "c_ulonglong", "c_ushort", "c_wchar",
    )
}  # fmt: skip
_codes = {**{code: _simple[kind] for code, kind in typecode_to_type.items()}, **_simple}
_types = {code: kind for kind, code in _simple.items()}


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
        raise TypeError(f"this type has no size: {typecode_or_type!r} is neither a type code nor a ctypes type") from None
    return kind


# --- raw ----------------------------------------------------------------------------------------------------------------------


def _new_raw(kind: Any) -> Any:
    return _raw_over(_typed.Items.make(_typed.Items, "\0", 1, ctypes.sizeof(kind) or 1), kind)


def _raw_over(items: _typed.Items, kind: Any) -> Any:
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
    if not isinstance(items, _typed.Items):
        own = vars(raw).get("__reduce_ex__")
        return own(2) if own else _stdlib.reduce_ctype(raw)
    if isinstance(raw, ctypes.Array):
        return _rebuild_raw, (items, raw._type_, raw._length_)
    return _rebuild_raw, (items, type(raw), None)


def _rebuild_raw(items: _typed.Items, kind: Any, length: int | None) -> Any:
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


def Value(typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any = None) -> Any:
    """A shared value with a recursive lock.

    `.value` is read and written as one step; `v.value += 1` is two, so use `with v.get_lock():`, or `v.fetch_add(1)`, which is
    one. `lock=False` gives the plain ctypes object; another lock object is used as it is. TypeError for a wrong type, with
    nothing changed.
    """
    if lock is True or lock is None:
        code = _code_of(typecode_or_type)
        if code is not None:
            if len(args) > 1:
                raise TypeError(f"a value of type {typecode_or_type!r} takes one initial value, not {len(args)}")
            return _typed.Cell.make(Synchronized, code, args)
    return _with_lock(RawValue(typecode_or_type, *args), lock)


def Array(typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True, ctx: Any = None) -> Any:
    """A shared array with a recursive lock: `size` zero items, or those of a sequence.

    Items and slices are each read and written as one step. `get_obj()` is the ctypes array on the same bytes; NumPy sees them
    through `numpy.asarray(a)`, without a copy.
    """
    if lock is True or lock is None:
        code = _code_of(typecode_or_type)
        if code is not None:
            is_size = isinstance(size_or_initializer, int)
            count = size_or_initializer if is_size else len(size_or_initializer)
            if count < 0:
                raise ValueError(f"Array length must be >= 0, not {count}")
            array = _typed.Items.make(SynchronizedString if code == "c" else SynchronizedArray, code, count, 0)
            if not is_size:
                array.fill(size_or_initializer)
            return array
    return _with_lock(RawArray(typecode_or_type, size_or_initializer), lock)


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
        lock = items.get_lock() if isinstance(items, _typed.Items) else synchronize.RLock()
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


class Synchronized(_typed.Cell):
    """A value of one simple type: see Value. Adds the atomics of C11: load, store, exchange, compare_exchange, fetch_add,
    fetch_sub, and add, which is fetch_add without a result."""

    _object: Any = None

    def get_obj(self) -> Any:
        """The ctypes object on the same bytes; what is done through it does not take the lock."""
        return _object_of(self, _types[self.typecode])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self.get_obj()}>"


class SynchronizedArray(_typed.Items):
    """An array of one simple type: see Array."""

    _object: Any = None

    def fill(self, values: Any) -> None:
        self[:] = values

    def get_obj(self) -> Any:
        """The ctypes array on the same bytes; what is done through it does not take the lock."""
        return _object_of(self, _types[self.typecode] * len(self))

    def __getslice__(self, start: int, stop: int) -> Any:
        return self[start:stop]

    def __setslice__(self, start: int, stop: int, values: Any) -> None:
        self[start:stop] = values

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self.get_obj()}>"


class SynchronizedString(SynchronizedArray):
    """An array of 'c': also `value`, the bytes up to the first NUL, and `raw`, all of them."""

    @property
    def value(self) -> bytes:
        return self.read_bytes().split(b"\0", 1)[0]

    @value.setter
    def value(self, new: bytes) -> None:
        data = self._fitting(new)
        self.write_bytes(0, data + b"\0" if len(data) < len(self) else data)

    @property
    def raw(self) -> bytes:
        return self.read_bytes()

    @raw.setter
    def raw(self, new: bytes) -> None:
        self.write_bytes(0, self._fitting(new))

    def _fitting(self, new: Any) -> bytes:
        if not isinstance(new, bytes):
            raise TypeError(f"bytes expected instead of {type(new).__name__} instance")
        if len(new) > len(self):
            raise ValueError("byte string too long")
        return new


def _object_of(owner: Any, kind: Any) -> Any:
    known = owner._object and owner._object()
    if known is None:
        known = kind.from_buffer(owner)
        known.__reduce_ex__ = lambda protocol: (_get_obj, (owner,))
        ForkingPickler.register(kind, _reduce_raw)
        owner._object = weakref.ref(known)
    return known


def _get_obj(owner: Any) -> Any:
    return owner.get_obj()


# --- wrappers around ctypes objects -------------------------------------------------------------------------------------------


class SynchronizedBase:
    """A ctypes object and the lock that is taken around each access."""

    def __init__(self, obj: Any, lock: Any = None, ctx: Any = None) -> None:
        self._obj = obj
        self._lock = lock or synchronize.RLock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *args: Any) -> Any:
        return self._lock.__exit__(*args)

    def __reduce__(self) -> Any:
        return _rebuild_synchronized, (*_reduce_raw(self._obj)[1], self._lock)

    def get_obj(self) -> Any:
        return self._obj

    def get_lock(self) -> Any:
        return self._lock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"


def _rebuild_synchronized(items: _typed.Items, kind: Any, length: int | None, lock: Any) -> Any:
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


class SynchronizedItems(SynchronizedBase):
    """An array of structures or the like, or one behind a lock that the caller chose."""

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
