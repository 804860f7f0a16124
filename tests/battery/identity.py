"""Item 4: who holds a lock, and does he live? Zombies, used pids, namespaces, stopped, split, turned and forked holders.

In each trial a holder comes to one of these states. While it lives nobody gets its lock; once it is dead, whoever wants
the lock has it within LIMIT, knows that it was abandoned, and nothing of the dead is left in the segment. What ends:

    a process, in whatever way, by exec too     all its locks come free
    a thread                                    RLock and get_lock() come free; a Lock is its process's
    a descriptor, a user id, a pid              says nothing about who lives
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import json
import mmap
import os
import pickle
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from battery import SEEDS, Figure, Mutant, names
from crew import child_of
from trials import SECONDS, Trials, census, figure, until

LIMIT = 0.010  # seconds from wanting a dead holder's lock to having it
PROBES = 0.015  # seconds in which a waiter asks three times whether the holder lives
NOBODY = 65534
SLEEPER = ["/bin/sleep", "60"]
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWPID = 0x20000000

libc = ctypes.CDLL(None, use_errno=True)
C_FORK = ctypes.PyDLL(None).fork  # keeps the interpreter lock, and calls none of Python's hooks
MARKS = mmap.mmap(-1, 4096)  # what children tell, whatever has become of their descriptors

forked = functools.partial(child_of, seconds=60)  # the pid of a child that calls a function and ends


# --- holders ------------------------------------------------------------------------------------------------------------------


def mark(value: int, at: int = 0) -> None:
    MARKS[4 * at : 4 * at + 4] = value.to_bytes(4, "little")


def marked(at: int = 0) -> int:
    return int.from_bytes(MARKS[4 * at : 4 * at + 4], "little")


def dead(pid: int) -> None:
    """Wait until a child is a zombie, all threads of it; it stays one."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@contextmanager
def holder(lock: Any, then: Callable[[], Any] = signal.pause) -> Iterator[int]:
    """A child that holds the lock, and then does something and marks 1."""
    mark(0)

    def hold() -> None:
        lock.acquire()
        if then is signal.pause:
            mark(1)
        then()

    pid = forked(hold)
    try:
        until(lambda: marked() or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG))
        yield pid
    finally:
        with contextlib.suppress(ChildProcessError, ProcessLookupError):  # the case has done it
            killed(pid)


def stay(value: int = 1) -> None:
    mark(value)
    while True:
        signal.pause()


# --- judgements ---------------------------------------------------------------------------------------------------------------


def late() -> float:
    """Seconds that this thread was ready to run and the machine had no processor for it."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def microseconds_since(begin: float, was_late: float) -> int:
    """With a processor, that is. The two clocks are not read at one instant."""
    return max(0, int((time.monotonic() - begin - (late() - was_late)) * 1e6))


class TooSlow(AssertionError):
    pass


class Judge(Trials):
    """One figure's trials over every kind of lock."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        import fastshm

        self.fastshm = fastshm
        self.slow = 0
        self.slowest = 0.0
        self.random = random.Random(SEEDS)
        self.rounds = rounds
        self.things = [
            fastshm.Lock(), fastshm.RLock(), fastshm.Value("q", 0), fastshm.Array("q", 4), fastshm.dict(), fastshm.list()
        ]  # fmt: skip
        self.locks = [thing.get_lock() if hasattr(thing, "get_lock") else thing for thing in self.things]
        self.value = self.things[2]
        self.numbers = fastshm.RawArray("q", 2)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def is_token(self, lock: Any) -> bool:
        return isinstance(lock, type(self.locks[0]))

    def each(self, name: str, case: Callable[[Judge, Any], None]) -> None:
        """`rounds` trials with each kind of lock, and what must be as before after each. It gives up after three failures."""
        before = census()
        for _ in range(self.rounds):
            for lock in self.locks:
                if self.failed == 3:
                    return
                with self.trial(f"{name}, {type(lock).__name__} {self.locks.index(lock)}"):
                    self.in_time(lambda lock=lock: case(self, lock))
                    assert lock.acquire(timeout=1), "it was left held"
                    assert not lock.abandoned
                    lock.release()
                    assert census() == before, f"{census()} is not {before}"

    def in_time(self, case: Callable[[], None]) -> None:
        """Too slow three times in a row is a failure; once or twice may be the machine's."""
        for last in (False, False, True):
            try:
                return case()
            except TooSlow:
                self.slow += 1
                if last:
                    raise
        raise AssertionError

    def report(self) -> None:
        if self.slowest:
            again = f", {self.slow} slower ones tried again" if self.slow else ""
            self.notes.append(f"free in {self.slowest * 1e3:.1f} ms at most{again}")
        super().report()

    def free(self, lock: Any) -> None:
        """Its holder is dead."""
        begin, was_late = time.monotonic(), late()
        assert lock.acquire(timeout=5), "a dead holder's lock did not come free in 5 s"
        seconds, abandoned = time.monotonic() - begin - (late() - was_late), lock.abandoned
        lock.release()
        assert abandoned, "who takes over must be told"
        self.took(seconds)

    def took(self, seconds: float) -> None:
        if seconds > LIMIT:
            raise TooSlow(f"{seconds * 1e3:.1f} ms until a dead holder's lock was free")
        self.slowest = max(self.slowest, seconds)

    def held(self, lock: Any, seconds: float = PROBES) -> None:
        """Its holder lives."""
        assert not lock.acquire(timeout=seconds), "a living holder was robbed"
        self.fastshm.heap.sweep()
        self.fastshm.heap.check()
        assert not lock.acquire(False), "a living holder was robbed after a burial"

    def use_alone(self, lock: Any, times: int) -> None:
        for _ in range(times):
            with lock:
                a, b = self.numbers[0], self.numbers[1]
                assert a == -b, "two are inside"
                self.numbers[0] = a + 1
                self.numbers[1] = b - 1
            self.value.add(1)


# --- ends of a process --------------------------------------------------------------------------------------------------------


def zombie(judge: Judge, lock: Any) -> None:
    with holder(lock) as pid:
        os.kill(pid, signal.SIGKILL)
        dead(pid)
        judge.free(lock)


def waited_for(judge: Judge, lock: Any) -> None:
    """From the death to the end of a wait that had begun before it."""
    ended = []

    def kill() -> None:
        time.sleep(0.002 + judge.random.random() / 50)
        os.kill(pid, signal.SIGKILL)
        dead(pid)
        ended.append(time.monotonic())

    with holder(lock) as pid:
        thread = threading.Thread(target=kill)
        thread.start()
        was_late = late()
        assert lock.acquire(timeout=5)
        end, lateness = time.monotonic(), late() - was_late
        thread.join()
        abandoned = lock.abandoned
        lock.release()
        assert abandoned
        judge.took(end - ended[0] - lateness)


def exits(judge: Judge, lock: Any) -> None:
    with holder(lock, lambda: os._exit(0)) as pid:
        dead(pid)
        judge.free(lock)


def turns_into_another(judge: Judge, lock: Any) -> None:
    """exec: the pid lives on and the holder does not."""
    with holder(lock, lambda: (mark(1), os.execv(SLEEPER[0], SLEEPER))) as pid:
        until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        judge.free(lock)
        os.kill(pid, 0)


# --- living, and looking dead -------------------------------------------------------------------------------------------------


def living_then_killed(judge: Judge, lock: Any, then: Callable[[], Any]) -> None:
    with holder(lock, then) as pid:
        assert marked() == 1, "the holder has ended"
        judge.held(lock)
        os.kill(pid, signal.SIGKILL)
        dead(pid)
        judge.free(lock)


def closes_descriptors(judge: Judge, lock: Any) -> None:
    def then() -> None:
        os.closerange(3, 4096)
        _files = [
            os.open("/dev/null", os.O_RDONLY) for _ in range(judge.tried % 2 * 30)
        ]  # they get the numbers of the closed ones
        stay()

    living_then_killed(judge, lock, then)


def closes_descriptors_again(judge: Judge, lock: Any) -> None:
    """A number that was claimed between the two closes."""

    def in_thread() -> None:
        assert lock.acquire(timeout=5)
        os.closerange(3, 4096)
        stay()

    def then() -> None:
        lock.release()
        os.closerange(3, 4096)
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()

    living_then_killed(judge, lock, then)


def has_two_threads(judge: Judge, lock: Any) -> None:
    """A daemon that closes all descriptors and then starts a thread: neither takes the other for dead."""

    def in_thread() -> None:
        assert lock.acquire(timeout=5)
        taken.set()
        signal.pause()

    def then() -> None:
        lock.release()
        os.closerange(3, 4096)
        _files = [os.open("/dev/null", os.O_RDONLY) for _ in range(judge.tried % 3)]
        threading.Thread(target=in_thread).start()
        assert taken.wait(SECONDS)
        assert not lock.acquire(timeout=PROBES), "a thread was robbed by another"
        mark(1)
        signal.pause()

    taken = threading.Event()
    living_then_killed(judge, lock, then)


def changes_user(judge: Judge, lock: Any) -> None:
    """It goes on with what it has; so do its children, which cannot open the segment, and theirs."""

    def child(generations: int) -> None:
        count.add(1)
        assert not lock.acquire(timeout=PROBES), "a living holder was robbed"
        if generations:
            assert os.waitpid(forked(lambda: child(generations - 1)), 0)[1] == 0

    def then() -> None:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        lock.release()
        for _ in range(3):
            with lock:
                judge.value.add(1)
        threading.Thread(target=judge.value.add).start()
        lock.acquire()
        assert os.waitpid(forked(lambda: child(2)), 0)[1] == 0
        stay()

    count = judge.fastshm.Value("i")
    living_then_killed(judge, lock, then)
    assert count.value == 3


def is_another_users_child(judge: Judge, lock: Any) -> None:
    """It cannot open the segment, and outlives its parent."""

    def child() -> None:
        lock.acquire()
        threading.Thread(target=judge.value.add, args=(0,)).start()
        stay(os.getpid())

    def then() -> None:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        lock.release()
        forked(child)
        while True:
            signal.pause()

    with holder(lock, then) as pid:
        child_pid = marked()
        try:
            judge.held(lock)
            os.kill(pid, signal.SIGKILL)
            dead(pid)
            judge.held(lock)
        finally:
            end = os.pidfd_open(child_pid)
            os.kill(child_pid, signal.SIGKILL)
            select.select([end], [], [])
            os.close(end)
        judge.free(lock)


def loses_its_leader(judge: Judge, lock: Any) -> None:
    """The main thread is gone, its pid a zombie's; another thread holds the lock."""
    exit_thread = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
    taken = threading.Event()

    def in_thread() -> None:
        assert lock.acquire(timeout=5)
        taken.set()
        until(lambda: "\nState:\tZ" in Path(f"/proc/{os.getpid()}/status").read_text())
        stay()

    def then() -> None:
        lock.release()
        threading.Thread(target=in_thread).start()
        assert taken.wait(SECONDS)
        libc.syscall(exit_thread, 0)

    living_then_killed(judge, lock, then)


def starts_a_program(judge: Judge, lock: Any) -> None:
    """By vfork, posix_spawn and fork. The program neither robs its starter nor keeps its locks."""
    way = judge.tried % 3

    def then() -> None:
        if way == 2:
            pid = os.posix_spawn(SLEEPER[0], SLEEPER, os.environ)
        else:
            hook = {"preexec_fn": int} if way else {}
            pid = subprocess.Popen(SLEEPER, close_fds=False, **hook).pid
        mark(pid, 1)
        stay()

    with holder(lock, then) as pid:
        try:
            judge.held(lock)
            os.kill(pid, signal.SIGKILL)
            dead(pid)
            judge.free(lock)
            os.kill(marked(1), 0)
        finally:
            killed(marked(1))


def stopped(judge: Judge, waiters: int, seconds: float) -> None:
    """SIGSTOP under the pressure of waiters, sweeps and burials; then it goes on and everybody has his turn."""
    before = census()

    def hold() -> None:
        for lock in judge.locks:
            lock.acquire()
        mark(1)
        while marked(1) == 0:
            time.sleep(0.001)
        for lock in reversed(judge.locks):
            assert not lock.abandoned
            lock.release()

    def wait(i: int) -> None:
        for lock in judge.locks[i % 6 :] + judge.locks[: i % 6]:
            if not lock.acquire(timeout=seconds / 6):
                mark(marked(2 + i) + 1, 2 + i)
                lock.acquire()
            mark(marked(40 + i) + (marked(1) == 0) + 256 * lock.abandoned, 40 + i)
            lock.release()

    for _ in range(judge.rounds):
        MARKS[:] = bytes(len(MARKS))
        with judge.trial(f"stopped for {seconds} s"):
            pids = [forked(hold)]
            try:
                until(marked)
                os.kill(pids[0], signal.SIGSTOP)
                pids += [forked(wait, i) for i in range(waiters)]
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    judge.held(judge.random.choice(judge.locks), 0.05)
                mark(1, 1)
                os.kill(pids[0], signal.SIGCONT)
                while pids:
                    assert os.waitpid(pids[-1], 0)[1] == 0
                    pids.pop()
            finally:
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it is the one that failed
                        killed(pid)
            robbed = [marked(40 + i) for i in range(waiters)]
            assert not any(robbed), f"robbed while stopped, or abandoned after it: {robbed}"
            assert all(marked(2 + i) for i in range(waiters)), "they did not wait for it"
            assert census() == before
    judge.notes.append(f"{waiters} waiters, {seconds} s each")


# --- threads ------------------------------------------------------------------------------------------------------------------


def thread_ends(judge: Judge, lock: Any) -> None:
    def then() -> None:
        lock.release()
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        thread.join()
        stay()

    with holder(lock, then):
        if judge.is_token(lock):
            judge.held(lock)
            lock.release()  # anybody may, as with the stdlib's
        else:
            judge.free(lock)


# --- forks --------------------------------------------------------------------------------------------------------------------


def child_survives(judge: Judge, lock: Any) -> None:
    """The holder dies; the child that it forked while holding lives, and is not the holder."""
    fork = C_FORK if judge.tried % 2 else os.fork

    def child() -> None:
        mark(os.getpid(), 1)
        until(lambda: marked(2))
        judge.value.add(1)
        assert lock.acquire(timeout=5)
        lock.release()

    def then() -> None:
        forked(child, fork=fork)
        until(lambda: marked(1))
        stay()

    mark(0, 1)
    mark(0, 2)
    with holder(lock, then) as pid:
        try:
            judge.held(lock, 0.003)
            os.kill(pid, signal.SIGKILL)
            dead(pid)
            judge.free(lock)
            os.kill(marked(1), 0)
        finally:
            mark(1, 2)
            status = os.waitpid(marked(1), 0)[1]
        assert status == 0


def is_not_the_holder(judge: Judge, lock: Any) -> None:
    """In a child of the holder."""
    assert not lock.acquire(False), "its parent's thread holds it"
    assert not lock.acquire(timeout=0.003)
    assert not lock.abandoned
    if not judge.is_token(lock):
        try:
            lock.release()
        except AssertionError:
            return
        raise RuntimeError("a child has released its parent's lock")


def forks_holding(judge: Judge, lock: Any) -> None:
    fork = C_FORK if judge.tried % 2 else os.fork
    with lock:
        assert os.waitpid(forked(is_not_the_holder, judge, lock, fork=fork), 0)[1] == 0
        judge.use_alone(lock if not judge.is_token(lock) else judge.locks[1], 3)


def forks_among_threads(judge: Judge, threads: int = 3) -> None:
    """At any point, while other threads take, hold and leave locks and change things. (By Python's fork: after a bare one the
    child may wait for ever for a thread that is not there to take the interpreter lock from it.)"""
    before, done, counts = census(), threading.Event(), [0] * threads
    start = judge.value.value, judge.numbers[0]
    lock_of = judge.locks[1]

    def work(i: int) -> None:
        while not done.is_set():
            judge.use_alone(lock_of, 5)
            with judge.locks[0], judge.locks[4], judge.locks[5]:
                judge.things[4]["key"] = "x" * (counts[i] % 500)
                judge.things[5].append(counts[i])
                judge.things[5].pop(0)
            counts[i] += 5

    def child() -> None:
        judge.use_alone(lock_of, 5)
        for lock in judge.locks:
            assert lock.acquire(timeout=20), "the child hangs on a lock"
            assert not lock.abandoned, "the child has robbed a thread of its parent"
            lock.release()
        judge.things[4]["child"] = os.getpid()

    judge.things[5].append(0)
    running = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for thread in running:
        thread.start()
    try:
        for _ in range(judge.rounds):
            with judge.trial("fork among threads"):
                time.sleep(judge.random.random() / 500)
                assert os.waitpid(forked(child), 0)[1] == 0
    finally:
        done.set()
        for thread in running:
            thread.join()
    with judge.trial("after all"):
        total = sum(counts) + 5 * judge.rounds
        assert (judge.value.value - start[0], judge.numbers[0] - start[1]) == (total, total)
        judge.things[4].clear()
        del judge.things[5][:]
        after = census()
        assert after["processes"] == before["processes"], "dead children are still there"
        assert after["handles"] == before["handles"]


def hold_for_ever(lock: Any, pipe: Any) -> None:
    lock.acquire()
    pipe.send("held")
    signal.pause()


def started_by(method: str) -> Callable[[Judge, Any], None]:
    from crew import Crew

    def case(judge: Judge, lock: Any) -> None:
        with Crew(method) as crew:
            ours, theirs = crew.context.Pipe()
            with ours, theirs:
                worker = crew.run(hold_for_ever, lock, theirs)
                assert ours.recv() == "held"
                judge.held(lock)
                crew.kill(worker)
                judge.free(lock)

    return case


# --- pids ---------------------------------------------------------------------------------------------------------------------


def forked_as(pid: int, function: Callable[..., Any], *arguments: Any) -> int:
    """A child with that pid, which was free: in a PID namespace of our own."""
    for _ in range(1000):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        child = os.fork()
        if child == 0:
            if os.getpid() != pid:
                os._exit(0)
            forked(function, *arguments, fork=lambda: 0)
        if child == pid:
            return child
        os.waitpid(child, 0)
    raise AssertionError(f"pid {pid} was never given out again")


def pid_lives_again(judge: Judge, lock: Any) -> None:
    """The dead holder's pid is a bystander's, then a taker's, then a holder's."""

    def bystander() -> None:
        if not judge.is_token(lock):
            try:
                lock.release()
            except AssertionError:
                pass
            else:
                raise RuntimeError("taken for the dead holder")
        assert not lock.abandoned
        stay(2)

    def taker() -> None:
        begin, was_late = time.monotonic(), late()
        assert lock.acquire(timeout=5)
        mark(microseconds_since(begin, was_late), 1)
        assert lock.abandoned, "taken for the dead holder"
        stay(3)

    with holder(lock) as pid:
        killed(pid)
        assert forked_as(pid, bystander) == pid
        until(lambda: marked() == 2)
        judge.free(lock)
    with holder(lock) as pid:
        killed(pid)
        assert forked_as(pid, taker) == pid
        until(lambda: marked() == 3)
        judge.took(marked(1) / 1e6)
        judge.held(lock)  # the first who had this pid is dead, this one is not
        killed(pid)
        judge.free(lock)


def makers_pid_lives_again(judge: Judge) -> None:
    """A descendant that has the killed maker's pid leaves: the name is still their tracker's to remove, when all are killed."""
    for _ in range(judge.rounds):
        with judge.trial("maker's pid"):
            pipe = subprocess.PIPE
            maker = subprocess.Popen([sys.executable, __file__, "--family"], stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            assert maker.stdout
            name = maker.stdout.readline().strip()
            maker.kill()
            maker.wait()
            pid, of_last = map(int, maker.stdout.readline().split())
            maker.stdout.close()
            assert of_last == maker.pid
            assert name in names()
            killed(pid)
            until(lambda name=name: name not in names(), 5)


def family() -> None:
    """A program whose maker of the segment is going to be killed."""
    import fastshm

    def go_on(maker: int) -> None:
        until(lambda: os.getppid() != maker)
        last = forked_as(maker, fastshm.heap._leave)
        assert os.waitpid(last, 0)[1] == 0
        print(os.getpid(), last, flush=True)
        signal.pause()

    name = fastshm.heap.default().name
    forked(go_on, os.getpid())
    print(name, flush=True)
    stay()


# --- namespaces ---------------------------------------------------------------------------------------------------------------


def room() -> None:
    """A program in a PID namespace of its own that does what it is told, each time in a child with the pid asked for."""
    locks = [pickle.loads(base64.b64decode(text)) for text in json.loads(sys.stdin.readline())]
    locks = [thing.get_lock() if hasattr(thing, "get_lock") else thing for thing in locks]
    import fastshm

    print(json.dumps([os.getpid(), fastshm.heap.default().name]), flush=True)
    for line in sys.stdin:
        what, which, pid, seconds = json.loads(line)
        if what == "hold":
            mark(0)
            forked_as(pid, lambda which=which: (locks[which].acquire(), stay()))
            until(marked)
            answer: Any = True
        elif what == "kill":
            os.kill(pid, signal.SIGKILL)
            dead(pid)
            os.waitpid(pid, 0)
            answer = True
        else:
            mark(0)

            def want(lock: Any = locks[which], seconds: float = seconds) -> None:
                begin, was_late = time.monotonic(), late()
                got = lock.acquire(timeout=seconds)
                mark(microseconds_since(begin, was_late), 1)
                mark(1 + got + 2 * lock.abandoned)
                if got:
                    lock.release()

            assert os.waitpid(forked_as(pid, want), 0)[1] == 0
            fastshm.heap.check()
            answer = [marked() - 1 & 1, marked() - 1 >> 1, marked(1) / 1e6]
        print(json.dumps(answer), flush=True)


class Room:
    def __init__(self, things: list[Any]) -> None:
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, __file__, "--room"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = self.ask([base64.b64encode(pickle.dumps(thing)).decode() for thing in things])

    def ask(self, what: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(what), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(SECONDS) == 0


def two_namespaces(judge: Judge) -> None:
    """Two programs, each pid 1 of its namespace, attach one segment; holder and waiter have the same pid, too."""
    rooms = [Room(judge.things), Room(judge.things)]
    assert [said[0] for said in (rooms[0].said, rooms[1].said)] == [1, 1]
    name = judge.fastshm.heap.default().name
    assert all(said.said[1] == name for said in rooms)
    before = census()
    for i in range(judge.rounds * len(judge.locks)):
        which, pid = i % len(judge.locks), 20 + judge.random.randrange(100)
        here, there = rooms[i % 2], rooms[1 - i % 2]
        waiter = there if i % 3 else here

        def case(here: Room = here, there: Room = there, waiter: Room = waiter, which: int = which, pid: int = pid) -> None:
            here.ask(["hold", which, pid, 0])
            assert there.ask(["want", which, pid, PROBES])[0] == 0, "a living holder of another namespace was robbed"
            judge.held(judge.locks[which], 0.003)
            here.ask(["kill", which, pid, 0])
            got, abandoned, seconds = waiter.ask(["want", which, pid, 5])
            assert got, "a dead holder of another namespace was not recognised"
            assert abandoned
            judge.took(seconds)

        with judge.trial(f"lock {which}, pid {pid}"):
            judge.in_time(case)
            assert census() == before
    for one in rooms:
        one.end()


# --- the item -----------------------------------------------------------------------------------------------------------------

OWN_PIDS = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
EACH = {
    "zombie": ("killed and not reaped", zombie, 5, ()),
    "waited": ("killed while others wait", waited_for, 5, ()),
    "_exit": ("os._exit while holding", exits, 5, ()),
    "exec": ("exec while holding", turns_into_another, 5, ()),
    "closed": ("all descriptors closed, then killed", closes_descriptors, 3, ()),
    "again": ("all descriptors closed twice, then killed", closes_descriptors_again, 3, ()),
    "daemon": ("all descriptors closed, two threads, then killed", has_two_threads, 3, ()),
    "user": ("another user by setuid, then killed", changes_user, 3, ()),
    "heir": ("child of one that became another user, killed", is_another_users_child, 3, ()),
    "leader": ("main thread gone, another holds, then killed", loses_its_leader, 3, ()),
    "program": ("vfork, posix_spawn, fork and exec of a program while holding", starts_a_program, 3, ()),
    "thread": ("thread ended holding", thread_ends, 5, ()),
    "child": ("killed, its child lives", child_survives, 4, ()),
    "holding": ("forks while holding: the child is somebody else", forks_holding, 8, ()),
    "pid": ("pid lives again", pid_lives_again, 3, OWN_PIDS),
    "forkserver": ("child of forkserver, killed", started_by("forkserver"), 1, ()),
    "spawn": ("child of spawn, killed", started_by("spawn"), 1, ()),
}
FULL = 60  # times as many trials

MUTANTS = (
    Mutant("the dead are told from the living", "platform.h", "    return f.l_type != F_UNLCK;", "    return 1;"),
    Mutant("the living are told from the dead", "platform.h", "    return f.l_type != F_UNLCK;", "    return 0;"),
    Mutant("a waiter asks soon", "lock.h", "#define FS_FIRST_NAP 1000000 ", "#define FS_FIRST_NAP 30000000 "),
    Mutant("a child has numbers of its own", "identity.h", "        heap->epoch++;\n", ""),
    Mutant(
        "a child lets go of its parent's claims",
        "identity.h",
        "        fs_close_own(heap, &heap->live_fd);",
        "        heap->live_fd = -1;",
    ),
    Mutant("a child does not map its parent's claims", "registry.h", "    madvise(pin->page, 4096, MADV_DONTFORK);\n", ""),
    Mutant("a program lets go of its starter's claims", "platform.h", "open(path, O_RDWR | O_CLOEXEC)", "open(path, O_RDWR)"),
    Mutant(
        "claims outlast a lost descriptor",
        "registry.h",
        "MAP_SHARED, heap->live_fd, 0);",
        "MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);",
    ),
    Mutant(
        "so do claims on its successor",
        "identity.h",
        "fs_live_fd(heap), &mine->id",
        "fs_own_fd(heap, &heap->live_fd), &mine->id",
    ),
    Mutant(
        "claims and probes never share a description",
        "local.h",
        "        fs_cas_u32(other, (uint32_t)again, (uint32_t)-1);",
        "        (void)other;",
    ),
    Mutant(
        "a thread's end is its death",
        "identity.h",
        "            fs_unclaim(fs_claims_fd(i->heap), i->heap->by_process, i->id);",
        "            continue;",
    ),
    Mutant(
        "a token outlives its thread",
        "_locks.pyx",
        "fs_cas_u32(&lock.word, 0, ref.heap.h.process_id)",
        "fs_cas_u32(&lock.word, 0, me.id)",
    ),
    Mutant(
        "a child that cannot open the segment claims as a process",
        "registry.h",
        "    if (fs_claim_shared(fd, 1, id) == -1)",
        "    if (0)",
    ),
    Mutant("its parent waits until it has", "identity.h", "    fs_birth_await();\n", ""),
    Mutant(
        "the parent's part of its claim ends then",
        "registry.h",
        "        fs_unclaim(fd, heap->by_process, heir->id);",
        "        (void)fd;",
    ),
    Mutant("a maker's pid is its own only in that process", "heap.py", "    _makers.clear()", "    #"),
)


def cannot(name: str, before: tuple[str, ...]) -> str:
    """Why this machine does not let us try that; empty when it does."""
    if before and subprocess.run([*before, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        return "not tried: no right to make a PID namespace"
    setuid = [sys.executable, "-c", f"import os; os.setresuid({NOBODY}, {NOBODY}, {NOBODY})"]
    if name in ("user", "heir") and subprocess.run(setuid, stderr=subprocess.DEVNULL, check=False).returncode:
        return "not tried: no right to become another user"
    return ""


def run(short: bool) -> Iterator[Figure]:
    rows = [(what, name, [r * (1 if short else FULL if r > 1 else 10)], before) for name, (what, _, r, before) in EACH.items()]
    rows += [
        ("stopped under many waiters", "stopped", [1, 1.5] if short else [10, 5], ()),
        ("forks among threads that hold locks", "threads", [40 if short else 4000], ()),
        ("its segment's maker's pid lives again in the family", "maker", [2 if short else 100], OWN_PIDS),
        ("two PID namespaces, equal pids, one segment", "rooms", [2 if short else 100], ()),
    ]
    for what, name, arguments, before in rows:
        why = cannot(name, OWN_PIDS if name == "rooms" else before)
        yield Figure(what, 0, 0, why) if why else figure(what, __file__, name, *arguments, before=before)


def main() -> None:
    name, rounds, *more = sys.argv[1:]
    judge = Judge(int(rounds))
    if name == "stopped":
        stopped(judge, 8, float(more[0]))
    elif name == "threads":
        forks_among_threads(judge)
    elif name == "maker":
        makers_pid_lives_again(judge)
    elif name == "rooms":
        two_namespaces(judge)
    else:
        judge.each(name, EACH[name][1])
    judge.report()


if __name__ == "__main__":
    {"--room": room, "--family": family}.get(sys.argv[1], main)()
