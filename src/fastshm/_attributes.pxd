"""The dict of a handle's own attributes, which few handles need: it is made when the first attribute is set.

Cython makes it with the handle, and Python 3.11 calls methods without a look-up only when it is there. From 3.12 on the
interpreter does so only when it is not.
"""

cdef extern from *:
    """
    static inline void fs_no_dict_yet(PyObject *o) {
    #if PY_VERSION_HEX >= 0x030c0000
        PyObject **d = _PyObject_GetDictPtr(o);
        if (d)
            Py_CLEAR(*d);
    #else
        (void)o;
    #endif
    }
    """
    void no_dict_yet "fs_no_dict_yet"(object handle)  # for __cinit__
