"""What a shrunk failure looks like: at most 25 lines of text, or a record for JSON.

Owns: the report's parts, and the replay command. Must not know: pytest, the command line, how a failure was shrunk.
Invariants: never more than `LINES_MAX` lines; the replay command is at most `COMMAND_MAX` characters long where any form of
its schedule allows; what was not confirmed is said to be so.
"""

from __future__ import annotations

import os
import shlex
import traceback
from typing import Any, Final

from engine.simulation.choices import Op
from engine.simulation.picture import WIDTH, draw, picture_of
from engine.simulation.schedule import Hold
from engine.simulation.shrinking import Flipped, Shrunk

LINES_MAX: Final = 25
COMMAND_MAX: Final = 160
ORDERINGS_SHOWN: Final = 4
CONFLICTS_SHOWN: Final = 3


def report(shrunk: Shrunk, *, name: str, command: str = "", schedules: int | None = None, origin: str = "") -> str:
    """The failure as text: what failed, the interleaving, the conflict, the orderings it needs, how to have it again.

    `name` is the test's or the scenario's; `command` what the schedule string is put behind; `schedules` how many the
    campaign was to have; `origin` says where the schedule came from, if not from the campaign's strategy.
    """
    title = _title(shrunk, name, schedules, origin)
    tail = [*_conflicts(shrunk), *_needs(shrunk), *_unneeded(shrunk)]
    if command:
        tail.append(f"replay:  {replay_command(shrunk, command)}")
    after = [f"     after the last step: {_error(shrunk, 90)}   <== here"] if shrunk.run.failed_at is None else []
    room = LINES_MAX - 2 - len(tail) - len(after)
    plan = shrunk.schedule
    picture = picture_of(shrunk.run, plan.holds, plan.disturbances, shrunk.dropped.actors, room)
    return "\n".join([title, *draw(picture), *after, *tail])


def replay_command(shrunk: Shrunk, command: str) -> str:
    """The command with the schedule in the most readable form that keeps it within `COMMAND_MAX` characters."""
    texts = [str(shrunk.schedule), shrunk.found.schedule, str(shrunk.found.run.schedule())]
    commands = [f"{command} {shlex.quote(text)}" for text in texts if text or text == texts[0]]
    return next((text for text in commands if len(text) <= COMMAND_MAX), min(commands, key=len))


def as_json(shrunk: Shrunk, *, name: str, command: str = "") -> dict[str, Any]:
    """The failure as a record of plain values."""
    run, plan = shrunk.run, shrunk.schedule
    return {
        "name": name,
        "error": {"kind": type(shrunk.found.error).__name__, "text": str(shrunk.found.error), "signature": run.signature},
        "found": {
            "schedule": shrunk.found.schedule,
            "number": shrunk.found.number,
            "strategy": shrunk.found.strategy,
            "seed": shrunk.found.seed,
        },
        "schedule": str(plan),
        "orderings": [
            {"first": str(hold.until), "second": str(hold.held), "keys": _shared(shrunk, hold)} for hold in plan.holds
        ],
        "disturbances": [str(item) for item in plan.disturbances],
        "fails": {"default_order": shrunk.confirmed[0], "random_orders": shrunk.around[0], "of": shrunk.confirmed[1]},
        "other_order_passes": [
            {"of": item.of, "what": str(item.what), "default_order": item.passed, "random_orders": item.around}
            for item in shrunk.flipped
        ],
        "not_needed": {
            "actors": sorted(shrunk.dropped.actors),
            "items": [list(item) for item in sorted(shrunk.dropped.items)],
        },
        "steps": run.trace,
        "failed_at": run.failed_at,
        "runs": shrunk.runs,
        "seconds": round(shrunk.seconds, 3),
        "complete": shrunk.complete,
        "replay": replay_command(shrunk, command) if command else "",
    }


def _title(shrunk: Shrunk, name: str, schedules: int | None, origin: str) -> str:
    found = shrunk.found
    of = f" of {schedules}" if schedules is not None else ""
    where = origin or f"schedule {found.number}{of} ({found.strategy})"
    room = max(30, WIDTH - len(name) - len(where) - 6)
    return f"{name}   {_error(shrunk, room)}   {where}"


def _error(shrunk: Shrunk, chars_max: int) -> str:
    error = shrunk.found.error
    said = " ".join(str(error).split())
    text = f"{type(error).__name__}: {said}" if said else f"{type(error).__name__} at {_place(error)}"
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename.replace(os.sep, '/').rpartition('/')[2]}:{frames[-1].lineno}" if frames else "nowhere"


def _conflicts(shrunk: Shrunk) -> list[str]:
    ops = {step.address: step.op for step in shrunk.run.steps}
    lines: list[str] = []
    for hold in shrunk.schedule.holds:
        first, second = ops.get(hold.until), ops.get(hold.held)
        if first is None or second is None:
            continue
        lines += [
            f"conflict: {key}: {hold.until} {_use(first, key)} it, {hold.held} {_use(second, key)} it"
            for key in _shared(shrunk, hold)
        ]
    if shrunk.schedule.holds and not lines:
        lines = ["conflict: not known, the ordered operations name no key in common"]
    return [_cut(line) for line in lines[:CONFLICTS_SHOWN]]


def _shared(shrunk: Shrunk, hold: Hold) -> list[str]:
    ops = {step.address: step.op for step in shrunk.run.steps}
    first, second = ops.get(hold.until), ops.get(hold.held)
    if first is None or second is None:
        return []
    keys = dict.fromkeys((*first.writes, *first.reads))
    return [key for key in keys if key in second.writes or (key in second.reads and key in first.writes)]


def _use(op: Op, key: str) -> str:
    return "writes" if key in op.writes else "reads"


def _needs(shrunk: Shrunk) -> list[str]:
    plan = shrunk.schedule
    fails = f"fails {shrunk.confirmed[0]}/{shrunk.confirmed[1]}"
    if not shrunk.reliable:
        return [f"not reproducible: {fails}; something in the scenario is not under the simulator's control"]
    spent = "" if shrunk.complete else " (the budget was spent: it may need less)"
    if plan.segments is not None:
        return [f"needs {len(plan.segments)} turns of its actors, no fewer orderings express it; {fails}{spent}"]
    if plan.seeded is not None:
        return [f"as found, not shrunk; {fails}{spent}"]
    if not plan.size:
        return [f"needs no ordering: {fails} in the default order"]
    around = f"in the default order, {shrunk.around[0]}/{shrunk.around[1]} in random orders of all else"
    lines = [f"needs {_count(shrunk)}: {fails} {around}{spent}"]
    lines += [_flip(item) for item in shrunk.flipped[:ORDERINGS_SHOWN]]
    if len(shrunk.flipped) > ORDERINGS_SHOWN:
        lines.append(f"  and {len(shrunk.flipped) - ORDERINGS_SHOWN} more")
    return [_cut(line) for line in lines]


def _count(shrunk: Shrunk) -> str:
    parts = [(len(shrunk.schedule.holds), "ordering"), (len(shrunk.schedule.disturbances), "disturbance")]
    return " and ".join(f"{count} {what}{'s' * (count > 1)}" for count, what in parts if count)


def _flip(item: Flipped) -> str:
    if isinstance(item.what, Hold):
        what, other = f"{item.what.until} before {item.what.held}", "other order"
    else:
        what, other = str(item.what), "without it"
    verdict = f"passes {item.passed}/{item.of}" if item.passes else f"passes only {item.passed}/{item.of}"
    return f"  {what}; {other} {verdict} ({item.around}/{item.of} in random orders)"


def _unneeded(shrunk: Shrunk) -> list[str]:
    parts = []
    actors = sorted(shrunk.dropped.actors)
    if actors:
        shown = ", ".join(actors[:4]) + (f" and {len(actors) - 4} more" if len(actors) > 4 else "")
        parts.append(f"actors {shown}")
    if shrunk.dropped.items:
        every = sum(shrunk.run.items.values())
        parts.append(f"{len(shrunk.dropped.items)} of {every} workload items")
    return [_cut(f"not needed: {'; '.join(parts)}")] if parts else []


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH + 8 else line[: WIDTH + 7] + "…"
