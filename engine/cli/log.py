"""`engine log`: the log, one line an event.

Owns: the lines. Must not know: the writer.
"""

from __future__ import annotations

from typing import Any

import attrs
import click
import msgspec
import trio

from engine.cli import output
from engine.cli.options import Settings, shared_options
from engine.errors import UnknownSessionError
from engine.events import START, After, Cursor, RecordedEvent, Skipped, UnknownEvent
from engine.runtime import ReaderWorkspace, open_reader

PAGE_EVENTS = 500


@click.command("log")
@click.argument("session_id", metavar="[SESSION]", required=False)
@click.option("--after", metavar="CURSOR", help="Begin after this cursor (each line of --json, and the last line, has one).")
@click.option("--limit", metavar="N", type=click.IntRange(1), default=100, show_default=True, help="At most this many.")
@click.option("--all", "everything", is_flag=True, help="Everything there is.")
@shared_options()
def command(settings: Settings, session_id: str | None, after: str | None, limit: int, everything: bool) -> None:
    """Print events in their order: of one session, or of the whole workspace.

    A line: position, session, seq, type, outcome (nothing: applied), time, and the beginning of the event. When there is
    more, standard error says the cursor to go on from.

    --json: one line an event (position, cursor, session_id, incarnation, seq, type, version, event_id, occurred_at,
    recorded_at, causation_id, outcome: "applied" or the reason it was skipped for, event: its JSON).
    """
    place: After = START if after is None else Cursor.parse(after)
    trio.run(_log, settings, session_id, place, None if everything else limit)


async def _log(settings: Settings, session_id: str | None, after: After, limit: int | None) -> None:
    async with open_reader(settings.db, settings.app.events) as reader:
        workspace = reader.workspace(settings.workspace)
        await _check_session(workspace, session_id)
        left = limit
        while left is None or left > 0:
            size = PAGE_EVENTS if left is None else min(left, PAGE_EVENTS)
            page = await workspace.read.log(after=after, session_id=session_id, limit=size)
            for item in page.items:
                if settings.as_json:
                    output.write_json(event_as_json(item))
                else:
                    click.echo(_line(item))
            if not page.more or not page.items:
                return
            after = page.items[-1].cursor
            left = None if left is None else left - len(page.items)
        if not settings.as_json:
            click.echo(f"more: --after {after}", err=True)


async def _check_session(workspace: ReaderWorkspace, session_id: str | None) -> None:
    """`UnknownSessionError` for an id that was never used; a removed session still has its log."""
    if session_id is None:
        return
    page = await workspace.read.log(session_id=session_id, limit=1)
    if not page.items:
        raise UnknownSessionError(session_id)


def event_as_json(item: RecordedEvent) -> dict[str, Any]:
    """An event as JSON: what `--json` prints of it."""
    return {
        "position": item.position,
        "cursor": str(item.cursor),
        "session_id": item.session_id,
        "incarnation": item.incarnation,
        "seq": item.seq,
        "type": item.type,
        "version": item.version,
        "event_id": item.event_id,
        "occurred_at": item.occurred_at,
        "recorded_at": item.recorded_at,
        "causation_id": item.causation_id,
        "outcome": _outcome(item),
        "event": _content(item.event),
    }


def _outcome(item: RecordedEvent) -> str:
    return item.outcome.reason if isinstance(item.outcome, Skipped) else "applied"


def _content(event: Any) -> Any:
    if not isinstance(event, UnknownEvent):
        return event
    # It came from outside as it is: with line breaks in it, it would be several lines, and it may be no JSON at all.
    try:
        return msgspec.Raw(msgspec.json.format(event.data.encode(), indent=-1))
    except msgspec.DecodeError:
        return event.data


def _line(item: RecordedEvent) -> str:
    skipped = f" skipped:{item.outcome.reason}" if isinstance(item.outcome, Skipped) else ""
    return (
        f"{item.position:>8}  {output.one_line(item.session_id, 60)}  {item.seq:>6}  {output.clean(item.type)}{skipped}  "
        f"{output.moment(item.occurred_at)}  {_beginning(item.event)}"
    )


def _beginning(event: Any) -> str:
    if isinstance(event, UnknownEvent):
        return f"(unknown type) {output.one_line(event.data, 80)}"
    fields = [
        f"{field.name}={_short(value)}"
        for field in attrs.fields(type(event))
        if (value := getattr(event, field.name)) not in (None, {}, 0, "")
    ]
    return output.one_line(" ".join(fields), 120)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return output.one_line(text, 40)
