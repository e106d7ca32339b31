"""Where the scheduler decides about a connection, and who stands before which of its operations.

Owns: the decisions before operations of connections, and finding the one to which a `net` happens. Must not know: what the
operations do. Invariants: outside of a run a decision is a checkpoint of trio's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from engine.simulation.actors import Actor
from engine.simulation.choices import Op
from engine.simulation.primitives import before, controller_now

Disturbing = Callable[[str, int | None], bool]
"""Does something to an operation that is about to happen: (way, amount or None for all); whether it could."""


def acting() -> Actor | None:
    """The actor whose step runs now; None outside of a run."""
    controller = controller_now()
    return controller.current() if controller is not None else None


class Points:
    """The decision points of a network, and what can be done to the operation before which each actor stands."""

    def __init__(self) -> None:
        self._about: dict[str, Disturbing] = {}

    def disturb(self, actor: Actor, value: str) -> bool:
        """Carry out a `net`: False where the actor is about to do nothing that it could happen to."""
        disturbing = self._about.get(actor.name)
        way, _, amount = value.partition("/")
        return disturbing is not None and disturbing(way, None if amount == "all" else int(amount))

    async def before(self, op: Op, waiting: str, disturbing: Disturbing | None = None) -> None:
        """Let the scheduler decide before an operation; then be cancelled, or go on. A checkpoint."""
        actor = acting()
        if actor is None:
            await trio.lowlevel.checkpoint()
            return
        with self._can(actor, disturbing):
            await before(op, waiting)
        await trio.lowlevel.checkpoint_if_cancelled()

    async def parked(
        self, op: Op, waiting: str, park: Callable[[], Awaitable[None]], disturbing: Disturbing | None = None
    ) -> None:
        """Wait for others; the wake-up is the decision before the operation that was waited for."""
        actor = acting()
        if actor is None:
            await park()
            return
        actor.announced = op
        actor.waiting = waiting
        with self._can(actor, disturbing):
            await park()
        actor.waiting = ""

    @contextmanager
    def _can(self, actor: Actor, disturbing: Disturbing | None) -> Iterator[None]:
        if disturbing is not None:
            self._about[actor.name] = disturbing
        try:
            yield
        finally:
            self._about.pop(actor.name, None)
