"""What any reader of the log is told, over random logs, filters, places, bounds and interleavings, equals the log itself."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import HEAD, START, CaughtUp, Lagging, RecordedEvent, Skipped, StreamLimits, open_engine
from engine.errors import UnknownSessionError
from engine.events import MessageRemoved, MessageUpdated, PartUpdated, SessionNoted
from engine.subscriptions import LogStream

SPACES = ("a", "a", "a", "b")
SESSIONS = ("s", "t", "u")


@attrs.frozen
class Write:
    """Append to a session: notes of a size, and perhaps an event that will be skipped."""

    space: str
    session: str
    notes: int
    chars: int
    late: bool


@attrs.frozen
class Take:
    """Read: an item, or a batch within bounds."""

    events_max: int | None
    bytes_max: int


@attrs.frozen
class Drain:
    """Read until there is nothing more."""


@attrs.frozen
class Again:
    """Leave the stream and open another one at its cursor."""


@attrs.frozen(kw_only=True)
class Reading:
    """How the log is read."""

    space: str
    sessions: str | Sequence[str] | None
    skipped: bool
    follow: bool
    place: int | None
    """Index of the event to begin after; 0 is START, None HEAD."""
    limits: StreamLimits


writes = st.builds(
    Write,
    st.sampled_from(SPACES),
    st.sampled_from(SESSIONS),
    st.integers(0, 6),
    st.sampled_from((0, 0, 200, 1_500)),
    st.booleans(),
)
takes = st.builds(Take, st.none() | st.integers(2, 12), st.sampled_from((1, 400, 3_000, 10**6)))
readings = st.builds(
    Reading,
    space=st.just("a"),
    sessions=st.none() | st.sampled_from(SESSIONS) | st.lists(st.sampled_from(SESSIONS), min_size=2, max_size=4),
    skipped=st.booleans(),
    follow=st.sampled_from((True, True, False)),
    place=st.none() | st.integers(0, 20),
    limits=st.builds(
        StreamLimits,
        buffer_events_max=st.integers(2, 20),
        buffer_bytes_max=st.sampled_from((1_000, 10**6, 10**6)),
        page_events_max=st.integers(1, 9),
        page_bytes_max=st.sampled_from((1, 700, 10**6)),
    ),
)


reads = st.lists(takes, min_size=1, max_size=6) | st.just([Drain()]) | st.just([Again()])
rounds = st.tuples(st.lists(writes, min_size=1, max_size=3), reads).map(lambda pair: [*pair[0], *pair[1]])
scripts = st.lists(rounds, min_size=2, max_size=8).map(lambda found: [Drain(), *(step for steps in found for step in steps)])


async def write(engine: Any, step: Write) -> None:
    """Do what the step says; a session comes to be with its first one."""
    space = engine.workspace(step.space)
    try:
        session = await space.session(step.session)
    except UnknownSessionError:
        session = await space.create_session(step.session)
        await session.append(MessageUpdated("m", "assistant"), MessageRemoved("m"))
    late = [PartUpdated("p", "m", "text")] if step.late else []
    notes = [SessionNoted(f"n{number}", "k", {"text": "x" * step.chars}) for number in range(step.notes)]
    for events in (late + notes, late):
        if events:
            await session.append(*events)


async def take(stream: LogStream, step: Take) -> list[Any]:
    """What one read gives, held against its bounds; nothing where it would wait for ever or the stream has ended."""
    before = stream.cursor
    items: list[Any] = []
    with trio.move_on_after(1):
        if step.events_max is not None:
            items = await stream.batch(step.events_max, step.bytes_max)
        elif (item := await anext(stream, None)) is not None:
            items = [item]
    assert len(items) <= (step.events_max or 1)
    assert all(isinstance(item, RecordedEvent) for item in items[:-1])
    size = sum(item.size_bytes for item in items if isinstance(item, RecordedEvent))
    assert size <= step.bytes_max or len(items) == 1
    assert stream.cursor.position >= before.position
    if items:
        assert stream.cursor == items[-1].cursor
    return items


async def drain(stream: LogStream) -> list[Any]:
    """All there is."""
    seen: list[Any] = []
    while items := await take(stream, Take(5, 2_000)):
        seen += items
    return seen


async def play(path: Path, before: Sequence[Write], reading: Reading, script: Sequence[Any]) -> None:
    """Read as the script says while it writes, and compare what came with the log."""
    async with open_engine(path, durability="normal", sync="commit") as engine:
        for step in before:
            await write(engine, step)
        space = engine.workspace(reading.space)
        log = list((await space.read.log(limit=1_000)).items)
        after: Any = HEAD
        if reading.place is not None:
            after = log[min(reading.place, len(log)) - 1].cursor if reading.place and log else START
        start = engine.statistics().head if after is HEAD else 0 if after is START else after.position

        def open_stream(place: Any) -> LogStream:
            stream: LogStream = space.log(
                after=place,
                follow=reading.follow,
                session_id=reading.sessions,
                skipped=reading.skipped,
                limits=reading.limits,
            )
            return stream

        seen: list[Any] = []
        stream = await open_stream(after).__aenter__()
        for step in script:
            if isinstance(step, Write):
                await write(engine, step)
            elif isinstance(step, Take):
                seen += await take(stream, step)
            elif isinstance(step, Drain):
                seen += await drain(stream)
            else:
                await stream.__aexit__(None, None, None)
                stream = await open_stream(stream.cursor).__aenter__()
        # what is left of a stream that does not follow may be before what was written after its end
        if stream.state == "ended":
            stream = await open_stream(stream.cursor).__aenter__()
        seen += await drain(stream)
        await stream.__aexit__(None, None, None)
        log = list((await space.read.log(limit=1_000)).items)
    names = (reading.sessions,) if isinstance(reading.sessions, str) else reading.sessions
    expected = [
        event
        for event in log
        if event.position > start
        and (names is None or event.session_id in names)
        and (reading.skipped or not isinstance(event.outcome, Skipped))
    ]
    assert [item for item in seen if isinstance(item, RecordedEvent)] == expected
    assert {type(item) for item in seen} <= {RecordedEvent, CaughtUp, Lagging}
    assert isinstance(seen[-1], CaughtUp | RecordedEvent)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(st.lists(writes, max_size=6), readings, scripts)
def test_a_stream_is_the_filter_of_the_log_after_its_cursor(before, reading, script):
    """Without gap, duplicate or reorder, however it is cut into pages, buffers, batches and connections."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.db"
        trio.run(play, path, before, reading, script, clock=trio.testing.MockClock(autojump_threshold=0))
