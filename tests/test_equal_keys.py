"""Equal keys are one key in every process, whatever its hash seed."""

from __future__ import annotations

import contextlib
import datetime
import enum
import os
import pickle
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import pytest
from crew import SECONDS, Crew
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import fastshm


class Name(str):
    __slots__ = ()


class One(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    NAME = "name"


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Key:
    text: str
    number: object


class Folded:
    """Equal but for the case; its hash is one of a string and differs between processes."""

    def __init__(self, text):
        self.text = text

    def __eq__(self, other):
        return self.text.lower() == other.text.lower() if isinstance(other, Folded) else NotImplemented  # a Folder knows better

    def __hash__(self):
        return hash(self.text.lower())


FAMILIES = [
    [1, 1.0, True, Decimal(1), Fraction(1), 1 + 0j, One.ONE],
    [0, 0.0, -0.0, False, Decimal(0), 0j],
    [2**70, 2.0**70, Decimal(2) ** 70, Fraction(2**70)],
    [Fraction(1, 2), 0.5, Decimal("0.5"), Decimal("0.50")],
    ["name", Name("name"), Word.NAME],
    ["n" * 200, Name("n" * 200)],
    [b"name"],
    [("name", 1), (Name("name"), True), (Word.NAME, 1.0), ("name", Decimal(1))],
    [(("a",), (1.0, "b")), ((Name("a"),), (1, "b"))],
    [frozenset({"a", "b", "c", 1}), frozenset({1.0, "c", "b", Name("a")})],
    [Key("x", 1), Key("x", 1.0), Key(Name("x"), True)],
    [Key("x", 2), Key("x", Fraction(2))],
    [(Key("x", 1), "t"), (Key("x", 1.0), "t")],
    [Colour.RED],
    [Colour.BLUE],
    [Folded("Text"), Folded("TEXT"), Folded("text")],
    [datetime.date(2026, 1, 2)],
    [None],
]


def find_all(d, marker):
    """Every key of every family finds the entry that another process has made, and none makes a second one."""
    for number, family in enumerate(FAMILIES):
        for key in family:
            assert key in d, key
            assert d[key][0] == number, key
            assert d.setdefault(key, "new")[0] == number, key
            d[key] = (number, marker)
            d.update([(key, (number, marker))])
            assert d.get_many([key]) == [(number, marker)]
    assert len(d) == len(FAMILIES)
    return hash("a string")


def renew_all(d, marker):
    """Delete through one equal key and insert through another."""
    for number, family in enumerate(FAMILIES):
        assert d.pop(family[-1])[0] == number
        assert all(key not in d for key in family)
        d[family[0]] = (number, marker)
    return hash("a string")


@pytest.mark.parametrize("method", ["spawn"], indirect=True)
def test_found_under_other_hash_seeds(crew, monkeypatch):
    d = fastshm.dict()
    for number, family in enumerate(FAMILIES):
        d[family[0]] = (number, "parent")
    hashes = {hash("a string")}
    for work in (find_all, renew_all, find_all):
        for seed in (1, 22, 333):
            monkeypatch.setitem(os.environ, "PYTHONHASHSEED", str(seed))
            hashes.add(crew.result(crew.run(work, d, seed)))
    assert len(hashes) >= 3, "the seeds have made no difference, so nothing was tested"
    find_all(d, "parent again")
    assert [type(key) for key in d] == [type(family[0]) for family in FAMILIES], "the first key stays"


def insert_all(d, turn):
    for number, family in enumerate(FAMILIES):
        d.setdefault(family[turn % len(family)], number)
    return hash("a string")


@pytest.mark.parametrize("method", ["spawn"], indirect=True)
def test_inserted_at_once_under_other_hash_seeds(crew, monkeypatch):
    d = fastshm.dict()
    for turn in range(3):
        monkeypatch.setitem(os.environ, "PYTHONHASHSEED", str(turn + 1))
        crew.start(insert_all, d, turn)
    assert len(set(crew.results())) == 3
    assert len(d) == len(FAMILIES)
    assert sorted(d.values()) == list(range(len(FAMILIES)))


def test_unequal_keys_of_one_hash_stay_apart():
    d = fastshm.dict()
    apart = [
        -1,
        -2,
        2**61 - 2,
        "",
        b"",
        (),
        frozenset(),
        None,
        "1",
        1,
        (1,),
        ((1,),),
        frozenset({1}),
        Key("1", 1),
        Colour.RED,
        "red",
    ]
    for number, key in enumerate(apart):
        d[key] = number
    assert d.items() == list(zip(apart, range(len(apart)), strict=True))


def test_not_a_number():
    """Never equal to itself; dict finds it by identity, which no other process can share."""
    d = fastshm.dict()
    d[float("nan")] = 1
    d[float("nan")] = 2
    assert len(d) == 2
    assert float("nan") not in d


def read_by_crew(d, key):
    return d[key]


NAN = float("nan")
NOT_NUMBERS = [NAN, Decimal("nan"), complex("nan"), (NAN,), frozenset({NAN}), Key("nan", NAN)]


@pytest.mark.parametrize("key", NOT_NUMBERS, ids=repr)
def test_not_a_number_is_not_found_again(key):
    """Also by the very object that was stored, and inside of others: what is stored is a copy."""
    d = fastshm.dict()
    for value in range(3):
        d[key] = value
    assert d.values() == [0, 1, 2]
    assert key not in d
    assert d.get(key) is None
    assert d.get_many([key], "none") == ["none"]
    assert d.setdefault(key, 3) == 3
    with pytest.raises(KeyError):
        del d[key]
    assert repr(d.popitem()[0]) == repr(key)
    d.clear()
    assert not d


def test_first_key_and_last_value_stay():
    d = fastshm.dict()
    d[1] = "int"
    d[True] = "bool"
    d[1.0] = "float"
    assert [(type(key), value) for key, value in d.items()] == [(int, "float")]
    with Crew() as crew:
        assert crew.result(crew.run(read_by_crew, d, Decimal(1))) == "float"


# --- step by step, in processes of different hash seeds -----------------------------------------------------------------------

WORKERS = 3


def serve(pipe):
    """Do with the containers that are handed over what is asked for, until nothing is."""
    containers = None
    pipe.send(hash("a string"))
    for which, name, args in iter(pipe.recv, None):
        if which == "use":
            containers = args
        pipe.send(None if which == "use" else outcome(containers[which], name, args))


def outcome(container, name, args):
    """With the keys in it as text, for a frozenset is in another order everywhere, and not a number is not even itself."""
    try:
        result = getattr(container, name)(*args)
    except (KeyError, TypeError) as error:
        return type(error).__name__, shown(error.args)
    return shown(sorted(map(shown, result), key=repr) if isinstance(result, (set, fastshm.managers.SetProxy)) else result)


def shown(thing):
    if isinstance(thing, frozenset):
        return "frozenset", sorted(map(shown, thing), key=repr)
    if isinstance(thing, (tuple, list)):
        return type(thing).__name__, [shown(item) for item in thing]
    return type(thing).__name__, repr(thing)


class Texts(NamedTuple):
    text: str
    number: object


class Folder:
    """Its hash is that of a text, and so differs between processes; equal to what folds to the same."""

    def __init__(self, text):
        self.text = text

    def __eq__(self, other):
        return isinstance(other, (Folder, Folded)) and self.text.lower() == other.text.lower()

    def __hash__(self):
        return hash(self.text.lower())

    def __repr__(self):
        return f"Folder({self.text!r})"


Folded.__repr__ = Folder.__repr__
UTC = datetime.UTC
FURTHER = [
    [
        datetime.datetime(2026, 1, 2, 12, tzinfo=UTC),
        datetime.datetime(2026, 1, 2, 13, tzinfo=datetime.timezone(timedelta(hours=1))),
    ],
    [timedelta(days=1), timedelta(hours=24)],
    [Texts("x", 1), ("x", 1.0), Texts(Name("x"), True)],
    [Folder("other"), Folder("OTHER"), Folded("Other")],
    [frozenset({("a", 1), frozenset({"b", Decimal(2)})}), frozenset({frozenset({2.0, "b"}), (Name("a"), True)})],
    [(Colour.RED, Key("x", (1, "y"))), (Colour.RED, Key(Name("x"), (1.0, Word.NAME.replace("name", "y"))))],
    *([key] for key in NOT_NUMBERS),
]
any_key = st.sampled_from([key for family in FAMILIES + FURTHER for key in family])
leaves = st.sampled_from(
    [1, 1.0, True, Decimal(1), Fraction(1), "a", Name("a"), b"a", None, Colour.RED, Key("a", 1), Key("a", 1.0)]
)
keys = any_key | st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=2).map(tuple) | st.frozensets(inner, max_size=2), max_leaves=4
)
# not intersection_update: of two that are equal, CPython keeps the other one, and we our own
set_methods = st.sampled_from(["update", "difference_update", "symmetric_difference_update", "isdisjoint"])
amounts = st.integers(-5, 5)


class Crowd:
    """Workers that live from one example to the next."""

    def __init__(self, crew, monkeypatch):
        self.pipes = []
        for seed in range(1, WORKERS + 1):
            monkeypatch.setenv("PYTHONHASHSEED", str(seed * 11))
            ours, theirs = crew.context.Pipe()
            crew.start(serve, theirs)
            theirs.close()
            self.pipes.append(ours)
        crew.go()
        assert len({hash("a string"), *(pipe.recv() for pipe in self.pipes)}) > WORKERS

    def ask(self, worker, *request):
        self.pipes[worker].send(request)
        assert self.pipes[worker].poll(SECONDS), request
        return self.pipes[worker].recv()

    def end(self):
        for pipe in self.pipes:
            with pipe, contextlib.suppress(BrokenPipeError):  # of one that has failed already
                pipe.send(None)


class ManyProcesses(RuleBasedStateMachine):
    """One dict and one set of several processes, against the builtins of this one."""

    crowd = None
    workers = st.integers(0, WORKERS - 1)

    @initialize()
    def start(self):
        self.models = {"dict": {}, "set": set()}
        self.shared = {"dict": fastshm.dict(), "set": fastshm.set()}
        for worker in range(WORKERS):
            self.crowd.ask(worker, "use", None, self.shared)

    def same(self, worker, which, name, *args):
        wanted = outcome(self.models[which], name, pickle.loads(pickle.dumps(args)))  # as it arrives elsewhere: another object
        assert self.crowd.ask(worker, which, name, args) == wanted

    @rule(worker=workers, key=keys, value=amounts)
    def put(self, worker, key, value):
        self.same(worker, "dict", "__setitem__", key, value)

    @rule(worker=workers, key=keys)
    def find(self, worker, key):
        self.same(worker, "dict", "__contains__", key)
        self.same(worker, "dict", "__getitem__", key)
        self.same(worker, "set", "__contains__", key)

    @rule(worker=workers, key=keys, value=amounts)
    def take(self, worker, key, value):
        self.same(worker, "dict", "pop", key, value)
        self.same(worker, "dict", "__delitem__", key)

    @rule(worker=workers, key=keys, value=amounts)
    def setdefault(self, worker, key, value):
        self.same(worker, "dict", "setdefault", key, value)

    @rule(worker=workers, more=st.lists(st.tuples(keys, amounts), max_size=4))
    def update(self, worker, more):
        self.same(worker, "dict", "update", more)

    @rule(worker=workers, key=keys, amount=amounts)
    def increment(self, worker, key, amount):
        model, key_elsewhere = self.models["dict"], pickle.loads(pickle.dumps(key))
        model[key_elsewhere] = model.get(key_elsewhere, 0) + amount
        assert self.crowd.ask(worker, "dict", "increment", (key, amount)) == shown(model[key_elsewhere])

    @rule(worker=workers, key=keys, expected=amounts, new=amounts)
    def exchange(self, worker, key, expected, new):
        model, key_elsewhere = self.models["dict"], pickle.loads(pickle.dumps(key))
        is_expected = model.get(key_elsewhere) == expected
        if is_expected:
            model[key_elsewhere] = new
        assert self.crowd.ask(worker, "dict", "compare_exchange", (key, expected, new)) == shown(is_expected)

    @rule(worker=workers)
    def take_last(self, worker):
        self.same(worker, "dict", "popitem")

    @rule(worker=workers, key=keys)
    def change_set(self, worker, key):
        self.same(worker, "set", "add", key)
        self.same(worker, "set", "discard", key)
        self.same(worker, "set", "add", key)

    @rule(worker=workers, more=st.lists(keys, max_size=4), name=set_methods)
    def change_set_by_others(self, worker, more, name):
        self.same(worker, "set", name, more)

    @invariant()
    def alike_everywhere(self):
        if not hasattr(self, "models"):
            return
        items = shown(list(self.models["dict"].items()))
        members = sorted(map(shown, self.models["set"]), key=repr)
        assert shown(self.shared["dict"].items()) == items
        assert sorted(map(shown, self.shared["set"]), key=repr) == members
        assert len(self.shared["set"]) == len(members)

    def teardown(self):
        fastshm.heap.check()


@pytest.mark.parametrize("method", ["spawn"], indirect=True)
def test_many_processes(crew, monkeypatch):
    crowd = Crowd(crew, monkeypatch)
    try:
        run_state_machine_as_test(
            lambda: type("Machine", (ManyProcesses,), {"crowd": crowd})(),
            settings=settings(
                max_examples=60,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],  # looking for a smaller example among processes has no end
            ),
        )
    finally:
        crowd.end()
    crew.results()


class Touchy:
    """Pickling one does something to the plain dict that is being stored."""

    source = {}  # noqa: RUF012

    def __init__(self, n, do=None):
        self.n, self.do = n, do

    def __hash__(self):
        return hash(self.n)

    def __eq__(self, other):
        return isinstance(other, Touchy) and self.n == other.n

    def __reduce__(self):
        if self.do is not None:
            self.do(self.source)
        return Touchy, (self.n,)


def grow(source):
    source.update({Touchy(n): n for n in range(10, 20_000)})


def move(source):
    source[Touchy(1)] = source.pop(Touchy(1))  # to its end


@pytest.mark.parametrize("do", [grow, move, dict.clear])
@pytest.mark.parametrize("where", ["key", "value", "after plain ones"])
@pytest.mark.parametrize("use", ["update", "make", "set_many"])
def test_what_is_stored_changes_meanwhile(use, where, do):
    source = Touchy.source
    source.clear()
    if where == "after plain ones":
        source.update({f"plain {n}": n for n in range(50)})
    source.update({Touchy(1, do if where == "key" else None): "one", Touchy(2): "two", Touchy(3): "three"})
    if where != "key":
        source["value"] = Touchy(0, do)
    wanted = dict(source)
    d = fastshm.dict(source if use == "make" else {})
    if use != "make":
        getattr(d, use)(source)
    assert len(d) == len(wanted)
    for key, value in wanted.items():
        assert d[key] == value


class ShownAsEmpty(tuple):
    def __iter__(self):
        return iter(())


class ShownAsNone(frozenset):
    def __iter__(self):
        return iter(())


class ShownAsX(bytes):
    def __bytes__(self):
        return b"x"


class ShownAsSeven(int):
    def __int__(self):
        return 7

    def bit_length(self):
        return 3

    def to_bytes(self, *args, **options):
        return b"7"


class ShownAsFive(complex):
    real, imag = 5.0, 0.0


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (ShownAsEmpty, (1,), (2,)),
        (ShownAsNone, frozenset({1}), frozenset({2})),
        (ShownAsX, b"1", b"2"),
        (ShownAsSeven, 2**70, 2**71),
        (ShownAsSeven, 1, 2),
        (ShownAsFive, 1j, 2j),
    ],
)
def test_keys_go_by_what_they_compare_by(kind, one, other):
    d = fastshm.dict({kind(one): 1, kind(other): 2})
    assert (len(d), d[one], d[other], d[kind(one)]) == (2, 1, 2, 1)
    assert {type(key) for key in d} == {kind}
