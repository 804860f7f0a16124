"""Arrays of NumPy's types: dtype and axes travel with the handle.

The items of an array are its elements along the first axis: numbers, records, or whole rows. Growth is along that axis. Single
numbers are read, written and changed by the core, as those of any array (`a.fetch_add((2, 3), 1)`); whatever is wider passes
through NumPy on its way in and out, as a copy of one instant.
"""

from __future__ import annotations

import ctypes
import sys
from math import prod
from operator import index
from typing import Any, cast

from fastshm import _core
from fastshm._array import SynchronizedArray
from fastshm.arrays import ndview, types

__all__ = ["SynchronizedNDArray"]

_KINDS = {"i": "bhilq", "u": "BHILQ", "f": "fd", "b": "?"}
_NUMBERS = {(kind, ctypes.sizeof(types[code])): code for kind, codes in _KINDS.items() for code in codes if code in types}


def dtype_of(kind: Any) -> Any:
    """The dtype that a type of NumPy stands for; None when it is something else. (Who has one has imported NumPy.)"""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(kind, type) and issubclass(kind, numpy.generic):
        return numpy.dtype(kind)
    if isinstance(kind, type) and issubclass(kind, numpy.dtype):
        return kind()
    return kind if isinstance(kind, numpy.dtype) else None


def dtype_of_code(code: str | None) -> Any:
    import numpy

    if code is None or code in "cuw":
        raise TypeError("shape: only arrays of numbers, or of a NumPy type, have one")
    return numpy.dtype(code)


def new(
    dtype: Any, size_or_initializer: Any, shape: Any, capacity: int, beside: _core.Handle | None = None
) -> SynchronizedNDArray:
    import numpy

    dtype, inner = dtype.base, dtype.shape
    if dtype.hasobject:
        raise TypeError(f"{dtype} has objects, which have no meaning in other processes: store them in a fastshm.list()")
    values = None
    if isinstance(size_or_initializer, int):
        whole = _axes(size_or_initializer, (size_or_initializer,) if shape is None else shape) + inner
    else:
        values = numpy.array(size_or_initializer, dtype=dtype, order="C", ndmin=1)
        if shape is not None:
            values = values.reshape((*((shape,) if isinstance(shape, int) else shape), *inner))
        whole = values.shape
        if inner and whole[-len(inner) :] != inner:
            raise ValueError(f"an initializer of shape {whole} has no items of shape {inner}")
    if not whole or not prod(whole[1:]) or not dtype.itemsize:
        raise ValueError(f"an array of shape {whole} and dtype {dtype} has items without bytes")
    code, tail = _code_of(dtype), tuple(whole[1:])
    size = prod(tail) * dtype.itemsize
    if size >= 1 << 32:
        raise OverflowError(f"behind the first axis of {whole} there are items of {size} bytes: at most 2**32 - 1")
    array = SynchronizedArray._make(
        SynchronizedNDArray,
        "\0" if tail else code,
        whole[0],
        size,
        beside,
        values=values if values is None or (code != "\0" and not tail) else _octets(values),
        capacity=capacity,
    )
    return array._dressed(dtype, tail)


def _axes(size: int, shape: Any) -> tuple[int, ...]:
    axes = (index(shape),) if hasattr(type(shape), "__index__") else tuple(index(n) for n in shape)
    if size < 0 or min(axes, default=0) < 0:
        raise ValueError(f"array lengths must be >= 0, not {axes if size >= 0 else size}")
    if prod(axes) != size:
        raise ValueError(f"shape {axes} has {prod(axes)} elements, not {size}")
    return axes


def _code_of(dtype: Any) -> str:
    """The core's code for numbers of that type; \0 for what it has none for."""
    return _NUMBERS.get((dtype.kind, dtype.itemsize), "\0") if dtype.isnative and dtype.names is None else "\0"


def _octets(values: Any) -> Any:
    import numpy

    return numpy.ascontiguousarray(values).reshape(-1).view(numpy.uint8)


class SynchronizedNDArray(SynchronizedArray):
    """An array of a NumPy type: see fastshm.Array.

    `a[i]` is a number, a record or an ndarray, a slice an ndarray: copies, each of one instant. Items and slices are written as
    one step, broadcast and converted as NumPy does it; a single integer that is too large wraps around, as in ctypes.
    `a.numpy()` is a view.
    """

    dtype: Any
    _tail: tuple[int, ...]

    def _dressed(self, dtype: Any, tail: tuple[int, ...]) -> SynchronizedNDArray:
        import numpy

        form: bytes | None = None
        try:
            view = memoryview(cast(Any, numpy.empty(1, dtype)))
            if numpy.asarray(view).dtype == dtype:
                form = view.format.encode()
        except ValueError:
            pass  # NumPy has types that the buffer protocol has no format for
        self._shape(_code_of(dtype), dtype.itemsize, form, tail)
        self.dtype, self._tail = dtype, tail
        return self

    def __reduce__(self) -> Any:
        return _reopened, (self.dtype, self._tail, *super().__reduce__()[1])

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), *self._tail

    @property
    def ndim(self) -> int:
        return 1 + len(self._tail)

    def numpy(self, dtype: Any = None, shape: Any = None) -> Any:
        """The items as they now lie, as an ndarray without a copy; what is done through it does not take the lock.

        With `dtype`, the same bytes taken for another type; with `shape`, along other axes. As with get_obj(), growth within
        the capacity leaves it live, and after growth beyond it the ndarray's bytes are the array's no more.
        """
        return ndview(self, self.dtype, self._tail, dtype, shape)

    def _type(self) -> Any:
        kind: Any = types.get(_code_of(self.dtype)) or ctypes.c_ubyte * self.dtype.itemsize
        for n in reversed(self._tail):
            kind = kind * n
        return kind

    # items and slices

    def _check_index(self, i: Any) -> None:
        parts = i if isinstance(i, tuple) else (i,)
        if len(parts) > self.ndim:
            raise IndexError(f"too many indices for array: array is {self.ndim}-dimensional, but {len(parts)} were indexed")
        for part in parts:
            if isinstance(part, slice):
                continue
            try:
                index(part)
            except TypeError:
                raise TypeError(
                    f"an index is a number, a slice or a tuple of these, not a {type(part).__name__!r}; others are there as in "
                    "a.numpy()[...], a view that takes no lock"
                ) from None

    def _get_other(self, i: Any) -> Any:
        self._check_index(i)
        if isinstance(i, tuple):
            i = i or (slice(None),)
            if len(i) == self.ndim and all(hasattr(type(n), "__index__") for n in i) and _code_of(self.dtype) != "\0":
                return self.load(i)
            items = self._get_other(i[0])
            return items[(slice(None), *i[1:])] if isinstance(i[0], slice) else items[i[1:]]
        if isinstance(i, slice):
            return self._copied(self._read_slice(i))
        return self._rows(i)[1][0]

    def _rows(self, i: Any) -> tuple[slice, Any]:
        """The items of a slice, or one as a slice of one, and a copy of them."""
        rows = i if isinstance(i, slice) else slice(index(i), index(i) + 1 or None)
        items = self._copied(self._read_slice(rows))
        if rows is not i and not len(items):
            raise IndexError("invalid index")
        return rows, items

    def _copied(self, raw: bytes) -> Any:
        import numpy

        return numpy.frombuffer(bytearray(raw), self.dtype).reshape((-1, *self._tail))

    def _set_part(self, i: Any, value: Any) -> None:
        """What is not whole items, as one step: they are written as they are with it."""
        import numpy

        new = numpy.asarray(value[:] if isinstance(value, SynchronizedArray) else value, self.dtype)
        with self.get_lock():
            rows, items = self._rows(i[0])
            items[(slice(None) if rows is i[0] else 0, *i[1:])] = new
            self._write_slice(rows, self._as_written(items))

    def _set_other(self, i: Any, value: Any) -> None:
        self._check_index(i)
        if isinstance(i, tuple) and len(i) < 2:
            i = i[0] if i else slice(None)
        if isinstance(i, slice):
            while True:  # how many they are is known for sure under the lock only
                n = len(range(*i.indices(len(self))))
                try:
                    return self._write_slice(i, self._fitting(value, (n, *self._tail)))
                except ValueError:
                    if n == len(range(*i.indices(len(self)))):
                        raise
        elif isinstance(i, tuple):
            if len(i) < self.ndim or any(isinstance(part, slice) for part in i) or _code_of(self.dtype) == "\0":
                self._set_part(i, value)
            else:
                self.store(i, value)
        else:
            self._write_item(i, _octets(self._fitting(value, self._tail)))
        return None

    def _fitting(self, value: Any, shape: tuple[int, ...]) -> Any:
        """The value as an array of that shape, as NumPy broadcasts it; as bytes, where the core knows no numbers."""
        import numpy

        new = numpy.empty(shape, self.dtype)
        new[...] = value[:] if isinstance(value, SynchronizedArray) else value
        return self._as_written(new) if len(shape) == 1 else _octets(new)

    def _as_written(self, items: Any) -> Any:
        return items if _code_of(self.dtype) != "\0" and not self._tail else _octets(items)

    def _check_shape(self, given: Any) -> None:
        if given.shape[1:] != self._tail or not given.ndim:
            wanted = f"({', '.join(map(str, ('n', *self._tail)))}{',' * (not self._tail)})"
            raise ValueError(f"items of shape {self._tail} are wanted, so an array of shape {wanted}, not {given.shape}")

    # many items

    def append(self, value: Any, /) -> None:
        """One item more along the first axis, seen by all processes at once."""
        self.extend(self._fitting(value, (1, *self._tail)), _ready=True)

    def extend(self, values: Any, /, *, _ready: bool = False) -> None:
        """The items of `values` more, all of them as one change."""
        import numpy

        if not _ready:
            if not hasattr(type(values), "__len__"):
                values = list(values)
            if isinstance(values, SynchronizedArray):
                values = values[:]
            given = numpy.asarray(values, self.dtype)
            if given.ndim == 1 and not given.size:
                given = given.reshape((0, *self._tail))
            self._check_shape(given)
            values = self._fitting(given, given.shape)
        super().extend(values)

    def fill(self, value: Any, /) -> None:
        """Each item becomes `value`, as one change."""
        self._fill_bytes(_octets(self._fitting(value, self._tail)))

    def add_from(self, values: Any, /, start: Any = 0) -> None:
        """Adds each of `values` to the item in its place, from item `start` on, as one change."""
        import numpy

        given = numpy.asarray(values[:] if isinstance(values, SynchronizedArray) else values, self.dtype)
        self._check_shape(given)
        super().add_from(self._fitting(given, given.shape), start)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of shape {self.shape}, dtype {self.dtype}>"


def _reopened(dtype: Any, tail: tuple[int, ...], *state: Any) -> SynchronizedNDArray:
    array = _core.reopen(*state)
    if not isinstance(array, SynchronizedNDArray):
        raise TypeError(f"{type(array).__name__} has no dtype")
    return array._dressed(dtype, tail)
