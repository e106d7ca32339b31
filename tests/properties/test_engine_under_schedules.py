"""Property: whatever several actors append under whatever schedule, the log in its order explains every answer and table.

The reference model reads the log as it was committed and must come to the same outcomes and the same read model. An append
that stored nothing (refused, unchanged, a duplicate) has no place in the log: there must be one between what its caller
could know before and what was committed when it was answered, at which the model gives that answer.
"""

from __future__ import annotations

import copy
from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import Duplicate, Engine, Envelope, Session
from engine.errors import InvalidEventError, UnknownMessageError, WrongExpectedSeqError
from engine.events import MessageUpdated
from engine.simulation import Simulation
from engine.simulation.hypotheses import schedules, under
from engine.simulation.oracles import check_log
from engine.simulation.running import session
from tests.properties.test_reference_model import compare, events, outcome_names
from tests.support.reference import Model

SESSIONS = ("s1", "s2")

commands = st.tuples(
    st.sampled_from(("s1", "s1", "s2")),
    st.lists(events, min_size=1, max_size=3),
    st.one_of(st.none(), st.none(), st.none(), st.integers(0, 6)),
    st.one_of(st.none(), st.none(), st.integers(0, 5)),
)
"""A session, what is appended to it, the expected seq, and which earlier command of anybody is sent again instead."""
workloads = st.lists(st.lists(commands, min_size=1, max_size=5), min_size=2, max_size=4)


@attrs.define
class Sent:
    """One append: what was asked, what was known before, what was answered, what was committed by then."""

    envelopes: tuple[Envelope, ...]
    expected_seq: int | None
    known: int
    answer: Any = None
    committed: int = 0

    @property
    def place(self) -> int | None:
        """The seq of the first event that this append stored itself; None when it stored none."""
        if isinstance(self.answer, Exception):
            return None
        return next((e.seq for e in self.answer.events if e.seq is not None and not isinstance(e.outcome, Duplicate)), None)


@attrs.define
class Replayed:
    """The reference model of one session as its log goes on."""

    model: Model
    stored: dict[str, int] = attrs.field(factory=dict)
    head: int = 0

    def answer(self, name: str, sent: Sent) -> list[str] | int | None:
        """What this append gives here: outcomes, None for a refusal, or the head where another one was expected."""
        fresh = [envelope for envelope in sent.envelopes if envelope.event_id not in self.stored]
        if sent.expected_seq is not None and sent.expected_seq != self.head and fresh:
            return self.head
        outcomes = self.model.append(name, 0, [envelope.event for envelope in fresh])
        if outcomes is None:
            return None
        left = iter(outcomes)
        return ["duplicate" if envelope.event_id in self.stored else next(left) for envelope in sent.envelopes]


def words(answer: Any) -> list[str] | int | None:
    """An answer in the words of the model."""
    if isinstance(answer, WrongExpectedSeqError):
        return answer.found
    if isinstance(answer, Exception):
        return outcome_names(answer)
    names = outcome_names(answer)
    assert names is not None
    return [
        "duplicate" if isinstance(entry.outcome, Duplicate) else word
        for entry, word in zip(answer.events, names, strict=True)
    ]


class World:
    """An engine with two sessions, and everything that was sent to it."""

    def __init__(self, sim: Simulation, engine: Engine, handles: dict[str, Session], known: dict[str, int]) -> None:
        self.sim = sim
        self.engine = engine
        self.handles = handles
        self.sent: dict[str, list[Sent]] = {name: [] for name in SESSIONS}
        self.begun = dict(known)
        self.known = known

    async def actor(self, name: str, script: list[Any]) -> None:
        """Send one actor's commands, each when the one before it is answered."""
        for number, (target, items, expected, again) in enumerate(script):
            envelopes = tuple(Envelope(item, f"{name}-{number}-{index}") for index, item in enumerate(items))
            earlier = self.sent[target]
            if again is not None and again < len(earlier):
                envelopes, expected = earlier[again].envelopes, None
            sent = Sent(envelopes, expected, self.known[target])
            earlier.append(sent)
            try:
                sent.answer = await self.handles[target].append(*envelopes, expected_seq=expected)
            except (UnknownMessageError, InvalidEventError, WrongExpectedSeqError) as refusal:
                sent.answer = refusal
            sent.committed = max(
                [
                    1,
                    *(
                        e.seq or 0
                        for receipt in self.sim.host.receipts
                        if receipt.session_id == target
                        for e in receipt.events
                    ),
                ]
            )
            self.known[target] = sent.committed

    async def judge(self) -> None:
        """Read the log, and explain every answer and the read model by it."""
        model = Model()
        for name in SESSIONS:
            replayed = self.replay(name)
            model.sessions[name] = replayed.model.sessions[name]
            log = (await self.engine.read.log(session_id=name)).items
            assert {entry.event_id: entry.seq for entry in log if entry.event_id in replayed.stored} == replayed.stored
            assert replayed.head == log[-1].seq
        await compare(self.engine, model)

    def replay(self, name: str) -> Replayed:
        """Feed the model the appends in the order of the log, and find a place for those that stored nothing."""
        replayed = Replayed(Model(), head=self.begun[name])
        replayed.model.create(name, name)
        replayed.model.append(name, 0, [MessageUpdated("m1", "assistant")])
        states = {replayed.head: copy.deepcopy(replayed)}
        placed = sorted((sent.place, index) for index, sent in enumerate(self.sent[name]) if sent.place is not None)
        for place, index in placed:
            sent = self.sent[name][index]
            assert place == replayed.head + 1
            assert replayed.answer(name, sent) == words(sent.answer)
            for envelope, entry in zip(sent.envelopes, sent.answer.events, strict=True):
                if entry.seq is not None and not isinstance(entry.outcome, Duplicate):
                    replayed.head += 1
                    assert entry.seq == replayed.head
                    replayed.stored[str(envelope.event_id)] = entry.seq
            states[replayed.head] = copy.deepcopy(replayed)
        for sent in self.sent[name]:
            if sent.place is None:
                could = [state for head, state in states.items() if sent.known <= head <= sent.committed]
                answers = [copy.deepcopy(state).answer(name, sent) for state in could]
                assert words(sent.answer) in answers, (sent, answers)
        return replayed


async def play(sim: Simulation, workload: list[list[Any]]) -> None:
    """One run: everybody at once, then the log is read; what the file must always hold is checked after closing."""
    async with sim.engine() as engine:
        handles = {name: await engine.create_session(name, title=name) for name in SESSIONS}
        first = {name: await handle.append(MessageUpdated("m1", "assistant")) for name, handle in handles.items()}
        world = World(sim, engine, handles, {name: receipt.seq or 0 for name, receipt in first.items()})
        async with sim.actors() as actors:
            for number, script in enumerate(workload):
                actors.start(f"a{number}", world.actor, f"a{number}", script)
        await world.judge()
    receipts = [receipt for receipt in sim.host.receipts if receipt.events]
    check_log(sim.host.disk.path("sim.db"), receipts=receipts, vfs=sim.host.disk.name)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(workloads, schedules())
def test_the_log_explains_every_answer_and_every_table(workload, parameters):
    """Receipts and tables are what the reference model makes of the log, in whatever order and batches it was written."""
    with session():
        under(lambda sim: play(sim, workload), parameters)
