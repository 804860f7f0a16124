"""Finding files and counting their words and lines, with nothing shared."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

WORD = re.compile(r"[^\W\d_]+")  # letters only, so that an identifier counts as the words it is made of
SNIFF = 8000  # a NUL among so many first bytes makes a file binary, as for git
BLOCK = 1 << 20  # characters read at a time, rounded up to whole lines
BIN_WIDTH, BINS = 10, 13  # of the histogram of line lengths; the last bin is open above


class FileCount(NamedTuple):
    """What is counted in one file."""

    statistics: dict[str, Any]  # lines, words and characters, or why the file was skipped
    words: Counter[str]
    lengths: Counter[int]  # bin of the histogram -> lines


class Totals(NamedTuple):
    """What is counted in all files."""

    files: dict[str, dict[str, Any]]  # path -> statistics
    words: dict[str, int]
    lengths: list[int]


def find_files(folder: str, leave_out: Collection[str] = ()) -> list[str]:
    """All that is not a folder below `folder`, as sorted relative paths, and the folders that cannot be listed.

    Left out too are the files that our own output goes to, as in `demo . > report`: they grow while we count.
    """
    found: list[str] = []
    outputs = []
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            outputs.append(os.fstat(descriptor))

    def is_output(path: str) -> bool:
        return os.path.isfile(path) and any(os.path.samestat(os.stat(path), output) for output in outputs)

    def unlisted(error: OSError) -> None:
        if error.filename == folder:
            raise error
        found.append(error.filename)

    for parent, folders, files in os.walk(folder, onerror=unlisted):
        folders[:] = [name for name in folders if name not in leave_out]
        found += [path for name in files if not is_output(path := os.path.join(parent, name))]
    return sorted(os.path.relpath(path, folder) for path in found)


def count_file(path: str) -> FileCount:
    """Count one file as UTF-8, wrong bytes being no letters. Memory is bounded by the longest line."""
    words: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    characters = 0
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("not a regular file")  # the opening of a FIFO would wait for its writer
        with open(path, "rb") as raw:
            if b"\0" in raw.peek(SNIFF)[:SNIFF]:
                return FileCount({"skipped": "binary"}, Counter(), Counter())
            text = io.TextIOWrapper(raw, encoding="utf-8", errors="replace")
            while lines := text.readlines(BLOCK):
                block = "".join(lines)
                characters += len(block)
                words.update(WORD.findall(block.lower()))
                lengths.update(min(len(line.rstrip("\n")) // BIN_WIDTH, BINS - 1) for line in lines)
    except OSError:
        return FileCount({"skipped": "unreadable"}, Counter(), Counter())
    return FileCount({"lines": lengths.total(), "words": words.total(), "characters": characters}, words, lengths)


def count_alone(folder: str, paths: Sequence[str], progress: Callable[[int], None]) -> Totals:
    """Count all files in this process: what the shared counts are checked against."""
    files: dict[str, dict[str, Any]] = {}
    words: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    for path in paths:
        count = count_file(os.path.join(folder, path))
        files[path] = count.statistics
        words.update(count.words)
        lengths.update(count.lengths)
        progress(len(files))
    return Totals(files, words, [lengths[number] for number in range(BINS)])


def differences(expected: Totals, found: Totals, at_most: int = 10) -> list[str]:
    """Where two counts differ, one line for each place."""

    def compare(noun: str, left: Mapping[Any, Any], right: Mapping[Any, Any]) -> list[str]:
        keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
        lines = [f"{noun} {key!r}: {right.get(key)} and not {left.get(key)}" for key in keys[:at_most]]
        return [*lines, f"{noun}: {len(keys) - at_most:,} more"] if len(keys) > at_most else lines

    return (
        compare("file", expected.files, found.files)
        + compare("word", expected.words, found.words)
        + compare("lines by length, bar", dict(enumerate(expected.lengths)), dict(enumerate(found.lengths)))
    )
