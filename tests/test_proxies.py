"""Each method of each proxy against the stdlib's: the same result or exception, and the same contents afterwards.

What the stdlib of this version exposes must be in the table; what only later versions have is compared with the builtin.
"""

from __future__ import annotations

import array
import builtins
import inspect
import multiprocessing
import operator
import pickle
from multiprocessing import managers

import pytest

import fastshm
from fastshm.managers import BaseManager, DictProxy, ListProxy, SetProxy, SyncManager

ITEMS = {"a": 1, 2: [3], (4,): None}
LETTERS = [3, "c", 1.5, "c", None]
NUMBERS = [3, 1, 2]

DICT = {
    "__contains__": [("a",), (5,), ([],), ()],
    "__delitem__": [("a",), ("none",), ([],), ()],
    "__getitem__": [("a",), (2.0,), ("none",), ([],), ()],
    "__ior__": [({"b": 5},), ([("b", 5)],), (5,), ("ab",), ()],
    "__iter__": [(), (1,)],
    "__len__": [(), (1,)],
    "__or__": [({"b": 5},), ([],), ()],
    "__reversed__": [(), (1,)],
    "__ror__": [({"b": 5, "a": 0},), ([],), ()],
    "__setitem__": [("b", 5), ("a", 5), ([], 1), ("a",), ("a", 1, 2)],
    "clear": [(), (1,)],
    "copy": [()],
    "fromkeys": [([1, 2],), ([1, 2], 3), (5,), ()],
    "get": [("a",), ("none",), ("none", 7), ([],), (), (1, 2, 3)],
    "items": [(), (1,)],
    "keys": [(), (1,)],
    "pop": [("a",), ("none",), ("none", 7), ([],), (), (1, 2, 3)],
    "popitem": [()],
    "setdefault": [("a", 5), ("b", 5), ("b",), ([],), (), (1, 2, 3)],
    "update": [(), ({"b": 5},), ([("b", 5)],), ([(1, 2, 3)],), ([5],), (5,), ("ab",), ({}, {}), ([([], 1)],)],
    "values": [(), (1,)],
}
LIST = {
    "__add__": [([5],), ((5,),), (5,), ()],
    "__contains__": [("c",), (5,), ()],
    "__delitem__": [(0,), (-1,), (9,), ("x",), (slice(1, 3),), (slice(None, None, -2),), (None,), ()],
    "__getitem__": [(0,), (-5,), (9,), (-9,), ("x",), (slice(1, 3),), (slice(None, None, -2),), (slice(0, 5, 0),), (True,), ()],
    "__iadd__": [([5],), ("xy",), (5,), ()],
    "__imul__": [(2,), (0,), (-1,), ("x",), (1.5,), ()],
    "__len__": [(), (1,)],
    "__mul__": [(2,), (0,), ("x",), (1.5,), ()],
    "__rmul__": [(2,), (0,), ("x",), (1.5,), ()],
    "__reversed__": [()],
    "__setitem__": [(0, 9), (9, 9), ("x", 9), (slice(0, 2), [7, 8, 9]), (slice(0, 4, 2), [7]), (slice(0, 2), 5), (0,), ()],
    "append": [(5,), (), (1, 2)],
    "clear": [(), (1,)],
    "copy": [()],
    "count": [("c",), (5,), ()],
    "extend": [([5, 6],), ("xy",), (5,), ()],
    "index": [("c",), ("c", 2), ("c", 4), (5,), ("c", 0, 1), ("c", "x"), ()],
    "insert": [(0, 9), (99, 9), (-2, 9), ("x", 9), (0,), ()],
    "pop": [(), (0,), (-1,), (9,), ("x",), (1, 2)],
    "remove": [("c",), (5,), ()],
    "reverse": [(), (1,)],
    "sort": [(), (1,)],
}
SET = {
    **{name: [({3, 4, 5},), (frozenset({3}),), ([3],), (5,), ()] for name in ("__and__", "__or__", "__sub__", "__xor__")},
    **{name: [({3, 4, 5},), (frozenset({3}),), ([3],), ()] for name in ("__rand__", "__ror__", "__rsub__", "__rxor__")},
    **{name: [({3, 4, 5},), (frozenset({3}),), ([3],), (5,), ()] for name in ("__iand__", "__ior__", "__isub__", "__ixor__")},
    **{name: [({3, 4, 5},), ({1, 2, 3},), ({1},), ([3],), ()] for name in ("__ge__", "__gt__", "__le__", "__lt__")},
    **{name: [({3, 4},), ([3, 4], [1]), (), ([[]],), (5,)] for name in ("union", "intersection", "difference", "update")},
    **{name: [({3, 4},), ([3, 4], [1]), (), ([[]],), (5,)] for name in ("intersection_update", "difference_update")},
    **{name: [({3, 4},), ([3, 4],), (), (5,), ([[]],)] for name in ("symmetric_difference", "symmetric_difference_update")},
    **{name: [({3, 4},), ([1, 2, 3, 4],), (), (5,), ([9],)] for name in ("isdisjoint", "issubset", "issuperset")},
    "__contains__": [(3,), (9,), ([],), ({3},), ()],
    "__iter__": [()],
    "__len__": [(), (1,)],
    "add": [(9,), (3,), ([],), ({3},), ()],
    "clear": [(), (1,)],
    "copy": [()],
    "discard": [(3,), (9,), ([],), ({3},), ()],
    "pop": [(1,)],
    "remove": [(3,), (9,), ([],), ({3},), ()],
}
NAMESPACE = {
    "__getattribute__": [("x",), ("none",), ("_y",), ("__dict__",), ()],
    "__setattr__": [("x", 5), ("new", 5), ("_z", 5), ("x",), ()],
    "__delattr__": [("x",), ("none",), ("_y",), ()],
}
VALUE = {"get": [(), (1,)], "set": [(5,), ([1],), ()]}
ARRAY = {
    "__len__": [(), (1,)],
    "__getitem__": [(0,), (-1,), (9,), ("x",), (slice(0, 2),), (slice(None, None, -2),), ()],
    "__setitem__": [(0, 9), (-1, 9), (9, 9), (0, "x"), (0, 1.5), (0, 2**40), ("x", 9), (slice(0, 2), array.array("i", [7, 8]))]
    + [(slice(0, 2), [7, 8]), (slice(0, 2), array.array("d", [7, 8])), (slice(0, 4, 2), array.array("i", [7, 8])), (0,), ()],
}


def of_builtin(kind):
    """Stands for a proxy that this version's stdlib does not have."""

    class Proxy:
        def __init__(self, value):
            self.value = value

        def _callmethod(self, name, args):
            return getattr(self.value, name)(*args)

        def _getvalue(self):
            return self.value

    return lambda *args: Proxy(kind(*args))


TABLES = [
    ("dict", (ITEMS,), DICT),
    ("list", (LETTERS,), LIST),
    ("list", (NUMBERS,), {"sort": LIST["sort"], "reverse": LIST["reverse"]}),
    ("set", ({1, 2, 3},), SET),
    ("Namespace", (), NAMESPACE),
    ("Value", ("i", 1), VALUE),
    ("Array", ("i", [1, 2, 3, 4]), ARRAY),
]
CASES = [
    pytest.param(kind, start, name, args, id=f"{kind}.{name}{args!r}"[:80])
    for kind, start, table in TABLES
    for name, rows in table.items()
    for args in rows
]


@pytest.fixture(scope="module")
def both():
    with managers.SyncManager() as theirs, SyncManager() as ours:
        anchor = theirs.dict()
        len(anchor)  # keeps the connection open, so that no test is the first to open it
        yield theirs, ours


def exposed(kind):
    """What this version's stdlib exposes."""
    registered = managers.SyncManager._registry.get(kind)
    return () if registered is None else registered[-1]._exposed_


def made(manager, kind, start):
    if not hasattr(manager, kind):
        return of_builtin(getattr(builtins, kind))(*start)
    new = getattr(manager, kind)(*start)
    if kind == "Namespace":
        new._callmethod("__setattr__", ("x", 1))
        new._callmethod("__setattr__", ("_y", 2))
    return new


def plain(result):
    """Equal is not enough: 1 is not True here."""
    if hasattr(result, "__next__"):
        result = list(result)
    if isinstance(result, (managers.Namespace, managers.Value)):
        return vars(result)
    if isinstance(result, (list, tuple)):
        return type(result), [plain(item) for item in result]
    if isinstance(result, dict):
        return dict, [(plain(key), plain(value)) for key, value in result.items()]
    return type(result), result


def called(proxy, name, args):
    try:
        result = proxy._callmethod(name, args)
        if result is NotImplemented:
            raise TypeError("what Python makes of it")
    except Exception as error:
        return type(error), error.args
    return plain(proxy._getvalue() if result is proxy else result)


@pytest.mark.parametrize(("kind", "start", "name", "args"), CASES)
def test_same_as_the_stdlibs(both, kind, start, name, args):
    theirs, ours = both
    reference, proxy = made(theirs, kind, start), made(ours, kind, start)
    if name not in exposed(kind):
        reference = of_builtin(getattr(builtins, kind))(*start)
    wanted, got = called(reference, name, args), called(proxy, name, args)
    if wanted[0] is TypeError:  # its words, of wrong calls, are another matter
        assert got[0] is TypeError, (got, wanted)
    else:
        assert got == wanted
    assert plain(proxy._getvalue()) == plain(reference._getvalue())


@pytest.mark.parametrize(("kind", "table"), [(kind, table) for kind, _, table in TABLES if len(table) > 2 or kind == "Value"])
def test_all_that_is_exposed_is_compared(kind, table):
    assert set(exposed(kind)) - {"__class_getitem__"} <= set(table)


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier"])
def test_all_that_is_exposed_of_what_is_waited_for(both, kind):
    proxy = getattr(both[1], kind)(*([2] if kind == "Barrier" else []))
    for name in exposed(kind):
        assert callable(getattr(proxy, name))
    with pytest.raises(managers.RemoteError, match="not in exposed"):
        proxy._callmethod("__sizeof__")


def test_not_exposed(both):
    for manager in both:
        for proxy in (manager.dict(), manager.list(), manager.Namespace(), manager.Value("i", 1), manager.Array("i", [1])):
            with pytest.raises(managers.RemoteError, match="not in exposed"):
                proxy._callmethod("__sizeof__")


@pytest.mark.parametrize(
    ("kind", "start"), [("dict", (ITEMS,)), ("list", (LETTERS,)), ("Namespace", ()), ("Value", ("i", 1)), ("Array", ("i", [1]))]
)
def test_by_their_other_names(both, kind, start):
    theirs, ours = (getattr(manager, kind)(*start) for manager in both)
    for name in ("#GETVALUE", "__str__", "__repr__"):
        assert plain(ours._callmethod(name)) == plain(theirs._callmethod(name))
    assert str(ours) == str(theirs)
    assert type(ours).__name__ == type(theirs).__name__


@pytest.mark.parametrize("operate", [operator.iadd, operator.imul])
def test_list_in_place(both, operate):
    for manager in both:
        items = same = manager.list(NUMBERS)
        items = operate(items, [1] if operate is operator.iadd else 2)
        assert items is same
        assert items[:] == operate(list(NUMBERS), [1] if operate is operator.iadd else 2)


# --- what they are ------------------------------------------------------------------------------------------------------------

KINDS = {
    "dict": ("DictProxy", ()),
    "list": ("ListProxy", ()),
    "Namespace": ("NamespaceProxy", ()),
    "Value": ("ValueProxy", ("i", 1)),
    "Array": ("ArrayProxy", ("i", [1])),
    "Lock": ("AcquirerProxy", ()),
    "RLock": ("AcquirerProxy", ()),
    "Semaphore": ("AcquirerProxy", ()),
    "BoundedSemaphore": ("AcquirerProxy", ()),
    "Condition": ("ConditionProxy", ()),
    "Event": ("EventProxy", ()),
    "Barrier": ("BarrierProxy", (2,)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_isinstance_of_the_stdlibs_classes(both, kind):
    name, arguments = KINDS[kind]
    theirs, ours = (getattr(manager, kind)(*arguments) for manager in both)
    for proxy in (theirs, ours, pickle.loads(pickle.dumps(ours))):
        assert isinstance(proxy, getattr(managers, name))
        assert isinstance(proxy, managers.BaseProxy)
        assert not isinstance(proxy, (dict, list, managers.PoolProxy))
    assert isinstance(ours, getattr(fastshm.managers, name)) or name == "AcquirerProxy"
    assert isinstance(ours, managers.ListProxy) is (kind == "list")


def test_isinstance_without_a_manager():
    assert isinstance(fastshm.dict(), managers.DictProxy)
    assert isinstance(fastshm.Counter(), managers.DictProxy)
    assert isinstance(fastshm.set(), getattr(managers, "SetProxy", managers.BaseProxy))


@pytest.mark.parametrize("generic", [DictProxy[str, int], ListProxy[int], SetProxy[int]])
def test_in_annotations(generic):
    assert generic.__origin__ in (DictProxy, ListProxy, SetProxy)


class Registering(BaseManager):
    pass


class Derived(DictProxy):
    pass


def test_registered_for_other_types():
    """What programs register is in a server, where our classes stand for the stdlib's; a class derived from ours cannot."""
    Registering.register("settings", dict, DictProxy)
    with Registering() as manager:
        settings = manager.settings(a=1)
        assert type(settings) is managers.DictProxy
        assert settings.copy() == {"a": 1}
        del settings
    with pytest.raises(TypeError, match=r"derive it from multiprocessing\.managers\.DictProxy"):
        Registering.register("derived", dict, Derived)


def test_all_names_of_the_stdlibs_module():
    for name in dir(managers):
        assert hasattr(fastshm.managers, name), name
        assert name in dir(fastshm.managers)
    assert set(managers.__all__) <= set(fastshm.managers.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'none'"):
        _ = fastshm.managers.none
    assert issubclass(fastshm.managers.SyncManager, multiprocessing.managers.SyncManager)


def test_they_show_their_own_methods():
    assert {"increment", "wait_for", "view", "get_lock", "keys"} <= set(dir(fastshm.dict()))
    assert "most_common" in dir(fastshm.Counter())
    assert {"view", "append", "get_lock"} <= set(dir(fastshm.list()))
    assert isinstance(fastshm.dict(), managers.DictProxy)


def things_to_call():
    for thing in (
        *(fastshm.dict(), fastshm.list(), fastshm.set(), fastshm.Counter(), fastshm.live({}), fastshm.frozen([1])),
        *(fastshm.Value("i"), fastshm.Array("d", 3), fastshm.Array("c", 3), fastshm.ShardedCounter(), fastshm.Cache()),
        *(fastshm.Lock(), fastshm.RLock(), fastshm.Semaphore(), fastshm.Event(), fastshm.Condition(), fastshm.Barrier(2)),
    ):
        yield type(thing)
    with fastshm.Manager() as m:
        yield from map(type, (m.Lock(), m.RLock(), m.Semaphore(), m.BoundedSemaphore(), m.Event(), m.Condition(), m.Barrier(2)))


@pytest.mark.parametrize("cls", set(things_to_call()), ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_signatures(cls):
    for name in dir(cls):
        method = getattr(cls, name)
        if not name.startswith("_") and callable(method):
            assert inspect.signature(method).parameters or name == "fromkeys", name


def test_signatures_as_the_builtins():
    def shape(method):
        return [(parameter.kind, parameter.default) for parameter in inspect.signature(method).parameters.values()]

    for shared, plain in ((DictProxy, builtins.dict), (ListProxy, builtins.list)):
        for name in ("get", "setdefault", "append", "extend", "insert", "index", "count", "remove", "reverse", "sort"):
            if hasattr(plain, name):
                assert shape(getattr(shared, name)) == shape(getattr(plain, name)), name
