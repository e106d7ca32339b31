"""Who is let in: what a handshake is answered with.

Owns: the decision about one request to upgrade. Must not know: sockets, the engine. Nothing here waits.
A token that is not valid is no reason to refuse the upgrade: a browser's page sees no status of a refused one, but it sees
the close code of a connection.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from engine.server import frames
from engine.server.access import Grant, Headers, Tokens, allowed_origin, header, speaks, token_in


@attrs.frozen
class Refused:
    """No upgrade."""

    reason: str
    """The counter's name."""
    status: int
    body: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


@attrs.frozen
class Admitted:
    """Upgrade; `grant` None: a token must come in the first frame. `denied`: the one that came is not valid."""

    grant: Grant | None
    denied: bool = False


FULL = Refused("connections_max", 503, "this server has as many connections as it may have\n", ((b"Retry-After", b"5"),))


def admit(
    headers: Headers, subprotocols: Sequence[str], *, tokens: Tokens, grant: Grant, origins: Sequence[str]
) -> Admitted | Refused:
    """What to answer. `grant` is what everybody has where no tokens are asked for."""
    if not allowed_origin(header(headers, b"origin"), origins):
        return Refused("origin", 403, "this server does not serve pages of that origin\n")
    if not speaks(subprotocols):
        offered = (b"Sec-WebSocket-Protocol", frames.SUBPROTOCOL.encode())
        return Refused("subprotocol", 400, f"expected the WebSocket subprotocol {frames.SUBPROTOCOL}\n", (offered,))
    if not tokens:
        return Admitted(grant)
    secret = token_in(headers, subprotocols)
    if secret is None:
        return Admitted(None)
    found = tokens.grant(secret)
    return Admitted(found, denied=found is None)
