"""Hypothesis with the simulator: parameters that shrink to the default order, workloads that shrink under a fixed cause."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from trio._core import _run as internals

from engine.simulation import Simulation, point, run
from engine.simulation.hypotheses import Parameters, SimStateMachine, explored, schedules, under
from engine.simulation.running import session

QUIET = settings(max_examples=60, deadline=None, derandomize=True, database=None)


class Lost(Exception):  # noqa: N818
    """A counter lost an update."""


async def counting(sim: Simulation, amounts: list[int]) -> None:
    """Each actor adds its amounts to one number, reading it before and writing it after a decision point."""
    number = 0

    async def add(amount: int) -> None:
        nonlocal number
        await point("read", reads=("number",))
        seen = number
        await point("write", writes=("number",))
        number = seen + amount

    async with sim.actors() as actors:
        for index, amount in enumerate(amounts):
            actors.start(f"a{index}", add, amount)
    if number != sum(amounts):
        raise Lost(f"{number} is not {sum(amounts)}")


async def late(sim: Simulation, order: list[str]) -> None:
    """Two actors with several steps each; notes who came when."""

    async def steps(name: str) -> None:
        for _ in range(3):
            await point("step", writes=("x",))
            order.append(name)

    async with sim.actors() as actors:
        for name in "abc":
            actors.start(name, steps, name)


def order_under(parameters: Parameters) -> str:
    """Who came when, under parameters."""
    order: list[str] = []
    under(lambda sim: late(sim, order), parameters)
    return "".join(order)


def test_no_parameters_are_the_default_order():
    """The simplest parameters give the very run that no policy gives."""
    assert run(lambda sim: late(sim, [])).digest == under(lambda sim: late(sim, []), Parameters()).digest
    assert find(schedules(), lambda parameters: True, settings=QUIET) == Parameters()
    assert order_under(Parameters()) in ("aaabbbccc", "cccaaabbb", "cccbbbaaa")


def test_ranks_and_changes_decide():
    """A lower rank goes first; at a change the running actor falls behind everybody."""
    assert order_under(Parameters(ranks=(2, 1, 0))) == "cccbbbaaa"
    assert order_under(Parameters(ranks=(0, 1, 2))) == "aaabbbccc"
    changed = {order_under(Parameters(ranks=(0, 1, 2), changes=(at,))) for at in range(1, 8)}
    assert {"aabbbccca", "abbbcccaa", "bbbcccaaa"} <= changed


def test_parameters_shrink_to_what_a_lost_update_needs():
    """Hypothesis finds a schedule that loses an update, and shrinks it to one change."""

    def loses(parameters: Parameters) -> bool:
        return isinstance(run(lambda sim: counting(sim, [1, 1]), policy=parameters.policy()).error, Lost)

    assert not loses(Parameters())
    found = find(schedules(), loses, settings=QUIET)
    assert len(found.ranks) + len(found.changes) == 1


def test_the_workload_shrinks_under_the_schedule_that_failed():
    """The minimal example has two actors, one of which adds 1, and is printed with one ordering that makes it fail."""
    failed: list[list[int]] = []

    @QUIET
    @given(st.lists(st.integers(0, 9), max_size=6))
    @explored(20)
    async def counts(sim: Simulation, amounts: list[int]) -> None:
        try:
            await counting(sim, amounts)
        except Lost:
            failed.append(amounts)
            raise

    with pytest.raises(Lost) as caught:
        counts()
    notes = "\n".join(caught.value.__notes__)
    assert sorted(failed[-1]) == [0, 1]
    assert "schedule: c1:a" in notes
    schedule = notes.partition("schedule: ")[2].splitlines()[0]
    assert isinstance(run(lambda sim: counting(sim, failed[-1]), schedule).error, Lost)


def test_a_workload_that_no_schedule_breaks_passes():
    """A single actor cannot lose its update: the test passes, and every example was run under all its schedules."""
    runs = 0

    @settings(max_examples=5, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 9))
    @explored(10, strategy="random")
    async def counts(sim: Simulation, amount: int) -> None:
        nonlocal runs
        runs += 1
        await counting(sim, [amount])

    counts()
    assert runs == 50


class Ledger(SimStateMachine):
    """Adds to a number that is read and written with a decision in between, or all at once."""

    careful = False

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.given = 0

    @rule(actor=st.sampled_from(["one", "two"]), amount=st.integers(1, 3))
    def add(self, actor: str, amount: int) -> None:
        """Queue an addition."""
        self.given += amount
        self.enqueue(actor, self.do, amount)

    async def do(self, sim: Simulation, amount: int) -> None:
        """Add."""
        seen = self.number
        await point("add", writes=("number",))
        if self.careful:
            seen = self.number
        self.number = seen + amount

    async def finish(self, sim: Simulation, world: Any) -> None:
        """Nothing may be lost."""
        if self.number != self.given:
            raise Lost(f"{self.number} is not {self.given}")


class CarefulLedger(Ledger):
    """Reads after the decision."""

    careful = True


def test_a_state_machine_finds_what_its_actors_do_to_each_other():
    """Rules queue, one run carries out: the careless ledger loses, the careful one does not."""
    few = settings(QUIET, max_examples=30, stateful_step_count=6, phases=[Phase.generate])
    with session():
        with pytest.raises(Lost):
            run_state_machine_as_test(Ledger, settings=few)
        run_state_machine_as_test(CarefulLedger, settings=few)


@pytest.mark.parametrize("driver", ["hook", "gate"])
def test_what_importing_hypothesis_switches_in_trio_changes_no_run(driver, monkeypatch):
    """The same schedule takes the same steps with trio's deterministic switch on and off, and the switch is put back."""

    async def scenario(sim: Simulation) -> None:
        event = trio.Event()

        async def waits(number: int) -> None:
            await event.wait()
            await point("after")
            sim.note(number)

        async with sim.actors() as actors:
            for number in range(6):
                actors.start(f"w{number}", waits, number)
            await point("open")
            event.set()

    digests = set()
    for switch in (True, False):
        monkeypatch.setattr(internals, "_ALLOW_DETERMINISTIC_SCHEDULING", switch)
        digests |= {run(scenario, driver=driver).digest for _ in range(5)}
        assert internals._ALLOW_DETERMINISTIC_SCHEDULING is switch
    assert len(digests) == 1
