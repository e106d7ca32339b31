"""A conversation as it streams: items of the log in, pieces of text out.

Owns: what has been shown of every message, part and tool call, and how what comes next continues it. Must not know: where
items come from, what a terminal is.
Invariants: every character of a text is shown once, however often it comes; what is missing is said where it is missing; a
skipped event changes nothing that is shown; what came from outside leaves here without control characters; memory is bounded
(`MESSAGES_MAX`), and what was forgotten is continued in its middle.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from engine.cli import output
from engine.cli.tail.sheet import STATE_STYLES, Name, Piece, Sheet, word
from engine.cli.tail.shown import Message, Part, Text
from engine.events import (
    ContextCompacted,
    MessageEdited,
    MessageFinished,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartEdited,
    PartRemoved,
    PartUpdated,
    RecordedEvent,
    SessionForked,
    SessionNoted,
    SessionRemoved,
    SessionRewound,
    SessionStarted,
    SessionUpdated,
    Skipped,
    ToolUpdated,
    UnknownEvent,
    UsageRecorded,
)
from engine.projections import MessageView, PartView, ToolView

MESSAGES_MAX: Final = 1_000
"""Messages remembered at a time, the one not heard of for longest forgotten first."""
VALUE_CHARS_MAX: Final = 300
"""What is shown of a tool's input or output, of other parts and of notes, in characters."""
STREAMED: Final = ("text", "input", "output")


class Transcript:
    """The rendering of one or several sessions. Feed it `recall` for what was there and `take` for every event after it.

    `many`: say which session it is. `verbose`: show skipped events too, and everything else that is left out.
    """

    def __init__(self, *, many: bool = False, verbose: bool = False) -> None:
        self._verbose = verbose
        self._messages: OrderedDict[Name, Message] = OrderedDict()
        self._recalled: dict[str, int] = {}
        self._sheet = Sheet(many=many)

    # --- in -----------------------------------------------------------------------------------------

    def recall(self, session_id: str, incarnation: int, messages: Iterable[MessageView], position: int) -> list[Piece]:
        """Show messages as the read model had them at a position; events up to it are not shown again."""
        self._recalled[session_id] = position
        for view in messages:
            name = (session_id, incarnation, view.message_id)
            message = self._message(name)
            message.role, message.status = view.role, view.status
            self._header(name, message, view.created_at)
            for part in view.parts:
                self._recall_part(name, message, part)
            if view.status not in (None, "streaming") and (view.role == "assistant" or view.finish_reason):
                self._finished(name, view.status or "", view.finish_reason, view.settled_by == "sweep")
        return self._sheet.take()

    def take(self, item: RecordedEvent) -> list[Piece]:
        """Show one event."""
        if item.position <= self._recalled.get(item.session_id, 0):
            return []
        event = item.event
        if isinstance(item.outcome, Skipped):
            if self._verbose:
                self._aside(item, f"skipped ({item.outcome.reason}): {item.type} {_short(_plain(event))}")
        elif isinstance(event, UnknownEvent):
            self._aside(item, f"{item.type} {_short(event.data)}")
        else:
            handler = _HANDLERS.get(type(event))
            if handler is None:
                self._aside(item, f"{item.type} {_short(_plain(event))}")
            else:
                handler(self, item, event)
        return self._sheet.take()

    def end_line(self) -> list[Piece]:
        """Leave the line that text is streaming into, so that something else can be written."""
        self._sheet.end_line()
        return self._sheet.take()

    def forget(self) -> None:
        """What was shown is no longer the log's content: everything begins anew."""
        self._messages.clear()
        self._recalled.clear()
        self._sheet.leave()

    # --- messages and parts -------------------------------------------------------------------------

    def _message_updated(self, item: RecordedEvent, event: MessageUpdated) -> None:
        name = _name(item, event.message_id)
        known = name in self._messages and self._messages[name].role
        message = self._message(name)
        message.role = event.role
        if not known:
            self._header(name, message, item.occurred_at)
        elif self._verbose:
            self._aside(item, f"message {event.message_id}: metadata {_short(event.metadata)}")

    def _message_finished(self, item: RecordedEvent, event: MessageFinished) -> None:
        name = _name(item, event.message_id)
        message = self._message(name)
        message.status = event.status
        self._finished(name, event.status, event.finish_reason, event.by == "sweep")

    def _message_edited(self, item: RecordedEvent, event: MessageEdited) -> None:
        if self._verbose:
            self._aside(item, f"message {event.message_id} edited: metadata {_short(event.metadata)}")

    def _message_removed(self, item: RecordedEvent, event: MessageRemoved) -> None:
        self._aside(item, f"message {event.message_id} removed")
        self._messages.pop(_name(item, event.message_id), None)

    def _part_updated(self, item: RecordedEvent, event: PartUpdated) -> None:
        name = _name(item, event.message_id)
        message = self._message(name)
        part = message.parts.setdefault(event.part_id, Part())
        part.kind = event.kind
        self._whole(name, event.part_id, part, event.data)

    def _part_edited(self, item: RecordedEvent, event: PartEdited) -> None:
        name = _name(item, event.message_id)
        part = self._message(name).parts.setdefault(event.part_id, Part())
        self._whole(name, event.part_id, part, event.data)

    def _part_removed(self, item: RecordedEvent, event: PartRemoved) -> None:
        self._aside(item, f"part {event.part_id} removed")
        self._message(_name(item, event.message_id)).parts.pop(event.part_id, None)

    def _part_delta(self, item: RecordedEvent, event: PartDelta) -> None:
        name = _name(item, event.message_id)
        message = self._message(name)
        part = message.parts.get(event.part_id)
        if part is None:
            part = message.parts[event.part_id] = Part()
            # It began before this reader did: what came earlier is not missing, it was never asked for.
            if event.offset:
                part.texts[event.field] = Text(event.offset, None)
        text = part.texts.setdefault(event.field, Text())
        missing, known = event.offset - text.length, text.length - event.offset
        if missing > 0:
            self._stream(name, event.part_id, part, event.field)
            self._sheet.put(f"[… {missing:,} characters are missing]", "dim red")
            text.length, text.crc = event.offset, None
        new = event.text[known:] if known > 0 else event.text
        if new:
            self._sheet.put(new, self._stream(name, event.part_id, part, event.field))
            text.add(new)

    def _whole(self, name: Name, part_id: str, part: Part, data: Any) -> None:
        """The data of a part, replaced as a whole: show what is new of it."""
        for field in STREAMED:
            value = data.get(field)
            if not isinstance(value, str):
                continue
            text = part.texts.setdefault(field, Text())
            if not text.begins(value):
                self._at(name)
                self._sheet.line(f"  [{part.kind} replaced]", "dim")
                part.texts[field] = text = Text()
            new = value[text.length :]
            if new:
                self._sheet.put(new, self._stream(name, part_id, part, field))
                text.add(new)
        rest = {key: value for key, value in data.items() if not (key in STREAMED and isinstance(value, str))}
        shown = _short(rest) if rest else ""
        if part.shown.get("data", "") != shown and (self._verbose or part.kind not in ("text", "reasoning")):
            self._at(name)
            self._sheet.line(f"  [{output.one_line(part.kind, 40)}] {shown}", "dim")
        part.shown["data"] = shown

    def _recall_part(self, name: Name, message: Message, view: PartView) -> None:
        part = message.parts.setdefault(view.part_id, Part(view.kind))
        if view.tool is None:
            self._whole(name, view.part_id, part, view.data)
            return
        self._tool(name, part, view.tool, view.tool.settled_by == "sweep")
        for field in STREAMED:
            value = view.data.get(field)
            if isinstance(value, str):
                part.texts.setdefault(field, Text()).add(value)

    def _tool_updated(self, item: RecordedEvent, event: ToolUpdated) -> None:
        name = _name(item, event.message_id)
        part = self._message(name).parts.setdefault(event.part_id, Part("tool"))
        self._tool(name, part, event, event.by == "sweep")

    def _tool(self, name: Name, part: Part, tool: ToolUpdated | ToolView, by_sweep: bool) -> None:
        """A tool call: its state where that is new, and its values where they are."""
        part.kind = "tool"
        if part.state != tool.state:
            self._at(name)
            self._sheet.end_line()
            self._sheet.put("  ▸ ", "bold")
            self._sheet.put(output.one_line(tool.name, 60), "bold")
            self._sheet.put(f"  {word(tool.state)}", STATE_STYLES.get(tool.state, "dim"))
            if by_sweep:
                self._sheet.put(" (settled by the sweep)", "dim")
            if tool.started_at is not None and tool.ended_at is not None and tool.ended_at >= tool.started_at:
                self._sheet.put(f"  {output.duration(tool.ended_at - tool.started_at)}", "dim")
            self._sheet.put(f"  {word(tool.call_id)}", "dim")
            if tool.child_session_id:
                self._sheet.put(f"  → {word(tool.child_session_id)}", "dim")
            self._sheet.end_line()
            part.state = tool.state
        for field, lead, style in (("input", "    ← ", ""), ("error", "    ✗ ", "red"), ("output", "    → ", "dim")):
            value = getattr(tool, field)
            streamed = part.texts.get(field)
            if value is None or (streamed is not None and streamed.is_all_of(field, value)):
                continue
            shown = _short(value)
            if part.shown.get(field) != shown:
                part.shown[field] = shown
                self._at(name)
                self._sheet.line(f"{lead}{shown}", style)

    # --- everything else ----------------------------------------------------------------------------

    def _session_started(self, item: RecordedEvent, event: SessionStarted) -> None:
        words = "session started" if item.incarnation == 1 else f"session started again (incarnation {item.incarnation})"
        title = f": {output.one_line(event.title, 120)}" if event.title else ""
        child = f", child of {word(event.parent_id)}" if event.parent_id else ""
        self._aside(item, f"{words}{child}{title}")

    def _session_updated(self, item: RecordedEvent, event: SessionUpdated) -> None:
        if event.title:
            self._aside(item, f"title: {output.one_line(event.title, 120)}")
        elif self._verbose:
            self._aside(item, f"metadata {_short(event.metadata)}")

    def _session_removed(self, item: RecordedEvent, event: SessionRemoved) -> None:
        self._aside(item, "session removed")
        self._forget(item)

    def _session_rewound(self, item: RecordedEvent, event: SessionRewound) -> None:
        self._aside(item, f"session rewound to seq {event.to_seq}: what came after it is no longer part of the conversation")
        self._forget(item)

    def _session_forked(self, item: RecordedEvent, event: SessionForked) -> None:
        self._aside(item, f"continues {word(event.parent_session_id)} from seq {event.to_seq}")

    def _compacted(self, item: RecordedEvent, event: ContextCompacted) -> None:
        through = f" up to seq {event.through_seq}" if event.through_seq is not None else ""
        self._aside(item, f"context compacted{through}")

    def _noted(self, item: RecordedEvent, event: SessionNoted) -> None:
        self._aside(item, f"{output.one_line(event.kind, 60)} {_short(event.data) if event.data else ''}".rstrip())

    def _used(self, item: RecordedEvent, event: UsageRecorded) -> None:
        counts = [
            (event.input_tokens, "in"),
            (event.output_tokens, "out"),
            (event.reasoning_tokens, "reasoning"),
            (event.cache_read_tokens, "cache read"),
            (event.cache_write_tokens, "cache write"),
        ]
        words = [f"{count:,} {name}" for count, name in counts if count]
        if event.cost_nanousd:
            words.append(output.money(event.cost_nanousd))
        model = f" {output.one_line(event.model, 60)}" if event.model else ""
        self._aside(item, f"usage{model}: {', '.join(words) or 'nothing'}  {word(event.step_id)}", event.message_id)

    def _forget(self, item: RecordedEvent) -> None:
        """Whatever is written to this life later is shown as it comes, from its middle."""
        for name in [name for name in self._messages if name[:2] == (item.session_id, item.incarnation)]:
            del self._messages[name]
        self._sheet.leave()

    # --- out ----------------------------------------------------------------------------------------

    def _message(self, name: Name) -> Message:
        message = self._messages.get(name)
        if message is None:
            message = self._messages[name] = Message()
            while len(self._messages) > MESSAGES_MAX:
                self._messages.popitem(last=False)
        self._messages.move_to_end(name)
        return message

    def _header(self, name: Name, message: Message, at: int) -> None:
        self._sheet.header(name, message.role, output.moment(at))

    def _at(self, name: Name) -> None:
        self._sheet.at(name, self._message(name).role)

    def _stream(self, name: Name, part_id: str, part: Part, field: str) -> str:
        self._at(name)
        begun = field in part.texts and part.texts[field].length > 0
        return self._sheet.stream(name, part_id, field, part.kind, begun=begun)

    def _finished(self, name: Name, status: str, reason: str | None, by_sweep: bool) -> None:
        self._at(name)
        self._sheet.end_line()
        self._sheet.put(f"  ■ {word(status)}", STATE_STYLES.get(status, "dim"))
        words = f" ({output.one_line(reason, 80)})" if reason else ""
        self._sheet.put(f"{words}{' (settled by the sweep)' if by_sweep else ''}\n", "dim")

    def _aside(self, item: RecordedEvent, words: str, message_id: str | None = None) -> None:
        """A line about something that is no text of a message."""
        self._sheet.session(item.session_id)
        name = None if message_id is None else _name(item, message_id)
        if name is not None and name in self._messages:
            self._at(name)
        self._sheet.line(f"  · {words}", "dim")


def _name(item: RecordedEvent, message_id: str) -> Name:
    return item.session_id, item.incarnation, message_id


def _plain(event: Any) -> Any:
    return event.data if isinstance(event, UnknownEvent) else msgspec.to_builtins(event)


def _short(value: Any) -> str:
    """The beginning of a value on one line: text as it is, one short field by its value, else JSON."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return output.one_line(text, VALUE_CHARS_MAX)


_HANDLERS: Final[dict[type[Any], Callable[[Transcript, RecordedEvent, Any], None]]] = {
    SessionStarted: Transcript._session_started,
    SessionUpdated: Transcript._session_updated,
    SessionRemoved: Transcript._session_removed,
    SessionRewound: Transcript._session_rewound,
    SessionForked: Transcript._session_forked,
    SessionNoted: Transcript._noted,
    ContextCompacted: Transcript._compacted,
    MessageUpdated: Transcript._message_updated,
    MessageFinished: Transcript._message_finished,
    MessageEdited: Transcript._message_edited,
    MessageRemoved: Transcript._message_removed,
    PartUpdated: Transcript._part_updated,
    PartEdited: Transcript._part_edited,
    PartRemoved: Transcript._part_removed,
    PartDelta: Transcript._part_delta,
    ToolUpdated: Transcript._tool_updated,
    UsageRecorded: Transcript._used,
}
