"""Item 8: signals at any moment. What is interrupted is whole, old or new; nothing is left held; nothing leaks.

Two kinds are counted apart. A handler in Python runs between two bytecodes, or where an operation that waits asks for
signals: so it is what raises, and what may use the same objects again. A handler in C runs between two instructions, also
within our code, and ends system calls (waits, page claims) with EINTR: no operation may notice.

Promised to handlers: whatever they do with shared objects is as if it had been done before or after the interrupted operation.
A handler that wants a Lock which the code that it interrupted holds waits for ever, as with the stdlib's; RLocks and get_lock()
let it in. `with` leaves no window: no signal is looked for between the taking of the lock and the body. Not promised: that
what a handler pickles can be sent elsewhere when it has interrupted the pickling of a container's value.
"""

from __future__ import annotations

from collections.abc import Iterator

from battery import Figure, Mutant, compiled
from trials import figure

NAMES = {"alone": "nothing", "object": "the object", "heap": "the heap"}

MUTANTS = (
    Mutant("a wait for the heap looks for signals", "_core.pyx", "    let_signals_in(me)\n    me.wait = 1", "    me.wait = 1"),
    Mutant(
        "a wait for an object looks for signals",
        "_locks.pyx",
        "        let_signals_in(me)\n        identity = ref.heap.h.process_id",
        "        identity = ref.heap.h.process_id",
    ),
    Mutant(
        "a wait for a value looks for signals",
        "_calls.pxd",
        "        let_signals_in(me)\n        check_gate(ref)\n        with nogil:\n            r = fs_item_wait",
        "        check_gate(ref)\n        with nogil:\n            r = fs_item_wait",
    ),
    Mutant(
        "and not once it has the lock",
        "_locks.pyx",
        "    return -1 if r == FS_TIMEOUT else r",
        "    PyErr_CheckSignals()\n    return -1 if r == FS_TIMEOUT else r",
    ),
    Mutant(
        "a signal counts as the end of a nap",
        "lock.h",
        "        int r = fs_wait(&l->word, want, left);",
        "        int r = fs_wait(&l->word, want, left);\n        if (r == FS_INTERRUPTED)\n            return r;",
    ),
    Mutant("page claims go on after EINTR", "platform.h", "        if (e == EINTR) {", "        if (0) {"),
)


def run(short: bool) -> Iterator[Figure]:
    often = (60, 0.03) if short else (5200, 4.0)
    for mode in NAMES:
        yield figure(f"a handler raises; a rival for the lock of: {NAMES[mode]}", "interrupting", mode, *often)
    yield figure("a handler raises: `with` and its lock", "interrupting", "windows", 200 if short else 20_000)
    yield figure("a handler raises: how soon, out of a wait", "interrupting", "through", 1 if short else 10)
    yield figure("a handler raises: the first use of a process", "interrupting", "begin", 60 if short else 3000)
    yield figure("a handler returns: the dead are still found", "interrupting", "deaths", 3 if short else 200)
    yield figure("a handler uses the same objects", "interrupting", "use", 1.5 if short else 120)
    for mode in NAMES:
        yield figure(
            f"a handler in C; a rival for the lock of: {NAMES[mode]}", "interrupting", "c", mode, 0.01 if short else 1.0
        )
    before = ("env", f"LD_PRELOAD={compiled('interrupts.c', '-shared', '-fPIC', '-DCUT_CLAIMS')}")
    yield figure("a handler in C: growth", "interrupting", "grow", 160 if short else 1600, before=before)
    yield figure("a handler in C: forks, segments, threads", "interrupting", "come", 40 if short else 3000)
