"""Programs about locks: taken in circles, by the wrong name, or never given back.

Owns: the programs named carter01, deadlock01, din_phil, phase01 and wronglock in SCTBench, and figure 1(c) of "A Randomized
Scheduler with Probabilistic Guarantees of Finding Bugs" (ASPLOS 2010), written anew as trio tasks. Must not know: the
simulator's strategies.
Invariants: tasks start in the original's order; all state is made inside of the program.
"""

from __future__ import annotations

import trio

from bench.programs.cells import Cell, add, add_at_once
from engine.simulation import point


async def carter01(right: bool) -> None:
    """Two classes of actors exclude each other; the first of a class takes the shared lock while it holds the counters'."""
    counters, shared = trio.Lock(), trio.Lock()
    inside = {"A": Cell("A", 0), "B": Cell("B", 0)}

    async def visit(group: str) -> None:
        count = inside[group]
        if right:
            await shared.acquire()
        async with counters:
            await add(count, 1)
            if await count.get() == 1 and not right:
                await shared.acquire()
        async with counters:
            await add(count, -1)
            if await count.get() == 0:
                shared.release()

    async def pass_by() -> None:
        await point()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(visit, "A", name="a1")
        nursery.start_soon(visit, "B", name="b1")
        nursery.start_soon(pass_by, name="a2")
        nursery.start_soon(pass_by, name="b2")


async def deadlock01(right: bool) -> None:
    """Two actors take two locks in opposite order."""
    a, b, counter = trio.Lock(), trio.Lock(), Cell("counter", 1)

    async def change(first: trio.Lock, second: trio.Lock, amount: int) -> None:
        async with first, second:
            await add(counter, amount)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change, a, b, 1, name="t1")
        nursery.start_soon(change, *((a, b) if right else (b, a)), -1, name="t2")


async def din_phil(philosophers: int, right: bool) -> None:
    """Each takes the fork at the right, then the one at the left: all may hold one and wait for the other.

    The originals take both in one atomic section, and what they look for is met in every schedule: see `din_phil_sat`.
    """
    forks, meals = [trio.Lock() for _ in range(philosophers)], Cell("meals", 0)

    async def dine(n: int) -> None:
        order = [(n + 1) % philosophers, n]
        if right:
            order.sort()
        async with forks[order[0]], forks[order[1]]:
            await point("eat")
        await add_at_once(meals, 1)

    async with trio.open_nursery() as nursery:
        for n in range(philosophers):
            nursery.start_soon(dine, n, name=f"p{n}")


async def din_phil_sat(philosophers: int, right: bool) -> None:
    """Each takes both forks in one atomic section and counts itself; the assertion says that not all of them ever do."""
    table, forks = trio.Lock(), [trio.Lock() for _ in range(philosophers)]
    meals = Cell("meals", 0)

    async def dine(n: int) -> None:
        async with table, forks[(n + 1) % philosophers], forks[n]:
            pass
        assert await add_at_once(meals, 1) != philosophers + right, "all have eaten"

    async with trio.open_nursery() as nursery:
        for n in range(philosophers):
            nursery.start_soon(dine, n, name=f"p{n}")


async def phase01(right: bool) -> None:
    """Two actors pass two phases, and the first phase's lock is never given back.

    Semaphores of one, since a `trio.Lock` whose owner has ended raises in those who wait.
    """
    x, y = trio.Semaphore(1), trio.Semaphore(1)

    async def go() -> None:
        async with x:
            pass
        await x.acquire()
        if right:
            x.release()
        for _ in range(2):
            async with y:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go, name="t1")
        nursery.start_soon(go, name="t2")


async def wronglock(others: int, right: bool) -> None:
    """One actor guards a counter by a lock, the others guard the same counter by another one."""
    data, data_lock, other_lock = Cell("data", 0), trio.Lock(), trio.Lock()

    async def check() -> None:
        async with data_lock:
            before = await data.get()
            await add(data, 1)
            assert await data.get() == before + 1, "changed under the lock"

    async def disturb() -> None:
        async with data_lock if right else other_lock:
            await add(data, 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check, name="check")
        for n in range(others):
            nursery.start_soon(disturb, name=f"other{n}")


async def pct_figure_1c(right: bool) -> None:
    """Two locks in opposite order, with four steps before and after each."""
    a, b = trio.Lock(), trio.Lock()

    async def steps() -> None:
        for _ in range(4):
            await point("step")

    async def nest(first: trio.Lock, second: trio.Lock) -> None:
        await steps()
        async with first:
            await steps()
            async with second:
                await steps()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(nest, a, b, name="t1")
        nursery.start_soon(nest, *((a, b) if right else (b, a)), name="t2")
