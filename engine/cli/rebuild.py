"""`engine rebuild`: wipe the read model and replay the log into it.

Owns: the bar and the report. Must not know: how it is done (see `runtime.rebuilding`).
"""

from __future__ import annotations

import time

import click
import trio

from engine.cli import output
from engine.cli.options import Settings, shared_options
from engine.runtime import RebuildReport
from engine.runtime import rebuild as run_rebuild


@click.command("rebuild")
@click.argument("projections", metavar="[PROJECTION]...", nargs=-1)
@shared_options()
def command(settings: Settings, projections: tuple[str, ...]) -> None:
    """Wipe and replay projections: the named ones, or all that are known (your own with --app).

    No other process may own the file meanwhile. The log is not changed; a failure leaves the tables as they were. Naming
    one of the built-in projections (sessions, messages, parts, tools, usage) rebuilds all five.

    --json: one document (projections, replayed_events, seconds).
    """
    started = time.monotonic()
    report = trio.run(_rebuild, settings, projections)
    seconds = time.monotonic() - started
    if settings.as_json:
        output.write_json({**output.plain(report), "seconds": round(seconds, 3)})
    else:
        click.echo(f"replayed {report.replayed_events:,} events into {', '.join(report.projections)} in {seconds:.1f} s")


async def _rebuild(settings: Settings, names: tuple[str, ...]) -> RebuildReport:
    with output.progress("replaying", 100) as advance:
        shown = 0

        def on_progress(done: int, total: int) -> None:
            nonlocal shown
            percent = 100 * done // max(total, 1)
            advance(percent - shown)
            shown = percent

        return await run_rebuild(
            settings.db,
            names or None,
            events=settings.app.events,
            projections=settings.app.projections,
            on_progress=on_progress,
        )
