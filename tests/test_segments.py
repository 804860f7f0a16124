"""How segments end and whom they trust: whole programs, and what they leave in /dev/shm and say on stderr."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import leftovers
import pytest
from crew import SECONDS, run_program

import fastshm

SHM = Path("/dev/shm")


@contextlib.contextmanager
def family(folder, text, *args):
    """A program in a file and a process group of its own, with all that it starts."""
    (folder / "program.py").write_text(text)
    process = subprocess.Popen(
        [sys.executable, str(folder / "program.py"), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ends(process):
    """When all of the family have ended (its pipes are closed then): their output. They must say nothing on stderr."""
    output, errors = process.communicate(timeout=SECONDS)
    assert errors == ""
    return output


def is_gone(name):
    assert fastshm.heap.NAME.fullmatch(name)
    return not (SHM / name).exists()


# How programs end

PARENT = """
import multiprocessing, os, pathlib, signal, sys, time
import fastshm

def work(d, v, lock, ending, folder):
    with lock:
        d["worker"] = ["x" * 1_000] * 100
        v.add(1)
    if ending == "sys.exit in a worker":
        sys.exit(3)
    if ending == "os._exit in a worker":
        os._exit(3)
    if ending == "SIGKILL of a worker":
        lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "SIGKILL of the parent":
        end = time.monotonic() + 50
        while not (folder / "go").exists() and time.monotonic() < end:
            time.sleep(0.01)
        d["after"] = fastshm.list(["y" * 1_000_000])
        with lock:
            assert len(d["after"][0]) == 1_000_000 and v.fetch_add(1) >= 2
        os.write(1, b"worked on\\n")

if __name__ == "__main__":
    method, ending, folder = sys.argv[1:]
    multiprocessing.set_start_method(method)
    d, v, lock = fastshm.dict(), fastshm.Value("i"), fastshm.Lock()
    print(fastshm.heap.default().name, flush=True)
    arguments = d, v, lock, ending, pathlib.Path(folder)
    workers = [multiprocessing.Process(target=work, args=arguments) for _ in range(1 + (ending != "SIGKILL of a worker"))]
    for worker in workers:
        worker.start()
    if ending == "SIGKILL of the parent":
        while v.value < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    for worker in workers:
        worker.join()
    assert v.value == len(workers) and len(d["worker"]) == 100
    with lock:
        pass
    if ending == "sys.exit":
        sys.exit(0)
"""
ENDINGS = [
    *("normal exit", "sys.exit", "sys.exit in a worker", "os._exit in a worker"),
    *("SIGKILL of a worker", "SIGKILL of the parent"),
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_by(ending, method, tmp_path):
    with family(tmp_path, PARENT, method, ending, str(tmp_path)) as process:
        name = process.stdout.readline().strip()
        if ending == "SIGKILL of the parent":
            assert process.wait(SECONDS) == -signal.SIGKILL
            assert not is_gone(name), "its children live"
            (tmp_path / "go").touch()
        output = ends(process)
        assert is_gone(name)
        assert output == ("worked on\n" * 2 if ending == "SIGKILL of the parent" else "")
        assert process.returncode == (-signal.SIGKILL if ending == "SIGKILL of the parent" else 0)


BUSY = """
import multiprocessing, os, sys
import fastshm

def work(d):
    i = 0
    while True:
        d[i % 100] = fastshm.list([i])
        i += 1
        if i == 100:
            os.write(1, fastshm.heap.default().name.encode() + b"\\n")

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    d = fastshm.dict()
    workers = [multiprocessing.Process(target=work, args=(d,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
"""


def kill_family(folder, method):
    with family(folder, BUSY, method) as process:
        name = process.stdout.readline().strip()
        assert process.stdout.readline().strip() == name, "one segment for all"
        os.killpg(process.pid, signal.SIGKILL)
        ends(process)
        return name


def test_next_start_sweeps_what_a_killed_group_left(method, tmp_path):
    for _ in range(3):
        name = kill_family(tmp_path, method)
        if not is_gone(name):  # else another program on this machine has just swept
            break
    else:
        raise AssertionError("nothing was left to be swept: the tracker was not killed?")
    run_program("import fastshm; fastshm.Value('i')")
    assert is_gone(name)


POOL = """
import multiprocessing, sys, time
import fastshm

def begin(*things):
    global d, v
    d, v = things

def work(i):
    while True:
        with d.get_lock():
            d[i] = "x" * (v.fetch_add(1) % 2_000)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    d, v = fastshm.dict(), fastshm.Value("q")
    with multiprocessing.Pool(2, begin, (d, v)) as pool:
        pool.map_async(work, range(4), 1)
        while v.value < 1_000:
            time.sleep(0.005)
        pool.terminate()
        pool.join()
    d["last"] = v.value
    assert len(d) >= 2 and fastshm.heap.check()["processes"] == 1
    print(fastshm.heap.default().name)
"""


def test_terminated_pool(method, tmp_path):
    with family(tmp_path, POOL, method) as process:
        assert is_gone(ends(process).strip())
        assert process.returncode == 0


DAEMON = """
import multiprocessing, os, signal, sys, threading
import fastshm

def hold_and_die(lock, d):
    lock.acquire()
    d.get_lock().acquire()
    os.kill(os.getpid(), signal.SIGKILL)

def add(v, d):
    for i in range(100):
        v.add(1)
        d[threading.current_thread().name, i] = str(i) * 100

d, v, lock = fastshm.dict(before="kept"), fastshm.Value("q"), fastshm.RLock()
v.add(1)
print(fastshm.heap.default().name, flush=True)
if os.fork():
    sys.exit()
os.setsid()
if os.fork():
    os._exit(0)
os.closerange(3, 256)
others = [open("/dev/null") for _ in range(int(sys.argv[1]))]  # they get the numbers of the closed ones
threads = [threading.Thread(target=add, args=(v, d)) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert (v.value, len(d), d["before"]) == (401, 401, "kept")
d["large"] = "z" * 5_000_000
numbers = fastshm.Array("q", 1_000_000)
numbers[-1] = len(d["large"])
child = multiprocessing.get_context("fork").Process(target=hold_and_die, args=(lock, d))
child.start()
child.join()
assert lock.acquire(timeout=10) and lock.abandoned
lock.release()
assert d.get_lock().acquire(timeout=10)
d.get_lock().release()
assert fastshm.heap.check()["processes"] == 1
assert all(file.fileno() and not file.read() for file in others), "nobody has closed what is not his"
print("worked on", flush=True)
"""


@pytest.mark.parametrize("others", [0, 30])
def test_daemon_that_closes_all_descriptors(others, tmp_path):
    with family(tmp_path, DAEMON, str(others)) as process:
        name = process.stdout.readline().strip()
        assert ends(process) == "worked on\n"
        assert is_gone(name)


TWO_THREADS = """
import os, sys, threading, warnings
import fastshm

warnings.simplefilter("ignore", DeprecationWarning)  # a fork while threads run is what this is about

lock, v = fastshm.RLock(), fastshm.Value("i")
pid = os.fork()
if pid:
    sys.exit(os.waitpid(pid, 0)[1])
taken, done = threading.Event(), threading.Event()

def hold():
    with lock:
        for _ in range(int(sys.argv[1]) - 1):
            os.closerange(3, 256)
        taken.set()
        done.wait()

os.closerange(3, 256)
thread = threading.Thread(target=hold)
thread.start()
taken.wait()
assert not lock.acquire(timeout=0.05), "one thread was taken for dead by the other"
child = os.fork()
if not child:
    os._exit(lock.acquire(timeout=0.05))
assert os.waitpid(child, 0)[1] == 0, "and by a child"
done.set()
thread.join()
assert lock.acquire(timeout=10) and not lock.abandoned
print(fastshm.heap.default().name)
"""


@pytest.mark.parametrize("times", [1, 2])
def test_threads_of_a_daemon_that_closes_all_descriptors(times):
    """What is claimed after the descriptors were lost is seen, by the same process too, and outlasts the next loss."""
    done = run_program(TWO_THREADS, str(times))
    assert is_gone(done.stdout.strip())


@pytest.mark.parametrize("first", ["parent", "child"])
def test_the_tracker_is_told_once(first, tmp_path):
    """A second time it would complain."""
    text = """
import os, sys, time, fastshm
d, gone = fastshm.dict(), os.pipe()
print(fastshm.heap.default().name, flush=True)
is_child = os.fork() == 0
if is_child != (sys.argv[1] == "child"):
    os.close(gone[1])
    os.read(gone[0], 1)  # until the other one has ended
    d["last"] = 1
sys.exit()
"""
    with family(tmp_path, text, first) as process:
        name = process.stdout.readline().strip()
        assert ends(process) == ""
        assert is_gone(name)


def test_a_name_that_leads_elsewhere_is_left_alone():
    """The last one out takes away its own segment's name, not what somebody has put in its place."""
    done = run_program("""
import pathlib, fastshm
d = fastshm.dict(a=1)
path = pathlib.Path("/dev/shm", fastshm.heap.default().name)
path.rename(path.with_name("elsewhere-" + path.name))
path.write_text("not yours")
path.with_name("elsewhere-" + path.name).unlink()
print(path.name)
""")
    other = SHM / done.stdout.strip()
    assert other.read_text() == "not yours"
    other.unlink()


# Those who come later

VISITOR = """
import os, signal, sys
import fastshm
heap = fastshm.heap.attach(sys.argv[1])
here = fastshm.dict(a=[1] * 100), fastshm.Value("i"), fastshm.Lock()
here[2].acquire()
assert fastshm.heap.default() is heap and here[0]["a"] == [1] * 100
{}
"""


@pytest.mark.parametrize("end", ["", "sys.exit()", "os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_an_attaching_process_never_unlinks(end):
    d, before = fastshm.dict(a=1), fastshm.heap.check()
    name = fastshm.heap.default().name
    done = run_program(VISITOR.format(end), name, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL if "KILL" in end else 0, "")
    assert not is_gone(name)
    d["b"] = "still here"
    assert run_program(VISITOR.format("print('welcome')"), name).stdout == "welcome\n"
    after = fastshm.heap.check()
    assert [after[what] for what in ("processes", "handles", "locks")] == [
        before[what] for what in ("processes", "handles", "locks")
    ]


def test_the_last_of_several_families_takes_the_name_away(tmp_path):
    maker_text = """
import sys, fastshm
d = fastshm.dict(a=1)
print(fastshm.heap.default().name, flush=True)
sys.stdin.readline()
"""
    visitor_text = """
import sys, fastshm
heap = fastshm.heap.attach(sys.argv[1])
d = fastshm.dict(b=2)
print("here", flush=True)
sys.stdin.readline()
d["large"] = "x" * 3_000_000
assert len(d["large"]) == 3_000_000 and fastshm.heap.check()["processes"] == 1
"""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", maker_text], **options) as maker:
        name = maker.stdout.readline().strip()
        with subprocess.Popen([sys.executable, "-c", visitor_text, name], **options) as visitor:
            assert visitor.stdout.readline() == "here\n"
            assert maker.communicate("\n", timeout=SECONDS) == ("", "")
            assert not is_gone(name)
            assert visitor.communicate("\n", timeout=SECONDS) == ("", "")
    assert (maker.returncode, visitor.returncode) == (0, 0)
    assert is_gone(name)
    with pytest.raises(FileNotFoundError, match="is gone"):
        fastshm.heap.attach(name)


def test_few_descriptors():
    run_program("""
import os, fastshm
before = len(os.listdir("/proc/self/fd"))
values = [fastshm.Value("i", i) for i in range(10_000)]
values += [fastshm.Array("i", 3), fastshm.Lock(), fastshm.dict(), fastshm.list()]
assert len(os.listdir("/proc/self/fd")) - before <= 6
assert [value.value for value in values[:10_000]] == list(range(10_000))
""")


def test_nothing_at_import():
    done = run_program("""
import os, fastshm
print(len(os.listdir("/proc/self/fd")), len(fastshm.heap._heaps))
""")
    assert done.stdout == "4 0\n", "no segment before the first object"


# Whom to trust

ATTACH = """
import sys, fastshm
try:
    fastshm.heap.attach(sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
else:
    print("attached")
"""


def duplicate(path, *, mode=0o600, patches=(), size=None, body=None):
    """A faithful copy of this process's segment as another user of the machine could leave it, then changed."""
    with open(SHM / fastshm.heap.default().name, "rb") as file:
        whole = os.fstat(file.fileno()).st_size
        head = bytearray(file.read(fastshm.heap.check()["committed"]))
    for at, new in patches:
        head[at : at + len(new)] = new
    path.write_bytes(head if body is None else body)
    os.truncate(path, whole if size is None else size)
    path.chmod(mode)


def make_link(path):
    path.symlink_to(SHM / fastshm.heap.default().name)


def make_other_users(path):
    if os.getuid():
        pytest.skip("only root can give a file away")
    duplicate(path)
    os.chown(path, 65534, 65534)


def words(*numbers):
    return b"".join(number.to_bytes(8, sys.byteorder) for number in numbers)


WRONG = {
    "another format": (lambda path: duplicate(path, patches=[(12, b"\xff\0\0\0")]), "CorruptedError .*another version"),
    "another word size": (lambda path: duplicate(path, patches=[(10, b"\4\0")]), "CorruptedError .*word size"),
    "no magic": (lambda path: duplicate(path, patches=[(0, bytes(8))]), "CorruptedError .*not made by fastshm"),
    "longer": (lambda path: duplicate(path, size=(64 << 30) + 4096), "CorruptedError .*size"),
    "shorter": (lambda path: duplicate(path, size=32 << 30), "CorruptedError .*size"),
    "truncated": (lambda path: duplicate(path, size=8192), "CorruptedError .*size"),
    "truncated to a line": (lambda path: duplicate(path, size=100), "CorruptedError .*too short"),
    "empty": (lambda path: duplicate(path, body=b"", size=0), "CorruptedError .*too short"),
    "zeros": (lambda path: duplicate(path, body=b""), "CorruptedError .*not made by fastshm"),
    "without its pages": (lambda path: duplicate(path, patches=[(64, words(1 << 30))]), "CorruptedError .*more memory"),
    "all committed": (lambda path: duplicate(path, patches=[(64, words(2**64 - 64))]), "CorruptedError .*more memory"),
    "text": (lambda path: duplicate(path, body=b"hello " * 10_000), "CorruptedError .*not made by fastshm"),
    "random bytes": (lambda path: duplicate(path, body=random.randbytes(1 << 20)), "CorruptedError .*not made by fastshm"),
    "readable by others": (lambda path: duplicate(path, mode=0o644), "PermissionError .*others than its owner"),
    "writable by the group": (lambda path: duplicate(path, mode=0o620), "PermissionError .*others than its owner"),
    "another user's": (make_other_users, "PermissionError .*another user|PermissionError .*denied"),
    "a link": (make_link, "OSError .*symbolic links"),
    "a directory": (lambda path: path.mkdir(), "IsADirectoryError"),
    "a pipe": (lambda path: os.mkfifo(path, 0o600), "CorruptedError .*not a regular file"),
    "nothing": (lambda path: None, "FileNotFoundError .*is gone"),
}


@pytest.mark.parametrize("what", WRONG)
def test_refused(what, path):
    make, expected = WRONG[what]
    make(path)
    before = path.lstat() if path.is_symlink() or path.exists() else None
    done = run_program(ATTACH, path.name)
    assert re.match(expected, done.stdout), done.stdout
    if before:
        assert os.path.samestat(path.lstat(), before), "what is refused is left alone"


def test_a_faithful_copy_is_not_refused(path):
    """So the refusals above are for what was changed."""
    duplicate(path)
    assert run_program(ATTACH, path.name).stdout == "attached\n"


@pytest.mark.parametrize("name", ["", "fastshm-", "../etc/passwd", "fastshm-" + "g" * 32, "/fastshm-" + "0" * 32, "x" * 5_000])
def test_wrong_names(name):
    with pytest.raises(ValueError, match="not the name of a fastshm segment"):
        fastshm.heap.attach(name)


def test_another_users_pickle_is_never_loaded(path):
    """Refused before a byte of it is unpickled."""
    make_other_users(path)
    handle = fastshm.dict(a=1)
    reduced = handle.__reduce__()
    assert reduced[1][1] == fastshm.heap.default().name
    done = run_program(ATTACH, path.name)
    assert "PermissionError" in done.stdout


DAMAGED = """
import os, random, signal, sys
import fastshm
seed, path = int(sys.argv[1]), sys.argv[2]
random.seed(seed)
whole = open(path, "rb").read(int(sys.argv[3]))
size, folder = os.path.getsize(path), os.path.dirname(path)

def use(name):
    fastshm.heap.attach(name)
    try:
        fastshm.heap.check()
    except fastshm.CorruptedError:
        pass
    kept = []
    for i in range(300):
        try:
            kept.append(fastshm.dict({i: "x" * (i * 7 % 500)}))
            kept.append(fastshm.Value("i"))
            kept.append(fastshm.list([i, kept[-2]]))
            if i % 3 == 0:
                del kept[random.randrange(len(kept))]
        except (fastshm.CorruptedError, MemoryError, ReferenceError):
            pass

for turn in range(60):
    damaged = bytearray(whole)
    for _ in range(random.choice((1, 3, 20))):
        at = random.choice((random.randrange(64, 3_248), random.randrange(len(whole)))) & ~7
        word = random.choice((random.randbytes(8), bytes(8), b"\\xff" * 8, random.randrange(len(whole)).to_bytes(8, "little"),
                              (random.randrange(len(whole)) & ~63).to_bytes(8, "little")))
        damaged[at:at + 8] = word
    name = f"fastshm-{os.getpid():016x}{turn:016x}"
    with open(os.open(f"{folder}/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(damaged)
        file.truncate(size)
    pid = os.fork()
    if not pid:
        status = 0
        signal.alarm(20)
        try:
            use(name)
        except (fastshm.CorruptedError, OSError, MemoryError, ReferenceError, OverflowError):
            pass
        except BaseException:
            import traceback
            traceback.print_exc()
            status = 1
        os._exit(status)
    status = os.waitpid(pid, 0)[1]
    if os.path.exists(f"{folder}/{name}"):  # else an attach that failed left it again, as the last one
        os.unlink(f"{folder}/{name}")
    if status:
        print("turn", turn, "ended with", status)
"""


def test_damaged_inside(path):
    """Words changed anywhere: an error, or no matter, but never a signal and never a hang."""
    things = [fastshm.dict({i: "x" * i for i in range(50)}), fastshm.list(range(100)), fastshm.Array("i", 1_000)]
    duplicate(path)
    seed = random.randrange(1 << 30)
    committed = fastshm.heap.check()["committed"]
    done = run_program(DAMAGED, str(seed), str(path), str(min(committed, 1 << 20)), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), f"seed {seed}"
    assert len(things) == 3


def test_sweep_leaves_others_alone(path):
    """It removes whole segments that nobody uses: not links, not foreign files, not what somebody has just begun to make."""
    duplicate(path, body=b"not a segment")
    link = SHM / f"fastshm-{uuid.uuid4().hex}"
    make_link(link)
    strange = SHM / "fastshm-not-a-name"
    strange.write_text("mine")
    orphan = SHM / f"fastshm-{uuid.uuid4().hex}"
    duplicate(orphan)
    try:
        removed = fastshm.heap.sweep()
        assert (path.exists(), link.is_symlink(), strange.exists()) == (True, True, True)
        assert orphan.name in removed or not orphan.exists()
        assert not {path.name, link.name, strange.name, fastshm.heap.default().name} & set(removed)
    finally:
        for left in (link, strange, orphan):
            left.unlink(missing_ok=True)
    assert fastshm.heap.default().name in leftovers.segments()
