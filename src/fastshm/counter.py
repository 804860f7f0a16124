"""A counter that many processes add to at once."""

from __future__ import annotations

from fastshm import _counter, heap  # noqa: F401  (heap gives the core its hooks)

__all__ = ["ShardedCounter"]


class ShardedCounter(_counter.Stripes):
    """A 64-bit count spread over several cache lines, so that processes on several processors add to it without waiting for one
    another. After Java's LongAdder; a Value's `add` is for counts that few add to, or that are read as often as changed.

    `add(n=1)`, `sub(n=1)`     one atomic instruction each, without a lock; the count wraps around as int64 does
    `value`                    the sum. Additions that are made while it is taken may be in it or not, each for itself; those
                               that ended before are in it, those that begin after are not. So with additions of one sign it
                               lies between what the count was before and after; it need not be what the count was at any
                               one instant
    `exchange(new=0)`          takes a sum, as `value`, out of the count and leaves `new` (and what was added meanwhile): one
                               atomic instruction. Each addition is in what exactly one exchange returns, or still in the value
    `reset()`                  the same without a result

    A process that is killed at any instant has done each of its operations wholly or not at all, and leaves nothing that others
    would have to repair: no part of the count belongs to a process.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value})"
