"""opencode documents and what they become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.events import ContextCompacted, MessageUpdated, PartUpdated, SessionStarted, ToolUpdated
from tests.unit.importing import (
    SESSION,
    document,
    events,
    finishes,
    ledger,
    notes,
    problems,
    read,
    texts,
    titles,
    tools,
    turn,
)

TOKENS = {"input": 10, "output": 5, "reasoning": 2, "cache": {"read": 3, "write": 1}}
DONE = {"created": 1000, "completed": 3000}


def part(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    """A part with the ids that every part has."""
    return {"type": kind, "id": name, "messageID": "m", "sessionID": SESSION, **fields}


def tool(name: str, status: str, **state: Any) -> dict[str, Any]:
    """A tool part."""
    return part("tool", name, tool="bash", callID=f"call-{name}", state={"status": status, **state})


def test_a_document_is_a_session(tmp_path: Path) -> None:
    """Parent, title, folder; messages in their order with their times."""
    transcript = read(tmp_path, document(turn("m1", "user", [part("text", "p1", text="hi")]), parentID="above"))
    assert events(transcript, SessionStarted) == [SessionStarted(None, "above", {"format": "opencode", "cwd": "/w"})]
    assert titles(transcript) == ["A title"]
    assert [(p.part_id, p.message_id, p.data) for p in events(transcript, PartUpdated)] == [("p1", "m1", {"text": "hi"})]
    assert transcript.sessions[0].envelopes[0].occurred_at == 1000
    assert transcript.records == 3


def test_a_document_on_one_line_and_a_list_of_documents_are_read(tmp_path: Path) -> None:
    """Parents come before their children, whatever the list says."""
    above, below = json.loads(document(id="above")), json.loads(document(id="below", parentID="above"))
    for content in (
        json.dumps([below, above]),
        json.dumps([below, above], indent=1),
        "\n".join(map(json.dumps, (below, above))),
    ):
        assert [s.session_id for s in read(tmp_path, content.encode()).sessions] == ["above", "below"]


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"time": DONE, "finish": "stop"}, [("m1", "completed", "stop")]),
        ({"time": {"created": 1}}, []),
        ({"error": {"name": "MessageAbortedError"}}, [("m1", "aborted", "MessageAbortedError")]),
        ({"time": DONE, "error": {"name": "APIError"}}, [("m1", "error", "APIError")]),
    ],
)
def test_a_message_ends_as_its_info_says(tmp_path: Path, info: dict[str, Any], expected: list[Any]) -> None:
    """Completed, failed, aborted; one that is still running stays unknown."""
    transcript = read(tmp_path, document(turn("m1", "assistant", [part("text", "p1", text="x")], **info)))
    assert finishes(transcript) == expected
    assert events(transcript, MessageUpdated)[0].state == "unknown"


def test_tool_parts_run_and_end(tmp_path: Path) -> None:
    """Each in the state of its part, with its times, its child and its error."""
    parts = [
        tool("a", "completed", input={"x": 1}, output="out", time={"start": 5, "end": 9}, metadata={"sessionId": "sub"}),
        tool("b", "error", input={}, error="broke"),
        tool("c", "running", input={}),
        tool("d", "pending"),
    ]
    transcript = read(tmp_path, document(turn("m1", "assistant", parts)))
    assert tools(transcript) == [
        ("call-a", "running"), ("call-a", "completed"), ("call-b", "running"), ("call-b", "error"),
        ("call-c", "running"), ("call-d", "pending"),
    ]  # fmt: skip
    begun, ended, _, failed, *_ = events(transcript, ToolUpdated)
    assert (begun.input, begun.started_at, ended.output, ended.ended_at) == ({"x": 1}, 5, "out", 9)
    assert (ended.child_session_id, failed.error) == ("sub", "broke")


def test_usage_comes_from_steps_or_else_from_the_message(tmp_path: Path) -> None:
    """Never from both; output includes reasoning."""
    steps = [part("step-finish", name, tokens=TOKENS, cost=0.25) for name in ("s1", "s2")]
    whole = {"tokens": {**TOKENS, "output": 500}, "cost": 0.5, "modelID": "model-1", "time": DONE}
    with_steps = ledger(read(tmp_path, document(turn("m1", "assistant", steps, **whole))))
    alone = ledger(read(tmp_path, document(turn("m1", "assistant", [], **whole))))
    assert with_steps.keys() == {"s1", "s2"}
    assert alone.keys() == {"m1"}
    step = with_steps["s1"]
    assert (step.input_tokens, step.output_tokens, step.reasoning_tokens) == (10, 7, 2)
    assert (step.cache_read_tokens, step.cache_write_tokens, step.model) == (3, 1, "model-1")
    assert (step.cost_nanousd, alone["m1"].cost_nanousd) == (250_000_000, 500_000_000)


@pytest.mark.parametrize(("sum_of_all", "output"), [(21, 7), (19, 5)])
def test_a_total_tells_whether_output_holds_the_reasoning(tmp_path: Path, sum_of_all: int, output: int) -> None:
    """Versions differ; the total of a step shows which it is."""
    step = part("step-finish", "s1", tokens={**TOKENS, "total": sum_of_all})
    assert ledger(read(tmp_path, document(turn("m1", "assistant", [step]))))["s1"].output_tokens == output


@pytest.mark.parametrize(
    ("dollars", "nano"),
    [(0.1, 100_000_000), (1e-9, 1), (5e-10, 0), (1.5e-9, 2), (0.0123456789, 12345679), (3, 3 * 10**9)],
)
def test_dollars_become_whole_nano_dollars(tmp_path: Path, dollars: float, nano: int) -> None:
    """Rounded from the decimal that was written, half to even."""
    step = part("step-finish", "s1", tokens=TOKENS, cost=dollars)
    assert ledger(read(tmp_path, document(turn("m1", "assistant", [step]))))["s1"].cost_nanousd == nano


@pytest.mark.parametrize("cost", [-1, 1e30, "much", True])
def test_a_cost_out_of_range_is_zero_and_reported(tmp_path: Path, cost: object) -> None:
    """Tokens still count."""
    transcript = read(tmp_path, document(turn("m1", "assistant", [part("step-finish", "s1", tokens=TOKENS, cost=cost)])))
    assert ledger(transcript)["s1"].cost_nanousd == 0
    assert len(problems(transcript)) == 1


def test_other_parts_are_content_or_notes(tmp_path: Path) -> None:
    """Files are content; snapshots, patches, steps and what is new are notes."""
    kinds = ["file", "reasoning", "step-start", "patch", "snapshot", "retry", "novel"]
    parts = [part(kind, kind, text="t") if kind == "reasoning" else part(kind, kind) for kind in kinds]
    transcript = read(tmp_path, document(turn("m1", "assistant", [*parts, 7])))
    assert [p.kind for p in events(transcript, PartUpdated)] == ["file", "reasoning"]
    assert notes(transcript) == ["info", "step-start", "patch", "snapshot", "retry", "novel", "part"]


def test_a_summary_is_a_compaction(tmp_path: Path) -> None:
    """The assistant's message that summarises is named."""
    summary = turn("m1", "assistant", [part("text", "p1", text="in short")], summary=True, time=DONE)
    assert events(read(tmp_path, document(summary)), ContextCompacted) == [ContextCompacted("m1")]


def test_a_document_that_grew_keeps_the_ids_of_what_did_not_change(tmp_path: Path) -> None:
    """A changed part is another event; no event id stands for two contents."""
    first, running = turn("m1", "user", [part("text", "p1", text="hi")]), tool("a", "running", input={})
    before = read(tmp_path, document(first, turn("m2", "assistant", [part("text", "p2", text="wor"), running])))
    ended = tool("a", "completed", input={}, output="x")
    after = read(
        tmp_path,
        document(first, turn("m2", "assistant", [part("text", "p2", text="work"), ended], time=DONE), title="New"),
    )
    old = {envelope.event_id: envelope for envelope in before.sessions[0].envelopes}
    new = {envelope.event_id: envelope for envelope in after.sessions[0].envelopes}
    assert all(old[name] == new[name] for name in old.keys() & new.keys())
    assert [e.event.data["text"] for n, e in new.items() if n not in old and isinstance(e.event, PartUpdated)] == ["work"]
    assert texts(after) == ["hi", "work"]


def test_odd_documents_do_not_stop_the_others(tmp_path: Path) -> None:
    """What has no id or is no document is reported; odd messages are notes."""
    good = json.loads(document(turn("m1", "user", [])))
    good["messages"] += [7, {"info": None}, {"info": {}}, {"info": {"role": "", "parts": 3}}]
    transcript = read(tmp_path, json.dumps([good, 3, {"info": {}, "messages": []}]).encode())
    assert len(transcript.sessions) == 1
    assert len(problems(transcript)) == 2
    assert notes(transcript).count("message") == 2
