"""Who may connect: tokens and what they grant, origins of browsers' pages.

Owns: tokens, their comparison, where a handshake carries one. Must not know: sockets, the engine.
Invariants: how long a comparison takes says nothing about any token; a token is never shown, logged or put into an error; a
connection's workspace and access come from its token alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from engine.errors import InvalidArgumentError
from engine.limits import ID_CHARS_MAX
from engine.server.frames import SUBPROTOCOL, TOKEN_SUBPROTOCOL, Access

SECRET_CHARS_MIN: Final = 16
"""Shorter ones can be guessed."""
SECRET_CHARS_MAX: Final = 4_096
"""Longer ones do not fit the headers of common servers."""
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@A-Z]+")

Headers = Sequence[tuple[bytes, bytes]]


@attrs.frozen
class Grant:
    """What a connection may do: everything it sees and changes is in this workspace."""

    workspace: str = "default"
    access: Access = "write"

    @property
    def writes(self) -> bool:
        """Whether it may change anything."""
        return self.access == "write"


@attrs.frozen
class Token:
    """A bearer token, and what it grants. `secret`: 16 to 4,096 printable ASCII characters without spaces."""

    secret: str = attrs.field(repr=False)
    workspace: str = "default"
    access: Access = "write"

    def __attrs_post_init__(self) -> None:
        secret = self.secret
        if not isinstance(secret, str) or not SECRET_CHARS_MIN <= len(secret) <= SECRET_CHARS_MAX:
            raise InvalidArgumentError("token", f"expected text of {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX} characters")
        if not secret.isascii() or not secret.isprintable() or " " in secret:
            raise InvalidArgumentError("token", "expected printable ASCII characters without spaces")
        if self.access not in ("read", "write"):
            raise InvalidArgumentError("access", f"expected 'read' or 'write', found {self.access!r}")
        if not isinstance(self.workspace, str) or not 1 <= len(self.workspace) <= ID_CHARS_MAX:
            raise InvalidArgumentError("workspace", f"expected text of 1 to {ID_CHARS_MAX} characters")
        try:
            self.workspace.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError("workspace", "a lone surrogate names nothing") from None


class Tokens:
    """The tokens that a server accepts."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        given = list(tokens)
        if not all(isinstance(token, Token) for token in given):
            raise InvalidArgumentError("tokens", "expected a list of Token")
        self._grants = [(_digest(token.secret), Grant(token.workspace, token.access)) for token in given]
        if len({digest for digest, _ in self._grants}) != len(self._grants):
            raise InvalidArgumentError("tokens", "one secret stands there twice")

    def __len__(self) -> int:
        return len(self._grants)

    def grant(self, secret: str) -> Grant | None:
        """What a secret grants, or None. Every token is compared, each in constant time."""
        found: Grant | None = None
        asked = _digest(secret)
        for digest, grant in self._grants:
            if hmac.compare_digest(digest, asked):
                found = grant
        return found


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def read_tokens(text: str) -> list[Token]:
    """The tokens of a file: one a line, `TOKEN WORKSPACE read|write`; empty lines and lines that begin with # are skipped.

    Raises `InvalidArgumentError` that names the line and never shows a token.
    """
    found: list[Token] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3 or words[2] not in ("read", "write"):
            raise InvalidArgumentError("tokens", f"line {number}: expected TOKEN WORKSPACE read|write")
        try:
            found.append(Token(words[0], words[1], "write" if words[2] == "write" else "read"))
        except InvalidArgumentError as problem:
            raise InvalidArgumentError("tokens", f"line {number}: {problem.problem}") from None
    return found


# --- what a handshake carries -------------------------------------------------------------------------


def header(headers: Headers, name: bytes) -> str | None:
    """The value of a header, or None. Names are compared without case, as HTTP has them."""
    return next((value.decode("latin-1") for key, value in headers if key.lower() == name), None)


def token_in(headers: Headers, subprotocols: Sequence[str]) -> str | None:
    """The token of a handshake: `Authorization: Bearer TOKEN`, or the subprotocol `engine.token.BASE64URL`; else None.

    One that cannot be read is an empty text, which is no token of anybody's. An `Authorization` of another scheme is
    somebody else's business: browsers add one by themselves behind a proxy that asks for a password.
    """
    scheme, _, secret = (header(headers, b"authorization") or "").partition(" ")
    if scheme.lower() == "bearer":
        return secret.strip()
    for offered in subprotocols:
        if offered.startswith(TOKEN_SUBPROTOCOL):
            return _unpacked(offered.removeprefix(TOKEN_SUBPROTOCOL))
    return None


def _unpacked(text: str) -> str:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def packed(secret: str) -> str:
    """The subprotocol that carries a token."""
    return TOKEN_SUBPROTOCOL + base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")


def speaks(subprotocols: Sequence[str]) -> bool:
    """Whether a client that offers these and the server have a version in common."""
    return SUBPROTOCOL in subprotocols


def check_origins(origins: Iterable[str]) -> tuple[str, ...]:
    """The pages that may connect, as browsers name them: `*`, `null`, or `scheme://host[:port]` in lower case. A single one
    may be given as text.

    Raises `InvalidArgumentError` for one that no browser could send, since it would quietly allow nothing.
    """
    given = (origins,) if isinstance(origins, str) else tuple(origins)
    for origin in given:
        if not isinstance(origin, str) or (origin not in ("*", "null") and not _ORIGIN.fullmatch(origin)):
            problem = (
                f"expected '*', 'null' or 'scheme://host[:port]' in lower case and without a path, found {origin!r:.100}"
            )
            raise InvalidArgumentError("origins", problem)
    return given


def allowed_origin(origin: str | None, allowed: Sequence[str]) -> bool:
    """Whether a handshake with this Origin may go on. Browsers always send one, so a page that nobody allowed gets nowhere;
    other clients send none. `*` allows every page.

    Without the check any page in the user's browser could reach a server on loopback: WebSockets know no same-origin rule
    (RFC 6455 section 10.2).
    """
    return origin is None or "*" in allowed or origin in allowed


def check_host(host: str, *, tokens: int) -> None:
    """Refuse to listen for other machines without tokens: `InvalidArgumentError`."""
    if not tokens and not _is_loopback(host):
        raise InvalidArgumentError(
            "host", f"{host!r} can be reached from other machines, so tokens are needed; none is given"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # Any other name is whatever its resolver says, also one that begins with 127.
        return host.lower() == "localhost"
