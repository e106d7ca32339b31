"""How far do found failures shrink, and in how many runs?

Each subject has a bug whose least number of orderings is known: one where the default order passes and a single ordering
breaks it, two where every single one was tried and passes. Every strategy that finds the bug from a seed gives one failure
to shrink; `minimal` counts those that came down to the known number and failed ten times of ten, `proved` those whose
opposite orders all passed ten times of ten. Runs are those of the search, without the confirming ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import attrs
import trio

from bench.first_bug import SUBJECTS as FIRST_BUG
from bench.first_bug import Subject
from bench.report import Settings, Table, median
from engine import simulation
from engine.simulation import Simulation
from engine.simulation.shrinking import RUNS_MAX, Shrunk, shrink

TITLE = "shrinking: from a found failure to the orderings it needs"
STRATEGIES: Final = ("random", "urw", "pct2", "pos", "auto")
SEEDS: Final = 4
CAP: Final = 1_000
"""Schedules of a campaign that looks for a failure."""
PARTS: Final = 10
NOISE: Final = 8


async def late_part(sim: Simulation) -> None:
    """A turn streams parts through one channel beside busy neighbours; a late one comes after its message was removed."""
    send, receive = trio.open_memory_channel[tuple[str, int]](64)
    there = True

    async def stream(own: trio.MemorySendChannel[tuple[str, int]], kind: str, last: str, count: int) -> None:
        async with own:
            for number in range(count):
                await own.send((kind, number))
            await own.send((last, 0))

    async def writer() -> None:
        nonlocal there
        async for kind, _ in receive:
            if kind == "remove":
                there = False
            elif kind == "late" and not there:
                raise ValueError("a part of a message that is gone")

    async with sim.actors() as actors:
        actors.start("writer", writer)
        actors.start("turn", stream, send.clone(), "part", "late", PARTS)
        for number in range(NOISE):
            actors.start(f"noise {number}", stream, send.clone(), f"noise {number}", f"end {number}", 2)
        actors.start("user", stream, send.clone(), "look", "remove", PARTS)
        send.close()


KNOWN: Final = {
    "1 late part, 8 noise": 1,
    "2 late update, 8 noise": 1,
    "account": 1,
    "carter01": 1,
    "din_phil5": 1,
    "reorder_5": 1,
    "twostage": 1,
    "wronglock_3": 1,
    "pct_figure_1b": 2,
}
"""The least number of orderings of each subject."""
SUBJECTS: Final = (
    (Subject("late part, one channel, 8 noise", late_part), 1),
    *((subject, KNOWN[subject.name]) for subject in FIRST_BUG if subject.name in KNOWN),
)


@attrs.frozen
class Result:
    """One failure, shrunk."""

    shrunk: Shrunk
    minimal: bool
    seconds: float


def results(subject: Subject, known: int, seeds: int) -> Iterator[Result]:
    """Every failure that the strategies find from these seeds, shrunk."""
    for strategy in STRATEGIES:
        for seed in range(seeds):
            found = simulation.explore(
                subject.scenario, schedules=CAP, strategy=strategy, seed=seed, faults=subject.faults, mode=subject.mode
            ).failure
            if found is not None:
                began = time.perf_counter()
                shrunk = shrink(subject.scenario, found, faults=subject.faults)
                plan = shrunk.schedule
                least = plan.segments is None and plan.size <= known and shrunk.reliable
                yield Result(shrunk, least, time.perf_counter() - began)


def run(settings: Settings) -> Table:
    """Shrink every failure of every subject."""
    table = Table(title=TITLE)
    every: list[Result] = []
    for subject, known in SUBJECTS[:2] if settings.smoke else SUBJECTS:
        found = list(results(subject, known, 1 if settings.smoke else SEEDS))
        every += found
        table.rows.append(_row(subject.name, known, found))
    table.aim("failures that came down to the known number of orderings", _share(every), at_least=0.99)
    table.aim("most runs of a search", max(result.shrunk.searched for result in every), at_most=RUNS_MAX)
    table.notes.append(f"{len(every)} failures")
    return table


def _row(name: str, known: int, found: list[Result]) -> dict[str, Any]:
    return {
        "subject": name,
        "known": known,
        "failures": len(found),
        "minimal": sum(result.minimal for result in found),
        "proved": sum(result.shrunk.proved for result in found),
        "runs p50": median([float(result.shrunk.searched) for result in found]),
        "runs max": max(result.shrunk.searched for result in found),
        "ms p50": median([1000 * result.seconds for result in found]),
        "ms max": max(1000 * result.seconds for result in found),
    }


def _share(found: list[Result]) -> float:
    return sum(result.minimal for result in found) / len(found)
