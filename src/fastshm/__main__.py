"""The command line: `python -m fastshm COMMAND`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence

from fastshm import __version__, demo, gc, running

# Each command is a module with `add_command(commands)`, which adds its own parser and names the function that runs it.
COMMANDS = (demo, gc, running)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fastshm", description="Shared objects for processes, at the speed of local memory."
    )
    parser.add_argument("--version", action="version", version=f"fastshm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(commands)
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except KeyboardInterrupt:
        if "passes_interrupts" in options:
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would cut short the cleaning at exit
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
