"""Why a guarded write changed no row: the questions asked after the fact, shared by messages, parts and tools.

Owns: tombstones (what was removed by name, so that late writes to it are told from writes to what never was).
Must not know: what the write wanted to change.
Invariants: a tombstone is written in the transaction of the removal and never deleted before its session.
"""

from __future__ import annotations

from typing import Literal

import attrs

from engine.errors import UnknownMessageError
from engine.events import Skipped
from engine.projections.definition import Recording
from engine.store import Tx

TABLES = {
    "tombstone": (
        "session_key INTEGER NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, reason TEXT NOT NULL, "
        "UNIQUE(session_key, kind, id)"
    )
}


@attrs.frozen
class MessageState:
    """What decides over a write to a message."""

    key: int
    role: str
    status: str | None
    settled_by: str | None


def bury(tx: Tx, recorded: Recording, kind: Literal["message", "part"], name: str) -> None:
    """Remember that this message or part was removed by name."""
    tx.execute(
        "INSERT INTO {tombstone} VALUES(?, ?, ?, 'removed') ON CONFLICT DO NOTHING", (recorded.session_key, kind, name)
    )


def buried(tx: Tx, recorded: Recording, kind: Literal["message", "part"], name: str) -> str | None:
    """The reason on its tombstone: `removed` or `rewound`; None when it was never removed."""
    row = tx.one(
        "SELECT reason FROM {tombstone} WHERE session_key = ? AND kind = ? AND id = ?", (recorded.session_key, kind, name)
    )
    return None if row is None else row[0]


def find_message(tx: Tx, recorded: Recording, message_id: str) -> MessageState | None:
    """The message's row, or None."""
    row = tx.one(
        "SELECT key, role, status, settled_by FROM {message} WHERE session_key = ? AND message_id = ?",
        (recorded.session_key, message_id),
    )
    return None if row is None else MessageState(*row)


def message_for_part(tx: Tx, recorded: Recording, message_id: str, part_id: str) -> MessageState | Skipped:
    """The message that a write to its part needs, or the skip that the write gets.

    Raises `UnknownMessageError` when the message was never announced.
    """
    message = find_message(tx, recorded, message_id)
    if message is None:
        reason = buried(tx, recorded, "message", message_id)
        if reason is None:
            raise UnknownMessageError(recorded.session_id, f"message {message_id!r}")
        return Skipped("rewound") if reason == "rewound" else Skipped("orphan_part")
    reason = buried(tx, recorded, "part", part_id)
    if reason is not None:
        return Skipped("rewound") if reason == "rewound" else Skipped("removed")
    return message


def missing_message(tx: Tx, recorded: Recording, message_id: str) -> Skipped:
    """The skip of a write to a message that has no row, or `UnknownMessageError`."""
    reason = buried(tx, recorded, "message", message_id)
    if reason is None:
        raise UnknownMessageError(recorded.session_id, f"message {message_id!r}")
    return Skipped("rewound") if reason == "rewound" else Skipped("removed")


def is_settled(status: str | None) -> bool:
    """Whether a status is terminal. NULL is not: nobody knows."""
    return status in ("completed", "aborted", "error")
