"""CPython's own tests of this interpreter, unmodified, with fastshm's types put in.

    python suite.py [fork|spawn|forkserver|threads] [NAME ...]

runs those of multiprocessing under that start method (test._test_multiprocessing), or those of threading (test.lock_tests), and
prints what became of each test as JSON. With FASTSHM_REFERENCE=1 the stdlib's own types are put in instead.

The classes are in this module under names of their own, so that children find what they are sent.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import unittest
import warnings

import fastshm

REFERENCE = os.environ.get("FASTSHM_REFERENCE") == "1"
TYPES = multiprocessing if REFERENCE else fastshm
NAMES = ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier")
LEFT_OUT = ("test_multirelease",)  # of what multiprocessing does not have, release(n), and half a minute each
TYPED = ("Value", "Array", "RawValue", "RawArray")
QUEUES = ("Queue", "JoinableQueue")
CASES = ("_TestLock", "_TestSemaphore", "_TestCondition", "_TestEvent", "_TestBarrier", "_TestQueue")
TYPED_CASES = ("_TestValue", "_TestArray", "_TestSharedCTypes")
MANAGER_CASES = ("_TestContainers", "_TestMyManager", "_TestRemoteManager", "_TestManagerRestart")
WHOLE_CASES = ("TestSyncManagerTypes", "TestInitializers", "TestManagerExceptions")  # the last one since Python 3.13


def of_multiprocessing() -> None:
    """Each class of tests with shared objects of processes and of a manager."""
    from test import _test_multiprocessing as suite

    class Processes(suite.ProcessesMixin):
        pass

    for name in (*NAMES, *TYPED, *QUEUES):
        setattr(Processes, name, staticmethod(getattr(TYPES, name)))

    if not REFERENCE:
        suite.Value, suite.copy = fastshm.sharedctypes.Value, fastshm.sharedctypes.copy
        suite.multiprocessing = fastshm
        for name in ("MyManager", "QueueManager", "QueueManager2"):  # which the tests derive from BaseManager
            globals()[name] = type(name, (fastshm.managers.SyncManager,), {"__module__": __name__})
            for typeid, (make, exposed, _, proxytype) in getattr(suite, name)._registry.items():
                globals()[name].register(typeid, make, proxytype, exposed)
            setattr(suite, name, globals()[name])
    for case in (*CASES, *TYPED_CASES, *MANAGER_CASES):
        base = getattr(suite, case)
        for mixin in (Processes, suite.ManagerMixin):
            if mixin.TYPE in base.ALLOWED_TYPES:
                add(f"{mixin.TYPE}{case}", base, mixin)
    for case in WHOLE_CASES:
        if hasattr(suite, case):
            add(f"manager_{case}", getattr(suite, case), object)
    globals()["manager_TestSyncManagerTypes"].manager_class = TYPES.managers.SyncManager


def of_threading() -> None:
    """Each class of tests with ours, which have multiprocessing's manners, and with a manager's, which have threading's."""
    from test import lock_tests

    manager = TYPES.Manager()
    for kind, types in (("processes", TYPES), ("manager", manager)):
        for name in NAMES:
            if kind == "manager" and REFERENCE:
                continue
            attribute = {"Event": "event", "Condition": "cond", "Barrier": "barrier"}.get(name) or (
                "sem" if name.endswith("Semaphore") else "lock"
            )
            base = getattr(lock_tests, f"{name}Tests")
            add(f"{kind}_{name}Tests", base, type("Types", (), {f"{attribute}type": staticmethod(getattr(types, name))}))


def add(name: str, base: type, mixin: type) -> None:
    bases = (base, mixin) if issubclass(base, unittest.TestCase) else (base, mixin, unittest.TestCase)
    globals()[name] = type(name, bases, {"__module__": __name__, "__qualname__": name})


class Outcomes(unittest.TestResult):
    """The last line of what went wrong, or of why it was skipped, by the test's name."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.said: dict[str, str] = {}

    def startTest(self, test):
        super().startTest(test)
        self.said[test.id()] = "ok"
        print(test.id(), file=sys.stderr, flush=True)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.said[test.id()] = f"skipped: {reason}"

    def _wrong(self, test, error):
        lines = self._exc_info_to_string(error, test).strip().splitlines()
        self.said[test.id()] = f"failed: {lines[-1]}"
        print(*lines, sep="\n", file=sys.stderr, flush=True)

    def addFailure(self, test, error):
        self._wrong(test, error)

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        if error:
            self._wrong(test, error)


method = os.environ.get("FASTSHM_CONFORMANCE", "")  # children know it, too
if method == "threads":
    of_threading()
elif method:
    of_multiprocessing()


def main(wanted: list[str]) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # fork while threads run: what these tests do
    if method != "threads":
        multiprocessing.set_start_method(method, force=True)
    this = sys.modules["suite"]
    tests = unittest.defaultTestLoader.loadTestsFromModule(this)
    chosen = [
        case
        for group in tests
        for case in group
        if not case.id().endswith(LEFT_OUT) and any(want in case.id() for want in wanted or [""])
    ]
    result = this.Outcomes()
    unittest.TestSuite(chosen).run(result)
    leftover = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    print(json.dumps({"outcomes": result.said, "threads": leftover}))


if __name__ == "__main__":
    os.environ["FASTSHM_CONFORMANCE"] = sys.argv[1]
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import suite

    suite.main(sys.argv[2:])
