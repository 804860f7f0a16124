"""The shared set: what the builtin does, by a model; and between processes."""

from __future__ import annotations

import operator
import pickle
import threading

import pytest
from crew import SECONDS, Crew
from hypothesis import given
from hypothesis import strategies as st

import fastshm
from fastshm.managers import DictProxy, SetProxy

ITEMS = st.one_of(
    st.integers(-3, 3), st.booleans(), st.sampled_from("abc"), st.tuples(st.integers(0, 1)), st.none(), st.floats(-1, 1)
)
SETS = st.sets(ITEMS, max_size=5)
BINARY = [operator.or_, operator.and_, operator.sub, operator.xor, operator.le, operator.lt, operator.ge, operator.gt]
IN_PLACE = [operator.ior, operator.iand, operator.isub, operator.ixor]
METHODS = ["union", "intersection", "difference", "symmetric_difference", "isdisjoint", "issubset", "issuperset"]
UPDATES = ["update", "intersection_update", "difference_update", "symmetric_difference_update"]


@given(SETS, SETS)
def test_like_the_builtin(a, b):
    for other in (b, fastshm.set(b)):
        for operate in BINARY:
            assert operate(fastshm.set(a), other) == operate(a, b)
        for operate in IN_PLACE:
            shared = again = fastshm.set(a)
            again = operate(again, other)
            assert again is shared
            assert shared.copy() == operate(set(a), b)
        for name in METHODS:
            assert getattr(fastshm.set(a), name)(other) == getattr(a, name)(b)
        for name in UPDATES:
            shared, plain = fastshm.set(a), set(a)
            assert getattr(shared, name)(other) is None
            getattr(plain, name)(b)
            assert shared.copy() == plain
    for operate in BINARY:
        assert operate(b, fastshm.set(a)) == operate(b, a)


@given(st.lists(st.tuples(st.sampled_from(["add", "discard", "remove", "pop", "clear", "in"]), ITEMS)))
def test_steps(steps):
    shared, plain = fastshm.set(), set()
    for step, item in steps:
        if step == "in":
            assert (item in shared) == (item in plain)
        elif step == "pop":
            if not plain:
                with pytest.raises(KeyError):
                    shared.pop()
            else:
                plain.remove(shared.pop())
        elif step == "remove" and item not in plain:
            with pytest.raises(KeyError) as caught:
                shared.remove(item)
            assert caught.value.args == (item,)
        else:
            args = () if step == "clear" else (item,)
            assert getattr(shared, step)(*args) is None
            getattr(plain, step)(*args)
        assert (shared.copy(), len(shared), sorted(map(repr, shared))) == (plain, len(plain), sorted(map(repr, plain)))


def test_text_and_pickles():
    s = fastshm.set("a")
    assert (str(s), type(s)) == ("{'a'}", SetProxy)
    assert repr(s).startswith("<SetProxy object, typeid 'set' at ")
    other = pickle.loads(pickle.dumps(s))
    other.add("b")
    assert s.copy() == {"a", "b"}
    d = fastshm.dict(s=s)
    d["s"].add("c")
    assert s.copy() == {"a", "b", "c"}


def test_what_the_builtin_refuses():
    s = fastshm.set([frozenset({1})])
    assert {1} in s
    s.discard({1})
    assert len(s) == 0
    for wrong in (lambda: s.add([]), lambda: s.update(5), lambda: s | [1], lambda: fastshm.set(1234), lambda: s.add({1})):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(TypeError):
        s |= [1]
    with pytest.raises(TypeError, match="not 'int'"):
        SetProxy(5)
    assert s.copy() == set()


def test_an_update_that_fails_changes_nothing():
    s = fastshm.set([1])
    with pytest.raises(TypeError):
        s.update([2, 3], [4, []])
    assert s.copy() == {1}


class Asked:
    """An item, or a key, that only Python can compare; whose comparing calls `hook`, once."""

    hook = None

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 1

    def __eq__(self, other):
        hook, Asked.hook = Asked.hook, None
        if hook is not None:
            hook()
        return isinstance(other, Asked) and self.name == other.name


UPDATING = [(operator.iand, "b", "b"), (operator.isub, "b", "acz"), (operator.ixor, "bd", "acdz")]


@pytest.mark.parametrize("again", [1, 5])
@pytest.mark.parametrize(("operate", "other", "wanted"), UPDATING, ids=[operate.__name__ for operate, _, _ in UPDATING])
def test_what_comes_while_it_is_decided(operate, other, wanted, again):
    """Nobody waits for the code of items, and what it decides is of one instant: what comes meanwhile is decided on, too."""
    s, left = fastshm.set(map(Asked, "abc")), [again]

    def come_and_go():
        s.add(Asked("z"))
        if left[0] > 1:
            s.discard(Asked("z"))

    def add():
        adder = threading.Thread(target=come_and_go)
        adder.start()
        adder.join(SECONDS / 2)
        assert not adder.is_alive(), "it waits for whoever decides"
        left[0] -= 1
        if left[0]:
            Asked.hook = add

    Asked.hook = add
    s = operate(s, {*map(Asked, other)})
    assert left == [0]
    assert sorted(item.name for item in s.copy()) == sorted(wanted)


UPDATES_OVERTAKEN = [
    ("intersection_update", "b", "b"),
    ("difference_update", "b", "acz"),
    ("symmetric_difference_update", "bd", "acdz"),
]


@pytest.mark.parametrize(("name", "other", "wanted"), UPDATES_OVERTAKEN, ids=[name for name, _, _ in UPDATES_OVERTAKEN])
def test_an_iterator_that_is_decided_on_again(name, other, wanted):
    s = fastshm.set(map(Asked, "abc"))
    Asked.hook = lambda: s.add(Asked("z"))
    getattr(s, name)(map(Asked, other))
    assert sorted(item.name for item in s.copy()) == sorted(wanted)


def change_the_other(mine, other, meeting):
    def meet():
        meeting.wait(SECONDS / 2)
        operator.isub(other, {5})
        meeting.wait(SECONDS / 2)

    Asked.hook = meet
    operator.isub(mine, {Asked("a")})


def test_two_that_change_each_others():
    """As signals' handlers may, in the midst of what their programs do."""
    one, two, meeting = (*(fastshm.set([Asked("a"), Asked("b"), 5]) for _ in range(2)), fastshm.Barrier(2))
    with Crew() as crew:
        crew.start(change_the_other, one, two, meeting)
        crew.start(change_the_other, two, one, meeting)
        crew.results()
    assert one.copy() == two.copy() == {Asked("b")}


def test_of_a_manager():
    with fastshm.Manager() as m:
        s = m.set([1, 2])
        assert s | {3} == {1, 2, 3}
    with pytest.raises(ConnectionRefusedError):
        s.add(3)


def add_all(s, numbers):
    added = 0
    for i in numbers:
        before = len(s)
        s.add(i)
        added += len(s) > before
    return added


def test_processes(method):
    s = fastshm.set()
    with Crew(method) as crew:
        for i in range(3):
            crew.start(add_all, s, range(i, 600, 3))
        crew.results()
    assert s.copy() == set(range(600))


def test_nan_does_not_stay():
    s = fastshm.set([float("nan"), (float("nan"), 1), 2, 3])
    s &= {2, 4}
    assert s.copy() == {2}


class InOneStep(DictProxy):
    """Whoever is killed between two changes leaves half of them."""

    def clear(self):
        raise AssertionError("a change of its own")

    def update(self, *args, **kwargs):
        raise AssertionError("a change of its own")


@pytest.mark.parametrize("change", [operator.iand, operator.isub, operator.ixor])
def test_nan_goes_in_one_step(change):
    s, no_number, numbers = SetProxy(InOneStep._make(InOneStep)), float("nan"), {2, 4.5, 2**70}
    for item in (*numbers, "a text that does not lie in its entry", (1, (no_number, 3)), no_number, no_number):
        s.add(item)
    s = change(s, {2, 7})
    left = change(set(numbers), {2, 7})
    kept = [item for item in s.copy() if type(item) is tuple or item != item]
    assert len(kept) == (0 if change is operator.iand else 3)
    assert {item for item in s.copy() if type(item) is int or item == 4.5} == left
    s &= {7, 2}
    assert s.copy() == left & {7, 2}
