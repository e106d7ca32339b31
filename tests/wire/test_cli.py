"""The command line: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from click.testing import CliRunner, Result

from engine import event, open_engine
from engine.cli import engine, output
from engine.cli.options import load_apps
from engine.events import (
    MessageFinished,
    MessageUpdated,
    PartUpdated,
    ToolUpdated,
    UsageRecorded,
)
from engine.projections import projection

ROOT = Path(__file__).parents[2]


def run(*arguments: str, db: Path | None = None) -> Result:
    """Run a command with a file."""
    return CliRunner().invoke(engine, [*arguments, *(("--db", str(db)) if db is not None else ())])


def lines(result: Result) -> list[Any]:
    """The JSON lines that a command printed."""
    assert (result.exit_code, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


@event("invoice.created")
@attrs.frozen
class InvoiceCreated:
    """An event of somebody's own."""

    amount: int


@projection("invoices", 1, {"invoice": "session_id TEXT NOT NULL, amount INTEGER NOT NULL"})
class Invoices:
    """Somebody's own projection."""

    def created(self, tx: Any, event: InvoiceCreated, recorded: Any) -> None:
        tx.execute("INSERT INTO {invoice} VALUES(?, ?)", (recorded.session_id, event.amount))


APP = {"events": [InvoiceCreated], "projections": [Invoices]}


async def fill(path: Path) -> None:
    """A log with a conversation, and one in another workspace."""
    async with open_engine(path, events=[InvoiceCreated], projections=[Invoices]) as opened:
        session = await opened.create_session("ses_1", title="count the files")
        await session.append(
            MessageUpdated("u1", "user"),
            PartUpdated("pu", "u1", "text", {"text": "how many \x1b[31mfiles\x1b[0m?"}),
            MessageUpdated("a1", "assistant"),
            PartUpdated("pr", "a1", "reasoning", {"text": "I should look"}),
            ToolUpdated("pt", "a1", "c1", "bash", "completed", input={"command": "ls"}, output="file\n" * 100),
            PartUpdated("pa", "a1", "text", {"text": "a hundred"}),
            UsageRecorded("st1", "a1", "small", 12_345, 10, 20),
            MessageFinished("a1", "completed", "stop"),
            InvoiceCreated(7),
        )
        child = await opened.create_session("ses_2", parent_id="ses_1")
        await child.append(UsageRecorded("st1", None, "large", 1_000_000_000, 1, 2))
        await opened.workspace("acme").create_session("hidden")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A log with something in it."""
    path = tmp_path / "a.db"
    trio.run(fill, path)
    return path


def test_show_prints_the_conversation(db: Path) -> None:
    """Roles, text, reasoning, calls with state, input and shortened output, usage with the sessions below."""
    # when
    result = run("show", "ses_1", db=db)
    # then
    assert (result.exit_code, result.stderr) == (0, "")
    text = result.stdout
    for piece in ("ses_1  count the files", "● user", "● assistant", "(stop)", "~ I should look", "▸ bash  completed"):
        assert piece in text
    assert "← command: ls" in text
    assert "… 90 more lines; --full shows all" in text
    assert "sessions below it" in text
    assert "$1.000012345" in text
    assert text.index("how many") < text.index("I should look") < text.index("▸ bash") < text.index("a hundred")


def test_what_a_transcript_says_cannot_steer_the_terminal(db: Path) -> None:
    """Control characters are shown, not sent."""
    text = run("show", "ses_1", db=db).stdout + run("log", "--all", db=db).stdout
    assert "\x1b" not in text
    assert "␛[31mfiles" in text


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 only")
def test_a_file_whose_name_is_no_text_is_told_of_in_json(tmp_path: Path) -> None:
    """A name that is not UTF-8 is escaped, so that a program can read it back."""
    # given
    name = os.path.join(os.fsdecode(os.fsencode(tmp_path)), os.fsdecode(b"not-utf8-\xff.jsonl"))
    Path(name).write_text("")
    # when
    result = run("import", name, "--json", db=tmp_path / "a.db")
    # then
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert name in [json.loads(line).get("path") for line in result.stdout.splitlines()]


def test_show_full_and_last(db: Path) -> None:
    """`--full` shortens nothing, `--last` begins later."""
    assert run("show", "ses_1", "--full", db=db).stdout.count("file\n") >= 100
    last = run("show", "ses_1", "--last", "1", db=db).stdout
    assert "● assistant" in last
    assert "● user" not in last


def test_show_as_json_is_one_whole_document(db: Path) -> None:
    """Session, messages with parts and tool calls, usage."""
    (document,) = lines(run("show", "ses_1", "--json", db=db))
    assert document["session"]["title"] == "count the files"
    assert [message["message_id"] for message in document["messages"]] == ["u1", "a1"]
    assert document["messages"][1]["parts"][1]["tool"]["output"] == "file\n" * 100
    assert document["usage"]["total"]["cost_nanousd"] == 1_000_012_345


def test_sessions_lists_the_newest_last_within_its_limit(db: Path) -> None:
    """Each with its usage; of one workspace only."""
    assert [view["session_id"] for view in lines(run("sessions", "--json", db=db))] == ["ses_1", "ses_2"]
    assert [view["session_id"] for view in lines(run("sessions", "--limit", "1", "--json", db=db))] == ["ses_2"]
    assert lines(run("sessions", "--json", db=db))[0]["usage"]["children"]["steps"] == 1
    assert [v["session_id"] for v in lines(run("sessions", "--workspace", "acme", "--json", db=db))] == ["hidden"]
    assert "count the files" in run("sessions", db=db).stdout
    assert run("sessions", "--workspace", "nobody", db=db).stdout == "no sessions in workspace 'nobody'\n"


def test_log_pages_by_cursor_without_gap_or_repetition(db: Path) -> None:
    """`--limit` ends early; its last cursor goes on exactly there."""
    whole = lines(run("log", "--all", "--json", db=db))
    first = lines(run("log", "--limit", "4", "--json", db=db))
    rest = lines(run("log", "--all", "--after", first[-1]["cursor"], "--json", db=db))
    assert first + rest == whole
    assert [item["seq"] for item in lines(run("log", "ses_2", "--json", db=db))] == [1, 2]
    text = run("log", "--limit", "4", db=db)
    assert len(text.stdout.splitlines()) == 4
    assert text.stderr == f"more: --after {first[-1]['cursor']}\n"


def test_an_event_of_an_unknown_type_is_shown_raw_and_known_with_app(db: Path) -> None:
    """Without `--app` it is counted as unknown; with it, it is known."""
    item = next(i for i in lines(run("log", "--all", "--json", db=db)) if i["type"] == "invoice.created")
    assert item["event"] == {"amount": 7}
    assert "(unknown type)" in run("log", "--all", db=db).stdout
    app = f"{__name__}:APP"
    assert lines(run("stats", "--json", db=db))[0]["unknown_types"] == {"invoice.created v1": 1}
    assert lines(run("stats", "--json", "--app", app, db=db))[0]["unknown_types"] == {}
    assert "invoice.created  (unknown here)" in run("stats", db=db).stdout


def test_stats_is_one_document_with_sizes_counts_and_usage(db: Path) -> None:
    """Sizes in bytes; rows by state; usage by model."""
    (document,) = lines(run("stats", "--json", db=db))
    assert document["events"] == 12
    assert document["outcomes"] == {"applied": 12}
    assert document["file"]["file_bytes"] > document["file"]["log_bytes"] > 0
    assert document["rows"]["tools"] == {"completed": 1}
    assert document["usage"]["total"]["steps"] == 2
    assert run("stats", db=db).exit_code == 0


def test_rebuild_says_what_it_replayed(db: Path) -> None:
    """All projections that are known, the user's own with `--app`; or the named ones."""
    app = f"{__name__}:APP"
    (document,) = lines(run("rebuild", "--json", "--app", app, db=db))
    assert document["replayed_events"] == 13
    assert document["projections"] == ["sessions", "messages", "parts", "tools", "usage", "invoices"]
    assert lines(run("rebuild", "invoices", "--json", "--app", app, db=db))[0]["projections"] == ["invoices"]
    assert run("rebuild", db=db).stdout.startswith("replayed 13 events into sessions, messages")


def test_import_says_what_became_of_each_file_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    """One line a file and one of totals; status 1 when a file failed, and the others are there."""
    # given
    record = {"type": "user", "uuid": "u1", "sessionId": "s1", "message": {"role": "user", "content": "hello"}}
    (tmp_path / "good.jsonl").write_text(json.dumps(record) + "\n{torn\n")
    (tmp_path / "bad.json").write_text("{}")
    db = tmp_path / "a.db"
    # when
    result = run("import", str(tmp_path), "--json", db=db)
    again = run("import", str(tmp_path / "good.jsonl"), "--json", db=db)
    text = run("import", str(tmp_path), db=db)
    # then
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert "no transcript of a known format" in documents[0]["problem"]
    assert [session["state"] for session in documents[1]["sessions"]] == ["new"]
    assert documents[1]["issues"][0]["line"] == 2
    assert documents[2]["total"]["failed"] == 1
    assert (again.exit_code, json.loads(again.stdout.splitlines()[-1])["total"]["new_events"]) == (0, 0)
    assert "failed: " in text.stdout
    assert "good.jsonl:2: " in text.stdout
    assert [view["session_id"] for view in lines(run("sessions", "--json", db=db))] == ["s1"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["bogus"], 2, "No such command 'bogus'."),
        (["show"], 2, "Missing argument 'SESSION'."),
        (["show", "nope"], 2, "session 'nope': does not exist; nothing was written"),
        (["log", "nope"], 2, "session 'nope': does not exist; nothing was written"),
        (["log", "--after", "zz"], 2, "cursor 'zz': is not a cursor; nothing was written"),
        (["log", "--limit", "0"], 2, "Invalid value for '--limit': 0 is not in the range x>=1."),
        (["rebuild", "nope"], 2, "register projection 'nope': unknown; known are"),
        (["sessions", "--workspace", ""], 2, "argument 'workspace': expected text of 1 to 512 characters"),
        (["sessions", "--app", "nonsense"], 2, "--app nonsense: expected module:attribute"),
        (["sessions", "--app", "no_such_module:x"], 2, "--app no_such_module:x: ModuleNotFoundError: No module named"),
        (["sessions", "--app", "os:nope"], 2, "--app os:nope: AttributeError: module 'os' has no attribute 'nope'"),
        (["sessions", "--app", "os:curdir"], 2, "--app os:curdir: 'curdir' has neither `events` nor `projections`"),
        (["import", "no/such/path"], 2, "import no/such/path: does not exist; nothing was written"),
        (["demo", "--db", __file__], 2, f"--db {__file__}: it exists; the demo wants a file of its own"),
        (["demo", "--transcripts", "no/such/path"], 2, "import no/such/path: does not exist; nothing was written"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_changes_nothing(db: Path, arguments: list[str], status: int, message: str) -> None:
    """Standard error says what is wrong, the status is 2, the file is as before."""
    before = db.read_bytes()
    # when
    result = run(*arguments, **({} if "demo" in arguments else {"db": db}))
    # then
    assert (result.exit_code, result.stdout) == (status, "")
    assert result.stderr.startswith(f"engine: {message}")
    assert result.stderr.count("\n") == 1
    assert db.read_bytes() == before


def test_what_the_storage_refuses_ends_with_1_and_one_line(tmp_path: Path) -> None:
    """No file, no database; nothing appears."""
    (tmp_path / "text").write_text("not a database at all, and long enough to be read as one " * 30)
    for name in ("nothing", "text"):
        for command in (["sessions"], ["stats"], ["log"], ["show", "s"], ["rebuild"]):
            result = run(*command, db=tmp_path / name)
            assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert not (tmp_path / "nothing").exists()


def test_an_owned_file_is_read_but_not_rebuilt_or_imported_into(db: Path, tmp_path: Path) -> None:
    """While another engine owns the file, reading commands work, and the others name the owner."""
    (tmp_path / "t.jsonl").write_text(
        '{"type": "user", "uuid": "u", "sessionId": "s", "message": {"role": "user", "content": "x"}}\n'
    )
    found: list[Result] = []

    commands = (["sessions"], ["show", "ses_1"], ["log"], ["stats"], ["rebuild"], ["import", str(tmp_path / "t.jsonl")])

    async def own() -> None:
        async with open_engine(db):
            # A command has a loop of its own, so it needs a thread of its own here.
            found.extend(await trio.to_thread.run_sync(lambda: [run(*command, db=db) for command in commands]))

    # when
    trio.run(own)
    # then
    assert [result.exit_code for result in found] == [0, 0, 0, 0, 1, 1]
    for result in found[4:]:
        assert result.stderr == f"engine: open {db}: it is owned by this process; nothing was written\n"


def test_the_file_comes_from_the_environment_or_is_in_the_current_folder(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--db` first, then ENGINE_DB, else ./engine.db; the help says so."""
    monkeypatch.setenv("ENGINE_DB", str(db))
    assert len(lines(run("sessions", "--json"))) == 2
    monkeypatch.delenv("ENGINE_DB")
    monkeypatch.chdir(tmp_path)
    db.rename(tmp_path / "engine.db")
    assert len(lines(run("sessions", "--json"))) == 2
    text = " ".join(run("sessions", "--help").stdout.split())
    assert "Default: the environment variable ENGINE_DB, else ./engine.db." in text


def test_every_command_says_what_its_json_is() -> None:
    """Help documents the document."""
    for name in ("import", "sessions", "show", "log", "stats", "rebuild", "demo"):
        text = run(name, "--help").stdout
        assert "--json: one" in text
        for option in ("--db FILE", "--workspace NAME", "--app MODULE:ATTRIBUTE", "--json"):
            assert option in text


def test_text_is_made_safe_short_and_readable() -> None:
    """The conversions of the output, at their edges."""
    assert output.clean("a\x00\x1b\x7f\x9b\u202eb\r\nc\td") == "a␀␛␡\ufffd\ufffdb\nc\td"
    assert output.one_line("x" * 50, 10) == "x" * 9 + "…"
    assert output.one_line(" a\n b ", 10) == "a b"
    assert output.shorten("a\nb\nc", lines_max=2, chars_max=99) == ("a\nb", "… 1 more lines")
    assert output.shorten("abcdef", lines_max=2, chars_max=4) == ("abcd", "… 2 more characters")
    assert output.shorten("abc", lines_max=1, chars_max=3) == ("abc", None)
    assert [output.octets(n) for n in (None, 0, 2048, 5 << 20, 3 << 30)] == [
        "unknown",
        "0 B",
        "2.0 KiB",
        "5.0 MiB",
        "3.00 GiB",
    ]
    assert [output.money(n) for n in (0, 1, 1_500_000_000)] == ["$0.0000", "$0.000000001", "$1.5000"]
    assert output.moment(10**18) == "1000000000000000000 ms"
    assert [output.duration(n) for n in (5, 1_500, 61_000)] == ["5 ms", "1.5 s", "1 min 1 s"]


# --- real processes -----------------------------------------------------------------------------------


def process(*arguments: str, **extra: Any) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    command = [sys.executable, "-W", "error", "-m", "engine", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, **extra)


async def fill_long(path: Path) -> None:
    """More than a pipe holds."""
    async with open_engine(path, durability="normal") as opened:
        session = await opened.create_session("long")
        for start in range(0, 4_000, 500):
            await session.append(*(MessageUpdated(f"m{n}", "user", {"n": "x" * 100}) for n in range(start, start + 500)))


@pytest.mark.parametrize("command", [["log", "--all"], ["log", "--all", "--json"], ["show", "long"]], ids="-".join)
def test_output_that_nobody_reads_any_more_ends_quietly(tmp_path: Path, command: list[str]) -> None:
    """`| head` gets its lines; nothing is said on standard error."""
    # given
    trio.run(fill_long, tmp_path / "a.db")
    with process(*command, "--db", str(tmp_path / "a.db")) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        # when
        first = child.stdout.readline()
        child.stdout.close()
        said = child.stderr.read()
        status = child.wait(20)
    # then
    assert "long" in first
    assert (said, status) == ("", 141)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children take interrupts as on a terminal, also where a shell started the tests in the background, ignoring them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_with_130_and_leaves_a_sound_file(tmp_path: Path) -> None:
    """Ctrl-C: one word on standard error, no traceback."""
    db = tmp_path / "a.db"
    with process("demo", "--seconds", "60", "--sessions", "5", "--db", str(db)) as child:
        deadline = time.monotonic() + 20
        while not db.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        # when
        child.send_signal(signal.SIGINT)
        out, said = child.communicate(timeout=20)
    # then
    assert (child.returncode, out, said) == (130, "", "engine: interrupted\n")
    assert run("stats", db=db).exit_code == 0


def test_the_module_runs_as_a_command() -> None:
    """`python -m engine --version` answers."""
    with process("--version") as child:
        out, said = child.communicate(timeout=20)
    assert (child.returncode, said) == (0, "")
    assert out.startswith("engine ")


def test_without_a_command_the_help_is_shown_and_the_status_is_2() -> None:
    """Nothing was asked."""
    result = run()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_an_app_may_be_a_callable_and_several_may_be_given(tmp_path: Path) -> None:
    """Their events and projections are joined, each once."""
    module = tmp_path / "somebodys_app.py"
    module.write_text("def make():\n    return {'events': []}\n")
    sys.path.insert(0, str(tmp_path))
    try:
        app = load_apps(["somebodys_app:make", f"{__name__}:APP", f"{__name__}:APP"])
    finally:
        sys.path.remove(str(tmp_path))
    assert (app.events, app.projections) == ((InvoiceCreated,), (Invoices,))


@pytest.mark.parametrize("command", [["sessions"], ["show", "s"], ["log"], ["stats"]], ids="-".join)
def test_a_command_that_reads_says_that_there_is_no_such_file(tmp_path: Path, command: list[str]) -> None:
    """Nothing was to be created, so nothing is said of creating, and nothing is created."""
    missing = tmp_path / "none.db"
    result = run(*command, db=missing)
    assert result.exit_code == 1
    assert result.stderr == f"engine: open {missing}: no such file (SQLite code 14); nothing was written\n"
    assert list(tmp_path.iterdir()) == []
