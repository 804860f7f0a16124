"""Forks by code that an operation runs: by the methods of keys and values, by a signal's handler while it waits.

The child comes back into the midst of its parent's operation, and goes on with it as itself.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import operator
import os
import signal
import sys
import threading
import traceback
from fractions import Fraction

import leftovers
import pytest
from crew import SECONDS, child_of

import fastshm

BLINK = 0.2  # seconds: what must not happen gets so long to happen in


def nothing():
    pass


class Fork:
    """Called in the midst of an operation, it forks, once. The child ends within go_on()."""

    def __init__(self, in_child=nothing, in_parent=nothing):
        self.pid = None
        self.in_child, self.in_parent = in_child, in_parent

    def __call__(self, *_):
        if self.pid is not None:
            return
        self.pid = os.fork()
        if self.pid:
            self.in_parent()
        else:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS // 2)  # if it hangs
            self.in_child()

    def go_on(self, function):
        """Runs it, in which the fork is made, on both sides. What it returns on the parent's; on_both() has the child's end."""
        status = 1
        try:
            result = function()
            status = 0
            return result
        except BaseException:
            if self.pid == 0:
                traceback.print_exc()
            raise
        finally:
            if self.pid == 0:
                sys.stderr.flush()
                os._exit(status)

    def on_both(self, function):
        result = self.go_on(function)
        assert self.pid, "no fork was made"
        assert os.waitpid(self.pid, 0)[1] == 0
        return result


class Pipe:
    """Words between processes that share its ends."""

    def __init__(self, stack):
        self.out, self.into = os.pipe()
        stack.callback(os.close, self.out)
        stack.callback(os.close, self.into)

    def say(self):
        os.write(self.into, b".")

    def hear(self, seconds=SECONDS / 3):
        """Was anything said?"""
        os.set_blocking(self.out, False)

        def heard():
            with contextlib.suppress(BlockingIOError):
                return os.read(self.out, 1)

        return leftovers.until(heard, seconds)

    def await_word(self):
        assert self.hear(), "nobody said anything"


@contextlib.contextmanager
def forking_soon(fork):
    """A handler makes the fork, after a moment in which what is waited for has begun."""
    before = signal.signal(signal.SIGALRM, fork)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def census():
    gc.collect()
    counts = fastshm.heap.check()
    return {name: counts[name] for name in ("handles", "cells", "arrays", "tables", "vectors", "locks")}


# While it waits

LOCKS = {
    "Lock": fastshm.Lock,
    "RLock": fastshm.RLock,
    "Semaphore": lambda: fastshm.Semaphore(1),
    "BoundedSemaphore": lambda: fastshm.BoundedSemaphore(1),
    "get_lock()": lambda: fastshm.dict().get_lock(),
}

HOLDING = {
    "dict": (lambda: fastshm.dict(a=0), lambda d: d.__setitem__("a", "x" * os.getpid()), lambda d: d.copy()),
    "dict number": (lambda: fastshm.dict(a=0), lambda d: d.increment("a"), lambda d: d.copy()),
    "dict update": (lambda: fastshm.dict(a=0), lambda d: d.update({os.getpid(): 1}), lambda d: d.copy()),
    "dict del": (lambda: fastshm.dict(a=0), lambda d: d.pop("a", None), lambda d: d.copy()),
    "dict exchange": (
        lambda: fastshm.dict(a=0),
        lambda d: d._exchange_keys(lambda _: (None, {os.getpid(): 1})),
        lambda d: d.copy(),
    ),
    "list": (fastshm.list, lambda items: items.append(b"x" * 100), lambda items: items[:]),
    "list number": (fastshm.list, lambda items: items.append(1), lambda items: items[:]),
    "list pop": (lambda: fastshm.list([b"x" * 100, 1]), lambda items: items.pop(), lambda items: items[:]),
    "Value": (lambda: fastshm.Value("q"), lambda v: v.fetch_add(1), lambda v: v.value),
    "Value set": (lambda: fastshm.Value("q"), lambda v: v.store(os.getpid()), lambda v: v.value),
    "Array": (lambda: fastshm.Array("q", 2), lambda a: a.fetch_add(1, 1), lambda a: a[:]),
    "Array slice": (lambda: fastshm.Array("q", 2), lambda a: a.__setitem__(slice(0, 2), [os.getpid()] * 2), lambda a: a[:]),
}


def holder(lock, held, let_go):
    def hold():
        lock.acquire()
        held.say()
        let_go.await_word()
        lock.release()

    pid = child_of(hold)
    held.await_word()
    return pid


def one_after_the_other(lock, wait, release, looks_the_same=lambda: True):
    """wait() waits for who holds the lock; meanwhile a handler forks. The child comes back to it when its parent holds the
    lock, and gets it when that lets go."""
    with contextlib.ExitStack() as stack:
        held, let_go, go, done = (Pipe(stack) for _ in range(4))
        pid = holder(lock, held, let_go)
        fork = Fork(in_child=go.await_word, in_parent=let_go.say)

        def both():
            wait()
            if fork.pid == 0:
                done.say()
                release()
                return
            go.say()
            assert not done.hear(BLINK), "the child was in its parent's lock"
            assert looks_the_same()
            release()
            done.await_word()

        with forking_soon(fork):
            fork.on_both(both)
        assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("name", LOCKS)
def test_a_handler_forks_while_a_lock_is_waited_for(name):
    lock = LOCKS[name]()
    one_after_the_other(lock, lock.acquire, lock.release)
    assert lock.acquire(timeout=SECONDS) is True
    assert lock.acquire(False) is (name in ("RLock", "get_lock()"))


@pytest.mark.parametrize("name", HOLDING)
def test_a_handler_forks_while_a_container_is_waited_for(name):
    make, change, look = HOLDING[name]
    thing, seen, parent = make(), [], os.getpid()

    def wait():
        change(thing)
        if os.getpid() == parent:
            thing.get_lock().acquire()
            seen.append(look(thing))

    def release():
        if os.getpid() == parent:
            thing.get_lock().release()

    before = census()
    one_after_the_other(thing.get_lock(), wait, release, lambda: look(thing) == seen[0])
    assert len(seen) == 1
    with thing.get_lock():
        look(thing)
    assert census()["handles"] == before["handles"]


@pytest.mark.parametrize("name", ["Event", "Value", "Array"])
def test_a_handler_forks_while_a_change_is_waited_for(name):
    make, wait, change = {
        "Event": (fastshm.Event, lambda e: e.wait(SECONDS), lambda e: e.set()),
        "Value": (lambda: fastshm.Value("q"), lambda v: v.wait(0, timeout=SECONDS), lambda v: v.store(1)),
        "Array": (lambda: fastshm.Array("q", 2), lambda a: a.wait(1, 0, timeout=SECONDS), lambda a: a.__setitem__(1, 1)),
    }[name]
    thing = make()
    with contextlib.ExitStack() as stack:
        forked = Pipe(stack)
        pid = child_of(lambda: (forked.await_word(), change(thing)))
        fork = Fork(in_parent=forked.say)

        def both():
            assert wait(thing) is True

        with forking_soon(fork):
            fork.on_both(both)
        assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("times", [1, 2])
def test_a_handler_forks_while_a_condition_is_waited_for(times):
    """Each of them waits for a notification of its own."""
    condition, woken = fastshm.Condition(), fastshm.Value("i")

    def notify():
        assert leftovers.until(lambda: condition._sleeping_count.get_value() == 2, SECONDS / 3), "the child has no seat"
        for n in (1, 2):
            with condition:
                condition.notify(1)
            assert leftovers.until(lambda n=n: woken.value == n, SECONDS / 3)
            assert not leftovers.until(lambda n=n: woken.value != n, BLINK)

    def both():
        for _ in range(times):
            condition.acquire()
        assert condition.wait(SECONDS) is True
        woken.add(1)
        for _ in range(times):
            condition.release()

    pid = child_of(notify)
    fork = Fork()
    with forking_soon(fork):
        fork.on_both(both)
    assert os.waitpid(pid, 0)[1] == 0
    assert condition._sleeping_count.get_value() == 0
    assert condition.acquire(timeout=SECONDS) is True


def test_a_handler_forks_while_a_notified_waiter_waits_for_the_lock():
    """The notification was the parent's: its child waits on."""
    condition = fastshm.Condition()
    with contextlib.ExitStack() as stack:
        forked, child_waits = Pipe(stack), Pipe(stack)

        def notify():
            assert leftovers.until(lambda: condition._sleeping_count.get_value() == 1, SECONDS / 3)
            with condition:
                condition.notify(1)
                forked.await_word()
            assert leftovers.until(lambda: condition._sleeping_count.get_value() == 1, SECONDS / 3), "the child has no seat"
            child_waits.say()
            with condition:
                condition.notify(1)

        fork = Fork(in_parent=forked.say)

        def both():
            with condition:
                assert condition.wait(SECONDS) is True
            if fork.pid:
                child_waits.await_word()

        pid = child_of(notify)
        before = signal.signal(signal.SIGALRM, fork)
        try:
            waiter = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGALRM))
            waiter.start()
            fork.on_both(both)
        finally:
            waiter.join()
            signal.signal(signal.SIGALRM, before)
        assert os.waitpid(pid, 0)[1] == 0


def test_a_handler_forks_while_a_barrier_is_waited_for():
    """The child is one party more."""
    barrier, places = fastshm.Barrier(3), fastshm.list()

    def third():
        assert leftovers.until(lambda: barrier.n_waiting == 2, SECONDS / 3), "the child has not come itself"
        places.append(barrier.wait(SECONDS))

    pid = child_of(third)
    fork = Fork()
    with forking_soon(fork):
        fork.on_both(lambda: places.append(barrier.wait(SECONDS)))
    assert os.waitpid(pid, 0)[1] == 0
    assert sorted(places) == [0, 1, 2]
    assert (barrier.n_waiting, barrier.broken) == (0, False)


def test_a_handler_whose_child_raises_takes_nothing_with_it():
    """Not the parent's place in a barrier, nor its seat at a condition."""
    barrier, condition = fastshm.Barrier(2), fastshm.Condition()

    class Enough(Exception):
        pass

    def leave():
        raise Enough

    def second():
        assert leftovers.until(lambda: barrier.n_waiting == 1, SECONDS / 3)
        forked.await_word()
        assert barrier.wait(SECONDS) == 1
        forked.await_word()
        with condition:
            condition.notify(1)

    def wait():
        with condition:
            assert condition.wait(SECONDS) is True

    with contextlib.ExitStack() as stack:
        forked = Pipe(stack)
        pid = child_of(second)
        for operation in (lambda: barrier.wait(SECONDS), wait):
            fork = Fork(in_child=leave)

            def in_parent(fork=fork):
                assert os.waitpid(fork.pid, 0)[1] == 0
                forked.say()

            fork.in_parent = in_parent

            def both(operation=operation, fork=fork):
                try:
                    operation()
                except Enough:
                    assert fork.pid == 0

            with forking_soon(fork):
                fork.go_on(both)
            assert fork.pid
        assert os.waitpid(pid, 0)[1] == 0


def test_the_action_of_a_barrier_forks():
    fork, places = Fork(), fastshm.list()
    barrier = fastshm.Barrier(2, fork)
    first = child_of(lambda: barrier.wait(SECONDS))
    assert leftovers.until(lambda: barrier.n_waiting == 1)

    def both():
        places.append(barrier.wait(SECONDS))
        if fork.pid:
            assert leftovers.until(lambda: barrier.n_waiting == 1), "the child has not come itself"
            assert barrier.wait(SECONDS) == 1

    fork.on_both(both)
    assert os.waitpid(first, 0)[1] == 0
    assert sorted(places) == [0, 1]
    assert (barrier.n_waiting, barrier.broken) == (0, False)


# By code of keys and values


class Key:
    """A key that only Python can compare; whose comparing calls `hook`."""

    hook = staticmethod(nothing)

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 1

    def __eq__(self, other):
        Key.hook()
        return isinstance(other, Key) and self.name == other.name


@pytest.fixture
def hooked():
    yield lambda hook: setattr(Key, "hook", staticmethod(hook))
    Key.hook = staticmethod(nothing)


CHANGES = {
    "put": lambda d: d.__setitem__(Key("a"), 2),
    "update": lambda d: d.update({Key("a"): 2}),
    "del": lambda d: d.__delitem__(Key("a")),
    "pop": lambda d: d.pop(Key("a")),
    "setdefault": lambda d: d.setdefault(Key("b"), 2),
    "increment": lambda d: d.increment(Key("a")),
    "compare_exchange": lambda d: d.compare_exchange(Key("a"), 1, 2),
    "add_from": lambda d: d.add_from({Key("a"): 1}),
    "add_from, held": lambda d: d.add_from({Key("a"): Fraction(1)}),
    "exchange_keys": lambda d: d._exchange_keys(lambda _: ([Key("a")], {Key("c"): 1})),
    "exchange_keys, values": lambda d: d._exchange_keys(lambda _: ([Key("a")], {Key("a"): 1}), values=True),
}


def suppressing(change, d):
    with contextlib.suppress(KeyError):  # when the other one has deleted it
        change(d)


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "add_from, held"])
def test_a_key_forks_and_its_child_takes_the_lock(name, hooked):
    """What its operation does then is nested in that."""
    d = fastshm.dict({Key("a"): 1})
    fork = Fork(in_child=lambda: d.get_lock().acquire())
    hooked(fork)

    def both():
        suppressing(CHANGES[name], d)
        if fork.pid == 0:
            d.get_lock().release()

    fork.on_both(both)
    assert d.get_lock().acquire(timeout=SECONDS) is True
    d.get_lock().release()


@pytest.mark.parametrize("name", CHANGES)
def test_a_key_forks_and_its_parent_holds_the_lock(name, hooked):
    d = fastshm.dict({Key("a"): 1})
    with contextlib.ExitStack() as stack:
        go, done = Pipe(stack), Pipe(stack)
        fork = Fork(in_child=go.await_word)
        hooked(fork)

        def both():
            suppressing(CHANGES[name], d)
            if fork.pid == 0:
                done.say()
                return
            with d.get_lock():
                d.clear()
                d[Key("a")] = 1
                before = [*d.values()]
                go.say()
                assert not done.hear(BLINK), "the child was in its parent's lock"
                assert [*d.values()] == before
            done.await_word()

        fork.on_both(both)
    assert d.get_lock().acquire(timeout=SECONDS) is True
    d.get_lock().release()


def test_a_key_forks_while_its_operation_holds_the_lock(hooked):
    """Because its own code changes the dict again and again. The child does not hold it: it takes it itself."""
    d, calls = fastshm.dict({Key("a"): 1}), []
    fork = Fork()

    def insert():
        if len(calls) < 3:
            calls.append(None)
            if len(calls) == 3:
                fork()
            else:
                d[len(calls)] = 0

    hooked(insert)
    before = d.get_lock()
    fork.on_both(lambda: d.__setitem__(Key("a"), 2))
    assert len(calls) == 3
    assert before.acquire(timeout=SECONDS) is True
    assert before.abandoned is False
    before.release()
    assert d[Key("a")] == 2


class Amount(Fraction):
    hook = staticmethod(nothing)

    def __radd__(self, other):
        Amount.hook()
        return other + Fraction(self)


def test_an_amount_forks_while_all_are_added(monkeypatch):
    """Both of them add theirs: the child anew, for its parent has held the lock."""
    d, fork = fastshm.dict(a=Fraction(1), b=Fraction(10)), Fork()
    monkeypatch.setattr(Amount, "hook", staticmethod(fork))
    fork.on_both(lambda: d.add_from({"b": Fraction(1), "a": Amount(1)}))
    assert d.copy() == {"a": 3, "b": 12}


def test_a_key_forks_while_keys_are_exchanged(hooked):
    """The child does all of it anew, when its parent has done it."""
    d = fastshm.dict({Key("a"): 1, "stays": 2})
    with contextlib.ExitStack() as stack:
        changed = Pipe(stack)
        fork = Fork(in_child=changed.await_word)
        hooked(fork)

        def both():
            d._exchange_keys(lambda _: ([Key("a")], {"new": 1}))
            if fork.pid:
                assert d.copy() == {"stays": 2, "new": 1}
                del d["new"]
                d[Key("a")] = 3
                changed.say()

        fork.on_both(both)
    assert d.copy() == {"stays": 2, "new": 1}


BECOME = {
    "&=": (operator.iand, "ab"),
    "-=": (operator.isub, "c"),
    "^=": (operator.ixor, "cd"),
    "counts |=": (operator.ior, {"a": 5}),
    "counts &=": (operator.iand, {"a": 1, "b": 1}),
    "counts +=": (operator.iadd, {"a": 1, "b": -9}),
}


@pytest.mark.parametrize("overtaken", [False, True])
@pytest.mark.parametrize("name", BECOME)
def test_a_key_forks_while_it_is_decided_what_stays(name, overtaken, hooked):
    """The child decides for itself, also when its parent holds the lock for that: its own code has overtaken it."""
    operate, other = BECOME[name]
    counts = name.startswith("counts")
    shared = fastshm.Counter({Key(k): 2 for k in "abc"}) if counts else fastshm.set(map(Key, "abc"))
    plain = shared.copy()
    other = collections.Counter({Key(k): n for k, n in other.items()}) if counts else {*map(Key, other)}
    wanted = operate(plain, other)
    fork, calls, lock = Fork(), [], shared.get_lock()

    def hook():
        calls.append(None)
        if overtaken and len(calls) == 1:
            shared.update("z")
            shared.pop("z") if counts else shared.discard("z")
        elif not overtaken or lock._held():
            fork()

    hooked(hook)
    fork.on_both(lambda: operate(shared, other))
    hooked(nothing)
    if name not in ("^=", "counts +="):  # twice is as once
        assert shared.copy() == wanted
    assert lock.acquire(timeout=SECONDS) is True
    assert lock.abandoned is False
    lock.release()


def test_a_key_that_sorts_a_list_forks():
    items, fork = fastshm.list([3, 1, 2]), Fork()

    def key(item):
        fork()
        return item

    fork.on_both(lambda: items.sort(key=key))
    assert items[:] == [1, 2, 3]


# What is kept meanwhile


@pytest.mark.parametrize("how", ["get", "copy", "view"])
def test_a_handler_forks_while_a_large_value_is_waited_for(how):
    """What the child is given stays its own."""
    big, vectors = b"x" * 300_000, census()["vectors"]
    d = fastshm.dict(big=big if how == "view" else [fastshm.list(["x"]), big])
    read = {"get": lambda: d["big"], "copy": lambda: d.copy()["big"], "view": lambda: d.view("big")}[how]
    before = census()
    with contextlib.ExitStack() as stack:
        held, let_go, seen, cleared = (Pipe(stack) for _ in range(4))
        pid = holder(d.get_lock(), held, let_go)
        fork = Fork(in_parent=let_go.say)

        def both():
            value = read()
            if fork.pid:
                seen.await_word()
                d.clear()
                d.update(dict.fromkeys(range(50), "y" * 10000))
                cleared.say()
            else:
                seen.say()
                cleared.await_word()
            assert bytes(value[1] if isinstance(value, list) else value) == big
            if isinstance(value, list):
                assert value[0][:] == ["x"]

        with forking_soon(fork):
            fork.on_both(both)
        assert os.waitpid(pid, 0)[1] == 0
    d.clear()
    assert census()["handles"] == before["handles"]
    assert census()["vectors"] == vectors


class Opened:
    hook = staticmethod(nothing)

    def __setstate__(self, state):
        Opened.hook()


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_a_value_forks_while_all_are_read(kind, monkeypatch):
    """Those that come after it are what they were, also when the parent has let go of them."""
    opened = Opened()
    opened.state = 1
    inner = [opened, fastshm.list([1]), b"x" * 300_000]
    things = fastshm.dict(enumerate(inner)) if kind == "dict" else fastshm.list(inner)
    del inner
    with contextlib.ExitStack() as stack:
        cleared = Pipe(stack)
        fork = Fork(in_child=cleared.await_word)
        monkeypatch.setattr(Opened, "hook", staticmethod(fork))

        def both():
            _, shared, large = things.values() if kind == "dict" else things[:]
            assert large == b"x" * 300_000
            assert shared[:] == [1]
            if fork.pid:
                del shared
                things.clear()
                things.extend(["y" * 10_000] * 50) if kind == "list" else things.update(dict.fromkeys(range(50), "y" * 10000))
                cleared.say()

        fork.on_both(both)


def test_a_fork_while_another_thread_looks_at_keys(hooked):
    """The child finds all keys, although nobody goes on with what that thread had begun; and other threads do."""
    d = fastshm.dict({Key("a"): 1, Key("b"): 2})
    inside, go = threading.Event(), threading.Event()
    looker = threading.Thread(target=lambda: d[Key("b")])

    def stop():
        if threading.current_thread() is looker:
            inside.set()
            go.wait(SECONDS)

    hooked(stop)

    def find():
        assert [d[Key("a")], d[Key("b")]] == [1, 2]
        d[Key("b")] = 3
        assert len(d) == 2

    looker.start()
    try:
        assert inside.wait(SECONDS)
        assert os.waitpid(child_of(find), 0)[1] == 0
        assert d[Key("b")] == 3
    finally:
        go.set()
        looker.join()
    assert d.copy() == {Key("a"): 1, Key("b"): 3}
