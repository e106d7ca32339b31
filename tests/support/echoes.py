"""Programs that talk over the simulated network with trio-websocket's own code: an echo server, clients that come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream, wrap_server_stream

from engine.ports import Network
from engine.simulation import Simulation

HOST, PORT = "echo", 80
FRAMES = ("one", "two", "three")
PATIENCE_S = 20.0
RETRIES_MAX = 50
LOST = (ConnectionClosed, HandshakeError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


async def echo(stream: trio.abc.Stream) -> None:
    """Serve one connection: say each frame back."""
    async with trio.open_nursery() as nursery:
        try:
            connection = await (await wrap_server_stream(nursery, stream)).accept()
            async with connection:
                while True:
                    await connection.send_message(await connection.get_message())
        except LOST:
            pass
        nursery.cancel_scope.cancel()


async def serve(network: Network, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """The echo server."""
    listening = await network.listen(HOST, PORT)
    task_status.started()
    await trio.serve_listeners(echo, list(listening.listeners))


@asynccontextmanager
async def connected(network: Network) -> AsyncIterator[WebSocketConnection]:
    """A client's connection; raises groups of `LOST`, or of `trio.TooSlowError`."""
    async with trio.open_nursery() as nursery:
        stream = await network.connect(HOST, PORT)
        with trio.fail_after(PATIENCE_S):
            connection = await wrap_client_stream(nursery, stream, HOST, "/")
        async with connection:
            yield connection
        nursery.cancel_scope.cancel()


async def talk(network: Network, said: list[str]) -> None:
    """Say every frame once and hear it back, over one connection."""
    async with connected(network) as connection:
        for frame in FRAMES:
            await connection.send_message(frame)
            with trio.fail_after(PATIENCE_S):
                said.append(str(await connection.get_message()))


async def insist(network: Network, said: list[str]) -> None:
    """Say every frame until it was heard back, over as many connections as that takes."""
    for _ in range(RETRIES_MAX):
        try:
            async with connected(network) as connection:
                while len(said) < len(FRAMES):
                    await connection.send_message(FRAMES[len(said)])
                    with trio.fail_after(PATIENCE_S):
                        said.append(str(await connection.get_message()))
        except* (*LOST, trio.TooSlowError):
            await trio.sleep(1)
        if len(said) == len(FRAMES):
            return
    raise AssertionError("the server never answered")


async def once(sim: Simulation) -> None:
    """A client that expects everything to go well."""
    said: list[str] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, sim.network))
        async with sim.actors() as actors:
            actors.start("client", talk, sim.network, said)
        nursery.cancel_scope.cancel()
    assert tuple(said) == FRAMES


async def patient(sim: Simulation) -> None:
    """Two clients that come back until they were answered."""
    heard: list[list[str]] = [[], []]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, sim.network))
        async with sim.actors() as actors:
            for number, said in enumerate(heard, 1):
                actors.start(f"client {number}", insist, sim.network, said)
        nursery.cancel_scope.cancel()
    assert [tuple(said) for said in heard] == [FRAMES, FRAMES]


async def restarting(sim: Simulation) -> None:
    """A client outside of the server's process, which dies and is started again until the client is content."""
    said: list[str] = []
    done = trio.Event()

    async def client() -> None:
        await insist(sim.network, said)
        done.set()

    async def server() -> None:
        while not done.is_set():
            async with sim.process() as process, trio.open_nursery() as nursery:
                await nursery.start(partial(serve, process.network))
                await done.wait()
                nursery.cancel_scope.cancel()
            sim.sometimes("the server's process died", process.crashed)

    async with sim.actors() as actors:
        actors.start("server", server)
        actors.start("client", client)
    assert tuple(said) == FRAMES
