"""Crash overlay: every crash of every distinct run of a scenario, without running its actors again.

Owns: recording the runs of a campaign, which moments of them to crash at, the reopening by the whole engine.
Must not know: which schedules a strategy chooses, which images a power failure leaves.
Invariants: a moment at which two runs had done the same to the disk, and given the same answers, is crashed once; an image
that arises at several moments is opened once and judged at each; same arguments, same counts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final

import apsw
import attrs
import trio

from engine.errors import EngineError
from engine.events import Receipt, SessionNoted
from engine.ports import Ports
from engine.runtime import Durability, open_engine
from engine.simulation.committed import CommittedCheck
from engine.simulation.disk import (
    EVERYTHING,
    CrashCounts,
    Damaged,
    Disk,
    Image,
    OperationLog,
    PowerModel,
    crash_campaign,
    crash_points,
)
from engine.simulation.errors import InvariantError, SimulationSetupError
from engine.simulation.exploring import explore
from engine.simulation.hosting import Host, recorded
from engine.simulation.listening import collected
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
class CrashOverlay(CrashCounts):
    """What all crashes of a scenario's runs left; crash points with equal pasts count once in all logs."""

    schedules: int = 0
    """Runs."""
    logs: int = 0
    """Runs, or lives of a process after a power failure, that did something else to the disk than all others."""
    commits: int = 0
    """Different contents that were committed, in all logs."""
    reopened: int = 0
    """Images that the whole engine opened, checked and went on with."""
    findings: list[Finding] = attrs.field(factory=list)
    """The first that were judged wrong."""


@attrs.frozen
class Recorded:
    """What one run did to the disk, from one known content on."""

    log: OperationLog
    digests: list[str]
    """See `digests_of`."""
    name: str
    """Of the engine's file."""
    events: tuple[type[Any], ...]
    projections: tuple[type[Any], ...]
    dense: bool
    schedule: str


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
    `engine`, where it gives none of its own. At each point up to `images_per_point` images of the `model` are drawn; after
    `states_max` distinct ones no further run is begun. The whole engine opens the first image of each
    distinct content, and of the others each `reopen_every`th (0: none): it must pass `check_log` and store another event.
    Raises the error of a run that failed, `SimulationSetupError` where a run had no engine or several logs.
    """
    logs: dict[str, Recorded] = {}
    report = CrashOverlay()
    with recorded(durability=durability, **(engine or {})) as recorder:

        def collect(number: int, run: Run) -> None:
            for host in recorder.hosts:
                for log in host.logs:
                    digests = digests_of(log)
                    logs.setdefault(digests[-1], _recorded(host, log, digests, str(run.schedule())))
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


def _recorded(host: Host, log: OperationLog, digests: list[str], schedule: str) -> Recorded:
    if len(host.options) != 1:
        raise SimulationSetupError(f"a crash overlay is of one log, the scenario has {len(host.options)}")
    ((path, options),) = host.options.items()
    return Recorded(
        log=log,
        digests=digests,
        name=path.removeprefix(f"{host.disk.directory}/"),
        events=tuple(options.get("events", ())),
        projections=tuple(options.get("projections", ())),
        dense=host.dense,
        schedule=schedule,
    )


def digests_of(log: OperationLog) -> list[str]:
    """For each crash point a hash of what was done to the disk until then, and of where answers were given.

    File numbers do not count, their order does.
    """
    state = hashlib.blake2b(log.base.digest.encode(), digest_size=16)
    numbers: dict[int, int] = {}
    for number in log.numbers.values():
        numbers[number] = len(numbers)
    digests = []
    for operation, number, value, payload in log.records:
        if operation == "mark":
            payload = payload.position if isinstance(payload, Receipt) else None
        else:
            digests.append(state.hexdigest())
        file = numbers.setdefault(number, len(numbers))
        state.update(f"{operation} {file} {value} ".encode())
        state.update(payload if isinstance(payload, bytes) else repr(payload).encode())
    return [*digests, state.hexdigest()]


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
        self._crashed: set[str] = set()
        self._committed: set[str] = set()

    def all(self, runs: list[Recorded], states_max: int | None) -> None:
        """Go through the runs."""
        for number, run in enumerate(runs):
            if states_max is not None and len(self._images) >= states_max:
                break
            self._one(run, number)
        self._report.distinct = len(self._images)
        self._report.commits = len(self._committed)

    def _one(self, run: Recorded, number: int) -> None:
        report = self._report
        check = _Sampling(run.name, self._pages, lambda image: self._reopen(run, image), self._reopen_every)
        first = check.learn(self._disk, run.log, self._images)
        self._committed.update(first)
        points = zip(crash_points(run.log), run.digests, strict=True)
        found = crash_campaign(
            run.log,
            check,
            disk=self._disk,
            images_per_point=self._images_per_point,
            seed=self._seed * 1_000_003 + number,
            model=self._model,
            known=self._images,
            points=[point for point, digest in points if digest not in self._crashed],
        )
        self._crashed.update(run.digests)
        report.logs += 1
        report.points += found.points
        report.states += found.states
        report.wrong += found.wrong
        for wrong in found.examples:
            self._tell(
                Finding(wrong.verdict, run.schedule, wrong.point, f"{wrong.found}, {wrong.marks} answers", wrong.image)
            )
        for content, image in {**found.outcomes, **first}.items():
            if content not in self._contents and not isinstance(content, Damaged):
                self._contents.add(content)
                self._reopen(run, image)

    def _reopen(self, run: Recorded, image: Image) -> None:
        self._report.reopened += 1
        try:
            reopen(self._disk, run, image)
        except (EngineError, InvariantError, apsw.Error) as problem:
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
