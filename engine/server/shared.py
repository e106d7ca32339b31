"""What the connections of one server share.

Owns: nothing but the record. Must not know: what a connection does with it.
"""

from __future__ import annotations

import logging
from typing import Final

import attrs
import trio

from engine.limits import ServerLimits
from engine.ports import Ports
from engine.server.access import Grant, Tokens
from engine.server.served import Served
from engine.server.statistics import Counters
from engine.server.stopping import Stops
from engine.server.texts import Texts

log: Final = logging.getLogger("engine.server")


@attrs.frozen(eq=False, kw_only=True)
class Shared:
    """One server's engine, rules, counters and nursery."""

    engine: Served
    limits: ServerLimits
    ports: Ports
    tokens: Tokens
    grant: Grant
    """What a connection may do where no tokens are needed."""
    origins: tuple[str, ...]
    work: trio.Nursery
    """Where commands are carried out: a connection's end does not end them."""
    texts: Texts
    stops: Stops
    counters: Counters = attrs.field(factory=Counters)

    def spawn(self, nursery: trio.Nursery, function: object, name: str) -> None:
        """Start a task under a stable name."""
        self.ports.spawn(nursery, function, name=name)  # type: ignore[arg-type]
