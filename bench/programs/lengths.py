"""Programs in which one actor must be much faster than another: hard for a walk that gives each step the same chance.

Owns: figures 1(a), 1(b) and 5 of "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs" (ASPLOS 2010) and
the uneven workload of "Selectively Uniform Concurrency Testing" (ASPLOS 2025), written anew as trio tasks. Must not know:
the simulator's strategies.
Invariants: all state is made inside of the program.
"""

from __future__ import annotations

import trio

from bench.programs.cells import Cell, guard
from engine.simulation import point


async def _steps(count: int) -> None:
    for _ in range(count):
        await point("step")


async def pct_figure_1a(right: bool) -> None:
    """One actor uses what the other one makes, and does not wait for it."""
    thing, made = Cell[object]("thing", None), trio.Event()

    async def make() -> None:
        await _steps(5)
        await thing.set(1)
        made.set()
        await _steps(5)

    async def use() -> None:
        await _steps(5)
        if right:
            await made.wait()
        assert await thing.get() is not None, "used before it was made"
        await _steps(5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make, name="make")
        nursery.start_soon(use, name="use")


async def pct_figure_1b(noise: int, right: bool) -> None:
    """One actor looks whether a thing is there and then uses it; the other one takes it away in between."""
    thing, lock = Cell[object]("thing", 1), trio.Lock()

    async def take_away() -> None:
        await _steps(5)
        async with lock:
            await thing.set(None)
        await _steps(4)

    async def use() -> None:
        await _steps(4)
        async with guard(lock, right):
            if await thing.get() is not None:
                assert await thing.get() is not None, "taken away in between"
        await _steps(4)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_away, name="take away")
        nursery.start_soon(use, name="use")
        for n in range(noise):
            nursery.start_soon(_steps, 5, name=f"noise{n}")


async def pct_figure_5(right: bool) -> None:
    """An actor's single look must come after twenty steps of another one."""
    value, begun = Cell("value", 0), trio.Event()

    async def look() -> None:
        assert await value.get() == 0, "the other one was through already"
        begun.set()

    async def run() -> None:
        await _steps(20)
        if right:
            await begun.wait()
        await value.set(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look, name="look")
        nursery.start_soon(run, name="run")


async def uneven(length: int, right: bool) -> None:
    """One write of 0 must come after all of the other actor's writes of 1."""
    value, cleared = Cell("value", 1), trio.Event()

    async def clear() -> None:
        await value.set(0)
        cleared.set()

    async def fill() -> None:
        for n in range(length):
            if right and n == length - 1:
                await cleared.wait()
            await value.set(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(clear, name="clear")
        nursery.start_soon(fill, name="fill")
    assert value.value == 1, "cleared last"
