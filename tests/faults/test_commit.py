"""A COMMIT that fails: in its sync, on a constraint, or because SQLite undid the transaction before it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

from engine import Applied, Envelope, Limits, open_engine, projection
from engine.errors import (
    BrokenError,
    EngineError,
    OutcomeUnknownError,
    ProjectionFailedError,
    StorageError,
    StorageIOError,
)
from engine.events import MessageUpdated, SessionNoted
from engine.ports import Ports
from engine.projections import Recording
from engine.store import Tx
from tests.support.disk import failing_disk
from tests.support.logs import examine

ROOT = Path(__file__).parents[2]


def note(event_id: str, **data: str) -> Envelope:
    return Envelope(SessionNoted(f"note-{event_id}", "test", dict(data)), event_id)


# --- in its sync ----------------------------------------------------------------------------------


async def test_a_failed_sync_that_a_fence_rules_out_wrote_nothing(tmp_path: Path) -> None:
    """EIO in the sync of COMMIT: StorageIOError "nothing was written", the engine goes on, the event never comes back."""
    path = tmp_path / "log.db"
    with failing_disk() as disk:
        async with open_engine(path, ports=Ports(vfs=disk.name)) as engine:
            # given
            session = await engine.create_session("s")
            disk.fail("sync", "wal")
            # when
            with pytest.raises(StorageIOError) as caught:
                await session.append(note("refused"))
            # then
            assert str(caught.value) == "commit: io:  (SQLite code 1034); nothing was written"
            assert caught.value.__traceback__ is not None
            receipt = await session.append(note("next"))
            assert (receipt.seq, receipt.outcome) == (2, Applied())
            assert engine.statistics().writer.state == "open"
        seen = examine(path, disk.name)
    assert [event_id for _, _, event_id in seen.types][1:] == ["next"]


@pytest.mark.parametrize("mode", ["fenced", "unknown"])
def test_a_refused_commit_stays_refused_when_the_process_dies_with_the_answer(tmp_path: Path, mode: str) -> None:
    """kill -9 right after the answer: what was called not written is not there; what is unknown may be, whole."""
    path = tmp_path / "log.db"
    # when
    child = subprocess.run(
        [sys.executable, "-m", "tests.support.last_words", str(path), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=20,
        check=False,
    )
    # then
    assert child.returncode == -signal.SIGKILL
    seen = examine(path)
    assert ("s", "kept") in seen.places
    if mode == "fenced":
        assert child.stdout.decode() == "StorageIOError nothing\n"
        assert ("s", "doubtful-1") not in seen.places
        assert ("s", "doubtful-2") not in seen.places
    else:
        assert child.stdout.decode() == "OutcomeUnknownError unknown\n"
        assert (("s", "doubtful-1") in seen.places) == (("s", "doubtful-2") in seen.places)


async def test_a_failed_sync_that_no_fence_rules_out_stops_all_writing(tmp_path: Path) -> None:
    """The fence fails too: OutcomeUnknownError, then BrokenError for every write of every session; reads go on."""
    path = tmp_path / "log.db"
    with failing_disk() as disk:
        async with open_engine(path, ports=Ports(vfs=disk.name)) as engine:
            # given
            session = await engine.create_session("s")
            disk.fail("sync", "wal", lasting=True)
            # when
            with pytest.raises(OutcomeUnknownError) as caught:
                await session.append(note("doubtful"))
            disk.heal()
            # then
            assert str(caught.value).endswith("; whether it was written is unknown until the file is opened again")
            await trio.testing.wait_all_tasks_blocked()
            for write in (session.append(note("later")), session.post(note("posted")), session.flush()):
                with pytest.raises(BrokenError):
                    await write
            with pytest.raises(BrokenError):
                await engine.create_session("another")
            assert [view.session_id for view in (await engine.read.sessions()).items] == ["s"]
            assert (await engine.session("s")).incarnation == 1
            assert engine.statistics().writer.state == "broken"
        # then
        async with open_engine(path, ports=Ports(vfs=disk.name)) as engine:
            session = await engine.session("s")
            again = await session.append(note("doubtful"))
            assert again.seq == 2
        seen = examine(path, disk.name)
    assert [event_id for _, _, event_id in seen.types][1:] == ["doubtful"]


async def test_everyone_in_a_batch_whose_outcome_is_unknown_is_told_so(tmp_path: Path) -> None:
    """Each caller gets an exception of its own; a post's failure comes with the next call."""
    with failing_disk() as disk:
        async with open_engine(tmp_path / "log.db", ports=Ports(vfs=disk.name)) as engine:
            # given
            sessions = [await engine.create_session(f"s{number}") for number in range(3)]
            poster = await engine.create_session("poster")
            disk.fail("sync", "wal", lasting=True)
            errors: list[EngineError] = []

            async def append(number: int) -> None:
                try:
                    await sessions[number].append(note("x"))
                except EngineError as error:
                    errors.append(error)

            # when
            async with trio.open_nursery() as nursery:
                await poster.post(note("posted"))
                for number in range(3):
                    nursery.start_soon(append, number)
            disk.heal()
            # then
            assert [type(error) for error in errors] == [OutcomeUnknownError] * 3
            assert len({id(error) for error in errors}) == 3
            with pytest.raises(OutcomeUnknownError):
                await poster.flush()


# --- on a constraint, or undone by SQLite ---------------------------------------------------------


def install(path: Path, *statements: str) -> None:
    """What another program does to the file."""
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()


DEFERRED = (
    "CREATE TABLE foreign_parent(id INTEGER PRIMARY KEY)",
    "CREATE TABLE foreign_child(parent REFERENCES foreign_parent(id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TRIGGER foreign_trigger AFTER INSERT ON event WHEN NEW.data LIKE '%poison%' "
    "BEGIN INSERT INTO foreign_child VALUES(99); END",
)
ROLLING_BACK = (
    "CREATE TRIGGER foreign_trigger AFTER INSERT ON event WHEN NEW.data LIKE '%poison%' "
    "BEGIN SELECT RAISE(ROLLBACK, 'poisoned'); END",
)
ROLLED_BACK = (
    "write a batch: SQLite undid all of it after: append to 'b': constraint: poisoned (SQLite code 1811); "
    "nothing was written"
)


async def append_together(path: Path, *, projections: tuple[type, ...] = ()) -> dict[str, object]:
    """Four sessions append in one batch, the second poison; then one more append. What each was told."""
    told: dict[str, object] = {}
    async with open_engine(path, projections=projections) as engine:
        sessions = {name: await engine.create_session(name) for name in "abcd"}

        async def append(name: str) -> None:
            try:
                receipt = await sessions[name].append(note("1", text="poison" if name == "b" else "fine"))
                told[name] = receipt.seq
            except EngineError as error:
                told[name] = error

        await trio.testing.wait_all_tasks_blocked()
        batches = engine.statistics().writer.batches
        async with trio.open_nursery() as nursery:
            for name in sessions:
                nursery.start_soon(append, name)
        told["batches"] = engine.statistics().writer.batches - batches
        told["after"] = (await sessions["a"].append(note("2"))).seq
    return told


async def test_a_constraint_that_only_commit_checks_fails_its_own_command_alone(tmp_path: Path) -> None:
    """A deferred foreign key of another program: one command is refused, the others of its batch commit."""
    path = tmp_path / "log.db"
    # given
    async with open_engine(path):
        pass
    install(path, *DEFERRED)
    # when
    told = await append_together(path)
    # then
    assert str(told["b"]) == "commit: constraint: FOREIGN KEY constraint failed (SQLite code 787); nothing was written"
    assert (told["a"], told["c"], told["d"], told["after"]) == (2, 2, 2, 3)
    assert sorted(session for session, _, event_id in examine(path).types if event_id == "1") == ["a", "c", "d"]


async def test_a_lone_command_that_fails_at_commit_is_refused_and_the_writer_goes_on(tmp_path: Path) -> None:
    """The same with nobody else in the batch."""
    path = tmp_path / "log.db"
    async with open_engine(path):
        pass
    install(path, *DEFERRED)
    async with open_engine(path) as engine:
        session = await engine.create_session("s")
        with pytest.raises(StorageError) as caught:
            await session.append(note("1", text="poison"))
        assert caught.value.written == "nothing"
        assert (await session.append(note("2"))).seq == 2


async def test_a_full_rollback_in_mid_batch_fails_every_command_of_the_batch(tmp_path: Path) -> None:
    """RAISE(ROLLBACK) undoes what others did in the batch, so all are told "nothing was written", and the writer goes on."""
    path = tmp_path / "log.db"
    # given
    async with open_engine(path):
        pass
    install(path, *ROLLING_BACK)
    # when
    told = await append_together(path)
    # then
    for name in "abcd":
        assert isinstance(told[name], StorageError)
        assert str(told[name]) == ROLLED_BACK
    assert told["after"] == 2
    assert [event_id for _, _, event_id in examine(path).types][4:] == ["2"]


@projection("tally", version=1, tables={"tally": "session_id TEXT NOT NULL, note_id TEXT NOT NULL"})
class Tally:
    """A user's projection: a row for every note."""

    def noted(self, tx: Tx, event: SessionNoted, recorded: Recording) -> None:
        tx.execute("INSERT INTO {tally} VALUES(?, ?)", (recorded.session_id, event.note_id))


@projection("swallowing", version=1, tables={"swallowing": "session_id TEXT NOT NULL, note_id TEXT NOT NULL"})
class Swallowing:
    """A user's projection that hides what its statements raise."""

    def noted(self, tx: Tx, event: SessionNoted, recorded: Recording) -> None:
        try:
            tx.execute("INSERT INTO {swallowing} VALUES(?, ?)", (recorded.session_id, event.note_id))
        except apsw.Error:
            pass


@pytest.mark.parametrize("kind", [Tally, Swallowing])
async def test_a_rollback_in_a_users_table_fails_the_batch_and_not_the_writer(tmp_path: Path, kind: type) -> None:
    """A trigger on the user's own table rolls back: nobody is told that it was written, even if the handler hid it."""
    path, table = tmp_path / "log.db", kind.__name__.lower()
    # given
    async with open_engine(path, projections=[kind]):
        pass
    install(
        path,
        f"CREATE TRIGGER foreign_trigger BEFORE INSERT ON {table} WHEN NEW.session_id = 'b' "
        "BEGIN SELECT RAISE(ROLLBACK, 'not in my table'); END",
    )
    # when
    told = await append_together(path, projections=(kind,))
    # then
    for name in "abcd":
        error = told[name]
        assert isinstance(error, StorageError | ProjectionFailedError)
        assert error.written == "nothing"
        assert kind is Swallowing or "not in my table" in str(error)
    assert told["after"] == 2
    connection = apsw.Connection(str(path))
    assert connection.execute(f"SELECT session_id, note_id FROM {table}").fetchall() == [("a", "note-2")]
    connection.close()


# --- behind it ------------------------------------------------------------------------------------


async def test_a_failing_checkpoint_fails_no_append_and_is_counted(tmp_path: Path) -> None:
    """EIO on the main file is the checkpoint's: appends are acknowledged, durable in the WAL, and there after a reopen."""
    path = tmp_path / "log.db"
    with failing_disk() as disk:
        limits = Limits(wal_checkpoint_bytes=20_000)
        async with open_engine(path, ports=Ports(vfs=disk.name), limits=limits) as engine:
            # given
            session = await engine.create_session("s")
            await session.append(MessageUpdated("m", "user"))
            disk.fail("write", "main", lasting=True)
            # when
            for number in range(20):
                await session.append(note(f"n{number}", text="x" * 2_000))
            # then
            statistics = engine.statistics().writer
            assert statistics.checkpoints_failed > 1
            assert statistics.wal_bytes > limits.wal_checkpoint_bytes
            # when the disk is well again
            disk.heal()
            failed = statistics.checkpoints_failed
            for number in range(20, 40):
                await session.append(note(f"n{number}", text="x" * 2_000))
            assert engine.statistics().writer.checkpoints_failed == failed
            disk.fail("write", "main", lasting=True)
        disk.heal()
        seen = examine(path, disk.name)
    assert len(seen.places) == 42
