"""Programs whose bug is an order of actors that nobody enforces: assertions on what was finished when.

Owns: the programs named account, bluetooth_driver, fsbench, lazy01, reorder, token_ring and twostage in SCTBench, written
anew as trio tasks. Must not know: the simulator's strategies.
Invariants: tasks start in the original's order; all state is made inside of the program.
"""

from __future__ import annotations

import trio

from bench.programs.cells import Cell, add, add_at_once, guard


async def account(right: bool) -> None:
    """An auditor's sum has a wrong sign, which shows only after both bookings."""
    lock = trio.Lock()
    balance, deposited, withdrawn = Cell("balance", 1), Cell("deposited", False), Cell("withdrawn", False)

    async def audit() -> None:
        async with lock:
            if await deposited.get() and await withdrawn.get():
                assert await balance.get() == (1 + 2 - 4 if right else 1 - 2 - 4)

    async def book(amount: int, done: Cell[bool]) -> None:
        async with lock:
            await add(balance, amount)
            await done.set(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit, name="audit")
        nursery.start_soon(book, 2, deposited, name="deposit")
        nursery.start_soon(book, -4, withdrawn, name="withdraw")


async def bluetooth_driver(right: bool) -> None:
    """A driver looks whether it is being stopped, and counts itself in later: it may work on a stopped device."""
    pending = Cell("pending", 1)
    stopping, drained, stopped = Cell("stopping", False), Cell("drained", False), Cell("stopped", False)

    async def leave() -> None:
        if await add_at_once(pending, -1) == 0:
            await drained.set(True)

    async def work() -> None:
        if right:
            await add_at_once(pending, 1)
            entered = not await stopping.get()
        else:
            entered = not await stopping.get()
            if entered:
                await add_at_once(pending, 1)
        if entered:
            assert not await stopped.get(), "work on a stopped device"
        if entered or right:
            await leave()

    async def stop() -> None:
        await stopping.set(True)
        await leave()
        if await drained.get():
            await stopped.set(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, name="work")
        nursery.start_soon(stop, name="stop")


async def fsbench(right: bool) -> None:
    """27 actors take an inode each, and there are locks for 26."""
    blocks, actors = 26, 27
    inode_locks, block_locks = [trio.Lock() for _ in range(blocks)], [trio.Lock() for _ in range(blocks)]
    busy, inodes = [False] * blocks, [0] * 32

    async def allocate(n: int) -> None:
        inode = n % (blocks if right else 32)
        assert inode < blocks, f"inode {inode} has no lock"
        async with inode_locks[inode]:
            block = inode * 2 % blocks
            for _ in range(blocks // 2 if inodes[inode] == 0 else 0):
                async with block_locks[block]:
                    if not busy[block]:
                        busy[block], inodes[inode] = True, block + 1
                        break
                block = (block + 1) % blocks

    async with trio.open_nursery() as nursery:
        for n in range(actors):
            nursery.start_soon(allocate, n, name=f"t{n}")


async def lazy01(right: bool) -> None:
    """Three actors under one lock; the last must not see what the first two did together."""
    lock, data = trio.Lock(), Cell("data", 0)

    async def increase(amount: int) -> None:
        async with lock:
            await add(data, amount)

    async def check() -> None:
        async with lock:
            assert await data.get() < (4 if right else 3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(increase, 1, name="t1")
        nursery.start_soon(increase, 2, name="t2")
        nursery.start_soon(check, name="t3")


async def reorder(setters: int, right: bool) -> None:
    """Setters write a, then b; a checker between the first write to a and the first to b sees half of a pair."""
    a, b, lock = Cell("a", 0), Cell("b", 0), trio.Lock()

    async def set_both() -> None:
        async with guard(lock, right):
            await a.set(1)
            await b.set(-1)

    async def check() -> None:
        async with guard(lock, right):
            unset = await a.get() == 0 and await b.get() == 0
            assert unset or (await a.get() == 1 and await b.get() == -1), "half of a pair"

    async with trio.open_nursery() as nursery:
        for n in range(setters):
            nursery.start_soon(set_both, name=f"set{n}")
        nursery.start_soon(check, name="check")


async def token_ring(right: bool) -> None:
    """Three actors pass a value round; only some orders leave all three equal."""
    x1, x2, x3 = Cell("x1", 1), Cell("x2", 2), Cell("x3", 1)
    lock, done = trio.Lock(), [trio.Event() for _ in range(4)]

    async def take(n: int, own: Cell[int], source: Cell[int], more: int) -> None:
        if right and n:
            await done[n - 1].wait()
        async with lock:
            await own.set((await source.get() + more) % 4)
            done[n].set()

    async def check() -> None:
        async with lock:
            if all(done[n].is_set() for n in range(3)):
                assert await x1.get() == await x2.get() == await x3.get()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, 0, x1, x3, 1, name="t1")
        nursery.start_soon(take, 1, x2, x1, 0, name="t2")
        nursery.start_soon(take, 2, x3, x2, 0, name="t3")
        nursery.start_soon(check, name="t4")


async def twostage(writers: int, right: bool) -> None:
    """Writers change two values under two locks, one after the other; a reader between both sees them disagree."""
    first, second = Cell("first", 0), Cell("second", 0)
    first_lock, second_lock, both = trio.Lock(), trio.Lock(), trio.Lock()

    async def write() -> None:
        async with guard(both, right):
            async with first_lock:
                await first.set(1)
            async with second_lock:
                await second.set(await first.get() + 1)

    async def read() -> None:
        async with guard(both, right):
            async with first_lock:
                seen = await first.get()
            if seen:
                async with second_lock:
                    assert await second.get() == seen + 1, "one stage behind"

    async with trio.open_nursery() as nursery:
        for n in range(writers):
            nursery.start_soon(write, name=f"write{n}")
        nursery.start_soon(read, name="read")
