"""What a process that does not come on is waiting for, in a segment that may be damaged.

A waiter sleeps at a word of the segment. The word may be a lock's: then it names the thread that holds it. Nobody takes a
lock from the living, so a word that damage made name somebody who lives is waited for, as it must be; nothing else is.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import platform
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

OWNERS = 0x3FFFFFFF
FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine(), -1)
FLOCK = "hhqqi4x"
LOOKS = 40
HEAP, UNDO = 128, 184  # the heap's lock; how many words a change of it would put back
EXCUSED, FAILED, LATER, RING = "excused", "failed", "later", "ring"


class Wait(NamedTuple):
    """At which word a process sleeps, and what the word said; -1 and why, when it sleeps at none."""

    at: int
    word: int
    told: str


def unready(pid: int) -> float:
    """Seconds for which the process was ready to run and had no processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


class Segment:
    """The file, through a mapping and a description of the judge's own."""

    def __init__(self, name: str) -> None:
        self.fd = os.open(f"/dev/shm/{name}", os.O_RDWR)
        self.inode = os.fstat(self.fd).st_ino
        self.m = mmap.mmap(self.fd, struct.unpack("Q", os.pread(self.fd, 8, 64))[0])

    def word(self, at: int) -> int:
        return int(struct.unpack_from("I", self.m, at)[0])

    def is_alive(self, number: int) -> bool:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        return struct.unpack(FLOCK, fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK

    def is_mapped_at(self, pid: int, address: int) -> int:
        """The offset of an address of that process, -1 when it lies elsewhere."""
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            places, _, offset, _, inode = line.split()[:5]
            if int(inode) == self.inode and "/dev/shm/" in line:  # by its name of then: a store is made under another one
                begin, end = (int(part, 16) for part in places.split("-"))
                if begin <= address < end:
                    return address - begin + int(offset, 16)
        return -1

    def wait_of(self, pid: int) -> Wait:
        """What the process sleeps at: asked often, for it wakes up after each nap."""
        seen = ["nothing"]
        for _ in range(LOOKS):
            seen = Path(f"/proc/{pid}/syscall").read_text().split()
            if seen[0] == str(FUTEX):
                at = self.is_mapped_at(pid, int(seen[1], 16))
                if 0 <= at <= len(self.m) - 4:
                    return Wait(at, self.word(at), f"sleeps at {at}")
            time.sleep(0.001)
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        at_work = f"state {state[0]}, {int(state[11])} ticks of its own and {int(state[12])} of the kernel"
        return Wait(-1, 0, f"{'computes' if seen[0] == 'running' else f'system call {seen}'}; {at_work}")

    def behind(self, wait: Wait) -> Wait:
        """Who takes over a dead one's lock first puts back what is under way in the heap, and waits for who is in there."""
        is_under_way = struct.unpack_from("Q", self.m, UNDO)[0] != 0
        heap = self.word(HEAP)
        if wait.at < 0 or not wait.word & OWNERS or self.is_alive(wait.word & OWNERS) or not is_under_way:
            return wait
        return (
            Wait(HEAP, heap, f"{wait.told}, which names one who is dead, and so waits for the heap") if heap & OWNERS else wait
        )

    def heal(self, at: int) -> None:
        """Nobody holds the lock any more; whoever sleeps there finds out within a nap."""
        struct.pack_into("I", self.m, at, 0)


def names_one_who_does_not_hold(
    segment: Segment,
    wait: Wait,
    waiter: int,
    numbers: list[int],
    pids: list[int],
    mutexes: set[int],
    progress: Callable[[int], object],
) -> tuple[str, str]:
    """Does the word at which the n-th of these numbers sleeps name somebody living who is not in there? And what was seen.

    A number that is none of these holds nothing, for only these work. One of these does not hold what its word says all the
    while it comes on with one operation after the other (`progress`; None: it has ended). LATER: that cannot be said yet, as it
    does not come on. RING: it waits for the waiter, so one of the two words is damaged.
    """
    owner = wait.word & OWNERS
    if not owner:
        return FAILED, f"the word names nobody: {wait.word:#x}"
    if not segment.is_alive(owner):
        return FAILED, f"the word names {owner}, who is dead"
    if wait.at in mutexes and owner in numbers:  # those are processes'
        return EXCUSED, f"the word names {owner}, who lives and is no process"
    if owner == numbers[waiter]:
        return FAILED, "the word names the waiter itself"
    if owner not in numbers:
        return EXCUSED, f"the word names {owner}, who lives and does nothing"
    named, seen = numbers.index(owner), []
    end = time.monotonic() + 0.5
    while time.monotonic() < end and len(seen) < 12:
        if segment.word(wait.at) & OWNERS != owner:
            return LATER, f"the word named {owner}, who holds it now and then"
        now = progress(named)
        if now is None:
            return EXCUSED, f"the word names {owner}, who lives and has ended its work"
        if now not in seen:
            seen.append(now)
        time.sleep(0.0005)
    if len(seen) < 12:
        other = segment.wait_of(pids[named])
        if other.at not in (-1, wait.at) and other.word & OWNERS == numbers[waiter]:
            return RING, f"the word names {owner}, who lives and waits for the waiter at {other.at}"
        return LATER, f"the word names {owner}, who may hold it and does not come on: {other.told}"
    return EXCUSED, f"the word names {owner}, who lives and comes on with other things"
