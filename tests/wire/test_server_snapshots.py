"""Beginning with a snapshot: the read model at a place in the log, in as many frames as it takes, then what follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from engine import Engine
from engine.events import MessageUpdated, PartDelta, PartUpdated, UsageRecorded
from tests.support.peers import Chain, Peer, peer, served, small


async def converse(engine: Engine, name: str, messages: int, size: int = 10) -> None:
    """A session with messages of text."""
    session = await engine.create_session(name)
    for n in range(messages):
        part = PartUpdated(f"p{n}", f"m{n}", "text", {"text": "x" * size})
        await session.append(MessageUpdated(f"m{n}", "user"), part, UsageRecorded(f"st{n}", f"m{n}", "small", 5, 1, 1))


async def snapshot(client: Peer, chain: Chain, **fields: Any) -> list[dict[str, Any]]:
    """Subscribe with a snapshot; its frames."""
    await client.send("subscribe", id="s", after="snapshot", **fields)
    chain.begin(await client.receive())
    frames = []
    while not frames or not frames[-1]["last"]:
        frames.append(await client.receive())
        assert frames[-1]["type"] == "snapshot"
        assert frames[-1]["cursor"] == chain.cursor or chain.cursor == "start"
    return frames


async def test_a_snapshot_and_what_follows_on_it(tmp_path: Path) -> None:
    """The last messages of the sessions asked for, with parts and usage, and every event after its cursor."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        await converse(engine, "a", 5)
        await converse(engine, "b", 1)
        chain = Chain()
        frames = await snapshot(client, chain, sessions=["b", "a"], messages=2)
        assert len(frames) == 1
        second, first = frames[0]["sessions"]
        assert [first["session"]["session_id"], second["session"]["session_id"]] == ["a", "b"]
        assert [message["message_id"] for message in first["messages"]] == ["m3", "m4"]
        assert first["messages"][1]["parts"][0]["data"] == {"text": "x" * 10}
        assert (first["more"], second["more"]) == (True, False)
        assert first["usage"]["own"]["cost_nanousd"] == 25
        head = frames[0]["cursor"]
        assert head == f"{engine.epoch}-{engine.statistics().head}"
        assert (await client.receive())["type"] == "caught_up"
        await (await engine.session("a")).append(MessageUpdated("m9", "user"))
        frame = await client.receive()
        assert (frame["after"], frame["events"][0]["event"]["message_id"]) == (head, "m9")


async def test_of_the_workspace_the_newest_sessions_without_messages(tmp_path: Path) -> None:
    """`messages` says how many of them; usage is there too; an empty workspace is one empty frame."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        empty = await snapshot(client, Chain())
        assert [(frame["sessions"], frame["last"]) for frame in empty] == [([], True)]
        await client.send("unsubscribe", id="s")
        await client.until(type="unsubscribed")
        for name in "abc":
            await converse(engine, name, 1)
        frames = await snapshot(client, Chain(), messages=2)
        found = frames[0]["sessions"]
        assert [entry["session"]["session_id"] for entry in found] == ["b", "c"]
        assert [(entry["messages"], entry["usage"]["own"]["steps"]) for entry in found] == [([], 1)] * 2


async def test_a_large_snapshot_comes_in_several_frames_of_one_place(tmp_path: Path) -> None:
    """Each frame is bounded, messages go on under their session, nothing is missing or twice."""
    async with served(tmp_path / "a.db", limits=small(events_bytes=20_000)) as (engine, server), peer(server) as client:
        for name in ("a", "b"):
            await converse(engine, name, 30, size=3_000)
        frames = await snapshot(client, Chain(), sessions=["a", "b"], messages=30)
        assert len(frames) > 5
        assert [frame["last"] for frame in frames] == [False] * (len(frames) - 1) + [True]
        assert len({frame["cursor"] for frame in frames}) == 1
        found: dict[str, list[str]] = {"a": [], "b": []}
        for frame in frames:
            assert len(str(frame)) < 30_000
            for entry in frame["sessions"]:
                found[entry["session"]["session_id"]].extend(view["message_id"] for view in entry["messages"])
        assert found == {name: [f"m{n}" for n in range(30)] for name in "ab"}


async def test_snapshot_and_tail_give_the_text_that_was_streamed(tmp_path: Path) -> None:
    """Taken at any moment of a stream of deltas, the snapshot's text with the deltas after it is the whole text."""
    async with served(tmp_path / "a.db") as (engine, server), trio.open_nursery() as nursery:
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text", {}))
        words = [f"{n} " for n in range(300)]

        async def stream() -> None:
            offset = 0
            for word in words:
                await session.append(PartDelta("p", "m", "text", offset, word))
                offset += len(word)

        async def read() -> None:
            async with peer(server) as client:
                chain = Chain()
                (frame,) = await snapshot(client, chain, sessions=["s"])
                text = frame["sessions"][0]["messages"][0]["parts"][0]["data"].get("text", "")
                while len(text) < len("".join(words)):
                    chain.take(frame := await client.receive())
                    for entry in frame.get("events", []):
                        assert entry["event"]["offset"] == len(text), "a delta is missing, or came twice"
                        text += entry["event"]["text"]
                assert text == "".join(words)

        nursery.start_soon(stream)
        for _ in range(10):
            nursery.start_soon(read)
            for _ in range(20):
                await trio.lowlevel.checkpoint()


async def test_a_snapshot_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    """An unknown session, or too much at once: an error, and the id is free."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        await converse(engine, "a", 1)
        for fields, code in (({"sessions": ["a", "x"]}, "unknown_session"), ({"messages": 10**6}, "invalid_argument")):
            answer = await client.ask("subscribe", id="s", after="snapshot", **fields)
            assert (answer["type"], answer["code"]) == ("error", code)
        assert len(await snapshot(client, Chain(), sessions=["a"])) == 1


async def test_an_unsubscribed_snapshot_is_no_place_to_go_on(tmp_path: Path) -> None:
    """Ended in the middle of its snapshot, `unsubscribed` has no cursor; the connection's next snapshot gets its turn."""
    async with served(tmp_path / "a.db", limits=small(events_bytes=10_000)) as (engine, server):
        await converse(engine, "a", 40, size=50_000)
        async with peer(server, receive_buffer=4_096) as client:
            await client.send("subscribe", id="s", after="snapshot", sessions=["a"])
            await client.send("subscribe", id="t", after="snapshot", sessions=["a"], messages=1)
            await client.until(id="s", type="snapshot")
            await client.send("unsubscribe", id="s")
            assert (await client.until(id="s", type="unsubscribed"))["cursor"] == ""
            assert (await client.until(id="t", type="snapshot"))["last"] is True
