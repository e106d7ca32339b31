"""Event types: the decorator, versions and upcasters, and the registry of one engine.

Owns: which class stands for which stored `type` and `version`, and how older versions are read.
Must not know: where events are stored.
Invariants: a type name belongs to one class in a registry; upcasters form an unbroken chain from the oldest version
they name to the class's own; a stored type that the registry does not know is not an error here (see `codec.decode`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, dataclass_transform

import attrs
import msgspec

from engine.errors import RegistrationError, UnregisteredEventError

C = TypeVar("C")
JsonObject = dict[str, Any]
Upcaster = Callable[[JsonObject], JsonObject]

_ATTRIBUTE = "__engine_event__"


@attrs.define(eq=False)
class EventType:
    """What the engine knows of one event class: stored type `name`, current `version`, decoder and upcasters."""

    name: str
    version: int
    cls: type[Any]
    decoder: msgspec.json.Decoder[Any] = attrs.field(init=False)
    upcasters: dict[int, Upcaster] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.decoder = msgspec.json.Decoder(self.cls, strict=True)

    def add_upcaster(self, from_version: int, function: Upcaster) -> None:
        """Register how a stored object of `from_version` becomes one of `from_version + 1`."""
        if not 1 <= from_version < self.version:
            raise RegistrationError(
                f"upcaster of {self.name!r}", f"from_version must be 1 to {self.version - 1}, found {from_version}"
            )
        if from_version in self.upcasters:
            raise RegistrationError(f"upcaster of {self.name!r}", f"from_version {from_version} has one already")
        self.upcasters[from_version] = function

    def upcast(self, version: int, value: JsonObject) -> Any:
        """The event object for a stored object of an older version."""
        for step in range(version, self.version):
            value = self.upcasters[step](value)
        return msgspec.convert(value, self.cls, strict=True)

    def reads(self, version: int) -> bool:
        """Whether a stored object of this version can be read."""
        return version == self.version or all(step in self.upcasters for step in range(version, self.version))


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def event(name: str, version: int = 1) -> Callable[[type[C]], type[C]]:
    """Register an attrs frozen class as the event stored under the type name `name`.

    The class gains `upcaster(from_version=n)`, a decorator for a function that turns the stored JSON object of version
    `n` into one of version `n + 1`. Raises `RegistrationError` when the class is not attrs, not frozen, or has a field
    that msgspec cannot decode.
    """

    def register(cls: type[C]) -> type[C]:
        subject = f"event {name!r}"
        if not name or len(name) > 200:
            raise RegistrationError(subject, "the type name must have 1 to 200 characters")
        if version < 1:
            raise RegistrationError(subject, f"version must be at least 1, found {version}")
        checked: type[Any] = cls
        if not attrs.has(checked):
            raise RegistrationError(subject, f"{cls.__name__} is not an attrs class; put @attrs.frozen below @event")
        if not _is_frozen(cls):
            raise RegistrationError(subject, f"{cls.__name__} is not frozen; use @attrs.frozen")
        try:
            definition = EventType(name, version, cls)
        except (TypeError, NameError) as problem:
            raise RegistrationError(subject, f"its fields cannot be decoded: {problem}") from None
        setattr(cls, _ATTRIBUTE, definition)

        def upcaster(*, from_version: int) -> Callable[[Upcaster], Upcaster]:
            def add(function: Upcaster) -> Upcaster:
                definition.add_upcaster(from_version, function)
                return function

            return add

        cls.upcaster = staticmethod(upcaster)  # type: ignore[attr-defined]
        return cls

    return register


def _is_frozen(cls: type[Any]) -> bool:
    return cls.__setattr__.__name__ == "_frozen_setattrs"


def definition_of(cls: type[Any]) -> EventType | None:
    """The definition attached to exactly this class, not to a base of it."""
    found = cls.__dict__.get(_ATTRIBUTE)
    return found if isinstance(found, EventType) else None


class Registry:
    """The event types one engine knows."""

    def __init__(self, classes: Iterable[type[Any]]) -> None:
        self._by_class: dict[type[Any], EventType] = {}
        self._by_name: dict[str, EventType] = {}
        for cls in classes:
            self._add(cls)

    def _add(self, cls: type[Any]) -> None:
        definition = definition_of(cls)
        if definition is None:
            raise RegistrationError(f"class {cls.__name__}", "it is not decorated with @event")
        other = self._by_name.get(definition.name)
        if other is not None and other.cls is not cls:
            raise RegistrationError(
                f"event {definition.name!r}", f"{cls.__name__} and {other.cls.__name__} both claim the type"
            )
        oldest = min(definition.upcasters, default=definition.version)
        missing = [step for step in range(oldest, definition.version) if step not in definition.upcasters]
        if missing:
            raise RegistrationError(f"event {definition.name!r}", f"no upcaster from version {missing[0]}")
        self._by_class[cls] = definition
        self._by_name[definition.name] = definition

    def of(self, event: object) -> EventType:
        """The definition of the event's class, or `UnregisteredEventError`."""
        definition = self._by_class.get(type(event))
        if definition is None:
            raise UnregisteredEventError(type(event).__name__)
        return definition

    def named(self, type_name: str) -> EventType | None:
        """The definition of a stored type name, or None when this process does not know it."""
        return self._by_name.get(type_name)

    def __contains__(self, cls: object) -> bool:
        return cls in self._by_class

    @property
    def types(self) -> tuple[EventType, ...]:
        """All definitions, in registration order."""
        return tuple(self._by_name.values())
