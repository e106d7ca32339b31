"""The interleaving as columns: one an actor, one row a step that matters, held operations where they were held.

Owns: which actors and steps are shown, and how. Must not know: how a failure was shrunk, where the text goes.
Invariants: never more lines than asked for; the steps of every ordering and the failing step are among the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from engine.simulation.choices import Address, Disturbance, Step
from engine.simulation.running import Run
from engine.simulation.schedule import Hold

WIDTH: Final = 132
COLUMNS_MAX: Final = 5
COLUMN_MIN: Final = 18


@attrs.frozen
class Row:
    """One line of the picture."""

    at: int
    """The step's index in the run."""
    actor: str
    text: str
    step: bool = True
    """A step, not a remark about one."""


@attrs.frozen
class Picture:
    """What a run looked like as far as it matters."""

    actors: tuple[str, ...]
    rows: tuple[Row, ...]
    failed: int | None
    """The index of the failing step; None where the failure came after all of them."""


def picture_of(
    run: Run, holds: Sequence[Hold], disturbances: Sequence[Disturbance], unneeded: frozenset[str], lines_max: int
) -> Picture:
    """Choose the actors and steps to show in so many lines."""
    steps = run.steps
    end = run.failed_at if run.failed_at is not None else len(steps) - 1
    places = {step.address: index for index, step in enumerate(steps)}
    named = [address for hold in holds for address in (hold.held, hold.until)] + [item.at for item in disturbances]
    must = [places[address] for address in named if places.get(address, end + 1) <= end]
    if run.failed_at is not None:
        must.append(end)
    actors = _involved(steps, end, [address.actor for address in named], must, unneeded)
    remarks = [row for row in _remarks(steps, places, holds, disturbances, end) if row.actor in actors]
    shown = {index for index in must if steps[index].actor in actors}
    for index in _by_interest(steps, end, must, actors):
        if _lines(shown | {index}, remarks) <= lines_max:
            shown.add(index)
    rows = [Row(index, steps[index].actor, steps[index].label + _nth(steps[index])) for index in shown]
    rows += remarks
    rows.sort(key=lambda row: (row.at, row.step))
    return Picture(actors, tuple(rows), run.failed_at)


def draw(picture: Picture) -> list[str]:
    """The picture as lines of at most `WIDTH` characters."""
    width = max(COLUMN_MIN, min(34, (WIDTH - 16) // max(1, len(picture.actors))))
    lines = ["     " + "".join(_cell(name, width) for name in picture.actors).rstrip()]
    before = -1
    for row in picture.rows:
        left_out = row.at - before - 1
        if row.step and left_out > 0:
            lines.append(f"     ... {left_out} step{'s' * (left_out > 1)}")
        number = f"{row.at + 1:>4} " if row.step else "     "
        line = number + " " * (width * picture.actors.index(row.actor)) + _cell(row.text, width).rstrip()
        if row.step and row.at == picture.failed:
            line += "   <== here"
        lines.append(line)
        if row.step:
            before = row.at
    return lines


def _involved(
    steps: Sequence[Step], end: int, named: Sequence[str], must: Sequence[int], unneeded: frozenset[str]
) -> tuple[str, ...]:
    """The named actors, the one that failed, then those that touch the same keys, then those that ran last."""
    found = list(dict.fromkeys([*named, *(steps[index].actor for index in must)]))
    others = [index for index in range(end, -1, -1) if steps[index].actor not in unneeded and not steps[index].op.silent]
    keys = {key for index in must for key in (*steps[index].op.reads, *steps[index].op.writes)}
    if named:
        others = [index for index in others if keys.intersection((*steps[index].op.reads, *steps[index].op.writes))]
    found += [steps[index].actor for index in others]
    chosen = list(dict.fromkeys(found))[:COLUMNS_MAX]
    order = {name: at for at, name in reversed([(at, step.actor) for at, step in enumerate(steps)])}
    return tuple(sorted(chosen, key=lambda name: order.get(name, len(steps))))


def _by_interest(steps: Sequence[Step], end: int, must: Sequence[int], actors: tuple[str, ...]) -> list[int]:
    """The steps that may be shown, the most interesting first."""
    keys = {key for index in must for key in (*steps[index].op.reads, *steps[index].op.writes)}

    def interest(index: int) -> tuple[bool, int]:
        op = steps[index].op
        near = min((abs(index - other) for other in must), default=end - index)
        return not keys.intersection((*op.reads, *op.writes)), near

    return sorted(
        (index for index in range(end + 1) if steps[index].actor in actors and not steps[index].op.silent), key=interest
    )


def _remarks(
    steps: Sequence[Step],
    places: dict[Address, int],
    holds: Sequence[Hold],
    disturbances: Sequence[Disturbance],
    end: int,
) -> Iterator[Row]:
    """Where an actor was held, and what was done to an operation."""
    for hold in holds:
        reached = places.get(hold.held, len(steps))
        earlier = [index for index in range(min(reached, end + 1)) if steps[index].actor == hold.held.actor]
        at = (earlier[-1] if earlier else -1) + 1
        yield Row(at, hold.held.actor, f"| held before {_name(hold.held)}", step=False)
    for item in disturbances:
        place = places.get(item.at)
        if place is not None:
            value = f" {item.value}" if item.value != "1" else ""
            yield Row(place, item.at.actor, f"! {item.kind}{value} before {_name(item.at)}", step=False)


def _lines(shown: set[int], remarks: Sequence[Row]) -> int:
    ordered = sorted(shown)
    gaps = sum(after - before > 1 for before, after in zip([-1, *ordered], ordered, strict=False))
    return len(ordered) + gaps + len(remarks)


def _name(address: Address) -> str:
    return str(address).partition("#")[2]


def _nth(step: Step) -> str:
    return f"[{step.nth}]" if step.nth != 1 else ""


def _cell(text: str, width: int) -> str:
    return (text if len(text) < width else text[: width - 2] + "…").ljust(width)
