"""Clients that must not feel each other: slow ones and quick ones, and those of two workspaces.

Owns: a line on which nobody reads. What must hold: whoever is slow costs bounded memory and delays nobody, is told, and
misses nothing; whoever is of another workspace is not there.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from engine.client import Client
from engine.errors import ForbiddenError, UnauthorizedError, UnknownSessionError
from engine.events import Envelope, SessionNoted
from engine.limits import ClientLimits, ServerLimits
from engine.ports import Listening, Network
from engine.runtime import Engine
from engine.server import Server, Token
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program
from engine.simulation.scenarios.live.serving import END, Follower, Live, end_note, session_of, told_of
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import log_of
from engine.simulation.world import Simulation

EVENTS: Final = 8
EVENT_BYTES: Final = 20_000
"""All of them are more than a connection's buffer holds."""
BUFFER_EVENTS_MAX: Final = 2


@attrs.define(eq=False)
class DeafNetwork:
    """A network whose connections are not read until `hears` is set: what comes stays in their buffers."""

    network: Network
    hears: trio.Event = attrs.field(factory=trio.Event)

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        """A stream that is not read while it is deaf."""
        return _DeafStream(await self.network.connect(host, port), self)

    async def listen(self, host: str, port: int) -> Listening:
        """As the network does."""
        return await self.network.listen(host, port)


class _DeafStream(trio.abc.Stream):
    def __init__(self, stream: trio.abc.Stream, owner: DeafNetwork) -> None:
        self._stream = stream
        self._owner = owner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self._owner.hears.wait()
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


def slow(noise: int) -> Program:
    """One client stops reading its socket, one its log; the writer and a quick one go on, and both get everything later."""

    async def scenario(sim: Simulation) -> None:
        go, written = trio.Event(), trio.Event()
        quick, lazy, deaf = Follower("quick"), Follower("lazy"), Follower("deaf")
        servers: list[Server] = []

        async def work(engine: Engine, server: Server) -> None:
            servers.append(server)
            sizes = engine._core.hub._subscribers
            sim.always("buffers are bounded", lambda: all(one.size[0] <= BUFFER_EVENTS_MAX for one in sizes))
            session = await session_of(engine)
            await go.wait()
            began = trio.current_time()
            for number in range(EVENTS):
                await session.append(SessionNoted(f"n{number}", "k", {"text": "x" * EVENT_BYTES}))
                await trio.lowlevel.checkpoint()
            await session.append(end_note())
            must("net" in sim.kinds or trio.current_time() == began, "the writer waits for no reader")
            written.set()

        live = Live(
            sim,
            work=work,
            limits=ServerLimits(buffer_events_max=BUFFER_EVENTS_MAX, page_events_max=BUFFER_EVENTS_MAX),
            client_limits=ClientLimits(buffer_events_max=BUFFER_EVENTS_MAX),
        )
        network = DeafNetwork(sim.network)
        network.hears.set()

        async def reading() -> None:
            async with live.client() as client, trio.open_nursery() as nursery:
                lazy.pause = written.wait
                nursery.start_soon(lazy.follow, client, name="lazy")
                await lazy.entered.wait()
                await deaf.entered.wait()
                go.set()
                await quick.follow(client)
                await written.wait()
                network.hears.set()

        async def not_reading() -> None:
            # Its own buffer is large: that it lags, only the server can tell it.
            async with live.client(network=network, limits=ClientLimits()) as client, trio.open_nursery() as nursery:
                nursery.start_soon(deaf.follow, client, name="deaf")
                await deaf.entered.wait()
                if not written.is_set():
                    network.hears = trio.Event()

        async with live.serving(), sim.actors() as actors:
            start_all(sim, actors, noise, live.noise, ("reading", reading), ("not reading", not_reading))
        async with sim.engine() as engine:
            events = await log_of(engine)
        for follower in (quick, lazy, deaf):
            follower.check(events)
        sim.sometimes("a slow client was told", deaf.lagging > 0)
        sim.sometimes("a slow reader was told", lazy.lagging > 0)

    return scenario


SECRETS: Final = {"acme": "secret-of-acme-alone", "zeta": "secret-of-zeta-alone", "acme read": "secret-of-a-reader"}
TOKENS: Final = (
    Token(SECRETS["acme"], workspace="acme", access="write"),
    Token(SECRETS["zeta"], workspace="zeta", access="write"),
    Token(SECRETS["acme read"], workspace="acme", access="read"),
)


def isolation(noise: int) -> Program:
    """Two tokens of two workspaces write and follow the same ids; a third may only read, a fourth is none."""

    async def scenario(sim: Simulation) -> None:
        live = Live(sim, tokens=TOKENS)
        whole = {name: Follower(name, session_id=None) for name in SECRETS}

        async def tenant(name: str) -> None:
            async with live.client(SECRETS[name]) as client, trio.open_nursery() as nursery:
                must(client.workspace == name, "a token stands for its workspace", client.workspace)
                nursery.start_soon(whole[name].follow, client, name=f"{name} follower")
                session = await client.create_session("s", title=name)
                await session.append(Envelope(SessionNoted("n", name), "e1"))
                await session.post(SessionNoted("p", name))
                await session.flush()
                if name == "zeta":
                    await session.remove()
                    session = await client.create_session("s", title=name)
                await session.append(end_note())

        async def reader() -> None:
            async with live.client(SECRETS["acme read"]) as client:
                await whole["acme read"].follow(client)
                await _may_only_read(client)

        async def stranger() -> None:
            await live.listening.wait()
            try:
                async with live.client("secret-of-nobody-here"):
                    must(False, "nobody comes in without a token")
            except UnauthorizedError:
                pass

        async with live.serving(), sim.actors() as actors:
            own = [("acme", lambda: tenant("acme")), ("zeta", lambda: tenant("zeta"))]
            start_all(sim, actors, 0, live.noise, *own, ("reader", reader), ("stranger", stranger))
        async with sim.engine() as engine:
            for name, follower in whole.items():
                events = await log_of(engine.workspace(name.partition(" ")[0]))
                follower.check(events)
                kinds = {item.event.kind for item in follower.events if item.type == "session.noted"}
                must(kinds == {name.partition(" ")[0], "end"}, f"{name}: sees only its own", kinds)
            must(list(map(told_of, whole["acme"].events)) == list(map(told_of, whole["acme read"].events)), "one workspace")
            try:
                await engine.session("s")
                must(False, "a third workspace has no such session")
            except UnknownSessionError:
                pass

    return scenario


async def _may_only_read(client: Client) -> None:
    session = await client.session("s")
    try:
        await session.append(Envelope(SessionNoted("x", "k"), END))
        must(False, "a token for reading writes nothing")
    except ForbiddenError:
        pass
