"""The races as scenarios: each with the naive design that has the bug, and with the engine, which must not."""

from engine.simulation.scenarios import (
    beyond,
    isolation,
    live,
    networked,
    race_1_engine,
    race_1_late_part,
    race_2_engine,
    race_2_late_update,
    race_3_engine,
    race_3_sequences,
    race_4_engine,
    race_4_replaying,
    race_5_engine,
    race_5_reingest,
)
from engine.simulation.scenarios.declaring import Program, Scenario

SCENARIOS: tuple[Scenario, ...] = (
    *race_1_late_part.NAIVE,
    *race_2_late_update.NAIVE,
    *race_3_sequences.NAIVE,
    *race_4_replaying.NAIVE,
    *race_5_reingest.NAIVE,
    *networked.NAIVE,
    *live.NAIVE,
    *race_1_engine.ENGINE,
    *race_2_engine.ENGINE,
    *race_3_engine.ENGINE,
    *race_4_engine.ENGINE,
    *race_5_engine.ENGINE,
    *beyond.ENGINE,
    *isolation.ENGINE,
    *networked.ENGINE,
    *live.ENGINE,
)

__all__ = ["SCENARIOS", "Program", "Scenario"]
