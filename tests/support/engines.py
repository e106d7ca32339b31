"""Engines for tests: opened with small delays, and checked after they were closed; and a gate before the writer.

The gate makes the order in which commands reach the writer, and how they are cut into batches, the test's choice: the
writer's task stops before its SQL step until the gate lets it through. Nothing sleeps and no thread is used.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import apsw
import attrs
import trio
import trio.testing

from engine import Engine, Receipt, open_engine
from engine.ports import Ports
from engine.simulation.oracles import check_log

T = TypeVar("T")
Call = Callable[[], Awaitable[object]]


@asynccontextmanager
async def checked_engine(
    path: str | os.PathLike[str],
    *,
    dense: bool = True,
    events: Iterable[type[Any]] = (),
    projections: Iterable[type[Any]] = (),
    receipts: Iterable[Receipt] = (),
    **options: Any,
) -> AsyncIterator[Engine]:
    """An open engine; once its block was left without an error, every invariant of its file is checked."""
    options.setdefault("durability", "normal")
    # On a busy machine a probe of the disk would find it slow and start the helper, which has tests of its own.
    options.setdefault("sync", "commit")
    events, projections = tuple(events), tuple(projections)
    async with open_engine(path, events=events, projections=projections, **options) as engine:
        yield engine
    check_log(path, events=events, projections=projections, dense=dense, receipts=receipts)


@attrs.define
class Gate:
    """Holds the writer before its SQL step while it is shut. Everybody else's steps pass."""

    shut: bool = False
    batches: int = 0
    _once: bool = False
    _opened: trio.Event = attrs.field(factory=trio.Event)

    async def step(self, function: Callable[[], T]) -> T:
        """The `step` port."""
        if trio.lowlevel.current_task().name == "writer":
            while self.shut:
                await self._opened.wait()
            self.batches += 1
            if self._once:
                self.close()
        return function()

    def close(self) -> None:
        """From now on the writer stops before its next step."""
        self.shut, self._once, self._opened = True, False, trio.Event()

    async def pass_one(self) -> None:
        """Let one batch through, and wait until everybody has seen what that changed."""
        self._once = True
        self.shut = False
        self._opened.set()
        await trio.testing.wait_all_tasks_blocked()

    def open(self) -> None:
        """Let the writer go on."""
        self.shut = False
        self._opened.set()

    def ports(self, **others: Any) -> Ports:
        """Ports with this gate before the writer."""
        return Ports(step=self.step, **others)


class Answers:
    """What calls made in a known order gave: their result or their exception, by the order of the calls."""

    def __init__(self, count: int) -> None:
        self._found: list[Any] = [None] * count

    def put(self, index: int, answer: object) -> None:
        """The one answer of a call."""
        assert self._found[index] is None, "a call was answered twice"
        self._found[index] = answer

    def __iter__(self) -> Any:
        return iter(self._found)

    def __getitem__(self, index: int) -> Any:
        return self._found[index]


async def in_one_batch(gate: Gate, plug: Call, *calls: Call) -> Answers:
    """Let the calls reach the writer in the order given, in one batch.

    `plug` is a call that occupies the writer meanwhile. Exceptions are answers too.
    """
    answers = Answers(len(calls))
    gate.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plug)
        await trio.testing.wait_all_tasks_blocked()
        for index, call in enumerate(calls):
            nursery.start_soon(_answer, answers, index, call)
            await trio.testing.wait_all_tasks_blocked()
        gate.open()
    return answers


async def one_by_one(*calls: Call) -> Answers:
    """Let each call reach the writer in a batch of its own, in the order given."""
    answers = Answers(len(calls))
    for index, call in enumerate(calls):
        await _answer(answers, index, call)
    return answers


async def _answer(answers: Answers, index: int, call: Call) -> None:
    try:
        answers.put(index, await call())
    except Exception as problem:  # an exception is an answer; nothing is swallowed, the test looks at each
        answers.put(index, problem)


def raw(path: str | os.PathLike[str], *, write: bool = False) -> apsw.Connection:
    """A connection of a foreign process, as far as the engine can tell."""
    flags = apsw.SQLITE_OPEN_READWRITE if write else apsw.SQLITE_OPEN_READONLY
    return apsw.Connection(os.fspath(path), flags=flags)


def count_rows(path: str | os.PathLike[str], table: str = "event") -> int:
    """Rows of a table, as a second connection sees them."""
    connection = raw(path)
    try:
        found = connection.execute(f'SELECT count(*) FROM "{table}"').get
        assert isinstance(found, int)
        return found
    finally:
        connection.close()
