"""Two workspaces in one file, with the same ids: neither can see, change, nor acknowledge anything of the other."""

from __future__ import annotations

from typing import Final

from engine.errors import UnknownSessionError
from engine.events import Envelope, MessageRemoved, MessageUpdated, PartUpdated, RecordedEvent, UsageRecorded
from engine.runtime import Workspace
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program, Scenario
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import noise_on, on_engine
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


ENGINE: Final[tuple[Scenario, ...]] = (
    on_engine("6 workspaces", "Two workspaces use the same ids at once.", workspaces, "cut"),
)
