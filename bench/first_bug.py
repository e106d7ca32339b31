"""How many schedules does each strategy need to find a known bug?

Every program is explored from several seeds until it fails; `mean` and `median` are over the seeds that found the bug,
`missed` counts those that did not within the cap (or had no schedule left to try). Each campaign begins with the default
order, so 1 means that no search was needed, and a strategy of its own starts at 2.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Literal

import attrs

from bench.programs import PROGRAMS
from bench.report import Settings, Table, Value
from engine import simulation
from engine.simulation.scenarios import SCENARIOS

TITLE = "first_bug: schedules until a known bug shows"
STRATEGIES: Final = ("random", "urw", "pct1", "pct2", "pct3", "pos", "lockstep", "directed", "auto")
CAP: Final = 1_000
"""Schedules of one campaign, after which it counts as missed."""
AIM: Final = 300
"""What `auto` needs at most, as the mean of any subject."""
RACES: Final = ("naive/1 late part", "naive/2 late update", "naive/3 own counters")
"""The races that need nothing but an order: every strategy can be asked for them."""
NOISE: Final = (0, 8, 50)
"""Actors beside a race's own."""
SMOKE: Final = ("account", "deadlock01", "lazy01", "twostage", "wronglock_3")


@attrs.frozen
class Subject:
    """Something with a known bug, as the simulator takes it."""

    name: str
    scenario: Callable[..., Awaitable[object]]
    """Of no arguments, or of the `Simulation`."""
    faults: tuple[str, ...] = ()
    """Kinds of disturbance that the bug needs."""
    mode: Literal["macro", "await"] = "macro"


SUBJECTS: tuple[Subject, ...] = (
    *(Subject(program.name, program.broken) for program in PROGRAMS),
    *(
        Subject(f"{race.name}, {noise} noise", race.build(noise), race.faults, race.mode)
        for race in SCENARIOS
        if race.key in RACES
        for noise in NOISE
    ),
)
"""The rows."""


@attrs.frozen
class Finding:
    """What one strategy needed for one subject."""

    needed: tuple[int, ...]
    """Schedules up to and with the failing one, of each seed that found it."""
    missed: int
    """Seeds that did not find it."""

    @property
    def mean(self) -> float | None:
        """The mean over the seeds that found it; None when none did."""
        return statistics.fmean(self.needed) if self.needed else None

    @property
    def median(self) -> float | None:
        """The median over the seeds that found it; None when none did."""
        return float(statistics.median(self.needed)) if self.needed else None


def measure(subject: Subject, strategy: str, seeds: Iterable[int], *, cap: int = CAP) -> Finding:
    """Explore a subject once from each seed, until its bug shows or `cap` schedules have passed."""
    needed, missed = [], 0
    for seed in seeds:
        campaign = simulation.explore(
            subject.scenario, schedules=cap, strategy=strategy, seed=seed, faults=subject.faults, mode=subject.mode
        )
        if campaign.failure is None:
            missed += 1
        else:
            needed.append(campaign.failure.number)
    return Finding(tuple(needed), missed)


def rows_of(subject: Subject, found: dict[str, Finding]) -> list[dict[str, Value]]:
    """A subject's lines of the table: mean and median, and what was missed if anything was."""

    def row(figure: str, values: Iterable[Value]) -> dict[str, Value]:
        return {"program": subject.name, "figure": figure, **dict(zip(found, values, strict=True))}

    rows = [
        row("mean", (finding.mean for finding in found.values())),
        row("median", (finding.median for finding in found.values())),
    ]
    if any(finding.missed for finding in found.values()):
        rows.append(row("missed", (finding.missed for finding in found.values())))
    return rows


def table_of(subjects: Iterable[Subject], seeds: Sequence[int], *, cap: int = CAP) -> Table:
    """Measure subjects by every strategy."""
    table = Table(title=TITLE)
    worst, missed = 0.0, 0
    for subject in subjects:
        found = {strategy: measure(subject, strategy, seeds, cap=cap) for strategy in STRATEGIES}
        table.rows += rows_of(subject, found)
        worst, missed = max(worst, found["auto"].mean or 0.0), missed + found["auto"].missed
    table.notes.append(f"{len(seeds)} seeds, at most {cap:,} schedules each")
    table.aim("auto: campaigns that missed", missed, at_most=0)
    table.aim(f"auto: the worst mean of a program (aim {AIM})", worst, at_most=AIM)
    return table


def run(settings: Settings) -> Table:
    """The whole table; a smoke run takes five programs, two seeds and a tenth of the schedules."""
    if settings.smoke:
        return table_of([subject for subject in SUBJECTS if subject.name in SMOKE], range(2), cap=CAP // 10)
    return table_of(SUBJECTS, range(20))
