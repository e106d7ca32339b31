"""What do power failures and dying processes leave of the races, and how fast are such states examined?

Each scenario runs under many schedules; each distinct run is crashed before every operation of its disk, in several ways,
and SQLite recovers each image: its content must be one that was committed (else it is `half`) and hold everything that had
been acknowledged (else it is `lost`). The whole engine opens each distinct content and some of the other images, checks
every promise of its log, rebuilds it, and stores another event (else the image is `unusable`).
"""

from __future__ import annotations

import time
from typing import Final

from bench.report import Settings, Table, Value
from engine.limits import Limits
from engine.runtime import Durability
from engine.simulation.crashing import CrashOverlay, crash_overlay
from engine.simulation.scenarios import SCENARIOS, Scenario

TITLE = "crashes: what every crash of the races leaves"
STATES: Final = 50_000
"""Distinct images with durability="full" that were asked for."""
PER_SCENARIO: Final = 4_000
"""After so many no further run of a scenario is begun."""
SMOKE: Final = ("engine/1 late part", "engine/4 restarts")
LEFT_OUT: Final = {"engine/5 drifted index": "it damages the file itself, as SQLite's own check rightly says"}
"""Scenarios that cannot be crashed, with the reason."""
CHECKPOINTS: Final = Limits(wal_checkpoint_bytes=60_000)
"""Several checkpoints in one run, so that crashes fall into them too."""


def races() -> list[Scenario]:
    """The engine variants of the five races."""
    engines = [scenario for scenario in SCENARIOS if scenario.variant == "engine" and scenario.name[0] in "12345"]
    return [scenario for scenario in engines if scenario.key not in LEFT_OUT]


def overlay(scenario: Scenario, durability: Durability, settings: Settings, *, images_per_point: int = 8) -> CrashOverlay:
    """All crashes of one scenario."""
    return crash_overlay(
        scenario.build(0),
        schedules=3 if settings.smoke else 60,
        faults=scenario.faults,
        durability=durability,
        engine={"limits": CHECKPOINTS},
        images_per_point=min(2, images_per_point) if settings.smoke else images_per_point,
        states_max=200 if settings.smoke else PER_SCENARIO,
        reopen_every=100,
    )


def row_of(name: str, durability: str, found: CrashOverlay, cpu_s: float) -> dict[str, Value]:
    """One line of the table."""
    return {
        "scenario": name,
        "durability": durability,
        "schedules": found.schedules,
        "logs": found.logs,
        "commits": found.commits,
        "points": found.points,
        "states": found.states,
        "distinct": found.distinct,
        "reopened": found.reopened,
        "lost": found.lost,
        "half": found.half_applied,
        "corrupt": found.wrong["corrupt"],
        "unusable": found.wrong["unusable"],
        "distinct/cpu-s": found.distinct / cpu_s if cpu_s else 0.0,
    }


def run(settings: Settings) -> Table:
    """Every race with durability="full"; some of them with "normal", once with power failures and once without."""
    table = Table(title=TITLE)
    total = CrashOverlay()
    scenarios = [scenario for scenario in races() if not settings.smoke or scenario.key in SMOKE]
    for scenario in scenarios:
        found = _measured(table, scenario, "full", settings, images_per_point=8)
        total.states += found.states
        total.distinct += found.distinct
        total.wrong += found.wrong
    normal, killed = CrashOverlay(), CrashOverlay()
    # A scenario that dies of itself also says what it expects then, and it expects "full".
    for scenario in [scenario for scenario in scenarios if "crash" not in scenario.faults][::3]:
        normal.wrong += _measured(table, scenario, "normal", settings, images_per_point=8).wrong
        killed.wrong += _measured(table, scenario, "normal", settings, images_per_point=1).wrong
    table.aim(f"full: distinct states (aim {STATES:,})", total.distinct, at_least=STATES)
    table.aim("full: acknowledged and lost", total.lost, at_most=0)
    table.aim("full: half applied, corrupt or unusable", sum(total.wrong.values()) - total.lost, at_most=0)
    table.aim("normal: half applied, corrupt or unusable", sum(normal.wrong.values()) - normal.lost, at_most=0)
    table.aim("normal, dying processes only: anything wrong", sum(killed.wrong.values()), at_most=0)
    table.notes.append(f"full: {total.states:,} states, {total.distinct:,} distinct")
    table.notes.append("normal may lose whole commits, newest first, to a power failure: `lost` counts those images")
    table.notes += [f"left out: {name}: {reason}" for name, reason in LEFT_OUT.items()]
    return table


def _measured(
    table: Table, scenario: Scenario, durability: Durability, settings: Settings, *, images_per_point: int
) -> CrashOverlay:
    before = time.process_time()
    found = overlay(scenario, durability, settings, images_per_point=images_per_point)
    ways = durability if images_per_point > 1 else f"{durability}, killed"
    table.rows.append(row_of(scenario.name, ways, found, time.process_time() - before))
    table.notes += [f"{scenario.name}: {finding}" for finding in found.findings if durability == "full"]
    return found
