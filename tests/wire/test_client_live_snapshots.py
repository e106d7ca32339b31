"""`SNAPSHOT` through the client, in front of a real server, while a turn streams."""

from __future__ import annotations

import attrs
import pytest
import trio

from engine.client import SNAPSHOT, ReadSnapshot
from engine.events import Applied, MessageFinished, PartDelta, PartUpdated, RecordedEvent, UsageRecorded
from tests.support.proxy import proxy
from tests.support.serving import QUICK, connected, served

WORDS = [f"<{number} é>" for number in range(120)]


async def _write(session) -> None:
    async with session.turn() as turn, turn.message(role="assistant", message_id="m") as message:
        for word in WORDS:
            await message.text(word)
            await trio.lowlevel.checkpoint()


async def _rendered(log) -> tuple[str, int]:
    """The text from the snapshot and what came after it; how much of it the snapshot had."""
    texts: dict[str, str] = {}
    held = None
    async for item in log:
        if isinstance(item, ReadSnapshot):
            assert held is None
            (entry,) = item.sessions
            texts = {part.part_id: part.data["text"] for view in entry.messages for part in view.parts}
            held = sum(map(len, texts.values()))
        elif isinstance(item, RecordedEvent) and item.outcome == Applied():
            if isinstance(item.event, PartUpdated):
                texts.setdefault(item.event.part_id, item.event.data.get("text", ""))
            elif isinstance(item.event, PartDelta):
                # No text is missing, and none comes twice: an offset says where it belongs.
                assert item.event.offset == len(texts[item.event.part_id])
                texts[item.event.part_id] += item.event.text
        if sum(map(len, texts.values())) >= len("".join(WORDS)):
            break
    assert held is not None
    return "".join(texts.values()), held


async def test_text_from_a_snapshot_and_what_follows_is_the_read_models_whenever_it_is_taken(tmp_path):
    """Readers come all the time while a turn streams, over connections that are cut in between: all show the same text."""
    async with served(tmp_path / "a.db") as (engine, server), proxy(server.port) as between:
        session = await engine.create_session("s")
        between.plan = lambda number: (None, 700 + 400 * number if number < 8 else None)
        found = []
        async with connected(between.url, limits=attrs.evolve(QUICK, buffer_events_max=30)) as client:

            async def read() -> None:
                async with client.log(after=SNAPSHOT, session_id="s") as log:
                    reading.set()
                    found.append(await _rendered(log))

            async with trio.open_nursery() as nursery:
                reading = trio.Event()
                nursery.start_soon(read)
                await reading.wait()
                async with engine.log(session_id="s", follow=True) as log:
                    nursery.start_soon(_write, session)
                    count = 0
                    async for item in log:
                        event = item.event if isinstance(item, RecordedEvent) else None
                        count += isinstance(event, PartDelta)
                        if isinstance(event, PartDelta) and count % 10 == 1:
                            nursery.start_soon(read)
                        if isinstance(event, MessageFinished):
                            break
        text = (await engine.read.message("s", "m")).text
    assert text == "".join(WORDS)
    assert {shown for shown, _ in found} == {text}


@pytest.mark.parametrize("session_id", [None, "s", ["t", "s"]])
async def test_a_snapshot_over_the_wire_is_the_embedded_engines(tmp_path, session_id):
    """The same record, equal in every field: sessions, messages, usage, whether there is more, the cursor."""
    async with served(tmp_path / "a.db") as (engine, server), connected(server.url) as client:
        for name in ("s", "t", "u"):
            session = await engine.create_session(name, metadata={"é": [1]})
            async with session.turn() as turn, turn.message(role="assistant") as message:
                await message.text("x" * 40_000)
                await message.tool(call_id="c", name="bash", state="completed", input={"a": 1}, output="y")
            await session.append(UsageRecorded("st", None, "m", 25, 1, 2))
        async with client.log(after=SNAPSHOT, session_id=session_id, messages=2) as log:
            found = await anext(log)
        if session_id is None:
            assert found == await engine.read.snapshot(sessions=2)
            assert found.more
        else:
            assert found == await engine.read.snapshot(session_id, messages=2)
            assert found.sessions[-1].usage.unattributed.cost_nanousd == 25
