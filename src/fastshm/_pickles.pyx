"""Small plain values to and from pickles, without pickle.

What is met all the time (a dict, list or tuple of None, bools, ints of 64 bits, floats, ASCII texts and bytes, a few levels
deep) is written here in a third of the time that pickle takes, in opcodes of its protocol 4, so that every pickle module reads
it, and read likewise. As there, an object that occurs twice is one object again. All else is left to pickle."""

import pickle

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next, PyDict_SetItem
from cpython.list cimport PyList_Append
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text) noexcept
    const void *PyUnicode_DATA(object text) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object text) noexcept
    object PyUnicode_New(Py_ssize_t length, Py_UCS4 largest)
    int64_t PyLong_AsLongLongAndOverflow(object number, int *overflow) noexcept
    double PyFloat_AS_DOUBLE(object number) noexcept

cdef extern from *:
    """
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define fs_big_endian(x) __builtin_bswap64(x)
    #define fs_little_endian_32(x) (x)
    #define fs_little_endian_64(x) (x)
    #else
    #define fs_big_endian(x) (x)
    #define fs_little_endian_32(x) ((int32_t)__builtin_bswap32((uint32_t)(x)))
    #define fs_little_endian_64(x) ((int64_t)__builtin_bswap64((uint64_t)(x)))
    #endif
    """
    uint64_t fs_big_endian(uint64_t x) noexcept
    int32_t fs_little_endian_32(int32_t x) noexcept
    int64_t fs_little_endian_64(int64_t x) noexcept

cdef object loads = pickle.loads
cdef object NOT_SMALL = object()

cdef enum:
    ROOM = 512  # bytes of a small pickle
    MEMO = 64  # texts, bytes and containers in it
    STACK = 128  # objects on the way to be put into something
    DEPTH = 5

cdef enum:
    PROTO = 0x80, MARK = 0x28, STOP = 0x2e, MEMOIZE = 0x94, BINGET = 0x68
    NONE = 0x4e, NEWTRUE = 0x88, NEWFALSE = 0x89, BININT = 0x4a, BININT1 = 0x4b, BININT2 = 0x4d, LONG1 = 0x8a, BINFLOAT = 0x47
    SHORT_BINUNICODE = 0x8c, SHORT_BINBYTES = 0x43
    EMPTY_DICT = 0x7d, SETITEM = 0x73, SETITEMS = 0x75, EMPTY_LIST = 0x5d, APPEND = 0x61, APPENDS = 0x65
    EMPTY_TUPLE = 0x29, TUPLE1 = 0x85, TUPLE2 = 0x86, TUPLE3 = 0x87, TUPLE = 0x74
    FRAME = 0x95


# --- writing ------------------------------------------------------------------------------------------------------------------

cdef struct Out:
    unsigned char bytes[ROOM]
    int n
    PyObject *memo[MEMO]
    int memos


cdef inline bint put(Out *o, unsigned char code) noexcept:
    if o.n == ROOM:
        return False
    o.bytes[o.n] = code
    o.n += 1
    return True


cdef inline bint put_many(Out *o, const void *p, Py_ssize_t n) noexcept:
    if n > ROOM - o.n:
        return False
    memcpy(&o.bytes[o.n], p, n)
    o.n += <int>n
    return True


cdef inline bint memoize(Out *o, object value) noexcept:
    if o.memos == MEMO:
        return False
    o.memo[o.memos] = <PyObject *>value
    o.memos += 1
    return put(o, MEMOIZE)


cdef inline int known(Out *o, object value) noexcept:
    """1 when it was in the memo, and has been put; 0 when it was not; -1 when there is no room."""
    cdef int i
    for i in range(o.memos):
        if o.memo[i] == <PyObject *>value:
            return 1 if put(o, BINGET) and put(o, <unsigned char>i) else -1
    return 0


cdef bint put_int(Out *o, object value) noexcept:
    cdef int overflow
    cdef int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow)
    cdef int32_t short
    if overflow:
        return False
    if 0 <= number < 256:
        return put(o, BININT1) and put(o, <unsigned char>number)
    if -0x80000000 <= number <= 0x7fffffff:
        short = fs_little_endian_32(<int32_t>number)
        return put(o, BININT) and put_many(o, &short, 4)
    number = fs_little_endian_64(number)
    return put(o, LONG1) and put(o, 8) and put_many(o, &number, 8)


cdef bint put_flat(Out *o, unsigned char code, const void *p, Py_ssize_t n, object value) noexcept:
    cdef int found = known(o, value)
    if found:
        return found == 1
    return n < 256 and put(o, code) and put(o, <unsigned char>n) and put_many(o, p, n) and memoize(o, value)


cdef bint put_value(Out *o, object value, int depth) noexcept:
    cdef type kind = type(value)
    cdef double real
    cdef uint64_t word
    if kind is str:
        return PyUnicode_IS_COMPACT_ASCII(value) and put_flat(
            o, SHORT_BINUNICODE, PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value), value
        )
    if kind is int:
        return put_int(o, value)
    if kind is float:
        real = PyFloat_AS_DOUBLE(value)
        memcpy(&word, &real, 8)
        word = fs_big_endian(word)
        return put(o, BINFLOAT) and put_many(o, &word, 8)
    if value is None:
        return put(o, NONE)
    if kind is bool:
        return put(o, NEWTRUE if value is True else NEWFALSE)
    if kind is bytes:
        return put_flat(o, SHORT_BINBYTES, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), value)
    if depth and (kind is dict or kind is list or kind is tuple):
        return put_container(o, value, kind, depth - 1)
    return False


cdef bint put_container(Out *o, object value, type kind, int depth) noexcept:
    cdef PyObject *k
    cdef PyObject *v
    cdef Py_ssize_t at = 0, n
    cdef int found = known(o, value)
    if found:
        return found == 1
    if kind is dict:
        if not put(o, EMPTY_DICT) or not memoize(o, value):
            return False
        if not <dict>value:
            return True
        if not put(o, MARK):
            return False
        while PyDict_Next(<dict>value, &at, &k, &v):
            if not put_value(o, <object>k, depth) or not put_value(o, <object>v, depth):
                return False
        return put(o, SETITEMS)
    if kind is list:
        if not put(o, EMPTY_LIST) or not memoize(o, value):
            return False
        if not <list>value:
            return True
        if not put(o, MARK):
            return False
        for item in <list>value:
            if not put_value(o, item, depth):
                return False
        return put(o, APPENDS)
    n = len(<tuple>value)
    if n == 0:
        return put(o, EMPTY_TUPLE)
    if n > 3 and not put(o, MARK):
        return False
    for item in <tuple>value:
        if not put_value(o, item, depth):
            return False
    if known(o, value):  # a tuple inside itself, by way of a list or dict
        return False
    return put(o, <unsigned char>(TUPLE if n > 3 else TUPLE1 + n - 1)) and memoize(o, value)


cdef bytes dump_small(object value):
    """The pickle of a value, or None when it is not small and plain."""
    cdef Out o
    o.n = o.memos = 0
    if not put(&o, PROTO) or not put(&o, 4) or not put_value(&o, value, DEPTH) or not put(&o, STOP):
        return None
    return PyBytes_FromStringAndSize(<const char *>o.bytes, o.n)


# --- reading ------------------------------------------------------------------------------------------------------------------

cdef struct In:
    const unsigned char *p
    const unsigned char *end
    PyObject *stack[STACK]  # ours
    int top
    int marks[DEPTH + 1]
    int marked
    PyObject *memo[MEMO]  # ours, too
    int memos


cdef inline bint push(In *s, object value) except -1:
    if s.top == STACK:
        return False
    Py_INCREF(value)
    s.stack[s.top] = <PyObject *>value
    s.top += 1
    return True


cdef inline void drop_to(In *s, int top) noexcept:
    while s.top > top:
        s.top -= 1
        Py_XDECREF(s.stack[s.top])


cdef bint tuple_of(In *s, int n) except -1:
    """The last n of the stack become a tuple."""
    cdef object out
    cdef int i
    if n > s.top:
        return False
    out = PyTuple_New(n)
    for i in range(n):
        Py_INCREF(<object>s.stack[s.top - n + i])
        PyTuple_SET_ITEM(out, i, <object>s.stack[s.top - n + i])
    drop_to(s, s.top - n)
    return push(s, out)


cdef bint fill(In *s, int first, bint pairs) except -1:
    """What lies on the stack from `first` on goes into the dict or list before it."""
    cdef object into
    cdef int i
    if first < 1 or (s.top - first) % (2 if pairs else 1):
        return False
    into = <object>s.stack[first - 1]
    if type(into) is not (dict if pairs else list):
        return False
    if pairs:
        for i in range(first, s.top, 2):
            PyDict_SetItem(into, <object>s.stack[i], <object>s.stack[i + 1])
    else:
        for i in range(first, s.top):
            PyList_Append(into, <object>s.stack[i])
    drop_to(s, first)
    return True


cdef bint step(In *s, unsigned char code) except -1:
    """One opcode. False when it is none of those that are read here."""
    cdef Py_ssize_t left = s.end - s.p, n, i
    cdef int32_t short
    cdef int64_t number
    cdef uint64_t word
    cdef double real
    cdef object text
    if code == SHORT_BINUNICODE or code == SHORT_BINBYTES:
        if left < 1 or left - 1 < s.p[0]:
            return False
        n = s.p[0]
        s.p += 1 + n
        if code == SHORT_BINBYTES:
            return push(s, PyBytes_FromStringAndSize(<const char *>s.p - n, n))
        for i in range(n):
            if s.p[i - n] & 0x80:
                return False
        text = PyUnicode_New(n, 127)
        memcpy(<void *>PyUnicode_DATA(text), s.p - n, n)
        return push(s, text)
    if code == MEMOIZE:
        if s.top == 0 or s.memos == MEMO:
            return False
        Py_INCREF(<object>s.stack[s.top - 1])
        s.memo[s.memos] = s.stack[s.top - 1]
        s.memos += 1
        return True
    if code == BININT1 and left >= 1:
        s.p += 1
        return push(s, (s.p - 1)[0])
    if code == BININT2 and left >= 2:
        s.p += 2
        return push(s, (s.p - 2)[0] | (s.p - 1)[0] << 8)
    if code == BININT and left >= 4:
        memcpy(&short, s.p, 4)
        s.p += 4
        return push(s, fs_little_endian_32(short))
    if code == LONG1 and left >= 9 and s.p[0] == 8:
        memcpy(&number, s.p + 1, 8)
        s.p += 9
        return push(s, fs_little_endian_64(number))
    if code == BINFLOAT and left >= 8:
        memcpy(&word, s.p, 8)
        word = fs_big_endian(word)
        memcpy(&real, &word, 8)
        s.p += 8
        return push(s, real)
    if code == NONE:
        return push(s, None)
    if code == NEWTRUE or code == NEWFALSE:
        return push(s, code == NEWTRUE)
    if code == EMPTY_DICT:
        return push(s, {})
    if code == EMPTY_LIST:
        return push(s, [])
    if code == EMPTY_TUPLE:
        return push(s, ())
    if code == MARK:
        if s.marked > DEPTH:
            return False
        s.marks[s.marked] = s.top
        s.marked += 1
        return True
    if code == SETITEMS or code == APPENDS or code == TUPLE:
        if s.marked == 0:
            return False
        s.marked -= 1
        if s.marks[s.marked] > s.top:
            return False
        if code == TUPLE:
            return tuple_of(s, s.top - s.marks[s.marked])
        return fill(s, s.marks[s.marked], code == SETITEMS)
    if code == SETITEM or code == APPEND:
        return fill(s, s.top - (2 if code == SETITEM else 1), code == SETITEM)
    if code == TUPLE1 or code == TUPLE2 or code == TUPLE3:
        return tuple_of(s, code - TUPLE1 + 1)
    if code == BINGET and left >= 1 and s.p[0] < s.memos:
        s.p += 1
        return push(s, <object>s.memo[(s.p - 1)[0]])
    if code == FRAME and left >= 8:
        s.p += 8
        return True
    return False


cdef object load_small(const unsigned char *p, uint64_t size):
    """NOT_SMALL when it is left to pickle, which also says what is wrong with it."""
    cdef In s
    cdef unsigned char code
    cdef int i
    s.p, s.end = p + 2, p + size
    s.top = s.marked = s.memos = 0
    try:
        while s.p < s.end:
            code = s.p[0]
            s.p += 1
            if code == STOP:
                return <object>s.stack[0] if s.top == 1 and s.marked == 0 else NOT_SMALL
            if not step(&s, code):
                return NOT_SMALL
        return NOT_SMALL
    finally:
        drop_to(&s, 0)
        for i in range(s.memos):
            Py_XDECREF(s.memo[i])


cdef object load(const unsigned char *p, uint64_t size):
    """The value of a pickle in private memory, which may run code. The caller has asked whether pickles are refused."""
    cdef object out
    if 2 < size <= 2 * ROOM and p[0] == PROTO and p[1] <= 5:
        out = load_small(p, size)
        if out is not NOT_SMALL:
            return out
    return loads(PyBytes_FromStringAndSize(<const char *>p, size))
