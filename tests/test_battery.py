"""The battery's mutants: each takes away a text that there is, once."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BATTERY = Path(__file__).resolve().parent / "battery"
SOURCES = BATTERY.parent.parent / "src" / "fastshm"
ITEMS = sorted(path.stem for path in BATTERY.glob("*.py") if "\nMUTANTS = (" in path.read_text())

pytestmark = pytest.mark.skipif(not SOURCES.is_dir(), reason="only where the sources are")


@pytest.fixture(autouse=True)
def battery_modules(monkeypatch):
    """Imports the items as their command does, by their own names; `battery` is else the folder."""
    monkeypatch.delitem(sys.modules, "battery", raising=False)
    monkeypatch.syspath_prepend(str(BATTERY))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_each_item_has_mutants():
    everyone = {
        "access",
        "damage",
        "deaths",
        "failing_calls",
        "full",
        "identity",
        "interrupts",
        "leaks",
        "linearizability",
        "load",
    }
    assert set(ITEMS) >= everyone


@pytest.mark.parametrize("item", ITEMS)
def test_what_a_mutant_takes_away_is_there_once(item):
    for mutant in importlib.import_module(item).MUTANTS:
        found = (SOURCES / mutant.file).read_text().count(mutant.old)
        assert found == 1, f"{mutant.safeguard}: {mutant.file} has its text {found} times"
        assert mutant.new != mutant.old, f"{mutant.safeguard}: takes nothing away"
