"""Every limit, with its unit in its name and its reason beside it.

Owns: the numbers. Must not know: who uses them. A limit that is worth changing for an embedder is a field of `Limits`
and reaches its user through the composition root; the rest are constants of the format.
"""

from __future__ import annotations

import attrs

ID_CHARS_MAX = 512
"""Longest session, message, part, call, step or event id, in characters: ids are index keys, four fit a page."""

JSON_DEPTH_MAX = 100
"""Deepest nesting of a JSON value in an event: decoders recurse."""


@attrs.frozen(kw_only=True)
class Limits:
    """Limits of one engine. Counts unless the name ends in a unit; `_s` is seconds, `_bytes` octets of encoded JSON."""

    event_bytes_max: int = 16 * 1024 * 1024
    """One encoded event. The largest tool results seen in real transcripts are below 1 MiB."""
    append_events_max: int = 100_000
    """Events of one append: one transaction's savepoint must fit in memory."""
    append_bytes_max: int = 256 * 1024 * 1024
    """Encoded events of one append together."""

    inbox_commands_max: int = 4_096
    """Commands that wait for the writer. Beyond, senders wait: a queue of 4,096 is 50-100 ms of work."""
    inbox_bytes_max: int = 64 * 1024 * 1024
    """Encoded events that wait for the writer: bounds memory where commands are large. Text joined to waiting deltas may
    take as much again."""
    mailbox_commands_max: int = 256
    """Commands that wait for one session's actor, which waits only when the writer's inbox is full."""
    mailbox_bytes_max: int = 16 * 1024 * 1024
    """Encoded events that wait for one session's actor."""

    batch_events_max: int = 1_000
    """Events of one transaction. Beyond 1,000 the gain per event is small (measured) and others wait longer."""
    batch_bytes_max: int = 8 * 1024 * 1024
    """Encoded events of one transaction; one larger append still goes alone."""
    flush_delay_s: float = 0.02
    """How long commands without a reply may wait for company: below what a reader notices."""
    delta_chars_max: int = 64 * 1024
    """Waiting deltas of one part are joined up to this many characters, so one event stays small."""

    busy_retry_s: float = 5.0
    """How long the writer retries a locked file before its callers get an error."""
    busy_pause_s: float = 0.01
    """Pause between two such tries; the trio loop runs meanwhile."""
    settle_s: float = 5.0
    """How long leaving a message or turn may wait, shielded from cancellation, for its last writes."""
    settle_retry_s: float = 0.5
    """Pause between retries of a settle that failed."""
    drain_s: float = 10.0
    """How long a removal waits for the turn it stopped, before it goes ahead (late writes are then skipped)."""
    shutdown_s: float = 10.0
    """How long closing waits for a commit that cannot proceed, before it answers what is left with an error."""

    sessions_live_max: int = 1_000
    """Idle session actors kept in memory; beyond, the one idle longest is passivated."""
    session_idle_s: float = 30.0
    """A session actor without work for this long is passivated."""

    subscriber_events_max: int = 10_000
    """Committed events that wait for one subscriber before it is lagging and reads the log instead."""
    subscriber_bytes_max: int = 16 * 1024 * 1024
    """The same in bytes of encoded events."""
    subscription_sessions_max: int = 1_000
    """Sessions that one reader of the log may name: each costs a few probes of an index when it begins to read."""
    page_items_max: int = 1_000
    """Items of one page of a read: a read runs on the loop, so it must stay short."""
    page_bytes_max: int = 4 * 1024 * 1024
    """A log page ends early beyond this many bytes; one larger event still makes a page."""

    wal_checkpoint_bytes: int = 4 * 1024 * 1024
    """Size of the WAL at which the writer checkpoints between two batches (SQLite's own default: 1,000 pages)."""
    slow_sync_s: float = 0.002
    """A disk whose sync takes longer gets the sync helper process, so that a commit never stops the loop."""


@attrs.frozen(kw_only=True)
class StreamLimits:
    """What one reader of the log may hold in memory: at most its buffer and one page.

    `engine.log(limits=StreamLimits(...))`; each is 1 or more. A stream without any has those of the engine's `Limits`
    (`StreamLimits.of`); `attrs.evolve` changes one of them. A reader on a slow line wants little: what it does not take is
    read from the log again.
    """

    buffer_events_max: int
    """Committed events that wait for a live reader; one more and it is lagging, and the buffer is emptied."""
    buffer_bytes_max: int
    """The same in bytes of encoded events."""
    page_events_max: int
    """Events read from the log at once while catching up: the read is one step on the loop, and everybody waits for it."""
    page_bytes_max: int
    """The same in bytes of encoded events. The page ends with the event that reaches it."""

    @classmethod
    def of(cls, limits: Limits) -> StreamLimits:
        """Those of an engine."""
        return cls(
            buffer_events_max=limits.subscriber_events_max,
            buffer_bytes_max=limits.subscriber_bytes_max,
            page_events_max=limits.page_items_max,
            page_bytes_max=limits.page_bytes_max,
        )


@attrs.frozen(kw_only=True)
class ServerLimits:
    """Limits of one WebSocket server. Counts unless the name ends in a unit; `_s` is seconds, `_bytes` octets of UTF-8.

    A client that does not read costs at most `subscriptions_max` times (`buffer_bytes_max` + `page_bytes_max` + one
    frame + its ids), beside its socket's buffers in the kernel; a buffered event is shared by all who wait for it. One
    snapshot and one page of messages, each of the engine's `page_bytes_max`, may wait for it too, with
    `buffer_bytes_max` of answers. One that sends costs `commands_bytes_max` and three frames more. In memory an event
    of few bytes weighs about a kilobyte.
    """

    connections_max: int = 2_000
    """Connections at a time, those included that are gone while their commands are carried out; one more is refused
    with HTTP 503 before the upgrade."""
    handshake_s: float = 5.0
    """How long the upgrade, and then the token, may take."""
    frame_bytes_max: int = 4 * 1024 * 1024
    """The largest message from a client. The largest tool results seen in real transcripts are below 1 MiB."""
    malformed_max: int = 20
    """Malformed frames of a connection before it is closed: one may be a mistake, a flood is none."""
    subscriptions_max: int = 32
    """Subscriptions of one connection at a time."""
    subscription_sessions_max: int = 1_000
    """Sessions that one subscription may name; the engine's own limit counts where it is lower."""
    append_events_max: int = 1_000
    """Events of one command: its transaction is one step on the loop, about 50 microseconds for each."""
    commands_max: int = 64
    """Commands of one connection that are being carried out; beyond, the next frame waits in the socket."""
    commands_bytes_max: int = 16 * 1024 * 1024
    """The same in bytes of their frames."""
    frames_per_s: float = 1_000.0
    """Sustained rate at which frames of one connection are read; beyond, they wait in the socket: nothing is refused."""
    frames_burst: int = 2_000
    """Frames that may come at once."""

    events_max: int = 256
    """Events of one `events` frame."""
    events_bytes: int = 64 * 1024
    """Above this size a frame takes no further event: small enough that others on the connection are not held up."""
    buffer_events_max: int = 10_000
    """Committed events that wait for one subscription before it is lagging and reads the log instead."""
    buffer_bytes_max: int = 8 * 1024 * 1024
    """The same in bytes of encoded events: a burst of a second. Reading it again from the log costs thrice as much."""
    page_events_max: int = 200
    """Events of one read of the log while catching up: it runs on the loop, so it must stay short."""
    page_bytes_max: int = 256 * 1024
    """The same in bytes; one larger event still makes a page."""
    encoded_bytes_max: int = 4 * 1024 * 1024
    """Texts of events that are kept for other connections: those who are live want the same ones at about the same time."""
    answers_kept_max: int = 10_000
    """Answers to `stop` that are kept for a client that asks again: what they ended lives no longer than the process."""

    ping_s: float = 20.0
    """The server pings this often, and waits as long for the pong: below the 60 s of common proxies."""
    stalled_s: float = 60.0
    """A connection whose socket takes nothing for so long is closed."""
    idle_s: float = 300.0
    """A connection without a subscription that sends nothing for so long is closed."""
    shutdown_s: float = 5.0
    """How long a server that ends waits for running commands and for closing handshakes; these get a second in any case."""


@attrs.frozen(kw_only=True)
class ClientLimits:
    """Limits of one client. Counts unless the name ends in a unit; `_s` is seconds, `_bytes` octets of UTF-8."""

    connect_s: float = 10.0
    """How long `connect` tries to reach a server at first, and how long one attempt may take later."""
    retry_first_s: float = 0.1
    """Pause before the first attempt to connect again; it doubles with each one, and each is spread at random."""
    retry_max_s: float = 10.0
    """The longest such pause."""
    frame_bytes_max: int = 64 * 1024 * 1024
    """The largest message from a server: one event or message may be as large as the engine lets it be."""
    commands_max: int = 64
    """Commands that wait for their answer; beyond, callers wait. The server's own limit counts where it is lower."""
    posts_events_max: int = 1_000
    """Posted events kept until they are known to be durable; at this many the client asks, and callers wait."""
    posts_bytes_max: int = 4 * 1024 * 1024
    """The same in bytes of their frames."""
    buffer_events_max: int = 10_000
    """Events that wait for the reader of one log before it is lagging: then the server is asked for them again."""
    buffer_bytes_max: int = 16 * 1024 * 1024
    """The same in bytes."""
    faults_max: int = 8
    """Connections that the server ended with a fault (close 1002, 1003, 1007, 1011, 4400) while a command or post was on its
    way, before that is given up: sent for ever, it would keep everything behind it from getting through."""
    ping_s: float = 20.0
    """The client pings this often, and waits as long for the pong, before it connects again."""
    close_s: float = 5.0
    """How long leaving waits until what was posted is known to be durable, and as long for the closing handshake."""
