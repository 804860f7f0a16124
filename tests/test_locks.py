"""Lock and RLock: the stdlib's semantics over both; then what only ours promise: nobody hangs on the dead."""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import re
import signal
import struct
import threading
import time
from pathlib import Path

import leftovers
import pytest
from crew import Crew

import fastshm


@pytest.fixture(params=["Lock", "RLock"])
def lock(request, shared):
    return getattr(shared, request.param)()


@pytest.fixture(params=["Lock", "RLock", "Value", "Array", "dict", "list"])
def guard(request):
    """Every lock of ours that a process can hold: the two kinds, and those of the containers."""
    if request.param in ("Lock", "RLock"):
        return getattr(fastshm, request.param)()
    arguments = {"Value": ("i", 0), "Array": ("i", 4)}.get(request.param, ())
    return getattr(fastshm, request.param)(*arguments).get_lock()


def in_thread(function):
    """The answer, or the exception, of a call in another thread."""
    answer = []

    def call():
        try:
            answer.append(function())
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return answer[0]


# One process, both implementations


def test_with_acquire_and_release(lock):
    with lock as entered:
        assert entered is True
        assert in_thread(lambda: lock.acquire(False)) is False
    assert lock.acquire() is True
    assert lock.release() is None
    assert lock.acquire(block=False) is True
    lock.release()
    assert lock.acquire(True, None) is True
    lock.release()
    assert lock.acquire(timeout=-1) is True
    lock.release()


def test_timeouts(lock):
    lock.acquire()
    for arguments in ((False,), (True, 0), (True, -1), (True, 0.01), (False, 5)):
        assert in_thread(lambda arguments=arguments: lock.acquire(*arguments)) is False
    assert in_thread(lambda: lock.acquire(block=True, timeout=0.01)) is False
    lock.release()
    assert in_thread(lambda: lock.acquire(timeout=5)) is True


@pytest.mark.parametrize("wrong", ["1", b"1", [1]])
def test_wrong_timeout(lock, wrong):
    with pytest.raises(TypeError):
        lock.acquire(True, wrong)
    assert lock.acquire(False), "the error has left it free"
    lock.release()


def test_lock_is_not_recursive(shared):
    lock = shared.Lock()
    lock.acquire()
    assert lock.acquire(False) is False
    assert lock.acquire(timeout=0.01) is False
    lock.release()


def test_rlock_is_recursive(shared):
    lock = shared.RLock()
    for _ in range(50):
        assert lock.acquire()
    for _ in range(49):
        lock.release()
        assert in_thread(lambda: lock.acquire(False)) is False
    lock.release()
    assert in_thread(lambda: lock.acquire(False)) is True


def test_release_when_free(shared):
    with pytest.raises(ValueError, match="semaphore or lock released too many times"):
        shared.Lock().release()
    with pytest.raises(AssertionError, match="attempt to release recursive lock not owned by thread"):
        shared.RLock().release()


def test_release_by_another_thread(shared):
    lock, rlock = shared.Lock(), shared.RLock()
    lock.acquire()
    assert in_thread(lock.release) is None
    assert lock.acquire(False)
    lock.release()
    with rlock:
        assert isinstance(in_thread(rlock.release), AssertionError)
        assert in_thread(lambda: rlock.acquire(False)) is False


def test_representations(shared):
    lock, rlock = shared.Lock(), shared.RLock()
    assert (repr(lock), repr(rlock)) == ("<Lock(owner=None)>", "<RLock(None, 0)>")
    with lock, rlock, rlock:
        assert (repr(lock), repr(rlock)) == ("<Lock(owner=MainProcess)>", "<RLock(MainProcess, 2)>")
        assert in_thread(lambda: repr(lock)) == "<Lock(owner=SomeOtherThread)>"
        assert in_thread(lambda: repr(rlock)) == "<RLock(SomeOtherThread, nonzero)>"

    def held_by_a_thread():
        with lock, rlock:
            return repr(lock), repr(rlock)

    ours, recursive = in_thread(held_by_a_thread)
    assert re.fullmatch(r"<Lock\(owner=MainProcess\|Thread-\d+.*\)>", ours)
    assert re.fullmatch(r"<RLock\(MainProcess\|Thread-\d+.*, 1\)>", recursive)


# Several processes, both implementations


def try_to_acquire(lock):
    return lock.acquire(False), repr(lock)


def test_held_against_another_process(shared_for, crew):
    lock, rlock = shared_for.Lock(), shared_for.RLock()
    with lock, rlock:
        first, second = crew.start(try_to_acquire, lock), crew.start(try_to_acquire, rlock)
        crew.go()
        assert crew.result(first) == (False, "<Lock(owner=SomeOtherProcess)>")
        assert crew.result(second) == (False, "<RLock(SomeOtherProcess, nonzero)>")
    assert lock.acquire(False)
    assert rlock.acquire(False)
    lock.release()
    rlock.release()


def take(lock):
    assert lock.acquire()


def let_go(lock):
    lock.release()


def test_lock_released_by_another_process(shared_for, crew):
    lock = shared_for.Lock()
    lock.acquire()
    crew.run(let_go, lock)
    crew.results()
    assert lock.acquire(False)
    lock.release()


def release_by_other(lock):
    with pytest.raises(AssertionError):
        lock.release()


def test_rlock_not_released_by_another_process(shared_for, crew):
    lock = shared_for.RLock()
    with lock:
        crew.run(release_by_other, lock)
        crew.results()
        assert in_thread(lambda: lock.acquire(False)) is False


def use_alone(lock, numbers, times):
    for _ in range(times):
        with lock:
            a, b = numbers[0], numbers[1]
            assert a == -b, "somebody else is inside"
            numbers[0] = a + 1
            numbers[1] = b - 1


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_mutual_exclusion(shared_for, crew, kind):
    lock, numbers = getattr(shared_for, kind)(), shared_for.RawArray("q", 2)
    for _ in range(3):
        crew.start(use_alone, lock, numbers, 2_000)
    crew.results()
    assert numbers[:] == [6_000, -6_000]


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_condition_of_the_stdlib_takes_it(shared, kind):
    condition = multiprocessing.Condition(getattr(shared, kind)())
    with condition:
        assert condition.wait(0.01) is False
        condition.notify_all()
    with pytest.raises(AssertionError):
        condition.wait(0.01)


# Only ours


def hold_for_ever(guard, pipe, depth=1):
    for _ in range(depth):
        guard.acquire()
    pipe.send("held")
    signal.pause()


def held_by(crew, guard, depth=1):
    """A worker that holds the lock and sleeps."""
    told, tell = multiprocessing.Pipe(duplex=False)
    with told, tell:
        worker = crew.run(hold_for_ever, guard, tell, depth)
        assert told.recv() == "held"
    return worker


@pytest.mark.parametrize("depth", [1, 3])
def test_taken_over_from_the_dead(guard, depth):
    if depth > 1 and isinstance(guard, type(fastshm.Lock())):
        depth = 1
    with Crew() as crew:
        crew.kill(held_by(crew, guard, depth))
        assert guard.acquire(timeout=10) is True
        assert guard.abandoned is True, "whoever takes over must be able to know"
        assert in_thread(lambda: guard.acquire(False)) is False
        guard.release()
        assert guard.abandoned is False
        with guard:
            assert guard.abandoned is False
    fastshm.heap.check()


def wait_for(guard):
    with guard:
        return guard.abandoned


def test_a_sleeping_waiter_is_freed_by_the_death_of_the_holder(guard):
    with Crew() as crew:
        holder = held_by(crew, guard)
        waiters = [crew.start(wait_for, guard) for _ in range(2)]
        crew.go()
        assert not any(waiter.pipe.poll(0.05) for waiter in waiters)
        crew.kill(holder)
        assert sorted(crew.result(waiter) for waiter in waiters) == [False, True]
    assert guard.acquire(False)
    assert guard.abandoned is False
    guard.release()


def test_never_taken_from_the_living(guard):
    """A stopped process is as alive as a slow one; neither time-outs nor a sweep may touch its lock."""
    with Crew() as crew:
        holder = held_by(crew, guard)
        os.kill(holder.process.pid, signal.SIGSTOP)
        assert guard.acquire(timeout=1) is False
        fastshm.heap.sweep()
        assert guard.acquire(timeout=0.2) is False
        os.kill(holder.process.pid, signal.SIGCONT)
        assert guard.acquire(timeout=0.2) is False
        crew.kill(holder)
        assert guard.acquire(timeout=10)
        guard.release()


def test_a_zombie_is_dead(guard):
    """Killed, and nobody has waited for it: it still has a pid that answers to signal 0."""
    with Crew() as crew:
        holder = held_by(crew, guard)
        holder.killed = True
        os.kill(holder.process.pid, signal.SIGKILL)
        status = Path(f"/proc/{holder.process.pid}/status")
        assert leftovers.until(lambda: "\nState:\tZ" in status.read_text())
        assert guard.acquire(timeout=10) is True
        guard.release()


def finish_holding(guard):
    guard.acquire()


def test_released_by_normal_death(crew):
    """A process that ends without letting go is as dead as a killed one."""
    lock = fastshm.RLock()
    crew.run(finish_holding, lock)
    crew.results()
    assert lock.acquire(timeout=10) is True
    assert lock.abandoned is True
    lock.release()


def child_of_holder(guard):
    return guard.acquire(False), guard.abandoned


def test_forked_child_does_not_inherit_ownership(guard):
    with Crew() as crew, guard:
        crew.run(child_of_holder, guard)
        assert crew.results() == [(False, False)]
        assert in_thread(lambda: guard.acquire(False)) is False, "and its end does not let it go"


def test_thread_that_ended_holding(guard):
    """A recursive lock belongs to its thread and comes free with it; a plain one is a token, for others to release."""
    assert in_thread(lambda: guard.acquire()) is True
    if isinstance(guard, type(fastshm.Lock())):
        assert guard.acquire(timeout=0.05) is False
        guard.release()
        assert guard.acquire(False)
    else:
        assert guard.acquire(timeout=10) is True
        assert guard.abandoned is True
    guard.release()


def test_forked_child_can_wait_and_wake_by_itself(guard):
    """The child has its own identity: two children of one parent exclude one another."""
    count = fastshm.RawArray("q", 2)
    with Crew() as crew:
        guard.acquire()
        for _ in range(3):
            crew.start(use_alone, guard, count, 500)
        crew.go()
        time.sleep(0.02)
        assert count[:] == [0, 0]
        guard.release()
        crew.results()
    assert count[:] == [1_500, -1_500]


def grandchild(lock, count):
    with Crew("fork") as crew:
        for _ in range(2):
            crew.start(use_alone, lock, count, 300)
        crew.results()


def test_grandchildren(crew):
    lock, count = fastshm.Lock(), fastshm.RawArray("q", 2)
    worker = crew.start(grandchild, lock, count)
    worker_two = crew.start(use_alone, lock, count, 300)
    crew.go()
    crew.result(worker)
    crew.result(worker_two)
    assert count[:] == [900, -900]


def test_dropped_while_held():
    for make in (fastshm.Lock, fastshm.RLock):
        make().acquire()
    gc.collect()
    assert fastshm.Lock().acquire(False)
    fastshm.heap.check()


def test_fresh_locks_are_free():
    """Also those in the places of dropped ones."""
    for make in (fastshm.Lock, fastshm.RLock):
        for _ in range(200):
            lock = make()
            assert repr(lock).endswith(("(owner=None)>", "(None, 0)>"))
            lock.acquire()


# Damage


@pytest.mark.parametrize("counted", [0, 1], ids=["a free lock", "a section of the user's"])
def test_who_waits_is_not_kept_waiting_by_its_own_number(counted):
    """Damage makes the word name the waiter: nobody waits for himself."""
    lock, held, done = fastshm.RLock(), threading.Event(), threading.Event()
    name, offset = lock._address[:2]
    with open(f"/dev/shm/{name}", "r+b") as file, mmap.mmap(file.fileno(), offset + 64) as memory:

        def head():
            return struct.unpack_from("II", memory, offset + 24)

        def hold():
            lock.acquire()
            held.set()
            done.wait()

        def damage():
            assert leftovers.until(lambda: head()[0] >> 31), "somebody sleeps"
            struct.pack_into("II", memory, offset + 24, own | 1 << 31, counted)

        with lock:
            own = head()[0]
        threads = [threading.Thread(target=hold), threading.Thread(target=damage)]
        threads[0].start()
        held.wait()
        threads[1].start()
        begin = time.monotonic()
        try:
            assert lock.acquire(timeout=20), "it waited for itself"
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert time.monotonic() - begin < 15
        for _ in range(counted + 1):
            lock.release()
        assert head()[0] & 0x3FFFFFFF == 0
