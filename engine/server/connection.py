"""One connection: what a client sends is read here, and handed on; what it is told goes out here.

Owns: the life of a connection: handshake, token, reading at the allowed pace, its subscriptions, its end. Must not know:
what a command does, how events are cut into frames.

    handshake -> (first frame: auth) -> hello -> reading ... -> a verdict (a close code) or the peer is gone
    beside it: the library's reader, the pulse, a task a subscription, and for a moment whoever writes answers

Invariants: it ends by itself only with a code, or because the line is dead; a bug in it ends it alone; a frame is read only
while there is room for what it may cost; it never cancels what it was asked to do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import trio

from engine.errors import EngineError
from engine.server import frames
from engine.server.access import Grant
from engine.server.admission import FULL, Admitted, Refused, admit
from engine.server.commands import Answer, Commands
from engine.server.following import Following
from engine.server.protocol import Close, Pace, Received, Say, ServerProtocol
from engine.server.pulse import Pulse, Seen
from engine.server.served import ServedWorkspace
from engine.server.shared import Shared, log
from engine.server.socket import LINGER_S, GoneError, Socket

GONE: Final = (GoneError, trio.ClosedResourceError, trio.BrokenResourceError)
"""What the end of the line looks like."""


class Connection:
    """A client's connection, from the first byte to the last."""

    def __init__(self, shared: Shared, stream: trio.abc.Stream, number: int, *, full: bool) -> None:
        self._shared = shared
        self._full = full
        self._limits = shared.limits
        self.name = f"connection {number}"
        """How the log calls it."""
        self._task = "connection"
        self._socket = Socket(stream, message_bytes_max=shared.limits.frame_bytes_max)
        self._wire = self._socket.wire
        self.protocol = ServerProtocol(shared.limits, None)
        self.snapshots = trio.StrictFIFOLock()
        self._commands: Commands | None = None
        self._workspace: ServedWorkspace | None = None
        self._followings: dict[str, Following] = {}
        self._admitted = False
        self._nursery: trio.Nursery | None = None
        """Where its own tasks run; None before and after its life."""
        self._pulse = Pulse(shared.limits, trio.current_time())
        self._listening = True
        self._flushing = False
        self._changed = trio.Event()
        self._reading = trio.CancelScope()
        self._verdict: tuple[int, str] | None = None
        self._farewell_until: float | None = None

    # --- life -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve it to its end. Raises nothing but cancellation."""
        self._task = trio.lowlevel.current_task().name
        try:
            async with trio.open_nursery() as nursery:
                try:
                    await self._live(nursery)
                finally:
                    if self._nursery is not None:
                        # What is being written is not cancelled: it ends with the stream.
                        self._nursery = None
                        self._notify()
                        await self._wire.hang_up()
                    nursery.cancel_scope.cancel()
        except Exception as problem:
            await self._failed(problem)
        finally:
            await self._wire.hang_up()
            self._shared.counters.bytes_sent += self._wire.sent_bytes
            self._shared.counters.frames_malformed += self.protocol.malformed

    async def _live(self, nursery: trio.Nursery) -> None:
        try:
            with self._reading:
                admitted = await self._let_in(nursery)
                if admitted is None:
                    return
                self._admitted, self._nursery = True, nursery
                self._spawn(self._watch, "pulse")
                await self._serve(admitted)
            await self._end()
        except GONE:
            await self._socket.finish()

    async def _let_in(self, nursery: trio.Nursery) -> Admitted | None:
        shared = self._shared
        with trio.move_on_after(self._limits.handshake_s):
            if not await self._socket.handshake(nursery):
                shared.counters.refused["handshake"] += 1
                await self._socket.finish()
                return None
            request = self._socket.request
            decision: Admitted | Refused = FULL
            if not self._full:
                decision = admit(
                    request.headers,
                    request.proposed_subprotocols,
                    tokens=shared.tokens,
                    grant=shared.grant,
                    origins=shared.origins,
                )
            if isinstance(decision, Admitted):
                await self._socket.accept(frames.SUBPROTOCOL)
                shared.counters.connections_total += 1
                return decision
            shared.counters.refused[decision.reason] += 1
            log.info("%s: refused (%s)", self.name, decision.reason)
            await self._socket.reject(decision.status, decision.body, list(decision.headers))
            await self._socket.finish()
            return None
        shared.counters.refused["handshake"] += 1
        return None

    async def _serve(self, admitted: Admitted) -> None:
        """Read until the connection has a verdict, or is gone."""
        grant = admitted.grant or await self._authenticate(admitted)
        if grant is None:
            return
        self._socket.trust()
        engine = self._shared.engine
        self._workspace = engine.workspace(grant.workspace)
        self._commands = Commands(self._shared, self._workspace, grant.workspace, self)
        head = await engine.head()
        await self.send(lambda: self.protocol.open(grant, epoch=engine.epoch, head=head))
        pace = Pace(per_s=self._limits.frames_per_s, burst=self._limits.frames_burst, now=trio.current_time())
        while True:
            await self._wait_for_room()
            message = await self._socket.receive()
            if self._verdict is not None:
                return  # it came after the server began to go away: nobody would carry it out
            now = self._wire.heard_at = trio.current_time()
            self._pulse.active(now)
            self._shared.counters.frames_received += 1
            self._take(self.protocol.receive(message))
            wait = pace.take(now)
            if wait > 0:
                with self._not_listening():
                    await trio.sleep(wait)

    async def _authenticate(self, admitted: Admitted) -> Grant | None:
        """What the first frame's token grants; None: there is a verdict."""
        problem = "this token is not valid"
        if not admitted.denied:
            problem = "no token came in time"
            with trio.move_on_after(self._limits.handshake_s):
                received = self.protocol.receive(await self._socket.receive())
                if isinstance(received, frames.Auth):
                    found = self._shared.tokens.grant(received.token)
                    if found is not None:
                        return found
                    problem = "this token is not valid"
                elif isinstance(received, Close):
                    problem = received.reason
        self._shared.counters.refused["token"] += 1
        log.info("%s: refused (token)", self.name)
        self.end(frames.UNAUTHORIZED, problem)
        return None

    # --- reading --------------------------------------------------------------------------------------

    def _take(self, received: Received) -> None:
        match received:
            case Say(text):
                self._say(text)
            case Close(code, reason):
                self.end(code, reason)
            case frames.Subscribe():
                assert self._workspace is not None
                begun = self._followings[received.id] = Following(self._shared, self._workspace, received, self)
                self._spawn(partial(self._follow, received.id, begun), f"subscription {received.id:.50}")
            case frames.Unsubscribe():
                # It is not there where the engine's end has ended it.
                following = self._followings.pop(received.id, None)
                if following is not None:
                    following.end()
                self._say(self.protocol.unsubscribe(received.id))
            case frames.Auth():
                raise AssertionError("the protocol lets nobody authenticate twice")
            case _:
                assert self._commands is not None
                self._commands.accept(received)

    async def _follow(self, name: str, following: Following) -> None:
        try:
            await following.run()
        except GONE:
            self.end(frames.NORMAL, "")
        finally:
            if self._followings.get(name) is following:
                del self._followings[name]
            self._pulse.active(trio.current_time())

    async def _wait_for_room(self) -> None:
        while not (self.protocol.has_room and self._can_be_told):
            with self._not_listening():
                await self._changed.wait()

    @property
    def _can_be_told(self) -> bool:
        """Whether what was said and not yet sent is little."""
        wire, limits = self._wire, self._limits
        return wire.said_count < limits.commands_max and wire.said_chars < limits.buffer_bytes_max

    def _notify(self) -> None:
        """Wake whoever waits for room, or for the commands to end."""
        self._changed.set()
        self._changed = trio.Event()

    @contextmanager
    def _not_listening(self) -> Iterator[None]:
        self._listening = False
        try:
            yield
        finally:
            self._listening = True
            # What the peer has said meanwhile may still wait to be read.
            self._wire.heard_at = trio.current_time()

    @property
    def bytes_sent(self) -> int:
        """What was written to it."""
        return self._wire.sent_bytes

    # --- speaking -------------------------------------------------------------------------------------

    async def send(self, make: Callable[[], str | None]) -> bool:
        """Send the text that is to be sent once the socket is free; False: none was."""
        return await self._wire.send(make)

    def _say(self, text: str | None) -> None:
        """Queue a text, and see to it that somebody writes it."""
        if text is None or self._nursery is None:
            return
        self._wire.say(text)
        if not self._flushing:
            self._flushing = True
            self._spawn(self._flush, "answers")

    async def _flush(self) -> None:
        try:
            while self._wire.said_count:
                await self.send(lambda: None)
                self._notify()
        except GONE:
            self.end(frames.NORMAL, "")
        finally:
            self._flushing = False

    # --- what became of commands: also told when nobody is left to hear it -------------------------------

    def answered(self, answer: Answer) -> None:
        """A command was carried out."""
        self._said_of_command(self.protocol.answer(answer))

    def posted(self, frame_id: str) -> None:
        """A post was handed over."""
        self.protocol.posted(frame_id)
        self._said_of_command(None)

    def refused(self, frame_id: str, error: EngineError) -> None:
        """A command failed."""
        self._said_of_command(self.protocol.refuse(frame_id, error))

    def failed_later(self, frame_id: str, error: EngineError) -> None:
        """A post that was handed over could not be written."""
        self._shared.counters.posts_failed += 1
        log.warning("%s: post %.100r: %s", self.name, frame_id, error)
        self._say(self.protocol.failed_later(frame_id, error))

    async def room(self) -> None:
        """Wait until a large answer may be made: nobody to be told is room enough."""
        while self._nursery is not None and not self._can_be_told:
            await self._changed.wait()

    def _said_of_command(self, text: str | None) -> None:
        self._say(text)
        self._notify()

    # --- the end --------------------------------------------------------------------------------------

    def broke(self, problem: Exception) -> None:
        """A bug was met on behalf of this connection."""
        self._shared.counters.closed_failed += 1
        self.end(frames.INTERNAL, "a bug in the server")

    def end(self, code: int, reason: str) -> None:
        """Let it end with this code. The first verdict counts."""
        if self._verdict is None:
            self._verdict = (code, reason)
            self._reading.cancel()

    def say_farewell(self, until: float) -> None:
        """The server goes away: let it end, at this moment at the latest."""
        self._farewell_until = until
        self.end(frames.GOING_AWAY, "the server shuts down")

    async def _end(self) -> None:
        code, reason = self._verdict or (frames.NORMAL, "")
        until = self._farewell_until or trio.current_time() + self._limits.shutdown_s
        with trio.move_on_at(until):
            if code == frames.GOING_AWAY and self.protocol.grant is not None:
                await self._wire.send(lambda: self.protocol.closing(reason), to_its_end=False)
            for following in self._followings.values():
                following.end()
            while code == frames.GOING_AWAY and self.protocol.commands:
                await self._changed.wait()
            await self._wire.flush()
        # Whoever is sent away need not agree; whom the server leaves may take what is left of its time.
        seconds = min(LINGER_S, self._limits.shutdown_s)
        if code == frames.GOING_AWAY:
            seconds = max(seconds, until - trio.current_time())
        await self._socket.close(code, reason, seconds)

    async def _watch(self) -> None:
        """Ask for signs of life, and end what shows none."""
        wire, counters = self._wire, self._shared.counters
        while True:
            seen = Seen(
                heard_at=wire.heard_at,
                moved_at=wire.moved_at,
                sending_since=wire.sending_since,
                listening=self._listening,
                busy=bool(self._followings or self.protocol.commands),
            )
            verdict, due = self._pulse.look(trio.current_time(), seen)
            if verdict is None:
                await trio.sleep_until(due)
            elif verdict == "ping":
                self._spawn(self._ping, "ping")
            elif verdict == "stalled":
                counters.closed_stalled += 1
                await wire.hang_up()
                return
            else:
                if verdict == "silent":
                    counters.closed_silent += 1
                else:
                    counters.closed_idle += 1
                self.end(frames.TIMED_OUT, "no pong came" if verdict == "silent" else "nothing was asked for")
                return

    async def _ping(self) -> None:
        try:
            await self._wire.ping()
        except GONE:
            self.end(frames.NORMAL, "")

    def _spawn(self, function: Callable[[], Awaitable[object]], what: str) -> None:
        assert self._nursery is not None
        self._shared.spawn(self._nursery, partial(self._guarded, function), f"{self._task}: {what}")

    async def _guarded(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except Exception as problem:
            log.exception("%s: a bug", self.name)
            self.broke(problem)

    async def _failed(self, problem: Exception) -> None:
        if self._admitted:
            self._shared.counters.closed_failed += 1
            log.error("%s: it ends because of a bug", self.name, exc_info=problem)
            return
        # The library does not expect everything that can stand in a header.
        self._shared.counters.refused["handshake"] += 1
        log.info("%s: refused (handshake): %r", self.name, problem)
        with trio.move_on_after(self._limits.handshake_s, shield=True):
            await self._socket.reject_malformed()
