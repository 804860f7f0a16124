"""Shared objects as values of containers, without pickle: which classes a value is made of, and the objects behind them.

A handle is the number of its class; its object is the next one that the bundle refers to. What is made of several is the number
of its class, and then its parts. What has more to it (a barrier's action, a subclass of a program's) is left to pickle."""

from importlib import import_module

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING

from fastshm._buffers cimport damaged
from fastshm._core cimport Handle, Heap, Ref, check_may_stay, check_open, make_handle

cdef enum:
    NOTHING = 0
    MANY = 64  # from here on, those that are made of several

# The numbers are part of the format: what is new gets a new one.
HANDLES = {
    1: ("fastshm._typed", "Synchronized"),
    2: ("fastshm._array", "SynchronizedArray"),
    3: ("fastshm.arrays", "SynchronizedString"),
    4: ("fastshm._counter", "ShardedCounter"),
    5: ("fastshm.synchronize", "Lock"),
    6: ("fastshm.synchronize", "RLock"),
    7: ("fastshm.synchronize", "Semaphore"),
    8: ("fastshm.synchronize", "BoundedSemaphore"),
    9: ("fastshm.synchronize", "Event"),
    10: ("fastshm.synchronize", "Barrier"),
    11: ("fastshm.proxies", "DictProxy"),
    12: ("fastshm.proxies", "ListProxy"),
    13: ("fastshm.proxies", "ArrayProxy"),
    14: ("fastshm.proxies", "AcquirerProxy"),
    15: ("fastshm.proxies", "RecursiveAcquirerProxy"),
    16: ("fastshm.proxies", "SemaphoreProxy"),
    17: ("fastshm.proxies", "BoundedSemaphoreProxy"),
    18: ("fastshm.proxies", "EventProxy"),
    19: ("fastshm.proxies", "BarrierProxy"),
    20: ("fastshm.collections", "CounterProxy"),
    21: ("fastshm._dict", "Dict"),
    22: ("fastshm._list", "List"),
    23: ("fastshm._sync", "Waiters"),
    24: ("fastshm.records", "Records"),
}
WHOLES = {  # each with what its parts may be
    64: ("fastshm.proxies", "SetProxy", ({21, 11},)),
    65: ("fastshm.proxies", "NamespaceProxy", ({11},)),
    66: ("fastshm.proxies", "ValueProxy", ({12},)),
    67: ("fastshm.proxies", "ConditionProxy", ({5, 6, 14, 15}, {23})),
    68: ("fastshm.records", "FrozenList", ({24}, {24}, {NOTHING, 12, 22})),
}
STATED = (10, 19)  # barriers: (action, timeout)

cdef dict numbers = {}  # by class
cdef dict classes = {}  # by number


def learn():
    """To be called once all of them are there."""
    for number, (module, name, *_) in (HANDLES | WHOLES).items():
        classes[number] = getattr(import_module(module), name)
    numbers.update({cls: number for number, cls in classes.items()})


def is_shared(value):
    """Is it made of shared objects as far as its class says?"""
    return type(value) in numbers


cdef bytes parts_of(object value, list refs, Heap heap):
    """None when it is made of something else. Its objects are added to `refs`."""
    cdef bytearray text = bytearray()
    return bytes(text) if type(value) in numbers and take_apart(value, text, refs, heap) else None


cdef bint take_apart(object value, bytearray text, list refs, Heap heap) except -1:
    cdef type kind = type(value)
    cdef object number = numbers.get(kind, NOTHING)
    cdef Ref ref
    if number == NOTHING and value is not None:
        return False
    text.append(number)
    if number >= MANY:
        for part in value.__reduce__()[1]:
            if not take_apart(part, text, refs, heap):
                return False
    elif number != NOTHING:
        if number in STATED and (value._action, value._timeout) != (None, None):
            return False
        ref = (<Handle>value).ref
        check_open(ref)
        check_may_stay(kind, ref, heap)
        refs.append(ref)
    return True


cdef object made_of(bytes text, list refs):
    """CorruptedError when that cannot be."""
    cdef Made made = Made.__new__(Made)
    made.text, made.refs = text, refs
    whole = made.whole(classes)
    if made.at != len(text) or made.taken != len(refs):
        damaged()
    return whole


@cython.final
cdef class Made:
    cdef bytes text
    cdef list refs
    cdef Py_ssize_t at, taken

    cdef object whole(self, object allowed):
        cdef int number
        if self.at == len(self.text):
            damaged()
        number = <unsigned char>PyBytes_AS_STRING(self.text)[self.at]
        self.at += 1
        if number not in allowed:
            damaged()
        if number == NOTHING:
            return None
        if number >= MANY:
            return classes[number](*[self.whole(part) for part in WHOLES[number][2]])
        return self.handle(number)

    cdef object handle(self, int number):
        if self.taken == len(self.refs):
            damaged()
        handle = make_handle(classes[number], self.refs[self.taken])
        self.taken += 1
        if number in STATED:
            handle.__setstate__((None, None))
        return handle
