"""Directed search: schedules that reverse one pair of conflicting operations, or disturb one operation, nearest first.

Owns: which pairs could be reversed (conflicting keys, different actors, not ordered by who started whom), and their order.
Must not know: how a schedule is carried out. Source of the idea: race reversal in dynamic partial-order reduction
(Flanagan and Godefroid, POPL 2005).
Invariants: the candidates are a function of the profile; each changes the default order in one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, zip_longest
from typing import Final

import attrs

from engine.simulation.choices import Disturbance, Step
from engine.simulation.schedule import Hold, Schedule
from engine.simulation.strategies import Profile

_DIGITS: Final = re.compile(r"[0-9~]+")
HARMS: Final = (("lost/0", "lost/all"), ("lost/1", "delay/60000"), ("split/1",))
"""What is done to each operation of a connection, the most telling first: bytes are gone, or came unknown to the sender."""
PAIRS_MAX: Final = 60_000
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

    Of each pair of actors first the last operation of one held until the last of the other, then the last until the first,
    then the first until the last (the whole of one before the other); then one pair of every pair of labels. Where many
    actors have one role (their names differ in digits only), the nearest pair of actors stands for all. After those the
    same again while the awaited actor runs whenever it can, so that nobody else comes between; then the farthest pairs in
    the same way, the second nearest, and so on.
    """
    steps = profile.steps
    groups: dict[tuple[int, str, str, str, str], list[tuple[int, int]]] = {}
    for pairs in _racing(profile).values():
        first_a, last_a = min(a for a, _ in pairs), max(a for a, _ in pairs)
        first_b, last_b = min(b for _, b in pairs), max(b for _, b in pairs)
        extremes = {(first_a, last_b): 2, (last_a, first_b): 1, (last_a, last_b): 0}
        for a, b in pairs:
            roles = (_role(steps[a].actor), _role(steps[a].label), _role(steps[b].actor), _role(steps[b].label))
            groups.setdefault((extremes.get((a, b), 3), *roles), []).append((a, b))
    ranked: list[tuple[int, int, int, Hold]] = []
    for (rank, *_), members in groups.items():
        members.sort(key=lambda pair: pair[1] - pair[0])
        for turn, (a, b) in enumerate(_from_both_ends(members)):
            ranked.append((turn, rank, b - a if rank else -b, Hold(steps[a].address, steps[b].address)))
    ranked.sort(key=lambda entry: entry[:3])
    found: list[Hold] = []
    for _, entries in groupby(ranked, key=lambda entry: entry[0]):
        plain = [hold for *_, hold in entries]
        found += plain
        found += [attrs.evolve(hold, eager=True) for hold in plain]
    return found


def _from_both_ends(pairs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The first, the last, the second, the last but one ..."""
    for number in range(len(pairs)):
        yield pairs[number // 2] if number % 2 == 0 else pairs[-1 - number // 2]


def _role(name: str) -> str:
    return _DIGITS.sub("", name)


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
    steps = [step for step in profile.steps if not step.op.silent]
    steps.sort(key=lambda step: step.address not in touched)
    wanted = [kind for kind in ("cancel", "timeout", "crash") if kind in kinds]
    for step in steps:
        for kind in wanted:
            yield Disturbance(kind, step.address, "power" if kind == "crash" else "1")
        for harm in HARMS[0] if step.op.wire and "net" in kinds else ():
            yield Disturbance("net", step.address, harm)
    for harms in HARMS[1:] if "net" in kinds else ():
        for step in steps:
            for harm in harms if step.op.wire else ():
                yield Disturbance("net", step.address, harm)


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
