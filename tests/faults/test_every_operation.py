"""A fault at every operation of the disk, one run each: n = 1, 2, 3 ... until the run meets no fault any more.

The first part of a run begins a new log, the second goes on with one that a killed process left unfinished. Each run ends
like a kill: the file is looked at as the disk has it before the engine closes, and once more after it closed.
FAULTS_EVERY=1 in the environment takes every n where a plain run takes every tenth or sixteenth.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
import trio

from engine import EngineError, Limits, open_engine
from engine.ports import Ports
from tests.support.disk import Disk, failing_disk
from tests.support.logs import examine
from tests.support.walk import Book, Walk

EVERY = int(os.environ.get("FAULTS_EVERY", "0"))
LIMITS = Limits(
    wal_checkpoint_bytes=100_000, settle_s=1, settle_retry_s=0.005, shutdown_s=1, busy_retry_s=0.02, busy_pause_s=0.005
)
EACH = [
    *((operation, kind) for operation in ("open", "read", "sync", "truncate", "lock") for kind in ("main", "wal", "owner")),
    ("delete", "wal"),
    ("delete", "journal"),
    ("sync", "journal"),
    ("write", "journal"),
    ("write", "main"),
    ("write", "owner"),
]
"""What there is little of: every single one fails once. Writes to the WAL are many and alike: the modes below take them."""
MANY = {("read", "wal"): 20, ("write", "main"): 10}
"""Hundreds of a run that are alike: every so many of them."""
MODES = [("eio", False, 10), ("eio", True, 16), ("full", False, 16), ("full", True, 16), ("short", False, 16)]


@pytest.fixture(autouse=True)
def quiet() -> object:
    """Thousands of refusals are logged here on purpose."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def take_copy(path: Path, copy: Path) -> None:
    """The database and its WAL as they are now: what a kill would leave."""
    for suffix in ("", "-wal"):
        if os.path.exists(f"{path}{suffix}"):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")


async def walk_once(path: Path, copy: Path, disk: Disk, book: Book, name: str) -> None:
    with trio.fail_after(10):
        try:
            async with open_engine(path, ports=Ports(vfs=disk.name), limits=LIMITS) as engine:
                await Walk(book, name).run(engine)
                take_copy(path, copy)
        except EngineError as error:
            book.errors.append(error)


async def make_unfinished(folder: Path) -> tuple[Path, Book]:
    """A log as a killed process leaves it: a message streaming, a WAL not checkpointed."""
    path, kept, book = folder / "first.db", folder / "unfinished.db", Book()
    async with open_engine(path) as engine:
        await Walk(book, "before").run(engine)
        session = await engine.create_session("ses-open")
        async with session.turn() as turn, turn.message() as message:
            await message.text("never finished")
            await message.tool(call_id="c", name="bash", state="running")
            take_copy(path, kept)
    return kept, book


@pytest.mark.parametrize(("how", "lasting", "every"), MODES)
@pytest.mark.parametrize("start", ["new", "unfinished"])
async def test_a_fault_at_any_operation_loses_and_invents_nothing(
    tmp_path: Path, start: str, how: str, lasting: bool, every: int
) -> None:
    """Whatever operation fails: typed errors only, no hang, what was acknowledged stays, what was refused is not there."""
    met = await enumerate_faults(tmp_path, start, None, None, how, lasting, EVERY or every)
    assert met > 10


@pytest.mark.parametrize("start", ["new", "unfinished"])
async def test_a_fault_at_each_rare_operation_loses_and_invents_nothing(tmp_path: Path, start: str) -> None:
    """The same for every open, read, sync, truncate, delete and lock, and every write beside the WAL, one after another."""
    met = {}
    for operation, kind in EACH:
        folder = tmp_path / f"{operation}-{kind}"
        folder.mkdir()
        met[operation, kind] = await enumerate_faults(
            folder, start, operation, kind, "eio", False, EVERY or MANY.get((operation, kind), 1)
        )
    assert met["sync", "wal"] > 10
    assert met["sync", "main"] > 0
    assert met["write", "main"] > 1
    assert met["delete", "wal"] > 0


async def enumerate_faults(
    tmp_path: Path, start: str, operation: str | None, kind: str | None, how: str, lasting: bool, every: int
) -> int:
    """Run until a run meets no fault; returns how many did."""
    kept, before = await make_unfinished(tmp_path)
    nth = 1
    while True:
        folder = tmp_path / f"run-{nth}"
        folder.mkdir()
        path, copy = folder / "log.db", folder / "copy.db"
        book = Book()
        if start == "unfinished":
            take_copy(kept, path)
            book.acknowledged += before.acknowledged
            book.groups += before.groups
        with failing_disk() as disk:
            # given
            disk.syncs_really = False
            fault = disk.fail(operation, kind, nth=nth, how=how, lasting=lasting)
            # when
            await walk_once(path, copy, disk, book, "walk")
            struck = disk.struck[:1]
            disk.heal()
            # then
            try:
                if copy.exists():
                    book.check(examine(copy, disk.name))
                book.check(examine(path, disk.name))
            except BaseException as problem:
                problem.add_note(f"fault {nth} of {operation} {kind}: {how} in {struck}")
                raise
        shutil.rmtree(folder)
        if not fault.hits:
            assert book.errors == []
            return nth // every
        nth += every
