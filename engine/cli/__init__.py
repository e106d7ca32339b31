"""The command line: `engine import`, `sessions`, `show`, `log`, `stats`, `rebuild`, `demo`. See `engine --help`."""

from engine.cli.app import engine, main

__all__ = ["engine", "main"]
