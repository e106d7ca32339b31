"""Decision points before trio's communication primitives, while a run is under control.

Owns: `point`, and the wrappers of trio's channels, locks, events and sleeps. Must not know: strategies, the engine.

An operation of a primitive takes effect somewhere inside of its call; the wrapper lets the scheduler decide before it, when
its label and conflict keys are known already. A caller may always be delayed before a call, so no schedule is possible here
that production could not have. Synchronous operations (`send_nowait`, `Event.set`) belong to the step that runs them.

Invariants: what was replaced is put back when the block is left; outside of a run the primitives are trio's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from engine.simulation.choices import Op, clean_label, describe_item, keys_of
from engine.simulation.controller import Controller

_current: list[Controller] = []


def controller_now() -> Controller | None:
    """The controller of the run that is going on, if one is."""
    return _current[-1] if _current else None


async def point(label: str = "point", *, reads: tuple[str, ...] = (), writes: tuple[str, ...] = ()) -> None:
    """A place where the scheduler may let others run, with the keys of what comes right after it.

    Outside of a simulated run it is `trio.lowlevel.checkpoint()`. A checkpoint also inside: cancellation is seen.
    """
    if _current:
        op = Op(clean_label(label), reads, writes)
        if _current[-1].goes_on(op):
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        _current[-1].announce(op)
    await trio.lowlevel.checkpoint()


async def before(op: Op, waiting: str = "") -> None:
    """A decision point that cancellation does not see, before an operation; `waiting` names its blocking for reports."""
    controller = _current[-1]
    actor = controller.current()
    if not controller.goes_on(op):
        controller.announce(op)
        await trio.lowlevel.cancel_shielded_checkpoint()
    if actor is not None:
        actor.waiting = waiting


async def _before_object(thing: Any, kind: str, label: str, *, waiting: str = "") -> None:
    name = _current[-1].name_object(thing, kind)
    await before(Op(label, (), (name,)), waiting or label)


async def _send(original: Any, self: Any, value: Any) -> None:
    keys = keys_of(value)
    if keys is None:
        keys = (_current[-1].name_object(self._state, "channel"),)
    await before(Op(clean_label(f"send {describe_item(value)}"), (), keys), "send")
    await original(self, value)


async def _receive(original: Any, self: Any) -> Any:
    await before(Op("receive", (), (_current[-1].name_object(self._state, "channel") + " out",)), "receive")
    return await original(self)


async def _acquire(original: Any, self: Any, *args: Any) -> None:
    await _before_object(self, type(self).__name__.lower(), "acquire")
    await original(self, *args)


async def _wait(original: Any, self: Any) -> None:
    await _before_object(self, type(self).__name__.lower(), "wait")
    await original(self)


async def _sleep(original: Any, seconds: float) -> None:
    await before(Op("sleep"), "sleep")
    await original(seconds)


def _methods() -> list[tuple[Any, str, Callable[..., Any]]]:
    return [
        (trio.MemorySendChannel, "send", _send),
        (trio.MemoryReceiveChannel, "receive", _receive),
        (trio.Lock, "acquire", _acquire),
        (trio.StrictFIFOLock, "acquire", _acquire),
        (trio.Semaphore, "acquire", _acquire),
        (trio.CapacityLimiter, "acquire_on_behalf_of", _acquire),
        (trio.Event, "wait", _wait),
        (trio, "sleep", _sleep),
    ]


@contextmanager
def wrapped(wrappers: list[tuple[Any, str, Callable[..., Any]]] | None = None) -> Iterator[None]:
    """Put decision points before the primitives (or before the given methods) while the block runs."""
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for owner, name, wrapper in _methods() if wrappers is None else wrappers:
            home = _home(owner, name)
            if home is None or any(home is other and name == known for other, known, _ in replaced):
                continue
            original = vars(home)[name]
            setattr(home, name, _wrap(original, wrapper))
            replaced.append((home, name, original))
        yield
    finally:
        for owner, name, original in reversed(replaced):
            setattr(owner, name, original)


def _home(owner: Any, name: str) -> Any:
    """Where a method is defined: a lock has its `acquire` from a base class that trio does not export."""
    places = owner.__mro__ if isinstance(owner, type) else (owner,)
    return next((place for place in places if name in vars(place)), None)


def _wrap(original: Any, wrapper: Callable[..., Any]) -> Any:
    async def controlled(*args: Any, **kwargs: Any) -> Any:
        if not _current or _current[-1].current() is None:
            return await original(*args, **kwargs)
        return await wrapper(original, *args, **kwargs)

    controlled.__name__ = original.__name__
    controlled.__qualname__ = original.__qualname__
    controlled.__doc__ = original.__doc__
    return controlled


@contextmanager
def controlled_by(controller: Controller) -> Iterator[None]:
    """Let `point` and the wrapped primitives ask this controller."""
    _current.append(controller)
    try:
        yield
    finally:
        _current.pop()
