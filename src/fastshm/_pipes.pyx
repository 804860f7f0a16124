"""One message through a pipe, as multiprocessing's connections send them, under a mark that stays only where one was torn.

Who waits for the first byte does so without the mark. Between the first byte and the last no Python code runs, nor does what a
signal's handler raised come out, unless the other side has not gone on for a while.
"""

import os
import time

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.unistd cimport read

cdef extern from "endian.h" nogil:
    uint32_t htobe32(uint32_t number)
    uint64_t htobe64(uint64_t number)
    uint32_t be32toh(uint32_t number)
    uint64_t be64toh(uint64_t number)

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "limits.h":
    size_t PIPE_BUF

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
    short POLLIN, POLLOUT
    int poll(pollfd *files, unsigned long count, int timeout)

cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *parts, int count)

cdef double PATIENCE = 1.0  # seconds without a byte, with an exception in hand, after which the message is torn
cdef int32_t LONGER = -1  # in the place of a length that follows in 8 bytes


@cython.final
cdef class Transfer:
    """Of one message."""
    cdef int fd
    cdef short event
    cdef uint64_t begun  # bytes
    cdef object raised   # to come out at the end of the message
    cdef bint is_torn    # the rest did not follow

    cdef int wait(self) except -1:
        """Until a byte can go: for ever where nothing is at stake."""
        cdef pollfd file
        cdef int n
        cdef double ends = 0
        file.fd, file.events = self.fd, self.event
        while True:
            n = -1
            if self.raised is not None:
                ends = ends or time.monotonic() + PATIENCE
                n = <int>max(0, (ends - time.monotonic()) * 1000)
            with nogil:
                n = poll(&file, 1, n)
            if n > 0:
                return 0
            if n == 0:
                self.is_torn = True
                raise self.raised
            self.failed()

    cdef int failed(self) except -1:
        """After a call that moved nothing: returns if it is to be tried again."""
        cdef int code = errno
        if code == EAGAIN:
            return self.wait()
        if code != EINTR:
            raise OSError(code, os.strerror(code))
        return self.look()

    cdef int look(self) except -1:
        """What the handlers of signals that came raise."""
        if self.raised is None:
            try:
                PyErr_CheckSignals()
            except BaseException as error:
                if not self.begun:
                    raise
                self.raised = error
        return 0

    cdef int take(self, char *into, uint64_t length) except -1:
        cdef uint64_t done = 0
        cdef ssize_t n
        while done < length:
            if self.raised is not None:
                self.wait()
            with nogil:
                n = read(self.fd, into + done, <size_t>(length - done))
            if n > 0:
                done += <uint64_t>n
                self.begun += <uint64_t>n
                if done < length:
                    self.look()
            elif n < 0:
                self.failed()
            elif self.begun:
                raise OSError("got end of file during message")
            else:
                raise EOFError
        return 0

    cdef int discard(self, uint64_t length) except -1:
        cdef char scrap[4096]
        while length:
            self.take(scrap, min(length, sizeof(scrap)))
            length -= min(length, sizeof(scrap))
        return 0

    cdef int give(self, iovec *parts, int count) except -1:
        """With an exception in hand, no more than goes at once."""
        cdef ssize_t n
        cdef uint64_t wanted
        while count:
            if self.raised is not None:
                self.wait()
                parts.iov_len, count = min(parts.iov_len, PIPE_BUF), 1
            wanted = parts.iov_len + (parts[1].iov_len if count == 2 else 0)
            with nogil:
                n = writev(self.fd, parts, count)
            if n < 0:
                self.failed()
                continue
            self.begun += <uint64_t>n
            if <uint64_t>n < wanted:
                self.look()
            return 0
        return 0


cdef Transfer transfer(int fd, short event):
    cdef Transfer t = Transfer.__new__(Transfer)
    t.fd, t.event = fd, event
    return t


def send(int fd, message, mark):
    """`mark.value` is 1 while a part of the message is in the pipe; it stays 1 where the rest did not follow."""
    cdef Py_buffer view
    cdef Transfer t
    cdef iovec parts[2]
    cdef char head[12]
    cdef int32_t short_length = LONGER
    cdef uint64_t long_length, head_length = 4, whole
    PyObject_GetBuffer(message, &view, PyBUF_SIMPLE)
    try:
        if view.len <= 0x7fffffff:
            short_length = <int32_t>htobe32(<uint32_t>view.len)
        else:
            head_length = 12
            long_length = htobe64(<uint64_t>view.len)
            memcpy(head + 4, &long_length, 8)
        memcpy(head, &short_length, 4)
        whole = head_length + <uint64_t>view.len
        t = transfer(fd, POLLOUT)
        if whole > PIPE_BUF:  # else it goes as one
            t.wait()
            mark.value = 1
        try:
            while t.begun < whole:
                if t.begun < head_length:
                    parts[0].iov_base, parts[0].iov_len = head + t.begun, <size_t>(head_length - t.begun)
                    parts[1].iov_base, parts[1].iov_len = view.buf, <size_t>view.len
                    t.give(parts, 2)
                else:
                    parts[0].iov_base = <char *>view.buf + (t.begun - head_length)
                    parts[0].iov_len = <size_t>(whole - t.begun)
                    t.give(parts, 1)
        finally:
            if whole > PIPE_BUF and not t.is_torn:
                mark.value = 0
    finally:
        PyBuffer_Release(&view)
    if t.raised is not None:
        raise t.raised


def receive(int fd, mark):
    """`mark.value` is 1 while a part of the message has been read; it stays 1 where the rest did not follow."""
    cdef Transfer t = transfer(fd, POLLIN)
    cdef int32_t short_length
    cdef uint64_t length
    cdef bytes message = None
    t.wait()
    mark.value = 1
    try:
        t.take(<char *>&short_length, 4)
        if short_length == LONGER:
            t.take(<char *>&length, 8)
            length = be64toh(length)
        else:
            length = be32toh(<uint32_t>short_length)
        if length > <uint64_t>PY_SSIZE_T_MAX or (short_length != LONGER and length > 0x7fffffff):
            t.is_torn = True
            raise ValueError(f"the pipe of a queue holds {length} in the place of a message's length")
        t.look()
        try:
            message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
        except MemoryError as error:  # the messages that follow are whole
            t.raised = error
            t.discard(length)
        else:
            t.take(PyBytes_AS_STRING(message), length)
    finally:
        if not t.is_torn:
            mark.value = 0
    if t.raised is not None:
        raise t.raised
    return message
