"""Race 3 on the engine: the database numbers, the answer says what it assigned, followers hear what is committed."""

from __future__ import annotations

from typing import Final

from engine.errors import EngineError
from engine.events import CaughtUp, Duplicate, Lagging, RecordedEvent, SessionNoted
from engine.limits import Limits
from engine.runtime import Engine
from engine.simulation.oracles import must
from engine.simulation.scenarios.declaring import Program, Scenario
from engine.simulation.scenarios.naive import start_all
from engine.simulation.scenarios.on_engine import Told, log_of, noise_on, on_engine, tolerant
from engine.simulation.world import Simulation


class _Follower:
    """Hears everything until it has heard the last event of a session that it waits for."""

    def __init__(self, engine: Engine, last: str) -> None:
        self.engine = engine
        self.last = last
        self.heard: list[RecordedEvent] = []
        self.lagged = 0

    async def run(self) -> None:
        """Follow the log from its start."""
        async with self.engine.log(follow=True) as log:
            async for item in log:
                if isinstance(item, RecordedEvent):
                    self.heard.append(item)
                    if item.event_id == self.last:
                        return
                elif isinstance(item, Lagging):
                    self.lagged += 1
                else:
                    must(isinstance(item, CaughtUp), "nobody is reset", item)

    async def check(self) -> None:
        """It heard the log, in order, once."""
        stored = list((await self.engine.read.log(limit=1_000)).items)[: len(self.heard)]
        must(self.heard == stored, "followers hear the log", f"heard {self.heard}, stored {stored}")


def producers(noise: int) -> Program:
    """A live turn, a restored session and user messages append to one session; a follower watches."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            told = Told(sim)
            follower = _Follower(engine, "end")
            rng = sim.random("producers")
            amounts = {name: rng.randint(1, 3) for name in ("turn", "user", "restored")}

            async def produce(name: str) -> None:
                handle = session if name == "turn" else await engine.session("s")
                for number in range(amounts[name]):
                    event_id = f"{name}.{number}"
                    receipt = await told.append(handle, SessionNoted(event_id, "k"), event_id)
                    must(receipt is not None, "an append is answered")

            async with sim.actors() as actors:
                actors.start("follower", follower.run)
                async with sim.actors() as working:
                    start_all(
                        sim,
                        working,
                        noise,
                        noise_on(engine),
                        *[(name, lambda name=name: produce(name)) for name in amounts],
                    )
                await told.append(session, SessionNoted("end", "k"), "end")
            events = await log_of(engine)
            must([event.seq for event in events] == list(range(1, len(events) + 1)), "seqs are dense", events)
            rows = {event.event_id: event.seq for event in events}
            said = {event_id: receipt.seq for event_id, receipt in told.written.items()}
            must(all(rows[event_id] == seq for event_id, seq in said.items()), "the answer is the row", (rows, said))
            await follower.check()
            sim.sometimes("producers were interleaved", rows["user.0"] < rows[f"turn.{amounts['turn'] - 1}"])

    return scenario


def failed_flush(noise: int) -> Program:
    """The disk fails now and then: a failed flush is told to everybody in it, and to no follower."""

    async def scenario(sim: Simulation) -> None:
        told = Told(sim)
        heard: list[str] = []
        try:
            async with sim.engine(limits=Limits(busy_retry_s=0.05)) as engine:
                session = await engine.create_session("s")

                async def produce(name: str) -> None:
                    for number in range(3):
                        await told.append(session, SessionNoted(f"{name}.{number}", "k"), f"{name}.{number}")

                async def follow() -> None:
                    async with engine.log(follow=True, session_id="s") as log:
                        async for item in log:
                            heard.extend([item.event_id] if isinstance(item, RecordedEvent) else [])

                async with sim.actors() as actors:
                    scope = actors.start("follower", lambda: tolerant(follow))
                    async with sim.actors() as working:
                        start_all(
                            sim,
                            working,
                            noise,
                            lambda name, amount: tolerant(lambda: noise_on(engine)(name, amount)),
                            ("turn", lambda: produce("turn")),
                            ("user", lambda: produce("user")),
                        )
                    scope.cancel()
        except EngineError as problem:
            sim.sometimes(f"the engine ended by {type(problem).__name__}")
        sim.host.disk.heal()
        async with sim.engine() as engine:
            events = await log_of(engine) if (await engine.read.sessions()).items else []
        told.check(events)
        ids = [event.event_id for event in events]
        must(heard == ids[: len(heard)], "followers hear what is stored", f"heard {heard}, stored {ids}")
        sim.sometimes("a flush failed", bool(told.refused))

    return scenario


def lost_answer(noise: int) -> Program:
    """Answers are lost and callers cancelled; whoever sends the same ids again learns what became of them."""

    async def scenario(sim: Simulation) -> None:
        async with sim.engine() as engine:
            session = await engine.create_session("s")
            told = Told(sim)
            ids = [f"turn.{number}" for number in range(sim.random("turn").randint(1, 4))]

            async def turn() -> None:
                for event_id in ids:
                    await told.append(session, SessionNoted(event_id, "k"), event_id)

            async with sim.actors() as actors:
                start_all(sim, actors, noise, noise_on(engine), ("turn", turn))
            first = dict(told.written)
            for event_id in ids:
                receipt = await told.append(session, SessionNoted(event_id, "k"), event_id)
                must(receipt is not None, "an append is answered")
                assert receipt is not None
                again = isinstance(receipt.events[0].outcome, Duplicate)
                must(again or event_id not in first, "an event id is applied once", receipt)
                must(event_id not in first or receipt.seq == first[event_id].seq, "the same answer again", receipt)
                sim.sometimes("an answer was lost", again and event_id not in first)
            told.check(await log_of(engine))

    return scenario


ENGINE: Final[tuple[Scenario, ...]] = (
    on_engine("3 producers", "Several producers append, and a follower hears the log.", producers, "cut"),
    on_engine("3 failed flush", "The disk fails, and nobody is told of what is not written.", failed_flush, "fault", "cut"),
    on_engine("3 lost answer", "Answers are lost, and the same ids are sent again.", lost_answer, "lose", "cancel", "cut"),
)
