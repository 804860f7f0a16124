"""How an extension calls the C layer: who asks, and whether to ask again."""

from libc.stdint cimport uint32_t

from fastshm._c cimport *
from fastshm._core cimport Ref, check_open, fail, retry

cdef extern from *:
    """
    static void fs_identify_by(int (*identify)(fs_heap *, uint32_t *)) { fs_identify = identify; }
    """
    void fs_identify_by(int (*identify)(fs_heap *, uint32_t *) noexcept nogil)


cdef inline int whoami(Ref ref, fs_self *me) except -1:
    if ref.switch.closed[0]:
        check_open(ref)
    cdef int r = fs_me(ref.h, me)
    if r != FS_OK:
        fail(r, ref.heap)
    return 0


cdef inline bint again(int r, fs_self *me) except -1:
    """After a try: was nothing done because somebody else is at it? Then the next try waits."""
    if r != FS_BUSY and r != FS_INTERRUPTED:
        return False
    retry(r, me)
    return True
