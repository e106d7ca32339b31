"""The strategies: policies that decide who runs next, each from a random stream of its own.

Owns: random walk, uniform random walk, PCT, POS, lockstep. Must not know: how a run is carried out, what is explored next.
Sources: PCT is Burckhardt et al., ASPLOS 2010; POS is Yuan et al., CAV 2018; the uniform random walk weighs by remaining
operations (URW in Sen's and shuttle's sense). What they need to know of the program (operations of each actor, steps in
all) comes from the profile: the run in the default order.
Invariants: a policy's choices are a function of its random stream and of what was ready; it never looks at a clock.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from engine.simulation.actors import Actor
from engine.simulation.choices import Address, Disturbance, Step
from engine.simulation.policy import DefaultOrder

FAIR_AFTER: Final = 2_000
"""Decisions after which a priority strategy becomes a random walk: a polling loop must not starve others."""


FAULT_CHANCE: Final = 0.01
DEATH_CHANCE: Final = 1 / 300
LOSSES: Final = 2.0
"""How often a connection is disturbed in a run, on average: once to lose something, and once while that is being mended."""
DELAYS_MS: Final = (10, 1_000, 60_000)
"""Behind what comes next; beyond what is retried soon; beyond what is waited for."""
UNIT_BITS: Final = 8
"""Where bytes are cut: before the 256th, and each power of two as likely as the next."""
CRASHES: Final = ("process", "power/0", "power/1", "power/2", "power/3", "power/4", "power/5", "power/6", "power/7")
"""Ways to die: what was written stays, or one of the images that a power failure may leave."""


@attrs.frozen
class Profile:
    """What the run in the default order showed."""

    steps: tuple[Step, ...] = ()
    woken: dict[int, list[str]] = attrs.field(factory=dict, eq=False)
    operations: Counter[str] = attrs.field(factory=Counter, eq=False)
    """Steps by actor."""
    decisions: int = 1
    """Steps at which more than one actor was ready."""

    @classmethod
    def of(cls, steps: Sequence[Step], woken: dict[int, list[str]]) -> Profile:
        """The profile of a run."""
        return cls(
            tuple(steps),
            woken,
            Counter(step.actor for step in steps),
            max(1, sum(step.ready > 1 for step in steps)),
        )


class Disturber:
    """Disturbs about one operation a run, of the kinds it may, beside the order that a strategy chooses."""

    def __init__(self, rng: random.Random, kinds: Sequence[str], profile: Profile) -> None:
        self._rng = rng
        self._kinds = [kind for kind in kinds if kind not in ("cut", "fault", "net")]
        self._cuts = "cut" in kinds
        self._faults = "fault" in kinds
        self._crashes = "crash" in kinds
        self._chance = 1.0 / max(1, len(profile.steps))
        wires = sum(step.op.wire for step in profile.steps)
        self._losses = LOSSES / max(LOSSES, wires) if "net" in kinds else 0.0

    def disturb(self, actor: Actor) -> Disturbance | None:
        """What to do to the operation that this actor is about to do."""
        rng = self._rng
        if self._losses and actor.op.wire and rng.random() < self._losses:
            return Disturbance("net", Address(*actor.place), self._harm())
        if not self._kinds or rng.random() >= self._chance:
            return None
        kind = self._kinds[int(rng.random() * len(self._kinds))]
        value = "1"
        if kind == "crash":
            value = CRASHES[int(rng.random() * len(CRASHES))]
        return Disturbance(kind, Address(*actor.place), value)

    def _harm(self) -> str:
        """What happens to a connection: mostly it is lost, at one end of what is sent or in its midst."""
        rng = self._rng
        kind, bytes_cut = rng.random(), int(2 ** (rng.random() * UNIT_BITS))
        if kind < 0.2:
            return "lost/0"
        if kind < 0.4:
            return "lost/all"
        if kind < 0.6:
            return f"lost/{bytes_cut}"
        if kind < 0.8:
            return f"split/{bytes_cut}"
        return f"delay/{DELAYS_MS[int(rng.random() * len(DELAYS_MS))]}"

    def cut(self, waiting: int) -> int:
        """Where to cut a batch, in a third of the cases."""
        rng = self._rng
        return 1 + int(rng.random() * (waiting - 1)) if self._cuts and rng.random() < 1 / 3 else 0

    def fault(self, ways: Sequence[str]) -> str | None:
        """How an operation of the disk fails; about one in a hundred does."""
        rng = self._rng
        if not self._faults or not ways or rng.random() >= FAULT_CHANCE:
            return None
        return ways[int(rng.random() * len(ways))]

    def dies(self) -> str | None:
        """How the process dies before an operation of the disk; about one in three hundred is its last."""
        rng = self._rng
        if not self._crashes or rng.random() >= DEATH_CHANCE:
            return None
        return CRASHES[int(rng.random() * len(CRASHES))]


class RandomWalk(DefaultOrder):
    """Anybody who is ready, with equal chances."""

    def __init__(self, rng: random.Random, profile: Profile) -> None:
        self.rng = rng
        self.profile = profile
        self.disturber: Disturber | None = None

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        return ready[int(self.rng.random() * len(ready))]

    def disturb(self, actor: Actor) -> Disturbance | None:
        return self.disturber.disturb(actor) if self.disturber is not None else None

    def cut(self, waiting: int) -> int:
        return self.disturber.cut(waiting) if self.disturber is not None else 0

    def fault(self, ways: Sequence[str]) -> str | None:
        return self.disturber.fault(ways) if self.disturber is not None else None

    def dies(self) -> str | None:
        return self.disturber.dies() if self.disturber is not None else None


class UniformRandomWalk(RandomWalk):
    """Chances in proportion to the steps that an actor still has to do, so that every interleaving is about as likely."""

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        operations = self.profile.operations
        weights = [max(1, operations[actor.name] - actor.steps) for actor in ready]
        at = self.rng.random() * sum(weights)
        for actor, weight in zip(ready, weights, strict=True):
            at -= weight
            if at < 0:
                return actor
        return ready[-1]


class Pct(RandomWalk):
    """Random priorities, and `depth - 1` places where the running actor falls below everybody else."""

    def __init__(self, rng: random.Random, profile: Profile, depth: int) -> None:
        super().__init__(rng, profile)
        self._priorities: dict[str, float] = {}
        self._changes = {int(rng.random() * profile.decisions) + 1 for _ in range(depth - 1)}
        self._decisions = 0

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        self._decisions += 1
        if self._decisions > FAIR_AFTER:
            return super().choose(ready, last)
        chosen = self._highest(ready)
        if self._decisions in self._changes:
            self._priorities[chosen.name] = -float(self._decisions)
            chosen = self._highest(ready)
        return chosen

    def _highest(self, ready: list[Actor]) -> Actor:
        priorities = self._priorities
        best, top = ready[0], -1e9
        for actor in ready:
            found = priorities.get(actor.name)
            if found is None:
                found = priorities[actor.name] = self.rng.random()
            if found > top:
                best, top = actor, found
        return best


class Pos(RandomWalk):
    """A random priority for each pending operation, drawn anew for those that raced with the one that ran."""

    def __init__(self, rng: random.Random, profile: Profile) -> None:
        super().__init__(rng, profile)
        self._priorities: dict[tuple[str, int], float] = {}
        self._decisions = 0

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        self._decisions += 1
        if self._decisions > FAIR_AFTER:
            return super().choose(ready, last)
        best, top = ready[0], -1.0
        priorities = self._priorities
        for actor in ready:
            place = (actor.name, actor.steps)
            found = priorities.get(place)
            if found is None:
                found = priorities[place] = self.rng.random()
            if found > top:
                best, top = actor, found
        for actor in ready:
            if actor is not best and (actor.op.conflicts_with(best.op) or not (actor.op.writes or actor.op.reads)):
                priorities.pop((actor.name, actor.steps), None)
        return best


class Lockstep(RandomWalk):
    """Everybody who is ready runs once, in a random order, before anybody runs again: what trio itself does."""

    def __init__(self, rng: random.Random, profile: Profile) -> None:
        super().__init__(rng, profile)
        self._batch: list[Actor] = []

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        while True:
            while self._batch:
                actor = self._batch.pop()
                if actor in ready:
                    return actor
            self._batch = list(ready)
            self.rng.shuffle(self._batch)


STRATEGIES: Final[dict[str, Callable[[random.Random, Profile], RandomWalk]]] = {
    "random": RandomWalk,
    "urw": UniformRandomWalk,
    "pct1": lambda rng, profile: Pct(rng, profile, 1),
    "pct2": lambda rng, profile: Pct(rng, profile, 2),
    "pct3": lambda rng, profile: Pct(rng, profile, 3),
    "pos": Pos,
    "lockstep": Lockstep,
}

PORTFOLIO: Final = ("pos", "urw", "pct2", "lockstep", "pct3", "random", "pct1")
"""What `auto` takes in turn once the directed schedules are used up: none of them is best everywhere."""
