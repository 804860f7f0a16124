"""Frozen sequences: written once, read by all, held by no process's private memory. For the records of a data set."""

from __future__ import annotations

import array
import pickle
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from operator import index
from typing import Any, overload

from fastshm import _array, _core, _list, _parts, heap

__all__ = ["FrozenList", "frozen"]

CHUNK = 1 << 24  # bytes of records that are collected before they go into shared memory
BYTES, TEXT, PICKLE, OBJECTS = range(4)  # how a record is stored: the low bits of where it ends
A_HANDLE = _core.reopen.__name__.encode()  # is in each pickle with a shared object in it


class Records(_array.Items):
    """Where they end, or their bytes."""


class FrozenList(Sequence[Any]):
    """A read-only list in shared memory: see fastshm.frozen.

    `l[i]` makes the record anew, so a worker's private memory does not grow however many it reads. `view(i)` of a record of
    bytes is a read-only memoryview of the shared memory itself, good for as long as it is held.
    """

    def __init__(self, ends: Any, data: Any, objects: Any = None) -> None:
        self._ends, self._data = ends, data  # end << 2 | how it is stored, of each record; the records, one behind the other
        self._objects = objects  # a list of the records that have shared objects in them; the data have their numbers
        self._where = memoryview(ends)
        self._bytes = memoryview(data).toreadonly()

    def __reduce__(self) -> Any:
        return type(self), (self._ends, self._data, self._objects)

    def __len__(self) -> int:
        return len(self._where)

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> list[Any]: ...
    def __getitem__(self, i: Any) -> Any:
        """One record, or a list of those of a slice."""
        if isinstance(i, slice):
            return list(map(self.__getitem__, range(*i.indices(len(self)))))
        if not hasattr(type(i), "__index__"):
            raise TypeError(f"list indices must be integers or slices, not {type(i).__name__}")
        i = index(i)
        record, kind = self._find(i)
        if kind == PICKLE:
            if not self._data._heap.takes_pickles():
                raise pickle.UnpicklingError(f"a record of {self._data._heap.name} is a pickle, which this process refuses")
            return pickle.loads(record)
        if kind == OBJECTS:
            return self._objects[int.from_bytes(record, "little")]
        try:
            return str(record, "utf-8", "surrogatepass") if kind == TEXT else bytes(record)
        except UnicodeDecodeError:
            raise _core.CorruptedError(f"record {i} is no text") from None

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))

    def view(self, i: int) -> memoryview:
        """The bytes of a record without a copy. TypeError when it is not a record of bytes."""
        record, kind = self._find(index(i))
        if kind != BYTES:
            raise TypeError(f"record {i} is not bytes")
        return record

    def _find(self, i: int) -> tuple[memoryview, int]:
        try:
            end = self._where[i]
        except IndexError:
            raise IndexError("list index out of range") from None
        begin = self._where[i - 1] >> 2 if i % len(self._where) else 0
        if not begin <= end >> 2 <= len(self._bytes) or (end & 3 == OBJECTS and self._objects is None):
            raise _core.CorruptedError(f"record {i} is not where it should be")
        return self._bytes[begin : end >> 2], end & 3

    def _getvalue(self) -> list[Any]:
        """What it stands for in a plain copy of a container."""
        return list(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self):,} records, {len(self._bytes):,} bytes>"


def frozen(records: Iterable[Any], /, *, beside: _core.Handle | None = None) -> FrozenList:
    """A read-only shared list of records, of any type that pickles. bytes and str are stored as they are. Shared
    objects in a record stay shared, and live as long as the list.

    The whole takes about as much shared memory as the pickled records and 8 bytes each; while it is made, it is there twice.
    With `beside` it is made in the segment of that shared object (a store's root), not in this process's.
    pickle.PicklingError for a record that needs a pickle where those are refused.
    """
    segment = heap.default() if beside is None else beside._heap
    ends, pieces, size, objects = array.array("Q"), [], 0, None
    chunk = bytearray()
    for record in records:
        kind, data = BYTES, record
        if type(record) is str:
            kind, data = TEXT, record.encode("utf-8", "surrogatepass")
        elif _parts.is_shared(record):
            kind = OBJECTS
        elif type(record) is not bytes:
            kind, data = PICKLE, _pickled(record, segment)
            if A_HANDLE in data:
                kind = OBJECTS
                pickle.loads(data)  # gives back what the pickle alone would keep
        if kind == OBJECTS:
            objects = objects or _list.List._make(_list.List, beside)
            data = len(objects).to_bytes(8, "little")
            objects.append(record)
        chunk += data
        ends.append(size + len(chunk) << 2 | kind)
        if len(chunk) >= CHUNK:
            pieces.append(_shared(chunk, beside))
            size += len(chunk)
            chunk = bytearray()
    pieces.append(_shared(chunk, beside))
    size += len(chunk)
    return FrozenList(_shared(ends, beside), pieces[0] if len(pieces) == 1 else _joined(pieces, size, beside), objects)


def _joined(pieces: list[Any], size: int, beside: _core.Handle | None) -> Any:
    whole: Any = Records._make(Records, "B", size, 0, beside)
    at = 0
    pieces.reverse()
    with memoryview(whole) as to:
        while pieces:
            piece = pieces.pop()
            to[at : at + len(piece)] = memoryview(piece)
            at += len(piece)
    return whole


def _pickled(record: Any, segment: _core.Heap) -> bytes:
    if not segment.takes_pickles():
        raise pickle.PicklingError(
            f"a record of type {type(record).__name__!r} would be stored in {segment.name} as a pickle, and those are refused "
            "(allow_pickle=False): bytes and str need none"
        )
    return bytes(ForkingPickler.dumps(record, 5))


def _shared(items: array.array[int] | bytearray, beside: _core.Handle | None) -> Any:
    new: Any = Records._make(Records, "Q" if isinstance(items, array.array) else "B", len(items), 0, beside)
    with memoryview(new) as to, memoryview(items) as part:  # nobody else knows it yet: no lock, no stage
        to.cast("B")[:] = part.cast("B")
    return new
