"""Saved failures: the schedules that a test failed under, kept to be tried first the next time.

Owns: the files, one a test. Must not know: pytest, how a schedule is carried out.
Invariants: nothing is written but for a failure; a file is replaced whole or not at all; entries are never dropped because
they pass again, only when a newer one takes the place of the oldest of `ENTRIES_MAX`.

A file is JSON made to be read and edited by hand:

    {"test": "tests/test_races.py::test_revert",
     "schedules": [{"schedule": "c1:turn#late>user#remove", "seed": 7, "error": "AssertionError: ..."}]}

`seed` is that of the run's random streams; `error` is for the reader.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Final

import attrs

from engine.simulation.errors import SimulationSetupError
from engine.simulation.schedule import parse

ENTRIES_MAX: Final = 20


@attrs.frozen
class Saved:
    """One schedule that failed."""

    schedule: str
    seed: int
    error: str = ""


@attrs.frozen
class Corpus:
    """A directory of saved failures."""

    directory: Path

    def file_of(self, test: str) -> Path:
        """Where a test's failures are kept."""
        readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", test).strip("-")[-80:]
        return self.directory / f"{readable}-{hashlib.blake2b(test.encode(), digest_size=4).hexdigest()}.json"

    def saved(self, test: str) -> list[Saved]:
        """A test's saved failures, the newest first. Raises `SimulationSetupError` for a file that cannot be read."""
        path = self.file_of(test)
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))["schedules"]
            found = [Saved(str(entry["schedule"]), int(entry["seed"]), str(entry.get("error", ""))) for entry in entries]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise SimulationSetupError(f"the saved failures in {path} cannot be read: {problem!r}") from None
        for entry in found:
            parse(entry.schedule)
        return found

    def save(self, test: str, entry: Saved) -> Path:
        """Keep a failure, as the newest one of its test. A schedule that is kept already moves to the front."""
        others = [known for known in self.saved(test) if (known.schedule, known.seed) != (entry.schedule, entry.seed)]
        content = {"test": test, "schedules": [attrs.asdict(known) for known in [entry, *others][:ENTRIES_MAX]]}
        path = self.file_of(test)
        self.directory.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.directory, prefix=".new-", suffix=".json")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return path
