"""Every shared object, and every way of handing it from one process to another.

    python tests/ways.py

tries each object by each way under each start method and prints the table of docs/handing-over.md. Functions and things that
other processes need are here, in a module that all can import.
"""

from __future__ import annotations

import ctypes
import gc
import pickle
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crew import Crew, run_program

import fastshm

CALLS = {  # of a context, that make an object
    "Array": ("i", 3),
    "Barrier": (2,),
    "BoundedSemaphore": (2,),
    "Condition": (),
    "Event": (),
    "JoinableQueue": (3,),
    "Lock": (),
    "Queue": (3,),
    "RLock": (),
    "Semaphore": (2,),
    "SimpleQueue": (),
    "Value": ("i", 3),
}


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


# --- the objects --------------------------------------------------------------------------------------------------------------


@dataclass
class Thing:
    """How to make an object, what another process does with it, and what its maker sees then."""

    make: Callable[[], Any]
    use: Callable[[Any], Any]
    seen: Callable[[Any], bool]
    is_held: bool = False  # by its maker, who has to live while others look


def increment(value):
    value.value += 1


def increment_second(numbers):
    numbers[1] += 1


def put(d):
    d["new"] = [2]


def name(space):
    space.new = [2]


def move(point):
    point.x = 9


def move_second(points):
    points[1].x = 9


def write(text):
    text.value = b"new"


def nothing(locked):
    assert locked.acquire(False) is False, "its maker holds it"


def plain(numbers):
    return list(numbers[:])


def held(lock):
    lock.acquire()
    return lock


def of_manager(kind, *arguments):
    return getattr(fastshm.Manager(), kind)(*arguments)


def lock(make):
    return Thing(lambda: held(make()), nothing, lambda lock: True, is_held=True)


def over_raw(lock):
    return fastshm.sharedctypes.synchronized(fastshm.RawValue("i", 5), lock)


def locks(prefix, made):
    """What is waited for has one interface, also a manager's."""
    return {
        f"{prefix}Lock": lock(partial(made, "Lock")),
        f"{prefix}RLock": lock(partial(made, "RLock")),
        f"{prefix}Condition": lock(partial(made, "Condition")),
        f"{prefix}Semaphore": Thing(partial(made, "Semaphore", 2), lambda s: s.acquire(), lambda s: s.get_value() == 1),
        f"{prefix}BoundedSemaphore": Thing(
            lambda: held(made("BoundedSemaphore", 2)), lambda s: s.release(), lambda s: s.get_value() == 2, is_held=True
        ),
        f"{prefix}Event": Thing(partial(made, "Event"), lambda event: event.set(), lambda event: event.is_set()),
        f"{prefix}Barrier": Thing(partial(made, "Barrier", 2), lambda b: b.abort(), lambda b: b.broken),
    }


THINGS = {
    "Value": Thing(lambda: fastshm.Value("i", 5), increment, lambda value: value.value == 6),
    "Value of a double": Thing(lambda: fastshm.Value("d", 0.5), increment, lambda value: value.value == 1.5),
    "Value of a struct": Thing(lambda: fastshm.Value(Point, 1, 2), move, lambda point: (point.x, point.y) == (9, 2)),
    "Value with a lock of its own": Thing(
        lambda: fastshm.Value("i", 5, lock=fastshm.RLock()), increment, lambda value: value.value == 6
    ),
    "Array": Thing(lambda: fastshm.Array("i", [1, 2]), increment_second, lambda a: plain(a) == [1, 3]),
    "Array of characters": Thing(lambda: fastshm.Array("c", b"old"), write, lambda text: text.value == b"new"),
    "Array of structs": Thing(lambda: fastshm.Array(Point, 2), move_second, lambda points: points[1].x == 9),
    "RawValue": Thing(lambda: fastshm.RawValue("i", 5), increment, lambda value: value.value == 6),
    "RawValue of a struct": Thing(lambda: fastshm.RawValue(Point, 1, 2), move, lambda point: (point.x, point.y) == (9, 2)),
    "RawArray": Thing(lambda: fastshm.RawArray("d", [1, 2]), increment_second, lambda a: plain(a) == [1, 3]),
    "RawArray of structs": Thing(lambda: fastshm.RawArray(Point, 2), move_second, lambda points: points[1].x == 9),
    "synchronized()": Thing(lambda: over_raw(None), increment, lambda value: value.value == 6),
    "synchronized() with a lock": Thing(lambda: over_raw(fastshm.RLock()), increment, lambda value: value.value == 6),
    "get_obj()": Thing(lambda: fastshm.Array("i", [1, 2]).get_obj(), increment_second, lambda a: plain(a) == [1, 3]),
    "get_lock()": lock(lambda: fastshm.Value("i").get_lock()),
    **locks("", lambda kind, *arguments: getattr(fastshm, kind)(*arguments)),
    "dict": Thing(lambda: fastshm.dict(old=1), put, lambda d: d.copy() == {"old": 1, "new": [2]}),
    "list": Thing(lambda: fastshm.list([1, 2]), increment_second, lambda items: items[:] == [1, 3]),
    "manager's dict": Thing(lambda: of_manager("dict"), put, lambda d: d.items() == [("new", [2])]),
    "manager's list": Thing(lambda: of_manager("list", [1, 2]), increment_second, lambda items: items[:] == [1, 3]),
    "manager's Namespace": Thing(lambda: of_manager("Namespace"), name, lambda space: space.new == [2]),
    "manager's Value": Thing(lambda: of_manager("Value", "i", 5), increment, lambda value: value.value == 6),
    "manager's Array": Thing(lambda: of_manager("Array", "i", [1, 2]), increment_second, lambda a: plain(a) == [1, 3]),
    **locks("manager's ", of_manager),
}
HELD = [name for name, thing in THINGS.items() if thing.is_held]
FREE = [name for name in THINGS if name not in HELD]


def make(names=tuple(THINGS)):
    return {name: THINGS[name].make() for name in names}


def make_one(name):
    return THINGS[name].make()


def use(things):
    for name, thing in things.items():
        THINGS[name].use(thing)


def use_one(name, thing):
    THINGS[name].use(thing)
    return name


# --- ways to another process, which uses them ---------------------------------------------------------------------------------

given: dict[str, Any] = {}  # what this process has inherited, or got from an initializer


def keep(things):
    given.update(things)


def use_given(names):
    use({name: given[name] for name in names})


def process_arguments(crew, things):
    crew.run(use, things)
    crew.results()


def inherited(crew, things):
    keep(things)
    try:
        crew.run(use_given, list(things))
        crew.results()
    finally:
        given.clear()


def pool_arguments(crew, things):
    with crew.context.Pool(1) as pool:
        assert pool.starmap(use_one, things.items()) == list(things)
    pool.join()


def pool_initargs(crew, things):
    with crew.context.Pool(1, initializer=keep, initargs=(things,)) as pool:
        pool.apply(use_given, (list(things),))
    pool.join()


def executor_arguments(crew, things):
    with ProcessPoolExecutor(1, mp_context=crew.context) as executor:
        assert list(executor.map(use_one, things, things.values())) == list(things)


def executor_initargs(crew, things):
    with ProcessPoolExecutor(1, mp_context=crew.context, initializer=keep, initargs=(things,)) as executor:
        executor.submit(use_given, list(things)).result()


def get_and_use(q):
    use(q.get())


def queue(kind, crew, things):
    q = getattr(crew.context, kind)()
    user = crew.run(get_and_use, q)
    q.put(things)
    crew.result(user)
    q.close()
    if kind == "Queue":
        q.join_thread()


def receive_and_use(pipe):
    use(pipe.recv())


def pipe(crew, things):
    here, there = crew.context.Pipe()
    with here, there:
        user = crew.run(receive_and_use, there)
        here.send(things)
        crew.result(user)


def use_values(names, container):
    use(dict(zip(names, container.values() if hasattr(container, "values") else container[:], strict=True)))


def in_a_dict(crew, things):
    crew.run(use_values, list(things), fastshm.dict(things))
    crew.results()


def in_a_list(crew, things):
    crew.run(use_values, list(things), fastshm.list(things.values()))
    crew.results()


def unpickle_and_use(data):
    use(pickle.loads(data))


def pickled(crew, things):
    crew.run(unpickle_and_use, pickle.dumps(things))
    crew.results()


def unpickle_and_call(data):
    pickle.loads(data)()


def in_a_closure(crew, things):
    import cloudpickle

    crew.run(unpickle_and_call, cloudpickle.dumps(lambda: use(things)))
    crew.results()


GIVEN = {
    "arguments of a Process": process_arguments,
    "inherited global": inherited,
    "arguments of a Pool": pool_arguments,
    "initargs of a Pool": pool_initargs,
    "arguments of an executor": executor_arguments,
    "initargs of an executor": executor_initargs,
    "Queue": partial(queue, "Queue"),
    "SimpleQueue": partial(queue, "SimpleQueue"),
    "Pipe": pipe,
    "in a shared dict": in_a_dict,
    "in a shared list": in_a_list,
    "pickle": pickled,
    "closure by cloudpickle": in_a_closure,
}

# --- ways from another process, which made them -------------------------------------------------------------------------------


def pool_results(crew, names):
    with crew.context.Pool(1) as pool:
        things = dict(zip(names, pool.map(make_one, names), strict=True))
        yield things
    pool.join()


def executor_results(crew, names):
    with ProcessPoolExecutor(1, mp_context=crew.context) as executor:
        yield executor.submit(make, names).result()


def expect(crew, connection):
    """A maker that fails sends nothing."""
    assert connection.poll(max(0.0, crew.end - time.monotonic())), "deadline passed, nothing came"


def make_and_put(names, there, until):
    there.put(things := make(names))
    until.get()
    del things


def queue_back(kind, crew, names):
    q, until = getattr(crew.context, kind)(), crew.context.SimpleQueue()
    maker = crew.run(make_and_put, names, q, until)
    expect(crew, q._reader)
    yield q.get()
    until.put("end")
    crew.result(maker)
    for each in (q, until):
        each.close()


def make_and_send(names, pipe):
    pipe.send(things := make(names))
    pipe.recv()
    del things


def pipe_back(crew, names):
    here, there = crew.context.Pipe()
    with here, there:
        maker = crew.run(make_and_send, names, there)
        expect(crew, here)
        yield here.recv()
        here.send("end")
        crew.result(maker)


def make_into(names, container, pipe):
    container.update(things := make(names))
    del things
    gc.collect()
    pipe.send("made")
    pipe.recv()


def out_of_a_dict(crew, names):
    d = fastshm.dict()
    here, there = crew.context.Pipe()
    with here, there:
        maker = crew.run(make_into, names, d, there)
        expect(crew, here)
        here.recv()
        yield d.copy()
        here.send("end")
        crew.result(maker)


TAKEN = {
    "result of a Pool": pool_results,
    "result of an executor": executor_results,
    "Queue, back": partial(queue_back, "Queue"),
    "SimpleQueue, back": partial(queue_back, "SimpleQueue"),
    "Pipe, back": pipe_back,
    "from a shared dict": out_of_a_dict,
}

# --- joblib's workers are started in a way of their own -----------------------------------------------------------------------

JOBLIB = """
import sys
sys.path[:0] = sys.argv[1].split(":")
import joblib, ways

names = sys.argv[2:]
with joblib.parallel_config(backend="loky", n_jobs=2):
    things = ways.make(names)
    assert joblib.Parallel()(joblib.delayed(ways.use_one)(*item) for item in things.items()) == names
    assert [name for name, thing in things.items() if not ways.THINGS[name].seen(thing)] == []
    made = dict(zip(names, joblib.Parallel()(joblib.delayed(ways.make_one)(name) for name in names)))
    ways.use(made)
    assert [name for name, thing in made.items() if not ways.THINGS[name].seen(thing)] == []
joblib.externals.loky.get_reusable_executor().shutdown()
"""


def joblib(names):
    """There and back, in a program of its own, as joblib leaves servers running."""
    folders = (Path(__file__).parent, Path(fastshm.__file__).parent.parent)
    run_program(JOBLIB, ":".join(map(str, folders)), *names)


# --- trying them --------------------------------------------------------------------------------------------------------------

METHODS = ("fork", "spawn", "forkserver")
WAYS = (*GIVEN, *TAKEN, "joblib")
NEEDS = {"closure by cloudpickle": "cloudpickle", "joblib": "joblib"}


def methods_of(way):
    return {"inherited global": ("fork",), "joblib": ("loky",)}.get(way, METHODS)


def is_possible(way):
    return way not in NEEDS or find_spec(NEEDS[way]) is not None


def unseen(way, method, names):
    """Hands over those objects by that way: those of which one side does not see what the other has done."""
    if way == "joblib":
        joblib(names)
        return []
    with Crew(method) as crew:
        if way in GIVEN:
            things = make(names)
            GIVEN[way](crew, things)
            return [name for name, thing in things.items() if not THINGS[name].seen(thing)]
        for things in TAKEN[way](crew, names):
            use(things)
            missing = [name for name, thing in things.items() if not THINGS[name].seen(thing)]
        return missing


def failing(way, method):
    """The names of the objects for which it does not work, and what it said of each."""
    names = list(THINGS)
    try:
        return dict.fromkeys(unseen(way, method, names), "unseen")
    except Exception:  # of which object?
        said = {}
        for name in names:
            try:
                unseen(way, method, [name])
            except Exception as error:
                said[name] = str(error).strip().splitlines()[-1]
        return said


def table():
    """A row for each object: for each way whether it works, by which start methods."""
    cells = {name: [] for name in THINGS}
    for way in WAYS:
        wrong = {method: failing(way, method) for method in methods_of(way)}
        for name, row in cells.items():
            works = [method for method, said in wrong.items() if name not in said]
            row.append("yes" if len(works) == len(wrong) else ", ".join(works) or "no")
            for method, said in wrong.items():
                if name in said:
                    print(f"{name}, {way}, {method}: {said[name]}", file=sys.stderr)
    yield f"| object | {' | '.join(WAYS)} |"
    yield f"| --- |{' --- |' * len(WAYS)}"
    for name, row in cells.items():
        yield f"| {name} | {' | '.join(row)} |"


if __name__ == "__main__":
    import ways

    print(*ways.table(), sep="\n")
