"""Virtual time and reproducible ids, as ports for the engine.

Invariants: both are a function of the run's seed and of virtual time alone; each prefix has a stream of its own, so that an
id more of one kind shifts no other kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import attrs
import trio

EPOCH_MS: Final = 1_700_000_000_000
"""The wall clock at virtual second 0 of every run: an arbitrary day in 2023."""


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
