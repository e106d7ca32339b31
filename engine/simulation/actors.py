"""An actor: a task under control, and what can be learned of one from outside.

Owns: `Actor`, its names and operations, where it waits. Must not know: who decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs
import trio

from engine.simulation.choices import Op, clean_label

START: Final = Op("start", silent=True)
WAKE: Final = Op("wake", silent=True)
BARE: Final = Op("checkpoint")


@attrs.define(eq=False, slots=True)
class Actor:
    """A task under control."""

    index: int
    name: str
    task: Any
    parent: str
    housekeeping: bool = False
    """It belongs to the engine: its timers alone are no sign of life."""
    op: Op = START
    nth: int = 1
    counts: dict[str, int] = attrs.field(factory=dict)
    announced: Op | None = None
    waiting: str = ""
    """What it blocks on, for the label of its wake-up and for deadlock reports."""
    scope: Any = None
    """The cancel scope that a `cancel` disturbance cancels."""
    loses: bool = False
    """The next answer to it will be lost."""
    steps: int = 0
    parked: Any = None
    """The gate driver's: the task as it waits to be resumed."""
    coroutine: Any = None
    """The gate driver's: what the task runs behind the gate."""
    _brought: tuple[int, str] = (-1, "")

    @property
    def place(self) -> tuple[str, str, int]:
        """The address of the operation that it is about to do, or is doing, as a `plan.Place`."""
        return (self.name, self.op.label, self.nth)

    def brings(self, guest: str) -> None:
        """What it has in hand belongs to this guest: a task that it starts in the same step is named after the guest."""
        self._brought = (self.steps, guest)

    def brought(self) -> str:
        """Whom the task that it starts now is for, or nobody. Only the first one is."""
        (step, guest), self._brought = self._brought, (-1, "")
        return guest if step == self.steps else ""


def name_of(task: Any, parent: Actor | None, starter: Actor | None) -> str:
    """What a task is called: the name it was started with, or its function's, behind its parent's unless that is main.

    A task for a guest of its starter's (a connection) is called after it too: its number would depend on who came first.
    """
    if parent is None:
        return "main"
    name: str = task.name
    explicit = "." not in name
    plain = clean_label(name if explicit or "/" in name or " " in name else name.rpartition(".")[2])
    guest = starter.brought() if starter is not None else ""
    if guest and guest != parent.name:
        plain = f"{plain} for {guest}"
    return plain if parent.index == 0 or explicit else f"{parent.name}/{plain}"


def seconds_to_deadline() -> float | None:
    """Virtual seconds until the next deadline of anybody, or None when there is none."""
    seconds = trio.lowlevel.current_statistics().seconds_to_next_deadline
    return max(0.0, seconds) if seconds < 1e12 else None


def has_timer(task: Any) -> bool:
    """Whether a deadline could wake the task."""
    status = getattr(task, "_cancel_status", None)
    while status is not None:
        scope = getattr(status, "_scope", None)
        if scope is not None and scope.deadline < 1e12:
            return True
        status = getattr(status, "_parent", None)
    return False


def _awaited(actor: Actor) -> Iterator[Any]:
    """The coroutines of a task that await each other, the outermost one first."""
    coroutine = actor.coroutine if actor.coroutine is not None or actor.task is None else actor.task.coro
    while coroutine is not None:
        yield coroutine
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def waits_for_idle(actor: Actor) -> bool:
    """Whether it waits in trio's `wait_all_tasks_blocked`."""
    return actor.task is not None and any(
        getattr(awaited, "__name__", "") == "wait_all_tasks_blocked" for awaited in _awaited(actor)
    )


def where_it_waits(actor: Actor) -> str:
    """The innermost line of the program's own code in which an actor waits."""
    found = "nowhere"
    if actor.task is None:
        return found
    for awaited in _awaited(actor):
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            file = frame.f_code.co_filename.replace("\\", "/")
            if "/trio/" not in file and "/engine/simulation/" not in file:
                found = f"{file.rpartition('/')[2]}:{frame.f_lineno} in {frame.f_code.co_name}"
    return found


def waited_for_by(task: Any) -> Iterator[Any]:
    """The tasks that wait, at the end of a nursery, for this one to end: they do nothing before."""
    nursery = task.parent_nursery
    while nursery is not None:
        above = nursery.parent_task
        if getattr(nursery, "_parent_waiting_in_aexit", False):
            yield above
        nursery = above.parent_nursery
