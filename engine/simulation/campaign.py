"""What a campaign found: how many runs there were, what they covered, which of them failed and how to have those again.

Owns: `Campaign`, `Failure`. Must not know: which schedule comes next, how a run is carried out.
"""

from __future__ import annotations

from collections import Counter

import attrs

from engine.simulation.errors import InvariantError
from engine.simulation.running import Run


@attrs.define(eq=False)
class Failure:
    """A failing run, and how to have it again."""

    run: Run
    schedule: str
    """As found: in constraint form where it was directed, else in seed form."""
    seed: int
    number: int
    """Which schedule of the campaign it was, from 1."""
    strategy: str

    @property
    def error(self) -> BaseException:
        """What went wrong."""
        assert self.run.error is not None
        return self.run.error


@attrs.define(eq=False)
class Campaign:
    """What a campaign found."""

    strategy: str
    seed: int
    schedules: int = 0
    steps: int = 0
    seconds: float = 0.0
    failures: list[Failure] = attrs.field(factory=list)
    covered: Counter[str] = attrs.field(factory=Counter)
    hoped: set[str] = attrs.field(factory=set)
    disturbed: Counter[str] = attrs.field(factory=Counter)
    """How often each kind of disturbance was carried out."""
    digests: set[str] = attrs.field(factory=set)
    """Distinct runs."""
    verdict: str = "sampled"
    """`failed`, `sampled`, and for exhaustive search also `proved` or `truncated`."""

    @property
    def failure(self) -> Failure | None:
        """The first failure."""
        return self.failures[0] if self.failures else None

    def missing(self) -> list[str]:
        """What `sometimes` asked for and no run ever saw."""
        return sorted(name for name in self.hoped if not self.covered[name])

    def raise_failure(self) -> None:
        """Raise the first failure's error; `InvariantError` when a `sometimes` never happened."""
        if self.failure is not None:
            raise self.failure.error
        if self.missing():
            raise InvariantError("sometimes", f"never happened in {self.schedules} schedules: {', '.join(self.missing())}")

    def count(self, result: Run) -> None:
        """Take a run into account."""
        self.schedules += 1
        self.steps += len(result.steps)
        self.covered.update(result.covered)
        self.hoped |= result.hoped
        self.disturbed.update(item.kind for item in result.disturbances)
        self.digests.add(result.digest)
