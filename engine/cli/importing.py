"""`engine import`: transcripts of real agents into the log.

Owns: which files, the bar, the table. Must not know: formats, how a session is compared (see `runtime.importing`).
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import click
import trio
from rich.console import Console

from engine.cli import output
from engine.cli.options import Settings, shared_options
from engine.importers import find_transcripts
from engine.runtime import FileResult, open_engine

ISSUES_SHOWN = 20


@click.command("import")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--issues", "all_issues", is_flag=True, help=f"List every issue, not only the first {ISSUES_SHOWN}.")
@shared_options()
def command(settings: Settings, paths: tuple[str, ...], all_issues: bool) -> int:
    """Import transcripts of Claude Code, Codex and opencode.

    A folder is searched for *.jsonl and *.json. Importing again adds only what is new; a transcript whose beginning
    changed replaces what was imported of it before. Exit status 1 when a file could not be imported; the others are.

    --json: one line a file (path, format, records, new_events, problem, issues, and its sessions with state new, grown,
    unchanged, older, replaced or failed), then one line {"total": ...}.
    """
    files = find_transcripts(paths)
    if not files:
        raise click.UsageError(f"no transcripts (*.jsonl, *.json) in {', '.join(paths)}")
    results = trio.run(_import, settings, files)
    if settings.as_json:
        output.write_json({"total": _totals(results)})
    else:
        _report(results, all_issues)
    return 1 if any(result.failed for result in results) else 0


async def _import(settings: Settings, files: list[Path]) -> list[FileResult]:
    results = []
    app = settings.app
    total = sum(_size(path) for path in files)
    async with open_engine(settings.db, events=app.events, projections=app.projections) as engine:
        importer = engine.workspace(settings.workspace).importer()
        with output.progress("importing", total) as advance:
            for path in files:
                advance(0, output.one_line(path.name, 40))
                result = await importer.file(path, on_bytes=advance)
                results.append(result)
                if settings.as_json:
                    output.write_json(_as_json(result))
    return results


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _as_json(result: FileResult) -> dict[str, object]:
    return {
        "path": result.path,
        "format": result.format,
        "records": result.records,
        "new_events": result.new_events,
        "sessions": result.sessions,
        "issues": result.issues,
        "problem": result.problem,
    }


def _totals(results: list[FileResult]) -> dict[str, object]:
    states = Counter(session.state for result in results for session in result.sessions)
    return {
        "files": len(results),
        "failed": sum(result.failed for result in results),
        "records": sum(result.records for result in results),
        "sessions": dict(sorted(states.items())),
        "new_events": sum(result.new_events for result in results),
        "issues": sum(len(result.issues) for result in results),
    }


def _report(results: list[FileResult], all_issues: bool) -> None:
    console = output.console()
    made = output.table(
        "file", "format", "records", "sessions", "new events", "state", right=("records", "sessions", "new events")
    )
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(result.path)) for result in results])
    console.print(f"from {output.clean(folder)}", soft_wrap=True)
    for result in results:
        states = Counter(session.state for session in result.sessions)
        state = ", ".join(f"{count} {name}" if len(result.sessions) > 1 else name for name, count in sorted(states.items()))
        made.add_row(
            output.clean(os.path.relpath(result.path, folder)),
            result.format or "-",
            f"{result.records:,}",
            f"{len(result.sessions):,}",
            f"{result.new_events:,}",
            "failed" if result.problem else state or "nothing",
        )
    console.print(made)
    _problems(console, results, all_issues)
    totals = _totals(results)
    console.print(
        f"{totals['files']} files, {totals['records']:,} records, {totals['new_events']:,} new events, "
        f"{totals['issues']} issues, {totals['failed']} failed"
    )


def _problems(console: Console, results: list[FileResult], all_issues: bool) -> None:
    for result in results:
        for problem in (result.problem, *(session.problem for session in result.sessions)):
            if problem is not None:
                text = f"failed: {output.clean(result.path)}: {output.one_line(problem, 500)}"
                console.print(text, style="red", soft_wrap=True)
    issues = [issue for result in results for issue in result.issues]
    for issue in issues if all_issues else issues[:ISSUES_SHOWN]:
        place = issue.path if issue.line is None else f"{issue.path}:{issue.line}"
        console.print(f"{output.clean(place)}: {output.one_line(issue.problem, 500)}", style="dim", soft_wrap=True)
    if not all_issues and len(issues) > ISSUES_SHOWN:
        console.print(f"… {len(issues) - ISSUES_SHOWN} more issues; --issues lists them", style="dim")
