"""The demo: it holds for the engine as it is, and it tells when the engine is broken."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from engine import maintenance
from engine.cli import engine
from engine.cli.demo import checks, child
from engine.cli.demo.run import Evidence, Plan
from engine.events import APPLIED, Skipped, UsageRecorded
from engine.projections import Projector
from engine.projections.builtin import guards
from engine.projections.builtin import usage as usage_module
from engine.store import Log
from engine.subscriptions import Hub

SMALL = ("demo", "--turns", "2", "--sessions", "16", "--seed", "11", "--json")


@pytest.fixture(autouse=True)
def _early_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "ACKS_BEFORE_KILL", (40, 80))


def run(*arguments: str) -> tuple[Result, dict[str, Any]]:
    """Run the command and read its document."""
    result = CliRunner().invoke(engine, arguments)
    assert result.stderr == ""
    return result, json.loads(result.stdout)


def broken(document: dict[str, Any]) -> set[str]:
    """The promises that did not hold."""
    return {promise["name"] for promise in document["promises"] if not promise["held"]}


def test_the_demo_holds_every_promise_and_exits_with_0() -> None:
    """Every promise was compared with something, and held."""
    # when
    result, document = run(*SMALL)
    # then
    assert broken(document) == set()
    assert (result.exit_code, document["held"]) == (0, True)
    assert document["counts"]["acknowledged"] == document["counts"]["found"] > 0
    assert document["counts"]["acknowledged_by_the_killed_process"] >= 40
    assert {"orphan_part", "finished"} <= set(document["counts"]["skipped"])


def test_the_demo_replays_transcripts_as_live_turns(tmp_path: Path) -> None:
    """A folder of transcripts gives the turns; its texts are streamed, its calls made, its usage reported."""
    # given
    records: list[dict[str, Any]] = [
        {"type": "user", "uuid": "u1", "sessionId": "s1", "message": {"role": "user", "content": "count to three"}}
    ]
    for number in range(6):
        message = {
            "id": f"msg{number}",
            "role": "assistant",
            "model": "made-up-model",
            "content": [
                {"type": "text", "text": f"step {number} " * 20},
                {"type": "tool_use", "id": f"t{number}", "name": "bash", "input": {"command": "ls"}},
            ],
            "usage": {"input_tokens": 10, "output_tokens": 5},
        }
        answer = [{"type": "tool_result", "tool_use_id": f"t{number}", "content": "done"}]
        records.append({"type": "assistant", "uuid": f"a{number}", "sessionId": "s1", "message": message})
        records.append(
            {"type": "user", "uuid": f"r{number}", "sessionId": "s1", "message": {"role": "user", "content": answer}}
        )
    (tmp_path / "made-up.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    # when
    result, document = run(*SMALL, "--transcripts", str(tmp_path))
    # then
    assert broken(document) == set()
    assert result.exit_code == 0
    assert document["usage"]["by_model"]["made-up-model"]["steps"] > 0


def test_a_race_that_chance_did_not_stage_is_told_and_an_empty_comparison_is_no_proof() -> None:
    """What a small run need not have is said to be missing; what every run has must be there."""
    # given
    plan = Plan(path="", workspace="", seed="", sessions=1, seconds=None, turns=1, transcripts=None)
    nothing = Evidence(plan=plan)
    # when
    found = {promise.name: promise for promise in checks.check_all(nothing)}
    # then
    unstaged = {name for name, promise in found.items() if promise.seen.endswith("(this run staged none)")}
    assert unstaged == {
        "a delivery counts once",
        "what was removed stays removed",
        "streamed text reads back whole",
        "every skip is logged",
        "the sweep settled what the killed process left",
    }
    assert {name for name, promise in found.items() if promise.held} == unstaged
    assert found["the file is sound"].problems == ("there was nothing to compare",)


# --- the engine, broken on purpose --------------------------------------------------------------------


def drop_some_broadcasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fiftieth committed event is not published."""
    offer, counter = Hub._offer, itertools.count()

    def lossy(self: Hub, item: Any) -> None:
        if next(counter) % 50 != 49:
            offer(self, item)

    monkeypatch.setattr(Hub, "_offer", lossy)


def apply_what_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Late streaming updates count as applied."""
    decide = Projector.decide

    def careless(self: Projector, event: Any, recorded: Any) -> Any:
        outcome = decide(self, event, recorded)
        return APPLIED if outcome == Skipped("finished") else outcome

    monkeypatch.setattr(Projector, "decide", careless)


def forget_removals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing remembers that a message was removed."""
    monkeypatch.setattr(guards, "bury", lambda *_: None)


def count_usage_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each report of a step is a row of its own."""
    counter, record = itertools.count(), usage_module._recorded

    def twice(tx: Any, event: UsageRecorded, recorded: Any) -> Any:
        return record(tx, attrs.evolve(event, step_id=f"{event.step_id}-{next(counter)}"), recorded)

    monkeypatch.setitem(usage_module.USAGE.handlers, UsageRecorded, twice)  # type: ignore[arg-type]


def acknowledge_other_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receipts name a seq that the database did not assign."""
    insert = Log.insert

    def wrong(self: Log, *args: Any, **kwargs: Any) -> tuple[int, int]:
        seq, position = insert(self, *args, **kwargs)
        return seq + (seq % 7 == 3), position

    monkeypatch.setattr(Log, "insert", wrong)


def sweep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep overlooks what was left open."""
    monkeypatch.setattr(maintenance, "find_unfinished", lambda *_: [])


def replay_with_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild passes over some events."""
    stored = Projector._stored

    def gaps(self: Projector, after: int) -> Iterator[Any]:
        for number, item in enumerate(stored(self, after)):
            if number % 40 != 39:
                yield item

    monkeypatch.setattr(Projector, "_stored", gaps)


@pytest.mark.parametrize(
    ("damage", "promise"),
    [
        (drop_some_broadcasts, "followers saw every event once, in order"),
        (apply_what_is_late, "what is settled stays settled"),
        (forget_removals, "agents saw no other error, nothing stays open"),
        (count_usage_twice, "usage counts once per step"),
        (acknowledge_other_places, "what agents were told is in the log as told"),
        (sweep_nothing, "the sweep settled what the killed process left"),
        (replay_with_gaps, "the read model is what a rebuild makes"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_demo_tells_when_the_engine_is_broken(
    monkeypatch: pytest.MonkeyPatch, damage: Callable[[pytest.MonkeyPatch], None], promise: str
) -> None:
    """A broken engine breaks the promise that it breaks, and the exit status is 1."""
    # given
    monkeypatch.setattr("engine.cli.demo.run.PATIENCE_S", 0.5)
    damage(monkeypatch)
    # when
    result, document = run(*SMALL)
    # then
    assert promise in broken(document)
    assert (result.exit_code, document["held"]) == (1, False)
