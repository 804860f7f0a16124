"""What a container cannot keep is refused when it is stored, so that nothing that was stored is lost."""

from __future__ import annotations

import subprocess
import sys
import uuid

import numpy
import pytest
from crew import run_program

import fastshm
from fastshm import heap

STRANGERS = {
    "list": lambda: fastshm.list([1]),
    "dict": lambda: fastshm.dict(a=1),
    "set": lambda: fastshm.set([1]),
    "Counter": lambda: fastshm.Counter("a"),
    "frozen": lambda: fastshm.frozen([1, 2]),
    "Value": lambda: fastshm.Value("q", 5),
    "Array": lambda: fastshm.Array("q", 3),
    "ndarray": lambda: fastshm.Array(numpy.int8, 3),
    "Lock": fastshm.Lock,
    "Condition": fastshm.Condition,
    "ShardedCounter": fastshm.ShardedCounter,
    "in a plain dict": lambda: {"a": [fastshm.list([7])]},
    "in a tuple": lambda: (1, fastshm.Lock()),
}


@pytest.fixture(params=[False, True], ids=["plain", "live"])
def store(request):
    with fastshm.Manager(f"shm://strangers-{uuid.uuid4().hex}", live=request.param) as manager:
        yield manager


@pytest.mark.parametrize("name", STRANGERS)
def test_a_store_keeps_what_it_made_alone(store, name):
    root = store.root
    root["mine"] = kept = store.list([1])
    stranger = STRANGERS[name]()
    for write in (
        lambda: root.__setitem__("x", stranger),
        lambda: root.update(x=stranger),
        lambda: root.setdefault("x", stranger),
        lambda: kept.append(stranger),
        lambda: kept.extend([stranger]),
        lambda: kept.__setitem__(slice(0, 0), [stranger]),
        lambda: store.list([stranger]),
        lambda: setattr(store.Namespace(), "x", stranger),
    ):
        with pytest.raises(ValueError, match="make it where the container is"):
            write()
    assert [*root] == ["mine"]
    assert kept[:] == [1]
    root["x"] = store.Value("i", 3)
    assert root["x"].value == 3


def test_nor_does_a_container_keep_what_a_store_made(store):
    for container, write in ((fastshm.dict(), "update"), (fastshm.list(), "extend")):
        with pytest.raises(ValueError, match="make it where the container is"):
            getattr(container, write)({"x": store.root} if write == "update" else [store.root])
        assert len(container) == 0


def test_what_others_have_stored_is_there_when_they_have_ended():
    address = f"shm://strangers-{uuid.uuid4().hex}"
    writer = f"""
import fastshm
manager = fastshm.Manager({address!r})
manager.root["kept"] = manager.list([1])
try:
    manager.root["lost"] = fastshm.list([1])
except ValueError:
    print("refused")
"""
    with fastshm.Manager(address) as manager:
        assert run_program(writer).stdout == "refused\n"
        assert manager.root.to_dict() == {"kept": [1]}
        assert [key for key, _ in manager.root.items()] == ["kept"]


@pytest.mark.parametrize("key", [lambda: fastshm.Lock(), lambda: (1, fastshm.list())], ids=["alone", "in a tuple"])
def test_no_shared_object_in_a_key(key):
    d, s = fastshm.dict(a=1), fastshm.set()
    for write in (lambda: d.__setitem__(key(), 1), lambda: d.update({key(): 1}), lambda: s.add(key()), lambda: d.get(key())):
        with pytest.raises(TypeError, match="cannot be a key"):
            write()
    assert d.copy() == {"a": 1}
    assert len(s) == 0


def test_a_queue_of_a_manager_is_refused_by_containers_of_a_store(store):
    """It is in a server of this program, which others cannot reach; in a container of this program's it is kept."""
    with fastshm.Manager() as manager:
        with pytest.raises(ValueError, match="lives in a server of the program"):
            store.root["queue"] = manager.Queue()
        own = fastshm.dict(queue=manager.Queue())
        own["queue"].put(5)
        assert own["queue"].get() == 5


def test_containers_of_one_family_keep_each_others(crew):
    shared = fastshm.list()
    crew.result(crew.run(append_own, shared))
    assert shared[0][:] == [1]
    assert shared[0]._address[0] == heap.default().name


def append_own(shared):
    shared.append(fastshm.list([1]))


def test_made_before_the_family_was_known(tmp_path):
    """A spawned child's main module makes something before the child knows of its family; what it makes then is kept."""
    program = tmp_path / "program.py"
    program.write_text("""
import fastshm, multiprocessing
early = fastshm.Lock()

def store(shared):
    shared["x"] = fastshm.list([1])

if __name__ == "__main__":
    shared = fastshm.dict()
    child = multiprocessing.get_context("spawn").Process(target=store, args=(shared,))
    child.start()
    child.join()
    print(child.exitcode, shared.to_dict())
""")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0 {'x': [1]}\n"
