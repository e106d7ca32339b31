"""The writer actor: one inbox, one connection, one transaction at a time."""

from engine.writer.actor import Writer, WriterStatistics, quantile
from engine.writer.syncing import SyncHelper
from engine.writer.transaction import BatchResult, Transactor, Written

__all__ = ["BatchResult", "SyncHelper", "Transactor", "Writer", "WriterStatistics", "Written", "quantile"]
