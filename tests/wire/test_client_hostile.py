"""The client in front of servers that mean no good, and lines that break where it hurts."""

from __future__ import annotations

from functools import partial

import attrs
import pytest
import trio
from trio_websocket import ConnectionClosed, serve_websocket

from engine.errors import ConnectionLostError, LimitError, UnreachableError
from engine.events import Cursor, SessionNoted
from engine.limits import ServerLimits
from engine.ports import Ports
from engine.server import frames
from engine.server.access import Grant
from engine.server.protocol import ServerProtocol
from tests.support.serving import QUICK, connected, served


class _Unsendable(trio.abc.Stream):
    """A connection that was made and reset before anything was sent."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError("reset by peer")

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_line_that_is_reset_before_the_handshake_went_out_is_tried_again_soon(autojump_clock):
    """The library stops reading then; nobody waits for `connect_s` on a line that is dead already."""
    attempts = []

    class Network:
        async def connect(self, _host: str, _port: int) -> trio.abc.Stream:
            attempts.append(trio.current_time())
            return _Unsendable()

    limits = attrs.evolve(QUICK, connect_s=3.0, retry_first_s=0.1, retry_max_s=0.1)
    with pytest.raises(UnreachableError, match="hung up during the handshake"):
        async with connected("ws://h", limits=limits, ports=Ports(network=Network())):
            pass
    assert len(attempts) >= 30


async def test_a_log_of_more_sessions_than_a_frame_holds_is_refused_and_harms_nothing_else(tmp_path):
    """LimitError when it is entered; sent, it would have ended the whole client with close 1009."""
    async with served(tmp_path / "a.db") as (_, server), connected(server.url) as client:
        with pytest.raises(LimitError) as refused:
            await client.log(session_id=[f"{number:0>150}" for number in range(30_000)]).__aenter__()
        assert refused.value.limit == "frame_bytes_max"
        assert (await client.create_session("s")).id == "s"
        assert client.statistics().attempts == 1


@pytest.mark.parametrize("posted", [False, True])
async def test_what_a_server_breaks_on_each_time_is_given_up_and_the_rest_gets_through(posted):
    """ConnectionLostError, whether it was written unknown, after `faults_max` connections; then others are served."""
    met = []

    async def handle(request):
        connection = await request.accept(subprotocol=frames.SUBPROTOCOL)
        protocol = ServerProtocol(ServerLimits(), None)
        await connection.send_message(protocol.open(Grant(), epoch="a", head=Cursor("a", 0)))
        while True:
            try:
                frame = frames.decode_client(await connection.get_message())
            except ConnectionClosed:
                return
            if isinstance(frame, frames.Post | frames.Append):
                met.append(frame.id)
                await connection.aclose(frames.INTERNAL)
                return
            answer = frames.Flushed(id=frame.id) if isinstance(frame, frames.Flush) else None
            opened = frames.Opened(id=frame.id, session_id="s", incarnation=1)
            await connection.send_message(frames.encode(answer or opened))

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handle, "127.0.0.1", 0, None))
        limits = attrs.evolve(QUICK, faults_max=3, close_s=0.1)
        async with connected(f"ws://127.0.0.1:{server.port}", limits=limits) as client:
            session = await client.session("s")
            if posted:
                await session.post(SessionNoted("n", "k"))
            with pytest.raises(ConnectionLostError) as given_up:
                await (session.flush() if posted else session.append(SessionNoted("n", "k")))
            assert given_up.value.written == "unknown"
            assert (await client.session("s")).incarnation == 1
            assert len(met) == 3
            assert len(set(met)) == 1
        nursery.cancel_scope.cancel()
