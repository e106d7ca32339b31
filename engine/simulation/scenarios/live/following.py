"""A turn streams in the server's process, and clients follow it over connections that are lost, cut and held up.

Owns: followers from every place. What must hold: each is given exactly the log after its place, and what it renders is the
read model, however often its connection or the server's process is lost.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from engine.client import SNAPSHOT
from engine.events import HEAD, MessageUpdated, PartUpdated
from engine.limits import ServerLimits
from engine.runtime import Engine
from engine.server import Server
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program
from engine.simulation.scenarios.live.serving import END, Follower, Live, end_note, session_of
from engine.simulation.scenarios.live.transcript import Transcript
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import log_of
from engine.simulation.world import Simulation

PIECES: Final = ("Hel", "lo w\U0001f600", "rld")
PIECE_S: Final = 0.05
"""Between two pieces of text: longer than the writer waits for company, so that each is an event of its own."""
FRAME_BYTES: Final = 300
"""A snapshot of two messages comes in parts, and few events share a frame."""


@attrs.define(eq=False)
class Streaming:
    """The turn of each life of the server's process, and when it is through."""

    go: trio.Event = attrs.field(factory=trio.Event)
    """The followers are there."""
    joined: trio.Event | None = None
    """Who comes later is there too: the log does not end before."""
    turns: int = 0

    async def work(self, engine: Engine, server: Server) -> None:
        """Stream a message, and end the log; in the next life once more, where this one does not come to its end."""
        session = await session_of(engine)
        await self.go.wait()
        if any(event.event_id == END for event in await log_of(engine)):
            return
        self.turns += 1
        asked, part = f"u{self.turns}", f"q{self.turns}"
        await session.append(MessageUpdated(asked, "user"), PartUpdated(part, asked, "text"))
        async with session.turn() as turn, turn.message(message_id=f"m{self.turns}") as message:
            for piece in PIECES:
                await message.text(piece)
                await trio.sleep(PIECE_S)
            message.finish_reason = "stop"
        if self.joined is not None:
            await self.joined.wait()
        await session.append(end_note())


async def verdict(sim: Simulation, *followers: Follower) -> None:
    """Each follower of session s was given the log, and shows the read model."""
    async with sim.engine() as engine:
        events = await log_of(engine)
        views = (await engine.read.messages("s", after=0, limit=100)).items
    for follower in followers:
        follower.check(events)
        if follower.begun is not None and (follower.snapshots or follower.begun.position < events[0].position):
            must(follower.transcript == Transcript.of_views(views), f"{follower.name}: shows the read model", follower)


def following(noise: int) -> Program:
    """From the start, from now, from the cursor where it left, again and again, and from a snapshot of what streams."""

    async def scenario(sim: Simulation) -> None:
        streaming = Streaming()
        live = Live(sim, work=streaming.work, limits=ServerLimits(events_bytes=FRAME_BYTES))
        start, now, again = Follower("start"), Follower("now", after=HEAD), Follower("again")
        snapshot = Follower("snapshot", after=SNAPSHOT)
        streaming.joined = snapshot.entered

        async def two() -> None:
            async with live.client() as client, trio.open_nursery() as nursery:
                nursery.start_soon(start.follow, client, name="start")
                nursery.start_soon(now.follow, client, name="now")
                await start.entered.wait()
                await now.entered.wait()
                streaming.go.set()

        async def leaving() -> None:
            async with live.client() as client:
                while again.ends:
                    await again.follow(client, at_most=3)

        async def joining() -> None:
            await streaming.go.wait()
            await trio.sleep(1.5 * PIECE_S)
            async with live.client() as client:
                await snapshot.follow(client)

        async with live.serving(), sim.actors() as actors:
            start_all(sim, actors, noise, live.noise, ("two", two), ("again", leaving), ("joining", joining))
        await verdict(sim, start, now, again, snapshot)
        must(snapshot.snapshots == 1, "a snapshot comes once", snapshot.snapshots)
        must(any(event.type == "message.updated" for event in now.events), "now is before what comes next", now.begun)
        sim.sometimes("a turn was lost with its process", "crash" not in sim.kinds or streaming.turns > 1)

    return scenario


def subscription(noise: int) -> Program:
    """The smallest of them: one follower of one turn."""

    async def scenario(sim: Simulation) -> None:
        streaming = Streaming()
        live = Live(sim, work=streaming.work)
        follower = Follower("start")

        async def follow() -> None:
            streaming.go.set()
            async with live.client() as client:
                await follower.follow(client)

        async with live.serving(), sim.actors() as actors:
            start_all(sim, actors, noise, live.noise, ("follower", follow))
        await verdict(sim, follower)

    return scenario
