"""What a post is on its way: events without an answer of their own, joined while they wait.

Owns: the frame of a post, which posts can be one. Must not know: when it goes out.
Invariant: once its frame was made it stays as it is, so that what is sent again is the same.
"""

from __future__ import annotations

import attrs
import msgspec

from engine.commands import Sink
from engine.events import PartDelta, PreparedEvent, encode_checked
from engine.server import frames


@attrs.define(eq=False)
class Posted:
    """Events without an answer of their own."""

    id: str
    session_id: str
    incarnation: int
    events: tuple[PreparedEvent, ...]
    sink: Sink
    number: int
    count: int
    """Its events, as they were handed over."""
    size: int
    text: str = ""
    """Its frame, once it went out: from then on it stays as it is."""
    delta: PartDelta | None = None
    """The text that more can be joined to while it waits; its pieces come together when it goes out."""
    pieces: list[str] = attrs.field(factory=list)
    chars: int = 0
    gone: bool = False
    faults: int = 0

    def joins(self, other: Posted, chars_max: int) -> bool:
        """Whether `other` continues this one exactly, so that one event can stand for both."""
        mine, its = self.delta, other.delta
        return (
            mine is not None
            and its is not None
            and mine.part_id == its.part_id
            and mine.message_id == its.message_id
            and mine.field == its.field
            and mine.offset + self.chars == its.offset
            and self.chars + other.chars <= chars_max
            and self.sink is other.sink
            and self.incarnation == other.incarnation
        )

    def seal(self) -> str:
        """Its frame."""
        if not self.text:
            events = [wire_event(event) for event in self.events]
            if self.delta is not None and len(self.pieces) > 1:
                joined = attrs.evolve(self.delta, text="".join(self.pieces))
                events = [frames.WireEvent(type=events[0].type, event=msgspec.Raw(encode_checked(joined)))]
            self.text = frames.encode(
                frames.Post(id=self.id, session_id=self.session_id, incarnation=self.incarnation, events=events)
            )
            self.pieces, self.events = [], ()
        return self.text


def wire_event(event: PreparedEvent) -> frames.WireEvent:
    """An event as a command carries it."""
    return frames.WireEvent(
        type=event.definition.name,
        event=msgspec.Raw(event.data),
        event_id=event.event_id,
        occurred_at=event.occurred_at,
        causation_id=event.causation_id,
    )


def post(post_id: str, session_id: str, incarnation: int, events: tuple[PreparedEvent, ...], sink: Sink) -> Posted:
    """What one call of `post` hands over."""
    size = sum(len(event.data) for event in events)
    posted = Posted(post_id, session_id, incarnation, events, sink, number=0, count=len(events), size=size)
    first = events[0]
    bare = first.event_id is None and first.occurred_at is None and first.causation_id is None
    if len(events) == 1 and bare and type(first.event) is PartDelta:
        posted.delta = first.event
        posted.pieces.append(first.event.text)
        posted.chars = len(first.event.text)
    return posted
