"""`engine race`: the races as scenarios, the naive designs and the engine, under many schedules.

Owns: which scenarios run, what is expected of each, what is printed. Must not know: how schedules are chosen or shrunk.
The simulator is imported when the command runs: no other command pays for it.
"""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs
import click

from engine.cli import output
from engine.errors import EngineError

if TYPE_CHECKING:
    from engine.simulation.checking import Settings, Verdict

ALL_KEPT, BROKEN = 0, 1


@attrs.frozen
class _Case:
    """A scenario to run."""

    key: str
    title: str
    program: Callable[..., Awaitable[object]]
    faults: tuple[str, ...] = ()
    mode: str = "macro"
    must_fail: bool = False
    arguments: str = ""
    """How the command line names it."""

    def expected(self, verdict: Verdict) -> bool:
        """Whether it ended as it must."""
        return (verdict.error is not None) is self.must_fail


@click.command("race")
@click.argument("names", metavar="[SCENARIO]...", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="List the scenarios and run nothing.")
@click.option("--strategy", metavar="NAME", default="auto", show_default=True, help="How schedules are chosen.")
@click.option("--schedules", metavar="N", type=int, help="At most so many schedules each. Default: 500.")
@click.option("--time", "seconds", metavar="TIME", help="Wall time each, like 60s or 5m, instead of a number of schedules.")
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="Seed of every random choice.")
@click.option("--noise", metavar="N", type=click.IntRange(0, 100), default=2, show_default=True, help="Bystanders.")
@click.option("--variant", type=click.Choice(["naive", "engine", "both"]), default="both", show_default=True)
@click.option("--replay", metavar="SCHEDULE", help="Run one scenario under this schedule only.")
@click.option("--app", metavar="MODULE:FUNCTION", help="A scenario of your own instead: an async function.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def command(names: tuple[str, ...], listing: bool, as_json: bool, **choices: Any) -> int:
    """Run race scenarios under many schedules: every naive design must break, the engine must not.

    SCENARIO is a name, or variant/name; default: all. A failure is reduced to the orderings that it needs and printed as
    columns, with the command that has it again. Your own scenario (--app) must not fail.

    Exit status: 0 all ended as they must; 1 one did not; 2 the call is wrong.

    --json: one document (scenarios: name, title, expected, failed, schedules, distinct, seconds, failure).
    """
    cases = _own(choices["app"], names) if choices["app"] else _shipped(names, choices["variant"], choices["noise"])
    if listing:
        _list(cases, as_json)
        return ALL_KEPT
    if choices["replay"] is not None and len(cases) != 1:
        raise click.UsageError(f"--replay needs one scenario, found {len(cases)}: name it as variant/name")
    ready = [(case, _settings(case, choices)) for case in cases]
    total = sum(settings.limit for _, settings in ready) if choices["seconds"] is None else None
    records: list[dict[str, Any]] = []
    kept = True
    with output.progress("racing", total) as advance:
        for case, settings in ready:
            verdict = _run(case, settings, advance)
            kept = kept and (choices["replay"] is not None or case.expected(verdict)) and not _own_failed(case, verdict)
            if as_json:
                records.append(_record(case, settings, verdict))
            else:
                _print(case, settings, verdict, choices)
    if as_json:
        output.write_json({"scenarios": records})
    return ALL_KEPT if kept else BROKEN


def _own_failed(case: _Case, verdict: Verdict) -> bool:
    return not case.must_fail and verdict.error is not None


# --- which ------------------------------------------------------------------------------------------


def _shipped(names: tuple[str, ...], variant: str, noise: int) -> list[_Case]:
    from engine.simulation.scenarios import SCENARIOS

    known = {found.key: found for found in SCENARIOS}
    for name in names:
        if name not in known and all(found.name != name for found in SCENARIOS):
            raise click.UsageError(f"no scenario {name!r}: see --list")
    chosen = [
        found
        for found in SCENARIOS
        if found.key in names or (variant in ("both", found.variant) and (not names or found.name in names))
    ]
    if not chosen:
        raise click.UsageError(f"no scenario of the variant {variant} has such a name: see --list")
    return [
        _Case(
            found.key,
            found.title,
            found.build(noise),
            found.faults,
            found.mode,
            found.must_fail,
            f"{shlex.quote(found.key)} --noise {noise}",
        )
        for found in chosen
    ]


def _own(target: str, names: tuple[str, ...]) -> list[_Case]:
    from engine.simulation.errors import SimulationError
    from engine.simulation.twin import scenario_of

    if names:
        raise click.UsageError("--app runs a scenario of your own: it goes without names")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        program = scenario_of(target)
    except (SimulationError, EngineError) as problem:
        raise click.UsageError(f"--app {target}: {problem}") from None
    if not inspect.iscoroutinefunction(program):
        raise click.UsageError(f"--app {target}: a scenario is an async function")
    return [_Case(target, "", program, arguments=f"--app {shlex.quote(target)}")]


def _settings(case: _Case, choices: dict[str, Any]) -> Settings:
    from engine.simulation import checking
    from engine.simulation.errors import SimulationError

    try:
        seconds = checking.seconds_of(choices["seconds"]) if choices["seconds"] is not None else None
        unbounded = checking.UNBOUNDED if seconds is not None and choices["schedules"] is None else None
        return checking.Settings(
            schedules=choices["schedules"] if unbounded is None else unbounded,
            seconds=seconds,
            strategy=choices["strategy"],
            seed=choices["seed"],
            mode=case.mode,  # type: ignore[arg-type]
            faults=case.faults,
            replay=choices["replay"],
        )
    except SimulationError as problem:
        raise click.UsageError(str(problem)) from None


# --- running and telling ----------------------------------------------------------------------------


def _run(case: _Case, settings: Settings, advance: Callable[..., None]) -> Verdict:
    from engine.simulation.checking import check

    done = 0

    def on_run(number: int, _: object) -> None:
        nonlocal done
        done += 1
        advance(1, case.key)

    verdict = check(case.program, settings, on_run=on_run)
    advance(max(0, settings.limit - done), case.key)
    return verdict


def _list(cases: list[_Case], as_json: bool) -> None:
    if as_json:
        output.write_json(
            {"scenarios": [{"name": case.key, "title": case.title, "must_fail": case.must_fail} for case in cases]}
        )
        return
    table = output.table("scenario", "what happens")
    for case in cases:
        table.add_row(case.key, case.title)
    output.console().print(table)


def _replay_command(case: _Case, settings: Settings) -> str:
    seed = f" --seed {settings.seed}" if settings.seed else ""
    return f"engine race {case.arguments}{seed} --replay"


def _print(case: _Case, settings: Settings, verdict: Verdict, choices: dict[str, Any]) -> None:
    from engine.simulation.report import report

    campaign = verdict.campaign
    if verdict.error is None:
        said = "passes, and must not" if case.must_fail else "passes"
    else:
        said = "fails, as it must" if case.must_fail else "FAILS"
    click.echo(
        f"{case.key}: {said}: {campaign.schedules:,} schedules, {len(campaign.digests):,} distinct, {campaign.seconds:.1f} s"
    )
    if verdict.shrunk is not None:
        limit = None if choices["seconds"] is not None else settings.limit
        text = report(
            verdict.shrunk, name=case.key, command=_replay_command(case, settings), schedules=limit, origin=verdict.origin
        )
        click.echo("\n".join(f"  {line}" for line in output.clean(text).splitlines()))
    elif verdict.error is not None:
        click.echo(f"  {output.one_line(str(verdict.error), 500)}")
    for what in verdict.unmet:
        click.echo(f"  not met: {output.one_line(what, 200)}")


def _record(case: _Case, settings: Settings, verdict: Verdict) -> dict[str, Any]:
    from engine.simulation.report import as_json

    campaign = verdict.campaign
    failure = None
    if verdict.shrunk is not None:
        failure = as_json(verdict.shrunk, name=case.key, command=_replay_command(case, settings))
    return {
        "name": case.key,
        "title": case.title,
        "expected": case.expected(verdict),
        "failed": verdict.error is not None,
        "error": str(verdict.error) if verdict.error is not None else None,
        "schedules": campaign.schedules,
        "distinct": len(campaign.digests),
        "seconds": round(campaign.seconds, 3),
        "unmet": verdict.unmet,
        "failure": failure,
    }
