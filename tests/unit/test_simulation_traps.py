"""Traps: what they intercept is what the boundary says, what they replaced is put back, who is not watched sees nothing."""

from __future__ import annotations

import datetime
import gc
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import uuid
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from engine.simulation.errors import LeakError, SimulationSetupError
from engine.simulation.traps import Traps, boundary
from engine.simulation.traps.arming import WATCH
from engine.simulation.traps.patching import PATCHES

EPOCH = 1_000_000


@contextmanager
def armed(*, replace: bool = True, seed: int = 0, clock=lambda: 2.5, actor=lambda: "actor"):
    """Traps that are installed and armed outside of trio, for plain calls."""
    with Traps(replace=replace, epoch_s=EPOCH) as traps, traps.armed(seed, clock=clock, actor=actor) as run:
        yield run


def child_or_nothing(function) -> None:
    """Call something that forks; the child, if the trap lets it be born, leaves at once."""
    if function() in (0, (0,)):
        os._exit(0)


def audited(event: str) -> None:
    """Announce an event as the function behind it would."""
    sys.audit(event)


CALLS = {
    "time.clock_gettime": lambda: time.clock_gettime(time.CLOCK_MONOTONIC),
    "time.clock_gettime_ns": lambda: time.clock_gettime_ns(time.CLOCK_REALTIME),
    "time.strftime": lambda: time.strftime("%Y"),
    "time.sleep": lambda: time.sleep(0),
    "datetime.datetime.now": lambda: datetime.datetime.now(),
    "datetime.datetime.utcnow": lambda: datetime.datetime.utcnow(),
    "os.urandom": lambda: os.urandom(4),
    "os.getrandom": lambda: os.getrandom(4),
    "uuid._generate_time_safe": uuid.uuid1,
    "random.uniform": lambda: random.uniform(0, 1),
    "random.randint": lambda: random.randint(0, 9),
    "random.choice": lambda: random.choice("abc"),
    "random.randrange": lambda: random.randrange(9),
    "random.sample": lambda: random.sample("abc", 2),
    "random.shuffle": lambda: random.shuffle([1, 2]),
    "random.choices": lambda: random.choices("abc"),
    "random.lognormvariate": lambda: random.lognormvariate(0, 1),
    "random.expovariate": lambda: random.expovariate(1),
    "random.normalvariate": lambda: random.normalvariate(0, 1),
    "random.vonmisesvariate": lambda: random.vonmisesvariate(0, 1),
    "random.gammavariate": lambda: random.gammavariate(1, 1),
    "random.gauss": lambda: random.gauss(0, 1),
    "random.betavariate": lambda: random.betavariate(1, 1),
    "random.paretovariate": lambda: random.paretovariate(1),
    "random.weibullvariate": lambda: random.weibullvariate(1, 1),
    "random.getrandbits": lambda: random.getrandbits(8),
    "random.randbytes": lambda: random.randbytes(8),
    "random.Random.seed": random.Random,
    "os.stat": lambda: os.stat("/"),
    "os.lstat": lambda: os.lstat("/"),
    "os.fstat": lambda: os.fstat(0),
    "tempfile.mkstemp": tempfile.mkstemp,
    "tempfile.mkdtemp": tempfile.mkdtemp,
    "builtins.input": input,
    "_thread.start_new_thread": lambda: sys.modules["_thread"].start_new_thread(int, ()),
    "_thread.start_joinable_thread": lambda: sys.modules["_thread"].start_joinable_thread(int),
    "trio.lowlevel.start_thread_soon": lambda: trio.lowlevel.start_thread_soon(int, lambda _: None),
    "signal.signal": lambda: signal.signal(signal.SIGUSR1, signal.SIG_DFL),
    "signal.alarm": lambda: signal.alarm(0),
    "signal.setitimer": lambda: signal.setitimer(signal.ITIMER_REAL, 0),
    "signal.raise_signal": lambda: signal.raise_signal(signal.SIGCHLD),
    "signal.pthread_kill": lambda: signal.pthread_kill(threading.get_ident(), 0),
    "os.kill": lambda: os.kill(os.getppid(), 0),
    "os.killpg": lambda: os.killpg(os.getpgid(0), 0),
    "os.fork": lambda: child_or_nothing(os.fork),
    "os.forkpty": lambda: child_or_nothing(os.forkpty),
    "os.posix_spawn": lambda: os.posix_spawn("/nowhere", ["nowhere"], {}),
    "os.exec": lambda: os.execv("/nowhere", ["nowhere"]),
    "os.system": lambda: os.system(":"),
    "os.spawn": lambda: audited("os.spawn"),
    "subprocess.Popen": lambda: subprocess.Popen(["/nowhere"]),
    "_posixsubprocess.fork_exec": lambda: sys.modules["_posixsubprocess"].fork_exec(),
    "socket.__new__": socket.socket,
    "socket.getaddrinfo": lambda: socket.getaddrinfo("127.0.0.1", 1),
    "socket.gethostbyname": lambda: socket.gethostbyname("127.0.0.1"),
    "socket.gethostbyaddr": lambda: audited("socket.gethostbyaddr"),
    "socket.gethostname": socket.gethostname,
    "gc.collect": lambda: sys.modules["gc"].collect(),
}
"""How a source is reached where a call of its name without arguments does not do."""

IN_A_RUN = {"garbage collection", "an abandoned async generator", "trio.lowlevel.TrioToken.run_sync_soon"}
"""Sources that only a scenario reaches: tested below, and in the corpus of leaks."""


def reach(source: str) -> None:
    """Call a source as a program would."""
    call = CALLS.get(source)
    if call is None:
        module, _, name = source.rpartition(".")
        call = getattr(sys.modules[module], name)
    call()


def intercepted() -> frozenset[str]:
    """What is intercepted on this machine."""
    with Traps() as traps:
        return traps.intercepted


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("source", sorted(intercepted() - IN_A_RUN))
def test_every_intercepted_source_is_a_row_and_names_its_caller(source):
    """Reaching what is trapped, or what a run does not answer, is an error with the row's remedy, at a line of this file."""
    if source == "_thread.start_joinable_thread" and sys.version_info < (3, 13):
        pytest.skip("threads begin elsewhere in this version")
    (row,) = (row for row in boundary() if row.name == source)
    with pytest.raises(LeakError) as caught, armed(replace=row.handling == "trapped"):
        reach(source)
    error = caught.value
    assert error.remedy == row.remedy != ""
    assert source in error.source or "urandom" in source
    assert "tests/unit/test_simulation_traps.py:" in error.call_site


def test_every_row_that_says_so_is_intercepted():
    """What the boundary calls replaced or trapped is replaced or trapped here, but for what this Python does not have."""
    promised = {row.name for row in boundary() if row.handling in ("replaced", "trapped")}
    missing = promised - intercepted()
    assert all(name.startswith("random.") and not hasattr(random, name.removeprefix("random.")) for name in missing)


def test_every_row_that_is_replaced_is_answered():
    """A source that is replaced raises nothing in a run that answers; one that is trapped still does."""
    for row in boundary():
        if row.name in intercepted() and row.handling == "replaced" and row.name != "datetime.datetime.utcnow":
            with armed() as run:
                reach(row.name)
            assert run.leaks == []


def test_without_answers_no_row_is_replaced():
    """The boundary of a run that answers nothing has the same rows, trapped."""
    strict = boundary(replace=False)
    assert {row.name for row in strict} == {row.name for row in boundary()}
    assert "replaced" not in {row.handling for row in strict}


def test_rows_say_what_to_do():
    """Each row that is not under control names a remedy or is harmless, and each name stands once."""
    rows = boundary()
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.how for row in rows)
    assert all(row.remedy for row in rows if row.handling in ("replaced", "trapped"))


def test_clocks_show_virtual_time():
    """Every clock is the run's, on top of the wall clock's given start."""
    with armed():
        assert time.time() == EPOCH + 2.5
        assert time.time_ns() == EPOCH * 10**9 + 2_500_000_000
        assert time.monotonic() == time.perf_counter() == 2.5
        assert time.gmtime() == time.gmtime(EPOCH + 2)
        assert datetime.datetime.now(datetime.UTC).timestamp() == EPOCH + 2.5
        assert datetime.datetime.now().timestamp() == EPOCH + 2.5
        assert datetime.date.today() == datetime.date.fromtimestamp(EPOCH)
        assert time.localtime(0).tm_year in (1969, 1970)


def test_datetime_subclasses_and_keywords_are_answered_too():
    """`now` of a subclass gives the subclass, and takes its zone by name."""

    class Stamp(datetime.datetime):
        pass

    with armed():
        stamp = Stamp.now(tz=datetime.UTC)
    assert type(stamp) is Stamp
    assert stamp.timestamp() == EPOCH + 2.5


def test_time_is_a_leak_without_a_virtual_clock():
    """In a trio run whose clock is the real one, reading the time is not answered."""

    async def main() -> None:
        with Traps() as traps, traps.armed():
            time.time()

    with pytest.raises(LeakError, match=r"time\.time at tests/unit/test_simulation_traps\.py:\d+ in .*main"):
        trio.run(main)


def test_trios_own_clock_is_taken_where_it_is_virtual():
    """Inside a run with a mock clock, time is trio's and randomness belongs to the task."""
    answers = {}

    async def ask() -> None:
        answers[trio.lowlevel.current_task().name] = uuid.uuid4()

    async def main() -> None:
        with Traps(epoch_s=EPOCH) as traps, traps.armed(7):
            await trio.sleep(3)
            assert time.time() == EPOCH + 3
            async with trio.open_nursery() as nursery:
                for name in "ab":
                    nursery.start_soon(ask, name=name)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    before = dict(answers)
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert answers == before
    assert answers["a"] != answers["b"]


def test_each_actor_has_a_stream_of_its_own():
    """What one actor draws does not shift what another one gets."""
    name = "one"
    with armed(actor=lambda: name):
        alone = os.urandom(8)
    with armed(actor=lambda: name):
        name = "two"
        os.urandom(8)
        name = "one"
        assert os.urandom(8) == alone


def test_other_threads_are_not_watched():
    """A thread that was there before asks the real world, and gets it."""
    go, done, seen = threading.Event(), threading.Event(), []

    def ask() -> None:
        go.wait(10)
        seen.append(time.time())
        done.set()

    thread = threading.Thread(target=ask)
    thread.start()
    with armed():
        go.set()
        done.wait(10)
    thread.join()
    assert seen[0] > EPOCH * 2


def test_a_thread_that_calls_into_the_run_is_a_leak():
    """`from_thread` from outside is refused in that thread, and fails the run."""
    go, errors = threading.Event(), []

    def call(token: trio.lowlevel.TrioToken) -> None:
        go.wait(10)
        try:
            trio.from_thread.run_sync(int, trio_token=token)
        except (LeakError, trio.RunFinishedError) as problem:
            errors.append(problem)

    async def main() -> None:
        thread = threading.Thread(target=call, args=(trio.lowlevel.current_trio_token(),))
        thread.start()
        with Traps() as traps, traps.armed():
            go.set()
            # The thread is refused, or waits for a loop that waits for it.
            thread.join(5)

    with pytest.raises(LeakError, match="run_sync_soon"):
        trio.run(main)
    assert "in test_a_thread_that_calls_into_the_run_is_a_leak.<locals>.call" in errors[0].call_site


def test_observers_see_the_real_world(caplog):
    """A log record keeps the real time, also where the program itself writes it."""
    with caplog.at_level(logging.INFO), armed():
        logging.getLogger("scenario").info("hello")
    assert caplog.records[0].created > EPOCH * 2


def test_a_pause_lets_the_real_world_in():
    """Inside of a pause nothing is watched; after it everything is."""
    with Traps(epoch_s=EPOCH) as traps, traps.armed(clock=lambda: 0.0):
        with traps.pause():
            assert time.time() > EPOCH * 2
        assert time.time() == EPOCH


def test_everything_is_put_back():
    """After the block every function, imported name and type attribute is the one from before."""
    user = types.ModuleType("somebodys_module")
    user.clock, user.mix = time.time, random.shuffle
    late = types.ModuleType("somebodys_late_module")
    sys.modules |= {user.__name__: user, late.__name__: late}
    places = [(sys.modules[patch.module], patch.attribute) for patch in PATCHES if patch.module in sys.modules]
    places += [(user, "clock"), (user, "mix"), (random, "_urandom"), (trio.lowlevel.TrioToken, "run_sync_soon")]
    before = [getattr(owner, name, None) for owner, name in places]
    types_before = dict(vars(datetime.datetime)), vars(random.Random)["seed"]
    state, hooks, callbacks, collects = random.getstate(), sys.get_asyncgen_hooks(), list(gc.callbacks), gc.isenabled()
    try:
        with Traps() as traps:
            late.clock = time.time
            assert user.clock is time.time is not before[0]
            with traps.armed(clock=lambda: 0.0):
                random.random()
                assert not gc.isenabled()
        assert [getattr(owner, name, None) for owner, name in places] == before
        assert late.clock is user.clock is time.time
        assert (dict(vars(datetime.datetime)), vars(random.Random)["seed"]) == types_before
        assert (random.getstate(), sys.get_asyncgen_hooks()) == (state, hooks)
        assert (gc.callbacks, gc.isenabled(), gc.get_freeze_count()) == (callbacks, collects, 0)
    finally:
        del sys.modules[user.__name__], sys.modules[late.__name__]


def test_installing_again_only_counts():
    """Traps inside of traps: the inner block's end leaves the outer's in place."""
    real = time.time
    with Traps():
        stand_in = time.time
        with Traps():
            assert time.time is stand_in
        assert time.time is stand_in
    assert time.time is real


def test_one_run_at_a_time():
    """Arming twice, or without having installed, is refused."""
    with armed(), pytest.raises(SimulationSetupError, match="one at a time"), armed():
        pass
    with pytest.raises(SimulationSetupError, match="arm the traps inside"):
        Traps().arm()


def test_a_run_that_was_never_left_can_be_disarmed():
    """After `disarm` nothing is watched, and the abandoned block's own end does nothing."""
    with Traps(epoch_s=EPOCH) as traps:
        left_open = traps.armed(clock=lambda: 0.0)
        left_open.__enter__()
        traps.disarm()
        assert WATCH.armed is None
        assert gc.isenabled()
        with traps.armed(clock=lambda: 1.0):
            assert left_open.__exit__(None, None, None) in (None, False)
            assert time.time() == EPOCH + 1


def test_a_failure_after_a_swallowed_leak_is_the_leak():
    """What a program did after it swallowed a leak is no finding; a failure without one is passed on as it is."""

    def swallow() -> None:
        try:
            socket.socket()
        except LeakError:
            raise ValueError("afterwards") from None

    with pytest.raises(LeakError) as caught, armed():
        swallow()
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ValueError, match="alone"), armed():
        raise ValueError("alone")


def test_garbage_is_collected_between_runs():
    """One full collection after so many runs, never in one."""
    seen = []
    with Traps(collect_every=3) as traps:
        gc.callbacks.append(lambda phase, info: seen.append((run, WATCH.armed, info["generation"])))
        try:
            for run in range(1, 8):
                with traps.armed(clock=lambda: 0.0):
                    assert [[run] for _ in range(5_000)]
        finally:
            gc.callbacks.pop()
    assert {(after, watched) for after, watched, generation in seen if generation == 2} >= {(3, None), (6, None)}
    assert all(watched is None for _, watched, _ in seen)


@pytest.mark.parametrize("name", ["listdir", "scandir"])
def test_directories_are_listed_in_sorted_order(tmp_path, name):
    """The names of a directory come in order, whatever the file system says."""
    for entry in ("b", "d", "a", "c"):
        (tmp_path / entry).touch()
    real = getattr(os, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, lambda path: Backwards(real(path)) if name == "scandir" else sorted(real(path))[::-1])
        with armed():
            found = [getattr(entry, "name", entry) for entry in getattr(os, name)(tmp_path)]
    assert found == ["a", "b", "c", "d"]


class Backwards(list):
    """What `os.scandir` gives, backwards."""

    def __init__(self, entries) -> None:
        super().__init__(sorted(entries, key=lambda entry: entry.name, reverse=True))

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


def test_a_file_keeps_its_size_and_loses_its_times(tmp_path):
    """Only the times are the run's; what the standard library asks for itself is the file's."""
    path = tmp_path / "file"
    path.write_bytes(b"1234")
    with armed():
        found = os.stat(path)
        assert (found.st_size, found.st_mtime, found.st_mtime_ns) == (4, EPOCH, EPOCH * 10**9)
        assert path.stat().st_mtime == os.path.getmtime(path) == EPOCH
        assert os.path.exists(path)
    assert path.stat().st_mtime > EPOCH * 2
