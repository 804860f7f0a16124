"""Packages without a server process of Python's that also keep a dict for several processes, each as it is meant to be used.

A peer that is not installed is left out. Each object opens the same store in another process when it is unpickled, and its
maker removes the store at the end.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import weakref
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MODULES = {"ultradict": "UltraDict", "smd": "shared_memory_dict", "lmdb": "lmdb", "diskcache": "diskcache", "redis": "redis"}
PEERS = {peer for peer, module in MODULES.items() if find_spec(module) and (peer != "redis" or shutil.which("redis-server"))}


class Ultra:
    """UltraDict keeps all of the dict in every process and a log of the changes in shared memory."""

    def __init__(self, name: str | None = None, lock: bool = False) -> None:
        from UltraDict import UltraDict

        large = 50_000_000
        made = {"create": True, "buffer_size": large, "full_dump_size": large} if name is None else {}
        self.d = UltraDict(name=name, shared_lock=lock, auto_unlink=False, **made)
        self.lock = lock
        if name is None:
            weakref.finalize(self, UltraDict.unlink_by_name, self.d.name, ignore_errors=True)
            weakref.finalize(self, UltraDict.unlink_by_name, f"{self.d.name}_memory", ignore_errors=True)
            weakref.finalize(self, UltraDict.unlink_by_name, f"{self.d.name}_full", ignore_errors=True)

    def __reduce__(self) -> Any:
        return Ultra, (self.d.name, self.lock)

    def increment(self, key: str) -> None:
        with self.d.lock:
            self.d[key] += 1


class Smd:
    """shared-memory-dict pickles all of the dict at each change."""

    def __init__(self, name: str | None = None) -> None:
        from shared_memory_dict import SharedMemoryDict

        self.name = name or f"peer{time.monotonic_ns()}"
        self.d = SharedMemoryDict(name=self.name, size=1_000_000)
        if name is None:
            weakref.finalize(self, self.d.shm.unlink)

    def __reduce__(self) -> Any:
        return Smd, (self.name,)


class Folder:
    """A store in a folder in memory, which its maker removes."""

    def __init__(self, folder: str | None = None) -> None:
        self.is_ours = folder is None
        self.folder = folder or tempfile.mkdtemp(prefix="peer", dir="/dev/shm")
        if self.is_ours:
            weakref.finalize(self, shutil.rmtree, self.folder)
        self.open()

    def open(self) -> None:
        raise NotImplementedError

    def __reduce__(self) -> Any:
        return type(self), (self.folder,)


class Lmdb(Folder):
    """A B-tree of bytes, one transaction an operation. Nothing is synced."""

    def open(self) -> None:
        import lmdb

        self.env = lmdb.open(self.folder, map_size=1 << 30, sync=False, writemap=True)

    def get(self, key: bytes) -> bytes:
        with self.env.begin() as transaction:
            found: bytes = transaction.get(key)
            return found

    def put(self, key: bytes, value: bytes) -> None:
        with self.env.begin(write=True) as transaction:
            transaction.put(key, value)

    def items(self) -> list[tuple[bytes, bytes]]:
        with self.env.begin() as transaction:
            return list(transaction.cursor())

    def increment(self, key: bytes) -> None:
        with self.env.begin(write=True) as transaction:
            transaction.put(key, b"%d" % (int(transaction.get(key)) + 1))


class Disk(Folder):
    """A table of SQLite."""

    def open(self) -> None:
        from diskcache import Cache

        self.d = Cache(self.folder)


class Redis(Folder):
    """A server of its own, over a Unix socket, that stores nothing on disk."""

    def open(self) -> None:
        import redis

        socket = str(Path(self.folder, "socket"))
        if self.is_ours:
            command = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", self.folder]
            weakref.finalize(self, subprocess.Popen(command, stdout=subprocess.DEVNULL).kill)
        self.r = redis.Redis(unix_socket_path=socket)
        deadline = time.monotonic() + 10
        while True:
            try:
                self.r.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


CLASSES = {"ultradict": Ultra, "smd": Smd, "lmdb": Lmdb, "diskcache": Disk, "redis": Redis}
