"""Arrays: items of one size, side by side, under one lock. They grow.

An operation is inline up to the point where a lock is held by somebody else, or the items are not where this handle found them
last. Values become bytes before the lock is taken, and bytes become values after it was left.
"""

from weakref import ref as ref_to

cimport cython
from cpython.buffer cimport PyObject_CheckBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.number cimport PyNumber_AsSsize_t
from cpython.sequence cimport PySequence_Check, PySequence_Size
from cpython.slice cimport PySlice_Unpack
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastshm._c cimport *
from fastshm._attributes cimport attributes_of, set_attribute, set_attributes, share_dict
from fastshm._calls cimport again, again_or_bury, fs_identify_by, patient_number, wait_for_item, whoami
from fastshm._core cimport Pin, Ref, check_open, fail, gate_ref, heap_of, identify, make_handle, new_ref, offset_of
from fastshm._locks cimport Guarded
from fastshm._forms cimport (
    PyFloat_AS_DOUBLE, PyFloat_CheckExact, PyLong_AsLongLongAndOverflow, PyLong_CheckExact, box, fs_is_short, fs_short,
    known_form, operand, unboxed,
)
from fastshm._packing cimport Packed, listed, packed
from fastshm._views cimport end_array, export_array, look

from fastshm._core import own_methods

fs_identify_by(identify)

cdef extern from "Python.h":
    Py_ssize_t PySlice_AdjustIndices(Py_ssize_t length, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t step) nogil
    const Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    LARGE = 1 << 20  # so many bytes are copied without the interpreter lock


@cython.final
cdef class Octets:
    """The items as bytes, whatever they are. Refers to the object and not to the handle, which may therefore keep what is made
    over them."""
    cdef Ref ref
    cdef type kind

    def __cinit__(self, SynchronizedArray items not None):
        self.ref = items.ref
        self.kind = type(items)

    def handle(self):
        """A handle on the same array."""
        return make_handle(self.kind, self.ref)

    def __getbuffer__(self, Py_buffer *view, int flags):
        export_array(self.ref, <fs_array *>self.ref.o, self, view, flags, b"B", 1, ())

    def __releasebuffer__(self, Py_buffer *view):
        end_array(view)


# --- arrays -------------------------------------------------------------------------------------------------------------------

cdef enum:
    WRITE_SLICE, WRITE_ITEM, WRITE_AT, FILL, EXTEND, RESIZE, CHANGE

cdef struct Order:
    int what
    Py_ssize_t start, stop, step  # of a slice; `start` is also an index, or the first item
    uint64_t count
    const char *source
    int change


cdef dict codes = {}
cdef object make_other = None


def set_makers(dict known, other):
    """As _typed.set_makers: `other` also makes what has initial values, or axes."""
    global codes, make_other
    codes, make_other = known, other


@cython.embedsignature.format("clinic")
def Array(typecode_or_type, size_or_initializer, *, lock=True, capacity=None, shape=None, beside=None):
    """A shared array with a recursive lock and atomic operations: `size` zero items, or those of a sequence.

    `typecode_or_type` is a type code ("i", "q", "d", ...), a ctypes type, or a type of NumPy (`numpy.float64`,
    `numpy.dtype(...)`). An array of the latter may have more axes: those of an ndarray as initializer, or of `shape`. The
    handle knows `dtype` and `shape`, wherever it goes; a row is a copy.

    Items and slices are each read and written as one step. `a.fetch_add(i, n)`, `a.wait(i, old)` and the other operations of a
    value act on one item: see help(type(a)). `get_obj()` is the ctypes array on the same bytes; NumPy sees them through
    `numpy.asarray(a)` or `a.numpy()`, without a copy and without the lock.

    It grows: see `append`, `extend` and `resize`. As long as it has no more than `capacity` items, its bytes stay where they
    are, and what looks at them (`get_obj()`, NumPy, memoryviews) goes on to show what others do.

    `lock=False` gives the plain ctypes array; another lock object is used as it is. With `beside`, it is made in the segment of
    that shared object (a store's root), not in this process's. TypeError and ValueError for wrong arguments; MemoryError when
    there is no room.
    """
    cdef object code = None
    if (lock is True or lock is None) and capacity is None and shape is None and type(size_or_initializer) is int:
        try:
            code = codes.get(typecode_or_type)
        except TypeError:  # it cannot be hashed
            pass
    if code is None or code == "c" or size_or_initializer < 0:
        return make_other(typecode_or_type, size_or_initializer, lock=lock, capacity=capacity, shape=shape, beside=beside)
    return new_array(SynchronizedArray, code, size_or_initializer, 0, beside, None, 0)


cdef Packed items_of(int form, uint32_t size, object values):
    """Of an array, all of one instant."""
    cdef SynchronizedArray other
    cdef Packed out
    if isinstance(values, SynchronizedArray):
        other = values
        if other.form == form and other.itemsize == size:
            out = Packed.__new__(Packed)
            out.take(other._read_bytes(), size)
            return out
        values = other[:]
    return packed(form, size, values)


cdef SynchronizedArray new_array(
    type cls, str typecode, uint64_t count, uint32_t itemsize, object beside, object values, uint64_t capacity
):
    cdef int form = FS_BYTES_ONLY
    cdef uint32_t code = ord(typecode)
    cdef Packed given = None
    if code and not known_form(code, &form, &itemsize):
        raise TypeError(f"{typecode!r} is no type code")
    if values is not None:
        given = items_of(form, itemsize, values)
        count = given.count
    capacity = max(capacity, count)
    if itemsize == 0 or capacity > (<uint64_t>1 << 62) // itemsize:
        raise OverflowError("array too large")
    cdef Ref ref = new_ref(heap_of(beside), FS_ARRAY_DATA + capacity * itemsize, FS_ARRAY, gate_ref(beside))
    cdef fs_array *a = <fs_array *>ref.o
    if given is not None:
        memcpy(<char *>a + FS_ARRAY_DATA, given.data, count * itemsize)
    a.itemsize = itemsize
    a.typecode = code
    fs_store_release(&a.count, count)
    return make_handle(cls, ref)


cdef class SynchronizedArray(Guarded):
    """An array of items of one size: see fastshm.Array.

    Grows by append, extend and resize; changes many items as one by slices, fill and add_from; has the atomics of a value for
    each item: load, store, exchange, compare_exchange, fetch_add and the like, wait.
    """
    # The class of the arrays themselves, not a base of it: the interpreter calls methods of an object's own class faster.
    cdef fs_array *a
    cdef uint64_t items  # as they were when p and capacity were found, under the lock
    cdef char *p
    cdef uint64_t capacity_
    cdef int form
    cdef uint32_t unit  # bytes of a number in an item
    cdef readonly uint32_t itemsize
    cdef uint32_t code
    cdef bint shaped  # an item is more than one number
    cdef tuple look_  # of a NumPy type's: its elements' format, the axes behind the first
    cdef object object_  # what get_obj() made when items and count were these; weakly, where it keeps more than the array
    cdef uint64_t object_items, object_count
    cdef dict __dict__
    cdef object __weakref__

    def __cinit__(self):
        self.a = <fs_array *>self.ref.o
        self.itemsize = 1
        share_dict(self)

    def __setattr__(self, name, value):
        set_attribute(self, name, value)

    @staticmethod
    def _make(
        type cls not None, str typecode not None, uint64_t count, uint32_t itemsize=0, gate=None, values=None,
        uint64_t capacity=0,
    ):
        """`count` zero items, or those of `values`, with room for `capacity`. `typecode` is one of TYPECODES, or '\\0' for
        items of `itemsize` bytes of any kind."""
        return new_array(cls, typecode, count, itemsize, gate, values, capacity)

    cdef int bind(self) except -1:
        cdef fs_array *a = <fs_array *>fs_kind_at(self.ref.heap.h, offset_of(self.ref), FS_ARRAY, FS_ARRAY_DATA)
        cdef fs_run run
        cdef int form = FS_BYTES_ONLY
        cdef uint32_t code, size
        if a == NULL:
            fail(FS_CORRUPT, self.ref.heap)
        code, size = fs_load_u32(&a.typecode), fs_load_u32(&a.itemsize)
        self.unit = size
        if size == 0 or (code and (not known_form(code, &form, &self.unit) or self.unit != size)):
            fail(FS_CORRUPT, self.ref.heap)
        self.a, self.form, self.code, self.itemsize = a, form, code, size
        if fs_load_relaxed(&a.items):  # looked for under the lock, by whoever needs them
            self.items, self.p, self.capacity_ = ~<uint64_t>0, NULL, 0
            return 0
        if fs_run_make(self.ref.heap.h, a, &run) == FS_OK:
            self.items, self.p, self.capacity_ = run.items, run.p, run.capacity
        elif fs_load_acquire(&a.items) == 0:
            fail(FS_CORRUPT, self.ref.heap)
        else:
            self.items, self.p, self.capacity_ = ~<uint64_t>0, NULL, 0
        return 0

    def _shape(self, str typecode, uint32_t unit, bytes format, tuple tail):
        """Each item is made of numbers of that code and size, or '\\0' for none; views show elements of `format` along the axes
        behind the first."""
        cdef int form = FS_BYTES_ONLY
        cdef uint32_t size = unit, code = ord(typecode)
        cdef object whole = unit
        for n in tail:
            whole *= n
        if whole != self.itemsize or unit == 0 or (code and (not known_form(code, &form, &size) or size != unit)):
            raise ValueError(f"items of {self.itemsize} bytes are not of this shape")
        self.form, self.unit, self.look_ = form, unit, (format, tail)
        self.shaped = form == FS_BYTES_ONLY or bool(tail)

    @property
    def typecode(self):
        return chr(self.code)

    @property
    def capacity(self):
        """So many items have room where they are."""
        cdef fs_self me
        cdef fs_run run
        cdef int r
        whoami(self.ref, &me)
        r = fs_array_pin(&me, self.a, NULL, &run)
        while again(r, &me):
            with nogil:
                r = fs_array_pin(&me, self.a, NULL, &run)
        if r != FS_MISSING:
            fail(r, self.ref.heap)
        return run.capacity

    @property
    def _place(self):
        """Where views of this instant look: (address, items)."""
        cdef fs_run run
        check_open(self.ref)
        look(self.ref, self.a, &run)
        return <uint64_t>run.p, run.count

    def _keep(self):
        """The address of the items, which is good for as long as this handle lives."""
        cdef fs_run run
        check_open(self.ref)
        cdef Pin pin = look(self.ref, self.a, &run)
        if pin is not None:
            vars(self).setdefault("_pins", {})[<uint64_t>run.p] = pin
        return <uint64_t>run.p

    def __len__(self):
        cdef uint64_t count = fs_load_acquire(&self.a.count)
        if count > <uint64_t>PY_SSIZE_T_MAX:
            fail(FS_CORRUPT, self.ref.heap)
        return count

    # one item

    def __getitem__(self, i):
        if self.shaped or isinstance(i, slice):
            return self._get_other(i)
        return box(self.form, self.itemsize, array_look(self, as_index(i), 0, self.itemsize))

    def _get_item(self, i):
        return box(self.form, self.itemsize, array_read(self, as_index(i), 0))

    def _get_other(self, i):
        """What __getitem__ returns for a slice, and for what is no number."""
        return self._get_slice(i)

    def __setitem__(self, i, value):
        if self.shaped or isinstance(i, slice):
            self._set_other(i, value)
        else:
            array_store(self, i, value)

    def _set_item(self, i, value):
        array_store(self, i, value)

    def _set_other(self, i, value):
        self._write_slice(i, value)

    def __delitem__(self, i):
        raise AttributeError("__delitem__")

    # slices

    def _get_slice(self, slice part not None):
        """A list; bytes of 'c', a str of 'u'. All of one instant."""
        cdef Py_ssize_t n
        cdef char *raw = array_copied(self, part, &n)
        try:
            return listed(self.form, self.itemsize, raw, n)
        finally:
            free(raw)

    def _read_slice(self, slice part not None):
        """The bytes of the same."""
        cdef Py_ssize_t n
        cdef char *raw = array_copied(self, part, &n)
        try:
            return PyBytes_FromStringAndSize(raw, n * self.itemsize)
        finally:
            free(raw)

    def _read_bytes(self):
        """All bytes, of one instant."""
        return self._read_slice(slice(None))

    def _write_slice(self, slice where not None, values):
        """As one change: whoever reads, or dies, meanwhile, it is wholly there or not at all."""
        cdef Order order
        cdef Packed given
        PySlice_Unpack(where, &order.start, &order.stop, &order.step)
        if self.shaped or self.form == FS_BYTES_ONLY:
            given = items_of(FS_BYTES_ONLY, self.itemsize, values)
        else:
            given = items_for(self, where, values)
        if order.step < 0:
            given.reverse(self.itemsize)
        order.what, order.source, order.count = WRITE_SLICE, given.data, given.count
        if carried_out(self, &order) != FS_OK:
            raise ValueError("Can only assign sequence of same size")

    def _write_item(self, i, data):
        """Replaces item i by the one whose bytes these are."""
        cdef Packed given = items_of(FS_BYTES_ONLY, self.itemsize, data)
        cdef Order order
        if given.count != 1:
            raise ValueError(f"not one item of {self.itemsize} bytes")
        order.what, order.start, order.source, order.count = WRITE_ITEM, as_index(i), given.data, 1
        if carried_out(self, &order) != FS_OK:
            raise IndexError("invalid index")

    def _write_bytes(self, uint64_t offset, data):
        """Replaces whole items, starting at byte `offset`, as one change."""
        cdef Packed given
        cdef Order order
        if offset % self.itemsize or memoryview(data).nbytes % self.itemsize:
            raise ValueError("not whole items of this array")
        given = items_of(FS_BYTES_ONLY, self.itemsize, memoryview(data).cast("B"))
        order.what, order.start, order.source, order.count = WRITE_AT, offset // self.itemsize, given.data, given.count
        if carried_out(self, &order) != FS_OK:
            raise ValueError("not whole items of this array")

    # growth

    def append(self, value, /):
        """One item more, seen by all processes at once."""
        cdef uint64_t word
        check_numbers(self)
        unboxed(self.form, value, &word)
        array_append(self, word)

    def extend(self, values, /):
        """The items of `values` more, all of them as one change."""
        cdef Order order
        if not hasattr(type(values), "__len__"):
            values = list(values)
        cdef Packed given = items_of(self.form if not self.shaped else FS_BYTES_ONLY, self.itemsize, values)
        order.what, order.source, order.count = EXTEND, given.data, given.count
        carried_out(self, &order)

    def resize(self, n, /):
        """n items as one change: new ones are zero, those beyond are gone."""
        cdef Order order
        cdef Py_ssize_t count = PyNumber_AsSsize_t(n, OverflowError)
        if count < 0:
            raise ValueError(f"an array has no {count} items")
        order.what, order.count, order.source = RESIZE, count, NULL
        carried_out(self, &order)

    # many items at once

    def fill(self, value, /):
        """Each item becomes `value`, as one change."""
        cdef uint64_t word, item = 0
        cdef Order order
        check_numbers(self)
        unboxed(self.form, value, &word)
        fs_item_write(&item, self.itemsize, word)
        order.what, order.source, order.count = FILL, <const char *>&item, 1
        carried_out(self, &order)

    def _fill_bytes(self, data):
        """The same with the bytes of an item."""
        cdef Packed given = items_of(FS_BYTES_ONLY, self.itemsize, data)
        cdef Order order
        if given.count != 1:
            raise ValueError(f"not one item of {self.itemsize} bytes")
        order.what, order.source, order.count = FILL, given.data, 1
        carried_out(self, &order)

    def add_from(self, values, /, start=0):
        """Adds each of `values` to the item in its place, from item `start` on, as one change. So several processes merge what
        they have counted."""
        cdef uint64_t none
        operand(self.form, self.code, FS_PLUS, 0, &none)
        cdef Order order
        cdef Packed given = items_of(self.form if not self.shaped else FS_BYTES_ONLY, self.itemsize, values)
        order.what, order.change, order.start = CHANGE, FS_PLUS, as_index(start)
        order.source, order.count = given.data, given.count
        if carried_out(self, &order) != FS_OK:
            raise ValueError("more values than items from there on")

    # atomics

    def load(self, i, /):
        """Item i."""
        cdef uint64_t offset
        cdef Py_ssize_t at = located(self, i, &offset)
        check_numbers(self)
        return box(self.form, self.unit, array_read(self, at, offset))

    def store(self, i, new, /):
        """Replaces item i."""
        cdef uint64_t word, offset
        cdef Py_ssize_t at = located(self, i, &offset)
        check_numbers(self)
        unboxed(self.form, new, &word)
        array_write(self, at, offset, word)

    def exchange(self, i, new, /):
        """Replaces item i and returns the one before, as one step."""
        cdef uint64_t word, offset
        cdef Py_ssize_t at = located(self, i, &offset)
        check_numbers(self)
        unboxed(self.form, new, &word)
        return box(self.form, self.unit, array_exchange(self, at, offset, word))

    def compare_exchange(self, i, expected, desired, /):
        """Replaces item i if its bits are those of `expected`; True if so."""
        cdef uint64_t was, word, offset
        cdef Py_ssize_t at = located(self, i, &offset)
        check_numbers(self)
        unboxed(self.form, expected, &was)
        unboxed(self.form, desired, &word)
        return bool(array_compare_exchange(self, at, offset, fs_item_bits(self.unit, was), word))

    def fetch_add(self, i, n=1, /):
        """Adds n to item i and returns the item before, as one step. Integers wrap around as in C."""
        return array_fetch(self, i, FS_PLUS, n)

    def fetch_sub(self, i, n=1, /):
        """Subtracts n from item i and returns the item before, as one step. Integers wrap around as in C."""
        return array_fetch(self, i, FS_MINUS, n)

    def fetch_and(self, i, n, /):
        """Keeps the bits of item i that n has, too, and returns the item before, as one step. Integers only."""
        return array_fetch(self, i, FS_AND, n)

    def fetch_or(self, i, n, /):
        """Sets the bits of n in item i and returns the item before, as one step. Integers only."""
        return array_fetch(self, i, FS_OR, n)

    def fetch_xor(self, i, n, /):
        """Turns the bits of n over in item i and returns the item before, as one step. Integers only."""
        return array_fetch(self, i, FS_XOR, n)

    def fetch_max(self, i, n, /):
        """Replaces item i by n where that is greater and returns the item before, as one step.

        Of floats, 0.0 is greater than -0.0, and a NaN is as if it were not there: any number replaces it, and it replaces none.
        """
        return array_fetch(self, i, FS_MAX, n)

    def fetch_min(self, i, n, /):
        """Replaces item i by n where that is less and returns the item before, as one step. Floats: see fetch_max."""
        return array_fetch(self, i, FS_MIN, n)

    def add(self, i, n=1, /):
        """Adds n to item i as one step; the fastest way to count."""
        cdef uint64_t word, offset
        cdef Py_ssize_t at = located(self, i, &offset)
        operand(self.form, self.code, FS_PLUS, n, &word)
        array_change(self, at, offset, FS_PLUS, word)

    # waiting

    def wait(self, i, old, /, timeout=None):
        """Blocks while the bits of item i are those of `old`: True once they are not, False when `timeout` seconds went by.

        Whoever changes an item calls notify_one() or notify_all() afterwards. A change that nobody told of is noticed within
        milliseconds; one that was taken back before this thread looked may not be. What is done by whoever holds the array's
        lock counts when it is released. RuntimeError when this thread holds the lock and would have to wait; IndexError when
        the array has become too short to have an item i.
        """
        cdef fs_self me
        cdef uint64_t was, word = 0, offset, count
        cdef Py_ssize_t at = located(self, i, &offset)
        check_numbers(self)
        unboxed(self.form, old, &was)
        was = fs_item_bits(self.unit, was)
        cdef fs_patience p = fs_patience(patient_number(timeout), 0)
        whoami(self.ref, &me)
        count = fs_load_acquire(&self.a.count)
        if at < 0:
            at += <Py_ssize_t>count
        if at < 0 or <uint64_t>at >= count:
            raise IndexError("invalid index")
        offset += <uint64_t>at * self.itemsize
        if fs_array_look(&me, &self.a.o, offset, self.unit, 0, &word) == FS_OK and word != was:
            return True
        return wait_for_item(self.ref, &me, fs_array_look, &self.a.turn, offset, self.unit, was, &p)

    def notify_one(self, i, /):
        """After a change of item i: wakes those who wait(), to look at theirs."""
        self.notify_all(i)

    def notify_all(self, i, /):
        """After a change of item i: wakes all of those who wait(), to look at theirs."""
        cdef uint64_t offset
        located(self, i, &offset)
        check_open(self.ref)
        fs_item_notify(&self.a.turn, FS_ALL)

    # views

    def get_obj(self):
        """The ctypes array on the bytes as they now lie; what is done through it does not take the lock.

        After growth beyond the capacity the array's bytes are elsewhere. Then what was got before keeps its own, which are the
        array's no more.
        """
        cdef uint64_t items = fs_load_relaxed(&self.a.items), count = fs_load_acquire(&self.a.count)
        known = self.object_
        if known is not None and items == self.object_items and count == self.object_count:
            if type(known) is not ref_to:
                return known
            known = known()  # it keeps the block that it looks at, so nothing else has come to lie there
            if known is not None:
                return known
        new = python().array_object(self)
        if fs_load_acquire(&self.a.items) == items and len(new) == <Py_ssize_t>count:
            self.object_ = new if not items and self.look_ is None else ref_to(new)
            self.object_items, self.object_count = items, count
        return new

    def _type(self):
        return python().types[chr(self.code)]

    def numpy(self, dtype=None, shape=None):
        """The items as they now lie, as an ndarray without a copy; what is done through it does not take the lock.

        With `dtype`, the same bytes taken for another type; with `shape`, along those axes. As with get_obj(), growth within
        the capacity leaves it live, and after growth beyond it the ndarray's bytes are the array's no more.
        """
        if dtype is None and shape is None:
            own = dtypes.get(self.code)
            if own is None:
                own = learn_dtype(self.code)
            return frombuffer(Octets.__new__(Octets, self), own)
        return python().ndview(self, python().viewing(self.code)[1], (), dtype, shape)

    @property
    def __array_interface__(self):
        """For those who do not use the buffer: as long as this handle lives, the bytes stay what they are."""
        return python().shown(self)

    def __dlpack__(self, **how):
        return self.numpy().__dlpack__(**how)

    def __dlpack_device__(self):
        return self.numpy().__dlpack_device__()

    def _getslice(self, start, stop):
        return self[start:stop]

    def _setslice(self, start, stop, values):
        self[start:stop] = values

    __getslice__, __setslice__ = _getslice, _setslice  # as in the stdlib

    def __repr__(self):
        return f"<{type(self).__name__} wrapper for {self.get_obj()}>"

    def _create_memoryview(self):
        """The bytes. The stdlib's reducer of raw ctypes objects calls this."""
        return memoryview(self)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.look_ is not None:
            export_array(self.ref, self.a, self, view, flags, self.look_[0], self.unit, self.look_[1])
        elif self.code:
            format = b"w" if self.form == FS_WIDE else chr(self.code).encode()
            export_array(self.ref, self.a, self, view, flags, format, self.itemsize, ())
        else:
            export_array(self.ref, self.a, self, view, flags, b"B", 1, ())

    def __releasebuffer__(self, Py_buffer *view):
        end_array(view)


cdef class Items(SynchronizedArray):
    """Bytes of any kind, for ctypes to look at through the buffer."""


cdef object module = None


cdef object python():
    """fastshm.arrays, which imports this."""
    global module
    if module is None:
        from fastshm import arrays
        module = arrays
    return module


cdef object frombuffer = None
cdef dict dtypes = {}  # NumPy's, by type code


cdef object learn_dtype(uint32_t code):
    global frombuffer
    frombuffer, own = python().viewing(code)
    dtypes[code] = own
    return own


# --- what the methods are made of ---------------------------------------------------------------------------------------------

cdef inline Py_ssize_t as_index(object index) except? -1:
    cdef int overflow = 1
    cdef Py_ssize_t i = 0
    if PyLong_CheckExact(index):
        if fs_is_short(index):
            return fs_short(index)
        i = PyLong_AsLongLongAndOverflow(index, &overflow)
    if overflow:
        i = PyNumber_AsSsize_t(index, IndexError)
    return i


cdef inline Py_ssize_t located(SynchronizedArray self, object index, uint64_t *offset) except? -1:
    """The item that an index names, and how many bytes into it."""
    offset[0] = 0
    return located_in_shape(self, index, offset) if self.shaped else as_index(index)


cdef Py_ssize_t located_in_shape(SynchronizedArray self, object index, uint64_t *offset) except? -1:
    cdef Py_ssize_t i, n, within = 0
    cdef tuple tail = self.look_[1]
    if not isinstance(index, tuple):
        index = (index,)
    if len(index) != 1 + len(tail):
        raise IndexError(f"a number of this array is named by {1 + len(tail)} indices, not {len(index)}")
    for n, one in zip(tail, index[1:]):
        i = as_index(one)
        if i < 0:
            i += n
        if i < 0 or i >= n:
            raise IndexError("invalid index")
        within = within * n + i
    offset[0] = <uint64_t>within * self.unit
    return as_index(index[0])


cdef inline int check_numbers(SynchronizedArray self) except -1:
    if self.form == FS_BYTES_ONLY:
        raise TypeError("items of this type are no numbers, characters or bools: they are read and written as a whole")
    return 0


cdef inline bint quickly_unboxed(int form, object value, uint64_t *out) except -1:
    cdef int overflow
    if form <= FS_UNSIGNED and PyLong_CheckExact(value):
        if fs_is_short(value):
            out[0] = <uint64_t>fs_short(value)
            return True
        out[0] = <uint64_t>PyLong_AsLongLongAndOverflow(value, &overflow)
        return not overflow
    if form == FS_DOUBLE and PyFloat_CheckExact(value):
        out[0] = fs_double_item(PyFloat_AS_DOUBLE(value))
        return True
    return False


cdef int slowly_unboxed(SynchronizedArray self, Py_ssize_t i, object value, uint64_t *out) except -1:
    """Of a wrong value for an item that is not there, the item is what is complained about."""
    try:
        unboxed(self.form, value, out)
    except Exception:
        array_read(self, i, 0)
        raise
    return 0


cdef Packed items_for(SynchronizedArray self, slice where, object values):
    """Of values that are wrong in themselves and too few or too many, their number is what is complained about; what is
    empty has none that could be wrong."""
    try:
        if not PySequence_Check(values) and not PyObject_CheckBuffer(values):
            raise TypeError(f"{type(values).__name__!r} object does not support indexing")
        return items_of(self.form, self.itemsize, values)
    except Exception:
        if fitting_number(self, where, values) != 0:
            raise
    return items_of(self.form, self.itemsize, ())


cdef Py_ssize_t fitting_number(SynchronizedArray self, slice where, object values) except -1:
    """How many they are, which is as many as the slice has."""
    cdef Py_ssize_t n
    try:
        n = PySequence_Size(values)
    except TypeError:
        raise ValueError(f"Can only assign sequence of same size, not {type(values).__name__!r}") from None
    if n != len(range(*where.indices(len(self)))):
        raise ValueError("Can only assign sequence of same size")
    return n


cdef inline int array_enter(SynchronizedArray self, fs_self *me) except -1:
    """The lock, with no write of others left half done, and with this handle knowing where the items are."""
    cdef fs_array *a = self.a
    if not self.ref.closed[0] and fs_enter_free(self.ref.heap.h, &a.o.lock, me):
        if fs_array_is_settled(a) and fs_load_relaxed(&a.items) == self.items:
            return FS_OK
        return array_enter_slowly(self, fs_array_entered(me, a, FS_OK), me)
    whoami(self.ref, me)
    return array_enter_slowly(self, fs_array_enter(me, a), me)


cdef int array_enter_slowly(SynchronizedArray self, int r, fs_self *me) except -1:
    while again(r, me):
        with nogil:
            r = fs_array_enter(me, self.a)
    if r < 0:
        fail(r, self.ref.heap)
    if fs_load_relaxed(&self.a.items) != self.items:
        array_find(self, me, r)
    return r


cdef uint64_t array_find(SynchronizedArray self, fs_self *me, int entered) except? 0xffffffffffffffff:
    """Under the lock: where the items are, and how many. (Without it, another thread could put something older here.)"""
    cdef fs_run run
    if fs_run_make(self.ref.heap.h, self.a, &run) != FS_OK or run.size != self.itemsize:
        fs_leave_entered(me, &self.a.o.lock, entered)
        fail(FS_CORRUPT, self.ref.heap)
    self.p, self.capacity_ = run.p, run.capacity
    fs_store_release(&self.items, run.items)
    return run.count


cdef inline uint64_t array_count(SynchronizedArray self, fs_self *me, int entered) except? 0xffffffffffffffff:
    """Under the lock. They may have got more room where they are."""
    cdef uint64_t count = fs_load_acquire(&self.a.count)
    return count if count <= self.capacity_ else array_find(self, me, entered)


cdef inline char *array_enter_item(SynchronizedArray self, fs_self *me, Py_ssize_t i, int *entered) except NULL:
    """The lock, and where item i is."""
    cdef uint64_t count
    cdef Py_ssize_t at = i
    entered[0] = array_enter(self, me)
    count = fs_load_acquire(&self.a.count)
    if i < 0:
        at += <Py_ssize_t>count
    if <uint64_t>at < count and <uint64_t>at < self.capacity_:
        return self.p + <uint64_t>at * self.itemsize
    return array_find_item(self, me, i, entered[0])


cdef char *array_find_item(SynchronizedArray self, fs_self *me, Py_ssize_t i, int entered) except NULL:
    cdef uint64_t count = array_find(self, me, entered)
    if i < 0:
        i += <Py_ssize_t>count
    if <uint64_t>i < count:
        return self.p + <uint64_t>i * self.itemsize
    fs_array_leave(me, &self.a.o, entered)
    raise IndexError("invalid index")


cdef inline uint64_t array_look(
    SynchronizedArray self, Py_ssize_t i, uint64_t offset, uint32_t size
) except? 0xffffffffffffffff:
    cdef fs_array *a = self.a
    cdef uint64_t version = fs_read_begin(&a.o.lock), count, word
    cdef Py_ssize_t at = i
    if self.ref.closed[0]:
        check_open(self.ref)
    if not version & 1 and fs_load_relaxed(&a.items) == self.items:
        count = fs_load_acquire(&a.count)
        if i < 0:
            at += <Py_ssize_t>count
        if <uint64_t>at < count and <uint64_t>at < self.capacity_:
            word = fs_item_read(self.p + <uint64_t>at * self.itemsize + offset, size)
            # one counted from the end is the one it was taken for only while nothing is appended, which the version leaves out
            if fs_read_valid(&a.o.lock, version) and (i >= 0 or fs_load_relaxed(&a.count) == count):
                return word
    return array_read_locked(self, i, offset)


cdef uint64_t array_read(SynchronizedArray self, Py_ssize_t i, uint64_t offset) except? 0xffffffffffffffff:
    return array_look(self, i, offset, self.unit)


cdef uint64_t array_read_locked(SynchronizedArray self, Py_ssize_t i, uint64_t offset) except? 0xffffffffffffffff:
    cdef fs_self me
    cdef int entered
    cdef uint64_t word = fs_item_read(array_enter_item(self, &me, i, &entered) + offset, self.unit)
    fs_array_leave(&me, &self.a.o, entered)
    return word


cdef inline int array_write(SynchronizedArray self, Py_ssize_t i, uint64_t offset, uint64_t word) except -1:
    cdef fs_self me
    cdef int entered
    fs_item_write(array_enter_item(self, &me, i, &entered) + offset, self.unit, word)
    fs_array_leave(&me, &self.a.o, entered)
    return 0


cdef inline int array_store(SynchronizedArray self, object index, object value) except -1:
    cdef Py_ssize_t at = as_index(index)
    cdef uint64_t word
    if not quickly_unboxed(self.form, value, &word):
        slowly_unboxed(self, at, value, &word)
    return array_write(self, at, 0, word)


cdef inline uint64_t array_change(
    SynchronizedArray self, Py_ssize_t i, uint64_t offset, int what, uint64_t word
) except? 0xffffffffffffffff:
    """What the number was."""
    cdef fs_self me
    cdef int entered
    cdef char *p = array_enter_item(self, &me, i, &entered) + offset
    cdef uint64_t old = fs_item_change(p, self.form, self.unit, what, word)
    fs_array_leave(&me, &self.a.o, entered)
    return old


cdef inline object array_fetch(SynchronizedArray self, object index, int what, object n):
    cdef uint64_t word, offset
    cdef Py_ssize_t at = located(self, index, &offset)
    operand(self.form, self.code, what, n, &word)
    return box(self.form, self.unit, array_change(self, at, offset, what, word))


cdef uint64_t array_exchange(SynchronizedArray self, Py_ssize_t i, uint64_t offset, uint64_t word) except? 0xffffffffffffffff:
    cdef fs_self me
    cdef int entered
    cdef char *p = array_enter_item(self, &me, i, &entered) + offset
    cdef uint64_t old = fs_item_read(p, self.unit)
    fs_item_write(p, self.unit, word)
    fs_array_leave(&me, &self.a.o, entered)
    return old


cdef int array_compare_exchange(SynchronizedArray self, Py_ssize_t i, uint64_t offset, uint64_t was, uint64_t word) except -1:
    cdef fs_self me
    cdef int entered
    cdef char *p = array_enter_item(self, &me, i, &entered) + offset
    cdef bint same = fs_item_read(p, self.unit) == was
    if same:
        fs_item_write(p, self.unit, word)
    fs_array_leave(&me, &self.a.o, entered)
    return same


cdef inline int array_append(SynchronizedArray self, uint64_t word) except -1:
    cdef fs_self me
    cdef uint64_t count, item = 0
    cdef int entered = array_enter(self, &me)
    cdef Order order
    count = fs_load_acquire(&self.a.count)
    if count < self.capacity_:
        fs_item_write(self.p + count * self.itemsize, self.itemsize, word)
        fs_crash_order()
        fs_store_release(&self.a.count, count + 1)
        fs_array_leave(&me, &self.a.o, entered)
        return 0
    fs_array_leave(&me, &self.a.o, entered)
    fs_item_write(&item, self.itemsize, word)
    order.what, order.source, order.count = EXTEND, <const char *>&item, 1
    carried_out(self, &order)
    return 0


cdef char *array_copied(SynchronizedArray self, slice part, Py_ssize_t *n) except NULL:
    """A slice's items, all of one instant; for free()."""
    cdef fs_self me
    cdef uint64_t count
    cdef uint32_t size = self.itemsize
    cdef Py_ssize_t start, stop, step, k
    cdef char *out
    cdef const char *p
    PySlice_Unpack(part, &start, &stop, &step)
    cdef int entered = array_enter(self, &me)
    count = array_count(self, &me, entered)
    n[0] = PySlice_AdjustIndices(count, &start, &stop, step)
    out = <char *>malloc(n[0] * size + 1)
    p = self.p + start * <Py_ssize_t>size
    if out != NULL:
        if step == 1 and n[0] * size < LARGE:
            memcpy(out, p, n[0] * size)
        elif step == 1:
            with nogil:
                memcpy(out, p, n[0] * size)
        else:
            for k in range(n[0]):
                memcpy(out + k * size, p + k * step * <Py_ssize_t>size, size)
    fs_array_leave(&me, &self.a.o, entered)
    if out == NULL:
        fail(FS_PRIVATE_NOMEM, self.ref.heap)
    return out


cdef int carry_out(SynchronizedArray self, const fs_self *me, const Order *order, uint64_t now) noexcept nogil:
    """With the lock held and `now` items. FS_CHANGED: it does not fit them."""
    cdef fs_array *a = self.a
    cdef uint32_t size = self.itemsize
    cdef Py_ssize_t start = order.start, stop = order.stop, step = order.step
    if order.what == WRITE_SLICE:
        if PySlice_AdjustIndices(now, &start, &stop, step) != <Py_ssize_t>order.count:
            return FS_CHANGED
        if step < 0:
            start, step = start + (<Py_ssize_t>order.count - 1) * step, -step
        return fs_array_write(me, a, size, start, step, order.count, order.source)
    if order.what == EXTEND:
        return fs_array_extend(me, a, size, order.count, order.source)
    if order.what == RESIZE:
        return fs_array_resize(me, a, size, order.count)
    if order.what == FILL:
        return fs_array_fill(me, a, size, order.source)
    if start < 0 and order.what != WRITE_AT:
        start += <Py_ssize_t>now
    if start < 0 or <uint64_t>start > now or order.count > now - <uint64_t>start:
        return FS_CHANGED
    if order.what == CHANGE:
        return fs_array_change(me, a, size, self.form, self.unit, order.change, start, order.count, order.source)
    return fs_array_write(me, a, size, start, 1, order.count, order.source)


cdef int carried_out(SynchronizedArray self, Order *order) except -1:
    """FS_OK, or FS_CHANGED."""
    cdef fs_self me
    cdef uint64_t now
    cdef int entered, r
    cdef bint waiting = order.what != WRITE_ITEM and order.count * self.itemsize >= LARGE, buried = False
    while True:
        entered = array_enter(self, &me)
        now = array_count(self, &me, entered)
        me.wait = waiting
        if waiting:
            with nogil:
                r = carry_out(self, &me, order, now)
        else:
            r = carry_out(self, &me, order, now)
        fs_array_leave(&me, &self.a.o, entered)
        if again_or_bury(r, &me, &buried):
            waiting = True
        elif r == FS_OK or r == FS_CHANGED:
            return r
        else:
            fail(r, self.ref.heap)


own_methods(SynchronizedArray, lambda array: attributes_of(array), lambda array, new: set_attributes(array, new))
