"""Who listens where, who connects to whom, and what belongs to which process.

Owns: addresses, listeners, the networks of processes, names of connections. Must not know: how bytes travel.
Invariants: a connection is named after the actor that opened it, never by its number in the run, so that other schedules
call it the same; an address is free again when its listener closes or its process dies.
"""

from __future__ import annotations

import errno
import os
from collections import Counter, deque
from random import Random
from typing import Final

import attrs
import trio

from engine.ports import Listening
from engine.simulation.actors import Actor
from engine.simulation.choices import Op, clean_label
from engine.simulation.network.points import Points, acting
from engine.simulation.network.streams import SimulatedStream, connection
from engine.simulation.primitives import before

BACKLOG_MAX: Final = 128
"""Connections of a listener that nobody has accepted; further ones are refused."""
FREE_PORTS: Final = range(49_152, 65_536)
"""Where port 0 looks for the lowest free one: what IANA leaves for private use."""
OWN_HOST: Final = "localhost"
_OWN_HOSTS: Final = ("", "0.0.0.0", "127.0.0.1", "::", "::1")

Address = tuple[str, int]


@attrs.define(eq=False)
class _Wires:
    """What all processes of a run share."""

    points: Points = attrs.field(factory=Points)
    listeners: dict[Address, SimulatedListener] = attrs.field(factory=dict)
    opened: Counter[str] = attrs.field(factory=Counter)
    """Connections opened by each actor."""


@attrs.define(eq=False)
class _Connecting:
    """One `connect`, and what is to happen to it."""

    refused: bool = False
    delay_s: float = 0.0

    def disturb(self, way: str, amount: int | None) -> bool:
        if way == "lost":
            self.refused = True
        elif way == "delay":
            self.delay_s = (amount or 0) / 1000
        return way != "split"


class SimulatedNetwork:
    """The network as one process sees it; `process()` is how another one does."""

    def __init__(self, wires: _Wires | None = None) -> None:
        self._wires = wires if wires is not None else _Wires()
        self._streams: list[SimulatedStream] = []
        self._listeners: list[SimulatedListener] = []
        self._dead = False

    @property
    def used(self) -> bool:
        """Whether anything was opened through it."""
        return bool(self._streams or self._listeners)

    def process(self) -> SimulatedNetwork:
        """The same network for a process of its own, to which what it opens and accepts belongs."""
        return SimulatedNetwork(self._wires)

    def disturb(self, actor: Actor, value: str) -> bool:
        """Carry out a `net`; see the package."""
        return self._wires.points.disturb(actor, value)

    async def connect(self, host: str, port: int) -> SimulatedStream:
        """A stream to whoever listens there. Raises `ConnectionRefusedError`."""
        wires, address, shown = self._wires, _address(host, port), f"{host}:{port}"
        connecting = _Connecting()
        op = Op(clean_label(f"connect to {shown}"), (), (_key(address),), wire=True)
        await wires.points.before(op, "connect", connecting.disturb)
        if connecting.delay_s:
            await trio.sleep(connecting.delay_s)
        self._must_live()
        listener = wires.listeners.get(address)
        if connecting.refused or listener is None or not listener.offers_room:
            raise _problem(ConnectionRefusedError, errno.ECONNREFUSED, f"connect to {shown}")
        actor = acting()
        name = actor.name if actor is not None else "somebody"
        wires.opened[name] += 1
        if wires.opened[name] > 1:
            name = f"{name} ({wires.opened[name]})"
        here, there = connection(wires.points, name, shown)
        self.owns(here)
        listener.offer(there)
        if actor is not None:
            actor.brings(name)
        return here

    async def listen(self, host: str, port: int) -> Listening:
        """Listen on a port of a host; 0 for the lowest free one. Raises `OSError` where it is taken."""
        wires = self._wires
        await wires.points.before(Op(clean_label(f"listen on {host}:{port}"), (), (_key(_address(host, port)),)), "listen")
        self._must_live()
        if port == 0:
            port = next((free for free in FREE_PORTS if _address(host, free) not in wires.listeners), 0)
        address = _address(host, port)
        if port == 0 or address in wires.listeners:
            raise _problem(OSError, errno.EADDRINUSE, f"listen on {host}:{port}")
        listener = wires.listeners[address] = SimulatedListener(self, address)
        self._listeners.append(listener)
        return Listening(listeners=(listener,), port=port)

    def owns(self, stream: SimulatedStream) -> None:
        """The stream ends with this process."""
        self._streams.append(stream)

    def die(self, power: Random | None = None) -> None:
        """The process dies: what it opened and accepted is closed. `power`: its machine dies; see `SimulatedStream.die`."""
        self._dead = True
        for listener in self._listeners:
            listener.close()
        for stream in self._streams:
            stream.die(power)

    def _must_live(self) -> None:
        if self._dead:
            raise _problem(OSError, errno.ENETDOWN, "the process of this network has died")


class SimulatedListener(trio.abc.Listener[SimulatedStream]):
    """Accepts the connections to one address, in the order in which they were opened."""

    def __init__(self, network: SimulatedNetwork, address: Address) -> None:
        self._network = network
        self._address = address
        self._offered: deque[SimulatedStream] = deque()
        self._closed = False
        self._waiting = trio.lowlevel.ParkingLot()
        self._accept_op = Op("accept", (), (f"{_key(address)} accepted",))
        self._close_op = Op("close the listener", (), (_key(address),))

    @property
    def offers_room(self) -> bool:
        """Whether one more can wait to be accepted."""
        return len(self._offered) < BACKLOG_MAX

    def offer(self, stream: SimulatedStream) -> None:
        """Somebody connects."""
        self._offered.append(stream)
        self._waiting.unpark()

    async def accept(self) -> SimulatedStream:
        """The next connection. The task that is started for it at once is named after it. Raises `ClosedResourceError`."""
        points = self._network._wires.points
        if self._closed or self._offered:
            await points.before(self._accept_op, "accept")
        while not self._offered and not self._closed:
            await points.parked(self._accept_op, "accept", self._waiting.park)
        if self._closed:
            raise trio.ClosedResourceError("this listener was closed")
        stream = self._offered.popleft()
        self._network.owns(stream)
        actor = acting()
        if actor is not None:
            actor.brings(stream.peer)
        return stream

    async def aclose(self) -> None:
        """Free the address; whoever has not been accepted is cut off."""
        if not self._closed and acting() is not None:
            await before(self._close_op, "close")
            self.close()
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """The same, at once."""
        if not self._closed:
            self._closed = True
            del self._network._wires.listeners[self._address]
            for stream in self._offered:
                stream.cut_off()
            self._waiting.unpark_all()


def _address(host: str, port: int) -> Address:
    return (OWN_HOST if host in _OWN_HOSTS else host, port)


def _key(address: Address) -> str:
    return f"net {address[0]}:{address[1]}"


def _problem(kind: type[OSError], number: int, what: str) -> OSError:
    return kind(number, f"{what}: {os.strerror(number)}")
