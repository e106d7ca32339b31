"""`engine tail`: a conversation as it streams, from a file that somebody else writes, or from a server."""

from engine.cli.tail.command import command

__all__ = ["command"]
