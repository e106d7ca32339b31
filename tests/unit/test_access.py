"""Who may connect: tokens and how they are compared, where a handshake carries one, origins, hosts."""

from __future__ import annotations

import base64
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidArgumentError
from engine.server import access
from engine.server.access import (
    SECRET_CHARS_MAX,
    SECRET_CHARS_MIN,
    Grant,
    Token,
    Tokens,
    allowed_origin,
    check_host,
    check_origins,
    header,
    packed,
    read_tokens,
    speaks,
    token_in,
)

FIRST, SECOND, THIRD = "first-secret-0001", "second-secret-002", "third-secret-0003"
printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=SECRET_CHARS_MIN, max_size=60)


def test_a_token_grants_its_workspace_and_its_access() -> None:
    """And nothing else does."""
    tokens = Tokens([Token(FIRST), Token(SECOND, "acme", "read"), Token(THIRD, "acme", "write")])
    assert len(tokens) == 3
    assert tokens.grant(FIRST) == Grant("default", "write")
    assert tokens.grant(SECOND) == Grant("acme", "read")
    assert tokens.grant(THIRD) == Grant("acme", "write")
    assert [Grant("a", "read").writes, Grant("a", "write").writes] == [False, True]


@pytest.mark.parametrize("asked", ["", " ", FIRST[:-1], FIRST + " ", FIRST.upper(), "é" * 20, "\ud800", "\0", "x" * 100_000])
def test_anything_else_grants_nothing(asked: str) -> None:
    """Also text that is no token of anybody's."""
    assert Tokens([Token(FIRST)]).grant(asked) is None
    assert Tokens([]).grant(asked) is None


@given(printable, printable)
def test_two_secrets_are_never_taken_for_each_other(one: str, other: str) -> None:
    """Whatever they have in common."""
    granted = Tokens([Token(one)]).grant(other)
    assert (granted is not None) == (one == other)


def test_every_token_is_compared_in_constant_time_wherever_the_right_one_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Always as many comparisons as there are tokens, each of values of one length."""
    compared: list[tuple[int, int]] = []

    def counting(left: Any, right: Any) -> bool:
        compared.append((len(left), len(right)))
        return hmac_compare(left, right)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(access.hmac, "compare_digest", counting)
    tokens = Tokens([Token(FIRST), Token(SECOND), Token(THIRD)])
    for asked in (FIRST, SECOND, THIRD, "", "x" * 10_000):
        compared.clear()
        tokens.grant(asked)
        assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("x" * (SECRET_CHARS_MIN - 1), "16 to 4096 characters"),
        ("x" * (SECRET_CHARS_MAX + 1), "16 to 4096 characters"),
        (b"x" * 20, "16 to 4096 characters"),
        (None, "16 to 4096 characters"),
        ("x" * 20 + " ", "without spaces"),
        ("x" * 20 + "\n", "without spaces"),
        ("x" * 20 + "\x7f", "without spaces"),
        ("é" * 20, "without spaces"),
    ],
)
def test_a_secret_that_no_header_could_carry_is_refused_and_not_shown(secret: Any, words: str) -> None:
    """Too short, too long, or with characters of which some proxy would make others."""
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        Token(secret)
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"access": "admin"}, "access"),
        ({"access": None}, "access"),
        ({"workspace": ""}, "workspace"),
        ({"workspace": "x" * 513}, "workspace"),
        ({"workspace": None}, "workspace"),
        ({"workspace": "\ud800"}, "workspace"),
    ],
)
def test_a_token_of_no_workspace_or_no_access_is_refused(changes: Any, argument: str) -> None:
    """Before a server starts, and not at the first connection."""
    with pytest.raises(InvalidArgumentError) as caught:
        Token(FIRST, **changes)
    assert caught.value.argument == argument


def test_tokens_that_are_none_or_the_same_twice_are_refused() -> None:
    """A secret could grant only one of two things."""
    for wrong in (FIRST, [FIRST], [None], [Token(FIRST), "x"]):
        with pytest.raises(InvalidArgumentError, match="a list of Token"):
            Tokens(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="twice") as caught:
        Tokens([Token(FIRST, "a"), Token(FIRST, "b")])
    assert FIRST not in str(caught.value)


def test_a_token_is_never_shown() -> None:
    """Neither in its representation nor in that of what holds it."""
    tokens = Tokens([Token(FIRST)])
    assert FIRST not in f"{Token(FIRST)!r} {Token(FIRST)} {tokens!r} {vars(tokens)!r} {tokens.grant(FIRST)!r}"


# --- files ----------------------------------------------------------------------------------------------


def test_a_file_has_a_token_a_line_with_comments_and_empty_lines() -> None:
    """Whatever ends its lines, and with a byte order mark too."""
    text = f"\ufeff# who\r\n{FIRST} default write\r\n\n  \t\n   # more\n\t{SECOND}   acme\tread  \n"
    assert read_tokens(text) == [Token(FIRST), Token(SECOND, "acme", "read")]
    assert read_tokens("") == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (FIRST, "expected TOKEN WORKSPACE"),
        (f"{FIRST} acme", "expected TOKEN WORKSPACE"),
        (f"{FIRST} acme admin", "expected TOKEN WORKSPACE"),
        (f"{FIRST} acme READ", "expected TOKEN WORKSPACE"),
        (f"{FIRST} acme read # mine", "expected TOKEN WORKSPACE"),
        ("short acme read", "16 to 4096"),
        (f"{FIRST}é acme read", "ASCII"),
        (f"{FIRST} {'x' * 513} read", "1 to 512"),
    ],
)
def test_a_wrong_line_is_named_and_not_shown(line: str, words: str) -> None:
    """Counted as an editor counts, comments and empty lines included."""
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        read_tokens(f"# a comment\x0b\u2028with odd separators\n\n{line}\n{SECOND} acme read")
    assert "line 3: " in str(caught.value)
    assert not any(word in str(caught.value) for word in (FIRST, "short", SECOND))


@given(st.text())
def test_any_text_is_tokens_or_refused(text: str) -> None:
    """Nothing else is raised."""
    try:
        found = read_tokens(text)
    except InvalidArgumentError:
        return
    assert all(isinstance(token, Token) for token in found)


# --- what a handshake carries -----------------------------------------------------------------------------


def carried(value: bytes | None, *subprotocols: str) -> str | None:
    """The token of a handshake with this Authorization."""
    headers = [(b"Host", b"x")] if value is None else [(b"Host", b"x"), (b"Authorization", value)]
    return token_in(headers, subprotocols)


def test_a_token_comes_in_a_header_or_in_a_subprotocol() -> None:
    """The header counts where both are there; neither is None."""
    assert carried(None) is None
    assert carried(None, "engine.v1", "other") is None
    assert carried(f"Bearer {FIRST}".encode()) == FIRST
    assert carried(f"bEARER   {FIRST}  ".encode()) == FIRST
    assert carried(None, "engine.v1", packed(SECOND)) == SECOND
    assert carried(f"Bearer {FIRST}".encode(), packed(SECOND)) == FIRST
    assert token_in([(b"aUTHORIZATION", b"Bearer x")], []) == "x"


def test_a_password_for_somebody_else_is_no_token() -> None:
    """A browser behind a proxy that asks for a password sends it along: the token is where it is."""
    assert carried(b"Basic dXNlcjpwYXNz") is None
    assert carried(b"Basic dXNlcjpwYXNz", packed(FIRST)) == FIRST


@pytest.mark.parametrize(
    ("value", "subprotocol"),
    [
        (b"Bearer", None),
        (b"Bearer ", None),
        (b"Bearer \xff\x00\xfe", None),
        (None, "engine.token."),
        (None, "engine.token.a"),
        (None, "engine.token.****"),
        (None, "engine.token._w"),
        (None, "engine.token.\u00e9"),
        (None, "engine.token.====" * 100),
    ],
)
def test_a_token_that_cannot_be_read_is_nobodys(value: bytes | None, subprotocol: str | None) -> None:
    """It is refused as a wrong one, and not taken for none."""
    found = carried(value, *([] if subprotocol is None else [subprotocol]))
    assert found is not None
    assert Tokens([Token(FIRST)]).grant(found) is None


@given(printable)
def test_every_secret_survives_its_subprotocol(secret: str) -> None:
    """As a browser would build it, and within the characters that a subprotocol may have (RFC 7230 token)."""
    offered = packed(secret)
    assert carried(None, offered) == secret
    assert offered == "engine.token." + base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")
    assert all(character.isalnum() or character in "._-" for character in offered)


@given(st.lists(st.tuples(st.binary(), st.binary())), st.lists(st.text(alphabet=st.characters(exclude_categories=()))))
def test_no_handshake_breaks_the_reading_of_its_token(headers: Any, subprotocols: list[str]) -> None:
    """Whatever it holds: a text, or None."""
    offered = [*subprotocols, *(f"engine.token.{text}" for text in subprotocols)]
    assert isinstance(token_in(headers, offered), str | None)
    Tokens([Token(FIRST)]).grant(token_in(headers, offered) or "")
    assert speaks(offered) == ("engine.v1" in offered)


def test_a_header_is_found_whatever_its_case() -> None:
    """The first one of that name; None where there is none."""
    headers = [(b"ORIGIN", b"one"), (b"origin", b"two")]
    assert header(headers, b"origin") == "one"
    assert header(headers, b"host") is None


def test_a_version_in_common_is_needed() -> None:
    """Exactly this one."""
    assert speaks(["chat", "engine.v1"])
    assert not speaks([])
    assert not speaks(["engine.v2", "ENGINE.V1", "engine.v1 "])


# --- origins and hosts ------------------------------------------------------------------------------------


def test_only_pages_that_were_allowed_may_connect() -> None:
    """Exactly those; a client that is no browser names none."""
    allowed = check_origins(["https://app.example", "http://localhost:3000"])
    assert allowed_origin(None, allowed)
    assert allowed_origin("https://app.example", allowed)
    assert allowed_origin("http://localhost:3000", allowed)
    for origin in (
        "",
        "null",
        "*",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "https://evil.example",
        "https://app.exampl",
        "http://localhost",
    ):
        assert not allowed_origin(origin, allowed), origin
    assert not allowed_origin("https://app.example", ())


def test_a_star_allows_every_page_and_null_the_ones_without_a_name() -> None:
    """Both have to be said."""
    assert allowed_origin("https://any.example", check_origins("*"))
    assert allowed_origin("null", check_origins(["null"]))
    assert not allowed_origin("https://any.example", check_origins(["null"]))


def test_one_origin_given_as_text_is_one_origin() -> None:
    """And its parts are none."""
    allowed = check_origins("https://app.example")
    assert allowed == ("https://app.example",)
    assert not allowed_origin("https://app", allowed)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "app.example",
        "https://app.example/",
        "https://APP.example",
        "HTTPS://app.example",
        "https://a b",
        "https://u@a",
        5,
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: Any) -> None:
    """It would allow nothing, and nobody would know why."""
    with pytest.raises(InvalidArgumentError, match="scheme://host"):
        check_origins([origin])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST"])
def test_this_machine_may_be_listened_on_without_tokens(host: str) -> None:
    """Nobody else reaches it."""
    check_host(host, tokens=0)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "192.168.0.5", "example.org", "127.evil.example", "localhost.evil.example", "::2", "127"]
)
def test_other_machines_are_listened_to_with_tokens_only(host: str) -> None:
    """A name is whatever its resolver says, also one that looks like an address of this machine."""
    with pytest.raises(InvalidArgumentError, match="so tokens are needed"):
        check_host(host, tokens=0)
    check_host(host, tokens=1)
