"""The injected primitives: a reply wakes one waiter once; a mailbox is bounded, fair, and loses nothing."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from engine.ports import Mailbox, Reply


async def test_a_reply_answers_before_and_after_its_wait(autojump_clock):
    """Whoever comes first, the waiter gets the value or the error."""
    early: Reply[int] = Reply()
    early.resolve(1)
    assert await early.wait() == 1
    late: Reply[int] = Reply()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(KeyError):
                await late.wait()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        late.reject(KeyError())


async def test_a_reply_is_answered_once():
    """A second answer is a bug and raises."""
    reply: Reply[int] = Reply()
    reply.resolve(1)
    for again in (lambda: reply.resolve(2), lambda: reply.reject(KeyError())):
        with pytest.raises(RuntimeError, match="answered twice"):
            again()
    assert await reply.wait() == 1


async def test_a_cancelled_wait_withdraws_and_the_answer_stays(autojump_clock):
    """The answer given after a cancelled wait wakes nobody, and is there for the next."""
    reply: Reply[int] = Reply()
    with trio.move_on_after(1):
        await reply.wait()
    reply.resolve(1)
    assert await reply.wait() == 1


async def test_a_mailbox_is_first_in_first_out_among_senders(autojump_clock):
    """Senders that wait are admitted in the order they came; nobody overtakes them."""
    box: Mailbox[int] = Mailbox("m", items_max=1, bytes_max=100)
    box.put_nowait(0)
    async with trio.open_nursery() as nursery:
        for number in range(1, 4):
            nursery.start_soon(box.put, number)
            await trio.testing.wait_all_tasks_blocked()
        assert box.senders_waiting == 3
        assert box.take() == 0
        with pytest.raises(trio.WouldBlock):
            box.put_nowait(99)
        assert [box.take() for _ in range(4)] == [1, 2, 3, None]


async def test_a_mailbox_is_bounded_in_bytes_and_admits_one_larger_item(autojump_clock):
    """An item beyond the byte bound goes in alone."""
    box: Mailbox[str] = Mailbox("m", items_max=10, bytes_max=10)
    box.put_nowait("huge", 50)
    with pytest.raises(trio.WouldBlock):
        box.put_nowait("x", 1)
    assert box.take() == "huge"
    box.put_nowait("a", 6)
    with pytest.raises(trio.WouldBlock):
        box.put_nowait("b", 6)
    box.put_nowait("c", 4)
    assert box.size_bytes == 10


async def test_a_cancelled_sender_was_not_accepted_and_blocks_nobody(autojump_clock):
    """The one behind it gets the room."""
    box: Mailbox[int] = Mailbox("m", items_max=1, bytes_max=10)
    box.put_nowait(0)
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def give_up() -> None:
            with scope:
                await box.put(1)

        nursery.start_soon(give_up)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(box.put, 2)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert box.take() == 0
        assert box.take() == 2


async def test_an_accepted_item_is_not_lost_to_cancellation(autojump_clock):
    """A put that returned, or whose sender was cancelled after admission, stays in the mailbox."""
    box: Mailbox[int] = Mailbox("m", items_max=1, bytes_max=10)
    box.put_nowait(0)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.put, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert box.take() == 0
            scope.cancel()
    assert box.take() == 1


async def test_the_receiver_is_woken_by_items_and_pokes(autojump_clock):
    """One wake for what came since the last wait; a cancelled wait misses nothing."""
    box: Mailbox[int] = Mailbox("m", items_max=10, bytes_max=10)
    with trio.move_on_after(1) as scope:
        await box.wait()
    assert scope.cancelled_caught
    box.poke()
    box.put_nowait(1)
    await box.wait()
    assert box.peek() == 1
    with trio.move_on_after(1) as scope:
        await box.wait()
    assert scope.cancelled_caught
