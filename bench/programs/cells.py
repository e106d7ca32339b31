"""A variable that several actors share, with a decision point before each access.

Owns: nothing but the value. Must not know: who shares it, or which schedule runs.
Invariants: one access is one decision point; what follows the point up to the next await happens at once.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Generic, TypeVar

import trio

from engine.simulation import point

Value = TypeVar("Value")


class Cell(Generic[Value]):
    """A shared variable whose every read and write is a place where the scheduler may let others run first."""

    def __init__(self, name: str, value: Value) -> None:
        self.name = name
        self.value = value
        """The value without a decision point: for one place that reads and writes at once."""

    async def get(self) -> Value:
        """The value, after a decision point that names the read. Cancelled at the point: nothing was read."""
        await point(f"read {self.name}", reads=(self.name,))
        return self.value

    async def set(self, value: Value) -> None:
        """Change the value, after a decision point that names the write. Cancelled at the point: nothing changed."""
        await point(f"write {self.name}", writes=(self.name,))
        self.value = value


async def add(cell: Cell[int], amount: int) -> None:
    """Add to a cell by a read and a write, between which others may run."""
    await cell.set(await cell.get() + amount)


async def add_at_once(cell: Cell[int], amount: int) -> int:
    """Add to a cell as one atomic step; returns the new value."""
    await point(f"add {cell.name}", reads=(cell.name,), writes=(cell.name,))
    cell.value += amount
    return cell.value


def guard(lock: trio.Lock, held: bool) -> AbstractAsyncContextManager[None]:
    """The lock, or nothing: what a program leaves out when it is to have its bug."""
    return lock if held else nullcontext()
