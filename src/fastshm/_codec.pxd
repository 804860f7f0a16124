"""Keys and values between Python and bytes: the cases that are met all the time, inline. _codec.pyx has the others."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from fastshm._c cimport *
from fastshm._buffers cimport damaged
from fastshm._core cimport Heap, Pin, Ref

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const void *PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    object PyUnicode_New(Py_ssize_t length, Py_UCS4 largest)
    int64_t PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    double PyFloat_AS_DOUBLE(object number)
    bint PyLong_CheckExact(object o)
    bint PyUnicode_CheckExact(object o)
    bint PyFloat_CheckExact(object o)
    int Py_EnterRecursiveCall(const char *where) except *
    void Py_LeaveRecursiveCall()

cdef object text_of(const char *p, uint64_t size)
cdef object encode_key(object key, fs_key *k, uint64_t seed, Heap heap)
cdef object encode_value(object value, fs_value *v, Heap heap)
cdef object decode_key(const unsigned char *p, uint64_t total, uint32_t length, uint8_t form, uint8_t display, Heap heap)
cdef object decode_value(uint32_t kind, uint32_t length, uint64_t value, const unsigned char *data, uint64_t size, list refs,
                         Heap heap)
cdef object view_of(uint32_t kind, uint32_t length, uint64_t value, const unsigned char *data, uint64_t size, list refs,
                    Heap heap, Pin pin)
cdef object as_stored(object value, const fs_value *v, object held, Heap heap)


cdef inline object key_of(object key, fs_key *k, uint64_t seed, PyObject *heap):
    """Fills in *k. What is returned keeps k.bytes alive, together with the key itself. FS_K_OTHER: see encode_key."""
    cdef int overflow
    cdef int64_t number
    if PyUnicode_CheckExact(key):
        if PyUnicode_IS_COMPACT_ASCII(key) and PyUnicode_GET_LENGTH(key) < 0x7fffffff:
            k.bytes = <const unsigned char *>PyUnicode_DATA(key)
            k.length = <uint32_t>PyUnicode_GET_LENGTH(key)
            k.total = k.length
            k.form = FS_K_STR
            k.display = FS_D_SAME
            fs_key_prepare(k, seed)
            return None
    elif PyLong_CheckExact(key):
        number = PyLong_AsLongLongAndOverflow(key, &overflow)
        if not overflow:
            fs_key_of_word(k, FS_K_INT, FS_D_SAME, <uint64_t>number, seed)
            return None
    return encode_key(key, k, seed, <Heap>heap)


cdef inline object value_of(object value, fs_value *v, Heap heap):
    """Fills in *v. What is returned keeps v.data and v.refs alive, together with the value itself."""
    cdef int overflow
    cdef double real
    v.length = 0
    v.ref_count = v.made = 0
    v.data = v.refs = NULL
    v.size = 0
    if PyLong_CheckExact(value):
        v.value = <uint64_t>PyLong_AsLongLongAndOverflow(value, &overflow)
        if not overflow:
            v.kind = FS_V_INT
            return None
    elif PyUnicode_CheckExact(value):
        if PyUnicode_IS_COMPACT_ASCII(value):
            v.size = <uint64_t>PyUnicode_GET_LENGTH(value)
            if v.size <= 8:
                v.kind = FS_V_ASCII
                v.length = <uint32_t>v.size
                v.value = 0
                memcpy(&v.value, PyUnicode_DATA(value), v.length)
            else:
                v.kind = FS_V_ASCII_BLOB
                v.data = PyUnicode_DATA(value)
            return None
    elif value is None:
        v.kind = FS_V_NONE
        v.value = 0
        return None
    elif PyFloat_CheckExact(value):
        v.kind = FS_V_FLOAT
        real = PyFloat_AS_DOUBLE(value)
        memcpy(&v.value, &real, 8)
        return None
    elif value is True or value is False:
        v.kind = FS_V_BOOL
        v.value = 1 if value is True else 0
        return None
    return encode_value(value, v, heap)


cdef inline bint encode_plain(object key, object value, fs_key *k, fs_value *v, uint64_t seed) except -1:
    """What key_of and value_of do, for what needs nothing kept alive and runs no code; False for all else."""
    cdef int overflow
    cdef int64_t number
    if PyUnicode_CheckExact(key):
        if not PyUnicode_IS_COMPACT_ASCII(key) or PyUnicode_GET_LENGTH(key) >= 0x7fffffff:
            return False
    elif not PyLong_CheckExact(key):
        return False
    else:
        PyLong_AsLongLongAndOverflow(key, &overflow)
        if overflow:
            return False
    if PyLong_CheckExact(value):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow:
            return False
        v.kind, v.length, v.value, v.data = FS_V_INT, 0, <uint64_t>number, NULL
    elif value is None or PyFloat_CheckExact(value) or (PyUnicode_CheckExact(value) and PyUnicode_IS_COMPACT_ASCII(value)):
        value_of(value, v, None)
    else:
        return False
    key_of(key, k, seed, NULL)
    return True


cdef inline object word_value(uint32_t kind, uint32_t length, uint64_t value):
    """The object for a kind below FS_V_OWNING but FS_V_UTF8 and FS_V_BYTES."""
    cdef double real
    cdef object text
    if kind == FS_V_INT:
        return <int64_t>value
    if kind == FS_V_ASCII:
        if length > 8 or value & <uint64_t>0x8080808080808080:
            return damaged()
        text = PyUnicode_New(length, 127)
        memcpy(<void *>PyUnicode_DATA(text), &value, length)
        return text
    if kind == FS_V_FLOAT:
        memcpy(&real, &value, 8)
        return real
    if kind == FS_V_BOOL:
        return value != 0
    return None if kind == FS_V_NONE else damaged()
