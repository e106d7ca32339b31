"""A process that owns a log and writes into it what it is told, one command a line, each answered when it is durable.

    python -m tests.support.streamer PATH

Commands: `start SESSION`, `say SESSION MESSAGE OFFSET TEXT` (a delta of its one part; announces the message at offset 0),
`finish SESSION MESSAGE`, `remove SESSION`, `import SESSION TEXT`, `replace SESSION TEXT` (an import). Answers `ok`.
It ends, and closes the log, with its input.
"""

from __future__ import annotations

import sys

import trio

from engine import Engine, Envelope, open_engine
from engine.events import MessageFinished, MessageUpdated, PartDelta, PartUpdated, SessionStarted


async def obey(engine: Engine, words: list[str]) -> None:
    """Carry out one command."""
    command, name, *rest = words
    if command == "start":
        await engine.create_session(name)
        return
    if command in ("import", "replace"):
        events = [SessionStarted(), MessageUpdated("i", "user"), PartUpdated("p", "i", "text", {"text": rest[0]})]
        envelopes = [Envelope(event, f"{number}") for number, event in enumerate(events)]
        await (engine.import_events if command == "import" else engine.replace_imported)(name, envelopes)
        return
    session = await engine.session(name)
    if command == "remove":
        await session.remove()
    elif command == "finish":
        await session.append(MessageFinished(rest[0], "completed"))
    else:
        message, offset, text = rest
        if offset == "0":
            await session.append(MessageUpdated(message, "assistant"), PartUpdated(f"p-{message}", message, "text"))
        await session.append(PartDelta(f"p-{message}", message, "text", int(offset), text))


async def main(path: str) -> None:
    async with open_engine(path, durability="normal", sync="commit") as engine:
        sys.stdout.write("ok\n")
        sys.stdout.flush()
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            await obey(engine, line.rstrip("\n").split(" ", 4))
            sys.stdout.write("ok\n")
            sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
