"""The benchmark harness runs: every benchmark reports its figures, in a process of its own, within seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.budget import pick

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {
    "floor": (4, {"bare events/s", "own events/s"}),
    "acknowledged": (4, {"events/s", "p50 ms", "p99 ms", "p99.9 ms", "of bare floor", "of own SQL"}),
    "posted": (2, {"calls/s", "chars/s", "events/s", "calls/event"}),
    "busy": (6, {"events/s", "p50 ms", "p99 ms", "p99.9 ms"}),
    "where": (8, {"events/s"}),
    "slow_disk": (3, {"longest"}),
    "streaming": (2, {"WAL MB", "log's own MB", "beyond MB", "beyond per MB of text"}),
    "cost": (5, {"us/event", "share"}),
    "first_bug": (10, {"random", "auto"}),
    "races": (4, set()),
    "crashes": (4, {"logs", "distinct", "reopened", "lost", "half", "distinct/cpu-s"}),
    "determinism": (1, {"runs", "different"}),
    "simulating": (6, {"per cpu-s", "per wall-s", "control per cpu-s", "of control"}),
    "shrinking": (2, {"known", "failures", "minimal", "runs p50", "runs max", "ms p50"}),
    "fan_out": (3, {"clients", "events/s", "MB/s", "gaps", "lagging"}),
    "delivery": (1, {"clients", "commit p50 ms", "commit p99 ms", "client p50 ms", "client p99 ms", "gaps"}),
    "stalled": (2, {"p50 ms", "p99 ms", "memory MB", "lagging", "gaps"}),
    "resume": (2, {"missed", "caught up ms", "events/s", "gaps"}),
    "idle": (2, {"clients", "memory MB", "us/append"}),
}
"""Each benchmark's least number of rows, and the columns that hold a number in every row."""


QUICK = ("floor", "acknowledged", "streaming", "simulating", "fan_out", "idle")
"""What a plain run tries; CI tries all."""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("bench")
    found = folder / "found.json"
    options = ["--smoke", "--dir", str(folder), "--json", str(found)]
    command = [sys.executable, "-W", "error", "-m", "bench", *pick(list(QUICK), []), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(found.read_text())


def test_every_benchmark_is_run_and_records_its_environment(smoke: tuple[str, dict[str, Any]]) -> None:
    _, found = smoke
    assert set(found) == {"environment", *pick(QUICK, tuple(FIGURES))}
    environment = found["environment"]
    assert {"python", "sqlite", "apsw", "pragmas", "file_system", "fdatasync_p50_ms"} <= set(environment)
    assert "synchronous=2" in environment["pragmas"]
    assert "ENABLE_QPSG=1" in environment["pragmas"]


@pytest.mark.parametrize("name", pick(QUICK, tuple(FIGURES)))
def test_a_benchmark_reports_its_figures_and_prints_them(name: str, smoke: tuple[str, dict[str, Any]]) -> None:
    printed, found = smoke
    rows, columns = FIGURES[name]
    table = found[name]
    assert len(table["rows"]) >= rows
    for row in table["rows"]:
        for column in columns:
            assert isinstance(row[column], int | float), (column, row)
    assert table["title"] in printed


def test_replaying_the_recorded_statements_writes_the_bytes_that_the_engine_wrote(smoke: tuple[str, dict[str, Any]]) -> None:
    for row in smoke[1]["streaming"]["rows"]:
        assert row["all replayed MB"] == pytest.approx(row["WAL MB"], rel=0.1)
        assert 0 < row["log's own MB"] < row["WAL MB"]


def test_an_unknown_name_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "nothing"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "no benchmark named nothing" in done.stderr
