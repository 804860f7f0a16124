"""The dict beside those of other packages; rows of those that are installed."""

from __future__ import annotations

from measure import Loop, Row, Texts
from peers import CLASSES, PEERS
from processes import Crew

OURS = {"fastshm": "d = fastshm.dict()"}
MAKE = {"ultradict": "d = (p := Ultra()).d", "smd": "d = (p := Smd()).d", "lmdb": "p = Lmdb()",
        "diskcache": "d = (p := Disk()).d", "redis": "p = Redis(); r = p.r"}  # fmt: skip
COUNTING = {**MAKE, "ultradict": "d = (p := Ultra(lock=True)).d"}
del COUNTING["smd"]  # it has no lock
PUT = {"fastshm": "d[k] = v", "ultradict": "d[k] = v", "smd": "d[k] = v", "lmdb": "p.put(b, w)", "diskcache": "d[k] = v",
       "redis": "r.set(k, v)"}  # fmt: skip
GET = {"lmdb": "p.get(b)", "redis": "r.get(k)"}
ITEMS = {"fastshm": "d.items()", "ultradict": "list(d.items())", "smd": "list(d.items())", "lmdb": "p.items()",
         "diskcache": "[(k, d[k]) for k in d]", "redis": "keys = r.keys(); list(zip(keys, r.mget(keys)))"}  # fmt: skip
INCREMENT = {"fastshm": "d.increment(k)", "ultradict": "p.increment(k)", "lmdb": "p.increment(b)", "diskcache": "p.d.incr(k)",
             "redis": "p.r.incr(k)"}  # fmt: skip


def filled(entries: int, value: str, make: Texts = MAKE) -> Texts:
    """Texts that fill the dict and leave one of its keys in k (as bytes in b) and its value in v (in w)."""
    texts = {}
    for rival, made in (OURS | dict(make)).items():
        if rival in PEERS | {"fastshm"}:
            names = f"from peers import {CLASSES[rival].__name__}\n" if rival in CLASSES else ""
            each = f"for i in range({entries}):\n    k = f'key {{i:05}}'; b = k.encode(); v = {value}; w = str(v).encode()\n"
            texts[rival] = (
                f"{names}{made}\n{each}    {PUT[rival]}\nk = 'key 00007'; b = k.encode(); v = {value}; w = str(v).encode()"
            )
    return texts


def two(statements: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {rival: (text, text) for rival, text in statements.items() if rival in PEERS | {"fastshm"}}


ROWS: list[Row] = [
    Loop("peers: d[k]", filled(100, "1_000"), dict.fromkeys(PUT, "d[k]") | GET),
    Loop("peers: d[k]  (str of 100)", filled(100, "'v' * 100"), dict.fromkeys(PUT, "d[k]") | GET),
    Loop("peers: d[k] = 1,000", filled(100, "1_000"), PUT),
    Loop("peers: d[k] = str of 100", filled(100, "'v' * 100"), PUT),
    Loop("peers: items  (1,000, an item)", filled(1_000, "1_000"), ITEMS, each=1_000),
    Crew("peers: 2 processes, in all: increment", filled(10, "1_000", COUNTING), statements=two(INCREMENT)),
] if PEERS else []  # fmt: skip
