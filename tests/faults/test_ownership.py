"""Who may open a log: one process, one engine, this side of a fork; and only a file that is a log."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
import trio

from engine import Limits, open_engine
from engine.errors import (
    ForkedError,
    InvalidArgumentError,
    NotADatabaseError,
    OwnedError,
    SchemaTooNewError,
    StorageBusyError,
    StorageError,
    StorageFullError,
    StorageIOError,
)
from engine.events import SessionNoted
from engine.ports import Ports
from engine.store.owner import Ownership
from tests.support.disk import failing_disk
from tests.support.logs import examine

ROOT = Path(__file__).parents[2]
OPEN = """
import sys, trio
from engine import open_engine
async def main():
    async with open_engine(sys.argv[1]):
        pass
trio.run(main)
"""


@contextmanager
def owned_by_another_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process has the log open with an engine. It lives until it is killed."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.victim", str(path), "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline().startswith(b"[")
        yield child
    finally:
        child.kill()
        child.wait(10)
        child.stdout.close()


async def refuse(path: str | Path, kind: type[Exception]) -> str:
    """What opening says when it is refused."""
    with pytest.raises(kind) as caught:
        async with open_engine(path, limits=Limits(busy_retry_s=0.1)):
            pass
    return str(caught.value)


# --- one owner ------------------------------------------------------------------------------------


async def test_a_second_process_is_refused_with_the_owners_pid_until_the_owner_is_killed(tmp_path: Path) -> None:
    """The message names the owner; after kill -9 of it the next open just works, with everything it acknowledged."""
    path = tmp_path / "log.db"
    with owned_by_another_process(path) as owner:
        # when
        with pytest.raises(OwnedError) as caught:
            async with open_engine(path):
                pass
        # then
        assert caught.value.pid == owner.pid
        assert str(caught.value) == f"open {path}: it is owned by process {owner.pid}; nothing was written"
        # when
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
    async with open_engine(path) as engine:
        # then
        assert len((await engine.read.sessions()).items) > 0
    examine(path)


async def test_a_second_engine_in_the_same_process_is_refused(tmp_path: Path) -> None:
    """Also by a relative path, by a link to the file and by a link to its folder; the first engine goes on."""
    path = tmp_path / "log.db"
    async with open_engine(path) as engine:
        session = await engine.create_session("s")
        # given
        (tmp_path / "link.db").symlink_to(path)
        (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
        # when
        relative = os.path.relpath(path)  # noqa: ASYNC240
        for name in (path, relative, tmp_path / "link.db", tmp_path / "folder" / "log.db"):
            with pytest.raises(OwnedError) as caught:
                async with open_engine(name):
                    pass
            # then
            assert str(caught.value) == f"open {name}: it is owned by this process; nothing was written"
            assert caught.value.pid == os.getpid()
        assert (await session.append(SessionNoted("n", "test"))).seq == 2
    async with open_engine(path) as engine:
        assert (await engine.session("s")).incarnation == 1


async def test_a_refused_open_leaves_the_owner_its_locks(tmp_path: Path) -> None:
    """After a refusal in the owner's process, other processes are still refused (POSIX locks go with any closed handle)."""
    path = tmp_path / "log.db"
    async with open_engine(path):
        await refuse(path, OwnedError)
        child = await trio.run_process(
            [sys.executable, "-c", OPEN, str(path)],
            capture_stderr=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert child.returncode == 1
    assert f"OwnedError: open {path}: it is owned by process {os.getpid()}; nothing was written" in child.stderr.decode()


def make_dead_owner(path: Path) -> None:
    """Let the side file tell a pid that is nobody's any more."""
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True)
    connection = apsw.Connection(f"{path}-owner")
    connection.pragma("user_version", int(child.stdout))
    connection.close()


async def test_a_full_disk_that_kept_the_owners_pid_from_being_told_names_nobody_wrong(tmp_path: Path) -> None:
    """The lock is held all the same, a dead owner's pid is not given for the living one's, and it is told later."""
    path = tmp_path / "log.db"
    async with open_engine(path):
        pass
    make_dead_owner(path)
    with failing_disk() as disk:
        # given
        disk.fail("write", "owner", how="full", lasting=True)
        disk.budget_bytes = 0
        async with open_engine(path, ports=Ports(vfs=disk.name)) as engine:
            # then
            assert await refuse(path, OwnedError) == f"open {path}: it is owned by a live process; nothing was written"
            with pytest.raises(StorageFullError):
                await engine.create_session("s")
            # when
            disk.heal()
            await engine.create_session("s")
            # then
            assert await refuse(path, OwnedError) == f"open {path}: it is owned by this process; nothing was written"


# --- this side of a fork --------------------------------------------------------------------------


def in_forked_child(check: object) -> int:
    """Run a function in a forked child that never returns into the caller's loop; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 2  # type: ignore[operator]
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def refused(call: object) -> bool:
    """Whether the first step of an async call raises ForkedError."""
    try:
        call().send(None)  # type: ignore[operator]
    except ForkedError as error:
        return "use an engine across fork" in str(error)
    return False


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_handles_used_after_a_fork_are_refused_in_the_child(tmp_path: Path) -> None:
    """Every door of the engine says ForkedError in the child; the parent goes on with what it posted."""
    async with open_engine(tmp_path / "log.db") as engine:
        # given
        session = await engine.create_session("s")
        await session.post(SessionNoted("posted before the fork", "test"))
        calls = {
            "append": lambda: session.append(SessionNoted("n", "test")),
            "post": lambda: session.post(SessionNoted("n", "test")),
            "flush": session.flush,
            "create": lambda: engine.create_session("t"),
            "session": lambda: engine.session("s"),
            "sweep": engine.sweep,
        }
        # when
        found = {name: in_forked_child(lambda call=call: refused(call)) for name, call in calls.items()}
        # then
        assert found == dict.fromkeys(calls, 0)

        def log_refused() -> bool:
            try:
                engine.log()
            except ForkedError:
                return True
            return False

        assert in_forked_child(log_refused) == 0
        await session.flush()
        assert (await session.append(SessionNoted("n", "test"))).seq == 3


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_child_that_leaves_the_engines_block_takes_nothing_from_the_parent(tmp_path: Path) -> None:
    """Closing in the child closes no connection: the parent's locks and WAL stay, and it goes on."""
    path = tmp_path / "log.db"
    async with open_engine(path) as engine:
        session = await engine.create_session("s")
        files = engine._core.files

        def leave() -> bool:
            files.close()
            return bool(files.log.connection.execute("SELECT 1").get == 1)

        # when
        assert in_forked_child(leave) == 0
        # then
        assert (await session.append(SessionNoted("n", "test"))).seq == 2
        assert f"{path.name}-wal" in os.listdir(tmp_path)
        await refuse(path, OwnedError)


# --- only a log -----------------------------------------------------------------------------------


def make_text(path: Path) -> None:
    path.write_bytes(b"Dear diary,\n" * 500)


def make_other_program(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes(name TEXT)")
    connection.commit()
    connection.close()


def make_other_application(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 4242")
    connection.commit()
    connection.close()


async def make_newer(path: Path) -> None:
    async with open_engine(path):
        pass
    connection = apsw.Connection(str(path))
    connection.execute("INSERT INTO migration VALUES(99, 'from the future', 0)")
    connection.close()


REFUSED = [
    (make_text, NotADatabaseError, "open {path}: notadb: file is not a database (SQLite code 26); nothing was written"),
    (make_other_program, NotADatabaseError, "open {path}: it is a SQLite database of another program; nothing was written"),
    (
        make_other_application,
        NotADatabaseError,
        "open {path}: it is a SQLite database of another program; nothing was written",
    ),
]


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED)
async def test_a_file_that_is_no_log_is_refused_and_not_touched(
    tmp_path: Path, make: object, kind: type[StorageError], message: str
) -> None:
    """The error says what the file is, and its bytes stay as they were."""
    path = tmp_path / "file"
    # given
    make(path)  # type: ignore[operator]
    before = path.read_bytes()
    # when
    said = await refuse(path, kind)
    # then
    assert said == message.format(path=path)
    assert path.read_bytes() == before
    assert f"{path.name}-wal" not in os.listdir(tmp_path)


async def test_a_newer_schema_is_refused_with_both_versions_and_not_touched(tmp_path: Path) -> None:
    """The error names the version found and the one known."""
    path = tmp_path / "log.db"
    await make_newer(path)
    before = path.read_bytes()
    # when
    with pytest.raises(SchemaTooNewError) as caught:
        async with open_engine(path):
            pass
    # then
    assert (caught.value.found, caught.value.supported) == (99, 1)
    assert str(caught.value) == f"open {path}: its schema has version 99, this code knows 1; nothing was written"
    assert path.read_bytes() == before


async def test_a_directory_and_a_missing_folder_are_refused_and_leave_nothing_behind(tmp_path: Path) -> None:
    """Each with an error that says which, and no side file."""
    folder = tmp_path / "folder"
    folder.mkdir()
    missing = tmp_path / "nowhere" / "log.db"
    # then
    assert await refuse(folder, NotADatabaseError) == f"open {folder}: it is a directory; nothing was written"
    assert (
        await refuse(missing, StorageIOError)
        == f"open {missing}: the directory {missing.parent} does not exist; nothing was written"
    )
    assert os.listdir(tmp_path) == ["folder"]


async def test_a_path_that_names_no_file_is_refused(tmp_path: Path) -> None:
    """Memory, URIs, nothing and NUL are not files."""
    for path in ("", ":memory:", "file:x.db", "a\0b"):
        await refuse(path, InvalidArgumentError)


async def test_an_empty_file_becomes_a_new_log(tmp_path: Path) -> None:
    """0 bytes are a log that holds nothing yet."""
    path = tmp_path / "log.db"
    path.touch()
    async with open_engine(path) as engine:
        await engine.create_session("s")
    assert len(examine(path).places) == 1


async def test_opening_a_log_that_somebody_holds_locked_is_busy_and_not_a_hang(tmp_path: Path) -> None:
    """A foreign write transaction at open gives StorageBusyError, and the next open works."""
    path = tmp_path / "log.db"
    async with open_engine(path):
        pass
    foreign = apsw.Connection(str(path))
    foreign.execute("BEGIN IMMEDIATE")
    with trio.fail_after(5):
        await refuse(path, StorageBusyError)
    foreign.execute("ROLLBACK")
    foreign.close()
    async with open_engine(path) as engine:
        await engine.create_session("s")


@pytest.mark.parametrize(
    "content",
    [b"\0" * 512, b"\0" * 100, b"x", b"SQLite format 3\0" + bytes(range(1, 249)) * 2, bytes(range(256)) * 16],
    ids=["zeros", "short", "one byte", "garbage behind the header", "longer garbage"],
)
def test_a_power_failure_in_the_side_file_keeps_nobody_out(tmp_path, content):
    """Whatever stands in the side file that no live owner holds, the next owner takes it, and is found to be the owner."""
    path = tmp_path / "log.db"
    (tmp_path / "log.db-owner").write_bytes(content)
    owner = Ownership(str(path))
    try:
        with pytest.raises(OwnedError, match="this process"):
            Ownership(str(path))
    finally:
        owner.close()
