"""The client's half of the protocol: what to send after a (re)connect, and what a received frame means.

Owns: the state of one client over all of its connections, the names of subscriptions, what is wrong with a frame.
Must not know: sockets, time, tasks. Nothing here waits, and nothing here does I/O; whoever waits is told by a callback.

    no connection ---> connected: only `hello` may come ---> open: everything is asked and sent again ---> lost ---> ...

Invariants: a frame that contradicts the protocol changes nothing and ends the connection (`ViolationError`), after which
everything goes on from what was received in order; a subscription has a new name each time it is asked for, so that what
comes late of an earlier one is never mistaken; frames of types that this version does not know are ignored and counted.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final, get_args

import attrs
import msgspec

from engine.client.following import Following, Item, ViolationError
from engine.client.outbox import Answering, Outbox, Pending, Sendable
from engine.client.posted import Posted
from engine.errors import ClosedError, CursorError, EngineError, LimitError
from engine.events import Cursor
from engine.limits import ClientLimits
from engine.server import frames
from engine.server.problems import error_of

log = logging.getLogger("engine.client")

KNOWN: Final = frozenset(str(cls.__struct_config__.tag) for cls in get_args(frames.FromServer))
"""The frame types of this version."""


class _Typed(msgspec.Struct):
    type: str


_typed = msgspec.json.Decoder(_Typed)


class StrangerError(ViolationError):
    """What answers is no server of this protocol, or no longer the one it was: connecting again gives the same."""


@attrs.define
class Counts:
    """What happened, over all connections."""

    hellos: int = 0
    resumed: int = 0
    lagging: int = 0
    ignored: int = 0


class ClientProtocol:
    """One client. `connected`, `receive`, `next` and `lost` follow its connections; the rest is what callers do."""

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._outbox = Outbox(limits)
        self._following: dict[Following, str | None] = {}
        """Subscriptions that were not ended, and their names on this connection (None: not asked for)."""
        self._named: dict[str, Following] = {}
        self._asking: deque[Following] = deque()
        self._leaving: deque[str] = deque()
        self._asked = 0
        self.hello: frames.Hello | None = None
        """The newest `hello`; None before the first."""
        self.open = False
        """Whether there is a connection whose `hello` came."""
        self.closing: str | None = None
        """Why the server is going away, where it said so on this connection."""
        self.counts = Counts()
        self._over = False

    @property
    def outbox(self) -> Outbox:
        """Commands and posts."""
        return self._outbox

    # --- connections ------------------------------------------------------------------------------------

    def connected(self) -> None:
        """A connection was made. Nothing may be sent before its `hello`."""
        self.open = False
        self.closing = None

    def lost(self, *, fault: bool = False) -> None:
        """The connection is gone; `fault`: the server ended it because of something that it could not take."""
        self.open = False
        self._named.clear()
        self._asking.clear()
        self._leaving.clear()
        for following in self._following:
            self._following[following] = None
            following.lost()
        self._outbox.lost(fault=fault)

    def receive(self, text: str | bytes) -> None:
        """A message came. Raises `ViolationError` where it contradicts the protocol: the connection is of no use then."""
        if self._over:
            return  # it was on its way when the client was closed
        if isinstance(text, bytes):
            raise ViolationError("a binary message: frames are text")
        try:
            frame = frames.decode_server(text)
        except ValueError as problem:
            if _is_unknown(text):
                self.counts.ignored += 1
                return
            raise (ViolationError if self.open else StrangerError)(f"no frame: {problem}") from None
        if not self.open:
            if isinstance(frame, frames.Hello):
                self._hello(frame)
            elif isinstance(frame, frames.Closing):
                self.closing = frame.reason
            else:
                raise StrangerError(f"{_name(frame)!r} came before 'hello'")
        elif isinstance(frame, frames.Error):
            self._error(frame)
        elif isinstance(frame, frames.Closing):
            self.closing = frame.reason
        elif isinstance(frame, frames.Hello):
            raise ViolationError("'hello' came twice")
        elif isinstance(frame, frames.Receipt | frames.Opened | frames.Flushed | frames.Stopped | frames.MessagePage):
            self._outbox.answer(frame)
            self._flush_posts()
        else:
            self._about_subscription(frame)

    def _hello(self, frame: frames.Hello) -> None:
        if frame.protocol != frames.SUBPROTOCOL:
            raise StrangerError(f"expected {frames.SUBPROTOCOL!r}, found {frame.protocol[:100]!r}")
        before = self.hello
        if before is not None and before.workspace != frame.workspace:
            raise StrangerError(
                f"the token stood for workspace {before.workspace!r}, and stands for {frame.workspace!r} now"
            )
        self.hello = frame
        self.open = True
        self.counts.hellos += 1
        for following in self._following:
            if not following.idle:
                self.counts.resumed += following.resumes
                self._asking.append(following)
        # One less than the server carries out at a time: else it would read nothing more, an `unsubscribe` neither.
        window = min(self._limits.commands_max, max(1, frame.limits.commands_max - 1))
        self._outbox.connected(window, frame.limits.frame_bytes_max)

    def _error(self, frame: frames.Error) -> None:
        error = error_of(frame)
        following = self._named.pop(frame.id, None) if frame.id is not None else None
        if following is not None:
            # A server that shuts down ends every subscription: this one goes on with the next connection.
            if isinstance(error, ClosedError):
                self._following[following] = None
                following.lost()
            else:
                del self._following[following]
                following.refuse(error)
        elif frame.id is None or not self._outbox.refuse(frame.id, error):
            log.warning("the server refused a frame that nobody waits for: %s", error)
        else:
            self._flush_posts()

    def _about_subscription(
        self,
        frame: frames.Subscribed
        | frames.Events
        | frames.CaughtUp
        | frames.Lagging
        | frames.Reset
        | frames.Unsubscribed
        | frames.Snapshot,
    ) -> None:
        following = self._named.get(frame.id)
        if following is None:
            return  # it was left a moment ago
        overflowed = False
        if isinstance(frame, frames.Subscribed):
            following.begin(frame)
        elif isinstance(frame, frames.Events):
            overflowed = following.events(frame)
        elif isinstance(frame, frames.CaughtUp):
            overflowed = following.caught_up(frame)
        elif isinstance(frame, frames.Lagging):
            overflowed = following.lagging(frame)
        elif isinstance(frame, frames.Snapshot):
            following.snapshot(frame)
        elif isinstance(frame, frames.Reset):
            start = _start(frame.start)
            del self._named[frame.id], self._following[following]
            following.reset(frame.reason, start)
        else:
            raise ViolationError("'unsubscribed' came for what nobody left")
        if overflowed:
            self.counts.lagging += 1
            self._leave(following)

    def next(self) -> str | None:
        """The next text to send on the open connection, or None."""
        if not self.open:
            return None
        if self._leaving:
            return frames.encode(frames.Unsubscribe(id=self._leaving.popleft()))
        while self._asking:
            following = self._asking.popleft()
            if following in self._following and not following.idle:
                self._asked += 1
                name = f"sub_{self._asked}"
                text = frames.encode(following.ask(name))
                if self._refused_as_too_large(following, text):
                    continue
                self._following[following] = name
                self._named[name] = following
                return text
        return self._outbox.next()

    # --- what callers do ----------------------------------------------------------------------------------

    def follow(self, following: Following) -> None:
        """Begin a subscription, now or with the next connection."""
        self._following[following] = None
        if self.open:
            self._asking.append(following)

    def unfollow(self, following: Following) -> None:
        """End a subscription. Idempotent."""
        if following in self._following:
            self._leave(following)
            del self._following[following]
            if following in self._asking:
                self._asking.remove(following)
        following.close()

    def take(self, following: Following) -> Item | None:
        """The next item of a subscription for its reader, or None where there is none yet."""
        behind = following.idle
        item = following.take()
        if behind and not following.idle and self.open:
            self._asking.append(following)
        return item

    def command(self, frame: Sendable, reply: Answering) -> Pending:
        """Send a command. Raises `EventTooLargeError`; nothing was written."""
        return self._outbox.command(frame, reply)

    def withdraw(self, pending: Pending) -> None:
        """Nobody waits for the answer any more."""
        self._outbox.withdraw(pending)

    def post(self, posted: Posted) -> None:
        """Send events that nobody waits for. There must be room (`outbox.has_room`)."""
        self._outbox.post(posted)
        self._flush_posts()

    def flush_all(self) -> None:
        """Ask for everything posted."""
        self._flush_posts(all_of_them=True)

    def fail(self, error: EngineError | None) -> None:
        """It is over, by an error, or because the client is closed (None): every wait ends."""
        self._over = True
        self.lost()
        for following in tuple(self._following):
            if error is not None:
                following.refuse(error.clone())
            following.close()
        self._following.clear()
        self._outbox.fail(error)

    # --- inner --------------------------------------------------------------------------------------------

    def _flush_posts(self, *, all_of_them: bool = False) -> None:
        for session_id, incarnation in tuple(self._outbox.to_flush(all_of_them=all_of_them)):
            self._outbox.flush(self._flush_id(), session_id, incarnation)

    def _flush_id(self) -> str:
        self._asked += 1
        return f"flush_{self._asked}"

    def _refused_as_too_large(self, following: Following, text: str) -> bool:
        """Whether the server would hang up on everything because of this subscription, so that it has ended instead."""
        assert self.hello is not None, "nothing is asked before the hello"
        allowed = self.hello.limits.frame_bytes_max
        if len(text) <= allowed and len(text.encode()) <= allowed:
            return False
        del self._following[following]
        following.refuse(LimitError("subscribe", "frame_bytes_max", allowed))
        return True

    def _leave(self, following: Following) -> None:
        """Ask the server for no more of it."""
        name = self._following[following]
        if name is not None:
            del self._named[name]
            self._leaving.append(name)
            self._following[following] = None


def _is_unknown(text: str) -> bool:
    """Whether it is a frame of a type that only a newer server knows."""
    try:
        return _typed.decode(text).type not in KNOWN
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return False


def _start(place: str) -> Cursor | None:
    if place == "start":
        return None
    try:
        return Cursor.parse(place)
    except CursorError as problem:
        raise ViolationError(problem.describe()) from None


def _name(frame: frames.FromServer) -> str:
    return str(frame.__struct_config__.tag)
