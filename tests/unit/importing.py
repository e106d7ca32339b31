"""Made-up transcripts and short ways to look at what became of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.events import (
    BUILT_IN,
    MessageFinished,
    MessageUpdated,
    PartUpdated,
    Registry,
    SessionNoted,
    SessionStarted,
    SessionUpdated,
    ToolUpdated,
    UsageRecorded,
    prepare,
)
from engine.importers import Transcript, read_transcript
from engine.limits import Limits

Json = dict[str, Any]
SESSION = "ses-1"
_REGISTRY, _LIMITS = Registry(BUILT_IN), Limits()


def lines(*records: Any) -> bytes:
    """Records as a file of lines; text and bytes as they are."""
    parts = [r if isinstance(r, bytes) else r.encode() if isinstance(r, str) else json.dumps(r).encode() for r in records]
    return b"".join(part + b"\n" for part in parts)


def read(folder: Path, content: bytes) -> Transcript:
    """The transcript of a file with this content, every envelope checked as the engine would."""
    path = folder / "transcript"
    path.write_bytes(content)
    transcript = read_transcript(path)
    check(transcript)
    return transcript


def check(transcript: Transcript) -> None:
    """Assert what holds of every transcript, however broken the file was."""
    names = [session.session_id for session in transcript.sessions]
    assert len(names) == len(set(names))
    for session in transcript.sessions:
        ids: set[str] = set()
        finished: set[str] = set()
        announced: set[str] = set()
        settled: dict[str, str] = {}
        assert isinstance(session.envelopes[0].event, SessionStarted)
        for envelope in session.envelopes:
            prepare(_REGISTRY, envelope, _LIMITS)
            assert envelope.event_id is not None
            assert envelope.event_id not in ids
            ids.add(envelope.event_id)
            event = envelope.event
            if isinstance(event, MessageUpdated):
                assert event.message_id not in announced
                announced.add(event.message_id)
            elif isinstance(event, MessageFinished):
                assert event.message_id in announced - finished
                finished.add(event.message_id)
            elif isinstance(event, PartUpdated):
                assert event.message_id in announced - finished
            elif isinstance(event, ToolUpdated):
                assert event.message_id in announced
                assert settled.get(event.call_id, event.state) == event.state
                if event.state not in ("running", "pending"):
                    settled[event.call_id] = event.state


def events(transcript: Transcript, kind: type[Any], session_id: str | None = None) -> list[Any]:
    """The events of a type, of one session or of all."""
    sessions = [s for s in transcript.sessions if session_id in (None, s.session_id)]
    return [e.event for s in sessions for e in s.envelopes if isinstance(e.event, kind)]


def texts(transcript: Transcript, session_id: str | None = None) -> list[str]:
    """The text of every part that has some."""
    return [p.data["text"] for p in events(transcript, PartUpdated, session_id) if "text" in p.data]


def notes(transcript: Transcript, session_id: str | None = None) -> list[str]:
    """The kinds of what was kept raw."""
    return [note.kind for note in events(transcript, SessionNoted, session_id)]


def problems(transcript: Transcript) -> list[tuple[int | None, str]]:
    """The issues, as line and words."""
    return [(issue.line, issue.problem) for issue in transcript.issues]


def tools(transcript: Transcript) -> list[tuple[str, str]]:
    """Every tool event as call id and state."""
    return [(event.call_id, event.state) for event in events(transcript, ToolUpdated)]


def finishes(transcript: Transcript) -> list[tuple[str, str, str | None]]:
    """Every finished message, how, and why."""
    return [(e.message_id, e.status, e.finish_reason) for e in events(transcript, MessageFinished)]


def ledger(transcript: Transcript) -> dict[str, UsageRecorded]:
    """Usage by step, the last report of each."""
    return {event.step_id: event for event in events(transcript, UsageRecorded)}


def titles(transcript: Transcript) -> list[str | None]:
    """The titles that a session was given."""
    return [event.title for event in events(transcript, SessionUpdated)]


# --- Claude Code ---


def claude(kind: str, uuid: str, content: Any, **more: Any) -> Json:
    """A user or assistant record."""
    base = {"type": kind, "uuid": uuid, "sessionId": SESSION, "timestamp": "2026-01-02T03:04:05.678Z", "cwd": "/w"}
    return {**base, "message": {"role": kind, "content": content}, **more}


def prompt(uuid: str, text: str, **more: Any) -> Json:
    """A user's prompt."""
    return claude("user", uuid, text, **more)


def answer(
    uuid: str, message_id: str, *blocks: Any, usage: Json | None = None, stop: str | None = None, **more: Any
) -> Json:
    """One record of an assistant's message; text stands for a text block."""
    content = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
    record = claude("assistant", uuid, content, **more)
    record["message"].update(id=message_id, model="model-1", stop_reason=stop)
    if usage is not None:
        record["message"]["usage"] = usage
    return record


def use(call_id: str, name: str = "Bash", **value: Any) -> Json:
    """A tool_use block."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": value}


def result(uuid: str, call_id: str, output: Any = "done", *, failed: bool = False, **more: Any) -> Json:
    """A user record with one tool_result block."""
    block = {"type": "tool_result", "tool_use_id": call_id, "content": output, "is_error": failed}
    return claude("user", uuid, [block], **more)


# --- Codex ---


def rollout(kind: str, payload: Json) -> Json:
    """A Codex record."""
    return {"timestamp": "2026-01-02T03:04:05.678Z", "type": kind, "payload": payload}


META = rollout("session_meta", {"id": SESSION, "cwd": "/w", "cli_version": "1.0", "git": {"branch": "main"}})


def item(kind: str, **fields: Any) -> Json:
    """A response item."""
    return rollout("response_item", {"type": kind, **fields})


def happened(kind: str, **fields: Any) -> Json:
    """An event_msg."""
    return rollout("event_msg", {"type": kind, **fields})


def said(role: str, text: str, **fields: Any) -> Json:
    """A message item."""
    kind = "output_text" if role == "assistant" else "input_text"
    return item("message", role=role, content=[{"type": kind, "text": text}], **fields)


def total(given: int, cached: int, output: int, reasoning: int = 0) -> Json:
    """A cumulative count of tokens."""
    names = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_output_tokens")
    return happened(
        "token_count", info={"total_token_usage": dict(zip(names, (given, cached, output, reasoning), strict=True))}
    )


# --- opencode ---


def document(*messages: Json, **info: Any) -> bytes:
    """A session document, over several lines."""
    head = {"id": SESSION, "title": "A title", "directory": "/w", "time": {"created": 1000, "updated": 2000}, **info}
    return json.dumps({"info": head, "messages": list(messages)}, indent=1).encode()


def turn(message_id: str, role: str, parts: Iterable[Json], **info: Any) -> Json:
    """A message of a document."""
    return {"info": {"id": message_id, "role": role, "time": {"created": 1000}, **info}, "parts": list(parts)}
