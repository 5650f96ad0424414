"""Many backups: what is there, the chain to restore for a point in time, and what it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .archive import Archive
    from .backups import Chain, RestorePoint, Skipped, StoredBackup
    from .folder import FileBackup, read_folder
    from .names import file_name
    from .tapes import TapeBackup, TapeFileBackup, read_catalog, read_tape
else:
    # The same names again, loaded when first used; tests/test_names.py compares both lists.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            ".archive": "Archive",
            ".backups": "Chain RestorePoint Skipped StoredBackup",
            ".folder": "FileBackup read_folder",
            ".names": "file_name",
            ".tapes": "TapeBackup TapeFileBackup read_catalog read_tape",
        },
    )

__all__ = [
    "Archive",
    "Chain",
    "FileBackup",
    "RestorePoint",
    "Skipped",
    "StoredBackup",
    "TapeBackup",
    "TapeFileBackup",
    "file_name",
    "read_catalog",
    "read_folder",
    "read_tape",
]
