"""What _locks.pyx shares with the other extensions."""

from libc.stdint cimport int64_t, uint32_t

from fastshm._c cimport fs_self
from fastshm._core cimport Handle, Ref

cdef class Guarded(Handle):
    pass

cdef class Gateway(Handle):
    cdef object enter_, exit_  # bound methods, kept

cdef int64_t deadline_asked(object block, object timeout) except? -2
cdef int enter_object(Ref ref, fs_self *me) except -1
cdef int hold(Ref ref, int64_t deadline, uint32_t flags) except -1
cdef int unhold(Ref ref) except -1
cdef uint32_t hold_quietly(Ref ref) except 0
cdef bint is_held_still(Ref ref, uint32_t holder) noexcept
cdef int unhold_quietly(Ref ref, uint32_t holder) except -1
cdef object lock_of(Handle handle)
