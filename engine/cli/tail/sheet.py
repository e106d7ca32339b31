"""The sheet that a transcript is written on: lines, headers, text that streams into a line, and who stands where.

Owns: when a line ends, when a header is due, what makes text safe. Must not know: events.
Invariants: what stands in a line is of one message, part and field; a line that something else follows is ended first;
nothing leaves with control characters in it.
"""

from __future__ import annotations

from typing import Final

import attrs

from engine.cli import output

ROLE_STYLES: Final = {"user": "bold cyan", "assistant": "bold green", "system": "bold magenta"}
STATE_STYLES: Final = {"completed": "green", "error": "red", "aborted": "yellow", "running": "blue", "pending": "blue"}
LEADS: Final = {"reasoning": "~ ", "input": "    ← ", "output": "    → "}

NEWLINE: Final = "\n"
NEWLINE_PICTURE: Final = "\u240a"

Name = tuple[str, int, str]
"""Session, incarnation, message."""


@attrs.frozen
class Piece:
    """A stretch of text in one style (a name of rich's; empty: none)."""

    text: str
    style: str = ""


class Sheet:
    """Takes what is to be written, and gives it away in pieces. `many`: headers say which session it is."""

    def __init__(self, *, many: bool) -> None:
        self._many = many
        self._session = ""
        self._current: Name | None = None
        """The message whose header was the last one."""
        self._open: tuple[Name, str, str] | None = None
        """The message, part and field whose text the last line is a part of."""
        self._mid_line = False
        self._pieces: list[Piece] = []

    def take(self) -> list[Piece]:
        """What was written since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def put(self, text: str, style: str = "") -> None:
        """Go on where the sheet stands."""
        if text:
            cleaned = output.clean(text)
            self._pieces.append(Piece(cleaned, style))
            self._mid_line = not cleaned.endswith("\n")

    def end_line(self) -> None:
        """Leave the line that something streams into."""
        if self._mid_line:
            self.put("\n")
        self._open = None

    def line(self, text: str, style: str = "") -> None:
        """A line of its own. What breaks lines in it (an id may) becomes visible: nothing can pose as another line."""
        self.end_line()
        self.put(f"{text.replace(NEWLINE, NEWLINE_PICTURE)}\n", style)

    def session(self, session_id: str) -> None:
        """What follows is of this session."""
        if self._many and session_id != self._session:
            self.end_line()
            self.put(f"── {word(session_id)}\n", "bold")
            self._current = None
        self._session = session_id

    def header(self, name: Name, role: str, moment: str) -> None:
        """What follows is of this message."""
        self.session(name[0])
        self.end_line()
        self.put(f"● {output.one_line(role, 40) or 'message'}", ROLE_STYLES.get(role, "bold"))
        self.put(f"  {moment}  {word(name[2])}\n", "dim")
        self._current = name

    def at(self, name: Name, role: str) -> None:
        """Stand inside of this message: its header again, where the last one was another's."""
        if self._current != name or (self._many and self._session != name[0]):
            self.header(name, role, "…")

    def leave(self) -> None:
        """Whatever comes next gets a header."""
        self._current = None

    def stream(self, name: Name, part_id: str, field: str, kind: str, *, begun: bool) -> str:
        """Stand at the end of a text of a part, to go on with it; `begun`: some of it was shown. Returns its style."""
        style = "dim italic" if kind == "reasoning" else "dim" if field == "output" else ""
        if self._open != (name, part_id, field):
            self.end_line()
            self.put(LEADS.get(field, LEADS.get(kind, "")), style)
            if begun:
                self.put("… ", "dim")
            self._open = (name, part_id, field)
        return style


def word(text: str) -> str:
    """An id on the line of something else."""
    return output.one_line(text, 100)
