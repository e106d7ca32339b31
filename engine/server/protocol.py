"""The server's half of the protocol: what a client may send now, and what the server may say about it.

Owns: the state of one connection (authentication, subscriptions, commands on their way) and the pace at which it may send.
Must not know: sockets, time (it is told), the engine. Nothing here waits, and nothing here does I/O.

    new ---- no token needed, or a valid one came with the handshake ----> open ---> closed
      \\---- frame `auth` with a valid token ---------------------------->/

    a subscription:  asked ---> subscribed (snapshot parts) ---> events, caught_up, lagging ... ---> ended
                       \\--> error                                        reset, unsubscribed, error, closing

Invariants: an id is used by one subscription or command at a time; each is answered once; nothing is said of a subscription
before `subscribed` or after its end; a frame that is refused changes nothing; each frame of events says the cursor that the
one before it left; nothing but `auth` is looked at before the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from engine.errors import EngineError, ForbiddenError, InvalidArgumentError, LimitError, MalformedFrameError
from engine.events import Cursor
from engine.limits import ServerLimits
from engine.server import frames
from engine.server.access import Grant
from engine.server.problems import frame_of

PLACES: Final = ("start", "now", "snapshot")
"""What a subscription may begin after, beside a cursor."""


@attrs.frozen
class Say:
    """Send this text; nothing else is to be done about what was received."""

    text: str


@attrs.frozen
class Close:
    """Close the connection with this code."""

    code: int
    reason: str


Received = frames.FromClient | Say | Close


@attrs.define(eq=False)
class _Subscription:
    """What is known of a subscription: where the client will be when it has read everything."""

    cursor: str = ""
    """Empty until it has begun."""
    whole: bool = True
    """False while a snapshot is being sent: a place in the middle of one is no place to resume."""


class ServerProtocol:
    """One connection, seen from the server. `receive` takes what came; the other methods give the text to send."""

    def __init__(self, limits: ServerLimits, grant: Grant | None) -> None:
        self._limits = limits
        self.grant = grant
        """What the connection may do; None until it has shown a token."""
        self.malformed = 0
        """Frames that were none."""
        self._subscriptions: dict[str, _Subscription] = {}
        self._commands: dict[str, int] = {}
        self._commands_bytes = 0

    # --- what came ----------------------------------------------------------------------------------

    def receive(self, message: str | bytes) -> Received:
        """What to do about one message: a frame that is in order, something to say, or to close the connection.

        A command or subscription that is returned is on its way: it must be answered by `answer`, `begin` or `refuse`.
        """
        if isinstance(message, bytes):
            return Close(frames.UNSUPPORTED_DATA, "frames are text")
        try:
            frame = frames.decode_client(message)
        except ValueError as problem:
            return self._malformed(frames.id_of(message), str(problem))
        if self.grant is None:
            if isinstance(frame, frames.Auth):
                return frame
            return Close(frames.UNAUTHORIZED, "a token is needed: as a header, a subprotocol or the first frame")
        if isinstance(frame, frames.Auth):
            return self._malformed(None, "auth: the connection has its token already")
        if isinstance(frame, frames.Unsubscribe):
            if frame.id not in self._subscriptions:
                # It may have ended by itself a moment ago: that is no mistake of the client's.
                return Say(frames.encode(frames.Unsubscribed(id=frame.id, cursor="")))
            return frame
        if frame.id in self._subscriptions or frame.id in self._commands:
            return self._malformed(None, f"the id {frame.id[:100]!r} is in use on this connection")
        try:
            self._check(frame, self.grant)
        except EngineError as problem:
            return Say(frames.encode(frame_of(problem, frame.id)))
        if isinstance(frame, frames.Subscribe):
            self._subscriptions[frame.id] = _Subscription()
        else:
            size = len(message) if message.isascii() else len(message.encode())
            self._commands[frame.id] = size
            self._commands_bytes += size
        return frame

    def _check(self, frame: frames.Subscribe | frames.Command, grant: Grant) -> None:
        if isinstance(frame, frames.WRITING) and not grant.writes:
            raise ForbiddenError(_name(frame))
        if isinstance(frame, frames.Append | frames.Post) and not frame.events:
            raise InvalidArgumentError("events", "expected at least one")
        if isinstance(frame, frames.Append | frames.Post) and len(frame.events) > self._limits.append_events_max:
            raise LimitError(_name(frame), "append_events_max", self._limits.append_events_max)
        if isinstance(frame, frames.Subscribe):
            if len(self._subscriptions) >= self._limits.subscriptions_max:
                raise LimitError("subscribe", "subscriptions_max", self._limits.subscriptions_max)
            if frame.sessions is not None and len(frame.sessions) > self._limits.subscription_sessions_max:
                raise LimitError("subscribe", "subscription_sessions_max", self._limits.subscription_sessions_max)
            if frame.sessions is not None and not frame.sessions:
                raise InvalidArgumentError("sessions", "expected at least one, or null for the workspace")
            if frame.after not in PLACES:
                Cursor.parse(frame.after)

    def _malformed(self, frame_id: str | None, problem: str) -> Say | Close:
        self.malformed += 1
        if self.grant is None:
            return Close(frames.UNAUTHORIZED, "a token is needed before anything else")
        if self.malformed > self._limits.malformed_max:
            return Close(frames.MALFORMED, f"more than {self._limits.malformed_max} malformed frames")
        # An id in use belongs to something else: its answer must not be mistaken.
        if frame_id is not None and (frame_id in self._subscriptions or frame_id in self._commands):
            frame_id = None
        return Say(frames.encode(frame_of(MalformedFrameError(problem), frame_id)))

    # --- state ----------------------------------------------------------------------------------------

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The ids of the subscriptions that were asked for and have not ended."""
        return tuple(self._subscriptions)

    @property
    def commands(self) -> int:
        """Commands that were not answered yet."""
        return len(self._commands)

    @property
    def has_room(self) -> bool:
        """Whether another frame may be read: else it waits in the socket until a command is answered."""
        limits = self._limits
        return len(self._commands) < limits.commands_max and self._commands_bytes < limits.commands_bytes_max

    def open(self, grant: Grant, *, epoch: str, head: Cursor) -> str:
        """The connection may begin: its `hello`."""
        self.grant = grant
        limits = self._limits
        return frames.encode(
            frames.Hello(
                protocol=frames.SUBPROTOCOL,
                workspace=grant.workspace,
                access=grant.access,
                epoch=epoch,
                head=str(head),
                limits=frames.WireLimits(
                    frame_bytes_max=limits.frame_bytes_max,
                    subscriptions_max=limits.subscriptions_max,
                    commands_max=limits.commands_max,
                    events_max=limits.events_max,
                    events_bytes=limits.events_bytes,
                    ping_s=limits.ping_s,
                    idle_s=limits.idle_s,
                ),
            )
        )

    # --- about commands -------------------------------------------------------------------------------

    def answer(self, frame: frames.Receipt | frames.Opened | frames.Flushed | frames.Stopped | frames.MessagePage) -> str:
        """Answer a command."""
        self._done(frame.id)
        return frames.encode(frame)

    def posted(self, frame_id: str) -> None:
        """A post was handed over: nothing is said."""
        self._done(frame_id)

    def refuse(self, frame_id: str, error: EngineError) -> str | None:
        """A command failed, or a subscription cannot begin or go on: it has ended.

        None where its client ended the subscription meanwhile: then nothing may be said.
        """
        if frame_id in self._commands:
            self._done(frame_id)
        elif self._subscriptions.pop(frame_id, None) is None:
            return None
        return frames.encode(frame_of(error, frame_id))

    def failed_later(self, frame_id: str, error: EngineError) -> str:
        """What a `post` brought could not be written after all."""
        known = frame_id in self._subscriptions or frame_id in self._commands
        return frames.encode(frame_of(error, None if known else frame_id))

    def _done(self, frame_id: str) -> None:
        self._commands_bytes -= self._commands.pop(frame_id)

    # --- about subscriptions: None where it has ended meanwhile, and nothing may be said ------------------

    def begin(self, frame_id: str, cursor: Cursor, *, snapshot: bool = False) -> str | None:
        """A subscription begins after this cursor; with `snapshot` its parts come next."""
        subscription = self._subscriptions.get(frame_id)
        if subscription is None:
            return None
        assert not subscription.cursor, "a subscription begins once"
        subscription.cursor, subscription.whole = str(cursor), not snapshot
        return frames.encode(frames.Subscribed(id=frame_id, cursor=subscription.cursor))

    def snapshot(self, frame_id: str, sessions: list[frames.WireSession], *, last: bool, more: bool = False) -> str | None:
        """A part of the snapshot that the subscription begins with."""
        subscription = self._begun(frame_id)
        if subscription is None:
            return None
        assert not subscription.whole, "a snapshot comes once, right after `subscribed`"
        subscription.whole = last
        return frames.encode(
            frames.Snapshot(id=frame_id, cursor=subscription.cursor, sessions=sessions, more=more, last=last)
        )

    def events(self, frame_id: str, events: Sequence[str], cursor: Cursor) -> str | None:
        """Events, each encoded already as a `WireRecorded`; `cursor` is the place after the last of them."""
        subscription = self._begun(frame_id)
        if subscription is None:
            return None
        after, subscription.cursor = subscription.cursor, str(cursor)
        # Put together from parts, because the events were encoded once for everybody. Cursors need no escaping.
        return (
            f'{{"type":"events","id":{frames.encode_part(frame_id)},"after":"{after}","cursor":"{subscription.cursor}",'
            f'"events":[{",".join(events)}]}}'
        )

    def caught_up(self, frame_id: str, cursor: Cursor) -> str | None:
        """Everything committed was sent."""
        if not self._move(frame_id, cursor):
            return None
        return frames.encode(frames.CaughtUp(id=frame_id, cursor=str(cursor)))

    def lagging(self, frame_id: str, cursor: Cursor, dropped: int) -> str | None:
        """The client reads too slowly."""
        if not self._move(frame_id, cursor):
            return None
        return frames.encode(frames.Lagging(id=frame_id, cursor=str(cursor), dropped=dropped))

    def reset(self, frame_id: str, reason: str, start: Cursor | None) -> str | None:
        """What the client holds is no longer the log's content: the subscription has ended."""
        if self._begun(frame_id) is None:
            return None
        del self._subscriptions[frame_id]
        return frames.encode(frames.Reset(id=frame_id, reason=reason, start="start" if start is None else str(start)))

    def unsubscribe(self, frame_id: str) -> str:
        """End a subscription because its client asked for it. From now on its id may be used again, so nobody may still be
        at work on this one."""
        subscription = self._subscriptions.pop(frame_id, _Subscription())
        return frames.encode(frames.Unsubscribed(id=frame_id, cursor=subscription.cursor if subscription.whole else ""))

    def closing(self, reason: str) -> str:
        """The server goes away: where each subscription may go on."""
        cursors = {
            name: subscription.cursor
            for name, subscription in self._subscriptions.items()
            if subscription.cursor and subscription.whole
        }
        self._subscriptions.clear()
        return frames.encode(frames.Closing(reason=reason, cursors=cursors))

    def _begun(self, frame_id: str) -> _Subscription | None:
        """The subscription, or None where it has ended meanwhile."""
        subscription = self._subscriptions.get(frame_id)
        assert subscription is None or subscription.cursor, "nothing is said of a subscription before `subscribed`"
        return subscription

    def _move(self, frame_id: str, cursor: Cursor) -> bool:
        subscription = self._begun(frame_id)
        if subscription is None:
            return False
        subscription.cursor = str(cursor)
        return True


class Pace:
    """How fast a connection may send: so many frames a second, and a burst. A token bucket that is told the time."""

    def __init__(self, *, per_s: float, burst: int, now: float) -> None:
        """`burst` is 1 or more."""
        self._per_s = per_s
        self._burst = burst
        self._left = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Count one frame. Returns how many seconds the next one has to wait."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s) - 1
        self._at = now
        return max(0.0, (1 - self._left) / self._per_s)


def _name(frame: frames.ClientFrame) -> str:
    return str(frame.__struct_config__.tag)
