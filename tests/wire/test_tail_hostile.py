"""`engine tail` in front of a wrong request, and of names that mean no good."""

from __future__ import annotations

import json
import os
import sys

import pytest
import trio

from engine import Applied, Skipped
from engine.cli import output
from engine.cli.log import event_as_json
from engine.cli.tail.transcript import Transcript
from engine.events import (
    Cursor,
    MessageFinished,
    MessageRemoved,
    MessageUpdated,
    PartRemoved,
    PartUpdated,
    RecordedEvent,
    ToolUpdated,
    UnknownEvent,
)
from tests.support.serving import served
from tests.wire.test_cli import ROOT

EVIL = "x\x1b[31m\n● assistant  forged\r\nforged\x9b2J\u202e"


def recorded(event, *, outcome=None, type_name="t"):
    """An event as a log brings it, everything about it hostile."""
    return RecordedEvent(
        position=1,
        cursor=Cursor("a", 1),
        workspace="w",
        session_id=EVIL,
        incarnation=1,
        seq=1,
        type=type_name,
        version=1,
        event=event,
        event_id=EVIL,
        occurred_at=1,
        recorded_at=1,
        causation_id=None,
        outcome=outcome or Applied(),
        size_bytes=1,
    )


@pytest.mark.parametrize(
    "item",
    [
        recorded(MessageRemoved(EVIL)),
        recorded(PartRemoved(EVIL, EVIL)),
        recorded(PartUpdated(EVIL, EVIL, EVIL, {"text": "new"})),
        recorded(MessageFinished(EVIL, EVIL, EVIL)),
        recorded(ToolUpdated(EVIL, EVIL, EVIL, EVIL, EVIL)),
        recorded(UnknownEvent(EVIL, 1, "{}"), type_name=EVIL),
        recorded(MessageRemoved("m"), outcome=Skipped(EVIL)),
    ],
    ids=lambda item: type(item.event).__name__,
)
def test_no_id_kind_or_reason_poses_as_a_line_of_its_own(item):
    """Line breaks in what is a word stay in its line, and no control character is left."""
    transcript = Transcript(many=True, verbose=True)
    transcript.take(recorded(MessageUpdated(EVIL, "user")))
    transcript.take(recorded(PartUpdated(EVIL, EVIL, EVIL, {"text": "old"})))
    text = "".join(piece.text for piece in transcript.take(item))
    assert text
    assert not any(line.startswith(("● assistant  forged", "forged")) for line in text.split("\n"))
    assert not set("\x1b\x9b\r\u202e") & set(text)


@pytest.mark.parametrize("data", ['{"a":\n1}', "no json", '{"a":"\\ud800"}'])
def test_an_unknown_event_is_one_line_of_json_whatever_it_holds(capsys, data):
    """Its data is passed on as it came, which may be laid out over lines."""
    output.write_json(event_as_json(recorded(UnknownEvent("t", 1, data))))
    (line,) = capsys.readouterr().out.splitlines()
    assert "event" in json.loads(line)


@pytest.mark.parametrize("as_json", [(), ("--json",)])
async def test_a_cursor_that_the_log_never_gave_is_a_wrong_call_of_a_server_too(tmp_path, as_json):
    """Exit 2 and nothing on standard output, as with a file; nothing that was shown could have become untrue."""
    path = tmp_path / "a.db"
    async with served(path) as (engine, server):
        await engine.create_session("s")
        future = Cursor(engine.epoch, 99_999)
        for source in (("--db", str(path)), ("--url", server.url)):
            done = await trio.run_process(
                [sys.executable, "-m", "engine", "tail", "--after", str(future), "--no-follow", *source, *as_json],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert (done.returncode, done.stdout) == (2, b"")
            assert done.stderr.startswith(f"engine: cursor '{future}': is from the future".encode())
