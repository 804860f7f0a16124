"""What _dict.pyx and _list.pyx have in common: how often they try, and references taken under a container's lock."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint32_t, uint64_t

from fastshm._c cimport *
from fastshm._calls cimport again
from fastshm._core cimport Ref, fail

cdef extern from *:
    """
    #define FS_ANY UINT64_MAX
    """
    const uint64_t FS_ANY

cdef enum:
    TRIES = 4  # optimistic looks before the lock is taken
    PATIENCE = 20  # decisions overtaken by others before the lock is held

cdef class Pins:
    """Handle slots set aside for references that are taken under a lock."""
    cdef Ref ref
    cdef uint64_t *numbers
    cdef uint64_t *offsets
    cdef uint64_t room
    cdef int reserve(self, uint64_t count, bint whole) except -1
    cdef int clear(self) except -1
    cdef uint64_t *places(self) noexcept
    cdef uint64_t *word(self, uint64_t i) noexcept
    cdef list adopt(self, uint32_t kind, uint64_t i)
    cdef object value(self, uint32_t kind, uint32_t length, uint64_t i, bint in_place)

cdef class Decision:
    """From its making to its end, Python code decides what is to be done to a container. Has that code, in this thread, changed
    it? Then it will do so again."""
    cdef void *container
    cdef unsigned long thread
    cdef bint overtook_itself
    cdef uint32_t holder  # who holds the container's lock for it, once tries have reached PATIENCE
    cdef void *next
    cdef void *previous

cdef void *first_decision
cdef Decision decide(void *container)
cdef int changed_while_deciding(void *container) noexcept


cdef inline int note_change(void *container) noexcept:
    """To be called after each change of a container by this process."""
    if first_decision != NULL:
        changed_while_deciding(container)
    return 0


cdef struct Cached:
    uint64_t number, head, value
    PyObject *object
    int copied

cdef class Cache:
    """Objects of a container's pickled values that have not changed since. A line holds what no reader can change, or a master
    copy: two readers never get one object that either of them could change."""
    cdef Cached *lines
    cdef uint64_t count, version
    cdef void *next
    cdef void *previous
    cdef Cached *line(self, uint64_t number) noexcept
    cdef object find(self, uint64_t version, uint64_t number, uint64_t head, uint64_t value)
    cdef object keep(self, uint64_t version, uint64_t number, uint64_t head, uint64_t value, uint64_t size, object decoded)
    cdef int clear(self) noexcept

cdef class Desk:
    """Room to lay out the items of an update."""
    cdef fs_key *keys
    cdef fs_value *values
    cdef Py_ssize_t room

cdef object MISSING
cdef uint64_t most_kept, largest_kept

cdef Pins new_pins(Ref ref)
cdef object made(fs_copy *c, Pins pins, Ref ref, bint in_place)
cdef int make_plain(void *out, const fs_seen *s) noexcept
cdef object taken(PyObject *out)
cdef Desk take_desk(Py_ssize_t room)
cdef Desk desk_for(Desk desk, list items)
cdef int give_desk(Desk desk) except -1


cdef inline int forget(PyObject **out) noexcept:
    """What make_plain has made in vain."""
    Py_XDECREF(out[0])
    out[0] = NULL
    return 0


cdef object enlivened(object value, Ref ref)


cdef inline object lively(object value, bint live, Ref ref):
    """What is stored: in a live container, shared copies of plain dicts and lists."""
    if live and (type(value) is dict or type(value) is list):
        return enlivened(value, ref)
    return value


cdef inline int wait_for_heap(Ref ref, fs_self *me) except -1:
    """Until the heap's lock was free for a moment."""
    cdef int r = FS_BUSY
    while again(r, me):
        with nogil:
            r = fs_heap_enter(me)
            if r >= 0:
                fs_heap_leave(me)
    if r < 0:
        fail(r, ref.heap)
    return 0


cdef inline int reap(Ref ref, fs_self *me) noexcept:
    if ref.heap.h.super.dying:
        fs_reap(me)
    return 0
