"""The question that the project's background ends with: how long do 100,000 writes into each kind take?

A nanosecond a write is a tenth of a millisecond for all of them. A Manager does fewer than 100,000 and is scaled.
"""

from __future__ import annotations

from measure import Loop, Row, Texts

WRITES = 100_000
VALUES = {
    "fastshm": "v = fastshm.Value('i', 0)",
    "stdlib": "v = mp.Value('i', 0)",
    "manager": "v = manager.Value('i', 0)",
    "builtin": "import types; v = types.SimpleNamespace(value=0)",
}
ARRAYS = {
    "fastshm": "a = fastshm.Array('i', 100_000)",
    "stdlib": "a = mp.Array('i', 100_000)",
    "manager": "a = manager.Array('i', [0] * 100_000)",
    "bare": "a = bare(100_000)",
    "builtin": "import array; a = array.array('i', [0]) * 100_000",
}
DICTS = {"fastshm": "d = fastshm.dict()", "manager": "d = manager.dict()", "builtin": "d = {}"}
LISTS = {"fastshm": "x = fastshm.list()", "manager": "x = manager.list()", "builtin": "x = []"}


def writes(kind: str, statement: str, made: Texts) -> Loop:
    """A row that starts each time from a new object."""
    every = dict.fromkeys(made, statement)
    setup = dict.fromkeys(made, "")
    return Loop(f"100,000 writes, {kind}: {statement}", setup, every, loop="i in range(n)", fresh=made, count=WRITES)


ROWS: list[Row] = [
    writes("Value", "v.value = i", VALUES),
    writes("Array", "a[i] = i", ARRAYS),
    writes("dict", "d[i] = i", DICTS),
    writes("list", "x.append(i)", LISTS),
]
