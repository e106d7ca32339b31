"""Session actors, turns, and the handles that users hold."""

from engine.session.handle import Session, SessionContext
from engine.session.message import Message
from engine.session.registry import Registry, SessionStatistics
from engine.session.turn import Turn

__all__ = ["Message", "Registry", "Session", "SessionContext", "SessionStatistics", "Turn"]
