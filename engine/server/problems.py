"""Errors as they cross the wire, and back.

Owns: the code of each error, and which class a code stands for. Must not know: who raises what.
Invariants: an error that this version knows arrives as the same class with the same fields; one that it does not know
still says what the server said, and whether anything was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import attrs

from engine import errors
from engine.errors import EngineError, OutcomeUnknownError, RemoteError
from engine.server.frames import Error

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


def frame_of(error: EngineError, frame_id: str | None) -> Error:
    """The `error` frame that tells an error."""
    fields = {field.name: getattr(error, field.name) for field in attrs.fields(type(error))}
    # An error class of somebody else's stands under the nearest one that the wire knows.
    known = next(cls for cls in type(error).__mro__ if CODES.get(code_of(cls)) is cls)
    details = {name: value for name, value in fields.items() if isinstance(value, str | int | None)}
    return Error(id=frame_id, code=code_of(known), message=str(error), written=error.written, details=details)


def error_of(frame: Error) -> EngineError:
    """The error that a frame tells."""
    cls = CODES.get(frame.code)
    if cls is not None and cls.written == frame.written:
        names = {field.name for field in attrs.fields(cls)}
        details: dict[str, Any] = {name: value for name, value in frame.details.items() if name in names}
        try:
            return cls(**details)
        except TypeError:
            pass  # a field that this version asks for is not there
    if frame.written == "unknown":
        return OutcomeUnknownError(frame.code, frame.message)
    return RemoteError(frame.code, frame.message)
