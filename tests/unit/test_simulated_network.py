"""The network in memory as a network: streams by trio's own rules, listeners, refusals, backpressure, broken ends."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from engine import simulation
from engine.ports import Network
from engine.simulation import Simulation
from engine.simulation.network import BACKLOG_MAX, BUFFER_BYTES_MAX, SimulatedNetwork, SimulatedStream
from engine.simulation.network.directions import Direction

Pair = tuple[SimulatedStream, SimulatedStream]


async def pair(network: SimulatedNetwork, server: SimulatedNetwork | None = None) -> Pair:
    """The two ends of a connection: who opened it, who accepted it."""
    listening = await (server or network).listen("localhost", 0)
    client = await network.connect("localhost", listening.port)
    (listener,) = listening.listeners
    accepted = await listener.accept()
    assert isinstance(accepted, SimulatedStream)
    await listener.aclose()
    return client, accepted


def makers(network: SimulatedNetwork) -> tuple[Callable[[], Awaitable[Pair]], Callable[[], Awaitable[Pair]]]:
    """What trio's checks want: makers of a fresh connection, and of one whose sender has filled the buffer."""

    async def fresh() -> Pair:
        return await pair(network)

    async def clogged() -> Pair:
        one, other = await pair(network)
        for stream in (one, other):
            await stream.send_all(b"x" * BUFFER_BYTES_MAX)
        return one, other

    return fresh, clogged


async def test_streams_keep_trios_rules():
    """Trio's own checks of two-way streams pass on plain trio."""
    await trio.testing.check_two_way_stream(*makers(SimulatedNetwork()))


@pytest.mark.parametrize(("driver", "mode"), [("hook", "await"), ("gate", "macro"), ("gate", "await")])
def test_streams_keep_trios_rules_in_a_run(driver, mode):
    """They pass in a run too, wherever the driver does not go on over checkpoints (the checks count those)."""

    async def scenario(sim: Simulation) -> None:
        await trio.testing.check_one_way_stream(*makers(sim.network))

    result = simulation.run(scenario, driver=driver, mode=mode, faults=("timeout",), steps_max=200_000)
    if result.error is not None:
        raise result.error
    assert len(result.steps) > 100


async def served(network: Network, port: int) -> list[bytes]:
    """What three clients are answered by a server that says everything twice."""

    async def twice(stream: trio.abc.Stream) -> None:
        async for data in stream:
            await stream.send_all(data * 2)

    answers: list[bytes] = []
    async with trio.open_nursery() as nursery:
        listening = await network.listen("127.0.0.1", port)
        nursery.start_soon(trio.serve_listeners, twice, list(listening.listeners))
        for number in range(3):
            stream = await network.connect("localhost", listening.port)
            await stream.send_all(b"%d" % number)
            answers.append(bytes(await stream.receive_some()))
            await stream.aclose()
        nursery.cancel_scope.cancel()
    return answers


@pytest.mark.parametrize("port", [0, 8080])
async def test_listeners_are_served_as_real_ones_are(port):
    """`trio.serve_listeners` serves them; an own address has many names."""
    assert await served(SimulatedNetwork(), port) == [b"00", b"11", b"22"]


def test_listeners_are_served_in_a_run():
    """The same in a simulated run, where each handler is named after the connection it serves."""

    async def scenario(sim: Simulation) -> None:
        async with sim.actors() as actors:
            actors.start("everybody", lambda: served(sim.network, 0))

    result = simulation.run(scenario)
    assert result.error is None
    handlers = dict.fromkeys(step.actor for step in result.steps if "_run_handler" in step.actor)
    assert list(handlers) == [
        "everybody/serve_listeners/_run_handler for everybody",
        "everybody/serve_listeners/_run_handler for everybody (2)",
        "everybody/serve_listeners/_run_handler for everybody (3)",
    ]


async def test_nobody_is_reached_where_nobody_listens():
    """A connection is refused before anybody listens, after the listener closed, and on another port or host."""
    network = SimulatedNetwork()
    listening = await network.listen("localhost", 80)
    for host, port in (("localhost", 81), ("elsewhere", 80)):
        with pytest.raises(ConnectionRefusedError, match=f"connect to {host}:{port}"):
            await network.connect(host, port)
    await listening.listeners[0].aclose()
    with pytest.raises(ConnectionRefusedError):
        await network.connect("localhost", 80)


async def test_an_address_is_taken_once_and_free_again_after_a_close():
    """A second listener is refused; port 0 is the lowest free one, the same every time."""
    network = SimulatedNetwork()
    first = await network.listen("localhost", 0)
    second = await network.listen("localhost", 0)
    assert second.port == first.port + 1
    with pytest.raises(OSError, match="listen on") as refusal:
        await network.listen("127.0.0.1", first.port)
    assert refusal.value.errno == errno.EADDRINUSE
    await first.listeners[0].aclose()
    assert (await network.listen("localhost", 0)).port == first.port


async def test_whoever_was_not_accepted_is_cut_off_with_the_listener(autojump_clock):
    """A connection that waits to be accepted breaks when the listener closes; accepting from it raises."""
    network = SimulatedNetwork()
    listening = await network.listen("localhost", 0)
    (listener,) = listening.listeners
    stream = await network.connect("localhost", listening.port)
    await listener.aclose()
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(1):
        await stream.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_a_reader_who_does_not_read_stops_its_writer(autojump_clock):
    """The buffer takes so many bytes; the rest of a send waits until they are read, and then goes on."""
    client, server = await pair(SimulatedNetwork())
    data = bytes(itertools.islice(itertools.cycle(range(251)), 3 * BUFFER_BYTES_MAX))
    with trio.move_on_after(1) as waited:
        await client.send_all(data)
    assert waited.cancelled_caught
    got = b""
    while len(got) < BUFFER_BYTES_MAX:
        got += await server.receive_some(1000)
    assert got == data[:BUFFER_BYTES_MAX]
    with trio.move_on_after(1) as waited:
        await server.receive_some()
    assert waited.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, data)
        got = b""
        while len(got) < len(data):
            got += await server.receive_some()
    assert got == data


async def test_after_a_close_comes_what_was_sent_and_then_the_end():
    """The other end reads everything first; what it sends then is taken once, and then refused."""
    client, server = await pair(SimulatedNetwork())
    await client.send_all(b"last words")
    await client.aclose()
    assert [await server.receive_some() for _ in range(3)] == [b"last words", b"", b""]
    await server.send_all(b"nobody reads this")
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"nor this")


async def test_a_close_with_unread_bytes_breaks_the_connection():
    """As TCP's reset: the other end reads what had arrived, and then no end but a break."""
    client, server = await pair(SimulatedNetwork())
    await client.send_all(b"unread")
    await server.send_all(b"sent before")
    await server.aclose()
    assert await client.receive_some() == b"sent before"
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")


async def test_what_is_behind_bytes_that_are_held_up_is_held_up_with_them():
    """A break takes both: nothing arrives behind what was lost."""
    direction = Direction()
    direction.put(b"there")
    direction.put(b"held up", 5.0)
    direction.put(b"behind")
    direction.break_off()
    assert direction.take(None) == b"there"
    with pytest.raises(trio.BrokenResourceError):
        direction.take(None)


async def test_a_process_dies_with_its_connections_and_listeners():
    """What it opened and accepted is closed, its addresses are free, and it reaches nobody any more; others live on."""
    network = SimulatedNetwork()
    process = network.process()
    client, server = await pair(network, process)
    other, friend = await pair(network)
    outgoing, far = await pair(process, network)
    listening = await process.listen("localhost", 7)
    await server.send_all(b"said before")
    process.die()
    assert [await client.receive_some() for _ in range(2)] == [b"said before", b""]
    assert await far.receive_some() == b""
    with pytest.raises(ConnectionRefusedError):
        await network.connect("localhost", listening.port)
    for dead in (server, outgoing):
        with pytest.raises(trio.BrokenResourceError, match="has died"):
            await dead.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError, match="has died"):
            await dead.receive_some()
        await dead.aclose()
    for late in (process.connect("localhost", 7), process.listen("localhost", 8)):
        with pytest.raises(OSError, match="has died"):
            await late
    await other.send_all(b"alive")
    assert await friend.receive_some() == b"alive"
    await network.listen("localhost", 7)


async def test_a_full_backlog_refuses():
    """A listener that accepts nobody does not collect connections without bound."""
    network = SimulatedNetwork()
    listening = await network.listen("localhost", 0)
    for _ in range(BACKLOG_MAX):
        await network.connect("localhost", listening.port)
    with pytest.raises(ConnectionRefusedError):
        await network.connect("localhost", listening.port)


async def test_one_task_at_a_time_sends_and_one_receives():
    """A second one is refused, also where the first one had no reason to wait for long."""
    client, _ = await pair(SimulatedNetwork())
    for attempt in (lambda: client.send_all(b"x"), client.receive_some):
        with pytest.RaisesGroup(trio.BusyResourceError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(attempt)
                nursery.start_soon(attempt)


async def test_a_stream_wants_to_read_at_least_a_byte():
    """Nothing and less is a mistake."""
    client, _ = await pair(SimulatedNetwork())
    with pytest.raises(ValueError, match="found 0"):
        await client.receive_some(0)
