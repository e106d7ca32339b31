"""Claude Code: one JSON object a line; several records may make one message of the model's API.

Owns: which session a record belongs to, sub-agents among them, and how they are linked. What a record says in its
session is in `claude_messages`. Must not know: bytes, event ids.

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

Records without a session id (snapshots, summaries) belong to the first session that the file names.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from engine.importers.builder import SessionBuilder
from engine.importers.claude_messages import Conversation, Json, Prompts, texts_of
from engine.importers.lines import Record, Report, content_digest
from engine.importers.values import child_session_id, clean_id, moment, small, text_of

FORMAT: Final = "claude_code"
_TYPES: Final = frozenset({"user", "assistant", "system", "progress", "summary", "file-history-snapshot"})
_MARKS: Final = ("sessionId", "leafUuid", "messageId", "parentUuid", "snapshot")


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
        self._conversations: dict[str, Conversation] = {}
        self._chains: dict[str, dict[str, str]] = {}
        self._prompts: dict[str, Prompts] = {}

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
                self._take(session, early, value)
            self._waiting.clear()
        self._take(session, record, value)

    def _take(self, session: str, record: Record, first: Json) -> None:
        """Give a record to its session, which starts with what `first` says where it is new."""
        value = record.value
        if not isinstance(value, dict):
            builder = self._conversation(session, None, None, record, first).builder
            builder.at(record.digest, None, record)
            builder.raw(record)
            return
        key = text_of(value.get("uuid")) or record.digest
        if value.get("isSidechain") is True:
            self._sidechain(session, record, value, key)
        elif _agent_progress(value):
            self._progress(session, record, value, key)
        else:
            conversation = self._conversation(session, None, None, record, first)
            unique = conversation.builder.at(key, moment(value.get("timestamp")), record)
            conversation.add(value, key, unique, record.digest)

    def _conversation(
        self, session: str, agent: str | None, caller: SessionBuilder | None, record: Record, first: Json
    ) -> Conversation:
        """The conversation of a session, or of its sub-agent of that name; started when new."""
        name = clean_id(session) if agent is None else child_session_id(session, agent)
        conversation = self._conversations.get(name)
        if conversation is None:
            builder = self.builders[name] = SessionBuilder(name, FORMAT, self._report)
            prompts = self._prompts.setdefault(session, {})
            conversation = self._conversations[name] = Conversation(builder, session, prompts, self.builders)
            parent = None if agent is None else clean_id(session) if caller is None else caller.session_id
            builder.at("start", moment(first.get("timestamp")), record)
            builder.start(
                parent,
                small(
                    cwd=first.get("cwd"),
                    version=first.get("version"),
                    git_branch=first.get("gitBranch"),
                    agent_id=first.get("agentId") or agent,
                ),
            )
        return conversation

    # --- sub-agents ---

    def _sidechain(self, session: str, record: Record, value: Json, key: str) -> None:
        """A record of a sub-agent: named by its agentId, else by the first record of the chain of its parents."""
        chains = self._chains.setdefault(session, {})
        agent, above = text_of(value.get("agentId")), text_of(value.get("parentUuid"))
        root = agent or chains.get(above or "")
        if root is None:
            root = key
            if above is not None:
                self._report(record.line, "a sub-agent's record names a parent that is not in the file; another begins")
        chains[key] = root
        when, child_id = moment(value.get("timestamp")), child_session_id(session, root)
        caller = None
        if child_id not in self.builders:
            message = value.get("message")
            prompt = "\n".join(texts_of(message.get("content"))) if isinstance(message, dict) else ""
            calls = self._prompts.get(session, {}).get(prompt)
            if calls:
                caller, call = calls.pop(0)
                caller.at(key, when, record)
                caller.link(call, child_id)
        conversation = self._conversation(session, root, caller, record, value)
        unique = conversation.builder.at(key, when, record)
        conversation.add(value, key, unique, record.digest)

    def _progress(self, session: str, record: Record, value: Json, key: str) -> None:
        """A report of a running sub-agent: the record inside is the sub-agent's, the call is in the outer one."""
        agent, inner = str(value["data"]["agentId"]), value["data"]["message"]
        when, child_id = moment(value.get("timestamp")), child_session_id(session, agent)
        self._conversation(session, None, None, record, value)
        above = text_of(value.get("parentToolUseID")) or ""
        callers = [builder for name, builder in self.builders.items() if above in builder.calls and name != child_id]
        caller = callers[0] if callers else None
        if caller is not None and caller.calls[above][-1].child != child_id:
            caller.at(key, when, record)
            caller.link(above, child_id)
        conversation = self._conversation(session, agent, caller, record, value)
        inner_key, inner_when = text_of(inner.get("uuid")) or key, moment(inner.get("timestamp"))
        unique = conversation.builder.at(inner_key, when if inner_when is None else inner_when, record)
        digest = content_digest(msgspec.json.encode(inner, order="sorted"))
        conversation.add(inner, inner_key, unique, digest)


def _agent_progress(value: Json) -> bool:
    data: Any = value.get("data")
    if value.get("type") != "progress" or not isinstance(data, dict) or data.get("type") != "agent_progress":
        return False
    return isinstance(data.get("message"), dict) and text_of(data.get("agentId")) is not None
