"""How much a test run may cost: a plain one stays below three minutes on two cores, `TESTS=full` (as in CI) takes longer."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

FULL = os.environ.get("TESTS") == "full"


def pick(plain: T, full: T) -> T:
    """What this run can afford."""
    return full if FULL else plain
