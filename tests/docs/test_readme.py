"""The README's words are kept by tests: its code runs, its commands are the ones CI uses."""

import re
from pathlib import Path

import pytest

from engine.cli import engine

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_every_python_block_runs_in_order_and_prints_what_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks share one namespace and one database, as a reader who pastes them has."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks("python"):
        if block.startswith("# "):  # a file of its own: see the test of that chapter
            continue
        exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "['Looking at it.'] 10000000" in printed
    assert "ses_1 1 session.started Applied()" in printed
    assert "Applied()" in printed.splitlines()[-3]
    assert printed.splitlines()[-2:] == ["ses_1 fix the parser", "over the wire: message.updated True"]


def test_ci_installs_and_tests_with_the_readme_command() -> None:
    """CI's install and test lines are the README's, with the interpreter and the folder as variables."""
    command = next(line for line in "\n".join(blocks("sh")).splitlines() if "pytest" in line)
    make, install, run = (part.strip() for part in command.split("&&"))
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert make.replace("python3", '"$1"').replace(".venv", '"$2"') in ci
    assert install.replace(".venv/bin/pip", "").replace(" install -q ", "") in ci
    assert run.replace(".venv/bin/python ", "") in ci


def test_the_command_line_chapter_names_every_command() -> None:
    """Every command of `engine` stands in the README's list."""
    chapter = README.split("## On the command line")[1].split("\n## ")[0]
    assert set(re.findall(r"\w+", chapter)) >= set(engine.commands)


def test_the_readme_names_every_command() -> None:
    """In its section about the command line."""
    section = README.split("## On the command line")[1].split("\n## ")[0]
    assert [name for name in engine.commands if not re.search(rf"\b{name}\b", section)] == []


def test_the_map_names_every_room_and_no_other() -> None:
    """Every folder and module at the top of the package stands in the README's map."""
    table = README.split("## Map of `engine/`")[1].split("##")[0]
    named = {name for row in re.findall(r"^\| (`[^|]*`) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    rooms = {path.stem for path in (ROOT / "engine").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert named == rooms - {"__init__", "__main__"}
