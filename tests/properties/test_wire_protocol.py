"""The two halves of the wire protocol against each other, over connections that are lost at any frame."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.support.wire import SESSIONS, World

counts = st.integers(0, 6)
few = st.integers(0, 4).map(lambda number: 4 - number)
sessions = st.sampled_from(SESSIONS)


class WireProtocol(RuleBasedStateMachine):
    """Any order of steps; at the end everything that was promised is checked against the model's log."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    # --- callers

    @precondition(lambda self: len(self.world.readers) < 4)
    @rule(
        after=st.sampled_from(("start", "now", "snapshot", "cursor")),
        chosen=st.sampled_from((None, ["s"], ["s", "t"])),
        which=counts,
    )
    def follow(self, after, chosen, which):
        if after == "cursor":
            events = self.world.log.events
            after = str(events[which % len(events)].cursor) if events else "start"
        self.world.follow(after, chosen)

    @rule(session_id=sessions, times=st.integers(1, 3))
    def append(self, session_id, times):
        for _ in range(times):
            self.world.append(session_id)

    @precondition(lambda self: self.world.commands)
    @rule(which=counts)
    def cancel(self, which):
        pending, answers = self.world.commands[which % len(self.world.commands)]
        if answers.value is None:
            self.world.client.withdraw(pending)

    @rule(session_id=sessions, texts=st.lists(st.sampled_from(("a", "bc")), min_size=1, max_size=3))
    def post(self, session_id, texts):
        for text in texts:
            self.world.post(session_id, text)

    @rule(session_id=sessions)
    def flush(self, session_id):
        self.world.flush(session_id)

    @precondition(lambda self: self.world.readers)
    @rule(which=counts, items=counts)
    def read(self, which, items):
        reader = self.world.readers[which % len(self.world.readers)]
        for _ in range(items):
            self.world.read(reader)

    # --- the link and the server: some of everything that can happen now

    @rule(rounds=st.lists(st.tuples(few, few, few, few, st.integers(1, 4), few), min_size=1, max_size=6))
    def go_on(self, rounds):
        world = self.world
        if world.server is None:
            world.connect()
            world.client_receives()
        for sends, server_gets, works, publishes, events, gets in rounds:
            for _ in range(sends):
                world.client_sends()
            for _ in range(server_gets):
                world.server_receives()
            for _ in range(works):
                world.server_works()
            for which in range(publishes):
                world.server_publishes(which, events)
            for _ in range(gets):
                world.client_receives()

    @precondition(lambda self: self.world.server is not None)
    @rule(server_gets=counts, client_gets=counts)
    def lose(self, server_gets, client_gets):
        self.world.lose(server_gets=server_gets, client_gets=client_gets)

    @rule(which=counts, lagging=st.booleans())
    def server_marks(self, which, lagging):
        self.world.server_marks(which, lagging=lagging)

    @precondition(lambda self: self.world.server is not None)
    @rule()
    def server_closes(self):
        self.world.close()

    @precondition(lambda self: self.world.server is not None)
    @rule()
    def server_restarts(self):
        self.world.restart()

    def teardown(self):
        self.world.settle()
        self.world.check()


TestWireProtocol = WireProtocol.TestCase
TestWireProtocol.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def _step(world: World, chance: random.Random) -> None:
    """One thing that happens; the ordinary ones most often."""
    name = chance.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
    session_id = chance.choice(SESSIONS)
    reader = chance.choice(world.readers) if world.readers else None
    match name:
        case "connect" if world.server is None:
            world.connect()
        case "lose" if world.server is not None:
            world.lose(server_gets=chance.randrange(6), client_gets=chance.randrange(6))
        case "close":
            world.close()
        case "restart":
            world.restart()
        case "follow" if len(world.readers) < 5:
            events = world.log.events
            after = chance.choice(("start", "now", "snapshot", str(chance.choice(events).cursor) if events else "start"))
            world.follow(after, chance.choice((None, ["s"], ["s", "t"])))
        case "append":
            world.append(session_id)
        case "post":
            world.post(session_id, chance.choice(("a", "bc")))
        case "flush":
            world.flush(session_id)
        case "cancel":
            waiting = [pending for pending, answers in world.commands if answers.value is None]
            if waiting:
                world.client.withdraw(chance.choice(waiting))
        case "read" if reader is not None:
            world.read(reader)
        case "mark":
            world.server_marks(chance.randrange(5), lagging=chance.random() < 0.3)
        case "publish":
            world.server_publishes(chance.randrange(5), chance.randrange(1, 5))
        case "send":
            world.client_sends()
        case "server receives":
            world.server_receives()
        case "work":
            world.server_works()
        case "receive":
            world.client_receives()


WEIGHTS = {
    "connect": 8,
    "lose": 1.5,
    "close": 0.5,
    "restart": 0.3,
    "follow": 2,
    "append": 6,
    "post": 6,
    "flush": 1,
    "cancel": 1,
    "read": 10,
    "mark": 3,
    "publish": 15,
    "send": 20,
    "server receives": 20,
    "work": 15,
    "receive": 25,
}


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_happens_every_event_comes_once_and_every_command_has_one_effect(seed):
    """Long walks, dense enough that buffers overflow, flushes overtake connections and snapshots break in the middle."""
    chance = random.Random(seed)
    world = World()
    for _ in range(400):
        _step(world, chance)
    world.settle()
    world.check()


def test_walks_meet_what_they_are_for():
    """The walks above do reconnect, resume, send again, fall behind and refuse posts for want of room."""
    hellos = resumed = resent = lagging = 0
    for seed in range(20):
        chance = random.Random(seed)
        world = World()
        for _ in range(400):
            _step(world, chance)
        hellos += world.client.counts.hellos
        resumed += world.client.counts.resumed
        resent += world.client.outbox.resent
        lagging += world.client.counts.lagging
    assert min(hellos, resumed, resent) > 50
    assert lagging > 10
