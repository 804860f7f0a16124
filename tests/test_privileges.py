"""Forks of a process that can no longer open its segment: privileges were dropped, or /proc and /dev/shm are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import leftovers
import pytest
from crew import SECONDS, run_program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop privileges")

COMMON = """
import fastshm, multiprocessing, os, signal, sys, threading, time
import encodings.idna, multiprocessing.popen_fork, tempfile  # nothing is imported from root's folders later

def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)

def child(function, *args):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        function(*args)
        status = 0
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
    finally:
        sys.stdout.flush()
        os._exit(status)

def is_well(pid):
    return os.waitpid(pid, 0)[1] == 0

def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

value, lock, under_lock, told = fastshm.Value("i", 0), fastshm.RLock(), fastshm.RawValue("i"), fastshm.dict()
print(fastshm.heap.default().name, flush=True)
"""

DROPPED = """
os.setgid(65534)
os.setuid(65534)
"""

ROOTED = """
os.chroot(tempfile.mkdtemp())
os.chdir("/")
assert not os.path.exists("/proc") and not os.path.exists("/dev/shm")
"""

LOSSES = {"setuid": DROPPED, "chroot": ROOTED, "both": ROOTED + DROPPED}


@pytest.fixture(params=LOSSES)
def loss(request, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return LOSSES[request.param]


def run(loss: str, text: str) -> list[str]:
    """What the program printed. Its segment has gone with its last process, or its tracker, which then says so."""
    done = run_program(COMMON + loss + text, check=False)
    name, *lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert leftovers.until(lambda: name not in leftovers.segments(), SECONDS)
    return lines


COUNTING = """
def work():
    for _ in range(2_000):
        with lock:
            under_lock.value += 1
        with value.get_lock():
            value.value += 1
        told[os.getpid()] = told.get(os.getpid(), 0) + 1

processes = fastshm.heap.check()["processes"]
"""

AFTERWARDS = """
print(value.value, under_lock.value, sorted(told.values()), lock.abandoned, fastshm.heap.check()["processes"] - processes)
"""


def test_forked_workers_count(loss):
    text = "pids = [child(work) for _ in range(3)]\nassert all([is_well(pid) for pid in pids])\n"
    assert run(loss, COUNTING + text + AFTERWARDS) == ["6000 6000 [2000, 2000, 2000] False 0"]


def test_started_workers_count(loss):
    text = """
workers = [fastshm.get_context("fork").Process(target=work) for _ in range(3)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert [worker.exitcode for worker in workers] == [0, 0, 0]
"""
    assert run(loss, COUNTING + text + AFTERWARDS) == ["6000 6000 [2000, 2000, 2000] False 0"]


def test_a_killed_worker_is_recovered_from(loss):
    text = """
def hold():
    kept = fastshm.dict(a=1)
    lock.acquire()
    told["held"] = kept
    signal.pause()

def take():
    assert lock.acquire(timeout=20) and lock.abandoned
    lock.release()
    work()

holder = child(hold)
wait_for(lambda: "held" in told)
assert not lock.acquire(timeout=0.2), "it lives"
assert is_well(child(lambda: lock.acquire(timeout=0.2) and os._exit(1))), "for its siblings, too"
end(holder)
del told["held"]
assert is_well(child(take))
print(fastshm.heap.check()["tables"])
"""
    assert run(loss, COUNTING + text + AFTERWARDS) == ["1", "2000 2000 [2000] False 0"]


def test_children_of_workers(loss):
    """They outlive their parents, and are recovered from as well."""
    text = """
def hold():
    work()
    lock.acquire()
    told["held"] = os.getpid()
    signal.pause()

def worker():
    assert is_well(child(work))
    work()
    child(hold)
    signal.pause()

pid = child(worker)
wait_for(lambda: "held" in told)
assert not lock.acquire(timeout=0.1)
end(pid)
assert fastshm.heap.check()["processes"] - processes == 1, "the child of the dead"
assert not lock.acquire(timeout=0.2), "it lives"
os.kill(told.pop("held"), signal.SIGKILL)
assert lock.acquire(timeout=20) and lock.abandoned
lock.release()
wait_for(lambda: fastshm.heap.check()["processes"] == processes)
"""
    assert run(loss, COUNTING + text + AFTERWARDS) == ["6000 6000 [2000, 2000, 2000] False 0"]


def test_threads_of_a_worker_are_told_apart(loss):
    text = """
def worker():
    begun, go_on = threading.Event(), threading.Event()
    def hold():
        lock.acquire()
        begun.set()
        go_on.wait()
    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    assert not lock.acquire(timeout=0.1), "a living thread's"
    assert is_well(child(lambda: lock.acquire(timeout=0.1) and os._exit(1))), "and its own child took nothing with it"
    go_on.set()
    thread.join()
    assert lock.acquire(timeout=20) and lock.abandoned, "a dead thread's"
    lock.release()
    work()

assert is_well(child(worker))
"""
    assert run(loss, COUNTING + text + AFTERWARDS) == ["2000 2000 [2000] False 0"]


def test_workers_outlive_the_maker(loss):
    text = """
def worker(first):
    wait_for(lambda: os.getppid() != first)
    work()
    told["left"] = True
    wait_for(lambda: fastshm.heap.check()["processes"] == 1)
    print(value.value, under_lock.value, flush=True)

child(worker, os.getpid())
"""
    assert run(loss, COUNTING + text) == ["2000 2000"]


# The child's handlers run in the order in which they were registered, so this one comes before the package's.
STUCK = """
import ctypes
libc = ctypes.CDLL(None)
stuck = False

@ctypes.CFUNCTYPE(None)
def born():
    if stuck:
        libc.pause()

libc.__register_atfork(None, None, born, None)
import signal
signal.signal(signal.SIGUSR1, lambda *_: None)
"""


class Stuck:
    """A program whose child has not yet come to claim its number."""

    def __init__(self, loss: str, text: str) -> None:
        self.program = subprocess.Popen(
            [sys.executable, "-c", STUCK + COMMON + loss + "stuck = True\n" + text], stdout=subprocess.PIPE, text=True
        )
        self.name = self.program.stdout.readline().strip()
        children = Path(f"/proc/{self.program.pid}/task/{self.program.pid}/children")
        assert leftovers.until(lambda: any(map(self._is_stuck, children.read_text().split())), SECONDS)
        self.child = next(int(pid) for pid in children.read_text().split() if self._is_stuck(pid))

    def _is_stuck(self, pid: str) -> bool:
        with open(f"/proc/{pid}/syscall") as file:
            return file.read().split()[0] in ("34", "73", "271")  # pause, ppoll

    def __enter__(self) -> Stuck:
        return self

    def __exit__(self, *exc) -> None:
        self.program.kill()
        self.program.communicate()


COUNT_AND_WAIT = """
def work():
    value.value += 1
    print("counted", value.value, flush=True)

stuck_one = child(work)
stuck = False
os.waitpid(stuck_one, 0)
child(work)
os.wait()
print("processes", fastshm.heap.check()["processes"], flush=True)
"""


def test_a_child_that_is_killed_before_it_claims_its_number():
    with Stuck(DROPPED, COUNT_AND_WAIT) as one:
        os.kill(one.child, signal.SIGKILL)
        assert one.program.communicate(timeout=9)[0].splitlines() == ["counted 1", "processes 1"]


def test_a_child_that_is_late_is_waited_for():
    with Stuck(DROPPED, COUNT_AND_WAIT) as one:
        os.kill(one.child, signal.SIGSTOP)
        os.kill(one.child, signal.SIGUSR1)
        assert leftovers.until(lambda: one.program.poll() is not None, 1) is False
        os.kill(one.child, signal.SIGCONT)
        assert one.program.communicate(timeout=9)[0].splitlines() == ["counted 1", "counted 2", "processes 1"]


def test_a_child_whose_parent_is_killed_before_it_claims_its_number():
    """Others may have buried what it was to have. It says so."""
    with Stuck(DROPPED, COUNT_AND_WAIT) as one:
        one.program.kill()
        one.program.wait()
        os.kill(one.child, signal.SIGUSR1)
        said = one.program.communicate(timeout=SECONDS)[0]
        assert said.startswith("ReferenceError the process that forked this one ended"), said
        assert leftovers.until(lambda: one.name not in leftovers.segments(), SECONDS)
