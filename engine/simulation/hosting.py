"""What a simulated process is: an engine on a simulated disk, its death, and the next process on what it left.

Owns: the disk of a run and its template, the engine's ports, crashes, what was acknowledged. Must not know: strategies.

Every run begins with the template: a log that was opened once, so that no run pays for creating the schema. A crash ends
the `process` block: its tasks are cancelled, but whatever they still do changes nothing on the disk, their exceptions are
nobody's, and what they are told counts no more. `process` keeps all that was written; `power/n` keeps the nth image of
what a power failure may leave at that point (see `disk`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

import apsw
import attrs
import trio

from engine.events import Receipt
from engine.limits import Limits
from engine.ports import Clock, Ids, Ports
from engine.runtime import Engine, open_engine, open_files
from engine.simulation.actors import Actor
from engine.simulation.controller import Controller
from engine.simulation.disk import WAYS, Disk, Image, Medium, OperationLog
from engine.simulation.engine_ports import (
    lose,
    session_calls,
    simulated_ports,
)
from engine.simulation.errors import InvariantError, UnansweredError
from engine.simulation.listening import collected, heard
from engine.simulation.network import SimulatedNetwork
from engine.simulation.oracles import check_log, check_receipts
from engine.simulation.primitives import wrapped
from engine.simulation.virtual import EPOCH_MS, SeededIds
from engine.subscriptions import Hub
from engine.writer import Written

POWER_IMAGES: Final = 8
"""Images of a power failure that `crash@...=power/n` can name at one point."""
ANSWER_WITHIN_S: Final = 120.0
"""Virtual seconds in which an accepted command must be answered: more than every limit of the engine together."""
DISK_SEED: Final = 0
"""Of SQLite's own randomness, in every run."""
DATABASE: Final = "sim.db"


@attrs.define(eq=False)
class Process:
    """What a crash ends."""

    network: SimulatedNetwork
    """What is opened and accepted through it ends with the process; an engine in the process has it by itself."""
    crashed: bool = False
    how: str = ""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


@attrs.define(eq=False)
class Recorder:
    """Collects what the runs did to their disks: each machine that was made while `recorded` was on."""

    options: dict[str, Any]
    """Options of `open_engine` where a scenario gives none of its own."""
    hosts: list[Host] = attrs.field(factory=list)


@contextmanager
def recorded(**options: Any) -> Iterator[Recorder]:
    """Let every run in the block record what it does to its disk, and open its engines with these options."""
    before = _shared.recorder
    _shared.recorder = Recorder(options)
    try:
        yield _shared.recorder
    finally:
        _shared.recorder = before


class _Shared:
    """What all runs of this operating system process share: one registered disk, and templates."""

    def __init__(self) -> None:
        self.recorder: Recorder | None = None
        self.disk: Disk | None = None
        self.templates: dict[tuple[Any, ...], Image] = {}
        self.checked: set[tuple[Any, ...]] = set()
        """Final states that passed every check, each with what it was checked with."""

    def get(self) -> Disk:
        if self.disk is None:
            self.disk = Disk(clock=lambda: EPOCH_MS, seed=DISK_SEED)
        return self.disk


_shared = _Shared()


class Host:
    """The simulated machine of one run."""

    def __init__(
        self,
        controller: Controller,
        seed: int,
        *,
        kinds: Collection[str],
        clock: Clock,
        ids: Ids,
        network: SimulatedNetwork,
        rng: Callable[[str], random.Random],
    ) -> None:
        self._controller = controller
        self._seed = seed
        self._clock = clock
        self._ids = ids
        self._network = network
        self._rng = rng
        self._recording = "crash" in kinds
        self._failing = "fault" in kinds
        self._stack = ExitStack()
        self._processes: list[Process] = []
        self.dense = True
        """Whether seqs have no holes and rows stay; a scenario that replaces imported events sets it to False."""
        self._image: Image | None = None
        self.logs: list[OperationLog] = []
        """What was done to the disk, where it is recorded: a new log after each power failure."""
        self._fresh = True
        self.options: dict[str, dict[str, Any]] = {}
        """With what each log was opened last, by its path."""
        self._cores: list[Any] = []
        self._hub: Hub | None = None
        self.receipts: list[Receipt] = []
        """What was acknowledged before any crash of its process, in order."""
        self.logged: list[logging.LogRecord] = []
        """What the engine logged in this run. It goes nowhere else: thousands of runs would flood any log."""
        self._stack.enter_context(collected(self.logged))
        self._recorder = _shared.recorder
        if self._recorder is not None:
            self._recording = True
            self._recorder.hosts.append(self)
        self.disk = _shared.get()
        self.disk.heal()
        self.disk.operations.clear()
        self.disk.restore(Image({}))
        self._stack.enter_context(self.disk.default())
        self._stack.enter_context(wrapped(session_calls()))
        self._published: list[int] = []
        self._stack.enter_context(heard(self._heard))
        controller.on_receipt = self._acknowledged
        controller.can["crash"] = self.crash
        controller.can["lose"] = lose

    def close(self) -> None:
        """Put back what was replaced."""
        self.disk.stop()
        self.disk.heal()
        self._stack.close()

    def ports(self) -> Ports:
        """The ports into this simulation of an engine that is opened now: its network is its process's."""
        network = self._processes[-1].network if self._processes else self._network
        return simulated_ports(self._clock, self._ids, network, self._rng, self.disk.name)

    @asynccontextmanager
    async def engine(self, name: str = DATABASE, **options: Any) -> AsyncIterator[Engine]:
        """An engine on the simulated disk; see `Simulation.engine`."""
        path = self.disk.path(name)
        if self._recorder is not None:
            options = {**self._recorder.options, **options}
        if self._fresh:
            self._fresh = False
            self._begin(path, options)
        options.setdefault("ports", self.ports())
        options.setdefault("sync", "commit")
        self.options[path] = options
        async with open_engine(path, **options) as engine:
            self._cores.append(engine._core)
            try:
                yield engine
            finally:
                self._cores.remove(engine._core)

    def _begin(self, path: str, options: dict[str, Any]) -> None:
        events, projections = _definitions(options)
        key = (path, events, projections)
        image = _shared.templates.get(key)
        if image is None:
            image = _shared.templates[key] = _make_template(self.disk, path, events, projections)
            # Making it drew random numbers (a WAL's salts): the run that makes it is to go on like every other one.
            self.disk.reseed(DISK_SEED)
        self.disk.restore(image)
        self._record()
        if self._failing or self._recording:
            self.disk.decide = self._fault

    # --- dying --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Process]:
        """What a crash ends; see `Simulation.process`."""
        process = Process(self._network.process())
        self._processes.append(process)
        try:
            with process.scope:
                yield process
        except BaseException:
            if not process.crashed:
                raise
        finally:
            self._processes.remove(process)
            process.network.die()
            if process.crashed:
                self._restart()

    def crash(self, actor: Actor | None, value: str) -> bool:
        """Kill the innermost process now. False where there is none, or it is dead already."""
        if not self._processes or self._processes[-1].crashed:
            return False
        process = self._processes[-1]
        how, _, number = value.partition("/")
        if how == "power" and not self.logs and not process.network.used:
            return False  # nothing was opened: there is nothing to lose
        process.crashed, process.how = True, value
        if how == "power" and self.logs:
            medium = Medium(self.logs[-1], at=len(self.logs[-1]))
            images = list(medium.images(random.Random(f"{self._seed} power"), POWER_IMAGES))
            self._image = images[int(number or len(images) - 1) % len(images)]
        else:
            self._image = None
        self.disk.crash()
        process.network.die(random.Random(f"{self._seed} network {value}") if how == "power" else None)
        process.scope.cancel()
        return True

    def _restart(self) -> None:
        if self._image is None:
            self.disk.restart()
            return
        self.disk.restore(self._image)
        if any(options.get("durability") == "normal" for options in self.options.values()):
            self._forget_lost()
            self.disk.restore(self._image)
        self._record()

    def _record(self) -> None:
        if self._recording:
            self.logs.append(self.disk.record())
            for receipt in self.receipts:  # what was acknowledged before must outlive the next crash too
                self.disk.mark(receipt)

    def _forget_lost(self) -> None:
        """With durability "normal" a power failure may take the newest commits: nothing that is older than what it left."""
        (path,) = self.options
        connection = apsw.Connection(path, vfs=self.disk.name)
        try:
            top: Any = connection.execute("SELECT coalesce(max(position), 0) FROM event").get
            check_receipts(connection, [found for found in self.receipts if (found.position or 0) <= top])
        finally:
            connection.close()
        self.receipts = [found for found in self.receipts if (found.position or 0) <= top]

    @property
    def alive(self) -> bool:
        """Whether no process is dying."""
        return not any(process.crashed for process in self._processes)

    def _acknowledged(self, receipt: Receipt) -> None:
        if not self.alive:
            return
        self.receipts.append(receipt)
        self.disk.mark(receipt)
        for core in self._cores:
            if core.files.log.connection.in_transaction:
                self._controller.fail(InvariantError("a reply comes after COMMIT", f"{receipt} came inside a transaction"))
        stored = [entry.position for entry in receipt.events if entry.position is not None]
        if stored and self._cores and max(stored) > max(core.hub.published for core in self._cores):
            self._controller.fail(InvariantError("events are published before replies", f"{receipt} came first"))

    def _heard(self, hub: Hub, written: Sequence[Written]) -> None:
        """Followers are about to be handed these events: committed ones, each once, in order."""
        if not self.alive:
            return
        positions = [item.recorded.position for item in written]
        first = self._published[-1] if self._published else 0
        if positions != sorted(set(positions)) or (positions and positions[0] <= first and hub is self._hub):
            self._controller.fail(
                InvariantError("followers are told in order, each event once", f"{positions} after {first}")
            )
        self._hub = hub
        self._published += positions
        for core in self._cores:
            if core.hub is hub and core.files.log.connection.in_transaction:
                self._controller.fail(InvariantError("followers are told after COMMIT", f"{positions} came inside of it"))

    # --- what must hold -----------------------------------------------------------------------------

    def check(self) -> None:
        """Check every log of this run, each distinct state once, and that everything accepted was answered.

        Raises `InvariantError` and `UnansweredError`. The logs are rebuilt by it: it is the last thing a run does.
        """
        for reply in self._controller.replies:
            if reply.accepted and not reply.answered:
                raise UnansweredError("an accepted command", 0.0)
            if reply.answered_after_s > ANSWER_WITHIN_S:
                raise UnansweredError("an accepted command", reply.answered_after_s)
        self.disk.heal()
        self.disk.stop()
        receipts = tuple(self.receipts)
        for path, options in self.options.items():
            name = path.removeprefix(f"{self.disk.directory}/")
            files = [self.disk.content(part) for part in (name, f"{name}-wal") if part in self.disk.names()]
            events, projections = _definitions(options)
            told = receipts if self.dense and len(self.options) == 1 else ()
            key = (path, events, projections, self.dense, hash(tuple(files)), hash(told))
            if key in _shared.checked:
                continue
            check_log(path, events=events, projections=projections, dense=self.dense, receipts=told, vfs=self.disk.name)
            _shared.checked.add(key)

    # --- failing ------------------------------------------------------------------------------------

    def _fault(self, operation: str, kind: str, number: int) -> str | None:
        label = f"{kind} {operation}"
        policy = self._controller.policy
        if self._recording and operation not in ("read", "lock") and self._processes and self.alive:
            how = self._controller.at_disk("crash", label, number, policy.dies)
            if how is not None and self.crash(None, how):
                return "eio"
            if how is not None:
                self._controller.plan.cannot("crash", ("disk", label, number))
        if not self._failing:
            return None
        # A disk that lies corrupts a file in anybody's hands; a short read lies about where a file ends.
        lies = ("crash", "lie", "short") if operation == "read" else ("crash", "lie")
        ways = [way for way in WAYS.get(operation, ()) if way not in lies]
        how = self._controller.at_disk("fault", label, number, lambda: policy.fault(ways))
        if how is not None and how not in ways:
            self._controller.plan.cannot("fault", ("disk", label, number))
            return None
        return how


def _definitions(options: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The events and projections that an engine is opened with."""
    return tuple(options.get("events", ())), tuple(options.get("projections", ()))


def _make_template(disk: Disk, path: str, events: Sequence[Any], projections: Sequence[Any]) -> Image:
    """A log that was opened once by a process of its own, and closed."""
    rng = random.Random("template")
    ports = Ports(clock=_Fixed(), ids=SeededIds(lambda _: rng), vfs=disk.name)
    files = open_files(path, durability="normal", events=events, projections=projections, limits=Limits(), ports=ports)
    try:
        files.begin()
    finally:
        files.close()
    return disk.snapshot()


class _Fixed:
    def now_ms(self) -> int:
        return EPOCH_MS - 1000
