"""The two ends of a connection in memory, as trio streams.

Owns: what an end does to its two directions: sending, receiving, closing, dying; what a disturbance does to it. Must not
know: addresses, who listens, which process an end belongs to.
Invariants: an operation is one step, with a decision of the scheduler before it takes effect.
"""

from __future__ import annotations

import operator
from random import Random

import attrs
import trio

from engine.simulation.choices import Op, clean_label
from engine.simulation.network.directions import Direction
from engine.simulation.network.points import Points, acting
from engine.simulation.primitives import before


class _OneAtATime:
    """Refuses a second task."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._busy = False

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(f"another task is {self._doing} on this stream")
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False


class SimulatedStream(trio.abc.Stream):
    """One end of a connection."""

    def __init__(self, points: Points, peer: str, outgoing: Direction, incoming: Direction, keys: tuple[str, str]) -> None:
        self.peer = peer
        """What the other end is called in labels."""
        self._points = points
        self._out = outgoing
        self._in = incoming
        self._closed = False
        self._dead = False
        self._sending = _OneAtATime("sending")
        self._receiving = _OneAtATime("receiving")
        self._send_op = Op(clean_label(f"send to {peer}"), (), keys[:1], wire=True)
        self._receive_op = Op(clean_label(f"receive from {peer}"), (), keys[1:], wire=True)
        self._close_op = Op(clean_label(f"close to {peer}"), (), keys)

    def __repr__(self) -> str:
        return f"<SimulatedStream to {self.peer}>"

    def _must_be_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed here")
        if self._dead:
            raise trio.BrokenResourceError("the process of this stream has died")

    # --- sending ------------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, as one unit that arrives together; waits for room in the buffer.

        Raises `trio.BrokenResourceError`, `trio.ClosedResourceError`, `trio.BusyResourceError`. Cancelled, a part of it may
        have been sent.
        """
        with self._sending:
            unit = _Sending(self, bytes(data))
            if unit.data and not self._closed and not self._dead:
                await self._points.before(self._send_op, "send", unit.disturb)
            else:
                await trio.lowlevel.checkpoint()
            if unit.split:
                await self._put(unit.data[: unit.split], unit.delay_s, alone=True)
            await self._put(unit.data[unit.split :], unit.delay_s)

    async def _put(self, data: bytes, delay_s: float, *, alone: bool = False) -> None:
        out = self._out
        while True:
            self._must_be_open()
            if out.broken:
                raise trio.BrokenResourceError("the connection was lost")
            if not data:
                return
            if out.abandoned:
                out.break_off()  # TCP takes what is sent, and learns only then that nobody wants it
                return
            room = out.room
            out.put(data[:room], delay_s, alone=alone and room >= len(data))
            data = data[room:]
            if data:
                await self._blocked()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room in the buffer, or until sending would fail. Raises as `send_all` does."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._must_be_open()
            while not self._out.room and not self._out.broken and not self._out.abandoned:
                await self._blocked()
                self._must_be_open()

    async def _blocked(self) -> None:
        actor = acting()
        if actor is not None:
            actor.waiting = "room to send"
        await self._out.wait_for_room()

    # --- receiving ----------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has arrived, in at most so many bytes; empty at the end. Raises as `send_all` does."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError(f"receive_some: expected 1 byte or more, found {max_bytes}")
        with self._receiving:
            if self._closed or self._dead:
                await trio.lowlevel.checkpoint()
            elif self._in.readable:
                await self._points.before(self._receive_op, "receive", self._disturb_receive)
            self._must_be_open()
            while not self._in.readable:
                await self._points.parked(self._receive_op, "receive", self._in.arrival, self._disturb_receive)
                self._must_be_open()
            return self._in.take(max_bytes)

    # --- closing, breaking --------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close this end. Cancelled, it is closed all the same."""
        if self._closed or acting() is None:
            self.hang_up()
            await trio.lowlevel.checkpoint()
            return
        await before(self._close_op, "close")
        self.hang_up()
        await trio.lowlevel.checkpoint_if_cancelled()

    def hang_up(self) -> None:
        """Close this end at once."""
        if not self._closed and not self._dead:
            self._leave()
        self._closed = True
        self._in.abandon()

    def die(self, power: Random | None = None) -> None:
        """The process of this end dies: as if it closed. `power`: its machine; any part of what was sent has arrived."""
        if self._closed or self._dead:
            return
        self._dead = True
        if power is not None:
            self._out.arrive(int(power.choice((0.0, power.random(), 1.0)) * self._out.size))
            self._lose()
        else:
            self._leave()
        self._in.abandon()

    def cut_off(self) -> None:
        """Nobody will ever read or write this end."""
        self._closed = True
        self._out.break_off()
        self._in.abandon()

    def _leave(self) -> None:
        if self._in.size:
            self._lose()
        else:
            self._out.end()

    def _lose(self) -> None:
        self._in.break_off()
        self._out.break_off()

    def _disturb_receive(self, way: str, amount: int | None) -> bool:
        if self._closed or self._dead or self._in.broken:
            return False
        if way == "lost":
            self._in.arrive(amount)
            self._lose()
            return True
        if amount is None or self._in.size <= (amount if way == "split" else 0):
            return False
        if way == "split":
            self._in.split(amount)
        else:
            self._in.hold(amount / 1000)
        return True

    def _disturb_send(self, unit: _Sending, way: str, amount: int | None) -> bool:
        if self._closed or self._dead or self._out.broken:
            return False
        if way == "lost":
            self._out.arrive()
            self._out.put(b"" if self._out.abandoned else unit.data[:amount])
            self._lose()
        elif way == "split":
            if amount is None or amount >= len(unit.data):
                return False
            unit.split = amount
        else:
            unit.delay_s = (amount or 0) / 1000
        return True


@attrs.define(eq=False)
class _Sending:
    """One `send_all`, and what is to happen to it."""

    stream: SimulatedStream
    data: bytes
    delay_s: float = 0.0
    split: int = 0

    def disturb(self, way: str, amount: int | None) -> bool:
        return self.stream._disturb_send(self, way, amount)


def connection(points: Points, name: str, to: str) -> tuple[SimulatedStream, SimulatedStream]:
    """The two ends of a new connection: of whoever opened it, under this name, and of whoever is `to` be reached."""
    there, back = Direction(), Direction()
    keys = (f"net {name} to", f"net {name} from")
    return (
        SimulatedStream(points, to, there, back, keys),
        SimulatedStream(points, name, back, there, keys[::-1]),
    )
