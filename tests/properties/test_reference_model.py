"""Property: random sequences of events, in random batches, give the outcomes and read model of the reference model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import Duplicate, Envelope, Skipped
from engine.errors import InvalidEventError, UnknownMessageError
from engine.events import (
    MessageEdited,
    MessageFinished,
    MessageRemoved,
    MessageUpdated,
    PartDelta,
    PartEdited,
    PartRemoved,
    PartUpdated,
    SessionNoted,
    SessionRemoved,
    SessionUpdated,
    ToolUpdated,
    UsageRecorded,
)
from tests.support.engines import Gate, checked_engine, in_one_batch, one_by_one
from tests.support.reference import Life, Model

messages = st.sampled_from(["m1", "m1", "m1", "m2"])
parts = st.sampled_from(["p1", "p2"])
calls = st.sampled_from(["t1", "t2"])
metadata = st.sampled_from([{}, {"a": 1}])
texts = st.sampled_from(["", "a", "ab", "b"])
by = st.sampled_from(["owner", "owner", "sweep"])
data = st.one_of(st.just({}), st.just({"x": 1}), st.builds(lambda t: {"text": t}, texts))
states = st.sampled_from(["pending", "running", "completed", "error", "aborted"])

common = st.one_of(
    st.builds(MessageUpdated, messages, st.just("assistant"), metadata),
    st.builds(PartUpdated, parts, messages, st.sampled_from(["text", "file"]), data),
    st.builds(PartDelta, parts, messages, st.just("text"), st.integers(0, 3), texts),
    st.builds(
        lambda part, message, state, output, who: ToolUpdated(part, message, f"c {part}", "x", state, output=output, by=who),
        calls,
        messages,
        states,
        st.sampled_from([None, "one", "two"]),
        by,
    ),
)
rare = st.one_of(
    st.builds(
        MessageUpdated, messages, st.sampled_from(["assistant", "user"]), metadata, st.sampled_from([None, "unknown"])
    ),
    st.builds(
        MessageFinished, messages, st.sampled_from(["completed", "aborted", "error"]), st.sampled_from([None, "r"]), by
    ),
    st.builds(MessageEdited, messages, metadata),
    st.builds(MessageRemoved, messages),
    st.builds(PartEdited, parts, messages, data),
    st.builds(PartRemoved, st.one_of(parts, calls), messages),
    st.builds(
        UsageRecorded, st.sampled_from(["st1", "st2"]), st.one_of(st.none(), messages), cost_nanousd=st.integers(0, 3)
    ),
    st.builds(SessionNoted, st.just("n"), st.just("k")),
    st.builds(SessionUpdated, st.sampled_from([None, "one", "two"])),
)
events = st.one_of(common, common, rare, st.one_of(rare, rare, rare, st.just(SessionRemoved())))
appends = st.tuples(st.sampled_from(["s1", "s2"]), st.booleans(), st.lists(events, min_size=1, max_size=3))
batches = st.lists(st.tuples(st.booleans(), st.lists(appends, min_size=1, max_size=5)), min_size=3, max_size=14)


def outcome_names(answer: Any) -> list[str] | None:
    """What a receipt says, in the words of the reference model; None for a refusal."""
    if isinstance(answer, UnknownMessageError | InvalidEventError):
        return None
    if isinstance(answer, Exception):
        raise answer
    return [e.outcome.reason if isinstance(e.outcome, Skipped) else "applied" for e in answer.events]


async def look(engine: Any, session_id: str) -> Any:
    """The session's read model as plain values."""
    page = await engine.read.messages(session_id, after=0)
    return (
        (await engine.read.session(session_id)).title,
        [
            (
                m.message_id,
                (m.role, m.status, m.finish_reason, m.settled_by, m.metadata),
                [(p.part_id, p.kind, p.data, p.tool and (p.tool.state, p.tool.settled_by, p.tool.output)) for p in m.parts],
            )
            for m in page.items
        ],
    )


def expect(life: Life) -> Any:
    """The same of the reference model."""
    return (
        life.title,
        [
            (
                name,
                (m.role, m.status, m.reason, m.by, m.metadata),
                [
                    (part_id, p.kind, p.data, p.tool and (p.tool.state, p.tool.by, p.tool.output))
                    for part_id, p in life.parts.items()
                    if p.message_id == name
                ],
            )
            for name, m in life.messages.items()
        ],
    )


async def compare(engine: Any, model: Model) -> None:
    """The engine's read model equals the reference model's, session by session."""
    live = {view.session_id for view in (await engine.read.sessions()).items} - {"plug"}
    assert live == {name for name, lives in model.sessions.items() if lives[-1].live}
    for name, lives in model.sessions.items():
        if lives[-1].live:
            assert await look(engine, name) == expect(lives[-1])
        report = await engine.read.usage(name)
        own = sum(cost for life in lives for message, cost in life.usage.values() if message in life.messages)
        total = sum(cost for life in lives for _, cost in life.usage.values())
        assert (report.own.cost_nanousd, report.unattributed.cost_nanousd) == (own, total - own)
        assert report.total.steps == sum(len(life.usage) for life in lives)


async def play(path: Path, script: list[Any]) -> None:
    """Run a script against an engine and the model, then reopen; every invariant is checked after each closing."""
    gate, model, number = Gate(), Model(), 0
    sent: list[Any] = []
    async with checked_engine(path, ports=gate.ports()) as engine:
        plug = await engine.create_session("plug")
        handles: dict[str, list[Any]] = {"s1": [], "s2": []}
        for together, batch in script:
            for name, lives in handles.items():
                if not lives or not model.sessions[name][-1].live:
                    title = f"life {len(lives)}"
                    lives.append(await engine.create_session(name, title=title))
                    model.create(name, title)
                    # Without a message to write to, most events would be refused.
                    await lives[-1].append(MessageUpdated("m1", "assistant"))
                    model.append(name, len(lives) - 1, [MessageUpdated("m1", "assistant")])
            work, expected, given = [], [], []
            for name, late, items in batch:
                handle = handles[name][0 if late else -1]
                envelopes = tuple(Envelope(item, f"e{(number := number + 1)}") for item in items)
                work.append(lambda handle=handle, envelopes=envelopes: handle.append(*envelopes))
                expected.append(model.append(name, handle.incarnation - 1, items))
                given.append((handle, envelopes))
            answers = await (in_one_batch(gate, plug.drain, *work) if together else one_by_one(*work))
            assert [outcome_names(answer) for answer in answers] == expected
            sent += [(*g, a) for g, a, e in zip(given, answers, expected, strict=True) if e is not None]
        await compare(engine, model)
        await send_again(sent)
        await compare(engine, model)
    async with checked_engine(path, sweep=False) as engine:
        await compare(engine, model)


async def send_again(sent: list[Any]) -> None:
    """Deliver every append that was answered once more: what is stored answers Duplicate, with the first answer."""
    for handle, envelopes, receipt in sent:
        stored = [(e, given) for e, given in zip(receipt.events, envelopes, strict=True) if e.seq is not None]
        if stored:
            again = await handle.append(*(given for _, given in stored))
            assert [entry.outcome for entry in again.events] == [Duplicate(e) for e, _ in stored]


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(batches)
def test_outcomes_and_read_model_equal_the_reference_model(script):
    """Whatever is appended in whatever batches, the engine answers and stores what the contract says; so does a rebuild."""
    with tempfile.TemporaryDirectory() as folder:
        trio.run(play, Path(folder) / "a.db", script, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_property_can_fail():
    """The reference model disagrees with a wrong expectation, or the property would prove nothing."""
    model = Model()
    model.create("s", None)
    assert model.append("s", 0, [MessageUpdated("m", "assistant"), MessageRemoved("m")]) == ["applied", "applied"]
    assert model.append("s", 0, [PartUpdated("p", "m", "text")]) == ["orphan_part"]
    assert model.append("s", 0, [PartUpdated("p", "never", "text")]) is None
