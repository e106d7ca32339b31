"""The pure steps of shrinking: fewest parts of a list, orderings that a failing run shows, segments joined.

Owns: delta debugging, the candidates for holds, moves on traces. Must not know: how a run is carried out, budgets.
Source of the list reduction: Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, IEEE TSE 2002.
Invariants: everything here is a function of its arguments; a candidate hold is in force in the run that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final, TypeVar

from engine.simulation.choices import Step
from engine.simulation.directed import clocks_of
from engine.simulation.schedule import Hold

T = TypeVar("T")

PAIRS_MAX: Final = 20_000
"""Pairs of operations that are looked at."""
UNKEYED: Final = ""
Segments = tuple[tuple[str, int], ...]


def fewest(items: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """The items of a list without which it does not fail: no single one of the result can be left out.

    `fails(items)` is taken to be true. What `fails` raises is raised on.
    """
    kept = list(items)
    if kept and fails([]):
        return []
    size = max(1, len(kept) // 2)
    while kept:
        reduced = False
        at = 0
        while at < len(kept) and len(kept) > 1:
            without = kept[:at] + kept[at + size :]
            if without and fails(without):
                kept, reduced = without, True
            else:
                at += size
        if size == 1 and not reduced:
            return kept
        size = max(1, size // 2)
        if len(kept) == 1:
            return kept
    return kept


def reversed_pairs(failing: Sequence[Step], woken: dict[int, list[str]], default: Sequence[Step], end: int) -> list[Hold]:
    """Orderings of conflicting operations that the failing run has and the default order has not.

    `end` is the index of the failing step. Nearest to the failure first: the operation that came too late, then the one
    that it let pass. An operation that the default order never came to counts as reversed too.
    """
    ordinary = {step.address: index for index, step in enumerate(default)}
    last = len(default)
    ranked: list[tuple[int, int, Hold]] = []
    for early, late in _conflicting(failing, woken, end):
        first, second = failing[early].address, failing[late].address
        if ordinary.get(second, last) <= ordinary.get(first, last):
            ranked.append((abs(end - late), late - early, Hold(second, first)))
    return [hold for _, _, hold in sorted(ranked, key=lambda item: item[:2])]


def conflict_order(failing: Sequence[Step], woken: dict[int, list[str]], end: int) -> list[Hold]:
    """Holds that together force the failing run's order of all conflicting operations, those near the failure first."""
    latest: dict[tuple[int, str], int] = {}
    for early, late in _conflicting(failing, woken, end):
        place = (late, failing[early].actor)
        latest[place] = max(early, latest.get(place, -1))
    pairs = sorted(((late, early) for (late, _), early in latest.items()), reverse=True)
    return [Hold(failing[late].address, failing[early].address) for late, early in pairs]


def _conflicting(steps: Sequence[Step], woken: dict[int, list[str]], end: int) -> Iterator[tuple[int, int]]:
    """Index pairs (earlier, later) of different actors' conflicting operations that no start orders.

    Of operations without keys nobody can tell whether they conflict, so all those of different actors do.
    """
    clocks = clocks_of(steps, woken)
    by_key: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        keys = {*step.op.reads, *step.op.writes}
        for key in keys or ((UNKEYED,) if not step.op.silent else ()):
            by_key.setdefault(key, []).append(index)
    seen: set[tuple[int, int]] = set()
    for key, indexes in by_key.items():
        for at, late in enumerate(indexes):
            second = steps[late]
            for early in reversed(indexes[:at]):
                first = steps[early]
                if early > end or first.actor == second.actor or (early, late) in seen:
                    continue
                if key != UNKEYED and not first.op.conflicts_with(second.op):
                    continue
                if clocks[late].get(first.actor, 0) >= clocks[early][first.actor]:
                    continue
                seen.add((early, late))
                if len(seen) > PAIRS_MAX:
                    return
                yield early, late


def boundary_holds(steps: Sequence[Step], end: int) -> list[Hold]:
    """Holds that together force a run's order up to the failing step, whatever its keys say, nearest to the failure first.

    Each segment's first step waits for the last step of the segment before; whoever runs again after the failure only
    waits for the failing step.
    """
    end = min(end, len(steps) - 1)
    holds = [
        Hold(after.address, before.address) for before, after in pairwise(steps[: end + 1]) if before.actor != after.actor
    ]
    final = steps[end]
    seen = {final.actor}
    for step in steps[end + 1 :]:
        if step.actor not in seen:
            seen.add(step.actor)
            holds.append(Hold(step.address, final.address))
    return holds[::-1]


def without_segment(segments: Segments, at: int) -> Segments:
    """A trace without one segment: its steps come where the default order has them."""
    return joined(segments[:at] + segments[at + 1 :])


def pulled_together(segments: Segments) -> Iterator[Segments]:
    """Traces in which one segment has moved to the one before or after it of the same actor."""
    for at, (actor, steps) in enumerate(segments):
        for other in range(at + 1, len(segments)):
            if segments[other][0] == actor:
                more = (actor, steps + segments[other][1])
                yield joined((*segments[:at], more, *segments[at + 1 : other], *segments[other + 1 :]))
                yield joined((*segments[:at], *segments[at + 1 : other], more, *segments[other + 1 :]))
                break


def joined(segments: Segments) -> Segments:
    """Neighbouring segments of one actor as one."""
    found: list[tuple[str, int]] = []
    for actor, steps in segments:
        if found and found[-1][0] == actor:
            found[-1] = (actor, found[-1][1] + steps)
        else:
            found.append((actor, steps))
    return tuple(found)
