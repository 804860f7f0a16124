"""CPython's own tests of this interpreter, unmodified, with fastshm's types put in.

    python suite.py [fork|spawn|forkserver|threads|containers] [NAME ...]

runs those of multiprocessing under that start method (test._test_multiprocessing), those of threading (test.lock_tests) or
those of dict, list and set (test.mapping_tests, list_tests, test_set), and prints what became of each test as JSON.
With FASTSHM_REFERENCE=1 the stdlib's own types are put in instead.

The classes are in this module under names of their own, so that children find what they are sent.
"""

from __future__ import annotations

import importlib
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
SET_CASES = ("TestBasicOps", "TestBinaryOps", "TestUpdateOps", "TestMutate", "TestSubset", "TestOnlySets", "TestCopying")
SET_CASES += ("TestIdentities",)
WHOLE_CASES = ("TestSyncManagerTypes", "TestInitializers", "TestManagerExceptions")  # the last one since Python 3.13


class Multiprocessing:
    """As `import fastshm as multiprocessing`, but for a module that is no part of the interface."""

    heap = importlib.import_module("multiprocessing.heap")

    def __getattr__(self, name: str) -> object:
        return getattr(fastshm, name)


def of_multiprocessing() -> None:
    """Each class of tests with shared objects of processes and of a manager."""
    from test import _test_multiprocessing as suite

    class Processes(suite.ProcessesMixin):
        pass

    for name in (*NAMES, *TYPED, *QUEUES):
        setattr(Processes, name, staticmethod(getattr(TYPES, name)))

    if not REFERENCE:
        suite.Value, suite.copy = fastshm.sharedctypes.Value, fastshm.sharedctypes.copy
        suite.multiprocessing = Multiprocessing()
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

    for kind, types in (("processes", TYPES), ("manager", MANAGER)):
        for name in NAMES:
            if kind == "manager" and REFERENCE:
                continue
            attribute = {"Event": "event", "Condition": "cond", "Barrier": "barrier"}.get(name) or (
                "sem" if name.endswith("Semaphore") else "lock"
            )
            base = getattr(lock_tests, f"{name}Tests")
            add(f"{kind}_{name}Tests", base, type("Types", (), {f"{attribute}type": staticmethod(getattr(types, name))}))


def of_containers() -> None:
    """Each class of tests of dict and list, and those of set that leave what a set is made by to others.

    They compare with plain containers, and proxies, as the stdlib's, are only equal to themselves: so what they stand for is
    compared. Nothing else is done to the tests.
    """
    from test import list_tests, mapping_tests, test_set

    for kind, base in (
        ("dict", mapping_tests.TestHashMappingProtocol),
        ("list", list_tests.CommonTest),
        ("set", test_set.TestSet),
    ):
        if hasattr(MANAGER, kind):
            made = staticmethod(getattr(MANAGER, kind))
            add(f"{kind}_{base.__name__}", Compared, base, {"type2test": made, "thetype": made, "basetype": set})
    if hasattr(MANAGER, "set"):
        for name, base in vars(test_set).items():
            if name.startswith(SET_CASES) and isinstance(base, type) and issubclass(base, unittest.TestCase):
                add(f"set_{name}", OfSharedSets, base)


class Compared:
    """Proxies are compared as what they stand for."""

    def assertEqual(self, first: object, second: object, msg: object = None) -> None:
        super().assertEqual(plain(first), plain(second), msg)  # noqa: PT009

    def assertNotEqual(self, first: object, second: object, msg: object = None) -> None:
        super().assertNotEqual(plain(first), plain(second), msg)  # noqa: PT009


class OfSharedSets(Compared):
    """The sets that a test makes in its setUp() become shared ones."""

    def setUp(self) -> None:
        super().setUp()
        for name, value in vars(self).items():
            if type(value) is set:
                setattr(self, name, MANAGER.set(value))


def plain(thing: object) -> object:
    if isinstance(thing, multiprocessing.managers.BaseProxy):
        thing = thing._getvalue()
    if type(thing) in (list, tuple):
        return type(thing)(map(plain, thing))
    if type(thing) is dict:
        return {key: plain(value) for key, value in thing.items()}
    return thing


def add(name: str, first: type, second: type, attributes: dict[str, object] | None = None) -> None:
    bases = [first, second]
    if not any(issubclass(base, unittest.TestCase) for base in bases):
        bases.append(unittest.TestCase)
    globals()[name] = type(name, tuple(bases), {"__module__": __name__, "__qualname__": name, **(attributes or {})})


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


MANAGER = TYPES.Manager()
method = os.environ.get("FASTSHM_CONFORMANCE", "")  # children know it, too
if method == "threads":
    of_threading()
elif method == "containers":
    of_containers()
elif method:
    of_multiprocessing()


def main(wanted: list[str]) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # fork while threads run: what these tests do
    if method not in ("threads", "containers"):
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
