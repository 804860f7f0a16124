"""dict and list against the builtins, step by step, with keys that collide and containers that meet themselves."""

from __future__ import annotations

import enum
import pickle
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import fastshm


class One(enum.IntEnum):
    ONE = 1


class Colour(enum.Enum):
    RED = 1


class Name(str):
    __slots__ = ()


@dataclass(frozen=True)
class Key:
    part: object


@dataclass(frozen=True)
class Same:
    """All of one hash."""

    part: int

    def __hash__(self):
        return 1


KEYS = [
    *(1, 1.0, True, Decimal(1), Fraction(1), 1 + 0j, One.ONE, 0, 0.0, -0.0, False, -1, -2, 2**61 - 1, 2**64, 2.0**64),
    *("", "a", Name("a"), "1", "x" * 40, b"", b"a", None, (), (1,), (1.0,), (True,), ((1,),), (None,), ("a", 1.0)),
    *(frozenset(), frozenset({1}), frozenset({1.0}), Colour.RED, Key(1), Key(1.0), Key("a"), Same(1), Same(2), Same(3)),
]
VALUES = [
    None,
    True,
    0,
    1,
    -1.5,
    2**70,
    "",
    "short",
    "w" * 300,
    b"bytes",
    b"\0" * 300,
    [],
    [1, [2]],
    {"k": 1},
    (1,),
    Key(1),
]
keys = st.sampled_from(KEYS)
values = st.sampled_from(VALUES) | st.integers() | st.text(max_size=5)
pairs = st.lists(st.tuples(keys, values), max_size=6)


def exact(items):
    """Equal is not enough: 1 is not 1.0 here."""
    return [(type(item), item) if not isinstance(item, tuple) else (tuple, exact(item)) for item in items]


def outcome(operation):
    try:
        return exact([operation()])
    except (LookupError, TypeError, ValueError) as error:
        return type(error), str(error)


class DictMachine(RuleBasedStateMachine):
    @initialize(start=pairs)
    def start(self, start):
        self.model = dict(start)
        self.ours = fastshm.dict(start)

    def both(self, operation):
        assert outcome(lambda: operation(self.ours)) == outcome(lambda: operation(self.model))

    @rule(key=keys, value=values)
    def set(self, key, value):
        self.both(lambda d: d.__setitem__(key, value))

    @rule(key=keys)
    def read(self, key):
        self.both(lambda d: d[key])
        self.both(lambda d: d.get(key, "none"))
        self.both(lambda d: key in d)

    @rule(key=keys)
    def delete(self, key):
        self.both(lambda d: d.__delitem__(key))

    @rule(key=keys)
    def pop(self, key):
        self.both(lambda d: d.pop(key))
        self.both(lambda d: d.pop(key, "none"))

    @precondition(lambda self: self.model)
    @rule()
    def popitem(self):
        self.both(lambda d: d.popitem())

    @rule(key=keys, value=values)
    def setdefault(self, key, value):
        self.both(lambda d: d.setdefault(key, value))

    @rule(more=pairs)
    def update(self, more):
        self.both(lambda d: d.update(more))

    @rule(more=pairs, named=st.dictionaries(st.sampled_from(["a", "b"]), values))
    def update_from_a_mapping(self, more, named):
        self.both(lambda d: d.update(dict(more), **named))

    @rule()
    def update_from_itself(self):
        self.both(lambda d: d.update(d))
        self.both(lambda d: d.update(d.items()))

    @rule(wanted=st.lists(keys, max_size=5))
    def get_many(self, wanted):
        assert exact(self.ours.get_many(wanted, 5)) == exact([self.model.get(key, 5) for key in wanted])

    @rule(key=keys, amount=st.integers() | st.sampled_from([0.5, True]))
    def increment(self, key, amount):
        if isinstance(self.model.get(key, 0), (int, float)):
            self.model[key] = self.model.get(key, 0) + amount
            assert exact([self.ours.increment(key, amount)]) == exact([self.model[key]])

    @rule(key=keys)
    def store_itself(self, key):
        """A handle of itself inside itself, and out again."""
        self.ours[key] = self.ours
        assert len(self.ours[key]) == len(self.ours)
        self.ours[key] = None
        self.model[key] = None

    @rule()
    def clear(self):
        self.both(lambda d: d.clear())

    @rule()
    def another_handle(self):
        self.ours = pickle.loads(pickle.dumps(self.ours))

    @rule()
    def copy_to_another(self):
        self.ours = fastshm.dict(self.ours)

    @invariant()
    def equal(self):
        if hasattr(self, "ours"):
            assert exact(self.ours.items()) == exact(self.model.items())
            assert exact(self.ours.keys()) == exact(self.model)
            assert len(self.ours) == len(self.model)

    def teardown(self):
        fastshm.heap.check()


class ListMachine(RuleBasedStateMachine):
    indexes = st.integers(-8, 8)
    slices = st.builds(slice, st.none() | indexes, st.none() | indexes, st.sampled_from([None, 1, -1, 2, -3]))
    rows = st.lists(values, max_size=6)

    @initialize(start=rows)
    def start(self, start):
        self.model = list(start)
        self.ours = fastshm.list(start)

    def both(self, operation):
        assert outcome(lambda: operation(self.ours)) == outcome(lambda: operation(self.model))

    @rule(value=values)
    def append(self, value):
        self.both(lambda items: items.append(value))

    @rule(more=rows)
    def extend(self, more):
        self.both(lambda items: items.extend(more))
        self.both(lambda items: (items.__iadd__(more), None)[1])

    @precondition(lambda self: len(self.model) < 30)
    @rule()
    def extend_by_itself(self):
        self.both(lambda items: items.extend(items))

    @precondition(lambda self: len(self.model) < 30)
    @rule(part=slices)
    def assign_itself(self, part):
        self.both(lambda items: items.__setitem__(part, items))

    @rule(index=indexes, value=values)
    def insert(self, index, value):
        self.both(lambda items: items.insert(index, value))

    @rule(index=indexes)
    def pop(self, index):
        self.both(lambda items: items.pop(index))

    @rule(value=values)
    def remove(self, value):
        self.both(lambda items: items.remove(value))

    @rule(value=values)
    def find(self, value):
        self.both(lambda items: (items.count(value), value in items))
        self.both(lambda items: items.index(value))

    @rule(index=indexes, value=values)
    def set(self, index, value):
        self.both(lambda items: items.__setitem__(index, value))

    @rule(index=indexes)
    def read(self, index):
        self.both(lambda items: items[index])

    @rule(index=indexes | slices)
    def delete(self, index):
        self.both(lambda items: items.__delitem__(index))

    @rule(part=slices)
    def read_slice(self, part):
        self.both(lambda items: items[part])

    @rule(part=slices, more=rows)
    def set_slice(self, part, more):
        self.both(lambda items: items.__setitem__(part, more))

    @rule()
    def reverse(self):
        self.both(lambda items: items.reverse())

    @rule(backwards=st.booleans())
    def sort(self, backwards):
        self.both(lambda items: items.sort(key=repr, reverse=backwards))

    @precondition(lambda self: len(self.model) < 20)
    @rule(times=st.integers(-1, 3))
    def multiply(self, times):
        self.both(lambda items: items * times)
        self.both(lambda items: (items.__imul__(times), None)[1])

    @rule()
    def another_handle(self):
        self.ours = pickle.loads(pickle.dumps(self.ours))

    @invariant()
    def equal(self):
        if hasattr(self, "ours"):
            assert exact(self.ours[:]) == exact(self.model)
            assert len(self.ours) == len(self.model)

    def teardown(self):
        fastshm.heap.check()


TestDict, TestList = DictMachine.TestCase, ListMachine.TestCase
TestDict.settings = TestList.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
