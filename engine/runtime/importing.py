"""Bringing transcripts into the log: what is new is appended, what changed is replaced, what is there is left alone.

Owns: comparing a parsed session with what the log holds as imported, the chunks, the report.
Must not know: transcript formats, SQL.
Invariants: an import is as often repeatable as one likes (`unchanged`); what is stored as imported is compared by event
id and content, in order, found by a pass that trusts no secondary index; a crash between two chunks leaves a prefix, which
the next import completes; a replacement is one transaction; one session's or file's failure does not stop the others.

A session that was removed on purpose is imported anew when its file is given again: asking for the file is asking for it.
One importer runs at a time in a workspace; two would only waste work, because every event has a deterministic id.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

import attrs
import trio

from engine.errors import CallerError, EngineError, ImportFileError, StorageCorruptError
from engine.events import Duplicate, Envelope, Receipt, Registry, digest, prepare
from engine.importers import ImportedSession, ImportIssue, Transcript, read_transcript
from engine.limits import Limits
from engine.ports import Ports
from engine.store import ImportedRow, LogReader

if TYPE_CHECKING:
    from engine.runtime.engine import Workspace

CHUNK_EVENTS_MAX: Final = 500
"""Events of one transaction of an import: others of the same engine wait for no more than that."""

State = Literal["new", "grown", "unchanged", "older", "replaced", "failed"]


@attrs.frozen(kw_only=True)
class SessionResult:
    """What became of one session of a transcript.

    `new`: it was not there. `grown`: only the rest was appended. `unchanged`: everything was there. `older`: the log holds a
    longer state of the same transcript. `replaced`: what was imported before is not a prefix of this, so it was replaced.
    `failed`: see `problem`.
    """

    session_id: str
    state: State
    events: int
    """Events of the session in this file."""
    new_events: int = 0
    """Events that this import wrote."""
    problem: str | None = None


@attrs.frozen(kw_only=True)
class FileResult:
    """What became of one file. `problem` says why it could not be read at all."""

    path: str
    format: str | None = None
    records: int = 0
    sessions: tuple[SessionResult, ...] = ()
    issues: tuple[ImportIssue, ...] = ()
    problem: str | None = None

    @property
    def new_events(self) -> int:
        """Events that this import wrote."""
        return sum(session.new_events for session in self.sessions)

    @property
    def failed(self) -> bool:
        """Whether the file, or a session of it, could not be imported."""
        return self.problem is not None or any(session.state == "failed" for session in self.sessions)


class _Stored:
    """The imported events of one session, in order, as a count and a digest over all of them."""

    def __init__(self) -> None:
        self.events = 0
        self.chain = b""
        self.drifted = False
        self._seq = 0

    def add(self, event_id: str | None, content: bytes | None) -> None:
        """Take in the next event."""
        link = f"{event_id}\0".encode() + (content or b"")
        self.chain = hashlib.blake2b(self.chain + link, digest_size=16).digest()
        self.events += 1

    def add_row(self, row: ImportedRow) -> None:
        """Take in a stored event. Rows whose seq does not rise are there twice: the index that forbids it has drifted."""
        self.drifted = self.drifted or row.seq <= self._seq
        self._seq = row.seq
        self.add(row.event_id, row.digest)


class Importer:
    """Imports transcripts into one workspace. Made by `Workspace.importer()`."""

    def __init__(self, workspace: Workspace, reader: LogReader, registry: Registry, ports: Ports, limits: Limits) -> None:
        self._workspace = workspace
        self._reader = reader
        self._registry = registry
        self._ports = ports
        self._limits = limits
        self._stored: dict[str, _Stored] | None = None

    async def file(self, path: str | os.PathLike[str], *, on_bytes: Callable[[int], None] | None = None) -> FileResult:
        """Read a transcript and import it. `on_bytes(n)` hears of progress.

        A file that cannot be read, and a session that cannot be imported, are told in the result. Raises what concerns
        every file: a `StorageError` other than corruption, `ClosedError`, `BrokenError`, `OutcomeUnknownError`. Cancelled:
        whole chunks are there or not; the next import of the file completes it.
        """
        await trio.lowlevel.checkpoint()
        try:
            transcript = read_transcript(path, on_bytes=on_bytes)
        except ImportFileError as problem:
            return FileResult(path=problem.path, problem=problem.problem)
        return await self.transcript(transcript)

    async def transcript(self, transcript: Transcript) -> FileResult:
        """Import what was read from a file. See `file`."""
        results = [await self._session(session) for session in transcript.sessions]
        return FileResult(
            path=transcript.path,
            format=transcript.format,
            records=transcript.records,
            sessions=tuple(results),
            issues=transcript.issues,
        )

    async def _session(self, session: ImportedSession) -> SessionResult:
        count = len(session.envelopes)
        try:
            state, written = await self._bring_in(session)
        except EngineError as problem:
            self._stored = None
            if not isinstance(problem, CallerError | StorageCorruptError):
                raise
            return SessionResult(session_id=session.session_id, state="failed", events=count, problem=str(problem))
        return SessionResult(session_id=session.session_id, state=state, events=count, new_events=written)

    async def _bring_in(self, session: ImportedSession) -> tuple[State, int]:
        name, envelopes = session.session_id, session.envelopes
        links = [self._link(envelope) for envelope in envelopes]
        reader, workspace = self._reader, self._workspace.name
        if await self._ports.step(lambda: reader.live_session(workspace, name)) is None:
            written = await self._append(name, envelopes)
            self._remember(name, links)
            return "new", written
        stored = (await self._all_stored()).get(name)
        if stored is None:
            problem = "a session of this id exists, and nothing in it was imported"
            raise ImportFileError(f"session {name!r}", problem)
        state = await self._compare(name, stored, links)
        if state == "grown":
            try:
                written = await self._append(name, envelopes[stored.events :])
            except StorageCorruptError:
                # An index that lists rows which are not there: only a replacement finds its way around it.
                state = "replaced"
        if state == "replaced":
            written = _written(await self._workspace.replace_imported(name, envelopes))
        if state in ("unchanged", "older"):
            return state, 0
        self._remember(name, links)
        return state, written

    def _link(self, envelope: Envelope) -> tuple[str | None, bytes]:
        prepared = prepare(self._registry, envelope, self._limits)
        definition = prepared.definition
        return prepared.event_id, digest(definition.name, definition.version, prepared.data)

    async def _compare(self, name: str, stored: _Stored, links: Sequence[tuple[str | None, bytes]]) -> State:
        if stored.drifted:
            return "replaced"
        if stored.events <= len(links):
            same = _chain(links[: stored.events]).chain == stored.chain
            return "replaced" if not same else "unchanged" if stored.events == len(links) else "grown"
        beginning = (await self._scan(name, len(links))).get(name)
        older = beginning is not None and beginning.chain == _chain(links).chain
        return "older" if older else "replaced"

    async def _append(self, name: str, envelopes: Sequence[Envelope]) -> int:
        written = 0
        for start in range(0, len(envelopes), CHUNK_EVENTS_MAX):
            chunk = envelopes[start : start + CHUNK_EVENTS_MAX]
            written += _written(await self._workspace.import_events(name, chunk))
        return written

    # --- what is stored -----------------------------------------------------------------------

    async def _all_stored(self) -> dict[str, _Stored]:
        """What every session holds as imported: one pass over the log, made when it is first needed."""
        if self._stored is None:
            self._stored = await self._scan(None, None)
        return self._stored

    async def _scan(self, name: str | None, count: int | None) -> dict[str, _Stored]:
        """The imported events of one session or all, the first `count` or all, page by page."""
        found: dict[str, _Stored] = {}
        after, left = 0, count
        while left is None or left > 0:
            limit = self._limits.page_items_max if left is None else min(left, self._limits.page_items_max)
            page = await self._page(name, after, limit)
            for row in page:
                found.setdefault(row.session_id, _Stored()).add_row(row)
            if len(page) < limit:
                break
            after = page[-1].position
            left = None if left is None else left - len(page)
            await trio.lowlevel.checkpoint()
        return found

    async def _page(self, name: str | None, after: int, limit: int) -> list[ImportedRow]:
        workspace = self._workspace.name
        return await self._ports.step(lambda: self._reader.imported(workspace, after=after, session_id=name, limit=limit))

    def _remember(self, name: str, links: Sequence[tuple[str | None, bytes]]) -> None:
        if self._stored is not None:
            self._stored[name] = _chain(links)


def _chain(links: Sequence[tuple[str | None, bytes]]) -> _Stored:
    chain = _Stored()
    for event_id, content in links:
        chain.add(event_id, content)
    return chain


def _written(receipt: Receipt) -> int:
    return sum(not isinstance(entry.outcome, Duplicate) and entry.seq is not None for entry in receipt.events)
