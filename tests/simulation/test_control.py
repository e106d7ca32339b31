"""Control: who runs, in both drivers; what trio's own shuffle cannot reach; what ends a run that would not end."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.lowlevel

from engine import simulation
from engine.simulation import Simulation, driving, point
from engine.simulation.driving import gated
from engine.simulation.errors import DeadlockError, LivelockError, SimulationSetupError
from engine.simulation.probing import overtakes
from engine.simulation.world import Actors

DRIVERS = ["hook", "gate"]


def overtaking(steps: int) -> Callable[..., Awaitable[None]]:
    """A turn writes its part after two steps; a remover removes after many. They never wait for each other."""

    async def scenario(sim: Simulation) -> None:
        done: list[str] = []

        async def turn() -> None:
            for _ in range(2):
                await point("work")
            await point("part", writes=("m",))
            done.append("part")

        async def remover() -> None:
            for _ in range(steps):
                await point("walk")
            await point("remove", writes=("m",))
            done.append("remove")

        async with sim.actors() as actors:
            actors.start("turn", turn)
            actors.start("remover", remover)
        assert done != ["remove", "part"], "the part came late"

    return scenario


def messaging(sim: Simulation) -> Awaitable[None]:
    """A writer serves four clients over a channel; one of them gives up waiting after a while."""

    async def scenario() -> None:
        send, receive = trio.open_memory_channel[Any](1)
        served: list[str] = []

        async def writer() -> None:
            async for name, answered in receive:
                served.append(name)
                await trio.sleep(0.5)
                answered.set()

        async def client(name: str, patience: float) -> None:
            for number in range(2):
                with trio.move_on_after(patience):
                    answered = trio.Event()
                    await send.send((f"{name}{number}", answered))
                    await answered.wait()

        async with sim.actors() as servers:
            servers.start("writer", writer)
            async with sim.actors() as actors:
                for name in "abc":
                    actors.start(name, client, name, 60.0)
                actors.start("hasty", client, "hasty", 1.0)
            servers.cancel_scope.cancel()
        sim.note(served)

    return scenario()


def test_a_task_overtakes_another_by_any_number_of_steps():
    """What needs one task to take twenty steps while another that could run takes two is found by the second schedule."""
    campaign = simulation.explore(overtaking(20), schedules=20)
    assert campaign.failure is not None
    assert campaign.failure.number == 2
    assert str(campaign.failure.error).startswith("the part came late")
    assert campaign.failure.schedule == "c1:turn#part>remover#remove"


def test_a_seeded_shuffle_of_batches_cannot_overtake():
    """Every runnable task once a pass is trio's own order: under it the same race is never met."""
    assert simulation.explore(overtaking(6), strategy="lockstep", schedules=300).failure is None
    assert simulation.explore(overtaking(6), strategy="random", schedules=300).failure is not None


@pytest.mark.parametrize("mode", ["macro", "await"])
@pytest.mark.parametrize("strategy", ["random", "pct2"])
def test_both_drivers_take_the_same_steps(strategy, mode):
    """The private hook and the public gate give the same digest, schedule by schedule."""

    def digests(driver: Any) -> list[str]:
        found: list[str] = []
        simulation.explore(
            messaging,
            strategy=strategy,
            schedules=40,
            seed=3,
            mode=mode,
            faults=("timeout", "cancel"),
            driver=driver,
            on_run=lambda _, run: found.append(run.digest),
            failures_max=99,
        )
        return found

    assert digests("hook") == digests("gate")
    assert len(set(digests("hook"))) > 20


def test_the_probe_accepts_both_drivers():
    """Each driver can order three tasks as it is told."""
    assert driving.hook_works()
    assert overtakes(gated)


@pytest.mark.parametrize("change", ["batches are not shuffled", "the queue has another name"])
def test_where_trio_changed_the_gate_is_used(monkeypatch, change):
    """A trio without the hook fails the probe, and the same program gets the same verdict by public API."""
    expected = simulation.run(messaging, driver="gate").digest
    monkeypatch.setattr(driving, "_probed", {})
    if change == "batches are not shuffled":
        monkeypatch.setattr(driving._Picker, "shuffle", lambda self, batch: random.shuffle(batch))
    else:
        monkeypatch.setattr(driving, "internals", None)
    assert not driving.hook_works()
    run = simulation.run(messaging)
    assert (run.error, run.digest) == (None, expected)


def test_bare_checkpoints_are_decisions_only_on_request():
    """A lost update between two awaits of one actor is invisible in macro-steps, and found at every await."""

    async def lost_update(sim: Simulation) -> None:
        value = 0

        async def add() -> None:
            nonlocal value
            read = value
            await trio.lowlevel.checkpoint()
            value = read + 1

        async with sim.actors() as actors:
            actors.start("a", add)
            actors.start("b", add)
        assert value == 2

    assert simulation.explore(lost_update, schedules=50).failure is None
    found = simulation.explore(lost_update, schedules=50, mode="await").failure
    assert found is not None
    assert simulation.replay(lost_update, found.schedule).failed


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_deadlock_names_who_waits(driver):
    """Two actors with two locks in two orders end with a deadlock that says who waits, and for what."""

    async def scenario(sim: Simulation) -> None:
        left, right = trio.Lock(), trio.Lock()

        async def eat(first: trio.Lock, second: trio.Lock) -> None:
            async with first:
                await point("think")
                async with second:
                    pass

        async with sim.actors() as actors:
            actors.start("a", eat, left, right)
            actors.start("b", eat, right, left)

    campaign = simulation.explore(scenario, schedules=50, driver=driver)
    assert campaign.failure is not None
    error = campaign.failure.error
    assert isinstance(error, DeadlockError)
    assert error.waiting == ("a (acquire)", "b (acquire)")


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_shields_itself_is_thrown_out(driver):
    """A wait that cancellation cannot end does not end the campaign: the run is a deadlock, and the next one is whole."""

    async def scenario(sim: Simulation) -> None:
        async def stubborn() -> None:
            with trio.CancelScope(shield=True):
                await trio.Event().wait()

        async with sim.actors() as actors:
            actors.start("stubborn", stubborn)

    assert isinstance(simulation.run(scenario, driver=driver).error, DeadlockError)
    assert simulation.run(messaging, driver=driver).error is None


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_run_without_end_is_a_livelock(driver):
    """Two actors that keep waking each other are stopped after the stated number of steps."""

    async def scenario(sim: Simulation) -> None:
        async def forever() -> None:
            while True:
                await point("again")

        async with sim.actors() as actors:
            actors.start("a", forever)
            actors.start("b", forever)

    error = simulation.run(scenario, steps_max=500, driver=driver).error
    assert isinstance(error, LivelockError)
    assert error.steps == 500


def test_a_polling_actor_starves_nobody():
    """One who polls at bare checkpoints lets the others run all the same, under every strategy."""

    async def scenario(sim: Simulation) -> None:
        ready = False

        async def poll() -> None:
            while not ready:
                await trio.lowlevel.checkpoint()

        async def set_it() -> None:
            nonlocal ready
            await trio.lowlevel.checkpoint()
            ready = True

        async with sim.actors() as actors:
            actors.start("poll", poll)
            actors.start("set", set_it)

    for strategy in ("auto", "pct3", "pos", "lockstep"):
        assert simulation.explore(scenario, strategy=strategy, schedules=10).failure is None


def test_time_passes_only_when_nobody_can_run():
    """A day of sleeping takes no time, and a deadline is met to the very moment."""
    woken: list[float] = []

    async def scenario() -> None:
        with trio.move_on_after(86_400):
            await trio.sleep_forever()
        woken.append(trio.current_time())

    run = simulation.run(scenario)
    assert (run.error, run.seconds, woken) == (None, 86_400, [86_400])


def test_a_timeout_can_fire_while_others_could_run():
    """A client times out after its command took effect and before the answer: the outcome that it cannot know."""
    seen: set[tuple[bool, bool]] = set()

    async def scenario(sim: Simulation) -> None:
        send, receive = trio.open_memory_channel[trio.Event](1)
        committed = answered = False

        async def writer() -> None:
            nonlocal committed
            answer = await receive.receive()
            await point("commit")
            committed = True
            await point("committed")
            answer.set()

        async def client() -> None:
            nonlocal answered
            with trio.move_on_after(1):
                answer = trio.Event()
                await send.send(answer)
                await answer.wait()
                answered = True

        async with sim.actors() as servers:
            servers.start("writer", writer)
            async with sim.actors() as actors:
                actors.start("client", client)
            with trio.move_on_after(1):
                await trio.testing.wait_all_tasks_blocked()
            servers.cancel_scope.cancel()
        seen.add((committed, answered))

    campaign = simulation.explore(scenario, schedules=10, faults=("timeout",))
    assert campaign.disturbed["timeout"] > 0
    assert (True, False) in seen
    # Without that choice, time stands still while anybody can run.
    seen.clear()
    simulation.explore(scenario, schedules=200, strategy="random")
    assert seen == {(True, True)}


def test_wait_all_tasks_blocked_works():
    """Trio's own testing helper wakes when everybody else waits."""
    order: list[str] = []

    async def scenario(sim: Simulation) -> None:
        go = trio.Event()

        async def waiter() -> None:
            await point("work")
            order.append("waits")
            await go.wait()

        async with sim.actors() as actors:
            actors.start("waiter", waiter)
            await trio.testing.wait_all_tasks_blocked()
            order.append("all blocked")
            go.set()

    assert simulation.run(scenario).error is None
    assert order == ["waits", "all blocked"]


def test_names_are_those_of_the_parents_order():
    """Children with one name are told apart by their order, and those of different parents by their parent."""

    async def child() -> None:
        await point("work")

    async def parent() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(child)

    async def scenario(sim: Simulation) -> None:
        async with sim.actors() as actors:
            actors.start("p", parent)
            actors.start("q", parent)

    names = {step.actor for step in simulation.run(scenario).steps}
    assert names == {"main", "p", "q", "p/child", "p/child~2", "q/child", "q/child~2"}


def test_nothing_stays_replaced():
    """After a campaign, trio's primitives and internals are what they were, also after a failure."""
    before = (trio.sleep, trio.MemorySendChannel.send, trio.Event.wait, driving.internals._r, trio.Nursery.start_soon)
    for driver in DRIVERS:
        simulation.explore(overtaking(3), schedules=5, driver=driver)
    after = (trio.sleep, trio.MemorySendChannel.send, trio.Event.wait, driving.internals._r, trio.Nursery.start_soon)
    assert after == before


def test_a_run_inside_of_a_run_is_refused():
    """A scenario cannot start another simulation."""

    async def scenario() -> None:
        simulation.run(messaging)

    error = simulation.run(scenario).error
    assert isinstance(error, SimulationSetupError)
    assert str(error) == "a simulated run cannot be started inside of another one"


def test_an_unknown_strategy_is_refused():
    """The error names the strategies there are."""
    with pytest.raises(SimulationSetupError, match="unknown strategy 'best': expected one of auto, directed"):
        simulation.explore(messaging, strategy="best")


def test_streams_of_randomness_belong_to_a_name():
    """Leaving one actor's draws out does not shift another's."""

    async def draws(sim: Simulation, names: str) -> None:
        for name in names:
            sim.note((name, sim.random(name).random()))

    both = simulation.run(lambda sim: draws(sim, "ab"), seed=5).notes
    alone = simulation.run(lambda sim: draws(sim, "b"), seed=5).notes
    assert both[1:] == alone
    assert simulation.run(lambda sim: draws(sim, "b"), seed=6).notes != alone


async def test_actors_work_on_plain_trio_too():
    """`Actors` is a nursery: an exception of an actor comes out of its block."""
    assert Actors.__doc__ is not None
    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:

            async def fails() -> None:
                await point("outside of a simulation this is a checkpoint")
                raise ValueError

            nursery.start_soon(fails)
