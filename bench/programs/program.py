"""What is known of one program: its bug, and how to run it with and without.

Owns: the record. Must not know: the simulator, or any program.
Invariants: `broken` and `fixed` take no arguments and build all their state anew: every schedule starts from the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import attrs

Kind = Literal["assertion", "deadlock"]


@attrs.frozen(kw_only=True)
class Program:
    """A small concurrent program with one known bug."""

    name: str
    """As published, where it was."""
    actors: int
    """How many tasks it starts."""
    bug: str
    """One sentence."""
    kind: Kind
    """How the bug shows: an `AssertionError`, or every task blocked."""
    default_fails: bool = False
    """Whether the default order meets the bug already; the bug of such a program shows in many schedules."""
    body: Callable[[bool], Awaitable[None]]
    """The program; its argument says whether it is the right one."""

    async def broken(self) -> None:
        """The program with its bug. Raises `AssertionError` where the bug is an assertion; a deadlock never returns."""
        await self.body(False)

    async def fixed(self) -> None:
        """The program without its bug: it ends under every schedule."""
        await self.body(True)
