"""The border between Python and the C layer: return codes become exceptions, offsets become handles.

An operation is tried with the interpreter lock held. When a shared lock is held by another (FS_BUSY), nothing was done: it
is tried again without the interpreter lock, now sleeping where it must, and a signal brings it back here (FS_INTERRUPTED).
No Python code runs while a shared lock is held, but for a user's own critical section."""

import errno
import functools
import os
import pickle
import signal
import sys
import threading
from multiprocessing import resource_tracker
from types import MethodDescriptorType

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport strerror
from posix.stat cimport fstat, struct_stat
from posix.unistd cimport close

from fastshm._c cimport *

cdef extern from "Python.h":
    ctypedef struct PyMethodDef:
        pass
    ctypedef struct PyMethodDescrObject:
        PyMethodDef *d_method
    ctypedef struct PyTypeObject
    ctypedef object (*newfunc)(PyTypeObject *cls, object args, PyObject *named)
    ctypedef struct PyTypeObject:
        newfunc tp_new
        PyObject *tp_dict
        unsigned long tp_flags
    const unsigned long Py_TPFLAGS_HEAPTYPE
    void PyType_Modified(PyTypeObject *cls)
    object PyDescr_NewMethod(PyTypeObject *cls, PyMethodDef *method)
    int PySys_Audit(const char *event, const char *form, ...) except -1

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030d0000
    #define fs_is_finalizing Py_IsFinalizing
    #else
    #define fs_is_finalizing _Py_IsFinalizing
    #endif
    static const uint64_t fs_always_closed = 1;
    static uint64_t fs_nothing[64]; /* stands for the object of a handle that nobody has made */
    static __thread PyObject *fs_collecting = NULL; /* borrowed: the list that takes the handles being pickled */
    static __thread PyObject *fs_collecting_heap = NULL;
    static __thread void *fs_collecting_since = NULL; /* the Python frame from which it was begun */
    /* A frame that only lives as long as it is run is told from others by its address. */
    static void *fs_frame_now(void) { return PyEval_GetFrame(); }
    typedef struct fs_use {
        void *heap;
        struct fs_use *before;
    } fs_use;
    static __thread fs_use *fs_using = NULL; /* segments in which this thread is about to make a handle, or looks around */
    """
    bint fs_is_finalizing()
    const uint64_t fs_always_closed
    uint64_t fs_nothing[64]
    PyObject *fs_collecting
    PyObject *fs_collecting_heap
    void *fs_collecting_since
    void *fs_frame_now()
    ctypedef struct Use "fs_use":
        void *heap
        Use *before
    Use *fs_using

cdef extern from "membership.h" nogil:
    fs_heap fs_nobody
    int fs_member_new(const char *path, uint64_t size, bint is_nameless, fs_heap **out)
    int fs_member_create(fs_heap *heap, const char *path, uint64_t size, uint64_t device, uint64_t inode)
    int fs_member_create_nameless(fs_heap *heap, uint64_t size)
    int fs_member_appear(fs_heap *heap, const char *path)
    int fs_member_open(fs_heap *heap, const char *path, int *why)
    void fs_member_refuse(fs_heap *heap, const char *path)
    bint fs_member_part(fs_heap *heap)
    bint fs_member_leave(fs_heap *heap, uint64_t device, uint64_t inode, bint is_maker)
    fs_heap *fs_member_next(int *at)


class CorruptedError(RuntimeError):
    """Shared memory does not hold what it should: a damaged, foreign or too new segment. Nothing of it was used."""


# --- errors and retries -------------------------------------------------------------------------------------------------------

cdef int no_memory(Heap heap) except -1:
    cdef bint is_mapped = heap is not None and heap.h.fd >= 0
    f = os.fstatvfs(heap.h.fd) if is_mapped else os.statvfs("/dev/shm")
    used = f"; {heap.name} takes {heap.h.super.committed:,} of at most {heap.h.size:,}" if is_mapped else ""
    raise MemoryError(
        f"not enough shared memory: {f.f_bavail * f.f_frsize:,} bytes are free in /dev/shm{used}; ask for less, free some, "
        "enlarge the tmpfs, or raise the limits of file size (ulimit -f) and address space (ulimit -v)"
    )


cdef int fail(int code, Heap heap) except -1:
    """Raises what a negative return code means."""
    return fail_with(code, heap, c_errno)


cdef int fail_with(int code, Heap heap, int e) except -1:
    if code == FS_NOMEM:
        no_memory(heap)
    if code == FS_PRIVATE_NOMEM:
        raise MemoryError("no memory left for this process; free some, or raise its limit (ulimit -v)")
    if code == FS_CORRUPT:
        raise CorruptedError(f"shared memory segment {heap.name if heap is not None else ''} is damaged")
    if code == FS_GONE:
        raise ReferenceError(
            "the shared object no longer exists: its last holder let go of it, or its processes have all ended"
        )
    if code == FS_RANGE:
        raise IndexError("invalid index")
    if code == FS_OVERFLOW:
        raise OverflowError("all process and thread numbers of this segment are used up; start a new one")
    if code == FS_SYSTEM and heap is not None and heap.name:
        raise OSError(e, strerror(e).decode(), f"/dev/shm/{heap.name}")
    if code == FS_SYSTEM:
        raise OSError(e, strerror(e).decode())
    raise SystemError(f"unexpected return code {code}")


cdef int retry(int code, fs_self *me) except -1:
    """After FS_BUSY or FS_INTERRUPTED: lets signals through and makes the next try a waiting one."""
    let_signals_in(me)
    me.wait = 1
    return 0


cdef int let_signals_in(fs_self *me) except -1:
    """Lets the handlers of signals run. They may fork: who comes back from them asks anew who it is."""
    cdef int r, wait = me.wait
    cdef Heap heap
    PyErr_CheckSignals()
    r = fs_me(me.heap, me)
    me.wait = wait
    if r != FS_OK:
        for heap in list(known_heaps.values()):
            if heap.h == me.heap:
                shut_error(heap)
        fail(r, None)
    return 0


cdef int shut_error(Heap heap) except -1:
    """Raises why this process has no part in the segment, if that is so."""
    if heap.h.shut == FS_SHUT_LEFT:
        raise ReferenceError("this process has let go of its shared objects: it is at its end")
    if heap.h.shut and heap.h.shut_code == FS_SYSTEM:
        raise OSError(heap.h.shut_errno, f"no part in {heap.name} could be made for this process when it was forked: "
                                         f"{strerror(heap.h.shut_errno).decode()}")
    if heap.h.shut and heap.h.shut_code == FS_GONE:
        raise ReferenceError(
            f"the process that forked this one ended, or waited too long, before this one had a part in {heap.name}, and it "
            "cannot open the segment itself, so it shares nothing there; fork again, or before privileges are dropped"
        )
    if heap.h.shut:
        raise MemoryError(
            f"there was no memory for this process's part in {heap.name} when it was forked, so it shares nothing there; "
            "free some, or enlarge the tmpfs on /dev/shm, and fork again"
        )
    return 0


cdef int closed_error(Ref ref) except -1:
    if ref is no_ref:
        raise TypeError("this handle was not made by fastshm, so there is nothing behind it")
    shut_error(ref.heap)
    raise ConnectionRefusedError(errno.ECONNREFUSED, "the manager of this object has been shut down")


cdef int check_open(Ref ref) except -1:
    if ref.closed[0]:
        closed_error(ref)
    return 0


cdef int whoami(fs_heap *h, Heap heap, fs_self *me) except -1:
    cdef int r = fs_me(h, me)
    if r != FS_OK:
        shut_error(heap)
        fail(r, heap)
    return 0


cdef int identify(fs_heap *heap, uint32_t *out) noexcept nogil:
    return fs_identify(heap, out)


# --- heaps --------------------------------------------------------------------------------------------------------------------

cdef Heap current_heap = None
cdef bint current_is_early = False
cdef bint is_made_ahead = False
cdef dict known_heaps = {}  # heap.py's: segments by name; one that refers to nothing is about to be joined
cdef object make_default = None
cdef object find_heap = None
cdef object forget_names = None
cdef dict made_by = None
cdef list untold = []  # names that the resource tracker is to forget
cdef object learn_refusals = None

cdef dict WHY = {
    FS_WHY_OWNER: "it belongs to another user",
    FS_WHY_MODE: "others than its owner may open it",
    FS_WHY_KIND: "it is not a regular file",
    FS_WHY_SHORT: "it is too short",
    FS_WHY_MAGIC: "it was not made by fastshm, or its making was cut short",
    FS_WHY_STAMP: "it was made by another version of fastshm or for another word size",
    FS_WHY_SIZE: "its size is not the one it was made with",
    FS_WHY_PAGES: "it claims more memory than it has",
}


cdef class Heap:
    """One mapped segment. Not to be made directly: see fastshm.heap."""

    def __cinit__(self):
        self.h = &fs_nobody
        self.pending = []

    @staticmethod
    def create(str name, bytes path, uint64_t size, uint64_t tracker_device, uint64_t tracker_inode, dict into):
        """Makes the file, exclusively, and joins it. Then it is in `into`, whatever interrupts the caller; else the file is
        gone."""
        cdef const char *place = PyBytes_AS_STRING(path)
        cdef Heap heap = named_heap(name, into)  # first, so that no sweep of this process takes the file for a dead one's
        cdef fs_heap *part = heap.opened(place, size, False, into)
        cdef int r, e
        with nogil:
            r = fs_member_create(part, place, size, tracker_device, tracker_inode)
        if r == FS_OK:
            heap.h = part
            return heap
        e = c_errno
        into.pop(name, None)
        fail_with(r, heap, e)

    @staticmethod
    def create_nameless(str name, bytes folder, uint64_t size, dict into):
        """One whose file gets its name by appear(): until then it goes with its users, however they end. It is not left before
        this process ends."""
        cdef Heap heap = named_heap(name, into)
        cdef fs_heap *part = heap.opened(PyBytes_AS_STRING(folder), size, True, into)
        cdef int r, e
        with nogil:
            r = fs_member_create_nameless(part, size)
        if r == FS_OK:
            heap.stays = True
            heap.h = part
            return heap
        e = c_errno
        into.pop(name, None)
        fail_with(r, heap, e)

    def appear(self, bytes path):
        """Its name leads to it from now on; FileExistsError when it leads elsewhere."""
        cdef const char *place = PyBytes_AS_STRING(path)
        cdef int r, e
        self.check_joined()
        with nogil:
            r = fs_member_appear(self.h, place)
            e = c_errno
        if r != FS_OK:
            fail_with(r, self, e)

    def track(self, uint64_t device, uint64_t inode):
        """The resource tracker behind that pipe knows the name."""
        self.check_joined()
        fs_store_release(&self.h.super.tracker_device, device)
        fs_store_release(&self.h.super.tracker_inode, inode)

    @staticmethod
    def attach(str name, bytes path, dict into):
        """Opens an existing segment, checks it and joins it. Into `into`, as with create()."""
        cdef const char *place = PyBytes_AS_STRING(path)
        cdef Heap heap = named_heap(name, into)  # first, as nothing may fail once it is joined
        cdef fs_heap *part = heap.opened(place, 0, False, into)
        cdef int why = 0, r, e
        with nogil:
            r = fs_member_open(part, place, &why)
        if r == FS_OK:
            heap.h = part
            return heap
        e = c_errno
        into.pop(name, None)
        if why in (FS_WHY_OWNER, FS_WHY_MODE):
            raise PermissionError(errno.EACCES, f"shared memory segment {name} is refused: {WHY[why]}")
        if why:
            raise CorruptedError(f"shared memory segment {name} is refused: {WHY[why]}")
        if r == FS_SYSTEM and e == errno.ENOMEM:
            raise MemoryError(f"no address space to map {name}: raise the limit (ulimit -v)")
        if r == FS_GONE:
            raise FileNotFoundError(errno.ENOENT, f"shared memory segment {name} has just been removed by its last user")
        fail_with(r, heap, e)

    cdef fs_heap *opened(self, const char *place, uint64_t size, bint is_nameless, dict into) except NULL:
        """Its file, open or, with a size, made, but not looked at yet. One without a name is made in the folder `place`."""
        cdef fs_heap *part = NULL
        cdef int r = FS_SYSTEM, e
        if fs_identity_start() == FS_OK:
            with nogil:
                r = fs_member_new(place, size, is_nameless, &part)
        e = c_errno
        try:
            if r == FS_OK:
                PySys_Audit("fastshm.map", "O", <PyObject *>self.name)
                return part
            if r == FS_OVERFLOW:
                raise OSError(errno.EMFILE, "too many shared memory segments in one process")
            if r == FS_SYSTEM and e == errno.ENOENT and not size:
                raise FileNotFoundError(
                    e, f"shared memory segment {self.name} is gone: the processes that used it have all ended"
                )
            fail_with(r, self, e)
        except BaseException:
            if r == FS_OK:
                with nogil:
                    fs_member_refuse(part, place)
            into.pop(self.name, None)
            raise

    @property
    def is_left(self):
        """Has this process let go of it while it goes on? Then this object serves no more, and attach() gives another."""
        return self.h == &fs_nobody

    @property
    def is_joined(self):
        """Until part(), unless that found nobody else."""
        return self.h.process != 0

    @property
    def tracker(self):
        """Device and inode of the resource tracker's pipe that knows this segment's name."""
        if self.h == &fs_nobody:
            return 0, 0
        return self.h.super.tracker_device, self.h.super.tracker_inode

    @property
    def file(self):
        """Device and inode: what a name of this segment leads to."""
        return self.h.device, self.h.inode

    @property
    def has_name(self):
        """Is there a name that leads to it still, wherever? False, too, when its descriptor was closed."""
        return fs_has_name(self.h)

    @property
    def is_named(self):
        """False as long as nobody can find it: see create_nameless()."""
        return not self.h.nameless

    def be_found(self):
        """It has a name from here on, so that others can be told of what is in it."""
        if self.h.nameless:
            name_heap(self)

    def disown(self):
        """True for the one process that is to tell the tracker to forget the name while others use the segment."""
        return self.h != &fs_nobody and fs_exchange(&self.h.super.tracker_device, 0) != 0

    def bury(self):
        """Gives back what dead processes held."""
        cdef fs_self me
        cdef int r
        cdef Use use
        if not self.h.process:
            return
        use_begin(self, &use)
        try:
            whoami(self.h, self, &me)
            me.wait = 1
            with nogil:
                r = fs_bury(&me)
            if r == FS_CORRUPT:
                fail(r, self)
        finally:
            use_end(self, &use)

    def check(self):
        """Walks every invariant of the segment, also while others work in it. Returns a census; damage is CorruptedError."""
        cdef Use use
        self.check_joined()
        use_begin(self, &use)
        try:
            return self.checked()
        finally:
            use_end(self, &use)

    cdef object checked(self):
        cdef fs_self me
        cdef fs_census census
        cdef const char *broken = NULL
        cdef int r = FS_BUSY
        self.drain(True)
        whoami(self.h, self, &me)
        while r == FS_BUSY or r == FS_INTERRUPTED:
            retry(r, &me)
            if fs_is_mine(&me, &self.h.super.reaper):
                raise CorruptedError(f"shared memory segment {self.name} is damaged: H0: a lock names the one who checks")
            with nogil:
                r = fs_check(&me, &census, &broken)
        if r == FS_CORRUPT and broken != NULL:
            raise CorruptedError(f"shared memory segment {self.name} is damaged: {(<bytes>broken).decode()}")
        if r != FS_OK:
            fail(r, self)
        return census

    cdef int check_joined(self) except -1:
        if not self.h.process:
            shut_error(self)
            fail(FS_GONE, self)
        return 0

    def begin_store(self, uint64_t serial):
        """Before anything is made in it. Serial numbers count from there, so that a handle on a store that had this name before
        does not fit."""
        self.check_joined()
        fs_store_release(&self.h.super.serial, serial)

    def set_root(self, Handle table not None):
        """Makes it the root, unless there is one."""
        cdef fs_self me
        cdef int r = FS_INTERRUPTED
        cdef uint64_t offset = offset_of(table.ref)
        whoami(self.h, self, &me)
        me.wait = 1
        while r == FS_INTERRUPTED:
            let_signals_in(&me)
            with nogil:
                r = fs_ref_first(&me, offset, &self.h.super.root)
        if r != FS_OK and r != FS_EXISTS:
            fail(r, self)

    def root(self, type cls not None):
        """A new handle on the store's table, None where there is none. ReferenceError when this process has left it."""
        cdef uint64_t offset
        cdef Use use
        self.check_joined()
        offset = fs_load_acquire(&self.h.super.root)
        if not offset:
            return None
        if fs_block_at(self.h, offset) == NULL:
            fail(FS_CORRUPT, self)
        use_begin(self, &use)
        try:
            return make_handle(cls, open_ref(self, offset, (<fs_object *>(self.h.base + offset)).serial))
        finally:
            use_end(self, &use)

    @property
    def is_kept(self):
        """Does the name stay when the last user leaves?"""
        self.check_joined()
        return self.h.super.kept != 0

    def keep(self, bint kept):
        self.check_joined()
        self.h.super.kept = kept

    def rename(self, str name, bytes path):
        """The file has another name now, and it is found by that. Nothing, when this process has left it meanwhile."""
        cdef str former = self.name
        if known_heaps.get(former) is self and self.h != &fs_nobody:
            known_heaps[name] = self
            del known_heaps[former]
            self.name = name
            fs_segment_named(self.h, PyBytes_AS_STRING(path))

    cpdef bint takes_pickles(self) except -1:
        """To be asked before each byte of it is unpickled, and before anything is pickled into it."""
        if self.undecided and learn_refusals():
            self.undecided = False
        return self.allow_pickle

    def refuse_pickles(self):
        """From now on no byte of this segment is unpickled in this process, and nothing is pickled into it."""
        self.allow_pickle = self.undecided = False

    def part(self):
        """At this process's end: lets go of everything, but the mapping stays. True when no other process uses the segment:
        then its name is to be removed."""
        cdef fs_heap *part = self.h
        cdef bint is_last = False
        if part.process:
            self.users += 1
            with nogil:
                is_last = fs_member_part(part)
            self.users -= 1
        return is_last

    def leave(self, uint64_t tracker_device, uint64_t tracker_inode, bint is_maker):
        """Lets go of the segment, unless something of this process is in it again; the last user removes the name. True when
        the tracker, whose pipe this is, is to be told to forget the name."""
        cdef fs_heap *part = self.h
        cdef bint is_told
        if not is_unused(self) or known_heaps.get(self.name) is not self:
            return False
        del known_heaps[self.name]  # from here on nobody finds it, and nobody else leaves it
        self.h = &fs_nobody
        with nogil:
            is_told = fs_member_leave(part, tracker_device, tracker_inode, is_maker)
        return is_told

    def is_alive(self, uint32_t identity):
        return bool(fs_alive(self.h, identity))

    cdef int drain(self, bint wait) except -1:
        """Handles whose end found the heap's lock held; without `wait`, only while it is free."""
        cdef fs_self me
        cdef uint64_t slot
        cdef uint64_t *place
        cdef int r
        while self.pending and self.h.process:
            slot = self.pending.pop()
            r = fs_me(self.h, &me)
            if r == FS_OK:
                place = fs_slot_word(self.h, slot)
                r = fs_drop(&me, place)
            if r == FS_BUSY and wait:
                me.wait = 1
                with nogil:
                    r = fs_drop(&me, place)
            if r != FS_OK:
                self.pending.append(slot)
                return 0
            fs_slot_unuse(self.h, slot)
        return 0


cdef Heap named_heap(str name, dict into):
    """For a segment about to be joined. Until then it refers to nothing."""
    cdef Heap heap = Heap.__new__(Heap)
    heap.name = name
    heap.allow_pickle = heap.undecided = True
    into[name] = heap
    return heap


cdef inline void use_begin(Heap heap, Use *use) noexcept:
    """Until use_end() this process does not leave the segment, although it may have no handle in it."""
    global fs_using
    heap.users += 1
    use.heap = <void *>heap
    use.before = fs_using
    fs_using = use


cdef int use_end(Heap heap, Use *use) except -1:
    global fs_using
    fs_using = use.before
    heap.users -= 1
    if heap.is_to_be_left and not heap.users:
        heap.is_to_be_left = False
        leave_if_unused(heap)
    return 0


cdef bint is_unused(Heap heap) noexcept:
    if heap.stays or heap.users or heap.pending or not heap.h.process:
        return False
    return heap.h.free_count == FS_HANDLES_INLINE + heap.h.chunk_count * FS_HANDLES_CHUNK


cdef int leave_if_unused(Heap heap) except -1:
    """A segment of others, in which this process holds nothing any more: its name goes with its last user, so do not be that
    user."""
    if heap is current_heap or fs_is_finalizing():  # then heap.py has left them all, and its names may be gone
        return 0
    if heap.users:
        heap.is_to_be_left = True
    elif is_unused(heap) and known_heaps.get(heap.name) is heap:
        try:
            leave_now(heap)
        except MemoryError:  # then after the next use, or at exit
            heap.is_to_be_left = True
    return 0


cdef int leave_now(Heap heap) except -1:
    """Mostly without Python code, as nobody is told what a signal's handler raises at a handle's end: it comes out later."""
    cdef str name = heap.name
    device, inode = tracker_pipe()
    if heap.leave(device, inode, made_by.get(name) == os.getpid()):
        untold.append(name)
    if heap.h == &fs_nobody:
        made_by.pop(name, None)
    if untold:
        try:
            forget_names(untold)
        except MemoryError:
            pass  # with the next one, or at exit
        except BaseException as error:
            raise_later(error)
    return 0


def tell_tracker():
    """Of the segments that were left, as far as it could not be told at once."""
    if untold:
        forget_names(untold)


def leave_unless_used(str name):
    """Leaves the segment of that name if this process has no handle in it: its opening came to nothing."""
    cdef Heap heap = known_heaps.get(name)
    if heap is not None and heap.h != &fs_nobody:
        leave_if_unused(heap)


def tracker_pipe():
    """Device and inode of the pipe that leads to this process's resource tracker: one a family."""
    cdef struct_stat info
    fd = getattr(resource_tracker._resource_tracker, "_fd", None)
    if fd is None or fstat(fd, &info) != 0:
        return 0, 0
    return info.st_dev, info.st_ino


@cython.final
cdef class Descriptor:
    """A file descriptor that is closed with this object: what a signal's handler raises comes before it is open or when it has
    an owner."""
    cdef readonly int number

    def __cinit__(self):
        self.number = -1

    def __init__(self, opens, *args):
        self.number = opens(*args)

    def close(self):
        cdef int fd = self.number
        self.number = -1
        if fd >= 0:
            close(fd)

    def __dealloc__(self):
        if self.number >= 0:
            close(self.number)


def refuse_all(bint refused):
    """While this process lets go of everything, and when it has, its handles raise."""
    cdef Heap heap
    for heap in list(known_heaps.values()):
        if heap.h != &fs_nobody and heap.h.shut != FS_SHUT_FORKED:
            fs_shut(heap.h, FS_SHUT_LEFT if refused else 0)


def inspect(int fd):
    """None when the file is a whole segment that may be used, else the reason."""
    cdef uint64_t size
    cdef int why = fs_segment_inspect(fd, &size)
    return WHY[why] if why else None


def is_abandoned(int fd):
    """True when no process uses the segment behind this fresh descriptor; from then on it keeps everybody out until closed."""
    return fs_claim_all(fd, 0) == 0


def is_kept(int fd):
    """True for a store whose name stays without users."""
    return fs_segment_is_kept(fd) != 0


def is_unclaimed(int fd):
    """True when no process uses the segment behind this fresh descriptor at this instant; nobody is kept out."""
    return not fs_probe_all(fd)


def set_made_ahead(bint made):
    """Whether the segment that the children of this process inherit is there, whoever makes something in it first."""
    global is_made_ahead
    is_made_ahead = made


def set_hooks(dict known, dict makers, default, find, forget, learn, ahead, name):
    """The segments by their names, who made them, and the functions that make the default heap, that find a heap by its name,
    that have the tracker forget a list of names and empty it, that call refuse_pickles() as this process was told (False when
    it may yet be told), that make a segment at a fork, and that give a heap its name."""
    global known_heaps, made_by, make_default, find_heap, forget_names, learn_refusals, make_ahead, name_heap
    known_heaps = known
    made_by = makers
    make_default = default
    find_heap = find
    forget_names = forget
    learn_refusals = learn
    make_ahead = ahead
    name_heap = name


def set_default(Heap heap, bint early=False):
    """Where new objects are made: from now on this process does not leave it. While it is an early one, the function that makes
    the default heap is asked each time. False when another thread has left it already."""
    global current_heap, current_is_early
    if heap.h == &fs_nobody:
        return False
    current_heap = heap
    current_is_early = early
    return True


cdef Heap default_heap():
    if current_heap is None or current_is_early:
        make_default()
    return current_heap


# --- fork ---------------------------------------------------------------------------------------------------------------------

cdef extern from "Python.h":
    int Py_AddPendingCall(int (*function)(void *) except -1, void *argument)

cdef object make_ahead = None
cdef object name_heap = None
cdef object raised_meanwhile = None  # where nobody would have been told


cdef int raise_it(void *nothing) except -1 with gil:
    global raised_meanwhile
    error, raised_meanwhile = raised_meanwhile, None
    try:
        tell_tracker()
    finally:
        if error is not None:
            raise error
    return 0


cdef int raise_later(object error) except -1:
    """In the main thread, where the handlers of signals run, as soon as it runs Python code again."""
    global raised_meanwhile
    if threading.get_ident() != threading.main_thread().ident:
        raise error
    raised_meanwhile = error
    Py_AddPendingCall(raise_it, NULL)
    return 0


def before_fork():
    """In the thread that is about to fork: the child's part of everything is made ready; fork() does the rest (identity.h).

    Nobody is told what is raised in here, so what a signal's handler has raised is kept until the fork is done."""
    global raised_meanwhile
    cdef Heap heap
    try:
        if current_heap is None and not is_made_ahead:
            make_ahead()
        for heap in list(known_heaps.values()):
            heap.drain(True)
    except BaseException as error:
        if threading.get_ident() != threading.main_thread().ident:
            raise
        raised_meanwhile = error
    finally:
        with nogil:
            fs_fork_before()


def after_fork_in_parent():
    if raised_meanwhile is not None:
        Py_AddPendingCall(raise_it, NULL)


def after_fork_in_child():
    """What other threads of the parent were about to join, to use or to leave, nobody does here."""
    cdef Heap heap
    cdef fs_heap *part
    cdef Use *use = fs_using
    cdef int at = 0, users
    cdef bint is_known
    cdef list left = []
    global raised_meanwhile
    raised_meanwhile = None
    untold.clear()  # the parent tells
    for name, heap in list(known_heaps.items()):
        if heap.h == &fs_nobody:
            del known_heaps[name]
            continue
        users = 0
        use = fs_using
        while use != NULL:
            users += use.heap == <void *>heap
            use = use.before
        if users != heap.users:
            heap.users = users
            left.append(heap)
    while True:
        part = fs_member_next(&at)
        if part == NULL:
            break
        is_known = False
        for heap in known_heaps.values():
            is_known |= heap.h == part
        if not is_known:
            fs_member_leave(part, 0, 0, False)
    for heap in left:
        leave_if_unused(heap)


# --- references ---------------------------------------------------------------------------------------------------------------

@cython.no_gc
cdef class Ref:
    def __dealloc__(self):
        if self.o != NULL:
            self.o = NULL
            release_slot(self.heap, self.slot)


@cython.no_gc
@cython.final
cdef class SwitchedRef(Ref):
    def __dealloc__(self):
        fs_switch_end(&self.switch)


cdef uint64_t offset_of(Ref ref) noexcept:
    """0 for a handle that nobody has made."""
    return 0 if ref is no_ref else fs_offset(ref.heap.h, ref.o)


cdef Ref gate_of(Ref ref):
    """What closes the object, None if nothing does."""
    return (<SwitchedRef>ref).gate if type(ref) is SwitchedRef else None


cdef Ref no_ref = Ref.__new__(Ref)  # of a handle that was made without its maker, say by a damaged pickle
no_ref.heap = Heap.__new__(Heap)
no_ref.o = <fs_object *>fs_nothing
no_ref.closed = &fs_always_closed


cdef void release_slot(Heap heap, uint64_t slot) noexcept:
    """Empties a handle slot now, or, when the heap's lock is held, at the next chance."""
    cdef fs_self me
    if heap.h.process == 0 or fs_me(heap.h, &me) != FS_OK:
        return
    if fs_drop(&me, fs_slot_word(heap.h, slot)) == FS_OK:
        fs_slot_unuse(heap.h, slot)
        if heap.pending:
            heap.drain(False)
        if heap.h.super.dying:
            fs_reap(&me)
        if heap is not current_heap:
            leave_if_unused(heap)
    else:
        heap.pending.append(slot)


cdef uint64_t reserve_slot(Heap heap) except? 0xffffffffffffffff:
    if heap.h.free_count == 0:
        more_slots(heap, 1)
    heap.h.free_count -= 1
    return heap.h.free_slots[heap.h.free_count]


cdef enum:
    KEPT_TO_READ = 8  # slots that nothing new gets: what is stored can be read when there is no memory for more of them


cdef uint64_t slot_for_new(Heap heap) except? 0xffffffffffffffff:
    if heap.h.free_count <= KEPT_TO_READ:
        more_slots(heap, KEPT_TO_READ + 1)
    return reserve_slot(heap)


cdef int more_slots(Heap heap, uint64_t count) except -1:
    cdef fs_self me
    cdef int r
    if heap.pending:
        heap.drain(False)
    whoami(heap.h, heap, &me)
    r = fs_slots_reserve(&me, count)
    while r == FS_BUSY or r == FS_INTERRUPTED:
        retry(r, &me)
        with nogil:
            r = fs_heap_enter(&me)
            if r >= 0:
                fs_heap_leave(&me)
        me.wait = 0
        r = fs_slots_reserve(&me, count)
    if r != FS_OK:
        fail(r, heap)
    return 0


@cython.no_gc
@cython.final
cdef class Pin:
    def __dealloc__(self):
        if self.heap is not None:
            release_slot(self.heap, self.slot)


cdef Ref wrap_ref(Heap heap, uint64_t offset, uint64_t slot):
    """The handle on an object that the slot refers to already. When it cannot be made, the slot is given back."""
    cdef fs_block *b = fs_block_at(heap.h, offset)
    cdef Ref ref
    try:
        if b == NULL or not FS_CELL <= b.kind <= FS_LAST_OBJECT:
            fail(FS_CORRUPT, heap)
        ref = SwitchedRef.__new__(SwitchedRef) if fs_load_relaxed(&(<fs_object *>b).gate) else Ref.__new__(Ref)
    except BaseException:
        release_slot(heap, slot)
        raise
    ref.heap = heap
    ref.slot = slot
    ref.o = <fs_object *>(heap.h.base + offset)
    ref.closed = &heap.h.shut
    return ref


cdef int switch_by(Ref ref, Ref gate) except -1:
    if type(ref) is not SwitchedRef:
        fail(FS_CORRUPT, ref.heap)
    cdef SwitchedRef switched = <SwitchedRef>ref
    switched.gate = gate
    fs_switch_set(ref.heap.h, &switched.switch, &ref.closed, &(<fs_cell *>gate.o).value)
    return 0


cdef Ref adopt_ref(Heap heap, uint64_t offset, uint64_t slot):
    """The same, closed when its gate is."""
    cdef uint64_t gate
    cdef Ref ref = wrap_ref(heap, offset, slot)
    if type(ref) is SwitchedRef:
        gate = fs_load_relaxed(&ref.o.gate)
        if ref.o.block.kind == FS_GATE or fs_kind_at(heap.h, gate, FS_GATE, sizeof(fs_cell)) == NULL:
            fail(FS_CORRUPT, heap)
        switch_by(ref, open_ref(heap, gate, (<fs_object *>(heap.h.base + gate)).serial))
    return ref


cdef Ref new_ref(Heap heap, uint64_t size, uint32_t kind, Ref gate):
    """A new object of `size` bytes, all zero, closed when its gate is."""
    cdef fs_self me
    cdef fs_object *o
    cdef uint64_t slot, offset, *word, *place
    cdef int r
    if heap.pending:
        heap.drain(False)
    slot = slot_for_new(heap)
    whoami(heap.h, heap, &me)  # behind what may run code, here and elsewhere: that may have forked
    place = fs_slot_word(heap.h, slot)
    r = fs_object_new(&me, size, kind, place, &o)
    while r == FS_BUSY or r == FS_INTERRUPTED:
        try:
            retry(r, &me)
        except BaseException:
            fs_slot_unuse(heap.h, slot)
            raise
        place = fs_slot_word(heap.h, slot)
        with nogil:
            r = fs_object_new(&me, size, kind, place, &o)
    if r == FS_NOMEM:
        me.wait = 1
        with nogil:
            fs_bury(&me)
            r = fs_object_new(&me, size, kind, place, &o)
    if r != FS_OK:
        fs_slot_unuse(heap.h, slot)
        fail(r, heap)
    if gate is None:
        return wrap_ref(heap, fs_offset(heap.h, o), slot)
    word = &o.gate
    offset = offset_of(gate)
    r = fs_ref_to(&me, offset, word)
    while r == FS_BUSY or r == FS_INTERRUPTED:
        me.wait = 1
        with nogil:
            r = fs_ref_to(&me, offset, word)
    cdef Ref ref = wrap_ref(heap, fs_offset(heap.h, o), slot)
    if r != FS_OK:
        fail(r, heap)
    switch_by(ref, gate)
    return ref


cdef Ref open_ref(Heap heap, uint64_t offset, uint64_t serial):
    """One more handle on an object that is known to exist, or did."""
    cdef fs_self me
    cdef uint64_t slot, *place
    cdef int r
    slot = reserve_slot(heap)
    whoami(heap.h, heap, &me)
    place = fs_slot_word(heap.h, slot)
    r = fs_object_open(&me, offset, serial, place)
    while r == FS_BUSY or r == FS_INTERRUPTED:
        me.wait = 1
        with nogil:
            r = fs_object_open(&me, offset, serial, place)
    if r != FS_OK:
        fs_slot_unuse(heap.h, slot)
        fail(r, heap)
    return adopt_ref(heap, offset, slot)


# --- handles ------------------------------------------------------------------------------------------------------------------

cdef class Handle:
    """Base of everything that lives in shared memory. Pickles at any time and in any direction."""

    def __cinit__(self):
        self.ref = no_ref

    def __init__(self, *args, **kwargs):
        raise TypeError(f"{type(self).__name__!r} objects are not made by their class, but by the functions of fastshm")

    cdef int bind(self) except -1:
        """After self.ref is set: checks the kind of object and looks up what the methods need."""
        return 0

    def __reduce__(self):
        return reopen, handle_state(type(self), self.ref)

    @property
    def _heap(self):
        return self.ref.heap

    @property
    def _address(self):
        """(segment, offset, serial): equal for two handles on one object."""
        return self.ref.heap.name, offset_of(self.ref), self.ref.o.serial


cdef Handle make_handle(type cls, Ref ref):
    cdef Handle handle = (<PyTypeObject *>cls).tp_new(<PyTypeObject *>cls, (), NULL)
    handle.ref = ref
    handle.bind()
    return handle


def own_methods(cls, attributes=None, set_attributes=None):
    """Makes the methods that a class inherits its own, because the interpreter calls those of an object's own class without a
    detour. `attributes` is asked for an object's `__dict__`, `set_attributes` told of a new one."""
    for name in dir(cls):
        method = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
        if type(method) is MethodDescriptorType and method.__objclass__ is not cls and issubclass(method.__objclass__, Handle):
            set_own(cls, name, PyDescr_NewMethod(<PyTypeObject *>cls, (<PyMethodDescrObject *>method).d_method))
    if attributes is not None:
        set_own(cls, "__dict__", property(attributes, set_attributes))
    return cls


cdef int set_own(object cls, str name, object value) except -1:
    if (<PyTypeObject *>cls).tp_flags & Py_TPFLAGS_HEAPTYPE:
        setattr(cls, name, value)
    else:  # an extension's, which is still being made
        (<dict>(<PyTypeObject *>cls).tp_dict)[name] = value
        PyType_Modified(<PyTypeObject *>cls)
    return 0


cdef tuple handle_state(object cls, Ref ref):
    """How a handle travels: with a ticket of its own, or, while a container's value is being pickled, as a number in that
    value."""
    cdef fs_self me
    cdef uint64_t ticket = 0, serial = 0, offset = offset_of(ref)
    cdef int r
    cdef list into
    check_open(ref)
    if fs_collecting != NULL and not is_by_the_way():
        check_may_stay(cls, ref, <Heap>fs_collecting_heap if <object>fs_collecting is not None else None)
        into = <list>fs_collecting
        into.append(ref)
        return cls, None, len(into) - 1, 0, 0, 0
    ref.heap.be_found()
    whoami(ref.heap.h, ref.heap, &me)
    r = fs_ticket_new(&me, offset, &ticket, &serial)
    while r == FS_BUSY or r == FS_INTERRUPTED:
        retry(r, &me)
        with nogil:
            r = fs_ticket_new(&me, offset, &ticket, &serial)
    if r != FS_OK:
        fail(r, ref.heap)
    return cls, ref.heap.name, offset, ref.o.serial, ticket, serial


cdef dict CALLED = {  # the classes of parts by what users know the whole as
    "Dict": "a shared set or namespace",
    "Items": "a shared ctypes object",
    "Records": "a frozen list",
}


cdef int check_may_stay(object cls, Ref ref, Heap heap) except -1:
    """A container owns objects of its own segment alone: what others have in theirs ends with them. Nor does a key, with None
    for a segment, own any."""
    if heap is not None and ref.heap is heap:
        return 0
    name = getattr(cls, "__name__", cls)
    kind = CALLED.get(name) or f"an object of type {name!r}"
    if heap is None:
        raise TypeError(
            f"{kind} cannot be a key, or in one: it equals itself alone, and keys keep no shared objects"
        )
    raise ValueError(
        f"{kind} in {ref.heap.name} cannot be kept by a container in {heap.name}: it would be gone with the last process "
        "of its own segment; make it where the container is, by the same manager (m.list(...), m.Lock() and so on, a "
        "store's also m.Counter(...), m.ShardedCounter(...), m.frozen(...)) or beside the container (fastshm.Value(..., "
        "beside=m.root), fastshm.Array(..., beside=m.root), fastshm.Cache(..., beside=m.root)), or store a plain copy"
    )


cdef Ref ref_from_state(object name, uint64_t offset, uint64_t serial, uint64_t ticket, uint64_t ticket_serial):
    cdef Heap heap
    cdef Use use
    if name is None:
        if fs_collecting == NULL:
            raise pickle.UnpicklingError("a handle inside a container's value can only be unpickled by that container")
        if offset >= <uint64_t>len(<list>fs_collecting):
            raise pickle.UnpicklingError("a handle inside a container's value has a number that the value does not own")
        return (<list>fs_collecting)[offset]
    heap = find_heap(name)
    while heap.h == &fs_nobody:  # another thread has left it since
        heap = find_heap(name)
    use_begin(heap, &use)
    heap.is_to_be_left = heap is not current_heap  # unless a handle is made
    try:
        return ref_from_ticket(heap, offset, serial, ticket, ticket_serial)
    finally:
        use_end(heap, &use)


cdef Ref ref_from_ticket(Heap heap, uint64_t offset, uint64_t serial, uint64_t ticket, uint64_t ticket_serial):
    cdef fs_self me
    cdef uint64_t slot, *place
    cdef int r
    slot = reserve_slot(heap)
    whoami(heap.h, heap, &me)
    place = fs_slot_word(heap.h, slot)
    r = fs_ticket_use(&me, ticket, ticket_serial, offset, place)
    while r == FS_BUSY or r == FS_INTERRUPTED:
        me.wait = 1
        with nogil:
            r = fs_ticket_use(&me, ticket, ticket_serial, offset, place)
    if r == FS_OK:
        return adopt_ref(heap, offset, slot)
    fs_slot_unuse(heap.h, slot)
    if r != FS_GONE:
        fail(r, heap)
    return open_ref(heap, offset, serial)


def reopen(cls, name, uint64_t offset, uint64_t serial, uint64_t ticket, uint64_t ticket_serial):
    """Makes a handle from its pickled form."""
    cdef Ref ref = ref_from_state(name, offset, serial, ticket, ticket_serial)
    if not (isinstance(cls, type) and issubclass(cls, Handle)):
        raise pickle.UnpicklingError(f"{cls!r} is no handle class of fastshm")
    return make_handle(cls, ref)


cdef Collecting start_collecting(list into, Heap heap) noexcept:
    """Until stop_collecting: handles pickled or unpickled by this thread are those of a container's value, or, where `into` is
    None, of a key, which takes none. What the value's own reducers do with other containers nests."""
    global fs_collecting, fs_collecting_heap, fs_collecting_since
    cdef Collecting before = Collecting(fs_collecting, fs_collecting_heap, fs_collecting_since)
    fs_collecting = <PyObject *>into
    fs_collecting_heap = <PyObject *>heap
    fs_collecting_since = fs_frame_now()
    return before


cdef void stop_collecting(Collecting before) noexcept:
    global fs_collecting, fs_collecting_heap, fs_collecting_since
    fs_collecting = <PyObject *>before.into
    fs_collecting_heap = <PyObject *>before.heap
    fs_collecting_since = before.since


cdef bint is_by_the_way() except -1:
    """Is what is being pickled no part of the value or key, but of what a signal's handler is pickling meanwhile?"""
    if fs_frame_now() == fs_collecting_since or threading.get_ident() != threading.main_thread().ident:
        return False
    return runs_handler()


cdef bint runs_handler() except -1:
    """Does this thread run the handler of a signal, called since the collecting was begun?"""
    codes = {code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    frame = sys._getframe()
    while frame is not None and <void *>frame != fs_collecting_since:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


cdef object code_of(object handler):
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not hasattr(handler, "__code__") and not hasattr(handler, "__func__"):
        handler = getattr(type(handler), "__call__", None)
    return getattr(getattr(handler, "__func__", handler), "__code__", None)


def pickled_into():
    """The segment of the container whose value this thread is pickling, or unpickling; None when there is none."""
    if fs_collecting == NULL or <object>fs_collecting is None or is_by_the_way():
        return None
    return <Heap>fs_collecting_heap


cdef class Gate(Handle):
    """A manager's switch: once closed, every object made through the manager refuses service, in all processes."""

    def __init__(self, Heap heap=None):
        self.ref = new_ref(heap if heap is not None else default_heap(), sizeof(fs_cell), FS_GATE, None)

    @property
    def closed(self):
        return bool(fs_load_acquire(&(<fs_cell *>self.ref.o).value))

    def close(self):
        fs_store_release(&(<fs_cell *>self.ref.o).value, 1)


cdef Handle neighbour(object beside):
    if not isinstance(beside, Handle):
        raise TypeError(f"beside is a shared object, such as a store's root (beside=m.root), not a {type(beside).__name__!r}")
    return beside


cdef Ref gate_ref(object beside):
    """What closes a new object: a gate, or what closes the object beside which it is made."""
    if beside is None or isinstance(beside, Heap):
        return None
    return (<Gate>beside).ref if isinstance(beside, Gate) else gate_of(neighbour(beside).ref)


cdef Heap heap_of(object beside):
    """Where a new object is made: where its gate or its neighbour is, else in this process's segment."""
    if beside is None:
        return default_heap()
    return <Heap>beside if isinstance(beside, Heap) else neighbour(beside).ref.heap


# --- for all of them ----------------------------------------------------------------------------------------------------------

cdef int64_t deadline_of(object block, object timeout) except? -2:
    """0: do not wait; -1: for ever; else the monotonic time in ns. OSError for a NaN."""
    cdef double seconds
    if not block:
        return 0
    if timeout is None:
        return -1
    seconds = timeout
    if seconds != seconds:  # as the stdlib's semaphores say it
        raise OSError(errno.EINVAL, "Invalid argument")
    if seconds <= 0:
        return 0
    if seconds > 4e9:
        return -1
    return fs_now() + <int64_t>(seconds * 1e9)


cdef extern from "identity.h" nogil:
    int fs_is_ours(fs_heap *heap, uint32_t identity)


cdef bint is_ours(fs_heap *h, uint32_t identity):
    return fs_is_ours(h, identity)


@cython.final
cdef class Floor:
    """What a call costs: the benchmarks' zero."""

    def nothing(self):
        return None
