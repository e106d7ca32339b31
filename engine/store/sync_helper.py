"""The sync helper: a small process that makes the WAL durable for an engine whose disk is slow.

Owns: what the child process does. Must not know: the engine; it talks over one socket.
Why a process: a sync inside COMMIT stops the trio loop for as long as the device takes, and a thread that syncs has to win
the interpreter lock back from a busy loop before it can say so. A child process needs neither.

The engine then commits with synchronous=NORMAL, which writes the WAL and does not sync it, and answers only after this
process has synced it. A checkpoint is this process's work too, because it syncs; so is the first commit of a WAL that is
reused, because SQLite syncs its header then. The engine does nothing meanwhile, so neither meets the other's lock.

Protocol: one byte asks, `s` (sync the WAL) or `c` (checkpoint); four bytes answer, a little-endian errno, 0 for success.
It says `r` once when it is ready. When the socket ends it leaves at once, without SQLite's clean-up: the file may already
belong to the next owner.

fdatasync of another descriptor of the same file makes all of its data durable (POSIX: "forces all currently queued I/O
operations associated with the file"). On macOS only F_FULLFSYNC reaches the device.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress

import apsw

from engine.store.connection import checkpoint, connect

ANSWER = struct.Struct("<i")


class WalFile:
    """The WAL, opened for syncing only; opened again when SQLite made a new one."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}-wal"
        self._descriptor = -1

    def sync(self) -> None:
        """Make everything written to the WAL durable. Raises `OSError`."""
        if self._descriptor < 0 or not self._is_current():
            self.close()
            self._descriptor = os.open(self._path, os.O_RDWR)
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(self._descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(self._descriptor)

    def _is_current(self) -> bool:
        mine, now = os.fstat(self._descriptor), os.stat(self._path)
        return (mine.st_ino, mine.st_dev) == (now.st_ino, now.st_dev)

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def checkpoint_and_restart(path: str, vfs: str | None = None) -> None:
    """Copy the WAL into the file, and begin it anew with a commit of our own. Raises `apsw.Error` or an engine error."""
    connection = connect(path, vfs=vfs, write=True, full=True)
    try:
        # The engine is the one to clean up when it closes.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        frames, copied = checkpoint(connection)
        if frames == copied:
            connection.execute("UPDATE counter SET value = value + 1 WHERE name = 'fence'")
    finally:
        connection.close()


def serve(channel: socket.socket, path: str, sync: Callable[[], None], restart: Callable[[], None]) -> None:
    """Answer requests until the other end is gone, which may end in an `OSError`."""
    channel.sendall(b"r")
    while True:
        request = channel.recv(1)
        if not request:
            return
        code = 0
        try:
            if request == b"s":
                sync()
            else:
                restart()
        except OSError as problem:
            code = problem.errno or errno.EIO
        except Exception:
            code = errno.EIO
        channel.sendall(ANSWER.pack(code))


def main() -> None:
    """Serve the log whose path is the last argument, over the socket that is standard input."""
    # An interrupt from the keyboard is the engine's business; this end leaves when the engine has.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    path = sys.argv[-1]
    channel = socket.socket(fileno=os.dup(0))
    wal = WalFile(path)
    with suppress(OSError):
        serve(channel, path, wal.sync, lambda: checkpoint_and_restart(path))
    os._exit(0)
