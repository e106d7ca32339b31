"""What is on a simulated disk: files, images of them, and the log of what was done to them.

Owns: the content of files, the form of an operation log. Must not know: SQLite's VFS calls, or how a crash is modelled.
Invariants: an `Image` never changes; a record is never changed once it was appended; two images are equal when their names
and contents are.

A record is a tuple `(operation, file, number, payload)`, a plain tuple because one is made per write:

    ("create", file, 0, name)           a name was given to a new file
    ("delete", file, directory, name)   a name was taken away; `directory` is 1 where the directory was synced with it
    ("write", file, offset, data)
    ("truncate", file, size, None)      the file now has this size, be it smaller or larger
    ("sync", file, directory, None)     the file's content was synced; with `directory` 1 its directory as well
    ("failed sync", file, 0, None)      a sync said that it failed
    ("mark", -1, 0, object)             something the caller wants to find again: an acknowledgement

`file` is a number that no other file of the log has: a file that is deleted and made anew gets another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

Record = tuple[str, int, int, Any]


@attrs.define(eq=False)
class StoredFile:
    """A file's content in memory, by whatever name it has now, if any.

    `anchor` is the placeholder that carries its locks while it is open.
    """

    number: int
    data: bytearray
    handles: int = 0
    anchor: str | None = None


class Image:
    """The content of every file of a disk at one moment, unchangeable."""

    __slots__ = ("_digest", "_files")

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(sorted(files.items()))
        self._digest: str | None = None

    def __getitem__(self, name: str) -> bytes:
        return self._files[name]

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self._files == other._files

    def __hash__(self) -> int:
        return hash(tuple(self._files.items()))

    def __repr__(self) -> str:
        return f"<Image {self.digest[:12]} {', '.join(f'{name}:{len(data)}' for name, data in self._files.items())}>"

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self._files.values()))

    @property
    def digest(self) -> str:
        """A BLAKE2b of the names and contents, 32 hexadecimal digits, the same in every process."""
        if self._digest is None:
            state = hashlib.blake2b(digest_size=16)
            for name, data in self._files.items():
                title = name.encode()
                state.update(b"%d:%d:" % (len(title), len(data)))
                state.update(title)
                state.update(data)
            self._digest = state.hexdigest()
        return self._digest


@attrs.define(eq=False)
class OperationLog:
    """Everything that changed a disk since `base`, in order; see the module for the form of a record."""

    base: Image
    numbers: dict[str, int]
    """The files of `base`: name to the number that records call the file by."""
    records: list[Record] = attrs.field(factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def marks(self, upto: int | None = None) -> list[Any]:
        """The objects marked before the record at `upto` (all of them for None), in order."""
        return [record[3] for record in self.records[:upto] if record[0] == "mark"]


def kind_of(name: str | None) -> str:
    """Which kind of file a name is: `main`, `wal`, `owner`, `journal` or `temp`."""
    if not name:
        return "temp"
    for suffix in ("wal", "owner", "journal"):
        if name.endswith(f"-{suffix}"):
            return suffix
    return "main"
