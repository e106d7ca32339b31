"""Users' events and projections: registration, the narrow `tx`, failures by name, versions, coming and going."""

from __future__ import annotations

import attrs
import pytest

from engine import Envelope, event, handles, open_engine, projection
from engine.errors import ProjectionFailedError, RegistrationError, StorageCorruptError
from engine.events import MessageUpdated, SessionNoted, SessionStarted
from engine.limits import Limits
from engine.ports import Ports
from engine.runtime import open_files
from tests.support.engines import checked_engine, count_rows, raw
from tests.support.projections import OWN, ChatCounted, ChatOpened, Chats, Totals


async def test_a_users_projection_follows_its_events(tmp_path, autojump_clock):
    """Handlers run in the append's transaction: what a receipt acknowledges is in the table."""
    async with checked_engine(tmp_path / "a.db", **OWN) as engine:
        session = await engine.create_session("s")
        await session.append(ChatOpened("c", "hello"), ChatCounted("c"), ChatCounted("c", 4))
        connection = raw(tmp_path / "a.db")
        assert connection.execute("SELECT * FROM chats").fetchall() == [("c", "s", "hello", 5)]
        connection.close()


async def test_a_failing_handler_refuses_the_append_and_names_table_and_column(tmp_path, autojump_clock):
    """The caller learns which projection, which event and which constraint; nothing was written."""
    async with checked_engine(tmp_path / "a.db", **OWN) as engine:
        session = await engine.create_session("s")
        await session.append(ChatOpened("c"))
        with pytest.raises(ProjectionFailedError) as caught:
            await session.append(ChatOpened("c"))
        assert str(caught.value) == (
            "projection 'chats' on 'chat.opened': UNIQUE constraint failed: chats.id; nothing was written"
        )
        assert caught.value.__cause__ is None
        assert len((await engine.read.log()).items) == 2


def made(body, *, tables=None, scope="session", handled=ChatOpened, name="mine"):
    """A projection with one handler."""

    class Made:
        @handles(handled)
        def handle(self, tx, event, recorded):
            return body(tx)

    return projection(name, 1, tables or {"mine": "a ANY, session_id ANY"}, scope)(Made)


OUT_OF_BOUNDS = (
    "BEGIN",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT x",
    "RELEASE command",
    "ROLLBACK TO command",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA user_version",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "VACUUM",
    "ANALYZE",
    "REINDEX",
    "CREATE TABLE x(a)",
    "CREATE TRIGGER x AFTER INSERT ON {mine} BEGIN SELECT 1; END",
    "CREATE INDEX x ON {mine}(a)",
    "ALTER TABLE {mine} ADD COLUMN b",
    "DROP TABLE {mine}",
    "SELECT * FROM event",
    "SELECT * FROM sqlite_schema",
    "SELECT * FROM pragma_table_info('event')",
    "SELECT * FROM {event}",
    "UPDATE session SET title = 'x'",
    "DELETE FROM projection",
    "INSERT INTO {mine} SELECT data, 1 FROM event",
    "INSERT OR ROLLBACK INTO {mine} VALUES(1, 1)",
    "insert or rollback into {mine} values(1, 1)",
    "INSERT OR /* ' */ ROLLBACK /* ' */ INTO {mine} VALUES(1, 1)",
    "INSERT OR -- '\n ROLLBACK -- '\n INTO {mine} VALUES(1, 1)",
    "INSERT INTO {mine} VALUES(1, 1); DELETE FROM {mine}",
)


@pytest.mark.parametrize("sql", OUT_OF_BOUNDS)
async def test_a_handler_cannot_leave_its_own_tables(tmp_path, autojump_clock, sql):
    """Transaction verbs, pragmas, DDL, foreign tables and OR ROLLBACK are refused before they run; the engine goes on."""
    mine = made(lambda tx: tx.execute(sql))
    async with checked_engine(tmp_path / "a.db", events=OWN["events"], projections=[mine]) as engine:
        session = await engine.create_session("s")
        with pytest.raises(ProjectionFailedError):
            await session.append(SessionNoted("n", "k"), ChatOpened("c"))
        assert (await session.append(SessionNoted("n", "k"))).seq == 2
        assert engine.statistics().writer.state == "open"


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO {mine} VALUES('ROLLBACK', 1) -- no ROLLBACK",
        "WITH x(a) AS (SELECT 1) INSERT INTO {mine} SELECT a, a FROM x",
        "SELECT count(*), max(a) FROM {mine}",
        "INSERT OR REPLACE INTO {mine} VALUES(json_extract('{\"a\": 1}', '$.a'), 1)",
    ],
)
async def test_a_handler_may_do_what_it_likes_with_its_own_tables(tmp_path, autojump_clock, sql):
    """Words in texts and comments, common table expressions and functions are no reason to refuse."""
    mine = made(lambda tx: tx.execute(sql))
    async with checked_engine(tmp_path / "a.db", events=OWN["events"], projections=[mine]) as engine:
        session = await engine.create_session("s")
        assert (await session.append(ChatOpened("c"))).seq == 2


async def test_an_exception_of_a_handler_refuses_the_append(tmp_path, autojump_clock):
    """A bug in a handler is named, and costs its own append only."""

    def bug(tx):
        raise KeyError("oops")

    mine = made(bug)
    async with checked_engine(tmp_path / "a.db", events=OWN["events"], projections=[mine]) as engine:
        session = await engine.create_session("s")
        with pytest.raises(ProjectionFailedError, match="KeyError: 'oops'") as caught:
            await session.append(ChatOpened("c"))
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
        assert (await session.append(SessionNoted("n", "k"))).seq == 2


async def test_skipped_events_are_shown_to_no_handler(tmp_path, autojump_clock):
    """A handler never sees what changed nothing."""
    from engine.events import MessageRemoved, PartUpdated

    mine = made(lambda tx: tx.execute("INSERT INTO {mine} VALUES(1, 1)"), handled=PartUpdated)
    async with checked_engine(tmp_path / "a.db", projections=[mine]) as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text"))
        await session.append(PartUpdated("p", "m", "text"), MessageRemoved("m"), PartUpdated("q", "m", "text"))
        assert count_rows(tmp_path / "a.db", "mine") == 1


async def test_an_import_is_shown_as_a_rebuild_shows_it(tmp_path, autojump_clock):
    """Imported events that change no built-in table are stored as applied, so handlers see each of them."""
    mine = made(lambda tx: tx.execute("INSERT INTO {mine} VALUES(1, 1)"), handled=MessageUpdated)
    async with checked_engine(tmp_path / "a.db", projections=[mine]) as engine:
        announced = MessageUpdated("m", "user")
        events = [Envelope(SessionStarted(), "i0"), Envelope(announced, "i1"), Envelope(announced, "i2")]
        await engine.import_events("s", events)
        assert count_rows(tmp_path / "a.db", "mine") == 2


async def test_a_projection_added_later_catches_up(tmp_path, autojump_clock):
    """Its first open replays the whole log into it, and reports the progress."""
    path = tmp_path / "a.db"
    async with checked_engine(path, events=OWN["events"]) as engine:
        session = await engine.create_session("s")
        await session.append(ChatOpened("c"), ChatCounted("c", 7))
    told: list[tuple[int, int]] = []
    async with checked_engine(path, **OWN, on_progress=lambda *numbers: told.append(numbers)):
        connection = raw(path)
        assert connection.execute("SELECT n FROM chats").get == 7
        assert connection.execute("SELECT n FROM totals").get == 1
        connection.close()
    assert told[-1] == (3, 3)


async def test_a_projection_removed_and_added_back_catches_up(tmp_path, autojump_clock):
    """Its tables wait at their checkpoint; what came meanwhile is applied once."""
    path = tmp_path / "a.db"
    for number, options in enumerate((OWN, {"events": OWN["events"]}, OWN)):
        async with checked_engine(path, **options) as engine:
            session = await (engine.session("s") if number else engine.create_session("s"))
            await session.append(ChatOpened(f"c{number}"), ChatCounted(f"c{number}", number + 1))
    connection = raw(path)
    assert connection.execute("SELECT id, n FROM chats ORDER BY id").fetchall() == [("c0", 1), ("c1", 2), ("c2", 3)]
    connection.close()


async def test_a_changed_version_wipes_and_replays_at_open(tmp_path, autojump_clock):
    """New tables and handlers see the whole log; the others are left alone."""
    path = tmp_path / "a.db"
    async with checked_engine(path, **OWN) as engine:
        await (await engine.create_session("s")).append(ChatOpened("c", "hello"), ChatCounted("c", 2))

    @projection("chats", version=2, tables={"chats": "chat TEXT PRIMARY KEY, session_id TEXT, shout TEXT"})
    class Louder:
        def opened(self, tx, event: ChatOpened, recorded) -> None:
            tx.execute("INSERT INTO {chats} VALUES(?, ?, ?)", (event.chat_id, recorded.session_id, event.title.upper()))

    async with checked_engine(path, events=OWN["events"], projections=[Louder, Totals]):
        connection = raw(path)
        assert connection.execute("SELECT * FROM chats").fetchall() == [("c", "s", "HELLO")]
        connection.close()


async def test_a_replay_that_fails_leaves_the_file_as_it_was(tmp_path, autojump_clock):
    """A new version whose handler fails on old events does not open, and the old version opens again."""
    path = tmp_path / "a.db"
    async with checked_engine(path, **OWN) as engine:
        await (await engine.create_session("s")).append(ChatOpened("c"))

    @projection("chats", version=2, tables={"chats": "id TEXT, session_id TEXT"})
    class Broken:
        def opened(self, tx, event: ChatOpened, recorded) -> None:
            raise ValueError("no")

    with pytest.raises(ProjectionFailedError):
        async with open_engine(path, events=OWN["events"], projections=[Broken]):
            pass
    async with checked_engine(path, **OWN):
        assert count_rows(path, "chats") == 1


BAD: dict[str, dict] = {
    "no table": {"tables": {}},
    "reserved table": {"tables": {"event": "session_id"}},
    "reserved table in capitals": {"tables": {"EVENT": "session_id"}},
    "bad table name": {"tables": {"a b": "session_id"}},
    "sqlite's own": {"tables": {"sqlite_x": "session_id"}},
    "no session_id": {"tables": {"mine": "a"}},
    "bad name": {"name": "a b"},
    "bad scope": {"scope": "planet"},
    "global without rewind": {"scope": "global"},
    "deferred key": {"tables": {"mine": "session_id TEXT REFERENCES {mine}(a) DEFERRABLE INITIALLY DEFERRED"}},
    "key across projections": {"tables": {"mine": "session_id TEXT REFERENCES session(session_id)"}},
    "or rollback": {"tables": {"mine": "session_id TEXT UNIQUE ON CONFLICT ROLLBACK"}},
}


@pytest.mark.parametrize("name", BAD)
def test_a_definition_that_cannot_run_is_refused(name):
    """Registration says what is wrong, before any file is touched."""

    class Mine:
        @handles(ChatOpened)
        def opened(self, tx, event, recorded):
            pass

    with pytest.raises(RegistrationError):
        projection(**{"name": "mine", "version": 1, "tables": {"mine": "session_id TEXT"}, **BAD[name]})(Mine)


async def test_clashes_between_projections_are_refused_at_open(tmp_path, autojump_clock):
    """Two of one name, two that own one table, and one whose event is not registered: the file is not touched."""
    other = made(lambda tx: None, tables={"CHATS": "session_id TEXT"}, name="other")
    for projections, events in (([Chats, Chats], OWN["events"]), ([Chats, other], OWN["events"]), ([Chats], ())):
        with pytest.raises(RegistrationError):
            async with open_engine(tmp_path / "a.db", events=events, projections=projections):
                pass


def test_rebuilding_an_unknown_projection_is_refused(tmp_path):
    """The message names those that are known."""
    files = open_files(tmp_path / "a.db", durability="normal", limits=Limits(), ports=Ports(), **OWN)
    try:
        with pytest.raises(RegistrationError, match="known are sessions"):
            files.projector.rebuild(["nope"])
    finally:
        files.close()


async def test_events_of_an_unknown_type_are_kept_counted_and_not_fatal(tmp_path, autojump_clock):
    """A process without the event class opens, reads them raw, follows them, rebuilds and appends."""
    path = tmp_path / "a.db"
    async with checked_engine(path, **OWN) as engine:
        session = await engine.create_session("s")
        await session.append(ChatOpened("c", "hello"), SessionNoted("n", "k"))
    async with checked_engine(path) as engine:
        log = (await engine.read.log()).items
        assert [e.type for e in log] == ["session.started", "chat.opened", "session.noted"]
        unknown = log[1].event
        assert (unknown.type, unknown.version, unknown.data) == ("chat.opened", 1, '{"chat_id":"c","title":"hello"}')
        assert await engine.read.unknown_types() == {"chat.opened v1": 1}
        assert engine.statistics().unknown_events_read >= 1
        async with engine.log() as stream:
            assert [item.type async for item in stream if hasattr(item, "type")] == [e.type for e in log]
        await (await engine.session("s")).append(SessionNoted("n", "k"))
    async with checked_engine(path, **OWN) as engine:
        assert (await engine.read.log()).items[1].event == ChatOpened("c", "hello")


async def test_a_newer_version_of_a_known_type_is_raw_and_stops_a_rebuild(tmp_path, autojump_clock):
    """An older process reads the event raw; a rebuild that would have to apply it refuses to swap."""
    path = tmp_path / "a.db"

    @event("chat.opened", version=2)
    @attrs.frozen
    class Newer:
        chat_id: str
        title: str
        colour: str

    async with checked_engine(path, events=[Newer, ChatCounted]) as engine:
        await (await engine.create_session("s")).append(Newer("c", "hello", "red"))
    async with open_engine(path, events=OWN["events"]) as engine:
        assert (await engine.read.log()).items[1].event.version == 2
        assert await engine.read.unknown_types() == {"chat.opened v2": 1}
        with pytest.raises(StorageCorruptError, match="version 2"):
            engine._core.files.projector.rebuild()
        assert len((await engine.read.sessions()).items) == 1


async def test_old_versions_are_read_through_their_upcasters(tmp_path, autojump_clock):
    """Stored versions 1 and 2 come out as version 3, to readers, handlers and the check of a duplicate."""
    path = tmp_path / "a.db"

    @event("user.named", version=1)
    @attrs.frozen
    class V1:
        name: str

    async with checked_engine(path, events=[V1]) as engine:
        await (await engine.create_session("s")).append(Envelope(V1("Ada Lovelace"), "e1"))

    @event("user.named", version=3)
    @attrs.frozen
    class V3:
        first: str
        last: str
        age: int | None = None

    @V3.upcaster(from_version=1)
    def split(value):
        first, last = value["name"].split(" ")
        return {"first": first, "last": last}

    @V3.upcaster(from_version=2)
    def add_age(value):
        return {**value, "age": None}

    @projection("names", version=1, tables={"names": "last TEXT, session_id TEXT"})
    class Names:
        @handles(V3)
        def named(self, tx, event, recorded):
            tx.execute("INSERT INTO {names} VALUES(?, ?)", (event.last, recorded.session_id))

    async with checked_engine(path, events=[V3], projections=[Names]) as engine:
        assert (await engine.read.log()).items[1].event == V3("Ada", "Lovelace")
        session = await engine.session("s")
        assert type((await session.append(Envelope(V3("Ada", "Lovelace"), "e1"))).outcome).__name__ == "Duplicate"
        connection = raw(path)
        assert connection.execute("SELECT last FROM names").get == "Lovelace"
        connection.close()
