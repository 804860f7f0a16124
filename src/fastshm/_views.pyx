"""Buffers on shared bytes, and what keeps these where they are as long as somebody looks."""

from cpython.buffer cimport PyBUF_F_CONTIGUOUS, PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t

from fastshm._c cimport *
from fastshm._calls cimport again, fs_identify_by, whoami
from fastshm._core cimport Pin, Ref, check_open, fail, identify, reserve_slot

fs_identify_by(identify)


# --- one item -----------------------------------------------------------------------------------------------------------------

cdef struct Cell:
    Py_ssize_t shape
    Py_ssize_t stride
    char format[2]


cdef int export_cell(object owner, Py_buffer *view, int flags, void *p, uint32_t size, uint32_t code) except -1:
    """One item of that type code."""
    cdef Cell *e = <Cell *>PyMem_Malloc(sizeof(Cell))
    if e == NULL:
        raise MemoryError()
    e.shape = 1
    e.stride = size
    e.format[0], e.format[1] = c"w" if code == c"u" else <char>code, 0
    view.buf = p
    view.obj = owner
    view.len = size
    view.itemsize = e.stride
    view.readonly = 0
    view.ndim = 1
    view.format = e.format if flags & PyBUF_FORMAT else NULL
    view.shape = &e.shape if flags & PyBUF_ND else NULL
    view.strides = &e.stride if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
    view.suboffsets = NULL
    view.internal = e
    return 0


cdef int end_cell(Py_buffer *view) except -1:
    PyMem_Free(view.internal)
    return 0


# --- arrays -------------------------------------------------------------------------------------------------------------------

cdef Pin look(Ref ref, fs_array *a, fs_run *run):
    """Where the items are at this instant, and what keeps them there: None when that is the object itself."""
    cdef Pin pin
    cdef fs_self me
    cdef uint64_t slot
    cdef uint64_t *place
    cdef int r
    if fs_load_relaxed(&a.items) == 0 and fs_run_make(ref.heap.h, a, run) == FS_OK and run.items == 0:
        if fs_load_acquire(&a.items) == 0:  # so they were there when the count was read
            return None
    pin = Pin.__new__(Pin)
    slot = reserve_slot(ref.heap)
    whoami(ref, &me)
    place = fs_slot_word(ref.heap.h, slot)
    r = fs_array_pin(&me, a, place, run)
    try:
        while again(r, &me):
            place = fs_slot_word(ref.heap.h, slot)
            with nogil:
                r = fs_array_pin(&me, a, place, run)
    except BaseException:
        fs_slot_unuse(ref.heap.h, slot)
        raise
    if r == FS_OK:
        pin.slot = slot
        pin.heap = ref.heap
        return pin
    fs_slot_unuse(ref.heap.h, slot)
    if r != FS_MISSING:
        fail(r, ref.heap)
    return None


cdef struct Exported:
    PyObject *kept  # the pin and the format
    Py_ssize_t numbers[2]  # the shape, then the strides; as many of each as there are axes


cdef int export_array(
    Ref ref, fs_array *a, object owner, Py_buffer *view, int flags, bytes format, Py_ssize_t unit, tuple tail
) except -1:
    """The items as elements of `unit` bytes; the first axis counts the items, or all elements when there are no others."""
    cdef fs_run run
    cdef Exported *e
    cdef Py_ssize_t *shape
    cdef Py_ssize_t *strides
    cdef Py_ssize_t step = unit
    cdef int axes = 1 + <int>len(tail), k
    check_open(ref)
    if format is None and flags & PyBUF_FORMAT:
        raise BufferError("elements of this type have no format: use numpy()")
    if axes > 1 and flags & PyBUF_F_CONTIGUOUS == PyBUF_F_CONTIGUOUS:
        raise BufferError("the last axis is the one that lies side by side")
    cdef object kept = (look(ref, a, &run), format)
    e = <Exported *>PyMem_Malloc(sizeof(Exported) + 2 * axes * sizeof(Py_ssize_t))
    if e == NULL:
        raise MemoryError()
    shape = e.numbers
    strides = e.numbers + axes
    for k in range(axes - 1, 0, -1):
        shape[k] = tail[k - 1]
        strides[k] = step
        step *= shape[k]
    strides[0] = step
    view.len = run.count * run.size
    shape[0] = view.len // step
    Py_INCREF(kept)
    e.kept = <PyObject *>kept
    view.buf = run.p
    view.obj = owner
    view.itemsize = unit
    view.readonly = 0
    view.ndim = axes
    view.format = PyBytes_AS_STRING(format) if flags & PyBUF_FORMAT else NULL
    view.shape = shape if flags & PyBUF_ND else NULL
    view.strides = strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
    view.suboffsets = NULL
    view.internal = e
    return 0


cdef int end_array(Py_buffer *view) except -1:
    cdef Exported *e = <Exported *>view.internal
    cdef object kept = <object>e.kept
    Py_DECREF(kept)
    PyMem_Free(e)
    return 0
