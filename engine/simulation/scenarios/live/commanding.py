"""Clients that create, append, post, flush, stop and remove, while connections, answers and the server's process are lost.

Owns: writers that remember what they asked for and what they were told. What must hold: each command has one effect, each
receipt is the log's, what is posted comes once and in order, and an error says what is so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import trio

from engine.client import RemoteSession
from engine.errors import SessionExistsError, UnknownMessageError, UnknownSessionError, WrongExpectedSeqError
from engine.events import (
    Duplicate,
    Envelope,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartUpdated,
    Receipt,
    RecordedEvent,
    SessionNoted,
    Skipped,
)
from engine.projections.views import MessageView
from engine.runtime import Engine
from engine.server import Server
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program
from engine.simulation.scenarios.live.serving import Live, session_of
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import log_of
from engine.simulation.world import Simulation

TEXT: Final = ("a", "bc", "\U0001f600d")


@attrs.define(eq=False)
class Writer:
    """A client's writer: it notes each thing it asks for under a number of its own."""

    name: str
    asked: list[str] = attrs.field(factory=list)
    """Notes, in the order in which they were handed over; all may be in the log."""
    told: set[str] = attrs.field(factory=set)
    """Those that were said to be durable."""
    refused: set[str] = attrs.field(factory=set)
    receipts: list[Receipt] = attrs.field(factory=list)
    finished: bool = False

    def note(self) -> SessionNoted:
        """The next thing to write."""
        name = f"{self.name}.{len(self.asked)}"
        self.asked.append(name)
        return SessionNoted(name, "k")

    async def append(self, session: RemoteSession, event_id: str | None = None) -> Receipt:
        """Append the next note."""
        note = self.note()
        receipt = await session.append(note if event_id is None else Envelope(note, event_id))
        self.receipts.append(receipt)
        self.told.add(note.note_id)
        return receipt

    async def post(self, session: RemoteSession, count: int) -> None:
        """Post so many notes, and wait until they are durable."""
        for _ in range(count):
            await session.post(self.note())
        await session.flush()
        self.told.update(self.asked)
        self.told -= self.refused

    async def refuse(self, session: RemoteSession) -> None:
        """Decide on a state that is not the log's."""
        note = self.note()
        self.refused.add(note.note_id)
        try:
            await session.append(note, expected_seq=1_000)
        except WrongExpectedSeqError as wrong:
            must(wrong.expected == 1_000, "the error says what was expected", wrong)
        else:
            must(False, "an append that expects another seq is refused")

    def check(self, found: list[RecordedEvent]) -> None:
        """What was asked for is there at most once, in order; what was told is there; what was refused is not."""
        own = [item for item in found if item.type == "session.noted" and item.event.note_id.startswith(f"{self.name}.")]
        there = [item.event.note_id for item in own]
        must(len(there) == len(set(there)), f"{self.name}: each command has one effect", there)
        order = [name for name in self.asked if name in there]
        must(there == order, f"{self.name}: in the order in which it was handed over", there)
        must(self.told <= set(there), f"{self.name}: acknowledged is durable", self.told - set(there))
        must(not self.refused & set(there), f"{self.name}: what was refused is not written", there)
        rows = {item.position: item for item in found}
        for receipt in self.receipts:
            for entry in receipt.events:
                told = entry.outcome.original if isinstance(entry.outcome, Duplicate) else entry
                if told.position is None:
                    continue
                row = rows.get(told.position)
                must(row is not None, f"{self.name}: a receipt is a row of the log", receipt)
                assert row is not None
                is_so = (row.event_id, row.seq, row.incarnation, row.outcome)
                said = (told.event_id, told.seq, receipt.incarnation, told.outcome)
                must(said == is_so, f"{self.name}: a receipt is the log's", (said, is_so))


def commanding(noise: int) -> Program:
    """Two clients open the same session, and each appends, posts and is refused; one streams a text into a message."""

    async def scenario(sim: Simulation) -> None:
        live = Live(sim)
        made: list[str] = []
        writers = [Writer("ann"), Writer("bob")]

        async def write(writer: Writer) -> None:
            async with live.client() as client:
                try:
                    session = await client.create_session("s", title=writer.name)
                    made.append(writer.name)
                except SessionExistsError:
                    session = await client.session("s")
                await writer.append(session)
                await writer.post(session, 3)
                await writer.refuse(session)
                first = await writer.append(session, f"{writer.name} own id")
                if writer.name == "ann":
                    await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text"))
                    offset = 0
                    for text in TEXT:
                        await session.post(PartDelta("p", "m", "text", offset, text))
                        offset += len(text)
                    await writer.append(session)
                    check_text((await session.messages()).items, died=live.lives.died > 0)
                must(first.seq is not None, "a receipt says the seq")
                resent = client.statistics().resent_commands
            sim.sometimes("a command went out twice", "net" not in sim.kinds or resent > 0)
            writer.finished = True

        async with live.serving(), sim.actors() as actors:
            own = [(writer.name, lambda writer=writer: write(writer)) for writer in writers]
            start_all(sim, actors, noise, live.noise, *own)
        async with sim.engine() as engine:
            events = await log_of(engine)
            views = (await engine.read.messages("s", after=0)).items
        for writer in writers:
            writer.check(events)
        done = [writer.name for writer in writers if writer.finished]
        must(len(made) <= 1, "a session is made once", made)
        must(len(made) == 1 or len(done) < 2, "one of them made it", made)
        if "ann" in done:
            check_text(views, died=live.lives.died > 0)

    return scenario


def command(noise: int) -> Program:
    """The smallest of them: a client that creates, appends, posts and flushes."""

    async def scenario(sim: Simulation) -> None:
        live = Live(sim)
        writer = Writer("ann")

        async def write() -> None:
            async with live.client() as client:
                session = await client.create_session("s")
                await writer.append(session)
                await writer.post(session, 2)
            writer.finished = True

        async with live.serving(), sim.actors() as actors:
            start_all(sim, actors, noise, live.noise, ("ann", write))
        async with sim.engine() as engine:
            writer.check(await log_of(engine))
        must("cancel" in sim.kinds or len(writer.told) == 3, "each command is answered", writer)

    return scenario


def check_text(views: Sequence[MessageView], *, died: bool) -> None:
    """What was streamed is there once, in order; where its process died and it was settled, so far."""
    (view,) = views
    whole = "".join(TEXT)
    swept = died and view.settled_by == "sweep"
    must(whole.startswith(view.text) if swept else view.text == whole, "streamed text is there once, in order", view)


@attrs.define(eq=False)
class Stopping:
    """A turn in the server's process that goes on until it is stopped."""

    begun: trio.Event = attrs.field(factory=trio.Event)
    turns: int = 0
    stopped: list[str | None] = attrs.field(factory=list)
    enough: bool = False

    async def work(self, engine: Engine, server: Server) -> None:
        """Stream until somebody stops it."""
        if self.enough:
            return
        try:
            session = await (engine.session("s") if self.turns else session_of(engine))
        except UnknownSessionError:
            return  # it was removed in an earlier life
        self.turns += 1
        turn = session.turn()
        async with turn, turn.message(message_id=f"m{self.turns}") as message:
            await message.text("on and on")
            self.begun.set()
            await trio.Event().wait()  # until it is stopped
        self.enough = True
        self.stopped.append(turn.reason)


def stopping(noise: int) -> Program:
    """A client stops a turn in the server's process, removes a message, then the session; late writes find it removed."""

    async def scenario(sim: Simulation) -> None:
        turning = Stopping()
        live = Live(sim, work=turning.work)
        answers: list[bool] = []
        removed: list[Receipt] = []
        late: list[object] = []

        async def user() -> None:
            await turning.begun.wait()
            async with live.client() as client:
                session = await client.session("s")
                answers.append(await session.stop("enough"))
                await session.append(MessageUpdated("x", "user"), PartUpdated("q", "x", "text", {"text": "?"}))
                removed.append(await session.remove_message("x"))
                receipt = await session.append(PartUpdated("r", "x", "text"))
                must(receipt.outcome == Skipped("orphan_part"), "a part of what was removed is skipped", receipt)
                try:
                    await session.append(PartUpdated("r", "nobody", "text"))
                except UnknownMessageError:
                    late.append("unknown")
                removed.append(await session.remove())
                late.append((await session.append(SessionNoted("late", "k"))).outcome)

        async with live.serving(), sim.actors() as actors:
            start_all(sim, actors, noise, live.noise, ("user", user))
        async with sim.engine() as engine:
            events = await log_of(engine)
            try:
                await engine.session("s")
                must(len(removed) < 2, "what was removed stays removed")
            except UnknownSessionError:
                pass
        check_stopping(events, turning, answers, removed, late, died=live.lives.died > 0)

    return scenario


def check_stopping(
    events: list[RecordedEvent],
    turning: Stopping,
    answers: list[bool],
    removed: list[Receipt],
    late: list[object],
    *,
    died: bool,
) -> None:
    """The turn was stopped once, by whom and why; each removal stands in the log once, where its receipt says."""
    if answers and not died:
        must(turning.stopped == ["enough"], "the turn knows why it was stopped", turning.stopped)
        must(answers == [True], "who stops a turn is told so, however often he had to ask", answers)
    positions = [item.position for item in events if item.event in (MessageRemoved("x"),) or item.type == "session.removed"]
    must(len(positions) <= 2, "what is removed is removed once", positions)
    told = [receipt.position for receipt in removed]
    must(told == positions[: len(told)], "a removal's receipt is the log's", (told, positions))
    must(late == ["unknown", Skipped("removed")][: len(late)], "late writes are told what is so", late)
