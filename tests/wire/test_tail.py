"""`engine tail`, as processes: one owns the log and writes when it is told, the other follows it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from engine.cli import engine
from engine.client import connect
from engine.events import MessageUpdated, PartDelta, PartUpdated, UsageRecorded
from tests.support.serving import QUICK
from tests.wire.test_cli import ROOT

PATIENCE_S = 30


class Child:
    """A process, its output read as far as it has come."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        # Unbuffered, it would prove nothing that a line arrives at once.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        environment = {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **(environment or {})}
        pipe = subprocess.PIPE
        command = [sys.executable, "-W", "error", "-m", *arguments]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
        self.unread = ""

    def until(self, words: str, *, error: bool = False) -> str:
        """What it writes up to these words, which are left out; fails when it ends before, or says nothing for long."""
        stream = self.process.stderr if error else self.process.stdout
        assert stream is not None
        found = b"" if error else self.unread.encode()
        while words.encode() not in found:
            assert select.select([stream], [], [], PATIENCE_S)[0], f"it wrote {found!r}, and then nothing"
            more = os.read(stream.fileno(), 65536)
            assert more, f"it ended after {found!r}"
            found += more
        before, _, after = found.partition(words.encode())
        if not error:
            self.unread = after.decode()
        return before.decode()

    def line(self) -> Any:
        """Its next line, as JSON."""
        return json.loads(self.until("\n"))

    def tell(self, command: str) -> None:
        """Have the owner do something, and wait until it is durable."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        self.until("ok\n")

    def end(self) -> tuple[int, str, str]:
        """Wait for its end: status, the rest of its output, and what it said on standard error."""
        out, said = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, self.unread + out.decode(), said.decode()


Start = Callable[..., Child]


@pytest.fixture
def tail(tmp_path: Path) -> Iterator[Start]:
    """Start `engine tail` of a file."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with ExitStack() as stack:

        def start(*arguments: str, db: bool = True, environment: dict[str, str] | None = None) -> Child:
            file = ("--db", str(tmp_path / "a.db")) if db else ()
            child = Child("engine", "tail", *file, *arguments, environment=environment)
            stack.callback(child.process.communicate)
            stack.callback(child.process.kill)
            return child

        yield start
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Start]:
    """Start an owner of a file, and wait until it has it."""
    with ExitStack() as stack:

        def start(name: str = "a.db") -> Child:
            child = Child("tests.support.streamer", str(tmp_path / name))
            stack.callback(child.process.communicate)
            stack.callback(child.process.kill)
            child.until("ok\n")
            return child

        yield start


def test_text_is_shown_as_it_streams(own: Start, tail: Start) -> None:
    """Each delta is on the screen before the next one is written: nothing waits for the end of a line."""
    owner = own()
    owner.tell("start ses_1")
    owner.tell("say ses_1 m0 0 before")
    owner.tell("finish ses_1 m0")
    owner.tell("say ses_1 m1 0 Hel")
    # when
    follower = tail("ses_1")
    # then
    assert follower.until("before\n  ■ completed\n").startswith("● assistant  ")
    assert follower.until("m1\nHel")
    for offset, word in enumerate("lo, world", 3):
        if word != " ":
            owner.tell(f"say ses_1 m1 {offset} {word}")
        else:
            owner.tell(f"say ses_1 m1 {offset}  ")
        assert follower.until(word) == ""
    owner.tell("finish ses_1 m1")
    assert follower.until("■ completed\n") == "\n  "


def test_a_restart_of_the_owner_is_not_noticed(own: Start, tail: Start) -> None:
    """Another epoch, the same log: no gap, no repetition. What the dead one left open is settled by the sweep."""
    owner = own()
    owner.tell("start ses_1")
    owner.tell("say ses_1 m1 0 one")
    follower = tail("ses_1", "--json", "--after", "start")
    assert [follower.line()["type"] for _ in range(4)][-1] == "part.delta"
    assert "caught_up" in follower.line()
    # when
    owner.process.kill()
    owner.process.wait()
    owner = own()
    owner.tell("say ses_1 m2 0 two")
    # then
    found = [line for line in (follower.line() for _ in range(5)) if "caught_up" not in line]
    found += [follower.line() for _ in range(4 - len(found))]
    assert [(line["seq"], line["type"]) for line in found] == [
        (5, "message.finished"),
        (6, "message.updated"),
        (7, "part.updated"),
        (8, "part.delta"),
    ]
    assert found[0]["cursor"].split("-")[0] == found[-1]["cursor"].split("-")[0]


def test_json_has_a_line_an_item_like_the_log(own: Start, tail: Start, tmp_path: Path) -> None:
    """What `engine log --json` prints of the same events; `now` is where it begins unless it is told."""
    owner = own()
    owner.tell("start ses_1")
    owner.tell("start ses_2")
    follower = tail("ses_1", "--json")
    place = follower.line()["caught_up"]["cursor"]
    # when
    owner.tell("say ses_2 m1 0 other")
    owner.tell("say ses_1 m1 0 one")
    found = [follower.line() for _ in range(3)]
    # then
    logged = CliRunner().invoke(engine, ["log", "ses_1", "--json", "--after", place, "--db", str(tmp_path / "a.db")])
    assert found == [json.loads(line) for line in logged.stdout.splitlines()]
    # and from a cursor, until all was shown
    again = tail("ses_1", "--json", "--after", found[0]["cursor"], "--no-follow")
    status, out, said = again.end()
    lines = [json.loads(line) for line in out.splitlines()]
    assert (status, said) == (0, "")
    assert lines[:-1] == found[1:]
    assert set(lines[-1]) == {"caught_up"}


def test_a_workspace_is_followed_whole_and_says_which_session_it_is(own: Start, tail: Start) -> None:
    """Nothing of before; a name wherever the session changes."""
    owner = own()
    owner.tell("start ses_1")
    owner.tell("say ses_1 m1 0 old")
    follower = tail("--after", "start")
    assert follower.until("old").startswith("── ses_1\n  · session started\n● assistant  ")
    # when
    owner.tell("start ses_2")
    owner.tell("say ses_2 m1 0 new")
    owner.tell("say ses_1 m1 3 er")
    # then
    assert follower.until("new").startswith("\n── ses_2\n  · session started\n● assistant  ")
    assert follower.until("er") == "\n── ses_1\n● assistant  …  m1\n… "


def test_the_last_messages_are_as_many_as_were_asked_for(own: Start, tail: Start) -> None:
    """Ten unless it is said; with 0 none of them."""
    owner = own()
    owner.tell("start ses_1")
    for number in range(12):
        owner.tell(f"say ses_1 m{number} 0 text-{number}.")
    for arguments, count in ((), 10), (("--last", "3"), 3), (("--last", "0"), 0), (("--last", "500"), 12):
        status, out, said = tail("ses_1", "--no-follow", *arguments).end()
        assert (status, said) == (0, "")
        assert [f"text-{number}." in out for number in range(12)] == [False] * (12 - count) + [True] * count
        assert out == "" or out.endswith("\n")


def test_another_log_in_the_place_of_the_old_one_is_a_reset(own: Start, tail: Start, tmp_path: Path) -> None:
    """Said, and begun anew as at first: nothing of the new one is taken for the rest of the old one."""
    owner = own()
    owner.tell("start ses_1")
    owner.tell("say ses_1 m1 0 old")
    follower, machine = tail("ses_1"), tail("--json", "--after", "start")
    follower.until("old")
    assert [next(iter(machine.line())) for _ in range(5)] == ["position"] * 4 + ["caught_up"]
    owner.process.communicate(timeout=PATIENCE_S)
    # given another log, which was closed
    other = own("b.db")
    other.tell("start ses_1")
    other.tell("say ses_1 m1 0 new")
    other.process.communicate(timeout=PATIENCE_S)
    # when
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"a.db{suffix}").unlink(missing_ok=True)
    (tmp_path / "b.db").rename(tmp_path / "a.db")
    # then
    assert "no longer the log's content: the log is another one now (" in follower.until("\n", error=True)
    assert follower.until("new").startswith("\n● assistant  ")
    assert "another one" in machine.line()["reset"]["reason"]
    assert [machine.line()["type"] for _ in range(4)][-1] == "part.delta"


def test_a_session_that_is_imported_anew_is_a_reset(own: Start, tail: Start) -> None:
    """What was shown of it is not there any more."""
    owner = own()
    owner.tell("import ses_1 first")
    follower = tail("ses_1")
    follower.until("first")
    # when
    owner.tell("replace ses_1 second")
    # then
    assert "imported events before this cursor were replaced" in follower.until("\n", error=True)
    assert follower.until("second").startswith("\n● user  ")


def test_an_interrupt_ends_it_with_130(own: Start, tail: Start) -> None:
    """On a line of its own."""
    owner = own()
    owner.tell("start ses_1")
    owner.tell("say ses_1 m1 0 in the middle")
    for arguments, rest in ((["ses_1"], "\n"), (["--json"], None)):
        follower = tail(*arguments)
        follower.until("in the middle" if rest else "caught_up")
        # when
        follower.process.send_signal(signal.SIGINT)
        status, out, said = follower.end()
        # then
        assert (status, said) == (130, "engine: interrupted\n")
        assert rest is None or out == rest


@pytest.mark.parametrize("busy", [True, False], ids=["while something comes", "while nothing happens"])
def test_a_reader_who_goes_away_ends_it_quietly(own: Start, tail: Start, busy: bool) -> None:
    """Also while there is nothing to write."""
    owner = own()
    owner.tell("start ses_1")
    follower = tail("--json")
    follower.until("caught_up")
    assert follower.process.stdout is not None
    # when
    follower.process.stdout.close()
    if busy:
        owner.tell("say ses_1 m1 0 text")
    # then
    assert follower.process.stderr is not None
    assert follower.process.wait(PATIENCE_S) == 141
    assert follower.process.stderr.read() == b""


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nobody"], 2, "session 'nobody': does not exist"),
        (["--after", "nowhere"], 2, "cursor 'nowhere': is not a cursor"),
        (["--after", "abc-1"], 2, "belongs to another log"),
        (["--after", "start", "--last", "3"], 2, "give either --after or --last"),
        (["--json", "--last", "3"], 2, "--last shows messages"),
        (["--last", "-1"], 2, "--last"),
        ([""], 2, "argument 'session_id'"),
        (["--workspace", ""], 2, "argument 'workspace'"),
        (["--db", "nothing.db"], 1, "no such file"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(
    own: Start, tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    """Before anything is shown."""
    own().tell("start ses_1")
    found = CliRunner().invoke(engine, ["tail", "--db", str(tmp_path / "a.db"), *arguments])
    assert (found.exit_code, found.stdout) == (status, "")
    assert words in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_session_to_come_is_followed_where_events_are_asked_for(own: Start, tail: Start) -> None:
    """With `--after` it need not exist yet."""
    owner = own()
    follower = tail("ses_9", "--after", "now", "--json")
    follower.until("caught_up")
    follower.until("\n")
    # when
    owner.tell("start ses_9")
    # then
    assert follower.line()["type"] == "session.started"


# --- from a server ----------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Start]:
    """Start `engine serve` of the file on a port (0: any), and wait until it listens; it is killed in the end."""
    with ExitStack() as stack:

        def start(port: str = "0", *arguments: str) -> Child:
            child = Child("engine", "serve", "--db", str(tmp_path / "a.db"), "--json", "--port", port, *arguments)
            stack.callback(child.process.communicate)
            stack.callback(child.process.kill)
            return child

        yield start


@pytest.fixture
def remote(tail: Start) -> Start:
    """Start `engine tail` of a server."""

    def start(url: str, *arguments: str) -> Child:
        return tail("--url", url, *arguments, db=False)

    return start


async def test_a_conversation_at_a_server_is_followed_over_its_death(server: Start, remote: Start) -> None:
    """Text appears as it streams; a server that is killed and comes back leaves neither gap nor repetition."""
    first = server()
    where = first.line()
    async with connect(where["url"], limits=QUICK) as client:
        session = await client.create_session("ses_1")
        await session.append(MessageUpdated("m1", "assistant"), PartUpdated("p", "m1", "text"))
        await session.append(PartDelta("p", "m1", "text", 0, "one"))
        follower, machine = remote(where["url"], "ses_1"), remote(where["url"], "--json", "--after", "start")
        # then
        assert follower.until("m1\none").startswith("● assistant  ")
        assert [machine.line()["type"] for _ in range(4)][-1] == "part.delta"
        assert "caught_up" in machine.line()
        await session.append(PartDelta("p", "m1", "text", 3, " two"))
        assert follower.until(" two") == ""
        assert machine.line()["seq"] == 5
        # when
        first.process.kill()
        first.process.wait()
        assert "the connection is lost" in follower.until("\n", error=True)
        second = server(str(where["port"]))
        second.line()
        await session.append(UsageRecorded("st_1"))
    # then
    assert follower.until("usage: nothing").startswith("\n  ■ aborted (the process that streamed it ended) (settled")
    seqs = []
    while len(seqs) < 2:
        line = machine.line()
        if "seq" in line:
            seqs.append((line["seq"], line["type"]))
    assert seqs == [(6, "message.finished"), (7, "usage.recorded")]
    assert "connected again" in follower.until("\n", error=True)


async def test_only_who_has_a_token_follows_and_only_its_workspace(
    server: Start, remote: Start, tail: Start, tmp_path: Path
) -> None:
    """From a file or from the environment, never from the command line; the token says the workspace."""
    secret, wrong = "a-secret-of-some-length", "another-secret-of-length"
    (tmp_path / "tokens").write_text(f"{secret} acme read\n")
    (tmp_path / "token").write_text(f"{secret}\n")
    (tmp_path / "wrong").write_text(wrong)
    where = server("0", "--tokens", str(tmp_path / "tokens")).line()
    # when
    follower = remote(where["url"], "--token-file", str(tmp_path / "token"), "--json", "--no-follow")
    status, out, said = follower.end()
    # then
    assert (status, said) == (0, "")
    assert list(json.loads(out)) == ["caught_up"]
    named = tail("--url", where["url"], "--json", "--no-follow", db=False, environment={"ENGINE_TOKEN": secret})
    assert named.end()[0] == 0
    status, out, said = remote(where["url"], "--token-file", str(tmp_path / "wrong")).end()
    assert (status, out) == (1, "")
    assert said.startswith(f"engine: connect to {where['url']}: ")
    assert said.count("\n") == 1
    assert not any(text in said for text in (secret, wrong))
    status, out, said = remote(where["url"], "nobody", "--token-file", str(tmp_path / "token")).end()
    assert (status, out, said) == (2, "", "engine: session 'nobody': does not exist; nothing was written\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "http://127.0.0.1:1"], "argument 'url'"),
        (["--url", "ws://127.0.0.1:1", "--db", "a.db"], "either a file or a server"),
        (["--url", "ws://127.0.0.1:1", "--workspace", "acme"], "token stands for one"),
        (["--url", "ws://127.0.0.1:1", "--token-file", "nothing"], "--token-file nothing: "),
        (["--url", "ws://127.0.0.1:1", "--token-file", "two"], "expected a token and nothing else, found 2 words"),
        (["--url", "ws://127.0.0.1:1", "--token-file", "bytes"], "no text in UTF-8"),
        (["--token-file", "two"], "it goes with --url"),
    ],
)
def test_a_server_that_cannot_be_meant_is_refused_before_anything_is_dialled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    """With status 2, on one line."""
    monkeypatch.chdir(tmp_path)
    Path("two").write_text("one two")
    Path("bytes").write_bytes(b"\xff\xfe\xfa")
    found = CliRunner().invoke(engine, ["tail", *arguments])
    assert (found.exit_code, found.stdout) == (2, "")
    assert words in found.stderr
    assert found.stderr.count("\n") == 1


async def test_an_interrupt_and_a_reader_who_goes_away_end_it_at_a_server_too(server: Start, remote: Start) -> None:
    """As they do at a file."""
    where = server().line()
    async with connect(where["url"], limits=QUICK) as client:
        await client.create_session("ses_1")
    follower, other = remote(where["url"], "--json"), remote(where["url"], "--json")
    follower.until("caught_up")
    other.until("caught_up")
    # when
    follower.process.send_signal(signal.SIGINT)
    assert other.process.stdout is not None
    other.process.stdout.close()
    # then
    status, _, said = follower.end()
    assert (status, said) == (130, "engine: interrupted\n")
    assert other.process.wait(PATIENCE_S) == 141
    assert other.process.stderr is not None
    assert other.process.stderr.read() == b""
