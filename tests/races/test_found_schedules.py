"""Schedules under which the simulator once broke the engine: each is replayed for good.

A line says what was wrong; the schedule is as it was shrunk. It must still be met, or it would prove nothing any more.
"""

from __future__ import annotations

import pytest

from engine import simulation
from engine.simulation.scenarios import SCENARIOS

HANDLER = "host/serve/_host/_run_handler for follower/client: socket"
SECOND = f"{HANDLER}/trio._highlevel_serve_listeners._run_handler: subscription s~2"
"""The follower's second subscription."""

FOUND = [
    # Power failed right after the owner's side file had been made; it came back as garbage, and nobody could open the log.
    ("engine/6 crash", "c1:crash@host#wait=power"),
    ("engine/6 crash", "c1:crash@main#read[2]=power"),
    # A session was replaced between the opening of a stream at a cursor and its first read: nobody told its follower.
    ("engine/7 replaced", f"c1:writer#commit[2]>{SECOND}#step done;{SECOND}#read[2]>writer#step done[2]"),
]


@pytest.mark.parametrize(("key", "schedule"), FOUND)
def test_what_was_found_stays_fixed(key, schedule):
    """The scenario passes under the schedule that once broke it, and the schedule still takes place."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.key == key)
    run = simulation.replay(scenario.build(0), schedule, faults=scenario.faults, mode=scenario.mode)
    assert run.error is None
    assert (run.unmet, len(run.disturbances)) == ([], schedule.count("@"))
