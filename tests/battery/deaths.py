"""Items 1 and 2: each operation of the C layer, killed after each instruction, and then those who repair (kill_each.c).

And a fork for which parent and child both have something to do, each of them killed (kill_both.c). FASTSHM_STEP says after how
many more instructions the next kill comes, FASTSHM_OPERATION that one operation is enough.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from battery import SEEDS, Figure, Mutant, compiled

LINE = re.compile(r"(\d+) kills, (\d+) of rescuers, (\d+) failed, lock free after at most ([\d.]+) ms")
ENOUGH = 5  # operations that failed: the others are not tried any more, for each may hang
HANGS = 1500.0  # milliseconds: the harness asks for 2 s; a scheduler that is late is no holder that is not found dead

BOTH, BOTH_SHORT = 20, 2998  # a trial of two processes takes as long as so many of one; the step of the short form

IMPORTS = False  # the package: its extensions need not be built for the mutants
FOR_MUTANTS = {"FASTSHM_STEP": "23"}  # some show between a few instructions only
A_FORK = {"FASTSHM_STEP": "17", "FASTSHM_OPERATION": "a fork without privileges"}
MUTANTS = (
    Mutant(
        "a dead holder's lock is taken over",
        "lock.h",
        "            if (fs_lock_inherit(heap, l, id))\n                return FS_TAKEN_OVER;\n",
        "",
    ),
    Mutant(
        "its heap transaction is put back first",
        "lock.h",
        "    if (l != &heap->super->heap && !fs_heap_mend(heap, id))\n        return 0;\n",
        "",
        {"FASTSHM_STEP": "3", "FASTSHM_OPERATION": "array resize with a move"},
    ),
    Mutant(
        "its heap transaction is put back",
        "alloc.h",
        "        fs_store_relaxed((uint64_t *)(heap->base + at), s->undo[i].was);\n",
        "",
    ),
    Mutant(
        "what was prepared is dropped",
        "redo.h",
        "            if ((code = fs_drop(me, &r->own[i])) != FS_OK)\n                return code;\n            r->drop[i] = 0;",
        "            r->own[i] = r->drop[i] = 0;",
    ),
    Mutant("what was committed is completed", "redo.h", "            fs_store_release(word, r->redo[i].word);\n", ""),
    Mutant("a list's shift goes on where it stopped", "vector.h", "            r->before[0] = i - 1;\n", ""),
    Mutant(
        "an array's items move in one transaction",
        "array.h",
        "    fs_set(heap, &a->items, fs_offset(heap, b));\n",
        "    a->items = fs_offset(heap, b);\n    fs_crash_order();\n",
    ),
    Mutant(
        "an array's new items are written before they count",
        "array.h",
        "    if (count)\n        fs_copy_racy(run.p + run.count * size, source, count * size);\n    fs_crash_order();\n"
        "    fs_store_release(&a->count, run.count + count);",
        "    fs_store_release(&a->count, run.count + count);\n    fs_crash_order();\n    if (count)\n"
        "        fs_copy_racy(run.p + run.count * size, source, count * size);",
        {"FASTSHM_STEP": "1", "FASTSHM_OPERATION": "array extend, with room"},
    ),
    Mutant(
        "an array's stage counts until it is copied",
        "array.h",
        "        fs_spread(run.p + at, step, (const char *)b + FS_HEADER, run.size, count, repeated);\n"
        "        fs_crash_order();\n        a->stage_state = 0;\n",
        "        a->stage_state = 0;\n        fs_crash_order();\n"
        "        fs_spread(run.p + at, step, (const char *)b + FS_HEADER, run.size, count, repeated);\n",
        {"FASTSHM_STEP": "2", "FASTSHM_OPERATION": "array slice"},
    ),
    Mutant(
        "a dead process's handles are let go",
        "reap.h",
        "        if ((r = fs_drop(me, &p->slot[i])) != FS_OK)",
        "        if (0)",
    ),
    Mutant(
        "a child without privileges takes up what its parent still claims",
        "registry.h",
        "    if ((r = fs_is_shared(fd, 1, id)) == 1)\n        return FS_OK;\n",
        "    if ((r = 1) == 1)\n        return FS_OK;\n",
        A_FORK,
    ),
    Mutant(
        "its parent waits until it has claimed its number",
        "identity.h",
        "    fs_birth_await();\n    fs_heirs_discard();",
        "    fs_heirs_discard();",
        A_FORK,
    ),
    Mutant(
        "its parent gives up that number",
        "registry.h",
        "        fs_unclaim(fd, heap->by_process, heir->id);\n",
        "        ;\n",
        A_FORK,
    ),
)


def run(short: bool) -> Iterator[Figure]:
    """Every operation that kill_each.c lists, and every fork of kill_both.c's."""
    step = int(os.environ.get("FASTSHM_STEP", "1499" if short else "1"))
    yield from swept("kill_each.c", step, short, "operations")
    yield from swept("kill_both.c", BOTH_SHORT if short else step * BOTH, short, "forks")


def swept(source: str, step: int, short: bool, what: str) -> Iterator[Figure]:
    program = compiled(source)
    wrong: list[str] = []
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.splitlines()
    only = os.environ.get("FASTSHM_OPERATION", "")
    names = [name for name in names if only in ("", name)] or names[:1]

    def sweep(name: str) -> tuple[int, int, int, float]:
        if len(wrong) >= ENOUGH:
            return 0, 0, 0, 0.0
        patience = ["timeout", "--signal=KILL", "300" if only else "60"] if short else []
        command = [*patience, program, str(step), name, str(SEEDS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = LINE.search(done.stdout)
        if done.returncode or not found:
            wrong.append(name)
            print(f"seed {SEEDS}, {name}, exit {done.returncode}:", done.stdout, done.stderr, file=sys.stderr)
        if not found:
            return 1, 0, 1, 0.0
        kills, rescuers, failed = (int(found[i]) for i in (1, 2, 3))
        return kills, rescuers, max(failed, int(done.returncode != 0)), float(found[4])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(sweep, names))
    kills, rescuers, failed = (sum(row[i] for row in rows) for i in (0, 1, 2))
    slowest = max(row[3] for row in rows)
    how = "every instruction" if step == 1 else f"every {step}th instruction"
    if what == "forks":
        yield Figure(
            f"kill parent, child or both at {how} of a fork without privileges", kills, failed, f"{len(names)} kinds of {what}"
        )
        return
    yield Figure(f"kill at {how}", kills, failed, f"{len(names)} {what}, each at least once to its end")
    yield Figure("kill the rescuers, one or two", rescuers, failed, "judged together with the row above")
    yield Figure("lock not free when wanted", len(rows), sum(row[3] > HANGS for row in rows), f"{slowest:.1f} ms at most")
