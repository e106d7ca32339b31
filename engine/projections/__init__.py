"""Projections: their definition, the built-in ones, what applies events to them, and reading their tables."""

from engine.projections.counting import RowCounts, count_rows
from engine.projections.definition import Handler, Projection, Recording, definition_for, handles, projection
from engine.projections.projector import Progress, Projector
from engine.projections.reading import ReadModel
from engine.projections.views import (
    MessageView,
    PartView,
    ReadSnapshot,
    SessionSnapshot,
    SessionView,
    ToolView,
    UsageReport,
    UsageTotals,
)

__all__ = [
    "Handler",
    "MessageView",
    "PartView",
    "Progress",
    "Projection",
    "Projector",
    "ReadModel",
    "ReadSnapshot",
    "Recording",
    "RowCounts",
    "SessionSnapshot",
    "SessionView",
    "ToolView",
    "UsageReport",
    "UsageTotals",
    "count_rows",
    "definition_for",
    "handles",
    "projection",
]
