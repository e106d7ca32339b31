"""Crash overlay: every crash of every distinct run of a scenario, without running its actors again.

Owns: recording the runs of a campaign, what may be found after a crash of one, the reopening by the whole engine.
Must not know: which schedules a strategy chooses, which images a power failure leaves.
Invariants: of runs that did the same to the disk one is examined; an image that arises in several runs is opened once and
judged in each; same arguments, same counts.

What a crash may leave is what a run committed: a process that dies leaves everything it wrote, so the contents that SQLite
makes of that, from the first write to the last, are the committed ones, in order. After any other crash the content must be
one of these, all tables, row for row (else it is `half`), and, where an answer had been given, one that was still the
newest when it was given or later (else what it acknowledged is `lost`).
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, Final

import apsw
import attrs
import trio

from engine.errors import EngineError
from engine.events import Receipt, SessionNoted
from engine.ports import Ports
from engine.runtime import Durability, open_engine
from engine.simulation.disk import (
    EVERYTHING,
    Damaged,
    Disk,
    Image,
    Medium,
    OperationLog,
    PowerModel,
    SqlCheck,
    Verdict,
    crash_campaign,
    crash_points,
)
from engine.simulation.errors import InvariantError, SimulationSetupError
from engine.simulation.exploring import explore
from engine.simulation.hosting import Host, collected, recorded
from engine.simulation.oracles import check_log, must
from engine.simulation.running import Run, Scenario
from engine.simulation.virtual import EPOCH_MS, SeededIds

FINDINGS_MAX: Final = 5
LATER_MS: Final = 86_400_000
"""How long after the beginning of the run the next process lives."""


@attrs.frozen
class Finding:
    """One image after which something was wrong."""

    verdict: str
    """`lost`, `half`, `corrupt`; `unusable` where the engine does not open it or breaks a promise on it."""
    schedule: str
    """The run that crashed, as a trace."""
    point: int
    """After how many operations of its log it crashed; -1 where the image arose at several."""
    detail: str
    image: Image = attrs.field(repr=False)


@attrs.define
class CrashOverlay:
    """What all crashes of a scenario's runs left."""

    schedules: int = 0
    """Runs."""
    logs: int = 0
    """Runs, or lives of a process after a power failure, that did something else to the disk than all others."""
    commits: int = 0
    """Different contents that were committed, in all logs."""
    points: int = 0
    """Moments at which the disk crashed: before each of its operations, in each log."""
    states: int = 0
    """Images judged, one that arises at several points counted at each."""
    distinct: int = 0
    """Images with different contents: each was recovered by SQLite and looked at by SQL."""
    reopened: int = 0
    """Images that the whole engine opened, checked and went on with."""
    seconds: float = 0.0
    """Wall time for the crashes."""
    wrong: Counter[str] = attrs.field(factory=Counter)
    """Images by verdict."""
    findings: list[Finding] = attrs.field(factory=list)
    """The first of them."""

    @property
    def lost(self) -> int:
        """Images in which something acknowledged is missing."""
        return self.wrong["lost"]

    @property
    def half_applied(self) -> int:
        """Images whose content was never committed."""
        return self.wrong["half"]

    @property
    def distinct_per_second(self) -> float:
        """Distinct images made, opened and judged in a second, the engine's reopening included."""
        return self.distinct / self.seconds if self.seconds else 0.0


@attrs.frozen
class Recorded:
    """What one run did to the disk, from one known content on."""

    log: OperationLog
    name: str
    """Of the engine's file."""
    events: tuple[type[Any], ...]
    projections: tuple[type[Any], ...]
    dense: bool
    schedule: str


class CommittedCheck(SqlCheck):
    """A campaign's check of one log: what is found was committed, and nothing acknowledged is missing.

    `known` are contents by their pages, shared between the checks of many logs. Any mark counts as an acknowledgement of
    everything that was committed before it.
    """

    def __init__(self, name: str, known: dict[int, Any]) -> None:
        super().__init__(name)
        self._known = known
        self._last: dict[str, int] = {}
        self._marks: list[int] = []

    @property
    def committed(self) -> Iterable[str]:
        """The contents that were committed."""
        return self._last

    def learn(self, disk: Disk, log: OperationLog) -> None:
        """Find out what a dying process leaves at each point of the log. Raises `InvariantError` where it is damaged."""
        self._marks = [index for index, record in enumerate(log.records) if record[0] == "mark"]
        medium = Medium(log)
        content = ""
        for point in crash_points(log):
            changed = any(record[0] not in ("mark", "sync", "failed sync") for record in log.records[medium.at : point])
            medium.advance(point)
            if changed or not content:
                disk.restore(medium.kept())
                content = self.examine(disk)
                if isinstance(content, Damaged):
                    raise InvariantError("a dying process leaves a log that opens", content.problem)
            self._last[content] = point

    def inspect(self, connection: apsw.Connection) -> str:
        """A hash of every row of every table."""
        return content_of(connection)

    def judge_found(self, found: str, marks: Sequence[Any]) -> Verdict | None:
        """`half` where it was never committed, `lost` where something newer had been acknowledged."""
        last = self._last.get(found)
        if last is None:
            return "half"
        return "lost" if marks and last < self._marks[len(marks) - 1] else None


def content_of(connection: apsw.Connection) -> str:
    """A hash of every row of every table of a database."""
    state = hashlib.blake2b(digest_size=16)
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_stat%' ORDER BY name"
    ).fetchall()
    for (name,) in names:
        rows = connection.execute(f'SELECT * FROM "{name}"').fetchall()
        state.update(repr((name, rows)).encode())
    return state.hexdigest()


def crash_overlay(
    scenario: Scenario,
    *,
    schedules: int = 20,
    strategy: str = "auto",
    seed: int = 0,
    faults: Iterable[str] = (),
    durability: Durability = "full",
    engine: dict[str, Any] | None = None,
    model: PowerModel = EVERYTHING,
    images_per_point: int = 6,
    states_max: int | None = None,
    reopen_every: int = 0,
) -> CrashOverlay:
    """Run a scenario under several schedules, and crash each distinct run at every operation of its disk.

    `strategy`, `seed` and `faults` are `explore`'s; the scenario's engines are opened with `durability` and the options in
    `engine`, where it gives none of its own. At each point up to `images_per_point` images of the `model` are drawn;
    `states_max` bounds the distinct images, shared evenly between the runs. The whole engine opens the first image of each
    distinct content, and of the others each `reopen_every`th (0: none): it must pass `check_log` and store another event.
    Raises the error of a run that failed, `SimulationSetupError` where a run had no engine or several logs.
    """
    logs: dict[str, Recorded] = {}
    report = CrashOverlay()
    with recorded(durability=durability, **(engine or {})) as recorder:

        def collect(number: int, run: Run) -> None:
            for host in recorder.hosts:
                for log in host.logs:
                    logs.setdefault(digest_of(log), _recorded(host, log, str(run.schedule())))
            recorder.hosts.clear()

        campaign = explore(scenario, schedules=schedules, strategy=strategy, seed=seed, faults=faults, on_run=collect)
    if campaign.failure is not None:
        raise campaign.failure.error
    if not logs:
        raise SimulationSetupError("a crash overlay needs a scenario with an engine")
    report.schedules = campaign.schedules
    began = time.perf_counter()
    with Disk() as disk, collected([]):
        _Overlaying(disk, report, images_per_point, model, seed, reopen_every).all(list(logs.values()), states_max)
    report.seconds = time.perf_counter() - began
    return report


def _recorded(host: Host, log: OperationLog, schedule: str) -> Recorded:
    if len(host.options) != 1:
        raise SimulationSetupError(f"a crash overlay is of one log, the scenario has {len(host.options)}")
    ((path, options),) = host.options.items()
    return Recorded(
        log=log,
        name=path.removeprefix(f"{host.disk.directory}/"),
        events=tuple(options.get("events", ())),
        projections=tuple(options.get("projections", ())),
        dense=host.dense,
        schedule=schedule,
    )


def digest_of(log: OperationLog) -> str:
    """A hash of what was done to the disk, and of where answers were given. File numbers do not count, their order does."""
    state = hashlib.blake2b(log.base.digest.encode(), digest_size=16)
    numbers: dict[int, int] = {}
    for number in log.numbers.values():
        numbers[number] = len(numbers)
    for operation, number, value, payload in log.records:
        file = numbers.setdefault(number, len(numbers))
        if operation == "mark":
            payload = payload.position if isinstance(payload, Receipt) else None
        state.update(f"{operation} {file} {value} ".encode())
        state.update(payload if isinstance(payload, bytes) else repr(payload).encode())
    return state.hexdigest()


class _Overlaying:
    """One overlay, going on."""

    def __init__(
        self, disk: Disk, report: CrashOverlay, images_per_point: int, model: PowerModel, seed: int, reopen_every: int
    ) -> None:
        self._disk = disk
        self._report = report
        self._images_per_point = images_per_point
        self._model = model
        self._seed = seed
        self._reopen_every = reopen_every
        self._images: dict[int, Any] = {}
        self._pages: dict[int, Any] = {}
        self._contents: set[Any] = set()
        self._committed: set[str] = set()

    def all(self, logs: list[Recorded], states_max: int | None) -> None:
        """Go through the logs."""
        report = self._report
        report.logs = len(logs)
        for number, run in enumerate(logs):
            left = None if states_max is None else -(-(states_max - report.distinct) // (len(logs) - number))
            if left is not None and left <= 0:
                break
            self._one(run, number, left)
        report.commits = len(self._committed)

    def _one(self, run: Recorded, number: int, distinct_max: int | None) -> None:
        report = self._report
        check = _Sampling(run.name, self._pages, lambda image: self._reopen(run, image), self._reopen_every)
        check.learn(self._disk, run.log)
        self._committed |= set(check.committed)
        found = crash_campaign(
            run.log,
            check,
            disk=self._disk,
            images_per_point=self._images_per_point,
            seed=self._seed * 1_000_003 + number,
            model=self._model,
            distinct_max=distinct_max,
            known=self._images,
        )
        report.points += found.points
        report.states += found.states
        report.distinct += found.distinct
        report.wrong += found.wrong
        for wrong in found.examples:
            self._tell(Finding(wrong.verdict, run.schedule, wrong.point, f"{wrong.found}, {wrong.marks} answers", wrong.image))
        for content, image in found.outcomes.items():
            if content not in self._contents and not isinstance(content, Damaged):
                self._contents.add(content)
                self._reopen(run, image)

    def _reopen(self, run: Recorded, image: Image) -> None:
        self._report.reopened += 1
        try:
            reopen(self._disk, run, image)
        except (EngineError, InvariantError) as problem:
            self._report.wrong["unusable"] += 1
            self._tell(Finding("unusable", run.schedule, -1, f"{type(problem).__name__}: {problem}", image))

    def _tell(self, finding: Finding) -> None:
        if len(self._report.findings) < FINDINGS_MAX:
            self._report.findings.append(finding)


class _Sampling(CommittedCheck):
    """Gives each nth image to the engine too."""

    def __init__(self, name: str, known: dict[int, Any], reopen: Callable[[Image], None], every: int) -> None:
        super().__init__(name, known)
        self._reopen = reopen
        self._every = every
        self._examined = 0

    def examine(self, disk: Disk) -> Any:
        self._examined += 1
        if not self._every or self._examined % self._every:
            return super().examine(disk)
        image = disk.snapshot()
        found = super().examine(disk)
        if not isinstance(found, Damaged):
            self._reopen(image)
        return found


def reopen(disk: Disk, run: Recorded, image: Image) -> None:
    """Let the whole engine recover an image, check every promise of its log, store an event, and check again.

    Raises `InvariantError`, or the `EngineError` with which the engine refused it.
    """
    path = disk.path(run.name)
    rng = Random("after the crash")
    ports = Ports(clock=_Later(), ids=SeededIds(lambda _: rng), vfs=disk.name)

    async def go_on() -> None:
        async with open_engine(path, events=run.events, projections=run.projections, ports=ports, sync="commit") as engine:
            session = await engine.create_session("after the crash")
            receipt = await session.append(SessionNoted("note", "still here"))
            must(receipt.seq == 2, "the log goes on", receipt)

    disk.restore(image)
    check_log(path, events=run.events, projections=run.projections, dense=run.dense, vfs=disk.name)
    disk.restore(image)
    trio.run(go_on)
    check_log(path, events=run.events, projections=run.projections, dense=run.dense, vfs=disk.name)


class _Later:
    def now_ms(self) -> int:
        return EPOCH_MS + LATER_MS
