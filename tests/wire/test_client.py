"""The client over real sockets: the embedded engine's surface, and connections cut, swallowed, refused."""

from __future__ import annotations

import logging
import ssl
import subprocess

import attrs
import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, serve_websocket

from engine import Applied, Duplicate, Envelope, Skipped, event
from engine.client import connect
from engine.errors import (
    ClosedError,
    ConnectionLostError,
    ForbiddenError,
    InvalidArgumentError,
    InvalidEventError,
    LimitError,
    ProtocolError,
    SessionExistsError,
    SkippedError,
    UnauthorizedError,
    UnknownSessionError,
    UnreachableError,
    WrongExpectedSeqError,
)
from engine.events import (
    HEAD,
    START,
    CaughtUp,
    Lagging,
    MessageUpdated,
    PartDelta,
    PartRemoved,
    PartUpdated,
    RecordedEvent,
    Reset,
    SessionNoted,
    UnknownEvent,
)
from engine.server import ServerLimits, Token
from tests.support.proxy import proxy
from tests.support.serving import QUICK, Backend, connected, served

SECRET = "a-secret-of-the-test"


@event("invoice.created", version=1)
@attrs.frozen
class InvoiceCreated:
    """Somebody's own event."""

    amount: int


async def events_of(log, *, last_seq: int):
    """The events that a log brings until one has this seq."""
    found = []
    async for item in log:
        if isinstance(item, RecordedEvent):
            found.append(item)
            if item.seq == last_seq:
                break
    return found


async def stored(engine, **options):
    """Everything that is in an engine's log."""
    async with engine.log(**options) as log:
        return [item async for item in log if isinstance(item, RecordedEvent)]


# --- the surface ----------------------------------------------------------------------------------------


async def test_receipts_and_errors_are_those_of_the_embedded_engine(tmp_path):
    """Outcomes, seqs and typed errors of a remote session are the same classes, with the same fields."""
    async with served(tmp_path / "a.db") as (engine, server), connected(server.url) as client:
        session = await client.create_session("s", title="x", metadata={"k": [1]})
        assert (session.id, session.incarnation, session.workspace) == ("s", 1, "default")
        receipt = await session.append(MessageUpdated("m", "user"), Envelope(SessionNoted("n", "k"), "mine"))
        assert [entry.outcome for entry in receipt.events] == [Applied(), Applied()]
        assert (receipt.session_id, receipt.incarnation, receipt.seq) == ("s", 1, 3)
        again = await session.append(Envelope(SessionNoted("n", "k"), "mine"))
        assert isinstance(again.outcome, Duplicate)
        assert again.outcome.original.seq == 3
        unchanged = await session.append(MessageUpdated("m", "user"))
        assert unchanged.outcome == Skipped("unchanged")
        with pytest.raises(WrongExpectedSeqError) as wrong:
            await session.append(SessionNoted("o", "k"), expected_seq=1)
        assert (wrong.value.expected, wrong.value.found) == (1, 3)
        await session.append(PartUpdated("p", "m", "text"), PartRemoved("p", "m"))
        assert (await session.append(PartUpdated("p", "m", "text"))).outcome == Skipped("removed")
        with pytest.raises(SkippedError):
            await session.append(PartUpdated("p", "m", "text"), strict=True)
        with pytest.raises(SessionExistsError):
            await client.create_session("s")
        with pytest.raises(UnknownSessionError):
            await client.session("nobody")
        with pytest.raises(InvalidEventError):
            await client.create_session("t", metadata={"nan": float("nan")})
        with pytest.raises(InvalidArgumentError):
            await session.append(SessionNoted("o", "k"), expected_seq=-1)
        assert (await client.session("s")).incarnation == 1
        assert await session.stop("nothing runs") is False
        page = await session.messages(limit=1)
        assert [view.message_id for view in page.items] == ["m"]
        assert (await engine.read.messages("s")).items == page.items
        assert (await session.remove_message("m")).outcome == Applied()
        removed = await session.remove()
        assert removed.outcome == Applied()
        assert server.statistics().frames_malformed == 0


async def test_a_remote_log_brings_what_the_embedded_one_brings(tmp_path):
    """Every field of every recorded event is equal; unknown types are kept as such; a filter filters."""
    path = tmp_path / "a.db"
    options = {"events": [InvoiceCreated]}
    message = MessageUpdated("m", "user", {"é": None})
    async with (
        served(path, engine_options=options) as (engine, server),
        connected(server.url) as client,
        connected(server.url, events=[InvoiceCreated]) as knowing,
    ):
        for name in ("s", "t"):
            session = await knowing.create_session(name)
            await session.append(InvoiceCreated(7), Envelope(message, "id", 5, "cause"), PartUpdated("p", "m", "x"))
        async with knowing.log(after=START, session_id="t") as log:
            assert await events_of(log, last_seq=4) == await stored(engine, session_id="t")
        async with client.log(session_id=["t", "other"]) as log:
            found = await events_of(log, last_seq=4)
        assert found[1].event == UnknownEvent("invoice.created", 1, '{"amount":7}')
        assert found[2].event == message


async def test_a_log_from_head_begins_when_it_is_entered(tmp_path):
    """What is committed after entering comes, whoever writes it, nothing before it; caught up says when it is live."""
    async with served(tmp_path / "a.db") as (engine, server), connected(server.url) as client:
        session = await engine.create_session("s")
        async with client.log(after=HEAD) as log:
            await session.append(SessionNoted("n", "k"))
            assert [item.seq for item in await events_of(log, last_seq=2)] == [2]
        async with client.log(after=HEAD) as log:
            item = await anext(log)
            assert isinstance(item, CaughtUp)
            assert log.cursor == item.cursor


async def test_one_log_more_than_the_server_allows_is_refused_when_it_is_entered(tmp_path):
    """LimitError, and the others go on; there is room again when one is left."""
    async with (
        served(tmp_path / "a.db", limits=ServerLimits(subscriptions_max=1)) as (_, server),
        connected(server.url) as client,
    ):
        async with client.log() as log:
            with pytest.raises(LimitError):
                await client.log().__aenter__()
            assert isinstance(await anext(log), CaughtUp)
        async with client.log() as log:
            assert isinstance(await anext(log), CaughtUp)


async def test_a_token_for_reading_reads_and_is_told_that_it_may_not_write(tmp_path):
    """ForbiddenError for what writes; the log and reads work; the workspace is the token's."""
    tokens = [Token(SECRET, "acme", "read"), Token("w" * 16, "acme")]
    async with (
        served(tmp_path / "a.db", tokens=tokens) as (_, server),
        connected(server.url, token="w" * 16) as writer,
        connected(server.url, token=SECRET) as client,
    ):
        await writer.create_session("s")
        assert (client.workspace, client.access, writer.access) == ("acme", "read", "write")
        session = await client.session("s")
        with pytest.raises(ForbiddenError):
            await session.append(SessionNoted("n", "k"))
        await session.post(SessionNoted("n", "k"))
        with pytest.raises(ForbiddenError):
            await session.flush()
        async with client.log() as log:
            assert [item.seq for item in await events_of(log, last_seq=1)] == [1]


@pytest.mark.parametrize(("here", "there"), [(4, 64), (64, 3)])
async def test_more_calls_than_a_limit_wait_for_each_other(tmp_path, here, there):
    """Beyond the client's commands_max callers wait, beyond the server's their commands; all are answered."""
    limits = attrs.evolve(QUICK, commands_max=here)
    async with (
        served(tmp_path / "a.db", limits=ServerLimits(commands_max=there)) as (_, server),
        connected(server.url, limits=limits) as client,
    ):
        session = await client.create_session("s")
        seqs = []

        async def append(number):
            seqs.append((await session.append(SessionNoted(f"n{number}", "k"))).seq)
            assert client.statistics().commands_waiting <= here

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(append, number)
        assert sorted(seqs) == list(range(2, 52))


async def test_a_posts_failure_is_raised_by_the_handles_next_call(tmp_path, caplog):
    """As embedded: logged, counted, raised once, by whichever call comes next."""
    async with served(tmp_path / "a.db") as (_, server), connected(server.url) as client:
        session, other = await client.create_session("s"), await client.session("s")
        with caplog.at_level(logging.WARNING, "engine.client"):
            await session.post(PartDelta("p", "m", "text", 0, "x"))
            await other.flush()
            with pytest.raises(Exception, match="never announced"):
                await session.append(SessionNoted("n", "k"))
        assert "a post to session 's' failed" in caplog.text
        assert client.statistics().posts_failed == 1
        await session.append(SessionNoted("n", "k"))


# --- connections that break -------------------------------------------------------------------------------


async def test_a_log_goes_on_without_gap_or_duplicate_over_connections_cut_at_any_byte(tmp_path):
    """Every connection is cut after another number of bytes, and the reader has every event once and in order."""
    async with served(tmp_path / "a.db") as (engine, server), proxy(server.port) as between:
        session = await engine.create_session("s")
        for number in range(40):
            await session.append(SessionNoted(f"n{number}", "k", {"text": "x" * (7 * number)}))
        between.plan = lambda number: (None, 150 + 97 * number if number < 60 else None)
        async with connected(between.url) as client, client.log(after=START) as log:
            found = []
            async for item in log:
                if isinstance(item, RecordedEvent):
                    found.append(item)
                    if item.seq < 80:
                        await session.append(SessionNoted(f"m{item.seq}", "k"))
                    if item.seq == 81:
                        break
            assert client.statistics().reconnects > 10
            assert client.statistics().resumed_subscriptions > 10
        assert found == (await stored(engine))[: len(found)]
        assert found[-1].seq == 81


@pytest.mark.parametrize("direction", [0, 1])
async def test_commands_cut_off_at_any_byte_are_carried_out_once(tmp_path, direction):
    """Whether the command or its answer is cut, the caller gets one answer, Applied, and the log has one event."""
    async with served(tmp_path / "a.db") as (engine, server), proxy(server.port) as between:
        await engine.create_session("s")
        step = 61 if direction == 0 else 83

        def plan(number):
            limits = [None, None]
            limits[direction] = 260 + step * number if 0 < number < 30 else None
            return tuple(limits)

        between.plan = plan
        async with connected(between.url) as client:
            session = await client.session("s")
            between.cut()
            for number in range(60):
                receipt = await session.append(SessionNoted(f"n{number}", "k"))
                assert receipt.outcome == Applied()
                assert receipt.seq == number + 2
            assert client.statistics().reconnects > 5
        assert [item.event.note_id for item in (await stored(engine))[1:]] == [f"n{number}" for number in range(60)]


async def test_an_answer_that_was_lost_is_given_again(tmp_path):
    """The command arrives, its answer does not: after the reconnect the caller sees what happened the first time."""
    async with (
        served(tmp_path / "a.db") as (engine, server),
        proxy(server.port) as between,
        connected(between.url) as client,
    ):
        session = await client.create_session("s")
        between.deaf = True
        results = []

        async def append(*items):
            results.append(await session.append(*items))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, SessionNoted("n", "k"), Envelope(SessionNoted("o", "k"), "mine"))
            async with engine.log(after=HEAD, follow=True) as log:
                while len(await stored(engine)) < 3:
                    await anext(log)
            between.deaf = False
            between.cut()
        own, brought = results[0].events
        assert (own.outcome, own.seq) == (Applied(), 2)
        assert isinstance(brought.outcome, Duplicate)
        assert brought.outcome.original.outcome == Applied()
        assert client.statistics().resent_commands == 1
        assert len(await stored(engine)) == 3


async def test_posts_are_neither_lost_nor_doubled_over_cut_connections(tmp_path):
    """Streamed text over connections that are cut all the time is there, whole, after a flush."""
    async with served(tmp_path / "a.db") as (engine, server), proxy(server.port) as between:
        between.plan = lambda number: (700 + 211 * number, None) if 0 < number < 25 else (None, None)
        async with connected(between.url) as client:
            session = await client.create_session("s")
            await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text"))
            between.cut()
            text = "".join(f"<{number}>" for number in range(1_500))
            for start in range(0, len(text), 4):
                await session.post(PartDelta("p", "m", "text", start, text[start : start + 4]))
            await session.flush()
            assert client.statistics().posts_waiting == 0
            assert client.statistics().reconnects > 5
        assert (await engine.read.message("s", "m")).parts[0].data["text"] == text


async def test_more_posts_than_the_bound_wait_until_some_are_durable(tmp_path):
    """The client flushes by itself, so that posting goes on for ever without a flush of the caller's."""
    limits = attrs.evolve(QUICK, posts_events_max=10)
    async with served(tmp_path / "a.db") as (engine, server), connected(server.url, limits=limits) as client:
        session = await client.create_session("s")
        for number in range(100):
            await session.post(SessionNoted(f"n{number}", "k"))
            assert client.statistics().posts_waiting <= 10
        await session.flush()
        assert len(await stored(engine)) == 101


async def test_leaving_the_block_waits_until_what_was_posted_is_durable(tmp_path):
    """Nothing that was accepted is lost by leaving, and leaving by cancellation is leaving."""
    async with served(tmp_path / "a.db") as (engine, server):
        async with connected(server.url) as client:
            session = await client.create_session("s")
            await session.post(SessionNoted("n0", "k"))
        assert len(await stored(engine)) == 2
        with trio.CancelScope() as scope:
            async with connected(server.url) as client:
                session = await client.session("s")
                await session.post(SessionNoted("n1", "k"))
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert len(await stored(engine)) == 3


# --- servers that go and come ---------------------------------------------------------------------------


async def test_a_restarted_server_is_no_event_for_anybody(tmp_path):
    """The process is another one, the file the same: logs go on, waiting commands and posts are carried out."""
    async with proxy(None) as between, trio.open_nursery() as nursery:
        backend = Backend(nursery, between)
        await backend.start(tmp_path / "a.db")
        results = []
        async with connected(between.url) as client:
            session = await client.create_session("s")
            async with client.log(after=START) as log:
                assert [item.seq for item in await events_of(log, last_seq=1)] == [1]
                await backend.stop()

                async def append():
                    results.append(await session.append(SessionNoted("n", "k")))

                await session.post(SessionNoted("posted", "k"))
                nursery.start_soon(append)
                await between.connected(between.connections + 2)
                engine = await backend.start(tmp_path / "a.db")
                found = await events_of(log, last_seq=3)
                assert [item.event.note_id for item in found] == ["posted", "n"]
        assert results[0].seq == 3
        assert [item.seq for item in await stored(engine)] == [1, 2, 3]
        await backend.stop()


async def test_another_file_behind_the_server_is_a_reset(tmp_path):
    """A cursor that the new file never gave is refused, and the log says so as its last item."""
    async with proxy(None) as between, trio.open_nursery() as nursery:
        backend = Backend(nursery, between)
        await backend.start(tmp_path / "a.db")
        async with connected(between.url) as client:
            await client.create_session("s")
            async with client.log(after=START) as log:
                await events_of(log, last_seq=1)
                cursor = log.cursor
                await backend.stop()
                await backend.start(tmp_path / "b.db")
                items = [item async for item in log]
            assert isinstance(items[-1], Reset)
            assert items[-1].cursor is None
            assert not any(isinstance(item, RecordedEvent) for item in items)
            # The same holds for a new log with the old cursor.
            async with client.log(after=cursor) as other:
                assert [type(item) async for item in other] == [Reset]
        await backend.stop()


async def test_a_half_open_connection_is_noticed_and_made_again(tmp_path):
    """The line swallows everything and stays: pings find out, and what waited goes on."""
    limits = attrs.evolve(QUICK, ping_s=0.05)
    async with served(tmp_path / "a.db") as (engine, server), proxy(server.port) as between:
        async with connected(between.url, limits=limits) as client:
            session = await client.create_session("s")
            async with client.log(after=HEAD) as log:
                between.muted = True
                heard = between.connections

                async def heal():
                    await between.connected(heard + 1)
                    between.muted = False

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(heal)
                    assert (await session.append(SessionNoted("n", "k"))).outcome == Applied()
                assert [item.seq for item in await events_of(log, last_seq=2)] == [2]
        assert len(await stored(engine)) == 2


async def test_a_slow_reader_is_told_and_holds_nobody_up(tmp_path):
    """One log is not read at all beside one that is: the fast one has everything, the slow one all of it later."""
    limits = attrs.evolve(QUICK, buffer_events_max=20)
    async with served(tmp_path / "a.db") as (engine, server), connected(server.url, limits=limits) as client:
        session = await client.create_session("s")
        async with client.log(after=START) as slow, client.log(after=START) as fast:
            for number in range(300):
                await session.append(SessionNoted(f"n{number}", "k"))
                await events_of(fast, last_seq=number + 2)
            assert client.statistics().lagging == 1
            items = []
            async for item in slow:
                items.append(item)
                if isinstance(item, RecordedEvent) and item.seq == 301:
                    break
        assert any(isinstance(item, Lagging) and item.dropped > 0 for item in items)
        assert [item for item in items if isinstance(item, RecordedEvent)] == await stored(engine)


# --- what ends a client -----------------------------------------------------------------------------------


async def test_a_token_that_is_not_accepted_is_told_at_once(tmp_path):
    """UnauthorizedError, from connect, and the server is asked once."""
    options = {"tokens": [Token(SECRET)], "limits": ServerLimits(handshake_s=0.2)}
    async with served(tmp_path / "a.db", **options) as (_, server), proxy(server.port) as between:
        for token in ("w" * 16, None):
            with pytest.raises(UnauthorizedError):
                async with connected(between.url, token=token):
                    pass
        assert between.connections == 2


async def test_a_token_that_is_taken_away_ends_every_wait(tmp_path):
    """After a restart the server knows the token no more: waiting calls, logs, posts and later calls all say so."""
    errors = []

    async def fails(call):
        with pytest.raises(UnauthorizedError) as caught:
            await call()
        errors.append(caught.value)

    async def read(log):
        async for _ in log:
            pass

    async def enter(client):
        async with client.log():
            pass

    async with proxy(None) as between, trio.open_nursery() as nursery:
        backend = Backend(nursery, between)
        await backend.start(tmp_path / "a.db", tokens=[Token(SECRET)])
        async with connected(between.url, token=SECRET) as client:
            session = await client.create_session("s")
            async with client.log(after=HEAD) as log:
                await backend.stop()
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(fails, lambda: session.append(SessionNoted("n", "k")))
                    waiting.start_soon(fails, lambda: read(log))
                    await backend.start(tmp_path / "a.db", tokens=[Token("another-secret-now")])
                assert len(errors) == 2
                assert errors[0] is not errors[1]
                await fails(lambda: session.append(SessionNoted("n", "k")))
                await fails(lambda: session.post(SessionNoted("n", "k")))
                await fails(lambda: enter(client))
        await backend.stop()


async def test_where_nobody_listens_connect_gives_up_after_its_time():
    """UnreachableError that says why, after connect_s and several attempts."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    with pytest.raises(UnreachableError, match=f"connect to ws://127.0.0.1:{port}: .*failed"):
        async with connected(f"ws://127.0.0.1:{port}", limits=attrs.evolve(QUICK, connect_s=0.1)):
            pass


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot here\n", "HTTP 404: not here"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "HTTP 400"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "HTTP 403"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not talk WebSocket"),
        (b"\x00\xff" * 100, "does not talk WebSocket"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP 200"),
    ],
)
async def test_something_that_is_no_such_server_is_told_at_once(answer, error):
    """ProtocolError with what it said, after one attempt."""
    attempts = []

    async def handle(stream):
        attempts.append(1)
        async with stream:
            await stream.receive_some(10_000)
            await stream.send_all(answer)
            await stream.receive_some(10_000)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(ProtocolError, match=error):
            async with connected(f"ws://127.0.0.1:{port}/path?q=1"):
                pass
        nursery.cancel_scope.cancel()
    assert attempts == [1]


@pytest.mark.parametrize(
    ("subprotocol", "says", "error"),
    [
        (None, None, "expected subprotocol 'engine.v1', found None"),
        ("engine.v1", '{"type":"subscribed","id":"x","cursor":"a-1"}', "'subscribed' came before 'hello'"),
        ("engine.v1", "no json", "no frame"),
        ("engine.v1", None, "no hello in time"),
    ],
)
async def test_a_websocket_of_somebody_else_is_told_at_once(subprotocol, says, error):
    """Another subprotocol, no hello, or nonsense for one: ProtocolError."""

    async def handle(request):
        connection = await request.accept(subprotocol=subprotocol)
        if says is not None:
            await connection.send_message(says)
        with pytest.raises(ConnectionClosed):
            await connection.get_message()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, None)
        with pytest.raises(ProtocolError, match=error):
            async with connected(f"ws://127.0.0.1:{server.port}", limits=attrs.evolve(QUICK, connect_s=0.5)):
                pass
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "ws://",
        "ws://u:p@localhost",
        "ws://localhost:99999",
        "ws://localhost/ x",
        "ws://h/#f",
        "ws://h:0",
        7,
    ],
)
async def test_a_url_that_makes_no_sense_is_refused_before_anything_is_dialled(url):
    """InvalidArgumentError that names the argument."""
    with pytest.raises(InvalidArgumentError) as wrong:
        async with connect(url):
            pass
    assert wrong.value.argument == "url"


@pytest.mark.parametrize("token", ["with space", "new\nline", "", "é"])
async def test_a_token_that_would_break_the_header_is_refused(token):
    """InvalidArgumentError that does not show it."""
    with pytest.raises(InvalidArgumentError) as wrong:
        async with connect("ws://localhost", token=token):
            pass
    assert wrong.value.argument == "token"
    assert not token or token not in str(wrong.value)


# --- leaving and cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("commands_max", [1, 64])
async def test_what_still_waits_when_the_client_closes_says_whether_it_went_out(tmp_path, commands_max):
    """On its way: ConnectionLostError, written unknown. Not sent, or waiting for others: ClosedError, nothing written."""
    limits = attrs.evolve(QUICK, close_s=0.05, commands_max=commands_max)
    errors = {}

    async def fails(name, call):
        try:
            await call()
        except (ConnectionLostError, ClosedError) as problem:
            errors[name] = problem

    async with served(tmp_path / "a.db") as (engine, server), proxy(server.port) as between, trio.open_nursery() as nursery:
        async with connected(between.url, limits=limits) as client:
            session = await client.create_session("s")
            between.deaf = True
            nursery.start_soon(fails, "sent", lambda: session.append(SessionNoted("n", "k")))
            async with engine.log(after=HEAD, follow=True) as log:
                while len(await stored(engine)) < 2:
                    await anext(log)
            between.target = None
            before = between.connections
            between.cut()
            await between.connected(before + 1)
            nursery.start_soon(fails, "waiting", lambda: session.append(SessionNoted("o", "k")))
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ClosedError):
            await session.append(SessionNoted("p", "k"))
    assert isinstance(errors["sent"], ConnectionLostError)
    assert errors["sent"].written == "unknown"
    assert isinstance(errors["waiting"], ClosedError)
    assert errors["waiting"].written == "nothing"


async def test_a_cancelled_call_that_had_not_gone_out_never_does(tmp_path):
    """Withdrawn while there was no connection, it is not sent with the next one."""
    async with (
        served(tmp_path / "a.db") as (engine, server),
        proxy(server.port) as between,
        connected(between.url) as client,
    ):
        session = await client.create_session("s")
        between.target = None
        between.cut()
        await between.connected(between.connections + 1)
        assert not client.statistics().connected
        with trio.move_on_after(0.01) as scope:
            await session.append(SessionNoted("cancelled", "k"))
        assert scope.cancelled_caught
        between.target = server.port
        assert (await session.append(SessionNoted("kept", "k"))).seq == 2
        assert [item.event.note_id for item in (await stored(engine))[1:]] == ["kept"]


async def test_the_bodys_exceptions_come_out_as_they_are(tmp_path):
    """Not in groups, also beside a log that is open."""

    async def body(url):
        async with connected(url) as client, client.log() as log:
            assert isinstance(await anext(log), CaughtUp)
            raise KeyError("body")

    async with served(tmp_path / "a.db") as (_, server):
        with pytest.raises(KeyError):
            await body(server.url)


async def test_a_log_of_a_closed_client_ends(tmp_path):
    """As the embedded one ends with its engine; a new one is refused."""
    async with served(tmp_path / "a.db") as (_, server):
        async with connected(server.url) as client:
            log = client.log()
            await log.__aenter__()
        assert [type(item) async for item in log] in ([], [CaughtUp])
        with pytest.raises(ClosedError):
            async with client.log():
                pass


# --- TLS ----------------------------------------------------------------------------------------------------


def certified(path):
    """A certificate for localhost, and its key."""
    certificate, key = path / "c.pem", path / "k.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*make, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


async def test_wss_trusts_whom_it_is_told_to_trust(tmp_path):
    """With a context that knows the certificate it works; without, ProtocolError says that it is not trusted."""
    certificate, key = certified(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with served(tmp_path / "a.db", ssl_context=context) as (_, server):
        url = f"wss://localhost:{server.port}"
        async with connected(url, ssl_context=trusting) as client:
            assert (await client.create_session("s")).id == "s"
        for wrong in (url, f"wss://127.0.0.1:{server.port}"):
            with pytest.raises(ProtocolError, match="certificate is not trusted"):
                async with connected(wrong, ssl_context=None if wrong is url else trusting):
                    pass
        with pytest.raises((ProtocolError, UnreachableError)):
            async with connected(f"ws://localhost:{server.port}", limits=attrs.evolve(QUICK, connect_s=0.5)):
                pass
    async with served(tmp_path / "b.db") as (_, server):
        with pytest.raises(UnreachableError, match="TLS"):
            async with connected(f"wss://localhost:{server.port}", limits=attrs.evolve(QUICK, connect_s=0.5)):
                pass
        with pytest.raises(InvalidArgumentError):
            async with connected(server.url, ssl_context=trusting):
                pass
