"""Promise 15: workspace A can neither see, change, nor acknowledge anything of workspace B."""

from __future__ import annotations

import pytest

from engine import Applied, CaughtUp, Envelope, RecordedEvent
from engine.errors import InvalidArgumentError, UnknownMessageError, UnknownSessionError
from engine.events import MessageUpdated, PartUpdated, SessionNoted, UsageRecorded
from tests.support.engines import checked_engine


async def test_nothing_of_another_workspace_is_read(tmp_path, autojump_clock):
    """Sessions, messages, usage, pages of the log and lookups of one workspace know nothing of the other."""
    async with checked_engine(tmp_path / "a.db") as engine:
        a, b = engine.workspace("a"), engine.workspace("b")
        session = await a.create_session("s")
        await session.append(MessageUpdated("m", "user"), PartUpdated("p", "m", "text", {"text": "secret"}))
        await session.append(UsageRecorded("st", "m", cost_nanousd=1))
        assert (await b.read.sessions()).items == ()
        assert (await b.read.log()).items == ()
        assert (await b.read.log(session_id="s")).items == ()
        assert (await b.read.usage()).total.steps == 0
        for call in (
            lambda: b.session("s"),
            lambda: b.read.session("s"),
            lambda: b.read.messages("s"),
            lambda: b.read.message("s", "m"),
            lambda: b.read.usage("s"),
        ):
            with pytest.raises(UnknownSessionError):
                await call()


async def test_the_same_ids_never_meet(tmp_path, autojump_clock):
    """Two workspaces use the same session, message and event ids; each write stays where it was made."""
    async with checked_engine(tmp_path / "a.db") as engine:
        spaces = {name: engine.workspace(name) for name in ("a", "b", "default")}
        for name, space in spaces.items():
            session = await space.create_session("s", title=name)
            receipt = await session.append(Envelope(MessageUpdated("m", "user", {"of": name}), "e1"))
            assert (receipt.outcome, receipt.seq) == (Applied(), 2)
        await (await spaces["a"].session("s")).remove()
        for name in ("b", "default"):
            assert (await spaces[name].read.message("s", "m")).metadata == {"of": name}
        assert (await engine.read.session("s")).title == "default"


async def test_a_handle_writes_to_its_own_workspace_only(tmp_path, autojump_clock):
    """A part for a message of the other workspace is a part of a message that was never announced."""
    async with checked_engine(tmp_path / "a.db") as engine:
        await (await engine.workspace("a").create_session("s")).append(MessageUpdated("m", "user"))
        other = await engine.workspace("b").create_session("s")
        with pytest.raises(UnknownMessageError):
            await other.append(PartUpdated("p", "m", "text"))


async def test_turns_of_the_same_id_do_not_share_a_slot(tmp_path, autojump_clock):
    """A turn in one workspace neither blocks nor is stopped by the other's session of the same id."""
    async with checked_engine(tmp_path / "a.db") as engine:
        a = await engine.workspace("a").create_session("s")
        b = await engine.workspace("b").create_session("s")
        async with a.turn() as turn_a, b.turn() as turn_b:
            assert not turn_a.stopped
            await b.stop()
        assert (turn_a.stopped, turn_b.stopped) == (False, True)


async def test_a_follower_hears_its_own_workspace_only(tmp_path, autojump_clock):
    """Live and catching up, with and without a session filter, a follower gets nothing of the other workspace."""
    async with checked_engine(tmp_path / "a.db") as engine:
        sessions = {name: await engine.workspace(name).create_session("s") for name in ("a", "b")}
        seen = []
        async with (
            engine.workspace("a").log(follow=True) as log,
            engine.workspace("a").log(follow=True, session_id="s") as filtered,
        ):
            for stream in (log, filtered):
                async for item in stream:
                    if isinstance(item, CaughtUp):
                        break
                    seen.append(item)
            await sessions["b"].append(SessionNoted("secret", "k"))
            await sessions["a"].append(SessionNoted("mine", "k"))
            seen += [await anext(log), await anext(filtered)]
        assert all(isinstance(item, RecordedEvent) and item.workspace == "a" for item in seen)
        assert len(seen) == 4


async def test_usage_does_not_roll_up_across_workspaces(tmp_path, autojump_clock):
    """A child whose parent's id exists in another workspace is no child of that one."""
    async with checked_engine(tmp_path / "a.db") as engine:
        await engine.workspace("a").create_session("parent")
        child = await engine.workspace("b").create_session("child", parent_id="parent")
        await child.append(UsageRecorded("st", cost_nanousd=5))
        assert (await engine.workspace("a").read.usage("parent")).total.cost_nanousd == 0


async def test_a_replace_resets_only_its_own_workspace(tmp_path, autojump_clock):
    """A session replaced in one workspace ends no follower of the other."""
    from engine.events import SessionStarted

    async with checked_engine(tmp_path / "a.db", dense=False) as engine:
        imported = [Envelope(SessionStarted(), "i0"), Envelope(SessionNoted("n", "k"), "i1")]
        a, b = engine.workspace("a"), engine.workspace("b")
        await a.import_events("s", imported)
        session = await b.create_session("s")
        async with b.log(follow=True) as log:
            assert isinstance(await anext(log), RecordedEvent)
            assert isinstance(await anext(log), CaughtUp)
            await a.replace_imported("s", [Envelope(SessionStarted(), "j0")])
            await session.append(SessionNoted("n", "k"))
            assert (await anext(log)).seq == 2


@pytest.mark.parametrize("name", ["", "x" * 513, "\ud800", 7])
async def test_a_workspace_needs_a_storable_name(tmp_path, autojump_clock, name):
    """An impossible name is refused before anything is asked of the file."""
    async with checked_engine(tmp_path / "a.db") as engine:
        with pytest.raises(InvalidArgumentError):
            engine.workspace(name)
