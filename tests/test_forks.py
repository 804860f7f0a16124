"""Forks at awkward moments, exec, and signals while waiting."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import leftovers
import pytest
from crew import SECONDS, Crew, child_of, run_program

import fastshm


@contextlib.contextmanager
def thread(function, *args):
    running = threading.Thread(target=function, args=args)
    running.start()
    yield running
    running.join(SECONDS)
    assert not running.is_alive()


def is_well(pid):
    return os.waitpid(pid, 0)[1] == 0


def census():
    gc.collect()
    counts = fastshm.heap.check()
    return {name: counts[name] for name in ("processes", "handles", "cells", "arrays", "locks", "tables", "vectors")}


# Forks


@pytest.mark.parametrize("name", ["Lock", "RLock", "Value", "Array", "dict", "list"])
def test_fork_while_another_thread_holds(name):
    arguments = {"Value": ("i", 0), "Array": ("i", 4)}.get(name, ())
    one = getattr(fastshm, name)(*arguments)
    lock = one if "Lock" in name else one.get_lock()
    other, held, let_go = fastshm.dict(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            let_go.wait(SECONDS)

    def wait():
        assert lock.acquire(False) is False
        assert lock.acquire(timeout=0.05) is False
        other["child"] = os.getpid()
        assert lock.acquire(timeout=SECONDS / 3) is True
        assert lock.abandoned is False, "its holder was a living thread of the parent"
        lock.release()

    with thread(hold):
        held.wait(SECONDS)
        pid = child_of(wait)
        assert leftovers.until(lambda: other.get("child") == pid, SECONDS)
        time.sleep(0.1)  # longer than any nap: it must not have been taken from the living
        assert lock.acquire(False) is False
        let_go.set()
        assert is_well(pid)
    assert lock.acquire(False) is True
    lock.release()


def test_fork_while_threads_are_inside_operations():
    d, items, value, array = fastshm.dict(), fastshm.list(), fastshm.Value("q"), fastshm.Array("q", 100)
    before, done = census(), threading.Event()

    def work(name):
        i = 0
        while not done.is_set():
            d[name, i % 50] = "x" * (i % 2_000)
            d.update({(name, "a"): i, (name, "b"): i})
            items.append(i)
            items[:] = items[-20:]
            array[:] = [i] * 100
            with value.get_lock():
                value.value += 1
            i += 1

    def check(turn):
        assert len(set(array[:])) == 1
        state = d.copy()
        for name in range(3):
            assert state.get((name, "a")) == state.get((name, "b"))
        d["child"] = turn
        items.append(-1)
        value.add(1)
        with d.get_lock(), items.get_lock(), value.get_lock():
            pass

    with contextlib.ExitStack() as stack:
        for name in range(3):
            stack.enter_context(thread(work, name))
        stack.callback(done.set)
        for turn in range(60):
            assert is_well(child_of(check, turn)), f"turn {turn}"
    assert d["child"] == 59
    assert census() == before


def test_both_sides_of_a_bare_fork():
    d, value, lock = fastshm.dict(), fastshm.Value("q"), fastshm.Lock()
    before = census()

    def add(who):
        own = fastshm.list([who])
        for i in range(2_000):
            value.add(1)
            d[who, i] = own if i % 100 == 0 else "x" * (i % 100)
            with lock:
                pass

    pid = child_of(add, "child")
    add("parent")
    assert is_well(pid)
    assert value.value == len(d) == 4_000
    assert (d["child", 0][:], d["parent", 1_900][:]) == (["child"], ["parent"])
    assert sum(isinstance(item, str) for item in d.values()) == 3_960
    d.clear()
    assert census() == before


def test_handles_of_a_child_keep_objects_of_its_own():
    """What the parent drops after the fork lives on in the child, and nowhere else."""
    before = census()
    told, things = fastshm.Value("i"), [fastshm.dict(inner=fastshm.list([1, 2]))]

    def use():
        assert leftovers.until(lambda: told.value == 1, SECONDS / 3)
        churn = [fastshm.dict(a="y" * 1_000) for _ in range(200)]
        assert things[0]["inner"][:] == [1, 2]
        assert len(churn) == 200
        told.value = 2

    pid = child_of(use)
    things.clear()
    kept = [fastshm.dict(a="z" * 1_000) for _ in range(200)]
    told.value = 1
    assert is_well(pid)
    assert told.value == 2
    assert all(one["a"] == "z" * 1_000 for one in kept)
    kept.clear()
    assert census() == {**before, "cells": before["cells"] + 1, "handles": before["handles"] + 1}, "only `told` is left"


def generation(value, d, left, pids):
    value.add(1)
    d[left] = os.getpid()
    if left:
        pid = child_of(generation, value, d, left - 1, pids)
        if left % 2:
            assert is_well(pid)
        else:
            pids.append(pid)  # this one outlives its parent


def test_children_of_children():
    value, d, lock = fastshm.Value("i"), fastshm.dict(), fastshm.Lock()
    before = census()
    for _ in range(5):
        value.value = 0
        assert is_well(child_of(generation, value, d, 6, []))
        assert leftovers.until(lambda: value.value == 7)
        assert lock.acquire(timeout=10)
        lock.release()
        d.clear()
        assert leftovers.until(lambda: census() == before), "the last of them ends soon"


def test_many_forks_leave_nothing():
    things = [fastshm.Value("i"), fastshm.dict(a=fastshm.list()), fastshm.Lock(), *(fastshm.Array("b", 3) for _ in range(100))]
    before, used = census(), fastshm.heap.check()["bytes_used"]
    for _ in range(100):
        assert is_well(child_of(things[0].add, 1))
    assert things[0].value == 100
    assert census() == before
    assert fastshm.heap.check()["bytes_used"] == used


# exec and other programs


def test_exec_in_a_child():
    """It lets go of what the child held, locks too."""
    lock, d = fastshm.RLock(), fastshm.dict()
    before = census()

    def turn_into_another():
        lock.acquire()
        d["child"] = fastshm.list()
        os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(60)"])

    pid = child_of(turn_into_another)
    try:
        assert leftovers.until(lambda: "child" in d)
        assert lock.acquire(timeout=10) is True
        assert lock.abandoned is True
        lock.release()
        d.clear()
        assert leftovers.until(lambda: census() == before)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def hold_beside_a_program(lock, pipe):
    program = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], close_fds=False)
    lock.acquire()
    pipe.send(program.pid)
    signal.pause()


def test_a_program_started_meanwhile_does_not_keep_its_starter_alive():
    lock = fastshm.Lock()
    told, tell = multiprocessing.Pipe(duplex=False)
    with told, tell, Crew() as crew:
        holder = crew.run(hold_beside_a_program, lock, tell)
        pid = told.recv()
        try:
            crew.kill(holder)
            assert lock.acquire(timeout=10) is True
            assert lock.abandoned is True
        finally:
            os.kill(pid, signal.SIGKILL)
    lock.release()


def test_exec_of_the_maker_leaves_nothing():
    done = run_program(
        """
import os, sys, fastshm
d = fastshm.dict(a=1)
print(fastshm.heap.default().name, flush=True)
os.execv(sys.executable, [sys.executable, "-c", "import fastshm; print(fastshm.dict(b=2))"])
""",
        check=False,  # the stdlib's tracker may say what it cleans up
    )
    name, answer = done.stdout.splitlines()
    assert (done.returncode, answer) == (0, "{'b': 2}")
    assert leftovers.until(lambda: name not in leftovers.segments())


# Signals while waiting

WAITING = {
    "Lock": (fastshm.Lock, lambda lock: lock.acquire()),
    "Lock with a timeout": (fastshm.Lock, lambda lock: lock.acquire(timeout=SECONDS)),
    "Lock by with": (fastshm.Lock, lambda lock: lock.__enter__()),
    "RLock": (fastshm.RLock, lambda lock: lock.acquire()),
    "RLock by with": (fastshm.RLock, lambda lock: lock.__enter__()),
    "manager's Lock": (lambda: fastshm.Manager().Lock(), lambda lock: lock.acquire()),
    "manager's RLock": (lambda: fastshm.Manager().RLock(), lambda lock: lock.acquire()),
    "Value.get_lock()": (lambda: fastshm.Value("i"), lambda v: v.get_lock().acquire()),
    "Value by with": (lambda: fastshm.Value("i"), lambda v: v.get_lock().__enter__()),
    "Value.value": (lambda: fastshm.Value("i"), lambda v: v.value),
    "Value.value =": (lambda: fastshm.Value("i"), lambda v: v.store(1)),
    "Value.fetch_add": (lambda: fastshm.Value("d"), lambda v: v.fetch_add(1)),
    "Array item": (lambda: fastshm.Array("i", 5), lambda a: a.__setitem__(0, 1)),
    "Array slice": (lambda: fastshm.Array("i", 5), lambda a: a.__setitem__(slice(0, 2), [1, 2])),
    "Array[:]": (lambda: fastshm.Array("i", 5), lambda a: a[:]),
    "dict set": (fastshm.dict, lambda d: d.__setitem__("k", "long" * 100)),
    "dict set, word": (fastshm.dict, lambda d: d.__setitem__("k", 1)),
    "dict get": (lambda: fastshm.dict(k="v"), lambda d: d["k"]),
    "dict update": (fastshm.dict, lambda d: d.update({i: i for i in range(100)})),
    "dict pop": (lambda: fastshm.dict(k="v"), lambda d: d.pop("k")),
    "dict del": (lambda: fastshm.dict(k="v"), lambda d: d.__delitem__("k")),
    "dict increment": (fastshm.dict, lambda d: d.increment("k")),
    "dict copy": (lambda: fastshm.dict(k="v"), lambda d: d.copy()),
    "dict clear": (lambda: fastshm.dict(k="v"), lambda d: d.clear()),
    "list append": (fastshm.list, lambda items: items.append(1)),
    "list read": (lambda: fastshm.list([1]), lambda items: items[0]),
    "list slice": (lambda: fastshm.list([1]), lambda items: items.__setitem__(slice(0, 1), ["x" * 100])),
    "list sort": (lambda: fastshm.list([2, 1]), lambda items: items.sort()),
    "list copy": (lambda: fastshm.list([2, 1]), lambda items: items[:]),
}


def hold(thing, pipe):
    lock = thing.get_lock() if hasattr(thing, "get_lock") else thing
    lock.acquire()
    pipe.send("held")
    pipe.recv()
    lock.release()
    pipe.send("released")


def wait_and_be_interrupted(thing, name):
    """How long it took until one SIGINT after 0.1 s came through; None when there was nothing to wait for."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), later(0.1, os.kill, os.getpid(), signal.SIGINT):
        WAITING[name][1](thing)
        return None
    return time.monotonic() - start


@contextlib.contextmanager
def later(seconds, function, *args):
    timer = threading.Timer(seconds, function, args)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@pytest.mark.parametrize("name", WAITING)
def test_keyboard_interrupt_comes_through(name):
    thing = WAITING[name][0]()
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, Crew(seconds=15) as crew:
        crew.run(hold, thing, theirs)
        assert ours.recv() == "held"
        seconds = crew.result(crew.run(wait_and_be_interrupted, thing, name))
        assert seconds is not None, "it did not wait"
        assert 0.05 < seconds < 1
        ours.send("release")
        assert ours.recv() == "released"
    lock = thing.get_lock() if hasattr(thing, "get_lock") else thing
    assert lock.acquire(timeout=10) is True, "it left nothing half taken"
    lock.release()
    fastshm.heap.check()


def wait_while_another_thread_takes_the_signal(thing, name):
    """As when it comes between two naps: no system call of the waiting thread ends early because of it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), later(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)):
        WAITING[name][1](thing)
        return None
    return time.monotonic() - start


@pytest.mark.parametrize(
    "name", ["Lock", "RLock by with", "Value.fetch_add", "Array slice", "dict set", "dict copy", "list read"]
)
def test_keyboard_interrupt_is_not_lost_between_two_naps(name):
    thing = WAITING[name][0]()
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, Crew(seconds=15) as crew:
        crew.run(hold, thing, theirs)
        assert ours.recv() == "held"
        assert 0.05 < crew.result(crew.run(wait_while_another_thread_takes_the_signal, thing, name)) < 1
        ours.send("release")
        assert ours.recv() == "released"


def count_signals(thing):
    """A storm of signals whose handler returns does not end a wait, nor make it longer."""
    seen = []
    signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    start = time.monotonic()
    answer = thing.acquire(timeout=0.3)
    seconds = time.monotonic() - start
    signal.setitimer(signal.ITIMER_REAL, 0)
    return answer, 0.25 < seconds < 2, len(seen) > 20


@pytest.mark.parametrize("make", [fastshm.Lock, fastshm.RLock, lambda: fastshm.dict().get_lock()])
def test_other_signals_do_not_disturb(make):
    lock = make()
    with Crew() as crew, lock:
        assert crew.result(crew.run(count_signals, lock)) == (False, True, True)


def take_from_the_dead(lock, every):
    """While signals come faster than any nap of a waiter ends."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, every, every)
    answer = lock.acquire(timeout=1), lock.abandoned
    signal.setitimer(signal.ITIMER_REAL, 0)
    return answer


@pytest.mark.parametrize("every", [0.0001, 0.0005])
def test_a_storm_of_signals_does_not_hide_a_death(every):
    locks = [fastshm.RLock() for _ in range(10)]
    with Crew() as crew:
        for lock in locks:
            pid = child_of(lambda lock=lock: (lock.acquire(), os._exit(0)))
            assert is_well(pid)
            assert crew.result(crew.run(take_from_the_dead, lock, every)) == (True, True)


def wait_in_thread(thing):
    """The interpreter goes on meanwhile: a wait releases its lock."""
    counted, done = 0, threading.Event()

    def wait():
        thing.acquire(timeout=0.3)
        done.set()

    with thread(wait):
        while not done.is_set():
            counted += 1
    return counted


@pytest.mark.parametrize("make", [fastshm.Lock, fastshm.RLock, lambda: fastshm.Value("i").get_lock()])
def test_other_threads_run_while_one_waits(make):
    lock = make()
    with Crew() as crew, lock:
        assert crew.result(crew.run(wait_in_thread, lock)) > 1_000


def test_what_a_handler_raises_during_a_fork_is_raised():
    """Also within our part of the fork, where Python would print it and go on."""
    program = """
import fastshm, os, signal, sys, time

class Alarm(Exception):
    pass

raised = caught = 0
lost = []
me, end = os.getpid(), time.monotonic() + 2
sys.unraisablehook = lambda u: lost.append(u.exc_value)

def handler(*_):
    global raised
    if os.getpid() == me and time.monotonic() < end:
        raised += 1
        raise Alarm

signal.signal(signal.SIGALRM, handler)

def forks():
    signal.setitimer(signal.ITIMER_REAL, 0.003)
    while time.monotonic() < end:
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)

while time.monotonic() < end:
    try:
        forks()
    except Alarm:
        caught += 1
assert raised > 50, raised
assert lost == [], lost
assert caught == raised, (caught, raised)
"""
    run_program(program)


def test_threads_that_start_the_first_children_at_once():
    """One segment is made ahead for all of them, so that the parent's containers keep what they hand back."""
    program = """
import fastshm, threading

def child(sender):
    sender.send(fastshm.dict(a=1))

def start():
    receiver, sender = fastshm.Pipe(False)
    process = fastshm.Process(target=child, args=(sender,))
    barrier.wait()
    process.start()
    results.append(receiver.recv())
    process.join()

barrier, results = threading.Barrier(4), []
threads = [threading.Thread(target=start) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
kept = fastshm.list(results)
assert [d.copy() for d in kept] == [{"a": 1}] * 4
assert len({d._heap.name for d in results}) == 1
"""
    for _ in range(5):
        run_program(program)
