"""Traps: a source of nondeterminism is answered from the run's seed, raises an error that names the call, or is known."""

from engine.simulation.errors import LeakError
from engine.simulation.traps.arming import Armed
from engine.simulation.traps.boundary import Source, boundary
from engine.simulation.traps.installing import Traps

__all__ = ["Armed", "LeakError", "Source", "Traps", "boundary"]
