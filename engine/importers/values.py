"""Times, counts and money of transcripts, as the vocabulary wants them.

Owns: the conversions. Must not know: formats, events.
Invariants: what comes out is in the vocabulary's range, or None (times), or 0 with a report (counts, money).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

COUNT_MAX: Final = 2**53
MOMENT_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND = datetime.timedelta(milliseconds=1)
Say = Callable[[str], None]


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
