"""Value, Array and the locks."""

from __future__ import annotations

from importlib.util import find_spec

from measure import Loop, Row
from rivals import with_atomicshm

LOCKED = "with v.get_lock():\n    v.value += 1"
LOCKED_ITEM = "with a.get_lock():\n    a[7] += 1"
LOCKED_EXCHANGE = "with v.get_lock():\n    old, v.value = v.value, 1"
LOCKED_EXTREME = "with v.get_lock():\n    v.value = {}(v.value, 1)"
LOCKED_COMPARE = "with v.get_lock():\n    if v.value == 1_000_000:\n        v.value = 1_000_000"

VALUES = {"fastshm": "v = fastshm.Value('q', 1_000_000)", "stdlib": "v = mp.Value('q', 1_000_000)"}
WORDS = with_atomicshm(VALUES, "from rivals import Word; w = Word(1_000_000); v = w.cell")
COUNTERS = {"fastshm": "v = fastshm.ShardedCounter(1_000_000)", "stdlib": VALUES["stdlib"]}
RAW_VALUES = {"fastshm": "v = fastshm.RawValue('q', 1_000_000)", "stdlib": "v = mp.RawValue('q', 1_000_000)"}
ARRAYS = {
    "fastshm": "a = fastshm.Array('q', range(1_000_000, 1_001_000))",
    "stdlib": "a = mp.Array('q', range(1_000_000, 1_001_000))",
}
DOUBLES = {
    "fastshm": "x = [float(i) for i in range(1_000)]; a = fastshm.Array('d', x)",
    "stdlib": "x = [float(i) for i in range(1_000)]; a = mp.Array('d', x)",
}
ADDED = {"fastshm": "a.add_from(x)", "stdlib": "with a.get_lock():\n    for i, y in enumerate(x):\n        a[i] += y"}
GROWING = {"fastshm": "a = fastshm.Array('q', 0)", "manager": "a = manager.list()", "builtin": "a = []"}
BY_MANY = {
    "fastshm": "x = range(1_000, 2_000)\na = fastshm.Array('q', 0)",
    "manager": "x = range(1_000, 2_000)\na = manager.list()",
    "builtin": "x = range(1_000, 2_000)\na = []",
}
VIEWS = {
    "fastshm": "import numpy as np; a = np.frombuffer(fastshm.Array('d', 100_000).get_obj())",
    "stdlib": "import numpy as np; a = np.frombuffer(mp.Array('d', 100_000).get_obj())",
    "numpy": "import numpy as np; a = np.zeros(100_000)",
}
RLOCKS = {"fastshm": "lock = fastshm.RLock()", "stdlib": "lock = mp.RLock()"}
LOCKS = {"fastshm": "lock = fastshm.Lock()", "stdlib": "lock = mp.Lock()"}
NOTHING = {"fastshm": "", "stdlib": ""}


def both(text: str) -> dict[str, str]:
    """One text for both modules."""
    return {"fastshm": text.replace("M.", "fastshm."), "stdlib": text.replace("M.", "mp.")}


SEMAPHORES, BOUNDED = both("s = M.Semaphore(1)"), both("s = M.BoundedSemaphore(1)")
EVENTS, SET_EVENTS = both("e = M.Event()"), both("e = M.Event()\ne.set()")
CONDITIONS, BARRIERS = both("c = M.Condition()"), both("b = M.Barrier(1)")

ROWS: list[Row] = [
    Loop("v.fetch_add(1)", WORDS, {"stdlib": LOCKED}, {"stdlib": 22}, hot=True),
    Loop("v.add(1)", WORDS, {"stdlib": LOCKED, "atomicshm": "v.fetch_add(1)"}, {"stdlib": 40}, hot=True),
    Loop("with v.get_lock(): v.value += 1", VALUES, dict.fromkeys(VALUES, LOCKED), {"stdlib": 5}, hot=True),
    Loop("v.value", WORDS, {"atomicshm": "v.load()"}, {"stdlib": 5}, hot=True),
    Loop("v.value = 1", WORDS, {"atomicshm": "v.store(1)"}, {"stdlib": 7}, hot=True),
    Loop("v.load()", WORDS, {"stdlib": "v.value"}),
    Loop("v.store(1)", WORDS, {"stdlib": "v.value = 1"}),
    Loop("v.exchange(1)", WORDS, {"stdlib": LOCKED_EXCHANGE}),
    Loop("v.compare_exchange(1_000_000, 1_000_000)", WORDS,
         {"stdlib": LOCKED_COMPARE, "atomicshm": "v.cas(1_000_000, 1_000_000)"}),
    Loop("v.fetch_sub(1)", WORDS, {"stdlib": LOCKED.replace("+=", "-=")}),
    Loop("v.fetch_and(-1)", WORDS, {"stdlib": LOCKED.replace("+= 1", "&= -1")}),
    Loop("v.fetch_or(1)", WORDS, {"stdlib": LOCKED.replace("+=", "|=")}),
    Loop("v.fetch_xor(1)", WORDS, {"stdlib": LOCKED.replace("+=", "^=")}),
    Loop("v.fetch_max(1)", VALUES, {"stdlib": LOCKED_EXTREME.format("max")}),
    Loop("v.fetch_min(2_000_000)", VALUES, {"stdlib": LOCKED_EXTREME.format("min")}),
    Loop("v.wait(0), when it is another", VALUES | {"stdlib": "e = mp.Event()\ne.set()"},
         {"fastshm": "v.wait(0)", "stdlib": "e.wait()"}),
    Loop("v.notify_all(), nobody waits", VALUES | {"stdlib": "c = mp.Condition()"},
         {"fastshm": "v.notify_all()", "stdlib": "with c:\n    c.notify_all()"}),
    Loop("ShardedCounter: v.add(1)", COUNTERS, {"fastshm": "v.add(1)", "stdlib": LOCKED}, hot=True),
    Loop("ShardedCounter: v.value", COUNTERS, dict.fromkeys(COUNTERS, "v.value")),
    Loop("ShardedCounter: v.exchange(1)", COUNTERS, {"fastshm": "v.exchange(1)", "stdlib": LOCKED_EXCHANGE}),
    Loop("RawValue: v.value", RAW_VALUES, dict.fromkeys(RAW_VALUES, "v.value")),
    Loop("RawValue: v.value = 1", RAW_VALUES, dict.fromkeys(RAW_VALUES, "v.value = 1")),
    Loop("a[7]", ARRAYS, budget={"stdlib": 20}, hot=True),
    Loop("a[7] = 1", ARRAYS, budget={"stdlib": 28}, hot=True),
    Loop("a.add(7, 1)", ARRAYS, {"stdlib": LOCKED_ITEM}, {"stdlib": 35}),
    Loop("a.fetch_add(7, 1)", ARRAYS, {"stdlib": LOCKED_ITEM}),
    Loop("a[:]  (1,000 doubles)", DOUBLES, dict.fromkeys(DOUBLES, "a[:]"), {"stdlib": 1.2}),
    Loop("a[:] = list  (1,000 doubles)", DOUBLES, dict.fromkeys(DOUBLES, "a[:] = x"), {"stdlib": 15}),
    Loop("a[-1]", ARRAYS),
    Loop("a.fill(1.0)  (1,000 doubles)", DOUBLES, {"fastshm": "a.fill(1.0)", "stdlib": "a[:] = [1.0] * 1_000"}),
    Loop("a.add_from(x)  (1,000 doubles)", DOUBLES, ADDED, rounds=5),
    Loop("a.append(1_000_000)", GROWING, fresh=GROWING, count=100_000),
    Loop("a.extend(x)  (1,000 at a time, an item)", BY_MANY, dict.fromkeys(BY_MANY, "a.extend(x)"), fresh=BY_MANY, count=100,
         each=1_000),
    Loop("Value('q', 0), made and dropped", NOTHING, {"fastshm": "fastshm.Value('q', 0)", "stdlib": "mp.Value('q', 0)"},
         {"stdlib": 100}),
    Loop("Array('d', 1_000), made and dropped", NOTHING,
         {"fastshm": "fastshm.Array('d', 1_000)", "stdlib": "mp.Array('d', 1_000)"}, {"stdlib": 100}),
    Loop("Value('q', 0), 1,000 made and kept", {"fastshm": "Value = fastshm.Value", "stdlib": "Value = mp.Value"},
         dict.fromkeys(NOTHING, "[Value('q', 0) for _ in range(1_000)]"), each=1_000, rounds=5),
    Loop("RLock: with lock: pass", RLOCKS, dict.fromkeys(RLOCKS, "with lock:\n    pass"), {"stdlib": 5.5}),
    Loop("RLock: acquire, release", RLOCKS, dict.fromkeys(RLOCKS, "lock.acquire()\nlock.release()"), {"stdlib": 2}),
    Loop("Lock: with lock: pass", LOCKS, dict.fromkeys(LOCKS, "with lock:\n    pass")),
    Loop("Lock: acquire, release", LOCKS, dict.fromkeys(LOCKS, "lock.acquire()\nlock.release()")),
    Loop("Semaphore: acquire, release", SEMAPHORES, dict.fromkeys(NOTHING, "s.acquire()\ns.release()")),
    Loop("Semaphore: with s: pass", SEMAPHORES, dict.fromkeys(NOTHING, "with s:\n    pass")),
    Loop("BoundedSemaphore: acquire, release", BOUNDED, dict.fromkeys(NOTHING, "s.acquire()\ns.release()")),
    Loop("Event: is_set", EVENTS, dict.fromkeys(NOTHING, "e.is_set()")),
    Loop("Event: set, clear", EVENTS, dict.fromkeys(NOTHING, "e.set()\ne.clear()")),
    Loop("Event: wait, when set", SET_EVENTS, dict.fromkeys(NOTHING, "e.wait()")),
    Loop("Condition: notify, nobody waits", CONDITIONS, dict.fromkeys(NOTHING, "with c:\n    c.notify()")),
    Loop("Barrier(1): wait", BARRIERS, dict.fromkeys(NOTHING, "b.wait()")),
    Loop("Semaphore, made and dropped", NOTHING, both("M.Semaphore(1)")),
    Loop("Condition, made and dropped", NOTHING, both("M.Condition()")),
]  # fmt: skip

if find_spec("numpy"):
    ROWS += [
        Loop("np.frombuffer(a.get_obj())", {rival: f"import numpy as np\n{text}" for rival, text in ARRAYS.items()}),
        Loop(
            "a[:] = ndarray  (1,000 doubles)",
            {rival: f"import numpy as np\n{text}\nx = np.array(x)" for rival, text in DOUBLES.items()},
            dict.fromkeys(DOUBLES, "a[:] = x"),
        ),
        Loop(
            "a.numpy()",
            {"fastshm": f"{ARRAYS['fastshm']}\na.numpy()", "stdlib": f"import numpy as np\n{ARRAYS['stdlib']}"},
            {"fastshm": "a.numpy()", "stdlib": "np.frombuffer(a.get_obj())"},
        ),
        Loop("NumPy view: a.sum()  (100,000 doubles)", VIEWS, dict.fromkeys(VIEWS, "a.sum()"), {"numpy": 1.1}),
        Loop("NumPy view: a += 1  (100,000 doubles)", VIEWS, dict.fromkeys(VIEWS, "a += 1"), {"numpy": 1.1}),
    ]
