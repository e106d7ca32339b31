"""Small programs with one known bug each: found where there is one, and nothing reported where it was mended."""

from __future__ import annotations

import pytest

from bench.programs import PROGRAMS, Program
from engine import simulation
from engine.simulation.errors import DeadlockError
from tests.support.budget import pick

BY_NAME = {program.name: program for program in PROGRAMS}
ERRORS = {"assertion": AssertionError, "deadlock": DeadlockError}
FOUND_WITHIN = 300
"""Schedules that `auto` may need."""
PASSES = pick(12, 40)
"""Schedules that a mended program goes through; fewer where a schedule takes long."""
PASSES_WIDE = 10
WIDE = 40
"""Actors from which on a schedule takes long."""

every_program = pytest.mark.parametrize("name", BY_NAME)


def passes_of(program: Program) -> int:
    return PASSES_WIDE if program.actors >= WIDE else PASSES


def test_names_are_unique_and_there_are_24_programs_at_least() -> None:
    """No program hides another one of its name."""
    assert len(BY_NAME) == len(PROGRAMS) >= 24


@every_program
def test_auto_finds_the_bug_and_its_schedule_finds_it_again(name: str) -> None:
    """Within 300 schedules the bug shows, as the error the program is known for; its schedule alone repeats each step."""
    program = BY_NAME[name]
    campaign = simulation.explore(program.broken, schedules=FOUND_WITHIN, strategy="auto", seed=1)
    failure = campaign.failure
    assert failure is not None, f"not found in {campaign.schedules} schedules"
    assert type(failure.error) is ERRORS[program.kind]
    again = simulation.replay(program.broken, failure.schedule)
    assert again.signature == failure.run.signature
    assert again.digest == failure.run.digest


@every_program
def test_a_mended_program_passes_every_schedule(name: str) -> None:
    """No false alarm: the same program with its bug mended never fails, in whatever order."""
    program = BY_NAME[name]
    campaign = simulation.explore(program.fixed, schedules=passes_of(program), strategy="auto", seed=1)
    assert campaign.failure is None, f"{campaign.failure.schedule}: {campaign.failure.error!r}"
    assert campaign.schedules == passes_of(program)


@every_program
def test_the_default_order_meets_the_bug_only_where_it_is_known_to(name: str) -> None:
    """Most of these bugs do not show when nobody is pre-empted; that is what makes them worth a search."""
    program = BY_NAME[name]
    result = simulation.run(program.broken)
    assert result.failed is program.default_fails
    if result.failed:
        assert type(result.error) is ERRORS[program.kind]


@every_program
def test_a_program_starts_the_actors_that_its_record_says(name: str) -> None:
    """The number of actors in the table is the number of tasks that the program starts."""
    program = BY_NAME[name]
    actors = {step.actor for step in simulation.run(program.fixed).steps} - {"main"}
    assert len(actors) == program.actors
