"""Segments of others that are left and joined again by the threads of one process, and what is asked of one that was left."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fastshm

MAKER = """
import fastshm, pickle, sys
d = fastshm.dict(a=int(sys.argv[1]))
print(pickle.dumps(d).hex(), fastshm.heap.default().name, flush=True)
sys.stdin.read()
"""

THREADS = """
import fastshm, pickle, sys, threading, time
sys.setswitchinterval(1e-6)
mine = fastshm.dict()
pickled, wrong, end = [bytes.fromhex(x) for x in sys.argv[1:]], [], time.monotonic() + 4

def loads(k):
    while time.monotonic() < end:
        k = (k + 1) % len(pickled)
        found = pickle.loads(pickled[k])["a"]
        if found != k:
            wrong.append((k, found))

threads = [threading.Thread(target=loads, args=(k,)) for k in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong)
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
    assert (done.returncode, done.stdout.split()) == (0, ["refused"] * 3), done.stderr[-2000:]


def test_a_cache_in_a_child_that_has_a_segment_of_its_own(tmp_path):
    (tmp_path / "cached.py").write_text(CACHED)
    done = run(str(tmp_path / "cached.py"))
    assert done.stdout.strip() == "0", done.stderr[-2000:]


def test_none_is_no_slice():
    values = fastshm.list([1, 2, 3])
    with pytest.raises(TypeError):
        values[0:2] = None
    assert values[:] == [1, 2, 3]
