"""Shared state for the processes of one machine, at the speed of local memory.

A drop-in replacement for multiprocessing's Value, Array, locks and Manager, and more: see the README.
"""

from fastshm import heap
from fastshm._core import CorruptedError
from fastshm.context import default as _default
from fastshm.counter import ShardedCounter
from fastshm.managers import dict, list

__version__ = "0.1.0"

Array = _default.Array
Barrier = _default.Barrier
BoundedSemaphore = _default.BoundedSemaphore
Condition = _default.Condition
Event = _default.Event
Lock = _default.Lock
Manager = _default.Manager
RLock = _default.RLock
RawArray = _default.RawArray
RawValue = _default.RawValue
Semaphore = _default.Semaphore
Value = _default.Value

__all__ = [
    "Array",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "CorruptedError",
    "Event",
    "Lock",
    "Manager",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "ShardedCounter",
    "Value",
    "__version__",
    "dict",
    "heap",
    "list",
]
