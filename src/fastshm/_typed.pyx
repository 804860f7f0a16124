"""Typed values under their lock: ctypes' one-letter codes between Python objects and eight bytes.

An operation is inline up to the point where a lock is held by somebody else; then _core waits for it.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from fastshm._c cimport *
from fastshm._attributes cimport attributes_of, set_attribute, set_attributes, share_dict
from fastshm._calls cimport fs_identify_by, patient_number, wait_for_item, whoami
from fastshm._core cimport Ref, check_open, fail, gate_ref, heap_of, identify, make_handle, new_ref
from fastshm._locks cimport Guarded, enter_object
from fastshm._forms cimport PyLong_CheckExact, box, fs_is_short, fs_short, known_form, operand, unboxed
from fastshm._views cimport end_cell, export_cell

from fastshm._core import own_methods

fs_identify_by(identify)

TYPECODES = frozenset("bhilBHILqQfdc?uw")  # ctypes' one-letter codes that have a fast form here

cdef object VALUE = "value"
cdef object object_of = None
cdef dict codes = {}
cdef object make_other = None


def set_object_hook(hook):
    """The function that makes the ctypes object on a value's bytes."""
    global object_of
    object_of = hook


def set_makers(dict known, other):
    """The codes of the simple types, by code and by ctypes type; and the function that makes what is of another type, or has
    another lock."""
    global codes, make_other
    codes, make_other = known, other


@cython.embedsignature.format("clinic")
def Value(typecode_or_type, *args, lock=True, beside=None):
    """A shared value with a recursive lock and atomic operations.

    `typecode_or_type` is a type code ("i", "q", "d", ...) or a ctypes type. The value is zero without arguments; else they are
    the type's own.

    `.value` is read and written as one step; `v.value += 1` is two, so use `with v.get_lock():`, or `v.fetch_add(1)`, which is
    one. Also `load`, `store`, `exchange`, `compare_exchange`, `add`, the other `fetch_...`, `wait`, `notify_one` and
    `notify_all`: see help(type(v)). Values of other than simple types have their fields or items instead, and no atomics.

    `lock=False` gives the plain ctypes object; another lock object is used as it is. With `beside`, a value of a simple type is
    made in the segment of that shared object (a store's root), not in this process's. TypeError for a wrong type, with nothing
    changed; MemoryError when there is no room.
    """
    cdef object code = None
    if lock is True or lock is None:
        try:
            code = codes.get(typecode_or_type)
        except TypeError:  # it cannot be hashed
            pass
    if code is None:
        return make_other(typecode_or_type, *args, lock=lock, beside=beside)
    if len(<tuple>args) > 1:
        raise TypeError(f"a value of type {typecode_or_type!r} takes one initial value, not {len(args)}")
    return new_value(Synchronized, code, args, beside)


cdef Synchronized new_value(type cls, str typecode, tuple initial, object beside):
    cdef int form = FS_BYTES_ONLY
    cdef uint32_t size = 0, code = ord(typecode)
    cdef uint64_t word = 0
    if not known_form(code, &form, &size):
        raise TypeError(f"{typecode!r} is no type code")
    if initial:
        unboxed(form, initial[0], &word)
    cdef Ref ref = new_ref(heap_of(beside), sizeof(fs_cell), FS_CELL, gate_ref(beside))
    cdef fs_cell *c = <fs_cell *>ref.o
    c.typecode = code
    fs_item_write(&c.value, size, word)
    return make_handle(cls, ref)


cdef class Synchronized(Guarded):
    """A value of one simple type, in one cache line, with its lock: see Value. Adds the atomics of C++26.

    Each of `load`, `store`, `exchange`, `compare_exchange`, `fetch_add`, `fetch_sub`, `fetch_and`, `fetch_or`, `fetch_xor`,
    `fetch_max`, `fetch_min` and `add` is one step in the sight of all processes, and waits while somebody else holds the lock.
    Whoever is killed in one has done it or has not. An operand of the wrong type is a TypeError, and nothing is changed.
    """
    # The class of the values themselves, not a base of it: the interpreter calls methods of an object's own class faster.
    cdef unsigned char form, size
    cdef uint32_t code
    cdef dict __dict__
    cdef object __weakref__

    def __cinit__(self):
        share_dict(self)

    def __setattr__(self, name, value):
        cdef uint64_t word
        if name is VALUE and type(self) is Synchronized:  # without the look-up, which takes twice as long as the rest
            unboxed(self.form, value, &word)
            cell_write(self, word)
        else:
            set_attribute(self, name, value)

    @staticmethod
    def _make(type cls not None, str typecode not None, initial, gate=None):
        """A new cell of one of TYPECODES; `initial` is a tuple of its value, or empty for zero."""
        return new_value(cls, typecode, initial, gate)

    cdef int bind(self) except -1:
        cdef int form = FS_BYTES_ONLY
        cdef uint32_t size = 0
        self.code = fs_load_u32(&cell(self).typecode)
        if self.ref.o.block.kind != FS_CELL or not known_form(self.code, &form, &size):
            fail(FS_CORRUPT, self.ref.heap)
        self.form, self.size = form, size
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
        cdef int entered = begin(self, &me)
        old = fs_item_read(&cell(self).value, self.size)
        fs_item_write(&cell(self).value, self.size, word)
        end(self, &me, entered)
        return cell_boxed(self, old)

    def compare_exchange(self, expected, desired, /):
        """Replaces the value if its bits are those of `expected`; True if so."""
        cdef fs_self me
        cdef uint64_t was, word
        unboxed(self.form, expected, &was)
        unboxed(self.form, desired, &word)
        cdef int entered = begin(self, &me)
        cdef bint same = fs_item_read(&cell(self).value, self.size) == fs_item_bits(self.size, was)
        if same:
            fs_item_write(&cell(self).value, self.size, word)
        end(self, &me, entered)
        return same

    def fetch_add(self, n=1, /):
        """Adds n and returns the value before, as one step. Integers wrap around as in C."""
        if self.form <= FS_UNSIGNED and PyLong_CheckExact(n) and fs_is_short(n):
            return box(self.form, self.size, cell_plus(self, <uint64_t>fs_short(n)))
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
        milliseconds; one that was taken back before this thread looked may not be. What is done under its lock
        counts when it is released. RuntimeError when this thread holds the lock and would have to wait.
        """
        cdef fs_self me
        cdef uint64_t was, word = 0
        unboxed(self.form, old, &was)
        was = fs_item_bits(self.size, was)
        cdef fs_patience p = fs_patience(patient_number(timeout), 0)
        whoami(self.ref, &me)
        if fs_cell_look(&me, &cell(self).o, 0, self.size, 0, &word) == FS_OK and word != was:
            return True
        return wait_for_item(self.ref, &me, fs_cell_look, &cell(self).turn, 0, self.size, was, &p)

    def notify_one(self):
        """Wakes one of those who wait(), if there are any, to look at the value. Costs next to nothing when there are none."""
        check_open(self.ref)
        fs_item_notify(&cell(self).turn, 1)

    def notify_all(self):
        """Wakes all of those who wait() to look at the value."""
        check_open(self.ref)
        fs_item_notify(&cell(self).turn, FS_ALL)

    def __int__(self):
        raise not_a_number(self, "int")

    def __float__(self):
        raise not_a_number(self, "float")

    def get_obj(self):
        """The ctypes object on the same bytes; what is done through it does not take the lock."""
        return object_of(self)

    def __repr__(self):
        return f"<{type(self).__name__} wrapper for {object_of(self)}>"

    def __getbuffer__(self, Py_buffer *view, int flags):
        check_open(self.ref)
        export_cell(self, view, flags, &cell(self).value, self.size, self.code)

    def __releasebuffer__(self, Py_buffer *view):
        end_cell(view)


cdef object not_a_number(Synchronized self, str kind):
    """Without this, int() would take its bytes for digits."""
    others = "a string, a bytes-like object" if kind == "int" else "a string"
    return TypeError(f"{kind}() argument must be {others} or a real number, not {type(self).__name__!r}: take {kind}(v.value)")


cdef inline fs_cell *cell(Synchronized self) noexcept:
    return <fs_cell *>self.ref.o


cdef inline int begin(Synchronized self, fs_self *me) except -1:
    """The value's lock for one operation; what it returns goes to end()."""
    if not self.ref.closed[0] and fs_enter_free(self.ref.heap.h, &cell(self).o.lock, me):
        return FS_OK
    return begin_slowly(self, me)


cdef int begin_slowly(Synchronized self, fs_self *me) except -1:
    whoami(self.ref, me)  # this extension's cache is filled by it
    if fs_is_mine(me, &self.ref.o.lock) and self.ref.o.lock.hold & FS_HOLD_COUNT:
        return FS_NESTED
    return enter_object(self.ref, me)


cdef inline void end(Synchronized self, fs_self *me, int entered) noexcept:
    if entered == FS_TAKEN_OVER:
        fs_settle(&cell(self).o.lock)
    if entered != FS_NESTED:
        fs_leave(me, &cell(self).o.lock)


cdef inline object cell_boxed(Synchronized self, uint64_t word):
    return box(self.form, self.size, word)


cdef inline uint64_t cell_read(Synchronized self) except? 0xffffffffffffffff:
    cdef uint64_t version = fs_read_begin(&cell(self).o.lock), word
    if self.ref.closed[0]:
        check_open(self.ref)
    if not version & 1:
        word = fs_item_read(&cell(self).value, self.size)
        if fs_read_valid(&cell(self).o.lock, version):
            return word
    return cell_read_locked(self)


cdef uint64_t cell_read_locked(Synchronized self) except? 0xffffffffffffffff:
    cdef fs_self me
    cdef int entered = begin(self, &me)
    cdef uint64_t word = fs_item_read(&cell(self).value, self.size)
    if entered == FS_OK:
        fs_settle(&cell(self).o.lock)
    end(self, &me, entered)
    return word


cdef inline int cell_write(Synchronized self, uint64_t word) except -1:
    cdef fs_self me
    cdef int entered = begin(self, &me)
    fs_item_write(&cell(self).value, self.size, word)
    end(self, &me, entered)
    return 0


cdef inline uint64_t cell_plus(Synchronized self, uint64_t n) except? 0xffffffffffffffff:
    """cell_change() of an integer by FS_PLUS, which is met most."""
    cdef fs_self me
    cdef int entered = begin(self, &me)
    cdef uint64_t old = fs_item_read(&cell(self).value, self.size)
    fs_item_write(&cell(self).value, self.size, old + n)
    end(self, &me, entered)
    return old


cdef inline uint64_t cell_change(Synchronized self, uint64_t word, int what) except? 0xffffffffffffffff:
    """What the value was."""
    cdef fs_self me
    cdef int entered = begin(self, &me)
    cdef uint64_t old = fs_item_change(&cell(self).value, self.form, self.size, what, word)
    end(self, &me, entered)
    return old


cdef inline object cell_fetch(Synchronized self, int what, object n):
    cdef uint64_t word
    operand(self.form, self.code, what, n, &word)
    return box(self.form, self.size, cell_change(self, word, what))


own_methods(Synchronized, lambda value: attributes_of(value), lambda value, new: set_attributes(value, new))
