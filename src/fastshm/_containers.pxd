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
    cdef int reserve(self, uint64_t count) except -1
    cdef int clear(self) except -1
    cdef list adopt(self, uint32_t kind, uint64_t i)

cdef Pins new_pins(Ref ref)
cdef object made(fs_copy *c, Pins pins, Ref ref)
cdef int make_plain(void *out, const fs_seen *s) noexcept
cdef object taken(PyObject *out)


cdef inline int forget(PyObject **out) noexcept:
    """What make_plain has made in vain."""
    Py_XDECREF(out[0])
    out[0] = NULL
    return 0


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
    if ref.h.super.dying:
        fs_reap(me)
    return 0
