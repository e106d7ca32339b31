"""The writer actor: one inbox, one connection, one transaction at a time."""

from engine.writer.actor import Writer
from engine.writer.batch import BatchResult, Written
from engine.writer.statistics import WriterStatistics, quantile
from engine.writer.syncing import SyncHelper
from engine.writer.transaction import Transactor

__all__ = ["BatchResult", "SyncHelper", "Transactor", "Writer", "WriterStatistics", "Written", "quantile"]
