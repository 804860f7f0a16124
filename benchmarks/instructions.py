"""Count the processor's instructions of the hottest calls, which no busy neighbour can change.

    python benchmarks/instructions.py [--only TEXT] [--json FILE] [--compare [FILE]]

Every call runs twice under `valgrind --tool=callgrind`, in a short loop and in a long one. The difference belongs to
the loop, so start-up cancels; it holds the call and a turn of the interpreter's `for`, which the row `pass` shows.

`instructions.json` beside this file is the record, made by --json. --compare says by how much each call differs from it; the
exit status is 1 when one has grown by more than 5 %. Counts of another Python, or of one that was built otherwise, cannot be
compared: then `pass` differs, too, and the record has to be made anew first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent

from measure import Loop
from run import ROWS

import fastshm

SHORT, LONG = 1_000, 11_000
RECORD = Path(__file__).with_name("instructions.json")
TOLERANCE = 1.05
PROGRAM = """\
import fastshm
from fastshm._core import Floor
from itertools import repeat
def main(n):
{setup}
    for _ in repeat(None, n):
{statement}
main({n})
"""
CALLGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")


def main() -> int:
    options = arguments()
    calls = {"pass": ("", "pass"), "floor.nothing()": ("floor = Floor()", "floor.nothing()")}
    hot = [row for row in ROWS if isinstance(row, Loop) and row.hot]
    calls |= {row.name: (row.setup["fastshm"], row.text("fastshm")) for row in hot}
    record: dict[str, float] = json.loads(options.compare.read_text())["instructions"] if options.compare else {}
    counts, grown = {}, []
    for name, call in calls.items():
        if options.only.lower() not in name.lower():
            continue
        counts[name] = (collected(*call, LONG) - collected(*call, SHORT)) / (LONG - SHORT)
        before = record.get(name)
        print(f"{counts[name]:>10,.1f}  {f'{counts[name] / before - 1:>+7.1%}  ' if before else ''}{name}", flush=True)
        if before and counts[name] > before * TOLERANCE:
            grown.append(name)
    if options.json:
        figures = {"fastshm": fastshm.__version__, "Python": platform.python_version(), "instructions": counts}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    for name in grown:
        print(f"{name} has grown from {record[name]:,.1f} to {counts[name]:,.1f} instructions")
    return 1 if grown else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count the instructions of the hottest calls.")
    parser.add_argument("--only", metavar="TEXT", default="", help="only calls with this text in their name")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the counts there too")
    parser.add_argument(
        "--compare", metavar="FILE", type=Path, nargs="?", const=RECORD, help=f"with those in FILE, else in {RECORD.name}"
    )
    return parser.parse_args()


def collected(setup: str, statement: str, n: int) -> int:
    """The instructions of a whole interpreter that does the statement n times."""
    program = PROGRAM.format(setup=indent(setup, "    "), statement=indent(statement, "        "), n=n)
    command = [*CALLGRIND, sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"callgrind failed:\n{done.stderr}")
    return int(found[1])


if __name__ == "__main__":
    sys.exit(main())
