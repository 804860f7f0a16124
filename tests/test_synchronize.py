"""Semaphore, BoundedSemaphore, Event, Condition, Barrier: the stdlib's semantics over both; then what only ours promise."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import threading
import time

import leftovers
import pytest
from crew import SECONDS, Crew, run_program

import fastshm

KINDS = ["Semaphore", "BoundedSemaphore"]


def made(module, kind):
    return module.Barrier(2) if kind == "Barrier" else getattr(module, kind)()


def until(condition) -> None:
    assert leftovers.until(condition, seconds=30)


class Threads(list):
    """Calls in threads of their own; what they returned or raised, once all have ended."""

    def start(self, function, *args) -> None:
        def call():
            try:
                self.answers.append(function(*args))
            except Exception as error:
                self.answers.append(error)

        self.append(threading.Thread(target=call, daemon=True))
        self[-1].start()

    def __init__(self, count: int = 0, function=None) -> None:
        super().__init__()
        self.answers: list = []
        for _ in range(count):
            self.start(function)

    def results(self) -> list:
        for thread in self:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self)
        return self.answers


# --- one process, both implementations


@pytest.mark.parametrize("kind", KINDS)
def test_semaphore(shared, kind):
    semaphore = getattr(shared, kind)(2)
    with semaphore as entered:
        assert entered is True
        assert semaphore.get_value() == 1
        assert semaphore.acquire() is True
        for arguments in ((False,), (True, 0), (True, -1), (True, 0.01), (False, 5)):
            assert semaphore.acquire(*arguments) is False
        assert semaphore.acquire(block=True, timeout=0.01) is False
        assert semaphore.release() is None
    assert semaphore.get_value() == 2
    with pytest.raises(TypeError):
        semaphore.acquire(True, "1")


def test_bounds(shared):
    bounded = shared.BoundedSemaphore(1)
    with pytest.raises(ValueError, match="semaphore or lock released too many times"):
        bounded.release()
    semaphore = shared.Semaphore(2**31 - 1)
    with pytest.raises(ValueError, match="semaphore or lock released too many times"):
        semaphore.release()
    for kind in KINDS:
        with pytest.raises(OSError, match="Invalid argument"):
            getattr(shared, kind)(-1)
        with pytest.raises(OverflowError):
            getattr(shared, kind)(2**31)
        with pytest.raises(TypeError):
            getattr(shared, kind)("1")
    assert shared.BoundedSemaphore(0).acquire(False) is False


def test_representations(shared):
    assert repr(shared.Semaphore(2)) == "<Semaphore(value=2)>"
    assert repr(shared.BoundedSemaphore(2)) == "<BoundedSemaphore(value=2, maxvalue=2)>"
    assert repr(shared.Condition()) == "<Condition(<RLock(None, 0)>, 0)>"
    event, barrier = shared.Event(), shared.Barrier(2)
    assert repr(event) == f"<Event at {id(event):#x} unset>"
    event.set()
    assert repr(event) == f"<Event at {id(event):#x} set>"
    assert repr(barrier) == f"<{shared.__name__}.synchronize.Barrier at {id(barrier):#x}: waiters=0/2>"
    barrier.abort()
    assert repr(barrier) == f"<{shared.__name__}.synchronize.Barrier at {id(barrier):#x}: broken>"


def test_event(shared):
    event = shared.Event()
    assert not event.is_set()
    assert event.wait(0) is False
    assert event.wait(-1) is False
    assert event.wait(0.01) is False
    waiting = Threads(3, event.wait)
    time.sleep(0.05)
    event.set()
    assert waiting.results() == [True] * 3
    assert event.wait() is True
    event.clear()
    assert not event.is_set()


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_condition(shared, kind):
    lock = getattr(shared, kind)()
    condition = shared.Condition(lock)
    with pytest.raises(AssertionError, match=r"must acquire\(\) condition before using wait\(\)"):
        condition.wait()
    with pytest.raises(AssertionError, match="lock is not owned"):
        condition.notify()
    with condition as entered:
        assert entered is True
        assert condition.wait(0.01) is False
        condition.notify()
        condition.notify_all()
        assert condition.wait_for(lambda: 5) == 5
        assert condition.wait_for(lambda: 0, timeout=0.05) == 0
    assert condition.acquire(False) is True
    assert in_thread(lock.acquire, False) is False
    condition.release()


def in_thread(function, *args):
    threads = Threads()
    threads.start(function, *args)
    return threads.results()[0]


def test_condition_lets_go_of_a_lock_held_twice(shared):
    condition = shared.Condition()

    def other():
        with condition:
            condition.notify()

    with condition, condition:
        thread = threading.Thread(target=other)
        thread.start()
        assert condition.wait(30) is True
        assert "MainProcess, 2" in repr(condition)
    thread.join()


def test_barrier(shared):
    acted = []
    barrier = shared.Barrier(3, lambda: acted.append(barrier.broken), timeout=30)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    for turn in range(1, 4):
        assert sorted(Threads(3, barrier.wait).results()) == [0, 1, 2]
        assert acted == [False] * turn
    assert barrier.n_waiting == 0


def test_barrier_breaks(shared):
    def fail():
        raise LookupError("in the action")

    barrier = shared.Barrier(2)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.01)
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken
    for end in (barrier.abort, barrier.reset):
        waiting = Threads(1, barrier.wait)
        until(lambda: barrier.n_waiting == 1)
        end()
        assert [type(answer) for answer in waiting.results()] == [threading.BrokenBarrierError]
        assert barrier.broken is (end == barrier.abort)
        barrier.reset()
    barrier = shared.Barrier(2, fail)
    assert {type(answer) for answer in Threads(2, barrier.wait).results()} == {LookupError, threading.BrokenBarrierError}
    assert barrier.broken


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier"])
def test_a_key_press_comes_through(shared, kind):
    thing = made(shared, kind)
    if kind.endswith("Semaphore"):
        thing.acquire()
    wait = thing.acquire if kind.endswith("Semaphore") else thing.wait
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        if kind == "Condition":
            with thing:
                wait(30)
        else:
            wait(timeout=30)
    assert time.monotonic() - begin < 20
    timer.join()


# --- processes


def pass_on(source, target, times):
    for _ in range(times):
        source.acquire()
        target.release()


@pytest.mark.parametrize("kind", KINDS)
def test_handing_over_between_processes(shared_for, crew, kind):
    there, back = getattr(shared_for, kind)(1), getattr(shared_for, kind)(1)
    back.acquire()
    crew.start(pass_on, there, back, 300)
    crew.start(pass_on, back, there, 300)
    crew.results()
    assert (there.get_value(), back.get_value()) == (1, 0)


def inside(semaphore, within, most, times):
    for _ in range(times):
        with semaphore:
            now = within.add(1) or within.value
            if now > most:
                return now
            within.add(-1)
    return 0


@pytest.mark.parametrize("kind", KINDS)
def test_never_more_inside_than_permits(crew, kind):
    semaphore, within = getattr(fastshm, kind)(2), fastshm.Value("i", 0)
    for _ in range(4):
        crew.start(inside, semaphore, within, 2, 2000)
    assert crew.results() == [0] * 4
    assert semaphore.get_value() == 2


def count_up(condition, value, mine, parties, upto):
    while True:
        with condition:
            condition.wait_for(lambda: value.value % parties == mine or value.value >= upto)
            if value.value >= upto:
                return
            value.value += 1
            condition.notify_all()


def test_taking_turns_at_a_condition(shared_for, crew):
    condition, value = shared_for.Condition(), fastshm.Value("i", 0)
    for mine in range(3):
        crew.start(count_up, condition, value, mine, 3, 150)
    crew.results()
    assert value.value == 150


def go_through(barrier, times):
    return [barrier.wait() for _ in range(times)]


def test_going_on_together(shared_for, crew):
    barrier = shared_for.Barrier(3)
    for _ in range(3):
        crew.start(go_through, barrier, 50)
    assert all(sorted(turn) == [0, 1, 2] for turn in zip(*crew.results(), strict=True))


# --- what only ours promise


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier"])
def test_handles_pickle_anywhere(kind):
    thing = made(fastshm, kind)
    first, second, third = (pickle.loads(data) for data in [pickle.dumps(thing)] * 2 + [pickle.dumps(thing, 2)])
    inside = fastshm.list([thing])[0]
    copied = copy.copy(thing)
    others = first, second, third, inside, copied
    if kind.endswith("Semaphore"):
        thing.acquire()
        assert [other.get_value() for other in others] == [0] * 5
    elif kind == "Event":
        thing.set()
        assert all(other.is_set() for other in others)
    elif kind == "Barrier":
        thing.abort()
        assert all(other.broken for other in others)
    else:
        with thing:
            assert not any(in_thread(other.acquire, False) for other in others)
    fastshm.heap.check()


def test_events_are_not_missed():
    event = fastshm.Event()
    for _ in range(20):
        waiting = Threads(3, event.wait)
        time.sleep(0.01)
        event.set()
        event.clear()
        assert waiting.results() == [True] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_starves(kind):
    """One that takes the permit again at once, over and over, and one that comes by."""
    semaphore, stop, turns = getattr(fastshm, kind)(1), fastshm.Event(), fastshm.Value("i", 0)
    with Crew("fork") as crew:
        crew.run(be_greedy, semaphore, stop, turns)
        until(lambda: turns.value)
        begin = time.monotonic()
        for _ in range(20):
            assert semaphore.acquire(timeout=10)
            semaphore.release()
        took = time.monotonic() - begin
        stop.set()
        crew.results()
        assert took < 8


def be_greedy(semaphore, stop, turns):
    semaphore.acquire()
    while not stop.is_set():
        time.sleep(0.02)
        turns.add(1)
        semaphore.release()
        semaphore.acquire()
    semaphore.release()


def acquire_and_stay(semaphore, ready, times=1):
    for _ in range(times):
        semaphore.acquire()
    ready.set()
    signal.pause()


def test_permits_come_back_from_the_dead(crew):
    semaphore, ready = fastshm.BoundedSemaphore(2), fastshm.Event()
    worker = crew.run(acquire_and_stay, semaphore, ready, 2)
    assert ready.wait(30)
    assert semaphore.acquire(timeout=0.05) is False
    waiting = Threads(1, semaphore.acquire)
    crew.kill(worker)
    assert waiting.results() == [True]
    assert semaphore.get_value() == 1
    assert semaphore.acquire(False) is True
    semaphore.release()
    semaphore.release()
    with pytest.raises(ValueError, match="too many times"):
        semaphore.release()
    fastshm.heap.check()


def test_permits_of_the_dead_that_others_have_released_do_not_come_back_twice():
    semaphore = fastshm.BoundedSemaphore(3)
    with Crew("fork") as crew:
        ready = [fastshm.Event(), fastshm.Event()]
        two, one = (crew.start(acquire_and_stay, semaphore, ready[i], 2 - i) for i in range(2))
        crew.go()
        assert all(event.wait(30) for event in ready)
        semaphore.release()  # on behalf of the one that dies
        crew.kill(two)
        assert semaphore.get_value() == 2
        assert semaphore.acquire(False)
        assert semaphore.acquire(False)
        assert not semaphore.acquire(False)
        crew.kill(one)
        assert semaphore.get_value() == 1
    fastshm.heap.check()


def acquire_and_leave(semaphore):
    return semaphore.acquire(timeout=20)


def test_more_processes_than_the_first_ledger_has_shares(crew):
    semaphore = fastshm.BoundedSemaphore(12)
    ready = [fastshm.Event() for _ in range(10)]
    for event in ready:
        crew.start(acquire_and_stay, semaphore, event)
    crew.go()
    assert all(event.wait(30) for event in ready)
    assert semaphore.get_value() == 2
    fastshm.heap.check()
    for worker in crew.workers:
        crew.kill(worker)
    assert semaphore.get_value() == 12


@pytest.mark.parametrize("action", [None, int])
@pytest.mark.parametrize("parties", [2, 4])
def test_the_last_to_arrive_finds_only_the_dead(crew, parties, action):
    for barrier in (fastshm.Barrier(parties, action), fastshm.Manager().Barrier(parties, action)):
        for dead in range(1, parties):
            first = len(crew.workers)
            for n in range(parties - 1):
                crew.run(wait_or_break, barrier)
                until(lambda n=n, barrier=barrier: barrier.n_waiting == n + 1)
            for worker in crew.workers[first : first + dead]:
                crew.kill(worker)
            with pytest.raises(threading.BrokenBarrierError):
                barrier.wait(20)
            assert barrier.broken
            until(lambda barrier=barrier: barrier.n_waiting == 0)
            barrier.reset()
    crew.results()


def wait_or_break(barrier):
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()


def wait_and_say(condition, said):
    with condition:
        condition.wait()
        said.append(os.getpid())


def waiting_at(condition):
    return condition._sleeping_count.get_value()


def test_a_notification_is_not_lost_on_the_dead(crew):
    condition, said = fastshm.Condition(), fastshm.list()
    workers = []
    for n in range(4):  # one after the other, so that their order is known
        workers.append(crew.run(wait_and_say, condition, said))
        until(lambda n=n: waiting_at(condition) == n + 1)
    crew.kill(workers[0])
    crew.kill(workers[2])
    for n, worker in enumerate((workers[1], workers[3])):
        with condition:
            condition.notify()
        until(lambda n=n: len(said) == n + 1)
        assert said[n] == worker.process.pid
    crew.results()
    fastshm.heap.check()


def test_who_is_killed_before_it_has_the_lock_again_passes_the_notification_on(crew):
    condition, said = fastshm.Condition(), fastshm.list()
    workers = []
    for n in range(2):
        workers.append(crew.run(wait_and_say, condition, said))
        until(lambda n=n: waiting_at(condition) == n + 1)
    with condition:
        condition.notify()
        time.sleep(0.05)  # it is awake by now, and wants the lock
        crew.kill(workers[0])
    assert crew.result(workers[1]) is None
    assert said[:] == [workers[1].process.pid]


def test_many_wait_and_are_woken_in_their_order():
    condition, order = fastshm.Condition(), []

    def wait(n):
        with condition:
            condition.wait()
            order.append(n)

    threads = Threads()
    for n in range(40):  # more than the first chunk has seats
        threads.start(wait, n)
        until(lambda n=n: waiting_at(condition) == n + 1)
    for n in range(35):
        with condition:
            condition.notify()
        until(lambda n=n: len(order) == n + 1)
    fastshm.heap.check()
    with condition:
        condition.notify(3)
    until(lambda: len(order) == 38)
    with condition:
        condition.notify_all()
    threads.results()
    assert order[:35] == list(range(35))
    assert sorted(order) == list(range(40))
    assert waiting_at(condition) == 0


def wait_at(barrier, ready=None):
    try:
        return barrier.wait(60)
    except threading.BrokenBarrierError:
        return "broken"


@pytest.mark.parametrize("killed", [0, 1])
def test_who_dies_at_a_barrier_breaks_it(crew, killed):
    barrier = fastshm.Barrier(3)
    workers = []
    for n in range(2):
        workers.append(crew.run(wait_at, barrier))
        until(lambda n=n: barrier.n_waiting == n + 1)
    crew.kill(workers[killed])
    assert crew.result(workers[1 - killed]) == "broken"
    assert barrier.broken
    barrier.reset()
    assert Threads(3, barrier.wait).results().sort() is None
    fastshm.heap.check()


class StayForEver:
    def __init__(self, event):
        self.event = event

    def __call__(self):
        self.event.set()
        signal.pause()


def test_who_dies_in_the_action_breaks_the_barrier(crew):
    running = fastshm.Event()
    barrier = fastshm.Barrier(2, StayForEver(running))
    first = crew.run(wait_at, barrier)
    until(lambda: barrier.n_waiting == 1)
    last = crew.run(wait_at, barrier)
    assert running.wait(30)
    crew.kill(last)
    assert crew.result(first) == "broken"
    barrier.reset()
    assert (barrier.broken, barrier.n_waiting) == (False, 0)


def test_a_killed_setter_and_a_killed_holder():
    """In between its store and its wake-up nobody can be stopped from outside: the condition's lock stands for it."""
    condition = fastshm.Condition()
    with Crew("fork") as crew:
        worker = crew.run(hold_condition, condition)
        until(lambda: condition._lock.locked())
        crew.kill(worker)
        with condition:
            assert condition.abandoned
        with condition:
            assert not condition.abandoned


def hold_condition(condition):
    with condition:
        signal.pause()


def test_permits_and_seats_of_a_forked_child_are_its_own():
    semaphore = fastshm.BoundedSemaphore(2)
    semaphore.acquire()
    pid = os.fork()
    if not pid:
        os._exit(0 if semaphore.acquire(False) and not semaphore.acquire(False) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert semaphore.get_value() == 1  # the child's came back, the parent's is still held


# --- a manager's


def test_a_manager_needs_no_server_for_them():
    with fastshm.Manager() as manager:
        things = manager.Semaphore(1), manager.BoundedSemaphore(1), manager.Condition(), manager.Event(), manager.Barrier(1)
        assert not multiprocessing.active_children()
        for thing in things:
            again = pickle.loads(pickle.dumps(thing))
            assert type(again) is type(thing)
            assert copy.deepcopy(thing) is thing
        assert manager.list(list(things))[3].is_set() is False
    for call in (things[0].acquire, things[1].release, things[2].acquire, things[3].set, things[4].wait):
        with pytest.raises(ConnectionRefusedError):
            call()


def test_who_waits_for_a_managers_is_told_of_its_end():
    manager = fastshm.Manager()
    empty, event, barrier, condition = manager.Semaphore(0), manager.Event(), manager.Barrier(2), manager.Condition()

    def wait():
        condition.acquire()
        condition.wait()

    waiting = Threads()
    for call in (empty.acquire, event.wait, barrier.wait, wait):
        waiting.start(call)
    until(lambda: barrier.n_waiting == 1 and condition._sleeping_count.get_value() == 1)
    manager.shutdown()
    assert {type(answer) for answer in waiting.results()} == {ConnectionRefusedError}


@pytest.mark.parametrize("lock", ["Lock", "RLock"])
@pytest.mark.parametrize("whose", ["its own", "another's"])
def test_a_condition_whose_lock_is_shut_down(lock, whose):
    """Who waits is told, and so is the `with` around it; nobody can notify without the lock."""
    manager = fastshm.Manager()
    other = manager if whose == "its own" else fastshm.Manager()
    condition = manager.Condition(getattr(other, lock)())

    def wait():
        with condition:
            condition.wait(SECONDS)

    waiting = Threads()
    waiting.start(wait)
    until(lambda: condition._sleeping_count.get_value() == 1)
    start = time.monotonic()
    other.shutdown()
    assert {type(answer) for answer in waiting.results()} == {ConnectionRefusedError}
    assert time.monotonic() - start < SECONDS / 4
    with pytest.raises(ConnectionRefusedError), condition:
        pass
    if whose != "its own":
        assert condition._sleeping_count.get_value() == 0
        manager.shutdown()


def test_a_managers_have_the_manners_of_threading(manager):
    semaphore, bounded = manager.Semaphore(0), manager.BoundedSemaphore(1)
    assert semaphore.acquire(blocking=False) is False
    assert semaphore.acquire(True, 0.01) is False
    with pytest.raises(ValueError, match="can't specify timeout for non-blocking acquire"):
        semaphore.acquire(False, 1)
    semaphore.release()
    with semaphore as entered:
        assert entered is True
    with pytest.raises(ValueError, match="Semaphore released too many times"):
        bounded.release()
    condition = manager.Condition()
    with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
        condition.wait()
    with pytest.raises(RuntimeError, match="cannot notify on un-acquired lock"):
        condition.notify()
    with condition:
        assert condition.wait(0.01) is False
        assert condition.wait_for(lambda: 1) == 1
        condition.notify_all()
    lock = manager.Lock()
    with manager.Condition(lock) as entered:
        assert entered is True
        assert lock.acquire(False) is False
    event = manager.Event()
    assert event.wait(0.01) is False
    event.set()
    assert event.is_set()
    assert event.wait() is True
    event.clear()
    barrier = manager.Barrier(1)
    assert (barrier.parties, barrier.n_waiting, barrier.broken, barrier.wait()) == (1, 0, False, 0)
    barrier.abort()
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    for thing, name in (
        (semaphore, "AcquirerProxy object, typeid 'Semaphore'"),
        (bounded, "AcquirerProxy object, typeid 'BoundedSemaphore'"),
        (condition, "ConditionProxy object, typeid 'Condition'"),
        (event, "EventProxy object, typeid 'Event'"),
        (barrier, "BarrierProxy object, typeid 'Barrier'"),
    ):
        assert repr(thing) == f"<{name} at {id(thing):#x}>"
        assert str(thing)


def test_a_program_that_ends_in_the_middle_leaves_nothing():
    text = """
import threading, fastshm
things = [fastshm.Semaphore(0), fastshm.BoundedSemaphore(1), fastshm.Condition(), fastshm.Event(), fastshm.Barrier(2)]
things[1].acquire()
def wait():
    with things[2]:
        things[2].wait()
for call in (things[0].acquire, things[1].acquire, things[3].wait, things[4].wait, wait):
    threading.Thread(target=call, daemon=True).start()
import time
time.sleep(0.2)
"""
    before = leftovers.segments()
    run_program(text)
    assert not leftovers.left(before)
