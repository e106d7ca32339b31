"""Small concurrent programs with one known bug each: what the simulator's strategies are compared on.

Most are the "CS" set of SCTBench (https://github.com/mc-imperial/sctbench; Thomson, Donaldson, Betts: "Concurrency Testing
Using Schedule Bounding", PPoPP 2014), written anew as plain trio tasks. Owns: the list. Must not know: strategies.

Invariants: a decision point stands before each taking of a lock, each wait and each access to a shared variable; a thread's
start is one too, a lock's release is not. A `trio.Lock` goes to who waited longest, where a mutex may be snatched: the
programs have fewer schedules than the originals, and never one that trio would not have.
"""

from __future__ import annotations

from functools import partial

from bench.programs.buffers import arithmetic_prog, bounded_buffer, circular_buffer, queue, stack, sync01, sync02
from bench.programs.lengths import pct_figure_1a, pct_figure_1b, pct_figure_5, uneven
from bench.programs.locking import carter01, deadlock01, din_phil, din_phil_sat, pct_figure_1c, phase01, wronglock
from bench.programs.ordering import account, bluetooth_driver, fsbench, lazy01, reorder, token_ring, twostage
from bench.programs.program import Program

__all__ = ["PROGRAMS", "Program"]

_REORDER = "the checker reads between one setter's first write and anybody's second"
_TWOSTAGE = "the reader looks at both values between a writer's first stage and anybody's second"
_PHILOSOPHERS = "all hold the fork at the right and wait for the one at the left"
_WRONGLOCK = "the counter changes under the wrong lock while its checker holds the right one"

SCTBENCH = (
    Program(
        name="account",
        actors=3,
        kind="assertion",
        body=account,
        bug="the audit runs after both bookings and expects a wrong sum",
    ),
    Program(
        name="arithmetic_prog",
        actors=2,
        kind="assertion",
        default_fails=True,
        body=arithmetic_prog,
        bug="the consumer adds once too often, in every schedule",
    ),
    Program(
        name="bluetooth_driver",
        actors=2,
        kind="assertion",
        body=bluetooth_driver,
        bug="the device stops between the worker's look and its counting itself in",
    ),
    Program(
        name="carter01",
        actors=4,
        kind="deadlock",
        body=carter01,
        bug="one class waits for the shared lock with the counters' lock, which the other class needs to leave",
    ),
    Program(
        name="circular_buffer",
        actors=2,
        kind="assertion",
        body=circular_buffer,
        bug="the receiver has a round without an element, and expects the next number",
    ),
    Program(
        name="deadlock01", actors=2, kind="deadlock", body=deadlock01, bug="each holds one lock and waits for the other"
    ),
    *(
        Program(name=f"din_phil{n}", actors=n, kind="deadlock", body=partial(din_phil, n), bug=_PHILOSOPHERS)
        for n in range(2, 8)
    ),
    Program(
        name="din_phil3_sat",
        actors=3,
        kind="assertion",
        default_fails=True,
        body=partial(din_phil_sat, 3),
        bug="all have eaten in the end, in every schedule",
    ),
    Program(
        name="fsbench",
        actors=27,
        kind="assertion",
        default_fails=True,
        body=fsbench,
        bug="the last actor's inode has no lock, in every schedule",
    ),
    Program(
        name="lazy01",
        actors=3,
        kind="assertion",
        default_fails=True,
        body=lazy01,
        bug="the check runs after both increments",
    ),
    Program(
        name="phase01",
        actors=2,
        kind="deadlock",
        default_fails=True,
        body=phase01,
        bug="whoever is first keeps the first phase's lock for ever",
    ),
    Program(
        name="queue",
        actors=2,
        kind="assertion",
        body=queue,
        bug="a taker's or putter's empty round shifts its index",
    ),
    *(
        Program(name=f"reorder_{n}", actors=n, kind="assertion", body=partial(reorder, n - 1), bug=_REORDER)
        for n in (3, 4, 5, 10, 20)
    ),
    Program(
        name="stack",
        actors=2,
        kind="assertion",
        body=stack,
        bug="more pops than pushes once something was pushed",
    ),
    Program(
        name="sync01",
        actors=2,
        kind="deadlock",
        default_fails=True,
        body=sync01,
        bug="the producer waits for room that nobody makes, in every schedule",
    ),
    Program(
        name="sync02",
        actors=2,
        kind="deadlock",
        default_fails=True,
        body=sync02,
        bug="the consumer is through before the producer may put its second, in every schedule",
    ),
    Program(
        name="token_ring",
        actors=4,
        kind="assertion",
        body=token_ring,
        bug="all have passed the value on, but not in the order of the ring",
    ),
    Program(name="twostage", actors=2, kind="assertion", body=partial(twostage, 1), bug=_TWOSTAGE),
    Program(name="twostage_100", actors=100, kind="assertion", body=partial(twostage, 99), bug=_TWOSTAGE),
    Program(name="wronglock", actors=8, kind="assertion", body=partial(wronglock, 7), bug=_WRONGLOCK),
    Program(name="wronglock_3", actors=4, kind="assertion", body=partial(wronglock, 3), bug=_WRONGLOCK),
)
"""SCTBench's "CS" set."""

OTHERS = (
    Program(name="twostage_20", actors=20, kind="assertion", body=partial(twostage, 19), bug=_TWOSTAGE),
    Program(
        name="bounded_buffer",
        actors=4,
        kind="deadlock",
        body=bounded_buffer,
        bug="a wake-up goes to one who cannot use it, and all wait",
    ),
    Program(
        name="pct_figure_1a",
        actors=2,
        kind="assertion",
        body=pct_figure_1a,
        bug="the thing is used before it was made",
    ),
    *(
        Program(
            name=name,
            actors=2 + noise,
            kind="assertion",
            body=partial(pct_figure_1b, noise),
            bug="the thing is taken away between the look and the use",
        )
        for name, noise in (("pct_figure_1b", 0), ("pct_figure_1b_50", 48))
    ),
    Program(
        name="pct_figure_1c",
        actors=2,
        kind="deadlock",
        body=pct_figure_1c,
        bug="each holds one lock and waits for the other, far from their starts",
    ),
    Program(
        name="pct_figure_5",
        actors=2,
        kind="assertion",
        body=pct_figure_5,
        bug="one step of the first comes after twenty steps of the second",
    ),
    Program(
        name="uneven_25",
        actors=2,
        kind="assertion",
        body=partial(uneven, 25),
        bug="the only write of the first comes after all 25 of the second",
    ),
)
"""The figures of two papers, Cargill's challenge, and a size between."""

PROGRAMS: tuple[Program, ...] = SCTBENCH + OTHERS
