"""Writers killed with SIGKILL at random instants.

A judge (a process of its own, so that a hang is found by its deadline) forks writers that do one numbered step after the
other and acknowledge each. It kills them, sees what they did, and goes on with new ones. What is there must be exactly what
the acknowledged steps make on builtin objects, or that and the one step under way. In the end nothing is in use that was not
before. FASTSHM_KILLS sets the kills of each test.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import itertools
import mmap
import multiprocessing
import os
import pickle
import random
import signal
import time
import traceback
from fractions import Fraction

import pytest
from crew import Crew

import fastshm
from fastshm.managers import DictProxy, ListProxy

KILLS = int(os.environ.get("FASTSHM_KILLS", "24"))
SOON = 10  # seconds after which a survivor must have got what it asked for
WIDE = 1_000_000  # bytes: long enough to be killed while they are copied
LETTERS = "abcdefghijklmnopqrstuvwxyz"
libc = ctypes.CDLL(None)


# Writers and their judge


class Writer:
    """A forked process that does step(target, me, i) for i = first, first + 1, and so on, until it is killed."""

    def __init__(self, step, target, me=0, first=0):
        self.first = first
        self.told = memoryview(mmap.mmap(-1, 4096)).cast("q")  # the acknowledgements; no part of what is tested
        self.pid = os.fork()
        if not self.pid:
            self._work(step, target, me)

    def _work(self, step, target, me):
        status = 1
        try:
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the judge
            for i in itertools.count(self.first):
                step(target, me, i)
                self.told[0] = i + 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        assert os.WIFSIGNALED(status), "a writer failed by itself; see its traceback on stderr"
        assert os.WTERMSIG(status) == signal.SIGKILL

    @property
    def done(self):
        return max(self.told[0], self.first)


def instant():
    """How long until the next kill: often short, at most 20 ms."""
    return random.uniform(0, random.choice((0.002, 0.02)))


def kill_all(writers, look=None):
    """One after the other, each at a random instant, looking on meanwhile."""
    for writer in random.sample(writers, len(writers)):
        end = time.monotonic() + instant()
        while (left := end - time.monotonic()) > 0:
            if look:
                with soon():
                    look()
            else:
                time.sleep(left)
        writer.kill()


def too_late(*_):
    raise TimeoutError(f"a survivor had to wait for {SOON} s")


@contextlib.contextmanager
def soon():
    signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, SOON)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def census():
    gc.collect()
    counts = fastshm.heap.check()
    return {name: count for name, count in counts.items() if name not in ("committed", "bytes_free")}


def judged(judge, *args):
    """Run the judge; then all must be as it was before, but for bytes of pickles that died unused."""
    before = census()
    with Crew("fork", seconds=100) as crew:
        crew.run(judge, *args)
        crew.results()
    assert census() == before, "memory was lost"


def mix(i):
    return (i * 2_654_435_761 & 0xFFFFFFFF) >> 9


def text(i):
    """Of one letter, short or wide: torn if it is of two."""
    return LETTERS[i % 26] * (mix(i) % 1_500 if i % 3 else mix(i) % 9)


def new(like, kind, *args):
    """A nested container: shared in a shared one, plain in the model."""
    return kind(*args) if isinstance(like, dict | list) else getattr(fastshm, kind.__name__)(*args)


def plain(value):
    """A copy all the way down."""
    if isinstance(value, DictProxy):
        value = value.copy()
    elif isinstance(value, ListProxy):
        value = value[:]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


class Model:
    """The same steps on a builtin object, as far as they are known to be done."""

    def __init__(self, step, kind, me):
        self.step, self.state, self.me, self.n = step, kind(), me, 0

    def meet(self, state, done):
        """The state must be that after `done` steps or after one more. Says how many it was."""
        self.go_on(done)
        if state != exact(self.state):
            self.go_on(done + 1)
        assert state == exact(self.state), f"neither {done} nor {done + 1} steps were done by writer {self.me}"
        return self.n

    def go_on(self, n):
        while self.n < n:
            self.step(self.state, self.me, self.n)
            self.n += 1


def exact(state):
    """With the order of a dict's keys."""
    return list(state.items()) if isinstance(state, dict) else list(state)


def judge_by_model(step, kind, writers):
    target = new(None, kind)
    models = [Model(step, kind, me) for me in range(writers)]
    for _ in range(KILLS // writers):
        killed = [Writer(step, target, model.me, model.n) for model in models]
        kill_all(killed, functools.partial(look, target))
        with soon():
            state = plain(target)
            for model, writer in zip(models, killed, strict=True):
                mine = state if writers == 1 else {key: state[key] for key in state if key[0] == str(model.me)}
                model.meet(exact(mine), writer.done)
            check_usable(target)
            fastshm.heap.check()
    assert sum(model.n for model in models) > KILLS, "they were killed before they did anything"


def look(target):
    """No reader may see a torn value, while writers write and when they are dead."""
    for value in plain(target).values() if isinstance(target, DictProxy) else plain(target):
        if isinstance(value, str):
            assert len(set(value)) <= 1, "torn"


def check_usable(target):
    if isinstance(target, DictProxy):
        target["0 by a survivor"] = "x" * 100
        assert target.pop("0 by a survivor") == "x" * 100
    else:
        target.append("x" * 100)
        assert target.pop() == "x" * 100


# dict


def put(value):
    """Insert, overwrite and delete a few hundred keys of the writer's own."""

    def step(d, me, i):
        key = f"{me} {mix(i) % 300}"
        if mix(i) % 7 or key not in d:
            d[key] = value(d, i)
        else:
            del d[key]

    return step


def put_fewer(value):
    """Overwrite and pop a handful of keys."""

    def step(d, me, i):
        key = (str(me), mix(i) % 12)
        if i % 5:
            d[key] = value(d, i)
        else:
            d.pop(key, None)

    return step


def word(d, i):
    return (i, i / 8, i % 2 == 0, None, str(i)[-1] * 5)[i % 5]


def nested(d, i):
    inner = new(d, list, [i, text(i)])
    return (inner, new(d, dict, {"inner": inner, "n": i}), {"in a pickle": inner}, text(i))[i % 4]


def change_nested(d, me, i):
    key = f"{me} {i % 3}"
    if key not in d:
        d[key] = new(d, list)
    elif i % 40 == 39:
        d[key] = new(d, list, [i])
    else:
        d[key].append(text(i))


def increment(d, me, i):
    key = f"{me} {i % 9}"
    if isinstance(d, DictProxy):
        d.increment(key, i)
    else:
        d[key] = d.get(key, 0) + i


def update(d, me, i):
    """All keys of one update are there, or none: the model knows no other state."""
    count = 400 if i % 50 == 0 else 3
    d.update({f"{me} {(mix(i) + k) % 500}": text(i) if k % 2 else i for k in range(count)})


def clear(d, me, i):
    if i % 60 == 59:
        d.clear()
    elif i % 7 == 0:
        d.setdefault(i % 10, text(i))
    elif i % 11 == 0 and len(d):
        d.popitem()
    else:
        d[i] = text(i)


def grow(d, me, i):
    if i % 5_000 == 4_999:
        d.clear()
    else:
        d[i] = i


DICT_STEPS = {
    "inline": put(word),
    "wide": put(lambda d, i: text(i)),
    "pickled": put(lambda d, i: (i, [i] * (i % 40), {"k": Fraction(i, 7)})),
    "nested": put_fewer(nested),
    "nested, changed in place": change_nested,
    "few keys": put_fewer(lambda d, i: text(i)),
    "increment": increment,
    "update": update,
}
ALONE = {"clear": clear, "grow": grow}


@pytest.mark.parametrize("name", DICT_STEPS | ALONE)
def test_dict(name):
    judged(judge_by_model, (DICT_STEPS | ALONE)[name], dict, 1)


@pytest.mark.parametrize("name", DICT_STEPS)
def test_dict_of_two(name):
    judged(judge_by_model, DICT_STEPS[name], dict, 2)


# list


def change_list(items, me, i):
    """One change of every kind in turn; all items are text, so that they can be sorted."""
    n, value = len(items), text(i)
    at = mix(i) % (n + 1)
    kind = mix(i) % 13
    if n > 150:
        del items[50:]
    elif kind < 2 or not n:
        items.append(value)
    elif kind == 2:
        items.insert(at, value)
    elif kind == 3:
        items.pop(at - 1)
    elif kind == 4:
        items.extend([value] * 5)
    elif kind == 5:
        items.sort()
    elif kind == 6:
        items[at : at + 4] = [value, value, text(i + 1), value, value, text(i + 2)]
    elif kind == 7:
        items[: n // 2 * 2 : 2] = [value] * (n // 2)
    elif kind == 8:
        items[at - 1] = value
    elif kind == 9:
        items.reverse()
    elif kind == 10:
        items += [value, text(i + 1)]
    elif kind == 11:
        del items[at : at + 3]
    else:
        items.insert(0, value)


def grow_list(items, me, i):
    if i % 5_000 == 4_999:
        items[:] = []
    else:
        items.append(i)


def nest_lists(items, me, i):
    if i % 30 == 29:
        del items[:]
    elif i % 4 == 0:
        items.insert(len(items) // 2, new(items, list, [i, text(i)]))
    elif i % 4 == 1 and len(items) > 1:
        items.pop(1)
    else:
        items.append(nested(items, i))


@pytest.mark.parametrize("step", [change_list, grow_list, nest_lists])
def test_list(step):
    judged(judge_by_model, step, list, 1)


def add_to_list(items, me, i):
    one = f"{me} {i}"
    if i % 3 == 0:
        items.append(one)
    elif i % 3 == 1:
        items.insert(len(items) // 2, one)
    else:
        items[5:5] = [one]


def judge_list_of_two():
    items = fastshm.list()
    for _ in range(KILLS // 2):
        writers = [Writer(add_to_list, items, me) for me in range(2)]
        kill_all(writers, lambda: len(items[:]))
        with soon():
            state = items[:]
            for me, writer in enumerate(writers):
                mine = sorted(int(item[2:]) for item in state if item[0] == str(me))
                assert mine in (list(range(writer.done)), list(range(writer.done + 1)))
            del items[:]
            fastshm.heap.check()


def test_list_of_two():
    judged(judge_list_of_two)


# Value and Array: what they hold is a function of the number of steps


def count_up(value, me, i):
    if i % 6 == 0:
        with value.get_lock():
            value.value += 1
    elif i % 6 == 1:
        assert value.fetch_add(1) == i
    elif i % 6 == 2:
        value.add(1)
    elif i % 6 == 3:
        value.store(i + 1)
    elif i % 6 == 4:
        assert value.exchange(i + 1) == i
    else:
        assert value.compare_exchange(i, i + 1)


def fill_array(array, me, i):
    if i % 4 == 3:
        array[::-1] = [i + 1] * len(array)
    else:
        array[:] = [i + 1] * len(array)


def fill_text(array, me, i):
    if i % 2:
        array.raw = bytes([(i + 1) % 251]) * len(array)
    else:
        array[:] = bytes([(i + 1) % 251]) * len(array)


STEPS_OF_NUMBERS = {
    "Value of an integer": (lambda: fastshm.Value("q"), count_up, lambda v, n: v.value == n),
    "Value of a double": (lambda: fastshm.Value("d"), count_up, lambda v, n: v.value == n),
    "Array": (lambda: fastshm.Array("q", 3_000), fill_array, lambda a, n: a[:] == [n] * 3_000),
    "Array of bytes": (lambda: fastshm.Array("b", 100), lambda a, me, i: fill_array(a, me, i % 100),
                       lambda a, n: a[:] == [(n - 1) % 100 + 1 if n else 0] * 100),
    "Array of characters": (lambda: fastshm.Array("c", WIDE), fill_text, lambda a, n: a.raw == bytes([n % 251]) * WIDE),
}  # fmt: skip


def judge_numbers(name):
    make, step, is_after = STEPS_OF_NUMBERS[name]
    target, n = make(), 0
    for _ in range(KILLS):
        writer = Writer(step, target, first=n)
        kill_all([writer], lambda: len(set(target[:])) if "Array" in name else target.value)
        with soon():
            n = next((m for m in (writer.done, writer.done + 1) if is_after(target, m)), None)
            assert n is not None, f"neither {writer.done} steps were done, nor one more"
            fastshm.heap.check()
    assert n > KILLS


@pytest.mark.parametrize("name", STEPS_OF_NUMBERS)
def test_numbers(name):
    judged(judge_numbers, name)


def add_one(value, me, i):
    if i % 3 == 0:
        with value.get_lock():
            value.value += 1
    elif i % 3 == 1:
        value.add(1)
    else:
        value.fetch_add()


def judge_sum():
    value = fastshm.Value("q")
    for _ in range(KILLS // 2):
        before = value.value
        writers = [Writer(add_one, value, me) for me in range(2)]
        kill_all(writers, lambda: value.value)
        with soon():
            done = sum(writer.done for writer in writers)
            assert done <= value.value - before <= done + 2
            value.add(1)
            value.get_lock().acquire()
            value.get_lock().release()


def test_sum_of_two():
    judged(judge_sum)


def fill_by_two(array, me, i):
    array[:] = [2 * (i + 1) + me] * len(array)


def check_whole(array):
    assert len(set(array[:])) == 1, "torn"


def judge_array_of_two():
    array = fastshm.Array("q", 200)
    for _ in range(KILLS // 2):
        writers = [Writer(fill_by_two, array, me) for me in range(2)]
        kill_all(writers, lambda: check_whole(array))
        with soon():
            check_whole(array)
            last = [2 * (writer.done + more) + me for me, writer in enumerate(writers) for more in (0, 1)]
            assert array[0] in (*last, 0)
            array[:] = [0] * 200


def test_array_of_two():
    judged(judge_array_of_two)


class Wide(ctypes.Structure):
    _fields_ = [("numbers", ctypes.c_long * 500)]


def fill_struct(array, me, i):
    array[i % 2] = Wide((ctypes.c_long * 500)(*[i] * 500))


def judge_structs():
    """A structure is ctypes' own memory behind a lock: it may be torn by a death, but then the lock says so."""
    array = fastshm.Array(Wide, 2)
    for _ in range(KILLS):
        kill_all([Writer(fill_struct, array)])
        with soon(), array.get_lock() as entered:
            assert entered
            torn = any(len(set(array[i].numbers[:])) != 1 for i in range(2))
            assert array.get_lock().abandoned or not torn
            array[0] = array[1] = Wide()


def test_array_of_structs():
    judged(judge_structs)


# locks


def make_guard(name):
    if name in ("Lock", "RLock"):
        return getattr(fastshm, name)()
    arguments = {"Value": ("i", 0), "Array": ("i", 4)}.get(name, ())
    return getattr(fastshm, name)(*arguments).get_lock()


def count_alone(target, me, i):
    guard, numbers = target
    with guard:
        if guard.abandoned:
            numbers[1] = -numbers[0]
        assert numbers[0] == -numbers[1], "somebody else is inside, or died there unnoticed"
        numbers[0] += 1
        numbers[1] -= 1


def judge_holders(name):
    guard, numbers = make_guard(name), fastshm.RawArray("q", 2)
    for _ in range(KILLS // 3 + 1):
        before = numbers[0]
        writers = [Writer(count_alone, (guard, numbers), me) for me in range(3)]
        kill_all(writers)
        assert guard.acquire(timeout=SOON)
        assert guard.abandoned or numbers[0] == -numbers[1], "a death in the section was not told"
        numbers[1] = -numbers[0]
        guard.release()
        assert not guard.abandoned
        done = sum(writer.done for writer in writers)
        assert done <= numbers[0] - before <= done + 3
        fastshm.heap.check()
    assert numbers[0] > KILLS


@pytest.mark.parametrize("name", ["Lock", "RLock", "Value", "Array", "dict", "list"])
def test_holders(name):
    judged(judge_holders, name)


def move(d, me, i):
    """Several keys under the dict's own lock, by operations that each are whole."""
    with d.get_lock():
        if d.get_lock().abandoned:
            d["b"] = 1_000 - d["a"]
        assert d["a"] + d["b"] == 1_000, "a death in the section was not told"
        amount = mix(i) % 100
        d["a"] -= amount
        d["b"] += amount


def judge_moves():
    d = fastshm.dict(a=1_000, b=0)
    for _ in range(KILLS // 2):
        kill_all([Writer(move, d, me) for me in range(2)])
        with soon(), d.get_lock():
            assert d.get_lock().abandoned or d["a"] + d["b"] == 1_000
            d.update(a=1_000, b=0)


def test_several_keys_under_a_lock():
    judged(judge_moves)


# handles: making, dropping, sending

MAKE = (
    lambda i: fastshm.Value("q", i),
    lambda i: fastshm.Array("q", i % 300),
    lambda i: fastshm.Lock(),
    lambda i: fastshm.RLock(),
    lambda i: fastshm.dict({i: text(i), "more": [i]}),
    lambda i: fastshm.list([i, text(i), fastshm.list([i])]),
    lambda i: fastshm.RawArray("d", 5),
    lambda i: fastshm.Manager().dict(a=i),
)


def make_and_drop(kept, me, i):
    kept[mix(i) % 60] = MAKE[i % len(MAKE)](i)
    if i % 200 == 199:
        kept.clear()


def judge_handles():
    other = fastshm.Value("i", 7)
    for _ in range(2 * KILLS):
        kill_all([Writer(make_and_drop, {}, me) for me in range(2)])
        with soon():
            fastshm.heap.check()
            assert [make(5) for make in MAKE]
            assert other.value == 7


def test_making_and_dropping():
    judged(judge_handles)


def test_handles_of_the_killed_are_given_back_at_once():
    def judge():
        fastshm.heap.check()
        before = census()
        for _ in range(KILLS):
            kill_all([Writer(make_and_drop, {})])
            assert census() == before

    judged(judge)


def send_to_oneself(things, me, i):
    copy = pickle.loads(pickle.dumps(things[i % len(things)]))
    assert type(copy) is type(things[i % len(things)])


def judge_pickles():
    """A pickle that dies unused keeps one block of 64 bytes, and its object while the segment lasts."""
    things = [fastshm.Value("q", 7), fastshm.Lock()]
    before = census()
    for turn in range(2 * KILLS):
        kill_all([Writer(send_to_oneself, things, me) for me in range(2)])
        with soon():
            after = census()
            tickets = after["tickets"] - before["tickets"]
            assert tickets <= 2 * (turn + 1)
            assert after == before | {
                "tickets": before["tickets"] + tickets,
                "blocks": before["blocks"] + tickets,
                "bytes_used": before["bytes_used"] + 64 * tickets,
            }
            assert things[0].fetch_add(0) == 7
            assert things[1].acquire(timeout=SOON)
            things[1].release()


def run_judge_alone(judge):
    with Crew("fork", seconds=100) as crew:
        crew.run(judge)
        crew.results()


def test_pickling():
    run_judge_alone(judge_pickles)
    fastshm.heap.check()


def use_everything(d, items, value, array, lock):
    for i in range(1_000_000):
        d[i % 10] = text(i)
        items[0] = i
        value.add(1)
        array[:] = [i] * 10
        with lock:
            pass


@pytest.mark.parametrize("kind", ["spawn", "forkserver"])
def test_killed_while_starting(kind):
    """From unpickling its arguments, through attaching, to the first operations."""
    things = fastshm.dict(), fastshm.list([0]), fastshm.Value("q"), fastshm.Array("q", 10), fastshm.Lock()
    before = census()
    context = multiprocessing.get_context(kind)
    started = []
    for _ in range(KILLS):
        process = context.Process(target=use_everything, args=things)
        process.start()
        time.sleep(random.uniform(0, 0.4))
        process.kill()
        process.join()
        process.close()
        with soon():
            started.append(things[2].value > 0)
            things[2].value = 0
            assert things[4].acquire(timeout=SOON)
            things[4].release()
            check_usable(things[0])
            check_usable(things[1])
            assert len(set(things[3][:])) == 1
            things[0].clear()
    after = census()
    tickets = after["tickets"] - before["tickets"]
    assert tickets <= len(things) * KILLS
    assert after["processes"] == before["processes"]
    assert after["handles"] == before["handles"]
