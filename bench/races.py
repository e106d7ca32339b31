"""Does the explorer find every race in its naive form, and none in the engine?

Each naive scenario is explored by `auto` from many seeds beside 0, 8 and 50 noise actors: `median` and `worst` count the
schedules up to and with the one that breaks it. Each engine scenario is explored from several seeds and beside several
numbers of noise actors; `failures` must be 0, and everything that must have happened `sometimes` did.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Final

from bench.report import Settings, Table
from engine import simulation
from engine.simulation.scenarios import SCENARIOS, Scenario

TITLE = "races: schedules until a naive variant breaks, and failures of the engine"
NOISE: Final = (0, 8, 50)
"""Actors beside a race's own, in naive scenarios."""
ENGINE_NOISE: Final = (0, 2, 8)
"""The same on the engine, in turn."""
SEEDS: Final = 30
CAP: Final = 200
"""Schedules of one campaign over a naive scenario, after which it counts as missed."""
MEDIAN_AIM: Final = 3
WORST_AIM: Final = 20
ENGINE_SEEDS: Final = 12
"""Campaigns over one engine scenario."""
ENGINE_SCHEDULES: Final = 20_000
NIGHTLY_SCHEDULES: Final = 100_000
"""Schedules over all engine scenarios together."""


def until_broken(scenario: Scenario, noise: int, seed: int, *, cap: int = CAP) -> int | None:
    """Which schedule of `auto` breaks a naive scenario, from 1; None where none of the first `cap` does."""
    campaign = simulation.explore(
        scenario.build(noise), schedules=cap, seed=seed, faults=scenario.faults, mode=scenario.mode
    )
    return campaign.failure.number if campaign.failure is not None else None


def _naive(table: Table, scenarios: Sequence[Scenario], noises: Sequence[int], seeds: Sequence[int]) -> None:
    medians, worst, missed = [], 0, 0
    for scenario in scenarios:
        for noise in noises:
            found = [until_broken(scenario, noise, seed) for seed in seeds]
            needed = [number for number in found if number is not None]
            missed += len(found) - len(needed)
            if not needed:
                continue
            medians.append(statistics.median(needed))
            worst = max(worst, *needed)
            table.rows.append({"scenario": scenario.key, "noise": noise, "median": float(medians[-1]), "worst": max(needed)})
    table.aim("naive campaigns that found nothing", missed, at_most=0)
    table.aim(f"the worst median (aim {MEDIAN_AIM})", max(medians), at_most=MEDIAN_AIM)
    table.aim(f"the worst campaign (aim {WORST_AIM})", worst, at_most=WORST_AIM)


def _engine(table: Table, scenarios: Sequence[Scenario], schedules: int, seeds: int) -> None:
    failures = total = 0
    missing: list[str] = []
    for scenario in scenarios:
        each = -(-schedules // (len(scenarios) * seeds))
        done, failed, seconds = 0, 0, 0.0
        covered: Counter[str] = Counter()
        hoped: set[str] = set()
        digests: set[str] = set()
        for seed in range(seeds):
            noise = ENGINE_NOISE[seed % len(ENGINE_NOISE)]
            found = simulation.explore(
                scenario.build(noise), schedules=each, seed=seed, faults=scenario.faults, mode=scenario.mode
            )
            done, seconds = done + found.schedules, seconds + found.seconds
            covered.update(found.covered)
            hoped |= found.hoped
            digests |= found.digests
            if found.failure is not None:
                failed += 1
                where = f"{scenario.key}, {noise} noise, seed {seed}"
                table.notes.append(f"FAILED {where}: {found.failure.error!r:.300}, schedule {found.failure.schedule!r}")
        missing += [f"{scenario.key}: {name}" for name in sorted(hoped) if not covered[name]]
        failures, total = failures + failed, total + done
        table.rows.append(
            {
                "scenario": scenario.key,
                "schedules": done,
                "distinct": len(digests),
                "failures": failed,
                "schedules/s": done / seconds if seconds else None,
            }
        )
    table.aim(f"failures of the engine in {total:,} schedules", failures, at_most=0)
    table.aim("what should have happened sometimes and never did", len(missing), at_most=0)
    table.notes += [f"never happened: {name}" for name in missing]


def run(settings: Settings) -> Table:
    """The whole table; a smoke run takes two scenarios of each kind, `--nightly` five times the engine's schedules."""
    table = Table(title=TITLE)
    naive = [scenario for scenario in SCENARIOS if scenario.must_fail]
    engine = [scenario for scenario in SCENARIOS if not scenario.must_fail]
    if settings.smoke:
        _naive(table, naive[:2], NOISE[:1], range(2))
        _engine(table, engine[:2], 40, 2)
        return table
    _naive(table, naive, NOISE, range(SEEDS))
    _engine(table, engine, NIGHTLY_SCHEDULES if settings.nightly else ENGINE_SCHEDULES, ENGINE_SEEDS)
    table.notes.append(f"naive: {SEEDS} seeds, at most {CAP} schedules each; engine: {ENGINE_SEEDS} seeds")
    return table
