"""A disk in memory: a SQLite VFS whose files a test can copy, break, lose parts of, and put back.

Owns: names, open files, faults, recording. Must not know: SQL, or which images a power failure leaves (see `power`).

The fault model
- An operation is one call on one file: open, read, write, sync, truncate, delete, lock. `faults` lists how each may fail.
- A write is in the file at once for everybody who reads it, and on the medium after a sync of that file: until then a
  power failure may keep it, lose it, keep some of its 512-byte sectors, leave garbage in the sectors that it was writing,
  and does so for each write on its own, in any order. Bytes beside a write are never touched (SQLite calls this
  SQLITE_IOCAP_POWERSAFE_OVERWRITE and relies on it, as its own VFS promises it).
- Cutting or extending a file behaves as a write does.
- Creating and deleting a name is lost or kept for each name on its own until the name's file is synced, or the
  directory is: with xDelete(sync_directory), and with the first sync of a new journal or WAL (SQLite's VFS does that).
- A sync that failed promises nothing: a later one that succeeds covers the same writes, or does not where the model is
  `forgetful`.
- A dying process loses nothing that it wrote. What still runs of it reads on, but each of its writes, opens and deletes
  fails and none of them changes anything.
- A full disk refuses bytes beyond a file's end once the budget is used up; overwriting goes on.

Invariants: a disk has no file of its own on the machine but one empty placeholder per open database; two runs with the
same seed and clock leave the same bytes; time, sleep and randomness are the caller's.

Not modelled: bit rot, a device that breaks its promise for single sectors after a sync, memory maps, several processes.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import apsw

from engine.simulation.disk.faults import WAYS, Fault, refusal
from engine.simulation.disk.files import Image, OperationLog, StoredFile, kind_of
from engine.simulation.disk.handles import BASE_VFS, DatabaseFile, Handle, PlainFile, missing

JULIAN_OF_1970_MS: Final = 210_866_760_000_000
"""1970-01-01T00:00Z in milliseconds of the Julian day (https://sqlite.org/c3ref/vfs.html)."""
START_MS: Final = 1_700_000_000_000
"""What a disk's clock shows where none is given."""

Decide = Callable[[str, str, int], str | None]
"""(operation, kind of file, how many of these there were, from 1) -> how it fails (see `faults`), or None."""


class Disk(apsw.VFS):
    """A disk in memory, registered as the SQLite VFS `disk.name`; `Ports(vfs=disk.name)` gives it to an engine.

    `clock` returns milliseconds since 1970; `sleep` hears of every sleep in microseconds, and nobody sleeps; `seed` is that
    of SQLite's randomness where this disk is the process's default (see `default`). Close it, or use it as a context
    manager. Raises `OSError` where SQLite has no VFS `unix-excl` to take locks from.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        clock: Callable[[], int] = lambda: START_MS,
        sleep: Callable[[int], object] = lambda _: None,
        seed: int = 0,
    ) -> None:
        if BASE_VFS not in apsw.vfs_names():
            raise OSError(f"a simulated disk takes its locks from SQLite's VFS {BASE_VFS!r}, which this platform lacks")
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.directory = tempfile.mkdtemp(prefix="simulated-disk-", dir=memory)
        """Where the placeholders are. Names below it are this disk's short names: see `path`."""
        self.name = name or os.path.basename(self.directory)
        """The VFS's name."""
        self.operations: Counter[tuple[str, str]] = Counter()
        """Operations by name and kind of file, counted while the disk records or a fault is set."""
        self.struck: list[tuple[str, str, str]] = []
        """(operation, kind, how) of each that failed on request, in order."""
        self.dead = False
        """Whether the process that used this disk died and no other was started yet."""
        self._clock = clock
        self._sleep = sleep
        self._seed = seed
        self._files: dict[str, StoredFile] = {}
        self._handles: set[Handle] = set()
        self._numbers = 0
        self._anchors: list[str] = []
        self._anchors_made = 0
        self._log: OperationLog | None = None
        self._faults: list[Fault] = []
        self._decide: Decide | None = None
        self._budget: int | None = None
        self._attended = False
        self._cleanup = weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)
        super().__init__(self.name, base=BASE_VFS)

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the VFS away and remove the placeholders. Idempotent; what is still open goes on in memory."""
        self.unregister()
        self._cleanup()

    def path(self, name: str = "log.db") -> str:
        """The full path of a file of this disk, in a directory that exists."""
        return f"{self.directory}/{name}"

    # --- content ------------------------------------------------------------------------------

    def snapshot(self) -> Image:
        """Everything on the disk now, as a process that dies now would leave it."""
        return Image({name: bytes(file.data) for name, file in self._files.items()})

    def names(self) -> list[str]:
        """The names of the files that are there."""
        return list(self._files)

    def content(self, name: str) -> bytes:
        """What is in one file now. Raises `KeyError` where there is none of the name."""
        return bytes(self._files[name].data)

    def restore(self, image: Image) -> None:
        """Put the image's files on the disk, and no others, for a new process. Whoever still has a file open is dead.

        Ends recording; faults stay.
        """
        self.crash()
        self.dead = False
        self._log = None
        self._attend()
        old = self._files
        self._files = files = {}
        for name in image:
            content = image[name]
            file = old.get(name)
            if file is None:
                file = self._new_file(bytearray(content))
            else:
                file.data[:] = content
            files[name] = file

    def crash(self) -> None:
        """Let the process die: what it wrote stays, and until `restart` or `restore` nothing changes the disk any more.

        What goes on running meanwhile reads what was there, but no write, open or delete succeeds.
        """
        self.dead = True
        for handle in self._handles:
            handle.dead = handle.attended = True
        self._handles.clear()
        for name, file in self._files.items():
            if file.handles:
                # The dead keep the old file, with its locks and shared memory.
                self._files[name] = StoredFile(file.number, bytearray(file.data))

    def restart(self) -> None:
        """Start a new process after a crash: it finds what the dead one wrote. Recording goes on."""
        self.dead = False

    # --- recording ----------------------------------------------------------------------------

    def record(self) -> OperationLog:
        """Begin a log of every change, from what is on the disk now."""
        self._log = OperationLog(self.snapshot(), {name: file.number for name, file in self._files.items()})
        self._attend()
        return self._log

    def stop(self) -> None:
        """End recording; the log stays as it is."""
        self._log = None
        self._attend()

    def mark(self, item: object) -> None:
        """Put an object into the log at this place. Nothing where nobody records."""
        if self._log is not None:
            self._log.records.append(("mark", -1, 0, item))

    def note(self, operation: str, number: int, value: int = 0, payload: Any = None) -> None:
        """Record a change that is about to be made; data is copied."""
        if self._log is not None:
            self._log.records.append((operation, number, value, bytes(payload) if operation == "write" else payload))

    # --- faults -------------------------------------------------------------------------------

    def fail(
        self, operation: str | None = None, kind: str | None = None, *, nth: int = 1, how: str = "eio", lasting: bool = False
    ) -> Fault:
        """Let the nth matching operation from now on fail as `faults` describes `how`.

        Raises `ValueError` for a way in which the operation cannot fail.
        """
        if operation is not None:
            refusal(operation, how)
        elif not any(how in ways for ways in WAYS.values()):
            raise ValueError(f"no operation fails as {how!r}")
        fault = Fault(operation, kind, nth, how, lasting)
        self._faults.append(fault)
        self._attend()
        return fault

    @property
    def decide(self) -> Decide | None:
        """Asked at each operation how it is to fail; None costs nothing."""
        return self._decide

    @decide.setter
    def decide(self, decide: Decide | None) -> None:
        self._decide = decide
        self._attend()

    @property
    def budget_bytes(self) -> int | None:
        """Bytes by which files may still grow; None for no bound."""
        return self._budget

    @budget_bytes.setter
    def budget_bytes(self, budget: int | None) -> None:
        if (budget is None) != (self._budget is None):
            self._budget = budget
            self._attend()
        self._budget = budget

    def heal(self) -> None:
        """Forget every fault, bound and decision."""
        self._faults.clear()
        self._decide = None
        self._budget = None
        self._attend()

    def meet(self, operation: str, kind: str) -> str | None:
        """Count an operation; how it is to fail, or None. A crash has happened when this returns."""
        self.operations[operation, kind] += 1
        how = None
        for fault in self._faults:
            if fault.strikes(operation, kind):
                how = how or fault.how
        if self._decide is not None and how is None:
            how = self._decide(operation, kind, self.operations[operation, kind])
        if how is not None:
            self.struck.append((operation, kind, how))
            if how == "crash":
                self.crash()
        return how

    # --- determinism --------------------------------------------------------------------------

    @contextmanager
    def default(self) -> Iterator[None]:
        """Be the process's default VFS for a while, so that SQLite's randomness and time are this disk's.

        WALs and random() are then the same in every run that begins with `reseed`. Meanwhile each connection of the process
        that names no VFS is on this disk.
        """
        before = apsw.vfs_names()[0]
        apsw.set_default_vfs(self.name)
        try:
            self.reseed(self._seed)
            yield
        finally:
            apsw.set_default_vfs(before)
            apsw.randomness(0)

    def reseed(self, seed: int) -> None:
        """Begin SQLite's randomness anew from a seed. Has effect where this disk is the default."""
        self._seed = seed
        apsw.randomness(0)

    # --- for handles --------------------------------------------------------------------------

    def opened(self, handle: Handle, file: StoredFile) -> None:
        """A handle of a file begins."""
        file.handles += 1
        handle.attended = self._attended
        self._handles.add(handle)

    def closed(self, handle: Handle, file: StoredFile) -> None:
        """A handle of a file ends; with the last one its placeholder is free for another."""
        self._handles.discard(handle)
        file.handles -= 1
        if not file.handles and file.anchor is not None:
            self._anchors.append(file.anchor)
            file.anchor = None

    def forget(self, name: str) -> None:
        """Delete a temporary file with its last handle."""
        file = self._files.pop(name, None)
        if file is not None:
            self.note("delete", file.number, 0, name)

    def _attend(self) -> None:
        self._attended = attended = bool(
            self._log is not None or self._faults or self._decide is not None or self._budget is not None
        )
        for handle in self._handles:
            handle.attended = attended

    def _new_file(self, data: bytearray) -> StoredFile:
        self._numbers += 1
        return StoredFile(self._numbers, data)

    def _anchor(self, file: StoredFile) -> str:
        if file.anchor is None:
            if self._anchors:
                file.anchor = self._anchors.pop()
            else:
                self._anchors_made += 1
                file.anchor = f"{self.directory}/lock-{self._anchors_made}"
        return file.anchor

    # --- what SQLite calls --------------------------------------------------------------------

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        text = name.filename() if isinstance(name, apsw.URIFilename) else name
        kind = kind_of(text)
        wanted = flags[0]
        if self.dead:
            raise refusal("open", "cantopen")
        if self._attended:
            how = self.meet("open", kind)
            if how is not None:
                raise refusal("open", how)
        file = self._files.get(text) if text else None
        if file is None:
            if not wanted & apsw.SQLITE_OPEN_CREATE:
                raise refusal("open", "cantopen")
            file = self._new_file(bytearray())
            if text:
                self._files[text] = file
                self.note("create", file.number, 0, text)
        flags[1] = wanted
        if wanted & apsw.SQLITE_OPEN_MAIN_DB:
            return DatabaseFile(self, file, kind, self._anchor(file))
        return PlainFile(self, file, kind, text, wanted)

    def xDelete(self, name: str, sync_directory: bool) -> None:  # noqa: N802
        if self.dead:
            raise refusal("delete", "eio")
        if self._attended:
            how = self.meet("delete", kind_of(name))
            if how is not None:
                raise refusal("delete", how)
        file = self._files.pop(name, None)
        if file is None:
            raise missing()
        self.note("delete", file.number, int(sync_directory), name)

    def xAccess(self, name: str, flags: int) -> bool:  # noqa: N802
        file = self._files.get(name)
        # As SQLite's own VFS: an empty file counts as none where its existence is asked for.
        return file is not None and (flags != apsw.SQLITE_ACCESS_EXISTS or len(file.data) > 0)

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name.removeprefix(f"{self.directory}/")

    def xRandomness(self, amount: int) -> bytes:  # noqa: N802
        return random.Random(self._seed).randbytes(amount)

    def xSleep(self, microseconds: int) -> int:  # noqa: N802
        self._sleep(microseconds)
        return microseconds

    def xCurrentTimeInt64(self) -> int:  # noqa: N802
        return self._clock() + JULIAN_OF_1970_MS

    def xCurrentTime(self) -> float:  # noqa: N802
        return self.xCurrentTimeInt64() / 86_400_000
