"""The engine's end of the sync helper process.

Owns: starting it, asking it, noticing its death. Must not know: what is being synced.
Invariants: one request at a time; an `OSError` of a request is the device's verdict; `SyncUnavailableError` means that the
helper is gone and says nothing about the device.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import trio

from engine.ports import SyncUnavailableError
from engine.store import ANSWER

START_S: Final = 20.0
"""How long the helper may take to say that it is ready: a Python start on a loaded machine."""
END_S: Final = 2.0
"""How long it may take to leave before it is killed."""

DEFAULT_COMMAND: Final = (sys.executable, "-c", "from engine.store.sync_helper import main; main()")


class SyncHelper:
    """A running helper process. Made by `start`."""

    def __init__(self, process: subprocess.Popen[bytes], channel: trio.socket.SocketType) -> None:
        self._process = process
        self._channel = channel

    @classmethod
    async def start(cls, path: str, command: Sequence[str] | None = None) -> SyncHelper:
        """Start a helper for the log at `path`. Raises `SyncUnavailableError`.

        `command` stands for another helper program; the path is added to it.
        """
        process, channel = _launch(path, command or DEFAULT_COMMAND)
        helper = cls(process, trio.socket.from_stdlib_socket(channel))
        ready = b""
        with trio.move_on_after(START_S):
            try:
                ready = await helper._receive(1)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await helper.aclose()
                raise
        if ready != b"r":
            await helper.aclose()
            raise SyncUnavailableError("the sync helper did not start in time")
        return helper

    @property
    def pid(self) -> int:
        """The helper's process id."""
        return self._process.pid

    async def sync(self) -> None:
        """Return once everything committed before is on the device."""
        await self._ask(b"s")

    async def checkpoint(self) -> None:
        """Copy the WAL into the file and begin it anew."""
        await self._ask(b"c")

    async def _ask(self, request: bytes) -> None:
        try:
            await self._channel.send(request)
        except OSError as problem:
            raise SyncUnavailableError(f"the sync helper is gone: {problem}") from None
        (code,) = ANSWER.unpack(await self._receive(ANSWER.size))
        if code:
            raise OSError(code, os.strerror(code))

    async def _receive(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            try:
                more = await self._channel.recv(count - len(found))
            except OSError as problem:
                raise SyncUnavailableError(f"the sync helper is gone: {problem}") from None
            if not more:
                raise SyncUnavailableError("the sync helper is gone")
            found += more
        return found

    async def aclose(self) -> None:
        """Let it leave. Idempotent."""
        self._channel.close()
        with trio.move_on_after(END_S):
            while self._process.poll() is None:  # noqa: ASYNC110 - a child process has no event to wait for
                await trio.sleep(0.005)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _launch(path: str, command: Sequence[str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process with one end of a socket as its standard input; returns it with the other end."""
    ours, theirs = socket.socketpair()
    # The child finds this very package, however this process found it.
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": search}
    try:
        process = subprocess.Popen([*command, os.path.abspath(path)], stdin=theirs.fileno(), env=environment)
    except OSError as problem:
        ours.close()
        raise SyncUnavailableError(f"the sync helper cannot be started: {problem}") from None
    finally:
        theirs.close()
    ours.setblocking(False)
    return process, ours
