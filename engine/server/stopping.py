"""Answers to `stop` that are kept for a client that asks again.

Owns: who stopped what. Must not know: connections, frames.
What a stop ends lives no longer than the process, so its answer needs no longer life either. Invariants: a command id stops
once; whoever asks again while the first still waits, waits with it; a stop that failed is not kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

Key = tuple[str, str, int | None, str]
"""(workspace, session, incarnation as it was given, command id)."""


@attrs.define(eq=False)
class _Stop:
    done: trio.Event = attrs.field(factory=trio.Event)
    stopped: bool | None = None
    """None while it runs, and when it failed."""


class Stops:
    """The stops of one server, the latest `kept_max` of them."""

    def __init__(self, kept_max: int) -> None:
        self._kept_max = kept_max
        self._stops: dict[Key, _Stop] = {}

    async def once(self, key: Key, stop: Callable[[], Awaitable[bool]]) -> bool:
        """Carry the stop out, or give the answer that it had. Raises what `stop` raises.

        Cancelled, or failed: the next one stops anew.
        """
        while (known := self._stops.get(key)) is not None:
            await known.done.wait()
            if known.stopped is not None:
                return known.stopped
        made = self._stops[key] = _Stop()
        try:
            made.stopped = await stop()
        finally:
            if made.stopped is None:
                del self._stops[key]
            made.done.set()
        self._forget()
        return made.stopped

    def _forget(self) -> None:
        over = len(self._stops) - self._kept_max
        if over > 0:
            settled = [key for key, stop in self._stops.items() if stop.done.is_set()]
            for key in settled[:over]:
                del self._stops[key]
