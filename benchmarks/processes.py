"""Rows of several processes that work on one object at the same time, and the memory that a program takes.

The processes of a row are spawned, get the object by pickling as any unrelated child would, and live as long as the
row. In each round they start at one instant and stop at one instant, so nobody is ever timed alone; each counts what
it did in between.
"""

from __future__ import annotations

import ast
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from measure import Effort, Names, Row, Sample, base_names, compile_loop, turns

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 60.0  # seconds until a silent process is a fault


@dataclass(frozen=True)
class Crew(Row):
    """`statements`: for every rival one text a process. The time is that of an operation of all of them taken together.

    Where `first_only`, it is that of the first process alone, the others going on beside it.
    """

    statements: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    first_only: bool = False

    def samples(self, effort: Effort, manager: Any, stack: ExitStack) -> dict[str, Sample]:
        return {rival: self._sample(rival, effort, manager, stack) for rival in self.setup}

    def _sample(self, rival: str, effort: Effort, manager: Any, stack: ExitStack) -> Sample:
        names = {**base_names(manager, stack), "mp": SPAWN}  # the stdlib's locks pass only where they were made for
        exec(self.setup[rival], names)
        stack.callback(names.clear)  # until then it keeps the object, for which a Manager's proxies rely on the parent
        workers = [Worker(text, names, stack) for text in self.statements[rival]]

        def sample() -> float:
            start = time.monotonic() + 0.005
            for worker in workers:
                worker.begin(start, start + 4 * effort.slice)
            rates = [worker.rate() for worker in workers]
            rate = rates[0] if self.first_only else sum(rates)
            return 1e9 / rate if rate else sample()  # on a busy machine its turn may not have come

        return sample


class Worker:
    """A process that repeats a statement from one instant to another, each time it is asked to."""

    def __init__(self, statement: str, names: Names, stack: ExitStack) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        used = {node.id for node in ast.walk(ast.parse(statement)) if isinstance(node, ast.Name)} & names.keys()
        self.process = SPAWN.Process(target=work, args=(statement, {name: names[name] for name in used}, theirs))
        self.process.start()
        stack.callback(self.end)
        theirs.close()
        self._answer()  # it is ready

    def begin(self, start: float, end: float) -> None:
        self.pipe.send((start, end))

    def rate(self) -> float:
        """Operations a second in the last round."""
        return self._answer()

    def end(self) -> None:
        self.pipe.close()
        self.process.join(1)
        self.process.kill()
        self.process.join()

    def _answer(self) -> float:
        if not self.pipe.poll(PATIENCE):
            raise TimeoutError(f"process {self.process.pid} has been silent for {PATIENCE:.0f} s")
        rate: float = self.pipe.recv()
        return rate


def work(statement: str, names: Names, pipe: Connection) -> None:
    timed = compile_loop(statement, {**base_names(None, ExitStack()), **names})
    chunk = turns(timed, 0.0005)
    pipe.send(0.0)
    while True:
        try:
            start, end = pipe.recv()
        except EOFError:
            return
        while time.monotonic() < start:
            pass
        done = 0
        while (now := time.monotonic()) < end:
            timed(chunk)
            done += chunk
        pipe.send(done / (now - start))


@dataclass(frozen=True)
class Memory(Row):
    """What `setup` adds to a fresh process, in bytes an entry: private resident memory and pages of shared segments."""

    entries: int = 1_000_000

    def samples(self, effort: Effort, manager: Any, stack: ExitStack) -> dict[str, Sample]:
        return {rival: partial(self._bytes, text) for rival, text in self.setup.items()}

    def _bytes(self, text: str) -> float:
        command = [sys.executable, __file__, text, str(self.entries)]
        return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) / self.entries


def footprint() -> int:
    private = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:"))
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/shm/" in line}
    return int(private.split()[1]) * 1024 + sum(Path(segment).stat().st_blocks * 512 for segment in mapped)


if __name__ == "__main__":
    names: Names = {**base_names(None, ExitStack()), "n": int(sys.argv[2])}
    exec("fastshm.dict()", names)
    before = footprint()
    exec(sys.argv[1], names)
    print(footprint() - before)
