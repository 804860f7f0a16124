"""Values with bytes of their own: stored once, read as copies, or seen where they lie for as long as somebody looks."""

from __future__ import annotations

import array
import gc
import os
import pickle
import signal
import sys
import time

import pytest
from crew import Crew, run_program
from test_full_memory import in_small  # noqa: F401  (a fixture)

import fastshm

LARGE = 64 << 10
SIZES = [0, 1, 8, 9, 100, LARGE - 1, LARGE, LARGE + 1, 3_000_000]


@pytest.fixture
def used():
    """Bytes in use, when everything that has died is reaped."""

    def count() -> int:
        gc.collect()
        return fastshm.heap.check()["bytes_used"]

    return count


@pytest.fixture
def nothing_more(used):
    """What is in use afterwards is what was before."""
    before = used()
    yield
    assert used() == before


class Two:
    """An object with two buffers, one of which may be written, and whatever else."""

    def __init__(self, first: object, second: object, more: object = None) -> None:
        self.first, self.second, self.more = first, second, more

    def __reduce_ex__(self, protocol: int) -> tuple[object, ...]:
        return Two, (pickle.PickleBuffer(self.first), pickle.PickleBuffer(self.second), self.more)


def places(value):
    """The value in every kind of place: how it is read there, and how it is seen."""
    d, items = fastshm.dict(k=value), fastshm.list([1, value])
    items.append(value)
    d.update({7: value, "x" * 50: value})
    d.setdefault("set", value)
    e = fastshm.dict()
    e[1.5, "a"] = value
    for key in ("k", 7, "x" * 50, "set"):
        yield (lambda key=key: d[key]), (lambda key=key: d.view(key))
        yield (lambda key=key: d.copy()[key]), (lambda key=key: d.view(key))
    yield (lambda: e[1.5, "a"]), (lambda: e.view((1.5, "a")))
    yield (lambda: d.get_many(["k"])[0]), (lambda: items.view(-1))
    yield (lambda: items[1]), (lambda: items.view(1))
    yield (lambda: items[:][2]), (lambda: items.view(2))


# --- bytes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes(kind, size, nothing_more):
    value = kind(os.urandom(size))
    for read, look in places(value):
        copy, again, view = read(), read(), look()
        assert (copy, type(copy)) == (value, kind)
        assert (view == value, type(view), view.readonly, view.format, view.nbytes) == (True, memoryview, True, "B", size)
        with pytest.raises(TypeError):
            view[:1] = b"x"
        if kind is bytearray:
            copy.append(1)
            assert again == value
        del view


@pytest.mark.parametrize("size", [9, LARGE - 1, LARGE, 1_000_000])
def test_taken_out(size, nothing_more):
    for value in (b"x" * size, bytearray(size), "x" * size, "é" * size, ["x" * size]):
        d, items = fastshm.dict(a=value, b=value), fastshm.list([value, value])
        out = [d.pop("a"), d.popitem()[1], items.pop(), items.pop(0)]
        assert out == [value] * 4
        assert {type(got) for got in out} == {type(value)}
        assert (len(d), len(items)) == (0, 0)


@pytest.mark.parametrize("value", [1, True, None, 2.5, "text", "x" * LARGE, "é" * 50, [1], {"a": b"x"}, fastshm.dict])
def test_what_has_no_view(value, nothing_more):
    value = value() if callable(value) else value
    d, items = fastshm.dict(k=value), fastshm.list([value])
    for look in (lambda: d.view("k"), lambda: items.view(0)):
        with pytest.raises(TypeError, match=r"has no view: .* read with \[\]"):
            look()
    with pytest.raises(KeyError, match="missing"):
        d.view("missing")
    with pytest.raises(IndexError):
        items.view(1)
    with pytest.raises(TypeError):
        d.view([])
    with pytest.raises(TypeError):
        items.view("a")


class Odd:
    """A key that only `==` can find."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and other.n == self.n

    def __hash__(self) -> int:
        return self.n


def test_keys_that_only_python_compares():
    d = fastshm.dict({Odd(1): b"one" * 10, Odd(2): b"two" * 10})
    assert (bytes(d.view(Odd(2))), bytes(d.view(Odd(1)))) == (b"two" * 10, b"one" * 10)
    with pytest.raises(KeyError):
        d.view(Odd(3))


# --- objects with buffers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_objects_with_buffers(size, nothing_more):
    first, second = bytearray(os.urandom(size)), os.urandom(2 * size)
    inner = fastshm.list([1])
    for more in (None, inner):
        for read, look in places(Two(first, second, more)):
            copy, view = read(), look()
            assert (copy.first, copy.second) == (first, second)
            assert (type(copy.first), type(copy.second)) == (bytearray, bytes), "as a pickle would make them"
            assert (view.first == first, view.second == second) == (True, True)
            assert view.first.readonly
            assert view.second.readonly
            if more is not None:
                copy.more.append(2)
                assert view.more.pop() == 2
            del copy, view
    del read, look


def test_a_buffer_of_its_own(nothing_more):
    d = fastshm.dict(b=pickle.PickleBuffer(b"abc" * 9), items=pickle.PickleBuffer(array.array("i", range(5))))
    assert (d["b"], type(d["b"]), type(d.view("b"))) == (b"abc" * 9, bytes, memoryview)
    assert d["items"] == array.array("i", range(5)).tobytes()
    with pytest.raises(pickle.PicklingError, match="non-contiguous"):
        d["c"] = pickle.PickleBuffer(memoryview(b"abcdef")[::2])
    assert "c" not in d


def test_bytes_in_plain_values(used, nothing_more):
    before = used()
    big, small, inner = os.urandom(LARGE), b"small", [1, 2]
    for value in (
        {"data": big, "n": 1},
        [big, small, big],
        (1, (big, {"x": big}), "text"),
        [inner, inner, big, (inner,)],
        {1: [[[[[big]]]]], "set": {small, 5}},
    ):
        for read, _ in places(value):
            copy, again = read(), read()
            assert copy == value
            assert repr(copy) == repr(value)
            assert copy is not again
    d = fastshm.dict(k=[inner, inner, big, (inner,)], twice=[big] * 10, frozen=frozenset([big]))
    copy = d["k"]
    assert copy[0] is copy[1] is copy[3][0]
    copy[0].append(3)
    assert d["k"][0] == [1, 2]
    view = d.view("twice")
    assert view == [big] * 10
    assert all(type(part) is memoryview and part.readonly for part in view)
    assert used() - before < 8 * LARGE, "what is in it twice is stored once"
    assert d["frozen"] == frozenset([big])
    with pytest.raises(TypeError, match="without buffers"):
        d.view("frozen")


def test_each_byte_is_copied_once():
    """No private memory as large as the value is needed for it, in either direction."""
    run_program("""
import pickle, resource
import fastshm

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) << 10

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) << 10

size = 64 << 20
d, items = fastshm.dict(), fastshm.list()
source = bytearray(size)
limit = anonymous() + size // 8
import threading, time
most, done = 0, False
def watch():
    global most
    while not done:
        most = max(most, anonymous())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
d["bytearray"] = source
d["buffer"] = pickle.PickleBuffer(source)
items.append([pickle.PickleBuffer(source), 1])
views = d.view("bytearray"), d.view("buffer"), items.view(0)[0]
assert all(sum(view[::1 << 20]) == 0 for view in views)
done = True
watcher.join()
assert most < limit, (most, limit)
""")


# --- ndarrays -----------------------------------------------------------------------------------------------------------------


def arrays():
    numpy = pytest.importorskip("numpy")
    some = numpy.random.default_rng(1).random((60, 300))
    yield from (
        some,
        numpy.asfortranarray(some),
        some[::2, 5::3],
        some[:, ::-1],
        some.T,
        some[0],
        numpy.array(7),
        some.astype(">f4"),
    )
    yield from (numpy.zeros(0), numpy.zeros((3, 0, 2), "F"), numpy.array([True, False]), numpy.array([1 + 2j], "c8"))
    yield from (numpy.array(["a", "äöü"]), numpy.array([b"ab"]), numpy.array(["2020-02-29", "NaT"], "M8[25s]"))
    yield from (numpy.array([5], "m8[ns]"), numpy.arange(4, dtype=numpy.longdouble), numpy.frombuffer(b"abcdef", "V3"))
    yield from (numpy.zeros(20_000, [("a", "i4"), ("b", "f8", 3)]), numpy.zeros(2, [("a", "i4")]))


def same(a, b) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_ndarrays(nothing_more):
    numpy = pytest.importorskip("numpy")
    for value in arrays():
        for read, look in places(value):
            copy, again, view = read(), read(), look()
            assert type(copy) is type(view) is type(value)
            assert same(copy, value), value.dtype
            assert same(view, value), value.dtype
            assert copy.flags.writeable
            assert not view.flags.writeable
            assert view.flags.aligned
            assert not view.flags.owndata
            if value.flags.f_contiguous:
                assert view.flags.f_contiguous
                assert copy.flags.f_contiguous
            if copy.size:
                copy[...] = numpy.zeros((), copy.dtype)
            assert same(again, value), "two reads share nothing"
            with pytest.raises(ValueError, match=r"read-only|writeable|WRITEABLE"):
                view.setflags(write=True)
            del view, copy, again
        del read, look


def test_ndarrays_without_buffers(nothing_more):
    numpy = pytest.importorskip("numpy")
    d = fastshm.dict(k=numpy.array([1, "x", None], object))
    assert d["k"].tolist() == [1, "x", None]
    with pytest.raises(TypeError, match="pickled without buffers"):
        d.view("k")


def test_subclasses_stay_what_they_are(nothing_more):
    numpy = pytest.importorskip("numpy")
    d = fastshm.dict(masked=numpy.ma.masked_array([1, 2], [0, 1]), record=numpy.rec.array([(1, 2.0)], "i4, f8"))
    assert type(d["masked"]) is numpy.ma.MaskedArray
    assert type(d["record"]) is numpy.recarray
    assert d["masked"].mask.tolist() == [False, True]


def test_arrays_in_objects(nothing_more):
    numpy = pytest.importorskip("numpy")
    value = {"a": numpy.arange(100_000), "b": [numpy.ones((2, 3), order="F"), "text"]}
    d = fastshm.dict(k=value)
    view, copy = d.view("k"), d["k"]
    assert (view["a"] == value["a"]).all()
    assert not view["a"].flags.writeable
    assert view["b"][0].flags.f_contiguous
    assert copy["a"].flags.writeable
    del d["k"]
    assert view["a"][-1] == 99_999


# --- how long they last -------------------------------------------------------------------------------------------------------


CHANGES = {
    "overwritten": lambda d, items: (d.__setitem__("k", b"y" * LARGE), items.__setitem__(0, b"y" * LARGE)),
    "overwritten by a word": lambda d, items: (d.__setitem__("k", 1), items.__setitem__(0, 1)),
    "deleted": lambda d, items: (d.__delitem__("k"), items.__delitem__(0)),
    "taken out": lambda d, items: (d.pop("k"), items.pop(0)),
    "cleared": lambda d, items: (d.clear(), items.clear()),
    "updated": lambda d, items: (d.update(k=2, l=3), items.__setitem__(slice(0, 1), [5, 6])),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("size", [100, LARGE, 1_000_000])
def test_it_stays(change, size, used):
    d, items = fastshm.dict(), fastshm.list()
    before = used()
    d["k"], d["other"] = b"x" * size, 1
    items.extend([bytearray(b"z" * size), 1])
    views = d.view("k"), items.view(0)
    change(d, items)
    for n in range(20):  # what is free is used again
        d[n] = os.urandom(size)
    assert (bytes(views[0]), bytes(views[1])) == (b"x" * size, b"z" * size)
    census = fastshm.heap.check()
    assert census["bytes_used"] - before > 2 * size
    part = memoryview(views[0])[size // 2 :]
    del views
    assert bytes(part) == b"x" * (size - size // 2), "a view of a view holds it, too"
    d.clear()
    items.clear()
    del part
    assert used() == before


def test_it_stays_when_the_container_goes(used):
    before = used()
    d = fastshm.dict(k=b"x" * LARGE, two=Two(b"a" * LARGE, b"b", fastshm.list([5])))
    view, two = d.view("k"), d.view("two")
    del d
    assert used() - before > 2 * LARGE
    assert view == b"x" * LARGE
    assert (two.first == b"a" * LARGE, two.more[0]) == (True, 5)
    del view, two
    assert used() == before


def look_and_tell(d, how):
    """A reader: tells what it sees, waits for the overwriting, and tells again."""
    view = d.view("k")
    d["seen"] = True
    d.wait_for("overwritten", timeout=30)
    assert view == b"x" * 200_000
    if how == "killed":
        d["looked"] = True
        time.sleep(60)
    if how == "os._exit":
        d["looked"] = True
        os._exit(0)
    return view.nbytes


@pytest.mark.parametrize("how", ["returns", "killed", "os._exit"])
def test_readers_of_other_processes(how, method, used):
    d = fastshm.dict()
    d["seen"] = d["overwritten"] = d["looked"] = d["k"] = None
    before = used()
    d["k"] = b"x" * 200_000
    del d["seen"], d["overwritten"], d["looked"]
    with Crew(method) as crew:
        worker = crew.run(look_and_tell, d, how)
        d.wait_for("seen", timeout=30)
        d["k"] = None
        assert used() - before > 200_000, "it is the reader's"
        d["overwritten"] = True
        if how == "returns":
            assert crew.result(worker) == 200_000
        else:
            d.wait_for("looked", timeout=30)
            if how == "killed":
                crew.kill(worker)
                assert worker.process.exitcode == -signal.SIGKILL
            worker.process.join()
            worker.killed = True
    d["looked"] = None
    assert used() == before, "what the dead have held is given back"


def write_for_ever(d, items):
    n = 0
    while True:
        n += 1
        value = bytes([n % 256]) * 1_000_000
        d["k"] = [pickle.PickleBuffer(value), d] if n % 2 else value
        items[0] = bytearray(value)
        views = d.view("k"), items.view(0)
        assert views[1][0] == n % 256
        d["n"] = n


def test_writers_that_are_killed(used):
    """In the middle of making a value ahead, or of storing it, or while they look."""
    d, items = fastshm.dict(k=None, n=0), fastshm.list([0])
    before = used()
    for turn in range(12):
        with Crew("fork") as crew:
            worker = crew.run(write_for_ever, d, items)
            seen = d["n"]
            while d["n"] == seen:
                pass
            time.sleep(turn % 4 * 0.0007)
            crew.kill(worker)
        value = d["k"][0] if isinstance(d["k"], list) else d["k"]
        assert set(value[:1]) == set(value)
        assert len(value) == 1_000_000
        assert len(set(items[0])) == 1
        fastshm.heap.check()
    d.update(k=None, n=0)
    items[0] = 0
    assert used() == before


def test_a_fork_of_a_reader(used):
    """The child's view is its own: it outlasts its parent's, and the parent's outlasts it."""
    d = fastshm.dict()
    before = used()
    for parent_first in (True, False):
        d["k"] = b"x" * 200_000
        view = d.view("k")
        gates = [os.pipe() for _ in range(2)]
        pid = os.fork()
        if not pid:
            code = 1
            try:
                os.close(gates[0][1])
                os.read(gates[0][0], 1)  # until the parent has let go
                code = 0 if view == b"x" * 200_000 and memoryview(view)[5] == ord("x") else 2
            finally:
                os._exit(code)
        del d["k"]
        if parent_first:
            view.release()
            del view
            for n in range(5):
                d[n] = os.urandom(200_000)
            assert used() - before > 6 * 200_000
        os.close(gates[0][1])
        assert os.waitpid(pid, 0)[1] == 0
        if not parent_first:
            assert view == b"x" * 200_000
            del view
        for fd in (gates[0][0], *gates[1]):
            os.close(fd)
        d.clear()
        assert used() == before


def test_views_of_a_stranger():
    """The last thing that this process holds in somebody else's segment may be a view."""
    run_program("""
import gc, pickle, subprocess, sys
import fastshm
MAKER = "import fastshm, pickle, sys; d = fastshm.dict(k=b'x' * 200_000)"
MAKER += "; print(pickle.dumps(d).hex(), flush=True); sys.stdin.read()"
maker = subprocess.Popen([sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
mine = fastshm.dict()
theirs = pickle.loads(bytes.fromhex(maker.stdout.readline()))
assert theirs._heap is not mine._heap
view = theirs.view("k")
name = theirs._heap.name
del theirs
gc.collect()
assert name in fastshm.heap._heaps
maker.communicate()
assert maker.returncode == 0
assert view == b"x" * 200_000
del view
gc.collect()
assert name not in fastshm.heap._heaps, "it is left with the last view"
""")


def test_when_memory_is_full(in_small):  # noqa: F811
    in_small(
        "4m",
        """
import pickle
d, items = fastshm.dict(), fastshm.list()
d["k"] = b"k" * 300_000
view = d.view("k")
used = fastshm.heap.check()["bytes_used"]
kept = []
n = fill(lambda i: items.append(bytes([i]) * 200_000))
assert n >= 10, n
for change in (lambda: d.__setitem__("k", b"l" * 300_000), lambda: d.__setitem__("new", bytearray(300_000)),
               lambda: d.update(k=pickle.PickleBuffer(bytes(300_000)), more=1), lambda: items.append(bytes(300_000)),
               lambda: d.setdefault("set", [pickle.PickleBuffer(bytes(300_000))])):
    try:
        change()
    except MemoryError as error:
        is_remedy(error)
    else:
        raise AssertionError("there was room")
assert d["k"] == b"k" * 300_000 and list(d) == ["k"] and len(items) == n
assert [items.view(i)[0] for i in range(n)] == list(range(n))
fastshm.heap.check()
items.clear()
d["k"] = b"l" * 300_000
assert view == b"k" * 300_000 and d["k"] == b"l" * 300_000
""",
    )


# --- damage -------------------------------------------------------------------------------------------------------------------


def test_damaged_heads():
    """Whatever the head of an array or of buffers says: an error, no stray access."""
    pytest.importorskip("numpy")
    run_program("""
import mmap, os, random, pickle, struct
import numpy
import fastshm
d = fastshm.dict()
name = d._address[0]
chance = random.Random(1)
counts = {}
for what, value in (("array", numpy.arange(37.0).reshape(37, 1)), ("buffers", [pickle.PickleBuffer(b"b" * 333), 5])):
    d["k"] = value
    with open(f"/dev/shm/{name}", "r+b") as file, mmap.mmap(file.fileno(), 1 << 16) as memory:
        mark = b"b" * 333 if what == "buffers" else numpy.arange(37.0).tobytes()
        at = memory.find(mark)
        begin = at // 64 * 64 - 64 if what == "array" else at - 128
        head = bytes(memory[begin + 16 : at])
        for n in range(4_000):
            where = begin + 16 + chance.randrange(len(head))
            old = memory[where]
            memory[where] = chance.choice([0, 255, old ^ 1 << chance.randrange(8), chance.randrange(256)])
            for read in (lambda: d["k"], lambda: d.view("k")):
                try:
                    read()
                    came = "answers"
                except fastshm.CorruptedError:
                    came = "CorruptedError"
                except Exception as error:
                    assert what == "buffers", repr(error)  # bytes that were a pickle are pickle's business
                    came = "of pickle"
                counts[what, came] = counts.get((what, came), 0) + 1
            memory[where] = old
    assert len(pickle.dumps(d["k"])) > 0
assert counts["array", "CorruptedError"] > 500 and counts["buffers", "CorruptedError"] > 500, counts
""")


# --- decoded values that are kept ---------------------------------------------------------------------------------------------

LOADS = []


class Counted:
    """Says when it is unpickled."""

    def __reduce__(self):
        return counted, ()


def counted():
    LOADS.append(1)
    return 5


@pytest.fixture
def decode_cache():
    yield fastshm.heap.set_decode_cache
    fastshm.heap.set_decode_cache()


def holders():
    d, items = fastshm.dict(), fastshm.list([0] * 10)
    return [(d, list("abcdefghij")), (items, list(range(10)))]


def loads_of(read, times=3) -> int:
    LOADS.clear()
    for _ in range(times):
        assert read() == 5
    return len(LOADS)


def test_an_unchanged_value_is_decoded_once():
    for holder, keys in holders():
        for key in keys:
            holder[key] = Counted()
        for key in keys:
            assert loads_of(lambda holder=holder, key=key: holder[key]) == 1
        holder[keys[0]] = Counted()
        assert loads_of(lambda holder=holder, key=keys[0]: holder[key]) == 1, "a changed one once more"


def test_switched_off(decode_cache):
    assert fastshm.heap.get_decode_cache() == (128, 4096)
    for holder, keys in holders():
        key = keys[0]
        holder[key] = Counted()
        assert loads_of(lambda holder=holder, key=key: holder[key]) == 1
        decode_cache(0)
        assert fastshm.heap.get_decode_cache() == (0, 4096)
        assert loads_of(lambda holder=holder, key=key: holder[key]) == 3, "what was kept is forgotten"
        decode_cache()
        assert loads_of(lambda holder=holder, key=key: holder[key]) == 1


def test_bounds(decode_cache):
    for holder, keys in holders():
        for key in keys:
            holder[key] = Counted()
        size = len(pickle.dumps(Counted(), 5))
        decode_cache(4)
        for key in keys:
            assert holder[key] == 5
        LOADS.clear()
        for key in keys:
            assert holder[key] == 5
        assert len(LOADS) >= len(keys) - 4, "no more than four are kept"
        decode_cache(100, size - 1)
        assert loads_of(lambda holder=holder, keys=keys: holder[keys[0]]) == 3, "it is too large"
        decode_cache(100, size)
        assert loads_of(lambda holder=holder, keys=keys: holder[keys[0]]) == 1
    for wrong in ((-1,), (1, -1), (1 << 31,)):
        with pytest.raises(ValueError, match="0 to"):
            decode_cache(*wrong)
    with pytest.raises(TypeError):
        decode_cache("many")


def cached_there():
    return fastshm.heap.get_decode_cache()


def test_children_inherit_it(method, decode_cache):
    decode_cache(7, 99)
    with Crew(method) as crew:
        assert crew.result(crew.run(cached_there)) == (7, 99)


def test_no_two_reads_share_what_can_be_changed():
    for value in ({"a": 1}, [1, "x"], {1, 2}, {"a": [1]}, [[1]], ([1],), ({1: 2}, "x"), {"a": (1, frozenset([2]))}):
        for holder, keys in holders():
            holder[keys[0]] = value
            first, second, third = (holder[keys[0]] for _ in range(3))
            assert first == second == third == value
            for one in (first, second):
                inner = one if isinstance(one, (dict, list, set)) else one[0]
                inner.clear()
                if isinstance(one, dict):
                    one["new"] = 1
            assert third == holder[keys[0]] == value
            nested = next((part for part in (third.values() if isinstance(third, dict) else third)), None)
            if isinstance(nested, (list, dict)):
                nested.clear()
                assert holder[keys[0]] == value


def test_never_stale():
    """After each kind of change, also one that puts other bytes where the old ones were."""
    for holder, keys in holders():
        key = keys[0]
        for n in range(2_000):
            holder[key] = [n, "x" * (n % 3)]
            assert holder[key] == [n, "x" * (n % 3)]
            if n % 5 == 0 and not isinstance(holder, fastshm._list.List):
                del holder[key]
                holder[keys[n % 7 + 1]] = (n, n)
                assert holder[keys[n % 7 + 1]] == (n, n)
    items = fastshm.list()
    for n in range(1_000):
        items.append([n])
        items.insert(0, [n, n])
        assert (items[0], items[len(items) - 1]) == ([n, n], [n])
        if n % 3 == 0:
            items.pop(0)
            items.reverse()
            assert items[0] == [n]


def write_numbers(d, items, n):
    for i in range(1, n):
        d["k"] = (i, "a")
        items[0] = (i, "a")
    return True


def test_never_stale_in_another_process(method):
    d, items = fastshm.dict(k=(0, "a")), fastshm.list([(0, "a"), 1])
    with Crew(method) as crew:
        worker = crew.run(write_numbers, d, items, 3_000)
        last = [0, 0]
        while last[1] < 2_999:
            for i, read in enumerate((lambda: items[0], lambda: d["k"])):
                number = read()[0]
                assert number >= last[i], "an older value after a newer one"
                last[i] = number
            assert last[1] >= last[0], "the dict is written first and read last"
        assert crew.result(worker)


if sys.version_info >= (3, 12):

    def test_hashes_are_those_of_bytes():
        d = fastshm.dict(k=b"x" * 100)
        assert hash(d.view("k")) == hash(d["k"])
