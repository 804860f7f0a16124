"""What _dict.pyx needs of _replicas.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastshm._c cimport *
from fastshm._containers cimport Pins
from fastshm._core cimport Ref

cdef class Snapshot:
    """Entries of a table, all of one instant, in private memory."""
    cdef fs_snapshot s
    cdef unsigned char *at
    cdef uint64_t left
    cdef Pins pins
    cdef Ref ref
    cdef fs_record *next(self) noexcept
    cdef object key(self, fs_record *r)
    cdef object any_key(self, fs_record *r)
    cdef object value(self, fs_record *r)
    cdef object any_value(self, fs_record *r)

cdef class Replica:
    """A plain dict that is brought up to date by comparing words, as long as the keys are the same."""
    cdef dict plain
    cdef list keys
    cdef list pairs  # (key, value), in the same order; when items() has been asked for more than once
    cdef bint items_asked
    cdef fs_sight *sights  # in the order of the keys
    cdef uint32_t *changed
    cdef uint64_t keys_changed
    cdef bint fill(self, Snapshot s, uint64_t keys_changed) except -1
    cdef bint refresh(self, Ref ref, fs_table *t) except -1
    cdef list items(self)

cdef class Copies:
    """Reads a table as a whole, of one instant each time; keeps a replica for the next, as long as the keys stay the same."""
    cdef Ref ref
    cdef fs_table *t
    cdef Replica replica
    cdef uint64_t keys_seen  # how often keys had changed when it was last read
    cdef list keys_kept(self)
    cdef Replica replicated(self)
    cdef Snapshot whole(self, bint values, fs_extent *extent)
    cdef list keys(self)
    cdef list listed(self, int what)
    cdef dict plain(self)
    cdef object iterator(self, object d)

cdef class Mirror:
    """A table's keys as objects -> (form, canonical bytes). May hold keys that were deleted since."""
    cdef Ref ref
    cdef fs_table *t
    cdef uint64_t seed
    cdef dict known
    cdef dict partial  # while it is being brought up to date
    cdef uint32_t filler  # by whom
    cdef bint natives  # also those that need no `==`
    cdef fs_extent extent
    cdef dict refresh(self, bint natives)
    cdef object resolve(self, object key, fs_key *k, uint64_t *looked)
    cdef int resolve_all(self, list items, fs_key *keys, list kept, uint64_t *looked) except -1

cdef Snapshot snapshot(Ref ref, fs_table *t, bint values, uint8_t form, uint64_t first, fs_extent *extent)
cdef bint has_key(Ref ref, fs_table *t, const fs_key *k) except -1
cdef Copies new_copies(Ref ref, fs_table *t)
cdef Mirror new_mirror(Ref ref, fs_table *t, uint64_t seed)
