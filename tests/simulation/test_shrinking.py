"""Shrinking: to the known fewest orderings, in few runs, with both proofs; reports that fit; saved failures that survive."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from bench.shrinking import SUBJECTS, late_part, results
from engine import simulation
from engine.simulation import Simulation, point
from engine.simulation.corpus import ENTRIES_MAX, Corpus, Saved
from engine.simulation.picture import draw, picture_of
from engine.simulation.reducing import fewest
from engine.simulation.report import COMMAND_MAX, LINES_MAX, as_json, report
from engine.simulation.shrinking import RUNS_MAX, Shrunk, shrink
from tests.support.budget import pick

Program = Callable[[Simulation], Awaitable[None]]


async def one_then_three(sim: Simulation) -> None:
    """A reader sees the first value and then the third: two orderings, whatever the neighbours do."""
    value = [0]

    async def writer() -> None:
        for number in (1, 2, 3):
            await point(f"write {number}", writes=("x",))
            value[0] = number

    async def reader() -> None:
        await point("first look", reads=("x",))
        first = value[0]
        await point("second look", reads=("x",))
        assert (first, value[0]) != (1, 3), "one, then three"

    async def neighbour(name: str) -> None:
        for number in range(4):
            await point(f"work {number}", writes=(name,))

    async with sim.actors() as actors:
        actors.start("writer", writer)
        for number in range(4):
            actors.start(f"neighbour {number}", neighbour, f"own {number}")
        actors.start("reader", reader)


async def philosophers(sim: Simulation) -> None:
    """Three of them, each with the left fork first."""
    forks = [trio.Lock() for _ in range(3)]

    async def eat(number: int) -> None:
        async with forks[number], forks[(number + 1) % 3]:
            pass

    async with sim.actors() as actors:
        for number in range(3):
            actors.start(f"philosopher {number}", eat, number)


async def unkeyed() -> None:
    """Plain trio code that says nothing about what it touches."""
    value = [0]

    async def add() -> None:
        seen = value[0]
        await trio.lowlevel.checkpoint()
        value[0] = seen + 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(add)
    assert value[0] == 3


async def timed_out_but_done(sim: Simulation) -> None:
    """A caller gives up, and what it asked for happens: an ordering and a clock that jumps."""
    send, receive = trio.open_memory_channel[str](1)
    done: list[str] = []

    async def server() -> None:
        await point("work")
        await point("commit", writes=("db",))
        done.append("it")
        send.send_nowait("ok")

    async def client() -> None:
        with trio.move_on_after(1) as scope:
            await receive.receive()
        assert not (scope.cancelled_caught and done), "timed out, but it happened"

    async with sim.actors() as actors:
        actors.start("server", server)
        actors.start("client", client)


async def items(sim: Simulation) -> None:
    """A balance that must not be seen at three; most of the workload has nothing to do with it."""
    balance = [0]

    async def deposits() -> None:
        for value in sim.steps("deposits", range(6)):
            await point(f"deposit {value}", writes=("balance",))
            balance[0] += value

    async def looks() -> None:
        for number in sim.steps("looks", range(3)):
            await point(f"look {number}", reads=("balance",))
            assert balance[0] != 3, "it was three"

    async with sim.actors() as actors:
        actors.start("deposits", deposits)
        actors.start("looks", looks)


def found(
    program: Callable[..., Awaitable[None]], *, strategy: str = "pos", seed: int = 1, mode: Any = "macro", faults: Any = ()
) -> Shrunk:
    """A failure of a program, shrunk."""
    campaign = simulation.explore(program, strategy=strategy, seed=seed, schedules=2_000, mode=mode, faults=faults)
    assert campaign.failure is not None
    return shrink(program, campaign.failure, faults=faults)


# --- reducing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("needed", [set(), {0}, {19}, {3, 17}, {0, 1, 2}, set(range(20))])
def test_the_fewest_items_are_exactly_those_that_are_needed(needed: set[int]) -> None:
    """Delta debugging keeps what is needed and nothing else."""
    assert fewest(list(range(20)), needed.issubset if not needed else lambda some: needed <= set(some)) == sorted(needed)


def test_no_item_of_the_fewest_can_be_left_out() -> None:
    """Where several sets do, one of them is found, without anything that it does not need."""

    def fails(some: list[int]) -> bool:
        return {1, 9} <= set(some) or {2, 5, 7} <= set(some)

    kept = fewest(list(range(12)), fails)
    assert fails(kept)
    assert not any(fails([other for other in kept if other != item]) for item in kept)


# --- to the known least -----------------------------------------------------------------------------


@pytest.mark.parametrize(("subject", "known"), SUBJECTS[: pick(1, 3)], ids=lambda value: getattr(value, "name", None))
def test_found_failures_shrink_to_the_known_number_of_orderings(subject: Any, known: int) -> None:
    """Whatever strategy found it: the least, within the budget, confirmed, and the opposite order passes."""
    every = list(results(subject, known, 1))
    assert len(every) >= 3
    for result in every:
        assert result.minimal, result.shrunk.schedule
        assert result.shrunk.searched <= RUNS_MAX
        assert result.shrunk.confirmed == (10, 10)
        assert result.shrunk.proved


@pytest.mark.parametrize("seed", range(pick(1, 3)))
@pytest.mark.parametrize("strategy", ["random", "pos", "auto"])
def test_two_orderings_where_no_single_one_does(strategy: str, seed: int) -> None:
    """The pair is found, each of the two is needed, and the neighbours are not."""
    shrunk = found(one_then_three, strategy=strategy, seed=seed)
    assert sorted(str(hold) for hold in shrunk.schedule.holds) == [
        "reader#second look>writer#write 3",
        "writer#write 2>reader#first look",
    ]
    assert [item.passed for item in shrunk.flipped] == [10, 10]
    assert shrunk.dropped.actors == {f"neighbour {number}" for number in range(4)}


def test_a_deadlock_shrinks_too() -> None:
    """Two waits of three philosophers at most, and each opposite order lets them eat."""
    shrunk = found(philosophers)
    assert 1 <= len(shrunk.schedule.holds) <= 2
    assert shrunk.proved


@pytest.mark.parametrize("seed", range(pick(2, 4)))
def test_code_that_declares_no_keys_shrinks_to_one_ordering(seed: int) -> None:
    """Orderings of bare checkpoints, with the mode that they need in the string."""
    shrunk = found(unkeyed, mode="await", seed=seed)
    assert len(shrunk.schedule.holds) == 1
    assert "mode=await" in str(shrunk.schedule)
    again = simulation.run(unkeyed, str(shrunk.schedule))
    assert again.signature == shrunk.run.signature


def test_needed_disturbances_stay_and_others_go() -> None:
    """The clock's jump is needed: without it the run passes; a second disturbance is left out."""
    shrunk = found(timed_out_but_done, faults=("timeout",), strategy="random")
    (item,) = shrunk.schedule.disturbances
    assert item.kind == "timeout"
    assert all(flipped.passes for flipped in shrunk.flipped if flipped.what is item)


def test_workload_items_that_are_not_needed_are_named() -> None:
    """What can be left out is told, but the schedule fails with everything in place."""
    shrunk = found(items)
    (hold,) = shrunk.schedule.holds
    assert shrunk.run.failed_at is not None
    assert hold.until in [step.address for step in shrunk.run.steps[: shrunk.run.failed_at + 1]]
    assert ("deposits", 2) not in shrunk.dropped.items
    assert len(shrunk.dropped.items) >= 2
    assert simulation.run(items, str(shrunk.schedule)).signature == shrunk.run.signature


def test_a_failure_of_the_default_order_needs_nothing() -> None:
    """The empty schedule is the result, in one run of search."""

    async def broken(sim: Simulation) -> None:
        async with sim.actors() as actors:
            actors.start("one", point, "a")
            actors.start("two", point, "b")
        raise ValueError("always")

    shrunk = found(broken)
    assert (str(shrunk.schedule), shrunk.searched) == ("", 1)
    assert "needs no ordering: fails 10/10 in the default order" in report(shrunk, name="broken")


def test_a_failure_that_does_not_come_back_is_said_to_be_unreliable() -> None:
    """What no seed controls is not passed off as shrunk."""
    calls = itertools.count()

    async def flaky(sim: Simulation) -> None:
        async with sim.actors() as actors:
            actors.start("one", point, "a")
            actors.start("two", point, "b")
        assert next(calls) != 3, "the fourth call"

    campaign = simulation.explore(flaky, schedules=10)
    assert campaign.failure is not None
    shrunk = shrink(flaky, campaign.failure)
    assert shrunk.confirmed == (0, 10)
    assert not shrunk.reliable
    assert "not reproducible: fails 0/10" in report(shrunk, name="flaky")


def test_a_spent_budget_is_said_and_what_was_found_still_fails() -> None:
    """Out of runs, the result is a schedule that fails, not a guess."""
    campaign = simulation.explore(late_part, strategy="random", seed=1, schedules=2_000)
    assert campaign.failure is not None
    shrunk = shrink(late_part, campaign.failure, runs_max=5)
    assert not shrunk.complete
    assert shrunk.searched <= 5
    assert shrunk.confirmed == (10, 10)


@pytest.mark.parametrize("seed", range(pick(2, 6)))
def test_another_bug_of_the_same_program_is_another_failure(seed: int) -> None:
    """What was found is what is shrunk, though other orders break the program in another way, and sooner."""

    async def two_bugs(sim: Simulation) -> None:
        seen: list[str] = []
        looked: list[str] = []

        async def one() -> None:
            for name in ("a", "b", "c"):
                await point(name, writes=("x",))
                seen.append(name)

        async def other() -> None:
            await point("look", reads=("x",))
            looked.extend(seen)

        async with sim.actors() as actors:
            actors.start("one", one)
            actors.start("other", other)
        assert looked != ["a"], "the first bug"
        assert looked != ["a", "b"], "the second bug"
        assert looked, "the third bug"

    campaign = simulation.explore(two_bugs, strategy="random", seed=seed, failures_max=60, schedules=600)
    by_kind = {failure.run.signature: failure for failure in campaign.failures}
    assert len(by_kind) == 3
    for signature, failure in by_kind.items():
        shrunk = shrink(two_bugs, failure)
        assert (shrunk.run.signature, shrunk.confirmed, len(shrunk.schedule.holds)) == (signature, (10, 10), 1)


def test_the_cause_is_preferred_to_what_comes_with_it_by_luck() -> None:
    """Waiting for a bystander breaks it too, because in the default order the culprit has run by then."""

    async def program(sim: Simulation) -> None:
        there = [True]

        async def turn() -> None:
            await point("late", writes=("m",))
            assert there[0], "gone"

        async def user() -> None:
            await point("remove", writes=("m",))
            there[0] = False

        async def bystander() -> None:
            await point("look", writes=("m",))

        async with sim.actors() as actors:
            actors.start("turn", turn)
            actors.start("user", user)
            async with trio.open_nursery() as nursery:  # it cannot be dropped
                nursery.start_soon(bystander, name="bystander")

    schedule = "c1:turn#late>bystander#look"
    failing = simulation.run(program, schedule)
    assert failing.failed
    trace = str(failing.schedule())
    shrunk = shrink(program, simulation.Failure(failing, trace, 0, 1, "random"))
    assert str(shrunk.schedule) == "c1:turn#late>user#remove"
    assert shrunk.around == (10, 10)


def test_nothing_is_dropped_whose_absence_alone_is_the_failure() -> None:
    """A sum over all actors is wrong with one of them missing, in every order: that is no smaller failure."""

    async def program(sim: Simulation) -> None:
        total = [0]

        async def add() -> None:
            await point("read", reads=("x",))
            seen = total[0]
            await point("write", writes=("x",))
            total[0] = seen + 1

        async with sim.actors() as actors:
            for number in range(3):
                actors.start(f"adder {number}", add)
        assert total[0] == 3, f"{total[0]} of three"

    assert found(program).dropped.actors == frozenset()


# --- the report -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "mode", "faults"),
    [
        (late_part, "macro", ()),
        (one_then_three, "macro", ()),
        (philosophers, "macro", ()),
        (unkeyed, "await", ()),
        (timed_out_but_done, "macro", ("timeout",)),
        (items, "macro", ()),
    ],
)
def test_a_report_fits_and_its_orderings_are_in_it(program: Any, mode: Any, faults: Any) -> None:
    """At most 25 lines, a short replay command, every ordering with its proof, and the failing place."""
    shrunk = found(program, mode=mode, faults=faults, strategy="random")
    text = report(shrunk, name=program.__name__, command="pytest tests/test_it.py::test_it --sim-replay", schedules=500)
    lines = text.splitlines()
    assert len(lines) <= LINES_MAX
    assert max(len(line) for line in lines) <= COMMAND_MAX
    assert lines[-1].startswith("replay:  pytest tests/test_it.py::test_it --sim-replay 'c1:")
    assert text.count("<== here") == 1
    for hold in shrunk.schedule.holds:
        assert f"{hold.until} before {hold.held}; other order passes" in text
        assert f"| held before {str(hold.held).partition('#')[2]}"[:18] in text
    assert json.loads(json.dumps(as_json(shrunk, name="it")))["schedule"] == str(shrunk.schedule)


def test_what_an_ordering_names_is_shown_where_there_is_little_room() -> None:
    """The steps of every ordering and the failing one are rows, however far apart they are."""
    shrunk = found(late_part, strategy="random")
    run, plan = shrunk.run, shrunk.schedule
    picture = picture_of(run, plan.holds, plan.disturbances, shrunk.dropped.actors, 8)
    shown = {row.at for row in picture.rows if row.step}
    named = {step.address: index for index, step in enumerate(run.steps)}
    assert {named[address] for hold in plan.holds for address in (hold.held, hold.until)} <= shown
    assert run.failed_at in shown
    assert len(draw(picture)) <= 8 + 1


# --- saved failures ---------------------------------------------------------------------------------


def test_a_corpus_keeps_the_newest_first_and_a_number_of_them(tmp_path: Path) -> None:
    """A failure that comes again moves to the front; the oldest go; tests do not share files."""
    corpus = Corpus(tmp_path / "made")
    for number in range(1, ENTRIES_MAX + 4):
        corpus.save("tests/a.py::test[1]", Saved(f"c1:a#b[{number}]>c#d", number, "why"))
    corpus.save("tests/a.py::test[1]", Saved("c1:a#b[9]>c#d", 9, "again"))
    corpus.save("tests/a.py::test-1-", Saved("c1:x#y>z#w", 0))
    found = corpus.saved("tests/a.py::test[1]")
    assert len(found) == ENTRIES_MAX
    assert found[0] == Saved("c1:a#b[9]>c#d", 9, "again")
    assert [entry.seed for entry in found[1:3]] == [ENTRIES_MAX + 3, ENTRIES_MAX + 2]
    assert len(corpus.saved("tests/a.py::test-1-")) == 1
    assert len(list((tmp_path / "made").iterdir())) == 2


# --- surviving edits --------------------------------------------------------------------------------


def edited(
    *,
    noise: int = 8,
    parts: int = 10,
    looks: int = 10,
    first: str = "",
    pause: int = 0,
    user_first: bool = False,
    room: int = 64,
    other: str = "part",
    extra_actor: bool = False,
    sleeps: bool = False,
    nested: bool = False,
    after: str = "",
) -> Program:
    """The late part, with an edit that does not touch the race."""

    async def program(sim: Simulation) -> None:
        send, receive = trio.open_memory_channel[str](room)
        there = [True]

        async def stream(own: trio.MemorySendChannel[str], kind: str, last: str, count: int) -> None:
            async with own:
                if first:
                    await own.send(first)
                for number in range(count):
                    for _ in range(pause):
                        await trio.lowlevel.checkpoint()
                    if sleeps:
                        await trio.sleep(0.001)
                    await own.send(f"{kind} {number}")
                await own.send(last)
                if after:
                    await own.send(after)

        async def writer() -> None:
            async for command in receive:
                if command == "remove":
                    there[0] = False
                assert command != "late" or there[0], "a part of a message that is gone"

        async def wrapped(*args: Any) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.checkpoint)
            await stream(*args)

        turn = ("turn", stream if not nested else wrapped, send.clone(), other, "late", parts)
        user = ("user", stream, send.clone(), "look", "remove", looks)
        async with sim.actors() as actors:
            actors.start("writer", writer)
            for name, function, *args in (user, turn) if user_first and not nested else (turn, user):
                actors.start(str(name), function, *args)  # type: ignore[arg-type]
            for number in range(noise):
                actors.start(f"noise {number}", stream, send.clone(), f"noise {number}", f"end {number}", 2)
            if extra_actor:
                actors.start("onlooker", point, "look on")
            send.close()

    return program


EDITS: dict[str, dict[str, Any]] = {
    "none": {},
    "no noise": {"noise": 0},
    "one more neighbour": {"noise": 9},
    "one neighbour less": {"noise": 7},
    "many more neighbours": {"noise": 30},
    "one more part": {"parts": 11},
    "one part less": {"parts": 9},
    "no parts": {"parts": 0},
    "one more look": {"looks": 11},
    "no looks": {"looks": 0},
    "a command before": {"first": "hello"},
    "a command after": {"after": "bye"},
    "one more local step": {"pause": 1},
    "five more local steps": {"pause": 5},
    "a sleep between": {"sleeps": True},
    "the user started first": {"user_first": True},
    "a smaller channel": {"room": 1},
    "a larger channel": {"room": 1_000},
    "other commands renamed": {"other": "piece"},
    "one more kind of actor": {"extra_actor": True},
    "a nursery around the turn": {"nested": True},
}


def test_a_saved_failure_survives_harmless_edits() -> None:
    """The ordering that was printed before an edit fails in the same way after it, in at least 95 of 100 edits."""
    shrunk = found(edited(), strategy="random")
    assert str(shrunk.schedule) == "c1:turn#send late>user#send remove"
    survived = [
        name
        for name, edit in EDITS.items()
        if simulation.run(edited(**edit), shrunk.schedule).signature == shrunk.run.signature
    ]
    assert len(EDITS) > 20
    assert len(survived) >= 0.95 * len(EDITS), sorted(set(EDITS) - set(survived))


def test_an_edit_that_mends_the_race_is_seen() -> None:
    """The saved schedule of a race that is gone passes."""
    assert simulation.run(edited(other="part"), "c1:turn#send late>user#send remove").failed
    assert not simulation.run(edited(other="part"), "c1:user#send remove>turn#send late").failed
