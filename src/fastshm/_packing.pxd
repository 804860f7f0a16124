"""What _array.pyx needs of _packing.pyx."""

from libc.stdint cimport uint32_t, uint64_t

cdef class Packed:
    """Items side by side in memory of this process, or in a buffer that stays while they are needed."""
    cdef const char *data
    cdef uint64_t count
    cdef bytes raw
    cdef Py_buffer view
    cdef bint viewed
    cdef bint is_view(self, int form, uint32_t size, object values) except -1
    cdef int take(self, bytes raw, uint32_t size) except -1
    cdef int reverse(self, uint32_t size) except -1

cdef Packed packed(int form, uint32_t size, object values)
cdef object listed(int form, uint32_t size, const char *raw, Py_ssize_t n)
