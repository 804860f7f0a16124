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
SECONDS = 480  # a tenth of it on two processors that do nothing else

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


def known() -> set[str]:
    """What docs/differences.md names."""
    return set(re.findall(r"`(\w+\.test_\w+)`", DIFFERENCES.read_text()))


def agrees(ran: dict[str, str]) -> bool:
    """All but those that are known to fail pass; and those fail, or they would not be named."""
    failed = {name: said for name, said in ran.items() if said.startswith("failed")}
    assert {name: said for name, said in failed.items() if name not in known()} == {}
    assert sorted(name for name in known() & set(ran) if name not in failed) == []
    return True


def test_of_multiprocessing(method):
    """Under each start method, of processes and of a manager."""
    if method != "fork" and not os.environ.get("FASTSHM_ALL_METHODS"):
        pytest.skip("takes minutes: set FASTSHM_ALL_METHODS=1")
    ran = outcomes(method)
    assert agrees(ran)
    assert {name.partition("_")[0] for name in ran} == {"processes", "manager"}
    assert len(ran) >= 110
    assert {"manager_TestContainers.test_nested_queue", "manager_TestRemoteManager.test_remote"} <= set(ran)


def test_of_threading():
    assert agrees(outcomes("threads"))


def test_of_containers():
    ran = outcomes("containers")
    assert agrees(ran)
    assert len(ran) >= 450
    assert {name.partition("_")[0] for name in ran} == {"dict", "list", "set"}
