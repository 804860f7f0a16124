"""A counter that many processes add to at once."""

from __future__ import annotations

from fastshm import heap  # noqa: F401  (it gives the core its hooks)
from fastshm._counter import ShardedCounter

__all__ = ["ShardedCounter"]
