"""Who gets in, how, and what everybody else is told."""

from __future__ import annotations

import base64
import logging
import ssl
from functools import partial
from pathlib import Path

import pytest
import trio

from engine.errors import InvalidArgumentError
from engine.server import Server, Token, serve
from tests.support.peers import PROTOCOL, Peer, eventually, peer, refused, served, small

SECRET = "correct-horse-battery"
READER = "only-looking-at-things"
TOKENS = (Token(SECRET, "acme", "write"), Token(READER, "acme", "read"))


async def test_hello_says_where_the_log_stands_and_what_is_allowed(tmp_path: Path) -> None:
    """The first frame has the protocol, the workspace, the epoch, the head and the limits."""
    async with served(tmp_path / "a.db", limits=small(events_max=7)) as (engine, server):
        session = await engine.create_session("s")
        async with peer(server) as client:
            hello = client.hello
            assert client.socket.subprotocol == PROTOCOL
            assert (hello["protocol"], hello["workspace"], hello["access"]) == (PROTOCOL, "default", "write")
            assert (hello["epoch"], hello["head"]) == (engine.epoch, f"{engine.epoch}-1")
            assert hello["limits"]["events_max"] == 7
    assert session.incarnation == 1


async def test_without_tokens_everybody_gets_the_workspace_and_access_that_serve_was_given(tmp_path: Path) -> None:
    """`serve(workspace=, access=)` is the grant of a server without tokens."""
    async with served(tmp_path / "a.db", workspace="acme", access="read") as (_, server), peer(server) as client:
        assert (client.hello["workspace"], client.hello["access"]) == ("acme", "read")
        assert (await client.ask("create", session_id="x"))["code"] == "forbidden"


async def test_a_token_comes_in_a_header_or_a_subprotocol_or_the_first_frame(tmp_path: Path) -> None:
    """Each way gives the token's workspace and access, and nothing is said before."""
    packed = "engine.token." + base64.urlsafe_b64encode(READER.encode()).decode().rstrip("=")
    async with served(tmp_path / "a.db", tokens=TOKENS) as (_, server):
        async with peer(server, token=SECRET) as client:
            assert (client.hello["workspace"], client.hello["access"]) == ("acme", "write")
        async with peer(server, protocols=(PROTOCOL, packed)) as client:
            assert client.hello["access"] == "read"
            assert client.socket.subprotocol == PROTOCOL
        async with peer(server, hello=False) as client:
            await client.send("auth", token=SECRET)
            assert (await client.receive())["type"] == "hello"
            assert (await client.ask("create", session_id="x"))["type"] == "receipt"


@pytest.mark.parametrize("way", ["header", "subprotocol", "frame", "other frame", "no frame"])
async def test_without_a_valid_token_the_connection_closes_with_4401(tmp_path: Path, way: str) -> None:
    """Whatever the way, the close has a code that a browser's page can see, and the token is in no log."""
    wrong = "no-such-token-anywhere"
    packed = "engine.token." + base64.urlsafe_b64encode(wrong.encode()).decode().rstrip("=")
    options = {
        "header": {"token": wrong},
        "subprotocol": {"protocols": (PROTOCOL, packed)},
    }.get(way, {})
    limits = small(handshake_s=0.05 if way == "no frame" else 10)
    async with served(tmp_path / "a.db", tokens=TOKENS, limits=limits) as (_, server):
        async with peer(server, hello=False, **options) as client:
            if way == "frame":
                await client.send("auth", token=wrong)
            elif way == "other frame":
                await client.send("subscribe", id="s")
            code, reason = await client.closed()
            assert code == 4401
            assert wrong not in str(reason)
        assert server.statistics().refused == {"token": 1}


async def test_no_token_is_ever_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither valid nor wrong tokens reach the log, whichever way they come."""
    caplog.set_level(logging.DEBUG, logger="engine")
    wrong = "no-such-token-anywhere"
    async with served(tmp_path / "a.db", tokens=TOKENS) as (_, server):
        for token in (SECRET, wrong):
            async with peer(server, token=token, hello=False) as client:
                await client.receive() if token == SECRET else await client.closed()
            async with peer(server, hello=False) as client:
                await client.send("auth", token=token)
                await client.receive() if token == SECRET else await client.closed()
    assert "refused (token)" in caplog.text
    assert SECRET not in caplog.text
    assert wrong not in caplog.text


async def test_a_page_of_another_origin_is_refused_before_the_upgrade(tmp_path: Path) -> None:
    """403 for a browser's page that nobody allowed; an allowed one and clients without an Origin get in."""
    page = "https://app.example"
    async with served(tmp_path / "a.db", origins=[page]) as (_, server):
        status, body = await refused(server, headers=(("Origin", "https://evil.example"),))
        assert (status, "origin" in body) == (403, True)
        async with peer(server, headers=(("Origin", page),)):
            pass
        async with peer(server):
            pass
        assert server.statistics().refused == {"origin": 1}


async def test_without_origins_no_page_gets_in(tmp_path: Path) -> None:
    """A server on loopback is not reachable for the pages in its user's browser by default."""
    async with served(tmp_path / "a.db") as (_, server):
        assert (await refused(server, headers=(("Origin", "http://localhost:3000"),)))[0] == 403


@pytest.mark.parametrize("protocols", [(), ("engine.v2",), ("chat",)])
async def test_without_a_common_version_the_answer_names_the_one_that_is_spoken(
    tmp_path: Path, protocols: tuple[str, ...]
) -> None:
    """400, and a body that names `engine.v1`."""
    async with served(tmp_path / "a.db") as (_, server):
        status, body = await refused(server, protocols=protocols)
        assert (status, PROTOCOL in body) == (400, True)


async def test_a_newer_client_that_also_speaks_this_version_gets_in(tmp_path: Path) -> None:
    """A client may offer several versions."""
    async with served(tmp_path / "a.db") as (_, server), peer(server, protocols=("engine.v2", PROTOCOL)) as client:
        assert client.socket.subprotocol == PROTOCOL


async def test_one_connection_too_many_is_refused_and_room_is_given_back(tmp_path: Path) -> None:
    """503 while `connections_max` are there; when one has left, the next gets in."""
    async with served(tmp_path / "a.db", limits=small(connections_max=2)) as (_, server):
        async with peer(server), peer(server) as second:
            assert (await refused(server))[0] == 503
            await second.socket.aclose()
            await eventually(lambda: server.statistics().connections <= 1)
            async with peer(server):
                pass
        assert server.statistics().refused == {"connections_max": 1}


GARBAGE = {
    "nothing": b"",
    "half a request": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n",
    "plain GET": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    "other version": b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 99\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "host that is no name": b"GET / HTTP/1.1\r\nHost: xn--\xff\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "endless header": b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000,
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_a_handshake_that_is_none_ends_and_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    """The connection ends (with a status of 400 or above, where it was an answer's turn), and the server goes on."""
    async with served(tmp_path / "a.db", limits=small(handshake_s=0.2)) as (_, server):
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            answer = b""
            with trio.fail_after(10):
                try:
                    await stream.send_all(GARBAGE[kind])
                    while data := await stream.receive_some():
                        answer += data
                except trio.BrokenResourceError:
                    pass
        if kind not in ("nothing", "half a request", "endless header"):
            assert answer.startswith(b"HTTP/1.1 4"), answer
        await eventually(lambda: not server.statistics().connections)
        assert server.statistics().refused == {"handshake": 1}
        assert server.statistics().closed_failed == 0
        async with peer(server):
            pass


async def test_a_peer_that_leaves_in_the_middle_of_its_handshake_is_forgotten_at_once(tmp_path: Path) -> None:
    """Where the library would wait forever for the rest of the request, the connection ends with the stream."""
    async with served(tmp_path / "a.db", limits=small(handshake_s=1_000)) as (_, server):
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(b"GET / HTTP/1.1\r\n")
        await stream.aclose()
        with trio.fail_after(10):
            await eventually(
                lambda: not (server.statistics().refused != {"handshake": 1} or server.statistics().connections)
            )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
async def test_other_machines_are_served_only_with_tokens(tmp_path: Path, host: str) -> None:
    """Without tokens a server listens on loopback only; the refusal says what is missing."""
    async with served(tmp_path / "a.db") as (engine, _), trio.open_nursery() as nursery:
        with pytest.raises(InvalidArgumentError, match="tokens are needed"):
            await nursery.start(partial(serve, engine, host=host, port=0))


async def test_with_tokens_a_server_may_listen_everywhere(tmp_path: Path) -> None:
    """`0.0.0.0` with tokens works."""
    listening = served(tmp_path / "a.db", host="0.0.0.0", tokens=TOKENS)
    async with listening as (_, server), peer(f"ws://127.0.0.1:{server.port}", token=SECRET) as client:
        assert client.hello["workspace"] == "acme"


async def test_a_port_that_is_taken_is_an_os_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The second server raises, the first goes on."""
    async with served(tmp_path / "a.db") as (engine, server):
        with pytest.raises(OSError, match="in use"):
            await serve(engine, port=server.port)
        async with peer(server):
            pass


@pytest.mark.parametrize(
    "options", [{"port": -1}, {"port": "x"}, {"access": "admin"}, {"workspace": ""}, {"origins": ["App.example/"]}]
)
async def test_arguments_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    """`InvalidArgumentError`, before anything listens."""
    async with served(tmp_path / "a.db") as (engine, _):
        with pytest.raises(InvalidArgumentError):
            await serve(engine, **options)  # type: ignore[arg-type]


async def test_a_tls_context_is_passed_through(tmp_path: Path) -> None:
    """With a certificate the server speaks TLS, its URL is wss, and a client that does not gets nowhere."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    await trio.run_process([*make, *names, "-keyout", key, "-out", certificate], capture_stderr=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with served(tmp_path / "a.db", ssl_context=context, limits=small(handshake_s=5)) as (_, server):
        assert server.url.startswith("wss://")
        async with peer(server, ssl_context=trusting) as client:
            assert (await client.ask("create", session_id="x"))["type"] == "receipt"
            await client.send("subscribe", id="s", after="start")
            assert len(await client.events(1)) == 1
        await _plain_text_gets_nowhere(server)


async def _plain_text_gets_nowhere(server: Server) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        with trio.fail_after(10):
            try:
                while data := await stream.receive_some():
                    answer += data
            except trio.BrokenResourceError:
                pass
        assert not answer.startswith(b"HTTP")


async def test_a_second_auth_frame_is_malformed(tmp_path: Path) -> None:
    """A connection that has its token cannot change it."""
    async with served(tmp_path / "a.db", tokens=TOKENS) as (_, server), peer(server, token=READER) as client:
        await client.send("auth", token=SECRET)
        frame = await client.until(type="error")
        assert frame["code"] == "malformed_frame"
        assert await _may_not_write(client)


async def _may_not_write(client: Peer) -> bool:
    return bool((await client.ask("create", session_id="y"))["code"] == "forbidden")
