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
    # dict(d) and `for k in d: d[k]` look up all keys, one after the other as they were given out:
    PyObject *first  # the first that was given out; only its address; NULL: none were
    bint followed  # it was then looked up
    Hint *ordered  # the lines of all of them; at first only the candidate is filled in
    Py_ssize_t count, at  # how many; the next one
    uint64_t keys_changed  # how often, when they were given out


cdef inline Hint *line_of(Hints *hints, object key) noexcept:
    cdef size_t at = <size_t><PyObject *>key
    return &hints.lines[(at >> 4 ^ at >> 11) % HINTED]


cdef inline Hint *line_in_order(Hints *hints, object key) noexcept:
    if hints.first == <PyObject *>key:
        hints.followed = True
    if hints.at < hints.count and hints.ordered[hints.at].candidate == <PyObject *>key:
        hints.at += 1
    if hints.at and hints.ordered[hints.at - 1].candidate == <PyObject *>key:
        return &hints.ordered[hints.at - 1]
    return NULL


cdef inline Hint *hint_of(Hints *hints, object key) noexcept:
    """The line that has the key; NULL. Not before there are lines."""
    cdef Hint *h = line_of(hints, key)
    cdef Hint *ordered = NULL
    if hints.first != NULL:
        ordered = line_in_order(hints, key)
    if h.key == <PyObject *>key:
        return h
    return ordered if ordered != NULL and ordered.key == <PyObject *>key else NULL


cdef inline int lines_end(Hint *lines, Py_ssize_t count) noexcept:
    cdef Py_ssize_t i
    if lines != NULL:
        for i in range(count):
            Py_XDECREF(lines[i].key)
            Py_XDECREF(lines[i].object)
        PyMem_Free(lines)
    return 0


cdef inline int hints_end(Hints *hints) noexcept:
    lines_end(hints.lines, HINTED)
    lines_end(hints.ordered, hints.count)
    return 0


cdef inline int hints_follow(Hints *hints, list keys, uint64_t keys_changed) except -1:
    """These keys are given out now. When the last time they were looked up after that, there will be a line for each."""
    cdef Py_ssize_t i
    cdef Hint *lines
    if hints.keys_changed != keys_changed or hints.count != len(keys):
        lines, i = hints.ordered, hints.count
        hints.ordered, hints.count = NULL, 0
        lines_end(lines, i)
        if hints.followed and hints.keys_changed == keys_changed:
            hints.ordered = <Hint *>PyMem_Calloc(len(keys), sizeof(Hint))
            if hints.ordered == NULL:
                raise MemoryError()
            hints.count = len(keys)
            for i in range(hints.count):
                hints.ordered[i].candidate = <PyObject *>keys[i]
        hints.keys_changed, hints.followed = keys_changed, False
    hints.first = <PyObject *>keys[0] if keys else NULL
    hints.at = 0
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
    h = hint_of(hints, key)
    if h == NULL and hints.count:
        h = line_in_order(hints, key)
        if h != NULL:
            Py_INCREF(key)
            Py_XDECREF(h.key)
            h.key = <PyObject *>key
    if h == NULL:
        h = line_of(hints, key)
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
