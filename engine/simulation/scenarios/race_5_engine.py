"""Race 5 on the engine: a source is ingested again while its session is used, also over indexes that drifted.

The drift is made for real: the log's unique indexes are taken out of `sqlite_schema`, rows change, and they are put back.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any, Final

import apsw

from engine.errors import StorageCorruptError
from engine.events import (
    CaughtUp,
    Envelope,
    MessageFinished,
    MessageUpdated,
    PartUpdated,
    RecordedEvent,
    Reset,
    SessionStarted,
    UsageRecorded,
)
from engine.importers import ImportedSession, Transcript
from engine.runtime import Engine
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program, Scenario
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import Told, log_of, noise_on, on_engine, patient_noise_on
from engine.simulation.world import Simulation

_INDEXES: Final = "('event_by_seq', 'event_by_id')"
_COLUMNS: Final = "stream_key, incarnation, seq, type_key, outcome, origin, recorded_at, occurred_at, event_id, digest, data"
_TWICE: Final = f"INSERT INTO event({_COLUMNS}) SELECT {_COLUMNS} FROM event WHERE seq IN (2, 3, 9)"
DRIFTS: Final = {
    "rows that stand twice": _TWICE,
    "entries without rows": "DELETE FROM event WHERE seq IN (3, 5)",
    "a tail without rows": "DELETE FROM event WHERE seq > 6",
    "both": f"{_TWICE}; DELETE FROM event WHERE seq IN (4, 9)",
}


def source(count: int, text: str) -> ImportedSession:
    """A transcript's session of `count` messages; a longer one of the same text begins with the shorter one."""
    envelopes = [Envelope(SessionStarted("made up"), "start", 1_000)]
    for number in range(count):
        name, moment = f"m{number}", 1_001 + number
        envelopes += [
            Envelope(MessageUpdated(name, "assistant", state="unknown"), f"{name}.1", moment),
            Envelope(PartUpdated(f"p{number}", name, "text", {"text": f"{text} {number}"}), f"{name}.2", moment),
            Envelope(UsageRecorded(f"st{number}", name, "model", 10, 1, 2), f"{name}.3", moment),
            Envelope(MessageFinished(name, "completed"), f"{name}.4", moment),
        ]
    return ImportedSession("s", "made_up", tuple(envelopes))


async def ingest(engine: Engine, session: ImportedSession) -> str:
    """Import it; returns what became of it."""
    transcript = Transcript("made-up.jsonl", "made_up", (session,), (), len(session.envelopes))
    return (await engine.importer().transcript(transcript)).sessions[0].state


async def _texts(engine: Engine) -> list[str]:
    page = await engine.read.messages("s", after=0, limit=100)
    return [view.text for view in page.items if view.message_id != "live"]


def _all_of(session: ImportedSession) -> list[str]:
    return [item.event.data["text"] for item in session.envelopes if isinstance(item.event, PartUpdated)]


async def _verdict(sim: Simulation, engine: Engine, new: ImportedSession, told: Told) -> None:
    must(await ingest(engine, new) in ("unchanged", "grown", "replaced"), "the source can be ingested again")
    must(await ingest(engine, new) == "unchanged", "the same source again changes nothing")
    events = await log_of(engine)
    told.check(events)
    imported = [item.event_id for item in events if item.event_id not in told.asked]
    must(imported == [item.event_id for item in new.envelopes], "the log holds the source", imported)
    must(await _texts(engine) == _all_of(new), "the read model holds the source")


def reingest(noise: int) -> Program:
    """A grown or rewritten source is ingested while its session is read, followed and appended to; the process may die."""

    async def scenario(sim: Simulation) -> None:
        sim.host.dense = False
        rng = sim.random("source")
        old, rewritten = source(2, "old"), rng.random() < 0.7
        new = source(rng.randint(2, 4), "new" if rewritten else "old")
        told = Told(sim)
        states: list[str] = []
        async with sim.engine() as engine:
            await ingest(engine, old)
        async with sim.process() as process, sim.engine() as engine:

            async def reader() -> None:
                for _ in range(3):
                    found = await _texts(engine)
                    must(found in (_all_of(old), _all_of(new)), "readers see old or new, never neither", found)

            async def follower() -> None:
                heard: list[Any] = []
                async with engine.log(session_id="s", follow=True) as log:
                    async for item in log:
                        heard.append(item)
                        if isinstance(item, CaughtUp) and states:
                            break
                resets = [item for item in heard if isinstance(item, Reset)]
                stored = [item.event_id for item in heard if isinstance(item, RecordedEvent)]
                must(len(stored) == len(set(stored)), "followers hear each event once", stored)
                if rewritten:
                    sim.sometimes("a follower was reset", bool(resets))

            async def turn() -> None:
                session = await engine.session("s")
                await told.append(session, MessageUpdated("live", "user"), "live.1")
                await told.append(session, PartUpdated("lp", "live", "text", {"text": "mine"}), "live.2")

            async def ingesting() -> None:
                states.append(await ingest(engine, new))

            async with sim.actors() as actors:
                scope = actors.start("follower", follower)
                async with sim.actors() as working:
                    start_all(
                        sim,
                        working,
                        noise,
                        noise_on(engine),
                        ("reader", reader),
                        ("turn", turn),
                        ("ingest", ingesting),
                    )
                scope.cancel()
        async with sim.engine() as engine:
            found = await _texts(engine)
            must(found in (_all_of(old), _all_of(new)), "a crash leaves old or new, never neither", found)
            await _verdict(sim, engine, new, told)
        sim.sometimes("the process died", process.crashed)
        if rewritten:
            sim.sometimes("live events stay behind a replacement", bool(told.written) and states == ["replaced"])

    return scenario


def _drift(sim: Simulation, path: str, change: str) -> None:
    with closing(apsw.Connection(path, vfs=sim.host.disk.name)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        rows = connection.execute(f"SELECT * FROM sqlite_schema WHERE name IN {_INDEXES}").fetchall()
        must(len(rows) == 2, "the log has its unique indexes", rows)
        connection.execute(f"DELETE FROM sqlite_schema WHERE name IN {_INDEXES}")
        connection.execute("PRAGMA writable_schema = RESET")
    with closing(apsw.Connection(path, vfs=sim.host.disk.name)) as connection:
        connection.execute(change)
        connection.execute("PRAGMA writable_schema = ON")
        connection.executemany("INSERT INTO sqlite_schema VALUES(?, ?, ?, ?, ?)", rows)
        connection.execute("PRAGMA writable_schema = RESET")
        problems = connection.execute("PRAGMA integrity_check").fetchall()
        must(problems != [("ok",)], "the drift is real", problems)


def drifted(noise: int) -> Program:
    """The unique indexes drifted while nobody looked; the source is ingested again beside readers and live appends.

    A live append that meets the drift fails with its batch: neighbours in it are told that nothing was written.
    """

    async def scenario(sim: Simulation) -> None:
        sim.host.dense = False
        rng = sim.random("drift")
        kind = rng.choice(sorted(DRIFTS))
        new = source(rng.choice((2, 4)), "old")
        told = Told(sim)
        async with sim.engine() as engine:
            await ingest(engine, source(2, "old"))
            path = engine.path
        _drift(sim, path, DRIFTS[kind])
        async with sim.engine() as engine:

            async def turn() -> None:
                session = await engine.session("s")
                await told.append(session, MessageUpdated("live", "user"), "live.1")

            async def reader() -> None:
                try:
                    await log_of(engine)
                except StorageCorruptError:
                    sim.sometimes("a reader was told of the drift")

            async def ingesting() -> None:
                must(await ingest(engine, new) == "replaced", "a drifted session is replaced", kind)

            async with sim.actors() as actors:
                start_all(
                    sim, actors, noise, patient_noise_on(engine), ("turn", turn), ("reader", reader), ("ingest", ingesting)
                )
            await _verdict(sim, engine, new, told)
            sim.sometimes("a live event was kept", "live.1" in told.written)

    return scenario


ENGINE: Final[tuple[Scenario, ...]] = (
    on_engine("5 reingest", "A source is ingested again while its session is in use.", reingest, "crash", "cut"),
    on_engine("5 drifted index", "A source is ingested again over indexes that drifted.", drifted, "cut"),
)
