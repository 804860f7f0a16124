"""Live nesting, steps that compare, waiting for a change, several keys at once."""

from __future__ import annotations

import array
import json
import threading
import time
from multiprocessing import managers

import pytest
from crew import SECONDS, Crew

import fastshm
from fastshm.managers import DictProxy, ListProxy

NESTED = {"list": [1, [2, {"x": [3]}]], "a": {"b": {"c": 1}}, "text": "t", "tuple": ([1],)}


def deepen(d):
    d["list"].append(4)
    d["a"]["b"]["c"] += 1
    d["list"][1][1]["x"].append({"new": []})
    d["list"][1][1]["x"][1]["new"].append(5)
    d["a"]["other"] = [{}]
    d["a"]["other"][0]["deep"] = True


@pytest.mark.parametrize("maker", ["live", "manager"])
def test_changes_inside_are_seen_by_all(method, maker):
    with fastshm.Manager(live=True) as m:
        d = fastshm.live(NESTED) if maker == "live" else m.dict(NESTED)
        expected = json.loads(json.dumps({**NESTED, "tuple": 0}))
        deepen(expected)
        expected["tuple"] = ([1],)
        with Crew(method) as crew:
            crew.start(deepen, d)
            crew.results()
        assert d.copy(deep=True) == d.to_dict() == expected
        assert type(d["a"]) is DictProxy
        assert type(d["list"]) is ListProxy
        assert d["tuple"] == ([1],), "only dicts and lists become shared"


@pytest.mark.parametrize(
    "store",
    [
        lambda d, items, new: d.__setitem__("k", new),
        lambda d, items, new: d.update(k=new),
        lambda d, items, new: d.update({f"k{i}": i for i in range(2000)}, k=new),
        lambda d, items, new: d.setdefault("k", new).append(2) or d["k"].pop(),
        lambda d, items, new: d.set_many({"k": new}),
        lambda d, items, new: (d.update(k=0), d.compare_exchange("k", 0, new)),
        lambda d, items, new: (items.append(new), d.update(k=items[0])),
        lambda d, items, new: (items.extend([new]), d.update(k=items[0])),
        lambda d, items, new: (items.insert(0, new), d.update(k=items[0])),
        lambda d, items, new: (items.append(0), items.__setitem__(0, new), d.update(k=items[0])),
        lambda d, items, new: (items.__setitem__(slice(0, 0), [new]), d.update(k=items[0])),
        lambda d, items, new: (items.__iadd__([new]), d.update(k=items[0])),
    ],
)
def test_every_way_of_storing(store):
    d, items = fastshm.live({}), fastshm.live([])
    store(d, items, [1])
    d["k"].append(2)
    assert d["k"][:] == [1, 2]
    plain = fastshm.dict()
    plain["k"] = [1]
    plain["k"].append(2)
    assert plain["k"] == [1], "as with multiprocessing, unless it was asked for"


def test_cycles_and_shared_parts():
    part, ring = [1], []
    ring.append(ring)
    d = fastshm.live({"one": part, "two": part, "ring": ring})
    assert d["ring"][0]._address == d["ring"]._address
    d["one"].append(2)
    assert d["two"][:] == [1, 2]
    plain = d.to_dict()
    assert plain["one"] is plain["two"]
    assert plain["ring"][0] is plain["ring"]
    d["ring"].clear()


def test_memory_comes_back():
    keep = fastshm.live({})
    before = fastshm.heap.check()["bytes_used"]
    for _ in range(3):
        keep["x"] = {"a": [{"b": [list(range(50))]} for _ in range(20)]}
        del keep["x"]
    keep.clear()
    assert fastshm.heap.check()["bytes_used"] <= before + 4096
    with pytest.raises(TypeError, match="a dict or list expected"):
        fastshm.live("text")


def test_compare_exchange(method):
    d = fastshm.dict(n=0, thing=(1, [2]))
    assert d.compare_exchange("thing", (1, [2]), None)
    assert not d.compare_exchange("thing", 1, 2)
    assert not d.compare_exchange("missing", None, 2)
    assert d.copy() == {"n": 0, "thing": None}
    with Crew(method) as crew:
        for _ in range(3):
            crew.start(step_up, d, 100)
        crew.results()
    assert d["n"] == 300


def step_up(d, times):
    for _ in range(times):
        while not d.compare_exchange("n", n := d["n"], n + 1):
            pass


def test_many():
    d = fastshm.dict(a=1, b=2)
    d.set_many({"c": 3})
    assert d.get_many("abcx", 0) == [1, 2, 3, 0]
    assert d.pop_many("acx") == [1, 3, None]
    assert (d.copy(), list(reversed(fastshm.dict(a=1, b=2)))) == ({"b": 2}, ["b", "a"])
    assert d | {"z": 1} == {"b": 2, "z": 1}
    assert {"z": 1} | d == {"z": 1, "b": 2}
    same = d
    same |= {"b": 3}
    assert same is d
    assert d["b"] == 3
    assert d.fromkeys("xy", 1) == {"x": 1, "y": 1}


def answer(d):
    d["answer"] = d.wait_for("question", lambda text: text.endswith("?"), 30) + " 42"


def test_waiting_for_a_key(method):
    d = fastshm.dict()
    with Crew(method) as crew:
        worker = crew.run(answer, d)
        d["question"] = "not yet"
        d["question"] = "what?"
        assert d.wait_for("answer", timeout=30) == "what? 42"
        crew.result(worker)


def test_waiting_ends():
    d = fastshm.dict(n=1)
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"0\.05 s for the value of 'n'"):
        d.wait_for("n", lambda n: n > 1, 0.05)
    assert time.monotonic() - begin >= 0.05
    with fastshm.Manager() as m:
        d = m.dict()
        with Crew() as crew:
            worker = crew.start(refused_in_the_end, d)
            crew.go()
            time.sleep(0.05)
            m.shutdown()
            assert crew.result(worker) == "refused"


def refused_in_the_end(d):
    try:
        d.wait_for("never")
    except ConnectionRefusedError:
        return "refused"


@pytest.mark.parametrize("make", [list, dict, lambda: fastshm.Value("i"), lambda: "x" * 100_000, fastshm.Lock])
def test_who_waits_does_not_wake_itself(make):
    d, seen = fastshm.live({"a": make()}), []
    for use in (lambda value: seen.append(value), lambda _: seen.append(len(d.copy()) + len(d))):
        with pytest.raises(TimeoutError):
            d.wait_for("a", use, timeout=0.4)
    assert len(seen) < 200  # naps of up to 16 ms each


def test_what_changes_inside_is_seen():
    d = fastshm.live({"jobs": []})
    thread = threading.Timer(0.05, lambda: d["jobs"].append(1))
    thread.start()
    assert d.wait_for("jobs", len, timeout=SECONDS)[:] == [1]
    thread.join()


def test_all_is_plain_all_through():
    with fastshm.Manager(live=True) as m:
        things = {"set": m.set([1, 2]), "n": m.Namespace(a=1), "array": m.Array("i", [1, 2]), "list": [m.set([3])]}
        plain = m.dict(things).to_dict()
        assert plain["set"] == {1, 2}
        assert vars(plain["n"]) == {"a": 1}
        assert plain["array"] == array.array("i", [1, 2])
        assert plain["list"] == [{3}]
        assert [type(value) for value in plain.values()] == [set, managers.Namespace, array.array, list]
        assert m.list([m.set([1])]).to_list() == [{1}]
        assert m.list([m.set([1])]).copy(deep=True) == [{1}]
        assert m.list([fastshm.frozen([1, "a"])]).to_list() == [[1, "a"]]
