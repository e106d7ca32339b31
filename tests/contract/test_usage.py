"""Promise 10: usage is counted once per step, whatever happens to its message or session."""

from __future__ import annotations

import pytest

from engine.errors import InvalidEventError, UnknownSessionError
from engine.events import MessageRemoved, MessageUpdated, UsageRecorded
from tests.support.engines import checked_engine


def costs(report) -> tuple[int, int, int]:
    """(own, unattributed, children) of a report, in nano-dollars."""
    return report.own.cost_nanousd, report.unattributed.cost_nanousd, report.children.cost_nanousd


async def test_the_last_report_of_a_step_wins(tmp_path, autojump_clock):
    """A step reported in growing pieces counts once, with its last numbers."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"))
        for tokens in (1, 40, 75):
            await session.append(UsageRecorded("st", "m", "opus", cost_nanousd=tokens, input_tokens=9, output_tokens=tokens))
        await session.append(UsageRecorded("st2", "m", cost_nanousd=1))
        report = await engine.read.usage("s")
        assert (report.total.steps, report.total.output_tokens, report.total.input_tokens) == (2, 75, 9)
        assert costs(report) == (76, 0, 0)
        assert {name: totals.steps for name, totals in report.by_model.items()} == {"opus": 1, "unknown": 1}


async def test_an_equal_report_is_unchanged_and_not_stored(tmp_path, autojump_clock):
    """The same numbers again change nothing; a report without message or model keeps what was known."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), UsageRecorded("st", "m", "opus", cost_nanousd=5))
        assert (await session.append(UsageRecorded("st", "m", "opus", cost_nanousd=5))).outcome.reason == "unchanged"
        assert (await session.append(UsageRecorded("st", cost_nanousd=6))).seq == 4
        report = await engine.read.usage("s")
        assert costs(report) == (6, 0, 0)
        assert list(report.by_model) == ["opus"]


async def test_usage_of_a_removed_message_is_unattributed_not_lost(tmp_path, autojump_clock):
    """Usage before and after the removal of its message is kept apart, and in the total."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), UsageRecorded("st1", "m", cost_nanousd=10))
        assert costs(await engine.read.usage("s")) == (10, 0, 0)
        await session.append(MessageRemoved("m"))
        await session.append(UsageRecorded("st2", "m", cost_nanousd=240_000_000, input_tokens=404_062))
        await session.append(UsageRecorded("st3", None, cost_nanousd=1), UsageRecorded("st4", "never", cost_nanousd=2))
        report = await engine.read.usage("s")
        assert costs(report) == (0, 240_000_013, 0)
        assert report.total.input_tokens == 404_062


async def test_usage_that_comes_before_its_message_is_attributed_when_it_comes(tmp_path, autojump_clock):
    """Attribution is asked when it is read: a message announced later takes its usage."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(UsageRecorded("st", "m", cost_nanousd=3))
        assert costs(await engine.read.usage("s")) == (0, 3, 0)
        await session.append(MessageUpdated("m", "assistant"))
        assert costs(await engine.read.usage("s")) == (3, 0, 0)


async def test_usage_of_a_removed_session_stays(tmp_path, autojump_clock):
    """A removed session's usage is readable by its id, also what arrives late; a new life's steps add to it."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), UsageRecorded("st", "m", cost_nanousd=1))
        await session.remove()
        await session.append(UsageRecorded("late", "m", cost_nanousd=2))
        assert costs(await engine.read.usage("s")) == (0, 3, 0)
        again = await engine.create_session("s")
        await again.append(MessageUpdated("m", "assistant"), UsageRecorded("st", "m", cost_nanousd=4))
        assert costs(await engine.read.usage("s")) == (4, 3, 0)
        await session.append(UsageRecorded("st", "m", cost_nanousd=10))
        assert costs(await engine.read.usage("s")) == (4, 12, 0)
        assert (await engine.read.usage("s")).total.steps == 3


async def test_children_roll_up_to_their_ancestors(tmp_path, autojump_clock):
    """A parent's report counts all sessions below it, each once, also those that were removed."""
    async with checked_engine(tmp_path / "a.db") as engine:
        for name, parent in (("root", None), ("child", "root"), ("grandchild", "child"), ("other", None)):
            session = await engine.create_session(name, parent_id=parent)
            await session.append(MessageUpdated("m", "assistant"), UsageRecorded("st", "m", cost_nanousd=len(name)))
        assert costs(await engine.read.usage("root")) == (4, 0, 15)
        assert costs(await engine.read.usage("root", roll_up=False)) == (4, 0, 0)
        await (await engine.session("child")).remove()
        assert costs(await engine.read.usage("root")) == (4, 0, 15)
        assert (await engine.read.usage()).total.cost_nanousd == 24
        assert (await engine.read.session("grandchild")).parent_id == "child"


@pytest.mark.parametrize("parents", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "a"}, {"a": "nobody"}])
async def test_cycles_and_missing_parents_count_each_session_once(tmp_path, autojump_clock, parents):
    """Parents are soft: a cycle neither hangs nor counts twice."""
    async with checked_engine(tmp_path / "a.db") as engine:
        for name, parent in parents.items():
            session = await engine.create_session(name, parent_id=parent)
            await session.append(UsageRecorded("st", cost_nanousd=1))
        for name in parents:
            assert (await engine.read.usage(name)).total.cost_nanousd == len(parents)
        with pytest.raises(UnknownSessionError):
            await engine.read.usage("nobody")


@pytest.mark.parametrize("bad", [-1, 2**53 + 1, 0.5, True, "1"])
async def test_only_whole_numbers_are_counted(tmp_path, autojump_clock, bad):
    """Fractions, negative and oversized numbers are refused before they reach the ledger."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        with pytest.raises(InvalidEventError):
            await session.append(UsageRecorded("st", cost_nanousd=bad))
        assert (await engine.read.usage("s")).total.steps == 0


async def test_totals_of_the_largest_numbers_do_not_overflow(tmp_path, autojump_clock):
    """A thousand steps of the largest count add up exactly."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(*(UsageRecorded(f"st{n}", cost_nanousd=2**53) for n in range(1000)))
        assert (await engine.read.usage("s")).total.cost_nanousd == 1000 * 2**53
