"""Every shared object, by every way of handing it over, under every start method; and dropped on the way."""

from __future__ import annotations

import copyreg
import ctypes
import gc
import io
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest
from crew import Crew

import fastshm


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


class Thing:
    """How to make an object, what another process does with it, and what its maker sees then."""

    def __init__(self, make, use, seen):
        self.make, self.use, self.seen = make, use, seen


def held(lock):
    lock.acquire()
    return lock


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


def nothing(locked):
    assert locked.acquire(False) is False, "its maker holds it"


def locked(lock):
    return lock.acquire(False)


def plain(numbers):
    return list(numbers[:])


def of_manager(kind, *arguments):
    return getattr(fastshm.Manager(), kind)(*arguments)


THINGS = {
    "Value": Thing(lambda: fastshm.Value("i", 5), increment, lambda value: value.value == 6),
    "Value of a double": Thing(lambda: fastshm.Value("d", 0.5), increment, lambda value: value.value == 1.5),
    "Value of a struct": Thing(lambda: fastshm.Value(Point, 1, 2), move, lambda point: (point.x, point.y) == (9, 2)),
    "Array": Thing(lambda: fastshm.Array("i", [1, 2]), increment_second, lambda a: plain(a) == [1, 3]),
    "RawValue": Thing(lambda: fastshm.RawValue("i", 5), increment, lambda value: value.value == 6),
    "RawArray": Thing(lambda: fastshm.RawArray("d", [1, 2]), increment_second, lambda a: plain(a) == [1, 3]),
    "Lock": Thing(lambda: held(fastshm.Lock()), nothing, lambda lock: True),
    "RLock": Thing(lambda: held(fastshm.RLock()), nothing, lambda lock: True),
    "get_lock()": Thing(lambda: held(fastshm.Value("i").get_lock()), nothing, lambda lock: True),
    "dict": Thing(lambda: fastshm.dict(old=1), put, lambda d: d.copy() == {"old": 1, "new": [2]}),
    "list": Thing(lambda: fastshm.list([1, 2]), increment_second, lambda items: items[:] == [1, 3]),
    "Namespace": Thing(lambda: of_manager("Namespace"), name, lambda space: space.new == [2]),
    "manager's dict": Thing(lambda: of_manager("dict"), put, lambda d: d.items() == [("new", [2])]),
    "manager's list": Thing(lambda: of_manager("list", [1, 2]), increment_second, lambda items: items[:] == [1, 3]),
    "manager's Value": Thing(lambda: of_manager("Value", "i", 5), increment, lambda value: value.value == 6),
    "manager's Array": Thing(lambda: of_manager("Array", "i", [1, 2]), increment_second, lambda a: plain(a) == [1, 3]),
    "manager's Lock": Thing(lambda: held(of_manager("Lock")), nothing, lambda lock: True),
    "manager's RLock": Thing(lambda: held(of_manager("RLock")), nothing, lambda lock: True),
}
LOCKS = [name for name in THINGS if "ock" in name]
given = {}  # what initializers and earlier calls have left in a worker


def make(names=THINGS):
    return {name: THINGS[name].make() for name in names}


def use(things):
    for name, thing in things.items():
        THINGS[name].use(thing)


def use_one(name, thing):
    THINGS[name].use(thing)
    return name


def keep(things):
    given.update(things)


def use_given(name):
    THINGS[name].use(given[name])


def check(things, subtests):
    for name, thing in things.items():
        with subtests.test(name=name):
            assert THINGS[name].seen(thing)


def test_process_arguments(crew, subtests):
    things = make()
    crew.run(use, things)
    crew.results()
    check(things, subtests)


def test_pool_arguments(crew, subtests):
    things = make()
    with crew.context.Pool(1) as pool:
        assert pool.starmap(use_one, things.items()) == list(things)
    check(things, subtests)


def test_pool_initargs(crew, subtests):
    things = make()
    with crew.context.Pool(1, initializer=keep, initargs=(things,)) as pool:
        pool.map(use_given, things)
    check(things, subtests)


def test_executor_arguments(method, crew, subtests):
    things = make()
    with ProcessPoolExecutor(1, mp_context=crew.context) as executor:
        assert list(executor.map(use_one, things, things.values())) == list(things)
    check(things, subtests)


def test_executor_initargs(crew, subtests):
    things = make()
    with ProcessPoolExecutor(1, mp_context=crew.context, initializer=keep, initargs=(things,)) as executor:
        list(executor.map(use_given, things))
    check(things, subtests)


def use_and_check(things, subtests):
    """What another process has made: here it is used, and here it must show."""
    for name, thing in things.items():
        with subtests.test(name=name):
            THINGS[name].use(thing)
            assert THINGS[name].seen(thing)


def make_one(name):
    return THINGS[name].make()


def test_pool_results(crew, subtests):
    with crew.context.Pool(1) as pool:
        use_and_check(pool.apply(make), subtests)
        use_and_check(dict(zip(THINGS, pool.map(make_one, THINGS), strict=True)), subtests)


def test_executor_results(crew, subtests):
    with ProcessPoolExecutor(1, mp_context=crew.context) as executor:
        use_and_check(executor.submit(make).result(), subtests)


def make_and_end():
    free = [name for name in THINGS if name not in LOCKS]
    return make(free)


def test_result_of_a_process_that_has_ended(crew, subtests):
    things = crew.result(crew.run(make_and_end))
    gc.collect()
    use_and_check(things, subtests)


def serve(source, target):
    things = source.get()
    use(things)
    target.put(make())
    assert source.get() == "end"


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_queues(crew, subtests, kind):
    there, back = getattr(crew.context, kind)(), getattr(crew.context, kind)()
    things = make()
    server = crew.run(serve, there, back)
    there.put(things)
    use_and_check(back.get(), subtests)
    there.put("end")
    crew.result(server)
    check(things, subtests)
    for queue in (there, back):
        queue.close()
        if kind == "Queue":
            queue.join_thread()


def answer(pipe):
    use(pipe.recv())
    pipe.send(make())
    assert pipe.recv() == "end"


def test_pipe(crew, subtests):
    here, there = crew.context.Pipe()
    things = make()
    with here, there:
        server = crew.run(answer, there)
        here.send(things)
        use_and_check(here.recv(), subtests)
        here.send("end")
        crew.result(server)
    check(things, subtests)


def use_nested(d, items):
    use(d.copy())
    use(dict(zip(THINGS, items, strict=True)))
    d["also here"] = fastshm.list([items])


def test_nested_in_containers(crew, subtests):
    """Locks stay as they were made: a handle read from a container is one more name of the same lock."""
    d, items = fastshm.dict(), fastshm.list()
    inside, listed = make(), make()
    d.update(inside)
    items.extend(listed.values())
    crew.run(use_nested, d, items)
    crew.results()
    check(inside, subtests)
    check(listed, subtests)
    check({name: d[name] for name in THINGS}, subtests)
    assert len(d["also here"][0]) == len(THINGS)


def test_nested_only_in_containers(crew, subtests):
    """The container is all that keeps them."""
    free = [name for name in THINGS if name not in LOCKS]
    d, items = fastshm.dict(make(free)), fastshm.list(make(free).values())
    gc.collect()
    crew.run(use, {"dict": fastshm.dict(old=1)})
    crew.run(use_listed, d, items, free)
    crew.results()
    check({name: d[name] for name in free}, subtests)
    check(dict(zip(free, items, strict=True)), subtests)


def use_listed(d, items, names):
    use(d.copy())
    use(dict(zip(names, items, strict=True)))


def unpickle_and_use(data):
    things = pickle.loads(data)
    use(things)
    return all(THINGS[name].seen(thing) for name, thing in things.items())


def test_dropped_by_the_sender_before_it_is_unpickled(crew):
    """The message in flight is all that is left of them."""
    free = [name for name in THINGS if name not in LOCKS]
    messages = [pickle.dumps(make(free)) for _ in range(2)]
    gc.collect()
    with crew.context.Pool(1) as pool:
        waiting = [pool.apply_async(use_one, (name, THINGS[name].make())) for name in free]
        gc.collect()
        assert [answer.get(60) for answer in waiting] == free
        assert [pool.apply(unpickle_and_use, (message,)) for message in messages] == [True, True]
    del messages


def test_message_that_is_never_received():
    """It costs memory, not order: everything else goes on, and the end of the process frees it."""
    for _ in range(50):
        pickle.dumps(make())
    gc.collect()
    fastshm.heap.check()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol(protocol, subtests):
    things = make()
    again = pickle.loads(pickle.dumps(things, protocol))
    for name, thing in again.items():
        with subtests.test(name=name):
            assert type(thing) is type(things[name])
            if name not in LOCKS:
                THINGS[name].use(thing)
                assert THINGS[name].seen(things[name])


def test_other_picklers(subtests):
    """A pickler with its own table of reducers, as those of joblib and cloudpickle."""

    class OtherPickler(pickle.Pickler):
        dispatch_table = copyreg.dispatch_table.copy()

    for name in THINGS:
        with subtests.test(name=name):
            buffer = io.BytesIO()
            OtherPickler(buffer).dump(thing := THINGS[name].make())
            again = pickle.loads(buffer.getvalue())
            if name not in LOCKS:
                THINGS[name].use(again)
                assert THINGS[name].seen(thing)


def relay(things, depth):
    """Hand on by the same start method, as many times; the innermost uses them."""
    if not depth:
        use(things)
        return
    with Crew("fork") as crew:
        crew.run(relay, things, depth - 1)
        crew.results()


def test_handed_on_by_generations(crew, subtests):
    things = make()
    crew.run(relay, things, 3)
    crew.results()
    check(things, subtests)


def test_thousand_handles_of_one_object():
    value = fastshm.Value("i")
    handles = [pickle.loads(pickle.dumps(value)) for _ in range(1_000)]
    for handle in handles:
        handle.add(1)
    assert value.value == 1_000
    del value
    assert handles[0].value == 1_000
    last = handles.pop()
    handles.clear()
    assert last.fetch_add(1) == 1_000
