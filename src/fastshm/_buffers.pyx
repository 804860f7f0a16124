"""Values with bytes of their own: made ahead in shared memory, and looked at where they lie.

Many bytes (FS_LARGE) are copied once, into a block that a handle slot of this process refers to, before any container is
locked; the container then takes a reference. A view has a handle slot, too: what it shows stays, whatever becomes of the
container, and goes with the process at the latest. Neither can change: nobody writes into such a block once it is made.

Two forms are known here. An ndarray of a plain dtype (FS_V_NDARRAY_BLOB) is its dtype, shape and order, and its items; a pickle
with buffers (FS_V_PICKLE_BUFFERS) is the pickle, where the buffers are, and they. Items and buffers begin at a cache line."""

import pickle
import re
import struct
import sys
from importlib import import_module

cimport cython
from cpython.buffer cimport (
    PyBUF_READ, PyBUF_SIMPLE, PyBUF_WRITE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastshm._c cimport *
from fastshm._calls cimport again, again_or_bury, fs_identify_by
from fastshm._core cimport Collecting, Ref, fail, identify, offset_of, slot_for_new, start_collecting, stop_collecting, whoami

from fastshm._core import CorruptedError

fs_identify_by(identify)

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char *p, Py_ssize_t size, int flags)

cdef enum:
    UNLOCKED = 1 << 20  # so many bytes are copied without the interpreter lock
    LINE = 64
    BLOB_BYTES = 24  # where they begin in a blob
    BUNDLE_BYTES = 32  # and, without references, in a bundle
    LONGEST_HEAD = 1024

cdef object loads = pickle.loads


cdef object damaged():
    raise CorruptedError("a key or value in shared memory is damaged")


cdef inline int copy(char *to, const void *source, uint64_t n) noexcept:
    if n < UNLOCKED:
        memcpy(to, source, n)
    else:
        with nogil:
            memcpy(to, source, n)
    return 0


cdef inline uint64_t aligned(uint64_t at, uint64_t begin) noexcept:
    """The next place from `at` on that lies at a cache line, of bytes that begin so far behind one."""
    return (at + begin + LINE - 1) // LINE * LINE - begin


# --- on their way in ----------------------------------------------------------------------------------------------------------

@cython.final
cdef class Packed:
    cdef int refer(self, fs_value *v) except -1:
        cdef Py_ssize_t i, n = len(self.refs)
        if n == 0:
            return 0
        self.offsets = <uint64_t *>PyMem_Malloc(n * 8)
        if self.offsets == NULL:
            raise MemoryError()
        for i in range(n):
            self.offsets[i] = offset_of(<Ref>self.refs[i])
        v.refs = self.offsets
        v.ref_count = n
        return 0

    cdef int make(self, list pieces, fs_value *v, Heap heap) except -1:
        """In a block, which the pin refers to."""
        while not self.make_whole(pieces, v, heap):
            pass

    cdef bint make_whole(self, list pieces, fs_value *v, Heap heap) except -1:
        """False in a child that was forked meanwhile: what its parent is still filling in is not for it. It makes another."""
        cdef Pin pin = Pin.__new__(Pin)
        cdef fs_self me
        cdef fs_block *b
        cdef char *to
        cdef bint buried = False
        cdef uint64_t slot = slot_for_new(heap)
        whoami(heap.h, heap, &me)
        cdef uint64_t *place = fs_slot_word(heap.h, slot)
        cdef int r = fs_value_begin(&me, v, place, &b, &to)
        try:
            while True:
                if not again_or_bury(r, &me, &buried):
                    break
                place = fs_slot_word(heap.h, slot)
                with nogil:
                    r = fs_value_begin(&me, v, place, &b, &to)
            if r != FS_OK:
                fail(r, heap)
        except BaseException:
            fs_slot_unuse(heap.h, slot)
            raise
        pin.slot = slot
        pin.heap = heap
        cdef uint32_t maker = me.id
        lay(to, pieces)
        whoami(heap.h, heap, &me)
        if me.id != maker:
            return False
        r = fs_value_finish(&me, v, b)
        while again(r, &me):
            if me.id != maker:
                return False
            with nogil:
                r = fs_value_finish(&me, v, b)
        if r != FS_OK:
            fail(r, heap)
        v.made = fs_offset(heap.h, b)
        self.pin = pin
        return True

    def __dealloc__(self):
        PyMem_Free(self.offsets)


cdef int lay(char *to, list pieces) except -1:
    cdef uint64_t end = 0, at
    cdef Py_buffer view
    for at, piece in pieces:
        if at > end:
            memset(to + end, 0, at - end)
        if type(piece) is ndarray_class:
            end = at + <uint64_t>piece.nbytes
            place = PyMemoryView_FromMemory(to + at, piece.nbytes, PyBUF_WRITE)
            over(place, piece.shape, piece.dtype, is_fortran(piece))[...] = piece
            continue
        PyObject_GetBuffer(piece, &view, PyBUF_SIMPLE)
        copy(to + at, view.buf, view.len)
        end = at + view.len
        PyBuffer_Release(&view)
    return 0


cdef Packed packed(uint32_t kind, list pieces, uint64_t size, list refs, fs_value *v, Heap heap):
    """Fills in *v with bytes of a value: pieces, each (where, what), one behind the other. What is returned keeps them."""
    cdef Packed out = Packed.__new__(Packed)
    cdef bytes data
    out.refs = refs
    v.kind, v.value, v.size = kind, 0, size
    out.refer(v)
    if size >= FS_LARGE:
        out.make(pieces, v, heap)
        return out
    if len(pieces) == 1 and type(pieces[0][1]) is bytes:
        data = pieces[0][1]
    else:
        data = PyBytes_FromStringAndSize(NULL, size)
        lay(PyBytes_AS_STRING(data), pieces)
    out.data = data
    v.data = PyBytes_AS_STRING(data)
    return out


cdef Packed packed_with_buffers(bytes text, list buffers, list refs, fs_value *v, Heap heap):
    """A pickle and its PickleBuffers, in the order in which it asks for them."""
    cdef uint64_t begin = BUNDLE_BYTES + 8 * <uint64_t>len(refs), at = 16 + 16 * <uint64_t>len(buffers)
    cdef list pieces = [(0, None), (at, text)], words = [len(text), len(buffers)]
    cdef dict places = {}
    at += len(text)
    for buffer in buffers:
        if id(buffer) in places:
            words += places[id(buffer)]
            continue
        try:
            raw = buffer.raw()
        except BufferError:
            raise pickle.PicklingError("PickleBuffer can not be pickled when pointing to a non-contiguous buffer") from None
        if raw.nbytes:
            at = aligned(at, begin)
        pieces.append((at, raw))
        places[id(buffer)] = [at, raw.nbytes << 1 | raw.readonly]
        words += places[id(buffer)]
        at += raw.nbytes
    pieces[0] = (0, struct.pack(f"={len(words)}Q", *words))
    return packed(FS_V_PICKLE_BUFFERS, pieces, at, refs, v, heap)


# --- as they are seen ---------------------------------------------------------------------------------------------------------

@cython.no_gc
@cython.final
cdef class Span:
    """Bytes of a block that a handle slot refers to: read only, and there for as long as somebody looks at them."""
    cdef Pin pin
    cdef const unsigned char *p
    cdef Py_ssize_t n

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *>self.p, self.n, 1, flags)


cdef object span(Pin pin, const unsigned char *p, uint64_t n):
    cdef Span out = Span.__new__(Span)
    out.pin, out.p, out.n = pin, p, n
    return memoryview(out)


cdef bytes copied(const unsigned char *p, uint64_t n):
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
    copy(PyBytes_AS_STRING(out), p, n)
    return out


cdef bytearray copied_writable(const unsigned char *p, uint64_t n):
    cdef bytearray out = bytearray()
    PyByteArray_Resize(out, n)  # made of that size, it would complain about exports that it never had when memory is lacking
    copy(PyByteArray_AS_STRING(out), p, n)
    return out


cdef object loaded_with_buffers(const unsigned char *data, uint64_t size, list refs, Heap heap, Pin pin):
    """With a pin, the buffers are seen where they lie; else they are copies, those that could be written writable."""
    cdef uint64_t head[2]
    cdef uint64_t place[2]
    cdef uint64_t i, n
    cdef list buffers = []
    cdef Collecting before
    if size < 16:
        damaged()
    memcpy(head, data, 16)
    if head[1] > (size - 16) // 16 or head[0] > size - 16 - 16 * head[1]:
        damaged()
    for i in range(head[1]):
        memcpy(place, data + 16 + 16 * i, 16)
        n = place[1] >> 1
        if place[0] > size or n > size - place[0]:
            damaged()
        if pin is not None:
            buffers.append(span(pin, data + place[0], n))
        elif place[1] & 1:
            buffers.append(copied(data + place[0], n))
        else:
            buffers.append(copied_writable(data + place[0], n))
    text = copied(data + 16 + 16 * head[1], head[0])
    before = start_collecting([] if refs is None else refs, heap)
    try:
        return loads(text, buffers=buffers)
    finally:
        stop_collecting(before)


# --- ndarrays -----------------------------------------------------------------------------------------------------------------

cdef type ndarray_class = None
cdef object numpy_module = None
cdef object DTYPE = re.compile(r"[<>|][biufcSUVmM][1-9]\d*(\[\d*[A-Za-z]+(/\d+)?\])?")


cdef bint has_numpy() except -1:
    """Has this process imported it? Only then can a value be an ndarray."""
    global ndarray_class, numpy_module
    if ndarray_class is None:
        module = sys.modules.get("numpy")
        if not isinstance(getattr(module, "ndarray", None), type):
            return False
        ndarray_class, numpy_module = module.ndarray, module
    return True


cdef bint is_fortran(object array) except -1:
    return array.flags.f_contiguous and not array.flags.c_contiguous


cdef object over(object view, object shape, object dtype, bint fortran):
    return numpy_module.ndarray(shape, dtype, view, 0, None, "F" if fortran else "C")


cdef Packed packed_array(object value, fs_value *v, Heap heap):
    """None when it is no ndarray, or one of a dtype that only its pickle tells whole."""
    cdef bytes head
    cdef uint64_t at
    if not has_numpy() or type(value) is not ndarray_class:
        return None
    dtype = value.dtype
    text = dtype.str
    if not DTYPE.fullmatch(text) or dtype.metadata or dtype.names or numpy_module.dtype(text) != dtype:
        return None
    head = struct.pack(f"={value.ndim}q", *value.shape) + text.encode()
    at = aligned(8 + len(head), BLOB_BYTES)
    head = struct.pack("=IBBH", at, is_fortran(value), value.ndim, len(text)) + head
    return packed(FS_V_NDARRAY_BLOB, [(0, head), (at, value)], at + value.nbytes, [], v, heap)


cdef object array_at(const unsigned char *data, uint64_t size, Pin pin):
    """With a pin, the array is seen where it lies, read only; else a copy."""
    cdef uint32_t at
    cdef bytes head
    if not has_numpy():
        import_module("numpy")
        has_numpy()
    if size < 8:
        damaged()
    memcpy(&at, data, 4)
    if at < 8 or at > size or at > LONGEST_HEAD:
        damaged()
    head = copied(data, at)
    _, fortran, axes, length = struct.unpack_from("=IBBH", head)
    text = head[8 + 8 * axes : 8 + 8 * axes + length].decode("latin-1")
    if 8 + 8 * axes + length > at or not DTYPE.fullmatch(text):
        damaged()
    if pin is not None:
        view = span(pin, data + at, size - at)
    else:
        view = PyMemoryView_FromMemory(<char *>data + at, size - at, PyBUF_READ)
    try:
        array = over(view, struct.unpack_from(f"={axes}q", head, 8), numpy_module.dtype(text), fortran)
    except (TypeError, ValueError, OverflowError):
        damaged()
    if <uint64_t>array.nbytes != size - at:
        damaged()
    return array if pin is not None else array.copy("K")
