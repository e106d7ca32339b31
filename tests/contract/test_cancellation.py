"""A caller cancelled at any await: nothing stays streaming, what was acknowledged is there, retries tell the truth."""

from __future__ import annotations

from typing import Any

import trio

from engine import Duplicate, Envelope, Limits, Receipt
from engine.errors import UnknownSessionError
from engine.events import SessionNoted
from tests.support.cancelling import cancelled_at_every_checkpoint
from tests.support.engines import checked_engine, raw


async def test_a_turn_cancelled_at_every_checkpoint_leaves_no_message_streaming(tmp_path, autojump_clock):
    """Wherever the body of a turn is cancelled, its message is settled, its call too, and every receipt holds."""
    path = tmp_path / "a.db"
    receipts: list[Receipt] = []
    texts: dict[str, str] = {}
    cancelled = 0

    async def body(number: int) -> None:
        name = f"s{number}"
        session = await engine.create_session(name)
        async with session.turn() as turn, turn.message(message_id="m") as message:
            for piece in ("one ", "two ", "three "):
                await message.text(piece)
                texts[name] = texts.get(name, "") + piece
            receipts.append(await message.tool(call_id="c", name="bash", state="running"))
            await message.text("four")
            await session.flush()
            texts[name] += "four"
            receipts.append(await message.usage(step_id="st", cost_nanousd=1))
            await message.part("file", {"name": "x"})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.checkpoint)
            receipts.append(await session.append(SessionNoted("n", "k")))

    async with checked_engine(path, receipts=receipts) as engine:
        async for number in cancelled_at_every_checkpoint(body):
            cancelled = number
            await look_settled(engine, f"s{number}", texts)
            assert engine.statistics().sessions.turns == 0
    assert cancelled >= 10
    connection = raw(path)
    assert connection.execute("SELECT count(*) FROM message WHERE status = 'streaming'").get == 0
    assert connection.execute("SELECT count(*) FROM tool WHERE state = 'running'").get == 0
    connection.close()
    async with checked_engine(path, sweep=False) as engine:
        assert ((await engine.sweep()).messages, (await engine.sweep()).tools) == (0, 0)


async def look_settled(engine: Any, name: str, texts: dict[str, str]) -> None:
    """The session's message, if there is one, is settled and holds at least the text whose call returned."""
    try:
        page = await engine.read.messages(name)
    except UnknownSessionError:
        return
    for view in page.items:
        assert view.status in ("aborted", "completed")
        assert [p.tool.state for p in view.parts if p.tool] in ([], ["aborted"])
        assert view.text.startswith(texts.get(name, "")), (name, view.text)


def pair(number: int) -> tuple[Envelope, Envelope]:
    """Two events with ids of their own."""
    return Envelope(SessionNoted("n", "k"), f"a{number}"), Envelope(SessionNoted("n", "k"), f"b{number}")


async def test_an_append_cancelled_at_every_checkpoint_is_there_or_not(tmp_path, autojump_clock):
    """The same ids sent again answer Duplicate or commit, and the log holds each once."""
    path = tmp_path / "a.db"
    limits = Limits(inbox_commands_max=1, mailbox_commands_max=1)
    async with checked_engine(path, limits=limits) as engine:
        session = await engine.create_session("s")

        async def append(number: int) -> None:
            await session.append(*pair(number))

        last = 0
        async for number in cancelled_at_every_checkpoint(append):
            last = number
            receipt = await session.append(*pair(number))
            kinds = {type(entry.outcome) for entry in receipt.events}
            assert len(kinds) == 1, "half an append was written"
        log = (await engine.read.log(limit=1000)).items
        assert len(log) == 1 + 2 * (last + 1)


async def test_a_session_whose_creation_was_cancelled_exists_or_not(tmp_path, autojump_clock):
    """Creating it again with the same event id gives the same first life, and one event."""
    async with checked_engine(tmp_path / "a.db") as engine:
        last = 0

        async def create(number: int) -> None:
            await engine.create_session(f"s{number}", event_id="create")

        async for number in cancelled_at_every_checkpoint(create):
            last = number
            session = await engine.create_session(f"s{number}", event_id="create")
            assert session.incarnation == 1
        assert len((await engine.read.log()).items) == last + 1


async def test_a_cancelled_post_was_not_accepted(tmp_path, autojump_clock):
    """What a cancelled post carried is never in the log; what a returned post carried always is."""
    posted: list[str] = []
    limits = Limits(inbox_commands_max=1, mailbox_commands_max=1)
    async with checked_engine(tmp_path / "a.db", limits=limits) as engine:
        session = await engine.create_session("s")

        async def post(number: int) -> None:
            for index in range(6):
                await session.post(SessionNoted(f"{number}.{index}", "k"))
                posted.append(f"{number}.{index}")

        async for _ in cancelled_at_every_checkpoint(post):
            pass
        await session.flush()
        log = (await engine.read.log(limit=1000)).items
        assert [e.event.note_id for e in log[1:]] == posted


async def test_a_flush_cancelled_at_every_checkpoint_loses_nothing(tmp_path, autojump_clock):
    """A cancelled flush withdraws a wait, not the posts before it."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        posts = 0

        async def flush(number: int) -> None:
            with trio.CancelScope(shield=True):
                await session.post(SessionNoted(f"n{number}", "k"))
            nonlocal posts
            posts += 1
            await session.flush()

        async for _ in cancelled_at_every_checkpoint(flush):
            pass
        await session.flush()
        assert len((await engine.read.log(limit=1000)).items) == posts + 1


async def test_a_removal_cancelled_at_every_checkpoint_leaves_the_slot_free(tmp_path, autojump_clock):
    """A cancelled removal took place or not; either way a turn can start, or the session is gone."""
    async with checked_engine(tmp_path / "a.db") as engine:

        async def remove(number: int) -> None:
            with trio.CancelScope(shield=True):
                session = await engine.create_session(f"s{number}")
            await session.remove()

        async for number in cancelled_at_every_checkpoint(remove):
            try:
                session = await engine.session(f"s{number}")
            except UnknownSessionError:
                continue
            await session.flush()
            async with session.turn():
                pass


async def test_an_engine_cancelled_at_every_checkpoint_closes_cleanly(tmp_path, autojump_clock):
    """Opening, using and leaving an engine may be cancelled anywhere: the file opens again and holds what was told."""
    path = tmp_path / "a.db"
    acknowledged: list[str] = []

    async def use(number: int) -> None:
        async with checked_engine(path) as engine:
            session = await engine.create_session(f"s{number}")
            await session.append(Envelope(SessionNoted("n", "k"), "e1"))
            acknowledged.append(session.id)

    async for _ in cancelled_at_every_checkpoint(use):
        pass
    async with checked_engine(path) as engine:
        for name in acknowledged:
            receipt = await (await engine.session(name)).append(Envelope(SessionNoted("n", "k"), "e1"))
            assert isinstance(receipt.outcome, Duplicate)
