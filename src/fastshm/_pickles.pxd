"""Small plain values to and from the bytes that pickle gives them. _pickles.pyx says which."""

from libc.stdint cimport uint64_t

cdef bytes dump_small(object value)
cdef object load(const unsigned char *p, uint64_t size)
