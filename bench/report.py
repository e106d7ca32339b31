"""What a benchmark hands back, how it is printed, and the machine it ran on.

Owns: settings, tables, quantiles, the environment. Must not know: what is measured.
Invariants: every figure carries its unit in its column's name; figures that are compared come from the same run.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import attrs
import trio

from engine.store import connect

Value = str | int | float | None
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


@attrs.frozen(kw_only=True)
class Settings:
    """How much to measure, and where."""

    folder: Path
    """A directory for database files, on the disk that is meant."""
    smoke: bool = False
    """Everything tiny: shows that the benchmark works, measures nothing worth reading."""
    nightly: bool = False
    """More than a day's run can afford, where a benchmark knows what to do with it."""

    @property
    def rounds(self) -> int:
        """How often each side of a comparison is measured, in turns."""
        return 1 if self.smoke else 5

    @property
    def seconds(self) -> float:
        """Length of one measurement."""
        return 0.06 if self.smoke else 1.0

    @property
    def warm_up_s(self) -> float:
        """What runs before a measurement begins."""
        return 0.01 if self.smoke else 0.2

    def file(self, name: str) -> str:
        """A path that no database has yet."""
        taken = sum(1 for _ in self.folder.iterdir())
        return str(self.folder / f"{taken:04d}-{name}.db")


@attrs.frozen(kw_only=True)
class Aim:
    """A number that was aimed at, and whether this run met it."""

    text: str
    found: float
    met: bool


@attrs.define(kw_only=True)
class Table:
    """One benchmark's answer: rows of named figures."""

    title: str
    rows: list[dict[str, Value]] = attrs.field(factory=list)
    aims: list[Aim] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)

    def aim(self, text: str, found: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Compare a figure with what was aimed at."""
        met = (at_least is None or found >= at_least) and (at_most is None or found <= at_most)
        self.aims.append(Aim(text=text, found=found, met=met))

    def text(self) -> str:
        """The table in plain characters."""
        lines = [self.title, "-" * len(self.title)]
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        cells = [columns, *([_shown(row.get(name)) for name in columns] for row in self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        left = [all(isinstance(row.get(name), str | None) for row in self.rows) for name in columns]
        for line in cells:
            padded = (c.ljust(w) if is_text else c.rjust(w) for c, w, is_text in zip(line, widths, left, strict=True))
            lines.append("  ".join(padded).rstrip())
        lines += [f"aim {'met   ' if aim.met else 'MISSED'}  {aim.text}: {_shown(aim.found)}" for aim in self.aims]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def record(self) -> dict[str, Any]:
        """The same for a JSON file."""
        return attrs.asdict(self)


def _shown(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        digits = 3 if abs(value) < 1 else 2 if abs(value) < 100 else 0
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else value


def quantile(values: Sequence[float], fraction: float) -> float:
    """The value below which this fraction of the values lies; NaN for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else float("nan")


def median(values: Sequence[float]) -> float:
    """The median; NaN for none."""
    return statistics.median(values) if values else float("nan")


def latencies_ms(latencies_s: Sequence[float]) -> dict[str, Value]:
    """The columns that describe latencies."""
    return {
        f"p{name} ms": 1e3 * quantile(latencies_s, fraction)
        for name, fraction in (("50", 0.5), ("99", 0.99), ("99.9", 0.999))
    }


def file_system(folder: Path) -> str:
    """Type of the file system a directory is on, as Linux tells it; `unknown` elsewhere."""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    best = ("", "unknown")
    for mount in mounts:
        _, point, kind, *_ = mount.split(" ")
        inside = folder.resolve().is_relative_to(point.replace("\\040", " "))
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def fdatasync_p50_ms(folder: Path, *, growing: bool) -> float:
    """Median time of a write of one page with its sync: at the end of a file that grows by it, or inside of a file.

    A WAL grows until its first checkpoint and is overwritten from then on.
    """
    sync = getattr(os, "fdatasync", os.fsync)
    path = folder / "sync-probe"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        os.write(descriptor, bytes(4096))
        os.fsync(descriptor)
        times = []
        for n in range(50):
            started = time.perf_counter()
            os.pwrite(descriptor, bytes([n]) * 4096, 4096 * (n + 1) if growing else 0)
            sync(descriptor)
            times.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
        path.unlink()
    return 1e3 * median(times)


def environment(settings: Settings) -> dict[str, Value]:
    """What the figures depend on."""
    connection = connect(settings.file("environment"), vfs=None, write=True)
    names = ("journal_mode", "synchronous", "page_size", "cache_size", "temp_store", "wal_autocheckpoint", "foreign_keys")
    pragmas = ", ".join(f"{name}={connection.pragma(name)}" for name in names)
    stability = connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1)
    connection.close()
    return {
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "apsw": apsw.apsw_version(),
        "trio": trio.__version__,
        "pragmas": f"{pragmas}, ENABLE_QPSG={stability}",
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load_1m": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "file_system": file_system(settings.folder),
        "fdatasync_p50_ms": round(fdatasync_p50_ms(settings.folder, growing=False), 4),
        "fdatasync_growing_p50_ms": round(fdatasync_p50_ms(settings.folder, growing=True), 4),
        "smoke": str(settings.smoke).lower(),
    }
