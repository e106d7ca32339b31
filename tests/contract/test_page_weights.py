"""What is beside the texts of messages weighs as well: pages and snapshots stay bounded (promise 12)."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import InvalidArgumentError
from engine.events import MessageUpdated
from engine.limits import Limits
from tests.support.engines import checked_engine

LIMITS = Limits(page_bytes_max=10_000)
LARGE = {"note": "x" * 4_000}


async def test_pages_and_snapshots_of_messages_count_their_metadata(tmp_path: Path) -> None:
    """Messages with large metadata and no parts: a page ends with the one that reaches its bytes, and says that there is
    more; so does a snapshot."""
    async with checked_engine(tmp_path / "a.db", limits=LIMITS) as engine:
        session = await engine.create_session("s")
        for index in range(6):
            await session.append(MessageUpdated(f"m{index}", "user", LARGE))
        page = await engine.read.messages("s")
        assert ([view.message_id for view in page.items], page.more) == (["m3", "m4", "m5"], True)
        page = await engine.read.messages("s", before=page.items[0].key)
        assert ([view.message_id for view in page.items], page.more) == (["m0", "m1", "m2"], False)
        found = (await engine.read.snapshot("s")).sessions[0]
        assert ([view.message_id for view in found.messages], found.more) == (["m3", "m4", "m5"], True)


async def test_pages_and_snapshots_of_sessions_count_their_metadata(tmp_path: Path) -> None:
    """Sessions with large metadata: a page and a list of the workspace end with the one that reaches their bytes; of
    named ones, of which none may be left out, more than fit are refused."""
    async with checked_engine(tmp_path / "a.db", limits=LIMITS) as engine:
        for index in range(5):
            await engine.create_session(f"s{index}", metadata=LARGE)
        page = await engine.read.sessions()
        assert ([view.session_id for view in page.items], page.more) == (["s2", "s3", "s4"], True)
        listed = await engine.read.snapshot()
        assert ([found.session.session_id for found in listed.sessions], listed.more) == (["s2", "s3", "s4"], True)
        assert len((await engine.read.snapshot(["s0", "s1"])).sessions) == 2
        with pytest.raises(InvalidArgumentError, match="name fewer"):
            await engine.read.snapshot(["s0", "s1", "s2"])
