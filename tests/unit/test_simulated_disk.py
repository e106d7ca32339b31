"""The simulated disk as a SQLite VFS: files, locks, faults, crashes, images, time and randomness."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import apsw
import pytest

from engine import open_engine
from engine.errors import OwnedError
from engine.ports import Ports
from engine.simulation.disk import WAYS, Disk, Image


@pytest.fixture
def disk() -> Iterator[Disk]:
    with Disk() as disk:
        yield disk


def connect(disk: Disk, name: str = "log.db", journal: str = "wal") -> apsw.Connection:
    connection = apsw.Connection(name, vfs=disk.name)
    connection.pragma("journal_mode", journal)
    return connection


def table(disk: Disk, journal: str = "wal", rows: int = 1) -> apsw.Connection:
    connection = connect(disk, journal=journal)
    connection.execute("CREATE TABLE t(x)")
    for number in range(rows):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
    return connection


def count(connection: apsw.Connection) -> object:
    return connection.execute("SELECT count(*) FROM t").get


# --- files and locks ------------------------------------------------------------------------------


def test_nothing_but_empty_placeholders_is_on_the_machine(disk: Disk) -> None:
    """What is written stays in memory, and the placeholders go when the disk is closed."""
    connection = table(disk)
    assert disk.snapshot().size_bytes > 0
    assert [os.path.getsize(disk.path(name)) for name in os.listdir(disk.directory)] == [0]
    connection.close()
    disk.close()
    assert not os.path.exists(disk.directory)
    assert disk.name not in apsw.vfs_names()


def test_two_disks_know_nothing_of_each_other(disk: Disk) -> None:
    """The same name on two disks is two files."""
    with Disk() as other:
        first, second = table(disk, rows=1), table(other, rows=2)
        assert (count(first), count(second)) == (1, 2)
        first.close()
        second.close()


def test_a_path_below_the_disk_and_its_short_name_are_one_file(disk: Disk) -> None:
    """An engine's full path and a bare name lead to the same database."""
    first = table(disk)
    second = apsw.Connection(disk.path("log.db"), vfs=disk.name)
    assert count(second) == 1
    first.close()
    second.close()


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_connections_share_a_database_and_its_locks(disk: Disk, journal: str) -> None:
    """A reader keeps its snapshot while a writer commits (WAL); a second writer is told to wait."""
    writer, reader = table(disk, journal), apsw.Connection("log.db", vfs=disk.name, flags=apsw.SQLITE_OPEN_READONLY)
    rival = apsw.Connection("log.db", vfs=disk.name)
    writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES(9)")
    with pytest.raises(apsw.BusyError):
        rival.execute("BEGIN IMMEDIATE")
    if journal == "wal":
        reader.execute("BEGIN")
        assert count(reader) == 1
    writer.execute("COMMIT")
    if journal == "wal":
        assert count(reader) == 1
        reader.execute("COMMIT")
    assert count(reader) == 2
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("INSERT INTO t VALUES(1)")
    for connection in (writer, reader, rival):
        connection.close()


def test_two_databases_of_one_disk_never_share_a_lock(disk: Disk) -> None:
    """Closing one of a database's connections leaves its locks its own: another database does not get them."""
    first, second = table(disk, "delete"), apsw.Connection("log.db", vfs=disk.name)
    second.execute("SELECT * FROM t").fetchall()
    second.close()
    first.execute("BEGIN EXCLUSIVE")
    other = connect(disk, "other.db", "delete")
    other.execute("BEGIN EXCLUSIVE")
    for connection in (first, other):
        connection.close()


def test_an_empty_file_counts_as_none(disk: Disk) -> None:
    """As with SQLite's own VFS: an empty journal does not exist when SQLite asks whether it does."""
    disk.restore(Image({"empty": b"", "full": b"x"}))
    asked = [disk.xAccess(name, apsw.SQLITE_ACCESS_EXISTS) for name in ("empty", "full", "none")]
    assert asked == [False, True, False]
    assert disk.xAccess("empty", apsw.SQLITE_ACCESS_READWRITE)


async def test_an_engine_works_on_it_and_owns_its_file(disk: Disk) -> None:
    """Writer, reader and ownership lock are those of a real disk."""
    ports = Ports(vfs=disk.name)
    async with open_engine(disk.path(), ports=ports, sync="commit") as engine:
        await engine.create_session("s")
        assert [view.session_id for view in (await engine.read.sessions()).items] == ["s"]
        with pytest.raises(OwnedError):
            async with open_engine(disk.path(), ports=ports, sync="commit"):
                raise AssertionError("two owners")
    async with open_engine(disk.path(), ports=ports, sync="commit") as engine:
        assert (await engine.session("s")).incarnation == 1


def test_a_missing_database_is_not_made_by_a_reader(disk: Disk) -> None:
    """Opening to read what is not there fails and creates nothing."""
    with pytest.raises(apsw.CantOpenError):
        apsw.Connection("log.db", vfs=disk.name, flags=apsw.SQLITE_OPEN_READONLY)
    assert len(disk.snapshot()) == 0


def test_temporary_files_are_on_no_image(disk: Disk) -> None:
    """Sorting beyond the cache uses files without a name; they work and leave nothing."""
    connection = connect(disk, journal="delete")
    connection.pragma("temp_store", "file")
    connection.pragma("cache_size", 10)
    connection.execute("CREATE TEMP TABLE big(x, y)")
    connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
        "INSERT INTO big SELECT i * 7919 % 3000, hex(zeroblob(100)) FROM n"
    )
    assert connection.execute("SELECT x FROM big ORDER BY x LIMIT 1").get == 0
    assert set(disk.snapshot()) <= {"log.db"}
    connection.close()


# --- images ---------------------------------------------------------------------------------------


def test_restore_brings_back_exactly_what_was_there(disk: Disk) -> None:
    """Changed, new and deleted files are all as they were; images with equal content are equal."""
    connection = table(disk, rows=3)
    image = disk.snapshot()
    connection.execute("INSERT INTO t VALUES(9)")
    connect(disk, "other.db", "delete").close()
    connection.close()
    assert disk.snapshot() != image
    disk.restore(image)
    assert disk.snapshot() == image
    assert disk.snapshot().digest == image.digest
    connection = connect(disk)
    assert count(connection) == 3
    connection.close()


def test_an_image_does_not_change_with_the_disk(disk: Disk) -> None:
    """Writing on, also into a restored file, leaves the image as it was taken."""
    table(disk).close()
    image = disk.snapshot()
    digest, content = image.digest, image["log.db"]
    for _ in range(2):
        disk.restore(image)
        connection = connect(disk)
        connection.execute("INSERT INTO t VALUES(1)")
        connection.close()
    assert (Image({name: image[name] for name in image}).digest, image["log.db"]) == (digest, content)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": b"x"}, {"a": b"y"}),
        ({"a": b"x"}, {"b": b"x"}),
        ({"a": b"x", "b": b""}, {"a": b"x"}),
        ({"a": b"xy", "b": b"z"}, {"a": b"x", "b": b"yz"}),
    ],
)
def test_a_digest_tells_names_and_contents_apart(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    """No two of these have the same digest; the order in which files are named plays no part."""
    assert Image(one).digest != Image(other).digest
    assert Image(one).digest == Image(dict(reversed(one.items()))).digest


# --- crashes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_the_dead_change_nothing(disk: Disk, journal: str) -> None:
    """After a crash each write of a connection that was open fails, and closing it leaves the disk as it was."""
    connection = table(disk, journal)
    image = disk.snapshot()
    disk.crash()
    assert count(connection) == 1
    with pytest.raises((apsw.IOError, apsw.CantOpenError)):
        connection.execute("INSERT INTO t VALUES(2)")
    with pytest.raises(apsw.CantOpenError):
        connect(disk, "another.db")
    bury(connection)
    assert disk.snapshot() == image


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_the_next_process_does_not_meet_the_locks_of_the_dead(disk: Disk, journal: str) -> None:
    """A transaction that was open at the crash is undone by the next one, while the dead connection still exists."""
    dead = table(disk, journal)
    dead.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES(2)")
    disk.crash()
    disk.restart()
    living = connect(disk, journal=journal)
    living.execute("INSERT INTO t VALUES(3)")
    with pytest.raises((apsw.IOError, apsw.CantOpenError)):
        dead.execute("INSERT INTO t VALUES(4); COMMIT")
    bury(dead)
    assert living.execute("SELECT x FROM t").fetchall() == [(0,), (3,)]
    assert living.pragma("integrity_check") == "ok"
    living.close()


def test_the_index_of_a_wal_does_not_outlive_a_crash(disk: Disk) -> None:
    """A restored image with a shorter WAL is read by its own content, not by the memory the dead shared."""
    writer, reader = table(disk, rows=1), apsw.Connection("log.db", vfs=disk.name)
    image = disk.snapshot()
    for number in range(5):
        writer.execute("INSERT INTO t VALUES(?)", (number,))
    assert count(reader) == 6
    disk.restore(image)
    fresh = connect(disk)
    assert count(fresh) == 1
    bury(writer, reader)
    fresh.close()


def test_a_restored_disk_is_not_in_the_way_of_the_next(disk: Disk) -> None:
    """A thousand restores with connections left open to the dead end with few placeholders and no lock."""
    table(disk).close()
    image = disk.snapshot()
    dead = []
    for number in range(1_000):
        disk.restore(image)
        connection = apsw.Connection("log.db", vfs=disk.name)
        connection.execute("INSERT INTO t VALUES(1)")
        if number % 100:
            connection.close()
        else:
            dead.append(connection)
    assert len(os.listdir(disk.directory)) < 20
    bury(*dead)


def bury(*dead: apsw.Connection) -> None:
    """Close what a crash left open; the checkpoint that comes with it fails."""
    for connection in dead:
        with suppress(apsw.IOError):
            connection.close()


def use(disk: Disk) -> None:
    """Every operation on every kind of file."""
    connection = connect(disk)
    connection.execute("INSERT INTO t VALUES(5)")
    connection.pragma("wal_checkpoint", "truncate")
    connection.pragma("journal_mode", "delete")


def fill(connection: apsw.Connection) -> None:
    for _ in range(10):
        connection.execute("INSERT INTO t VALUES(zeroblob(3000))")


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "kind", "how", "expected"),
    [
        ("open", "wal", "eio", apsw.CantOpenError),
        ("open", "wal", "cantopen", apsw.CantOpenError),
        ("open", "wal", "full", apsw.FullError),
        ("read", "main", "eio", apsw.IOError),
        ("write", "wal", "eio", apsw.IOError),
        ("write", "wal", "full", apsw.FullError),
        ("write", "wal", "short", apsw.FullError),
        ("sync", "wal", "eio", apsw.IOError),
        ("sync", "main", "eio", apsw.IOError),
        ("truncate", "wal", "eio", apsw.IOError),
        ("delete", "wal", "eio", apsw.IOError),
        ("lock", "main", "busy", apsw.BusyError),
        ("lock", "main", "eio", apsw.IOError),
    ],
)
def test_each_fault_is_seen_once_and_nothing_is_lost(
    disk: Disk, operation: str, kind: str, how: str, expected: type[apsw.Error]
) -> None:
    """SQLite sees the fault's own error; with the fault gone, everything committed before is there and the file sound."""
    table(disk, rows=2).close()
    fault = disk.fail(operation, kind, how=how)
    with pytest.raises(expected):
        use(disk)
    assert (fault.hits, disk.struck) == (1, [(operation, kind, how)])
    disk.heal()
    disk.restore(disk.snapshot())
    connection = connect(disk)
    assert count(connection) in (2, 3)
    assert connection.pragma("integrity_check") == "ok"
    connection.close()


def test_a_short_read_is_that_of_a_file_cut_short(disk: Disk) -> None:
    """Half a page that reads as zeros is found to be damage, and the file itself is not changed."""
    table(disk, "delete", rows=2).close()
    image = disk.snapshot()
    # The first read is the header's, the second that of the first page, whole.
    disk.fail("read", "main", how="short", nth=2)
    connection = apsw.Connection("log.db", vfs=disk.name)
    with pytest.raises(apsw.CorruptError):
        count(connection)
    connection.close()
    assert disk.snapshot() == image


def test_a_short_write_left_its_first_half(disk: Disk) -> None:
    """The bytes before the middle are in the file, those after it are not."""
    connection = table(disk)
    before = len(disk.content("log.db-wal"))
    disk.fail("write", "wal", how="short", nth=2)
    with pytest.raises(apsw.FullError):
        connection.execute("INSERT INTO t VALUES(1)")
    assert len(disk.content("log.db-wal")) == before + 24 + 2048
    connection.close()


def test_a_fault_strikes_the_nth_operation_or_all_from_there(disk: Disk) -> None:
    """`nth` counts from the call of `fail`; `lasting` goes on until `heal`."""
    connection = table(disk)
    disk.fail("sync", "wal", nth=3)
    outcomes = []
    for _ in range(4):
        try:
            connection.execute("INSERT INTO t VALUES(1)")
            outcomes.append("ok")
        except apsw.IOError:
            outcomes.append("eio")
    assert outcomes == ["ok", "ok", "eio", "ok"]
    disk.fail("sync", "wal", lasting=True)
    for _ in range(2):
        with pytest.raises(apsw.IOError):
            connection.execute("INSERT INTO t VALUES(1)")
    disk.heal()
    connection.execute("INSERT INTO t VALUES(1)")
    connection.close()


def test_a_full_disk_refuses_growth_only(disk: Disk) -> None:
    """With the budget used up nothing grows, what is there can be overwritten, and room lets it go on."""
    connection = table(disk)
    disk.budget_bytes = 10_000
    with pytest.raises(apsw.FullError):
        fill(connection)
    assert disk.budget_bytes < 10_000
    assert connection.pragma("integrity_check") == "ok"
    disk.budget_bytes = None
    connection.execute("INSERT INTO t VALUES(zeroblob(3000))")
    connection.pragma("journal_mode", "memory")
    disk.budget_bytes = 0
    connection.execute("UPDATE t SET x = 7 WHERE rowid = 1")
    connection.close()


def test_a_decision_is_asked_for_each_operation(disk: Disk) -> None:
    """`decide` hears the operation, the kind and how many of both there were, and its answer is what happens."""
    connection = table(disk)
    heard: list[tuple[str, str, int]] = []

    def decide(operation: str, kind: str, number: int) -> str | None:
        heard.append((operation, kind, number))
        return "eio" if (operation, kind, number) == ("sync", "wal", 2) else None

    disk.decide = decide
    connection.execute("INSERT INTO t VALUES(1)")
    with pytest.raises(apsw.IOError):
        connection.execute("INSERT INTO t VALUES(2)")
    disk.decide = None
    asked = len(heard)
    connection.execute("INSERT INTO t VALUES(3)")
    assert len(heard) == asked
    assert [number for operation, _, number in heard if operation == "sync"] == [1, 2]
    connection.close()


def test_a_process_may_die_in_any_operation(disk: Disk) -> None:
    """The operation where it dies changes nothing, and none after it does; committed before stays."""
    for operation in ("write", "sync", "delete", "truncate"):
        disk.restore(Image({}))
        connection = table(disk, "delete" if operation != "truncate" else "truncate", rows=2)
        fault = disk.fail(operation, how="crash")
        with pytest.raises((apsw.IOError, apsw.CantOpenError)):
            connection.execute("INSERT INTO t VALUES(7)")
        assert fault.hits == 1
        assert disk.dead
        connection.close()
        disk.heal()
        disk.restart()
        connection = connect(disk, journal="delete")
        assert count(connection) == 2
        connection.close()


def test_a_way_to_fail_that_does_not_exist_is_refused(disk: Disk) -> None:
    """A misspelt or impossible fault would never strike, so it is an error at once."""
    for operation, how in (("sync", "busy"), ("read", "full"), ("write", "eoi"), (None, "nonsense")):
        with pytest.raises(ValueError, match=how):
            disk.fail(operation, how=how)
    assert all("crash" in ways for ways in WAYS.values())


# --- time, sleep, randomness ----------------------------------------------------------------------


def test_time_and_sleep_are_the_callers() -> None:
    """SQL's time is the clock's, and a busy handler's sleep is told, not slept."""
    slept: list[int] = []
    with Disk(clock=lambda: 1_234_567_890_123, sleep=slept.append) as disk:
        connection = table(disk)
        assert connection.execute("SELECT strftime('%Y-%m-%d %H:%M:%f')").get == "2009-02-13 23:31:30.123"
        rival = apsw.Connection("log.db", vfs=disk.name)
        rival.set_busy_timeout(60_000)
        connection.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(apsw.BusyError):
            rival.execute("BEGIN IMMEDIATE")
        assert time.monotonic() - started < 20
        assert sum(slept) >= 50_000_000
        connection.execute("COMMIT")
        connection.close()
        rival.close()


def test_the_same_seed_gives_the_same_bytes() -> None:
    """As the default VFS, a disk makes WAL salts and SQL's randomness repeatable, and another seed changes them."""
    digests = []
    with Disk() as disk, disk.default():
        for seed in (7, 7, 8):
            disk.restore(Image({}))
            disk.reseed(seed)
            connection = table(disk)
            connection.execute("INSERT INTO t VALUES(random())")
            digests.append(disk.snapshot().digest)
            connection.close()
    assert digests[0] == digests[1] != digests[2]
    assert apsw.vfs_names()[0] == "unix"


def test_a_real_path_works_as_a_name(disk: Disk, tmp_path: Path) -> None:
    """A path elsewhere is a name like any other: nothing is written there."""
    connection = apsw.Connection(str(tmp_path / "log.db"), vfs=disk.name)
    connection.execute("CREATE TABLE t(x)")
    connection.close()
    assert list(disk.snapshot()) == [str(tmp_path / "log.db")]
    assert list(tmp_path.iterdir()) == []
