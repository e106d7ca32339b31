"""The commutation audit: do operations that are declared independent really not see each other's order?

Owns: which pairs are tried, what is compared, `Audit`. Must not know: how a proof is searched.

A pair is two operations that were both ready at one choice and share no key. Both orders are run from there, followed by
the same rest; what the scenario noted (as a bag: notes of two actors may change places), the outcome and every actor's
operations must be equal. What must be left out of the notes is what any order changes and nobody may rely on: a global
position, for example.

Invariants: a pair is tried in a state that the search came to; the sample is a function of the seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import attrs

from engine.simulation.actors import Actor
from engine.simulation.choices import Op, Step
from engine.simulation.conflicts import Conflicts, has_keys
from engine.simulation.controller import Controller
from engine.simulation.errors import CommutationError
from engine.simulation.policy import DefaultOrder
from engine.simulation.running import Run

Fingerprint = Callable[[Run], object]
PAIRS_KEPT = 2_000
"""Pairs from which the sample is drawn."""
IN_VAIN_MAX = 50
"""Choices in a row without a new pair, after which no more are looked for."""
DIFFERENCES_SHOWN = 4
QUIET_MAX = 2_000
"""Steps without a shared key in a row, after which others get their turn: a polling loop must not starve them."""


def noted(run: Run) -> Counter[str]:
    """What the scenario noted, as a bag."""
    return Counter(run.notes)


class Choosing(DefaultOrder):
    """Follows a list of actors from one operation with a shared key to the next, then the default order.

    Whatever cannot conflict runs at once, oldest first; so at a choice everybody who is ready is about to do an operation
    with a shared key.
    """

    def __init__(self, table: Conflicts, names: Sequence[str]) -> None:
        self.table = table
        self.names = names
        self.taken: list[str] = []
        """Who did each operation with a shared key so far."""
        self._read = 0
        self._quiet = 0

    def begin(self, controller: Controller) -> None:
        """Remember whose run it is."""
        self.controller = controller

    def choose(self, ready: list[Actor], last: Actor | None) -> Actor:
        self.catch_up()
        at_once = self.at_once(ready) if self._quiet < QUIET_MAX else None
        return at_once if at_once is not None else self.pick(ready, last)

    def at_once(self, ready: list[Actor]) -> Actor | None:
        """Who runs without a choice."""
        for actor in ready:
            if not self.table.is_choice(actor):
                return actor
        return None

    def catch_up(self) -> None:
        """Take in the steps that were taken since: those of the only one who is ready are taken without asking."""
        steps = self.controller.steps
        while self._read < len(steps):
            step = steps[self._read]
            self._read += 1
            self._quiet += 1
            if has_keys(step.op) and not self.controller.names[step.actor].housekeeping:
                self.took(step)

    def took(self, step: Step) -> None:
        """An operation with keys was done."""
        if self.table.matters(step.op):
            self.taken.append(step.actor)
            self._quiet = 0

    def pick(self, ready: list[Actor], last: Actor | None) -> Actor:
        """Who runs at a choice."""
        if len(self.taken) < len(self.names):
            wanted = self.names[len(self.taken)]
            for actor in ready:
                if actor.name == wanted:
                    return actor
        return super().choose(ready, last)


@attrs.frozen
class Pair:
    """Two operations that are declared independent, and who came before, to where both are ready."""

    before: tuple[str, ...]
    first: str
    second: str
    labels: tuple[str, str]

    @property
    def described(self) -> tuple[str, str]:
        """Both, as addresses without numbers."""
        return (f"{self.first}#{self.labels[0]}", f"{self.second}#{self.labels[1]}")


@attrs.define(eq=False)
class Audit:
    """Pairs that were met, and what came of trying them."""

    fingerprint: Fingerprint = noted
    pairs: dict[tuple[str, str], Pair] = attrs.field(factory=dict)
    tried: int = 0
    noted: bool = False
    """Whether there was anything to compare but outcomes and operations."""
    _in_vain: int = 0

    def meet(self, before: Sequence[str], ready: Mapping[str, Op]) -> None:
        """Remember the independent pairs of a choice."""
        if len(self.pairs) >= PAIRS_KEPT or self._in_vain >= IN_VAIN_MAX:
            return
        known = len(self.pairs)
        for (one, first), (other, second) in combinations(ready.items(), 2):
            if not first.conflicts_with(second):
                pair = Pair(tuple(before), one, other, (first.label, second.label))
                self.pairs.setdefault(pair.described, pair)
        self._in_vain = self._in_vain + 1 if len(self.pairs) == known else 0

    def forget(self) -> None:
        """The search starts again."""
        self.pairs.clear()
        self._in_vain = 0

    def sample(self, count: int, seed: int) -> list[Pair]:
        """So many pairs: first one of every two labels, then any."""
        rng = random.Random(f"{seed} audit")
        pairs = list(self.pairs.values())
        rng.shuffle(pairs)
        kinds: dict[tuple[str, ...], Pair] = {}
        for pair in pairs:
            kinds.setdefault(tuple(sorted(pair.labels)), pair)
        first = list(kinds.values())
        return (first + [pair for pair in pairs if kinds[tuple(sorted(pair.labels))] is not pair])[:count]

    def try_pair(self, pair: Pair, table: Conflicts, run: Callable[[Choosing], Run]) -> Run | None:
        """Run both orders; the run that shows that the order matters, with a `CommutationError`, or None."""
        self.tried += 1
        one = Choosing(table, (*pair.before, pair.first, pair.second))
        before = run(one)
        one.catch_up()
        rest = one.taken[len(pair.before) + 2 :]
        other = Choosing(table, (*pair.before, pair.second, pair.first, *rest))
        after = run(other)
        differs = self._differences(before, after, table)
        if not differs:
            return None
        after.error = CommutationError(*pair.described, tuple(differs[:DIFFERENCES_SHOWN]))
        return after

    def _differences(self, before: Run, after: Run, table: Conflicts) -> list[str]:
        found: list[str] = []
        if before.signature != after.signature:
            found.append(f"the outcome: {before.signature or 'passed'}, then {after.signature or 'passed'}")
        first, second = self.fingerprint(before), self.fingerprint(after)
        self.noted = self.noted or bool(first)
        if first != second:
            if isinstance(first, Counter) and isinstance(second, Counter):
                found += [f"only in the first order: {item}" for item in first - second]
                found += [f"only in the second order: {item}" for item in second - first]
            else:
                found.append(f"{first!r}, then {second!r}")
        for actor in sorted(table.conflicting()):
            did, does = _operations(before, actor), _operations(after, actor)
            if did != does:
                found.append(f"{actor} did {', '.join(did)}, then {', '.join(does)}")
        return found


def _operations(run: Run, actor: str) -> list[str]:
    return [step.label for step in run.steps if step.actor == actor and not step.op.silent]
