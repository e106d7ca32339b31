"""Codex rollouts and what they become."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.events import ContextCompacted, MessageUpdated, PartUpdated, SessionNoted, SessionStarted, ToolUpdated
from tests.unit.importing import (
    META,
    SESSION,
    events,
    finishes,
    happened,
    item,
    ledger,
    lines,
    notes,
    problems,
    read,
    rollout,
    said,
    texts,
    titles,
    tools,
    total,
)

CALL = item("function_call", id="fc1", name="shell", arguments='{"cmd": "ls"}', call_id="c1")
OUTPUT = item("function_call_output", call_id="c1", output="a b")


def test_a_rollout_starts_with_its_meta(tmp_path: Path) -> None:
    """Id, folder, version and branch; the whole meta is a note."""
    transcript = read(tmp_path, lines(META))
    assert [session.session_id for session in transcript.sessions] == [SESSION]
    assert events(transcript, SessionStarted) == [
        SessionStarted(None, None, {"format": "codex", "cwd": "/w", "version": "1.0", "git_branch": "main"})
    ]
    assert notes(transcript) == ["session_meta"]


def test_a_rollout_without_meta_is_named_after_its_first_record(tmp_path: Path) -> None:
    """A later meta does not rename it."""
    transcript = read(tmp_path, lines(said("user", "hello"), META))
    assert transcript.sessions[0].session_id.startswith("codex-")
    assert texts(transcript) == ["hello"]
    assert [line for line, _ in problems(transcript)] == [1]


def test_a_spawned_thread_names_its_parent(tmp_path: Path) -> None:
    """Also a fork's second meta, the parent's own, is only a note."""
    source = {"subagent": {"thread_spawn": {"parent_thread_id": "above"}}}
    transcript = read(tmp_path, lines(rollout("session_meta", {"id": "child", "source": source}), META))
    assert [(s.session_id, s.envelopes[0].event.parent_id) for s in transcript.sessions] == [("child", "above")]


def test_one_step_of_the_model_is_one_message(tmp_path: Path) -> None:
    """Reasoning, text and calls up to the count of tokens; the next item begins the next message and ends this one."""
    transcript = read(
        tmp_path,
        lines(
            META,
            rollout("turn_context", {"model": "model-1"}),
            item("reasoning", id="r1", summary=[{"type": "summary_text", "text": "hm"}], encrypted_content="x"),
            said("assistant", "I look", id="t1"),
            CALL,
            OUTPUT,
            total(10, 4, 5),
            said("assistant", "done", id="t2"),
        ),
    )
    assert [message.message_id for message in events(transcript, MessageUpdated)] == ["r1", "t2"]
    parts = [(part.part_id, part.message_id, part.kind) for part in events(transcript, PartUpdated)]
    assert parts == [("r1", "r1", "reasoning"), ("t1", "r1", "text"), ("t2", "t2", "text")]
    assert [(e.part_id, e.message_id) for e in events(transcript, ToolUpdated)] == [("fc1", "r1")] * 2
    assert finishes(transcript) == [("r1", "completed", None)]
    assert ledger(transcript).popitem()[1].message_id == "r1"


def test_arguments_are_an_object_where_they_parse(tmp_path: Path) -> None:
    """Text that is no JSON object stays text."""
    bad = item("function_call", name="f", arguments='{"cmd": ', call_id="c2")
    custom = item("custom_tool_call", name="patch", input='{"looks": "json"}', call_id="c3", status="completed")
    transcript = read(tmp_path, lines(META, CALL, bad, custom))
    assert [e.input for e in events(transcript, ToolUpdated)] == [{"cmd": "ls"}, '{"cmd": ', '{"looks": "json"}']
    assert tools(transcript) == [("c1", "running"), ("c2", "running"), ("c3", "running")]


@pytest.mark.parametrize(
    ("output", "state", "kept"),
    [
        ("fine", "completed", "fine"),
        ({"content": "bad", "success": False}, "error", "bad"),
        ({"content": "good", "success": True}, "completed", "good"),
        ("aborted by user after 1.0s", "aborted", "aborted by user after 1.0s"),
        ([{"type": "input_text", "text": "x"}], "completed", [{"type": "input_text", "text": "x"}]),
    ],
)
def test_outputs_say_how_a_call_ended(tmp_path: Path, output: object, state: str, kept: object) -> None:
    """The state is what the record says, never a guess from the text of a shell."""
    transcript = read(tmp_path, lines(META, CALL, item("function_call_output", call_id="c1", output=output)))
    ended = events(transcript, ToolUpdated)[1]
    assert (ended.state, ended.output) == (state, kept)


def test_calls_without_a_call_id_are_calls_of_their_own(tmp_path: Path) -> None:
    """A web search settles with its record; the event that repeats it is a note."""
    search = item("web_search_call", status="completed", action={"type": "search", "query": "q"})
    transcript = read(tmp_path, lines(META, happened("web_search_end", call_id="w"), search, search))
    assert [state for _, state in tools(transcript)] == ["running", "completed", "running", "completed"]
    assert len({name for name, _ in tools(transcript)}) == 2
    assert events(transcript, ToolUpdated)[0].input == {"type": "search", "query": "q"}
    assert notes(transcript) == ["session_meta", "event_msg.web_search_end"]


def test_a_tool_search_is_a_call_with_its_tools_as_output(tmp_path: Path) -> None:
    """Names are joined with their namespace."""
    transcript = read(
        tmp_path,
        lines(
            META,
            item("tool_search_call", call_id="c1", arguments={"query": "q"}, status="completed"),
            item("tool_search_output", call_id="c1", tools=[{"name": "t"}], status="completed"),
            item("function_call", name="_fetch", namespace="mcp__hub", arguments="{}", call_id="c2"),
        ),
    )
    assert tools(transcript) == [("c1", "running"), ("c1", "completed"), ("c2", "running")]
    assert events(transcript, ToolUpdated)[1].output == [{"name": "t"}]
    assert events(transcript, ToolUpdated)[2].name == "mcp__hub._fetch"


def test_an_output_without_its_call_or_a_second_one_is_a_note(tmp_path: Path) -> None:
    """A settled call keeps its state."""
    transcript = read(tmp_path, lines(META, OUTPUT, CALL, OUTPUT, OUTPUT))
    assert tools(transcript) == [("c1", "running"), ("c1", "completed")]
    assert notes(transcript).count("response_item.function_call_output") == 2
    assert [line for line, _ in problems(transcript)] == [2]


def test_events_that_repeat_an_item_are_notes(tmp_path: Path) -> None:
    """The prompt and the answer are in the conversation once."""
    transcript = read(
        tmp_path,
        lines(
            META,
            said("user", "fix it"),
            happened("user_message", message="fix it"),
            happened("agent_message", message="done"),
            said("assistant", "done"),
            happened("patch_apply_end", call_id="c1"),
        ),
    )
    assert texts(transcript) == ["fix it", "done"]
    assert titles(transcript) == ["fix it"]
    assert notes(transcript)[1:] == ["event_msg.user_message", "event_msg.agent_message", "event_msg.patch_apply_end"]


def test_an_aborted_turn_aborts_its_message_and_its_open_calls(tmp_path: Path) -> None:
    """The prompt that says so does not complete it first; an output that comes later is kept, the state stays."""
    transcript = read(
        tmp_path,
        lines(
            META, said("assistant", "I look", id="t1"), CALL,
            said("user", "<turn_aborted>"), happened("turn_aborted", reason="interrupted"), OUTPUT,
        ),
    )  # fmt: skip
    assert finishes(transcript) == [("t1", "aborted", "interrupted")]
    assert tools(transcript) == [("c1", "running"), ("c1", "aborted"), ("c1", "aborted")]
    assert events(transcript, ToolUpdated)[2].output == "a b"


def test_a_complete_turn_completes_its_message(tmp_path: Path) -> None:
    """At once, and what follows begins another one, also without a count of tokens between."""
    ended = [META, said("assistant", "a", id="t1"), happened("task_complete")]
    assert finishes(read(tmp_path, lines(*ended))) == [("t1", "completed", None)]
    transcript = read(
        tmp_path,
        lines(*ended, said("assistant", "b", id="t2")),
    )
    assert finishes(transcript) == [("t1", "completed", None)]
    assert [message.message_id for message in events(transcript, MessageUpdated)] == ["t1", "t2"]


def test_totals_are_counted_as_differences(tmp_path: Path) -> None:
    """A repeated total adds nothing; cached input is taken out of input; reasoning is part of output."""
    transcript = read(
        tmp_path,
        lines(META, said("assistant", "a"), total(100, 40, 10, 3), total(100, 40, 10, 3), total(250, 160, 25, 8)),
    )
    found = [(u.input_tokens, u.cache_read_tokens, u.output_tokens, u.reasoning_tokens) for u in ledger(transcript).values()]
    assert found == [(60, 40, 10, 3), (30, 120, 15, 5)]


def test_a_total_that_goes_down_counts_anew_and_is_reported(tmp_path: Path) -> None:
    """A restarted counter starts from zero."""
    transcript = read(tmp_path, lines(META, total(100, 0, 10), total(30, 0, 4), total(50, 0, 6)))
    assert [usage.input_tokens for usage in ledger(transcript).values()] == [100, 30, 20]
    assert [line for line, _ in problems(transcript)] == [3]


def test_a_count_without_a_total_is_a_note(tmp_path: Path) -> None:
    """It reports limits only."""
    transcript = read(tmp_path, lines(META, happened("token_count", info=None)))
    assert ledger(transcript) == {}
    assert notes(transcript)[1:] == ["event_msg.token_count"]


def test_reasoning_that_is_only_encrypted_is_a_note(tmp_path: Path) -> None:
    """It has no text and opens no message."""
    transcript = read(tmp_path, lines(META, item("reasoning", summary=[], encrypted_content="x")))
    assert events(transcript, MessageUpdated) == []
    assert notes(transcript)[1:] == ["response_item.reasoning"]


@pytest.mark.parametrize(("summary", "named"), [("in short", True), ("", False)])
def test_a_compaction_has_the_summary_that_the_source_shows(tmp_path: Path, summary: str, named: bool) -> None:
    """As a message of the system; the event that repeats it is a note."""
    transcript = read(tmp_path, lines(META, rollout("compacted", {"message": summary}), happened("context_compacted")))
    compacted = events(transcript, ContextCompacted)
    assert len(compacted) == 1
    assert (compacted[0].summary_message_id is not None) == named
    assert texts(transcript) == ([summary] if named else [])


def test_roles_and_content_are_those_of_the_source(tmp_path: Path) -> None:
    """Developers and users are complete at once; images are raw."""
    image = {"type": "input_image", "image_url": "data:"}
    mixed = item("message", role="user", content=[{"type": "input_text", "text": "see"}, image])
    transcript = read(tmp_path, lines(META, said("developer", "rules"), mixed))
    assert [(m.role, m.state) for m in events(transcript, MessageUpdated)] == [("developer", None), ("user", None)]
    assert [(p.kind, p.data) for p in events(transcript, PartUpdated)][1:] == [
        ("text", {"text": "see"}),
        ("input_image", image),
    ]


def test_an_older_rollout_without_payloads_is_read(tmp_path: Path) -> None:
    """Bare items mean what wrapped ones mean."""
    start = {"id": "old", "timestamp": "2025-05-01T00:00:00Z", "instructions": None}
    bare = [record["payload"] for record in (said("user", "go"), CALL, OUTPUT)]
    transcript = read(tmp_path, lines(start, {"record_type": "state"}, *bare))
    assert transcript.sessions[0].session_id == "old"
    assert texts(transcript) == ["go"]
    assert tools(transcript) == [("c1", "running"), ("c1", "completed")]


def test_a_spawned_agent_is_linked_from_its_call(tmp_path: Path) -> None:
    """The output of the call names the thread."""
    spawn = item("function_call", name="spawn_agent", arguments="{}", call_id="c1")
    output = item("function_call_output", call_id="c1", output=json.dumps({"agent_id": "thread-2"}))
    assert events(read(tmp_path, lines(META, spawn, output)), ToolUpdated)[1].child_session_id == "thread-2"


def test_equal_records_get_distinct_ids(tmp_path: Path) -> None:
    """Without ids of their own, equal records are told apart by their count."""
    transcript = read(tmp_path, lines(META, said("user", "again"), said("user", "again")))
    assert len({message.message_id for message in events(transcript, MessageUpdated)}) == 2
    assert len({part.part_id for part in events(transcript, PartUpdated)}) == 2


def test_unknown_records_are_notes(tmp_path: Path) -> None:
    """Whatever comes next year is kept."""
    transcript = read(
        tmp_path, lines(META, rollout("new", {"type": "x"}), item("ghost", a=1), happened("later"), {"type": "bare"})
    )
    assert notes(transcript)[1:] == ["new", "response_item.ghost", "event_msg.later", "bare"]
    assert events(transcript, SessionNoted)[1].data == rollout("new", {"type": "x"})
