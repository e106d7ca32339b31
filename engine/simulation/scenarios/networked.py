"""Over a network that loses connections: frames that are sent again must be there once, in order, none missing.

Owns: lines over a stream, an uploader that counts what it sent (naive), one that asks what was received, and one that sends
to the engine until it is answered. Must not know: how connections are lost.
Invariants: a line counts when its end has arrived; what was cut off is no line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import attrs
import trio

from engine.errors import ClosedError, UnknownSessionError
from engine.events import Duplicate, Envelope, SessionNoted
from engine.ports import Network
from engine.runtime import Engine
from engine.session import Session
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program, Scenario, naive
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import log_of, on_engine
from engine.simulation.world import Simulation

HOST: Final = "upload"
PORT: Final = 9000
FRAMES: Final = 3
ATTEMPTS_MAX: Final = 100
"""Connections that an uploader opens before it gives up: more than any schedule takes from it."""
RETRY_S: Final = 1.0
PATIENCE_S: Final = 30.0
"""Virtual seconds that an uploader waits for an answer."""
BROKEN: Final = (OSError, trio.BrokenResourceError)

Handler = Callable[[trio.abc.Stream], Awaitable[None]]


class Lines:
    """A stream of lines."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._whole: list[str] = []
        self._rest = b""

    async def next(self) -> str | None:
        """The next line; None at the end."""
        while not self._whole:
            data = await self.stream.receive_some()
            if not data:
                return None
            *whole, self._rest = (self._rest + data).split(b"\n")
            self._whole += [line.decode() for line in whole]
        return self._whole.pop(0)

    async def say(self, line: object) -> None:
        """Send a line."""
        await self.stream.send_all(f"{line}\n".encode())


async def served(network: Network, handler: Handler) -> None:
    """Serve every connection until cancelled; a broken one harms no other."""

    async def tolerant(stream: trio.abc.Stream) -> None:
        with suppress(*BROKEN):
            await handler(stream)

    listening = await network.listen(HOST, PORT)
    await trio.serve_listeners(tolerant, list(listening.listeners))


async def insisting(network: Network, attempt: Callable[[Lines], Awaitable[None]]) -> None:
    """Connect, and connect again, until an attempt ends without losing its connection."""
    for _ in range(ATTEMPTS_MAX):
        with suppress(*BROKEN, trio.TooSlowError), trio.fail_after(PATIENCE_S):
            async with await network.connect(HOST, PORT) as stream:
                await attempt(Lines(stream))
                return
        await trio.sleep(RETRY_S)


# --- a server that keeps what it is sent --------------------------------------------------------------


def _uploading(upload: Callable[[Network, str], Awaitable[None]], receive: Callable[[dict[str, list[str]]], Handler]) -> Any:
    def build(noise: int) -> Program:
        async def scenario(sim: Simulation) -> None:
            kept: dict[str, list[str]] = {}

            async def other(name: str, amount: int = FRAMES) -> None:
                kept[name] = []
                await upload(sim.network, name)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(served, sim.network, receive(kept), name="server")
                async with sim.actors() as actors:
                    start_all(sim, actors, noise, other, ("uploader", lambda: other("u")))
                await trio.sleep(RETRY_S)
                nursery.cancel_scope.cancel()
            for name, got in kept.items():
                must(got == [str(number) for number in range(FRAMES)], f"{name}: every frame once, in order", got)

        return scenario

    return build


async def upload_counting_sent(network: Network, name: str) -> None:
    """Naive: a frame whose send returned counts as delivered, and one whose send failed as lost."""
    sent = 0

    async def attempt(lines: Lines) -> None:
        nonlocal sent
        await lines.say(name)
        while sent < FRAMES:
            await lines.say(sent)
            sent += 1

    await insisting(network, attempt)


def keeping_all(kept: dict[str, list[str]]) -> Handler:
    """The server of the naive uploader: whatever comes is kept."""

    async def handler(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        name = await lines.next()
        while name is not None and (line := await lines.next()) is not None:
            kept[name].append(line)

    return handler


async def upload_counting_received(network: Network, name: str) -> None:
    """Correct: go on behind what the server says it has, and end when it says that it has everything."""

    async def attempt(lines: Lines) -> None:
        await lines.say(name)
        has = int(await lines.next() or 0)
        for number in range(has, FRAMES):
            await lines.say(number)
        while has < FRAMES:
            answer = await lines.next()
            if answer is None:
                raise trio.BrokenResourceError("the server hung up")
            has = int(answer)

    await insisting(network, attempt)


def keeping_the_next(kept: dict[str, list[str]]) -> Handler:
    """Its server: keeps a frame only if it is the next one (an older connection may still bring some), and says how many."""

    async def handler(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        name = await lines.next()
        if name is None:
            return
        got = kept[name]
        await lines.say(len(got))
        while (line := await lines.next()) is not None:
            if int(line) == len(got):
                got.append(line)
            await lines.say(len(got))

    return handler


counting_sent = _uploading(upload_counting_sent, keeping_all)
counting_received = _uploading(upload_counting_received, keeping_the_next)


# --- the engine behind a server -----------------------------------------------------------------------


@attrs.define(eq=False)
class _Uploads:
    """What the clients of an engine's server do, and what they were told."""

    sim: Simulation
    answered: dict[str, list[int]] = attrs.field(factory=dict)
    again: int = 0
    """Frames that were there already when they came again."""

    def handler(self, session: Session) -> Handler:
        """Append each frame under its own id, and say so when it is durable."""

        async def handler(stream: trio.abc.Stream) -> None:
            lines = Lines(stream)
            while (line := await lines.next()) is not None:
                try:
                    receipt = await session.append(Envelope(SessionNoted(line, "k"), line))
                except ClosedError:
                    return
                self.again += isinstance(receipt.outcome, Duplicate)
                await lines.say(line)

        return handler

    async def upload(self, name: str, amount: int = FRAMES) -> None:
        """Send each frame until it is answered."""
        told = self.answered[name] = []

        async def attempt(lines: Lines) -> None:
            for number in range(len(told), amount):
                await lines.say(f"{name}.{number}")
            while len(told) < amount:
                answer = await lines.next()
                if answer is None:
                    raise trio.BrokenResourceError("the server hung up")
                must(answer == f"{name}.{len(told)}", "answers come in order", answer)
                told.append(len(told))

        await insisting(self.sim.network, attempt)


@asynccontextmanager
async def _serving(sim: Simulation, uploads: _Uploads, ended: trio.Event) -> Any:
    async def server() -> None:
        while not ended.is_set():
            async with sim.process() as process, sim.engine() as engine, trio.open_nursery() as nursery:
                handler = uploads.handler(await _session(engine))
                nursery.start_soon(served, process.network, handler, name="server")
                await ended.wait()
                nursery.cancel_scope.cancel()
            sim.sometimes("the server's process died", process.crashed)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server, name="host")
        yield
        ended.set()


async def _session(engine: Engine) -> Session:
    try:
        return await engine.session("s")
    except UnknownSessionError:
        return await engine.create_session("s")


def to_the_engine(noise: int) -> Program:
    """Connections are lost and the server's process dies; frames that were not answered are sent again under their ids."""

    async def scenario(sim: Simulation) -> None:
        uploads = _Uploads(sim)
        async with _serving(sim, uploads, trio.Event()), sim.actors() as actors:
            start_all(sim, actors, noise, uploads.upload, ("uploader", lambda: uploads.upload("u")))
        sim.sometimes("a frame came again that was there already", uploads.again > 0)
        async with sim.engine() as engine:
            found = [event.event_id for event in await log_of(engine)]
        for name, told in uploads.answered.items():
            ids = [event_id for event_id in found if event_id.startswith(f"{name}.")]
            must(ids == [f"{name}.{number}" for number in told], f"{name}: every frame once, in order", ids)

    return scenario


NAIVE: tuple[Scenario, ...] = (
    naive("6 resume", "An uploader that loses its connection goes on behind what it sent.", counting_sent, "net"),
)
ENGINE: tuple[Scenario, ...] = (
    on_engine(
        "6 upload", "Connections and processes are lost; frames are there once.", to_the_engine, "net", "crash", "cut"
    ),
)
