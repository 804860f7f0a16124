"""The shared list: what the stdlib's proxy does, over both; then what only ours does."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import re
from decimal import Decimal
from fractions import Fraction

import pytest
from crew import Crew
from test_dict import VALUES, Unpicklable, same

import fastshm
from fastshm.managers import ListProxy


def test_class_and_text(manager):
    items = manager.list([1, "b"])
    assert type(items).__name__ == "ListProxy"
    assert re.fullmatch(r"<ListProxy object, typeid 'list' at 0x[0-9a-f]+>", repr(items))
    assert str(items) == f"{items}" == "[1, 'b']"


@pytest.mark.parametrize("source", [(), ([1, 2],), ("abc",), (range(3),), ({"k": 1},)])
def test_creation(manager, source):
    assert manager.list(*source)[:] == list(*source)


def test_creation_from_a_proxy(manager):
    first = manager.list([1])
    second = manager.list(first)
    second.append(2)
    assert (first[:], second[:]) == ([1], [1, 2])


def test_index_and_slices(manager):
    items, model = manager.list(range(10)), list(range(10))
    for i in (0, 9, -1, -10):
        assert items[i] == model[i]
        items[i] = model[i] = -i
    for part in (
        slice(None),
        slice(2, 5),
        slice(-3, None),
        slice(None, None, -1),
        slice(8, 1, -3),
        slice(4, 4),
        slice(3, 99),
    ):
        assert items[part] == model[part]
        assert type(items[part]) is list
    assert (len(items), list(items), 10 in items, "x" in items) == (10, model, True, False)


@pytest.mark.parametrize("part", [slice(0, 0), slice(2, 4), slice(None), slice(99, 99), slice(5, 2), slice(-2, None)])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_slice_assignment(manager, part, count):
    items, model = manager.list("abcdef"), list("abcdef")
    items[part] = range(count)
    model[part] = range(count)
    assert items[:] == model
    del items[part], model[part]
    assert items[:] == model


def test_extended_slices(manager):
    items, model = manager.list(range(10)), list(range(10))
    items[::3] = model[::3] = "wxyz"
    del items[::-2], model[::-2]
    assert items[:] == model
    with pytest.raises(ValueError, match="attempt to assign sequence of size 1 to extended slice of size 3"):
        items[::2] = "a"
    with pytest.raises(TypeError):
        items[1:2] = 5
    assert items[:] == model


@pytest.mark.parametrize("index", [3, -4, 2**40])
def test_index_out_of_range(manager, index):
    items = manager.list("abc")
    for operation in (items.__getitem__, items.__delitem__, items.pop, lambda i: items.__setitem__(i, 1)):
        with pytest.raises(IndexError):
            operation(index)
    assert items[:] == list("abc")


@pytest.mark.parametrize("index", ["0", 1.0, None])
def test_index_of_a_wrong_type(manager, index):
    items = manager.list("abc")
    for operation in (items.__getitem__, items.__delitem__, lambda i: items.__setitem__(i, 1)):
        with pytest.raises(TypeError):
            operation(index)
    assert items[:] == list("abc")


def test_methods(manager):
    items, model = manager.list(), []
    script = [
        *(
            ("append", 3),
            ("append", [1]),
            ("extend", "xy"),
            ("extend", ()),
            ("insert", 0, "first"),
            ("insert", 99, "last"),
        ),
        *(
            ("insert", -1, "before last"),
            ("pop",),
            ("pop", 0),
            ("pop", -2),
            ("remove", [1]),
            ("append", 3),
            ("append", 3.0),
        ),
        *(("count", 3), ("index", 3), ("index", 3, 1), ("index", 3, 1, 99), ("reverse",), ("count", "nothing")),
        *(("pop", 2), ("extend", range(5)), ("append", None), ("remove", None), ("index", True)),
    ]
    for name, *arguments in script:
        assert getattr(items, name)(*arguments) == getattr(model, name)(*arguments), (name, arguments)
        assert items[:] == model, (name, arguments)


def test_not_found(manager):
    items = manager.list("abc")
    with pytest.raises(ValueError, match=r"list.remove\(x\): x not in list"):
        items.remove("d")
    with pytest.raises(ValueError, match="not in list"):
        items.index("d")
    with pytest.raises(ValueError, match="not in list"):
        items.index("a", 1)
    with pytest.raises(IndexError, match="pop from empty list"):
        manager.list().pop()
    with pytest.raises(TypeError):
        items.extend(5)
    assert items[:] == list("abc")


def negative(number):
    return -number


def test_sort(manager):
    items = manager.list([3, 1, 2, 1])
    items.sort()
    assert items[:] == [1, 1, 2, 3]
    items.sort(reverse=True)
    assert items[:] == [3, 2, 1, 1]
    items.sort(key=negative, reverse=True)
    assert items[:] == [1, 1, 2, 3]
    mixed = manager.list([1, "a"])
    with pytest.raises(TypeError):
        mixed.sort()
    assert sorted(map(str, mixed)) == ["1", "a"]
    with pytest.raises(TypeError):
        items.sort(negative)


def test_operators(manager):
    items = manager.list([1, 2])
    assert (items + [3], items * 2, 2 * items, items * 0, items * -1) == ([1, 2, 3], [1, 2, 1, 2], [1, 2, 1, 2], [], [])
    assert [type(x) for x in (items + [], items * 1, 1 * items)] == [list] * 3
    handle = items
    items += [3]
    items += "x"
    items *= 2
    assert items is handle
    assert items[:] == [1, 2, 3, "x"] * 2
    items *= 0
    assert (items[:], len(items)) == ([], 0)
    for wrong in (lambda: items + 5, lambda: items * "x", lambda: items + manager.list([1])):
        with pytest.raises(TypeError):
            wrong()
    assert list(reversed(manager.list("abc"))) == ["c", "b", "a"]


def test_iteration_sees_growth(manager):
    items = manager.list([1])
    for item in items:
        if item < 5:
            items.append(item + 1)
    assert items[:] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{value!r:.20}")
def test_any_value(manager, value):
    items = manager.list([value])
    items.append(value)
    items.insert(1, "between")
    items[2] = value
    items.extend([value])
    assert all(same(item, value) for item in (items[0], items[2], *items[-2:], items.pop()))
    assert items[1] == "between"


def test_unpicklable_value_changes_nothing(manager):
    items = manager.list([1, 2])
    for wrong in (Unpicklable(), lambda: 1, (x for x in ())):
        for operation in (
            lambda wrong=wrong: items.append(wrong),
            lambda wrong=wrong: items.insert(0, wrong),
            lambda wrong=wrong: items.extend([3, wrong]),
            lambda wrong=wrong: items.__setitem__(0, wrong),
            lambda wrong=wrong: items.__setitem__(slice(0, 1), [3, wrong]),
        ):
            with pytest.raises((RuntimeError, pickle.PicklingError, AttributeError, TypeError)):
                operation()
        assert items[:] == [1, 2]


def test_nested(manager):
    source = [1]
    items = manager.list([source, manager.list([2])])
    source.append("lost")
    items[0].append("lost")
    items[1].append("kept")
    items.append(manager.dict(a=manager.list()))
    items[2]["a"].append(5)
    assert (items[0], items[1][:], items[2]["a"][:]) == ([1], [2, "kept"], [5])
    inner = items.pop(1)
    inner.append("alive")
    assert inner[:] == [2, "kept", "alive"]


def test_identity_and_copies(manager):
    items = manager.list([1])
    assert items != [1]
    assert items != manager.list([1])
    assert items == items
    pickle.loads(pickle.dumps(items)).append(2)
    deep = copy.deepcopy(items)
    assert (type(deep), deep) == (list, [1, 2])


# Several processes


def fill(items, worker, count):
    for i in range(count):
        items.append((worker, i))
        items.insert(0, "head")
        assert items.pop(0) is not None


def test_written_by_several(manager, crew):
    items = manager.list()
    for worker in range(3):
        crew.start(fill, items, worker, 100)
    crew.results()
    whole = items[:]
    assert len(whole) == 300
    assert all(item == "head" or len(item) == 2 for item in whole)


def take_all(items):
    taken = []
    while True:
        try:
            taken.append(items.pop())
        except IndexError:
            return taken


def test_pop_has_one_winner(manager):
    items = manager.list(range(600))
    with Crew() as crew:
        for _ in range(3):
            crew.start(take_all, items)
        taken = crew.results()
    assert sorted(item for items in taken for item in items) == list(range(600))


# Only ours


def test_without_a_manager():
    items = fastshm.list("abc")
    assert type(items) is ListProxy
    assert items[:] == ["a", "b", "c"]
    assert fastshm.list(items)[:] == ["a", "b", "c"]
    assert fastshm.list(fastshm.dict(a=1))[:] == ["a"]
    for wrong in (5, None):
        with pytest.raises(TypeError):
            fastshm.list(wrong)


def test_extends_itself():
    """As list does; in the stdlib the server would walk over what it appends, for ever."""
    items = fastshm.list([1, 2])
    items.extend(items)
    assert items[:] == [1, 2, 1, 2]
    items[1:3] = items
    assert items[:] == [1, 1, 2, 1, 2, 2]
    items += items
    assert items[:] == [1, 1, 2, 1, 2, 2] * 2


def push(items, worker, times):
    for i in range(times):
        with items.get_lock():
            items.append((worker, i))
            items.append((worker, -i))


def test_lock_keeps_two_appends_together(crew):
    items = fastshm.list()
    for worker in range(3):
        crew.start(push, items, worker, 500)
    crew.results()
    whole = items[:]
    pairs = list(zip(whole[::2], whole[1::2], strict=True))
    assert len(pairs) == 1_500
    assert all(first == (worker, -i) for first, (worker, i) in pairs)


def rotate(items, times):
    for i in range(times):
        items[:] = [i] * (50 + i % 7)
        items.extend([i] * 3)


def read_whole(items, times):
    return max(len(set(items[:])) for _ in range(times))


def test_reads_are_whole():
    items = fastshm.list([0] * 50)
    with Crew() as crew:
        crew.start(rotate, items, 2_000)
        reader = crew.start(read_whole, items, 2_000)
        crew.results()
        assert crew.result(reader) == 1


def sort_again(items, times):
    for i in range(times):
        items.sort(reverse=bool(i % 2))
        items.reverse()


def sums(items, times):
    return {sum(items[:]) for _ in range(times)}


def test_sort_is_one_step_for_others():
    items = fastshm.list(range(100))
    with Crew() as crew:
        crew.start(sort_again, items, 500)
        reader = crew.start(sums, items, 1_000)
        crew.results()
        assert crew.result(reader) == {4950}


LOOKED_FOR = [
    *(0, 1, -1, 2, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**70, True, False, None),
    *(0.0, -0.0, 1.0, 2.5, 2.0**53, 2.0**63, -(2.0**63), float("inf"), "", "a", "1", "ä", "\ud800", "a" * 9, "ä" * 9),
    *(b"", b"a", b"a" * 9, (), (1,), [1], frozenset(), 1j, Decimal(1), Fraction(5, 2), type),
]


@pytest.mark.parametrize("value", LOOKED_FOR, ids=repr)
def test_search(manager, value):
    """By words, by bytes, and by what only Python can compare."""
    others = [other for other in LOOKED_FOR if other is not type]
    shared = manager.list(others)
    assert (value in shared) == (value in others)
    assert shared.count(value) == others.count(value)
    for start in range(0, len(others), 7):
        part, model = manager.list(others[start:]), others[start:]
        if value not in model:
            assert value not in part
            with pytest.raises(ValueError, match="is not in list"):
                part.index(value)
            with pytest.raises(ValueError, match=r"list.remove\(x\): x not in list"):
                part.remove(value)
            continue
        assert value in part
        assert part.index(value) == model.index(value)
        part.remove(value)
        model.remove(value)
        assert same(part[:], model)


def test_a_nan_is_found_by_nobody():
    nan = float("nan")
    items = fastshm.list([nan, 1.0])
    assert nan not in items  # what comes out is another object
    assert items.index(1) == 1


class Anything:
    """Equal to all."""

    def __eq__(self, other):
        return True

    __hash__ = None


def test_what_defines_its_own_equality_is_asked():
    items = fastshm.list([1, "a"])
    assert Anything() in items
    items.append(Anything())
    assert 7 in items
    assert items.index(7) == 2


@pytest.mark.parametrize("length", [1, 5, 6, 7, 40])
def test_words_and_others_in_turn(length):
    """The quick ways and the longer ones leave the same behind."""
    items, model = fastshm.list(), []
    for i in range(length):
        for target in (items, model):
            target.append(i)
            target.append("long enough for a block" * (i + 1))
            target[-2] = float(i)
            target[-1] = i
            target.append(None)
            target.pop()
            target.extend((i, True, "short", None, 1.5))
            target.pop(0)
            target[-1] = "another long enough for a block"
            del target[-2:]
            target[0] = "x" * 20
            target[0] = 5
        assert items[:] == model
        assert list(items) == model
        assert [items[k] for k in range(-len(model), 0)] == model
    while model:
        assert items.pop() == model.pop()
    assert items[:] == []
    for target in (items, model):
        target.append(1)
    assert items[:] == model
    fastshm.heap.check()


def test_changes_under_its_own_lock():
    items = fastshm.list([1, 2, 3])
    with items.get_lock():
        items[0] = 7
        items.append(4)
        assert (items[0], items[-1], 7 in items, items.pop(), items[:]) == (7, 4, True, 4, [7, 2, 3])
    assert items[:] == [7, 2, 3]


def test_room_that_is_used_again():
    """Items that were given up, and smaller ones where they were: what a handle knows of the old ones does not count."""
    rng = random.Random(1)
    shared, plain = fastshm.list(), []
    for step in range(3_000):
        value = "x" * rng.randrange(1_000) if step % 3 else step
        at = rng.randrange(len(plain) + 1)
        what = rng.randrange(8)
        for items in (shared, plain):
            if len(items) > 150:
                del items[50:]
            elif what < 3:
                items.append(value)
            elif what == 3:
                items.insert(at, value)
            elif what == 4:
                items.extend([value] * 5)
            elif what == 5:
                items[at : at + 4] = [value, step, value]
            elif what == 6:
                items[: len(items) // 2 * 2 : 2] = [value] * (len(items) // 2)
            else:
                del items[at : at + 3]
        fastshm.heap.check()
    assert shared[:] == plain


def test_objects_that_are_kept_are_those_of_now():
    """A handle keeps the objects of words it has read; the other one puts other words, of the same bits too, in their place."""
    rnd = random.Random(4)
    x, model = fastshm.list(range(1_000, 1_300)), list(range(1_000, 1_300))
    y = pickle.loads(pickle.dumps(x))
    values = [*range(1_000, 1_004), 5e-324, 1, True, False, 0, 0.0, None, "", "\1", "exactly8", "nine char", [1], b"x", -1]
    for _ in range(3_000):
        what, i = rnd.randrange(8), rnd.randrange(len(model))
        if what < 4:
            value = rnd.choice(values)
            y[i] = model[i] = value
        elif what == 4:
            y.insert(i, 5_000)
            model.insert(i, 5_000)
        elif what == 5 and len(model) > 100:
            assert repr(y.pop(i)) == repr(model.pop(i))
        elif what == 6:
            y.reverse()
            model.reverse()
        else:
            part = slice(rnd.randrange(-50, 300), rnd.randrange(-50, 300), rnd.choice((1, 1, 2, 7, -1)))
            assert repr(x[part]) == repr(model[part])
        i = rnd.randrange(-len(model), len(model))
        assert repr(x[i]) == repr(x[i]) == repr(model[i])
        if what == 7:
            assert repr(x[:]) == repr([item for item in x]) == repr(model)  # noqa: C416  (not what list() does)


def delete_first(items):
    del items[0:1]


def double(items):
    items *= 2


def replace_every_other(items):
    items[0:3:2] = [8, 9]


@pytest.mark.parametrize("change", [lambda items: items.reverse(), delete_first, double, replace_every_other])
def test_an_iterator_that_has_not_begun_sees_a_change_by_the_same_handle(change):
    plain, shared = [1, 2, 3], fastshm.list([1, 2, 3])
    iterator = iter(shared)
    change(plain)
    change(shared)
    assert [*iterator] == plain


SPLICED = {"words": lambda n: n, "texts": lambda n: f"text {n}" * 9, "objects": lambda n: [fastshm.Value("q", n)]}


@pytest.mark.parametrize("kind", SPLICED)
def test_slices_are_replaced_where_they_are(kind):
    """What lies behind is moved, what goes is dropped, and what comes is there."""
    new, chance, plain, shared = SPLICED[kind], random.Random(7), [], fastshm.list()
    before = fastshm.heap.check()["bytes_used"]
    for turn in range(400):
        start, stop = chance.randrange(-3, len(plain) + 4), chance.randrange(-3, len(plain) + 4)
        numbers = [turn * 10 + i for i in range(chance.choice([0, 0, 1, 2, 7] if len(plain) < 90 else [0, 0, 1]))]
        plain[start:stop] = numbers
        shared[start:stop] = [new(n) for n in numbers]
        seen = [item[0].value for item in shared] if kind == "objects" else shared[:]
        assert seen == (plain if kind == "objects" else [new(n) for n in plain])
        if turn % 20 == 0:
            fastshm.heap.check()
    shared[:] = []
    assert shared[:] == []
    del shared
    assert fastshm.heap.check()["bytes_used"] <= before


def test_an_iterator_that_the_collector_ends():
    items = fastshm.list([1, 2, 3])
    for begin in (False, True):
        ring = [iter(items)]
        if begin:
            next(ring[0])
        ring.append(ring)
        del ring
        gc.collect()
        _ = [object() for _ in range(1_000)]
        items.append(4)
        assert len(items) == len(items[:])


def test_repeated_as_the_builtin_has_it():
    for times in (2**63, -(2**63) - 1):
        items = fastshm.list([1])
        with pytest.raises(OverflowError):
            items *= times
        assert items[:] == [1]
