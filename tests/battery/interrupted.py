"""The operations that interrupts.py interrupts: on what, what is done, and what a whole one makes of the plain value."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import fastshm
from fastshm._core import Handle


class Thing:
    """What only pickle can store, by code of its own; equal by its number, also as a key."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        parts = [self.number // 2, self.number - self.number // 2]
        return made, tuple(parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and self.number == other.number

    def __hash__(self) -> int:
        return hash(("Thing", self.number))


def made(*parts: int) -> Thing:
    return Thing(sum(parts))


TEXT = "text " * 40
THING = Thing(7)
INNER = fastshm.list([1, 2, 3])
SENTINELS = [TEXT, THING, INNER]  # none of their references may be lost or kept
MANY = {i: i for i in range(1500)}


def frozen(value: Any) -> Any:
    if type(value) is list:
        return [frozen(part) for part in value]
    return value._address if isinstance(value, Handle) else value


def plain(thing: Any) -> Any:
    """What is compared; a lock that an interrupt has left to its user is given back."""
    if hasattr(thing, "abandoned"):
        state = thing._state()
        holder, count = state if isinstance(state, tuple) else (state, 1)
        if holder == "mine":
            assert count == 1, f"held {count} times"
            thing.release()
        return None
    if hasattr(thing, "increment"):
        return {key: frozen(value) for key, value in thing.copy().items()}
    if hasattr(thing, "append"):
        return [frozen(value) for value in thing[:]]
    return thing[:] if hasattr(thing, "__len__") else thing if thing is None else thing.value


def value() -> Any:
    return fastshm.Value("q", 5)


def counter() -> Any:
    return fastshm.ShardedCounter(5)


def real() -> Any:
    return fastshm.Value("d", 0.5)


def array() -> Any:
    return fastshm.Array("q", 8)


def table() -> Any:
    return fastshm.dict({"word": 1, "text": TEXT, "object": THING, "live": INNER, THING: "own", (1, "a"): None})


def vector() -> Any:
    return fastshm.list([3, TEXT, THING, INNER, 2.5, None])


def numbers() -> Any:
    return fastshm.list([(7 * i) % 20 for i in range(20)])


def moved(i: int) -> Any:
    items = fastshm.Array("q", 8)
    hedge = fastshm.Array("q", 8)
    items.extend([i] * 900)
    assert hedge[:] == [0] * 8
    return items


def nothing() -> None:
    return None


def locked(thing: Any, step: Callable[[], Any]) -> None:
    with thing:
        step()


def reset(operation: Operation, thing: Any) -> None:
    """Back to what it was made with."""
    if thing is None or hasattr(thing, "abandoned"):
        return
    new = operation.make()
    if hasattr(thing, "increment"):
        thing.clear()
        thing.update(new)
    elif hasattr(thing, "__len__"):
        if hasattr(thing, "resize"):
            thing.resize(len(new))
        thing[:] = new[:]
    elif hasattr(thing, "reset"):
        thing.exchange(new.value)
    else:
        thing.value = new.value


class Operation(NamedTuple):
    name: str
    make: Callable[[], Any]
    do: Callable[[Any, int], Any]
    then: Callable[[Any, int], Any] = lambda s, i: s
    leaves: bool = False  # tickets, when pickling is cut short


def without(state: dict[Any, Any], key: Any) -> dict[Any, Any]:
    return {k: v for k, v in state.items() if k != key}


def put(state: list[Any], where: Any, what: Any) -> list[Any]:
    out = list(state)
    out[where] = what
    return out


LIVE = frozen(INNER)
OPERATIONS = [
    Operation("Value.value =", value, lambda v, i: setattr(v, "value", i), lambda s, i: i),
    Operation("Value.value", value, lambda v, i: v.value),
    Operation("Value.exchange", value, lambda v, i: v.exchange(i), lambda s, i: i),
    Operation("Value.compare_exchange", value, lambda v, i: v.compare_exchange(5, i), lambda s, i: i if s == 5 else s),
    Operation("Value.fetch_add", value, lambda v, i: v.fetch_add(3), lambda s, i: s + 3),
    Operation("Value.fetch_xor", value, lambda v, i: v.fetch_xor(i), lambda s, i: s ^ i),
    Operation("Value.fetch_max", value, lambda v, i: v.fetch_max(i), lambda s, i: max(s, i)),
    Operation("Value.wait, with another's section", value, lambda v, i: v.wait(6)),
    Operation("Value.wait(timeout)", value, lambda v, i: v.wait(5, 0.0004)),
    Operation("Value.notify_all", value, lambda v, i: v.notify_all()),
    Operation("ShardedCounter.add", counter, lambda c, i: c.add(i), lambda s, i: s + i),
    Operation("ShardedCounter.exchange", counter, lambda c, i: c.exchange(i), lambda s, i: i),
    Operation("ShardedCounter.value", counter, lambda c, i: c.value),
    Operation("Value.add, double", real, lambda v, i: v.add(0.5), lambda s, i: s + 0.5),
    Operation("with Value", value, lambda v, i: locked(v, lambda: v.add(1)), lambda s, i: s + 1),
    Operation("with Value.get_lock()", value, lambda v, i: locked(v.get_lock(), lambda: v.add(1)), lambda s, i: s + 1),
    Operation("Array item =", array, lambda a, i: a.__setitem__(i % 8, i), lambda s, i: put(s, i % 8, i)),
    Operation("Array item", array, lambda a, i: a[i % 8]),
    Operation("Array.fetch_add", array, lambda a, i: a.fetch_add(i % 8), lambda s, i: put(s, i % 8, s[i % 8] + 1)),
    Operation("Array slice =", array, lambda a, i: a.__setitem__(slice(2, 6), [i] * 4), lambda s, i: s[:2] + [i] * 4 + s[6:]),
    Operation("Array[:]", array, lambda a, i: a[:]),
    Operation("Array.append", array, lambda a, i: a.append(i), lambda s, i: [*s, i]),
    Operation("Array.extend", array, lambda a, i: a.extend([i] * 90), lambda s, i: [*s, *[i] * 90]),
    Operation("Array.resize", array, lambda a, i: a.resize(i % 20), lambda s, i: (s + [0] * 20)[: i % 20]),
    Operation("Array.fill", array, lambda a, i: a.fill(i), lambda s, i: [i] * 8),
    Operation("Array.add_from", array, lambda a, i: a.add_from([i] * 8), lambda s, i: [n + i for n in s]),
    Operation("Array.fetch_max", array, lambda a, i: a.fetch_max(1, i), lambda s, i: put(s, 1, max(s[1], i))),
    Operation("Array.wait(timeout)", array, lambda a, i: a.wait(0, 0, 0.0004)),
    Operation("Array.get_obj()", array, lambda a, i: a.get_obj()[0]),
    Operation("an Array that moves, and a view", nothing, lambda _, i: moved(i).get_obj()[-1]),
    Operation("dict word =", table, lambda d, i: d.__setitem__("word", i), lambda s, i: {**s, "word": i}),
    Operation("dict text =", table, lambda d, i: d.__setitem__("text", TEXT[: i % 199]),
              lambda s, i: {**s, "text": TEXT[: i % 199]}),
    Operation("dict object =", table, lambda d, i: d.__setitem__("object", Thing(i)), lambda s, i: {**s, "object": Thing(i)}),
    Operation("dict live =", table, lambda d, i: d.__setitem__("live", INNER)),
    Operation("dict bundle =", table, lambda d, i: d.__setitem__("both", [INNER, i]), lambda s, i: {**s, "both": [LIVE, i]}),
    Operation("dict own key =", table, lambda d, i: d.__setitem__(Thing(i % 9), i), lambda s, i: {**s, Thing(i % 9): i}),
    Operation("dict new key =", table, lambda d, i: d.__setitem__(("new", i), TEXT), lambda s, i: {**s, ("new", i): TEXT}),
    Operation("dict word", table, lambda d, i: d["word"]),
    Operation("dict object", table, lambda d, i: d["object"]),
    Operation("dict live", table, lambda d, i: d["live"]),
    Operation("dict own key", table, lambda d, i: d[THING]),
    Operation("dict miss", table, lambda d, i: d.get(Decimal(i))),
    Operation("in dict", table, lambda d, i: THING in d),
    Operation("del dict", table, lambda d, i: d.pop("text", None), lambda s, i: without(s, "text")),
    Operation("dict pop object", table, lambda d, i: d.pop("object", None), lambda s, i: without(s, "object")),
    Operation("dict popitem", table, lambda d, i: d and d.popitem(), lambda s, i: dict(list(s.items())[:-1])),
    Operation("dict setdefault", table, lambda d, i: d.setdefault(i, THING), lambda s, i: {i: THING, **s} if i not in s else s),
    Operation("dict increment", table, lambda d, i: d.increment("word"), lambda s, i: {**s, "word": s["word"] + 1}),
    Operation("dict increment, double", table, lambda d, i: d.increment("x", 0.5),
              lambda s, i: {**s, "x": s.get("x", 0) + 0.5}),
    Operation("dict update", table, lambda d, i: d.update(word=i, text=TEXT, b=i),
              lambda s, i: {**s, "word": i, "text": TEXT, "b": i}),
    Operation("dict update, many", table, lambda d, i: d.update(MANY), lambda s, i: {**s, **MANY}),
    Operation("dict update, own", table, lambda d, i: d.update({Thing(i % 5): i, THING: i}),
              lambda s, i: {**s, Thing(i % 5): i, THING: i}),
    Operation("dict clear", table, lambda d, i: d.clear(), lambda s, i: {}),
    Operation("dict copy", table, lambda d, i: d.copy()),
    Operation("dict get_many", table, lambda d, i: d.get_many(["word", THING, "live"])),
    Operation("list append", vector, lambda x, i: x.append(i), lambda s, i: [*s, i]),
    Operation("list append object", vector, lambda x, i: x.append(Thing(i)), lambda s, i: [*s, Thing(i)]),
    Operation("list append live", vector, lambda x, i: x.append(INNER), lambda s, i: [*s, LIVE]),
    Operation("list extend", vector, lambda x, i: x.extend([TEXT, i, THING]), lambda s, i: [*s, TEXT, i, THING]),
    Operation("list insert", vector, lambda x, i: x.insert(1, TEXT), lambda s, i: [s[0], TEXT, *s[1:]]),
    Operation("list item =", vector, lambda x, i: x.__setitem__(1, i), lambda s, i: put(s, 1, i)),
    Operation("list item", vector, lambda x, i: x[2]),
    Operation("list live item", vector, lambda x, i: x[3]),
    Operation("list del, append", vector, lambda x, i: x.pop() if i % 2 else x.append(i),
              lambda s, i: s[:-1] if i % 2 else [*s, i]),
    Operation("list slice =", vector, lambda x, i: x.__setitem__(slice(1, 4), [i, TEXT]), lambda s, i: [s[0], i, TEXT, *s[4:]]),
    Operation("list sort", numbers, lambda x, i: x.sort(key=lambda n: -n), lambda s, i: sorted(s, reverse=True)),
    Operation("list reverse", vector, lambda x, i: x.reverse(), lambda s, i: s[::-1]),
    Operation("list remove", numbers, lambda x, i: x and x.remove(x[-1]), lambda s, i: removed(s)),
    Operation("list *=", vector, lambda x, i: x.__imul__(2 if len(x) < 20 else 0), lambda s, i: s * (2 if len(s) < 20 else 0)),
    Operation("list[:]", vector, lambda x, i: x[:]),
    Operation("with Lock", fastshm.Lock, lambda x, i: locked(x, nothing)),
    Operation("with RLock", fastshm.RLock, lambda x, i: locked(x, nothing)),
    Operation("Lock.acquire, release", fastshm.Lock, lambda x, i: (x.acquire(), x.release())),
    Operation("RLock.acquire, release", fastshm.RLock, lambda x, i: (x.acquire(), x.release())),
    Operation("Lock.acquire(timeout)", fastshm.Lock, lambda x, i: x.acquire(timeout=0.0004) and x.release()),
    Operation("RLock.acquire(timeout)", fastshm.RLock, lambda x, i: x.acquire(timeout=0.0004) and x.release()),
    Operation("make a Value", nothing, lambda _, i: fastshm.Value("q", i)),
    Operation("make a ShardedCounter", nothing, lambda _, i: fastshm.ShardedCounter(i)),
    Operation("make an Array", nothing, lambda _, i: fastshm.Array("d", [1.0, 2.0])),
    Operation("make a dict", nothing, lambda _, i: fastshm.dict(a=TEXT, b=INNER)),
    Operation("make a list", nothing, lambda _, i: fastshm.list([THING, INNER])),
    Operation("make a Lock", nothing, lambda _, i: (fastshm.Lock(), fastshm.RLock())),
    Operation("make of a Manager", nothing, lambda _, i: fastshm.Manager().dict(a=1)),
    Operation("many handles", nothing, lambda _, i: [fastshm.Value("b") for _ in range(60)]),
    Operation("pickle", value, lambda v, i: pickle.loads(pickle.dumps(v)), leaves=True),
]  # fmt: skip


def removed(state: list[Any]) -> list[Any]:
    out = list(state)
    if out:
        out.remove(out[-1])
    return out
