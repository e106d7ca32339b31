"""Whose call it was: from the frame that reached a source of nondeterminism to the line of the program that is to blame.

Owns: which modules count as the program, as a library between it and the source, or as an observer. Must not know: what a
source is, what happens to the call.
Invariants: the program is everything that is neither the standard library nor one of the libraries named here; an observer
(a test runner, a logger, a debugger, the simulator) may ask the real world, because nothing that it learns reaches the run.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Final

LIBRARIES: Final = frozenset({"trio", "outcome", "sniffio", "attr", "attrs", "msgspec", "apsw", "anyio", "exceptiongroup"})
"""Packages that call a source on the program's behalf: the blame goes on to their caller."""

OBSERVERS: Final = frozenset(
    {"logging", "pytest", "_pytest", "pluggy", "hypothesis", "coverage", "pdb", "bdb", "engine.simulation"}
)
"""Packages whose calls are answered by the real world."""

_PROGRAM, _LIBRARY, _OBSERVER = range(3)

_kinds: dict[str, int] = {"": _LIBRARY}


def caller(frame: FrameType | None, passing: frozenset[str] = frozenset()) -> tuple[FrameType | None, str]:
    """Find the program's frame that a call came from, and the library function that it called on the way, if any.

    The frame is None where an observer, or a package in `passing`, was met first: then the call is none of the program's.
    """
    through = ""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        kind = _kinds.get(module)
        if kind is None:
            kind = _kinds[module] = _kind_of(module)
        if kind == _OBSERVER or (passing and module.partition(".")[0] in passing):
            return None, through
        if kind == _PROGRAM:
            return frame, through
        if module:
            through = f"{module}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return None, through


def place(frame: FrameType) -> str:
    """A frame as `file:line in function`; the file as seen from the working directory, where it lies below it."""
    return place_of(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)


def place_of(file: str, line: int, function: str) -> str:
    """A place in the form of `place`."""
    here = os.getcwd() + os.sep
    return f"{file.removeprefix(here)}:{line} in {function}"


def _kind_of(module: str) -> int:
    root = module.partition(".")[0]
    if root in OBSERVERS or any(module == name or module.startswith(f"{name}.") for name in OBSERVERS):
        return _OBSERVER
    if not root or root in sys.stdlib_module_names or root in LIBRARIES:
        return _LIBRARY
    return _PROGRAM
