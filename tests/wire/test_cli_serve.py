"""`engine serve`: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from engine import open_engine
from engine.cli import engine
from tests.support.peers import note, peer

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-of-the-tests"


def run(*arguments: str) -> Result:
    """Run the command in this process: it must refuse."""
    return CliRunner().invoke(engine, ["serve", *arguments])


@asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[tuple[trio.Process, str]]:
    """The command in a process of its own, once it has said where it listens; that line."""
    command = [sys.executable, "-m", "engine", "serve", "--port", "0", *arguments]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    try:
        said = b""
        with trio.fail_after(60):
            while not said.endswith(b"\n"):
                data = await process.stdout.receive_some()
                assert data, "it ended without a word"
                said += data
        yield process, said.decode().strip()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
            assert process.stderr is not None
            await process.stderr.aclose()


async def ended(process: trio.Process) -> tuple[int, str]:
    """The exit status, and what stands on standard error."""
    assert process.stderr is not None
    said = b""
    with trio.fail_after(30):
        while data := await process.stderr.receive_some():
            said += data
        return await process.wait(), said.decode()


@pytest.mark.parametrize(
    ("number", "status", "words"), [(signal.SIGTERM, 0, ""), (signal.SIGINT, 130, "engine: interrupted\n")]
)
async def test_it_serves_until_a_signal_and_ends_in_order(
    tmp_path: Path, number: signal.Signals, status: int, words: str
) -> None:
    """One line with the URL; on the signal clients are told where to go on, and the status is the signal's."""
    async with serving("--db", str(tmp_path / "a.db")) as (process, said):
        url = said.removeprefix("serving on ")
        async with peer(url) as client:
            assert (await client.ask("create", session_id="s"))["type"] == "receipt"
            await client.send("subscribe", id="s", after="start")
            last = await client.until(type="caught_up")
            process.send_signal(number)
            assert (await client.until(type="closing"))["cursors"] == {"s": last["cursor"]}
            assert (await client.closed())[0] == 1001
        assert await ended(process) == (status, words)
    async with open_engine(tmp_path / "a.db") as opened:
        assert (await opened.read.session("s")).incarnation == 1


async def test_with_json_it_prints_one_document(tmp_path: Path) -> None:
    """url, host and port."""
    async with serving("--db", str(tmp_path / "a.db"), "--json", "--read-only", "--workspace", "acme") as (_, said):
        found = json.loads(said)
        assert found == {"url": f"ws://127.0.0.1:{found['port']}", "host": "127.0.0.1", "port": found["port"]}
        async with peer(found["url"]) as client:
            assert (client.hello["workspace"], client.hello["access"]) == ("acme", "read")


async def test_tokens_and_origins_are_those_of_the_call(tmp_path: Path) -> None:
    """A file of tokens, and a page that may connect."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# ours\n\n{SECRET} acme write\n")
    arguments = ["--db", str(tmp_path / "a.db"), "--tokens", str(tokens), "--origin", "https://app.example"]
    async with serving(*arguments) as (_, said):
        url = said.removeprefix("serving on ")
        async with peer(url, token=SECRET, headers=(("Origin", "https://app.example"),)) as client:
            assert client.hello["workspace"] == "acme"
            await client.ask("create", session_id="s")
            assert (await client.ask("append", session_id="s", events=[note(1)]))["type"] == "receipt"
        async with peer(url, hello=False, token="x" * 20) as client:
            assert (await client.closed())[0] == 4401


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{SECRET} acme\n", "line 1: expected TOKEN WORKSPACE read|write"),
        (f"# x\n{SECRET} acme admin\n", "line 2: expected TOKEN WORKSPACE read|write"),
        ("short acme read\n", "line 1: expected text of 16"),
        ("", "it holds no token, so nobody could connect"),
        ("\n# nothing\n", "it holds no token, so nobody could connect"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_of_tokens_that_is_wrong_is_told_by_its_line_and_never_shown(
    tmp_path: Path, text: str | None, words: str
) -> None:
    """Status 2, one line, no token in it, and no database was made."""
    tokens, db = tmp_path / "tokens", tmp_path / "a.db"
    if text is not None:
        tokens.write_text(text)
    result = run("--db", str(db), "--tokens", str(tokens))
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.stderr
    assert not db.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "tokens are needed"),
        (["--origin", "app.example"], "expected '*', 'null' or 'scheme://host[:port]'"),
        (["--port", "70000"], "70000"),
        (["--key", "k.pem"], "it needs --certificate"),
        (["--certificate", "no-such.pem"], "No such file or directory"),
        (["--tokens", "x", "--read-only"], "each token says whether it may write"),
    ],
)
def test_a_call_that_is_wrong_changes_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Status 2, one line, and no database was made."""
    db = tmp_path / "a.db"
    result = run("--db", str(db), *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert not db.exists()


async def test_a_port_that_is_taken_and_a_file_that_is_owned_are_told_in_one_line(tmp_path: Path) -> None:
    """Status 1 for both: the world refused."""
    async with serving("--db", str(tmp_path / "a.db"), "--json") as (process, said):
        port = json.loads(said)["port"]
        status, said = await refused("--db", str(tmp_path / "b.db"), "--port", str(port))
        assert (status, said.count("\n")) == (1, 1)
        assert said.startswith(f"engine: listen on 127.0.0.1 port {port}: ")
        assert "in use" in said
        status, said = await refused("--db", str(tmp_path / "a.db"), "--port", "0")
        assert (status, said.count("\n")) == (1, 1)
        assert str(process.pid) in said


async def refused(*arguments: str) -> tuple[int, str]:
    """The exit status and standard error of the command in a process of its own."""
    command = [sys.executable, "-m", "engine", "serve", *arguments]
    with trio.fail_after(60):
        done = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True, cwd=ROOT)
    assert done.stdout == b""
    return done.returncode, done.stderr.decode()
