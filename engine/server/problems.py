"""Errors as they cross the wire, and back.

Owns: the code of each error, and which class a code stands for. Must not know: who raises what.
Invariants: an error that this version knows arrives as the same class with the same fields; one that it does not know
still says what the server said, and whether anything was written; whatever a frame holds, an error comes of it, with fields
of the types that its class has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args, get_type_hints

import attrs

from engine import errors
from engine.errors import NOTHING, UNANSWERED, UNKNOWN, EngineError, OutcomeUnknownError, RemoteError
from engine.server.frames import Error

TEXT_CHARS_MAX: Final = 4_000
"""A message, or a field of an error, in characters: it may hold what was sent, which may be as large as a frame."""

_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def code_of(cls: type[EngineError]) -> str:
    """The code of an error class: its name in lower case, words joined by underscores, without `Error`."""
    return _HUMP.sub("_", cls.__name__.removesuffix("Error")).lower()


def _classes(cls: type[EngineError]) -> Iterator[type[EngineError]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _classes(below)


CODES: Final[dict[str, type[EngineError]]] = {
    code_of(cls): cls for cls in _classes(EngineError) if cls.__module__.startswith(f"{errors.__name__}.")
}
"""Every error of the engine by its code."""


def _types(cls: type[EngineError]) -> dict[str, tuple[type, ...]]:
    """The types that each field of an error may have."""
    hints = get_type_hints(cls)
    return {field.name: get_args(hints[field.name]) or (hints[field.name],) for field in attrs.fields(cls)}


_FIELDS: Final = {cls: _types(cls) for cls in CODES.values()}


def frame_of(error: EngineError, frame_id: str | None) -> Error:
    """The `error` frame that tells an error."""
    # An error class of somebody else's stands under the nearest one that the wire knows.
    known = next(cls for cls in type(error).__mro__ if CODES.get(code_of(cls)) is cls)
    values = {name: getattr(error, name) for name in _FIELDS[known]}
    return Error(
        id=frame_id,
        code=code_of(known),
        message=_text(str(error)),
        written=error.written,
        details={name: _cut(value) for name, value in values.items() if _fits(known, name, value)},
    )


def error_of(frame: Error) -> EngineError:
    """The error that a frame tells."""
    cls = CODES.get(frame.code)
    if cls is not None and cls.written == frame.written:
        details = _details(cls, frame.details)
        # A class without fields says nothing by itself: what the server said about it must not be lost.
        if details is not None and (details or str(cls()) == frame.message):
            return cls(**details)
    problem = _text(frame.message)
    for effect in (NOTHING, UNKNOWN, UNANSWERED):
        problem = problem.removesuffix(f"; {effect}")
    if frame.written == "unknown":
        return OutcomeUnknownError(f"the server failed ({_text(frame.code)})", problem)
    return RemoteError(_text(frame.code), problem)


def _details(cls: type[EngineError], found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of an error of this class, or None where one that it must have is not there, or is none of its types."""
    details: dict[str, Any] = {}
    for field in attrs.fields(cls):
        if field.name in found and _fits(cls, field.name, found[field.name]):
            details[field.name] = _cut(found[field.name])
        elif field.name in found or field.default is attrs.NOTHING:
            return None
    return details


def _fits(cls: type[EngineError], name: str, value: object) -> bool:
    return type(value) in _FIELDS[cls][name] and not (isinstance(value, int) and abs(value) >= 2**63)


def _cut(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    """A text of bounded length that every encoder takes: the name of a file may hold what is no character."""
    if len(text) > TEXT_CHARS_MAX:
        text = f"{text[: TEXT_CHARS_MAX - 1]}…"
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text
