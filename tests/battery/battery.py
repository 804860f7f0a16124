"""What the items of the battery share: figures, mutants, compiled harnesses, a /dev/shm of their own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # crew.py and leftovers.py
# A call that does not fit its header any more tries something else. (No more than that, or a mutant might fail by a warning.)
UNFIT = [f"-Werror={what}" for what in ("incompatible-pointer-types", "int-conversion", "implicit-function-declaration")]
SEEDS = int(os.environ.get("FASTSHM_SEED", "1"))


class Figure(NamedTuple):
    """One row of the table: how often something was tried, and how often it did not come out as promised."""

    what: str
    tried: int
    failed: int
    note: str = ""


class Mutant(NamedTuple):
    """A safeguard taken away: in `file` of src/fastshm, `old` (found once) becomes `new`, and the item must then fail, with
    these settings in its environment."""

    safeguard: str
    file: str
    old: str
    new: str
    settings: Mapping[str, str] = MappingProxyType({})


def sources() -> Path:
    """The folder of the headers and extensions that are judged."""
    return Path(os.environ.get("FASTSHM_SOURCES", HERE.parent.parent / "src" / "fastshm"))


def compiled(source: str, *flags: str, compiler: str = "gcc", optimise: str = "-O2") -> str:
    """The path of tests/battery/<source>, compiled with the headers that are judged; removed by run.py at the end."""
    folder = os.environ.get("FASTSHM_BATTERY") or tempfile.mkdtemp(prefix="fastshm-battery-")
    program = os.path.join(folder, f"{Path(source).stem}-{abs(hash((flags, compiler))):x}")
    include = f"-I{sources()}"
    command = [compiler, "-std=gnu11", optimise, "-g", *UNFIT, include, *flags, str(HERE / source), "-o", program, "-lpthread"]
    subprocess.run(command, check=True)
    return program


def with_own_memory(command: Sequence[str], megabytes: int = 2048) -> list[str]:
    """The command, to be run with a /dev/shm of its own of that size, which vanishes with it.

    Needs the right to mount: root's, or that of a user namespace. `memory_of_its_own()` says whether there is one.
    """
    mount = f'mount -t tmpfs -o size={megabytes}m,mode=1777 fastshm-battery /dev/shm && exec "$@"'
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--mount", "--propagation", "private", "sh", "-c", mount, "sh", *command]


def memory_of_its_own() -> bool:
    """Whether with_own_memory() works here."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run(with_own_memory(["true"]), stderr=subprocess.DEVNULL, check=False).returncode == 0


def names() -> set[str]:
    """fastshm's names in /dev/shm."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("fastshm-")}


def be_a_stranger() -> None:
    """In a child whose parent has made nothing: it makes a segment of its own, which ends with it."""
    from fastshm import _core, heap

    heap._ahead = None
    _core.set_made_ahead(False)


def fork_a_stranger() -> int:
    pid = os.fork()
    if not pid:
        be_a_stranger()
    return pid


def in_a_child(judge: Callable[[bool], Iterator[Figure]], short: bool) -> Iterator[Figure]:
    """The figures of a judge that uses fastshm itself: when they are all there, so is the end of its segment."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_all, args=(sender, judge, short))
    child.start()
    sender.close()
    while True:
        try:
            yield receiver.recv()
        except EOFError:
            break
    child.join()
    if child.exitcode:
        yield Figure("the judge came to its end", 1, 1, f"exit {child.exitcode}")


def _send_all(sender, judge, short) -> None:
    be_a_stranger()
    for figure in judge(short):
        sender.send(figure)


def figure_from(what: str, done: subprocess.CompletedProcess[str], note: str = "") -> Figure:
    """A harness's last line, "TRIED tried, FAILED failed[: note]"; one that died otherwise has failed once."""
    lines = done.stdout.strip().splitlines()
    words = lines[-1].split(":", 1) if lines else [""]
    try:
        tried, failed = (int(part.split()[0]) for part in words[0].split(", "))
    except (ValueError, IndexError):
        print(done.stdout, done.stderr, sep="", file=sys.stderr)
        return Figure(what, 1, 1, f"exit code {done.returncode}")
    if failed or done.returncode:
        print(done.stdout, done.stderr, sep="", file=sys.stderr)
    said = words[1].strip() if len(words) > 1 else ""
    return Figure(what, tried, failed or int(done.returncode != 0), note or said)
