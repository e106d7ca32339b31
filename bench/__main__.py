"""`python -m bench [NAME...] [--smoke] [--json FILE] [--dir FOLDER]`: run benchmarks and print what they found."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import (
    acknowledged,
    busy,
    cost,
    crashes,
    delivery,
    determinism,
    fan_out,
    first_bug,
    floor,
    idle,
    posted,
    races,
    resume,
    shrinking,
    simulating,
    slow_disk,
    stalled,
    streaming,
    where,
)
from bench.report import MEMORY_FILE_SYSTEMS, Settings, environment, file_system

BENCHMARKS: dict[str, Any] = {
    "floor": floor,
    "acknowledged": acknowledged,
    "posted": posted,
    "busy": busy,
    "where": where,
    "slow_disk": slow_disk,
    "streaming": streaming,
    "cost": cost,
    "first_bug": first_bug,
    "races": races,
    "crashes": crashes,
    "determinism": determinism,
    "simulating": simulating,
    "shrinking": shrinking,
    "fan_out": fan_out,
    "delivery": delivery,
    "stalled": stalled,
    "resume": resume,
    "idle": idle,
}
LONG = {"first_bug", "races", "crashes", "determinism"}
"""Take far longer than the others: measured only when named."""


def main(arguments: list[str] | None = None) -> int:
    """Run what the arguments name; every benchmark without names, but for the long ones."""
    options = _parser().parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        sys.stderr.write(f"no benchmark named {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}\n")
        return 2
    logging.basicConfig(level=logging.ERROR)
    parent = Path(options.dir) if options.dir else _real_disk()
    kind = file_system(parent)
    if kind in MEMORY_FILE_SYSTEMS:
        sys.stderr.write(f"warning: {parent} is on {kind}, where a sync costs nothing\n")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as folder:
        found = environment(Settings(folder=Path(folder), smoke=options.smoke))
        results["environment"] = found
        sys.stdout.write("".join(f"{name}: {value}\n" for name, value in found.items()) + "\n")
        for name in options.names or [name for name in BENCHMARKS if options.smoke or name not in LONG]:
            room = Path(folder) / name
            room.mkdir()
            started = time.perf_counter()
            table = BENCHMARKS[name].run(Settings(folder=room, smoke=options.smoke, nightly=options.nightly))
            if options.smoke:
                table.aims.clear()
                table.notes.append("a smoke run: it works, and its figures mean nothing")
            results[name] = table.record()
            sys.stdout.write(f"{table.text()}took {time.perf_counter() - started:.1f} s\n\n")
            sys.stdout.flush()
    if options.json:
        Path(options.json).write_text(json.dumps(_finite(results), indent=1, allow_nan=False) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="How fast is the engine, and against what?")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; default: all but {', '.join(LONG)}"
    )
    parser.add_argument("--smoke", action="store_true", help="everything tiny: does it still run?")
    parser.add_argument("--nightly", action="store_true", help="races: more of it, for a night")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--dir", metavar="FOLDER", help="an existing directory on the disk to measure")
    return parser


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no number for: a quantile of nothing."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _real_disk() -> Path:
    """The current directory, or the system's for temporary files where that is the one on a disk."""
    here, system = Path.cwd(), Path(tempfile.gettempdir())
    for candidate in (here, system):
        if file_system(candidate) not in MEMORY_FILE_SYSTEMS:
            return candidate
    return here


if __name__ == "__main__":
    sys.exit(main())
