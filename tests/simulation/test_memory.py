"""Runs leave nothing behind, however they are grouped into campaigns."""

from __future__ import annotations

import gc
from typing import Any

import trio

from engine import simulation
from engine.simulation.running import COLLECT_EVERY


def tasks() -> int:
    """Tasks of trio that are still in memory."""
    found: list[Any] = gc.get_objects()
    return sum(type(item) is trio.lowlevel.Task for item in found)


async def actors(sim: simulation.Simulation) -> None:
    """Three actors that know each other."""

    async def work() -> None:
        await trio.sleep(1)

    async with sim.actors() as running:
        for name in "abc":
            running.start(name, work)


def test_short_campaigns_do_not_pile_up_their_tasks() -> None:
    """Campaigns of two schedules each, hundreds of them, keep no more tasks in memory than the runs between collections."""
    each = 8
    gc.collect()
    before = tasks()
    for seed in range(2 * COLLECT_EVERY):
        simulation.explore(actors, schedules=2, seed=seed)
    assert tasks() - before < 3 * COLLECT_EVERY * each // 2
