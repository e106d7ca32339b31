"""The command `engine race`: which scenarios run, what is printed, and how it ends."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from engine.cli import engine
from tests.support.readers import LOST_UPDATE

NAME = "naive/1 late part"

OWN = (
    """
from engine.simulation import point

async def lost_update(sim):"""
    + LOST_UPDATE
    + """
async def alone():
    await point("only")

nothing = 3
"""
)


def race(*arguments: str) -> Result:
    return CliRunner().invoke(engine, ["race", *arguments])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of scenarios in the working directory."""
    (tmp_path / "races_of_mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "races_of_mine", raising=False)
    return "races_of_mine"


def test_the_list_names_every_scenario() -> None:
    """`--list` runs nothing, and a name of it can be given."""
    result = race("--list")
    assert result.exit_code == 0
    assert NAME in result.stdout
    assert "schedules" not in result.stdout


def test_a_naive_design_breaks_as_it_must() -> None:
    """A found failure of a naive scenario is the expected end: status 0, with its report."""
    result = race(NAME)
    assert result.exit_code == 0
    assert f"{NAME}: fails, as it must" in result.stdout
    assert "needs 1 ordering: fails 10/10 in the default order" in result.stdout
    assert "other order passes 10/10" in result.stdout


def test_the_printed_command_has_the_failure_again() -> None:
    """The replay line, given to the command, fails with one schedule."""
    line = next(line for line in race(NAME, "--seed", "3").stdout.splitlines() if "replay:" in line)
    words = shlex.split(line.partition("replay:")[2])
    result = race(*words[2:])
    assert result.exit_code == 0
    assert "1 schedules" in result.stdout
    assert "replayed" in result.stdout


def test_a_naive_design_that_holds_is_not_as_it_must_be() -> None:
    """One schedule is too few: the bug was not found, and the status says so."""
    result = race(NAME, "--schedules", "1")
    assert result.exit_code == 1
    assert "passes, and must not" in result.stdout


def test_json_is_one_document() -> None:
    """Everything that the text says, for a program."""
    result = race(NAME, "--json")
    (record,) = json.loads(result.stdout)["scenarios"]
    assert (record["name"], record["failed"], record["expected"]) == (NAME, True, True)
    failure: dict[str, Any] = record["failure"]
    assert len(failure["orderings"]) == 1
    assert failure["fails"]["default_order"] == failure["other_order_passes"][0]["default_order"] == 10
    assert failure["replay"].startswith(f"engine race {shlex.quote(NAME)}")


def test_a_scenario_of_ones_own_must_not_fail(own: str) -> None:
    """`--app` runs a function of the user's: status 1 for a failure, 0 for none."""
    result = race("--app", f"{own}:lost_update")
    assert result.exit_code == 1
    assert "FAILS" in result.stdout
    assert f"--app {own}:lost_update --replay" in result.stdout
    result = race("--app", f"{own}:alone", "--schedules", "5")
    assert (result.exit_code, "passes: 5 schedules" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no such race"], "no scenario 'no such race'"),
        ([NAME, "--strategy", "luck"], "strategy: expected one of"),
        ([NAME, "--schedules", "0"], "schedules: expected 1 or more"),
        ([NAME, "--time", "soon"], "time: expected a duration"),
        ([NAME, "--replay", "c9:what"], "expected c1:"),
        (["--replay", "c1:a#b>c#d"], "--replay needs one scenario"),
        (["--app", "no_such_module:f"], "no scenario 'no_such_module:f'"),
        (["--app", "x:y", NAME], "it goes without names"),
        ([NAME, "--variant", "other"], "Invalid value"),
    ],
)
def test_a_wrong_call_runs_nothing(arguments: list[str], complaint: str) -> None:
    """Status 2, one line on standard error, nothing on standard output."""
    result = race(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in result.stderr


def test_what_is_no_function_is_refused(own: str) -> None:
    """A name that is there but cannot be run is a wrong call."""
    result = race("--app", f"{own}:nothing")
    assert (result.exit_code, result.stdout) == (2, "")


def test_other_commands_do_not_import_the_simulator() -> None:
    """The command line pays for it only when it races."""
    code = "import sys, engine.cli; sys.exit(any(name.startswith('engine.simulation') for name in sys.modules))"
    root = str(Path(__file__).resolve().parents[2])
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
