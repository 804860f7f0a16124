"""What a manager has in the stdlib's server: queues, pools, types that programs register.

Their proxies may be stored in shared dicts and lists, which are not in the server. A stored one comes with an object of shared
memory that belongs to the container's value, and the server keeps what the proxy stands for as long as that exists.
Named stores refuse them: other programs could not reach the server. A server whose starter has died ends with its last client.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from multiprocessing import connection, process
from multiprocessing import managers as _managers
from multiprocessing.reduction import ForkingPickler
from typing import Any

from fastshm import _core, names

managers: Any = _managers  # most of what is asked of it is not in the stubs

IDLE = 1.0  # seconds without a client after which a server ends whose starter has died
LOOK = 0.1  # seconds between two looks for clients then

_starter: Any = None  # of this process, if it is a manager's server


def end_with_starter() -> None:
    """Before this process becomes a manager's server, and no other one: those that programs run themselves go on."""
    global _starter
    _starter = process.parent_process()


class Server(managers.Server):  # type: ignore[misc]
    """The stdlib's, which also keeps what containers refer to, and outlives its starter only while it has clients."""

    public = (*managers.Server.public, "keep")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._kept: list[tuple[str, Any]] = []
        self._keeping = threading.Lock()
        self._clients: set[Any] = set()
        self._counting = threading.Lock()

    def serve_forever(self) -> None:
        if _starter is not None:
            threading.Thread(target=self._stop_after, args=(_starter,), daemon=True).start()
        super().serve_forever()

    def handle_request(self, conn: Any) -> None:
        with self._counting:
            self._clients.add(conn)
        try:
            super().handle_request(conn)
        finally:
            with self._counting:
                self._clients.discard(conn)

    def _stop_after(self, starter: Any) -> None:
        """The sentinel is open in forked processes, too, so it tells of the starter's death when those have ended."""
        connection.wait([starter.sentinel])
        last = time.monotonic()
        while time.monotonic() - last < IDLE:
            time.sleep(LOOK)
            if self._has_clients():
                last = time.monotonic()
        self.stop_event.set()

    def _has_clients(self) -> bool:
        """A thread that waits in a queue for one that was killed does not notice, so the connections are asked."""
        ended, n = select.poll(), 0
        with self._counting:
            for conn in self._clients:
                with contextlib.suppress(OSError):  # just closed
                    ended.register(conn.fileno(), select.POLLRDHUP)
                    n += 1
        return len(ended.poll(0)) < n

    def keep(self, c: Any, ident: str, address: Any) -> None:
        """One reference more, as long as the object of shared memory at that address exists."""
        self._let_go(c)
        self.incref(c, ident)
        with self._keeping:
            self._kept.append((ident, address))

    def _let_go(self, c: Any) -> None:
        with self._keeping:
            gone = [(ident, address) for ident, address in self._kept if not _exists(address)]
            self._kept = [kept for kept in self._kept if kept not in gone] if gone else self._kept
        for ident, _ in gone:
            self.decref(c, ident)

    def create(self, c: Any, typeid: str, /, *args: Any, **kwds: Any) -> Any:
        self._let_go(c)
        return super().create(c, typeid, *args, **kwds)

    def number_of_objects(self, c: Any) -> Any:
        self._let_go(c)
        return super().number_of_objects(c)


def _exists(address: Any) -> bool:
    name, offset, serial = address
    try:
        _core.reopen(_core.Gate, name, offset, serial, 0, 0)
    except (ReferenceError, OSError, _core.CorruptedError):
        return False
    return True


class KeptProxy:
    """In a manager's registry in the place of a class of proxies: makes proxies of that class that containers keep."""

    def __init__(self, proxytype: Any) -> None:
        self.proxytype = proxytype
        self._exposed_ = getattr(proxytype, "_exposed_", None)
        self._method_to_typeid_ = getattr(proxytype, "_method_to_typeid_", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _kept(self.proxytype(*args, **kwargs))


def _kept(proxy: Any) -> Any:
    if isinstance(proxy, managers.BaseProxy):
        proxy._kept = True
        ForkingPickler.register(type(proxy), _reduce)
    return proxy


def _reduce(proxy: Any) -> Any:
    """For containers, and for all that multiprocessing sends."""
    rebuild, arguments, *rest = proxy.__reduce__()
    if not hasattr(proxy, "_kept"):
        return rebuild, arguments, *rest
    return _rebuild, (rebuild, arguments, _keeper(proxy)), *rest


def _rebuild(rebuild: Any, arguments: Any, keeper: Any) -> Any:
    return _kept(rebuild(*arguments))


def _keeper(proxy: Any) -> _core.Gate | None:
    """What keeps it in the server, if it is on its way into a container."""
    heap = _core.pickled_into()
    if heap is None:
        return None
    if heap.name.startswith(names.STORE):
        raise ValueError(
            f"a {proxy._token.typeid!r} of a manager cannot be stored in {heap.name}: it lives in a server of the program that "
            "made it, not in the store, and other programs cannot reach it; keep it in a fastshm.dict(), or hand it to this "
            "program's own processes; between programs use what is in the store, for a queue m.list() and m.Condition()"
        )
    keeper = _core.Gate(heap)
    heap.be_found()
    return keeper if _is_kept(proxy, keeper._address) else None


def _is_kept(proxy: Any, address: Any) -> bool:
    try:
        with proxy._Client(proxy._token.address, authkey=proxy._authkey) as connection:
            managers.dispatch(connection, None, "keep", (proxy._id, address))
    except (managers.RemoteError, OSError, EOFError):  # one that does not know how, or is no more
        return False
    return True
