"""Server and client over the network: the server's process dies at every step of a subscription and of a command."""

from __future__ import annotations

import pytest

from engine import simulation
from engine.simulation import Run, Schedule
from engine.simulation.choices import Disturbance
from engine.simulation.hosting import POWER_IMAGES
from engine.simulation.scenarios import SCENARIOS, Program
from tests.support.budget import pick

PARTS = 4
"""Of a scenario's steps, so that several processes can share them."""
BEFORE = {"main#start", "host#start"}
"""What happens before the server's process begins."""


def program(name: str) -> Program:
    """A scenario of the engine without noise."""
    return next(scenario for scenario in SCENARIOS if scenario.key == f"engine/{name}").build(0)


def ways(index: int) -> list[str]:
    """How it dies at the nth step: the process alone, or the machine with what the disk keeps of it; one of them, in turn,
    or both where there is time."""
    both = ["process", f"power/{index // 2 % POWER_IMAGES}"]
    return pick(both[index % 2 :][:1], both)


def crashed(scenario: Program, default: Run, index: int, how: str) -> Run:
    """The default order with a crash at its nth step."""
    return simulation.run(scenario, Schedule(disturbances=(Disturbance("crash", default.steps[index].address, how),)))


@pytest.mark.parametrize("part", range(pick(1, PARTS)))
@pytest.mark.parametrize("name", ["7 subscription", "7 one command"])
def test_the_servers_process_dies_at_every_step(name: str, part: int) -> None:
    """At each step of the default order, from the opening of the engine until the client is gone: it is started again, and
    the client goes on, without a gap, a duplicate, or anything acknowledged that is lost."""
    scenario = program(name)
    default = simulation.run(scenario)
    assert default.error is None
    died = [False] * len(default.steps)
    with simulation.running.session():
        for index in range(part, len(default.steps), PARTS):
            for how in ways(index):
                result = crashed(scenario, default, index, how)
                assert result.error is None, f"{result.disturbances or result.unmet}: {result.error!r}"
                died[index] = bool(result.disturbances)
    alive = [index for index in range(part, len(default.steps), PARTS) if str(default.steps[index]) not in BEFORE]
    last = max(index for index, dead in enumerate(died) if dead)
    # Behind its last life the scenario itself opens the log, to look at it.
    assert last > 0.85 * len(default.steps)
    assert [index for index in alive if index <= last and not died[index]] == []


def test_the_parts_are_all_steps() -> None:
    """Nothing is left out between them, and there is much to crash at."""
    for name, least in (("7 subscription", 240), ("7 one command", 180)):
        steps = simulation.run(program(name)).trace
        assert sorted(index for part in range(PARTS) for index in range(part, len(steps), PARTS)) == list(range(len(steps)))
        assert len(steps) > least


@pytest.mark.parametrize(
    "name", ["7 subscription", "7 one command", "7 stop", *pick([], ["7 follow", "7 slow", "7 command"])]
)
def test_the_connection_is_lost_at_every_send_and_receive(name: str) -> None:
    """With nothing of what is on its way, or all of it, arriving: the client comes back, and nothing shows."""
    scenario = program(name)
    default = simulation.run(scenario)
    lost = 0
    with simulation.running.session():
        for number, step in enumerate(step for step in default.steps if step.op.wire):
            both = ["lost/0", "lost/all"]
            for harm in pick(both[number % 2 :][:1], both):
                result = simulation.run(scenario, Schedule(disturbances=(Disturbance("net", step.address, harm),)))
                assert result.error is None, f"{result.disturbances or result.unmet}: {result.error!r}"
                lost += bool(result.disturbances)
    assert lost > 20


@pytest.mark.parametrize("name", ["7 follow", "7 command", "7 restored"])
def test_a_schedule_is_the_same_run_every_time(name: str) -> None:
    """Sockets, ids, pauses and restarts included: the digest of a disturbed run comes back."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.key == f"engine/{name}")
    digests: list[list[str]] = [[], []]
    for found in digests:
        simulation.explore(
            scenario.build(1),
            schedules=8,
            strategy="random",
            faults=scenario.faults,
            on_run=lambda _, run, found=found: found.append(run.digest),
        )
    assert digests[0] == digests[1]
    assert len(set(digests[0])) > 6
