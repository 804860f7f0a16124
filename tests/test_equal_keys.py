"""Equal keys are one key in every process, whatever its hash seed."""

from __future__ import annotations

import datetime
import enum
import os
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import pytest
from crew import Crew

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
        return isinstance(other, Folded) and self.text.lower() == other.text.lower()

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


def test_first_key_and_last_value_stay():
    d = fastshm.dict()
    d[1] = "int"
    d[True] = "bool"
    d[1.0] = "float"
    assert [(type(key), value) for key, value in d.items()] == [(int, "float")]
    with Crew() as crew:
        assert crew.result(crew.run(read_by_crew, d, Decimal(1))) == "float"
