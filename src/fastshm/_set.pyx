"""The set: the keys of a dict, without values."""

from fastshm._dict import Dict


cdef class Set:
    """A shared set. Looking, adding and removing are one step each; so are update() and `|=`, for all of their items."""
    cdef readonly object items

    def __init__(self, items):
        if not isinstance(items, Dict):
            raise TypeError(f"a set is made over a shared dict, not {type(items).__name__!r}")
        self.items = items

    def __reduce__(self):
        return type(self), (self.items,)

    def __contains__(self, item):
        return hashable(item) in self.items

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)

    def copy(self):
        """A plain set of one instant."""
        return set(self.items.keys())

    def add(self, item, /):
        self.items[item] = None

    def discard(self, item, /):
        self.items.pop(hashable(item), None)

    def remove(self, item, /):
        """KeyError when it is not there."""
        if self.items.pop(hashable(item), self) is self:
            raise KeyError(item)

    def pop(self):
        """Removes and returns the item that was added last. KeyError when there is none."""
        try:
            return self.items.popitem()[0]
        except KeyError:
            raise KeyError("pop from an empty set") from None

    def clear(self):
        self.items.clear()

    def update(self, *others):
        """Adds the items of all of them at one instant, or, after an error, none."""
        cdef dict new = {}
        for other in others:
            new.update(dict.fromkeys(other))
        self.items.update(new)

    def get_lock(self):
        """The recursive lock that makes several operations one for all others."""
        return self.items.get_lock()


cdef object hashable(object item):
    """As the builtin does when it looks for a set in a set."""
    if isinstance(item, (set, Set)):
        return frozenset(item)
    return item
