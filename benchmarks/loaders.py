"""The private memory of data-loader workers before and after one pass over a list of records that they share.

    python benchmarks/loaders.py [--records 500_000] [--workers 4] [--start-method fork]

The rival is a plain list that forked workers inherit: reading an item writes its reference count, so each worker gets a copy of
every page it looks at. With spawn or forkserver a plain list is copied as a whole, into each worker.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from multiprocessing.connection import Connection
from typing import Any

import fastshm

KINDS = {"fastshm.frozen": fastshm.frozen, "list": list}


def private() -> int:
    """Bytes that no other process maps; what one page of shared memory costs is not in it."""
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))) * 1024


def work(records: Any, barrier: Any, pipe: Connection) -> None:
    barrier.wait(60)  # all are there: what is shared with a sibling is no longer private
    before = private()
    seen = sum(len(record) for record in records)
    barrier.wait(60)
    pipe.send((before, private(), seen))
    barrier.wait(60)


def measure(kind: str, records: int, workers: int, method: str) -> list[tuple[int, int, int]]:
    context = multiprocessing.get_context(method)
    shared = KINDS[kind](f"record {i:08}, {i % 97}" for i in range(records))
    barrier = context.Barrier(workers)
    pipes, processes = [], []
    for _ in range(workers):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(shared, barrier, theirs)))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    results = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="The private memory of data-loader workers.")
    parser.add_argument("--records", type=int, default=500_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--start-method", default="fork", choices=multiprocessing.get_all_start_methods())
    options = parser.parse_args()
    print(f"{options.workers} workers by {options.start_method}, {options.records:,} records; MB of private memory of a worker")
    print(f"{'':<16}{'before':>10}{'after':>10}{'more':>10}")
    for kind in KINDS:
        results = measure(kind, options.records, options.workers, options.start_method)
        if len({seen for _, _, seen in results}) != 1:
            raise AssertionError("the workers have not seen the same records")
        before, after = (max(result[i] for result in results) / 1e6 for i in range(2))
        print(f"{kind:<16}{before:>10.1f}{after:>10.1f}{after - before:>10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
