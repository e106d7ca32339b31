"""What a client's handles share: asking and waiting, posting and waiting for room.

Owns: the waits of callers, their bounds, what ends them. Must not know: what is asked.
Invariants: a call is answered once, refused once, or withdrawn by its own cancellation; callers wait in the order they came;
once the client has ended every wait ends with the error that says why.
"""

from __future__ import annotations

import logging
from typing import TypeVar

import trio

from engine.client.connection import Connection
from engine.client.following import ViolationError
from engine.client.outbox import Answer, Sendable
from engine.client.posted import Posted
from engine.client.protocol import ClientProtocol
from engine.errors import ClosedError, InvalidArgumentError, ProtocolError
from engine.events import Registry
from engine.limits import ClientLimits
from engine.ports import Ports
from engine.server import frames

A = TypeVar("A", frames.Receipt, frames.Opened, frames.Flushed, frames.Stopped, frames.MessagePage)

log = logging.getLogger("engine.client")


class Core:
    """One client behind its handles."""

    def __init__(
        self,
        url: str,
        protocol: ClientProtocol,
        connection: Connection,
        registry: Registry,
        ports: Ports,
        limits: ClientLimits,
    ) -> None:
        self.url = url
        self.protocol = protocol
        self.connection = connection
        self.registry = registry
        self.ports = ports
        self.limits = limits
        self._commands = trio.Semaphore(limits.commands_max)
        self._posting = trio.StrictFIFOLock()
        self._settled = trio.Event()
        self._closed = False
        protocol.outbox.settled = self._posts_settled

    @property
    def workspace(self) -> str:
        """The workspace that the token stands for."""
        hello = self.protocol.hello
        assert hello is not None, "there are no handles before the hello"
        return hello.workspace

    def check(self) -> None:
        """Raise why nothing can be asked any more, if so."""
        if self._closed:
            raise ClosedError("the client")
        if self.connection.error is not None:
            raise self.connection.error.clone()

    def new_id(self) -> str:
        """An id for a command."""
        return self.ports.ids.new_id("cmd")

    async def call(self, frame: Sendable, kind: type[A]) -> A:
        """Send a command, now or with the next connection, and wait for its answer.

        Cancelled: one that has not gone out yet is withdrawn; another runs on, and is not sent again.
        """
        self.check()
        self._validate(frame)
        async with self._commands:
            self.check()
            reply = self.ports.reply()
            pending = self.protocol.command(frame, reply)
            self.connection.wake()
            try:
                answer: Answer = await reply.wait()
            finally:
                if not reply.answered:
                    self.protocol.withdraw(pending)
        if not isinstance(answer, kind):
            raise self.violated(f"{type(frame).__name__} was answered by {type(answer).__name__}")
        return answer

    def violated(self, problem: ViolationError | str) -> ProtocolError:
        """The error of an answer that makes no sense. What was asked for may have been done."""
        return ProtocolError(self.url, str(problem))

    @staticmethod
    def _validate(frame: Sendable) -> None:
        """Refuse here what the server would count as malformed."""
        try:
            frames.decode_client(frames.encode(frame))
        except (ValueError, TypeError) as problem:
            name = str(frame.__struct_config__.tag)
            raise InvalidArgumentError(name, " ".join(str(problem).split())[:300]) from None

    async def post(self, posted: Posted) -> None:
        """Hand over a post, waiting while too many are not known to be durable. Cancelled: not accepted."""
        outbox = self.protocol.outbox
        async with self._posting:
            self.check()
            while not outbox.has_room(posted):
                self._settled = trio.Event()
                await self._settled.wait()
                self.check()
            self.protocol.post(posted)
            self.connection.wake()

    def _posts_settled(self) -> None:
        self._settled.set()

    async def close(self) -> None:
        """Settle what was posted, then end every wait, then the connection."""
        outbox = self.protocol.outbox
        self._closed = True
        self._settled.set()
        with trio.move_on_after(self.limits.close_s):
            while outbox.posted_events and self.connection.error is None:
                self.protocol.flush_all()
                self.connection.wake()
                self._settled = trio.Event()
                await self._settled.wait()
        if outbox.posted_events:
            log.warning("%s: %d posted events are not known to be durable", self.url, outbox.posted_events)
        self.protocol.fail(None)
        self._settled.set()
        await self.connection.close()
