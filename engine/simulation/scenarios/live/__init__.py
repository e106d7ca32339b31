"""Server and client over the network: followers and commands, whatever becomes of connections and processes."""

from typing import Final

from engine.simulation.scenarios.declaring import Scenario
from engine.simulation.scenarios.live import commanding, following
from engine.simulation.scenarios.on_engine import on_engine

NAIVE: Final[tuple[Scenario, ...]] = ()
ENGINE: Final[tuple[Scenario, ...]] = (
    on_engine("7 follow", "Clients follow a turn that streams.", following.following, "net", "crash"),
    on_engine("7 command", "Clients write to one session.", commanding.commanding, "net", "crash"),
    on_engine("7 stop", "A client stops a turn, and removes what it wrote.", commanding.stopping, "net", "crash"),
    on_engine("7 answers", "Callers are cancelled and their answers lost.", commanding.commanding, "cancel", "lose", "net"),
)
