"""What _parts.pyx does for _codec."""

from fastshm._core cimport Heap

cdef bytes parts_of(object value, list refs, Heap heap)
cdef object made_of(bytes text, list refs)
