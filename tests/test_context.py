"""The contexts and the module: all that multiprocessing has, with shared objects of fastshm, under every start method."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import queue
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import context as stdlib
from multiprocessing import queues, reduction

import pytest
from crew import Crew, run_program
from ways import CALLS

import fastshm
from fastshm import modules

METHODS = (None, "fork", "spawn", "forkserver")


def public(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


@pytest.fixture
def context(method):
    return fastshm.get_context(method)


# --- names --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_contexts_have_all_that_the_stdlibs_have(method):
    ours, theirs = fastshm.get_context(method), multiprocessing.get_context(method)
    assert public(theirs) <= public(ours)
    assert isinstance(ours, type(theirs))
    assert ours.Process is theirs.Process
    assert ours.get_start_method() == theirs.get_start_method()
    assert ours.get_context() is ours
    assert ours.reducer is theirs.reducer is reduction
    for name in public(theirs) - set(CALLS) - {"Manager", "RawArray", "RawValue", "get_context", "get_start_method"}:
        mine, original = getattr(ours, name), getattr(theirs, name)
        inherited = getattr(mine, "__func__", mine) is getattr(original, "__func__", original)
        assert inherited or name in ("set_start_method", "get_all_start_methods"), name


def test_module_has_all_that_multiprocessing_has():
    assert set(multiprocessing.__all__) <= set(fastshm.__all__)
    for name in (*multiprocessing.__all__, "SUBDEBUG", "SUBWARNING", "context", "process", "reduction"):
        original, ours = getattr(multiprocessing, name), getattr(fastshm, name)
        if isinstance(original, (int, type)) or name in (
            "reducer",
            "process",
            "reduction",
            "current_process",
            "active_children",
        ):
            assert ours is original or ours == original, name
        assert callable(ours) == callable(original), name


def test_module_hands_on_the_modules_that_it_adds_nothing_to():
    from multiprocessing import connection, pool, shared_memory

    assert (fastshm.connection, fastshm.pool, fastshm.shared_memory) == (connection, pool, shared_memory)
    assert fastshm.queues.Empty is queue.Empty
    assert fastshm.context.TimeoutError is fastshm.TimeoutError is multiprocessing.TimeoutError
    with pytest.raises(AttributeError, match="module 'fastshm' has no attribute 'nothing'"):
        fastshm.nothing  # noqa: B018


def test_import_of_all_leaves_the_builtins():
    names: dict = {}
    exec("from fastshm import *", names)
    assert {"dict", "list"}.isdisjoint(names)
    assert set(multiprocessing.__all__) <= set(names)
    assert fastshm.dict(a=1).copy() == {"a": 1}


def test_unknown_method():
    for maker in (fastshm.get_context, fastshm.get_context("spawn").get_context):
        with pytest.raises(ValueError, match="cannot find context for 'thread'"):
            maker("thread")
    with pytest.raises(ValueError, match="cannot set start method of concrete context"):
        fastshm.get_context("fork").set_start_method("spawn")


class OtherContext(stdlib.SpawnContext):
    _name = "other"


def test_start_methods_of_others(monkeypatch):
    """joblib registers its own, and it is the default one in its workers."""
    monkeypatch.setitem(stdlib._concrete_contexts, "other", OtherContext())
    monkeypatch.setattr(stdlib._default_context, "_actual_context", stdlib._concrete_contexts["other"])
    context = fastshm.get_context("other")
    assert fastshm.get_context() is context
    assert isinstance(context, OtherContext)
    assert context.get_start_method() == "other"
    assert type(context.Lock()) is fastshm.synchronize.Lock
    with fastshm.Manager() as manager:
        assert manager.list([1])[:] == [1]


def test_one_start_method_for_both_modules():
    run_program(
        """
import multiprocessing, fastshm
assert fastshm.get_start_method(allow_none=True) is None
assert fastshm.get_all_start_methods() == multiprocessing.get_all_start_methods()
fastshm.set_start_method("spawn")
assert multiprocessing.get_start_method() == fastshm.get_start_method() == "spawn"
assert fastshm.get_context() is fastshm.get_context("spawn")
multiprocessing.set_start_method("forkserver", force=True)
assert fastshm.get_context() is fastshm.get_context("forkserver")
try:
    fastshm.set_start_method("fork")
except RuntimeError as error:
    assert str(error) == "context has already been set"
else:
    raise AssertionError("set twice")
"""
    )


# --- objects ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_objects_are_ours(method):
    context = fastshm.get_context(method)
    for name, arguments in CALLS.items():
        made = getattr(context, name)(*arguments)
        assert type(made).__module__.startswith("fastshm."), name
        if hasattr(made, "close"):
            assert isinstance(made, getattr(queues, name))
            for end in (made._reader, made._writer):
                end.close()
    assert context.RawValue("i", 3).value == 3
    assert context.RawArray("i", [1, 2])[:] == [1, 2]
    with context.Manager() as manager:
        assert isinstance(manager.dict(), fastshm.managers.DictProxy)


def work(objects, pipe):
    value, lock, done, tasks, results = objects
    with lock:
        value.value += 1
    results.put([tasks.get() for _ in range(3)])
    pipe.send((fastshm.current_process().name, fastshm.parent_process().pid))
    done.wait()


def test_processes_of_a_context(context):
    value, lock, done = context.Value("i"), context.Lock(), context.Event()
    tasks, results = context.SimpleQueue(), context.SimpleQueue()
    here, there = context.Pipe()
    worker = context.Process(target=work, args=((value, lock, done, tasks, results), there), name="worker")
    assert isinstance(worker, multiprocessing.process.BaseProcess)
    worker.start()
    assert worker in context.active_children()
    for n in range(3):
        tasks.put(n)
    assert results.get() == [0, 1, 2]
    assert here.recv() == ("worker", os.getpid())
    done.set()
    worker.join()
    assert (worker.exitcode, value.value) == (0, 1)
    worker.close()
    for end in (here, there, tasks, results):
        end.close()


def double(n):
    return 2 * n


def test_pool_of_a_context(context):
    with context.Pool(2) as pool:
        assert pool.map(double, range(10)) == [2 * n for n in range(10)]
    pool.join()


def test_executor_of_a_context(context):
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(double, range(10))) == [2 * n for n in range(10)]


def method_of_default():
    return fastshm.get_context().get_start_method()


def test_workers_go_on_with_their_own_method(context):
    with context.Pool(1) as pool:
        assert pool.apply(method_of_default) == context.get_start_method()
    pool.join()


def test_server_of_a_manager_is_started_by_the_same_method(context):
    with context.Manager() as manager:
        tasks = manager.Queue(maxsize=2)
        assert isinstance(manager._process, context.Process)
        tasks.put(1)
        assert tasks.get() == 1
        del tasks


# --- queues -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["Queue", "JoinableQueue", "SimpleQueue"])
def kind(request):
    return request.param


def close(q):
    q.close()
    if hasattr(q, "join_thread"):
        q.join_thread()
        for end in (q._reader, q._writer):
            if not end.closed:
                end.close()


def echo(tasks, results):
    for item in iter(tasks.get, None):
        results.put(item)
        if hasattr(tasks, "task_done"):
            tasks.task_done()


def test_queues_pass_objects_of_all_sizes(context, kind):
    tasks, results = getattr(context, kind)(), getattr(context, kind)()
    worker = context.Process(target=echo, args=(tasks, results))
    worker.start()
    for item in (1, "a", b"x" * 5_000, b"y" * 300_000, fastshm.Value("i", 7)):
        tasks.put(item)
        got = results.get()
        assert got.value == 7 if hasattr(item, "value") else got == item
    if kind == "JoinableQueue":
        tasks.join()
    tasks.put(None)
    worker.join()
    worker.close()
    close(tasks)
    close(results)


def test_queue_keeps_the_interface_of_the_stdlib():
    q = fastshm.Queue(2)
    q.put(1)
    q.put(2)
    assert q.qsize() == 2
    assert q.full()
    with pytest.raises(queue.Full):
        q.put(3, timeout=0.01)
    with pytest.raises(RuntimeError, match="should only be shared between processes through inheritance"):
        multiprocessing.reduction.ForkingPickler.dumps(q)
    assert [q.get(timeout=60), q.get(timeout=60)] == [1, 2]
    with pytest.raises(queue.Empty):
        q.get_nowait()
    with pytest.raises(queue.Empty):
        q.get(timeout=0.01)
    q.close()
    with pytest.raises(ValueError, match="is closed"):
        q.put(1)
    close(q)
    simple = fastshm.SimpleQueue()
    assert simple.empty()
    simple.close()
    with pytest.raises(OSError, match="is closed"):
        simple.get()
    counted = fastshm.JoinableQueue()
    with pytest.raises(ValueError, match="called too many times"):
        counted.task_done()
    close(counted)


def get_for_ever(q, ready):
    ready.set()
    q.get()


def get_one(q):
    return q.get()


def until_its_lock_is_taken(q):
    while q._rlock.acquire(False):
        q._rlock.release()


def test_killed_reader_holds_nobody_up(method, context, kind):
    """The stdlib's queues wait for it for ever, for it holds the lock at the end of the pipe."""
    q, ready = getattr(context, kind)(), context.Event()
    reader = context.Process(target=get_for_ever, args=(q, ready))
    reader.start()
    ready.wait()
    until_its_lock_is_taken(q)
    reader.kill()
    reader.join()
    reader.close()
    q.put("message")
    with Crew(method) as crew:
        crew.run(get_one, q)
        assert crew.results() == ["message"]
    close(q)


def put_three_and_end(q):
    for n in range(3):
        q.put(n)


def test_items_outlive_their_producer(context, kind):
    """Its places in the queue do not come back before the items are taken."""
    q = fastshm.SimpleQueue() if kind == "SimpleQueue" else getattr(context, kind)(3)
    worker = context.Process(target=put_three_and_end, args=(q,))
    worker.start()
    worker.join()
    worker.close()
    if kind != "SimpleQueue":
        assert q.full()
        with pytest.raises(queue.Full):
            q.put(3, timeout=0.01)
    assert [q.get() for _ in range(3)] == [0, 1, 2]
    close(q)


class DeadlyMark:
    """Kills whoever has set it."""

    def __init__(self, mark):
        object.__setattr__(self, "mark", mark)

    def __getattr__(self, name):
        return getattr(self.mark, name)

    def __setattr__(self, name, value):
        setattr(self.mark, name, value)
        os.kill(os.getpid(), signal.SIGKILL)


def die_in_the_middle_of_receiving(q):
    q._pipe.receiving = DeadlyMark(q._pipe.receiving)
    q.get()


def die_in_the_middle_of_sending(q):
    q._pipe.sending = DeadlyMark(q._pipe.sending)
    q.put(b"x" * 5_000)


def test_torn_queue_is_an_error(context):
    """What a reader that was killed in the middle of a message left would be taken for messages."""
    q = context.SimpleQueue()
    q.put(b"x" * 5_000)
    ends = ((die_in_the_middle_of_receiving, q.get), (die_in_the_middle_of_sending, lambda: q.put(1)))
    for die, use in ends:
        worker = context.Process(target=die, args=(q,))
        worker.start()
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        worker.close()
        for _ in range(2):
            with pytest.raises(OSError, match="in the middle of a message"):
                use()
    close(q)


def test_pool_outlives_killed_workers(context):
    """One of the idle workers holds the lock of the tasks' queue; it is among those that are killed."""
    with context.Pool(2) as pool:
        assert pool.map(double, range(4)) == [0, 2, 4, 6]
        for worker in list(pool._pool):
            until_its_lock_is_taken(pool._inqueue)
            os.kill(worker.pid, signal.SIGKILL)
            assert pool.map_async(double, range(4), 1).get(60) == [0, 2, 4, 6]
    pool.join()


def test_queue_with_threads():
    q, results = fastshm.Queue(), []
    threads = [threading.Thread(target=lambda: results.append(q.get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(4):
        q.put(n)
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3]
    close(q)


def test_default_process_is_the_stdlibs():
    assert fastshm.Process is multiprocessing.Process is stdlib.Process
    with fastshm.Pool(1) as pool:
        assert pool.apply(double, (4,)) == 8
    pool.join()


@pytest.mark.parametrize("name", sorted(modules.NAMES))
def test_modules_of_the_stdlib_by_our_name(name):
    ours = importlib.import_module(f"fastshm.{name}")
    theirs = importlib.import_module(f"multiprocessing.{name}")
    assert ours is theirs is getattr(fastshm, name)
    assert theirs.__spec__.name == theirs.__name__ == f"multiprocessing.{name}"


def test_no_other_modules():
    with pytest.raises(ModuleNotFoundError, match=r"fastshm\.nothing"):
        importlib.import_module("fastshm.nothing")
