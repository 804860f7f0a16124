"""What the user sees: progress on one stream, pictures and tables on standard output."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from fastshm.demo.files import BIN_WIDTH, BINS, Totals, differences
from fastshm.demo.workers import KINDS, Run

TOP = 10  # words shown
BAR = 40  # columns of a full bar
REDRAW, LINE_EVERY = 0.1, 5.0  # seconds between two states of a progress bar, and between two lines of a quiet one
BLOCKS = "▏▎▍▌▋▊▉█"  # one to eight eighths of a column

COMPARED = """\
An operation is the reading or writing of one shared item; the time includes the locks and the waiting for them.
Both ran the same worker code. For each file: its statistics go into a dict, the lengths of its lines into an
Array, and a Value counts it. For each batch of files: a Value claims it, and under a Lock each of its different
words is got from a dict and set in it."""


class Progress:
    """A bar on a terminal; elsewhere a line now and then, and one at the end."""

    def __init__(self, label: str, total: int, stream: TextIO) -> None:
        self.label, self.total, self.stream = label, total, stream
        self.done, self.live = 0, bool(stream and stream.isatty())
        self.began = time.monotonic()
        self.due = self.began if self.live else self.began + LINE_EVERY

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.draw("\n")

    def update(self, done: int) -> None:
        self.done = done
        if (now := time.monotonic()) >= self.due:
            self.due = now + (REDRAW if self.live else LINE_EVERY)
            self.draw("\r" if self.live else "\n")

    def draw(self, end: str) -> None:
        text = f"{self.done:,} of {self.total:,} files, {time.monotonic() - self.began:.1f} s"
        if self.live:
            width = max(0, min(BAR, shutil.get_terminal_size().columns - len(self.label) - len(text) - 3))
            text = f"{bar(self.done, self.total, width, self.stream):{width}} {text}"
        print(f"{self.label:16} {text}", end=end, file=self.stream, flush=True)


def bar(part: int, whole: int, width: int, stream: TextIO) -> str:
    """A bar `width` columns wide at full length, in eighths of a column where the stream can show them."""
    full, eighths = divmod(part * width * 8 // (whole or 1), 8)
    try:
        BLOCKS.encode(getattr(stream, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return "#" * full
    return BLOCKS[-1] * full + BLOCKS[:eighths][-1:]


def print_bars(title: str, rows: Sequence[tuple[str, int]]) -> None:
    print(f"\n{title}")
    most = max((number for _, number in rows), default=0)
    for label, number in rows:
        print(f"  {label:>16} {number:>12,}  {bar(number, most, BAR, sys.stdout)}".rstrip())


def print_totals(totals: Totals) -> None:
    """The top words and the lengths of lines as pictures, and the sums."""
    top = sorted(totals.words.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    print_bars("Top words", [(word if len(word) <= 16 else f"{word[:13]}...", times) for word, times in top])
    last = BIN_WIDTH * (BINS - 1)
    labels = [*(f"{low} to {low + BIN_WIDTH - 1}" for low in range(0, last, BIN_WIDTH)), f"{last} and more"]
    print_bars("Lines by length", list(zip(labels, totals.lengths, strict=True)))
    skipped = Counter(statistics.get("skipped") for statistics in totals.files.values())
    lines, words = sum(totals.lengths), sum(totals.words.values())
    print(f"\n{skipped[None]:,} text files, {lines:,} lines, {words:,} words, {len(totals.words):,} of them different")
    print(f"skipped: {skipped['binary']:,} binary, {skipped['unreadable']:,} unreadable\n", flush=True)


def print_check(name: str, run: Run, alone: Totals) -> bool:
    """Say whether a shared count equals that of a single process, to the last word."""
    wrong = differences(alone, run.totals)
    if run.done != len(alone.files):
        wrong.append(f"progress: {run.done} and not {len(alone.files)}")
    if wrong:
        print(f"check FAILED: {name} differs from a single process (or files changed meanwhile)", *wrong, sep="\n  ")
    else:
        print(f"check passed: {name} counted exactly what a single process counts")
    return not wrong


def print_comparison(ours: Run, theirs: Run) -> None:
    """The time that each family's workers spent in shared state, and the ratio."""

    def row(label: str, operations: str, mine: float, other: float) -> None:
        ratio = f"{other / mine:,.1f}x" if mine else "-"
        print(f"  {label:22}{operations:>12}{mine:>12.3f}{other:>18.3f}{ratio:>10}")

    print("\nTime in shared state, seconds of all workers together")
    print(f"  {'':22}{'operations':>12}{'fastshm':>12}{'multiprocessing':>18}{'ratio':>10}")
    for kind, (operations, mine), (_, other) in zip(KINDS, ours.spent, theirs.spent, strict=True):
        row(kind, f"{operations:,}", mine, other)
    mine, other = (sum(seconds for _, seconds in run.spent) for run in (ours, theirs))
    row("both", f"{sum(operations for operations, _ in ours.spent):,}", mine, other)
    row("the job, start to end", "", ours.elapsed, theirs.elapsed)
    print(COMPARED)
