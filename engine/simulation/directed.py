"""Directed search: schedules that reverse one pair of conflicting operations, or disturb one operation, nearest first.

Owns: which pairs could be reversed (conflicting keys, different actors, not ordered by who started whom), and their order.
Must not know: how a schedule is carried out. Source of the idea: race reversal in dynamic partial-order reduction
(Flanagan and Godefroid, POPL 2005).
Invariants: the candidates are a function of the profile; each changes the default order in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final

from engine.simulation.choices import Disturbance, Step
from engine.simulation.schedule import Hold, Schedule
from engine.simulation.strategies import Profile

PAIRS_MAX: Final = 2_000
"""Pairs that are looked at: enough for some dozens of actors, and quick."""


def clocks_of(steps: Sequence[Step], woken: dict[int, list[str]]) -> list[dict[str, int]]:
    """Each step's vector clock: by actor, how many of its steps must have come before (or are this one).

    Only a start orders for certain. Who woke whom does not: an actor that serves many wakes each of them after it has
    served others, and another schedule would have it serve in another order (the reason why event-driven partial-order
    reduction orders two messages by their handlers, not by their mailbox: Maiya et al., TACAS 2016).
    """
    now: dict[str, dict[str, int]] = {}
    found: list[dict[str, int]] = []
    for index, step in enumerate(steps):
        clock = dict(now.get(step.actor, ()))
        clock[step.actor] = clock.get(step.actor, 0) + 1
        now[step.actor] = clock
        found.append(clock)
        for name in woken.get(index, ()):
            now.setdefault(name, dict(clock))
    return found


def reversible(profile: Profile) -> list[Hold]:
    """Holds that would each reverse a pair of conflicting operations of the profile, the most telling ones first.

    Of each pair of actors first the last operation of one held until the last of the other, then the first until the
    last (the whole of one before the other), then the last until the first; then one pair of every pair of labels, then
    the rest; nearest pairs first in each rank.
    """
    steps = profile.steps
    ranked: list[tuple[int, int, int, int]] = []
    seen: set[tuple[str, str]] = set()
    for pairs in _racing(profile).values():
        first_a, last_a = min(a for a, _ in pairs), max(a for a, _ in pairs)
        first_b, last_b = min(b for _, b in pairs), max(b for _, b in pairs)
        extremes = {(first_a, last_b): 2, (last_a, first_b): 1, (last_a, last_b): 0}
        for a, b in sorted(pairs, key=lambda pair: pair[1] - pair[0]):
            rank = extremes.get((a, b))
            if rank is None:
                labels = (f"{steps[a].actor}#{steps[a].label}", f"{steps[b].actor}#{steps[b].label}")
                rank = 4 if labels in seen else 3
                seen.add(labels)
            ranked.append((rank, b - a if rank else -b, a, b))
    return [Hold(steps[a].address, steps[b].address) for _, _, a, b in sorted(ranked)]


def _racing(profile: Profile) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """By pair of actors: the indexes of conflicting steps that nothing but the schedule ordered."""
    steps = profile.steps
    clocks = clocks_of(steps, profile.woken)
    ordinal = [clocks[index][step.actor] for index, step in enumerate(steps)]
    by_key: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        for key in {*step.op.reads, *step.op.writes}:
            by_key.setdefault(key, []).append(index)
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    seen: set[tuple[int, int]] = set()
    for indexes in by_key.values():
        for at, later in enumerate(indexes):
            for earlier in reversed(indexes[:at]):
                first, second = steps[earlier], steps[later]
                if first.actor == second.actor or (earlier, later) in seen or not first.op.conflicts_with(second.op):
                    continue
                seen.add((earlier, later))
                if clocks[later].get(first.actor, 0) < ordinal[earlier]:
                    found.setdefault((first.actor, second.actor), []).append((earlier, later))
                if len(seen) >= PAIRS_MAX:
                    return found
    return found


def disturbing(profile: Profile, kinds: Iterable[str], holds: Sequence[Hold]) -> Iterator[Disturbance]:
    """One disturbance at each named operation, those first that conflict with somebody's."""
    touched = {hold.held for hold in holds} | {hold.until for hold in holds}
    places = [step.address for step in profile.steps if not step.op.silent]
    places.sort(key=lambda place: place not in touched)
    wanted = [kind for kind in ("cancel", "timeout", "crash") if kind in kinds]
    for place in places:
        for kind in wanted:
            yield Disturbance(kind, place, "power" if kind == "crash" else "1")


def candidates(profile: Profile, kinds: Iterable[str], limit: int) -> list[Schedule]:
    """The directed schedules, reversals and disturbances in turn."""
    holds = reversible(profile)
    found: list[Schedule] = []
    for hold, item in zip_longest(holds, disturbing(profile, kinds, holds)):
        if hold is not None:
            found.append(Schedule(holds=(hold,)))
        if item is not None:
            found.append(Schedule(disturbances=(item,)))
        if len(found) >= limit:
            break
    return found[:limit]
