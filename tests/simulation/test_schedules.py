"""Schedule strings: read, written, carried out, and said when they cannot be."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from engine import simulation
from engine.events import MessageRemoved, MessageUpdated, PartUpdated
from engine.simulation import Address, Disturbance, Hold, Schedule, Simulation, order, parse, point
from engine.simulation.choices import KINDS
from engine.simulation.errors import ScheduleSyntaxError, ScheduleUnmetError

names = st.text("abcXYZ019_.,:()/~ -", min_size=1, max_size=12).map(str.strip).filter(bool)
addresses = st.builds(Address, names, names, st.integers(1, 99))
VALUES = {
    "cut": ["1", "2", "40"],
    "crash": ["1", "power", "power/3", "process"],
    "fault": ["eio", "full"],
    "net": ["lost/0", "lost/all", "delay/2500", "split/7"],
}
disturbances = st.sampled_from(KINDS).flatmap(
    lambda kind: st.builds(Disturbance, st.just(kind), addresses, st.sampled_from(VALUES.get(kind, ["1"])))
)
holds = st.builds(Hold, addresses, addresses, st.booleans())
modes = st.sampled_from([None, "await", "macro"])
constraints = st.builds(
    Schedule, st.lists(holds, max_size=3).map(tuple), st.lists(disturbances, max_size=2).map(tuple), mode=modes
)
traces = st.builds(
    Schedule,
    disturbances=st.lists(disturbances, max_size=2).map(tuple),
    segments=st.lists(st.tuples(names, st.integers(1, 500)), max_size=20).map(tuple),
    mode=modes,
    fingerprint=st.sampled_from(["", "0a1b2c3d"]),
)


def packed(content: Any) -> str:
    """A trace with this content."""
    return "t1." + base64.urlsafe_b64encode(zlib.compress(json.dumps(content).encode())).decode().rstrip("=")


WHOLE = packed([["a"], [0, 1], [], None, ""])


@given(st.one_of(constraints, traces))
def test_what_is_written_can_be_read(schedule):
    """Both forms come back as they were."""
    assert parse(str(schedule)) == schedule


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "c1:garbage",
        "c1:a#b>",
        "c1:>a#b",
        "c1:a>b",
        "c1:explode@a#b",
        "c1:cancel@a",
        "c1:a#b[0x]>c#d",
        "c1:a#b[0]>c#d",
        f"c1:a#b[{'9' * 5000}]>c#d",
        "c1:a#b>>>c#d",
        "c1:cut@writer#batch=x",
        "c1:cut@writer#batch=0",
        "c1:cut@writer#batch=-1",
        "c1:crash@a#b=nonsense",
        "c1:crash@a#b=power/x",
        "c1:fault@disk#wal write=5",
        "c1:timeout@a#b=2",
        "c1:cancel@a#b=1=2",
        "c1:mode=await; mode=macro",
        "t1.notbase64!",
        WHOLE[:-3],
        WHOLE[:9] + "!" + WHOLE[9:],
        WHOLE + "AAAA",
        packed([["a"], [0, 1], [5], None, ""]),
        packed([["a"], [0, 1], ["garbage"], None, ""]),
        packed([{"a": 1}, [0, 1], [], None, ""]),
        packed([["a"], [-1, 1], [], None, ""]),
        packed([["a"], [0, -1], [], None, ""]),
        packed([["a"], [0, 1, 0], [], None, ""]),
        packed([["a"], [0, 1], [], "sideways", ""]),
        packed([["a"], [0, 1], [], None, 7]),
        "t1." + base64.urlsafe_b64encode(zlib.compress(b"[" * 100_000)).decode(),
        f"s1.random.1.{'9' * 5000}",
        "t1.AAAA",
        "s1.random.1",
        "s1..1.1",
    ],
)
def test_what_is_no_schedule_is_refused(text):
    """The error names the text."""
    with pytest.raises(ScheduleSyntaxError, match=r"^schedule "):
        parse(text)


async def letters(sim: Simulation) -> None:
    """Three actors write their letters; the order is what the run was."""
    written: list[str] = []

    async def write(text: str) -> None:
        for letter in text:
            await point(letter, writes=("page",))
            written.append(letter)

    async with sim.actors() as actors:
        for name, text in (("a", "abc"), ("k", "klm"), ("x", "xyz")):
            actors.start(name, write, text)
    sim.note("".join(written))


def text_of(schedule: Any, **options: Any) -> str:
    """What the letters' scenario wrote."""
    return simulation.run(letters, schedule, **options).notes[0].strip("'")


def test_the_default_order_goes_on_as_long_as_it_can():
    """Nobody is pre-empted."""
    assert text_of("") == "abcklmxyz"


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("c1:a#b>x#z", "aklmxyzbc"),
        ("c1:a#b>>x#y", "axyzbcklm"),
        ("c1:a#b>k#l; k#m>x#x", "aklbcxyzm"),
        ("c1:a#a>x#z; k#k>a#c", "xyzabcklm"),
    ],
)
def test_holds_are_met(schedule, expected):
    """An actor waits before its operation until the other one was done, and is next in line then."""
    run = simulation.run(letters, schedule)
    assert (run.notes[0].strip("'"), run.unmet) == (expected, [])


def test_orderings_can_be_written_by_hand():
    """`order` says first and second, as one would speak."""
    schedule = Schedule(holds=(order("x#z", before="a#b"),))
    assert str(schedule) == "c1:a#b>x#z"
    assert text_of(schedule) == text_of("c1:a#b>x#z")


def test_what_cannot_be_met_is_said():
    """A hold for something that never comes, and one that two actors have on each other, are given up and named."""
    run = simulation.run(letters, "c1:a#b>x#w; q#r>a#a; timeout@a#c")
    assert run.error is None
    assert run.unmet == [
        "a#b>x#w: the second did not come while the first was held",
        "timeout@a#c: there was nothing to disturb",
        "q#r>a#a: q#r never came",
    ]
    circle = simulation.run(letters, "c1:a#a>k#k; k#k>a#a")
    assert circle.notes[0].strip("'") == "xyzabcklm"
    assert len(circle.unmet) == 1
    strict = simulation.run(letters, "c1:a#b>x#w", strict=True).error
    assert isinstance(strict, ScheduleUnmetError)


@pytest.mark.parametrize("strategy", ["random", "urw", "pct2", "pct3", "pos", "lockstep", "auto"])
def test_any_run_of_a_campaign_can_be_had_again(strategy):
    """Each run's own string, and its trace, give the same steps without the runs before it."""
    seen: list[tuple[str, str]] = []
    simulation.explore(
        letters,
        strategy=strategy,
        schedules=12,
        seed=7,
        on_run=lambda _, run: seen.append((run.digest, str(run.schedule()))),
    )
    for number, (digest, trace) in enumerate(seen):
        again = simulation.replay(letters, trace)
        assert (again.digest, again.exact) == (digest, True)
        if number:
            name = f"s1.{strategy}.7.{number}"
            assert simulation.replay(letters, name).digest == digest
    assert len({digest for digest, _ in seen}) > 3


def test_a_trace_of_another_program_is_said_to_be_inexact():
    """A trace is followed as far as it goes; that it is not the same run any more is not kept quiet."""

    async def edited(sim: Simulation) -> None:
        async with sim.actors() as actors:
            actors.start("a", point, "new step")
            actors.start("k", point, "k")

    trace = str(simulation.run(letters, "c1:a#b>x#z").schedule())
    assert not simulation.replay(edited, trace).exact


async def late_part(sim: Simulation) -> None:
    """A turn's part against the removal of its message, on the engine; the process may die."""
    async with sim.process() as process:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            await session.append(MessageUpdated("m", "assistant"))
            outcomes: list[str] = []

            async def turn() -> None:
                with trio.move_on_after(5):
                    receipt = await session.append(PartUpdated("p", "m", "text", {}))
                    outcomes.append(str(receipt.outcome))

            async with sim.actors() as actors:
                actors.start("turn", turn)
                actors.start("user", session.append, MessageRemoved("m"))
        sim.note(outcomes)
    sim.note(process.crashed)


@pytest.mark.parametrize(
    ("schedule", "noted"),
    [
        ("", ["['Applied()']", "False"]),
        ("c1:turn#append PartUpdated(p)>user#append MessageRemoved(m)", ["[\"Skipped(reason='orphan_part')\"]", "False"]),
        ("c1:cut@writer#batch[3]=1", ["['Applied()']", "False"]),
        ("c1:cancel@turn#append PartUpdated(p)", ["[]", "False"]),
        ("c1:lose@turn#append PartUpdated(p)", ["[]", "False"]),
        ("c1:timeout@writer#commit[3]", ["[]", "False"]),
        ("c1:crash@writer#commit[3]=process", ["True"]),
        ("c1:crash@writer#step done[3]=power/2", ["True"]),
    ],
)
def test_each_kind_of_disturbance_is_a_choice_with_an_address(schedule, noted):
    """Orders, cuts, cancellations, lost answers, timeouts and deaths take place where the string says, again and again."""
    run = simulation.run(late_part, schedule)
    assert (run.error, list(run.notes), run.unmet) == (None, noted, [])
    assert tuple(run.disturbances) == parse(schedule).disturbances
    assert simulation.run(late_part, schedule).digest == run.digest


def test_a_failing_disk_is_a_choice_with_an_address():
    """The error of one operation of the disk reaches whoever waits for it."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            await engine.create_session("s")

    run = simulation.run(scenario, "c1:fault@disk#wal write[1]=full", faults=("fault",))
    assert [str(item) for item in run.disturbances] == ["fault@disk#wal write=full"]
    assert simulation.run(scenario).error is None


def test_a_fault_that_an_operation_cannot_have_is_said():
    """A write cannot be busy: nothing fails, and the schedule says so."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            await engine.create_session("s")

    run = simulation.run(scenario, "c1:fault@disk#wal write[1]=busy", faults=("fault",))
    assert (run.error, run.disturbances) == (None, [])
    assert run.unmet == ["fault@disk#wal write=busy: there was nothing to disturb"]


def test_a_seed_form_tried_first_is_the_run_that_it_names():
    """A campaign of another strategy and seed repeats a seed form by the strategy and the seed in it."""
    expected = simulation.replay(letters, "s1.random.5.3")
    found: list[str] = []
    simulation.explore(letters, schedules=1, first=["s1.random.5.3"], on_run=lambda _, run: found.append(run.digest))
    assert found == [expected.digest]


async def odd(sim: Simulation) -> None:
    """Actors and operations with names that mean something in a schedule, or nothing at all."""

    async def act() -> None:
        for label in ("", "a;b>c@d=[3]#", "\u00fcn\u00ef" * 50, "x" * 500):
            await point(label, writes=("k",))

    async with sim.actors() as actors:
        for name in ("", "\u00e9", "\u00e8", "a.b", "c.b", "x;y", "[1]", " sp ", "#", "a~2", "a", "a", "n" * 200):
            actors.start(name, act)


@pytest.mark.parametrize("number", range(1, 8))
def test_odd_names_can_be_named(number):
    """Every step's address can be read back, and every run comes back from its trace and from its seed form."""
    run = simulation.replay(odd, f"s1.random.0.{number}")
    assert run.error is None
    assert [Address.parse(str(step)) for step in run.steps] == [step.address for step in run.steps]
    assert len({str(step) for step in run.steps}) == len(run.steps)
    again = simulation.run(odd, str(run.schedule()))
    assert (again.digest, again.exact, again.unmet) == (run.digest, True, [])
    assert simulation.replay(odd, f"s1.random.0.{number}").digest == run.digest
