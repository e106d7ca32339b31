"""Deterministic simulation: the same code, every schedule, one seed. (Interface at the end of the room's build.)"""

from engine.simulation.campaign import Campaign, Failure
from engine.simulation.choices import Address, Disturbance, Op, Step
from engine.simulation.exploring import explore, replay
from engine.simulation.primitives import point
from engine.simulation.running import Run, run
from engine.simulation.schedule import Hold, Schedule, order, parse
from engine.simulation.world import Actors, Simulation

__all__ = [
    "Actors",
    "Address",
    "Campaign",
    "Disturbance",
    "Failure",
    "Hold",
    "Op",
    "Run",
    "Schedule",
    "Simulation",
    "Step",
    "explore",
    "order",
    "parse",
    "point",
    "replay",
    "run",
]
