"""The battery: everything that is promised about deaths, damage, full memory and races, tried until it breaks.

    python tests/battery/run.py [--short] [ITEM ...]        the items (default: all), and their table
    python tests/battery/run.py --mutants [ITEM ...]        takes each safeguard away: its item must fail
    python tests/battery/run.py --record [ITEM ...]         also writes the table into docs/reliability.md

Judges the fastshm that this interpreter imports, and the headers of this tree. Each item runs with a /dev/shm of its own where
that is allowed (root, or user namespaces). An item is a module here with `run(short)`, which yields Figures, and `MUTANTS`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
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
HEAD = "| item | tried what | tried | failed | seconds | note | date |\n| --- | --- | ---: | ---: | ---: | --- | --- |"


def run_here(item: str, short: bool) -> None:
    """Run one item in this process; a figure a line on stdout, as JSON."""
    begin = time.monotonic()
    for figure in importlib.import_module(item).run(short):
        print("figure", json.dumps([*figure, time.monotonic() - begin]), flush=True)
        begin = time.monotonic()
    left = names() if os.environ.get("FASTSHM_OWN_MEMORY") else set()
    print("figure", json.dumps([*Figure("names left in /dev/shm", 1, len(left), " ".join(sorted(left)[:3])), 0.0]))


def figures(item: str, short: bool, own: bool, environment: dict[str, str], seconds: float) -> list[tuple[Figure, float]]:
    """Run one item in a process of its own. What it says that is no figure goes to stderr."""
    command = [sys.executable, __file__, "--here", *(["--short"] if short else []), item]
    with tempfile.TemporaryDirectory(prefix="fastshm-battery-") as folder:
        environment = {**environment, "FASTSHM_BATTERY": folder, **({"FASTSHM_OWN_MEMORY": "1"} if own else {})}
        command = with_own_memory(command) if own else command
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
        try:
            out = process.communicate(timeout=seconds)[0]
            wrong = [] if process.returncode == 0 else [(Figure("ran to its end", 1, 1, f"exit {process.returncode}"), 0.0)]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            out = process.communicate()[0]
            wrong = [(Figure("came to an end", 1, 1, f"not within {seconds:.0f} s"), seconds)]
    result = []
    for line in out.splitlines():
        if line.startswith("figure "):
            *fields, took = json.loads(line[7:])
            result.append((Figure(*fields), took))
        else:
            print(line, file=sys.stderr)
    return result + wrong


def row(item: str, figure: Figure, seconds: float) -> str:
    today = datetime.date.today().isoformat()
    title = ITEMS[item].split(";")[0]
    note = figure.note.replace("|", "/")
    return f"| {title} | {figure.what} | {figure.tried:,} | {figure.failed:,} | {seconds:.1f} | {note} | {today} |"


def record(rows: dict[str, list[str]]) -> None:
    """Put the rows of the items that ran into the table of docs/reliability.md; the others' stay."""
    text = RELIABILITY.read_text()
    begin, end = text.index(HEAD), text.index("<!-- end of the table -->")
    old = text[begin:end].strip().splitlines()[2:]
    lines = []
    for item, title in ITEMS.items():
        mark = f"| {title.split(';')[0]} |"
        lines += rows.get(item) or [line for line in old if line.startswith(mark)]
    RELIABILITY.write_text(text[:begin] + HEAD + "\n" + "\n".join(lines) + "\n\n" + text[end:])


def built(mutant: Mutant, folder: Path) -> dict[str, str]:
    """The environment in which the mutant is what is imported and included."""
    for part in ("src", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
        else:
            shutil.copy(source, folder / part)
    file = folder / "src" / "fastshm" / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        sys.exit(f"{mutant.safeguard}: {mutant.file} has its text {text.count(mutant.old)} times")
    file.write_text(text.replace(mutant.old, mutant.new))
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--parallel", "2"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {"PYTHONPATH": str(folder / "src"), "FASTSHM_SOURCES": str(folder / "src" / "fastshm")}


def try_mutants(items: list[str], own: bool, seconds: float, only: str) -> bool:
    """Each safeguard taken away in a copy of the tree: true when every item notices."""
    noticed = True
    for item in items:
        for mutant in importlib.import_module(item).MUTANTS:
            if not re.search(only, mutant.safeguard):
                continue
            with tempfile.TemporaryDirectory(prefix="fastshm-mutant-") as folder:
                environment = {**os.environ, **built(mutant, Path(folder))}
                found = [figure for figure, _ in figures(item, True, own, environment, seconds) if figure.failed]
            noticed &= bool(found)
            how = f"noticed: {found[0].what}, {found[0].failed} of {found[0].tried}" if found else "NOT NOTICED"
            print(f"{item:<16} without: {mutant.safeguard:<60} {how}", flush=True)
    return noticed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few minutes for all of it")
    parser.add_argument("--mutants", action="store_true", help="does each item fail when its safeguard is gone?")
    parser.add_argument("--only", default="", metavar="REGEX", help="of the mutants")
    parser.add_argument("--record", action="store_true", help="write the table into docs/reliability.md")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("items", nargs="*", metavar="ITEM", help=", ".join(ITEMS))
    options = parser.parse_args()
    unknown = set(options.items) - set(ITEMS)
    if unknown:
        parser.error(f"no such item: {', '.join(sorted(unknown))}; there are {', '.join(ITEMS)}")
    items = options.items or list(ITEMS)
    if options.here:
        run_here(items[0], options.short)
        return 0
    own, seconds = memory_of_its_own(), 600.0 if options.short or options.mutants else 7200.0
    if not own:
        print("no right to mount: everything runs on the common /dev/shm, its names are not counted", file=sys.stderr)
    if options.mutants:
        return int(not try_mutants(items, own, seconds, options.only))
    rows, failed, begin = {}, 0, time.monotonic()
    print(HEAD, flush=True)
    for item in items:
        rows[item] = []
        for figure, took in figures(item, options.short, own, dict(os.environ), seconds):
            failed += figure.failed
            rows[item].append(row(item, figure, took))
            print(rows[item][-1], flush=True)
    print(f"\n{failed} failed, {time.monotonic() - begin:.0f} s", flush=True)
    if options.record:
        record(rows)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
