"""The program behind interrupts.py: one figure a call."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from battery import SEEDS, compiled, names, sources
from crew import child_of
from identity import Judge, dead, forked, holder, late, mark, marked, stay
from interrupted import INNER, MANY, OPERATIONS, SENTINELS, TEXT, THING, Operation, Thing, locked, nothing, plain, reset
from trials import Trials, census, until

import fastshm

EVERY = 100e-6  # seconds from one interrupt to the next
TRIES = 6  # of a storm, until it has hit something
THROUGH = 0.1  # seconds within which a signal must end a wait
MODES = ("alone", "object", "heap")
ARMED = [False]


@functools.cache
def harness(*flags: str) -> str:
    return compiled("interrupts.c", *flags)


class Interrupt(Exception):
    pass


def raise_once(*_: object) -> None:
    if ARMED[0]:
        ARMED[0] = False
        raise Interrupt


@contextmanager
def storm(handler: Callable[..., Any] = raise_once, every: float = EVERY) -> Iterator[None]:
    """Python's handler, again and again."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Storm:
    """The handler in C, interrupting this thread. `stop()` gives how often, inside our code, and with EINTR."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(harness("-shared", "-fPIC"))
        for line in Path("/proc/self/maps").read_text().splitlines():
            where, rights, *_, path = line.split(maxsplit=5)
            if "x" in rights and path.startswith(str(sources())):
                self.library.storm_range(*(ctypes.c_size_t(int(end, 16)) for end in where.split("-")))

    @contextmanager
    def blow(self, every: float, into: list[int]) -> Iterator[None]:
        assert self.library.storm_start(ctypes.c_long(int(every * 1e9))) == 0
        try:
            yield
        finally:
            counts = (ctypes.c_uint64 * 3)()
            assert self.library.storm_stop(counts) == 0
            for i in range(3):
                into[i] += counts[i]


# --- rivals -------------------------------------------------------------------------------------------------------------------


@contextmanager
def rival_for_object(thing: Any, hold: float = 200e-6, pause: float = 50e-6) -> Iterator[None]:
    """A process that takes the object's lock again and again, and changes nothing."""
    guard = guard_of(thing)

    parent = os.getpid()

    def compete() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        while not marked(1) and os.getppid() == parent:
            guard.acquire()
            mark(1)
            end = time.perf_counter() + hold
            while time.perf_counter() < end and not marked(1):
                pass
            guard.release()
            time.sleep(pause)

    if guard is None:
        yield
        return
    mark(0)
    mark(0, 1)
    pid = child_of(compete, seconds=3600)
    try:
        until(marked)
        yield
    finally:
        mark(1, 1)
        status = os.waitpid(pid, 0)[1]
    assert status == 0


@contextmanager
def rival_for_heap(hold: float = 300e-6, pause: float = 150e-6) -> Iterator[None]:
    """A process that holds the lock of the default segment's heap again and again."""
    path = f"/dev/shm/{fastshm.heap.default().name}"
    command = [harness(), path, str(int(hold * 1e6)), str(int(pause * 1e6))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.read(1) == b"."
        yield
    finally:
        process.communicate()
    assert process.returncode == 0


def guard_of(thing: Any) -> Any:
    """Its lock, or None when it has none."""
    return thing.get_lock() if hasattr(thing, "get_lock") else thing if hasattr(thing, "acquire") else None


def is_left_held(thing: Any) -> bool:
    guard = guard_of(thing)
    if guard is None:
        return False
    state = guard._state()
    return (state[0] if isinstance(state, tuple) else state) == "mine"


# --- Python's handlers, which raise -------------------------------------------------------------------------------------------


class Raised(Trials):
    """Interrupts of operations, each judged by its model."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        _room = [fastshm.Value("b") for _ in range(3000)]  # for handles: it stays
        del _room
        self.handles = census()["handles"]
        self.unraisable: list[str] = []
        sys.unraisablehook = lambda bad: self.unraisable.append(f"{bad.object}: {bad.exc_value!r}")

    def burst(self, operation: Any, thing: Any, first: int, last: int) -> tuple[int, bool]:
        """The operation, from `first` on until `last` or an interrupt: how far it came, and whether one came."""
        do, i = operation.do, first
        try:
            ARMED[0] = True
            while i < last:
                do(thing, i)
                i += 1
            ARMED[0] = False
        except Interrupt as interrupt:
            frame = interrupt.__traceback__
            while frame:
                if frame.tb_frame.f_code.co_filename.endswith(".pyx"):
                    self.waiting += 1
                    break
                frame = frame.tb_next
            return i, True
        return i, False

    def interrupt(self, operation: Any, thing: Any, wanted: int, seconds: float, length: int) -> None:
        """Until so many interrupts have come in the midst of it, or the time is over."""
        is_lock, end, i, fresh, since = hasattr(thing, "abandoned"), time.monotonic() + seconds, 0, 0, self.tried
        state = plain(thing)
        while self.tried < since + wanted and time.monotonic() < end:
            first, (i, came) = i, self.burst(operation, thing, i, i + length)
            for j in range(first, i):
                state = operation.then(state, j)
            if came:
                with self.trial(operation.name):
                    assert is_lock or not is_left_held(thing), "left held"
                    now, whole = plain(thing), operation.then(state, i)
                    assert now in (state, whole), f"neither {state} nor {whole} but {now}"
                    lost, self.unraisable[:] = list(self.unraisable), ()
                    assert not lost, lost
                i += 1
            if came or i - fresh > 5 * length:
                reset(operation, thing)
                state, fresh = plain(thing), i

    def settled(self) -> dict[str, int]:
        """The census; handles that ended while a rival had the heap are given back when the next ones are made."""
        for _ in range(1000):
            fastshm.Value("b")
            now = census()
            if now["handles"] == self.handles:
                break
        return now

    def mode(self, mode: str, wanted: int, seconds: float) -> None:
        length = 20 if mode == "alone" else 4
        for operation in OPERATIONS:
            with storm():
                self.interrupt(operation, operation.make(), 20, seconds, length)  # what is made once, is made
            before, references = self.settled(), [sys.getrefcount(one) for one in SENTINELS]
            blocks, since = sys.getallocatedblocks(), self.tried
            thing = operation.make()
            with storm(), rival_for_object(thing) if mode == "object" else nullcontext():
                self.interrupt(operation, thing, wanted, seconds, length)
            del thing
            with self.trial(f"what {operation.name} leaves"):
                after, more = self.settled(), sys.getallocatedblocks() - blocks
                if operation.leaves:
                    after |= {name: before[name] for name in ("bytes_used", "cells")}
                assert after == before, f"{after} is not {before}"
                assert [sys.getrefcount(one) for one in SENTINELS] == references
                assert more < 250 + (self.tried - since) // 4, f"{more} more blocks of private memory"
        self.notes.append(f"{self.waiting:,} of them within our code")


def windows(raised: Raised, wanted: int) -> None:
    """Is a lock left held when an interrupt comes as `with` has taken it? Ours never; the stdlib's are counted."""

    def left(lock: Any, is_held: Callable[[], bool], count: int) -> int:
        came = held = 0
        operation = Operation("with", nothing, lambda lock, i: locked(lock, nothing))
        with storm():
            while came < count:
                came += raised.burst(operation, lock, 0, 50)[1]
                if is_held():
                    held += 1
                    lock.release()
        return held

    value, table = fastshm.Value("q"), fastshm.dict()
    for lock in (fastshm.Lock(), fastshm.RLock(), value.get_lock(), table.get_lock(), value):
        for mode in ("alone", "object"):
            with rival_for_object(lock) if mode == "object" else nullcontext():
                raised.failed += left(lock, lambda lock=lock: is_left_held(lock), wanted)
                raised.tried += wanted
    for kind in ("Lock", "RLock"):
        lock = getattr(multiprocessing, kind)()
        held = left(lock, lambda lock=lock: lock._semlock._is_mine(), wanted)
        raised.notes.append(f"multiprocessing.{kind}: {held} of {wanted:,} left held")


def waits(raised: Raised, operation: Operation, mode: str) -> float | None:
    """Seconds from the one signal to its exception, less those without a processor; None when there was nothing to wait for."""
    thing = operation.make()
    if mode == "object" and guard_of(thing) is None:
        return None
    with rival_for_object(thing, 1.0, 0.001) if mode == "object" else rival_for_heap(1.0, 0.001):
        sent, was_late = time.monotonic() + 0.015, late()
        with storm(every=0.015):
            came = raised.burst(operation, thing, 0, 1)[1]
        seconds = time.monotonic() - sent
    return seconds - (late() - was_late) if came and seconds > -0.01 else None


def come_through(raised: Raised, rounds: int) -> None:
    """A signal into a wait, for the object's lock or the heap's. Late three times in a row is a failure, less the machine's."""
    slowest, slow = 0.0, 0
    for mode in ("object", "heap"):
        waited = 0
        for operation in OPERATIONS * rounds:
            if "timeout" in operation.name or (seconds := waits(raised, operation, mode)) is None:
                continue
            waited += 1
            with raised.trial(f"{operation.name}, {mode}"):
                for _ in range(2):
                    if seconds > THROUGH:
                        slow += 1
                        seconds = waits(raised, operation, mode) or 0.0
                slowest = max(slowest, seconds)
                assert seconds < THROUGH, f"it took {seconds * 1e3:.0f} ms"
                assert not raised.unraisable, raised.unraisable
        raised.notes.append(f"{mode}: {waited // rounds} operations waited")
    again = f", {slow} slower ones tried again" if slow else ""
    raised.notes.append(f"after {slowest * 1e3:.0f} ms at most{again}")


def deaths(judge: Judge) -> None:
    """Signals that come faster than any nap of a waiter ends hide neither a death nor a lock that waits for who gave up."""

    def is_dead(judge: Judge, lock: Any) -> None:
        with holder(lock, lambda: os._exit(0)) as pid:
            dead(pid)
            with storm(lambda *_: None):
                judge.free(lock)

    def is_reserved(judge: Judge, lock: Any) -> None:
        def then() -> None:
            mark(1)
            until(lambda: marked(1))
            lock.release()
            stay(2)

        mark(0, 1)
        with holder(lock, then):
            assert not lock.acquire(timeout=0.02)
            mark(1, 1)
            until(lambda: marked() == 2)
            begin = time.monotonic()
            with storm(lambda *_: None):
                assert lock.acquire(timeout=5)
                seconds = time.monotonic() - begin
                lock.release()
            judge.took(seconds)

    judge.each("dead", is_dead)
    judge.each("reserved", is_reserved)


def use_in_handlers(trials: Trials, seconds: float) -> None:
    """Handlers that use the same objects, come while an operation on them runs or waits, also inside `with`."""
    value, numbers, table, vector = fastshm.Value("q"), fastshm.Array("q", 4), fastshm.dict(n=0), fastshm.list()
    lock, busy = fastshm.RLock(), [False]
    token, counts = fastshm.Lock(), [0, 0]

    def handler(*_: object) -> None:
        if busy[0]:
            return
        busy[0] = True
        try:
            use()
        finally:
            busy[0] = False

    def use() -> None:
        counts[0] += 1
        with value.get_lock(), table.get_lock(), lock:
            value.value += 1
            table["n"] += 1
        numbers[1:3] = [numbers[1] + 1] * 2
        table["object"] = Thing(counts[0])
        assert table["object"] == Thing(counts[0])
        vector.append([INNER, counts[0]])
        vector.pop(0)
        _made = [fastshm.Value("b") for _ in range(3)], pickle.loads(pickle.dumps(table))
        if token.acquire(False):  # waiting for it could be waiting for the code that is interrupted
            token.release()

    def work() -> None:
        counts[1] += 1
        value.add(1)
        table.increment("n")
        with value.get_lock(), table.get_lock(), lock, token:
            value.value += 1
            table["n"] += 1
        table[Thing(5)] = counts[1]
        assert table.pop(Thing(5)) == counts[1]
        table.update(MANY)
        for key in (1, 2):
            del table[key]
        assert numbers[1] == numbers[2]
        vector[:] = [THING, TEXT, INNER]
        with suppress(ValueError):  # a handler has changed it meanwhile
            vector.sort(key=str)
        _made = [fastshm.dict(a=INNER), pickle.loads(pickle.dumps(vector))]

    with rival_for_object(value), rival_for_heap(100e-6, 400e-6), storm(handler, 0.002):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with trials.trial("work"):
                work()
    with trials.trial("sum"):
        assert value.value == counts[0] + 2 * counts[1], (value.value, counts)
        assert table["n"] == counts[0] + 2 * counts[1]
        assert numbers[1] == counts[0]
        fastshm.heap.check()
    trials.tried += counts[0]
    trials.notes.append(f"{counts[0]:,} handlers in {counts[1]:,} rounds of work")


# --- handlers in C ------------------------------------------------------------------------------------------------------------


def interrupt_in_c(trials: Trials, mode: str, seconds: float) -> None:
    """Each operation under a storm at machine code: whole each time, as if nothing had been. Again where nothing was hit."""
    blows, every, came, least = Storm(), 50e-6, [0, 0, 0], 1 if mode == "alone" else 2
    with rival_for_heap() if mode == "heap" else nullcontext():
        for operation in (operation for _ in range(TRIES) if missed(came, least) for operation in OPERATIONS):
            thing = operation.make()
            state, end, i, ok = plain(thing), time.monotonic() + seconds, 0, True
            with rival_for_object(thing) if mode == "object" else nullcontext(), trials.trial(operation.name):
                while time.monotonic() < end:
                    with blows.blow(every, came):
                        for _ in range(40):
                            operation.do(thing, i)
                            state = operation.then(state, i)
                            i += 1
                    now = plain(thing)
                    assert now == state, f"{now} is not {state}"
                    if i > 300:
                        reset(operation, thing)
                        state, i = plain(thing), 0
            del thing, ok
    with trials.trial("after all"):
        fastshm.heap.check()
    hit(trials, came, least)


def missed(came: list[int], least: int) -> bool:
    """A storm that hit nothing of ours, or, where there are waits, no system call, has shown nothing."""
    return came[1] == 0 or (least == 2 and came[2] == 0)


def hit(trials: Trials, came: list[int], least: int) -> None:
    """The counts."""
    trials.tried += came[0]
    trials.failed += missed(came, least)
    trials.notes.append(f"{came[0]:,} signals, {came[1]:,} within our code, {came[2]:,} system calls ended with EINTR")


def grow(trials: Trials, megabytes: int) -> None:
    """Page claims cut short: not every kernel does that, so a library in front of the C library does it, too."""
    blows, came, kept = Storm(), [0, 0, 0], []
    for i in range(megabytes // 16):
        with trials.trial("growth"), blows.blow(50e-6, came):
            kept.append(fastshm.Array("b", 16 << 20))
            kept[-1][-1] = i
            assert (kept[-1][0], kept[-1][-1]) == (0, i)
    with trials.trial("after all"):
        fastshm.heap.check()
    hit(trials, came, 1)
    cut = ctypes.c_uint64.in_dll(ctypes.CDLL(None), "claims_cut_short").value
    assert cut > 0
    trials.notes.append(f"{cut:,} page claims ended with EINTR")


def come_and_go(trials: Trials, rounds: int) -> None:
    """Segments made, attached and left, forks, threads: all that opens, maps, claims and probes."""
    blows, came = Storm(), [0, 0, 0]
    value = fastshm.Value("q")
    base = pickle.dumps(value)

    def child() -> None:
        value.add(1)
        with fastshm.RLock():
            assert fastshm.dict(a=1)["a"] == 1

    del base
    for i in range(rounds):
        with trials.trial("fork, segment"), blows.blow(70e-6, came):
            pid = forked(child)
            heap = fastshm.heap.create()
            thread = threading.Thread(target=value.add)
            thread.start()
            thread.join()
            fastshm._core.leave_unless_used(heap.name)
            assert os.waitpid(pid, 0)[1] == 0
            assert value.value == 2 * (i + 1)
            assert heap.name not in names()
    with trials.trial("after all"):
        assert census()["processes"] == 1
    hit(trials, came, 1)


def begin(trials: Trials, rounds: int) -> None:
    """The making of a segment is interrupted: it is not left behind."""
    rest, before = random.Random(SEEDS), names()

    def child(seconds: float) -> None:
        signal.signal(signal.SIGALRM, raise_once)
        try:
            ARMED[0] = True
            signal.setitimer(signal.ITIMER_REAL, seconds)
            fastshm.heap.create()
            ARMED[0] = False
        except Interrupt:
            mark(marked(2) + 1, 2)
        fastshm.heap._leave()

    for _ in range(rounds):
        with trials.trial("making a segment"):
            assert os.waitpid(forked(child, rest.uniform(10e-6, 500e-6)), 0)[1] == 0
            assert names() == before, f"{names() - before} left"
    trials.notes.append(f"{marked(2):,} of them interrupted")


def main() -> None:
    name, *arguments = sys.argv[1:]
    trials: Any = Raised() if name in (*MODES, "windows", "through") else Trials()
    if name in MODES:
        with rival_for_heap() if name == "heap" else nullcontext():
            trials.mode(name, int(arguments[0]), float(arguments[1]))
    elif name == "deaths":
        deaths(trials := Judge(int(arguments[0])))
    elif name == "c":
        interrupt_in_c(trials, arguments[0], float(arguments[1]))
    else:
        cases: dict[str, Callable[[Any, Any], None]]
        cases = {"windows": windows, "through": come_through, "begin": begin, "use": use_in_handlers, "come": come_and_go}
        cases |= {"grow": grow}
        cases[name](trials, float(arguments[0]) if name == "use" else int(arguments[0]))
    trials.report()


if __name__ == "__main__":
    main()
