"""How a server ends, whoever ends it, and what a bug in one connection does to the others."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.events import SessionNoted
from engine.projections import ReadModel
from engine.server import Server, serve
from tests.support.engines import Gate, checked_engine, count_rows
from tests.support.peers import Chain, Peer, eventually, note, peer, served, small


def _noted(n: int, text: str = "") -> SessionNoted:
    return SessionNoted(str(n), "test", {"text": text})


async def subscribed(client: Peer, name: str = "s", after: str = "start") -> None:
    """A subscription that has caught up."""
    await client.send("subscribe", id=name, after=after)
    await client.until(id=name, type="caught_up")


async def listen(url: str, heard: list[dict[str, Any]], task_status: trio.TaskStatus[None]) -> None:
    """Two subscriptions; whatever comes, and the close code."""
    async with peer(url) as client:
        await subscribed(client, "one")
        await subscribed(client, "two", "now")
        task_status.started()
        while not heard or heard[-1]["type"] != "closing":
            heard.append(await client.receive())
        heard.append({"type": "close", "code": (await client.closed())[0]})


@pytest.mark.parametrize("way", ["close", "cancel", "engine"])
async def test_clients_are_told_where_each_subscription_may_go_on(tmp_path: Path, way: str) -> None:
    """`closing` has the cursor of each, then 1001 follows: after `close`, cancellation, or the engine's end."""
    heard: list[dict[str, Any]] = []
    nurseries = trio.open_nursery(), trio.open_nursery()
    async with nurseries[0] as clients, nurseries[1] as servers, checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("a")
        server: Server = await servers.start(partial(serve, engine, port=0))
        await clients.start(listen, server.url, heard)
        await session.append(_noted(1))
        await eventually(lambda: len(heard) >= 2)
        if way == "close":
            await server.close()
        elif way == "cancel":
            servers.cancel_scope.cancel()
    *events, closing, close = heard
    assert closing["cursors"] == {frame["id"]: frame["cursor"] for frame in events}
    assert set(closing["cursors"]) == {"one", "two"}
    assert close["code"] == 1001
    assert server.statistics().connections == 0


async def test_after_the_end_nobody_is_accepted(tmp_path: Path) -> None:
    """The port is free again, and closing twice is fine."""
    async with served(tmp_path / "a.db") as (engine, server):
        await server.close()
        await server.close()
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", server.port)
        async with trio.open_nursery() as nursery:
            again: Server = await nursery.start(partial(serve, engine, port=server.port))
            async with peer(again):
                pass
            await again.close()


async def test_commands_that_were_read_are_carried_out_and_answered(tmp_path: Path) -> None:
    """The server waits for the writer; answers come after `closing` and before the close."""
    gate, path = Gate(), tmp_path / "a.db"
    opened = served(path, engine_options={"ports": gate.ports()})
    async with opened as (_, server), peer(server) as client, trio.open_nursery() as nursery:
        await client.ask("create", session_id="s")
        gate.close()
        for n in range(3):
            await client.send("append", id=f"a{n}", session_id="s", events=[note(n)])
        await eventually(lambda: server.statistics().commands >= 3)
        nursery.start_soon(server.close)
        assert (await client.receive())["type"] == "closing"
        gate.open()
        assert [(await client.receive())["id"] for _ in range(3)] == ["a0", "a1", "a2"]
        assert (await client.closed())[0] == 1001
    assert count_rows(path) == 4


async def test_a_command_that_does_not_end_holds_the_server_up_for_shutdown_s_only(tmp_path: Path) -> None:
    """It is given up then; what became of it is for a retry to find out."""
    gate, path = Gate(), tmp_path / "a.db"
    options = {"engine_options": {"ports": gate.ports()}, "limits": small(shutdown_s=0.1)}
    async with served(path, **options) as (_, server), peer(server) as client:
        await client.ask("create", session_id="s")
        gate.close()
        await client.send("append", id="a", session_id="s", events=[note(1)])
        await eventually(lambda: server.statistics().commands >= 1)
        with trio.fail_after(10):
            await server.close()
        gate.open()
        assert (await client.closed())[0] == 1001
    async with served(path) as (_, server), peer(server) as client:
        answer = await client.ask("append", id="a", session_id="s", events=[note(1)])
        assert answer["events"][0]["outcome"] in ("applied", "duplicate")
    assert count_rows(path) == 2


async def test_clients_that_do_not_read_and_handshakes_hold_nothing_up(tmp_path: Path) -> None:
    """Ending takes at most `shutdown_s` for commands and as long for goodbyes, whatever peers do."""
    async with served(tmp_path / "a.db", limits=small(shutdown_s=0.2, handshake_s=1_000)) as (engine, server):
        session = await engine.create_session("s")
        silent = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with silent, peer(server, receive_buffer=4_096) as client:
            await subscribed(client)
            for n in range(40):
                await session.append(*[_noted(n, "x" * 100_000) for _ in range(5)])
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.fail_after(10):
                await server.close()
        assert server.statistics().connections == 0


async def test_readers_resume_over_a_shutdown_without_gap_or_duplicate(tmp_path: Path) -> None:
    """A server that is closed while events stream, and another one after it: the chain does not break."""
    path = tmp_path / "a.db"
    chain = Chain()
    async with checked_engine(path) as engine, trio.open_nursery() as nursery:
        session = await engine.create_session("s")
        stop = trio.Event()
        count = 0

        async def write() -> None:
            nonlocal count
            while not stop.is_set():
                count += 1
                await session.append(_noted(count))

        nursery.start_soon(write)
        for _ in range(5):
            server: Server = await nursery.start(partial(serve, engine, port=0))
            async with peer(server) as client:
                await client.send("subscribe", id="s", after=chain.cursor)
                chain.begin(await client.receive())
                for _ in range(10):
                    chain.take(await client.receive())
                nursery.start_soon(server.close)
                while (frame := await client.receive())["type"] != "closing":
                    chain.take(frame)
                assert frame["cursors"] == {"s": chain.cursor}
            await server.close()
        stop.set()
        server = await nursery.start(partial(serve, engine, port=0))
        async with peer(server) as client:
            await client.send("subscribe", id="s", after=chain.cursor)
            chain.begin(await client.receive())
            while len(chain.positions) < count + 1:
                chain.take(await client.receive())
        await server.close()
    assert chain.positions == list(range(1, count + 2))


async def test_a_bug_ends_its_connection_with_1011_and_a_log_line_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a command and in a subscription: the neighbour's commands and events go on."""

    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ReadModel, "messages", broken)
    caplog.set_level(logging.ERROR, logger="engine.server")
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as steady:
        await engine.create_session("s")
        await subscribed(steady)
        async with peer(server) as client:
            await client.send("read", id="r", session_id="s")
            assert (await client.closed())[0] == 1011
        async with peer(server) as client:
            await client.send("subscribe", id="s", after="now")
            await client.until(type="caught_up")
            monkeypatch.setattr("engine.server.texts.encode_event", _explode)
            session = await engine.session("s")
            await session.append(_noted(1))
            assert (await client.closed())[0] == 1011
        monkeypatch.undo()
        assert (await steady.closed())[0] == 1011
        async with peer(server) as another:
            assert (await another.ask("append", session_id="s", events=[note(2)]))["type"] == "receipt"
        assert server.statistics().closed_failed == 3
        assert caplog.text.count("a bug") >= 3


def _explode(_recorded: object) -> str:
    raise ZeroDivisionError("a bug")


async def test_statistics_count_what_happened(tmp_path: Path) -> None:
    """Connections, subscriptions, commands, frames, events and bytes, during and after."""
    async with served(tmp_path / "a.db") as (_, server):
        async with peer(server) as client:
            await client.ask("create", session_id="s")
            await client.ask("append", session_id="s", events=[note(1)])
            await client.ask("open", session_id="nowhere")
            await subscribed(client)
            now = server.statistics()
            assert (now.connections, now.connections_total, now.subscriptions) == (1, 1, 1)
            assert (now.commands, now.commands_answered, now.commands_refused) == (0, 2, 1)
            assert (now.events_sent, now.frames_received, now.frames_malformed) == (2, 4, 0)
            assert now.bytes_sent > 1_000
            assert (now.encoded, now.encoded_again) == (2, 0)
        await eventually(lambda: not server.statistics().connections)
        after = server.statistics()
        assert (after.connections, after.connections_total, after.subscriptions) == (0, 1, 0)
        assert after.bytes_sent >= now.bytes_sent
