"""Cancel a task at each of its awaits in turn, until it gets through without being reached."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import trio


class _CancelAt(trio.abc.Instrument):
    """Cancels a scope just before or just after one task's n-th step: while it is about to go on, or while it waits."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, at: int) -> None:
        self._task, self._scope, self._left = task, scope, at

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count(task)

    def _count(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def cancelled_at_every_checkpoint(run: Callable[[int], Awaitable[object]], most: int = 500) -> AsyncIterator[int]:
    """Run `run(n)` with a cancellation at its n-th place for n = 1, 2, 3 ...; yields n after each run that was cancelled.

    Ends after the first run that was over before its cancellation came; fails when that takes more than `most` runs.
    """
    for number in range(1, most + 1):
        with trio.CancelScope() as scope:
            instrument = _CancelAt(trio.lowlevel.current_task(), scope, number)
            trio.lowlevel.add_instrument(instrument)
            try:
                await run(number)
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if not scope.cancel_called:
            return
        yield number
    raise AssertionError(f"still cancelled at place {most}")
