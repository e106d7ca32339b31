"""A snapshot of the read model, cut into frames.

Owns: what goes into which frame. Must not know: sockets, how a snapshot is read.
Invariants: every session stands in a frame, also one without messages; messages keep their order; a frame ends with the
message that reaches its bound; the last frame, and only it, says so.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.server import frames
from engine.server.served import ServedSnapshot

Part = tuple[list[frames.WireSession], bool]
"""The sessions of a frame, and whether it is the last."""


def parts(snapshot: ServedSnapshot, *, bytes_max: int) -> Iterator[Part]:
    """The frames of a snapshot. Each is encoded when it is asked for, so a slow reader costs one frame."""
    waiting: list[frames.WireSession] | None = None
    for part in _cut(snapshot, bytes_max):
        if waiting is not None:
            yield waiting, False
        waiting = part
    yield waiting or [], True


def _cut(snapshot: ServedSnapshot, bytes_max: int) -> Iterator[list[frames.WireSession]]:
    part: list[frames.WireSession] = []
    size = 0
    for found in snapshot.sessions:
        head = _raw(found.session)
        usage = _raw(found.usage)
        frame_of_session = frames.WireSession(session=head, messages=[], more=found.more, usage=usage)
        part.append(frame_of_session)
        size += len(head)
        for message in found.messages:
            if size >= bytes_max:
                yield part
                frame_of_session = frames.WireSession(session=head, messages=[], more=found.more, usage=usage)
                part, size = [frame_of_session], len(head)
            view = _raw(message)
            frame_of_session.messages.append(view)
            size += len(view)
        if size >= bytes_max:
            yield part
            part, size = [], 0
    if part:
        yield part


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(frames.encode_part(value).encode())
