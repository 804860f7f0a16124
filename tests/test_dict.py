"""The shared dict: what the stdlib's proxy does, over both; then what only ours does."""

from __future__ import annotations

import copy
import datetime
import pickle
import re
from collections import OrderedDict
from decimal import Decimal
from fractions import Fraction

import pytest
from crew import Crew

import fastshm
from fastshm.managers import DictProxy

VALUES = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63 - 1, -(2**63), 2**63, 2**64, -(2**63) - 1, 2**1000, 10**400),
    *(0.0, -0.0, 1.5, float("inf"), float("-inf"), 5e-324, 1 + 2j, Decimal("1.10"), Fraction(1, 3)),
    *("", "x", "exactly8", "nine char", "ä" * 31, "\U0001f40d", "\0", "\ud800", "k" * 100_000),
    *(b"", b"x", b"exactly8", b"\0\xff" * 50_000, bytearray(b"ab")),
    *([], {}, (), set(), [1, [2, [3]]], {"a": {"b": (1, 2)}}, {1, 2}, frozenset({1}), range(5), OrderedDict(a=1)),
    *(datetime.date(2026, 1, 2), re.compile("a+"), len, int, ValueError("x", 1)),
]


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("this one refuses to be pickled")


class BadHash:
    def __hash__(self):
        raise RuntimeError("this one refuses to be hashed")


class BadEq:
    """Equal hashes, and a comparison that fails."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 1

    def __eq__(self, other):
        if isinstance(other, BadEq) and self.name == other.name:
            return True
        raise RuntimeError("this one refuses to be compared")


def same(a, b) -> bool:
    """Equal, of one type, and the same inside: 1 is not True, 0.0 not -0.0."""
    return type(a) is type(b) and repr(a) == repr(b)


def test_class_and_text(manager):
    d = manager.dict(a=1, b=[2])
    assert type(d).__name__ == "DictProxy"
    assert re.fullmatch(r"<DictProxy object, typeid 'dict' at 0x[0-9a-f]+>", repr(d))
    assert str(d) == f"{d}" == "{'a': 1, 'b': [2]}"


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        ((), {}),
        (({"a": 1},), {}),
        (([("a", 1), ("b", 2)],), {}),
        ((), {"a": 1, "b": 2}),
        (({"a": 1},), {"a": 3, "c": 4}),
    ],
)
def test_creation(manager, positional, named):
    assert manager.dict(*positional, **named).copy() == dict(*positional, **named)


def test_creation_from_a_proxy(manager):
    source = manager.dict({"a": 1})
    target = manager.dict(source)
    target["a"] = 2
    assert (source["a"], target["a"]) == (1, 2)


def test_get_set_del_in_len(manager):
    d = manager.dict()
    assert (len(d), "a" in d, bool(d)) == (0, False, False)
    d["a"] = 1
    d["a"] = 2
    d[3] = "three"
    assert (len(d), d["a"], d[3], "a" in d, 4 in d, bool(d)) == (2, 2, "three", True, False, True)
    del d["a"]
    assert (len(d), "a" in d, d.copy()) == (1, False, {3: "three"})


def test_missing_key(manager):
    d = manager.dict(a=1)
    for missing in ("b", 7, (1, 2), None):
        for operation in (d.__getitem__, d.__delitem__, d.pop):
            with pytest.raises(KeyError) as caught:
                operation(missing)
            assert caught.value.args == (missing,)
    with pytest.raises(KeyError, match="popitem"):
        manager.dict().popitem()
    assert d.copy() == {"a": 1}


def test_get_pop_setdefault(manager):
    d = manager.dict(a=1)
    assert (d.get("a"), d.get("b"), d.get("b", 5)) == (1, None, 5)
    assert (d.setdefault("a", 7), d.setdefault("b", 8), d.setdefault("c")) == (1, 8, None)
    assert (d.pop("b"), d.pop("b", 9), d.pop("b", None)) == (8, 9, None)
    assert d.copy() == {"a": 1, "c": None}
    assert [d.popitem(), d.popitem()] == [("c", None), ("a", 1)]


@pytest.mark.parametrize("wrong", [(1, 2, 3), ()])
def test_wrong_number_of_arguments(manager, wrong):
    d = manager.dict(a=1)
    for operation in (d.get, d.pop, d.setdefault):
        with pytest.raises(TypeError):
            operation(*wrong)
    assert d.copy() == {"a": 1}


def test_update(manager):
    d = manager.dict(a=1)
    d.update({"b": 2}, c=3)
    d.update([("a", 4), ("d", 5)])
    d.update(e=6)
    d.update()
    d.update(manager.dict(f=7).items())
    assert d.copy() == {"a": 4, "b": 2, "c": 3, "d": 5, "e": 6, "f": 7}
    for wrong in (5, [1, 2], ["abc"]):
        with pytest.raises((TypeError, ValueError)):
            d.update(wrong)
    assert len(d) == 6
    d.clear()
    assert (len(d), d.copy()) == (0, {})
    d.clear()
    d["again"] = 1
    assert d.copy() == {"again": 1}


def test_views_are_lists_and_snapshots(manager):
    d = manager.dict({"b": 1, "a": 2})
    keys, values, items, whole = d.keys(), d.values(), d.items(), d.copy()
    assert (keys, values, items, whole) == (["b", "a"], [1, 2], [("b", 1), ("a", 2)], {"b": 1, "a": 2})
    assert [type(x) for x in (keys, values, items, whole)] == [list, list, list, dict]
    d["c"] = 3
    whole["z"] = 26
    assert (keys, len(items), "z" in d) == (["b", "a"], 2, False)
    assert (dict(d), {**d}, sorted(d), list(d)) == ({"b": 1, "a": 2, "c": 3},) * 2 + (["a", "b", "c"], ["b", "a", "c"])


def test_insertion_order(manager):
    d, model = manager.dict(), {}
    for key in [5, 3, "x", 8, 3, None, 5, 1]:
        d[key] = model[key] = key
    for gone in (3, None):
        del d[gone], model[gone]
    d[3] = model[3] = "again at the end"
    d[5] = model[5] = "still first"
    assert d.items() == list(model.items())


def test_iteration_over_a_changed_dict(manager):
    d = manager.dict({i: i for i in range(10)})
    with pytest.raises(RuntimeError):
        for key in d:
            del d[key]
    for key in d:
        d[key] = -1
    assert set(d.values()) == {-1}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{value!r:.20}")
def test_any_value(manager, value):
    d = manager.dict()
    d["k"] = value
    assert same(d["k"], value)
    assert same(d.get("k"), value)
    assert same(d.values()[0], value)
    d["k"] = "something else"
    d["k"] = value
    assert same(d.setdefault("k", 1), value)
    assert same(d.pop("k"), value)


@pytest.mark.parametrize(
    "key",
    [
        *(0, -1, 2**63, -(2**63) - 1, 2**200, 1.5, float("inf"), True, None, "", "ä" * 200, b"", b"\0" * 200, 1 + 2j),
        *((), (1, "a", (2.5, None)), ("t" * 300,), frozenset(), frozenset({1, "a"}), Decimal("1.5"), Fraction(3, 7)),
        *(datetime.date(2026, 1, 2), int, range(3)),
    ],
    ids=lambda key: f"{key!r:.20}",
)
def test_any_hashable_key(manager, key):
    d = manager.dict({"first": 1})
    d[key] = "value"
    assert (d[key], key in d, len(d)) == ("value", True, 2)
    assert same(d.keys()[1], key)
    d[key] = "other"
    assert len(d) == 2
    del d[key]
    assert (key in d, d.keys()) == (False, ["first"])


@pytest.mark.parametrize("key", [[], {}, set(), (1, []), bytearray()], ids=repr)
def test_unhashable_key(manager, key):
    d = manager.dict(a=1)
    for operation in (d.__getitem__, d.__delitem__, d.__contains__, d.get, d.pop, d.setdefault):
        with pytest.raises(TypeError, match="unhashable"):
            operation(key)
    with pytest.raises(TypeError, match="unhashable"):
        d[key] = 1
    with pytest.raises(TypeError, match="unhashable"):
        d.update([("b", 2), (key, 1)])
    assert d["a"] == 1


def test_keys_with_failing_methods(manager):
    d = manager.dict(a=1)
    with pytest.raises(RuntimeError, match="hashed"):
        d[BadHash()] = 1
    d[BadEq("a")] = "bad"
    assert d[BadEq("a")] == "bad"
    for operation in (d.__getitem__, d.__contains__, lambda key: d.__setitem__(key, 1)):
        with pytest.raises(RuntimeError, match="compared"):
            operation(BadEq("b"))
    assert (len(d), d["a"]) == (2, 1)


def test_unpicklable_value_changes_nothing(manager):
    d = manager.dict(a=1)
    for wrong in (Unpicklable(), lambda: 1, [1, Unpicklable()], (x for x in ())):
        for operation in (
            lambda wrong=wrong: d.__setitem__("a", wrong),
            lambda wrong=wrong: d.__setitem__("b", wrong),
            lambda wrong=wrong: d.setdefault("b", wrong),
            lambda wrong=wrong: d.update({"a": wrong}),
            lambda wrong=wrong: d.update(b=wrong),
        ):
            with pytest.raises((RuntimeError, pickle.PicklingError, AttributeError, TypeError)):
                operation()
        assert d.copy() == {"a": 1}
    d["b"] = 2
    assert d.copy() == {"a": 1, "b": 2}


def test_plain_containers_are_copies(manager):
    source = [1, 2]
    d = manager.dict(plain=source)
    source.append(3)
    d["plain"].append(4)
    d.setdefault("new", []).append(5)
    assert d.copy() == {"plain": [1, 2], "new": []}
    changed = d["plain"]
    changed.append(4)
    d["plain"] = changed
    assert d["plain"] == [1, 2, 4]


def test_nested_proxies_are_live(manager):
    d = manager.dict()
    d["l"] = manager.list([1])
    d["d"] = manager.dict(inner=manager.list())
    d["l"].append(2)
    d["d"]["inner"].append("deep")
    d["d"]["x"] = 1
    assert d["l"][:] == [1, 2]
    assert d["d"]["inner"][:] == ["deep"]
    assert d["d"]["x"] == 1
    alias = d["l"]
    d["l"] = None
    alias.append(3)
    assert alias[:] == [1, 2, 3], "a handle keeps what it stands for"


def test_identity(manager):
    a, b = manager.dict(x=1), manager.dict(x=1)
    assert a != b
    assert a != {"x": 1}
    assert a == a
    assert len({a, b}) == 2


def test_copies(manager):
    d = manager.dict(x=[1])
    same_one = pickle.loads(pickle.dumps(d))
    same_one["y"] = 2
    assert d["y"] == 2
    deep = copy.deepcopy(d)
    assert (type(deep), deep) == (dict, {"x": [1], "y": 2})


def test_updates_itself(manager):
    d = manager.dict({i: i for i in range(20)})
    d.update(d.items())
    d.update(d)
    assert d.copy() == {i: i for i in range(20)}


# Several processes


def fill(d, worker, count):
    for i in range(count):
        d[worker, i] = f"{worker}:{i}"
        d["shared"] = worker
        assert d[worker, i] == f"{worker}:{i}"


def test_written_by_several(manager, crew):
    d = manager.dict()
    for worker in range(3):
        crew.start(fill, d, worker, 100)
    crew.results()
    assert len(d) == 301
    assert all(d[worker, i] == f"{worker}:{i}" for worker in range(3) for i in range(100))
    for worker in range(3):
        assert [key[1] for key in d.keys() if isinstance(key, tuple) and key[0] == worker] == list(range(100))  # noqa: SIM118


def claim(d, worker):
    return sum(d.setdefault(i, worker) == worker for i in range(300)), sum(d.pop(("token", i), 0) for i in range(300))


def test_setdefault_and_pop_have_one_winner(manager):
    d = manager.dict({("token", i): 1 for i in range(300)})
    with Crew() as crew:
        for worker in range(3):
            crew.start(claim, d, worker)
        won = crew.results()
    assert [sum(column) for column in zip(*won, strict=True)] == [300, 300]


def test_handed_to_a_process_whose_manager_was_dropped(crew):
    d = fastshm.Manager().dict(a=1)
    crew.run(fill, d, 0, 3)
    crew.results()
    assert len(d) == 5


# Only ours


def test_without_a_manager():
    d = fastshm.dict({"a": 1}, b=2)
    assert type(d) is DictProxy
    assert d.copy() == {"a": 1, "b": 2}
    assert fastshm.dict([(1, 2)]).items() == [(1, 2)]
    assert fastshm.dict(d).copy() == d.copy()
    for wrong in (5, [1], None):
        with pytest.raises(TypeError):
            fastshm.dict(wrong)


def test_increment():
    d = fastshm.dict(a=1, text="x")
    assert (d.increment("a"), d.increment("a", 5), d.increment("a", -10)) == (2, 7, -3)
    assert (d.increment("new"), d.increment("half", 0.5), d.increment("half")) == (1, 0.5, 1.5)
    with pytest.raises(TypeError):
        d.increment("text")
    with pytest.raises(TypeError):
        d.increment("a", "x")
    with pytest.raises(TypeError, match="unhashable"):
        d.increment([])
    assert d.copy() == {"a": -3, "text": "x", "new": 1, "half": 1.5}


def test_increment_beyond_64_bits():
    d = fastshm.dict(a=2**63 - 1, b=-(2**63))
    assert d.increment("a") == d["a"] == 2**63
    assert d.increment("a", 2**70) == d["a"] == 2**63 + 2**70
    assert d.increment("b", -1) == d["b"] == -(2**63) - 1


def test_get_many():
    d = fastshm.dict({"a": 1, 2: "b", "none": None})
    assert d.get_many(["a", 2, "missing", "none", "a"]) == [1, "b", None, None, 1]
    assert d.get_many(("missing", "a"), default=0) == [0, 1]
    assert d.get_many([]) == []
    assert d.get_many(key for key in "ab") == [1, None]
    with pytest.raises(TypeError, match="unhashable"):
        d.get_many(["a", []])


def count(d, times):
    for i in range(times):
        d.increment("total")
        d.increment(i % 7, 2)
        with d.get_lock():
            d["locked"] = d.get("locked", 0) + 1


def test_increments_lose_nothing(crew):
    d = fastshm.dict()
    for _ in range(3):
        crew.start(count, d, 2_000)
    crew.results()
    assert (d["total"], d["locked"], sum(d[i] for i in range(7))) == (6_000, 6_000, 12_000)


def move(d, times):
    for i in range(times):
        with d.get_lock():
            amount = i % 5
            d["left"] -= amount
            d["right"] += amount


def look(d, times):
    seen = set()
    for _ in range(times):
        whole = d.copy()
        seen.add(whole["left"] + whole["right"])
    return seen


def test_lock_makes_several_operations_one():
    d = fastshm.dict(left=1_000, right=1_000)
    with Crew() as crew:
        crew.start(move, d, 1_500)
        crew.start(move, d, 1_500)
        reader = crew.start(look, d, 1_500)
        crew.results()
        assert crew.result(reader) == {2_000}


def rewrite(d, marks, times):
    for i in range(times):
        mark = marks[i % len(marks)]
        d["wide"] = mark * 500
        d.update({"a": mark, "b": mark, "c": mark})


def read_whole(d, times):
    torn = 0
    for _ in range(times):
        torn += len(set(d["wide"])) != 1
        whole = dict(d.items())
        torn += len({whole["a"], whole["b"], whole["c"]}) != 1
    return torn


def test_reads_are_whole():
    d = fastshm.dict(wide="x" * 500, a="x", b="x", c="x")
    with Crew() as crew:
        crew.start(rewrite, d, "pq", 3_000)
        crew.start(rewrite, d, "rs", 3_000)
        reader = crew.start(read_whole, d, 3_000)
        crew.results()
        assert crew.result(reader) == 0


def test_immutable_values_survive_their_change():
    """What a read returned never changes afterwards, whatever is cached."""
    d = fastshm.dict(k=[1, 2])
    first = d["k"]
    first.append(3)
    assert d["k"] == [1, 2]
    assert d["k"] is not d["k"]
    text = d.setdefault("t", "x" * 100)
    d["t"] = "y" * 100
    assert text == "x" * 100


def test_a_time_out_is_no_predicate():
    """At once, not when there is a value: without one this would be for ever."""
    with pytest.raises(TypeError, match="timeout="):
        fastshm.dict().wait_for("k", 0.05)
    with pytest.raises(TimeoutError):
        fastshm.dict(k=1).wait_for("k", lambda n: n > 1, 0.05)
