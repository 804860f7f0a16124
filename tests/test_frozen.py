"""Frozen sequences: what a tuple of the same records gives, in any process, without private memory."""

from __future__ import annotations

import gc
import os
import pickle

import pytest
from crew import Crew, run_program
from hypothesis import given
from hypothesis import strategies as st

import fastshm
from fastshm import records as module

RECORDS = st.one_of(st.binary(max_size=9), st.text(max_size=9), st.integers(), st.none(), st.lists(st.integers(), max_size=3))


@given(st.lists(RECORDS), st.slices(10))
def test_like_a_tuple(records, part):
    f = fastshm.frozen(iter(records))
    assert list(f) == records
    assert (len(f), f[part]) == (len(records), records[part])
    for i in range(-len(records), len(records)):
        assert f[i] == records[i]
        assert type(f[i]) is type(records[i])
    for i in (len(records), -len(records) - 1):
        with pytest.raises(IndexError):
            f[i]
    assert list(reversed(f)) == records[::-1]
    if records:
        assert (records[0] in f, f.index(records[-1]), f.count(records[0])) == (
            True,
            records.index(records[-1]),
            records.count(records[0]),
        )


def test_a_process_that_refuses_pickles():
    text = """
import fastshm, pickle
name = fastshm.heap.create(allow_pickle=False).name
print(fastshm.frozen([b"a", "b"])[:])
try:
    fastshm.frozen([1])
except pickle.PicklingError as error:
    print(name in str(error), "'int'" in str(error))
"""
    assert run_program(text).stdout == "[b'a', 'b']\nTrue True\n"


def test_many_pieces(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 100)
    records = [bytes([i % 256]) * (i % 50) for i in range(1000)]
    assert list(fastshm.frozen(records)) == records


def test_nothing_is_written():
    f = fastshm.frozen([b"abc", "text"])
    view = f.view(0)
    assert (bytes(view), view.readonly) == (b"abc", True)
    with pytest.raises(TypeError, match="not bytes"):
        f.view(1)
    with pytest.raises(TypeError):
        f[0] = 1
    again = pickle.loads(pickle.dumps(f))
    del f
    assert again[:] == [b"abc", "text"]
    assert bytes(view) == b"abc", "it is good for as long as it is held"
    assert repr(again) == "<FrozenList of 2 records, 7 bytes>"


def total(f):
    return sum(len(record["text"]) for record in f)


def test_in_other_processes(method):
    f = fastshm.frozen({"n": i, "text": "x" * (i % 100)} for i in range(5000))
    with Crew(method) as crew:
        for _ in range(2):
            crew.start(total, f)
        assert crew.results() == [sum(i % 100 for i in range(5000))] * 2


def private() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(("Private_Dirty", "Private_Clean"))) * 1024


def grown(f):
    before, touched = private(), 0
    for record in f:
        touched += record["n"]
    return private() - before, touched


def test_a_pass_does_not_grow_a_worker():
    count = 200_000
    f = fastshm.frozen({"n": i, "text": str(i) * 4} for i in range(count))
    with Crew() as crew:
        crew.start(grown, f)
        more, touched = crew.results()[0]
    assert touched == count * (count - 1) // 2
    assert more < 4 << 20, f"{more:,} bytes for {count:,} records"


def test_refused_pickles():
    run_program("""
import fastshm, pickle
f = fastshm.frozen([b"a", {}])
fastshm.heap.attach(fastshm.heap.default().name, allow_pickle=False)
assert f[0] == b"a"
try:
    f[1]
except pickle.UnpicklingError as error:
    assert "refuses" in str(error)
else:
    raise AssertionError
""")


def test_memory_comes_back():
    before = fastshm.heap.check()["bytes_used"]
    f = fastshm.frozen([os.urandom(1000) for _ in range(1000)])
    del f
    assert fastshm.heap.check()["bytes_used"] <= before + 4096


def test_shared_objects_in_records_live_as_long_as_the_list():
    def totals(f):
        return [[record["n"].value + len(record["l"]) for record in f if isinstance(record, dict)], f[0].value, list(f[3])]

    before = fastshm.heap.check()["bytes_used"]
    f = fastshm.frozen(
        [fastshm.Value("q", 7), {"n": fastshm.Value("q", 1), "l": fastshm.list([1, 2])}, "text", fastshm.list([5])]
    )
    for _ in range(3):
        assert totals(f) == [[3], 7, [5]]
        gc.collect()
    f[1]["l"].append(3)
    with Crew() as crew:
        crew.start(totals, f)
        assert crew.results() == [[[4], 7, [5]]]
    del f
    gc.collect()
    assert fastshm.heap.check()["bytes_used"] <= before + 4096


class Five:
    def __index__(self):
        return 5


def test_whatever_is_an_index():
    records = fastshm.frozen([b"%d" % n for n in range(300)])
    numpy = pytest.importorskip("numpy")
    for i in (Five(), numpy.uint8(5), numpy.int8(5), numpy.int64(-295)):
        assert records[i] == records.view(i) == b"5"
    for wrong in (5.0, "5", None):
        with pytest.raises(TypeError, match="list indices must be integers or slices"):
            records[wrong]
