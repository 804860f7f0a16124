"""Whose memory it is: segments made, found, swept and left.

A process has one default segment: that of its family, whose name goes to the children with multiprocessing's own configuration,
or one that it makes. A segment of others is left as soon as this process has no handle in it. Segments are registered as
multiprocessing.shared_memory does it, so that the stdlib's resource tracker is the net under them while their maker lives; the
name goes with the last process that uses the segment. docs/format.md tells how each of these steps survives a death.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import secrets
import stat
import threading
import time
from multiprocessing import process, resource_tracker, util
from typing import Any

from fastshm import _core
from fastshm._core import CorruptedError, Heap

__all__ = ["CorruptedError", "attach", "check", "create", "default", "sweep"]

FOLDER = "/dev/shm"
PREFIX = "fastshm-"
NAME = re.compile(re.escape(PREFIX) + "[0-9a-f]{32}")
RESERVED = 64 << 30  # address space, not memory
SMALLEST = 1 << 20
FAMILY = "fastshm"  # in multiprocessing's configuration of a process
UNFINISHED = 60.0  # seconds after which a segment without a header is taken for one whose maker died

_heaps: dict[str, Heap] = {}
_makers: dict[str, int] = {}
_default: Heap | None = None
_opening = threading.RLock()  # two threads must not open one segment twice


def default() -> Heap:
    """This process's segment: its family's, else one made at the first call."""
    with _opening:
        if _default is None:
            _become_default(_of_family() or _first_of_family())
        assert _default is not None
        return _default


def _of_family() -> Heap | None:
    name = _configuration().get(FAMILY)
    try:
        return attach(name) if name else None
    except FileNotFoundError:  # its other members have ended meanwhile
        return None


def _first_of_family() -> Heap:
    sweep()
    return create()


def _configuration() -> Any:
    """What multiprocessing hands down from a process to those that it starts, whatever the start method."""
    return getattr(process.current_process(), "_config", {})


def create() -> Heap:
    """A new anonymous segment. MemoryError when there is no room for its first page."""
    size = _largest()
    name = PREFIX + secrets.token_hex(16)
    is_its_own = process.parent_process() is not None and _tracker() == (0, 0)
    _leave_at_exit()
    try:  # a signal's handler may raise anywhere, and memory be lacking for anything
        if not is_its_own:  # a worker's tracker ends with the worker, whose family may go on: then the next start is the net
            resource_tracker.register(f"/{name}", "shared_memory")
        tracker = (0, 0) if is_its_own else _tracker()
        _makers[name] = os.getpid()
        return _core.Heap.create(name, os.fsencode(_path(name)), size, *tracker, _heaps)
    except BaseException:
        if name not in _heaps:
            _makers.pop(name, None)
            if not is_its_own:  # once more, as the tracker complains of names that it does not know
                resource_tracker.register(f"/{name}", "shared_memory")
                resource_tracker.unregister(f"/{name}", "shared_memory")
        raise


def _largest() -> int:
    """The size to reserve: as much as this process may map at once. Tried out on memory without a name, so
    that what fails leaves nothing."""
    size = RESERVED
    fd = os.memfd_create(PREFIX)
    try:
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
        os.close(fd)


def attach(name: str) -> Heap:
    """The segment of that name, mapped. FileNotFoundError when its users have all gone; PermissionError or CorruptedError
    when it is not one to be trusted."""
    with _opening:
        return _heaps.get(name) or _attach(name)


def _attach(name: str) -> Heap:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a fastshm segment")
    _leave_at_exit()
    heap = _core.Heap.attach(name, os.fsencode(_path(name)), _heaps)
    if _default is None:
        _become_default(heap)
    heap.bury()
    return heap


def sweep() -> list[str]:
    """Removes the segments whose users are all dead, whoever they were (of this user); returns their names."""
    removed: list[str] = []
    try:
        names = [entry for entry in os.listdir(FOLDER) if NAME.fullmatch(entry)]
    except FileNotFoundError:
        return removed
    for name in names:
        if name in _heaps:
            continue
        try:
            fd = _open(name)
        except OSError:  # another user's, a link, or gone meanwhile: not ours to remove
            continue
        try:
            if _is_orphan(fd) and _core.is_abandoned(fd) and _is_same(fd, name):
                os.unlink(_path(name))
                removed.append(name)
        finally:
            os.close(fd)
    return removed


def check() -> dict[str, int]:
    """Walks all invariants of the default segment and counts what is there. CorruptedError: the first that does not hold."""
    return default().check()


def _path(name: str) -> str:
    return f"{FOLDER}/{name}"


def _open(name: str) -> int:
    return os.open(_path(name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)


def _is_orphan(fd: int) -> bool:
    """Could this segment be nobody's? A finished one, or one whose making was cut short some time ago."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
        return False
    if _core.inspect(fd) is None:
        return True
    return os.pread(fd, 8, 0) in (b"", bytes(8)) and time.time() - info.st_ctime > UNFINISHED


def _is_same(fd: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(_path(name), follow_symlinks=False))
    except FileNotFoundError:
        return False


def _tracker() -> tuple[int, int]:
    """The pipe that leads to this process's resource tracker: one a family."""
    fd = getattr(resource_tracker._resource_tracker, "_fd", None)
    if fd is None:
        return 0, 0
    try:
        info = os.fstat(fd)
    except OSError:
        return 0, 0
    return info.st_dev, info.st_ino


def _become_default(heap: Heap) -> None:
    global _default
    _configuration()[FAMILY] = heap.name
    _core.set_default(heap)
    _default = heap  # last: until then it is done again


def _part(heap: Heap) -> bool:
    """Gives up this process's place in a segment. The last one takes the name away: then True."""
    name = heap.name
    is_last = heap.part()
    is_maker = _makers.get(name) == os.getpid()
    if is_last:
        try:
            os.unlink(_path(name))
        except FileNotFoundError:
            is_maker = False  # removed by hand, or by the tracker of a family that was killed
    if (is_last or is_maker) and heap.tracker != (0, 0) and heap.tracker == _tracker():
        resource_tracker.unregister(f"/{name}", "shared_memory")
    return is_last


def _forget(heap: Heap) -> None:
    """A segment of others in which this process has no handle left."""
    name = heap.name
    del _heaps[name]
    try:
        _part(heap)
    except BaseException:
        if heap.is_joined:
            _heaps[name] = heap  # tried again at the end
        else:
            heap.unmap()
        raise
    _makers.pop(name, None)
    heap.unmap()


def _leave() -> None:
    _core.refuse_all(True)
    are_last = [_part(heap) for heap in _heaps.values()]
    _core.refuse_all(not all(are_last))  # what nobody shares any more may be used to the very end


_leaving: util.Finalize | None = None


def _leave_at_exit(_: object = None) -> None:
    """After multiprocessing has ended and joined its children, which is at priority 0 and above."""
    global _leaving
    if _leaving is None or not _leaving.still_active():
        _leaving = util.Finalize(None, _leave, exitpriority=-1000)


def _after_fork_in_child() -> None:
    global _leaving, _opening
    _opening = threading.RLock()  # another thread of the parent may have held it
    _leaving = None
    _makers.clear()  # a maker's pid may be given out again, or be given out in another namespace, too
    if _heaps:
        _leave_at_exit()


def _after_multiprocessing_fork(_: object) -> None:
    """A multiprocessing child forgets the finalizers it inherited."""
    global _leaving
    _leaving = None
    if _heaps:
        _leave_at_exit()


_core.set_hooks(default, attach, _forget)
os.register_at_fork(before=_core.before_fork, after_in_child=_after_fork_in_child)
util.register_after_fork(_core, _after_multiprocessing_fork)
