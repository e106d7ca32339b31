"""Promise 5: the same event id twice has one effect and the first answer."""

from __future__ import annotations

import pytest

from engine import Applied, Duplicate, Envelope, Skipped
from engine.errors import DuplicateIdError, SkippedError, UnknownMessageError, WrongExpectedSeqError
from engine.events import MessageFinished, MessageRemoved, MessageUpdated, PartUpdated, SessionNoted, UsageRecorded
from tests.support.engines import Gate, checked_engine, count_rows, in_one_batch, one_by_one

NOTE = Envelope(SessionNoted("n", "k", {"a": 1}), "e1")


async def test_the_same_id_again_gives_the_first_answer(tmp_path, autojump_clock):
    """A repeated id answers Duplicate with the original entry, and nothing is stored again."""
    receipts = []
    async with checked_engine(tmp_path / "a.db", receipts=receipts) as engine:
        session = await engine.create_session("s")
        first = await session.append(NOTE)
        again = await session.append(NOTE)
        receipts += [first, again]
        assert first.outcome == Applied()
        assert again.outcome == Duplicate(first.events[0])
        assert (again.seq, again.position) == (first.seq, first.position)
        assert count_rows(tmp_path / "a.db") == 2


async def test_the_same_id_with_other_content_is_refused(tmp_path, autojump_clock):
    """Other data or another type under a used id is refused by name, and the append writes nothing."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(NOTE)
        for event in (SessionNoted("n", "k", {"a": 2}), MessageUpdated("m", "user")):
            with pytest.raises(DuplicateIdError) as caught:
                await session.append(SessionNoted("before", "k"), Envelope(event, "e1"))
            message = "append to 's': event id 'e1' was used before with other content; nothing was written"
            assert str(caught.value) == message
        assert count_rows(tmp_path / "a.db") == 2


async def test_equal_content_is_equal_whatever_the_order_of_its_keys(tmp_path, autojump_clock):
    """The digest does not depend on the order of keys in a JSON object."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(Envelope(SessionNoted("n", "k", {"a": 1, "b": {"c": 2, "d": 3}}), "e1"))
        receipt = await session.append(Envelope(SessionNoted("n", "k", {"b": {"d": 3, "c": 2}, "a": 1}), "e1"))
        assert isinstance(receipt.outcome, Duplicate)


async def test_a_mixed_append_writes_what_is_new(tmp_path, autojump_clock):
    """Known ids in an append answer Duplicate; the rest is written, in order."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        first = await session.append(NOTE)
        receipt = await session.append(
            Envelope(SessionNoted("n0", "k"), "e0"), NOTE, Envelope(SessionNoted("n2", "k"), "e2"), NOTE
        )
        kinds = [type(entry.outcome) for entry in receipt.events]
        assert kinds == [Applied, Duplicate, Applied, Duplicate]
        assert [entry.seq for entry in receipt.events] == [3, first.seq, 4, first.seq]
        assert receipt.skipped == ()


async def test_an_id_repeated_within_one_append_is_a_duplicate(tmp_path, autojump_clock):
    """The second use of an id inside one append answers Duplicate of the first."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        receipt = await session.append(NOTE, NOTE)
        assert receipt.events[1].outcome == Duplicate(receipt.events[0])
        assert count_rows(tmp_path / "a.db") == 2


@pytest.mark.parametrize("together", [True, False])
async def test_an_id_sent_twice_at_once_is_applied_once(tmp_path, autojump_clock, together):
    """Two deliveries of one command, in one batch or in two, have one effect."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
        session = await engine.create_session("s")
        calls = (lambda: session.append(NOTE), lambda: session.append(NOTE))
        answers = await (in_one_batch(gate, session.drain, *calls) if together else one_by_one(*calls))
        assert answers[1].outcome == Duplicate(answers[0].events[0])


async def test_the_id_check_comes_before_expected_seq(tmp_path, autojump_clock):
    """A retry of a conditional append answers Duplicate and not a conflict; new events in it still conflict."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(NOTE, expected_seq=1)
        await session.append(SessionNoted("other", "k"))
        assert isinstance((await session.append(NOTE, expected_seq=1)).outcome, Duplicate)
        with pytest.raises(WrongExpectedSeqError):
            await session.append(NOTE, Envelope(SessionNoted("n2", "k"), "e2"), expected_seq=1)


async def test_an_id_derived_for_a_receipt_answers_duplicate(tmp_path, autojump_clock):
    """The id that the engine made can be sent back like a caller's own; invented ones of its form are refused."""
    path = tmp_path / "a.db"
    event = SessionNoted("n", "k")
    async with checked_engine(path) as engine:
        session = await engine.create_session("s")
        first = await session.append(event)
        name = first.events[0].event_id
        assert (await session.append(Envelope(event, name))).outcome == Duplicate(first.events[0])
        with pytest.raises(DuplicateIdError):
            await session.append(Envelope(SessionNoted("other", "k"), name))
        with pytest.raises(DuplicateIdError, match="only this log assigns"):
            await session.append(Envelope(event, f"{engine.epoch}-999"))
        other = await engine.create_session("t")
        with pytest.raises(DuplicateIdError, match="only this log assigns"):
            await other.append(Envelope(event, name))
    async with checked_engine(path) as engine:
        session = await engine.session("s")
        assert (await session.append(Envelope(event, name))).outcome == Duplicate(first.events[0])


async def test_duplicates_are_known_after_reopening(tmp_path, autojump_clock):
    """An id is remembered by the file, not by the process."""
    path = tmp_path / "a.db"
    async with checked_engine(path) as engine:
        first = await (await engine.create_session("s")).append(NOTE)
    async with checked_engine(path) as engine:
        session = await engine.session("s")
        assert (await session.append(NOTE)).outcome == Duplicate(first.events[0])
        with pytest.raises(DuplicateIdError):
            await session.append(Envelope(SessionNoted("n", "other"), "e1"))


async def test_ids_are_scoped_to_the_incarnation(tmp_path, autojump_clock):
    """Another session, workspace or life of the same session id may use the same event id."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(NOTE)
        assert (await (await engine.create_session("t")).append(NOTE)).outcome == Applied()
        assert (await (await engine.workspace("w").create_session("s")).append(NOTE)).outcome == Applied()
        await session.remove()
        again = await engine.create_session("s")
        assert (await again.append(NOTE)).outcome == Applied()
        assert isinstance((await session.append(NOTE)).outcome, Duplicate)


async def test_creating_a_session_may_be_sent_again(tmp_path, autojump_clock):
    """The same event id makes `create_session` a retry; without it the session exists already."""
    async with checked_engine(tmp_path / "a.db") as engine:
        first = await engine.create_session("s", event_id="create")
        again = await engine.create_session("s", event_id="create")
        assert again.incarnation == first.incarnation == 1
        assert count_rows(tmp_path / "a.db") == 1


async def test_a_skipped_event_sent_again_gives_its_skip_again(tmp_path, autojump_clock):
    """The first answer of a skipped event was its skip, and so is the second."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), MessageRemoved("m"))
        late = Envelope(PartUpdated("p", "m", "text"), "late")
        first = await session.append(late)
        assert first.outcome == Skipped("orphan_part")
        assert (await session.append(late)).outcome == Duplicate(first.events[0])


async def test_strict_turns_a_skip_into_a_refusal_that_writes_nothing(tmp_path, autojump_clock):
    """A strict append with one event that would be skipped is refused whole."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), MessageFinished("m", "completed"))
        await session.append(MessageUpdated("gone", "assistant"), MessageRemoved("gone"))
        stored = count_rows(tmp_path / "a.db")
        late = (
            (PartUpdated("p", "gone", "text"), "orphan_part"),
            (MessageUpdated("gone", "assistant"), "removed"),
            (PartUpdated("p", "m", "text"), "finished"),
        )
        for event, reason in late:
            with pytest.raises(SkippedError) as caught:
                await session.append(UsageRecorded("st", cost_nanousd=1), event, strict=True)
            assert caught.value.reason == reason
        assert count_rows(tmp_path / "a.db") == stored
        assert (await engine.read.usage("s")).total.steps == 0


async def test_unchanged_and_stale_offset_are_told_but_not_stored(tmp_path, autojump_clock):
    """What changes nothing gets a receipt without seq, no row and no warning."""
    from engine.events import PartDelta

    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        delta = PartDelta("p", "m", "text", 0, "abc")
        await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text"), delta)
        stored = count_rows(tmp_path / "a.db")
        receipt = await session.append(MessageUpdated("m", "assistant"), delta, PartDelta("p", "m", "text", 1, "b"))
        assert [entry.outcome for entry in receipt.events] == [
            Skipped("unchanged"),
            Skipped("stale_offset"),
            Skipped("stale_offset"),
        ]
        assert (receipt.seq, receipt.position) == (None, None)
        assert count_rows(tmp_path / "a.db") == stored


async def test_a_refused_event_frees_its_id(tmp_path, autojump_clock):
    """An id whose append was refused was never used."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        with pytest.raises(UnknownMessageError):
            await session.append(Envelope(PartUpdated("p", "m", "text"), "e1"))
        await session.append(MessageUpdated("m", "user"))
        assert (await session.append(Envelope(PartUpdated("p", "m", "text"), "e1"))).outcome == Applied()
