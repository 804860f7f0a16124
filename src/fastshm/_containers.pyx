"""References taken under a container's lock, values made after it, and those that are kept."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free

from fastshm._c cimport *
from fastshm._calls cimport fs_identify_by, whoami
from fastshm._buffers cimport copied
from fastshm._codec cimport decode_value, text_of, view_of
from fastshm._core cimport Handle, Pin, Ref, adopt_ref, fail, identify, make_handle, release_slot, reserve_slot

fs_identify_by(identify)

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()
    int PyGC_Disable()
    int PyGC_Enable()


@cython.final
cdef class Pins:
    cdef int reserve(self, uint64_t count, bint whole) except -1:
        """Room for `count` pins. Unless `whole`, the last have no slot when there is no memory for more."""
        cdef uint64_t *more
        cdef bint is_full = self.room and self.offsets[self.room - 1] == 0
        self.clear()
        more = <uint64_t *>PyMem_Realloc(self.numbers, count * 8)
        if more == NULL:
            raise MemoryError()
        self.numbers = more
        more = <uint64_t *>PyMem_Realloc(self.offsets, count * 8)
        if more == NULL:
            raise MemoryError()
        self.offsets = more
        while self.room < count:
            self.numbers[self.room], self.offsets[self.room] = FS_ANY, 0
            if not is_full:
                try:
                    self.numbers[self.room] = reserve_slot(self.ref.heap)
                    self.offsets[self.room] = fs_slot_offset(self.ref.heap.h, self.numbers[self.room])
                except MemoryError:
                    if whole:
                        raise
                    is_full = True
            self.room += 1
        return 0

    cdef uint64_t *places(self) noexcept:
        """Where the slots are: to be asked when code may have run, which may have forked, for a child has slots of its own."""
        cdef uint64_t i
        for i in range(self.room):
            if self.numbers[i] != FS_ANY:
                self.offsets[i] = fs_slot_offset(self.ref.heap.h, self.numbers[i])
        return self.offsets

    cdef inline uint64_t *word(self, uint64_t i) noexcept:
        return fs_slot_word(self.ref.heap.h, self.numbers[i])

    cdef int clear(self) except -1:
        """Gives back what an unfinished try has taken."""
        cdef fs_self me
        cdef uint64_t i
        cdef int r
        if self.room == 0:
            return 0
        whoami(self.ref, &me)
        me.wait = 1
        self.places()
        for i in range(self.room):
            if self.offsets[i] == 0:
                break
            r = FS_INTERRUPTED
            while r == FS_INTERRUPTED:
                with nogil:
                    r = fs_drop(&me, <uint64_t *>(self.ref.heap.h.base + self.offsets[i]))
            if r != FS_OK:
                fail(r, self.ref.heap)
        return 0

    cdef list adopt(self, uint32_t kind, uint64_t i):
        """Handles on what slot i refers to: an object, or a bundle's objects."""
        cdef uint64_t offset = fs_load_relaxed(self.word(i)), slot = self.numbers[i]
        cdef uint64_t n, count, *place
        cdef list out = []
        cdef fs_bundle *u
        cdef fs_self me
        cdef int r
        if kind == FS_V_OBJECT:
            self.numbers[i] = FS_ANY
            out.append(adopt_ref(self.ref.heap, offset, slot))
            return out
        u = fs_bundle_at(self.ref.heap.h, offset, &count)
        if u == NULL:
            fail(FS_CORRUPT, self.ref.heap)
        for n in range(count):
            offset = fs_load_relaxed(&u.refs[n])
            slot = reserve_slot(self.ref.heap)
            whoami(self.ref, &me)
            me.wait = 1
            place = fs_slot_word(self.ref.heap.h, slot)
            r = FS_INTERRUPTED
            while r == FS_INTERRUPTED:
                with nogil:
                    r = fs_ref_to(&me, offset, place)
            if r != FS_OK:
                release_slot(self.ref.heap, slot)
                fail(r, self.ref.heap)
            out.append(adopt_ref(self.ref.heap, offset, slot))
        return out

    cdef object value(self, uint32_t kind, uint32_t length, uint64_t i, bint in_place):
        """What slot i refers to; with `in_place`, seen there."""
        cdef list refs = self.adopt(kind, i) if fs_needs_pin(kind) else None
        cdef bytes text
        cdef Pin pin
        cdef fs_seen seen
        if kind == FS_V_OBJECT:
            if in_place:
                return view_of(kind, 0, 0, NULL, 0, refs, self.ref.heap, None)
            return decode_value(kind, 0, 0, NULL, 0, refs, self.ref.heap)
        seen.kind, seen.value = kind, fs_load_relaxed(self.word(i))
        if fs_value_look(self.ref.heap.h, &seen) != FS_OK:
            fail(FS_CORRUPT, self.ref.heap)
        if in_place:
            pin = Pin.__new__(Pin)
            pin.slot, pin.heap = self.numbers[i], self.ref.heap
            self.numbers[i] = FS_ANY
            return view_of(kind, length, 0, seen.data, seen.size, refs, self.ref.heap, pin)
        if kind == FS_V_UTF8_BLOB:  # decoding looks at bytes more than once, and a damaged segment may change meanwhile
            text = copied(seen.data, seen.size)
            return text_of(PyBytes_AS_STRING(text), seen.size)
        return decode_value(kind, length, 0, seen.data, seen.size, refs, self.ref.heap)

    def __dealloc__(self):
        cdef uint64_t i
        for i in range(self.room):
            if self.numbers[i] != FS_ANY:
                release_slot(self.ref.heap, self.numbers[i])
        PyMem_Free(self.numbers)
        PyMem_Free(self.offsets)


cdef Pins new_pins(Ref ref):
    cdef Pins pins = Pins.__new__(Pins)
    pins.ref = ref
    return pins


cdef int make_plain(void *out, const fs_seen *s) noexcept:
    """For fs_table_take and fs_vector_take, under their lock: a number, a text or bytes, so that no code of anybody's runs. Nor
    does the collector: an exception, or its traceback, might start it, and is a return code before it may run again."""
    cdef bint collects = PyGC_Disable()
    cdef const unsigned char *data = s.data
    cdef bytes copy
    cdef int r = FS_OK
    try:
        if s.kind == FS_V_UTF8_BLOB:  # decoding looks at bytes more than once, and a damaged segment may change meanwhile
            copy = PyBytes_FromStringAndSize(<const char *>s.data, s.size)
            data = <const unsigned char *>PyBytes_AS_STRING(copy)
        plain = decode_value(s.kind, s.length, s.value, data, s.size, None, None)
        Py_INCREF(plain)
        (<PyObject **>out)[0] = <PyObject *>plain
    except MemoryError:
        r = FS_PRIVATE_NOMEM
    except Exception:
        r = FS_CORRUPT
    if collects:
        PyGC_Enable()
    return r


cdef object taken(PyObject *out):
    """The object that make_plain has made."""
    cdef object plain = <object>out
    Py_DECREF(plain)
    return plain


cdef object made(fs_copy *c, Pins pins, Ref ref, bint in_place):
    """The object of a value that was copied out or pinned; with `in_place`, of what it was pinned for, seen there."""
    if fs_owning(c.kind) and c.data == NULL:
        return pins.value(c.kind, c.length, 0, in_place)
    if in_place:
        return view_of(c.kind, c.length, c.value, NULL, 0, None, ref.heap, None)
    try:
        return decode_value(c.kind, c.length, c.value, c.data, c.size, None, ref.heap)
    finally:
        free(c.data)
        c.data = NULL


# --- decisions that code of anybody's makes -----------------------------------------------------------------------------------

cdef void *first_decision = NULL  # a Decision, not counted


@cython.final
cdef class Decision:
    def __dealloc__(self):
        global first_decision
        if self.next != NULL:
            (<Decision>self.next).previous = self.previous
        if self.previous != NULL:
            (<Decision>self.previous).next = self.next
        elif first_decision == <void *>self:
            first_decision = self.next


cdef Decision decide(void *container):
    global first_decision
    cdef Decision new = Decision.__new__(Decision)
    new.container, new.thread = container, PyThread_get_thread_ident()
    new.next = first_decision
    if new.next != NULL:
        (<Decision>new.next).previous = <void *>new
    first_decision = <void *>new
    return new


cdef int changed_while_deciding(void *container) noexcept:
    cdef unsigned long thread = PyThread_get_thread_ident()
    cdef void *at = first_decision
    while at != NULL:
        if (<Decision>at).container == container and (<Decision>at).thread == thread:
            (<Decision>at).overtook_itself = True
        at = (<Decision>at).next
    return 0


# --- decoded values that are kept ---------------------------------------------------------------------------------------------

cdef uint64_t most_kept = 128, largest_kept = 4096
cdef object learner = None  # until this process was told
cdef object MISSING = object()
cdef void *first_cache = NULL  # a Cache, not counted


def set_kept(uint64_t values, uint64_t largest):
    """How many decoded values each handle of this process on a dict or list keeps, of how many bytes of pickle at most. What is
    kept now is forgotten."""
    global most_kept, largest_kept
    cdef void *at = first_cache
    most_kept, largest_kept = values, largest
    while at != NULL:
        (<Cache>at).clear()
        at = (<Cache>at).next


def kept():
    learn()
    return most_kept, largest_kept


def set_learner(asked):
    """The function that calls set_kept() as this process was told: False when it may yet be told."""
    global learner
    learner = asked


cdef int learn() except -1:
    global learner
    if learner is not None and learner():
        learner = None
    return 0


cdef bint is_frozen(object value, int depth):
    cdef type kind = type(value)
    if kind is int or kind is str or kind is float or value is None or kind is bool or kind is bytes or kind is complex:
        return True
    if depth and (kind is tuple or kind is frozenset):
        for part in value:
            if not is_frozen(part, depth - 1):
                return False
        return True
    return False


cdef int how_to_share(object value):
    """0: every reader decodes its own; 1: the object itself; 2, 3, 4: a shallow copy of the dict, list, set."""
    cdef type kind = type(value)
    if is_frozen(value, 4):
        return 1
    if kind is dict:
        for k, v in (<dict>value).items():
            if not is_frozen(k, 4) or not is_frozen(v, 4):
                return 0
        return 2
    if kind is list or kind is set:
        for v in value:
            if not is_frozen(v, 4):
                return 0
        return 3 if kind is list else 4
    return 0


@cython.final
cdef class Cache:
    def __cinit__(self):
        global first_cache
        learn()
        self.next = first_cache
        if self.next != NULL:
            (<Cache>self.next).previous = <void *>self
        first_cache = <void *>self

    cdef inline Cached *line(self, uint64_t number) noexcept:
        return &self.lines[<uint32_t>number % <uint32_t>self.count]  # a division of 32 bits takes half the time

    cdef object find(self, uint64_t version, uint64_t number, uint64_t head, uint64_t value):
        if self.version != version or self.lines == NULL:
            return MISSING
        cdef Cached *c = self.line(number)
        if c.object == NULL or c.number != number or c.head != head or c.value != value:
            return MISSING
        cdef object out = <object>c.object
        if c.copied == 1:
            return out
        if c.copied == 2:
            return (<dict>out).copy()
        return (<list>out)[:] if c.copied == 3 else (<set>out).copy()

    cdef object keep(self, uint64_t version, uint64_t number, uint64_t head, uint64_t value, uint64_t size, object decoded):
        cdef int how
        cdef Cached *c
        if size > largest_kept or most_kept == 0:
            return decoded
        how = how_to_share(decoded)
        if not how:
            return decoded
        if self.version != version:
            self.clear()
        if self.lines == NULL:
            self.lines = <Cached *>PyMem_Calloc(most_kept, sizeof(Cached))
            if self.lines == NULL:  # then it is not kept
                return decoded
            self.count = min(most_kept, <uint64_t>0x7fffffff)
            self.version = version
        c = self.line(number)
        Py_XDECREF(c.object)
        Py_INCREF(decoded)
        c.number, c.head, c.value, c.copied, c.object = number, head, value, how, <PyObject *>decoded
        return self.find(version, number, head, value)

    cdef int clear(self) noexcept:
        cdef uint64_t i
        for i in range(self.count):
            Py_XDECREF(self.lines[i].object)
        PyMem_Free(self.lines)
        self.lines = NULL
        self.count = 0
        return 0

    def __dealloc__(self):
        global first_cache
        if self.next != NULL:
            (<Cache>self.next).previous = self.previous
        if self.previous != NULL:
            (<Cache>self.previous).next = self.next
        else:
            first_cache = self.next
        self.clear()


# --- live nesting -------------------------------------------------------------------------------------------------------------

cdef object make_live = None


def set_live_maker(make):
    """The function that makes a live container of a plain dict or list, beside a handle."""
    global make_live
    make_live = make


cdef object enlivened(object value, Ref ref):
    return make_live(value, make_handle(Neighbour, ref))


@cython.final
cdef class Neighbour(Handle):
    """Beside it something new is made."""


# --- room for many items ------------------------------------------------------------------------------------------------------

cdef enum:
    LARGEST_DESK = 16384  # items of the largest update whose room is kept for the next


@cython.final
cdef class Desk:
    def __dealloc__(self):
        PyMem_Free(self.keys)
        PyMem_Free(self.values)


cdef Desk spare_desk = None  # of the last update: to have so many pages anew each time costs as much as all else


cdef Desk take_desk(Py_ssize_t room):
    global spare_desk
    cdef Desk desk = spare_desk
    if desk is not None and desk.room >= room:
        spare_desk = None
        return desk
    desk = Desk.__new__(Desk)
    desk.keys = <fs_key *>PyMem_Malloc(room * sizeof(fs_key))
    desk.values = <fs_value *>PyMem_Malloc(room * sizeof(fs_value))
    if desk.keys == NULL or desk.values == NULL:
        raise MemoryError()
    desk.room = room
    return desk


cdef Desk desk_for(Desk desk, list items):
    """That one, or a larger one."""
    return desk if desk.room >= len(items) else take_desk(len(items))


cdef int give_desk(Desk desk) except -1:
    global spare_desk
    if desk.room <= LARGEST_DESK:
        spare_desk = desk
    return 0
