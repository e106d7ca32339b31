"""Finds async generators that a run abandons, and collections of garbage inside of a run.

Owns: the thread's async generator hooks while a run is armed, the collector's callback. Must not know: who arms.
Invariants: the hooks that were there (trio's) are still called, and are put back; an async generator that is exhausted or
closed is never reported; one that was dropped, or is still open when the run ends, always is.

Why it is a leak: trio closes an abandoned generator in a task that is woken from outside of the run, and those that are left
at the end in the order of a set of objects.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from _thread import get_ident
from collections.abc import AsyncGenerator
from types import AsyncGeneratorType
from typing import Any, Final

from engine.simulation.traps.arming import WATCH, Armed
from engine.simulation.traps.boundary import REMEDIES
from engine.simulation.traps.sites import caller, place_of

GENERATOR: Final = "an abandoned async generator"
COLLECTION: Final = "garbage collection"


class Generators:
    """The async generators of one armed run."""

    def __init__(self, armed: Armed) -> None:
        self._armed = armed
        self._before = sys.get_asyncgen_hooks()
        self._open: list[weakref.ref[AsyncGeneratorType[Any, Any]]] = []
        self._mine = (self._first_iterated, self._dropped)
        sys.set_asyncgen_hooks(*self._mine)

    def _first_iterated(self, generator: AsyncGenerator[Any, Any]) -> None:
        if isinstance(generator, AsyncGeneratorType):
            self._open.append(weakref.ref(generator))
        if self._before.firstiter is not None:
            self._before.firstiter(generator)

    def _dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        if WATCH.armed is self._armed:
            self._report(generator, "dropped")
        if self._before.finalizer is not None:
            with warnings.catch_warnings():
                # trio warns of the same thing; where warnings are errors that would be printed, and lost.
                warnings.simplefilter("ignore", ResourceWarning)
                self._before.finalizer(generator)

    def _report(self, generator: Any, how: str) -> None:
        code = generator.ag_code
        site = place_of(code.co_filename, code.co_firstlineno, code.co_qualname)
        if all(leak.call_site != site for leak in self._armed.leaks):
            self._armed.leak_at(f"{GENERATOR}, {how},", REMEDIES[GENERATOR], site)

    def end(self, *, report: bool) -> None:
        """Put the hooks back that were there; with `report`, what is still open is a leak."""
        if sys.get_asyncgen_hooks().firstiter == self._first_iterated:
            sys.set_asyncgen_hooks(*self._before)
        if report:
            for reference in self._open:
                generator = reference()
                if generator is not None and generator.ag_frame is not None:
                    self._report(generator, "still open at the end,")
        self._open.clear()


def on_collection(phase: str, info: dict[str, int]) -> None:
    """The collector's callback: a collection in an armed run is remembered as a leak (an exception here would vanish)."""
    armed = WATCH.armed
    if phase == "start" and armed is not None and armed.thread == get_ident():
        frame, through = caller(sys._getframe(1))
        if frame is not None:
            armed.leak(COLLECTION, REMEDIES[COLLECTION], frame, through)
