"""What a source answers in an armed run: virtual time, seeded bytes, sorted names.

Owns: one answer for each source that is replaced. Must not know: how a call is intercepted, or whether it should be.
Invariants: an answer is a function of the run (its seed, its virtual time, the asking actor) and of the arguments.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, Self

from engine.simulation.traps.arming import Armed

Answer = Callable[[Armed, Callable[..., Any], tuple[Any, ...], dict[str, Any], FrameType], Any]
"""Answers a call: the run, the real function, its arguments, and the program's frame."""

NS: Final = 1_000_000_000
PROCESS: Final = 4_242
"""The process id that a run sees."""

_localtime, _gmtime, _ctime, _asctime, _strftime = time.localtime, time.gmtime, time.ctime, time.asctime, time.strftime
_from_timestamp = datetime.datetime.fromtimestamp


def wall(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> float:
    """The wall clock in seconds since 1970."""
    return armed.epoch_s + armed.now(frame)


def wall_ns(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> int:
    """The wall clock in nanoseconds since 1970."""
    return armed.epoch_s * NS + round(armed.now(frame) * NS)


def elapsed(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> float:
    """Seconds since the run began."""
    return armed.now(frame)


def elapsed_ns(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> int:
    """Nanoseconds since the run began."""
    return round(armed.now(frame) * NS)


def clock_gettime(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> float:
    """A POSIX clock, in seconds."""
    return (armed.epoch_s if args[0] == time.CLOCK_REALTIME else 0) + armed.now(frame)


def clock_gettime_ns(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> int:
    """A POSIX clock, in nanoseconds."""
    return (armed.epoch_s * NS if args[0] == time.CLOCK_REALTIME else 0) + round(armed.now(frame) * NS)


def broken_down(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> Any:
    """The functions that take the current time where they get none."""
    if args and args[0] is not None:
        return real(*args)
    return real(armed.epoch_s + armed.now(frame))


def asctime(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> str:
    """The local time as text."""
    return _asctime(*args) if args else _asctime(_localtime(armed.epoch_s + armed.now(frame)))


def strftime(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> str:
    """The local time in a format."""
    return _strftime(*args) if len(args) > 1 else _strftime(args[0], _localtime(armed.epoch_s + armed.now(frame)))


def now(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> Any:
    """`datetime.now`: the class comes first in `args`."""
    zone = args[1] if len(args) > 1 else kwargs.get("tz")
    return args[0].fromtimestamp(armed.epoch_s + armed.now(frame), zone)


def utcnow(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> Any:
    """`datetime.utcnow`: the class comes first in `args`."""
    return args[0].fromtimestamp(armed.epoch_s + armed.now(frame), datetime.UTC).replace(tzinfo=None)


def random_bytes(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> bytes:
    """Bytes from the actor's stream."""
    return armed.stream().randbytes(args[0] if args else kwargs["size"])


def seeded(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> Any:
    """`Random.seed` without a seed: one from the actor's stream. The generator comes first in `args`."""
    return real(args[0], armed.stream().getrandbits(64))


def as_it_is(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> Any:
    """The real function's answer, which the run's seed decides already."""
    return real(*args, **kwargs)


def process_id(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> int:
    """A process id that is the same in every process."""
    return PROCESS


def sorted_names(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> Any:
    """`os.listdir` in sorted order."""
    return sorted(real(*args, **kwargs))


class _SortedEntries:
    """`os.scandir` in sorted order: an iterator that is its own context manager, as the real one is."""

    def __init__(self, entries: Any) -> None:
        with entries:
            self._entries: Iterator[os.DirEntry[Any]] = iter(sorted(entries, key=lambda entry: entry.name))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> os.DirEntry[Any]:
        return next(self._entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget what is left."""
        self._entries = iter(())


def sorted_entries(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> Any:
    """`os.scandir` in sorted order."""
    return _SortedEntries(real(*args, **kwargs))


def timeless_stat(armed: Armed, real: Any, args: Any, kwargs: Any, frame: FrameType) -> os.stat_result:
    """A file's metadata; its times are the start of the run."""
    kind, (fields, named) = real(*args, **kwargs).__reduce__()
    begun = armed.epoch_s
    times = {
        name: begun * NS if name.endswith("_ns") else float(begun)
        for name in named
        if name.startswith(("st_atime", "st_mtime", "st_ctime", "st_birthtime"))
    }
    result: os.stat_result = kind((*fields[:7], begun, begun, begun), {**named, **times})
    return result
