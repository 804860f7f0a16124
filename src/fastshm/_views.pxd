"""What _typed.pyx and _array.pyx need of _views.pyx."""

from libc.stdint cimport uint32_t

from fastshm._c cimport fs_array, fs_run
from fastshm._core cimport Pin, Ref

cdef Pin look(Ref ref, fs_array *a, fs_run *run)
cdef int export_array(
    Ref ref, fs_array *a, object owner, Py_buffer *view, int flags, bytes format, Py_ssize_t unit, tuple tail
) except -1
cdef int end_array(Py_buffer *view) except -1
cdef int export_cell(object owner, Py_buffer *view, int flags, void *p, uint32_t size, uint32_t code) except -1
cdef int end_cell(Py_buffer *view) except -1
