"""Importers: transcripts of real agents to events. Files in, events out; no database.

Owns: which files are transcripts, which format one has (by content, never by name), and the answer's shape.
Must not know: the store, trio, what is done with the events.
Invariants: the same file gives the same answer; a file that grew by whole lines gives, for each session, the old
envelopes first and then more: nothing is concluded from the end of the file. What is odd is an `ImportIssue` with its
line; what has no word in the vocabulary is kept raw as `SessionNoted`.

Usage, in every format: `input_tokens` leaves cached ones out (`cache_read_tokens`, `cache_write_tokens`);
`output_tokens` is all output, `reasoning_tokens` the part of it that was reasoning.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from engine.errors import ImportFileError
from engine.events import Envelope
from engine.importers import claude_code, codex, opencode
from engine.importers.builder import SessionBuilder
from engine.importers.lines import Record, content_digest, read_document, read_records

__all__ = ["ImportIssue", "ImportedSession", "Transcript", "find_transcripts", "read_transcript"]

SUFFIXES: Final = (".jsonl", ".json")

Reader = claude_code.Reader | codex.Reader | opencode.Reader


@attrs.frozen
class ImportIssue:
    """Something a person should know; never fatal. `line` is 1-based, None where it is about the whole file."""

    path: str
    line: int | None
    problem: str


@attrs.frozen
class ImportedSession:
    """One session of a file. The first envelope holds its `SessionStarted`; `format` is the transcript's."""

    session_id: str
    format: str
    envelopes: tuple[Envelope, ...]


@attrs.frozen
class Transcript:
    """What a file holds. Parents come before their children; `records` counts what was read, notes included."""

    path: str
    format: str
    sessions: tuple[ImportedSession, ...]
    issues: tuple[ImportIssue, ...]
    records: int


def read_transcript(path: str | os.PathLike[str], *, on_bytes: Callable[[int], None] | None = None) -> Transcript:
    """Read a transcript of Claude Code (`claude_code`), Codex (`codex`) or opencode (`opencode`).

    `on_bytes(n)` is called as bytes are consumed, together as many as the file has. A file that names no session yet
    gives no sessions and an issue. Raises `ImportFileError` for a file that is unreadable, empty or of no known format.
    """
    name = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise ImportFileError(name, f"cannot be read ({reason})") from None
    if not data.strip():
        raise ImportFileError(name, "is empty")
    issues: list[ImportIssue] = []

    def report(line: int | None, problem: str) -> None:
        issues.append(ImportIssue(name, line, problem))

    document = _document(data, report)
    if document is not None:
        records: Iterator[Record] = iter(document)
        _told(on_bytes, len(data))
    else:
        records = read_records(data, report, lambda size: _told(on_bytes, size))
    format_name, reader, count = _read(records, name, report)
    if reader.waiting:
        report(None, f"{reader.waiting} records belong to no session that the file names so far")
    sessions = tuple(
        ImportedSession(builder.session_id, format_name, tuple(builder.envelopes))
        for builder in _parents_first(list(reader.builders.values()))
    )
    return Transcript(name, format_name, sessions, tuple(issues), count)


def find_transcripts(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files to read: files as given, folders searched for `*.jsonl` and `*.json`, each folder's sorted.

    A file is listed once. Raises `ImportFileError` for a path that does not exist.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if path.is_dir():
            inside = (item for item in path.rglob("*") if item.suffix in SUFFIXES and item.is_file())
            found.update(dict.fromkeys(sorted(inside)))
        elif path.exists():
            found[path] = None
        else:
            raise ImportFileError(str(path), "does not exist")
    return list(found)


def _told(on_bytes: Callable[[int], None] | None, size: int) -> None:
    if on_bytes is not None:
        on_bytes(size)


def _document(data: bytes, report: Callable[[int | None, str], None]) -> list[Record] | None:
    """The records of a file that is one JSON document over several lines, else None."""
    first = data.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0]
    alone = first.startswith(b"{") and read_document(first, lambda _line, _problem: None) is not None
    if alone or not first.startswith((b"{", b"[")):
        return None
    found: list[tuple[int | None, str]] = []
    value = read_document(data, lambda line, problem: found.append((line, problem)))
    values = list(opencode.records_of(value))
    if value is None or not any(isinstance(item, dict) and opencode.recognises(item) for item in values):
        return None
    for line, problem in found:
        report(line, problem)
    return [Record(1, item, content_digest(repr(index).encode()), len(data)) for index, item in enumerate(values)]


def _read(records: Iterator[Record], name: str, report: Callable[[int | None, str], None]) -> tuple[str, Reader, int]:
    """Give every record to the reader of the first format that recognises one."""
    early: list[Record] = []
    reader: Reader | None = None
    format_name, count = "", 0
    for record in records:
        count += 1
        if reader is None:
            early.append(record)
            found = _recognise(record.value)
            if found is None:
                continue
            format_name, reader = found.FORMAT, found.Reader(report)
            for waiting in early:
                reader.add(waiting)
            early.clear()
        else:
            reader.add(record)
    if reader is None:
        raise ImportFileError(name, "is no transcript of a known format (claude_code, codex, opencode), or not a whole one")
    return format_name, reader, reader.objects if isinstance(reader, opencode.Reader) else count


def _recognise(value: Any) -> Any:
    if not isinstance(value, dict):
        return None
    return next((module for module in (opencode, codex, claude_code) if module.recognises(value)), None)


def _parents_first(builders: list[SessionBuilder]) -> list[SessionBuilder]:
    """Every session after its parent, else in the order of the file."""
    waiting = {builder.session_id: builder for builder in builders}
    parents = {name: builder.envelopes[0].event.parent_id for name, builder in waiting.items()}
    ordered: dict[str, SessionBuilder] = {}
    for name in waiting:
        line: list[str] = []
        step: str | None = name
        while step is not None and step in waiting and step not in ordered and step not in line:
            line.append(step)
            step = parents[step]
        ordered.update((above, waiting[above]) for above in reversed(line))
    return list(ordered.values())
