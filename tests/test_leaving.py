"""Segments of others that are left and joined again by the threads of one process, and what is asked of one that was left."""

from __future__ import annotations

import subprocess
import sys

import pytest
from crew import run_program

import fastshm

MAKER = """
import fastshm, pickle, sys
d = fastshm.dict(a=int(sys.argv[1]))
print(pickle.dumps(d).hex(), fastshm.heap.default().name, flush=True)
sys.stdin.read()
"""

AT_ONCE = """
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong)
"""

THREADS = (
    """
import fastshm, pickle, sys, threading, time
sys.setswitchinterval(1e-6)
mine = fastshm.dict()
pickled, wrong, end = [bytes.fromhex(x) for x in sys.argv[1:]], [], time.monotonic() + 4

def loads(k):
    while time.monotonic() < end:
        k = (k + 1) % len(pickled)
        try:
            found = pickle.loads(pickled[k])["a"]
        except Exception as error:
            found = repr(error)
        if found != k:
            wrong.append((k, found))

threads = [threading.Thread(target=loads, args=(k,)) for k in range(6)]
"""
    + AT_ONCE
)

STORE = (
    """
import fastshm, sys, threading, time
sys.setswitchinterval(1e-6)
mine = fastshm.dict()
wrong, end = [], time.monotonic() + 3

def opens(address):
    while time.monotonic() < end:
        try:
            with fastshm.Manager(address) as m:
                found = m.root.setdefault("x", 1)
        except Exception as error:
            found = repr(error)
        if found != 1:
            wrong.append((address, found))

threads = [threading.Thread(target=opens, args=(address,)) for address in sys.argv[1:] * 2]
"""
    + AT_ONCE
)

FORKS = """
import collections, contextlib, fastshm, os, pickle, signal, sys, threading, time
sys.setswitchinterval(1e-5)
mine = fastshm.dict()
pickled, end, ended = bytes.fromhex(sys.argv[1]), time.monotonic() + 4, collections.Counter()

def loads():
    assert pickle.loads(pickled)["a"] == 0

def opens():
    with fastshm.Manager(f"shm://leaving-{os.getpid()}") as m:
        m.root["x"] = 1

def go_on(what):
    while time.monotonic() < end:
        what()

def child():
    signal.alarm(20)
    opened = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that by which they are listed
            opened.append(os.readlink(f"/proc/self/fd/{fd}"))
    known = fastshm.heap._heaps
    assert not any(segment.is_left for segment in known.values())
    assert sum(path.startswith("/dev/shm/fastshm-") for path in opened) == 2 * len(known), (opened, list(known))
    for _ in range(3):
        loads()
        opens()

threads = [threading.Thread(target=go_on, args=(what,)) for what in (loads, opens)]
for thread in threads:
    thread.start()
while time.monotonic() < end:
    if not (pid := os.fork()):
        try:
            child()
        except BaseException as error:
            os.write(2, repr(error).encode()[:500])
            os._exit(1)
        os._exit(0)
    ended[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])] += 1
for thread in threads:
    thread.join()
fastshm.heap.sweep()  # a child that ends by os._exit does not leave: it may have been the last one in a store
print(list(ended))
"""

LEFT = """
import fastshm, pickle, sys
mine = fastshm.dict()
segment = fastshm.heap.attach(sys.argv[1])
pickle.loads(bytes.fromhex(sys.argv[2]))
for ask in (lambda: segment.root(fastshm.managers.DictProxy), lambda: segment.is_kept, lambda: segment.keep(False)):
    try:
        ask()
    except ReferenceError:
        print("refused")
again = fastshm.heap.attach(sys.argv[1])
print(segment.is_left, again.is_left, again is segment)
"""

LONG = """
import fastshm, os, sys
mine = fastshm.dict()
with fastshm.Manager(sys.argv[1]) as m:
    print(len(os.listdir("/dev/shm")))
print(len(os.listdir("/dev/shm")))
"""

CACHED = """
import multiprocessing
import fastshm

value = fastshm.Value("q")

@fastshm.cache
def square(n):
    return n * n

def work():
    assert square(3) == 9

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
    print(child.exitcode)
"""


def run(*command):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60)


@pytest.fixture
def makers():
    made = [
        subprocess.Popen([sys.executable, "-c", MAKER, str(k)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for k in range(3)
    ]
    yield [maker.stdout.readline().split() for maker in made]
    for maker in made:
        maker.communicate()


def test_threads_that_join_and_leave_the_segments_of_others(makers):
    done = run("-c", THREADS, *(pickled for pickled, _ in makers))
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr[-2000:]


def test_a_segment_that_was_left_is_no_crash(makers):
    pickled, name = makers[0]
    done = run("-c", LEFT, name, pickled)
    assert (done.returncode, done.stdout.split()) == (0, ["refused"] * 3 + ["True", "False", "False"]), done.stderr[-2000:]


def test_threads_that_open_and_shut_stores(tmp_path):
    """One that another program has open, and one that goes with each of its last users."""
    names = [f"shm://{tmp_path.name}-{kind}" for kind in ("kept-open", "own")]
    with fastshm.Manager(names[0]) as m:
        m.root["x"] = 1
        done = run("-c", STORE, *names)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr[-2000:]


def test_forks_while_threads_join_and_leave(makers):
    """Each child can do the same, and has nothing open but the segments that it knows."""
    done = run("-c", FORKS, makers[0][0])
    assert (done.returncode, done.stdout.strip()) == (0, "[0]"), done.stderr[-2000:]


def test_a_store_with_a_long_name_goes_with_its_last_user(tmp_path):
    done = run("-c", LONG, f"shm://{tmp_path.name:x<200.200}")
    assert done.returncode == 0, done.stderr[-2000:]
    while_open, afterwards = map(int, done.stdout.split())
    assert afterwards == while_open - 1


def test_a_cache_in_a_child_that_has_a_segment_of_its_own(tmp_path):
    (tmp_path / "cached.py").write_text(CACHED)
    done = run(str(tmp_path / "cached.py"))
    assert done.stdout.strip() == "0", done.stderr[-2000:]


def test_none_is_no_slice():
    values = fastshm.list([1, 2, 3])
    with pytest.raises(TypeError):
        values[0:2] = None
    assert values[:] == [1, 2, 3]


AT_THE_VERY_END = """
import atexit, os, sys
last = []
atexit.register(lambda: [use() for use in last])  # before fastshm: it runs after fastshm has left
import fastshm

family, (ready, begin), (may_go_on, go_on) = fastshm.Value("i"), os.pipe(), os.pipe()
if not os.fork():
    m = fastshm.Manager()
    things = {"array": m.Array("i", [7] * 10), "dict": m.dict(a=1), "list": m.list([1, 2]), "namespace": m.Namespace(x=5),
              "lock": m.Lock(), "event": m.Event(), "plain": fastshm.Array("i", [7] * 10)}

    def use():
        os.write(begin, b"x")
        os.read(may_go_on, 1)
        uses = {"array": lambda t: t[0], "dict": lambda t: t.update(b=1), "list": len, "namespace": lambda t: t.x,
                "lock": lambda t: t.acquire(False), "event": lambda t: t.set(), "plain": lambda t: t[0]}
        for name, thing in things.items():
            try:
                print(name, uses[name](thing), flush=True)
            except ReferenceError:
                pass
    last.append(use)
    sys.exit()
os.read(ready, 1)
others = [fastshm.Array("i", [-1] * n) for n in (1, 5, 10, 20, 100) for _ in range(20)]
others += [fastshm.dict({i: i for i in range(3)}) for _ in range(20)] + [fastshm.list([1] * 9) for _ in range(20)]
events = [fastshm.Event() for _ in range(20)]
os.write(go_on, b"x")
os.wait()
assert not any(event.is_set() for event in events)
assert all(set(array[:]) == {-1} for array in others[:100])
fastshm.heap.check()
"""


def test_what_a_manager_made_is_refused_to_a_process_that_has_left():
    assert run_program(AT_THE_VERY_END).stdout == ""
