"""The battery: everything that is promised about deaths, damage, full memory and races, tried until it breaks.

    python tests/battery/run.py [--short] [ITEM ...]        the items (default: all), and their table
    python tests/battery/run.py --mutants [ITEM ...]        takes each safeguard away: its item must fail
    python tests/battery/run.py --record [ITEM ...]         also writes their rows into docs/reliability.md; so does --mutants

Judges the fastshm that this interpreter imports, and the headers of this tree. Each item runs with a /dev/shm of its own where
that is allowed (root, or user namespaces). An item is a module here with `run(short)`, which yields Figures, and `MUTANTS`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from battery import HERE, Figure, Mutant, memory_of_its_own, names, with_own_memory

ROOT = HERE.parent.parent
RELIABILITY = ROOT / "docs" / "reliability.md"
ITEMS = {
    "deaths": "1, 2. Kill at every instruction; kill the rescuer",
    "load": "3. Random kills under load",
    "identity": "4. Identity",
    "full": "5. Full memory",
    "failing_calls": "6. Failing calls",
    "damage": "7. Damage",
    "interrupts": "8. Interrupts",
    "sanitizers": "9. Sanitizers",
    "models": "10. Models",
    "linearizability": "11. Linearizability",
    "leaks": "12. Leaks",
    "access": "13. Lets no one in",
}
COLUMNS = "| item | form | tried what | tried | failed | seconds | note | date |"
HEAD = f"{COLUMNS}\n| --- | --- | --- | ---: | ---: | ---: | --- | --- |"
END = "<!-- end of the table -->"
MUTANTS_HEAD = "| item | safeguard taken away | noticed by | failed of tried | date |\n| --- | --- | --- | ---: | --- |"
MUTANTS_END = "<!-- end of the mutants -->"
NOTHING = "nothing"  # is taken away: the item must not fail, as it is built for its mutants


def run_here(item: str, short: bool, first: bool) -> None:
    """Run one item in this process, perhaps only to its first failure; a figure a line on stdout, as JSON."""
    begin = time.monotonic()
    for figure in importlib.import_module(item).run(short):
        print("figure", json.dumps([*figure, time.monotonic() - begin]), flush=True)
        begin = time.monotonic()
        if first and figure.failed:
            return
    left = names() if os.environ.get("FASTSHM_OWN_MEMORY") else set()
    print("figure", json.dumps([*Figure("names left in /dev/shm", 1, len(left), " ".join(sorted(left)[:3])), 0.0]))


def end_all(folder: str) -> None:
    """SIGKILL for all that an item has started and that did not end with it: they have its folder in their environment."""
    mark = f"FASTSHM_BATTERY={folder}\0".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in entry.read_bytes() + b"\0":
                os.kill(int(entry.parent.name), signal.SIGKILL)


def figures(item: str, own: bool, environment: dict[str, str], seconds: float, *options: str) -> Iterator[tuple[Figure, float]]:
    """Run one item in a process of its own. What it says that is no figure goes to stderr."""
    command = [sys.executable, __file__, "--here", *options, item]
    with tempfile.TemporaryDirectory(prefix="fastshm-battery-") as folder:
        environment = {**environment, "FASTSHM_BATTERY": folder, **({"FASTSHM_OWN_MEMORY": "1"} if own else {})}
        command = with_own_memory(command) if own else command
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
        late = threading.Event()

        def end() -> None:
            late.set()
            end_all(folder)

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            for line in process.stdout or ():
                if line.startswith("figure "):
                    *fields, took = json.loads(line[7:])
                    yield Figure(*fields), took
                else:
                    print(line, end="", file=sys.stderr)
            process.wait()
        finally:
            timer.cancel()
            end_all(folder)
            process.wait()
        if late.is_set():
            yield Figure("came to an end", 1, 1, f"not within {seconds:.0f} s"), seconds
        elif process.returncode:
            yield Figure("ran to its end", 1, 1, f"exit {process.returncode}"), 0.0


def title(item: str) -> str:
    return ITEMS[item].split(";")[0]


def row(item: str, form: str, figure: Figure, seconds: float) -> str:
    today = datetime.date.today().isoformat()
    note = figure.note.replace("|", "/")
    tried = f"{figure.tried:,} | {figure.failed:,} | {seconds:.1f}"
    return f"| {title(item)} | {form} | {figure.what} | {tried} | {note} | {today} |"


def record(head: str, end: str, rows: dict[str, list[str]], cells: int) -> None:
    """Put rows into that table of docs/reliability.md, instead of those that begin with the same cells; the others' stay."""
    text = RELIABILITY.read_text()
    begin, last = text.index(head), text.index(end)
    old = text[begin:last].strip().splitlines()[2:]

    def begins(line: str) -> list[str]:
        return line.split(" | ")[:cells]

    lines = []
    for item in ITEMS:
        new = rows.get(item, [])
        known = {tuple(begins(line)) for line in new}
        kept = [line for line in old if line.startswith(f"| {title(item)} |") and tuple(begins(line)) not in known]
        lines += kept + new
    RELIABILITY.write_text(text[:begin] + head + "\n" + "\n".join(lines) + "\n\n" + text[last:])


def build(folder: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--parallel", "2"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def build_base(folder: Path) -> None:
    """A copy of the tree from which each mutant's is made. Built by -O1, which takes half the time of -O2."""
    for part in ("src", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
        else:
            shutil.copy(source, folder / part)
    setup = folder / "setup.py"
    setup.write_text(setup.read_text().replace('"-O2"', '"-O1"'))
    build(folder)


def build_mutant(mutant: Mutant, base: Path, folder: Path, extensions: bool) -> None:
    """The base with the safeguard taken away. Only what has changed is built again."""
    shutil.copytree(base, folder, dirs_exist_ok=True)
    file = folder / "src" / "fastshm" / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        raise LookupError(f"{mutant.file} has its text {text.count(mutant.old)} times")
    file.write_text(text.replace(mutant.old, mutant.new))
    if file.suffix == ".py" or not extensions:
        return
    if file.suffix == ".h":  # no reason to run Cython again
        for source in folder.glob("build-release/src/fastshm/*.c"):
            os.utime(source)
    build(folder)
    if not any(built.stat().st_mtime > file.stat().st_mtime for built in file.parent.glob("*.so")):
        raise LookupError(f"no extension was built again for {mutant.file}")


def imported_from(folder: Path) -> dict[str, str]:
    """The environment in which that tree is what is imported and included."""
    package = folder / "src" / "fastshm"
    return {**os.environ, "PYTHONPATH": str(package.parent), "FASTSHM_SOURCES": str(package)}


def try_mutants(items: list[str], own: bool, seconds: float, only: str) -> tuple[bool, dict[str, list[str]]]:
    """Each safeguard taken away in a copy of the tree: true when every item notices, and notices nothing else; the rows."""
    right, rows, today = True, {}, datetime.date.today().isoformat()
    with tempfile.TemporaryDirectory(prefix="fastshm-mutant-") as name:
        base, folder = Path(name, "base"), Path(name, "mutant")
        base.mkdir()
        build_base(base)
        for item in items:
            module, rows[item] = importlib.import_module(item), []
            for mutant in (Mutant(NOTHING, "", "", ""), *module.MUTANTS):
                if not re.search(only, mutant.safeguard):
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    if mutant.safeguard == NOTHING:
                        shutil.copytree(base, folder)
                    else:
                        build_mutant(mutant, base, folder, getattr(module, "IMPORTS", True))
                    options = ("--short", "--first-failure")
                    environment = {**imported_from(folder), **getattr(module, "FOR_MUTANTS", {}), **mutant.settings}
                    found = [seen for seen, _ in figures(item, own, environment, seconds, *options) if seen.failed]
                except LookupError as error:
                    found = []
                    print(f"{mutant.safeguard}: {error}", file=sys.stderr)
                right &= bool(found) == (mutant.safeguard != NOTHING)
                by, counts = (found[0].what, f"{found[0].failed:,} of {found[0].tried:,}") if found else ("nothing", "")
                rows[item].append(f"| {title(item)} | {mutant.safeguard} | {by} | {counts} | {today} |")
                print(rows[item][-1], flush=True)
    return right, rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few minutes for all of it")
    parser.add_argument("--mutants", action="store_true", help="does each item fail when its safeguard is gone?")
    parser.add_argument("--only", default="", metavar="REGEX", help="of the mutants")
    parser.add_argument("--record", action="store_true", help="write the table into docs/reliability.md")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--first-failure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("items", nargs="*", metavar="ITEM", help=", ".join(ITEMS))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing that was started stays
    unknown = set(options.items) - set(ITEMS)
    if unknown:
        parser.error(f"no such item: {', '.join(sorted(unknown))}; there are {', '.join(ITEMS)}")
    items = options.items or list(ITEMS)
    if options.here:
        run_here(items[0], options.short, options.first_failure)
        return 0
    own, seconds = memory_of_its_own(), 600.0 if options.short else 1200.0 if options.mutants else 6 * 3600.0
    if not own:
        print("no right to mount: everything runs on the common /dev/shm, its names are not counted", file=sys.stderr)
    if options.mutants:
        right, rows = try_mutants(items, own, seconds, options.only)
        if options.record:
            record(MUTANTS_HEAD, MUTANTS_END, rows, 2)
        return int(not right)
    failed, begin = 0, time.monotonic()
    form = ("--short",) if options.short else ()
    print(HEAD, flush=True)
    for item in items:
        rows = {item: []}
        for figure, took in figures(item, own, dict(os.environ), seconds, *form):
            failed += figure.failed
            rows[item].append(row(item, "short" if form else "full", figure, took))
            print(rows[item][-1], flush=True)
        if options.record:
            record(HEAD, END, rows, 1)
    print(f"\n{failed} failed, {time.monotonic() - begin:.0f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
