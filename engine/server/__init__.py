"""The WebSocket server: its protocol (pure), who may connect, and the sockets."""

from engine.limits import ServerLimits
from engine.server.access import Grant, Token, check_host, check_origins, read_tokens
from engine.server.serving import Server, serve
from engine.server.statistics import ServerStatistics

__all__ = [
    "Grant",
    "Server",
    "ServerLimits",
    "ServerStatistics",
    "Token",
    "check_host",
    "check_origins",
    "read_tokens",
    "serve",
]
