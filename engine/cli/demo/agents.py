"""The demo's agents: each plays scripts in a session of its own, while others remove, repeat and come late.

Owns: playing a turn, and the races around it. Must not know: how the outcome is checked.
Invariants: whatever an agent is told goes to the ledger, refusals too; an error ends the agent that got it, and no other.
What races: removals with late parts, finishes with late updates, one delivery with its copies, a stop with a stream, a
session's removal with writes of its old life.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import trio
import trio.lowlevel

from engine.cli.demo.ledger import Ledger
from engine.cli.demo.script import Answer, Call, Say, Spend, Step, TurnScript, Whole
from engine.errors import CallerError, EngineError, TurnBusyError
from engine.events import (
    Envelope,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartUpdated,
    SessionNoted,
    SessionRemoved,
    ToolUpdated,
    UsageRecorded,
)
from engine.runtime import Workspace
from engine.session import Message, Session, Turn

REMOVAL, STOP, LATE, COPIES, REPORTS = 0.08, 0.04, 0.12, 0.10, 0.30
"""How often, per message, each race is staged."""
SESSION_REMOVAL: Final = 0.2
PIECE_CHARS: Final = (4, 40)


class Agent:
    """One session and what happens to it."""

    def __init__(self, workspace: Workspace, ledger: Ledger, name: str, turns: Iterator[TurnScript], seed: str) -> None:
        self._workspace = workspace
        self._ledger = ledger
        self._name = name
        self._turns = turns
        self._rng = random.Random(seed)
        self._count = 0

    async def run(self, go_on: Callable[[], bool], *, create: bool = True, end: bool = True) -> None:
        """Play turns while `go_on()`; with `end`, the session may be removed afterwards, under late writes.

        An error that no race explains ends this agent alone, and is counted.
        """
        try:
            await self._run(go_on, create=create, end=end)
        except* EngineError as group:
            for error in _leaves(group):
                self._ledger.refuse(error)

    async def _run(self, go_on: Callable[[], bool], *, create: bool, end: bool) -> None:
        if create:
            session = await self._workspace.create_session(self._name, title=f"demo {self._name}")
        else:
            session = await self._workspace.session(self._name)
        async with trio.open_nursery() as around:
            for turn in self._turns:
                if not go_on():
                    break
                await self._turn(session, turn, around)
        if end and self._rng.random() < SESSION_REMOVAL:
            await self._end(session)

    # --- a turn -------------------------------------------------------------------------------

    async def _turn(self, session: Session, script: TurnScript, around: trio.Nursery) -> None:
        self._count += 1
        number = f"{self._count}.{self._rng.randrange(10**9)}"
        asked = (
            MessageUpdated(f"user-{number}", "user"),
            PartUpdated(f"prompt-{number}", f"user-{number}", "text", {"text": script.prompt}),
        )
        self._ledger.note(await session.append(*asked), *asked)
        try:
            async with session.turn() as turn:
                for index, answer in enumerate(script.answers):
                    await self._answer(session, turn, answer, f"{number}.{index}", around)
        except TurnBusyError as error:
            # A removal is still draining what it stopped.
            self._ledger.refuse(error)
            await trio.sleep(0.001)
            return
        self._ledger.turns += 1
        self._ledger.stopped += turn.stopped

    async def _answer(self, session: Session, turn: Turn, answer: Answer, number: str, around: trio.Nursery) -> None:
        name = f"assistant-{number}"
        roll = self._rng.random()
        at = self._rng.randrange(len(answer.steps) + 1)
        text: list[str] = []
        async with turn.message(role="assistant", message_id=name) as message:
            for index, step in enumerate(answer.steps):
                if index == at and roll < REMOVAL:
                    around.start_soon(self._remove_message, session, name)
                    around.start_soon(self._late_parts, session, name)
                elif index == at and roll < REMOVAL + STOP:
                    around.start_soon(session.stop, "the user pressed Esc")
                await self._step(session, message, step, number, text)
            message.finish_reason = "stop"
            if self._rng.random() < LATE:
                around.start_soon(self._late_updates, session, name)
        self._ledger.texts[session.id, session.incarnation, name] = "".join(text)
        if self._rng.random() < COPIES:
            for _ in range(3):
                around.start_soon(self._copy, session, number)

    async def _step(self, session: Session, message: Message, step: Step, number: str, text: list[str]) -> None:
        if isinstance(step, Say):
            for piece in self._pieces(step.text):
                await message.text(piece, kind=step.kind)
                if step.kind == "text":
                    text.append(piece)
        elif isinstance(step, Call):
            event = ToolUpdated("-", message.id, step.call_id, step.name, step.state)
            receipt = await message.tool(**attrs.asdict(step))
            self._ledger.note(receipt, event)
        elif isinstance(step, Whole):
            await message.part(step.kind, step.data)
        else:
            await self._spend(session, message, step, number)

    def _pieces(self, text: str) -> Iterator[str]:
        start = 0
        while start < len(text):
            size = self._rng.randint(*PIECE_CHARS)
            yield text[start : start + size]
            start += size

    async def _spend(self, session: Session, message: Message, step: Spend, number: str) -> None:
        """Report a step's usage, often several times as it grows: the last report counts."""
        last = attrs.evolve(step.usage, step_id=f"{number}.{step.usage.step_id}"[:300], message_id=message.id)
        reports = [last]
        if self._rng.random() < REPORTS:
            early = [attrs.evolve(last, output_tokens=last.output_tokens // part, cost_nanousd=0) for part in (4, 2)]
            reports = [*early, last]
        for report in reports:
            self._ledger.note(await session.append(report), report)

    # --- the races ----------------------------------------------------------------------------

    async def _remove_message(self, session: Session, message_id: str) -> None:
        """Remove a message while it is streamed."""
        other = await self._workspace.session(session.id)
        event = MessageRemoved(message_id)
        try:
            receipt = await other.append(event)
        except CallerError as error:
            self._ledger.refuse(error)
            return
        self._ledger.note(receipt, event)
        if not receipt.skipped:
            self._ledger.removed_messages.add((session.id, receipt.incarnation, message_id))

    async def _late_parts(self, session: Session, message_id: str) -> None:
        """Somebody else's parts of a message that is being removed: before, during, after."""
        other = await self._workspace.session(session.id)
        for number in range(self._rng.randrange(4, 12)):
            part = f"late-{message_id}-{number}"
            await other.post(PartUpdated(part, message_id, "note", {"n": number}))
            await other.post(PartDelta(part, message_id, "text", 0, "too late?"))
            await trio.lowlevel.checkpoint()
        events = (
            PartUpdated(f"last-{message_id}", message_id, "note", {}),
            UsageRecorded(f"late-{message_id}", message_id, "small", 1_000, 10, 1),
        )
        await self._append(other, *events)

    async def _late_updates(self, session: Session, message_id: str) -> None:
        """Streaming updates that race the message's finish."""
        other = await self._workspace.session(session.id)
        for number in range(self._rng.randrange(2, 6)):
            await self._append(other, MessageUpdated(message_id, "assistant", {"late": number}))
            await self._append(other, PartUpdated(f"update-{message_id}", message_id, "note", {"late": number}))

    async def _copy(self, session: Session, number: str) -> None:
        """One of several deliveries of the same event."""
        other = await self._workspace.session(session.id)
        await self._append(other, Envelope(SessionNoted(f"note-{number}", "copied"), f"copy-{number}"))

    async def _append(self, session: Session, *events: Any) -> None:
        try:
            receipt = await session.append(*events)
        except CallerError as error:
            self._ledger.refuse(error)
            return
        self._ledger.note(receipt, *events)

    # --- the end of a session -----------------------------------------------------------------

    async def _end(self, session: Session) -> None:
        """Remove the session under late writes; half of the time it is created anew under the same id."""
        async with trio.open_nursery() as around:
            around.start_soon(self._late_life, session)
            event = SessionRemoved()
            receipt = await session.append(event)
            self._ledger.note(receipt, event)
            self._ledger.removed_sessions.add((session.id, session.incarnation))
            if self._rng.random() < 0.5:
                again = await self._workspace.create_session(session.id, title="a second life")
                asked = MessageUpdated("first", "user"), PartUpdated("p", "first", "text", {"text": "again"})
                await self._append(again, *asked)

    async def _late_life(self, session: Session) -> None:
        """Writes of a life that is being removed."""
        for number in range(8):
            await self._append(session, SessionNoted(f"late-life-{number}", "late"))
            name = f"late-life-{number}"
            await self._append(session, MessageUpdated(name, "user"), PartUpdated(f"p-{name}", name, "text", {}))


def _leaves(group: BaseExceptionGroup[EngineError]) -> Iterator[EngineError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
