"""What an insert costs while a dict grows from 1,000 to 10,000,000 entries, beside the builtin dict: a picture.

    python benchmarks/growth.py [--entries 10_000_000] [--rounds 3] [--picture docs/growth.svg]

Needs matplotlib. Each round is a fresh process for each of the two, in turn; a point of the picture is the best round of one
stretch of inserts, and the light line above is the longest stretch of 100 inserts within it: growth is amortised where the
lower line is flat, and the upper one shows what a single step of growth takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

KINDS = {"fastshm.dict": "#c0392b", "builtin dict": "#2c3e50"}
CHUNK = 100


def stretches(entries: int) -> list[int]:
    """Where one stretch ends and the next one begins: eight of them for each power of ten."""
    ends = {round(1_000 * 10 ** (step / 8) / CHUNK) * CHUNK for step in range(80)}
    return [0, *sorted(end for end in ends if end < entries), entries]


def grow(kind: str, entries: int) -> list[tuple[int, float, float]]:
    """Of each stretch: its end, nanoseconds an insert on average, milliseconds of the slowest chunk."""
    import fastshm

    d = fastshm.dict() if kind == "fastshm.dict" else {}
    measured = []
    for begin, end in pairwise(stretches(entries)):
        total = slowest = 0
        for start in range(begin, end, CHUNK):
            keys = [f"user:{i:08}" for i in range(start, min(start + CHUNK, end))]
            before = time.perf_counter_ns()
            for key in keys:
                d[key] = 1
            took = time.perf_counter_ns() - before
            total += took
            slowest = max(slowest, took)
        measured.append((end, total / (end - begin), slowest / 1e6))
    return measured


def best(rounds: list[list[tuple[int, float, float]]]) -> list[tuple[int, float, float]]:
    return [(points[0][0], min(p[1] for p in points), min(p[2] for p in points)) for points in zip(*rounds, strict=True)]


def draw(curves: dict[str, list[tuple[int, float, float]]], picture: Path) -> None:
    import matplotlib as mpl

    mpl.rcParams["svg.hashsalt"] = "growth"
    from matplotlib import pyplot

    figure, (mean, slow) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6), layout="constrained")
    for kind, points in curves.items():
        ends = [point[0] for point in points]
        mean.plot(ends, [point[1] for point in points], marker=".", color=KINDS[kind], label=kind)
        slow.plot(ends, [point[2] for point in points], marker=".", color=KINDS[kind], label=kind)
    mean.set(title="Inserting str keys into a growing dict", ylabel="ns an insert, mean", xscale="log", ylim=(0, None))
    slow.set(xlabel="entries", ylabel=f"slowest {CHUNK} inserts, ms", yscale="log")
    for axes in (mean, slow):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(picture, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description="What an insert costs while a dict grows.")
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", type=Path, metavar="FILE")
    parser.add_argument("--here", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(grow(options.here, options.entries)))
        return 0
    rounds: dict[str, list[list[tuple[int, float, float]]]] = {kind: [] for kind in KINDS}
    for _ in range(options.rounds):
        for kind in KINDS:
            command = [sys.executable, __file__, "--here", kind, "--entries", str(options.entries)]
            rounds[kind].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    curves = {kind: best(each) for kind, each in rounds.items()}
    print(f"{'entries':>12}", *(f"{kind + ', ns':>18}{'slowest, ms':>14}" for kind in KINDS))
    for points in zip(*curves.values(), strict=True):
        print(f"{points[0][0]:>12,}", *(f"{mean:>18.1f}{slowest:>14.3f}" for _, mean, slowest in points))
    if options.picture:
        draw(curves, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
