"""Typed values and arrays under their lock: ctypes' one-letter codes between Python objects and eight bytes.

An operation is inline up to the point where a lock is held by somebody else; then _core waits for it.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_AsSsize_t
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy

from fastshm._c cimport *
from fastshm._calls cimport check_gate, fs_identify_by, patient, whoami
from fastshm._core cimport (
    Handle, Ref, check_open, deadline_of, default_heap, enter_object, fail, gate_ref, hold, identify, lock_of, make_handle,
    new_ref, retry, unhold,
)
from fastshm._forms cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact, box, operand, unbox, unboxed

fs_identify_by(identify)

cdef extern from "Python.h":
    object PyList_New(Py_ssize_t n)
    void PyList_SET_ITEM(object list, Py_ssize_t i, object o)
    object PyFloat_FromDouble(double d)

cdef dict FORMS = {
    "b": (FS_SIGNED, sizeof(char)), "h": (FS_SIGNED, sizeof(short)), "i": (FS_SIGNED, sizeof(int)),
    "l": (FS_SIGNED, sizeof(long)),
    "B": (FS_UNSIGNED, sizeof(char)), "H": (FS_UNSIGNED, sizeof(short)), "I": (FS_UNSIGNED, sizeof(int)),
    "L": (FS_UNSIGNED, sizeof(long)), "q": (FS_SIGNED, 8), "Q": (FS_UNSIGNED, 8), "f": (FS_FLOAT, 4), "d": (FS_DOUBLE, 8),
    "c": (FS_CHAR, 1), "?": (FS_BOOL, 1), "u": (FS_WIDE, sizeof(wchar_t)), "w": (FS_WIDE, 4),
}
TYPECODES = frozenset(FORMS)  # ctypes' one-letter codes that have a fast form here

cdef extern from "stddef.h":
    ctypedef Py_UCS4 wchar_t


cdef inline int begin(Handle self, fs_object *o, fs_self *me) except -1:
    """The object's lock for one operation; what it returns goes to end()."""
    cdef int r
    if self.ref.switch.closed[0]:
        check_open(self.ref)
    if fs_me(self.ref.h, me) == FS_OK:
        r = fs_enter(me, &o.lock)
        if r == FS_OK or r == FS_NESTED:
            return r
    return enter_object(self.ref, me)


cdef inline int end(fs_object *o, fs_self *me, int entered) noexcept:
    if entered != FS_NESTED:
        fs_settle(&o.lock)
        fs_leave(me, &o.lock)
    return 0


cdef class Cell(Handle):
    """One typed value in one cache line, with its lock."""
    cdef fs_cell *c
    cdef int form
    cdef uint32_t size, code

    def __cinit__(self):
        self.c = <fs_cell *>self.ref.o

    @staticmethod
    def make(type cls, str typecode, initial, gate=None):
        """A new cell of one of TYPECODES; `initial` is a tuple of its value, or empty for zero."""
        cdef int form
        cdef uint32_t size
        cdef uint64_t word = 0
        form, size = FORMS[typecode]
        if initial:
            unbox(form, initial[0], &word)
        cdef Ref ref = new_ref(default_heap(), sizeof(fs_cell), FS_CELL, gate_ref(gate))
        cdef fs_cell *c = <fs_cell *>ref.o
        c.typecode = ord(typecode)
        fs_item_write(&c.value, size, word)
        return make_handle(cls, ref)

    cdef int bind(self) except -1:
        self.c = <fs_cell *>self.ref.o
        self.code = fs_load_u32(&self.c.typecode)
        cdef object known = FORMS.get(chr(self.code)) if self.code < 128 and self.c.o.block.kind == FS_CELL else None
        if known is None:
            fail(FS_CORRUPT, self.ref.heap)
        self.form, self.size = known
        return 0

    @property
    def typecode(self):
        return chr(self.code)

    @property
    def value(self):
        """Read and written as one step; waits while another thread or process holds the lock."""
        return cell_boxed(self, cell_read(self))

    @value.setter
    def value(self, new):
        cdef uint64_t word
        unboxed(self.form, new, &word)
        cell_write(self, word)

    @value.deleter
    def value(self):
        raise AttributeError("can't delete attribute")

    def load(self):
        """The value."""
        return cell_boxed(self, cell_read(self))

    def store(self, new, /):
        """Replaces the value."""
        cdef uint64_t word
        unboxed(self.form, new, &word)
        cell_write(self, word)

    def exchange(self, new, /):
        """Replaces the value and returns the one before, as one step."""
        cdef fs_self me
        cdef uint64_t word, old
        unboxed(self.form, new, &word)
        cdef int entered = begin(self, &self.c.o, &me)
        old = fs_item_read(&self.c.value, self.size)
        fs_item_write(&self.c.value, self.size, word)
        end(&self.c.o, &me, entered)
        return cell_boxed(self, old)

    def compare_exchange(self, expected, desired, /):
        """Replaces the value if its bits are those of `expected`; True if so."""
        cdef fs_self me
        cdef uint64_t was, word
        unboxed(self.form, expected, &was)
        unboxed(self.form, desired, &word)
        cdef int entered = begin(self, &self.c.o, &me)
        cdef bint same = fs_item_read(&self.c.value, self.size) == fs_item_bits(self.size, was)
        if same:
            fs_item_write(&self.c.value, self.size, word)
        end(&self.c.o, &me, entered)
        return same

    def fetch_add(self, n=1, /):
        """Adds n and returns the value before, as one step. Integers wrap around as in C."""
        return cell_fetch(self, FS_PLUS, n)

    def fetch_sub(self, n=1, /):
        """Subtracts n and returns the value before, as one step. Integers wrap around as in C."""
        return cell_fetch(self, FS_MINUS, n)

    def fetch_and(self, n, /):
        """Keeps the bits that n has, too, and returns the value before, as one step. Integers only."""
        return cell_fetch(self, FS_AND, n)

    def fetch_or(self, n, /):
        """Sets the bits of n and returns the value before, as one step. Integers only."""
        return cell_fetch(self, FS_OR, n)

    def fetch_xor(self, n, /):
        """Turns the bits of n over and returns the value before, as one step. Integers only."""
        return cell_fetch(self, FS_XOR, n)

    def fetch_max(self, n, /):
        """Replaces the value by n where that is greater and returns the value before, as one step.

        Of floats, 0.0 is greater than -0.0, and a NaN is as if it were not there: any number replaces it, and it replaces none.
        """
        return cell_fetch(self, FS_MAX, n)

    def fetch_min(self, n, /):
        """Replaces the value by n where that is less and returns the value before, as one step. Floats: see fetch_max."""
        return cell_fetch(self, FS_MIN, n)

    def add(self, n=1, /):
        """Adds n as one step; the fastest way to count."""
        cdef uint64_t word
        operand(self.form, self.code, FS_PLUS, n, &word)
        cell_change(self, word, FS_PLUS)

    def wait(self, old, /, timeout=None):
        """Blocks while the value's bits are those of `old`: True once they are not, False when `timeout` seconds went by.

        Whoever changes the value calls notify_one() or notify_all() afterwards. A change that nobody told of is noticed within
        milliseconds; one that was taken back before this thread looked may not be. What somebody does who holds the value's lock
        counts when he releases it. RuntimeError when this thread holds the lock and would have to wait.
        """
        cdef fs_self me
        cdef uint64_t was, word = 0
        unboxed(self.form, old, &was)
        was = fs_item_bits(self.size, was)
        cdef fs_patience p = fs_patience(patient(timeout), 0)
        whoami(self.ref, &me)
        if fs_cell_look(&me, &self.c.o, 0, self.size, 0, &word) == FS_OK and word != was:
            return True
        cdef int r = FS_INTERRUPTED
        while r == FS_INTERRUPTED:
            PyErr_CheckSignals()
            check_gate(self.ref)
            with nogil:
                r = fs_cell_wait(&me, self.c, self.size, was, &p)
        if r == FS_NESTED:
            raise RuntimeError("this thread holds the value's lock, so nobody else could change it while it waits")
        if r != FS_OK and r != FS_TIMEOUT:
            fail(r, self.ref.heap)
        return r == FS_OK

    def notify_one(self):
        """Wakes one of those who wait(), if there are any, to look at the value. Costs next to nothing when there are none."""
        check_open(self.ref)
        fs_item_notify(&self.c.turn, 1)

    def notify_all(self):
        """Wakes all of those who wait() to look at the value."""
        check_open(self.ref)
        fs_item_notify(&self.c.turn, FS_ALL)

    def get_lock(self):
        """The recursive lock that guards the value."""
        return self.lock if self.lock is not None else lock_of(self)

    def acquire(self, block=True, timeout=None):
        return hold(self.ref, deadline_of(block, timeout), 0) == 1

    def release(self):
        unhold(self.ref)

    def __enter__(self):
        hold(self.ref, -1, 0)
        return True

    def __exit__(self, *args):
        unhold(self.ref)

    def __getbuffer__(self, Py_buffer *view, int flags):
        check_open(self.ref)
        export(self, view, flags, &self.c.value, self.size, 1, self.typecode)

    def __releasebuffer__(self, Py_buffer *view):
        PyMem_Free(view.internal)


cdef inline object cell_boxed(Cell self, uint64_t word):
    return box(self.form, self.size, word)


cdef inline uint64_t cell_read(Cell self) except? 0xffffffffffffffff:
    cdef fs_self me
    cdef uint64_t version = fs_read_begin(&self.c.o.lock), word
    cdef int entered
    if self.ref.switch.closed[0]:
        check_open(self.ref)
    if not version & 1:
        word = fs_item_read(&self.c.value, self.size)
        if fs_read_valid(&self.c.o.lock, version):
            return word
    entered = begin(self, &self.c.o, &me)
    word = fs_item_read(&self.c.value, self.size)
    end(&self.c.o, &me, entered)
    return word


cdef inline int cell_write(Cell self, uint64_t word) except -1:
    cdef fs_self me
    cdef int entered = begin(self, &self.c.o, &me)
    fs_item_write(&self.c.value, self.size, word)
    end(&self.c.o, &me, entered)
    return 0


cdef inline uint64_t cell_change(Cell self, uint64_t word, int what) except? 0xffffffffffffffff:
    """What the value was."""
    cdef fs_self me
    cdef int entered = begin(self, &self.c.o, &me)
    cdef uint64_t old = fs_item_change(&self.c.value, self.form, self.size, what, word)
    end(&self.c.o, &me, entered)
    return old


cdef inline object cell_fetch(Cell self, int what, object n):
    cdef uint64_t word
    operand(self.form, self.code, what, n, &word)
    return box(self.form, self.size, cell_change(self, word, what))


cdef struct Exported:
    Py_ssize_t shape
    Py_ssize_t stride
    char format[4]


cdef int export(object owner, Py_buffer *view, int flags, void *p, uint32_t size, uint64_t count, str typecode) except -1:
    cdef Exported *e = <Exported *>PyMem_Malloc(sizeof(Exported))
    cdef bytes code
    if e == NULL:
        raise MemoryError()
    code = (typecode if typecode in FORMS else "B").replace("u", "w").encode()
    e.shape = count if typecode in FORMS else count * size
    e.stride = size if typecode in FORMS else 1
    snprintf(e.format, 4, "%s", PyBytes_AS_STRING(code))
    view.buf = p
    view.obj = owner
    view.len = count * size
    view.itemsize = e.stride
    view.readonly = 0
    view.ndim = 1
    view.format = e.format if flags & PyBUF_FORMAT else NULL
    view.shape = &e.shape if flags & PyBUF_ND else NULL
    view.strides = &e.stride if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
    view.suboffsets = NULL
    view.internal = e
    return 0


# --- arrays -------------------------------------------------------------------------------------------------------------------

cdef class Items(Handle):
    """A contiguous run of items of one size, with its lock. Items of a code in TYPECODES are read and written as such; others
    (structures and the like, code '\\0') are bytes, for ctypes to look at through the buffer."""
    cdef fs_array *a
    cdef char *p
    cdef readonly int form
    cdef readonly uint32_t itemsize
    cdef uint64_t count
    cdef uint32_t code

    def __cinit__(self):
        self.a = <fs_array *>self.ref.o
        self.itemsize = 1

    @staticmethod
    def make(type cls, str typecode, uint64_t count, uint32_t itemsize, gate=None):
        """`count` zero items. `typecode` is one of TYPECODES, or '\\0' for items of `itemsize` bytes of any kind."""
        if typecode in FORMS:
            itemsize = FORMS[typecode][1]
        if itemsize == 0 or count > (<uint64_t>1 << 62) // itemsize:
            raise MemoryError("array too large")
        cdef Ref ref = new_ref(default_heap(), FS_ARRAY_DATA + count * itemsize, FS_ARRAY, gate_ref(gate))
        cdef fs_array *a = <fs_array *>ref.o
        a.data = ref.offset + FS_ARRAY_DATA
        a.count = count
        a.itemsize = itemsize
        a.typecode = ord(typecode)
        return make_handle(cls, ref)

    cdef int bind(self) except -1:
        cdef fs_array *a = <fs_array *>fs_kind_at(self.ref.h, self.ref.offset, FS_ARRAY, FS_ARRAY_DATA)
        cdef object known
        cdef uint64_t count, size
        cdef uint32_t code
        if a == NULL:
            fail(FS_CORRUPT, self.ref.heap)
        count, size, code = fs_load_relaxed(&a.count), fs_load_u32(&a.itemsize), fs_load_u32(&a.typecode)
        if size == 0 or count > (fs_room(self.ref.h, &a.o.block) - FS_ARRAY_DATA) // size or code > 127:
            fail(FS_CORRUPT, self.ref.heap)
        known = FORMS.get(chr(code)) if code else (FS_BYTES_ONLY, size)
        if known is None or known[1] != size:
            fail(FS_CORRUPT, self.ref.heap)
        self.form, self.code = known[0], code
        self.itemsize = <uint32_t>size
        self.count = count
        self.a = a
        self.p = <char *>a + FS_ARRAY_DATA
        return 0

    @property
    def typecode(self):
        return chr(self.code)

    def __len__(self):
        return self.count

    cdef int wait(self, int r, fs_self *me) except -1:
        while r == FS_BUSY or r == FS_INTERRUPTED:
            retry(r, me)
            with nogil:
                r = fs_array_enter(me, self.a)
        if r < 0:
            fail(r, self.ref.heap)
        return r

    def get_item(self, i):
        return box(self.form, self.itemsize, array_read(self, array_item(self, i)))

    def __getitem__(self, i):
        if isinstance(i, slice):
            return self.get_slice(i)
        return box(self.form, self.itemsize, array_read(self, array_item(self, i)))

    cdef object get_slice(self, slice part):
        cdef Py_ssize_t start, stop, step
        start, stop, step = part.indices(self.count)
        return self.listed(self.copied(start, stop, step), len(range(start, stop, step)))

    cdef bytes copied(self, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t step):
        """The bytes of a slice's items, all of one instant."""
        cdef fs_self me
        cdef Py_ssize_t n = len(range(start, stop, step)), k
        cdef uint32_t size = self.itemsize
        cdef bytes out = PyBytes_FromStringAndSize(NULL, n * size)
        cdef char *to = PyBytes_AS_STRING(out)
        cdef int entered = array_enter(self, &me)
        if step == 1:
            memcpy(to, self.p + start * size, n * size)
        else:
            for k in range(n):
                memcpy(to + k * size, self.p + (start + k * step) * size, size)
        fs_array_leave(&me, &self.a.o, entered)
        return out

    cdef object listed(self, bytes raw, Py_ssize_t n):
        cdef char *p = PyBytes_AS_STRING(raw)
        cdef uint32_t size = self.itemsize
        cdef Py_ssize_t k
        cdef uint64_t word
        cdef object item
        if self.form == FS_CHAR:
            return raw
        cdef object out = PyList_New(n)
        for k in range(n):
            if self.form == FS_DOUBLE:
                item = PyFloat_FromDouble((<double *>p)[k])
            else:
                word = 0
                memcpy(&word, p + k * size, size)
                item = box(self.form, size, word)
            Py_INCREF(item)
            PyList_SET_ITEM(out, k, item)
        return "".join(out) if self.form == FS_WIDE else out

    def __setitem__(self, i, value):
        if isinstance(i, slice):
            self.write_slice(i, value)
        else:
            self.set_item(i, value)

    def __delitem__(self, i):
        raise AttributeError("__delitem__")

    cpdef set_item(self, i, value):
        cdef uint64_t word
        cdef void *p = array_item(self, i)
        unboxed(self.form, value, &word)
        array_write(self, p, word)

    cdef bytes packed(self, object values, Py_ssize_t n):
        """The bits of n values; nothing shared is touched, so a value of the wrong type spoils nothing."""
        cdef uint32_t size = self.itemsize
        cdef Py_ssize_t k = 0
        cdef uint64_t word
        cdef bytes out
        cdef char *to
        if self.form == FS_CHAR:
            if isinstance(values, (bytes, bytearray)):
                return bytes(values)
            if isinstance(values, str):
                raise TypeError("bytes expected instead of str instance")
        out = PyBytes_FromStringAndSize(NULL, n * size)
        to = PyBytes_AS_STRING(out)
        for value in values:
            if k == n:
                raise ValueError("Can only assign sequence of same size")
            unboxed(self.form, value, &word)
            fs_item_write(to + k * size, size, word)
            k += 1
        if k != n:
            raise ValueError("Can only assign sequence of same size")
        return out

    def write_slice(self, slice where, values):
        """As one change: whoever reads, or dies, meanwhile, it is wholly there or not at all."""
        cdef Py_ssize_t start, stop, step, n
        start, stop, step = where.indices(self.count)
        n = len(range(start, stop, step))
        if len(values) != n:
            raise ValueError("Can only assign sequence of same size")
        cdef bytes raw = self.packed(values, n)
        if step < 0 and n:
            raw = b"".join([raw[k * self.itemsize:(k + 1) * self.itemsize] for k in range(n - 1, -1, -1)])
            start, step = start + (n - 1) * step, -step
        self.write_raw(start, step, n, raw)

    cdef int write_raw(self, uint64_t first, uint64_t step, uint64_t n, bytes raw) except -1:
        cdef fs_self me
        cdef fs_array *a = self.a
        cdef const void *source = PyBytes_AS_STRING(raw)
        cdef int entered = array_enter(self, &me), r
        r = fs_array_write(&me, a, self.itemsize, first, step, n, source)
        fs_array_leave(&me, &self.a.o, entered)
        while r == FS_BUSY or r == FS_INTERRUPTED:
            retry(r, &me)
            entered = array_enter(self, &me)
            me.wait = 1
            with nogil:
                r = fs_array_write(&me, a, self.itemsize, first, step, n, source)
            fs_array_leave(&me, &self.a.o, entered)
        if r != FS_OK:
            fail(r, self.ref.heap)
        return 0

    def write_bytes(self, uint64_t offset, data):
        """Replaces whole items, starting at byte `offset`, as one change."""
        cdef bytes raw = bytes(data)
        if offset % self.itemsize or len(raw) % self.itemsize or offset + len(raw) > self.count * self.itemsize:
            raise ValueError("not whole items of this array")
        self.write_raw(offset // self.itemsize, 1, len(raw) // self.itemsize, raw)

    def read_bytes(self):
        """All bytes, of one instant."""
        return self.copied(0, self.count, 1)

    def fetch_add(self, i, n=1, /):
        """Adds n to item i and returns the item before, as one step. Integers wrap around as in C."""
        cdef uint64_t word
        cdef void *p = array_item(self, i)
        operand(self.form, self.code, FS_PLUS, n, &word)
        return box(self.form, self.itemsize, array_change(self, p, word, FS_PLUS))

    def fetch_sub(self, i, n=1, /):
        """Subtracts n from item i and returns the item before, as one step."""
        cdef uint64_t word
        cdef void *p = array_item(self, i)
        operand(self.form, self.code, FS_MINUS, n, &word)
        return box(self.form, self.itemsize, array_change(self, p, word, FS_MINUS))

    def add(self, i, n=1, /):
        """Adds n to item i as one step."""
        cdef uint64_t word
        cdef void *p = array_item(self, i)
        operand(self.form, self.code, FS_PLUS, n, &word)
        array_change(self, p, word, FS_PLUS)

    def create_memoryview(self):
        """The bytes. The stdlib's reducer of raw ctypes objects calls this."""
        return memoryview(self)

    def get_lock(self):
        """The recursive lock that guards the items."""
        return self.lock if self.lock is not None else lock_of(self)

    def acquire(self, block=True, timeout=None):
        return hold(self.ref, deadline_of(block, timeout), 0) == 1

    def release(self):
        unhold(self.ref)

    def __enter__(self):
        hold(self.ref, -1, 0)
        return True

    def __exit__(self, *args):
        unhold(self.ref)

    def __getbuffer__(self, Py_buffer *view, int flags):
        check_open(self.ref)
        export(self, view, flags, self.p, self.itemsize, self.count, self.typecode)

    def __releasebuffer__(self, Py_buffer *view):
        PyMem_Free(view.internal)


cdef inline void *array_item(Items self, object index) except NULL:
    cdef int overflow = 1
    cdef Py_ssize_t i
    if PyLong_CheckExact(index):
        i = PyLong_AsLongLongAndOverflow(index, &overflow)
    if overflow:
        i = PyNumber_AsSsize_t(index, IndexError)
    if i < 0:
        i += self.count
    if <uint64_t>i >= self.count:
        raise IndexError("invalid index")
    return self.p + <uint64_t>i * self.itemsize


cdef inline int array_enter(Items self, fs_self *me) except -1:
    """The lock, with no write of others left half done."""
    cdef int r
    if self.ref.switch.closed[0]:
        check_open(self.ref)
    r = fs_me(self.ref.h, me)
    if r == FS_OK:
        r = fs_array_enter(me, self.a)
        if r >= 0:
            return r
    return self.wait(r, me)


cdef inline uint64_t array_read(Items self, void *p) except? 0xffffffffffffffff:
    cdef fs_self me
    cdef uint64_t version = fs_read_begin(&self.a.o.lock), word
    cdef int entered
    if self.ref.switch.closed[0]:
        check_open(self.ref)
    if not version & 1:
        word = fs_item_read(p, self.itemsize)
        if fs_read_valid(&self.a.o.lock, version):
            return word
    entered = array_enter(self, &me)
    word = fs_item_read(p, self.itemsize)
    fs_array_leave(&me, &self.a.o, entered)
    return word


cdef inline int array_write(Items self, void *p, uint64_t word) except -1:
    cdef fs_self me
    cdef int entered = array_enter(self, &me)
    fs_item_write(p, self.itemsize, word)
    fs_array_leave(&me, &self.a.o, entered)
    return 0


cdef inline uint64_t array_change(Items self, void *p, uint64_t word, int what) except? 0xffffffffffffffff:
    cdef fs_self me
    cdef int entered = array_enter(self, &me)
    cdef uint64_t old = fs_item_change(p, self.form, self.itemsize, what, word)
    fs_array_leave(&me, &self.a.o, entered)
    return old
