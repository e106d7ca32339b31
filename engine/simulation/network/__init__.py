"""A network in memory: what `Ports.network` is in a simulated run, deterministic, with connections that fail on request.

    server, client = sim.process(), sim.network             # a process has a network of its own: `process.network`
    listening = await process.network.listen("localhost", 0)
    stream = await sim.network.connect("localhost", listening.port)

Owns: addresses, listeners, connections, and their fault model. Must not know: what is sent, strategies.

The model is TCP as programs see it. Bytes of one direction keep their order; a sender that is too far ahead waits. A close
lets what was sent before it arrive, then the end; a close with unread bytes breaks the connection. The first send to
somebody who has closed succeeds and is lost. Who connects where nobody listens is refused. The death of a process closes all
that it opened and accepted; a power failure lets any part of what it had sent arrive, then breaks.

What a `net` disturbance does to an operation of a connection, when it is about to happen:

- `lost/n`: the connection breaks for both ends. At a send, n bytes of what is being sent arrive before (`lost/all`: all),
  and the sender sees it break. At a receive, n of the unread bytes do, and the sender believed them sent. At a connect (any
  n) it is refused.
- `delay/ms`: what is being sent (at a receive: what is unread) arrives so many virtual milliseconds later, and all behind it
  after it. At a connect, that takes so long.
- `split/n`: n bytes of it are read alone, before the rest.

Invariants: what happens is a function of the schedule alone; nothing here asks for time or randomness but the run's.

`points` (decisions), `directions` (bytes on their way), `streams` (the ends), `addresses` (who listens, who connects).
"""

from engine.simulation.network.addresses import BACKLOG_MAX, SimulatedListener, SimulatedNetwork
from engine.simulation.network.directions import BUFFER_BYTES_MAX
from engine.simulation.network.streams import SimulatedStream

__all__ = ["BACKLOG_MAX", "BUFFER_BYTES_MAX", "SimulatedListener", "SimulatedNetwork", "SimulatedStream"]
