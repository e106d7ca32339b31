"""What a power failure may leave of a log of operations, rule by rule, on logs written by hand."""

from __future__ import annotations

from itertools import pairwise, product
from random import Random
from typing import Any

import apsw
import pytest

from engine.simulation.disk import (
    Disk,
    Image,
    Medium,
    OperationLog,
    PowerModel,
    Record,
    crash_campaign,
    crash_points,
    power_image,
    power_images,
    process_image,
)

PLAIN = PowerModel(torn=False, garbage=False)
MARK: Record = ("mark", -1, 0, None)


def log_of(*records: Record, base: dict[str, bytes] | None = None) -> OperationLog:
    """A log over these files, numbered 1, 2, ... in the order of their names."""
    image = Image(base or {})
    return OperationLog(image, {name: number for number, name in enumerate(image, 1)}, list(records))


def write(offset: int, data: bytes, file: int = 1) -> Record:
    return ("write", file, offset, data)


def truncate(size: int, file: int = 1) -> Record:
    return ("truncate", file, size, None)


def sync(file: int = 1, *, directory: bool = False) -> Record:
    return ("sync", file, int(directory), None)


def create(name: str, file: int) -> Record:
    return ("create", file, 0, name)


def delete(name: str, file: int, *, synced: bool = False) -> Record:
    return ("delete", file, int(synced), name)


def every(log: OperationLog, model: PowerModel = PLAIN, at: int | None = None) -> set[tuple[tuple[str, bytes], ...]]:
    """All images that a power failure may leave, as far as a thousand tries show them."""
    images = power_images(log, len(log) if at is None else at, Random(0), model, count=1_000)
    return {tuple((name, image[name]) for name in image) for image in images}


def contents(log: OperationLog, model: PowerModel = PLAIN) -> set[bytes]:
    """All contents that the one file may have."""
    return {dict(image)["f"] for image in every(log, model)}


# --- writes ---------------------------------------------------------------------------------------


def test_what_was_synced_is_in_every_image() -> None:
    """After a successful sync one content is left, with all liberties taken."""
    log = log_of(write(0, b"ab"), write(1, b"c"), sync(), base={"f": b""})
    assert contents(log, PowerModel()) == {b"ac"}


def test_what_was_not_synced_may_be_there_or_not_in_any_combination() -> None:
    """Each subset of three unsynced writes arises, and nothing else."""
    log = log_of(write(0, b"x"), write(1, b"y"), write(2, b"z"), base={"f": b"..."})
    expected = {
        bytes(pair[kept] for pair, kept in zip((b".x", b".y", b".z"), bits, strict=True))
        for bits in product((0, 1), repeat=3)
    }
    assert contents(log) == expected


def test_a_later_write_to_the_same_place_wins_where_both_survive() -> None:
    """Losing the newer of two writes shows the older one; never is the older one on top."""
    log = log_of(write(0, b"old"), write(0, b"new"), base={"f": b"..."})
    assert contents(log) == {b"...", b"old", b"new"}


def test_without_reordering_a_prefix_survives() -> None:
    """A device that keeps order loses the newest writes, over all files together."""
    log = log_of(write(0, b"1", 1), write(0, b"2", 2), write(1, b"3", 1), base={"f": b"..", "g": b"."})
    expected = {(b"..", b"."), (b"1.", b"."), (b"1.", b"2"), (b"13", b"2")}
    found = every(log, PowerModel(reorder=False, torn=False, garbage=False))
    assert {tuple(data for _, data in image) for image in found} == expected


def test_a_lost_write_before_one_that_survives_leaves_zeros() -> None:
    """What lies between a file's end and a surviving write beyond it reads as zeros."""
    log = log_of(write(0, b"ab"), write(2, b"cd"), base={"f": b""})
    assert contents(log) == {b"", b"ab", b"\0\0cd", b"abcd"}


def test_cutting_a_file_may_be_lost() -> None:
    """Without a sync the file has its old length or its new one; with it, its new one."""
    assert contents(log_of(truncate(1), base={"f": b"abc"})) == {b"abc", b"a"}
    assert contents(log_of(truncate(1), sync(), base={"f": b"abc"})) == {b"a"}
    assert contents(log_of(truncate(0), write(0, b"z"), base={"f": b"abc"})) == {b"abc", b"", b"zbc", b"z"}


def test_a_failed_sync_promises_nothing_and_the_next_covers_it() -> None:
    """Writes before a failed sync may be lost until one succeeds."""
    failed: Record = ("failed sync", 1, 0, None)
    assert contents(log_of(write(0, b"x"), failed, base={"f": b"."})) == {b".", b"x"}
    assert contents(log_of(write(0, b"x"), failed, sync(), base={"f": b"."})) == {b"x"}


FORGETFUL = PowerModel(torn=False, garbage=False, forgetful=True)
FAILED: Record = ("failed sync", 1, 0, None)


def test_a_forgetful_device_makes_no_failed_sync_good() -> None:
    """What a failed sync was to cover may be lost for ever; what was written later is covered by the next sync."""
    log = log_of(write(0, b"x"), FAILED, write(1, b"y"), sync(), base={"f": b"..."})
    assert contents(log, FORGETFUL) == {b".y.", b"xy."}
    assert contents(log) == {b"xy."}
    assert Medium(log, FORGETFUL, at=len(log)).kept()["f"] == b"xy."


def test_writing_the_same_place_again_repairs_a_failed_sync() -> None:
    """Synced data lies on top of what was forgotten, which is seen only beside it; a cut takes away what is beyond."""
    again = log_of(write(0, b"abcd"), FAILED, write(1, b"YZ"), sync(), base={"f": b"...."})
    assert contents(again, FORGETFUL) >= {b".YZ.", b"aYZd"}
    assert all(data[1:3] == b"YZ" for data in contents(again, FORGETFUL))
    whole = log_of(write(0, b"ab"), FAILED, write(0, b"YZ"), sync(), base={"f": b"...."})
    assert contents(whole, FORGETFUL) == {b"YZ.."}
    cut = log_of(write(0, b"abcd"), FAILED, truncate(1), sync(), base={"f": b"...."})
    assert contents(cut, FORGETFUL) == {b".", b"a"}
    before = log_of(write(0, b"ab"), truncate(1), write(2, b"c"), FAILED, sync(), base={"f": b"...."})
    assert contents(before, FORGETFUL) == {b".", b"a", b".\0c", b"a\0c"}


def test_a_sync_of_another_file_is_no_help() -> None:
    """A file is durable by its own sync only."""
    log = log_of(write(0, b"x", 1), write(0, b"y", 2), sync(2), base={"f": b".", "g": b"."})
    assert contents(log) == {b".", b"x"}
    assert {dict(image)["g"] for image in every(log)} == {b"y"}


# --- sectors --------------------------------------------------------------------------------------


def pieces(data: bytes, old: bytes, cuts: list[int]) -> list[str]:
    """Of each part between the cuts: `new`, `old`, or `garbage`."""
    found = []
    for start, end in pairwise(cuts):
        part = data[start:end]
        found.append("new" if part == b"n" * (end - start) else "old" if part == old[start:end] else "garbage")
    return found


@pytest.mark.parametrize("offset", [0, 100, 512, 700])
def test_a_write_is_torn_where_sectors_begin_and_nowhere_else(offset: int) -> None:
    """Every part between two sector borders is old or new as a whole; what lies beside the write is old."""
    old = b"o" * 3_000
    log = log_of(write(offset, b"n" * 1_500), base={"f": old})
    cuts = sorted({0, offset, offset + 1_500, 3_000} | set(range(0, 3_000, 512)))
    inside = [offset <= start < offset + 1_500 for start in cuts[:-1]]
    found = {tuple(pieces(data, old, cuts)) for data in contents(log, PowerModel(garbage=False))}
    assert len(found) == 2 ** sum(inside)
    assert all(part == "old" or is_inside for parts in found for part, is_inside in zip(parts, inside, strict=True))
    assert all("garbage" not in parts for parts in found)


def test_a_sector_that_was_being_written_may_hold_anything() -> None:
    """With garbage, some sectors of the write are neither old nor new, among them zeros; none beside it."""
    old = b"o" * 3_000
    log = log_of(write(600, b"n" * 1_000), base={"f": old})
    cuts = [0, 600, 1_024, 1_536, 1_600, 3_000]
    images = contents(log, PowerModel())
    found = [pieces(data, old, cuts) for data in images]
    assert any("garbage" in parts for parts in found)
    assert any(bytes(424) in data for data in images)
    assert all(parts[0] == parts[-1] == "old" for parts in found)


def test_garbage_never_reaches_what_was_synced() -> None:
    """A synced write stays whole under a later one that shares its sector."""
    log = log_of(write(0, b"s" * 100), sync(), write(100, b"n" * 100), base={"f": b""})
    assert all(data.startswith(b"s" * 100) for data in contents(log, PowerModel()))


# --- names ----------------------------------------------------------------------------------------


def names(log: OperationLog, model: PowerModel = PLAIN) -> set[tuple[str, ...]]:
    return {tuple(name for name, _ in image) for image in every(log, model)}


def test_a_new_file_may_be_gone_until_it_or_the_directory_is_synced() -> None:
    """Its own sync keeps its name; another file's sync only where it includes the directory."""
    assert names(log_of(create("f", 1))) == {(), ("f",)}
    assert names(log_of(create("f", 1), sync(1))) == {("f",)}
    assert names(log_of(create("g", 2), sync(1), base={"f": b""})) == {("f",), ("f", "g")}
    assert names(log_of(create("g", 2), sync(1, directory=True), base={"f": b""})) == {("f", "g")}


def test_a_deleted_file_may_come_back_until_the_directory_is_synced() -> None:
    """It comes back with its synced content, and with none or some of the rest."""
    assert every(log_of(write(0, b"x"), delete("f", 1), base={"f": b"."})) == {(), (("f", b"."),), (("f", b"x"),)}
    assert names(log_of(delete("f", 1, synced=True), base={"f": b""})) == {()}
    assert names(log_of(delete("f", 1), sync(2, directory=True), base={"f": b"", "g": b""})) == {("g",)}


def test_a_name_keeps_its_order() -> None:
    """Deleted and made anew: the old file, none, or the new one; never the new one with the deletion lost on top."""
    log = log_of(delete("f", 1), create("f", 2), write(0, b"new", 2), base={"f": b"old"})
    assert every(log) == {(("f", b"old"),), (), (("f", b""),), (("f", b"new"),)}
    assert every(log_of(*log.records, sync(2), base={"f": b"old"})) == {(("f", b"new"),)}
    twice = log_of(create("f", 2), delete("f", 2), create("f", 3), write(0, b"x", 3), sync(3))
    assert every(twice) == {(("f", b"x"),)}


def test_names_and_kinds_of_files_can_be_declared_durable() -> None:
    """A model may settle names, or all writes of a kind of file, at once."""
    log = log_of(create("f-owner", 1), write(0, b"pid", 1), create("g", 2), write(0, b"x", 2))
    assert names(log, PowerModel(names=False)) == {("f-owner", "g")}
    settled = PowerModel(torn=False, garbage=False, settled=frozenset({"owner"}))
    assert {image[0] for image in every(log, settled)} == {("f-owner", b"pid")}


# --- going through a log --------------------------------------------------------------------------


def test_crash_points_are_before_each_operation_and_at_the_end() -> None:
    """Marks make no point of their own: one that precedes an operation was made before it."""
    log = log_of(write(0, b"x"), MARK, sync(), MARK, base={"f": b""})
    assert crash_points(log) == [0, 2, 4]
    assert [process_image(log, at)["f"] for at in crash_points(log)] == [b"", b"x", b"x"]


def test_a_medium_that_moves_on_gives_the_images_of_one_that_starts_there() -> None:
    """The rolling state is that of a new one, at every point of a log of random operations."""
    chance = Random(5)
    records: list[Record] = []
    for _ in range(200):
        file = chance.randrange(1, 3)
        what = chance.random()
        if what < 0.6:
            records.append(write(chance.randrange(2_000), chance.randbytes(chance.randrange(1, 900)), file))
        elif what < 0.7:
            records.append(truncate(chance.randrange(2_000), file))
        else:
            records.append(sync(file))
    log = log_of(*records, base={"f": b"1" * 1_000, "g": b""})
    rolling = Medium(log)
    plain = {1: bytearray(log.base["f"]), 2: bytearray()}
    for at in crash_points(log):
        rolling.advance(at)
        assert [image.digest for image in rolling.images(Random(at), 5)] == [
            image.digest for image in power_images(log, at, Random(at), count=5)
        ]
        for operation, number, value, payload in records[max(0, at - 1) : at]:
            data = plain[number]
            if operation == "write":
                data.extend(bytes(max(0, value - len(data))))
                data[value : value + len(payload)] = payload
            elif operation == "truncate":
                data.extend(bytes(max(0, value - len(data))))
                del data[value:]
        assert (rolling.kept()["f"], rolling.kept()["g"]) == (bytes(plain[1]), bytes(plain[2]))
    with pytest.raises(ValueError, match="lies behind it"):
        rolling.advance(3)


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "wal"])
def test_a_recorded_run_ends_in_what_is_on_the_disk(journal: str) -> None:
    """Replaying a log of SQLite's own operations over its base gives the disk's content, at its end and at each mark."""
    with Disk() as disk:
        connection = apsw.Connection("log.db", vfs=disk.name)
        connection.pragma("journal_mode", journal)
        connection.execute("CREATE TABLE t(x)")
        log = disk.record()
        seen: list[Image] = []
        for number in range(10):
            connection.execute("INSERT INTO t VALUES(zeroblob(?))", (number * 700,))
            if number == 5:
                connection.execute("DELETE FROM t; VACUUM")
            seen.append(disk.snapshot())
            disk.mark(number)
        connection.close()
        seen.append(disk.snapshot())
        marks = [index for index, record in enumerate(log.records) if record[0] == "mark"]
        assert [process_image(log, at) for at in (*marks, len(log))] == seen


def test_the_first_sync_of_a_new_journal_syncs_its_directory() -> None:
    """As SQLite's own VFS does it: a journal's or WAL's first sync, never a database's, never the same file's second."""
    with Disk() as disk:
        log = disk.record()
        connection = apsw.Connection("log.db", vfs=disk.name)
        connection.execute("CREATE TABLE t(x)")
        connection.close()
        syncs = [(record[1], record[2]) for record in log.records if record[0] == "sync"]
        (database,) = [record[1] for record in log.records if record[0] == "create" and record[3] == "log.db"]
        (journal,) = [record[1] for record in log.records if record[0] == "create" and record[3] == "log.db-journal"]
        assert syncs == [(journal, 1), (journal, 0), (database, 0)]


class Everything:
    """A check that keeps what it is shown."""

    def __init__(self) -> None:
        self.judged: list[tuple[Any, list[Any]]] = []

    def examine(self, disk: Disk) -> Any:
        return disk.content("f")

    def judge(self, found: Any, marks: Any) -> Any:
        self.judged.append((found, list(marks)))
        return "lost" if marks and found != b"x" else None


def test_a_campaign_judges_each_image_by_the_marks_before_it() -> None:
    """The same content is fine before an acknowledgement and wrong after it; each is opened once and counted once."""
    log = log_of(write(0, b"x"), ("mark", -1, 0, "ack"), write(1, b"", 1), base={"f": b"."})
    check = Everything()
    with Disk() as disk:
        report = crash_campaign(log, check, disk=disk, images_per_point=4, model=PLAIN)
    assert (b".", []) in check.judged
    assert (b".", ["ack"]) in check.judged
    assert (report.points, report.distinct, report.lost) == (3, 2, 1)
    (example,) = report.examples
    assert (example.verdict, example.image["f"], example.marks) == ("lost", b".", 1)
    assert report.outcomes.keys() == {b".", b"x"}


def test_one_drawn_image_is_any_of_the_legal_ones() -> None:
    """Drawing often enough gives each of them and no other, also where nothing is pending."""
    log = log_of(write(0, b"x"), write(1, b"y"), base={"f": b".."})
    drawn = {power_image(log, Random(seed), PLAIN)["f"] for seed in range(200)}
    assert drawn == contents(log) == {b"..", b"x.", b".y", b"xy"}
    assert {power_image(log_of(base={"f": b"z"}), Random(seed))["f"] for seed in range(50)} == {b"z"}


def test_the_same_seed_gives_the_same_campaign() -> None:
    """Images come in the same order with the same seed, and others with another."""
    log = log_of(*(write(300 * n, bytes([n]) * 700) for n in range(1, 9)), base={"f": b""})
    digests = [[image.digest for image in power_images(log, len(log), Random(seed), count=40)] for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]
    assert len(set(digests[0])) == len(digests[0])
