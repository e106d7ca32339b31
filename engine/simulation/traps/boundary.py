"""The boundary of a simulated run: each source of nondeterminism, and what is done about it.

Owns: the registry. Must not know: how a call is intercepted.
Invariants: every source that is replaced or trapped has a row here under the name that its `LeakError` gives, and every such
row is intercepted (a test holds both); a row that nothing intercepts says who controls it, or what finds it.

A source is *controlled* where the simulator decides it, *replaced* where a call is answered from the run's seed or its
virtual clock, *trapped* where a call raises `LeakError`, and *documented* where no call can be caught: those are found by
running the same seeds in two processes that differ in hash seed, addresses and environment (see `engine.simulation.twin`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import attrs

Handling = Literal["controlled", "replaced", "trapped", "documented"]


@attrs.frozen
class Source:
    """One source of nondeterminism."""

    area: str
    """What it belongs to: a row of the list in this module."""
    name: str
    handling: Handling
    how: str
    """Where its value comes from, or what finds it."""
    remedy: str
    """What to write instead."""


_VIRTUAL: Final = "the run's virtual clock"
_SEEDED: Final = "a random stream of the run's seed, one for each actor"
_RAISES: Final = "LeakError at the call"
_TWIN: Final = "the twin run's first diverging step"


def _each(area: str, names: str, handling: Handling, how: str, remedy: str) -> Iterable[Source]:
    return (Source(area, name, handling, how, remedy) for name in names.split())


_CONTROLLED: Final = (
    Source("order", "which task runs next", "controlled", "the controller picks one of the ready actors", ""),
    Source("order", "how far actors overtake each other", "controlled", "an actor may stay ready for any time", ""),
    Source("order", "mailbox order", "controlled", "the order of send steps; each sender's own order is kept", ""),
    Source("order", "where the writer cuts a batch", "controlled", "a choice at each batch", ""),
    Source("order", "commit, reply, receive", "controlled", "each is a decision point", ""),
    Source("cancellation", "the instant of a cancellation", "controlled", "a disturbance of the schedule", ""),
    Source(
        "cancellation",
        "the order of abort functions",
        "documented",
        _TWIN,
        "let nothing depend on the order in which one scope's waiters are cancelled",
    ),
    Source("time", "deadlines and their ties", "controlled", "virtual time moves when the controller moves it", ""),
    Source("storage", "SQLite's clock and random numbers", "controlled", "the simulated disk answers both", ""),
    Source("storage", "lost, torn and reordered writes, disk errors", "controlled", "the simulated disk's fault model", ""),
    Source("storage", "process death, restart, redelivery", "controlled", "disturbances and disk images", ""),
    Source(
        "storage",
        "rows without ORDER BY, query plans, checkpoints",
        "documented",
        _TWIN,
        "order by a column; pin the pragmas",
    ),
    Source("storage", "several connections to one file", "controlled", "each connection belongs to an actor's steps", ""),
)

_INTERCEPTED: Final = (
    *_each(
        "time",
        "time.time time.time_ns time.monotonic time.monotonic_ns time.perf_counter time.perf_counter_ns time.process_time"
        " time.process_time_ns time.thread_time time.thread_time_ns time.clock_gettime time.clock_gettime_ns time.localtime"
        " time.gmtime time.ctime time.asctime time.strftime datetime.datetime.now datetime.datetime.utcnow",
        "replaced",
        _VIRTUAL,
        "take the time from the `clock` port or trio.current_time()",
    ),
    *_each("time", "time.sleep", "trapped", _RAISES, "use `await trio.sleep(seconds)`"),
    *_each(
        "ids",
        "os.urandom os.getrandom",
        "replaced",
        _SEEDED,
        "take ids from the `ids` port, or bytes from `sim.random(name)`",
    ),
    *_each("ids", "uuid._generate_time_safe uuid.getnode", "trapped", _RAISES, "take ids from the `ids` port"),
    *_each(
        "random",
        "random.random random.uniform random.triangular random.randint random.choice random.randrange random.sample"
        " random.shuffle random.choices random.normalvariate random.lognormvariate random.expovariate random.vonmisesvariate"
        " random.gammavariate random.gauss random.betavariate random.binomialvariate random.paretovariate"
        " random.weibullvariate random.getrandbits random.randbytes",
        "replaced",
        "the module's hidden generator, seeded anew for each run",
        "use a `random.Random(seed)` of your own, or `sim.random(name)`",
    ),
    *_each(
        "random",
        "random.Random.seed",
        "replaced",
        f"without a seed: {_SEEDED}",
        "give random.Random a seed, or use `sim.random(name)`",
    ),
    *_each("environment", "os.getpid", "replaced", "one fixed number", "let nothing depend on the process id"),
    *_each("environment", "os.listdir os.scandir", "replaced", "the names in sorted order", "sort what a directory lists"),
    *_each(
        "environment",
        "os.stat os.lstat os.fstat",
        "replaced",
        "a file's times are the start of the run; the rest is the file's",
        "let nothing depend on a real file's times",
    ),
    *_each("environment", "tempfile.mkstemp tempfile.mkdtemp", "trapped", _RAISES, "create temporary files before the run"),
    *_each("environment", "builtins.input", "trapped", _RAISES, "read input before the run"),
    *_each(
        "threads",
        "_thread.start_new_thread _thread.start_joinable_thread trio.lowlevel.start_thread_soon",
        "trapped",
        _RAISES,
        "do the work on the loop (the `sql_step` port), or in an actor",
    ),
    *_each(
        "threads",
        "trio.lowlevel.TrioToken.run_sync_soon",
        "trapped",
        "LeakError in the other thread, and in the run",
        "let no thread outside of the run call into it",
    ),
    *_each(
        "threads",
        "signal.signal signal.alarm signal.setitimer signal.raise_signal signal.pthread_kill os.kill os.killpg",
        "trapped",
        _RAISES,
        "let an actor stand in for the signal",
    ),
    *_each(
        "processes",
        "os.fork os.forkpty os.exec os.posix_spawn os.spawn os.system subprocess.Popen _posixsubprocess.fork_exec",
        "trapped",
        _RAISES,
        "let an actor stand in for the process",
    ),
    *_each(
        "network",
        "socket.__new__ socket.getaddrinfo socket.gethostbyname socket.gethostbyaddr socket.gethostname",
        "trapped",
        _RAISES,
        "use `sim.network`, or an in-memory stream or channel (asyncio's loops need sockets too: use trio)",
    ),
    *_each(
        "garbage",
        "gc.collect",
        "trapped",
        f"{_RAISES}; the collector is off in a run",
        "let nothing depend on when garbage is collected",
    ),
    Source(
        "garbage",
        "garbage collection",
        "trapped",
        "LeakError at the end of the run",
        "let the collector stay off in a run",
    ),
    Source(
        "garbage",
        "an abandoned async generator",
        "trapped",
        "LeakError at the end of the run: it was dropped, or left open, before it was exhausted",
        "close it: `async with contextlib.aclosing(...)`",
    ),
)

_DOCUMENTED: Final = (
    Source("order in containers", "hash(str) and the order of sets", "documented", _TWIN, "use a dict or a list, or sort"),
    Source("order in containers", "id() and the order of sets of objects", "documented", _TWIN, "number the objects"),
    Source("order in containers", "addresses in repr()", "documented", _TWIN, "give the class a repr of its own"),
    Source("order in containers", "the order inside an exception group", "documented", _TWIN, "sort, or look at each"),
    Source(
        "garbage",
        "__del__ and weakref callbacks of reference cycles",
        "controlled",
        "the collector only runs between runs",
        "",
    ),
    Source("time", "the time kept in log records", "documented", "logging sees the real clock; no run sees log records", ""),
    Source(
        "time",
        "a clock function kept in a class, a default argument or a closure, and a kept `datetime.now`",
        "documented",
        f"only names in modules are swapped; {_TWIN}",
        "call it as time.time(), or take the `clock` port",
    ),
    Source("environment", "environment variables, locale, time zone", "documented", _TWIN, "read them before the run"),
    Source("environment", "the working directory, files' contents, the host", "documented", "part of the input", ""),
    Source("environment", "versions of Python, SQLite and the libraries", "documented", "twin run over two Pythons", ""),
    Source("network", "models, tools and networks that actors talk to", "controlled", "actors of the scenario stand in", ""),
)


def boundary(*, replace: bool = True) -> tuple[Source, ...]:
    """Return every known source of nondeterminism with how it is handled; without `replace`, what is replaced is trapped."""
    rows = (*_CONTROLLED, *_INTERCEPTED, *_DOCUMENTED)
    if replace:
        return rows
    return tuple(attrs.evolve(row, handling="trapped", how=_RAISES) if row.handling == "replaced" else row for row in rows)


REMEDIES: Final = {row.name: row.remedy for row in boundary()}
