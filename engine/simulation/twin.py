"""The twin run: the same seeds in two fresh processes that differ in everything a seed does not control.

Owns: the two environments, the records that a side reports, the first difference between them. Must not know: what a
scenario does, how a schedule is chosen.
Invariants: the sides differ in hash seed, time zone and memory allocator (so in addresses), and may be two versions of
Python; a run in which they differ anywhere that its digest looks at is reported, with the first step that differs.

A side is a command that writes one JSON object a line to its standard output, in order of the runs: `run` (what the run is
called), `digest`, `trace` (each step's address), `notes`, `error`; other lines are ignored. This module is such a command:

    python -m engine.simulation.twin '{"targets": ["package.module:scenario"], "seeds": [0, 1], "schedules": 20}'

A target names an async scenario, as `package.module:function` or `path/to/file.py:function`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Self

import attrs

from engine.simulation.errors import SimulationSetupError
from engine.simulation.exploring import explore
from engine.simulation.running import Run, Scenario

ENVIRONMENTS: Final = (
    {"PYTHONHASHSEED": "1", "TZ": "UTC", "PYTHONMALLOC": "pymalloc"},
    {"PYTHONHASHSEED": "2", "TZ": "Asia/Kathmandu", "PYTHONMALLOC": "malloc"},
)
"""What the two sides' environments differ in."""

TIMEOUT_S: Final = 300.0
"""Wall time for each side; they run at the same time."""


@attrs.frozen
class Record:
    """What one side says of one run."""

    run: str
    digest: str
    trace: tuple[str, ...] = ()
    """Each step: actor, operation, occurrence."""
    notes: tuple[str, ...] = ()
    error: str = ""
    """Its failure's kind and text, without numbers and addresses; empty for a pass."""


@attrs.frozen
class Divergence:
    """The first difference between two runs of one seed."""

    run: str
    what: str
    """`step`, `note`, `error`, `run` (one is missing), or `digest`: all of these agree, and time or faults do not."""
    index: int
    """Which step or note, from 0."""
    left: str | None
    """What it was on the first side; None where that side had ended."""
    right: str | None

    def __str__(self) -> str:
        place = f"{self.what} {self.index + 1}" if self.what in ("step", "note") else self.what
        left, right = ("nothing" if side is None else f"`{side}`" for side in (self.left, self.right))
        return f"run {self.run} is not reproducible: its {place} is {left} in one process and {right} in another"


@attrs.frozen
class Twins:
    """What two sides had to say."""

    runs: int
    """Compared."""
    divergences: tuple[Divergence, ...]
    """Of each run that differs, its first difference; empty: every run had the same digest in both."""

    @property
    def divergence(self) -> Divergence | None:
        """The first difference of all."""
        return self.divergences[0] if self.divergences else None


def first_divergence(left: Sequence[str], right: Sequence[str]) -> tuple[int, str | None, str | None] | None:
    """The first index at which two traces differ, with both sides (None where one has ended), or None."""
    for index in range(max(len(left), len(right))):
        one = left[index] if index < len(left) else None
        other = right[index] if index < len(right) else None
        if one != other:
            return index, one, other
    return None


def compare(left: Record | None, right: Record | None) -> Divergence | None:
    """The first difference between two records of one run, or None where their digests and errors agree."""
    if left is None or right is None or left.run != right.run:
        name = next((side.run for side in (left, right) if side is not None), "")
        return Divergence(name, "run", 0, left.run if left else None, right.run if right else None)
    for what, one, other in (("step", left.trace, right.trace), ("note", left.notes, right.notes)):
        found = first_divergence(one, other)
        if found is not None:
            return Divergence(left.run, what, *found)
    for what, mine, theirs in (("error", left.error, right.error), ("digest", left.digest, right.digest)):
        if mine != theirs:
            return Divergence(left.run, what, 0, mine or None, theirs or None)
    return None


def twin_commands(commands: tuple[Sequence[str], Sequence[str]], *, timeout_s: float = TIMEOUT_S) -> Twins:
    """Run two commands that report records, side by side in the two environments, and compare what they say.

    Raises `SimulationSetupError` where a side fails, says nothing, or takes longer than `timeout_s` seconds of wall time.
    """
    with ExitStack() as stack:
        sides = [stack.enter_context(_Side(*pair)) for pair in zip(commands, ENVIRONMENTS, strict=True)]
        left, right = (side.records(timeout_s) for side in sides)
    found = [compare(*pair) for pair in zip_longest(left, right)]
    return Twins(len(found), tuple(divergence for divergence in found if divergence is not None))


def twin(
    target: str | Sequence[str],
    seeds: Iterable[int] = (0,),
    *,
    schedules: int = 20,
    strategy: str = "auto",
    mode: str = "macro",
    faults: Iterable[str] = (),
    python: tuple[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Twins:
    """Run `schedules` schedules of a scenario (or of several) for each seed in two fresh processes, and compare every run.

    `target` is `package.module:function` or `path/to/file.py:function`; `python` the interpreters of the two sides, by
    default this one twice. A run's name is its target, seed and number. A failing run is no difference where both fail
    alike. Raises `SimulationSetupError`, see `twin_commands`.
    """
    targets = [target] if isinstance(target, str) else list(target)
    plan = {"targets": targets, "seeds": list(seeds), "schedules": schedules, "strategy": strategy, "mode": mode}
    plan["faults"] = list(faults)
    one, other = ((exe, "-m", __name__, json.dumps(plan)) for exe in python or (sys.executable, sys.executable))
    return twin_commands((one, other), timeout_s=timeout_s)


class _Side:
    """One of the two processes. What it says goes to files, so that neither side waits for a reader."""

    def __init__(self, command: Sequence[str], differences: dict[str, str]) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, **differences, "PYTHONPATH": path, "PYTHONUTF8": "1"}
        self._files = ExitStack()
        self._out = self._files.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115
        self._complaints = self._files.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115
        self._process = subprocess.Popen(list(command), stdout=self._out, stderr=self._complaints, env=environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._files.close()

    def records(self, timeout_s: float) -> list[Record]:
        """Wait for its end, and read what it said."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise SimulationSetupError(f"a side of the twin run took longer than {timeout_s:g} s") from None
        self._out.seek(0)
        self._complaints.seek(0)
        records = list(records_of(self._out))
        if code or not records:
            complaint = self._complaints.read().strip()[-2000:] or "it reported no run"
            raise SimulationSetupError(f"a side of the twin run ended with exit code {code}: {complaint}")
        return records


def records_of(lines: Iterable[str]) -> Iterator[Record]:
    """The records among the lines of a side's output."""
    for line in lines:
        if line.startswith('{"run": '):
            found = json.loads(line)
            yield Record(found["run"], found["digest"], tuple(found["trace"]), tuple(found["notes"]), found["error"])


def record_of(name: str, run: Run) -> Record:
    """What a side reports of a run."""
    return Record(name, run.digest, tuple(run.trace), run.notes, run.signature)


def write_record(record: Record) -> None:
    """Report a run to the other end of standard output."""
    sys.stdout.write(json.dumps(attrs.asdict(record)) + "\n")


def scenario_of(target: str) -> Scenario:
    """Find a scenario by its name. Raises `SimulationSetupError` where there is none."""
    place, _, name = target.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module.__name__] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        found: Any = getattr(module, name)
    except (ImportError, OSError, AttributeError, ValueError) as problem:
        raise SimulationSetupError(f"no scenario {target!r}: {problem}") from problem
    scenario: Scenario = found
    return scenario


def main(plan: dict[str, Any]) -> None:
    """Be one side: run what the plan says, and report each run."""
    for target in plan["targets"]:
        scenario = scenario_of(target)
        for seed in plan["seeds"]:
            explore(
                scenario,
                schedules=plan["schedules"],
                strategy=plan.get("strategy", "auto"),
                mode=plan.get("mode", "macro"),
                faults=plan.get("faults", ()),
                seed=seed,
                failures_max=plan["schedules"],
                on_run=partial(_report, f"{target} {seed}."),
            )


def _report(name: str, number: int, run: Run) -> None:
    write_record(record_of(f"{name}{number}", run))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
