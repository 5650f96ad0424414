"""Tape drives: `TapeDrive`, what is on a tape, and how backups go on on the next one."""

from ..report import TapeLabel, TapePlace, TapeReport
from .catalog import Catalog, CatalogBackup, CatalogVolume
from .device import Command, DeviceStatus, Flag, StDevice, TapeDevice
from .drive import TapeDrive
from .scan import TapeEntry
from .transport import TapeStatus
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
