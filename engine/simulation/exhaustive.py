"""Exhaustive search: every order of operations that conflict, each once, and in one sentence what that proves.

Owns: the depth-first search by running again, sleep sets, what a proof says. Must not know: how operations are found to
conflict (`conflicts`), how declarations are checked (`commuting`).

Only operations that share a key with another actor's are choices. Starts, wake-ups, the engine's own actors and operations
without a shared key run at once, oldest first; time passes when nobody can run; batches are cut where the writer cuts them.
Where groups of actors never interact and the checks are local, each group is explored alone: after each of its operations
everybody else does one, and the engine handles them together; what others do in which order is then not explored.
At each choice a persistent set of actors is explored and the others are left for later; sleep sets keep a trace from being
run twice within it. Both rest on the declared keys, so a sample of pairs is audited.
Source: Godefroid, LNCS 1032 (persistent sets and sleep sets in search without stored states).

Invariants: what a run shows and no earlier one foresaw (an operation, a wake-up) starts the search again, with what was
learned; nothing is called proved before a search has ended without that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import attrs

from engine.simulation.actors import Actor
from engine.simulation.campaign import Campaign, Failure
from engine.simulation.choices import Op, Step
from engine.simulation.commuting import Audit, Choosing, Fingerprint, noted
from engine.simulation.conflicts import Conflicts, Standing, trace_of
from engine.simulation.errors import DivergedError, SimulationError
from engine.simulation.running import Driver, Run, Scenario, run, session
from engine.simulation.schedule import Mode

RESTARTS_MAX: Final = 200
"""Times that a search starts again because a run showed something new, before it gives up."""


@attrs.define(eq=False)
class Proof(Campaign):
    """What an exhaustive search found. `verdict`: `proved`, `truncated` (out of schedules or time) or `failed`."""

    traces: int = 0
    """Complete runs of the last search, no two of which have the same order of conflicting operations."""
    repeated: int = 0
    """Complete runs whose trace had been run before; 0 while the reduction is right."""
    redundant: int = 0
    """Runs that were given up since nothing new could follow."""
    restarts: int = 0
    groups: int = 1
    """Sets of actors that never interact and were explored one by one."""
    operations: int = 0
    """Operations with a shared key in a run."""
    unkeyed: tuple[str, ...] = ()
    """Labels of named operations that declare no keys, and so were never reordered."""
    audited: int = 0
    """Pairs of independent operations that were run in both orders."""
    compared: bool = False
    """Whether the audit had notes to compare, and not outcomes and operations only."""

    @property
    def statement(self) -> str:
        """What was proved, and within which bounds, in one sentence."""
        if self.failure is not None:
            return f"failed in run {self.failure.number}: {self.failure.error}"
        how = f"{self.traces} traces in {self.schedules} runs"
        if self.groups > 1:
            how += f", {self.groups} groups of actors that share no key each alone"
        if self.verdict == "sampled":
            undeclared = ", ".join(self.unkeyed[:4])
            return f"sampled: what declares no keys ({undeclared}) stayed in its default order ({how})"
        if self.verdict != "proved":
            return f"{self.verdict}: not every order of {self.operations} conflicting operations was run ({how})"
        swaps = f"{self.audited} pairs swapped in the audit, comparing {'notes' if self.compared else 'outcomes only'}"
        bounds = "wake-ups, the engine's own steps, time and batches in their default order"
        return f"proved: every order of {self.operations} conflicting operations ({how}; {bounds}; {swaps})"


@attrs.define(eq=False)
class _Node:
    """A choice on the way to the run that is being made."""

    step: int
    """How many steps came before."""
    at: int
    """How many operations with shared keys came before."""
    ready: dict[str, Op]
    chosen: str
    sleep: dict[str, Op]
    standing: Standing
    explored: list[str] = attrs.field(factory=list)
    todo: list[str] = attrs.field(factory=list)

    def asleep_after(self) -> dict[str, Op]:
        """What need not be done next, because it was explored from here before: what was chosen does not depend on it."""
        sleep = self.sleep | {name: self.ready[name] for name in self.explored}
        return {name: op for name, op in sleep.items() if name != self.chosen}


class _RedundantError(SimulationError):
    """Ends a run after which nothing new can follow."""


class _Searching(Choosing):
    """Follows the choices of a path, then chooses awake actors and remembers where there was a choice."""

    def __init__(self, table: Conflicts, path: Sequence[_Node], group: frozenset[str] | None, *, reduces: bool) -> None:
        super().__init__(table, ())
        self._reduces = reduces
        self._group = group
        self._others_turn = False
        self.path = {node.at: node for node in path}
        self.last = path[-1] if path else None
        self.fresh: list[_Node] = []
        self.redundant = False
        self.sleep: dict[str, Op] = {}
        self._done: dict[str, int] = {}
        self._beyond = not path

    def at_once(self, ready: list[Actor]) -> Actor | None:
        group = self._group
        if group is None:
            return super().at_once(ready)
        mine: list[Actor] = []
        others: list[Actor] = []
        housekeeping: list[Actor] = []
        for actor in ready:
            if actor.housekeeping:
                housekeeping.append(actor)
            elif not self.table.is_choice(actor):
                return actor
            else:
                (mine if actor.name in group else others).append(actor)
        if others and (self._others_turn or not (housekeeping or mine)):
            self._others_turn = True
            return others[0]
        self._others_turn = False
        if housekeeping:
            return housekeeping[0]
        return mine[0] if len(mine) == 1 else None

    def took(self, step: Step) -> None:
        self._others_turn = self._others_turn or (self._group is not None and step.actor in self._group)
        self._done[step.actor] = self._done.get(step.actor, 0) + 1
        super().took(step)
        if self.sleep and self._beyond and self.table.matters(step.op):
            self.redundant = self.redundant or step.actor in self.sleep
            self.sleep = {name: op for name, op in self.sleep.items() if not op.conflicts_with(step.op)}

    def pick(self, ready: list[Actor], last: Actor | None) -> Actor:
        if self._group is not None:
            ready = [actor for actor in ready if actor.name in self._group]
        if not self._beyond:
            return self._follow(ready)
        names = self.controller.names
        awake = ready if not self.sleep else self._awake(ready, Standing.of(ready, self._done, names))
        if self.redundant or not awake:
            self.redundant = True
            self.controller.fail(_RedundantError())
            return ready[0]
        chosen = last if last is not None and last in awake else awake[0]
        standing = Standing.of(ready, self._done, names)
        ops = {actor.name: actor.op for actor in ready}
        self.fresh.append(_Node(len(self.controller.steps), len(self.taken), ops, chosen.name, dict(self.sleep), standing))
        return chosen

    def recount(self) -> list[str]:
        """Who did the operations with shared keys, now that it is known which are shared; the choices are renumbered."""
        names = self.controller.names
        taken: list[str] = []
        at: list[int] = []
        for step in self.controller.steps:
            at.append(len(taken))
            if self.table.matters(step.op) and not names[step.actor].housekeeping:
                taken.append(step.actor)
        for node in self.fresh:
            node.at = at[node.step]
        return taken

    def _follow(self, ready: list[Actor]) -> Actor:
        node = self.path.get(len(self.taken))
        names = tuple([actor.name for actor in ready])
        if node is None or names != node.standing.ready:
            self.controller.fail(DivergedError(len(self.taken), node.standing.ready if node else (), names))
            self._beyond = self.redundant = True
            return ready[0]
        if node is self.last:
            self._beyond = True
            self.sleep = node.asleep_after() if self._reduces else {}
        return next(actor for actor in ready if actor.name == node.chosen)

    def _awake(self, ready: list[Actor], standing: Standing) -> list[Actor]:
        """Who of a persistent set around a sleeper may run; nobody: whatever follows was explored before."""
        for sleeper in ready:
            if sleeper.name in self.sleep:
                members = self.table.together(sleeper.name, standing)
                return [actor for actor in ready if actor.name in members and actor.name not in self.sleep]
        return ready


class _Widened(Exception):  # noqa: N818
    """A run showed what no earlier run had."""


class _Spent(Exception):  # noqa: N818
    """Out of runs or time, or enough failures."""


class _Search:
    """One exhaustive search and its restarts."""

    def __init__(self, proof: Proof, make: Callable[[Choosing], Run], audit: Audit, **limits: Any) -> None:
        self.proof = proof
        self.make = make
        self.audit = audit
        self.table = Conflicts()
        self.limits = limits
        self._traces: set[int] = set()
        self._began = time.perf_counter()

    def spent(self) -> bool:
        """Whether the runs or the time are used up."""
        seconds = self.limits["seconds"]
        return self.proof.schedules >= self.limits["schedules"] or (
            seconds is not None and time.perf_counter() - self._began > seconds
        )

    def repeat(self, text: str, result: Run) -> None:
        """Count a run of a corpus. Raises `_Spent` where it failed."""
        self.proof.count(result)
        if result.failed:
            self._failed(result, text)

    def everything(self) -> None:
        """Search until a search ends without surprise. Raises `_Spent`."""
        while True:
            self.proof.traces = self.proof.repeated = self.proof.redundant = 0
            self._traces.clear()
            self.audit.forget()
            try:
                self._once()
            except _Widened:
                self.proof.restarts += 1
                if self.proof.restarts > RESTARTS_MAX:
                    raise _Spent from None
                continue
            return

    def _once(self) -> None:
        begun = self._run([], first=True)
        groups = self.table.groups(begun[0].standing) if self.limits["local"] and begun else []
        if len(groups) < 2:
            self._explore(begun, None)
            return
        self.proof.groups = len(groups)
        self.proof.traces = self.proof.redundant = 0
        for group in groups:
            self._traces.clear()
            self._explore(self._run([], group=group), group)

    def _explore(self, path: list[_Node], group: frozenset[str] | None) -> None:
        while self._backtrack(path):
            path += self._run(path, group=group)

    def _backtrack(self, path: list[_Node]) -> bool:
        while path:
            node = path[-1]
            if node.todo:
                node.explored.append(node.chosen)
                node.chosen = node.todo.pop(0)
                return True
            path.pop()
        return False

    def _branch(self, node: _Node) -> None:
        members = self.table.together(node.chosen, node.standing) if self.limits["reduce"] else node.ready
        node.todo = [
            name for name in node.standing.ready if name in members and name != node.chosen and name not in node.sleep
        ]

    def _run(self, path: list[_Node], *, group: frozenset[str] | None = None, first: bool = False) -> list[_Node]:
        """Make the run that a path leads to; the choices that it found beyond."""
        if self.spent():
            raise _Spent
        policy = _Searching(self.table, path, group, reduces=self.limits["reduce"])
        result = self.make(policy)
        policy.catch_up()
        proof = self.proof
        gave_up = isinstance(result.error, _RedundantError)
        if isinstance(result.error, DivergedError):
            policy.redundant = False
        if gave_up:
            result.error = None
        proof.count(result)
        if self.limits["on_run"] is not None:
            self.limits["on_run"](proof.schedules - 1, result)
        if result.failed:
            self._failed(result)
        if self.table.learn(policy.controller, group) and not (first and self._as_foreseen(policy)):
            if first:  # it ran in ignorance, so who woke whom in it says nothing
                self.table.wakers.clear()
            raise _Widened
        if gave_up or policy.redundant:
            proof.redundant += 1
        else:
            self._complete(result, group)
        taken = policy.recount() if first else policy.taken
        for node in policy.fresh:
            if group is None:
                self.audit.meet(taken[: node.at], node.ready)
            self._branch(node)
        return policy.fresh

    def _as_foreseen(self, policy: _Searching) -> bool:
        """Whether a first run, made in ignorance, made the choices that it would make now."""
        return all(self.table.matters(op) for node in policy.fresh for op in node.ready.values())

    def _complete(self, result: Run, group: frozenset[str] | None) -> None:
        proof = self.proof
        shared = self.table.shared or frozenset()
        trace = trace_of(result.steps, shared, group)
        if trace in self._traces:
            proof.repeated += 1
        self._traces.add(trace)
        proof.traces += 1
        proof.operations = max(proof.operations, sum(self.table.matters(step.op) for step in result.steps))

    def _failed(self, result: Run, text: str = "") -> None:
        proof = self.proof
        proof.failures.append(Failure(result, text or str(result.schedule()), proof.seed, proof.schedules, proof.strategy))
        if len(proof.failures) >= self.limits["failures_max"]:
            raise _Spent

    def check_declarations(self, count: int) -> None:
        """Audit a sample of independent pairs. Raises `_Spent` after a failure."""
        proof = self.proof
        for pair in self.audit.sample(count, proof.seed):
            wrong = self.audit.try_pair(pair, self.table, self.make)
            if wrong is not None:
                self._failed(wrong)


def explore_exhaustively(
    scenario: Scenario,
    *,
    schedules: int = 20_000,
    seconds: float | None = None,
    mode: Mode = "macro",
    seed: int = 0,
    local: bool = False,
    audit: int = 24,
    fingerprint: Fingerprint = noted,
    reduce: bool = True,
    failures_max: int = 1,
    driver: Driver = "auto",
    first: Iterable[str] = (),
    on_run: Callable[[int, Run], None] | None = None,
    **options: Any,
) -> Proof:
    """Run a scenario under every order of its conflicting operations, and say what that proves.

    `schedules` and `seconds` bound the search; when they are used up the verdict is `truncated`. `local` says that what
    the scenario checks of some actors does not depend on others that share no key with them: then each group of actors
    is explored alone, and runs add up instead of multiplying. `audit`: how many pairs of independent operations are run
    in both orders and compared by `fingerprint` (a function of a `Run`; what it noted); a difference is a failure with a
    `CommutationError`. `reduce=False` runs every order of the operations with shared keys, independent ones too: a check
    of the reduction itself. `first`: schedules to run before the search (a corpus), in any form but a seed's. `options` go
    to `run`.
    Nothing of the scenario is raised. A program whose choices differ under equal decisions fails with `DivergedError`.
    """
    proof = Proof("exhaustive", seed)
    began = time.perf_counter()
    checks = Audit(fingerprint)
    make = partial(_make, scenario, mode, seed, driver, options)
    limits = {"schedules": schedules, "seconds": seconds, "local": local, "reduce": reduce, "failures_max": failures_max}
    search = _Search(proof, make, checks, on_run=on_run, **limits)
    with session():
        try:
            for text in first:
                search.repeat(text, run(scenario, text, mode=mode, seed=seed, driver=driver, **options))
            search.everything()
            search.check_declarations(audit)
            proof.verdict = "failed" if proof.failures else "sampled" if search.table.unkeyed else "proved"
        except _Spent:
            proof.verdict = "failed" if proof.failures else "truncated"
    proof.seconds = time.perf_counter() - began
    proof.unkeyed = tuple(sorted(search.table.unkeyed))
    proof.audited, proof.compared = checks.tried, checks.noted
    return proof


def _make(scenario: Scenario, mode: Mode, seed: int, driver: Driver, options: dict[str, Any], policy: Choosing) -> Run:
    return run(scenario, mode=mode, seed=seed, policy=policy, driver=driver, **options)
