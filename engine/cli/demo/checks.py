"""The promises, each checked against what the agents were told, what the log says, and what the read model holds.

Owns: one function a promise. Must not know: how the demo ran, how a result is shown.
Invariants: a check compares two independent accounts; one that had nothing to compare does not hold, unless it is about a
race that a small run need not stage; then it says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from engine.cli.demo.fold import Fold
from engine.cli.demo.ledger import Acked, MessageKey
from engine.projections import UsageTotals

if TYPE_CHECKING:
    from engine.cli.demo.run import Evidence

PROBLEMS_KEPT = 5
EXPECTED_REFUSALS = frozenset(("TurnBusyError",))
"""A turn that begins while a removal drains the one before it."""


@attrs.frozen
class Promise:
    """A promise, whether it held, what was compared, and the first things that were wrong."""

    name: str
    held: bool
    seen: str
    problems: tuple[str, ...] = ()


def check_all(evidence: Evidence) -> list[Promise]:
    """Check every promise."""
    return [
        acknowledged_is_there(evidence.ledger.acked, evidence.fold, "what agents were told is in the log as told"),
        acknowledged_is_there(evidence.killed, evidence.fold, "what the killed process was told survived it"),
        order_is_dense(evidence),
        copies_count_once(evidence),
        removed_stays_removed(evidence),
        settled_stays_settled(evidence),
        text_is_whole(evidence),
        usage_counts_once(evidence),
        followers_saw_all(evidence),
        skips_are_logged(evidence),
        sweep_settled_the_rest(evidence),
        nothing_else_went_wrong(evidence),
        read_model_is_the_fold(evidence),
        file_is_sound(evidence),
    ]


def _promise(name: str, compared: int, seen: str, problems: Iterable[str], *, staged: bool = False) -> Promise:
    """The result. `staged`: what it is about happens by chance, so that a small run may not have it."""
    found = list(problems)
    if not compared and staged and not found:
        seen = f"{seen} (this run staged none)"
    elif not compared:
        found.append("there was nothing to compare")
    return Promise(name, not found, seen, tuple(found[:PROBLEMS_KEPT]))


def acknowledged_is_there(acked: list[Acked], fold: Fold, name: str) -> Promise:
    """Every acknowledged event is at its seq and position, with its id, type and outcome."""
    wrong = [f"{one} became {fold.events.get(one.position)}" for one in acked if fold.events.get(one.position) != one]
    return _promise(name, len(acked), f"{len(acked):,} acknowledged, {len(acked) - len(wrong):,} found", wrong)


def order_is_dense(evidence: Evidence) -> Promise:
    """Within a session seq is 1, 2, 3 ...; positions rise."""
    fold = evidence.fold
    seen = f"{len(fold.events):,} events of {len(fold.heads):,} sessions"
    return _promise("seq is dense, positions rise", len(fold.events), seen, fold.order)


def copies_count_once(evidence: Evidence) -> Promise:
    """A second delivery is told what the first was told, and is in the log once."""
    ledger, fold = evidence.ledger, evidence.fold
    ids: set[tuple[str, int, str]] = set()
    twice = []
    for event in fold.events.values():
        key = (event.session_id, event.incarnation, event.event_id)
        if key in ids:
            twice.append(f"{event.event_id} is in the log twice")
        ids.add(key)
    seen = f"{ledger.duplicates:,} copies delivered again"
    return _promise("a delivery counts once", ledger.duplicates, seen, [*ledger.contradicted, *twice], staged=True)


def removed_stays_removed(evidence: Evidence) -> Promise:
    """What was removed is not in the read model, and no later write to it was applied."""
    ledger = evidence.ledger
    there: set[MessageKey] = {(*place, m.message_id) for place, found in evidence.messages.items() for m in found}
    back = [f"message {key[2]} of {key[0]} is there" for key in ledger.removed_messages & there]
    for name, number in ledger.removed_sessions:
        if evidence.live.get(name) == number:
            back.append(f"session {name} is there in its life {number}")
    late = sum(reason in ("orphan_part", "removed") for reason in evidence.fold.skipped.values())
    messages, sessions = len(ledger.removed_messages), len(ledger.removed_sessions)
    seen = f"{messages:,} messages, {sessions:,} sessions, {late:,} late writes skipped"
    return _promise(
        "what was removed stays removed", messages + sessions, seen, [*evidence.fold.revived, *back], staged=True
    )


def settled_stays_settled(evidence: Evidence) -> Promise:
    """The read model has the status of each message's one ending, and no later streaming write was applied."""
    wrong = []
    for (name, number), found in evidence.messages.items():
        for message in found:
            expected = evidence.fold.settled.get((name, number, message.message_id))
            if expected is not None and message.status != expected[0]:
                wrong.append(f"message {message.message_id} is {message.status}, was settled as {expected[0]}")
    late = sum(reason == "finished" for reason in evidence.fold.skipped.values())
    seen = f"{len(evidence.fold.settled):,} messages settled, {late:,} late updates skipped"
    return _promise("what is settled stays settled", len(evidence.fold.settled), seen, [*evidence.fold.unsettled, *wrong])


def text_is_whole(evidence: Evidence) -> Promise:
    """What was streamed into a message that completed reads back whole."""
    ledger = evidence.ledger
    read = {(*place, m.message_id): m for place, found in evidence.messages.items() for m in found}
    wrong, compared, characters = [], 0, 0
    for key, text in ledger.texts.items():
        gone = key in ledger.removed_messages or key[:2] in ledger.removed_sessions
        if gone:
            continue
        compared += 1
        characters += len(text)
        if key not in read or read[key].text != text:
            wrong.append(f"message {key[2]} of {key[0]}: {len(text)} characters streamed, other text read")
    return _promise(
        "streamed text reads back whole", compared, f"{compared:,} messages, {characters:,} characters", wrong, staged=True
    )


def usage_counts_once(evidence: Evidence) -> Promise:
    """The ledger of usage is the last report of each step, by the log's account; what agents were told is in it."""
    fold = evidence.fold
    expected: dict[str, UsageTotals] = {}
    for (name, _, _), (_, event) in fold.usage.items():
        expected[name] = expected.get(name, UsageTotals()) + _totals(event)
    total = sum(expected.values(), UsageTotals())
    found = evidence.usage.total if evidence.usage is not None else UsageTotals()
    wrong = [] if found == total else [f"expected {total}, found {found}"]
    for name, report in evidence.usage_of.items():
        if report.own + report.unattributed != expected.get(name):
            wrong.append(f"session {name}: expected {expected.get(name)}, found {report}")
    for key, (position, event) in evidence.ledger.usage.items():
        # A later report counts too when its sender was stopped before it was told.
        last = fold.usage.get(key, (0, event))
        if last[0] < position or (last[0] == position and last[1] != event):
            wrong.append(f"step {key[2]}: reported {event} at {position}, found {last}")
    unattributed = evidence.usage.unattributed.steps if evidence.usage is not None else 0
    seen = f"{found.steps:,} steps, {unattributed:,} of them unattributed"
    return _promise("usage counts once per step", total.steps, seen, wrong)


def _totals(event: object) -> UsageTotals:
    names = [field.name for field in attrs.fields(UsageTotals) if field.name != "steps"]
    return UsageTotals(steps=1, **{name: getattr(event, name) for name in names})


def followers_saw_all(evidence: Evidence) -> Promise:
    """Each follower was given each event of what it follows once, in order; across overflow, reconnects and the kill."""
    wrong = []
    for follower in evidence.followers:
        wanted = [
            position for position, event in evidence.fold.events.items() if follower.session_id in (None, event.session_id)
        ]
        if follower.positions != wanted:
            missing = len(set(wanted) - set(follower.positions))
            wrong.append(f"{follower.name}: {len(follower.positions)} of {len(wanted)} events, {missing} missing")
        if follower.resets:
            wrong.append(f"{follower.name}: {follower.resets} resets")
    events = sum(len(follower.positions) for follower in evidence.followers)
    lagged = sum(follower.lagged for follower in evidence.followers)
    seen = f"{len(evidence.followers)} followers, {events:,} events, {lagged} overflows, "
    seen += f"{sum(follower.reconnected for follower in evidence.followers)} reconnects"
    return _promise("followers saw every event once, in order", events, seen, wrong)


def skips_are_logged(evidence: Evidence) -> Promise:
    """Every event that this process skipped was logged as a warning."""
    after, upto = evidence.killed_positions
    skipped = sum(not after < position <= upto for position in evidence.fold.skipped)
    wrong = [] if skipped == evidence.skips_logged else [f"{skipped} skipped, {evidence.skips_logged} logged"]
    return _promise(
        "every skip is logged", skipped, f"{skipped:,} skipped here, {evidence.skips_logged:,} warnings", wrong, staged=True
    )


def sweep_settled_the_rest(evidence: Evidence) -> Promise:
    """The sweep settled exactly what the killed process left open; a second one found nothing."""
    swept, again = evidence.swept, evidence.swept_again
    wrong = []
    if swept.messages + swept.tools != evidence.unfinished:
        wrong.append(f"{evidence.unfinished} left open, {swept.messages} messages and {swept.tools} tool calls swept")
    if evidence.unfinished_after:
        wrong.append(f"{evidence.unfinished_after} open after the sweep")
    if again.messages or again.tools:
        wrong.append(f"the second sweep found {again.messages} messages and {again.tools} tool calls")
    seen = f"{swept.messages} messages, {swept.tools} tool calls"
    return _promise("the sweep settled what the killed process left", evidence.unfinished, seen, wrong, staged=True)


def nothing_else_went_wrong(evidence: Evidence) -> Promise:
    """No agent was refused for a reason that no race explains, and nothing is open at the end."""
    refused = evidence.ledger.refused
    wrong = [f"{count} times {name}" for name, count in refused.items() if name not in EXPECTED_REFUSALS]
    if evidence.rows is None or evidence.rows.unfinished:
        wrong.append("messages or tool calls are open at the end")
    seen = f"{evidence.ledger.turns:,} turns, {evidence.ledger.stopped} of them stopped, {sum(refused.values())} refusals"
    return _promise("agents saw no other error, nothing stays open", evidence.ledger.turns, seen, wrong)


def read_model_is_the_fold(evidence: Evidence) -> Promise:
    """A rebuild gives the tables that were there, row for row."""
    rows = sum(table.rows for table in evidence.tables.values())
    wrong = [
        f"table {name}: {before}, after the rebuild {evidence.rebuilt.get(name)}"
        for name, before in evidence.tables.items()
        if evidence.rebuilt.get(name) != before
    ]
    if evidence.rebuild_problem is not None:
        wrong.insert(0, evidence.rebuild_problem)
    return _promise("the read model is what a rebuild makes", rows, f"{rows:,} rows of {len(evidence.tables)} tables", wrong)


def file_is_sound(evidence: Evidence) -> Promise:
    """SQLite finds nothing wrong, and no row without its parent."""
    return _promise("the file is sound", len(evidence.rebuilt), "integrity and foreign keys", evidence.integrity)
