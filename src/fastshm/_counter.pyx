"""A counter for many writers: counter.h between Python objects and words."""

from os import cpu_count

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint64_t

from fastshm._c cimport *
from fastshm._calls cimport fs_identify_by, whoami
from fastshm._core cimport Handle, Ref, check_open, fail, gate_ref, heap_of, identify, new_ref, offset_of
from fastshm._forms cimport box, unboxed

fs_identify_by(identify)

cdef uint64_t fewest = 8


cdef uint64_t stripes_for(object processors):
    """Four for each processor, so that few of those that run at once meet in one."""
    cdef uint64_t n = fewest
    while n < FS_MOST_STRIPES and n < 4 * processors:
        n *= 2
    return n


cdef class ShardedCounter(Handle):
    """A 64-bit count spread over several cache lines, so that processes on several processors add to it without waiting for one
    another. After Java's LongAdder; a Value's `add` is for counts that few add to, or that are read as often as changed.

    `ShardedCounter(value=0, *, beside=None)` begins at `value`; with `beside`, it is in that shared object's segment.

    `add(n=1)`, `sub(n=1)`     one atomic instruction each, without a lock; the count wraps around as int64 does
    `value`                    the sum. Additions that are made while it is taken may be in it or not, each for itself; those
                               that ended before are in it, those that begin after are not. So with additions of one sign it
                               lies between what the count was before and after; it need not be what the count was at any
                               one instant
    `exchange(new=0)`          takes a sum, as `value`, out of the count and leaves `new` (and what was added meanwhile): one
                               atomic instruction. Each addition is in what exactly one exchange returns, or still in the value
    `reset()`                  the same without a result

    A process that is killed at any instant has done each of its operations wholly or not at all, and leaves nothing that others
    would have to repair: no part of the count belongs to a process.
    """

    cdef fs_counter *c
    cdef unsigned bits
    cdef object __weakref__

    def __cinit__(self):
        self.c = <fs_counter *>self.ref.o
        self.bits = 1

    def __init__(self, value=0, *, beside=None):
        cdef uint64_t word, stripes = stripes_for(cpu_count() or 1)
        unboxed(FS_SIGNED, value, &word)
        cdef Ref ref = new_ref(heap_of(beside), fs_counter_bytes(stripes), FS_COUNTER, gate_ref(beside))
        fs_counter_start(<fs_counter *>ref.o, stripes, word)
        self.ref = ref
        self.bind()

    cdef int bind(self) except -1:
        cdef fs_counter *c = <fs_counter *>fs_kind_at(self.ref.heap.h, offset_of(self.ref), FS_COUNTER, sizeof(fs_counter))
        cdef uint64_t stripes
        cdef unsigned bits = 1
        if c == NULL:
            fail(FS_CORRUPT, self.ref.heap)
        stripes = fs_load_relaxed(&c.stripes)
        if not fs_stripes_fit(stripes, fs_room(self.ref.heap.h, &c.o.block)):
            fail(FS_CORRUPT, self.ref.heap)
        while <uint64_t>1 << bits < stripes:
            bits += 1
        self.c = c
        self.bits = bits
        return 0

    def add(self, n=1, /):
        """Adds n, by one atomic instruction and without a lock."""
        cdef fs_self me
        cdef uint64_t word
        unboxed(FS_SIGNED, n, &word)
        whoami(self.ref, &me)
        fs_counter_add(self.c, self.bits, me.id, word)

    def sub(self, n=1, /):
        """Subtracts n, likewise."""
        cdef fs_self me
        cdef uint64_t word
        unboxed(FS_SIGNED, n, &word)
        whoami(self.ref, &me)
        fs_counter_add(self.c, self.bits, me.id, 0 - word)

    @property
    def value(self):
        """The sum of all that was added and not taken out."""
        cdef uint64_t word = 0
        check_open(self.ref)
        while fs_counter_value(self.c, self.bits, &word) != FS_OK:
            PyErr_CheckSignals()
        return box(FS_SIGNED, 8, word)

    def exchange(self, new=0, /):
        """Takes out all there is, leaves `new`, and returns what was taken."""
        cdef uint64_t word
        unboxed(FS_SIGNED, new, &word)
        return box(FS_SIGNED, 8, taken(self, word))

    def reset(self):
        """Takes out all there is."""
        taken(self, 0)

    def __repr__(self):
        return f"{type(self).__name__}({self.value})"


cdef uint64_t taken(ShardedCounter self, uint64_t new) except? 0xffffffffffffffff:
    cdef uint64_t old = 0
    check_open(self.ref)
    while fs_counter_exchange(self.c, self.bits, new, &old) != FS_OK:
        PyErr_CheckSignals()
    return old
