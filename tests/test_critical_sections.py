"""The recipe of docs/critical-sections.md: a section that is cut short by a death is undone by the next holder of its lock."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "docs" / "critical-sections.md").read_text()


@pytest.fixture
def accounts():
    names = {}
    exec(compile(re.search(r"```python\n(.*?)```", TEXT, re.S)[1], "recipe", "exec"), names)
    return names["Accounts"]([100, 50, 7])


def killed_before_line(n, call):
    """Runs it in a forked child that is killed before line n of the recipe's methods; False when it has not so many."""
    pid = os.fork()
    if not pid:
        left = n

        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename == "recipe" and event == "line":
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        call()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def test_a_death_before_each_line_is_undone(accounts):
    n = abandoned = 0
    while killed_before_line(n + 1, lambda: accounts.move(0, 1, 30)):
        n += 1
        with accounts.lock:
            abandoned += accounts.lock.abandoned
            accounts.repair()
            assert accounts.balances[:] in ([100, 50, 7], [70, 80, 7])
        assert not accounts.undo[0]
        if accounts.balances[0] == 70:
            accounts.move(1, 0, 30)
    assert n > abandoned > 5
    assert accounts.balances[:] == [70, 80, 7]


def test_a_death_before_each_line_of_the_repair_is_borne(accounts):
    n = tried = 0
    while True:
        n += 1
        assert killed_before_line(7, lambda: accounts.move(0, 1, 30))
        assert accounts.balances[:] == [70, 50, 7]  # halfway; who only reads leaves the news to the next holder
        if not killed_before_line(n, accounts.total):
            break
        tried += 1
        assert accounts.total() == 157
        assert accounts.balances[:] == [100, 50, 7]
    assert tried > 6
    assert accounts.balances[:] == [100, 50, 7]
