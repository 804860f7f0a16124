"""Item 12: what is left. Names in /dev/shm, descriptors, mappings, private and shared memory, after thousands of everything.

A turn is made over and over; what there is after the second half of the turns is compared with what there was after the first
(the first one fills caches and free lists). What has grown then must not grow again and again: a leak does, with each turn,
while the interpreter's own caches go on to fill for some thousand turns, less and less. Each figure runs in a process of its
own, and run.py counts the names at the end.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, util
from pathlib import Path
from typing import Any

from battery import SEEDS, Figure, Mutant, names
from trials import Trials, census, figure, quiet_tracker, until

BLOCKS = 100  # of Python's allocator: fewer than one each 10 turns
PRIVATE = 768 << 10  # bytes of anonymous memory: fewer than 160 a turn in 5,000 turns
STRETCHES = 4  # of turns: a leak grows in all of them but the first

MUTANTS = (
    Mutant(
        "a handle's slot is used again",
        "_core.pyx",
        "        fs_slot_unuse(heap.h, slot)\n        if heap.pending",
        "        if heap.pending",
    ),
    Mutant(
        "what the dead held is given back",
        "reap.h",
        "if (at != heap->process && !fs_alive(heap, p->id))",
        "if (0)",
    ),
    Mutant("a segment that was left is unmapped", "segment.h", "        munmap(heap->base, heap->size);\n", ""),
    Mutant("its descriptors are closed", "segment.h", "        fs_close_own(heap, &heap->fd);\n", ""),
    Mutant(
        "of two that leave at once, one is the last",
        "reap.h",
        "        if (kept || fs_claim_all(fd, heap->by_process) == -1)\n            return 0;",
        "        return 0;",
    ),
    Mutant(
        "a sweep removes under a claim on all numbers",
        "names.py",
        "(_core.is_abandoned(fd) if remove else _core.is_unclaimed(fd))",
        "True",
    ),
    Mutant("looking does not claim", "_core.pyx", "return not fs_probe_all(fd)", "return fs_claim_all(fd, 0) == 0"),
    Mutant(
        "who joins looks whether the name is still there",
        "registry.h",
        "if (r == FS_OK && (fstat(heap->fd, &st) == -1 || (!st.st_nlink && !heap->nameless)))",
        "if (0 && fstat(heap->fd, &st))",
    ),
    Mutant(
        "a maker whose name was swept makes another",
        "heap.py",
        "if isinstance(error, (FileExistsError, ReferenceError)):",
        "if isinstance(error, ()):",
    ),
    Mutant("a ticket is freed when it is used", "registry.h", "    r = fs_give(heap, &t->block);\n", "    r = FS_OK;\n"),
)


# --- what there is ------------------------------------------------------------------------------------------------------------


class Census(dict[str, int]):
    """Counts of this process and of its segment."""

    def less(self, before: Census, allowed: dict[str, int]) -> dict[str, int]:
        """What has grown by more than is allowed."""
        return {what: self[what] - before[what] for what in self if self[what] - before[what] > allowed.get(what, 0)}


def counted(segment: bool = True) -> Census:
    """The segment's own counts, too, unless it is not to be made for that."""
    inside = census() if segment else {}
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return Census(
        inside,
        names=len(names()),
        descriptors=len(os.listdir("/proc/self/fd")),
        mappings=Path("/proc/self/maps").read_text().count("fastshm-"),
        lines=len(Path("/proc/self/maps").read_text().splitlines()),
        private=int(status["RssAnon"].split()[0]) << 10,
        shared=int(status["RssShmem"].split()[0]) << 10,
        blocks=sys.getallocatedblocks(),
    )


def flat(name: str, turns: int, turn: Callable[[int], Any], trials: Trials, *, segment: bool = True, **allowed: int) -> None:
    """Does nothing of it grow in the second half, or, if something does, not once more and once more?"""
    allowed = {"private": PRIVATE, "blocks": BLOCKS, "lines": 4, "shared": 64 << 10, **allowed}
    counted(segment)
    half = turns // 2
    before, growing, seen = Census(), set[str](), []
    for stretch in range(STRETCHES):
        for i in range(stretch * half, (stretch + 1) * half):
            turn(i)
        now = counted(segment)
        if stretch:
            more = now.less(before, allowed)
            seen.append(more)
            growing = growing & set(more) if stretch > 1 else set(more)
            if not growing:
                break
        before = now
    with trials.trial(name):
        assert not growing, f"{name}: each {half} turns {seen}"


# --- objects ------------------------------------------------------------------------------------------------------------------


class Unpicklable:
    def __reduce__(self) -> Any:
        raise pickle.PicklingError("half way")


def kinds(fastshm: Any) -> Iterator[tuple[str, Callable[[int], Any]]]:
    """Each kind of object: made, used, dropped."""
    from fastshm.caching import Cache

    yield "Value", lambda i: fastshm.Value("q", i).add(1)
    yield "Array", lambda i: fastshm.Array("d", i % 100 + 1).__setitem__(0, 1.0)
    yield "ShardedCounter", lambda i: fastshm.ShardedCounter(i).exchange(3)
    yield "Value, waited for", lambda i: fastshm.Value("q", i).wait(i, 0)
    yield "Array that grows", lambda i: fastshm.Array("q", 5).extend(range(i % 300))

    def viewed(i: int) -> None:
        items = fastshm.Array("q", 5)
        views = [memoryview(items)]
        for _ in range(3):
            items.extend(range(i % 300))
            views.append(memoryview(items.get_obj()))
        items.fill(i)
        items.add_from(items)
        items.resize(i % 7)

    yield "Array with views", viewed
    yield "RawValue", lambda i: fastshm.RawValue("q", i).value
    yield "RawArray", lambda i: fastshm.RawArray("d", i % 100 + 1)[0]
    for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"):

        def locked(i: int, name: str = name) -> None:
            with getattr(fastshm, name)():
                pass

        yield name, locked
    yield "Event", lambda i: fastshm.Event().set()
    yield "Barrier", lambda i: fastshm.Barrier(1).wait()
    yield "dict", lambda i: fastshm.dict(a=i, b="x" * 100, c=[i, "y"]).pop("c")
    yield "dict with odd keys", lambda i: fastshm.dict({(1.0, i): 1, "x" * 50: 2, Odd(i): 3}).get(Odd(i))
    yield "dict that grows", lambda i: fastshm.dict({k: "x" * k for k in range(i % 50 * 4)}).clear()
    values = fastshm.dict()

    def seen(i: int) -> None:
        values["k"] = b"x" * (i % 90_000)
        values["b"] = [pickle.PickleBuffer(bytearray(i % 200_000)), pickle.PickleBuffer(b"y"), values]
        views = values.view("k"), values.view("b")
        values["k"] = bytearray(i % 70_000)
        kept = fastshm.list([values["k"], i])
        views += (kept.view(0), memoryview(kept.view(0))[1:])
        with contextlib.suppress(TypeError):
            kept.view(1)
        del values["b"], values["k"]

    yield "large values and views", seen
    yield "list", lambda i: fastshm.list([i, "x" * 100, [i]]).sort(key=str)
    yield "nested", lambda i: fastshm.dict(a=fastshm.list([fastshm.dict(b=fastshm.Value("i"))]))["a"][0]["b"].add(1)

    def in_set(i: int) -> None:
        items = fastshm.set([i, "x" * 100, (i, "y")])
        items |= {i + 1, b"z" * 70}
        items.discard(i)
        items.pop()

    yield "set", in_set

    def counts(i: int) -> None:
        counter = fastshm.Counter("letters")
        counter.update({"a": i, i: 2})
        counter.subtract(t=1)
        assert (counter + counter)["e"] == 4

    yield "Counter", counts

    def live(i: int) -> None:
        tree = fastshm.live({"list": [], "a": {"b": [i]}})
        tree["list"].append({"i": i})
        tree["a"] = {"c": [i]}
        tree.setdefault("d", {})["e"] = [1]
        tree.to_dict()

    yield "live nesting", live

    def newer(i: int) -> None:
        d = fastshm.dict(a=i, b=[i])
        d.set_many({"c": "x" * 80, "d": {"k": i}})
        d.add_from({"a": 1, "new": 0.5})
        d.compare_exchange("b", [i], "y" * 90)
        d.wait_for("b", timeout=1)
        d.pop_many(["c", "none"])
        d.popitem(last=False)

    yield "a dict's newer operations", newer
    yield "frozen", lambda i: fastshm.frozen([i, "x" * (i % 200), b"y" * 50])[i % 3]

    def viewed_records(i: int) -> None:
        view = fastshm.frozen([b"x" * (i % 200), i]).view(0)
        assert bytes(view) == b"x" * (i % 200)

    yield "a view of a frozen list that is gone", viewed_records

    def cached(i: int) -> None:
        results = Cache(3, 60.0)
        for n in range(5):
            results.get_or_compute((i, n), lambda: "x" * 80)

    yield "cache", cached
    results = Cache(20)
    yield "one cache, new keys", lambda i: results.get_or_compute(i, lambda: [i, "x" * 80])

    def everything(i: int) -> None:
        with fastshm.Manager() as manager:
            space = manager.Namespace(a=1)
            space.b = [manager.dict(a=1), manager.list([1]), manager.Value("i", 1), manager.Array("i", [1])]
            with manager.Lock(), manager.RLock():
                space.b[0]["a"] = i

    yield "Manager", everything
    kept = fastshm.dict(a=fastshm.list(), v=fastshm.Value("q"))

    def held(i: int) -> None:
        with kept.get_lock():
            kept["w"] = kept.copy()
        del kept["w"]

    yield "get_lock and copies", held
    yield "pickled and unpickled", lambda i: pickle.loads(pickle.dumps([kept, kept["v"], fastshm.list([i])]))

    def refused(i: int) -> None:
        with contextlib.suppress(pickle.PicklingError):
            kept["x"] = [kept, fastshm.Value("i"), Unpicklable()]

    yield "half stored: pickling fails", refused

    def dropped(i: int) -> None:
        kept["y"] = [fastshm.dict(a=i), kept["v"]]
        with contextlib.suppress(KeyError):
            kept.update(y=1, z={}["no such key"])
        kept.pop("y")

    yield "values that own objects", dropped


class Odd:
    """A key that only `==` can compare."""

    def __init__(self, i: int) -> None:
        self.i = i

    def __hash__(self) -> int:
        return hash(self.i)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and self.i == other.i


def objects(turns: int, trials: Trials) -> None:
    """Each kind of object, `turns` times."""
    import fastshm

    for name, turn in kinds(fastshm):
        flat(name, turns, turn, trials)
    trials.notes.append(f"{turns:,} of each kind")


def tickets(turns: int, trials: Trials) -> None:
    """What is known to stay, by how much: bytes that nobody unpickles, pickling that fails half way, rings of containers."""
    import fastshm

    thing = fastshm.dict(a=1)

    def half(i: int) -> None:
        with contextlib.suppress(pickle.PicklingError):
            pickle.dumps([thing, Unpicklable()])

    def ring(i: int) -> None:
        ring = fastshm.list()
        ring.append(ring)

    def cleared(i: int) -> None:
        ring = fastshm.list()
        ring.append(ring)
        del ring[:]

    stays: list[tuple[str, Callable[[int], Any], int]] = [
        ("a pickled handle that nobody unpickles", lambda i: pickle.dumps(thing), 64),
        ("a handle in a pickling that fails", half, 64),
        ("a ring of one list", ring, 640),
        ("a ring that was cleared", cleared, 0),
    ]
    for name, turn, most in stays:
        before = census()
        for i in range(turns):
            turn(i)
        after = census()
        each = (after.pop("bytes_used") - before.pop("bytes_used")) / turns
        with trials.trial(name):
            assert each <= most, f"{name}: {each:.1f} bytes a turn"
            assert "ring" in name or after == before
        trials.notes.append(f"{name}: {each:.0f} bytes")


# --- processes ----------------------------------------------------------------------------------------------------------------


def task(things: Any) -> int:
    d, v, lock = things
    with lock:
        d[v.fetch_add(1) % 10] = [d, "x" * 100]
    return os.getpid()


def work_and_die(things: Any) -> None:
    d, v, lock = things
    kept = [d["l"] for _ in range(30)]
    lock.acquire()
    d["dying"] = [d["l"], kept[0], "x" * 200]
    v.add(1)
    os.kill(os.getpid(), signal.SIGKILL)


def restarts(turns: int, trials: Trials) -> None:
    """Workers that end and are replaced, by every start method; and some that are killed while they hold things."""
    import fastshm

    things = fastshm.dict(l=fastshm.list([1]), dying=None), fastshm.Value("q"), fastshm.Lock()
    for _ in range(20):
        task(things)  # every key is there
    for method, tasks in (("fork", turns), ("spawn", turns // 4), ("forkserver", turns // 4)):
        context = multiprocessing.get_context(method)

        def pool(i: int, context: Any = context, tasks: int = tasks // 4) -> None:
            with context.Pool(2, maxtasksperchild=1) as pool:
                pids = pool.map(task, [things] * tasks, chunksize=1)
                pool.close()
                pool.join()
            assert len(set(pids)) == tasks
            until(lambda: census()["processes"] == 1)

        def killed(i: int, context: Any = context) -> None:
            worker = context.Process(target=work_and_die, args=(things,))
            worker.start()
            worker.join()
            assert worker.exitcode == -signal.SIGKILL
            with things[2]:
                pass
            worker.close()

        flat(f"Pool with maxtasksperchild=1, {method}", 4, pool, trials)
        flat(f"killed worker, {method}", tasks, killed, trials)
        trials.notes.append(f"{2 * tasks:,} by {method}")


def segment_and_leave(both: bool) -> None:
    """In a child: a segment of its own, and perhaps a child with it that leaves at the same instant."""
    import fastshm

    d = fastshm.dict(a=[1])
    if both:
        gate = os.pipe()
        pid = os.fork()
        if pid:
            os.close(gate[1])
            os.read(gate[0], 1)
        else:
            os.close(gate[0])
            os.close(gate[1])
            d["b"] = 1
        util._exit_function()
        os._exit(0)


def segments(turns: int, trials: Trials) -> None:
    """Whole segments: made and left by one process after the other; left by two at once; attached and left by one."""
    context = multiprocessing.get_context("fork")
    resource_tracker.ensure_running()

    def one(i: int) -> None:
        child = context.Process(target=segment_and_leave, args=(i % 2 == 1,))
        child.start()
        child.join()
        assert child.exitcode == 0
        child.close()

    flat("made and left by a process and its child at once", turns, one, trials, segment=False)
    with trials.trial("no name is left by them"):
        until(lambda: not names(), 2)
    import fastshm

    mine = fastshm.dict()
    bytes_, asks = os.pipe(), os.pipe()
    maker = os.fork()
    if not maker:
        fastshm.heap._default = None  # as a program of its own would
        foreign = fastshm.heap.create()
        theirs = fastshm.dict(a=[1], l=fastshm.list([2]))
        os.close(asks[1])
        while os.read(asks[0], 1):
            text = pickle.dumps(theirs)
            os.write(bytes_[1], len(text).to_bytes(4, "little") + text)
        assert foreign.check()["processes"] == 1
        util._exit_function()
        os._exit(0)
    os.close(asks[0])

    def visit(i: int) -> None:
        os.write(asks[1], b"?")
        theirs = pickle.loads(os.read(bytes_[0], int.from_bytes(os.read(bytes_[0], 4), "little")))
        assert theirs["l"][0] == 2

    flat("attached and left", 10 * turns, visit, trials)

    def store(i: int) -> None:
        with fastshm.Manager(f"shm://leaks-{i % 3}", persist=i % 2 == 1) as opened:
            opened.root.setdefault("jobs", []).append(i)
            opened.root["lock"] = opened.Lock()
        if i % 2:
            fastshm.unlink(f"shm://leaks-{i % 3}")

    flat("a store opened, used and left", turns, store, trials)
    os.close(asks[1])
    with trials.trial("their maker's segment is whole"):
        assert os.waitpid(maker, 0)[1] == 0
        assert len(names()) == 1
    mine["end"] = 1
    trials.notes.append(f"{turns:,} made and left, {10 * turns:,} attached and left, {turns:,} stores")


GROUP = """
import multiprocessing, os, sys
import fastshm

def work(d, v):
    while True:
        d[v.fetch_add(1) % 50] = [fastshm.list([d]), "x" * 500]

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    d, v = fastshm.dict(), fastshm.Value("q")
    workers = [multiprocessing.Process(target=work, args=(d, v)) for _ in range(2)]
    for worker in workers:
        worker.start()
    while v.value < 100:
        pass
    print(fastshm.heap.default().name, flush=True)
    work(d, v)
"""


def groups(turns: int, trials: Trials) -> None:
    """Whole programs killed with their resource trackers; the next start, or the command gc, takes away what they left."""
    left = 0
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program.py")
        program.write_text(GROUP)
        for i in range(turns):
            method = ("fork", "spawn", "forkserver")[i % 3]
            group = subprocess.Popen(
                [sys.executable, str(program), method], stdout=subprocess.PIPE, text=True, start_new_session=True
            )
            assert group.stdout
            with trials.trial(method), group:
                name = group.stdout.readline().strip()
                os.killpg(group.pid, signal.SIGKILL)
                group.stdout.read()  # until all of them have ended
                left += name in names()
                if i % 2:
                    import fastshm

                    fastshm.heap.sweep()
                else:
                    subprocess.run([sys.executable, "-m", "fastshm", "gc"], check=True, stdout=subprocess.DEVNULL)
                assert name not in names()
    with trials.trial("there was something to take away"):
        assert left, "no killed group left a name: were the trackers not killed?"
    trials.notes.append(f"{left} of {turns} groups left a name")


# --- gc against those who come and go -----------------------------------------------------------------------------------------


def visitor(name: str, rounds: int, choose: random.Random, may_be_gone: bool) -> None:
    """Joins and leaves; whoever has joined finds the name and the segment whole for as long as it stays."""
    import fastshm

    path = Path("/dev/shm", name)
    for _ in range(rounds):
        try:
            heap = fastshm.heap.attach(name)
        except FileNotFoundError:
            os._exit(0 if may_be_gone else 3)
        if not path.exists():
            os._exit(4)
        if choose.random() < 0.1:
            os._exit(0)
        heap.check()
        if choose.random() < 0.3:
            time.sleep(choose.random() * 0.002)
        if not path.exists():
            os._exit(5)
        fastshm.heap._default = None  # it is a visitor's, who comes again
        fastshm._core.set_default(None)
        fastshm._core.leave_unless_used(heap.name)
    os._exit(0)


def family(seed: int) -> None:
    """Makes a segment, and lives until the first visitor has gone; then it ends, or is killed, while others come and go."""
    import fastshm

    choose = random.Random(seed)
    pids, pipes = [], []
    for n in range(3):
        pipes.append(os.pipe())
        rounds, own = choose.randrange(1, 20), random.Random(seed * 10 + n)
        pids.append(os.fork())
        if not pids[-1]:
            for _, write in pipes:
                os.close(write)
            name = os.read(pipes[-1][0], 100).decode()
            visitor(name, rounds, own, n > 0) if name else os._exit(0)
    try:
        name = fastshm.heap.create().name
    except FileNotFoundError:
        os._exit(GAVE_UP)
    for _, write in pipes:
        os.write(write, name.encode())
        os.close(write)
    if status := os.waitpid(pids[0], 0)[1]:
        os._exit(10 + os.waitstatus_to_exitcode(status))
    if choose.random() < 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
    util._exit_function()
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids[1:]]
    os._exit(max(codes) and 20 + max(codes))


GAVE_UP = 99  # a maker that was swept again and again, by a clock that takes every new file for an old one


def against_gc(seconds: int, trials: Trials) -> None:
    """gc in a loop against makers, joiners, leavers and the killed; half of the time with a clock that has jumped."""
    from fastshm import names as names_module

    quiet_tracker()
    gave_up = 0
    for jumped in (False, True):
        sweeper = os.fork()
        if not sweeper:
            names_module.UNFINISHED = -1e9 if jumped else names_module.UNFINISHED
            while True:
                list(names_module.judged((), remove=True))
                list(names_module.judged((), remove=False))
        end = time.monotonic() + seconds / 2
        for seed in itertools.count(SEEDS * 1_000_000):
            if time.monotonic() > end:
                break
            with trials.trial(f"seed {seed}, clock {'jumped' if jumped else 'right'}"):
                pid = os.fork()
                if not pid:
                    family(seed)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if jumped and code == GAVE_UP:
                    gave_up += 1
                else:
                    assert code in (0, -signal.SIGKILL), f"the family ended with {code}"
        with trials.trial("nothing is left when all have gone"):
            until(lambda: not names(), 10)
        os.kill(sweeper, signal.SIGKILL)
        os.waitpid(sweeper, 0)
    trials.notes.append(f"{gave_up} makers met a clock so wrong that they gave up")


def one_step_at_a_time(turns: int, trials: Trials) -> None:
    """The same races, one after the other and surely: gc between two steps of those who come and go."""
    import fastshm
    from fastshm import _core
    from fastshm import names as names_module

    quiet_tracker()
    real = names_module.open_segment
    at_map: list[Callable[[str], object]] = []
    sys.addaudithook(lambda event, args: at_map.pop()(*args) if event == "fastshm.map" and at_map else None)

    def swept(name: str) -> bool:
        return any(verdict.removed for verdict in names_module.judged((), remove=True) if verdict.name == name)

    def orphan() -> str:
        pipe = os.pipe()
        pid = os.fork()
        if not pid:
            heap = fastshm.heap.create()
            os.write(pipe[1], heap.name.encode())
            os._exit(0)
        os.waitpid(pid, 0)
        name = os.read(pipe[0], 100).decode()
        os.close(pipe[0])
        os.close(pipe[1])
        assert name in names()
        return name

    for _ in range(turns):
        name = orphan()
        with trials.trial("looking keeps nobody out"):
            first, second = real(name), real(name)
            try:
                assert _core.is_unclaimed(first.number)
                assert _core.is_abandoned(second.number)
            finally:
                first.close()
                second.close()
        with trials.trial("a joiner that has opened the file before gc removes its name"):
            results: list[bool] = []
            at_map.append(lambda name, results=results: results.append(swept(name)))
            try:
                heap = fastshm.heap.attach(name)
            except FileNotFoundError:
                assert results == [True]
            else:
                fastshm._core.leave_unless_used(heap.name)
                raise AssertionError("it joined what has no name")
        name = orphan()
        with trials.trial("gc when somebody has joined"):
            pid, gate = _joined(name)
            assert name not in fastshm.heap.sweep()
            assert name in names()
            os.close(gate)
            assert os.waitpid(pid, 0)[1] == 0
            assert name not in names(), "the joiner was the last"
        with trials.trial("a maker, by a clock that has jumped"):

            def jumped(name: str) -> None:
                names_module.UNFINISHED = -1e9
                assert swept(name)
                names_module.UNFINISHED = 60.0

            pid = os.fork()
            if not pid:
                at_map.append(jumped)
                try:
                    fastshm.heap.create().check()
                    status = 0
                except BaseException as error:
                    print(repr(error), file=sys.stderr)
                    status = 1
                util._exit_function()
                os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
            assert not names()


def _joined(name: str) -> tuple[int, int]:
    """A child that has joined, and the end of a pipe that lets it go."""
    import fastshm

    there, go = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.close(go[1])
        fastshm.heap.attach(name)
        os.write(there[1], b"!")
        os.read(go[0], 1)
        util._exit_function()
        os._exit(0)
    os.read(there[0], 1)
    for fd in (*there, go[0]):
        os.close(fd)
    return pid, go[1]


PARTS: dict[str, tuple[str, Callable[[int, Trials], None], int, int]] = {
    "objects": ("made, used and dropped, each kind of object: nothing grows", objects, 10_000, 600),
    "tickets": ("what is known to stay: no more than is said", tickets, 10_000, 1_000),
    "restarts": ("workers that end and are replaced, or are killed", restarts, 400, 16),
    "segments": ("whole segments made, attached and left", segments, 1_000, 60),
    "groups": ("whole programs killed with their resource trackers", groups, 150, 6),
    "steps": ("gc between two steps of who joins, leaves or makes", one_step_at_a_time, 200, 10),
    "gc": ("gc in a loop against those who make, join, leave and are killed", against_gc, 120, 4),
}


def run(short: bool) -> Iterator[Figure]:
    """Each figure in a process of its own."""
    for part, (what, _, long_turns, short_turns) in PARTS.items():
        yield figure(what, __file__, part, short_turns if short else long_turns)


if __name__ == "__main__":
    counts = Trials()
    PARTS[sys.argv[1]][1](int(sys.argv[2]), counts)
    counts.report()
