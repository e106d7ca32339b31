"""Following the log over a socket: where it begins, what comes, how it goes on (promises 2 and 11)."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine import Engine, Session
from engine.errors import UnknownSessionError
from engine.events import PartDelta, SessionNoted, SessionStarted
from engine.events.model import Envelope
from engine.server import Grant, Server
from engine.server.following import Following
from engine.server.frames import Subscribe
from engine.server.protocol import ServerProtocol
from tests.support.engines import checked_engine
from tests.support.peers import Chain, note, peer, served, serving, small


async def noted(session: Session, *numbers: int) -> None:
    """Append events that are told apart by their number."""
    await session.append(*[SessionNoted(str(n), "test") for n in numbers])


def numbers(events: list[dict[str, Any]]) -> list[int]:
    """The numbers of noted events."""
    return [int(entry["event"]["note_id"]) for entry in events if entry["type"] == "session.noted"]


async def test_from_the_start_everything_comes_and_then_what_is_committed(tmp_path: Path) -> None:
    """`subscribed`, the log, `caught_up`, and each commit after that, every frame following on the one before it."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        session = await engine.create_session("s")
        await noted(session, 1, 2)
        await client.send("subscribe", id="s", after="start")
        chain = Chain()
        chain.begin(await client.receive())
        while (frame := await client.receive())["type"] != "caught_up":
            chain.take(frame)
        chain.take(frame)
        await noted(session, 3)
        chain.take(await client.receive())
        assert numbers(chain.events) == [1, 2, 3]
        assert [entry["seq"] for entry in chain.events] == [1, 2, 3, 4]


async def test_from_now_only_what_is_committed_later_comes(tmp_path: Path) -> None:
    """`now` begins after the last committed event."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        session = await engine.create_session("s")
        await noted(session, 1)
        begun = await client.ask("subscribe", id="s", after="now")
        assert begun["cursor"] == client.hello["head"].replace("-0", "-2")
        assert (await client.until(type="caught_up"))["cursor"] == begun["cursor"]
        await noted(session, 2)
        assert numbers(await client.events(1)) == [2]


async def test_an_event_arrives_as_the_log_has_it(tmp_path: Path) -> None:
    """Every field of an event, its outcome, and the delta's part, field and offset."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        session = await engine.create_session("s")
        async with session.turn() as turn, turn.message(role="assistant") as message:
            await message.text("Hello")
        await session.append(Envelope(SessionNoted("n", "test", {"ü": [1]}), "my-id", 12_345, "why"))
        view = await engine.read.message("s", message.id)
        late = await session.append(PartDelta(view.parts[0].part_id, message.id, "text", 5, "!"))
        await client.send("subscribe", id="s", after="start")
        events = []
        while (frame := await client.receive())["type"] != "caught_up":
            events.extend(frame.get("events", []))
        delta = next(entry for entry in events if entry["type"] == "part.delta")
        assert (delta["event"]["field"], delta["event"]["offset"], delta["event"]["text"]) == ("text", 0, "Hello")
        own = next(entry for entry in events if entry["event_id"] == "my-id")
        assert (own["occurred_at"], own["causation_id"], own["outcome"]) == (12_345, "why", "applied")
        assert own["event"] == {"note_id": "n", "kind": "test", "data": {"ü": [1]}}
        assert (events[-1]["outcome"], events[-1]["seq"]) == ("finished", late.seq)


async def test_a_cursor_begins_right_after_its_event(tmp_path: Path) -> None:
    """Each event's cursor is a place to go on from."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        session = await engine.create_session("s")
        await noted(session, 1, 2, 3)
        await client.send("subscribe", id="all", after="start")
        seen: list[dict[str, Any]] = []
        while (frame := await client.receive())["type"] != "caught_up":
            seen.extend(frame.get("events", []))
        for index, entry in enumerate(seen):
            begun = await client.ask("subscribe", id=f"s{index}", after=entry["cursor"])
            assert begun["cursor"] == entry["cursor"]
            rest: list[dict[str, Any]] = []
            while (frame := await client.receive())["type"] != "caught_up":
                rest.extend(frame["events"])
            assert rest == seen[index + 1 :]


async def test_one_session_several_or_the_workspace(tmp_path: Path) -> None:
    """A subscription names the sessions it wants; null is all of them, those to come included."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        sessions = {name: await engine.create_session(name) for name in "abc"}
        for name, wanted in (("one", ["a"]), ("two", ["a", "c"]), ("all", None)):
            await client.send("subscribe", id=name, sessions=wanted, after="now")
            await client.until(id=name, type="caught_up")
        for name in "abc":
            await noted(sessions[name], ord(name))
        await engine.create_session("d")
        seen: dict[str, list[str]] = {"one": [], "two": [], "all": []}
        while sum(map(len, seen.values())) < 7:
            frame = await client.until(type="events")
            seen[frame["id"]].extend(entry["session_id"] for entry in frame["events"])
        assert seen == {"one": ["a"], "two": ["a", "c"], "all": ["a", "b", "c", "d"]}


async def test_skipped_events_are_sent_unless_the_subscription_leaves_them_out(tmp_path: Path) -> None:
    """With `skipped` false only what changed something comes; the cursors still follow on."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        session = await engine.create_session("s")
        await session.remove()
        await noted(session, 1)
        await engine.create_session("s")
        for name, wanted, expected in (
            ("with", True, ["applied", "applied", "removed", "applied"]),
            ("without", False, None),
        ):
            await client.send("subscribe", id=name, after="start", skipped=wanted)
            chain = Chain()
            chain.begin(await client.receive())
            while (frame := await client.receive())["type"] != "caught_up":
                chain.take(frame)
            outcomes = [entry["outcome"] for entry in chain.events]
            assert outcomes == (expected or ["applied"] * 3)


async def test_after_unsubscribed_nothing_comes_and_the_id_is_free(tmp_path: Path) -> None:
    """`unsubscribed` says where to go on; the same id then follows from there without a gap, while events stream."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client, trio.open_nursery() as nursery:
        session = await engine.create_session("s")
        stop = trio.Event()

        async def write() -> None:
            n = 0
            while not stop.is_set():
                n += 1
                await noted(session, n)

        nursery.start_soon(write)
        chain, after = Chain(), "start"
        for _ in range(20):
            await client.send("subscribe", id="s", after=after)
            chain.begin(await client.receive())
            for _ in range(5):
                chain.take(await client.receive())
            # Sent together: the second subscription uses the id as soon as the server has read that it is free.
            await client.send("unsubscribe", id="s")
            while (frame := await client.receive())["type"] != "unsubscribed":
                chain.take(frame)
            assert frame["cursor"] == chain.cursor
            after = frame["cursor"]
        stop.set()
        assert numbers(chain.events) == list(range(1, len(numbers(chain.events)) + 1))


async def test_an_id_may_be_used_again_without_waiting_for_unsubscribed(tmp_path: Path) -> None:
    """The frames of the old subscription end before `unsubscribed`, those of the new one begin after it."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        session = await engine.create_session("s")
        await noted(session, *range(500))
        for _ in range(10):
            await client.send("subscribe", id="s", after="start")
            await client.send("unsubscribe", id="s")
            await client.send("subscribe", id="s", after="now")
            await client.send("unsubscribe", id="s")
            kinds = [(await client.receive())["type"]]
            while kinds.count("unsubscribed") < 2:
                kinds.append((await client.receive())["type"])
            assert "events" not in kinds[kinds.index("unsubscribed") :]


async def test_unsubscribe_from_nothing_is_answered(tmp_path: Path) -> None:
    """A subscription that has ended by itself a moment ago is no mistake of the client's."""
    async with served(tmp_path / "a.db") as (_, server), peer(server) as client:
        assert await client.ask("unsubscribe", id="x") == {"type": "unsubscribed", "id": "x", "cursor": ""}


@pytest.mark.parametrize("cursor", ["nonsense", "0-1", "ffffffffffff-7", "HEAD-99"])
async def test_a_cursor_that_this_log_cannot_have_given_is_refused_in_words(tmp_path: Path, cursor: str) -> None:
    """The answer is an error, no subscription is left, and the id is free."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        await engine.create_session("s")
        after = cursor.replace("HEAD", engine.epoch)
        for _ in range(2):
            answer = await client.ask("subscribe", id="s", after=after)
            assert (answer["type"], answer["code"], answer["written"]) == ("error", "cursor", "nothing")
        assert server.statistics().subscriptions == 0


async def test_what_is_replaced_ends_the_subscription_with_a_reset(tmp_path: Path) -> None:
    """Live and from a cursor: `reset` says what to do, and the subscription is over."""
    async with served(tmp_path / "a.db", engine_options={"dense": False}) as (engine, server), peer(server) as client:
        await engine.import_events("s", [Envelope(SessionStarted(), "e1"), Envelope(SessionNoted("1", "test"), "e2")])
        await client.send("subscribe", id="live", sessions=["s"], after="start")
        old = (await client.until(type="caught_up"))["cursor"]
        await engine.replace_imported("s", [Envelope(SessionStarted("new"), "e1"), Envelope(SessionNoted("2", "x"), "e3")])
        reset = await client.until(id="live", type="reset")
        assert reset["start"] == "start"
        assert (await client.ask("subscribe", id="later", sessions=["s"], after=old))["type"] == "subscribed"
        assert (await client.receive())["type"] == "reset"
        assert server.statistics().subscriptions == 0
        assert (await client.ask("subscribe", id="live", sessions=["s"], after="start"))["type"] == "subscribed"


async def follow(server: Server, chain: Chain, frames: int) -> None:
    """Follow for some frames, then break the connection, as a client on a bad line does."""
    async with peer(server) as client:
        await client.send("subscribe", id="s", after=chain.cursor)
        chain.begin(await client.receive())
        for _ in range(frames):
            chain.take(await client.receive())


async def test_no_gap_and_no_duplicate_across_disconnects_and_restarts(tmp_path: Path) -> None:
    """Readers that go on from their cursor see every event once and in order, over many connections, servers and epochs."""
    chance = random.Random(7)
    chains = [Chain() for _ in range(3)]
    for turn in range(4):
        async with checked_engine(tmp_path / "a.db") as engine, serving(engine, limits=small(events_max=3)) as server:
            try:
                session = await engine.session("s")
            except UnknownSessionError:
                session = await engine.create_session("s")
            base = (await session.append(SessionNoted(str(turn), "round"))).seq or 0

            async def write(session: Session = session, base: int = base) -> None:
                for n in range(60):
                    await noted(session, base + n)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                for chain in chains:
                    for _ in range(3):
                        await follow(server, chain, chance.randrange(1, 12))
    async with checked_engine(tmp_path / "a.db") as engine, serving(engine) as server, peer(server) as client:
        whole = [str(item.cursor) async for item in _log(engine)]
        for index, chain in enumerate(chains):
            await client.send("subscribe", id=f"s{index}", after=chain.cursor)
            chain.begin(await client.receive())
            while (frame := await client.receive())["type"] != "caught_up":
                chain.take(frame)
            assert [entry["cursor"] for entry in chain.events] == whole


async def _log(engine: Engine) -> Any:
    async with engine.log() as log:
        async for item in log:
            if hasattr(item, "seq"):
                yield item


async def test_an_event_is_encoded_once_for_everybody(tmp_path: Path) -> None:
    """Ten connections that follow cost one encoding an event."""
    async with served(tmp_path / "a.db") as (engine, server), trio.open_nursery() as nursery:
        session = await engine.create_session("s")
        ready, done = [trio.Event() for _ in range(10)], [trio.Event() for _ in range(10)]

        async def listen(index: int) -> None:
            async with peer(server) as client:
                await client.send("subscribe", id="s", after="now")
                await client.until(type="caught_up")
                ready[index].set()
                seen: list[dict[str, Any]] = []
                while len(seen) < 50:
                    seen.extend((await client.until(type="events"))["events"])
                assert numbers(seen) == list(range(50))
                done[index].set()

        for index in range(10):
            nursery.start_soon(listen, index)
        for event in ready:
            await event.wait()
        for n in range(50):
            await noted(session, n)
        for event in done:
            await event.wait()
        statistics = server.statistics()
        assert (statistics.encoded, statistics.encoded_again) == (50, 450)
        assert statistics.events_sent == 500


async def test_events_that_are_there_come_several_in_a_frame(tmp_path: Path) -> None:
    """Catching up, a frame has up to `events_max` events, and ends above `events_bytes`."""
    limits = small(events_max=10, events_bytes=5_000)
    async with served(tmp_path / "a.db", limits=limits) as (engine, server), peer(server) as client:
        session = await engine.create_session("s")
        await noted(session, *range(40))
        await session.append(*[SessionNoted(str(n), "test", {"text": "x" * 2_000}) for n in range(40, 50)])
        await client.send("subscribe", id="s", after="start")
        sizes: list[list[int]] = []
        while (frame := await client.receive())["type"] != "caught_up":
            if frame["type"] == "events":
                sizes.append([len(str(entry)) for entry in frame["events"]])
        assert max(len(frame_sizes) for frame_sizes in sizes) == 10
        assert all(sum(frame_sizes[:-1]) < 5_000 for frame_sizes in sizes)
        assert len(sizes) < 15


async def test_subscriptions_of_a_connection_are_limited(tmp_path: Path) -> None:
    """One more than `subscriptions_max` is refused with the limit's name; the others go on."""
    async with served(tmp_path / "a.db", limits=small(subscriptions_max=2)) as (engine, server), peer(server) as client:
        for name in ("a", "b"):
            await client.ask("subscribe", id=name)
            await client.until(id=name, type="caught_up")
        answer = await client.ask("subscribe", id="c")
        assert (answer["code"], answer["details"]["limit"]) == ("limit", "subscriptions_max")
        await client.ask("unsubscribe", id="a")
        assert (await client.ask("subscribe", id="c"))["type"] == "subscribed"
        await engine.create_session("s")
        assert {(await client.until(type="events"))["id"] for _ in range(2)} == {"b", "c"}


async def test_order_between_sessions_is_the_logs(tmp_path: Path) -> None:
    """A subscription to several sessions has them in position order, caught up and live."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        sessions = [await engine.create_session(f"s{n}") for n in range(5)]
        chance = random.Random(3)

        async def write(count: int) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(partial(noted, chance.choice(sessions), 1))

        await write(50)
        chain = Chain()
        await client.send("subscribe", id="s", sessions=["s0", "s1", "s2"], after="start")
        chain.begin(await client.receive())
        while (frame := await client.receive())["type"] != "caught_up":
            chain.take(frame)
        chain.take(frame)
        await write(50)
        await sessions[0].append(SessionNoted("last", "test"))
        while chain.events[-1]["event"].get("note_id") != "last":
            chain.take(await client.receive())
        assert {entry["session_id"] for entry in chain.events} == {"s0", "s1", "s2"}


async def test_a_client_that_only_reads_may_follow(tmp_path: Path) -> None:
    """A token to read is enough for subscriptions and reads."""
    async with served(tmp_path / "a.db", access="read") as (engine, server), peer(server) as client:
        await engine.create_session("s")
        await client.send("subscribe", id="s", after="start")
        assert len(await client.events(1)) == 1
        assert (await client.ask("read", session_id="s"))["type"] == "page"
        assert (await client.ask("append", session_id="s", events=[note(1)]))["code"] == "forbidden"


async def test_a_subscription_that_was_ended_says_nothing_under_its_id(tmp_path: Path) -> None:
    """Its turn to write may come after its end, when its id names another subscription already."""
    async with served(tmp_path / "a.db") as (engine, server):
        await engine.create_session("s")
        asked: list[str | None] = []
        turn = trio.Event()

        class Slow:
            protocol = ServerProtocol(small(), Grant())
            snapshots = trio.StrictFIFOLock()

            async def send(self, make: Callable[[], str | None]) -> bool:
                with trio.CancelScope(shield=True):
                    await turn.wait()
                asked.append(make())
                return True

        received = Slow.protocol.receive('{"type": "subscribe", "id": "s", "after": "start"}')
        assert isinstance(received, Subscribe)
        following = Following(server._shared, engine.workspace("default"), received, Slow())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(following.run)
            await trio.testing.wait_all_tasks_blocked()
            following.end()
            turn.set()
        assert asked == [None]
