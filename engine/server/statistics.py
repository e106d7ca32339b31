"""What a server counts, and what it tells about itself.

Owns: the counters. Must not know: who counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import attrs


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """What a server is doing, and has done since it began."""

    connections: int
    """Connections now, those in their handshake included."""
    connections_total: int
    """Connections that were upgraded."""
    refused: Mapping[str, int]
    """Connections that were not let in, by reason: `connections_max`, `handshake` (no valid request in time), `origin`,
    `subprotocol`, `token`."""
    subscriptions: int
    """Subscriptions now."""
    commands: int
    """Commands that are being carried out."""
    commands_answered: int
    """Commands that were carried out, posts among them."""
    commands_refused: int
    """Commands that were answered with an error."""
    posts_failed: int
    """Posts that could not be written after they had been handed over."""
    frames_received: int
    """Messages that were read."""
    frames_malformed: int
    """Messages that were no frames, or came where they may not."""
    frames_sent: int
    """Frames of events that were sent."""
    events_sent: int
    """Events in them."""
    bytes_sent: int
    """Everything written to connections that have ended, and by those that have not, in bytes."""
    lagging: int
    """Times a subscription was told that it lags."""
    closed_stalled: int
    """Connections closed because their socket took nothing."""
    closed_silent: int
    """Connections closed because no pong came."""
    closed_idle: int
    """Connections closed because they did nothing."""
    closed_failed: int
    """Connections closed because of a bug in the server; each has its line in the log."""
    encoded: int
    """Events that were encoded."""
    encoded_again: int
    """Events that somebody else's encoding could be used for."""
    encoded_bytes: int
    """Memory of the encodings that are kept, in bytes of text."""


@attrs.define(kw_only=True)
class Counters:
    """The counters behind `ServerStatistics`, as they run."""

    connections_total: int = 0
    refused: Counter[str] = attrs.field(factory=Counter)
    commands: int = 0
    commands_answered: int = 0
    commands_refused: int = 0
    posts_failed: int = 0
    frames_received: int = 0
    frames_malformed: int = 0
    frames_sent: int = 0
    events_sent: int = 0
    bytes_sent: int = 0
    lagging: int = 0
    closed_stalled: int = 0
    closed_silent: int = 0
    closed_idle: int = 0
    closed_failed: int = 0

    def told(self, **others: int) -> ServerStatistics:
        """The statistics, with what is counted elsewhere; what is given in both places is added up."""
        values = attrs.asdict(self, recurse=False)
        values["refused"] = MappingProxyType(dict(self.refused))
        for name, value in others.items():
            values[name] = values.get(name, 0) + value
        return ServerStatistics(**values)
