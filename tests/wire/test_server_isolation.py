"""A token is bound to one workspace: what its connection sees, changes and acknowledges (promise 15)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from engine import Engine
from engine.events import MessageUpdated, PartUpdated
from engine.server import Token
from tests.support.engines import count_rows
from tests.support.peers import Peer, note, peer, served

ACME, OTHER = "a-token-of-acme-only", "a-token-of-the-others"
TOKENS = (Token(ACME, "acme"), Token(OTHER, "other"))


async def fill(engine: Engine) -> None:
    """Both workspaces have a session `s` with a message `m`; the other one has a session of its own as well."""
    for name in ("acme", "other"):
        workspace = engine.workspace(name)
        session = await workspace.create_session("s", title=name, event_id="create")
        await session.append(MessageUpdated("m", "user"), PartUpdated("p", "m", "text", {"text": name}))
    await engine.workspace("other").create_session("secret")


async def everything(client: Peer, **fields: Any) -> list[dict[str, Any]]:
    """All events that a subscription from the start finds."""
    await client.send("subscribe", id="all", after="start", **fields)
    found: list[dict[str, Any]] = []
    while (frame := await client.receive())["type"] != "caught_up":
        assert frame["type"] in ("subscribed", "events")
        found.extend(frame.get("events", []))
    return found


async def test_nothing_of_another_workspace_is_ever_seen(tmp_path: Path) -> None:
    """The log, named sessions, pages, and what is committed while following: only the token's workspace."""
    async with served(tmp_path / "a.db", tokens=TOKENS) as (engine, server), peer(server, token=ACME) as client:
        await fill(engine)
        seen = await everything(client)
        assert [entry["seq"] for entry in seen] == [1, 2, 3]
        assert {entry["session_id"] for entry in seen} == {"s"}
        assert "other" not in str(seen)
        await client.ask("unsubscribe", id="all")
        assert await everything(client, sessions=["secret"]) == []
        page = await client.ask("read", session_id="s")
        assert page["messages"][0]["parts"][0]["data"]["text"] == "acme"
        for command in ("open", "read"):
            assert (await client.ask(command, session_id="secret"))["code"] == "unknown_session"
        await client.ask("subscribe", id="live")
        await client.until(id="live", type="caught_up")
        await (await engine.workspace("other").session("s")).append(MessageUpdated("m2", "user"))
        await (await engine.workspace("acme").session("s")).append(MessageUpdated("m3", "user"))
        entry = (await client.until(type="events"))["events"][0]
        assert entry["event"]["message_id"] == "m3"


async def test_nothing_of_another_workspace_can_be_changed(tmp_path: Path) -> None:
    """Commands for ids that both have go to the token's own; ids that only the other has are unknown."""
    path = tmp_path / "a.db"
    async with served(path, tokens=TOKENS) as (engine, server), peer(server, token=ACME) as client:
        await fill(engine)
        before = count_rows(path)
        for command, fields in (
            ("append", {"events": [note(1)]}),
            ("append", {"events": [note(1)], "incarnation": 1}),
            ("post", {"events": [note(1)]}),
            ("flush", {}),
            ("stop", {}),
            ("remove", {}),
            ("remove", {"message_id": "m"}),
        ):
            answer = await client.ask(command, session_id="secret", **fields)
            assert (answer["code"], answer["written"]) == ("unknown_session", "nothing")
        assert count_rows(path) == before
        assert (await client.ask("remove", session_id="s"))["events"][0]["outcome"] == "applied"
        assert (await engine.workspace("other").read.session("s")).title == "other"
        assert (await client.ask("create", session_id="secret"))["incarnation"] == 1
        assert (await engine.workspace("other").read.session("secret")).incarnation == 1


async def test_nothing_of_another_workspace_is_acknowledged(tmp_path: Path) -> None:
    """The same command, session and event ids in two workspaces never answer for each other."""
    both = served(tmp_path / "a.db", tokens=TOKENS)
    async with both as (_, server), peer(server, token=ACME) as acme, peer(server, token=OTHER) as other:
        for client in (acme, other):
            created = await client.ask("create", id="c", session_id="s")
            assert created["events"][0]["outcome"] == "applied"
        for client in (acme, other):
            answer = await client.ask("append", id="a", session_id="s", events=[note(1)])
            assert (answer["events"][0]["outcome"], answer["events"][0]["seq"]) == ("applied", 2)


async def test_a_turn_of_another_workspace_is_not_stopped_and_not_answered_for(tmp_path: Path) -> None:
    """`stop` with the ids of a neighbour's turn stops nothing, and its answer is not the neighbour's."""
    async with served(tmp_path / "a.db", tokens=TOKENS) as (engine, server), trio.open_nursery() as nursery:
        await fill(engine)
        session = await engine.workspace("other").session("s")
        ended = trio.Event()

        async def agent(task_status: trio.TaskStatus[None]) -> None:
            try:
                async with session.turn():
                    task_status.started()
                    await trio.sleep_forever()
            finally:
                ended.set()

        await nursery.start(agent)
        async with peer(server, token=ACME) as acme, peer(server, token=OTHER) as other:
            assert (await acme.ask("stop", id="x", session_id="s"))["stopped"] is False
            assert not ended.is_set()
            assert (await other.ask("stop", id="x", session_id="s"))["stopped"] is True
            assert ended.is_set()
            assert (await acme.ask("stop", id="x", session_id="s"))["stopped"] is False


async def test_cursors_of_one_workspace_show_nothing_of_another(tmp_path: Path) -> None:
    """A cursor is a place in the whole log, but what follows on it is the token's own."""
    async with served(tmp_path / "a.db", tokens=TOKENS) as (engine, server):
        await fill(engine)
        async with peer(server, token=OTHER) as other, peer(server, token=ACME) as acme:
            cursors = [entry["cursor"] for entry in await everything(other)]
            for index, cursor in enumerate(cursors):
                await acme.send("subscribe", id=f"s{index}", after=cursor)
                while (frame := await acme.receive())["type"] != "caught_up":
                    assert "other" not in str(frame)
                    assert "secret" not in str(frame)
