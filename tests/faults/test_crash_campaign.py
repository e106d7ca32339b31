"""The whole engine over the simulated disk: every crash of a recorded run, recovered by SQLite and by the engine."""

from __future__ import annotations

from collections.abc import Callable

import apsw
import pytest
import trio

from engine import Engine, Limits, open_engine
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
    crash_campaign,
)
from tests.support.logs import examine

ROUNDS = 8
SMALL_WAL = Limits(wal_checkpoint_bytes=80_000)
"""Several checkpoints in one run, so that crashes fall into them too."""


class Counted:
    """Ids and a clock that are the same in every run."""

    def __init__(self) -> None:
        self.given = 0

    def new_id(self, prefix: str) -> str:
        self.given += 1
        return f"{prefix}_{self.given}"

    def new_epoch(self) -> str:
        self.given += 1
        return f"{self.given:012x}"

    def now_ms(self) -> int:
        self.given += 1
        return 1_700_000_000_000 + self.given


def ports(disk: Disk) -> Ports:
    counted = Counted()
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
