"""A snapshot as it came over the wire, put together.

Owns: the read model of sessions at one position, made of frames. Must not know: sockets.
"""

from __future__ import annotations

from typing import Final

import attrs
import msgspec

from engine.client.following import ReadModelArrived, ViolationError
from engine.events import Cursor
from engine.projections.views import MessageView, SessionView, UsageReport

_session: Final = msgspec.json.Decoder(SessionView)
_message: Final = msgspec.json.Decoder(MessageView)


@attrs.frozen(kw_only=True)
class SessionSnapshot:
    """A session with its newest messages, oldest first. `more`: there are older ones. `usage`: what it has used itself;
    None in a snapshot of the workspace."""

    session: SessionView
    messages: tuple[MessageView, ...]
    more: bool
    usage: UsageReport | None


@attrs.frozen(kw_only=True)
class Snapshot:
    """The read model at `cursor`; what follows in the log follows on it."""

    cursor: Cursor
    sessions: tuple[SessionSnapshot, ...]


def snapshot_of(arrived: ReadModelArrived) -> Snapshot:
    """The snapshot of its parts. Raises `ViolationError`."""
    sessions: list[SessionSnapshot] = []
    try:
        for part in arrived.sessions:
            session = _session.decode(part.session)
            messages = tuple(map(_message.decode, part.messages))
            if sessions and sessions[-1].session.key == session.key:
                last = sessions[-1]
                sessions[-1] = attrs.evolve(last, messages=(*last.messages, *messages))
                continue
            usage = None if part.usage is None else msgspec.convert(part.usage, UsageReport)
            sessions.append(SessionSnapshot(session=session, messages=messages, more=part.more, usage=usage))
    except ValueError as problem:
        raise ViolationError(f"a snapshot: {problem}") from None
    return Snapshot(cursor=arrived.cursor, sessions=tuple(sessions))
