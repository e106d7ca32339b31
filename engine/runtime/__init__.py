"""The composition root."""

from engine.runtime.engine import DEFAULT_WORKSPACE, Engine, EngineStatistics, Workspace, open_engine
from engine.runtime.files import Durability, Files, open_files, registry_of

__all__ = [
    "DEFAULT_WORKSPACE",
    "Durability",
    "Engine",
    "EngineStatistics",
    "Files",
    "Workspace",
    "open_engine",
    "open_files",
    "registry_of",
]
