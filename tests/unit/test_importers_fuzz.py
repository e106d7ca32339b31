"""Transcripts cut, glued, repeated and bent at random: what holds of every one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import ImportFileError
from engine.importers import Transcript, read_transcript
from tests.unit.importing import (
    META,
    SESSION,
    answer,
    check,
    document,
    happened,
    item,
    lines,
    prompt,
    read,
    result,
    rollout,
    said,
    total,
    turn,
    use,
)

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

CLAUDE: list[Any] = [
    {"type": "summary", "leafUuid": "l"},
    prompt("u1", "go"),
    answer("a1", "m1", {"type": "thinking", "thinking": "hm"}, usage={"output_tokens": 1}),
    answer("a2", "m1", use("t1", "Task", prompt="look"), use("c1"), usage={"output_tokens": 4}, stop="tool_use"),
    {
        "type": "progress", "uuid": "p1", "sessionId": SESSION, "parentToolUseID": "t1",
        "data": {"type": "agent_progress", "agentId": "ag", "message": answer("i1", "m8", use("c8"))},
    },
    prompt("r1", "look", isSidechain=True, parentUuid=None),
    answer("r2", "m9", "seen", isSidechain=True, parentUuid="r1"),
    result("u2", "c1", "no", failed=True),
    result("u3", "t1", toolUseResult={"agentId": "ag", "totalDurationMs": 1}),
    answer("a3", "m2", "done \U0001f600", stop="end_turn"),
    {"type": "system", "subtype": "compact_boundary", "uuid": "b", "sessionId": SESSION},
    prompt("u4", "in short", isCompactSummary=True),
    prompt("u5", "other", sessionId="other"),
    prompt("u6", "[Request interrupted by user]"),
]  # fmt: skip
CODEX: list[Any] = [
    META,
    rollout("turn_context", {"model": "m"}),
    happened("task_started", turn_id="t"),
    said("user", "go"),
    happened("user_message", message="go"),
    item("reasoning", summary=[{"text": "hm"}]),
    said("assistant", "on it", id="x"),
    item("function_call", name="f", arguments="{}", call_id="c1"),
    item("web_search_call", status="completed", action={}),
    item("function_call_output", call_id="c1", output="ok"),
    total(10, 5, 3),
    rollout("compacted", {"message": "short"}),
    happened("turn_aborted", reason="interrupted"),
    total(4, 2, 1),
    happened("task_complete"),
]
OPENCODE = [
    turn("m1", "user", [{"type": "text", "id": "p1", "text": "go"}]),
    turn("m2", "assistant", [
        {"type": "tool", "id": "p2", "callID": "c", "tool": "t", "state": {"status": "completed", "output": "x"}},
        {"type": "step-finish", "id": "p3", "tokens": {"input": 1}, "cost": 0.1},
    ], time={"created": 1, "completed": 2}),
]  # fmt: skip

odd = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        2**70,
        1.5,
        "",
        "x" * 700,
        "\ud83d",
        "\0",
        [],
        {},
        [None],
        {"type": 3},
        {"type": "text"},
        "user",
    ]
)
values = st.recursive(
    odd, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value something stands."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def bent(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    """The value with another one at that place."""
    if not path:
        return to
    copy = value.copy()
    copy[path[0]] = bent(value[path[0]], path[1:], to)
    return copy


@st.composite
def broken_files(draw: st.DrawFn) -> bytes:
    """A file of records with some of them bent, repeated, moved, glued or cut, and bytes flipped."""
    records = list(draw(st.sampled_from([CLAUDE, CODEX])))
    for _ in range(draw(st.integers(0, 4))):
        index = draw(st.integers(0, len(records) - 1))
        match draw(st.sampled_from(["bend", "repeat", "move", "drop"])):
            case "bend":
                place = draw(st.sampled_from(places(records[index])))
                records[index] = bent(records[index], place, draw(values))
            case "repeat":
                records.insert(draw(st.integers(0, len(records))), records[index])
            case "move":
                records.append(records.pop(index))
            case "drop" if len(records) > 1:
                records.pop(index)
    data = bytearray(lines(*[json.dumps(record) for record in records]))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data) - 1))
        end = min(len(data), start + draw(st.sampled_from([1, 1, 30, 400])))
        data[start:end] = draw(
            st.sampled_from([b"", b"\n", b"\xff", b'"', b"}", b"\0\0", b"\\ud83d", b"NaN", b"{", b"\r\n"])
        )
        if not data:
            break
    return bytes(data)


def maybe(path: Path, content: bytes) -> Transcript | None:
    """The checked transcript, or None where the file is refused."""
    path.write_bytes(content)
    try:
        transcript = read_transcript(path)
    except ImportFileError:
        return None
    check(transcript)
    return transcript


@quick
@given(broken_files())
def test_no_file_of_lines_breaks_the_importer(tmp_path: Path, content: bytes) -> None:
    """Whatever the file, it is refused in words or every envelope can be stored."""
    maybe(tmp_path / "file", content)


@quick
@given(st.sampled_from(places(json.loads(document(*OPENCODE)))), values)
def test_no_document_breaks_the_importer(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    """Whatever stands at any place of a document, it is refused in words or every envelope can be stored."""
    content = json.dumps(bent(json.loads(document(*OPENCODE)), place, value), indent=1)
    maybe(tmp_path / "file", content.encode())


@quick
@given(st.binary(max_size=200))
def test_no_bytes_break_the_importer(tmp_path: Path, content: bytes) -> None:
    """Also behind a record that names the format."""
    maybe(tmp_path / "file", content)
    maybe(tmp_path / "file", lines(CLAUDE[1]) + content)
    maybe(tmp_path / "file", lines(META) + content)


@quick
@given(broken_files(), st.data())
def test_a_file_cut_anywhere_gives_a_prefix(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    """Session by session, what the shorter file gave comes first in what the longer one gives."""
    cut = data.draw(st.integers(0, len(content)))
    before, after = maybe(tmp_path / "old", content[:cut]), maybe(tmp_path / "new", content)
    now = {} if after is None else {session.session_id: session.envelopes for session in after.sessions}
    for session in () if before is None else before.sessions:
        assert now[session.session_id][: len(session.envelopes)] == session.envelopes


@pytest.mark.parametrize("records", [CLAUDE, CODEX], ids=["claude_code", "codex"])
def test_a_file_cut_at_every_byte_gives_a_prefix(tmp_path: Path, records: list[Any]) -> None:
    """Every byte of a small file is a place where a live file may end."""
    content = lines(*records)
    whole = {session.session_id: session.envelopes for session in read(tmp_path, content).sessions}
    for end in range(len(lines(records[0], records[1])), len(content), 7):
        for session in read(tmp_path, content[:end]).sessions:
            assert whole[session.session_id][: len(session.envelopes)] == session.envelopes
