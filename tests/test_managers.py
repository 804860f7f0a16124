"""Managers as servers: registered types, addresses, clients that connect, and the server that is started when it is needed."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import managers as stdlib
from multiprocessing import process

import leftovers
import pytest
from crew import SECONDS, Crew, child_of, run_program

import fastshm
from fastshm import managers

PLACES = [stdlib, managers]
KEY = b"of the tests"
_tasks = queue.Queue()


def get_tasks():
    return _tasks


class Maths:
    def __init__(self, unit=0):
        self.unit = unit

    def add(self, x, y):
        return x + y + self.unit

    def factors(self, n):
        return [m for m in range(2, n + 1) if n % m == 0]

    def into(self, d):
        d["pid"] = os.getpid()

    def fail(self):
        raise LookupError("mine")

    def _secret(self):
        return "told"


class Theirs(stdlib.SyncManager):
    pass


class Ours(managers.SyncManager):
    pass


class TheirService(stdlib.BaseManager):
    pass


class OurService(managers.BaseManager):
    pass


for _kind in (Theirs, Ours, TheirService, OurService):
    _kind.register("Maths", Maths)
    _kind.register("Typed", Maths, exposed=("factors", "_secret"), method_to_typeid={"factors": "list"})
    _kind.register("get_tasks", get_tasks)
    _kind.register("hidden", Maths, create_method=False)


@pytest.fixture(params=[Theirs, Ours])
def kind(request):
    return request.param


def children():
    return [child for child in multiprocessing.active_children() if child.name.rpartition("-")[0] in ("Theirs", "Ours")]


# --- types of programs --------------------------------------------------------------------------------------------------------


def test_registered_types(kind, method):
    with kind(ctx=multiprocessing.get_context(method)) as manager:
        maths = manager.Maths(unit=1)
        assert type(maths).__name__ == "AutoProxy[Maths]"
        assert maths.add(2, 3) == 6
        assert not hasattr(maths, "_secret")
        with pytest.raises(LookupError, match="mine"):
            maths.fail()
        typed = manager.Typed()
        factors = typed.factors(12)
        assert (factors[:], typed._secret()) == ([2, 3, 4, 6, 12], "told")
        assert type(factors) is stdlib.ListProxy
        assert not hasattr(manager, "hidden")
        d = manager.dict()
        maths.into(d)
        assert d["pid"] == children()[0].pid
        assert manager._number_of_objects() == (3 if kind is Ours else 4)
        assert "Maths" in manager._debug_info()
        del maths, typed, factors, d


def test_registered_in_a_class_is_unknown_above_it(kind):
    assert not hasattr(kind.__bases__[0], "Maths")
    assert "Maths" not in kind.__bases__[0]._registry


def test_a_program_may_replace_what_a_manager_makes():
    class Own(managers.SyncManager):
        pass

    Own.register("dict", dict, managers.DictProxy)
    with Own(ctx=multiprocessing.get_context("fork")) as manager:
        d = manager.dict(a=1)
        assert type(d) is stdlib.DictProxy
        assert type(manager.list()) is managers.ListProxy
        del d


# --- clients ------------------------------------------------------------------------------------------------------------------


def be_client(kind, address):
    multiprocessing.current_process().authkey = KEY  # for proxies that come out of others
    manager = kind(address=address, authkey=KEY)
    manager.connect()
    with pytest.raises(AttributeError):
        manager.shutdown()
    d, items = manager.dict(a=1), manager.list()
    items.append(d)
    assert type(d) is stdlib.DictProxy
    assert type(items) is stdlib.ListProxy
    assert items[0].copy() == {"a": 1}
    assert type(manager.Lock()).__module__ == "multiprocessing.managers"
    tasks = manager.get_tasks()
    tasks.put(("from a client", manager.Maths().add(1, 2)))
    return manager.address


@pytest.mark.parametrize("address", [("127.0.0.1", 0), None], ids=["internet", "unix"])
def test_connect(kind, crew, tmp_path, address):
    """Whoever connects finds what is in the server, and makes its objects there."""
    address = address or str(tmp_path / "socket")
    with kind(address=address, authkey=KEY, ctx=crew.context) as manager:
        assert len(children()) == 1
        tasks = manager.get_tasks()
        assert crew.result(crew.run(be_client, kind, manager.address)) == manager.address
        assert tasks.get(timeout=30) == ("from a client", 3)
        d = manager.dict(a=1)
        assert type(d) is stdlib.DictProxy
        del tasks, d


def test_connect_to_a_manager_without_an_address(kind, crew):
    """Asked for its address, it has one."""
    with kind(authkey=KEY, ctx=crew.context) as manager:
        assert crew.result(crew.run(be_client, kind, manager.address)) == manager.address
        tasks = manager.get_tasks()
        assert tasks.get(timeout=30) == ("from a client", 3)
        del tasks


@pytest.mark.parametrize("place", PLACES)
def test_wrong_key_and_nobody_there(place, tmp_path):
    context = multiprocessing.get_context("fork")
    with Theirs(authkey=KEY, ctx=context) as manager, pytest.raises(multiprocessing.AuthenticationError):
        place.SyncManager(address=manager.address, authkey=b"another").connect()
    with pytest.raises(FileNotFoundError):
        place.SyncManager(address=str(tmp_path / "nobody"), authkey=KEY).connect()


SERVER = """
import sys, queue
from {module} import {kind}
q = queue.Queue()
class QueueManager({kind}): pass
QueueManager.register("get_queue", callable=lambda: q)
m = QueueManager(address=("127.0.0.1", 0), authkey=b"abracadabra")
s = m.get_server()
print(s.address[1], flush=True)
s.serve_forever()
"""
CLIENT = """
import sys
from {module} import {kind}
class QueueManager({kind}): pass
QueueManager.register("get_queue")
m = QueueManager(address=("127.0.0.1", int(sys.argv[1])), authkey=b"abracadabra")
m.connect()
q = m.get_queue()
q.put("hello")
print(q.get())
"""


@pytest.mark.parametrize("name", ["BaseManager", "SyncManager"])
@pytest.mark.parametrize("places", [("fastshm.managers",) * 2, ("fastshm.managers", "multiprocessing.managers")])
def test_server_and_client_of_the_documentation(name, places):
    """Either of them may be the stdlib's."""
    for server_place, client_place in (places, places[::-1]):
        text = SERVER.format(module=server_place, kind=name)
        with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as server:
            try:
                port = server.stdout.readline().strip()
                done = run_program(CLIENT.format(module=client_place, kind=name), port)
                assert done.stdout == "hello\n"
            finally:
                server.kill()


def test_states(kind):
    manager = kind(address=None, ctx=multiprocessing.get_context("fork"))
    assert manager.address is None
    assert not hasattr(manager, "shutdown")
    with pytest.raises(AssertionError, match="server not yet started"):
        manager.Maths()
    with pytest.raises(TypeError, match="initializer must be a callable"):
        manager.start(1)
    with manager as same:
        assert same is manager
        with pytest.raises(multiprocessing.ProcessError, match="Already started server"):
            manager.get_server()
        with pytest.raises(multiprocessing.ProcessError, match="Already started server"):
            manager.start()
    with pytest.raises(multiprocessing.ProcessError, match="Manager has shut down"):
        manager.get_server()
    with pytest.raises(multiprocessing.ProcessError, match="Manager has shut down"), manager:
        pass
    with pytest.raises(AssertionError, match="server not yet started"):
        manager.Maths()
    manager.shutdown()
    manager.join()


def test_wrong_serializer(kind):
    with pytest.raises(KeyError):
        kind(serializer="none")


# --- the server that nobody sees ----------------------------------------------------------------------------------------------


def test_no_server_unless_it_is_needed():
    with Ours(ctx=multiprocessing.get_context("fork")) as manager:
        for make in (
            manager.dict,
            manager.list,
            manager.set,
            manager.Namespace,
            manager.Lock,
            manager.Event,
            manager.Condition,
        ):
            make()
        assert manager._number_of_objects() == 0
        assert manager._debug_info() == ""
        assert not children()
        tasks = manager.Queue()
        manager.JoinableQueue()
        assert len(children()) == 1
        del tasks
    manager.join()
    assert not children()


def test_one_server_whoever_is_first():
    with Ours(ctx=multiprocessing.get_context("fork")) as manager:
        made, start = [], threading.Barrier(4)

        def make():
            start.wait()
            made.append(manager.Queue())

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 4
        assert len(children()) == 1
        made.clear()


def note(d, pid):
    d["initialized by"] = pid
    d["in"] = os.getpid()


def test_initializer_has_run_when_start_returns(kind, method):
    shared = fastshm.dict()
    manager = kind(ctx=multiprocessing.get_context(method))
    manager.start(note, (shared, os.getpid()))
    try:
        assert shared["initialized by"] == os.getpid()
        assert shared["in"] == children()[0].pid
    finally:
        manager.shutdown()


class Broken(Exception):
    pass


def test_server_that_does_not_start(monkeypatch):
    """Everything else goes on, and the next one may start."""
    with Ours(ctx=multiprocessing.get_context("fork")) as manager:
        d = manager.dict(a=1)
        with monkeypatch.context() as patched:
            patched.setattr(stdlib.BaseManager, "start", lambda *_: (_ for _ in ()).throw(Broken))
            with pytest.raises(Broken):
                manager.Queue()
        assert d["a"] == 1
        assert manager.dict(b=2)["b"] == 2
        tasks = manager.Queue()
        tasks.put(1)
        assert tasks.get() == 1
        del tasks


def leave(manager, how):
    if how == "shutdown":
        manager.shutdown()
    else:
        with manager:
            pass


@pytest.mark.parametrize("how", ["shutdown", "with"])
def test_a_forked_process_shuts_nothing_down(kind, how):
    with kind(ctx=multiprocessing.get_context("fork")) as manager:
        d = manager.dict(a=1)
        assert os.waitpid(child_of(leave, manager, how), 0)[1] == 0
        assert d["a"] == 1
        del d


def make_queue(manager, pipe):
    tasks = manager.Queue()
    tasks.put("from the worker")
    pipe.send((tasks.get(), process.current_process().daemon))
    pipe.recv()


@pytest.mark.parametrize("end", ["returns", signal.SIGTERM, signal.SIGKILL])
def test_a_server_started_by_a_daemonic_worker_ends_with_it(end):
    """As those of a pool are, which are ended by signals."""
    context = multiprocessing.get_context("fork")
    with Ours(ctx=context) as manager:
        ours, theirs = context.Pipe()
        worker = context.Process(target=make_queue, args=(manager, theirs), daemon=True)
        worker.start()
        theirs.close()
        assert ours.recv() == ("from the worker", True)
        (server,) = children_of(worker.pid)
        if end == "returns":
            ours.send("go")
        else:
            os.kill(worker.pid, end)
        worker.join()
        worker.close()
        ours.close()
        until = time.monotonic() + SECONDS
        while os.path.exists(f"/proc/{server}") and time.monotonic() < until:
            time.sleep(0.01)
        assert not os.path.exists(f"/proc/{server}")


def gone(pid, seconds=SECONDS):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


MAKER = """
import os, sys, time
import fastshm

def use(tasks, pipe, how):
    fastshm.Value("q").add(1)
    tasks.put("there")
    tasks.get()
    pipe.send(os.getpid())
    if how == "waits":
        tasks.get()
    fastshm.parent_process().join()
    time.sleep(3)  # as long as it has the connection, the server goes on
    for n in range(5):
        tasks.put(n)
        assert tasks.get() == n
    print("used", flush=True)

if __name__ == "__main__":
    method, how, address = sys.argv[1:]
    fastshm.set_start_method(method)
    m = fastshm.Manager(*([address] if address else []))
    tasks = m.Queue()
    tasks.put(1)
    tasks.get()
    told = [m._process.pid]
    if how != "alone":
        ours, theirs = fastshm.Pipe()
        fastshm.Process(target=use, args=(tasks, theirs, how)).start()
        told.append(ours.recv())
    print(*told, flush=True)
    time.sleep(60)
"""


def orphaned(method, how, address, tmp_path):
    """The pids of the server and the child of a maker that was killed; where the child prints."""
    path = tmp_path / "maker.py"
    path.write_text(MAKER)
    maker = subprocess.Popen([sys.executable, str(path), method, how, address], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in maker.stdout.readline().split()]
    maker.kill()
    maker.wait()
    return pids, maker.stdout


@pytest.mark.parametrize("address", ["", "shm://of-test-managers"])
def test_a_server_whose_starter_was_killed_ends(method, address, tmp_path):
    before = leftovers.segments()
    (server,), output = orphaned(method, "alone", address, tmp_path)
    output.close()
    assert gone(server, 20)
    fastshm.heap.sweep()
    assert not leftovers.left(before)


def test_an_orphaned_server_goes_on_while_it_has_clients(method, tmp_path):
    before = leftovers.segments()
    (server, child), output = orphaned(method, "uses", "", tmp_path)
    with output:
        assert output.readline() == "used\n", "the child went on"
    assert gone(child)
    assert gone(server, 20)
    fastshm.heap.sweep()
    assert not leftovers.left(before)


def test_an_orphaned_server_does_not_wait_for_the_dead(method, tmp_path):
    """Its thread waits in a queue, for a client that was killed there."""
    (server, child), output = orphaned(method, "waits", "", tmp_path)
    output.close()
    assert not gone(server, 3), "somebody waits there"
    os.kill(child, signal.SIGKILL)
    assert gone(server, 20)


def test_a_server_that_a_child_runs_itself_outlives_its_parent(tmp_path):
    """What programs serve is theirs to end."""
    program = """
import multiprocessing, os, sys, fastshm.managers
if os.fork():
    os._exit(0)
def serve():
    server = fastshm.managers.SyncManager(address=sys.argv[1], authkey=b"key").get_server()
    print(os.getpid(), flush=True)
    server.serve_forever()
multiprocessing.get_context("fork").Process(target=serve).start()
os._exit(0)
"""
    address = str(tmp_path / "socket")
    output = subprocess.Popen([sys.executable, "-c", program, address], stdout=subprocess.PIPE, text=True)
    server = int(output.stdout.readline())
    output.wait()
    output.stdout.close()
    try:
        assert not gone(server, 3)
        client = Ours(address=address, authkey=b"key")
        client.connect()
        assert client.list([1])[:] == [1]
    finally:
        os.kill(server, signal.SIGKILL)
        assert gone(server)


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def use_queue(manager):
    tasks = manager.Queue()
    tasks.put(1)
    return tasks.get()


def test_server_of_the_parent_serves_forked_children():
    with Ours(ctx=multiprocessing.get_context("fork")) as manager, Crew("fork") as crew:
        anchor = manager.Queue()
        assert crew.result(crew.run(use_queue, manager)) == 1
        assert len(children()) == 1
        del anchor


def test_pickling_of_managers(kind):
    with kind(ctx=multiprocessing.get_context("fork")) as manager, pytest.raises(TypeError):
        multiprocessing.reduction.ForkingPickler.dumps(manager)


def use_client(client):
    tasks = client.get_tasks()
    tasks.put(client.Maths().add(1, 2))
    client.dict()


def test_a_client_is_handed_to_a_process(kind, crew, tmp_path):
    address = str(tmp_path / "socket")
    with kind(address=address, authkey=KEY, ctx=crew.context):
        client = kind(address=address, authkey=KEY, ctx=crew.context)
        client.connect()
        tasks = client.get_tasks()
        child = crew.context.Process(target=use_client, args=(client,))
        child.start()
        assert tasks.get(timeout=SECONDS) == 3
        child.join()
        child.close()
        del tasks


def test_a_store_has_no_server_to_connect_to():
    with fastshm.Manager("shm://of-test-managers") as store:
        assert store.address == "shm://of-test-managers"
        for refused in (store.connect, store.get_server):
            with pytest.raises(multiprocessing.ProcessError, match="opens it"):
                refused()
        tasks = store.Queue()
        tasks.put(store.dict(a=1))
        assert tasks.get()["a"] == 1
        own = fastshm.dict()
        own["tasks"] = tasks
        del tasks
        own["tasks"].put(1)
        assert own["tasks"].get() == 1
        own.clear()
        assert store._number_of_objects() == 0
        assert store.address == "shm://of-test-managers"


def test_what_is_in_a_server_is_refused_by_stores():
    """Other programs could find it there, but not use it."""
    with fastshm.Manager("shm://of-test-managers") as store, Ours() as manager:
        store.root["jobs"] = [1]
        for made in (store.Queue(), store.JoinableQueue(), store.Pool(1), manager.Queue(), manager.Maths(1)):
            for keep in (store.root.update, store.root["jobs"].append, store.dict):
                for value in ({"x": made}, {"x": [{"in": (made,)}]}):
                    with pytest.raises(ValueError, match=r"lives in a server of the program that made it.*m\.list"):
                        keep(value)
        assert store.root.to_dict() == {"jobs": [1]}
        store.root._heap.check()


# --- what is in a server, in containers that are not --------------------------------------------------------------------------


def put_into(d, items):
    tasks = d["tasks"]
    tasks.put("from the child")
    items.append([{"also": tasks}])


@pytest.mark.parametrize("place", ["a manager's", "on their own"])
def test_containers_keep_what_is_in_a_server(crew, place):
    """As the stdlib's do: a queue lives as long as it can be found."""
    tickets = fastshm.heap.check()["tickets"]
    with Ours(ctx=crew.context) as manager:
        d, items = (manager.dict(), manager.list()) if place == "a manager's" else (fastshm.dict(), fastshm.list())
        d["tasks"] = manager.Queue()
        d["maths"] = {"in a plain dict": manager.Maths(1)}
        d["tasks"].put("first")
        assert d["tasks"].get() == "first"
        assert d["maths"]["in a plain dict"].add(1, 2) == 4
        assert manager._number_of_objects() == 2
        crew.result(crew.run(put_into, d, items))
        del d["maths"]
        del d["tasks"]
        assert items[0][0]["also"].get() == "from the child"
        assert manager._number_of_objects() == 1
        items.clear()
        assert manager._number_of_objects() == 0
        assert fastshm.heap.check()["tickets"] == tickets


def test_a_copy_keeps_it_too():
    with Ours(ctx=multiprocessing.get_context("fork")) as manager:
        first, second = manager.dict(), fastshm.dict()
        first["tasks"] = manager.Queue()
        second.update(first)
        first.clear()
        second["tasks"].put(1)
        second["again"] = second["tasks"]
        del second["tasks"]
        assert second["again"].get() == 1
        second.clear()
        assert manager._number_of_objects() == 0


def fill_and_die(manager, d):
    for n in range(20):
        d[n] = manager.Queue()
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_the_dead_stored_is_kept_and_what_they_held_is_not():
    with Ours(ctx=multiprocessing.get_context("fork")) as manager:
        d, anchor = fastshm.dict(), manager.Queue()
        child = multiprocessing.get_context("fork").Process(target=fill_and_die, args=(manager, d))
        child.start()
        child.join()
        child.close()
        for n in range(20):
            d[n].put(n)
            assert d[n].get() == n
        d.clear()
        fastshm.heap.check()
        del anchor
        assert manager._number_of_objects() <= 20  # references of the killed process itself are the stdlib's matter


def test_a_dead_servers_proxies_can_be_stored():
    d = fastshm.dict()
    with Ours(ctx=multiprocessing.get_context("fork")) as manager:
        tasks = manager.Queue()
    d["tasks"] = tasks
    with pytest.raises((OSError, EOFError, stdlib.RemoteError)):
        d["tasks"].put(1)
    del tasks


def test_the_stdlibs_servers_do_not_know_how(tmp_path):
    """A client of ours at a server of the stdlib's: what it stores elsewhere is not kept, and nothing fails."""
    address = str(tmp_path / "socket")
    with Theirs(address=address, authkey=KEY, ctx=multiprocessing.get_context("fork")):
        client = Ours(address=address, authkey=KEY)
        client.connect()
        multiprocessing.current_process().authkey, before = KEY, multiprocessing.current_process().authkey
        try:
            d, tasks = fastshm.dict(), client.Queue()
            d["tasks"] = tasks
            d["tasks"].put(1)
            assert tasks.get() == 1
            d.clear()
            del tasks
        finally:
            multiprocessing.current_process().authkey = before


IN_HANDLERS = """
import contextlib, fastshm, os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")  # Python 3.12 advises against a fork among threads

shut_down_meanwhile = contextlib.suppress(AssertionError, OSError, EOFError, fastshm.managers.RemoteError)

def meanwhile(use, do):
    def handler(*_):
        with shut_down_meanwhile:  # what it raised would cut the start of a server short, which then complains
            use()
    signal.signal(signal.SIGALRM, handler)
    for delay in (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05):
        m = fastshm.Manager()
        globals()["m"] = m
        signal.setitimer(signal.ITIMER_REAL, delay)
        with shut_down_meanwhile:
            do(m)
        time.sleep(0.06)
        m.shutdown()

signal.alarm(100)
queue = lambda: m.Queue().put(1)
meanwhile(lambda: m.shutdown(), lambda m: (m.Queue(), m.shutdown()))
meanwhile(lambda: m.shutdown(), lambda m: m.Queue().put(1))
meanwhile(queue, lambda m: m.Queue().put(1))
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.alarm(60)
assert fastshm.Manager().Queue().empty()
m = fastshm.Manager()
threads = [threading.Thread(target=m.Queue) for _ in range(3)]
for thread in threads:
    thread.start()
if not os.fork():
    m.Queue().put(1)
    os._exit(0)
assert m.address is not None
try:
    m.start()
except fastshm.ProcessError as error:
    assert "Already started" in str(error)
else:
    raise AssertionError("started twice")
assert os.wait()[1] == 0
for thread in threads:
    thread.join()
m.shutdown()
print("done")
"""


def test_signals_threads_and_forks_while_a_server_is_started_and_stopped():
    assert run_program(IN_HANDLERS, seconds=200).stdout == "done\n"
