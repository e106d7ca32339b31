"""Programs about a buffer between actors: what is read too early, twice, or never, and who is woken.

Owns: the programs named arithmetic_prog, circular_buffer, queue, stack, sync01 and sync02 in SCTBench, and the bounded
buffer with one condition that Tom Cargill posed as a challenge, written anew as trio tasks. Must not know: the simulator's
strategies.
Invariants: tasks start in the original's order; all state is made inside of the program; a buffer's content changes only
under its lock, so it needs no decision point of its own.
"""

from __future__ import annotations

from collections import deque

import trio

from bench.programs.cells import Cell, add


async def arithmetic_prog(right: bool) -> None:
    """The consumer adds its loop variable once more after the loop: the sum is the one it must not be."""
    rounds, lock = 3, trio.Lock()
    empty, full = trio.Condition(lock), trio.Condition(lock)
    waiting, total = Cell("waiting", 0), Cell("total", 0)

    async def produce() -> None:
        for _ in range(rounds):
            async with lock:
                while await waiting.get() > 0:
                    await empty.wait()
                await add(waiting, 1)
                full.notify()

    async def consume() -> None:
        for n in range(rounds):
            async with lock:
                while await waiting.get() == 0:
                    await full.wait()
                await add(total, n)
                await add(waiting, -1)
                empty.notify()
        if not right:
            await add(total, rounds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, name="produce")
        nursery.start_soon(consume, name="consume")
    assert total.value != rounds * (rounds + 1) // 2


async def circular_buffer(right: bool) -> None:
    """The consumer counts rounds, not elements: a round that found nothing shifts what it expects."""
    rounds, lock, buffer = 7, trio.Lock(), deque[int]()
    may_send, may_receive = Cell("may send", True), Cell("may receive", False)

    async def send() -> None:
        for n in range(rounds):
            async with lock:
                if await may_send.get():
                    buffer.append(n)
                    await may_send.set(False)
                    await may_receive.set(True)

    async def receive() -> None:
        last = -1
        for n in range(rounds):
            async with lock:
                if await may_receive.get():
                    found = buffer.popleft()
                    assert found > last if right else found == n
                    last = found
                    await may_receive.set(False)
                    await may_send.set(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, name="send")
        nursery.start_soon(receive, name="receive")


async def queue(right: bool) -> None:
    """As the circular buffer, with a first element that is put in before anybody may take."""
    size, lock, elements, stored = 20, trio.Lock(), deque[int](), dict[int, int]()
    may_put, may_take = Cell("may put", True), Cell("may take", False)

    async def put() -> None:
        value = 0
        async with lock:
            elements.append(value)
            stored[0] = value
        for n in range(size - 1):
            async with lock:
                if await may_put.get():
                    value += 1
                    elements.append(value)
                    stored[len(stored) if right else n + 1] = value
                    await may_put.set(False)
                    await may_take.set(True)

    async def take() -> None:
        taken = 0
        for n in range(size):
            async with lock:
                if await may_take.get():
                    assert elements.popleft() == stored.get(taken if right else n)
                    taken += 1
                    await may_take.set(False)
                    await may_put.set(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, name="put")
        nursery.start_soon(take, name="take")


async def stack(right: bool) -> None:
    """The popper looks whether anything was ever pushed, not whether anything is left."""
    size, lock = 10, trio.Lock()
    top, pushed = Cell("top", 0), Cell("pushed", False)

    async def push() -> None:
        for _ in range(size):
            async with lock:
                await add(top, 1)
                await pushed.set(True)

    async def pop() -> None:
        for _ in range(size):
            async with lock:
                if await top.get() > 0 if right else await pushed.get():
                    assert await top.get() > 0, "underflow"
                    await add(top, -1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, name="push")
        nursery.start_soon(pop, name="pop")


async def sync01(right: bool) -> None:
    """The producer waits for room that the consumer never makes."""
    lock, filled = trio.Lock(), Cell("filled", 1)
    empty, full = trio.Condition(lock), trio.Condition(lock)

    async def produce() -> None:
        async with lock:
            while await filled.get() > 0:
                await empty.wait()
            await add(filled, 1)
            full.notify()

    async def consume() -> None:
        async with lock:
            while await filled.get() == 0:
                await full.wait()
            if right:
                await add(filled, -1)
            empty.notify()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, name="produce")
        nursery.start_soon(consume, name="consume")


async def sync02(right: bool) -> None:
    """Two are in the buffer from the start, so the consumer is through before the producer has room for its second."""
    rounds, lock, filled = 2, trio.Lock(), Cell("filled", 0 if right else 2)
    empty, full = trio.Condition(lock), trio.Condition(lock)

    async def produce() -> None:
        for _ in range(rounds):
            async with lock:
                while await filled.get() > 0:
                    await empty.wait()
                await add(filled, 1)
                full.notify()

    async def consume() -> None:
        for _ in range(rounds):
            async with lock:
                while await filled.get() == 0:
                    await full.wait()
                await add(filled, -1)
                empty.notify()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, name="produce")
        nursery.start_soon(consume, name="consume")


async def bounded_buffer(right: bool) -> None:
    """Producers and consumers wait on one condition and wake one of whoever waits there: it may be the wrong kind."""
    capacity, rounds, buffer = 1, 4, deque[int]()
    changed = trio.Condition()

    def wake() -> None:
        if right:
            changed.notify_all()
        else:
            changed.notify()

    async def produce() -> None:
        for n in range(rounds):
            async with changed:
                while len(buffer) == capacity:
                    await changed.wait()
                buffer.append(n)
                wake()

    async def consume() -> None:
        for _ in range(rounds):
            async with changed:
                while not buffer:
                    await changed.wait()
                buffer.popleft()
                wake()

    async with trio.open_nursery() as nursery:
        for n in range(2):
            nursery.start_soon(produce, name=f"produce{n}")
            nursery.start_soon(consume, name=f"consume{n}")
