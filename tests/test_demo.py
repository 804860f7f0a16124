"""The main job, `python -m fastshm demo`: on real files, through the command line wherever a user would."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import leftovers
import pytest

import fastshm
from fastshm import demo
from fastshm.__main__ import main
from fastshm.demo.files import BIN_WIDTH, BINS, SNIFF, Totals, count_alone, count_file, differences, find_files
from fastshm.demo.report import Progress, bar
from fastshm.demo.workers import WorkerDiedError, count_shared

METHODS = multiprocessing.get_all_start_methods()
DEADLINE = 60  # seconds in which any run of a test must end

TEXTS = {
    "plain.txt": b"The cat and the other cat.\nsnake_case camelCase x1y2\n",
    "empty.txt": b"",
    "newlines.txt": b"\n\n\n",
    "unfinished.txt": b"no newline at the end",
    "crlf.txt": b"one two\r\nthree\r\n",
    "cr.txt": b"one\rtwo\r",
    "latin-1.txt": "caf\xe9 na\xefve caf\xe9\n".encode("latin-1"),
    "bom.txt": b"\xef\xbb\xbfmarked\n",
    "scripts.txt": "Straße ΔΕΛΤΑ İstanbul 日本語 ½ ² ٣٤\x0b\x85\u2028x\n".encode(),
    "one-long-line.txt": b"abc, " * 600_000,
    "one-long-word.txt": b"w" * 100_000,
    "many-blocks.txt": "".join(f"zeile {'ü' * (n % 150)} ende\r\n" for n in range(30_000)).encode(),
    "late-nul.txt": b"words before " * SNIFF + b"\0after\n",
    "deep/er/still.txt": b"deep\n",
    os.fsdecode(b"not-utf-8-\xff.txt"): b"named\n",
}
BINARIES = {"binary.bin": b"\x7fELF\0\1\2 words words", "utf-16.txt": "utf\n".encode("utf-16"), "nul": b"\0"}
UNREADABLE = ("fifo", "socket", "broken link", "loop", "failing")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of every odd kind."""
    top = tmp_path / "odd files"
    for name, content in (TEXTS | BINARIES).items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    (top / "empty folder").mkdir()
    (top / "folder link").symlink_to(top)  # not followed, else there was no end
    os.mkfifo(top / "fifo")
    os.mknod(top / "socket", stat.S_IFSOCK | 0o600)
    (top / "broken link").symlink_to("nowhere")
    (top / "loop").symlink_to("loop")
    (top / "failing").symlink_to("/proc/self/mem")  # a regular file that opens and whose first byte cannot be read
    return top


@pytest.fixture
def long_job(tmp_path: Path) -> Path:
    """Work for a minute: many names of one text."""
    text = tmp_path / "text"
    text.write_text("\n".join(f"line {n} of a text that takes a while" for n in range(5_000)))
    top = tmp_path / "long"
    top.mkdir()
    for n in range(4_000):
        (top / f"{n}.txt").symlink_to(text)
    return top


@pytest.fixture
def wide_job(tmp_path: Path) -> Path:
    """Quickly counted, but of so many different words that a manager's dict takes long to merge them."""
    top = tmp_path / "wide"
    top.mkdir()
    letters = "abcdefghijklmnopqrst"
    words = " ".join(a + b + c for a in letters for b in letters for c in letters)
    for n in range(64):
        (top / f"{n}.txt").write_text(words)
    return top


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test leaves /dev/shm as it found it; the helpers of multiprocessing get a moment to end."""
    before = leftovers.segments("*")
    yield
    wait_until(lambda: not leftovers.left(before, "*"))


def wait_until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def run_demo(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastshm", "demo", *map(str, arguments)]
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, text=True, timeout=DEADLINE, check=False, **options)


def naive_totals(folder: Path) -> Totals:
    """The same count in other words: by characters, not by patterns, and in one piece."""
    files, words, lengths = {}, Counter(), [0] * BINS
    for name, content in TEXTS.items():
        assert (folder / name).read_bytes() == content
        text = content.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
        lines = text.removesuffix("\n").split("\n") if text else []
        spaced = "".join(c if c.isalnum() and not c.isdecimal() else " " for c in text.lower()).split()
        files[name] = {"lines": len(lines), "words": len(spaced), "characters": len(text)}
        words.update(spaced)
        for line in lines:
            lengths[min(len(line) // BIN_WIDTH, BINS - 1)] += 1
    for names, reason in ((BINARIES, "binary"), (UNREADABLE, "unreadable")):
        files |= {name: {"skipped": reason} for name in names}
    return Totals(files, words, lengths)


# Files


def test_every_file_is_found_once_and_sorted(folder):
    assert find_files(str(folder)) == sorted([*TEXTS, *BINARIES, *UNREADABLE])
    assert find_files(str(folder), leave_out=["deep"]) == sorted({*TEXTS, *BINARIES, *UNREADABLE} - {"deep/er/still.txt"})


def test_one_process_counts_odd_files(folder):
    seen = []
    alone = count_alone(str(folder), find_files(str(folder)), seen.append)
    assert differences(naive_totals(folder), alone) == []
    assert seen == list(range(1, len(alone.files) + 1))


def test_a_device_is_never_opened():
    assert count_file("/dev/zero").statistics == {"skipped": "unreadable"}


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything: be somebody else for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_may_not_be_read_is_counted_as_unreadable(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("words")
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "open" / "file").chmod(0)
    (tmp_path / "closed").chmod(0)
    try:
        with without_privileges():
            assert find_files(".") == ["closed", "open/file"]
            assert count_file("closed").statistics == count_file("open/file").statistics == {"skipped": "unreadable"}
            assert main(["demo", "closed"]) == 2
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert capsys.readouterr() == ("", "fastshm demo: cannot read the folder 'closed': Permission denied\n")


# Sharing


@pytest.mark.parametrize("method", METHODS)
def test_processes_together_count_what_one_counts(folder, method):
    seen = []
    context = multiprocessing.get_context(method)
    run = count_shared(fastshm, context, str(folder), find_files(str(folder)), 3, seen.append)
    assert differences(naive_totals(folder), run.totals) == []
    assert run.done == seen[-1] == len(run.totals.files)
    assert seen == sorted(seen)


def test_no_count_is_lost_when_all_merge_the_same_words(wide_job):
    run = count_shared(fastshm, multiprocessing, str(wide_job), find_files(str(wide_job)), 4, lambda done: None)
    assert len(run.totals.words) == 8_000
    assert set(run.totals.words.values()) == {64}
    assert run.spent[1][0] == 64 + 2 * 64 * 8_000  # an entry for each file; a get and a set for each word of a batch


def test_both_families_do_the_same_operations(folder):
    paths = find_files(str(folder))
    runs = [
        count_shared(family, multiprocessing, str(folder), paths, 2, lambda done: None) for family in (fastshm, multiprocessing)
    ]
    assert [operations for operations, _ in runs[0].spent] == [operations for operations, _ in runs[1].spent]
    assert differences(runs[0].totals, runs[1].totals) == []


def test_a_worker_that_fails_ends_the_job(folder, monkeypatch, capfd):
    monkeypatch.setattr("fastshm.demo.workers.count_file", None)  # inherited by fork
    context = multiprocessing.get_context("fork")
    with pytest.raises(WorkerDiedError, match="ended with exit code 1"):
        count_shared(fastshm, context, str(folder), find_files(str(folder)), 2, lambda done: None)
    assert "TypeError" in capfd.readouterr().err
    assert not multiprocessing.active_children()


# The command


@pytest.mark.parametrize("method", METHODS)
def test_the_command(folder, method):
    result = run_demo(folder, "--processes", 2, "--start-method", method)
    assert result.returncode == 0, result.stderr
    expected = naive_totals(folder)
    out = result.stdout
    assert f"{len(expected.files)} files under {folder}\n2 worker(s), start method {method}\n" in out
    top = re.search(r"Top words\n +(\w+) +([\d,]+)  █{40}\n", out)
    assert (top[1], int(top[2].replace(",", ""))) == expected.words.most_common(1)[0]
    bars = re.findall(r"^ +(?:\d+ to \d+|120 and more) +([\d,]+)(?:  [▏▎▍▌▋▊▉█]*)?$", out, re.MULTILINE)
    assert [int(number.replace(",", "")) for number in bars] == expected.lengths
    assert f"{len(TEXTS)} text files, {sum(expected.lengths):,} lines, {expected.words.total():,} words, " in out
    assert f"skipped: {len(BINARIES)} binary, {len(UNREADABLE)} unreadable\n" in out
    assert "check passed: fastshm counted exactly what a single process counts\n" in out
    assert "check passed: multiprocessing counted exactly what a single process counts\n" in out
    assert re.search(r"^  both +[\d,]+ +[\d.]+ +[\d.]+ +[\d.,]+x$", out, re.MULTILINE)
    assert [line.split(" files, ")[0] for line in result.stderr.splitlines()] == [
        f"{label:16} {len(expected.files)} of {len(expected.files)}"
        for label in ("fastshm", "a single process", "multiprocessing")
    ]


def test_an_empty_folder(tmp_path):
    result = run_demo(tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("check passed") == 2
    assert "0 text files, 0 lines, 0 words, 0 of them different\n" in result.stdout


def test_more_processes_than_files(tmp_path):
    (tmp_path / "only.txt").write_text("one file\n")
    result = run_demo(tmp_path, "--processes", 9)
    assert result.returncode == 0, result.stderr
    assert "1 text files, 1 lines, 2 words" in result.stdout


def test_the_default_is_the_standard_library(monkeypatch):
    seen = []

    def stop(folder, leave_out):
        seen.extend(find_files(folder, leave_out))
        raise FileNotFoundError(2, "stopped here")

    monkeypatch.setattr(demo, "find_files", stop)
    assert main(["demo"]) == 2
    assert {"abc.py", "json/decoder.py"} <= set(seen)
    assert not [path for path in seen if "site-packages" in path or "__pycache__" in path]


@pytest.mark.parametrize(
    ("name", "reason"), [("missing", "No such file or directory"), ("file", "Not a directory"), ("", "No such file or")]
)
def test_a_missing_folder_is_one_line_and_exit_2(tmp_path, name, reason):
    (tmp_path / "file").write_text("no folder")
    result = run_demo(name, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"fastshm demo: cannot read the folder {name!r}: {reason}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["demo", "--processes=0"], ["demo", "--processes=x"], ["demo", "--start-method=x"]]
)
def test_wrong_usage_is_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: python -m fastshm" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"fastshm {fastshm.__version__}\n"


@pytest.mark.parametrize("lost", ["files", "words", "lengths"])
def test_a_wrong_count_is_named_and_exit_1(tmp_path, monkeypatch, capsys, lost):
    for n in range(3):
        (tmp_path / f"{n}.txt").write_text("word\n" * (n + 1))

    def count_wrongly(*arguments):
        totals = count_alone(*arguments)
        if lost == "files":
            totals.files["1.txt"]["lines"] += 1
        elif lost == "words":
            totals.words["word"] += 1
        else:
            totals.lengths[0] += 1
        return totals

    monkeypatch.setattr(demo, "count_alone", count_wrongly)
    assert main(["demo", str(tmp_path), "--processes", "1"]) == 1
    out = capsys.readouterr().out
    assert "check FAILED: fastshm differs from a single process" in out
    assert {"files": "file '1.txt': ", "words": "word 'word': 6 and not 7", "lengths": "bar 0: 6 and not 7"}[lost] in out


def test_our_own_output_is_no_input(tmp_path):
    (tmp_path / "text").write_text("word\n")
    with open(tmp_path / "report", "w") as report:
        result = run_demo(".", cwd=tmp_path, stdout=report, stderr=subprocess.STDOUT)
    text = (tmp_path / "report").read_text()
    assert result.returncode == 0, text
    assert "\n1 text files, 1 lines, 1 words" in text


def test_any_encoding_of_the_output(folder):
    result = run_demo(folder, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0, result.stderr
    assert "  " + "#" * 40 + "\n" in result.stdout


def test_closed_output(folder):
    result = run_demo(folder, preexec_fn=lambda: [os.close(1), os.close(2)])
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# Progress


def read_to_end(master, parts):
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while part := os.read(master, 1 << 16):
            parts.append(part)


def test_a_progress_bar_on_a_terminal(folder):
    master, slave = pty.openpty()
    parts: list[bytes] = []
    reader = threading.Thread(target=read_to_end, args=(master, parts))  # meanwhile: a terminal holds 4 KiB
    reader.start()
    try:
        result = run_demo(folder, stderr=slave)
    finally:
        os.close(slave)
        reader.join()
        os.close(master)
    shown = b"".join(parts).decode()
    assert result.returncode == 0
    number = len(TEXTS | BINARIES) + len(UNREADABLE)
    assert re.search(rf"\rfastshm +█+ {number} of {number} files, \d+\.\d s\r\n", shown)
    assert shown.count("\n") == 3


def test_quiet_lines_elsewhere(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress("counted", 2_000, stream) as progress:
        for done in range(50, 1_201, 50):
            now[0] += 0.5
            progress.update(done)
    assert [" ".join(line.split()) for line in stream.getvalue().splitlines()] == [
        "counted 500 of 2,000 files, 5.0 s",
        "counted 1,000 of 2,000 files, 10.0 s",
        "counted 1,200 of 2,000 files, 12.0 s",
    ]


def test_bars():
    utf8, ascii_ = (io.TextIOWrapper(io.BytesIO(), encoding) for encoding in ("utf-8", "ascii"))
    assert bar(1, 2, 3, utf8) == "█▌"
    assert bar(1, 2, 3, ascii_) == "#"
    assert bar(2, 2, 3, utf8) == "███"
    assert bar(0, 2, 3, utf8) == bar(0, 0, 3, utf8) == bar(1, 2, 0, utf8) == ""


# Interrupts and deaths


def group_members(group: int) -> list[int]:
    """The living processes of a process group; a zombie that nobody has fetched yet is dead."""
    members = []
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, _, its_group = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                members.append(int(entry))
    return members


@contextlib.contextmanager
def running_demo(*arguments: object, until: str) -> Iterator[subprocess.Popen[str]]:
    """A demo in a process group of its own, once it has printed a line that starts with `until`."""

    def take_interrupts() -> None:  # a shell may have started us with Ctrl-C ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    command = [sys.executable, "-m", "fastshm", "demo", *map(str, arguments)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, start_new_session=True, preexec_fn=take_interrupts, **pipes)
    try:
        assert any(line.startswith(until) for line in process.stdout)
        yield process
        wait_until(lambda: not group_members(process.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.8])
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupt_ends_all(long_job, method, delay):
    with running_demo(long_job, "--start-method", method, "--processes", 3, until="3 worker(s)") as process:
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 130, errors
        *progress, last = errors.splitlines()
        assert last == "python -m fastshm: interrupted"
        assert all(re.fullmatch(r"fastshm +[\d,]+ of 4,000 files, .* s", line) for line in progress), errors


@pytest.mark.parametrize("delay", [0.05, 0.8])
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupt_ends_the_rival_too(wide_job, method, delay):
    with running_demo(wide_job, "--start-method", method, "--processes", 2, until="skipped: ") as process:
        while not process.stderr.readline().startswith("a single process"):
            pass
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 130, errors
        assert errors.endswith("python -m fastshm: interrupted\n")
        assert "Traceback" not in errors


def test_an_interrupt_of_the_parent_alone_ends_all(long_job):
    with running_demo(long_job, "--processes", 2, until="2 worker(s)") as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE)
        assert process.returncode == 130


def test_a_killed_worker_is_one_line_and_exit_1(long_job):
    with running_demo(long_job, "--start-method", "fork", "--processes", 2, until="2 worker(s)") as process:
        time.sleep(0.5)
        names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in group_members(process.pid)}
        victim = next(pid for pid, name in names.items() if pid != process.pid and name == names[process.pid])
        os.kill(victim, signal.SIGKILL)
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 1
        assert re.fullmatch(r"fastshm demo: \w*Process-\d+ ended with exit code -9", errors.splitlines()[-1])
        assert "Traceback" not in errors


def test_one_more_start_cleans_up_after_a_killed_group(long_job, tmp_path):
    with running_demo(long_job, "--processes", 2, until="2 worker(s)") as process:
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)
    (tmp_path / "few").mkdir()
    assert run_demo(tmp_path / "few").returncode == 0
