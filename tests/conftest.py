"""Fixtures of all tests, and the count of what each test leaves behind."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import uuid
from multiprocessing import forkserver, resource_tracker

import leftovers
import pytest
from crew import Crew

import fastshm

os.environ[leftovers.RUN] = uuid.uuid4().hex


@pytest.fixture(scope="session", autouse=True)
def whole_run():
    """Start what lives as long as the process before anything is counted: the stdlib's two servers and both heaps."""
    resource_tracker.ensure_running()
    multiprocessing.set_forkserver_preload(["pytest"])
    forkserver.ensure_running()
    multiprocessing.RawValue("i")
    fastshm.Value("i").add(1)


@pytest.fixture(autouse=True)
def nothing_left(whole_run):
    """No segment, descriptor or child more than before, after every single test."""
    before = leftovers.segments(), leftovers.descriptors(), leftovers.children()

    def more():
        return leftovers.left(before[0]), leftovers.descriptors() - before[1], leftovers.children() - before[2]

    yield
    if any(more()):
        gc.collect()  # what a cycle or a failed test's traceback still holds
        leftovers.until(lambda: not any(more()), seconds=5)
    segments, descriptors, children = more()
    assert not segments, "left in /dev/shm"
    assert not descriptors, "left open"
    assert not children, "left running"


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def method(request) -> str:
    """Every start method."""
    return request.param


@pytest.fixture
def crew(method):
    """Workers started by every start method."""
    with Crew(method) as crew:
        yield crew


@pytest.fixture(params=["multiprocessing", "fastshm"])
def shared(request):
    """The module to take shared objects from: the same test for the original and for ours."""
    return importlib.import_module(request.param)


@pytest.fixture
def shared_for(shared, method):
    """The same for processes of the current start method: the stdlib's objects know theirs."""
    return multiprocessing.get_context(method) if shared is multiprocessing else shared


@pytest.fixture(scope="module", params=["multiprocessing", "fastshm"])
def manager(request):
    """A started manager of the stdlib or of ours."""
    with importlib.import_module(request.param).Manager() as manager:
        anchor = manager.dict()
        len(anchor)  # opens the stdlib's one connection, and the anchor keeps it, so that no test is the first to open it
        yield manager


@pytest.fixture
def path():
    """A name that looks like a segment's; what the test puts there is removed."""
    path = leftovers.SHM / f"fastshm-{uuid.uuid4().hex}"
    yield path
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
