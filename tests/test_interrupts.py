"""What an exception of a signal's handler leaves behind, wherever it comes.

Such an exception comes when a function begins, or when one that is not Python's has returned. A profile function is called at
the same places, so it can raise at each of them in turn.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path

import pytest

import fastshm
from fastshm import caching

STEPS = 5000  # far more than one of these operations has


class Left(Exception):
    pass


def at_each_step(operation, check):
    """Leaves the operation at each step in turn, until it has none left; how many there were."""
    for step in range(STEPS):
        came = [0]

        def leave(frame, event, arg, came=came, step=step):
            if event in ("call", "c_return") and frame.f_globals.get("__name__") != "weakref":  # the stdlib's callbacks
                came[0] += 1
                if came[0] > step:
                    raise Left  # once: it ends the profiling, too

        is_left = False
        try:
            sys.setprofile(leave)
            operation()
        except Left:
            is_left = True
        finally:
            sys.setprofile(None)
        if came[0] <= step:
            return step
        assert is_left, f"what was raised at step {step} got lost"
        check(step)
    raise AssertionError("it never ended")


@pytest.fixture
def alarm():
    """SIGALRM raises."""

    def handler(*_):
        raise Left

    before = signal.signal(signal.SIGALRM, handler)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def manager():
    with fastshm.Manager() as m:
        yield m


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int),)


MADE = {
    "Lock": lambda m: fastshm.Lock(),
    "RLock": lambda m: fastshm.RLock(),
    "Semaphore": lambda m: fastshm.Semaphore(),
    "BoundedSemaphore": lambda m: fastshm.BoundedSemaphore(),
    "Condition": lambda m: fastshm.Condition(),
    "Value": lambda m: fastshm.Value("i"),
    "a struct": lambda m: fastshm.Value(Point),
    "a manager's Lock": lambda m: m.Lock(),
    "a manager's RLock": lambda m: m.RLock(),
    "a manager's Semaphore": lambda m: m.Semaphore(),
    "a manager's BoundedSemaphore": lambda m: m.BoundedSemaphore(),
    "a manager's Condition": lambda m: m.Condition(),
}


def is_free(lock):
    """For another thread."""
    answers = []

    def ask():
        answers.append(lock.acquire(False))
        if answers[0]:
            lock.release()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return answers[0]


@pytest.mark.parametrize("kind", MADE)
def test_nobody_keeps_what_with_acquires(kind, manager):
    lock = MADE[kind](manager)
    inside = []

    def use():
        with lock:
            inside.append(1)

    def check(step):
        assert is_free(lock), step

    at_each_step(use, check)
    assert inside


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("Lock", RuntimeError, "release unlocked lock"),
        ("RLock", RuntimeError, "cannot release un-acquired lock"),
        ("BoundedSemaphore", ValueError, "Semaphore released too many times"),
    ],
)
def test_the_end_of_with_complains_as_release_does(kind, error, says, manager):
    lock = getattr(manager, kind)()
    with pytest.raises(error, match=says), lock:
        lock.release()


@pytest.mark.parametrize("kind", ["fastshm", "manager"])
def test_a_condition_is_held_when_the_exception_of_its_wait_comes(kind, manager, alarm):
    c = fastshm.Condition() if kind == "fastshm" else manager.Condition()
    ready = fastshm.Event()
    pid = os.fork()
    if not pid:
        ready.wait()
        with c:
            c.notify()
            os.kill(os.getppid(), signal.SIGALRM)
            time.sleep(0.3)
        os._exit(0)
    with pytest.raises(Left), c:
        ready.set()
        c.wait()
    assert os.waitpid(pid, 0)[1] == 0
    assert is_free(c)

    def wait():
        with c:
            c.wait(0)

    def check(step):
        assert is_free(c), step

    at_each_step(wait, check)


@pytest.mark.parametrize("kind", [fastshm.SimpleQueue, fastshm.Queue])
def test_a_queue_outlives_what_leaves_it_between_messages(kind):
    q = kind()
    if kind is fastshm.SimpleQueue:
        payload = b"x" * 6000  # more than goes into a pipe at once
        at_each_step(lambda: q.put(payload), lambda step: None)
        assert not q.empty()
        while not q.empty():
            assert q.get() == payload
    lost = []

    def get():
        assert q.get() == 1

    def check(step):
        if q.empty():
            lost.append(step)
            q.put(1)
            wait_for_one()

    def wait_for_one():
        while q.empty():
            time.sleep(0.001)

    q.put(1)
    wait_for_one()
    at_each_step(get, check)
    q.put(2)
    assert q.get() == 2
    assert len(lost) < 20  # where it had been read: as in the stdlib


def test_a_put_that_waits_for_room_can_be_left(alarm):
    q = fastshm.SimpleQueue()
    whole = 8192 - 4  # so that the pipe is exactly full
    payload = b"x" * (whole - 18)
    count = 0
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    with pytest.raises(Left):
        while True:
            q.put(payload)
            count += 1
    for _ in range(count):
        assert q.get() == payload
    while not q.empty():  # what a part of went in was finished
        assert q.get() == payload
    q.put(payload)
    assert q.get() == payload


def framed(obj):
    message = fastshm.queues.ForkingPickler.dumps(obj)
    return struct.pack("!i", len(message)) + bytes(message)


@pytest.mark.parametrize("cut", [1, 4, 5, 50_000])
def test_a_message_that_has_begun_is_read_to_its_end(cut, alarm):
    q = fastshm.SimpleQueue()
    whole = framed(b"y" * 100_000)
    pid = os.fork()
    if not pid:
        os.write(q._writer.fileno(), whole[:cut])
        time.sleep(0.1)
        os.kill(os.getppid(), signal.SIGALRM)
        time.sleep(0.1)
        rest = whole[cut:]
        while rest:
            rest = rest[os.write(q._writer.fileno(), rest) :]
        q.put("next")
        os._exit(0)
    with pytest.raises(Left):
        q.get()
    assert q.get() == "next"
    assert os.waitpid(pid, 0)[1] == 0


def test_a_message_that_does_not_go_on_is_torn(alarm):
    q = fastshm.SimpleQueue()
    os.write(q._writer.fileno(), framed("lost")[:7])
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    began = time.monotonic()
    with pytest.raises(Left):
        q.get()
    assert 0.9 < time.monotonic() - began < 10
    with pytest.raises(OSError, match="broken") as caught:
        q.get()
    assert caught.value.errno == errno.EIO


def test_a_message_that_has_begun_is_written_to_its_end(alarm):
    q = fastshm.SimpleQueue()
    pid = os.fork()
    if not pid:
        time.sleep(0.2)
        os.kill(os.getppid(), signal.SIGALRM)
        time.sleep(0.2)
        os._exit(0 if q.get() == b"z" * 500_000 and q.get() == "next" else 1)
    with pytest.raises(Left):
        q.put(b"z" * 500_000)
    q.put("next")
    assert os.waitpid(pid, 0)[1] == 0


def test_a_put_whose_rest_finds_no_room_is_torn(alarm):
    q = fastshm.SimpleQueue()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(Left):
        q.put(b"z" * 500_000)
    with pytest.raises(OSError, match="broken"):
        q.put(1)


@pytest.mark.parametrize("options", [{}, {"maxsize": 100}, {"ttl": 1000}])
def test_a_computation_that_is_left_keeps_no_lock(options):
    cache = fastshm.Cache(**options)
    key = [0]

    def compute():
        key[0] += 1
        cache.get_or_compute(key[0], lambda: 1)

    def check(step):
        assert not caching._thread.ranks, step
        assert not [lock for lock in cache._locks.values() if lock.locked()], step

    steps = at_each_step(compute, check)
    assert steps > 20
    assert len(cache._locks) <= caching.ABANDONED  # whatever was left
    cache.clear()
    assert not len(cache._locks)
    assert cache.get_or_compute(1, lambda: 5) == 5


def state():
    gc.collect()
    return (
        len(os.listdir("/proc/self/fd")),
        Path("/proc/self/maps").read_text().count("fastshm"),
        sorted(os.listdir("/dev/shm")),
    )


def test_a_store_that_is_left_while_it_opens_or_closes():
    fastshm.dict()
    name = f"shm://interrupted-{os.getpid()}"

    def use():
        with fastshm.Manager(name) as m:
            m.root["a"] = 1

    use()
    before = state()

    def check(step):
        assert state() == before, step

    assert at_each_step(use, check) > 100
    use()
    assert state() == before
