"""What was shown of messages, parts and texts: enough to go on with each of them without showing anything twice.

Owns: these records. Must not know: how anything looks.
"""

from __future__ import annotations

import zlib
from typing import Any

import attrs


@attrs.define
class Text:
    """A streamed text. `crc` tells whether another text begins with what was shown; None after something was missed."""

    length: int = 0
    crc: int | None = 0

    def add(self, text: str) -> None:
        """More of it was shown."""
        self.length += len(text)
        if self.crc is not None:
            self.crc = zlib.crc32(text.encode(), self.crc)

    def begins(self, text: str) -> bool:
        """Whether this text goes on from what was shown."""
        if len(text) < self.length:
            return False
        return self.crc is None or zlib.crc32(text[: self.length].encode()) == self.crc

    def is_all_of(self, field: str, value: Any) -> bool:
        """Whether a value that comes whole has streamed already. An input streams as the JSON text of its value."""
        if not self.length:
            return False
        return field == "input" or (isinstance(value, str) and len(value) == self.length and self.begins(value))


@attrs.define
class Part:
    """What was shown of a part."""

    kind: str = "text"
    texts: dict[str, Text] = attrs.field(factory=dict)
    state: str = ""
    """Of a tool call; empty for other parts."""
    shown: dict[str, str] = attrs.field(factory=dict)
    """What was last shown of values that come whole."""


@attrs.define
class Message:
    """What was shown of a message."""

    role: str = ""
    status: str | None = None
    parts: dict[str, Part] = attrs.field(factory=dict)
