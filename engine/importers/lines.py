"""Bytes of a transcript to JSON values, tolerantly, with line numbers.

Owns: what counts as a line, a record, a torn line; every repair of broken JSON and the words that report it.
Must not know: any transcript format, events.
Invariants: a value it yields can be encoded as strict JSON again (no lone surrogates, no NaN, bounded nesting); nothing
but a torn last line is left out in silence of the records: what cannot be read is yielded as raw text; a file that
grows by whole lines yields what it yielded before, then more.

A last line without a newline is a record when it is a whole JSON object, else torn: its rest may still be on its way.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import msgspec

from engine.limits import JSON_DEPTH_MAX

Report = Callable[[int | None, str], None]
"""Takes a 1-based line number, or None for the whole file, and what is wrong with it."""

RECORD_DEPTH_MAX: Final = JSON_DEPTH_MAX - 10
"""Deepest nesting of one record: an event wraps it in a few levels of its own."""
MALFORMED_CHARS_MAX: Final = 1024 * 1024
"""Characters kept of a line that is not JSON. Escaping may make six bytes of one, and the event must stay storable."""
SALVAGE_TRIES_MAX: Final = 200
"""Places of one broken line where a whole record is looked for: each try may cost the length of the line."""
RECORD_MARKS: Final = frozenset({"timestamp", "uuid", "sessionId", "payload"})
"""One of these keys beside `type` tells a record behind a broken one from an object inside the broken one."""

_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK = re.compile(r"[ \t\r\n]*")


@attrs.frozen
class Record:
    """One value of the file: `value` is JSON, or None where `malformed` holds the raw text that is not.

    `line` is 1-based, `digest` stands for the content as written, `size_bytes` is the length of its line.
    """

    line: int
    value: Any
    digest: str
    size_bytes: int
    malformed: str | None = None


def content_digest(content: bytes) -> str:
    """Sixteen hexadecimal digits that stand for a content."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def read_records(data: bytes, report: Report, on_bytes: Callable[[int], None]) -> Iterator[Record]:
    """The records of a file of lines, in order. `on_bytes` is told the bytes of each line, together the whole file."""
    start, number = 0, 0
    while start < len(data):
        end = data.find(b"\n", start)
        number += 1
        stop = len(data) if end < 0 else end + 1
        line = data[start:stop]
        if number == 1:
            line = line.removeprefix(_BOM)
        yield from _records_of_line(line.strip(b" \t\r\n"), number, end < 0, report)
        on_bytes(stop - start)
        start = stop


def read_document(data: bytes, report: Report) -> Any:
    """The value of a file that is one JSON document, or None when it is not one."""
    content = data.removeprefix(_BOM)
    try:
        value = msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        reading = _Lenient(content)
        found = reading.value_at(0)
        if found is None or _BLANK.fullmatch(reading.text, found[1]) is None:
            return None
        value = found[0]
        for problem in reading.problems:
            report(None, problem)
    return None if _too_deep(value, content) else value


def _records_of_line(line: bytes, number: int, last: bool, report: Report) -> Iterator[Record]:
    if not line:
        return
    try:
        value = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        yield from _repaired(line, number, last, report)
        return
    if last and not isinstance(value, dict):
        report(number, "the last line is torn (no newline, no whole JSON object) and was left alone")
    elif _too_deep(value, line):
        report(number, f"nested deeper than {RECORD_DEPTH_MAX}; kept as text")
        yield _malformed(line.decode(errors="replace"), number, len(line), report)
    else:
        yield Record(number, value, content_digest(line), len(line))


def _repaired(line: bytes, number: int, last: bool, report: Report) -> Iterator[Record]:
    """What a line that is not one strict JSON value holds: glued records, repaired ones, raw text between them."""
    reading = _Lenient(line)
    text, place, found = reading.text, 0, 0
    while (place := _skip_blank(text, place)) < len(text):
        decoded = reading.value_at(place)
        if decoded is not None and (not last or isinstance(decoded[0], dict)):
            value, end = decoded
            found += 1
            piece = text[place:end].encode()
            if _too_deep(value, piece):
                report(number, f"nested deeper than {RECORD_DEPTH_MAX}; kept as text")
                yield _malformed(text[place:end], number, len(line), report)
            else:
                yield Record(number, value, content_digest(piece), len(line))
            place = end
            continue
        if last:
            report(number, "the last line is torn (no newline, no whole JSON object) and was left alone")
            break
        end = _next_record(reading, place)
        report(number, "not JSON; kept as text" if end == len(text) else "a broken record before a whole one")
        yield _malformed(text[place:end], number, len(line), report)
        place = end
    if found > 1:
        report(number, f"{found} records on one line; all were read")
    for problem in reading.problems:
        report(number, problem)


def _malformed(text: str, number: int, size_bytes: int, report: Report) -> Record:
    digest = content_digest(text.encode())
    if len(text) > MALFORMED_CHARS_MAX:
        report(number, f"{len(text) - MALFORMED_CHARS_MAX} characters of text that is not JSON were left out")
        text = text[:MALFORMED_CHARS_MAX]
    return Record(number, None, digest, size_bytes, text)


def _next_record(reading: _Lenient, place: int) -> int:
    """Where a whole record begins behind the broken one at `place`; the end of the line when none does."""
    text = reading.text
    begin = place
    for _ in range(SALVAGE_TRIES_MAX):
        begin = text.find('{"', begin + 1)
        if begin < 0:
            break
        decoded = reading.value_at(begin)
        if decoded is None:
            continue
        value, end = decoded
        end = _skip_blank(text, end)
        closed = end == len(text) or text[end] == "{"
        if closed and isinstance(value, dict) and "type" in value and not RECORD_MARKS.isdisjoint(value):
            return begin
    return len(text)


def _skip_blank(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    return place if match is None else match.end()


def _too_deep(value: Any, content: bytes) -> bool:
    if content.count(b"{") + content.count(b"[") <= RECORD_DEPTH_MAX:
        return False
    level = [value]
    for _ in range(RECORD_DEPTH_MAX):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level = [item for item in below if isinstance(item, dict | list)]
        if not level:
            return False
    return True


class _Lenient:
    """Reads JSON as agents write it on a bad day, and remembers what it had to repair."""

    def __init__(self, content: bytes) -> None:
        self.problems: list[str] = []
        try:
            self.text = content.decode()
        except UnicodeDecodeError:
            self.text = content.decode(errors="replace")
            self._note("bytes that are not UTF-8 were replaced by U+FFFD")
        self._decoder = json.JSONDecoder(
            strict=False, parse_float=self._float, parse_int=self._int, parse_constant=self._constant
        )

    def value_at(self, place: int) -> tuple[Any, int] | None:
        """The JSON value that starts at `place` and where it ends, or None when no whole one does."""
        before = list(self.problems)
        try:
            value, end = self._decoder.raw_decode(self.text, place)
            return self._clean(value), end
        except (ValueError, RecursionError):
            self.problems = before
            return None

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _constant(self, text: str) -> str:
        self._note(f"{text} has no JSON form; kept as text")
        return text

    def _float(self, text: str) -> float | str:
        value = float(text)
        if math.isfinite(value):
            return value
        self._note("a number out of range was kept as text")
        return text[:1000]

    def _int(self, text: str) -> int | str:
        if len(text) <= 1000:
            return int(text)
        self._note("a number out of range was kept as text")
        return text[:1000]

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            if _SURROGATE.search(value) is None:
                return value
            self._note("a lone surrogate was replaced by U+FFFD")
            return _SURROGATE.sub("\ufffd", value)
        if isinstance(value, dict):
            return {self._clean(key): self._clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._clean(item) for item in value]
        return value
