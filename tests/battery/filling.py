"""The program behind full.py: fills the memory of /dev/shm, or what a limit allows of it, with every kind of object.

    python filling.py WAY SEED [NAME]        in a /dev/shm of its own, of the size to be filled; WAY is one of WAYS

A child for each kind makes a segment, fills it, and compares all that was stored with a plain copy; lets go of half and fills
it again; lets go of everything and fills it once more. A refusal is MemoryError or OSError, and says how much is free and what
to do; a child that a signal ends has failed. A kind joins by one line in KINDS.
"""

from __future__ import annotations

import errno
import os
import pickle
import random
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

from battery import fork_a_stranger

import fastshm
from fastshm import heap

MOST = 5_000_000


SCALE = max(1, os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize >> 21)  # more memory, larger things


def wide(i: int) -> str:
    return chr(97 + i % 26) * (i * 7_919 % (3_000 * SCALE))


def small(i: int) -> list[Any]:
    return [i, wide(i)[: 200 * SCALE]]


def numbers(i: int) -> dict[str, Any]:
    return {"n": [i] * 50 * SCALE, "i": i}


# --- kinds --------------------------------------------------------------------------------------------------------------------


class Kind:
    """What is filled, and a plain copy of it. `add` stores one thing more, wholly or not at all, and only then is it copied."""

    frees = True  # whether there is room for more after half of it was let go

    def __init__(self, store: Callable[[Any, int], Any], copied: Callable[[int], Any]) -> None:
        self.store, self.copied = store, copied
        self.start()

    def start(self) -> None:
        raise NotImplementedError

    def add(self, i: int) -> None:
        raise NotImplementedError

    def check(self) -> None:
        raise NotImplementedError

    def let_go(self, all_of_it: bool) -> None:
        raise NotImplementedError


class Entries(Kind):
    """A dict: store(d, i) puts the items of copied(i) into it."""

    def start(self) -> None:
        self.d, self.model = fastshm.dict(), dict[Any, Any]()

    def add(self, i: int) -> None:
        self.store(self.d, i)
        self.model.update(self.copied(i))

    def check(self) -> None:
        assert self.d.copy() == self.model
        assert len(self.d) == len(self.model)

    def let_go(self, all_of_it: bool) -> None:
        if all_of_it:
            self.d.clear()
            self.model.clear()
        for key in list(self.model)[: len(self.model) // 2]:
            del self.d[key], self.model[key]


class Items(Kind):
    """A list: store(l, i) does to it what it does to a builtin list."""

    def start(self) -> None:
        self.items, self.model = fastshm.list(), list[Any]()

    def add(self, i: int) -> None:
        self.store(self.items, i)
        self.store(self.model, i)

    def check(self) -> None:
        assert self.items[:] == self.model
        assert len(self.items) == len(self.model)

    def let_go(self, all_of_it: bool) -> None:
        for _ in range(len(self.model) if all_of_it else len(self.model) // 2):
            assert self.items.pop() == self.model.pop()


class Grown(Kind):
    """An array, which keeps the room that it has had."""

    def start(self) -> None:
        self.items, self.model = fastshm.Array("B", 0), bytearray()

    def add(self, i: int) -> None:
        values = bytes([i % 256]) * (i * 7_919 % (3_000 * SCALE) + 1)
        self.items.extend(values)
        self.model += values

    def check(self) -> None:
        assert self.items._read_bytes() == self.model

    def let_go(self, all_of_it: bool) -> None:
        del self.items
        self.start()


class Nested(Kind):
    """A dict of containers, which are read one after the other: a handle on each at once would itself need memory."""

    def start(self) -> None:
        self.d, self.model = fastshm.dict(), dict[int, Any]()

    def add(self, i: int) -> None:
        self.store(self.d, i)
        self.model[i] = self.copied(i)

    def check(self) -> None:
        assert self.d.keys() == list(self.model)
        for i, plain in self.model.items():
            inner = self.d[i]
            assert (inner[:] if isinstance(plain, list) else inner.copy()) == plain, i

    def let_go(self, all_of_it: bool) -> None:
        if all_of_it:
            self.d.clear()
            self.model.clear()
        for key in list(self.model)[::2]:
            del self.d[key], self.model[key]


class Objects(Kind):
    """Many objects: store(None, i) makes one, whose contents are copied(i)."""

    def start(self) -> None:
        self.kept, self.model = list[Any](), list[Any]()

    def add(self, i: int) -> None:
        self.kept.append(self.store(None, i))
        self.model.append(self.copied(i))

    def check(self) -> None:
        for one, plain in zip(self.kept, self.model, strict=True):
            if hasattr(one, "value"):
                assert one.value == plain
            elif hasattr(one, "copy"):
                assert one.copy() == plain
            elif hasattr(one, "__getitem__"):
                assert one[:] == plain
            elif hasattr(one, "is_set"):
                assert one.is_set() == plain
            elif hasattr(one, "acquire"):
                assert one.acquire(False) is True
                one.release()

    def let_go(self, all_of_it: bool) -> None:
        rest = slice(0 if all_of_it else len(self.kept) // 2, None)
        del self.kept[rest], self.model[rest]


class Tickets(Objects):
    """Objects that are only in bytes: pickled, and let go of."""

    def check(self) -> None:
        assert len(self.kept) == len(self.model)

    def let_go(self, all_of_it: bool) -> None:
        for _ in range(len(self.kept) if all_of_it else len(self.kept) // 2):
            plain = self.model.pop()
            assert pickle.loads(self.kept.pop())[:] == plain


class Growing(Kind):
    """One value that grows."""

    def start(self) -> None:
        self.d, self.n = fastshm.dict(same=""), 0

    def add(self, i: int) -> None:
        self.d["same"] = "x" * (self.n + 1_000)
        self.n += 1_000

    def check(self) -> None:
        assert self.d.copy() == {"same": "x" * self.n}

    def let_go(self, all_of_it: bool) -> None:
        self.n = 0 if all_of_it else self.n // 2
        self.d["same"] = "x" * self.n


class Mixed(Kind):
    """All of it at once, as chance will have it."""

    def start(self) -> None:
        self.parts = [
            make() for name, make in KINDS.items() if name not in ("all at once", "a value that grows", "a dict, keys only")
        ]

    def add(self, i: int) -> None:
        random.choice(self.parts).add(i)

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def let_go(self, all_of_it: bool) -> None:
        for part in self.parts:
            part.let_go(all_of_it)


class Tight(Entries):
    frees = False  # a table keeps the room of its entries


def extended(items: Any, i: int) -> None:
    items.extend([wide(i), i, wide(i + 1)])


def pickled(_: object, i: int) -> bytes:
    return pickle.dumps(fastshm.list(small(i)))


def an_event(_: object, i: int) -> Any:
    event = fastshm.Event()
    if i % 2:
        event.set()
    return event


def nothing(_: int) -> None:
    return None


KINDS: dict[str, Callable[[], Kind]] = {
    "a dict, ints": lambda: Tight(lambda d, i: d.__setitem__(i, i), lambda i: {i: i}),
    "a dict, increments": lambda: Tight(lambda d, i: d.increment(i, i), lambda i: {i: i}),
    "a dict, text": lambda: Entries(lambda d, i: d.__setitem__(f"key {i}", wide(i)), lambda i: {f"key {i}": wide(i)}),
    "a dict, bytes": lambda: Entries(lambda d, i: d.__setitem__(i, wide(i).encode()), lambda i: {i: wide(i).encode()}),
    "a dict, pickles": lambda: Entries(
        lambda d, i: d.__setitem__(i, {"n": [i] * 50 * SCALE}), lambda i: {i: {"n": [i] * 50 * SCALE}}
    ),
    "a dict, keys only": lambda: Entries(lambda d, i: d.__setitem__("k" * 500 + str(i), i), lambda i: {"k" * 500 + str(i): i}),
    "a dict, updates": lambda: Entries(
        lambda d, i: d.update({(i, k): wide(i + k) for k in range(50)}), lambda i: {(i, k): wide(i + k) for k in range(50)}
    ),
    "a dict, setdefault": lambda: Entries(lambda d, i: d.setdefault(i, small(i)), lambda i: {i: small(i)}),
    "a list, ints": lambda: Items(lambda items, i: items.append(i), nothing),
    "a list, text": lambda: Items(lambda items, i: items.append(wide(i)), nothing),
    "a list, extended": lambda: Items(extended, nothing),
    "a list, inserted": lambda: Items(lambda items, i: items.insert(len(items) // 2, wide(i)), nothing),
    "a list, slices": lambda: Items(lambda items, i: items.__setitem__(slice(0, 0), small(i)), nothing),
    "lists in a dict": lambda: Nested(lambda d, i: d.__setitem__(i, fastshm.list(small(i))), small),
    "dicts in a dict": lambda: Nested(
        lambda d, i: d.__setitem__(i, fastshm.dict(n=i, t=wide(i))), lambda i: {"n": i, "t": wide(i)}
    ),
    "values": lambda: Objects(lambda _, i: fastshm.Value("q", i), lambda i: i),
    "counters": lambda: Objects(lambda _, i: fastshm.ShardedCounter(i), lambda i: i),
    "arrays": lambda: Objects(lambda _, i: fastshm.Array("q", [i] * (i % 100 + 1)), lambda i: [i] * (i % 100 + 1)),
    "an array that grows": lambda: Grown(nothing, nothing),  # type: ignore[arg-type]
    "raw arrays": lambda: Objects(lambda _, i: fastshm.RawArray("q", [i] * (i % 100 + 1)), lambda i: [i] * (i % 100 + 1)),
    "dicts": lambda: Objects(lambda _, i: fastshm.dict(n=i), lambda i: {"n": i}),
    "lists": lambda: Objects(lambda _, i: fastshm.list(small(i)), small),
    "locks": lambda: Objects(lambda _, i: (fastshm.Lock, fastshm.RLock)[i % 2](), nothing),
    "semaphores": lambda: Objects(lambda _, i: (fastshm.Semaphore, fastshm.BoundedSemaphore)[i % 2](1), nothing),
    "events": lambda: Objects(an_event, lambda i: bool(i % 2)),
    "conditions": lambda: Objects(lambda _, i: fastshm.Condition(), nothing),
    "barriers": lambda: Objects(lambda _, i: fastshm.Barrier(2), nothing),
    "pickled handles": lambda: Tickets(pickled, small),
    "a value that grows": lambda: Growing(nothing, nothing),  # type: ignore[arg-type]
    "all at once": lambda: Mixed(nothing, nothing),  # type: ignore[arg-type]
}


# --- filling ------------------------------------------------------------------------------------------------------------------

tried = 0


def is_remedy(error: BaseException) -> None:
    """It says how much is free, truly, and what helps."""
    text = str(error)
    found = re.search(r": ([\d,]+) bytes are free in", text)
    assert found, f"how much is free? {text!r}"
    f = os.statvfs("/dev/shm")
    free = int(found[1].replace(",", ""))
    assert TWO or free == f.f_bavail * f.f_frsize, f"{f.f_bavail * f.f_frsize} are free: {text!r}"
    for word in ("/dev/shm", "free some", "enlarge the tmpfs", "ulimit -f", "ulimit -v"):
        assert word in text, f"no remedy: {text!r}"


TWO = False  # another process changes what is free


def fill(kind: Kind, first: int, check: Callable[[BaseException], None]) -> int:
    """How often it went until it was refused."""
    global tried
    for i in range(first, MOST):
        try:
            kind.add(i)
        except (MemoryError, OSError) as error:
            check(error)
            return i - first
        tried += 1
    raise AssertionError("never full")


def go_through(name: str, check: Callable[[BaseException], None] = is_remedy) -> None:
    """Full, half, full, empty, full."""
    other = fastshm.Value("q", 5)
    kind = KINDS[name]()
    count = fill(kind, 0, check)
    assert count > 3, count
    kind.check()
    heap.check()
    assert other.fetch_add(1) == 5
    try:
        fastshm.list([0] * 1_000).__imul__(1_000_000)
    except MemoryError as error:
        check(error)
    for again in range(3):  # a refusal changes nothing
        try:
            kind.add(count + again)
        except (MemoryError, OSError) as error:
            check(error)
        kind.check() if again == 2 else None
    kind.let_go(False)
    more = fill(kind, count + 3, check)
    assert more or not kind.frees, "there was no room again"
    kind.check()
    heap.check()
    kind.let_go(True)
    last = fill(kind, 0, check)
    assert last > count * 0.6, f"{count} before, {last} after everything was let go"
    kind.check()
    kind.let_go(True)
    kind.check()
    census = heap.check()
    assert census["bytes_used"] < census["committed"] // 4 or name.startswith("a "), census
    assert other.value == 6


# --- ways ---------------------------------------------------------------------------------------------------------------------


def of_tmpfs(name: str) -> None:
    go_through(name)


def of_file_size(name: str) -> None:
    """Segments end at RLIMIT_FSIZE. Half of what is there: the tmpfs is not what is full."""
    f = os.statvfs("/dev/shm")
    limit = f.f_blocks * f.f_frsize // 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    go_through(name)
    size = os.stat(f"/dev/shm/{heap.default().name}").st_size
    assert size <= limit


def of_address_space(name: str) -> None:
    """A segment is no larger than what may be mapped, here half of what is there; what Python then needs is there."""
    f = os.statvfs("/dev/shm")
    room = f.f_blocks * f.f_frsize
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room * 7 // 8, resource.RLIM_INFINITY))
    fastshm.Value("i")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    size = os.stat(f"/dev/shm/{heap.default().name}").st_size
    assert size <= room // 2, size
    go_through(name)


def of_descriptors(_: str) -> None:
    """One descriptor more each time, until a segment can be made: an OSError that says EMFILE, and nothing left."""
    global tried
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    before, refused, d = len(os.listdir("/proc/self/fd")), 0, None
    for more in range(12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, hard))
        tried += 1
        try:
            d = fastshm.dict(a=1)
        except OSError as error:
            refused += error.errno == errno.EMFILE
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if d is not None:
            break
        assert len(os.listdir("/proc/self/fd")) == before
        assert not [name for name in os.listdir("/dev/shm") if name.startswith("fastshm-")]
    assert d is not None
    assert refused > 1, refused
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    for i in range(1_000):  # what is open is enough, also for more memory
        d[i] = wide(i)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    heap.check()
    assert d.copy() == {"a": 1, **{i: wide(i) for i in range(1_000)}}


def of_two_families(name: str) -> None:
    """Two processes that know nothing of each other, in one tmpfs."""
    global TWO
    TWO = True
    mine, theirs = os.pipe(), os.pipe()
    pid = fork_a_stranger()
    kind = KINDS[name]()  # in a segment of its own, and only then the filling begins
    os.write((mine if pid else theirs)[1], b"!")
    os.read((theirs if pid else mine)[0], 1)
    count = fill(kind, 0, is_remedy)
    kind.check()
    if count:
        kind.let_go(True)
        kind.check()
    heap.check()
    if not pid:
        heap._leave()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    last = fill(kind, 0, is_remedy)
    assert last > 3, "the other one is gone, and its memory, too"
    kind.check()


def of_two_in_one(name: str) -> None:
    """Two processes in one segment, each with an object of its own, and one that both fill."""
    global TWO, tried
    TWO = True
    both, own, theirs = fastshm.dict(), KINDS[name](), KINDS[name]()
    acknowledged = fastshm.dict()
    acknowledged.update({0: 0, 1: 0})
    pid = os.fork()
    me = 0 if pid else 1
    mine = own if pid else theirs
    for i in range(MOST):
        try:
            mine.add(i)
            both[(me, i)] = i
            acknowledged[me] = i + 1
            tried += 1
        except MemoryError as error:
            is_remedy(error)
            break
    mine.check()
    if not pid:
        heap._leave()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    seen = both.copy()
    for who in range(2):
        n = acknowledged[who]
        mine_in_both = [i for w, i in seen if w == who]
        assert mine_in_both[:n] == list(range(n)), "a write that was acknowledged is gone"
        assert len(mine_in_both) <= n + 1
    assert all(i == seen[w, i] for w, i in seen)
    own.check()
    heap.check()


def refusals(d: Any, value: Any, array: Any, gated: Any, inner: Any) -> int:
    """How much of what a child without a part tries is refused."""
    tries: list[Callable[[], object]] = [
        lambda: d[1],
        lambda: len(d),
        lambda: d.copy(),
        lambda: 1 in d,
        lambda: list(d),
        lambda: d.__setitem__(1, 2),
        lambda: d.get_lock().acquire(),
        lambda: pickle.dumps(d),
        lambda: value.value,
        lambda: value.add(1),
        lambda: value.get_lock().acquire(),
        lambda: array[0],
        lambda: array[:],
        lambda: array.__setitem__(0, 3),
        lambda: memoryview(array),
        lambda: gated["a"],
        lambda: gated.get("b"),
        lambda: inner[0],
        lambda: len(inner),
        lambda: list(inner),
        lambda: inner.append(2),
        lambda: fastshm.dict(a=1),
    ]
    refused = 0
    for attempt in tries:
        try:
            attempt()
        except MemoryError as error:
            refused += "fork" in str(error)
    return refused


def of_a_full_fork(_: str) -> None:
    """A child for which there is no room says so, and touches nothing, however its parent goes on."""
    d, hog = fastshm.dict({i: wide(i) for i in range(20)}), fastshm.list([0] * 3_000)
    value, array, view = fastshm.Value("q", 7), fastshm.Array("q", [1, 2]), fastshm.Manager()
    gated, inner, n = view.dict(a=1), view.list([1]), 0
    for size in (30_000, 3_000, 1_000, 500, 200, 100, 40, 20):
        try:
            while True:
                hog[n] = "y" * size
                n += 1
        except MemoryError as error:
            is_remedy(error)
    go = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(go[0], 1)
        os._exit(refusals(d, value, array, gated, inner))
    addresses = {x._address for x in (d, value, array, gated, inner)}
    del d, value, array, gated, inner
    others = [fastshm.Value("q", i) for i in range(20)]
    filled = fastshm.dict(dict.fromkeys(range(20), "z" * 90))
    assert len(addresses) == 5
    os.write(go[1], b"!")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 22, f"{code} of 22 were refused"
    assert [v.value for v in others] == list(range(20))
    assert filled.copy() == dict.fromkeys(range(20), "z" * 90)
    hog[:] = []
    heap.check()
    pid = os.fork()
    if not pid:
        os._exit(int(filled[3] == "z" * 90 and others[3].value == 3) + 6)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7, "there is room for a child again"


def of_cgroup(name: str) -> None:
    """The kernel kills who fills a memory cgroup, or refuses it: the survivor, outside, has all that was acknowledged."""
    cgroup = sys.argv[4]
    d, acknowledged = fastshm.dict(), fastshm.Value("q", 0)
    pid = os.fork()
    if not pid:
        with open(f"{cgroup}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
        for i in range(MOST):
            try:
                d[i] = wide(i)
            except MemoryError as error:
                is_remedy(error)
                os._exit(1)
            acknowledged.value = i + 1
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    n = acknowledged.value
    assert code in (1, -signal.SIGKILL), code
    assert n > 100, n
    plain = d.copy()
    assert len(plain) in (n, n + 1)
    assert plain == {i: wide(i) for i in range(len(plain))}
    d.clear()
    d["again"] = wide(9)
    heap.check()


WAYS: dict[str, tuple[Callable[[str], None], bool]] = {  # with each kind, or once
    "tmpfs": (of_tmpfs, True),
    "file size": (of_file_size, True),
    "address space": (of_address_space, True),
    "descriptors": (of_descriptors, False),
    "two families": (of_two_families, True),
    "two in one": (of_two_in_one, True),
    "fork": (of_a_full_fork, False),
    "cgroup": (of_cgroup, False),
}


def kinds(each: bool, only: str) -> Iterator[str]:
    yield from (name for name in KINDS if only in name) if each else ["once"]


def main() -> int:
    way, seed, only = sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""
    go, each = WAYS[way]
    resource_tracker.ensure_running()
    all_tried = failed = 0
    for name in kinds(each, only):
        begin = time.monotonic()
        reading, writing = os.pipe()
        pid = fork_a_stranger()
        if not pid:
            code = 1
            try:
                random.seed(seed)
                go(name)
                code = 0
            except BaseException:
                traceback.print_exc()
            os.write(writing, str(tried or 1).encode())
            heap._leave()
            os._exit(code)
        os.close(writing)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        all_tried += int(os.read(reading, 20) or b"1")
        os.close(reading)
        left = [entry for entry in os.listdir("/dev/shm") if entry.startswith("fastshm-")]
        if code or left:
            failed += 1
            print(f"{way}, {name}, seed {seed}: exit code {code}, left in /dev/shm: {left}", flush=True)
            for entry in left:
                os.unlink(f"/dev/shm/{entry}")
        print(f"{way:<16} {name:<24} {time.monotonic() - begin:6.2f} s", flush=True)
    print(f"{all_tried} tried, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
