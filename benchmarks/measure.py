"""What a row of the benchmark is, and how its rivals are timed against one another.

A row is one operation and, for every rival, the text that sets it up and the text that does it. The texts become a
loop like `timeit`'s, in which every name is local; nothing is subtracted, so all rivals carry the same cost of looping.
A row runs in rounds, and in each round every rival takes one sample, the order turning around from round to round: a
slow spell of the machine meets all of them. The figure of a rival is its best round; a ratio is that of the best
rounds, and its spread is the smallest and the largest ratio seen within one round.
"""

from __future__ import annotations

import ast
import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice, repeat
from multiprocessing.shared_memory import SharedMemory
from textwrap import indent
from typing import Any, NamedTuple

import fastshm
from fastshm._core import Floor

Names = dict[str, Any]
Sample = Callable[[], float]
Texts = Mapping[str, str]


class Rival(NamedTuple):
    """`private`: it shares nothing; the ratio then says how much we take of what it takes, not how many times less."""

    title: str
    private: bool = False


RIVALS = {
    "stdlib": Rival("multiprocessing"),
    "atomicshm": Rival("atomicshm"),
    "manager": Rival("Manager (unpinned)"),
    "ultradict": Rival("UltraDict"),
    "lmdb": Rival("lmdb"),
    "diskcache": Rival("diskcache"),
    "smd": Rival("shared-memory-dict"),
    "redis": Rival("redis"),
    "bare": Rival("SharedMemory, bare", private=True),
    "builtin": Rival("builtin", private=True),
    "copied": Rival("builtin, copied", private=True),
    "numpy": Rival("NumPy, private", private=True),
}
FLOOR = "floor"
LOOP = """\
def timed(n, clock, {names}):
    start = clock()
{text}
    return clock() - start
"""


@dataclass(frozen=True)
class Effort:
    rounds: int
    slice: float  # seconds that a sample should take


FULL = Effort(rounds=9, slice=0.02)
QUICK = Effort(rounds=3, slice=0.005)


class Comparison(NamedTuple):
    rival: str
    ratio: float
    low: float
    high: float
    budget: float | None

    @property
    def private(self) -> bool:
        return RIVALS[self.rival].private

    @property
    def met(self) -> bool | None:
        if self.budget is None:
            return None
        return self.ratio <= self.budget if self.private else self.ratio >= self.budget


@dataclass(frozen=True)
class Row:
    """One operation. `statement` says how a rival does it where that is not simply the row's name.

    `budget` is the design's: at least so many times faster than a shared rival, at most so many times a private one.
    """

    name: str
    setup: Texts
    statement: Texts = field(default_factory=dict)
    budget: Mapping[str, float] = field(default_factory=dict)
    unit: str = "ns"
    rounds: int = 99  # at most

    def text(self, rival: str) -> str:
        return self.statement.get(rival, self.name)

    def samples(self, effort: Effort, manager: Any, stack: ExitStack) -> dict[str, Sample]:
        raise NotImplementedError


@dataclass(frozen=True)
class Loop(Row):
    """A row of one process. Where every sample needs a new object, `fresh` makes it, untimed.

    `count` is then the length of the loop; only a Manager does fewer, as many as its slice of time allows.
    """

    loop: str = "_ in repeat(None, n)"
    fresh: Texts = field(default_factory=dict)
    count: int | None = None
    each: int = 1  # operations in one turn of the loop
    hot: bool = False  # instructions.py counts it

    def samples(self, effort: Effort, manager: Any, stack: ExitStack) -> dict[str, Sample]:
        timers = {rival: self._timer(rival, base_names(manager, stack)) for rival in self.setup}
        if self.unit == "ns" and self.each == 1:
            floor = Loop("floor.nothing()", {FLOOR: "floor = Floor()"})
            timers[FLOOR] = floor._timer(FLOOR, base_names(manager, stack))
        return {rival: self._sample(timer, rival, effort) for rival, timer in timers.items()}

    def _timer(self, rival: str, names: Names) -> Callable[[int], float]:
        exec(self.setup[rival], names)
        fresh = compile(self.fresh.get(rival, ""), self.name, "exec")
        exec(fresh, names)
        timed = compile_loop(self.text(rival), names, self.loop)

        def timer(n: int) -> float:
            exec(fresh, names)
            return timed(n)

        return timer

    def _sample(self, timer: Callable[[int], float], rival: str, effort: Effort) -> Sample:
        if self.count and rival not in ("manager", FLOOR):
            n = self.count
            timer(n)
        else:
            n = turns(timer, effort.slice, self.count)
        each = self.each
        return lambda: timer(n) / (n * each) * 1e9


def turns(timer: Callable[[int], float], enough: float, most: int | None = None) -> int:
    """How many turns of a loop take about `enough` seconds."""
    n = 1
    while (took := timer(n)) < enough / 4 and n != most:
        n = min(2 * n, most or 2 * n)
    n = max(1, round(n * enough / took))
    return min(n, most or n)


def compile_loop(statement: str, names: Names, loop: str = "_ in repeat(None, n)") -> Callable[[int], float]:
    """A function that takes a number of turns and returns the seconds they took."""
    text = f"for {loop}:\n{indent(statement, '    ')}\n"
    used = sorted({node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)} & names.keys())
    made: Names = {}
    exec(compile(LOOP.format(names=", ".join(used), text=indent(text, "    ")), statement, "exec"), made)
    timed = made["timed"]
    return lambda n: timed(n, time.perf_counter, *[names[name] for name in used])


def base_names(manager: Any, stack: ExitStack) -> Names:
    """What every setup text can use."""
    return {
        "fastshm": fastshm,
        "Floor": Floor,
        "mp": multiprocessing,
        "manager": manager,
        "bare": lambda length: bare_ints(stack, length),
        "cycle": cycle,
        "islice": islice,
        "repeat": repeat,
    }


def bare_ints(stack: ExitStack, length: int) -> memoryview:
    """C ints in a segment of shared memory with nothing around them, until `stack` closes."""
    memory = SharedMemory(create=True, size=4 * length)
    stack.callback(memory.unlink)
    stack.callback(memory.close)
    return stack.enter_context(memoryview(memory.buf).cast("i"))


@contextmanager
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@dataclass(frozen=True)
class Result:
    row: Row
    rounds: Mapping[str, list[float]]  # by rival, of fastshm and of the empty call

    def best(self, rival: str = "fastshm") -> float:
        return min(self.rounds[rival])

    def comparisons(self) -> list[Comparison]:
        return [self._compare(rival) for rival in RIVALS if rival in self.rounds]

    def _compare(self, rival: str) -> Comparison:
        ours, theirs = self.rounds["fastshm"], self.rounds[rival]
        if RIVALS[rival].private:
            ours, theirs = theirs, ours
        each = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
        return Comparison(rival, min(theirs) / min(ours), min(each), max(each), self.row.budget.get(rival))


def measure(row: Row, effort: Effort, manager: Any) -> Result:
    rounds: dict[str, list[float]] = {}
    with ExitStack() as stack, collector_off():
        samples = row.samples(effort, manager, stack)
        order = list(samples)
        for _ in range(min(effort.rounds, row.rounds)):
            for rival in order:
                rounds.setdefault(rival, []).append(samples[rival]())
            order.reverse()
    return Result(row, rounds)
