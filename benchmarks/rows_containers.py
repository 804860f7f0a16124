"""dict and list. A key that is looked up is equal to the stored one, and not the same object."""

from __future__ import annotations

from measure import Loop, Row, Texts


def dicts(items: str, more: str = "") -> Texts:
    """The same dict for every rival; `more` is set up beside it."""
    return {
        "fastshm": f"d = fastshm.dict({items})\n{more}",
        "manager": f"d = manager.dict({items})\n{more}",
        "builtin": f"d = dict({items})\n{more}",
    }


def lists(items: str, more: str = "") -> Texts:
    return {
        "fastshm": f"x = fastshm.list({items})\n{more}",
        "manager": f"x = manager.list({items})\n{more}",
        "builtin": f"x = list({items})\n{more}",
    }


def empty(made: Texts) -> Texts:
    return {rival: text.splitlines()[0] for rival, text in made.items()}


KEY = "k, missing, i = ''.join(['key', '50']), ''.join(['key', 'x']), int('50')"
NAMED = dicts("{f'key{i}': 1_000 + i for i in range(100)}", KEY)
NUMBERED = dicts("{i: 1_000 + i for i in range(100)}", KEY)
FLOATS = dicts("{f'key{i}': i + 0.5 for i in range(100)}", KEY)
TEXTS = dicts("{f'key{i}': f'{i:0100}' for i in range(100)}", f"{KEY}\nx = '0' * 100")
NESTED = dicts("{f'key{i}': dict(a=i, b=2.5, c='x') for i in range(100)}", f"{KEY}\nx = dict(a=1, b=2.5, c='x')")
LIVE = {
    "fastshm": f"d = fastshm.dict(); d['key50'] = fastshm.dict(n=1_000)\n{KEY}",
    "manager": f"d = manager.dict(); d['key50'] = manager.dict(n=1_000)\n{KEY}",
    "builtin": f"d = dict(key50=dict(n=1_000))\n{KEY}",
}
EQUAL = "other = {f'key{i}': i for i in range(10_000)}"
MANY = dicts("{f'key{i}': 1_000 + i for i in range(10_000)}", EQUAL)
FEW = dicts("{f'key{i}': 1_000 + i for i in range(10_000)}", "ks = [f'key{i}' for i in range(0, 10_000, 100)]")
NONE = dicts("", EQUAL)
SHORT = lists("range(1_000, 1_100)")
LONG = lists("range(1_000, 11_000)")
GROWING = lists("")

LOCKED_INCREMENT = {"manager": "with lock:\n    d[k] += 1", "builtin": "d[k] += 1"}
COUNTED = {**NAMED, "manager": f"{NAMED['manager']}\nlock = manager.Lock()"}


OTHERS = dicts("{f'key{i}': 1_000 + i for i in range(100)}", "stream = cycle([f'key{i % 100}' for i in range(10_000)])")


def same(statement: str) -> Texts:
    return dict.fromkeys(NAMED, statement)


ROWS: list[Row] = [
    Loop("d[k]", NAMED, budget={"manager": 1_000, "builtin": 1.4}, hot=True),
    Loop("d[k] = 1", NAMED, budget={"manager": 1_000, "builtin": 1.0}, hot=True),
    Loop("d[k]  (k is another object each time)", OTHERS, same("d[k]"), loop="k in islice(stream, n)"),
    Loop("d[k] = 1  (k is another object each time)", OTHERS, same("d[k] = 1"), loop="k in islice(stream, n)"),
    Loop("k in d", NAMED, budget={"manager": 2_000, "builtin": 1.0}, hot=True),
    Loop("missing in d", NAMED),
    Loop("d.get(k)", NAMED),
    Loop("d.increment(k)", COUNTED, LOCKED_INCREMENT),
    Loop("d[i]  (int key)", NUMBERED, same("d[i]")),
    Loop("d[i] = 1  (int key)", NUMBERED, same("d[i] = 1")),
    Loop("i in d  (int key)", NUMBERED, same("i in d")),
    Loop("d[k]  (float)", FLOATS, same("d[k]")),
    Loop("d[k]  (str of 100)", TEXTS, same("d[k]")),
    Loop("d[k] = str of 100", TEXTS, same("d[k] = x")),
    Loop("del d[k]; d[k] = 1", NAMED, same("del d[k]\nd[k] = 1")),
    Loop("d[k]  (small nested dict)", {**NESTED, "copied": NESTED["builtin"]},
         {**same("d[k]"), "copied": "d[k].copy()"}, {"manager": 350, "builtin": 3}),
    Loop("d[k] = small dict", NESTED, same("d[k] = x")),
    Loop("d[k]['n']  (a shared dict in another)", LIVE, same("d[k]['n']")),
    Loop("d.update(10,000 old keys)", MANY, same("d.update(other)"), {"manager": 5, "builtin": 1.5},
         each=10_000),
    Loop("d.update(10,000 new keys)", NONE, same("d.update(other)"), {"manager": 5}, each=10_000,
         fresh=empty(NONE), count=1),
    Loop("d.get_many(100 keys)", FEW, {"fastshm": "d.get_many(ks)", "manager": "[d.get(k) for k in ks]",
         "builtin": "list(map(d.get, ks))"}, each=100),
    Loop("d.copy()  (10,000)", MANY, same("d.copy()"), each=10_000),
    Loop("dict(d)  (10,000)", MANY, same("dict(d)"), each=10_000),
    Loop("for k in d  (10,000)", MANY, same("for k in d.keys():\n    pass"), each=10_000),
    Loop("for k, v in d.items()  (10,000)", MANY, same("for k, v in d.items():\n    pass"), each=10_000),
    Loop("x[7]", SHORT),
    Loop("x[7] = 1", SHORT),
    Loop("x.append(1)", GROWING, fresh=GROWING, count=100_000),
    Loop("x.append(1); x.pop()", SHORT, same("x.append(1)\nx.pop()")),
    Loop("1_050 in x  (51st of 100)", SHORT, same("1_050 in x")),
    Loop("x[:]  (10,000)", LONG, same("x[:]"), each=10_000),
    Loop("for y in x  (10,000)", LONG, {"fastshm": "for y in x:\n    pass", "manager": "for y in x[:]:\n    pass",
         "builtin": "for y in x:\n    pass"}, each=10_000),
]  # fmt: skip
