"""A table as a whole in private memory: snapshots of it, a plain dict that is kept up to date, and its keys for what only
Python can compare with them."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_Items, PyDict_SetItem, PyDict_Values
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from fastshm._c cimport *
from fastshm._calls cimport again, fs_identify_by, whoami
from fastshm._codec cimport (
    Py_EnterRecursiveCall, Py_LeaveRecursiveCall, PyUnicode_DATA, PyUnicode_New, decode_key, decode_value, key_of, word_value,
)
from fastshm._containers cimport FS_ANY, MISSING, most_kept, new_pins
from fastshm._core cimport Ref, check_open, fail, identify

fs_identify_by(identify)

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030d0000
    #define fs_dict_for(n) _PyDict_NewPresized(n)
    #else
    #define fs_dict_for(n) PyDict_New()
    #endif
    """
    dict fs_dict_for(Py_ssize_t n)

cdef enum:
    REPLICATED = 16384  # entries of the largest table of which a handle keeps a plain copy


# --- snapshots ----------------------------------------------------------------------------------------------------------------

cdef inline object key_in_entry(fs_entry *e):
    """A str or int that lies in the entry; MISSING for any other."""
    cdef uint64_t *w = e.key.words
    cdef object text
    if e.display == FS_D_SAME:
        if e.form == FS_K_STR and not (w[0] | w[1] | w[2] | w[3]) & <uint64_t>0x8080808080808080:
            text = PyUnicode_New(e.key_length, 127)
            memcpy(<void *>PyUnicode_DATA(text), w, e.key_length)
            return text
        if e.form == FS_K_INT and e.key_length == 8:
            return <int64_t>w[0]
    return MISSING


@cython.final
cdef class Snapshot:
    cdef inline fs_record *next(self) noexcept:
        cdef fs_record *r
        if self.left == 0:
            return NULL
        r = <fs_record *>self.at
        self.at += fs_record_size(r)
        self.left -= 1
        return r

    cdef inline object key(self, fs_record *r):
        cdef object out = key_in_entry(&r.entry)
        return self.any_key(r) if out is MISSING else out

    cdef object any_key(self, fs_record *r):
        cdef uint64_t total
        cdef const unsigned char *p = fs_record_key(r, &total)
        return decode_key(p, total, r.entry.key_length, r.entry.form & ~FS_KEY_IN_BLOB, r.entry.display, self.ref.heap)

    cdef inline object value(self, fs_record *r):
        if r.entry.kind == FS_V_INT:
            return <int64_t>r.entry.value
        return self.any_value(r)

    cdef object any_value(self, fs_record *r):
        cdef uint64_t size
        cdef const unsigned char *p
        if r.entry.kind < FS_V_UTF8:
            return word_value(r.entry.kind, r.entry.length, r.entry.value)
        if r.entry.spare and r.pin:
            return self.pins.value(r.entry.kind, r.entry.length, r.pin - 1, False)
        p = fs_record_value(r, &size)
        return decode_value(r.entry.kind, r.entry.length, r.entry.value, p, size, None, self.ref.heap)

    def __dealloc__(self):
        free(self.s.buffer)


cdef Snapshot snapshot(Ref ref, fs_table *t, bint values, uint8_t form, uint64_t first, fs_extent *extent):
    """Entries from number `first` on; None when that number stands for another key than at the extent given."""
    cdef Snapshot s = Snapshot.__new__(Snapshot)
    cdef fs_self me
    cdef uint64_t *slots = NULL
    cdef uint64_t room = 0
    cdef int r
    s.ref = ref
    whoami(ref, &me)
    r = FS_BUSY
    if t.used < 1000:
        r = fs_table_copy(&me, t, values, form, first, slots, room, &s.s, extent)
    while True:
        if r == FS_RANGE:
            if s.pins is None:
                s.pins = new_pins(ref)
            s.pins.reserve(s.s.pins, False)
            whoami(ref, &me)
            me.wait = 1
        elif not again(r, &me):
            break
        elif s.pins is not None:
            s.pins.clear()
        if s.pins is not None:
            slots, room = s.pins.places(), s.pins.room
        with nogil:
            r = fs_table_copy(&me, t, values, form, first, slots, room, &s.s, extent)
    if r == FS_CHANGED:
        return None
    if r != FS_OK:
        fail(r, ref.heap)
    s.at = s.s.buffer
    s.left = s.s.count
    return s


# --- plain copies -------------------------------------------------------------------------------------------------------------

@cython.final
cdef class Replica:
    def __dealloc__(self):
        PyMem_Free(self.sights)
        PyMem_Free(self.changed)

    cdef bint fill(self, Snapshot s, uint64_t keys_changed) except -1:
        """False when there is something in it that is not a word, or a key that is neither an int nor a short ASCII text."""
        cdef Py_ssize_t n = s.left, i
        cdef fs_record *r
        cdef object key
        self.sights = <fs_sight *>PyMem_Malloc(n * sizeof(fs_sight))
        self.changed = <uint32_t *>PyMem_Malloc(n * sizeof(uint32_t))
        if self.sights == NULL or self.changed == NULL:
            raise MemoryError()
        self.plain, self.keys, self.keys_changed = fs_dict_for(n), [], keys_changed
        for i in range(n):
            r = s.next()
            key = MISSING if r.entry.kind >= FS_V_OWNING else key_in_entry(&r.entry)
            if key is MISSING:
                return False
            self.sights[i].head, self.sights[i].value = r.entry.head, r.entry.value
            PyDict_SetItem(self.plain, key, s.value(r))
            self.keys.append(key)
        return len(self.plain) == n

    cdef bint refresh(self, Ref ref, fs_table *t) except -1:
        """False when it is to be made anew."""
        cdef uint64_t i, n = 0, count = len(self.keys)
        cdef fs_self me
        cdef fs_entry e
        cdef int r = FS_BUSY
        whoami(ref, &me)
        if count < 1000:
            r = fs_table_delta(&me, t, self.keys_changed, self.sights, count, self.changed, &n)
        while again(r, &me):
            with nogil:
                r = fs_table_delta(&me, t, self.keys_changed, self.sights, count, self.changed, &n)
        if r == FS_CHANGED:
            return False
        if r != FS_OK:
            fail(r, ref.heap)
        for i in range(n):
            e.head, e.value = self.sights[self.changed[i]].head, self.sights[self.changed[i]].value
            key, value = self.keys[self.changed[i]], decode_value(e.kind, e.length, e.value, NULL, 0, None, ref.heap)
            PyDict_SetItem(self.plain, key, value)
            if self.pairs is not None:
                self.pairs[self.changed[i]] = key, value
        return True

    cdef list items(self):
        """Pairs are kept from the second time on: to make them costs more than all else."""
        if self.pairs is None:
            if not self.items_asked:
                self.items_asked = True
                return PyDict_Items(self.plain)
            self.pairs = PyDict_Items(self.plain)
        return self.pairs[:]


@cython.final
cdef class Copies:
    cdef list keys_kept(self):
        """The replica's keys, if they are those of this instant; not to be changed."""
        cdef uint64_t changed
        if self.ref.closed[0]:
            check_open(self.ref)
        if self.replica is None or not most_kept or fs_table_word(self.t, &self.t.keys_changed, &changed) != FS_OK:
            return None
        return self.replica.keys if changed == self.replica.keys_changed else None

    cdef Replica replicated(self):
        """A replica that is up to date and the caller's alone until it is given back; None when there is none."""
        cdef Replica replica = self.replica
        self.replica = None  # other threads do without it meanwhile
        return replica if replica is not None and most_kept and replica.refresh(self.ref, self.t) else None

    cdef Snapshot whole(self, bint values, fs_extent *extent):
        """All of it. When its keys are for the second time what they were the last time, a replica is made for the next one."""
        cdef Snapshot s = snapshot(self.ref, self.t, values, 0, 0, extent)
        cdef Replica replica
        if 0 < extent.used <= REPLICATED and most_kept:
            if self.keys_seen == extent.keys_changed:
                replica = Replica.__new__(Replica)
                if replica.fill(s, extent.keys_changed):
                    self.replica = replica
                s.at = s.s.buffer
                s.left = s.s.count
            self.keys_seen = extent.keys_changed
        return s

    cdef list keys(self):
        cdef list kept = self.keys_kept()
        return self.listed(1) if kept is None else kept[:]

    cdef list listed(self, int what):
        """What is a bit for keys, and one for values."""
        cdef fs_extent extent
        cdef Replica replica = self.replicated()
        cdef Snapshot s
        cdef list out
        cdef Py_ssize_t i
        cdef fs_record *r
        cdef object x, key
        if replica is not None:
            out = replica.keys[:] if what == 1 else PyDict_Values(replica.plain) if what == 2 else replica.items()
            self.replica = replica
            return out
        s = self.whole(what & 2, &extent)
        out = PyList_New(s.left)
        for i in range(s.left):
            r = s.next()
            if what == 1:
                x = s.key(r)
            elif what == 2:
                x = s.value(r)
            else:
                key = s.key(r)
                x = (key, s.value(r))
            Py_INCREF(x)
            PyList_SET_ITEM(out, i, x)
        return out

    cdef dict plain(self):
        cdef fs_extent extent
        cdef Replica replica = self.replicated()
        cdef Snapshot s
        cdef dict out
        cdef fs_record *r
        cdef object key
        if replica is not None:
            out = replica.plain.copy()
            self.replica = replica
            return out
        s = self.whole(True, &extent)
        out = fs_dict_for(s.left)
        while True:
            r = s.next()
            if r == NULL:
                return out
            key = s.key(r)
            PyDict_SetItem(out, key, s.value(r))

    cdef object iterator(self, object d):
        cdef fs_extent extent
        cdef KeyIterator it = KeyIterator.__new__(KeyIterator)
        it.d, it.ref, it.t = d, self.ref, self.t
        it.keys = self.keys_kept()
        if it.keys is not None:
            it.used = len(it.keys)
            return it
        it.s = self.whole(False, &extent)
        it.used = extent.used
        return it


cdef Copies new_copies(Ref ref, fs_table *t):
    cdef Copies copies = Copies.__new__(Copies)
    copies.ref, copies.t = ref, t
    return copies


@cython.final
cdef class KeyIterator:
    cdef Snapshot s
    cdef list keys  # instead of the snapshot
    cdef Py_ssize_t at
    cdef object d  # whose length tells of changes; None at the end
    cdef Ref ref
    cdef fs_table *t
    cdef uint64_t used

    def __iter__(self):
        return self

    def __next__(self):
        cdef fs_record *r
        cdef uint64_t used
        if self.d is None:
            raise StopIteration
        if self.ref.closed[0] or fs_table_count(self.t, &used) != FS_OK:
            used = len(self.d)
        if used != self.used:
            self.used = FS_ANY
            raise RuntimeError("dictionary changed size during iteration")
        if self.keys is not None:
            if self.at < len(self.keys):
                self.at += 1
                return self.keys[self.at - 1]
        else:
            r = self.s.next()
            if r != NULL:
                return self.s.key(r)
        self.d = self.ref = None
        raise StopIteration

    def __length_hint__(self):
        if self.d is None:
            return 0
        return self.s.left if self.keys is None else len(self.keys) - self.at


# --- keys that only Python can compare ---------------------------------------------------------------------------------------

cdef bint may_equal_others(object key):
    """May it equal a key of a builtin type? Not if it compares by identity, or with its own kind only."""
    cdef type kind = type(key)
    cdef object eq
    if kind is tuple or kind is frozenset:
        Py_EnterRecursiveCall(" in a nested key")
        try:
            for part in key:
                if may_equal_others(part):
                    return True
        finally:
            Py_LeaveRecursiveCall()
        return False
    eq = kind.__eq__
    return not (
        eq is object.__eq__
        or kind.__module__ in ("datetime", "uuid", "pathlib", "pathlib._local", "ipaddress")
        or (hasattr(kind, "__dataclass_fields__") and getattr(eq, "__qualname__", "").endswith(kind.__qualname__ + ".__eq__")
            and getattr(eq, "__module__", None) in (None, "dataclasses"))
    )


cdef int use_stored(fs_key *k, int form, bytes raw, uint64_t seed) noexcept:
    k.form, k.display = <uint8_t>form, FS_D_SAME
    k.bytes = <const unsigned char *>PyBytes_AS_STRING(raw)
    k.length = k.total = len(raw)
    fs_key_prepare(k, seed)
    return 0


cdef bint has_key(Ref ref, fs_table *t, const fs_key *k) except -1:
    cdef fs_self me
    cdef fs_copy c
    cdef fs_witness seen
    cdef int r
    whoami(ref, &me)
    r = fs_table_read(&me, t, k, NULL, &c, &seen)
    while again(r, &me):
        with nogil:
            r = fs_table_read(&me, t, k, NULL, &c, &seen)
    if r == FS_OK:
        free(c.data)
    elif r < 0 and r != FS_RANGE:
        fail(r, ref.heap)
    return r != FS_MISSING


@cython.final
cdef class Mirror:
    cdef dict refresh(self, bint natives):
        """The keys, up to date. Hashing and comparing them may run code that comes back here: it gets what is known so far.
        Other threads, and a child that is forked meanwhile, do not wait for that: they look for themselves."""
        cdef dict known = self.known
        cdef fs_self me
        cdef fs_extent extent = self.extent
        cdef Snapshot s = None
        cdef fs_record *r
        cdef uint64_t total
        cdef bytes raw
        whoami(self.ref, &me)
        if self.partial is not None and self.filler == me.id:
            self.extent.keys_changed = self.t.keys_changed
            return self.partial
        natives = natives or self.natives
        if known is not None and natives == self.natives:
            s = snapshot(self.ref, self.t, False, 0 if natives else FS_K_OTHER, extent.n, &extent)
        if s is None:  # for the first time, or numbers stand for other keys than before
            known = {}
            s = snapshot(self.ref, self.t, False, 0 if natives else FS_K_OTHER, 0, &extent)
        whoami(self.ref, &me)
        self.known, self.partial, self.filler = None, known, me.id
        try:
            while True:
                r = s.next()
                if r == NULL:
                    break
                raw = PyBytes_FromStringAndSize(<char *>fs_record_key(r, &total), r.entry.key_length)
                known[s.key(r)] = (r.entry.form & ~FS_KEY_IN_BLOB, raw)
        finally:
            if self.partial is known:
                self.partial = None
        self.known, self.natives, self.extent = known, natives, extent
        return known

    cdef object resolve(self, object key, fs_key *k, uint64_t *looked):
        """For a key that only Python can compare with what is there: *k becomes the equal key that is stored, and what keeps
        its bytes is returned; None when there is none. *looked is the number of changes of keys at that time."""
        cdef bint natives = k.form == FS_K_OTHER and self.t.used != self.t.others and may_equal_others(key)
        cdef dict known
        cdef object hit
        cdef bytes raw
        while True:
            known = self.refresh(natives)
            looked[0] = self.extent.keys_changed
            hit = known.get(key)
            if hit is None:
                return None
            raw = hit[1]
            use_stored(k, hit[0], raw, self.seed)
            if has_key(self.ref, self.t, k):
                return raw
            known.pop(key, None)  # deleted since it was looked at

    cdef int resolve_all(self, list items, fs_key *keys, list kept, uint64_t *looked) except -1:
        """Each key that is stored under another object becomes the stored one. `keys` are those of the items."""
        cdef Py_ssize_t i = 0
        cdef bint natives = False
        cdef dict known
        cdef fs_key k
        for key, _ in items:
            natives = natives or (keys[i].form == FS_K_OTHER and may_equal_others(key))
            i += 1
        known = self.refresh(natives and self.t.used != self.t.others)
        looked[0] = self.extent.keys_changed
        i = 0
        for key, _ in items:
            hit = known.get(key)
            if hit is not None:
                use_stored(&k, hit[0], hit[1], self.seed)
                if not has_key(self.ref, self.t, &k):
                    known.pop(key, None)  # deleted since it was looked at
                    hit = None
            if hit is not None:
                kept.append(hit[1])
                keys[i] = k
            else:
                kept.append(key_of(key, &keys[i], self.seed, <PyObject *>self.ref.heap))
            i += 1
        return 0


cdef Mirror new_mirror(Ref ref, fs_table *t, uint64_t seed):
    cdef Mirror mirror = Mirror.__new__(Mirror)
    mirror.ref, mirror.t, mirror.seed = ref, t, seed
    return mirror
