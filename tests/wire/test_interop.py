"""Other people's clients: the `websockets` library with its reconnect loop, and the README's page in a JavaScript engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from engine.events import MessageUpdated, PartDelta, PartUpdated
from engine.server import Token
from tests.support.serving import served

ROOT = Path(__file__).resolve().parents[2]
FOLLOWER = ROOT / "tests" / "support" / "reconnecting.py"
BROWSER = ROOT / "tests" / "support" / "page.js"
SECRET = "a-token-for-other-people"
TOKENS = [Token(SECRET)]
PAGE = re.search(r"^```html\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


class Lines:
    """What a process prints, line by line."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._data = b""
        self.seen: list[str] = []

    async def next(self, wanted: str = "") -> str:
        """The next line that contains this."""
        with trio.move_on_after(30):
            while True:
                line, end, rest = self._data.partition(b"\n")
                if not end:
                    received = await self._stream.receive_some()
                    self._data += received
                    if not received:
                        break
                    continue
                self._data = rest
                self.seen.append(line.decode())
                if wanted in self.seen[-1]:
                    return self.seen[-1]
        raise AssertionError(f"no line with {wanted!r} came; what came: {self.seen[-20:]}")


@asynccontextmanager
async def running(command: list[str]) -> AsyncIterator[tuple[Lines, Lines]]:
    """A process, killed with the block: what it prints, and what it says on standard error."""
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield Lines(process.stdout), Lines(process.stderr)
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()
        await process.stderr.aclose()


async def test_the_websockets_library_and_its_reconnect_loop_follow_across_restarts(tmp_path: Path) -> None:
    """The server is stopped and started again on the same port twice: each event comes once, in order."""
    path, rounds, each = tmp_path / "a.db", 3, 40
    total = 2 + rounds * each
    got: list[list[object]] = []
    async with AsyncExitStack() as stack:
        port = 0
        for number in range(rounds):
            async with served(path, port=port, tokens=TOKENS) as (engine, server):
                if number == 0:
                    port = server.port
                    session = await engine.create_session("s")
                    await session.append(MessageUpdated("m", "user"))
                    command = [sys.executable, str(FOLLOWER), server.url, "s", str(total), SECRET]
                    printed, said = await stack.enter_async_context(running(command))
                await said.next("connected")
                session = await engine.session("s")
                for n in range(each):
                    await session.append(PartUpdated(f"p{number}.{n}", "m", "text", {"text": "x"}))
                    if n == each // 2:
                        got.append(json.loads(await printed.next()))
                while number == rounds - 1 and len(got) < total:
                    got.append(json.loads(await printed.next()))
    assert [seq for _, seq, _ in got] == list(range(1, total + 1))


def _node_has_websocket() -> bool:
    asked = ["node", "--experimental-websocket", "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
    return shutil.which("node") is not None and subprocess.run(asked, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _node_has_websocket(), reason="no node with WebSocket is installed")
async def test_the_page_of_the_readme_follows_and_resumes_in_a_javascript_engine(tmp_path: Path) -> None:
    """What is shown is the session's text, in code points, before and after the server was restarted."""
    assert PAGE is not None
    page = tmp_path / "follow.html"
    page.write_text(PAGE[1], encoding="utf-8")
    path, port = tmp_path / "a.db", 0
    async with AsyncExitStack() as stack:
        async with served(path, origins=["*"], tokens=TOKENS) as (engine, server):
            port = server.port
            session = await engine.create_session("s")
            await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text", {"text": "before 😀"}))
            where = f"#url={server.url}&session=s&token={SECRET}"
            command = ["node", "--experimental-websocket", str(BROWSER), str(page), where]
            shown, _ = await stack.enter_async_context(running(command))
            await shown.next('"before 😀"')
            await session.append(PartUpdated("q", "m", "text", {"text": "1😀"}))
            await session.append(PartDelta("q", "m", "text", 2, "2"))
            await shown.next('"before 😀\\n1😀2"')
        # What the process before had left streaming must not be settled here.
        async with served(path, port=port, origins=["*"], tokens=TOKENS, engine_options={"sweep": False}) as (
            engine,
            server,
        ):
            await (await engine.session("s")).append(PartDelta("q", "m", "text", 3, "3"))
            await shown.next('"before 😀\\n1😀23"')


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
async def test_the_page_of_the_readme_follows_in_chromium(tmp_path: Path) -> None:
    """Headless Chromium loads the page, and its document shows the session."""
    assert PAGE is not None
    assert CHROMIUM is not None
    page = tmp_path / "follow.html"
    page.write_text(PAGE[1], encoding="utf-8")
    async with served(tmp_path / "a.db", origins=["null"], tokens=TOKENS) as (engine, server):
        session = await engine.create_session("s")
        await session.append(MessageUpdated("m", "assistant"), PartUpdated("p", "m", "text", {"text": "seen "}))
        await session.append(PartDelta("p", "m", "text", 5, "by a browser"))
        where = f"{page.as_uri()}#url={server.url}&session=s&token={SECRET}"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        with trio.fail_after(60):
            done = await trio.run_process(
                [CHROMIUM, *flags, "--timeout=5000", "--dump-dom", where], capture_stdout=True, capture_stderr=True
            )
        assert "seen by a browser" in done.stdout.decode()
