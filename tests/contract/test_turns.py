"""Sessions and turns: one running slot, messages that settle themselves, stop and removal that drain first."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from engine import Limits, Skipped
from engine.errors import (
    ClosedError,
    InvalidArgumentError,
    InvalidEventError,
    OffsetError,
    TurnBusyError,
    UnknownMessageError,
)
from engine.events import MessageRemoved, MessageUpdated, PartDelta, PartUpdated, SessionNoted, SessionRemoved, ToolUpdated
from tests.support.engines import Gate, checked_engine


async def only_message(engine: Any, session_id: str = "s") -> Any:
    """The one message of the session."""
    (message,) = (await engine.read.messages(session_id)).items
    return message


async def test_a_turn_streams_and_settles(tmp_path, autojump_clock):
    """The example of the contract: text, tool, usage and finish reason end up in a completed message."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message(role="assistant") as message:
            await message.reasoning("hm")
            await message.text("Hel")
            await message.text("lo")
            await message.tool(call_id="c1", name="bash", state="running", input={"a": 1})
            await message.tool(call_id="c1", state="completed", output="done")
            await message.text("bye")
            await message.usage(step_id="st", cost_nanousd=10, input_tokens=9, output_tokens=2)
            message.finish_reason = "stop"
        view = await only_message(engine)
        assert (view.status, view.finish_reason, view.text) == ("completed", "stop", "Hellobye")
        assert [p.kind for p in view.parts] == ["reasoning", "text", "tool", "text"]
        assert view.parts[2].tool.state == "completed"
        assert (await engine.read.usage("s")).own.cost_nanousd == 10


async def test_a_session_has_one_running_slot(tmp_path, autojump_clock):
    """A second turn is refused until the first was left, also through another handle."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        async with session.turn():
            for handle in (session, await engine.session("s")):
                with pytest.raises(TurnBusyError) as caught:
                    async with handle.turn():
                        pass
                assert str(caught.value) == "start a turn in 's': another turn is running; nothing was written"
        async with session.turn():
            pass


class BodyError(Exception):
    """What an agent raises."""


async def test_an_exception_of_the_body_settles_as_error_and_comes_out_unwrapped(tmp_path, autojump_clock):
    """The very object that the body raised leaves the turn, and the message is in error."""
    error = BodyError("mine")
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")

        async def body() -> None:
            async with session.turn() as turn, turn.message() as message:
                await message.text("half")
                raise error

        with pytest.raises(BodyError) as caught:
            await body()
        assert caught.value is error
        view = await only_message(engine)
        assert (view.status, view.text) == ("error", "half")


@pytest.mark.parametrize("nested", [0, 1, 3])
async def test_cancellation_settles_as_aborted_also_out_of_inner_nurseries(tmp_path, autojump_clock, nested):
    """Cancelled, alone or in groups of groups, is cancellation; what was in hand is flushed first."""

    async def body(depth: int) -> None:
        if depth == 0:
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(body, depth - 1)
            nursery.start_soon(trio.sleep_forever)

    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        with trio.move_on_after(1) as scope:
            async with session.turn() as turn, turn.message() as message:
                await message.text("half")
                await message.tool(call_id="c", name="bash", state="running")
                await body(nested)
        assert scope.cancelled_caught
        view = await only_message(engine)
        assert (view.status, view.finish_reason, view.text) == ("aborted", "cancelled", "half")
        assert view.parts[1].tool.state == "aborted"
        assert not turn.stopped


async def test_an_error_beside_a_cancellation_is_an_error(tmp_path, autojump_clock):
    """A group that holds a real exception settles as error, and comes out as that group."""

    async def fail() -> None:
        raise BodyError

    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")

        async def body() -> None:
            async with session.turn() as turn, turn.message(), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail)

        with pytest.raises(ExceptionGroup) as caught:
            await body()
        assert caught.group_contains(BodyError)
        assert (await only_message(engine)).status == "error"


async def test_stop_from_outside_waits_for_the_drain(tmp_path, autojump_clock):
    """When stop returns, the turn is over and its message settled, with the reason that was given."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        ready = trio.Event()
        over: list[str | None] = []

        async def agent() -> None:
            async with session.turn() as turn, turn.message() as message:
                await message.text("half")
                ready.set()
                await trio.sleep_forever()
            over.append(turn.reason)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent)
            await ready.wait()
            assert await session.stop("user pressed Esc") is True
            view = await only_message(engine)
            assert (view.status, view.finish_reason, view.text) == ("aborted", "user pressed Esc", "half")
            assert await session.stop() is False
        assert over == ["user pressed Esc"]


@pytest.mark.parametrize("inner", [False, True])
async def test_stop_from_inside_does_not_wait_for_itself(tmp_path, autojump_clock, inner):
    """A turn, or a task that it started, stops its own turn: it ends at the next checkpoint, without a deadlock."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message() as message:
            await message.text("half")
            if inner:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(session.stop)
                    await trio.sleep_forever()
            await session.stop()
            raise AssertionError("not reached")
        assert turn.stopped
        assert (await only_message(engine)).status == "aborted"


REMOVALS: dict[str, Any] = {
    "session": lambda session: session.remove(),
    "message": lambda session: session.remove_message("m"),
    "session as event": lambda session: session.append(SessionRemoved()),
    "message as event": lambda session: session.append(SessionNoted("n", "k"), MessageRemoved("m")),
    "second of two": lambda session: session.append(MessageRemoved("old"), MessageRemoved("m")),
}


@pytest.mark.parametrize("name", REMOVALS)
async def test_a_removal_drains_the_turn_that_it_touches_first(tmp_path, autojump_clock, name):
    """The turn's trailing part is written before the removal: no stray part comes from the source."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("old", "user"))
        ready = trio.Event()

        async def agent() -> None:
            async with session.turn() as turn, turn.message(message_id="m") as message:
                try:
                    await message.text("half")
                    ready.set()
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await message.tool(call_id="c", name="bash", state="running")
                        await message.text("trailing")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent)
            await ready.wait()
            receipt = await REMOVALS[name](session)
            assert not receipt.skipped
        log = (await engine.read.log(limit=1000)).items
        assert [e for e in log if isinstance(e.outcome, Skipped)] == []
        assert log[-1].type in ("session.removed", "message.removed")
        finish = next(e for e in log if e.type == "message.finished")
        assert (finish.event.status, finish.event.finish_reason) == ("aborted", log[-1].event.__class__.__name__)


@pytest.mark.parametrize("name", REMOVALS)
async def test_a_removal_inside_the_turn_does_not_deadlock(tmp_path, autojump_clock, name):
    """Called inside the turn it touches, a removal commits without waiting; what the turn then writes is skipped."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("old", "user"))
        with trio.fail_after(1):
            async with session.turn() as turn, turn.message(message_id="m") as message:
                await message.text("half")
                await REMOVALS[name](session)
                await trio.lowlevel.checkpoint()
        assert turn.stopped is ("session" in name)
        assert trio.current_time() < 1000


async def test_a_removal_of_another_message_leaves_the_turn_alone(tmp_path, autojump_clock):
    """Only the turn that streams the message is stopped."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("old", "user"))
        async with session.turn() as turn, turn.message() as message, trio.open_nursery() as nursery:
            nursery.start_soon(session.remove_message, "old")
            await trio.testing.wait_all_tasks_blocked()
            await message.text("goes on")
        assert not turn.stopped
        assert (await only_message(engine)).status == "completed"


async def test_no_turn_starts_while_a_removal_waits(tmp_path, autojump_clock):
    """Between the drain and the commit of a removal the slot stays taken."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
        session = await engine.create_session("s")
        gate.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.remove)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(TurnBusyError):
                async with session.turn():
                    pass
            gate.open()


async def test_a_handle_of_an_earlier_life_does_not_touch_the_turn_of_a_later_one(tmp_path, autojump_clock):
    """Stop and removals through a stale handle neither stop nor drain the new session's turn."""
    async with checked_engine(tmp_path / "a.db") as engine:
        stale = await engine.create_session("s")
        await stale.append(MessageUpdated("m", "assistant"))
        await stale.remove()
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message(message_id="m") as message, trio.open_nursery() as nursery:
            await message.text("a")
            nursery.start_soon(stale.stop)
            nursery.start_soon(stale.remove)
            nursery.start_soon(stale.remove_message, "m")
            await trio.testing.wait_all_tasks_blocked()
            await message.text("b")
        assert not turn.stopped
        assert (await only_message(engine)).text == "ab"


async def test_the_failure_of_a_post_is_raised_by_the_next_call_of_its_handle(tmp_path, autojump_clock):
    """Who posted is told, once, whatever it calls next; another handle of the session is not."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        innocent = await engine.session("s")
        calls: tuple[Any, ...] = (
            lambda: session.append(SessionNoted("n", "k")),
            lambda: session.post(SessionNoted("n", "k")),
            session.flush,
            session.stop,
            session.remove,
            lambda: session.turn().__aenter__(),
        )
        for call in calls:
            await session.post(PartUpdated("p", "never", "text"))
            await innocent.flush()
            with pytest.raises(UnknownMessageError):
                await call()
        await session.flush()
        assert len((await engine.read.log()).items) == 1


async def test_the_failure_of_a_messages_post_is_raised_by_the_message(tmp_path, autojump_clock):
    """A message hears of its own lost text, by its next call or by leaving it, and settles as error."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")

        async def body() -> None:
            async with session.turn() as turn, turn.message() as message:
                await message.text("abc")
                await session.flush()
                part = (await only_message(engine)).parts[0].part_id
                await session.append(PartDelta(part, message.id, "text", 3, "foreign"))
                await message.text("def")

        with pytest.raises(OffsetError):
            await body()
        assert (await only_message(engine)).status == "error"
        await session.flush()


async def test_removals_are_appended_not_posted(tmp_path, autojump_clock):
    """A removal has to drain, so it cannot be posted; nothing of the call is written."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        for event in (MessageRemoved("m"), SessionRemoved()):
            with pytest.raises(InvalidArgumentError):
                await session.post(SessionNoted("n", "k"), event)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["a\ud83d", "\ude00b"], "a\U0001f600b"),
        (["\ud83d", "\ude00"], "\U0001f600"),
        (["\ud83d", "", "\ude00"], "\U0001f600"),
        (["x", "\ud83d"], "x\ufffd"),
        (["\ud83d"], "\ufffd"),
        (["\ud83d\ude00"], "\U0001f600"),
    ],
)
async def test_half_a_surrogate_pair_waits_for_its_other_half(tmp_path, autojump_clock, pieces, expected):
    """A pair cut in two is joined; a half that stays alone is replaced when the part ends."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message() as message:
            for piece in pieces:
                await message.text(piece)
        assert (await only_message(engine)).text == expected


@pytest.mark.parametrize("bad", ["\ude00", "a\ude00b", "\ud83dx", "\ud83d\ud83dx"])
async def test_any_other_lone_surrogate_is_refused(tmp_path, autojump_clock, bad):
    """Nothing of the refused call is written, and the message goes on."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message() as message:
            await message.text("a")
            with pytest.raises(InvalidEventError, match="lone surrogate"):
                await message.text(bad)
            await message.text("b")
        view = await only_message(engine)
        assert (view.text, view.status) == ("ab", "completed")


async def test_a_message_is_used_inside_its_block_only(tmp_path, autojump_clock):
    """Before and after its block a message, and a turn, refuse to be used."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        turn = session.turn()
        with pytest.raises(ClosedError):
            turn.message()
        async with turn:
            message = turn.message()
            with pytest.raises(ClosedError):
                await message.text("early")
            async with message:
                pass
            for call in (
                lambda: message.text("late"),
                lambda: message.part("file", {}),
                lambda: message.tool(call_id="c", name="x", state="running"),
                lambda: message.usage(step_id="s"),
                message.__aenter__,
            ):
                with pytest.raises(ClosedError):
                    await call()
        with pytest.raises(ClosedError):
            turn.message()


async def test_a_call_in_flight_when_the_body_is_cancelled_is_aborted_with_its_message(tmp_path, autojump_clock):
    """A tool call whose append was cancelled after it was accepted does not stay running in a settled message."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
        session = await engine.create_session("s")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def agent() -> None:
                    async with session.turn() as turn, turn.message() as message:
                        gate.close()
                        await message.tool(call_id="c", name="bash", state="running")

                nursery.start_soon(agent)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                gate.open()
        view = await only_message(engine)
        assert (view.status, [p.tool.state for p in view.parts]) == ("aborted", ["aborted"])


async def test_text_that_was_cancelled_may_be_sent_again(tmp_path, autojump_clock):
    """A cancelled `text` was not accepted, so the same text sent again is there once."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message() as message:
            for piece in ("first ", "second\ud83d", "\ude00"):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await message.text(piece)
                assert scope.cancelled_caught
                await message.text(piece)
        view = await only_message(engine)
        assert (view.status, view.text) == ("completed", "first second\U0001f600")


async def test_text_that_waits_for_room_and_is_cancelled_was_not_accepted(tmp_path, autojump_clock):
    """With every queue full, a cancelled `text` leaves the offset where it was."""
    gate = Gate()
    limits = Limits(inbox_commands_max=1, mailbox_commands_max=1, delta_chars_max=1)
    async with checked_engine(tmp_path / "a.db", ports=gate.ports(), limits=limits) as engine:
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message() as message:
            await message.text("0")
            gate.close()
            sent = 0
            while True:
                with trio.move_on_after(1) as scope:
                    await message.text(str(sent % 10))
                if scope.cancelled_caught:
                    break
                sent += 1
            gate.open()
            await message.text("!")
        view = await only_message(engine)
        assert view.text == "0" + "".join(str(n % 10) for n in range(sent)) + "!"
        assert view.status == "completed"


async def test_two_tasks_may_stream_into_one_message(tmp_path, autojump_clock):
    """Text of two tasks is interleaved, and all of it arrives."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message() as message:

            async def stream(letter: str) -> None:
                for _ in range(50):
                    await message.text(letter)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream, "a")
                nursery.start_soon(stream, "b")
        view = await only_message(engine)
        assert (view.text.count("a"), view.text.count("b"), len(view.parts)) == (50, 50, 1)


async def test_a_session_s_order_is_the_order_of_acceptance(tmp_path, autojump_clock):
    """Text posted after an append was asked for does not overtake it, however full the queues are."""
    gate = Gate()
    limits = Limits(inbox_commands_max=1, mailbox_commands_max=1)
    async with checked_engine(tmp_path / "a.db", ports=gate.ports(), limits=limits) as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text"))
        gate.close()
        async with trio.open_nursery() as nursery:
            for number in range(3):  # one at the writer, one in its inbox, one in the actor's hand
                nursery.start_soon(session.append, SessionNoted(f"fill {number}", "k"))
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(session.append, SessionNoted("in the mailbox", "k"))
            await trio.testing.wait_all_tasks_blocked()

            async def text() -> None:
                await session.post(PartDelta("p", "m", "text", 0, "first"))
                await session.post(PartDelta("p", "m", "text", 5, "second"))

            nursery.start_soon(text)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(session.append, ToolUpdated("t", "m", "c", "bash", "running"))
            await trio.testing.wait_all_tasks_blocked()
            await gate.pass_one()
            gate.open()
        await session.flush()
        types = [e.type for e in (await engine.read.log()).items][-3:]
    assert types == ["part.delta", "tool.updated", "part.delta"]


async def test_waiting_deltas_that_follow_on_are_joined(tmp_path, autojump_clock):
    """Deltas that wait together become one event; one with another offset, part, field or id does not."""
    gate = Gate()
    async with checked_engine(tmp_path / "a.db", ports=gate.ports()) as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text"))
        gate.close()
        for offset, text in enumerate("abcdef"):
            await session.post(PartDelta("p", "m", "text", offset, text))
        await session.post(PartDelta("p", "m", "input", 0, "x"))
        await session.post(PartDelta("p", "m", "text", 6, "g"))
        gate.open()
        await session.flush()
        deltas = [e.event.text for e in (await engine.read.log()).items if e.type == "part.delta"]
    assert deltas == ["abcdef", "x", "g"]


async def test_a_settle_that_the_storage_refuses_is_tried_again(tmp_path, autojump_clock):
    """A message that could not be settled is counted as pending, and settled when the file lets it."""
    from engine.errors import StorageBusyError
    from tests.support.engines import raw

    limits = Limits(busy_retry_s=0, settle_retry_s=1)
    async with checked_engine(tmp_path / "a.db", limits=limits) as engine:
        session = await engine.create_session("s")
        foreign = raw(tmp_path / "a.db", write=True)
        with pytest.raises(StorageBusyError):
            async with session.turn() as turn, turn.message():
                foreign.execute("BEGIN IMMEDIATE")
        assert engine.statistics().sessions.settles_pending == 1
        await trio.sleep(2.5)
        assert engine.statistics().sessions.settle_retries == 2
        foreign.close()
        await trio.sleep(1)
        assert engine.statistics().sessions.settles_pending == 0
        assert (await only_message(engine)).status == "completed"


async def test_of_tasks_that_stream_at_once_a_cancelled_one_harms_no_other(tmp_path, autojump_clock):
    """With every queue full, two tasks wait with text; the first is cancelled, and the second's text still fits."""
    gate = Gate()
    limits = Limits(inbox_commands_max=1, mailbox_commands_max=1)
    async with checked_engine(tmp_path / "a.db", ports=gate.ports(), limits=limits) as engine:
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message() as message:
            await message.text("a")
            await session.flush()
            gate.close()
            first = trio.CancelScope()

            async def cancelled() -> None:
                with first:
                    await message.text("lost")

            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(session.post, SessionNoted(f"n{number}", "k"))
                    await trio.testing.wait_all_tasks_blocked()
                for task in (cancelled, lambda: message.text("b"), lambda: message.text("c", kind="note")):
                    nursery.start_soon(task)
                    await trio.testing.wait_all_tasks_blocked()
                # when
                first.cancel()
                await trio.testing.wait_all_tasks_blocked()
                gate.open()
            await message.text("d", kind="note")
        view = await only_message(engine)
        assert first.cancelled_caught
        assert [(part.kind, part.data["text"]) for part in view.parts] == [("text", "ab"), ("note", "cd")]
        assert view.status == "completed"


async def test_a_turn_left_in_another_context_gives_its_slot_back(tmp_path, autojump_clock):
    """What an async generator that nobody closed does to its turn is an error, but the session can run turns again."""
    async with checked_engine(tmp_path / "a.db") as engine:
        session = await engine.create_session("s")
        turn = session.turn()
        outcome: list[BaseException] = []

        async def leave() -> None:
            try:
                await turn.__aexit__(None, None, None)
            except ValueError as problem:
                outcome.append(problem)

        await turn.__aenter__()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
        turn._scope.__exit__(None, None, None)
        assert len(outcome) == 1
        async with session.turn():
            pass
