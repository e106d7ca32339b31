"""What a server needs of an engine, as types: the engine itself is above no room that this one may import.

Owns: the shapes. Must not know: who has them (`engine.runtime` does; a test checks it with the type checker).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from engine.events import After, Cursor, LogItem, Receipt
from engine.limits import StreamLimits
from engine.ports import Ports


class ServedSession(Protocol):
    """A handle on one life of a session."""

    @property
    def incarnation(self) -> int: ...

    async def append(self, *events: Any, expected_seq: int | None = None, strict: bool = False) -> Receipt: ...

    async def post(self, *events: Any, sink: Any = None) -> None: ...

    async def drain(self) -> None: ...

    async def stop(self, reason: str = "stopped") -> bool: ...


class ServedPage(Protocol):
    """A page of a read, with the cursor of its snapshot."""

    @property
    def items(self) -> tuple[Any, ...]: ...

    @property
    def cursor(self) -> Cursor: ...

    @property
    def more(self) -> bool: ...


class ServedSessionSnapshot(Protocol):
    """A session in a snapshot."""

    @property
    def session(self) -> Any: ...

    @property
    def messages(self) -> tuple[Any, ...]: ...

    @property
    def more(self) -> bool: ...

    @property
    def usage(self) -> Any: ...


class ServedSnapshot(Protocol):
    """Sessions at one place in the log."""

    @property
    def sessions(self) -> Sequence[ServedSessionSnapshot]: ...

    @property
    def more(self) -> bool: ...

    @property
    def cursor(self) -> Cursor: ...


class ServedReadModel(Protocol):
    """The read model of a workspace."""

    async def snapshot(
        self, session_ids: str | Collection[str] | None = None, *, messages: int = 50, sessions: int = 50
    ) -> ServedSnapshot: ...

    async def messages(
        self, session_id: str, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> ServedPage: ...


class ServedLog(Protocol):
    """A reader of the log."""

    @property
    def cursor(self) -> Cursor: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    async def batch(self, events_max: int, bytes_max: int) -> list[LogItem]: ...


class ServedWorkspace(Protocol):
    """Everything one workspace sees."""

    @property
    def read(self) -> ServedReadModel: ...

    async def session(self, session_id: str, *, incarnation: int | None = None) -> ServedSession: ...

    async def last_session(self, session_id: str) -> ServedSession: ...

    async def open_session(
        self,
        session_id: str,
        *,
        title: str | None = None,
        parent_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        event_id: str | None = None,
    ) -> Receipt: ...

    def parse_event(self, type_name: str, data: bytes) -> Any: ...

    def log(
        self,
        *,
        after: After = ...,
        follow: bool = False,
        session_id: str | Collection[str] | None = None,
        skipped: bool = True,
        limits: StreamLimits | None = None,
    ) -> ServedLog: ...


class Served(Protocol):
    """An open engine."""

    @property
    def epoch(self) -> str: ...

    @property
    def ports(self) -> Ports: ...

    async def head(self) -> Cursor: ...

    async def wait_closing(self) -> None: ...

    def workspace(self, name: str) -> ServedWorkspace: ...
