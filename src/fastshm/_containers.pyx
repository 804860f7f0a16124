"""References taken under a container's lock, and values made after it."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free

from fastshm._c cimport *
from fastshm._calls cimport fs_identify_by, whoami
from fastshm._codec cimport decode_value
from fastshm._core cimport Ref, adopt_ref, fail, identify, release_slot, reserve_slot

fs_identify_by(identify)

cdef extern from "Python.h":
    int PyGC_Disable()
    int PyGC_Enable()


@cython.final
cdef class Pins:
    cdef int reserve(self, uint64_t count) except -1:
        cdef uint64_t *more
        self.clear()
        more = <uint64_t *>PyMem_Realloc(self.numbers, count * 8)
        if more == NULL:
            raise MemoryError()
        self.numbers = more
        more = <uint64_t *>PyMem_Realloc(self.offsets, count * 8)
        if more == NULL:
            raise MemoryError()
        self.offsets = more
        while self.room < count:
            self.numbers[self.room] = reserve_slot(self.ref.heap)
            self.offsets[self.room] = fs_slot_offset(self.ref.h, self.numbers[self.room])
            self.room += 1
        return 0

    cdef int clear(self) except -1:
        """Gives back what an unfinished try has taken."""
        cdef fs_self me
        cdef uint64_t i
        cdef int r
        if self.room == 0:
            return 0
        whoami(self.ref, &me)
        me.wait = 1
        for i in range(self.room):
            r = FS_INTERRUPTED
            while r == FS_INTERRUPTED:
                with nogil:
                    r = fs_drop(&me, <uint64_t *>(self.ref.h.base + self.offsets[i]))
            if r != FS_OK:
                fail(r, self.ref.heap)
        return 0

    cdef list adopt(self, uint32_t kind, uint64_t i):
        """Handles on what slot i refers to: an object, or a bundle's objects."""
        cdef uint64_t offset = fs_load_relaxed(<uint64_t *>(self.ref.h.base + self.offsets[i])), slot = self.numbers[i]
        cdef uint64_t n, count, *place
        cdef list out = []
        cdef fs_bundle *u
        cdef fs_self me
        cdef int r
        if kind == FS_V_OBJECT:
            self.numbers[i] = FS_ANY
            out.append(adopt_ref(self.ref.heap, offset, slot))
            return out
        u = fs_bundle_at(self.ref.h, offset, &count)
        if u == NULL:
            fail(FS_CORRUPT, self.ref.heap)
        whoami(self.ref, &me)
        me.wait = 1
        for n in range(count):
            offset = fs_load_relaxed(&u.refs[n])
            slot = reserve_slot(self.ref.heap)
            place = fs_slot_word(self.ref.h, slot)
            r = FS_INTERRUPTED
            while r == FS_INTERRUPTED:
                with nogil:
                    r = fs_ref_to(&me, offset, place)
            if r != FS_OK:
                release_slot(self.ref.heap, slot)
                fail(r, self.ref.heap)
            out.append(adopt_ref(self.ref.heap, offset, slot))
        return out

    def __dealloc__(self):
        cdef uint64_t i
        for i in range(self.room):
            if self.numbers[i] != FS_ANY:
                release_slot(self.ref.heap, self.numbers[i])
        PyMem_Free(self.numbers)
        PyMem_Free(self.offsets)


cdef Pins new_pins(Ref ref):
    cdef Pins pins = Pins.__new__(Pins)
    pins.ref = ref
    return pins


cdef int make_plain(void *out, const fs_seen *s) noexcept:
    """For fs_table_take and fs_vector_take, under their lock: a number, a text or bytes, so that no code of anybody's runs. Nor
    does the collector: an exception, or its traceback, might start it, and is a return code before it may run again."""
    cdef bint collects = PyGC_Disable()
    cdef const unsigned char *data = s.data
    cdef bytes copy
    cdef int r = FS_OK
    try:
        if s.kind == FS_V_UTF8_BLOB:  # decoding looks at bytes more than once, and a damaged segment may change meanwhile
            copy = PyBytes_FromStringAndSize(<const char *>s.data, s.size)
            data = <const unsigned char *>PyBytes_AS_STRING(copy)
        plain = decode_value(s.kind, s.length, s.value, data, s.size, None, None)
        Py_INCREF(plain)
        (<PyObject **>out)[0] = <PyObject *>plain
    except MemoryError:
        r = FS_PRIVATE_NOMEM
    except Exception:
        r = FS_CORRUPT
    if collects:
        PyGC_Enable()
    return r


cdef object taken(PyObject *out):
    """The object that make_plain has made."""
    cdef object plain = <object>out
    Py_DECREF(plain)
    return plain


cdef object made(fs_copy *c, Pins pins, Ref ref):
    """The object of a value that was copied out."""
    cdef list refs = None
    try:
        if fs_needs_pin(c.kind):
            refs = pins.adopt(c.kind, 0)
        return decode_value(c.kind, c.length, c.value, c.data, c.size, refs, ref.heap)
    finally:
        free(c.data)
        c.data = NULL
