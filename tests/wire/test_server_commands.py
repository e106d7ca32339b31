"""Commands over a socket: what they do, what their answers say, and what a retry, a disconnect or a neighbour changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.events import SessionNoted
from tests.support.engines import Gate, count_rows
from tests.support.peers import eventually, note, peer, served, small

MESSAGE = {"type": "message.updated", "event": {"message_id": "m", "role": "assistant"}}
PART = {"type": "part.updated", "event": {"part_id": "p", "message_id": "m", "kind": "text", "data": {}}}


def delta(offset: int, text: str) -> dict[str, Any]:
    """Streamed text of the part `p`."""
    fields = {"part_id": "p", "message_id": "m", "field": "text", "offset": offset, "text": text}
    return {"type": "part.delta", "event": fields}


def outcomes(receipt: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What a receipt says of each event."""
    return [(entry["event_id"], entry["seq"], entry["outcome"], entry["original"]) for entry in receipt["events"]]


async def test_a_session_lives_over_the_wire(tmp_path: Path) -> None:
    """create, open, append, post, flush, read, stop, remove: each answer has what the database assigned."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        created = await client.ask("create", id="c", session_id="s", title="t", metadata={"k": 1})
        assert (created["type"], created["session_id"], created["incarnation"]) == ("receipt", "s", 1)
        assert outcomes(created) == [("c", 1, "applied", None)]
        assert (await engine.read.session("s")).title == "t"
        assert await client.ask("open", id="o", session_id="s") == {
            "type": "opened",
            "id": "o",
            "session_id": "s",
            "incarnation": 1,
        }
        added = await client.ask("append", id="a", session_id="s", incarnation=1, events=[MESSAGE, PART], expected_seq=1)
        assert outcomes(added) == [("a.0", 2, "applied", None), ("a.1", 3, "applied", None)]
        await client.send("post", id="p1", session_id="s", events=[delta(0, "Hel")])
        await client.send("post", id="p2", session_id="s", events=[delta(3, "lo")])
        assert await client.ask("flush", id="f", session_id="s") == {"type": "flushed", "id": "f"}
        page = await client.ask("read", id="r", session_id="s")
        assert page["messages"][0]["parts"][0]["data"] == {"text": "Hello"}
        assert (page["more"], page["cursor"]) == (False, f"{engine.epoch}-5")
        assert await client.ask("stop", id="x", session_id="s") == {"type": "stopped", "id": "x", "stopped": False}
        gone = await client.ask("remove", id="m", session_id="s", message_id="m")
        assert outcomes(gone) == [("m", 6, "applied", None)]
        assert outcomes(await client.ask("remove", id="e", session_id="s")) == [("e", 7, "applied", None)]
        assert (await client.ask("open", session_id="s"))["code"] == "unknown_session"


async def test_own_event_ids_times_and_causes_are_kept(tmp_path: Path) -> None:
    """An event that brings an id of its own keeps it, also between others."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        await client.ask("create", session_id="s")
        own = {**note(1), "event_id": "own", "occurred_at": 5, "causation_id": "why"}
        receipt = await client.ask("append", id="a", session_id="s", events=[note(0), own, note(2)])
        assert [entry["event_id"] for entry in receipt["events"]] == ["a.0", "own", "a.2"]
        page = await engine.read.log(limit=10)
        assert (page.items[2].occurred_at, page.items[2].causation_id) == (5, "why")


@pytest.mark.parametrize("restart", [False, True])
async def test_a_command_sent_again_has_its_effect_once(tmp_path: Path, restart: bool) -> None:
    """create, append, post and remove answer `duplicate` with the first answer's numbers, also after a restart."""
    commands: list[tuple[str, dict[str, Any]]] = [
        ("create", {"id": "c", "session_id": "s"}),
        ("append", {"id": "a", "session_id": "s", "events": [note(1), note(2)], "expected_seq": 1}),
        ("post", {"id": "p", "session_id": "s", "events": [note(3)]}),
        ("remove", {"id": "r", "session_id": "s"}),
    ]
    first: dict[str, Any] = {}
    path = tmp_path / "a.db"
    async with served(path) as (_, server), peer(server) as client:
        for name, fields in commands:
            if name == "post":
                await client.send(name, **fields)
                await client.ask("flush", session_id="s")
            else:
                first[name] = await client.ask(name, **fields)
        if not restart:
            async with peer(server) as again:
                await _send_again(again, commands[1:], first)
    if restart:
        async with served(path) as (_, server), peer(server) as again:
            await _send_again(again, commands[1:], first)
    assert count_rows(path) == 5


async def _send_again(client: Any, commands: list[tuple[str, dict[str, Any]]], first: dict[str, Any]) -> None:
    for name, fields in commands:
        if name == "post":
            await client.send(name, **{**fields, "incarnation": 1})
            assert (await client.ask("flush", session_id="s", incarnation=1))["type"] == "flushed"
            continue
        answer = await client.ask(name, **fields)
        for entry, before in zip(answer["events"], first[name]["events"], strict=True):
            assert (entry["outcome"], entry["original"]) == ("duplicate", "applied")
            assert (entry["seq"], entry["position"]) == (before["seq"], before["position"])


async def test_create_sent_again_is_a_duplicate_and_another_one_an_error(tmp_path: Path) -> None:
    """The same id is the same session; another id finds that it exists."""
    async with served(tmp_path / "a.db") as (_, server), peer(server) as client:
        await client.ask("create", id="c", session_id="s", title="t")
        again = await client.ask("create", id="c", session_id="s", title="t")
        assert outcomes(again) == [("c", 1, "duplicate", "applied")]
        assert (await client.ask("create", id="other", session_id="s"))["code"] == "session_exists"
        changed = await client.ask("create", id="c", session_id="s", title="another")
        assert (changed["code"], changed["details"]["event_id"]) == ("duplicate_id", "c")


async def test_a_removed_session_is_unknown_to_new_commands(tmp_path: Path) -> None:
    """Without `incarnation` only what was written before the removal is answered; anything new is refused, unwritten."""
    path = tmp_path / "a.db"
    async with served(path) as (_, server), peer(server) as client:
        await client.ask("create", id="c", session_id="s")
        await client.ask("append", id="a", session_id="s", events=[note(1)])
        await client.ask("remove", id="r", session_id="s")
        assert (await client.ask("append", id="a", session_id="s", events=[note(1)]))["type"] == "receipt"
        for answer in (
            await client.ask("append", id="b", session_id="s", events=[note(2)]),
            await client.ask("remove", id="r2", session_id="s"),
            await client.ask("append", id="n", session_id="never", events=[note(2)]),
            await client.ask("flush", session_id="s"),
        ):
            assert (answer["code"], answer["written"]) == ("unknown_session", "nothing")
        late = await client.ask("append", id="late", session_id="s", incarnation=1, events=[note(3)])
        assert outcomes(late) == [("late", 4, "removed", None)]
    assert count_rows(path) == 4


async def test_refusals_carry_the_error_and_say_that_nothing_was_written(tmp_path: Path) -> None:
    """The engine's own errors, with their fields, by their codes."""
    async with served(tmp_path / "a.db") as (_, server), peer(server) as client:
        await client.ask("create", session_id="s")

        async def refusal(**fields: Any) -> tuple[str, str]:
            answer = await client.ask("append", session_id="s", **fields)
            assert answer["type"] == "error"
            assert answer["message"]
            return answer["code"], answer["written"]

        assert await refusal(events=[note(1)], expected_seq=7) == ("wrong_expected_seq", "nothing")
        assert await refusal(events=[{"type": "no.such", "event": {}}]) == ("unregistered_event", "nothing")
        assert await refusal(events=[{"type": "session.noted", "event": {"kind": 5}}]) == ("invalid_event", "nothing")
        assert await refusal(events=[PART]) == ("unknown_message", "nothing")
        assert await refusal(events=[]) == ("invalid_argument", "nothing")
        assert (await client.ask("append", session_id="s", events=[MESSAGE, PART]))["type"] == "receipt"
        assert await refusal(events=[delta(9, "x")]) == ("offset", "nothing")
        answer = await client.ask("append", session_id="s", events=[note(1)], expected_seq=9)
        assert answer["details"] == {"session_id": "s", "expected": 9, "found": 3}


async def test_an_append_is_atomic(tmp_path: Path) -> None:
    """One event that is refused lets none of its append be written."""
    path = tmp_path / "a.db"
    async with served(path) as (_, server), peer(server) as client:
        await client.ask("create", session_id="s")
        await client.ask("append", session_id="s", events=[note(1), PART, note(2)])
    assert count_rows(path) == 1


async def test_a_post_that_fails_is_told_with_its_id_before_the_flush_is_answered(tmp_path: Path) -> None:
    """`flush` says that everything before it is durable or was refused; the refusals have been told by then."""
    async with served(tmp_path / "a.db") as (_, server), peer(server) as client:
        await client.ask("create", session_id="s")
        await client.ask("append", session_id="s", events=[MESSAGE, PART])
        await client.send("post", id="good", session_id="s", events=[delta(0, "ab")])
        await client.send("post", id="bad", session_id="s", events=[delta(99, "x")])
        await client.send("post", id="also good", session_id="s", events=[delta(2, "c")])
        await client.send("flush", id="f", session_id="s")
        failure, flushed = await client.receive(), await client.receive()
        assert (failure["type"], failure["id"], failure["code"]) == ("error", "bad", "offset")
        assert flushed == {"type": "flushed", "id": "f"}
        assert (await client.ask("read", session_id="s"))["messages"][0]["parts"][0]["data"]["text"] == "abc"
        assert server.statistics().posts_failed == 1


async def test_a_removal_cannot_be_posted(tmp_path: Path) -> None:
    """It drains a turn, so it is a command of its own."""
    async with served(tmp_path / "a.db") as (_, server), peer(server) as client:
        await client.ask("create", session_id="s")
        answer = await client.ask("post", session_id="s", events=[{"type": "session.removed", "event": {}}])
        assert answer["code"] == "invalid_argument"


async def test_commands_for_one_session_take_effect_in_the_order_they_came(tmp_path: Path) -> None:
    """A hundred appends, posts and flushes sent without waiting are in the log as they were sent."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client:
        await client.send("create", id="c", session_id="s")
        for n in range(100):
            kind = "post" if n % 3 else "append"
            await client.send(kind, id=f"x{n}", session_id="s", events=[note(n)])
            if n % 10 == 0:
                await client.send("flush", id=f"f{n}", session_id="s")
        assert (await client.ask("flush", id="last", session_id="s"))["type"] == "flushed"
        page = await engine.read.log(session_id="s", limit=500)
        assert [item.event.note_id for item in page.items[1:]] == [str(n) for n in range(100)]


async def test_a_removal_that_waits_for_a_turn_holds_up_its_own_session_only(tmp_path: Path) -> None:
    """While a turn drains, the same connection's commands for other sessions are carried out, and `stop` is."""
    async with served(tmp_path / "a.db") as (engine, server), peer(server) as client, trio.open_nursery() as nursery:
        session = await engine.create_session("s")
        running, may_end = trio.Event(), trio.Event()

        async def agent() -> None:
            async with session.turn():
                running.set()
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await may_end.wait()

        nursery.start_soon(agent)
        await running.wait()
        await client.send("remove", id="r", session_id="s")
        await client.send("append", id="late", session_id="s", incarnation=1, events=[note(1)])
        assert (await client.ask("create", id="c", session_id="other"))["type"] == "receipt"
        await client.send("stop", id="x", session_id="s", incarnation=1)
        await client.send("append", id="a", session_id="other", events=[note(2)])
        assert (await client.receive())["id"] == "a"
        may_end.set()
        answers = {frame["id"]: frame for frame in [await client.receive() for _ in range(3)]}
        assert answers["x"] == {"type": "stopped", "id": "x", "stopped": True}
        assert outcomes(answers["r"])[0][2] == "applied"
        assert outcomes(answers["late"])[0][2] == "removed"


async def test_stop_does_not_wait_in_the_lane(tmp_path: Path) -> None:
    """A command that waits for the writer does not keep `stop` from cancelling the turn."""
    gate = Gate()
    async with served(tmp_path / "a.db", engine_options={"ports": gate.ports()}) as (engine, server):
        session = await engine.create_session("s")
        cancelled = trio.Event()
        async with peer(server) as client, trio.open_nursery() as nursery:

            async def agent() -> None:
                async with session.turn():
                    try:
                        await trio.sleep_forever()
                    finally:
                        cancelled.set()

            nursery.start_soon(agent)
            await trio.testing.wait_all_tasks_blocked()
            gate.close()
            await client.send("append", id="a", session_id="s", events=[note(1)])
            await client.send("stop", id="x", session_id="s")
            with trio.fail_after(10):
                await cancelled.wait()
            gate.open()
            assert {(await client.receive())["id"] for _ in range(2)} == {"a", "x"}


async def test_a_stop_that_is_sent_again_waits_with_the_first_and_stops_nothing_else(tmp_path: Path) -> None:
    """The same id on a new connection gets the first answer; the turn that began since goes on."""
    async with served(tmp_path / "a.db") as (engine, server), trio.open_nursery() as nursery:
        session = await engine.create_session("s")
        may_end = trio.Event()
        turns: list[str] = []

        async def agent(name: str, task_status: trio.TaskStatus[None]) -> None:
            async with session.turn():
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    turns.append(name)
                    with trio.CancelScope(shield=True):
                        await may_end.wait()

        await nursery.start(agent, "first")
        async with peer(server) as client:
            await client.send("stop", id="x", session_id="s")
            await eventually(lambda: bool(turns))
        async with peer(server) as client:
            await client.send("stop", id="x", session_id="s")
            await client.ask("create", session_id="other")
            may_end.set()
            assert (await client.until(id="x"))["stopped"] is True
            await nursery.start(agent, "second")
            assert (await client.ask("stop", id="x", session_id="s"))["stopped"] is True
            assert turns == ["first"]
            assert (await client.ask("stop", id="y", session_id="s"))["stopped"] is True
            assert turns == ["first", "second"]


async def test_a_disconnect_cancels_neither_a_turn_nor_a_command(tmp_path: Path) -> None:
    """What was read is carried out though nobody hears the answer; the session's turn goes on."""
    gate, path = Gate(), tmp_path / "a.db"
    async with served(path, engine_options={"ports": gate.ports()}) as (engine, server), trio.open_nursery() as nursery:
        session = await engine.create_session("s")
        ended = trio.Event()

        async def agent() -> None:
            async with session.turn():
                await ended.wait()
                await session.append(SessionNoted("turn", "test"))

        nursery.start_soon(agent)
        async with peer(server) as client:
            gate.close()
            for n in range(5):
                await client.send("append", id=f"a{n}", session_id="s", events=[note(n)])
            await eventually(lambda: server.statistics().commands >= 5)
        await eventually(lambda: not server.statistics().connections)
        assert server.statistics().commands == 5
        gate.open()
        await eventually(lambda: not server.statistics().commands)
        ended.set()
    assert count_rows(path) == 7


async def test_an_id_in_use_is_refused_and_free_after_its_answer(tmp_path: Path) -> None:
    """Two commands of a connection cannot have one id at a time; the first is not disturbed."""
    gate = Gate()
    async with served(tmp_path / "a.db", engine_options={"ports": gate.ports()}) as (_, server), peer(server) as client:
        await client.ask("create", session_id="s")
        gate.close()
        await client.send("append", id="a", session_id="s", events=[note(1)])
        await client.send("append", id="a", session_id="s", events=[note(2)])
        problem = await client.receive()
        assert (problem["id"], problem["code"]) == (None, "malformed_frame")
        gate.open()
        assert outcomes(await client.receive()) == [("a", 2, "applied", None)]
        assert outcomes(await client.ask("append", id="a", session_id="s", events=[note(1)]))[0][2] == "duplicate"


async def test_pages_go_back_through_a_conversation(tmp_path: Path) -> None:
    """`read` gives the newest messages, and `before` the ones before them."""
    async with served(tmp_path / "a.db") as (_, server), peer(server) as client:
        await client.ask("create", session_id="s")
        for n in range(5):
            announced = {"type": "message.updated", "event": {"message_id": f"m{n}", "role": "user"}}
            await client.ask("append", session_id="s", events=[announced])
        page = await client.ask("read", session_id="s", limit=2)
        assert ([view["message_id"] for view in page["messages"]], page["more"]) == (["m3", "m4"], True)
        page = await client.ask("read", session_id="s", limit=3, before=page["messages"][0]["key"])
        assert ([view["message_id"] for view in page["messages"]], page["more"]) == (["m0", "m1", "m2"], False)
        assert (await client.ask("read", session_id="s", limit=10**6))["code"] == "invalid_argument"
        assert (await client.ask("read", session_id="x"))["code"] == "unknown_session"


async def test_commands_wait_in_the_socket_while_too_many_are_on_their_way(tmp_path: Path) -> None:
    """Beyond `commands_max` nothing is read, and nothing refused; they are carried out as the others are answered."""
    gate = Gate()
    options = {"engine_options": {"ports": gate.ports()}, "limits": small(commands_max=3)}
    async with served(tmp_path / "a.db", **options) as (_, server), peer(server) as client:
        await client.ask("create", session_id="s")
        gate.close()
        for n in range(20):
            await client.send("append", id=f"a{n}", session_id="s", events=[note(n)])
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert server.statistics().commands == 3
        assert server.statistics().frames_received == 4
        gate.open()
        receipts = [await client.receive() for _ in range(20)]
        assert [receipt["id"] for receipt in receipts] == [f"a{n}" for n in range(20)]
        assert server.statistics().commands_refused == 0


async def test_an_answer_is_known_only_after_the_commit(tmp_path: Path) -> None:
    """While the writer is held back, no receipt and no event comes; the rows are there when the receipt is."""
    gate, path = Gate(), tmp_path / "a.db"
    async with served(path, engine_options={"ports": gate.ports()}) as (_, server), peer(server) as client:
        await client.ask("create", session_id="s")
        await client.ask("subscribe", id="s")
        await client.until(type="caught_up")
        gate.close()
        await client.send("append", id="a", session_id="s", events=[note(1)])
        with trio.move_on_after(0.1):
            raise AssertionError(await client.receive())
        assert count_rows(path) == 1
        gate.open()
        assert (await client.receive())["id"] in ("a", "s")
        assert count_rows(path) == 2
