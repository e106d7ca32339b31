"""What a policy is asked, and the one that everything else is measured against: the default order.

Owns: the interface between the controller and whoever decides. Must not know: strategies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from engine.simulation.actors import Actor
from engine.simulation.choices import Disturbance

if TYPE_CHECKING:
    from engine.simulation.controller import Controller


class Policy(Protocol):
    """Decides the order, and what is disturbed."""

    def begin(self, controller: Controller) -> None:
        """A run begins."""

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        """Who runs next: one of `ready`, which is never empty and is in order of readiness."""

    def disturb(self, actor: Actor) -> Disturbance | None:
        """What is done to the operation that the chosen actor is about to do."""

    def cut(self, waiting: int) -> int:
        """After how many of the commands that wait the writer ends its batch; 0 for no cut."""

    def fault(self, ways: Sequence[str]) -> str | None:
        """How an operation of the disk fails, one of `ways`, or None."""

    def dies(self) -> str | None:
        """How the process dies right before an operation of the disk, or None."""


class DefaultOrder:
    """Nobody is pre-empted; when the actor that ran cannot go on, whoever has been ready the longest runs."""

    def begin(self, controller: Controller) -> None:
        """Nothing to prepare."""

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        return last if last is not None and last in ready else ready[0]

    def disturb(self, actor: Actor) -> Disturbance | None:
        return None

    def cut(self, waiting: int) -> int:
        return 0

    def fault(self, ways: Sequence[str]) -> str | None:
        return None

    def dies(self) -> str | None:
        return None
