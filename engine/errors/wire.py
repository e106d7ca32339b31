"""Between a server and its clients."""

from __future__ import annotations

from typing import ClassVar, Final

import attrs

from engine.errors.root import EngineError, Written

UNANSWERED: Final = "whether it was written is unknown until it is sent again with the same ids"


@attrs.define(slots=False, eq=False, str=False)
class WireError(EngineError):
    """Something between a server and a client. What went wrong behind it comes as the error that it is."""


@attrs.define(slots=False, eq=False, str=False)
class MalformedFrameError(WireError):
    """What was sent is no frame of the protocol, or comes where it may not."""

    problem: str

    def describe(self) -> str:
        return f"frame: {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class ForbiddenError(WireError):
    """The token allows reading only."""

    operation: str

    def describe(self) -> str:
        return f"{self.operation}: this token may only read"


@attrs.define(slots=False, eq=False, str=False)
class LimitError(WireError):
    """The connection has as much as it may have; `limit` is the limit's name."""

    operation: str
    limit: str
    allowed: int

    def describe(self) -> str:
        return f"{self.operation}: {self.limit} is {self.allowed}"


@attrs.define(slots=False, eq=False, str=False)
class UnauthorizedError(WireError):
    """The server does not accept this token (or wants one)."""

    url: str
    problem: str

    def describe(self) -> str:
        return f"connect to {self.url}: {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class UnreachableError(WireError):
    """No server could be reached there, or it would not talk. Trying again later may help."""

    url: str
    problem: str

    def describe(self) -> str:
        return f"connect to {self.url}: {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class ProtocolError(WireError):
    """The server speaks another version, or not as the protocol says."""

    url: str
    problem: str

    def describe(self) -> str:
        return f"talk to {self.url}: {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class RemoteError(WireError):
    """The server refused with an error that this version does not know."""

    code: str
    problem: str

    def describe(self) -> str:
        return f"the server refused ({self.code}): {self.problem}"


@attrs.define(slots=False, eq=False, str=False)
class ConnectionLostError(WireError):
    """The client gave up, or was closed, while a command was on its way. The same ids sent again tell what became of it."""

    written: ClassVar[Written] = "unknown"
    operation: str
    problem: str

    def describe(self) -> str:
        return f"{self.operation}: {self.problem}"

    def __str__(self) -> str:
        return f"{self.describe()}; {UNANSWERED}"
