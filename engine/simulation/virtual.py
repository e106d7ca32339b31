"""Virtual time and reproducible ids, as ports for the engine.

Invariants: both are a function of the run's seed and of virtual time alone; each prefix has a stream of its own, so that an
id more of one kind shifts no other kind.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final

import attrs
import trio

EPOCH_MS: Final = 1_700_000_000_000
"""The wall clock at virtual second 0 of every run: an arbitrary day in 2023."""


class SimulatedClock(trio.abc.Clock):
    """Trio's clock in a run: it moves when the controller moves it.

    Trio asks it how long to sleep only when no task can run: that is when `when_idle` is told, with the next deadline.
    """

    def __init__(self) -> None:
        self.now = 0.0
        """Virtual seconds since the run began."""
        self.held = 0.0
        """Those of them that passed while nobody could run but whom the schedule held: that is nobody's slowness."""
        self.when_idle: Callable[[float], float] | None = None
        """Hears of the next deadline; returns how long trio may sleep."""

    def start_clock(self) -> None:
        """Nothing to start."""

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return self.when_idle(deadline) if self.when_idle is not None else 0.0

    def jump_to(self, deadline: float, *, held: bool = False) -> None:
        """Let time pass until a deadline; `held`: the schedule holds somebody."""
        before, self.now = self.now, max(self.now, deadline)
        if held:
            self.held += self.now - before

    def jump(self, seconds: float) -> None:
        """Let time pass, a little more than so many seconds: what is due then is due, whatever was rounded."""
        self.now = math.nextafter(self.now + seconds, math.inf)


class VirtualClock:
    """The wall clock of a run: virtual seconds since the run began, on top of a fixed day."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return EPOCH_MS + int(trio.current_time() * 1000)


@attrs.define(eq=False)
class SeededIds:
    """Ids from the run's seed: one stream a prefix, so that they are stable under edits elsewhere."""

    rng: Callable[[str], random.Random]

    def new_id(self, prefix: str) -> str:
        """A new id."""
        return f"{prefix}_{self.rng('ids ' + prefix).getrandbits(48):012x}"

    def new_epoch(self) -> str:
        """A new epoch id: 12 hexadecimal digits."""
        return f"{self.rng('epochs').getrandbits(48):012x}"
