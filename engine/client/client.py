"""`connect`, and the client it gives.

Owns: the public face, the composition of a client. Must not know: frames of subscriptions, sockets.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio

from engine.client.address import read_address
from engine.client.answers import receipt_of
from engine.client.connection import Connection
from engine.client.core import Core
from engine.client.following import ViolationError
from engine.client.log import RemoteLog
from engine.client.protocol import ClientProtocol
from engine.client.session import RemoteSession
from engine.errors import EngineError, InvalidArgumentError
from engine.events import BUILT_IN, HEAD, START, Cursor, Registry, SessionStarted, prepare
from engine.limits import ID_CHARS_MAX, ClientLimits, Limits
from engine.ports import Ports
from engine.server import frames


@attrs.frozen
class _ReadModel:
    """A place that is no cursor: the read model, and then what follows on it."""

    def __repr__(self) -> str:
        return "SNAPSHOT"


SNAPSHOT: Final = _ReadModel()
"""Begin with the read model as it is, as one `ReadSnapshot`, and go on with what follows on it."""


@attrs.frozen(kw_only=True)
class ClientStatistics:
    """What a client is doing, and what has happened since it was made."""

    connected: bool
    """Whether there is a connection whose hello came."""
    attempts: int
    """Attempts to connect."""
    reconnects: int
    """Connections after the first that came to a hello."""
    resumed_subscriptions: int
    """Times a subscription went on after a lost connection."""
    resent_commands: int
    """Commands and posts that went out once more."""
    lagging: int
    """Times a log's buffer overflowed here."""
    commands_waiting: int
    """Commands that were not answered yet."""
    posts_waiting: int
    """Posted events that are not known to be durable."""
    posts_failed: int
    """Posts that were refused."""
    frames_ignored: int
    """Frames of types that only a newer server knows."""
    bytes_sent: int
    bytes_received: int
    """Bytes of the streams under the WebSockets, TLS not counted."""


class Client:
    """A client of one workspace. `connect` gives it."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def url(self) -> str:
        """Where it connects to."""
        return self._core.url

    @property
    def workspace(self) -> str:
        """The workspace that its token stands for: the only one it sees."""
        return self._core.workspace

    @property
    def access(self) -> frames.Access:
        """`read` or `write`, as the server said last."""
        hello = self._core.protocol.hello
        assert hello is not None
        return hello.access

    def __repr__(self) -> str:
        return f"<Client of {self.url}, workspace {self.workspace}>"

    def statistics(self) -> ClientStatistics:
        """What it is doing."""
        protocol, connection = self._core.protocol, self._core.connection
        counts, outbox = protocol.counts, protocol.outbox
        sent, received = connection.bytes_moved
        return ClientStatistics(
            connected=protocol.open,
            attempts=connection.attempts,
            reconnects=max(0, counts.hellos - 1),
            resumed_subscriptions=counts.resumed,
            resent_commands=outbox.resent,
            lagging=counts.lagging,
            commands_waiting=len(outbox),
            posts_waiting=outbox.posted_events,
            posts_failed=outbox.failed_posts,
            frames_ignored=counts.ignored,
            bytes_sent=sent,
            bytes_received=received,
        )

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        title: str | None = None,
        parent_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> RemoteSession:
        """Open a session (a new id where none is given) and wait until that is durable.

        Raises `SessionExistsError` when a live session has the id, `InvalidEventError` and `InvalidArgumentError` before
        anything is sent, and what `RemoteSession` lists. Cancelled: the session exists or not; `session()` tells.
        """
        core = self._core
        core.check()
        name = core.ports.ids.new_id("ses") if session_id is None else _checked_id("session_id", session_id)
        event = SessionStarted(title, parent_id, metadata or {})
        prepare(core.registry, event, Limits())
        frame = frames.Create(id=core.new_id(), session_id=name, title=title, parent_id=parent_id, metadata=event.metadata)
        answer = await core.call(frame, frames.Receipt)
        try:
            receipt = receipt_of(answer, (False,))
        except ViolationError as problem:
            raise core.violated(problem) from None
        return RemoteSession(core, name, receipt.incarnation)

    async def session(self, session_id: str, *, incarnation: int | None = None) -> RemoteSession:
        """A handle on a live session, or `UnknownSessionError`. With `incarnation` (from a receipt) the handle is bound to
        that life of the id, and nothing is asked."""
        core = self._core
        core.check()
        _checked_id("session_id", session_id)
        if incarnation is not None:
            if type(incarnation) is not int or not 1 <= incarnation < 2**63:
                raise InvalidArgumentError("incarnation", f"expected 1 or more, found {incarnation!r:.60}")
            await trio.lowlevel.checkpoint()
            return RemoteSession(core, session_id, incarnation)
        answer = await core.call(frames.Open(id=core.new_id(), session_id=session_id), frames.Opened)
        return RemoteSession(core, session_id, answer.incarnation)

    def log(
        self,
        *,
        after: Cursor | object = START,
        session_id: str | Collection[str] | None = None,
        skipped: bool = True,
        messages: int = 50,
    ) -> RemoteLog:
        """`async with client.log(after=cursor) as log: async for item in log: ...`; it follows for ever.

        Args:
            after: `START`, `HEAD` (what is committed from entering on), `SNAPSHOT`, or a `Cursor`.
            session_id: one session, several, or None for the whole workspace, sessions to come included.
            skipped: False leaves out events that changed nothing.
            messages: with `SNAPSHOT`, the newest messages of each session (of the workspace: the newest sessions, without
                messages).

        Raises `InvalidArgumentError`. See `RemoteLog` for what it yields and raises.
        """
        return RemoteLog(
            self._core,
            after=_place(after),
            sessions=_chosen(session_id),
            skipped=bool(skipped),
            messages=_count("messages", messages),
        )


def _place(after: object) -> str:
    if isinstance(after, Cursor):
        return str(after)
    for place, word in ((START, "start"), (HEAD, "now"), (SNAPSHOT, "snapshot")):
        if after is place:
            return word
    raise InvalidArgumentError("after", f"expected START, HEAD, SNAPSHOT or a Cursor, found {after!r:.60}")


def _chosen(session_id: str | Collection[str] | None) -> list[str] | None:
    if session_id is None:
        return None
    given = [session_id] if isinstance(session_id, str) else list(session_id)
    if not given:
        raise InvalidArgumentError("session_id", "expected at least one, or None for the workspace")
    return list(dict.fromkeys(_checked_id("session_id", name) for name in given))


def _count(argument: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise InvalidArgumentError(argument, f"expected 0 or more, found {value!r:.60}")
    return value


def _checked_id(argument: str, value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= ID_CHARS_MAX:
        raise InvalidArgumentError(argument, f"expected text of 1 to {ID_CHARS_MAX} characters, found {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(argument, "a lone surrogate cannot be stored") from None
    return value


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    events: Sequence[type[Any]] = (),
    ssl_context: ssl.SSLContext | None = None,
    limits: ClientLimits | None = None,
    ports: Ports | None = None,
) -> AsyncIterator[Client]:
    """Connect to a server, and stay connected until the block is left: `async with connect(url, token=...) as client:`.

    Args:
        url: `ws://host[:port][/path]`, or `wss://` for TLS.
        token: the bearer token, sent as a header.
        events: the user's own event types, beside the vocabulary; others come as `UnknownEvent`.
        ssl_context: with `wss://`, what to trust; None is the system's default.
        limits: see `ClientLimits`.
        ports: clock, ids, network and randomness, for tests.

    A lost connection is made again, after pauses that double from `retry_first_s` to `retry_max_s`, each spread at random;
    meanwhile calls wait (bounded by `commands_max` and the bounds on posts), and nothing of this is an error to anybody.

    Raises `InvalidArgumentError` (nothing was dialled), `UnreachableError` where no server said hello within `connect_s`,
    `UnauthorizedError` for a token it does not accept, `ProtocolError` for something that is no such server or speaks
    another version. The last two may also come later: then every waiting call and log raises them, and so does every further
    call.

    Leaving the block, also by cancellation, waits up to `close_s` until what was posted is durable, and as long for a
    closing handshake. The body's exceptions come out as they are.
    """
    address = read_address(url, token=token, ssl_context=ssl_context)
    limits = limits or ClientLimits()
    ports = ports or Ports()
    registry = Registry((*BUILT_IN, *events))
    protocol = ClientProtocol(limits)
    connection = Connection(address, protocol, limits, ports)
    core = Core(address.url, protocol, connection, registry, ports, limits)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        ports.spawn(nursery, connection.run, name="client")
        try:
            await _reach(connection, limits)
            yield Client(core)
        except BaseException as problem:
            # Raised again below, outside of the nursery, so that it does not come out in a group.
            failure = problem
        with trio.CancelScope(shield=True):
            await core.close()
    if failure is not None:
        raise failure


async def _reach(connection: Connection, limits: ClientLimits) -> None:
    """Wait for the first hello."""
    with trio.move_on_after(limits.connect_s):
        await connection.opened.wait()
    error: EngineError | None = connection.error
    if error is None and not connection.opened.is_set():
        error = connection.unreached()
    if error is not None:
        raise error.clone()
