"""Server and client over the network: followers and commands, whatever becomes of connections and processes."""

from typing import Final

from engine.simulation.scenarios.declaring import Scenario
from engine.simulation.scenarios.live import commanding, ending, following, naive, neighbours
from engine.simulation.scenarios.on_engine import on_engine

NAIVE: Final[tuple[Scenario, ...]] = naive.NAIVE
ENGINE: Final[tuple[Scenario, ...]] = (
    on_engine("7 follow", "Clients follow a turn that streams.", following.following, "net", "crash"),
    on_engine("7 subscription", "One client follows one turn.", following.subscription, "net", "crash"),
    on_engine("7 command", "Clients write to one session.", commanding.commanding, "net", "crash"),
    on_engine("7 one command", "One client writes.", commanding.command, "net", "crash"),
    on_engine("7 answers", "Callers are cancelled, their answers lost.", commanding.commanding, "net", "cancel", "lose"),
    on_engine("7 stop", "A client stops a turn, and removes what it wrote.", commanding.stopping, "net", "crash"),
    on_engine("7 slow", "One client reads nothing, one reads late.", neighbours.slow, "net"),
    on_engine("7 isolation", "Two tokens, two workspaces, the same ids.", neighbours.isolation, "net", "crash"),
    on_engine("7 shutdown", "The server goes away in the midst of commands.", ending.shutdown, "net"),
    on_engine("7 replaced", "What was imported is replaced under its followers.", ending.replaced, "net"),
    on_engine("7 restored", "An older copy of the log stands behind the address.", ending.restored, "net"),
)
