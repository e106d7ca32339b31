"""Codex rollouts: lines of `{timestamp, type, payload}`; older ones hold the bare payloads.

Owns: what its records mean. Must not know: bytes, event ids.

One assistant's message is one step of the model: reasoning, text and calls up to the `token_count` that reports them.
Items keep their own ids as part ids, calls their call ids.

| record | becomes |
|---|---|
| session_meta, the first | `SessionStarted`; a later one (forked, resumed) is noted |
| response_item: message | a message in the role of the source, or a part of the step |
| response_item: reasoning | a part where it has text; what is only encrypted is noted |
| response_item: *_call, *_call_output | `ToolUpdated`; one without a call id (web search) is its own call |
| event_msg: token_count | `UsageRecorded` with the difference to the total before; a repeated total adds nothing |
| event_msg: task_complete, turn_aborted | ends the open message (completed, aborted), and is noted |
| compacted | `ContextCompacted`, with a message where it shows its summary |
| everything else | `SessionNoted`, kind `<type>.<payload type>` |

`user_message`, `agent_message`, `agent_reasoning`, `patch_apply_end` and the like repeat a response_item: notes.
A file without session_meta at its start gets an id from the content of its first record.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec

from engine.events import ContextCompacted, ToolState, UsageRecorded
from engine.importers.builder import SessionBuilder
from engine.importers.lines import Record, Report
from engine.importers.values import clean_id, count, moment, small, text_of

FORMAT: Final = "codex"
TOTALS: Final = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_output_tokens")
ITEM_TYPES: Final = frozenset({"message", "reasoning", "compaction"})
CALL_STATES: Final[dict[str, ToolState]] = {"completed": "completed", "failed": "error", "incomplete": "aborted"}
ABORTED_OUTPUTS: Final = ("aborted by user", "command timed out by user")
"""How an output begins that stands for a call which an interrupt stopped."""

Json = dict[str, Any]


def recognises(value: Json) -> bool:
    """Whether a record can only be of this format."""
    if isinstance(value.get("payload"), dict):
        return isinstance(value.get("type"), str) and "sessionId" not in value
    bare_start = {"id", "timestamp"} <= value.keys() and "type" not in value and "messages" not in value
    return bare_start or value.get("record_type") == "state"


class Reader:
    """Takes the records of one rollout and builds its session."""

    waiting = 0

    def __init__(self, report: Report) -> None:
        self.builders: dict[str, SessionBuilder] = {}
        self._report = report
        self._builder: SessionBuilder | None = None
        self._model: str | None = None
        self._turn: str | None = None
        self._step: str | None = None
        self._step_over = True
        self._totals: dict[str, int] = {}

    def add(self, record: Record) -> None:
        """Take the next record."""
        kind, payload, when = _unwrap(record.value)
        builder = self._builder
        if builder is None:
            builder = self._builder = self._start(record, kind, payload, when)
            if kind == "session_meta":
                builder.note(kind, record.value)
                return
        key = builder.at(record.digest, when, record)
        if payload is None:
            builder.raw(record) if not isinstance(record.value, dict) else builder.note(kind or "record", record.value)
        elif kind == "response_item":
            self._item(builder, payload, record.value, key)
        elif kind == "event_msg":
            self._event(builder, payload, record.value, key)
        elif kind == "compacted":
            self._compacted(builder, payload, record.value, key)
        else:
            if kind == "turn_context":
                self._model = text_of(payload.get("model")) or self._model
            builder.note(kind, record.value)

    def _start(self, record: Record, kind: str, payload: Json | None, when: int | None) -> SessionBuilder:
        meta = payload if kind == "session_meta" and payload is not None else {}
        session_id = text_of(meta.get("id")) or text_of(meta.get("session_id"))
        if session_id is None:
            session_id = f"codex-{record.digest}"
            self._report(record.line, f"no session id at the start of the file; the session is called {session_id}")
        builder = SessionBuilder(clean_id(session_id), FORMAT, self._report)
        self.builders[builder.session_id] = builder
        git = meta.get("git") if isinstance(meta.get("git"), dict) else {}
        builder.at("start", when, record)
        builder.start(
            _parent(meta),
            small(
                cwd=meta.get("cwd"),
                version=meta.get("cli_version"),
                originator=meta.get("originator"),
                model_provider=meta.get("model_provider"),
                forked_from=meta.get("forked_from_id"),
                git_branch=git.get("branch") if git else None,
                git_commit=git.get("commit_hash") if git else None,
            ),
        )
        return builder

    # --- items of the model's conversation ---

    def _item(self, builder: SessionBuilder, payload: Json, raw: Json, key: str) -> None:
        kind = text_of(payload.get("type")) or "item"
        if kind == "message" and isinstance(payload.get("content"), list | str):
            self._message(builder, payload, key)
        elif kind == "reasoning":
            self._reasoning(builder, payload, raw, key)
        elif kind.endswith("_call"):
            self._call(builder, payload, kind.removesuffix("_call"), key)
        elif kind.endswith("_output") and text_of(payload.get("call_id")) is not None:
            self._output(builder, payload, raw, kind)
        else:
            builder.note(f"response_item.{kind}", raw)

    def _message(self, builder: SessionBuilder, payload: Json, key: str) -> None:
        role, source_id = text_of(payload.get("role")) or "user", text_of(payload.get("id")) or key
        if role == "assistant":
            message_id = self._in_step(builder, source_id)
        else:
            message_id = builder.announce(source_id, role, small(turn_id=self._turn))
        content = payload["content"]
        for index, block in enumerate(content if isinstance(content, list) else [content]):
            part_id = source_id if index == 0 else f"{source_id}/{index}"
            text = block if isinstance(block, str) else block.get("text") if isinstance(block, dict) else None
            if isinstance(text, str) and (isinstance(block, str) or str(block.get("type")).endswith("text")):
                builder.part(part_id, message_id, "text", {"text": text, **small(phase=payload.get("phase"))})
            elif isinstance(block, dict):
                builder.part(part_id, message_id, text_of(block.get("type")) or "block", block)
            else:
                builder.part(part_id, message_id, "block", {"value": block})

    def _reasoning(self, builder: SessionBuilder, payload: Json, raw: Json, key: str) -> None:
        lists = [payload.get("summary"), payload.get("content")]
        blocks = [block for found in lists if isinstance(found, list) for block in found]
        texts = [block.get("text") if isinstance(block, dict) else block for block in blocks]
        text = "\n\n".join(text for text in texts if isinstance(text, str) and text)
        if not text:
            builder.note("response_item.reasoning", raw)
            return
        source_id = text_of(payload.get("id")) or key
        data = {"text": text, **{name: payload[name] for name in ("encrypted_content",) if payload.get(name)}}
        builder.part(source_id, self._in_step(builder, source_id), "reasoning", data)

    def _in_step(self, builder: SessionBuilder, source_id: str) -> str:
        """The message of the running step; the first item after one that was reported begins the next."""
        if self._step_over or builder.open_id is None:
            self._step = builder.assistant(source_id, small(model=self._model, turn_id=self._turn))
            self._step_over = False
        return self._step or builder.open_id or source_id

    # --- tool calls ---

    def _call(self, builder: SessionBuilder, payload: Json, kind: str, key: str) -> None:
        call_id, item_id = text_of(payload.get("call_id")), text_of(payload.get("id"))
        name = text_of(payload.get("name")) or kind
        if text_of(payload.get("namespace")) is not None:
            name = f"{payload['namespace']}.{name}"
        value = next((payload[field] for field in ("arguments", "input", "action") if field in payload), None)
        if "arguments" in payload and isinstance(value, str):
            value = _parsed(value)
        own = call_id or item_id or key
        message_id = self._in_step(builder, item_id or key)
        builder.call(own, message_id, name, value, part_id=item_id)
        state = CALL_STATES.get(str(payload.get("status")))
        if call_id is None and state is not None:
            builder.settle(own, state, payload.get("result"))

    def _output(self, builder: SessionBuilder, payload: Json, raw: Json, kind: str) -> None:
        call_id = str(payload["call_id"])
        output = payload["output"] if "output" in payload else payload.get("tools")
        state: ToolState = "completed"
        if isinstance(output, dict):
            state = "error" if output.get("success") is False else "completed"
            output = output.get("content", output)
        if payload.get("status") == "failed" or payload.get("success") is False:
            state = "error"
        if isinstance(output, str) and output.startswith(ABORTED_OUTPUTS):
            state = "aborted"
        known = builder.calls.get(call_id, [])
        call = builder.settle(call_id, state, output, child=_child(known[-1].name if known else "", output))
        if call is None:
            if not known:
                builder.report(f"an output for the call {call_id[:60]!r}, which is not in the file, is kept as a note")
            builder.note(f"response_item.{kind}", raw)

    # --- events of the program ---

    def _event(self, builder: SessionBuilder, payload: Json, raw: Json, key: str) -> None:
        kind = text_of(payload.get("type")) or "event"
        if kind == "token_count" and self._usage(builder, payload, key):
            return
        if kind == "user_message" and text_of(payload.get("message")) is not None:
            builder.title(payload["message"])
        elif kind in ("task_started", "turn_started"):
            self._turn = text_of(payload.get("turn_id"))
            builder.close()
            self._step_over = True
        elif kind in ("task_complete", "turn_complete"):
            builder.close()
            self._step_over = True
        elif kind == "turn_aborted":
            builder.close("aborted", text_of(payload.get("reason")) or "turn_aborted")
            builder.abort_calls()
            self._step_over = True
        builder.note(f"event_msg.{kind}", raw)

    def _usage(self, builder: SessionBuilder, payload: Json, key: str) -> bool:
        """Record what the total grew by. False where the record holds no total."""
        info = payload.get("info")
        total = info.get("total_token_usage") if isinstance(info, dict) else None
        if not isinstance(total, dict):
            return False
        now = {name: count(total.get(name), builder.report) for name in TOTALS}
        before = self._totals
        if any(now[name] < before.get(name, 0) for name in TOTALS):
            builder.report("the total of used tokens went down; it is counted as a new count from zero")
            before = {}
        grown = {name: now[name] - before.get(name, 0) for name in TOTALS}
        self._totals = now
        if not any(grown.values()):
            return True
        cached = min(grown["cached_input_tokens"], grown["input_tokens"])
        builder.usage(
            UsageRecorded(
                clean_id(key),
                self._step,
                self._model,
                input_tokens=grown["input_tokens"] - cached,
                output_tokens=grown["output_tokens"],
                reasoning_tokens=grown["reasoning_output_tokens"],
                cache_read_tokens=cached,
            )
        )
        self._step_over = True
        return True

    def _compacted(self, builder: SessionBuilder, payload: Json, raw: Json, key: str) -> None:
        summary = text_of(payload.get("message"))
        message_id = None
        if summary is not None:
            message_id = builder.announce(key, "system", {"is_compact_summary": True})
            builder.part(key, message_id, "text", {"text": summary})
        builder.emit(ContextCompacted(message_id))
        self._step_over = True
        builder.note("compacted", raw)


def _unwrap(value: Any) -> tuple[str, Json | None, int | None]:
    """A record's type, payload and time; an older rollout's bare payload gets the type it would have today."""
    if not isinstance(value, dict):
        return "", None, None
    kind, payload, when = text_of(value.get("type")), value.get("payload"), moment(value.get("timestamp"))
    if isinstance(payload, dict):
        return kind or "record", payload, when
    if kind is None and "id" in value and "timestamp" in value:
        return "session_meta", value, when
    if kind is not None and "payload" not in value and (kind in ITEM_TYPES or kind.endswith(("_call", "_output"))):
        return "response_item", value, when
    return kind or "", None, when


def _parent(meta: Json) -> str | None:
    source = meta.get("source")
    for step in ("subagent", "thread_spawn"):
        source = source.get(step) if isinstance(source, dict) else None
    spawned = text_of(source.get("parent_thread_id")) if isinstance(source, dict) else None
    return spawned or text_of(meta.get("parent_thread_id"))


def _parsed(text: str) -> Any:
    """The JSON object or list of a call's arguments, or the text as it is."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
        value = msgspec.json.decode(text)
        if isinstance(value, dict | list) and text.count("{") + text.count("[") <= 50:
            return value
    return text


def _child(name: str, output: Any) -> str | None:
    """The session that a call for a sub-agent started, where its output names one."""
    if not name.endswith("spawn_agent") or not isinstance(output, str):
        return None
    value = _parsed(output)
    child = text_of(value.get("agent_id")) if isinstance(value, dict) else None
    return child and clean_id(child)
