"""Frames to text and back.

Invariants: what is no frame is told in words, and never as another exception; an event has one text for everybody.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from engine.events import RecordedEvent, Skipped, UnknownEvent, definition_of
from engine.server.frames.from_client import ClientFrame, FromClient
from engine.server.frames.from_server import FromServer, ServerFrame, WireRecorded
from engine.server.frames.words import Id

WORDS_CHARS_MAX: Final = 300
"""What is wrong with a frame, in characters: it names what was sent, which may be as large as a frame."""

_encoder = msgspec.json.Encoder()
_from_client: msgspec.json.Decoder[FromClient] = msgspec.json.Decoder(FromClient, strict=True)
_from_server: msgspec.json.Decoder[FromServer] = msgspec.json.Decoder(FromServer, strict=True)


def encode(frame: ClientFrame | ServerFrame) -> str:
    """The text of a frame."""
    return _encoder.encode(frame).decode()


def encode_event(recorded: RecordedEvent) -> str:
    """An event as it stands in an `events` frame (see `WireRecorded`): the same text for everybody who gets it."""
    event = recorded.event
    content = event.data.encode() if isinstance(event, UnknownEvent) else _encoder.encode(event)
    definition = definition_of(type(event))
    return encode_part(
        WireRecorded(
            cursor=str(recorded.cursor),
            session_id=recorded.session_id,
            incarnation=recorded.incarnation,
            seq=recorded.seq,
            type=recorded.type,
            version=recorded.version,
            event_version=recorded.version if definition is None else definition.version,
            event_id=recorded.event_id,
            occurred_at=recorded.occurred_at,
            recorded_at=recorded.recorded_at,
            causation_id=recorded.causation_id,
            outcome=recorded.outcome.reason if isinstance(recorded.outcome, Skipped) else "applied",
            event=msgspec.Raw(content),
        )
    )


def encode_part(part: Any) -> str:
    """A part of a frame: a view of the read model, an event."""
    return _encoder.encode(part).decode()


def decode_client(text: str) -> FromClient:
    """A client's frame. Raises `ValueError` that says in words what is wrong with it."""
    try:
        return _from_client.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as problem:
        raise ValueError(_words(problem)) from None


def decode_server(text: str) -> FromServer:
    """A server's frame. Raises `ValueError` that says in words what is wrong with it."""
    try:
        return _from_server.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as problem:
        raise ValueError(_words(problem)) from None


def _words(problem: Exception) -> str:
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    if isinstance(problem, UnicodeEncodeError):
        return "it holds a lone surrogate"
    text = "".join([char if char.isprintable() else "\ufffd" for char in str(problem)[: WORDS_CHARS_MAX + 1]])
    return text if len(text) <= WORDS_CHARS_MAX else f"{text[: WORDS_CHARS_MAX - 1]}…"


class _Named(Struct):
    id: Id | None = None


_named = msgspec.json.Decoder(_Named)


def id_of(text: str) -> str | None:
    """The id of a frame that could not be decoded, where it has one: so that its sender learns which was refused."""
    try:
        return _named.decode(text).id
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return None
