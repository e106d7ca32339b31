"""A transcript as a client renders it: a snapshot, or nothing, and then the events that were applied.

Owns: the fold of messages and parts from events. Must not know: how they came.
Invariants: text that comes twice changes nothing; text behind a gap is noticed.
"""

from __future__ import annotations

from typing import Any

import attrs

from engine.client import ReadSnapshot
from engine.events import Applied, MessageFinished, MessageRemoved, MessageUpdated, PartDelta, PartUpdated, RecordedEvent
from engine.projections.views import MessageView
from engine.simulation.oracles import must


@attrs.define
class Message:
    """A message as it is shown."""

    role: str
    status: str | None
    parts: dict[str, str] = attrs.field(factory=dict)
    """The text of each part, in order."""


@attrs.define
class Transcript:
    """The messages of one session, in order."""

    messages: dict[str, Message] = attrs.field(factory=dict)

    @classmethod
    def of(cls, snapshot: ReadSnapshot) -> Transcript:
        """What a snapshot of one session says."""
        (session,) = snapshot.sessions
        names = [view.message_id for view in session.messages]
        must(len(names) == len(set(names)), "a snapshot has each message once", names)
        return cls.of_views(session.messages)

    @classmethod
    def of_views(cls, views: Any) -> Transcript:
        """What the read model says."""
        return cls({view.message_id: _shown(view) for view in views})

    def apply(self, recorded: RecordedEvent) -> None:
        """Show what an event changed."""
        if not isinstance(recorded.outcome, Applied):
            return
        match recorded.event:
            case MessageUpdated(message_id=name, role=role):
                known = self.messages.setdefault(name, Message(role, "streaming" if role == "assistant" else "completed"))
                known.role = role
            case PartUpdated(part_id=part, message_id=name, data=data):
                self.messages[name].parts[part] = str(data.get("text", self.messages[name].parts.get(part, "")))
            case PartDelta(part_id=part, message_id=name, offset=offset, text=text):
                shown = self.messages[name].parts.get(part, "")
                must(offset <= len(shown), "no streamed text is missing", f"{part}: {offset} behind {shown!r}")
                self.messages[name].parts[part] = shown[:offset] + text + shown[offset + len(text) :]
            case MessageFinished(message_id=name, status=status):
                self.messages[name].status = status
            case MessageRemoved(message_id=name):
                self.messages.pop(name, None)
            case _:
                pass


def _shown(view: MessageView) -> Message:
    parts = {part.part_id: str(part.data.get("text", "")) for part in view.parts}
    return Message(view.role, view.status, parts)
