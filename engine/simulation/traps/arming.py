"""The state of one armed run: its streams, its clock, what leaked in it.

Owns: which run is armed now, the run's random streams and virtual time, the list of leaks. Must not know: which functions
are watched, or how.
Invariants: at most one run is armed in a process, and only the thread that armed it is watched; what a stream gives depends
on the run's seed, the asking actor and how often that actor asked, on nothing else; a leak is remembered even where the
program swallows its exception.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import FrameType
from typing import Final

import attrs
import trio

from engine.simulation.errors import LeakError
from engine.simulation.traps.sites import place

READS_MAX: Final = 100_000
"""Clock readings of a run at one virtual instant before they count as a loop that waits for time to pass."""

OUTSIDE: Final = "outside"
"""Whose stream it is where no task runs."""


@attrs.define(eq=False)
class Armed:
    """One run that is being watched."""

    seed: int | str
    thread: int
    """Who is watched: the identity of the thread that armed."""
    clock: Callable[[], float] | None
    """Virtual seconds, or None: then reading the time is a leak."""
    epoch_s: int
    """What the wall clock shows at virtual second 0."""
    replace: bool
    actor: Callable[[], str]
    leaks: list[LeakError] = attrs.field(factory=list)
    """In the order in which they happened."""
    _streams: dict[str, random.Random] = attrs.field(factory=dict)
    _read_at: float = -1.0
    _reads: int = 0

    def leak(self, source: str, remedy: str, frame: FrameType | None, through: str = "") -> LeakError:
        """Remember a leak at a frame, and return its error to be raised."""
        return self.leak_at(source, remedy, place(frame) if frame is not None else "an unknown place", through)

    def leak_at(self, source: str, remedy: str, call_site: str, through: str = "") -> LeakError:
        """Remember a leak at a place given as text, and return its error to be raised."""
        what = f"{through} (by {source})" if through and through != source else source
        error = LeakError(what, call_site, remedy)
        self.leaks.append(error)
        return error

    def stream(self) -> random.Random:
        """The random stream of the actor that runs now: leaving out another actor does not shift it."""
        name = self.actor()
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = random.Random(f"{self.seed} {name}")
        return found

    def now(self, frame: FrameType) -> float:
        """Virtual seconds since the run began; raises `LeakError` in a loop that waits for the clock without awaiting."""
        assert self.clock is not None
        now = self.clock()
        if now != self._read_at:
            self._read_at, self._reads = now, 0
        self._reads += 1
        if self._reads > READS_MAX:
            self._reads = 0
            remedy = "virtual time stands still until every actor waits: use trio.sleep"
            raise self.leak(f"the clock, read {READS_MAX} times at one instant,", remedy, frame)
        return now


class Watch:
    """Which run is armed in this process, if any."""

    __slots__ = ("armed",)

    def __init__(self) -> None:
        self.armed: Armed | None = None


WATCH: Final = Watch()


def running_actor() -> str:
    """The name of trio's current task: by default, whose random stream is used."""
    try:
        return trio.lowlevel.current_task().name
    except RuntimeError:
        return OUTSIDE
