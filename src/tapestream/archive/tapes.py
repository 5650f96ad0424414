"""The backups that a catalog knows on tapes, as an archive."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..backend.protocols import Source
from ..cancel import Cancel
from ..errors import UsageError
from ..model.info import BackupInfo
from ..stream.source import TarStreamSource
from .archive import Archive

if TYPE_CHECKING:
    from ..tape.backups import CatalogBackup
    from ..tape.catalog import Catalog
    from ..tape.drive import TapeDrive
    from ..tape.volumes import LoadVolume
else:
    CatalogBackup = Catalog = TapeDrive = LoadVolume = Any  # for typing.get_type_hints


@dataclass(frozen=True)
class TapeBackup:
    """A backup on tape.

    Attributes:
        entry: What the catalog knows about it: its info, and where its volumes are.
        drive: The drive to read it with; or a function that loads its first tape, and returns the
            drive. None if it cannot be opened.
        on_next_volume: Loads the next tape, as for `TarStreamSource`.
    """

    entry: CatalogBackup
    drive: TapeDrive | Callable[[CatalogBackup], TapeDrive] | None = None
    on_next_volume: LoadVolume | None = None

    @property
    def info(self) -> BackupInfo:
        """What the backup says about itself."""
        return self.entry.info

    @property
    def place(self) -> str:
        """On which tapes it is, by their labels, and in which files."""
        volumes = self.entry.volumes
        return ", ".join(f"tape {volume.label}, file {volume.file}" for volume in volumes)

    @property
    def problem(self) -> str | None:
        """Why it is not complete; None if it is, as far as the catalog knows."""
        if self.entry.complete:
            return None
        return "the catalog does not know that all of its volumes are complete"

    @property
    def identity(self) -> Hashable:
        """The place of its first volume."""
        first = self.entry.volumes[0]
        return first.label, first.file

    def open(self, *, cancel: Cancel | None = None) -> Source:
        """Open it, on its first tape; see `StoredBackup.open`.

        Raises:
            UsageError: It is not known with which drive.
        """
        if self.drive is None:
            raise UsageError(
                f"{self.place}: there is no drive to read it with",
                hint="Pass the drive to read_catalog.",
            )
        drive = self.drive(self.entry) if callable(self.drive) else self.drive
        return TarStreamSource(
            drive, expect=self.entry, on_next_volume=self.on_next_volume, cancel=cancel
        )


def read_catalog(
    catalog: Catalog,
    drive: TapeDrive | Callable[[CatalogBackup], TapeDrive] | None = None,
    *,
    on_next_volume: LoadVolume | None = None,
) -> Archive:
    """Make an archive of all backups that a catalog knows.

    Args:
        catalog: The catalog; it may be closed afterwards.
        drive: The drive to open backups with. If they are on several tapes, a function that is
            called with each `CatalogBackup` before it is opened: it loads the tape on which the
            backup begins, and returns the drive. None to find backups only.
        on_next_volume: Loads a tape that is needed again, or on which a backup continues, as for
            `TarStreamSource`.

    Raises:
        LocalIOError: The catalog cannot be read.
    """
    return Archive(
        TapeBackup(entry, drive, on_next_volume) for entry in catalog.find(incomplete=True)
    )
