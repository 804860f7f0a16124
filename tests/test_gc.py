"""`python -m fastshm gc` takes what is the dead's, says why it keeps the rest, and leaves the living alone."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crew import SECONDS, run_command, run_program

import fastshm

SHM = Path("/dev/shm")

USER = """
import os, sys, fastshm
heap = fastshm.heap.create()
d = fastshm.dict(a=1)
if sys.argv[1] == "dies":
    from multiprocessing import resource_tracker
    resource_tracker.unregister("/" + heap.name, "shared_memory")
print(heap.name, flush=True)
if sys.argv[1] == "dies":
    os.kill(os.getpid(), 9)
if sys.argv[1] == "stops":
    os.kill(os.getpid(), 19)
sys.stdin.readline()
print(d["a"], fastshm.heap.check()["processes"], flush=True)
"""


def gc(*options):
    """Exit code, and what is said about each name: {name: (what was done, why)}."""
    done = run_command([sys.executable, "-m", "fastshm", "gc", *options], check=False)
    assert done.stderr == ""
    *lines, last = done.stdout.splitlines()
    said = [re.fullmatch(r"(removed|left|kept) +('.*'|\S+)  [\d,]+ KiB: (.+)", line).groups() for line in lines]
    counts = [sum(verdict[0] == what for verdict in said) for what in ("removed", "left", "kept")]
    assert [int(n) for n in re.findall(r"(\d+) (?:removed|left|kept)", last)] == counts
    return done.returncode, {name: (what, why) for what, name, why in said}


def orphan():
    done = run_program(USER, "dies", check=False)
    assert done.returncode == -signal.SIGKILL
    return done.stdout.strip()


@contextlib.contextmanager
def user(how, *before):
    process = subprocess.Popen(
        [*before, sys.executable, "-c", USER, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        os.killpg(process.pid, signal.SIGCONT)
        out = process.communicate("\n", timeout=SECONDS)[0]
        assert out == "1 1\n", "it has never noticed"


def test_what_nobody_uses_is_removed():
    name = orphan()
    code, said = gc("--dry-run")
    assert (code, said[name]) == (1, ("left", "no process uses it"))
    assert (SHM / name).exists()
    code, said = gc()
    assert (code, said[name]) == (0, ("removed", "no process uses it"))
    assert not (SHM / name).exists()
    assert name not in gc()[1]


@pytest.mark.parametrize("how", ["waits", "stops"])
def test_what_a_living_process_uses_is_kept(how):
    with user(how) as (_, name):
        for options in (), ("-n",):
            code, said = gc(*options)
            assert (code, said[name]) == (0, ("kept", "a process uses it"))
            assert said[fastshm.heap.default().name] == ("kept", "a process uses it")


def test_what_a_process_of_another_pid_namespace_uses_is_kept():
    elsewhere = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if os.geteuid() == 0:
        elsewhere = ["unshare", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*elsewhere, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("no right to make a PID namespace")
    with user("waits", *elsewhere) as (_, name):
        assert gc()[1][name] == ("kept", "a process uses it")
    with user("waits") as (_, name):  # and the other way round
        done = run_command([*elsewhere, sys.executable, "-m", "fastshm", "gc"], check=False)
        assert re.search(f"kept +{name} .*: a process uses it", done.stdout), done.stdout


def test_a_zombie_is_dead():
    process = subprocess.Popen([sys.executable, "-c", USER, "dies"], stdout=subprocess.PIPE, text=True)
    name = process.stdout.readline().strip()
    process.stdout.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert gc()[1][name] == ("removed", "no process uses it")
    process.wait()


def write(path, body, *, size=1 << 20, mode=0o600):
    path.write_bytes(body)
    os.truncate(path, size)
    path.chmod(mode)


def give_away(path):
    if os.geteuid():
        pytest.skip("only root can give a file away")
    write(path, b"")
    os.chown(path, 65534, 65534)


KEPT = {
    "being made": (lambda path: write(path, b"", size=0), "it is being made"),
    "being made, with its size": (lambda path: write(path, b""), "it is being made"),
    "no segment": (lambda path: write(path, b"text"), "not made by fastshm"),
    "another user's": (give_away, "another user, 65534"),
    "readable by others": (lambda path: write(path, b"", mode=0o644), "others than its owner"),
    "a link": (lambda path: path.symlink_to("/etc/passwd"), "not a regular file"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "not a regular file"),
    "a directory": (lambda path: path.mkdir(), "not a regular file"),
    "a pipe": (lambda path: os.mkfifo(path, 0o600), "not a regular file"),
}


@pytest.mark.parametrize("what", KEPT)
def test_what_is_not_ours_to_judge_is_kept(what, path):
    make, why = KEPT[what]
    make(path)
    before = path.lstat()
    code, said = gc()
    assert (code, said[path.name][0]) == (0, "kept")
    assert why in said[path.name][1]
    assert os.path.samestat(path.lstat(), before)


def test_strange_names_are_shown_in_ascii():
    strange = SHM / "fastshm-\x1b[2J\n\udcff"
    strange.touch()
    try:
        assert gc()[1][ascii(strange.name)] == ("kept", "it has not the name of a segment")
    finally:
        strange.unlink()


def test_what_was_begun_long_ago_is_removed(path, monkeypatch):
    """A file without a header, but only one that is as a maker leaves it and that nobody has claimed."""
    names = fastshm.heap.names

    def verdict():
        return {verdict.name: verdict for verdict in names.judged((), remove=True)}[path.name]

    write(path, b"")
    monkeypatch.setattr(time, "time", lambda: path.stat().st_ctime + names.UNFINISHED)
    assert not verdict().removed
    monkeypatch.setattr(time, "time", lambda: path.stat().st_ctime + names.UNFINISHED + 1)
    link = path.with_name("hard-link-" + path.name)
    link.hardlink_to(path)
    assert not verdict().removed
    link.unlink()
    path.chmod(0o640)
    assert not verdict().removed
    path.chmod(0o600)
    assert verdict().removed
    assert not path.exists()


def test_what_cannot_be_removed_is_said(path, monkeypatch):
    def refuse(path):
        raise PermissionError(1, "Operation not permitted")

    name = orphan()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        assert name not in fastshm.heap.sweep()
        verdict = {verdict.name: verdict for verdict in fastshm.heap.names.judged((), remove=True)}[name]
    assert (verdict.abandoned, verdict.removed) == (True, False)
    assert "cannot be removed: Operation not permitted" in verdict.why
    assert name in fastshm.heap.sweep()


MAKER = """
import os, sys, fastshm
left = [int(sys.argv[1])]
def at_map(event, args):
    if event == "fastshm.map" and left[0]:
        left[0] -= 1
        os.unlink("/dev/shm/" + args[0])  # by a sweep, for which the clock has jumped
sys.addaudithook(at_map)
try:
    fastshm.heap.create()
except FileNotFoundError as error:
    print(error)
else:
    d = fastshm.dict(a=1)
    assert fastshm.heap.check()["processes"] == 1
    print("made", d["a"])
"""


@pytest.mark.parametrize("times", [1, 9, 10])
def test_a_maker_whose_name_was_taken_for_a_dead_ones_makes_another(times):
    said = run_program(MAKER, str(times)).stdout
    assert said == "made 1\n" if times < 10 else "removed while it was being made" in said


def test_an_audit_hook_may_refuse():
    said = run_program("""
import os, sys, fastshm
seen, refused = [], [True]
def at_map(event, args):
    if event == "fastshm.map":
        seen.append(args)
        if refused[0]:
            raise PermissionError("not here")
sys.addaudithook(at_map)
before = len(os.listdir("/proc/self/fd"))
for use in (fastshm.heap.create, fastshm.heap.default):
    try:
        use()
    except PermissionError as error:
        print(error)
assert len(seen) == 2 and not any(os.path.exists("/dev/shm/" + name) for name, in seen)
left = len(os.listdir("/proc/self/fd"))
refused[0] = False
d = fastshm.dict(a=1)
print(d, seen[-1] == (fastshm.heap.default().name,), left - before <= 1)  # one: the resource tracker's pipe
""").stdout
    assert said == "not here\nnot here\n{'a': 1} True True\n"


def test_no_folder(monkeypatch):
    monkeypatch.setattr(fastshm.heap.names, "FOLDER", "/nowhere")
    assert list(fastshm.heap.names.judged((), remove=True)) == []
