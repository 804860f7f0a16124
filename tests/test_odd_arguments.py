"""Numbers that are none, or too large; and code of the items' own that changes what it is asked about."""

from __future__ import annotations

import errno
import math
import signal
import weakref

import pytest

import fastshm

NAN = math.nan


class Hung(BaseException):
    pass


@pytest.fixture(autouse=True)
def alarm():
    def ring(*_):
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def held(lock):
    lock.acquire()
    return lock


def waiting(condition, **how):
    with condition:
        return condition.wait_for(lambda: False, NAN) if how else condition.wait(NAN)


AS_MULTIPROCESSING = {
    "Lock": lambda m: held(m.Lock()).acquire(timeout=NAN),
    "Semaphore": lambda m: m.Semaphore(0).acquire(timeout=NAN),
    "BoundedSemaphore": lambda m: held(m.BoundedSemaphore(1)).acquire(timeout=NAN),
    "Event": lambda m: m.Event().wait(NAN),
    "Condition.wait": lambda m: waiting(m.Condition()),
    "Condition.wait_for": lambda m: waiting(m.Condition(), until=True),
    "Barrier": lambda m: m.Barrier(2).wait(NAN),
}


@pytest.mark.parametrize("name", AS_MULTIPROCESSING)
@pytest.mark.parametrize("module", ["multiprocessing", "fastshm"])
def test_nan_is_no_timeout(name, module):
    with pytest.raises(OSError, match="Invalid argument") as caught:
        AS_MULTIPROCESSING[name](pytest.importorskip(module))
    assert caught.value.errno == errno.EINVAL


def test_after_it_a_condition_has_its_lock_and_nobody_waits():
    condition = fastshm.Condition()
    with condition, pytest.raises(OSError, match="Invalid argument"):
        condition.wait(NAN)
    assert condition.acquire(False)
    assert condition._waiters.count() == 0


OF_MANAGERS = {
    "Lock": lambda m: held(m.Lock()).acquire(timeout=NAN),
    "RLock": lambda m: m.RLock().acquire(timeout=NAN),
    "Semaphore": lambda m: m.Semaphore(0).acquire(timeout=NAN),
    "BoundedSemaphore": lambda m: held(m.BoundedSemaphore(1)).acquire(timeout=NAN),
    "Condition.wait_for": lambda m: waiting(m.Condition(), until=True),
    "Barrier": lambda m: m.Barrier(2).wait(NAN),
}


@pytest.mark.parametrize("name", OF_MANAGERS)
def test_nor_is_it_with_a_manager(name):
    with fastshm.Manager() as manager, pytest.raises(ValueError, match="NaN"):
        OF_MANAGERS[name](manager)


def test_events_and_conditions_of_a_manager_do_not_wait_for_it():
    with fastshm.Manager() as manager:
        assert manager.Event().wait(NAN) is False
        assert waiting(manager.Condition()) is False


@pytest.mark.parametrize(
    "wait",
    [
        lambda: fastshm.Value("q", 0).wait(0, timeout=NAN),
        lambda: fastshm.Value("d", 0).wait(0, timeout=NAN),
        lambda: fastshm.Array("q", 3).wait(0, 0, timeout=NAN),
        lambda: fastshm.dict().wait_for("x", timeout=NAN),
    ],
)
def test_our_own_say_what_is_wrong(wait):
    with pytest.raises(ValueError, match="must not be NaN"):
        wait()


def test_the_least_index():
    plain, shared = [1, 2], fastshm.list([1, 2])
    for items in (plain, shared):
        items.insert(-(2**63), 0)
        for look in (items.pop, items.__getitem__, items.__delitem__):
            with pytest.raises(IndexError):
                look(-(2**63))
        with pytest.raises(IndexError):
            items[-(2**63)] = 1
        with pytest.raises(OverflowError):
            items.insert(-(2**63) - 1, 0)
    assert shared[:] == plain == [0, 1, 2]


@pytest.mark.parametrize("module", ["multiprocessing", "fastshm"])
def test_an_array_beyond_all_addresses(module):
    with pytest.raises(OverflowError, match="array too large"):
        pytest.importorskip(module).Array("q", 2**61)


def test_an_address_that_is_none():
    with pytest.raises(TypeError, match="the address of a store is a str, not 'int'"):
        fastshm.Manager(5)


def test_a_sharded_counter_can_be_referred_to_weakly():
    counter = fastshm.ShardedCounter()
    seen = weakref.ref(counter)
    assert seen() is counter
    del counter
    assert seen() is None


class Grows:
    """Comparing with it makes the container longer."""

    def __init__(self, grow):
        self.grow, self.compared = grow, 0

    def __eq__(self, other):
        self.compared += 1
        self.grow()
        return self.compared > 100_000

    __hash__ = None


def test_removing_what_makes_the_list_longer():
    """The list at most doubles a few times, and is then held and given up."""
    items = fastshm.list(range(100))
    finds = Grows(lambda: items.append(0))
    finds.__class__ = type("Finds", (Grows,), {"__eq__": lambda self, other: Grows.__eq__(self, other) or other == 99})
    with pytest.raises(ValueError, match="by the code of the items"):
        items.remove(finds)
    assert finds.compared <= 400
    assert len(items) <= 500
    assert items.get_lock().acquire(False)


@pytest.mark.parametrize("how", ["key", "comparison"])
def test_sorting_what_makes_the_list_longer(how):
    items = fastshm.list(range(1000))
    calls = []

    def key(item):
        calls.append(item)
        items.append(item)
        return item

    class Compared:
        def __init__(self, item):
            self.item = item

        def __lt__(self, other):
            key(0)
            return self.item < other.item

    with pytest.raises(ValueError, match="list modified during sort"):
        items.sort(key=key if how == "key" else Compared)
    assert len(items) == 1000 + len(calls)
    assert len(calls) <= 1000


def test_sorting_while_its_key_changes_another_list():
    items, other = fastshm.list([3, 1, 2]), fastshm.list()
    items.sort(key=lambda item: other.append(item) or item)
    assert items[:] == [1, 2, 3]
    assert other[:] == [3, 1, 2]


class Key:
    """Equal to none of its kind; asking it makes the dict longer, by keys of its kind."""

    asked = 0
    shared = None
    is_asking = False

    def __hash__(self):
        return 1

    def __eq__(self, other):
        if Key.shared is not None and not Key.is_asking:
            Key.asked += 1
            Key.is_asking = True
            try:
                Key.shared[Key()] = 1
            finally:
                Key.is_asking = False
        return False


def test_a_key_that_makes_the_dict_longer():
    d = fastshm.dict()
    for _ in range(4):
        d[Key()] = 0
    Key.shared, Key.asked = d, 0
    try:
        d[Key()] = 5
    finally:
        Key.shared = None
    assert Key.asked <= 128
    assert [*d.values()].count(5) == 1
    assert d.get_lock().acquire(False)
