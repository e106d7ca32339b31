"""The README's chapter on races, done by a reader: the files are written, pytest runs, and says what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.readers import PLUGIN

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = (ROOT / "README.md").read_text(encoding="utf-8").split("## Find a race in your own trio code")[1].split("\n## ")[0]


def files() -> list[tuple[str, str]]:
    """(name, content) of each block that says which file it is, in order."""
    return re.findall(r"^```python\n# (\S+)\n(.*?)^```$", CHAPTER, re.MULTILINE | re.DOTALL)


def shown() -> list[str]:
    """The report that the chapter shows, line by line."""
    return re.findall(r"^```text\n(.*?)^```$", CHAPTER, re.MULTILINE | re.DOTALL)[0].splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a reader's pytest says."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    command = [sys.executable, "-m", "pytest", "-q", *PLUGIN, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_reader_finds_replays_and_fixes_the_race(folder: Path) -> None:
    """The first version fails with the report that is shown, its last line fails again, and the second version passes."""
    (name, broken), (test, source), (fixed_name, fixed) = files()
    assert (name, fixed_name) == ("cache.py", "cache.py")
    (folder / name).write_text(broken)
    (folder / test).write_text(source)

    found = run(folder, test)
    assert found.returncode == 1
    for line in shown():
        assert line in found.stdout.splitlines()

    command = re.fullmatch(r"replay:  pytest (\S+) --sim-replay '(.*)'", shown()[-1])
    assert command is not None
    assert run(folder, command[1], "--sim-replay", command[2]).returncode == 1
    opposite = ">".join(reversed(command[2].removeprefix("c1:").split(">")))
    assert run(folder, command[1], "--sim-replay", f"c1:{opposite}").returncode == 0

    (folder / fixed_name).write_text(fixed)
    assert "1 passed" in run(folder, test).stdout
