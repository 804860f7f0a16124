"""From nothing to a million entries and back, with no size given beforehand, while others look on."""

from __future__ import annotations

import gc
import random

import pytest
from crew import Crew

import fastshm

MILLION = 1_000_000


def used() -> int:
    gc.collect()
    return fastshm.heap.check()["bytes_used"]


def watch(d, until):
    """Keys come in order: what has been seen once stays, and the newest is always there."""
    seen = looks = 0
    while seen < until:
        length = len(d)
        assert length >= seen
        if length:
            assert d[f"key {length - 1}"] == length - 1
            assert d[f"key {length // 2}"] == length // 2
        assert f"key {until}" not in d
        seen, looks = length, looks + 1
    return looks


def test_dict_to_a_million_and_back():
    before = used()
    d = fastshm.dict()
    with Crew(seconds=120) as crew:
        watcher = crew.run(watch, d, MILLION)
        for i in range(MILLION):
            d[f"key {i}"] = i
        assert crew.result(watcher) > 1
    assert len(d) == MILLION
    for i in random.sample(range(MILLION), 1_000):
        assert d[f"key {i}"] == i
    assert d.keys() == [f"key {i}" for i in range(MILLION)]
    d.increment("key 7", 5)
    assert d["key 7"] == 12
    fastshm.heap.check()
    for i in range(0, MILLION, 2):
        del d[f"key {i}"]
    assert (len(d), "key 2" in d, d["key 3"]) == (MILLION // 2, False, 3)
    d["new"] = "last"
    assert d.keys()[-1] == "new"
    d.clear()
    assert (len(d), d.copy()) == (0, {})
    d["again"] = 1
    assert d.items() == [("again", 1)]
    del d
    assert used() <= before, "memory was lost"


def test_list_to_a_million_and_back():
    before = used()
    items = fastshm.list()
    for i in range(MILLION):
        items.append(i)
    assert len(items) == MILLION
    assert items[:] == list(range(MILLION))
    assert [items.pop() for _ in range(MILLION - 10)] == list(range(MILLION - 1, 9, -1))
    assert items[:] == list(range(10))
    items.extend(range(MILLION))
    assert sum(items[:]) == 45 + sum(range(MILLION))
    del items[5:]
    assert items[:] == [0, 1, 2, 3, 4]
    del items
    assert used() <= before, "memory was lost"


def insert(d, worker, count):
    for i in range(count):
        d[worker, i] = i
        if i % 3 == 0:
            d[worker, "gone", i] = "x" * (i % 200)
        if i % 3 == 2:
            del d[worker, "gone", i - 2]


def test_growing_from_several_sides(crew):
    d, count = fastshm.dict(), 9_999
    for worker in range(3):
        crew.start(insert, d, worker, count)
    crew.results()
    assert len(d) == 3 * count
    for worker in range(3):
        assert [key[1] for key in d.keys() if key[0] == worker] == list(range(count))  # noqa: SIM118
    fastshm.heap.check()


def test_churn_does_not_grow():
    """Inserts and deletes in turn keep few entries: the table is compacted and its memory used again."""
    d = fastshm.dict()

    def churn(start):
        for i in range(start, start + 30_000):
            d[i] = "y" * (i % 90)
            if i >= start + 100:
                del d[i - 100]
        for i in range(start + 30_000 - 100, start + 30_000):
            del d[i]

    churn(0)
    after_one = used()
    for turn in range(1, 5):
        churn(turn * 30_000)
    assert used() <= after_one * 1.05
    assert len(d) == 0


@pytest.mark.parametrize("sizes", [range(0, 3_000, 7), [2**i for i in range(24)], [1_000_000, 0, 5, 1_000_000]], ids=str)
def test_wide_values(sizes):
    before = used()
    d, items = fastshm.dict(), fastshm.list()
    for size in sizes:
        d["same"] = "ä" * size
        d[size] = bytes(size)
        items.append("z" * size)
        assert len(d["same"]) == len(items[-1]) == size
        assert d[size] == bytes(size)
    del d, items
    assert used() <= before, "memory was lost"


def test_shrinking_values_give_their_memory_back():
    d = fastshm.dict(dict.fromkeys(range(100), "x" * 10000))
    full = used()
    for i in range(100):
        d[i] = None
    assert used() < full - 900_000


def test_nothing_is_lost_over_all_operations():
    """The same script of everything twice: the second time uses exactly what the first one gave back."""

    def script():
        with fastshm.Manager() as manager:
            d = manager.dict({i: manager.list([i, "x" * i]) for i in range(50)})
            d.update({str(i): manager.dict(inner=i) for i in range(50)})
            for i in range(0, 50, 2):
                del d[i]
            d["itself"] = d
            space = manager.Namespace(a=manager.Value("i", 1), lock=manager.Lock())
            space.numbers = manager.Array("d", range(100))
            values = [fastshm.Value("i", i) for i in range(100)] + [fastshm.Array("q", i) for i in range(100)]
            d["values"] = values
            assert d["values"][5].value == 5
            del d["itself"]

    script()
    first = used()
    for _ in range(3):
        script()
    assert used() == first


def make_for_ever():
    while True:
        fastshm.list([1])


def test_handles_that_end_while_others_use_the_heap_are_given_back():
    """A handle whose end finds the heap's lock held waits for a chance, and check() is one."""
    before = fastshm.heap.check()["cells"]
    with Crew() as crew:
        workers = [crew.run(make_for_ever) for _ in range(3)]
        for _ in range(100):
            held = [fastshm.Value("b") for _ in range(500)]
            assert fastshm.heap.check()["cells"] == before + len(held)
            del held
            assert fastshm.heap.check()["cells"] == before
        for worker in workers:
            crew.kill(worker)


def claimed() -> int:
    census = fastshm.heap.check()
    return census["bytes_used"] + census["bytes_free"]


def test_memory_of_a_dict_that_only_grows():
    before = claimed()
    d = fastshm.dict()
    for i in range(300_000):
        d[i] = i
    assert claimed() - before < 125 * len(d)
