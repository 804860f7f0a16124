"""What else a manager makes, and its life: over the stdlib's and over ours."""

from __future__ import annotations

import array
import importlib
import multiprocessing
import pickle
import re

import pytest
from crew import Crew

import fastshm
from fastshm.managers import SyncManager

# Namespace


def test_namespace(manager):
    space = manager.Namespace(a=1)
    space.b = [2]
    assert (space.a, space.b) == (1, [2])
    space.a = "changed"
    del space.b
    assert (space.a, hasattr(space, "b")) == ("changed", False)
    with pytest.raises(AttributeError, match="'Namespace' object has no attribute 'zz'"):
        space.zz  # noqa: B018
    with pytest.raises(AttributeError):
        del space.zz


def test_namespace_text(manager):
    space = manager.Namespace(z=1)
    space.a = "x"
    space._hidden = 5
    assert str(space) == "Namespace(a='x', z=1)"
    assert re.fullmatch(r"<NamespaceProxy object, typeid 'Namespace' at 0x[0-9a-f]+>", repr(space))


def test_underscored_names_are_local(manager):
    space = manager.Namespace()
    space._mine = 5
    assert space._mine == 5
    assert not hasattr(pickle.loads(pickle.dumps(space)), "_mine")


def set_names(space, worker):
    for i in range(100):
        setattr(space, f"w{worker}", i)
    space.nested.append(worker)


def test_namespace_across_processes(manager, crew):
    space = manager.Namespace(nested=manager.list())
    for worker in range(3):
        crew.start(set_names, space, worker)
    crew.results()
    assert (space.w0, space.w1, space.w2, sorted(space.nested[:])) == (99, 99, 99, [0, 1, 2])


# Value and Array


def test_manager_value(manager):
    value = manager.Value("i", 1)
    assert (value.value, value.get()) == (1, 1)
    value.value = "any object"
    assert value.get() == "any object"
    value.set([1])
    value.value.append(2)
    assert value.value == [1]
    assert str(manager.Value("i", 1)) == "Value('i', 1)"
    assert re.fullmatch(r"<ValueProxy object, typeid 'Value' at 0x[0-9a-f]+>", repr(value))


def test_manager_array(manager):
    numbers = manager.Array("i", range(5))
    assert (len(numbers), numbers[1], numbers[-1]) == (5, 1, 4)
    numbers[1] = 7
    assert numbers[1:3] == array.array("i", [7, 2])
    assert type(numbers[:]) is array.array
    numbers[0:2] = array.array("i", [8, 9])
    assert list(numbers) == [8, 9, 2, 3, 4]
    with pytest.raises(TypeError):
        numbers[0] = "x"
    with pytest.raises(IndexError):
        numbers[5]
    with pytest.raises(IndexError):
        numbers[5] = 1
    assert str(manager.Array("d", [1.5])) == "array('d', [1.5])"


def work(value, numbers, lock, rlock):
    for _ in range(100):
        with lock:
            value.value += 1
        with rlock, rlock:
            numbers[0] += 1


def test_friends_across_processes(manager, crew):
    value, numbers = manager.Value("i", 0), manager.Array("i", [0])
    lock, rlock = manager.Lock(), manager.RLock()
    for _ in range(3):
        crew.start(work, value, numbers, lock, rlock)
    crew.results()
    assert (value.value, numbers[0]) == (300, 300)


# Locks


def test_manager_lock(manager):
    lock = manager.Lock()
    with lock:
        assert lock.acquire(False) is False
        assert lock.acquire(blocking=False) is False
        assert lock.acquire(timeout=0.01) is False
    assert lock.acquire() is True
    lock.release()
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.release()
    with pytest.raises(TypeError):
        lock.acquire(block=False)


def test_manager_rlock(manager):
    lock = manager.RLock()
    with lock, lock:
        assert lock.acquire() is True
        lock.release()
    with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
        lock.release()


# Life of a manager


@pytest.fixture(params=["multiprocessing.managers", "fastshm.managers"])
def managers(request):
    return importlib.import_module(request.param)


def test_started_by_hand(managers):
    manager = managers.SyncManager()
    with pytest.raises(AssertionError, match="server not yet started"):
        manager.dict()
    manager.start()
    assert manager.list([1])[:] == [1]
    with pytest.raises(multiprocessing.ProcessError, match="Already started server"):
        manager.start()
    manager.shutdown()
    manager.shutdown()
    manager.join()
    with pytest.raises(AssertionError, match="server not yet started"):
        manager.dict()
    with pytest.raises(multiprocessing.ProcessError, match="Manager has shut down"):
        manager.start()


def test_with_starts_and_shuts_down(managers):
    with managers.SyncManager() as manager:
        d = manager.dict(a=1)
        assert d["a"] == 1
    with pytest.raises((OSError, EOFError)):
        d["a"]


def test_use_after_shutdown(shared):
    manager = shared.Manager()
    proxies = [
        manager.dict(a=1),
        manager.list([1]),
        manager.Namespace(a=1),
        manager.Value("i", 1),
        manager.Array("i", [1]),
    ]
    proxies += [manager.Lock(), manager.RLock()]
    manager.shutdown()
    d, items, space, value, numbers, lock, rlock = proxies
    for operation in (
        *(lambda: d["a"], lambda: d.update(b=1), lambda: len(d), d.copy, lambda: items[0], lambda: items.append(1)),
        *(lambda: space.a, lambda: value.value, lambda: numbers[0], lock.acquire, rlock.acquire),
    ):
        with pytest.raises((OSError, EOFError)):
            operation()
    assert str(d).endswith("'__str__()' failed>")
    assert repr(d).startswith("<DictProxy object, typeid 'dict' at 0x")


def test_use_after_shutdown_is_refused():
    manager = fastshm.Manager()
    d = manager.dict(a=1)
    manager.shutdown()
    with pytest.raises(ConnectionRefusedError):
        d["a"]
    with pytest.raises(ConnectionRefusedError):
        d["a"] = 1


def read(d):
    try:
        return d["a"]
    except (OSError, EOFError):
        return "refused"


def test_shutdown_is_seen_by_other_processes():
    manager = fastshm.Manager()
    d = manager.dict(a=1)
    with Crew() as crew:
        reader = crew.start(read, d)
        manager.shutdown()
        crew.go()
        assert crew.result(reader) == "refused"


def test_managers_do_not_disturb_one_another():
    with fastshm.Manager() as first, fastshm.Manager() as second:
        a, b = first.dict(x=1), second.dict(x=2)
        first.shutdown()
        assert b["x"] == 2
        assert fastshm.dict(x=3)["x"] == 3
        with pytest.raises(ConnectionRefusedError):
            a["x"]


def test_manager_is_the_documented_class():
    with fastshm.Manager() as manager:
        assert type(manager) is SyncManager
        assert type(manager.dict()).__module__ == "fastshm.managers"


def test_entering_gives_the_manager_itself(shared):
    manager = shared.Manager()
    with manager as entered:
        assert entered is manager


def test_no_server_process():
    before = multiprocessing.active_children()
    with fastshm.Manager() as manager:
        manager.dict(a=1)
        assert multiprocessing.active_children() == before


def test_bad_arguments(manager):
    """The stdlib's server answers with its RemoteError; ours raises what the server raised."""
    wanted = multiprocessing.managers.RemoteError if "fastshm" not in type(manager).__module__ else (TypeError, ValueError)
    for wrong in (
        *(lambda: manager.dict(5), lambda: manager.list(5), lambda: manager.Array("i", ["x"])),
        *(lambda: manager.Value("i"), lambda: manager.Array("x", [1]), lambda: manager.Namespace(5)),
    ):
        with pytest.raises(wanted):
            wrong()
    assert manager.dict(a=1)["a"] == 1
