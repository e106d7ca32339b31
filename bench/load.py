"""The workloads: sessions that append and wait, sessions that stream, a task that burns, a task that watches the clock.

Owns: how load is made and its latencies taken. Must not know: what it is compared with.
Invariants: only what was acknowledged inside the window counts; every window follows a warm-up; the load has ended (and
everything accepted is answered) when the call returns.
"""

from __future__ import annotations

import time
from typing import Any

import attrs
import trio

from bench.report import Settings
from engine import Engine, Message, Session
from engine.events import MessageUpdated, PartUpdated

BODY = "The quick brown fox jumps over the lazy dog. " * 4
"""What an appended part holds beside its number: 180 characters, about a line of a tool's output."""
PARTS = 8
"""Parts a session writes in turn, so that most appends replace one: an event row and a part upsert each."""
TOKEN = "streamed word "


@attrs.define(kw_only=True)
class Acknowledged:
    """What one window of acknowledged appends saw."""

    events: int
    seconds: float
    latencies_s: list[float]
    mean_batch: float

    @property
    def per_second(self) -> float:
        return self.events / self.seconds


@attrs.define
class _Window:
    """Shared by the tasks of one load."""

    open: bool = False
    over: bool = False
    latencies_s: list[float] = attrs.field(factory=list)


async def new_sessions(engine: Engine, count: int) -> list[Session]:
    """Sessions with one announced message, `m`, each."""
    made: list[Session] = []

    async def one(n: int) -> None:
        session = await engine.create_session(f"s{n}")
        await session.append(MessageUpdated("m", "assistant"))
        made.append(session)

    async with trio.open_nursery() as nursery:
        for n in range(count):
            nursery.start_soon(one, n)
    return made


def part(n: int) -> PartUpdated:
    """The n-th event of a session."""
    return PartUpdated(f"p{n % PARTS}", "m", "note", {"n": n, "body": BODY})


async def _append(session: Session, window: _Window) -> None:
    n = 0
    while not window.over:
        event = part(n)
        n += 1
        started = time.perf_counter()
        await session.append(event)
        if window.open:
            window.latencies_s.append(time.perf_counter() - started)


async def acknowledged(engine: Engine, sessions: list[Session], settings: Settings, *, busy: bool = False) -> Acknowledged:
    """Every session appends, waits for the receipt, and appends again; if `busy`, beside a task that burns."""
    window = _Window()
    async with trio.open_nursery() as nursery:
        burning = trio.CancelScope()
        if busy:
            nursery.start_soon(_burn, burning)
        for session in sessions:
            nursery.start_soon(_append, session, window)
        await trio.sleep(settings.warm_up_s)
        before = engine.statistics().writer
        started = time.perf_counter()
        window.open = True
        await trio.sleep(settings.seconds)
        window.open = False
        seconds = time.perf_counter() - started
        after = engine.statistics().writer
        window.over = True
        # The last receipts need not wait beside it, which for a starved thread would be long.
        burning.cancel()
    return Acknowledged(
        events=len(window.latencies_s),
        seconds=seconds,
        latencies_s=window.latencies_s,
        mean_batch=(after.events - before.events) / max(1, after.batches - before.batches),
    )


async def _burn(scope: trio.CancelScope, slice_s: float = 0.001) -> None:
    """Burn CPU in slices, each followed by a checkpoint, until cancelled: the user's own work beside the engine."""
    with scope:
        while True:
            until = time.perf_counter() + slice_s
            while time.perf_counter() < until:
                pass
            await trio.lowlevel.checkpoint()


@attrs.define
class Ticker:
    """A task that sleeps a millisecond at a time and notes how late it woke: what any other task of the loop suffers."""

    late_s: list[float] = attrs.field(factory=list)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            started = time.perf_counter()
            await trio.sleep(0.001)
            self.late_s.append(time.perf_counter() - started - 0.001)

    @property
    def longest_ms(self) -> float:
        return 1e3 * max(self.late_s, default=0.0)


@attrs.define(kw_only=True)
class Posted:
    """What a burst of posts took, until the last of them was durable."""

    calls: int
    chars: int
    events: int
    batches: int
    seconds: float


async def stream_text(engine: Engine, sessions: list[Session], calls: int) -> Posted:
    """Every session streams `calls` pieces of text through a turn, without pause, and settles."""

    async def one(session: Session) -> None:
        async with session.turn() as turn, turn.message(role="assistant") as message:
            await _pieces(message)

    async def _pieces(message: Message) -> None:
        for _ in range(calls):
            await message.text(TOKEN)

    return await _burst(engine, sessions, one, calls, len(TOKEN))


async def post_parts(engine: Engine, sessions: list[Session], calls: int) -> Posted:
    """Every session posts `calls` events that cannot be joined, without pause, and flushes."""

    async def one(session: Session) -> None:
        for n in range(calls):
            await session.post(part(n))
        await session.flush()

    return await _burst(engine, sessions, one, calls, len(BODY))


async def _burst(engine: Engine, sessions: list[Session], one: Any, calls: int, chars: int) -> Posted:
    before = engine.statistics().writer
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(one, session)
    seconds = time.perf_counter() - started
    after = engine.statistics().writer
    total = calls * len(sessions)
    return Posted(
        calls=total,
        chars=chars * total,
        events=after.events - before.events,
        batches=after.batches - before.batches,
        seconds=seconds,
    )
