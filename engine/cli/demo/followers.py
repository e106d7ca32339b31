"""The demo's followers: they write down which positions they were given.

Owns: reading the log in three manners. Must not know: what is right (see `checks`).
"""

from __future__ import annotations

from typing import Literal

import trio

from engine.events import START, After, CaughtUp, Lagging, RecordedEvent, Reset
from engine.runtime import Workspace

Manner = Literal["steady", "reconnecting", "slow"]


class Follower:
    """Follows the whole log or one session, from the start; across reconnects and reopened engines, by cursor."""

    def __init__(self, name: str, manner: Manner = "steady", session_id: str | None = None) -> None:
        self.name = name
        self.manner = manner
        self.session_id = session_id
        self.positions: list[int] = []
        self.lagged = self.reconnected = self.resets = 0
        self._after: After = START

    @property
    def last(self) -> int:
        """The last position it was given."""
        return self.positions[-1] if self.positions else 0

    async def run(self, workspace: Workspace) -> None:
        """Follow until cancelled or the engine closes."""
        while True:
            async with workspace.log(after=self._after, follow=True, session_id=self.session_id) as log:
                seen = 0
                async for item in log:
                    seen += isinstance(item, RecordedEvent)
                    self._take(item)
                    if self.manner == "slow" and seen % 500 == 0:
                        await trio.sleep(0.02)
                    if self.manner == "reconnecting" and seen >= 700:
                        break
                else:
                    return
            self.reconnected += 1

    def _take(self, item: object) -> None:
        if isinstance(item, RecordedEvent):
            self.positions.append(item.position)
            self._after = item.cursor
        elif isinstance(item, CaughtUp):
            self._after = item.cursor
        elif isinstance(item, Lagging):
            self.lagged += 1
        elif isinstance(item, Reset):
            self.resets += 1


async def wait_for(followers: list[Follower], expected: dict[str | None, int], timeout_s: float) -> None:
    """Wait until each follower has reached the last position of what it follows, but not for ever."""
    with trio.move_on_after(timeout_s):
        for follower in followers:
            while follower.last < expected.get(follower.session_id, 0):  # noqa: ASYNC110
                await trio.sleep(0.005)
