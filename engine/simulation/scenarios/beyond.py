"""Beyond the five races, on the engine: what a caller, a disk, a reader or a death can do at any moment.

Each scenario's own oracle is what its callers were told (`Told`) against the log; the engine's promises are checked after
each run. What a fork of the process does to an engine is tested without the simulator: a simulated process has no pid.
"""

from __future__ import annotations

from typing import Any, Final

import trio

from engine.errors import ClosedError, EngineError, OwnedError, UnknownSessionError
from engine.events import (
    CaughtUp,
    Duplicate,
    Envelope,
    Lagging,
    MessageUpdated,
    PartDelta,
    PartUpdated,
    RecordedEvent,
    SessionNoted,
)
from engine.limits import Limits
from engine.runtime import Engine
from engine.session import Session
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program, Scenario
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import Told, log_of, noise_on, on_engine, patient_noise_on, tolerant
from engine.simulation.world import Simulation


async def _session(engine: Engine) -> Session:
    try:
        return await engine.session("s")
    except UnknownSessionError:
        return await engine.create_session("s")


async def _append(told: Told, session: Session, name: str, amount: int) -> None:
    for number in range(amount):
        await told.append(session, SessionNoted(f"{name}.{number}", "k"), f"{name}.{number}")


async def _stream(session: Session, name: str) -> None:
    """A turn that streams a message and does not wait."""
    async with session.turn() as turn, turn.message(message_id=name) as message:
        for _ in range(3):
            await message.text("text ")


async def _events(engine: Engine) -> list[RecordedEvent]:
    return [item for item in (await engine.read.log(limit=1_000)).items if item.session_id == "s"]


def _processes(noise: int, **options: Any) -> Program:
    """Two processes in a row, each of which may die or find its disk failing; then a third one looks."""

    async def scenario(sim: Simulation) -> None:
        told = Told(sim)
        durable = options.get("durability") != "normal"
        for number in range(2):
            try:
                async with sim.process() as process, sim.engine(**options) as engine:
                    session = await _session(engine)
                    if durable:
                        told.check(await _events(engine))

                    async def turn(session: Session = session, number: int = number) -> None:
                        await _stream(session, f"M{number}")

                    async def user(session: Session = session, name: str = f"user {number}") -> None:
                        await _append(told, session, name, 3)

                    async with sim.actors() as actors:
                        works = (
                            (f"turn {number}", lambda turn=turn: tolerant(turn)),
                            (f"user {number}", lambda user=user: tolerant(user)),
                        )
                        start_all(sim, actors, 0 if number else noise, patient_noise_on(engine), *works)
                if "crash" in sim.kinds:
                    sim.sometimes("a process died", process.crashed)
            except EngineError:
                sim.sometimes("an engine did not open, or ended with an error")
            if "fault" in sim.kinds:
                sim.sometimes("an append was refused", bool(told.refused))
        sim.host.disk.heal()
        async with sim.engine(**options) as engine:
            events = await _events(engine)
        if durable:
            told.check(events)

    return scenario


def crash(noise: int) -> Program:
    """A crash at any operation, of the process or of the power, under `durability="full"`."""
    return _processes(noise)


def crash_normal(noise: int) -> Program:
    """The same under `durability="normal"`, where a power failure may take the newest commits."""
    return _processes(noise, durability="normal")


def failing_disk(noise: int) -> Program:
    """EIO, a full disk, short writes and foreign locks, at any operation, and deaths in between."""
    return _processes(noise, limits=Limits(busy_retry_s=0.05))


def cancelled_callers(noise: int) -> Program:
    """Callers are cancelled at any await, and their answers are lost; sent again, every id is there once."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            told = Told(sim)

            async def follow() -> None:
                async with engine.log(follow=True) as log:
                    async for item in log:
                        if isinstance(item, RecordedEvent) and item.event_id == "user.1":
                            return

            async with sim.actors() as actors:
                scope = actors.start("follower", follow)
                async with sim.actors() as working:
                    start_all(
                        sim,
                        working,
                        noise,
                        noise_on(engine),
                        ("turn", lambda: _stream(session, "M")),
                        ("user", lambda: _append(told, session, "user", 2)),
                    )
                scope.cancel()
            first = dict(told.written)
            for number in range(2):
                receipt = await told.append(session, SessionNoted(f"user.{number}", "k"), f"user.{number}")
                must(receipt is not None, "an append is answered")
                again = receipt is not None and isinstance(receipt.events[0].outcome, Duplicate)
                sim.sometimes("a caller was never told", again and f"user.{number}" not in first)
            events = await log_of(engine)
            told.check(events)
            # One whose settling took longer than a block may wait is settled in the background.
            await trio.sleep(20)
            statuses = [view.status for view in (await engine.read.messages("s")).items]
            must("streaming" not in statuses, "leaving a turn settles its messages", statuses)

    return scenario


def passivation(noise: int) -> Program:
    """Session actors are put away at once while messages arrive for them."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine(limits=Limits(session_idle_s=0.001, sessions_live_max=1)) as engine:
            sessions = [await engine.create_session(name) for name in ("s", "other")]
            rng = sim.random("pauses")
            pauses = [rng.choice((0.0, 0.0005, 0.001, 0.002)) for _ in range(4)]

            async def post(session: Session, name: str) -> None:
                for number, pause in enumerate(pauses):
                    await session.post(SessionNoted(f"{name}.{number}", "k"))
                    await trio.sleep(pause)
                await session.flush()

            async with sim.actors() as actors:
                start_all(
                    sim,
                    actors,
                    noise,
                    noise_on(engine),
                    ("first", lambda: post(sessions[0], "first")),
                    ("second", lambda: post(sessions[0], "second")),
                    ("other", lambda: post(sessions[1], "other")),
                )
            notes = [event.event.note_id for event in await log_of(engine) if isinstance(event.event, SessionNoted)]
            for name in ("first", "second"):
                mine = [note for note in notes if note.startswith(name)]
                must(mine == [f"{name}.{number}" for number in range(4)], "posts are written once, in order", notes)
            sim.sometimes("an actor was put away", engine.statistics().sessions.started > 2 + noise)

    return scenario


def huge_command(noise: int) -> Program:
    """One append larger than a batch stands before small ones: it goes as a whole, and they are answered."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine(limits=Limits(batch_events_max=4, inbox_commands_max=2, mailbox_commands_max=2)) as engine:
            session, other = await engine.create_session("s"), await engine.create_session("other")
            told = Told(sim)
            huge = [Envelope(SessionNoted(f"h{number}", "k"), f"h{number}") for number in range(40)]

            async def big() -> None:
                await session.append(*huge)

            async with sim.actors() as actors:
                start_all(
                    sim,
                    actors,
                    noise,
                    noise_on(engine),
                    ("big", big),
                    ("small", lambda: _append(told, session, "small", 3)),
                    ("other", lambda: _append(told, other, "other", 3)),
                )
            ids = [event.event_id for event in await log_of(engine)]
            first = ids.index("h0")
            must(ids[first : first + 40] == [item.event_id for item in huge], "an append is one piece", ids)
            must(len(told.written) == 6, "small commands are answered", told.written)
            sim.sometimes("a small one came first", ids.index("small.0") < first)

    return scenario


def slow_subscriber(noise: int) -> Program:
    """One follower reads slowly, one not at all: the writer goes on, and the slow one hears everything once."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine(limits=Limits(subscriber_events_max=2)) as engine:
            session = await engine.create_session("s")
            told = Told(sim)
            heard: list[RecordedEvent] = []
            lagged = []
            live = trio.Event()

            async def slow() -> None:
                async with engine.log(follow=True, session_id="s") as log:
                    async for item in log:
                        if isinstance(item, Lagging):
                            lagged.append(item)
                        elif isinstance(item, RecordedEvent):
                            heard.append(item)
                            if item.event_id == "end":
                                return
                        else:
                            live.set()
                        await trio.sleep(0.01)

            async def dead() -> None:
                async with engine.log(follow=True) as log:
                    async for item in log:
                        if isinstance(item, CaughtUp):
                            await trio.sleep_forever()

            async with sim.actors() as actors:
                scope = actors.start("dead", dead)
                async with sim.actors() as hearing:
                    hearing.start("slow", slow)
                    await live.wait()
                    async with sim.actors() as working:
                        start_all(
                            sim,
                            working,
                            noise,
                            noise_on(engine),
                            ("turn", lambda: _append(told, session, "turn", 4)),
                            ("user", lambda: _append(told, session, "user", 4)),
                        )
                    await told.append(session, SessionNoted("end", "k"), "end")
                scope.cancel()
            must(len(told.written) == 9, "nobody waits for a reader", told.written)
            must(heard == await log_of(engine), "a slow reader hears everything once, in order", heard)
            sim.sometimes("a reader lagged", bool(lagged))

    return scenario


def shutdown(noise: int) -> Program:
    """The engine is closed in the middle of a burst: every caller is answered, and what was acknowledged is there."""

    async def scenario(sim: Simulation) -> None:
        told = Told(sim)
        closed: list[str] = []
        async with sim.actors() as actors, sim.engine() as engine:
            session = await engine.create_session("s")

            async def burst(name: str) -> None:
                try:
                    for number in range(4):
                        await told.append(session, SessionNoted(f"{name}.{number}", "k"), f"{name}.{number}")
                        await session.post(SessionNoted(f"{name} post {number}", "k"))
                except ClosedError:
                    closed.append(name)

            start_all(
                sim,
                actors,
                noise,
                patient_noise_on(engine),
                ("turn", lambda: burst("turn")),
                ("streaming", lambda: tolerant(lambda: _stream(session, "M"))),
                ("user", lambda: burst("user")),
            )
            while len(told.written) < sim.random("closing").randint(0, 5):  # noqa: ASYNC110 (any moment will do)
                await trio.sleep(0.001)
        sim.sometimes("a burst was cut off", bool(closed))
        async with sim.engine() as engine:
            told.check(await log_of(engine))
            statuses = [view.status for view in (await engine.read.messages("s")).items]
            must("streaming" not in statuses, "nothing is left streaming", statuses)

    return scenario


def two_processes(noise: int) -> Program:
    """A second engine on the same file is refused while the first one lives, and disturbs nobody."""

    async def scenario(sim: Simulation) -> None:
        told = Told(sim)
        refused: list[int] = []
        async with sim.actors() as actors:

            async def rival() -> None:
                while True:
                    try:
                        async with sim.engine() as engine:
                            await _append(told, await _session(engine), "rival", 2)
                            return
                    except OwnedError:
                        refused.append(1)
                        await trio.sleep(0.5)

            async with sim.engine() as engine:
                session = await engine.create_session("s")
                async with sim.actors() as working:
                    actors.start("rival", rival)
                    start_all(
                        sim,
                        working,
                        noise,
                        noise_on(engine),
                        ("turn", lambda: _append(told, session, "turn", 3)),
                        ("user", lambda: _append(told, session, "user", 3)),
                    )
                    await trio.sleep(1)
        async with sim.engine() as engine:
            told.check(await log_of(engine))
        must(len(told.written) == 8, "both were served, one after the other", told.written)
        sim.sometimes("the rival was refused", bool(refused))

    return scenario


def duplicates(noise: int) -> Program:
    """Every command is delivered twice, by two actors at once: it is applied once, and both are told the same."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            await session.append(MessageUpdated("M", "assistant"), PartUpdated("p", "M", "text"))
            events: list[Any] = [
                SessionNoted("note", "k"),
                MessageUpdated("N", "user"),
                PartDelta("p", "M", "text", 0, "Hello"),
                MessageUpdated("M", "assistant", {"step": 2}),
            ]
            receipts: dict[str, list[Any]] = {}

            async def deliver() -> None:
                for number, event in enumerate(events):
                    receipt = await session.append(Envelope(event, f"e{number}"))
                    receipts.setdefault(f"e{number}", []).append(receipt)

            async with sim.actors() as actors:
                start_all(sim, actors, noise, noise_on(engine), ("first", deliver), ("second", deliver))
            for event_id, pair in receipts.items():
                outcomes = sorted(type(receipt.events[0].outcome).__name__ for receipt in pair)
                must(outcomes == ["Applied", "Duplicate"], "delivered twice, applied once", (event_id, outcomes))
                must(pair[0].seq == pair[1].seq, "both are told the same", pair)
            second = isinstance(receipts["e1"][0].events[0].outcome, Duplicate)
            sim.sometimes("the deliveries were interleaved", not second)

    return scenario


ENGINE: Final[tuple[Scenario, ...]] = (
    on_engine("6 crash", "Processes die at any operation, and what was acknowledged is there.", crash, "crash", "cut"),
    on_engine("6 crash, normal", "The same where COMMIT does not sync.", crash_normal, "crash", "cut"),
    on_engine("6 failing disk", "The disk fails at any operation.", failing_disk, "fault", "cut"),
    on_engine("6 failing and dying", "The disk fails, and then the process dies.", failing_disk, "fault", "crash", "cut"),
    on_engine("6 cancelled callers", "Callers are cancelled.", cancelled_callers, "cancel", "lose", "timeout", mode="await"),
    on_engine("6 passivation", "Actors are put away while messages arrive.", passivation, "timeout", "cut"),
    on_engine("6 huge command", "One huge command stands before small ones.", huge_command, "cut"),
    on_engine("6 slow subscriber", "One follower is slow, one is dead.", slow_subscriber, "timeout", "cut"),
    on_engine("6 shutdown", "The engine closes in the middle of a burst.", shutdown, "timeout", "cut"),
    on_engine("6 two processes", "Two engines want one file.", two_processes, "timeout", "cut"),
    on_engine("6 duplicates", "Every command is delivered twice.", duplicates, "cut"),
)
