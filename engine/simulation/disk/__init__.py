"""A disk in memory that breaks on request, and everything a crash could leave on it.

Owns: the simulated disk (`Disk`), its images and operation logs, the images of a power failure, crash campaigns.
Must not know: actors, schedules, the controller.
"""

from engine.simulation.disk.campaign import Check, CrashCounts, CrashReport, Example, Verdict, crash_campaign
from engine.simulation.disk.checking import Damaged, LogCheck, LogFound, SqlCheck, recover
from engine.simulation.disk.faults import WAYS, Fault
from engine.simulation.disk.files import Image, OperationLog, Record
from engine.simulation.disk.power import (
    EVERYTHING,
    Medium,
    PowerModel,
    crash_points,
    power_image,
    power_images,
    process_image,
)
from engine.simulation.disk.vfs import Decide, Disk

__all__ = [
    "EVERYTHING",
    "WAYS",
    "Check",
    "CrashCounts",
    "CrashReport",
    "Damaged",
    "Decide",
    "Disk",
    "Example",
    "Fault",
    "Image",
    "LogCheck",
    "LogFound",
    "Medium",
    "OperationLog",
    "PowerModel",
    "Record",
    "SqlCheck",
    "Verdict",
    "crash_campaign",
    "crash_points",
    "power_image",
    "power_images",
    "process_image",
    "recover",
]
