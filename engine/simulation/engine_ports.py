"""The engine's ports in a simulation, and decision points before its public calls.

Owns: the simulated mailbox, reply, SQL step and spawn, the bundle of all ports, and the wrappers of the session's calls.
Must not know: strategies, the disk. Nothing in the engine knows of it: what is replaced is injected, or stands before a
public call, where a caller may always be delayed.

Decision points: before each call of a session; before and after each SQL step (`commit` of the writer, `read` of anybody
else); wherever an actor wakes. More choices: where the writer cuts its batch (`cut@writer#batch[k]=n`), and whether an
answer reaches the one who waits for it (`lose@actor#operation`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

import trio

from engine.events import Receipt
from engine.ports import Clock, Ids, Mailbox, Network, Ports, Reply
from engine.session import Session, Turn
from engine.simulation.actors import Actor
from engine.simulation.choices import Op, clean_label, describe_item
from engine.simulation.controller import Controller
from engine.simulation.primitives import before, controller_now

T = TypeVar("T")

_COMMIT = Op("commit", (), ("log",))
_READ = Op("read", ("log",), ())
_DONE = Op("step done", silent=True)


def _controller() -> Controller:
    controller = controller_now()
    assert controller is not None, "the simulated ports work inside of a simulated run only"
    return controller


class SimulatedMailbox(Mailbox[Any]):
    """A mailbox whose receiver may find only a part of what waits: where the writer cuts its batch is a choice."""

    def __init__(self, name: str, *, items_max: int, bytes_max: int) -> None:
        super().__init__(name, items_max=items_max, bytes_max=bytes_max)
        self._batch = 0
        self._taken = 0
        self._cut = 0

    async def wait(self) -> None:
        actor = _controller().current()
        if actor is not None:
            actor.waiting = "inbox" if self.name == "writer" else "mailbox"
        await super().wait()

    def peek(self) -> Any:
        if self.name != "writer" or not len(self):
            return super().peek()
        if self._taken == 0:
            self._batch += 1
            self._cut = _controller().cut(self._batch, len(self))
        elif self._cut and self._taken >= self._cut:
            # A broken writer refuses its batch without an SQL step, so nobody else says that it ended.
            self.end_batch()
            return None
        return super().peek()

    def take(self) -> Any:
        self._taken += 1
        return super().take()

    def end_batch(self) -> None:
        """The writer goes on to its SQL step: what it takes next belongs to the next batch."""
        self._taken = self._cut = 0


def _fair_time(controller: Controller) -> float:
    """Virtual seconds, without those in which the schedule held somebody and nobody else could run."""
    return controller.clock.now - controller.clock.held


class SimulatedReply(Reply[Any]):
    """A reply that can be lost on its way: then its waiter is cancelled at the moment in which it would have been told."""

    __slots__ = ("accepted", "answered_after_s", "asked_at")
    promised = True
    """Whether it must be answered, and soon."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted = False
        """Whether somebody waits, or waited, for the answer: then the command had been accepted."""
        self.answered_after_s = 0.0
        controller = _controller()
        self.asked_at = _fair_time(controller)
        if self.promised:
            controller.replies.append(self)

    async def wait(self) -> Any:
        self.accepted = True
        actor = _controller().current()
        if actor is not None:
            actor.waiting = "reply"
        return await super().wait()

    def resolve(self, value: Any) -> None:
        controller = _controller()
        if controller.on_receipt is not None and type(value) is Receipt:
            controller.on_receipt(value)
        self._deliver(controller)
        super().resolve(value)

    def reject(self, error: BaseException) -> None:
        self._deliver(_controller())
        super().reject(error)

    def _deliver(self, controller: Controller) -> None:
        self.answered_after_s = _fair_time(controller) - self.asked_at
        self._lose(controller)

    def _lose(self, controller: Controller) -> None:
        actor = controller.actors.get(self._task) if self._task is not None else None
        if actor is not None and actor.loses:
            actor.loses = False
            actor.scope.cancel()


def simulated_step(mailboxes: list[SimulatedMailbox]) -> Callable[[Callable[[], Any]], Awaitable[Any]]:
    """The SQL step of one engine: a decision before it and one after it."""

    async def step(function: Callable[[], T]) -> T:
        actor = _controller().current()
        writes = actor is not None and actor.name.startswith("writer")
        if writes:
            for mailbox in mailboxes:
                mailbox.end_batch()
        await before(_COMMIT if writes else _READ)
        result = function()
        await before(_DONE)
        return result

    return step


def simulated_spawn(nursery: trio.Nursery, function: Callable[[], Awaitable[object]], /, *, name: str) -> None:
    """Start an actor of the engine: its timers are housekeeping."""
    name = clean_label(name)
    _controller().housekeepers.add(name)
    nursery.start_soon(function, name=name)


class OutsideReply(SimulatedReply):
    """A reply to somebody outside of every engine: he may withdraw, and a line may be dead for long."""

    __slots__ = ()
    promised = False


def simulated_ports(
    clock: Clock,
    ids: Ids,
    network: Network,
    rng: Callable[[str], Random],
    vfs: str | None = None,
    *,
    owner: str | None = None,
) -> Ports:
    """The ports into a simulation of one engine; or of what belongs to an actor outside of every engine, its `owner`."""
    mailboxes: list[SimulatedMailbox] = []

    def mailbox(name: str, *, items_max: int, bytes_max: int) -> SimulatedMailbox:
        made = SimulatedMailbox(name, items_max=items_max, bytes_max=bytes_max)
        mailboxes.append(made)
        return made

    def number() -> float:
        actor = _controller().current()
        return rng(f"port {actor.name if actor is not None else 'main'}").random()

    def spawn(nursery: trio.Nursery, function: Callable[[], Awaitable[object]], /, *, name: str) -> None:
        simulated_spawn(nursery, function, name=name if owner is None else f"{owner}/{name}")

    return Ports(
        clock=clock,
        ids=ids,
        mailbox=mailbox,
        reply=SimulatedReply if owner is None else OutsideReply,
        step=simulated_step(mailboxes),
        spawn=spawn,
        network=network,
        random=number,
        vfs=vfs,
    )


def lose(actor: Actor, value: str) -> bool:
    """Carry out a `lose`: the answer to what the actor is about to ask will not reach it."""
    if actor.scope is None or actor.loses:
        return False
    actor.loses = True
    return True


# --- before the session's calls ---------------------------------------------------------------------


def keys_of_event(session: str, event: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The conflict keys (read, written) of an event: its message, or else its session."""
    event = getattr(event, "event", event)
    message = getattr(event, "message_id", None)
    if message is None:
        return (), (session,)
    return (session,), (f"{session}/{message}",)


def operation_of(verb: str, session: Session, events: tuple[Any, ...]) -> Op:
    """The operation of a call of a session."""
    name = f"{session.workspace}/{session.id}"
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    for event in events:
        read, written = keys_of_event(name, event)
        reads += read
        writes += written
    shown = ",".join([describe_item(getattr(event, "event", event)) for event in events[:2]])
    more = f",+{len(events) - 2}" if len(events) > 2 else ""
    return Op(clean_label(f"{verb} {shown}{more}"), reads, writes)


async def _append(original: Any, self: Session, *events: Any, **options: Any) -> Any:
    await before(operation_of("append", self, events))
    return await original(self, *events, **options)


async def _post(original: Any, self: Session, *events: Any, **options: Any) -> Any:
    await before(operation_of("post", self, events))
    return await original(self, *events, **options)


async def _flush(original: Any, self: Session) -> Any:
    await before(Op("flush", (f"{self.workspace}/{self.id}",)))
    return await original(self)


async def _stop(original: Any, self: Session, *args: Any, **options: Any) -> Any:
    await before(Op("stop", (), (f"{self.workspace}/{self.id}",)))
    return await original(self, *args, **options)


async def _turn(original: Any, self: Turn) -> Any:
    await before(Op("turn", (), (f"{self.session.workspace}/{self.session.id}",)))
    return await original(self)


def session_calls() -> list[tuple[Any, str, Callable[..., Any]]]:
    """The public calls before which the scheduler may decide."""
    return [
        (Session, "append", _append),
        (Session, "post", _post),
        (Session, "flush", _flush),
        (Session, "stop", _stop),
        (Turn, "__aenter__", _turn),
    ]
