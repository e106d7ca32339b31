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
from engine.store.measuring import FileSizes, TypeCount, checkpoints, count_types, file_sizes
from engine.store.owner import Ownership
from engine.store.reading import STRIDE, ImportedRow, LogReader, Page, Scan, Snapshot, chosen_sessions
from engine.store.schema import OUTCOMES, RESERVED_TABLES, check, check_and_migrate
from engine.store.sync_helper import ANSWER
from engine.store.tx import Row, Tx, check_definition

__all__ = [
    "ANSWER",
    "NO_SHARED_MEMORY",
    "OUTCOMES",
    "RESERVED_TABLES",
    "STRIDE",
    "Epoch",
    "FileSizes",
    "ImportedRow",
    "Log",
    "LogReader",
    "Ownership",
    "Page",
    "Row",
    "Scan",
    "Snapshot",
    "SqlError",
    "StoredEvent",
    "StreamState",
    "Tx",
    "TypeCount",
    "check",
    "check_and_migrate",
    "check_definition",
    "checkpoint",
    "checkpoints",
    "chosen_sessions",
    "clean",
    "close",
    "connect",
    "count_types",
    "file_sizes",
    "is_busy",
    "is_constraint",
    "is_full",
    "set_synchronous",
    "translate",
]
