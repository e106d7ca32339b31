"""The pytest plugin: an async test marked `sim` runs under many schedules, and a failure comes with its orderings.

    @pytest.mark.sim(schedules=500, faults="timeout,cancel")
    async def test_revert_while_streaming(sim):
        async with sim.actors() as actors:
            actors.start("turn", streaming_turn)
            actors.start("user", revert)

Owns: the marker, the fixture `sim`, the options, what a failing test prints. Must not know: how schedules are chosen.

`sim` is the `Simulation` of the schedule that runs; other fixtures are resolved once for all schedules, so they must be
synchronous and what they give must not change from one schedule to the next. pytest-trio leaves marked tests alone. The
seed of a test is a hash of `--sim-seed` and the test's id. Under pytest-xdist each worker runs whole tests: one test's runs
are not shared out. Saved failures are tried first; they are written on a failure only, each file replaced whole.

Invariants: a wrong option or marker ends the session with pytest's status for usage errors before any test runs; a failing
test raises what the code under test raised.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from engine.simulation import checking, twin
from engine.simulation.corpus import Corpus, Saved
from engine.simulation.errors import SimulationError
from engine.simulation.report import report
from engine.simulation.world import Simulation

PROFILES: Final = {"ci": 1, "nightly": 20}
"""By how much a profile multiplies the schedules of each test."""
TWIN_SCHEDULES: Final = 20
"""Schedules that `--sim-check-determinism` compares where no number is given."""
SAID_MAX: Final = 20
"""Lines of the summary about single tests."""
MARKER_KEYS: Final = ("schedules", "seconds", "strategy", "faults", "mode", "exhaustive")

OPTIONS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("--sim-seed", {"type": int, "default": 0, "metavar": "N", "help": "Root seed of all simulated tests. Default: 0."}),
    ("--sim-schedules", {"type": int, "metavar": "N", "help": "Schedules for each test, instead of its marker's."}),
    (
        "--sim-time",
        {"metavar": "TIME", "help": "Wall time for each test, like 60s or 5m, instead of a number."},
    ),
    ("--sim-replay", {"metavar": "SCHEDULE", "help": "Run the selected tests under this schedule only."}),
    ("--sim-strategy", {"metavar": "NAME", "help": "Strategy, instead of the marker's."}),
    ("--sim-mode", {"metavar": "MODE", "help": "macro or await, instead of the marker's."}),
    ("--sim-exhaustive", {"action": "store_true", "help": "Run every schedule that can differ, up to a bound."}),
    ("--sim-crash", {"metavar": "all|sample", "help": "all: crash at every operation, in tests whose faults have crash."}),
    ("--sim-check-determinism", {"action": "store_true", "help": "Run each test's schedules in two processes and compare."}),
    ("--sim-corpus", {"metavar": "DIR", "help": "Where failures are kept and tried first. Default: .sim-corpus."}),
    ("--sim-profile", {"metavar": "ci|nightly", "help": "nightly: 20 times the schedules of the markers."}),
    ("--sim-records", {"action": "store_true", "help": "Print each run as a line of JSON, and judge nothing."}),
)

_problems = pytest.StashKey["_Told"]()
_totals = pytest.StashKey["_Totals"]()


@attrs.frozen
class _Told:
    """What a failing test has to say beside its traceback."""

    text: str


@attrs.define
class _Totals:
    """For the terminal's summary."""

    tests: int = 0
    schedules: int = 0
    distinct: int = 0
    seconds: float = 0.0
    said: list[str] = attrs.field(factory=list)
    """What saved schedules could not be met, and what was proved."""


# --- options ----------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("sim", "deterministic simulation")
    for name, settings in OPTIONS:
        group.addoption(name, **settings)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and refuse wrong options before anything runs."""
    config.addinivalue_line(
        "markers",
        "sim(schedules=500, seconds=None, strategy='auto', faults='', mode='macro', exhaustive=False): "
        "run the async test under many schedules; see engine.simulation.plugin",
    )
    config.stash[_totals] = _Totals()
    for name, known in (("crash", ("all", "sample")), ("profile", tuple(PROFILES))):
        value = config.getoption(f"sim_{name}")
        if value is not None and value not in known:
            raise pytest.UsageError(f"--sim-{name}: expected {' or '.join(known)}, found {value!r}")
    _settings(config, "", {})


def _settings(config: pytest.Config, test: str, marker: dict[str, Any]) -> checking.Settings:
    """The settings of one test: the command line's, then its marker's, then the defaults. Raises `pytest.UsageError`."""
    option = config.getoption
    unknown = sorted(set(marker) - set(MARKER_KEYS))
    if unknown:
        raise pytest.UsageError(f"{test}: the marker sim knows {', '.join(MARKER_KEYS)}, not {', '.join(unknown)}")
    try:
        exhaustive = bool(option("sim_exhaustive") or marker.get("exhaustive"))
        schedules, seconds = marker.get("schedules"), marker.get("seconds")
        if option("sim_profile") is not None:
            usual = checking.EXHAUSTIVE_SCHEDULES if exhaustive else checking.SCHEDULES
            schedules = (usual if schedules is None else schedules) * PROFILES[option("sim_profile")]
        if option("sim_time") is not None:
            schedules, seconds = checking.UNBOUNDED, checking.seconds_of(option("sim_time"))
        if option("sim_schedules") is not None:
            schedules = option("sim_schedules")
        return checking.Settings(
            schedules=schedules,
            seconds=seconds,
            strategy=option("sim_strategy") or marker.get("strategy", "auto"),
            seed=checking.child_seed(option("sim_seed"), test),
            mode=option("sim_mode") or marker.get("mode", "macro"),
            faults=checking.kinds_of(marker.get("faults", ())),
            replay=option("sim_replay"),
            crash_everywhere=option("sim_crash") == "all",
            exhaustive=exhaustive,
        )
    except (SimulationError, TypeError) as problem:
        raise pytest.UsageError(f"{test}: {problem}" if test else f"--sim-... {problem}") from None


# --- collecting -------------------------------------------------------------------------------------


@pytest.fixture
def sim(request: pytest.FixtureRequest) -> Any:
    """The simulation of the schedule that runs; only in tests marked `sim`."""
    if request.node.get_closest_marker("sim") is None:
        pytest.fail("the fixture sim needs the marker: @pytest.mark.sim", pytrace=False)
    return _NotRunning()


class _NotRunning:
    """Stands for the simulation while fixtures are made: there is none yet."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"sim.{name} is there in the test's body only: fixtures are made once for all schedules")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the marked tests, and keep others' async runners away from them."""
    for item in items:
        marker = item.get_closest_marker("sim")
        if marker is None:
            continue
        function = getattr(item, "obj", None)
        if marker.args:
            raise pytest.UsageError(f"{item.nodeid}: the marker sim takes names only, like schedules=100")
        if hasattr(function, "hypothesis"):
            raise pytest.UsageError(f"{item.nodeid}: a test of given() cannot be simulated: call explore() in it")
        if not inspect.iscoroutinefunction(function):
            raise pytest.UsageError(f"{item.nodeid}: a simulated test is an async function")
        _settings(config, item.nodeid, dict(marker.kwargs))
        item.own_markers = [mark for mark in item.own_markers if mark.name != "trio"]


# --- running ----------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked test under its schedules."""
    __tracebackhide__ = True
    marker = pyfuncitem.get_closest_marker("sim")
    if marker is None:
        return None
    config = pyfuncitem.config
    settings = _settings(config, pyfuncitem.nodeid, dict(marker.kwargs))
    if config.getoption("sim_check_determinism"):
        _compare(pyfuncitem, settings)
        return True
    scenario = _scenario(pyfuncitem)
    if config.getoption("sim_records"):
        checking.record(scenario, settings, _recorder(pyfuncitem.nodeid))
        return True
    corpus = Corpus(Path(config.getoption("sim_corpus") or config.rootpath / ".sim-corpus"))
    verdict = checking.check(scenario, settings, corpus.saved(pyfuncitem.nodeid))
    _count(pyfuncitem, verdict)
    error = verdict.error
    if error is None:
        return True
    if verdict.shrunk is not None and not isinstance(error, pytest.skip.Exception | pytest.exit.Exception):
        _tell(pyfuncitem, settings, verdict, corpus)
    if verdict.shrunk is None:
        pytest.fail(str(error), pytrace=False)
    raise error.with_traceback(_own_frames(error))


def _scenario(item: pytest.Function) -> Callable[[Simulation], Any]:
    """The test's body as a scenario, with its fixtures."""
    values = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
    body = item.obj

    async def scenario(simulation: Simulation) -> None:
        given = {name: simulation if isinstance(value, _NotRunning) else value for name, value in values.items()}
        await body(**given)

    return scenario


def _own_frames(error: BaseException) -> Any:
    """The traceback of an error without the simulator's and trio's own frames at its beginning."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if not module.startswith(("engine.simulation", "trio.", "outcome")):
            break
        trace = trace.tb_next
    return trace


def _tell(item: pytest.Function, settings: checking.Settings, verdict: checking.Verdict, corpus: Corpus) -> None:
    """Save a failure, and keep its report for the terminal."""
    shrunk = verdict.shrunk
    assert shrunk is not None
    seed = item.config.getoption("sim_seed")
    options = f" --sim-seed {seed}" if seed else ""
    text = report(
        shrunk,
        name=item.name,
        command=f"pytest {_quoted(item.nodeid)}{options} --sim-replay",
        schedules=None if settings.limit == checking.UNBOUNDED else settings.limit,
        origin=verdict.origin,
    )
    if settings.replay is None and shrunk.reliable:
        said = " ".join(f"{type(shrunk.found.error).__name__}: {shrunk.found.error}".split())[:200]
        schedule = str(shrunk.schedule) if shrunk.schedule.seeded is None else str(shrunk.found.run.schedule())
        corpus.save(item.nodeid, Saved(schedule, shrunk.found.seed, said))
    item.stash[_problems] = _Told(text)


def _quoted(node: str) -> str:
    return node if node.replace("::", "").replace("/", "").replace(".", "").replace("_", "").isalnum() else f"'{node}'"


def _recorder(name: str) -> Callable[[int, Any], None]:
    def write(number: int, run: Any) -> None:
        sys.stdout.write("\n")
        twin.write_record(twin.record_of(f"{name} {number}", run))

    return write


def _compare(item: pytest.Function, settings: checking.Settings) -> None:
    """Run the test's schedules in two fresh processes, and compare every run."""
    __tracebackhide__ = True
    config = item.config
    schedules = settings.limit if config.getoption("sim_schedules") is not None else TWIN_SCHEDULES
    command = [sys.executable, "-m", "pytest", f"{item.path}::{item.nodeid.partition('::')[2]}", "--sim-records", "-s", "-q"]
    command += [f"--rootdir={config.rootpath}", f"--sim-schedules={schedules}", f"--sim-seed={config.getoption('sim_seed')}"]
    command += [f"--sim-strategy={settings.strategy}", f"--sim-mode={settings.mode}", "-p", "no:cacheprovider"]
    if config.inipath is not None:
        command += ["-c", str(config.inipath)]
    if config.pluginmanager.has_plugin(__name__):
        command += ["-p", __name__]
    if config.pluginmanager.has_plugin("xdist"):
        command += ["-n0"]
    twins = twin.twin_commands((command, command))
    if twins.divergence is not None:
        pytest.fail(str(twins.divergence), pytrace=False)


# --- telling ----------------------------------------------------------------------------------------


def _count(item: pytest.Function, verdict: checking.Verdict) -> None:
    campaign = verdict.campaign
    said = [f"not met: {item.nodeid}: {what}" for what in verdict.unmet]
    if verdict.statement:
        said.append(f"{item.nodeid}: {verdict.statement}")
    item.stash[_totals] = _Totals(1, campaign.schedules, len(campaign.digests), campaign.seconds, said)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Put the report of a failure, and what the summary counts, into the test's report: it travels between processes."""
    made = yield
    if call.when == "call":
        told = item.stash.get(_problems, None)
        if told is not None and made.failed:
            made.sections.append(("simulation", told.text))
        totals = item.stash.get(_totals, None)
        if totals is not None:
            made.simulated = attrs.asdict(totals)
    return made


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line: how many schedules were explored; and what saved schedules could not be met."""
    found: Iterable[Any] = (
        made for category in terminalreporter.stats.values() for made in category if hasattr(made, "simulated")
    )
    totals = [_Totals(**made.simulated) for made in found]
    if not totals:
        return
    schedules, distinct = sum(one.schedules for one in totals), sum(one.distinct for one in totals)
    seconds = sum(one.seconds for one in totals)
    terminalreporter.write_line(
        f"simulation: {len(totals)} tests, {schedules:,} schedules, {distinct:,} distinct runs, {seconds:.1f} s"
    )
    for what in [what for one in totals for what in one.said][:SAID_MAX]:
        terminalreporter.write_line(f"simulation: {what}")
