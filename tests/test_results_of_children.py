"""What a child makes outlasts it, whatever its parent had made before; and what that costs one that makes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from crew import run_command, run_program

METHODS = ["fork", "spawn", "forkserver"]

HANDING_BACK = """
import fastshm, multiprocessing, sys
{before}

def make(i):
    return fastshm.list([i])

def send(pipe):
    pipe.send(fastshm.list(["sent"]))

def put(queue):
    queue.put(fastshm.list(["put"]))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    here, there = context.Pipe()
    queue = context.Queue()
    child = context.Process(target=send, args=(there,))
    child.start()
    child.join()
    print(here.recv())
    child = context.Process(target=put, args=(queue,))
    child.start()
    child.join()
    print(queue.get())
    with context.Pool(2, maxtasksperchild=1) as pool:
        for made in pool.map(make, range(4), chunksize=1):
            print(made)
        pool.close()
        pool.join()
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("before", ["", "lock = fastshm.Lock()  # in spawned children, too", "fastshm.Lock()"])
def test_it_outlasts_the_child(method, before, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(HANDING_BACK.format(before=before))
    done = run_command([sys.executable, str(program), method], check=False)
    assert done.stdout.split() == ["['sent']", "['put']", "[0]", "[1]", "[2]", "[3]"], done.stderr


def test_after_a_plain_fork():
    text = """
import fastshm, os, pickle
read, write = os.pipe()
pid = os.fork()
if not pid:
    os.write(write, pickle.dumps(fastshm.list([5])))
    os._exit(0)
os.waitpid(pid, 0)
made = pickle.loads(os.read(read, 10000))
made.append(6)
own = fastshm.list([made])
print(made, own[0], made._address[0] == own._address[0], fastshm.heap.check()["processes"])
"""
    assert run_program(text).stdout.split("\n")[0] == "[5, 6] [5, 6] True 1"


def test_two_children_at_once_give_it_its_name():
    text = """
import fastshm, multiprocessing, sys
context = multiprocessing.get_context("fork")

def make(barrier, queue, i):
    barrier.wait()
    queue.put(fastshm.list([i]))

barrier, queue = context.Barrier(4), context.Queue()
children = [context.Process(target=make, args=(barrier, queue, i)) for i in range(4)]
for child in children:
    child.start()
for child in children:
    child.join()
made = [queue.get() for _ in children]
print(sorted(item[0] for item in made), len({item._address[0] for item in made}))
"""
    assert run_program(text).stdout == "[0, 1, 2, 3] 1\n"


USES_NOTHING = """
import fastshm, multiprocessing, os, signal, sys, time
before = set(os.listdir("/dev/shm"))
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.1 if sys.argv[1:] == ["ends"] else 60,))
child.start()
ours = {name for name in os.listdir("/dev/shm") if name.startswith("fastshm-")} - before
with open(f"/proc/self/task/{os.getpid()}/children") as file:
    print(sorted(ours), len(file.read().split()), child.pid, flush=True)
child.join()
"""


def test_one_that_makes_nothing_pays_little():
    """No name, no resource tracker, nothing said."""
    names, children, _ = run_program(USES_NOTHING, "ends").stdout.split()
    assert (names, children) == ("[]", "1")


def test_and_leaves_nothing_when_all_of_it_is_killed():
    before = {name for name in os.listdir("/dev/shm") if name.startswith("fastshm-")}
    with subprocess.Popen([sys.executable, "-c", USES_NOTHING], stdout=subprocess.PIPE, text=True) as program:
        child = int(program.stdout.readline().split()[-1])
        for pid in (program.pid, child):
            os.kill(pid, signal.SIGKILL)
    assert {name for name in os.listdir("/dev/shm") if name.startswith("fastshm-")} <= before


def test_the_tracker_learns_of_it_at_the_first_use():
    """So that a family that is killed once it has made something leaves nothing either."""
    text = """
import fastshm, multiprocessing, os, time
from multiprocessing import resource_tracker
multiprocessing.get_context("fork").Process(target=time.time).start()
made = fastshm.list([1])
segment = fastshm.heap.default()
pipe = os.fstat(resource_tracker._resource_tracker._fd)
print(segment.tracker == (pipe.st_dev, pipe.st_ino), os.path.exists("/dev/shm/" + segment.name), segment.name)
"""
    told, exists, name = run_program(text).stdout.split()
    assert (told, exists) == ("True", "True")
    assert not os.path.exists(f"/dev/shm/{name}")


def test_where_no_segment_can_be_had_a_child_makes_its_own():
    text = """
import fastshm, multiprocessing, os, sys
from fastshm import heap
heap.names.FOLDER = "/proc"  # where no file can be made

def make():
    heap.names.FOLDER = "/dev/shm"
    print(fastshm.list([1]), flush=True)

child = multiprocessing.get_context("fork").Process(target=make)
child.start()
child.join()
print(child.exitcode, heap._default, heap._ahead)
"""
    assert run_program(text).stdout == "[1]\n0 None None\n"


def test_a_fork_does_not_wait_for_ever_for_one_who_opens_a_segment():
    """Who does may wait for what is held around the fork, as logging's lock is."""
    text = """
import fastshm, multiprocessing, threading
from fastshm import heap
opened, done = threading.Event(), threading.Event()

def open_for_long():
    with heap._opening:
        opened.set()
        done.wait()

thread = threading.Thread(target=open_for_long)
thread.start()
opened.wait()
child = multiprocessing.get_context("fork").Process(target=lambda: print(fastshm.list([1]), flush=True))
child.start()
child.join()
print(child.exitcode, heap._ahead, flush=True)
done.set()
thread.join()
print(fastshm.list([2]))
"""
    assert sorted(run_program(text).stdout.split("\n")) == ["", "0 None", "[1]", "[2]"]


def test_cut_short_while_it_becomes_the_default_one():
    """By a signal's handler, between the family's name and this process's default: then it is done again."""
    text = """
import fastshm, os
from fastshm import heap
if not (pid := os.fork()):
    os._exit(0)
os.waitpid(pid, 0)
heap._configuration()[heap.FAMILY] = heap._ahead.name
print(fastshm.list([1]), heap.default() is heap._ahead)
"""
    assert run_program(text).stdout == "[1] True\n"


def test_it_stays_while_it_is_not_used():
    """In the parent and in the child, whatever ends there."""
    text = """
import fastshm, gc, os, pickle
from fastshm import heap
read, write = os.pipe()
if not (pid := os.fork()):
    fastshm.list([1])
    gc.collect()
    os.write(write, pickle.dumps(fastshm.list([5])))
    os._exit(0)
os.waitpid(pid, 0)
heap._ahead.bury()
made = pickle.loads(os.read(read, 10000))
print(made, heap.default() is heap._ahead, len(heap._heaps))
"""
    assert run_program(text).stdout == "[5] True 1\n"


AT_MODULE_LEVEL = """
import multiprocessing, os, signal, sys, time
import fastshm

total, table, lock = fastshm.Value("q"), fastshm.dict(), fastshm.Lock()

def work(i):
    with lock:
        total.value += 1
    table[i] = i
    return i

def hand_back(i):
    return table if i else total  # of the child's own: it has a name by then

def die(_):
    work(0)
    os.kill(os.getpid(), signal.SIGKILL)

def names():
    return {name for name in os.listdir("/dev/shm") if name.startswith("fastshm-")}

if __name__ == "__main__":
    before = names()
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(2) as pool:
        assert sum(pool.map(work, range(20))) == 190
        own = pool.map(hand_back, [0, 1])
        assert own[0].value >= 0 and set(own[1].copy()) <= set(range(20))
    for target in (die, time.sleep):
        process = context.Process(target=target, args=(100,))
        process.start()
        if target is time.sleep:
            time.sleep(0.5)
            process.terminate()
        process.join()
    del own
    print(names() == before or names() - before)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_children_make_at_module_level_goes_with_them(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(AT_MODULE_LEVEL)
    assert run_command([sys.executable, str(script), method]).stdout == "True\n"
