"""Worker processes and whole programs under a deadline."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from multiprocessing import connection

SECONDS = 60  # far beyond what a slow machine needs: only a hang gets here


class Crew:
    """Workers that start together, report through a pipe each, and never outlive the test.

    A pipe each, not one queue, so that a worker killed while it reports cannot hold the others up.

        with Crew("spawn") as crew:
            crew.start(work, 1)
            crew.start(work, 2)
            assert crew.results() == [...]
    """

    def __init__(self, method: str = "fork", seconds: float = SECONDS) -> None:
        self.context = multiprocessing.get_context(method)
        self.end = time.monotonic() + seconds
        self.workers: list[Worker] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc) -> None:
        for worker in self.workers:
            if worker.process.is_alive():
                worker.process.kill()
            worker.process.join()
            worker.process.close()
            worker.pipe.close()

    def start(self, target, *args) -> Worker:
        """Start a worker; it calls target(*args) when go() is said."""
        worker = Worker(self.context, target, args)
        self.workers.append(worker)
        return worker

    def go(self) -> None:
        """Wait until all are ready, then let those go that have not gone."""
        waiting = [worker for worker in self.workers if not worker.gone]
        for worker in waiting:
            self._receive(worker, "ready")
        for worker in waiting:
            worker.pipe.send("go")
            worker.gone = True

    def run(self, target, *args) -> Worker:
        """Start one worker and let it go."""
        worker = self.start(target, *args)
        self.go()
        return worker

    def result(self, worker: Worker):
        """What the worker returned; its exception fails the test with its traceback."""
        if not worker.finished:
            worker.value = self._receive(worker, "result")
            worker.finished = True
            worker.process.join(max(0.0, self.end - time.monotonic()))
            if worker.process.is_alive():
                self._late()
            assert worker.process.exitcode == 0, f"{worker} exited with {worker.process.exitcode} after its result"
        return worker.value

    def results(self) -> list:
        """What all of them returned, but for those that kill() ended; says go() first."""
        self.go()
        return [self.result(worker) for worker in self.workers if not worker.killed]

    def kill(self, worker: Worker) -> None:
        worker.killed = worker.gone = True
        worker.process.kill()
        worker.process.join()

    def _receive(self, worker: Worker, expected: str):
        if not worker.pipe.poll(max(0.0, self.end - time.monotonic())):
            self._late()
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            raise AssertionError(f"{worker} died with exit code {worker.process.exitcode}") from None
        assert kind == expected, f"{worker} sent: {kind}\n{value}"
        return value

    def _late(self) -> None:
        alive = [worker for worker in self.workers if worker.process.is_alive()]
        for worker in alive:  # where each of them stands is printed on stderr
            os.kill(worker.process.pid, signal.SIGUSR1)
        connection.wait([worker.process.sentinel for worker in alive], 0.5)
        raise AssertionError(f"deadline passed, still alive: {', '.join(map(str, alive)) or 'none'}")


class Worker:
    """One process of a Crew."""

    def __init__(self, context, target, args) -> None:
        self.pipe, theirs = context.Pipe()
        self.name = f"{target.__name__}{args!r:.100}"
        self.process = context.Process(target=_work, args=(theirs, target, args))
        self.gone = self.finished = self.killed = False
        self.value = None
        with theirs:
            try:
                self.process.start()
            except BaseException:
                self.pipe.close()
                raise

    def __str__(self) -> str:
        return f"{self.name} (pid {self.process.pid})"


def _work(pipe, target, args) -> None:
    faulthandler.register(signal.SIGUSR1, sys.__stderr__, all_threads=True)
    try:
        pipe.send(("ready", None))
        pipe.recv()
        answer = ("result", target(*args))
    except BaseException:
        answer = ("exception", traceback.format_exc())
    pipe.send(answer)


def child_of(function, *args, seconds: int = SECONDS // 2, fork=os.fork) -> int:
    """os.fork, and no multiprocessing: the function in a child that ends by os._exit, with 0 if it returned. Its pid."""
    pid = fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm(seconds)  # a child that hangs is killed
        function(*args)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run_program(text: str, *args: str, seconds: float = SECONDS, check: bool = True, **options):
    """Run the text as a Python program of its own; with check, it must exit 0 and say nothing on stderr."""
    return run_command([sys.executable, "-c", text, *args], seconds=seconds, check=check, **options)


def run_command(command: list[str], *, seconds: float = SECONDS, check: bool = True, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, **options)
    if check:
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.stderr == "", done.stderr
    return done
