"""kill -9 at a random moment, again and again on a growing log: nothing acknowledged is lost, nothing is half there."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from engine import open_engine
from tests.support.budget import pick
from tests.support.logs import examine, open_bare

ROOT = Path(__file__).parents[2]
CHAINS = pick(1, 5)
KILLS = 6
"""Rounds of one chain, all on one file. Chains times kills is the number of rounds."""


def run_and_kill(path: Path, out: Path, seed: int, after_s: float) -> None:
    """Let the victim run for a while, counted from its start or, every other time, from its first word, and kill it."""
    said = out.stat().st_size if out.exists() else 0
    with out.open("ab") as sink:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.support.victim", str(path), str(seed)],
            stdout=sink,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        give_up = time.monotonic() + 30
        while seed % 2 and out.stat().st_size == said and time.monotonic() < give_up and child.poll() is None:
            time.sleep(0.01)
        try:
            child.wait(after_s)
        except subprocess.TimeoutExpired:
            pass
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, "the victim ended by itself"


def acknowledged(out: Path) -> set[tuple[str, str, int, int]]:
    """What the victim said in whole lines."""
    lines = out.read_bytes().split(b"\n")[:-1]
    return {tuple(json.loads(line)) for line in lines}


def unsettled(path: Path) -> int:
    """Messages and calls that nobody has settled."""
    files = open_bare(path)
    try:
        count = files.log.connection.execute(
            "SELECT (SELECT count(*) FROM message WHERE status = 'streaming') + "
            "(SELECT count(*) FROM tool WHERE state IN ('pending', 'running'))"
        ).get
        assert isinstance(count, int)
        return count
    finally:
        files.close()


@pytest.mark.parametrize("chain", range(CHAINS))
async def test_every_acknowledged_event_survives_kill_9(tmp_path: Path, chain: int) -> None:
    """After each kill: acknowledged events at their places, dense seqs, read model == fold, nothing left unfinished."""
    path, out = tmp_path / "log.db", tmp_path / "acknowledged"
    chance = random.Random(chain)
    before = 0
    for number in range(KILLS):
        # given
        after_s = 0.35 + chance.random() * 0.55
        # when
        await trio.to_thread.run_sync(run_and_kill, path, out, number, after_s)
        logging.disable(logging.WARNING)
        async with open_engine(path, sweep=False) as engine:
            report = await engine.sweep()
            second = await engine.sweep()
        logging.disable(logging.NOTSET)
        # then
        seen = examine(path)
        told = acknowledged(out)
        for session_id, event_id, seq, position in told:
            assert seen.places.get((session_id, event_id)) == (session_id, seq, position)
        assert (second.messages, second.tools) == (0, 0)
        assert unsettled(path) == 0
        assert report.messages + report.tools >= 0
        before = len(told)
    assert before > 100, "the victim said too little for this to mean anything"
