"""Item 6: the n-th call of each kind fails, for n = 1, 2, ... until the operation makes fewer.

The C layer under failing_calls.c, the package under failing_operations.py with the library failing_shim.c preloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

from battery import HERE, Figure, Mutant, compiled, figure_from

WRAPPED = ("open", "mmap", "posix_fallocate", "fcntl", "malloc", "realloc", "calloc", "syscall")
MUTANTS = (
    Mutant(
        "who cannot be told dead counts as alive",
        "platform.h",
        "if (fs_byte_lock(probe_fd, F_OFD_GETLK, F_WRLCK, id, 1, &f) == -1)\n        return 1;",
        "if (fs_byte_lock(probe_fd, F_OFD_GETLK, F_WRLCK, id, 1, &f) == -1)\n        return 0;",
    ),
    Mutant(
        "a refused transaction is rolled back",
        "alloc.h",
        "    if (fs_rollback(me->heap) != FS_OK)\n        code = FS_CORRUPT;\n    fs_heap_leave(me);\n    return code;",
        "    fs_commit(me->heap);\n    fs_heap_leave(me);\n    return code;",
    ),
    Mutant(
        "private room for handle slots before the shared one",
        "registry.h",
        "int r = fs_slots_room(heap, FS_HANDLES_INLINE + (n + 1) * FS_HANDLES_CHUNK);",
        "int r = FS_OK;",
    ),
    Mutant(
        "an heir that fails gives its descriptor back",
        "registry.h",
        "    if (heir->live_fd != -1)\n        close(heir->live_fd);\n",
        "",
    ),
    Mutant(
        "a copy looks whether malloc has failed",
        "snapshot.h",
        "    if (room && !g.start)\n        return FS_PRIVATE_NOMEM;\n",
        "",
    ),
    Mutant(
        "a segment that cannot be made leaves no file",
        "membership.h",
        "    if (r != FS_OK)\n        fs_file_unmake(path, &file);",
        "    (void)file;",
    ),
    Mutant(
        "a handle that cannot be made gives its slot back",
        "_core.pyx",
        "        release_slot(heap, slot)\n        raise\n    ref.heap = heap",
        "        raise\n    ref.heap = heap",
    ),
    Mutant(
        "what setdefault returns is made before it is stored",
        "_dict.pyx",
        "            held = value_of(out, &v, self.ref.heap)\n            out = as_stored",
        "            held = value_of(out, &v, self.ref.heap)\n"
        "            self.put(key, default, FS_PUT_IF_ABSENT)\n            out = as_stored",
    ),
)


def run(short: bool) -> Iterator[Figure]:
    """All of it; the short form leaves out most of the large n of Python's own memory."""
    harness = compiled("failing_calls.c", "-Wl," + ",".join(f"--wrap={name}" for name in WRAPPED))
    done = subprocess.run([harness], capture_output=True, text=True, check=False)
    yield figure_from("failing calls under the operations of the C layer", done)
    shim = compiled("failing_shim.c", "-shared", "-fPIC", "-ldl")
    for group, what in (
        ("calls", "failing calls under the operations of the package, and grains left of a segment"),
        ("objects", "failing allocations of Python's own objects"),
        ("first", "either, when a process makes its segment or attaches to others"),
    ):
        command = [sys.executable, HERE / "failing_operations.py", group, str(int(short))]
        environment = {**os.environ, "LD_PRELOAD": shim}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        figure = figure_from(what, done)
        if "KeyError" in done.stderr:  # the resource tracker was told of a name that it does not know
            print(done.stderr, file=sys.stderr)
            figure = figure._replace(failed=figure.failed + 1, note="the resource tracker complains")
        yield figure
