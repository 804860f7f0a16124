"""Named stores: shared objects that programs find by a name, also programs that have nothing else to do with each other.

    with fastshm.Manager("shm://myapp") as m:      # opens the store of that name, or makes it
        m.root["hits"] = 1                         # a dict, by which everything is found
        m.root.setdefault("jobs", []).append(4)    # live: what is stored becomes shared

A store belongs to one user. It goes with its last user, or, if it was made or opened with persist=True, stays until
`unlink("shm://myapp")` or the next boot. docs/format.md, "Named stores", has the steps and what a death after each leaves.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable
from multiprocessing import ProcessError
from typing import Any

from fastshm import _core, _dict, collections, heap, managers, names, records
from fastshm.counter import ShardedCounter

__all__ = ["SCHEME", "Store", "unlink"]

SCHEME = "shm://"
ATTEMPTS = 100  # at a store that others unlink or leave whenever it has been found


def _file_of(address: str) -> str:
    if not isinstance(address, str):
        raise TypeError(
            f"the address of a store is a str, not {type(address).__name__!r}; a manager with the address of a server is a "
            "fastshm.managers.SyncManager"
        )
    file = names.STORE + address.removeprefix(SCHEME)
    if not address.startswith(SCHEME) or not names.NAME.fullmatch(file):
        raise ValueError(
            f"{address!r} is not the address of a store: {SCHEME!r} and then 1 to 200 letters, digits, '_', '.' or '-' expected"
        )
    return file


class Store(managers.SyncManager):
    """A manager whose objects are in a named store. shutdown() lets go of the store; handles on its objects stay good.

    Besides what managers make, it makes `Counter`, `ShardedCounter` and `frozen`. fastshm.Value and fastshm.Array, with their
    atomics, are made in it by `beside=store.root`.
    """

    def __init__(
        self, address: str, *, create: bool = True, persist: bool = False, live: bool = True, allow_pickle: bool = True
    ) -> None:
        super().__init__(live=live)
        self._file = _file_of(address)
        self._how = create, persist, allow_pickle
        self._name = address
        self._root: managers.DictProxy | None = None

    def _begin(self) -> None:
        """FileNotFoundError with create=False when there is no such store; PermissionError and CorruptedError when it is
        another user's, open to others, of another format or damaged."""
        create, persist, allow_pickle = self._how
        if threading.active_count() == 1:  # else a child that another thread forks meanwhile would have the sweep's descriptors
            heap.sweep()  # also of a store whose last user was killed: whoever opens it begins anew
        for _ in range(ATTEMPTS):
            root = self._found(allow_pickle)
            if root is None and create:
                root = self._made(allow_pickle)
            if root is not None:
                if persist:
                    root._heap.keep(True)
                self._root = root
                return
            if not create:
                raise FileNotFoundError(errno.ENOENT, f"there is no store {self._name!r}")
        raise FileNotFoundError(errno.ENOENT, f"the store {self._name!r} was unlinked {ATTEMPTS} times while it was opened")

    def _found(self, allow_pickle: bool) -> managers.DictProxy | None:
        while True:
            try:
                segment = heap.attach(self._file, allow_pickle=allow_pickle)
            except FileNotFoundError:
                return None
            except BaseException:  # of a signal's handler, say
                _core.leave_unless_used(self._file)
                raise
            try:
                root = segment.root(managers.DictProxy)  # from here on, it keeps the segment
            except ReferenceError:
                if not segment.is_left:  # by another thread, which had the last handle
                    raise _core.CorruptedError(f"the store {self._name!r} is damaged: its root is gone") from None
            else:
                if segment.name == self._file:
                    break
        if root is None:
            raise _core.CorruptedError(f"{self._name!r} is a segment without a root: it is no store")
        return root

    def _made(self, allow_pickle: bool) -> managers.DictProxy | None:
        root = heap.create_store(self._file, self._new_root)
        if root is not None and not allow_pickle:
            heap.attach(self._file, allow_pickle=False)
        return root  # type: ignore[return-value]

    def _new_root(self, segment: _core.Heap) -> managers.DictProxy:
        return _dict.Dict._make(managers.DictProxy, segment, self._live)

    @property
    def address(self) -> str:
        return self._name

    def connect(self) -> None:
        raise ProcessError(f"a store has no server to connect to: fastshm.Manager({self._name!r}) opens it")

    def get_server(self) -> Any:
        raise ProcessError(f"a store has no server: fastshm.Manager({self._name!r}) opens it in every process")

    @property
    def root(self) -> managers.DictProxy:
        """The dict by which the objects are found. `setdefault` makes one in one step, whoever comes first."""
        if self._root is None:  # of the type that the stdlib's managers raise when they are not started
            raise AssertionError(
                f"the store is not open: this manager was shut down or not started; fastshm.Manager({self._name!r}) opens it "
                "again"
            )
        return self._root

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}, {'not open' if self._root is None else 'open'}>"

    def Counter(self, iterable: Any = None, /, **kwargs: Any) -> collections.CounterProxy:
        """A shared counter of what collections.Counter takes: see fastshm.Counter."""
        return collections.new_counter(self._open(), iterable, kwargs)

    def ShardedCounter(self, value: int = 0) -> ShardedCounter:
        """A counter for many writers: see fastshm.ShardedCounter."""
        return ShardedCounter(value, beside=self._open())

    def frozen(self, items: Iterable[Any], /) -> records.FrozenList:
        """A read-only list of records: see fastshm.frozen."""
        return records.frozen(items, beside=self._open())

    def _open(self) -> _core.Handle:
        return self.root  # beside what new objects are made

    def _close(self) -> None:
        self._root = None


def unlink(address: str) -> None:
    """Takes a store's name away: those who use it go on, those who come find none. FileNotFoundError when there is none."""
    path = names.path(_file_of(address))
    try:
        os.unlink(path)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, f"there is no store {address!r}") from None
