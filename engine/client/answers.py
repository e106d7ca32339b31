"""What the server answered, as the engine's own classes.

Owns: receipts, pages, recorded events and snapshots made of frames. Must not know: sockets, who asked.
Invariants: an event of a type or version that this process does not know is kept as `UnknownEvent`, as embedded; a caller
who asked once never sees that the client had to ask twice.
"""

from __future__ import annotations

from typing import Final, cast

import msgspec

from engine.client.following import Arrived, ViolationError
from engine.errors import CursorError
from engine.events import (
    APPLIED,
    Applied,
    Cursor,
    Duplicate,
    Receipt,
    ReceiptEvent,
    RecordedEvent,
    Registry,
    Skipped,
    SkipReason,
    decode,
)
from engine.projections.views import MessageView
from engine.server import frames
from engine.store import Page

_message: Final = msgspec.json.Decoder(MessageView)


def receipt_of(frame: frames.Receipt, brought: tuple[bool, ...]) -> Receipt:
    """The receipt. `brought` says of each event whether the caller gave it an id.

    An event id that the client made is known only to this one command, so `duplicate` means that an earlier copy of it,
    whose answer was lost, had arrived: the caller sees what became of that one. An id that the caller brought may have been
    used before, by whomever: he sees `Duplicate`, whose `original` says the same.
    """
    if len(frame.events) != len(brought):
        raise ViolationError(f"a receipt for {len(frame.events)} events, where {len(brought)} were sent")
    entries = tuple(_entry(entry, own=not own) for entry, own in zip(frame.events, brought, strict=True))
    return Receipt(frame.session_id, frame.incarnation, entries)


def _entry(entry: frames.WireReceiptEvent, *, own: bool) -> ReceiptEvent:
    if entry.outcome != "duplicate":
        return ReceiptEvent(entry.event_id, entry.seq, entry.position, _outcome(entry.outcome))
    original = ReceiptEvent(entry.event_id, entry.seq, entry.position, _outcome(entry.original or "applied"))
    return original if own else ReceiptEvent(entry.event_id, entry.seq, entry.position, Duplicate(original))


def _outcome(word: str) -> Applied | Skipped:
    # A reason that only a newer version knows still says that nothing was changed.
    return APPLIED if word == "applied" else Skipped(cast(SkipReason, word))


def recorded_of(registry: Registry, workspace: str, arrived: Arrived) -> RecordedEvent:
    """The event that an `events` frame brought."""
    wire, cursor = arrived.event, arrived.cursor
    text = str(wire.event, "utf-8")
    outcome = _outcome(wire.outcome)
    return RecordedEvent(
        position=cursor.position,
        cursor=cursor,
        workspace=workspace,
        session_id=wire.session_id,
        incarnation=wire.incarnation,
        seq=wire.seq,
        type=wire.type,
        version=wire.version,
        event=decode(registry, wire.type, wire.event_version, text),
        event_id=wire.event_id,
        occurred_at=wire.occurred_at,
        recorded_at=wire.recorded_at,
        causation_id=wire.causation_id,
        outcome=outcome,
        size_bytes=len(text),
    )


def page_of(frame: frames.MessagePage) -> Page[MessageView]:
    """A page of messages."""
    try:
        return Page(tuple(map(_message.decode, frame.messages)), Cursor.parse(frame.cursor), frame.more)
    except (ValueError, CursorError) as problem:
        raise ViolationError(f"a page of messages: {problem}") from None
