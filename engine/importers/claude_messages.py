"""Claude Code: what one record says in one session.

Owns: messages, parts, calls, results, usage, compaction, and when a message is proven ended.
Must not know: which session a record belongs to (see `claude_code`), bytes, event ids.

A message ends when another one of the model begins, a prompt or compaction follows, a stop hook ran, the turn's
duration is written, an interrupt is recorded (aborted), or its last block is text and its stop_reason ends a turn. A
stop_reason alone proves nothing: records of the same message follow one that has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from engine.events import ContextCompacted, ToolState, UsageRecorded
from engine.importers.builder import Call, SessionBuilder
from engine.importers.values import child_session_id, clean_id, count, nanousd, small, text_of

INTERRUPT: Final = "[Request interrupted by user"
TURN_ENDS: Final = frozenset({"end_turn", "stop_sequence", "max_tokens", "refusal"})
"""Stop reasons after which the model is not asked to go on with the same message."""
END_SUBTYPES: Final = frozenset({"turn_duration", "stop_hook_summary", "compact_boundary"})
TASK_TOOLS: Final = frozenset({"Task", "Agent"})
TITLES: Final = {"custom-title": "customTitle", "ai-title": "aiTitle"}
_RESULT_KEYS: Final = frozenset({"stdout", "stderr", "interrupted", "isImage", "noOutputExpected"})
_COMMAND: Final = {name: re.compile(rf"<command-{name}>([^<]*)</command-{name}>") for name in ("name", "args")}

Json = dict[str, Any]
Prompts = dict[str, list[tuple[SessionBuilder, str]]]
"""Calls that start a sub-agent and have none yet, by their prompt."""


class Conversation:
    """Turns the records of one session into its events."""

    def __init__(self, builder: SessionBuilder, root: str, prompts: Prompts, builders: Mapping[str, SessionBuilder]) -> None:
        self.builder = builder
        self._root = root
        self._prompts = prompts
        self._builders = builders
        self._seen: dict[str, str] = {}
        self._compacting = False

    def add(self, value: Json, key: str, unique: str, digest: str) -> None:
        """Take a record that the builder is at. `key` is its own id, `unique` what the builder made of it."""
        builder = self.builder
        if "uuid" in value and self._seen.get(key) == digest:
            builder.report(f"record {key[:60]!r} is there twice; the second is kept as a note")
            builder.note("repeated", value)
            return
        self._seen[key] = digest
        kind, message = value.get("type"), value.get("message")
        if kind in ("user", "assistant") and isinstance(message, dict) and isinstance(message.get("content"), str | list):
            if self._compacting and value.get("isCompactSummary") is not True:
                self._compacting = False
                builder.emit(ContextCompacted())
            (self._user if kind == "user" else self._assistant)(value, message, unique)
            return
        subtype = _subtype(value)
        if kind == "system" and subtype in END_SUBTYPES:
            builder.close()
        if subtype == "compact_boundary":
            self._compacting = True
        title = text_of(value.get(TITLES.get(str(kind), "")))
        if title is not None:
            builder.title(title, again=True)
        name = text_of(kind) or "record"
        builder.note(f"{name}.{subtype}" if subtype else name, value)

    def _user(self, value: Json, message: Json, unique: str) -> None:
        builder = self.builder
        content = message["content"]
        blocks: list[Any] = [content] if isinstance(content, str) else content
        results: list[Json] = [block for block in blocks if _is_result(block)]
        rest = [block for block in blocks if not _is_result(block)]
        extra = value.get("toolUseResult")
        only = extra if len(results) == 1 else None
        rest.extend([block for block in results if not self._result(block, only)])
        if extra is not None and _says_more(extra, results):
            builder.note("tool_use_result", extra)
        if not rest:
            return
        texts, meta = texts_of(rest), value.get("isMeta") is True
        summary = value.get("isCompactSummary") is True
        interrupted = any(text.startswith(INTERRUPT) for text in texts)
        if interrupted:
            builder.close("aborted", "interrupted")
        elif not meta and not results:
            builder.close()
            if texts and not summary:
                builder.title(_title(texts[0]))
        metadata = small(
            parent_uuid=value.get("parentUuid"),
            is_meta=meta or None,
            is_interrupt=interrupted or None,
            is_compact_summary=summary or None,
            permission_mode=value.get("permissionMode"),
        )
        message_id = builder.announce(unique, "user", metadata)
        self._parts(message_id, rest, unique)
        if summary:
            self._compacting = False
            builder.emit(ContextCompacted(message_id))

    def _assistant(self, value: Json, message: Json, unique: str) -> None:
        builder = self.builder
        content = message["content"]
        blocks = [content] if isinstance(content, str) else content
        source_id, model = text_of(message.get("id")) or unique, text_of(message.get("model"))
        message_id = builder.assistant(
            source_id,
            small(
                uuid=value.get("uuid"),
                parent_uuid=value.get("parentUuid"),
                request_id=value.get("requestId"),
                model=model,
            ),
        )
        self._parts(message_id, blocks, unique)
        usage = message.get("usage")
        if isinstance(usage, dict) and model != "<synthetic>":
            say = builder.report
            builder.usage(
                UsageRecorded(
                    clean_id(source_id),
                    message_id,
                    model,
                    cost_nanousd=nanousd(value.get("costUSD"), say),
                    input_tokens=count(usage.get("input_tokens"), say),
                    output_tokens=count(usage.get("output_tokens"), say),
                    cache_read_tokens=count(usage.get("cache_read_input_tokens"), say),
                    cache_write_tokens=count(usage.get("cache_creation_input_tokens"), say),
                )
            )
        reason = text_of(message.get("stop_reason"))
        builder.open_reason = reason or builder.open_reason
        if value.get("isApiErrorMessage") is True:
            builder.close("error", text_of(value.get("error")) or reason or "api_error")
        elif reason in TURN_ENDS and blocks and texts_of(blocks[-1:]):
            builder.close()

    def _parts(self, message_id: str, blocks: list[Any], unique: str) -> None:
        builder = self.builder
        for index, block in enumerate(blocks):
            part_id = f"{unique}/{index}"
            if isinstance(block, str):
                builder.part(part_id, message_id, "text", {"text": block})
                continue
            if not isinstance(block, dict):
                builder.part(part_id, message_id, "block", {"value": block})
                continue
            kind, name = text_of(block.get("type")) or "block", text_of(block.get("id"))
            if kind.endswith("tool_use") and name is not None:
                self._call(message_id, block, name)
            elif _is_result(block):
                if not self._result(block, None):
                    call = str(block["tool_use_id"])[:60]
                    builder.report(f"a result for the call {call!r}, which is not in the file, is kept as a part")
                    builder.part(part_id, message_id, kind, block)
            elif kind == "text" and isinstance(block.get("text"), str):
                builder.part(part_id, message_id, "text", _without(block, "type"))
            elif kind == "thinking" and isinstance(block.get("thinking"), str):
                data = {"text": block["thinking"], **_without(block, "type", "thinking", "text")}
                builder.part(part_id, message_id, "reasoning", data)
            else:
                builder.part(part_id, message_id, kind, block)

    def _call(self, message_id: str, block: Json, source_id: str) -> None:
        name, value = text_of(block.get("name")) or "unknown", block.get("input")
        self.builder.call(source_id, message_id, name, value)
        if name in TASK_TOOLS and isinstance(value, dict) and isinstance(value.get("prompt"), str):
            self._prompts.setdefault(value["prompt"], []).append((self.builder, source_id))

    def _result(self, block: Json, extra: Any) -> bool:
        """Settle the call that a result answers; a second answer is noted. False where the call is not known."""
        builder, source_id, content = self.builder, str(block["tool_use_id"]), block.get("content")
        details = extra if isinstance(extra, dict) else {}
        agent = text_of(details.get("agentId"))
        child = child_session_id(self._root, agent) if agent else None
        call = builder.settle(source_id, _state_of(block, details), content, child=child)
        if call is None:
            if source_id in builder.calls:
                builder.note("tool_result", block)
                return True
            return False
        if "totalDurationMs" in details and details.get("status", "completed") == "completed":
            self._close_child(call)
        return True

    def _close_child(self, call: Call) -> None:
        """A task that answered proves that its sub-agent's last message ended."""
        child = self._builders.get(call.child or "")
        if child is not None and child is not self.builder and child.open_id is not None:
            child.at_same(self.builder)
            child.close()


def _title(text: str) -> str:
    """A prompt as a title: of a slash command its name and arguments; nothing of what the program itself wrote."""
    if not text.startswith("<"):
        return text
    found = [_COMMAND[name].search(text) for name in ("name", "args")]
    return " ".join(match[1].strip() for match in found if match is not None)


def _subtype(value: Json) -> str | None:
    data = value.get("data")
    return text_of(value.get("subtype")) or (text_of(data.get("type")) if isinstance(data, dict) else None)


def _is_result(block: Any) -> bool:
    if not isinstance(block, dict) or text_of(block.get("tool_use_id")) is None:
        return False
    return isinstance(block.get("type"), str) and block["type"].endswith("tool_result")


def texts_of(content: Any) -> list[str]:
    """The texts of a record's content: plain text, or the text blocks of a list."""
    blocks = content if isinstance(content, list) else [content]
    texts = [block.get("text") if isinstance(block, dict) and block.get("type") == "text" else block for block in blocks]
    return [text for text in texts if isinstance(text, str)]


def _state_of(block: Json, details: Json) -> ToolState:
    failed = block.get("is_error") is True
    if details.get("interrupted") is True:
        return "aborted"
    if failed and any(INTERRUPT in text[:200] for text in texts_of(block.get("content"))):
        return "aborted"
    return "error" if failed else "completed"


def _says_more(extra: Any, results: list[Json]) -> bool:
    """Whether a `toolUseResult` holds more than the result blocks: a text, or plain output, only repeats them."""
    if not isinstance(extra, dict | list):
        return False
    if isinstance(extra, dict) and len(results) == 1 and extra.keys() <= _RESULT_KEYS and not extra.get("stderr"):
        return extra.get("stdout") != results[0].get("content")
    return True


def _without(block: Json, *names: str) -> Json:
    return {name: value for name, value in block.items() if name not in names}
