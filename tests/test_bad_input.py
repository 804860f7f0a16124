"""What must not be: a clear error of the stdlib's type, nothing half-written, and everything works afterwards."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import re
import sys
from decimal import Decimal

import pytest
from crew import run_program

import fastshm

switch = {"broken": False, "during": None}


class BreaksOnLoad:
    def __reduce__(self):
        return load, ()


def load():
    if switch["broken"]:
        raise RuntimeError("this one refuses to be loaded")
    return BreaksOnLoad()


class Meddler:
    """Runs something in the middle of being pickled, hashed, compared or dropped."""

    def __init__(self, name="meddler"):
        self.name = name

    def __reduce__(self):
        if switch["during"]:
            switch["during"]()
        return Meddler, (self.name,)

    def __hash__(self):
        if switch["during"]:
            switch["during"]()
        return 5

    def __eq__(self, other):
        if switch["during"]:
            switch["during"]()
        return isinstance(other, Meddler) and self.name == other.name

    def __del__(self):
        if switch["during"]:
            switch["during"]()


@pytest.fixture(autouse=True)
def quiet():
    yield
    switch.update(broken=False, during=None)


@pytest.mark.parametrize("code", ["x", "ii", "", "é", "1"])
def test_type_codes(code):
    for make in (fastshm.Value, fastshm.RawValue, lambda c: fastshm.Array(c, 3), lambda c: fastshm.RawArray(c, 3)):
        with pytest.raises(TypeError):
            make(code)


@pytest.mark.parametrize("size", [-1, -(2**31), -(2**63)])
def test_negative_sizes(size):
    with pytest.raises((ValueError, OverflowError)):
        fastshm.Array("i", size)


@pytest.mark.parametrize("size", [2**45, 2**60, 2**61, 2**62 - 1, 2**63 - 1, 2**63, 2**70])
def test_impossible_sizes(size):
    for code in "bq":
        with pytest.raises((MemoryError, OverflowError)):
            fastshm.Array(code, size)
    assert fastshm.Array("q", 10)[:] == [0] * 10


def test_impossible_lengths():
    items = fastshm.list([1])
    for times in (2**45, 2**62, 2**70):
        with pytest.raises((MemoryError, OverflowError)):
            items *= times
    assert items[:] == [1]


def test_values_beyond_their_type():
    value = fastshm.Value("i", 5)
    with pytest.raises(TypeError):
        value.value = 2.0
    numbers = fastshm.Array("d", [1.0])
    with pytest.raises(OverflowError):
        numbers[0] = 10**400
    assert numbers[0] == 1.0
    d = fastshm.dict(a=10**400)
    with pytest.raises(OverflowError):
        d.increment("a", 0.5)
    assert d["a"] == 10**400


def test_too_deep():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    d, items = fastshm.dict(a=1), fastshm.list([1])
    for operation in (lambda: d.__setitem__("a", deep), lambda: d.update(a=deep), lambda: items.append(deep)):
        with pytest.raises(RecursionError):
            operation()
    assert (d.copy(), items[:]) == ({"a": 1}, [1])
    while deep:  # its own end would recurse too
        deep = deep.pop()


def test_update_is_all_or_nothing():
    d = fastshm.dict(a=1)

    def source():
        yield "b", 2
        raise RuntimeError("the source has dried up")

    for wrong, error in (
        (source(), RuntimeError),
        ([("b", 2), 5], TypeError),
        ([("b", 2), (1, 2, 3)], ValueError),
        ([("b", 2), ([], 3)], TypeError),
        ([("b", 2), ("c", lambda: 1)], (pickle.PicklingError, AttributeError)),
    ):
        with pytest.raises(error):
            d.update(wrong)
        assert d.copy() == {"a": 1}
    items = fastshm.list([1])
    with pytest.raises(RuntimeError, match="dried up"):
        items.extend(source())
    assert items[:] == [1]


def test_value_that_cannot_be_loaded():
    d, items = fastshm.dict(good=1, bad=BreaksOnLoad()), fastshm.list([1, BreaksOnLoad()])
    assert isinstance(d["bad"], BreaksOnLoad)
    switch["broken"] = True
    d = pickle.loads(pickle.dumps(d))
    for operation in (lambda: items[1], lambda: items[:], items.pop):
        with pytest.raises(RuntimeError, match="refuses to be loaded"):
            operation()
    assert (d["good"], "bad" in d, len(d), d.keys()) == (1, True, 2, ["good", "bad"])
    d["bad"] = items[0]
    items[-1:] = [2]
    assert d.copy() == {"good": 1, "bad": 1}
    assert items[0] == 1


def test_class_that_the_reader_does_not_have():
    text = """
import fastshm, pickle, sys
class Mine: pass
d = fastshm.dict(good=1, bad=Mine())
print(pickle.dumps(d).hex(), flush=True)
sys.stdin.read()
"""
    import subprocess
    import sys

    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as maker:
        d = pickle.loads(bytes.fromhex(maker.stdout.readline()))
        with pytest.raises(AttributeError, match="Mine"):
            d["bad"]
        assert d["good"] == 1
        d["bad"] = 2
        assert d.copy() == {"good": 1, "bad": 2}
        maker.stdin.close()
        assert maker.wait() == 0
    assert d["good"] == 1


@pytest.mark.parametrize("meddle", ["set", "clear", "grow", "lock", "drop"])
def test_python_code_in_the_middle_of_an_operation(meddle):
    """Pickling, hashing, comparing and dropping run the user's code, which may use the very same container."""
    d, items = fastshm.dict(a=1), fastshm.list([1])
    spare = [fastshm.list([1]) for _ in range(1_000)]
    calls = 0

    def during():
        nonlocal calls
        calls += 1
        if meddle == "set":
            d["b"] = 2
            items.append(2)
        elif meddle == "clear":
            d.clear()
            items[:] = []
        elif meddle == "grow" and calls < 200:  # each new item is one more to be compared
            d.update({(calls, i): i for i in range(20)})
            items.extend(range(20))
        elif meddle == "lock":
            with d.get_lock(), items.get_lock():
                assert len(d) >= 0
        elif spare:
            spare.pop()

    switch["during"] = during
    meddler = Meddler()
    for operation in (
        *(lambda: d.__setitem__(meddler, meddler), lambda: d.get(Meddler("other")), lambda: d.__contains__(meddler)),
        *(lambda: d.setdefault(Meddler("more"), meddler), lambda: d.update({meddler: 1}), lambda: d.pop(meddler, None)),
        *(
            lambda: items.append(meddler),
            lambda: items.index(meddler),
            lambda: items.remove(meddler),
            lambda: items.sort(key=str),
        ),
        *(lambda: items.extend([meddler] * 3), lambda: items.__setitem__(slice(0, 1), [meddler])),
        *(lambda: d.items(), lambda: items[:]),
    ):
        try:
            operation()
        except (KeyError, ValueError, IndexError):
            continue  # what it looked for has just been cleared
    switch["during"] = None
    assert calls > 5
    d["after"], items[:] = 1, [1]
    assert (d["after"], items[:]) == (1, [1])
    fastshm.heap.check()


@pytest.mark.parametrize(
    "make", [lambda: fastshm.Value("i"), lambda: fastshm.Array("i", 2), fastshm.Lock, fastshm.dict, fastshm.list]
)
def test_pickles_that_were_changed_on_the_way(make):
    """Handles come from trusted pickles, but a bad one must be an error and never a signal."""
    text = """
import fastshm, pickle, random, sys
random.seed(sys.argv[2])
message = bytes.fromhex(sys.argv[1])
for turn in range(300):
    changed = bytearray(message)
    for _ in range(random.choice((1, 1, 2, 8))):
        changed[random.randrange(len(message) // 3, len(message))] = random.randrange(256)
    if b"system" in changed:
        continue
    try:
        thing = pickle.loads(changed)
        repr(thing)
        len(thing) if hasattr(thing, "__len__") else None
        thing.get_lock().acquire(False)
    except Exception:
        continue
"""
    thing = make()
    for seed in "abc":
        run_program(
            text, pickle.dumps(thing).hex(), seed, check=False, env={**os.environ, "PYTHONHASHSEED": "0"}
        ).check_returncode()


def test_keys_that_are_too_much():
    deep = ()
    for _ in range(20_000):
        deep = (deep,)
    d = fastshm.dict(a=1)
    for operation in (lambda: d.__setitem__(deep, 1), lambda: d.get(deep), lambda: d.update({deep: 1})):
        with pytest.raises(RecursionError):
            operation()
    large = Decimal("1E+99999999")
    d[large] = d[large.copy_negate()] = d[Decimal("1E-99999999")] = 1
    assert (Decimal("10E+99999998") in d, Decimal("0E+99999999") in d, len(d), d["a"]) == (True, False, 4, 1)
    for _ in range(20_000):
        (deep,) = deep


def test_errors_have_the_words_of_the_stdlib():
    for operation, error, text in (
        (lambda: fastshm.Value("x"), TypeError, "this type has no size|bad typecode"),
        (lambda: fastshm.Array("i", [1])[5], IndexError, "invalid index"),
        (
            lambda: fastshm.Array("i", [1]).__setitem__(slice(0, 1), [1, 2]),
            ValueError,
            "Can only assign sequence of same size",
        ),
        (lambda: fastshm.Array("c", 2).__setattr__("value", b"long"), ValueError, "byte string too long"),
        (lambda: fastshm.dict()["k"], KeyError, "'k'"),
        (lambda: fastshm.list()[0], IndexError, "list index out of range"),
        (lambda: fastshm.dict()[[]], TypeError, "unhashable type: 'list'"),
    ):
        with pytest.raises(error, match=text):
            operation()


@pytest.mark.parametrize("make", [lambda: fastshm.Value("i"), lambda: fastshm.Array("i", 2), fastshm.dict, fastshm.list])
def test_handles_made_by_hand(make):
    """The class alone makes nothing, and what a pickle makes without the maker is an error at its first use."""
    cls = type(make())
    with pytest.raises(TypeError):
        cls()
    empty = cls.__new__(cls)
    for use in (
        *(lambda: len(empty), lambda: empty[0], lambda: empty.__setitem__(0, 1), lambda: empty.value, lambda: empty.add(1)),
        *(lambda: empty.get_lock().acquire(False), lambda: empty.get_lock().release(), lambda: pickle.dumps(empty)),
        *(lambda: empty.append(1), lambda: empty.pop(), lambda: empty.keys(), lambda: empty.update(a=1), lambda: list(empty)),
        *(lambda: 0 in empty, lambda: empty.get_lock().abandoned, lambda: empty.acquire(), lambda: memoryview(empty)[0]),
    ):
        with contextlib.suppress(Exception):  # which one does not matter, a signal would
            use()


def test_no_subclass_or_attribute_surprises():
    for thing in (fastshm.Value("i"), fastshm.Array("i", 2), fastshm.dict(), fastshm.list(), fastshm.Lock()):
        with pytest.raises(AttributeError):
            thing.no_such_method()
        assert not hasattr(thing, "no_such_attribute")


@contextlib.contextmanager
def held_by_the_collector(*containers):
    """The owners that the containers' locks had whenever the collector ran, which is whenever it can."""
    held = []
    with open(f"/dev/shm/{containers[0]._address[0]}", "rb") as file:

        def look(phase, info):
            for container in containers:
                file.seek(container._address[1] + 24)
                held.append(int.from_bytes(file.read(4), sys.byteorder) & 0x3FFFFFFF)

        threshold = gc.get_threshold()
        gc.callbacks.append(look)
        gc.set_threshold(1)
        try:
            yield held
        finally:
            gc.set_threshold(*threshold)
            gc.callbacks.remove(look)


@pytest.mark.parametrize(
    "value", ["text", "a long text" * 9, "\ud800", "a long one \ud800" * 9, "ümläut" * 9, b"bytes" * 9, 1.5]
)
def test_the_collector_never_runs_while_a_container_is_locked(value):
    d, items = fastshm.dict(), fastshm.list()
    popped = []
    with held_by_the_collector(d, items) as held:
        for _ in range(20):
            d["k"] = value
            items.append(value)
            popped += [d.pop("k"), items.pop()]
        gc.collect()
    assert popped == [value] * 40
    assert held
    assert not any(held)
    assert gc.isenabled()


@pytest.mark.parametrize("value", ["an ASCII text that is to be damaged", "ein Text mit Ümläuten, auch er wird beschädigt"])
def test_nor_when_a_damaged_text_is_taken_out(value):
    d, items = fastshm.dict(k=value), fastshm.list([value])
    with open(f"/dev/shm/{d._address[0]}", "r+b") as file:
        file.seek(64)
        committed = int.from_bytes(file.read(8), "little")
        file.seek(0)
        places = [match.start() for match in re.finditer(re.escape(value.encode()), file.read(committed))]

        def write(byte):
            for at in places:
                file.seek(at)
                file.write(byte)
                file.flush()

        write(b"\xff")
        try:
            with held_by_the_collector(d, items) as held:
                with pytest.raises(fastshm.heap.CorruptedError):
                    d.pop("k")
                with pytest.raises(fastshm.heap.CorruptedError):
                    items.pop()
                gc.collect()
        finally:
            write(value.encode()[:1])
    assert len(places) >= 2
    assert held
    assert not any(held)
    assert (d.pop("k"), items.pop()) == (value, value)


@pytest.mark.parametrize("make", [fastshm.BoundedSemaphore, lambda: fastshm.Condition()._waiters, lambda: fastshm.Barrier(2)])
def test_what_is_waited_for_has_a_block_that_is_large_enough(make):
    thing = make()
    bytes_of_it = pickle.dumps(thing)
    with open(f"/dev/shm/{thing._address[0]}", "r+b") as file:

        def write(grains):
            file.seek(thing._address[1])
            before = int.from_bytes(file.read(4), sys.byteorder)
            file.seek(thing._address[1])
            file.write(grains.to_bytes(4, sys.byteorder))
            file.flush()
            return before

        grains = write(1)
        try:
            with pytest.raises(fastshm.heap.CorruptedError):
                pickle.loads(bytes_of_it)
        finally:
            write(grains)
    assert fastshm.heap.check()


@pytest.mark.parametrize("thing", ["the gate itself", "another"])
def test_a_gate_that_seems_to_have_a_gate(thing):
    manager = fastshm.Manager()
    d, other = manager.dict(a=1), fastshm.Manager()
    gate = manager._gate._address[1]
    to = gate if thing == "the gate itself" else other._gate._address[1]
    pickled = pickle.dumps(d)
    with open(f"/dev/shm/{d._address[0]}", "r+b") as file:
        file.seek(d._address[1])
        at = file.read(64).index(gate.to_bytes(8, sys.byteorder))
        file.seek(gate + at)
        file.write(to.to_bytes(8, sys.byteorder))
        file.flush()
        with pytest.raises(fastshm.CorruptedError):
            pickle.loads(pickled)
        file.seek(gate + at)
        file.write(bytes(8))
    assert copy.copy(d)["a"] == 1


class NoKey:
    """Has a hash; what its pickle makes has none."""

    def __reduce__(self):
        return list, ()

    def __hash__(self):
        return 1


def test_a_key_whose_pickle_is_none():
    d, items = fastshm.dict(), fastshm.set()
    for key in (NoKey(), (1, NoKey()), frozenset([NoKey()])):
        for put in (lambda key=key: d.__setitem__(key, 1), lambda key=key: d.update({key: 1}), lambda key=key: items.add(key)):
            with pytest.raises(TypeError, match="unhashable"):
                put()
    d["a"] = 1
    assert (d.copy(), items.copy()) == ({"a": 1}, set())


def test_none_where_an_object_is_wanted():
    array, d = fastshm.Array("i", 3), fastshm.dict()
    for call in (
        lambda: array._get_slice(None),
        lambda: array._read_slice(None),
        lambda: array._write_slice(None, None),
        lambda: array._set_other(None, None),
        lambda: array._get_other(None),
        lambda: type(d)._make(None),
        lambda: type(array)._make(None, "i", 1),
        lambda: type(array)._make(type(array), None, 1),
        lambda: d.add_from(None),
        lambda: d._exchange_keys(None),
        lambda: d._exchange_keys(lambda _: ([], None)),
        lambda: d._heap.set_root(None),
        lambda: d._heap.root(None),
    ):
        with pytest.raises(TypeError):
            call()
