"""The judge of tests/battery/linearizability.py: what it must refuse and what it must accept."""

from __future__ import annotations

import itertools
import random

import pytest
from battery.wing_gong import NEVER, Call, is_linearizable


def register(state, call):
    """A number that is read, written, exchanged and added to."""
    if call.name == "read":
        return state, state
    if call.name == "write":
        return call.arguments[0], None
    if call.name == "swap":
        return call.arguments[0], state
    return state + 1, state + 1


def queue(state, call):
    if call.name == "put":
        return (*state, call.arguments[0]), None
    return (state[1:], state[0]) if state else (state, None)


def session(*calls):
    """Calls as (begin, end, name, arguments ..., result); an end of None is that of a pending one."""
    return [Call(begin, NEVER if end is None else end, name, tuple(more[:-1]), more[-1]) for begin, end, name, *more in calls]


REGISTER_REFUSED = {
    "a read of what nobody wrote": [[(0, 1, "read", 7)]],
    "a read of the old value after a write": [[(0, 1, "write", 1, None)], [(2, 3, "read", 0)]],
    "a read of a value before it is written": [[(0, 1, "read", 1)], [(2, 3, "write", 1, None)]],
    "two readers see two writes in opposite orders": [
        [(0, 10, "write", 1, None)],
        [(0, 10, "write", 2, None)],
        [(1, 2, "read", 1), (3, 4, "read", 2)],
        [(1, 2, "read", 2), (3, 4, "read", 1)],
    ],
    "new, then old, during one write": [[(0, 10, "write", 1, None)], [(1, 2, "read", 1), (3, 4, "read", 0)]],
    "the same by two readers, one after the other": [[(0, 10, "write", 1, None)], [(1, 2, "read", 1)], [(3, 4, "read", 0)]],
    "a lost addition": [[(0, 5, "add", 1)], [(0, 5, "add", 1)]],
    "an addition that nobody can have seen last": [[(0, 5, "add", 1)], [(0, 5, "add", 2)], [(6, 7, "read", 1)]],
    "a value swapped out twice": [[(0, 1, "write", 5, None), (2, 9, "swap", 6, 5)], [(2, 9, "swap", 7, 5)]],
    "a pending write before it began": [[(0, 1, "read", 1)], [(2, None, "write", 1, None)]],
    "a pending write that is seen and then not": [[(0, None, "write", 1, None)], [(1, 2, "read", 1), (3, 4, "read", 0)]],
    "a pending addition that happened twice": [[(0, None, "add", None)], [(1, 2, "read", 1), (3, 4, "read", 2)]],
    "of three pending writes, one comes back": [
        [(0, None, "write", 1, None)],
        [(0, None, "write", 2, None)],
        [(1, 2, "read", 1), (3, 4, "read", 2), (5, 6, "read", 1)],
    ],
    "it only shows at the end": [
        [(0, 10, "add", 1), (11, 20, "add", 3), (21, 30, "add", 5)],
        [(0, 10, "add", 2), (11, 20, "add", 4), (21, 30, "add", 5)],
    ],
}  # fmt: skip
REGISTER_ACCEPTED = {
    "nothing": [],
    "one after the other": [[(0, 1, "write", 1, None)], [(2, 3, "read", 1)]],
    "the new value while it is written": [[(0, 9, "write", 1, None)], [(1, 2, "read", 1)]],
    "the old value while the new one is written": [[(0, 9, "write", 1, None)], [(1, 2, "read", 0)]],
    "old, then new": [[(0, 9, "write", 1, None)], [(1, 2, "read", 0), (3, 4, "read", 1)]],
    "ends and begins at one reading of the clock": [[(0, 1, "write", 1, None)], [(1, 2, "read", 0)]],
    "additions at once, in either order": [[(0, 5, "add", 2)], [(0, 5, "add", 1)]],
    "swaps in a ring": [[(0, 9, "swap", 1, 2)], [(0, 9, "swap", 2, 3)], [(0, 9, "swap", 3, 0)]],
    "a pending write that did not happen": [[(0, None, "write", 1, None)], [(1, 2, "read", 0), (3, 4, "read", 0)]],
    "a pending write that happened late": [[(0, None, "write", 1, None)], [(1, 2, "read", 0), (3, 4, "read", 1)]],
    "a pending write that comes last": [[(0, None, "write", 1, None)], [(1, 2, "write", 2, None), (3, 4, "read", 1)]],
    "two pending additions, both of them": [
        [(0, None, "add", None)],
        [(0, None, "add", None)],
        [(1, 2, "read", 0), (3, 4, "read", 1), (5, 6, "read", 2)],
    ],
    "two pending additions, one of them": [[(0, None, "add", None)], [(0, None, "add", None)], [(1, 2, "add", 2)]],
    "nothing but pending calls": [[(0, None, "write", 1, None)], [(0, None, "add", None)]],
    "a session that goes on for another that was killed": [
        [(0, 1, "add", 1), (2, None, "add", None)],
        [(3, 4, "add", 3), (5, 6, "read", 3)],
    ],
}  # fmt: skip
QUEUE_REFUSED = {
    "last in, first out": [[(0, 1, "put", 1, None), (2, 3, "put", 2, None)], [(4, 5, "get", 2)]],
    "taken twice": [[(0, 1, "put", 1, None)], [(2, 5, "get", 1)], [(2, 5, "get", 1)]],
    "empty though something was there throughout": [[(0, 1, "put", 1, None)], [(2, 3, "get", None)]],
    "a loss behind a pending get that takes one": [
        [(0, 1, "put", 1, None), (2, 3, "put", 2, None)],
        [(4, None, "get", None)],
        [(5, 6, "get", None)],
    ],
    "by one thread first, by another last": [
        [(0, 9, "put", 1, None), (10, 11, "get", 1)],
        [(0, 9, "put", 2, None), (12, 13, "get", None)],
    ],
}  # fmt: skip
QUEUE_ACCEPTED = {
    "puts at once, in either order": [[(0, 9, "put", 1, None)], [(0, 9, "put", 2, None)], [(10, 11, "get", 2)]],
    "empty before the put that overlaps": [[(0, 9, "put", 1, None)], [(1, 2, "get", None), (3, 4, "get", 1)]],
    "a pending get that took one": [
        [(0, 1, "put", 1, None), (2, 3, "put", 2, None)],
        [(4, None, "get", None)],
        [(5, 6, "get", 2)],
    ],
    "a pending get that took nothing": [[(0, 1, "put", 1, None)], [(4, None, "get", None)], [(5, 6, "get", 1)]],
    "a pending put, taken": [[(0, None, "put", 1, None)], [(5, 6, "get", 1)]],
}  # fmt: skip
TABLE = [
    *((register, 0, name, calls, False) for name, calls in REGISTER_REFUSED.items()),
    *((register, 0, name, calls, True) for name, calls in REGISTER_ACCEPTED.items()),
    *((queue, (), name, calls, False) for name, calls in QUEUE_REFUSED.items()),
    *((queue, (), name, calls, True) for name, calls in QUEUE_ACCEPTED.items()),
]


@pytest.mark.parametrize(("specification", "state", "name", "calls", "answer"), TABLE, ids=[row[2] for row in TABLE])
def test_table(specification, state, name, calls, answer):
    sessions = [session(*lines) for lines in calls]
    for order in itertools.islice(itertools.permutations(sessions), 24):
        assert is_linearizable(order, specification, state) is answer


def by_all_orders(sessions, specification, state):
    """The definition, word by word: is there a choice of the pending calls and an order of the calls that explains it?"""
    calls = [call for calls in sessions for call in calls]
    pending = [call for call in calls if call.pending]
    ended = [call for call in calls if not call.pending]
    for count in range(len(pending) + 1):
        for chosen in itertools.combinations(pending, count):
            for order in itertools.permutations([*ended, *chosen]):
                if any(b.end < a.begin for a, b in itertools.combinations(order, 2)):
                    continue
                now = state
                for call in order:
                    now, result = specification(now, call)
                    if not call.pending and result != call.result:
                        break
                else:
                    return True
    return False


def random_history(seed, specification, names):
    """Two or three sessions of in all five calls, with results that are often right."""
    rng = random.Random(seed)
    sessions, now, state = [[] for _ in range(rng.choice((2, 3)))], 0, () if specification is queue else 0
    clock = [0] * len(sessions)
    for _ in range(5):
        i = rng.randrange(len(sessions))
        if sessions[i] and sessions[i][-1].pending:
            continue
        begin = clock[i] + rng.randrange(3)
        end = begin + rng.randrange(1, 6)
        now, clock[i] = max(now, end), end + 1
        call = Call(begin, NEVER if rng.random() < 0.15 else end, rng.choice(names), (rng.randrange(3),))
        state, result = specification(state, call)
        sessions[i].append(call._replace(result=result if rng.random() < 0.8 else rng.choice((0, 1, None))))
    return sessions


@pytest.mark.parametrize(("specification", "state", "names"), [(register, 0, ("read", "write", "swap", "add")),
                                                               (queue, (), ("put", "get"))])  # fmt: skip
def test_against_the_definition(specification, state, names):
    answers = []
    for seed in range(400):
        sessions = random_history(seed, specification, names)
        answers.append(is_linearizable(sessions, specification, state))
        assert answers[-1] is by_all_orders(sessions, specification, state), f"seed {seed}: {sessions}"
    assert 50 < sum(answers) < 350, "both answers must be tried"


def test_long_histories():
    """Of four sessions with 100 calls each, in reach only because a state that was met is not searched again."""
    value, sessions = 0, [[] for _ in range(4)]
    for turn in range(400):
        value += 1
        sessions[turn % 4].append(Call(10 * turn - 35, 10 * turn + 4, "add", (), value))
    assert is_linearizable(sessions, register, 0)
    sessions[3][-1] = sessions[3][-1]._replace(result=value - 1)
    assert not is_linearizable(sessions, register, 0)


def test_what_is_no_history():
    with pytest.raises(ValueError, match="overlap"):
        is_linearizable([session((0, 5, "read", 0), (4, 6, "read", 0))], register, 0)
    with pytest.raises(ValueError, match="pending"):
        is_linearizable([session((0, None, "read", 0), (4, 6, "read", 0))], register, 0)
