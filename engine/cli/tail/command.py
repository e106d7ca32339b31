"""`engine tail`: the command, and what it writes.

Owns: its options, standard output and standard error. Must not know: how a transcript reads, where items come from.
Invariants: what arrived is written out at once; a reader who went away ends the command even while nothing happens.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import click
import trio
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from engine.cli import output
from engine.cli.log import event_as_json
from engine.cli.options import Settings, shared_options
from engine.cli.tail.following import Connected, Item, Recalled, Request, follow_file
from engine.cli.tail.remote import follow_server
from engine.cli.tail.sheet import Piece
from engine.cli.tail.transcript import Transcript
from engine.events import HEAD, START, After, CaughtUp, Cursor, Lagging, RecordedEvent, Reset
from engine.runtime import check_id

READER_S: Final = 0.5
"""How often it is asked whether anybody still reads."""
LAST: Final = 10
TOKEN_VARIABLE: Final = "ENGINE_TOKEN"


@attrs.frozen(kw_only=True)
class _Look:
    """How it is shown."""

    as_json: bool
    many: bool
    verbose: bool


@click.command("tail")
@click.argument("sessions", metavar="[SESSION]...", nargs=-1)
@click.option("--after", metavar="PLACE", help="Begin after this cursor, at the `start` of the log, or `now`.")
@click.option(
    "--last", metavar="N", type=click.IntRange(0), default=None, help=f"Begin with the last N messages. Default: {LAST}."
)
@click.option("--no-follow", is_flag=True, help="End once everything committed was shown.")
@click.option("-v", "--verbose", is_flag=True, help="Show skipped events and metadata too.")
@click.option("--url", metavar="URL", help="Follow what a server serves (ws://... or wss://...) instead of a file.")
@click.option(
    "--token-file",
    metavar="FILE",
    help=f"With --url: the token, the only line of this file. Default: the environment variable {TOKEN_VARIABLE}, if any.",
)
@shared_options()
def command(
    settings: Settings,
    sessions: tuple[str, ...],
    after: str | None,
    last: int | None,
    no_follow: bool,
    verbose: bool,
    url: str | None,
    token_file: str | None,
) -> None:
    """Follow a conversation as it streams, while another process writes it: of some sessions, or the whole workspace.

    It begins with the last messages of the named sessions and goes on with what comes (of the whole workspace: with what
    comes). --after begins with events instead, whether or not the sessions exist yet. What is written twice is shown once;
    text that is missing is said to be. Ctrl-C ends it.

    When the log is replaced by another one, or what was shown of it is imported anew, standard error says so and the tail
    begins as it did at first (--after CURSOR: at the start). With --url, lost connections are made again, and nothing is
    missed.

    --json: one line an item, and nothing before `now` unless --after says so. An event: the line that `engine log --json`
    prints. Everything else has one key: {"caught_up": {"cursor"}} where all that was committed has been written,
    {"reset": {"reason"}} where what came before is no longer the log's content.
    """
    for session_id in sessions:
        check_id("session_id", session_id)
    if after is not None and last is not None:
        raise click.UsageError("give either --after or --last")
    if settings.as_json and last is not None:
        raise click.UsageError("--last shows messages, and --json prints events: give --after")
    _check_source(url, token_file)
    sessions = tuple(dict.fromkeys(sessions))
    request = Request(
        workspace=settings.workspace,
        sessions=sessions,
        after=_place(after, settings.as_json or not sessions),
        last=LAST if last is None else last,
        skipped=settings.as_json or verbose,
        follow=not no_follow,
        events=settings.app.events,
    )
    look = _Look(as_json=settings.as_json, many=len(sessions) != 1, verbose=verbose)
    if url is None:
        trio.run(_tail, partial(follow_file, settings.db, request), look)
    else:
        trio.run(_tail, partial(follow_server, url, _token(token_file), request), look)


def _place(after: str | None, events_only: bool) -> After | None:
    if after is None:
        return HEAD if events_only else None
    return {"start": START, "now": HEAD}.get(after) or Cursor.parse(after)


def _check_source(url: str | None, token_file: str | None) -> None:
    if url is None:
        if token_file is not None:
            raise click.UsageError("--token-file: a file needs no token; it goes with --url")
        return
    context = click.get_current_context()
    for name, problem in (("db", "follow either a file or a server"), ("workspace", "a server's token stands for one")):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} with --url: {problem}")


def _token(path: str | None) -> str | None:
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        words = Path(path).read_text(encoding="utf-8").split()
    except OSError as problem:
        raise click.UsageError(f"--token-file {path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"--token-file {path}: it is no text in UTF-8") from None
    if len(words) != 1:
        raise click.UsageError(f"--token-file {path}: expected a token and nothing else, found {len(words)} words")
    return words[0]


async def _tail(follow: Callable[[Callable[[Item], None]], Awaitable[None]], look: _Look) -> None:
    screen = None if look.as_json else _Screen(output.console(), look)
    write = _json if screen is None else screen.write
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_with_reader)
            await follow(write)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as problems:
        if screen is not None and problems.split(BrokenPipeError)[0] is None:
            screen.end()
        raise
    if screen is not None:
        screen.end()


async def _end_with_reader() -> None:
    """Raise `BrokenPipeError` once nobody reads standard output any more; without this, only the next line would tell."""
    if not hasattr(select, "poll"):
        return
    try:
        watched = select.poll()
        watched.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return
    while True:
        if any(found & select.POLLERR for _, found in watched.poll(0)):
            raise BrokenPipeError
        await trio.sleep(READER_S)


def _json(item: Item) -> None:
    """One line."""
    found: Any
    if isinstance(item, RecordedEvent):
        found = event_as_json(item)
    elif isinstance(item, CaughtUp):
        found = {"caught_up": {"cursor": str(item.cursor)}}
    elif isinstance(item, Lagging):
        found = {"lagging": {"cursor": str(item.cursor), "dropped": item.dropped}}
    elif isinstance(item, Reset):
        found = {"reset": {"reason": item.reason}}
    else:
        return
    output.write_json(found)
    sys.stdout.flush()


class _Screen:
    """The conversation on standard output, what happened to the tail itself on standard error."""

    def __init__(self, console: Console, look: _Look) -> None:
        self._console = console
        self._transcript = Transcript(many=look.many, verbose=look.verbose)

    def write(self, item: Item) -> None:
        """Show an item."""
        transcript = self._transcript
        if isinstance(item, RecordedEvent):
            self._show(transcript.take(item))
        elif isinstance(item, Recalled):
            self._show(transcript.recall(item.session_id, item.incarnation, item.messages, item.position))
        elif isinstance(item, Reset):
            self._say(f"what was shown is no longer the log's content: {item.reason}")
            transcript.forget()
        elif isinstance(item, Connected):
            self._say("connected again" if item.yes else "the connection is lost; trying again")
        elif isinstance(item, Lagging):
            self._say(f"too slow: {item.dropped:,} events come again from the log")

    def end(self) -> None:
        """Leave the line that text is streaming into."""
        self._show(self._transcript.end_line())

    def _show(self, pieces: list[Piece]) -> None:
        if pieces:
            line = Text.assemble(*((piece.text, piece.style) for piece in pieces))
            # An interrupt may fall anywhere: what the console still held would be written again at the end.
            with self._console.capture() as rendered:
                self._console.print(line, end="", soft_wrap=True)
            sys.stdout.write(rendered.get())
            sys.stdout.flush()

    def _say(self, words: str) -> None:
        self.end()
        click.echo(f"engine: {output.one_line(words, 2_000)}", err=True)
