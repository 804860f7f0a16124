"""Time fastshm against its rivals.

    python benchmarks/run.py [--quick] [--only TEXT] [--json FILE]

Everything is printed as one table while it is measured; README.md beside this file says how to read it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rows_containers
import rows_large
import rows_peers
import rows_processes
import rows_typed
import rows_values
import rows_writes
from measure import FLOOR, FULL, QUICK, RIVALS, Comparison, Result, measure

import fastshm

ROWS = [
    *(*rows_typed.ROWS, *rows_containers.ROWS, *rows_values.ROWS, *rows_large.ROWS),
    *(*rows_processes.ROWS, *rows_writes.ROWS, *rows_peers.ROWS),
]
LINE = "| {:<53} | {:>9} | {:>6} | {:<20} | {:>10} | {:>14} | {:>15} | {:>8} | {:<3} |"
HEAD = LINE.format("operation", "fastshm", "floor", "rival", "its figure", "ratio", "over the rounds", "budget", "met")


def main() -> int:
    options = arguments()
    rows = [row for row in ROWS if options.only.lower() in row.name.lower()]
    if not rows:
        print(f"no row has {options.only!r} in its name", file=sys.stderr)
        return 2
    effort = QUICK if options.quick else FULL
    machine = about(effort.rounds)
    print(*(f"{name}: {value}" for name, value in machine.items()), "", HEAD, rule(), sep="\n", flush=True)
    results, failed = [], []
    start = time.monotonic()
    with multiprocessing.Manager() as manager:
        for row in rows:
            try:
                result = measure(row, effort, manager)
            except Exception as error:  # the other rows are still wanted
                failed.append(row.name)
                print(f"{row.name}: failed: {error!r}", file=sys.stderr)
                continue
            results.append(result)
            print(*lines(result), sep="\n", flush=True)
    print("", *summary(results), f"{time.monotonic() - start:.0f} s", sep="\n")
    if options.json:
        figures = {"machine": machine, "rows": [as_json(result) for result in results], "failed": failed}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time fastshm against its rivals.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, under a minute")
    parser.add_argument("--only", metavar="TEXT", default="", help="only rows with this text in their name")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures of all rounds there too")
    return parser.parse_args()


def about(rounds: int) -> dict[str, Any]:
    return {
        "fastshm": fastshm.__version__,
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "NumPy": version("numpy") if find_spec("numpy") else "not installed, so its rows are left out",
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "processors": len(os.sched_getaffinity(0)),
        "figures": f"ns an operation, loop included, the best of {rounds} interleaved rounds",
        "processes": "unpinned, the Manager's server too",
    }


def rule() -> str:
    return "|".join("-" * len(cell) for cell in HEAD.split("|"))


def lines(result: Result) -> list[str]:
    floor = f"{result.best(FLOOR):.1f}" if FLOOR in result.rounds else ""
    first = (result.row.name, figure(result.best()), floor)
    made = []
    for compared in result.comparisons():
        rival = (RIVALS[compared.rival].title, figure(result.best(compared.rival)))
        spread = f"{times(compared.low)} .. {times(compared.high)}"
        made.append(LINE.format(*first, *rival, ratio(compared), spread, *verdict(compared)))
        first = ("", "", "")
    return made


def figure(value: float) -> str:
    return f"{value:,.1f}" if value < 1_000 else f"{value:,.0f}"


def times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def ratio(compared: Comparison) -> str:
    return f"{times(compared.ratio)}x {'as much' if compared.private else 'faster'}"


def verdict(compared: Comparison) -> tuple[str, str]:
    if compared.budget is None:
        return "", ""
    return f"{'<=' if compared.private else '>='} {compared.budget:g}x", "yes" if compared.met else "NO"


def summary(results: list[Result]) -> list[str]:
    judged = [(result.row.name, compared) for result in results for compared in result.comparisons() if compared.budget]
    missed = [
        f"not met: {name}: {ratio(compared)} against {RIVALS[compared.rival].title}, budget {verdict(compared)[0]}"
        for name, compared in judged
        if not compared.met
    ]
    return [f"budgets met: {len(judged) - len(missed)} of {len(judged)}", *missed]


def as_json(result: Result) -> dict[str, Any]:
    compared = [{**each._asdict(), "met": each.met, "private": each.private} for each in result.comparisons()]
    return {"operation": result.row.name, "unit": result.row.unit, "rounds": result.rounds, "compared": compared}


if __name__ == "__main__":
    sys.exit(main())
