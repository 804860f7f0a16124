"""Is a recorded history linearizable?

The search of J. Wing and C. Gong, "Testing and Verifying Concurrent Objects" (1993): put one call after the other in an order
that real time allows, as long as a sequential specification gives the results that were seen, and go back when it does not.
With the memory of G. Lowe, "Testing for Linearizability" (2017): the same calls done with the same state reached need no
second look.

A history is a list of sessions; a session is the calls of one thread of control, one after the other. Only the last call of
a session may be pending: its thread was killed inside, so it may have happened, at any time since it began, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

NEVER = 1 << 62  # the end of a pending call


class Call(NamedTuple):
    """One call, as seen from outside: it happened between `begin` and `end`, by one clock for all."""

    begin: int
    end: int
    name: str
    arguments: tuple[Any, ...] = ()
    result: Any = None

    @property
    def pending(self) -> bool:
        return self.end == NEVER


Specification = Callable[[Any, Call], tuple[Hashable, Any]]
"""From the state before and the call to the state after and the result."""


def is_linearizable(sessions: Sequence[Sequence[Call]], specification: Specification, state: Hashable) -> bool:
    """Whether some order of the calls explains every result, beginning from `state`.

    Two calls may be ordered freely unless one ended before the other began; equal readings of the clock say nothing.
    """
    sessions = [session for session in sessions if session]
    for session in sessions:
        if any(a.end > b.begin for a, b in pairwise(session)):
            raise ValueError("the calls of a session overlap, or one of them is pending and not the last")
    begin = tuple(0 for _ in sessions)
    stack: list[tuple[tuple[int, ...], Hashable]] = [(begin, state)]
    known = {stack[0]}
    while stack:
        done, state = stack.pop()
        following = [session[n] for session, n in zip(sessions, done, strict=True) if n < len(session)]
        horizon = min((call.end for call in following), default=NEVER)
        if horizon == NEVER:  # all that is left is pending
            return True
        for i, session in enumerate(sessions):
            if done[i] == len(session) or session[done[i]].begin > horizon:
                continue
            call = session[done[i]]
            after, result = specification(state, call)
            if call.pending or result == call.result:
                reached = (*done[:i], done[i] + 1, *done[i + 1 :]), after
                if reached not in known:
                    known.add(reached)
                    stack.append(reached)
    return False
