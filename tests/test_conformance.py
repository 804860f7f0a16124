"""CPython's own tests of this interpreter over fastshm's types: conformance/suite.py runs them, docs/differences.md tells."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DIFFERENCES = HERE.parent / "docs" / "differences.md"
SECONDS = 240  # 40 s on two processors

pytestmark = pytest.mark.skipif(
    not find_spec("test") or not find_spec("test._test_multiprocessing"), reason="this Python comes without its tests"
)


@functools.cache
def outcomes(method: str) -> dict[str, str]:
    """What became of each test, by its name."""
    environment = {**os.environ, "FASTSHM_CONFORMANCE": method}
    command = [sys.executable, str(HERE / "conformance" / "suite.py"), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    answer = json.loads(done.stdout.splitlines()[-1])
    assert not answer["threads"], done.stderr
    return {name.removeprefix("suite."): said for name, said in answer["outcomes"].items()}


def wrong(method: str) -> dict[str, str]:
    return {name: said for name, said in outcomes(method).items() if said.startswith("failed")}


def test_of_multiprocessing(method):
    """All of them, under each start method."""
    assert not wrong(method)
    kinds = {name.partition("_")[0] for name in outcomes(method)}
    assert kinds == {"processes", "manager"}
    assert len(outcomes(method)) >= 60


def test_of_threading():
    """All but those that docs/differences.md names; and those fail, or they would not be named."""
    known = set(re.findall(r"^\| `(\w+\.test_\w+)`", DIFFERENCES.read_text(), re.MULTILINE))
    failed = wrong("threads")
    ran = outcomes("threads")
    assert {name: said for name, said in failed.items() if name not in known} == {}
    assert sorted(name for name in known & set(ran) if name not in failed) == []
