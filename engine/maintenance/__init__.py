"""The life of a log after it was written: sweep, and checking a file."""

from engine.maintenance.checking import Fingerprint, fingerprint, integrity
from engine.maintenance.sweep import SweepReport, Unfinished, count, find_unfinished

__all__ = ["Fingerprint", "SweepReport", "Unfinished", "count", "find_unfinished", "fingerprint", "integrity"]
