"""Keys and values between Python and bytes.

A key becomes the bytes of its canonical form: equal keys have equal forms, whatever their types, so that the table compares
bytes only. What a key looked like is kept beside (FS_D_). Keys of other types than those known here are FS_K_OTHER: a
random word and their pickle; which of them are equal is found out with `==` by the container (see _dict.pyx).

A value is a word, a text, bytes, an ndarray, a container of the same segment, or a pickle, whose buffers lie beside it. Handles
inside a pickle are numbers into the list of objects that the value owns, so nothing in it keeps an address."""

import io
import os
import pickle
import sys
from decimal import Decimal
from fractions import Fraction
from multiprocessing.reduction import ForkingPickler
from weakref import WeakSet

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.complex cimport PyComplex_ImagAsDouble, PyComplex_RealAsDouble

from fastshm._buffers cimport (
    Packed, array_at, copied, copied_writable, loaded_with_buffers, packed, packed_array, packed_with_buffers, span,
)
from fastshm._core cimport (
    Collecting, Handle, check_open, make_handle, offset_of, start_collecting, stop_collecting,
)
from fastshm._parts cimport made_of, parts_of
from fastshm._pickles cimport dump_small, load

cdef extern from "Python.h":
    ctypedef Py_hash_t (*hashfunc)(object)
    ctypedef object (*richcmpfunc)(object, object, int)
    ctypedef struct PyTypeObject:
        hashfunc tp_hash
        richcmpfunc tp_richcompare
    object PyUnicode_DecodeUTF8(const char *p, Py_ssize_t size, const char *errors)

cdef object dumps = pickle.dumps, loads = pickle.loads
cdef type dict_proxy = None, list_proxy = None


def set_proxy_classes(type of_table, type of_vector):
    """The classes of the handles that a container stores as objects and hands out again."""
    global dict_proxy, list_proxy
    dict_proxy, list_proxy = of_table, of_vector


# --- pickles that are refused ------------------------------------------------------------------------------------------------

cdef int may_load(Heap heap) except -1:
    """Before each byte of a segment that is given to pickle."""
    if not heap.takes_pickles():
        raise pickle.UnpicklingError(
            f"a key or value in {heap.name} is stored as a pickle, and pickles of it are refused (allow_pickle=False): "
            "delete it, or, if all who can write there may run code here, do not refuse them"
        )
    return 0


cdef int may_dump(Heap heap, str what, object thing) except -1:
    if not heap.takes_pickles():
        raise pickle.PicklingError(
            f"a {what} of type {type(thing).__name__!r} would be stored in {heap.name} as a pickle, and those are refused "
            "(allow_pickle=False): None, bool, int of 64 bits, float, str, bytes, bytearray, ndarrays of plain numbers, and "
            "shared objects of the same segment need none (but for shared ndarrays and barriers with an action), nor do tuples "
            "and frozensets of str, int, bytes and None as keys"
        )
    return 0


# --- keys ---------------------------------------------------------------------------------------------------------------------

cdef inline bint behaves_as(object key, type base):
    """An instance of a builtin type whose class leaves hashing and comparing as they are: these go by its contents, whatever
    its other methods say."""
    if type(key) is base:
        return True
    if not isinstance(key, base):
        return False
    cdef type own = type(key)
    cdef PyTypeObject *kind = <PyTypeObject *>own
    return kind.tp_hash == (<PyTypeObject *>base).tp_hash and kind.tp_richcompare == (<PyTypeObject *>base).tp_richcompare


cdef bytes integer_bytes(object number):
    return number.to_bytes((number.bit_length() + 8) // 8, "little", signed=True)


cdef object integer_form(object number, int *form):
    cdef int overflow
    cdef int64_t word = PyLong_AsLongLongAndOverflow(number, &overflow)
    if overflow:
        form[0] = FS_K_BIG
        return integer_bytes(int.__index__(number))
    form[0] = FS_K_INT
    return PyBytes_FromStringAndSize(<char *>&word, 8)


cdef object float_form(double real, int *form):
    """None for NaN, which equals nothing."""
    if real != real:
        return None
    if real - real == 0 and real == <object>int(real):
        return integer_form(int(real), form)
    form[0] = FS_K_FLOAT
    return PyBytes_FromStringAndSize(<char *>&real, 8)


cdef enum:
    DIGITS = 100_000  # beyond so many places a Decimal is not spelled out as an int or a fraction


cdef object decimal_form(object key, int *form):
    sign, digits, exponent = key.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    if not text:
        return integer_form(0, form)
    form[0] = FS_K_RATIONAL
    short = text.rstrip("0")
    return f"{'-' if sign else ''}{short}E{exponent + len(text) - len(short)}".encode()


cdef object rational_form(object key, int *form):
    """An exact number of any kind."""
    if key != key:
        return None
    if type(key) is Decimal and key.is_finite() and not -DIGITS < key.as_tuple().exponent < DIGITS:
        return decimal_form(key, form)
    try:
        numerator, denominator = key.as_integer_ratio()
    except OverflowError:  # infinite
        return float_form(float(key), form)
    if denominator == 1:
        return integer_form(numerator, form)
    if denominator & (denominator - 1) == 0:
        try:
            real = numerator / denominator
        except OverflowError:
            real = None
        if real is not None and real == key and real.as_integer_ratio() == (numerator, denominator):
            return float_form(real, form)
    form[0] = FS_K_RATIONAL
    part = integer_bytes(numerator)
    return len(part).to_bytes(4, sys.byteorder) + part + integer_bytes(denominator)


cdef object complex_form(object key, int *form):
    cdef double parts[2]
    parts[0], parts[1] = PyComplex_RealAsDouble(key), PyComplex_ImagAsDouble(key)
    if parts[1] == 0:
        return float_form(parts[0], form)
    parts[0] += 0.0
    if parts[0] != parts[0] or parts[1] != parts[1]:
        return None
    form[0] = FS_K_COMPLEX
    return PyBytes_FromStringAndSize(<char *>parts, 16)


cdef object text_form(object key):
    return str.encode(key, "utf-8", "surrogatepass")


cdef bytes element(object key, bint *same):
    """One member of a tuple or frozenset: its form, its length, its bytes."""
    cdef int form = 0, display = 0
    cdef bytes part
    Py_EnterRecursiveCall(" in a nested key")
    try:
        part = canonical(key, &form, &display)
    finally:
        Py_LeaveRecursiveCall()
    if part is None:
        return None
    if display != FS_D_SAME:
        same[0] = False
    return bytes((form,)) + len(part).to_bytes(4, sys.byteorder) + part


cdef object members_form(object members, bint ordered, int *display):
    cdef list parts = []
    cdef bint same = True
    for member in members:
        part = element(member, &same)
        if part is None:
            return None
        parts.append(part)
    if not same:
        display[0] = FS_D_PICKLE
    return b"".join(parts if ordered else sorted(parts))


cdef object canonical(object key, int *form, int *display):
    """The bytes that all keys equal to this one share, or None when only `==` can tell."""
    cdef type kind = type(key)
    cdef object out
    display[0] = FS_D_SAME
    if behaves_as(key, str):
        form[0], out = FS_K_STR, text_form(key)
        display[0] = FS_D_SAME if kind is str else FS_D_PICKLE
    elif kind is bool:
        out = integer_form(key, form)
        display[0] = FS_D_BOOL
    elif behaves_as(key, int):
        out = integer_form(key, form)
        display[0] = FS_D_SAME if kind is int else FS_D_PICKLE
    elif key is None:
        form[0], out = FS_K_NONE, b""
    elif behaves_as(key, bytes):
        form[0], out = FS_K_BYTES, PyBytes_FromStringAndSize(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        display[0] = FS_D_SAME if kind is bytes else FS_D_PICKLE
    elif behaves_as(key, float):
        out = float_form(key, form)
        if kind is not float:
            display[0] = FS_D_PICKLE
        elif form[0] != FS_K_FLOAT:
            display[0] = FS_D_MINUS_ZERO if key == 0 and str(key)[0] == "-" else FS_D_FLOAT
    elif behaves_as(key, tuple):
        form[0], out = FS_K_TUPLE, members_form(key if kind is tuple else tuple.__iter__(key), True, display)
        if kind is not tuple:
            display[0] = FS_D_PICKLE
    elif behaves_as(key, frozenset):
        form[0], out = FS_K_FROZENSET, members_form(key if kind is frozenset else frozenset.__iter__(key), False, display)
        if kind is not frozenset:
            display[0] = FS_D_PICKLE
    elif behaves_as(key, complex):
        out = complex_form(key, form)
        display[0] = FS_D_SAME if form[0] == FS_K_COMPLEX and kind is complex else FS_D_PICKLE
    elif kind is Decimal or kind is Fraction:
        out = rational_form(key, form)
        display[0] = FS_D_PICKLE
    else:
        out = stand_in(key, form)
        display[0] = FS_D_PICKLE
    return out


cdef object stand_in(object key, int *form):
    """For foreign types that are numbers or texts by another name (NumPy's scalars, UserString): the form of the builtin that
    they equal and hash like, if there is one."""
    cdef type kind = type(key)
    cdef object like
    try:
        if hasattr(kind, "__index__"):
            like = key.__index__()
        elif hasattr(kind, "__float__"):
            like = float(key)
        elif hasattr(kind, "__complex__"):
            like = complex(key)
        elif hasattr(kind, "encode") and hasattr(kind, "casefold"):
            like = str(key)
        else:
            return None
    except (TypeError, ValueError, OverflowError):  # a number by its methods only
        return None
    if type(like) not in (int, float, complex, str) or hash(like) != hash(key) or not like == key:
        return None
    cdef int display = 0
    return canonical(like, form, &display)


cdef object encode_key(object key, fs_key *k, uint64_t seed, Heap heap):
    """The long way of key_of. FS_K_OTHER: the bytes are a fresh name for this key, to be used when no equal key is stored."""
    cdef int form = FS_K_OTHER, display = FS_D_SAME
    cdef bytes form_bytes, out
    hash(key)  # raises what dict would raise
    form_bytes = out = canonical(key, &form, &display)
    if out is None:
        form, display = FS_K_OTHER, FS_D_SAME
        form_bytes = out = os.urandom(8) + pickled(key, heap)
    elif display == FS_D_PICKLE:
        out = form_bytes + pickled(key, heap)
    if len(out) >= 0x7fffffff:
        raise OverflowError("a key of more than 2 GiB")
    k.bytes = <const unsigned char *>PyBytes_AS_STRING(out)
    k.length = <uint32_t>len(form_bytes)
    k.total = len(out)
    k.form = <uint8_t>form
    k.display = <uint8_t>display
    fs_key_prepare(k, seed)
    return out


cdef object kinds_that_return = WeakSet()  # of keys: what their pickles make are keys, too
cdef frozenset PLAIN_KINDS = frozenset((int, str, bytes, float, bool, complex, type(None)))


cdef int check_that_it_returns(object key, Heap heap) except -1:
    """Raises what a Manager's server would raise for a key whose pickle makes nothing that has a hash. Once for each class."""
    cdef type kind = type(key)
    if kind is tuple or kind is frozenset:
        Py_EnterRecursiveCall(" in a nested key")
        try:
            for part in key:
                check_that_it_returns(part, heap)
        finally:
            Py_LeaveRecursiveCall()
    elif kind not in PLAIN_KINDS and kind not in kinds_that_return:
        hash(loads(dumped(key, heap)))
        kinds_that_return.add(kind)
    return 0


cdef bytes pickled(object key, Heap heap):
    may_dump(heap, "key", key)
    check_that_it_returns(key, heap)
    return dumped(key, heap)


cdef bytes dumped(object key, Heap heap):
    buffer = io.BytesIO()
    cdef Collecting before = start_collecting(None, heap)
    try:
        ForkingPickler(buffer, 5).dump(key)
    finally:
        stop_collecting(before)
    return buffer.getvalue()


cdef object text_of(const char *p, uint64_t size):
    try:
        return PyUnicode_DecodeUTF8(p, size, "surrogatepass")
    except UnicodeDecodeError:
        return damaged()


cdef list split_members(const unsigned char *p, uint64_t size):
    cdef list out = []
    cdef uint32_t n
    while size:
        if size < 5:
            damaged()
        memcpy(&n, p + 1, 4)
        if n > size - 5:
            damaged()
        Py_EnterRecursiveCall(" in a nested key")
        try:
            out.append(decode_form(p + 5, n, p[0]))
        finally:
            Py_LeaveRecursiveCall()
        p += 5 + n
        size -= 5 + n
    return out


cdef object decode_form(const unsigned char *p, uint64_t size, int form):
    """The plainest key that has this form."""
    cdef int64_t word
    cdef double parts[2]
    if form == FS_K_STR:
        return text_of(<const char *>p, size)
    if form == FS_K_INT and size == 8:
        memcpy(&word, p, 8)
        return word
    if form == FS_K_BYTES:
        return PyBytes_FromStringAndSize(<const char *>p, size)
    if form == FS_K_NONE:
        return None
    if form == FS_K_FLOAT and size == 8:
        memcpy(parts, p, 8)
        return parts[0]
    if form == FS_K_BIG:
        return int.from_bytes(PyBytes_FromStringAndSize(<const char *>p, size), "little", signed=True)
    if form == FS_K_TUPLE:
        return tuple(split_members(p, size))
    if form == FS_K_FROZENSET:
        return frozenset(split_members(p, size))
    if form == FS_K_COMPLEX and size == 16:
        memcpy(parts, p, 16)
        return complex(parts[0], parts[1])
    return damaged()


cdef object decode_key(const unsigned char *p, uint64_t total, uint32_t length, uint8_t form, uint8_t display, Heap heap):
    """The key as it was when it was first stored. `p` is private memory."""
    if length > total:
        damaged()
    if form == FS_K_OTHER:
        if length < 8:
            damaged()
        may_load(heap)
        return loads(PyBytes_FromStringAndSize(<const char *>p + 8, length - 8))
    if display == FS_D_SAME:
        return decode_form(p, length, form)
    if display == FS_D_PICKLE:
        may_load(heap)
        return loads(PyBytes_FromStringAndSize(<const char *>p + length, total - length))
    key = decode_form(p, length, form)
    if type(key) is not int:
        return damaged()
    if display == FS_D_BOOL:
        return bool(key)
    return -0.0 if display == FS_D_MINUS_ZERO else float(key)


# --- values -------------------------------------------------------------------------------------------------------------------

cdef bint is_plain(object value, int depth, bint *large):
    """Builtin values all through: nothing that has reducers of its own, and no handles. Are there many bytes among them?"""
    cdef type kind = type(value)
    if kind is int or kind is str or kind is float or value is None or kind is bool:
        return True
    if kind is bytes:
        large[0] = large[0] or len(<bytes>value) >= FS_LARGE
        return True
    if depth == 0:
        return False
    if kind is dict:
        for k, v in (<dict>value).items():
            if not is_plain(k, depth - 1, large) or not is_plain(v, depth - 1, large):
                return False
        return True
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        for v in value:
            if not is_plain(v, depth - 1, large):
                return False
        return True
    return False


cdef object with_buffers(object value, dict done):
    """A plain value with buffers in the place of many bytes, so that these stay out of its pickle. `done`: by id, what has been
    met in it, so that what is in it twice is one object still."""
    cdef type kind = type(value)
    if kind is bytes and len(<bytes>value) < FS_LARGE or kind not in (bytes, dict, list, tuple):
        return value
    cdef object out = done.get(id(value))
    if out is None:
        if kind is bytes:
            out = pickle.PickleBuffer(value)
        elif kind is dict:
            out = {k: with_buffers(v, done) for k, v in (<dict>value).items()}
        else:
            out = [with_buffers(v, done) for v in value]
            if kind is tuple:
                out = tuple(out)
        done[id(value)] = out
    return out


cdef Packed pack(object value, fs_value *v, Heap heap):
    cdef list refs = [], buffers = []
    cdef bytes text
    cdef bint large = False
    cdef Collecting before
    may_dump(heap, "value", value)
    if is_plain(value, 6, &large):
        if large:
            text = dumps(with_buffers(value, {}), 5, buffer_callback=buffers.append)
            if buffers:
                return packed_with_buffers(text, buffers, refs, v, heap)
        text = dumps(value, 5)
        return packed(FS_V_PICKLE_BLOB, [(0, text)], len(text), refs, v, heap)
    file = io.BytesIO()
    pickler = ForkingPickler(file, 5, True, buffers.append)
    before = start_collecting(refs, heap)
    try:
        pickler.dump(value)
    finally:
        stop_collecting(before)
    text = file.getvalue()
    if buffers:
        return packed_with_buffers(text, buffers, refs, v, heap)
    return packed(FS_V_PICKLE_BUNDLE if refs else FS_V_PICKLE_BLOB, [(0, text)], len(text), refs, v, heap)


cdef Packed packed_parts(object value, fs_value *v, Heap heap):
    """Of a shared object; None for others."""
    cdef list refs = []
    cdef bytes text = parts_of(value, refs, heap)
    return packed(FS_V_SHARED, [(0, text)], len(text), refs, v, heap) if text is not None else None


cdef object encode_value(object value, fs_value *v, Heap heap):
    cdef type kind = type(value)
    cdef bytes data
    cdef Packed held
    cdef Ref ref
    if kind is dict or kind is list or kind is tuple:
        may_dump(heap, "value", value)
        data = dump_small(value)
        if data is None:
            return pack(value, v, heap)
        v.kind, v.value, v.size, v.data = FS_V_PICKLE_BLOB, 0, len(data), PyBytes_AS_STRING(data)
        return data
    if kind is str:
        data = text_form(value)
        v.kind = FS_V_UTF8 if len(data) <= 8 else FS_V_UTF8_BLOB
    elif kind is bytes:
        data = value
        v.kind = FS_V_BYTES if len(data) <= 8 else FS_V_BYTES_BLOB
    elif kind is bytearray:
        return packed(FS_V_BYTEARRAY_BLOB, [(0, value)], len(value), [], v, heap)
    elif (kind is dict_proxy or kind is list_proxy) and (<Handle>value).ref.heap is heap:
        ref = (<Handle>value).ref
        check_open(ref)
        v.kind = FS_V_OBJECT
        v.value = offset_of(ref)
        return value
    else:
        held = packed_array(value, v, heap)
        if held is None:
            held = packed_parts(value, v, heap)
        return held if held is not None else pack(value, v, heap)
    if len(data) >= FS_LARGE:
        return packed(v.kind, [(0, data)], len(data), [], v, heap)
    v.size = len(data)
    v.data = PyBytes_AS_STRING(data)
    v.value = 0
    if v.size <= 8:
        v.length = <uint32_t>v.size
        memcpy(&v.value, v.data, v.length)
    return data


cdef object decode_value(uint32_t kind, uint32_t length, uint64_t value, const unsigned char *data, uint64_t size, list refs,
                         Heap heap):
    """`data` is private memory, or never changes; `refs` hold what an owning value refers to."""
    cdef Collecting before
    cdef Ref ref
    if kind == FS_V_ASCII_BLOB:
        text = PyUnicode_New(size, 127)
        return text if fs_copy_ascii(<void *>PyUnicode_DATA(text), data, size) else damaged()
    if kind == FS_V_PICKLE_BLOB:
        may_load(heap)
        return load(data, size)
    if kind == FS_V_UTF8_BLOB:
        return text_of(<const char *>data, size)
    if kind == FS_V_BYTES_BLOB:
        return copied(data, size)
    if kind == FS_V_BYTEARRAY_BLOB:
        return copied_writable(data, size)
    if kind == FS_V_NDARRAY_BLOB:
        return array_at(data, size, None)
    if kind == FS_V_PICKLE_BUFFERS:
        may_load(heap)
        return loaded_with_buffers(data, size, refs, heap, None)
    if kind == FS_V_PICKLE_BUNDLE:
        may_load(heap)
        before = start_collecting(refs, heap)
        try:
            return loads(copied(data, size))
        finally:
            stop_collecting(before)
    if kind == FS_V_SHARED:
        return made_of(copied(data, size), refs)
    if kind == FS_V_OBJECT:
        ref = refs[0]
        return make_handle(dict_proxy if ref.o.block.kind == FS_TABLE else list_proxy, ref)
    if length > 8:
        damaged()
    if kind == FS_V_UTF8:
        return text_of(<const char *>&value, length)
    if kind == FS_V_BYTES:
        return PyBytes_FromStringAndSize(<const char *>&value, length)
    if kind == FS_V_ABSENT or kind > FS_V_LAST:
        damaged()
    return word_value(kind, length, value)


cdef dict WITHOUT_VIEW = {
    **dict.fromkeys((FS_V_ASCII, FS_V_UTF8, FS_V_ASCII_BLOB, FS_V_UTF8_BLOB), "a str"),
    FS_V_NONE: "None", FS_V_BOOL: "a bool", FS_V_INT: "an int", FS_V_FLOAT: "a float", FS_V_OBJECT: "a shared object",
    FS_V_SHARED: "a shared object",
    FS_V_PICKLE_BLOB: "an object that was pickled without buffers",
    FS_V_PICKLE_BUNDLE: "an object that was pickled without buffers",
}


cdef object view_of(uint32_t kind, uint32_t length, uint64_t value, const unsigned char *data, uint64_t size, list refs,
                    Heap heap, Pin pin):
    """The value where it lies; TypeError when it has no bytes that could be seen. The pin refers to it, `data` is in it."""
    if kind == FS_V_BYTES_BLOB or kind == FS_V_BYTEARRAY_BLOB:
        return span(pin, data, size)
    if kind == FS_V_NDARRAY_BLOB:
        return array_at(data, size, pin)
    if kind == FS_V_PICKLE_BUFFERS:
        may_load(heap)
        return loaded_with_buffers(data, size, refs, heap, pin)
    if kind == FS_V_BYTES:
        return memoryview(decode_value(kind, length, value, data, size, refs, heap))
    raise TypeError(
        f"{WITHOUT_VIEW.get(kind, 'this value')} has no view: bytes, bytearrays, ndarrays and objects that pickle with buffers "
        "(PickleBuffer, protocol 5) have one, others are read with []"
    )


cdef object as_stored(object value, const fs_value *v, object held, Heap heap):
    """What will be read of a value that is about to be stored: itself, if it is of a type that nobody can change."""
    cdef fs_seen seen
    if v.kind < FS_V_BYTEARRAY_BLOB or v.kind == FS_V_OBJECT:
        return value
    seen.kind, seen.value, seen.data, seen.size = v.kind, v.made, <const unsigned char *>v.data, v.size
    if v.made and fs_value_look(heap.h, &seen) != FS_OK:
        damaged()
    return decode_value(v.kind, 0, 0, seen.data, seen.size, (<Packed>held).refs if type(held) is Packed else None, heap)
