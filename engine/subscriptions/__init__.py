"""Following the log: catching up, live, lagging, reset."""

from engine.subscriptions.hub import Hub, HubStatistics, Subscriber
from engine.subscriptions.stream import LogStream

__all__ = ["Hub", "HubStatistics", "LogStream", "Subscriber"]
