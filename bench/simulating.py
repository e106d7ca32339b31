"""How many schedules, simulated events and crash states does the simulator manage, and what would they cost without it?

Each subject is measured in turn with its control: plain trio actors beside an empty `trio.run`; the real engine beside the
same program in plain trio on the same disk in memory; crash states beside one SQLite transaction on that disk. CPU seconds
tell the program's own cost, wall seconds what else the machine did.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, Final

import apsw
import attrs
import trio

from bench.report import Settings, Table, Value, median
from engine import Engine, open_engine
from engine.events import MessageRemoved, MessageUpdated, PartUpdated, SessionNoted
from engine.ports import Ports
from engine.simulation import Simulation, explore
from engine.simulation.disk import Disk, Image, LogCheck, OperationLog, crash_campaign
from engine.simulation.hosting import recorded
from engine.simulation.listening import collected
from engine.simulation.running import run as run_once

TITLE = "simulating: schedules, events and crash states"
SCHEDULES_AIM: Final = 700
"""Schedules of plain actors in a CPU second."""
ENGINE_AIM: Final = 300
"""Schedules of the late part in a CPU second."""
EVENTS_AIM: Final = 4_000
"""Acknowledged events in a CPU second."""
STATES_AIM: Final = 2_000
"""Distinct crash states in a CPU second."""

Start = Callable[[str, Callable[..., Awaitable[None]], Any], object]


# --- the programs, for both sides -------------------------------------------------------------------


async def plain_actors(sim: Simulation) -> None:
    """Four clients send two commands each to a fifth actor and wait for its answers."""
    send, receive = trio.open_memory_channel[tuple[str, trio.Event]](0)

    async def writer() -> None:
        async for _, reply in receive:
            reply.set()

    async def client(name: str) -> None:
        for number in range(2):
            answer = trio.Event()
            await send.send((f"{name}{number}", answer))
            await answer.wait()

    async with sim.actors() as actors:
        actors.start("writer", writer)
        async with sim.actors() as clients:
            for name in "abcd":
                clients.start(name, client, name)
        actors.cancel_scope.cancel()


async def _nothing() -> None:
    pass


@attrs.frozen
class Work:
    """So many sessions, in each of which a message is removed beside the turn that writes its parts."""

    sessions: int
    parts: int
    notes: int

    @property
    def events(self) -> int:
        """Appended in all."""
        return self.sessions * (self.parts + self.notes + 3)

    async def begin(self, engine: Engine, start: Start) -> None:
        """Create the sessions and start their actors."""
        for number in range(self.sessions):
            session = await engine.create_session(f"s{number}")
            await session.append(MessageUpdated("m", "assistant"))
            start(f"turn{number}", self._turn, session)
            start(f"user{number}", self._user, session)

    async def _turn(self, session: Any) -> None:
        for number in range(self.parts):
            await session.append(PartUpdated(f"p{number}", "m", "text"))

    async def _user(self, session: Any) -> None:
        for number in range(self.notes):
            await session.append(SessionNoted(f"n{number}", "note"))
        await session.append(MessageRemoved("m"))

    async def simulated(self, sim: Simulation) -> None:
        """Under the simulator."""
        async with sim.engine() as engine, sim.actors() as actors:
            await self.begin(engine, actors.start)

    async def alone(self, disk: Disk) -> None:
        """In plain trio."""
        ports = Ports(vfs=disk.name)
        async with open_engine(disk.path(), ports=ports, sync="commit") as engine, trio.open_nursery() as nursery:
            await self.begin(engine, lambda name, function, session: nursery.start_soon(function, session, name=name))


LATE_PART: Final = Work(sessions=1, parts=5, notes=4)
SESSIONS: Final = Work(sessions=4, parts=10, notes=8)


# --- measuring --------------------------------------------------------------------------------------


@attrs.frozen
class Side:
    """Something that can be done again and again, and how much of it was done each time."""

    name: str
    work: Callable[[], int]


@attrs.frozen
class Rate:
    """How much in a second."""

    cpu: float
    wall: float


def rate_of(side: Side, seconds: float) -> Rate:
    """Do it for so many seconds."""
    done = 0
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds or not done:
        done += side.work()
    return Rate(done / (time.process_time() - cpu), done / (time.perf_counter() - wall))


def compared(side: Side, control: Side, unit: str, settings: Settings) -> dict[str, Value]:
    """One line of the table: both sides in turn, the median of the rounds."""
    side.work()
    control.work()
    rounds = [(rate_of(side, settings.seconds), rate_of(control, settings.seconds)) for _ in range(settings.rounds)]
    return {
        "subject": side.name,
        "unit": unit,
        "per cpu-s": median([mine.cpu for mine, _ in rounds]),
        "per wall-s": median([mine.wall for mine, _ in rounds]),
        "control": control.name,
        "control per cpu-s": median([other.cpu for _, other in rounds]),
        "of control": median([mine.cpu / other.cpu for mine, other in rounds]),
    }


def exploring(name: str, scenario: Callable[[Simulation], Awaitable[None]], strategy: str, each: int, batch: int) -> Side:
    """A campaign of `batch` schedules at a time, `each` of them worth so many units."""
    seeds = count()

    def work() -> int:
        campaign = explore(scenario, schedules=batch, strategy=strategy, seed=next(seeds))
        campaign.raise_failure()
        return campaign.schedules * each

    return Side(name, work)


@contextmanager
def alone(work: Work, each: int) -> Iterator[Side]:
    """The same program without the simulator, from the same kind of file: a log that was opened once."""
    with Disk() as disk, disk.default(), collected([]):

        async def make() -> None:
            async with open_engine(disk.path(), ports=Ports(vfs=disk.name), sync="commit"):
                pass

        trio.run(make)
        begin = disk.snapshot()

        def once() -> int:
            disk.restore(begin)
            trio.run(work.alone, disk)
            return each

        yield Side("the same in plain trio", once)


def _trio_run() -> int:
    trio.run(_nothing)
    return 1


@contextmanager
def crashing() -> Iterator[tuple[Side, Side]]:
    """Crash states of a recorded run, and bare transactions, each from open to close."""
    with recorded() as recorder:
        result = run_once(LATE_PART.simulated)
    if result.error is not None:
        raise result.error
    log: OperationLog = recorder.hosts[0].logs[0]
    seeds = count()
    with Disk() as disk, Disk() as bare:

        def states() -> int:
            check = LogCheck("sim.db", log.marks())
            report = crash_campaign(log, check, disk=disk, images_per_point=6, seed=next(seeds))
            assert not report.wrong, report
            return report.distinct

        bare.restore(_bare_database(bare))
        numbers = count()

        def transaction() -> int:
            connection = apsw.Connection("bare.db", vfs=bare.name)
            connection.execute("INSERT INTO event(data) VALUES(?)", (f"event {next(numbers)}",))
            connection.close()
            return 1

        yield Side("crash states", states), Side("one transaction, open to close", transaction)


def _bare_database(disk: Disk) -> Image:
    connection = apsw.Connection("bare.db", vfs=disk.name)
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE event(position INTEGER PRIMARY KEY, data TEXT)")
    connection.close()
    return disk.snapshot()


def run(settings: Settings) -> Table:
    """Plain actors under three strategies, the engine by schedules and by events, crash states."""
    table = Table(title=TITLE)
    batch = 8 if settings.smoke else 100
    empty = Side("an empty trio.run", _trio_run)
    rows = [
        compared(exploring(f"plain actors, {name}", plain_actors, name, 1, batch), empty, "schedules", settings)
        for name in ("random", "pos", "auto")
    ]
    table.aim(f"plain actors, slowest strategy (aim {SCHEDULES_AIM})", _least(rows), at_least=SCHEDULES_AIM)
    with ExitStack() as stack:
        name = f"late part, {LATE_PART.events} events"
        control = stack.enter_context(alone(LATE_PART, 1))
        late = compared(exploring(name, LATE_PART.simulated, "auto", 1, batch), control, "schedules", settings)
    with ExitStack() as stack:
        name = f"4 sessions, {SESSIONS.events} events"
        control = stack.enter_context(alone(SESSIONS, SESSIONS.events))
        many = compared(
            exploring(name, SESSIONS.simulated, "auto", SESSIONS.events, batch // 4), control, "events", settings
        )
    with crashing() as (states, transaction):
        crashes = compared(states, transaction, "states", settings)
    table.rows += [*rows, late, many, crashes]
    table.aim(f"late part, schedules (aim {ENGINE_AIM})", _least([late]), at_least=ENGINE_AIM)
    table.aim(f"4 sessions, events (aim {EVENTS_AIM:,})", _least([many]), at_least=EVENTS_AIM)
    table.aim(f"crash states (aim {STATES_AIM:,})", _least([crashes]), at_least=STATES_AIM)
    table.notes.append("aims are for a CPU second of one core of the machine that was measured on")
    return table


def _least(rows: list[dict[str, Value]]) -> float:
    return min(float(row["per cpu-s"] or 0) for row in rows)
