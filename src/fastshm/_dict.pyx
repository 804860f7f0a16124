"""The dict over the C layer's table.

Encode first, lock, copy bytes, unlock, and only then make or drop objects. What needs an object before it can decide
(pop of a pickled value, popitem) looks, decides, and changes the container only if it is still as it was seen; after some
failures it holds the container's lock, as its user could, and goes on.
"""

import os
from numbers import Number

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_Items
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastshm._c cimport *
from fastshm._calls cimport again, again_or_bury, fs_identify_by, patient_number, whoami
from fastshm._codec cimport (
    PyLong_AsLongLongAndOverflow, PyLong_CheckExact, PyUnicode_DATA, PyUnicode_New, as_stored, damaged, decode_value,
    encode_plain, key_of, value_of, word_value,
)
from fastshm._containers cimport (
    FS_ANY, MISSING, PATIENCE, TRIES, Cache, Decision, Desk, Pins, decide, forget, give_desk, largest_kept, lively, made,
    desk_for, make_plain, most_kept, new_pins, note_change, reap, take_desk, taken, wait_for_heap,
)
from fastshm._core cimport Handle, Ref, check_open, fail, gate_ref, heap_of, identify, make_handle, new_ref, offset_of
from fastshm._locks cimport hold_quietly, is_held_still, unhold_quietly, lock_of
from fastshm._hints cimport Hint, Hints, hint_of, hints_end, hints_follow, remember
from fastshm._pickles cimport load
from fastshm._replicas cimport Copies, Mirror, Snapshot, has_key, new_copies, new_mirror, snapshot

fs_identify_by(identify)

cdef object UNSURE = object()  # not there, but for keys that only Python can compare


cdef inline object key_in(Dict d, object key, fs_key *k):
    """Fills in *k for this dict, see key_of."""
    return key_of(key, k, d.seed, <PyObject *>d.ref.heap)


cdef class Dict(Handle):
    """A shared dict. Every operation is one step for all processes; what is read is a copy."""
    cdef fs_table *t
    cdef uint64_t seed
    cdef fs_peek p
    cdef Cache cache
    cdef Hints hints
    cdef Mirror mirror  # made when it is needed first, like the next
    cdef Copies copies
    cdef fs_extent oldest  # when the first entry was last looked for: there is none before it
    cdef readonly bint live

    def __dealloc__(self):
        hints_end(&self.hints)

    def __cinit__(self):
        self.t = <fs_table *>self.ref.o
        self.p.view.version = 1

    @staticmethod
    def _make(type cls not None, beside=None, live=False):
        """A new, empty one, closed by that gate or with that object and in its segment, else in this process's."""
        cdef Ref ref = new_ref(heap_of(beside), sizeof(fs_table), FS_TABLE, gate_ref(beside))
        cdef bytes seed = os.urandom(8)
        memcpy(&(<fs_table *>ref.o).seed, PyBytes_AS_STRING(seed), 8)
        (<fs_table *>ref.o).live = 1 if live else 0
        return make_handle(cls, ref)

    cdef int bind(self) except -1:
        self.t = <fs_table *>self.ref.o
        if fs_kind_at(self.ref.heap.h, offset_of(self.ref), FS_TABLE, sizeof(fs_table)) == NULL:
            fail(FS_CORRUPT, self.ref.heap)
        self.seed = self.t.seed
        self.live = self.t.live != 0
        self.p.view.version = 1
        return 0

    # hints

    cdef object recall(self, Hint *h):
        """The value of the key of *h, or MISSING when it is to be looked for."""
        cdef fs_entry head
        cdef uint64_t word
        cdef object out
        if not fs_hint_look(self.t, &h.at, &word):
            return MISSING
        if h.object != NULL and h.word == word and most_kept:
            return <object>h.object
        head.head = h.at.head
        if head.kind < FS_V_UTF8:
            out = word_value(head.kind, head.length, word)
            if not most_kept:
                return out
            Py_INCREF(out)
            Py_XDECREF(h.object)
            h.object, h.word = <PyObject *>out, word
            return out
        if (head.kind == FS_V_PICKLE_BLOB and self.cache is not None and self.p.view.version == h.at.version
                and self.ref.heap.allow_pickle and not self.ref.heap.undecided):
            return self.cache.find(h.at.version, fs_hint_number(&h.at, &self.p.view), h.at.head, word)
        return MISSING

    # reading

    cdef object peek(self, const fs_key *k, PyObject *key):
        """The value; MISSING; or UNSURE. `key` is what *k was made of, if it may be looked up again."""
        cdef fs_peek *p = &self.p
        cdef fs_table *t = self.t
        cdef uint32_t kind, length
        cdef uint64_t word, size, head, number, version, others
        cdef object out
        cdef int r
        for _ in range(TRIES):
            r = fs_peek_at(self.ref.heap.h, t, k, p)
            if r == FS_MISSING:
                others = t.others
                if fs_peek_valid(t, p, 0):
                    return UNSURE if others else MISSING
                continue
            if r != FS_OK:
                continue
            kind, length, word, size = p.seen.kind, p.seen.length, p.seen.value, p.seen.size
            if kind < FS_V_OWNING:
                if fs_peek_valid(t, p, 1):
                    if kind < FS_V_UTF8:
                        out = word_value(kind, length, word)
                    else:
                        out = decode_value(kind, length, word, NULL, 0, None, self.ref.heap)
                    if key != NULL:
                        remember(&self.hints, p, <object>key, <PyObject *>out)
                    return out
            elif kind == FS_V_ASCII_BLOB:
                out = PyUnicode_New(size, 127)
                r = fs_copy_ascii(<void *>PyUnicode_DATA(out), p.seen.data, size)
                if fs_peek_valid(t, p, 1):
                    if not r:
                        return damaged()
                    if key != NULL:
                        remember(&self.hints, p, <object>key, <PyObject *>out if most_kept and size <= largest_kept else NULL)
                    return out
            elif size >= FS_LARGE:  # pinned, and copied out after the lock
                break
            elif kind == FS_V_PICKLE_BLOB:
                if not self.ref.heap.allow_pickle or self.ref.heap.undecided:
                    break  # what was seen counts only once it is known to be whole
                version, number, head = p.view.version, p.place.number, p.place.head
                if self.cache is not None:
                    out = self.cache.find(version, number, head, word)
                    if out is not MISSING:
                        if fs_peek_valid(t, p, 1):
                            if key != NULL:
                                remember(&self.hints, p, <object>key, NULL)
                            return out
                        continue
                out = PyBytes_FromStringAndSize(NULL, size)
                fs_copy_racy(PyBytes_AS_STRING(out), p.seen.data, size)
                if fs_peek_valid(t, p, 1):
                    out = load(<const unsigned char *>PyBytes_AS_STRING(out), size)
                    if self.cache is None:
                        self.cache = Cache.__new__(Cache)
                    return self.cache.keep(version, number, head, word, size, out)
            elif kind < FS_V_PICKLE_BLOB:
                out = PyBytes_FromStringAndSize(NULL, size)
                fs_copy_racy(PyBytes_AS_STRING(out), p.seen.data, size)
                if fs_peek_valid(t, p, 1):
                    return decode_value(kind, 0, 0, <unsigned char *>PyBytes_AS_STRING(out), size, None, self.ref.heap)
            else:
                break
        return self.read(k, NULL, False)

    cdef object read(self, const fs_key *k, fs_witness *seen, bint in_place):
        """The same under the lock, and what tells whether it is still so."""
        cdef Pins pins = None
        cdef fs_self me
        cdef fs_copy c
        cdef fs_witness unused
        cdef uint64_t *pin = NULL
        cdef int r
        if seen == NULL:
            seen = &unused
        whoami(self.ref, &me)
        r = FS_RANGE if in_place else fs_table_read(&me, self.t, k, pin, &c, seen)
        while True:
            if r == FS_RANGE:
                pins = new_pins(self.ref)
                pins.reserve(1, in_place)
                whoami(self.ref, &me)
            elif not again(r, &me):
                break
            if pins is not None:
                pin = pins.places()
            with nogil:
                r = fs_table_read(&me, self.t, k, pin, &c, seen)
        if r == FS_MISSING:
            return UNSURE if self.t.others else MISSING
        if r != FS_OK:
            fail(r, self.ref.heap)
        return made(&c, pins, self.ref, in_place)

    cdef inline Mirror mirrored(self):
        return self.start_mirror() if self.mirror is None else self.mirror

    cdef Mirror start_mirror(self):
        cdef Mirror fresh = new_mirror(self.ref, self.t, self.seed)
        if self.mirror is None:
            self.mirror = fresh
        return self.mirror

    cdef object find(self, object key):
        """The value or MISSING."""
        cdef fs_key k
        cdef object kept, out
        cdef uint64_t looked
        cdef Hint *h
        if self.ref.closed[0]:
            check_open(self.ref)
        if self.hints.lines != NULL:
            h = hint_of(&self.hints, key)
            if h != NULL:
                out = self.recall(h)
                if out is not MISSING:
                    return out
        kept = key_in(self, key, &k)
        if k.form != FS_K_OTHER:
            out = self.peek(&k, <PyObject *>key)
            if out is not UNSURE:
                return out
        while True:
            if k.form == FS_K_OTHER and self.t.used == 0:
                return MISSING
            kept = self.mirrored().resolve(key, &k, &looked)
            if kept is None:
                return MISSING
            out = self.peek(&k, NULL)
            if out is not UNSURE and out is not MISSING:
                return out
            kept = key_in(self, key, &k)

    def __getitem__(self, key):
        cdef object out = self.find(key)
        if out is MISSING:
            raise KeyError(key)
        return out

    def view(self, key, /):
        """The value where it lies in shared memory, read only and without a copy: a memoryview of bytes or a bytearray; an
        ndarray; an object that pickles with buffers (PickleBuffer, protocol 5), with its buffers in place.

        What it shows never changes: it stays when the key is given another value or deleted, and goes with the last who looks
        at it, in whatever process. KeyError when there is no such key; TypeError for other values.
        """
        cdef fs_key k
        cdef fs_witness seen
        cdef object out = self.look(key, &k, [None], &seen, True)
        if out is MISSING:
            raise KeyError(key)
        return out

    def get(self, key, default=None, /):
        cdef object out = self.find(key)
        return default if out is MISSING else out

    def __contains__(self, key):
        cdef fs_key k
        cdef object _kept
        cdef uint64_t looked
        cdef Hint *h
        cdef int r
        if self.ref.closed[0]:
            check_open(self.ref)
        if self.hints.lines != NULL:
            h = hint_of(&self.hints, key)
            if h != NULL and fs_hint_holds(self.t, &h.at):
                return True
        _kept = key_in(self, key, &k)
        if k.form != FS_K_OTHER:
            for _ in range(TRIES):
                r = fs_peek_at(self.ref.heap.h, self.t, &k, &self.p)
                if r == FS_OK and fs_peek_valid(self.t, &self.p, 1):
                    remember(&self.hints, &self.p, key, NULL)
                    return True
                if r == FS_MISSING and self.t.others == 0 and fs_peek_valid(self.t, &self.p, 0):
                    return False
            if has_key(self.ref, self.t, &k):
                return True
            if self.t.others == 0:
                return False
        return self.mirrored().resolve(key, &k, &looked) is not None

    def __len__(self):
        cdef fs_self me
        cdef uint64_t used
        cdef int r
        if self.ref.closed[0]:
            check_open(self.ref)
        if fs_table_count(self.t, &used) != FS_OK:
            self.enter(&me, &r)
            used = fs_load_relaxed(&self.t.used)
            fs_table_leave_unchanged(&me, self.t, r)
        if used > self.ref.heap.h.size:
            fail(FS_CORRUPT, self.ref.heap)
        return used

    cdef int enter(self, fs_self *me, int *entered) except -1:
        whoami(self.ref, me)
        entered[0] = fs_table_enter(me, self.t)
        while again(entered[0], me):
            with nogil:
                entered[0] = fs_table_enter(me, self.t)
        if entered[0] < 0:
            fail(entered[0], self.ref.heap)
        return 0

    def get_many(self, keys, default=None):
        """The values of several keys, `default` for those that are not there. Each is read at one instant, not all of them at
        the same: for that hold get_lock()."""
        cdef list out = []
        for key in keys:
            value = self.find(key)
            out.append(default if value is MISSING else value)
        return out

    # all of it at one instant

    cdef inline int start_copies(self) except -1:
        """After it self.copies is there, and it stays."""
        return self.make_copies() if self.copies is None else 0

    cdef int make_copies(self) except -1:
        cdef Copies fresh = new_copies(self.ref, self.t)
        if self.copies is None:  # still: making an object may run code
            self.copies = fresh
        return 0

    def keys(self):
        """A list of the keys, of one instant."""
        cdef list out
        self.start_copies()
        out = self.copies.keys()
        self.follow()
        return out

    cdef inline int follow(self) except -1:
        """Keys were given out that may be looked up next."""
        if self.copies.replica is not None:
            hints_follow(&self.hints, self.copies.replica.keys, self.copies.replica.keys_changed)
        return 0

    def values(self):
        """A list of the values, of one instant."""
        self.start_copies()
        return self.copies.listed(2)

    def items(self):
        """A list of (key, value), of one instant."""
        self.start_copies()
        return self.copies.listed(3)

    def copy(self, deep=False):
        """A plain dict of one instant. With `deep`, shared containers in it become plain ones, too, each of an instant of its
        own."""
        if deep:
            return plain_of(self)
        self.start_copies()
        return self.copies.plain()

    def __iter__(self):
        cdef object out
        self.start_copies()
        out = self.copies.iterator(self)
        self.follow()
        return out

    # writing

    cdef int put(self, object key, object value, int how) except -100:
        """FS_OK, or FS_EXISTS."""
        cdef fs_key k
        cdef fs_value v
        cdef object _kept
        cdef object _kin = lively(value, self.live, self.ref)
        cdef object _held = value_of(_kin, &v, self.ref.heap)
        cdef fs_self me
        cdef int r
        whoami(self.ref, &me)
        if self.hints.lines != NULL and how == FS_PUT:
            if self.put_there(hint_of(&self.hints, key), &v, how, &me, NULL) == FS_OK:
                note_change(self.t)
                return FS_OK
        _kept = key_in(self, key, &k)
        if _kept is not None:
            whoami(self.ref, &me)
        if k.form != FS_K_OTHER:
            r = fs_table_put_by(&me, self.t, &self.p, &k, &v, how, FS_ANY, NULL, NULL)
            if r == FS_OK:
                note_change(self.t)
                if not self.p.view.version & 1:
                    remember(&self.hints, &self.p, key, NULL)
                if self.ref.heap.h.super.dying:
                    fs_reap(&me)
                return r
        else:
            r = FS_CHANGED
        return self.put_again(r, key, &k, &v, how, &me, NULL)

    cdef int put_there(self, Hint *h, fs_value *v, int how, fs_self *me, uint64_t *result) except -100:
        """FS_MISSING when the key is not where it was, or is not known. *h is its line, if there is one."""
        cdef uint64_t head
        cdef int r
        if h == NULL or not fs_hint_holds(self.t, &h.at):
            return FS_MISSING
        head = h.at.head
        r = fs_hint_put(me, self.t, &h.at, v, how, result)
        if h.at.head != head:  # what the object was made of is gone
            Py_XDECREF(h.object)
            h.object = NULL
        if self.ref.heap.h.super.dying:
            fs_reap(me)
        return r

    cdef int put_again(self, int r, object key, fs_key *k, fs_value *v, int how, fs_self *me, fs_witness *seen) except -100:
        """Goes on after a try that ended with `r`. With `seen`, *k is a stored key, and FS_CHANGED is for the caller."""
        cdef uint64_t looked = FS_ANY
        cdef object kept = None, fresh
        cdef Decision own = None
        cdef bint buried = False
        cdef int tries = 0
        try:
            while True:
                if r == FS_OK:
                    note_change(self.t)
                if r == FS_OK or r == FS_EXISTS:
                    reap(self.ref, me)
                    return r
                if r == FS_CHANGED:
                    if seen != NULL:
                        return r
                    if own is None:
                        own = decide(self.t)
                    fresh = key_in(self, key, k)
                    kept = self.mirrored().resolve(key, k, &looked)
                    if kept is None:
                        kept = fresh = key_in(self, key, k)
                    tries = self.impatient(tries, own)
                    if tries > PATIENCE:  # the key's own methods insert keys, whenever they are called
                        looked = self.t.keys_changed
                    whoami(self.ref, me)
                elif not again_or_bury(r, me, &buried):
                    fail(r, self.ref.heap)
                with nogil:
                    r = fs_table_put(me, self.t, k, v, how, looked, seen, NULL)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    cdef int impatient(self, int tries, Decision own) except -1:
        """Overtaken once more: in the end, or when its own code did it, the lock is held, so that only that can do it again."""
        if tries >= PATIENCE and not is_held_still(self.ref, own.holder):  # but by the parent of this child
            tries = PATIENCE - 1
        if own.overtook_itself and tries + 1 < PATIENCE:
            tries = PATIENCE - 1
        if tries + 1 == PATIENCE:
            own.holder = hold_quietly(self.ref)
        elif tries > PATIENCE:
            raise RuntimeError("dictionary changed, again and again, by the code of the keys or values that are looked at")
        return tries + 1

    def __setitem__(self, key, value):
        cdef fs_self me
        cdef Hint *h
        cdef int64_t number
        cdef int overflow
        if self.hints.lines != NULL and PyLong_CheckExact(value) and not self.ref.closed[0]:  # the short way of put()
            h = hint_of(&self.hints, key)
            if h != NULL:
                number = PyLong_AsLongLongAndOverflow(value, &overflow)
                if not overflow and fs_me(self.ref.heap.h, &me) == FS_OK:
                    if fs_hint_store(&me, self.t, &h.at, FS_V_INT, <uint64_t>number) == FS_OK:
                        return
        self.put(key, value, FS_PUT)

    def __delitem__(self, key):
        cdef fs_key k
        if not self.remove(key, &k, NULL, FS_ANY):
            raise KeyError(key)

    cdef bint remove(self, object key, fs_key *k, fs_witness *seen, uint64_t at) except -1:
        """False when it is not there (or, with `seen`, not as seen). With `seen`, *k is filled in already."""
        cdef fs_self me
        cdef object kept = None
        cdef uint64_t looked
        cdef int r
        if seen == NULL:
            kept = key_in(self, key, k)
        whoami(self.ref, &me)
        r = FS_MISSING
        if k.form != FS_K_OTHER or seen != NULL:
            r = fs_table_remove_by(&me, self.t, &self.p.view, k, seen, at)
        while True:
            if r == FS_MISSING and seen == NULL and self.t.used and (k.form == FS_K_OTHER or self.t.others):
                kept = self.mirrored().resolve(key, k, &looked)
                if kept is None:
                    return False
                whoami(self.ref, &me)
            elif not again(r, &me):
                break
            with nogil:
                r = fs_table_remove(&me, self.t, k, seen, at)
            if r == FS_MISSING and seen == NULL:
                kept = key_in(self, key, k)  # deleted meanwhile: look again
                whoami(self.ref, &me)
        if r < 0 and r != FS_CHANGED:
            fail(r, self.ref.heap)
        if r == FS_OK:
            note_change(self.t)
        reap(self.ref, &me)
        return r == FS_OK

    def pop(self, key, *default):
        if len(default) > 1:
            raise TypeError(f"pop expected at most 2 arguments, got {len(default) + 1}")
        cdef object out = self.take(key)
        if out is not MISSING:
            return out
        if default:
            return default[0]
        raise KeyError(key)

    cdef object take(self, object key):
        cdef fs_key k
        cdef fs_self me
        cdef PyObject *plain = NULL
        cdef object _kept = key_in(self, key, &k)
        cdef int r, tries = 0
        whoami(self.ref, &me)
        if k.form != FS_K_OTHER:
            r = fs_table_take(&me, self.t, &k, make_plain, &plain)
            while tries < PATIENCE and (r == FS_BUSY or r == FS_INTERRUPTED):
                forget(&plain)
                again(r, &me)
                self.wait(&me)
                r = fs_table_take(&me, self.t, &k, make_plain, &plain)
                tries += 1
            if r == FS_OK:
                note_change(self.t)
                reap(self.ref, &me)
                return taken(plain)
            forget(&plain)
            if r < 0 and r != FS_TYPE and r != FS_BUSY and r != FS_INTERRUPTED:
                fail(r, self.ref.heap)
            if r == FS_MISSING and self.t.others == 0:
                return MISSING
        return self.take_decoded(key)

    cdef int wait(self, fs_self *me) except -1:
        """Until the lock was free for a moment: for what is then tried with the interpreter lock."""
        cdef int r
        self.enter(me, &r)
        fs_table_leave_unchanged(me, self.t, r)
        wait_for_heap(self.ref, me)
        me.wait = 0
        return 0

    cdef object take_decoded(self, object key):
        """Reads, decodes, and removes it if it is still the same: a value that cannot be decoded stays."""
        cdef fs_key k
        cdef fs_witness seen
        cdef object out
        cdef list kept = [None]
        cdef Decision own = decide(self.t)
        cdef int tries = 0
        try:
            while True:
                out = self.look(key, &k, kept, &seen, False)
                if out is MISSING or self.remove(key, &k, &seen, FS_ANY):
                    return out
                tries = self.impatient(tries, own)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    cdef object look(self, object key, fs_key *k, list kept, fs_witness *seen, bint in_place):
        """The value under the lock and its witness, or MISSING. *k is the key that is stored; kept[0] holds its bytes."""
        cdef object out
        cdef uint64_t looked
        while True:
            kept[0] = key_in(self, key, k)
            if k.form != FS_K_OTHER:
                out = self.read(k, seen, in_place)
                if out is not UNSURE:
                    return out
            elif self.t.used == 0:
                return MISSING
            out = self.mirrored().resolve(key, k, &looked)
            if out is None:
                return MISSING
            kept[0] = out
            out = self.read(k, seen, in_place)
            if out is not UNSURE and out is not MISSING:
                return out

    def popitem(self, last=True):
        """Removes and returns the last (key, value), or with last=False the first, in the order of insertion."""
        cdef fs_extent extent = self.oldest
        cdef fs_witness seen
        cdef fs_key k
        cdef Snapshot s
        cdef fs_record *r
        cdef Decision own = decide(self.t)
        cdef int tries = 0
        try:
            while True:
                s = snapshot(self.ref, self.t, True, 0, FS_NEWEST if last else FS_OLDEST, &extent)
                r = s.next()
                if r == NULL:
                    raise KeyError("popitem(): dictionary is empty")
                k.bytes = fs_record_key(r, &k.total)
                item = s.key(r), s.value(r)
                seen.moved, seen.number = extent.moved, extent.first
                seen.head, seen.value = r.entry.head, r.entry.value
                k.length = r.entry.key_length
                k.form, k.display = r.entry.form & ~FS_KEY_IN_BLOB, r.entry.display
                fs_key_prepare(&k, self.seed)
                if self.remove(None, &k, &seen, extent.keys_changed):
                    if not last:
                        self.oldest = extent
                    return item
                tries = self.impatient(tries, own)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    def setdefault(self, key, default=None, /):
        cdef object out, held
        cdef fs_key k
        cdef fs_value v
        cdef fs_self me
        while True:
            out = self.find(key)
            if out is not MISSING:
                return out
            out = lively(default, self.live, self.ref)
            held = value_of(out, &v, self.ref.heap)
            out = as_stored(out, &v, held, self.ref.heap)  # made before it is stored: it may fail
            whoami(self.ref, &me)
            if self.put_again(FS_CHANGED, key, &k, &v, FS_PUT_IF_ABSENT, &me, NULL) == FS_OK:
                return out

    def increment(self, key, amount=1, /):
        """Adds a number to the value of a key (0 when it is not there) as one step, and returns the sum."""
        cdef fs_key k
        cdef fs_value v
        cdef fs_self me
        cdef fs_witness seen
        cdef uint64_t result = 0
        cdef object _kept, held, old
        cdef list keep
        cdef int r, tries = 0
        if type(amount) is int:
            held = value_of(amount, &v, self.ref.heap)
            if v.kind == FS_V_INT:
                whoami(self.ref, &me)
                if self.hints.lines != NULL:
                    if self.put_there(hint_of(&self.hints, key), &v, FS_ADD, &me, &result) == FS_OK:
                        note_change(self.t)
                        return <int64_t>result
                _kept = key_in(self, key, &k)
                whoami(self.ref, &me)
                r = FS_CHANGED
                if k.form != FS_K_OTHER:
                    r = fs_table_put_by(&me, self.t, &self.p, &k, &v, FS_ADD, FS_ANY, NULL, &result)
                    if r == FS_OK and not self.p.view.version & 1:
                        remember(&self.hints, &self.p, key, NULL)
                    while again(r, &me):
                        with nogil:
                            r = fs_table_put(&me, self.t, &k, &v, FS_ADD, FS_ANY, NULL, &result)
                if r == FS_OK:
                    note_change(self.t)
                    return <int64_t>result
                if r != FS_CHANGED and r != FS_TYPE and r != FS_OVERFLOW and r != FS_NOMEM:
                    fail(r, self.ref.heap)
        elif not isinstance(amount, Number):
            raise TypeError(f"a number to add expected, not {type(amount).__name__!r}")
        keep = [None]
        cdef Decision own = decide(self.t)
        try:
            while True:
                old = self.look(key, &k, keep, &seen, False)
                if old is MISSING:
                    out = 0 + amount
                    if self.put(key, out, FS_PUT_IF_ABSENT) == FS_OK:
                        return out
                else:
                    if not isinstance(old, Number):
                        raise TypeError(f"the value of {key!r} is not a number but a {type(old).__name__}")
                    out = old + amount
                    held = value_of(out, &v, self.ref.heap)
                    whoami(self.ref, &me)
                    if self.put_again(FS_BUSY, key, &k, &v, FS_PUT, &me, &seen) == FS_OK:
                        return out
                tries = self.impatient(tries, own)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    def clear(self):
        cdef fs_self me
        whoami(self.ref, &me)
        cdef int r = fs_table_empty(&me, self.t)
        while again(r, &me):
            with nogil:
                r = fs_table_empty(&me, self.t)
        if r != FS_OK:
            fail(r, self.ref.heap)
        note_change(self.t)
        reap(self.ref, &me)

    def update(self, *args, **kwargs):
        """What dict.update takes. All of it at one instant, or, after an error, nothing."""
        cdef dict new
        if len(args) > 1:
            raise TypeError(f"update expected at most 1 argument, got {len(args)}")
        if not args:
            new = kwargs
        elif type(args[0]) is dict and not kwargs:
            new = args[0]
        elif isinstance(args[0], Dict):
            new = Dict.copy(args[0])  # a Counter's own gives one, which adds
            new.update(kwargs)
        else:
            new = dict(*args, **kwargs)
        if new:
            self.merge(new, FS_PUT, 0)

    def add_from(self, dict amounts not None, /):
        """Adds each number to the value of its key (0 when it is not there). All of it at one instant, or, after an error,
        nothing."""
        if not amounts or self.merge(amounts, FS_ADD, 0) == FS_OK:
            return
        while not self.add_held(amounts):  # some are no machine integers
            pass

    cdef bint add_held(self, dict amounts) except -1:
        """The same under the lock. False in a child that was forked meanwhile: it holds no lock, and begins anew."""
        cdef dict sums = {}
        cdef uint32_t holder = hold_quietly(self.ref)
        try:
            for key, amount in amounts.items():
                sums[key] = self.get(key, 0) + amount
            return self.merge(sums, FS_PUT, holder) == FS_OK
        finally:
            unhold_quietly(self.ref, holder)

    cdef int merge(self, dict new, int how, uint32_t holder) except -100:
        """FS_OK. With FS_ADD also, and nothing is changed: FS_TYPE and FS_OVERFLOW, when it is not a matter of machine
        integers. With a holder of the lock also FS_INTERRUPTED, with nothing changed, in whoever is somebody else."""
        cdef Py_ssize_t n = len(new), i = 0
        cdef list kept = [], items = None
        cdef bint foreign = False
        cdef fs_self me
        cdef uint64_t looked = FS_ANY
        cdef int r, tries = 0
        cdef Decision own = None
        cdef bint buried = False
        cdef Desk desk = take_desk(n)
        try:
            for key, value in new.items():
                if i == n or not encode_plain(key, value, &desk.keys[i], &desk.values[i], self.seed):
                    i = n + 1  # encoding it may run code, and that may change the dict
                    break
                if desk.keys[i].length > FS_KEY_INLINE or desk.values[i].data != NULL:
                    kept.append((key, value))  # another thread may change the dict
                i += 1
            if i != n:
                items = PyDict_Items(new)
                desk, n = desk_for(desk, items), len(items)
                foreign = self.encode_all(items, desk, kept)
            whoami(self.ref, &me)
            if n < 1000 and not foreign and (not holder or me.id == holder):
                r = fs_table_merge(&me, self.t, desk.keys, desk.values, n, how, looked)
            else:
                r = FS_CHANGED if foreign else FS_BUSY
            while True:
                if r == FS_CHANGED:
                    if own is None:
                        own = decide(self.t)
                    if items is None:
                        items = PyDict_Items(new)
                        desk, n = desk_for(desk, items), len(items)
                        self.encode_all(items, desk, kept)
                    self.mirrored().resolve_all(items, desk.keys, kept, &looked)
                    tries = self.impatient(tries, own)
                    if tries > PATIENCE:
                        looked = self.t.keys_changed
                    whoami(self.ref, &me)
                elif not again_or_bury(r, &me, &buried):
                    break
                if holder and me.id != holder:
                    return FS_INTERRUPTED
                with nogil:
                    r = fs_table_merge(&me, self.t, desk.keys, desk.values, n, how, looked)
            if r != FS_OK and not (how == FS_ADD and (r == FS_TYPE or r == FS_OVERFLOW)):
                fail(r, self.ref.heap)
            if r == FS_OK:
                note_change(self.t)
            reap(self.ref, &me)
        finally:
            give_desk(desk)
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)
        return r

    cdef bint encode_all(self, list items, Desk desk, list kept) except -1:
        """Can only `==` tell one of the keys? What becomes of the dict while its items are encoded is nobody's affair."""
        cdef bint foreign = False
        cdef Py_ssize_t i
        for i in range(len(items)):
            key, value = items[i]
            self.encode(key, value, &desk.keys[i], &desk.values[i], kept)
            foreign = foreign or desk.keys[i].form == FS_K_OTHER
        return foreign

    cdef inline int encode(self, object key, object value, fs_key *k, fs_value *v, list kept) except -1:
        """`kept` keeps alive what *k and *v point to."""
        cdef object held = key_in(self, key, k)
        if held is not None:
            kept.append(held)
        value = lively(value, self.live, self.ref)
        held = value_of(value, v, self.ref.heap)
        kept.append((key, value, held))
        return 0

    def _exchange_keys(self, choose, /, *, values=False):
        """Takes keys out and puts items of new keys in, as one change. `choose` is given a list of all keys, or, with `values`,
        a plain dict, not to be changed, and says which go (all when that is None) and, in a dict, what comes; or None for no
        change. What is not there, or is there already, stays. When keys have come or gone meanwhile (with `values`, also when a
        value was replaced), it is asked again. It costs a copy of what stays, in shared memory."""
        cdef Decision own = decide(self.t)
        cdef Snapshot seen
        cdef fs_extent extent
        cdef fs_record *r
        cdef object there
        cdef int tries = 0
        self.start_copies()
        try:
            while True:
                seen, there = None, None if values else self.copies.keys_kept()
                if there is not None:
                    extent.keys_changed = self.copies.replica.keys_changed
                else:
                    seen, there = self.copies.whole(values, &extent), {} if values else []
                    for _ in range(seen.left):
                        r = seen.next()
                        if values:
                            (<dict>there)[seen.key(r)] = seen.value(r)
                        else:
                            (<list>there).append(seen.key(r))
                there = choose(there)
                if there is None:
                    return
                seen = seen if values else None
                if self.exchange(there[0], there[1], &extent, seen, own.holder if tries > PATIENCE else 0):
                    return
                tries = self.impatient(tries, own)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    cdef bint exchange(self, object leaving, dict new, fs_extent *looked, Snapshot seen, uint32_t holder) except -1:
        """False when it is no longer what was looked at. The holder of the lock, who has looked in vain, takes it as it is."""
        cdef list kept = [], gone = [] if leaving is None else list(leaving)
        cdef Py_ssize_t i = 0, out_count = len(gone), count = len(new)
        cdef fs_snapshot *as_seen = NULL if seen is None else &seen.s
        cdef list items = PyDict_Items(new)
        cdef Desk desk = take_desk(out_count + count)
        cdef fs_key *keys = desk.keys
        cdef fs_key *out = NULL if leaving is None else keys
        cdef fs_value *values = desk.values
        cdef uint64_t _looked
        cdef fs_self me
        cdef int r = FS_INTERRUPTED
        try:
            for key in gone:
                kept.append((key, key_in(self, key, &keys[i])))
                i += 1
            for key, value in items:
                self.encode(key, value, &keys[i], &values[i - out_count], kept)
                i += 1
            if self.t.used and out != NULL:
                i = 0
                for key in (*gone, *[key for key, _ in items]):
                    if keys[i].form == FS_K_OTHER or self.t.others:
                        kept.append(self.mirrored().resolve(key, &keys[i], &_looked))
                    i += 1
            whoami(self.ref, &me)
            while r == FS_INTERRUPTED or r == FS_BUSY:
                if holder and me.id == holder:
                    looked.keys_changed, as_seen = self.t.keys_changed, NULL
                with nogil:
                    r = fs_table_exchange(&me, self.t, out, out_count, keys + out_count, values, count, looked, as_seen)
                again(r, &me)
            if r == FS_OK:
                note_change(self.t)
            elif r != FS_CHANGED:
                fail(r, self.ref.heap)
            reap(self.ref, &me)
            return r == FS_OK
        finally:
            give_desk(desk)

    def set_many(self, items, /):
        """What update() does with its argument, under the name that get_many() and pop_many() suggest."""
        self.update(items)

    def pop_many(self, keys, default=None):
        """Removes several keys and returns their values, `default` for those that are not there. Each is taken at one instant,
        not all of them at the same: for that hold get_lock()."""
        cdef list wanted = list(keys)
        cdef list out = [default] * len(wanted)  # so that there is room for what has been taken
        cdef Py_ssize_t i = 0
        for key in wanted:
            value = self.take(key)
            if value is not MISSING:
                out[i] = value
            i += 1
        return out

    def compare_exchange(self, key, expected, new, /):
        """Replaces the value of a key if it equals `expected`, as one step: True if so; False, with nothing changed, when it
        does not, or the key is not there."""
        cdef fs_key k
        cdef fs_value v
        cdef fs_self me
        cdef fs_witness seen
        cdef list keep = [None]
        cdef object old, _held, _kin
        cdef Decision own = decide(self.t)
        cdef int tries = 0
        try:
            while True:
                old = self.look(key, &k, keep, &seen, False)
                if old is MISSING or not (old is expected or old == expected):
                    return False
                _kin = lively(new, self.live, self.ref)
                _held = value_of(_kin, &v, self.ref.heap)
                whoami(self.ref, &me)
                if self.put_again(FS_BUSY, key, &k, &v, FS_PUT, &me, &seen) == FS_OK:
                    return True
                tries = self.impatient(tries, own)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    def wait_for(self, key, predicate=None, timeout=None):
        """The value of a key, as soon as it is there and `predicate(value)` is true. The builtin TimeoutError after `timeout`
        seconds.

        It looks again after each change of the dict, also of other keys; a value that comes and goes in between may be missed.
        What changes inside a shared value is no change of the dict: that is seen within some 16 ms.
        """
        cdef fs_patience p
        cdef uint32_t turn
        cdef object out
        if predicate is not None and not callable(predicate):
            raise TypeError(
                f"predicate must be a function of the value, not {type(predicate).__name__!r} (a time-out is timeout=...)"
            )
        p = fs_patience(patient_number(timeout), 0)
        cdef int r = FS_OK
        while True:
            turn = fs_turn_watch(&self.t.turn, &p)
            out = self.find(key)
            if out is not MISSING and (predicate is None or predicate(out)):
                return out
            if r == FS_TIMEOUT:
                raise TimeoutError(f"waited {timeout} s for the value of {key!r}")
            with nogil:
                r = fs_nap(&self.t.turn, turn, &p)
            PyErr_CheckSignals()

    def __reversed__(self):
        return reversed(self.keys())

    def get_lock(self):
        """The recursive lock that makes several operations one for all others."""
        return self.lock if self.lock is not None else lock_of(self)


cdef object plain_of = None


def set_deep_copier(copier):
    """The function that makes a plain container of a shared one, all the way down."""
    global plain_of
    plain_of = copier
