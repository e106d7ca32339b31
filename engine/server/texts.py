"""Events as texts: each encoded once for everybody who gets it.

Owns: the texts that are kept, and how much of them. Must not know: who asks.
Invariants: one text a position, whoever asks; the texts that are kept are bounded in bytes.
"""

from __future__ import annotations

from engine.events import RecordedEvent
from engine.server.frames import encode_event


class Texts:
    """The texts of the events that were asked for last. A position is never given to another event, so it names the text."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._texts: dict[int, str] = {}
        self.size_bytes = 0
        """Characters that are kept (bytes, where they are ASCII)."""
        self.made = 0
        """Events that were encoded."""
        self.found = 0
        """Events whose text was there."""

    def of(self, recorded: RecordedEvent) -> str:
        """The text of an event."""
        text = self._texts.get(recorded.position)
        if text is not None:
            self.found += 1
            return text
        text = encode_event(recorded)
        self.made += 1
        if len(text) <= self._bytes_max:
            self._texts[recorded.position] = text
            self.size_bytes += len(text)
            while self.size_bytes > self._bytes_max:
                oldest = next(iter(self._texts))
                self.size_bytes -= len(self._texts.pop(oldest))
        return text
