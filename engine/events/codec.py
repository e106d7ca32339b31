"""Events to stored JSON and back.

Owns: encoding with its refusals, decoding with upcasters, the content digest. Must not know: the store.
Invariants: what `encode` accepts, `decode` gives back equal; a refused value never reaches the writer; what is applied is
what a replay will read, not an object that its caller can still change; a stored event that cannot be read becomes an
`UnknownEvent`, never an exception, whatever its upcaster does.
"""

from __future__ import annotations

import hashlib
import logging
import math
from typing import Any

import attrs
import msgspec

from engine.errors import EventTooLargeError, InvalidEventError, UnregisteredEventError
from engine.events.definition import EventType, Registry
from engine.events.model import Envelope, UnknownEvent
from engine.limits import ID_CHARS_MAX, JSON_DEPTH_MAX, Limits

log = logging.getLogger("engine.events")

_encoder = msgspec.json.Encoder(order="deterministic")
INTEGER_MAX = 2**63 - 1


@attrs.frozen(eq=False)
class PreparedEvent:
    """An event that passed every check and is ready for the writer: its object and its JSON, encoded once."""

    definition: EventType
    event: Any
    data: bytes
    event_id: str | None = None
    occurred_at: int | None = None
    causation_id: str | None = None


def prepare(registry: Registry, item: object, limits: Limits) -> PreparedEvent:
    """Check and encode an event or `Envelope`.

    Raises `UnregisteredEventError`, `InvalidEventError` (not JSON, wrong types, lone surrogates, NaN, a bad id or time)
    or `EventTooLargeError`; nothing was written in each case.
    """
    if not isinstance(item, Envelope):
        definition = registry.of(item)
        data, event = encode(definition, item, limits)
        return PreparedEvent(definition, event, data)
    definition = registry.of(item.event)
    for name, value in (("event_id", item.event_id), ("causation_id", item.causation_id)):
        if value is not None:
            _check_id(definition, name, value)
    moment = item.occurred_at
    if moment is not None and (type(moment) is not int or not 0 <= moment <= INTEGER_MAX):
        raise InvalidEventError(definition.name, f"occurred_at: expected milliseconds since 1970, found {moment!r}")
    data, event = encode(definition, item.event, limits)
    return PreparedEvent(definition, event, data, item.event_id, moment, item.causation_id)


def encode(definition: EventType, event: Any, limits: Limits) -> tuple[bytes, Any]:
    """The event's JSON, and the equal object that it decodes to."""
    try:
        data = _encoder.encode(event)
        decoded = definition.decoder.decode(data)
        same = decoded == event
    except UnicodeEncodeError as problem:
        found = problem.object[problem.start : problem.start + 1]
        raise InvalidEventError(definition.name, f"text with a lone surrogate {found!r} cannot be stored") from None
    except msgspec.ValidationError as problem:
        raise InvalidEventError(definition.name, _why(event) or str(problem)) from None
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as problem:
        raise InvalidEventError(definition.name, _why(event) or str(problem)) from None
    if not same:
        raise InvalidEventError(definition.name, _why(event) or "its value does not survive JSON unchanged")
    if data.count(b"{") + data.count(b"[") > JSON_DEPTH_MAX and _too_deep(data):
        raise InvalidEventError(definition.name, _why(event) or f"nested deeper than {JSON_DEPTH_MAX}")
    if len(data) > limits.event_bytes_max:
        raise EventTooLargeError(
            definition.name, f"{len(data)} bytes encoded, limit event_bytes_max is {limits.event_bytes_max}"
        )
    return data, decoded


def encode_checked(event: Any) -> bytes:
    """The JSON of an event whose fields were checked before (posted text that was joined)."""
    return _encoder.encode(event)


def decode(registry: Registry, type_name: str, version: int, data: str) -> Any:
    """The event of a stored JSON text, upcast to the current version; an `UnknownEvent` where this process cannot."""
    definition = registry.named(type_name)
    if definition is None:
        return UnknownEvent(type_name, version, data)
    try:
        if version == definition.version:
            return definition.decoder.decode(data)
        if definition.reads(version) and version < definition.version:
            return definition.upcast(version, msgspec.json.decode(data, type=dict))
    except Exception as problem:
        # Upcasters and the validators of an event class are the user's code, and may raise anything.
        log.debug("event %r version %d cannot be read: %r", type_name, version, problem)
    return UnknownEvent(type_name, version, data)


def parse(registry: Registry, type_name: str, data: bytes) -> Any:
    """The event of a JSON object that came from outside, in the type's current version, for `append`.

    Raises `UnregisteredEventError` for a type that this engine does not know, and `InvalidEventError` for fields of a wrong
    type, missing ones, and ones that the type does not have.
    """
    definition = registry.named(type_name)
    if definition is None:
        raise UnregisteredEventError(type_name)
    try:
        event = definition.decoder.decode(data)
        given = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except UnicodeEncodeError:
        raise InvalidEventError(type_name, "text with a lone surrogate cannot be stored") from None
    except (ValueError, RecursionError) as problem:
        raise InvalidEventError(type_name, str(problem)) from None
    except Exception as problem:
        # The validators of an event class are the user's code, and may raise anything.
        raise InvalidEventError(type_name, f"{type(problem).__name__}: {problem}") from None
    known = {field.name for field in attrs.fields(definition.cls)}
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise InvalidEventError(type_name, f"it has no field {unknown[:100]!r}")
    return event


def digest(type_name: str, version: int, data: bytes) -> bytes:
    """Sixteen bytes that stand for an event's content: equal content has equal digests."""
    head = f"{type_name}\0{version}\0".encode()
    return hashlib.blake2b(head + data, digest_size=16).digest()


def to_json(value: Any) -> str:
    """Deterministic JSON text of a plain value, as projections store it: equal values give equal text."""
    return _encoder.encode(value).decode()


def _check_id(definition: EventType, name: str, value: object) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= ID_CHARS_MAX:
        raise InvalidEventError(definition.name, f"{name}: expected text of 1 to {ID_CHARS_MAX} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidEventError(definition.name, f"{name}: a lone surrogate cannot be stored") from None


def _too_deep(data: bytes) -> bool:
    """Whether a field's value is nested deeper than the limit. Level by level: nothing here recurses."""
    level = list(msgspec.json.decode(data, type=dict).values())
    for _ in range(JSON_DEPTH_MAX):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return any(isinstance(value, dict | list) for value in level)


def _why(event: Any) -> str | None:
    """Name the first field whose value JSON cannot carry unchanged."""
    for field in attrs.fields(type(event)):
        problem = _problem(getattr(event, field.name), field.name, 0)
        if problem is not None:
            return problem
    return None


def _problem(value: Any, path: str, depth: int) -> str | None:
    if depth > JSON_DEPTH_MAX:
        return f"{path[:60]}...: nested deeper than {JSON_DEPTH_MAX}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path}: {value} has no JSON form"
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                return f"{path}: the key {key!r} is not text"
            problem = _problem(item, f"{path}.{key}", depth + 1)
            if problem is not None:
                return problem
        return None
    if isinstance(value, list):
        return next(filter(None, (_problem(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value))), None)
    if isinstance(value, tuple | set | frozenset | bytes | bytearray):
        return f"{path}: {type(value).__name__} is not JSON"
    return None
