"""Programs as they stand in answers about multiprocessing: with our import they print what they printed before."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache

import pytest
from crew import run_command

GUARD = re.compile(r"if __name__ == ['\"]__main__['\"]:\n")

DICT = """
from multiprocessing import Process, Manager

def worker(d, key, value):
    d[key] = value

if __name__ == '__main__':
    manager = Manager()
    d = manager.dict()

    p1 = Process(target=worker, args=(d, 'a', 1))
    p2 = Process(target=worker, args=(d, 'b', 2))
    p1.start(); p2.start()
    p1.join(); p2.join()

    print(d)  # output: {'a': 1, 'b': 2}
"""

DICT_WITH_MANAGER = """
from multiprocessing import Process, Manager

def worker(shared_dict, key, val):
    shared_dict[key] = val  # atomic update

if __name__ == "__main__":
    with Manager() as manager:
        d = manager.dict()
        p1 = Process(target=worker, args=(d, 'a', 1))
        p2 = Process(target=worker, args=(d, 'b', 2))
        p1.start(); p2.start()
        p1.join(); p2.join()
        print(d)  # {'a': 1, 'b': 2}
"""

COUNT_LETTERS = """
from multiprocessing import Process, Manager

def count_letters(shared_dict, text):
    local = {}
    for c in text:
        local[c] = local.get(c, 0) + 1
    shared_dict.update(local)  # safe merge

if __name__ == '__main__':
    with Manager() as manager:
        counts = manager.dict()
        texts = ["hello", "world"]
        procs = [Process(target=count_letters, args=(counts, t)) for t in texts]

        for p in procs: p.start()
        for p in procs: p.join()

        print(counts)
"""

DICT_OF_PROXY = """
from multiprocessing import Process, Manager

def worker(d, key, value):
    d[key] = value

if __name__ == "__main__":
    manager = Manager()
    d = manager.dict()

    p1 = Process(target=worker, args=(d, 'a', 1))
    p2 = Process(target=worker, args=(d, 'b', 2))
    p1.start(); p2.start()
    p1.join(); p2.join()

    print(d)  # {'a': 1, 'b': 2}
"""

VALUE = """
from multiprocessing import Process, Value

def worker(x):
    x.value += 1

if __name__ == "__main__":
    num = Value('i', 0)  # 'i' = signed int
    processes = [Process(target=worker, args=(num,)) for _ in range(5)]

    for p in processes: p.start()
    for p in processes: p.join()

    print(num.value)  # 5
"""

ARRAY = """
from multiprocessing import Process, Array

def worker(arr):
    for i in range(len(arr)):
        arr[i] += 1

if __name__ == "__main__":
    arr = Array('i', [1, 2, 3])  # shared int array

    p1 = Process(target=worker, args=(arr,))
    p2 = Process(target=worker, args=(arr,))
    p1.start(); p2.start()
    p1.join(); p2.join()

    print(list(arr))  # [3, 4, 5]
"""

LIST_OF_PROCESSES = """
from multiprocessing import Manager, Process

def worker(d, key, value):
    d[key] = value

if __name__ == "__main__":
    with Manager() as manager:
        shared = manager.dict()
        procs = [
            Process(target=worker, args=(shared, 'a', 1)),
            Process(target=worker, args=(shared, 'b', 2))
        ]
        for p in procs: p.start()
        for p in procs: p.join()
        print(shared)  # {'a': 1, 'b': 2}
"""

INCREMENT = """
from multiprocessing import Process, Value

def increment(val):
    for _ in range(1000):
        with val.get_lock():
            val.value += 1

if __name__ == "__main__":
    counter = Value('i', 0)
    procs = [Process(target=increment, args=(counter,)) for _ in range(4)]
    for p in procs: p.start()
    for p in procs: p.join()
    print(counter.value)  # Expected: 4000
"""

SQUARE = """
from multiprocessing import Process, Array

def square(arr):
    for i in range(len(arr)):
        arr[i] *= arr[i]

if __name__ == "__main__":
    numbers = Array('i', [1, 2, 3, 4])
    p = Process(target=square, args=(numbers,))
    p.start(); p.join()
    print(numbers[:])  # [1, 4, 9, 16]
"""

TYPE = """
from multiprocessing import Manager

manager = Manager()
shared_dict = manager.dict()
print(type(shared_dict))
"""

STATEMENTS = """
from multiprocessing import Manager

if __name__ == "__main__":
    manager = Manager()
    d = manager.dict()
    d['x'] = 1
    d['y'] = 2
    print(d)
    d.update({'a': 10, 'b': 20})
    print(d)

    d['list'] = [1, 2, 3]
    d['list'].append(4)   # local mutation
    print(d)
    tmp = d['list']
    tmp.append(4)
    d['list'] = tmp   # forces manager update
    print(d, d['list'])
    d['list'] = manager.list([1, 2, 3])
    d['list'].append(4)   # now works correctly
    print(d['list'], d['list'][:], len(d['list']), [item for item in d['list']])

    value = d.get('a', None)
    print(value, d.get('nothing', None), d.get('nothing'))
    del d['list']
    for k, v in d.items():
        print(k, v)
    for k in d.keys():
        print(k, k in d)

    d.clear()
    print(d, len(d))
    d.update({'x': 100, 'y': 200})
    d.update({'y': 300, 'z': 400})
    print(d)

    normal_copy = dict(d)
    normal_copy['x'] = 'local'
    print(normal_copy, type(normal_copy).__name__, d)
"""


def merged(text):
    """One word's counts overwrite the other's, so the letter that both have may be counted once or twice."""
    counts = ast.literal_eval(text)
    return counts | {"l": 2} if counts["l"] in (1, 2) else counts


def increments_of(most):
    """Additions outside a lock may be lost; one never is."""
    return lambda text: most if 1 <= int(text) <= most else text


def at_least_one_each(text):
    numbers = ast.literal_eval(text)
    return [i in (n + 1, n + 2) for i, n in zip(numbers, (1, 2, 3), strict=True)]


# each with what of its output is defined, whatever the order in which its processes run
PROGRAMS = {
    "dict": (DICT, ast.literal_eval),
    "dict, with a manager": (DICT_WITH_MANAGER, ast.literal_eval),
    "dict of a proxy": (DICT_OF_PROXY, ast.literal_eval),
    "letters": (COUNT_LETTERS, merged),
    "Value": (VALUE, increments_of(5)),
    "Array": (ARRAY, at_least_one_each),
    "list of processes": (LIST_OF_PROCESSES, ast.literal_eval),
    "increment": (INCREMENT, int),
    "square": (SQUARE, ast.literal_eval),
    "statements": (STATEMENTS, str),
}
EXPECTED = {
    "letters": {"h": 1, "e": 1, "l": 2, "o": 1, "w": 1, "r": 1, "d": 1},
    "Value": 5,
    "Array": [True, True, True],
    "increment": 4_000,
    "square": [1, 4, 9, 16],
}


def ours(program):
    """The program with only its import changed."""

    def change(line):
        names = [name.strip() for name in line[1].split(",")]
        taken = [name for name in names if name != "Process"]
        kept = ["from multiprocessing import Process\n"] if "Process" in names else []
        return "".join(kept) + f"from fastshm import {', '.join(taken)}\n"

    changed, count = re.subn(r"from multiprocessing import (.*)\n", change, program)
    assert count == 1
    return changed


def output(program, method, folder):
    """What the program prints, run from a file of its own under a start method. It must be silent on stderr."""
    chosen = f"import multiprocessing\n    multiprocessing.set_start_method({method!r})\n"
    program = GUARD.sub(lambda guard: f"{guard[0]}    {chosen}", program)
    folder.mkdir(exist_ok=True)
    (folder / "program.py").write_text(program)
    return run_command([sys.executable, str(folder / "program.py")]).stdout.strip()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The output of the unmodified program, run once."""
    return cache(lambda name, method: output(PROGRAMS[name][0], method, tmp_path_factory.mktemp("original")))


@pytest.mark.parametrize("name", PROGRAMS)
def test_prints_the_same(name, method, original, tmp_path):
    program, defined = PROGRAMS[name]
    was, now = defined(original(name, method)), defined(output(ours(program), method, tmp_path))
    assert now == was
    assert now == EXPECTED.get(name, {"a": 1, "b": 2} if defined is ast.literal_eval else was)


def test_type_without_a_guard(tmp_path):
    """It creates a server at import, so spawn could not run the original."""
    was, now = output(TYPE, "fork", tmp_path), output(ours(TYPE), "fork", tmp_path)
    assert was == "<class 'multiprocessing.managers.DictProxy'>"
    assert now == "<class 'fastshm.managers.DictProxy'>"
