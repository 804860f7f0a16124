"""The cache that workers share."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction

import pytest
from crew import Crew

import fastshm
from fastshm import caching as module

calls = fastshm.dict()


@fastshm.cache
def square(n):
    calls_of_workers(n)
    return n * n


@fastshm.cache(maxsize=3)
def few(n, extra=None):
    return [n, extra]


@fastshm.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


log = None  # of this test's processes; a shared list is no key, as it equals itself only


@fastshm.cache
def slow(n):
    log.append(os.getpid())
    time.sleep(0.3)
    return n


@fastshm.cache
def deadly(n):
    log.append(os.getpid())
    if len(log) == 1:
        time.sleep(60)
    return n


def work(function, shared, n):
    global log
    log = shared
    return function(n)


def calls_of_workers(n):
    calls.increment(n)


def test_results_are_kept():
    square.cache_clear()
    calls.clear()
    assert [square(n) for n in (1, 2, 1, 1)] == [1, 4, 1, 1]
    assert calls.copy() == {1: 1, 2: 1}
    assert square.cache_info() == (2, 2, None, 2)
    square.cache_clear()
    assert square.cache_info() == (0, 0, None, 0)
    assert square.__wrapped__(3) == 9
    assert square.__name__ == "square"
    assert few.cache_parameters() == {"maxsize": 3, "ttl": None, "typed": False}


def test_least_recently_used():
    few.cache_clear()
    for n in (1, 2, 3, 1, 4):  # 2 has to go
        few(n)
    before = few.cache_info()
    for n in (1, 3, 4):
        few(n)
    assert few.cache_info().hits == before.hits + 3
    few(2)
    assert few.cache_info().misses == before.misses + 1
    assert few.cache_info().currsize == 3
    assert few(2, extra=5) == [2, 5]
    assert few(2, 5) == [2, 5]


def test_time_to_live():
    @fastshm.cache(ttl=0.05)
    def now():
        return time.monotonic_ns()

    first = now()
    assert now() == first
    deadline = time.monotonic() + 10
    while now() == first:
        assert time.monotonic() < deadline


def test_what_is_older_than_its_time_is_not_there():
    cache = fastshm.Cache(ttl=0.2)
    for n in range(500):
        cache.put(n, b"x" * 1000)
    assert len(cache) == 500
    assert 5 in cache
    before = fastshm.heap.check()["bytes_used"]
    time.sleep(0.25)
    assert 5 not in cache
    assert len(cache) == 0
    assert cache.info().currsize == 0
    for n in range(250):
        cache.put(-1, n)
    assert len(cache) == 1
    assert len(cache._entries) <= 2
    assert fastshm.heap.check()["bytes_used"] < before - 400_000


def test_one_that_is_put_anew_outlives_the_others():
    cache = fastshm.Cache(ttl=0.3)
    for n in range(20):
        cache.put(n, n)
    for _ in range(4):
        time.sleep(0.1)
        cache.put(0, "new")
    assert cache.get(0) == "new"
    for _ in range(10):
        cache.put("other", 1)
    assert sorted(cache._entries.keys(), key=str) == [0, "other"]
    assert len(cache) == 2


def test_the_value_of_somebody_who_was_quicker_stays(monkeypatch):
    cache, now, puts = fastshm.Cache(ttl=10.0), [time.monotonic()], []

    def clock():
        now[0] += 1.0
        if puts:
            cache._entries["key"] = puts.pop(), now[0] + 10.0
        return now[0]

    monkeypatch.setattr(module.time, "monotonic", clock)
    cache.put("key", "old")
    now[0] += 20.0
    puts.append("new")
    assert cache.get("key") is None  # it looked before
    assert cache.get("key") == "new"


def test_typed_and_nested():
    @fastshm.cache(typed=True)
    def kind(x):
        return type(x).__name__

    assert [kind(1), kind(1.0), kind(True), kind(1)] == ["int", "float", "bool", "int"]
    assert kind.cache_info().misses == 3
    assert fibonacci(60) == 1548008755920


def test_an_exception_is_not_kept():
    tries = []

    @fastshm.cache
    def fails(n):
        tries.append(n)
        raise LookupError(n)

    for _ in range(2):
        with pytest.raises(LookupError):
            fails(1)
    assert tries == [1, 1]
    with pytest.raises(TypeError, match="unhashable"):
        fails([])


@pytest.mark.parametrize("options", [{"maxsize": 0}, {"maxsize": "x"}, {"ttl": 0}, {"ttl": -1}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match="must be a positive"):
        fastshm.cache(**options)
    with pytest.raises(TypeError, match="a function expected"):
        fastshm.cache("x")


def test_computed_once_by_all_workers(method):
    slow.cache_clear()
    shared = fastshm.list()
    with Crew(method) as crew:
        for _ in range(4):
            crew.start(work, slow, shared, 7)
        assert crew.results() == [7] * 4
    assert len(shared) == 1
    assert work(slow, shared, 7) == 7, "and known to their parent"
    assert len(shared) == 1


def test_a_killed_one_is_taken_over_from():
    shared = fastshm.list()
    with Crew() as crew:
        first = crew.run(work, deadly, shared, 1)
        while not len(shared):
            time.sleep(0.001)
        second = crew.run(work, deadly, shared, 1)
        crew.kill(first)
        assert crew.result(second) == 1
    assert len(shared) == 2


def logged(function, level):
    @functools.wraps(function)
    def wrapper(n):
        return level, function(n)

    return wrapper


plus, minus = fastshm.cache(lambda n: n + 1), fastshm.cache(lambda n: n - 1)
low, high = (fastshm.cache(logged(square.__wrapped__, level)) for level in ("low", "high"))


def test_functions_of_one_name():
    assert (plus(1), minus(1)) == (2, 0)
    assert (square(2), low(2), high(2)) == (4, ("low", 4), ("high", 4))
    assert fastshm.cache(functools.partial(pow, 2))(3) == 8
    assert fastshm.cache(len)((1, 2)) == 2


def test_functions_of_one_name_in_workers(method):
    with Crew(method) as crew:
        crew.start(each_of_one_name, 3)
        assert crew.results() == [(4, 2, ("low", 9), ("high", 9))]
    before = plus.cache_info().hits
    assert plus(3) == 4
    assert plus.cache_info().hits == before + 1


def each_of_one_name(n):
    return plus(n), minus(n), low(n), high(n)


def test_once_at_a_time_also_after_an_exception():
    running, most, calls = (fastshm.Value("q", 0) for _ in range(3))
    begun = [threading.Event() for _ in range(3)]

    @fastshm.cache
    def fails_first(n):
        turn = calls.fetch_add(1)
        most.fetch_max(running.fetch_add(1) + 1)
        try:
            begun[turn].wait(10)  # until the next one is on its way
            if not turn:
                raise LookupError
            return n
        finally:
            running.fetch_sub(1)

    def call():
        with contextlib.suppress(LookupError):
            fails_first(1)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread, event in zip(threads, begun, strict=True):
        thread.start()
        event.set()
    for thread in threads:
        thread.join()
    assert most.value == 1
    assert calls.value == 2


def test_a_circle_of_calls_in_two_threads():
    depth = threading.local()
    both = threading.Barrier(2, timeout=10)

    @fastshm.cache
    def circle(n):
        depth.now = getattr(depth, "now", 0) + 1
        if depth.now == 1:
            both.wait()
        return n if depth.now > 2 else circle(1 - n) + 1

    with ThreadPoolExecutor(2) as threads:
        assert [future.result(timeout=20) for future in [threads.submit(circle, n) for n in (0, 1)]]


def test_the_locks_of_killed_ones_go():
    cache = fastshm.Cache(maxsize=4)
    for n in range(module.ABANDONED + 1):
        pid = os.fork()
        if not pid:
            cache.get_or_compute(n, lambda: os.kill(os.getpid(), signal.SIGKILL))
        os.waitpid(pid, 0)
    assert len(cache._locks) <= module.ABANDONED


def test_a_cache_as_an_object():
    cache = fastshm.Cache(maxsize=2)
    for i in range(5):
        cache.put(i, str(i))
    assert [cache.get(i) for i in range(5)] == [None, None, None, "3", "4"]
    d = fastshm.dict(cache=cache)
    assert d["cache"].get(4) == "4"
    assert (len(cache), 3 in cache, 0 in cache) == (2, True, False)


class Alone:
    """Equals itself alone."""

    @fastshm.cache
    def method(self, n):
        return n + 1


def test_arguments_that_equal_nothing_but_themselves():
    """Nobody else could ask for the same: computed each time, and nothing is kept."""

    seen = []

    @fastshm.cache
    def once_each(*args):
        seen.append(args)
        return len(seen)

    nan = float("nan")
    assert [once_each(nan), once_each(nan), once_each((1, nan)), once_each(Alone())] == [1, 2, 3, 4]
    assert (once_each.cache_info().currsize, once_each.cache_info().misses) == (0, 4)
    assert once_each(1.5) == once_each(1.5) == 5
    assert Alone().method(1) == Alone().method(1) == 2


def test_entries_that_lost_their_place_in_the_order():
    """As when whoever was to give them one is killed: they do not crowd out all others for ever."""
    cache = fastshm.Cache(maxsize=4)
    for n in range(4):
        cache.put(n, n)
        cache._order.pop(n)
    for n in range(100, 120):
        cache.put(n, n)
    for n in range(200, 204):
        cache.put(n, n)
    assert [cache.get(n) for n in range(200, 204)] == list(range(200, 204))
    assert len(cache) == 4


def again(cache):
    """Another handle, as who takes it out of a store has each time."""
    return pickle.loads(pickle.dumps(cache))


@pytest.mark.parametrize("lost", [40, 12])
@pytest.mark.parametrize("options", [{"maxsize": 4}, {"maxsize": 40}, {"maxsize": 40, "ttl": 60}])
def test_handles_that_are_new_each_time_put_in_order_what_lost_its_place(options, lost):
    cache = fastshm.Cache(**options)
    for n in range(40):
        cache.put(n, n)
    for n in range(lost):
        cache._order.pop(n, None)
    for n in range(100, 110):
        again(cache).put(n, n)
        assert again(cache).get(n) == n
    assert set(cache._entries.keys()) == set(cache._order.keys())
    assert len(cache) == options["maxsize"]


def test_what_lost_its_place_when_it_was_used_is_not_the_oldest():
    cache = fastshm.Cache(maxsize=40)
    for n in range(40):
        cache.put(n, n)
    for n in range(20):
        cache._order.pop(n)
    for n in range(100, 120):
        cache.put(n, n)
    assert [cache.get(n) for n in range(20)] == list(range(20))
    assert cache.get(20) is None


@pytest.mark.parametrize("options", [{"maxsize": 100}, {"ttl": 60}])
def test_what_is_not_stored_has_no_place(options):
    cache = fastshm.Cache(**options)
    for n in range(100):
        with pytest.raises((AttributeError, pickle.PicklingError)):
            cache.put(n, lambda: 1)
    assert len(cache._order) == 0
    cache.put("there", 1)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        cache.put("there", lambda: 2)
    assert cache.get("there") == 1
    assert list(cache._order) == ["there"]


@pytest.mark.parametrize("options", [{"maxsize": 100}, {"ttl": 60}])
def test_places_of_those_that_were_killed_before_they_stored_anything(options):
    cache = fastshm.Cache(**options)
    cache.put("there", 1)
    for n in range(200):
        cache._order[n] = time.monotonic() + 60
        again(cache).put("there", 1)
        assert len(cache._order) <= module.STRAYS + 3
    assert cache.get("there") == 1


def test_a_place_that_moves_in_full_memory_does_so_in_one_step():
    cache = fastshm.Cache(maxsize=5)
    for n in range(5):
        cache.put(n, n)
    module._cramped.add(cache._rank)
    assert cache.get(2) == 2
    assert list(cache._order) == [0, 1, 3, 4, 2]
    assert not module._cramped


def test_numbers_of_any_type():
    numpy = pytest.importorskip("numpy")
    seconds = [numpy.float64(60), numpy.float32(60), numpy.int64(60), numpy.uint8(60), Decimal(60), Fraction(120, 2), 60]
    for number in seconds:
        once = fastshm.cache(ttl=number)(lambda n: [n])
        assert (once(1), once(1)) == ([1], [1])
        assert once.cache_info().hits == 1
        assert repr(once.cache_parameters()["ttl"]) == "60.0"
        results = fastshm.Cache(numpy.int64(2), number)
        results.put(1, 2)
        assert (results.get(1), results.ttl, type(results.ttl), type(results.maxsize)) == (2, 60.0, float, int)
    for decorate in (fastshm.cache(numpy.int64(2)), fastshm.cache(maxsize=numpy.uint8(2))):
        size = decorate(lambda n: n).cache_parameters()["maxsize"]
        assert (size, type(size)) == (2, int)
    for wrong in (float("nan"), numpy.float64("nan"), Decimal("NaN"), Decimal("sNaN"), numpy.float64(-1), 1j, "60", 10**400):
        with pytest.raises(ValueError, match="ttl must be a positive number"):
            fastshm.cache(ttl=wrong)
    for wrong in (numpy.int64(0), numpy.float64(2), 2.0, Decimal(2), "2"):
        with pytest.raises(ValueError, match="maxsize must be a positive integer"):
            fastshm.cache(maxsize=wrong)


@pytest.mark.parametrize("change", [list.clear, lambda parts: parts.insert(0, -1), lambda parts: parts.pop(3)])
def test_a_damaged_cache_of_a_function(change):
    parts = list(fastshm.Cache(5, 60).__getstate__())
    assert module._of_parts(fastshm.list(parts)).maxsize == 5
    change(parts)
    for wrong in (fastshm.list(parts), fastshm.list([-5, *parts[1:]]), 5, None):
        with pytest.raises(fastshm.CorruptedError, match="damaged"):
            module._of_parts(wrong)


@pytest.mark.parametrize("outcome", [5, None, LookupError("of the child"), RuntimeError("of the child")])
def test_a_child_that_the_computation_forks(outcome):
    """It does not hold its parent's lock, and so releases none: its own result is returned, its own exception raised."""
    cache, children = fastshm.Cache(maxsize=5), []

    def compute():
        children.append(os.fork())
        if children[-1]:
            assert os.waitpid(children[-1], 0)[1] == 0
            assert [lock.locked() for lock in cache._locks.values()] == [True]
            return "its parent's"
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    parent, code = os.getpid(), 1
    try:
        value = cache.get_or_compute("key", compute)
        code = 0 if value == outcome else 2
    except Exception as error:
        code = 0 if error is outcome and error.__context__ is None else 3
        if os.getpid() == parent:
            raise
    finally:
        if os.getpid() != parent:
            os._exit(code)
    assert value == cache.get("key") == "its parent's"
    assert not len(cache._locks)
    assert cache.info()[:2] == (0, 1)


def test_what_looks_like_the_key_of_another_call():
    @fastshm.cache
    def told(*args, **kwargs):
        return args, kwargs

    assert told(a=1) == ((), {"a": 1})
    assert told("\0keywords", "a", 1) == (("\0keywords", "a", 1), {})
    assert told("\0keywords", (), "a", 1) == (("\0keywords", (), "a", 1), {})
    assert told("\0keywords", a=1) == (("\0keywords",), {"a": 1})
    assert told.cache_info().currsize == 4


@pytest.mark.parametrize("wrong", [5, "text", (1,), ("value", "never"), {"a": 1}])
def test_what_no_cache_has_put_there(wrong):
    results = fastshm.Cache(ttl=60)
    for key in range(3):
        results.put(key, key)
    results._entries[1] = wrong
    for use in (results.get, results.__contains__, lambda key: results.get_or_compute(key, int), results._drop_if_ended):
        with pytest.raises(fastshm.CorruptedError, match="damaged"):
            use(1)
    results._order[1] = wrong
    with pytest.raises(fastshm.CorruptedError, match="damaged"):
        len(results)
    results._order.pop(0)
    results._order.pop(2)
    with pytest.raises(fastshm.CorruptedError, match="damaged"):
        pickle.loads(pickle.dumps(results)).put(5, 5)  # who has just put something does not look
    results._locks[7] = wrong
    for use in (lambda: results.get_or_compute(7, int), results.clear):
        with pytest.raises(fastshm.CorruptedError, match="damaged"):
            use()


def test_a_lock_that_is_never_found_again(monkeypatch):
    results = fastshm.Cache()
    monkeypatch.setattr(fastshm.Cache, "_is_current", lambda *_: False)
    with pytest.raises(fastshm.CorruptedError, match="damaged"):
        results.get_or_compute(1, int)


@pytest.mark.parametrize("ttl", [None, 60])
def test_one_key_is_forgotten(ttl):
    results = fastshm.Cache(maxsize=5, ttl=ttl)
    results.put("a", 1)
    assert repr(results) == f"<Cache of 1 values, maxsize=5, ttl={None if ttl is None else float(ttl)}>"
    assert results.pop("a") == 1
    assert results.pop("a", None) is None
    assert len(results) == len(results._order) == 0
    with pytest.raises(KeyError):
        results.pop("a")
    with pytest.raises(TypeError):
        results.pop("a", 1, 2)
    assert results.get_or_compute("a", lambda: 2) == 2


def test_what_is_too_old_is_not_popped():
    results = fastshm.Cache(ttl=0.001)
    results.put("a", 1)
    time.sleep(0.002)
    assert results.pop("a", "none") == "none"
    assert not results._entries


def test_as_functools_have_it():
    @fastshm.cache(2)
    def double(n):
        return n + n

    assert [double(n) for n in (1, 2, 3, 3)] == [2, 4, 6, 6]
    assert double.cache_info() == (1, 3, 2, 2)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="must be a positive"):
            fastshm.cache(wrong)
    for wrong in ("x", 0, -1, [1]):
        with pytest.raises(ValueError, match="ttl must be a positive number"):
            fastshm.cache(ttl=wrong)


def test_fewer_than_they_say(monkeypatch):
    results = fastshm.Cache(maxsize=1)
    monkeypatch.setattr(type(results._entries), "__len__", lambda _: 5, raising=False)
    results.put("a", 1)
    assert results.get("a") is None
