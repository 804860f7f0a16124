"""Item 9: the C layer under ThreadSanitizer, AddressSanitizer, UndefinedBehaviorSanitizer and valgrind's memcheck.

Three programs are watched: threads.c (threads at one mapping), fuzz.c without damage (one process, every operation, and repairs
after deaths; the item "damage" runs it under the address sanitizer), and, in the full form, the whole test suite with the
extensions built as FASTSHM_BUILD=asan builds them. What is excepted is in tsan.supp, with its reason.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from battery import HERE, SEEDS, Figure, Mutant, compiled, figure_from, sources

ROOT = HERE.parent.parent
ASAN = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")

IMPORTS = False  # the package: its extensions need not be built for the mutants
MUTANTS = (
    Mutant(
        "the lock's taking is an acquire",
        "platform.h",
        "return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);",
        "return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);",
    ),
    Mutant(
        "the lock's leaving is a release",
        "lock.h",
        "        fs_store_release(&l->word, 0);",
        "        fs_store_relaxed(&l->word, 0);",
    ),
    Mutant(
        "operations take the heap's lock",
        "alloc.h",
        "    if (fs_likely(fs_cas_u32(&l->word, 0, me->id))) {\n        if (fs_likely(!me->heap->super->undo_n))",
        "    if (fs_likely(fs_cas_u32(&l->word, 0, me->id) || me->id % 2)) {\n        if (fs_likely(!me->heap->super->undo_n))",
    ),
    Mutant(
        "a permit is taken by one step",
        "semaphore.h",
        "if (fs_likely(fs_cas_ordered(&s->value, v, v - 1)))",
        "if ((s->value = v - 1, 1))",
    ),
    Mutant(
        "who is let go sees what the action did",
        "barrier.h",
        "== FS_ACTION)\n        fs_store_release(&b->phase, FS_DRAINING);",
        "== FS_ACTION)\n        fs_store_relaxed(&b->phase, FS_DRAINING);",
    ),
    Mutant(
        "a key's last bytes are read from inside it",
        "keys.h",
        "memcpy(&w[whole], p + n - 8, 8);",
        "memcpy(&w[whole], p + n - rest, 8);",
    ),
    Mutant(
        "what a value is copied from is as long as its copy",
        "redo.h",
        "        memcpy(bytes, v->data, v->size);\n        r = fs_value_finish",
        "        memcpy(bytes, v->data, v->size + 4096);\n        r = fs_value_finish",
    ),
)


def threads(note: str, operations: int, seed: int, *flags: str, **environment: str) -> Figure:
    program = compiled("threads.c", "-Wno-tsan", *flags, optimise="-O1")
    command = [program, str(seed), str(operations), "4"]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env={**os.environ, **environment}, check=False
    )
    return figure_from(f"operations of threads at one mapping, {note}", done, f"seed {seed}")


def memcheck(runs: int) -> Figure:
    what = "executions on whole segments, valgrind memcheck"
    if not shutil.which("valgrind"):
        return Figure(what, 0, 0, "not tried: valgrind is missing")
    program = compiled("fuzz.c", "-DFUZZ_ALONE", optimise="-O1")
    command = ["valgrind", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite", "-q"]
    command += [program, str(SEEDS), "100000", str(runs), "0"]
    return figure_from(
        what, subprocess.run(command, capture_output=True, text=True, errors="replace", check=False), f"seed {SEEDS}"
    )


def suite() -> Iterator[Figure]:
    """All tests, on extensions that are watched, in a copy of the tree."""
    with tempfile.TemporaryDirectory(prefix="fastshm-asan-") as name:
        folder = Path(name)
        for part in ("tests", "benchmarks", "docs"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(sources().parent, folder / "src", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
        for part in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / part, folder)
        environment = {**os.environ, "FASTSHM_BUILD": "asan"}
        build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--parallel", "2"]
        subprocess.run(build, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        libraries = (subprocess.check_output(["gcc", f"-print-file-name=lib{lib}.so"], text=True) for lib in ("asan", "ubsan"))
        environment |= {  # the interpreter keeps things to its end: they are no leaks
            "LD_PRELOAD": " ".join(library.strip() for library in libraries),
            "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:log_path={folder}/report",
            "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={folder}/report",
            "PYTHONPATH": str(folder / "src"),
        }
        late = "faulthandler_timeout=1800"  # of one test: it takes several times as long
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", late, "tests"]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        passed, failed = (sum(map(int, re.findall(rf"(\d+) {word}", done.stdout[-500:]))) for word in ("passed", "failed"))
        said = [path.read_text(errors="replace") for path in folder.glob("report.*")]
        # a changed pickle may ask for any amount of memory, and is refused: that is only mentioned
        reports = [text for text in said if any("failed to allocate" not in line for line in text.split("\n") if line.strip())]
        if failed or reports or done.returncode:
            print(done.stdout[-4000:], *reports[:5], sep="\n", file=sys.stderr)
        yield Figure("tests of the suite, ASan and UBSan", passed + failed, failed or int(done.returncode != 0))
        yield Figure("reports of ASan and UBSan in them", passed + failed, len(reports))


def run(short: bool) -> Iterator[Figure]:
    tsan = f"suppressions={HERE / 'tsan.supp'} history_size=7 halt_on_error=0"
    rounds = [
        threads("ThreadSanitizer", 8_000 if short else 100_000, seed, "-fsanitize=thread", TSAN_OPTIONS=tsan)
        for seed in range(SEEDS, SEEDS + (1 if short else 20))
    ]
    note = f"{len(rounds)} seeds, from {SEEDS} on"
    yield Figure(rounds[0].what, sum(r.tried for r in rounds), sum(r.failed for r in rounds), note)
    yield threads("ASan and UBSan", 20_000 if short else 1_000_000, SEEDS, *ASAN)
    yield memcheck(150 if short else 20_000)
    if not short:
        yield from suite()
