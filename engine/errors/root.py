"""The root of every error, and what each error says about its effect."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import attrs

NOTHING = "nothing was written"
UNKNOWN = "whether it was written is unknown until the file is opened again"

Written = Literal["nothing", "unknown"]


@attrs.define(slots=False, eq=False, str=False)
class EngineError(Exception):
    """The root of every error that the engine raises on purpose."""

    written: ClassVar[Written] = "nothing"

    def describe(self) -> str:
        """The message without its effect."""
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.describe()}; {NOTHING if self.written == 'nothing' else UNKNOWN}"

    def clone(self) -> Self:
        """A fresh instance with the same fields and without traceback, cause or context."""
        return attrs.evolve(self)
