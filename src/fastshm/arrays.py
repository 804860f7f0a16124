"""What arrays have of ctypes and NumPy, which is imported when it is first asked for; arrays of characters."""

from __future__ import annotations

import ctypes
import weakref
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any, cast

from fastshm import _array
from fastshm._array import SynchronizedArray

__all__ = ["SynchronizedString"]

codes_of_types: dict[Any, str] = {
    getattr(ctypes, name): getattr(ctypes, name)._type_
    for name in (
        "c_bool", "c_byte", "c_char", "c_double", "c_float", "c_int", "c_long", "c_longlong", "c_short", "c_ubyte", "c_uint",
        "c_ulong", "c_ulonglong", "c_ushort", "c_wchar",
    )
}  # fmt: skip
types = {code: kind for kind, code in codes_of_types.items()}
numpy_codes = {"c": "S1", "u": "U1", "w": "U1"}  # the others are NumPy's, too


class SynchronizedString(SynchronizedArray):
    """An array of 'c': also `value`, the bytes up to the first NUL, and `raw`, all of them."""

    @property
    def value(self) -> bytes:
        return self._read_bytes().split(b"\0", 1)[0]

    @value.setter
    def value(self, new: bytes) -> None:
        data = self._fitting(new)
        self._write_bytes(0, data + b"\0" if len(data) < len(self) else data)

    @property
    def raw(self) -> bytes:
        return self._read_bytes()

    @raw.setter
    def raw(self, new: bytes) -> None:
        self._write_bytes(0, self._fitting(new))

    def _fitting(self, new: Any) -> bytes:
        if not isinstance(new, bytes):
            raise TypeError(f"bytes expected instead of {type(new).__name__} instance")
        if len(new) > len(self):
            raise ValueError("byte string too long")
        return new


def object_of(owner: Any, kind: Any) -> Any:
    """The ctypes object on the bytes of what never moves."""
    known = getattr(owner, "_object", None)
    known = known and known()
    if known is None:
        known = _object_over(owner, kind, partial(_reduced, owner))
        owner._object = weakref.ref(known)
    return known


def array_object(array: SynchronizedArray) -> Any:
    """The ctypes array on the bytes as they now lie."""
    octets = _array.Octets(array)
    view = memoryview(cast(Any, octets))  # one alone: the array may have another length at any time
    kind = array._type() * (view.nbytes // array.itemsize)
    # An array of a NumPy type is more than its reference; of the others, the object must not keep the handle that may keep it.
    reduced = partial(_reduced, array) if hasattr(array, "dtype") else partial(_reduced_array, octets)
    return _object_over(view, kind, reduced)


def _object_over(view: Any, kind: Any, reduced: Any) -> Any:
    new = kind.from_buffer(view)
    new.__reduce_ex__ = reduced  # no inner function: without memory for its cell, CPython loses arguments
    ForkingPickler.register(kind, _reduce)
    return new


_reduce: Any = None


def set_reducer(reduce: Any) -> None:
    """How multiprocessing's pickler is to pickle ctypes objects that may be ours."""
    global _reduce
    _reduce = reduce


def _reduced(owner: Any, protocol: int) -> Any:
    return _get_obj, (owner,)


def _reduced_array(octets: _array.Octets, protocol: int) -> Any:
    return _get_obj, (octets.handle(),)


def _get_obj(owner: Any) -> Any:
    return owner.get_obj()


def viewing(code: int) -> tuple[Any, Any]:
    """NumPy's function that makes views, and its type for a type code."""
    import numpy

    return numpy.frombuffer, numpy.dtype(numpy_codes.get(chr(code), chr(code)))


def ndview(items: SynchronizedArray, own: Any, tail: tuple[int, ...], dtype: Any, shape: Any) -> Any:
    """An ndarray over the items, which are elements of the dtype `own` along the axes `tail`."""
    import numpy

    view = numpy.frombuffer(cast(Any, _array.Octets(items)), own)
    if tail:
        view = view.reshape((-1, *tail))
    if dtype is not None:
        dtype = numpy.dtype(dtype)
        if dtype.hasobject:
            raise TypeError(f"{dtype} has objects, which have no meaning in other processes")
        view = view.view(dtype)
    return view if shape is None else view.reshape(shape)


def shown(array: SynchronizedArray) -> dict[str, Any]:
    """`__array_interface__`. Whoever uses it keeps the handle, so the handle keeps what the address leads to."""
    while True:
        try:
            interface: dict[str, Any] = array.numpy().__array_interface__
        except ImportError as error:
            raise AttributeError(str(error)) from None
        if interface["data"][0] == array._keep():  # else they have moved in between
            return interface
