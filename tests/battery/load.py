"""Item 3: eight workers under load, killed at random moments and replaced at once, and an accountant of every step.

Each worker says in memory that is not fastshm's (a mapped file) which step it has begun and which it has done, with a checksum
of all results. Whenever one is killed, the accountant replays its acknowledged steps on builtin models: results and all that
is there must be theirs, but for the one step that was under way, which is there wholly or not at all (load_families.py says
what the steps are). Every round all are killed, tokens are counted, a process that never saw any of it reads everything once
more, and the heap is checked. At the end everything is dropped, and no byte may be in use that was not before.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import mmap
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Iterator
from typing import Any

from battery import SEEDS, Figure, Mutant, in_a_child
from load_families import FAMILIES, SECTION_WORDS, WORKERS, Tokens, step_of

import fastshm

KILLS = int(os.environ.get("FASTSHM_LOAD_KILLS", "10000"))  # in the full form
SHORT_KILLS = 250
ROUND = 100  # kills
CHECK = 25  # kills, and a heap.check() while the others go on
BY_SPAWN = 25  # one of so many workers is started by spawn
SOON = 10.0  # seconds without a step after which a worker has hung
ROOM = 1 << 16  # tokens that a worker may take in a round
MUTANTS = (
    Mutant(
        "a dead holder's lock is taken over",
        "lock.h",
        "    if (!owner || fs_alive(heap, owner))\n        return 0;\n",
        "    return 0;\n",
    ),
    Mutant("nobody robs the living", "lock.h", "    if (!owner || fs_alive(heap, owner))", "    if (!owner)"),
    Mutant(
        "the next holder is told of a death inside",
        "lock.h",
        "l->hold = l->hold & FS_HOLD_QUIET ? l->hold & FS_HOLD_ABANDONED : FS_HOLD_ABANDONED;",
        "l->hold &= FS_HOLD_ABANDONED;",
    ),
    Mutant(
        "what the dead held is given back",
        "reap.h",
        "    for (unsigned i = 0; i < FS_HANDLES_INLINE; i++)\n        if ((r = fs_drop(me, &p->slot[i])) != FS_OK)",
        "    for (unsigned i = 9; i < FS_HANDLES_INLINE; i++)\n        if ((r = fs_drop(me, &p->slot[i])) != FS_OK)",
    ),
    Mutant(
        "an update that was cut short is put back",
        "table.h",
        "        return fs_batch_rollback(me, t);\n    }\n    if (t->redo",
        "        t->redo.state = FS_PREPARING;\n        return fs_redo_settle(me, &t->redo);\n    }\n    if (t->redo",
    ),
    Mutant(
        "a dict's change is finished by whoever comes next",
        "table.h",
        "    int r = fs_table_settle(me, t);\n    if (fs_unlikely",
        "    int r = FS_OK;\n    if (fs_unlikely",
    ),
    Mutant(
        "a list's change is finished by whoever comes next",
        "vector.h",
        "    int r = fs_vector_settle(me, v);",
        "    int r = FS_OK;",
    ),
    Mutant(
        "a slice is finished by whoever comes next",
        "array.h",
        "    int r = fs_array_settle(me, a);\n    if (fs_unlikely",
        "    int r = FS_OK;\n    if (fs_unlikely",
    ),
)

libc = ctypes.CDLL(None)


# --- the log ------------------------------------------------------------------------------------------------------------------

BEGUN, DONE, CHECKSUM, _, ALIVE, TAKEN, TOLD, SLOT = 0, 1, 2, 3, 4, 5, 6, 16  # words of a worker; tokens follow
LOG_WORDS = WORKERS * (SLOT + ROOM) + SECTION_WORDS


class Log:
    """What one worker says. A step is begun before its call and done after it returned."""

    def __init__(self, memory: memoryview, me: int) -> None:
        self.words = memory[me * (SLOT + ROOM) : (me + 1) * (SLOT + ROOM)]

    def taken(self, token: int) -> None:
        count = self.words[TAKEN]
        if count == ROOM:
            raise AssertionError("no room for more tokens in the log")
        self.words[SLOT + count] = token
        self.words[TAKEN] = count + 1

    def told(self) -> None:
        """Of a death inside a section."""
        self.words[TOLD] += 1

    def tokens(self) -> list[int]:
        return self.words[SLOT : SLOT + self.words[TAKEN]].tolist()


def mapped(path: str) -> memoryview:
    fd = os.open(path, os.O_RDWR)
    try:
        return memoryview(mmap.mmap(fd, 8 * LOG_WORDS)).cast("q")
    finally:
        os.close(fd)


def section_memory(memory: memoryview) -> memoryview:
    return memory[LOG_WORDS - SECTION_WORDS :]


# --- a worker -----------------------------------------------------------------------------------------------------------------


def work(things: dict[str, Any], memory: memoryview, seed: int, me: int, k: int) -> None:
    """Step k, k + 1, and so on, until it is killed."""
    log = Log(memory, me)
    words, checksum = log.words, 0
    things = {**things, "memory": section_memory(memory), "taken": log.taken, "told": log.told}
    words[ALIVE] = 1
    while True:
        family, r = step_of(seed, me, k)
        words[BEGUN] = k + 1
        result = family.step(things, me, r, k)
        checksum = zlib.crc32(repr(result).encode(), checksum)
        words[CHECKSUM + (k & 1)] = checksum
        k += 1
        words[DONE] = k


def guarded(target: Any, *arguments: Any) -> None:
    """In a process of its own: never outlives the accountant, and says why it failed."""
    try:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.nice(5)  # else the accountant cannot keep up with eight
        faulthandler.register(signal.SIGUSR1, sys.__stderr__)
        target(*arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def work_spawned(root: Any, path: str, seed: int, me: int, k: int) -> None:
    guarded(work, root["things"], mapped(path), seed, me, k)


def read_all(root: Any, path: str, pipe: Any) -> None:
    """All that is there, as a process sees it that was not there before."""
    things = {**root["things"], "memory": section_memory(mapped(path))}
    pipe.send([[family.read(things, me) for family in FAMILIES] for me in range(WORKERS)])


# --- the accountant -----------------------------------------------------------------------------------------------------------


class Wrong(Exception):
    """Something that was promised did not hold: which figure, and how."""


def too_late(*_: object) -> None:
    raise Wrong("hangs", f"a survivor had to wait for {3 * SOON} s")


@contextlib.contextmanager
def soon() -> Iterator[None]:
    signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, 3 * SOON)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def census() -> dict[str, int]:
    gc.collect()
    return {name: count for name, count in fastshm.heap.check().items() if name not in ("committed", "bytes_free")}


class Life:
    """A worker from its start to its kill."""

    def __init__(self, pid: int, process: Any, first: int) -> None:
        self.pid, self.process, self.first = pid, process, first
        self.seen, self.since = (0, 0, 0), time.monotonic()


class Accountant:
    def __init__(self, seed: int, path: str) -> None:
        self.seed, self.path, self.rng = seed, path, random.Random(seed)
        os.truncate(path, 8 * LOG_WORDS)
        self.memory = mapped(path)
        self.logs = [Log(self.memory, me) for me in range(WORKERS)]
        self.spawn = multiprocessing.get_context("spawn")
        self.root = fastshm.dict()
        self.things: dict[str, Any] = {}
        self.lives: list[Life | None] = [None] * WORKERS
        self.models = [[family.model() for family in FAMILIES] for _ in range(WORKERS)]
        self.put: set[int] = set()
        self.perhaps: list[list[int]] = []
        self.takes = 0  # of which nobody knows whether they took
        self.kills = self.starts = self.spawned = self.steps = self.pending = self.happened = 0
        self.tokens = self.lost = self.checks = self.readings = 0

    # workers

    def start(self, me: int, k: int) -> None:
        words = self.logs[me].words
        words[BEGUN] = words[DONE] = k
        words[CHECKSUM] = words[CHECKSUM + 1] = words[ALIVE] = 0
        self.starts += 1
        if self.starts % BY_SPAWN == 0:
            self.spawned += 1
            process = self.spawn.Process(target=work_spawned, args=(self.root, self.path, self.seed, me, k))
            process.start()
            self.lives[me] = Life(process.pid or 0, process, k)
            return
        pid = os.fork()
        if not pid:
            guarded(work, self.things, self.memory, self.seed, me, k)
        self.lives[me] = Life(pid, None, k)

    def kill(self, victims: list[int]) -> list[Life]:
        """All of them at once; each must have been alive."""
        lives = [life for me in victims if (life := self.lives[me])]
        for life in lives:
            os.kill(life.pid, signal.SIGKILL)
        for me, life in zip(victims, lives, strict=True):
            if life.process:
                life.process.join()
                status = -life.process.exitcode
                life.process.close()
            else:
                status = os.waitpid(life.pid, 0)[1]
            self.lives[me] = None
            self.kills += 1
            if status != signal.SIGKILL:
                raise Wrong("workers", f"worker {me} ended by itself with status {status}; its traceback is above")
        return lives

    def watch(self) -> None:
        """Does everybody get on?"""
        now = time.monotonic()
        for me, life in enumerate(self.lives):
            words = self.logs[me].words
            seen = words[BEGUN], words[DONE], words[ALIVE]
            if life and life.seen != seen:
                life.seen, life.since = seen, now
            elif life and now - life.since > SOON:
                os.kill(life.pid, signal.SIGUSR1)  # where it stands is printed
                time.sleep(0.5)
                family = step_of(self.seed, me, words[DONE])[0].name
                raise Wrong("hangs", f"worker {me} has not got on for {SOON} s: step {words[DONE]}, {family}")

    def wait_for_all(self) -> None:
        """Nobody is killed until everybody has got on: one that waits for the dead would be relieved by its own death."""
        done = [log.words[DONE] for log in self.logs]
        while any(log.words[DONE] == was for log, was in zip(self.logs, done, strict=True)):
            self.watch()
            time.sleep(0.001)

    # accounts

    def settle(self, me: int, life: Life) -> int:
        """Accounts for a killed worker's steps; returns which one comes next."""
        words, models = self.logs[me].words, self.models[me]
        begun, done, checksum = words[BEGUN], words[DONE], 0
        for k in range(life.first, done):
            family, r = step_of(self.seed, me, k)
            result = family.expect(models[FAMILIES.index(family)], me, r, k)
            checksum = zlib.crc32(repr(result).encode(), checksum)
            if isinstance(family, Tokens):
                self.put.update(family.tokens(me, r, k))
        self.steps += done - life.first
        if done > life.first and words[CHECKSUM + (done - 1 & 1)] != checksum:
            raise Wrong("steps", f"worker {me} got other results than the model in steps {life.first} to {done}")
        pending = step_of(self.seed, me, done) if begun > done else None
        self.pending += pending is not None
        happened = pending is not None and isinstance(pending[0], Tokens)
        if pending and happened:
            tokens = pending[0].tokens(me, pending[1], done)  # type: ignore[attr-defined]
            self.perhaps.append(tokens)
            self.takes += not tokens
        for family, model in zip(FAMILIES, models, strict=True):
            there = family.read(self.things, me)
            if there == family.shown(model):
                continue
            if pending and pending[0] is family and not happened:
                family.expect(model, me, pending[1], done)
                happened = True
                self.happened += 1
                if there == family.shown(model):
                    continue
                raise Wrong("pending", f"worker {me}: step {done} is there in part: {family.name}")
            raise Wrong("steps", f"worker {me}: after step {done} it is not what the steps make of it: {family.name}")
        return done + 1 if happened else done

    def count_tokens(self) -> None:
        """Every token that was put was taken once or is there, but for those that a pending call may have taken."""
        taken = [token for log in self.logs for token in log.tokens()]
        families = [family for family in FAMILIES if isinstance(family, Tokens)]
        found = taken + [token for family in families for token in family.present(self.things)]
        known = set(found)
        if len(known) < len(found):
            raise Wrong("tokens", f"{len(found) - len(known)} tokens were taken twice, or taken and are still there")
        possible = self.put.union(*self.perhaps)
        if known - possible:
            raise Wrong("tokens", f"{len(known - possible)} tokens that nobody put: {sorted(known - possible)[:3]}")
        missing = self.put - known
        for tokens in self.perhaps:  # put as one: when one was there, all were
            if known.intersection(tokens):
                missing.update(known.symmetric_difference(tokens).intersection(tokens))
        if len(missing) > self.takes:
            raise Wrong("tokens", f"{len(missing)} tokens are lost, but only {self.takes} takes were cut short")
        self.tokens += len(self.put)
        self.lost += len(missing)
        self.put.clear()
        self.perhaps.clear()
        self.takes = 0
        for family in families:
            family.empty(self.things)
        for log in self.logs:
            log.words[TAKEN] = 0

    def read_again(self) -> None:
        """What a process sees that comes now."""
        mine, theirs = self.spawn.Pipe()
        process = self.spawn.Process(target=read_all, args=(self.root, self.path, theirs))
        process.start()
        theirs.close()
        self.spawned += 1
        there = mine.recv()
        process.join()
        for me in range(WORKERS):
            for family, model, seen in zip(FAMILIES, self.models[me], there[me], strict=True):
                self.readings += 1
                if seen != family.shown(model):
                    raise Wrong("steps", f"a newcomer sees something else of worker {me}: {family.name}")

    def check(self) -> None:
        self.checks += 1
        try:
            fastshm.heap.check()
            for family in FAMILIES:
                family.check()
        except fastshm.heap.CorruptedError as error:
            raise Wrong("checks", str(error)) from None

    # the run

    def make(self) -> None:
        self.things = {family.name: family.make() for family in FAMILIES}
        self.root["things"] = self.things
        self.things["memory"] = section_memory(self.memory)

    def drop(self) -> None:
        self.root.clear()
        self.things.clear()
        for family in FAMILIES:
            family.drop()

    def a_while(self) -> None:
        """Until the next kill: often short."""
        end = time.monotonic() + self.rng.uniform(0, self.rng.choice((0.002, 0.02, 0.06)))
        while (left := end - time.monotonic()) > 0:
            time.sleep(left)

    def choose(self) -> list[int]:
        """Whom to kill: one, sometimes several at once, sometimes whoever is in a section."""
        inside = section_memory(self.memory)[2 * WORKERS :: 2 * WORKERS + 1]
        end = time.monotonic() + self.rng.choice((0, 0, 0.005))
        old = inside.tolist()  # among them those who died inside, until the next one comes in
        while time.monotonic() < end:
            for i, holder in enumerate(inside):
                if holder == old[i]:
                    continue
                old[i] = 0
                if holder:
                    return [holder - 1]
        return self.rng.sample(range(WORKERS), self.rng.choice((1, 1, 1, 1, 1, 1, 2, 4)))

    def round(self, kills: int) -> None:
        following = [self.next_of(me) for me in range(WORKERS)]
        for me in range(WORKERS):
            self.start(me, following[me])
        end = self.kills + max(kills - WORKERS, 0)
        while self.kills < end:
            self.a_while()
            victims = self.choose()
            lives = self.kill(victims)
            with soon():
                for me, life in zip(victims, lives, strict=True):
                    following[me] = self.settle(me, life)
                    self.start(me, following[me])
                if self.kills % CHECK < len(victims):
                    self.check()
            if self.kills % CHECK < len(victims):
                self.wait_for_all()
            self.watch()
            if max(log.words[TAKEN] for log in self.logs) > ROOM // 2:
                break
        lives = self.kill(list(range(WORKERS)))
        with soon():
            for me, life in enumerate(lives):
                self.following[me] = self.settle(me, life)
            self.count_tokens()
            self.check()
        with soon():
            self.read_again()

    following: dict[int, int]

    def next_of(self, me: int) -> int:
        return self.following[me]

    def run(self, kills: int) -> dict[str, str]:
        """What went wrong: a sentence for a figure."""
        self.following = dict.fromkeys(range(WORKERS), 0)
        held = [fastshm.Value("b") for _ in range(1_000)]  # so that room for this process's handles is there before
        del held
        self.make()
        self.drop()
        before = census()
        self.make()
        try:
            while self.kills < kills:
                self.round(min(ROUND, kills - self.kills))
            self.drop()
            self.count_bytes(before)
        except Wrong as wrong:
            print(f"seed {self.seed}, kill {self.kills}: {wrong.args[1]}", file=sys.stderr)
            return {wrong.args[0]: wrong.args[1]}
        finally:
            for life in filter(None, self.lives):
                os.kill(life.pid, signal.SIGKILL)
        return {}

    def count_bytes(self, before: dict[str, int]) -> None:
        """A ticket that its receiver was killed with stays, by design, and keeps 64 bytes."""
        after = census()
        tickets = after["tickets"] - before["tickets"]
        expected = before | {
            "tickets": before["tickets"] + tickets,
            "blocks": before["blocks"] + tickets,
            "bytes_used": before["bytes_used"] + 64 * tickets,
        }
        if after != expected or tickets > self.spawned:
            raise Wrong("bytes", f"{after} instead of {before}")


def run(short: bool) -> Iterator[Figure]:
    """One run, and its figures."""
    return in_a_child(figures, short)


def figures(short: bool) -> Iterator[Figure]:
    with tempfile.NamedTemporaryFile(prefix="fastshm-load-", dir=os.environ.get("FASTSHM_BATTERY")) as file:
        a = Accountant(SEEDS, file.name)
        wrong = a.run(SHORT_KILLS if short else KILLS)
    lives = f"{a.starts:,} lives, {a.spawned:,} by spawn; seed {SEEDS}"
    for key, what, tried, note in (
        ("workers", f"kills of {WORKERS} workers under load", a.kills, lives),
        ("hangs", "lives that got on", a.starts, f"{sum(log.words[TOLD] for log in a.logs):,} deaths in a section told"),
        ("steps", "acknowledged steps, each there", a.steps, f"{a.readings:,} readings by newcomers"),
        ("pending", "steps under way at a kill, wholly there or not", a.pending, f"{a.happened:,} there"),
        ("tokens", "tokens, each taken once or there", a.tokens, f"{a.lost:,} taken by a call that was cut short"),
        ("checks", "heap.check()", a.checks, ""),
        ("bytes", "all dropped: bytes in use as before", 1, ""),
    ):
        yield Figure(what, max(tried, 1), int(key in wrong), wrong.get(key, note)[:200])
