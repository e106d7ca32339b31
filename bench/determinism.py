"""Does a seed mean the same run in every process, under every hash seed, and in every version of Python?

Each seed chooses a scenario (all races and what is beyond them, naive and on the engine, with their disturbances), a number
of noise actors and a strategy, and stands for its first schedules. Two fresh processes, which differ in hash seed, time
zone and memory allocator, run all of them and report every digest, step and note: once with each version of Python, and
once with one version on either side.

Versions are those on the path, and those in the environment variable `BENCH_PYTHONS` (paths of interpreters, separated like
`PATH`), that can import what the engine needs. A process of its own runs this module with the plan as its argument.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import Final

from bench.report import Settings, Table, Value
from engine import simulation
from engine.simulation.running import Run
from engine.simulation.scenarios import SCENARIOS
from engine.simulation.twin import record_of, twin_commands, write_record

TITLE = "determinism: the same seeds in two processes"
SEEDS: Final = 2_000
SCHEDULES: Final = 2
"""Runs of each seed: the default order, and one of its strategy."""
STRATEGIES: Final = ("auto", "random", "pos", "urw", "pct2", "pct3", "lockstep")
NOISE: Final = (0, 2, 8)
TIMEOUT_S: Final = 1_800.0
PROBE: Final = (
    "import apsw, attrs, msgspec, platform, trio; assert platform.python_implementation() == 'CPython'; "
    "print(platform.python_version())"
)


def interpreters() -> dict[str, str]:
    """Each version of Python that can run the engine, with its interpreter; this process's own is the first."""
    given = [path for path in os.environ.get("BENCH_PYTHONS", "").split(os.pathsep) if path]
    named = [shutil.which(f"python3.{minor}") for minor in range(11, 20)]
    found: dict[str, str] = {}
    for path in (sys.executable, *given, *filter(None, named)):
        done = subprocess.run([path, "-c", PROBE], capture_output=True, text=True, timeout=60, check=False)
        version = ".".join(done.stdout.strip().split(".")[:2])
        if done.returncode == 0 and version:
            found.setdefault(version, path)
    return found


def side(seeds: int) -> None:
    """Be one of the two processes: run all seeds and report each run."""
    for seed in range(seeds):
        scenario = SCENARIOS[seed % len(SCENARIOS)]
        strategy = STRATEGIES[seed % len(STRATEGIES)]
        noise = NOISE[seed // len(SCENARIOS) % len(NOISE)]

        def report(number: int, run: Run, name: str = f"{scenario.key} {strategy} {noise} {seed}") -> None:
            write_record(record_of(f"{name}.{number}", run))

        simulation.explore(
            scenario.build(noise),
            schedules=SCHEDULES,
            strategy=strategy,
            seed=seed,
            mode=scenario.mode,
            faults=scenario.faults,
            failures_max=SCHEDULES,
            on_run=report,
        )


def run(settings: Settings) -> Table:
    """Each version with itself, and the first with each other; a smoke run takes 20 seeds and one version."""
    seeds = 20 if settings.smoke else SEEDS
    versions = list(interpreters().items())[: 1 if settings.smoke else None]
    first = versions[0]
    table = Table(title=TITLE)
    for left, right in [(each, each) for each in versions] + [(first, other) for other in versions[1:]]:
        table.rows.append(_compared(left, right, seeds, table))
    table.aim("runs that differ", sum(int(row["different"] or 0) for row in table.rows), at_most=0)
    table.aim("versions of Python (aim 2)", len(versions), at_least=2)
    return table


def _compared(left: tuple[str, str], right: tuple[str, str], seeds: int, table: Table) -> dict[str, Value]:
    one, other = ([path, "-m", __name__, json.dumps({"seeds": seeds})] for _, path in (left, right))
    began = time.perf_counter()
    twins = twin_commands((one, other), timeout_s=TIMEOUT_S)
    if twins.divergence is not None:
        table.notes.append(str(twins.divergence))
    return {
        "one side": left[0],
        "other side": right[0],
        "seeds": seeds,
        "runs": twins.runs,
        "different": len(twins.divergences),
        "wall s": time.perf_counter() - began,
    }


if __name__ == "__main__":
    side(json.loads(sys.argv[1])["seeds"])
