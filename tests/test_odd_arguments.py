"""Numbers that are none, or too large; arguments of a wrong kind; items whose own code changes what it is asked about."""

from __future__ import annotations

import collections
import ctypes
import errno
import math
import multiprocessing
import signal
import threading
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


@pytest.mark.parametrize("option", [{"persist": True}, {"create": False}, {"allow_pickle": False}])
def test_what_belongs_to_a_store_needs_an_address(option):
    with pytest.raises(TypeError, match=r'give an address, as in fastshm.Manager\("shm://myapp"'):
        fastshm.Manager(**option)


@pytest.mark.parametrize("arguments", [("a",), (1.5,), (1, None)])
def test_the_decode_cache_takes_numbers(arguments):
    with pytest.raises(TypeError, match="two numbers expected"):
        fastshm.heap.set_decode_cache(*arguments)
    with pytest.raises(ValueError, match="numbers from 0"):
        fastshm.heap.set_decode_cache(-1)
    assert fastshm.heap.get_decode_cache() == (128, 4096)


def test_a_capacity_is_a_number():
    for first in ([1], 1):
        with pytest.raises(TypeError, match="capacity is a number of items, not a 'str'"):
            fastshm.Array("q", first, capacity="x")


def test_what_types_there_are_is_said():
    for wrong in ("f8", "float64", float):
        for make in (fastshm.Array, fastshm.Value, fastshm.RawArray):
            with pytest.raises(
                TypeError, match=r"type code .*ctypes.c_double.*for an Array .*numpy.float64, numpy.dtype\('f8'\)"
            ):
                make(wrong, 3)


def test_a_sharded_counter_can_be_referred_to_weakly():
    counter = fastshm.ShardedCounter()
    seen = weakref.ref(counter)
    assert seen() is counter
    del counter
    assert seen() is None


def outcome(call, *args):
    """What it returns, or the type of what it raises."""
    try:
        return call(*args)
    except Exception as error:
        return type(error)


class One:
    def __index__(self):
        return 1


@pytest.mark.parametrize("value", [1.5, 1.0, None, "1", [], -1, 2**31, 2**63], ids=repr)
@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore", "Queue", "JoinableQueue"])
def test_a_number_of_permits(kind, value):
    theirs = outcome(getattr(multiprocessing, kind), value)
    ours = [outcome(getattr(where, kind), value) for where in (fastshm, fastshm.get_context("spawn"))]
    if isinstance(theirs, type):
        assert ours == [theirs, theirs]
    else:  # a queue of any length
        assert [type(q).__name__ for q in ours] == [kind, kind]


def test_what_is_wrong_with_a_number_of_permits():
    with pytest.raises(TypeError, match="number of permits must be an int, not 'float'"):
        fastshm.Semaphore(1.5)
    assert fastshm.Semaphore(One()).get_value() == fastshm.BoundedSemaphore(True).get_value() == 1
    with fastshm.Manager() as manager:
        for make in (manager.Semaphore, manager.BoundedSemaphore):
            with pytest.raises(TypeError, match="not 'float'"):
                make(1.5)


@pytest.mark.parametrize(
    "block", ["", "x", [], None, 0, 1, 2, -1, 0.0, 1.5, 2**31, -(2**31), -(2**31) - 1, 2**100, One()], ids=repr
)
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Value", "Array"])
@pytest.mark.parametrize("is_taken", [False, True])
def test_whether_to_wait(kind, block, is_taken):
    """What may be said depends on the version of Python: an int in 3.11, then anything."""

    def acquire(module, **how):
        make = getattr(module, kind)
        lock = make("i", 1) if kind in ("Value", "Array") else make()
        if is_taken:
            lock.acquire()
        return outcome(lambda: lock.acquire(**how)), outcome(lambda: lock.acquire(how["block"], 0.001))

    how = {"block": block} if not is_taken else {"block": block, "timeout": 0.001}
    assert acquire(fastshm, **how) == acquire(multiprocessing, **how)


@pytest.mark.parametrize("timeout", ["x", [], 10**400, One()], ids=["str", "list", "large", "index"])
@pytest.mark.parametrize("block", [False, True, 0, 1])
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_how_long_to_wait(kind, block, timeout):
    theirs = outcome(getattr(multiprocessing, kind)().acquire, block, timeout)
    assert outcome(getattr(fastshm, kind)().acquire, block, timeout) is theirs


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_whether_to_wait_for_a_manager(kind):
    """Its locks are threading's, and so are their arguments; its semaphores take anything."""
    with fastshm.Manager() as manager:
        for block in ("", "x", [], None, 0, 1, 1.5, 2**31, One()):
            lock, model = getattr(manager, kind)(), getattr(threading, kind)()
            assert outcome(lock.acquire, block) == outcome(model.acquire, block), block


@pytest.mark.parametrize("size", [None, 1.5, -1, "x", One(), iter([1]), {}, (), range(3), True], ids=repr)
@pytest.mark.parametrize("kind", ["Array", "RawArray"])
@pytest.mark.parametrize("lock", [{}, {"lock": False}])
def test_how_long_an_array_is(kind, size, lock):
    how = lock if kind == "Array" else {}
    ours, theirs = (outcome(lambda m=m: len(getattr(m, kind)("q", size, **how))) for m in (fastshm, multiprocessing))
    assert ours == theirs


def test_an_array_of_none():
    with pytest.raises(TypeError, match="not of None"):
        fastshm.Array("q", None)
    with pytest.raises(TypeError, match="not of None"):
        fastshm.Array("q", None, shape=(2, 2))


SLICES = [slice(None), slice(1, 1), slice(0, 2), slice(None, None, 2), slice(None, None, -1), slice(9, 0)]
ASSIGNED = [
    *(1, 1.5, None, object(), "ab", "abcd", "", b"ab", b"abcd", b"", bytearray(2)),
    *([], [1], [1, 2], ["x", "y"], [1.5, "x"], [1, "x", 3, 4], [[1]], (1, 2), range(4), range(2)),
    *({}, {1: 2, 3: 4}, set(), {1, 2}, {1, 2, 3, 4}, {}.keys(), iter([]), iter([1, 2])),
]


@pytest.mark.parametrize("code", ["q", "c"])
@pytest.mark.parametrize("part", SLICES, ids=repr)
def test_what_is_assigned_to_a_slice(code, part):
    for value in ASSIGNED:
        ours, theirs = (module.Array(code, [1, 2, 3, 4]) for module in (fastshm, multiprocessing))
        result = outcome(theirs.__setitem__, part, value)
        assert outcome(ours.__setitem__, part, value) == result, value
        assert list(ours[:]) == (list(theirs[:]) if result is None else [1, 2, 3, 4])  # theirs may have written some


def test_what_is_wrong_with_what_is_assigned_to_a_slice():
    array = fastshm.Array("q", [1, 2])
    for value, error, text in (
        (1, ValueError, "Can only assign sequence of same size, not 'int'"),
        ({}, ValueError, "Can only assign sequence of same size, not 'dict'"),
        (["x"], ValueError, "Can only assign sequence of same size$"),
        ({1, 2}, TypeError, "'set' object does not support indexing"),
        (["x", "y"], TypeError, "int"),
    ):
        with pytest.raises(error, match=text):
            array[:] = value
    array.append(3)
    with pytest.raises(ValueError, match=r"same size$"):
        array[:] = ["x", "y"]
    assert array[:] == [1, 2, 3]


@pytest.mark.parametrize("first", [{}, {"old": 1}, {"new": 2}], ids=["empty", "filled", "there"])
@pytest.mark.parametrize("new", ["x", None, [], 1, True, 1.5, 2**70, 1 + 2j])
def test_counting_what_is_no_number(first, new):
    """As in the stdlib: an empty counter takes anything."""
    ours, model = fastshm.Counter(first), collections.Counter(first)
    for count in (ours.update, ours.subtract):
        assert outcome(count, {"new": new}) == outcome(getattr(model, count.__name__), {"new": new})
        assert dict(ours) == dict(model)
        assert [*map(type, ours.values())] == [*map(type, model.values())]


LARGE = ctypes.c_char * 2**45


@pytest.mark.parametrize(
    "make",
    [
        lambda: fastshm.RawArray("b", 2**45),
        lambda: fastshm.RawArray(LARGE, 2),
        lambda: fastshm.RawValue(LARGE),
        lambda: fastshm.Value(LARGE),
        lambda: fastshm.Array(LARGE, 1),
        lambda: fastshm.Array("b", 2**45),
        lambda: fastshm.Array("b", 2**45, lock=False),
    ],
)
def test_memory_is_the_only_limit(make):
    with pytest.raises(MemoryError, match="not enough shared memory"):
        make()


def test_the_bytes_of_a_raw_object_are_counted_by_64_bits():
    raw = fastshm.RawArray("q", 3)
    assert (len(raw._wrapper), raw._wrapper.itemsize) == (24, 1)


def test_an_item_of_a_shaped_array_is_counted_by_32_bits():
    numpy = pytest.importorskip("numpy")
    with pytest.raises(OverflowError, match=r"items of 4294967296 bytes: at most 2\*\*32 - 1"):
        fastshm.Array(numpy.uint8, 2**32, shape=(1, 2**32))


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
