"""Puts stand-ins in the place of the functions that reach the real world, and takes them away again.

Owns: the list of what is replaced where, the stand-in, the search for names that other modules imported. Must not know: when
a run begins or ends.
Invariants: without an armed run, and for other threads and observers, a stand-in is the real function; after `uninstall` no
module's name and no class's attribute refers to a stand-in; a stand-in that was kept elsewhere goes on as the real function.

A module's attribute is swapped, and with it every name in the program's modules that is the same object (`from time import
time`). `datetime.datetime` is a C type that cannot be assigned to; its `now` is changed in the type's own dictionary, and
CPython is told that the type was modified. Where that does not work, `install` leaves it alone and says so.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import importlib
import random
import sys
import types
from _thread import get_ident
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import trio

from engine.simulation.traps import answers
from engine.simulation.traps.answers import Answer
from engine.simulation.traps.arming import WATCH
from engine.simulation.traps.boundary import REMEDIES
from engine.simulation.traps.sites import LIBRARIES, OBSERVERS, caller

CLOCK_READERS: Final = frozenset({"trio"})
"""trio reads the time for its own clocks; what it does with it is under the controller."""

METADATA_READERS: Final = frozenset({"getmtime", "getatime", "getctime", "stat", "lstat"})
"""The standard library's functions that hand a file's times on. Others (`exists`, `linecache`, ...) get the real answer."""

_GET_FRAME: Final = sys._getframe


@attrs.frozen
class Patch:
    """One function to be replaced: `module.attribute`, and where the same object is known by other names."""

    module: str
    attribute: str
    answer: Answer | None = None
    """None: it is trapped."""
    timed: bool = False
    """Answered from the virtual clock; trapped where the run has none."""
    also: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> str:
        """Its name in the boundary."""
        return f"{self.module}.{self.attribute}"


def _clocks() -> Iterator[Patch]:
    plain: dict[str, Answer] = {"time": answers.wall, "time_ns": answers.wall_ns}
    for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
        plain[name], plain[f"{name}_ns"] = answers.elapsed, answers.elapsed_ns
    plain.update(clock_gettime=answers.clock_gettime, clock_gettime_ns=answers.clock_gettime_ns)
    plain.update(localtime=answers.broken_down, gmtime=answers.broken_down, ctime=answers.broken_down)
    plain.update(asctime=answers.asctime, strftime=answers.strftime)
    for name, answer in plain.items():
        yield Patch("time", name, answer, timed=True)


def _globals_of_random() -> Iterator[Patch]:
    for name in random.__all__:
        function = getattr(random, name)
        if getattr(function, "__self__", None) is random._inst and name not in ("seed", "getstate", "setstate"):
            yield Patch("random", name, answers.as_it_is)


PATCHES: Final = (
    *_clocks(),
    *_globals_of_random(),
    Patch("time", "sleep"),
    Patch("os", "urandom", answers.random_bytes, also=(("random", "_urandom"),)),
    Patch("os", "getrandom", answers.random_bytes),
    Patch("uuid", "_generate_time_safe"),
    Patch("uuid", "getnode"),
    Patch("os", "getpid", answers.process_id),
    Patch("os", "listdir", answers.sorted_names),
    Patch("os", "scandir", answers.sorted_entries),
    Patch("os", "stat", answers.timeless_stat),
    Patch("os", "lstat", answers.timeless_stat),
    Patch("os", "fstat", answers.timeless_stat),
    Patch("signal", "signal"),
    Patch("signal", "alarm"),
    Patch("signal", "setitimer"),
    Patch("signal", "raise_signal"),
    Patch("_thread", "start_new_thread", also=(("threading", "_start_new_thread"),)),
    Patch("_thread", "start_joinable_thread", also=(("threading", "_start_joinable_thread"),)),
    Patch("_posixsubprocess", "fork_exec"),
    Patch("gc", "collect"),
)


class StandIn:
    """Stands in for a function of a module. Not a function itself, so that a class that keeps it does not bind it."""

    def __init__(self, patch: Patch, real: Callable[..., Any]) -> None:
        self.__wrapped__ = real
        self.__name__ = self.__qualname__ = patch.attribute
        self.__doc__ = real.__doc__
        self._answer = patch.answer
        self._source = patch.source
        self._timed = patch.timed
        self._passing = CLOCK_READERS if patch.timed else frozenset()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        armed = WATCH.armed
        if armed is None or armed.thread != get_ident():
            return self.__wrapped__(*args, **kwargs)
        nearest = _GET_FRAME(1)
        if self._source in _LENIENT and _is_bystander(self._source, nearest):
            return self.__wrapped__(*args, **kwargs)
        frame, through = caller(nearest, self._passing)
        if frame is None:
            return self.__wrapped__(*args, **kwargs)
        if self._answer is None or not armed.replace or (self._timed and armed.clock is None):
            raise armed.leak(self._source, REMEDIES[self._source], frame, through)
        return self._answer(armed, self.__wrapped__, args, kwargs, frame)

    def __reduce__(self) -> str:
        return self.__name__

    def __repr__(self) -> str:
        return f"<stand-in for {self._source}>"


_LENIENT: Final = frozenset({"os.stat", "os.lstat", "os.fstat", "os.getpid"})


def _is_bystander(source: str, nearest: types.FrameType) -> bool:
    """Whether the standard library asks for its own use, and hands nothing on."""
    if nearest.f_globals.get("__name__", "").partition(".")[0] not in sys.stdlib_module_names:
        return False
    return source == "os.getpid" or nearest.f_code.co_name not in METADATA_READERS


# --- classes --------------------------------------------------------------------------------------


def _method(
    source: str, real: Callable[..., Any], answer: Answer | None, *, timed: bool = False, depth: int = 1
) -> Callable[..., Any]:
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        armed = WATCH.armed
        if armed is None or armed.thread != get_ident():
            return real(*args, **kwargs)
        frame, through = caller(_GET_FRAME(depth), CLOCK_READERS if timed else frozenset())
        if frame is None:
            return real(*args, **kwargs)
        if answer is None or not armed.replace or (timed and armed.clock is None):
            raise armed.leak(source, REMEDIES[source], frame, through)
        return answer(armed, real, args, kwargs, frame)

    stand_in.__wrapped__ = real  # type: ignore[attr-defined]
    return stand_in


def _seed() -> Callable[..., Any]:
    real = random.Random.seed
    guarded = _method("random.Random.seed", real, answers.seeded, depth=2)

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        if a is None and WATCH.armed is not None:
            guarded(self)
        else:
            real(self, a, version)

    return seed


def _run_sync_soon() -> Callable[..., Any]:
    source = "trio.lowlevel.TrioToken.run_sync_soon"
    real = trio.lowlevel.TrioToken.run_sync_soon

    def run_sync_soon(self: Any, *args: Any, **kwargs: Any) -> Any:
        armed = WATCH.armed
        if armed is not None and armed.thread != get_ident():
            frame, through = caller(_GET_FRAME(1))
            raise armed.leak(source, REMEDIES[source], frame, through)
        return real(self, *args, **kwargs)

    return run_sync_soon


def _of_class(name: str, owner: Any, attribute: str) -> Callable[..., Any]:
    real = getattr(owner, attribute)
    return _method(name, real, None)


# --- the datetime type ----------------------------------------------------------------------------


def _type_dictionary(cls: type) -> dict[str, Any]:
    """The dictionary behind a type's read-only view."""
    (found,) = gc.get_referents(vars(cls))
    assert type(found) is dict
    return found


def _set_in_type(cls: type, name: str, value: Any) -> None:
    _type_dictionary(cls)[name] = value
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))


def _clock_method(name: str, answer: Answer, descriptor: Any) -> classmethod[Any, Any, Any]:
    def real(cls: type, *args: Any, **kwargs: Any) -> Any:
        return descriptor.__get__(None, cls)(*args, **kwargs)

    return classmethod(_method(f"datetime.datetime.{name}", real, answer, timed=True))


# --- installing -----------------------------------------------------------------------------------


class Patches:
    """All stand-ins, put in place together and taken away together."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._swapped: dict[int, tuple[Any, Any]] = {}
        self.names: set[str] = set()
        """The sources that are intercepted."""

    def install(self) -> None:
        """Put every stand-in in place."""
        for patch in PATCHES:
            module = importlib.import_module(patch.module) if patch.module != "_posixsubprocess" else _if_there(patch.module)
            real = getattr(module, patch.attribute, None)
            if real is not None:
                stand_in = StandIn(patch, real)
                self._swapped[id(real)] = (real, stand_in)
                self.names.add(patch.source)
                for name, attribute in ((patch.module, patch.attribute), *patch.also):
                    if getattr(sys.modules[name], attribute, None) is real:
                        self._set(sys.modules[name], attribute, stand_in)
        self._set(random.Random, "seed", _seed())
        self._set(trio.lowlevel.TrioToken, "run_sync_soon", _run_sync_soon())
        self.names |= {"random.Random.seed", "trio.lowlevel.TrioToken.run_sync_soon"}
        self._install_threads()
        self._install_datetime()
        swap_names(self._swapped)

    def _install_threads(self) -> None:
        """Every worker thread of trio's comes from one cache; where trio moved it, its public entrance is taken."""
        name = "trio.lowlevel.start_thread_soon"
        cache = getattr(_if_there("trio._core._thread_cache"), "ThreadCache", None)
        owner, attribute = (cache, "start_thread_soon") if cache is not None else (trio.to_thread, "run_sync")
        self._set(owner, attribute, _of_class(name, owner, attribute))
        self.names.add(name)

    def _install_datetime(self) -> None:
        cls = datetime.datetime
        if sys.implementation.name != "cpython":
            return
        for name, answer in (("now", answers.now), ("utcnow", answers.utcnow)):
            before = vars(cls)[name]
            replaced = _clock_method(name, answer, before)
            _set_in_type(cls, name, replaced)
            self._undo.append(lambda name=name, before=before: _set_in_type(cls, name, before))  # type: ignore[misc]
            if vars(cls)[name] is replaced:
                self.names.add(f"datetime.datetime.{name}")

    def _set(self, owner: Any, attribute: str, value: Any) -> None:
        before = getattr(owner, attribute)
        self._undo.append(lambda: setattr(owner, attribute, before))
        setattr(owner, attribute, value)

    def uninstall(self) -> None:
        """Take every stand-in away, also out of modules that were imported meanwhile."""
        while self._undo:
            self._undo.pop()()
        swap_names({id(stand_in): (stand_in, real) for real, stand_in in self._swapped.values()})
        self._swapped.clear()
        self.names.clear()


def swap_names(pairs: dict[int, tuple[Any, Any]]) -> None:
    """Replace each name in the program's modules that is one of these objects by its partner."""
    wanted = pairs.keys()
    for name, module in list(sys.modules.items()):
        root = name.partition(".")[0]
        if root in sys.stdlib_module_names or root in LIBRARIES or root in OBSERVERS:
            continue
        if not isinstance(module, types.ModuleType) or name.startswith("engine.simulation"):
            continue
        names = vars(module)
        if wanted.isdisjoint(map(id, names.values())):
            continue
        for key, value in list(names.items()):
            pair = pairs.get(id(value))
            if pair is not None and pair[0] is value:
                names[key] = pair[1]


def _if_there(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
