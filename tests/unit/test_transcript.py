"""The transcript of `engine tail`: items in, text out, whatever comes twice, out of nowhere or between something else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli.tail import transcript as rendering
from engine.cli.tail.transcript import Transcript
from engine.events import (
    APPLIED,
    ContextCompacted,
    Cursor,
    MessageEdited,
    MessageFinished,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartEdited,
    PartRemoved,
    PartUpdated,
    RecordedEvent,
    SessionForked,
    SessionNoted,
    SessionRemoved,
    SessionRewound,
    SessionStarted,
    SessionUpdated,
    Skipped,
    ToolUpdated,
    UnknownEvent,
    UsageRecorded,
    definition_of,
)
from engine.projections import MessageView, PartView, ToolView


class Log:
    """Gives events their places."""

    def __init__(self, transcript: Transcript | None = None) -> None:
        self.transcript = transcript or Transcript()
        self.position = 0

    def item(self, event: Any, session: str = "s", incarnation: int = 1, **changes: Any) -> RecordedEvent:
        """The next committed event."""
        self.position += 1
        definition = definition_of(type(event))
        values: dict[str, Any] = {
            "position": self.position,
            "cursor": Cursor("ab", self.position),
            "workspace": "default",
            "session_id": session,
            "incarnation": incarnation,
            "seq": self.position,
            "type": event.type if definition is None else definition.name,
            "version": 1,
            "event": event,
            "event_id": "e",
            "occurred_at": 0,
            "recorded_at": 0,
            "causation_id": None,
            "outcome": APPLIED,
            "size_bytes": 1,
        }
        return RecordedEvent(**{**values, **changes})

    def show(self, *events: Any, session: str = "s", **changes: Any) -> str:
        """What is written about events."""
        return "".join(
            piece.text for event in events for piece in self.transcript.take(self.item(event, session, **changes))
        )


def delta(text: str, offset: int, part: str = "p", message: str = "m", field: Any = "text") -> PartDelta:
    """A piece of streamed text."""
    return PartDelta(part, message, field, offset, text)


ASSISTANT = MessageUpdated("m", "assistant")
HEADER = "● assistant  1970-01-01 00:00:00  m\n"


def test_text_appears_as_it_streams() -> None:
    """Each delta on its own, in the line that is there."""
    log = Log()
    assert log.show(ASSISTANT) == HEADER
    assert log.show(PartUpdated("p", "m", "text")) == ""
    assert log.show(delta("Hel", 0)) == "Hel"
    assert log.show(delta("lo\nyou", 3)) == "lo\nyou"
    assert log.show(MessageFinished("m", "completed", "stop")) == "\n  ■ completed (stop)\n"


def test_a_delta_that_comes_twice_is_shown_once() -> None:
    """Also one that overlaps; offsets count characters and not bytes."""
    log = Log()
    log.show(ASSISTANT)
    assert log.show(delta("é😀x", 0)) == "é😀x"
    assert log.show(delta("é😀x", 0), delta("x", 2)) == ""
    assert log.show(delta("xyz", 2)) == "yz"
    assert log.show(delta("!", 5)) == "!"


def test_text_that_is_missing_is_said_to_be() -> None:
    """Where it is missing; what follows goes on from there."""
    log = Log()
    log.show(ASSISTANT)
    log.show(delta("one", 0))
    assert log.show(delta("two", 5)) == "[… 2 characters are missing]two"
    assert log.show(delta("three", 8)) == "three"
    assert log.show(PartEdited("p", "m", {"text": "whole"})) == "\n  [text replaced]\nwhole"


def test_a_message_whose_beginning_was_not_asked_for_goes_on_in_its_middle() -> None:
    """A tail that begins now: nothing is missing."""
    log = Log()
    assert log.show(delta("rest", 100)) == "● message  …  m\n… rest"
    assert log.show(delta(" of it", 104)) == " of it"
    assert log.show(delta("rest", 100)) == ""


def test_messages_that_stream_at_once_take_turns_under_their_headers() -> None:
    """Whoever goes on says who it is, and that it is a continuation."""
    log = Log()
    log.show(ASSISTANT, MessageUpdated("n", "assistant"))
    assert log.show(delta("one", 0)) == "● assistant  …  m\none"
    assert log.show(delta("two", 0, "q", "n")) == "\n● assistant  …  n\ntwo"
    assert log.show(delta(" and on", 3)) == "\n● assistant  …  m\n… " + " and on"


def test_sessions_are_told_apart_where_there_are_several() -> None:
    """Their name when it changes; the same ids in them never meet."""
    log = Log(Transcript(many=True))
    assert log.show(ASSISTANT, session="one") == f"── one\n{HEADER}"
    assert log.show(delta("a", 0), session="one") == "a"
    assert log.show(ASSISTANT, session="two") == f"\n── two\n{HEADER}"
    assert log.show(delta("b", 0), session="two") == "b"
    assert log.show(delta("c", 1), session="one") == "\n── one\n● assistant  …  m\n… c"


def test_reasoning_is_marked_and_dim() -> None:
    """And ends where the answer begins."""
    log = Log()
    log.show(ASSISTANT, PartUpdated("r", "m", "reasoning"))
    pieces = log.transcript.take(log.item(delta("hm", 0, "r")))
    assert [(piece.text, piece.style) for piece in pieces] == [("~ ", "dim italic"), ("hm", "dim italic")]
    assert log.show(PartUpdated("p", "m", "text"), delta("yes", 0)) == "\nyes"


def test_whole_texts_show_what_is_new_of_them() -> None:
    """A part that is sent again as a whole repeats nothing; one with another text is shown again."""
    log = Log()
    log.show(ASSISTANT)
    assert log.show(PartUpdated("p", "m", "text", {"text": "one"})) == "one"
    assert log.show(PartUpdated("p", "m", "text", {"text": "one"})) == ""
    assert log.show(PartUpdated("p", "m", "text", {"text": "one two"})) == " two"
    assert log.show(delta("!", 7)) == "!"
    assert log.show(PartUpdated("p", "m", "text", {"text": "three"})) == "\n  [text replaced]\nthree"
    assert log.show(PartEdited("p", "m", {"text": "as long as"})) == "\n  [text replaced]\nas long as"
    assert log.show(PartEdited("p", "m", {"text": "thr"})) == "\n  [text replaced]\nthr"
    assert log.show(delta("ow", 3)) == "ow"


def tool(state: Any, **fields: Any) -> ToolUpdated:
    """A tool call."""
    return ToolUpdated("t", "m", "c1", "bash", state, **fields)


def test_a_tool_call_shows_each_state_and_each_value_once() -> None:
    """Input and output on one line, shortened."""
    log = Log()
    log.show(ASSISTANT)
    assert log.show(tool("pending")) == "  ▸ bash  pending  c1\n"
    assert log.show(tool("running", input={"command": "ls"})) == '  ▸ bash  running  c1\n    ← {"command":"ls"}\n'
    assert log.show(tool("running", input={"command": "ls"})) == ""
    ended = log.show(tool("completed", input={"command": "ls"}, output="file\n" * 1_000, started_at=0, ended_at=2_500))
    assert ended.startswith("  ▸ bash  completed  2.5 s  c1\n    → file file ")
    assert ended.endswith("…\n")
    assert len(ended) < 400
    failed = ToolUpdated("t2", "m", "c2", "bash", "error", error="no\nsuch", child_session_id="ses_9", by="sweep")
    assert log.show(failed) == "  ▸ bash  error (settled by the sweep)  c2  → ses_9\n    ✗ no such\n"


def test_a_tool_call_whose_input_and_output_streamed_does_not_show_them_again() -> None:
    """As text they were shown already."""
    log = Log()
    log.show(ASSISTANT, tool("pending"))
    assert log.show(delta('{"a":', 0, "t", field="input"), delta("1}", 5, "t", field="input")) == '    ← {"a":1}'
    assert log.show(tool("running", input={"a": 1})) == "\n  ▸ bash  running  c1\n"
    assert log.show(delta("out", 0, "t", field="output")) == "    → out"
    assert log.show(tool("completed", input={"a": 1}, output="out")) == "\n  ▸ bash  completed  c1\n"


def test_skipped_events_change_nothing_that_is_shown() -> None:
    """With `verbose` they are told of, dimly, and still change nothing."""
    for verbose in (False, True):
        log = Log(Transcript(verbose=verbose))
        log.show(ASSISTANT, delta("one", 0))
        told = log.show(delta(" two", 3), outcome=Skipped("finished"))
        assert (told == "") is not verbose
        assert not verbose or told.startswith("\n  · skipped (finished): part.delta {")
        assert "missing" not in log.show(delta("!", 3))


def test_everything_else_is_a_line_of_its_own() -> None:
    """Whatever streams goes on after it."""
    log = Log()
    log.show(ASSISTANT, delta("one", 0))
    usage = UsageRecorded("st_1", "m", "big", 10_000_000, 1_900, 2)
    assert log.show(usage) == "\n  · usage big: 1,900 in, 2 out, $0.0100  st_1\n"
    assert log.show(delta(" two", 3)) == "…  two"
    for event, words in (
        (SessionStarted("a title", "ses_0"), "session started, child of ses_0: a title"),
        (SessionUpdated("another"), "title: another"),
        (SessionForked("ses_0", 7), "continues ses_0 from seq 7"),
        (SessionNoted("n", "retry", {"a": 1}), 'retry {"a":1}'),
        (ContextCompacted(None, 5), "context compacted up to seq 5"),
        (UsageRecorded("st_2"), "usage: nothing  st_2"),
        (PartRemoved("p", "m"), "part p removed"),
        (MessageRemoved("m"), "message m removed"),
        (UnknownEvent("odd.said", 1, '{"x": 1}'), 'odd.said {"x": 1}'),
        (SessionRewound(3), "session rewound to seq 3: what came after it is no longer part of the conversation"),
        (SessionRemoved(), "session removed"),
    ):
        assert log.show(event).lstrip("\n") == f"  · {words}\n"
    assert log.show(MessageEdited("m", {"a": 1}), MessageUpdated("m", "user")).count("\n") == 1


def test_after_a_rewind_text_is_shown_as_it_comes() -> None:
    """What was taken back does not make what follows a repetition."""
    log = Log()
    log.show(ASSISTANT, delta("a long text", 0), SessionRewound(2))
    assert log.show(delta("xyz", 2)).endswith("… xyz")


def test_a_later_life_of_a_session_begins_anew() -> None:
    """The same ids, other messages."""
    log = Log()
    log.show(ASSISTANT, delta("one", 0), SessionRemoved())
    assert log.show(SessionStarted(), incarnation=2) == "  · session started again (incarnation 2)\n"
    assert log.show(ASSISTANT, delta("one", 0), incarnation=2) == HEADER + "one"


def view(status: str | None, *parts: PartView, role: str = "assistant", reason: str | None = None) -> MessageView:
    """A message of the read model."""
    return MessageView(
        key=1,
        message_id="m" if role == "assistant" else "u",
        role=role,
        status=status,
        finish_reason=reason,
        settled_by="owner",
        metadata={},
        parts=parts,
        created_at=0,
        updated_at=0,
    )


def part(kind: str, data: dict[str, Any], called: ToolView | None = None, name: str = "p") -> PartView:
    """A part of one."""
    return PartView(key=2, part_id=name, kind=kind, data=data, tool=called, created_at=0, updated_at=0)


def test_what_was_there_is_shown_first_and_goes_on_without_repetition() -> None:
    """Events up to the position of the read are known; the text goes on in its line."""
    log = Log()
    called = ToolView(
        call_id="c1",
        name="bash",
        state="running",
        settled_by="owner",
        input={"a": 1},
        output="ou",
        error=None,
        child_session_id=None,
        started_at=None,
        ended_at=None,
    )
    messages = [
        view("completed", part("text", {"text": "hi"}), role="user"),
        view("streaming", part("tool", {"output": "ou"}, called, "t"), part("text", {"text": "one"})),
    ]
    shown = "".join(piece.text for piece in log.transcript.recall("s", 1, messages, position=3))
    assert shown == ("● user  1970-01-01 00:00:00  u\nhi\n" + HEADER + '  ▸ bash  running  c1\n    ← {"a":1}\n    → ou\none')
    assert log.show(delta("one", 0), MessageFinished("m", "completed"), ASSISTANT) == ""
    assert log.show(delta("one!", 0)) == "!"
    assert log.show(delta("t", 2, "t", field="output")) == "\n    → … t"


def test_a_settled_message_that_was_there_says_how_it_ended() -> None:
    """Of an assistant; others are complete at once."""
    log = Log()
    shown = log.transcript.recall("s", 1, [view("error", reason="overloaded")], position=3)
    assert "".join(piece.text for piece in shown) == HEADER + "  ■ error (overloaded)\n"


def test_what_arrives_cannot_steer_a_terminal() -> None:
    """In texts, names, ids and values alike."""
    evil = "\x1b[31m\x07\x9b\u202e"
    log = Log(Transcript(many=True, verbose=True))
    text = log.show(
        SessionStarted(evil, evil),
        MessageUpdated(evil, evil, {"a": evil}),
        PartUpdated(evil, evil, evil, {"text": evil, "x": evil}),
        PartDelta(evil, evil, "text", len(evil), evil),
        ToolUpdated("t", evil, evil, evil, "error", input=evil, output=evil, error=evil, child_session_id=evil),
        UsageRecorded(evil, evil, evil),
        SessionNoted(evil, evil, {evil: evil}),
        UnknownEvent(evil, 1, f'"{evil}"'),
        MessageFinished(evil, "completed", evil),
        MessageRemoved(evil),
        SessionForked(evil, 1),
        session=evil,
    )
    assert "␛[31m" in text
    assert not any(character in text for character in evil.replace("[31m", ""))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message not heard of for longest is forgotten, and goes on in its middle."""
    monkeypatch.setattr(rendering, "MESSAGES_MAX", 2)
    log = Log()
    for name in ("b", "a", "b", "c"):
        log.show(MessageUpdated(name, "assistant"), delta("text", 0, "p", name))
    assert log.show(delta("more", 4, "p", "a")).endswith("● message  …  a\n… more")
    assert log.show(delta("more", 4, "p", "c")).endswith("● assistant  …  c\n… more")


def test_after_a_reset_nothing_is_known() -> None:
    """What comes is shown whole."""
    log = Log()
    log.show(ASSISTANT, delta("one", 0))
    assert "".join(piece.text for piece in log.transcript.end_line()) == "\n"
    log.transcript.forget()
    assert log.show(ASSISTANT, delta("one", 0)) == HEADER + "one"


@given(st.text(min_size=1, max_size=30), st.data())
def test_however_a_text_is_cut_and_repeated_it_is_shown_once(text: str, data: st.DataObject) -> None:
    """Deltas that begin anywhere before the end of what came, and whole texts between them."""
    text = text.replace("\r", " ")
    log = Log()
    log.show(ASSISTANT, PartUpdated("p", "m", "text"))
    shown, length = "", 0
    while length < len(text):
        end = data.draw(st.integers(length + 1, len(text)))
        if data.draw(st.booleans()):
            start = data.draw(st.integers(0, length))
            shown += log.show(delta(text[start:end], start))
        else:
            shown += log.show(PartUpdated("p", "m", "text", {"text": text[:end]}))
        length = max(length, end)
    expected = Log()
    expected.show(ASSISTANT)
    assert shown == expected.show(delta(text, 0))
