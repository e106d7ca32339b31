"""Session actors: passivated when idle, supervised when they fail; neighbours and the running slot are unaffected."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest
import trio

from engine import Limits
from engine.errors import BrokenError, TurnBusyError
from engine.events import MessageUpdated, PartDelta, PartUpdated, SessionNoted
from engine.ports import Mailbox, Ports
from tests.support.engines import Gate, checked_engine


async def test_ten_thousand_sessions_used_once_do_not_stay_in_memory(tmp_path, autojump_clock):
    """At most `sessions_live_max` actors are alive while they are used, and none of them once they were idle."""
    limits = Limits(sessions_live_max=50, session_idle_s=5)
    async with checked_engine(tmp_path / "a.db", limits=limits) as engine:
        alive: list[weakref.ref[Any]] = []
        registry = engine._core.registry
        for number in range(10_000):
            actor = registry.actor("default", f"s{number}")
            alive.append(weakref.ref(actor))
            if number % 500 == 0:
                await engine.create_session(f"s{number}")
                assert engine.statistics().sessions.live <= 50
        del actor
        await trio.sleep(20)
        gc.collect()
        assert engine.statistics().sessions.live == 0
        assert sum(reference() is not None for reference in alive) == 0
        assert engine.statistics().sessions.started == 10_000


async def test_a_passivated_session_goes_on_as_if_nothing_was(tmp_path, autojump_clock):
    """A handle kept over its actor's passivation appends, posts and starts turns."""
    async with checked_engine(tmp_path / "a.db", limits=Limits(session_idle_s=1)) as engine:
        session = await engine.create_session("s")
        for number in range(3):
            await trio.sleep(5)
            assert engine.statistics().sessions.live == 0
            await session.post(SessionNoted(f"p{number}", "k"))
            async with session.turn():
                await session.append(SessionNoted(f"a{number}", "k"))
        assert [e.seq for e in (await engine.read.log()).items] == list(range(1, 8))


async def test_a_session_with_a_turn_or_waiting_work_is_not_passivated(tmp_path, autojump_clock):
    """Neither idle time nor want of room takes a session's actor away while it is in use."""
    limits = Limits(session_idle_s=1, sessions_live_max=1)
    async with checked_engine(tmp_path / "a.db", limits=limits) as engine:
        session = await engine.create_session("s")
        async with session.turn():
            await trio.sleep(10)
            await engine.create_session("other")
            with pytest.raises(TurnBusyError):
                async with (await engine.session("s")).turn():
                    pass


@pytest.mark.parametrize("limits", [Limits(session_idle_s=0.05), Limits(sessions_live_max=1, session_idle_s=0.05)])
async def test_passivation_racing_an_arriving_message_loses_nothing(tmp_path, autojump_clock, limits):
    """Messages that come in the very moment of passivation are committed, in order."""
    small = Limits(
        session_idle_s=limits.session_idle_s,
        sessions_live_max=limits.sessions_live_max,
        inbox_commands_max=2,
        mailbox_commands_max=1,
        flush_delay_s=0.05,
    )
    async with checked_engine(tmp_path / "a.db", limits=small) as engine:
        sessions = [await engine.create_session(f"s{n}") for n in range(3)]

        async def produce(session: Any, pause: float) -> None:
            for number in range(60):
                await trio.sleep(pause)
                await session.post(SessionNoted(f"{number}", "k"))

        async with trio.open_nursery() as nursery:
            for index, session in enumerate(sessions):
                nursery.start_soon(produce, session, 0.05 + 0.01 * index)
                nursery.start_soon(produce, session, 0.05)
        for session in sessions:
            await session.flush()
            log = (await engine.read.log(session_id=session.id, limit=1000)).items
            assert len(log) == 121
        assert engine.statistics().sessions.started > 20


class BrittleMailbox(Mailbox[Any]):
    """A mailbox whose receiver fails once, on request."""

    failing: str | None = None
    failed = 0

    async def wait(self) -> None:
        """Wait, or fail when this mailbox is the chosen one."""
        await super().wait()
        if self.name == BrittleMailbox.failing:
            BrittleMailbox.failing = None
            BrittleMailbox.failed += 1
            raise RuntimeError("the actor's own bug")


async def test_an_actor_that_fails_takes_nobody_along(tmp_path, autojump_clock, caplog):
    """What waited for it is answered, neighbours and the engine go on, and its next use starts a new one."""
    gate = Gate()
    limits = Limits(inbox_commands_max=1)
    async with checked_engine(tmp_path / "a.db", limits=limits, ports=gate.ports(mailbox=BrittleMailbox)) as engine:
        session, neighbour = await engine.create_session("s"), await engine.create_session("t")
        gate.close()
        answers: dict[str, object] = {}

        async def append(handle: Any, name: str) -> None:
            try:
                answers[name] = (await handle.append(SessionNoted(name, "k"))).seq
            except BrokenError as error:
                answers[name] = error

        with caplog.at_level(logging.CRITICAL, "engine.session"):
            async with trio.open_nursery() as nursery:
                for name in ("at the writer", "in its inbox"):
                    nursery.start_soon(append, neighbour, name)
                    await trio.testing.wait_all_tasks_blocked()
                BrittleMailbox.failing = "session default/s"
                nursery.start_soon(append, session, "lost with the actor")
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(append, neighbour, "behind")
                await trio.testing.wait_all_tasks_blocked()
                gate.open()
        assert isinstance(answers.pop("lost with the actor"), BrokenError)
        assert answers == {"at the writer": 2, "in its inbox": 3, "behind": 4}
        assert engine.statistics().sessions.failed == 1
        assert (await session.append(SessionNoted("again", "k"))).seq == 2


async def test_the_running_slot_outlives_an_actor_that_fails(tmp_path, autojump_clock, caplog):
    """No second turn starts beside the first, `stop` still finds it, and the slot is free afterwards."""
    with caplog.at_level(logging.CRITICAL, "engine.session"):
        async with checked_engine(tmp_path / "a.db", ports=Ports(mailbox=BrittleMailbox)) as engine:
            session = await engine.create_session("s")
            async with trio.open_nursery() as nursery:

                async def agent() -> None:
                    async with session.turn() as turn, turn.message() as message:
                        await message.text("half")
                        await trio.sleep_forever()

                nursery.start_soon(agent)
                await trio.testing.wait_all_tasks_blocked()
                failed = BrittleMailbox.failed
                BrittleMailbox.failing = "session default/s"
                engine._core.registry.live("default", "s")._mailbox.poke()
                await trio.testing.wait_all_tasks_blocked()
                assert BrittleMailbox.failed == failed + 1
                with pytest.raises(TurnBusyError):
                    async with session.turn():
                        pass
                assert await session.stop()
            assert (await engine.read.messages("s")).items[0].status == "aborted"
            async with session.turn():
                pass


async def test_backpressure_makes_senders_wait_and_loses_nothing(tmp_path, autojump_clock):
    """With the writer held, posts wait once the queues are full, and all of them arrive."""
    gate = Gate()
    limits = Limits(inbox_commands_max=4, mailbox_commands_max=4)
    async with checked_engine(tmp_path / "a.db", limits=limits, ports=gate.ports()) as engine:
        session = await engine.create_session("s")
        gate.close()
        posted = 0

        async def produce() -> None:
            nonlocal posted
            for number in range(50):
                await session.post(SessionNoted(f"{number}", "k"))
                posted += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(1)
            assert posted < 20
            gate.open()
        await session.flush()
        assert len((await engine.read.log()).items) == 51


async def test_a_session_whose_turn_outlasts_the_idle_time_is_not_polled(tmp_path, autojump_clock):
    """A turn of many minutes costs its actor a few steps, not twenty a second."""

    class Steps(trio.abc.Instrument):
        taken = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.taken += task.name == "session default/s"

    steps = Steps()
    async with checked_engine(tmp_path / "a.db", limits=Limits(session_idle_s=10)) as engine:
        session = await engine.create_session("s")
        trio.lowlevel.add_instrument(steps)
        async with session.turn():
            await trio.sleep(1_000)
        trio.lowlevel.remove_instrument(steps)
        await trio.sleep(21)
        assert engine.statistics().sessions.live == 0
    assert steps.taken <= 200


async def test_text_joined_to_waiting_deltas_is_bounded_in_bytes(tmp_path, autojump_clock):
    """Joining saves events, not the queue's bound: a post beyond it waits like any other."""
    gate = Gate()
    limits = Limits(inbox_bytes_max=10_000, mailbox_bytes_max=10_000)
    async with checked_engine(tmp_path / "a.db", ports=gate.ports(), limits=limits) as engine:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text", {}))
        # given a writer that does not get on
        gate.close()
        await session.post(SessionNoted("n", "k"))
        await trio.sleep(1)
        accepted = 0
        with trio.move_on_after(1) as waiting:
            for number in range(1_000):
                await session.post(PartDelta("p", "m", "text", 100 * number, "x" * 100))
                accepted += 1
        queue_bytes = engine.statistics().writer.queue_bytes
        gate.open()
        await session.flush()
        # then
        assert waiting.cancelled_caught
        assert accepted * 400 <= 3 * 10_000 + 3 * 400
        assert 10_000 <= queue_bytes <= 20_000
        assert engine.statistics().writer.queue_bytes == 0
        assert (await engine.read.messages("s")).items[0].text == "x" * 100 * accepted
