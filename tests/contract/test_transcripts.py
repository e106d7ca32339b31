"""Real transcripts of three agents, counted here with plain json and compared with what the importer makes of them.

The folder is no part of the project: `../shared/transcripts` beside the repository, or ENGINE_TRANSCRIPTS. Where it is
absent, these tests skip.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engine.events import (
    BUILT_IN,
    ContextCompacted,
    MessageFinished,
    MessageUpdated,
    PartUpdated,
    Registry,
    SessionNoted,
    SessionStarted,
    ToolUpdated,
    UsageRecorded,
    prepare,
)
from engine.importers import Transcript, find_transcripts, read_transcript
from engine.limits import Limits

ROOT = Path(os.environ.get("ENGINE_TRANSCRIPTS") or Path(__file__).parents[2].parent / "shared" / "transcripts")
FILES = find_transcripts([ROOT]) if ROOT.is_dir() else []
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")

pytestmark = pytest.mark.skipif(not FILES, reason=f"no transcripts in {ROOT}")


def name_of(path: Path) -> str:
    """The file's name below the folder, as a test id."""
    return str(path.relative_to(ROOT))


def of_format(name: str) -> Any:
    """Parametrize over the files of one agent; one that skips where there are none."""
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] == name]
    return pytest.mark.parametrize("path", files or [None], ids=name_of if files else str)


every_file = pytest.mark.parametrize("path", FILES or [None], ids=name_of if FILES else str)


@cache
def imported(path: Path) -> Transcript:
    """The importer's answer, once per file."""
    return read_transcript(path)


@cache
def raw_lines(path: Path) -> list[Any]:
    """The file's records, by plain json."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def events(path: Path, kind: type[Any]) -> list[Any]:
    """All events of a type, over all sessions of the file."""
    found = (envelope.event for session in imported(path).sessions for envelope in session.envelopes)
    return [event for event in found if isinstance(event, kind)]


def final_states(path: Path) -> Counter[str]:
    """How many tool calls ended in which state."""
    last = {}
    for session in imported(path).sessions:
        for envelope in session.envelopes:
            if isinstance(envelope.event, ToolUpdated):
                last[session.session_id, envelope.event.call_id] = envelope.event.state
    return Counter(last.values())


def calls_and_answers(path: Path) -> tuple[int, int]:
    """Distinct tool calls, and how many of them settled."""
    states = final_states(path)
    return states.total(), states.total() - states["running"] - states["pending"]


def usage_sums(path: Path) -> dict[str, int]:
    """Token sums of a ledger that keeps the last report of each step."""
    ledger = {}
    for session in imported(path).sessions:
        for envelope in session.envelopes:
            if isinstance(envelope.event, UsageRecorded):
                ledger[session.session_id, envelope.event.step_id] = envelope.event
    return {name: sum(getattr(entry, name) for entry in ledger.values()) for name in TOKENS}


def claude_messages(path: Path) -> list[dict[str, Any]]:
    """The user and assistant records of the file and of its sub-agents."""
    found = []
    for record in raw_lines(path):
        data = record.get("data") or {}
        inner = data["message"] if data.get("type") == "agent_progress" else record
        if inner.get("type") in ("user", "assistant"):
            found.append(inner)
    return found


def claude_blocks(path: Path) -> list[dict[str, Any]]:
    """The content blocks of those records; plain text as a text block."""
    contents = [record["message"]["content"] for record in claude_messages(path)]
    return [
        block
        for content in contents
        for block in ([{"type": "text", "text": content}] if isinstance(content, str) else content)
    ]


@every_file
def test_every_envelope_can_be_stored_and_no_event_id_is_there_twice(path: Path) -> None:
    """What the importer gives passes the engine's own checks; a session starts with its start and only there."""
    registry, limits = Registry(BUILT_IN), Limits()
    for session in imported(path).sessions:
        for envelope in session.envelopes:
            prepare(registry, envelope, limits)
        ids = [envelope.event_id for envelope in session.envelopes]
        assert len(ids) == len(set(ids))
        starts = [isinstance(envelope.event, SessionStarted) for envelope in session.envelopes]
        assert starts == [True] + [False] * (len(starts) - 1)


@every_file
def test_reading_twice_gives_the_same_and_counts_every_byte(path: Path) -> None:
    """The answer depends on the content only, and progress adds up to the file's size."""
    consumed: list[int] = []
    again = read_transcript(path, on_bytes=consumed.append)
    assert again == imported(path)
    assert sum(consumed) == path.stat().st_size


@every_file
def test_no_part_comes_for_a_message_that_is_finished(path: Path) -> None:
    """The engine would skip it; nor does a real file need a message that continues a finished one."""
    for session in imported(path).sessions:
        finished, announced = set(), set()
        for envelope in session.envelopes:
            event = envelope.event
            if isinstance(event, MessageUpdated):
                assert event.message_id not in announced
                assert "continues" not in event.metadata
                announced.add(event.message_id)
            elif isinstance(event, MessageFinished):
                assert event.message_id not in finished
                finished.add(event.message_id)
            elif isinstance(event, PartUpdated):
                assert event.message_id in announced
                assert event.message_id not in finished


@every_file
def test_a_settled_tool_call_keeps_its_state(path: Path) -> None:
    """A call may say more later, never something else."""
    settled: dict[tuple[str, str], str] = {}
    for session in imported(path).sessions:
        for envelope in session.envelopes:
            if isinstance(event := envelope.event, ToolUpdated):
                key = (session.session_id, event.call_id)
                assert settled.get(key, event.state) == event.state
                if event.state not in ("running", "pending"):
                    settled[key] = event.state


@every_file
def test_parents_come_first_and_links_name_sessions_of_the_file(path: Path) -> None:
    """A child follows its parent; a tool call's child is the session that names the caller."""
    ids = [session.session_id for session in imported(path).sessions]
    assert len(ids) == len(set(ids))
    for number, session in enumerate(imported(path).sessions):
        parent = session.envelopes[0].event.parent_id
        assert parent not in ids[number:]
    linked = {event.child_session_id for event in events(path, ToolUpdated)} - {None}
    children = {s.session_id for s in imported(path).sessions if s.envelopes[0].event.parent_id in ids}
    assert linked == children


@of_format("claude_code")
def test_claude_code_counts_agree(path: Path) -> None:
    """Records, calls, results, errors, compactions and announced messages are those of the file."""
    blocks = claude_blocks(path)
    uses = [block["id"] for block in blocks if block["type"] == "tool_use"]
    results = [block for block in blocks if block["type"] == "tool_result"]
    assert imported(path).format == "claude_code"
    assert imported(path).records == len(raw_lines(path))
    assert imported(path).issues == ()
    assert calls_and_answers(path) == (len(uses), len({r["tool_use_id"] for r in results} & set(uses)))
    failed = sum(block.get("is_error") is True for block in results)
    assert final_states(path)["error"] + final_states(path)["aborted"] == failed
    boundaries = sum(record.get("subtype") == "compact_boundary" for record in raw_lines(path))
    assert len(events(path, ContextCompacted)) == boundaries
    api_messages = {record["message"]["id"] for record in claude_messages(path) if record["type"] == "assistant"}
    assert {e.message_id for e in events(path, MessageUpdated) if e.role == "assistant"} == api_messages


@of_format("claude_code")
def test_claude_code_interrupts_abort_what_was_running(path: Path) -> None:
    """Every interrupt is a message; it aborts the model's message before it unless a prompt stands between."""
    aborts, open_message, interrupts = 0, False, 0
    for record in raw_lines(path):
        if record.get("isSidechain") or record["type"] not in ("user", "assistant", "system"):
            continue
        content = record["message"]["content"] if "message" in record else None
        first = content[0] if isinstance(content, list) else {"type": "text", "text": content}
        if record["type"] == "assistant":
            open_message = True
        elif record["type"] == "system":
            open_message = open_message and record["subtype"] not in ("turn_duration", "stop_hook_summary")
        elif first["type"] == "text" and first["text"].startswith("[Request interrupted by user"):
            interrupts += 1
            aborts += open_message
            open_message = False
        elif first["type"] == "text" and not record.get("isMeta"):
            open_message = False
    finishes = events(path, MessageFinished)
    assert [event.status for event in finishes].count("aborted") == aborts
    assert sum("is_interrupt" in event.metadata for event in events(path, MessageUpdated)) == interrupts


@of_format("claude_code")
def test_claude_code_usage_is_the_last_report_of_each_message(path: Path) -> None:
    """One API message is many records that repeat its usage; each message counts once, sub-agents' included."""
    last = {r["message"]["id"]: r["message"]["usage"] for r in claude_messages(path) if r["type"] == "assistant"}
    raw_names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    expected = [sum(usage.get(name, 0) for usage in last.values()) for name in raw_names]
    assert usage_sums(path) == dict(zip(TOKENS, expected, strict=True))


@of_format("claude_code")
def test_claude_code_loses_no_text(path: Path) -> None:
    """Every text and thought is a part, every result an output, as often as it is in the file."""
    blocks = claude_blocks(path)
    texts = Counter(block["text"] for block in blocks if block["type"] == "text")
    thoughts = Counter(block["thinking"] for block in blocks if block["type"] == "thinking")
    outputs = Counter(json.dumps(block["content"]) for block in blocks if block["type"] == "tool_result")
    parts = events(path, PartUpdated)
    assert Counter(part.data["text"] for part in parts if part.kind == "text") == texts
    assert Counter(part.data["text"] for part in parts if part.kind == "reasoning") == thoughts
    found = Counter(json.dumps(event.output) for event in events(path, ToolUpdated) if event.output is not None)
    assert found == outputs


@of_format("claude_code")
def test_claude_code_children_hold_the_sub_agents_usage(path: Path) -> None:
    """A sub-agent's messages and usage are in its own session and not in its parent's."""
    agents = Counter(
        record["data"]["message"]["message"]["id"]
        for record in raw_lines(path)
        if (record.get("data") or {}).get("type") == "agent_progress" and record["data"]["message"]["type"] == "assistant"
    )
    side = {r["message"]["id"] for r in raw_lines(path) if r.get("isSidechain") and r["type"] == "assistant"}
    found = {
        envelope.event.step_id
        for session in imported(path).sessions
        if session.envelopes[0].event.parent_id is not None
        for envelope in session.envelopes
        if isinstance(envelope.event, UsageRecorded)
    }
    assert found == set(agents) | side


@of_format("codex")
def test_codex_counts_agree(path: Path) -> None:
    """Records, calls, answers, compactions and aborted turns are those of the file."""
    payloads = [(record["type"], record["payload"]) for record in raw_lines(path)]
    items = [payload for kind, payload in payloads if kind == "response_item"]
    calls = [item for item in items if item["type"].endswith("_call")]
    answers = [item for item in items if item["type"].endswith("_output")]
    alone = [item for item in calls if "call_id" not in item]
    assert imported(path).format == "codex"
    assert imported(path).records == len(payloads)
    assert imported(path).issues == ()
    assert calls_and_answers(path) == (len(calls), len(answers) + len(alone))
    assert len(events(path, ContextCompacted)) == sum(kind == "compacted" for kind, _ in payloads)
    aborted = sum(payload.get("type") == "turn_aborted" for kind, payload in payloads if kind == "event_msg")
    assert [event.status for event in events(path, MessageFinished)].count("aborted") == aborted


@of_format("codex")
def test_codex_usage_adds_up_to_the_last_total(path: Path) -> None:
    """The differences of a cumulative count sum to its last value; cached input is counted apart."""
    totals = [
        record["payload"]["info"]["total_token_usage"]
        for record in raw_lines(path)
        if record["payload"].get("type") == "token_count" and record["payload"]["info"]
    ]
    last = totals[-1]
    cached = last["cached_input_tokens"]
    expected = [last["input_tokens"] - cached, last["output_tokens"], cached, 0]
    assert usage_sums(path) == dict(zip(TOKENS, expected, strict=True))
    assert sum(event.reasoning_tokens for event in events(path, UsageRecorded)) == last["reasoning_output_tokens"]


@of_format("codex")
def test_codex_text_is_there_once_in_the_conversation(path: Path) -> None:
    """Texts are parts as often as the conversation has them; their copies in events are notes; calls keep arguments."""
    items = [record["payload"] for record in raw_lines(path) if record["type"] == "response_item"]
    texts = Counter(block["text"] for item in items if item["type"] == "message" for block in item["content"])
    assert Counter(part.data["text"] for part in events(path, PartUpdated) if part.kind == "text") == texts
    copies = Counter(
        record["payload"]["message"]
        for record in raw_lines(path)
        if record["type"] == "event_msg" and record["payload"]["type"] in ("user_message", "agent_message")
    )
    noted = [note.data["payload"] for note in events(path, SessionNoted) if note.kind.endswith("_message")]
    assert Counter(payload["message"] for payload in noted) == copies
    arguments = [json.loads(item["arguments"]) for item in items if item["type"] == "function_call"]
    begun = [event.input for event in events(path, ToolUpdated) if event.input is not None]
    assert all(argument in begun for argument in arguments)
    outputs = Counter(json.dumps(item["output"]) for item in items if item["type"].endswith("call_output"))
    found = Counter(json.dumps(event.output) for event in events(path, ToolUpdated) if event.output is not None)
    assert outputs <= found


@of_format("opencode")
def test_opencode_counts_usage_and_texts_agree(path: Path) -> None:
    """Messages, parts, calls, tokens and texts are those of the document."""
    document = json.loads(path.read_text("utf-8"))
    parts = [part for message in document["messages"] for part in message["parts"]]
    infos = [message["info"] for message in document["messages"]]
    assert imported(path).format == "opencode"
    assert imported(path).records == 1 + len(infos) + len(parts)
    assert [event.message_id for event in events(path, MessageUpdated)] == [info["id"] for info in infos]
    tools = [part for part in parts if part["type"] == "tool"]
    assert calls_and_answers(path) == (len(tools), sum(t["state"]["status"] == "completed" for t in tools))
    for kind in ("text", "reasoning"):
        raw = [part["text"] for part in parts if part["type"] == kind]
        assert [part.data["text"] for part in events(path, PartUpdated) if part.kind == kind] == raw
    tokens = [info["tokens"] for info in infos if info["role"] == "assistant"]
    expected = [
        sum(t["input"] for t in tokens),
        sum(t["output"] + t["reasoning"] for t in tokens),
        sum(t["cache"]["read"] for t in tokens),
        sum(t["cache"]["write"] for t in tokens),
    ]
    assert usage_sums(path) == dict(zip(TOKENS, expected, strict=True))


SERIES = {
    "claude_code": [
        *sorted(path for path in FILES if path.parent.name == "growing_79e9becd"),
        *(path for path in FILES if path.name.startswith("cli-72")),
    ],
    "codex": sorted(path for path in FILES if path.parent.name == "growing_019ed50c"),
}


@pytest.mark.parametrize("name", sorted(SERIES))
def test_a_growing_file_only_adds_events(name: str) -> None:
    """Each snapshot of a live session gives, session by session, the events of the one before and then more."""
    files = SERIES[name]
    assert len(files) >= 3
    for older, newer in itertools.pairwise(files):
        now = {session.session_id: session.envelopes for session in imported(newer).sessions}
        for session in imported(older).sessions:
            assert now[session.session_id][: len(session.envelopes)] == session.envelopes
        assert sum(map(len, now.values())) > sum(len(session.envelopes) for session in imported(older).sessions)


@pytest.mark.parametrize("name", ["claude_code/growing_79e9becd/00", "claude_code/claude-code-viewer-fe", "codex/agentv-a3"])
def test_every_cut_of_a_file_is_a_prefix(name: str, tmp_path: Path) -> None:
    """Cut anywhere, also inside a line, a file gives a prefix of what the whole gives, session by session."""
    path = next((path for path in FILES if name_of(path).startswith(name)), None)
    assert path is not None
    data = path.read_bytes()
    whole = {session.session_id: session.envelopes for session in imported(path).sessions}
    copy = tmp_path / "cut.jsonl"
    first = data.index(b"\n") + 1
    for end in range(first, len(data), max(1, len(data) // 40)):
        copy.write_bytes(data[:end])
        for session in read_transcript(copy).sessions:
            assert whole[session.session_id][: len(session.envelopes)] == session.envelopes
