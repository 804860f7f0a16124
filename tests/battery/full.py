"""Item 5: full memory. What a tmpfs or a limit allows is filled with every kind of object; see filling.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from battery import HERE, SEEDS, Figure, Mutant, figure_from, memory_of_its_own, with_own_memory

MUTANTS = (
    Mutant(
        "the pages are asked for before they are touched",
        "platform.h",
        "int e = posix_fallocate(fd, (off_t)start, (off_t)n);",
        "(void)fd; int e = 0;",
    ),
    Mutant(
        "no room in the tmpfs is MemoryError",
        "platform.h",
        "if (e == ENOSPC || e == ENOMEM || e == EFBIG || e == EDQUOT)",
        "if (e == ENOMEM || e == EFBIG || e == EDQUOT)",
    ),
    Mutant(
        "the file size limit is MemoryError",
        "heap.py",
        "                size //= 2\n                if size < SMALLEST:",
        "                raise\n                if size < SMALLEST:",
    ),
    Mutant(
        "the refusal says how much is free",
        "_core.pyx",
        "{f.f_bavail * f.f_frsize:,} bytes are free in /dev/shm{used}",
        "/dev/shm is full{used}",
    ),
    Mutant(
        "blocks in quick lists are merged before memory is refused",
        "alloc.h",
        "        r = fs_flush_quick(heap);\n        return r == FS_OK",
        "        return r == FS_OK",
    ),
    Mutant(
        "a change that found no room gives back what it had taken",
        "redo.h",
        "            if ((code = fs_drop(me, &r->own[i])) != FS_OK)\n                return code;",
        "            r->own[i] = 0; code = 0;",
    ),
    Mutant(
        "a child for which there was no room shuts its heap",
        "identity.h",
        "    fs_shut(heap, FS_SHUT_FORKED);",
        "    heap->shut = 0;",
    ),
    Mutant(
        "what a manager switches is shut with its heap",
        "local.h",
        "    for (fs_switch *s = heap->switches; s; s = s->next)\n        *s->closed = why ? &heap->shut : s->by;",
        "    ",
    ),
)

SHORT = (("tmpfs", 1), ("file size", 2), ("address space", 2), ("two families", 1), ("two in one", 1))
LONG = (
    *(("tmpfs", megabytes) for megabytes in (1, 2, 4, 8, 16, 32, 64)),
    *(("file size", megabytes) for megabytes in (2, 8, 32)),
    *(("address space", megabytes) for megabytes in (4, 16, 64)),
    *(("two families", megabytes) for megabytes in (1, 4, 16, 64)),
    *(("two in one", megabytes) for megabytes in (1, 4, 16, 64)),
)
ONCE = (("descriptors", 32), ("fork", 1))


def filled(way: str, megabytes: int, *more: str) -> Figure:
    program = [sys.executable, str(HERE / "filling.py"), way, str(SEEDS), *more]
    done = subprocess.run(with_own_memory(program, megabytes), capture_output=True, text=True, check=False)
    return figure_from(f"full: {way}, {megabytes} MiB", done)


def limited_cgroup() -> Path | None:
    """A new memory cgroup of 32 MiB, where that may be made."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        folder = Path(root) / f"fastshm-battery-{os.getpid()}"
        with suppress(OSError):
            folder.mkdir()
            try:
                (folder / limit).write_text(str(32 << 20))
                return folder
            except OSError:
                folder.rmdir()
    return None


def run(short: bool) -> Iterator[Figure]:
    """Each in a /dev/shm of its own."""
    if not memory_of_its_own():
        yield Figure("full memory", 1, 1, "needs the right to mount a tmpfs")
        return
    for way, megabytes in (*(SHORT if short else LONG), *ONCE):
        yield filled(way, megabytes)
    cgroup = limited_cgroup()
    if cgroup is None:
        yield Figure("full: cgroup", 0, 0, "not tried: no right to make a memory cgroup")
        return
    try:
        yield filled("cgroup", 256, "", str(cgroup))
    finally:
        cgroup.rmdir()
