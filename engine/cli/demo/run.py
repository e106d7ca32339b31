"""The demo's course: a burst, a process killed in mid-burst, the reopening, and the evidence for the checks.

Owns: the order of things. Must not know: how anything is shown.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator

import attrs
import trio

from engine.cli.demo import child, script
from engine.cli.demo.agents import Agent
from engine.cli.demo.checks import Promise, check_all
from engine.cli.demo.fold import Fold
from engine.cli.demo.followers import Follower, wait_for
from engine.cli.demo.ledger import Acked, Ledger
from engine.errors import EngineError
from engine.events import RecordedEvent
from engine.limits import Limits
from engine.maintenance import Fingerprint, SweepReport
from engine.projections import MessageView, RowCounts, UsageReport
from engine.runtime import EngineStatistics, ReaderWorkspace, Workspace, open_engine, open_reader, rebuild

LIMITS = Limits(subscriber_events_max=1_000)
"""A buffer that a slow follower overflows within the demo's seconds."""
PATIENCE_S = 20.0
KILLED_SESSIONS = 20
GO_ON_SESSIONS = 5


@attrs.frozen(kw_only=True)
class Plan:
    """What to do."""

    path: str
    workspace: str
    seed: str
    sessions: int
    seconds: float | None
    turns: int | None
    transcripts: str | None


@attrs.define(kw_only=True)
class Evidence:
    """What the checks look at."""

    plan: Plan
    ledger: Ledger = attrs.field(factory=Ledger)
    killed: list[Acked] = attrs.field(factory=list)
    followers: list[Follower] = attrs.field(factory=list)
    fold: Fold = attrs.field(factory=Fold)
    burst_s: float = 0.0
    burst_events: int = 0
    burst_bytes: int = 0
    statistics: EngineStatistics | None = None
    unfinished: int = 0
    """Messages and tool calls that the killed process left open, counted before the reopening."""
    killed_positions: tuple[int, int] = (0, 0)
    """After the first, up to the second: what the killed process wrote."""
    swept: SweepReport = attrs.field(factory=SweepReport)
    swept_again: SweepReport = attrs.field(factory=SweepReport)
    unfinished_after: int = 0
    skips_logged: int = 0
    usage: UsageReport | None = None
    usage_of: dict[str, UsageReport] = attrs.field(factory=dict)
    rows: RowCounts | None = None
    messages: dict[tuple[str, int], list[MessageView]] = attrs.field(factory=dict)
    live: dict[str, int] = attrs.field(factory=dict)
    tables: dict[str, Fingerprint] = attrs.field(factory=dict)
    rebuilt: dict[str, Fingerprint] = attrs.field(factory=dict)
    rebuild_problem: str | None = None
    integrity: list[str] = attrs.field(factory=list)


class _SkipCounter(logging.Handler):
    """Counts the warnings that name a skipped event."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.skips = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.skips += str(record.msg).startswith("skipped")


async def run_demo(plan: Plan, say: Callable[[str], None]) -> tuple[Evidence, list[Promise]]:
    """Run everything; returns what was seen and what became of each promise."""
    evidence = Evidence(plan=plan)
    counter = _SkipCounter()
    logger = logging.getLogger("engine.writer")
    logger.addHandler(counter)
    try:
        say("agents stream, others remove, repeat and come late")
        await _burst(evidence)
        say("a process streams and is killed")
        evidence.killed = await child.run_and_kill(plan.path, plan.workspace, plan.seed, KILLED_SESSIONS)
        say("the log is opened again")
        await _reopen(evidence)
    finally:
        logger.removeHandler(counter)
    evidence.skips_logged = counter.skips
    say("the read model is rebuilt")
    await _gather(evidence)
    say("every promise is checked")
    return evidence, check_all(evidence)


async def _burst(evidence: Evidence) -> None:
    plan = evidence.plan
    evidence.followers = [Follower("steady"), Follower("reconnecting", "reconnecting"), Follower("slow", "slow")]
    turns = _turns(plan)
    evidence.followers += [Follower(f"of {name}", "steady", name) for name, _ in turns[:3]]
    started = time.monotonic()
    until = None if plan.seconds is None else started + plan.seconds
    async with open_engine(plan.path, limits=LIMITS) as engine:
        workspace = engine.workspace(plan.workspace)
        async with trio.open_nursery() as following:
            for follower in evidence.followers:
                following.start_soon(follower.run, workspace)
            async with trio.open_nursery() as nursery:
                for name, played in turns:
                    agent = Agent(workspace, evidence.ledger, name, played, f"{plan.seed}/{name}")
                    nursery.start_soon(agent.run, lambda: until is None or time.monotonic() < until)
            evidence.burst_s = time.monotonic() - started
            await _read_on(evidence.fold, workspace)
            evidence.burst_events, evidence.burst_bytes = len(evidence.fold.events), evidence.fold.bytes
            await wait_for(evidence.followers, evidence.fold.last, PATIENCE_S)
            evidence.statistics = engine.statistics()
            following.cancel_scope.cancel()


def _turns(plan: Plan) -> list[tuple[str, Iterator[script.TurnScript]]]:
    """Each session's name and turns; how many is bounded by the plan."""
    made: list[tuple[str, Iterator[script.TurnScript]]] = []
    known = script.from_folder(plan.transcripts) if plan.transcripts is not None else []
    for number in range(plan.sessions):
        if known:
            name, turns = known[number % len(known)]
            made.append((f"{name}#{number}"[:500], itertools.cycle(turns)))
        else:
            name = f"demo-{number}"
            made.append((name, script.made_up(f"{plan.seed}/{name}")))
    return [(name, itertools.islice(turns, plan.turns)) for name, turns in made]


async def _reopen(evidence: Evidence) -> None:
    """Open after the kill: sweep, follow on from where the followers were, go on in the killed process's sessions."""
    plan, before = evidence.plan, evidence.fold.last.get(None, 0)
    async with open_reader(plan.path) as reader:
        left = reader.workspace(plan.workspace)
        evidence.unfinished = (await left.statistics()).rows.unfinished
        evidence.killed_positions = (before, (await left.read.log(limit=1)).cursor.position)
    async with open_engine(plan.path, limits=LIMITS, sweep=False) as engine:
        workspace = engine.workspace(plan.workspace)
        evidence.swept = await engine.sweep()
        evidence.swept_again = await engine.sweep()
        async with open_reader(plan.path) as reader:
            evidence.unfinished_after = (await reader.workspace(plan.workspace).statistics()).rows.unfinished
        async with trio.open_nursery() as following:
            for follower in evidence.followers:
                following.start_soon(follower.run, workspace)
            async with trio.open_nursery() as nursery:
                names = sorted({acked.session_id for acked in evidence.killed})
                live = {view.session_id for view in (await workspace.read.sessions(limit=1_000)).items}
                for name in [name for name in names if name in live][:GO_ON_SESSIONS]:
                    seed = f"{plan.seed}/{name}/again"
                    turns = itertools.islice(script.made_up(seed), 2)
                    agent = Agent(workspace, evidence.ledger, name, turns, seed)
                    nursery.start_soon(lambda agent=agent: agent.run(lambda: True, create=False, end=False))  # type: ignore[misc]
            await _read_on(evidence.fold, workspace)
            await wait_for(evidence.followers, evidence.fold.last, PATIENCE_S)
            following.cancel_scope.cancel()


async def _read_on(fold: Fold, workspace: Workspace) -> None:
    """Fold what the log has beyond what was folded before."""
    async with workspace.log(after=fold.cursor) as log:
        async for item in log:
            if isinstance(item, RecordedEvent):
                fold.add(item)


async def _gather(evidence: Evidence) -> None:
    """Read the read model, rebuild it, and read it again."""
    plan = evidence.plan
    async with open_reader(plan.path) as reader:
        workspace = reader.workspace(plan.workspace)
        evidence.usage = await workspace.read.usage()
        evidence.rows = (await workspace.statistics()).rows
        await _read_messages(evidence, workspace)
        for name in {key[0] for key in evidence.ledger.usage}:
            evidence.usage_of[name] = await workspace.read.usage(name)
        evidence.tables = await reader.fingerprint()
    try:
        await rebuild(plan.path)
    except EngineError as problem:
        evidence.rebuild_problem = str(problem)
        return
    async with open_reader(plan.path) as reader:
        evidence.rebuilt = await reader.fingerprint()
        evidence.integrity = await reader.integrity()


async def _read_messages(evidence: Evidence, workspace: ReaderWorkspace) -> None:
    after = 0
    while True:
        sessions = await workspace.read.sessions(after=after, limit=500)
        for view in sessions.items:
            after, place = view.key, 0
            evidence.live[view.session_id] = view.incarnation
            found = evidence.messages.setdefault((view.session_id, view.incarnation), [])
            while True:
                page = await workspace.read.messages(view.session_id, after=place, limit=500)
                found.extend(page.items)
                if not page.more:
                    break
                place = page.items[-1].key
        if not sessions.more:
            return


def new_seed() -> str:
    """A seed for a run that was given none."""
    return str(random.SystemRandom().randrange(10**6))
