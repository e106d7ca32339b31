"""Where a server is, as its URL says it, and what a handshake carries.

Owns: reading URLs and tokens. Must not know: sockets.
Invariant: what is wrong with them is told before anything is dialled, and no message shows a token.
"""

from __future__ import annotations

import re
import ssl
from typing import Final
from urllib.parse import urlsplit

import attrs

from engine.errors import InvalidArgumentError
from engine.server.access import SECRET_CHARS_MAX

_TARGET: Final = re.compile(r"[!-~]*", re.ASCII)
_TOKEN: Final = re.compile(r"[!-~]+", re.ASCII)


@attrs.frozen
class Address:
    """A server to connect to."""

    url: str
    """As it was given."""
    host: str
    port: int
    authority: str
    """What the `Host` header says."""
    target: str
    """The path, with the query."""
    tls: ssl.SSLContext | None = attrs.field(repr=False)
    token: str | None = attrs.field(repr=False)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the handshake carries beside what every handshake does."""
        if self.token is None:
            return []
        return [(b"Authorization", b"Bearer " + self.token.encode("ascii"))]


def read_address(url: str, *, token: str | None, ssl_context: ssl.SSLContext | None) -> Address:
    """Read `ws://host[:port][/path]` or `wss://...`. Raises `InvalidArgumentError`."""
    if not isinstance(url, str):
        raise InvalidArgumentError("url", f"expected text, found {type(url).__name__}")
    if not _TARGET.fullmatch(url):
        raise InvalidArgumentError("url", "expected printable ASCII characters without spaces")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
        # Both are looked up and sent in this form; a label that is empty or too long has none.
        f"{host}:{port}".encode("idna")
    except ValueError as problem:
        raise InvalidArgumentError("url", str(problem)[:200]) from None
    if parts.scheme not in ("ws", "wss"):
        raise InvalidArgumentError("url", f"expected ws://... or wss://..., found {parts.scheme[:20]!r}")
    if parts.username is not None or parts.password is not None:
        raise InvalidArgumentError("url", "it holds a user's name or password; give the token as `token`")
    if not host or port == 0:
        raise InvalidArgumentError("url", "expected a host and, where there is one, a port from 1 to 65535")
    if parts.fragment:
        raise InvalidArgumentError("url", "it has a fragment (#...), which is never sent")
    secure = parts.scheme == "wss"
    if ssl_context is not None and not secure:
        raise InvalidArgumentError("ssl_context", "the URL is a ws:// one; expected wss://")
    if token is not None and (not isinstance(token, str) or len(token) > SECRET_CHARS_MAX or not _TOKEN.fullmatch(token)):
        raise InvalidArgumentError("token", f"expected at most {SECRET_CHARS_MAX} printable ASCII characters without spaces")
    name = f"[{host}]" if ":" in host else host
    return Address(
        url=url,
        host=host,
        port=port or (443 if secure else 80),
        authority=name if port is None else f"{name}:{port}",
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        tls=(ssl_context or ssl.create_default_context()) if secure else None,
        token=token,
    )
