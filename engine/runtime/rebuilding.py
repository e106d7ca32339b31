"""`rebuild`: wipe the read model and replay the log into it, offline.

Owns: owning the file for the length of a rebuild. Must not know: how a projection is replayed (see `Projector.rebuild`).
Invariants: one transaction: readers of other processes see the old tables until it commits, and a failure leaves them;
the log is not touched, no epoch begins.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import attrs
import trio

from engine.errors import StorageIOError
from engine.limits import Limits
from engine.ports import Ports
from engine.projections import Progress, Projection
from engine.runtime.files import open_files
from engine.store import SqlError, translate


@attrs.frozen(kw_only=True)
class RebuildReport:
    """What a rebuild did. Rebuilding one built-in projection rebuilds them all: they depend on each other."""

    projections: tuple[str, ...]
    replayed_events: int


async def rebuild(
    path: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    *,
    events: Sequence[type[Any]] = (),
    projections: Sequence[type[Any] | Projection] = (),
    limits: Limits | None = None,
    ports: Ports | None = None,
    on_progress: Progress | None = None,
) -> RebuildReport:
    """Own the file, wipe and replay the named projections (all that are known here by default), and give it up again.

    `on_progress(done, total)` counts events. It runs as one step: nothing else runs in this loop meanwhile. Raises
    `RegistrationError` for an unknown name, `OwnedError` while another process has the log, `StorageCorruptError` when an
    event that a handler may need cannot be read, or another `StorageError`; the tables are as before then.
    """
    chosen, primitives = limits or Limits(), ports or Ports()
    await trio.lowlevel.checkpoint()

    def step() -> RebuildReport:
        if not os.path.exists(path):
            raise StorageIOError(f"rebuild {os.fspath(path)}", "no such file")
        files = open_files(
            path,
            durability="full",
            events=events,
            projections=projections,
            limits=chosen,
            ports=primitives,
        )
        try:
            replayed = files.projector.rebuild(names, on_progress)
            return RebuildReport(projections=files.projector.covered(names), replayed_events=replayed)
        except SqlError as problem:
            raise translate(problem, f"rebuild {files.path}") from None
        finally:
            files.close()

    return await primitives.step(step)
