"""Patching, and running unmodified programs: multiprocessing's names make fastshm's objects in all of a program's processes."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Array, Queue, Value, managers, queues, sharedctypes, spawn, synchronize
from pathlib import Path

import pytest
from crew import SECONDS, run_command
from ways import CALLS

import fastshm
from fastshm import patching
from fastshm.__main__ import main


@pytest.fixture
def patched():
    with fastshm.patch():
        yield
    assert not patching.is_patched()


def is_ours(thing):
    return type(getattr(thing, "_rlock", thing)).__module__.startswith("fastshm.")


def close(thing):
    for end in ("_reader", "_writer"):
        if hasattr(thing, end):
            getattr(thing, end).close()


# --- in a process -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [None, "fork", "spawn", "forkserver"])
def test_contexts_make_our_objects(patched, method):
    for place in (multiprocessing, multiprocessing.get_context(method)):
        for name, arguments in CALLS.items():
            made = getattr(place, name)(*arguments)
            assert is_ours(made), name
            close(made)
        assert place.RawValue("i", 4).value == 4
        assert isinstance(place.RawValue("i")._wrapper, fastshm.sharedctypes._array.Items)
        assert isinstance(place.RawArray("i", 4)._wrapper, fastshm.sharedctypes._array.Items)
        with place.Manager() as manager:
            assert is_ours(manager.dict())
            assert is_ours(manager.list())


def test_functions_imported_before_make_our_objects(patched):
    assert is_ours(Value("i"))
    assert is_ours(Array("i", 3))
    q = Queue()
    assert is_ours(q)
    close(q)


def test_modules(patched):
    for name in ("Value", "Array", "RawValue", "RawArray", "copy", "synchronized", "SynchronizedArray"):
        assert getattr(sharedctypes, name) is getattr(fastshm.sharedctypes, name)
    assert isinstance(multiprocessing.Lock(), synchronize.Lock)
    assert isinstance(multiprocessing.Value("i"), sharedctypes.Synchronized)
    lock = synchronize.RLock(ctx=multiprocessing.get_context())
    assert sharedctypes.Value("i", 3, lock=lock, ctx=multiprocessing.get_context("spawn")).get_lock() is lock
    raw = sharedctypes.RawValue("i", 3)
    assert sharedctypes.synchronized(raw).get_obj() is raw


class Numbers(queues.Queue):
    """As programs derive their own, before anything is patched."""


class Tasks(queues.JoinableQueue):
    pass


def put(q, count):
    for n in range(count):
        q.put(n)


@pytest.mark.parametrize("kind", [Numbers, Tasks])
def test_queues_of_programs(patched, method, kind):
    """What a producer has put outlives it, also in a queue of a class that was derived before."""
    context = multiprocessing.get_context(method)
    q = kind(3, ctx=context)
    assert is_ours(q._rlock)
    producer = context.Process(target=put, args=(q, 3))
    producer.start()
    producer.join()
    producer.close()
    assert [q.get() for _ in range(3)] == [0, 1, 2]
    if kind is Tasks:
        for _ in range(3):
            q.task_done()
        q.join()
    q.close()
    q.join_thread()
    close(q)


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue"])
def test_queues_made_before_go_on(method, kind):
    """Those of an unpatched process work in a patched one, and the other way round."""
    context = multiprocessing.get_context(method)
    old = getattr(context, kind)()
    with fastshm.patch():
        new = getattr(context, kind)()
        use_both(context, old, new)
    use_both(context, old, new)
    for q in (old, new):
        q.close()
        if kind != "SimpleQueue":
            q.join_thread()


def use_stdlibs(value, numbers, raw, lock, rlock, semaphore, bounded, condition, event, barrier):
    with value.get_lock(), numbers.get_lock(), lock, rlock, semaphore, bounded, condition:
        value.value += 1
        numbers[0] += 1
        raw.value += 1
        condition.notify()
    event.set()
    barrier.wait()


@pytest.mark.parametrize("of_value", [None, "RLock"])
def test_objects_made_before_go_on(method, of_value):
    context = multiprocessing.get_context(method)
    lock = getattr(context, of_value)() if of_value else True
    raw, locks = context.RawValue("i", 1), [context.Lock(), context.RLock(), context.Semaphore(), context.BoundedSemaphore()]
    old = [context.Value("i", 1, lock=lock), context.Array("i", 1), raw, *locks]
    old += [context.Condition(), context.Event(), context.Barrier(2)]
    assert not any(map(is_ours, old))
    for count in range(1, 3):
        with fastshm.patch() if count == 1 else contextlib.nullcontext():
            user = context.Process(target=use_stdlibs, args=old)
            user.start()
            old[-1].wait(60)
            user.join()
            assert user.exitcode == 0
            user.close()
        assert (old[0].value, old[1][0], raw.value, old[-2].is_set()) == (1 + count, count, 1 + count, True)
        old[-2].clear()


class ManagerOfBefore(managers.SyncManager):
    """As programs derive their own, before anything is patched."""


StdlibManager = managers.SyncManager


@pytest.mark.parametrize("kind", [StdlibManager, ManagerOfBefore])
def test_managers_imported_before_go_on(patched, method, kind):
    with kind(ctx=multiprocessing.get_context(method)) as manager:
        d = manager.dict(a=1)
        assert not is_ours(d)
        assert d["a"] == 1
        del d


def use_both(context, *both):
    for q in both:
        producer = context.Process(target=put, args=(q, 3))
        producer.start()
        q.put(0)
        assert sorted(q.get() for _ in range(4)) == [0, 0, 1, 2]
        producer.join()
        assert producer.exitcode == 0
        producer.close()


def names_in_use():
    modules = (multiprocessing, managers, queues, sharedctypes, spawn, synchronize)
    places = (*modules, multiprocessing.context.BaseContext, queues.Queue, queues.SimpleQueue)
    return {(place, name): value for place in places for name, value in vars(place).items() if name != "__builtins__"}


def test_patch_is_taken_back():
    before = names_in_use()
    with fastshm.patch():
        inner = fastshm.patch()
        inner.undo()
        inner.undo()
        assert patching.is_patched()
        assert is_ours(multiprocessing.Lock())
        during = names_in_use()
    changed = {name for name, value in before.items() if during[name] is not value}
    assert {name for _, name in changed} >= {"Value", "RawArray", "Lock", "Barrier", "Manager", "get", "get_preparation_data"}
    assert not patching.is_patched()
    assert names_in_use() == before
    assert not is_ours(multiprocessing.Lock())


def test_unpatch_takes_all_back():
    before = names_in_use()
    for _ in range(3):
        fastshm.patch()
    fastshm.unpatch()
    assert names_in_use() == before
    fastshm.unpatch()


def test_patch_is_taken_back_after_an_exception():
    with pytest.raises(KeyError), fastshm.patch():
        raise KeyError("mine")
    assert not patching.is_patched()


# --- in its children ----------------------------------------------------------------------------------------------------------


def kinds(depth, method):
    """Of what this process makes, and of what its children make."""
    made = [type(make()).__module__ for make in (multiprocessing.Lock, lambda: multiprocessing.Value("i"))]
    if not depth:
        return [made]
    with multiprocessing.get_context(method).Pool(1) as pool:
        deeper = pool.apply(kinds, (depth - 1, method))
    pool.join()
    return [made, *deeper]


def test_pool_workers_are_patched(patched, method):
    assert kinds(1, method) == [["fastshm.synchronize", "fastshm._typed"]] * 2


def test_executor_workers_are_patched(patched, method):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as executor:
        assert executor.submit(kinds, 0, method).result() == [["fastshm.synchronize", "fastshm._typed"]]


def test_children_of_unpatched_processes_are_not_patched(method):
    with fastshm.patch():
        pass
    modules = {"multiprocessing.synchronize", "multiprocessing.sharedctypes"}
    assert [set(made) for made in kinds(1, method)] == [modules] * 2


# --- programs -----------------------------------------------------------------------------------------------------------------

PROGRAM = """
import multiprocessing
import sys
from multiprocessing import Array, Lock, Manager, Process, Value

at_import = Value("i", 5)
kind = type(at_import).__module__


class Task:
    "Found by children under the name of the main module."

    def __call__(self, counter, numbers, lock, seen, depth, kinds):
        kinds.append((kind, type(Lock()).__module__))
        with lock:
            numbers[depth] += 1
        with counter.get_lock():
            counter.value += 1
        seen[depth] = sys.argv[1:]
        if depth:
            child = Process(target=self, args=(counter, numbers, lock, seen, depth - 1, kinds))
            child.start()
            child.join()


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1], force=True)
    with Manager() as manager:
        counter, numbers, lock, seen, kinds = Value("i", 0), Array("i", 3), Lock(), manager.dict(), manager.list()
        first = Process(target=Task(), args=(counter, numbers, lock, seen, 2, kinds))
        first.start()
        first.join()
        print(counter.value, numbers[:], sorted(seen.items()), set(kinds), type(kinds).__module__)
"""


def in_processes(arguments, folder, *, by=(), check=True):
    """What `python ARGUMENTS` says, or what it does when run by something else."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(fastshm.__file__).parent.parent)])}
    return run_command([sys.executable, *by, *arguments], cwd=folder, env=environment, check=check)


RUN = ("-m", "fastshm", "run")


@pytest.mark.parametrize("form", ["script", "module", "package in a folder", "folder", "zip"])
def test_unmodified_program(tmp_path, method, form):
    package = tmp_path / "over" / "package"
    package.mkdir(parents=True)
    (tmp_path / "program.py").write_text(PROGRAM)
    arguments = {
        "script": ["program.py"],
        "module": ["-m", "program"],
        "package in a folder": ["-m", "over.package.program"],
        "folder": ["over/package"],
        "zip": ["program.zip"],
    }[form]
    (package / "program.py").write_text(PROGRAM)
    # Children do not import a __main__.py: what they need has to be elsewhere, with Python itself, too.
    starter = "import program\n" + PROGRAM[PROGRAM.index("if __name__") :].replace("Task()", "program.Task()")
    starter = "import sys, multiprocessing\nfrom multiprocessing import *\n" + starter
    (package / "__main__.py").write_text(starter)
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        for name in ("program.py", "__main__.py"):
            archive.write(package / name, name)
    done = in_processes([*arguments, method, "--", "-x"], tmp_path, by=RUN)
    seen = [(depth, [method, "--", "-x"]) for depth in range(3)]
    kinds = {("fastshm._typed", "fastshm.synchronize")}
    assert done.stdout == f"3 [1, 1, 1] {seen} {kinds} fastshm.managers\n"


# After the examples of the stdlib's documentation.
OWN_MANAGER = """
import sys
from collections import Counter
from multiprocessing import get_context
from multiprocessing.managers import BaseManager, BaseProxy, DictProxy, SyncManager


class Maths:
    def add(self, x, y):
        return x + y

    def _secret(self):
        return "told"

    def into(self, d):
        d["from the server"] = 1


def squares():
    yield from (n * n for n in range(5))


class GeneratorProxy(BaseProxy):
    _exposed_ = ["__next__"]

    def __iter__(self):
        return self

    def __next__(self):
        return self._callmethod("__next__")


class Manager(SyncManager):
    pass


Manager.register("Maths", Maths, exposed=("add", "into", "_secret"))
Manager.register("squares", squares, proxytype=GeneratorProxy)
Manager.register("Tally", Counter, DictProxy)


def work(d, maths, tally):
    d["from a child"] = maths.add(1, 2)
    tally["a"] += 1


if __name__ == "__main__":
    context = get_context(sys.argv[1])
    with Manager(ctx=context) as manager:
        d, maths, tally = manager.dict(), manager.Maths(), manager.Tally("abca")
        child = context.Process(target=work, args=(d, maths, tally))
        child.start()
        child.join()
        maths.into(d)
        print(sorted(d.items()), maths._secret(), list(manager.squares()), sorted(tally.items()))
        print(isinstance(manager, BaseManager), isinstance(d, DictProxy), isinstance(d, BaseProxy), child.exitcode)
        print(type(d).__module__, type(tally).__module__)
        del maths, tally
"""


@pytest.mark.parametrize("by", [(), RUN], ids=["python", "run"])
def test_program_with_a_manager_of_its_own(tmp_path, method, by):
    (tmp_path / "program.py").write_text(OWN_MANAGER)
    *same, kinds = in_processes(["program.py", method], tmp_path, by=by).stdout.splitlines()
    assert same == [
        "[('from a child', 3), ('from the server', 1)] told [0, 1, 4, 9, 16] [('a', 3), ('b', 1), ('c', 1)]",
        "True True True 0",
    ]
    assert kinds == ("fastshm.managers" if by else "multiprocessing.managers") + " multiprocessing.managers"


PROBE = """
import sys

__annotations__
shown = {name: value if name in ("__name__", "__file__", "__package__", "__doc__", "__cached__") else type(value)
         for name, value in globals().items()}
print(shown, __spec__ and (__spec__.name, __spec__.origin), sys.argv, sys.path[:2])
print(vars(sys.modules["__main__"]) is globals())
print("to stderr", file=sys.stderr)


def end(how):
    if how == "nothing":
        return
    if how == "message":
        sys.exit("the end")
    if how == "hook":
        sys.excepthook = lambda *told: print("told", told[1], sys.last_value is told[1])
        raise KeyError(how)
    if how == "atexit":
        import atexit
        import __main__
        atexit.register(lambda: print("at exit", __main__.end is end))
        raise ValueError(how)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "signal":
        import os, signal
        os.kill(os.getpid(), signal.SIGINT)
    if how == "context":
        try:
            {}["a"]
        except KeyError:
            raise LookupError(how)
    if how == "thread":
        import threading
        threading.Thread(target=lambda: print("in a thread")).start()
        sys.exit(5)
    sys.exit(int(how))


end(*sys.argv[1:2])
"""


def same(arguments, folder, *, options=()):
    """Python itself and `run` do the same."""
    original = in_processes(arguments, folder, by=options, check=False)
    ours = in_processes(arguments, folder, by=(*options, *RUN), check=False)
    assert (ours.returncode, ours.stdout, ours.stderr) == (original.returncode, original.stdout, original.stderr)
    return ours


HOW = {
    "nothing": 0,
    "7": 7,
    "message": 1,
    "hook": 1,
    "atexit": 1,
    "interrupt": -signal.SIGINT,
    "signal": -signal.SIGINT,
    "context": 1,
    "thread": 5,
}


@pytest.mark.parametrize(("how", "code"), HOW.items())
def test_script_is_run_as_python_runs_it(tmp_path, how, code):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "probe.py").write_text(PROBE)
    assert same(["folder/probe.py", how, "-m", "--", "-h"], tmp_path).returncode == code
    (tmp_path / "link").symlink_to("folder/probe.py")
    assert same(["link", how], tmp_path).returncode == code


@pytest.mark.parametrize("how", ["nothing", "atexit", "interrupt", "7"])
def test_module_is_run_as_python_runs_it(tmp_path, how):
    package = tmp_path / "package"
    package.mkdir()
    for name in ("probe.py", "__main__.py"):
        (package / name).write_text(PROBE)
    in_processes(["-m", "package", "nothing"], tmp_path, check=False)  # its first run compiles
    for arguments in (
        ["-m", "package", how, "-m"],
        ["-m", "package.probe", how],
        ["-mpackage", how],
        ["package", how, "--help"],
    ):
        assert same(arguments, tmp_path).returncode == HOW[how]
    if how == "nothing":
        same(["package", how], tmp_path, options=["-P"])
        same(["package/probe.py", how], tmp_path, options=["-P"])


@pytest.mark.parametrize("how", ["nothing", "7", "atexit", "interrupt"])
def test_text_is_run_as_python_runs_it(tmp_path, how):
    for arguments in (["-c", PROBE, how, "-c", "--help"], ["-c" + PROBE, how]):
        assert same(arguments, tmp_path).returncode == HOW[how]
    same(["-c", "import sys; print(sys.argv, sys.path[:2])"], tmp_path, options=["-P"])
    assert same(["-c", "f("], tmp_path).returncode == 1
    assert same(["-c", ""], tmp_path).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [["nothing.py"], ["-m", "nothing"], ["."], ["broken.py"], ["coded.py"], ["-m", "broken"], ["-m", "package.nothing"]],
)
def test_what_cannot_be_run(tmp_path, arguments):
    (tmp_path / "broken.py").write_text("def f(:\n    pass\n")
    (tmp_path / "coded.py").write_bytes(b"# coding: latin-1\nprint(ascii('\xe4'))\nraise ValueError('\xe4')\n")
    assert same(arguments, tmp_path).returncode in (1, 2)


def test_compiled_script(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    run_command([sys.executable, "-m", "compileall", "-q", "-b", "probe.py"], cwd=tmp_path)
    same(["probe.pyc", "7"], tmp_path)


def test_usage(capsys):
    for arguments in ([], ["-m"], ["-c"], ["-m", ""], ["-x", "script.py"]):
        with pytest.raises(SystemExit) as ended:
            main(["run", *arguments])
        assert ended.value.code == 2
        assert "Give a script, or -m and a module, or -c and the text" in capsys.readouterr().err
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(out):
        main(["run", "--help"])
    assert ended.value.code == 0
    assert "SCRIPT | -m MODULE | -c PROGRAM" in out.getvalue()


def test_interrupted_from_outside(tmp_path):
    """Ctrl-C ends the program as it ends Python: its own handling, its exit code."""
    (tmp_path / "program.py").write_text(
        textwrap.dedent("""
            import multiprocessing, sys
            if __name__ == "__main__":
                event = multiprocessing.Event()
                try:
                    print("ready", flush=True)
                    event.wait()
                finally:
                    print("cleaned", type(event).__module__, flush=True)
        """)
    )
    command = [sys.executable, *RUN, "program.py"]
    program = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with program:
        assert program.stdout.readline() == "ready\n"
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=SECONDS)
    assert (program.returncode, out) == (-signal.SIGINT, "cleaned fastshm.synchronize\n")
    assert re.fullmatch(
        r'Traceback \(most recent call last\):\n  File ".*/program.py", line \d, in <module>\n.*\nKeyboardInterrupt\n',
        err,
        re.DOTALL,
    )
    assert "fastshm/running.py" not in err


class Interruption(BaseException):
    pass


def interrupted(function, line):
    """Whether a signal's handler, say, that raises before that line of patching.py does it."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename == patching.__file__ and event == "line":
            lines += 1
            if lines == line:
                sys.settrace(None)
                raise Interruption
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Interruption:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("which", ["patch", "undo"])
def test_an_interruption_anywhere(which):
    def state():
        return [getattr(place, name) for place, name, _ in patching._replacements()]

    def patch():
        patches.append(patching.patch())

    patches = []
    before, line = state(), 1
    while True:
        if which == "undo":
            patch()
        went_on = not interrupted(patch if which == "patch" else patches[-1].undo, line)
        patching.unpatch()
        assert not patching.is_patched()
        assert state() == before, line
        if went_on:
            break
        line += 1
    assert line > 30
