"""Semaphores, events, the waiters of conditions, barriers.

What can be done at once is done with the interpreter lock held. Who must wait does so without it, in naps: after each long one,
and whenever a signal came, it is back here, so that the signal's handler runs.
"""

import errno
from threading import BrokenBarrierError

from cpython.exc cimport PyErr_CheckSignals
from cpython.number cimport PyIndex_Check, PyNumber_Index
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t

from fastshm._c cimport *
from fastshm._calls cimport again, check_gate, check_kind, fs_identify_by, patient, whoami
from fastshm._core cimport Handle, Ref, check_open, fail, gate_ref, heap_of, identify, new_ref, retry
from fastshm._locks cimport Gateway, deadline_asked

fs_identify_by(identify)

cdef extern from "Python.h":
    int64_t PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1


# --- semaphores ---------------------------------------------------------------------------------------------------------------

cdef uint32_t permits(object value) except? 0xffffffff:
    if not PyIndex_Check(value):
        raise TypeError(f"the number of permits must be an int, not {type(value).__name__!r}")
    cdef long long n = PyNumber_Index(value)
    if n > FS_MOST_PERMITS:
        raise OverflowError("signed integer is greater than maximum")
    if n < 0:
        raise OSError(errno.EINVAL, "Invalid argument")
    return <uint32_t>n


cdef int take(Ref ref, int64_t deadline) except -1:
    cdef fs_semaphore *s = <fs_semaphore *>ref.o
    cdef fs_patience p = fs_patience(deadline, 0)
    cdef int r = FS_INTERRUPTED
    if ref.closed[0]:
        check_open(ref)
    if fs_semaphore_try(s):
        return 1
    if deadline == 0:
        return fs_semaphore_wait(s, &p) == FS_OK
    while r == FS_INTERRUPTED:
        PyErr_CheckSignals()
        check_gate(ref)
        with nogil:
            r = fs_semaphore_wait(s, &p)
    return r == FS_OK


cdef int give(Ref ref) except -1:
    if ref.closed[0]:
        check_open(ref)
    if fs_semaphore_give(<fs_semaphore *>ref.o) != FS_OK:
        raise ValueError("semaphore or lock released too many times")
    return 0


cdef class _Ends:
    """The two ends of `with semaphore:`. Apart from it, so that its bound methods can be kept without a cycle."""
    cdef Ref ref


cdef class SemaphoreEnds(_Ends):
    def enter(self):
        take(self.ref, -1)
        return True

    def exit(self, kind=None, value=None, traceback=None, /):
        give(self.ref)


cdef class BoundedEnds(_Ends):
    def enter(self):
        take_bounded(self.ref, -1)
        return True

    def exit(self, kind=None, value=None, traceback=None, /):
        give_bounded(self.ref)


cdef int bind_ends(Gateway gateway, _Ends ends) except -1:
    ends.ref = gateway.ref
    gateway.enter_ = ends.enter
    gateway.exit_ = ends.exit
    return 0


cdef class Semaphore(Gateway):
    """Permits that any process may acquire and any may release."""

    def __init__(self, value=1, *, gate=None):
        cdef uint32_t n = permits(value)
        self.ref = new_ref(heap_of(gate), sizeof(fs_semaphore), FS_SEMAPHORE, gate_ref(gate))
        (<fs_semaphore *>self.ref.o).value = n
        self.bind()

    cdef int bind(self) except -1:
        check_kind(self.ref, FS_SEMAPHORE)
        return bind_ends(self, SemaphoreEnds.__new__(SemaphoreEnds))

    def acquire(self, block=True, timeout=None):
        """True with a permit, False when `timeout` seconds went by."""
        return take(self.ref, -1 if block is True and timeout is None else deadline_asked(block, timeout)) == 1

    def release(self):
        """One permit more; ValueError when there are as many as can be counted."""
        give(self.ref)

    def get_value(self):
        """How many permits are free."""
        check_open(self.ref)
        return fs_load_u32(&(<fs_semaphore *>self.ref.o).value)


cdef int take_bounded(Ref ref, int64_t deadline) except -1:
    cdef fs_self me
    cdef fs_bounded *b = <fs_bounded *>ref.o
    cdef fs_patience p = fs_patience(deadline, 0)
    cdef int r
    whoami(ref, &me)
    r = fs_bounded_try(&me, b)
    if r == FS_OK:
        return 1
    if r == FS_MISSING or r == FS_BUSY:
        r = FS_INTERRUPTED
    while r == FS_INTERRUPTED:
        retry(r, &me)
        check_gate(ref)
        with nogil:
            r = fs_bounded_wait(&me, b, &p)
    if r != FS_OK and r != FS_TIMEOUT:
        fail(r, ref.heap)
    return r == FS_OK


cdef int give_bounded(Ref ref) except -1:
    cdef fs_self me
    cdef fs_bounded *b = <fs_bounded *>ref.o
    whoami(ref, &me)
    cdef int r = fs_bounded_give(&me, b)
    while again(r, &me):
        with nogil:
            r = fs_bounded_give(&me, b)
    if r == FS_RANGE:
        raise ValueError("semaphore or lock released too many times")
    if r != FS_OK:
        fail(r, ref.heap)
    return 0


cdef class BoundedSemaphore(Gateway):
    """Permits that belong to the process that acquired them: when it dies, they come back."""

    def __init__(self, value=1, *, gate=None):
        cdef fs_self me
        cdef uint32_t bound = permits(value)
        cdef Ref ref = new_ref(heap_of(gate), sizeof(fs_bounded), FS_BOUNDED, gate_ref(gate))
        cdef fs_bounded *b = <fs_bounded *>ref.o
        whoami(ref, &me)
        cdef int r = fs_bounded_start(&me, b, bound)
        while again(r, &me):
            with nogil:
                r = fs_bounded_start(&me, b, bound)
        if r != FS_OK:
            fail(r, ref.heap)
        self.ref = ref
        self.bind()

    cdef int bind(self) except -1:
        check_kind(self.ref, FS_BOUNDED)
        return bind_ends(self, BoundedEnds.__new__(BoundedEnds))

    def acquire(self, block=True, timeout=None):
        """True with a permit, False when `timeout` seconds went by."""
        return take_bounded(self.ref, -1 if block is True and timeout is None else deadline_asked(block, timeout)) == 1

    def release(self):
        """Gives a permit back, whoever acquired it; ValueError when all of them are free."""
        give_bounded(self.ref)

    def get_value(self):
        """How many permits are free, those of the dead included."""
        cdef fs_self me
        cdef uint32_t value = 0
        whoami(self.ref, &me)
        cdef int r = fs_bounded_value(&me, <fs_bounded *>self.ref.o, &value)
        while again(r, &me):
            with nogil:
                r = fs_bounded_value(&me, <fs_bounded *>self.ref.o, &value)
        if r != FS_OK:
            fail(r, self.ref.heap)
        return value

    @property
    def _bound(self):
        check_open(self.ref)
        return (<fs_bounded *>self.ref.o).bound


# --- events -------------------------------------------------------------------------------------------------------------------

cdef class Event(Handle):
    """A flag to wait for."""

    def __init__(self, *, gate=None):
        self.ref = new_ref(heap_of(gate), sizeof(fs_semaphore), FS_EVENT, gate_ref(gate))

    cdef int bind(self) except -1:
        return check_kind(self.ref, FS_EVENT)

    def is_set(self):
        check_open(self.ref)
        return bool(fs_event_is_set(<fs_semaphore *>self.ref.o))

    def set(self):
        """Lets all go who wait, and all who come until it is cleared."""
        check_open(self.ref)
        fs_event_set(<fs_semaphore *>self.ref.o)

    def clear(self):
        check_open(self.ref)
        fs_event_clear(<fs_semaphore *>self.ref.o)

    def wait(self, timeout=None):
        """True when it is set, or was meanwhile; False when `timeout` seconds went by."""
        cdef fs_semaphore *e = <fs_semaphore *>self.ref.o
        check_open(self.ref)
        cdef uint32_t since = fs_load_u32(&e.value)
        if since & 1:
            return True
        cdef fs_patience p = fs_patience(patient(timeout), 0)
        cdef int r = FS_INTERRUPTED
        while r == FS_INTERRUPTED:
            PyErr_CheckSignals()
            check_gate(self.ref)
            with nogil:
                r = fs_event_wait(e, since, &p)
        return r == FS_OK


# --- conditions ---------------------------------------------------------------------------------------------------------------

cdef int leave(object lock) except -1:
    """In one step where the lock is of fastshm: no signal's handler runs after it is done."""
    if isinstance(lock, Gateway):
        (<Gateway>lock).exit_()
    else:
        lock.release()
    return 0


cdef int regain(object lock, int count) except -1:
    """What a signal's handler raises meanwhile comes out when the lock is held again; a second such exception does not wait."""
    cdef object first = None
    while count > 0:
        try:
            if isinstance(lock, Gateway):
                (<Gateway>lock).enter_()
            else:
                lock.acquire()
            count -= 1
        except BaseException as error:
            if first is not None:
                raise
            first = error
    if first is not None:
        raise first
    return 0


cdef class Waiters(Handle):
    """Who waits at a condition. The lock is the condition's affair; here it is let go of and taken again."""

    def __init__(self, *, gate=None):
        self.ref = new_ref(heap_of(gate), sizeof(fs_waiters), FS_WAITERS, gate_ref(gate))

    cdef int bind(self) except -1:
        return check_kind(self.ref, FS_WAITERS)

    def wait(self, lock, int count, timeout=None):
        """Releases the lock `count` times, waits to be notified, acquires it again: True, or False when the time ran out."""
        cdef int64_t deadline = patient(timeout)
        cdef bint notified = False
        while not self.wait_seated(lock, count, deadline, &notified):
            pass
        return notified

    cdef bint wait_seated(self, object lock, int count, int64_t deadline, bint *notified) except -1:
        """False in a child that was forked meanwhile: the seat and what comes to it are its parent's. With the lock, it waits
        anew as itself."""
        cdef fs_self me
        cdef bint has_lock = False
        cdef int released = 0
        whoami(self.ref, &me)
        cdef uint32_t owner = me.id
        cdef uint64_t seat = self.join(&me)
        if me.id != owner:  # its parent has the lock
            owner, released = me.id, count
        try:
            try:
                while released < count:
                    leave(lock)
                    released += 1
                notified[0] = self.sleep(lock, seat, owner, deadline)
            except BaseException:
                self.done(seat, owner, True)
                raise
            finally:
                regain(lock, released)
            has_lock = True
        finally:
            self.done(seat, owner, not has_lock)
        whoami(self.ref, &me)
        return me.id == owner

    cdef uint64_t join(self, fs_self *me) except? 0xffffffffffffffff:
        cdef uint64_t seat = 0
        cdef int r = fs_waiters_join(me, <fs_waiters *>self.ref.o, &seat)
        while again(r, me):
            with nogil:
                r = fs_waiters_join(me, <fs_waiters *>self.ref.o, &seat)
        if r != FS_OK:
            fail(r, self.ref.heap)
        return seat

    cdef bint sleep(self, object lock, uint64_t seat, uint32_t owner, int64_t deadline) except -1:
        """Was it notified? Not if this is no longer the seat's owner, who is awaited no more. An error when the lock is another
        manager's, which was shut down: nobody can notify without it."""
        cdef fs_self me
        cdef fs_patience p = fs_patience(deadline, 0)
        cdef int r = FS_INTERRUPTED
        whoami(self.ref, &me)
        while r == FS_INTERRUPTED:
            retry(r, &me)
            if me.id != owner:
                return False
            check_gate(self.ref)
            if isinstance(lock, Gateway):
                check_gate((<Gateway>lock).ref)
            with nogil:
                r = fs_waiters_wait(&me, <fs_waiters *>self.ref.o, seat, &p)
        if r == FS_OK:
            return True
        if r != FS_TIMEOUT:
            fail(r, self.ref.heap)
        r = FS_BUSY
        while r == FS_BUSY or r == FS_INTERRUPTED:
            with nogil:
                r = fs_waiters_give_up(&me, <fs_waiters *>self.ref.o, seat)
        if r < 0:
            fail(r, self.ref.heap)
        return r == FS_EXISTS

    cdef int done(self, uint64_t seat, uint32_t owner, bint in_vain) except -1:
        """The seat is free. A notification that came in vain is the next one's."""
        cdef fs_self me
        cdef int r = FS_BUSY
        if fs_me(self.ref.heap.h, &me) != FS_OK or me.id != owner:
            return 0
        me.wait = 1
        while r == FS_BUSY or r == FS_INTERRUPTED:
            with nogil:
                r = fs_waiters_done(&me, <fs_waiters *>self.ref.o, seat, in_vain)
        return 0

    def notify(self, number):
        """Notifies so many of those that have waited longest."""
        cdef fs_self me
        cdef int overflow = 0
        cdef int64_t n = PyLong_AsLongLongAndOverflow(number, &overflow)
        if overflow > 0:
            n = INT64_MAX
        whoami(self.ref, &me)
        if n <= 0:
            return
        cdef int r = fs_waiters_notify(&me, <fs_waiters *>self.ref.o, n)
        while again(r, &me):
            with nogil:
                r = fs_waiters_notify(&me, <fs_waiters *>self.ref.o, n)
        if r != FS_OK:
            fail(r, self.ref.heap)

    def count(self):
        """How many wait that have not been notified."""
        check_open(self.ref)
        return fs_waiters_count(self.ref.heap.h, <fs_waiters *>self.ref.o)


# --- barriers -----------------------------------------------------------------------------------------------------------------

cdef class Barrier(Handle):
    """Lets `parties` go on together."""

    def __init__(self, int64_t parties, *, gate=None):
        cdef uint64_t room = parties if parties > 0 else 1
        if room > 1 << 32:
            raise OverflowError("more parties than there can be threads")
        self.ref = new_ref(heap_of(gate), sizeof(fs_barrier) + room * 8, FS_BARRIER, gate_ref(gate))
        cdef fs_barrier *b = <fs_barrier *>self.ref.o
        b.parties = parties
        b.room = room

    cdef int bind(self) except -1:
        return check_kind(self.ref, FS_BARRIER)

    def _pass(self, action, timeout):
        """Waits for the others; the last one runs the action. Its index, from 0 in the order of coming."""
        cdef int64_t deadline = patient(timeout)
        cdef uint64_t index = 0
        while not self.pass_placed(action, deadline, &index):
            pass
        return index

    cdef bint pass_placed(self, object action, int64_t deadline, uint64_t *index) except -1:
        """False in a child that was forked meanwhile: the place is its parent's. It has yet to come."""
        cdef fs_self me
        cdef fs_barrier *b = <fs_barrier *>self.ref.o
        cdef fs_patience p = fs_patience(-1, 0)
        cdef uint64_t place = 0
        cdef int fate = FS_STAYS, r = FS_BUSY, has_action = action is not None
        whoami(self.ref, &me)
        while True:
            with nogil:
                r = fs_barrier_arrive(&me, b, has_action, &place, index, &fate)
                if r == FS_MISSING:
                    r = fs_barrier_wait(&me, b, FS_NO_PLACE, &p)
                    r = FS_INTERRUPTED if r == FS_OK else r
            if r != FS_BUSY and r != FS_INTERRUPTED:
                break
            retry(r, &me)
            check_gate(self.ref)
        if r == FS_CHANGED:
            raise BrokenBarrierError
        if r != FS_OK:
            fail(r, self.ref.heap)
        if fate == FS_ACTS:
            return self.act(me.id, action, place)
        if fate == FS_STAYS:
            return self.stay(me.id, place, deadline)
        return True

    cdef bint act(self, uint32_t owner, object action, uint64_t place) except -1:
        cdef fs_self me
        cdef fs_barrier *b = <fs_barrier *>self.ref.o
        cdef int r = FS_BUSY
        try:
            action()
        except BaseException:
            self.end(owner, b, place, True)
            raise
        whoami(self.ref, &me)
        if me.id != owner:
            return False
        me.wait = 1
        while r == FS_BUSY or r == FS_INTERRUPTED:
            with nogil:
                r = fs_barrier_acted(&me, b, place)
        if r == FS_CHANGED:
            raise BrokenBarrierError
        if r != FS_OK:
            fail(r, self.ref.heap)
        return True

    cdef bint stay(self, uint32_t owner, uint64_t place, int64_t deadline) except -1:
        cdef fs_self me
        cdef fs_barrier *b = <fs_barrier *>self.ref.o
        cdef fs_patience p = fs_patience(deadline, 0)
        cdef int r = FS_INTERRUPTED
        whoami(self.ref, &me)
        try:
            while r == FS_INTERRUPTED or r == FS_BUSY or r == FS_TIMEOUT:
                retry(r, &me)
                if me.id != owner:
                    return False
                check_gate(self.ref)
                with nogil:
                    r = fs_barrier_wait(&me, b, place, &p)
                    if r == FS_TIMEOUT:
                        r = fs_barrier_late(&me, b)
                        r = FS_INTERRUPTED if r == FS_OK else r
        finally:
            self.end(owner, b, place, False)
        if r == FS_CHANGED:
            raise BrokenBarrierError
        if r != FS_OK:
            fail(r, self.ref.heap)
        return True

    cdef int end(self, uint32_t owner, fs_barrier *b, uint64_t place, bint broken) noexcept:
        """Out of the place, whatever comes; unless it is that of the parent of this child."""
        cdef fs_self me
        cdef int r = FS_BUSY
        if fs_me(self.ref.heap.h, &me) != FS_OK or me.id != owner:
            return 0
        me.wait = 1
        with nogil:
            while broken and (r == FS_BUSY or r == FS_INTERRUPTED):
                r = fs_barrier_abort(&me, b)
            r = FS_BUSY
            while r == FS_BUSY or r == FS_INTERRUPTED:
                r = fs_barrier_leave(&me, b, place)
        return 0

    def abort(self):
        """Breaks it: an error for all who wait and who come, until it is reset."""
        cdef fs_self me
        cdef int r
        whoami(self.ref, &me)
        r = fs_barrier_abort(&me, <fs_barrier *>self.ref.o)
        while again(r, &me):
            with nogil:
                r = fs_barrier_abort(&me, <fs_barrier *>self.ref.o)
        if r != FS_OK:
            fail(r, self.ref.heap)

    def reset(self):
        """Empty again; an error for those who wait."""
        cdef fs_self me
        cdef int r
        whoami(self.ref, &me)
        r = fs_barrier_reset(&me, <fs_barrier *>self.ref.o)
        while again(r, &me):
            with nogil:
                r = fs_barrier_reset(&me, <fs_barrier *>self.ref.o)
        if r != FS_OK:
            fail(r, self.ref.heap)

    @property
    def parties(self):
        """How many it takes."""
        check_open(self.ref)
        return (<fs_barrier *>self.ref.o).parties

    @property
    def n_waiting(self):
        """How many wait for the others."""
        check_open(self.ref)
        cdef fs_barrier *b = <fs_barrier *>self.ref.o
        return fs_barrier_inside(self.ref.heap.h, b) if fs_load_u32(&b.phase) <= FS_ACTION else 0

    @property
    def broken(self):
        check_open(self.ref)
        return fs_load_u32(&(<fs_barrier *>self.ref.o).phase) == FS_BARRIER_BROKEN
