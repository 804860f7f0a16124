"""Values with bytes of their own: on their way in, and as they are seen where they lie."""

from libc.stdint cimport uint32_t, uint64_t

from fastshm._c cimport fs_value
from fastshm._core cimport Heap, Pin

cdef class Packed:
    """The bytes of a value, in private memory or, when they are many, in a block already; and the objects it refers to."""
    cdef bytes data
    cdef list refs
    cdef uint64_t *offsets
    cdef Pin pin
    cdef int refer(self, fs_value *v) except -1
    cdef int make(self, list pieces, fs_value *v, Heap heap) except -1
    cdef bint make_whole(self, list pieces, fs_value *v, Heap heap) except -1

cdef object damaged()
cdef Packed packed(uint32_t kind, list pieces, uint64_t size, list refs, fs_value *v, Heap heap)
cdef Packed packed_with_buffers(bytes text, list buffers, list refs, fs_value *v, Heap heap)
cdef Packed packed_array(object value, fs_value *v, Heap heap)
cdef object span(Pin pin, const unsigned char *p, uint64_t n)
cdef bytes copied(const unsigned char *p, uint64_t n)
cdef bytearray copied_writable(const unsigned char *p, uint64_t n)
cdef object array_at(const unsigned char *data, uint64_t size, Pin pin)
cdef object loaded_with_buffers(const unsigned char *data, uint64_t size, list refs, Heap heap, Pin pin)
