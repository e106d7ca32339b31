"""One scenario checked from end to end: a replay, or saved failures and then a campaign; a failure comes back shrunk.

Owns: settings and their checks, what runs first. Must not know: pytest, the command line, files.
Invariants: the same settings, seed and scenario give the same verdict; a wrong setting is told before anything runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, get_args

import attrs

from engine.simulation.campaign import Campaign, Failure
from engine.simulation.choices import KINDS, Disturbance
from engine.simulation.corpus import Saved
from engine.simulation.errors import CommutationError, DivergedError, InvariantError, SimulationSetupError
from engine.simulation.exhaustive import Proof, explore_exhaustively
from engine.simulation.exploring import explore, replay
from engine.simulation.running import Run, Scenario
from engine.simulation.schedule import Mode, Schedule, parse
from engine.simulation.shrinking import Shrunk, shrink
from engine.simulation.strategies import STRATEGIES

SCHEDULES: Final = 500
"""How many a campaign tries where nobody says otherwise."""
EXHAUSTIVE_SCHEDULES: Final = 20_000
UNBOUNDED: Final = 1_000_000_000
"""For campaigns that only time ends."""

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@attrs.frozen(kw_only=True)
class Settings:
    """How a scenario is checked."""

    schedules: int | None = None
    """At most so many runs; None: `SCHEDULES`, and `EXHAUSTIVE_SCHEDULES` for an exhaustive search."""
    seconds: float | None = None
    """Wall time after which no new run begins."""
    strategy: str = "auto"
    seed: int = 0
    mode: Mode = "macro"
    faults: tuple[str, ...] = ()
    replay: str | None = None
    """Only this schedule."""
    crash_everywhere: bool = False
    """Crash at every operation of the default order too, in every way; only where `faults` has `crash`."""
    exhaustive: bool = False
    """Every schedule that can differ, up to a bound, instead of a strategy's."""

    def __attrs_post_init__(self) -> None:
        if self.limit < 1:
            raise SimulationSetupError(f"schedules: expected 1 or more, found {self.schedules}")
        known = ("auto", "directed", "default", *STRATEGIES)
        if self.strategy not in known:
            raise SimulationSetupError(f"strategy: expected one of {', '.join(known)}, found {self.strategy!r}")
        if self.mode not in get_args(Mode):
            raise SimulationSetupError(f"mode: expected one of {', '.join(get_args(Mode))}, found {self.mode!r}")
        for kind in self.faults:
            if kind not in KINDS:
                raise SimulationSetupError(f"faults: expected some of {', '.join(KINDS)}, found {kind!r}")
        if self.replay is not None:
            parse(self.replay)

    @property
    def limit(self) -> int:
        """How many runs at most."""
        if self.schedules is not None:
            return self.schedules
        return EXHAUSTIVE_SCHEDULES if self.exhaustive else SCHEDULES


@attrs.define(eq=False)
class Verdict:
    """How a check ended."""

    campaign: Campaign
    shrunk: Shrunk | None = None
    origin: str = ""
    """Where a failing schedule came from, if not from the campaign's strategy."""
    unmet: list[str] = attrs.field(factory=list)
    """What saved or replayed schedules asked for and their runs did not offer."""

    @property
    def statement(self) -> str:
        """What an exhaustive search proved, or how far it came; empty for other campaigns."""
        return self.campaign.statement if isinstance(self.campaign, Proof) else ""

    @property
    def error(self) -> BaseException | None:
        """The failure, or that something that was to happen sometimes never did; None for a pass."""
        if self.campaign.failure is not None:
            return self.campaign.failure.error
        if self.shrunk is not None:
            return self.shrunk.found.error
        missing = self.campaign.missing()
        if missing:
            count = self.campaign.schedules
            return InvariantError("sometimes", f"never happened in {count} schedules: {', '.join(missing)}")
        return None


def check(
    scenario: Scenario,
    settings: Settings,
    saved: Sequence[Saved] = (),
    *,
    on_run: Callable[[int, Run], None] | None = None,
) -> Verdict:
    """Try a scenario's saved failures, then explore it; or only replay, where the settings say so. Shrinks what fails.

    `on_run(number, run)` hears of the runs of the campaign.
    Raises nothing of the scenario's; `SimulationSetupError` for what the simulator cannot do.
    """
    campaign = Campaign(settings.strategy, settings.seed)
    verdict = Verdict(campaign)
    if settings.replay is not None:
        verdict.origin = "replayed"
        failure = _again(scenario, settings, Saved(settings.replay, settings.seed), verdict, strict=True)
        campaign.hoped.clear()
    else:
        failure = None
        for entry in saved:
            failure = _again(scenario, settings, entry, verdict)
            if failure is not None:
                verdict.origin = "saved failure"
                break
        if failure is None:
            failure = _explored(scenario, settings, verdict, on_run)
    if failure is not None and not isinstance(failure.error, CommutationError | DivergedError):
        verdict.shrunk = shrink(scenario, failure, faults=settings.faults)
    return verdict


def record(scenario: Scenario, settings: Settings, on_run: Callable[[int, Run], None]) -> None:
    """Carry out every schedule of a campaign, whether runs fail or not, for somebody who compares them."""
    explore(
        scenario,
        schedules=settings.limit,
        strategy=settings.strategy,
        seed=settings.seed,
        mode=settings.mode,
        faults=settings.faults,
        failures_max=settings.limit,
        on_run=on_run,
    )


def _again(scenario: Scenario, settings: Settings, entry: Saved, verdict: Verdict, strict: bool = False) -> Failure | None:
    plan = parse(entry.schedule)
    result = replay(
        scenario,
        entry.schedule,
        mode=settings.mode,
        faults=settings.faults,
        strict=strict,
        **({"seed": entry.seed} if plan.seeded is None else {}),
    )
    verdict.campaign.count(result)
    if not result.failed:
        verdict.unmet += result.unmet
        return None
    seed = plan.seeded.seed if plan.seeded is not None else entry.seed
    return Failure(result, entry.schedule, seed, verdict.campaign.schedules, "replay")


def _explored(
    scenario: Scenario, settings: Settings, verdict: Verdict, on_run: Callable[[int, Run], None] | None
) -> Failure | None:
    before = verdict.campaign
    first: list[str] = []
    if settings.crash_everywhere and "crash" in settings.faults:
        first = crashes_everywhere(scenario, settings)
    common: dict[str, Any] = {
        "schedules": settings.limit + len(first),
        "seconds": settings.seconds,
        "seed": settings.seed,
        "mode": settings.mode,
        "faults": settings.faults,
        "first": first,
        "on_run": on_run,
    }
    if settings.exhaustive:
        campaign: Campaign = explore_exhaustively(scenario, **common)
    else:
        campaign = explore(scenario, strategy=settings.strategy, **common)
    verdict.campaign = campaign
    campaign.schedules += before.schedules
    campaign.seconds += before.seconds
    campaign.covered.update(before.covered)
    campaign.digests |= before.digests
    return campaign.failure


def crashes_everywhere(scenario: Scenario, settings: Settings) -> list[str]:
    """The default order with a crash before each of its named operations: the process alone, and every power failure."""
    from engine.simulation.hosting import POWER_IMAGES

    default = replay(scenario, "", mode=settings.mode, seed=settings.seed, faults=settings.faults)
    ways = ("process", *(f"power/{number}" for number in range(POWER_IMAGES)))
    mode: Mode | None = "await" if settings.mode == "await" else None
    return [
        str(Schedule(disturbances=(Disturbance("crash", step.address, way),), mode=mode))
        for step in default.steps
        if not step.op.silent
        for way in ways
    ]


def child_seed(root: int, name: str) -> int:
    """The seed of one test: a function of the root seed and its name, so that adding a test moves no other's schedules."""
    return int.from_bytes(hashlib.blake2b(f"{root} {name}".encode(), digest_size=4).digest(), "big")


def seconds_of(text: str) -> float:
    """Read a duration: `90`, `60s`, `5m`, `500ms`, `1h`. Raises `SimulationSetupError`."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise SimulationSetupError(f"time: expected a duration like 60s, 5m or 500ms, found {text!r}")
    return float(found[1]) * _UNITS[found[2] or "s"]


def kinds_of(text: str | Iterable[str]) -> tuple[str, ...]:
    """Read kinds of disturbance: a list, or text with commas."""
    parts = text.split(",") if isinstance(text, str) else list(text)
    return tuple(part.strip() for part in parts if part.strip())
