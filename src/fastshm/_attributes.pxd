"""The dict of a handle's own attributes, which few handles need: until one is set, or the dict is asked for, there is none.

Cython makes it with the handle. From Python 3.12 on the interpreter calls methods without a look-up only when there is none
yet. Python 3.11 does so only when there is one: there all handles have the same empty one until then.
"""

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030c0000
    static inline int fs_share_dict(PyObject *o) {
        PyObject **d = _PyObject_GetDictPtr(o);
        if (d)
            Py_CLEAR(*d);
        return 0;
    }
    static inline int fs_own_dict(PyObject *Py_UNUSED(o)) { return 0; }
    #else
    static PyObject *fs_empty_dict = NULL;
    static inline int fs_share_dict(PyObject *o) {
        PyObject **d = _PyObject_GetDictPtr(o);
        if (!fs_empty_dict && !(fs_empty_dict = PyDict_New()))
            return -1;
        Py_INCREF(fs_empty_dict);
        Py_XSETREF(*d, fs_empty_dict);
        return 0;
    }
    static inline int fs_own_dict(PyObject *o) {
        PyObject **d = _PyObject_GetDictPtr(o);
        if (*d == fs_empty_dict) {
            PyObject *own = PyDict_New();
            if (!own)
                return -1;
            Py_SETREF(*d, own);
        }
        return 0;
    }
    #endif
    """
    int share_dict "fs_share_dict"(object handle) except -1  # for __cinit__
    int own_dict "fs_own_dict"(object handle) except -1  # before it is seen

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object o, object name, object value) except -1
    object PyObject_GenericGetDict(object o, void *nothing)
    int PyObject_GenericSetDict(object o, object value, void *nothing) except -1


cdef inline int set_attribute(object handle, object name, object value) except -1:
    """For __setattr__()."""
    own_dict(handle)
    return PyObject_GenericSetAttr(handle, name, value)


cdef inline object attributes_of(object handle):
    """Its `__dict__`, for own_methods()."""
    own_dict(handle)
    return PyObject_GenericGetDict(handle, NULL)


cdef inline int set_attributes(object handle, object value) except -1:
    own_dict(handle)
    return PyObject_GenericSetDict(handle, value, NULL)
