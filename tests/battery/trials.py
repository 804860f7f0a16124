"""Trials of one figure in a process of its own: what they count, how they end, and the census that must come back."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from battery import HERE, SEEDS, Figure, figure_from
from leftovers import until as waited_for

SECONDS = 10.0  # far beyond what a slow machine needs: only a hang gets here


class Trials:
    """Counts; a trial fails once, with the words of its first wrong step on stderr."""

    def __init__(self) -> None:
        self.tried = self.failed = 0
        self.notes: list[str] = []

    @contextmanager
    def trial(self, name: str) -> Iterator[None]:
        """One trial: whatever is raised in it is its failure."""
        self.tried += 1
        try:
            yield
        except Exception:
            self.failed += 1
            if self.failed <= 3:
                print(f"trial {self.tried}, {name}, FASTSHM_SEED={SEEDS}:", traceback.format_exc(), sep="\n", file=sys.stderr)

    def report(self) -> None:
        """The last line, for figure_from()."""
        print(f"{self.tried} tried, {self.failed} failed: {'; '.join(self.notes)}", flush=True)


def program(module: str, *arguments: object, before: tuple[str, ...] = (), seconds: float = 3600) -> Any:
    """Run a module of the battery as a program; what it says on stderr goes to ours."""
    command = [*before, sys.executable, str(HERE / f"{Path(module).stem}.py"), *map(str, arguments)]
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as late:
        return subprocess.CompletedProcess(command, 1, (late.stdout or b"").decode(), None)


def figure(what: str, module: str, *arguments: object, before: tuple[str, ...] = (), seconds: float = 3600) -> Figure:
    """The figure that a program of the battery ends with."""
    done = program(module, *arguments, before=before, seconds=seconds)
    done.stderr = ""
    return figure_from(what, done)


def census() -> dict[str, int]:
    """What is in the default segment, after a check of all of it."""
    import fastshm

    gc.collect()
    counts = fastshm.heap.check()
    return {
        name: counts[name] for name in ("processes", "handles", "cells", "arrays", "locks", "tables", "vectors", "bytes_used")
    }


def quiet_tracker() -> None:
    """Those that are killed leave their names to the resource tracker, which says so at the end."""
    said, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    resource_tracker.ensure_running()
    os.dup2(said, 2)
    os.close(said)
    os.close(nowhere)


def until(condition: Callable[[], Any], seconds: float = SECONDS, pause: float = 0.0002) -> Any:
    """Wait for a condition; an error when it does not come."""
    answer = waited_for(condition, seconds, pause)
    if not answer:
        raise AssertionError("what was waited for did not come")
    return answer
