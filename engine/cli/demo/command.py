"""`engine demo`: the command.

Owns: its options, where the file is, the exit status. Must not know: what runs, what is checked.
"""

from __future__ import annotations

import os
import tempfile

import click
import trio
from rich.console import Console

from engine.cli import output
from engine.cli.demo import report
from engine.cli.demo.checks import Promise
from engine.cli.demo.run import Evidence, Plan, new_seed, run_demo
from engine.cli.options import Settings, shared_options

DEFAULT_SESSIONS, DEFAULT_SECONDS = 50, 3.0


@click.command("demo")
@click.option(
    "--sessions",
    metavar="N",
    type=click.IntRange(1, 5_000),
    default=DEFAULT_SESSIONS,
    show_default=True,
    help="Agents at once.",
)
@click.option("--seed", metavar="S", help="What is said and which races are staged follow from it. Default: a random one.")
@click.option("--transcripts", metavar="DIR", help="Replay the real transcripts in this folder instead of made-up turns.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3_600), help=f"How long agents begin new turns. [default: {DEFAULT_SECONDS:g}]"
)
@click.option("--turns", metavar="N", type=click.IntRange(1), help="Turns of each agent, instead of --seconds.")
@shared_options(db=False)
def command(
    settings: Settings, sessions: int, seed: str | None, transcripts: str | None, seconds: float | None, turns: int | None
) -> int:
    """Let many agents stream at once, race them, kill a process in mid-burst, and check every promise.

    Removals race late parts, finishes race late updates, deliveries come several times, sessions are removed under writes, a
    second process is killed with SIGKILL and its log opened again. Exit status 1 when a promise did not hold.

    --json: one document (seed, counts, burst, usage, promises with name, held, seen, problems; held).
    """
    if seconds is None and turns is None:
        seconds = DEFAULT_SECONDS
    with tempfile.TemporaryDirectory(prefix="engine-demo-") as folder:
        path = settings.db or os.path.join(folder, "demo.db")
        if settings.db and os.path.exists(path):
            raise click.UsageError(f"--db {path}: it exists; the demo wants a file of its own")
        plan = Plan(
            path=path,
            workspace=settings.workspace,
            seed=seed if seed is not None else new_seed(),
            sessions=sessions,
            seconds=seconds,
            turns=turns,
            transcripts=transcripts,
        )
        evidence, promises = _run(plan)
    if settings.as_json:
        output.write_json(report.as_json(evidence, promises))
    else:
        report.show(evidence, promises, bool(settings.db))
    return 0 if all(promise.held for promise in promises) else 1


def _run(plan: Plan) -> tuple[Evidence, list[Promise]]:
    """Run with a line that says what is going on, where somebody looks."""
    err = Console(stderr=True)
    if not err.is_terminal:
        return trio.run(run_demo, plan, lambda _text: None)
    with err.status("") as status:
        return trio.run(run_demo, plan, status.update)
