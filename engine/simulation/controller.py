"""The controller of one run: who is ready, who runs next, what is held, when time moves, when nothing can go on.

Owns: the actors of a run, the ready list, holds and disturbances, the log of steps. Must not know: how a task is parked or
resumed (the drivers), which strategy decides (the policy), what the tasks do.
Invariants: exactly one actor runs at a time; a task of trio's own is never a decision; the log of steps depends on nothing
but the policy's choices and the program; a hold that cannot be met is released and remembered, never waited for.

A step is a macro-step: it goes on over bare checkpoints to the next announced operation (send, receive, lock, timer,
database step, `point`) or to where the task blocks. With `mode="await"` a bare checkpoint ends a step too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio

from engine.simulation.actors import BARE, START, WAKE, Actor, name_of, seconds_to_deadline
from engine.simulation.choices import Address, Disturbance, Op, Step
from engine.simulation.errors import LivelockError
from engine.simulation.patience import Patience, deadlock_of, evict
from engine.simulation.plan import Plan
from engine.simulation.policy import DefaultOrder, Policy
from engine.simulation.schedule import Mode, Schedule
from engine.simulation.virtual import SimulatedClock

STEPS_MAX: Final = 20_000
"""Steps of a run before it counts as a livelock."""
ROW_MAX: Final = 100
"""Steps in a row of one actor, with others ready, before it goes to the end of the line: polling must starve nobody."""
BARE_MAX: Final = 100
"""Bare checkpoints that one macro-step goes on over before others get their turn: a polling loop must not starve them."""
ENGINE_HOSTS: Final = ("engine.runtime.core.host", "engine.server.serving.")
"""The tasks that start the engine's own actors, and a server's."""
EVICTIONS_MAX: Final = 50
"""Rounds of throwing everybody out of what they wait for, after cancellation did not end a run."""


class Controller:
    """One run under control."""

    def __init__(
        self,
        policy: Policy,
        schedule: Schedule,
        *,
        mode: Mode = "macro",
        clock: SimulatedClock,
        steps_max: int = STEPS_MAX,
    ) -> None:
        self.policy = policy
        self.mode: Mode = schedule.mode or mode
        self.clock = clock
        self.steps: list[Step] = []
        self.woken: dict[int, list[str]] = {}
        """Who was woken or started during a step, by the step's index."""
        self.roused: list[tuple[int, str]] = []
        """Whom time woke (or who began), by the index of the next step."""
        self.actors: dict[Any, Actor] = {}
        self.names: dict[str, Actor] = {}
        self.ready: list[Actor] = []
        self.failure: Exception | None = None
        self.thrown: list[tuple[BaseException, int]] = []
        """Each exception that ended a task, with the index of the step that it came from."""
        self.plan = Plan(schedule)
        self.root: trio.CancelScope | None = None
        self.abandoned = False
        """Nothing but force can end it any more; a driver that sees it raises."""
        self.live = 0
        """Actors that have not ended."""
        self.can: dict[str, Callable[[Actor, str], bool]] = {"timeout": self._jump_for, "cancel": _cancel}
        """How each kind of disturbance is carried out; whether there was anything to disturb."""
        self.after_step: list[Callable[[], None]] = []
        self.notes: list[str] = []
        self.housekeepers: set[str] = set()
        """Names under which the engine starts its own actors."""
        self.replies: list[Any] = []
        """Every reply channel of the run."""
        self.on_receipt: Callable[[Any], None] | None = None
        """Hears of every receipt, right before it is delivered."""
        self.objects: dict[int, tuple[Any, str]] = {}
        self._named: dict[str, int] = {}
        self.jumps = 0
        self._arrived: list[Actor] = []
        self.held: list[Actor] = []
        """Whom the schedule keeps waiting."""
        self._last: Actor | None = None
        self._bare = self._in_a_row = 0
        self._row: Actor | None = None
        self._patience = Patience()
        self.evictions = 0
        self._steps_max = steps_max
        self.elides = True
        """Whether a step may begin without trio's loop: not where time may pass in between, and wake somebody."""
        self.nobody_waits: Callable[[], bool] | None = None
        """Whether trio has nobody to run but the task that runs; None where the driver cannot tell."""

    # --- told by the drivers and the patched primitives -----------------------------------------

    def spawned(self, task: Any) -> None:
        """A task of the program was created."""
        nursery = task.parent_nursery
        parent = self.actors.get(nursery.parent_task) if nursery is not None else None
        name = name_of(task, parent, self._last)
        number, unique = 1, name
        while unique in self.names:
            number += 1
            unique = f"{name}~{number}"
        actor = Actor(len(self.actors), unique, task, parent.name if parent is not None else "")
        actor.housekeeping = parent is not None and (
            parent.housekeeping or task.name.startswith(ENGINE_HOSTS) or name in self.housekeepers
        )
        self.live += 1
        self.actors[task] = self.names[unique] = actor

    def current(self) -> Actor | None:
        """The actor whose step runs now."""
        return self._last

    def announce(self, op: Op) -> None:
        """The running task is about to do this, and yields now."""
        last = self._last
        if last is not None:
            last.announced = op

    def goes_on(self, op: Op) -> bool:
        """Begin the running actor's next step without asking trio, where it is the only one who could run anyway.

        Whether it did; if not, the caller announces the operation and yields.
        """
        actor = self._last
        if (
            actor is None
            or self.ready
            or self.held
            or self._arrived
            or not self.elides
            or self.nobody_waits is None
            or not self.nobody_waits()
            or len(self.steps) >= self._steps_max
        ):
            return False
        nth = actor.counts.get(op.label, 0) + 1
        self._end_step(actor)
        if self.failure is not None or self.plan.holds((actor.name, op.label, nth)):
            return False
        actor.op, actor.nth = op, nth
        self._disturb(actor)
        self._begin_step(actor, 1)
        return True

    def name_object(self, thing: Any, kind: str) -> str:
        """A stable name for an object of this run: who used it first, its kind, and which of that actor's it is.

        Not its number in the run: that would be another one in another order, and keys of two runs could not be compared.
        """
        found = self.objects.get(id(thing))
        if found is None:
            owner = f"{self._last.name if self._last is not None else 'main'}/{kind}"
            number = self._named[owner] = self._named.get(owner, 0) + 1
            found = self.objects[id(thing)] = (thing, f"{owner}{number}")
        return found[1]

    def arrived(self, actor: Actor) -> None:
        """A task became runnable."""
        self._arrived.append(actor)

    # --- choosing -----------------------------------------------------------------------------------

    def choose(self) -> Actor | None:
        """Who runs next, or None when nobody can: then `idle` says whether time can move."""
        last = self._last
        arrived = self._arrived
        if last is not None and arrived and last.announced is None and last in arrived and self._goes_on():
            if len(arrived) > 1:
                arrived.remove(last)
                self._take_in(None)
            arrived.clear()
            return last
        self._end_step(last)
        if arrived:
            self._take_in(last)
        if self.held:
            self._release()
        if len(self.steps) >= self._steps_max:
            self._too_long()
        ready = self.ready
        if not ready:
            self._last = None
            return None
        if last is not None and self._in_a_row > ROW_MAX and len(ready) > 1 and last in ready:
            ready.remove(last)
            ready.append(last)
            last = None
        chosen = ready[0] if len(ready) == 1 else self._preferred() or self.policy.choose(ready, last)
        self._disturb(chosen)
        ready.remove(chosen)
        self._begin_step(chosen, len(ready) + 1)
        return chosen

    def _take_in(self, last: Actor | None) -> None:
        arrived = self._arrived
        if len(arrived) > 1:
            arrived.sort(key=_by_index)
        if self._last is not None:
            woken = self.woken.setdefault(len(self.steps) - 1, [])
            woken += [actor.name for actor in arrived if actor is not last]
        else:
            self.roused += [(len(self.steps), actor.name) for actor in arrived]
        for actor in arrived:
            self._make_ready(actor, own=actor is last)
        arrived.clear()

    def _goes_on(self) -> bool:
        self._bare += 1
        return self._bare <= BARE_MAX and self.mode == "macro"

    def keeps_running(self, task: Any) -> bool:
        """Count a bare checkpoint of the running actor; whether its step goes on over it, as `choose` would say."""
        last = self._last
        if last is None or last.task is not task or last.announced is not None or self._arrived or self._bare >= BARE_MAX:
            return False
        return self._goes_on()

    def _make_ready(self, actor: Actor, *, own: bool) -> None:
        op = actor.announced
        if op is not None:
            actor.announced = None
        elif own:
            op = BARE
        elif actor.steps == 0:
            op = START
        elif actor.waiting:
            op = Op(f"{actor.waiting} done", silent=True)
            actor.waiting = ""
        else:
            op = WAKE
        actor.op = op
        actor.nth = actor.counts.get(op.label, 0) + 1
        if self.plan.holds(actor.place):
            self.held.append(actor)
        else:
            self.ready.append(actor)

    def _begin_step(self, actor: Actor, ready: int) -> None:
        op = actor.op
        actor.counts[op.label] = actor.nth
        actor.steps += 1
        self._last = actor
        self._bare = 0
        self._in_a_row = self._in_a_row + 1 if ready > 1 and self._row is actor else 0
        self._row = actor
        if not actor.housekeeping:
            self._patience.progress(self.clock.now)
        self.steps.append(Step(actor.name, op.label, actor.nth, op, ready))

    def _end_step(self, last: Actor | None) -> None:
        if last is None or not self.steps:
            return
        self.plan.done.add(last.place)
        for check in self.after_step:
            check()

    def _release(self) -> None:
        for actor in list(self.held):
            if not self.plan.holds(actor.place):
                self.held.remove(actor)
                # It has waited the longest.
                self.ready.insert(0, actor)

    def _preferred(self) -> Actor | None:
        for held in self.held:
            name = self.plan.preferred(held.place)
            for actor in self.ready if name is not None else ():
                if actor.name == name:
                    return actor
        return None

    def _disturb(self, actor: Actor) -> None:
        plan = self.plan
        due = plan.due(actor.place)
        for item in due:
            if self._carry_out(item, actor):
                plan.carried_out.append(item)
            else:
                plan.unmet.append(f"{item}: there was nothing to disturb")
        if not due:
            found = self.policy.disturb(actor)
            if found is not None and self._carry_out(found, actor):
                plan.carried_out.append(found)

    def _carry_out(self, item: Disturbance, actor: Actor) -> bool:
        carry_out = self.can.get(item.kind)
        return carry_out is not None and carry_out(actor, item.value)

    def cut(self, batch: int, waiting: int) -> int:
        """After how many commands the writer's nth batch ends; 0 for no cut but its own."""
        planned = self.plan.take("cut", ("writer", "batch", batch))
        if planned is not None:
            return int(planned.value)
        size = self.policy.cut(waiting) if waiting > 1 else 0
        if size:
            self.plan.carried_out.append(Disturbance("cut", Address("writer", "batch", batch), str(size)))
        return size

    def at_disk(self, kind: str, label: str, number: int, drawn: Callable[[], str | None]) -> str | None:
        """How a `fault` or `crash` meets the nth operation of the disk with this label, or None: as planned, or as drawn."""
        planned = self.plan.take(kind, ("disk", label, number))
        if planned is not None:
            return planned.value
        how = drawn()
        if how is not None:
            self.plan.carried_out.append(Disturbance(kind, Address("disk", label, number), how))
        return how

    # --- when nobody can run -------------------------------------------------------------------------

    def idle(self, deadline: float) -> bool:
        """Nobody is ready: move the clock, or release a hold, or say that it is a deadlock. Whether to go on."""
        verdict = self._patience.verdict(deadline, self)
        if verdict == "let go":
            actor = self.held.pop(0)
            self.plan.let_go(actor.place, early=not self.thrown)
            self.ready.append(actor)
        elif verdict == "stuck":
            self._stuck()
        else:
            self.jumps += 1
            self.clock.jump_to(deadline, held=bool(self.held))
        return verdict != "stuck"

    def _jump_for(self, actor: Actor, value: str) -> bool:
        deadline = seconds_to_deadline()
        if deadline is None:
            return False
        self.jumps += 1
        self.clock.jump(deadline)
        return True

    def exited(self, task: Any) -> None:
        """A task of the program ended."""
        actor = self.actors.get(task)
        if actor is not None:
            actor.task = None
            self.live -= 1
        for problem in getattr(task.parent_nursery, "_pending_excs", ()):
            self._throw(problem)

    def _throw(self, problem: BaseException) -> None:
        if isinstance(problem, BaseExceptionGroup):
            for inner in problem.exceptions:
                self._throw(inner)
        elif not isinstance(problem, trio.Cancelled) and all(problem is not known for known, _ in self.thrown):
            self.thrown.append((problem, len(self.steps) - 1))

    def failed_at(self, error: BaseException | None) -> int | None:
        """The index of the step that an error came from; None where it came after all of them."""
        return next((index for problem, index in self.thrown if problem is error), None)

    def _stuck(self) -> None:
        if self.failure is None:
            self._set_failure(deadlock_of(self.names.values()))
        elif self.evictions < EVICTIONS_MAX:
            self.evictions += 1
            evict(self.names.values())
        else:
            self.abandoned = True

    def fail(self, problem: Exception) -> None:
        """End the run with this failure, unless it has one."""
        if self.failure is None:
            self._set_failure(problem)

    def _set_failure(self, problem: Exception) -> None:
        self.failure = problem
        self._throw(problem)
        assert self.root is not None
        self.root.cancel()

    def _too_long(self) -> None:
        if self.failure is None:
            self._set_failure(LivelockError(len(self.steps)))
            self._steps_max *= 2
            self.policy = DefaultOrder()
        else:
            self.abandoned = True


def _cancel(actor: Actor, value: str) -> bool:
    if actor.scope is None or actor.scope.cancel_called:
        return False
    actor.scope.cancel()
    return True


def _by_index(actor: Actor) -> int:
    return actor.index
