"""Clients that are slow, silent, idle or too fast: what they cost, what they are told, and that nobody else notices
(promise 12)."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import trio
import trio.testing

from engine.events import SessionNoted
from tests.support.engines import Gate
from tests.support.peers import Chain, eventually, note, open_stream, peer, served, small

BUFFER = 4_096
"""The kernel's receive buffer of a client that shall be felt when it does not read."""


def large(n: int, size: int = 10_000) -> SessionNoted:
    """An event of about so many bytes."""
    return SessionNoted(str(n), "test", {"text": "x" * size})


async def test_a_client_that_does_not_read_is_told_and_resumed_and_delays_nobody(tmp_path: Path) -> None:
    """While it does not read, 30 MB are committed and another client has all of them; then it gets `lagging` and every event
    once, in order."""
    limits = small(buffer_events_max=50, buffer_bytes_max=200_000, page_events_max=20)
    async with served(tmp_path / "a.db", limits=limits) as (engine, server):
        session = await engine.create_session("s")
        async with peer(server) as quick, peer(server, receive_buffer=BUFFER) as slow:
            for client in (quick, slow):
                await client.send("subscribe", id="s", after="start")
            chain, kinds = Chain(), [""]
            chain.begin(await slow.receive())
            while kinds[-1:] != ["caught_up"]:
                chain.take(frame := await slow.receive())
                kinds.append(frame["type"])
            count = 300
            for n in range(count):
                await session.append(large(n, 100_000))
                seen = await quick.until(type="events")
                assert seen["events"][-1]["seq"] == n + 1 or seen["events"][-1]["seq"] == n + 2
            assert server.statistics().subscriptions == 2
            while len(chain.positions) < count + 1:
                frame = await slow.receive()
                kinds.append(frame["type"])
                chain.take(frame)
            assert "lagging" in kinds
            assert chain.positions == list(range(1, count + 2))
            assert server.statistics().lagging >= 1
            while (await slow.receive())["type"] != "caught_up":
                pass


async def test_what_a_client_costs_that_does_not_read_is_bounded(tmp_path: Path) -> None:
    """Memory after many times its buffers were committed is what it was after the buffers were full."""
    limits = small(buffer_events_max=20, buffer_bytes_max=100_000, encoded_bytes_max=100_000)
    async with served(tmp_path / "a.db", limits=limits) as (engine, server), peer(server, receive_buffer=BUFFER) as client:
        session = await engine.create_session("s")
        for index in range(5):
            await client.send("subscribe", id=f"s{index}", after="now")
            await client.until(type="caught_up")

        async def commit(count: int) -> int:
            for n in range(count):
                await session.append(large(n, 50_000))
                assert engine.statistics().subscriptions.buffered_bytes <= 5 * 150_000
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            full = await commit(200)
            more = await commit(200)
        finally:
            tracemalloc.stop()
        assert more - full < 1_000_000


async def test_a_connection_whose_socket_takes_nothing_is_closed(tmp_path: Path) -> None:
    """After `stalled_s`; its subscription is gone, the others' are not."""
    limits = small(stalled_s=0.3, ping_s=0.1)
    async with served(tmp_path / "a.db", limits=limits) as (engine, server), peer(server) as steady:
        session = await engine.create_session("s")
        await steady.ask("subscribe", id="s")
        async with peer(server, receive_buffer=BUFFER) as client:
            await client.ask("subscribe", id="s")
            with trio.fail_after(20):
                while not server.statistics().closed_stalled:
                    await session.append(large(1, 200_000))
                    await steady.until(type="events")
                await eventually(lambda: server.statistics().connections <= 1)
        assert server.statistics().subscriptions == 1
        assert (await steady.ask("open", session_id="s"))["type"] == "opened"


async def test_a_slow_client_that_does_read_is_not_closed(tmp_path: Path) -> None:
    """One that takes longer than `stalled_s` and `ping_s` for everything, but goes on taking, stays connected."""
    limits = small(stalled_s=0.5, ping_s=0.2, buffer_events_max=10)
    async with served(tmp_path / "a.db", limits=limits) as (engine, server):
        session = await engine.create_session("s")
        for n in range(60):
            await session.append(large(n, 100_000))
        async with peer(server, receive_buffer=BUFFER) as client:
            await client.send("subscribe", id="s", after="start")
            chain = Chain()
            chain.begin(await client.receive())
            began = trio.current_time()
            while len(chain.positions) < 61:
                chain.take(await client.receive())
                await trio.sleep(0.03)
            assert trio.current_time() - began > 2 * limits.stalled_s
        statistics = server.statistics()
        assert (statistics.closed_stalled, statistics.closed_silent) == (0, 0)


async def test_a_peer_that_answers_no_ping_is_closed_with_4408(tmp_path: Path) -> None:
    """It gets pings, says nothing, and is told why it goes; one that answers stays."""
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: engine.v1\r\n\r\n"
    )
    async with served(tmp_path / "a.db", limits=small(ping_s=0.1, shutdown_s=0.1)) as (_, server), peer(server) as steady:
        stream = await open_stream(server.port)
        async with stream:
            await stream.send_all(upgrade)
            heard = b""
            with trio.fail_after(10):
                while data := await stream.receive_some():
                    heard += data
        assert b"\x89\x00" in heard
        assert b"\x88" + bytes((2 + len("no pong came"),)) + (4408).to_bytes(2, "big") + b"no pong came" in heard
        assert server.statistics().closed_silent == 1
        assert (await steady.ask("create", session_id="s"))["type"] == "receipt"


async def test_an_idle_connection_is_closed_and_one_that_follows_is_not(tmp_path: Path) -> None:
    """`idle_s` is for connections without a subscription and without a command on its way."""
    gate = Gate()
    options: dict[str, Any] = {"engine_options": {"ports": gate.ports()}, "limits": small(idle_s=1.0, ping_s=0.2)}
    async with served(tmp_path / "a.db", **options) as (engine, server), peer(server) as following, peer(server) as busy:
        session = await engine.create_session("s")
        await following.ask("subscribe", id="s")
        await following.until(type="caught_up")
        gate.close()
        await busy.send("append", id="a", session_id="s", events=[note(1)])
        async with peer(server) as idle:
            code, reason = await idle.closed()
            assert (code, reason) == (4408, "nothing was asked for")
        await trio.sleep(1.2)
        gate.open()
        assert (await busy.receive())["type"] == "receipt"
        await session.append(SessionNoted("n", "test"))
        assert len((await following.until(type="events"))["events"]) == 1
        assert (await busy.closed())[0] == 4408
        assert server.statistics().closed_idle == 2


async def test_frames_beyond_the_rate_wait_and_none_is_refused(tmp_path: Path) -> None:
    """A burst goes through at once, the rest at the rate; a client that sends too fast is not closed for missing pongs."""
    limits = small(frames_per_s=50.0, frames_burst=10, ping_s=0.05)
    async with served(tmp_path / "a.db", limits=limits) as (_, server), peer(server) as client:
        await client.ask("create", session_id="s")
        began = trio.current_time()
        for n in range(40):
            await client.send("open", id=f"o{n}", session_id="s")
        answers = [(await client.receive())["type"] for _ in range(40)]
        seconds = trio.current_time() - began
        assert answers == ["opened"] * 40
        assert seconds > 0.5
        assert server.statistics().closed_silent == 0


async def test_a_client_that_reads_no_answers_is_not_read_either(tmp_path: Path) -> None:
    """Large pages that wait to be sent stop the reading of further commands: nothing grows without a bound."""
    async with served(tmp_path / "a.db", limits=small(buffer_bytes_max=50_000)) as (engine, server):
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message(role="assistant") as message:
            await message.text("x" * 200_000)
        async with peer(server, receive_buffer=BUFFER) as client, trio.open_nursery() as nursery:

            async def ask() -> None:
                for n in range(150):
                    await client.send("read", id=f"r{n}", session_id="s")

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.2)
            read = server.statistics().frames_received
            assert read < 100
            for n in range(150):
                assert (await client.until(type="page"))["id"] == f"r{n}"


async def test_small_answers_that_nobody_reads_stop_the_reading_too(tmp_path: Path) -> None:
    """A client that asks and asks and reads nothing is stopped by its own socket; then it gets every answer."""
    limits = small(frames_per_s=1e6, frames_burst=10**6)
    async with served(tmp_path / "a.db", limits=limits) as (_, server), peer(server, receive_buffer=BUFFER) as client:
        name, count = "x" * 500, 12_000
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                for n in range(count):
                    await client.send("open", id=f"o{n}", session_id=name)

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert server.statistics().frames_received < count
            for n in range(count):
                assert (await client.receive())["id"] == f"o{n}"


async def test_a_command_of_a_client_that_went_away_ends_though_its_answer_has_no_room(tmp_path: Path) -> None:
    """Reads that wait for room give up waiting with the connection."""
    async with served(tmp_path / "a.db", limits=small(buffer_bytes_max=10_000)) as (engine, server):
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message(role="assistant") as message:
            await message.text("x" * 500_000)
        async with peer(server, receive_buffer=BUFFER) as client:
            for n in range(20):
                await client.send("read", id=f"r{n}", session_id="s")
            await trio.testing.wait_all_tasks_blocked(0.1)
            await trio.aclose_forcefully(client.socket._stream)
        with trio.fail_after(10):
            await eventually(lambda: not (server.statistics().commands or server.statistics().connections))
