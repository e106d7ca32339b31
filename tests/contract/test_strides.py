"""Following a workspace in a log that is full of others' events: no step on the loop passes all of those (promise 12)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from engine.events import HEAD, START, CaughtUp, RecordedEvent, SessionNoted
from engine.ports import Ports
from tests.support.engines import checked_engine

T = TypeVar("T")


@pytest.mark.parametrize("follow", [True, False])
async def test_a_reader_passes_others_events_in_strides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, follow: bool
) -> None:
    """Others' events before, between and behind a workspace's own: it gets its own, in many short steps, and catches up at
    the end of the log; what is committed between two strides comes too."""
    monkeypatch.setattr("engine.subscriptions.stream.STRIDE", 10)
    steps = 0

    async def step(function: Callable[[], T]) -> T:
        nonlocal steps
        steps += 1
        return function()

    async with checked_engine(tmp_path / "a.db", ports=Ports(step=step)) as engine:
        loud = await engine.workspace("loud").create_session("s")
        quiet = await engine.workspace("quiet").create_session("s")

        async def noise() -> None:
            await loud.append(*[SessionNoted(str(n), "test", {}) for n in range(200)])

        await noise()
        await quiet.append(SessionNoted("one", "test", {}))
        await noise()
        late = await quiet.append(SessionNoted("two", "test", {}))
        await noise()
        head = await engine.head()
        before = steps
        seen: list[RecordedEvent] = []
        async with engine.workspace("quiet").log(after=START, follow=follow) as log, trio.open_nursery() as nursery:
            nursery.start_soon(quiet.append, SessionNoted("three", "test", {}))
            async for item in log:
                if isinstance(item, CaughtUp):
                    assert item.cursor.position >= head.position
                else:
                    assert isinstance(item, RecordedEvent)
                    seen.append(item)
                if isinstance(item, CaughtUp) and (len(seen) == 4 or not follow):
                    break
                if len(seen) == 4 and follow:
                    break
        assert [item.seq for item in seen[:3]] == [1, 2, 3]
        assert seen[2].position == late.position
        assert steps - before > 50
        async with engine.workspace("quiet").log(after=HEAD) as log:
            assert [type(item) async for item in log] == [CaughtUp]
