"""Which backups are looked for, on a tape and in the catalog, and which comes first."""

from __future__ import annotations

from ..info import BackupInfo


def matches(info: BackupInfo, **ids: str | None) -> bool:
    """True when every id that is wanted, that is not None, is that of the backup."""
    return all(wanted is None or getattr(info, name) == wanted for name, wanted in ids.items())


def created(info: BackupInfo) -> float:
    """When the backup was made, in seconds since 1970; 0 where it does not say."""
    return info.created.timestamp() if info.created else 0.0
