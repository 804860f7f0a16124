"""The names in /dev/shm: which are segments, whose they are, and which are nobody's any more.

Nobody's is what no process has a claim on (platform.h): not a matter of process ids, so it is right for processes in other PID
namespaces, for zombies and for stopped ones. What is removed is removed under a claim on all numbers, which keeps out
whoever would join meanwhile; docs/format.md, "Segment and lifetime", has the steps.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Container, Iterator
from typing import NamedTuple

from fastshm import _core

FOLDER = "/dev/shm"
PREFIX = "fastshm-"
STORE = PREFIX + "store-"  # what a store's own name follows
NAME = re.compile(re.escape(PREFIX) + "[0-9a-f]{32}|" + re.escape(STORE) + r"[A-Za-z0-9_.-]{1,200}")
UNFINISHED = 60.0  # seconds after which a segment without a header is taken for one whose maker died


class Verdict(NamedTuple):
    """What a name is, and what was done about it."""

    name: str
    size: int  # bytes of memory that it takes
    abandoned: bool  # nobody's
    removed: bool
    why: str


def path(name: str) -> str:
    return f"{FOLDER}/{name}"


def open_segment(name: str) -> _core.Descriptor:
    return _core.Descriptor(os.open, path(name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)


def judged(mine: Container[str], *, remove: bool) -> Iterator[Verdict]:
    """Every name of ours in /dev/shm but those in `mine`. With `remove`, what is nobody's is removed."""
    try:
        names = sorted(entry for entry in os.listdir(FOLDER) if entry.startswith(PREFIX))
    except FileNotFoundError:
        return
    for name in names:
        if name not in mine and (verdict := _judged(name, remove)):
            yield verdict


def _judged(name: str, remove: bool) -> Verdict | None:
    """None when it has gone meanwhile."""
    try:
        info = os.lstat(path(name))
    except FileNotFoundError:
        return None

    def kept(why: str) -> Verdict:
        return Verdict(name, info.st_blocks * 512, False, False, why)

    if not NAME.fullmatch(name):
        return kept("it has not the name of a segment")
    if not stat.S_ISREG(info.st_mode):
        return kept("it is not a regular file")
    if info.st_uid != os.geteuid():  # and not opened: that alone might wait for its owner
        return kept(f"it belongs to another user, {info.st_uid}")
    try:
        file = open_segment(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        return kept(f"it cannot be opened: {error.strerror}")
    try:
        fd = file.number
        why = "no process uses it"
        if unfit := _core.inspect(fd):
            age = _unfinished_since(fd)
            if age is None:
                return kept(unfit)
            if age <= UNFINISHED:
                return kept(f"it is being made, or its making was cut short in the last {UNFINISHED:.0f} s")
            why = "its making was cut short"
        if not (_core.is_abandoned(fd) if remove else _core.is_unclaimed(fd)):
            return kept("a process uses it")
        if name.startswith(STORE) and not unfit and _core.is_kept(fd):
            return kept("it is a store that is kept until it is unlinked")
        return (
            _removed(fd, name, info.st_blocks * 512, why) if remove else Verdict(name, info.st_blocks * 512, True, False, why)
        )
    finally:
        file.close()


def _unfinished_since(fd: int) -> float | None:
    """Seconds since the last change of a file that is as the maker of a segment leaves it before the header is there."""
    info = os.fstat(fd)
    if info.st_uid != os.geteuid() or info.st_mode & 0o077 or info.st_nlink != 1:
        return None
    return time.time() - info.st_ctime if os.pread(fd, 8, 0) in (b"", bytes(8)) else None


def leads_to(name: str, file: tuple[int, int]) -> bool:
    """Is that file (device, inode) the one that has the name now?"""
    try:
        info = os.lstat(path(name))
    except FileNotFoundError:
        return False
    return (info.st_dev, info.st_ino) == file


def remove_if_same(name: str, file: tuple[int, int]) -> bool:
    """Takes the name away, unless it has gone meanwhile or leads to another file than this (device, inode)."""
    try:
        if leads_to(name, file):
            os.unlink(path(name))
            return True
    except FileNotFoundError:
        return False
    except PermissionError:
        if may_be_removed(name, file):
            raise
    return False


def may_be_removed(name: str, file: tuple[int, int]) -> bool:
    """Does the name lead to that file (device, inode), and is the file this process's to remove?"""
    try:
        info = os.lstat(path(name))
    except OSError:
        return False
    return (info.st_dev, info.st_ino) == file and os.geteuid() in (0, info.st_uid)


def _removed(fd: int, name: str, size: int, why: str) -> Verdict | None:
    info = os.fstat(fd)
    try:  # its last user may have been quicker
        return Verdict(name, size, True, True, why) if remove_if_same(name, (info.st_dev, info.st_ino)) else None
    except OSError as error:
        return Verdict(name, size, True, False, f"{why}, but it cannot be removed: {error.strerror}")
