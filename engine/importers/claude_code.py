"""Claude Code: one JSON object a line; several records may make one message of the model's API.

Owns: what its records mean. Must not know: bytes, event ids.

| record | becomes |
|---|---|
| user: text, other blocks | `MessageUpdated` (id: the record's uuid) and parts; the first prompt names the session |
| user: tool_result | `ToolUpdated`; its `toolUseResult` is noted where it says more than the result |
| assistant | one message per `message.id`; blocks are parts and calls; unknown state until its end is proven |
| assistant: usage | `UsageRecorded`, step = `message.id`; each record reports what is known, the last is right |
| progress: agent_progress | a child session `<session>/<agentId>`, linked from the call in `parentToolUseID` |
| isSidechain | a child session per `agentId`, else per root record, linked from the Task call with the same prompt |
| isCompactSummary | a user message and `ContextCompacted` |
| everything else | `SessionNoted`, kind `<type>.<subtype>` |

A message ends when another one of the model begins, a prompt or compaction follows, a stop hook ran, the turn's
duration is written, an interrupt is recorded (aborted), or its last block is text and its stop_reason ends a turn. A
stop_reason alone proves nothing: records of the same message follow one that has it.

Records without a session id (snapshots, summaries) belong to the first session that the file names.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from engine.events import ContextCompacted, ToolState, UsageRecorded
from engine.importers.builder import Call, SessionBuilder, clean_id, imported_child, small, text_of
from engine.importers.lines import Record, Report, content_digest
from engine.importers.values import count, moment, nanousd

FORMAT: Final = "claude_code"
INTERRUPT: Final = "[Request interrupted by user"
TURN_ENDS: Final = frozenset({"end_turn", "stop_sequence", "max_tokens", "refusal"})
"""Stop reasons after which the model is not asked to go on with the same message."""
END_SUBTYPES: Final = frozenset({"turn_duration", "stop_hook_summary", "compact_boundary"})
TASK_TOOLS: Final = frozenset({"Task", "Agent"})
TITLES: Final = {"custom-title": "customTitle", "ai-title": "aiTitle"}
_TYPES: Final = frozenset({"user", "assistant", "system", "progress", "summary", "file-history-snapshot"})
_MARKS: Final = ("sessionId", "leafUuid", "messageId", "parentUuid", "snapshot")
_RESULT_KEYS: Final = frozenset({"stdout", "stderr", "interrupted", "isImage", "noOutputExpected"})

Json = dict[str, Any]


def recognises(value: Json) -> bool:
    """Whether a record can only be of this format."""
    kind = value.get("type")
    return isinstance(kind, str) and (
        ("sessionId" in value and "payload" not in value) or (kind in _TYPES and any(mark in value for mark in _MARKS))
    )


class Reader:
    """Takes the records of one file and builds its sessions."""

    def __init__(self, report: Report) -> None:
        self.builders: dict[str, SessionBuilder] = {}
        self._report = report
        self._file_session: str | None = None
        self._waiting: list[Record] = []
        self._seen: dict[str, dict[str, str]] = {}
        self._chains: dict[str, dict[str, str]] = {}
        self._prompts: dict[str, dict[str, list[str]]] = {}
        self._compacting: set[str] = set()

    @property
    def waiting(self) -> int:
        """Records that no session could take yet."""
        return len(self._waiting)

    def add(self, record: Record) -> None:
        """Take the next record."""
        value = record.value if isinstance(record.value, dict) else {}
        session = text_of(value.get("sessionId")) or self._file_session
        if session is None:
            self._waiting.append(record)
            return
        if self._file_session is None:
            self._file_session = session
            for early in self._waiting:
                self._take(session, early, early.value if isinstance(early.value, dict) else {}, value)
            self._waiting.clear()
        self._take(session, record, value, value)

    def _take(self, session: str, record: Record, value: Json, first: Json) -> None:
        if not value:
            builder = self._session(clean_id(session), None, record, first)
            builder.at(record.digest, None, record)
            builder.raw(record)
            return
        when = moment(value.get("timestamp"))
        key = text_of(value.get("uuid")) or record.digest
        if value.get("isSidechain") is True:
            self._sidechain(session, record, value, key, when)
        elif _agent_progress(value) is not None:
            self._progress(session, record, value, key, when)
        else:
            builder = self._session(clean_id(session), None, record, first)
            self._record(builder, record, value, key, when, record.digest)

    def _session(
        self, session_id: str, parent: str | None, record: Record, first: Json, agent: str | None = None
    ) -> SessionBuilder:
        builder = self.builders.get(session_id)
        if builder is None:
            builder = self.builders[session_id] = SessionBuilder(session_id, FORMAT, self._report)
            builder.at("start", moment(first.get("timestamp")), record)
            builder.start(
                parent,
                small(
                    cwd=first.get("cwd"),
                    version=first.get("version"),
                    git_branch=first.get("gitBranch"),
                    agent_id=agent,
                ),
            )
        return builder

    # --- sub-agents ---

    def _sidechain(self, session: str, record: Record, value: Json, key: str, when: int | None) -> None:
        chains = self._chains.setdefault(session, {})
        agent, above = text_of(value.get("agentId")), text_of(value.get("parentUuid"))
        root = agent or chains.get(above or "")
        if root is None:
            root = key
            if above is not None:
                self._report(
                    record.line, "a sub-agent's record names a parent that is not in the file; a new one begins"
                )
        chains[key] = root
        child_id = imported_child(session, root)
        new = child_id not in self.builders
        child = self._session(child_id, session, record, value, agent)
        if new:
            self._link_prompt(session, child_id, record, value, key)
        self._record(child, record, value, key, when, record.digest)

    def _link_prompt(self, session: str, child_id: str, record: Record, value: Json, key: str) -> None:
        """Link the new child from the Task call with its prompt, the oldest that has none."""
        parent = self.builders.get(clean_id(session))
        message = value.get("message")
        if parent is None or not isinstance(message, dict):
            return
        prompt = "\n".join(_texts(message.get("content")))
        calls = self._prompts.get(session, {}).get(prompt)
        if calls:
            parent.at(key, moment(value.get("timestamp")), record)
            parent.link(calls.pop(0), child_id)

    def _progress(self, session: str, record: Record, value: Json, key: str, when: int | None) -> None:
        data = value["data"]
        agent, inner = str(data["agentId"]), data["message"]
        child_id = imported_child(session, agent)
        parent = self._session(clean_id(session), None, record, value)
        child = self._session(child_id, session, record, value, agent)
        above = text_of(value.get("parentToolUseID"))
        if above is not None:
            for builder in (parent, *self._children(session)):
                known = builder.calls.get(above)
                if known and known[-1].child != child_id and builder is not child:
                    builder.at(key, when, record)
                    builder.link(above, child_id)
        inner_key = text_of(inner.get("uuid")) or key
        digest = content_digest(msgspec.json.encode(inner, order="sorted"))
        moment_of_message = moment(inner.get("timestamp"))
        self._record(child, record, inner, inner_key, when if moment_of_message is None else moment_of_message, digest)

    def _children(self, session: str) -> list[SessionBuilder]:
        return [builder for name, builder in self.builders.items() if name.startswith(f"{session}/")]

    # --- one record of one session ---

    def _record(
        self, builder: SessionBuilder, record: Record, value: Json, key: str, when: int | None, digest: str
    ) -> None:
        unique = builder.at(key, when, record)
        seen = self._seen.setdefault(builder.session_id, {})
        if "uuid" in value and seen.get(key) == digest:
            builder.report(f"record {key[:60]!r} is there twice; the second is kept as a note")
            builder.note("repeated", value)
            return
        seen[key] = digest
        kind, message = value.get("type"), value.get("message")
        if (
            kind in ("user", "assistant")
            and isinstance(message, dict)
            and isinstance(message.get("content"), str | list)
        ):
            if builder.session_id in self._compacting and value.get("isCompactSummary") is not True:
                self._compacting.discard(builder.session_id)
                builder.emit(ContextCompacted())
            (self._user if kind == "user" else self._assistant)(builder, value, message, unique)
            return
        subtype = _subtype(value)
        if kind == "system" and subtype in END_SUBTYPES:
            builder.close()
        if subtype == "compact_boundary":
            self._compacting.add(builder.session_id)
        title = text_of(value.get(TITLES.get(str(kind), "")))
        if title is not None:
            builder.title(title, again=True)
        name = text_of(kind) or "record"
        builder.note(f"{name}.{subtype}" if subtype else name, value)

    def _user(self, builder: SessionBuilder, value: Json, message: Json, unique: str) -> None:
        content = message["content"]
        blocks: list[Any] = [content] if isinstance(content, str) else content
        results: list[Json] = [block for block in blocks if _is_result(block)]
        rest = [block for block in blocks if not _is_result(block)]
        extra = value.get("toolUseResult")
        only = extra if len(results) == 1 else None
        rest.extend([block for block in results if not self._result(builder, block, only)])
        if extra is not None and _says_more(extra, results):
            builder.note("tool_use_result", extra)
        if not rest:
            return
        texts, meta = _texts(rest), value.get("isMeta") is True
        summary = value.get("isCompactSummary") is True
        if any(text.startswith(INTERRUPT) for text in texts):
            builder.close("aborted", "interrupted")
        elif not meta and not results:
            builder.close()
            if texts and not summary and not texts[0].startswith("<local-command"):
                builder.title(texts[0])
        metadata = small(
            parent_uuid=value.get("parentUuid"),
            is_meta=meta or None,
            is_compact_summary=summary or None,
            permission_mode=value.get("permissionMode"),
        )
        message_id = builder.announce(unique, "user", metadata)
        self._parts(builder, message_id, rest, unique)
        if summary:
            self._compacting.discard(builder.session_id)
            builder.emit(ContextCompacted(message_id))

    def _assistant(self, builder: SessionBuilder, value: Json, message: Json, unique: str) -> None:
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
        self._parts(builder, message_id, blocks, unique)
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
        elif reason in TURN_ENDS and blocks and _texts(blocks[-1:]):
            builder.close()

    def _parts(self, builder: SessionBuilder, message_id: str, blocks: list[Any], unique: str) -> None:
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
                self._call(builder, message_id, block, name)
            elif _is_result(block) and self._result(builder, block, None):
                pass
            elif kind == "text" and isinstance(block.get("text"), str):
                builder.part(part_id, message_id, "text", _without(block, "type"))
            elif kind == "thinking" and isinstance(block.get("thinking"), str):
                data = {"text": block["thinking"], **_without(block, "type", "thinking", "text")}
                builder.part(part_id, message_id, "reasoning", data)
            else:
                builder.part(part_id, message_id, kind, block)

    def _call(self, builder: SessionBuilder, message_id: str, block: Json, source_id: str) -> None:
        name, value = text_of(block.get("name")) or "unknown", block.get("input")
        builder.call(source_id, message_id, name, value)
        if name in TASK_TOOLS and isinstance(value, dict) and isinstance(value.get("prompt"), str):
            self._prompts.setdefault(builder.session_id, {}).setdefault(value["prompt"], []).append(source_id)

    def _result(self, builder: SessionBuilder, block: Json, extra: Any) -> bool:
        """Settle the call that a result answers; a second answer is noted. False where the call is not known."""
        source_id, content = str(block["tool_use_id"]), block.get("content")
        details = extra if isinstance(extra, dict) else {}
        agent = text_of(details.get("agentId"))
        child = imported_child(builder.session_id, agent) if agent else None
        call = builder.settle(source_id, _state_of(block, details), content, child=child)
        if call is None:
            if source_id in builder.calls:
                builder.note("tool_result", block)
                return True
            builder.report(f"a result for the call {source_id[:60]!r}, which is not in the file, is kept as a part")
            return False
        if "totalDurationMs" in details and details.get("status", "completed") == "completed":
            self._close_child(builder, call)
        return True

    def _close_child(self, builder: SessionBuilder, call: Call) -> None:
        """A task that answered proves that its sub-agent's last message ended."""
        child = self.builders.get(call.child or "")
        if child is not None and child is not builder and child.open_id is not None:
            child.at_same(builder)
            child.close()


def _agent_progress(value: Json) -> Json | None:
    data = value.get("data")
    if value.get("type") != "progress" or not isinstance(data, dict) or data.get("type") != "agent_progress":
        return None
    inner = data.get("message")
    return data if isinstance(inner, dict) and text_of(data.get("agentId")) is not None else None


def _subtype(value: Json) -> str | None:
    data = value.get("data")
    return text_of(value.get("subtype")) or (text_of(data.get("type")) if isinstance(data, dict) else None)


def _is_result(block: Any) -> bool:
    if not isinstance(block, dict) or text_of(block.get("tool_use_id")) is None:
        return False
    return isinstance(block.get("type"), str) and block["type"].endswith("tool_result")


def _texts(content: Any) -> list[str]:
    blocks = content if isinstance(content, list) else [content]
    texts = [
        block.get("text") if isinstance(block, dict) and block.get("type") == "text" else block for block in blocks
    ]
    return [text for text in texts if isinstance(text, str)]


def _state_of(block: Json, details: Json) -> ToolState:
    failed = block.get("is_error") is True
    if details.get("interrupted") is True:
        return "aborted"
    if failed and any(INTERRUPT in text[:200] for text in _texts(block.get("content"))):
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
