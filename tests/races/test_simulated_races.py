"""The races as scenarios of the simulator: every naive variant breaks, the engine does not."""

from __future__ import annotations

import pytest

from engine import simulation
from engine.simulation.scenarios import SCENARIOS, Scenario
from tests.support.budget import FULL, pick

NAIVE = [scenario for scenario in SCENARIOS if scenario.must_fail]
ENGINE = [scenario for scenario in SCENARIOS if not scenario.must_fail]
FOUND_WITHIN = 20
SCHEDULES = pick(8, 40)
SCHEDULES_LIVE = pick(5, 30)
"""Where a whole server and its clients run: a schedule takes long, and the crashes at every step are tested elsewhere."""
ROUNDS_MAX = pick(1, 16)
"""Seeds that a scenario has to show everything that it is about."""


def name_of(scenario: Scenario) -> str:
    """A test's id."""
    return scenario.key


def test_every_race_has_scenarios_of_both_kinds():
    """Races 1 to 5 stand there naive and on the engine, under names of their own."""
    names = [scenario.key for scenario in SCENARIOS]
    assert len(names) == len(set(names))
    for scenarios in (NAIVE, ENGINE):
        assert {scenario.name[0] for scenario in scenarios} >= set("12345")
    assert {scenario.variant for scenario in NAIVE} == {"naive"}
    assert {scenario.variant for scenario in ENGINE} == {"engine"}


@pytest.mark.parametrize("noise", [0, 8])
@pytest.mark.parametrize("scenario", NAIVE, ids=name_of)
def test_a_naive_variant_passes_as_everyone_expects_and_breaks_within_a_few_schedules(scenario, noise):
    """The default order passes, or it would prove nothing; `auto` finds an order that breaks it, and it replays."""
    for seed in range(pick(1, 2)):
        program = scenario.build(noise)
        campaign = simulation.explore(program, schedules=FOUND_WITHIN, seed=seed, faults=scenario.faults, mode=scenario.mode)
        failure = campaign.failure
        assert failure is not None, f"seed {seed}: nothing found"
        assert failure.number > 1, failure.error
        again = simulation.replay(program, failure.schedule, seed=seed, faults=scenario.faults, mode=scenario.mode)
        assert (again.signature, again.digest) == (failure.run.signature, failure.run.digest)


@pytest.mark.parametrize("scenario", ENGINE, ids=name_of)
def test_the_engine_holds_under_every_schedule(scenario):
    """No schedule of the campaign breaks an oracle, and what the scenario is about did happen in it."""
    hoped, covered = set(), set()
    schedules = SCHEDULES_LIVE if scenario.name.startswith("7") else SCHEDULES
    for seed in range(ROUNDS_MAX):
        campaign = simulation.explore(
            scenario.build(1), schedules=schedules, seed=seed, faults=scenario.faults, mode=scenario.mode
        )
        if campaign.failure is not None:
            pytest.fail(f"seed {seed}, schedule {campaign.failure.schedule!r}: {campaign.failure.error!r}")
        hoped |= campaign.hoped
        covered |= {name for name, times in campaign.covered.items() if times}
        if hoped <= covered:
            return
    assert not FULL or hoped <= covered, f"never happened: {hoped - covered}"
