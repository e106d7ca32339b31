"""The races as scenarios: each with the naive design that has the bug, and with the engine, which must not."""

from engine.simulation.scenarios import (
    race_1_late_part,
    race_2_late_update,
    race_3_sequences,
    race_4_replaying,
    race_5_reingest,
)
from engine.simulation.scenarios.declaring import Program, Scenario

SCENARIOS: tuple[Scenario, ...] = (
    *race_1_late_part.NAIVE,
    *race_2_late_update.NAIVE,
    *race_3_sequences.NAIVE,
    *race_4_replaying.NAIVE,
    *race_5_reingest.NAIVE,
)

__all__ = ["SCENARIOS", "Program", "Scenario"]
