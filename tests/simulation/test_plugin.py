"""The pytest plugin, by running pytest on small test files: what passes, what fails, what is printed and what is kept."""

from __future__ import annotations

import json
import os
import re
import shlex
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from tests.support.budget import FULL
from tests.support.readers import LOST_UPDATE, PLUGIN

pytest_plugins = ("pytester",)

LOST_UPDATE_TEST = (
    """
import pytest
from engine.simulation import point

@pytest.mark.sim(schedules=50)
async def test_lost_update(sim):"""
    + LOST_UPDATE
)

PASSES = """
import pytest
from engine.simulation import point

@pytest.mark.sim(schedules=20)
async def test_passes(sim):
    async with sim.actors() as actors:
        actors.start("one", point, "a")
        actors.start("two", point, "b")
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]), prepend=os.pathsep)
    pytester.makeini("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")

    def run(source: str, *options: str, own_process: bool = False) -> pytest.RunResult:
        pytester.makepyfile(source)
        start = pytester.runpytest_subprocess if own_process else pytester.runpytest_inprocess
        return start(*PLUGIN, *options)

    return run


def saved(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(pytester.path.glob(".sim-corpus/*.json"))]


# --- failures ---------------------------------------------------------------------------------------


def test_a_failure_is_shown_with_the_ordering_it_needs(run: Any) -> None:
    """The code's own assertion fails the test, and the report names the ordering and its proof."""
    result = run(LOST_UPDATE_TEST)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*assert 1 == 2",
            "test_lost_update * schedule * of 50 (auto)",
            "*| held before write",
            "needs 1 ordering: fails 10/10 in the default order*",
            "*other order passes 10/10*",
            "replay:  pytest *::test_lost_update --sim-replay 'c1:*'",
            "simulation: 1 tests, * schedules, * distinct runs, * s",
        ]
    )


def test_the_printed_command_replays_the_failure(run: Any) -> None:
    """The replay line, copied, fails in the same way with one schedule."""
    line = next(line for line in run(LOST_UPDATE_TEST).outlines if line.startswith("replay:"))
    words = shlex.split(line.removeprefix("replay:"))
    result = run(LOST_UPDATE_TEST, "--sim-corpus=elsewhere", *words[1:])
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert 1 == 2", "test_lost_update * replayed"])


def test_a_replay_that_cannot_be_met_fails(run: Any) -> None:
    """A schedule that names what the test does not do is told, not ignored."""
    result = run(PASSES, "--sim-replay", "c1:one#nothing>two#b")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*could not be met: *one#nothing never came*"])


def test_a_replay_of_a_harmless_schedule_passes(run: Any) -> None:
    """Another order than the failing one passes."""
    result = run(LOST_UPDATE_TEST, "--sim-replay", "c1:two#read>one#write")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["simulation: 1 tests, 1 schedules, 1 distinct runs, *"])


def test_saved_failures_are_tried_first(run: Any, pytester: pytest.Pytester) -> None:
    """A failure is kept in a readable file, and fails the next session in its first run."""
    run(LOST_UPDATE_TEST)
    (entry,) = saved(pytester)
    assert entry["test"].endswith("::test_lost_update")
    assert entry["schedules"][0]["schedule"].startswith("c1:")
    assert "assert 1 == 2" in entry["schedules"][0]["error"]
    result = run(LOST_UPDATE_TEST)
    result.stdout.fnmatch_lines(["test_lost_update * saved failure", "simulation: 1 tests, 1 schedules, *"])


def test_saved_failures_stay_when_they_pass(run: Any, pytester: pytest.Pytester) -> None:
    """A fixed test passes, counts its saved schedule as a run, and keeps it; one that no longer fits is told."""
    run(LOST_UPDATE_TEST)
    before = saved(pytester)
    fixed = LOST_UPDATE_TEST.replace("seen + 1", "x[0] + 1")
    result = run(fixed)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["simulation: 1 tests, 51 schedules, *"])
    assert saved(pytester) == before
    renamed = fixed.replace('"write"', '"store"')
    result = run(renamed)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["simulation: not met: *#write never came*"])


def test_a_corpus_file_that_cannot_be_read_is_told(run: Any, pytester: pytest.Pytester) -> None:
    """A damaged file fails its test and is named."""
    run(LOST_UPDATE_TEST)
    (path,) = pytester.path.glob(".sim-corpus/*.json")
    path.write_text("{")
    result = run(LOST_UPDATE_TEST)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*saved failures in {path} cannot be read*"])


def test_nothing_is_written_without_a_failure(run: Any, pytester: pytest.Pytester) -> None:
    """A passing session leaves no directory."""
    run(PASSES).assert_outcomes(passed=1)
    assert not (pytester.path / ".sim-corpus").exists()


def test_what_never_happened_fails_the_test(run: Any) -> None:
    """A `sometimes` that no schedule reached is a failure."""
    result = run(PASSES + "    sim.sometimes('rain', False)\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*sometimes: never happened in 20 schedules: rain"])


def test_a_skip_inside_of_the_body_skips(run: Any) -> None:
    """`pytest.skip` works as everywhere, and nothing is shrunk or saved."""
    result = run(PASSES + "    pytest.skip('not here')\n", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * not here"])


# --- beside other plugins ---------------------------------------------------------------------------


def test_it_works_beside_pytest_trio_and_hypothesis(run: Any) -> None:
    """In trio mode other async tests and given-tests run as before, and marked ones only here; nothing warns."""
    beside = """
import trio
from hypothesis import given, strategies as st

async def test_on_trio():
    before = trio.current_time()
    await trio.sleep(0)
    assert trio.current_time() - before < 5

@given(number=st.integers())
def test_property(number):
    assert number == number

@given(number=st.integers())
async def test_async_property(number):
    await trio.lowlevel.checkpoint()
"""
    result = run(PASSES + beside, own_process=True)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["simulation: 1 tests, 20 schedules, *"])


def test_parameters_classes_and_fixtures_work(run: Any, pytester: pytest.Pytester) -> None:
    """Fixtures are made once for all schedules of a test; parametrize and methods work."""
    source = """
import pytest
from engine.simulation import point

@pytest.fixture
def word(tmp_path):
    with open("made.txt", "a") as file:
        file.write("x")
    return "word"

class TestMethods:
    @pytest.mark.sim(schedules=7)
    @pytest.mark.parametrize("count", [1, 2, 3])
    async def test_counts(self, sim, word, count):
        assert word == "word"
        async with sim.actors() as actors:
            for number in range(count):
                actors.start(f"actor {number}", point, "a")
"""
    result = run(source)
    result.assert_outcomes(passed=3)
    assert (pytester.path / "made.txt").read_text() == "xxx"
    result.stdout.fnmatch_lines(["simulation: 3 tests, 21 schedules, *"])


@pytest.mark.skipif(util.find_spec("xdist") is None, reason="pytest-xdist is not installed")
def test_it_works_under_xdist(run: Any, pytester: pytest.Pytester) -> None:
    """Reports, counts and saved failures come back from the workers."""
    result = run(LOST_UPDATE_TEST + PASSES, "-n2", own_process=True)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["needs 1 ordering: fails 10/10*", "simulation: 2 tests, * schedules, *"])
    assert len(saved(pytester)) == 1


def test_the_fixture_needs_the_marker(run: Any) -> None:
    """An unmarked test that asks for `sim` is told what it lacks."""
    result = run("def test_it(sim): pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the fixture sim needs the marker*"])


def test_async_fixtures_are_refused(run: Any) -> None:
    """What another event loop made cannot be shared by schedules: pytest-trio refuses, and so does pytest."""
    source = PASSES.replace("(sim)", "(sim, late)") + "\n@pytest.fixture\nasync def late():\n    return 1\n"
    run(source).assert_outcomes(errors=1)
    run(source, "-o", "trio_mode=false").assert_outcomes(errors=1)


def test_fixtures_cannot_use_the_simulation(run: Any) -> None:
    """A fixture that asks for `sim` gets none before the body runs."""
    source = PASSES.replace("(sim)", "(sim, early)") + "\n@pytest.fixture\ndef early(sim):\n    return sim.seed\n"
    result = run(source)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixtures are made once for all schedules*"])


# --- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        "--sim-time=soon",
        "--sim-time=0s",
        "--sim-schedules=0",
        "--sim-schedules=many",
        "--sim-strategy=luck",
        "--sim-mode=slow",
        "--sim-crash=often",
        "--sim-profile=weekly",
        "--sim-replay=c9:nothing",
        "--sim-seed=x",
    ],
)
def test_a_wrong_option_is_a_usage_error(run: Any, option: str) -> None:
    """pytest's own status for a wrong call, before any test runs."""
    result = run(PASSES, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "passed" not in result.stdout.str()


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("(schedules=0)", "*schedules: expected 1 or more, found 0*"),
        ("(schedules='many')", "*test_passes*"),
        ("(strategy='luck')", "*strategy: expected one of auto*"),
        ("(faults='fire')", "*faults: expected some of*'fire'*"),
        ("(mode='slow')", "*mode: expected one of macro, await*"),
        ("(shedules=3)", "*the marker sim knows schedules,*not shedules*"),
        ("(3)", "*takes names only*"),
    ],
)
def test_a_wrong_marker_is_a_usage_error(run: Any, marker: str, complaint: str) -> None:
    """The test is named, and nothing runs."""
    result = run(PASSES.replace("(schedules=20)", marker))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([complaint])


@pytest.mark.parametrize(
    "source",
    [
        PASSES.replace("async def test_passes(sim):", "def test_passes(sim): pass\nasync def other(sim):"),
        "import pytest\nfrom hypothesis import given, strategies as st\n"
        "@pytest.mark.sim\n@given(st.integers())\nasync def test_it(n): pass\n",
    ],
    ids=["sync", "given"],
)
def test_only_plain_async_tests_can_be_marked(run: Any, source: str) -> None:
    """A marked sync test and a marked given-test are refused when they are collected."""
    assert run(source).ret == pytest.ExitCode.USAGE_ERROR


def test_numbers_on_the_command_line_replace_the_markers(run: Any) -> None:
    """`--sim-schedules` is taken as it is; a profile multiplies; a time ends the campaign."""
    run(PASSES, "--sim-schedules=3").stdout.fnmatch_lines(["simulation: 1 tests, 3 schedules, *"])
    run(PASSES, "--sim-profile=nightly").stdout.fnmatch_lines(["simulation: 1 tests, 400 schedules, *"])
    result = run(PASSES, "--sim-time=2s")
    found = re.search(r"simulation: 1 tests, ([\d,]+) schedules, .*, (\S+) s", result.stdout.str())
    assert found is not None
    assert int(found[1].replace(",", "")) > 20
    assert 2 <= float(found[2]) < 20


def test_a_seed_belongs_to_its_test(run: Any, pytester: pytest.Pytester) -> None:
    """Adding a test does not change another one's seed; another root seed does."""
    seeds = PASSES + "    print('seed', sim.seed)\n"

    def seed(source: str, *options: str) -> str:
        result = run(source, "-s", "--sim-schedules=1", "-k", "test_passes", *options)
        return next(word for line in result.outlines for word in re.findall(r"seed (\d+)", line))

    first = seed(seeds)
    assert seed(seeds.replace("@pytest", "async def test_more(): pass\n\n@pytest", 1)) == first
    assert seed(seeds, "--sim-seed=2") != first


def test_another_root_seed_is_in_the_replay_command(run: Any) -> None:
    """The command has all that it needs."""
    run(LOST_UPDATE_TEST, "--sim-seed=2").stdout.fnmatch_lines(["replay:  pytest * --sim-seed 2 --sim-replay *"])


@pytest.mark.skipif(not FULL, reason="takes long: TESTS=full runs it")
def test_determinism_is_checked_in_two_processes(run: Any) -> None:
    """A test whose runs depend on the hash seed is found; one that is reproducible passes."""
    run(PASSES, "--sim-check-determinism", own_process=True).assert_outcomes(passed=1)
    leaks = PASSES + "    sim.note(hash('text'))\n"
    result = run(leaks, "--sim-check-determinism", own_process=True)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*is not reproducible: its note 1 is*"])


def test_crashes_everywhere_crash_before_each_operation(run: Any, pytester: pytest.Pytester) -> None:
    """`--sim-crash=all` adds a death and every kept power failure at each named operation of the default order."""
    source = """
import pytest
from engine.simulation import point

@pytest.mark.sim(schedules=1, faults="crash")
async def test_dies(sim):
    async with sim.process() as process, sim.engine():
        await point("first")
        await point("second")
    with open("died.txt", "a") as file:
        file.write(process.how + " ")
"""
    run(source.replace('faults="crash"', 'faults=""'), "--sim-crash=all").assert_outcomes(passed=1)
    assert (pytester.path / "died.txt").read_text().split() == []
    run(source, "--sim-crash=all").assert_outcomes(passed=1)
    died = (pytester.path / "died.txt").read_text().split()
    assert {died.count("process"), *(died.count(f"power/{number}") for number in range(8))} == {died.count("process")}
    assert died.count("process") >= 2


def test_an_exhaustive_search_says_what_it_proved(run: Any) -> None:
    """Every order is run and the proof is stated; a failure is found and shrunk; a bound that was reached is told."""
    safe = LOST_UPDATE_TEST.replace("seen + 1", "x[0] + 1")
    result = run(safe.replace("schedules=50", ""), "--sim-exhaustive")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["simulation: *::test_lost_update: proved: every order of 4 conflicting operations *"])
    run(safe, "--sim-exhaustive", "--sim-schedules=2").stdout.fnmatch_lines(["simulation: *: truncated: *"])
    result = run(LOST_UPDATE_TEST.replace("schedules=50", "exhaustive=True"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["needs 1 ordering: fails 10/10*"])
