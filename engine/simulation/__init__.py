"""Deterministic race simulation: the same code under every schedule, from one seed; for the engine and for any trio code.

    from engine import simulation

    campaign = simulation.explore(scenario, schedules=500)      # an async function of the Simulation, or of nothing
    if campaign.failure:
        shrunk = simulation.shrink(scenario, campaign.failure)      # shrunk.schedule: the fewest orderings
    simulation.replay(scenario, "c1:turn#late part>user#remove m")

Owns: who runs next, what time it is, what the disk keeps, and what must hold afterwards. Must not know: nothing; and nothing
in production code knows of it. Everything in a run happens in one thread, on real trio and real SQLite.

A map of the room, from one run to the proof of many:

- one run: `running` (its life), `world` (what a scenario sees), `controller` (who is next) with `actors`, `policy`, `plan`,
  `patience`, `choices`; `driving` and `probing` (trio made to obey), `primitives` (points before sends, receives, locks),
  `virtual` (time, ids), `network` (connections in memory), `traps` (what no seed controls), `schedule` (their strings)
- the engine in it: `engine_ports`, `hosting` (processes, crashes), `restarting`, `disk` (in memory), `oracles`
- many runs: `exploring`, `strategies`, `directed`, `campaign`; `exhaustive`, `conflicts`, `commuting` (proofs); `crashing`,
  `committed` (every crash of a run); `twin` (two processes compared); `hypotheses` (with Hypothesis)
- a failure: `shrinking`, `trying`, `reducing`, `orderings`, `sampling`; `report`, `picture`; `corpus`, `checking`, `plugin`
- `scenarios`: the races this engine is built against, as the design that had the bug and on the engine
"""

from engine.simulation.campaign import Campaign, Failure
from engine.simulation.choices import Address, Disturbance, Op, Step
from engine.simulation.exploring import explore, replay
from engine.simulation.primitives import point
from engine.simulation.running import Run, run
from engine.simulation.schedule import Hold, Schedule, order, parse
from engine.simulation.shrinking import Shrunk, shrink
from engine.simulation.world import Actors, Simulation

__all__ = [
    "Actors",
    "Address",
    "Campaign",
    "Disturbance",
    "Failure",
    "Hold",
    "Op",
    "Run",
    "Schedule",
    "Shrunk",
    "Simulation",
    "Step",
    "explore",
    "order",
    "parse",
    "point",
    "replay",
    "run",
    "shrink",
]
