"""Tape drives: `TapeDrive`, what is on a tape, and how backups go on on the next one."""

from ..drive.device import Command, DeviceStatus, Flag, StDevice, TapeDevice
from ..drive.position import TapeStatus
from .catalog import Catalog, CatalogBackup, CatalogVolume
from .drive import TapeDrive
from .report import TapeLabel, TapePlace, TapeReport
from .scan import TapeEntry
from .volumes import VolumeRequest

__all__ = [
    "Catalog",
    "CatalogBackup",
    "CatalogVolume",
    "Command",
    "DeviceStatus",
    "Flag",
    "StDevice",
    "TapeDevice",
    "TapeDrive",
    "TapeEntry",
    "TapeLabel",
    "TapePlace",
    "TapeReport",
    "TapeStatus",
    "VolumeRequest",
]
