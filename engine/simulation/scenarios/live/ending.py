"""Servers that go away in the midst of commands, and logs that are no longer what their followers know.

Owns: shutdowns, replaced imports, an older copy behind the same address. What must hold: a shutdown loses and doubles
nothing; a follower whose log has changed under it is told, and never goes on as if nothing had happened.
"""

from __future__ import annotations

from contextlib import closing
from typing import Final

import apsw
import trio

from engine.events import Envelope, SessionNoted, SessionStarted
from engine.runtime import Engine
from engine.server import Server
from engine.simulation.hosting import DATABASE
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program
from engine.simulation.scenarios.live.commanding import Writer
from engine.simulation.scenarios.live.serving import Follower, Live, end_note, session_of
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import log_of
from engine.simulation.world import Simulation

COPY: Final = "copy.db"


def shutdown(noise: int) -> Program:
    """The server is closed, then its engine, while a client writes and follows; both times its successor goes on."""

    async def scenario(sim: Simulation) -> None:
        writer, follower = Writer("ann"), Follower("follower")
        asked = [trio.Event(), trio.Event()]
        ends: list[str] = []

        async def work(engine: Engine, server: Server) -> None:
            number = live.lives.begun - 1
            if number >= len(asked):
                return
            await asked[number].wait()
            ends.append("close")
            if number == 0:
                await server.close()
            else:
                live.lives.end()

        live = Live(sim, work=work)

        async def write() -> None:
            async with live.client() as client, trio.open_nursery() as nursery:
                session = await client.create_session("s")
                nursery.start_soon(follower.follow, client, name="follower")
                for event in asked:
                    await writer.append(session)
                    event.set()
                    await writer.append(session)
                    await writer.post(session, 2)
                await session.append(end_note())
                must(client.statistics().posts_failed == 0, "no post fails because of a shutdown")

        async with live.serving(), sim.actors() as actors:
            start_all(sim, actors, noise, live.noise, ("ann", write))
        async with sim.engine() as engine:
            events = await log_of(engine)
        writer.check(events)
        follower.check(events)
        must(len(writer.told) == len(writer.asked), "each command is answered", writer)
        sim.sometimes("both went away while somebody was there", len(ends) == 2)

    return scenario


def imported(text: str, count: int) -> list[Envelope]:
    """What an importer brings."""
    notes = [Envelope(SessionNoted(f"n{number}", text), f"{text}.{number}", 1_000) for number in range(count)]
    return [Envelope(SessionStarted("made up"), "start", 1_000), *notes]


def replaced(noise: int) -> Program:
    """What was imported into a session is replaced while clients follow it and come back to it."""

    async def scenario(sim: Simulation) -> None:
        sim.host.dense = False
        before, after = Follower("before"), Follower("after")
        go, done = trio.Event(), trio.Event()

        async def work(engine: Engine, server: Server) -> None:
            await engine.import_events("s", imported("old", 3))
            await go.wait()
            await engine.replace_imported("s", imported("new", 2))
            await (await engine.session("s")).append(end_note())
            done.set()

        live = Live(sim, work=work)

        async def follow() -> None:
            async with live.client() as client:
                await before.follow(client, at_most=2)
                go.set()
                await before.follow(client)
                must(bool(before.resets), "who holds what was replaced is told", before.events)
                await done.wait()
                await after.follow(client)

        async with live.serving(), sim.actors() as actors:
            start_all(sim, actors, noise, live.noise, ("follower", follow))
        async with sim.engine() as engine:
            after.check(await log_of(engine))
        kinds = {item.event.kind for item in before.events if item.type == "session.noted"}
        must(kinds <= {"old"}, "nothing new comes before the reset", kinds)

    return scenario


def restored(noise: int) -> Program:
    """Behind the same address is an older copy of the log: who has seen more than it holds is told, who has not goes on."""

    async def scenario(sim: Simulation) -> None:
        knowing, early, anew = Follower("knowing"), Follower("early"), Follower("anew")
        known, gone_on = trio.Event(), trio.Event()

        async def work(engine: Engine, server: Server) -> None:
            session = await session_of(engine)
            if live.lives.begun == 1:
                await session.append(SessionNoted("kept", "k"))
                _copy(sim)
                await session.append(SessionNoted("lost", "k"))
                await known.wait()
                live.database = COPY
                live.lives.end()
                return
            for number in range(4):
                await session.append(SessionNoted(f"other {number}", "k"))
            await session.append(end_note())
            gone_on.set()

        live = Live(sim, work=work)

        async def following() -> None:
            async with live.client() as client:
                await early.follow(client, at_most=2)
                await knowing.follow(client, at_most=3)
                known.set()
                await knowing.follow(client)
                await gone_on.wait()
                await early.follow(client)
                await anew.follow(client)

        async with live.serving(), sim.actors() as actors:
            start_all(sim, actors, 0, live.noise, ("follower", following))
        async with sim.engine(COPY) as engine:
            events = await log_of(engine)
        anew.check(events)
        early.check(events)
        must(not early.resets, "who knows nothing else goes on", early.resets)
        must(bool(knowing.resets), "who has seen what is lost is told", knowing.events)
        shown = [getattr(item.event, "note_id", item.type) for item in knowing.events]
        must(shown == ["session.started", "kept", "lost"], "and is given nothing of the other log", shown)

    return scenario


def _copy(sim: Simulation) -> None:
    disk = sim.host.disk
    with (
        closing(apsw.Connection(disk.path(DATABASE), vfs=disk.name, flags=apsw.SQLITE_OPEN_READONLY)) as source,
        closing(apsw.Connection(disk.path(COPY), vfs=disk.name)) as target,
        target.backup("main", source, "main") as backup,
    ):
        backup.step()
