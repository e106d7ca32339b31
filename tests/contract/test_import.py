"""Bringing transcripts into a log: repeatable, completable, and replacing what changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import attrs
import pytest
import trio

from engine import Envelope, Reset, event, open_engine
from engine.errors import DuplicateIdError, InvalidArgumentError
from engine.events import (
    CaughtUp,
    MessageFinished,
    MessageUpdated,
    PartUpdated,
    RecordedEvent,
    SessionNoted,
    SessionStarted,
    Skipped,
    UsageRecorded,
)
from engine.importers import ImportedSession, Transcript, find_transcripts
from engine.runtime import FileResult, Importer, rebuild


def conversation(count: int, *, text: str = "hello", session_id: str = "ses_1") -> ImportedSession:
    """A made-up session of `count` messages; a longer one begins with the shorter one's envelopes."""
    envelopes = [Envelope(SessionStarted("made up"), "start", 1_000)]
    for number in range(count):
        name, moment = f"m{number}", 1_001 + number
        envelopes += [
            Envelope(MessageUpdated(name, "assistant", state="unknown"), f"{name}.1", moment),
            Envelope(PartUpdated(f"p{number}", name, "text", {"text": f"{text} {number}"}), f"{name}.2", moment),
            Envelope(UsageRecorded(f"st{number}", name, "model", 10, 1, 2), f"{name}.3", moment),
            Envelope(MessageFinished(name, "completed"), f"{name}.4", moment),
        ]
    return ImportedSession(session_id, "made_up", tuple(envelopes))


def transcript(*sessions: ImportedSession) -> Transcript:
    """A transcript of these sessions."""
    return Transcript("made-up.jsonl", "made_up", sessions, (), sum(len(s.envelopes) for s in sessions))


async def read_model(workspace: Any, session_id: str = "ses_1") -> Any:
    """What a reader sees of a session, without the keys that say when it was written."""
    page = await workspace.read.messages(session_id, after=0, limit=1_000)
    messages = [
        (m.message_id, m.role, m.status, m.finish_reason, [(p.part_id, p.kind, dict(p.data)) for p in m.parts], m.created_at)
        for m in page.items
    ]
    return messages, (await workspace.read.usage(session_id)).total


def integrity(path: Path) -> list[str]:
    """What SQLite itself says about the file."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [row[0] for row in connection.execute("PRAGMA integrity_check")]
    finally:
        connection.close()


def states(result: FileResult) -> list[tuple[str, int]]:
    """State and new events of each session of a result."""
    return [(session.state, session.new_events) for session in result.sessions]


async def test_importing_the_same_transcript_twice_writes_nothing_the_second_time(tmp_path: Path) -> None:
    """A repeated import is `unchanged`, within one engine and after a restart."""
    # given
    whole = transcript(conversation(3))
    async with open_engine(tmp_path / "a.db") as engine:
        first = await engine.importer().transcript(whole)
        # when
        second = await engine.importer().transcript(whole)
    async with open_engine(tmp_path / "a.db") as engine:
        third = await engine.importer().transcript(whole)
    # then
    assert [states(first), states(second), states(third)] == [[("new", 13)], [("unchanged", 0)], [("unchanged", 0)]]


async def test_a_grown_transcript_adds_only_what_is_new_and_an_older_one_nothing(tmp_path: Path) -> None:
    """Step by step gives the read model of the last state alone; going back changes nothing."""
    async with open_engine(tmp_path / "a.db") as engine:
        importer, alone = engine.importer(), engine.workspace("alone")
        # when
        results = [await importer.transcript(transcript(conversation(count))) for count in (1, 2, 5, 2)]
        await alone.importer().transcript(transcript(conversation(5)))
        # then
        assert [states(result) for result in results] == [[("new", 5)], [("grown", 4)], [("grown", 12)], [("older", 0)]]
        assert await read_model(engine) == await read_model(alone)


async def test_an_import_that_died_between_two_chunks_is_completed_by_the_next(tmp_path: Path) -> None:
    """A crash leaves a prefix of whole chunks; the next import appends the rest."""
    # given
    long = conversation(300)
    async with open_engine(tmp_path / "a.db") as engine:
        await engine.import_events("ses_1", long.envelopes[:500])
    # when
    async with open_engine(tmp_path / "a.db") as engine:
        result = await engine.importer().transcript(transcript(long))
        await engine.workspace("alone").importer().transcript(transcript(long))
        # then
        assert states(result) == [("grown", len(long.envelopes) - 500)]
        assert await read_model(engine) == await read_model(engine.workspace("alone"))


async def test_a_rewritten_prefix_is_replaced_and_live_events_are_kept(tmp_path: Path) -> None:
    """What was imported is replaced in one transaction; what was appended live stays, behind it, with its ids."""
    async with open_engine(tmp_path / "a.db") as engine:
        # given
        importer = engine.importer()
        await importer.transcript(transcript(conversation(2)))
        session = await engine.session("ses_1")
        bare = await session.append(MessageUpdated("live", "user"), PartUpdated("lp", "live", "text", {"text": "mine"}))
        named = await session.append(Envelope(SessionNoted("n1", "mine"), "my-id"))
        # when
        result = await importer.transcript(transcript(conversation(3, text="rewritten")))
        # then
        assert states(result) == [("replaced", 13)]
        messages, usage = await read_model(engine)
        assert [m[0] for m in messages] == ["m0", "m1", "m2", "live"]
        assert messages[0][4] == [("p0", "text", {"text": "rewritten 0"})]
        assert messages[3][4] == [("lp", "text", {"text": "mine"})]
        assert usage.steps == 3
        kept = [
            item async for item in await log_of(engine) if item.event_id in {"my-id", *(e.event_id for e in bare.events)}
        ]
        assert [item.event_id for item in kept] == [e.event_id for e in (*bare.events, *named.events)]
        # and a second import finds everything in place
        assert states(await importer.transcript(transcript(conversation(3, text="rewritten")))) == [("unchanged", 0)]
        assert states(await engine.importer().transcript(transcript(conversation(3, text="rewritten")))) == [
            ("unchanged", 0)
        ]


async def log_of(engine: Any) -> Any:
    """The events of the log."""
    page = await engine.read.log(limit=1_000)

    async def items() -> Any:
        for item in page.items:
            yield item

    return items()


async def test_a_replaced_session_is_the_same_after_a_rebuild(tmp_path: Path) -> None:
    """Replacing leaves a log whose replay gives the live read model, live events among it."""
    async with open_engine(tmp_path / "a.db") as engine:
        # given
        await engine.importer().transcript(transcript(conversation(2)))
        session = await engine.session("ses_1")
        await session.append(PartUpdated("late", "m0", "text", {"text": "late"}))
        await session.append(MessageUpdated("live", "user"))
        await engine.importer().transcript(transcript(conversation(1, text="other")))
        before = await read_model(engine)
    # when
    await rebuild(tmp_path / "a.db")
    # then
    async with open_engine(tmp_path / "a.db") as engine:
        assert await read_model(engine) == before


async def test_followers_of_a_replaced_session_get_a_reset_and_others_do_not(tmp_path: Path) -> None:
    """A live follower's stream ends with `Reset`; so does a cursor from before; another session's follower reads on."""
    async with open_engine(tmp_path / "a.db") as engine:
        # given
        importer = engine.importer()
        await importer.transcript(transcript(conversation(1), conversation(1, session_id="ses_2")))
        async with engine.log(session_id="ses_1", follow=True) as log, engine.log(session_id="ses_2", follow=True) as other:
            before = [await log.__anext__() for _ in range(6)]
            beside = [await other.__anext__() for _ in range(6)]
            assert isinstance(before[-1], CaughtUp)
            assert isinstance(beside[-1], CaughtUp)
            # when
            await importer.transcript(transcript(conversation(1, text="other")))
            await (await engine.session("ses_2")).append(SessionNoted("n", "x"))
            # then
            with trio.fail_after(2):
                rest = [item async for item in log]
                live = await other.__anext__()
        assert [type(item) for item in rest] == [Reset]
        assert isinstance(live, RecordedEvent)
        async with engine.log(session_id="ses_1", after=before[-1].cursor, follow=True) as log:
            assert isinstance(await log.__anext__(), Reset)


async def test_a_live_session_with_the_same_id_is_left_alone_and_the_others_go_on(tmp_path: Path) -> None:
    """A session that was not imported is no import's to change."""
    async with open_engine(tmp_path / "a.db") as engine:
        # given
        await engine.create_session("ses_1", title="mine")
        # when
        result = await engine.importer().transcript(transcript(conversation(1), conversation(1, session_id="ses_2")))
        # then
        assert states(result) == [("failed", 0), ("new", 5)]
        assert result.failed
        problem = "import session 'ses_1': a session of this id exists, and nothing in it was imported; nothing was written"
        assert result.sessions[0].problem == problem
        assert (await engine.read.session("ses_1")).title == "mine"


async def test_late_live_writes_to_an_imported_session_do_not_disturb_its_growth(tmp_path: Path) -> None:
    """Live events among the imported ones are not compared with the transcript."""
    async with open_engine(tmp_path / "a.db") as engine:
        # given
        await engine.importer().transcript(transcript(conversation(1)))
        await (await engine.session("ses_1")).append(Envelope(SessionNoted("n", "x"), "mine"))
        # when
        result = await engine.importer().transcript(transcript(conversation(2)))
        # then
        assert states(result) == [("grown", 4)]


async def test_a_file_that_is_no_transcript_is_told_and_others_go_on(tmp_path: Path) -> None:
    """One file's failure is a result, not an exception."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "other.json").write_text('{"name": "left-pad"}')
    async with open_engine(tmp_path / "a.db") as engine:
        importer = engine.importer()
        # when
        empty = await importer.file(tmp_path / "empty.jsonl")
        other = await importer.file(tmp_path / "other.json")
    # then
    assert (empty.failed, empty.problem) == (True, "is empty")
    assert other.failed
    assert other.sessions == ()


async def test_live_events_of_an_older_version_survive_a_replacement(tmp_path: Path) -> None:
    """What a replacement keeps is stored again at the version that this process writes, so that it can be read."""

    @event("own.amount", version=1)
    @attrs.frozen
    class Before:
        number: int

    @event("own.amount", version=2)
    @attrs.frozen
    class After:
        amount: int

    @After.upcaster(from_version=1)
    def _renamed(stored: dict[str, Any]) -> dict[str, Any]:
        return {"amount": stored["number"]}

    # given
    async with open_engine(tmp_path / "a.db", events=[Before]) as engine:
        await engine.importer().transcript(transcript(conversation(1)))
        session = await engine.session("ses_1")
        await session.append(Envelope(Before(7), "e1"))
    # when
    async with open_engine(tmp_path / "a.db", events=[After]) as engine:
        result = await engine.importer().transcript(transcript(conversation(1, text="changed")))
        # then
        assert [session.state for session in result.sessions] == ["replaced"]
        kept = (await engine.read.log()).items[-1]
        assert (kept.event, kept.version, kept.event_id) == (After(7), 2, "e1")


async def test_a_live_event_that_the_transcript_has_by_now_is_not_kept_twice(tmp_path: Path) -> None:
    """A live event with an id of the new import gives way to it; with other content the replacement is refused."""
    # given
    start, changed = Envelope(SessionStarted(), "start"), Envelope(SessionNoted("changed", "k"), "n1")
    async with open_engine(tmp_path / "a.db") as engine:
        await engine.import_events("s", [start, Envelope(SessionNoted("first", "k"), "n1")])
        session = await engine.session("s")
        await session.append(Envelope(SessionNoted("live", "k"), "e1"), SessionNoted("kept", "k"))
        # when
        with pytest.raises(DuplicateIdError):
            await engine.replace_imported("s", [start, changed, Envelope(SessionNoted("other", "k"), "e1")])
        await engine.replace_imported("s", [start, changed, Envelope(SessionNoted("live", "k"), "e1")])
        # then
        events = [item.event for item in (await engine.read.log()).items[1:]]
        assert [event.note_id for event in events] == ["changed", "live", "kept"]


async def test_an_import_of_nothing_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    """No events, events that begin no session, and a bad id are the caller's mistake; the writer goes on."""
    # given
    async with open_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(SessionNoted("n", "k"))
        # when
        for call in (
            lambda: engine.import_events("new", []),
            lambda: engine.import_events("\ud800", [Envelope(SessionStarted())]),
            lambda: engine.replace_imported("s", []),
            lambda: engine.replace_imported("s", [Envelope(SessionNoted("n", "k"))]),
        ):
            with pytest.raises(InvalidArgumentError):
                await call()
        # then
        assert (await session.append(SessionNoted("after", "k"))).seq == 3


# --- race 5: the index that forbids duplicates has drifted --------------------------------------------


def drift(path: Path, change: Callable[[apsw.Connection], None]) -> None:
    """Change rows while the log's unique indexes are unhooked from the schema, then hook them back."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA writable_schema = ON")
    rows = connection.execute(
        "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE name IN ('event_by_seq', 'event_by_id')"
    ).fetchall()
    assert len(rows) == 2
    connection.execute("DELETE FROM sqlite_schema WHERE name IN ('event_by_seq', 'event_by_id')")
    connection.execute("PRAGMA writable_schema = RESET")
    connection.close()
    connection = apsw.Connection(str(path))
    change(connection)
    connection.execute("PRAGMA writable_schema = ON")
    connection.executemany("INSERT INTO sqlite_schema(type, name, tbl_name, rootpage, sql) VALUES(?, ?, ?, ?, ?)", rows)
    connection.execute("PRAGMA writable_schema = RESET")
    connection.close()


def duplicate_rows(connection: apsw.Connection) -> None:
    """Rows of the session stand there twice; the indexes list each once."""
    columns = "stream_key, incarnation, seq, type_key, outcome, origin, recorded_at, occurred_at, event_id, digest, data"
    connection.execute(f"INSERT INTO event({columns}) SELECT {columns} FROM event WHERE seq IN (2, 3, 9)")


def ghost_entries(connection: apsw.Connection) -> None:
    """The indexes list rows that are not there."""
    connection.execute("DELETE FROM event WHERE seq IN (3, 5)")


def ghost_tail(connection: apsw.Connection) -> None:
    """The indexes list the last rows, which are not there."""
    connection.execute("DELETE FROM event WHERE seq > 6")


def both(connection: apsw.Connection) -> None:
    """Some rows stand there twice, others not at all."""
    duplicate_rows(connection)
    connection.execute("DELETE FROM event WHERE seq IN (4, 9)")


@pytest.mark.parametrize("change", [duplicate_rows, ghost_entries, ghost_tail, both], ids=lambda f: f.__name__)
@pytest.mark.parametrize("count", [2, 4], ids=["same", "grown"])
async def test_importing_again_over_a_drifted_index_succeeds_and_mends_it(
    tmp_path: Path, change: Callable[[apsw.Connection], None], count: int
) -> None:
    """Race 5: whatever the unique index lists or not, a re-import gives the transcript's events and a sound file."""
    # given
    path = tmp_path / "a.db"
    async with open_engine(path) as engine:
        await engine.importer().transcript(transcript(conversation(2)))
    drift(path, change)
    assert integrity(path) != ["ok"]
    # when
    async with open_engine(path) as engine:
        result = await engine.importer().transcript(transcript(conversation(count)))
        again = await engine.importer().transcript(transcript(conversation(count)))
        await engine.workspace("alone").importer().transcript(transcript(conversation(count)))
        # then
        assert states(result) == [("replaced", 1 + 4 * count)]
        assert states(again) == [("unchanged", 0)]
        assert await read_model(engine) == await read_model(engine.workspace("alone"))
        page = await engine.read.log(session_id="ses_1", limit=1_000)
        assert [item.event_id for item in page.items] == [e.event_id for e in conversation(count).envelopes]
    assert integrity(path) == ["ok"]


async def test_live_events_that_stand_twice_in_a_drifted_log_are_kept_once(tmp_path: Path) -> None:
    """Copies of live rows go with the drift; what was appended live stays once, with the id its appender was told."""
    # given
    path = tmp_path / "a.db"
    async with open_engine(path) as engine:
        await engine.importer().transcript(transcript(conversation(1)))
        session = await engine.session("ses_1")
        bare = await session.append(SessionNoted("n1", "x"))
        named = await session.append(Envelope(SessionNoted("n2", "x"), "my-id"))
    columns = "stream_key, incarnation, seq, type_key, outcome, origin, recorded_at, occurred_at, event_id, digest, data"
    drift(path, lambda c: c.execute(f"INSERT INTO event({columns}) SELECT {columns} FROM event WHERE seq > 4"))
    # when
    async with open_engine(path) as engine:
        await engine.importer().transcript(transcript(conversation(1)))
        page = await engine.read.log(limit=100)
    # then
    assert [item.event_id for item in page.items[5:]] == [bare.events[0].event_id, named.events[0].event_id]
    assert integrity(path) == ["ok"]


async def test_a_drift_of_one_session_leaves_the_others_events_alone(tmp_path: Path) -> None:
    """Replacing deletes by primary key, and only what the session's own scan found."""
    # given
    path = tmp_path / "a.db"
    async with open_engine(path) as engine:
        await engine.importer().transcript(transcript(conversation(2), conversation(2, session_id="ses_2")))
        before = await engine.read.log(session_id="ses_2", limit=100)

    def one(connection: apsw.Connection) -> None:
        connection.execute(
            "DELETE FROM event WHERE seq = 3 AND stream_key = (SELECT key FROM stream WHERE session_id = 'ses_1')"
        )

    drift(path, one)
    # when
    async with open_engine(path) as engine:
        result = await engine.importer().transcript(transcript(conversation(2), conversation(2, session_id="ses_2")))
        after = await engine.read.log(session_id="ses_2", limit=100)
    # then
    assert states(result) == [("replaced", 9), ("unchanged", 0)]
    assert after.items == before.items
    assert integrity(path) == ["ok"]


# --- real transcripts ---------------------------------------------------------------------------------

ROOT = Path(os.environ.get("ENGINE_TRANSCRIPTS") or Path(__file__).parents[2].parent / "shared" / "transcripts")
real = pytest.mark.skipif(not ROOT.is_dir(), reason=f"no transcripts in {ROOT}")


async def bring_in(importer: Importer, *paths: Path) -> list[FileResult]:
    """Import files and folders in their order."""
    return [await importer.file(path) for path in find_transcripts(paths)]


@real
async def test_every_real_transcript_is_imported_and_the_second_time_adds_nothing(tmp_path: Path) -> None:
    """All files come in without a failure; importing them again writes 0 events."""
    async with open_engine(tmp_path / "a.db", durability="normal") as engine:
        # when
        first = await bring_in(engine.importer(), ROOT)
        second = await bring_in(engine.importer(), ROOT)
        # then
        assert [result.path for result in first if result.failed] == []
        assert sum(result.new_events for result in first) > 0
        assert [(result.path, result.new_events) for result in second if result.new_events] == []


@real
@pytest.mark.parametrize("folder", ["claude_code/growing_79e9becd", "codex/growing_019ed50c"])
async def test_a_real_growing_series_gives_the_read_model_of_its_last_file(tmp_path: Path, folder: str) -> None:
    """Snapshot by snapshot or the last one alone: the same sessions, messages, parts, tools and usage."""
    if not (ROOT / folder).is_dir():
        pytest.skip(f"no {folder}")
    async with open_engine(tmp_path / "a.db", durability="normal") as engine:
        # when
        series = await bring_in(engine.importer(), ROOT / folder)
        alone = engine.workspace("alone")
        last = (await bring_in(alone.importer(), Path(series[-1].path)))[0]
        # then
        assert [result.failed for result in series] == [False] * len(series)
        assert {session.state for result in series for session in result.sessions} <= {"new", "grown", "unchanged"}
        for session in last.sessions:
            assert await read_model(engine, session.session_id) == await read_model(alone, session.session_id)


@real
async def test_no_event_of_a_real_transcript_is_skipped(tmp_path: Path) -> None:
    """An import never writes to what it has settled or removed itself."""
    async with open_engine(tmp_path / "a.db", durability="normal") as engine:
        # when
        await bring_in(engine.importer(), ROOT)
        # then
        async with engine.log() as log:
            events = [item async for item in log if isinstance(item, RecordedEvent)]
        assert [item for item in events if isinstance(item.outcome, Skipped)] == []
