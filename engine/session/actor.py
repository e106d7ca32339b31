"""The session actor: one live session's order.

Messages it accepts: the persist commands of its session. State: its mailbox, the last waiting delta, the live turn.
Invariants: commands of one session reach the writer in the order in which they were accepted; text that continues the
last waiting delta is joined to it; one turn holds the running slot; the actor awaits only its mailbox and the writer's
inbox, so whoever needs a drain waits for it in its own task.

A command is handed on at once, in its sender's step, when nothing waits before it; the mailbox is for the time when the
writer's inbox is full. Either way the order is the order of acceptance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import trio

from engine.commands import AnyCommand, Append, PostDelta
from engine.errors import BrokenError, ClosedError, EngineError, TurnBusyError
from engine.limits import Limits
from engine.ports import Mailbox, Ports
from engine.store import clean
from engine.writer import Writer

if TYPE_CHECKING:
    from engine.session.turn import Turn


@attrs.define(eq=False)
class Slot:
    """A session's one running slot. It outlives an actor that failed, so that no second turn starts beside the first."""

    turn: Turn | None = None
    removals: int = 0

    @property
    def free(self) -> bool:
        return self.turn is None and not self.removals


class SessionActor:
    """One live session."""

    def __init__(
        self, workspace: str, session_id: str, *, writer: Writer, ports: Ports, limits: Limits, slot: Slot | None = None
    ) -> None:
        self.workspace = workspace
        self.session_id = session_id
        self._writer = writer
        self._limits = limits
        self._mailbox: Mailbox[AnyCommand] = ports.mailbox(
            f"session {workspace}/{session_id}",
            items_max=limits.mailbox_commands_max,
            bytes_max=limits.mailbox_bytes_max,
        )
        self._in_hand: AnyCommand | None = None
        self._asked = 0
        self._last_delta: PostDelta | None = None
        self.slot = slot or Slot()
        self.last_used = 0.0
        self._retiring = False
        self.retired = False

    # --- handle -------------------------------------------------------------------------------

    async def accept(self, command: AnyCommand) -> None:
        """Take a command into the session's order; waits only for room. Cancelled while waiting: it was not accepted."""
        self._asked += 1
        self._last_delta = None
        if self._nothing_waits:
            try:
                self._writer.send_nowait(command)
            except trio.WouldBlock:
                pass
            else:
                return
        await self._mailbox.put(command, command.size_bytes)

    async def accept_delta(self, command: PostDelta) -> None:
        """Take streamed text, joined to the delta before it where that still waits."""
        last = self._last_delta
        if (
            last is not None
            and last.joins(command, self._limits.delta_chars_max)
            and self._writer.holds_more(command.size_bytes)
        ):
            last.join(command)
            return
        asked = self._asked + 1
        await self.accept(command)
        # Nothing may be joined to it across a command that was asked for while it waited for room.
        if self._asked == asked:
            self._last_delta = command

    @property
    def _nothing_waits(self) -> bool:
        return not len(self._mailbox) and self._in_hand is None and not self._mailbox.senders_waiting

    @property
    def idle(self) -> bool:
        """Whether it could be passivated now: nothing waits and no turn runs."""
        return self._nothing_waits and self.slot.free

    @property
    def turn(self) -> Turn | None:
        """The live turn."""
        return self.slot.turn

    def begin_turn(self, turn: Turn) -> None:
        """Take the running slot, or `TurnBusyError`; `ClosedError` once the engine is closing."""
        if self._retiring:
            raise ClosedError("the engine")
        if not self.slot.free:
            raise TurnBusyError(self.session_id)
        self.slot.turn = turn

    def end_turn(self, turn: Turn) -> None:
        """Give the slot back."""
        if self.slot.turn is turn:
            self.slot.turn = None
        self._look_again()

    def begin_removal(self) -> None:
        """Let no turn start until `end_removal`: what a removal drains must not start again before it commits."""
        self.slot.removals += 1

    def end_removal(self) -> None:
        """Let turns start again."""
        self.slot.removals -= 1
        self._look_again()

    def _look_again(self) -> None:
        if self._retiring and not self.retired:
            self._mailbox.poke()

    def retire(self) -> None:
        """End the loop once nothing waits."""
        self._retiring = True
        self._mailbox.poke()

    # --- loop ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Hand commands on until retired or idle for `session_idle_s`."""
        try:
            while True:
                await self._drain()
                if self._retiring and self.idle:
                    return
                left = self.last_used + self._limits.session_idle_s - trio.current_time()
                if left <= 0 and self.idle:
                    return
                # Beyond its time only a turn or a removal keeps it: it need not look often whether that is over.
                with trio.move_on_after(left if left > 0 else max(self._limits.session_idle_s, 0.05)):
                    await self._mailbox.wait()
        finally:
            self.retired = True
            self._answer_the_rest()

    async def _drain(self) -> None:
        while (command := self._mailbox.take()) is not None:
            self._in_hand = command
            try:
                await self._writer.send(command)
            except EngineError as error:
                self._refuse(command, error)
            self._in_hand = None

    def _answer_the_rest(self) -> None:
        error = BrokenError(f"session {self.session_id!r}", "its actor ended before the command was handed on")
        if self._in_hand is not None:
            self._refuse(self._in_hand, error)
            self._in_hand = None
        while (command := self._mailbox.take()) is not None:
            self._refuse(command, error)

    @staticmethod
    def _refuse(command: AnyCommand, error: EngineError) -> None:
        own = clean(error.clone())
        reply: Any = command.reply
        if reply is not None:
            reply.reject(own)
        elif isinstance(command, Append | PostDelta) and command.sink is not None:
            command.sink.failed(own)
