"""An actor-based concurrent projection engine for agent runtimes: one writer, one SQLite file, no lost turns."""

from engine.errors import EngineError
from engine.events import (
    HEAD,
    START,
    Applied,
    CaughtUp,
    Cursor,
    Duplicate,
    Envelope,
    Lagging,
    Receipt,
    ReceiptEvent,
    RecordedEvent,
    Reset,
    Skipped,
    UnknownEvent,
    event,
)
from engine.limits import Limits, StreamLimits
from engine.projections import handles, projection
from engine.runtime import Engine, Reader, Workspace, open_engine, open_reader
from engine.session import Message, Session, Turn

__all__ = [
    "HEAD",
    "START",
    "Applied",
    "CaughtUp",
    "Cursor",
    "Duplicate",
    "Engine",
    "EngineError",
    "Envelope",
    "Lagging",
    "Limits",
    "Message",
    "Reader",
    "Receipt",
    "ReceiptEvent",
    "RecordedEvent",
    "Reset",
    "Session",
    "Skipped",
    "StreamLimits",
    "Turn",
    "UnknownEvent",
    "Workspace",
    "event",
    "handles",
    "open_engine",
    "open_reader",
    "projection",
]
