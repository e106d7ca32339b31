"""The two halves of the wire protocol against each other, over connections that are lost at any frame."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.support.wire import SESSIONS, World

counts = st.integers(0, 6)
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

    @rule(session_id=sessions)
    def append(self, session_id):
        self.world.append(session_id)

    @precondition(lambda self: self.world.commands)
    @rule(which=counts)
    def cancel(self, which):
        pending, answers = self.world.commands[which % len(self.world.commands)]
        if answers.value is None:
            self.world.client.withdraw(pending)

    @rule(session_id=sessions, text=st.text("ab", min_size=1, max_size=3))
    def post(self, session_id, text):
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

    # --- the link

    @rule()
    def connect(self):
        self.world.connect()

    @rule(frames=counts)
    def client_sends(self, frames):
        for _ in range(frames):
            self.world.client_sends()

    @rule(frames=counts)
    def client_receives(self, frames):
        for _ in range(frames):
            self.world.client_receives()

    @precondition(lambda self: self.world.server is not None)
    @rule(server_gets=counts, client_gets=counts)
    def lose(self, server_gets, client_gets):
        self.world.lose(server_gets=server_gets, client_gets=client_gets)

    # --- the server

    @rule(frames=counts)
    def server_receives(self, frames):
        for _ in range(frames):
            self.world.server_receives()

    @rule(commands=counts)
    def server_works(self, commands):
        for _ in range(commands):
            self.world.server_works()

    @rule(which=counts, events=st.integers(1, 7))
    def server_publishes(self, which, events):
        self.world.server_publishes(which, events)

    @rule(which=counts, lagging=st.booleans())
    def server_marks(self, which, lagging):
        self.world.server_marks(which, lagging=lagging)

    @rule()
    def server_closes(self):
        self.world.close()

    @rule()
    def server_restarts(self):
        self.world.restart()

    def teardown(self):
        self.world.settle()
        self.world.check()


TestWireProtocol = WireProtocol.TestCase
TestWireProtocol.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
