"""A backup as a table of people shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tapestream


def kind_text(info: tapestream.BackupInfo) -> str:
    """Full or incremental."""
    return "full" if info.context == "zero" else "incremental"


def disk_text(info: tapestream.BackupInfo) -> str:
    """The VM and the disk, by their names or ids."""
    return f"{info.vm_name or info.vm_id or '-'}, {info.disk_name or info.disk_id or '-'}"
