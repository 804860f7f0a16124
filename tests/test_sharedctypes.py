"""Value, Array, RawValue and RawArray: what the stdlib's do, over the stdlib and over ours; then what only ours do."""

from __future__ import annotations

import array
import contextlib
import ctypes
import inspect
import multiprocessing
import pydoc
import re
import threading
from typing import Any

import numpy as np
import pytest
from crew import Crew

import fastshm

INTEGERS = {"b": 8, "B": 8, "h": 16, "H": 16, "i": 32, "I": 32, "l": 64, "L": 64, "q": 64, "Q": 64}
REALS = "fd"
KEYWORD = inspect.Parameter.KEYWORD_ONLY
ANY = inspect.Parameter.POSITIONAL_OR_KEYWORD
MORE = {
    "Manager": [
        ("address", ANY, None),
        ("create", KEYWORD, True),
        ("persist", KEYWORD, False),
        ("live", KEYWORD, None),
        ("allow_pickle", KEYWORD, True),
    ],
    "Value": [("beside", KEYWORD, None)],
    "Array": [("capacity", KEYWORD, None), ("shape", KEYWORD, None), ("beside", KEYWORD, None)],
}
MAKERS = ["Value", "Array", "RawValue", "RawArray", "Lock", "RLock", "Manager"]


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


class NoLock:
    pass


def lowest(code: str) -> int:
    return -(2 ** (INTEGERS[code] - 1)) if code.islower() else 0


def highest(code: str) -> int:
    return 2 ** (INTEGERS[code] - code.islower()) - 1


@pytest.mark.parametrize("name", MAKERS)
def test_signatures(name):
    ours, original = (inspect.signature(getattr(module, name)) for module in (fastshm, multiprocessing))
    ours, original = ([(p.name, p.kind, p.default) for p in each.parameters.values()] for each in (ours, original))
    assert ours[: len(original)] == original
    assert ours[len(original) :] == MORE.get(name, [])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Value", ["fetch_add", "get_lock()", "lock=False", "beside", "TypeError", "ctypes type"]),
        ("Array", ["capacity", "numpy.dtype(", "`shape`", "append", "fetch_add", "beside", "MemoryError"]),
        ("Manager", ["shm://NAME", "create=False", "persist=True", "allow_pickle=False", "`live`", "unlink", "TypeError"]),
    ],
)
def test_help(name, told):
    text = pydoc.render_doc(getattr(fastshm, name))
    assert [part for part in told if part not in text] == []


# Value


@pytest.mark.parametrize("code", INTEGERS)
def test_integer_value(shared, code):
    value = shared.Value(code)
    assert value.value == 0
    for number in (1, highest(code), lowest(code)):
        value.value = number
        assert value.value == number
        assert type(value.value) is int
    value.value = highest(code) + 1
    assert value.value == lowest(code), "C arithmetic wraps around"
    assert shared.Value(code, highest(code)).value == highest(code)


def test_wrap_around_at_creation(shared):
    assert shared.Value("b", 300).value == 44
    assert shared.Value("I", -1).value == 2**32 - 1
    assert shared.Value("Q", -1).value == 2**64 - 1


@pytest.mark.parametrize("code", REALS)
def test_real_value(shared, code):
    value = shared.Value(code, 0.5)
    assert value.value == 0.5
    for number in (1, -2.25, float("inf"), float("-inf")):
        value.value = number
        assert value.value == number
        assert type(value.value) is float
    value.value = float("nan")
    assert value.value != value.value


def test_character_values(shared):
    character, letter = shared.Value("c", b"x"), shared.Value("u", "ä")
    assert (character.value, letter.value) == (b"x", "ä")
    character.value, letter.value = b"\0", "\U0001f40d"
    assert (character.value, letter.value) == (b"\0", "\U0001f40d")
    with pytest.raises(TypeError):
        character.value = "x"
    with pytest.raises(TypeError):
        character.value = b"xy"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (ctypes.c_bool, True),
        (ctypes.c_int16, -5),
        (ctypes.c_uint64, 2**63),
        (ctypes.c_double, 1.5),
        (ctypes.c_char, b"k"),
    ],
)
def test_ctypes_types(shared, kind, content):
    value = shared.Value(kind, content)
    assert value.value == content
    assert type(value.value) is type(content)
    assert isinstance(value.get_obj(), kind)


@pytest.mark.parametrize("wrong", [1.5, "1", b"1", None, [1]])
def test_wrong_type_leaves_the_value(shared, wrong):
    value = shared.Value("i", 7)
    with pytest.raises(TypeError):
        value.value = wrong
    assert value.value == 7


def test_value_interface(shared):
    value = shared.Value("i", 5)
    assert repr(value) == "<Synchronized wrapper for c_int(5)>"
    assert value.acquire()
    assert value.acquire(), "the lock is recursive"
    value.release()
    value.release()
    with pytest.raises(AssertionError):
        value.release()
    with value as entered:
        assert entered is True
        value.value += 1
    with value.get_lock() as entered:
        assert entered is True
        with value.get_lock():
            value.value += 1
    assert value.value == 7
    assert not hasattr(value, "no_such_attribute")


def test_no_value_is_no_zero(shared):
    for code in "idc":
        with pytest.raises(TypeError):
            shared.Value(code, None)


def test_get_obj_is_live(shared):
    value = shared.Value("i", 5)
    raw = value.get_obj()
    assert type(raw) is ctypes.c_int
    raw.value = 9
    assert value.value == 9
    value.value = 11
    assert raw.value == 11


def test_raw_object_outlives_its_value(shared):
    raw = shared.Value("i", 5).get_obj()
    others = [shared.Value("i", 77) for _ in range(100)]
    assert raw.value == 5
    assert [other.value for other in others] == [77] * 100


def test_lock_argument(shared):
    lock = shared.RLock()
    assert shared.Value("i", lock=lock).get_lock() is lock
    assert shared.Array("i", 2, lock=lock).get_lock() is lock
    assert shared.Value("i", lock=None).get_lock() is not lock
    for raw in (shared.Value("i", 3, lock=False), shared.RawValue("i", 3)):
        assert isinstance(raw, ctypes.c_int)
        assert raw.value == 3
        assert not hasattr(raw, "get_lock")
    raw = shared.Array("i", [1, 2], lock=False)
    assert isinstance(raw, ctypes.Array)
    assert not hasattr(raw, "get_lock")
    for make in (lambda: shared.Value("i", lock=NoLock()), lambda: shared.Array("i", 2, lock=NoLock())):
        with pytest.raises(AttributeError, match=r"has no method 'acquire'"):
            make()


def test_shared_lock_guards_both(shared):
    lock = shared.Lock()
    value, numbers = shared.Value("i", 1, lock=lock), shared.Array("i", [2], lock=lock)
    assert value.value + numbers[0] == 3
    assert lock.acquire(False), "each access has let it go"
    lock.release()


def test_struct_value(shared):
    point = shared.Value(Point, 1, 2.5)
    assert (point.x, point.y) == (1, 2.5)
    point.x += 4
    assert point.get_obj().x == 5
    assert type(point).__name__ == "SynchronizedPoint"
    assert not hasattr(point, "value")
    with pytest.raises(TypeError):
        point.x = "five"
    assert point.x == 5


def test_bad_type(shared):
    for make in (shared.Value, shared.RawValue):
        for wrong in ("x", "ii", "", 5, int):
            with pytest.raises((TypeError, AttributeError)):
                make(wrong)
    with pytest.raises(TypeError):
        shared.Value("x")
    with pytest.raises(TypeError):
        shared.Value("i", "five")
    with pytest.raises(TypeError):
        shared.Value("i", 1, 2)


# Array


@pytest.mark.parametrize("code", [*INTEGERS, *REALS])
def test_array_of_every_code(shared, code):
    numbers = shared.Array(code, 3)
    assert numbers[:] == [0, 0, 0]
    numbers[1] = 7
    numbers[-1] = 9
    assert (len(numbers), numbers[:], list(numbers)) == (3, [0, 7, 9], [0, 7, 9])
    assert shared.Array(code, [1, 2, 3])[:] == [1, 2, 3]
    assert shared.Array(code, (4, 5))[:] == [4, 5]
    assert shared.Array(code, range(6))[::2] == [0, 2, 4]


def test_array_slices(shared):
    numbers = shared.Array("i", 10)
    model = [0] * 10
    numbers[:] = model[:] = range(10)
    model = list(model)
    for part in (
        slice(None),
        slice(2, 5),
        slice(-3, None),
        slice(None, None, -1),
        slice(8, 1, -3),
        slice(4, 4),
        slice(3, 99),
    ):
        assert numbers[part] == model[part]
        assert type(numbers[part]) is list
        replacement = [value * 2 + 1 for value in model[part]]
        numbers[part] = replacement
        model[part] = replacement
        assert numbers[:] == model
    numbers[2:4] = array.array("i", [5, 6])
    assert numbers[2:4] == [5, 6]
    for wrong in ([1], [1, 2, 3], []):
        with pytest.raises(ValueError, match=r"[Cc]an only assign sequence of same size"):
            numbers[0:2] = wrong
    with pytest.raises(TypeError):
        numbers[0:2] = [1, "x"]


def test_failed_slice_assignment_leaves_a_whole_array():
    numbers = fastshm.Array("i", [1, 2, 3])
    with pytest.raises(TypeError):
        numbers[:] = [7, 8, "x"]
    assert numbers[:] == [1, 2, 3]


@pytest.mark.parametrize("index", [3, -4, 2**40, -(2**40)])
def test_array_index_out_of_range(shared, index):
    numbers = shared.Array("i", [1, 2, 3])
    with pytest.raises(IndexError):
        numbers[index]
    with pytest.raises(IndexError):
        numbers[index] = 5
    assert numbers[:] == [1, 2, 3]


def test_array_bad_arguments(shared):
    for make in (shared.Array, shared.RawArray):
        with pytest.raises(ValueError):  # noqa: PT011  # the text is the C library's
            make("i", -1)
        with pytest.raises(TypeError):
            make("i", (number for number in range(3)))
        with pytest.raises(TypeError):
            make("i", ["x"])
        with pytest.raises(TypeError):
            make("i", 2.5)
        with pytest.raises(TypeError):
            make("x", 2)
    numbers = shared.Array("i", [1])
    for wrong in (1.5, "1", None):
        with pytest.raises(TypeError):
            numbers[0] = wrong
    with pytest.raises(TypeError):
        numbers["0"]
    assert numbers[0] == 1


def test_array_interface(shared):
    numbers = shared.Array("i", [1, 2, 3])
    assert re.fullmatch(r"<SynchronizedArray wrapper for <.*c_int_Array_3 object at 0x[0-9a-f]+>>", repr(numbers))
    assert hasattr(numbers, "append") == (shared is fastshm)
    assert 2 in numbers
    assert list(reversed(numbers)) == [3, 2, 1]
    with pytest.raises(AttributeError):
        del numbers[0]
    with numbers as entered:
        assert entered is True
        numbers[0] += 1
    with numbers.get_lock():
        numbers[0] += 1
    numbers.acquire()
    numbers.release()
    assert sum(numbers.get_obj()) == 8
    assert type(numbers.get_obj()).__name__ == "c_int_Array_3"


def test_empty_array(shared):
    empty = shared.Array("i", 0)
    assert (len(empty), empty[:], list(empty)) == (0, [], [])
    with pytest.raises(IndexError):
        empty[0]


def test_text_arrays(shared):
    text = shared.Array("c", b"hello")
    assert (text.value, text.raw, text[1], text[1:3], len(text)) == (b"hello", b"hello", b"e", b"el", 5)
    text.value = b"hi"
    assert (text.value, text.raw) == (b"hi", b"hi\0lo")
    with pytest.raises(ValueError, match="byte string too long"):
        text.value = b"longer"
    with pytest.raises(TypeError, match="bytes expected instead of str instance"):
        text.value = "hi"
    assert type(text).__name__ == "SynchronizedString"
    wide = shared.Array("u", 5)
    wide[0:2] = "äö"
    assert (wide[0], wide[:2]) == ("ä", "äö")
    assert shared.Array("c", 10).value == b""


def test_array_of_structs(shared):
    points = shared.Array(Point, [(1, 2.0), (3, 4.0)])
    points[0].x = 5
    assert [(point.x, point.y) for point in points] == [(5, 2.0), (3, 4.0)]
    points[1] = Point(7, 8.0)
    assert points.get_obj()[1].y == 8.0


def test_raw_array(shared):
    raw = shared.RawArray("d", [1.0, 2.0, 3.0])
    assert isinstance(raw, ctypes.Array)
    assert raw[:] == [1.0, 2.0, 3.0]
    memoryview(raw).cast("B").cast("d")[0] = 9.0
    assert raw[0] == 9.0
    assert np.frombuffer(raw).tolist() == [9.0, 2.0, 3.0]


def test_numpy_shares_the_memory(shared):
    numbers = shared.Array("d", range(8))
    view = np.frombuffer(numbers.get_obj())
    view *= 2
    assert numbers[:] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0]
    numbers[3] = -1
    assert view[3] == -1
    del numbers
    assert view.sum() == 49, "the view keeps the memory"


# Several processes


def add_under_lock(value, numbers, times):
    for _ in range(times):
        with value.get_lock():
            value.value += 1
        with numbers.get_lock():
            numbers[1] += 1


def test_no_increment_is_lost(shared_for, crew):
    value, numbers = shared_for.Value("l"), shared_for.Array("l", 3)
    for _ in range(3):
        crew.start(add_under_lock, value, numbers, 400)
    crew.results()
    assert value.value == 1200
    assert numbers[:] == [0, 1200, 0]


def hold_half_done(value, held, release):
    with value.get_lock():
        value.value = -1
        held.send("held")
        release.recv()
        value.value = 2


def read_value(value, about):
    about.send("about to read")
    return value.value


def test_value_waits_for_the_holder_of_its_lock(shared):
    value = shared.Value("i", 1)
    held, tell_held = multiprocessing.Pipe(duplex=False)
    release, tell_release = multiprocessing.Pipe(duplex=False)
    about, tell_about = multiprocessing.Pipe(duplex=False)
    with Crew() as crew, held, tell_held, release, tell_release, about, tell_about:
        holder = crew.run(hold_half_done, value, tell_held, release)
        assert held.recv() == "held"
        reader = crew.run(read_value, value, tell_about)
        assert about.recv() == "about to read"
        assert not reader.pipe.poll(0.1), "the reader went past the lock"
        tell_release.send("go")
        assert crew.result(reader) == 2
        crew.result(holder)


def child_reads_and_writes(point, raw, raws, text):
    point.x, raw.value, raws[1], text.value = 10, 20, 30, b"new"
    return point.y


def test_raw_and_struct_objects_cross(shared_for, crew):
    point, raw = shared_for.Value(Point, 1, 2.5), shared_for.RawValue("i", 2)
    raws, text = shared_for.RawArray("i", 3), shared_for.Array("c", b"hello")
    crew.start(child_reads_and_writes, point, raw, raws, text)
    assert crew.results() == [2.5]
    assert (point.x, raw.value, raws[:], text.value) == (10, 20, [0, 30, 0], b"new")


# Only ours


@pytest.mark.parametrize("code", INTEGERS)
def test_integer_atomics(code):
    value = fastshm.Value(code, 5)
    assert value.fetch_add(3) == 5
    assert value.fetch_sub(2) == 8
    assert value.add(1) is None
    assert value.load() == value.value == 7
    assert value.exchange(9) == 7
    assert value.store(11) is None
    assert value.compare_exchange(11, 12) is True
    assert value.compare_exchange(11, 13) is False
    assert value.value == 12
    value.value = highest(code)
    assert value.fetch_add(1) == highest(code)
    assert value.value == lowest(code), "wraps around as C does"
    assert value.fetch_sub(1) == lowest(code)
    assert value.value == highest(code)


@pytest.mark.parametrize("code", REALS)
def test_real_atomics(code):
    value = fastshm.Value(code, 0.5)
    assert value.fetch_add(0.25) == 0.5
    assert value.fetch_sub(1) == 0.75
    value.add(2.25)
    assert value.load() == 2.0
    assert value.exchange(3.5) == 2.0
    assert value.compare_exchange(3.5, 4.5) is True
    assert value.compare_exchange(3.5, 5.5) is False
    assert value.value == 4.5


@pytest.mark.parametrize("wrong", [1.5, "1", None, [1]])
def test_atomics_refuse_wrong_types(wrong):
    value, numbers = fastshm.Value("i", 5), fastshm.Array("i", [5, 6])
    operations = (
        *(value.fetch_add, value.fetch_sub, value.add, value.store, value.exchange),
        lambda n: value.compare_exchange(5, n),
        lambda n: value.compare_exchange(n, 5),
        lambda n: numbers.add(0, n),
        lambda n: numbers.fetch_add(0, n),
    )
    for operation in operations:
        with pytest.raises(TypeError):
            operation(wrong)
    assert value.value == 5
    assert numbers[:] == [5, 6]


def test_array_atomics():
    numbers = fastshm.Array("q", [1, 2, 3])
    assert numbers.fetch_add(0, 10) == 1
    assert numbers.add(-1, 5) is None
    assert numbers[:] == [11, 2, 8]
    for index in (3, -4, 2**70):
        with pytest.raises(IndexError):
            numbers.fetch_add(index, 1)
        with pytest.raises(IndexError):
            numbers.add(index, 1)
    halves = fastshm.Array("d", [0.5])
    assert halves.fetch_add(0, 0.25) == 0.5
    assert halves[0] == 0.75


def add_atomically(value, real, numbers, times):
    for _ in range(times):
        value.fetch_add(1)
        value.add(2)
        value.fetch_sub(1)
        real.add(0.5)
        numbers.add(1, 1)
        numbers.fetch_add(1, 1)


def test_atomics_lose_nothing(crew):
    value, real, numbers = fastshm.Value("q"), fastshm.Value("d"), fastshm.Array("i", 3)
    for _ in range(3):
        crew.start(add_atomically, value, real, numbers, 20_000)
    crew.results()
    assert (value.value, real.value, numbers[:]) == (120_000, 30_000, [0, 120_000, 0])


def claim(flag, won, times):
    for turn in range(times):
        if flag.compare_exchange(turn, turn + 1):
            won.add(1)
        while flag.load() <= turn:
            pass


def test_compare_exchange_has_one_winner():
    flag, won = fastshm.Value("q"), fastshm.Value("q")
    with Crew() as crew:
        for _ in range(2):
            crew.start(claim, flag, won, 2_000)
        crew.results()
    assert won.value == flag.value == 2_000


def write_slices(numbers, marks, times):
    for turn in range(times):
        numbers[:] = [marks[turn % len(marks)]] * len(numbers)


def read_slices(numbers, times):
    return {len(set(numbers[:])) for _ in range(times)}


def test_slices_are_whole():
    numbers = fastshm.Array("q", 300)
    with Crew() as crew:
        crew.start(write_slices, numbers, (1, -2), 3_000)
        crew.start(write_slices, numbers, (3, -4), 3_000)
        reader = crew.start(read_slices, numbers, 3_000)
        crew.results()
        assert crew.result(reader) == {1}


def test_atomics_honour_the_lock():
    value = fastshm.Value("i", 1)
    with Crew() as crew:
        with value.get_lock():
            adder = crew.run(add_once, value)
            assert not adder.pipe.poll(0.1), "the addition went past the lock"
            value.value = 10
            assert value.fetch_add(5) == 10, "the holder itself goes on"
        assert crew.result(adder) == 15
    assert value.value == 16


def add_once(value):
    return value.fetch_add(1)


def test_buffer_of_the_array_itself():
    numbers = fastshm.Array("i", [1, 2, 3])
    view = memoryview(numbers)
    assert (view.itemsize, view.nbytes, view.readonly) == (4, 12, False)
    shared = np.asarray(numbers)
    assert shared.dtype == np.int32
    shared[0] = 10
    assert numbers[0] == 10
    del numbers
    assert shared.tolist() == [10, 2, 3]


def test_threads_of_one_process_lose_nothing():
    value = fastshm.Value("q")

    def work():
        for _ in range(5_000):
            value.add(1)
            with value.get_lock():
                value.value += 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value.value == 30_000


@pytest.mark.parametrize("make", [lambda: fastshm.Value("i", 5), lambda: fastshm.Array("i", 5)])
def test_each_has_attributes_of_its_own(make: Any) -> None:
    first, second, third = make(), make(), make()
    assert vars(third) == {}
    first.note = "first"
    second.__dict__ = {"note": "second"}
    assert (first.note, second.note) == ("first", "second")
    assert vars(first) == {"note": "first"}
    assert vars(first) is vars(first)
    assert vars(make()) == vars(third) == {}
    del first.note
    for one in (first, third):
        with pytest.raises(AttributeError):
            _ = one.note
        with pytest.raises(AttributeError):
            del one.note
    with pytest.raises(AttributeError):
        third.typecode = "q"
    with contextlib.suppress(TypeError):  # up to Python 3.12
        object.__setattr__(third, "note", "by another way")
    assert vars(make()) == vars(first) == {}


def test_a_class_that_has_another_value() -> None:
    class Doubled(type(fastshm.Value("i"))):  # type: ignore[misc]
        value = property(lambda self: self.load() * 2, lambda self, new: self.store(new // 2))

    v = Doubled._make(Doubled, "i", (4,))
    assert v.value == 8
    v.value = 20
    assert (v.load(), v.value) == (10, 20)


@pytest.mark.parametrize("kind", [int, float])
def test_a_value_is_no_number(kind: type) -> None:
    for code, start in (("b", 55), ("q", 8), ("d", 1.5)):
        for module in (multiprocessing, fastshm):
            with pytest.raises(TypeError, match=rf"{kind.__name__}\(\) argument must be a string.* or a real number, not"):
                kind(module.Value(code, start))


def test_what_another_lock_takes_away_is_told() -> None:
    lock = fastshm.RLock()
    with pytest.raises(AttributeError, match=r"no attribute 'fetch_add': .*lock=True"):
        fastshm.Value("i", lock=lock).fetch_add(1)
    with pytest.raises(AttributeError, match=r"no attribute 'append': .*lock=True"):
        fastshm.Array("i", 3, lock=lock).append(1)
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        _ = fastshm.Array("i", 3, lock=lock).nothing
    with pytest.raises(TypeError, match=r"beside=m\.root.*'ForkContext'"):
        fastshm.Value("i", beside=multiprocessing.get_context("fork"))


def resize(array, done):
    while not done.value:
        array.resize(10)
        array.resize(1_000)


def test_its_ctypes_object_while_it_becomes_shorter():
    array, done = fastshm.Array("d", 1_000), fastshm.Value("i", 0)
    with Crew() as crew:
        crew.start(resize, array, done)
        try:
            for _ in range(2_000):
                assert len(array.get_obj()) in (10, 1_000)
                assert repr(array)
        finally:
            done.value = 1
