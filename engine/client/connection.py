"""The connection that comes and goes: connect, hello, talk, lose, wait, connect again.

Owns: the supervising task, the tasks of one connection (send, receive, ping), backoff, what ends the client for good.
Must not know: what callers wait for (the protocol machine tells them), trio-websocket.

    run ---> attempt: dial, handshake, hello ---> talk ---> lost ---> pause ---> attempt ...
                |                                   |
                +------ final: token, protocol -----+---> every wait gets the error

Invariants: one attempt at a time; whatever ends it, everything that was waiting goes on with the next; the socket is read
always, whatever readers do; `run` ends only by `close` or by an error that connecting again cannot mend.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Final

import attrs
import trio

from engine.client.address import Address
from engine.client.following import ViolationError
from engine.client.protocol import ClientProtocol, StrangerError
from engine.client.socket import LostError, Socket
from engine.errors import EngineError, ProtocolError, UnauthorizedError, UnreachableError
from engine.limits import ClientLimits
from engine.ports import Ports
from engine.server import frames

log = logging.getLogger("engine.client")

FAULTS: Final = (1002, frames.UNSUPPORTED_DATA, 1007, frames.INTERNAL, frames.MALFORMED)
"""Close codes that say that something sent was not understood, or met a bug: what is sent again may meet it again."""
NO_HELLO: Final = "it said no hello in time (one that wants a token waits for it)"


@attrs.frozen
class _Ending:
    """How an attempt ended."""

    problem: str
    fatal: EngineError | None = None
    calm: bool = False
    """It had been open for a while, and nobody broke the rules: the next pause is the shortest again."""
    at_once: bool = False
    """The server said that it goes away, after a while of talking: its successor may be there already."""


class Connection:
    """What keeps a client connected. `run` is its task; `wake` makes it look for something to send."""

    def __init__(self, address: Address, protocol: ClientProtocol, limits: ClientLimits, ports: Ports) -> None:
        self._address = address
        self._protocol = protocol
        self._limits = limits
        self._ports = ports
        self._wake = trio.Event()
        self._talking = trio.CancelScope()
        """Around what ends when the connection is lost or closed."""
        self._pausing = trio.CancelScope()
        self._closing = False
        self._dead: LostError | None = None
        """That the line is dead, once a ping was not answered."""
        self._greeting = False
        """Whether it is connected and waits for the hello."""
        self._opened_at = math.inf
        """When the hello of this attempt came."""
        self._socket: Socket | None = None
        self._bytes = (0, 0)
        self.error: EngineError | None = None
        """Why it ended for good."""
        self.opened = trio.Event()
        """Set with the first hello, or when it has ended before one."""
        self.ended = trio.Event()
        self.attempts = 0
        self.problem = "no answer"
        """Why the last attempt ended."""

    @property
    def bytes_moved(self) -> tuple[int, int]:
        """Bytes (sent, received) over all connections."""
        sent, received = self._bytes
        if self._socket is not None:
            return sent + self._socket.sent_bytes, received + self._socket.received_bytes
        return sent, received

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def unreached(self) -> EngineError:
        """Why there is no connection after all the time that there was."""
        if self._greeting:
            return ProtocolError(self._address.url, NO_HELLO)
        return UnreachableError(self._address.url, self.problem)

    async def close(self) -> None:
        """End it, politely where there is somebody to talk to."""
        self._closing = True
        self._talking.cancel()
        self._pausing.cancel()
        await self.ended.wait()

    # --- the supervisor -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the client connected until it is closed. Only `close` ends it: cancellation comes through there."""
        failures = 0
        try:
            with trio.CancelScope(shield=True):
                while not self._closing:
                    self.attempts += 1
                    ending = await self._attempt()
                    self.problem = ending.problem
                    if ending.fatal is not None:
                        log.error("%s", ending.fatal)
                        self._fail(ending.fatal)
                        return
                    failures = 0 if ending.calm else failures
                    if not ending.at_once:
                        await self._pause(failures)
                        failures += 1
        finally:
            self.opened.set()
            self.ended.set()

    def _fail(self, error: EngineError) -> None:
        self.error = error
        self._protocol.fail(error)

    async def _pause(self, failures: int) -> None:
        limits = self._limits
        # Beyond that power every pause is the longest, and the number no float.
        longest = min(limits.retry_max_s, limits.retry_first_s * 2.0 ** min(failures, 60))
        if not self._closing:
            log.info("%s: %s; trying again", self._address.url, self.problem)
            with trio.CancelScope() as self._pausing:
                await trio.sleep(longest * (0.5 + self._ports.random() / 2))

    async def _attempt(self) -> _Ending:
        socket = self._socket = Socket(self._address, self._ports, message_max=self._limits.frame_bytes_max)
        self._protocol.connected()
        self._opened_at = math.inf
        async with trio.open_nursery() as nursery:
            self._ports.spawn(nursery, socket.run, name="client: socket")
            problem: LostError | ViolationError | None = None
            self._dead = None
            try:
                with trio.CancelScope() as self._talking:
                    # `close` may have come before there was anything to cancel.
                    if not self._closing:
                        await self._talk(socket, nursery)
            except (LostError, ViolationError) as found:
                problem = found
            if problem is None and not self._closing:
                problem = self._dead or LostError("the server went away")
            elif problem is None:
                with trio.move_on_after(self._limits.close_s):
                    await socket.close()
            nursery.cancel_scope.cancel()
        ending = self._ending(problem, trio.current_time() - self._opened_at)
        self._bytes, self._socket = self.bytes_moved, None
        self._greeting = False
        self._protocol.lost(fault=isinstance(problem, LostError) and problem.code in FAULTS)
        return ending

    def _ending(self, problem: LostError | ViolationError | None, lasted_s: float) -> _Ending:
        url, open_ = self._address.url, self._protocol.open
        if problem is None:
            return _Ending("the client was closed")
        if isinstance(problem, StrangerError):
            return _Ending(str(problem), fatal=ProtocolError(url, str(problem)))
        if isinstance(problem, ViolationError):
            log.error("%s: the server broke the protocol: %s", url, problem)
            return _Ending(str(problem))
        if problem.final == "protocol" or problem.code == frames.TOO_BIG:
            return _Ending(problem.problem, fatal=ProtocolError(url, problem.problem))
        if problem.final == "token" or problem.code == frames.UNAUTHORIZED:
            return _Ending(problem.problem, fatal=UnauthorizedError(url, problem.problem))
        # A server that says hello and goes right away each time is asked ever more rarely too.
        lasted = open_ and lasted_s > self._limits.retry_first_s
        going = lasted and self._protocol.closing is not None
        return _Ending(problem.problem, calm=lasted and problem.code not in FAULTS, at_once=going)

    # --- one connection -------------------------------------------------------------------------------------

    async def _talk(self, socket: Socket, nursery: trio.Nursery) -> None:
        """Everything from the handshake to the loss, which comes as `LostError` or `ViolationError`."""
        protocol, limits = self._protocol, self._limits
        with trio.move_on_after(limits.connect_s) as handshake:
            await socket.open()
            self._greeting = True
            while not protocol.open:
                protocol.receive(await socket.receive())
        if handshake.cancelled_caught:
            # A server that was met before will be itself again; one that never was may be no server at all.
            stranger = self._greeting and protocol.hello is None
            raise LostError(NO_HELLO if self._greeting else "no answer in time", final="protocol" if stranger else None)
        self._greeting = False
        self._opened_at = trio.current_time()
        self.opened.set()
        self._ports.spawn(nursery, partial(self._send, socket), name="client: sender")
        self._ports.spawn(nursery, partial(self._ping, socket), name="client: pings")
        while True:
            protocol.receive(await socket.receive())
            self.wake()
            if protocol.closing is not None and self._talking.deadline == math.inf:
                # It refuses everything now and will hang up; if it does not, its successor may be there meanwhile.
                self._talking.deadline = trio.current_time() + limits.connect_s

    async def _send(self, socket: Socket) -> None:
        try:
            while True:
                text = self._protocol.next()
                if text is not None:
                    await socket.send(text)
                else:
                    self._wake = trio.Event()
                    await self._wake.wait()
        except LostError:
            pass  # whoever receives is told as well

    async def _ping(self, socket: Socket) -> None:
        while True:
            await trio.sleep(self._limits.ping_s)
            async with trio.open_nursery() as nursery:
                self._ports.spawn(nursery, partial(self._watch, socket), name="client: watch")
                try:
                    await socket.ping()
                except LostError:
                    return  # whoever receives is told as well
                finally:
                    nursery.cancel_scope.cancel()

    async def _watch(self, socket: Socket) -> None:
        """While a pong is waited for: a line that shows no sign of life for so long is dead, whatever TCP believes."""
        signs = -1
        while signs != socket.signs:
            signs = socket.signs
            await trio.sleep(self._limits.ping_s)
        self._dead = LostError("nothing was heard, not even a pong")
        self._talking.cancel()
