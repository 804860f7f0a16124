"""What the workers of item 3 do, and what an accountant expects of it.

A family is one kind of use of one shared object by all workers at once. Step k of a worker is determined by seed, worker and k,
and so is its result, whatever the others do: a worker owns keys, items or bits of what is shared. So the accountant, which
replays the acknowledged steps on a builtin model, knows what must be there, and each step is one operation, so that the one
under way at a kill is in it wholly or not at all. A new operation is one line of a `step` (and of its `expect`); a new family
is one class and one line of FAMILIES.

The exception are the families of tokens, where workers take what others have put: see Tokens.
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

import fastshm
from fastshm.caching import Cache
from fastshm.managers import DictProxy, ListProxy

WORKERS = 8
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MASK = (1 << 64) - 1


def mix(seed: int, me: int, k: int) -> int:
    """A number that looks like chance (the finalizer of splitmix64)."""
    x = (seed * 0xD1342543DE82EF95 + me * 0xBF58476D1CE4E5B9 + k * 0x9E3779B97F4A7C15) & MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def text(r: int) -> str:
    """Of one letter, short or wide: torn if it is of two."""
    return LETTERS[r % 26] * ((r >> 8) % 1_500 if r % 3 else (r >> 8) % 9)


def must_be_whole(value: str) -> None:
    if len(set(value)) > 1:
        raise AssertionError(f"torn: {value[:5]}...{value[-5:]}")


def new(like: Any, kind: type, *args: Any) -> Any:
    """A nested container: shared in a shared one, plain in a model and in a live one, which shares it by itself."""
    return kind(*args) if isinstance(like, dict | list) or like.live else getattr(fastshm, kind.__name__)(*args)


def plain(value: Any) -> Any:
    """A copy all the way down."""
    if isinstance(value, DictProxy):
        value = value.copy()
    elif isinstance(value, ListProxy):
        value = value[:]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


class Family:
    """`things[self.name]` is the shared object, `r` a number that looks like chance."""

    def __init__(self, name: str, kind: str = "") -> None:
        self.name, self.kind = name, kind

    def make(self) -> Any:
        raise NotImplementedError

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        """On the shared object; the result is plain, and the same whatever others do."""
        raise NotImplementedError

    def model(self) -> Any:
        """What a worker's part is before its first step."""
        return None

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        """The same step on the model."""
        raise NotImplementedError

    def read(self, things: dict[str, Any], me: int) -> Any:
        """The worker's part of the shared object."""
        return None

    def shown(self, model: Any) -> Any:
        """What read() must say."""
        return model

    def check(self) -> None:
        """Of what is not in the default segment."""

    def drop(self) -> None:
        """What keeps a hold on something beyond `things`."""


SINGLE = {"Value": lambda: fastshm.Value("q"), "ShardedCounter": fastshm.ShardedCounter}


class Lanes(Family):
    """Some bits of a number for each worker, all in one word that all add to: an addition that was lost or made twice, by
    whomever, shows in somebody's bits."""

    def __init__(self, name: str, kind: str, bits: int = 7) -> None:
        super().__init__(name, kind)
        self.bits = bits

    def make(self) -> Any:
        if self.kind in SINGLE:
            return SINGLE[self.kind]()
        return fastshm.Array("q", 3) if self.kind == "Array" else fastshm.dict({0: 0, 1: 0, 2: 0.0})

    def now(self, thing: Any, me: int, i: int) -> int:
        return self.lane(thing.value if self.kind in SINGLE else thing[i], me)

    def lane(self, number: float, me: int) -> int:
        return int(number) >> self.bits * me & (1 << self.bits) - 1

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        thing, i, how = things[self.name], r % 3, r // 3
        was = self.now(thing, me, i)
        amount = (1 if was + 1 < 1 << self.bits else -was) << self.bits * me
        if self.kind == "ShardedCounter":
            thing.add(amount)
            return was
        if self.kind == "Value":
            return self.add_to_value(thing, me, how % 6, amount)
        if self.kind == "dict" and how % 4 == 0:
            thing.add_from({i: float(amount) if i == 2 else amount})
            return was
        if self.kind == "dict":
            return self.lane(thing.increment(i, float(amount) if i == 2 else amount) - amount, me)
        if how % 2:
            return self.lane(thing.fetch_add(i, amount), me)
        thing.add(i, amount)
        return was

    def add_to_value(self, thing: Any, me: int, how: int, amount: int) -> int:
        if how == 0:
            return self.lane(thing.fetch_add(amount), me)
        if how == 1:
            return self.lane(thing.fetch_sub(-amount), me)
        old = thing.value
        if how == 2:
            thing.add(amount)
        elif how == 5:
            was = old & ((1 << self.bits) - 1) << self.bits * me
            return self.lane(thing.fetch_xor(was ^ was + amount), me)
        elif how == 3:
            with thing.get_lock():
                old = thing.value
                thing.value += amount
        else:
            while not thing.compare_exchange(old, old + amount):
                old = thing.value
        return self.lane(old, me)

    def model(self) -> Any:
        return [0, 0, 0]

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        i = 0 if self.kind in SINGLE else r % 3
        was = model[i]
        model[i] = (was + 1) % (1 << self.bits)
        return was

    def read(self, things: dict[str, Any], me: int) -> Any:
        thing = things[self.name]
        if self.kind in SINGLE:
            return [self.now(thing, me, 0), 0, 0]
        return [self.now(thing, me, i) for i in range(3)]


class Counts(Lanes):
    """The same of the counts of a Counter, one of them or all three as one change."""

    def make(self) -> Any:
        return fastshm.Counter({0: 0, 1: 0, 2: 0})

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        counter, i, how = things[self.name], r % 3, r // 3 % 4
        was = [self.now(counter, me, n) for n in range(3)]
        amounts = [self.amount(n) << self.bits * me for n in was]
        if how == 0:
            counter.update({i: amounts[i]})
        elif how == 1:
            counter.subtract({i: -amounts[i]})
        elif how == 2:
            counter.update(dict(enumerate(amounts)))
        else:
            return self.lane(counter.increment(i, amounts[i]) - amounts[i], me)
        return was[i]

    def amount(self, was: int) -> int:
        return 1 if was + 1 < 1 << self.bits else -was

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        i, how = r % 3, r // 3 % 4
        was = model[i]
        for n in range(3) if how == 2 else (i,):
            model[n] += self.amount(model[n])
        return was


class Slices(Family):
    """A stretch of an Array of numbers for each worker."""

    LENGTH = 1_000

    def make(self) -> Any:
        return fastshm.Array("q", WORKERS * self.LENGTH)

    def where(self, me: int) -> tuple[int, int]:
        return me * self.LENGTH, (me + 1) * self.LENGTH

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        return self.write(things[self.name], *self.where(me), r, k)

    def write(self, array: Any, low: int, high: int, r: int, k: int) -> Any:
        how, many = r % 6, high - low
        if how < 2:
            array[low:high] = [k] * many
        elif how == 2:
            array[low:high:2] = [k] * (many // 2)
        elif how == 3:
            array[low + 10 : low : -3] = [k, k + 1, k + 2, k + 3]
        else:
            array[low + r // 6 % many] = k
        return None

    def model(self) -> Any:
        return [0] * self.LENGTH

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        return self.write(model, 0, self.LENGTH, r, k)

    def read(self, things: dict[str, Any], me: int) -> Any:
        low, high = self.where(me)
        return things[self.name][low:high]


class Characters(Slices):
    """The same of characters: long enough to be killed while they are copied, and always of one letter."""

    LENGTH = 30_000

    def make(self) -> Any:
        return fastshm.Array("c", b"z" * WORKERS * self.LENGTH)

    def write(self, array: Any, low: int, high: int, r: int, k: int) -> Any:
        array[low:high] = LETTERS[r % 26].encode() * (high - low)

    def model(self) -> Any:
        return bytearray(b"z" * self.LENGTH)

    def shown(self, model: Any) -> Any:
        return bytes(model)


class Keys(Family):
    """Keys of each worker's own in one dict, with values of all kinds."""

    def make(self) -> Any:
        return fastshm.dict()

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        return self.change(things[self.name], me, r, k)

    def key(self, me: int, r: int) -> Any:
        n = r % 90
        return (f"{me} {n}", (me, n), f"{me} {n} is a key that does not lie in its entry", me * 1_000 + n)[r // 90 % 4]

    def owner(self, key: Any) -> int:
        return key // 1_000 if isinstance(key, int) else int(key[0])

    def value(self, r: int, k: int) -> Any:
        how = r % 9
        if how < 4:
            return (k, k / 8, k % 2 == 0, None)[how]
        if how < 7:
            return text(r) if how > 4 else str(k)[-1] * 5
        return text(r).encode() if how == 7 else (k, [k] * (r % 40), {"k": Fraction(k, 7)})

    def change(self, d: Any, me: int, r: int, k: int) -> Any:
        how, rest = r % 20, r // 20
        key = self.key(me, rest)
        value = self.value(rest // 360, k)
        if how < 6:
            d[key] = value
        elif how == 6:
            return d.pop(key, None)
        elif how == 7:
            if key in d:
                del d[key]
        elif how == 8:
            return d.setdefault(key, value)
        elif how == 9:
            return d.get(key)
        elif how == 10:
            key = f"{me} number"
            if isinstance(d, DictProxy):
                return d.increment(key, k)
            d[key] = d.get(key, 0) + k
            return d[key]
        elif how == 12:
            return self.exchange(d, key, value, rest)
        elif how == 13:
            if isinstance(d, DictProxy):
                return d.pop_many([key], "none")
            return [d.pop(key, "none")]
        elif how == 14 and isinstance(d, DictProxy):
            if key in d:  # and stays, for nobody else takes it away
                return d.wait_for(key, timeout=60)
        elif how == 14:
            return d.get(key)
        elif how == 15:
            many = {self.key(me, rest + i): value for i in range(5)}
            d.set_many(many) if isinstance(d, DictProxy) else d.update(many)
        elif how == 11:  # all are there, or none: the model knows no other state
            d.update({f"{me} {(rest + i) % 90}": text(r + i) if i % 2 else k for i in range(60)})
        else:
            d.update({key: value, f"{me} number": k})
        return None

    def exchange(self, d: Any, key: Any, value: Any, r: int) -> bool:
        """By the value that is there, or by one that is not."""
        if isinstance(d, DictProxy):
            return d.compare_exchange(key, d.get(key) if r % 3 else "another", value)
        if key not in d or not (r % 3 or d[key] == "another"):
            return False
        d[key] = value
        return True

    def model(self) -> Any:
        return {}

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        return self.change(model, me, r, k)

    def read(self, things: dict[str, Any], me: int) -> Any:
        return [(key, value) for key, value in things[self.name].items() if self.owner(key) == me]

    def shown(self, model: Any) -> Any:
        return list(model.items())


class Stored(Keys):
    """The same in a store, which each worker that is not forked finds by its name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.store: Any = None

    def make(self) -> Any:
        address = f"shm://load-{os.getpid()}"
        self.store = fastshm.Manager(address, live=False)
        return address

    def root(self, address: str) -> Any:
        if self.store is None:
            self.store = fastshm.Manager(address, create=False)
        return self.store.root

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        return self.change(self.root(things[self.name]), me, r, k)

    def read(self, things: dict[str, Any], me: int) -> Any:
        return super().read({self.name: self.root(things[self.name])}, me)

    def check(self) -> None:
        self.store.root._heap.check()

    def drop(self) -> None:
        """With its last user, the store goes."""
        address = self.store.address
        self.store.shutdown()
        self.store = None
        try:
            fastshm.Manager(address, create=False)
        except FileNotFoundError:
            return
        raise AssertionError("the store is still there")


class Members(Family):
    """Items of each worker's own in one set."""

    def make(self) -> Any:
        return fastshm.set()

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        return self.change(things[self.name], me, r, k)

    def item(self, me: int, n: int) -> Any:
        return ((me, n % 60), f"{me} {n % 60}", f"{me} {n % 60} is an item that does not lie in its entry")[n // 60 % 3]

    def change(self, items: Any, me: int, r: int, k: int) -> Any:
        how, n = r % 6, r // 6
        item = self.item(me, n)
        if how < 2:
            items.add(item)
        elif how == 2:
            items.discard(item)
        elif how == 3:
            if item in items:
                items.remove(item)
        elif how == 4:
            items.update({self.item(me, n + i) for i in range(20)}, [self.item(me, n + 70)])
        else:
            return item in items
        return None

    def model(self) -> Any:
        return set()

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        return self.change(model, me, r, k)

    def read(self, things: dict[str, Any], me: int) -> Any:
        return {item for item in things[self.name].copy() if int(item[0]) == me}


class Nested(Family):
    """Containers in a dict, replaced, shared between its keys and changed in place. In a live dict they are stored plain."""

    def make(self) -> Any:
        return fastshm.live({}) if self.kind == "live" else fastshm.dict()

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        return self.change(things[self.name], me, r, k)

    def change(self, d: Any, me: int, r: int, k: int) -> Any:
        how, key, other = r % 14, (me, r // 14 % 5), (me, r // 70 % 5)
        inner = d.get(key)
        if how == 0 or inner is None:
            d[key] = new(d, list, [k, text(r)])
        elif how == 1:
            d[key] = new(d, dict, {"list": new(d, list, [k]), "k": k})
        elif how == 2:
            d[key] = {"in a pickle": new(d, list, [text(r)]), "k": [k]}
        elif how == 3:
            d[other] = inner
        elif how == 4:
            return plain(d.pop(key))
        elif how == 5:
            d.update({key: new(d, list), other: new(d, dict, {"k": k})})
        elif how == 6:
            return plain(d.setdefault(other, new(d, list, [k])))
        elif how == 7:
            return plain(d.pop_many([key]) if isinstance(d, DictProxy) else [d.pop(key)])
        elif isinstance(inner, list | ListProxy):
            if len(inner) > 60:
                del inner[:50]
            else:
                inner.append(text(r) if how % 2 else new(d, list, [k]))
        elif "in a pickle" in inner:
            inner["in a pickle"].append(k)
        elif "list" in inner and how % 2:
            inner["list"].append(text(r))
        else:
            inner["k"] = text(r)
        return None

    def model(self) -> Any:
        return {}

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        return self.change(model, me, r, k)

    def read(self, things: dict[str, Any], me: int) -> Any:
        return [(key, plain(value)) for key, value in things[self.name].items() if key[0] == me]

    def shown(self, model: Any) -> Any:
        return [(key, plain(value)) for key, value in model.items()]


class Sequences(Family):
    """A list for each worker, changed in every way; others look at it meanwhile."""

    def make(self) -> Any:
        return tuple(fastshm.list() for _ in range(WORKERS))

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        lists = things[self.name]
        if r % 8 == 0:
            for item in lists[(me + 1 + r // 8 % 7) % WORKERS][:]:
                must_be_whole(item)
            return None
        return self.change(lists[me], r, k)

    def change(self, items: Any, r: int, k: int) -> Any:
        n, value, how = len(items), text(r >> 20), r // 8 % 14
        at = (r >> 8) % (n + 1)
        if n > 150:
            del items[50:]
        elif how < 2 or not n:
            items.append(value)
        elif how < 4:
            items.insert(at, value)
        elif how == 4:
            return items.pop(at - 1)
        elif how == 5:
            items.extend([value] * 9)
        elif how == 6:
            items.sort()
        elif how == 7:
            items[at : at + 4] = [value, value, text(k), value, value, text(k + 1)]
        elif how == 8:
            items[: n // 2 * 2 : 2] = [value] * (n // 2)
        elif how == 9:
            items[at - 1] = value
        elif how == 10:
            items.reverse()
        elif how == 11:
            del items[at : at + 3]
        elif how == 12:
            return items[at - 1]
        else:
            items.insert(0, value)
        return None

    def model(self) -> Any:
        return []

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        return None if r % 8 == 0 else self.change(model, r, k)

    def read(self, things: dict[str, Any], me: int) -> Any:
        return things[self.name][me][:]


class Looks(Family):
    """Reads of what others write. Nobody may see half a write."""

    def make(self) -> Any:
        return None

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        other, how = r % WORKERS, r // WORKERS % 3
        if how == 0:
            low, high = Characters.where(things_of["characters"], other)
            must_be_whole(things["characters"][low:high].decode())
        elif how == 1:
            keys = things_of["keys"]
            value = things["keys"].get(keys.key(other, r // 24))
            if isinstance(value, str):
                must_be_whole(value)
        else:
            inner = things["nested"].get((other, r // 24 % 5))
            if isinstance(inner, ListProxy):
                for item in inner[:]:
                    if isinstance(item, str):
                        must_be_whole(item)
        return None

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        return None


class Objects(Family):
    """Objects of all kinds made, looked at, kept for a while and dropped. Nothing of them may stay."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.kept: dict[int, Any] = {}

    def make(self) -> Any:
        return None

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        how = r % 8
        if how == 0:
            made = fastshm.Value("q", k)
            seen = made.value
        elif how == 1:
            made = fastshm.Array("q", [k] * (r // 8 % 300 + 1))
            seen = made[0]
        elif how == 2:
            made, seen = self.made(r // 8 % 7, r, k)
        elif how == 3:
            made = fastshm.list([k, text(r), fastshm.list([k])])
            seen = made[2][0]
        elif how == 4:
            made = fastshm.Manager().dict(a=k)
            seen = made["a"]
        elif how == 5:
            made = fastshm.RawArray("d", 5)
            made[0], seen = k, k
        else:
            made, seen = (fastshm.Lock if how == 6 else fastshm.RLock)(), k
            with made:
                pass
        self.kept[r // 8 % 60] = made
        if r // 480 % 100 == 0:
            self.kept.clear()
        return seen

    def made(self, how: int, r: int, k: int) -> Any:
        if how == 0:
            live = fastshm.live({"list": [k], "dict": {"k": [k]}})
            return live, live["dict"]["k"][0]
        if how == 1:
            counter = fastshm.Counter(k=k)
            return counter, counter["k"]
        if how == 2:
            return fastshm.set([k, text(r)]), k
        if how == 3:
            records = fastshm.frozen([text(r), k, b"bytes"])
            return records, records[1]
        if how == 4:
            cache = Cache(2, 60.0)
            return cache, cache.get_or_compute(r, lambda: k)
        made = fastshm.dict({k: text(r), "more": [k]})
        return made, made["more"][0]

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        return k


class Results(Family):
    """A cache of what a function gives. Whatever is killed, a result is the right one, and there are not many too many."""

    LARGEST = 40

    def make(self) -> Any:
        return Cache(self.LARGEST)

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        cache, key = things[self.name], r // 4 % 60
        if r % 4 == 0:
            cache.put(key, self.result(key))
        elif r % 4 == 1:
            if cache.get(key, self.result(key)) != self.result(key):
                raise AssertionError(f"another result for {key}")
        elif cache.get_or_compute(key, lambda: self.result(key)) != self.result(key):
            raise AssertionError(f"another result for {key}")
        if len(cache) > self.LARGEST + WORKERS:
            raise AssertionError(f"{len(cache)} results, where {self.LARGEST} are allowed")
        return None

    def result(self, key: int) -> Any:
        return [key, text(key * 7919)]

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        return None


class Records(Family):
    """A frozen list, which never changes."""

    def make(self) -> Any:
        return fastshm.frozen(self.record(n) for n in range(500))

    def record(self, n: int) -> Any:
        return (text(n * 7919), n, text(n * 7919).encode(), [n, {"n": n}])[n % 4]

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        records, n = things[self.name], r % 500
        if n % 4 == 2 and r // 500 % 2:
            return bytes(records.view(n))
        return records[n]

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        return self.record(r % 500)


class Sections(Family):
    """Two numbers for each worker that are equal outside of a lock: in memory that is not fastshm's, and guarded by a Lock
    or the like; or in a dict, guarded by its own. After a death inside, the next holder is told and repairs."""

    def __init__(self, name: str, kind: str, place: int = 0) -> None:
        super().__init__(name, kind)
        self.place = place  # in the memory for sections

    def make(self) -> Any:
        if self.kind == "dict":
            return fastshm.dict(dict.fromkeys(range(2 * WORKERS + 1), 0))
        if self.kind == "Value":
            return fastshm.Value("b")
        return getattr(fastshm, self.kind)()

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        thing = things[self.name]
        guard = thing.get_lock() if self.kind in ("dict", "Value") else thing
        numbers = self.numbers(things)
        with guard:
            told = guard.abandoned
            if numbers[2 * WORKERS] and not told:
                raise AssertionError(f"{numbers[2 * WORKERS] - 1} is inside, or died there and nobody was told")
            numbers[2 * WORKERS] = me + 1
            if told:
                things["told"]()
                for n in range(WORKERS):
                    numbers[WORKERS + n] = numbers[n]
            for n in range(WORKERS):
                if numbers[n] != numbers[WORKERS + n]:
                    raise AssertionError("a section that was cut short, and nobody was told")
            was = numbers[me]
            numbers[me] = was + 1
            if r % 4 == 0:
                os.sched_yield()  # so that deaths come here, too
            numbers[WORKERS + me] = was + 1
            numbers[2 * WORKERS] = 0
        return was

    def numbers(self, things: dict[str, Any]) -> Any:
        if self.kind == "dict":
            return things[self.name]
        return things["memory"][self.place * (2 * WORKERS + 1) : (self.place + 1) * (2 * WORKERS + 1)]

    def model(self) -> Any:
        return [0]

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        model[0] += 1
        return model[0] - 1

    def read(self, things: dict[str, Any], me: int) -> Any:
        return [self.numbers(things)[me]]


class Tokens(Family):
    """A list or a dict that all workers put tokens in and take them out of, whosever they are. A token is taken once, and what
    was put and not taken is there. Who takes tells the log which token it was; a pending call may have put or taken one."""

    def make(self) -> Any:
        return fastshm.list() if self.kind == "list" else fastshm.dict()

    def step(self, things: dict[str, Any], me: int, r: int, k: int) -> Any:
        thing, tokens, taken = things[self.name], self.tokens(me, r, k), None
        if self.kind == "list":
            if len(tokens) == 2:
                thing.extend(tokens)
            elif tokens and r // 8 % 2:
                thing.insert(0, tokens[0])
            elif tokens:
                thing.append(tokens[0])
            else:
                taken = self.pop(thing, 0 if r // 8 % 2 else -1)
        elif tokens:
            thing.update({token: text(r) for token in tokens})
        elif r // 8 % 2:
            try:
                taken, value = thing.popitem(last=r // 16 % 2 == 0)
                must_be_whole(value)
            except KeyError:
                return None
        else:
            key = next(iter(thing.keys()), None)
            if key is None:
                return None
            if r // 16 % 2:
                value = thing.pop(key, None)
            else:
                (value,) = thing.pop_many([key])
            if value is not None:
                taken = key
        if taken is not None:
            things["taken"](taken)
        return None

    def pop(self, thing: Any, at: int) -> int | None:
        try:
            return thing.pop(at)
        except IndexError:
            return None

    def tokens(self, me: int, r: int, k: int) -> list[int]:
        """Those that the step puts; none: it takes."""
        count = (0, 0, 0, 1, 1, 0, 2, 0)[r % 8]
        return [(k * WORKERS + me) * 4 + (self.kind == "dict") * 2 + n for n in range(count)]

    def read(self, things: dict[str, Any], me: int) -> Any:
        return None

    def present(self, things: dict[str, Any]) -> list[int]:
        thing = things[self.name]
        return thing[:] if self.kind == "list" else thing.keys()

    def empty(self, things: dict[str, Any]) -> None:
        thing = things[self.name]
        if self.kind == "list":
            thing[:] = []
        else:
            thing.clear()

    def expect(self, model: Any, me: int, r: int, k: int) -> Any:
        return None


FAMILIES: tuple[Family, ...] = (
    Lanes("value", "Value"),
    Lanes("sharded counter", "ShardedCounter"),
    Lanes("items of an array", "Array"),
    Lanes("increments", "dict", bits=6),
    Slices("slices"),
    Characters("characters"),
    Counts("counts", "Counter"),
    Keys("keys"),
    Stored("store"),
    Members("set"),
    Nested("nested"),
    Nested("live", "live"),
    Sequences("lists"),
    Looks("looks"),
    Objects("objects"),
    Results("results"),
    Records("records"),
    Sections("section of a Lock", "Lock", 0),
    Sections("section of an RLock", "RLock", 1),
    Sections("section of a Value", "Value", 2),
    Sections("section of a dict", "dict"),
    Tokens("queue", "list"),
    Tokens("pool", "dict"),
)
SECTION_WORDS = 3 * (2 * WORKERS + 1)
things_of: dict[str, Any] = {family.name: family for family in FAMILIES}
WEIGHTS = {"keys": 9, "nested": 7, "lists": 9, "queue": 6}  # sections are long, and whoever waits for one does nothing else
CHOICES = tuple(
    family for family in FAMILIES for _ in range(WEIGHTS.get(family.name, 1 if isinstance(family, Sections) else 4))
)


def step_of(seed: int, me: int, k: int) -> tuple[Family, int]:
    """Which family step k of a worker is in, and the number that says the rest."""
    r = mix(seed, me, k)
    return CHOICES[r % len(CHOICES)], r // len(CHOICES)
