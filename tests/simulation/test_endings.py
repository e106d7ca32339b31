"""How runs end: checks that raise or say no, interrupts, and that both drivers agree on all of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from engine import simulation
from engine.simulation import Simulation, point
from engine.simulation.errors import DeadlockError, InvariantError, SimulationSetupError

DRIVERS = ["hook", "gate"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_exception_of_an_invariant_fails_the_run(driver):
    """A predicate that raises is the run's error under both drivers, and the campaign goes on."""

    async def scenario(sim: Simulation) -> None:
        state: dict[str, int] = {}
        sim.always("positive", lambda: state["number"] > 0)
        await point("one")
        await point("two")

    errors: list[Any] = []
    simulation.explore(
        scenario,
        schedules=3,
        strategy="random",
        failures_max=9,
        driver=driver,
        on_run=lambda _, run: errors.append(run.error),
    )
    assert [repr(error) for error in errors] == ["KeyError('number')"] * 3


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_last_step_is_checked_too(driver):
    """What stops holding in the very last step of a run fails it."""

    async def scenario(sim: Simulation) -> None:
        whole = [True]
        sim.always("whole", lambda: whole[0])
        await point("last")
        whole[0] = False

    error = simulation.run(scenario, driver=driver).error
    assert isinstance(error, InvariantError)
    assert str(error) == "always whole: it does not hold any more"


def test_a_check_that_returns_false_fails_the_run():
    """A lambda that says False counts as much as an assertion; None and True pass."""

    def scenario(answer: Any) -> Callable[[Simulation], Awaitable[None]]:
        async def asked(sim: Simulation) -> None:
            sim.check(lambda: answer)

        return asked

    assert [simulation.run(scenario(answer)).error for answer in (None, True)] == [None, None]
    assert isinstance(simulation.run(scenario(False)).error, InvariantError)


def test_an_async_check_is_refused():
    """A coroutine that nobody awaits would be a check that cannot fail."""

    async def scenario(sim: Simulation) -> None:
        async def check() -> None:
            raise AssertionError

        sim.check(check)

    assert isinstance(simulation.run(scenario).error, SimulationSetupError)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_an_interrupt_ends_the_campaign(driver, depth):
    """Ctrl-C is no failure of the program, in however many nurseries it was raised; the next run is whole."""

    async def scenario(sim: Simulation) -> None:
        async def nested(left: int) -> None:
            if not left:
                raise KeyboardInterrupt
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nested, left - 1)

        await nested(depth)

    with pytest.raises(KeyboardInterrupt):
        simulation.explore(scenario, schedules=3, driver=driver)
    assert simulation.run(blocked, driver=driver).error is None


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit])
def test_an_exit_of_an_actor_is_a_failure(kind):
    """Other exceptions than Ctrl-C are the run's error, wherever they are raised."""

    async def scenario(sim: Simulation) -> None:
        async def leaves() -> None:
            raise kind

        if sim.seed:
            raise kind
        async with sim.actors() as actors:
            actors.start("leaves", leaves)

    assert [type(simulation.run(scenario, seed=seed).error) for seed in (0, 1)] == [kind, kind]


async def blocked(sim: Simulation) -> None:
    """Waits until everybody is blocked, with somebody who sleeps for an hour."""
    go = trio.Event()

    async def sleeper() -> None:
        await trio.sleep(3600)
        await go.wait()

    async with sim.actors() as actors:
        actors.start("sleeper", sleeper)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == 0
        await trio.sleep(7200)
        go.set()


def test_all_tasks_blocked_comes_before_time_in_both_drivers():
    """`wait_all_tasks_blocked` returns before any timer, as in trio, and both drivers take the same steps."""
    hook, gate = (simulation.run(blocked, driver=driver) for driver in ("hook", "gate"))
    assert (hook.error, gate.error, hook.digest) == (None, None, gate.digest)


def test_both_drivers_say_where_somebody_waits():
    """A deadlock names the same lines of the program."""

    async def scenario(sim: Simulation) -> None:
        async def stuck() -> None:
            await trio.sleep_forever()

        async with sim.actors() as actors:
            actors.start("stuck", stuck)

    errors = [simulation.run(scenario, driver=driver).error for driver in ("hook", "gate")]
    assert isinstance(errors[0], DeadlockError)
    assert str(errors[0]) == str(errors[1])
    assert "test_endings.py" in str(errors[0])


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_deadline_that_is_set_to_now_is_seen_at_once(driver):
    """A scope whose deadline is moved to this moment is cancelled at the next checkpoint, as by trio alone."""

    async def scenario() -> None:
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time()
            await point("work")
            raise AssertionError("it went on")
        assert scope.cancelled_caught

    assert simulation.run(scenario, driver=driver).error is None
