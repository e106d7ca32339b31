"""One direction of a connection: bytes in order, bounded, that arrive at once or later, or never.

Owns: what was sent and has not been read. Must not know: that there is another direction, who decides.
Invariants: bytes keep their order; what has been lost never arrives, and nothing arrives behind it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import attrs
import trio

BUFFER_BYTES_MAX: Final = 65_536
"""Unread bytes of a direction before its sender waits: a small socket buffer, so that slow readers are felt soon."""


@attrs.define(eq=False)
class _Unit:
    """Bytes that arrive together."""

    data: bytes
    at: float
    """When they arrive, on trio's clock."""
    alone: bool = False
    """Whether what is behind them is not read with them."""


class Direction:
    """One direction of a connection: what was sent and has not been read."""

    def __init__(self) -> None:
        self.size = 0
        """Unread bytes, arrived or not."""
        self.ended = False
        """The sender closed: after what was sent comes the end."""
        self.broken = False
        """After what has arrived comes nothing, not even an end."""
        self.abandoned = False
        """The reader closed."""
        self._units: deque[_Unit] = deque()
        self._reader = trio.lowlevel.ParkingLot()
        self._writer = trio.lowlevel.ParkingLot()
        self._timer: trio.CancelScope | None = None

    # --- the sender's side --------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Bytes that can be put without waiting."""
        return max(0, BUFFER_BYTES_MAX - self.size)

    def put(self, data: bytes, delay_s: float = 0.0, *, alone: bool = False) -> None:
        """Send bytes. They arrive after those that were sent before."""
        if not data:
            return
        at = trio.current_time() + delay_s
        if self._units:
            at = max(at, self._units[-1].at)
        self._units.append(_Unit(data, at, alone))
        self.size += len(data)
        self._tell()

    async def wait_for_room(self) -> None:
        """Wait until there may be room, or no reason to wait for it."""
        await self._writer.park()

    # --- the reader's side --------------------------------------------------------------------------

    @property
    def readable(self) -> bool:
        """Whether reading would not wait."""
        if self._units:
            return self._units[0].at <= trio.current_time()
        return self.ended or self.broken

    async def arrival(self) -> None:
        """Wait until it may be readable, or no reason to wait for that."""
        at = self._units[0].at if self._units else math.inf
        with trio.CancelScope(deadline=at) as self._timer:
            try:
                await self._reader.park()
            finally:
                self._timer = None

    def take(self, most: int | None) -> bytes:
        """Read what has arrived; empty at the end. Raises `trio.BrokenResourceError`."""
        if not self._units:
            if self.ended:
                return b""
            raise trio.BrokenResourceError("the connection was lost")
        now, taken = trio.current_time(), bytearray()
        while self._units and self._units[0].at <= now and (most is None or len(taken) < most):
            unit = self._units[0]
            wanted = len(unit.data) if most is None else most - len(taken)
            taken += unit.data[:wanted]
            if wanted < len(unit.data):
                unit.data = unit.data[wanted:]
                break
            self._units.popleft()
            if unit.alone:
                break
        self.size -= len(taken)
        self._writer.unpark_all()
        return bytes(taken)

    # --- how it ends --------------------------------------------------------------------------------

    def end(self) -> None:
        """The sender closes."""
        self.ended = self.ended or not self.broken
        self._tell()

    def abandon(self) -> None:
        """The reader closes: what it has not read is gone."""
        self.abandoned = True
        self._units.clear()
        self.size = 0
        self._tell()

    def break_off(self) -> None:
        """What has not arrived is lost, and so is everything that is still to be sent."""
        if self.size or not self.ended:
            self.ended, self.broken = False, True
        now = trio.current_time()
        while self._units and self._units[-1].at > now:
            self.size -= len(self._units.pop().data)
        self._tell()

    # --- what can be done to it ---------------------------------------------------------------------

    def hold(self, seconds: float) -> None:
        """Let what has not been read arrive so much later than now."""
        at = trio.current_time() + seconds
        for unit in self._units:
            unit.at = max(unit.at, at)

    def arrive(self, most: int | None = None) -> None:
        """Everything has arrived, or only so many bytes of it, and the rest is lost."""
        now = trio.current_time()
        for unit in self._units:
            unit.at = min(unit.at, now)
        if most is not None and most < self.size:
            behind = self.split(most)
            self.ended = False
            while len(self._units) > behind:
                self.size -= len(self._units.pop().data)

    def split(self, after: int) -> int:
        """Let so many bytes be read alone; how many units those are. There must be more."""
        number = 0
        for number, unit in enumerate(self._units):  # noqa: B007
            if after <= len(unit.data):
                break
            after -= len(unit.data)
        unit = self._units[number]
        if 0 < after < len(unit.data):
            self._units.insert(number + 1, _Unit(unit.data[after:], unit.at, unit.alone))
            unit.data = unit.data[:after]
        unit.alone = unit.alone or after > 0
        return number + (after > 0)

    def _tell(self) -> None:
        if not self._units or self.readable:
            self._reader.unpark_all()
        elif self._timer is not None:
            self._timer.deadline = self._units[0].at
        self._writer.unpark_all()
