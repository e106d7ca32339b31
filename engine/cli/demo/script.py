"""What an agent of the demo says: turns made up by a seed, or taken from real transcripts.

Owns: the script's words. Must not know: the engine's tasks, who plays a script.
Invariants: the same seed gives the same turns.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final

import attrs

from engine.errors import ImportFileError
from engine.events import MessageUpdated, PartUpdated, ToolState, ToolUpdated, UsageRecorded
from engine.importers import ImportedSession, find_transcripts, read_transcript

VOCABULARY: Final = (
    "the parser reads one token and keeps its place so a late part never finds its message again "
    "naïve Größe 数据 🙂 queue commit cursor replay index page snapshot fence epoch sweep"
)
WORDS: Final = tuple(VOCABULARY.split())
TOOLS: Final = ("bash", "read", "edit", "grep", "task")


@attrs.frozen
class Say:
    """Streamed text of a kind (`text` or `reasoning`)."""

    kind: str
    text: str


@attrs.frozen
class Call:
    """One update of a tool call."""

    call_id: str
    name: str
    state: ToolState
    input: Any = None
    output: Any = None
    error: str | None = None


@attrs.frozen
class Spend:
    """What a step used. Its id is made unique by the player."""

    usage: UsageRecorded


@attrs.frozen
class Whole:
    """A part that comes whole."""

    kind: str
    data: dict[str, Any]


Step = Say | Call | Spend | Whole


@attrs.define
class Answer:
    """One message of the assistant."""

    steps: list[Step] = attrs.field(factory=list)


@attrs.define
class TurnScript:
    """What the user says, and the messages that answer it."""

    prompt: str = ""
    answers: list[Answer] = attrs.field(factory=list)


def made_up(seed: str) -> Iterator[TurnScript]:
    """Turns without end."""
    rng = random.Random(seed)
    while True:
        answers = [_answer(rng, number) for number in range(rng.choice((1, 1, 2)))]
        yield TurnScript(_text(rng, 12), answers)


def _answer(rng: random.Random, number: int) -> Answer:
    steps: list[Step] = []
    if rng.random() < 0.5:
        steps.append(Say("reasoning", _text(rng, rng.randrange(5, 60))))
    steps.append(Say("text", _text(rng, rng.randrange(10, 150))))
    for call in range(rng.choice((0, 0, 1, 2))):
        call_id, name = f"call-{number}-{call}", rng.choice(TOOLS)
        steps.append(Call(call_id, name, "running", input={"command": _text(rng, 6)}))
        outcome = rng.random()
        if outcome < 0.8:
            steps.append(Call(call_id, name, "completed", output=_text(rng, rng.randrange(5, 200))))
        elif outcome < 0.9:
            steps.append(Call(call_id, name, "error", error="exit status 1"))
        # else: nobody ever answers, and settling the message aborts it
        steps.append(Say("text", _text(rng, rng.randrange(5, 40))))
    used = UsageRecorded(
        step_id=f"step-{number}",
        model=rng.choice(("small", "large")),
        cost_nanousd=rng.randrange(1_000, 50_000_000),
        input_tokens=rng.randrange(100, 9_000),
        output_tokens=rng.randrange(10, 2_000),
        cache_read_tokens=rng.randrange(0, 50_000),
    )
    steps.append(Spend(used))
    return Answer(steps)


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def from_folder(folder: str) -> list[tuple[str, list[TurnScript]]]:
    """The sessions of every transcript in a folder as scripts, with their ids. Raises `ImportFileError` for none."""
    scripts = []
    for path in find_transcripts([folder]):
        try:
            transcript = read_transcript(path)
        except ImportFileError:
            continue
        for session in transcript.sessions:
            turns = from_session(session)
            if turns:
                scripts.append((session.session_id, turns))
    if not scripts:
        raise ImportFileError(folder, "holds no transcript with a conversation")
    return scripts


def from_session(session: ImportedSession) -> list[TurnScript]:
    """An imported session's messages as live turns: each message of a user begins one."""
    turns: list[TurnScript] = []
    answers: dict[str, Answer] = {}
    prompts: dict[str, TurnScript] = {}
    for event in (envelope.event for envelope in session.envelopes):
        if isinstance(event, MessageUpdated):
            if event.role != "assistant" or not turns:
                turns.append(TurnScript())
            if event.role != "assistant":
                prompts[event.message_id] = turns[-1]
            elif event.message_id not in answers:
                answers[event.message_id] = Answer()
                turns[-1].answers.append(answers[event.message_id])
        elif isinstance(event, PartUpdated):
            _add_part(event, answers.get(event.message_id), prompts.get(event.message_id))
        elif isinstance(event, ToolUpdated) and event.message_id in answers:
            call = Call(event.call_id, event.name, event.state, event.input, event.output, event.error)
            answers[event.message_id].steps.append(call)
        elif isinstance(event, UsageRecorded) and event.message_id in answers:
            answers[event.message_id].steps.append(Spend(event))
    return [turn for turn in turns if turn.answers]


def _add_part(event: PartUpdated, answer: Answer | None, prompt: TurnScript | None) -> None:
    text = event.data.get("text")
    if answer is None:
        if prompt is not None and isinstance(text, str):
            prompt.prompt += text
    elif event.kind in ("text", "reasoning") and isinstance(text, str):
        answer.steps.append(Say(event.kind, text))
    else:
        answer.steps.append(Whole(event.kind, event.data))
