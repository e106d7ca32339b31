"""Exhaustive search: what it proves, what it must not call proved, and that its reduction leaves no outcome out."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.simulation import Simulation, explore, point, replay
from engine.simulation.errors import CommutationError, DeadlockError, DivergedError, SimulationSetupError
from engine.simulation.exhaustive import Proof, explore_exhaustively

Operation = tuple[tuple[str, ...], tuple[str, ...]]
"""The keys that an operation reads and writes."""

keys = st.lists(st.sampled_from("xyz"), max_size=2, unique=True).map(tuple)
operations = st.tuples(keys, keys).filter(lambda pair: bool(pair[0] or pair[1]))
programs = st.lists(st.lists(operations, min_size=1, max_size=2), min_size=2, max_size=3)


class Memory:
    """What operations do: a write appends what its actor saw last, a read looks."""

    def __init__(self) -> None:
        self.cells: dict[str, tuple[Any, ...]] = {}
        self.saw: dict[str, Any] = {}

    def do(self, actor: str, number: int, operation: Operation) -> None:
        reads, writes = operation
        self.saw[actor] = (self.saw.get(actor), *(self.cells.get(key, ()) for key in (*reads, *writes)))
        for key in writes:
            self.cells[key] = (*self.cells.get(key, ()), (actor, number, hash(self.saw[actor])))

    def state(self) -> str:
        return repr((sorted(self.cells.items()), sorted(self.saw.items())))


def states_of_every_order(program: list[list[Operation]]) -> set[str]:
    """The final states of every interleaving, found without any simulator."""
    found: set[str] = set()

    def go(order: list[int]) -> None:
        left = [index for index, actor in enumerate(program) if order.count(index) < len(actor)]
        for index in left:
            go([*order, index])
        if not left:
            memory = Memory()
            for at, index in enumerate(order):
                number = order[:at].count(index)
                memory.do(f"a{index}", number, program[index][number])
            found.add(memory.state())

    go([])
    return found


def states_explored(program: list[list[Operation]], **options: Any) -> tuple[set[str], Proof]:
    """The final states that an exhaustive search comes to."""
    found: set[str] = set()

    async def actor(memory: Memory, name: str, todo: list[Operation]) -> None:
        for number, (reads, writes) in enumerate(todo):
            await point("op", reads=reads, writes=writes)
            memory.do(name, number, (reads, writes))

    async def scenario(sim: Simulation) -> None:
        memory = Memory()
        async with sim.actors() as actors:
            for index, todo in enumerate(program):
                actors.start(f"a{index}", actor, memory, f"a{index}", todo)
        found.add(memory.state())
        sim.note(memory.state())

    return found, explore_exhaustively(scenario, **options)


@settings(max_examples=25, deadline=None)
@given(programs)
def test_the_reduction_leaves_out_no_outcome_and_runs_no_trace_twice(program):
    """Every state that any interleaving ends in is reached, each by exactly one run."""
    expected = states_of_every_order(program)
    found, proof = states_explored(program)
    assert proof.verdict == "proved"
    assert found == expected
    assert (proof.traces, proof.repeated) == (len(expected), 0)


def sessions(count: int, tasks: int, commands: int, seen: set[str] | None = None) -> Any:
    """Sessions that share nothing, each with tasks that append to it."""

    async def scenario(sim: Simulation) -> None:
        logs: dict[str, list[str]] = {f"s{session}": [] for session in range(count)}

        async def task(session: str, name: str) -> None:
            for number in range(commands):
                await point(f"append {number}", writes=(session,))
                logs[session].append(f"{name}.{number}")

        async with sim.actors() as actors:
            for session in logs:
                for number in range(tasks):
                    actors.start(f"{session}-{number}", task, session, str(number))
        for session, log in logs.items():
            sim.note((session, log))
            if seen is not None:
                seen.add(f"{session} {log}")

    return scenario


def test_sessions_alone_add_up_instead_of_multiplying():
    """Eight sessions of two tasks with three commands: 20 orders of each session, after one run to learn who conflicts."""
    seen: set[str] = set()
    proof = explore_exhaustively(sessions(8, 2, 3, seen), local=True)
    assert (proof.verdict, proof.groups, proof.repeated, proof.redundant, proof.restarts) == ("proved", 8, 0, 0, 0)
    assert (proof.traces, proof.schedules) == (8 * 20, 8 * 20 + 1)
    assert len(seen) == 8 * 20
    assert proof.audited == 24
    assert proof.compared
    assert "8 groups" in proof.statement


def test_sessions_together_multiply():
    """Without a claim that the checks are local every combination of the sessions' orders is a trace of its own."""
    proof = explore_exhaustively(sessions(2, 2, 2))
    assert (proof.verdict, proof.traces, proof.schedules, proof.repeated) == ("proved", 36, 36, 0)


def test_a_search_that_runs_out_is_truncated_and_not_proved():
    """Too few schedules, or no time: the verdict says so."""
    assert explore_exhaustively(sessions(2, 2, 2), schedules=35).verdict == "truncated"
    assert explore_exhaustively(sessions(2, 2, 2), seconds=0.0).verdict == "truncated"


async def undeclared(sim: Simulation) -> None:
    """Two actors that change one number and name different keys."""
    number = 1

    async def add() -> None:
        nonlocal number
        await point("add", writes=("a",))
        number += 1

    async def double() -> None:
        nonlocal number
        await point("double", writes=("b",))
        number *= 2

    async def other(key: str) -> None:
        await point("other", writes=(key,))

    async with sim.actors() as actors:
        actors.start("adder", add)
        actors.start("doubler", double)
        actors.start("third", other, "a")
        actors.start("fourth", other, "b")
    sim.note(("number", number))


def test_a_wrong_declaration_is_a_failure_that_names_the_pair():
    """Operations that name no common key, but whose order shows in what was noted, are no proof."""
    proof = explore_exhaustively(undeclared)
    assert proof.verdict == "failed"
    assert proof.failure is not None
    error = proof.failure.error
    assert isinstance(error, CommutationError)
    assert {error.first, error.second} == {"adder#add", "doubler#double"}
    assert any("('number', 4)" in line for line in error.differs)
    assert any("('number', 3)" in line for line in error.differs)


def test_without_the_audit_the_wrong_declaration_would_pass():
    """What the audit is for: nothing else can see it."""
    assert explore_exhaustively(undeclared, audit=0).verdict == "proved"


def test_an_operation_that_only_some_orders_have_starts_the_search_again():
    """What the default order does not show is learned, and nothing is proved on what was known before."""
    outcomes: set[str] = set()

    async def scenario(sim: Simulation) -> None:
        log: list[str] = []

        async def first() -> None:
            await point("flag", writes=("flag",))
            log.append("flag")

        async def second() -> None:
            await point("look", reads=("flag",))
            if "flag" not in log:
                await point("late", writes=("z",))
                log.append("second z")

        async def third() -> None:
            await point("z", writes=("z",))
            log.append("third z")
            await point("z", writes=("z",))
            log.append("third z again")

        async with sim.actors() as actors:
            actors.start("first", first)
            actors.start("second", second)
            actors.start("third", third)
        outcomes.add(" ".join(word for word in log if word.endswith(("z", "again"))))

    proof = explore_exhaustively(scenario, audit=0)
    assert proof.verdict == "proved"
    assert proof.restarts >= 1
    assert proof.repeated == 0
    assert outcomes == {
        "third z third z again",
        "second z third z third z again",
        "third z second z third z again",
        "third z third z again second z",
    }


def waiting_for_each_other(outcomes: set[str]) -> Any:
    """A lock, an event and a channel between actors that also write what others write."""

    async def scenario(sim: Simulation) -> None:
        log: list[str] = []
        lock, event = trio.Lock(), trio.Event()
        send, receive = trio.open_memory_channel[str](0)

        async def locker(name: str) -> None:
            async with lock:
                await point("x", writes=("x",))
                log.append(name)

        async def setter() -> None:
            await point("x", writes=("x",))
            log.append("set")
            event.set()
            await send.send("go")

        async def waiter() -> None:
            await event.wait()
            await point("y", writes=("y",))
            log.append("waited" if "go" not in log else "waited late")

        async def receiver() -> None:
            word = await receive.receive()
            await point("y", writes=("y",))
            log.append(word)

        async with sim.actors() as actors:
            actors.start("one", locker, "one")
            actors.start("two", locker, "two")
            actors.start("setter", setter)
            actors.start("waiter", waiter)
            actors.start("receiver", receiver)
        log = [word for word in log if word in ("one", "two", "set")] + [
            word for word in log if "wa" in word or word == "go"
        ]
        outcomes.add(" ".join(log))

    return scenario


def test_the_reduction_holds_where_actors_block_and_wake_each_other():
    """Locks, events and channels: the reduced search ends in the same outcomes as the full one, with fewer runs."""
    reduced: set[str] = set()
    full: set[str] = set()
    few = explore_exhaustively(waiting_for_each_other(reduced), audit=0)
    many = explore_exhaustively(waiting_for_each_other(full), audit=0, reduce=False)
    assert (few.verdict, many.verdict) == ("proved", "proved")
    assert reduced == full
    assert len(full) == 12, full
    assert few.schedules < many.schedules


def test_whoever_wakes_a_blocked_actor_is_explored_with_it():
    """An order that only comes about when a third actor, which shares no key, goes first is not left out."""
    outcomes: set[str] = set()

    async def scenario(sim: Simulation) -> None:
        log: list[str] = []
        event = trio.Event()

        async def writes(name: str, key: str) -> None:
            await point(name, writes=(key,))
            log.append(name)
            if name == "opens":
                event.set()

        async def waits() -> None:
            await event.wait()
            await writes("waited", "x")

        async with sim.actors() as actors:
            actors.start("first", writes, "first", "x")
            actors.start("waiter", waits)
            actors.start("opener", writes, "opens", "y")
            actors.start("other", writes, "other", "y")
        outcomes.add(" ".join(word for word in log if word in ("first", "waited")))

    assert explore_exhaustively(scenario, audit=0).verdict == "proved"
    assert outcomes == {"first waited", "waited first"}


def test_what_a_parent_does_after_its_nursery_races_with_nobody_in_it():
    """A second phase that touches everything does not tie the first phase's sessions together."""

    async def scenario(sim: Simulation) -> None:
        async def task(key: str) -> None:
            await point("w", writes=(key,))

        async with sim.actors() as actors:
            for key in "abc":
                for number in range(2):
                    actors.start(f"{key}{number}", task, key)
        async with sim.actors() as actors:
            actors.start("sweep", sweep)
        await point("end", reads=("a", "b", "c"))

    async def sweep() -> None:
        await point("sweep", writes=("a", "b", "c"))

    proof = explore_exhaustively(scenario, local=True)
    assert (proof.verdict, proof.groups, proof.traces) == ("proved", 3, 6)


def test_a_deadlock_is_found_and_its_schedule_replays():
    """Two locks taken in opposite orders: one order of four deadlocks, and its trace does it again."""

    async def scenario(sim: Simulation) -> None:
        a, b = trio.Lock(), trio.Lock()

        async def both(first: trio.Lock, second: trio.Lock) -> None:
            async with first, second:
                pass

        async with sim.actors() as actors:
            actors.start("one", both, a, b)
            actors.start("two", both, b, a)

    proof = explore_exhaustively(scenario)
    assert proof.verdict == "failed"
    assert proof.failure is not None
    assert isinstance(proof.failure.error, DeadlockError)
    assert isinstance(replay(scenario, proof.failure.schedule).error, DeadlockError)


def test_a_program_that_differs_under_the_same_decisions_is_no_proof():
    """Who is ready depends on something that no schedule controls: the search says so."""
    runs = 0

    async def scenario(sim: Simulation) -> None:
        nonlocal runs
        runs += 1

        async def task() -> None:
            await point("w", writes=("x",))
            await point("w", writes=("x",))

        async with sim.actors() as actors:
            for number in range(2 + runs % 2):
                actors.start(f"a{number}", task)

    proof = explore_exhaustively(scenario)
    assert proof.verdict == "failed"
    assert proof.failure is not None
    assert isinstance(proof.failure.error, DivergedError)


def test_exhaustive_is_a_strategy_of_explore():
    """`explore` gives the same proof, hands its options on, and refuses disturbances."""
    campaign = explore(sessions(3, 2, 2), strategy="exhaustive", local=True, audit=4)
    assert isinstance(campaign, Proof)
    assert (campaign.verdict, campaign.schedules, campaign.audited) == ("proved", 3 * 6 + 1, 4)
    with pytest.raises(SimulationSetupError, match="leave out crash"):
        explore(sessions(1, 2, 1), strategy="exhaustive", faults=("crash",))


def test_what_declares_no_keys_is_named_in_the_statement():
    """A named operation without keys is never reordered: then nothing is proved, and the statement says why."""

    async def scenario(sim: Simulation) -> None:
        async def task() -> None:
            await point("look around")
            await point("w", writes=("x",))

        async with sim.actors() as actors:
            actors.start("a", task)
            actors.start("b", task)

    proof = explore_exhaustively(scenario)
    assert (proof.verdict, proof.schedules) == ("sampled", 2)
    assert proof.unkeyed == ("look around",)
    assert "look around" in proof.statement
