"""Where does the time of an acknowledged append go, with 100 sessions?

Three looks at the same load. Clocks: the SQL step is timed where it is called, so its share needs no profiler; the recorded
statements run alone say how much of it is SQLite. Pieces: what encoding and checking an event costs by itself. Profile:
cProfile's own time by function, which overstates small Python functions, so read it as an order, not as a sum.
"""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from bench import floor, load
from bench.report import Settings, Table, median
from engine import Limits, Session, open_engine
from engine.events import BUILT_IN, Registry, digest, prepare
from engine.ports import Ports

TITLE = "cost: where the time of an acknowledged append goes, 100 sessions"
SESSIONS = 100
TOP = 30
T = TypeVar("T")


class _Clocked:
    """A `step` port that adds up the time inside of the SQL steps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def __call__(self, step: Callable[[], T], /) -> T:
        started = time.perf_counter()
        try:
            return step()
        finally:
            self.seconds += time.perf_counter() - started


async def _work(rounds: int, settings: Settings, step: _Clocked, profile: cProfile.Profile | None) -> float:
    """A fixed number of appends; returns the seconds they took."""
    async with open_engine(settings.file("cost"), ports=Ports(step=step)) as engine:
        made = await load.new_sessions(engine, SESSIONS)

        async def one(session: Session) -> None:
            for n in range(rounds):
                await session.append(load.part(n))

        step.seconds = 0.0
        if profile is not None:
            profile.enable()
        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for session in made:
                nursery.start_soon(one, session)
        seconds = time.perf_counter() - started
        if profile is not None:
            profile.disable()
        return seconds
    raise AssertionError("unreachable")


def _each_us(what: Callable[[], object], settings: Settings) -> float:
    """Microseconds of one call."""
    calls = 200 if settings.smoke else 5_000
    times = []
    for _ in range(settings.rounds):
        started = time.perf_counter()
        for _ in range(calls):
            what()
        times.append((time.perf_counter() - started) / calls)
    return 1e6 * median(times)


def run(settings: Settings) -> Table:
    table = Table(title=TITLE)
    rounds = 3 if settings.smoke else 100
    recording, recorded_events = floor.record(SESSIONS, settings)
    totals, steps, sqls = [], [], []
    for _ in range(settings.rounds):
        clocked = _Clocked()
        totals.append(1e6 * trio.run(_work, rounds, settings, clocked, None) / (rounds * SESSIONS))
        steps.append(1e6 * clocked.seconds / (rounds * SESSIONS))
        sqls.append(1e6 / floor.own(recording, recorded_events, settings))
    total, step, sql = median(totals), median(steps), median(sqls)
    for name, value in (
        ("all", total),
        ("  inside of the SQL step", step),
        ("    SQLite: the statements alone", sql),
        ("    Python around them", step - sql),
        ("  outside: codec, actors, trio", total - step),
    ):
        table.rows.append({"clock": name, "us/event": value, "share": value / total})
    _pieces(table, settings, total)
    _profile(table, rounds, settings)
    return table


def _pieces(table: Table, settings: Settings, total: float) -> None:
    registry, limits, event = Registry(BUILT_IN), Limits(), load.part(1)
    prepared = prepare(registry, event, limits)
    definition = prepared.definition
    encoder = msgspec.json.Encoder(order="deterministic")
    for name, what in (
        ("piece: prepare (check and encode)", lambda: prepare(registry, event, limits)),
        ("piece:   msgspec encode", lambda: encoder.encode(event)),
        ("piece:   msgspec decode", lambda: definition.decoder.decode(prepared.data)),
        ("piece: digest (only with an event id)", lambda: digest(definition.name, definition.version, prepared.data)),
    ):
        value = _each_us(what, settings)
        table.rows.append({"clock": name, "us/event": value, "share": value / total})


def _profile(table: Table, rounds: int, settings: Settings) -> None:
    profile = cProfile.Profile()
    trio.run(_work, rounds, settings, _Clocked(), profile)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    events = rounds * SESSIONS
    whole = sum(own for _, _, own, _, _ in stats.values())
    ordered = sorted(stats.items(), key=lambda item: -item[1][2])
    for (file, line, function), (_, calls, own, cumulative, _) in ordered[:TOP]:
        where = f"{_room(file)}:{line} {function}" if line else function
        table.rows.append(
            {
                "clock": f"profile: {where}",
                "us/event": 1e6 * own / events,
                "share": own / whole,
                "calls/event": calls / events,
                "cumulative us": 1e6 * cumulative / events,
            }
        )


def _room(file: str) -> str:
    parts = Path(file).parts
    for package in ("engine", "bench", "trio", "attr", "msgspec"):
        if package in parts:
            return "/".join(parts[len(parts) - parts[::-1].index(package) - 1 :])
    return Path(file).name
