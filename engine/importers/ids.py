"""Ids and small values taken over from a source.

Owns: what makes a source's id storable and unique. Must not know: formats, events.
Invariants: an id is the source's own where it can be; the same wishes in the same order give the same ids.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from engine.limits import ID_CHARS_MAX

ID_CHARS_PLAIN: Final = 300
"""Longest source id that is used as it is: a suffix must still fit; a longer one is replaced by its digest."""


class Ids:
    """Gives every id once."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def fresh(self, wanted: str) -> str:
        """The wanted id, or with a suffix where it was given before."""
        base = clean_id(wanted)
        found = base
        while found in self._counts:
            self._counts[base] += 1
            found = f"{base}~{self._counts[base]}"
        self._counts[found] = 1
        return found


def clean_id(wanted: str) -> str:
    """An id that can be stored: the wanted one, or a digest of one that is empty, very long or holds a NUL."""
    if 0 < len(wanted) <= ID_CHARS_PLAIN and "\0" not in wanted:
        return wanted
    return "id-" + hashlib.blake2b(wanted.encode(), digest_size=16).hexdigest()


def text_of(value: Any) -> str | None:
    """The value when it is text that is not empty, else None."""
    return value if isinstance(value, str) and value else None


def small(**values: Any) -> dict[str, Any]:
    """Metadata: the given scalars that are there, long text cut."""
    kept = {name: value[:1000] if isinstance(value, str) else value for name, value in values.items()}
    return {name: value for name, value in kept.items() if isinstance(value, str | int | float) and value != ""}


def child_session_id(parent: str, name: str) -> str:
    """The id of a sub-agent's session, short enough to be an id."""
    wanted = f"{parent}/{name}"
    return wanted if len(wanted) <= ID_CHARS_MAX and "\0" not in wanted else clean_id(wanted)
