"""The stdlib's queues with locks of fastshm: a process that is killed while it waits for a message or for room holds up nobody.

A queue is still a pipe. One that was torn, because a process was killed in the middle of a message, is an error for those who
come after: what is left in it would be taken for messages. An exception from a signal's handler waits for the end of a message
that has begun (_pipes.pyx).
"""

from __future__ import annotations

import errno
from multiprocessing import queues
from multiprocessing.reduction import ForkingPickler
from queue import Empty, Full
from typing import Any

from fastshm import _pipes, sharedctypes, synchronize

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "SimpleQueue"]

# The stdlib's own methods, whatever patching has put in their place since; they are not in the stubs.
_Stdlib: Any = queues
_queue_init, _queue_state, _queue_set_state, _queue_reset = (
    getattr(_Stdlib.Queue, name) for name in ("__init__", "__getstate__", "__setstate__", "_reset")
)
_simple_init, _simple_state, _simple_set_state = (
    getattr(_Stdlib.SimpleQueue, name) for name in ("__init__", "__getstate__", "__setstate__")
)


class Locks:
    """What the stdlib's queues ask their context for."""

    Lock = synchronize.Lock
    Semaphore = synchronize.Semaphore
    BoundedSemaphore = synchronize.Semaphore  # room in a queue is given back by others: it must not come back from the dead
    Condition = synchronize.Condition


class _Pipe:
    """The two ends of a queue's pipe, as seen by who holds the lock of that end, and the marks that tell of a torn message."""

    def __init__(self) -> None:
        self.receiving = sharedctypes.RawValue("b")
        self.sending = sharedctypes.RawValue("b")

    def receive(self, reader: Any) -> bytes:
        _refuse_torn(self.receiving)
        return _pipes.receive(reader.fileno(), self.receiving)

    def send(self, writer: Any, message: Any) -> None:
        _refuse_torn(self.sending)
        _pipes.send(writer.fileno(), message, self.sending)


class _PlainPipe:
    """That of a queue which was made before the stdlib's classes were patched."""

    def receive(self, reader: Any) -> bytes:
        message: bytes = reader.recv_bytes()
        return message

    def send(self, writer: Any, message: Any) -> None:
        writer.send_bytes(message)


_plain = _PlainPipe()


def _refuse_torn(mark: Any) -> None:
    if mark.value:
        raise OSError(errno.EIO, "this queue is broken: a process ended in the middle of a message")


def _pipe_of(q: Any) -> _Pipe | _PlainPipe:
    pipe: _Pipe | _PlainPipe = vars(q).get("_pipe", _plain)
    return pipe


# These methods are put into the stdlib's classes, too: patching.py.


class SimpleQueue(_Stdlib.SimpleQueue):  # type: ignore[misc]
    """multiprocessing's SimpleQueue, which outlives those that are killed while they wait at it."""

    def __init__(self, *, ctx: Any = None) -> None:
        _simple_init(self, ctx=Locks)
        self._pipe = _Pipe()

    def __getstate__(self) -> Any:
        return _simple_state(self), _pipe_of(self)

    def __setstate__(self, state: Any) -> None:
        inherited, self._pipe = state
        _simple_set_state(self, inherited)

    def get(self) -> Any:
        with self._rlock:
            message = _pipe_of(self).receive(self._reader)
        return ForkingPickler.loads(message)

    def put(self, obj: Any) -> None:
        message = ForkingPickler.dumps(obj)
        with self._wlock:
            _pipe_of(self).send(self._writer, message)


class Queue(_Stdlib.Queue):  # type: ignore[misc]
    """multiprocessing's Queue, which outlives those that are killed while they wait at it."""

    def __init__(self, maxsize: int = 0, *, ctx: Any = None) -> None:
        self._pipe = _Pipe()
        _queue_init(self, maxsize, ctx=Locks)

    def __getstate__(self) -> Any:
        return _queue_state(self), _pipe_of(self)

    def __setstate__(self, state: Any) -> None:
        inherited, self._pipe = state
        _queue_set_state(self, inherited)

    def _reset(self, *args: Any, **kwargs: Any) -> None:
        _queue_reset(self, *args, **kwargs)
        pipe, reader, writer = _pipe_of(self), self._reader, self._writer
        self._recv_bytes = lambda: pipe.receive(reader)
        self._send_bytes = lambda message: pipe.send(writer, message)


class JoinableQueue(Queue, _Stdlib.JoinableQueue):  # type: ignore[misc]
    """multiprocessing's JoinableQueue, likewise."""

    def __init__(self, maxsize: int = 0, *, ctx: Any = None) -> None:
        Queue.__init__(self, maxsize)
        self._unfinished_tasks = synchronize.Semaphore(0)
        self._cond = synchronize.Condition()

    def __getstate__(self) -> Any:
        return Queue.__getstate__(self), self._cond, self._unfinished_tasks

    def __setstate__(self, state: Any) -> None:
        inherited, self._cond, self._unfinished_tasks = state
        Queue.__setstate__(self, inherited)
