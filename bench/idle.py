"""What does a thousand idle clients cost: memory of the server, and the appends of everybody else?"""

from __future__ import annotations

import time

import trio

from bench.live import clients, memory_bytes, served, sessions_of, stamped
from bench.report import Settings, Table, median

SIZE_BYTES = 512


def run(settings: Settings) -> Table:
    """Clients that each follow a session of their own, where nothing happens, and appends to other sessions."""
    table = Table(title="idle: clients connected, each with a subscription to a session where nothing happens")
    trio.run(_all, settings, table)
    return table


async def _all(settings: Settings, table: Table) -> None:
    count = 20 if settings.smoke else 1_000
    async with served(settings, "idle") as (engine, server):
        session = (await sessions_of(engine, 1))[0]

        async def rate() -> float:
            """Microseconds of an append that nobody follows."""
            number = 50 if settings.smoke else 3_000
            started = time.perf_counter()
            for n in range(number):
                await session.append(stamped(n, SIZE_BYTES))
            return 1e6 * (time.perf_counter() - started) / number

        await rate()
        before_us = median([await rate() for _ in range(settings.rounds)])
        before = memory_bytes()
        async with clients(server, mode="idle", clients=count):
            after = memory_bytes()
            after_us = median([await rate() for _ in range(settings.rounds)])
            statistics = server.statistics()
            table.rows.append({"clients": 0, "memory MB": before / 1e6, "KB/client": None, "us/append": before_us})
            table.rows.append(
                {
                    "clients": count,
                    "memory MB": after / 1e6,
                    "KB/client": (after - before) / count / 1e3,
                    "us/append": after_us,
                }
            )
            assert statistics.subscriptions == count, statistics
    table.aim("an append beside them, of alone", after_us / before_us, at_most=1.1)
