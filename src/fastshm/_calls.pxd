"""How an extension calls the C layer: who asks, and whether to ask again."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastshm._c cimport *
from fastshm._core cimport Ref, check_open, deadline_of, fail, let_signals_in, offset_of, retry

cdef extern from *:
    """
    static void fs_identify_by(int (*identify)(fs_heap *, uint32_t *)) { fs_identify = identify; }
    """
    void fs_identify_by(int (*identify)(fs_heap *, uint32_t *) noexcept nogil)


cdef inline int whoami(Ref ref, fs_self *me) except -1:
    """Good until code of Python's may have run, for that may have forked: then to be asked anew. again() and its like do so."""
    if ref.closed[0]:
        check_open(ref)
    cdef int r = fs_me(ref.heap.h, me)
    if r != FS_OK:
        fail(r, ref.heap)
    return 0


cdef inline bint again(int r, fs_self *me) except -1:
    """After a try: was nothing done because somebody else is at it? Then the next try waits."""
    if r != FS_BUSY and r != FS_INTERRUPTED:
        return False
    retry(r, me)
    return True


cdef inline bint again_or_bury(int r, fs_self *me, bint *buried) except -1:
    """again(); and once more, if there was no memory: the dead may have some."""
    if r != FS_NOMEM or buried[0]:
        return again(r, me)
    buried[0] = True
    me.wait = 1
    with nogil:
        fs_bury(me)
    return True


cdef inline int check_gate(Ref ref) except -1:
    """While waiting: is its manager still there? (When this process ends, its daemon threads end with it, silently.)"""
    if ref.closed[0] and not ref.heap.h.shut:
        check_open(ref)
    return 0


cdef inline bint wait_for_item(
    Ref ref, fs_self *me, fs_item_look look, uint32_t *turn, uint64_t which, uint32_t size, uint64_t old, fs_patience *p
) except -1:
    """True once the item's bits are not `old`, False when the patience is at its end."""
    cdef int r = FS_INTERRUPTED
    while r == FS_INTERRUPTED:
        let_signals_in(me)
        check_gate(ref)
        with nogil:
            r = fs_item_wait(me, ref.o, turn, look, which, size, old, p)
    if r == FS_NESTED:
        raise RuntimeError("this thread holds the lock, so nobody else could change what it waits for")
    if r != FS_OK and r != FS_TIMEOUT:
        fail(r, ref.heap)
    return r == FS_OK


cdef inline int check_kind(Ref ref, uint32_t kind) except -1:
    if fs_kind_at(ref.heap.h, offset_of(ref), kind, fs_kind_size(kind)) == NULL:
        fail(FS_CORRUPT, ref.heap)
    return 0


cdef inline int64_t patient(object timeout) except? -2:
    return deadline_of(True, timeout)


cdef inline int64_t patient_number(object timeout) except? -2:
    """The same where the stdlib has no such call: its OSError for a NaN would say nothing."""
    if timeout is not None and timeout != timeout:
        raise ValueError("the timeout must not be NaN")
    return deadline_of(True, timeout)
