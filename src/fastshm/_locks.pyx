"""Locks: those that users take, and an operation's hold on the lock of an object.

A recursive lock is an object of its own or the one that guards another object; a plain lock is a token, whose owner is a
process."""

cimport cython
from cpython.float cimport PyFloat_AsDouble
from cpython.number cimport PyIndex_Check, PyNumber_Index
from cpython.version cimport PY_VERSION_HEX
from libc.stdint cimport int64_t, uint32_t

from fastshm._c cimport *
from fastshm._calls cimport fs_identify_by
from fastshm._core cimport (
    Handle, Ref, check_open, closed_error, deadline_of, fail, gate_ref, heap_of, identify, is_ours, let_signals_in, new_ref,
    offset_of, whoami,
)

fs_identify_by(identify)

cdef object rlock_class = None


def set_rlock_class(cls):
    """The class of the locks that get_lock() hands out."""
    global rlock_class
    rlock_class = cls


cdef int64_t deadline_asked(object block, object timeout) except? -2:
    """deadline_of() the arguments of an acquire(), of which those are refused that the stdlib refuses: in Python 3.11 it takes
    `block` for a C int, from 3.12 on for a truth value."""
    if PY_VERSION_HEX < 0x030c0000 and block is not True and block is not False:
        if not PyIndex_Check(block):
            raise TypeError(f"block must be a bool or an int, not {type(block).__name__!r}")
        block = PyNumber_Index(block)
        if not -(1 << 31) <= block < 1 << 31:
            raise OverflowError("block: Python int too large to convert to C int")
    if not block and timeout is not None:
        PyFloat_AsDouble(timeout)  # not needed, but it must be a number
    return deadline_of(block, timeout)


cdef int wait_for_lock(Ref ref, fs_lock *lock, fs_self *me, bint by_process, int64_t deadline) except -2:
    """Sleeps without the interpreter lock; FS_OK, FS_TAKEN_OVER, or FS_TIMEOUT as -1. It is the caller's then, or his
    process's, and *me is up to date."""
    cdef uint32_t identity = ref.heap.h.process_id if by_process else me.id
    cdef int r = fs_lock_wait(ref.heap.h, lock, identity, 0)
    if r == FS_BUSY and deadline == 0:
        r = fs_lock_try(ref.heap.h, lock, identity)
        return -1 if r == FS_BUSY else r
    while r == FS_BUSY or r == FS_INTERRUPTED:
        let_signals_in(me)
        identity = ref.heap.h.process_id if by_process else me.id
        with nogil:
            r = fs_lock_wait(ref.heap.h, lock, identity, deadline)
    return -1 if r == FS_TIMEOUT else r


cdef int settle(Ref ref, fs_self *me) except -1:
    cdef int r = fs_object_settle(me, ref.o)
    while r == FS_BUSY or r == FS_INTERRUPTED:
        me.wait = 1
        with nogil:
            r = fs_object_settle(me, ref.o)
    if r != FS_OK:
        fail(r, ref.heap)
    return 0


cdef int settle_or_leave(Ref ref, fs_self *me) except -1:
    try:
        settle(ref, me)
    except BaseException:  # damaged: nobody hangs on the lock for that
        fs_leave(me, &ref.o.lock)
        raise
    return 0


cdef int enter_object(Ref ref, fs_self *me) except -1:
    """One operation's hold on the object's lock: FS_OK, FS_NESTED or FS_TAKEN_OVER, settled."""
    whoami(ref.heap.h, ref.heap, me)
    cdef int r = fs_enter(me, &ref.o.lock)
    if r < 0:
        r = wait_for_lock(ref, &ref.o.lock, me, False, -1)
    if r == FS_TAKEN_OVER:
        settle_or_leave(ref, me)
    return r


@cython.final
cdef class Turnstile:
    """The two ends of `with lock:`. Apart from the lock object, so that its bound methods can be kept without a cycle."""
    cdef Ref ref

    def enter(self):
        if not hold_now(self.ref):
            hold(self.ref, -1, 0)
        return True

    def exit(self, kind=None, value=None, traceback=None, /):
        unhold(self.ref)


cdef inline bint hold_now(Ref ref) noexcept:
    """The user's acquire, when nothing is in the way."""
    cdef fs_self me
    cdef int r
    if ref.closed[0] or fs_me(ref.heap.h, &me) != FS_OK:
        return False
    r = fs_enter(&me, &ref.o.lock)
    if r != FS_OK and r != FS_NESTED:
        return False
    fs_hold_begin(&ref.o.lock, r, 0)
    return True


cdef int hold(Ref ref, int64_t deadline, uint32_t flags) except -1:
    """The user's acquire: 1, or 0 when the time ran out."""
    cdef fs_self me
    cdef fs_lock *lock = &ref.o.lock
    cdef int r
    check_open(ref)
    whoami(ref.heap.h, ref.heap, &me)
    r = fs_enter(&me, lock)
    if r < 0:
        r = wait_for_lock(ref, lock, &me, False, deadline)
        if r == -1:
            return 0
    if r == FS_TAKEN_OVER:
        settle_or_leave(ref, &me)
    fs_hold_begin(lock, r, flags)
    return 1


cdef int unhold(Ref ref) except -1:
    cdef fs_self me
    cdef fs_lock *lock = &ref.o.lock
    if ref.closed[0] and not offset_of(ref):  # nobody has made it
        closed_error(ref)
    if fs_me(ref.heap.h, &me) != FS_OK:
        whoami(ref.heap.h, ref.heap, &me)
    if not fs_is_mine(&me, lock) or not lock.hold & FS_HOLD_COUNT:
        check_open(ref)  # the end of a `with` whose wait() was told that it is closed
        raise AssertionError("attempt to release recursive lock not owned by thread")
    if lock.hold & FS_HOLD_COUNT == 1 and ref.o.block.kind != FS_MUTEX and ref.o.block.kind != FS_CELL:
        try:
            settle(ref, &me)
        except BaseException:  # damaged: the next one is told so, too
            lock.hold = 0
            fs_leave(&me, lock)
            raise
    fs_hold_end(&me, lock)
    return 0


# --- held while code of anybody's decides -------------------------------------------------------------------------------------

cdef uint32_t hold_quietly(Ref ref) except 0:
    """Holds the lock around code of anybody's, for changes that are whole each. What it returns goes to unhold_quietly()."""
    hold(ref, -1, FS_HOLD_QUIET)
    return fs_load_u32(&ref.o.lock.word) & FS_LOCK_OWNER


cdef bint is_held_still(Ref ref, uint32_t holder) noexcept:
    """Not by a child that was forked since."""
    cdef fs_self me
    return fs_me(ref.heap.h, &me) == FS_OK and me.id == holder


cdef int unhold_quietly(Ref ref, uint32_t holder) except -1:
    """The end of hold_quietly(); in a child that was forked since, it is its parent who holds it."""
    if is_held_still(ref, holder):
        unhold(ref)
    return 0


cdef class Pass:
    """Descriptor for __enter__ and __exit__: hands out the bound method that the lock keeps, instead of making one. No Python
    code runs between the lock and the `with`, so no signal's handler does. `refusal`: what is raised by a release in vain."""
    cdef int which
    cdef object refusal

    def __init__(self, which, refusal=None):
        self.which = which
        self.refusal = refusal

    def __get__(self, instance, owner):
        cdef Refusing way
        if instance is None:
            return enter_any if self.which == 0 else exit_any
        if self.which == 0:
            return (<Gateway?>instance).enter_
        if self.refusal is None:
            return (<Gateway?>instance).exit_
        way = Refusing.__new__(Refusing)
        way.exit_ = (<Gateway?>instance).exit_
        way.refusal = self.refusal
        return way


@cython.final
cdef class Refusing:
    """An __exit__ that has a complaint of its own."""
    cdef object exit_, refusal

    def __call__(self, *args):
        try:
            self.exit_()
        except (AssertionError, ValueError):
            raise self.refusal() from None


def enter_any(lock):
    return (<Gateway?>lock).enter_()


def exit_any(lock, *args):
    return (<Gateway?>lock).exit_(*args)


cdef class Gateway(Handle):
    """A lock as its users see it."""


cdef class RecursiveLock(Gateway):
    """A recursive lock: an object of its own, or the one that guards another object."""

    def __init__(self, *, gate=None):
        self.ref = new_ref(heap_of(gate), sizeof(fs_object), FS_MUTEX, gate_ref(gate))
        self.bind()

    cdef int bind(self) except -1:
        cdef Turnstile t = Turnstile.__new__(Turnstile)
        t.ref = self.ref
        self.enter_ = t.enter
        self.exit_ = t.exit
        return 0

    def acquire(self, block=True, timeout=None):
        """True once held by this thread (again), False when `timeout` seconds went by."""
        if block is True and timeout is None and hold_now(self.ref):
            return True
        return hold(self.ref, deadline_asked(block, timeout), 0) == 1

    def release(self):
        """AssertionError when this thread does not hold it."""
        unhold(self.ref)

    @property
    def abandoned(self):
        """True for the holder that took over from one that died inside its critical section, until it releases."""
        cdef fs_self me
        whoami(self.ref.heap.h, self.ref.heap, &me)
        return bool(fs_is_mine(&me, &self.ref.o.lock) and self.ref.o.lock.hold & FS_HOLD_ABANDONED)

    def _state(self):
        """(holds: 'mine', 'thread', 'process' or None; recursion count)"""
        cdef fs_self me
        whoami(self.ref.heap.h, self.ref.heap, &me)
        cdef uint32_t owner = fs_load_u32(&self.ref.o.lock.word) & FS_LOCK_OWNER
        cdef uint32_t count = self.ref.o.lock.hold & FS_HOLD_COUNT
        if not owner:
            return None, 0
        if owner == me.id:
            return "mine", count
        return ("thread" if is_ours(self.ref.heap.h, owner) else "process"), count

    def _held(self):
        """How often this thread holds it."""
        cdef fs_self me
        whoami(self.ref.heap.h, self.ref.heap, &me)
        return self.ref.o.lock.hold & FS_HOLD_COUNT if fs_is_mine(&me, &self.ref.o.lock) else 0


@cython.final
cdef class IfFree:
    """`with IfFree(lock) as is_ours:` does not wait: the lock is held inside if nobody held it before, nor this thread."""
    cdef Ref ref
    cdef bint is_ours

    def __init__(self, RecursiveLock lock not None):
        self.ref = lock.ref

    def __enter__(self):
        if hold(self.ref, 0, 0):
            self.is_ours = self.ref.o.lock.hold & FS_HOLD_COUNT == 1
            if not self.is_ours:
                unhold(self.ref)
        return self.is_ours

    def __exit__(self, *args):
        if self.is_ours:
            self.is_ours = False
            unhold(self.ref)


cdef object lock_of(Handle handle):
    """The lock that guards the handle's object."""
    cdef RecursiveLock lock
    if handle.lock is None:
        lock = rlock_class.__new__(rlock_class)
        lock.ref = handle.ref
        lock.bind()
        handle.lock = lock
    return handle.lock


cdef class Guarded(Handle):
    """A value or an array: an object with a recursive lock, whose manners it has."""

    def get_lock(self):
        """The recursive lock that guards it."""
        return self.lock if self.lock is not None else lock_of(self)

    def acquire(self, block=True, timeout=None):
        """True once the lock is held by this thread (again), False when `timeout` seconds went by."""
        if block is True and timeout is None and hold_now(self.ref):
            return True
        return hold(self.ref, deadline_asked(block, timeout), 0) == 1

    def release(self):
        """AssertionError when this thread does not hold it."""
        unhold(self.ref)

    def __enter__(self):
        if not hold_now(self.ref):
            hold(self.ref, -1, 0)
        return True

    def __exit__(self, *args):
        unhold(self.ref)


cdef inline int take(Ref ref, int64_t deadline) except -1:
    """Takes the token: 1, or 0 when the time ran out."""
    cdef fs_self me
    cdef fs_lock *lock = &ref.o.lock
    cdef int r = FS_OK
    if ref.closed[0]:
        check_open(ref)
    if fs_me(ref.heap.h, &me) != FS_OK:
        whoami(ref.heap.h, ref.heap, &me)
    if not fs_cas_u32(&lock.word, 0, ref.heap.h.process_id):
        r = wait_for_lock(ref, lock, &me, True, deadline)
        if r == -1:
            return 0
    lock.hold = me.id | (FS_HOLD_ABANDONED if r == FS_TAKEN_OVER else 0)
    return 1


cdef inline int give(Ref ref) except -1:
    cdef fs_lock *lock = &ref.o.lock
    if ref.closed[0]:
        check_open(ref)
    if not fs_load_u32(&lock.word) & FS_LOCK_OWNER:
        raise ValueError("semaphore or lock released too many times")
    lock.hold = 0
    fs_leave_slow(lock)
    return 0


@cython.final
cdef class TokenTurnstile:
    """The two ends of `with lock:` for a plain lock."""
    cdef Ref ref

    def enter(self):
        take(self.ref, -1)
        return True

    def exit(self, kind=None, value=None, traceback=None, /):
        give(self.ref)


cdef class Mutex(Gateway):
    """A plain lock: a token that any process may give back. Its owner is a process, so a thread may end without losing it."""

    def __init__(self, *, gate=None):
        self.ref = new_ref(heap_of(gate), sizeof(fs_object), FS_MUTEX, gate_ref(gate))
        self.bind()

    cdef int bind(self) except -1:
        cdef TokenTurnstile t = TokenTurnstile.__new__(TokenTurnstile)
        t.ref = self.ref
        self.enter_ = t.enter
        self.exit_ = t.exit
        return 0

    def acquire(self, block=True, timeout=None):
        """True once this process holds it, False when `timeout` seconds went by."""
        return take(self.ref, -1 if block is True and timeout is None else deadline_asked(block, timeout)) == 1

    def release(self):
        """Any thread of any process may release it; ValueError when nobody holds it."""
        give(self.ref)

    @property
    def abandoned(self):
        """True while held by a process that took it over from a dead one."""
        cdef fs_lock *lock = &self.ref.o.lock
        return bool(fs_load_u32(&lock.word) & FS_LOCK_OWNER == self.ref.heap.h.process_id and lock.hold & FS_HOLD_ABANDONED)

    def _state(self):
        """'mine', 'thread', 'process', or None when free."""
        cdef fs_self me
        whoami(self.ref.heap.h, self.ref.heap, &me)
        cdef uint32_t owner = fs_load_u32(&self.ref.o.lock.word) & FS_LOCK_OWNER
        if not owner:
            return None
        if owner != self.ref.heap.h.process_id:
            return "process"
        return "mine" if self.ref.o.lock.hold & FS_HOLD_COUNT == me.id else "thread"

    def _held(self):
        """1 when this thread holds it, else 0."""
        cdef fs_self me
        whoami(self.ref.heap.h, self.ref.heap, &me)
        cdef fs_lock *lock = &self.ref.o.lock
        cdef bint ours = fs_load_u32(&lock.word) & FS_LOCK_OWNER == self.ref.heap.h.process_id
        return int(ours and lock.hold & FS_HOLD_COUNT == me.id)
