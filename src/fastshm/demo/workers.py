"""Counting with many processes that share everything they find.

Workers claim batches of files by a shared Value until none is left. Ctrl-C never reaches them: their parent ends them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import active_children, connection, resource_tracker, util
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from fastshm.demo.files import BINS, Totals, count_file

BATCHES = 64  # whatever the number of files, so that the merging costs what the vocabulary costs
REFRESH = 0.1  # seconds between two looks at the progress
KINDS = ("Value and Array", "dict")  # of shared objects, each timed by a clock of its own


class Shared(NamedTuple):
    """All that the workers share."""

    claimed: Any  # Value: files given out
    done: Any  # Value: files counted
    lengths: Any  # Array: lines in each bin of the histogram
    files: Any  # dict: path -> statistics
    words: Any  # dict: word -> count
    merging: Any  # Lock: held while a batch is merged into `words`
    spent: Any  # list: for each worker that finished, its (operations, seconds) in each of KINDS

    @classmethod
    def made_by(cls, family: Any, manager: Any) -> Shared:
        """The family is fastshm or a multiprocessing context: their calls are the same."""
        return cls(
            claimed=family.Value("q", 0),
            done=family.Value("q", 0),
            lengths=family.Array("q", BINS),
            files=manager.dict(),
            words=manager.dict(),
            merging=family.Lock(),
            spent=manager.list(),
        )


class Clock:
    """`with clock(n):` adds one span of time in which `n` shared items are read or written."""

    def __init__(self) -> None:
        self.operations, self.seconds = 0, 0.0

    def __call__(self, operations: int) -> Clock:
        self.operations += operations
        return self

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self.started


def count_batches(shared: Shared, folder: str, paths: Sequence[str], size: int) -> None:
    """A worker: claim `size` files at a time until none is left."""
    typed, table = clocks = Clock(), Clock()
    while True:
        with typed(2), shared.claimed.get_lock():
            start = shared.claimed.value
            shared.claimed.value = start + size
        if start >= len(paths):
            break
        words: Counter[str] = Counter()
        for path in paths[start : start + size]:
            count = count_file(os.path.join(folder, path))
            words.update(count.words)
            with table(1):
                shared.files[path] = count.statistics
            with typed(2 * len(count.lengths) + 2):
                with shared.lengths.get_lock():
                    for number, lines in count.lengths.items():
                        shared.lengths[number] += lines
                with shared.done.get_lock():
                    shared.done.value += 1
        with table(2 * len(words)), shared.merging:
            for word, times in words.items():
                shared.words[word] = shared.words.get(word, 0) + times
    shared.spent.append([(clock.operations, clock.seconds) for clock in clocks])


class Run(NamedTuple):
    """One way through the job."""

    totals: Totals
    done: int
    spent: list[tuple[int, float]]  # operations and seconds of all workers together, in each of KINDS
    elapsed: float


class WorkerDiedError(RuntimeError):
    """A worker ended before its work did."""


def count_shared(
    family: Any, context: Any, folder: str, paths: Sequence[str], processes: int, progress: Callable[[int], None]
) -> Run:
    """Count with `processes` workers, started by `context`, that share objects of `family`."""
    began = time.perf_counter()
    size = -(-len(paths) // BATCHES) or 1
    with contextlib.ExitStack() as stack:
        with interrupts_held():
            # Asked politely, the server of a stdlib manager may never answer once a client was killed while connecting:
            # it is killed too, after the workers. Its folder is then ours to remove, so it has to be ours.
            util.get_temp_dir()
            others = active_children()
            manager = stack.enter_context(family.Manager())
            stack.callback(lambda: end(child for child in active_children() if child not in others))
            shared = Shared.made_by(family, manager)
            job = (shared, folder, paths, size)
            workers = [context.Process(target=count_batches, args=job, daemon=True) for _ in range(processes)]
            stack.callback(end, workers)
            for worker in workers:
                worker.start()
        while running := [worker.sentinel for worker in workers if worker.exitcode is None]:
            connection.wait(running, REFRESH)
            for worker in workers:
                if worker.exitcode:
                    raise WorkerDiedError(f"{worker.name} ended with exit code {worker.exitcode}")
            progress(shared.done.value)
        totals = Totals(shared.files.copy(), shared.words.copy(), shared.lengths[:])
        spent = [(sum(n for n, _ in kind), sum(s for _, s in kind)) for kind in zip(*shared.spent[:], strict=True)]
        return Run(totals, shared.done.value, spent, time.perf_counter() - began)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block. Processes started meanwhile never see one."""
    resource_tracker.ensure_running()  # now, as its start would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end(processes: Iterable[BaseProcess]) -> None:
    """End those that were started and still run."""
    with interrupts_held():
        started = [process for process in processes if process.pid]
        for process in started:
            process.kill()
        for process in started:
            process.join()
