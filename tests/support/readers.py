"""What tests of the plugin and of `engine race` give a reader's machine: the plugin's switch, and a program with a race."""

from __future__ import annotations

from importlib import metadata

INSTALLED = any(entry.name == "engine_simulation" for entry in metadata.entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "engine.simulation.plugin")
"""What makes pytest load the plugin where the package is not installed."""

LOST_UPDATE = """
    x = [0]
    async def add():
        await point("read", reads=("x",))
        seen = x[0]
        await point("write", writes=("x",))
        x[0] = seen + 1
    async with sim.actors() as actors:
        actors.start("one", add)
        actors.start("two", add)
    assert x[0] == 2
"""
"""The body of a scenario: two actors read, and write what they read plus one."""
