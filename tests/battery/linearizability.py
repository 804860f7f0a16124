"""Item 11: recorded histories of four processes, some of them killed inside, against sequential specifications (wing_gong.py).

For every seed four processes act on each subject at once, by a plan that the seed makes: of all calls, or of a few kinds on few
keys, which meet more often. Each call's begin, end and result go to memory that is not fastshm's. A killed process is
replaced; its last call is pending. A new operation is one word in a subject's `names`, one line in `call` and one in
`specification`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from battery import SEEDS, Figure, Mutant, in_a_child
from linearizability_subjects import ABSENT, INDEX_ERROR, KEY_ERROR, SUBJECTS, TYPE_ERROR, Subject
from wing_gong import NEVER, Call, Undecided, is_linearizable

import fastshm

PROCESSES = 4
CALLS = 800  # of each process on each subject
STRETCHES = 5  # of a plan, each with calls, keys and forms of its own
MOST = 50_000  # states that a history is searched for an order; beyond them it does not count
HISTORIES = int(os.environ.get("FASTSHM_HISTORIES", "1000"))  # of each subject, in the full form
WIDE = 50_000  # letters: long enough to be replaced while they are copied
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SOON = 20.0  # seconds after which a process has hung
MUTANTS = (
    Mutant(
        "an item counted from the end looks at the length again",
        "vector.h",
        "    if (i < 0 && fs_load_relaxed(&v->n) != g->n)\n        return 0;\n",
        "    (void)i;\n",
    ),
    Mutant(
        "a length waits for the insert that shows already",
        "table.h",
        "    if (version & 1 || fs_load_acquire(&t->redo.state) == FS_COMMITTED)",
        "    if (version & 1)",
    ),
    Mutant(
        "a reader looks at the entry's head again",
        "table.h",
        "    if (found && (fs_load_acquire(&p->view.index[p->place.slot]) != p->place.held ||\n"
        "                  fs_load_acquire(&p->place.entry->head) != p->place.head))\n        return 0;",
        "    (void)found;",
    ),
    Mutant(
        "a reader by a hint looks at the entry's head again",
        "table.h",
        "    return fs_load_acquire(&h->entry->head) == h->head && fs_load_relaxed(&h->entry->hash) == h->hash &&\n"
        "           fs_load_relaxed(&t->o.lock.version) == h->version;",
        "    return fs_load_relaxed(&t->o.lock.version) == h->version;",
    ),
    Mutant(
        "addition under the lock",
        "_typed.pyx",
        "    fs_item_write(&cell(self).value, self.size, old + n)\n    end(self, &me, entered)\n",
        "    end(self, &me, entered)\n    fs_item_write(&cell(self).value, self.size, old + n)\n",
    ),
    Mutant(
        "an addition to a counter is one instruction",
        "counter.h",
        "    fs_fetch_add(&fs_counter_stripe(c, bits, id)->n, n);",
        "    uint64_t *at = &fs_counter_stripe(c, 1, id)->n, was = *at;\n"
        "    for (int i = 0; i < 100; i++)\n        fs_pause();\n    fs_store_relaxed(at, was + n);",
    ),
    Mutant(
        "a reader of an array looks at the version again",
        "_array.pyx",
        "            if fs_read_valid(&a.o.lock, version) and (i >= 0 or fs_load_relaxed(&a.count) == count):",
        "            if True:",
    ),
    Mutant(
        "setdefault does not replace", "_dict.pyx", "FS_PUT_IF_ABSENT, &me, NULL) == FS_OK:", "FS_PUT, &me, NULL) == FS_OK:"
    ),
    Mutant(
        "a pickled value is popped only while it is the one seen",
        "_dict.pyx",
        "if out is MISSING or self.remove(key, &k, &seen, FS_ANY):",
        "if out is MISSING or self.remove(key, &k, NULL, FS_ANY) or True:",
    ),
    Mutant(
        "a reader of a list looks at the version again",
        "vector.h",
        "    return fs_load_relaxed(&v->o.lock.version) == g->version;",
        "    return 1;",
    ),
    Mutant(
        "who searches a list looks at its stamp again",
        "list.h",
        "    return fs_read_valid(&v->o.lock, version) && fs_load_relaxed(&v->stamp) == *stamp ? r : FS_BUSY;",
        "    return fs_read_valid(&v->o.lock, version) ? r : FS_BUSY;",
    ),
    Mutant(
        "who copies a list's slots looks at its stamp again",
        "list.h",
        "    if (fs_read_valid(&v->o.lock, version) && fs_load_relaxed(&v->stamp) == *stamp) {",
        "    if (fs_read_valid(&v->o.lock, version)) {",
    ),
    Mutant(
        "a committed change is finished by whoever comes next",
        "redo.h",
        "        for (uint64_t i = 0; i < n; i++) {",
        "        for (uint64_t i = 0; i < (n > 2 ? n - 1 : n); i++) {",
    ),
    Mutant("nobody robs the living", "lock.h", "    if (!owner || fs_alive(heap, owner))", "    if (!owner)"),
)

libc = ctypes.CDLL(None)
clock = time.monotonic_ns

Plan = list[tuple[str, tuple[Any, ...], int]]


def plans(subject: Subject, rng: random.Random) -> list[Plan]:
    """A plan for each process: calls, and how long to wait before them. Each stretch of it has a theme."""
    out: list[Plan] = [[] for _ in range(PROCESSES)]
    for _ in range(STRETCHES):
        names, keys, forms = subject.names, subject.keys, subject.forms
        if rng.random() < 0.8:
            names = (*rng.sample(names, rng.choice((1, 2, 3))), *subject.always)
            keys, forms = rng.choices(keys, k=2), rng.choices(forms, k=2)
        for slot, plan in enumerate(out):
            begin, count = len(plan), rng.randrange(CALLS // 2, CALLS) // STRETCHES
            plan += themed(subject, rng, 1000 * slot + begin + 1, count, names, keys, forms)
    return out


def themed(
    subject: Subject, rng: random.Random, n: int, count: int, names: Sequence[str], keys: Sequence[int], forms: Sequence[int]
) -> Plan:
    plan: Plan = []
    for number in range(n, n + count):
        name, word = rng.choice(names), number << 3 | rng.choice(forms)
        plan.append((name, subject.arguments(rng, name, rng.choice(keys), word), rng.choice((0, 0, 0, 0, 1, 9, 30))))
    return plan


# --- the processes ------------------------------------------------------------------------------------------------------------

BEGIN, END, RESULT, ARGUMENT, WORDS = range(5)  # of one call in the log
GO, READY, LOG = 0, 1, 1 + PROCESSES


def at(subject: int, slot: int, i: int) -> int:
    return LOG + ((subject * PROCESSES + slot) * CALLS + i) * WORDS


def act(subject: Subject, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
    try:
        return subject.call(target, name, arguments)
    except KeyError:
        return KEY_ERROR
    except IndexError:
        return INDEX_ERROR
    except TypeError:
        return TYPE_ERROR
    except TimeoutError:
        return ABSENT


def work(log: memoryview, slot: int, targets: list[Any], plans: tuple[Plan, ...], first: int, begin: int) -> None:
    """All calls from the `begin`th of subject `first` on."""
    seen = 0
    for s in range(first, len(SUBJECTS)):
        subject, target, plan = SUBJECTS[s], targets[s], plans[s]
        log[READY + slot] = s
        while log[GO] <= s:
            os.sched_yield()
        for i in range(begin, len(plan)):
            name, arguments, pause = plan[i]
            record = at(s, slot, i)
            if name == "compare_exchange":
                log[record + ARGUMENT] = seen
                arguments = (*arguments, seen)
            if pause == 1:
                os.sched_yield()
            for _ in range(pause):
                pass
            log[record + BEGIN] = clock()
            result = act(subject, target, name, arguments)
            log[record + RESULT] = result
            log[record + END] = clock()
            if name in ("load", "exchange", "fetch_add", "get"):
                seen = result
        begin = 0
        log[READY + slot] = s + 1


class Run:
    """What one seed makes the processes do, and the histories of it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.kills = seed % 2 == 1
        self.log = memoryview(mmap.mmap(-1, 8 * at(len(SUBJECTS), 0, 0))).cast("q")
        self.plans = list(zip(*(plans(subject, rng) for subject in SUBJECTS), strict=True))  # by process, then by subject
        self.targets = [subject.make() for subject in SUBJECTS]
        self.lives: list[list[tuple[int, int]]] = [[] for _ in range(PROCESSES)]  # (subject, first call)
        self.pids = [0] * PROCESSES

    def __enter__(self) -> Run:
        for slot in range(PROCESSES):
            self.start(slot, 0, 0)
        return self

    def __exit__(self, *_: object) -> None:
        for pid in filter(None, self.pids):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def start(self, slot: int, subject: int, begin: int) -> None:
        self.lives[slot].append((subject, begin))
        pid = os.fork()
        if pid:
            self.pids[slot] = pid
            return
        status = 1
        try:
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the judge
            work(self.log, slot, self.targets, self.plans[slot], subject, begin)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def wait(self, stage: int) -> None:
        """Until all processes are ready for that subject."""
        end = time.monotonic() + SOON
        while any(self.log[READY + slot] < stage for slot in range(PROCESSES)):
            for slot, pid in enumerate(self.pids):
                if pid and os.waitpid(pid, os.WNOHANG) != (0, 0):
                    self.pids[slot] = 0
                    if self.log[READY + slot] < len(SUBJECTS):
                        raise AssertionError(f"process {slot} failed; its traceback is above")
            if time.monotonic() > end:
                raise AssertionError(f"processes hang: {[self.log[READY + slot] for slot in range(PROCESSES)]} of {stage}")
            time.sleep(0.0002)

    def kill_some(self, s: int) -> None:
        """One or two of the processes, each when it is about a call that was chosen before."""
        for slot in self.rng.sample(range(PROCESSES), self.rng.choice((1, 1, 2))):
            chosen, end = self.rng.randrange(len(self.plans[slot][s])), time.monotonic() + SOON
            while not self.log[at(s, slot, chosen) + BEGIN]:
                if time.monotonic() > end:
                    raise AssertionError(f"process {slot} hangs")
                os.sched_yield()
            for _ in range(self.rng.randrange(60)):
                pass
            os.kill(self.pids[slot], signal.SIGKILL)
            os.waitpid(self.pids[slot], 0)
            begun = [i for i in range(len(self.plans[slot][s])) if self.log[at(s, slot, i) + BEGIN]]
            self.start(slot, s, begun[-1] + 1)

    def go(self) -> None:
        for s in range(len(SUBJECTS)):
            self.wait(s)
            self.log[GO] = s + 1
            if self.kills:
                self.kill_some(s)
            self.wait(s + 1)

    def sessions(self, s: int) -> list[list[Call]]:
        """What was recorded of a subject, a session for each life, and what is there at the end."""
        out = []
        for slot in range(PROCESSES):
            plan = self.plans[slot][s]
            cuts = [begin for subject, begin in self.lives[slot] if subject == s and begin]
            for first, last in zip([0, *cuts], [*cuts, len(plan)], strict=True):
                out.append([self.recorded(s, slot, i) for i in range(first, last)])
        look = []
        for name, arguments in SUBJECTS[s].final:
            begin = clock()
            result = act(SUBJECTS[s], self.targets[s], name, arguments)
            look.append(Call(begin, clock(), name, arguments, result))
        return [*out, look]

    def recorded(self, s: int, slot: int, i: int) -> Call:
        name, arguments, _ = self.plans[slot][s][i]
        begin, end, result, argument = self.log[at(s, slot, i) : at(s, slot, i) + 4]
        if name == "compare_exchange":
            arguments = (*arguments, argument)
        return Call(begin, end or NEVER, name, arguments, result if end else None)


# --- two calls again and again: windows of a few nanoseconds, which random histories hardly meet ------------------------------


def append_and_mark(items: Any, k: int) -> None:
    """Once an item is not the last one any more, it is made -1."""
    if k % 5_000 == 0:
        items[:] = [0]
    items.append(1)
    items[-2] = -1


def last_is_marked(items: Any, k: int) -> bool:
    return items[-1] == -1


def grow_by_one(target: Any, k: int) -> None:
    d, clears = target
    if k % 1_000 == 0:
        clears.add(1)  # odd while it is cleared
        d.clear()
        clears.add(1)
    d[k % 1_000] = k


def length_behind(target: Any, k: int) -> bool:
    """A key that was seen is counted."""
    d, clears = target
    before, n = clears.value, len(d)
    return n in d and len(d) <= n and before % 2 == 0 and clears.value == before


def replace_texts(containers: Any, k: int) -> None:
    d, items = containers
    wide = LETTERS[k % 26] * WIDE
    d[0] = k if k % 3 == 0 else wide
    items[:] = [wide]


def is_torn(containers: Any, k: int) -> bool:
    """Values are of one letter, or numbers that have been counted so far."""
    d, items = containers
    text, value = items[0], d.get(0, 0)
    if isinstance(value, int):
        return not 0 <= value < 1 << 30 or text.count(text[0]) != WIDE
    return value.count(value[0]) != WIDE or text.count(text[0]) != WIDE


def add_above(target: Any, k: int) -> None:
    target[0].add(1 << 32)


def is_lost(target: Any, k: int) -> bool:
    """In the lower half of the number it is we alone who add."""
    value, mine = target
    was = value.fetch_add(1) & (1 << 32) - 1
    mine[0], expected = was + 1, mine[0]
    return was != expected


def move_a_one(items: Any, k: int) -> None:
    """From one end to the other, where it is before it is gone: at any instant there is one."""
    items[-(k % 2)] = 1
    items[-((k + 1) % 2)] = 0


def one_is_missing(items: Any, k: int) -> bool:
    return not (1 in items if k % 20 else any(items[:]))


RACES = {
    "values that are replaced": (lambda: (fastshm.dict(), fastshm.list(["a" * WIDE])), replace_texts, is_torn),
    "additions by two": (lambda: (fastshm.Value("q"), [0]), add_above, is_lost),
    "the last item, while others append": (lambda: fastshm.list([0]), append_and_mark, last_is_marked),
    "what moves within a list is in it": (lambda: fastshm.list([1] + [0] * 2_000), move_a_one, one_is_missing),
    "a dict's length, when a new key was seen": (lambda: (fastshm.dict(), fastshm.Value("q")), grow_by_one, length_behind),
}


def race(name: str, seconds: float) -> Figure:
    make, write, is_wrong = RACES[name]
    target = make()
    pid = os.fork()
    if not pid:
        libc.prctl(1, signal.SIGKILL)
        k = 0
        while True:
            write(target, k)
            k += 1
    tried = failed = 0
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            for k in range(100):
                failed += is_wrong(target, k)
            tried += 100
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return Figure(f"looks: {name}", tried, failed)


# --- judging ------------------------------------------------------------------------------------------------------------------


def judge(subject: Subject, sessions: list[list[Call]]) -> list[Hashable]:
    """The parts of the history that no order of the calls explains."""
    parts: dict[Hashable, list[list[Call]]] = {}
    for n, session in enumerate(sessions):
        for call in session:
            parts.setdefault(subject.parts(call), [[] for _ in sessions])[n].append(call)
    return [part for part, calls in parts.items() if not is_linearizable(calls, subject.specification, subject.state, MOST)]


def until(sessions: list[list[Call]], t: int) -> list[list[Call]]:
    """The history as it was at that time: what had not ended was pending."""
    return [[call._replace(end=call.end if call.end < t else NEVER) for call in calls if call.begin < t] for calls in sessions]


def show(subject: Subject, sessions: list[list[Call]], part: Hashable) -> None:
    """The last calls of the shortest beginning that no order explains."""
    sessions = [[call for call in calls if subject.parts(call) == part] for calls in sessions]
    times = sorted({call.end for calls in sessions for call in calls})
    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        if is_linearizable(until(sessions, times[middle] + 1), subject.specification, subject.state, MOST):
            low = middle + 1
        else:
            high = middle
    calls = sorted((call, n) for n, calls in enumerate(until(sessions, times[low] + 1)) for call in calls)
    for call, n in calls[-25:]:
        end = "     never" if call.pending else f"{call.end - calls[0][0].begin:10}"
        begin = call.begin - calls[0][0].begin
        print(f"  {begin:10} {end}  {n:2}  {call.name} {call.arguments} -> {call.result}", file=sys.stderr)


def overlapping(sessions: list[list[Call]]) -> int:
    """How many calls were under way while another one was."""
    calls = sorted(call for session in sessions for call in session)
    count, last = 0, -1
    for n, call in enumerate(calls):
        count += call.begin < last or (n + 1 < len(calls) and calls[n + 1].begin < call.end)
        last = max(last, call.begin if call.pending else call.end)
    return count


class Counts:
    """Of one subject's histories."""

    tried = failed = undecided = calls = overlapping = pending = 0

    def take(self, subject: Subject, sessions: list[list[Call]], seed: int) -> None:
        self.tried += 1
        self.calls += sum(map(len, sessions))
        self.overlapping += overlapping(sessions)
        self.pending += sum(call.pending for session in sessions for call in session)
        try:
            wrong = judge(subject, sessions)
        except Undecided:
            self.undecided += 1
            return
        self.failed += bool(wrong)
        for part in wrong:
            print(f"not linearizable: {subject.name}, part {part}, seed {seed}", file=sys.stderr)
            show(subject, sessions, part)

    def figure(self, name: str) -> Figure:
        """Those that were not decided do not count; more than one in twenty is a failure of this item."""
        many = self.undecided * 20 > self.tried
        share = f"{self.overlapping / max(self.calls, 1):.0%} of {self.calls:,} calls overlap, {self.pending:,} pending"
        return Figure(
            f"histories: {name}", self.tried - self.undecided, self.failed + many, f"{share}, {self.undecided} undecided"
        )


def run(short: bool) -> Iterator[Figure]:
    """Histories of as many seeds as are asked for, or as fit."""
    return in_a_child(histories, short)


def histories(short: bool) -> Iterator[Figure]:
    fastshm.Value("q").add(1)  # the segment is there before the first fork
    for name in RACES:
        yield race(name, 1.5 if short else 30)
    end = time.monotonic() + (20 if short else float("inf"))
    counts = {subject.name: Counts() for subject in SUBJECTS}
    broken = seeds = 0
    for seed in range(SEEDS, SEEDS + HISTORIES):
        if time.monotonic() > end or broken > 2 or any(count.failed > 2 for count in counts.values()):
            break
        seeds += 1
        try:
            with Run(seed) as history:
                history.go()
                recorded = [history.sessions(s) for s in range(len(SUBJECTS))]
        except Exception:
            traceback.print_exc()
            print(f"seed {seed}", file=sys.stderr)
            broken += 1
            continue
        for subject, sessions in zip(SUBJECTS, recorded, strict=True):
            counts[subject.name].take(subject, sessions, seed)
    for name, count in counts.items():
        yield count.figure(name)
    yield Figure("seeds whose processes came to their end", seeds, broken, f"seeds {SEEDS} to {SEEDS + seeds - 1}")
    fastshm.heap.check()
