"""Item 10: the models of the primitives, checked exhaustively by spin (tests/models/README.md)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator

from battery import HERE, Figure

MUTANTS = ()  # the models bring their own: every "mutant" row of theirs must fail


def run(short: bool) -> Iterator[Figure]:
    """Every row of the models."""
    if not shutil.which("spin"):
        yield Figure("properties and mutants of the models", 1, 1, "spin is missing")
        return
    done = subprocess.run([sys.executable, HERE.parent / "models" / "run.py"], capture_output=True, text=True, check=False)
    rows = done.stdout.splitlines()[1:]
    holds = [row for row in rows if " holds " in row]
    mutants = [row for row in rows if " mutant " in row]
    wrong = [row for row in rows if not row.endswith(("none", "as they must be"))]
    print(*wrong, done.stderr, sep="\n", file=sys.stderr)
    yield Figure("properties of the models", len(holds), sum(row in wrong for row in holds))
    yield Figure("mutants of the models that must fail", len(mutants), sum(row in wrong for row in mutants))
    yield Figure("lines of the models that no state reaches", len(rows), len([row for row in wrong if "never reached" in row]))
