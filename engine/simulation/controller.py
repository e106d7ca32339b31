"""The controller of one run: who is ready, who runs next, what is held, when time moves, when nothing can go on.

Owns: the actors of a run, the ready list, holds and disturbances, the log of steps. Must not know: how a task is parked or
resumed (the drivers), which strategy decides (the policy), what the tasks do.
Invariants: exactly one actor runs at a time; a task of trio's own is never a decision; the log of steps depends on nothing
but the policy's choices and the program; a hold that cannot be met is released and remembered, never waited for.

A step is a macro-step: it goes on over bare checkpoints to the next announced operation (send, receive, lock, timer,
database step, `point`) or to where the task blocks. With `mode="await"` a bare checkpoint ends a step too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final, Protocol

import outcome
import trio
import trio.testing

from engine.simulation.actors import BARE, START, WAKE, Actor, has_timer, seconds_to_deadline, short_name, where_it_waits
from engine.simulation.choices import Address, Disturbance, Op, Step, clean_label
from engine.simulation.errors import DeadlockError, LivelockError, RunAbandonedError, SimulationError
from engine.simulation.schedule import Hold, Mode, Schedule

STEPS_MAX: Final = 20_000
"""Steps of a run before it counts as a livelock."""
BARE_MAX: Final = 100
"""Bare checkpoints that one macro-step goes on over before others get their turn: a polling loop must not starve them."""
HOLD_JUMPS_MAX: Final = 24
"""Clock jumps that a hold waits through, with nobody else able to run, before it is released as unmet."""
STUCK_AFTER_S: Final = 60.0
STUCK_JUMPS: Final = 40
"""Virtual seconds, and jumps, in which only housekeeping timers fired: then the actors are deadlocked."""

EVICTIONS_MAX: Final = 50
"""Rounds of throwing everybody out of what they wait for, after cancellation did not end a run."""


class Policy(Protocol):
    """Decides the order, and what is disturbed."""

    def begin(self, controller: Controller) -> None:
        """A run begins."""

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        """Who runs next: one of `ready`, which is never empty and is in order of readiness."""

    def disturb(self, actor: Actor) -> Disturbance | None:
        """What is done to the operation that the chosen actor is about to do."""


class DefaultOrder:
    """Nobody is pre-empted; when the actor that ran cannot go on, whoever has been ready the longest runs."""

    def begin(self, controller: Controller) -> None:
        """Nothing to prepare."""

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        return last if last is not None and last in ready else ready[0]

    def disturb(self, actor: Actor) -> Disturbance | None:
        return None


class Controller:
    """One run under control."""

    def __init__(
        self,
        policy: Policy,
        schedule: Schedule,
        *,
        mode: Mode = "macro",
        clock: trio.testing.MockClock,
        steps_max: int = STEPS_MAX,
    ) -> None:
        self.policy = policy
        self.mode: Mode = schedule.mode or mode
        self.clock = clock
        self.steps: list[Step] = []
        self.woken: dict[int, list[str]] = {}
        """Who was woken or started during a step, by the step's index."""
        self.actors: dict[Any, Actor] = {}
        self.names: dict[str, Actor] = {}
        self.ready: list[Actor] = []
        self.failure: SimulationError | None = None
        self.disturbances: list[Disturbance] = []
        self.done: set[tuple[str, str, int]] = set()
        self.root: trio.CancelScope | None = None
        self.abandoned = False
        """Nothing but force can end it any more; a driver that sees it raises."""
        self.live = 0
        """Actors that have not ended."""
        self.can: dict[str, Callable[[Actor, str], bool]] = {"timeout": self._jump_for, "cancel": _cancel}
        """How each kind of disturbance is carried out; whether there was anything to disturb."""
        self.after_step: list[Callable[[], None]] = []
        self.notes: list[str] = []
        self.objects: dict[int, tuple[Any, str]] = {}
        self.jumps = 0
        self._arrived: list[Actor] = []
        self._held: list[Actor] = []
        self._last: Actor | None = None
        self._bare = 0
        self._idle_jumps = 0
        self._progress_at = 0.0
        self._evictions = 0
        self._steps_max = steps_max
        self._holds: dict[tuple[str, str, int], list[tuple[str, str, int]]] = {}
        self._released: set[tuple[str, str, int]] = set()
        self._planned: dict[tuple[str, str, int], list[Disturbance]] = {}
        self.asked: list[Hold] = list(schedule.holds)
        self.unmet: list[str] = []
        for hold in schedule.holds:
            self._holds.setdefault(_key(hold.held), []).append(_key(hold.until))
        for item in schedule.disturbances:
            self._planned.setdefault(_key(item.at), []).append(item)

    # --- told by the drivers and the patched primitives -----------------------------------------

    def spawned(self, task: Any) -> None:
        """A task of the program was created."""
        nursery = task.parent_nursery
        parent = self.actors.get(nursery.parent_task) if nursery is not None else None
        if parent is None:
            name, above = "main", ""
        else:
            plain = clean_label(short_name(task.name))
            own = plain if parent.index == 0 or "." not in task.name else f"{parent.name}/{plain}"
            count = parent.children[own] = parent.children.get(own, 0) + 1
            name, above = own if count == 1 else f"{own}~{count}", parent.name
        if name in self.names:
            name = f"{above}/{name}"
            while name in self.names:
                name += "~"
        actor = Actor(len(self.actors), name, task, above, housekeeping=parent is not None and parent.housekeeping)
        self.live += 1
        self.actors[task] = actor
        self.names[name] = actor

    def current(self) -> Actor | None:
        """The actor whose step runs now."""
        return self._last

    def announce(self, op: Op) -> None:
        """The running task is about to do this, and yields now."""
        last = self._last
        if last is not None:
            last.announced = op

    def name_object(self, thing: Any, kind: str) -> str:
        """A stable name for an object of this run: its kind and its number by first use."""
        found = self.objects.get(id(thing))
        if found is None:
            found = self.objects[id(thing)] = (thing, f"{kind}{len(self.objects) + 1}")
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
        if self._held:
            self._release()
        if len(self.steps) >= self._steps_max:
            self._too_long()
        ready = self.ready
        if not ready:
            self._last = None
            return None
        chosen = ready[0] if len(ready) == 1 else self.policy.choose(ready, last)
        self._disturb(chosen)
        ready.remove(chosen)
        self._begin_step(chosen, len(ready) + 1)
        return chosen

    def _take_in(self, last: Actor | None) -> None:
        arrived = self._arrived
        if len(arrived) > 1:
            arrived.sort(key=_by_index)
        if self.steps:
            woken = self.woken.setdefault(len(self.steps) - 1, [])
            woken += [actor.name for actor in arrived if actor is not last]
        for actor in arrived:
            self._make_ready(actor, own=actor is last)
        arrived.clear()

    def _goes_on(self) -> bool:
        if self.mode == "await":
            return False
        self._bare += 1
        return self._bare <= BARE_MAX

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
        place = (actor.name, op.label, actor.nth)
        untils = self._holds.get(place)
        if untils is not None and place not in self._released and not self.done.issuperset(untils):
            self._held.append(actor)
        else:
            self.ready.append(actor)

    def _begin_step(self, actor: Actor, ready: int) -> None:
        op = actor.op
        actor.counts[op.label] = actor.nth
        actor.steps += 1
        self._last = actor
        self._bare = 0
        if not actor.housekeeping:
            self._progress_at = self.clock.current_time()
            self._idle_jumps = 0
        self.steps.append(Step(actor.name, op.label, actor.nth, op, ready))

    def _end_step(self, last: Actor | None) -> None:
        if last is None or not self.steps:
            return
        self.done.add((last.name, last.op.label, last.nth))
        for check in self.after_step:
            check()

    def _release(self) -> None:
        for actor in list(self._held):
            place = (actor.name, actor.op.label, actor.nth)
            if self.done.issuperset(self._holds[place]):
                self._held.remove(actor)
                self.ready.append(actor)

    def _disturb(self, actor: Actor) -> None:
        planned = self._planned.pop((actor.name, actor.op.label, actor.nth), ())
        for item in planned:
            if self._carry_out(item, actor):
                self.disturbances.append(item)
            else:
                self.unmet.append(f"{item}: there was nothing to disturb")
        if not planned:
            found = self.policy.disturb(actor)
            if found is not None and self._carry_out(found, actor):
                self.disturbances.append(found)

    def _carry_out(self, item: Disturbance, actor: Actor) -> bool:
        carry_out = self.can.get(item.kind)
        return carry_out is not None and carry_out(actor, item.value)

    def take_plan(self, kind: str, actor: str, label: str, nth: int) -> Disturbance | None:
        """A disturbance planned for something that is not a step (a batch's cut, an answer, a disk operation)."""
        planned = self._planned.get((actor, label, nth))
        for item in planned or ():
            if item.kind == kind:
                assert planned is not None
                planned.remove(item)
                if not planned:
                    del self._planned[actor, label, nth]
                self.disturbances.append(item)
                return item
        return None

    # --- when nobody can run -------------------------------------------------------------------------

    def idle(self) -> bool:
        """Nobody is ready: move the clock, or release a hold, or say that it is a deadlock. Whether to go on."""
        deadline = seconds_to_deadline()
        if self._held and (deadline is None or self._idle_jumps >= HOLD_JUMPS_MAX):
            actor = self._held.pop(0)
            place = (actor.name, actor.op.label, actor.nth)
            self._released.add(place)
            missing = [until for until in self._holds[place] if until not in self.done]
            self.unmet.extend(f"{Address(*place)}>{Address(*until)}: the second never came" for until in missing)
            self.ready.append(actor)
            self._idle_jumps = 0
            return True
        if deadline is None:
            self._stuck()
            return False
        self._idle_jumps += 1
        if (
            self._idle_jumps > STUCK_JUMPS
            and self.clock.current_time() - self._progress_at > STUCK_AFTER_S
            and not self._actors_have_timers()
        ):
            self._stuck()
            return False
        self.jump(deadline)
        return True

    def jump(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.jumps += 1
        self.clock.jump(seconds)

    def _jump_for(self, actor: Actor, value: str) -> bool:
        deadline = seconds_to_deadline()
        if deadline is None:
            return False
        self.jump(deadline)
        return True

    def _actors_have_timers(self) -> bool:
        return any(
            not actor.housekeeping and has_timer(actor.task) for actor in self.names.values() if actor.task is not None
        )

    def exited(self, task: Any) -> None:
        """A task of the program ended."""
        actor = self.actors.get(task)
        if actor is not None:
            actor.task = None
            self.live -= 1

    def _stuck(self) -> None:
        if self.failure is None:
            waiting = [
                f"{actor.name} ({actor.waiting or where_it_waits(actor.task)})"
                for actor in self.names.values()
                if actor.task is not None and not actor.housekeeping and actor.index
            ]
            main = self.actors[next(iter(self.actors))]
            self.failure = DeadlockError(tuple(waiting or [f"main ({main.waiting or where_it_waits(main.task)})"]))
            self._cancel_all()
        elif self._evictions < EVICTIONS_MAX:
            self._evict()
        else:
            self.abandoned = True

    def _evict(self) -> None:
        """Cancellation did not end it, something shields itself: throw everybody out of what they wait for."""
        self._evictions += 1
        for actor in list(self.names.values()):
            if actor.task is not None and actor.parked is None:
                try:
                    trio.lowlevel.reschedule(actor.task, outcome.Error(RunAbandonedError()))
                except AssertionError:  # it was runnable already
                    continue

    def fail(self, problem: SimulationError) -> None:
        """End the run with this failure, unless it has one."""
        if self.failure is None:
            self.failure = problem
            self._cancel_all()

    def _too_long(self) -> None:
        if self.failure is None:
            self.failure = LivelockError(len(self.steps))
            self._steps_max *= 2
            self.policy = DefaultOrder()
            self._cancel_all()
        else:
            self.abandoned = True

    def _cancel_all(self) -> None:
        assert self.root is not None
        self.root.cancel()

    # --- what a run was -------------------------------------------------------------------------------

    def digest(self) -> str:
        """A hash of every decision, every note and the time that passed."""
        text = "\n".join([f"{step.actor}#{step.label}[{step.nth}]" for step in self.steps])
        tail = f"\n{self.notes}\n{self.clock.current_time():.9f}\n{[str(item) for item in self.disturbances]}"
        return hashlib.blake2b((text + tail).encode(), digest_size=16).hexdigest()

    def left_over(self) -> list[str]:
        """What the schedule asked for and the run never came to."""
        missed = [f"{hold}: {hold.held} never came" for hold in self.asked if _key(hold.held) not in self.done]
        unused = [f"{item}: {item.at} never came" for items in self._planned.values() for item in items]
        return self.unmet + missed + unused


def _cancel(actor: Actor, value: str) -> bool:
    if actor.scope is None or actor.scope.cancel_called:
        return False
    actor.scope.cancel()
    return True


def _key(address: Address) -> tuple[str, str, int]:
    return (address.actor, address.label, address.nth)


def _by_index(actor: Actor) -> int:
    return actor.index
