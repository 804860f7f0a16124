"""Where the entries of keys lie that are used again and again: inline parts of _dict.pyx."""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport uint64_t

from fastshm._c cimport fs_hint, fs_hint_take, fs_peek
from fastshm._codec cimport PyLong_CheckExact, PyUnicode_CheckExact, PyUnicode_GET_LENGTH
from fastshm._containers cimport most_kept

cdef enum:
    HINTED = 128  # keys whose places a handle keeps
    HINTED_SIZE = 256  # characters of the longest of them
    LOOKS = 8  # so many before it does


cdef struct Hint:
    PyObject *key  # an exact str or int, ours
    PyObject *candidate  # the last one that came by; only its address
    fs_hint at
    uint64_t word  # of the value when `object` was made of it
    PyObject *object


cdef struct Hints:
    Hint *lines  # NULL until there have been some looks
    int looks


cdef inline Hint *line_of(Hints *hints, object key) noexcept:
    cdef size_t at = <size_t><PyObject *>key
    return &hints.lines[(at >> 4 ^ at >> 11) % HINTED]


cdef inline int hints_end(Hints *hints) noexcept:
    cdef int i
    if hints.lines != NULL:
        for i in range(HINTED):
            Py_XDECREF(hints.lines[i].key)
            Py_XDECREF(hints.lines[i].object)
        PyMem_Free(hints.lines)
    return 0


cdef inline int remember(Hints *hints, const fs_peek *p, object key, PyObject *out) except -1:
    """The place *p of a key that is looked up for the second time, and perhaps the object of its value."""
    cdef Hint *h
    if not PyUnicode_CheckExact(key) and not PyLong_CheckExact(key):
        return 0
    if hints.lines == NULL:
        hints.looks += 1
        if hints.looks < LOOKS:
            return 0
        hints.lines = <Hint *>PyMem_Calloc(HINTED, sizeof(Hint))
        if hints.lines == NULL:
            raise MemoryError()
    h = line_of(hints, key)
    if h.key != <PyObject *>key:
        if h.candidate != <PyObject *>key:
            h.candidate = <PyObject *>key
            return 0
        if PyUnicode_CheckExact(key) and PyUnicode_GET_LENGTH(key) > HINTED_SIZE:
            return 0
        Py_INCREF(key)
        Py_XDECREF(h.key)
        h.key = <PyObject *>key
    Py_XDECREF(h.object)
    h.object = NULL
    fs_hint_take(&h.at, p)
    if out != NULL and most_kept:
        Py_INCREF(<object>out)
        h.object, h.word = out, p.seen.value
    return 0
