"""The atomics of Value against a plain model, waiting for a value, and ShardedCounter."""

from __future__ import annotations

import copy
import ctypes
import functools
import math
import mmap
import operator
import os
import pickle
import random
import signal
import struct
import threading
import time

import leftovers
import pytest
from crew import Crew
from hypothesis import given, settings
from hypothesis import strategies as st

import fastshm
from fastshm import _core, sharedctypes

INTEGERS = {
    "b": ctypes.c_byte, "B": ctypes.c_ubyte, "h": ctypes.c_short, "H": ctypes.c_ushort, "i": ctypes.c_int, "I": ctypes.c_uint,
    "l": ctypes.c_long, "L": ctypes.c_ulong, "q": ctypes.c_longlong, "Q": ctypes.c_ulonglong,
}  # fmt: skip
REALS = "fd"
PLAIN = {ctypes.c_bool: (True, False), "c": (b"a", b"\xff"), "u": ("a", "\U0001f600")}
ARITHMETIC = {"fetch_add": operator.add, "fetch_sub": operator.sub}
BITWISE = {"fetch_and": operator.and_, "fetch_or": operator.or_, "fetch_xor": operator.xor}
EXTREMES = {"fetch_max": max, "fetch_min": min}
FETCHES = [*ARITHMETIC, *BITWISE, *EXTREMES]


def rounded(code: str, x: float) -> float:
    """As the type holds it."""
    return ctypes.c_float(x).value if code == "f" else x


def bits(x: float) -> bytes:
    return struct.pack("<d", x)


def same(x: float, y: float) -> bool:
    return bits(x) == bits(y) or (math.isnan(x) and math.isnan(y))


def model_of_reals(name: str, code: str, x: float, y: float) -> float:
    """C23's fmaximum_num and fminimum_num, and plain sums."""
    if name in EXTREMES:
        if math.isnan(x) or math.isnan(y):
            return y if math.isnan(x) else x
        return EXTREMES[name]((x, math.copysign(1, x)), (y, math.copysign(1, y)))[0]
    return rounded(code, ARITHMETIC[name](x, y))


def around_borders() -> st.SearchStrategy[int]:
    near = [sign * 2**e + d for e in (7, 8, 15, 16, 30, 31, 32, 60, 63, 64) for d in (-2, -1, 0, 1) for sign in (1, -1)]
    return st.one_of(st.sampled_from([0, 1, -1, *near]), st.integers(-(2**70), 2**70))


# --- against a model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", INTEGERS)
@settings(max_examples=150, deadline=None)
@given(
    start=around_borders(), steps=st.lists(st.tuples(st.sampled_from([*FETCHES, "add", "exchange", "store"]), around_borders()))
)
def test_integers(code, start, steps):
    held = INTEGERS[code]
    value, model = fastshm.Value(code, start), held(start).value
    functions = ARITHMETIC | BITWISE | EXTREMES
    for name, n in steps:
        n_held = held(n).value
        result = getattr(value, name)(n)
        assert result == (None if name in ("add", "store") else model)
        if name in functions:
            model = held(functions[name](model, n_held)).value
        else:
            model = held(model + n).value if name == "add" else n_held
        assert value.value == value.load() == model


@pytest.mark.parametrize("code", REALS)
@settings(max_examples=200, deadline=None)
@given(
    start=st.floats(),
    steps=st.lists(st.tuples(st.sampled_from([*ARITHMETIC, *EXTREMES, "add", "exchange", "store"]), st.floats())),
)
def test_reals(code, start, steps):
    value, model = fastshm.Value(code, start), rounded(code, start)
    for name, x in steps:
        x_held = rounded(code, x)
        result = getattr(value, name)(x)
        if name in ("add", "store"):
            assert result is None
        else:
            assert same(result, model)
        if name in ("exchange", "store"):
            model = x_held
        else:
            model = model_of_reals("fetch_add" if name == "add" else name, code, model, x_held)
        assert same(value.value, model)


@pytest.mark.parametrize("code", REALS)
def test_extremes_of_what_is_no_number(code):
    nan, value = math.nan, fastshm.Value(code, math.nan)
    for name in EXTREMES:
        value.value = nan
        assert math.isnan(getattr(value, name)(nan))
        assert math.isnan(getattr(value, name)(-2.5))
        assert value.value == -2.5, "a number takes the place of a NaN"
        assert getattr(value, name)(nan) == -2.5
        assert value.value == -2.5, "and a NaN the place of none"
    value.value = 0.0
    assert bits(value.fetch_min(-0.0)) == bits(0.0)
    assert bits(value.fetch_max(0.0)) == bits(-0.0)
    assert bits(value.value) == bits(0.0)


@pytest.mark.parametrize("code", [*INTEGERS, *REALS, *PLAIN], ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_compare_exchange(code, data):
    if code in PLAIN:
        numbers, held = st.sampled_from(PLAIN[code]), lambda x: x
    elif code in INTEGERS:
        numbers, held = around_borders(), lambda n: INTEGERS[code](n).value
    else:
        numbers, held = st.floats(allow_nan=False), functools.partial(rounded, code)
    start, expected, desired = (data.draw(numbers) for _ in range(3))
    expected = data.draw(st.sampled_from([start, expected]))
    value = fastshm.Value(code, start)
    is_same = held(start) == held(expected) and repr(held(start)) == repr(held(expected))  # 0.0 is not -0.0
    assert value.compare_exchange(expected, desired) is is_same
    assert value.value == held(desired if is_same else start)


@pytest.mark.parametrize("code", PLAIN, ids=str)
def test_what_is_no_number_is_only_replaced(code):
    one, other = PLAIN[code]
    value = fastshm.Value(code, one)
    assert value.load() == value.exchange(other) == one
    assert value.compare_exchange(other, one)
    value.store(other)
    for name in [*FETCHES, "add"]:
        with pytest.raises(TypeError, match=r"takes numbers.*exchange\(\)"):
            getattr(value, name)(one)
        with pytest.raises(TypeError):
            getattr(value, name)(1)
    assert value.value == other
    assert value.wait(one)
    assert not value.wait(other, timeout=0)


@pytest.mark.parametrize("code", REALS)
def test_bits_of_reals_are_not_changed(code):
    value = fastshm.Value(code, 2.5)
    for name in BITWISE:
        with pytest.raises(TypeError, match=r"takes integers.*compare_exchange\(\)"):
            getattr(value, name)(1)
    assert value.value == 2.5


@pytest.mark.parametrize(("code", "start"), [("i", 5), ("Q", 5), ("d", 2.5), ("f", 2.5)])
def test_a_wrong_type_changes_nothing(code, start):
    value = fastshm.Value(code, start)
    wrong = ["1", None, b"1", 1j, [1]] + [1.5] * (code in INTEGERS)
    for name in [*(FETCHES if code in INTEGERS else [*ARITHMETIC, *EXTREMES]), "add", "exchange", "store", "wait"]:
        for operand in wrong:
            with pytest.raises(TypeError):
                getattr(value, name)(operand)
    with pytest.raises(TypeError):
        value.compare_exchange(start, "1")
    with pytest.raises(TypeError):
        value.compare_exchange("1", start)
    for name in (*BITWISE, *EXTREMES, "wait"):
        with pytest.raises(TypeError):
            getattr(value, name)()
    assert value.value == start


def test_an_operand_that_is_an_index():
    class Five:
        def __index__(self):
            return 5

    value = fastshm.Value("i", 12)
    assert value.fetch_and(Five()) == 12
    assert value.fetch_or(True) == 4
    assert value.value == 5


def test_atomics_inside_a_section():
    value = fastshm.Value("i", 12)
    with value.get_lock():
        assert value.fetch_or(3) == 12
        assert value.fetch_max(99) == 15
        value.notify_all()
    assert value.value == 99


def test_attributes_and_weak_references():
    """As an object of a class written in Python has them."""
    value = fastshm.Value("i", 12)
    value.name = "mine"
    assert value.name == "mine"
    assert value.get_obj() is value.get_obj()
    assert copy.copy(value)._address == value._address
    assert type(pickle.loads(pickle.dumps(value))) is sharedctypes.Synchronized


# --- several processes --------------------------------------------------------------------------------------------------------

TURNS = 4_000


def adds(value, me):
    for _ in range(TURNS):
        value.add(me + 1)
        value.fetch_sub(1)
        value.fetch_add(2)


def toggles(value, me):
    for _ in range(2 * TURNS + 1):
        value.fetch_xor(1 << me)


def sets_and_clears(value, me):
    for _ in range(TURNS):
        assert not value.fetch_or(1 << me) >> me & 1
        assert value.fetch_and(~(1 << me)) >> me & 1
    value.fetch_or(1 << me)


def raises_and_lowers(pair, me):
    numbers = random.Random(me).sample(range(10**9), TURNS)
    for n in numbers:
        assert pair[0].fetch_max(n) <= pair[0].value
        assert pair[1].fetch_min(-n) >= pair[1].value
    return max(numbers)


def swaps(value, me):
    return [value.exchange(me * TURNS + k + 1) for k in range(TURNS)]


def compares(value, me):
    for _ in range(TURNS):
        old = value.value
        while not value.compare_exchange(old, old + 1):
            old = value.value


def adds_halves(value, me):
    for _ in range(TURNS):
        value.fetch_add(0.5)


def crew_results(crew, function, shared):
    for me in range(4):
        crew.start(function, shared, me)
    return crew.results()


def test_stress(crew, method):
    value = fastshm.Value("q", 0)
    crew_results(crew, adds, value)
    assert value.value == TURNS * (1 + 2 + 3 + 4 + 4)


@pytest.mark.parametrize("code", ["B", "H", "i", "Q"])
def test_stress_of_bits(code):
    value = fastshm.Value(code, 0)
    with Crew() as crew:
        crew_results(crew, toggles, value)
    assert value.value == 15
    value.value = 0
    with Crew() as crew:
        crew_results(crew, sets_and_clears, value)
    assert value.value == 15


@pytest.mark.parametrize("code", ["i", "q", "d"])
def test_stress_of_extremes(code):
    pair = [fastshm.Value(code, 0), fastshm.Value(code, 0)]
    with Crew() as crew:
        greatest = max(crew_results(crew, raises_and_lowers, pair))
    assert [value.value for value in pair] == [greatest, -greatest]


def test_stress_of_exchange():
    value = fastshm.Value("i", 0)
    with Crew() as crew:
        taken = [n for out in crew_results(crew, swaps, value) for n in out]
    assert sorted([*taken, value.value]) == list(range(4 * TURNS + 1)), "each is taken once"


def test_stress_of_compare_exchange():
    value = fastshm.Value("H", 0)
    with Crew() as crew:
        crew_results(crew, compares, value)
    assert value.value == 4 * TURNS


@pytest.mark.parametrize("code", REALS)
def test_stress_of_reals(code):
    value = fastshm.Value(code, 0)
    with Crew() as crew:
        crew_results(crew, adds_halves, value)
    assert value.value == 2 * TURNS


# --- waiting ------------------------------------------------------------------------------------------------------------------


def waits(value, old, timeout=None):
    return value.wait(old, timeout)


def announces(value, old, here):
    here.add()
    begin = time.process_time()
    assert value.wait(old)
    return value.value, time.process_time() - begin


def until(condition) -> None:
    assert leftovers.until(condition, seconds=30)


SLEEPS = {"202", "230", "35"}  # futex; without futexes, clock_nanosleep or nanosleep: of x86-64


def is_asleep(worker) -> bool:
    """In the kernel, waiting for a word to change."""
    with open(f"/proc/{worker.process.pid}/syscall") as file:
        return file.read().split()[0] in SLEEPS


def test_wait(crew):
    value, here = fastshm.Value("i", 7), fastshm.Value("i", 0)
    workers = [crew.start(announces, value, 7, here) for _ in range(2)]
    crew.go()
    until(lambda: here.value == 2)
    value.value = 8
    value.notify_all()
    for worker in workers:
        assert crew.result(worker)[0] == 8


def test_what_is_different_is_not_waited_for():
    value = fastshm.Value("h", 7)
    assert value.wait(8) is True
    assert value.wait(7 + 2**16, timeout=0) is False, "compared as the type holds it"
    real = fastshm.Value("d", 0.0)
    assert real.wait(-0.0) is True, "by its bits"
    assert real.wait(0.0, timeout=0) is False


@pytest.mark.parametrize("timeout", [0, -1, 0.05])
def test_wait_times_out(timeout):
    value = fastshm.Value("i", 7)
    begin = time.monotonic()
    assert value.wait(7, timeout=timeout) is False
    assert time.monotonic() - begin >= timeout
    with pytest.raises(TypeError):
        value.wait(7, timeout="soon")


def plays(value, me):
    for _ in range(300):
        while (now := value.value) % 2 != me:
            value.wait(now)
        value.add()
        value.notify_one()


def test_there_and_back(crew):
    value = fastshm.Value("I", 0)
    for me in range(2):
        crew.start(plays, value, me)
    crew.results()
    assert value.value == 600


def late(value, told):
    """How long after each notification this process was awake."""
    out = []
    for turn in range(40):
        assert value.wait(turn, timeout=30)
        out.append(time.monotonic() - told.value)
    return out


@pytest.mark.parametrize("notify", ["notify_one", "notify_all"])
def test_a_notification_wakes(notify):
    """By itself a sleeper would look every 16 ms."""
    for _ in range(3):
        value, told = fastshm.Value("i", 0), fastshm.Value("d", 0.0)
        with Crew() as crew:
            worker = crew.run(late, value, told)
            for turn in range(40):
                time.sleep(0.02)
                told.value = time.monotonic()
                value.value = turn + 1
                getattr(value, notify)()
                until(lambda worker=worker: not worker.process.is_alive() or is_asleep(worker))
            soon = sum(seconds < 0.002 for seconds in crew.result(worker))
        if soon > 20:
            return
    raise AssertionError(f"{soon} of 40 within 2 ms")


def test_a_change_that_nobody_tells_of_is_noticed():
    value = fastshm.Value("i", 7)
    with Crew() as crew:
        worker = crew.run(waits, value, 7)
        until(lambda: is_asleep(worker))
        value.get_obj().value = 8
        assert crew.result(worker) is True


def test_one_who_was_killed_takes_no_notification_along():
    value, here = fastshm.Value("i", 7), fastshm.Value("i", 0)
    with Crew() as crew:
        workers = [crew.start(announces, value, 7, here) for _ in range(3)]
        crew.go()
        until(lambda: here.value == 3 and all(map(is_asleep, workers)))
        os.kill(workers[0].process.pid, signal.SIGSTOP)  # asleep for the kernel, and the first to be woken
        value.value = 8
        value.notify_one()
        crew.kill(workers[0])
        assert [crew.result(worker)[0] for worker in workers[1:]] == [8, 8]
    assert value.wait(8, timeout=0.02) is False
    value.notify_one()  # clears what the dead one has left
    value.notify_all()


def test_a_notifier_who_is_killed_first():
    value = fastshm.Value("i", 7)
    with Crew() as crew:
        sleeper = crew.run(waits, value, 7)
        until(lambda: is_asleep(sleeper))
        crew.result(crew.run(stores_and_dies_not, value, 8))
        assert crew.result(sleeper) is True


def stores_and_dies_not(value, new):
    value.store(new)


def holds(value, new, stop):
    value.acquire()
    value.value = new
    stop.wait(0)
    if stop.value == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    value.release()


def test_what_a_section_changes_counts_at_its_end():
    value, stop, here = (fastshm.Value("i", n) for n in (7, 0, 0))
    with Crew() as crew:
        holder = crew.run(holds, value, 8, stop)
        until(value.get_lock().locked)
        waiter = crew.run(announces, value, 7, here)
        until(lambda: here.value == 1 and is_asleep(waiter))
        assert not waiter.pipe.poll(0.3)
        assert value.wait(7, timeout=0) is False
        assert value.wait(7, timeout=0.02) is False
        stop.value = 1
        stop.notify_all()
        crew.result(holder)
        seen, processor = crew.result(waiter)
        assert seen == 8
        assert processor < 0.1, "it has slept"


def test_what_a_dead_section_has_changed():
    value, stop = fastshm.Value("i", 7), fastshm.Value("i", 0)
    with Crew() as crew:
        holder = crew.run(holds, value, 8, stop)
        until(value.get_lock().locked)
        waiter = crew.run(waits, value, 7)
        until(lambda: is_asleep(waiter))
        holder.killed = True
        stop.value = 2
        stop.notify_all()
        assert crew.result(waiter) is True
    with value.get_lock() as _:
        assert value.get_lock().abandoned


def test_waiting_under_the_own_lock():
    value = fastshm.Value("i", 7)
    with value.get_lock():
        assert value.wait(6)
        assert value.wait(7, timeout=0) is False
        with pytest.raises(RuntimeError, match="holds the lock"):
            value.wait(7)
    assert value.value == 7


def test_a_signal_ends_a_wait():
    class Interrupt(Exception):
        pass

    def interrupt(*_):
        raise Interrupt

    value = fastshm.Value("i", 7)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for locked in (False, True):
            with Crew() as crew:
                stop = fastshm.Value("i", 0)
                if locked:
                    holder = crew.run(holds, value, 7, stop)
                    until(value.get_lock().locked)
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(Interrupt):
                    value.wait(7)
                if locked:
                    stop.value = 1
                    crew.result(holder)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert value.fetch_add(1) == 7


def test_other_threads_go_on():
    value, seen = fastshm.Value("i", 7), []
    thread = threading.Thread(target=lambda: seen.append(value.wait(7)), daemon=True)
    thread.start()
    assert not value.wait(7, timeout=0.05)
    value.add()
    value.notify_all()
    thread.join(30)
    assert seen == [True]


def test_the_managers_end_ends_a_wait():
    gate = _core.Gate()
    value = sharedctypes.Synchronized._make(sharedctypes.Synchronized, "i", (7,), gate)
    timer = threading.Timer(0.05, gate.close)
    timer.start()
    with pytest.raises(ConnectionRefusedError):
        value.wait(7)
    timer.join()
    for call in (value.notify_one, value.notify_all, functools.partial(value.wait, 8), functools.partial(value.fetch_or, 1)):
        with pytest.raises(ConnectionRefusedError):
            call()


# --- ShardedCounter -----------------------------------------------------------------------------------------------------------


def test_counter():
    counter = fastshm.ShardedCounter()
    assert counter.value == 0
    counter.add()
    counter.add(41)
    counter.sub(2)
    assert repr(counter) == "ShardedCounter(40)"
    assert counter.exchange(5) == 40
    assert counter.exchange() == 5
    counter.add(-3)
    assert counter.value == -3
    counter.reset()
    assert counter.value == 0
    assert fastshm.ShardedCounter(value=7).value == 7
    with pytest.raises(AttributeError):
        counter.value = 1


@settings(max_examples=200, deadline=None)
@given(start=around_borders(), steps=st.lists(st.tuples(st.sampled_from(["add", "sub", "exchange"]), around_borders())))
def test_counter_wraps_around(start, steps):
    held = INTEGERS["q"]
    counter, model = fastshm.ShardedCounter(start), held(start).value
    for name, n in steps:
        result = getattr(counter, name)(n)
        assert result == (model if name == "exchange" else None)
        model = held({"add": model + n, "sub": model - n, "exchange": n}[name]).value
        assert counter.value == model


def test_counter_refuses_what_is_no_integer():
    counter = fastshm.ShardedCounter(3)
    for operand in ("1", None, 1.5):
        for name in ("add", "sub", "exchange"):
            with pytest.raises(TypeError):
                getattr(counter, name)(operand)
        with pytest.raises(TypeError):
            fastshm.ShardedCounter(operand)
    assert counter.value == 3


def counts(counter, me):
    for _ in range(TURNS):
        counter.add(3)
        counter.sub()
    return counter


def takes(counter, turns):
    return sum(counter.exchange() for _ in range(turns))


def test_counter_of_many(crew):
    counter = fastshm.ShardedCounter(5)
    for me in range(3):
        crew.start(counts, counter, me)
    taker = crew.start(takes, counter, 500)
    results = crew.results()
    assert crew.result(taker) + counter.value == 5 + 3 * 2 * TURNS
    assert all(handle._address == counter._address for handle in results[:3]), "they pickle both ways"


def test_what_is_added_is_read_in_order():
    """Sums of a count that only grows do not go back, and each holds what was added before it was asked for."""
    counter = fastshm.ShardedCounter()
    with Crew() as crew:
        workers = [crew.start(counts, counter, me) for me in range(3)]
        crew.go()
        last = 0
        while any(worker.process.is_alive() for worker in workers):
            counter.add(1000)
            last, before = counter.value, last
            assert last >= before + 1000 - 3  # each may be between its add and its sub
        crew.results()


def adds_until_killed(counter, done):
    while True:
        counter.add()
        done.add()


def test_counter_of_the_dead():
    counter, done = fastshm.ShardedCounter(), [fastshm.Value("q") for _ in range(12)]
    with Crew() as crew:
        for mine in done:
            worker = crew.run(adds_until_killed, counter, mine)
            until(lambda mine=mine: mine.value > 100)
            crew.kill(worker)
    assert 0 <= counter.value - sum(mine.value for mine in done) <= len(done), "at most one each that was not acknowledged"
    assert counter.exchange() > 1200
    assert counter.value == 0
    fastshm.heap.check()


def test_a_damaged_counter():
    counter = fastshm.ShardedCounter(3)
    name, offset, _ = counter._address
    pickled = pickle.dumps(counter)
    with open(f"/dev/shm/{name}", "r+b") as file, mmap.mmap(file.fileno(), 1 << 20) as memory:
        good = memory[offset + 56 : offset + 64]
        for stripes in (1, 3, 2**20, 2**63):
            memory[offset + 56 : offset + 64] = struct.pack("=Q", stripes)
            with pytest.raises(fastshm.CorruptedError):
                pickle.loads(pickled)
            with pytest.raises(fastshm.CorruptedError, match="K1"):
                fastshm.heap.check()
            assert counter.value == 3, "a handle keeps what it has seen"
        memory[offset + 56 : offset + 64] = good
    assert fastshm.heap.check()["counters"] >= 1


def test_counter_is_no_part_of_a_container():
    table = fastshm.dict(hits=fastshm.ShardedCounter(2))
    table["hits"].add(3)
    assert table["hits"].value == 5
