"""Traps: installed once for many runs, armed for each.

Owns: when stand-ins are in place, when a run is watched, the garbage collector meanwhile. Must not know: what is trapped.
Invariants: installing twice installs once; leaving the outermost block puts everything back that can be put back (the audit
hook stays, and does nothing); a run that was never properly left is disarmed by `disarm`, and its own end then does nothing.

The collector's policy: frozen while traps are installed (what was there before is never looked at), off in an armed run, and
asked for one full collection after every `collect_every` runs, when nothing is armed. Where somebody else has switched it
off before, it is theirs and is left alone.
"""

from __future__ import annotations

import gc
import random
from _thread import get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Self

import trio
import trio.testing

from engine.simulation.errors import LeakError, SimulationSetupError
from engine.simulation.traps.arming import WATCH, Armed, running_actor
from engine.simulation.traps.auditing import EVENTS, install_hook
from engine.simulation.traps.generators import COLLECTION, GENERATOR, Generators, on_collection
from engine.simulation.traps.patching import Patches
from engine.simulation.virtual import SimulatedClock

EPOCH_S: Final = 1_700_000_000
"""The wall clock at virtual second 0: an arbitrary day in 2023."""
COLLECT_EVERY: Final = 64
"""Runs between two collections."""

_patches: Final = Patches()
_installed: list[Traps] = []
_generators: list[Generators] = []
_undo: list[Callable[[], object]] = []


class Traps:
    """Watches for calls that no seed controls.

    With `replace` what can be answered from the run's seed and virtual clock is answered, and the rest raises `LeakError`;
    without, everything raises. `epoch_s` is the wall clock at virtual second 0, in seconds since 1970.
    """

    def __init__(self, *, replace: bool = True, epoch_s: int = EPOCH_S, collect_every: int = COLLECT_EVERY) -> None:
        self.replace = replace
        self.epoch_s = epoch_s
        self.collect_every = collect_every
        self._runs = 0
        self._collects = False

    # --- once for many runs -----------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Install. Installing again, this or other traps, only counts."""
        if not _installed:
            install_hook()
            _patches.install()
            _undo.append(_patches.uninstall)
            gc.callbacks.append(on_collection)
            _undo.append(lambda: gc.callbacks.remove(on_collection))
            _undo.append(partial(random.setstate, random.getstate()))
            if gc.isenabled() and not gc.get_freeze_count():
                gc.freeze()
                _undo.append(gc.unfreeze)
        _installed.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Uninstall, where this was the outermost block. A run that is still armed is disarmed."""
        _installed.remove(self)
        if not _installed:
            self.disarm()
            while _undo:
                _undo.pop()()

    @property
    def intercepted(self) -> frozenset[str]:
        """The sources that are intercepted while these traps are installed, by their names in the boundary."""
        return EVENTS | _patches.names | {GENERATOR, COLLECTION} if _installed else frozenset()

    # --- for each run -------------------------------------------------------------------------------

    @contextmanager
    def armed(
        self,
        seed: int | str = 0,
        *,
        clock: Callable[[], float] | None = None,
        actor: Callable[[], str] | None = None,
        replace: bool | None = None,
    ) -> Iterator[Armed]:
        """Watch this thread while the block runs; enter it inside of `trio.run`, around the scenario.

        `seed` decides every answer. `clock` gives virtual seconds; by default trio's own clock, if it is a `MockClock` that
        stands still by itself (rate 0), and otherwise reading the time is a leak. `actor` names who asks; by default trio's
        current task. `replace` overrides the traps' own for this run. The first leak is raised at the end of the block too,
        from what the block raised, unless that is a leak, a cancellation or an interrupt: a program that swallows the error
        does not get away with it. Raises `SimulationSetupError` where a run is armed already, or nothing is installed.
        """
        run = self.arm(seed, clock=clock, actor=actor, replace=replace)
        try:
            yield run
        except BaseException as problem:
            self.disarm(run)
            if run.leaks and isinstance(problem, Exception) and not _has_leak(problem):
                raise run.leaks[0] from problem
            raise
        self.disarm(run, report=True)
        if run.leaks:
            raise run.leaks[0]

    def arm(
        self,
        seed: int | str = 0,
        *,
        clock: Callable[[], float] | None = None,
        actor: Callable[[], str] | None = None,
        replace: bool | None = None,
    ) -> Armed:
        """Begin to watch this thread: `armed` without its block."""
        if not _installed:
            raise SimulationSetupError("arm the traps inside of their own block: `with Traps() as traps:`")
        if WATCH.armed is not None:
            raise SimulationSetupError("a run is armed already: one at a time in a process")
        run = Armed(
            seed=seed,
            thread=get_ident(),
            clock=clock or _virtual_clock(),
            epoch_s=self.epoch_s,
            replace=self.replace if replace is None else replace,
            actor=actor or running_actor,
        )
        random.seed(f"{seed} random")
        self._collects = gc.isenabled()
        if self._collects:
            gc.disable()
        _generators.append(Generators(run))
        WATCH.armed = run
        return run

    def disarm(self, run: Armed | None = None, *, report: bool = False) -> None:
        """Stop watching; nothing is raised. A given run that is not the armed one has ended before: nothing happens.

        With `report`, an async generator that is still open is added to the run's leaks.
        """
        if WATCH.armed is None or (run is not None and WATCH.armed is not run):
            return
        while _generators:
            _generators.pop().end(report=report)
        WATCH.armed = None
        if self._collects:
            gc.enable()
            self._runs += 1
            if self._runs % self.collect_every == 0:
                gc.collect()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Let the real world answer while the block runs: for what observes a run. The block must not await."""
        run, WATCH.armed = WATCH.armed, None
        try:
            yield
        finally:
            WATCH.armed = run


def _virtual_clock() -> Callable[[], float] | None:
    try:
        clock = trio.lowlevel.current_clock()
    except RuntimeError:
        return None
    mocked = isinstance(clock, trio.testing.MockClock) and clock.rate == 0
    return clock.current_time if mocked or isinstance(clock, SimulatedClock) else None


def _has_leak(problem: BaseException) -> bool:
    if isinstance(problem, BaseExceptionGroup):
        return any(_has_leak(inner) for inner in problem.exceptions)
    return isinstance(problem, LeakError)
