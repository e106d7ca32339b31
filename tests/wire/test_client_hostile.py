"""The client in front of servers that mean no good, and lines that break where it hurts."""

from __future__ import annotations

import attrs
import pytest
import trio

from engine.errors import LimitError, UnreachableError
from engine.ports import Ports
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
