"""What every command takes: the file, the workspace, the user's own events and projections, JSON or text.

Owns: the shared options, loading `--app`. Must not know: what a command does with them.
Invariants: a value that is wrong is told before anything is opened.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
import click

from engine.errors import EngineError
from engine.projections import Projection, definition_for
from engine.runtime import DEFAULT_WORKSPACE, check_id, registry_of

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_DB = "engine.db"


@attrs.frozen
class App:
    """The user's own events and projections."""

    events: tuple[type[Any], ...] = ()
    projections: tuple[type[Any] | Projection, ...] = ()


@attrs.frozen(kw_only=True)
class Settings:
    """The values of the shared options."""

    db: str
    workspace: str
    app: App
    as_json: bool


def shared_options(*, db: bool = True) -> Callable[[F], F]:
    """Give a command the shared options; it receives them as one `Settings`. `db=False`: no file is meant by default."""

    def decorate(function: F) -> F:
        def callback(
            *args: Any, db: str | None, workspace: str, app_names: tuple[str, ...], as_json: bool, **rest: Any
        ) -> Any:
            check_id("workspace", workspace)
            settings = Settings(db=db or "", workspace=workspace, app=load_apps(app_names), as_json=as_json)
            return function(settings, *args, **rest)

        callback.__name__ = function.__name__
        callback.__doc__ = function.__doc__
        decorated: Any = callback
        for option in reversed(_options(db)):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


def _options(db: bool) -> list[Callable[[Any], Any]]:
    where = (
        click.option(
            "--db",
            metavar="FILE",
            envvar="ENGINE_DB",
            default=DEFAULT_DB,
            help=f"The database file. Default: the environment variable ENGINE_DB, else ./{DEFAULT_DB}.",
        )
        if db
        else click.option("--db", metavar="FILE", default=None, help="The database file. Default: a temporary one.")
    )
    return [
        where,
        click.option(
            "--workspace",
            metavar="NAME",
            default=DEFAULT_WORKSPACE,
            show_default=True,
            help="The workspace; workspaces never see each other.",
        ),
        click.option(
            "--app",
            "app_names",
            metavar="MODULE:ATTRIBUTE",
            multiple=True,
            help="Your own events and projections: an object with `events` and `projections` (attributes or keys), or a "
            "callable that returns one. May be given several times.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text."),
    ]


def load_apps(names: Sequence[str]) -> App:
    """The events and projections of every `--app`, checked. Raises `click.UsageError`, `RegistrationError`."""
    apps = [_load(name) for name in names]
    events = tuple(dict.fromkeys(event for app in apps for event in app.events))
    projections = tuple(dict.fromkeys(projection for app in apps for projection in app.projections))
    registry_of(events)
    for projection in projections:
        if not isinstance(projection, Projection):
            definition_for(projection)
    return App(events, projections)


def _load(name: str) -> App:
    module_name, colon, attribute = name.partition(":")
    if not module_name or not colon or not attribute:
        raise _bad(name, "expected module:attribute")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for step in attribute.split("."):
            found = getattr(found, step)
        if callable(found) and not _has(found):
            found = found()
    except EngineError:
        raise
    except Exception as problem:
        # Somebody else's code: whatever it raises is told in one line.
        text = " ".join(str(problem).split())
        raise _bad(name, f"{type(problem).__name__}: {text}") from None
    if not _has(found):
        raise _bad(name, f"{attribute!r} has neither `events` nor `projections`, nor returns something that has")
    events, projections = _part(name, found, "events"), _part(name, found, "projections")
    return App(events, projections)


def _has(found: Any) -> bool:
    if isinstance(found, dict):
        return "events" in found or "projections" in found
    return hasattr(found, "events") or hasattr(found, "projections")


def _part(name: str, found: Any, part: str) -> tuple[Any, ...]:
    value = found.get(part, ()) if isinstance(found, dict) else getattr(found, part, ())
    try:
        entries = tuple(value)
    except TypeError:
        raise _bad(name, f"`{part}` is no list of classes") from None
    wrong = next((entry for entry in entries if not isinstance(entry, type | Projection)), None)
    if wrong is not None:
        raise _bad(name, f"`{part}` holds {type(wrong).__name__}, expected classes")
    return entries


def _bad(name: str, problem: str) -> click.UsageError:
    return click.UsageError(f"--app {name}: {problem}")
