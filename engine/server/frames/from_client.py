"""What a client may send."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from engine.server.frames.words import Count, Id, JsonObject, Number


class ClientFrame(Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    """What every frame from a client is."""


class Auth(ClientFrame, tag="auth", frozen=True, kw_only=True):
    """The first frame where the token came neither in a header nor in a subprotocol. Answered by `hello`, or close 4401."""

    token: str


class Subscribe(ClientFrame, tag="subscribe", frozen=True, kw_only=True):
    """Follow one session, several, or the whole workspace. Answered by `subscribed`, or `error`; then events come."""

    id: Id
    """Names the subscription in every frame about it; free again once it has ended."""
    sessions: list[Id] | None = None
    """The sessions; null for all of the workspace, those to come included."""
    after: str = "now"
    """A cursor; `start` (the first event kept); `now`; `snapshot` (the read model at a position, then what follows)."""
    skipped: bool = True
    """Whether events that changed nothing are sent as well (`outcome` says why)."""
    messages: Count = 50
    """With `snapshot`: the newest messages of each session (of the workspace: the newest sessions, without messages)."""


class Unsubscribe(ClientFrame, tag="unsubscribe", frozen=True, kw_only=True):
    """End a subscription. Answered by `unsubscribed`, after which nothing of it comes."""

    id: Id


class Open(ClientFrame, tag="open", frozen=True, kw_only=True):
    """Ask for a live session. Answered by `opened`, or the error `unknown_session`."""

    id: Id
    session_id: Id


class Create(ClientFrame, tag="create", frozen=True, kw_only=True):
    """Open a new session. Answered by `receipt`."""

    id: Id
    session_id: Id
    title: str | None = None
    parent_id: Id | None = None
    metadata: JsonObject = {}


class WireEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One event to be appended."""

    type: str
    """Its registered type, such as `part.delta`."""
    event: msgspec.Raw
    """Its fields, as the type has them in the server's version."""
    event_id: Id | None = None
    occurred_at: Count | None = None
    causation_id: Id | None = None


class Append(ClientFrame, tag="append", frozen=True, kw_only=True):
    """Append events, all or none. Answered by `receipt` after COMMIT, or `error`."""

    id: Id
    session_id: Id
    incarnation: Number | None = None
    events: list[WireEvent]
    expected_seq: Count | None = None
    """The session's last seq that this append was decided on; another one there refuses it."""
    strict: bool = False
    """Refuse the append where an event would be skipped."""


class Post(ClientFrame, tag="post", frozen=True, kw_only=True):
    """Append events without an answer. Only a failure is told (`error` with this id); `flush` says that all went well."""

    id: Id
    session_id: Id
    incarnation: Number | None = None
    events: list[WireEvent]


class Flush(ClientFrame, tag="flush", frozen=True, kw_only=True):
    """Answered by `flushed` once everything this connection sent for the session before it is durable or was refused."""

    id: Id
    session_id: Id
    incarnation: Number | None = None


class Stop(ClientFrame, tag="stop", frozen=True, kw_only=True):
    """Cancel the session's live turn and wait for its drain. Answered by `stopped`."""

    id: Id
    session_id: Id
    incarnation: Number | None = None
    reason: Annotated[str, Meta(max_length=1_000)] = "stopped"


class Remove(ClientFrame, tag="remove", frozen=True, kw_only=True):
    """Remove the session, or one message of it, after stopping and draining the turn this touches. Answered by `receipt`."""

    id: Id
    session_id: Id
    incarnation: Number | None = None
    message_id: Id | None = None


class Read(ClientFrame, tag="read", frozen=True, kw_only=True):
    """Messages of a session, the newest, or those just before `before`. Answered by `page`. Changes nothing."""

    id: Id
    session_id: Id
    before: Number | None = None
    """The `key` of the message that the page ends before."""
    limit: Number = 50


Command = Open | Create | Append | Post | Flush | Stop | Remove | Read
WRITING: Final = (Create, Append, Post, Flush, Stop, Remove)
"""Commands that need a token for writing."""
FromClient = Auth | Subscribe | Unsubscribe | Open | Create | Append | Post | Flush | Stop | Remove | Read
