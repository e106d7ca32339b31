"""The live session actors of one engine: started on first use, supervised, passivated when idle.

Owns: which actors are live, their supervision, settles that have to be tried again. Must not know: SQL.
Invariants: at most one live actor per session id; one that fails takes nobody along and the next use starts a new one; at
most `sessions_live_max` idle ones are kept; every session handle of an id goes through the same actor.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import attrs
import trio

from engine.errors import CallerError, ClosedError, EngineError
from engine.limits import Limits
from engine.ports import Ports
from engine.session.actor import SessionActor
from engine.writer import Writer

log = logging.getLogger("engine.session")


@attrs.frozen(kw_only=True)
class SessionStatistics:
    """The session actors of this engine."""

    live: int
    """Actors in memory."""
    started: int
    """Actors started since the engine was opened."""
    turns: int
    """Turns that run now."""
    failed: int
    """Actors that ended by an error of their own."""
    settles_pending: int
    """Messages whose settling failed and is being tried again."""
    settle_retries: int
    """Such tries so far."""


class Registry:
    """Finds or starts the actor of a session."""

    def __init__(self, nursery: trio.Nursery, writer: Writer, ports: Ports, limits: Limits) -> None:
        self._nursery = nursery
        self._writer = writer
        self._ports = ports
        self._limits = limits
        self._actors: OrderedDict[tuple[str, str], SessionActor] = OrderedDict()
        self._closing = False
        self._started = self._failed = 0
        self._settles_pending = self._settle_retries = 0
        self._all_ended = trio.Event()

    def actor(self, workspace: str, session_id: str) -> SessionActor:
        """The session's actor, started if there is none. Raises `ClosedError` once the engine is closing."""
        key = (workspace, session_id)
        actor = self._actors.get(key)
        if actor is None or actor.retired:
            if self._closing:
                raise ClosedError("the engine")
            # One that failed leaves its running slot to its successor.
            slot = actor.slot if actor is not None else None
            actor = SessionActor(
                workspace, session_id, writer=self._writer, ports=self._ports, limits=self._limits, slot=slot
            )
            self._actors[key] = actor
            self._started += 1
            started = actor
            self._ports.spawn(self._nursery, lambda: self._supervise(key, started), name=f"session {workspace}/{session_id}")
            self._make_room()
        else:
            self._actors.move_to_end(key)
        actor.last_used = trio.current_time()
        return actor

    def live(self, workspace: str, session_id: str) -> SessionActor | None:
        """The session's actor if it is in memory."""
        return self._actors.get((workspace, session_id))

    def _make_room(self) -> None:
        over = len(self._actors) - self._limits.sessions_live_max
        if over <= 0:
            return
        # The newest is the one being asked for; the oldest idle ones go.
        for actor in list(self._actors.values())[:-1]:
            if actor.idle:
                actor.retire()
                self._actors.pop((actor.workspace, actor.session_id), None)
                over -= 1
                if over <= 0:
                    return

    # Interrupts from the keyboard belong to the main task, not to actors.
    @trio.lowlevel.enable_ki_protection
    async def _supervise(self, key: tuple[str, str], actor: SessionActor) -> None:
        try:
            await actor.run()
        except Exception:
            self._failed += 1
            log.exception("the actor of session %r failed; the next use starts a new one", actor.session_id)
        finally:
            if self._actors.get(key) is actor and (actor.slot.free or self._closing):
                del self._actors[key]
            if self._closing and not self._actors:
                self._all_ended.set()

    async def close(self) -> None:
        """Stop the turns that still run, let every actor hand on what it has accepted, then end."""
        self._closing = True
        for key, actor in list(self._actors.items()):
            if actor.turn is not None:
                actor.turn.stop("the engine closes")
            if actor.retired:
                del self._actors[key]
            else:
                actor.retire()
        if self._actors:
            await self._all_ended.wait()

    def settle_later(self, settle: Callable[[], Awaitable[object]], subject: str) -> None:
        """Try a failed settle again until it succeeds, is refused for good, or the engine closes."""
        self._settles_pending += 1
        self._ports.spawn(self._nursery, lambda: self._retry(settle, subject), name=f"settle {subject}")

    @trio.lowlevel.enable_ki_protection
    async def _retry(self, settle: Callable[[], Awaitable[object]], subject: str) -> None:
        try:
            while not self._closing and not self._writer.broken:
                await trio.sleep(self._limits.settle_retry_s)
                self._settle_retries += 1
                try:
                    await settle()
                except CallerError as error:
                    log.warning("settling %s was refused: %s", subject, error)
                    return
                except EngineError as error:
                    log.warning("settling %s failed again: %s", subject, error)
                else:
                    return
        finally:
            self._settles_pending -= 1

    def statistics(self) -> SessionStatistics:
        """The actors now."""
        return SessionStatistics(
            live=len(self._actors),
            started=self._started,
            turns=sum(actor.turn is not None for actor in self._actors.values()),
            failed=self._failed,
            settles_pending=self._settles_pending,
            settle_retries=self._settle_retries,
        )
