"""Crashes of whole scenarios: each distinct run crashed at every operation of its disk, then recovered and reopened."""

from __future__ import annotations

from typing import Any

import apsw
import pytest

from engine.errors import EngineError
from engine.events import (
    Envelope,
    MessageFinished,
    MessageRemoved,
    MessageUpdated,
    PartUpdated,
    SessionStarted,
    UsageRecorded,
)
from engine.importers import ImportedSession, Transcript
from engine.limits import Limits
from engine.runtime import Engine
from engine.simulation.crashing import CrashOverlay, Recorded, crash_overlay, digests_of, reopen
from engine.simulation.disk import Disk, Image, Medium, crash_points
from engine.simulation.errors import InvariantError, SimulationSetupError
from engine.simulation.hosting import recorded
from engine.simulation.primitives import point
from engine.simulation.running import run
from engine.simulation.world import Simulation

SMALL_WAL = Limits(wal_checkpoint_bytes=40_000)
"""Several checkpoints in one run, so that crashes fall into them too."""


def overlay(scenario: Any, **options: Any) -> CrashOverlay:
    """With checkpoints in the runs."""
    return crash_overlay(scenario, engine={"limits": SMALL_WAL}, **options)


async def late_part(sim: Simulation) -> None:
    """A turn writes parts of a message that a user removes."""
    async with sim.engine() as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), UsageRecorded("u", "m", cost_nanousd=7))

        async def turn() -> None:
            for number in range(3):
                await session.append(PartUpdated(f"p{number}", "m", "text", {"text": "x" * 200}))

        async def user() -> None:
            await session.append(MessageRemoved("m"))

        async with sim.actors() as actors:
            actors.start("turn", turn)
            actors.start("user", user)


def transcript(text: str, count: int) -> Transcript:
    """A made-up source of one session."""
    envelopes = [Envelope(SessionStarted("made up"), "start", 1_000)]
    for number in range(count):
        message = f"m{number}"
        envelopes += [
            Envelope(MessageUpdated(message, "assistant", state="unknown"), f"{message}.1", 1_001),
            Envelope(PartUpdated(f"p{number}", message, "text", {"text": text}), f"{message}.2", 1_002),
            Envelope(MessageFinished(message, "completed"), f"{message}.3", 1_003),
        ]
    session = ImportedSession("s", "made_up", tuple(envelopes))
    return Transcript("made-up.jsonl", "made_up", (session,), (), len(envelopes))


async def ingest(engine: Engine, text: str, count: int) -> str:
    """Import the source; returns what became of it."""
    return (await engine.importer().transcript(transcript(text, count))).sessions[0].state


async def replaced(sim: Simulation) -> None:
    """A source is imported, and replaced by another text while its session is appended to; the process may die."""
    sim.host.dense = False
    async with sim.engine() as engine:
        assert await ingest(engine, "old", 2) == "new"
    async with sim.process(), sim.engine() as engine:

        async def turn() -> None:
            session = await engine.session("s")
            await session.append(Envelope(MessageUpdated("live", "user"), "live"))

        async def importing() -> None:
            assert await ingest(engine, "new", 3) == "replaced"

        async with sim.actors() as actors:
            actors.start("turn", turn)
            actors.start("import", importing)
    async with sim.engine() as engine:
        await ingest(engine, "new", 3)


@pytest.mark.parametrize(("scenario", "faults"), [(late_part, ("cut",)), (replaced, ("crash",))], ids=["part", "replace"])
def test_no_crash_of_a_scenario_loses_or_halves_anything(scenario: Any, faults: tuple[str, ...]) -> None:
    """With durability="full", whatever the schedule and wherever the power fails, what was acknowledged is there, whole."""
    found = overlay(
        scenario, schedules=50, strategy="random", faults=faults, states_max=2_500, images_per_point=5, reopen_every=200
    )
    assert found.logs >= 4
    assert found.distinct >= 1_500
    assert found.reopened > found.commits / 2
    assert not found.wrong, found.findings


def test_normal_durability_loses_whole_commits_and_only_to_a_power_failure() -> None:
    """With durability="normal", every image holds a state that was committed; a dying process loses nothing at all."""
    found = overlay(late_part, schedules=3, durability="normal", states_max=400)
    assert found.lost > 0
    assert set(found.wrong) == {"lost"}, found.findings
    killed = overlay(late_part, schedules=3, durability="normal", images_per_point=1)
    assert killed.distinct > 100
    assert not killed.wrong, killed.findings


def test_a_log_that_is_never_synced_is_found_half_and_broken() -> None:
    """The overlay sees what it is to see: without syncs, checkpoints leave contents that nobody ever committed."""

    async def careless(sim: Simulation) -> None:
        async with sim.engine() as engine:
            engine._core.files.log.connection.pragma("synchronous", "off")
            session = await engine.create_session("s")
            for number in range(12):
                await session.append(MessageUpdated(f"m{number}", "user", {"text": "x" * 300}))

    found = overlay(careless, schedules=1, states_max=900)
    assert found.lost > 0
    assert found.half_applied + found.wrong["corrupt"] > 0
    assert {finding.verdict for finding in found.findings} <= {"lost", "half", "corrupt"}


def test_runs_that_did_the_same_to_the_disk_are_crashed_once() -> None:
    """Schedules that end in the same operations and answers have one log; the same arguments give the same counts."""

    async def alone(sim: Simulation) -> None:
        async with sim.engine() as engine:

            async def turn() -> None:
                await (await engine.create_session("s")).append(MessageUpdated("m", "user"))

            async def bystander() -> None:
                for _ in range(3):
                    await point("idle")

            async with sim.actors() as actors:
                actors.start("turn", turn)
                actors.start("bystander", bystander)

    found = overlay(alone, schedules=5, strategy="random")
    assert (found.schedules, found.logs) == (5, 1)
    again = overlay(alone, schedules=5, strategy="random")
    assert (again.points, again.states, again.commits) == (found.points, found.states, found.commits)


def one_log(scenario: Any) -> Recorded:
    """The log of one run in the default order."""
    with recorded() as recorder:
        assert run(scenario).error is None
    (host,) = recorder.hosts
    (log,) = host.logs
    return Recorded(log=log, digests=digests_of(log), name="sim.db", events=(), projections=(), dense=True, schedule="")


def test_the_engine_refuses_an_image_that_breaks_a_promise() -> None:
    """A content that opens but whose read model is not the fold of its log is reported by the reopening."""
    recording = one_log(late_part)
    with Disk() as disk:
        image = Medium(recording.log, at=len(recording.log)).kept()
        reopen(disk, recording, image)
        disk.restore(image)
        connection = apsw.Connection("sim.db", vfs=disk.name)
        connection.execute("UPDATE usage SET cost_nanousd = 8")
        connection.close()
        with pytest.raises(InvariantError, match="usage"):
            reopen(disk, recording, disk.snapshot())
        with pytest.raises(EngineError):
            reopen(disk, recording, Image({"sim.db": b"no database" * 100}))


def test_an_answer_at_another_place_makes_another_log() -> None:
    """Two runs whose writes are equal and whose answers are not are both judged."""
    log = one_log(late_part).log
    before = digests_of(log)
    assert len(before) == len(set(before)) == len(crash_points(log))
    place = next(index for index, record in enumerate(log.records) if record[0] == "mark")
    log.records.insert(0, log.records.pop(place))
    assert not set(before) & set(digests_of(log)[1:])


def test_a_scenario_without_an_engine_is_refused() -> None:
    """There is nothing to crash."""

    async def nothing() -> None:
        pass

    with pytest.raises(SimulationSetupError, match="needs a scenario with an engine"):
        crash_overlay(nothing)
