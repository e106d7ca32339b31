"""Projections: their definition, the built-in ones, what applies events to them, and reading their tables."""

from engine.projections.definition import Handler, Projection, Recording, definition_for, handles, projection
from engine.projections.projector import Progress, Projector

__all__ = [
    "Handler",
    "Progress",
    "Projection",
    "Projector",
    "Recording",
    "definition_for",
    "handles",
    "projection",
]
