"""The README's examples are programs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from crew import run_program

README = Path(__file__).parent.parent / "README.md"


def examples() -> list[str]:
    """Those that are not typed into two terminals; the first is a program of its own, and so is what refuses pickles."""
    return [text for text in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if ">>>" not in text]


def test_the_first_program():
    assert run_program(examples()[0]).stdout == "4 [0.0, 1.0, 4.0, 9.0] 4\n"


def test_the_others_one_after_the_other():
    pytest.importorskip("numpy")
    others = [text for text in examples()[1:] if "allow_pickle" not in text]
    assert len(others) >= 4
    run_program("\n".join(others))


def test_refused_pickles():
    texts = [text for text in examples() if "allow_pickle" in text]
    assert len(texts) == 1
    run_program("import fastshm\n" + texts[0])
