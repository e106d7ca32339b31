"""Race 4 on the engine: an event is applied once, by handlers that would be wrong if they ever ran twice.

`Chats` inserts without a guard and adds deltas; nothing in it prevents a second run, the engine alone does.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any, Final

import apsw
import attrs

from engine.events import RecordedEvent, event
from engine.projections import projection
from engine.runtime import Engine
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program, Scenario
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import Told, log_of, noise_on, on_engine
from engine.simulation.world import Simulation


@event("simulated.chat_opened", version=1)
@attrs.frozen
class ChatOpened:
    """A chat began."""

    chat_id: str


@event("simulated.chat_counted", version=1)
@attrs.frozen
class ChatCounted:
    """Something was counted in a chat."""

    chat_id: str
    by: int


@projection(
    "simulated_chats",
    version=1,
    tables={"simulated_chats": "id TEXT PRIMARY KEY, session_id TEXT NOT NULL, n INTEGER NOT NULL DEFAULT 0"},
)
class Chats:
    """A raw INSERT and a delta."""

    def opened(self, tx: Any, event: ChatOpened, recorded: RecordedEvent) -> None:
        """Raises the table's constraint error if it is run twice."""
        tx.execute("INSERT INTO {simulated_chats}(id, session_id) VALUES(?, ?)", (event.chat_id, recorded.session_id))

    def counted(self, tx: Any, event: ChatCounted, recorded: RecordedEvent) -> None:
        """Counts twice if it is run twice."""
        tx.execute("UPDATE {simulated_chats} SET n = n + ? WHERE id = ?", (event.by, event.chat_id))


EVENTS: Final = (ChatOpened, ChatCounted)


def _counted(sim: Simulation, engine: Engine) -> list[Any]:
    with closing(apsw.Connection(engine.path, vfs=sim.host.disk.name)) as connection:
        return connection.execute("SELECT id, n FROM simulated_chats").fetchall()


async def _check(sim: Simulation, engine: Engine, told: Told) -> None:
    events = await log_of(engine) if (await engine.read.sessions()).items else []
    told.check(events)
    expected = sum(item.event.by for item in events if isinstance(item.event, ChatCounted))
    opened = any(isinstance(item.event, ChatOpened) for item in events)
    found = _counted(sim, engine)
    must(found == ([("c", expected)] if opened else []), "every event is applied once", (found, expected))


async def _counting(engine: Engine, told: Told, name: str, amount: int) -> None:
    session = await engine.session("s")
    for number in range(amount):
        await told.append(session, ChatCounted("c", 1 + number), f"{name}.{number}")


def project_again(noise: int) -> Program:
    """The tables are rebuilt at any moment between live appends."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine(events=EVENTS, projections=(Chats,)) as engine:
            told = Told(sim)
            session = await engine.create_session("s")
            await session.append(ChatOpened("c"))
            rng = sim.random("turn")
            amounts = rng.randint(1, 4), rng.randint(1, 4)
            seen = []

            async def again() -> None:
                files = engine._core.files
                await files.ports.step(files.projector.rebuild)
                seen.append(_counted(sim, engine))

            async with sim.actors() as actors:
                start_all(
                    sim,
                    actors,
                    noise,
                    noise_on(engine),
                    ("turn", lambda: _counting(engine, told, "turn", amounts[0])),
                    ("rebuild", again),
                    ("user", lambda: _counting(engine, told, "user", amounts[1])),
                )
            await _check(sim, engine, told)
            sim.sometimes("a rebuild came between appends", 0 < seen[0][0][1] < _counted(sim, engine)[0][1])

    return scenario


def restarts(noise: int) -> Program:
    """Three processes in a row append; each may die anywhere."""

    async def scenario(sim: Simulation) -> None:
        told = Told(sim)
        for number in range(3):
            async with sim.process() as process, sim.engine(events=EVENTS, projections=(Chats,)) as engine:
                if not (await engine.read.sessions()).items:
                    session = await engine.create_session("s")
                    await told.append(session, ChatOpened("c"), f"open {number}")
                await _check(sim, engine, told)

                async def turn(name: str = f"turn {number}", engine: Engine = engine) -> None:
                    await _counting(engine, told, name, 2)

                async def user(name: str = f"user {number}", engine: Engine = engine) -> None:
                    await _counting(engine, told, name, 1)

                async with sim.actors() as actors:
                    if number:
                        actors.start(f"turn {number}", turn)
                        actors.start(f"user {number}", user)
                    else:
                        start_all(sim, actors, noise, noise_on(engine), ("turn", turn), ("user", user))
            sim.sometimes("a process died", process.crashed)
        async with sim.engine(events=EVENTS, projections=(Chats,)) as engine:
            await _check(sim, engine, told)

    return scenario


def absent(noise: int) -> Program:
    """A process without the projection appends, one with it catches up; both may die anywhere."""

    async def scenario(sim: Simulation) -> None:
        told = Told(sim)
        async with sim.engine(events=EVENTS, projections=(Chats,)) as engine:
            await (await engine.create_session("s")).append(ChatOpened("c"))
        for number, projections in enumerate(((), (Chats,), (), (Chats,))):
            async with sim.process(), sim.engine(events=EVENTS, projections=projections) as engine:
                if projections:
                    await _check(sim, engine, told)
                async with sim.actors() as actors:
                    names = (f"turn {number}", f"user {number}")
                    works = [(name, lambda name=name, engine=engine: _counting(engine, told, name, 2)) for name in names]
                    start_all(sim, actors, 0 if number else noise, noise_on(engine), *works)
        async with sim.engine(events=EVENTS, projections=(Chats,)) as engine:
            await _check(sim, engine, told)

    return scenario


ENGINE: Final[tuple[Scenario, ...]] = (
    on_engine("4 project again", "The tables are rebuilt between live appends.", project_again, "cut"),
    on_engine("4 restarts", "Processes die at any point, and every event is applied once.", restarts, "crash", "cut"),
    on_engine("4 absent projection", "A projection that was away catches up once.", absent, "crash", "cut"),
)
