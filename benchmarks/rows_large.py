"""A dict of a million entries, its keys taken in random order, and the memory it needs.

The stored keys and the ones looked up are equal and not identical; every rival reads its keys from a like list.
"""

from __future__ import annotations

from measure import Loop, Row, Texts
from processes import Memory

WALK = "k in islice(stream, n)"
SHUFFLED = "import random\nrandom.Random(1).shuffle(keys)\nstream = cycle(keys)\n"
STRS = "keys = [f'user:{i:08}' for i in range(1_000_000)]\n"
INTS = "keys = [1_000 + i for i in range(1_000_000)]\n"
NEW = {"fastshm": "d = fastshm.dict()", "builtin": "d = {}"}


def filled(keys: str) -> Texts:
    return {rival: f"{keys}{text}\nfor k in keys: d[k] = 1\n{keys}{SHUFFLED}" for rival, text in NEW.items()}


def unfilled(keys: str) -> Texts:
    return dict.fromkeys(NEW, keys + SHUFFLED)


def grown(key: str) -> Texts:
    return {rival: f"{text}\nfor i in range(n): d[{key}] = i + n" for rival, text in NEW.items()}


def same(statement: str) -> Texts:
    return dict.fromkeys(NEW, statement)


MANY = {rival: f"{text}chunks = cycle([keys[i:i + 1_000] for i in range(0, 1_000_000, 1_000)])"
        for rival, text in filled(STRS).items()}  # fmt: skip

ROWS: list[Row] = [
    Loop("d[k], 1,000,000 str", filled(STRS), same("d[k]"), {"builtin": 1.1}, loop=WALK, count=250_000),
    Loop("d[k] = 1, 1,000,000 str", filled(STRS), same("d[k] = 1"), {"builtin": 0.8}, loop=WALK, count=250_000),
    Loop("insert 1,000,000 str", unfilled(STRS), same("d[k] = 1"), {"builtin": 1.0}, rounds=5,
         loop=WALK, fresh=NEW, count=1_000_000),
    Loop("d[k], 1,000,000 int", filled(INTS), same("d[k]"), loop=WALK, count=250_000),
    Loop("d[k] = 1, 1,000,000 int", filled(INTS), same("d[k] = 1"), loop=WALK, count=250_000),
    Loop("insert 1,000,000 int", unfilled(INTS), same("d[k] = 1"), rounds=5, loop=WALK, fresh=NEW, count=1_000_000),
    Loop("get_many(1,000), 1,000,000 str", MANY, {"fastshm": "d.get_many(ks)", "builtin": "list(map(d.get, ks))"},
         loop="ks in islice(chunks, n)", count=250, each=1_000),
    Memory("memory an entry, int -> int (bytes)", grown("i"), budget={"builtin": 1.0}, unit="bytes", rounds=2),
    Memory("memory an entry, str of 13 -> int (bytes)", grown("f'user:{i:08}'"), unit="bytes", rounds=2),
]  # fmt: skip
