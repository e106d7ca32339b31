"""What frames are made of, and the close codes."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from engine.limits import ID_CHARS_MAX

SUBPROTOCOL: Final = "engine.v1"
"""The subprotocol, with its version."""
TOKEN_SUBPROTOCOL: Final = "engine.token."
"""A browser cannot set headers: it may offer a second subprotocol, this and the token in unpadded base64url."""

Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARS_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Access = Literal["read", "write"]
JsonObject = dict[str, Any]


# --- close codes --------------------------------------------------------------------------------------

NORMAL: Final = 1000
"""The client is done."""
GOING_AWAY: Final = 1001
"""The server shuts down; `closing` said where to resume."""
UNSUPPORTED_DATA: Final = 1003
"""A binary message: frames are text."""
TOO_BIG: Final = 1009
"""A message is larger than `limits.frame_bytes_max`."""
INTERNAL: Final = 1011
"""A bug in the server ended this connection; resume from the last cursor."""
MALFORMED: Final = 4400
"""Too many malformed frames (`limits.malformed_max`)."""
UNAUTHORIZED: Final = 4401
"""No token in time, or one that is not valid. Connecting again with the same token gives the same answer."""
TIMED_OUT: Final = 4408
"""Nothing was heard for too long: no pong, a send that made no progress, or no frame and no subscription."""

CLOSE_CODES: Final = (NORMAL, GOING_AWAY, UNSUPPORTED_DATA, TOO_BIG, INTERNAL, MALFORMED, UNAUTHORIZED, TIMED_OUT)
"""Every close code that a server sends on purpose. (WebSocket's own 1002 and 1007 come from its library.)"""
