"""The list over the C layer's vector.

Encode first, lock, copy bytes, unlock, and only then make or drop objects. What needs an object before it can decide
(remove, sort) looks, decides, and changes the container only if it is still as it was seen; after some
failures it holds the container's lock, as its user could, and goes on.
"""

import os
import pickle
from operator import index as as_index

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.slice cimport PySlice_Unpack
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from fastshm._buffers cimport damaged
from fastshm._c cimport *
from fastshm._calls cimport again, again_or_bury, fs_identify_by, whoami
from fastshm._codec cimport (
    PyFloat_AS_DOUBLE, PyFloat_CheckExact, PyLong_AsLongLongAndOverflow, PyLong_CheckExact, PyUnicode_CheckExact,
    PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII, PyUnicode_New, decode_value, value_of, word_value,
)
from fastshm._containers cimport (
    FS_ANY, MISSING, PATIENCE, TRIES, Cache, Decision, Pins, decide, forget, largest_kept, lively, made, make_plain,
    most_kept, new_pins, note_change, reap, taken, wait_for_heap,
)
from fastshm._core cimport Handle, Heap, Ref, check_open, fail, gate_ref, heap_of, identify, make_handle, new_ref, offset_of
from fastshm._locks cimport hold_quietly, is_held_still, unhold_quietly, lock_of

from fastshm._forms cimport fs_is_short, fs_short

fs_identify_by(identify)

cdef object pickle_loads = pickle.loads

cdef extern from "Python.h":
    object PyList_New(Py_ssize_t n)
    void PyList_SET_ITEM(object list, Py_ssize_t i, object o)

cdef enum:
    LONG = 50_000  # so many slots are looked at without the interpreter lock
    LOOKS = 8  # so many items are made before a handle keeps some
    MOST_WORDS = 16384  # items whose objects a handle keeps: the first ones


# --- words: what needs no block of its own ------------------------------------------------------------------------------------

cdef inline bint word_of(object value, fs_slot *out) except -1:
    """Fills in *out; False when the value is none."""
    cdef int overflow
    cdef Py_ssize_t length
    cdef double real
    if PyLong_CheckExact(value):
        if fs_is_short(value):
            out.value = <uint64_t>fs_short(value)
        else:
            out.value = <uint64_t>PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow:
                return False
        out.about = FS_V_INT
    elif PyUnicode_CheckExact(value):
        length = PyUnicode_GET_LENGTH(value)
        if length > 8 or not PyUnicode_IS_COMPACT_ASCII(value):
            return False
        out.about = FS_V_ASCII | <uint64_t>length << 8
        out.value = 0
        memcpy(&out.value, PyUnicode_DATA(value), length)
    elif PyFloat_CheckExact(value):
        real = PyFloat_AS_DOUBLE(value)
        out.about = FS_V_FLOAT
        memcpy(&out.value, &real, 8)
    elif value is None:
        out.about = FS_V_NONE
        out.value = 0
    elif value is True or value is False:
        out.about = FS_V_BOOL
        out.value = value is True
    else:
        return False
    return True


cdef inline bint is_plain_word(uint64_t about) noexcept:
    """Has word_object() all that it takes?"""
    return about & 255 < FS_V_UTF8


cdef inline object word_object(uint64_t about, uint64_t value):
    return <int64_t>value if about == FS_V_INT else word_value(about & 255, about >> 8 & 255, value)


cdef struct Word:
    uint64_t about, value
    PyObject *object  # made of them, ours; NULL


# --- many values --------------------------------------------------------------------------------------------------------------


@cython.final
cdef class Items:
    """Items of a vector, all of one instant, in private memory."""
    cdef fs_items s
    cdef Pins pins
    cdef Ref ref
    cdef uint64_t stamp

    cdef list listed(self):
        cdef list out = [None] * self.s.count
        cdef unsigned char *p = self.s.buffer
        cdef fs_item *item
        cdef uint64_t i
        cdef uint32_t kind, length
        for i in range(self.s.count):
            item = <fs_item *>p
            kind, length = item.about & 255, item.about >> 8 & 255
            if kind < FS_V_UTF8:
                out[i] = word_value(kind, length, item.value)
            elif item.pin:
                out[i] = self.pins.value(kind, length, item.pin - 1, False)
            else:
                out[i] = decode_value(kind, length, item.value, p + sizeof(fs_item), item.size, None, self.ref.heap)
            p += sizeof(fs_item) + ((item.size + 7) & ~<uint64_t>7)
        return out

    def __dealloc__(self):
        free(self.s.buffer)


@cython.final
cdef class Values:
    """Values on their way into a vector."""
    cdef fs_value *v
    cdef fs_slot *words  # instead, where all are words
    cdef uint64_t n
    cdef list kept

    def __dealloc__(self):
        PyMem_Free(self.v)
        PyMem_Free(self.words)


@cython.final
cdef class Plan:
    """For fs_vector_rearrange: which old item, or which new value, each item is to be."""
    cdef int64_t *items
    cdef uint64_t n

    def __dealloc__(self):
        PyMem_Free(self.items)


cdef Plan new_plan(uint64_t n):
    cdef Plan plan = Plan.__new__(Plan)
    plan.items = <int64_t *>PyMem_Malloc(n * sizeof(int64_t) + 1)
    if plan.items == NULL:
        raise MemoryError()
    plan.n = n
    return plan


cdef Plan plan_of(list numbers):
    cdef Plan plan = new_plan(len(numbers))
    cdef uint64_t i = 0
    for number in numbers:
        plan.items[i] = number
        i += 1
    return plan


cdef list items_of(object source, List target):
    cdef list items
    if isinstance(source, List):
        items = (<List>source).slice(0, INT64_MAX, 1)
    else:  # a slice: without memory, list() of a list loses a reference to it
        items = (<list>source)[:] if type(source) is list else list(source)
    return [lively(item, True, target.ref) for item in items] if target.live else items


cdef Values words_of(list items):
    """None when they are not all words."""
    cdef Values out = Values.__new__(Values)
    out.words = <fs_slot *>PyMem_Malloc(len(items) * sizeof(fs_slot) + 1)
    if out.words == NULL:
        raise MemoryError()
    for item in items:
        if not word_of(item, &out.words[out.n]):
            return None
        out.n += 1
    return out


cdef Values values_of(list items, Heap heap):
    cdef Values out = Values.__new__(Values)
    out.kept = [items]
    out.v = <fs_value *>PyMem_Malloc(len(items) * sizeof(fs_value) + 1)
    if out.v == NULL:
        raise MemoryError()
    for item in items:
        held = value_of(item, &out.v[out.n], heap)
        if held is not None:
            out.kept.append(held)
        out.n += 1
    return out


# --- lists --------------------------------------------------------------------------------------------------------------------

cdef class List(Handle):
    """A shared list. Every operation is one step for all processes; what is read is a copy."""
    cdef fs_vector *v
    cdef fs_known known
    cdef Cache cache
    cdef PyObject *fresh  # borrowed: an iterator that has not begun yet
    cdef Word *words_kept  # of the first items, as they were when they were last read
    cdef uint64_t room
    cdef int looks
    cdef readonly bint live

    def __cinit__(self):
        self.v = <fs_vector *>self.ref.o

    def __dealloc__(self):
        cdef uint64_t i
        for i in range(self.room):
            Py_XDECREF(self.words_kept[i].object)
        PyMem_Free(self.words_kept)

    @staticmethod
    def _make(type cls not None, beside=None, live=False):
        """A new, empty one, closed by that gate or with that object and in its segment, else in this process's."""
        cdef Ref ref = new_ref(heap_of(beside), sizeof(fs_vector), FS_VECTOR, gate_ref(beside))
        (<fs_vector *>ref.o).live = 1 if live else 0
        return make_handle(cls, ref)

    cdef int bind(self) except -1:
        self.v = <fs_vector *>self.ref.o
        if fs_kind_at(self.ref.heap.h, offset_of(self.ref), FS_VECTOR, sizeof(fs_vector)) == NULL:
            fail(FS_CORRUPT, self.ref.heap)
        self.live = self.v.live != 0
        return 0

    # reading

    cdef inline object word(self, uint64_t i, uint64_t about, uint64_t value):
        """The object of a word, which item i is: the one of the last time, if it is the same word."""
        cdef Word *w
        if i < self.room and most_kept:
            w = self.words_kept + i
            if w.value == value and w.about == about and w.object != NULL:
                return <object>w.object
        return self.word_anew(i, about, value)

    cdef object word_anew(self, uint64_t i, uint64_t about, uint64_t value):
        cdef object out = word_object(about, value)
        cdef Word *w
        if i < self.room or (i < MOST_WORDS and self.more_room(i)):
            if most_kept:
                w = self.words_kept + i
                Py_INCREF(out)
                Py_XDECREF(w.object)
                w.about, w.value, w.object = about, value, <PyObject *>out
        return out

    cdef bint more_room(self, uint64_t i) except -1:
        """Is there now room to keep the object of item i?"""
        cdef uint64_t room = 16
        cdef Word *more
        if self.looks < LOOKS or not most_kept:
            self.looks += 1
            return False
        while room <= i:
            room *= 2
        more = <Word *>PyMem_Realloc(self.words_kept, room * sizeof(Word))
        if more == NULL:
            raise MemoryError()
        memset(more + self.room, 0, (room - self.room) * sizeof(Word))
        self.words_kept, self.room = more, room
        return True

    def __len__(self):
        cdef uint64_t version, n
        if self.ref.closed[0]:
            check_open(self.ref)
        if self.fresh != NULL:
            (<ListIterator>self.fresh).snapshot()
        version = fs_read_begin(&self.v.o.lock)
        n = fs_load_relaxed(&self.v.n)
        if not version & 1 and n <= self.ref.heap.h.size and fs_read_valid(&self.v.o.lock, version):
            return n
        return self.measure()

    cdef Py_ssize_t measure(self) except -1:
        cdef fs_self me
        cdef uint64_t n
        cdef fs_span span
        cdef int r
        whoami(self.ref, &me)
        r = fs_vector_enter(&me, self.v, &span)
        while again(r, &me):
            with nogil:
                r = fs_vector_enter(&me, self.v, &span)
        if r < 0:
            fail(r, self.ref.heap)
        n = span.n
        fs_vector_leave(&me, self.v, r)
        return n

    cdef object item(self, int64_t i):
        """As item_of(), the longer way."""
        cdef fs_seen seen
        cdef fs_glance seen_at
        cdef uint64_t stamp
        cdef bint is_text
        cdef int r
        if self.ref.closed[0]:
            check_open(self.ref)
        fs_vector_learn(self.ref.heap.h, self.v, &self.known)
        for _ in range(TRIES):
            r = fs_vector_peek(self.ref.heap.h, self.v, i, &seen_at, &seen)
            if r == FS_OK:
                if seen.kind < FS_V_OWNING:
                    if fs_vector_peek_valid(self.v, i, &seen_at):
                        return decode_value(seen.kind, seen.length, seen.value, NULL, 0, None, self.ref.heap)
                elif seen.kind == FS_V_ASCII_BLOB and seen.size < FS_LARGE:
                    out = PyUnicode_New(seen.size, 127)
                    is_text = fs_copy_ascii(<void *>PyUnicode_DATA(out), seen.data, seen.size)
                    if fs_vector_peek_valid(self.v, i, &seen_at):
                        return out if is_text else damaged()
                elif seen.kind == FS_V_PICKLE_BLOB and i >= 0 and seen.size <= largest_kept:
                    out = self.pickled(i, &seen_at, &seen)
                    if out is not MISSING:
                        return out
                elif seen.kind <= FS_V_PICKLE_BLOB and seen.size < FS_LARGE:
                    out = PyBytes_FromStringAndSize(NULL, seen.size)
                    fs_copy_racy(PyBytes_AS_STRING(out), seen.data, seen.size)
                    if fs_vector_peek_valid(self.v, i, &seen_at):
                        return decode_value(seen.kind, 0, 0, <unsigned char *>PyBytes_AS_STRING(out), seen.size, None,
                                            self.ref.heap)
                else:
                    break
            elif r == FS_RANGE and fs_vector_peek_valid(self.v, i, &seen_at):
                raise IndexError("list index out of range")
        return self.read(i, &stamp, False)

    cdef object pickled(self, int64_t i, const fs_glance *g, const fs_seen *seen):
        """A small pickled item, perhaps decoded before; MISSING when it has changed meanwhile. Whatever puts another block in
        its place changes the version."""
        cdef object out
        if not self.ref.heap.takes_pickles():
            return MISSING
        if self.cache is None:
            self.cache = Cache.__new__(Cache)
        out = self.cache.find(0, i, g.version, seen.value)
        if out is not MISSING:
            return out if fs_vector_peek_valid(self.v, i, g) else MISSING
        out = PyBytes_FromStringAndSize(NULL, seen.size)
        fs_copy_racy(PyBytes_AS_STRING(out), seen.data, seen.size)
        if not fs_vector_peek_valid(self.v, i, g):
            return MISSING
        return self.cache.keep(0, i, g.version, seen.value, seen.size, pickle_loads(out))

    cdef object read(self, int64_t i, uint64_t *stamp, bint in_place):
        """The same under the lock, and the stamp of that instant."""
        cdef Pins pins = None
        cdef fs_self me
        cdef fs_copy c
        cdef uint64_t *pin = NULL
        cdef int r
        whoami(self.ref, &me)
        r = FS_MISSING if in_place else fs_vector_read(&me, self.v, i, pin, &c, stamp)
        while True:
            if r == FS_MISSING:
                pins = new_pins(self.ref)
                pins.reserve(1, in_place)
                whoami(self.ref, &me)
            elif not again(r, &me):
                break
            if pins is not None:
                pin = pins.places()
            with nogil:
                r = fs_vector_read(&me, self.v, i, pin, &c, stamp)
        if r == FS_RANGE:
            raise IndexError("list index out of range")
        if r != FS_OK:
            fail(r, self.ref.heap)
        return made(&c, pins, self.ref, in_place)

    cdef Items snapshot(self, int64_t start, int64_t stop, int64_t step):
        cdef Items s = Items.__new__(Items)
        cdef fs_self me
        cdef uint64_t *slots = NULL
        cdef uint64_t room = 0
        cdef int r
        s.ref = self.ref
        whoami(self.ref, &me)
        r = FS_BUSY
        if self.v.n < 1000:
            r = fs_vector_copy(&me, self.v, start, stop, step, slots, room, &s.s, &s.stamp)
        while True:
            if r == FS_RANGE:
                if s.pins is None:
                    s.pins = new_pins(self.ref)
                s.pins.reserve(s.s.pins, False)
                whoami(self.ref, &me)
                me.wait = 1
            elif not again(r, &me):
                break
            elif s.pins is not None:
                s.pins.clear()
            if s.pins is not None:
                slots, room = s.pins.places(), s.pins.room
            with nogil:
                r = fs_vector_copy(&me, self.v, start, stop, step, slots, room, &s.s, &s.stamp)
        if r != FS_OK:
            fail(r, self.ref.heap)
        return s

    cdef list slice(self, int64_t start, int64_t stop, int64_t step):
        cdef list out = self.words(start, stop, step)
        return out if out is not None else self.snapshot(start, stop, step).listed()

    cdef list words(self, int64_t start, int64_t stop, int64_t step):
        """A slice without the lock; None when its items are not all words, or are being changed."""
        cdef fs_slot *slots
        cdef uint64_t count, stamp, i, at
        cdef int r
        cdef object out, item
        cdef bint placed = start >= 0 and step > 0  # else it is not known here which items they are
        if self.ref.closed[0]:
            check_open(self.ref)
        if self.v.n < LONG:
            r = fs_vector_slots_peek(self.ref.heap.h, self.v, start, stop, step, &slots, &count, &stamp)
        else:
            with nogil:
                r = fs_vector_slots_peek(self.ref.heap.h, self.v, start, stop, step, &slots, &count, &stamp)
        if r != FS_OK:
            return None
        try:
            out = PyList_New(count)
            for i in range(count):
                if not is_plain_word(slots[i].about):
                    return None
                at = start + <int64_t>i * step if placed else MOST_WORDS
                item = self.word(at, slots[i].about, slots[i].value)
                Py_INCREF(item)
                PyList_SET_ITEM(out, i, item)
        finally:
            free(slots)
        return out

    cdef int seek(self, object value, uint64_t *at, uint64_t *stamp) except -100:
        """FS_OK and where the first item is that equals a number, a text, bytes or None; FS_MISSING; FS_TYPE when it takes
        Python to tell. And the stamp of that instant."""
        cdef fs_value wanted
        cdef fs_slot word
        cdef fs_self me
        cdef object _held
        cdef int r
        if not word_of(value, &word) and type(value) is not str and type(value) is not bytes:
            return FS_TYPE
        _held = value_of(value, &wanted, self.ref.heap)
        whoami(self.ref, &me)
        if self.v.n < LONG:
            r = fs_vector_seek_peek(self.ref.heap.h, self.v, &wanted, at, stamp)
        else:
            with nogil:
                r = fs_vector_seek_peek(self.ref.heap.h, self.v, &wanted, at, stamp)
        if r == FS_BUSY and self.v.n < LONG:
            r = fs_vector_seek(&me, self.v, &wanted, at, stamp)
        while again(r, &me):
            with nogil:
                r = fs_vector_seek(&me, self.v, &wanted, at, stamp)
        if r < 0 and r != FS_TYPE:
            fail(r, self.ref.heap)
        return r

    def __getitem__(self, i):
        cdef Py_ssize_t start, stop, step
        if isinstance(i, slice):
            PySlice_Unpack(i, &start, &stop, &step)
            return self.slice(start, stop, step)
        return item_of(self, index_of(i))

    def view(self, i, /):
        """The item where it lies in shared memory, read only and without a copy: see the view() of a dict. IndexError when out
        of range; TypeError for items that have no view."""
        cdef uint64_t stamp
        return self.read(index_of(i), &stamp, True)

    def __iter__(self):
        """Item by item as the list is then; wholly of one instant when its length is asked for before the first, as list()
        does."""
        cdef ListIterator it = ListIterator.__new__(ListIterator)
        if self.ref.closed[0]:
            check_open(self.ref)
        it.items = self
        self.fresh = <PyObject *>it
        return it

    def __reversed__(self):
        return iter(self.slice(INT64_MAX, -INT64_MAX - 1, -1))

    def __contains__(self, value):
        cdef uint64_t at, stamp
        cdef int r = self.seek(value, &at, &stamp)
        return r == FS_OK if r != FS_TYPE else value in self.slice(0, INT64_MAX, 1)

    def count(self, value, /):
        return self.slice(0, INT64_MAX, 1).count(value)

    def index(self, value, start=0, stop=9223372036854775807, /):
        cdef uint64_t at, stamp
        if type(start) is int and start == 0 and stop == INT64_MAX and self.seek(value, &at, &stamp) == FS_OK:
            return at
        return self.slice(0, INT64_MAX, 1).index(value, start, stop)

    def __add__(self, other):
        return self.slice(0, INT64_MAX, 1) + other

    def __mul__(self, n):
        return self.slice(0, INT64_MAX, 1) * n

    def __rmul__(self, n):
        return self.slice(0, INT64_MAX, 1) * n

    # writing

    cdef int change(self, int what, int64_t i, const void *v, uint64_t count, uint64_t stamp) except -100:
        """FS_OK, FS_CHANGED, FS_RANGE."""
        cdef fs_self me
        cdef int r
        cdef bint buried = False
        whoami(self.ref, &me)
        r = fs_vector_change(&me, self.v, what, i, v, count, stamp) if count < 1000 else FS_BUSY
        while r != FS_OK:
            if not again_or_bury(r, &me, &buried):
                break
            with nogil:
                r = fs_vector_change(&me, self.v, what, i, v, count, stamp)
        if self.ref.heap.h.super.dying:
            fs_reap(&me)
        fs_vector_learn(self.ref.heap.h, self.v, &self.known)
        if r == FS_OK:
            note_change(self.v)
        elif r != FS_CHANGED and r != FS_RANGE:
            fail(r, self.ref.heap)
        return r

    def append(self, value, /):
        cdef fs_slot word
        cdef fs_self me
        if word_of(value, &word) and not self.ref.closed[0] and fs_enter_free(self.ref.heap.h, &self.v.o.lock, &me):
            if fs_vector_append_word(&me, self.v, &self.known, word.about, word.value):
                note_change(self.v)
                return
        self.add(value)

    cdef int add(self, object value) except -1:
        """append(), the longer way."""
        cdef fs_value v
        cdef object _kin = lively(value, self.live, self.ref)
        cdef object _held = value_of(_kin, &v, self.ref.heap)
        self.change(FS_EXTEND, 0, &v, 1, FS_ANY)
        return 0

    def extend(self, values, /):
        cdef list items = items_of(values, self)
        cdef Values new = words_of(items)
        if new is None:
            new = values_of(items, self.ref.heap)
        if new.n:
            if new.words != NULL:
                self.change(FS_EXTEND_WORDS, 0, new.words, new.n, FS_ANY)
            else:
                self.change(FS_EXTEND, 0, new.v, new.n, FS_ANY)

    def __iadd__(self, values):
        self.extend(values)
        return self

    def __imul__(self, n):
        cdef object times = ssize_of(n)
        cdef Plan plan
        cdef Items s
        cdef uint64_t i, length
        cdef Decision own = decide(self.v)
        cdef int tries = 0
        try:
            while True:
                s = self.snapshot(0, 0, 1)
                length = self.measure()
                count = length * max(times, 0)
                if count * sizeof(fs_slot) > room_left(self.ref.heap):
                    fail(FS_NOMEM, self.ref.heap)
                plan = new_plan(count)
                for i in range(plan.n):
                    plan.items[i] = i % length
                if self.rearrange(plan, None, s.stamp):
                    return self
                tries = self.impatient(tries, own)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    def insert(self, i, value, /):
        cdef fs_value v
        cdef object _kin = lively(value, self.live, self.ref)
        cdef object _held = value_of(_kin, &v, self.ref.heap)
        self.change(FS_INSERT_ITEM, ssize_of(i), &v, 1, FS_ANY)

    def __setitem__(self, i, value):
        cdef fs_slot word
        cdef fs_self me
        cdef int64_t at
        if isinstance(i, slice):
            if value is None:  # to replace() that means: by nothing
                raise TypeError("can only assign an iterable")
            self.replace(i, value)
            return
        if word_of(value, &word):
            at = index_of(i)
            if not self.ref.closed[0] and fs_enter_free(self.ref.heap.h, &self.v.o.lock, &me):
                if fs_vector_set_word(&me, self.v, &self.known, at, word.about, word.value):
                    note_change(self.v)
                    return
        self.put(i, value)

    cdef int put(self, object i, object value) except -1:
        """self[i] = value, the longer way."""
        cdef fs_value v
        cdef object _kin = lively(value, self.live, self.ref)
        cdef object _held = value_of(_kin, &v, self.ref.heap)
        if self.change(FS_SET_ITEM, index_of(i), &v, 1, FS_ANY) == FS_RANGE:
            raise IndexError("list assignment index out of range")
        return 0

    def __delitem__(self, i):
        if isinstance(i, slice):
            self.replace(i, None)
        elif self.change(FS_DELETE_ITEM, index_of(i), NULL, 0, FS_ANY) == FS_RANGE:
            raise IndexError("list assignment index out of range")

    def pop(self, i=-1, /):
        cdef fs_slot last
        cdef fs_self me
        cdef int64_t at = ssize_of(i)
        if at == -1 and not self.ref.closed[0]:
            if fs_vector_word_peek(self.v, &self.known, -1, &last.about, &last.value) and is_plain_word(last.about):
                out = word_object(last.about, last.value)
                if fs_enter_free(self.ref.heap.h, &self.v.o.lock, &me):
                    if fs_vector_pop_word(&me, self.v, &self.known, last.about, last.value):
                        note_change(self.v)
                        return out
        return self.take(at)

    cdef object take(self, int64_t at):
        """pop(), the longer way."""
        cdef fs_self me
        cdef PyObject *plain = NULL
        cdef uint64_t stamp
        cdef int r, tries = 0, waits = 0
        cdef Decision own
        whoami(self.ref, &me)
        r = fs_vector_take(&me, self.v, at, make_plain, &plain)
        while waits < PATIENCE and (r == FS_BUSY or r == FS_INTERRUPTED):
            forget(&plain)
            again(r, &me)
            self.wait(&me)
            r = fs_vector_take(&me, self.v, at, make_plain, &plain)
            waits += 1
        if r == FS_OK:
            note_change(self.v)
            reap(self.ref, &me)
            return taken(plain)
        forget(&plain)
        if r < 0 and r != FS_TYPE and r != FS_RANGE and r != FS_BUSY and r != FS_INTERRUPTED:
            fail(r, self.ref.heap)
        own = decide(self.v)
        try:
            while True:  # a value that cannot be decoded stays
                try:
                    out = self.read(at, &stamp, False)
                except IndexError:
                    raise IndexError("pop index out of range" if len(self) else "pop from empty list") from None
                if self.change(FS_DELETE_ITEM, at, NULL, 0, stamp) == FS_OK:
                    return out
                tries = self.impatient(tries, own)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    cdef int wait(self, fs_self *me) except -1:
        """Until the lock was free for a moment: for what is then tried with the interpreter lock."""
        cdef fs_span span
        cdef int r = fs_vector_enter(me, self.v, &span)
        while again(r, me):
            with nogil:
                r = fs_vector_enter(me, self.v, &span)
        if r < 0:
            fail(r, self.ref.heap)
        fs_vector_leave(me, self.v, r)
        wait_for_heap(self.ref, me)
        me.wait = 0
        return 0

    cdef int impatient(self, int tries, Decision own) except -1:
        """Overtaken once more: in the end, or when its own code did it, the lock is held, so that only that can do it again."""
        if tries >= PATIENCE and not is_held_still(self.ref, own.holder):  # but by the parent of this child
            tries = PATIENCE - 1
        if own.overtook_itself and tries + 1 < PATIENCE:
            tries = PATIENCE - 1
        if tries + 1 == PATIENCE:
            own.holder = hold_quietly(self.ref)
        elif tries > PATIENCE:
            raise ValueError("list modified, again and again, by the code of the items that are looked at")
        return tries + 1

    def remove(self, value, /):
        cdef Items s
        cdef Decision own = decide(self.v)
        cdef uint64_t at = 0, stamp
        cdef int r, tries = 0
        try:
            while True:
                r = self.seek(value, &at, &stamp)
                if r == FS_TYPE:
                    s = self.snapshot(0, INT64_MAX, 1)
                    stamp = s.stamp
                    try:
                        at = s.listed().index(value)
                    except ValueError:
                        r = FS_MISSING
                if r == FS_MISSING:
                    raise ValueError("list.remove(x): x not in list")
                if self.change(FS_DELETE_ITEM, <int64_t>at, NULL, 0, stamp) == FS_OK:
                    return
                tries = self.impatient(tries, own)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    def reverse(self):
        cdef Plan plan
        cdef Items s
        cdef Decision own = decide(self.v)
        cdef uint64_t i
        cdef int tries = 0
        try:
            while True:
                s = self.snapshot(0, 0, 1)
                plan = new_plan(self.measure())
                for i in range(plan.n):
                    plan.items[i] = plan.n - 1 - i
                if self.rearrange(plan, None, s.stamp):
                    return
                tries = self.impatient(tries, own)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    def sort(self, *, key=None, reverse=False):
        """As list.sort: stable; others see the order before or after. ValueError when `key` or comparing changes the list."""
        cdef Items s
        cdef Decision own = decide(self.v)
        cdef int tries = PATIENCE - 2  # a decision is dear here
        try:
            while True:
                s = self.snapshot(0, INT64_MAX, 1)
                items = s.listed()
                keys = items if key is None else [key(item) for item in items]
                if self.rearrange(plan_of(sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)), None, s.stamp):
                    return
                if own.overtook_itself or (tries >= PATIENCE and is_held_still(self.ref, own.holder)):  # so nobody else has
                    raise ValueError("list modified during sort")
                tries = self.impatient(tries, own)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    cdef int replace(self, slice part, object values) except -1:
        """Slice assignment; deletion when `values` is None."""
        cdef Values new = None if values is None else assigned(part, values, self)
        cdef Py_ssize_t start, stop, step
        cdef Items s
        cdef Decision own = decide(self.v)
        cdef int tries = 0
        PySlice_Unpack(part, &start, &stop, &step)
        if step == 1:
            return self.exchange(start, stop, new)
        try:
            while True:
                s = self.snapshot(0, 0, 1)
                count = self.measure()
                plan = list(range(count))
                if new is None:
                    del plan[part]
                else:
                    plan[part] = range(-1, -1 - <int64_t>new.n, -1)
                if self.rearrange(plan_of(plan), new, s.stamp):
                    return 0
                tries = self.impatient(tries, own)
        finally:
            if tries >= PATIENCE:
                unhold_quietly(self.ref, own.holder)

    cdef int exchange(self, int64_t start, int64_t stop, Values new) except -1:
        cdef fs_self me
        cdef const fs_value *v = NULL if new is None else new.v
        cdef uint64_t n = 0 if new is None else new.n
        cdef int r = FS_BUSY
        cdef bint buried = False
        whoami(self.ref, &me)
        while again_or_bury(r, &me, &buried):
            with nogil:
                r = fs_vector_exchange(&me, self.v, start, stop, v, n)
        self.rearranged(r, &me)
        return 0

    cdef bint rearrange(self, Plan plan, Values new, uint64_t stamp) except -1:
        """False when the list has changed since it had this stamp."""
        cdef fs_self me
        cdef const fs_value *v = NULL if new is None else new.v
        cdef int r = FS_BUSY
        cdef bint buried = False
        whoami(self.ref, &me)
        while again_or_bury(r, &me, &buried):
            with nogil:
                r = fs_vector_rearrange(&me, self.v, plan.items, plan.n, v, stamp)
        return self.rearranged(r, &me)

    cdef bint rearranged(self, int r, fs_self *me) except -1:
        reap(self.ref, me)
        fs_vector_learn(self.ref.heap.h, self.v, &self.known)
        if r == FS_OK:
            note_change(self.v)
        elif r != FS_CHANGED:
            fail(r, self.ref.heap)
        return r == FS_OK

    def get_lock(self):
        """The recursive lock that makes several operations one for all others."""
        return self.lock if self.lock is not None else lock_of(self)


cdef object room_left(Heap heap):
    """Bytes that the segment could still grow by, and what it has."""
    f = os.fstatvfs(heap.h.fd)
    return f.f_bavail * f.f_frsize + heap.h.super.committed


cdef Values assigned(slice part, object values, List target):
    try:
        iter(values)
    except TypeError:
        raise TypeError(
            "can only assign an iterable" if part.step in (None, 1) else "must assign iterable to extended slice"
        ) from None
    return values_of(items_of(values, target), target.ref.heap)


cdef inline object item_of(List self, int64_t i):
    """IndexError when out of range."""
    cdef uint64_t about, value
    if not self.ref.closed[0] and fs_vector_word_peek(self.v, &self.known, i, &about, &value) and is_plain_word(about):
        return self.word(<uint64_t>i, about, value)
    return self.item(i)


cdef inline int64_t index_of(object i) except? -0x7fffffffffffffff:
    """As for a builtin list: TypeError for what is no index; an index beyond 64 bits is out of every range."""
    return fs_short(i) if PyLong_CheckExact(i) and fs_is_short(i) else longer_index(i)


cdef int64_t longer_index(object i) except? -0x7fffffffffffffff:
    if not hasattr(type(i), "__index__"):
        raise TypeError(f"list indices must be integers or slices, not {type(i).__name__}")
    i = as_index(i)
    if i > INT64_MAX or i < INT64_MIN:
        raise IndexError("cannot fit 'int' into an index-sized integer")
    return max(i, -INT64_MAX)  # what has no opposite is as far out of range as this


cdef inline int64_t ssize_of(object i) except? -0x7fffffffffffffff:
    return fs_short(i) if PyLong_CheckExact(i) and fs_is_short(i) else longer_ssize(i)


cdef int64_t longer_ssize(object i) except? -0x7fffffffffffffff:
    i = as_index(i)
    if i > INT64_MAX or i < INT64_MIN:
        raise OverflowError("Python int too large to convert to C ssize_t")
    return max(i, -INT64_MAX)


@cython.no_gc_clear  # its end needs the list
@cython.final
cdef class ListIterator:
    cdef List items
    cdef list whole
    cdef int64_t at

    def __iter__(self):
        return self

    cdef int begin(self) noexcept:
        if self.items is not None and self.items.fresh == <PyObject *>self:
            self.items.fresh = NULL
        return 0

    cdef int snapshot(self) except -1:
        self.begin()
        self.whole = self.items.slice(0, INT64_MAX, 1)
        return 0

    def __next__(self):
        cdef uint64_t about, value
        if self.items is None:
            raise StopIteration
        if self.at and self.whole is None and not self.items.ref.closed[0]:
            if fs_vector_word_peek(self.items.v, &self.items.known, self.at, &about, &value) and is_plain_word(about):
                self.at += 1
                return self.items.word(self.at - 1, about, value)
        return self.next()

    cdef object next(self):
        """The longer way: the first item, the last, those that are no words."""
        self.begin()
        if self.whole is not None:
            if self.at < len(self.whole):
                out = self.whole[self.at]
                self.at += 1
                return out
        else:
            try:
                out = self.items.item(self.at)
            except IndexError:
                pass
            else:
                self.at += 1
                return out
        self.items = self.whole = None
        raise StopIteration

    def __dealloc__(self):
        self.begin()
