"""The writer actor: one inbox, one connection, one transaction at a time."""

from engine.writer.actor import Writer, WriterStatistics, quantile
from engine.writer.transaction import BatchResult, Transactor, Written

__all__ = ["BatchResult", "Transactor", "Writer", "WriterStatistics", "Written", "quantile"]
