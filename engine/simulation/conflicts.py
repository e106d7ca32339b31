"""What is known of a program's conflicts: which operations each actor may still do, and who therefore belongs together.

Owns: the table of operations learned from runs, the closure that makes a set of actors persistent, the identity of a trace.
Must not know: how runs are made, in which order they are explored.

Two operations conflict where they share a key that one of them writes. A set of actors is persistent at a choice when
nothing that the others may do before it conflicts with anything that its members may still do; then exploring only its
members there loses no trace. The closure takes in whoever may still conflict with a member and, for a member that is
blocked, whoever was seen to wake it. Source: Godefroid, Partial-Order Methods for the Verification of Concurrent Systems
(LNCS 1032), persistent sets.

Servers are transparent: an actor that shares no key with anybody (or belongs to the engine) runs at once when it can, so
that what it wakes was caused by whoever woke it. A parent that waits at the end of its nursery races with nobody in it.

Invariants: the table only grows, except that who woke whom is forgotten when a key turns out to be shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from engine.simulation.actors import Actor, waited_for_by
from engine.simulation.choices import Op, Step
from engine.simulation.controller import Controller

Keys = tuple[frozenset[str], frozenset[str]]
"""Keys that are read and keys that are written."""
_NOTHING: Keys = (frozenset(), frozenset())


@attrs.define(eq=False)
class Standing:
    """Where a run stood at a choice."""

    ready: tuple[str, ...]
    done: dict[str, int]
    """Operations with keys that each actor had done."""
    live: frozenset[str]
    seen: frozenset[str]
    """Everybody who had been started."""
    above: dict[str, frozenset[str]]
    """Who waits at the end of a nursery for a live actor."""

    @classmethod
    def of(cls, ready: Sequence[Actor], done: Mapping[str, int], names: Mapping[str, Actor]) -> Standing:
        """Where a run stands now."""
        by_task = {actor.task: actor.name for actor in names.values() if actor.task is not None}
        live = [actor for actor in names.values() if actor.task is not None and not actor.housekeeping]
        return cls(
            ready=tuple([actor.name for actor in ready]),
            done=dict(done),
            live=frozenset([actor.name for actor in live]),
            seen=frozenset(names),
            above={
                actor.name: frozenset([by_task[task] for task in waited_for_by(actor.task) if task in by_task])
                for actor in live
            },
        )


def has_keys(op: Op) -> bool:
    """Whether an operation declares what it touches."""
    return bool(op.writes or op.reads)


@attrs.define(eq=False)
class Conflicts:
    """The operations and wake-ups of a program, as far as its runs have shown them."""

    reads: dict[str, dict[str, int]] = attrs.field(factory=dict)
    """By actor and key: the number of the last operation that read it, counted among the actor's operations with keys."""
    writes: dict[str, dict[str, int]] = attrs.field(factory=dict)
    shared: frozenset[str] | None = None
    """Keys that more than one actor touches and somebody writes; None before the first run."""
    wakers: dict[str, set[str]] = attrs.field(factory=dict)
    """Who woke or started an actor that afterwards touched a shared key."""
    parents: dict[str, str] = attrs.field(factory=dict)
    starters: dict[str, set[str]] = attrs.field(factory=dict)
    unkeyed: set[str] = attrs.field(factory=set)
    """Labels of named operations that declare no keys."""

    def learn(self, controller: Controller, group: frozenset[str] | None = None) -> bool:
        """Take in the run that a controller had; whether it showed anything new. `group`: who alone was explored in it."""
        steps, names = controller.steps, controller.names
        changed = self._learn_keys(steps, names)
        if changed:
            shared = self._find_shared()
            if shared != self.shared:
                self.shared = shared
                self.wakers.clear()
        for actor in names.values():
            self.parents.setdefault(actor.name, actor.parent)
        return self._learn_wakes(controller, group) or changed

    def is_choice(self, actor: Actor) -> bool:
        """Whether the order of what the actor is about to do can matter."""
        return not actor.housekeeping and self.matters(actor.op)

    def matters(self, op: Op) -> bool:
        """Whether an operation touches a shared key, as far as is known."""
        shared = self.shared
        if shared is None:
            return has_keys(op)
        return not (shared.isdisjoint(op.writes) and shared.isdisjoint(op.reads))

    def _learn_keys(self, steps: Sequence[Step], names: Mapping[str, Actor]) -> bool:
        changed = False
        counts: dict[str, int] = {}
        for step in steps:
            op, actor = step.op, step.actor
            if names[actor].housekeeping:
                continue
            if not has_keys(op):
                if not op.silent and op.label != "checkpoint":
                    self.unkeyed.add(op.label)
                continue
            number = counts[actor] = counts.get(actor, 0) + 1
            for table, keys in ((self.reads, op.reads), (self.writes, op.writes)):
                last = table.setdefault(actor, {})
                for key in keys:
                    if last.get(key, 0) < number:
                        last[key] = number
                        changed = True
        return changed

    def _find_shared(self) -> frozenset[str]:
        users: dict[str, set[str]] = {}
        for table in (self.reads, self.writes):
            for actor, keys in table.items():
                for key in keys:
                    users.setdefault(key, set()).add(actor)
        written = {key for keys in self.writes.values() for key in keys}
        return frozenset(key for key, actors in users.items() if len(actors) > 1 and key in written)

    def conflicting(self) -> frozenset[str]:
        """The actors that touch a shared key: everybody else is transparent."""
        shared = self.shared or frozenset()
        return frozenset(
            actor for table in (self.reads, self.writes) for actor, keys in table.items() if not shared.isdisjoint(keys)
        )

    def _learn_wakes(self, controller: Controller, group: frozenset[str] | None) -> bool:
        """Who lets whom go on. What a server wakes was caused by whoever did the last operation that matters."""
        changed = False
        steps, names = controller.steps, controller.names
        conflicting = self.conflicting()
        started: set[str] = {steps[0].actor} if steps else set()
        by_time = {at for at, _ in controller.roused}
        last = {step.actor: index for index, step in enumerate(steps) if self.matters(step.op)}
        cause: str | None = None
        for index, step in enumerate(steps):
            actor = step.actor
            if index in by_time:
                cause = None
            if self.matters(step.op) and not names[actor].housekeeping and _in(actor, group):
                cause = actor
            root = actor if actor in conflicting else cause
            for name in controller.woken.get(index, ()):
                if name not in started:
                    started.add(name)
                    changed |= _add(self.starters, name, actor)
                if root is not None and root != name and last.get(name, 0) > index and (root == actor or _in(name, group)):
                    changed |= _add(self.wakers, name, root)
        return changed

    # --- who belongs together ---------------------------------------------------------------------

    def together(self, start: str, standing: Standing) -> frozenset[str]:
        """The smallest persistent set of actors around one of them."""
        rest = self._remaining(standing)
        found = {start}
        pending = [start]
        while pending:
            name = pending.pop()
            mine = rest.get(name, _NOTHING)
            for other, theirs in rest.items():
                if other not in found and _meet(mine, theirs) and not self._ordered(name, other, standing):
                    found.add(other)
                    pending.append(other)
            for other in self._enablers(name, found, standing):
                found.add(other)
                pending.append(other)
        return frozenset(found)

    def _enablers(self, name: str, found: set[str], standing: Standing) -> list[str]:
        """Without whom a blocked actor cannot go on: of those that it joins any one, else all who were seen to wake it."""
        if name in standing.ready:
            return []
        joined = [other for other, above in standing.above.items() if name in above]
        if joined:
            return [] if not found.isdisjoint(joined) else joined[:1]
        known = self.wakers.get(name, ())
        return [other for other in known if other not in found and (other in standing.live or other not in standing.seen)]

    def _remaining(self, standing: Standing) -> dict[str, Keys]:
        shared = self.shared or frozenset()
        rest: dict[str, Keys] = {}
        for actor in self.writes:
            if actor in standing.seen and actor not in standing.live:
                continue
            done = standing.done.get(actor, 0)
            reads = frozenset([key for key, last in self.reads[actor].items() if last > done and key in shared])
            writes = frozenset([key for key, last in self.writes[actor].items() if last > done and key in shared])
            if reads or writes:
                rest[actor] = reads, writes
        return rest

    def _ordered(self, one: str, other: str, standing: Standing) -> bool:
        """Whether one of two can do nothing before the other has ended."""
        first, second = self._stands_for(one, standing), self._stands_for(other, standing)
        above = standing.above
        return second in above.get(first, ()) or first in above.get(second, ())

    def _stands_for(self, name: str, standing: Standing) -> str:
        """The live actor that has yet to start this one itself; the actor where it is live or others may start it."""
        while name not in standing.seen and self.starters.get(name) == {self.parents.get(name)}:
            name = self.parents[name]
        return name

    def groups(self, standing: Standing) -> list[frozenset[str]]:
        """The actors that conflict from here on, split into sets that never interact, in order of appearance."""
        groups: list[frozenset[str]] = []
        for actor in self._remaining(standing):
            group = self.together(actor, standing)
            for other in [known for known in groups if known & group]:
                groups.remove(other)
                group |= other
            groups.append(group)
        return groups


def _meet(mine: Keys, theirs: Keys) -> bool:
    """Whether what two actors have yet to read and write conflicts."""
    reads, writes = mine
    return not (writes.isdisjoint(theirs[1]) and writes.isdisjoint(theirs[0]) and reads.isdisjoint(theirs[1]))


def _in(name: str, group: frozenset[str] | None) -> bool:
    return group is None or name in group


def _add(table: dict[str, set[str]], name: str, value: str) -> bool:
    found = table.setdefault(name, set())
    if value in found:
        return False
    found.add(value)
    return True


def trace_of(steps: Iterable[Step], shared: frozenset[str], members: frozenset[str] | None = None) -> int:
    """What two orders have in common that differ only in independent operations: by key, who wrote it when, and who read in
    between. With `members`, only their operations count."""
    orders: dict[str, list[object]] = {}
    counts: dict[str, int] = {}
    for step in steps:
        op, actor = step.op, step.actor
        if not has_keys(op) or (members is not None and actor not in members):
            continue
        number = counts[actor] = counts.get(actor, 0) + 1
        for key in op.writes:
            if key in shared:
                orders.setdefault(key, []).append((actor, number))
        for key in op.reads:
            if key in shared and key not in op.writes:
                order = orders.setdefault(key, [])
                if not order or not isinstance(order[-1], set):
                    order.append(set())
                readers = order[-1]
                assert isinstance(readers, set)
                readers.add((actor, number))
    return hash(
        tuple(
            (key, tuple(frozenset(item) if isinstance(item, set) else item for item in order))
            for key, order in sorted(orders.items())
        )
    )
