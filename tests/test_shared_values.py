"""Shared objects of every kind as values: without pickle, alive as long as the value, and refused when damaged."""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import pickle
import threading

import pytest
from crew import run_program

import fastshm
from fastshm import _parts
from fastshm.proxies import SetProxy

MAKERS = {
    "Value": lambda m: fastshm.Value("q", 3, beside=m),
    "Array": lambda m: fastshm.Array("d", [1.5, 2.5], beside=m),
    "characters": lambda m: fastshm.Array("c", b"text", beside=m),
    "m.Value": lambda m: m.Value("i", 4),
    "m.Array": lambda m: m.Array("i", [1, 2]),
    "Lock": lambda m: m.Lock(),
    "RLock": lambda m: m.RLock(),
    "Semaphore": lambda m: m.Semaphore(2),
    "BoundedSemaphore": lambda m: m.BoundedSemaphore(2),
    "Event": lambda m: m.Event(),
    "Condition": lambda m: m.Condition(),
    "Condition over a Lock": lambda m: m.Condition(m.Lock()),
    "Barrier": lambda m: m.Barrier(2),
    "dict": lambda m: m.dict(a=1),
    "list": lambda m: m.list([1]),
    "set": lambda m: m.set([1, 2]),
    "Namespace": lambda m: m.Namespace(a=1),
    "Counter": lambda m: m.Counter("aab"),
    "ShardedCounter": lambda m: m.ShardedCounter(),
    "frozen": lambda m: m.frozen([b"bytes", "text"]),
    "frozen with shared ones": lambda m: m.frozen([b"bytes", m.list([5])]),
}
OF_THE_PROCESS = {
    name: getattr(fastshm, name) for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Event", "ShardedCounter")
}


def seen(thing):
    """What there is to see of it, after a use."""
    if hasattr(thing, "acquire"):
        with thing:
            pass
    for look in ("copy", "get_value", "is_set", "_getvalue", "tolist"):
        if hasattr(thing, look):
            found = getattr(thing, look)()
            if found is not thing:
                return str(found)
    if isinstance(thing, fastshm.records.FrozenList):
        return [x if isinstance(x, bytes | str) else x[:] for x in thing]
    for look in ("value", "parties"):
        if hasattr(thing, look):
            return getattr(thing, look)
    return thing[:] if hasattr(thing, "__getitem__") else None


SEEN = f"""
import fastshm, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_shared_values import MAKERS, seen
"""


def test_all_of_them_where_pickles_are_refused():
    address = f"shm://shared-values-{os.getpid()}"
    with fastshm.Manager(address, allow_pickle=False) as m:
        for name, make in MAKERS.items():
            made = make(m if "m" in name or name not in ("Value", "Array", "characters") else m.root)
            m.root[name] = made
            m.root["in a list"] = m.list([made])
            for read in (m.root[name], m.root["in a list"][0], m.root["in a list"][:][0], m.root.copy()[name]):
                assert type(read) is type(made), name
                assert seen(read) == seen(made), name
            assert m.root.pop("in a list").pop() is not None
        other = f"""
with fastshm.Manager({address!r}, create=False, allow_pickle=False) as m:
    assert set(m.root.keys()) == set(MAKERS)
    for name in MAKERS:
        print(name, type(m.root[name]).__name__, seen(m.root[name]))
    m.root["Value"].fetch_add(4)
    m.root["Counter"].increment("a")
    m.root["set"].add(3)
    m.root["Namespace"].b = 2
"""
        shown = run_program(SEEN + other).stdout
        for name in MAKERS:
            assert f"{name} {type(m.root[name]).__name__} " in shown
        assert m.root["Value"].value == 7
        assert m.root["Counter"]["a"] == 3
        assert m.root["set"].copy() == {1, 2, 3}
        assert m.root["Namespace"].b == 2
        with pytest.raises(pickle.PicklingError, match="allow_pickle=False"):
            m.root["barrier"] = m.Barrier(2, print)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_they_are_alive_as_long_as_the_value(method):
    held, before = fastshm.dict(), None
    for _ in range(2):  # what is made once, is made
        held.update({name: make() for name, make in OF_THE_PROCESS.items()})
        held["condition"] = fastshm.Manager().Condition()
        gc.collect()
        with multiprocessing.get_context(method).Pool(2) as pool:
            kinds = pool.starmap(kind_of, [(held, name) for name in OF_THE_PROCESS])
        assert kinds == [kind_of(held, name) for name in OF_THE_PROCESS]
        held.clear()
        fastshm.heap.default().bury()
        census = {key: value for key, value in fastshm.heap.check().items() if key != "bytes_used"}
        before = before or census
    assert census == before


def kind_of(held, name):
    return type(held[name]).__name__


def test_subclasses_and_what_has_more_to_it_are_pickled():
    d = fastshm.dict()
    d["barrier"] = fastshm.Barrier(1, threading.get_ident)
    assert d["barrier"]._action is threading.get_ident
    assert d["barrier"].wait() == 0
    d["timed"] = fastshm.Barrier(2, timeout=0.01)
    with pytest.raises(threading.BrokenBarrierError):
        d["timed"].wait()


@pytest.mark.parametrize("which", ["frozen", "set", "condition", "value"])
def test_damaged_ones(which):
    m = fastshm.Manager()
    thing, text = {
        "frozen": lambda: (m.frozen([b"bytes"]) if hasattr(m, "frozen") else fastshm.frozen([b"bytes"]), b"\x44\x18\x18\x00"),
        "set": lambda: (fastshm.set([1]), b"\x40\x15"),
        "condition": lambda: (m.Condition(), b"\x43\x0f\x17"),
        "value": lambda: (fastshm.Value("q", 1), b"\x01"),
    }[which]()
    items = fastshm.list([thing])
    count = {"frozen": 2, "set": 1, "condition": 2, "value": 1}[which]
    with open(f"/dev/shm/{items._address[0]}", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        head, at = len(text).to_bytes(8, "little") + count.to_bytes(8, "little"), 0
        while True:  # there may be the remains of others
            at = memory.find(head, at + 8)
            assert at >= 0
            where = at + 16 + 8 * count
            if memory[where : where + len(text)] == text:
                memory[where] = 255
                try:
                    _ = items[0]
                except fastshm.CorruptedError:
                    break
                finally:
                    memory[where] = text[0]
        at = where
        right = wrong = 0
        for i in range(len(text)):
            for byte in range(256):
                memory[at + i] = byte
                try:
                    read = items[0]
                except fastshm.CorruptedError:
                    wrong += 1
                else:
                    right += 1
                    assert type(read).__name__ in {name.split(".")[-1] for _, name, *_ in all_classes()}
            memory[at + i] = text[i]
        assert wrong > 180 * len(text)
        assert right >= len(text)
    assert type(items[0]) is type(thing)


def all_classes():
    return [*_parts.HANDLES.values(), *_parts.WHOLES.values(), ("", "AcquirerProxy")]


def test_every_number_has_a_class_of_its_own():
    numbers = [*_parts.HANDLES, *_parts.WHOLES]
    classes = {names[:2] for table in (_parts.HANDLES, _parts.WHOLES) for names in table.values()}
    assert len(set(numbers)) == len(numbers) == len(classes)
    assert SetProxy in {type(fastshm.dict(a=fastshm.set())["a"])}
