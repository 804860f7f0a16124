"""Items of an array side by side in private memory: made of Python objects before its lock is taken, and made into objects
after it was left."""

cimport cython
from cpython.buffer cimport (
    PyBUF_RECORDS_RO, PyBuffer_IsContiguous, PyBuffer_Release, PyBuffer_ToContiguous, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastshm._c cimport *
from fastshm._forms cimport box, known_form, unboxed

cdef extern from *:
    """
    static int fs_floats_of(PyObject *list, Py_ssize_t n, double *to) {
        for (Py_ssize_t k = 0; k < n; k++) {
            PyObject *o = PyList_GET_ITEM(list, k);
            if (!PyFloat_CheckExact(o))
                return 0;
            to[k] = PyFloat_AS_DOUBLE(o);
        }
        return 1;
    }

    static int fs_short_ints_of(PyObject *list, Py_ssize_t n, int64_t *to) {
        for (Py_ssize_t k = 0; k < n; k++) {
            PyObject *o = PyList_GET_ITEM(list, k);
            if (!PyLong_CheckExact(o) || !fs_is_short(o))
                return 0;
            to[k] = fs_short(o);
        }
        return 1;
    }
    """
    bint floats_of "fs_floats_of"(object list, Py_ssize_t n, double *to) noexcept
    bint short_ints_of "fs_short_ints_of"(object list, Py_ssize_t n, int64_t *to) noexcept

cdef extern from "Python.h":
    object PyList_New(Py_ssize_t n)
    void PyList_SET_ITEM(object list, Py_ssize_t i, object o)
    object PyFloat_FromDouble(double d)
    const Py_ssize_t PY_SSIZE_T_MAX


@cython.final
cdef class Packed:
    cdef bint is_view(self, int form, uint32_t size, object values) except -1:
        """Of a buffer whose items are of this form: then they need not be looked at one by one."""
        try:
            PyObject_GetBuffer(values, &self.view, PyBUF_RECORDS_RO)
        except (BufferError, ValueError):  # the latter is NumPy's
            return False
        self.viewed = True
        if not is_form(form, size, &self.view):
            PyBuffer_Release(&self.view)
            self.viewed = False
            return False
        self.count = self.view.len // size
        self.data = <const char *>self.view.buf
        if not PyBuffer_IsContiguous(&self.view, b"C"):
            self.raw = PyBytes_FromStringAndSize(NULL, self.view.len)
            self.data = PyBytes_AS_STRING(self.raw)
            PyBuffer_ToContiguous(<void *>self.data, &self.view, self.view.len, b"C")
        return True

    cdef int take(self, bytes raw, uint32_t size) except -1:
        self.raw = raw
        self.data = PyBytes_AS_STRING(raw)
        self.count = <uint64_t>len(raw) // size
        return 0

    cdef int reverse(self, uint32_t size) except -1:
        cdef bytes raw = PyBytes_FromStringAndSize(NULL, self.count * size)
        cdef char *to = PyBytes_AS_STRING(raw)
        cdef uint64_t i
        for i in range(self.count):
            memcpy(to + i * size, self.data + (self.count - 1 - i) * size, size)
        return self.take(raw, size)

    def __dealloc__(self):
        if self.viewed:
            PyBuffer_Release(&self.view)


cdef bint is_form(int form, uint32_t size, Py_buffer *view) noexcept:
    cdef const char *code = "B"
    cdef int other = FS_BYTES_ONLY
    cdef uint32_t native
    if view.format != NULL:
        code = view.format
    if code[0] == b"@" or code[0] == b"=" or code[0] == b"<":
        code += 1
    if form == FS_BYTES_ONLY:
        return view.itemsize == 1 and view.len % size == 0
    if code[0] == 0 or code[1] != 0 or view.itemsize != <Py_ssize_t>size or view.ndim != 1:
        return False
    if form == FS_CHAR:
        return code[0] == b"c" or code[0] == b"B" or code[0] == b"s"
    return known_form(code[0], &other, &native) and other == form


cdef bint packed_list(int form, uint32_t size, list values, char *to, Py_ssize_t n) noexcept:
    """What is met most, without a call for each: False when it is something else."""
    if form == FS_DOUBLE:
        return floats_of(values, n, <double *>to)
    return form <= FS_UNSIGNED and size == 8 and short_ints_of(values, n, <int64_t *>to)


cdef Packed packed(int form, uint32_t size, object values):
    """Nothing shared is touched meanwhile, so a value of the wrong type spoils nothing."""
    cdef Packed out = Packed.__new__(Packed)
    cdef Py_ssize_t n, k = 0
    cdef uint64_t word
    cdef char *to
    cdef bytes raw
    if form == FS_CHAR and isinstance(values, str) and values:
        raise TypeError("bytes expected instead of str instance")
    if not isinstance(values, (list, tuple)) and PyObject_CheckBuffer(values) and out.is_view(form, size, values):
        return out
    n = len(values)
    if n > PY_SSIZE_T_MAX // size:
        raise OverflowError("array too large")
    raw = PyBytes_FromStringAndSize(NULL, n * size)
    to = PyBytes_AS_STRING(raw)
    if type(values) is list and packed_list(form, size, <list>values, to, n):
        out.take(raw, size)
        return out
    for value in values:
        if k == n:
            raise ValueError("Can only assign sequence of same size")
        unboxed(form, value, &word)
        fs_item_write(to + k * size, size, word)
        k += 1
    if k != n:
        raise ValueError("Can only assign sequence of same size")
    out.take(raw, size)
    return out


cdef object listed(int form, uint32_t size, const char *raw, Py_ssize_t n):
    cdef Py_ssize_t k
    cdef object item
    if form == FS_CHAR:
        return PyBytes_FromStringAndSize(raw, n)
    cdef object out = PyList_New(n)
    for k in range(n):
        if form == FS_DOUBLE:
            item = PyFloat_FromDouble((<const double *>raw)[k])
        else:
            item = box(form, size, fs_item_read(raw + k * size, size))
        Py_INCREF(item)
        PyList_SET_ITEM(out, k, item)
    return "".join(out) if form == FS_WIDE else out
