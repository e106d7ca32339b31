"""What a projection is: a name, a version, tables of its own, and one handler per event type.

Owns: the `@projection` decorator, finding handlers, checking a definition. Must not know: when handlers are called.
Invariants: a handler takes effect once per applied event, in position order, in the transaction of the append; it names its
tables through `tx`; a projection owns its tables alone.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar

import attrs

from engine.errors import RegistrationError
from engine.events import Applied, SessionRewound, Skipped, definition_of
from engine.store import RESERVED_TABLES, Tx, check_definition

Scope = Literal["session", "global"]
C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE = "__engine_projection__"
_HANDLES = "__engine_handles__"
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,59}")


@attrs.define(eq=False)
class Recording:
    """An event's place, as a handler sees it while it is being applied.

    Times are milliseconds since the Unix epoch. `session_key` identifies the incarnation: the position of its
    SessionStarted. `incarnation` counts the lives of the session id: 1, 2, 3 ...
    """

    position: int
    seq: int
    workspace: str
    session_id: str
    incarnation: int
    session_key: int
    occurred_at: int
    recorded_at: int


Handler = Callable[[Tx, Any, Recording], Applied | Skipped | None]


@attrs.frozen(eq=False, kw_only=True)
class Projection:
    """A checked definition. `tables` and `indexes` map names to SQL; names of its tables stand in braces in it."""

    name: str
    version: int
    tables: Mapping[str, str]
    handlers: Mapping[type[Any], Handler]
    indexes: Mapping[str, str] = attrs.field(factory=dict)
    scope: Scope = "session"
    built_in: bool = False

    def create_statements(self, tx: Tx) -> list[str]:
        """The DDL of its tables and indexes with real names."""
        made = [f"CREATE TABLE {{{name}}}({columns}) STRICT" for name, columns in self.tables.items()]
        made += [f"CREATE {sql.replace('INDEX', f'INDEX {name}', 1)}" for name, sql in self.indexes.items()]
        return [tx.render(statement) for statement in made]

    def drop_statements(self) -> list[str]:
        """The statements that remove its tables, children before parents."""
        return [f'DROP TABLE IF EXISTS "{name}"' for name in reversed(list(self.tables))]


def handles(cls: type[Any]) -> Callable[[F], F]:
    """Mark a method as the handler of an event class, where its annotation cannot say so."""

    def mark(function: F) -> F:
        setattr(function, _HANDLES, cls)
        return function

    return mark


def projection(
    name: str,
    version: int,
    tables: Mapping[str, str],
    scope: Scope = "session",
    indexes: Mapping[str, str] | None = None,
) -> Callable[[type[C]], type[C]]:
    """Register a class as a projection.

    `tables` maps each table's name to its column definitions; every table is STRICT. A `session` projection's tables carry
    a column `session_id`; a `global` one must handle `SessionRewound`. `indexes` maps an index's name to
    `INDEX ON {table}(columns)` or `UNIQUE INDEX ON ...`. Methods `(self, tx, event, recorded)` handle the event class that
    annotates `event` (or that `@handles` names). Changing `version` makes the next open wipe and replay the tables.

    A handler need not be idempotent: the engine alone decides what is applied, and applies it once. It may be called again
    for an event whose transaction was undone, so what it does belongs into its tables. An exception in it refuses the
    append. Raises `RegistrationError`.
    """

    def register(cls: type[C]) -> type[C]:
        setattr(cls, _ATTRIBUTE, _check(cls, name, version, dict(tables), scope, dict(indexes or {})))
        return cls

    return register


def definition_for(cls: type[Any]) -> Projection:
    """The checked definition of a decorated class, or `RegistrationError`."""
    found = cls.__dict__.get(_ATTRIBUTE)
    if not isinstance(found, Projection):
        raise RegistrationError(f"class {cls.__name__}", "it is not decorated with @projection")
    return found


def _check(
    cls: type[Any], name: str, version: int, tables: dict[str, str], scope: Scope, indexes: dict[str, str]
) -> Projection:
    subject = f"projection {name!r}"
    if not _IDENTIFIER.fullmatch(name) or version < 1:
        raise RegistrationError(subject, "the name must be an identifier and the version at least 1")
    if not tables:
        raise RegistrationError(subject, "it declares no table")
    if scope not in ("session", "global"):
        raise RegistrationError(subject, f"scope must be 'session' or 'global', found {scope!r}")
    for table, columns in tables.items():
        if not _IDENTIFIER.fullmatch(table) or table.lower() in RESERVED_TABLES or table.lower().startswith("sqlite_"):
            raise RegistrationError(subject, f"{table!r} cannot be the name of a table of its own")
        if scope == "session" and not re.search(r"\bsession_id\b", columns):
            raise RegistrationError(subject, f"table {table!r} of a session projection has no column session_id")
    problem = check_definition(name, tables)
    if problem is not None:
        raise RegistrationError(subject, problem)
    for index, sql in indexes.items():
        if not _IDENTIFIER.fullmatch(index) or not re.match(r"(UNIQUE )?INDEX ON \{", sql):
            raise RegistrationError(subject, f"index {index!r} must read 'INDEX ON {{table}}(columns)'")
    handlers = _handlers(cls, subject)
    if scope == "global" and SessionRewound not in handlers:
        raise RegistrationError(subject, "a global projection must handle SessionRewound")
    return Projection(name=name, version=version, tables=tables, indexes=indexes, handlers=handlers, scope=scope)


def _handlers(cls: type[Any], subject: str) -> dict[type[Any], Handler]:
    instance = cls()
    found: dict[type[Any], Handler] = {}
    for attribute, function in inspect.getmembers(cls, inspect.isfunction):
        marked = getattr(function, _HANDLES, None)
        if attribute.startswith("_") and marked is None:
            continue
        handled = marked or _annotated(function, subject)
        if handled is None:
            continue
        if definition_of(handled) is None:
            raise RegistrationError(subject, f"{attribute} handles {handled!r}, which is no event")
        if handled in found:
            raise RegistrationError(subject, f"{attribute} is a second handler of {handled.__name__}")
        found[handled] = getattr(instance, attribute)
    if not found:
        raise RegistrationError(subject, "it has no handler: a method (self, tx, event: SomeEvent, recorded)")
    return found


def _annotated(function: Callable[..., Any], subject: str) -> type[Any] | None:
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 4:
        return None
    annotation = parameters[2].annotation
    if isinstance(annotation, str):
        try:
            annotation = inspect.signature(function, eval_str=True).parameters[parameters[2].name].annotation
        except NameError:
            raise RegistrationError(
                subject, f"the annotation {annotation!r} of {function.__name__} cannot be resolved; use @handles(...)"
            ) from None
    if annotation is inspect.Parameter.empty:
        raise RegistrationError(subject, f"{function.__name__} does not say which event it handles")
    return annotation if isinstance(annotation, type) else None
