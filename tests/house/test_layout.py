"""The one-way order of rooms, who may import what, and how long files and functions get: read from the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[2] / "engine"

ROOMS = (
    ("errors", "limits", "ports"),
    ("events",),
    ("commands",),
    ("store",),
    ("projections",),
    ("writer",),
    ("subscriptions",),
    ("session",),
    ("maintenance",),
    ("importers",),
    ("server",),
    ("client",),
    ("runtime",),
    ("simulation",),
    ("cli",),
)
PLACE = {room: index for index, level in enumerate(ROOMS) for room in level}

OUTSIDE: dict[str, set[str]] = {
    "apsw": {"store", "simulation"},
    "click": {"cli"},
    "rich": {"cli"},
    "trio_websocket": {"server/socket.py", "client/socket.py"},
    "pytest": {"simulation"},
    "hypothesis": {"simulation"},
}
"""Which rooms, or which files alone, may import it."""

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 75

CATCHES: dict[str, str] = {
    "writer/actor.py:_attempt": "a bug in a batch is answered to its callers as outcome unknown; the writer stops",
    "session/registry.py:_supervise": "supervision: an actor's own failure must not take its neighbours down",
    "server/connection.py:run": "supervision: what a peer or the library does to one connection must not end the server",
    "server/connection.py:_guarded": "supervision: a bug in a task of a connection ends that connection, with its code",
    "server/commands.py:_carry_out": "supervision: a bug in a command ends the connection that sent it, never the server",
    "client/client.py:connect": "the body's exception is raised again outside of the nursery, so that it is in no group",
}
"""Where `except Exception` around an await does not raise again, each with its reason."""

FILES = sorted(ENGINE.rglob("*.py"))
names = [str(path.relative_to(ENGINE)) for path in FILES]


def room_of(path: Path) -> str | None:
    """The room a file belongs to; None for the package's own front."""
    first = path.relative_to(ENGINE).parts[0]
    if first == "__init__.py":
        return None
    return "cli" if first == "__main__.py" else first.removesuffix(".py")


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of the engine (and not something in one)."""
    place = ENGINE.parent.joinpath(*name.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def imports(path: Path, *, type_checking: bool = False) -> Iterator[str]:
    """The modules a file imports when it runs (or, with `type_checking`, only for the type checker)."""
    tree = ast.parse(path.read_text())
    guarded: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for inner in node.body:
                guarded.update(ast.walk(inner))
    for node in ast.walk(tree):
        if (node in guarded) is not type_checking:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            for alias in node.names:
                yield f"{module}.{alias.name}" if is_module(f"{module}.{alias.name}") else module


@pytest.mark.parametrize("path", FILES, ids=names)
def test_a_room_imports_only_rooms_above_it(path):
    """Imports go up the list; imports for the type checker may go round inside one room."""
    room = room_of(path)
    if room is None:
        return
    assert room in PLACE, f"{room} is no room of the list"
    for type_checking in (False, True):
        for name in imports(path, type_checking=type_checking):
            parts = name.split(".")
            if parts[0] != "engine" or len(parts) == 1:
                continue
            other = parts[1]
            if other == room:
                continue
            assert other in PLACE, f"{path.name} imports {name}"
            assert PLACE[other] < PLACE[room] or (room == "ports" and other == "errors"), f"{room} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_only_its_room_imports_a_library(path):
    """SQLite, the command line's libraries, the socket's and pytest stay where they belong."""
    room = room_of(path)
    for name in imports(path):
        allowed = OUTSIDE.get(name.split(".")[0])
        place = path.relative_to(ENGINE).as_posix()
        assert allowed is None or room in allowed or place in allowed, f"{place} imports {name}"


def test_there_are_no_import_cycles():
    """Module by module, what runs at import time forms no circle."""
    modules = {}
    for path in FILES:
        parts = ("engine", *path.relative_to(ENGINE).with_suffix("").parts)
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {
        name: {target for target in imports(path) if target in modules and target != name} for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail, name))}"
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=names)
def test_files_and_functions_stay_short(path):
    """A file fits a reader's patience, a function a screen."""
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= FILE_LINES_MAX, f"{lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            docstring = ast.get_docstring(node, clean=False)
            length -= docstring.count("\n") if docstring else 0
            assert length <= FUNCTION_LINES_MAX, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_every_module_and_public_class_has_a_docstring(path):
    """Each module says what it owns; each public class what it is."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_nothing_swallows_every_exception_around_an_await(path):
    """`except Exception` around an await raises again, or stands in the list with its reason."""
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if not isinstance(node, ast.Try) or not any(isinstance(n, ast.Await) for b in node.body for n in ast.walk(b)):
                continue
            for handler in node.handlers:
                broad = handler.type is None or (
                    isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
                )
                raises = any(isinstance(n, ast.Raise) for n in ast.walk(handler))
                keeps = any(isinstance(n, ast.Assign) and isinstance(n.value, ast.Name) for n in handler.body)
                where = f"{path.relative_to(ENGINE)}:{function.name}"
                assert not broad or raises or where in CATCHES or (keeps and where == "runtime/engine.py:open_engine"), where


@pytest.mark.parametrize("path", FILES, ids=names)
def test_public_surface_is_typed_and_clean(path):
    """No debugging output, no leftover markers."""
    text = path.read_text()
    for marker in (r"\bprint\(", r"\bbreakpoint\(", "TODO", "FIXME", "XXX"):
        if "print" in marker and room_of(path) == "cli":
            continue
        assert not re.search(marker, text), marker
