"""A snapshot put together from frames."""

from __future__ import annotations

import msgspec
import pytest

from engine.client.following import ReadModelArrived, ViolationError
from engine.client.snapshot import snapshot_of
from engine.events import Cursor
from engine.projections import (
    MessageView,
    PartView,
    ReadSnapshot,
    SessionSnapshot,
    SessionView,
    ToolView,
    UsageReport,
    UsageTotals,
)
from engine.server import frames

NOTHING = UsageReport(own=UsageTotals(), unattributed=UsageTotals(), children=UsageTotals(), by_model={})


def part(session, messages=(), *, more=False, usage=NOTHING):
    """A session as a snapshot's frame has it."""
    return frames.WireSession(
        session=raw(session),
        messages=[raw(view) for view in messages],
        more=more,
        usage=raw(usage),
    )


def raw(view):
    """A view as the server writes it."""
    return msgspec.Raw(frames.encode_part(view).encode())


def session(key):
    """A session."""
    return SessionView(
        key=key,
        session_id=f"s{key}",
        incarnation=1,
        title="é",
        parent_id=None,
        metadata={"a": [1]},
        created_at=1,
        updated_at=2,
    )


def message(key):
    """A message with a part that is a tool call."""
    tool = ToolView(
        call_id="c",
        name="bash",
        state="running",
        settled_by="owner",
        input={"x": None},
        output="text",
        error=None,
        child_session_id=None,
        started_at=1,
        ended_at=None,
    )
    view = PartView(key=key, part_id="p", kind="tool", data={"text": "x"}, tool=tool, created_at=1, updated_at=1)
    return MessageView(
        key=key,
        message_id=f"m{key}",
        role="user",
        status=None,
        finish_reason=None,
        settled_by=None,
        metadata={},
        parts=(view,),
        created_at=1,
        updated_at=1,
    )


def test_parts_that_continue_a_session_are_one_session_again():
    """Every view is equal to the one that the server had; what comes under the same session is in its order."""
    usage = UsageReport(
        own=UsageTotals(steps=1), unattributed=UsageTotals(), children=UsageTotals(), by_model={"m": UsageTotals()}
    )
    parts = (
        part(session(1), [message(1), message(2)], more=True, usage=usage),
        part(session(1), [message(3)], more=True, usage=usage),
        part(session(2)),
    )
    assert snapshot_of(ReadModelArrived(Cursor("a", 9), parts, True)) == ReadSnapshot(
        more=True,
        cursor=Cursor("a", 9),
        sessions=(
            SessionSnapshot(session=session(1), messages=(message(1), message(2), message(3)), more=True, usage=usage),
            SessionSnapshot(session=session(2), messages=(), more=False, usage=NOTHING),
        ),
    )


def test_a_part_that_is_no_view_is_told_in_words():
    """A server that breaks the protocol is no crash in the reader."""
    broken = frames.WireSession(session=msgspec.Raw(b'{"key":"x"}'), messages=[], more=False, usage=raw(NOTHING))
    with pytest.raises(ViolationError, match="a snapshot: "):
        snapshot_of(ReadModelArrived(Cursor("a", 9), (broken,), False))
