"""Two processes at one object."""

from __future__ import annotations

from measure import Row
from processes import Crew
from rivals import with_atomicshm
from rows_containers import COUNTED, LOCKED_INCREMENT, NAMED
from rows_typed import ARRAYS, COUNTERS, LOCKED, LOCKED_ITEM, NOTHING, SEMAPHORES, VALUES, both

OTHER_ITEM = LOCKED_ITEM.replace("[7]", "[700]")
THERE_AND_BACK = "if s.acquire(True, 0.1):\n    t.release()", "if t.acquire(True, 0.1):\n    s.release()"
SEMAPHORE_PAIR = both("s, t = M.Semaphore(1), M.Semaphore(0)")
THERE = "if v.wait({0}, 0.1):\n    v.store({0})\n    v.notify_one()"
WORD = "from rivals import Word; v = Word(1_000_000)"
WORDS = with_atomicshm(VALUES, WORD)
MEET = "try:\n    b.wait(0.1)\nexcept RuntimeError:  # broken: the other has stopped\n    b.reset()"
SHARED = {rival: text for rival, text in NAMED.items() if rival != "builtin"}


def each(first: str, second: str) -> dict[str, tuple[str, str]]:
    """One statement for the first process and one for the second, alike for every rival."""
    return dict.fromkeys(NAMED, (first, second))


ROWS: list[Row] = [
    Crew("2 processes, in all: v.add(1)", WORDS, budget={"stdlib": 25},
         statements={"fastshm": ("v.add(1)",) * 2, "stdlib": (LOCKED,) * 2, "atomicshm": ("v.cell.fetch_add(1)",) * 2}),
    Crew("2 processes, in all: v.fetch_add(1)", WORDS,
         statements={"fastshm": ("v.fetch_add(1)",) * 2, "stdlib": (LOCKED,) * 2, "atomicshm": ("v.cell.fetch_add(1)",) * 2}),
    Crew("2 processes, in all: ShardedCounter: v.add(1)", with_atomicshm(COUNTERS, WORD),
         statements={"fastshm": ("v.add(1)",) * 2, "stdlib": (LOCKED,) * 2, "atomicshm": ("v.cell.fetch_add(1)",) * 2}),
    Crew("2 processes, in all: with v.get_lock(): v.value += 1", VALUES,
         statements=dict.fromkeys(VALUES, (LOCKED,) * 2)),
    Crew("2 processes, in all: a.add(i, 1), each its own i", ARRAYS,
         statements={"fastshm": ("a.add(7, 1)", "a.add(700, 1)"), "stdlib": (LOCKED_ITEM, OTHER_ITEM)}),
    Crew("2 processes, in all: Semaphore: acquire, release", SEMAPHORES,
         statements=dict.fromkeys(NOTHING, ("s.acquire()\ns.release()",) * 2)),
    Crew("2 processes: a permit of a Semaphore there and back", SEMAPHORE_PAIR,
         statements=dict.fromkeys(NOTHING, THERE_AND_BACK), first_only=True),
    Crew("2 processes: a Value there and back, by wait and notify", SEMAPHORE_PAIR | {"fastshm": VALUES["fastshm"]},
         statements={"fastshm": (THERE.format(1), THERE.format(0)), "stdlib": THERE_AND_BACK}, first_only=True),
    Crew("2 processes, in all: Barrier(2): wait", both("b = M.Barrier(2)"),
         statements=dict.fromkeys(NOTHING, (MEET,) * 2)),
    Crew("2 processes, in all: d[k]", NAMED, statements=each("d[k]", "d[k]")),
    Crew("2 processes, in all: d[k] = 1, each its own k", SHARED, statements=each("d[k] = 1", "d['key51'] = 1")),
    Crew("2 processes, in all: d.increment(k)", {rival: COUNTED[rival] for rival in SHARED},
         statements={"fastshm": ("d.increment(k)",) * 2, "manager": (LOCKED_INCREMENT["manager"],) * 2}),
    Crew("d[k] while another process sets it", SHARED, statements=each("d[k]", "d[k] = 1"), first_only=True),
    Crew("d[k] = 1 while another process reads it", SHARED, statements=each("d[k] = 1", "d[k]"), first_only=True),
    Crew("v.value while another process sets it", VALUES, statements=dict.fromkeys(VALUES, ("v.value", "v.value = 1")),
         first_only=True),
]  # fmt: skip
