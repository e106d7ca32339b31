"""Cancel a task at its n-th checkpoint, for n = 1, 2, 3 ... until it gets through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import trio


class _CancelAtStep(trio.abc.Instrument):
    """Counts the steps of one task, and cancels a scope when the count is reached."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, at: int) -> None:
        self._task, self._scope, self._left = task, scope, at

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def cancelled_at_every_checkpoint(run: Callable[[int], Awaitable[object]], most: int = 500) -> AsyncIterator[int]:
    """Run `run(n)` with a cancellation that arrives at its n-th checkpoint; yields n after each run that was cancelled.

    Ends after the first run that got through; fails when that takes more than `most` runs.
    """
    for number in range(1, most + 1):
        with trio.CancelScope() as scope:
            instrument = _CancelAtStep(trio.lowlevel.current_task(), scope, number)
            # The first step counted is the one after this checkpoint's return.
            await trio.lowlevel.checkpoint()
            trio.lowlevel.add_instrument(instrument)
            try:
                if number == 1:
                    scope.cancel()
                await run(number)
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if not scope.cancelled_caught:
            return
        yield number
    raise AssertionError(f"still cancelled at checkpoint {most}")
