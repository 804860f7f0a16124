"""allow_pickle=False: no byte of the segment is given to pickle, whatever is written there, and everything native works."""

from __future__ import annotations

import tempfile

import pytest
from crew import run_program

GUARDED = """
import contextlib, multiprocessing, os, pickle, subprocess, sys
import fastshm

fastshm.heap.create(allow_pickle=False)
d, items = fastshm.dict(), fastshm.list()

@contextlib.contextmanager
def refused(kind=pickle.UnpicklingError, says="allow_pickle=False"):
    try:
        yield
    except kind as error:
        assert says in str(error), error
    else:
        raise AssertionError("nothing was raised")

def other(text):  # a process with access that does not refuse, and puts what runs code when it is loaded
    begin = f'''
import os, pickle, sys
d, items = pickle.loads(bytes.fromhex({pickle.dumps((d, items)).hex()!r}))
class Runs:
    def __reduce__(self):
        return os.system, ("echo it has run >&2",)
    def __hash__(self):
        return 1
'''
    subprocess.run([sys.executable, "-c", begin + text], check=True, stderr=subprocess.DEVNULL)  # a key runs where it is stored
"""


def guarded(text, *args):
    """It must exit 0 and say nothing on stderr: what has run would."""
    return run_program(GUARDED + text, *args)


NATIVE = [
    None,
    True,
    False,
    0,
    -(2**63),
    2**63 - 1,
    1.5,
    -0.0,
    "",
    "eight ch",
    "x" * 1_000,
    "é",
    "é" * 1_000,
    b"",
    b"y" * 1_000,
]
KEYS = [*NATIVE, 2**100, 1j, (), ("a", 1, None, (2, b"c")), frozenset([1, "x"]), 2.0]
PICKLED_VALUES = ["2**63", "[1]", "(1, 2)", "{1: 2}", "1j", "object", "[bytearray(b'x')]", "[d]", "set()"]
PICKLED_KEYS = [
    *("(1.0,)", "(True, 'x')", "print", "float('nan')"),
    *("__import__('decimal').Decimal('0.1')", "type('T', (str,), {})('x')"),
]


def test_natives_work():
    guarded(f"""
LARGE = b"z" * 100_000, bytearray(b"x"), bytearray(b"y" * 100_000)
for value in (*{NATIVE!r}, *LARGE):
    d["k"] = value
    items.append(value)
    assert [repr(got) for got in (d["k"], items[-1], d.pop("k"), d.setdefault("k", value))] == [repr(value)] * 4
assert repr(items[:]) == repr([*{NATIVE!r}, *LARGE])
assert [items.view(i) for i in (-3, -2, -1)] == [*LARGE]
d.clear()
for key in {KEYS!r}:
    d[key] = "here"
    assert key in d and d[key] == "here" and d.get_many([key]) == ["here"]
assert repr(d.keys()) == repr(list(dict.fromkeys({KEYS!r})))
assert "missing" not in d and d.increment("n", 2) == 2 and d.increment("n", 0.5) == 2.5
d.update(inside=fastshm.list([1, fastshm.dict(a=2)]))
assert d["inside"][1]["a"] == 2
assert fastshm.heap.check()["processes"] == 1 and len(d.copy()) == len(d.items()) == len(d)
while d:
    d.popitem()
value, numbers, lock = fastshm.Value("i"), fastshm.Array("d", 3), fastshm.RLock()
with lock:
    value.value, numbers[:] = 2, [1, 2, 3]
""")


def test_what_needs_a_pickle_is_not_stored():
    guarded(f"""
def all_refused(*operations):
    for operation in operations:
        with refused(pickle.PicklingError):
            operation()

items[:] = [1, 2]
for text in {PICKLED_VALUES!r}:
    value = eval(text)
    all_refused(lambda: d.__setitem__("k", value), lambda: d.update(a=1, k=value), lambda: d.setdefault("k", value),
                lambda: items.append(value), lambda: items.extend([1, value]), lambda: items.insert(0, value),
                lambda: items.__setitem__(0, value), lambda: items.__setitem__(slice(0, 1), [value]),
                lambda: fastshm.dict(k=value))
for text in {PICKLED_KEYS!r}:
    key = eval(text)
    all_refused(lambda: d.__setitem__(key, 1), lambda: d.update({{"a": 1, key: 2}}), lambda: d.setdefault(key, 1),
                lambda: d[key], lambda: key in d, lambda: d.pop(key, None), lambda: d.__delitem__(key),
                lambda: d.increment(key))
assert d.copy() == {{}} and items[:] == [1, 2]
assert d.increment("n", 2**63 - 1) and d["n"] == 2**63 - 1
all_refused(lambda: d.increment("n"))
assert d["n"] == 2**63 - 1
""")


def test_arrays_and_buffers():
    pytest.importorskip("numpy")
    guarded("""
import numpy
for array in (numpy.arange(5), numpy.zeros((50_000, 2), "f4"), numpy.array(["2020"], "M8[s]")):
    d["array"] = array
    assert (d["array"] == array).all() and (d.view("array") == array).all()
for value in (numpy.zeros(3, "i4, f8"), numpy.array([None]), pickle.PickleBuffer(b"x"), [numpy.arange(3)]):
    with refused(pickle.PicklingError):
        d["k"] = value
other('d["buffers"] = [pickle.PickleBuffer(b"x" * 9), Runs()]; items.append([Runs(), pickle.PickleBuffer(b"x"), d])')
for read in ('d["buffers"]', 'd.view("buffers")', 'd.pop("buffers")', 'd.values()', "items[0]", "items.view(0)", "items[:]"):
    with refused():
        eval(read)
assert "buffers" in d and len(items) == 1
""")


READS = """
d["a"]; d.get("b"); d.pop("a"); d.popitem(); d.values(); d.items(); d.copy(); dict(d); d.setdefault("a"); d.increment("a");
d.get_many("ab"); fastshm.dict(d); items[1]; items[-1]; items[:]; items.pop(); items.pop(1); items.remove(7); list(items);
items.index(7); 7 in items; items.sort(); items + []; [*items]; reversed(items); items.count(7); fastshm.list(items)
"""
KEY_READS = """
d.keys(); d.items(); d.copy(); list(d); d.popitem(); "missing" in d; d.get("missing"); d.pop("missing"); d.setdefault("new", 1);
d.__setitem__("new", 1); d.update(new=1); d.__delitem__("missing"); d.increment("new"); dict(d)
"""


def test_values_that_others_pickled_are_not_loaded():
    guarded(f"""
d["mine"] = 1
other('d.update(a=Runs(), b=[Runs(), items]); items.extend([1, Runs(), [Runs(), d]])')
for read in {READS.split(";")!r}:
    with refused():
        eval(read.strip())
assert d["mine"] == 1 and "a" in d and len(d) == 3 and items[0] == 1 and d.keys() == ["mine", "a", "b"]
assert "failed" in str(d) and "failed" in str(items)
del d["a"], d["b"], items[1:]
d["b"] = 2
assert d.copy() == {{"mine": 1, "b": 2}} and items[:] == [1]
""")


def test_keys_that_others_pickled_are_not_loaded():
    """Nor is what equals them guessed: a key that is not found among the native ones might equal one of the others."""
    guarded(f"""
d["mine"] = 1
other('d[Runs()] = 1')
for read in {KEY_READS.split(";")!r}:
    with refused():
        eval(read.strip())
assert d["mine"] == 1 and "mine" in d and len(d) == 2 and d.values() == [1, 1]
d["mine"] = 2
d.clear()
other("d[(1.0, 'x')] = 1")
for read in ("d.keys()", "d.copy()", "d.popitem()"):
    with refused():
        eval(read)
assert d[1, "x"] == 1 and d.pop((1, "x")) == 1 and not d
""")


def test_refused_however_the_segment_is_met():
    """Attached by name, by a handle, again after it was left; by children of every start method; and never taken back."""
    maker = """
import pickle, subprocess, sys
import fastshm
d = fastshm.dict(a=[1], b=2)
name = fastshm.heap.default().name
handles = [pickle.dumps(d).hex() for _ in range(3)]
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1], name, *handles]).returncode)
"""
    visitor = """
import gc, multiprocessing, pickle, sys
import fastshm

def read(d):
    try:
        return d["a"]
    except pickle.UnpicklingError:
        return d["b"]

if __name__ == "__main__":
    mine = fastshm.dict(a=[3])
    name, *handles = sys.argv[1:]
    first = fastshm.heap.attach(name)
    d = pickle.loads(bytes.fromhex(handles[0]))
    assert read(d) == [1]
    assert fastshm.heap.attach(name, allow_pickle=False) is first
    assert read(d) == 2, "also what was decoded before"
    del d
    gc.collect()
    assert name not in fastshm.heap._heaps, "left with the last handle"
    for handle in handles[1:]:
        d = pickle.loads(bytes.fromhex(handle))
        assert read(d) == 2
        fastshm.heap.attach(name, allow_pickle=True)
        assert read(d) == 2
    assert mine["a"] == [3], "only that segment"
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        with context.Pool(1) as pool:
            assert pool.apply(read, (d,)) == 2
"""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(visitor)
        file.flush()
        run_program(maker.replace('"-c", sys.argv[1]', "sys.argv[1]"), file.name)


def test_too_late_to_refuse():
    """Not silently another segment, beside the one where the objects are."""
    program = """
import fastshm
d = fastshm.dict()
try:
    fastshm.heap.create(allow_pickle=False)
except RuntimeError as error:
    print(d._address[0] in str(error))
d["x"] = 1, 2
assert d["x"] == (1, 2)
fastshm.heap.attach(d._address[0], allow_pickle=False)
try:
    d["x"] = 1, 2
except Exception as error:
    print(type(error).__name__)
"""
    assert run_program(program).stdout == "True\nPicklingError\n"


def test_results_of_functions():
    guarded(
        """
calls = fastshm.list()

@fastshm.cache
def double(*n, **more):
    calls.append(0)
    return n[0] * 2

@fastshm.cache(maxsize=2)
def triple(n):
    return n * 3

@fastshm.cache(ttl=60)
def fading(n):
    return n

assert [double("a"), double("a"), double(2, x="y"), triple(1), triple(1)] == ["aa", "aa", 4, 3, 3]
pid = os.fork()
if not pid:
    double("a")
    triple(1)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert len(calls) == 2
assert (double.cache_info().hits, triple.cache_info()) == (2, (2, 1, 2, 1)), (double.cache_info(), triple.cache_info())
with refused(pickle.PicklingError):
    double(1j)
with refused(pickle.PicklingError):
    fading(1)
assert fading.cache_info().currsize == 0
"""
    )
