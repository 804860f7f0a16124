"""`python -m fastshm gc`: removes the segments that no living process uses, and says what it did and why.

Every family sweeps so when it starts (heap.sweep); the command is for those who do not want to wait for the next start.
"""

from __future__ import annotations

import argparse
from typing import Any

from fastshm import names


def add_command(commands: Any) -> None:
    """Add the parser of this command to those of `python -m fastshm`."""
    summary = "remove the shared memory that dead processes left, never what a living one uses"
    parser = commands.add_parser(
        "gc",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="Exit code: 0 when nothing of the dead is left, 1 when something is: with --dry-run what would be removed, else "
        "what could not be. Only segments of this user in this /dev/shm are judged.",
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be removed")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The command; the result is the exit code."""
    verdicts = []
    for verdict in names.judged((), remove=not options.dry_run):
        verdicts.append(verdict)
        done = "removed" if verdict.removed else "left" if verdict.abandoned else "kept"
        name = verdict.name if names.NAME.fullmatch(verdict.name) else ascii(verdict.name)  # others may name files as they like
        print(f"{done:<8}{name}  {verdict.size / 1024:,.0f} KiB: {verdict.why}", flush=True)
    removed = [verdict.size for verdict in verdicts if verdict.removed]
    left = sum(verdict.abandoned and not verdict.removed for verdict in verdicts)
    kept = len(verdicts) - len(removed) - left
    print(f"{len(removed)} removed ({sum(removed) / 1024:,.0f} KiB), {left} left, {kept} kept")
    return int(left > 0)
