"""What the scribbler damages, what must stay as it was, and what is done with both."""

from __future__ import annotations

import mmap
import os
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any


class DamagedPickle(Exception):
    """What loading a pickle has raised."""


def loads(data: bytes, plain: Callable[..., object] = pickle.loads, **buffers: object) -> object:
    try:
        return plain(data, **buffers)
    except Exception as error:
        raise DamagedPickle(repr(error)) from None


pickle.loads = loads  # type: ignore[assignment]  # before fastshm takes it

from waits import OWNERS  # noqa: E402

import fastshm  # noqa: E402

LOCK = 24  # where in its block an object has its lock
PATIENCE = 0.004  # of what waits

Ends = tuple[type[BaseException], ...]


class NotFound(Exception):
    """What a newcomer looked for is not there any more."""


class Things:
    """The victims and the bystanders of one round."""

    make: Any = fastshm
    beside_what: Any = None
    room_taken: int  # address space, in bytes

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        make, beside = self.make, self.beside_what
        self.d = make.dict({f"k{n}": self.value(n) for n in range(40)})
        self.l = make.list([self.value(n) for n in range(40)])
        self.v, self.a = fastshm.Value("q", 5, beside=beside), fastshm.Array("q", 50, beside=beside)
        self.lock, self.rlock = make.Lock(), make.RLock()
        self.semaphore, self.bounded, self.event = make.Semaphore(1), make.BoundedSemaphore(2), make.Event()
        self.condition, self.barrier = make.Condition(), make.Barrier(2, int)
        self.wait_for_notice()  # so that there are seats
        self.set, self.counts = make.set(range(20)), make.Counter({f"k{n}": n for n in range(20)})
        self.live, self.sharded = self.new_live({"list": [1, 2], "dict": {"a": 1}}), make.ShardedCounter(3)
        self.frozen = make.frozen(self.value(n) for n in range(60))
        self.cache, self.fading = fastshm.Cache(6, beside=beside), fastshm.Cache(ttl=PATIENCE, beside=beside)
        self.compute()
        self.d["live"], self.d["pair"] = self.l, (self.l, [1, 2])
        self.d.update(value=self.v, condition=self.condition, set=self.set, frozen=self.frozen, lock=self.lock)
        self.l.append(self.d)
        self.still = {f"{n}": n for n in range(100)}
        self.words = [n * n for n in range(100)]
        self.beside = (
            *(make.dict(self.still), make.list(self.words), fastshm.Array("q", self.words, beside=beside)),
            *(fastshm.Value("q", -7, beside=beside), make.Semaphore(3), make.BoundedSemaphore(3)),
        )
        self.records = make.frozen(self.words)
        self.victims = [self.d, self.l, self.v, self.a, self.lock, self.rlock, self.semaphore, self.bounded, self.event]
        self.victims += [self.condition._lock, self.condition._waiters, self.barrier]
        self.victims += [self.set.items, self.counts, self.live, self.live["list"], self.sharded]
        self.victims += [self.frozen._ends, self.frozen._data]
        self.victims += [part for c in (self.cache, self.fading) for part in (c._entries, c._order, c._locks, c._hits)]
        self.still_there = [*self.beside, self.records._ends, self.records._data]

    def new_live(self, value: object) -> Any:
        return fastshm.live(value)

    def compute(self) -> None:
        for n in range(9):
            self.cache.get_or_compute(n, lambda n=n: self.value(n))
            self.fading.put(n, self.value(n))

    @staticmethod
    def value(n: int) -> object:
        texts = "a longer text " * (n % 9), "ümläut " * (n % 5)
        buffers = [pickle.PickleBuffer(b"buffer" * n), n]
        many = [n, float(n), "text", *texts, b"bytes" * n, None, (n, {"a": [n]}), bytearray(b"a" * n), buffers, n % 2 == 0]
        return many[n % len(many)]

    def operations(self) -> dict[str, tuple[Callable[[], object], Ends]]:
        """By name: what is done, and what it may raise for what it finds."""
        d, items, v, a = self.d, self.l, self.v, self.a
        key = f"k{self.chance.randrange(50)}"
        n, value = self.chance.randrange(45), self.value(self.chance.randrange(90))
        gone: Ends = (ReferenceError,)  # a handle in a value, whose object is another by now
        of_caches: Ends = (RuntimeError, *gone)  # the first key, which is not found when it is looked for
        return {
            "d[k]": (lambda: d[key], (KeyError, *gone)),
            "d[shared]": (lambda: [d.get(name) for name in ("live", "value", "condition", "set", "frozen", "lock")], gone),
            "d[shared] = v": (lambda: d.update(set=self.set, frozen=self.frozen, value=v), ()),
            "d[k] = v": (lambda: d.__setitem__(key, value), ()),
            "del d[k]": (lambda: d.__delitem__(key), (KeyError,)),
            "d.view": (lambda: self.seen(d.view(key)), (KeyError, TypeError, *gone)),
            "d.get": (lambda: d.get(key), gone),
            "k in d": (lambda: key in d, ()),
            "d.pop": (lambda: d.pop(key), (KeyError, *gone)),
            "d.popitem": (lambda: d.popitem(), (KeyError, RuntimeError, *gone)),
            "d.update": (lambda: d.update({f"k{m}": self.value(m) for m in range(n, n + 9)}), ()),
            "d.setdefault": (lambda: d.setdefault(key, 1), gone),
            "d.increment": (lambda: d.increment(key), (TypeError, *gone)),
            "d.popitem first": (lambda: d.popitem(last=False), (KeyError, RuntimeError, *gone)),
            "d.set_many": (lambda: d.set_many({f"k{m}": value for m in range(n, n + 5)}), ()),
            "d.pop_many": (lambda: d.pop_many([key, f"k{n}"]), gone),
            "d.add_from": (
                lambda: d.add_from({key: 1, "sum": 2.5}),
                (TypeError, AssertionError, *gone),
            ),
            "d.compare_exchange": (lambda: d.compare_exchange(key, self.value(n), value), gone),
            "d.wait_for": (lambda: d.wait_for(key, timeout=PATIENCE), (TimeoutError, *gone)),
            "d.get_many": (lambda: d.get_many([key, f"k{n}"]), gone),
            "set.add": (lambda: self.set.add(n), ()),
            "set.discard": (lambda: self.set.discard(n), ()),
            "set.pop": (lambda: self.set.pop(), (KeyError, RuntimeError, *gone)),
            "set |= items": (lambda: self.set.update(range(n, n + 9)), ()),
            "set.copy": (lambda: self.set.copy(), (TypeError, *gone)),
            "in set": (lambda: n in self.set, ()),
            "counts.update": (lambda: self.counts.update({key: 1, "k1": n}), (TypeError, *gone)),
            "counts[k]": (lambda: self.counts[key], gone),
            "counts.total": (lambda: self.counts.total(), (TypeError, *gone)),
            "live[k].append": (lambda: self.live["list"].append(n), (KeyError, AttributeError, *gone)),
            "live[k] = v": (lambda: self.live.__setitem__(key, {"a": [n]}), gone),
            "live.to_dict": (lambda: self.live.to_dict(), (TypeError, RecursionError, *gone)),
            "sharded.add": (lambda: self.sharded.add(n), ()),
            "sharded.value": (lambda: self.sharded.value, ()),
            "sharded.exchange": (lambda: self.sharded.exchange(n), ()),
            "frozen[i]": (lambda: self.frozen[n], (IndexError,)),
            "list(frozen)": (lambda: list(self.frozen), (IndexError,)),
            "cache.get": (lambda: self.cache.get(n % 12), of_caches),
            "cache.put": (lambda: self.cache.put(n % 12, value), of_caches),
            "cache.get_or_compute": (lambda: self.cache.get_or_compute(n % 12, lambda: value), of_caches),
            "cache.clear": (lambda: n or self.cache.clear(), of_caches),
            "fading.get": (lambda: self.fading.get(n % 12), of_caches),
            "fading.put": (lambda: self.fading.put(n % 12, value), of_caches),
            "fading.get_or_compute": (lambda: self.fading.get_or_compute(n % 12, lambda: value), of_caches),
            "in fading": (lambda: n % 12 in self.fading, of_caches),
            "info": (lambda: (self.cache.info(), self.fading.info()), of_caches),
            "d.copy": (lambda: d.copy(), (TypeError, *gone)),
            "d.keys": (lambda: d.keys(), ()),
            "for k in d": (lambda: list(iter(d)), (RuntimeError,)),
            "len(d)": (lambda: len(d), ()),
            "l[i]": (lambda: items[n], (IndexError, *gone)),
            "l.view": (lambda: self.seen(items.view(n)), (IndexError, TypeError, *gone)),
            "l[i] = v": (lambda: items.__setitem__(n, value), (IndexError,)),
            "l.append": (lambda: items.append(value) if n % 2 else items.append(d), ()),
            "l.insert": (lambda: items.insert(n, value), ()),
            "l.pop": (lambda: items.pop(), (IndexError, *gone)),
            "del l[i]": (lambda: items.__delitem__(n), (IndexError,)),
            "l[:]": (lambda: items[:], gone),
            "v in l": (lambda: value in items, gone),
            "l.remove": (lambda: items.remove(n), (ValueError, *gone)),
            "for x in l": (lambda: sum(1 for _ in items), gone),
            "l.extend": (lambda: items.extend([value] * 5), ()),
            "l[i:j] = v": (lambda: items.__setitem__(slice(n, n + 3), [value, 1]), ()),
            "l.reverse": (lambda: items.reverse(), ()),
            "len(l)": (lambda: len(items), ()),
            "v.value": (lambda: v.value, ()),
            "v.fetch_add": (lambda: v.fetch_add(1), ()),
            "v = 1": (lambda: setattr(v, "value", 1), ()),
            "a[i]": (lambda: a[n], (IndexError,)),
            "a[:]": (lambda: a[:], ()),
            "a[i:j] = v": (lambda: a.__setitem__(slice(3, 9), [1] * 6), (ValueError,)),
            "a.add": (lambda: a.add(n, 1), (IndexError,)),
            "a.append": (lambda: a.append(n), (OverflowError,)),
            "a.extend": (lambda: a.extend(range(n)), (OverflowError,)),
            "a.resize": (lambda: a.resize(50 + n), ()),
            "a.fill": (lambda: a.fill(n), ()),
            "a.add_from": (lambda: a.add_from(range(9), start=n % 9), (IndexError, ValueError)),
            "a.wait": (lambda: a.wait(n, a[n], PATIENCE), (IndexError,)),
            "v.wait": (lambda: v.wait(v.value, PATIENCE), ()),
            "a view": (lambda: bytes(memoryview(a)), (BufferError, MemoryError)),
            "with lock": (lambda: self.inside(self.lock), (ValueError, RuntimeError)),
            "with rlock": (lambda: self.inside(self.rlock), (AssertionError, RuntimeError)),
            "with v.get_lock()": (lambda: self.inside(v.get_lock()), (AssertionError,)),
            "with d.get_lock()": (lambda: self.inside(d.get_lock()), (AssertionError, KeyError)),
            "with semaphore": (lambda: self.permit(self.semaphore), (ValueError,)),
            "with bounded": (lambda: self.permit(self.bounded), (ValueError,)),
            "semaphore's value": (lambda: self.semaphore.get_value() + self.bounded.get_value(), ()),
            "event.set": (lambda: self.event.set(), ()),
            "event.clear": (lambda: self.event.clear(), ()),
            "event.wait": (lambda: self.event.wait(PATIENCE), ()),
            "condition.wait": (lambda: self.wait_for_notice(), (AssertionError, RuntimeError)),
            "condition.notify": (lambda: self.notify(n % 3), (AssertionError, RuntimeError)),
            "barrier.wait": (lambda: self.barrier.wait(PATIENCE), (BrokenBarrierError,)),
            "barrier.reset": (lambda: self.barrier.reset(), ()),
            "barrier.abort": (lambda: self.barrier.abort(), ()),
            "barrier's state": (lambda: (self.barrier.n_waiting, self.barrier.broken, self.barrier.parties), ()),
            "make and drop": (lambda: self.make.dict({key: "x" * 40 * n}), ()),
            "pickle": (lambda: pickle.loads(pickle.dumps(items)), (ReferenceError,)),
            "check": (lambda: d._heap.check(), ()),
        }

    def number(self) -> int:
        """Of this thread, as locks name it. The process has all mapped then."""
        self.room_taken = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        lock = self.make.RLock()
        with lock, open(f"/dev/shm/{lock._address[0]}", "rb") as file:
            return int.from_bytes(os.pread(file.fileno(), 4, lock._address[1] + LOCK), "little") & OWNERS

    def seen(self, view: Any) -> int:
        """Each byte that it shows."""
        if isinstance(view, memoryview):
            return sum(view)
        return sum(map(self.seen, view)) if isinstance(view, list) else 0

    def inside(self, lock: Any) -> None:
        with lock:
            self.v.value = 3

    def permit(self, semaphore: Any) -> None:
        if semaphore.acquire(timeout=PATIENCE):
            semaphore.release()

    def wait_for_notice(self) -> None:
        with self.condition:
            self.condition.wait(PATIENCE)

    def notify(self, n: int) -> None:
        with self.condition:
            self.condition.notify(n) if n else self.condition.notify_all()

    def beside_is_right(self) -> bool:
        d, items, array, value, semaphore, bounded = self.beside
        key, n = self.chance.choice(list(self.still)), self.chance.randrange(100)
        same = (d[key], items[n], array[n], value.value) == (self.still[key], self.words[n], self.words[n], -7)
        same &= semaphore.get_value() == bounded.get_value() == 3 and self.records[n] == self.words[n]
        return same and (n > 5 or (d.copy() == self.still and items[:] == self.words and array[:] == self.words))


class Stored(Things):
    """The same in a store, where whoever comes later finds the victims by its root."""

    FOUND = (
        *("d", "l", "v", "a", "lock", "rlock", "semaphore", "bounded", "event", "condition", "barrier"),
        *("set", "counts", "live", "sharded", "frozen", "cache", "fading"),
    )

    def __init__(self, chance: random.Random, address: str) -> None:
        self.make = fastshm.Manager(address)
        self.beside_what = self.make.root
        super().__init__(chance)
        self.make.root.update({name: getattr(self, name) for name in self.FOUND})

    def new_live(self, value: object) -> Any:
        return self.make.dict(value)  # a store's are live


class Newcomer(Things):
    """A program that comes later: for each operation it opens the store anew, finds the victims, and leaves again."""

    def __init__(self, chance: random.Random, address: str, tell: Callable[[int], None]) -> None:
        self.chance, self.address, self.tell = chance, address, tell
        self.kinds: dict[str, type] = {}

    def operations(self) -> dict[str, tuple[Callable[[], object], Ends]]:
        return {"a newcomer": (self.come, (NotFound, OverflowError))}  # which says that all numbers were given out

    def come(self) -> None:
        with fastshm.Manager(self.address, create=False) as self.make:
            try:
                try:
                    self.tell(self.number())  # another one each time
                except RuntimeError:  # its lock was struck
                    raise NotFound from None
                self.find()
                operation, ends = self.chance.choice(list(super().operations().values()))
                try:
                    operation()
                except ends:
                    raise NotFound from None
            finally:
                for name in Stored.FOUND:
                    vars(self).pop(name, None)

    def find(self) -> None:
        for name in Stored.FOUND:
            try:
                found = self.make.root[name]
            except (KeyError, ReferenceError):
                raise NotFound from None
            if type(found) is not self.kinds.setdefault(name, type(found)):
                raise NotFound
            setattr(self, name, found)

    def wait_for_store(self) -> None:
        """Until it was made, and all is in it."""
        while not self.kinds:
            try:
                self.come()
            except (FileNotFoundError, NotFound):
                self.kinds.clear()
                time.sleep(0.001)
