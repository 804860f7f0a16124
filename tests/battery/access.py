"""Item 13: who is let in, and what of what he wrote is believed.

Other users' files, wider modes, names that somebody has taken, files that were exchanged or cut short under way, foreign
formats, pickles that run code. Whatever is refused is left as it was. Other users are played by children that have
dropped to another user id, which only root can do: without that right these figures say so and count nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import pickle
import random
import secrets
import signal
import socket
import stat
import struct
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, util
from pathlib import Path
from typing import Any

from battery import SEEDS, Figure, Mutant, fork_a_stranger
from trials import Trials, figure, quiet_tracker

SHM = Path("/dev/shm")
NOBODY = 65534
PAGE = 4096
AT = {"magic": 0, "byte order": 8, "word size": 10, "format": 12, "size": 16, "committed": 64}  # in the superblock

MUTANTS = (
    Mutant("other users' files are refused", "segment.h", "if (st.st_uid != geteuid())", "if (0)"),
    Mutant("wider modes are refused", "segment.h", "if (st.st_mode & 0077)", "if (0)"),
    Mutant("another format is refused", "segment.h", "if (head[1] != FS_STAMP)", "if (0)"),
    Mutant(
        "pages are counted after the bytes that need them",
        "segment.h",
        "committed % FS_GRAIN || fstat(fd, &st) == -1 ||",
        "committed % FS_GRAIN ||",
    ),
    Mutant("a file cut short is refused", "segment.h", "if (head[2] != (uint64_t)st.st_size)", "if (0)"),
    Mutant(
        "links are not followed",
        "segment.h",
        "        fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);",
        "        fd = open(path, O_RDWR | O_CLOEXEC);",
    ),
    Mutant(
        "who joins looks whether the name is still there",
        "registry.h",
        "(fstat(heap->fd, &st) == -1 || (!st.st_nlink && !heap->nameless))",
        "fstat(heap->fd, &st) == -1",
    ),
    Mutant(
        "a maker that fails removes its own file only",
        "segment.h",
        "    if (lstat(path, &st) == 0 && st.st_dev == file->device && st.st_ino == file->inode)\n",
        "    (void)st;\n    (void)file;\n",
    ),
    Mutant("the last one out removes its own name only", "names.py", "        if leads_to(name, file):", "        if file:"),
    Mutant("a taken name is left alone", "heap.py", "(FileExistsError, ReferenceError)", "(ReferenceError,)"),
    Mutant(
        "a lost descriptor is replaced by its own file only",
        "local.h",
        "if (again != -1 && !fs_is_on_file(heap, again))",
        "if (0)",
    ),
    Mutant(
        "values: no pickle is loaded",
        "_codec.pyx",
        "    if kind == FS_V_PICKLE_BLOB:\n        may_load(heap)\n",
        "    if kind == FS_V_PICKLE_BLOB:\n",
    ),
    Mutant(
        "bundles: no pickle is loaded",
        "_codec.pyx",
        "    if kind == FS_V_PICKLE_BUNDLE:\n        may_load(heap)\n",
        "    if kind == FS_V_PICKLE_BUNDLE:\n",
    ),
    Mutant(
        "buffers: no pickle is loaded",
        "_codec.pyx",
        "        may_load(heap)\n        return loaded_with_buffers(data, size, refs, heap, None)\n",
        "        return loaded_with_buffers(data, size, refs, heap, None)\n",
    ),
    Mutant(
        "views: no pickle is loaded",
        "_codec.pyx",
        "        may_load(heap)\n        return loaded_with_buffers(data, size, refs, heap, pin)\n",
        "        return loaded_with_buffers(data, size, refs, heap, pin)\n",
    ),
    Mutant(
        "the list's short way loads none",
        "_list.pyx",
        "        if not self.ref.heap.takes_pickles():\n            return MISSING\n",
        "",
    ),
    Mutant(
        "keys: no pickle is loaded",
        "_codec.pyx",
        "    if display == FS_D_PICKLE:\n        may_load(heap)\n",
        "    if display == FS_D_PICKLE:\n",
    ),
    Mutant(
        "other keys: no pickle is loaded",
        "_codec.pyx",
        "            damaged()\n        may_load(heap)\n",
        "            damaged()\n",
    ),
    Mutant(
        "the dict's short way loads none either",
        "_dict.pyx",
        "if not self.ref.heap.allow_pickle or self.ref.heap.undecided:",
        "if False:",
    ),
    Mutant("a segment that is met again is refused again", "heap.py", "    _refused.add(heap.name)\n", ""),
    Mutant("gc leaves other users' files alone", "names.py", "if info.st_uid != os.geteuid():  # and", "if False:  # and"),
)


# --- children, files, users ---------------------------------------------------------------------------------------------------


def may_be_others() -> bool:
    """Whether a child can become another user."""
    return os.geteuid() == 0 and told(os.getuid, uid=NOBODY) == NOBODY


def told(function: Callable[..., Any], *arguments: Any, uid: int = 0) -> Any:
    """What the function returns in a child, or "<error>: <text>"; the child's signal if it is ended by one."""
    read, write = os.pipe()
    pid = fork_a_stranger()
    if not pid:
        os.close(read)
        signal.alarm(30)
        try:
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            answer = function(*arguments)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        try:
            with os.fdopen(write, "wb") as file:
                file.write(pickle.dumps(answer))
            util._exit_function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        answer = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        return signal.Signals(-code).name
    assert code == 0, f"the child ended with {code}"
    return pickle.loads(answer)


@contextlib.contextmanager
def living(uid: int = 0) -> Iterator[str]:
    """The name of a segment that a user uses meanwhile; at the end he finds it whole."""
    import fastshm

    name, go = os.pipe(), os.pipe()

    def use() -> str:
        d = fastshm.dict(a=[1])
        os.write(name[1], fastshm.heap.default().name.encode())
        os.read(go[0], 1)
        d["b"] = d["a"] * 2
        fastshm.heap.check()
        return str(d.copy())

    read, write = os.pipe()
    pid = fork_a_stranger()
    if not pid:
        os.close(read)
        os.close(go[1])
        os.write(write, told(use, uid=uid).encode())
        os._exit(0)
    os.close(write)
    os.close(go[0])
    try:
        yield os.read(name[0], 100).decode()
    finally:
        os.close(go[1])
        with os.fdopen(read) as file:
            said = file.read()
        os.waitpid(pid, 0)
        os.close(name[0])
        os.close(name[1])
    assert said == "{'a': [1], 'b': [1, 1]}", said


def abandoned(uid: int = 0) -> Path:
    """The path of a segment whose only user has died."""
    import fastshm

    def make() -> str:
        heap = fastshm.heap.create()
        fastshm.dict(a=[1])
        heap.disown()
        resource_tracker.unregister(f"/{heap.name}", "shared_memory")
        fastshm.heap._heaps.clear()
        return heap.name

    return SHM / told(make, uid=uid)


def attach(name: str) -> str:
    import fastshm

    fastshm.heap.attach(name)
    return "attached"


def collect(remove: bool = True) -> dict[str, tuple[bool, str]]:
    from fastshm import names

    return {verdict.name: (verdict.removed, verdict.why) for verdict in names.judged((), remove=remove)}


def look(path: Path) -> tuple[int, ...]:
    """What must not change of a file that is refused."""
    info = path.lstat()
    return info.st_ino, info.st_mode, info.st_uid, info.st_nlink, info.st_size, info.st_blocks, info.st_mtime_ns


def fresh_path() -> Path:
    return SHM / f"fastshm-{uuid.uuid4().hex}"


def put_away(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


# --- other users and wider modes ----------------------------------------------------------------------------------------------


def others(turns: int, trials: Trials) -> None:
    """Root's segments and another user's, living and dead, shut and open: neither gets into the other's."""
    import fastshm

    if not may_be_others():
        trials.notes.append("skipped: only root can play another user")
        return
    for owner, stranger in ((0, NOBODY), (NOBODY, 0)) * turns:
        for mode in (0o600, 0o644, 0o666, 0o777):
            with trials.trial(f"living, owner {owner}, mode {mode:o}"), living(owner) as name:
                path = SHM / name
                path.chmod(mode)
                before = look(path)
                assert told(attach, name, uid=stranger).startswith("PermissionError")
                removed, why = told(collect, uid=stranger)[name]
                assert (removed, "another user" in why) == (False, True)
                assert look(path) == before
            path = abandoned(owner)
            with trials.trial(f"dead, owner {owner}, mode {mode:o}"):
                path.chmod(mode)
                before = look(path)
                assert told(attach, path.name, uid=stranger).startswith("PermissionError")
                assert not told(collect, uid=stranger)[path.name][0]
                assert look(path) == before
                assert told(collect, uid=owner)[path.name][0] == (mode == 0o600), "its owner's gc"
            put_away(path)
        with trials.trial("a handle into another user's segment"):

            def hand_over() -> bytes:
                return pickle.dumps(fastshm.dict(a=1))

            said = told(hand_over, uid=owner)
            assert isinstance(said, bytes)
            assert told(pickle.loads, said, uid=stranger).startswith(("PermissionError", "FileNotFoundError"))


def modes(turns: int, trials: Trials) -> None:
    """All modes of group and others, with all special bits: only owner-only is let in."""
    for special, bits in itertools.product((0, stat.S_ISUID, stat.S_ISGID, stat.S_ISVTX)[:turns], range(0o100)):
        path = abandoned()
        with trials.trial(f"mode {special | 0o600 | bits:o}"):
            path.chmod(special | 0o600 | bits)
            said = told(attach, path.name)
            assert said.startswith("PermissionError") if bits else said == "attached", said
            assert path.exists() == bool(bits), "what is refused stays; who is let in is the last one out"
        put_away(path)


# --- names that somebody has taken --------------------------------------------------------------------------------------------


def other_users(path: Path) -> None:
    path.write_bytes(b"theirs")
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o666)


def listens(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))


SQUATTERS: dict[str, Callable[[Path], Any]] = {
    "a file": lambda path: path.write_bytes(b"mine"),
    "an empty file": lambda path: path.touch(0o600),
    "zeros": lambda path: path.write_bytes(bytes(1 << 20)),
    "a directory": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path, 0o600),
    "a socket": listens,
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a segment": lambda path: path.symlink_to(TARGET.name),
    "a hard link to a readable file": lambda path: path.hardlink_to(READABLE),
    "another user's file": other_users,
    "a device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
}
TARGET, READABLE = fresh_path(), SHM / "readable"


def make_with(names: list[str]) -> str:
    """A maker whose random names have been guessed."""
    import fastshm

    real = secrets.token_hex
    secrets.token_hex = lambda n: names.pop(0) if names else real(n)
    return fastshm.heap.create().name


def squatted(turns: int, trials: Trials) -> None:
    """Whatever stands under the name: a maker takes another one, a visitor refuses it, gc keeps it."""
    kinds = dict(SQUATTERS)
    if not may_be_others():
        trials.notes.append("no other users, no devices: only root can make them")
        del kinds["another user's file"], kinds["a device"]
    living_path = abandoned()
    living_path.rename(TARGET)
    READABLE.write_bytes(b"for all")
    READABLE.chmod(0o644)
    for (kind, put), _ in itertools.product(kinds.items(), range(turns)):
        path = fresh_path()
        put(path)
        before = look(path)
        with trials.trial(f"made: {kind}"):
            said = told(make_with, [path.name.removeprefix("fastshm-")])
            assert said.startswith("fastshm-"), said
            assert said != path.name
            assert look(path) == before
        with trials.trial(f"attached: {kind}"):
            said = told(attach, path.name)
            assert ": " in said, said
            assert look(path) == before
        with trials.trial(f"gc: {kind}"):
            removed, why = told(collect, False)[path.name]
            assert not removed, why
            assert look(path) == before
        put_away(path)
    put_away(READABLE)
    with trials.trial("a hard link to a segment of ours is that segment"):
        second = fresh_path()
        second.hardlink_to(TARGET)
        assert told(attach, second.name) == "attached"
        assert TARGET.exists()
    for path in (second, TARGET):
        put_away(path)


# --- files exchanged under way ------------------------------------------------------------------------------------------------


def before_mapping(action: Callable[[Path], None]) -> None:
    """Something happens to the file that this process opens next, when it is open and not mapped yet."""
    todo = [action]
    sys.addaudithook(lambda event, args: todo.pop()(SHM / args[0]) if event == "fastshm.map" and todo else None)


def visit(path: Path, action: Callable[[Path], None], opened: bool) -> str:
    if opened:
        before_mapping(action)
    else:
        action(path)
    return attach(path.name)


def make(action: Callable[[Path], None]) -> str:
    """What the maker finds at last."""
    import fastshm

    before_mapping(action)
    heap = fastshm.heap.create()
    heap.check()
    return "made" if (SHM / heap.name).lstat().st_ino == heap.file[1] else "made elsewhere"


def replace_with(body: bytes, size: int, *, mode: int = 0o600, uid: int = 0) -> Callable[[Path], None]:
    def action(path: Path) -> None:
        path.unlink()
        path.write_bytes(body)
        os.truncate(path, size)
        path.chmod(mode)
        if uid:
            os.chown(path, uid, uid)

    return action


def exchanged(turns: int, trials: Trials) -> None:
    """Names unlinked, remade and replaced between two steps of a maker, a visitor, a user."""
    import fastshm

    size = fastshm.heap.RESERVED
    for _ in range(turns):
        for what, action, opened, expected in (
            ("unlinked before", Path.unlink, False, "FileNotFoundError"),
            ("unlinked after", Path.unlink, True, "FileNotFoundError"),
            ("replaced before", replace_with(b"else", size), False, "CorruptedError"),
            ("replaced after", replace_with(b"else", size), True, "FileNotFoundError"),
            ("a link before", lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), False, "OSError"),
            ("a directory before", lambda path: (path.unlink(), path.mkdir()), False, "IsADirectoryError"),
        ):
            path = abandoned()
            with trials.trial(f"visitor: {what} it opens"):
                said = told(visit, path, action, opened)
                assert said.startswith(expected), said
            put_away(path)
        for what, action in (
            ("unlinked", Path.unlink),
            ("replaced by a file in use", replace_with(b"else", size)),
            ("replaced by a longer file", replace_with(b"", size + PAGE)),
            ("replaced by one for all", replace_with(b"", size, mode=0o666)),
            ("replaced by another user's", replace_with(b"", size, mode=0o666, uid=NOBODY)),
            ("replaced by a link", lambda path: (path.unlink(), path.symlink_to("/etc/passwd"))),
        ):
            if "another user" in what and not may_be_others():
                continue
            with trials.trial(f"maker: {what} before it maps"):
                said = told(make, action)
                assert said == "made", said
                left = list(SHM.glob("fastshm-*"))
                assert len(left) == (what != "unlinked"), "what was put there stays, what was made goes with its maker"
            for path in SHM.glob("fastshm-*"):
                put_away(path)
        path, stranger = abandoned(), abandoned()
        body = head_of(stranger)
        with trials.trial("user: his name leads to another segment by now, and he is the last"):
            assert told(use_renamed, path, stranger) == "100000"
            assert path.exists(), "it is another one's"
            assert head_of(path) == body
        first = abandoned()
        with trials.trial("user: his descriptors are closed, and his name leads elsewhere"):
            assert told(use_without_descriptors, first, path) == "ended"
            assert head_of(first) == body, "nothing was written into what took its name"
        for left in (path, stranger, first):
            put_away(left)


def use_renamed(path: Path, stranger: Path) -> str:
    import fastshm

    heap = fastshm.heap.attach(path.name)
    stranger.replace(path)
    d = fastshm.dict(a=[1], b="x" * 100_000)
    heap.check()
    return str(len(d["b"]))


def use_without_descriptors(path: Path, stranger: Path) -> str:
    import fastshm

    heap = fastshm.heap.attach(path.name)
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if path.name in os.readlink(f"/proc/self/fd/{fd}"):
                os.close(int(fd))
    stranger.replace(path)
    kept = []
    with contextlib.suppress(OSError, MemoryError, ReferenceError, fastshm.CorruptedError):
        for _ in range(3):
            kept.append(fastshm.dict(b="x" * 1_000_000))
        heap.check()
    return "ended"


def head_of(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(64 * PAGE)


# --- foreign formats, files cut short -----------------------------------------------------------------------------------------


def formats(turns: int, trials: Trials) -> None:
    """Every field of the head that tells a foreign file, with other values; every length."""
    choose = random.Random(SEEDS)
    path = abandoned()
    whole, size = head_of(path), path.stat().st_size
    copy = fresh_path()

    def refused(name: str, head: bytes, length: int) -> None:
        with trials.trial(name):
            copy.write_bytes(head[:length])
            os.truncate(copy, length)
            copy.chmod(0o600)
            before = look(copy)
            said = told(attach, copy.name)
            assert said.startswith("CorruptedError"), said
            assert look(copy) == before

    for length in (*range(0, 200, 8), 1000, PAGE - 1, PAGE, PAGE + 1, 16 * PAGE, size - PAGE, size - 1, size + 1, size + PAGE):
        refused(f"{length} bytes long", whole, length)
    for field, at in AT.items():
        width = {"byte order": 2, "word size": 2, "format": 4}.get(field, 8)
        now = int.from_bytes(whole[at : at + width], sys.byteorder)
        mask = (1 << 8 * width) - 1
        values = {0, mask, now ^ 1, now + 1, now - 1, now << 1, now ^ 1 << 8 * width - 1}
        values |= {choose.getrandbits(8 * width) for _ in range(turns)}
        for value in sorted(value & mask for value in values if value & mask != now):
            if field == "committed" and value % 64 == 0 and PAGE <= value <= now:
                continue  # fewer blocks than there are: to be found inside, not at the door
            new = whole[:at] + value.to_bytes(width, sys.byteorder) + whole[at + width :]
            refused(f"{field} {value:#x}", new, size)
    with trials.trial("control: the same file unchanged"):
        copy.write_bytes(whole)
        os.truncate(copy, size)
        assert told(attach, copy.name) == "attached"
    put_away(copy)
    put_away(path)


def use_cut(name: str, length: int) -> str:
    """What becomes of somebody inside."""
    import fastshm

    heap = fastshm.heap.attach(name)
    d = fastshm.dict(dict.fromkeys(range(200), "x" * 1000))
    os.truncate(SHM / name, length)
    with contextlib.suppress(fastshm.CorruptedError):
        for i in range(200):
            d[i] = "y" * 2000
            assert d[i] == "y" * 2000
        heap.check()
    return "ended"


def cut_short(turns: int, trials: Trials) -> None:
    """By its owner, while it is mapped: an error or SIGBUS for those inside (README), an error for those who come."""
    ended: dict[str, int] = {}
    for length in list(itertools.islice(itertools.cycle((0, 1, PAGE, 2 * PAGE, 100 * PAGE, 1 << 30)), turns)):
        path = abandoned()
        with trials.trial(f"cut to {length}"):
            said = told(use_cut, path.name, length)
            ended[said] = ended.get(said, 0) + 1
            assert said in ("ended", "SIGBUS"), said
            if path.exists():  # those who die by a signal leave the name
                assert told(attach, path.name).startswith("CorruptedError")
                assert not told(collect)[path.name][0], "its claims may be anybody's"
        put_away(path)
    trials.notes.append(", ".join(f"{count} {how}" for how, count in sorted(ended.items())))


# --- pickles that run code ----------------------------------------------------------------------------------------------------

READS = """
d["value"]; d.get("bundle"); d["buffers"]; d.view("buffers"); d.pop("value", None); d.popitem(); d.values(); d.items();
d.copy(); dict(d); d.keys(); list(d);
d.setdefault("value", 1); d.increment("bundle"); d.get_many(["value", "bundle"]); "missing" in d; d.get("missing");
d.update(new=1); items[0]; items[1]; items[:]; items.pop(); items.pop(0); items.remove(7); list(items); items.index(7);
7 in items; items.sort(); items + []; [*items]; items.count(7); str(d); str(items); items.reverse(); d.update(d)
"""


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def words_at(memory: mmap.mmap, end: int, value: int) -> Iterator[int]:
    """Where this word lies."""
    at, word = -1, struct.pack("=Q", value)
    while (at := memory.find(word, at + 1, end)) != -1:
        if at % 8 == 0:
            yield at


def forge(name: str, text: bytes) -> int:
    """As a process that can write there does, without the package: what was stored as text or bytes is declared a pickle."""
    done = 0
    with open(SHM / name, "r+b") as file, mmap.mmap(file.fileno(), 1 << 20) as memory:
        end = struct.unpack_from("=Q", memory, AT["committed"])[0]
        at = -1
        while (at := memory.find(text, at + 1, end)) != -1:
            for shift in (0, 8):
                blob = at - 24 - shift
                for word in words_at(memory, end, blob):
                    done += declare(memory, word, blob, shift)
    return done


def declare(memory: mmap.mmap, word: int, blob: int, shift: int) -> int:
    """At `word` lies the offset of a blob: what it is declared to be, if it is a value or a key."""
    if word % 64 == 32 and memory[word - 20] & 0x80:  # a key, in a table's entry
        if shift:
            memory[word - 20] = 11 | 0x80  # FS_K_OTHER
        else:
            memory[word - 19] = 4  # FS_D_PICKLE, behind a form without bytes
            memory[word - 8 : word - 4] = bytes(4)
        return 1
    kind = word - 2 if word % 64 == 16 else word - 8  # in a table's entry, in a vector's slot
    if memory[kind] not in (16, 17, 18):  # text, bytes
        return 0
    if shift:
        length = struct.unpack_from("=Q", memory, blob + 16)[0]
        struct.pack_into("=QQ", memory, blob + 16, length - 8, 0)
        memory[blob + 8] = 4  # FS_BUNDLE
        memory[kind] = 22  # FS_V_PICKLE_BUNDLE
    else:
        memory[kind] = 21  # FS_V_PICKLE_BLOB
    return 1


FORGED = {"values": 5, "keys": 1, "other keys": 1}


def victim(attack: str, read: str, allow: bool, canary: str) -> str:
    """One read of what was forged, or stored by somebody who does not refuse; says how it ended."""
    import fastshm

    heap = fastshm.heap.create()
    text = pickle.dumps(Runs(canary), 0)
    d, items = fastshm.dict(), fastshm.list()
    if attack == "stored":
        d.update(value=Runs(canary), bundle=[Runs(canary), items], buffers=[Runs(canary), pickle.PickleBuffer(b"x" * 9)])
        d[1.0, Runs(canary)] = 1  # the only one that is found by comparing: for a second one it would be loaded
        os.rmdir(canary)  # a key is tried out where it is stored
        items.extend([Runs(canary), [Runs(canary), d]])
    elif attack == "values":
        d.update(value=text.decode(), bundle=bytes(8) + text, text=text)
        items.extend([text.decode(), bytes(8) + text])
    elif attack == "keys":
        d[text.decode()] = 1
    else:
        d["\0" * 8 + text.decode()] = 1
    if not allow:
        fastshm.heap.attach(heap.name, allow_pickle=False)
    if attack in FORGED:
        done = told(forge, heap.name, text)
        assert done == FORGED[attack], f"{done} places were forged"
    try:
        eval(read, {"d": d, "items": items})
    except Exception as error:
        return type(error).__name__
    return "read"


def pickles(turns: int, trials: Trials) -> None:
    """Every way of reading, every place where a pickle may stand: refused, it does not run. Not refused, it does."""
    with tempfile.TemporaryDirectory() as folder:
        canaries = map(str, (Path(folder, str(n)) for n in itertools.count()))
        for attack in (*FORGED, "stored"):
            said: list[str] = []
            ran = 0
            for read in [read.strip() for read in READS.split(";")] * turns:
                with trials.trial(f"{attack}: {read}"):
                    canary = next(canaries)
                    said.append(told(victim, attack, read, False, canary))
                    assert not os.path.exists(canary), "it has run"
                    assert ":" not in said[-1], said[-1]
                canary = next(canaries)
                told(victim, attack, read, True, canary)
                ran += os.path.exists(canary)
            with trials.trial(f"{attack}: the attack is one, and refused as such"):
                assert ran, "it never runs"
                assert "UnpicklingError" in said, said
            trials.notes.append(f"{attack}: not refused, {ran} of {len(said)} reads run it")
    with trials.trial("met again"):
        assert told(meet_again) == "refused"


def meet_again() -> str:
    """A foreign segment is left with its last handle, and opened again for the next."""
    import fastshm

    with living() as name:
        mine = fastshm.dict()
        fastshm.heap.attach(name, allow_pickle=False)
        fastshm._core.leave_unless_used(name)
        heap = fastshm.heap.attach(name)
        fastshm.heap._inherit_refusals()  # as before the first pickle
        mine["own"] = [1]
        return "refused" if not heap.allow_pickle and mine["own"] == [1] else "forgotten"


def grow(write: int) -> None:
    """A segment that grows from nothing to 32 MiB, in some fifty steps."""
    import fastshm

    kept = fastshm.list()
    os.write(write, fastshm.heap.default().name.encode())
    for _ in range(600):
        kept.append("x" * 50_000)


def growing(turns: int, trials: Trials) -> None:
    """What is looked at before the door is moving: nobody is refused for that."""
    from fastshm import _core

    looks = 0
    for _ in range(turns):
        read, write = os.pipe()
        pid = fork_a_stranger()
        if not pid:
            grow(write)
            util._exit_function()
            os._exit(0)
        with trials.trial("looked at all the time"):
            fd = os.open(SHM / os.read(read, 100).decode(), os.O_RDWR)
            while not os.waitpid(pid, os.WNOHANG)[0]:
                looks += 1
                assert _core.inspect(fd) is None, _core.inspect(fd)
            os.close(fd)
        for end in (read, write):
            os.close(end)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    trials.notes.append(f"{looks:,} looks")


PARTS: dict[str, tuple[str, Callable[[int, Trials], None], int, int]] = {
    "others": ("other users: neither gets into the other's, nor sweeps it", others, 20, 1),
    "modes": ("modes wider than owner-only", modes, 4, 1),
    "squatted": ("names that somebody has taken", squatted, 20, 1),
    "exchanged": ("files exchanged between two steps", exchanged, 20, 1),
    "formats": ("foreign formats, other versions, every length", formats, 300, 3),
    "growing": ("attached while it grows: let in", growing, 1_000, 30),
    "cut": ("files cut short while they are mapped", cut_short, 60, 6),
    "pickles": ("pickles that run code, with allow_pickle=False", pickles, 3, 1),
}


def run(short: bool) -> Iterator[Figure]:
    """Each figure in a process of its own."""
    for part, (what, _, long_turns, short_turns) in PARTS.items():
        yield figure(what, __file__, part, short_turns if short else long_turns)


if __name__ == "__main__":
    counts = Trials()
    import fastshm  # noqa: F401  (children of another user may not be allowed to read it)

    quiet_tracker()
    PARTS[sys.argv[1]][1](int(sys.argv[2]), counts)
    counts.report()
