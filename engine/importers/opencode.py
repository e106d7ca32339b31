"""opencode: a session is one JSON document, `{info, messages: [{info, parts}]}`.

Owns: what its objects mean. Must not know: bytes, event ids.
Rule: a document is written anew while the session grows, so every event id here also carries the content it came from:
what changed since an earlier import arrives as a further event, what did not is known.

| object | becomes |
|---|---|
| info | `SessionStarted` (parentID is its parent), `SessionUpdated` with the title |
| message | `MessageUpdated`, its parts, then `MessageFinished` once it is completed or failed |
| part: text, reasoning | `PartUpdated`; other content (file, agent, subtask) keeps its type and is raw |
| part: tool | `ToolUpdated` as it starts and as it ends; a task's `sessionId` is its child; metadata is noted |
| part: step-finish | `UsageRecorded`; a message without one reports its own tokens, never both |
| message with `summary: true` | also `ContextCompacted` |
| part: step-start, snapshot, patch, retry, unknown info | `SessionNoted` |

Output tokens here leave reasoning out, unless the `total` says otherwise; the engine's include it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from engine.events import ContextCompacted, FinalStatus, ToolState, UsageRecorded
from engine.importers.builder import SessionBuilder
from engine.importers.lines import Record, Report, content_digest
from engine.importers.values import clean_id, count, moment, nanousd, small, text_of

FORMAT: Final = "opencode"
CONTENT: Final = frozenset({"file", "agent", "subtask"})
STATES: Final[dict[str, ToolState]] = {"pending": "pending", "running": "running", "completed": "completed"}

Json = dict[str, Any]


def recognises(value: Json) -> bool:
    """Whether a value can only be a document of this format."""
    return isinstance(value.get("info"), dict) and isinstance(value.get("messages"), list)


def records_of(value: Any) -> Iterator[Any]:
    """The documents of a file: one, or a list of them."""
    yield from value if isinstance(value, list) else [value]


class Reader:
    """Takes documents and builds a session from each."""

    waiting = 0

    def __init__(self, report: Report) -> None:
        self.builders: dict[str, SessionBuilder] = {}
        self.objects = 0
        self._report = report

    def add(self, record: Record) -> None:
        """Take a document. What is none is reported and left alone: no session owns it."""
        value = record.value
        if not isinstance(value, dict) or not recognises(value):
            self._report(record.line, "not a session document; left alone")
            return
        info = value["info"]
        builder = self._session(info, record)
        if builder is None:
            self._report(record.line, "a session document without an id; left alone")
            return
        self.objects += 1
        for message in value["messages"]:
            self.objects += 1
            if isinstance(message, dict) and isinstance(message.get("info"), dict):
                self._message(builder, message, record)
            else:
                builder.at(_digest(message), None, record)
                builder.note("message", message)

    def _session(self, info: Json, record: Record) -> SessionBuilder | None:
        session_id = text_of(info.get("id"))
        if session_id is None:
            return None
        time = _object(info.get("time"))
        builder = self.builders.get(clean_id(session_id))
        if builder is None:
            builder = self.builders[clean_id(session_id)] = SessionBuilder(clean_id(session_id), FORMAT, self._report)
            builder.at("start", moment(time.get("created")), record)
            builder.start(
                text_of(info.get("parentID")),
                small(cwd=info.get("directory"), project=info.get("projectID"), slug=info.get("slug")),
            )
        builder.at(f"info@{_digest(info)}", moment(time.get("updated")), record)
        if text_of(info.get("title")) is not None:
            builder.title(info["title"], again=True)
        builder.note("info", info)
        return builder

    def _message(self, builder: SessionBuilder, message: Json, record: Record) -> None:
        info, time = message["info"], _object(message["info"].get("time"))
        created, done = moment(time.get("created")), moment(time.get("completed"))
        key = text_of(info.get("id")) or _digest(info)
        role, model = text_of(info.get("role")) or "unknown", text_of(info.get("modelID"))
        metadata = small(
            parent_id=info.get("parentID"),
            agent=info.get("agent"),
            mode=info.get("mode"),
            provider=info.get("providerID"),
            model=model,
            cwd=_object(info.get("path")).get("cwd"),
        )
        builder.at(f"{key}@{_digest(metadata)}", created, record)
        assistant = role == "assistant"
        message_id = builder.assistant(key, metadata) if assistant else builder.announce(key, role, metadata)
        parts = message.get("parts") if isinstance(message.get("parts"), list) else []
        counted = False
        for part in parts or []:
            self.objects += 1
            if isinstance(part, dict):
                counted = self._part(builder, message_id, part, model, created, record) or counted
            else:
                builder.at(f"{key}@{_digest(part)}", created, record)
                builder.note("part", part)
        error = _object(info.get("error"))
        builder.at(f"{key}/end@{_digest(info)}", done or created, record)
        if assistant and not counted and (done is not None or error):
            self._usage(builder, key, message_id, model, info)
        if info.get("summary") is True:
            builder.emit(ContextCompacted(message_id))
        if assistant and (error or done is not None):
            builder.close(_status(error), text_of(info.get("finish")) or text_of(error.get("name")))
        elif not assistant or error:
            builder.note("message.info", info)
        if error:
            builder.note("message.error", error)

    def _part(
        self, builder: SessionBuilder, message_id: str, part: Json, model: str | None, above: int | None, record: Record
    ) -> bool:
        """One part. True where it reported usage."""
        kind, digest = text_of(part.get("type")) or "part", _digest(part)
        part_id, state = text_of(part.get("id")) or digest, _object(part.get("state"))
        time = _object(state.get("time") or part.get("time"))
        start = moment(time.get("start"))
        builder.at(f"{part_id}@{digest}", above if start is None else start, record)
        if kind in ("text", "reasoning") and isinstance(part.get("text"), str):
            data = {name: value for name, value in part.items() if name not in ("type", "id", "sessionID", "messageID")}
            builder.part(part_id, message_id, kind, data)
        elif kind == "tool":
            self._tool(builder, message_id, part, part_id, state)
        elif kind in CONTENT:
            builder.part(part_id, message_id, kind, part)
        elif kind == "step-finish":
            builder.note(kind, part)
            self._usage(builder, part_id, message_id, model, part)
            return True
        else:
            builder.note(kind, part)
        return False

    def _tool(self, builder: SessionBuilder, message_id: str, part: Json, part_id: str, state: Json) -> None:
        time, details = _object(state.get("time")), _object(state.get("metadata"))
        call_id, name = text_of(part.get("callID")) or part_id, text_of(part.get("tool")) or "unknown"
        status = str(state.get("status"))
        settled = status in ("completed", "error")
        begins = "running" if settled else STATES.get(status, "pending")
        builder.call(
            call_id,
            message_id,
            name,
            state.get("input"),
            part_id=part_id,
            state=begins,
            started_at=moment(time.get("start")),
        )
        child = text_of(details.get("sessionId")) or text_of(details.get("sessionID"))
        if settled:
            builder.settle(
                call_id,
                "completed" if status == "completed" else "error",
                state.get("output"),
                child=child and clean_id(child),
                ended_at=moment(time.get("end")),
                error=text_of(state.get("error")),
            )
        elif child is not None:
            builder.link(call_id, clean_id(child))
        rest = {name: value for name, value in state.items() if name not in ("input", "output", "error", "time", "status")}
        if any(rest.values()) or part.get("metadata"):
            builder.note("tool", {"callID": call_id, **rest, "part_metadata": part.get("metadata")})

    def _usage(self, builder: SessionBuilder, step: str, message_id: str, model: str | None, source: Json) -> None:
        say, tokens = builder.report, _object(source.get("tokens"))
        cache = _object(tokens.get("cache"))
        counts = [count(tokens.get(name), say) for name in ("input", "output", "reasoning")]
        read, write = count(cache.get("read"), say), count(cache.get("write"), say)
        cost = nanousd(source.get("cost"), say)
        if not tokens and not cost:
            return
        output, reasoning = counts[1], counts[2]
        if tokens.get("total") != counts[0] + output + read + write:
            output += reasoning
        builder.usage(
            UsageRecorded(
                clean_id(step),
                message_id,
                model,
                cost_nanousd=cost,
                input_tokens=counts[0],
                output_tokens=output,
                reasoning_tokens=reasoning,
                cache_read_tokens=read,
                cache_write_tokens=write,
            )
        )


def _status(error: Json) -> FinalStatus:
    if not error:
        return "completed"
    return "aborted" if "Abort" in str(error.get("name")) else "error"


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _digest(value: Any) -> str:
    return content_digest(msgspec.json.encode(value, order="sorted"))
