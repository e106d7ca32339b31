"""The twin run: what counts as a difference, what a side says, and that a side's failure is never taken for agreement."""

from __future__ import annotations

import io
import json
import sys

import attrs
import pytest

from engine import simulation
from engine.simulation.errors import SimulationSetupError
from engine.simulation.twin import (
    Divergence,
    Record,
    compare,
    first_divergence,
    record_of,
    records_of,
    scenario_of,
    twin,
    twin_commands,
    write_record,
)
from tests.support import leaks

RECORD = Record("0.0", "d", ("a#x", "b#y"), ("1",), "")


def saying(*lines: str, code: int = 0) -> tuple[str, ...]:
    """A command that writes these lines and ends."""
    text = "\n".join(lines)
    return (sys.executable, "-c", f"import sys; print({text!r}); sys.exit({code})")


def line(record: Record) -> str:
    """A record as a side writes it."""
    return json.dumps(attrs.asdict(record))


@pytest.mark.parametrize(
    ("left", "right", "found"),
    [
        ([], [], None),
        (["a", "b"], ["a", "b"], None),
        (["a", "b"], ["a", "c"], (1, "b", "c")),
        (["a"], ["a", "c"], (1, None, "c")),
        (["a", "b"], ["a"], (1, "b", None)),
    ],
)
def test_the_first_divergence_is_the_first_index_that_differs(left, right, found):
    """Also where one trace goes on after the other has ended."""
    assert first_divergence(left, right) == found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"trace": ("a#x", "b#z"), "digest": "e"}, Divergence("0.0", "step", 1, "b#y", "b#z")),
        ({"notes": ("2",), "digest": "e"}, Divergence("0.0", "note", 0, "1", "2")),
        ({"error": "ValueError: no"}, Divergence("0.0", "error", 0, None, "ValueError: no")),
        ({"digest": "e"}, Divergence("0.0", "digest", 0, "d", "e")),
        ({"run": "0.1"}, Divergence("0.0", "run", 0, "0.0", "0.1")),
    ],
    ids=["step", "note", "error", "digest", "run"],
)
def test_records_differ_in_the_first_thing_that_differs(change, expected):
    """Steps come before notes, notes before errors, and a digest alone is a difference too."""
    assert compare(RECORD, RECORD) is None
    assert compare(RECORD, attrs.evolve(RECORD, **change)) == expected


def test_a_missing_run_is_a_difference():
    """A side that ends early does not agree."""
    found = twin_commands((saying(line(RECORD), line(attrs.evolve(RECORD, run="0.1"))), saying(line(RECORD))))
    assert found.runs == 2
    assert found.divergences == (Divergence("0.1", "run", 0, "0.1", None),)


def test_a_difference_reads_as_one_line():
    """It says which run, which step counted from 1, and both sides."""
    assert str(Divergence("s 0.3", "step", 4, "a#x[1]", None)) == (
        "run s 0.3 is not reproducible: its step 5 is `a#x[1]` in one process and nothing in another"
    )


def test_a_run_survives_the_way_through_a_line(capsys):
    """What a side writes is what the other end reads, between lines that are not its own."""
    run = simulation.run(leaks.nothing_leaks)
    record = record_of("0.0", run)
    write_record(record)
    text = capsys.readouterr().out
    assert list(records_of(io.StringIO(f"hello\n{text}bye\n"))) == [record]
    assert (record.digest, record.trace, record.error) == (run.digest, tuple(run.trace), "")


def test_a_failing_run_is_compared_too(tmp_path):
    """Both sides fail alike: no difference. The error is part of the record."""
    path = tmp_path / "failing.py"
    path.write_text("async def scenario():\n    raise ValueError('always')\n")
    assert twin(f"{path}:scenario", schedules=2).divergence is None
    assert record_of("0.0", simulation.run(scenario_of(f"{path}:scenario"))).error == "ValueError: always"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (saying(line(RECORD), code=3), "exit code 3"),
        (saying("nothing of interest"), "it reported no run"),
        ((sys.executable, "-c", "raise OSError('side broke')"), "side broke"),
    ],
    ids=["exit code", "silence", "exception"],
)
def test_a_side_that_fails_is_an_error(command, message):
    """Two sides that fail alike do not agree, they failed."""
    with pytest.raises(SimulationSetupError, match=message):
        twin_commands((command, command))


def test_a_side_that_hangs_is_an_error():
    """It is stopped after its time."""
    hanging = (sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(SimulationSetupError, match=r"longer than 0\.2 s"):
        twin_commands((hanging, hanging), timeout_s=0.2)


@pytest.mark.parametrize(
    "target", ["no.such.module:scenario", "tests.support.leaks:no_such_scenario", "nowhere.py:f", "name"]
)
def test_a_target_that_is_not_there_is_an_error(target):
    """The message names it."""
    with pytest.raises(SimulationSetupError, match=f"no scenario '{target}'"):
        scenario_of(target)
