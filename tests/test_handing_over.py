"""Every shared object, by every way of handing it over, under every start method; and dropped on the way."""

from __future__ import annotations

import copyreg
import ctypes
import functools
import gc
import io
import multiprocessing
import pickle
import signal
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import ways
from crew import Crew
from ways import FREE, HELD, THINGS, make, use, use_one

import fastshm

TABLE = Path(__file__).parent.parent / "docs" / "handing-over.md"


def check(things, subtests):
    for name, thing in things.items():
        with subtests.test(name=name):
            assert THINGS[name].seen(thing)


def use_and_check(things, subtests):
    """What another process has made: here it is used, and here it must show."""
    for name, thing in things.items():
        with subtests.test(name=name):
            THINGS[name].use(thing)
            assert THINGS[name].seen(thing)


@pytest.mark.parametrize(("way", "method"), [(way, method) for way in ways.WAYS for method in ways.methods_of(way)])
def test_every_object_by_every_way(way, method):
    """Those that the table of docs/handing-over.md names, all at once."""
    if way in ways.NEEDS:
        pytest.importorskip(ways.NEEDS[way])
    assert ways.unseen(way, method, list(THINGS)) == []


def test_table_is_the_one_that_is_tested():
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in TABLE.read_text().splitlines() if line[:1] == "|"
    ]
    assert rows[0] == ["object", *ways.WAYS]
    assert [row[0] for row in rows[2:]] == list(THINGS)
    assert {cell for row in rows[2:] for cell in row[1:]} == {"yes"}


def make_and_end():
    return make(FREE)


def test_result_of_a_process_that_has_ended(crew, subtests):
    things = crew.result(crew.run(make_and_end))
    gc.collect()
    use_and_check(things, subtests)


def use_nested(d, items):
    use(d.copy())
    use(dict(zip(THINGS, items, strict=True)))
    d["also here"] = fastshm.list([items])


def test_nested_in_containers(crew, subtests):
    """Locks stay as they were made: a handle read from a container is one more name of the same lock."""
    d, items = fastshm.dict(), fastshm.list()
    inside, listed = make(), make()
    d.update(inside)
    items.extend(listed.values())
    crew.run(use_nested, d, items)
    crew.results()
    check(inside, subtests)
    check(listed, subtests)
    check({name: d[name] for name in THINGS}, subtests)
    assert len(d["also here"][0]) == len(THINGS)


def test_nested_only_in_containers(crew, subtests):
    """The container is all that keeps them."""
    d, items = fastshm.dict(make(FREE)), fastshm.list(make(FREE).values())
    gc.collect()
    crew.run(use, {"dict": fastshm.dict(old=1)})
    crew.run(use_listed, d, items, FREE)
    crew.results()
    check({name: d[name] for name in FREE}, subtests)
    check(dict(zip(FREE, items, strict=True)), subtests)


def use_listed(d, items, names):
    use(d.copy())
    use(dict(zip(names, items, strict=True)))


def unpickle_and_use(data):
    things = pickle.loads(data)
    use(things)
    return all(THINGS[name].seen(thing) for name, thing in things.items())


def test_dropped_by_the_sender_before_it_is_unpickled(crew):
    """The message in flight is all that is left of them."""
    messages = [pickle.dumps(make(FREE)) for _ in range(2)]
    gc.collect()
    with crew.context.Pool(1) as pool:
        waiting = [pool.apply_async(use_one, (name, THINGS[name].make())) for name in FREE]
        gc.collect()
        assert [answer.get(60) for answer in waiting] == FREE
        assert [pool.apply(unpickle_and_use, (message,)) for message in messages] == [True, True]
    del messages


def test_message_that_is_never_received():
    """It costs memory, not order: everything else goes on, and the end of the process frees it."""
    for _ in range(50):
        pickle.dumps(make())
    gc.collect()
    fastshm.heap.check()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol(protocol, subtests):
    things = make()
    again = pickle.loads(pickle.dumps(things, protocol))
    for name, thing in again.items():
        with subtests.test(name=name):
            assert type(thing) is type(things[name])
            if name not in HELD:
                THINGS[name].use(thing)
                assert THINGS[name].seen(things[name])


def test_other_picklers(subtests):
    """A pickler with its own table of reducers, as those of joblib and cloudpickle."""

    class OtherPickler(pickle.Pickler):
        dispatch_table = copyreg.dispatch_table.copy()

    for name in THINGS:
        with subtests.test(name=name):
            buffer = io.BytesIO()
            OtherPickler(buffer).dump(thing := THINGS[name].make())
            again = pickle.loads(buffer.getvalue())
            if name not in HELD:
                THINGS[name].use(again)
                assert THINGS[name].seen(thing)


@pytest.mark.parametrize("code", "iu")
def test_ctypes_objects_of_types_that_the_stdlib_has_shared_too(code):
    """Its pickler asks a table by type: the entry has to know all of them, whoever made it."""
    theirs = multiprocessing.RawArray(code, 2), multiprocessing.RawValue(code)
    ours = fastshm.RawArray(code, 2), fastshm.RawValue(code)
    parts = fastshm.Array(code, 2).get_obj(), fastshm.Value(code).get_obj()
    for thing in (*ours, *parts):
        again = ForkingPickler.loads(ForkingPickler.dumps(thing))
        assert type(again) is type(thing)
        if isinstance(thing, ctypes.Array):
            thing[1] = "x" if code == "u" else 7
            assert again[:] == thing[:]
    for thing in theirs:
        with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
            ForkingPickler.dumps(thing)


def relay(things, depth):
    """Hand on by the same start method, as many times; the innermost uses them."""
    if not depth:
        use(things)
        return
    with Crew("fork") as crew:
        crew.run(relay, things, depth - 1)
        crew.results()


def test_handed_on_by_generations(crew, subtests):
    things = make()
    crew.run(relay, things, 3)
    crew.results()
    check(things, subtests)


def test_thousand_handles_of_one_object():
    value = fastshm.Value("i")
    handles = [pickle.loads(pickle.dumps(value)) for _ in range(1_000)]
    for handle in handles:
        handle.add(1)
    assert value.value == 1_000
    del value
    assert handles[0].value == 1_000
    last = handles.pop()
    handles.clear()
    assert last.fetch_add(1) == 1_000


class Interrupted:
    """A signal's handler comes while it is pickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Interrupted) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return Interrupted, (self.name,)


class Handler:
    """Of a signal: pickles an object."""

    def __init__(self, thing: Any) -> None:
        self.thing, self.pickled = thing, list[bytes]()

    def __call__(self, *_: Any) -> None:
        self.pickled.append(pickle.dumps(self.thing))
        self.kept = fastshm.dict(inside=[self.thing]) if self.thing._address[0] == fastshm.heap.default().name else None

    def method(self, *args: Any) -> None:
        self(*args)


@pytest.mark.parametrize("kind", ["an object", "a method", "a partial"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_what_a_handler_pickles_while_a_key_or_value_is_pickled(where: str, kind: str) -> None:
    table = fastshm.dict()
    with fastshm.Manager("shm://by-the-way") as store:
        other = fastshm.dict(a=1) if where == "here" else store.dict(a=1)
        handler = Handler(other)
        handlers = {"an object": handler, "a method": handler.method, "a partial": functools.partial(handler, 1)}
        before = signal.signal(signal.SIGUSR1, handlers[kind])
        try:
            table[Interrupted("one")] = 1
            table["value"] = [Interrupted("one"), fastshm.list([2])]
            table["barrier"] = [fastshm.Barrier(2, Interrupted("one").__eq__), Interrupted("two")]
        finally:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        try:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                assert len(handler.pickled) >= 3
                for pickled in handler.pickled:
                    assert pickle.loads(pickled)["a"] == 1
                    assert pool.apply(pickle.loads, [pickled])["a"] == 1
            assert table[Interrupted("one")] == 1
            assert table["value"][0] == Interrupted("one")
            assert list(table["value"][1]) == [2]
            assert table["barrier"][0].parties == 2
        finally:
            signal.signal(signal.SIGUSR1, before)


class Delegates:
    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __reduce__(self) -> Any:
        return self.thing.__reduce__()


def test_a_handle_that_another_object_stands_for_is_checked_and_owned() -> None:
    table = fastshm.dict()
    with fastshm.Manager("shm://by-the-way") as store:
        with pytest.raises(ValueError, match="cannot be kept by a container"):
            store.root["x"] = Delegates(fastshm.list([1]))
        for key in ((1, Delegates(fastshm.list())), Delegates(fastshm.list())):
            with pytest.raises(TypeError, match="cannot be a key"):
                table[key] = 1
    before = None
    for _ in range(3):
        for i in range(20):
            table["k"] = Delegates(fastshm.list(range(i)))
            assert len(table["k"]) == i
        del table["k"]
        gc.collect()
        before = before or fastshm.heap.check()
    assert fastshm.heap.check() == before
