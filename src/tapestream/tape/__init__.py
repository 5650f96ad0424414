"""Tape drives: `TapeDrive`, what is on a tape, and how a backup continues on the next tape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from ..drive.device import Command, DeviceStatus, Flag, StDevice, TapeDevice
    from ..drive.status import TapeStatus
    from .backups import CatalogBackup, CatalogVolume
    from .catalog import Catalog
    from .contents import CatalogContents, TapeContents
    from .drive import TapeDrive
    from .report import TapeLabel, TapePlace, TapeReport
    from .scan import TapeEntry
    from .volumes import VolumeRequest
else:
    # The same names again, loaded when first used; tests/test_names.py compares both lists.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "..drive.device": "Command DeviceStatus Flag StDevice TapeDevice",
            "..drive.status": "TapeStatus",
            ".backups": "CatalogBackup CatalogVolume",
            ".catalog": "Catalog",
            ".contents": "CatalogContents TapeContents",
            ".drive": "TapeDrive",
            ".report": "TapeLabel TapePlace TapeReport",
            ".scan": "TapeEntry",
            ".volumes": "VolumeRequest",
        },
    )

__all__ = [
    "Catalog",
    "CatalogBackup",
    "CatalogContents",
    "CatalogVolume",
    "Command",
    "DeviceStatus",
    "Flag",
    "StDevice",
    "TapeContents",
    "TapeDevice",
    "TapeDrive",
    "TapeEntry",
    "TapeLabel",
    "TapePlace",
    "TapeReport",
    "TapeStatus",
    "VolumeRequest",
]
