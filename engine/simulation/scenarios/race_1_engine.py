"""Race 1 on the engine: what comes after a removal is skipped, counted, told once, and nobody else notices."""

from __future__ import annotations

from typing import Any, Final

import trio

from engine.events import (
    MessageFinished,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartUpdated,
    SessionRemoved,
    Skipped,
    ToolUpdated,
    UsageRecorded,
)
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program, Scenario
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import APPLIED, log_of, noise_on, on_engine, warning_for, warnings_of
from engine.simulation.world import Simulation

COST: Final = 240_000_000
LATE: Final = (
    PartUpdated("late", "M", "text", {"text": "x"}),
    PartUpdated("p", "M", "text", {"text": "x"}),
    ToolUpdated("t", "M", "c", "bash", "completed"),
    PartDelta("p", "M", "text", 3, "x"),
)


def _removed(noise: int, removal: Any, reason: Any) -> Program:
    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            await session.append(MessageUpdated("M", "assistant"), PartUpdated("p", "M", "text", {"text": "abc"}))
            rng = sim.random("turn")
            late = rng.choice(LATE)
            answers = []

            async def turn() -> None:
                for number in range(rng.randint(0, 3)):
                    await session.post(PartUpdated(f"q{number}", "M", "text", {"text": "x"}))
                answers.append(await session.append(late))
                await session.append(UsageRecorded("step", "M", cost_nanousd=COST, input_tokens=404_062))

            async def user() -> None:
                must((await session.append(removal)).outcome == APPLIED, "the removal is applied")

            async with sim.actors() as actors:
                start_all(sim, actors, noise, noise_on(engine), ("turn", turn), ("user", user))
            events = await log_of(engine)
            place = next(event.position for event in events if type(event.event) is type(removal))
            for event in events:
                part = isinstance(event.event, PartUpdated | PartDelta | ToolUpdated)
                expected = Skipped(reason) if part and event.position > place else APPLIED
                must(event.outcome == expected, "late parts are skipped", f"{event.type} at {event.seq}: {event.outcome}")
            skipped = [event for event in events if event.outcome != APPLIED]
            must(warnings_of(sim) == [warning_for(event) for event in skipped], "one warning each", warnings_of(sim))
            report = await engine.read.usage("s")
            counted = (report.own.steps, report.unattributed.cost_nanousd)
            must(counted == (0, COST), "usage of what was removed is kept, unattributed", report)
            if isinstance(removal, MessageRemoved):
                must((await engine.read.messages("s")).items == (), "the message stays removed")
                must((await session.append(MessageUpdated("next", "user"))).outcome == APPLIED, "the session goes on")
            sim.sometimes("a part came late", answers[0].outcome == Skipped(reason))
            sim.sometimes("a part came in time", answers[0].outcome == APPLIED)

    return scenario


def late_part(noise: int) -> Program:
    """The message is removed while its parts are written."""
    return _removed(noise, MessageRemoved("M"), "orphan_part")


def session_removed(noise: int) -> Program:
    """The session is removed while parts of a message in it are written."""
    return _removed(noise, SessionRemoved(), "removed")


def drained(noise: int) -> Program:
    """A live turn is stopped and drained by the removal, so nothing of it comes late."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            started = trio.Event()
            rng = sim.random("turn")
            pieces, whole = rng.randint(2, 8), rng.random() < 0.5
            ended = []

            async def agent() -> None:
                async with session.turn() as turn, turn.message(message_id="M") as message:
                    await message.text("0 ")
                    started.set()
                    for number in range(1, pieces):
                        await message.text(f"{number} ")
                    ended.append(True)

            async def user() -> None:
                await started.wait()
                await (session.remove() if whole else session.remove_message("M"))

            async with sim.actors() as actors:
                start_all(sim, actors, noise, noise_on(engine), ("turn", agent), ("user", user))
            events = await log_of(engine)
            must(all(event.outcome == APPLIED for event in events), "a removal drains the turn first", events)
            must(isinstance(events[-1].event, SessionRemoved if whole else MessageRemoved), "the removal comes last", events)
            sim.sometimes("the turn was stopped", not ended)

    return scenario


def announced_again(noise: int) -> Program:
    """Late updates of a removed message do not bring it back."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            await session.append(MessageUpdated("M", "assistant"))

            async def turn() -> None:
                for number in range(sim.random("turn").randint(1, 3)):
                    await session.append(MessageUpdated("M", "assistant", {"step": number}))
                await session.append(MessageFinished("M", "completed"))

            async def user() -> None:
                await session.append(MessageRemoved("M"))

            async with sim.actors() as actors:
                start_all(sim, actors, noise, noise_on(engine), ("turn", turn), ("user", user))
            events = await log_of(engine)
            place = next(event.position for event in events if isinstance(event.event, MessageRemoved))
            for event in events:
                late = event.position > place
                expected = Skipped("removed") if late else APPLIED
                must(event.outcome == expected, "what was removed stays removed", f"{event.type}: {event.outcome}")
                sim.sometimes("the message was announced again", late and isinstance(event.event, MessageUpdated))
            must((await engine.read.messages("s")).items == (), "what was removed stays removed")
            must(warnings_of(sim) == [warning_for(e) for e in events if e.outcome != APPLIED], "one warning each")

    return scenario


def next_life(noise: int) -> Program:
    """Late writes of a removed session do not reach the session that was created under its id."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            old = await engine.create_session("s")
            await old.append(MessageUpdated("M", "assistant"), PartUpdated("p", "M", "text", {"text": "abc"}))

            async def turn() -> None:
                for number in range(sim.random("turn").randint(1, 3)):
                    await old.post(PartDelta("p", "M", "text", 3 + number, "x"))
                await old.append(PartUpdated("p", "M", "text", {"text": "of the old life"}))
                await old.append(MessageFinished("M", "error", "of the old life"))
                await old.append(MessageRemoved("M"))

            async def user() -> None:
                await old.append(SessionRemoved())
                new = await engine.create_session("s")
                await new.append(MessageUpdated("M", "assistant"), PartUpdated("p", "M", "text", {"text": "new"}))
                await new.append(PartDelta("p", "M", "text", 3, " text"))

            async with sim.actors() as actors:
                start_all(sim, actors, noise, noise_on(engine), ("turn", turn), ("user", user))
            view = await engine.read.message("s", "M")
            must((view.text, view.status) == ("new text", "streaming"), "the new life keeps its own content", view)
            events = await log_of(engine)
            place = next(event.position for event in events if isinstance(event.event, SessionRemoved))
            for event in events:
                stale = event.incarnation == 1 and event.position > place
                sim.sometimes("the old life wrote into the new one", stale)
                must(event.outcome == (Skipped("removed") if stale else APPLIED), "lives are apart", event)

    return scenario


ENGINE: Final[tuple[Scenario, ...]] = (
    on_engine("1 late part", "A part that comes after its message's removal is skipped.", late_part, "cut"),
    on_engine("1 session removed", "A part that comes after its session's removal is skipped.", session_removed, "cut"),
    on_engine("1 drained", "A removal stops and drains the turn that streams.", drained, "cut"),
    on_engine("1 announced again", "A removed message that is announced again stays removed.", announced_again, "cut"),
    on_engine("1 next life", "Late writes of a removed session do not reach its next life.", next_life, "cut"),
)
