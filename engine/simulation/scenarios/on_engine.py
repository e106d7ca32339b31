"""What the engine variants share: noise, what callers were told, and the session's events by what became of them.

Owns: noise actors on the engine, `Told`. Must not know: any race. What must hold of every log (dense sequences, receipts are
rows, rebuild equals live, everything accepted is answered) is checked after each run anyway; see `oracles`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs

from engine.errors import BrokenError, CallerError, ClosedError, EngineError, OutcomeUnknownError, StorageError
from engine.events import Applied, Envelope, MessageFinished, MessageUpdated, PartUpdated, Receipt, RecordedEvent
from engine.runtime import Engine, Workspace
from engine.session import Session
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program, Scenario
from engine.simulation.schedule import Mode
from engine.simulation.world import Simulation

APPLIED: Final = Applied()


def on_engine(name: str, title: str, build: Callable[[int], Program], *faults: str, mode: Mode = "macro") -> Scenario:
    """A scenario that no schedule must break."""
    return Scenario(name, "engine", title, build, faults=faults, mode=mode)


def noise_on(engine: Engine) -> Callable[[str, int], Awaitable[None]]:
    """Other sessions that stream and finish a message."""

    async def other(name: str, amount: int) -> None:
        session = await engine.create_session(name)
        await session.append(MessageUpdated("M", "assistant"))
        for number in range(amount):
            await session.post(PartUpdated(f"p{number}", "M", "text", {"text": "x"}))
        receipt = await session.append(MessageFinished("M", "completed"))
        must(receipt.outcome == APPLIED, "neighbours go on", receipt)

    return other


def patient_noise_on(engine: Engine) -> Callable[[str, int], Awaitable[None]]:
    """The same on a disk or file that may fail: then they give up."""
    return lambda name, amount: tolerant(lambda: noise_on(engine)(name, amount))


async def log_of(engine: Workspace, session_id: str = "s") -> list[RecordedEvent]:
    """Every event of a session, by position."""
    return list((await engine.read.log(session_id=session_id, limit=1_000)).items)


def warnings_of(sim: Simulation, session_id: str = "s") -> list[str]:
    """What the engine warned of about a session's skipped events."""
    texts = [record.getMessage() for record in sim.host.logged]
    return [text for text in texts if text.startswith("skipped") and f" session {session_id} " in text]


def warning_for(event: RecordedEvent) -> str:
    """The one warning that a skipped event must have."""
    reason = getattr(event.outcome, "reason", "")
    return f"skipped ({reason}): event {event.event_id} type {event.type} session {event.session_id} seq {event.seq}"


@attrs.define(eq=False)
class Told:
    """What the callers of a scenario were told of their events, by event id.

    An event that nobody was told of (its caller was cancelled, or its process died) may be in the log or not; what is
    told in a dying process counts no more.
    """

    sim: Simulation
    written: dict[str, Receipt] = attrs.field(factory=dict)
    refused: dict[str, EngineError] = attrs.field(factory=dict)
    asked: list[str] = attrs.field(factory=list)
    """Every id, in the order of the calls."""

    async def append(self, session: Session, event: Any, event_id: str) -> Receipt | None:
        """Append an event under this id and remember the answer; None where it was not written, or nobody knows."""
        self.asked.append(event_id)
        self.refused.pop(event_id, None)
        try:
            receipt = await session.append(Envelope(event, event_id))
        except (OutcomeUnknownError, ClosedError, BrokenError):
            return None
        except StorageError as problem:
            if self.sim.host.alive:
                self.refused[event_id] = problem
            return None
        if self.sim.host.alive:
            self.written[event_id] = receipt
        return receipt

    def check(self, found: list[RecordedEvent]) -> None:
        """Written events are there once, refused ones are not, and nothing else is."""
        ids = [event.event_id for event in found if event.event_id in set(self.asked)]
        must(len(ids) == len(set(ids)), "an event id is applied once", ids)
        lost = [event_id for event_id in self.written if event_id not in ids]
        must(not lost, "acknowledged is durable", f"not in the log: {lost}")
        risen = [f"{event_id}: {self.refused[event_id]}" for event_id in ids if event_id in self.refused]
        must(not risen, "what was refused is not written", risen)


async def tolerant(work: Callable[[], Awaitable[None]]) -> None:
    """Run an actor whose calls may be refused by a failing disk or a closing engine; the caller's mistakes are failures."""
    try:
        await work()
    except CallerError:
        raise
    except EngineError:
        return
