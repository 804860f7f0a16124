"""Damages a living segment at random while others use it; says "TRIED tried, FAILED failed: what came of it".

    python tests/battery/scribbler.py SEED ROUNDS

Each round has a segment of its own, a process that writes into it and two that use what lies in it. Every other round the
writer keeps to its victims, and to their arrays wherever these have moved: then what lies beside them, the bystanders, must be
as it was, to the last item. Half of the segments are named stores, to which a third process comes again and again as a program
does that was started later.

An operation may give an answer (what the damaged bytes say), or raise CorruptedError, or what the operation raises by itself
for what it finds (a key that is not there any more). It may not raise anything else, take a second, or end its process. Bytes
that were a pickle are pickle's business: what its loading raises is counted apart.

Not written, but once in every eighth round into a lock that is free: the number of somebody living as a lock's owner; nor into
a barrier's place, nor that a barrier's action runs. The living are waited for. (Damage can also bring such a number there by
way of an offset that leads to a lock.) So when an operation takes longer than a second, the judge looks at the word at which
it sleeps (waits.py): if that names somebody living who does not hold it, the word is healed, and the waiter must come on. That
is printed and counted apart; every other wait of a second has failed.
"""

from __future__ import annotations

import collections
import faulthandler
import mmap
import os
import pickle
import random
import resource
import signal
import struct
import sys
import time
import traceback
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from victims import LOCK, DamagedPickle, Newcomer, Stored, Things  # first: it has a pickle.loads of its own
from waits import EXCUSED, FAILED, LATER, OWNERS, RING, Segment, names_one_who_does_not_hold, unready

from fastshm.heap import CorruptedError
from fastshm.names import STORE

STRIKES = 120
SECONDS = 0.35
HANG = 1.0
PUT_OFF = 3  # times that a judgement is put off, for another has to be judged first
FIRST, GRAIN = 4096, 64
ARRAYS = {17: (48,), 19: (48, 56), 20: (48,), 24: (56,), 25: (80,)}  # by kind: where an object keeps the offsets of its arrays
OF_ARRAYS = (2, 5, 6, 11)  # kinds: raw, entries, slots, items
OBJECTS = range(16, 28)  # kinds
MOVED = 8  # strikes after which the writer looks again where its victims' arrays are
BARRIER_PHASE = 48


# --- the writer ---------------------------------------------------------------------------------------------------------------


class Writer:
    """Writes into the segment's file, through a mapping of its own."""

    def __init__(self, things: Things, narrow: bool, chance: random.Random, strikes: Any, living: list[int]) -> None:
        self.strikes, self.struck, self.living = strikes, 0, living
        name = things.d._address[0]
        fd = os.open(f"/dev/shm/{name}", os.O_RDWR)
        self.chance = chance
        committed = struct.unpack("Q", os.pread(fd, 8, 64))[0]
        self.m = mmap.mmap(fd, committed)
        self.end = committed
        self.action = things.barrier._address[1] + BARRIER_PHASE
        self.locks = {128, 144} | {self.action + 24 + 8 * n for n in range(things.barrier.parties)}
        self.locks |= {h._address[1] + LOCK for h in [*things.victims, *things.still_there]}
        self.guards = [handle._address[1] + LOCK for handle in things.victims]
        self.shut: set[int] = set()
        self.shut = {at for handle in things.still_there for at, size in self.parts(handle._address[1])}
        self.victims = [handle._address[1] for handle in things.victims] if narrow else []
        if narrow:
            self.look_again()
        else:
            self.aim_at([(0, 1500), *((at - 16, 16 + min(size, 2000)) for at, size in self.blocks())])
        self.offsets = [at - 16 for at, _ in self.blocks() if at not in self.shut]

    def aim_at(self, ranges: list[tuple[int, int]]) -> None:
        self.places = [at for begin, size in ranges for at in range(begin, begin + size, 8)]

    def look_again(self) -> None:
        self.aim_at([part for victim in self.victims for part in self.parts(victim)])

    def word(self, at: int) -> int:
        return int(struct.unpack_from("Q", self.m, at)[0]) if at + 8 <= len(self.m) else 0

    def blocks(self) -> list[tuple[int, int]]:
        """Where each block's payload begins, and its bytes."""
        found, at = [], FIRST
        while at < self.end and (size := (self.word(at) & 0xFFFFFFFF) * GRAIN):
            found.append((at + 16, min(size, self.end - at) - 16))  # the last one grows with the segment
            at += size
        return found

    def parts(self, offset: int) -> list[tuple[int, int]]:
        """The payload of an object's block and, for containers, of its arrays: but not of what a damaged word leads to."""
        kind = self.word(offset + 8) & 0xFFFFFFFF
        offsets = [offset] + [at for place in ARRAYS.get(kind, ()) if self.is_array(at := self.word(offset + place))]
        found = [(at + 16, (self.word(at) & 0xFFFFFFFF) * GRAIN - 16) for at in offsets]
        return [(at, size) for at, size in found if 0 < size <= self.end - at and at not in self.shut]

    def is_array(self, at: int) -> bool:
        return at % GRAIN == 0 and FIRST <= at < self.end and self.word(at + 8) & 0xFFFFFFFF in OF_ARRAYS

    def is_lock(self, at: int) -> bool:
        """Of an object that was made since."""
        return at % GRAIN == LOCK and at >= FIRST and self.word(at - LOCK + 8) & 0xFFFFFFFF in OBJECTS

    def strike(self) -> None:
        chance, at = self.chance, self.chance.choice(self.places)
        old = self.word(at)
        other = self.word(chance.choice(self.places))
        new = chance.choice(
            [
                chance.getrandbits(64), old ^ 1 << chance.randrange(64), chance.randrange(256), 0, (1 << 64) - 1, 1 << 63,
                old + chance.randrange(-8, 9), chance.choice(self.offsets), other if other - 16 not in self.shut else 0,
                old & ~0xFFFFFFFF | chance.randrange(64), old & 0xFFFFFFFF | chance.randrange(64) << 32, chance.getrandbits(40),
            ]
        ) % (1 << 64)  # fmt: skip
        if new & OWNERS < 10_000 and (at in self.locks or self.is_lock(at)):
            new |= 0x20000000  # nobody's number
        if at == self.action and new & 0xFFFFFFFF == 1:
            new += 1
        if new != old and new + 16 in self.shut:  # an offset that leads to a bystander
            new |= 1 << 50
        self.note(at, new)
        struct.pack_into("Q", self.m, at, new)

    def note(self, at: int, new: int) -> None:
        struct.pack_into("QQ", self.strikes, 16 * self.struck, at, new)
        self.struck += 1

    def name_the_living(self) -> None:
        at = self.chance.choice(self.guards)
        if not struct.unpack_from("I", self.m, at)[0]:
            living = self.chance.choice(self.living)
            self.note(at, living)
            struct.pack_into("I", self.m, at, living)

    def write(self) -> None:
        begin = time.monotonic()
        for n in range(STRIKES):
            if self.victims and n % MOVED == 0:
                self.look_again()
            self.strike()
            if n == STRIKES // 2 and self.living:
                self.name_the_living()
            time.sleep(max(0.0, begin + (n + 1) * SECONDS / STRIKES - time.monotonic()))


# --- its victims' users -------------------------------------------------------------------------------------------------------


def say_number(progress: Any, number: int) -> None:
    progress[32:36] = struct.pack("I", number)


def where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)


def use(things: Things, narrow: bool, progress: Any, report: int) -> None:
    """Operations until the time is up. The counts of what came of them go to `report`."""
    if isinstance(things, Newcomer):
        things.wait_for_store()
    else:
        say_number(progress, things.number())
    limit = things.room_taken + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # a damaged pickle may ask for any amount
    while progress[36:40] == bytes(4):
        time.sleep(0.001)
    came: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        name, (operation, ends) = things.chance.choice(list(things.operations().items()))
        progress[:24] = name.encode()[:24].ljust(24)
        try:
            operation()
            came["answers"] += 1
        except CorruptedError:
            came["CorruptedError"] += 1
        except DamagedPickle:
            came["of pickle"] += 1
        except ends:
            came["its own errors"] += 1
        except BaseException as error:
            wrong.append(f"{name}: {error!r} {where(error)}")
        try:
            if narrow and not things.beside_is_right():
                wrong.append(f"a bystander after {name}")
        except CorruptedError:
            came["CorruptedError"] += 1
        except BaseException as error:
            wrong.append(f"a bystander after {name}: {error!r} {where(error)}")
        progress[24:32] = struct.pack("Q", sum(came.values()) + len(wrong))
    progress[:24], progress[40] = b"the end".ljust(24), 1
    os.write(report, pickle.dumps((came, [text[:500] for text in wrong[:20]], len(wrong))))
    os._exit(0)


class Watch:
    """Waits for the users: what one of them has died of, or was doing when it did nothing more for a second."""

    def __init__(self, things: Things, pids: list[int], progress: list[Any], strikes: Any) -> None:
        self.pids, self.progress, self.strikes = pids, progress, strikes
        self.mutexes = {things.lock._address[1] + LOCK}
        self.undecided = [0] * len(pids)
        self.segment = Segment(things.d._address[0])
        self.found: list[str] = []
        self.excused: list[str] = []
        self.begun = [(b"", 0.0, 0.0)] * len(pids)  # what each is at, since when, and how long it had no processor then
        self.healed: dict[int, str] = {}  # who must come on now
        self.mended: dict[int, float] = {}  # which words were healed, and when: others may have waited there, too

    @property
    def numbers(self) -> list[int]:
        """As locks name them: a newcomer's is another one each time."""
        return [struct.unpack_from("I", progress, 32)[0] for progress in self.progress]

    def count(self, n: int) -> bytes:
        return bytes(self.progress[n][24:32])

    def done(self, n: int) -> bytes | None:
        return None if self.progress[n][40] else self.count(n)

    def says(self, n: int) -> str:
        return bytes(self.progress[n][:24]).rstrip(b"\0 ").decode()

    def waits_for(self, n: int) -> float:
        """Seconds since it came on, those without a processor left out."""
        if self.begun[n][0] != self.count(n):
            self.begin_again(n)
            self.undecided[n] = 0
            if n in self.healed:
                self.excused.append(self.healed.pop(n))
        return time.monotonic() - self.begun[n][1] - (unready(self.pids[n]) - self.begun[n][2])

    def begin_again(self, n: int) -> None:
        self.begun[n] = self.count(n), time.monotonic(), unready(self.pids[n])

    def struck(self, at: int) -> str:
        """What was written over these four bytes on purpose."""
        written = [new for place, new in struct.iter_unpack("QQ", self.strikes[:]) if place == at & ~7]
        return ", ".join(f"{new >> 32 if at & 4 else new & 0xFFFFFFFF:#x}" for new in written)

    def judge(self, n: int) -> bool:
        """Its wait of a second: is it to go on for now?"""
        wait, what = self.segment.behind(self.segment.wait_of(self.pids[n])), self.says(n)
        if self.count(n) != self.begun[n][0]:  # it has come on meanwhile
            return True
        if n in self.healed:
            self.found.append(f"{what}: nothing for a second more: {self.healed.pop(n)}")
            return False
        if time.monotonic() - self.mended.get(wait.at, -HANG) < HANG:
            self.begin_again(n)
            return True
        verdict, why = FAILED, ""
        if wait.at >= 0:
            judged = (self.segment, wait, n, self.numbers, self.pids, self.mutexes, self.done)
            verdict, why = names_one_who_does_not_hold(*judged)
        struck = self.struck(wait.at)
        if self.undecided[n] < PUT_OFF and (verdict == LATER or (verdict == RING and not struck)):
            self.undecided[n] += 1
            self.begin_again(n)
            return True
        told = f"{what}: nothing for a second; {wait.told}; {why}; written there: {struck or 'nothing'}"
        if verdict not in (EXCUSED, RING):
            self.found.append(told)
            return False
        self.undecided[n] = 0
        self.segment.heal(wait.at)
        self.healed[n], self.mended[wait.at] = told, time.monotonic()
        self.begin_again(n)
        return True

    def all(self) -> None:
        left, last = set(range(len(self.pids))), time.monotonic()
        while left:
            time.sleep(0.01)
            late, last = time.monotonic() - last - 0.05, time.monotonic()
            for n in sorted(left):
                done, status = os.waitpid(self.pids[n], os.WNOHANG)
                if done:
                    left.remove(n)
                    self.excused += filter(None, [self.healed.pop(n, "")])
                    if status:
                        self.found.append(f"{self.says(n)}: ended with status {status}")
                    continue
                if late > 0:  # a judge that had no processor has not seen enough
                    self.begun[n] = self.begun[n][0], self.begun[n][1] + late, self.begun[n][2]
                is_at_its_end = self.progress[n][40]  # what is left is the kernel's: to free its memory
                if not is_at_its_end and self.waits_for(n) > HANG and not self.judge(n):
                    os.kill(self.pids[n], signal.SIGABRT)  # faulthandler tells where
                    os.waitpid(self.pids[n], 0)
                    left.remove(n)


def round_of(seed: int, number: int) -> tuple[collections.Counter[str], list[str], int, str]:
    """In a process of its own. Last comes the name of its segment."""
    chance = random.Random(f"{seed} {number}")
    narrow, is_store = number % 2 == 1, number // 2 % 2 == 1
    address = f"shm://scribbled-{os.getpid()}"
    came: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    progress = [mmap.mmap(-1, 4096) for _ in range(3 if is_store else 2)]
    strikes = mmap.mmap(-1, 16 * (STRIKES + 1))
    pipes, pids = [], []

    def begin(things: Things, narrow: bool) -> None:
        n = len(pids)
        things.chance = random.Random(f"{seed} {number} {n}")
        pipes.append(os.pipe())
        pid = os.fork()
        if not pid:
            use(things, narrow, progress[n], pipes[n][1])
        os.close(pipes[n][1])
        pids.append(pid)

    if is_store:  # it is not to have the segment already
        begin(Newcomer(chance, address, lambda said: say_number(progress[0], said)), False)
    things = Stored(chance, address) if is_store else Things(chance)
    for _ in range(2):
        begin(things, narrow)
    things.chance = chance
    watch = Watch(things, pids, progress, strikes)
    while not all(watch.numbers):
        time.sleep(0.001)
    living = watch.numbers[-2:] if number % 8 == 7 else []
    for shared in progress:
        shared[36] = 1
    pid = os.fork()
    if not pid:
        Writer(things, narrow, chance, strikes, living).write()
        os._exit(0)
    watch.all()
    wrong += watch.found
    if os.waitpid(pid, 0)[1]:
        wrong.append("the writer has died")
    failed = len(wrong)
    for read, _ in pipes:
        with open(read, "rb") as pipe:
            data = pipe.read()
        if data:
            counts, some, many = pickle.loads(data)
            came += counts
            wrong += some
            failed += many
    came["strikes"] = STRIKES
    came["waits for the living"] = len(watch.excused)
    return came, wrong + [f"excused: {told}" for told in watch.excused], failed, things.d._address[0]


def main() -> int:
    seed, rounds = int(sys.argv[1]), int(sys.argv[2])
    first = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    faulthandler.enable()
    came: collections.Counter[str] = collections.Counter()
    failed = 0
    for number in range(first, first + rounds):
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            *figures, name = round_of(seed, number)
            with open(write, "wb") as pipe:
                pipe.write(pickle.dumps(figures))
            is_store = name.startswith(STORE)  # which has been left
            Path("/dev/shm", name).unlink(missing_ok=is_store)
            if not is_store:  # whether it could still be left in order is not asked
                resource_tracker.unregister(f"/{name}", "shared_memory")
            os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            data = pipe.read()
        if os.waitpid(pid, 0)[1] or not data:
            wrong, many = ["the round's own process has died"], 1
        else:
            counts, wrong, many = pickle.loads(data)
            came += counts
        failed += many
        for text in wrong:
            print(f"seed {seed} round {number}: {text}", flush=True)
    note = ", ".join(f"{came[what]:,} {what}" for what in sorted(came))
    tried = sum(came.values()) - came["strikes"] - came["waits for the living"]
    print(f"{tried} tried, {failed} failed: {note}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
