"""The probe of a driver: can it let one task overtake another by many steps, in an order of our choosing?

Must not know: how the driver works. A driver that fails it is not used.
"""

from __future__ import annotations

from typing import Any

import trio

from engine.simulation.actors import Actor
from engine.simulation.controller import Controller
from engine.simulation.policy import DefaultOrder
from engine.simulation.schedule import Schedule
from engine.simulation.virtual import SimulatedClock

STEPS = 3
"""Steps of each task of the probe; trio's own order would let every task run once a pass."""


class _Wanted(DefaultOrder):
    """The policy of the probe: all of c, then all of a, then all of b."""

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        for name in ("main", "c", "a", "b"):
            for actor in ready:
                if actor.name == name:
                    return actor
        return ready[0]


def overtakes(driver: Any) -> bool:
    """Whether the driver runs three tasks in the order that was asked for."""
    seen: list[str] = []

    async def task(name: str) -> None:
        for _ in range(STEPS):
            await trio.lowlevel.checkpoint()
            seen.append(name)

    async def program() -> None:
        with trio.CancelScope() as controller.root:
            async with trio.open_nursery() as nursery:
                for name in ("a", "b", "c"):
                    nursery.start_soon(task, name, name=name)

    clock = SimulatedClock()
    controller = Controller(_Wanted(), Schedule(), mode="await", clock=clock, steps_max=200)
    try:
        with driver(controller) as (watch, wrap):
            trio.run(wrap(program), clock=clock, instruments=[watch])
    except Exception:  # whatever a changed trio does with the hook, the answer is no
        return False
    return seen == ["c"] * STEPS + ["a"] * STEPS + ["b"] * STEPS
