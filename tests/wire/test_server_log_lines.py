"""What clients send does not write the server's log (promise 16)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support.peers import note, peer, served

FORGED = "x\nCRITICAL engine: all is lost\x1b[2J"


async def test_an_id_begins_no_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ids with line breaks and escapes, in a post that fails and in late writes: each line of the log is one line."""
    caplog.set_level(logging.DEBUG, "engine")
    delta = {"part_id": FORGED, "message_id": FORGED, "field": "text", "offset": 0, "text": "x"}
    async with served(tmp_path / "a.db") as (_, server), peer(server) as client:
        assert (await client.ask("create", session_id=FORGED))["type"] == "receipt"
        for event_id in (FORGED, None):
            events = [{"type": "part.delta", "event": delta, "event_id": event_id}]
            await client.send("post", id=f"p{event_id}", session_id=FORGED, events=events)
            await client.ask("flush", session_id=FORGED)
        assert (await client.ask("remove", session_id=FORGED))["type"] == "receipt"
        late = await client.ask("append", id=FORGED, session_id=FORGED, incarnation=1, events=[note(1)])
        assert late["events"][0]["outcome"] == "removed"
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("engine")]
    assert any("skipped (removed)" in line for line in lines)
    assert any("not written" in line for line in lines)
    assert [line for line in lines if not line.isprintable()] == []
