"""Shared state for the processes of one machine, at the speed of local memory.

A drop-in replacement for multiprocessing: Value, Array, locks, Manager and more, and everything else as it is there. See the
README.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

from fastshm import _parts, heap
from fastshm import modules as _modules
from fastshm._core import CorruptedError
from fastshm.caching import Cache, cache
from fastshm.collections import Counter
from fastshm.context import default as _default
from fastshm.counter import ShardedCounter
from fastshm.managers import dict as dict
from fastshm.managers import list as list
from fastshm.managers import live
from fastshm.managers import set as set
from fastshm.patching import patch as patch
from fastshm.patching import unpatch as unpatch
from fastshm.records import frozen
from fastshm.stores import unlink

__version__ = "0.1.0"

_parts.learn()

# Shared objects.
Array = _default.Array
Barrier = _default.Barrier
BoundedSemaphore = _default.BoundedSemaphore
Condition = _default.Condition
Event = _default.Event
JoinableQueue = _default.JoinableQueue
Lock = _default.Lock
Manager = _default.Manager
Queue = _default.Queue
RLock = _default.RLock
RawArray = _default.RawArray
RawValue = _default.RawValue
Semaphore = _default.Semaphore
SimpleQueue = _default.SimpleQueue
Value = _default.Value

# All else that multiprocessing has.
AuthenticationError = _default.AuthenticationError
BufferTooShort = _default.BufferTooShort
Pipe = _default.Pipe
Pool = _default.Pool
Process = _default.Process
ProcessError = _default.ProcessError
TimeoutError = _default.TimeoutError
SUBDEBUG, SUBWARNING = 5, 25
active_children = _default.active_children
allow_connection_pickling = _default.allow_connection_pickling
cpu_count = _default.cpu_count
current_process = _default.current_process
freeze_support = _default.freeze_support
get_all_start_methods = _default.get_all_start_methods
get_context = _default.get_context
get_logger = _default.get_logger
get_start_method = _default.get_start_method
log_to_stderr = _default.log_to_stderr
parent_process = _default.parent_process
reducer = _default.reducer
set_executable = _default.set_executable
set_forkserver_preload = _default.set_forkserver_preload
set_start_method = _default.set_start_method

# Without dict, list and set, which would hide the builtins from those who import all.
__all__ = [
    "SUBDEBUG",
    "SUBWARNING",
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Cache",
    "Condition",
    "CorruptedError",
    "Counter",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "ShardedCounter",
    "SimpleQueue",
    "TimeoutError",
    "Value",
    "__version__",
    "active_children",
    "allow_connection_pickling",
    "cache",
    "cpu_count",
    "current_process",
    "freeze_support",
    "frozen",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "heap",
    "live",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
    "unlink",
]

_modules.be_found()


def __getattr__(name: str) -> _Any:
    """The modules of multiprocessing that there is nothing to add to."""
    if name in _modules.NAMES:
        return _import_module(f"multiprocessing.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
