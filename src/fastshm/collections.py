"""Counter, with the interface of collections.Counter, in shared memory."""

from __future__ import annotations

import builtins
import collections
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from fastshm import _core, _dict, managers

__all__ = ["Counter", "CounterProxy"]


def _counts_of(other: Any) -> Any:
    return other.copy() if isinstance(other, CounterProxy) else other


def _over_a_copy(name: str) -> Any:
    """An operator of collections.Counter."""
    operate = getattr(operator, name)
    return lambda self, other: operate(self.copy(), _counts_of(other))


def _onto_a_copy(name: str) -> Any:
    """The same from the right."""
    operate = getattr(operator, name)
    return lambda self, other: operate(_counts_of(other), self.copy())


class CounterProxy(managers.DictProxy):
    """A shared dict of counts, 0 for what is not there: see collections.Counter.

    `update()`, `subtract()`, `|=`, `&=` and `increment()` are one step each: no process loses another one's counts, also when
    processes are killed. `+=` and `-=` are two: one that adds, and one that drops the counts that are then not positive. What
    gives a new counter (`+`, `-`, `&`, `|`, `copy()`) gives a plain collections.Counter.
    """

    _typeid = "Counter"

    def __getitem__(self, key: Any) -> Any:
        return self.get(key, 0)

    def __delitem__(self, key: Any) -> None:
        self.pop(key, None)

    def copy(self, deep: bool = False) -> Any:
        return collections.Counter(super().copy(deep))

    def update(self, iterable: Any = None, /, **kwargs: Any) -> None:
        """Adds counts: those of a mapping, or one for each item of an iterable. All at one instant; after an error, none."""
        self._add(iterable, kwargs, 1)

    def subtract(self, iterable: Any = None, /, **kwargs: Any) -> None:
        """Takes counts away, as update() adds them."""
        self._add(iterable, kwargs, -1)

    def _add(self, iterable: Any, kwargs: builtins.dict[str, Any], sign: int) -> None:
        counts = _counted(iterable)
        for key, count in kwargs.items():
            counts[key] = counts.get(key, 0) + count
        if sign < 0:
            counts = {key: -count for key, count in counts.items()}
        elif len(self):  # the first update stores what it is given
            counts = self._numbers(counts)
        self.add_from(counts)

    def _numbers(self, counts: builtins.dict[Any, Any]) -> builtins.dict[Any, Any]:
        """As collections.Counter has it: what is new was added to 0, as which True is 1."""
        if not {*map(type, counts.values())} <= {int, float}:
            for key in counts:
                if key not in self:
                    counts[key] += 0
        return counts

    def most_common(self, n: int | None = None) -> builtins.list[tuple[Any, int]]:
        return self.copy().most_common(n)  # type: ignore[no-any-return]

    def elements(self) -> Iterable[Any]:
        return self.copy().elements()  # type: ignore[no-any-return]

    def total(self) -> Any:
        """Of one instant."""
        return sum(self.values())

    def fromkeys(self, iterable: Any, value: Any = None, /) -> Any:
        raise NotImplementedError("Counter.fromkeys() is undefined.  Use Counter(iterable) instead.")

    __hash__ = None  # type: ignore[assignment]
    __eq__, __ne__, __le__, __lt__, __ge__, __gt__ = map(_over_a_copy, ("eq", "ne", "le", "lt", "ge", "gt"))
    __add__, __sub__, __or__, __and__ = map(_over_a_copy, ("add", "sub", "or_", "and_"))
    __radd__, __rsub__, __ror__, __rand__ = map(_onto_a_copy, ("add", "sub", "or_", "and_"))

    def __pos__(self) -> Any:
        return +self.copy()

    def __neg__(self) -> Any:
        return -self.copy()

    def __iadd__(self, other: Any) -> CounterProxy:  # type: ignore[misc]
        self.add_from(self._numbers(builtins.dict(_counts_of(other))))
        return self._keep_positive()

    def __isub__(self, other: Any) -> CounterProxy:  # type: ignore[misc]
        self.add_from({key: -count for key, count in _counts_of(other).items()})
        return self._keep_positive()

    def __ior__(self, other: Any) -> CounterProxy:  # type: ignore[misc]
        return self._become(operator.ior, other)

    def __iand__(self, other: Any) -> CounterProxy:  # type: ignore[misc]
        return self._become(operator.iand, other)

    def _become(self, operate: Any, other: Any) -> CounterProxy:
        """What an operator in place makes of a plain counter, as one change."""

        def choose(items: Any) -> Any:
            mine = operate(collections.Counter(items), _counts_of(other))
            return None if mine == items else (None, builtins.dict(mine))

        self._exchange_keys(choose, values=True)
        return self

    def _keep_positive(self) -> CounterProxy:
        def choose(items: Any) -> Any:
            gone = [key for key, count in items.items() if not count > 0]
            if all(key in self for key in gone):
                return gone, {}
            return None, {key: count for key, count in items.items() if count > 0}  # NaNs cannot be found

        if any(not count > 0 for count in self.values()):
            self._exchange_keys(choose, values=True)
        return self

    def __reversed__(self) -> Any:
        return reversed(self.keys())

    def _text(self) -> str:
        return repr(self.copy())


def _counted(iterable: Any) -> builtins.dict[Any, Any]:
    """What an argument of update() counts."""
    if iterable is None:
        return {}
    if isinstance(iterable, _dict.Dict):
        return builtins.dict(iterable.copy())
    if isinstance(iterable, Mapping):
        return builtins.dict(iterable)
    return builtins.dict(collections.Counter(iterable))


def new_counter(beside: _core.Handle | None, iterable: Any, kwargs: Any) -> CounterProxy:
    new = _dict.Dict._make(CounterProxy, beside)
    new.update(iterable, **kwargs)
    return new


def Counter(iterable: Any = None, /, **kwargs: Any) -> CounterProxy:
    """A new shared counter of what collections.Counter takes. It lives as long as somebody has a handle on it."""
    return new_counter(None, iterable, kwargs)
