"""No memory left in /dev/shm, or under a file size limit: an error that names the remedy, and nothing lost; never a signal.

Each program runs in a mount namespace of its own with a small tmpfs on /dev/shm.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

import pytest
from crew import run_command, run_program

NOT_WATCHED = pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="the address sanitizer reserves terabytes of address space"
)
MOUNT = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"'


@functools.cache
def namespace() -> list[str] | None:
    """The command that starts another in a mount namespace of its own."""
    for options in (["-m"], ["-r", "-m"]):
        command = ["unshare", *options, "sh", "-c", MOUNT]
        if shutil.which("unshare") and not subprocess.run([*command, "64k", "true"], capture_output=True).returncode:
            return command
    return None


@pytest.fixture
def in_small():
    """Runs a program with a /dev/shm of a given size."""
    command = namespace()
    if command is None:
        pytest.skip("needs the right to mount a tmpfs (CAP_SYS_ADMIN, or user namespaces)")
    return lambda size, text, *args: run_command([*command, size, sys.executable, "-c", PRELUDE + text, *args])


PRELUDE = """
import os, random, sys
import fastshm

def is_remedy(error):
    assert "/dev/shm" in str(error) and any(word in str(error) for word in ("enlarge", "free", "ulimit")), str(error)

def fill(step, most=2_000_000):
    for i in range(most):
        try:
            step(i)
        except (MemoryError, OSError) as error:
            is_remedy(error)
            return i
    raise AssertionError("never full")

def wide(i):
    return chr(97 + i % 26) * (i * 7_919 % 3_000)
"""

KINDS = """
kind = sys.argv[1]
d, items, kept, value = fastshm.dict(), fastshm.list(), [], fastshm.Value("q", 5)
steps = {
    "dict of ints": lambda i: d.__setitem__(i, i),
    "dict of text": lambda i: d.__setitem__(f"key {i}", wide(i)),
    "dict of pickles": lambda i: d.__setitem__(i, {"n": [i] * 50}),
    "dict of lists": lambda i: d.__setitem__(i, fastshm.list([i, wide(i)])),
    "dict by update": lambda i: d.update({(i, k): wide(i + k) for k in range(50)}),
    "dict with long keys": lambda i: d.__setitem__("k" * 500 + str(i), i),
    "dict by setdefault": lambda i: d.setdefault(i, wide(i)),
    "dict by increment": lambda i: d.increment(i, i),
    "list of ints": items.append,
    "list of text": lambda i: items.append(wide(i)),
    "list by extend": lambda i: items.extend([wide(i), i, wide(i + 1)]),
    "list by insert": lambda i: items.insert(0, wide(i)),
    "list by slice": lambda i: items.__setitem__(slice(0, 0), [wide(i), i]),
    "list in place": lambda i: items.__iadd__([i, i]),
    "values": lambda i: kept.append(fastshm.Value("q", i)),
    "arrays": lambda i: kept.append(fastshm.Array("q", [i] * (i % 100))),
    "raw arrays": lambda i: kept.append(fastshm.RawArray("q", [i] * (i % 100))),
    "dicts": lambda i: kept.append(fastshm.dict(n=i)),
    "lists": lambda i: kept.append(fastshm.list([i, wide(i)])),
    "locks": lambda i: kept.append(fastshm.Lock()),
    "a text that grows": lambda i: d.__setitem__("same", "x" * 1_000 * i),
    "a list of lists": lambda i: items.append([i] * 100),
}
step = steps[kind]
count = fill(step)
assert count > 5, count

# everything stored before is there, and nothing of what was refused
assert value.value == 5 and value.fetch_add(0) == 5
texts = {i: wide(i) for i in range(count + 50)}
if kind == "dict by update":
    assert d.copy() == {(i, k): texts[i + k] for i in range(count) for k in range(50)}
elif kind == "a text that grows":
    assert d.copy() == {"same": "x" * 1_000 * (count - 1)}
elif kind.startswith("dict "):
    model = {
        "dict of ints": lambda i: (i, i), "dict of text": lambda i: (f"key {i}", texts[i]),
        "dict of pickles": lambda i: (i, {"n": [i] * 50}), "dict of lists": lambda i: (i, [i, texts[i]]),
        "dict with long keys": lambda i: ("k" * 500 + str(i), i), "dict by setdefault": lambda i: (i, texts[i]),
        "dict by increment": lambda i: (i, i),
    }[kind]
    if kind == "dict of lists":  # one after the other: a handle for each at once would itself need memory
        assert len(d) == count
        for i in random.sample(range(count), min(count, 20)):
            assert d[i][:] == [i, texts[i]]
    else:
        assert d.items() == [model(i) for i in range(count)]
elif kind == "list of ints":
    assert items[:] == list(range(count))
elif kind == "list of text":
    assert items[:] == [texts[i] for i in range(count)]
elif kind == "list by extend":
    assert items[:] == [item for i in range(count) for item in (texts[i], i, texts[i + 1])]
elif kind == "list by insert":
    assert items[:] == [texts[i] for i in reversed(range(count))]
elif kind == "list by slice":
    assert items[:] == [item for i in reversed(range(count)) for item in (texts[i], i)]
elif kind == "list in place":
    assert items[:] == [i // 2 for i in range(2 * count)]
elif kind == "a list of lists":
    assert items[:] == [[i] * 100 for i in range(count)]
else:
    assert len(kept) == count
    for i in range(0, count, 7):
        one = kept[i]
        if kind == "values":
            assert one.value == i
        elif kind in ("arrays", "raw arrays"):
            assert one[:] == [i] * (i % 100)
        elif kind == "dicts":
            assert one["n"] == i
        elif kind == "lists":
            assert one[:] == [i, texts[i]]
        else:
            assert one.acquire(False)
            one.release()
fastshm.heap.check()

# what needs no memory goes on
value.value += 1
if kind == "dict of ints":
    d[3] = 4
    assert d.increment(3) == 5
if kind == "list of ints":
    items[3] = 4
    assert items.pop() == count - 1 and items.pop(0) == 0 and items[2] == 4

# deleting needs none, and what was deleted can be used again
if kept:
    del kept[: count // 2], one
elif len(items):
    try:  # this one may need some, for a moment
        del items[len(items) // 2 :]
    except MemoryError as error:
        is_remedy(error)
    for _ in range(len(items) // 2):
        items.pop()
    for _ in range(3):
        items.pop(len(items) // 2)
elif kind != "a text that grows":
    for key in list(d.keys())[: len(d) // 2]:
        del d[key]
    if kind not in ("dict of ints", "dict by increment", "dict with long keys"):
        d[next(iter(d.keys()))] = "z" * 500
assert fill(step) or kind in ("dict of ints", "dict by increment", "dict with long keys"), "there is room again"
for _ in range(2):
    d.clear()
    assert (len(d), d.copy()) == (0, {})
    while len(items):
        items.pop()
    kept.clear()
    more = fill(step)
    assert more > count * 0.6, (count, more)
d.clear()
while len(items):
    items.pop()
kept.clear()
d["last"], items[:] = "x" * 1_000, [1, 2, 3]
assert d["last"] == "x" * 1_000 and items[:] == [1, 2, 3] and value.value == 6
fastshm.heap.check()
"""
KIND_NAMES = [line.split('"')[1] for line in KINDS.split("steps = {")[1].split("\n}\n")[0].splitlines() if '": ' in line]


@pytest.mark.parametrize("size", ["1m", "4m"])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_until_full(in_small, size, kind):
    in_small(size, KINDS, kind)


@pytest.mark.parametrize("size", ["1m", "4m"])
def test_too_large_at_once(in_small, size):
    """Refused whole, with nothing half made."""
    in_small(
        size,
        """
d, items = fastshm.dict(a=1), fastshm.list([1])
numbers = fastshm.Array("q", 1_000)
d["small"] = "s" * 1_000
used = fastshm.heap.check()["bytes_used"]
for operation in (
    lambda: fastshm.Array("q", 1_000_000),
    lambda: fastshm.RawArray("b", 5_000_000),
    lambda: d.__setitem__("large", "x" * 5_000_000),
    lambda: d.__setitem__("small", b"x" * 5_000_000),
    lambda: d.__setitem__("k" * 5_000_000, 1),
    lambda: d.update({i: "x" * 100_000 for i in range(50)}),
    lambda: d.update({"a": 2, "b": "x" * 5_000_000}),
    lambda: items.append(b"x" * 5_000_000),
    lambda: items.extend(["x" * 100_000] * 50),
    lambda: items.__setitem__(slice(0, 1), ["x" * 100_000] * 50),
    lambda: items.__imul__(1_000_000),
    lambda: fastshm.dict({i: "x" * 100_000 for i in range(50)}),
    lambda: fastshm.list(["x" * 100_000] * 50),
):
    try:
        operation()
    except MemoryError as error:
        is_remedy(error)
    else:
        raise AssertionError("it fitted")
    assert d.copy() == {"a": 1, "small": "s" * 1_000}
    assert items[:] == [1]
    after = fastshm.heap.check()["bytes_used"]
    assert after <= used + 20_000, "what was refused is given back; arrays may have grown"
numbers[:] = range(1_000)
assert sum(numbers[:]) == 499_500
""",
    )


@pytest.mark.parametrize("size", ["4k", "8k", "64k", "96k"])
def test_hardly_anything(in_small, size):
    """From the very first page on: an error, or it works."""
    in_small(
        size,
        """
for _ in range(3):
    try:
        kept = [fastshm.Value("i", 7), fastshm.dict(a=1), fastshm.list([1])]
        kept[1].update({i: str(i) for i in range(10_000)})
    except (MemoryError, OSError) as error:
        is_remedy(error)
    else:
        raise AssertionError("it fitted")
assert not [name for name in os.listdir("/dev/shm") if name.startswith("fastshm-")] or fastshm.heap.check()
""",
    )


def test_filled_by_somebody_else(in_small):
    """Memory that was taken before stays usable; more is refused until there is room again."""
    in_small(
        "4m",
        """
d, numbers = fastshm.dict(), fastshm.Array("q", 1_000)
with open("/dev/shm/other", "wb", buffering=0) as file:
    try:
        while file.write(b"x" * 4_096):
            pass
    except OSError:
        pass
count = fill(lambda i: d.__setitem__(i, wide(i)))
assert d.copy() == {i: wide(i) for i in range(count)}
numbers[5] = 7
assert numbers.fetch_add(5, 2) == 7 and numbers[5] == 9
os.unlink("/dev/shm/other")
numbers[:] = range(1_000)
for i in range(count, count + 500):
    d[i] = wide(i)
assert d.copy() == {i: wide(i) for i in range(count + 500)} and numbers[-1] == 999
""",
    )


def test_large_values_when_no_handle_slot_is_left(in_small):
    """Many large values are pinned while they are copied; without room for so many pins they are copied all the same."""
    in_small(
        "64m",
        """
items, d = fastshm.list(), fastshm.dict()
large = lambda i: bytes([i % 256]) * 65_536
for i in range(450):
    items.append(large(i))
    d[i] = large(i)
fill(lambda i: d.__setitem__(("more", i), "x" * 1_000))
fill(lambda i: d.__setitem__(("more still", i), 1))
assert items[:] == list(items) == [large(i) for i in range(450)] and items[::-7] == [large(i) for i in range(449, -1, -7)]
assert all(items[i] == items[i - 450] == large(i) for i in range(450))
seen = d.copy()
assert all(seen[i] == d[i] == large(i) for i in range(450)) and seen == dict(d.items())
assert sum(value == large(7) for value in d.values()) == 2
views = []
try:
    while True:
        views.append(d.view(len(views)))
except MemoryError as error:
    is_remedy(error)
assert len(views) >= 8 and all(view == large(i) for i, view in enumerate(views)), len(views)
assert items[:] == [large(i) for i in range(450)] and d.copy() == seen and d[3] == large(3)
""",
    )


@pytest.mark.parametrize("kind", ["Value", "Array"])
def test_what_is_stored_is_read_when_no_handle_slot_is_left_for_new_ones(in_small, kind):
    in_small(
        "4m",
        """
kind, kept, d = sys.argv[1], [], fastshm.Manager().dict()
d["shared"], d["in a tuple"] = fastshm.list([1, 2]), (fastshm.Value("i", 5), fastshm.dict(a=1))
new = {"Value": lambda: fastshm.Value("q", 1), "Array": lambda: fastshm.Array("q", 30)}[kind]
fill(lambda i: kept.append(new()))
fill(lambda i: d.__setitem__(i, 1))
assert list(d["shared"]) == [1, 2]
value, inner = d["in a tuple"]
assert value.value == 5 and inner["a"] == 1
""",
        kind,
    )


def test_processes_in_full_memory(in_small):
    """Forking, writing in place and dying need no memory, or say so; the others go on."""
    in_small(
        "1m",
        """
d, value, lock = fastshm.dict(), fastshm.Value("q"), fastshm.Lock()
kept = []
count = fill(lambda i: d.__setitem__(i, wide(i)))
fill(lambda i: kept.append(fastshm.Value("q", i)))
for turn in range(20):
    pid = os.fork()
    if not pid:
        status = 1
        try:
            assert d[turn] == wide(turn)
            value.add(1)
            if turn % 3 == 0:
                lock.acquire()
            status = 0
        except MemoryError:
            status = 2
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 2), status
    assert lock.acquire(timeout=10)
    lock.release()
    if turn == 10:
        del kept[:1_000]
assert value.value >= 9, "with some memory they all work"
assert d.copy() == {i: wide(i) for i in range(count)}
fastshm.heap.check()
""",
    )


@pytest.mark.parametrize("limit", [1 << 20, 1 << 22])
def test_file_size_limit(limit):
    """Segments are made no larger than allowed, and end there."""
    run_program(
        PRELUDE
        + """
import resource
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
d = fastshm.dict()
count = fill(lambda i: d.__setitem__(i, wide(i)))
assert count > 50
assert d.copy() == {i: wide(i) for i in range(count)}
d.clear()
d["again"] = "x" * 10_000
assert d["again"] == "x" * 10_000
""",
        str(limit),
    )


@pytest.mark.parametrize("limit", [0, 1, 4_096, 65_536])
def test_file_size_limit_that_is_too_low(limit):
    done = run_program(
        """
import resource, sys, fastshm
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        fastshm.Value("i")
    except (MemoryError, OSError) as error:
        text = str(error)
        assert "ulimit" in text or "file size" in text, text
    else:
        assert limit >= 65_536, "there is no room for a segment"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
v = fastshm.Value("i", 3)
assert v.value == 3
print(fastshm.heap.default().name)
""",
        str(limit),
    )
    assert not os.path.exists(f"/dev/shm/{done.stdout.strip()}")


@NOT_WATCHED
def test_address_space_limit():
    """ulimit -v: no room for a large reservation, so a smaller one or a clear error."""
    run_program("""
import resource, fastshm
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    d = fastshm.dict({i: "x" * i for i in range(500)})
    assert d[499] == "x" * 499
except (MemoryError, OSError) as error:
    assert str(error)
""")


def test_what_was_let_go_is_all_there_again():
    """Also for a table whose entries lie at the end of a full segment: they cannot grow there, and move."""
    run_program("""
import resource, fastshm
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

def fill(d, first, width):
    for i in range(first, 10**6):
        try:
            d[i] = "x" * (i * 7_919 % width)
        except MemoryError:
            return len(d)

for width in (150, 350):
    d = fastshm.dict()
    before = fill(d, 0, width)
    for key in range(before // 2):
        del d[key]
    fill(d, before, width)
    d.clear()
    after = fill(d, 0, width)
    assert after > before // 2, (width, before, after)
    del d
""")


@NOT_WATCHED
def test_address_space_is_left_to_the_program():
    """Under a limit, as batch systems set it, the segment takes a quarter of it."""
    program = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
import fastshm
v = fastshm.Value("q", 1)
kept = bytearray(2 << 30)
d = fastshm.dict({n: "x" * 100 for n in range(10_000)})
assert len(d) == 10_000
"""
    run_program(program)


@pytest.mark.parametrize("first", ["fastshm.Value('q', 7)", "os.waitpid(os.fork() or os._exit(0), 0)"])
def test_no_signal_by_a_limit_of_file_size(first):
    """SIGXFSZ ends who has not told the system to ignore it, as Python does."""
    program = f"""
import fastshm, os, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
{first}
assert fastshm.Value("q", 7).value == 7
"""
    run_program(program)


def test_what_a_bounded_cache_holds_is_read(in_small):
    program = """
import pickle
few = fastshm.Cache(maxsize=1_000)

@fastshm.cache(maxsize=1_000)
def computed(n):
    return [n]

for n in range(500):
    few.put(n, f"value {n}")
    computed(n)
blocks = fastshm.list()
fill(lambda i: blocks.append(b"x" * 4_000))
fill(lambda i: blocks.append(b"x" * 100))
for _ in range(5):
    for n in range(500):
        assert few.get(n) == f"value {n}"
        assert computed(n) == [n]
for n in range(500):
    assert pickle.loads(pickle.dumps(few)).get(n) == f"value {n}"
assert len(few._order) >= 499, "a process may lose one place, until the next put"
blocks.clear()
few.put("new", 1)
assert set(few._order.keys()) == set(few._entries.keys())
few.get(3)
assert list(few._order)[-1] == 3
print(computed.cache_info())
"""
    assert in_small("8m", program).stdout == "CacheInfo(hits=2500, misses=500, maxsize=1000, currsize=500)\n"
