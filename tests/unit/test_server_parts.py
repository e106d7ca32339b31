"""The server's pure pieces: signs of life, stops that are remembered, texts that are kept, frames on the wire."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage

from engine import Applied, Cursor
from engine.events import RecordedEvent, SessionNoted
from engine.limits import ServerLimits
from engine.server.frames import encode_event
from engine.server.pulse import Pulse, Seen
from engine.server.stopping import Stops
from engine.server.texts import Texts
from engine.server.wire import TEXT, Wire, close_frame, frame

LIMITS = ServerLimits(ping_s=10, stalled_s=30, idle_s=100)


def seen(**changes: Any) -> Seen:
    """A connection that was last heard when it began, with a subscription."""
    values: dict[str, Any] = {"heard_at": 0.0, "moved_at": 0.0, "sending_since": None, "listening": True, "busy": True}
    return Seen(**{**values, **changes})


# --- pulse --------------------------------------------------------------------------------------------


def test_a_ping_goes_out_every_ping_s_and_silence_after_it_ends_the_connection() -> None:
    """Nothing before, a ping at its time, the verdict one `ping_s` later; never before."""
    pulse = Pulse(LIMITS, 0)
    assert pulse.look(0, seen()) == (None, 10)
    assert pulse.look(9.9, seen()) == (None, 10)
    assert pulse.look(10, seen())[0] == "ping"
    assert pulse.look(10, seen()) == (None, 20)
    assert pulse.look(19.9, seen()) == (None, 20)
    assert pulse.look(20, seen())[0] == "silent"


def test_the_pulse_never_says_to_look_again_right_now():
    """At exactly the moment that it told, there is something to do: whatever a difference of two moments rounds to."""
    for began in (0.0, 0.44784314744584, 0.1, 1 / 3, 1e5 + 0.7):
        now, pulse = began, Pulse(LIMITS, began)
        for _ in range(20):
            verdict, due = pulse.look(now, seen(heard_at=now, busy=True))
            assert verdict is not None or due > now
            now = due


def test_whatever_is_heard_is_a_sign_of_life() -> None:
    """Any byte after the ping counts, and the next ping comes at its time."""
    pulse = Pulse(LIMITS, 0)
    assert pulse.look(10, seen())[0] == "ping"
    assert pulse.look(15, seen(heard_at=12)) == (None, 20)
    assert pulse.look(20, seen(heard_at=12))[0] == "ping"
    assert pulse.look(29, seen(moved_at=28.0)) == (None, 30)


def test_nobody_is_called_silent_whom_the_server_does_not_read() -> None:
    """However long the server does not listen, the pong's time begins when it does."""
    pulse = Pulse(LIMITS, 0)
    assert pulse.look(10, seen())[0] == "ping"
    for now in range(11, 500, 9):
        assert pulse.look(now, seen(listening=False))[0] is None
    assert pulse.look(500, seen())[0] is None
    assert pulse.look(520, seen())[0] == "silent"


def test_a_socket_that_takes_nothing_is_stalled_and_not_silent() -> None:
    """While something is being sent only `stalled_s` counts: the ping may be behind it."""
    pulse = Pulse(LIMITS, 0)
    assert pulse.look(10, seen())[0] == "ping"
    assert pulse.look(25, seen(sending_since=11.0)) == (None, 35)
    assert pulse.look(40.9, seen(sending_since=11.0))[0] is None
    assert pulse.look(41, seen(sending_since=11.0))[0] == "stalled"


def test_only_a_connection_with_nothing_to_do_is_idle() -> None:
    """Subscriptions and commands keep it; `idle_s` counts from the last of them, and from the last frame."""
    pulse = Pulse(LIMITS, 0)
    now = 0.0
    while now < 300:
        assert pulse.look(now, seen(heard_at=now))[0] in (None, "ping")
        now += 5
    pulse.active(300)
    verdicts = [pulse.look(now, seen(heard_at=now, busy=False))[0] for now in (395, 399)]
    assert "idle" not in verdicts
    assert pulse.look(400, seen(heard_at=400, busy=False))[0] == "idle"


# --- stops --------------------------------------------------------------------------------------------

KEY = ("default", "s", None, "x")


async def test_a_stop_is_carried_out_once_and_its_answer_kept() -> None:
    """Who asks while it runs waits with it, who asks later gets the answer, and another key is another stop."""
    stops, calls, go = Stops(10), 0, trio.Event()
    answers: list[bool] = []

    async def stop() -> bool:
        nonlocal calls
        calls += 1
        await go.wait()
        return True

    async def ask() -> None:
        answers.append(await stops.once(KEY, stop))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        go.set()
    await ask()
    assert (calls, answers) == (1, [True, True, True])
    assert await stops.once(("acme", "s", None, "x"), stop)
    assert calls == 2


async def test_a_stop_that_failed_or_was_cancelled_is_not_kept() -> None:
    """The one that waited with it stops anew."""
    stops, calls = Stops(10), 0

    async def fail() -> bool:
        nonlocal calls
        calls += 1
        await trio.lowlevel.checkpoint()
        raise KeyError

    async def succeed() -> bool:
        return False

    async def failing() -> None:
        with pytest.raises(KeyError):
            await stops.once(KEY, fail)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(failing)
        nursery.start_soon(failing)
    assert calls == 2
    with trio.move_on_after(0):
        await stops.once(KEY, fail)
    assert await stops.once(KEY, succeed) is False


async def test_only_so_many_stops_are_kept() -> None:
    """The oldest answers go first; one that runs is never forgotten."""
    stops, running = Stops(3), trio.Event()

    async def slow() -> bool:
        await running.wait()
        return True

    async def quick() -> bool:
        return True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stops.once, KEY, slow)
        await trio.testing.wait_all_tasks_blocked()
        for n in range(10):
            await stops.once(("w", "s", None, str(n)), quick)
        assert set(stops._stops) == {KEY, ("w", "s", None, "8"), ("w", "s", None, "9")}
        running.set()


# --- texts --------------------------------------------------------------------------------------------


def recorded(position: int, size: int = 10) -> RecordedEvent:
    """An event of the log."""
    event = SessionNoted("n", "test", {"text": "x" * size})
    return RecordedEvent(
        position=position,
        cursor=Cursor("a", position),
        workspace="w",
        session_id="s",
        incarnation=1,
        seq=position,
        type="session.noted",
        version=1,
        event=event,
        event_id="e",
        occurred_at=1,
        recorded_at=2,
        causation_id=None,
        outcome=Applied(),
        size_bytes=size,
    )


def test_an_event_is_encoded_once_and_what_is_kept_is_bounded() -> None:
    """The same text for the same position; the oldest are let go; one too large is never kept."""
    texts = Texts(2_000)
    assert texts.of(recorded(1)) == encode_event(recorded(1))
    assert texts.of(recorded(1)) is texts.of(recorded(1))
    assert (texts.made, texts.found) == (1, 2)
    for position in range(2, 100):
        texts.of(recorded(position))
        assert texts.size_bytes <= 2_000
    kept = texts.size_bytes
    assert len(texts.of(recorded(100, 5_000))) > 5_000
    assert texts.size_bytes == kept
    made = texts.made
    texts.of(recorded(99))
    assert texts.made == made
    texts.of(recorded(1))
    assert texts.made == made + 1


# --- wire ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 300_000])
def test_a_frame_is_what_the_library_would_have_sent(size: int) -> None:
    """Byte for byte, at every length of the header, also for text that is not ASCII."""
    text = ("ü" if size % 2 else "x") * size
    library = Connection(ConnectionType.SERVER)
    assert frame(TEXT, text.encode()) == library.send(TextMessage(data=text))


@pytest.mark.parametrize("reason", ["", "bye", "x" * 500, "ü" * 100, "€" * 50])
def test_a_close_frame_is_what_the_library_would_have_sent(reason: str) -> None:
    """The reason is cut at the same place, never within a character."""
    library = Connection(ConnectionType.SERVER)
    assert close_frame(4400, reason) == library.send(CloseConnection(code=4400, reason=reason))


async def test_what_is_said_is_decided_when_the_stream_is_free() -> None:
    """A text that was queued before a sender's turn goes first, and the sender then finds that it has nothing to say."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    wire = Wire(ours, heard_bytes_max=1_000)
    over = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.send, lambda: "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wire.send, lambda: None if over else "never")
        await trio.testing.wait_all_tasks_blocked()
        over = True
        wire.say("the end")
        expected = frame(TEXT, b"first") + frame(TEXT, b"the end")
        heard = b""
        while len(heard) < len(expected):
            heard += await theirs.receive_some()
        assert heard == expected


async def test_a_sender_that_is_cancelled_leaves_no_half_frame() -> None:
    """Waiting for its turn it writes nothing; writing, it writes all of it."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    wire = Wire(ours, heard_bytes_max=1_000)
    async with trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in range(3)]

        async def send(index: int) -> None:
            with scopes[index]:
                await wire.send(lambda: f"text {index}")

        for index in range(3):
            nursery.start_soon(send, index)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        expected = frame(TEXT, b"text 0") + frame(TEXT, b"text 2")
        heard = b""
        while len(heard) < len(expected):
            heard += await theirs.receive_some()
        assert heard == expected
    assert not wire.torn


async def test_a_stream_that_was_left_in_a_frame_is_never_written_again() -> None:
    """A flush that is cancelled half-way tears it: only hanging up is left."""
    ours, _theirs = trio.testing.lockstep_stream_pair()
    wire = Wire(ours, heard_bytes_max=1_000)
    wire.say("x" * 10)
    with trio.move_on_after(0.01):
        await wire.flush()
    assert wire.torn
    with pytest.raises(trio.ClosedResourceError):
        await wire.send(lambda: "more")
