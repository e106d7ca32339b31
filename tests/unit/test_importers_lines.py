"""Broken, glued, torn and odd lines of a transcript, and the files that hold them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import ImportFileError
from engine.events import SessionNoted
from engine.importers import find_transcripts, read_transcript
from engine.importers import lines as reading
from tests.unit.importing import answer, document, events, lines, notes, problems, prompt, read, said, texts, turn


def test_a_torn_last_line_is_reported_and_left_alone(tmp_path: Path) -> None:
    """A last line without newline and without a whole object is no record yet."""
    whole = lines(prompt("u1", "one"), prompt("u2", "two"))
    torn = read(tmp_path, whole[:-20])
    assert texts(torn) == ["one"]
    assert problems(torn) == [(2, "the last line is torn (no newline, no whole JSON object) and was left alone")]
    assert torn.records == 1
    assert "malformed" not in notes(torn)


def test_a_torn_line_that_became_whole_is_new(tmp_path: Path) -> None:
    """The file that grew gives the old envelopes first."""
    whole = lines(prompt("u1", "one"), prompt("u2", "two"))
    before, after = read(tmp_path, whole[:-20]), read(tmp_path, whole)
    old = before.sessions[0].envelopes
    assert after.sessions[0].envelopes[: len(old)] == old
    assert texts(after) == ["one", "two"]


def test_a_last_line_without_newline_that_is_whole_is_a_record(tmp_path: Path) -> None:
    """Agents do not always end their files with a newline."""
    transcript = read(tmp_path, lines(prompt("u1", "one"), prompt("u2", "two"))[:-1])
    assert texts(transcript) == ["one", "two"]
    assert problems(transcript) == []


@pytest.mark.parametrize("tail", [b"12", b"[1, 2]", b'"text', b"null", b"{"])
def test_a_last_line_that_could_still_grow_is_torn(tmp_path: Path, tail: bytes) -> None:
    """A number may get more digits: only an object shows its end."""
    transcript = read(tmp_path, lines(prompt("u1", "one")) + tail)
    assert [line for line, _ in problems(transcript)] == [2]
    assert transcript.records == 1


def test_two_records_on_one_line_are_both_read(tmp_path: Path) -> None:
    """A lost newline loses no record."""
    glued = json.dumps(prompt("u1", "one")) + json.dumps(prompt("u2", "two"))
    transcript = read(tmp_path, lines(glued, prompt("u3", "three")))
    assert texts(transcript) == ["one", "two", "three"]
    assert problems(transcript) == [(1, "2 records on one line; all were read")]
    assert transcript.records == 3


def test_a_whole_record_behind_a_broken_one_is_read(tmp_path: Path) -> None:
    """A write that was cut short must not swallow the record that the next process wrote behind it."""
    broken = json.dumps(prompt("u1", "one"))[:-30] + json.dumps(prompt("u2", "two"))
    transcript = read(tmp_path, lines(prompt("u0", "zero"), broken, prompt("u3", "three")))
    assert texts(transcript)[:3] == ["zero", "two", "three"]
    assert problems(transcript) == [(2, "a broken record before a whole one")]
    assert notes(transcript) == ["malformed"]


def test_a_broken_record_that_ends_in_a_whole_block_is_not_taken_for_one(tmp_path: Path) -> None:
    """A block inside a broken record has a type too; it is no record."""
    broken = json.dumps(answer("a1", "m1", "inner text"))
    broken = broken[: broken.index("}]") + 1]
    transcript = read(tmp_path, lines(prompt("u0", "zero"), broken))
    assert texts(transcript) == ["zero"]
    assert problems(transcript) == [(2, "not JSON; kept as text")]


def test_a_malformed_line_is_kept_and_the_rest_goes_on(tmp_path: Path) -> None:
    """The raw text stays in the log, under the line's number."""
    transcript = read(tmp_path, lines(prompt("u1", "one"), "{not json", prompt("u2", "two")))
    assert texts(transcript) == ["one", "two"]
    assert problems(transcript) == [(2, "not JSON; kept as text")]
    assert events(transcript, SessionNoted)[0].data == {"text": "{not json", "line": 2}
    assert transcript.records == 3


def test_a_record_that_is_no_object_is_kept(tmp_path: Path) -> None:
    """Lists and numbers on whole lines are notes."""
    transcript = read(tmp_path, lines(prompt("u1", "one"), "[1, 2]", "3", "null"))
    assert [note.data for note in events(transcript, SessionNoted)] == [
        {"value": [1, 2]},
        {"value": 3},
        {"value": None},
    ]


def test_a_lone_surrogate_becomes_a_replacement_character(tmp_path: Path) -> None:
    """Half a pair in an escape cannot be stored; a whole pair stays."""
    line = json.dumps(prompt("u1", "X")).replace('"X"', '"a\\ud83db \\ud83d\\ude00"')
    transcript = read(tmp_path, lines(line))
    assert texts(transcript) == ["a\ufffdb \U0001f600"]
    assert problems(transcript) == [(1, "a lone surrogate was replaced by U+FFFD")]


def test_a_lone_surrogate_in_a_key_is_replaced_too(tmp_path: Path) -> None:
    """Keys are text as well."""
    line = json.dumps({"type": "odd", "sessionId": "s", "K": 1}).replace('"K"', '"\\udc00"')
    assert events(read(tmp_path, lines(line)), SessionNoted)[0].data["\ufffd"] == 1


def test_bytes_that_are_not_utf8_are_replaced(tmp_path: Path) -> None:
    """The record is read; the line is reported."""
    transcript = read(tmp_path, lines(json.dumps(prompt("u1", "aXb")).encode().replace(b"aXb", b"a\xffb")))
    assert texts(transcript) == ["a\ufffdb"]
    assert problems(transcript) == [(1, "bytes that are not UTF-8 were replaced by U+FFFD")]


def test_a_nul_is_text(tmp_path: Path) -> None:
    """An escaped NUL is legal JSON."""
    transcript = read(tmp_path, lines(prompt("u1", "a\0b")))
    assert texts(transcript) == ["a\0b"]
    assert problems(transcript) == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_a_number_without_a_json_form_is_kept_as_text(tmp_path: Path, number: str) -> None:
    """What no JSON reader agrees on is not dropped."""
    transcript = read(tmp_path, lines(f'{{"type": "odd", "sessionId": "s", "x": {number}}}'))
    assert events(transcript, SessionNoted)[0].data["x"] == number[:1000]
    assert [line for line, _ in problems(transcript)] == [1]


def test_a_large_whole_number_stays_itself(tmp_path: Path) -> None:
    """Beyond 64 bits it is still a number."""
    transcript = read(tmp_path, lines('{"type": "odd", "sessionId": "s", "x": 123456789012345678901234567890}'))
    assert events(transcript, SessionNoted)[0].data["x"] == 123456789012345678901234567890


@pytest.mark.parametrize("depth", [200, 100_000])
def test_deep_nesting_is_kept_as_text(tmp_path: Path, depth: int) -> None:
    """Decoders recurse; a record that is too deep for them is raw text."""
    deep = '{"type": "odd", "sessionId": "s", "x": ' + "[" * depth + "]" * depth + "}"
    transcript = read(tmp_path, lines(prompt("u1", "one"), deep, prompt("u2", "two")))
    assert texts(transcript) == ["one", "two"]
    assert notes(transcript) == ["malformed"]
    assert [line for line, _ in problems(transcript)] == [2]


def test_many_brackets_side_by_side_are_not_deep(tmp_path: Path) -> None:
    """Only nesting counts."""
    transcript = read(tmp_path, lines({"type": "odd", "sessionId": "s", "x": [[] for _ in range(500)]}))
    assert notes(transcript) == ["odd"]


def test_blank_lines_byte_order_mark_and_crlf_are_no_records(tmp_path: Path) -> None:
    """They change nothing, not even an event id."""
    plain = lines(prompt("u1", "one"), {"type": "odd", "sessionId": "ses-1"})
    odd = b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n\r\n  \n")
    assert read(tmp_path, odd).sessions == read(tmp_path, plain).sessions
    assert read(tmp_path, odd).issues == ()


def test_a_line_of_many_kilobytes_is_read(tmp_path: Path) -> None:
    """Tool outputs make long lines."""
    text = "ä" * 300_000
    assert texts(read(tmp_path, lines(prompt("u1", text)))) == [text]


def test_an_event_above_the_limit_is_cut_and_reported(tmp_path: Path) -> None:
    """What the engine would refuse is shortened, and says so."""
    transcript = read(tmp_path, lines(prompt("u1", "x" * (17 * 1024 * 1024))))
    assert texts(transcript)[0].endswith("characters left out by the import]")
    assert [line for line, _ in problems(transcript)] == [1]


def test_a_huge_malformed_line_keeps_its_beginning(tmp_path: Path) -> None:
    """Escaping could make six bytes of each character."""
    transcript = read(tmp_path, lines(prompt("u1", "one"), b"\x01" * 3_000_000))
    kept = events(transcript, SessionNoted)[0].data["text"]
    assert len(kept) == reading.MALFORMED_CHARS_MAX
    assert [line for line, _ in problems(transcript)] == [2, 2]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"hello\nworld\n", "is no transcript"),
        (b'{"a": 1}\n{"b": 2}\n', "is no transcript"),
        (b"[]", "is no transcript"),
        (b"{", "is no transcript"),
        (b"\xef\xbb\xbf", "is no transcript"),
        (b"\x00" * 100, "is no transcript"),
        (document(turn("m1", "user", []))[:-5], "is no transcript"),
    ],
)
def test_a_file_without_a_known_format_is_an_error(tmp_path: Path, content: bytes, problem: str) -> None:
    """The error names the file and what is wrong; nothing is guessed."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ImportFileError) as caught:
        read_transcript(path)
    assert str(caught.value).startswith(f"import {path}: {problem}")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A folder and a missing file are no transcripts."""
    for path in (tmp_path, tmp_path / "missing", "with\0nul"):
        with pytest.raises(ImportFileError, match="cannot be read"):
            read_transcript(path)


def test_the_format_comes_from_the_content(tmp_path: Path) -> None:
    """The name says nothing."""
    codex = lines({"type": "session_meta", "payload": {"id": "c"}}, said("user", "hello"))
    found = [read(tmp_path, content).format for content in (lines(prompt("u", "x")), codex, document())]
    assert found == ["claude_code", "codex", "opencode"]


def test_progress_adds_up_to_the_size_of_the_file(tmp_path: Path) -> None:
    """Torn, blank and broken lines are consumed too."""
    path = tmp_path / "file"
    for content in (lines(prompt("u", "x"), "", "{broken") + b'{"torn', document()):
        path.write_bytes(content)
        consumed: list[int] = []
        read_transcript(path, on_bytes=consumed.append)
        assert sum(consumed) == len(content)


def test_transcripts_are_found_in_folders_and_as_given(tmp_path: Path) -> None:
    """Folders are searched to the bottom and sorted; a file counts once, whatever its name."""
    (tmp_path / "b").mkdir()
    (tmp_path / "d.json").mkdir()
    for name in ("b/z.jsonl", "b/a.json", "c.jsonl", "note.txt"):
        (tmp_path / name).touch()
    found = find_transcripts([tmp_path / "note.txt", tmp_path, tmp_path / "c.jsonl"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["note.txt", "b/a.json", "b/z.jsonl", "c.jsonl"]


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    """Nothing is skipped in silence."""
    with pytest.raises(ImportFileError, match="does not exist"):
        find_transcripts([tmp_path, tmp_path / "missing"])
