"""`python -m fastshm demo`: some processes count the words of every text file under a folder, twice.

The first time they share their counts through fastshm, the second time through multiprocessing. The code of the workers
is one and the same, with the same reads and writes; only the family of the shared objects differs. Both results must
equal, to the last word, what a single process counts in plain local objects.

                 +->  count_shared(fastshm)          ->  Run  --+
    find_files --+->  count_alone                    ->  Totals +->  differences  ->  exit code
                 +->  count_shared(multiprocessing)  ->  Run  --+

`files` finds and counts files and knows nothing of sharing; `workers` shares; `report` is what the user sees.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import sys
import sysconfig
from typing import Any

import fastshm
from fastshm.demo.files import count_alone, find_files
from fastshm.demo.report import Progress, print_check, print_comparison, print_totals
from fastshm.demo.workers import Run, WorkerDiedError, count_shared

NOT_STDLIB = ("site-packages", "dist-packages", "__pycache__")


def add_command(commands: Any) -> None:
    """Add the parser of this command to those of `python -m fastshm`."""
    summary = "count the words of many files with many processes, and compare with multiprocessing"
    parser = commands.add_parser("demo", help=summary, description=summary)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="default: the sources of the standard library")
    cores = os.cpu_count() or 1
    parser.add_argument("--processes", metavar="N", type=positive, default=cores, help="default: %(default)s")
    methods = multiprocessing.get_all_start_methods()
    parser.add_argument("--start-method", choices=methods, help="default: that of this Python")
    parser.set_defaults(run=run)


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 on is wanted, not {text}")
    return number


def run(options: argparse.Namespace) -> int:
    """The command; the result is the exit code."""
    folder = options.folder if options.folder is not None else sysconfig.get_path("stdlib")
    try:
        paths = find_files(folder, leave_out=NOT_STDLIB if options.folder is None else ())
    except OSError as error:
        print(f"fastshm demo: cannot read the folder {folder!r}: {error.strerror}", file=sys.stderr)
        return 2
    context = multiprocessing.get_context(options.start_method)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # words of any script, on a terminal of any encoding
    print(f"{len(paths):,} files under {folder}")
    print(f"{options.processes} worker(s), start method {context.get_start_method()}", flush=True)

    def progress(label: str) -> Progress:
        return Progress(label, len(paths), sys.stderr)

    def shared(name: str, family: Any) -> Run:
        with progress(name) as shown:
            return count_shared(family, context, folder, paths, options.processes, shown.update)

    try:
        ours = shared("fastshm", fastshm)
        print_totals(ours.totals)
        with progress("a single process") as shown:
            alone = count_alone(folder, paths, shown.update)
        theirs = shared("multiprocessing", context)
    except WorkerDiedError as error:
        print(f"fastshm demo: {error}", file=sys.stderr)
        return 1
    passed = [print_check("fastshm", ours, alone), print_check("multiprocessing", theirs, alone)]
    print_comparison(ours, theirs)
    return 0 if all(passed) else 1
