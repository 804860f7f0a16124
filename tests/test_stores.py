"""Named stores: found by programs that have nothing else in common; made once, whoever comes first; kept as asked."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from crew import Crew, run_program
from leftovers import SHM

import fastshm
from fastshm import names, records


@pytest.fixture
def address():
    name = f"shm://test-{uuid.uuid4().hex}"
    yield name
    with contextlib.suppress(FileNotFoundError):
        fastshm.unlink(name)


def file_of(address: str) -> Path:
    return SHM / (names.STORE + address.removeprefix("shm://"))


def test_two_programs(address):
    """The session of the README."""
    first = """
import fastshm, sys
with fastshm.Manager(sys.argv[1]) as m:
    m.root["hits"] = 1
    m.root.setdefault("jobs", []).append("from the first")
    print("there", flush=True)
    print(m.root.wait_for("answer", timeout=50), m.root["jobs"][:])
"""
    second = """
import fastshm, sys
with fastshm.Manager(sys.argv[1], create=False) as m:
    m.root["jobs"].append("from the second")
    m.root.increment("hits")
    print(m.root["hits"])
    m.root["answer"] = 42
"""
    with subprocess.Popen([sys.executable, "-c", first, address], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline() == "there\n"
        assert run_program(second, address).stdout == "2\n"
        assert program.stdout.read() == "42 ['from the first', 'from the second']\n"
    assert not file_of(address).exists(), "it goes with its last user"


EVERYTHING = """
import fastshm, sys
m = fastshm.Manager(sys.argv[1], create=False)
r = m.root
r["dict"]["k"] = r["list"].pop()
r["set"].add(2)
r["namespace"].x += 1
r["value"].value += 1
r["array"][0] += 1
for name in ("lock", "rlock", "semaphore", "bounded"):
    assert r[name].acquire(timeout=5), name
    r[name].release()
r["event"].set()
with r["condition"]:
    r["condition"].notify_all()
assert r["barrier"].wait(30) in (0, 1)
r["lock"].acquire()
fastshm.heap.attach(m.root._heap.name).check()
"""


def test_every_kind_of_object(address):
    with fastshm.Manager(address) as m:
        r = m.root
        r.update(dict=m.dict(a=1), list=m.list([1, 2]), set=m.set([1]), namespace=m.Namespace(x=1), value=m.Value("i", 1))
        r.update(array=m.Array("i", [1, 2]), lock=m.Lock(), rlock=m.RLock(), semaphore=m.Semaphore(1), event=m.Event())
        r.update(bounded=m.BoundedSemaphore(1), condition=m.Condition(), barrier=m.Barrier(2))
        with Crew() as crew:
            worker = crew.run(r["barrier"].wait, 30)
            run_program(EVERYTHING, address)
            assert crew.result(worker) in (0, 1)
        assert (r["dict"].copy(), r["list"][:], r["set"].copy()) == ({"a": 1, "k": 2}, [1], {1, 2})
        assert (r["namespace"].x, r["value"].value, r["array"][0], r["event"].is_set()) == (2, 2, 2, True)
        assert r["lock"].acquire(timeout=10)
        assert r["lock"].abandoned
        assert all(r[name]._heap is r._heap for name in ("dict", "list", "lock", "rlock", "semaphore", "event", "barrier"))
        r._heap.check()


OWN_TYPES = """
import fastshm, numpy, sys
m = fastshm.Manager(sys.argv[1], create=False)
r = m.root
r["counter"].update("aab")
r["sharded"].add(2)
assert r["frozen"][:] == [b"x", "y", {"z": 1}] and r["long"][99] == b"99" * 100
r["atomic"].fetch_add(5)
r["items"].append(4)
r["rows"][1] = 7
r["text"].value = b"there"
assert fastshm.Value("q", beside=r["items"])._heap is r._heap
"""


def test_the_types_of_this_package(address, monkeypatch):
    numpy = pytest.importorskip("numpy")
    monkeypatch.setattr(records, "CHUNK", 1000)
    with fastshm.Manager(address) as m:
        r = m.root
        r.update(counter=m.Counter("a", b=1), sharded=m.ShardedCounter(40), frozen=m.frozen([b"x", "y", {"z": 1}]))
        r["long"] = m.frozen(b"%d" % i * 100 for i in range(100))
        r.update(atomic=fastshm.Value("q", 2, beside=r), items=fastshm.Array("i", [1, 2], capacity=9, beside=r))
        r.update(zeros=fastshm.Array("d", 3, beside=r), text=fastshm.Array("c", 9, beside=r))
        r["rows"] = fastshm.Array(numpy.float32, 6, shape=(2, 3), beside=r)
        run_program(OWN_TYPES, address)
        assert r["counter"] == {"a": 3, "b": 2}
        assert (r["sharded"].value, r["atomic"].value, r["items"][:], r["zeros"][:]) == (42, 7, [1, 2, 4], [0.0] * 3)
        assert (r["rows"].shape, r["rows"][1].tolist(), r["text"].value) == ((2, 3), [7.0] * 3, b"there")
        assert all(r[name]._heap is r._heap for name in ("counter", "sharded", "atomic", "items", "zeros", "text", "rows"))
        r._heap.check()
        del r
    assert not file_of(address).exists()


class Fields(ctypes.Structure):
    _fields_ = (("a", ctypes.c_int),)


def test_what_cannot_be_made_beside_others(address):
    with fastshm.Manager(address) as m:
        for make in (
            lambda: fastshm.Value(Fields, beside=m.root),
            lambda: fastshm.Value("q", lock=False, beside=m.root),
            lambda: fastshm.Array(Fields, 2, beside=m.root),
            lambda: fastshm.Array("q", 2, lock=m.RLock(), beside=m.root),
        ):
            with pytest.raises(TypeError, match="beside: only values of a simple type"):
                make()
        with pytest.raises(TypeError, match=r"beside=m\.root"):
            fastshm.Value("q", beside=m)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: fastshm.frozen([1]), "a frozen list"),
        (lambda: fastshm.set([1]), "a shared set or namespace"),
        (lambda: fastshm.RawArray("i", 3), "a shared ctypes object"),
        (lambda: fastshm.Value("i"), "an object of type 'Synchronized'"),
        (fastshm.Counter, "an object of type 'CounterProxy'"),
        (fastshm.ShardedCounter, "an object of type 'ShardedCounter'"),
    ],
)
def test_objects_of_elsewhere_are_refused(address, make, kind):
    with fastshm.Manager(address) as m, pytest.raises(ValueError, match=f"^{kind} in .*m.frozen.*beside=m.root"):
        m.root["x"] = make()


def test_the_root_is_live_unless_not_wanted(address):
    with fastshm.Manager(address) as m:
        m.root["a"] = {"b": [1]}
        m.root["a"]["b"].append(2)
        assert m.root.to_dict() == {"a": {"b": [1, 2]}}
    with fastshm.Manager(address, live=False) as m:
        m.root["a"] = [1]
        m.root["a"].append(2)
        assert m.root["a"] == [1]
        with fastshm.Manager(address, create=False) as again:
            assert not again.root.live, "that is the store's affair"


def open_and_count(address, rounds):
    roots = []
    for _ in range(rounds):
        with fastshm.Manager(address) as m:
            m.root.increment("count")
            roots.append(m.root.setdefault("first", os.getpid()))
    return roots


def test_one_store_whoever_comes_first(address, method):
    """They come at once, and each finds the same one."""
    with fastshm.Manager(address) as m, Crew(method) as crew:
        for _ in range(4):
            crew.start(open_and_count, address, 20)
        firsts = set(itertools.chain.from_iterable(crew.results()))
        assert len(firsts) == 1
        assert m.root["count"] == 80


def test_makers_in_a_race(address):
    """None is there when they come: whoever makes it, all of them are in the same one as long as one of them is."""
    with Crew() as crew:
        for _ in range(4):
            crew.start(meet, address, 4)
        assert len(set(crew.results())) == 1
    assert not file_of(address).exists()


def meet(address, parties):
    with fastshm.Manager(address) as m:
        m.root.increment("there")
        m.root.wait_for("there", lambda n: n == parties, 30)
        who = m.root.setdefault("who", os.getpid())
        m.root.increment("leave")
        m.root.wait_for("leave", lambda n: n == parties, 30)
        return who


def come_and_go(address):
    while True:
        with fastshm.Manager(address) as m:
            m.root.setdefault("list", []).append(1)


@pytest.mark.parametrize("persist", [False, True])
def test_killed_while_they_come_and_go(address, persist, monkeypatch):
    """At any instant of making, opening and leaving: who comes next gets in, all is whole, nothing else is left."""
    before = {path.name for path in SHM.glob("fastshm-*")}
    rest = random.Random(1)
    if persist:
        fastshm.Manager(address, persist=True).shutdown()
    for _ in range(25):
        with Crew() as crew:
            workers = [crew.start(come_and_go, address) for _ in range(2)]
            crew.go()
            time.sleep(rest.uniform(0, 0.02))
            for worker in workers:
                crew.kill(worker)
        with fastshm.Manager(address) as m:
            m.root._heap.check()
            m.root.setdefault("list", []).append(1)
            assert set(m.root["list"]) == {1}
    monkeypatch.setattr(names, "UNFINISHED", -1.0)  # what a maker had only begun is swept after a minute
    fastshm.heap.sweep()
    left = {path.name for path in SHM.glob("fastshm-*")} - before
    assert {name for name in left if name.startswith(names.STORE)} == ({file_of(address).name} if persist else set())


def test_kept_until_it_is_unlinked(address):
    run_program("import fastshm, sys; fastshm.Manager(sys.argv[1], persist=True).root['x'] = [1]", address)
    code = "import fastshm, os, signal, sys; m = fastshm.Manager(sys.argv[1]); m.root['x'].append(2); lock = m.Lock(); "
    code += "m.root['lock'] = lock; lock.acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code, address], check=False).returncode == -signal.SIGKILL
    assert file_of(address).name not in fastshm.heap.sweep()
    with fastshm.Manager(address, create=False) as m:
        assert m.root["x"][:] == [1, 2]
        assert m.root["lock"].acquire(timeout=10), "its holder was killed"
        assert m.root["lock"].abandoned
        assert m.root._heap.check()["processes"] == 1
        fastshm.unlink(address)
        m.root["x"].append(3)
        with pytest.raises(FileNotFoundError, match="there is no store"):
            fastshm.Manager(address, create=False)
        with fastshm.Manager(address) as other:
            assert "x" not in other.root
    with pytest.raises(FileNotFoundError, match="there is no store"):
        fastshm.unlink(address)


def test_a_handle_on_a_former_store_of_that_name(address):
    with fastshm.Manager(address) as m:
        m.root["l"] = m.list([1])
        text = pickle.dumps(m.root["l"])
    with fastshm.Manager(address) as m:
        m.root["l"] = m.list([2])
        with pytest.raises(ReferenceError):
            pickle.loads(text)


def test_shut_down(address):
    m = fastshm.Manager(address)
    items = m.list([1])
    assert repr(m) == f"<Store '{address}', open>"
    m.shutdown()
    m.shutdown()
    assert items[:] == [1], "handles stay good"
    for use in (m.list, m.Counter, lambda: m.root):
        with pytest.raises(AssertionError, match=f"the store is not open.*Manager.'{address}'. opens it again"):
            use()
    assert repr(m) == f"<Store '{address}', not open>"
    assert file_of(address).exists()
    del items
    assert not file_of(address).exists()


def test_refused(address):
    path = file_of(address)
    for body, mode, error in ((b"text", 0o600, fastshm.CorruptedError), (b"", 0o644, PermissionError)):
        path.write_bytes(body)
        path.chmod(mode)
        with pytest.raises(error, match="refused"):
            fastshm.Manager(address)
        path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        fastshm.Manager(address)
    path.unlink()
    with fastshm.Manager(address) as m:
        m.root["x"] = 1
        path.chmod(0o666)
        text = "import fastshm, sys; fastshm.Manager(sys.argv[1])"
        done = subprocess.run([sys.executable, "-c", text, address], capture_output=True, text=True, check=False)
        assert "PermissionError" in done.stderr
        path.chmod(0o600)


def test_a_damaged_root(address):
    where, refused = 80, 0
    with fastshm.Manager(address) as m:
        m.list([1, 2])  # gone at once
        file = os.open(file_of(address), os.O_RDWR)
        root = os.pread(file, 8, where)
        for offset in range(0, int.from_bytes(os.pread(file, 8, 64), "little"), 64):
            os.pwrite(file, offset.to_bytes(8, "little"), where)
            try:
                with fastshm.Manager(address) as other:
                    assert other.root.copy() == {}
            except fastshm.CorruptedError:
                refused += 1
        os.pwrite(file, root, where)
        os.close(file)
    assert refused > 10


@pytest.mark.parametrize("wrong", ["shm://", "shm:///x", "shm://a b", "shm://ä", "shm://" + "x" * 201, "myapp", "tcp://x"])
def test_wrong_names(wrong):
    for use in (fastshm.Manager, fastshm.unlink):
        with pytest.raises(ValueError, match="is not the address of a store"):
            use(wrong)


class Code:
    def __reduce__(self):
        return print, ("this ran",)


def test_refusing_pickles(address):
    with fastshm.Manager(address) as m:
        m.root.update(text="x" * 100, code=Code())
        code = (
            "import fastshm, sys; r = fastshm.Manager(sys.argv[1], allow_pickle=False).root; print(len(r['text'])); r['code']"
        )
        done = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, check=False)
        assert done.stdout == "100\n"
        assert "UnpicklingError" in done.stderr


def test_no_segment_of_the_program_itself_is_made(address):
    """A program that only visits a store leaves the rest of shared memory alone."""
    text = """
import fastshm, os, sys
before = set(os.listdir("/dev/shm"))
m = fastshm.Manager(sys.argv[1])
m.root["x"] = {"a": [1]}
assert set(os.listdir("/dev/shm")) - before == {"fastshm-store-" + sys.argv[1][6:]}, os.listdir("/dev/shm")
"""
    if os.geteuid():
        pytest.skip("needs a /dev/shm of its own")
    own = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
    done = subprocess.run([*own, sys.executable, "-c", text, address], capture_output=True, text=True, check=False)
    if "permission" in done.stderr.lower() or "not permitted" in done.stderr:
        pytest.skip("may not mount")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)"])
def test_a_store_whose_last_user_was_killed_is_gone(address, end):
    program = f"import fastshm, os, sys; fastshm.Manager(sys.argv[1]).root['x'] = 1; {end}"
    run_program(program, address, check=False)
    with fastshm.Manager(address) as manager:
        assert manager.root.copy() == {}
        manager.root["x"] = 2
        assert fastshm.Manager(address, create=False).root.copy() == {"x": 2}
    run_program(program.replace("(sys.argv[1])", "(sys.argv[1], persist=True)"), address, check=False)
    with fastshm.Manager(address, create=False) as manager:
        assert manager.root.copy() == {"x": 1}
