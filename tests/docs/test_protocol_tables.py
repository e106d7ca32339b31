"""The README's tables of the wire protocol: every frame with every field, and every close code, as the code has them."""

import re
import typing
from pathlib import Path

import msgspec
import pytest

from engine.server import frames
from engine.server.frames import FromClient, FromServer, Receipt, WireEvent, WireReceiptEvent, WireRecorded

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
CHAPTER = README.split("## Live: over WebSocket")[1].split("\n## ")[0]
INSIDE = {"events": WireRecorded, "receipt": WireReceiptEvent}
"""Frames whose row also names the fields of the entries of their list."""


def rows(heading: str) -> dict[str, str]:
    """The table whose head begins so: first cell -> second cell."""
    table = CHAPTER.split(f"| {heading} |")[1].split("\n\n")[0]
    return {
        first.strip("`"): second
        for first, second in re.findall(r"^\| ([^|]+) \| (.+?) \|", table, re.MULTILINE)
        if "-" not in first
    }


def names(frame: type[msgspec.Struct]) -> list[str]:
    """The fields of a frame as they are on the wire."""
    return list(frame.__struct_encode_fields__)


def told(cell: str) -> list[str]:
    """The names in a cell that stand for fields: those before any explanation in parentheses."""
    return re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", cell))


@pytest.mark.parametrize(
    ("heading", "union"), [("from the client", FromClient), ("from the server", FromServer)], ids=["client", "server"]
)
def test_every_frame_stands_in_its_table_with_every_field(heading: str, union: object) -> None:
    """No frame or field is missing, and none is made up."""
    table = rows(heading)
    by_type = {cls.__struct_config__.tag: cls for cls in typing.get_args(union)}
    assert set(table) == set(by_type)
    for name, cls in by_type.items():
        entries = names(INSIDE[name]) if name in INSIDE else []
        assert told(table[name]) == [*names(cls), *entries], name


def test_the_fields_of_a_commands_event_are_told() -> None:
    """In the sentence below the table."""
    sentence = re.search(r"^An entry of `events` in a command: (.*?)\. ", CHAPTER, re.MULTILINE)
    assert sentence is not None
    assert told(sentence[1]) == names(WireEvent)
    assert "events" in names(Receipt)


def test_every_close_code_stands_in_its_table() -> None:
    """The codes that the server closes with on purpose."""
    assert [int(code) for code in rows("close code")] == list(frames.CLOSE_CODES)
