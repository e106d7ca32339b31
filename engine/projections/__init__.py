"""Projections: their definition, the built-in ones, what applies events to them, and reading their tables."""

from engine.projections.definition import Handler, Projection, Recording, definition_for, handles, projection
from engine.projections.projector import Progress, Projector
from engine.projections.reading import ReadModel
from engine.projections.views import MessageView, PartView, SessionView, ToolView, UsageReport, UsageTotals

__all__ = [
    "Handler",
    "MessageView",
    "PartView",
    "Progress",
    "Projection",
    "Projector",
    "ReadModel",
    "Recording",
    "SessionView",
    "ToolView",
    "UsageReport",
    "UsageTotals",
    "definition_for",
    "handles",
    "projection",
]
