"""The command `engine`: its commands, and what every failure looks like.

Owns: exit statuses, error lines. Must not know: what a command does.
Exit statuses: 0 done; 1 the world refused (storage, a file that could not be imported, a promise that did not hold); 2 the
call is wrong, and nothing was changed; 130 interrupted; 141 nobody reads the output any more.
Invariants: no error of the engine is ever shown with a traceback; an error is one line on standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NoReturn

import click

from engine.cli import demo, importing, log, output, race, rebuild, serve, sessions, show, stats, tail
from engine.errors import CallerError, EngineError

DONE, REFUSED, WRONG, INTERRUPTED, NO_READER = 0, 1, 2, 130, 141


def _version() -> str:
    try:
        return metadata.version("actor-projection-engine")
    except metadata.PackageNotFoundError:
        return "(not installed)"


VERSION = _version()


class _Commands(click.Group):
    """A group that says every failure in one line and with its status."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run, and leave with the status."""
        extra["standalone_mode"] = False
        output.tolerant()
        try:
            status = super().main(args, prog_name or "engine", **extra)
            sys.stdout.flush()
        except BaseException as problem:
            status = _explain(problem)
        sys.exit(status if isinstance(status, int) else DONE)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what concerns standard output never reaches click, which would say it differently."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as problem:
            raise _LeaveError(problem) from None


class _LeaveError(Exception):
    """Carries an interrupt past click."""


def _explain(problem: BaseException) -> int:
    """Say on standard error what happened, and give the status; raises again what is a bug."""
    problem = _single(problem)
    if isinstance(problem, _LeaveError):
        problem = problem.args[0]
    if isinstance(problem, click.exceptions.Exit):
        return problem.exit_code
    if isinstance(problem, SystemExit):
        return problem.code if isinstance(problem.code, int) else REFUSED
    if isinstance(problem, KeyboardInterrupt | click.Abort):
        _say("interrupted")
        return INTERRUPTED
    if isinstance(problem, BrokenPipeError):
        # Nothing more can be written; the flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    if isinstance(problem, click.exceptions.NoArgsIsHelpError):
        problem.show()
        return WRONG
    if isinstance(problem, click.ClickException):
        _say(" ".join(problem.format_message().split()))
        return WRONG if isinstance(problem, click.UsageError) else REFUSED
    if isinstance(problem, EngineError):
        _say(str(problem))
        return WRONG if isinstance(problem, CallerError) else REFUSED
    raise problem


def _single(problem: BaseException) -> BaseException:
    """The one exception of a group that has one, or the interrupt in it."""
    while isinstance(problem, BaseExceptionGroup):
        interrupts = problem.subgroup(KeyboardInterrupt)
        if interrupts is None and len(problem.exceptions) > 1:
            return problem
        problem = (interrupts or problem).exceptions[0]
    return problem


def _say(text: str) -> None:
    click.echo(f"engine: {output.one_line(text, 2_000)}", err=True)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit status: 0 done; 1 the world refused; 2 the call is wrong and nothing was changed; 130 interrupted.",
)
@click.version_option(VERSION, prog_name="engine", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Say on standard error what the engine logs.")
def engine(verbose: bool) -> None:
    """Sessions of agents in one SQLite file: import them, look at them, replay them, and try the engine out.

    Reading commands (sessions, show, log, tail, stats) work while another process owns and writes the file.
    """
    logger = logging.getLogger("engine")
    logger.handlers[:] = [logging.StreamHandler() if verbose else logging.NullHandler()]
    logger.propagate = False


engine.add_command(importing.command)
engine.add_command(sessions.command)
engine.add_command(show.command)
engine.add_command(log.command)
engine.add_command(tail.command)
engine.add_command(stats.command)
engine.add_command(rebuild.command)
engine.add_command(serve.command)
engine.add_command(demo.command)
engine.add_command(race.command)


def main() -> NoReturn:
    """The entry point of the installed command."""
    engine.main()
