"""When the client connects again: over a network in memory, with a clock that jumps."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.lowlevel
from trio.testing import memory_stream_pair
from trio_websocket import ConnectionClosed, wrap_server_stream

from engine.client import connect
from engine.errors import UnreachableError
from engine.events import Cursor
from engine.limits import ClientLimits
from engine.ports import Ports
from engine.server import ServerLimits, frames
from engine.server.access import Grant
from engine.server.protocol import ServerProtocol

LIMITS = ClientLimits(retry_first_s=1.0, retry_max_s=8.0, connect_s=1_000.0, ping_s=20.0)


@attrs.define
class Network:
    """What `connect` meets, attempt by attempt: a refusal, or a server that lives for so long. The last one stays."""

    nursery: trio.Nursery
    script: list[float | None]
    """Seconds until the server ends the connection after its hello; None refuses it."""
    says: str | None = None
    """What servers say then: `goodbye`, or some other text, which is no frame."""
    code: int = frames.GOING_AWAY
    """What they close with."""
    attempts: list[float] = attrs.field(factory=list)
    _tried: trio.Event = attrs.field(factory=trio.Event)

    async def connect(self, _host: str, _port: int) -> trio.abc.Stream:
        """One attempt."""
        self.attempts.append(trio.current_time())
        self._tried.set()
        lives = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if lives is None:
            raise OSError("nobody is there")
        mine, theirs = memory_stream_pair()
        self.nursery.start_soon(self._serve, mine, lives)
        return theirs

    async def _serve(self, stream: trio.abc.Stream, lives: float) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            connection = await request.accept(subprotocol=frames.SUBPROTOCOL)
            protocol = ServerProtocol(ServerLimits(), None)
            await connection.send_message(protocol.open(Grant(), epoch="a", head=Cursor("a", 0)))
            await trio.sleep(lives)
            try:
                if self.says is not None:
                    await connection.send_message(protocol.closing("x") if self.says == "goodbye" else self.says)
                await connection.aclose(self.code)
            except ConnectionClosed:
                pass
            nursery.cancel_scope.cancel()

    async def tried(self, count: int) -> None:
        """Wait until there were so many attempts."""
        while len(self.attempts) < count:
            self._tried = trio.Event()
            await self._tried.wait()

    def pauses(self) -> list[float]:
        """The seconds between attempts."""
        return [round(later - one, 3) for one, later in zip(self.attempts, self.attempts[1:], strict=False)]


def ports(network: Network, spread: float) -> Ports:
    """Ports with this network, and randomness that is always the same."""
    return Ports(network=network, random=lambda: spread)


@pytest.mark.parametrize(("spread", "factor"), [(0.0, 0.5), (0.5, 0.75)])
async def test_pauses_double_up_to_the_longest_and_are_spread(autojump_clock, spread, factor):
    """Each is 0.5 to 1 times its length, as the randomness says; connect gives up after its time."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery, [None])
        with pytest.raises(UnreachableError, match="nobody is there"):
            async with connect("ws://h", limits=attrs.evolve(LIMITS, connect_s=30.0), ports=ports(network, spread)):
                pass
    expected = [factor * pause for pause in (1, 2, 4, 8, 8)]
    assert network.pauses()[:5] == expected


async def test_a_hello_makes_the_next_pause_the_shortest_again(autojump_clock):
    """After every connection that worked, however many attempts it took."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery, [None, None, 10.0, None, 10.0, 10_000.0])
        async with connect("ws://h", limits=LIMITS, ports=ports(network, 1.0)):
            await network.tried(6)
        nursery.cancel_scope.cancel()
    assert network.pauses() == [1.0, 2.0, 11.0, 2.0, 11.0]


async def test_a_server_that_says_goodbye_is_tried_again_at_once_and_not_for_ever(autojump_clock):
    """Its successor may be there already; one that says goodbye right after its hello gets pauses."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery, [10.0, 0.0, 0.0, None, 10_000.0], says="goodbye")
        async with connect("ws://h", limits=LIMITS, ports=ports(network, 1.0)):
            await network.tried(5)
        nursery.cancel_scope.cancel()
    assert network.pauses() == [10.0, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("code", [frames.NORMAL, frames.TIMED_OUT])
async def test_a_server_that_hangs_up_right_after_its_hello_gets_longer_and_longer_pauses(autojump_clock, code):
    """Many clients in front of a server that dies of what it is sent must not hammer it."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery, [0.0, 0.0, 0.0, 0.0, 10_000.0], code=code)
        async with connect("ws://h", limits=LIMITS, ports=ports(network, 1.0)):
            await network.tried(5)
        nursery.cancel_scope.cancel()
    assert network.pauses() == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize("fault", [{"says": "{}"}, {"code": frames.INTERNAL}])
async def test_a_server_that_breaks_the_protocol_or_meets_a_bug_gets_longer_and_longer_pauses(autojump_clock, fault):
    """Its hello alone is no reason to hurry: what is sent again may bring the same again."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery, [1.0, 1.0, 1.0, 10_000.0], **fault)
        async with connect("ws://h", limits=LIMITS, ports=ports(network, 1.0)):
            await network.tried(4)
        nursery.cancel_scope.cancel()
    assert network.pauses() == [2.0, 3.0, 5.0]


async def test_statistics_say_whether_there_is_a_connection(autojump_clock):
    """Connected only between a hello and the loss, and how often it was made."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery, [10.0, None, 10_000.0])
        async with connect("ws://h", limits=LIMITS, ports=ports(network, 1.0)) as client:
            assert client.statistics().connected
            await trio.sleep(10.5)
            assert not client.statistics().connected
            await trio.sleep(10)
            statistics = client.statistics()
            assert (statistics.connected, statistics.attempts, statistics.reconnects) == (True, 3, 1)
        nursery.cancel_scope.cancel()
