"""`engine show`: one session as a conversation.

Owns: how messages, parts and tool calls read. Must not know: the writer.
Invariants: text from outside is printed as text; what is shortened says so and how to see it whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import attrs
import click
import msgspec
import trio
from rich.console import Console
from rich.text import Text

from engine.cli import output
from engine.cli.options import Settings, shared_options
from engine.cli.stats import usage_row, usage_table
from engine.projections import MessageView, PartView, SessionView, ToolView, UsageReport
from engine.runtime import ReaderWorkspace, open_reader

ROLE_STYLES: Final = {"user": "bold cyan", "assistant": "bold green", "system": "bold magenta"}
STATE_STYLES: Final = {"completed": "green", "error": "red", "aborted": "yellow", "running": "blue", "pending": "blue"}


@attrs.frozen
class _Cut:
    """How much of a long text is shown."""

    lines: int
    chars: int


TEXT_CUT: Final = _Cut(60, 6_000)
REASONING_CUT: Final = _Cut(12, 1_200)
TOOL_CUT: Final = _Cut(10, 1_000)
WHOLE: Final = _Cut(2**60, 2**60)


@click.command("show")
@click.argument("session_id", metavar="SESSION")
@click.option("--full", is_flag=True, help="Shorten nothing.")
@click.option("--last", metavar="N", type=click.IntRange(1), help="Only the last N messages.")
@shared_options()
def command(settings: Settings, session_id: str, full: bool, last: int | None) -> None:
    """Print a session as a conversation: who said what, reasoning dimmed, tool calls with state, input and output, usage.

    Long texts are shortened; --full prints them whole.

    --json: one document (session, messages with their parts and tool calls, whole, and usage).
    """
    trio.run(_show, settings, session_id, full, last)


async def _show(settings: Settings, session_id: str, full: bool, last: int | None) -> None:
    async with open_reader(settings.db, settings.app.events) as reader:
        workspace = reader.workspace(settings.workspace)
        session = await workspace.read.session(session_id)
        usage = await workspace.read.usage(session_id)
        if settings.as_json:
            whole = [message async for message in _messages(workspace, session_id, last)]
            report = {**output.plain(usage), "total": usage.total}
            output.write_json({"session": session, "messages": whole, "usage": report})
            return
        console = output.console()
        _head(console, session)
        async with aclosing(_messages(workspace, session_id, last)) as messages:
            async for message in messages:
                _message(console, message, full)
        _usage(console, usage)


async def _messages(workspace: ReaderWorkspace, session_id: str, last: int | None) -> AsyncGenerator[MessageView, None]:
    """The messages in order, page by page; only the last ones when asked."""
    after, before, left = 0, None, last
    while left:
        page = await workspace.read.messages(session_id, before=before, limit=min(left, 500))
        if not page.items:
            break
        before, left = page.items[0].key, left - len(page.items)
        if not page.more:
            break
    if last is not None:
        after = (before or 1) - 1
    while True:
        page = await workspace.read.messages(session_id, after=after, limit=100)
        for message in page.items:
            yield message
        if not page.more or not page.items:
            return
        after = page.items[-1].key


def _head(console: Console, session: SessionView) -> None:
    line = Text(output.clean(session.session_id), style="bold")
    if session.title:
        line.append(f"  {output.one_line(session.title, 120)}", style="default")
    console.print(line, soft_wrap=True)
    facts = [f"created {output.moment(session.created_at)}", f"updated {output.moment(session.updated_at)}"]
    if session.parent_id:
        facts.append(f"child of {output.clean(session.parent_id)}")
    if session.incarnation > 1:
        facts.append(f"incarnation {session.incarnation}")
    console.print(Text(", ".join(facts), style="dim"), soft_wrap=True)


def _message(console: Console, message: MessageView, full: bool) -> None:
    console.print()
    line = Text("● ", style=ROLE_STYLES.get(message.role, "bold"))
    line.append(output.one_line(message.role, 40), style=ROLE_STYLES.get(message.role, "bold"))
    status = message.status or "unknown"
    if status != "completed" or message.finish_reason:
        line.append(f"  {status}", style=STATE_STYLES.get(status, "dim"))
    if message.finish_reason:
        line.append(f" ({output.one_line(message.finish_reason, 80)})", style="dim")
    line.append(f"  {output.moment(message.created_at)}  {output.clean(message.message_id)}", style="dim")
    console.print(line, soft_wrap=True)
    for part in message.parts:
        if part.tool is not None:
            _tool(console, part.tool, full)
        else:
            _part(console, part, full)


def _part(console: Console, part: PartView, full: bool) -> None:
    text = part.data.get("text")
    if part.kind == "text" and isinstance(text, str):
        _print(console, text, "", WHOLE if full else TEXT_CUT, "")
    elif part.kind == "reasoning" and isinstance(text, str):
        _print(console, text, "dim italic", WHOLE if full else REASONING_CUT, "~ ")
    else:
        console.print(Text(f"  [{output.one_line(part.kind, 40)}]", style="dim"), soft_wrap=True)
        _print(console, _as_text(dict(part.data)), "dim", WHOLE if full else TOOL_CUT, "  ")


def _tool(console: Console, tool: ToolView, full: bool) -> None:
    line = Text("  ▸ ", style="bold")
    line.append(output.one_line(tool.name, 60), style="bold")
    line.append(f"  {tool.state}", style=STATE_STYLES.get(tool.state, "dim"))
    if tool.settled_by == "sweep":
        line.append(" (settled by the sweep)", style="dim")
    if tool.started_at is not None and tool.ended_at is not None and tool.ended_at >= tool.started_at:
        line.append(f"  {output.duration(tool.ended_at - tool.started_at)}", style="dim")
    line.append(f"  {output.clean(tool.call_id)}", style="dim")
    if tool.child_session_id:
        line.append(f"  → {output.clean(tool.child_session_id)}", style="dim")
    console.print(line, soft_wrap=True)
    cut = WHOLE if full else TOOL_CUT
    if tool.input is not None:
        _print(console, _as_text(tool.input), "", cut, "    ← ")
    if tool.error:
        _print(console, tool.error, "red", cut, "    ✗ ")
    if tool.output is not None:
        _print(console, _as_text(tool.output), "dim", cut, "    → ")


def _as_text(value: Any) -> str:
    """A tool's value as a person reads it: text as it is, short fields one a line, else JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value and all(isinstance(item, str | int | float | bool) for item in value.values()):
        return "\n".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, list) and value and all(isinstance(i, dict) and isinstance(i.get("text"), str) for i in value):
        return "\n".join(item["text"] for item in value)
    return msgspec.json.format(msgspec.json.encode(value)).decode()


def _print(console: Console, text: str, style: str, cut: _Cut, prefix: str) -> None:
    """Print text with a prefix on its first line and as much space before the others."""
    shown, left_out = output.shorten(text.rstrip("\n"), lines_max=cut.lines, chars_max=cut.chars)
    indent = " " * len(prefix)
    for number, line in enumerate(output.clean(shown).split("\n")):
        console.print(Text((prefix if number == 0 else indent) + line, style=style), soft_wrap=True)
    if left_out is not None:
        console.print(Text(f"{indent}{left_out}; --full shows all", style="dim"), soft_wrap=True)


def _usage(console: Console, usage: UsageReport) -> None:
    if not usage.total.steps:
        return
    made = usage_table()
    usage_row(made, "this session", usage.own)
    if usage.unattributed.steps:
        usage_row(made, "unattributed", usage.unattributed)
    if usage.children.steps:
        usage_row(made, "sessions below it", usage.children)
        usage_row(made, "total", usage.total)
    console.print()
    console.print(made)
