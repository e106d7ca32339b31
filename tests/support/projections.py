"""Users' events and projections that tests embed."""

from __future__ import annotations

import attrs

from engine import event, projection
from engine.events import PartDelta, SessionRewound, SessionStarted


@event("chat.opened", version=1)
@attrs.frozen
class ChatOpened:
    """A chat began."""

    chat_id: str
    title: str = ""


@event("chat.counted", version=1)
@attrs.frozen
class ChatCounted:
    """Something was counted in a chat."""

    chat_id: str
    by: int = 1


@projection(
    "chats",
    version=1,
    tables={"chats": "id TEXT PRIMARY KEY, session_id TEXT NOT NULL, title TEXT NOT NULL, n INTEGER NOT NULL DEFAULT 0"},
)
class Chats:
    """A raw INSERT and a delta: both are wrong if they ever run twice."""

    def opened(self, tx, event: ChatOpened, recorded) -> None:
        tx.execute(
            "INSERT INTO {chats}(id, session_id, title) VALUES(?, ?, ?)", (event.chat_id, recorded.session_id, event.title)
        )

    def counted(self, tx, event: ChatCounted, recorded) -> None:
        tx.execute("UPDATE {chats} SET n = n + ? WHERE id = ?", (event.by, event.chat_id))


@projection("totals", version=1, scope="global", tables={"totals": "name TEXT PRIMARY KEY, n INTEGER NOT NULL"})
class Totals:
    """A global projection over built-in events: sessions started and characters streamed."""

    def started(self, tx, event: SessionStarted, recorded) -> None:
        self._add(tx, "sessions", 1)

    def streamed(self, tx, event: PartDelta, recorded) -> None:
        self._add(tx, "chars", len(event.text))

    def rewound(self, tx, event: SessionRewound, recorded) -> None:
        raise NotImplementedError

    def _add(self, tx, name: str, n: int) -> None:
        tx.execute("INSERT INTO {totals} VALUES(?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (name, n))


OWN = {"events": (ChatOpened, ChatCounted), "projections": (Chats, Totals)}
