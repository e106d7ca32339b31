"""A snapshot as it came over the wire, put together: the same record as `engine.read.snapshot` gives.

Owns: the read model of sessions at one position, made of frames. Must not know: sockets.
"""

from __future__ import annotations

from typing import Final

import attrs
import msgspec

from engine.client.following import ReadModelArrived, ViolationError
from engine.projections.views import MessageView, ReadSnapshot, SessionSnapshot, SessionView, UsageReport

_session: Final = msgspec.json.Decoder(SessionView)
_message: Final = msgspec.json.Decoder(MessageView)
_usage: Final = msgspec.json.Decoder(UsageReport)


def snapshot_of(arrived: ReadModelArrived) -> ReadSnapshot:
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
            usage = _usage.decode(part.usage)
            sessions.append(SessionSnapshot(session=session, messages=messages, more=part.more, usage=usage))
    except ValueError as problem:
        raise ViolationError(f"a snapshot: {problem}") from None
    return ReadSnapshot(sessions=tuple(sessions), more=arrived.more, cursor=arrived.cursor)
