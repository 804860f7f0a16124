"""Item 11: recorded histories of four processes, some of them killed inside, against sequential specifications (wing_gong.py).

For every seed four processes act on each subject at once, by a plan that the seed makes. Each call's begin, end and result go
to memory that is not fastshm's. A killed process is replaced; its last call is pending. What may be called is in a subject's
`plan`; a new operation is one line there and one in `call` and `specification`.
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
import zlib
from collections.abc import Hashable, Iterator
from typing import Any

from battery import SEEDS, Figure, Mutant, in_a_child
from wing_gong import NEVER, Call, is_linearizable

import fastshm
from fastshm.managers import ListProxy

PROCESSES = 4
CALLS = 40  # of each process on each subject
KILLED_CALLS = 60  # the same where processes are killed
HISTORIES = int(os.environ.get("FASTSHM_HISTORIES", "1000"))  # of each subject, in the full form
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
        "addition under the lock",
        "_typed.pyx",
        "    fs_item_write(&self.c.value, self.size, plus(self.form, old, word, sign))\n    end(&self.c.o, &me, entered)\n",
        "    end(&self.c.o, &me, entered)\n    fs_item_write(&self.c.value, self.size, plus(self.form, old, word, sign))\n",
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
        "readers stay out while a list's items move",
        "vector.h",
        "    fs_write_begin(&v->o.lock);\n    fs_redo_prepare(r);\n    if (fs_owning",
        "    fs_redo_prepare(r);\n    if (fs_owning",
    ),
    Mutant(
        "a committed change is finished by whoever comes next",
        "redo.h",
        "        for (uint64_t i = 0; i < r->n; i++) {",
        "        for (uint64_t i = 0; i < (r->n > 2 ? r->n - 1 : r->n); i++) {",
    ),
    Mutant("nobody robs the living", "lock.h", "    if (!owner || fs_alive(heap, owner))", "    if (!owner)"),
)

libc = ctypes.CDLL(None)
clock = time.monotonic_ns

# --- values, and what a call gave, as one word --------------------------------------------------------------------------------

ABSENT, KEY_ERROR, INDEX_ERROR, TYPE_ERROR, DONE = -1, -2, -3, -4, -5
MISSING = object()
INT, FLOAT, SHORT, LONG, PICKLED, NESTED, BYTES, BIG_PICKLE = range(8)  # how a value lies in shared memory
NUMBERS = (INT, FLOAT)


def real(word: int) -> Any:
    """The value that a word stands for: the number word >> 3 in one of eight forms."""
    n, form = word >> 3, word & 7
    if form == INT:
        return n
    if form == FLOAT:
        return float(n)
    if form == SHORT:
        return str(n)
    if form == LONG:
        return f"{n}," * (30 + n % 200)
    if form == PICKLED:
        return (n, "in a tuple", n)
    if form == NESTED:
        return fastshm.list([n, str(n)])
    return f"{n},".encode() * 40 if form == BYTES else [n] * 300


def word_of(value: Any) -> int:
    """The inverse; ValueError for what is of no word, as a torn value is."""
    if value is MISSING:
        return ABSENT
    kind = type(value)
    if kind is ListProxy:
        value = value[:]
        if value != [value[0], str(value[0])]:
            raise ValueError(f"torn: {value!r}")
        return value[0] << 3 | NESTED
    form = {int: INT, float: FLOAT, str: SHORT, tuple: PICKLED, bytes: BYTES, list: BIG_PICKLE}[kind]
    if kind is str and "," in value:
        form = LONG
    if form in (INT, FLOAT, SHORT):
        n = int(value)
    elif form in (PICKLED, BIG_PICKLE):
        n = value[0]
    else:
        n = int(value.split(b"," if kind is bytes else ",")[0])
    word = n << 3 | form
    if real(word) != value:
        raise ValueError(f"torn: {value!r:.300}")
    return word


def digest(words: Any) -> int:
    """Many words as one."""
    return zlib.crc32(repr(list(words)).encode())


class Odd:
    """A key that only `==` can compare."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and other.n == self.n

    def __hash__(self) -> int:
        return hash(("odd", self.n))


KEYS = ("a", 7, "a key that is too long for its entry, so it lies in a block", (1, "b"), Odd(1), Odd(2))


# --- subjects: what is acted on, by which calls, and what they should do ------------------------------------------------------


class Subject:
    """One kind of shared object. `call` acts on the real one and `specification` on a state of it that can be hashed."""

    name: str
    state: Hashable
    final: tuple[tuple[str, tuple[Any, ...]], ...]  # calls of a process that looks on at the end

    def make(self) -> Any:
        raise NotImplementedError

    def plan(self, rng: random.Random, word: int) -> tuple[str, tuple[Any, ...]]:
        """One call; `word` is the number of a value that nobody else uses, still without its form."""
        raise NotImplementedError

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        raise NotImplementedError

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        raise NotImplementedError

    def parts(self, call: Call) -> Hashable:
        """Calls of different parts are on independent objects: such a history is judged part by part."""
        return None


class Keys(Subject):
    """A dict, key by key."""

    name = "dict, key by key"
    state = ABSENT
    final = tuple(("get", (k,)) for k in range(len(KEYS)))

    def make(self) -> Any:
        return fastshm.dict()

    def plan(self, rng: random.Random, word: int) -> tuple[str, tuple[Any, ...]]:
        name = rng.choice(("set", "set", "get", "get", "get", "delete", "pop", "setdefault", "increment", "increment", "in",
                           "update"))  # fmt: skip
        key, form = rng.choice((0, 0, 1, 2, 3, 4, 5)), rng.choice((INT, INT, INT, *range(8)))
        return name, (key, *([word | form] if name in ("set", "setdefault", "update") else []))

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        key = KEYS[arguments[0]]
        if name == "set":
            target[key] = real(arguments[1])
        elif name == "get":
            return word_of(target.get(key, MISSING))
        elif name == "delete":
            del target[key]
        elif name == "pop":
            return word_of(target.pop(key, MISSING))
        elif name == "setdefault":
            return word_of(target.setdefault(key, real(arguments[1])))
        elif name == "increment":
            return word_of(target.increment(key))
        elif name == "in":
            return int(key in target)
        else:
            target.update({key: real(arguments[1])})
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name = call.name
        if name in ("set", "update"):
            return call.arguments[1], DONE
        if name == "get":
            return state, state
        if name == "delete":
            return ABSENT, KEY_ERROR if state == ABSENT else DONE
        if name == "pop":
            return ABSENT, state
        if name == "setdefault":
            return (call.arguments[1],) * 2 if state == ABSENT else (state, state)
        if name == "in":
            return state, int(state != ABSENT)
        if state == ABSENT:
            return (8 | INT,) * 2
        return (state + 8,) * 2 if state & 7 in NUMBERS else (state, TYPE_ERROR)

    def parts(self, call: Call) -> Hashable:
        return call.arguments[0]


class Whole(Subject):
    """A dict as one object: its order, its length, many keys at once."""

    name = "dict as a whole"
    state = ()
    final = (("items", ()), ("len", ()))

    def make(self) -> Any:
        return fastshm.dict()

    def plan(self, rng: random.Random, word: int) -> tuple[str, tuple[Any, ...]]:
        name = rng.choice(("set", "set", "delete", "get", "len", "len", "in", "update", "items", "clear", "popitem"))
        word |= rng.choice((INT, INT, SHORT, LONG, PICKLED))
        if name == "update":
            return name, tuple((key, word) for key in rng.sample(range(4), 3))
        if name in ("set", "delete", "get", "in"):
            return name, (rng.randrange(4), word)
        return name, ()

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "set":
            target[KEYS[arguments[0]]] = real(arguments[1])
        elif name == "delete":
            del target[KEYS[arguments[0]]]
        elif name == "get":
            return word_of(target.get(KEYS[arguments[0]], MISSING))
        elif name == "len":
            return len(target)
        elif name == "in":
            return int(KEYS[arguments[0]] in target)
        elif name == "update":
            target.update({KEYS[key]: real(word) for key, word in arguments})
        elif name == "items":
            return digest((KEYS.index(key), word_of(value)) for key, value in target.items())
        elif name == "clear":
            target.clear()
        else:
            key, value = target.popitem()
            return digest([(KEYS.index(key), word_of(value))])
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name, now = call.name, dict(state)
        if name == "set":
            now[call.arguments[0]] = call.arguments[1]
        elif name == "delete":
            if now.pop(call.arguments[0], None) is None:
                return state, KEY_ERROR
        elif name == "get":
            return state, now.get(call.arguments[0], ABSENT)
        elif name == "len":
            return state, len(now)
        elif name == "in":
            return state, int(call.arguments[0] in now)
        elif name == "update":
            now.update(call.arguments)
        elif name == "items":
            return state, digest(now.items())
        elif name == "clear":
            now = {}
        elif not now:
            return state, KEY_ERROR
        else:
            return state[:-1], digest(state[-1:])
        return tuple(now.items()), DONE


class Counter(Subject):
    """A Value."""

    name = "Value"
    state = 0
    final = (("load", ()),)

    def make(self) -> Any:
        return fastshm.Value("q")

    def plan(self, rng: random.Random, word: int) -> tuple[str, tuple[Any, ...]]:
        name = rng.choice(("add", "fetch_add", "fetch_sub", "exchange", "compare_exchange", "compare_exchange", "load", "store",
                           "locked add"))  # fmt: skip
        return name, (word,) if name in ("exchange", "store", "compare_exchange") else ()

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "add":
            target.add(1)
        elif name == "fetch_add":
            return target.fetch_add(1)
        elif name == "fetch_sub":
            return target.fetch_sub(3)
        elif name == "exchange":
            return target.exchange(arguments[0])
        elif name == "compare_exchange":
            return int(target.compare_exchange(arguments[1], arguments[0]))
        elif name == "load":
            return target.value
        elif name == "store":
            target.value = arguments[0]
        else:
            with target.get_lock():
                was = target.value
                target.value = was + 1
                return was
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name = call.name
        if name in ("add", "fetch_add", "locked add"):
            return state + 1, DONE if name == "add" else state
        if name == "fetch_sub":
            return state - 3, state
        if name == "exchange":
            return call.arguments[0], state
        if name == "compare_exchange":
            return (call.arguments[0], 1) if state == call.arguments[1] else (state, 0)
        return (state, state) if name == "load" else (call.arguments[0], DONE)


class Deque(Subject):
    """A list, used at both ends and in the middle."""

    name = "list"
    state = ()
    final = (("slice", ()), ("len", ()))

    def make(self) -> Any:
        return fastshm.list()

    def plan(self, rng: random.Random, word: int) -> tuple[str, tuple[Any, ...]]:
        name = rng.choice(("append", "append", "append", "pop", "pop first", "insert", "get", "get", "set", "set", "len",
                           "slice", "extend", "reverse", "delete", "replace"))  # fmt: skip
        word |= rng.choice((INT, INT, INT, SHORT, LONG, PICKLED, NESTED))
        if name in ("append", "extend"):
            return name, (word,)
        if name in ("insert", "get", "set", "delete", "replace"):
            return name, (rng.choice((0, -1, -1, 1)), word)
        return name, ()

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "append":
            target.append(real(arguments[0]))
        elif name in ("pop", "pop first"):
            return word_of(target.pop(*([0] if name == "pop first" else [])))
        elif name == "insert":
            target.insert(arguments[0], real(arguments[1]))
        elif name == "get":
            return word_of(target[arguments[0]])
        elif name == "set":
            target[arguments[0]] = real(arguments[1])
        elif name == "len":
            return len(target)
        elif name == "slice":
            return digest(map(word_of, target[:]))
        elif name == "extend":
            target.extend([real(arguments[0])] * 2)
        elif name == "reverse":
            target.reverse()
        elif name == "delete":
            del target[arguments[0]]
        else:
            target[1:3] = [real(arguments[1])]
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name, now, given = call.name, list(state), call.arguments
        try:
            if name == "append":
                now.append(given[0])
            elif name == "pop":
                return state[:-1], now[-1]
            elif name == "pop first":
                return state[1:], now[0]
            elif name == "insert":
                now.insert(*given)
            elif name == "get":
                return state, now[given[0]]
            elif name == "set":
                now[given[0]] = given[1]
            elif name == "len":
                return state, len(now)
            elif name == "slice":
                return state, digest(now)
            elif name == "extend":
                now.extend([given[0]] * 2)
            elif name == "reverse":
                now.reverse()
            elif name == "delete":
                del now[given[0]]
            else:
                now[1:3] = [given[1]]
        except IndexError:
            return state, INDEX_ERROR
        return tuple(now), DONE


class Numbers(Subject):
    """An Array."""

    name = "Array"
    state = (0,) * 300
    final = (("slice", ()),)

    def make(self) -> Any:
        return fastshm.Array("q", len(self.state))

    def plan(self, rng: random.Random, word: int) -> tuple[str, tuple[Any, ...]]:
        name = rng.choice(("fill", "every other", "set", "get", "get", "fetch_add", "slice"))
        return name, (rng.choice((0, 1, 299)), word)

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        at, word = arguments or (0, 0)
        if name == "fill":
            target[:] = [word] * len(target)
        elif name == "every other":
            target[::2] = [word] * (len(target) // 2)
        elif name == "set":
            target[at] = word
        elif name == "get":
            return target[at]
        elif name == "fetch_add":
            return target.fetch_add(at, 1)
        else:
            return digest(target[:])
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name, (at, word), now = call.name, call.arguments or (0, 0), list(state)
        if name == "fill":
            return (word,) * len(now), DONE
        if name == "every other":
            now[::2] = [word] * (len(now) // 2)
        elif name == "set":
            now[at] = word
        elif name == "get":
            return state, now[at]
        elif name == "fetch_add":
            now[at] += 1
            return tuple(now), state[at]
        else:
            return state, digest(state)
        return tuple(now), DONE


SUBJECTS = (Keys(), Whole(), Counter(), Deque(), Numbers())


# --- the processes ------------------------------------------------------------------------------------------------------------

MOST = max(CALLS, KILLED_CALLS)
BEGIN, END, RESULT, ARGUMENT, WORDS = range(5)  # of one call in the log
GO, READY, LOG = 0, 1, 1 + PROCESSES
Plan = list[tuple[str, tuple[Any, ...], int]]


def at(subject: int, slot: int, i: int) -> int:
    return LOG + ((subject * PROCESSES + slot) * MOST + i) * WORDS


def act(subject: Subject, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
    try:
        return subject.call(target, name, arguments)
    except KeyError:
        return KEY_ERROR
    except IndexError:
        return INDEX_ERROR
    except TypeError:
        return TYPE_ERROR


def work(log: memoryview, slot: int, targets: list[Any], plans: list[Plan], first: int, begin: int) -> None:
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
            if name in ("load", "exchange", "fetch_add"):
                seen = result
        begin = 0
        log[READY + slot] = s + 1


class Run:
    """What one seed makes the processes do, and the histories of it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.kills = seed % 2 == 1
        self.log = memoryview(mmap.mmap(-1, 8 * at(len(SUBJECTS), 0, 0))).cast("q")
        calls = KILLED_CALLS if self.kills else CALLS
        self.plans = [
            [
                [
                    (*subject.plan(rng, (1000 * slot + i + 1) << 3), rng.choice((0, 0, 0, 1, 1, 9, 30)))
                    for i in range(rng.randrange(calls // 2, calls))
                ]
                for subject in SUBJECTS
            ]
            for slot in range(PROCESSES)
        ]
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


RACES = {
    "the last item, while others append": (lambda: fastshm.list([0]), append_and_mark, last_is_marked),
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
            for k in range(1_000):
                failed += is_wrong(target, k)
            tried += 1_000
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
    return [part for part, calls in parts.items() if not is_linearizable(calls, subject.specification, subject.state)]


def show(subject: Subject, sessions: list[list[Call]], part: Hashable) -> None:
    calls = sorted((call, n) for n, session in enumerate(sessions) for call in session if subject.parts(call) == part)
    start = calls[0][0].begin
    for call, n in calls:
        end = "     never" if call.pending else f"{call.end - start:10}"
        print(f"  {call.begin - start:10} {end}  {n:2}  {call.name} {call.arguments} -> {call.result}", file=sys.stderr)


def overlapping(sessions: list[list[Call]]) -> int:
    """How many calls were under way while another one was."""
    calls = sorted(call for session in sessions for call in session)
    count, last = 0, -1
    for n, call in enumerate(calls):
        count += call.begin < last or (n + 1 < len(calls) and calls[n + 1].begin < call.end)
        last = max(last, call.begin if call.pending else call.end)
    return count


def run(short: bool) -> Iterator[Figure]:
    """Histories of as many seeds as are asked for, or as fit."""
    return in_a_child(histories, short)


def histories(short: bool) -> Iterator[Figure]:
    fastshm.Value("q").add(1)  # the segment is there before the first fork
    for name in RACES:
        yield race(name, 3 if short else 30)
    end = time.monotonic() + (12 if short else float("inf"))
    tried = {subject.name: [0, 0, 0, 0, 0] for subject in SUBJECTS}  # histories, failed, calls, overlapping, pending
    broken = seeds = 0
    for seed in range(SEEDS, SEEDS + HISTORIES):
        if time.monotonic() > end or broken > 2 or any(counts[1] > 2 for counts in tried.values()):
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
            counts = tried[subject.name]
            wrong = judge(subject, sessions)
            for part in wrong:
                print(f"not linearizable: {subject.name}, part {part}, seed {seed}", file=sys.stderr)
                show(subject, sessions, part)
            counts[0] += 1
            counts[1] += bool(wrong)
            counts[2] += sum(map(len, sessions))
            counts[3] += overlapping(sessions)
            counts[4] += sum(call.pending for session in sessions for call in session)
    for name, (count, failed, calls, overlaps, pending) in tried.items():
        share = f"{overlaps / max(calls, 1):.0%} of {calls:,} calls overlap, {pending:,} pending"
        yield Figure(f"histories: {name}", count, failed, share)
    yield Figure("seeds whose processes came to their end", seeds, broken, f"seeds {SEEDS} to {SEEDS + seeds - 1}")
    fastshm.heap.check()
