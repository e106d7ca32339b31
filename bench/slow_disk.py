"""On a disk whose sync takes 10 ms: how many appends, how long do they take, and how long does everybody else wait?

The disk is a VFS that sleeps in its sync, on the platform's own. A ticker task beside the sessions sleeps a millisecond at
a time and notes how late it wakes; without any appends its lateness is the machine's own, the line `no appends`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import trio

from bench import load
from bench.disk import measured_disk
from bench.report import Settings, Table, latencies_ms, median, quantile
from engine import Engine, open_engine
from engine.ports import Ports
from engine.writer import SyncHelper

TITLE = "slow_disk: a sync takes 10 ms"
DELAY_S = 0.010
SESSIONS = (1, 100)

Open = Callable[[str, str], AbstractAsyncContextManager[Engine]]
"""(path, name of the slow VFS) -> an open engine."""


def _fast(path: str, _vfs: str) -> AbstractAsyncContextManager[Engine]:
    """The same load on the platform's own disk: how long a batch holds the loop by its CPU time alone."""
    return open_engine(path)


def _in_commit(path: str, vfs: str) -> AbstractAsyncContextManager[Engine]:
    """COMMIT syncs, on the loop."""
    return open_engine(path, sync="commit", ports=Ports(vfs=vfs))


def _nobody(path: str, vfs: str) -> AbstractAsyncContextManager[Engine]:
    """No sync per commit: what any way of syncing beside the loop can at best give the other tasks."""
    return open_engine(path, durability="normal", sync="helper", ports=Ports(vfs=vfs, start_sync=_start_helper))


def _helper(path: str, vfs: str) -> AbstractAsyncContextManager[Engine]:
    """A process beside the engine syncs, on the same slow disk."""
    return open_engine(path, sync="helper", ports=Ports(vfs=vfs, start_sync=_start_helper))


async def _start_helper(path: str) -> SyncHelper:
    return await SyncHelper.start(path, (sys.executable, "-m", "bench.slow_helper", str(DELAY_S)))


WAYS: dict[str, Open] = {
    "fast disk": _fast,
    "in COMMIT": _in_commit,
    "helper process": _helper,
    "normal (none)": _nobody,
}
"""The ways to sync that are compared: the one place to add another. A way gets the slow VFS; where the sync happens in
another process, that process must be slowed by DELAY_S too."""


async def _measure(way: str, sessions: int, settings: Settings) -> tuple[load.Acknowledged | None, load.Ticker]:
    ticker = load.Ticker()
    with measured_disk(sync_delay_s=DELAY_S) as (vfs, _):
        async with WAYS[way](settings.file("slow"), vfs) as engine:
            made = await load.new_sessions(engine, max(1, sessions))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ticker.run)
                found = None
                if sessions:
                    found = await load.acknowledged(engine, made, settings)
                else:
                    await trio.sleep(settings.seconds)
                nursery.cancel_scope.cancel()
    return found, ticker


def run(settings: Settings) -> Table:
    table = Table(title=TITLE)
    quiet = [trio.run(_measure, "in COMMIT", 0, settings)[1] for _ in range(settings.rounds)]
    table.rows.append(_row("no appends", 0, [], quiet))
    for sessions in SESSIONS:
        found: dict[str, list[tuple[load.Acknowledged, load.Ticker]]] = {way: [] for way in WAYS}
        for _ in range(settings.rounds):
            for way, measured in found.items():
                acknowledged, ticker = trio.run(_measure, way, sessions, settings)
                assert acknowledged is not None
                measured.append((acknowledged, ticker))
        for way, measured in found.items():
            tickers = [ticker for _, ticker in measured]
            table.rows.append(_row(way, sessions, [one for one, _ in measured], tickers))
            longest = median([ticker.longest_ms for ticker in tickers])
            if way != "fast disk":
                table.aim(f"{way}, {sessions} sessions: longest wait of another task in ms, at most 2", longest, at_most=2)
    return table


def _row(
    way: str, sessions: int, found: list[load.Acknowledged], tickers: list[load.Ticker]
) -> dict[str, float | int | str | None]:
    late = [late for ticker in tickers for late in ticker.late_s]
    return {
        "sync": way,
        "sessions": sessions,
        "events/s": median([one.per_second for one in found]) if found else None,
        **(latencies_ms([latency for one in found for latency in one.latencies_s]) if found else {}),
        "others late p50 ms": 1e3 * quantile(late, 0.5),
        "p99": 1e3 * quantile(late, 0.99),
        "longest": median([ticker.longest_ms for ticker in tickers]),
    }
