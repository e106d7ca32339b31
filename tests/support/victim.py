"""The process that gets killed: many sessions at once, each acknowledgement written out before the next thing happens.

    python -m tests.support.victim PATH SEED [SECONDS_BETWEEN]

Writes one JSON line per stored event of a receipt, [session, event id, seq, position], to stdout by one `write` each, so
that what stands there was acknowledged before the kill. It ends by being killed, or after a minute.
"""

from __future__ import annotations

import json
import os
import random
import sys

import trio

from engine import Engine, EngineError, Envelope, Receipt, Session, open_engine
from engine.events import MessageUpdated, PartUpdated, SessionNoted, UsageRecorded

SESSIONS = 50


def say(receipt: Receipt) -> None:
    """Print what a receipt acknowledges."""
    lines = [
        json.dumps([receipt.session_id, entry.event_id, entry.seq, entry.position])
        for entry in receipt.events
        if entry.seq is not None
    ]
    if lines:
        os.write(sys.stdout.fileno(), ("\n".join(lines) + "\n").encode())


async def live(engine: Engine, name: str, chance: random.Random, run: int, pause_s: float) -> None:
    """One session's agent: whatever agents do, at random, for ever."""
    try:
        session = await engine.session(name)
    except EngineError:
        session = await engine.create_session(name)
    count = 0
    while True:
        count += 1
        label = f"{run}-{count}"
        what = chance.random()
        if what < 0.4:
            say(await session.append(Envelope(SessionNoted(f"n-{label}", "note", {"x": "y" * 50}), f"id-{label}")))
        elif what < 0.8:
            await stream(session, label, chance)
        elif what < 0.95:
            await remove_one(session, label, chance)
        else:
            say(await session.remove())
            session = await engine.create_session(name)
        await trio.sleep(chance.random() * pause_s)


async def stream(session: Session, label: str, chance: random.Random) -> None:
    """One turn: text, a tool call, usage."""
    async with session.turn() as turn, turn.message() as message:
        for _ in range(chance.randrange(1, 6)):
            await message.text("some streamed text ")
        say(await message.tool(call_id=f"c-{label}", name="bash", state="running", input={"command": "ls"}))
        await message.text("and more")
        say(await message.usage(step_id=f"st-{label}", cost_nanousd=10, input_tokens=3))
        if chance.random() < 0.5:
            say(await message.tool(call_id=f"c-{label}", state="completed", output="done"))


async def remove_one(session: Session, label: str, chance: random.Random) -> None:
    """A message that is announced and removed, and a part and a step that come late for it."""
    message_id = f"m-{label}"
    say(await session.append(MessageUpdated(message_id, "user"), PartUpdated(f"p-{label}", message_id, "text")))
    say(await session.remove_message(message_id))
    say(await session.append(PartUpdated(f"late-{label}", message_id, "text")))
    say(await session.append(UsageRecorded(f"late-st-{label}", message_id, cost_nanousd=1)))


async def main(path: str, seed: int, pause_s: float) -> None:
    chance = random.Random(seed)
    with trio.move_on_after(60):
        async with open_engine(path) as engine, trio.open_nursery() as nursery:
            for number in range(SESSIONS):
                nursery.start_soon(live, engine, f"ses-{number}", random.Random(chance.random()), seed, pause_s)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.2)
