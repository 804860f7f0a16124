"""Arrays that grow, change many items as one, and show their bytes: to other processes, to views, and to NumPy."""

from __future__ import annotations

import array
import ctypes
import gc
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
import weakref
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from crew import Crew, child_of, run_program
from hypothesis import given, settings
from hypothesis import strategies as st

import fastshm

RECORD = np.dtype([("id", "<i4"), ("at", "<f8", (2,))])


def in_use():
    gc.collect()
    census = fastshm.heap.check()
    return census["bytes_used"] - 64 * census["tickets"], census["arrays"], census["handles"]


@pytest.fixture(scope="module")
def room_for_handles(whole_run):
    """A process keeps the room that it has made for its handles."""
    return len([fastshm.Value("i") for _ in range(100)])


@pytest.fixture(autouse=True)
def nothing_kept(room_for_handles):
    """What a test makes goes with it, moved items and pins included."""
    before = in_use()
    yield
    assert in_use() == before


# One process


def test_growth():
    numbers = fastshm.Array("q", [1, 2, 3])
    numbers.append(4)
    numbers.extend([5, 6])
    numbers.extend(number for number in (7, 8))
    numbers.extend(())
    assert numbers[:] == [1, 2, 3, 4, 5, 6, 7, 8]
    numbers.resize(10)
    assert (len(numbers), numbers[-3:]) == (10, [8, 0, 0])
    numbers.resize(2)
    assert (len(numbers), numbers[:]) == (2, [1, 2])
    numbers.resize(4)
    assert numbers[:] == [1, 2, 0, 0], "what was there before does not come back"
    with pytest.raises(IndexError):
        numbers[4]
    with pytest.raises(IndexError):
        numbers[-5] = 1


@pytest.mark.parametrize("code", "bBhHiIlLqQfd?cu")
def test_every_code_grows(code):
    one, other = {"c": (b"x", b"y"), "u": ("x", "ä"), "?": (True, False)}.get(code, (1, 2))
    items = fastshm.Array(ctypes.c_bool if code == "?" else code, 0)
    for _ in range(300):
        items.append(one)
        items.extend([other])
    assert list(items) == [one, other] * 300
    items.fill(other)
    assert list(items) == [other] * 600


def test_capacity():
    numbers = fastshm.Array("i", 4, capacity=1000)
    place = numbers._place[0]
    assert 1000 <= numbers.capacity < 1016
    numbers.extend(range(996))
    assert (numbers._place[0], len(numbers)) == (place, 1000)
    assert fastshm.Array("i", [1, 2], capacity=1)[:] == [1, 2]
    for wrong in (-1, 2**62):
        with pytest.raises((ValueError, MemoryError, OverflowError)):
            fastshm.Array("i", 4, capacity=wrong)
    for kind, options in ((ctypes.c_int, {"lock": False}), (ctypes.c_int, {"lock": fastshm.RLock()}), (ctypes.c_int * 2, {})):
        with pytest.raises(TypeError, match="capacity"):
            fastshm.Array(kind, 4, capacity=8, **options)


def test_growth_is_amortised():
    numbers = fastshm.Array("i", 0)
    places = set()
    for i in range(20_000):
        numbers.append(i)
        places.add(numbers._place[0])
    assert numbers[:] == list(range(20_000))
    assert len(places) < 20


def test_a_wrong_value_spoils_nothing():
    numbers = fastshm.Array("i", [1, 2, 3])
    for spoil in (
        lambda: numbers.append("x"),
        lambda: numbers.extend([4, "x"]),
        lambda: numbers.extend(5),
        lambda: numbers.fill(None),
        lambda: numbers.add_from([1, "x"]),
        lambda: numbers.resize("x"),
        lambda: numbers.resize(-1),
        lambda: numbers.resize(2**70),
        lambda: numbers.resize(2**40),
        lambda: numbers.add_from([1, 1], start=2),
        lambda: numbers.add_from([1], start=4),
        lambda: numbers.add_from([1], start=-4),
        lambda: fastshm.Array("u", "abc").add_from("abc"),
        lambda: fastshm.Array("c", b"abc").extend("abc"),
    ):
        with pytest.raises((TypeError, ValueError, OverflowError, MemoryError)):
            spoil()
        assert numbers[:] == [1, 2, 3]


def test_a_missing_item_is_told_before_a_wrong_value():
    numbers = fastshm.Array("i", 3)
    with pytest.raises(IndexError):
        numbers[3] = "x"
    with pytest.raises(TypeError):
        numbers[2] = "x"


@pytest.mark.parametrize("code", "bHlQfd")
def test_add_from(code):
    counts = fastshm.Array(code, [1, 2, 3, 4])
    counts.add_from([10, 20])
    counts.add_from((1, 1), start=-2)
    counts.add_from(np.array([5], code), start=1)
    assert counts[:] == [11, 27, 4, 5]
    counts.add_from(counts)
    assert counts[:] == [22, 54, 8, 10]


def test_add_from_wraps_around():
    counts = fastshm.Array("b", [120, -120])
    counts.add_from([10, -10])
    assert counts[:] == [-126, 126]


def test_buffers_are_taken_as_they_are():
    given_ = np.arange(10, dtype="i4")
    for values in (given_, memoryview(given_), array.array("i", given_), given_.astype("i8"), fastshm.Array("i", given_)):
        numbers = fastshm.Array("i", values)
        assert numbers[:] == list(range(10))
        numbers[::-2] = values[:5]
        assert numbers[::-2] == list(values[:5])
        numbers.extend(values)
        assert numbers[10:] == list(range(10))
    assert fastshm.Array("i", given_[::3])[:] == [0, 3, 6, 9], "not side by side"
    assert fastshm.Array("i", given_.astype(">i4"))[:] == list(range(10)), "the other byte order is converted"
    assert fastshm.Array("B", b"\1\2")[:] == [1, 2]
    assert fastshm.Array("b", b"\377")[:] == [-1], "of another type: item by item, as ever"
    assert fastshm.Array("c", bytearray(b"ab"))[:] == b"ab"
    assert fastshm.Array("c", array.array("B", b"ab"))[:] == b"ab"
    assert fastshm.Array("d", given_)[:] == [float(i) for i in range(10)]
    assert fastshm.Array("i", (ctypes.c_int * 2)(7, 8))[:] == [7, 8]
    with pytest.raises(TypeError):
        fastshm.Array("i", np.ones(3))
    with pytest.raises(TypeError):
        fastshm.Array("i", np.ones((3, 3), "i4"))


def test_its_own_items_as_source():
    numbers = fastshm.Array("i", [1, 2, 3, 4])
    numbers[1:] = numbers[:-1]
    numbers[:2] = numbers.numpy()[2:]
    assert numbers[:] == [2, 3, 2, 3]
    for _ in range(8):
        numbers.extend(numbers.numpy())
        numbers.extend(numbers)
    assert numbers[:] == [2, 3, 2, 3] * 4**8
    numbers[:] = numbers
    assert len(numbers) == 4 * 4**8


OPERATIONS = st.one_of(
    st.tuples(st.just("append"), st.integers(-9, 9)),
    st.tuples(st.just("extend"), st.lists(st.integers(-9, 9), max_size=40)),
    st.tuples(st.just("resize"), st.integers(0, 60)),
    st.tuples(st.just("fill"), st.integers(-9, 9)),
    st.tuples(st.just("add_from"), st.lists(st.integers(-9, 9), max_size=9), st.integers(-12, 12)),
    st.tuples(st.just("__setitem__"), st.integers(-70, 70), st.integers(-9, 9)),
    st.tuples(st.just("__getitem__"), st.integers(-70, 70) | st.slices(70)),
    st.tuples(st.just("__setitem__"), st.slices(40), st.lists(st.integers(-9, 9), max_size=12)),
    st.tuples(st.just("fetch_add"), st.integers(-70, 70), st.integers(-9, 9)),
    st.tuples(st.just("__len__")),
)


class Model:
    """What an array does, by a list."""

    def __init__(self, items):
        self.items = list(items)

    def append(self, value):
        self.items.append(value)

    def extend(self, values):
        self.items.extend(values)

    def resize(self, n):
        self.items = self.items[:n] + [0] * (n - len(self.items))

    def fill(self, value):
        self.items = [value] * len(self.items)

    def add_from(self, values, start):
        start += len(self.items) * (start < 0)
        if start < 0 or start + len(values) > len(self.items):
            raise ValueError
        for i, value in enumerate(values, start):
            self.items[i] += value

    def fetch_add(self, i, n):
        self.items[i] += n
        return self.items[i] - n

    def __setitem__(self, i, value):
        if isinstance(i, slice) and len(self.items[i]) != len(value):
            raise ValueError
        self.items[i] = value

    def __getitem__(self, i):
        return self.items[i]

    def __len__(self):
        return len(self.items)


def outcome(subject, name, *arguments):
    try:
        return getattr(subject, name)(*arguments)
    except (IndexError, ValueError) as error:
        return type(error)


def serve(pipe):
    """The other process: does what it is told to its handle."""
    numbers = None
    while (message := pipe.recv()) is not None:
        if isinstance(message, tuple):
            pipe.send(outcome(numbers, *message))
        else:
            numbers = message
    return True


def test_model_in_two_processes(method):
    ours, theirs = multiprocessing.get_context(method).Pipe()
    with Crew(method) as crew, ours, theirs:
        other = crew.run(serve, theirs)

        @settings(max_examples=60, deadline=None, database=None)
        @given(st.lists(st.integers(-9, 9), max_size=20), st.lists(st.tuples(st.booleans(), OPERATIONS), max_size=30))
        def run(start, operations):
            numbers, model = fastshm.Array("q", start), Model(start)
            views = []
            ours.send(numbers)
            for here, operation in operations:
                views.append((numbers.numpy(), numbers._place))
                if here:
                    result = outcome(numbers, *operation)
                else:
                    ours.send(operation)
                    result = ours.recv()
                assert result == outcome(model, *operation), operation
                assert numbers[:] == model.items
                for view, place in views[-1:]:
                    if numbers._place[0] == place[0]:
                        n = min(len(view), len(numbers))
                        assert view[:n].tolist() == model.items[:n], "within the capacity a view is live"
            for view, _ in views:
                view.sum()

        run()
        ours.send(None)
        assert crew.result(other)


# Views


def crowd_in(*sizes):
    """Makes what is freed somebody else's."""
    return [fastshm.Array("q", [77] * n) for n in sizes for _ in range(20)]


def grow_elsewhere(numbers, by=1000):
    """Beyond the capacity, where there is no room behind the items."""
    place = numbers._place[0]
    hedge = []
    while numbers._place[0] == place:
        hedge.append(fastshm.Array("q", 8))
        numbers.extend(range(by))
    return hedge


def test_a_view_is_live_within_the_capacity():
    numbers = fastshm.Array("q", [1, 2, 3], capacity=100)
    view, raw, whole = numbers.numpy(), numbers.get_obj(), memoryview(numbers)
    numbers.extend(range(90))
    numbers[0] = 9
    assert (view[0], raw[0], whole[0]) == (9, 9, 9)
    assert (len(view), len(raw), len(whole)) == (3, 3, 3)
    view[1] = 8
    assert numbers[:3] == [9, 8, 3]
    assert len(numbers.get_obj()) == 93
    assert len(numbers.numpy()) == 93


def test_a_view_outlives_growth():
    numbers = fastshm.Array("q", [1, 2, 3])
    for _ in range(3):
        view, raw, whole = numbers.numpy(), numbers.get_obj(), memoryview(numbers)
        shown = numbers.__array_interface__["data"][0]
        assert numbers.get_obj() is raw
        before = list(whole)
        hedge = grow_elsewhere(numbers)
        crowd = crowd_in(8, 64, 200, 1000)
        assert view.tolist() == list(raw) == list(whole) == before, "they look at what was theirs"
        view[0] = raw[1] = whole[2] = -1
        assert numbers[:3] == [1, 2, 3], "and nobody else does"
        assert numbers.get_obj() is not raw
        assert len(numbers.get_obj()) == len(numbers)
        assert np.ctypeslib.as_array((ctypes.c_int64 * 3).from_address(shown)).tolist() == [-1] * 3
        del hedge, crowd
    del numbers
    assert whole[0] == -1


def test_a_view_of_moved_items_outlives_the_array():
    numbers = fastshm.Array("q", [1, 2, 3])
    hedge = grow_elsewhere(numbers)
    view, n = numbers.numpy(), len(numbers)
    del numbers, hedge
    crowd = crowd_in(n, 100, 1000)
    assert view[:4].tolist() == [1, 2, 3, 0]
    assert len(view) == n
    del crowd


def test_get_obj_pickles_as_the_array_it_is_of():
    numbers = fastshm.Array("i", [1, 2])
    numbers.extend(range(1000))
    again = pickle.loads(pickle.dumps(numbers.get_obj()))
    again[0] = 5
    assert numbers[0] == 5


def check_inherited(view, numbers):
    assert view[:3].tolist() == [1, 2, 3]
    grow_elsewhere(numbers)
    crowd_in(100, 1000)
    assert view[:3].tolist() == [1, 2, 3]
    numbers[0] = 50


def test_a_forked_child_keeps_its_views():
    numbers = fastshm.Array("q", [1, 2, 3])
    hedge = grow_elsewhere(numbers)
    view = numbers.numpy()
    pid = child_of(check_inherited, view, numbers)
    assert os.waitpid(pid, 0)[1] == 0
    assert numbers[0] == 50
    assert view[0] == 1, "the child has moved the items"
    del hedge


def pin_and_stay(numbers, pipe):
    view = numbers.numpy()
    pipe.send(len(view))
    time.sleep(60)


def test_a_killed_process_gives_its_pins_back(crew):
    numbers = fastshm.Array("q", 10)
    hedge = grow_elsewhere(numbers, by=5000)
    ours, theirs = crew.context.Pipe()
    with ours, theirs:
        worker = crew.start(pin_and_stay, numbers, theirs)
        crew.go()
        ours.recv()
        crew.kill(worker)
    hedge += grow_elsewhere(numbers, by=5000)
    fastshm.heap.check()  # buries the dead, whose pin was the last on the old block
    size = len(numbers) * 8
    del hedge
    assert in_use()[0] < 8 * size


def test_views_are_made_while_others_hold_the_lock():
    numbers = fastshm.Array("q", [1, 2, 3])
    hedge = grow_elsewhere(numbers)
    seen = []
    with numbers.get_lock():
        thread = threading.Thread(target=lambda: seen.append((len(numbers), numbers.numpy()[0], len(numbers.get_obj()))))
        thread.start()
        thread.join(20)
        assert seen, "neither a length nor a view waits for the lock, as in the standard library"
    del hedge


# Several processes


def append_and_extend(numbers, worker, times):
    for i in range(times):
        if i % 2:
            numbers.append(worker)
        else:
            numbers.extend([worker] * 5)


def test_growth_from_many_processes(crew):
    numbers = fastshm.Array("i", 0)
    for worker in (1, 2, 3):
        crew.start(append_and_extend, numbers, worker, 400)
    crew.results()
    assert len(numbers) == 3 * 1200
    assert sorted(numbers[:]) == [1] * 1200 + [2] * 1200 + [3] * 1200


def extend_whole(numbers, worker):
    for i in range(300):
        numbers.extend([worker * 1000 + i] * 7)
    return True


def watch(numbers):
    seen = 0
    while len(numbers) < 2 * 300 * 7:
        items = numbers[:]
        assert len(items) % 7 == 0, "an extend is there wholly or not at all"
        assert len(items) >= seen
        assert all(len(set(items[i : i + 7])) == 1 for i in range(0, len(items), 7))
        if items:
            assert numbers[-1] != 0
        seen = len(items)
    return True


def test_an_extend_is_one_change(crew):
    numbers = fastshm.Array("i", 0)
    crew.start(extend_whole, numbers, 1)
    crew.start(extend_whole, numbers, 2)
    crew.start(watch, numbers)
    assert crew.results() == [True] * 3


def toggle(numbers, stop):
    for i in itertools.count(1):
        numbers.fill(i)
        numbers.add_from([1] * len(numbers))
        if stop.value:
            return True
    return None


def look_whole(numbers):
    for _ in range(600):
        assert len(set(numbers[:])) == 1, "half of a fill or an add_from was seen"
    return True


def test_many_items_change_as_one():
    numbers, stop = fastshm.Array("q", 500), fastshm.Value("i")
    with Crew() as crew:
        writer, reader = crew.start(toggle, numbers, stop), crew.start(look_whole, numbers)
        crew.go()
        assert crew.result(reader)
        stop.value = 1
        assert crew.result(writer)


def resize_back_and_forth(numbers, stop):
    while not stop.value:
        numbers.resize(2)
        numbers.extend([7] * 50)
    return True


def read_at_random(numbers):
    for _ in range(4000):
        try:
            assert numbers[random.randrange(60)] == 7
            assert numbers[-1] == 7
        except IndexError:
            pass
        assert set(numbers[1:40]) <= {7}
    return True


def test_no_reader_sees_what_is_being_prepared():
    numbers, stop = fastshm.Array("q", [7, 7]), fastshm.Value("i")
    with Crew() as crew:
        writer, reader = crew.start(resize_back_and_forth, numbers, stop), crew.start(read_at_random, numbers)
        crew.go()
        assert crew.result(reader)
        stop.value = 1
        assert crew.result(writer)


def grow_for_ever(numbers, first, told):
    for i in itertools.count(first):
        numbers.extend(range(i * 10, i * 10 + 10))
        told.value = i + 1


def test_a_killed_grower_leaves_a_whole_array():
    numbers, told = fastshm.Array("q", 0), fastshm.RawValue("q")
    moves = 0
    for _ in range(int(os.environ.get("FASTSHM_KILLS", "24"))):
        if len(numbers) > 200_000:
            numbers = fastshm.Array("q", 0)
        first, place = len(numbers) // 10, numbers._place[0]
        told.value = first
        hedge = fastshm.Array("q", 10)
        pid = os.fork()
        if not pid:
            try:
                grow_for_ever(numbers, first, told)
            finally:
                os._exit(1)
        time.sleep(random.uniform(0, random.choice((0.002, 0.02))))
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        assert numbers.acquire(timeout=10)
        numbers.release()
        assert numbers[:] == list(range(len(numbers)))
        assert len(numbers) in (told.value * 10, told.value * 10 + 10)
        fastshm.heap.check()
        moves += numbers._place[0] != place
        del hedge
    assert moves


def wait_for_item(numbers, i, told):
    told.send("waits")
    return numbers.wait(i, 0, timeout=30)


def test_waiting_for_an_item(crew):
    numbers = fastshm.Array("q", 8)
    ours, theirs = crew.context.Pipe()
    with ours, theirs:
        waiters = [crew.start(wait_for_item, numbers, i, theirs) for i in (3, -1)]
        crew.go()
        for _ in waiters:
            ours.recv()
        hedge = grow_elsewhere(numbers)
        numbers[0] = 1
        numbers.notify_all(0)
        assert not waiters[0].pipe.poll(0.05), "another item's change is none of theirs"
        numbers[3] = 1
        numbers.notify_one(3)
        numbers[7] = 1
        numbers.notify_one(7)
        assert crew.results() == [True, True]
        del hedge


def test_waiting_has_an_end():
    numbers = fastshm.Array("q", [5, 0])
    assert numbers.wait(0, 4)
    assert not numbers.wait(1, 0, timeout=0.01)
    assert not numbers.wait(1, 0, timeout=0)
    with pytest.raises(IndexError):
        numbers.wait(2, 0, timeout=0)
    with numbers.get_lock(), pytest.raises(RuntimeError):
        numbers.wait(1, 0)
    waited = []

    def wait():
        try:
            numbers.wait(1, 0, timeout=30)
        except IndexError:
            waited.append("gone")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.02)
    numbers.resize(1)
    thread.join(20)
    assert waited == ["gone"]


@pytest.mark.parametrize("code", ["h", "Q", "d"])
def test_atomics_are_those_of_a_value(code):
    value, items = fastshm.Value(code, 6), fastshm.Array(code, [0, 6, 0])
    steps = [("load",), ("store", 7), ("exchange", 9), ("compare_exchange", 9, 3), ("compare_exchange", 9, 4), ("fetch_add", 5)]
    steps += [("fetch_sub", 2), ("fetch_max", 40), ("fetch_min", 17), ("add", 2), ("load",)]
    if code != "d":
        steps += [("fetch_and", 24), ("fetch_or", 7), ("fetch_xor", 2), ("load",)]
    for name, *operands in steps:
        assert getattr(items, name)(1, *operands) == getattr(value, name)(*operands), name
    assert items[:] == [0, value.value, 0]
    for name in ("fetch_add", "exchange", "store"):
        with pytest.raises(IndexError):
            getattr(items, name)(3, 1)
    with pytest.raises(TypeError):
        items.fetch_and(1, 1.5)


# NumPy


def test_numpy_view_is_the_array():
    numbers = fastshm.Array("d", [1, 2, 3])
    view = numbers.numpy()
    view[1] = 20
    assert numbers[:] == [1, 20, 3]
    assert view.dtype == np.float64
    assert numbers.numpy(dtype="u1").shape == (24,)
    assert numbers.numpy(shape=(3, 1)).shape == (3, 1)
    assert fastshm.Array("d", 0).numpy().shape == (0,)
    assert fastshm.Array("c", b"ab").numpy().tolist() == [b"a", b"b"]
    assert fastshm.Array("u", "äb").numpy().tolist() == ["ä", "b"]
    with pytest.raises(TypeError, match="objects"):
        numbers.numpy(dtype=object)


TYPES = ["i1", "u2", "i4", "u8", "f2", "f4", "f8", "?", "c16", ">i4", "S5", "U3", "V7", "M8[s]", "m8[ms]", RECORD]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_dtypes(kind):
    dtype = np.dtype(kind)
    given_ = np.zeros(4, dtype)
    given_[1:3] = np.frombuffer(bytes(range(1, 2 * dtype.itemsize + 1)), dtype) if dtype.kind not in "bU" else given_[1:3]
    items = fastshm.Array(dtype, given_)
    assert (items.dtype, items.shape, len(items)) == (dtype, (4,), 4)
    assert items[:].tobytes() == given_.tobytes()
    assert items.numpy().tobytes() == given_.tobytes()
    assert items.numpy().dtype == np.asarray(items).dtype == dtype
    assert np.asarray(items).tobytes() == given_.tobytes()
    assert np.frombuffer(items.get_obj(), dtype).tobytes() == given_.tobytes()
    assert np.array([items[1]], dtype).tobytes() == given_[1:2].tobytes()
    items[0] = given_[2]
    items.append(given_[1])
    items.extend(given_)
    assert items[:].tobytes() == np.concatenate([given_[[2, 1, 2, 3, 1]], given_]).astype(dtype).tobytes()
    items.fill(given_[1])
    items.resize(12)
    assert items[:].tobytes() == np.concatenate([given_[[1] * 9], np.zeros(3, dtype)]).astype(dtype).tobytes()
    again = pickle.loads(pickle.dumps(items))
    assert (again.dtype, again.shape) == (dtype, (12,))
    assert again[:].tobytes() == items[:].tobytes()


def test_a_type_is_taken_for_its_dtype():
    assert fastshm.Array(np.float32, 3).dtype == np.float32
    assert fastshm.Array(np.dtype(("f4", (2,))), 3).shape == (3, 2)
    assert fastshm.Array(np.int16, (4, 5))[:].tolist() == [4, 5], "a tuple is an initializer"
    assert isinstance(fastshm.Array(np.float64, [1])[0], float)
    with pytest.raises(TypeError):
        fastshm.Array("f8", 3)


@pytest.mark.parametrize("kind", [object, [("a", "i4"), ("b", object)]], ids=str)
def test_objects_are_refused(kind):
    with pytest.raises(TypeError, match="objects, which have no meaning in other processes"):
        fastshm.Array(np.dtype(kind), 3)


def test_shapes():
    table = fastshm.Array(np.int32, np.arange(12).reshape(3, 4))
    assert (table.shape, table.ndim, len(table)) == ((3, 4), 2, 3)
    assert (table[1, 2], table[-1, -1], table[1].tolist(), table[1:, 2].tolist()) == (6, 11, [4, 5, 6, 7], [6, 10])
    assert table.fetch_add((1, 2), 10) == 6
    table[0, 3] = 33
    table[2] = 5
    table.append([1, 2, 3, 4])
    table.extend(np.ones((50, 4)))
    assert table.shape == (54, 4)
    assert table[:5].tolist() == [[0, 1, 2, 33], [4, 5, 16, 7], [5] * 4, [1, 2, 3, 4], [1] * 4]
    table[::27] = [[7] * 4, [8] * 4]
    assert table.numpy()[[0, 27]].tolist() == [[7] * 4, [8] * 4]
    table.add_from(np.full((2, 4), 3), start=-2)
    assert table[-3:].tolist() == [[1] * 4, [4] * 4, [4] * 4]
    view = table.numpy()
    view[0, 0] = 70
    assert table[0, 0] == 70
    table.resize(1)
    assert table.shape == (1, 4)
    assert np.asarray(table).tolist() == [[70, 7, 7, 7]]
    for i in ((1, 0), (0, 4), (0, -5), 1, -2):
        with pytest.raises(IndexError):
            table[i]
    for wrong in ([1, 2], [[1, 2, 3, 4, 5]]):
        with pytest.raises(ValueError, match="shape"):
            table.extend(wrong)
    assert table.shape == (1, 4)


def test_shape_at_creation():
    assert fastshm.Array(np.int32, 12, shape=(3, 4)).shape == (3, 4)
    assert fastshm.Array("d", 12, shape=(2, 2, 3)).numpy().shape == (2, 2, 3)
    assert fastshm.Array("d", range(6), shape=(3, 2))[1].tolist() == [2, 3]
    empty = fastshm.Array(np.float64, np.zeros((0, 3)), capacity=10)
    assert (empty.shape, empty.numpy().shape) == ((0, 3), (0, 3))
    empty.append([1, 2, 3])
    assert empty[:].tolist() == [[1, 2, 3]]
    for kind, n, shape in ((np.int32, 12, (5, 5)), (np.int32, 0, (3, 0)), (np.int32, -1, None), (np.str_, 3, None)):
        with pytest.raises(ValueError):  # noqa: PT011  # each says something else
            fastshm.Array(kind, n, shape=shape)
    with pytest.raises(TypeError, match="shape"):
        fastshm.Array("c", 3, shape=(3,))
    with pytest.raises(TypeError, match="lock"):
        fastshm.Array(np.int32, 3, lock=False)


def test_records_have_fields():
    items = fastshm.Array(RECORD, 2)
    items[1] = (5, [1.5, 2.5])
    assert items[1]["id"] == 5
    assert items[1]["at"].tolist() == [1.5, 2.5]
    items.numpy()["id"][0] = 9
    assert items[:]["id"].tolist() == [9, 5]
    for wrong in (lambda: items.fetch_add(0, 1), lambda: items.load(0), lambda: items.add_from(items)):
        with pytest.raises(TypeError):
            wrong()


def test_dlpack():
    table = fastshm.Array(np.float64, np.arange(6.0).reshape(2, 3))
    view = np.from_dlpack(table)
    assert view.shape == (2, 3)
    table[1, 2] = 50
    assert view[1, 2] == 50
    hedge = grow_elsewhere(fastshm.Array("q", 3))
    place = table._place[0]
    while table._place[0] == place:
        hedge.append(fastshm.Array("q", 8))
        table.extend(np.ones((100, 3)))
    crowd = crowd_in(6, 100)
    assert view[1, 2] == 50
    assert table.__dlpack_device__() == (1, 0)
    del hedge, crowd


def change_table(table, records, plain):
    assert (table.shape, table.dtype) == ((3, 4), np.int32)
    table.numpy()[0] = 7
    table.append([1, 2, 3, 4])
    records.append((3, (1, 2)))
    plain.append(1.5)
    return np.asarray(records)["id"].tolist()


def test_dtype_and_shape_travel(crew):
    table, records, plain = fastshm.Array(np.int32, 12, shape=(3, 4)), fastshm.Array(RECORD, 1), fastshm.Array("d", 1)
    crew.start(change_table, table, records, plain)
    assert crew.results() == [[0, 3]]
    assert table[0].tolist() == [7] * 4
    assert table.shape == (4, 4)
    assert (records[1]["id"], plain[:]) == (3, [0.0, 1.5])


def test_arrays_in_containers():
    held = fastshm.dict()
    held["table"] = fastshm.Array(np.int32, np.arange(6).reshape(2, 3))
    again = held["table"]
    assert (again.shape, again.dtype) == ((2, 3), np.int32)
    again.append([7, 8, 9])
    assert held["table"][-1].tolist() == [7, 8, 9]


def test_numpy_is_imported_when_it_is_asked_for():
    run_program(
        "import sys, fastshm\n"
        "a = fastshm.Array('d', [1, 2], capacity=9); a.append(3); a.get_obj(); memoryview(a); a.fill(1); a.add_from([1])\n"
        "assert 'numpy' not in sys.modules\n"
        "sys.modules['numpy'] = None\n"
        "assert not hasattr(a, '__array_interface__')\n"
        "try: a.numpy()\n"
        "except ImportError: pass\n"
        "else: raise SystemExit('without NumPy?')\n"
    )


def test_the_object_of_an_array_is_kept_and_keeps_no_handle():
    a = fastshm.Array("q", [1, 2, 3], capacity=4)
    seen = id(a.get_obj())
    assert id(a.get_obj()) == seen, "made again"
    handle = weakref.ref(a)
    kept = a.get_obj()
    del a
    assert handle() is None, "in a cycle, or kept by its object"
    assert kept[:] == [1, 2, 3]
    same = pickle.loads(ForkingPickler.dumps(kept))
    same[0] = 7
    assert kept[:] == [7, 2, 3]


def test_the_object_of_an_array_is_made_anew_when_the_array_has_grown():
    a = fastshm.Array("q", [1, 2, 3], capacity=4)
    before = a.get_obj()
    a.append(4)
    within = a.get_obj()
    assert len(before) == 3
    assert within[:] == [1, 2, 3, 4]
    a.extend(range(100))
    beyond = weakref.ref(a.get_obj())
    assert beyond() is None, "it would keep a block that the array may leave"
    a[0] = 9
    assert len(a.get_obj()) == 104
    assert (a.get_obj()[0], within[0]) == (9, 1)


PARTS = [
    np.s_[:, 1],
    np.s_[1, :],
    np.s_[0:2, 1:3],
    np.s_[-1, ::2],
    np.s_[::-1, -1],
    np.s_[1, 2],
    np.s_[-1, -4],
    np.s_[1,],
    np.s_[1:,],
    np.s_[()],
    np.s_[2:1, 1],
]


@pytest.mark.parametrize("dtype", ["f4", "i8", "complex128", [("a", "i4"), ("b", "f8")]])
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_parts_along_several_axes_are_written(dtype, part):
    array, plain = fastshm.Array(np.dtype(dtype), 12, shape=(3, 4)), np.zeros((3, 4), dtype)
    array[part] = 5
    plain[part] = 5
    assert (array.numpy() == plain).all()
    whole = np.arange(12).reshape(3, 4).astype(plain["a"].dtype if plain.dtype.names else dtype)
    new = np.zeros((3, 4), dtype)
    new[...] = whole
    array[part] = new[part]
    plain[part] = new[part]
    assert (array.numpy() == plain).all()
    assert (array[part] == plain[part]).all()


def test_parts_that_are_not_there():
    array, plain = fastshm.Array(np.float64, 12, shape=(3, 4)), np.zeros((3, 4))
    for part in ((3, slice(None)), (slice(None), 4), (1, 2, 3), (slice(None), slice(None), 1)):
        for some in (array, plain):
            with pytest.raises(IndexError):
                _ = some[part]
            with pytest.raises(IndexError):
                some[part] = 1
    with pytest.raises(ValueError, match="could not broadcast"):
        array[:, 1] = [1, 2]
    for part in (..., [0, 1], (0, None), plain > 0):
        with pytest.raises(TypeError, match=r"a\.numpy\(\)\[\.\.\.\]"):
            _ = array[part]
        with pytest.raises(TypeError, match=r"a\.numpy\(\)\[\.\.\.\]"):
            array[part] = 1
    with pytest.raises(ValueError, match=r"shape \(n, 4\), not \(4,\)"):
        array.add_from([1, 1, 1, 1])
    assert (array.numpy() == 0).all()
