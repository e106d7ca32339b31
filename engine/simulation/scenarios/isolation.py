"""Who has nothing to do with each other: workspaces with the same ids, and callers whose neighbour is refused.

Owns: scenarios in which the trouble or the ids of one must not reach another that shares its file or its transaction.
"""

from __future__ import annotations

from typing import Final

from engine.errors import DuplicateIdError, UnknownSessionError, WrongExpectedSeqError
from engine.events import Envelope, MessageRemoved, MessageUpdated, PartUpdated, RecordedEvent, SessionNoted, UsageRecorded
from engine.runtime import Workspace
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program, Scenario
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import log_of, noise_on, on_engine
from engine.simulation.world import Simulation


def workspaces(noise: int) -> Program:
    """Two tenants use the same session, message and event ids at once; one removes what the other goes on with."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            seqs: dict[str, list[int]] = {"acme": [], "zeta": []}

            async def tenant(name: str, cost: int) -> None:
                workspace = engine.workspace(name)
                session = await workspace.create_session("s", event_id="start")
                events = [
                    MessageUpdated("M", "assistant"),
                    PartUpdated("p", "M", "text", {"of": name}),
                    UsageRecorded("u", "M", cost_nanousd=cost),
                ]
                if name == "zeta":
                    events.append(MessageRemoved("M"))
                for number, event in enumerate(events):
                    receipt = await session.append(Envelope(event, f"e{number}"))
                    seqs[name].append(receipt.seq or 0)
                await _check(workspace, name, cost)

            async with sim.actors() as actors:
                start_all(
                    sim,
                    actors,
                    noise,
                    noise_on(engine),
                    ("acme", lambda: tenant("acme", 7)),
                    ("zeta", lambda: tenant("zeta", 11)),
                )
            must(seqs == {"acme": [2, 3, 4], "zeta": [2, 3, 4, 5]}, "each counts for itself", seqs)
            try:
                await engine.workspace("other").session("s")
            except UnknownSessionError:
                pass
            else:
                must(False, "a third workspace has no such session")

    return scenario


async def _check(workspace: Workspace, name: str, cost: int) -> None:
    messages = (await workspace.read.messages("s")).items
    must(len(messages) == (1 if name == "acme" else 0), "a removal reaches its own workspace only", (name, messages))
    total = (await workspace.read.usage("s")).total.cost_nanousd
    must(total == cost, "usage is counted for its own workspace", (name, total))
    async with workspace.log() as log:
        owners = {item.workspace async for item in log if isinstance(item, RecordedEvent)}
    must(owners == {name}, "a follower hears its own workspace only", (name, owners))


def refused_neighbour(noise: int) -> Program:
    """Appends of two events, the second of which is refused, share transactions with those of others."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            await session.append(Envelope(MessageUpdated("M", "assistant"), "taken"))
            written: list[str] = []

            async def refused(name: str) -> None:
                for number in range(2):
                    first = Envelope(PartUpdated(f"{name}.{number}", "M", "text", {}), f"{name}.{number}")
                    try:
                        await session.append(first, Envelope(MessageUpdated("other", "assistant"), "taken"))
                    except DuplicateIdError:
                        continue
                    must(False, "an id that is taken is refused")

            async def neighbour(name: str) -> None:
                for number in range(2):
                    part = Envelope(PartUpdated(f"{name}.{number}", "M", "text", {}), f"{name}.{number}")
                    await session.append(part, Envelope(MessageUpdated(f"{name}.{number}", "user"), f"{name}.{number}m"))
                    written.extend((f"{name}.{number}", f"{name}.{number}m"))

            async with sim.actors() as actors:
                works = [(name, lambda name=name: refused(name)) for name in ("turn 1", "turn 2")]
                works += [(name, lambda name=name: neighbour(name)) for name in ("user 1", "user 2")]
                start_all(sim, actors, noise, noise_on(engine), *works)
            found = [event.event_id for event in await log_of(engine)][2:]
            must(sorted(found) == sorted(written), "a refused append leaves nothing and takes nobody along", found)
            parts = [part.part_id for view in (await engine.read.messages("s")).items for part in view.parts]
            must(sorted(parts) == sorted(name for name in written if not name.endswith("m")), "nor in the read model", parts)
            sim.sometimes("appends shared a transaction", engine.statistics().writer.batch_events_max > 2)

    return scenario


def compare_and_append(noise: int) -> Program:
    """Actors read where the session stands, and append only if nobody was quicker: of each place one of them wins."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            won: list[int] = []
            lost = 0

            async def contender(name: str) -> None:
                nonlocal lost
                for number in range(2):
                    seq = (await log_of(engine))[-1].seq
                    try:
                        receipt = await session.append(SessionNoted(f"{name}.{number}", "k"), expected_seq=seq)
                    except WrongExpectedSeqError:
                        lost += 1
                        continue
                    must(receipt.seq == seq + 1, "the winner comes right behind what it saw", (seq, receipt))
                    won.append(seq)

            async with sim.actors() as actors:
                works = [(name, lambda name=name: contender(name)) for name in ("left", "right")]
                start_all(sim, actors, noise, noise_on(engine), *works)
            must(len(set(won)) == len(won), "one place has one winner", won)
            sim.sometimes("somebody was too late", lost > 0)

    return scenario


ENGINE: Final[tuple[Scenario, ...]] = (
    on_engine("6 workspaces", "Two workspaces use the same ids at once.", workspaces, "cut"),
    on_engine("6 expected seq", "Actors append where the session stands, if it still does.", compare_and_append, "cut"),
    on_engine("6 refused neighbour", "Refused appends share transactions with others.", refused_neighbour, "cut"),
)
