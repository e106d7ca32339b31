"""The whole engine over the simulated disk: every crash of a recorded run, recovered by SQLite and by the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from random import Random

import apsw
import pytest
import trio

from engine import Engine, Limits, open_engine
from engine.errors import EngineError, StorageIOError
from engine.events import (
    MessageFinished,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartUpdated,
    Receipt,
    SessionNoted,
    ToolUpdated,
    UsageRecorded,
)
from engine.ports import Ports
from engine.simulation.disk import (
    CrashReport,
    Disk,
    LogCheck,
    LogFound,
    OperationLog,
    PowerModel,
    Verdict,
    crash_campaign,
    power_image,
)
from tests.support.logs import examine

ROUNDS = 8
SMALL_WAL = Limits(wal_checkpoint_bytes=80_000)
"""Several checkpoints in one run, so that crashes fall into them too."""


class Counted:
    """Ids and a clock that are the same in every run."""

    def __init__(self, first: int = 0) -> None:
        self.given = first

    def new_id(self, prefix: str) -> str:
        self.given += 1
        return f"{prefix}_{self.given}"

    def new_epoch(self) -> str:
        self.given += 1
        return f"{self.given:012x}"

    def now_ms(self) -> int:
        self.given += 1
        return 1_700_000_000_000 + self.given


def ports(disk: Disk, first: int = 0) -> Ports:
    counted = Counted(first)
    return Ports(vfs=disk.name, clock=counted, ids=counted)


async def converse(engine: Engine, name: str, acknowledge: Callable[[Receipt], None]) -> None:
    """One session's conversation: appends of several events, posts that share a batch, removals."""
    session = await engine.create_session(name)
    for number in range(ROUNDS):
        message, part, tool = f"m{number}", f"p{number}", f"t{number}"
        acknowledge(
            await session.append(MessageUpdated(message, "assistant"), PartUpdated(part, message, "text", {"text": "so"}))
        )
        await session.post(PartDelta(part, message, "text", 2, " it goes" * number))
        await session.post(ToolUpdated(tool, message, f"c{number}", "look", "pending"))
        acknowledge(
            await session.append(
                ToolUpdated(tool, message, f"c{number}", "look", "completed", output="x" * 100 * number),
                UsageRecorded(f"u{number}", message, cost_nanousd=number),
                MessageFinished(message, "completed"),
            )
        )
        if number % 3 == 2:
            acknowledge(await session.append(MessageRemoved(f"m{number - 1}"), SessionNoted("n", "removed")))


def run(disk: Disk, durability: str) -> OperationLog:
    """A new log, opened, closed, and opened again; what three sessions do then is recorded, every receipt marked."""

    async def main() -> OperationLog:
        options = {"ports": ports(disk), "sync": "commit", "durability": durability, "limits": SMALL_WAL}
        async with open_engine(disk.path(), **options):
            pass
        log = disk.record()
        async with open_engine(disk.path(), **options) as engine, trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                nursery.start_soon(converse, engine, name, disk.mark)
        disk.stop()
        return log

    return trio.run(main)


async def go_on(disk: Disk) -> None:
    """Open the engine on what a crash left, and use it."""
    async with open_engine(disk.path(), ports=ports(disk, first=100_000), sync="commit") as engine:
        session = await engine.create_session("after")
        assert (await session.append(SessionNoted("n", "still here"))).seq == 2


def campaign(disk: Disk, log: OperationLog, distinct_max: int | None = None) -> CrashReport:
    check = LogCheck("log.db", log.marks())
    return crash_campaign(log, check, disk=disk, images_per_point=6, distinct_max=distinct_max)


def test_no_crash_of_the_engine_loses_what_it_acknowledged() -> None:
    """With durability="full", power failures and process deaths at every operation lose nothing and leave nothing half."""
    with Disk() as disk, disk.default():
        log = run(disk, "full")
        report = campaign(disk, log)
        assert report.distinct > 1_500
        assert not report.wrong, report
        # Each content that SQLite recovered is opened by the engine too, which folds the log anew and compares.
        for found, image in report.outcomes.items():
            disk.restore(image)
            assert isinstance(found, LogFound)
            assert len(examine(disk.path(), disk.name).types) == len(found.positions)
            disk.restore(image)
            trio.run(go_on, disk)
            assert len(examine(disk.path(), disk.name).types) >= len(found.positions) + 2


def test_normal_durability_loses_only_the_newest_commits() -> None:
    """With durability="normal", a power failure takes back whole commits, newest first; a dying process none."""
    with Disk() as disk, disk.default():
        log = run(disk, "normal")
        report = campaign(disk, log)
        assert report.distinct > 1_500
        assert report.lost > 0
        assert set(report.wrong) == {"lost"}, report
        killed = crash_campaign(log, LogCheck("log.db", log.marks()), disk=disk, images_per_point=1)
        assert killed.distinct > 200
        assert not killed.wrong, killed


async def until_it_dies(disk: Disk, dies_at: int) -> OperationLog:
    """Record a run whose process dies at one operation. What goes on running of it gets errors, and comes to its end."""
    seen = 0
    log: OperationLog | None = None

    def decide(operation: str, kind: str, number: int) -> str | None:
        nonlocal seen
        seen += 1
        return "crash" if seen == dies_at else None

    with suppress(EngineError):
        async with open_engine(disk.path(), ports=ports(disk), sync="commit", limits=SMALL_WAL) as engine:
            log = disk.record()
            disk.decide = decide
            await converse(engine, "a", disk.mark)
    disk.decide = None
    assert log is not None
    assert [how for _, _, how in disk.struck] == ["crash"]
    return log


@pytest.mark.parametrize("dies_at", range(1, 500, 23))
def test_a_run_that_dies_in_the_middle_keeps_what_it_acknowledged(dies_at: int) -> None:
    """A process dies at a decided operation, its remains run on, then the power goes: nothing acknowledged is lost."""
    logging.disable(logging.CRITICAL)
    try:
        with Disk() as disk, disk.default():
            log = trio.run(until_it_dies, disk, dies_at)
            check = LogCheck("log.db", log.marks())
            for seed in range(20):
                disk.restore(power_image(log, Random(seed)))
                assert check.judge(check.examine(disk), log.marks()) is None
            trio.run(go_on, disk)
    finally:
        logging.disable(logging.NOTSET)


class OpensCheck:
    """Whether the engine opens what a crash left, and works. Nothing was acknowledged, so nothing can be lost."""

    def examine(self, disk: Disk) -> str:
        try:
            trio.run(go_on, disk)
        except EngineError as problem:
            return problem.describe()
        return "works"

    def judge(self, found: str, marks: object) -> Verdict | None:
        return None if found == "works" else "corrupt"


def test_a_crash_while_a_log_is_made_leaves_one_that_opens() -> None:
    """At every operation of a log's first open, what a power failure leaves is opened and used by the next engine."""

    async def make(disk: Disk) -> None:
        async with open_engine(disk.path(), ports=ports(disk), sync="commit"):
            pass

    with Disk() as disk, disk.default():
        log = disk.record()
        trio.run(make, disk)
        report = crash_campaign(log, OpensCheck(), disk=disk, images_per_point=4)
    assert report.distinct > 250
    assert not report.wrong, report


def after_a_failed_sync(kind: str, nth: int, *, durability: str, forgetful: bool) -> tuple[int, CrashReport]:
    """Crashes of a run in which one sync failed: how many appends were refused, and what the crashes left."""

    async def main(disk: Disk) -> tuple[OperationLog, int]:
        refused = 0
        options = {"ports": ports(disk), "sync": "commit", "limits": SMALL_WAL, "durability": durability}
        async with open_engine(disk.path(), **options) as engine:
            session = await engine.create_session("s")
            log = disk.record()
            fault = disk.fail("sync", kind, nth=nth)
            for number in range(14):
                try:
                    disk.mark(
                        await session.append(MessageUpdated(f"m{number}", "user"), SessionNoted("n", "x" * 90 * number))
                    )
                except StorageIOError:
                    refused += 1
            assert fault.hits == 1
        return log, refused

    with Disk() as disk, disk.default():
        log, refused = trio.run(main, disk)
        assert "failed sync" in {record[0] for record in log.records}
        check = LogCheck("log.db", log.marks())
        report = crash_campaign(log, check, disk=disk, images_per_point=4, model=PowerModel(forgetful=forgetful))
    assert report.distinct > 200
    return refused, report


@pytest.mark.parametrize(("kind", "nth"), [("wal", 1), ("wal", 4), ("main", 2)])
@pytest.mark.parametrize("forgetful", [False, True], ids=["covered by the next", "never made good"])
def test_one_failed_sync_costs_nothing_that_was_acknowledged(kind: str, nth: int, forgetful: bool) -> None:
    """With durability="full", after EIO in a commit's or a checkpoint's sync, no later crash loses anything."""
    refused, report = after_a_failed_sync(kind, nth, durability="full", forgetful=forgetful)
    assert refused <= 1
    assert not report.wrong, report


def test_normal_durability_survives_a_failed_checkpoint_unless_the_device_forgets() -> None:
    """With durability="normal", EIO in a checkpoint's sync is harmless where a later sync covers the same writes.

    Where the device dropped them, a power failure in the next checkpoint breaks the file: the exception that `open_engine`
    names. Should this cease to be found, the exception can go.
    """
    _, report = after_a_failed_sync("wal", 2, durability="normal", forgetful=False)
    assert set(report.wrong) == {"lost"}, report
    _, report = after_a_failed_sync("wal", 2, durability="normal", forgetful=True)
    assert report.half_applied + report.corrupt > 0


def test_the_campaign_sees_a_disk_that_lies_about_syncs() -> None:
    """Syncs that do nothing lose what was acknowledged, and break the file where a checkpoint relied on them."""
    with Disk() as disk, disk.default():
        disk.fail("sync", how="lie", lasting=True)
        log = run(disk, "full")
        disk.heal()
        report = campaign(disk, log, distinct_max=900)
        assert report.lost > 0
        assert report.corrupt > 0


@pytest.mark.parametrize(
    ("damage", "verdict"),
    [
        ("DELETE FROM event WHERE position = (SELECT max(position) FROM event)", "half"),
        ("UPDATE stream SET head = head + 1 WHERE key = 1", "half"),
        ("UPDATE projection SET position = position - 1 WHERE name = 'usage'", "half"),
        ("PRAGMA writable_schema = on; DELETE FROM sqlite_schema WHERE name = 'event_by_seq'", "corrupt"),
    ],
)
def test_the_check_sees_each_kind_of_damage(damage: str, verdict: str) -> None:
    """A file that was meddled with after a good run is judged as what it is."""
    with Disk() as disk, disk.default():
        log = run(disk, "full")
        check = LogCheck("log.db", log.marks())
        assert check.judge(check.examine(disk), log.marks()) is None
        connection = apsw.Connection("log.db", vfs=disk.name)
        connection.execute(damage)
        connection.close()
        assert check.judge(check.examine(disk), log.marks()) == verdict


def test_the_check_tells_a_missing_tail_from_a_gap() -> None:
    """Events that are missing at the end are lost; missing before others that are there, a gap."""
    with Disk() as disk, disk.default():
        receipts = run(disk, "full").marks()
    check = LogCheck("log.db", receipts)
    positions = tuple(range(1, max(receipt.position for receipt in receipts) + 1))
    of = [tuple(event.position for event in receipt.events) for receipt in sorted(receipts, key=lambda r: r.position)]
    assert check.judge_found(LogFound(positions, None), receipts) is None
    without = {name: tuple(p for p in positions if p not in of[index]) for name, index in (("lost", -1), ("gap", 2))}
    assert check.judge_found(LogFound(without["lost"], None), receipts) == "lost"
    assert check.judge_found(LogFound(without["lost"], None), receipts[:3]) is None
    assert check.judge_found(LogFound(without["gap"], None), receipts[:1]) == "gap"
    assert check.judge_found(LogFound(positions[: positions.index(of[-1][-1])], None), receipts[:1]) == "half"
