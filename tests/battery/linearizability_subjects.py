"""What the processes of item 11 act on: for each kind of shared object its calls, and what each should do to a state.

Values are words, so that a result is one word in the log and a state can be hashed; `real` and `word_of` go between a word and
the value, in each form that a value has in shared memory, and a torn one is of no word.
"""

from __future__ import annotations

import operator
import os
import random
import zlib
from collections.abc import Hashable
from typing import Any

from wing_gong import Call

import fastshm
from fastshm.caching import Cache
from fastshm.managers import ListProxy

# --- values, and what a call gave, as one word --------------------------------------------------------------------------------

ABSENT, KEY_ERROR, INDEX_ERROR, TYPE_ERROR, DONE = -1, -2, -3, -4, -5
MISSING = object()
INT, FLOAT, SHORT, LONG, PICKLED, NESTED, BYTES, BIG_PICKLE = range(8)  # how a value lies in shared memory
NUMBERS = (INT, FLOAT)


class Slow:
    """A value that lets others run while it is pickled or unpickled: amid a call that must look, think and come back."""

    def __init__(self, n: int) -> None:
        self.n, self.same = n, n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slow) and other.n == self.n == other.same

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        os.sched_yield()
        return slow, (self.n,)


def slow(n: int) -> Slow:
    os.sched_yield()
    return Slow(n)


def real(word: int) -> Any:
    """The value that a word stands for: the number word >> 3 in one of eight forms."""
    n, form = word >> 3, word & 7
    if form == INT:
        return n
    if form == FLOAT:
        return float(n)
    if form == SHORT:
        return str(n)
    if form == LONG:
        return f"{n}," * (30 + n % 200)
    if form == PICKLED:
        return Slow(n)
    if form == NESTED:
        return fastshm.list([n, str(n)])
    return f"{n},".encode() * 40 if form == BYTES else [n] * 300


def word_of(value: Any) -> int:
    """The inverse; ValueError for what is of no word, as a torn value is."""
    if value is MISSING:
        return ABSENT
    kind = type(value)
    if kind is ListProxy:
        value = value[:]
        if value != [value[0], str(value[0])]:
            raise ValueError(f"torn: {value!r}")
        return value[0] << 3 | NESTED
    form = {int: INT, float: FLOAT, str: SHORT, Slow: PICKLED, bytes: BYTES, list: BIG_PICKLE}[kind]
    if kind is str and "," in value:
        form = LONG
    if form in (INT, FLOAT, SHORT):
        n = int(value)
    elif form in (PICKLED, BIG_PICKLE):
        n = value.n if form == PICKLED else value[0]
    else:
        n = int(value.split(b"," if kind is bytes else ",")[0])
    word = n << 3 | form
    if real(word) != value:
        raise ValueError(f"torn: {value!r:.300}")
    return word


def digest(words: Any) -> int:
    """Many words as one."""
    return zlib.crc32(repr(list(words)).encode())


class Odd:
    """A key that only `==` can compare."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        os.sched_yield()
        return isinstance(other, Odd) and other.n == self.n

    def __hash__(self) -> int:
        return hash(("odd", self.n))


KEYS = ("a", 7, "a key that is too long for its entry, so it lies in a block", (1, "b"), Odd(1), Odd(2))


# --- subjects: what is acted on, by which calls, and what they should do ------------------------------------------------------


class Subject:
    """One kind of shared object. `call` acts on the real one and `specification` on a state of it that can be hashed."""

    name: str
    names: tuple[str, ...]  # of its calls; what is there twice is called twice as often
    always: tuple[str, ...]  # those without which the order of the others stays unknown for long
    keys: tuple[int, ...] = (0,)
    forms: tuple[int, ...] = (INT,)
    state: Hashable
    final: tuple[tuple[str, tuple[Any, ...]], ...]  # calls of a process that looks on at the end

    def make(self) -> Any:
        raise NotImplementedError

    def arguments(self, rng: random.Random, name: str, key: int, word: int) -> tuple[Any, ...]:
        """Of one call; `word` stands for a value that nobody else uses."""
        return (key, word)

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        raise NotImplementedError

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        raise NotImplementedError

    def parts(self, call: Call) -> Hashable:
        """Calls of different parts are on independent objects: such a history is judged part by part."""
        return None


class Keys(Subject):
    """A dict, key by key."""

    name = "dict, key by key"
    names = ("set", "set", "get", "get", "get", "delete", "pop", "setdefault", "increment", "increment", "in", "update",
             "compare_exchange", "compare_exchange", "set_many", "pop_many", "add_from", "wait_for")  # fmt: skip
    always = ("get",)
    keys = (0, 0, 1, 2, 3, 4, 5)
    forms = (INT, INT, INT, *range(8))
    state = ABSENT
    final = tuple(("get", (k,)) for k in range(len(KEYS)))

    def make(self) -> Any:
        return fastshm.dict()

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        key = KEYS[arguments[0]]
        if name == "set":
            target[key] = real(arguments[1])
        elif name == "get":
            return word_of(target.get(key, MISSING))
        elif name == "delete":
            del target[key]
        elif name == "pop":
            return word_of(target.pop(key, MISSING))
        elif name == "setdefault":
            return word_of(target.setdefault(key, real(arguments[1])))
        elif name == "increment":
            return word_of(target.increment(key))
        elif name == "in":
            return int(key in target)
        elif name == "wait_for":
            return word_of(target.wait_for(key, timeout=0))
        elif name == "pop_many":
            return word_of(*target.pop_many([key], MISSING))
        elif name == "add_from":
            target.add_from({key: 1})
        elif name == "compare_exchange":
            expected = arguments[2]
            return int(target.compare_exchange(key, MISSING if expected & 7 == NESTED else real(expected), real(arguments[1])))
        elif name == "set_many":
            target.set_many({key: real(arguments[1])})
        else:
            target.update({key: real(arguments[1])})
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name = call.name
        if name in ("set", "update", "set_many"):
            return call.arguments[1], DONE
        if name in ("get", "wait_for"):
            return state, state
        if name == "compare_exchange":
            return (call.arguments[1], 1) if self.are_equal(state, call.arguments[2]) else (state, 0)
        if name == "add_from":
            if state == ABSENT:
                return 8 | INT, DONE
            return (state + 8, DONE) if state & 7 in NUMBERS else (state, TYPE_ERROR)
        if name == "delete":
            return ABSENT, KEY_ERROR if state == ABSENT else DONE
        if name in ("pop", "pop_many"):
            return ABSENT, state
        if name == "setdefault":
            return (call.arguments[1],) * 2 if state == ABSENT else (state, state)
        if name == "in":
            return state, int(state != ABSENT)
        if state == ABSENT:
            return (8 | INT,) * 2
        return (state + 8,) * 2 if state & 7 in NUMBERS else (state, TYPE_ERROR)

    def are_equal(self, a: int, b: int) -> bool:
        """Of numbers, the form does not count; a list that is stored is another one than any that is made."""
        if a == ABSENT or a & 7 == NESTED:
            return False
        return a == b or (a >> 3 == b >> 3 and a & 7 in NUMBERS and b & 7 in NUMBERS)

    def parts(self, call: Call) -> Hashable:
        return call.arguments[0]


class Whole(Subject):
    """A dict as one object: its order, its length, many keys at once."""

    name = "dict as a whole"
    names = ("set", "set", "delete", "get", "len", "len", "in", "update", "items", "clear", "popitem", "popitem first")
    always = ("items",)
    keys = (0, 1, 2, 3)
    forms = (INT, INT, SHORT, LONG, PICKLED)
    state = ()
    final = (("items", ()), ("len", ()))

    def make(self) -> Any:
        return fastshm.dict()

    def arguments(self, rng: random.Random, name: str, key: int, word: int) -> tuple[Any, ...]:
        return tuple((k, word) for k in rng.sample(self.keys, 3)) if name == "update" else (key, word)

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "set":
            target[KEYS[arguments[0]]] = real(arguments[1])
        elif name == "delete":
            del target[KEYS[arguments[0]]]
        elif name == "get":
            return word_of(target.get(KEYS[arguments[0]], MISSING))
        elif name == "len":
            return len(target)
        elif name == "in":
            return int(KEYS[arguments[0]] in target)
        elif name == "update":
            target.update({KEYS[key]: real(word) for key, word in arguments})
        elif name == "items":
            return digest((KEYS.index(key), word_of(value)) for key, value in target.items())
        elif name == "clear":
            target.clear()
        else:
            key, value = target.popitem(last=name == "popitem")
            return digest([(KEYS.index(key), word_of(value))])
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name, now = call.name, dict(state)
        if name == "set":
            now[call.arguments[0]] = call.arguments[1]
        elif name == "delete":
            if now.pop(call.arguments[0], None) is None:
                return state, KEY_ERROR
        elif name == "get":
            return state, now.get(call.arguments[0], ABSENT)
        elif name == "len":
            return state, len(now)
        elif name == "in":
            return state, int(call.arguments[0] in now)
        elif name == "update":
            now.update(call.arguments)
        elif name == "items":
            return state, digest(now.items())
        elif name == "clear":
            now = {}
        elif not now:
            return state, KEY_ERROR
        elif name == "popitem first":
            return state[1:], digest(state[:1])
        else:
            return state[:-1], digest(state[-1:])
        return tuple(now.items()), DONE


CHANGES = {"fetch_and": operator.and_, "fetch_or": operator.or_, "fetch_xor": operator.xor, "fetch_max": max, "fetch_min": min}


class Counter(Subject):
    """A Value."""

    name = "Value"
    names = ("add", "fetch_add", "fetch_sub", "fetch_and", "fetch_or", "fetch_xor", "fetch_max", "fetch_min", "exchange",
             "compare_exchange", "compare_exchange", "load", "load", "store", "locked add")  # fmt: skip
    always = ("load",)
    state = 0
    final = (("load", ()),)

    def make(self) -> Any:
        return fastshm.Value("q")

    def arguments(self, rng: random.Random, name: str, key: int, word: int) -> tuple[Any, ...]:
        return (word,)

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "add":
            target.add(1)
        elif name == "fetch_add":
            return target.fetch_add(1)
        elif name == "fetch_sub":
            return target.fetch_sub(3)
        elif name in CHANGES:
            return getattr(target, name)(arguments[0])
        elif name == "exchange":
            return target.exchange(arguments[0])
        elif name == "compare_exchange":
            return int(target.compare_exchange(arguments[1], arguments[0]))
        elif name == "load":
            return target.value
        elif name == "store":
            target.value = arguments[0]
        else:
            with target.get_lock():
                was = target.value
                target.value = was + 1
                return was
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name = call.name
        if name in ("add", "fetch_add", "locked add"):
            return state + 1, DONE if name == "add" else state
        if name == "fetch_sub":
            return state - 3, state
        if name in CHANGES:
            return CHANGES[name](state, call.arguments[0]), state
        if name == "exchange":
            return call.arguments[0], state
        if name == "compare_exchange":
            return (call.arguments[0], 1) if state == call.arguments[1] else (state, 0)
        return (state, state) if name == "load" else (call.arguments[0], DONE)


class Sharded(Subject):
    """A ShardedCounter to which ones are added: so a sum is what the count was at some instant. Of other additions, and beside
    an exchange, that is not promised."""

    name = "ShardedCounter"
    names = ("add", "add", "value")
    always = ("value",)
    state = 0
    final = (("value", ()),)

    def make(self) -> Any:
        return fastshm.ShardedCounter()

    def arguments(self, rng: random.Random, name: str, key: int, word: int) -> tuple[Any, ...]:
        return ()

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "value":
            return target.value
        target.add()
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        return (state, state) if call.name == "value" else (state + 1, DONE)


class Members(Subject):
    """A set."""

    name = "set"
    names = ("add", "add", "discard", "remove", "in", "in", "len", "update", "copy", "pop", "clear")
    always = ("copy",)
    keys = (0, 1, 2, 3)
    state = ()
    final = (("copy", (0, 0)), ("len", (0, 0)))

    def make(self) -> Any:
        return fastshm.set()

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        key = KEYS[arguments[0]]
        if name == "add":
            target.add(key)
        elif name == "discard":
            target.discard(key)
        elif name == "remove":
            target.remove(key)
        elif name == "in":
            return int(key in target)
        elif name == "len":
            return len(target)
        elif name == "update":
            target.update(KEYS[1:4], [key])
        elif name == "copy":
            return digest(sorted(map(KEYS.index, target.copy())))
        elif name == "pop":
            return KEYS.index(target.pop())
        else:
            target.clear()
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name, key = call.name, call.arguments[0]
        if name in ("add", "update"):
            new = (key,) if name == "add" else (1, 2, 3, key)
            return tuple(dict.fromkeys((*state, *new))), DONE
        if name in ("discard", "remove"):
            error = name == "remove" and key not in state
            return tuple(item for item in state if item != key), KEY_ERROR if error else DONE
        if name == "in":
            return state, int(key in state)
        if name == "len":
            return state, len(state)
        if name == "copy":
            return state, digest(sorted(state))
        if name == "clear":
            return (), DONE
        return (state[:-1], state[-1]) if state else (state, KEY_ERROR)


class Counts(Subject):
    """A Counter: several counts as one change."""

    name = "Counter"
    names = ("update", "update", "subtract", "increment", "get", "total", "copy", "delete", "larger", "smaller")
    always = ("copy",)
    keys = (0, 1, 2)
    state = (0, 0, 0)
    final = (("copy", (0, 0)), ("total", (0, 0)))

    def make(self) -> Any:
        return fastshm.Counter()

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        key = KEYS[arguments[0]]
        if name == "update":
            target.update({KEYS[0]: 1, KEYS[1]: 10, KEYS[2]: 100})
        elif name == "subtract":
            target.subtract({KEYS[2]: 1, key: 5})
        elif name == "increment":
            return target.increment(key)
        elif name == "get":
            return target[key]
        elif name == "total":
            return target.total()
        elif name == "copy":
            counts = target.copy()
            return digest(counts[KEYS[i]] for i in self.keys)
        elif name == "larger":
            target |= {key: 7}
        elif name == "smaller":
            target &= {**dict.fromkeys(KEYS[:3], 50), key: 3}
        else:
            del target[key]
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name, key, now = call.name, call.arguments[0], list(state)
        if name == "update":
            return (state[0] + 1, state[1] + 10, state[2] + 100), DONE
        if name == "get":
            return state, state[key]
        if name == "total":
            return state, sum(state)
        if name == "copy":
            return state, digest(state)
        if name == "increment":
            now[key] += 1
            return tuple(now), now[key]
        if name == "delete":
            now[key] = 0
        elif name == "larger":
            now = [max(n, 7 if i == key else 0) for i, n in enumerate(state)]
        elif name == "smaller":
            now = [max(0, min(n, 3 if i == key else 50)) for i, n in enumerate(state)]
        else:
            for i, amount in {2: 1, key: 5}.items():
                now[i] -= amount
        return tuple(now), DONE


class LiveLists(Subject):
    """Lists in a live dict, which whoever comes first makes: key by key."""

    name = "live lists"
    names = ("append", "append", "pop", "slice")
    always = ("slice", "pop")
    keys = (0, 1, 2, 4)
    forms = (INT, SHORT, LONG, PICKLED)
    state = ()
    final = tuple(("slice", (key, 0)) for key in keys)

    def make(self) -> Any:
        return fastshm.live({})

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        items = target.setdefault(KEYS[arguments[0]], [])
        if name == "append":
            items.append(real(arguments[1]))
        elif name == "pop":
            return word_of(items.pop())
        else:
            return digest(map(word_of, items[:]))
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        if call.name == "append":
            return (*state, call.arguments[1]), DONE
        if call.name == "pop":
            return (state[:-1], state[-1]) if state else (state, INDEX_ERROR)
        return state, digest(state)

    def parts(self, call: Call) -> Hashable:
        return call.arguments[0]


class Results(Subject):
    """A cache: the first result is everybody's, key by key."""

    name = "cache"
    names = ("compute", "compute", "get", "in")
    always = ("get",)
    keys = tuple(range(60))
    forms = (INT, SHORT, LONG, PICKLED)
    state = ABSENT
    final = tuple(("get", (key, 0)) for key in keys)

    def make(self) -> Any:
        return Cache()

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        key, word = arguments
        if name == "compute":
            return word_of(target.get_or_compute(key, lambda: real(word)))
        return int(key in target) if name == "in" else word_of(target.get(key, MISSING))

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        if call.name == "in":
            return state, int(state != ABSENT)
        if call.name == "compute" and state == ABSENT:
            state = call.arguments[1]
        return state, state

    def parts(self, call: Call) -> Hashable:
        return call.arguments[0]


class Deque(Subject):
    """A list, used at both ends and in the middle."""

    name = "list"
    names = ("append", "append", "append", "pop", "pop first", "insert", "get", "get", "set", "set", "len", "slice", "extend",
             "reverse", "delete", "replace", "cut")  # fmt: skip
    always = ("slice", "pop")
    keys = (0, -1, -1, 1)
    forms = (INT, INT, INT, SHORT, LONG, PICKLED, NESTED)
    state = ()
    final = (("slice", ()), ("len", ()))

    def make(self) -> Any:
        return fastshm.list()

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "append":
            target.append(real(arguments[1]))
        elif name in ("pop", "pop first"):
            return word_of(target.pop(*([0] if name == "pop first" else [])))
        elif name == "insert":
            target.insert(arguments[0], real(arguments[1]))
        elif name == "get":
            return word_of(target[arguments[0]])
        elif name == "set":
            target[arguments[0]] = real(arguments[1])
        elif name == "len":
            return len(target)
        elif name == "slice":
            return digest(map(word_of, target[:]))
        elif name == "extend":
            target.extend([real(arguments[1])] * 2)
        elif name == "reverse":
            target.reverse()
        elif name == "delete":
            del target[arguments[0]]
        elif name == "cut":
            del target[6:]
        else:
            target[1:3] = [real(arguments[1])]
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name, now, given = call.name, list(state), call.arguments
        try:
            if name == "append":
                now.append(given[1])
            elif name == "pop":
                return state[:-1], now[-1]
            elif name == "pop first":
                return state[1:], now[0]
            elif name == "insert":
                now.insert(*given)
            elif name == "get":
                return state, now[given[0]]
            elif name == "set":
                now[given[0]] = given[1]
            elif name == "len":
                return state, len(now)
            elif name == "slice":
                return state, digest(now)
            elif name == "extend":
                now.extend([given[1]] * 2)
            elif name == "reverse":
                now.reverse()
            elif name == "delete":
                del now[given[0]]
            elif name == "cut":
                del now[6:]
            else:
                now[1:3] = [given[1]]
        except IndexError:
            return state, INDEX_ERROR
        return tuple(now), DONE


class Numbers(Subject):
    """An Array."""

    name = "Array"
    names = ("fill", "every other", "set", "get", "get", "fetch_add", "slice", "append", "extend", "append", "cut", "last")
    always = ("slice", "cut")
    keys = (0, 1, 99)
    state = (0,) * 100
    final = (("slice", (0, 0)),)

    def make(self) -> Any:
        return fastshm.Array("q", len(self.state))

    def call(self, target: Any, name: str, arguments: tuple[Any, ...]) -> int:
        at, word = arguments
        if name == "fill":
            target.fill(word)
        elif name == "every other":
            target[:100:2] = [word] * 50
        elif name == "append":
            target.append(word)
        elif name == "extend":
            target.extend([word] * 150)
        elif name == "cut":
            target.resize(100)
        elif name == "last":
            return target[-1]
        elif name == "set":
            target[at] = word
        elif name == "get":
            return target[at]
        elif name == "fetch_add":
            return target.fetch_add(at, 1)
        else:
            return digest(target[:])
        return DONE

    def specification(self, state: Any, call: Call) -> tuple[Hashable, Any]:
        name, (at, word), now = call.name, call.arguments, list(state)
        if name == "fill":
            return (word,) * len(now), DONE
        if name == "last":
            return state, now[-1]
        if name == "every other":
            now[:100:2] = [word] * 50
        elif name == "append":
            now.append(word)
        elif name == "extend":
            now += [word] * 150
        elif name == "cut":
            now = now[:100]
        elif name == "set":
            now[at] = word
        elif name == "get":
            return state, now[at]
        elif name == "fetch_add":
            now[at] += 1
            return tuple(now), state[at]
        else:
            return state, digest(state)
        return tuple(now), DONE


SUBJECTS: tuple[Subject, ...] = (
    *(Keys(), Whole(), Counter(), Sharded(), Deque(), Numbers()),
    *(Members(), Counts(), LiveLists(), Results()),
)
