"""What a crash may leave on a disk: every legal image at every point of an operation log.

Owns: what is on the medium and what is still on its way there, moved along the log record by record.
Must not know: SQLite, or what the files mean.
Invariants: a write before a successful sync of its file is in every later image; one after it may be in or not. With the
same log, point, generator and model come the same images in the same order. The rules are those at the top of `vfs`.

The work is kept small by moving on instead of starting anew: a file's synced content is one immutable `bytes` until the
next sync that changes it, and an image shares it where nothing unsynced survived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Final

import attrs

from engine.simulation.disk.files import Image, OperationLog, Record, kind_of
from engine.simulation.disk.handles import SECTOR_BYTES, overwrite, resize


@attrs.frozen(kw_only=True)
class PowerModel:
    """Which liberties a power failure may take. The default takes all of them."""

    reorder: bool = True
    """Any subset of what was not synced may survive; without it, only everything up to some moment."""
    torn: bool = True
    """A write may survive in some of its sectors."""
    garbage: bool = True
    """A sector that was being written may hold anything."""
    names: bool = True
    """Creating or deleting a name may be lost; without it, names are durable at once."""
    forgetful: bool = False
    """A sync that failed is never made good: the writes that it was to cover may be lost although a later sync succeeded,
    until their place is written again (as on Linux, where the pages count as clean after the error:
    https://wiki.postgresql.org/wiki/Fsync_Errors)."""
    settled: frozenset[str] = frozenset()
    """Kinds of files whose writes are durable at once."""
    sector_bytes: int = SECTOR_BYTES


EVERYTHING = PowerModel()
NAMING: Final = ("create", "delete")


def crash_points(log: OperationLog) -> list[int]:
    """Where a crash makes a difference: before each operation, and at the end.

    Point `n` means that `log.records[:n]` happened, marks directly before the operation included.
    """
    return [index for index, record in enumerate(log.records) if record[0] != "mark"] + [len(log.records)]


def process_image(log: OperationLog, at: int) -> Image:
    """What a process that dies at a point leaves: everything it did before."""
    return Medium(log, at=at).kept()


def power_images(
    log: OperationLog, at: int, rng: Random, model: PowerModel = EVERYTHING, *, count: int = 8
) -> Iterator[Image]:
    """Up to `count` different images that a power failure at a point may leave; see `Medium.images`."""
    yield from Medium(log, model, at=at).images(rng, count)


def power_image(log: OperationLog, rng: Random, model: PowerModel = EVERYTHING) -> Image:
    """One image, drawn, that a power failure at the end of a log may leave: for a simulated run that dies there."""
    return Medium(log, model, at=len(log)).draw(rng)


class Medium:
    """What is synced at a point of a log and what is not. It only moves forward."""

    def __init__(self, log: OperationLog, model: PowerModel = EVERYTHING, *, at: int = 0) -> None:
        self._log = log
        self._model = model
        self.at = 0
        """The point it stands at."""
        self._names = dict(log.numbers)
        self._synced = {number: log.base[name] for name, number in log.numbers.items()}
        self._pending: list[Record] = []
        self._forgotten: list[Record] = []
        """Content that a failed sync was to cover: older than anything of the same file that is pending."""
        self._settled = {number for name, number in log.numbers.items() if kind_of(name) in model.settled}
        self.advance(at)

    @property
    def pending(self) -> int:
        """How many operations are not durable yet."""
        return len(self._pending) + len(self._forgotten)

    # --- moving on ----------------------------------------------------------------------------

    def advance(self, to: int) -> None:
        """Move on to a point. Raises `ValueError` for one that it has passed."""
        if to < self.at:
            raise ValueError(f"the medium stands at {self.at}, {to} lies behind it")
        for record in self._log.records[self.at : to]:
            self._step(record)
        self.at = to

    def _step(self, record: Record) -> None:
        operation, number, value, payload = record
        if operation == "mark":
            return
        if operation == "create":
            self._synced[number] = b""
            if kind_of(payload) in self._model.settled:
                self._settled.add(number)
        if number not in self._synced:
            return  # a temporary file: it has no name that a crash could leave
        if operation == "sync":
            self._sync(number, directory=bool(value))
            return
        if operation == "failed sync":
            if self._model.forgetful:
                self._forget(number)
            return
        self._pending.append(record)
        if operation in NAMING:
            if not self._model.names or number in self._settled:
                self._settle([record])
            elif operation == "delete" and value:
                self._settle([item for item in self._pending if item[0] in NAMING])
        elif number in self._settled:
            self._settle([record])

    def _sync(self, number: int, *, directory: bool) -> None:
        durable = [
            item
            for item in self._pending
            if (item[1] == number and item[0] != "delete") or (directory and item[0] in NAMING)
        ]
        if not durable:
            return
        # The file's name is durable with all that happened to that name before.
        created = {item[3] for item in durable if item[0] == "create"}
        earlier = [item for item in self._pending if item[0] in NAMING and item[3] in created]
        chosen = {id(item) for item in (*durable, *earlier)}
        self._settle([item for item in self._pending if id(item) in chosen])

    def _forget(self, number: int) -> None:
        """Let no later sync cover what is pending of a file's data. Its length is its file system's, and durable."""
        for record in [item for item in self._pending if item[1] == number and item[0] not in NAMING]:
            if record[0] == "truncate":
                self._settle([record])
            else:
                self._pending = [item for item in self._pending if item is not record]
                self._forgotten.append(record)

    def _settle(self, records: list[Record]) -> None:
        """Make these of the pending records durable."""
        chosen = {id(item) for item in records}
        self._pending = [item for item in self._pending if id(item) not in chosen]
        if self._forgotten:
            for record in records:
                self._forgotten = [rest for item in self._forgotten for rest in uncovered(item, record)]
        names, contents = self._apply(records)
        self._names = names
        self._synced.update(contents)
        needed = set(self._names.values()) | {item[1] for item in self._pending if item[0] == "create"}
        gone = [number for number in self._synced if number not in needed]
        for number in gone:
            del self._synced[number]
        if gone:
            self._pending = [item for item in self._pending if item[1] in self._synced]
            self._forgotten = [item for item in self._forgotten if item[1] in self._synced]

    # --- images -------------------------------------------------------------------------------

    def kept(self) -> Image:
        """Everything survives: what a dying process leaves."""
        return self.image([*self._forgotten, *self._pending])

    def lost(self) -> Image:
        """Nothing survives but what was synced."""
        return self.image(())

    def image(self, survivors: Iterable[Record]) -> Image:
        """What is synced and, over it, these records in order."""
        names, contents = self._apply(survivors)
        synced = self._synced
        return Image({name: contents[n] if n in contents else synced[n] for name, n in names.items()})

    def _apply(self, records: Iterable[Record]) -> tuple[dict[str, int], dict[int, bytes]]:
        names = self._names
        buffers: dict[int, bytearray] = {}
        for operation, number, value, payload in records:
            if operation == "write" or operation == "truncate":
                buffer = buffers.get(number)
                if buffer is None:
                    buffer = buffers[number] = bytearray(self._synced[number])
                if operation == "write":
                    overwrite(buffer, payload, value)
                else:
                    resize(buffer, value)
            else:
                if names is self._names:
                    names = dict(names)
                if operation == "create":
                    names[payload] = number
                else:
                    names.pop(payload, None)
        return names, {number: bytes(buffer) for number, buffer in buffers.items()}

    def images(self, rng: Random, count: int) -> Iterator[Image]:
        """Up to `count` images of a power failure here, different from each other.

        The first two keep everything and nothing. Where `count` suffices, each subset of what was not synced comes once;
        otherwise the rest is drawn: prefixes, subsets, torn writes and garbage, as the model allows.
        """
        pending = [*self._forgotten, *self._pending]
        seen: set[int] = set()
        for survivors in self._choices(pending, rng, count) if pending else [()]:
            image = self.image(survivors)
            key = hash(image)
            if key not in seen:
                seen.add(key)
                yield image

    def draw(self, rng: Random) -> Image:
        """One image of a power failure here: now and then everything or nothing unsynced, else as `images` draws."""
        pending = [*self._forgotten, *self._pending]
        choice = rng.randrange(8)
        return self.image(pending if choice == 0 else () if choice == 1 else self._draw(pending, rng))

    def _choices(self, pending: list[Record], rng: Random, count: int) -> Iterator[Iterable[Record]]:
        size = len(pending)
        model = self._model
        yield pending
        if count > 1:
            yield ()
        left = count - 2
        if model.reorder and size < 20 and 2**size - 2 <= left // 2:
            for mask in range(1, 2**size - 1):
                yield [item for index, item in enumerate(pending) if mask >> index & 1]
                left -= 1
        for _ in range(left):
            yield self._draw(pending, rng)

    def _draw(self, pending: list[Record], rng: Random) -> Iterable[Record]:
        model = self._model
        size = len(pending)
        if model.reorder and rng.getrandbits(1):
            mask = rng.getrandbits(size)
            if rng.getrandbits(1):
                mask |= rng.getrandbits(size)
            survivors = [item for index, item in enumerate(pending) if mask >> index & 1]
        else:
            survivors = pending[: rng.randrange(size + 1)]
        if survivors and (model.torn or model.garbage) and rng.randrange(3):
            # The last one most often: it is the one that the failure met.
            where = len(survivors) - 1 if rng.getrandbits(1) else rng.randrange(len(survivors))
            broken = list(self._break(survivors[where], rng))
            survivors = [*survivors[:where], *broken, *survivors[where + 1 :]]
        return survivors

    def _break(self, record: Record, rng: Random) -> Iterator[Record]:
        """What is left of a write that the failure met: some of its sectors, some of them garbage."""
        operation, number, offset, data = record
        if operation != "write":
            yield record
            return
        model = self._model
        garbage = model.garbage and (not model.torn or rng.getrandbits(1))
        for start, end in sectors(offset, len(data), model.sector_bytes):
            fate = rng.getrandbits(2)
            if fate == 0 and garbage:
                yield (
                    "write",
                    number,
                    offset + start,
                    rng.randbytes(end - start) if rng.getrandbits(1) else bytes(end - start),
                )
            elif fate & 1 or not model.torn:
                yield ("write", number, offset + start, data[start:end])


def sectors(offset: int, length: int, sector_bytes: int) -> Iterator[tuple[int, int]]:
    """The parts of a write, from and to, cut where the file's sectors begin."""
    start = 0
    while start < length:
        end = min(length, start + sector_bytes - (offset + start) % sector_bytes)
        yield start, end
        start = end


def uncovered(old: Record, new: Record) -> Iterator[Record]:
    """What of an older write can still be seen below a newer record of the same file."""
    operation, number, start, data = old
    if number != new[1] or operation != "write" or new[0] in NAMING:
        yield old
        return
    end = start + len(data)
    first = new[2]
    last = first + len(new[3]) if new[0] == "write" else end
    if start < first:
        yield ("write", number, start, data[: first - start])
    if last < end:
        yield ("write", number, max(start, last), data[max(0, last - start) :])
