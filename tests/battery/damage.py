"""Item 7: a segment with damaged bytes gives errors; never a signal, a stray access or a hang.

fuzz.c is driven by libFuzzer where there is clang (the note says so), else by its own random inputs. FASTSHM_EXECUTIONS says
how many executions the full form makes.
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

from battery import HERE, SEEDS, Figure, Mutant, compiled, figure_from

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
LONGEST = 100  # bytes of an input
PROGRAM = """
#include <stddef.h>
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) { return data && size > 100000; }
"""

# Inputs that once went wrong, or would without the check that is named. They are also what libFuzzer starts from.
INPUTS = {
    "a place in a barrier that has another number of the same process": (
        "d4ffff0238ef48d464726f7020636f6e7461986e697f200048393840393f1380c740393fc74046c2c2ff2646"
    ),
    "an empty list has no slots to point at": "de8dfe1d972c923a6d7f017a0177dcdcdcdcdcdcdedc26dc25e040000000a70025006e9a",
    "a redo list has room": "25000140a1cc5c3b0abf",
    "a shift stays inside the slots": "0f0c0125dc498b9c5d11",
    "an undone word lies in the segment": "220101644289ab6a2a42",
    "an index slot names an entry that there is": "29450affed981b51e9eb00a70e0a04",
    "the undo log has room": "2a080119924fab1b1510510ab22a1225",
    "the end of the segment is looked at before it grows": "080001d57d5d1e521e5a",
    "a list of processes ends": "0110ffb20004",
    "a value's bytes lie inside its block": "100c010a1e07a61e086d77c01396",
    "a table's arrays are of their kind and large enough": "780001fc149dbfc8000d",
    "the checker's walk ends": "1108013a0dc8232aec",
    "the quick lists are emptied once": "170801b990eec66c401cfc211a",
    "arrays of a damaged heap may overlap": "6106016309f63e2e1e7918b10f03",
    "a table has entries after it has grown": "010801ab63ef6c62d00aab0af2",
    "the count of what is dying is loaded once": "5c0801044b9f19372f09a02702",
    "a ledger's nets are as small as can be": "da9a7fcfffffffff78480aff2fff3d000cf6fffe7a9595ff3a38",
    "a ledger fits in its block": "d41a4000d400000000001a4018",
    "a ledger has two halves": "de8dfe18ff1dc2e2429c",
    "a barrier has as many places as parties": "920001000400ffffffffffffffff3b003b08",
    "a place is taken by a number that there can be": "d4010102040000000000f0ffffff3b0939403948",
    "permits are somebody's": "9201015f0401020030413049",
}

MUTANTS = (
    Mutant(
        "a redo list has room",
        "redo.h",
        "    if (fs_unlikely(n >= FS_REDO_WORDS)) { /* damage",
        "    if (0) { /* damage",
    ),
    Mutant(
        "a shift stays inside the slots",
        "vector.h",
        " || from >= s.capacity || to >= s.capacity)",
        ")",
    ),
    Mutant(
        "an undone word lies in the segment",
        "alloc.h",
        "if (at % 8 || at < 64 || at > heap->size - 8 || (at >= FS_FIRST && !fs_at(heap, at, 8)))",
        "if (at % 8)",
    ),
    Mutant(
        "an index slot names an entry that there is",
        "table.h",
        "        if (fs_unlikely(number >= v->capacity))\n            return FS_CORRUPT;\n",
        "",
    ),
    Mutant(
        "a list of processes ends",
        "reap.h",
        "if (!p || fs_goes_round(&trail, at)) {",
        "if (!p) {",
    ),
    Mutant(
        "an offset lies where there are pages",
        "local.h",
        "        if (offset > limit || length > limit - offset)\n            return NULL;\n",
        "",
    ),
    Mutant(
        "a ledger fits in its block",
        "bounded.h",
        "    if (!raw || l->half > 1 || l->room > (fs_room(heap, raw) - FS_HEADER) / 16)",
        "    if (!raw || l->half > 1)",
    ),
    Mutant(
        "a ledger's nets are as small as can be",
        "bounded.h",
        "return everybody ? FS_CORRUPT : fs_ledger_fold(me, b, 1);",
        "return fs_ledger_fold(me, b, 1);",
    ),
    Mutant(
        "permits are somebody's",
        "bounded.h",
        "        if (!s.id && s.net > 0) /* they would never come back */\n            return FS_CORRUPT;\n",
        "",
    ),
    Mutant(
        "a barrier has as many places as parties",
        "barrier.h",
        "    return room <= most && room == (parties > 0 ? (uint64_t)parties : 1) ? room : 0;",
        "    (void)most;\n    (void)parties;\n    return room;",
    ),
    Mutant(
        "a place is taken by a number that there can be",
        "barrier.h",
        "id != me->id && (id > FS_LAST_ID || !fs_alive(me->heap, (uint32_t)id));",
        "id != me->id && (uint32_t)id && !fs_alive(me->heap, (uint32_t)id);",
    ),
    Mutant(
        "a text is what its kind says",
        "_codec.pyx",
        "    except UnicodeDecodeError:\n        return damaged()",
        "    except ZeroDivisionError:\n        return damaged()",
    ),
    Mutant(
        "a death in the middle of a list's change is put right",
        "vector.h",
        "                r->before[0] = i + 1;\n",
        "",
    ),
)


def has_libfuzzer() -> bool:
    """Whether clang is here, with the runtime that a fuzzer needs."""
    if not shutil.which("clang"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "try.c"), Path(folder, "try")
        source.write_text(PROGRAM)
        command = ["clang", "-fsanitize=fuzzer,address", source, "-o", program]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def libfuzzer(program: str, runs: int, known: str) -> Figure:
    """So many executions. What failed is kept in the folder that the note names."""
    what = "executions on damaged segments: attach, walk, use"
    corpus = os.path.join(os.path.dirname(program), "corpus")
    shutil.copytree(known, corpus, dirs_exist_ok=True)
    kept = os.environ.get("FASTSHM_CORPUS")  # of an earlier sitting
    command = [program, corpus, *([kept] if kept else []), f"-runs={runs}", f"-seed={SEEDS}", f"-max_len={LONGEST}"]
    command += ["-timeout=10", "-print_final_stats=1", "-close_fd_mask=1", f"-artifact_prefix={corpus}/"]
    environment = {**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=8"}
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", env=environment, check=False)
    tried = int((re.findall(r"number_of_executed_units: (\d+)", done.stderr) or ["0"])[0])
    note = f"libFuzzer, ASan and UBSan, seed {SEEDS}"
    if done.returncode:
        shown = [line for line in done.stderr.splitlines() if not line.startswith(("#", "\tNEW_FUNC"))]
        print(*shown[-40:], sep="\n", file=sys.stderr)
    return Figure(what, tried, int(done.returncode != 0), note)


def run(short: bool) -> Iterator[Figure]:
    executions = int(os.environ.get("FASTSHM_EXECUTIONS", "10000000"))
    alone = compiled("fuzz.c", "-DFUZZ_ALONE", *SANITIZERS, optimise="-O1")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in INPUTS.items():
            Path(folder, name.replace(" ", "-")).write_bytes(bytes.fromhex(text))
        kept = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
        done = subprocess.run([alone, *kept], capture_output=True, text=True, check=False)
        yield figure_from("inputs that once went wrong", done)
        done = run_alone(alone, 30_000 if short else 1_000_000, 0)
        yield figure_from("executions on whole segments, also after a death: all stays whole", done)
        if has_libfuzzer():
            program = compiled("fuzz.c", "-fsanitize=fuzzer", *SANITIZERS, compiler="clang", optimise="-O1")
            yield libfuzzer(program, 60_000 if short else executions, folder)
        else:
            done = run_alone(alone, 60_000 if short else executions, 1)
            note = f"inputs of its own, not libFuzzer: ASan and UBSan by gcc, seed {SEEDS}"
            yield figure_from("executions on damaged segments: attach, walk, use", done, note)
    command = [sys.executable, str(HERE / "scribbler.py"), str(SEEDS), "8" if short else "1500"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    yield figure_from("operations while another process scribbles", done)


def run_alone(program: str, runs: int, damage: int) -> subprocess.CompletedProcess[str]:
    command = [program, str(SEEDS), "100000", str(runs), str(damage)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
