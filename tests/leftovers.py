"""What a test, or a whole run, leaves behind: segments in /dev/shm, and descriptors and children of this process.

Run as a program it lists the segments that no living process uses, and exits 1 when there are any.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

SHM = Path("/dev/shm")
RUN = "FASTSHM_TEST_RUN"  # names this run in the environment of every program that it starts


def segments(pattern: str = "fastshm-*") -> set[str]:
    """The names of this user's segments."""
    found = set()
    for path in SHM.glob(pattern):
        try:
            owner = path.lstat().st_uid
        except FileNotFoundError:  # its last user left between the two calls
            continue
        if owner == os.getuid():
            found.add(path.name)
    return found


def users(name: str) -> set[int]:
    """The processes that have the segment mapped."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text()
        except OSError:  # gone, or a zombie
            continue
        if name in text:
            found.add(int(maps.parent.name))
    return found


def ours(pid: int) -> bool:
    """Whether a process belongs to this test run: started by it, directly or not."""
    try:
        if f"{RUN}={os.environ.get(RUN)}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return True
        while pid not in (0, 1, os.getpid()):
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return False
    return pid == os.getpid()


def left(before: set[str], pattern: str = "fastshm-*") -> set[str]:
    """The segments that have come since, but for those that other programs on this machine are using."""
    new = segments(pattern) - before
    return {name for name in new if not (using := users(name)) or any(map(ours, using))}


def descriptors() -> set[tuple[int, str]]:
    """The open descriptors of this process and what they stand for."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(link)
        except FileNotFoundError:  # the one of the listing itself
            continue
        if not target.startswith(f"/proc/{os.getpid()}/"):
            found.add((int(link.name), target))
    return found


def children() -> set[str]:
    return {str(child.name) for child in multiprocessing.active_children()}


def until(condition, seconds: float = 10, pause: float = 0.005) -> bool:
    """Wait for a condition under a deadline; its last answer."""
    end = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < end:
        time.sleep(pause)
    return answer


if __name__ == "__main__":
    orphans = sorted(name for name in segments() if not users(name))
    print(*orphans, sep="\n", end="\n" if orphans else "")
    sys.exit(bool(orphans))
