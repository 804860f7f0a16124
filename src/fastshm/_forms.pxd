"""Items of up to eight bytes (item.h) between Python objects and words."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.long cimport PyLong_AsUnsignedLongLongMask
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastshm._c cimport *

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030c0000
    #define fs_is_short(o) PyUnstable_Long_IsCompact((const PyLongObject *)(o))
    #define fs_short(o) ((int64_t)PyUnstable_Long_CompactValue((const PyLongObject *)(o)))
    #else
    #define fs_is_short(o) ((size_t)Py_SIZE(o) + 1 <= 2)
    #define fs_short(o) ((int64_t)Py_SIZE(o) * ((PyLongObject *)(o))->ob_digit[0])
    #endif
    """
    bint fs_is_short(object number)  # a number that PyLong_CheckExact has seen: is it of one digit?
    int64_t fs_short(object number)

cdef extern from "Python.h":
    int64_t PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    double PyFloat_AS_DOUBLE(object number)
    bint PyLong_CheckExact(object o)
    bint PyFloat_CheckExact(object o)


cdef inline object box_rare(int form, uint64_t word):
    if form == FS_FLOAT:
        return <double>fs_item_float(word)
    if form == FS_CHAR:
        return PyBytes_FromStringAndSize(<char *>&word, 1)
    if form == FS_BOOL:
        return (word & 255) != 0
    return chr(<uint32_t>word)


cdef inline object box(int form, uint32_t size, uint64_t word):
    if form == FS_SIGNED:
        return fs_item_signed(size, word)
    if form == FS_DOUBLE:
        return fs_item_double(word)
    if form == FS_UNSIGNED:
        return fs_item_bits(size, word)
    return box_rare(form, word)


cdef inline int unbox(int form, object value, uint64_t *out) except -1:
    """The value's bits; what ctypes would refuse is a TypeError, and nothing is written."""
    out[0] = 0
    if form <= FS_UNSIGNED:
        if isinstance(value, int):
            out[0] = PyLong_AsUnsignedLongLongMask(value)
        elif isinstance(value, float) or not hasattr(type(value), "__index__"):
            raise TypeError(f"'{type(value).__name__}' object cannot be interpreted as an integer")
        else:
            out[0] = PyLong_AsUnsignedLongLongMask(value.__index__())
    elif form == FS_DOUBLE:
        out[0] = fs_double_item(value)
    elif form == FS_FLOAT:
        out[0] = fs_float_item(<float><double>value)
    elif form == FS_CHAR:
        if isinstance(value, (bytes, bytearray)) and len(value) == 1:
            out[0] = <unsigned char>value[0]
        elif isinstance(value, int) and 0 <= value < 256:
            out[0] = value
        else:
            raise TypeError("one character bytes, bytearray, or an integer in range(256) expected, not " + type(value).__name__)
    elif form == FS_BOOL:
        out[0] = 1 if value else 0
    else:
        if not isinstance(value, str):
            raise TypeError(f"unicode string expected instead of {type(value).__name__} instance")
        if len(value) != 1:
            raise TypeError("one character unicode string expected")
        out[0] = ord(value)
    return 0


cdef inline int unboxed_longer(int form, object value, uint64_t *out) except -1:
    cdef int overflow
    if form <= FS_UNSIGNED:
        if PyLong_CheckExact(value):
            out[0] = <uint64_t>PyLong_AsLongLongAndOverflow(value, &overflow)
            if not overflow:
                return 0
    elif form == FS_DOUBLE and PyFloat_CheckExact(value):
        out[0] = fs_double_item(PyFloat_AS_DOUBLE(value))
        return 0
    return unbox(form, value, out)


cdef inline int unboxed(int form, object value, uint64_t *out) except -1:
    """unbox(), with what is met most in front."""
    if form <= FS_UNSIGNED and PyLong_CheckExact(value) and fs_is_short(value):
        out[0] = <uint64_t>fs_short(value)
        return 0
    return unboxed_longer(form, value, out)


cdef inline int refuse_change(int form, uint32_t code, int what) except -1:
    name = ("add", "sub", "and", "or", "xor", "max", "min")[what]
    kind = repr(chr(code)) if code else "this"
    if form <= FS_FLOAT:
        raise TypeError(f"fetch_{name}() takes integers, and {kind} is no integer type: "
                        "use compare_exchange() in a loop, or get_lock()")
    raise TypeError(f"fetch_{name}() takes numbers, and {kind} is not a type with atomic arithmetic: "
                    "use exchange(), compare_exchange() or get_lock()")


cdef inline int operand(int form, uint32_t code, int what, object n, uint64_t *out) except -1:
    """The bits of what an item of that form is to be changed by; TypeError when it cannot be changed so."""
    if not fs_can_change(form, what):
        refuse_change(form, code, what)
    return unboxed(form, n, out)


cdef inline bint known_form(uint32_t code, int *form, uint32_t *size) noexcept:
    """What a type code stands for."""
    if code == c"q" or code == c"l":
        form[0], size[0] = FS_SIGNED, 8 if code == c"q" else sizeof(long)
    elif code == c"Q" or code == c"L":
        form[0], size[0] = FS_UNSIGNED, 8 if code == c"Q" else sizeof(unsigned long)
    elif code == c"d":
        form[0], size[0] = FS_DOUBLE, sizeof(double)
    elif code == c"f":
        form[0], size[0] = FS_FLOAT, sizeof(float)
    elif code == c"i":
        form[0], size[0] = FS_SIGNED, sizeof(int)
    elif code == c"I":
        form[0], size[0] = FS_UNSIGNED, sizeof(unsigned int)
    elif code == c"h":
        form[0], size[0] = FS_SIGNED, sizeof(short)
    elif code == c"H":
        form[0], size[0] = FS_UNSIGNED, sizeof(unsigned short)
    elif code == c"b":
        form[0], size[0] = FS_SIGNED, 1
    elif code == c"B":
        form[0], size[0] = FS_UNSIGNED, 1
    elif code == c"c":
        form[0], size[0] = FS_CHAR, 1
    elif code == c"?":
        form[0], size[0] = FS_BOOL, 1
    elif code == c"u" or code == c"w":
        form[0], size[0] = FS_WIDE, 4
    else:
        return False
    return True
