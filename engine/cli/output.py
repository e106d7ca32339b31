"""How things look: the console, safe text, sizes, moments, durations, JSON, progress.

Owns: every conversion for a reader's eyes. Must not know: the engine's files, commands.
Invariants: what came from outside never reaches a terminal as control characters; a pipe gets no colours, no cut columns
and no progress; a JSON document is one line.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

PIPE_COLUMNS: Final = 1_000
"""Width of tables that go into a pipe: no id is cut there."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def console() -> Console:
    """The console on standard output."""
    made = _Console(highlight=False, emoji=False, markup=False)
    if not made.is_terminal:
        made = _Console(highlight=False, emoji=False, markup=False, width=PIPE_COLUMNS)
    return made


class _Console(Console):
    """A console that leaves a closed pipe to the command line's own exit."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def clean(text: str) -> str:
    """Text that is safe on a terminal: control characters, also those that turn the direction, become visible."""
    return _CONTROL.sub(lambda match: _picture(match[0]), text.replace("\r\n", "\n"))


def _picture(character: str) -> str:
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def one_line(text: str, chars_max: int) -> str:
    """The beginning of a text on one line."""
    flat = " ".join(clean(text[: 4 * chars_max]).split())
    return flat if len(flat) <= chars_max and len(text) <= 4 * chars_max else f"{flat[: chars_max - 1]}…"


def shorten(text: str, *, lines_max: int, chars_max: int) -> tuple[str, str | None]:
    """The beginning of a text, and what was left out in words (None: nothing)."""
    lines = text.split("\n")
    kept = "\n".join(lines[:lines_max])[:chars_max]
    if len(kept) == len(text):
        return text, None
    lines_left = len(lines) - kept.count("\n") - 1
    if lines_left > 0:
        return kept, f"… {lines_left:,} more lines"
    return kept, f"… {len(text) - len(kept):,} more characters"


def moment(milliseconds: int) -> str:
    """A moment in UTC, to the second."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{milliseconds} ms"


def duration(milliseconds: int) -> str:
    """How long something took."""
    if milliseconds < 1_000:
        return f"{milliseconds} ms"
    seconds = milliseconds / 1_000
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def octets(count: int | None) -> str:
    """A size."""
    if count is None:
        return "unknown"
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.2f} GiB"


def money(nanousd: int) -> str:
    """A cost in dollars, with as many decimals as it has, four at least."""
    whole, rest = divmod(nanousd, 1_000_000_000)
    decimals = f"{rest:09d}".rstrip("0").ljust(4, "0")
    return f"${whole:,}.{decimals}"


def plain(value: Any) -> Any:
    """A frozen record as JSON knows it."""
    return msgspec.to_builtins(value)


def write_json(value: Any) -> None:
    """Print one JSON document on one line."""
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        # The name of a file that is not UTF-8: escaped, it can be read back.
        text = json.dumps(plain(value))
    click.echo(text)


def table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """A table without decoration that copies well. Columns named in `right` are numbers."""
    made = Table(box=None, title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Any]:
    """A progress bar on standard error; quiet where that is no terminal. Gives `advance(n, label=None)`."""
    err = Console(stderr=True)
    if not err.is_terminal or total == 0:
        yield lambda _count, _label=None: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(label, total=total)

        def advance(count: int, described: str | None = None) -> None:
            if described is None:
                bar.update(task, advance=count)
            else:
                bar.update(task, advance=count, description=described)

        yield advance


def tolerant() -> None:
    """Let no text that a terminal's encoding lacks raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
