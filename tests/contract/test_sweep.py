"""The sweep: by incarnation of the process, as events, the owner wins, a second one finds nothing, O(unfinished)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from engine import open_engine
from engine.events import MessageEdited, MessageFinished, MessageUpdated, PartUpdated, SessionNoted, ToolUpdated
from engine.maintenance.sweep import find_unfinished
from tests.support.engines import checked_engine, count_rows


async def leave_unfinished(path: Path) -> None:
    """A log as a process leaves it that died: streaming messages, open calls, and some of unknown state."""
    async with open_engine(path, durability="normal") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m1", "assistant"), ToolUpdated("t1", "m1", "c1", "bash", "running"))
        await session.append(ToolUpdated("t2", "m1", "c2", "bash", "pending"), PartUpdated("p", "m1", "text"))
        await session.append(MessageUpdated("legacy", "assistant", state="unknown"))
        await session.append(ToolUpdated("t3", "legacy", "c3", "bash", "running"))
        await session.append(MessageUpdated("done", "assistant"), MessageFinished("done", "completed"))
        await session.append(ToolUpdated("t4", "done", "c4", "bash", "running"))


async def test_the_sweep_settles_what_a_dead_process_left(tmp_path, autojump_clock):
    """Streaming messages and open calls of another process become aborted, as events; NULL and its calls stay."""
    path = tmp_path / "a.db"
    await leave_unfinished(path)
    before = count_rows(path)
    async with checked_engine(path) as engine:
        messages = {m.message_id: m for m in (await engine.read.messages("s")).items}
        assert {name: (m.status, m.settled_by) for name, m in messages.items()} == {
            "m1": ("aborted", "sweep"),
            "legacy": (None, None),
            "done": ("completed", "owner"),
        }
        tools = {p.part_id: p.tool.state for m in messages.values() for p in m.parts if p.tool}
        assert tools == {"t1": "aborted", "t2": "aborted", "t3": "running", "t4": "aborted"}
        swept = (await engine.read.log(limit=1000)).items[before:]
        assert [e.type for e in swept] == ["tool.updated"] * 3 + ["message.finished"]


async def test_a_second_sweep_finds_nothing(tmp_path, autojump_clock):
    """Sweeping again, in this process or the next, settles and stores nothing."""
    path = tmp_path / "a.db"
    await leave_unfinished(path)
    async with checked_engine(path, sweep=False) as engine:
        report = await engine.sweep()
        assert (report.messages, report.tools) == (1, 3)
        again = await engine.sweep()
        assert (again.messages, again.tools) == (0, 0)
    rows = count_rows(path)
    async with checked_engine(path):
        assert count_rows(path) == rows


async def test_the_sweep_leaves_alone_what_this_process_streams(tmp_path, autojump_clock):
    """What this incarnation announced or announced again is its own business."""
    path = tmp_path / "a.db"
    await leave_unfinished(path)
    async with checked_engine(path, sweep=False) as engine:
        session = await engine.session("s")
        await session.append(MessageUpdated("m1", "assistant", {"resumed": True}), MessageUpdated("m2", "assistant"))
        await session.append(ToolUpdated("t1", "m1", "c1", "bash", "running", input={"again": 1}))
        report = await engine.sweep()
        assert (report.messages, report.tools) == (0, 2)
        assert (await engine.read.message("s", "m1")).status == "streaming"
        assert (await engine.read.message("s", "m2")).status == "streaming"


async def test_the_owners_finish_beats_the_sweep_in_every_order(tmp_path, autojump_clock):
    """Before, between finding and settling, or after the sweep: the owner's finish stands."""
    path = tmp_path / "a.db"
    for moment in ("before", "during", "after"):
        file = tmp_path / f"{moment}.db"
        await leave_unfinished(file)
        async with checked_engine(file, sweep=False) as engine:
            session = await engine.session("s")
            finish = MessageFinished("m1", "completed", "stop")
            if moment == "before":
                await session.append(finish)
                await engine.sweep()
            elif moment == "after":
                await engine.sweep()
                await session.append(finish)
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(engine.sweep)
                    nursery.start_soon(session.append, finish)
            message = await engine.read.message("s", "m1")
            assert (message.status, message.finish_reason, message.settled_by) == ("completed", "stop", "owner")
    assert not path.exists()


async def test_the_sweep_settles_each_life_of_each_session(tmp_path, autojump_clock):
    """Sessions of every workspace are swept; a removed life has nothing left to sweep."""
    path = tmp_path / "a.db"
    async with open_engine(path, durability="normal") as engine:
        for name in ("a", "b"):
            session = await engine.workspace(name).create_session("s")
            await session.append(MessageUpdated("m", "assistant"))
        await session.remove()
        await (await engine.workspace("b").create_session("s")).append(MessageUpdated("m", "assistant"))
    async with checked_engine(path) as engine:
        for name in ("a", "b"):
            assert (await engine.workspace(name).read.message("s", "m")).status == "aborted"
        log = (await engine.workspace("b").read.log()).items
        assert [(e.type, e.incarnation) for e in log][-1] == ("message.finished", 2)


async def test_an_edit_does_not_make_a_message_this_processs_own(tmp_path, autojump_clock):
    """An explicit edit never touches the status, nor who may settle it."""
    path = tmp_path / "a.db"
    await leave_unfinished(path)
    async with checked_engine(path, sweep=False) as engine:
        await (await engine.session("s")).append(MessageEdited("m1", {"title": 1}))
        assert (await engine.sweep()).messages == 1


@pytest.mark.parametrize("settled", [0, 300])
async def test_the_sweep_costs_what_is_unfinished(tmp_path, autojump_clock, settled):
    """Its queries go by the partial indexes: the rows it visits do not grow with what is settled."""
    path = tmp_path / "a.db"
    await leave_unfinished(path)
    async with checked_engine(path, sweep=False) as engine:
        session = await engine.session("s")
        for number in range(settled):
            await session.post(
                MessageUpdated(f"x{number}", "assistant"),
                ToolUpdated(f"xt{number}", f"x{number}", "c", "bash", "completed"),
                MessageFinished(f"x{number}", "completed"),
                SessionNoted(f"n{number}", "k"),
            )
        await session.flush()
        reader = engine._core.files.reader
        statements: list[str] = []
        reader.connection.set_exec_trace(lambda _c, sql, _b: bool(statements.append(sql)) or True)
        try:
            assert len(find_unfinished(reader, 10**9)) == 1
        finally:
            reader.connection.set_exec_trace(None)
        plans = [
            row[3]
            for sql in statements
            if " tool t " in sql or " message m " in sql
            for row in reader.connection.execute(f"EXPLAIN QUERY PLAN {sql}", (10**9,)).fetchall()
        ]
    scans = [plan for plan in plans if plan.startswith("SCAN")]
    assert sorted(scans) == ["SCAN m USING INDEX message_unfinished", "SCAN t USING INDEX tool_unfinished"]
