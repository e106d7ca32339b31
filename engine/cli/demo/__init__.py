"""`engine demo`: many agents at once, with races and a killed process, and a check of every promise afterwards."""

from engine.cli.demo.command import command

__all__ = ["command"]
