"""What many small shared objects cost: time, file descriptors and memory.

    python benchmarks/many.py [COUNT]

Makes COUNT values (10,000) in a fresh process and keeps them. Private memory is what is resident; shared memory is the larger
of what is resident and of all pages of the segments that the process has mapped and that still have a name. When descriptors
or semaphores run out, it stops.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastshm

MAKERS: dict[str, Callable[[], Any]] = {
    "fastshm.Value('q', 0)": lambda: fastshm.Value("q", 0),
    "multiprocessing.Value('q', 0)": lambda: multiprocessing.Value("q", 0),
}


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    if len(sys.argv) > 2:
        return report(sys.argv[2], count)
    for name in MAKERS:
        subprocess.run([sys.executable, __file__, str(count), name], check=True)
    return 0


def report(name: str, count: int) -> int:
    make = MAKERS[name]
    kept: list[Any] = [make()]  # what the first one brings with it is counted, too, but for the interpreter's modules
    kept.clear()
    descriptors, private, shared, start = len(os.listdir("/proc/self/fd")), *memory(), time.perf_counter()
    try:
        while len(kept) < count:
            kept.append(make())
    except OSError as error:
        print(f"{name}: {error}, after {len(kept):,}")
    took, now = time.perf_counter() - start, memory()
    print(
        f"{len(kept):,} x {name}: {took / len(kept) * 1e6:.2f} us each; "
        f"{len(os.listdir('/proc/self/fd')) - descriptors} more file descriptors than {descriptors}; "
        f"{(now[1] - shared) / 1e6:.2f} MB more shared and {(now[0] - private) / 1e6:.2f} MB more private memory"
    )
    return 0


def memory() -> tuple[int, int]:
    """Bytes: private, shared."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    resident = {name: int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem")}
    mapped = {line.split()[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/shm/" in line}
    pages = sum(Path(segment).stat().st_blocks * 512 for segment in mapped if Path(segment).exists())
    return resident["RssAnon"], max(resident["RssShmem"], pages)


if __name__ == "__main__":
    sys.exit(main())
