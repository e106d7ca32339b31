"""`engine sessions`: the live sessions of a workspace.

Owns: the list. Must not know: the writer.
"""

from __future__ import annotations

import click
import trio

from engine.cli import output
from engine.cli.options import Settings, shared_options
from engine.projections import SessionView
from engine.runtime import ReaderWorkspace, open_reader


@click.command("sessions")
@click.option("--limit", metavar="N", type=click.IntRange(1), default=50, show_default=True, help="At most this many.")
@click.option("--all", "everything", is_flag=True, help="All sessions.")
@shared_options()
def command(settings: Settings, limit: int, everything: bool) -> None:
    """List sessions, the newest last: the last --limit ones, or all.

    Steps, tokens and cost include the sessions below a session; ↳ marks one that has a parent.

    --json: one line a session (key, session_id, incarnation, title, parent_id, metadata, created_at, updated_at, and usage
    with the totals of the session and, under children, of the sessions below it).
    """
    trio.run(_list, settings, None if everything else limit)


async def _list(settings: Settings, limit: int | None) -> None:
    async with open_reader(settings.db, settings.app.events) as reader:
        workspace = reader.workspace(settings.workspace)
        found = await _sessions(workspace, limit)
        if settings.as_json:
            for view in found:
                usage = await workspace.read.usage(view.session_id)
                own = output.plain(usage.own + usage.unattributed)
                output.write_json({**output.plain(view), "usage": {**own, "children": output.plain(usage.children)}})
            return
        console = output.console()
        columns = ("session", "title", "updated", "steps", "tokens", "cost")
        made = output.table(*columns, right=columns[3:])
        made.columns[0].min_width = 36
        made.columns[2].no_wrap = True
        for view in found:
            total = (await workspace.read.usage(view.session_id)).total
            made.add_row(
                output.clean(view.session_id),
                ("↳ " if view.parent_id else "") + output.one_line(view.title or "", 60),
                output.moment(view.updated_at),
                f"{total.steps:,}",
                f"{total.tokens:,}",
                output.money(total.cost_nanousd),
            )
        console.print(made if found else f"no sessions in workspace {settings.workspace!r}")


async def _sessions(workspace: ReaderWorkspace, limit: int | None) -> list[SessionView]:
    """The newest sessions in the order of their creation; None for all."""
    pages: list[tuple[SessionView, ...]] = []
    left, before = limit, None
    while left is None or left > 0:
        page = await workspace.read.sessions(before=before, limit=min(left or 500, 500))
        pages.append(page.items)
        if not page.more or not page.items:
            break
        before = page.items[0].key
        left = None if left is None else left - len(page.items)
    return [view for items in reversed(pages) for view in items]
