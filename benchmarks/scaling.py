"""What several processes do together at one object, against one alone: readers, with and without a writer, and counters.

    python benchmarks/scaling.py [--processes N ...] [--only TEXT]

Millions of operations a second, of all processes (but the writer) taken together; best of five rounds. With as many processes
as processors, or fewer, readers that do not slow one another double their rate when there are twice as many of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from typing import NamedTuple

from measure import base_names
from processes import Worker

ROUNDS, SLICE = 5, 0.15


class Case(NamedTuple):
    name: str
    setup: str
    statement: str
    writer: str = ""


LIST = "x = fastshm.list(range(1_000, 1_100))"
CASES = [
    Case("Value: v.value", "v = fastshm.Value('q', 1_000_000)", "v.value", "v.value = 1"),
    Case("Array: a[7]", "a = fastshm.Array('q', range(1_000))", "a[7]", "a[7] = 1"),
    Case("list: x[7]", LIST, "x[7]", "x[7] = 1"),
    Case("list: x[:]  (100)", LIST, "x[:]", "x[7] = 1"),
    Case("list: 1_050 in x  (51st of 100)", LIST, "1_050 in x", "x[7] = 1"),
    Case("dict: d['k']", "d = fastshm.dict(k=1_000_000, other=1)", "d['k']", "d['other'] = 1"),
    Case("multiprocessing.Value: v.value", "v = mp.get_context('spawn').Value('q', 1_000_000)", "v.value", "v.value = 1"),
    Case("Value: v.add(1)", "v = fastshm.Value('q', 0)", "v.add(1)"),
    Case("ShardedCounter: v.add(1)", "v = fastshm.ShardedCounter()", "v.add(1)"),
    Case(
        "multiprocessing.Value: with v.get_lock(): v.value += 1",
        "v = mp.get_context('spawn').Value('q', 0)",
        "with v.get_lock():\n    v.value += 1",
    ),
]


def main() -> int:
    options = arguments()
    counts: list[int] = options.processes
    print(f"{os.cpu_count()} processors; millions a second\n")
    print(
        f"{'':56}"
        + "".join(f"{f'{n} process' + 'es' * (n > 1):>13}" for n in counts)
        + "".join(f"{f'{n} + a writer':>13}" for n in counts)
    )
    for case in CASES:
        if options.only.lower() not in case.name.lower():
            continue
        rates = [rate(case, n, False) for n in counts] + [rate(case, n, True) for n in counts if case.writer]
        print(f"{case.name:56}" + "".join(f"{each / 1e6:>13.2f}" for each in rates), flush=True)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Several processes at one object against one alone.")
    parser.add_argument("--processes", metavar="N", type=int, nargs="+", default=[1, 2, 4], help="so many of them (1 2 4)")
    parser.add_argument("--only", metavar="TEXT", default="", help="only rows with this text in their name")
    return parser.parse_args()


def rate(case: Case, count: int, with_writer: bool) -> float:
    with ExitStack() as stack:
        names = base_names(None, stack)
        exec(case.setup, names)
        workers = [Worker(case.statement, names, stack) for _ in range(count)]
        writers = [Worker(case.writer, names, stack)] if with_writer else []
        best = 0.0
        for _ in range(ROUNDS):
            start = time.monotonic() + 0.01
            for worker in (*workers, *writers):
                worker.begin(start, start + SLICE)
            best = max(best, sum(worker.rate() for worker in workers))
            for writer in writers:
                writer.rate()
        return best


if __name__ == "__main__":
    sys.exit(main())
