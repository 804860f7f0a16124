"""What _core.pyx shares with the other extensions."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastshm._c cimport fs_heap, fs_lock, fs_object, fs_self, fs_switch

cdef class Heap:
    cdef fs_heap *h  # what this process knows of the segment; nobody's before it is joined and after it was left
    cdef readonly str name
    cdef readonly bint allow_pickle  # known to this process alone: what is written in the segment has no say
    cdef bint undecided  # whether pickles are refused may not be known yet
    cdef list pending  # slots of handles that died while the heap's lock was held
    cdef int users     # calls that keep this process from leaving it, although it may have no handle in it
    cdef bint is_to_be_left  # by the last of them
    cdef bint stays  # until this process ends, whether it is used or not
    cdef object __weakref__
    cdef fs_heap *opened(self, const char *place, uint64_t size, bint is_nameless, dict into) except NULL
    cdef int check_joined(self) except -1
    cdef object checked(self)
    cdef int drain(self, bint wait) except -1
    cpdef bint takes_pickles(self) except -1

cdef class Ref:
    """One reference to one object; its end gives it back. There may be very many: what can be told otherwise is not kept."""
    cdef Heap heap
    cdef fs_object *o
    cdef uint64_t slot
    cdef const uint64_t *closed  # not 0: the object's manager was shut down, or this process has no part in it

cdef class SwitchedRef(Ref):
    """One to an object that a manager closes."""
    cdef Ref gate
    cdef fs_switch switch

cdef class Pin:
    """A handle slot that refers to a block, so that it stays what it is while somebody looks at it."""
    cdef Heap heap
    cdef uint64_t slot

cdef class Handle:
    cdef Ref ref
    cdef object lock
    cdef int bind(self) except -1

cdef struct Collecting:
    void *into
    void *heap
    void *since

cdef int fail(int code, Heap heap) except -1
cdef int check_open(Ref ref) except -1
cdef int check_may_stay(object cls, Ref ref, Heap heap) except -1
cdef int closed_error(Ref ref) except -1
cdef int retry(int code, fs_self *me) except -1
cdef int let_signals_in(fs_self *me) except -1
cdef int whoami(fs_heap *h, Heap heap, fs_self *me) except -1
cdef int identify(fs_heap *heap, uint32_t *out) noexcept nogil
cdef Ref new_ref(Heap heap, uint64_t size, uint32_t kind, Ref gate)
cdef Ref open_ref(Heap heap, uint64_t offset, uint64_t serial)
cdef Ref adopt_ref(Heap heap, uint64_t offset, uint64_t slot)
cdef uint64_t reserve_slot(Heap heap) except? 0xffffffffffffffff
cdef uint64_t slot_for_new(Heap heap) except? 0xffffffffffffffff
cdef void release_slot(Heap heap, uint64_t slot) noexcept
cdef Heap default_heap()
cdef Handle make_handle(type cls, Ref ref)
cdef Collecting start_collecting(list into, Heap heap) noexcept
cdef void stop_collecting(Collecting before) noexcept
cdef int64_t deadline_of(object block, object timeout) except? -2
cdef bint is_ours(fs_heap *h, uint32_t identity)
cdef uint64_t offset_of(Ref ref) noexcept
cdef Ref gate_of(Ref ref)
cdef Ref gate_ref(object beside)
cdef Heap heap_of(object beside)
