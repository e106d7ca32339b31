"""The SQLite file: schema, migrations, ownership, all SQL of the log, reading, and apsw's errors in our words."""

from engine.store.connection import (
    NO_SHARED_MEMORY,
    SqlError,
    checkpoint,
    clean,
    close,
    connect,
    is_busy,
    is_constraint,
    is_full,
    set_synchronous,
    translate,
)
from engine.store.log import Epoch, Log, StoredEvent, StreamState
from engine.store.owner import Ownership
from engine.store.reading import LogReader, Page, Snapshot
from engine.store.schema import OUTCOMES, RESERVED_TABLES, check, check_and_migrate
from engine.store.tx import Row, Tx, check_definition, create_tables

__all__ = [
    "NO_SHARED_MEMORY",
    "OUTCOMES",
    "RESERVED_TABLES",
    "Epoch",
    "Log",
    "LogReader",
    "Ownership",
    "Page",
    "Row",
    "Snapshot",
    "SqlError",
    "StoredEvent",
    "StreamState",
    "Tx",
    "check",
    "check_and_migrate",
    "check_definition",
    "checkpoint",
    "clean",
    "close",
    "connect",
    "create_tables",
    "is_busy",
    "is_constraint",
    "is_full",
    "set_synchronous",
    "translate",
]
