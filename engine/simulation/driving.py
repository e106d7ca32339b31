"""The two drivers that make trio run exactly the task that the controller chose.

Owns: every use of trio's internals, and the gate that needs none. Must not know: who is chosen, or why.

- The hook replaces `trio._core._run._r`, whose `shuffle` trio calls on each batch of runnable tasks: it leaves the one
  chosen task in the batch and keeps the others. It controls every task and costs little, but the name is private, so
  `hook_works` probes it first.
- The gate needs public API only: every task that a nursery starts is wrapped so that it parks, after each of trio's
  wake-ups, until an instrument resumes exactly one. Both give the same decisions, steps and digests.

In both, the run's clock keeps trio from sleeping: trio asks it how long to, exactly when no task can run.
Invariants: what a driver replaced is put back when its block is left; a run that nothing can end is abandoned
with `RunAbandonedError`, never waited for.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import trio

from engine.simulation.actors import Actor, waits_for_idle
from engine.simulation.controller import Controller
from engine.simulation.errors import RunAbandonedError

try:
    from trio._core import _run as internals
except ImportError:  # a trio that moved them: the gate is used
    internals = None  # type: ignore[assignment]


IDLE_S: Final = 3600.0
"""What trio may sleep while somebody waits in `wait_all_tasks_blocked`: it wakes them instead."""


class _Watch(trio.abc.Instrument):
    """What both drivers ask trio to tell."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    def task_spawned(self, task: Any) -> None:
        if not task.name.startswith("<"):
            self.controller.spawned(task)

    def task_exited(self, task: Any) -> None:
        self.controller.exited(task)


# --- the hook -------------------------------------------------------------------------------------


class _Picker(_Watch):
    """Stands in for trio's random source: its `shuffle` leaves the chosen task in the batch."""

    def __init__(self, controller: Controller) -> None:
        super().__init__(controller)
        self._placeholder: Any = None
        self._chosen: Actor | None = None

    def random(self) -> float:
        """Asked for where trio does not sort its batches; never used here."""
        return 1.0

    def shuffle(self, batch: list[Any]) -> None:
        """Keep the chosen task only, and one more in trio's queue, so that trio never thinks that it is idle."""
        controller = self.controller
        if controller.abandoned:
            raise RunAbandonedError
        actors = controller.actors
        placeholder, chosen = self._placeholder, self._chosen
        self._placeholder = self._chosen = None
        own: list[Any] = []
        for task in batch:
            actor = actors.get(task)
            if actor is None:
                own.append(task)
            elif task is not placeholder and actor is not chosen:
                controller.arrived(actor)
        if own:
            # Trio's own tasks are no decision; whoever was chosen comes right after them.
            batch[:] = own
            self._chosen = chosen
        elif chosen is not None:
            batch[:] = [chosen.task]
        else:
            batch.clear()
            jumps = controller.jumps
            picked = controller.choose()
            if controller.abandoned:
                raise RunAbandonedError
            if picked is not None and controller.jumps != jumps:
                # Time passed before the chosen one runs: first trio wakes whom that concerns.
                self._chosen = picked
            elif picked is not None:
                batch.append(picked.task)
        self._hold_place()

    def _hold_place(self) -> None:
        controller = self.controller
        if self._chosen is not None:
            internals.GLOBAL_RUN_CONTEXT.runner.runq.append(self._chosen.task)
            return
        waiting = controller.ready or controller._arrived
        if waiting:
            self._placeholder = waiting[0].task
            internals.GLOBAL_RUN_CONTEXT.runner.runq.append(self._placeholder)

    def idle(self, deadline: float) -> float:
        """Trio has nobody to run: choose among those who wait for something else than trio, or let time pass."""
        controller = self.controller
        runner: Any = internals.GLOBAL_RUN_CONTEXT.runner
        if runner.runq or not controller.live:
            return 0.0
        if runner.waiting_for_idle:
            return IDLE_S
        while True:
            chosen = controller.choose()
            if chosen is not None:
                self._chosen = chosen
                runner.runq.append(chosen.task)
                return 0.0
            jumps = controller.jumps
            controller.idle(deadline)
            if controller.abandoned:
                raise RunAbandonedError
            if controller.jumps != jumps or runner.runq:
                return 0.0

    def nobody_waits(self) -> bool:
        """Whether the running task is the only one that trio could run: no deadline is due, which would cancel something."""
        runner: Any = internals.GLOBAL_RUN_CONTEXT.runner
        return not runner.runq and runner.deadlines.next_deadline() > self.controller.clock.now

    def comes_right_back(self) -> bool:
        """Whether a checkpoint of the running task would lead through trio's loop right back to it, nothing being due."""
        context = internals.GLOBAL_RUN_CONTEXT
        runner = context.runner
        runq = runner.runq
        if len(runq) > 1 or (runq and runq[0] is not self._placeholder):
            return False
        if runner.deadlines.next_deadline() <= self.controller.clock.now:
            return False
        return self.controller.keeps_running(context.task)


@contextmanager
def hooked(controller: Controller) -> Iterator[tuple[_Watch, Callable[..., Any]]]:
    """Drive by trio's private hook while the block runs."""
    picker = _Picker(controller)
    before = internals._r, internals._ALLOW_DETERMINISTIC_SCHEDULING
    private: Any = internals
    private._r = picker
    private._ALLOW_DETERMINISTIC_SCHEDULING = True
    controller.clock.when_idle = picker.idle
    controller.nobody_waits = picker.nobody_waits
    checkpoint = trio.lowlevel.cancel_shielded_checkpoint

    async def short_cut() -> None:
        if not picker.comes_right_back():
            await checkpoint()

    lowlevel: Any = trio.lowlevel
    lowlevel.cancel_shielded_checkpoint = private.cancel_shielded_checkpoint = short_cut
    try:
        yield picker, _as_it_is
    finally:
        private._r, private._ALLOW_DETERMINISTIC_SCHEDULING = before
        lowlevel.cancel_shielded_checkpoint = private.cancel_shielded_checkpoint = checkpoint


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


# --- the gate -------------------------------------------------------------------------------------


class _Gatekeeper(_Watch):
    """Resumes one parked task whenever trio has nothing else to run."""

    def idle(self, deadline: float) -> float:
        """Everybody who could run is parked: resume one, or let time pass."""
        controller = self.controller
        if not controller.live:
            return 0.0
        while True:
            chosen = controller.choose()
            if chosen is not None:
                task, chosen.parked = chosen.parked, None
                trio.lowlevel.reschedule(task)
                return 0.0
            if any(waits_for_idle(actor) for actor in controller.names.values()):
                return IDLE_S
            jumps = controller.jumps
            evictions = controller.evictions
            controller.idle(deadline)
            if controller.abandoned:
                raise RunAbandonedError
            if controller.jumps != jumps or controller.evictions != evictions or controller.failure is not None:
                return 0.0


def _parked(controller: Controller, actor: Actor) -> Generator[Any, Any, None]:
    def never(_raise_cancel: Any) -> trio.lowlevel.Abort:
        return trio.lowlevel.Abort.FAILED

    actor.parked = trio.lowlevel.current_task()
    controller.arrived(actor)
    yield from trio.lowlevel.wait_task_rescheduled(never).__await__()  # noqa: ASYNC105 (a generator cannot await)


@types.coroutine
def _gate(controller: Controller, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a coroutine, parking before its first step and after each wake-up."""
    actor = controller.actors[trio.lowlevel.current_task()]
    actor.coroutine = coroutine
    answer: Any = None
    while True:
        yield from _parked(controller, actor)
        try:
            trap = coroutine.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = yield trap


def _gated(controller: Controller, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        made: Any = function(*args, **kwargs)
        return await _gate(controller, made)

    return run


@contextmanager
def gated(controller: Controller) -> Iterator[tuple[_Watch, Callable[..., Any]]]:
    """Drive by public API only while the block runs."""
    start_soon, start = trio.Nursery.start_soon, trio.Nursery.start

    def gated_start_soon(self: trio.Nursery, async_fn: Any, *args: Any, name: Any = None) -> None:
        start_soon(self, _gated(controller, async_fn), *args, name=name if name is not None else _name_of(async_fn))

    async def gated_start(self: trio.Nursery, async_fn: Any, *args: Any, name: Any = None) -> Any:
        return await start(self, _gated(controller, async_fn), *args, name=name if name is not None else _name_of(async_fn))

    nursery: Any = trio.Nursery
    nursery.start_soon, nursery.start = gated_start_soon, gated_start
    keeper = _Gatekeeper(controller)
    controller.clock.when_idle = keeper.idle
    try:
        yield keeper, partial(_gated, controller)
    finally:
        nursery.start_soon, nursery.start = start_soon, start


def _name_of(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    try:
        return f"{function.__module__}.{function.__qualname__}"
    except AttributeError:
        return repr(type(function))


# --- the probe ------------------------------------------------------------------------------------

_probed: dict[str, bool] = {}


def hook_works() -> bool:
    """Whether trio's private hook still does what the simulator needs; found out once by a program of three tasks."""
    if "hook" not in _probed:
        _probed["hook"] = _probe()
    return _probed["hook"]


def _probe() -> bool:
    from engine.simulation.probing import overtakes

    if internals is None or not all(
        hasattr(internals, name)
        for name in ("_r", "_ALLOW_DETERMINISTIC_SCHEDULING", "GLOBAL_RUN_CONTEXT", "cancel_shielded_checkpoint")
    ):
        return False
    return overtakes(hooked)
