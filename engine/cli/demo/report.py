"""What the demo shows at the end: what was acknowledged, found, skipped and why, usage, speed, and each promise.

Owns: the tables and the JSON document. Must not know: how the demo ran.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.text import Text

from engine.cli import output
from engine.cli.demo.checks import Promise
from engine.cli.demo.run import Evidence
from engine.cli.stats import usage_row, usage_table


def _counts(evidence: Evidence) -> dict[str, Any]:
    ledger, fold = evidence.ledger, evidence.fold
    return {
        "turns": ledger.turns,
        "turns_stopped": ledger.stopped,
        "acknowledged": len(ledger.acked) + len(evidence.killed),
        "acknowledged_by_the_killed_process": len(evidence.killed),
        "found": sum(fold.events.get(acked.position) == acked for acked in (*ledger.acked, *evidence.killed)),
        "events": len(fold.events),
        "skipped": dict(sorted(Counter(fold.skipped.values()).items())),
        "not_stored": dict(sorted(ledger.unstored.items())),
        "copies": ledger.duplicates,
        "refused": dict(sorted(ledger.refused.items())),
        "removed_messages": len(ledger.removed_messages),
        "removed_sessions": len(ledger.removed_sessions),
        "swept": evidence.swept,
    }


def _speed(evidence: Evidence) -> dict[str, Any]:
    writer = evidence.statistics.writer if evidence.statistics is not None else None
    return {
        "seconds": round(evidence.burst_s, 2),
        "events": evidence.burst_events,
        "events_per_s": round(evidence.burst_events / max(evidence.burst_s, 0.001)),
        "bytes": evidence.burst_bytes,
        "commits": writer.batches if writer else 0,
        "events_per_commit_p50": writer.batch_events_p50 if writer else 0,
        "commit_ms_p50": writer.commit_ms_p50 if writer else 0,
        "commit_ms_p99": writer.commit_ms_p99 if writer else 0,
    }


def as_json(evidence: Evidence, promises: list[Promise]) -> dict[str, Any]:
    """The whole as one document."""
    plan = evidence.plan
    return {
        "seed": plan.seed,
        "db": plan.path,
        "sessions": plan.sessions,
        "transcripts": plan.transcripts,
        "counts": _counts(evidence),
        "burst": _speed(evidence),
        "usage": None if evidence.usage is None else {"total": evidence.usage.total, **output.plain(evidence.usage)},
        "promises": promises,
        "held": all(promise.held for promise in promises),
    }


def show(evidence: Evidence, promises: list[Promise], kept: bool) -> None:
    """Print the tables."""
    console = output.console()
    counts, speed = _counts(evidence), _speed(evidence)
    made = output.table("", "")
    made.show_header = False
    for name, value in counts.items():
        shown = _pairs(value) if isinstance(value, dict) else f"{value:,}" if isinstance(value, int) else _swept(evidence)
        made.add_row(name.replace("_", " "), shown)
    pace = f"{speed['events']:,} events in {speed['seconds']} s: {speed['events_per_s']:,} events/s"
    commits = f"{speed['commits']:,} commits (p50 {speed['commit_ms_p50']} ms, p99 {speed['commit_ms_p99']} ms)"
    made.add_row("burst", f"{pace}, {commits}")
    console.print(made)
    console.print()
    if evidence.usage is not None:
        usage = usage_table()
        for model, totals in sorted(evidence.usage.by_model.items()):
            usage_row(usage, output.clean(model), totals)
        usage_row(usage, "total", evidence.usage.total)
        usage_row(usage, "  of it unattributed", evidence.usage.unattributed)
        console.print(usage)
        console.print()
    promised = output.table("promise", "", "compared")
    for promise in promises:
        word, style = ("held", "green") if promise.held else ("BROKEN", "bold red")
        promised.add_row(promise.name, Text(word, style), promise.seen)
    console.print(promised)
    for promise in promises:
        for problem in promise.problems:
            console.print(Text(f"{promise.name}: {output.one_line(problem, 300)}", style="red"), soft_wrap=True)
    broken = sum(not promise.held for promise in promises)
    console.print()
    verdict = "every promise held" if not broken else f"{broken} of {len(promises)} promises did not hold"
    where = f"; the log is {evidence.plan.path}" if kept else ""
    console.print(f"{verdict} (seed {evidence.plan.seed}){where}", style="bold", soft_wrap=True)


def _pairs(value: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in value.items()) or "none"


def _swept(evidence: Evidence) -> str:
    return f"{evidence.swept.messages:,} messages, {evidence.swept.tools:,} tool calls"
