"""Crash campaigns: every image that crashes of one recorded run may leave, each opened and judged.

Owns: going through points and images, counting. Must not know: what is in the files (a check does).
Invariants: each image is judged by what was acknowledged at its own point, also when its content was examined before; the
same log, seed and model give the same report, but for the seconds.

A check has two halves, because examining costs and judging does not: `examine` opens what a crash left and says what it
found, once per distinct image; `judge` holds that against the marks of each point where the image may arise.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, Final, Literal, Protocol

import attrs

from engine.simulation.disk.files import Image, OperationLog
from engine.simulation.disk.power import EVERYTHING, Medium, PowerModel, crash_points
from engine.simulation.disk.vfs import Disk

Verdict = Literal["lost", "half", "gap", "corrupt"]
EXAMPLES_MAX: Final = 5


class Check(Protocol):
    """What a campaign asks of each image."""

    def examine(self, disk: Disk) -> Any:
        """Open what is on the disk, as after the crash, and return what was found, hashable. Must close what it opens."""

    def judge(self, found: Any, marks: Sequence[Any]) -> Verdict | None:
        """What is wrong with it, given what had been marked before the crash, in order. `marks` is only lent."""


@attrs.frozen
class Example:
    """One image that was judged wrong: enough to look at it again."""

    point: int
    verdict: Verdict
    image: Image
    found: Any
    marks: int
    """How many marks preceded the crash."""


@attrs.define
class CrashCounts:
    """What crashes left, in numbers. Counts of verdicts are of distinct images."""

    points: int = 0
    """Moments at which the disk crashed."""
    states: int = 0
    """Images judged, one that arises at several points counted at each."""
    distinct: int = 0
    """Images with different contents: each was recovered by SQLite and looked at."""
    seconds: float = 0.0
    """Wall time for the crashes."""
    wrong: Counter[str] = attrs.field(factory=Counter)
    """Images by verdict."""

    @property
    def lost(self) -> int:
        """Images in which something acknowledged is missing."""
        return self.wrong["lost"]

    @property
    def half_applied(self) -> int:
        """Images in which a part of something is there and a part is not: their content was never committed."""
        return self.wrong["half"]

    @property
    def corrupt(self) -> int:
        """Images that do not open, or are damaged."""
        return self.wrong["corrupt"]


@attrs.define
class CrashReport(CrashCounts):
    """What a campaign over one log found."""

    examples: list[Example] = attrs.field(factory=list)
    outcomes: dict[Any, Image] = attrs.field(factory=dict, repr=False)
    """Each different thing that was found, with the first image in which it was."""

    @property
    def gaps(self) -> int:
        """Images in which something is missing that is older than something that is there."""
        return self.wrong["gap"]


def crash_campaign(
    log: OperationLog,
    check: Check,
    *,
    disk: Disk,
    images_per_point: int = 6,
    seed: int = 0,
    model: PowerModel = EVERYTHING,
    distinct_max: int | None = None,
    examples_max: int = EXAMPLES_MAX,
    known: dict[int, Any] | None = None,
    points: Sequence[int] | None = None,
) -> CrashReport:
    """Crash at every point of the log, in up to `images_per_point` ways each (the first is that of a dying process).

    `disk` is where images are opened; what is on it is replaced. `distinct_max` ends the campaign early. `known`: what was
    found in images that need not be opened again, by their hashes; this campaign's are added. `points`: crash at these
    only, in rising order. The report's counts say what went wrong; nothing is raised for it.
    """
    report = CrashReport()
    started = time.perf_counter()
    medium = Medium(log, model)
    marks: list[Any] = []
    marked = 0
    known = {} if known is None else known
    known_before = len(known)
    blamed: set[tuple[int, Verdict]] = set()
    for point in crash_points(log) if points is None else points:
        medium.advance(point)
        marks += [record[3] for record in log.records[marked:point] if record[0] == "mark"]
        marked = point
        report.points += 1
        for image in medium.images(Random(f"{seed}/{point}"), images_per_point):
            key = hash(image)
            report.states += 1
            if key in known:
                found = known[key]
            else:
                disk.restore(image)
                found = known[key] = check.examine(disk)
                report.outcomes.setdefault(found, image)
            verdict = check.judge(found, marks)
            if verdict is not None and (key, verdict) not in blamed:
                blamed.add((key, verdict))
                report.wrong[verdict] += 1
                if len(report.examples) < examples_max:
                    report.examples.append(Example(point, verdict, image, found, len(marks)))
        if distinct_max is not None and len(known) - known_before >= distinct_max:
            break
    report.distinct = len(known) - known_before
    report.seconds = time.perf_counter() - started
    return report
