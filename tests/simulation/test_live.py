"""A process that is restarted, and who lives on outside of it: the example of the documentation, and its edges."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from engine import simulation
from engine.client import connect
from engine.events import SessionNoted
from engine.server import serve
from engine.simulation import Simulation
from engine.simulation.errors import DeadlockError


async def served(sim: Simulation) -> None:
    """As the documentation shows it: a server that is started again, and a client that lives on."""

    async def life(process: object) -> None:
        async with sim.engine() as engine:
            await serve(engine, port=8765)

    async with (
        sim.restarting(life) as lives,
        connect("ws://127.0.0.1:8765", ports=sim.ports()) as client,
    ):
        session = await client.create_session("s")
        receipts = [await session.append(SessionNoted("n1", "k"))]
        lives.end()
        receipts.append(await session.append(SessionNoted("n2", "k")))
        assert [receipt.seq for receipt in receipts] == [2, 3]
        sim.note((lives.begun, lives.died))


def test_a_client_lives_on_while_the_server_is_restarted() -> None:
    """An end in order begins a second life; a crash a third."""
    result = simulation.run(served)
    assert (result.error, result.notes) == (None, ("(2, 0)",))
    place = next(step for step in result.trace if step.startswith("writer#commit"))
    assert simulation.run(served, f"c1:crash@{place}=process").notes == ("(3, 1)",)


def test_what_a_life_raises_fails_the_run() -> None:
    """Only a dead process's exceptions are nobody's."""

    async def scenario(sim: Simulation) -> None:
        async def life(process: object) -> None:
            await simulation.point("raises")
            raise ValueError("of the life")

        async with sim.restarting(life):
            await trio.sleep(1)

    assert isinstance(simulation.run(scenario).error, ValueError)


def test_a_life_that_ends_at_once_is_not_restarted_for_ever() -> None:
    """A run ends, whatever is restarted in it."""

    async def scenario(sim: Simulation) -> None:
        async def life(process: object) -> None:
            await simulation.point("nothing")

        async with sim.restarting(life):
            await trio.sleep_forever()

    assert isinstance(simulation.run(scenario).error, DeadlockError)


@pytest.mark.parametrize("order", ["ann bob", "bob ann"])
def test_a_clients_tasks_are_named_after_their_actor(order: str) -> None:
    """Whoever comes first: a schedule means the same client in every order."""

    async def scenario(sim: Simulation) -> None:
        async def life(process: object) -> None:
            async with sim.engine() as engine:
                await serve(engine, port=8765)

        async def talk(name: str) -> None:
            async with connect("ws://127.0.0.1:8765", ports=sim.ports()) as client:
                await client.create_session(name)

        async with sim.restarting(life), sim.actors() as actors:
            for name in order.split():
                actors.start(name, partial(talk, name))

    result = simulation.run(scenario)
    assert result.error is None
    names = {step.actor for step in result.steps}
    assert {"ann/client", "bob/client", "ann/client: sender", "bob/client: sender"} <= names
    assert not any(name.startswith("client") for name in names)
