"""Race 2 on the engine: the finish stands whatever comes after it, and an owner's finish stands above a sweep's guess."""

from __future__ import annotations

from typing import Any, Final

import trio

from engine.events import MessageFinished, MessageUpdated, PartDelta, PartUpdated, Skipped, UsageRecorded
from engine.limits import Limits
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program, Scenario
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import APPLIED, log_of, noise_on, on_engine
from engine.simulation.world import Simulation

SETTLE_S: Final = Limits().settle_s
"""A writer that is stuck for longer than this finishes the message after its block was left."""
UPDATES: Final = (
    PartDelta("p", "M", "text", 4, "o"),
    MessageUpdated("M", "assistant", {"step": 9}),
    PartUpdated("q", "M", "text"),
)


def late_update(noise: int) -> Program:
    """An update nobody waits for, the finish, and a sweep, in every order and every batch."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            await session.append(MessageUpdated("M", "assistant"), PartUpdated("p", "M", "text", {"text": "Hell"}))
            update = sim.random("update").choice(UPDATES)

            async def updating() -> None:
                await session.post(update)

            async def turn() -> None:
                await session.append(UsageRecorded("st", "M", cost_nanousd=10), MessageFinished("M", "completed", "stop"))

            async def sweep() -> None:
                await session.append(MessageFinished("M", "aborted", "guessed", by="sweep"))

            async with sim.actors() as actors:
                start_all(sim, actors, noise, noise_on(engine), ("update", updating), ("turn", turn), ("sweep", sweep))
            await session.flush()
            order: list[Any] = []
            for event in await log_of(engine):
                guess = isinstance(event.event, MessageFinished) and event.event.by == "sweep"
                finish = isinstance(event.event, MessageFinished) and not guess
                late = "turn" in order if guess else bool(order) and event.event == update
                expected = Skipped("finished") if late else APPLIED
                must(event.outcome == expected, "the finish stands", f"{event.type} after {order}: {event.outcome}")
                sim.sometimes("the update came late", late and not guess)
                sim.sometimes("the owner corrected the sweep", finish and "sweep" in order)
                order += ["turn"] if finish else ["sweep"] if guess else []
            view = await engine.read.message("s", "M")
            found = (view.status, view.finish_reason, view.settled_by)
            must(found == ("completed", "stop", "owner"), "the owner's finish stands", found)
            must((await engine.read.usage("s")).own.cost_nanousd == 10, "its usage stands")

    return scenario


def two_finishes(noise: int) -> Program:
    """Two owners finish one message: the first one stands."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            await session.append(MessageUpdated("M", "assistant"))

            async def finish(reason: str) -> None:
                await session.append(MessageFinished("M", "completed", reason))

            async with sim.actors() as actors:
                start_all(
                    sim,
                    actors,
                    noise,
                    noise_on(engine),
                    ("first", lambda: finish("first")),
                    ("second", lambda: finish("second")),
                )
            finishes = [event for event in await log_of(engine) if isinstance(event.event, MessageFinished)]
            outcomes = [event.outcome for event in finishes]
            must(outcomes == [APPLIED, Skipped("finished")], "the first finish stands", outcomes)
            view = await engine.read.message("s", "M")
            must(view.finish_reason == finishes[0].event.finish_reason, "the first finish stands", view)
            sim.sometimes("the second one came first", finishes[0].event.finish_reason == "second")

    return scenario


def sweep_at_open(noise: int) -> Program:
    """A process dies anywhere in a turn; the next one's sweep settles what streamed, and nothing that was finished."""

    async def scenario(sim: Simulation) -> None:
        told: list[str] = []
        async with sim.process() as process, sim.engine() as engine:
            session = await engine.create_session("s")

            async def turn() -> None:
                async with session.turn() as turn:
                    for number in range(sim.random("turn").randint(1, 3)):
                        async with turn.message(message_id=f"M{number}") as message:
                            await message.text("Hello ")
                            await message.text("world")
                            leaving = trio.current_time()
                        in_time = trio.current_time() - leaving < SETTLE_S
                        if in_time and not process.crashed:
                            told.append(f"M{number}")

            async with sim.actors() as actors:
                start_all(sim, actors, noise, noise_on(engine), ("turn", turn))
        async with sim.engine() as engine:
            sessions = (await engine.read.sessions()).items
            found = (await engine.read.messages("s")).items if "s" in [each.session_id for each in sessions] else ()
            status = {view.message_id: view.status for view in found}
            must(all(status.get(name) == "completed" for name in told), "a finish that was told stands", (told, status))
            must("streaming" not in status.values(), "a sweep leaves nothing streaming", status)
            sim.sometimes("a sweep settled a message", "aborted" in status.values())
            sim.sometimes("a finish outlived its process", process.crashed and bool(told))

    return scenario


def sweep_beside_a_turn(noise: int) -> Program:
    """A sweep is asked for while a turn streams: it settles what another process left, and nothing that is alive."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            left = await engine.create_session("left")
            await left.append(MessageUpdated("M", "assistant"))
        async with sim.engine(sweep=False) as engine:
            session = await engine.create_session("s")
            settled: list[int] = []

            async def turn() -> None:
                await session.append(MessageUpdated("M", "assistant"))
                await session.append(PartUpdated("p", "M", "text", {"text": "Hello"}))
                await session.append(MessageFinished("M", "completed"))

            async def sweep() -> None:
                report = await engine.sweep()
                settled.append(report.messages)
                streaming = [view.status for view in (await engine.read.messages("s")).items] == ["streaming"]
                sim.sometimes("a live message was passed by", streaming)

            async with sim.actors() as actors:
                start_all(sim, actors, noise, noise_on(engine), ("turn", turn), ("sweep", sweep))
            guesses = [item for item in await log_of(engine) if getattr(item.event, "by", "") == "sweep"]
            must(not guesses, "a sweep leaves alone what is alive", guesses)
            must(settled == [1], "a sweep settles what was left", settled)
            must((await engine.read.message("left", "M")).status == "aborted", "a sweep settles what was left")

    return scenario


ENGINE: Final[tuple[Scenario, ...]] = (
    on_engine("2 late update", "Update, finish and sweep in every order end as the owner said.", late_update, "cut"),
    on_engine("2 two finishes", "Of two finishes the first one stands.", two_finishes, "cut"),
    on_engine("2 sweep at open", "A process dies in a turn, and the next one settles it.", sweep_at_open, "crash", "cut"),
    on_engine("2 live sweep", "A sweep beside a turn leaves it alone.", sweep_beside_a_turn, "cut"),
)
