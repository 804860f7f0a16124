"""What a handle on a dict remembers (places of keys, objects of values, a whole copy) while others change the dict."""

from __future__ import annotations

import pickle
import random
from multiprocessing import get_context

import pytest
from crew import Crew

import fastshm

KEYS = [
    *(f"key{i}" for i in range(12)),
    *range(1_000, 1_006),
    "a key that is too long to lie in its entry" * 2,
    "ä",
    (1, 2),
    None,
]
VALUES = [
    *(0, 1, 300, -5, 2**40, 2**70, 0.0, -0.0, 1.5, True, None, "", "x", "exactly8", "nine char", "long" * 50, "ä", b"x"),
    *(b"y" * 90, [], {"a": 1, "b": 2.5, "c": "x"}, [1, [2, "x"]], (1, "x"), {"d": {"e": (None, b"b")}}),
]


def other_handle(d):
    return pickle.loads(pickle.dumps(d))


def same(a, b):
    return repr(a) == repr(b)


def look(handle, model, rnd):
    for _ in range(rnd.choice((1, 3))):  # what is looked at again is remembered
        for key in rnd.choices(KEYS, k=4):
            assert (key in handle) == (key in model)
            assert same(handle.get(key, "none"), model.get(key, "none"))
    for _ in range(rnd.choice((0, 0, 1, 3))):
        assert same(handle.copy(), model)
        assert same(handle.keys(), list(model))
        assert same(list(handle), list(model))
        assert same(handle.values(), list(model.values()))
        assert same(handle.items(), list(model.items()))


def change(handle, model, rnd, values):
    key = rnd.choice(KEYS)
    what = rnd.randrange(20)
    if what < 9:
        handle[key] = model[key] = rnd.choice(values)
    elif what < 11:
        number = rnd.choice((1, 0.5, True, 2**62))
        handle[key] = model[key] = number
        assert same(handle.increment(key, 2), number + 2)
        model[key] = number + 2
    elif what < 14:
        assert same(handle.pop(key, "none"), model.pop(key, "none"))
    elif what == 14 and model:
        assert same(handle.popitem(), model.popitem())
    elif what == 15 and model:
        first = next(iter(model))
        assert same(handle.popitem(last=False), (first, model.pop(first)))
    elif what < 18:
        new = {key: rnd.choice(values) for key in rnd.sample(KEYS, 5)}
        handle.update(new)
        model.update(new)
    elif what == 18 and rnd.random() < 0.2:
        handle.clear()
        model.clear()
    else:
        gone, new = rnd.sample(KEYS, 3), {key: rnd.choice(values) for key in rnd.sample(KEYS, 2)}
        handle._exchange_keys(lambda _: (gone, new), values=rnd.random() < 0.5)
        for key in gone:
            model.pop(key, None)
        for key, value in new.items():
            model.setdefault(key, value)


@pytest.mark.parametrize("words", [True, False], ids=["words", "all kinds"])
def test_two_handles_agree(words):
    values = [value for value in VALUES if not isinstance(value, (list, dict, tuple))][:14] if words else VALUES
    for seed in range(6):
        rnd = random.Random(seed)
        a = fastshm.dict()
        b = other_handle(a)
        model = {}
        for _ in range(400):
            change(rnd.choice((a, b)), model, rnd, values)
            look(rnd.choice((a, b)), model, rnd)
        with a.get_lock():
            for _ in range(20):
                change(a, model, rnd, values)
                look(a, model, rnd)
        look(b, model, rnd)
    fastshm.heap.check()


@pytest.mark.parametrize("changes", [(), ("value",), ("kind",), ("delete",), ("insert",), ("delete", "insert"), ("clear",)])
def test_keys_taken_in_their_order(changes):
    """Their places are known after some rounds; the other handle changes the dict between one key and the next."""
    rnd = random.Random(3)
    model = {f"key{i}" if i % 3 else i + 1_000: i + 500 for i in range(300)}
    d = fastshm.dict(model)
    b = other_handle(d)
    for turn in range(24):
        asked = d.keys() if turn % 2 else list(d)
        assert asked == list(model)
        for i, k in enumerate(asked):
            if turn > 12 and changes and not i % 40:
                what, other = rnd.choice(changes), rnd.choice(list(model) or [0])
                if what == "delete" and model:
                    del b[other], model[other]
                elif what == "insert":
                    b[f"new{turn}:{i}"] = model[f"new{turn}:{i}"] = i
                elif what == "clear" and turn % 5 == 0:
                    b.clear()
                    model.clear()
                else:
                    b[other] = model[other] = rnd.choice(VALUES) if what == "kind" else rnd.randrange(10**6)
            assert same(d.get(k, "none"), model.get(k, "none"))
            assert (k in d) == (k in model)
            if i % 7 == 0 and k in model:
                d[k] = model[k] = turn
        assert d.items() == list(model.items())
        assert dict(d) == d.copy() == model
    fastshm.heap.check()


def test_pairs_are_those_of_now_and_each_list_is_its_own():
    d = fastshm.dict({f"key{i}": i + 1_000 for i in range(100)})
    b = other_handle(d)
    for i in range(12):
        b["key7"] = i + 5_000
        pairs = d.items()
        assert pairs[7] == ("key7", i + 5_000)
        assert len(pairs) == 100
        assert dict(pairs) == d.copy()
        pairs.clear()
    b["key7"] = [1]
    assert d.items()[7] == ("key7", [1])
    b["key7"] = 3.5
    d.items()[7][0]
    del b["key8"]
    assert d.items() == list(b.copy().items())
    assert len(d.items()) == 99


def test_a_key_that_moved_is_found_where_it_is():
    d = fastshm.dict()
    b = other_handle(d)
    key = "key"
    d[key] = 0
    for i in range(3_000):
        d[i] = i
        b[key] = i  # by its place, and growth moves it
        assert d[key] == d[key] == i
        if i % 3 == 0:
            del d[i]
    del b[key]
    assert key not in d
    assert d.get(key) is None
    d[key] = "again"
    assert b[key] == "again"


def test_kinds_change_under_a_remembered_object():
    d = fastshm.dict(k=5)
    b = other_handle(d)
    k = "k"
    for value in (5, 2.5e-323, "\5", 5, None, False, 0, "x" * 100, "y" * 100, "x" * 100, b"x" * 100, 5):
        for handle in (d, b):
            assert same(d[k], d[k])
            handle[k] = value
            for _ in range(3):
                assert same(b[k], value)
                assert same(d[k], value)


def add_and_take(d, key, n):
    for i in range(n):
        d[key] = i
        assert d[key] >= i
        d.increment("sum")
        if i % 50 == 0:
            d.update({f"{key} {i}": i, key: i})
            assert d.pop(f"{key} {i}") == i
            assert d.copy()[key] == i


@pytest.mark.parametrize("processes", [3])
def test_processes_agree(processes):
    d = fastshm.dict(sum=0)
    with Crew(seconds=60) as crew:
        work = [crew.run(add_and_take, d, f"worker {i}", 3_000) for i in range(processes)]
        for each in work:
            crew.result(each)
    assert d.copy() == {"sum": 3_000 * processes, **{f"worker {i}": 2_999 for i in range(processes)}}


def test_oldest_first():
    d = fastshm.dict()
    b = other_handle(d)
    model = {}
    rnd = random.Random(3)
    for i in range(4_000):
        d[i] = model[i] = i
        if rnd.random() < 0.9:
            first = next(iter(model))
            assert rnd.choice((d, b)).popitem(last=False) == (first, model.pop(first))
        if rnd.random() < 0.02 and model:
            assert d.popitem() == model.popitem()
    assert d.items() == list(model.items())


def toggle(s, some, others):
    while True:
        s -= some
        s |= some
        s ^= others
        s ^= others
        s &= some | others | {"kept"}


def test_a_set_is_never_half_changed():
    some, others = {f"item {i}" for i in range(40)}, set(range(60))
    states = [frozenset(x | {"kept"}) for x in (some, set(), some | others)]
    s = fastshm.set(some | {"kept"})
    for seed in range(30):
        process = get_context("fork").Process(target=toggle, args=(s, some, others))
        process.start()
        for _ in range(random.Random(seed).randrange(1, 200)):
            assert frozenset(s.copy()) in states
        process.kill()
        process.join()
        assert frozenset(s.copy()) in states
        s |= some
        s &= some | {"kept"}
    fastshm.heap.check()


def random_plain(rnd, depth):
    if depth and rnd.random() < 0.5:
        kind = rnd.choice((dict, list, tuple))
        n = rnd.choice((0, 1, 2, 3, 4, 20))
        if kind is dict:
            return {rnd.choice((f"k{i}", i, 10**i)): random_plain(rnd, depth - 1) for i in range(n)}
        return kind(random_plain(rnd, depth - 1) for _ in range(n))
    numbers = (0, 255, 256, -1, 65_535, -(2**31), 2**31, 2**63 - 1, -(2**63), 2**64, rnd.randrange(-(2**33), 2**33))
    return rnd.choice((None, True, False, 1.5, float("inf"), -0.0, "x", "ä", "y" * 300, b"", b"z" * 9, *numbers))


def test_small_plain_values():
    d = fastshm.dict()
    rnd = random.Random(5)
    for _ in range(3_000):
        value = random_plain(rnd, 4)
        d["k"] = value
        assert same(d["k"], value)
        assert same(d.pop("k"), value)


def test_identity_within_a_value():
    d = fastshm.dict()
    inner: list = []
    d["k"] = {"a": inner, "b": [inner], "t": (inner,)}
    got = d["k"]
    assert got["a"] is got["b"][0] is got["t"][0]
    inner.append(inner)
    d["k"] = inner
    got = d["k"]
    assert got[0] is got
    pair: tuple = ([],)
    pair[0].append(pair)
    d["k"] = pair
    got = d["k"]
    assert got[0][0] is got


class Special(dict):
    pass


def test_subclasses_stay_what_they_are():
    d = fastshm.dict(k={"inner": Special(a=1)}, l=[True, Special()])
    assert type(d["k"]["inner"]) is Special
    assert type(d["l"][1]) is Special
    assert d["l"][0] is True
