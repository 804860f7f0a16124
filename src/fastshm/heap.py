"""Whose memory it is: segments made, found, swept and left.

A process has one default segment: that of its family, whose name goes to the children with multiprocessing's own configuration,
or one that it makes. A segment of others is left as soon as this process has no handle in it. Segments are registered as
multiprocessing.shared_memory does it, so that the stdlib's resource tracker is the net under them while their maker lives; the
name goes with the last process that uses the segment. docs/format.md tells how each of these steps survives a death.

What a child makes must outlast it, so a process has a segment before it has children: at its first fork one without a name,
which whoever of them makes something in it gives it; at its first spawn the segment itself. What a child makes while it imports
its main module is no concern of others: it goes with the child.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import secrets
import threading
from collections.abc import Callable
from multiprocessing import process, resource_tracker, util
from typing import Any

from fastshm import _containers, _core, names
from fastshm._core import CorruptedError, Handle, Heap
from fastshm.names import NAME, PREFIX

__all__ = ["CorruptedError", "attach", "check", "create", "default", "get_decode_cache", "set_decode_cache", "sweep"]

RESERVED = 64 << 30  # address space, not memory
SMALLEST = 1 << 20
FAMILY = "fastshm"  # in multiprocessing's configuration of a process
REFUSED = "fastshm, no pickles of"  # there, too
KEPT = "fastshm, decoded values"
AT_A_FORK = 1.0  # seconds that a fork waits for another thread's opening of a segment, which makes this process's first one
ATTEMPTS = 10  # at a segment that nobody takes for a dead one's before it is made

_heaps: dict[str, Heap] = {}
_makers: dict[str, int] = {}
_default: Heap | None = None
_ahead: Heap | None = None  # made before a fork, and used by nobody yet, as far as this process knows
_is_early = False  # the default one is from before this process was told of its family, if it has one
_refused: set[str] = set()  # names of segments whose bytes are not to be unpickled
_opening = threading.RLock()  # two threads must not open one segment twice


def default() -> Heap:
    """This process's segment: its family's, else one made at the first call."""
    with _opening:
        while _default is None:
            _become_default(_of_family() or _of_its_start() or _made_ahead() or _first_of_family())
        if _is_early and not _is_being_started():
            _become_default(_of_family() or _default)
        return _default


def family() -> Heap:
    """The segment of this process's family. It is another than the default one where shared objects were made while the process
    was being started, before it knew of its family."""
    return _of_family() or default()


def _of_family() -> Heap | None:
    name = _configuration().get(FAMILY)
    if _ahead is not None and name == _ahead.name:
        return _made_ahead()
    try:
        return attach(name) if isinstance(name, str) else None
    except FileNotFoundError:  # its other members have ended meanwhile
        return None


def _first_of_family() -> Heap:
    sweep()
    return create()


class _Unmade:
    """In the place of the family's name while it has no segment: it has one as soon as a process is told of it by a pickle."""

    def __reduce__(self) -> Any:
        try:
            return str, (default().name,)
        except (OSError, MemoryError, ReferenceError):  # then the child has one of its own
            return type(self), ()


def _before_fork() -> None:
    """The child will have a part in this process's segment, so there must be one. It costs no name and no resource tracker."""
    global _ahead
    if not _opening.acquire(timeout=AT_A_FORK):  # then its holder may be waiting for what this thread holds
        return
    try:
        if _default is not None or _ahead is not None:  # another thread has been here meanwhile
            _core.set_made_ahead(True)
            return
        try:
            size, name = _largest(), PREFIX + secrets.token_hex(16)
            _leave_at_exit()
            _ahead = _core.Heap.create_nameless(name, os.fsencode(names.FOLDER), size, _heaps)
            _makers[name] = os.getpid()
            _core.set_made_ahead(True)
        except (OSError, MemoryError):  # a child that makes something makes a segment of its own
            _ahead = None
    finally:
        _opening.release()


def _of_its_start() -> Heap | None:
    """For what a child makes while it imports its main module, before it knows of its family: a segment without a name, which
    goes with the child however that ends. It gets its name when others are told of something in it."""
    if not _is_being_started():
        return None
    if _ahead is None:
        _before_fork()
    return _ahead if _ahead is not None and _ahead.is_joined else None


def _made_ahead() -> Heap | None:
    """The segment of before the fork, which has its name from here on."""
    return _ahead if _ahead is not None and _ahead.is_joined and _named(_ahead) else None


def _named(heap: Heap) -> bool:
    """Gives it its name, if it has none. Only its maker tells a resource tracker: that of a child may end, and take the name
    away, while the maker goes on."""
    if heap.is_named:
        return True
    sweep()
    name = f"/{heap.name}"
    is_tracked = _makers.get(heap.name) == os.getpid() and (process.parent_process() is None or _core.tracker_pipe() != (0, 0))
    if is_tracked:
        resource_tracker.register(name, "shared_memory")
    try:
        heap.appear(os.fsencode(names.path(heap.name)))
    except (OSError, ReferenceError):
        if is_tracked:
            resource_tracker.unregister(name, "shared_memory")
        return False
    if is_tracked:
        heap.track(*_core.tracker_pipe())
    return True


def _be_found(heap: Heap) -> None:
    """Before others are told of something in it. OSError when it cannot have its name."""
    with _opening:
        if not _named(heap):
            raise OSError(errno.EEXIST, "the shared memory of this process cannot have a name: another file has it", heap.name)


def _configuration() -> Any:
    """What multiprocessing hands down from a process to those that it starts, whatever the start method."""
    return getattr(process.current_process(), "_config", {})


def create(*, allow_pickle: bool = True) -> Heap:
    """A new anonymous segment, the default one if this process has none. MemoryError when there is no room for its first page.

    `allow_pickle=False`: see attach. RuntimeError when this process has a default segment already, for it would go on to make
    its objects there.
    """
    with _opening:
        if not allow_pickle and _default is not None:
            raise RuntimeError(
                f"this process makes its objects in {_default.name} already: call create(allow_pickle=False) before the first "
                "shared object, or refuse the pickles of that segment by attach(name, allow_pickle=False)"
            )
        known = set(_heaps)
        try:
            heap = _make()
            if not allow_pickle:
                _refuse_pickles(heap)
            if _default is None:
                _become_default(heap)
            return heap
        except BaseException:  # of a signal's handler, say
            for name in set(_heaps) - known:
                _core.leave_unless_used(name)
            raise


def create_store(name: str, new_root: Callable[[Heap], Handle]) -> Handle | None:
    """The root of a new segment with a name of the user's choice. None when there is one of that name by now.

    It is made under a name of its own and then linked to the other, so that nobody ever finds half of one."""
    with _opening:
        known = set(_heaps)
        try:
            heap = _make(tracked=False)
            heap.begin_store(secrets.randbits(62) | 1)
            root = new_root(heap)
            heap.set_root(root)
            try:
                os.link(names.path(heap.name), names.path(name), follow_symlinks=False)
            except FileExistsError:
                return None
            _name_store(heap, name)
            return root
        except BaseException:  # of a signal's handler, say
            for first in set(_heaps) - known:
                if names.leads_to(name, _heaps[first].file):
                    _name_store(_heaps[first], name)
                else:
                    _core.leave_unless_used(first)
            _core.leave_unless_used(name)
            raise


def _name_store(heap: Heap, name: str) -> None:
    """The store has its name by now: it is known by that from here on, and loses the one that it was made under."""
    first = heap.name
    if first == name:
        return
    names.remove_if_same(first, heap.file)
    _known(name)  # one of that name that was unlinked
    heap.rename(name, os.fsencode(names.path(name)))
    _makers.pop(first, None)


def _make(tracked: bool = True) -> Heap:
    size = _largest()
    for _ in range(ATTEMPTS):
        heap = _made(PREFIX + secrets.token_hex(16), size, tracked)
        if heap is not None:
            return heap
    raise FileNotFoundError(errno.ENOENT, f"each of {ATTEMPTS} shared memory segments was removed while it was being made")


def _made(name: str, size: int, tracked: bool) -> Heap | None:
    """A new segment. None when its name has gone meanwhile: a maker that is stopped for long, or while the clock is set, looks
    dead to a sweep as long as there is no header."""
    is_its_own = not tracked or (process.parent_process() is not None and _core.tracker_pipe() == (0, 0))
    _leave_at_exit()
    try:  # a signal's handler may raise anywhere, and memory be lacking for anything
        if not is_its_own:  # a worker's tracker ends with the worker, whose family may go on: then the next start is the net
            resource_tracker.register(f"/{name}", "shared_memory")
        tracker = (0, 0) if is_its_own else _core.tracker_pipe()
        _makers[name] = os.getpid()
        return _core.Heap.create(name, os.fsencode(names.path(name)), size, *tracker, _heaps)
    except BaseException as error:
        if name in _heaps:  # made it was
            _core.leave_unless_used(name)
            raise
        _makers.pop(name, None)
        if not is_its_own:  # once more, as the tracker complains of names that it does not know
            resource_tracker.register(f"/{name}", "shared_memory")
            resource_tracker.unregister(f"/{name}", "shared_memory")
        if isinstance(error, (FileExistsError, ReferenceError)):  # somebody has put something there, or swept it away
            return None
        raise


def _largest() -> int:
    """The size to reserve: as much as this process may map at once, but a quarter of what its address space is limited to.
    Tried out on memory without a name, so that what fails leaves nothing."""
    size = RESERVED
    for limit, share in ((resource.RLIMIT_AS, 4), (resource.RLIMIT_FSIZE, 1)):
        soft = resource.getrlimit(limit)[0]
        while soft != resource.RLIM_INFINITY and size > max(soft // share, SMALLEST):
            size //= 2
    file = _core.Descriptor(os.memfd_create, PREFIX)
    try:
        fd = file.number
        while True:
            try:
                os.ftruncate(fd, size)
                mmap.mmap(fd, size).close()
                return size
            except (OSError, MemoryError) as error:
                if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                    raise
                size //= 2
                if size < SMALLEST:
                    raise MemoryError(
                        f"no room for a shared memory segment of {SMALLEST:,} bytes: {error}; raise the limits of file size "
                        "(ulimit -f) and address space (ulimit -v)"
                    ) from None
    finally:
        file.close()


def attach(name: str, *, allow_pickle: bool = True) -> Heap:
    """The segment of that name, mapped. FileNotFoundError when its users have all gone; PermissionError or CorruptedError
    when it is not one to be trusted.

    With allow_pickle=False no byte of it is unpickled in this process, nor in those that multiprocessing starts from it
    hereafter: what is stored as a pickle raises pickle.UnpicklingError, and what would have to be raises pickle.PicklingError.
    That holds however the segment is met, and is not taken back.
    """
    with _opening:
        try:
            heap = _known(name) or _attach(name)
            if heap is _ahead and _default is None:  # a child has made something in it
                default()
            if not allow_pickle:
                _refuse_pickles(heap)
            return heap
        except BaseException:  # of a signal's handler, say
            _core.leave_unless_used(name)
            raise


def _known(name: str) -> Heap | None:
    """The segment of that name that this process has mapped. A store that was unlinked makes room for the next of its name; its
    handles go on, but do not pickle for others."""
    heap = _heaps.get(name)
    if heap is not None and name.startswith(names.STORE) and not names.leads_to(name, heap.file):
        heap.rename(f"{name}, unlinked {secrets.token_hex(8)}", b"")
        return None
    return heap


def _attach(name: str) -> Heap:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a fastshm segment")
    _leave_at_exit()
    heap = _core.Heap.attach(name, os.fsencode(names.path(name)), _heaps)
    if _default is None and _ahead is None and not name.startswith(names.STORE):
        _become_default(heap)
    heap.bury()
    return heap


def _refuse_pickles(heap: Heap) -> None:
    """By name, too: a segment of others is left with the last handle and opened again for the next."""
    _refused.add(heap.name)
    heap.refuse_pickles()


def _inherit_refusals() -> bool:
    """False while a process that multiprocessing starts may not have been told yet: its arguments come first."""
    _refused.update(_configuration().get(REFUSED, ()))
    _configuration()[REFUSED] = _refused
    for heap in list(_heaps.values()):
        if heap.name in _refused:
            heap.refuse_pickles()
    return not _is_being_started()


def sweep() -> list[str]:
    """Removes the segments whose users are all dead, whoever they were (of this user); returns their names."""
    return [verdict.name for verdict in names.judged(_heaps, remove=True) if verdict.removed]


def check() -> dict[str, int]:
    """Walks all invariants of the default segment and counts what is there. CorruptedError: the first that does not hold."""
    return default().check()


def set_decode_cache(values: int = 128, largest: int = 4096) -> None:
    """How many values each handle on a dict or list keeps as the objects that they were unpickled to, for as long as they are
    not changed: at most `values` of them, each of at most `largest` bytes of pickle. 0 switches it off.

    It is this process's affair, and that of those that multiprocessing starts from it hereafter. What is kept now is forgotten.
    Objects that a reader could change are never shared by two reads: those get a copy, or decode it anew. ValueError for a
    number below 0 or above 2**31 - 1, TypeError for what is no whole number.
    """
    for number in (values, largest):
        if not hasattr(type(number), "__index__"):
            raise TypeError(f"two numbers expected, of values and of bytes, not a {type(number).__name__!r}")
    if not (0 <= values < 1 << 31 and 0 <= largest < 1 << 31):
        raise ValueError(f"numbers from 0 to 2**31 - 1 expected, not {values} and {largest}")
    _configuration()[KEPT] = values, largest
    _containers.set_kept(values, largest)


def get_decode_cache() -> tuple[int, int]:
    """(values, largest), see set_decode_cache."""
    return _containers.kept()


def _inherit_decode_cache() -> bool:
    """False while a process that multiprocessing starts may not have been told yet, as with refusals."""
    if KEPT in _configuration():
        _containers.set_kept(*_configuration()[KEPT])
    return not _is_being_started()


def _become_default(heap: Heap) -> None:
    """For good, unless this process is a child that imports its main module before it is told of its family."""
    global _default, _is_early
    early = _is_being_started()
    if not early and not _named(heap):
        heap = _first_of_family()
    if _core.set_default(heap, early):
        if not early:
            _configuration()[FAMILY] = heap.name
        _default, _is_early = heap, early  # last: until then it is done again


def _is_being_started() -> bool:
    return hasattr(process.current_process(), "_inheriting")


def _part(heap: Heap) -> bool:
    """Gives up this process's place in a segment at its end. The last one takes the name away: then True."""
    name = heap.name
    if heap.is_left:  # or about to be joined
        return False
    pipe = _core.tracker_pipe()
    is_tracked = pipe[1] != 0 and heap.tracker[1] == pipe[1]
    is_maker = _makers.get(name) == os.getpid()
    if is_tracked and is_maker and names.may_be_removed(name, heap.file) and heap.disown():  # else privileges were dropped
        resource_tracker.unregister(f"/{name}", "shared_memory")
    is_last = heap.part()
    if is_last:
        names.remove_if_same(name, heap.file)
    if is_last and is_tracked and not heap.has_name:
        _forget([name])  # its maker may have been killed before it had told
    return is_last


def _forget(untold: list[str]) -> None:
    """Has the tracker forget the names of segments that were left. It can be left by an exception at any place, and is called
    again then."""
    while untold:
        name = untold[-1]
        resource_tracker.register(f"/{name}", "shared_memory")  # as the tracker complains of names that it does not know
        resource_tracker.unregister(f"/{name}", "shared_memory")
        if name in untold:
            untold.remove(name)


def _leave() -> None:
    _core.refuse_all(True)
    _core.tell_tracker()
    are_last = [_part(heap) for heap in list(_heaps.values())]
    _core.refuse_all(not all(are_last))  # what nobody shares any more may be used to the very end


_leaving: util.Finalize | None = None


def _leave_at_exit(_: object = None) -> None:
    """After multiprocessing has ended and joined its children, which is at priority 0 and above."""
    global _leaving
    if _leaving is None or not _leaving.still_active():
        _leaving = util.Finalize(None, _leave, exitpriority=-1000)


def _after_fork_in_child() -> None:
    global _is_early, _leaving, _opening
    _opening = threading.RLock()  # another thread of the parent may have held it
    _leaving = None
    _makers.clear()  # a maker's pid may be given out again, or be given out in another namespace, too
    _core.after_fork_in_child()
    if _default is not None:
        _is_early = True  # a child of a fork server is told of another family than the server's own
        _core.set_default(_default, True)
    if _heaps:
        _leave_at_exit()


def _after_multiprocessing_fork(_: object) -> None:
    """A multiprocessing child forgets the finalizers it inherited."""
    global _leaving
    _leaving = None
    if _heaps:
        _leave_at_exit()
    _inherit_refusals()
    _inherit_decode_cache()


_configuration().setdefault(FAMILY, _Unmade())
_inherit_refusals()
_containers.set_learner(_inherit_decode_cache)
_core.set_hooks(_heaps, _makers, default, attach, _forget, _inherit_refusals, _before_fork, _be_found)
os.register_at_fork(before=_core.before_fork, after_in_parent=_core.after_fork_in_parent, after_in_child=_after_fork_in_child)
util.register_after_fork(_core, _after_multiprocessing_fork)
