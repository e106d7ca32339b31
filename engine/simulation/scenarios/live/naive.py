"""Live delivery as one would write it first: each breaks under some schedule, or the scenarios would prove nothing.

Owns: a log in memory with its fan-out, lines over streams, and three mistakes: a client that resumes by counting what it was
sent, a server that publishes and answers before it commits, and a client that sends an append again without an id.
Must not know: the engine.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import attrs
import trio

from engine.ports import Network
from engine.simulation.hosting import Process
from engine.simulation.oracles import must
from engine.simulation.primitives import point
from engine.simulation.scenarios.declaring import Program, Scenario, naive
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.networked import BROKEN, Lines, insisting, served
from engine.simulation.world import Simulation

EVENTS: Final = 3
PAUSE_S: Final = 0.1


@attrs.define(eq=False)
class Log:
    """Events, and whoever waits for more of them."""

    committed: list[str] = attrs.field(factory=list)
    changed: trio.Event = attrs.field(factory=trio.Event)

    def publish(self) -> None:
        """Wake whoever follows."""
        self.changed.set()
        self.changed = trio.Event()

    async def tell(self, lines: Lines, after: int) -> None:
        """Send every event behind a place, and then each new one."""
        while True:
            waiting = self.changed
            while after < len(self.committed):
                await lines.say(self.committed[after])
                after += 1
            await waiting.wait()


def resuming(noise: int) -> Program:
    """The server remembers how far it has sent, by the client's name, and goes on from there when the client comes back."""

    async def scenario(sim: Simulation) -> None:
        log, sent = Log(), dict[str, int]()
        given: dict[str, list[str]] = {}

        async def handler(stream: trio.abc.Stream) -> None:
            lines = Lines(stream)
            name = await lines.next()
            while name is not None:
                waiting = log.changed
                while sent.setdefault(name, 0) < len(log.committed):
                    await lines.say(log.committed[sent[name]])
                    sent[name] += 1
                await waiting.wait()

        async def follow(name: str) -> None:
            got = given[name] = []

            async def attempt(lines: Lines) -> None:
                await lines.say(name)
                while len(got) < EVENTS:
                    event = await lines.next()
                    if event is None:
                        raise trio.BrokenResourceError("the server hung up")
                    got.append(event)

            with trio.move_on_after(600):
                await insisting(sim.network, attempt)

        async def write() -> None:
            for number in range(EVENTS):
                await trio.sleep(PAUSE_S)
                log.committed.append(str(number))
                log.publish()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(served, sim.network, handler, name="server")
            async with sim.actors() as actors:
                start_all(
                    sim, actors, noise, lambda name, _: follow(name), ("follower", lambda: follow("f")), ("turn", write)
                )
            nursery.cancel_scope.cancel()
        for name, got in given.items():
            must(got == log.committed, f"{name}: the log, each event once, in order", (got, log.committed))

    return scenario


def announcing(noise: int) -> Program:
    """Followers are told before COMMIT, and go on behind what they received; the server's process dies in between."""

    async def scenario(sim: Simulation) -> None:
        disk: list[str] = []
        given: dict[str, list[str]] = {}
        go = trio.Event()
        lives = 0

        async def life(process: Process) -> None:
            nonlocal lives
            lives += 1
            log = Log(list(disk))

            async def handler(stream: trio.abc.Stream) -> None:
                lines = Lines(stream)
                place = await lines.next()
                if place is not None:
                    await log.tell(lines, int(place))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(served, process.network, handler, name="server")
                await go.wait()
                while len(disk) < EVENTS:
                    event = f"{len(disk)} of {lives}"
                    log.committed.append(event)
                    log.publish()
                    await trio.sleep(PAUSE_S)
                    await point("commit", writes=("disk",))
                    disk.append(event)

        async def follow(name: str) -> None:
            got = given[name] = []

            async def attempt(lines: Lines) -> None:
                await lines.say(len(got))
                go.set()
                while len(got) < EVENTS:
                    event = await lines.next()
                    if event is None:
                        raise trio.BrokenResourceError("the server hung up")
                    got.append(event)
                    await point("show", reads=("disk",))

            await insisting(sim.network, attempt)

        async def neighbour(name: str, amount: int) -> None:
            for _ in range(amount):
                await point("work", writes=(name,))

        async with sim.restarting(life), sim.actors() as actors:
            start_all(sim, actors, noise, neighbour, ("follower", lambda: follow("f")))
        for name, got in given.items():
            must(got[: len(disk)] == disk[: len(got)], f"{name}: what was told is the log", (got, disk))

    return scenario


def appending(noise: int) -> Program:
    """A client whose answer did not come sends its append again, and the server cannot know that it is the same."""

    async def scenario(sim: Simulation) -> None:
        log: list[str] = []

        async def handler(stream: trio.abc.Stream) -> None:
            lines = Lines(stream)
            while (line := await lines.next()) is not None:
                log.append(line)
                await lines.say(f"seq {len(log)}")

        async def write(network: Network, name: str) -> None:
            answered = 0

            async def attempt(lines: Lines) -> None:
                nonlocal answered
                while answered < EVENTS:
                    await lines.say(f"{name}.{answered}")
                    if await lines.next() is None:
                        raise trio.BrokenResourceError("the server hung up")
                    answered += 1

            with suppress(*BROKEN):
                await insisting(network, attempt)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(served, sim.network, handler, name="server")
            async with sim.actors() as actors:
                other = lambda name, _: write(sim.network, name)  # noqa: E731
                start_all(sim, actors, noise, other, ("writer", lambda: write(sim.network, "w")))
            nursery.cancel_scope.cancel()
        must(len(log) == len(set(log)), "each append once", log)

    return scenario


NAIVE: Final[tuple[Scenario, ...]] = (
    naive("7 resume", "A server goes on behind what it sent, not behind what was received.", resuming, "net"),
    naive("7 early", "Followers are told before COMMIT, and the process dies.", announcing, "crash"),
    naive("7 retry", "An append without an id is sent again when its answer was lost.", appending, "net"),
)
