"""The corpus of leaks: every one is answered from the seed, named by its line, or found by its first diverging step."""

from __future__ import annotations

import gc
import inspect
import os
import sys

import pytest
import trio

from engine import simulation
from engine.simulation.errors import LeakError
from engine.simulation.twin import twin
from tests.support import leaks

OTHER_PYTHON = os.environ.get("ENGINE_OTHER_PYTHON", "")
"""Another supported interpreter with the dependencies, for the comparison of versions."""


def place_to_blame(function) -> str:
    """The marked line of a function, as a call site."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = (number for number, line in enumerate(lines) if "# leaks" in line)
    return f"leaks.py:{first + offset} in {function.__qualname__}"


def names(functions) -> list[str]:
    return [function.__name__ for function in functions]


class Notebook:
    """Stands in for a simulation outside of one."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, value: object) -> None:
        self.notes.append(repr(value))


def test_the_corpus_has_more_than_twenty_leaks():
    """No scenario is in two lists, and together they are more than twenty."""
    every = [*leaks.ANSWERED, *leaks.TRAPPED, *leaks.GENERATORS, *leaks.HIDDEN]
    assert len(set(every)) == len(every) > 20


@pytest.mark.parametrize("scenario", leaks.ANSWERED, ids=names(leaks.ANSWERED))
def test_a_run_answers_from_its_seed(scenario):
    """Twice the same run gives the same notes, which are not those of the real world."""
    first, second = simulation.run(scenario), simulation.run(scenario)
    real = Notebook()
    trio.run(scenario, real)
    assert first.error is second.error is None
    assert first.notes == second.notes
    assert first.digest == second.digest
    assert list(first.notes) != real.notes


SEEDED = [scenario for scenario in leaks.ANSWERED if "random" in scenario.__name__ or "secret" in scenario.__name__]


@pytest.mark.parametrize("scenario", SEEDED, ids=names(SEEDED))
def test_another_seed_gives_other_random_numbers(scenario):
    """What is random follows from the seed, and is not one constant."""
    assert simulation.run(scenario, seed=1).notes != simulation.run(scenario, seed=2).notes


@pytest.mark.parametrize("scenario", leaks.ANSWERED, ids=names(leaks.ANSWERED))
def test_a_run_that_does_not_answer_names_the_line(scenario):
    """With nothing replaced, asking is the run's error, at the line that asked."""
    error = simulation.run(scenario, replace=False).error
    assert isinstance(error, LeakError)
    assert error.call_site.endswith(place_to_blame(scenario))
    assert error.remedy


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("scenario", leaks.TRAPPED, ids=names(leaks.TRAPPED))
def test_what_cannot_be_answered_names_the_line(scenario):
    """The run fails with an error at the line that reached out of it, also where the program swallows that error."""
    error = simulation.run(scenario).error
    assert isinstance(error, LeakError)
    assert error.call_site.endswith(place_to_blame(scenario))
    assert error.remedy
    # What the trap left half made complains now, and not in another test.
    del error
    gc.collect()


@pytest.mark.parametrize("scenario", leaks.GENERATORS, ids=names(leaks.GENERATORS))
def test_an_abandoned_async_generator_is_named(scenario):
    """Dropped before its end, or still open when the run ends: the error names the generator."""
    error = simulation.run(scenario).error
    assert isinstance(error, LeakError)
    assert error.call_site.endswith(place_to_blame(leaks._ticks))


def test_hidden_leaks_are_found_by_twins():
    """Where no call can be caught, two processes differ: each scenario of the corpus, in what is expected to differ."""
    targets = {f"{leaks.__name__}:{scenario.__name__}": what for scenario, what in leaks.HIDDEN.items()}
    found = twin(list(targets), schedules=1)
    assert found.runs == len(targets)
    assert {one.run.partition(" ")[0]: one.what for one in found.divergences} == targets
    for one in found.divergences:
        assert one.left != one.right
        assert f"its {one.what} {one.index + 1} is" in str(one)


def test_hidden_leaks_pass_unseen_in_one_process():
    """Why there are twins: within a process the traps see nothing of them."""
    for scenario in leaks.HIDDEN:
        if scenario is not leaks.an_environment_variable:
            assert simulation.run(scenario).error is None


def test_two_processes_agree_where_nothing_leaks():
    """All that a run answers, under many schedules, is the same in both processes."""
    found = twin(f"{leaks.__name__}:nothing_leaks", (0, 1), schedules=25)
    assert (found.runs, found.divergences) == (50, ())


@pytest.mark.skipif(not OTHER_PYTHON, reason="ENGINE_OTHER_PYTHON names no other interpreter")
def test_two_versions_of_python_agree_where_nothing_leaks():
    """The same seeds give the same digests in another version of CPython."""
    found = twin(f"{leaks.__name__}:nothing_leaks", (0, 1), schedules=25, python=(sys.executable, OTHER_PYTHON))
    assert (found.runs, found.divergences) == (50, ())
