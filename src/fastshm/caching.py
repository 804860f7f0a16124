"""Results of functions, shared by all workers: functools.lru_cache across processes."""

from __future__ import annotations

import functools
import operator
import os
import pickle
import threading
import time
import zlib
from collections.abc import Callable
from numbers import Number
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from fastshm import _core, _dict, _list, _locks, heap
from fastshm.counter import ShardedCounter
from fastshm.proxies import DictProxy, ListProxy, RecursiveAcquirerProxy

__all__ = ["Cache", "CacheInfo", "cache"]

_P = ParamSpec("_P")
_R = TypeVar("_R", covariant=True)
MISSING: Any = object()
KEYWORDS = "\0keywords"  # begins the keys that hold the positional arguments as one, and the names and values of others
STRAYS = 16  # so many at once, or so often in a row, it cannot be just somebody who is between two steps
TURNS = 10_000  # so often nobody waits for one result: each is somebody else's who raised, or was killed
ABANDONED = 64  # locks of keys that are being computed, until somebody looks which of them nobody holds


class _Thread(threading.local):
    def __init__(self) -> None:
        self.ranks: list[Any] = []  # of the locks of what this thread is computing, rising: it waits for a higher one only


_thread = _Thread()
_cramped: set[Any] = set()  # ranks of caches for which this process found no memory for a place, last time
_same_name: dict[str, int] = {}  # functions of this process that are known by a name


class CacheInfo(NamedTuple):
    """As functools.lru_cache's. Counted by all processes; the size is that of one instant."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


class Cache:
    """A shared mapping that forgets: the least recently used beyond `maxsize`, and what is older than `ttl` seconds.

    `c.put(key, value)`, `c.get(key, default=None)`, `key in c`, `len(c)`, `c.pop(key)`, `c.clear()`, `c.info()`, and
    `c.get_or_compute(key, function)`: the value, computed by one of those that want it while the others wait. It pickles
    anywhere; `beside=m.root` makes it in that store. With a `ttl` it needs pickles: `put` is a PicklingError where they are
    refused. In full memory `put` is a MemoryError, and `get` goes on.

    `get` and `put` are a few steps each; whoever is killed between two of them leaves a cache that may forget a little earlier
    or later than it should, and nothing else.
    """

    # What a death between two steps leaves:
    # - get, and put of a key that is there, which take its place and give it one at the end: an entry without a place (so does
    #   the first get of a process that finds no memory for a place);
    # - put, whose place is made before its entry: a place without an entry, which is forgotten when it is the oldest;
    # - put, which takes the oldest place, then its entry; pop, its place, then its entry: an entry without a place;
    # - get and put, which drop what ended, and clear, entries before places: places without entries.
    # The same comes of those who do two of these at once. Entries without a place would never be the oldest, and places
    # without entries may become many: _put_in_order() mends both.

    def __init__(self, maxsize: int | None = None, ttl: float | None = None, *, beside: _core.Handle | None = None) -> None:
        maxsize, ttl = _checked(maxsize, ttl)
        make = _dict.Dict._make
        entries, order, locks = make(DictProxy, beside), make(DictProxy, beside), make(DictProxy, beside)
        self._begin(maxsize, ttl, entries, order, locks, ShardedCounter(beside=beside), ShardedCounter(beside=beside))

    def _begin(self, maxsize: Any, ttl: Any, entries: Any, order: Any, locks: Any, hits: Any, misses: Any) -> None:
        self.maxsize, self.ttl = maxsize, ttl
        self._entries = entries  # with a ttl, values are (value, when it ends)
        self._order = order  # its keys, the least recently used first, with a ttl (and no maxsize: put) and when each ends
        self._locks = locks  # of what is being computed
        self._hits, self._misses = hits, misses
        self._strays = 0  # how often in a row there were more entries than places in the order
        self._none_ends_before = 0.0  # as far as this handle has looked
        self._rank = entries._address  # the name of the segment, where and when it was made

    def __getstate__(self) -> Any:
        return self.maxsize, self.ttl, self._entries, self._order, self._locks, self._hits, self._misses

    def __setstate__(self, state: Any) -> None:
        self._begin(*state)

    def get(self, key: Any, default: Any = None) -> Any:
        """The value, which is then the most recently used one."""
        value = self._entries.get(key, MISSING)
        ends = None
        if value is not MISSING and self.ttl is not None:
            value, ends = _with_its_end(value)
            if time.monotonic() >= ends:
                self._drop_if_ended(key)
                value = MISSING
        if value is MISSING:
            return default
        if self.maxsize is not None:
            try:
                self._touch(key, ends)
            except MemoryError:  # no reason not to read: it has the place that it had, or is given one by the next put
                return value
        return value

    def put(self, key: Any, value: Any) -> None:
        """Stores a value, and forgets what is too much then."""
        if self.maxsize is None and self.ttl is None:
            self._entries[key] = value
            return
        ends = None if self.ttl is None else time.monotonic() + self.ttl
        entries, places = len(self._entries), len(self._order)
        self._strays = self._strays + 1 if entries > places else 0
        many = min(STRAYS, entries // 8)  # in a small cache a few are many, and to look is cheap
        if self._strays > STRAYS or entries - places > many or places > 2 * entries + STRAYS:
            self._put_in_order()
        self._touch(key, ends)
        try:
            self._entries[key] = value if ends is None else (value, ends)
        except BaseException:
            if key not in self._entries:
                self._order.pop(key, None)
            raise
        if self.maxsize is None:
            self._drop_some_that_ended()
        else:
            self._drop_what_is_too_much(self.maxsize, key)

    def _drop_what_is_too_much(self, maxsize: int, newest: Any) -> None:
        is_in_order = False
        while len(self._entries) > maxsize:
            oldest = _first_of(self._order)
            if not is_in_order and (oldest is MISSING or oldest == newest):  # all others have lost their places
                self._put_in_order()
                is_in_order = True
                continue
            if oldest is not MISSING:
                self._entries.pop(oldest, None)
            elif _first_of(self._entries) is MISSING:
                return  # others were quicker; or the memory is damaged, and there are not as many as it says

    def _put_in_order(self) -> None:
        """Entries without a place are given one at the end: they lost it when they were used. Places without an entry go."""
        self._strays = 0
        places = set(self._order.keys())
        for key in self._entries.keys():  # noqa: SIM118  (a list of one instant)
            if key in places:
                places.remove(key)
                continue
            found = self._entries.get(key, MISSING)
            if found is MISSING:
                continue
            try:
                self._order.setdefault(key, None if self.ttl is None else _with_its_end(found)[1])
            except MemoryError:  # there will be some another time, and put says it if it has none
                return
        for key in places:
            if key not in self._entries:
                self._order.pop(key, None)

    def pop(self, key: Any, *default: Any) -> Any:
        """Forgets it: its value, else `default` if there is one, else KeyError. What is being computed now is put later."""
        if len(default) > 1:
            raise TypeError(f"pop expected at most 2 arguments, got {1 + len(default)}")
        self._order.pop(key, None)
        value = self._entries.pop(key, MISSING)
        if value is not MISSING and self.ttl is not None:
            value, ends = _with_its_end(value)
            value = value if time.monotonic() < ends else MISSING
        if value is not MISSING:
            return value
        if default:
            return default[0]
        raise KeyError(key)

    def _touch(self, key: Any, ends: float | None) -> None:
        """Gives it the last place. MemoryError, and in full memory it keeps the one that it had."""
        if _cramped and self._rank in _cramped:
            self._order._exchange_keys(lambda _: ([key], {key: ends}))  # all or nothing, but it copies all places
            _cramped.discard(self._rank)
            return
        self._order.pop(key, None)
        try:
            self._order[key] = ends
        except MemoryError:
            _cramped.add(self._rank)
            self._strays = STRAYS
            raise

    def _drop_if_ended(self, key: Any) -> bool:
        """False when somebody has put another value meanwhile."""
        with self._entries.get_lock():
            found = self._entries.get(key, MISSING)
            if found is not MISSING and time.monotonic() < _with_its_end(found)[1]:
                return False
            self._entries.pop(key, None)
            return True

    def _drop_some_that_ended(self) -> None:
        """Without a maxsize the oldest were put first. Two for each that is put, so there are never many more than are good."""
        for _ in range(2):
            if time.monotonic() < self._none_ends_before:
                return
            try:
                key, ends = self._order.popitem(last=False)
            except KeyError:
                return
            if time.monotonic() < _end(ends) or not self._drop_if_ended(key):
                self._order.setdefault(key, ends)
                self._none_ends_before = ends

    def get_or_compute(self, key: Any, compute: Callable[[], Any]) -> Any:
        """The value, computed by one thread of one process while those that want the same one wait, and by the next of them if
        that one is killed or raises. Who is computing already waits only where no circle of waiting can close."""
        value = self.get(key, MISSING)
        if value is MISSING and not _is_found_again(key):
            self._misses.add()
            return compute()
        for _ in range(TURNS):
            if value is not MISSING:
                self._hits.add()
                return value
            lock = _lock(self._locks.setdefault(key, RecursiveAcquirerProxy(gate=self._locks)))
            rank = (self._rank[0], self._rank[2], lock._address[2])
            held = _thread.ranks
            if held and rank < held[-1]:
                if not lock.locked():
                    self._locks.pop(key, None)
                return self._computed(key, compute)
            process, failure = os.getpid(), None  # in a child that the computation forks, it is its parent who holds the lock
            try:
                with lock:
                    if self._is_current(key, lock):
                        depth = len(held)
                        try:
                            held.append(rank)
                            value = self.get(key, MISSING)
                            if value is MISSING:
                                value = self._computed(key, compute)
                            return value
                        except BaseException as error:
                            failure = error if os.getpid() != process else None
                            raise
                        finally:
                            del held[depth:]  # first: a signal's handler may raise in what follows
                            if os.getpid() == process and self._is_current(key, lock):
                                self._locks.pop(key, None)
                    else:  # whoever held it is done, and the next one has made another
                        value = self.get(key, MISSING)
            except RuntimeError:
                if os.getpid() == process:
                    raise
                if failure is None and value is not MISSING:
                    return value
            if failure is not None:
                raise failure
        raise _core.CorruptedError("the shared memory is damaged: a cache's lock is not found where it was put")

    def _computed(self, key: Any, compute: Callable[[], Any]) -> Any:
        self._misses.add()
        if not len(self._locks) % ABANDONED:
            self._sweep()
        value = compute()
        self.put(key, value)
        return value

    def _is_current(self, key: Any, lock: Any) -> bool:
        current = self._locks.get(key)
        return current is not None and _lock(current)._address == lock._address

    def _sweep(self) -> None:
        """Drops the locks that nobody holds: of those that were killed, or left by an exception of a signal's handler, and of
        those that are about to take theirs, and take another one then."""
        for key, lock in self._locks.items():
            with _locks.IfFree(_lock(lock)) as is_ours:
                if is_ours and self._is_current(key, lock):
                    self._locks.pop(key, None)

    def clear(self) -> None:
        for part in (self._entries, self._order):
            part.clear()
        self._sweep()
        self._hits.exchange(0)
        self._misses.exchange(0)

    def info(self) -> CacheInfo:
        """Hits and misses are those of get_or_compute(), and so of fastshm.cache, alone."""
        return CacheInfo(self._hits.value, self._misses.value, self.maxsize, len(self))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._entries)} values, maxsize={self.maxsize}, ttl={self.ttl}>"

    def __len__(self) -> int:
        """With a ttl it looks when each of them ends."""
        if self.ttl is None:
            return len(self._entries)
        now = time.monotonic()
        current: list[float] = [ends for ends in self._order.values() if now < _end(ends)]
        return min(len(self._entries), len(current))

    def __contains__(self, key: Any) -> bool:
        if self.ttl is None:
            return key in self._entries
        found = self._entries.get(key, MISSING)
        return found is not MISSING and time.monotonic() < _with_its_end(found)[1]


# What others have stored may be damaged: here it is what `put` and `get_or_compute` store, or CorruptedError.


def _with_its_end(found: Any) -> Any:
    if type(found) is tuple and len(found) == 2:
        _end(found[1])
        return found
    raise _core.CorruptedError("the shared memory is damaged: a cache holds something that no cache has put there")


def _end(ends: Any) -> float:
    if type(ends) is float:
        return ends
    raise _core.CorruptedError("the shared memory is damaged: a result in a cache ends at no time")


def _lock(found: Any) -> RecursiveAcquirerProxy:
    if type(found) is RecursiveAcquirerProxy:
        return found
    raise _core.CorruptedError("the shared memory is damaged: there is no lock where a cache has one")


def _checked(maxsize: Any, ttl: Any) -> tuple[int | None, float | None]:
    """What is meant by them, of whatever numeric type they are."""
    size, seconds = maxsize, ttl
    if maxsize is not None:
        try:
            size = operator.index(maxsize)
        except TypeError:
            size = 0
        if size < 1:
            raise ValueError(f"maxsize must be a positive integer or None, not {maxsize!r}")
    if ttl is not None:
        number: Any = ttl if isinstance(ttl, Number) else 0  # float() takes a text, too
        try:
            seconds = float(number)
        except (TypeError, ValueError, OverflowError):
            seconds = 0.0
        if not seconds > 0:
            raise ValueError(f"ttl must be a positive number of seconds or None, not {ttl!r}")
    return size, seconds


def _is_found_again(key: Any) -> bool:
    """Whether another process's copy is the same key: a NaN is not, nor an object of a class without an `__eq__`."""
    return bool(key == pickle.loads(pickle.dumps(key)))


def _first_of(keys: Any) -> Any:
    try:
        return keys.popitem(last=False)[0]
    except KeyError:
        return MISSING


def _of_family(name: str, maxsize: int | None, ttl: float | None) -> Any:
    """The cache of that name of this process and its relatives, whatever the start method."""
    root = None
    while root is None:
        segment = heap.family()
        try:
            root = segment.root(DictProxy)
            if root is None:
                root = _new_root(segment)
        except ReferenceError:
            if not segment.is_left:  # by another thread, which had the last handle
                raise
    parts = root.get(name, MISSING)
    if parts is MISSING:
        parts = _list.List._make(ListProxy, root)
        parts.extend(Cache(maxsize, ttl, beside=root).__getstate__())
        parts = root.setdefault(name, parts)
    return _of_parts(parts)


def _of_parts(parts: Any) -> Cache:
    """A list of them, as they are, needs no pickle."""
    state = parts[:] if type(parts) is ListProxy else []
    try:
        if [type(part) for part in state[2:]] != [DictProxy] * 3 + [ShardedCounter] * 2:
            raise ValueError
        maxsize, ttl = _checked(*state[:2])
    except ValueError:
        raise _core.CorruptedError("the shared memory is damaged: there is no cache where a function has one") from None
    made = Cache.__new__(Cache)
    made._begin(maxsize, ttl, *state[2:])
    return made


def _new_root(segment: _core.Heap) -> Any:
    """This one or another thread's."""
    made = _dict.Dict._make(DictProxy, segment)
    segment.set_root(made)
    return segment.root(DictProxy)


def _name_of(function: Any) -> str | None:
    """What the function is called in all processes that run the same module; None when they cannot know it."""
    name = f"{getattr(function, '__module__', '<locals>')}.{getattr(function, '__qualname__', '<locals>')}"
    if "<locals>" in name:
        return None
    code = getattr(function, "__code__", None)
    place = zlib.crc32(repr((code.co_name, code.co_code, *code.co_positions())).encode()) if code else 0
    name = f"cache of {name.replace('__mp_main__', '__main__')} {place:08x}"
    _same_name[name] = number = _same_name.get(name, 0) + 1
    return f"{name} {number}"


class _Cached(Protocol[_P, _R]):
    """What a decorated function has, as functools.lru_cache's."""

    __wrapped__: Callable[..., Any]

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R: ...
    def __get__(self, instance: Any, owner: Any = None, /) -> Callable[..., _R]: ...
    def cache_info(self) -> CacheInfo: ...
    def cache_clear(self) -> None: ...
    def cache_parameters(self) -> dict[str, Any]: ...


@overload
def cache(function: Callable[_P, _R], /) -> _Cached[_P, _R]: ...
@overload
def cache(
    maxsize: int | None = None, /, *, ttl: float | None = None, typed: bool = False
) -> Callable[[Callable[_P, _R]], _Cached[_P, _R]]: ...
@overload
def cache(
    *, maxsize: int | None = None, ttl: float | None = None, typed: bool = False
) -> Callable[[Callable[_P, _R]], _Cached[_P, _R]]: ...
def cache(function: Any = None, /, *, maxsize: int | None = None, ttl: float | None = None, typed: bool = False) -> Any:
    """Keeps a function's results for all processes of the family: functools.lru_cache across workers.

    A missing result is computed once, while others that want it wait. (A call from within another result's computation does not
    where two could wait for each other: it computes, too.) `maxsize` bounds the number of results, `ttl` their age in seconds.
    Arguments must be hashable; arguments and results must pickle. With a `ttl` each call is a PicklingError where pickles are
    refused (`heap.create(allow_pickle=False)`). What equals nothing but itself, as a NaN or an object whose class has no
    `__eq__` (say the `self` of a method), is another argument in each process: such a call is computed each time, and not kept.
    `cache_info()`, `cache_clear()`, `cache_parameters()` and `__wrapped__` are functools'. A function of a module is known by
    its name and its code, so children of every start method share its results; one that was made inside another function
    shares them with forked children only.
    """
    if not callable(function) and hasattr(function, "__index__"):  # as functools.lru_cache(128)
        function, maxsize = None, function
    maxsize, ttl = _checked(maxsize, ttl)
    if function is None:
        return functools.partial(cache, maxsize=maxsize, ttl=ttl, typed=typed)
    if not callable(function):
        raise TypeError(f"a function expected, not {type(function).__name__!r}")
    name = _name_of(function)
    kept: list[Cache] = []
    if name is None:
        kept.append(Cache(maxsize, ttl))

    def results() -> Cache:
        if not kept:
            kept.append(_of_family(str(name), maxsize, ttl))
        return kept[0]

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        key = args
        if kwargs or (args and type(args[0]) is str and args[0] == KEYWORDS):
            key = (KEYWORDS, args, *(part for item in kwargs.items() for part in item))
        if typed:
            key += tuple(f"{type(value).__module__}.{type(value).__qualname__}" for value in (*args, *kwargs.values()))
        return (kept[0] if kept else results()).get_or_compute(key, lambda: function(*args, **kwargs))

    made: Any = wrapper
    made.cache_info = lambda: results().info()
    made.cache_clear = lambda: results().clear()
    made.cache_parameters = lambda: {"maxsize": maxsize, "ttl": ttl, "typed": typed}
    return made
