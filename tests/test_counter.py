"""The shared counter: collections.Counter by a model, and exact totals of many processes."""

from __future__ import annotations

import collections
import operator
import pickle
import threading
from fractions import Fraction

import pytest
from crew import SECONDS, Crew
from hypothesis import given
from hypothesis import strategies as st
from test_set import Asked

import fastshm

COUNTERS = st.dictionaries(st.sampled_from("abcd"), st.integers(-3, 3)).map(collections.Counter)
BINARY = [
    operator.add,
    operator.sub,
    operator.or_,
    operator.and_,
    operator.le,
    operator.lt,
    operator.ge,
    operator.gt,
    operator.eq,
]
IN_PLACE = [operator.iadd, operator.isub, operator.ior, operator.iand]


@given(COUNTERS, COUNTERS)
def test_like_the_builtin(a, b):
    for other in (b, fastshm.Counter(b)):
        for operate in BINARY:
            assert operate(fastshm.Counter(a), other) == operate(a, b)
        for operate in IN_PLACE:
            shared = again = fastshm.Counter(a)
            again = operate(again, other)
            assert again is shared
            assert shared.copy() == operate(collections.Counter(a), b)
        for name in ("update", "subtract"):
            shared, plain = fastshm.Counter(a), collections.Counter(a)
            getattr(shared, name)(other, e=2)
            getattr(plain, name)(b, e=2)
            assert dict(shared.copy()) == dict(plain)
    shared = fastshm.Counter(a)
    for operate in (operator.pos, operator.neg, collections.Counter.total):
        assert (shared.total() if operate is collections.Counter.total else operate(shared)) == operate(a)
    assert sorted(shared.elements()) == sorted(a.elements())
    assert sorted(shared.most_common(), key=str) == sorted(a.most_common(), key=str)
    assert len(shared.most_common(2)) == len(a.most_common(2))


def test_missing_ones():
    c = fastshm.Counter("hello")
    assert (c["l"], c["z"], "z" in c) == (2, 0, False)
    del c["z"], c["l"]
    assert c == {"h": 1, "e": 1, "o": 1}
    assert str(c) == "Counter({'h': 1, 'e': 1, 'o': 1})"
    c["h"] += 4
    assert pickle.loads(pickle.dumps(c))["h"] == 5
    with pytest.raises(NotImplementedError):
        c.fromkeys("ab")
    with pytest.raises(TypeError, match="unhashable"):
        hash(c)


def test_what_does_not_add():
    c = fastshm.Counter(a=1)
    c["text"] = "x"
    with pytest.raises(TypeError):
        c.update({"a": 1, "text": 1})
    assert (c["a"], c["text"]) == (1, "x")
    del c["text"]
    c.update(a=2**63 - 1)
    assert c["a"] == 2**63
    c.update(a=0.5)
    assert c["a"] == 2**63 + 0.5
    c.subtract(c.copy())
    assert c == {"a": 0}


def count_letters(counts, text):
    """The background's, with its own update()."""
    local = {}
    for letter in text:
        local[letter] = local.get(letter, 0) + 1
    for _ in range(200):
        counts.update(local)


def test_letters_of_many_processes(method):
    counts = fastshm.Counter()
    texts = ["hello", "world", "lll"]
    with Crew(method) as crew:
        for text in texts:
            crew.start(count_letters, counts, text)
        crew.results()
    assert counts == {letter: 200 * n for letter, n in collections.Counter("".join(texts)).items()}


def add_all_or_nothing(counts, n):
    for _ in range(n):
        counts.update(dict.fromkeys(range(20), 1))


def test_killed_in_an_update():
    """Whoever is killed has added to all of the keys or to none."""
    counts = fastshm.Counter(dict.fromkeys(range(20), 0))
    for _ in range(8):
        with Crew() as crew:
            worker = crew.run(add_all_or_nothing, counts, 10**9)
            seen = counts[0]
            counts.wait_for(0, lambda n, seen=seen: n > seen + 100, 30)
            crew.kill(worker)
        assert len(set(counts.values())) == 1
    fastshm.heap.check()


P, Q = Asked("p"), Asked("q")
DECIDING = {
    "|=": (operator.ior, {"x": 3, P: 7}, {"a": 33, "x": 3, P: 7, Q: 6}),
    "&=": (operator.iand, {"a": 5, "x": 3, P: 1}, {"a": 5, P: 1}),
    "+=": (operator.iadd, {"x": -1, P: -6}, {"a": 33, Q: 6}),
    "-=": (operator.isub, {P: 6}, {"a": 33, Q: 6}),
}


@pytest.mark.parametrize("name", DECIDING)
def test_what_is_counted_while_it_is_decided(name):
    """Nobody waits for the code of keys, and no count is lost: what others add meanwhile is decided on, too."""
    operate, other, wanted = DECIDING[name]
    c = fastshm.Counter({"a": 1, P: 6, Q: 6})
    added = []

    def add():
        adder = threading.Thread(target=lambda: c.increment("a", 4))
        adder.start()
        adder.join(SECONDS / 2)
        assert not adder.is_alive(), "it waits for whoever decides"
        added.append(None)
        if len(added) < 8:
            Asked.hook = add

    Asked.hook = add
    c = operate(c, collections.Counter(other))
    assert len(added) == 8
    assert c.copy() == wanted


def test_kept_in_order():
    c, plain = fastshm.Counter("cabbage"), collections.Counter("cabbage")
    for operate, other in (
        (operator.ior, {"b": 7, "z": 1}),
        (operator.iand, {"z": 1, "b": 3, "c": 1}),
        (operator.isub, {"b": 3}),
    ):
        c, plain = operate(c, collections.Counter(other)), operate(plain, collections.Counter(other))
        assert [*c.copy().items()] == [*plain.items()]


@pytest.mark.parametrize("count", [True, Fraction(1, 2)])
def test_what_is_new_was_added_to_nothing(count):
    for operate in IN_PLACE:
        shared, plain = fastshm.Counter(a=1), collections.Counter(a=1)
        shared, plain = (
            operate(shared, collections.Counter(a=count, b=count)),
            operate(plain, collections.Counter(a=count, b=count)),
        )
        assert [*map(repr, shared.copy().items())] == [*map(repr, plain.items())]
    empty, plain = fastshm.Counter(), collections.Counter()
    empty += collections.Counter(a=count)
    plain += collections.Counter(a=count)
    assert repr(empty.copy()) == repr(plain)


def test_a_counter_is_what_a_dict_is_updated_with():
    """Replaced, not added, as with collections.Counter."""
    counts = fastshm.Counter("abca")
    plain, shared = {"a": 7, "x": 1}, fastshm.dict(a=7, x=1)
    for update in (lambda d, other: d.update(other), lambda d, other: d.update(other, c=9), lambda d, other: d.__ior__(other)):
        update(plain, counts.copy())
        update(shared, counts)
        assert shared.copy() == plain
    shared.set_many(counts)
    assert shared["a"] == 2
    assert fastshm.dict(counts).copy() == fastshm.Manager().dict(counts).copy() == {"a": 2, "b": 1, "c": 1}
