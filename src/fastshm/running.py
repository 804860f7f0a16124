"""`python -m fastshm run`: runs a program as Python itself would, with fastshm's shared objects in it."""

from __future__ import annotations

import argparse
import os
import pkgutil
import runpy
import sys
import types
from collections.abc import Callable, Sequence
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader
from typing import Any

from fastshm import patching

USAGE = "python -m fastshm run [-h] (SCRIPT | -m MODULE | -c PROGRAM) [ARGUMENT ...]"


def add_command(commands: Any) -> None:
    """Add the parser of this command to those of `python -m fastshm`."""
    summary = "run an unmodified program that uses multiprocessing, with fastshm's shared objects"
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help=summary,
        usage=USAGE,
        description=f"{summary[0].upper()}{summary[1:]}: a script, a folder or zip file with a __main__.py, a module, or a "
        "text. All arguments after it are its own; it sees itself as if Python had been called with them.",
    )
    parser.add_argument("-m", metavar="MODULE", help="the name of a module or package to run")
    parser.add_argument("-c", metavar="PROGRAM", help="the text of a program to run")
    parser.add_argument("SCRIPT", nargs="?", help="the file or folder to run")
    parser.add_argument("ARGUMENT", nargs="*", help="the program's")

    def take_all(arguments: Sequence[str], namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """The program's arguments are nobody else's business, whatever they look like."""
        first, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
        if first in ("-h", "--help"):
            parser.print_help()
            parser.exit()
        kind = first[:2] if first[:2] in ("-m", "-c") else ""
        if kind:
            missing = not first[2:] and not rest
            first, rest = (first[2:], rest) if first[2:] else ("".join(rest[:1]), rest[1:])
        else:
            missing = not first or first.startswith("-")
        if missing or (kind == "-m" and not first):
            parser.error("what to run? Give a script, or -m and a module, or -c and the text of a program")
        return argparse.Namespace(run=run, passes_interrupts=True, kind=kind, program=first, arguments=rest), []

    parser.parse_known_args = take_all  # type: ignore[method-assign, assignment]


def run(options: argparse.Namespace) -> int:
    """The command. The program may end it by any exception, too."""
    patching.patch()
    sys.argv[:] = [options.kind or options.program, *options.arguments]
    if options.kind == "-m":
        return _run(_module, options.program)
    if options.kind == "-c":
        _set_first_of_path("", is_wanted=not sys.flags.safe_path)
        return _run(_text, options.program)
    path = os.getcwd() if options.program == "." else os.path.join(os.getcwd(), options.program)
    if pkgutil.get_importer(path) is not None:
        _set_first_of_path(path, is_wanted=True)
        return _run(_module, "__main__", False)
    _set_first_of_path(os.path.dirname(os.path.realpath(path)), is_wanted=not sys.flags.safe_path)
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        print(f"{sys.orig_argv[0]}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}", file=sys.stderr)
        return 2
    return _run(_script, path, source)


def _set_first_of_path(folder: str, *, is_wanted: bool) -> None:
    """In the place of the folder where `python -m fastshm` was called."""
    if not sys.flags.safe_path:
        del sys.path[0]
    if is_wanted:
        sys.path.insert(0, folder)


def _new_main() -> types.ModuleType:
    main = types.ModuleType("__main__")
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    vars(main)["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    return main


def _module(*names: Any) -> None:
    _new_main()
    runpy._run_module_as_main(*names)  # type: ignore[attr-defined]  # what Python's own -m calls


def _text(program: str) -> None:
    main = _new_main()
    vars(main)["__loader__"] = BuiltinImporter
    exec(compile(program, "<string>", "exec", dont_inherit=True), vars(main))


def _script(path: str, source: bytes) -> None:
    main = _new_main()
    is_compiled = path.endswith(".pyc")
    loader = (SourcelessFileLoader if is_compiled else SourceFileLoader)("__main__", path)
    vars(main).update(__file__=path, __cached__=None, __loader__=loader)
    code: Any = loader.get_code("__main__") if is_compiled else compile(source, path, "exec", dont_inherit=True)
    exec(code, vars(main))


def _run(program: Callable[..., None], *arguments: Any) -> int:
    """The exit code. An exception is told without the calls that led to the program, as if there had been none."""
    try:
        program(*arguments)
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        error.__traceback__ = trace
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
        if sys.version_info >= (3, 12):
            sys.last_exc = error
        sys.excepthook(type(error), error, trace)
        if isinstance(error, KeyboardInterrupt):
            sys.excepthook = lambda *told: None
            raise  # Python itself then ends by SIGINT
        return 1
    return 0
