"""When nobody can run: whether to let time pass, to give up a hold, or to call it a deadlock.

Owns: how long holds and housekeeping timers are waited for; who is stuck, and how a stuck run is ended. Must not know: who
runs next. Invariants: timers of the engine's own actors are no sign of life; a run ends, whatever shields itself from
cancellation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Literal

import outcome
import trio

from engine.simulation.actors import Actor, has_timer, where_it_waits
from engine.simulation.errors import DeadlockError, RunAbandonedError

if TYPE_CHECKING:
    from engine.simulation.controller import Controller

HOLD_JUMPS_MAX: Final = 24
"""Clock jumps that a hold waits through for others' timers, with nobody able to run, before it is released as unmet."""
HOLD_JUMPS_ALL: Final = 96
"""The same while others do something at each: an actor that polls for what the hold keeps back would go on forever."""
STUCK_AFTER_S: Final = 60.0
STUCK_JUMPS: Final = 40
"""Virtual seconds, and jumps, in which only housekeeping timers fired: then the actors are deadlocked."""

NEVER: Final = 1e12
"""A deadline beyond this is none."""


class Patience:
    """How long nothing but housekeeping has happened."""

    def __init__(self) -> None:
        self._jumps = 0
        self._held_jumps = 0
        self._progress_at = 0.0

    def progress(self, now: float) -> None:
        """An actor of the program runs."""
        self._progress_at = now
        self._jumps = 0

    def verdict(self, deadline: float, controller: Controller) -> Literal["let go", "stuck", "jump"]:
        """What to do now, with the next deadline of anybody at `deadline`."""
        never = deadline > NEVER
        waited = self._jumps >= HOLD_JUMPS_MAX or self._held_jumps >= HOLD_JUMPS_ALL
        if controller.held and (never or waited or not _have_timers(controller)):
            self._jumps = self._held_jumps = 0
            return "let go"
        if never:
            return "stuck"
        self._jumps += 1
        self._held_jumps += bool(controller.held)
        long_ago = self._jumps > STUCK_JUMPS and controller.clock.now - self._progress_at > STUCK_AFTER_S
        return "stuck" if long_ago and not _have_timers(controller) else "jump"


def _have_timers(controller: Controller) -> bool:
    own = [actor for actor in controller.names.values() if actor.task is not None and not actor.housekeeping]
    return any(has_timer(actor.task) for actor in own if actor not in controller.held)


def deadlock_of(actors: Iterable[Actor]) -> DeadlockError:
    """The error that says who waits, and where."""
    main, *others = actors
    stuck = [actor for actor in others if actor.task is not None and not actor.housekeeping] or [main]
    return DeadlockError(tuple(f"{actor.name} ({actor.waiting or where_it_waits(actor)})" for actor in stuck))


def evict(actors: Iterable[Actor]) -> None:
    """Throw everybody out of what they wait for; those who wait for their children end with them."""
    for actor in list(actors):
        if (
            actor.task is None
            or actor.parked is not None
            or any(nursery.child_tasks for nursery in actor.task.child_nurseries)
        ):
            continue
        try:
            trio.lowlevel.reschedule(actor.task, outcome.Error(RunAbandonedError()))
        except AssertionError:  # it was runnable already
            continue
