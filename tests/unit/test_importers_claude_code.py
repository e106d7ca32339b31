"""Claude Code records and what they become."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.events import ContextCompacted, MessageUpdated, PartUpdated, SessionNoted, SessionStarted, ToolUpdated
from tests.unit.importing import (
    SESSION,
    answer,
    claude,
    events,
    finishes,
    ledger,
    lines,
    notes,
    problems,
    prompt,
    read,
    result,
    texts,
    titles,
    tools,
    use,
)


def test_a_session_starts_with_what_its_first_record_says(tmp_path: Path) -> None:
    """Format, folder, version and branch are its metadata; the first prompt its title, cut to one line."""
    transcript = read(tmp_path, lines(prompt("u1", "fix\n the  parser " + "x" * 100, version="2.1", gitBranch="main")))
    started = events(transcript, SessionStarted)
    assert started == [
        SessionStarted(None, None, {"format": "claude_code", "cwd": "/w", "version": "2.1", "git_branch": "main"})
    ]
    assert titles(transcript) == ["fix the parser " + "x" * 64 + "…"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "<command-message>x</command-message>\n<command-name>/init</command-name><command-args>all</command-args>",
            "/init all",
        ),
        ("<local-command-stdout>Connected</local-command-stdout>", "next"),
        ("  ", "next"),
    ],
)
def test_a_title_is_a_prompt_or_a_command(tmp_path: Path, text: str, expected: str) -> None:
    """What the program wrote itself names nothing; the next prompt does."""
    assert titles(read(tmp_path, lines(prompt("u1", text), prompt("u2", "next")))) == [expected]


def test_a_user_message_is_the_record_and_has_its_time(tmp_path: Path) -> None:
    """Its id is the record's own, its text a part, its time in milliseconds."""
    transcript = read(tmp_path, lines(prompt("u1", "hello")))
    announced = next(e for e in transcript.sessions[0].envelopes if isinstance(e.event, MessageUpdated))
    assert announced.event.message_id == "u1"
    assert announced.event.role == "user"
    assert announced.event.state is None
    assert announced.occurred_at == 1767323045678


@pytest.mark.parametrize("stamp", ["yesterday", None, -5, True, "0001-01-01T00:00:00+23:00", 1e300, []])
def test_a_bad_time_is_no_time(tmp_path: Path, stamp: object) -> None:
    """An unreadable timestamp is left out, never guessed."""
    transcript = read(tmp_path, lines(prompt("u1", "hello", timestamp=stamp)))
    assert {envelope.occurred_at for envelope in transcript.sessions[0].envelopes} == {None}


def test_several_records_are_one_message(tmp_path: Path) -> None:
    """Records of one message id, tool results between them, give one message with every part."""
    transcript = read(
        tmp_path,
        lines(
            answer("a1", "m1", {"type": "thinking", "thinking": "hm", "signature": "s"}),
            answer("a2", "m1", use("c1", command="ls")),
            result("u1", "c1"),
            answer("a3", "m1", use("c2", command="pwd")),
            result("u2", "c2"),
            answer("a4", "m2", "finished"),
        ),
    )
    messages = events(transcript, MessageUpdated)
    assert [(m.message_id, m.role, m.state) for m in messages] == [
        ("m1", "assistant", "unknown"),
        ("m2", "assistant", "unknown"),
    ]
    assert [(p.message_id, p.kind) for p in events(transcript, PartUpdated)] == [("m1", "reasoning"), ("m2", "text")]
    assert {event.message_id for event in events(transcript, ToolUpdated)} == {"m1"}
    assert finishes(transcript) == [("m1", "completed", None)]


def test_a_message_is_not_finished_by_the_end_of_the_file(tmp_path: Path) -> None:
    """What no later record proves stays unknown."""
    assert finishes(read(tmp_path, lines(prompt("u1", "go"), answer("a1", "m1", "on it")))) == []


def test_a_stop_reason_does_not_close_a_message_that_goes_on(tmp_path: Path) -> None:
    """Records of the same message may follow the one that carries a stop reason; it is told when the end is proven."""
    transcript = read(
        tmp_path,
        lines(
            answer("a1", "m1", "I look", stop="tool_use"),
            answer("a2", "m1", use("c1"), stop="tool_use"),
            result("u1", "c1"),
            answer("a3", "m2", {"type": "thinking", "thinking": "hm"}, stop="end_turn"),
            answer("a4", "m2", "bye", stop="end_turn"),
        ),
    )
    assert finishes(transcript) == [("m1", "completed", "tool_use"), ("m2", "completed", "end_turn")]


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (prompt("u2", "next"), "completed"),
        ({"type": "system", "subtype": "turn_duration", "uuid": "s", "sessionId": SESSION}, "completed"),
        (claude("user", "u2", [{"type": "text", "text": "[Request interrupted by user for tool use]"}]), "aborted"),
        (prompt("u2", "be brief", isMeta=True), None),
        ({"type": "system", "subtype": "local_command", "uuid": "s", "sessionId": SESSION}, None),
        (result("u2", "c1"), None),
    ],
)
def test_what_proves_the_end_of_a_message(tmp_path: Path, record: dict[str, object], status: str | None) -> None:
    """A prompt and the turn's duration end it, an interrupt aborts it; meta records, commands and results do not."""
    transcript = read(tmp_path, lines(answer("a1", "m1", use("c1")), record))
    assert [found for _, found, _ in finishes(transcript)] == ([] if status is None else [status])


def test_an_interrupt_before_any_answer_aborts_nothing(tmp_path: Path) -> None:
    """The message before the prompt had ended."""
    transcript = read(
        tmp_path, lines(answer("a1", "m1", "ok"), prompt("u1", "more"), prompt("u2", "[Request interrupted by user]"))
    )
    assert finishes(transcript) == [("m1", "completed", None)]


def test_a_record_that_comes_after_the_end_makes_a_message_that_continues_it(tmp_path: Path) -> None:
    """Its part would be skipped in the finished message; it must not be lost."""
    transcript = read(tmp_path, lines(answer("a1", "m1", "a"), answer("a2", "m2", "b"), answer("a3", "m1", "late")))
    assert [message.message_id for message in events(transcript, MessageUpdated)] == ["m1", "m2", "m1~2"]
    assert events(transcript, MessageUpdated)[2].metadata["continues"] == "m1"
    assert events(transcript, PartUpdated)[2].message_id == "m1~2"


def test_an_api_error_is_a_failed_message_without_usage(tmp_path: Path) -> None:
    """The program wrote it, no model did."""
    record = answer("a1", "m1", "API Error: overloaded", usage={"input_tokens": 0}, isApiErrorMessage=True)
    record["message"]["model"] = "<synthetic>"
    transcript = read(tmp_path, lines(record))
    assert finishes(transcript) == [("m1", "error", "api_error")]
    assert ledger(transcript) == {}


def test_a_tool_call_runs_and_is_answered(tmp_path: Path) -> None:
    """Input, output, times and who says so."""
    transcript = read(tmp_path, lines(answer("a1", "m1", use("c1", command="ls")), result("u1", "c1", "a b")))
    begun, ended = events(transcript, ToolUpdated)
    assert (begun.state, begun.name, begun.input, begun.by) == ("running", "Bash", {"command": "ls"}, "import")
    assert (ended.state, ended.output, ended.input, ended.error) == ("completed", "a b", None, None)
    assert begun.started_at == ended.ended_at == 1767323045678


def test_results_say_how_a_call_ended(tmp_path: Path) -> None:
    """is_error is an error with its first line; an interrupt is aborted; no answer stays running."""
    transcript = read(
        tmp_path,
        lines(
            answer("a1", "m1", *[use(f"c{n}") for n in range(5)]),
            result("u1", "c1", "no such file\nat all", failed=True),
            result("u2", "c2", [{"type": "text", "text": "Exit\n[Request interrupted by user for tool use]"}], failed=True),
            result("u3", "c3", "", toolUseResult={"stdout": "", "stderr": "", "interrupted": True}),
            result("u4", "c4", "a page that quotes [Request interrupted by user]"),
        ),
    )
    assert dict(tools(transcript)) == {
        "c0": "running", "c1": "error", "c2": "aborted", "c3": "aborted", "c4": "completed",
    }  # fmt: skip
    assert events(transcript, ToolUpdated)[5].error == "no such file"


def test_a_call_id_used_twice_is_two_calls(tmp_path: Path) -> None:
    """Answers go to the first that has none; a third answer changes nothing and is kept."""
    transcript = read(
        tmp_path,
        lines(
            answer("a1", "m1", use("c1", n=1)), answer("a2", "m1", use("c1", n=2)),
            result("u1", "c1", "one"), result("u2", "c1", "two", failed=True), result("u3", "c1", "three"),
        ),
    )  # fmt: skip
    assert tools(transcript) == [("c1", "running"), ("c1~2", "running"), ("c1", "completed"), ("c1~2", "error")]
    assert notes(transcript) == ["tool_result"]


def test_a_result_without_its_call_is_a_part(tmp_path: Path) -> None:
    """The call may be in another file; the text stays, the line is reported once."""
    transcript = read(tmp_path, lines(prompt("u1", "go"), result("u2", "gone", "text")))
    assert [part.kind for part in events(transcript, PartUpdated)] == ["text", "tool_result"]
    assert problems(transcript) == [(2, "a result for the call 'gone', which is not in the file, is kept as a part")]


def test_details_of_a_result_are_noted_unless_they_repeat_it(tmp_path: Path) -> None:
    """A patch says more than the result; plain output does not."""
    transcript = read(
        tmp_path,
        lines(
            answer("a1", "m1", use("c1"), use("c2")),
            result("u1", "c1", "same", toolUseResult={"stdout": "same", "stderr": "", "interrupted": False}),
            result("u2", "c2", "edited", toolUseResult={"structuredPatch": [1]}),
        ),
    )
    assert [note.data for note in events(transcript, SessionNoted)] == [{"structuredPatch": [1]}]


def test_content_that_is_not_text_keeps_its_kind(tmp_path: Path) -> None:
    """Images and what is not known yet are raw."""
    image = {"type": "image", "source": {"data": "AA=="}}
    transcript = read(tmp_path, lines(claude("user", "u1", [image, {"type": "text", "text": "see"}, 7, {"odd": 1}])))
    assert [(p.part_id, p.kind, p.data) for p in events(transcript, PartUpdated)] == [
        ("u1/0", "image", image),
        ("u1/1", "text", {"text": "see"}),
        ("u1/2", "block", {"value": 7}),
        ("u1/3", "block", {"odd": 1}),
    ]


def test_the_last_usage_of_a_message_counts(tmp_path: Path) -> None:
    """Output grows over the records of one message; a repeated report adds no event; cached input is apart."""

    def usage(output: int) -> dict[str, int]:
        return {
            "input_tokens": 3, "output_tokens": output,
            "cache_read_input_tokens": 50, "cache_creation_input_tokens": 7,
        }  # fmt: skip

    transcript = read(
        tmp_path,
        lines(*[answer(f"a{n}", "m1", "x", usage=usage(output), costUSD=0.1) for n, output in enumerate((1, 1, 9))]),
    )
    assert [
        envelope.event.output_tokens for envelope in transcript.sessions[0].envelopes if hasattr(envelope.event, "step_id")
    ] == [1, 9]
    step = ledger(transcript)["m1"]
    assert (step.input_tokens, step.output_tokens, step.cache_read_tokens, step.cache_write_tokens) == (3, 9, 50, 7)
    assert (step.model, step.message_id, step.cost_nanousd) == ("model-1", "m1", 100_000_000)


@pytest.mark.parametrize("bad", [-1, 1.5, "7", 2**60, True, [1]])
def test_a_count_out_of_range_is_zero_and_reported(tmp_path: Path, bad: object) -> None:
    """The rest of the usage still counts."""
    transcript = read(tmp_path, lines(answer("a1", "m1", "x", usage={"input_tokens": bad, "output_tokens": 2.0})))
    assert (ledger(transcript)["m1"].input_tokens, ledger(transcript)["m1"].output_tokens) == (0, 2)
    assert [line for line, _ in problems(transcript)] == [1]


def progress(uuid: str, agent: str, inner: dict[str, object], call: str = "t1") -> dict[str, object]:
    """A report of a running sub-agent."""
    data = {"type": "agent_progress", "agentId": agent, "message": inner}
    return {"type": "progress", "uuid": uuid, "sessionId": SESSION, "data": data, "parentToolUseID": call}


def test_a_sub_agent_that_reports_progress_is_a_child_session(tmp_path: Path) -> None:
    """Its messages, calls and usage are in its session; the call is linked once; the answered task ends it."""
    transcript = read(
        tmp_path,
        lines(
            answer("a1", "m1", use("t1", "Task", prompt="look")),
            progress("p1", "ag", prompt("i1", "look")),
            progress("p2", "ag", answer("i2", "m9", use("c9"), usage={"output_tokens": 5})),
            progress("p3", "ag", result("i3", "c9")),
            result("u1", "t1", toolUseResult={"status": "completed", "agentId": "ag", "totalDurationMs": 5}),
        ),
    )
    assert [session.session_id for session in transcript.sessions] == [SESSION, f"{SESSION}/ag"]
    assert transcript.sessions[1].envelopes[0].event.parent_id == SESSION
    linked = [(e.state, e.child_session_id) for e in events(transcript, ToolUpdated, SESSION)]
    assert linked == [("running", None), ("running", f"{SESSION}/ag"), ("completed", f"{SESSION}/ag")]
    assert texts(transcript, f"{SESSION}/ag") == ["look"]
    assert [m.message_id for m in events(transcript, MessageUpdated, SESSION)] == ["m1"]
    assert ledger(transcript).keys() == {"m9"}
    assert finishes(transcript) == [("m9", "completed", None)]


def test_a_task_in_the_background_does_not_end_its_agent(tmp_path: Path) -> None:
    """Its answer says only that it was started."""
    transcript = read(
        tmp_path,
        lines(
            answer("a1", "m1", use("t1", "Task", prompt="look")),
            progress("p1", "ag", answer("i2", "m9", "working")),
            result("u1", "t1", toolUseResult={"status": "async_launched", "agentId": "ag", "totalDurationMs": 1}),
            progress("p2", "ag", answer("i3", "m9", "still")),
        ),
    )
    assert texts(transcript, f"{SESSION}/ag") == ["working", "still"]
    assert [m.message_id for m in events(transcript, MessageUpdated, f"{SESSION}/ag")] == ["m9"]


def test_sidechains_are_child_sessions_linked_by_their_prompt(tmp_path: Path) -> None:
    """Two chains at once, told apart by their parents; equal prompts link in order."""
    side = {"isSidechain": True}
    transcript = read(
        tmp_path,
        lines(
            answer(
                "a1",
                "m1",
                use("t1", "Task", prompt="same"),
                use("t2", "Task", prompt="same"),
                use("t3", "Task", prompt="x"),
            ),
            prompt("r1", "same", parentUuid=None, **side),
            prompt("r2", "same", parentUuid=None, **side),
            answer("b1", "m2", "of two", parentUuid="r2", usage={"output_tokens": 1}, **side),
            answer("b2", "m3", "of one", parentUuid="r1", **side),
        ),
    )
    links = [(e.call_id, e.child_session_id) for e in events(transcript, ToolUpdated) if e.child_session_id]
    assert links == [("t1", f"{SESSION}/r1"), ("t2", f"{SESSION}/r2")]
    assert texts(transcript, f"{SESSION}/r1") == ["same", "of one"]
    assert texts(transcript, f"{SESSION}/r2") == ["same", "of two"]
    assert texts(transcript, SESSION) == []


def test_a_sidechain_whose_parent_is_missing_begins_another(tmp_path: Path) -> None:
    """A dangling parent is reported, not guessed."""
    transcript = read(tmp_path, lines(prompt("u1", "go"), prompt("r1", "x", parentUuid="gone", isSidechain=True)))
    assert [session.session_id for session in transcript.sessions] == [SESSION, f"{SESSION}/r1"]
    assert [line for line, _ in problems(transcript)] == [2]


def test_a_sub_agents_own_file_is_a_child_of_a_session_elsewhere(tmp_path: Path) -> None:
    """Only the child is made; its parent is in another file."""
    transcript = read(tmp_path, lines(prompt("r1", "x", isSidechain=True, agentId="ag")))
    assert [(s.session_id, s.envelopes[0].event.parent_id) for s in transcript.sessions] == [(f"{SESSION}/ag", SESSION)]


def test_a_compaction_names_its_summary(tmp_path: Path) -> None:
    """The summary is a message; the boundary is a note."""
    boundary = {"type": "system", "subtype": "compact_boundary", "uuid": "b", "sessionId": SESSION}
    transcript = read(tmp_path, lines(prompt("u1", "go"), boundary, prompt("u2", "in short", isCompactSummary=True)))
    assert events(transcript, ContextCompacted) == [ContextCompacted("u2")]
    assert texts(transcript) == ["go", "in short"]
    assert titles(transcript) == ["go"]


def test_a_compaction_without_summary_is_told_by_the_next_message(tmp_path: Path) -> None:
    """Until then the summary may still come."""
    boundary = {"type": "system", "subtype": "compact_boundary", "uuid": "b", "sessionId": SESSION}
    assert events(read(tmp_path, lines(boundary)), ContextCompacted) == []
    assert events(read(tmp_path, lines(boundary, prompt("u2", "on"))), ContextCompacted) == [ContextCompacted()]


def test_other_records_are_notes_with_their_kind(tmp_path: Path) -> None:
    """Nothing is dropped; records without a session belong to the file's."""
    summary, hook = {"type": "summary", "leafUuid": "l"}, {"type": "hook_progress"}
    transcript = read(
        tmp_path,
        lines(
            summary,
            {"type": "progress", "sessionId": SESSION, "uuid": "p", "data": hook},
            {"type": "assistant", "sessionId": SESSION, "uuid": "q", "message": None},
            {"type": "custom-title", "sessionId": SESSION, "customTitle": "named"},
        ),
    )
    assert notes(transcript) == ["summary", "progress.hook_progress", "assistant", "custom-title"]
    assert events(transcript, SessionNoted)[0].data == summary
    assert titles(transcript) == ["named"]


def test_a_file_that_names_no_session_yet_has_none(tmp_path: Path) -> None:
    """Its records wait for the record that names one; a made-up session would have to change later."""
    early = lines({"type": "summary", "leafUuid": "l"})
    transcript = read(tmp_path, early)
    assert transcript.sessions == ()
    assert problems(transcript) == [(None, "1 records belong to no session that the file names so far")]
    assert notes(read(tmp_path, early + lines(prompt("u1", "go"))), SESSION) == ["summary"]


def test_several_session_ids_are_several_sessions(tmp_path: Path) -> None:
    """A continued file may begin with another session's records."""
    transcript = read(
        tmp_path,
        lines(prompt("u1", "one"), prompt("u2", "two", sessionId="other"), {"type": "note"}, prompt("u3", "three")),
    )
    assert [session.session_id for session in transcript.sessions] == [SESSION, "other"]
    assert (texts(transcript, SESSION), texts(transcript, "other")) == (["one", "three"], ["two"])
    assert notes(transcript, SESSION) == ["note"]


def test_the_same_record_twice_is_told_once(tmp_path: Path) -> None:
    """An exact repetition is a note; the same id with other content is another message."""
    transcript = read(tmp_path, lines(prompt("u1", "one"), prompt("u1", "one"), prompt("u1", "else")))
    assert texts(transcript) == ["one", "else"]
    assert [message.message_id for message in events(transcript, MessageUpdated)] == ["u1", "u1~3"]
    assert notes(transcript) == ["repeated"]


@pytest.mark.parametrize("name", ["x" * 600, "", "a\0b", 7, None, "\U0001f600" * 400])
def test_ids_that_cannot_be_ids_are_replaced(tmp_path: Path, name: object) -> None:
    """Long, empty and odd ids still give storable ones, the same every time."""
    records = [prompt("u1", "go"), answer("a1", "m1", {**use("c1"), "id": name}), result("u2", str(name))]
    for record in records:
        record["uuid"] = name
    records[1]["message"]["id"] = name
    for more in (records, [{**record, "sessionId": name} for record in records[:1]] + records):
        assert read(tmp_path, lines(*more)).sessions == read(tmp_path, lines(*more)).sessions
