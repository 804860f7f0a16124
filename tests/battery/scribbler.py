"""Damages a living segment at random while others use it; says "TRIED tried, FAILED failed: what came of it".

    python tests/battery/scribbler.py SEED ROUNDS

Each round has a segment of its own, a process that writes into it and two that use what lies in it. Every other round the
writer keeps to its victims, and to their arrays wherever these have moved: then what lies beside them, the bystanders, must be
as it was, to the last item.

An operation may give an answer (what the damaged bytes say), or raise CorruptedError, or what the operation raises by itself
for what it finds (a key that is not there any more). It may not raise anything else, take a second, or end its process. Bytes
that were a pickle are pickle's business: what its loading raises is counted apart.

Not written, but once in every eighth round into a lock that is free: the number of somebody living as a lock's owner; nor into
a barrier's place, nor that a barrier's action runs. The living are waited for. (Damage can also bring such a number there by
way of an offset that leads to a lock.) So when an operation takes longer than a second, the judge looks at the word at which
it sleeps (waits.py): if that names somebody living who does not hold it, the word is healed, and the waiter must come on. That
is printed and counted apart; every other wait of a second has failed.
"""

from __future__ import annotations

import collections
import faulthandler
import mmap
import os
import pickle
import random
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

STRIKES = 120
SECONDS = 0.35
HANG = 1.0
PUT_OFF = 3  # times that a judgement is put off, for another has to be judged first
PATIENCE = 0.004  # of what waits
FIRST, GRAIN = 4096, 64
ARRAYS = {17: (48,), 19: (48, 56), 20: (48,), 24: (56,), 25: (80,)}  # by kind: where an object keeps the offsets of its arrays
OF_ARRAYS = (2, 5, 6, 11)  # kinds: raw, entries, slots, items
OBJECTS, LOCK = range(16, 28), 24  # kinds; where in its block an object has its lock
MOVED = 8  # strikes after which the writer looks again where its victims' arrays are
BARRIER_PHASE = 48


class DamagedPickle(Exception):
    """What loading a pickle has raised."""


def loads(data: bytes, plain: Callable[..., object] = pickle.loads, **buffers: object) -> object:
    try:
        return plain(data, **buffers)
    except Exception as error:
        raise DamagedPickle(repr(error)) from None


pickle.loads = loads  # type: ignore[assignment]  # before fastshm takes it

from waits import EXCUSED, FAILED, LATER, OWNERS, RING, Segment, names_one_who_does_not_hold, unready  # noqa: E402

import fastshm  # noqa: E402
from fastshm.heap import CorruptedError  # noqa: E402

Ends = tuple[type[BaseException], ...]


class Things:
    """The victims and the bystanders of one round."""

    def __init__(self, chance: random.Random) -> None:
        self.d = fastshm.dict({f"k{n}": self.value(n) for n in range(40)})
        self.l = fastshm.list([self.value(n) for n in range(40)])
        self.v, self.a = fastshm.Value("q", 5), fastshm.Array("q", 50)
        self.lock, self.rlock = fastshm.Lock(), fastshm.RLock()
        self.semaphore, self.bounded, self.event = fastshm.Semaphore(1), fastshm.BoundedSemaphore(2), fastshm.Event()
        self.condition, self.barrier = fastshm.Condition(), fastshm.Barrier(2, int)
        self.wait_for_notice()  # so that there are seats
        self.set, self.counts = fastshm.set(range(20)), fastshm.Counter({f"k{n}": n for n in range(20)})
        self.live, self.sharded = fastshm.live({"list": [1, 2], "dict": {"a": 1}}), fastshm.ShardedCounter(3)
        self.frozen = fastshm.frozen(self.value(n) for n in range(60))
        self.d["live"], self.d["pair"] = self.l, (self.l, [1, 2])
        self.d.update(value=self.v, condition=self.condition, set=self.set, frozen=self.frozen, lock=self.lock)
        self.l.append(self.d)
        self.still = {f"{n}": n for n in range(100)}
        self.words = [n * n for n in range(100)]
        self.beside = (
            *(fastshm.dict(self.still), fastshm.list(self.words), fastshm.Array("q", self.words), fastshm.Value("q", -7)),
            *(fastshm.Semaphore(3), fastshm.BoundedSemaphore(3)),
        )
        self.records = fastshm.frozen(self.words)
        self.victims = [self.d, self.l, self.v, self.a, self.lock, self.rlock, self.semaphore, self.bounded, self.event]
        self.victims += [self.condition._lock, self.condition._waiters, self.barrier]
        self.victims += [self.set.items, self.counts, self.live, self.live["list"], self.sharded]
        self.victims += [self.frozen._ends, self.frozen._data]
        self.still_there = [*self.beside, self.records._ends, self.records._data]
        self.chance = chance

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
            "live[k] = v": (lambda: self.live.__setitem__(key, {"a": [n]}), ()),
            "live.to_dict": (lambda: self.live.to_dict(), (TypeError, RecursionError, *gone)),
            "sharded.add": (lambda: self.sharded.add(n), ()),
            "sharded.value": (lambda: self.sharded.value, ()),
            "sharded.exchange": (lambda: self.sharded.exchange(n), ()),
            "frozen[i]": (lambda: self.frozen[n], (IndexError,)),
            "list(frozen)": (lambda: list(self.frozen), (IndexError,)),
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
            "with lock": (lambda: self.inside(self.lock), (ValueError,)),
            "with rlock": (lambda: self.inside(self.rlock), (AssertionError,)),
            "with v.get_lock()": (lambda: self.inside(v.get_lock()), (AssertionError,)),
            "with d.get_lock()": (lambda: self.inside(d.get_lock()), (AssertionError, KeyError)),
            "with semaphore": (lambda: self.permit(self.semaphore), (ValueError,)),
            "with bounded": (lambda: self.permit(self.bounded), (ValueError,)),
            "semaphore's value": (lambda: self.semaphore.get_value() + self.bounded.get_value(), ()),
            "event.set": (lambda: self.event.set(), ()),
            "event.clear": (lambda: self.event.clear(), ()),
            "event.wait": (lambda: self.event.wait(PATIENCE), ()),
            "condition.wait": (lambda: self.wait_for_notice(), (AssertionError,)),
            "condition.notify": (lambda: self.notify(n % 3), (AssertionError,)),
            "barrier.wait": (lambda: self.barrier.wait(PATIENCE), (BrokenBarrierError,)),
            "barrier.reset": (lambda: self.barrier.reset(), ()),
            "barrier.abort": (lambda: self.barrier.abort(), ()),
            "barrier's state": (lambda: (self.barrier.n_waiting, self.barrier.broken, self.barrier.parties), ()),
            "make and drop": (lambda: fastshm.dict({key: "x" * 40 * n}), ()),
            "pickle": (lambda: pickle.loads(pickle.dumps(items)), (ReferenceError,)),
            "check": (lambda: fastshm.heap.check(), ()),
        }

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


# --- the writer ---------------------------------------------------------------------------------------------------------------


class Writer:
    """Writes into the segment's file, through a mapping of its own."""

    def __init__(self, things: Things, narrow: bool, chance: random.Random, strikes: Any, living: list[int]) -> None:
        self.strikes, self.struck, self.living = strikes, 0, living
        name = things.d._address[0]
        fd = os.open(f"/dev/shm/{name}", os.O_RDWR)
        self.chance = chance
        committed = struct.unpack("Q", os.pread(fd, 8, 64))[0]
        self.m = mmap.mmap(fd, committed)
        self.end = committed
        self.action = things.barrier._address[1] + BARRIER_PHASE
        self.locks = {128, 144} | {self.action + 24 + 8 * n for n in range(things.barrier.parties)}
        self.locks |= {h._address[1] + LOCK for h in [*things.victims, *things.still_there]}
        self.guards = [handle._address[1] + LOCK for handle in things.victims]
        self.shut: set[int] = set()
        self.shut = {at for handle in things.still_there for at, size in self.parts(handle._address[1])}
        self.victims = [handle._address[1] for handle in things.victims] if narrow else []
        if narrow:
            self.look_again()
        else:
            self.aim_at([(0, 1500), *((at - 16, 16 + min(size, 2000)) for at, size in self.blocks())])
        self.offsets = [at - 16 for at, _ in self.blocks() if at not in self.shut]

    def aim_at(self, ranges: list[tuple[int, int]]) -> None:
        self.places = [at for begin, size in ranges for at in range(begin, begin + size, 8)]

    def look_again(self) -> None:
        self.aim_at([part for victim in self.victims for part in self.parts(victim)])

    def word(self, at: int) -> int:
        return int(struct.unpack_from("Q", self.m, at)[0]) if at + 8 <= len(self.m) else 0

    def blocks(self) -> list[tuple[int, int]]:
        """Where each block's payload begins, and its bytes."""
        found, at = [], FIRST
        while at < self.end and (size := (self.word(at) & 0xFFFFFFFF) * GRAIN):
            found.append((at + 16, min(size, self.end - at) - 16))  # the last one grows with the segment
            at += size
        return found

    def parts(self, offset: int) -> list[tuple[int, int]]:
        """The payload of an object's block and, for containers, of its arrays: but not of what a damaged word leads to."""
        kind = self.word(offset + 8) & 0xFFFFFFFF
        offsets = [offset] + [at for place in ARRAYS.get(kind, ()) if self.is_array(at := self.word(offset + place))]
        found = [(at + 16, (self.word(at) & 0xFFFFFFFF) * GRAIN - 16) for at in offsets]
        return [(at, size) for at, size in found if 0 < size <= self.end - at and at not in self.shut]

    def is_array(self, at: int) -> bool:
        return at % GRAIN == 0 and FIRST <= at < self.end and self.word(at + 8) & 0xFFFFFFFF in OF_ARRAYS

    def is_lock(self, at: int) -> bool:
        """Of an object that was made since."""
        return at % GRAIN == LOCK and at >= FIRST and self.word(at - LOCK + 8) & 0xFFFFFFFF in OBJECTS

    def strike(self) -> None:
        chance, at = self.chance, self.chance.choice(self.places)
        old = self.word(at)
        other = self.word(chance.choice(self.places))
        new = chance.choice(
            [
                chance.getrandbits(64), old ^ 1 << chance.randrange(64), chance.randrange(256), 0, (1 << 64) - 1, 1 << 63,
                old + chance.randrange(-8, 9), chance.choice(self.offsets), other if other - 16 not in self.shut else 0,
                old & ~0xFFFFFFFF | chance.randrange(64), old & 0xFFFFFFFF | chance.randrange(64) << 32, chance.getrandbits(40),
            ]
        ) % (1 << 64)  # fmt: skip
        if new & OWNERS < 10_000 and (at in self.locks or self.is_lock(at)):
            new |= 0x20000000  # nobody's number
        if at == self.action and new & 0xFFFFFFFF == 1:
            new += 1
        if new != old and new + 16 in self.shut:  # an offset that leads to a bystander
            new |= 1 << 50
        self.note(at, new)
        struct.pack_into("Q", self.m, at, new)

    def note(self, at: int, new: int) -> None:
        struct.pack_into("QQ", self.strikes, 16 * self.struck, at, new)
        self.struck += 1

    def name_the_living(self) -> None:
        at = self.chance.choice(self.guards)
        if not struct.unpack_from("I", self.m, at)[0]:
            living = self.chance.choice(self.living)
            self.note(at, living)
            struct.pack_into("I", self.m, at, living)

    def write(self) -> None:
        begin = time.monotonic()
        for n in range(STRIKES):
            if self.victims and n % MOVED == 0:
                self.look_again()
            self.strike()
            if n == STRIKES // 2 and self.living:
                self.name_the_living()
            time.sleep(max(0.0, begin + (n + 1) * SECONDS / STRIKES - time.monotonic()))


# --- its victims' users -------------------------------------------------------------------------------------------------------


def use(things: Things, narrow: bool, progress: Any, report: int) -> None:
    """Operations until the time is up. The counts of what came of them go to `report`."""
    with things.rlock:
        progress[32:36] = struct.pack("I", Segment(fastshm.heap.default().name).word(things.rlock._address[1] + LOCK) & OWNERS)
    while progress[36:40] == bytes(4):
        time.sleep(0.001)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), used + (2 << 30)))  # a damaged pickle may ask for any amount
    came: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        name, (operation, ends) = things.chance.choice(list(things.operations().items()))
        progress[:24] = name.encode()[:24].ljust(24)
        try:
            operation()
            came["answers"] += 1
        except CorruptedError:
            came["CorruptedError"] += 1
        except DamagedPickle:
            came["of pickle"] += 1
        except ends:
            came["its own errors"] += 1
        except BaseException as error:
            wrong.append(f"{name}: {error!r}")
        try:
            if narrow and not things.beside_is_right():
                wrong.append(f"a bystander after {name}")
        except CorruptedError:
            came["CorruptedError"] += 1
        except BaseException as error:
            wrong.append(f"a bystander after {name}: {error!r}")
        progress[24:32] = struct.pack("Q", sum(came.values()) + len(wrong))
    progress[:24], progress[40] = b"the end".ljust(24), 1
    os.write(report, pickle.dumps((came, [text[:500] for text in wrong[:20]], len(wrong))))
    os._exit(0)


class Watch:
    """Waits for the users: what one of them has died of, or was doing when it did nothing more for a second."""

    def __init__(self, things: Things, pids: list[int], numbers: list[int], progress: list[Any], strikes: Any) -> None:
        self.pids, self.numbers, self.progress, self.strikes = pids, numbers, progress, strikes
        self.mutexes = {things.lock._address[1] + LOCK}
        self.undecided = [0] * len(pids)
        self.segment = Segment(fastshm.heap.default().name)
        self.found: list[str] = []
        self.excused: list[str] = []
        self.begun = [(b"", 0.0, 0.0)] * len(pids)  # what each is at, since when, and how long it had no processor then
        self.healed: dict[int, str] = {}  # who must come on now
        self.mended: dict[int, float] = {}  # which words were healed, and when: others may have waited there, too

    def count(self, n: int) -> bytes:
        return bytes(self.progress[n][24:32])

    def done(self, n: int) -> bytes | None:
        return None if self.progress[n][40] else self.count(n)

    def says(self, n: int) -> str:
        return bytes(self.progress[n][:24]).rstrip(b"\0 ").decode()

    def waits_for(self, n: int) -> float:
        """Seconds since it came on, those without a processor left out."""
        if self.begun[n][0] != self.count(n):
            self.begin_again(n)
            self.undecided[n] = 0
            if n in self.healed:
                self.excused.append(self.healed.pop(n))
        return time.monotonic() - self.begun[n][1] - (unready(self.pids[n]) - self.begun[n][2])

    def begin_again(self, n: int) -> None:
        self.begun[n] = self.count(n), time.monotonic(), unready(self.pids[n])

    def struck(self, at: int) -> str:
        """What was written over these four bytes on purpose."""
        written = [new for place, new in struct.iter_unpack("QQ", self.strikes[:]) if place == at & ~7]
        return ", ".join(f"{new >> 32 if at & 4 else new & 0xFFFFFFFF:#x}" for new in written)

    def judge(self, n: int) -> bool:
        """Its wait of a second: is it to go on for now?"""
        wait, what = self.segment.wait_of(self.pids[n]), self.says(n)
        if self.count(n) != self.begun[n][0]:  # it has come on meanwhile
            return True
        if n in self.healed:
            self.found.append(f"{what}: nothing for a second more: {self.healed.pop(n)}")
            return False
        if time.monotonic() - self.mended.get(wait.at, -HANG) < HANG:
            self.begin_again(n)
            return True
        verdict, why = FAILED, ""
        if wait.at >= 0:
            judged = (self.segment, wait, n, self.numbers, self.pids, self.mutexes, self.done)
            verdict, why = names_one_who_does_not_hold(*judged)
        struck = self.struck(wait.at)
        if self.undecided[n] < PUT_OFF and (verdict == LATER or (verdict == RING and not struck)):
            self.undecided[n] += 1
            self.begin_again(n)
            return True
        told = f"{what}: nothing for a second; {wait.told}; {why}; written there: {struck or 'nothing'}"
        if verdict not in (EXCUSED, RING):
            self.found.append(told)
            return False
        self.undecided[n] = 0
        self.segment.heal(wait.at)
        self.healed[n], self.mended[wait.at] = told, time.monotonic()
        self.begin_again(n)
        return True

    def all(self) -> None:
        left, last = set(range(len(self.pids))), time.monotonic()
        while left:
            time.sleep(0.01)
            late, last = time.monotonic() - last - 0.05, time.monotonic()
            for n in sorted(left):
                done, status = os.waitpid(self.pids[n], os.WNOHANG)
                if done:
                    left.remove(n)
                    self.excused += filter(None, [self.healed.pop(n, "")])
                    if status:
                        self.found.append(f"{self.says(n)}: ended with status {status}")
                    continue
                if late > 0:  # a judge that had no processor has not seen enough
                    self.begun[n] = self.begun[n][0], self.begun[n][1] + late, self.begun[n][2]
                is_at_its_end = self.progress[n][40]  # what is left is the kernel's: to free its memory
                if not is_at_its_end and self.waits_for(n) > HANG and not self.judge(n):
                    os.kill(self.pids[n], signal.SIGABRT)  # faulthandler tells where
                    os.waitpid(self.pids[n], 0)
                    left.remove(n)


def round_of(seed: int, number: int) -> tuple[collections.Counter[str], list[str], int]:
    """In a process of its own."""
    chance = random.Random(f"{seed} {number}")
    narrow = number % 2 == 1
    things = Things(chance)
    came: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    progress = [mmap.mmap(-1, 4096) for _ in range(2)]
    strikes = mmap.mmap(-1, 16 * (STRIKES + 1))
    pipes = [os.pipe() for _ in range(2)]
    pids = []
    for n in range(2):
        pid = os.fork()
        if not pid:
            things.chance = random.Random(f"{seed} {number} {n}")
            use(things, narrow, progress[n], pipes[n][1])
        os.close(pipes[n][1])
        pids.append(pid)
    while any(progress[n][32:36] == bytes(4) for n in range(2)):
        time.sleep(0.001)
    numbers = [struct.unpack_from("I", progress[n], 32)[0] for n in range(2)]
    watch = Watch(things, pids, numbers, progress, strikes)
    for n in range(2):
        progress[n][36] = 1
    pid = os.fork()
    if not pid:
        Writer(things, narrow, chance, strikes, [] if number % 8 < 7 else numbers).write()
        os._exit(0)
    watch.all()
    wrong += watch.found
    if os.waitpid(pid, 0)[1]:
        wrong.append("the writer has died")
    failed = len(wrong)
    for read, _ in pipes:
        with open(read, "rb") as pipe:
            data = pipe.read()
        if data:
            counts, some, many = pickle.loads(data)
            came += counts
            wrong += some
            failed += many
    came["strikes"] = STRIKES
    came["waits for the living"] = len(watch.excused)
    return came, wrong + [f"excused: {told}" for told in watch.excused], failed


def main() -> int:
    seed, rounds = int(sys.argv[1]), int(sys.argv[2])
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    faulthandler.enable()
    came: collections.Counter[str] = collections.Counter()
    failed = 0
    for number in range(first, first + rounds):
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            with open(write, "wb") as pipe:
                pipe.write(pickle.dumps(round_of(seed, number)))
            name = fastshm.heap.default().name
            os.unlink(f"/dev/shm/{name}")  # whether it could still be left in order is not asked
            resource_tracker.unregister(f"/{name}", "shared_memory")
            os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            data = pipe.read()
        if os.waitpid(pid, 0)[1] or not data:
            wrong, many = ["the round's own process has died"], 1
        else:
            counts, wrong, many = pickle.loads(data)
            came += counts
        failed += many
        for text in wrong:
            print(f"seed {seed} round {number}: {text}", flush=True)
    note = ", ".join(f"{came[what]:,} {what}" for what in sorted(came))
    tried = sum(came.values()) - came["strikes"] - came["waits for the living"]
    print(f"{tried} tried, {failed} failed: {note}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
