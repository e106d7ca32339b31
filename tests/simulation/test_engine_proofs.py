"""Proofs about the real engine on SQLite: every order of its sessions' commands, with the commutation audit."""

from __future__ import annotations

from functools import cache
from typing import Any

from engine import Session
from engine.errors import UnknownMessageError
from engine.events import MessageFinished, MessageRemoved, MessageUpdated, PartUpdated, UsageRecorded
from engine.simulation import Simulation
from engine.simulation.errors import CommutationError
from engine.simulation.exhaustive import explore_exhaustively
from tests.properties.test_reference_model import expect, look, outcome_names
from tests.support.reference import Model

TURN = (PartUpdated("p1", "m", "text", {"text": "a"}), PartUpdated("late", "m", "text"), MessageFinished("m", "completed"))
USER = (UsageRecorded("step", "m", cost_nanousd=5), MessageRemoved("m"), MessageUpdated("m", "assistant"))


@cache
def log_of(order: tuple[str, ...]) -> tuple[Model, list[list[str] | None]]:
    """What the reference model makes of one order of a session's commands."""
    model = Model()
    model.create("s", "first")
    model.append("s", 0, [MessageUpdated("m", "assistant")])
    counts = {"turn": 0, "user": 0}
    answers = []
    for name in order:
        event = (TURN if name == "turn" else USER)[counts[name]]
        counts[name] += 1
        answers.append(model.append("s", 0, [event]))
    return model, answers


def racing(sessions: int, seen: set[tuple[str, ...]], *, commands: int = 3, whole_log: bool = False) -> Any:
    """In each session a turn that streams, and somebody who removes its message; checked against the reference model."""

    async def scenario(sim: Simulation) -> None:
        names = [f"s{number}" for number in range(sessions)]
        answered: dict[str, list[tuple[int, str, list[str] | None]]] = {name: [] for name in names}

        async def send(handle: Session, who: str, events: tuple[Any, ...]) -> None:
            for event in events:
                answer: Any
                try:
                    answer = await handle.append(event)
                except UnknownMessageError as refusal:
                    answer = refusal
                seq = answer.events[0].seq if not isinstance(answer, Exception) else 0
                answered[handle.id].append((seq, who, outcome_names(answer)))

        async with sim.engine() as engine:
            handles = [await engine.create_session(name, title="first") for name in names]
            for handle in handles:
                await handle.append(MessageUpdated("m", "assistant"))
            async with sim.actors() as actors:
                for handle in handles:
                    actors.start(f"{handle.id}-turn", send, handle, "turn", TURN[:commands])
                    actors.start(f"{handle.id}-user", send, handle, "user", USER[:commands])
            for name in names:
                in_order = sorted(answered[name])
                order = tuple([who for _, who, _ in in_order])
                model, expected = log_of(order)
                assert [answer for _, _, answer in in_order] == expected
                assert await look(engine, name) == expect(model.sessions["s"][0])
                seen.add(order)
                sim.note((name, in_order, await look(engine, name)))
            if whole_log:
                sim.note([(entry.session_id, entry.seq) for entry in (await engine.read.log()).items])

    return scenario


def test_eight_sessions_of_two_tasks_and_three_commands_are_proved():
    """Every order of each session's six commands gives what the reference model says, and other sessions do not matter."""
    seen: set[tuple[str, ...]] = set()
    proof = explore_exhaustively(racing(8, seen), local=True)
    assert proof.verdict == "proved", proof.statement
    assert len(seen) == 20
    assert (proof.groups, proof.traces, proof.repeated, proof.redundant) == (8, 8 * 20, 0, 0)
    assert proof.audited == 24
    assert proof.compared


def test_the_audit_sees_that_the_order_of_two_sessions_shows_in_the_whole_log():
    """Global positions order all sessions: whoever looks at them may not call sessions independent."""
    proof = explore_exhaustively(racing(2, set(), whole_log=True), local=True)
    assert proof.failure is not None
    assert isinstance(proof.failure.error, CommutationError)


def test_two_sessions_together_are_proved():
    """Without the claim that the checks are local to a session: all combinations of two sessions' orders."""
    proof = explore_exhaustively(racing(2, set(), commands=2))
    assert (proof.verdict, proof.traces, proof.repeated) == ("proved", 6 * 6, 0)
