"""The life of a log after it was written: sweep."""

from engine.maintenance.sweep import SweepReport, Unfinished, count, find_unfinished

__all__ = ["SweepReport", "Unfinished", "count", "find_unfinished"]
