"""The arrays that Array() makes, and what they have of ctypes and NumPy, which is imported when it is first asked for."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

from fastshm import _array

__all__ = ["SynchronizedArray", "SynchronizedString"]

codes_of_types: dict[Any, str] = {
    getattr(ctypes, name): getattr(ctypes, name)._type_
    for name in (
        "c_bool", "c_byte", "c_char", "c_double", "c_float", "c_int", "c_long", "c_longlong", "c_short", "c_ubyte", "c_uint",
        "c_ulong", "c_ulonglong", "c_ushort", "c_wchar",
    )
}  # fmt: skip
types = {code: kind for kind, code in codes_of_types.items()}
numpy_codes = {"c": "S1", "u": "U1", "w": "U1"}  # the others are NumPy's, too


class SynchronizedArray(_array.Items):
    """An array of one simple type: see fastshm.sharedctypes.Array.

    Grows by append, extend and resize; changes many items as one by slices, fill and add_from; has the atomics of a value for
    each item: load, store, exchange, compare_exchange, fetch_add and the like, wait.
    """

    _object: Any = None
    _shown: dict[int, Any] | None = None

    def get_obj(self) -> Any:
        """The ctypes array on the bytes as they now lie; what is done through it does not take the lock.

        After growth beyond the capacity the array's bytes are elsewhere. Then what was got before keeps its own, which are the
        array's no more.
        """
        known = self._object and self._object()
        if known is not None and (ctypes.addressof(known), len(known)) == self._place:
            return known
        view = _array.octets(self)
        return object_over(self, view, self._type() * (view.nbytes // self.itemsize))

    def _type(self) -> Any:
        return types[self.typecode]

    def numpy(self, dtype: Any = None, shape: Any = None) -> Any:
        """The items as they now lie, as an ndarray without a copy; what is done through it does not take the lock.

        With `dtype`, the same bytes taken for another type; with `shape`, along those axes. As with get_obj(), growth within
        the capacity leaves it live, and after growth beyond it the ndarray's bytes are the array's no more.
        """
        return ndview(self, numpy_codes.get(self.typecode, self.typecode), (), dtype, shape)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """For those who do not use the buffer: as long as this handle lives, the bytes stay what they are."""
        try:
            view = self.numpy()
        except ImportError as error:
            raise AttributeError(str(error)) from None
        shown: dict[str, Any] = view.__array_interface__
        if self._shown is None:
            self._shown = {}
        self._shown[shown["data"][0]] = view
        return shown

    def __dlpack__(self, **how: Any) -> Any:
        return self.numpy().__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.numpy().__dlpack_device__()

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


def object_of(owner: Any, kind: Any) -> Any:
    known = getattr(owner, "_object", None)
    known = known and known()
    return object_over(owner, owner, kind) if known is None else known


def object_over(owner: Any, view: Any, kind: Any) -> Any:
    new = kind.from_buffer(view)
    new.__reduce_ex__ = lambda protocol: (_get_obj, (owner,))
    owner._object = weakref.ref(new)
    return new


def _get_obj(owner: Any) -> Any:
    return owner.get_obj()


def ndview(items: _array.Items, own: Any, tail: tuple[int, ...], dtype: Any, shape: Any) -> Any:
    """An ndarray over the items, which are elements of the dtype `own` along the axes `tail`."""
    import numpy

    view = numpy.asarray(_array.octets(items)).view(own).reshape((-1, *tail))
    if dtype is not None:
        dtype = numpy.dtype(dtype)
        if dtype.hasobject:
            raise TypeError(f"{dtype} has objects, which have no meaning in other processes")
        view = view.view(dtype)
    return view if shape is None else view.reshape(shape)
