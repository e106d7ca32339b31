"""A disk in memory that breaks on request, and everything a crash could leave on it.

Owns: the simulated disk (`Disk`), its images and operation logs, the images of a power failure, crash campaigns.
Must not know: actors, schedules, the controller.
"""

from engine.simulation.disk.faults import WAYS, Fault
from engine.simulation.disk.files import Image, OperationLog, Record
from engine.simulation.disk.vfs import Decide, Disk

__all__ = ["WAYS", "Decide", "Disk", "Fault", "Image", "OperationLog", "Record"]
