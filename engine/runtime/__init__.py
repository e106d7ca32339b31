"""The composition root."""

from engine.runtime.engine import DEFAULT_WORKSPACE, Engine, EngineStatistics, Workspace, check_id, open_engine
from engine.runtime.files import Durability, Files, open_files, registry_of
from engine.runtime.importing import FileResult, Importer, SessionResult
from engine.runtime.reader import Reader, ReaderWorkspace, open_reader
from engine.runtime.rebuilding import RebuildReport, rebuild

__all__ = [
    "DEFAULT_WORKSPACE",
    "Durability",
    "Engine",
    "EngineStatistics",
    "FileResult",
    "Files",
    "Importer",
    "Reader",
    "ReaderWorkspace",
    "RebuildReport",
    "SessionResult",
    "Workspace",
    "check_id",
    "open_engine",
    "open_files",
    "open_reader",
    "rebuild",
    "registry_of",
]
