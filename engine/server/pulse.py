"""Whether the other side of a connection is still there: when to ask, and when to give up.

Owns: the decisions about pings, silence, stalled sends and idleness. Must not know: sockets; it is told the time and what
was seen. Invariant: a side is not called silent while nobody listens to it.
"""

from __future__ import annotations

from typing import Literal

import attrs

from engine.limits import ServerLimits

Verdict = Literal["ping", "stalled", "silent", "idle"]


@attrs.frozen(kw_only=True)
class Seen:
    """What is known of a connection at a moment."""

    heard_at: float
    """When bytes came last."""
    moved_at: float
    """When the socket last took something after it had taken nothing for a while."""
    sending_since: float | None
    """Since when the socket takes nothing of what is being sent."""
    listening: bool
    """Whether the server reads."""
    busy: bool
    """Whether there are subscriptions or commands."""


class Pulse:
    """The pulse of one connection."""

    def __init__(self, limits: ServerLimits, now: float) -> None:
        self._limits = limits
        self._asked_at = now
        self._waiting_since: float | None = None
        self._active_at = now

    def active(self, now: float) -> None:
        """The client sent a frame, or something of it ended."""
        self._active_at = now

    def look(self, now: float, seen: Seen) -> tuple[Verdict | None, float]:
        """What to do now, and when to look again at the latest: later than now, unless there is something to do now.

        Each moment is computed as the one that is told (`since + limit`): a difference may round to the other side of it.
        """
        limits = self._limits
        if seen.sending_since is not None:
            self._waiting_since = None
            if now >= seen.sending_since + limits.stalled_s:
                return "stalled", now
            return None, min(seen.sending_since + limits.stalled_s, now + limits.ping_s)
        if self._waiting_since is not None:
            if max(seen.heard_at, seen.moved_at) >= self._waiting_since:
                self._waiting_since = None
            elif not seen.listening:
                self._waiting_since = now
            elif now >= self._waiting_since + limits.ping_s:
                return "silent", now
        if seen.busy:
            self._active_at = now
        elif now >= self._active_at + limits.idle_s:
            return "idle", now
        if self._waiting_since is None and now >= self._asked_at + limits.ping_s:
            self._asked_at = self._waiting_since = now
            return "ping", now
        due = self._asked_at + limits.ping_s if self._waiting_since is None else self._waiting_since + limits.ping_s
        return None, min(due, self._active_at + limits.idle_s)
