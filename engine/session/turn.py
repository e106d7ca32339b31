"""A turn: one run of an agent, holding the session's running slot, and the messages it streams.

Owns: the turn's cancel scope, its drain. Must not know: how messages are written (see `message`).
Invariants: one turn per session at a time; when the `async with` block is left, every message opened in it was settled
first; the body's own exceptions come out as they are; cancellation by `stop` ends at the block.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import trio

from engine.errors import ClosedError
from engine.events import MessageRemoved
from engine.session.message import Message

if TYPE_CHECKING:
    from engine.session.actor import SessionActor
    from engine.session.handle import Session

_turns: ContextVar[tuple[Turn, ...]] = ContextVar("engine_turns", default=())


def inside(turn: Turn) -> bool:
    """Whether the calling task runs inside the turn: its body, or a task started from it."""
    return turn in _turns.get()


class Turn:
    """`async with session.turn() as turn:`. `stopped` says after it whether somebody stopped the turn, `reason` why."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._scope = trio.CancelScope()
        self._messages: set[str] = set()
        self._token: Token[tuple[Turn, ...]] | None = None
        self._actor: SessionActor | None = None
        self.drained = trio.Event()
        self.reason: str | None = None

    @property
    def session(self) -> Session:
        """The session it runs in."""
        return self._session

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped it."""
        return self.reason is not None

    def stop(self, reason: str) -> None:
        """Cancel the body. The first reason stays."""
        if self.reason is None:
            self.reason = reason
        self._scope.cancel()

    def is_touched_by(self, removal: Any) -> bool:
        """Whether a removal takes something away that this turn streams: the whole session, or a message of its own."""
        return not isinstance(removal, MessageRemoved) or removal.message_id in self._messages

    def message(
        self, *, role: str = "assistant", message_id: str | None = None, metadata: dict[str, Any] | None = None
    ) -> Message:
        """`async with turn.message(role="assistant") as message:` announces a message and settles it at the end."""
        if self._token is None or self.drained.is_set():
            raise ClosedError("the turn")
        name = message_id or self._session.context.ports.ids.new_id("msg")
        self._messages.add(name)
        return Message(self, name, role, metadata or {})

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._token is not None:
            raise ClosedError("the turn, which is entered twice,")
        self._session.raise_failed()
        await trio.lowlevel.checkpoint()
        self._actor = self._session.actor()
        self._actor.begin_turn(self)
        self._token = _turns.set((*_turns.get(), self))
        self._scope.__enter__()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        assert self._token is not None
        assert self._actor is not None
        # First, because the rest raises where the block is left in another context than it was entered in (an async
        # generator that nobody closed): the slot must be free all the same.
        self._actor.end_turn(self)
        self.drained.set()
        _turns.reset(self._token)
        return self._scope.__exit__(exc_type, exc, tb)
