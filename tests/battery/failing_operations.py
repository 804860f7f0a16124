"""The program behind failing_calls.py: operations of the package whose n-th call of each kind fails, for n = 1, 2, ...

    LD_PRELOAD=failing_shim.so python failing_operations.py calls|objects|first 0|1 [NAME]     (1: the short form)

`first` is what a process does only once: making its segment, and attaching to that of others. Each try has its own process.

An operation either does all of it or raises MemoryError or OSError and has done nothing; no lock is left held, no descriptor,
name or byte is lost, nothing is printed, and it works when it is tried again. An operation joins by one line in OPERATIONS.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

from battery import fork_a_stranger, names

import fastshm
from fastshm import heap
from fastshm.caching import Cache

OPEN, MMAP, FALLOCATE, TRUNCATE, FCNTL, MEMFD, FUTEX, MALLOC, REALLOC, CALLOC, PYTHON = range(11)
CALLS = ("open", "mmap", "fallocate", "ftruncate", "fcntl", "memfd_create", "futex", "malloc", "realloc", "calloc", "PyMem")
FOR_EVER = 1_000_000_000
WAYS = [  # the kind of call, what it says, and how many in a row: a signal or a conflict does not come back for ever
    *((call, number, length) for call in (OPEN, MEMFD) for number in (errno.EMFILE, errno.ENOMEM) for length in (1, FOR_EVER)),
    (OPEN, errno.EINTR, 1),
    (OPEN, errno.EINTR, 2),
    (MMAP, errno.ENOMEM, 1),
    (MMAP, errno.ENOMEM, FOR_EVER),
    (MMAP, errno.EAGAIN, 1),
    *((FALLOCATE, number, length) for number in (errno.ENOSPC, errno.ENOMEM) for length in (1, FOR_EVER)),
    (FALLOCATE, errno.EINTR, 2),
    *((TRUNCATE, number, 1) for number in (errno.ENOSPC, errno.EINTR, errno.EFBIG)),
    (FCNTL, errno.EINTR, 2),
    (FCNTL, errno.EAGAIN, 1),
    (FCNTL, errno.ENOLCK, 1),
    (FCNTL, errno.ENOLCK, FOR_EVER),
    (FUTEX, errno.EINTR, 2),
    *((call, errno.ENOMEM, length) for call in (MALLOC, REALLOC, CALLOC) for length in (1, FOR_EVER)),
]
OF_OBJECTS = [(PYTHON, errno.ENOMEM, length) for length in (1, 3, 200)]  # for ever, CPython 3.11 unwinds in circles

shim = ctypes.CDLL(None)
shim.failing_begin.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
shim.failing_end.restype = ctypes.c_long
begin, end = shim.failing_begin, shim.failing_end


class Operation(NamedTuple):
    """`operate` is tried on what `prepare` makes; `look` shows what others can see of it."""

    name: str
    prepare: Callable[[], Any]
    operate: Callable[[Any], object]
    look: Callable[[Any], object]
    told_late: bool = False  # done as one step whose result is made into an object afterwards: when that fails, it is done
    keeps: bool = False  # what was pickled and is never unpickled keeps its object
    objects: bool = True  # also when memory for Python's objects is lacking


# Without memory, CPython 3.11 itself loses references when a list is made of a sequence or a variable is shared with an inner
# function, and a child ends in os.fork(): no operation here does these with something that is counted.

# --- what is operated on ------------------------------------------------------------------------------------------------------


class Odd:
    """A key that only `==` can find."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and other.n == self.n

    def __hash__(self) -> int:
        return 7

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return Odd, (self.n,)


def a_dict() -> Any:
    inner = fastshm.list([1, 2])
    d = fastshm.dict(
        {"int": 1_000_000, "text": "x" * 300, "bytes": b"y" * 50, "pickle": {"n": [1] * 20}, "float": 2.5, (1, "a"): "tuple"}
    )
    d["inner"] = inner
    d["bundle"] = {"l": inner}
    d["k" * 60] = "long key"
    return d


def odd_dict() -> Any:
    d = fastshm.dict(one=1)
    d[Odd(1)] = "x" * 40
    d[Odd(2)] = 2
    return d


def full_dict() -> Any:
    """The next key makes the table grow."""
    return fastshm.dict({i: i for i in range(5)})


def a_large_dict() -> Any:
    d = fastshm.dict(k=b"y" * 70_000, l=fastshm.list([1]))
    d["buffers"] = [pickle.PickleBuffer(b"x" * 70_000), pickle.PickleBuffer(bytearray(9)), d["l"]]
    return d


def a_list() -> Any:
    return fastshm.list([1_000_000, "x" * 300, b"y" * 50, {"n": [1] * 20}, 2.5, fastshm.list([1]), {"l": fastshm.list([2])}])


def texts() -> Any:
    return fastshm.list([f"{n * 7 % 10} text number {n}" for n in range(10)])


def plain(value: object) -> object:
    """Values with live handles in them become comparable."""
    if isinstance(value, fastshm._list.List):
        return "handle", plain(value[:])
    if isinstance(value, fastshm._dict.Dict) and value.live:
        return "handle", plain(value.copy())
    if isinstance(value, fastshm._core.Handle):
        return "handle", plain(value._address)
    if isinstance(value, dict):
        return [(repr(k.n) if isinstance(k, Odd) else k, plain(v)) for k, v in value.items()]
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


def show_dict(d: Any) -> object:
    return plain(d.copy())


def show_list(items: Any) -> object:
    return plain(items[:])


def show_value(v: Any) -> object:
    return v.value


def show_array(a: Any) -> object:
    return a[:]


def show_nothing(_: object) -> object:
    return None


def a_live_dict() -> Any:
    return fastshm.live({"list": [1, "x" * 90], "dict": {"a": 1}})


def a_set() -> Any:
    return fastshm.set([1, "x" * 90, (1, "a")])


def a_frozen_list() -> Any:
    return fastshm.frozen(["x" * 300, b"y" * 90, {"n": [1] * 20}])


def a_cache() -> Any:
    results = Cache()
    results.put(1, "x" * 90)
    return results


def show_set(items: Any) -> object:
    return sorted(map(repr, items.copy()))


def show_results(results: Any) -> object:
    return results.get(1)


def keep_new(made: list[Any], function: Callable[[], Any]) -> None:
    """The new object replaces the one before, if there is one."""
    made[:] = [function()]


class ChildFailed(MemoryError):
    """It was refused, too, and its own error is not ours to judge."""


def a_fork(d: Any) -> None:
    pid = os.fork()
    if not pid:
        code = 3
        try:
            d["child"] = 1
            code = 0 if d["text"] == "x" * 300 else 4
        except (MemoryError, OSError):
            code = 1
        except BaseException:
            end()
            traceback.print_exc()
        end()
        heap._leave()
        os._exit(code)
    while True:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code > 1 or code < 0:
            raise AssertionError(f"the child ended with {code}")
        if code == 1:
            raise ChildFailed
        return


def a_manager(_: object) -> None:
    with fastshm.Manager() as manager:
        d = manager.dict(a=1)
        d["l"] = manager.list([1, 2])
        assert d["l"][:] == [1, 2]


def create(prefix: str, function: Callable[[], Any], look: Callable[[Any], object] = show_nothing) -> Operation:
    return Operation(f"make: {prefix}", list, lambda made: keep_new(made, function), show_nothing, False, False)


def an_array_hemmed_in() -> Any:
    """Where it cannot become longer; and what hems it in."""
    items = fastshm.Array("q", 50)
    return items, fastshm.Array("q", 50)


def a_moved_array() -> Any:
    items, _ = an_array_hemmed_in()
    items.extend([5] * 900)
    return items


def on_dict(name: str, operate: Callable[[Any], object], prepare: Callable[[], Any] = a_dict, **more: bool) -> Operation:
    return Operation(f"dict: {name}", prepare, operate, show_dict, **more)


def on_list(name: str, operate: Callable[[Any], object], prepare: Callable[[], Any] = a_list, **more: bool) -> Operation:
    return Operation(f"list: {name}", prepare, operate, show_list, **more)


def in_lock(d: Any) -> None:
    with d.get_lock():
        d["int"] = d["text"]


def imul(items: Any) -> None:
    items *= 3


OPERATIONS = [
    create("Value", lambda: fastshm.Value("q", 5)),
    create("ShardedCounter", lambda: fastshm.ShardedCounter(5)),
    create("RawValue", lambda: fastshm.RawValue("d", 5.0)),
    create("Array", lambda: fastshm.Array("q", [1, 2, 3])),
    create("large Array", lambda: fastshm.Array("d", 20_000)),
    create("RawArray", lambda: fastshm.RawArray("b", 500)),
    create("Lock", fastshm.Lock),
    create("RLock", fastshm.RLock),
    create("dict", lambda: fastshm.dict(a=1, b="x" * 100)),
    create("list", lambda: fastshm.list([1, "x" * 100])),
    create("nested", lambda: fastshm.dict(a=fastshm.dict(b=fastshm.dict(c=1)))),
    create("set", lambda: fastshm.set([1, "x" * 100])),
    create("Counter", lambda: fastshm.Counter(a=1, b=2)),
    create("live", lambda: fastshm.live({"list": [1, "x" * 100], "dict": {"a": {}}})),
    create("frozen", lambda: fastshm.frozen([1, "x" * 100, b"y" * 300])),
    create("Cache", lambda: Cache(3)),
    create("many handles", lambda: [fastshm.Value("i") for _ in range(600)]),
    Operation("value: set", lambda: fastshm.Value("q", 70_000), lambda v: setattr(v, "value", 9), show_value),
    Operation("value: get", lambda: fastshm.Value("q", 70_000), lambda v: v.value, show_value),
    Operation("value: fetch_add", lambda: fastshm.Value("q", 70_000), lambda v: v.fetch_add(9), show_value, True),
    Operation("value: exchange", lambda: fastshm.Value("q", 70_000), lambda v: v.exchange(9), show_value, True),
    Operation("value: fetch_or", lambda: fastshm.Value("q", 70_000), lambda v: v.fetch_or(9), show_value, True),
    Operation("value: fetch_max", lambda: fastshm.Value("d", 7.0), lambda v: v.fetch_max(9.0), show_value, True),
    Operation("value: wait", lambda: fastshm.Value("q", 70_000), lambda v: v.wait(70_000, 0.001), show_value),
    Operation("value: notify", lambda: fastshm.Value("q", 70_000), lambda v: v.notify_all(), show_value),
    Operation("counter: add", lambda: fastshm.ShardedCounter(70_000), lambda c: c.add(9), show_value),
    Operation("counter: exchange", lambda: fastshm.ShardedCounter(70_000), lambda c: c.exchange(9), show_value, True),
    Operation("value: add", lambda: fastshm.Value("q", 70_000), lambda v: v.add(9), show_value),
    Operation("value: lock", lambda: fastshm.Value("q", 70_000), lambda v: v.get_lock().acquire() and v.release(), show_value),
    Operation("array: set", lambda: fastshm.Array("q", 50), lambda a: a.__setitem__(3, 9), show_array),
    Operation("array: fetch_add", lambda: fastshm.Array("q", [70_000] * 50), lambda a: a.fetch_add(3, 9), show_array, True),
    Operation("array: set slice", lambda: fastshm.Array("q", 50), lambda a: a.__setitem__(slice(3, 13), range(10)), show_array),
    Operation("array: get slice", lambda: fastshm.Array("d", 50), lambda a: a[3:30], show_array),
    Operation("array: buffer", lambda: fastshm.Array("d", 50), lambda a: bytes(memoryview(a)), show_array),
    Operation("array: append", lambda: fastshm.Array("q", 50, capacity=60), lambda a: a.append(70_000), show_array),
    Operation("array: append with a move", lambda: an_array_hemmed_in()[0], lambda a: a.append(70_000), show_array),
    Operation("array: extend with a move", a_moved_array, lambda a: a.extend(range(500)), show_array),
    Operation("array: resize", lambda: fastshm.Array("q", 50), lambda a: a.resize(700), show_array),
    Operation("array: cut short", a_moved_array, lambda a: a.resize(7), show_array),
    Operation("array: fill", lambda: fastshm.Array("q", 50), lambda a: a.fill(70_000), show_array),
    Operation("array: add_from", a_moved_array, lambda a: a.add_from(range(40), start=3), show_array),
    Operation("array: wait", lambda: fastshm.Array("q", 50), lambda a: a.wait(3, 0, 0.001), show_array),
    Operation("array: view of moved items", a_moved_array, lambda a: bytes(memoryview(a)), show_array),
    Operation("array: get_obj() of moved items", a_moved_array, lambda a: a.get_obj()[3], show_array),
    on_dict("get int", lambda d: d["int"]),
    on_dict("get text", lambda d: d["text"]),
    on_dict("get pickle", lambda d: d["pickle"]),
    on_dict("get inner", lambda d: d["inner"]),
    on_dict("get bundle", lambda d: d["bundle"]),
    on_dict("get bytes and a view, large", lambda d: (d["k"], bytes(d.view("k"))), a_large_dict),
    on_dict("get buffers and a view", lambda d: (d["buffers"], d.view("buffers")), a_large_dict),
    on_dict("set bytes, large", lambda d: d.__setitem__("k", b"z" * 100_000), a_large_dict),
    on_dict("set buffers", lambda d: d.__setitem__("k", [pickle.PickleBuffer(b"z" * 90_000), d["l"]]), a_large_dict),
    on_dict("setdefault, large", lambda d: d.setdefault("new", [pickle.PickleBuffer(bytearray(90_000))]), a_large_dict),
    on_dict("set int", lambda d: d.__setitem__("int", 2_000_000)),
    on_dict("set text", lambda d: d.__setitem__("text", "z" * 400)),
    on_dict("set pickle", lambda d: d.__setitem__("int", {"a": [1, 2]})),
    on_dict("set inner", lambda d: d.__setitem__("int", d["inner"])),
    on_dict("set bundle", lambda d: d.__setitem__("int", [d["inner"]] * 2)),
    on_dict("insert", lambda d: d.__setitem__("another key that is too long to lie in its entry", "x" * 90)),
    on_dict("insert a tuple", lambda d: d.__setitem__((2, ("x", None)), 1)),
    on_dict("insert with growth", lambda d: d.__setitem__("new", "x" * 90), full_dict),
    on_dict("delete", lambda d: d.__delitem__("text")),
    on_dict("delete inner", lambda d: d.__delitem__("inner")),
    on_dict("pop int", lambda d: d.pop("int", None)),
    on_dict("pop float", lambda d: d.pop("float", None)),
    on_dict("pop text", lambda d: d.pop("text", None)),
    on_dict("pop bytes", lambda d: d.pop("bytes", None)),
    on_dict("pop pickle", lambda d: d.pop("pickle", None)),
    on_dict("pop inner", lambda d: d.pop("inner", None)),
    on_dict("popitem", lambda d: d.popitem()),
    on_dict("setdefault", lambda d: d.setdefault("new", ["x" * 90])),
    on_dict("increment", lambda d: d.increment("int", 70_000), told_late=True),
    on_dict("increment a float", lambda d: d.increment("float", 0.5)),
    on_dict("increment, new", lambda d: d.increment("new", 70_000), told_late=True),
    on_dict("clear", lambda d: d.clear()),
    on_dict("update", lambda d: d.update(int="x" * 200, text=5, new=[1, {}], more="y" * 90)),
    on_dict("update with growth", lambda d: d.update({f"k{i}": "x" * i for i in range(40)}), full_dict),
    on_dict("update from a dict", lambda d: d.update(d)),
    on_dict("set_many", lambda d: d.set_many({"int": "x" * 200, "more": "y" * 90})),
    on_dict("pop_many of one", lambda d: d.pop_many(["text"])),
    on_dict("popitem, the first", lambda d: d.popitem(last=False)),
    on_dict("add_from", lambda d: d.add_from({"int": 70_000, "float": 0.5, "new": 1})),
    on_dict("add_from, large numbers", lambda d: d.add_from({"int": 1 << 80, "new": 1})),
    on_dict("compare_exchange", lambda d: d.compare_exchange("text", "x" * 300, "z" * 400), told_late=True),
    on_dict("compare_exchange, another", lambda d: d.compare_exchange("text", "y", "z" * 400)),
    on_dict("wait_for", lambda d: d.wait_for("text", timeout=1)),
    on_dict("live: set", lambda d: d.__setitem__("new", {"a": [1, {"b": "x" * 50}]}), a_live_dict),
    on_dict("live: setdefault", lambda d: d.setdefault("new", [1, 2]), a_live_dict),
    on_dict("live: append to what is in it", lambda d: d["list"].append("y" * 90), a_live_dict),
    on_dict("Counter: update", lambda d: d.update({"a": 70_000, "new": 3}), lambda: fastshm.Counter(a=1)),
    on_dict("Counter: subtract", lambda d: d.subtract({"a": 70_000, "new": 3}), lambda: fastshm.Counter(a=1)),
    Operation("set: add", a_set, lambda items: items.add("y" * 90), show_set),
    Operation("set: discard", a_set, lambda items: items.discard("x" * 90), show_set),
    Operation("set: update", a_set, lambda items: items.update(["y" * 90, 7, (1, 2)]), show_set),
    Operation("set: pop", a_set, lambda items: items.pop(), show_set),
    Operation("frozen: read", a_frozen_list, lambda records: [records[0], records[1], records[2]], show_list),
    Operation("frozen: view", a_frozen_list, lambda records: bytes(records.view(1)), show_list),
    Operation("frozen: pickle and unpickle", a_frozen_list, lambda r: pickle.loads(pickle.dumps(r)), show_list, keeps=True),
    Operation("cache: get", a_cache, lambda c: c.get(1), show_results),
    Operation("cache: put", a_cache, lambda c: c.put(1, "y" * 90), show_results),
    on_dict("copy", lambda d: d.copy()),
    on_dict("keys, values, items", lambda d: (d.keys(), d.values(), d.items())),
    on_dict("iterate", lambda d: [*d]),
    on_dict("get_many", lambda d: d.get_many(["int", "text", "missing", "pickle"])),
    on_dict("in, len", lambda d: ("int" in d, "missing" in d, len(d))),
    on_dict("under its lock", in_lock),
    on_dict("odd key: get", lambda d: d[Odd(1)], odd_dict),
    on_dict("odd key: set", lambda d: d.__setitem__(Odd(2), "x" * 50), odd_dict),
    on_dict("odd key: insert", lambda d: d.__setitem__(Odd(3), "x" * 50), odd_dict),
    on_dict("odd key: delete", lambda d: d.__delitem__(Odd(1)), odd_dict),
    on_dict("odd key: pop", lambda d: d.pop(Odd(1), None), odd_dict),
    on_dict("odd key: update", lambda d: d.update({Odd(1): 5, Odd(4): 6, "one": "x" * 50}), odd_dict),
    on_list("get", lambda items: list(map(items.__getitem__, range(len(items))))),
    on_list("get slice", lambda items: items[1:6:2]),
    on_list("append int", lambda items: items.append(2_000_000)),
    on_list("append text", lambda items: items.append("z" * 90)),
    on_list("append pickle", lambda items: items.append({"a": [1]})),
    on_list("append inner", lambda items: items.append(items[5])),
    on_list("extend", lambda items: items.extend([1, "x" * 90, {"a": [2]}, b"z" * 20])),
    on_list("extend with itself", lambda items: items.extend(items)),
    on_list("insert", lambda items: items.insert(2, "z" * 90)),
    on_list("set", lambda items: items.__setitem__(1, "z" * 400)),
    on_list("set slice", lambda items: items.__setitem__(slice(1, 3), ["z" * 90, 1, 2, "y" * 70])),
    on_list("delete", lambda items: items.__delitem__(1)),
    on_list("delete slice", lambda items: items.__delitem__(slice(0, 5, 2))),
    on_list("pop int", lambda items: items.pop(0)),
    on_list("pop text", lambda items: items.pop(1)),
    on_list("pop pickle", lambda items: items.pop(3)),
    on_list("pop float", lambda items: items.pop(4)),
    on_list("pop inner", lambda items: items.pop(5)),
    on_list("pop bundle", lambda items: items.pop()),
    on_list("multiply", imul, texts),
    on_list("sort", lambda items: items.sort(), texts),
    on_list("reverse", lambda items: items.reverse(), texts),
    on_list("remove", lambda items: items.remove(items[4]) if len(items) == 10 else None, texts),
    on_list("index, count, in", lambda items: (items.index(2.5), items.count(2.5), 7 in items)),
    on_list("iterate", lambda items: (list(items), [*iter(items)])),
    on_dict("pickle", lambda d: pickle.dumps(d), keeps=True),
    on_dict("pickle and unpickle", lambda d: pickle.loads(pickle.dumps(d)), keeps=True),
    Operation("lock: pickle", fastshm.Lock, lambda lock: pickle.loads(pickle.dumps(lock)), show_nothing, keeps=True),
    Operation("lock: with", fastshm.Lock, lambda lock: lock.__enter__() and lock.__exit__(None, None, None), show_nothing),
    Operation("a manager", list, a_manager, show_nothing),
    Operation("a fork", a_dict, a_fork, show_dict, True, objects=False),  # a child without memory ends in CPython
]


# --- trying -------------------------------------------------------------------------------------------------------------------

tried = failed = 0
unraisable: list[str] = []


def keep_unraisable(about: Any) -> None:
    text = f"{about.err_msg}: {about.exc_value!r} in {about.object!r}"
    if "judged.<locals>" not in text:  # a generator of this file, closed while memory is lacking
        unraisable.append(text)


def wrong(operation: str, way: str, why: str) -> None:
    global failed
    failed += 1
    print(f"{operation}, {way}: {why}", flush=True)


def describe(call: int, number: int, n: int, length: int) -> str:
    often = "" if length == 1 else " and all after" if length == FOR_EVER else f" and {length - 1} after"
    return f"{CALLS[call]} number {n}{often} fails with {errno.errorcode[number]}"


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def held(state: object) -> str:
    """The lock that this process still holds, if any."""
    if heap._opening._is_owned():  # type: ignore[attr-defined]
        return "the one for opening segments"
    for lock in (state, getattr(state, "get_lock", lambda: None)()):
        if isinstance(lock, fastshm._locks.Gateway):
            holder = lock._state()
            if (holder[0] if isinstance(holder, tuple) else holder) is not None:
                return "the object's"
    return ""


def attempt(operate: Callable[[Any], object], state: object, call: int, number: int, n: int, length: int) -> tuple[object, int]:
    """The exception or None, and how many calls failed."""
    error: BaseException | None = None
    begin(call, number, n, length)
    try:
        operate(state)
    except BaseException as caught:
        hits = end()
        error = caught
    else:
        hits = end()
    if error is not None:
        error = error.with_traceback(None)
        error.__context__ = error.__cause__ = None
    return error, hits


def bytes_used() -> int:
    gc.collect()
    census = heap.check()
    return census["bytes_used"] - 64 * census["tickets"]


def is_plausible(error: object, call: int, number: int) -> str:
    """What is wrong with the exception, if anything."""
    if call == PYTHON and isinstance(error, pickle.PicklingError) and "import of module" in str(error):
        return ""  # so pickle calls an import that has no memory
    if call == PYTHON and isinstance(error, RuntimeError) and "can't allocate lock" in str(error):
        return ""  # and so does threading.RLock()
    if not isinstance(error, (MemoryError, OSError)):
        return f"it raised {error!r}"
    if call == PYTHON:
        return ""
    if isinstance(error, ChildFailed):
        return ""
    if isinstance(error, OSError) and error.errno != number:
        return f"it raised {error!r}"
    if isinstance(error, MemoryError) and not str(error):
        return "its MemoryError says nothing"
    if call in (MALLOC, REALLOC, CALLOC) and "/dev/shm" in str(error):
        return f"it blames shared memory: {error}"
    if call == FALLOCATE and not ("/dev/shm" in str(error) and "free" in str(error)):
        return f"it names no remedy: {error}"
    return ""


class Hog:
    """Takes what a segment has left, but for some grains of 64 bytes."""

    def __init__(self) -> None:
        self.items = fastshm.list([0] * 2_000)
        self.n = 0

    def take(self, size: int) -> bool:
        try:
            self.items[self.n] = b"x" * size
        except MemoryError:
            return False
        self.n += 1
        return True

    def squeeze(self, grains: int) -> None:
        if grains:
            assert self.take(64 * grains - 24)
        begin(FALLOCATE, errno.ENOSPC, 1, FOR_EVER)
        size = 1 << 20
        while size > 40:
            if not self.take(size - 24):
                size //= 2
        end()
        if grains:
            self.items[0] = 0

    def relax(self) -> None:
        for i in range(self.n):
            self.items[i] = 0
        self.n = 0


def try_one(o: Operation, after: object, call: int, number: int, n: int, length: int, hog: Hog | None = None) -> bool:
    """False when nothing failed, because it makes fewer calls. With a hog, n grains and one are left of the segment."""
    global tried
    way = describe(call, number, n, length)
    state = o.prepare()
    before, descriptors = o.look(state), open_descriptors()
    if hog is not None:
        way = f"{n - 1} grains are left"
        hog.squeeze(n - 1)
        error, hits = attempt(o.operate, state, FALLOCATE, errno.ENOSPC, 1, FOR_EVER)
        hog.relax()
    else:
        error, hits = attempt(o.operate, state, call, number, n, length)
    tried += hits > 0
    if error is not None and (complaint := is_plausible(error, call, number)):
        wrong(o.name, way, complaint)
    now = o.look(state)
    if error is None and now != after:
        wrong(o.name, way, f"it is not done: {now}")
    if error is not None and now != before and not (o.told_late and now == after):
        wrong(o.name, way, f"it raised {error!r} and has changed something: {now}")
    if lock := held(state):
        wrong(o.name, way, f"a lock is held: {lock}")
    if open_descriptors() != descriptors:
        wrong(o.name, way, "a descriptor is left open, or was closed")
    while unraisable:
        wrong(o.name, way, f"printed: {unraisable.pop()}")
    if error is not None and now == before:
        error, _ = attempt(o.operate, state, -1, 0, 1, 1)
        if error is not None or o.look(state) != after:
            wrong(o.name, way, f"then again: {error!r}, {o.look(state)}")
    return hits > 0


def numbers(short: bool, seed: int) -> Iterator[int]:
    """1, 2, 3, ...; the short form leaves out more and more."""
    n = 1
    while True:
        yield n
        n += 1 if not short or n < 8 else 1 + n // 8


def try_operation(o: Operation, ways: list[tuple[int, int, int]], short: bool, hog: Hog | None) -> None:
    for _ in range(2):  # the second time nothing is new any more, to Python either
        state = o.prepare()
        o.operate(state)
        after = o.look(state)
        del state
    base = bytes_used()
    for call, number, length in ways:
        for n in numbers(short, 1):
            if not try_one(o, after, call, number, n, length):
                break
        left = bytes_used()
        if left > base:
            gc.collect()  # an exception and the frame that keeps it
            left = bytes_used()
        if left > base and not o.keeps:
            wrong(o.name, describe(call, number, n, length), f"{left - base} bytes are left after one of the tries")
        base = left
    if hog is not None:
        for n in numbers(True, 1):
            if not try_one(o, after, FALLOCATE, errno.ENOSPC, n, FOR_EVER, hog):
                break


# --- the first time -----------------------------------------------------------------------------------------------------------


def lender() -> tuple[int, int, int]:
    """A process with a segment, and the pipes to ask it for a pickled handle on its dict."""
    ask, asked = os.pipe(), os.pipe()
    pid = fork_a_stranger()
    if not pid:
        os.close(ask[1])
        d = a_dict()
        while os.read(ask[0], 1):
            data = pickle.dumps(d)
            os.write(asked[1], len(data).to_bytes(4, "little") + data)
        heap._leave()
        os._exit(0)
    os.close(ask[0])
    return pid, ask[1], asked[0]


def first_dict(_: bytes) -> None:
    assert fastshm.dict(a=1)["a"] == 1


def first_value(_: bytes) -> None:
    assert fastshm.Value("q", 3).value == 3


def first_handle(data: bytes) -> None:
    d = pickle.loads(data)
    assert d["text"] == "x" * 300
    assert d["inner"][:] == [1, 2]
    d["int"] = 1_000_000


def first_time(operate: Callable[[bytes], None], data: bytes, way: tuple[int, int, int, int]) -> int:
    """In a forked child, which prints its complaints. Bit 0 of its code: something failed; bit 1: there are complaints."""
    call, number, n, length = way
    others, inherited = names(), list(heap._heaps)
    before = open_descriptors()
    error, hits = attempt(operate, data, call, number, n, length)
    ahead = {*inherited, heap._ahead.name} if heap._ahead else {*inherited}
    complaints = []
    mine = names() - others - ahead
    if error is not None and (what := is_plausible(error, call, number)):
        complaints.append(what)
    if mine != {h.name for h in heap._heaps.values()} - others - ahead:
        complaints.append(f"names are lost: {mine}")
    more = len(heap._heaps) - len(inherited)
    if open_descriptors() != before + 2 * more:
        complaints.append(f"{open_descriptors() - before} descriptors more for {more} segments")
    if heap._opening._is_owned():  # type: ignore[attr-defined]
        complaints.append("a lock is held")
    complaints += unraisable
    error, _ = attempt(operate, data, -1, 0, 1, 1)
    if error is not None:
        complaints.append(f"then again: {error!r}")
    else:
        heap.check()
    heap._leave()
    if names() - ahead != others:
        complaints.append(f"names are left: {names() - ahead - others}")
    for complaint in complaints:
        print(f"{operate.__name__}, {describe(call, number, n, length)}: {complaint}", flush=True)
    return (hits > 0) + 2 * bool(complaints)


def second_segment(data: bytes) -> None:
    """One's own, and that of another, which is left with the last handle in it."""
    own = fastshm.Value("q", 3)
    first_handle(data)
    assert own.value == 3


def first_fork(_: bytes) -> None:
    """A segment is made ahead, or not, but there is a child."""
    pid = os.fork()
    if not pid:
        end()
        code = 1
        with contextlib.suppress(Exception):
            code = fastshm.dict(a=7)["a"]
            heap._leave()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


FIRST = [  # with a segment from before the fork, or none; also without memory for Python's objects
    (first_dict, False, True),
    (first_value, False, True),
    (first_handle, False, True),
    (second_segment, False, True),
    (first_dict, True, True),
    (first_handle, True, True),
    (second_segment, True, True),
    (first_fork, False, False),
]


def fork_for_the_first_time(with_one: bool) -> int:
    """os.fork(), for a child that is a stranger to this process; its parent is another one if it inherits a segment."""
    pid = fork_a_stranger()
    if not pid and with_one and (pid := os.fork()):
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        heap._leave()
        os._exit(code if code >= 0 else 128)
    return pid


def try_first(only: str, short: bool) -> None:
    """From a process that has no segment itself."""
    global tried, failed
    pid, ask, asked = lender()
    for operate, with_one, of_objects in FIRST:
        for call, number, length in [*WAYS, *(OF_OBJECTS if of_objects else [])] if only in operate.__name__ else []:
            if call == PYTHON and short and length > 1:
                continue
            for n in numbers(short or call == PYTHON, 1):
                os.write(ask, b"?")
                data = os.read(asked, int.from_bytes(os.read(asked, 4), "little"))
                child = fork_for_the_first_time(with_one)
                if not child:
                    code = 4
                    try:
                        code = first_time(operate, data, (call, number, n, length))
                    except BaseException:
                        end()
                        traceback.print_exc()
                    os._exit(code)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                tried += code & 1 if code >= 0 else 1
                if code > 1 or code < 0:
                    wrong(operate.__name__, describe(call, number, n, length), f"the process ended with {code}")
                if not code & 1:
                    break
        print(f"{operate.__name__:<40} {tried:>7} failing calls so far", flush=True)
    os.close(ask)
    os.waitpid(pid, 0)


def main() -> int:
    group, short, only = sys.argv[1], sys.argv[2] == "1", sys.argv[3] if len(sys.argv) > 3 else ""
    sys.unraisablehook = keep_unraisable
    resource_tracker.ensure_running()
    if group != "calls":
        shim.failing_hook_python()
    if group == "first":
        try_first(only, short)
    ways = WAYS if group == "calls" else OF_OBJECTS
    for o in OPERATIONS if group != "first" else []:
        if only in o.name and (group == "calls" or o.objects):
            before = tried
            try_operation(o, ways, short, Hog() if group == "calls" else None)
            print(f"{o.name:<40} {tried - before:>7} failing calls", flush=True)
    print(f"{tried} tried, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
