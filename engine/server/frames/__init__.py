"""The frames of the wire protocol: every type, every field, and the close codes.

Owns: the shape of every frame, encoding and decoding. Must not know: sockets, the order in which frames may come (see
`protocol`), the engine.

One WebSocket text message is one frame: a JSON object with a `type`. The WebSocket subprotocol is `engine.v1`; a client that
offers no version the server speaks is refused with HTTP 400 before the upgrade, which names what is spoken. Times are
milliseconds since 1970. A cursor is an opaque token; order is told by cursors and `seq`, never by times or ids.

A client's frame is checked strictly (an unknown field is refused: it may be a misspelt one). A server's frame may gain
fields within a version: a client must ignore what it does not know.

Frames of one subscription carry its `id`. `subscribed` comes first and says where it begins; each `events` frame says in
`after` which cursor it follows on, and in `cursor` where to go on after it: a frame whose `after` is not the cursor that
the receiver holds means that something was missed.

Every command has an `id`, chosen by the client: the answer carries it, and it makes the command safe to send again. The
events of a command get the event ids `<id>` (a single one) or `<id>.0`, `<id>.1` ..., unless they bring their own; an event
id that is known answers `duplicate` with what the database assigned the first time; with other content it is refused
(`duplicate_id`). So an id must not be another one's with `.0`, `.1` ... behind it, and that of a command with several
events must leave room for these within the 512 characters of an event id. `incarnation` (from `opened` or a receipt) binds a
command to that life of the session; without it the command goes to the live one, also when it is sent again: whoever may
have to do that after the session was removed and opened anew gives it. `stop` leaves no event: a server that was started
anew does not know it and carries it out again.
"""

from engine.server.frames.codec import (
    decode_client,
    decode_server,
    encode,
    encode_event,
    encode_part,
    id_of,
)
from engine.server.frames.from_client import (
    WRITING,
    Append,
    Auth,
    ClientFrame,
    Command,
    Create,
    Flush,
    FromClient,
    Open,
    Post,
    Read,
    Remove,
    Stop,
    Subscribe,
    Unsubscribe,
    WireEvent,
)
from engine.server.frames.from_server import (
    CaughtUp,
    Closing,
    Error,
    Events,
    Flushed,
    FromServer,
    Hello,
    Lagging,
    MessagePage,
    Opened,
    Receipt,
    Reset,
    ServerFrame,
    Snapshot,
    Stopped,
    Subscribed,
    Unsubscribed,
    WireLimits,
    WireReceiptEvent,
    WireRecorded,
    WireSession,
)
from engine.server.frames.words import (
    CLOSE_CODES,
    GOING_AWAY,
    INTERNAL,
    MALFORMED,
    NORMAL,
    SUBPROTOCOL,
    TIMED_OUT,
    TOKEN_SUBPROTOCOL,
    TOO_BIG,
    UNAUTHORIZED,
    UNSUPPORTED_DATA,
    Access,
    Count,
    Id,
    JsonObject,
    Number,
)

__all__ = [
    "CLOSE_CODES",
    "GOING_AWAY",
    "INTERNAL",
    "MALFORMED",
    "NORMAL",
    "SUBPROTOCOL",
    "TIMED_OUT",
    "TOKEN_SUBPROTOCOL",
    "TOO_BIG",
    "UNAUTHORIZED",
    "UNSUPPORTED_DATA",
    "WRITING",
    "Access",
    "Append",
    "Auth",
    "CaughtUp",
    "ClientFrame",
    "Closing",
    "Command",
    "Count",
    "Create",
    "Error",
    "Events",
    "Flush",
    "Flushed",
    "FromClient",
    "FromServer",
    "Hello",
    "Id",
    "JsonObject",
    "Lagging",
    "MessagePage",
    "Number",
    "Open",
    "Opened",
    "Post",
    "Read",
    "Receipt",
    "Remove",
    "Reset",
    "ServerFrame",
    "Snapshot",
    "Stop",
    "Stopped",
    "Subscribe",
    "Subscribed",
    "Unsubscribe",
    "Unsubscribed",
    "WireEvent",
    "WireLimits",
    "WireReceiptEvent",
    "WireRecorded",
    "WireSession",
    "decode_client",
    "decode_server",
    "encode",
    "encode_event",
    "encode_part",
    "id_of",
]
