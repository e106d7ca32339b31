"""What is taken over from a source: ids, small metadata, times, counts and money, as the vocabulary wants them.

Owns: the conversions, and what makes a source's id storable and unique. Must not know: formats, events.
Invariants: what comes out is in the vocabulary's range, or None (times), or 0 with a report (counts, money); an id is
the source's own where it can be; the same wishes in the same order give the same ids.
"""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from engine.limits import ID_CHARS_MAX

ID_CHARS_PLAIN: Final = 300
"""Longest source id that is used as it is: a suffix must still fit; a longer one is replaced by its digest."""
COUNT_MAX: Final = 2**53
MOMENT_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND = datetime.timedelta(milliseconds=1)
Say = Callable[[str], None]


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


def moment(value: Any) -> int | None:
    """Milliseconds since 1970 of an ISO 8601 text (UTC without a zone) or of a number of milliseconds, else None."""
    if isinstance(value, str):
        try:
            when = datetime.datetime.fromisoformat(value)
            if when.tzinfo is None:
                when = when.replace(tzinfo=datetime.UTC)
            found = (when - _EPOCH) // _MILLISECOND
        except (ValueError, OverflowError):
            return None
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        found = int(value)
    else:
        return None
    return found if 0 <= found <= MOMENT_MAX else None


def count(value: Any, say: Say) -> int:
    """A token count: 0 where there is none, 0 with a report where it is no whole number in range."""
    if value is None:
        return 0
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not 0 <= value <= COUNT_MAX:
        say(f"a count that is no whole number from 0 to 2**53 was taken as 0: {str(value)[:40]!r}")
        return 0
    return int(value)


def nanousd(dollars: Any, say: Say) -> int:
    """Whole nano-dollars of an amount in dollars, rounded exactly (half to even) from its shortest decimal form."""
    if dollars is None:
        return 0
    if not isinstance(dollars, bool) and isinstance(dollars, int | float) and 0 <= dollars < COUNT_MAX:
        nano = int((Decimal(repr(dollars)) * 1_000_000_000).to_integral_value(ROUND_HALF_EVEN))
        if nano <= COUNT_MAX:
            return nano
    say(f"a cost that is no amount of dollars in range was taken as 0: {str(dollars)[:40]!r}")
    return 0
