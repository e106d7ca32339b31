"""What a server may send."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from engine.server.frames.words import Access, JsonObject


class ServerFrame(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every frame from a server is."""


class WireLimits(Struct, frozen=True, kw_only=True):
    """What a client must keep to, and what it must be ready for."""

    frame_bytes_max: int
    """The largest message that the server reads, in bytes of UTF-8; beyond, close 1009."""
    subscriptions_max: int
    """Subscriptions of one connection at a time."""
    commands_max: int
    """Commands of one connection that wait for their answer; the server reads no further frame until one is answered."""
    events_max: int
    """Events in one `events` frame."""
    events_bytes: int
    """Above this size in bytes a frame takes no further event or message; a single larger one is sent whole."""
    ping_s: float
    """The server pings this often."""
    idle_s: float
    """A connection without a subscription that sends nothing for so long is closed."""


class Hello(ServerFrame, tag="hello", frozen=True, kw_only=True):
    """The first frame of a connection whose token is valid, or that needs none."""

    protocol: str
    """`engine.v1`."""
    workspace: str
    """The workspace that the token is bound to: the only one this connection sees."""
    access: Access
    epoch: str
    """The running writer's epoch: another one than last time means that the server's process was another one."""
    head: str
    """The cursor after the last committed event."""
    limits: WireLimits


class Subscribed(ServerFrame, tag="subscribed", frozen=True, kw_only=True):
    """A subscription has begun; what comes follows on `cursor`."""

    id: str
    cursor: str


class WireRecorded(Struct, frozen=True, kw_only=True):
    """One committed event."""

    cursor: str
    """Where to resume after it."""
    session_id: str
    incarnation: int
    seq: int
    type: str
    version: int
    """The version it was stored in."""
    event_version: int
    """The version that `event` is in: the server's own where it could read what is stored, else `version`."""
    event_id: str
    occurred_at: int
    recorded_at: int
    causation_id: str | None
    outcome: str
    """`applied`, or why it changed nothing: `orphan_part`, `removed`, `finished`, `rewound`."""
    event: msgspec.Raw
    """Its fields. A delta (`part.delta`) has `part_id`, `field`, `offset` in code points, and `text`: a text that is longer
    than `offset` has it already, one that is shorter has missed something."""


class Events(ServerFrame, tag="events", frozen=True, kw_only=True):
    """Committed events in their order, several where several are there."""

    id: str
    after: str
    """The cursor that this frame follows on: the one before it, of `subscribed`, `events`, `caught_up` or `lagging`."""
    cursor: str
    """Where to resume after this frame."""
    events: list[WireRecorded]


class CaughtUp(ServerFrame, tag="caught_up", frozen=True, kw_only=True):
    """Everything committed before this moment was sent; what follows is live."""

    id: str
    cursor: str


class Lagging(ServerFrame, tag="lagging", frozen=True, kw_only=True):
    """The client read too slowly: `dropped` waiting events were let go, and come again from the log, after `cursor`."""

    id: str
    cursor: str
    dropped: int


class Reset(ServerFrame, tag="reset", frozen=True, kw_only=True):
    """What this subscriber holds is no longer the log's content. It must be thrown away; the subscription has ended."""

    id: str
    reason: str
    start: str
    """What to subscribe after now: `start` or a cursor (`snapshot` is always possible too)."""


class Unsubscribed(ServerFrame, tag="unsubscribed", frozen=True, kw_only=True):
    """The subscription has ended because the client asked for it, or by itself a moment before."""

    id: str
    cursor: str
    """Where it may go on; empty where there is no such place: it had not begun, had ended, or was in its snapshot."""


class WireSession(Struct, frozen=True, kw_only=True):
    """A session in a snapshot."""

    session: msgspec.Raw
    """key, session_id, incarnation, title, parent_id, metadata, created_at, updated_at."""
    messages: list[msgspec.Raw]
    """Each: key, message_id, role, status, finish_reason, settled_by, metadata, created_at, updated_at, and its parts (key,
    part_id, kind, data, tool, created_at, updated_at). Oldest first."""
    more: bool
    """Whether there are older messages (`read` gives them)."""
    usage: msgspec.Raw
    """What the session itself has used in every life of its id: own, unattributed, children (nothing), by_model."""


class Snapshot(ServerFrame, tag="snapshot", frozen=True, kw_only=True):
    """A part of the read model as it was at `cursor`. Several frames may follow one another; `last` ends them.

    Messages of a session that continue those of the frame before come under the same session again.
    """

    id: str
    cursor: str
    sessions: list[WireSession]
    more: bool
    """Whether the workspace has older sessions than these; false where sessions were named."""
    last: bool


class WireReceiptEvent(Struct, frozen=True, kw_only=True):
    """What the database assigned to one event of a command."""

    event_id: str | None
    seq: int | None
    """Null where nothing was stored."""
    position: int | None
    outcome: str
    """`applied`, a reason it was skipped for (`unchanged` and `stale_offset` store nothing), or `duplicate`."""
    original: str | None = None
    """With `duplicate`: the outcome it had the first time; seq and position are those of then."""


class Receipt(ServerFrame, tag="receipt", frozen=True, kw_only=True):
    """Answers `create`, `append` and `remove` after COMMIT: an entry per event, in the order of the command."""

    id: str
    session_id: str
    incarnation: int
    events: list[WireReceiptEvent]


class Opened(ServerFrame, tag="opened", frozen=True, kw_only=True):
    """Answers `open`: the session is there, in this life."""

    id: str
    session_id: str
    incarnation: int


class Flushed(ServerFrame, tag="flushed", frozen=True, kw_only=True):
    """Answers `flush`."""

    id: str


class Stopped(ServerFrame, tag="stopped", frozen=True, kw_only=True):
    """Answers `stop`: whether there was a turn."""

    id: str
    stopped: bool


class MessagePage(ServerFrame, tag="page", frozen=True, kw_only=True):
    """Answers `read`."""

    id: str
    cursor: str
    """The position the page was read at."""
    messages: list[msgspec.Raw]
    more: bool


class Error(ServerFrame, tag="error", frozen=True, kw_only=True):
    """A frame was refused, or a command failed."""

    id: str | None
    """The frame's id; null where it had none that could be read, or one that is in use."""
    code: str
    """The name of an error of `engine.errors`, such as `wrong_expected_seq`."""
    message: str
    written: Literal["nothing", "unknown"]
    """Whether anything was written. `unknown`: send the same command again, with the same id, once the server is back."""
    details: JsonObject = {}
    """The error's own fields (`expected`, `found`, ...): text, whole numbers, null."""


class Closing(ServerFrame, tag="closing", frozen=True, kw_only=True):
    """The server shuts down and closes with 1001 right after this."""

    reason: str
    cursors: dict[str, str]
    """Where each subscription of this connection may go on."""


FromServer = (
    Hello
    | Subscribed
    | Events
    | CaughtUp
    | Lagging
    | Reset
    | Unsubscribed
    | Snapshot
    | Receipt
    | Opened
    | Flushed
    | Stopped
    | MessagePage
    | Error
    | Closing
)
