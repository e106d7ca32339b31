"""`engine stats`: counts, sizes, unknown types, usage.

Owns: the report. Must not know: the writer.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import click
import trio
from rich.console import Console

from engine.cli import output
from engine.cli.options import Settings, shared_options
from engine.projections import UsageReport, UsageTotals
from engine.runtime import open_reader
from engine.runtime.reader import LogStatistics


@click.command("stats")
@shared_options()
def command(settings: Settings) -> None:
    """Say what a workspace holds and how large the file is. Reads the whole file once.

    --json: one document (file with its sizes in bytes, events by type and outcome, unknown_types, rows of the read model,
    projections with version and position, usage with own, unattributed, by_model and total).
    """
    statistics, usage, unknown = trio.run(_measure, settings)
    if settings.as_json:
        output.write_json(_as_json(settings, statistics, usage, unknown))
    else:
        _report(settings, statistics, usage, unknown)


async def _measure(settings: Settings) -> tuple[LogStatistics, UsageReport, dict[str, int]]:
    async with open_reader(settings.db, settings.app.events) as reader:
        workspace = reader.workspace(settings.workspace)
        statistics = await workspace.statistics()
        unknown = {f"{c.type} v{c.version}": 0 for c in statistics.types if not c.known}
        for count in statistics.types:
            if not count.known:
                unknown[f"{count.type} v{count.version}"] += count.events
        return statistics, await workspace.read.usage(), unknown


def _outcomes(statistics: LogStatistics) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for count in statistics.types:
        counts[count.outcome] += count.events
    return dict(counts)


def _as_json(settings: Settings, statistics: LogStatistics, usage: UsageReport, unknown: dict[str, int]) -> dict[str, Any]:
    return {
        "file": {"path": settings.db, **{f"{k}_bytes": v for k, v in output.plain(statistics.sizes).items()}},
        "workspace": settings.workspace,
        "events": statistics.events,
        "outcomes": _outcomes(statistics),
        "types": statistics.types,
        "unknown_types": unknown,
        "rows": statistics.rows,
        "projections": {name: {"version": v, "position": p} for name, (v, p) in statistics.projections.items()},
        "usage": {**output.plain(usage), "total": usage.total},
    }


def _report(settings: Settings, statistics: LogStatistics, usage: UsageReport, unknown: dict[str, int]) -> None:
    console = output.console()
    sizes, rows = statistics.sizes, statistics.rows
    console.print(f"{settings.db}, workspace {settings.workspace!r}", style="bold", soft_wrap=True)
    made = output.table("", "")
    made.show_header = False
    for name, value in (
        ("file", output.octets(sizes.file)),
        ("  log", output.octets(sizes.log)),
        ("  read models", output.octets(sizes.read_models)),
        ("  free", output.octets(sizes.free)),
        ("WAL", output.octets(sizes.wal)),
        ("sessions", f"{rows.sessions:,}"),
        ("messages", f"{sum(rows.messages.values()):,}{_split(rows.messages)}"),
        ("parts", f"{rows.parts:,}"),
        ("tool calls", f"{sum(rows.tools.values()):,}{_split(rows.tools)}"),
        ("events", f"{statistics.events:,}{_split(_outcomes(statistics))}"),
    ):
        made.add_row(name, value)
    console.print(made)
    console.print()
    types = output.table("type", "version", "outcome", "events", right=("version", "events"))
    for count in statistics.types:
        name = output.clean(count.type) + ("" if count.known else "  (unknown here)")
        types.add_row(name, str(count.version), count.outcome, f"{count.events:,}")
    console.print(types)
    if unknown:
        console.print(f"{sum(unknown.values()):,} events of types that this process does not know: --app names them")
    console.print()
    _usage(console, usage)


def _split(counts: Any) -> str:
    return f"  ({', '.join(f'{count:,} {name}' for name, count in counts.items())})" if len(counts) > 1 else ""


def _usage(console: Console, usage: UsageReport) -> None:
    made = usage_table()
    for model, totals in sorted(usage.by_model.items()):
        usage_row(made, output.clean(model), totals)
    usage_row(made, "total", usage.total)
    if usage.unattributed.steps:
        usage_row(made, "  of it unattributed", usage.unattributed)
    console.print(made)


USAGE_COLUMNS = ("steps", "input", "output", "reasoning", "cache read", "cache write", "cost")


def usage_table() -> Any:
    """A table of usage totals."""
    return output.table("usage", *USAGE_COLUMNS, right=USAGE_COLUMNS)


def usage_row(made: Any, name: str, totals: UsageTotals) -> None:
    """A row of it."""
    made.add_row(
        name,
        f"{totals.steps:,}",
        f"{totals.input_tokens:,}",
        f"{totals.output_tokens:,}",
        f"{totals.reasoning_tokens:,}",
        f"{totals.cache_read_tokens:,}",
        f"{totals.cache_write_tokens:,}",
        output.money(totals.cost_nanousd),
    )
