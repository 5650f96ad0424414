"""The backups on a tape, or those that a catalog knows on many tapes, as an archive."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._shown import short_repr
from ..backend.protocols import Source
from ..cancel import Cancel
from ..errors import UsageError
from ..model.info import BackupInfo
from ..stream.source import TarStreamSource
from .archive import Archive
from .backups import Skipped, short_text

if TYPE_CHECKING:
    from ..tape.backups import CatalogBackup
    from ..tape.catalog import Catalog
    from ..tape.drive import TapeDrive
    from ..tape.scan import TapeEntry
    from ..tape.volumes import LoadVolume
else:
    CatalogBackup = Catalog = TapeDrive = TapeEntry = LoadVolume = Any  # for typing.get_type_hints


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        return short_repr(self, short_text(self))

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


@dataclass(frozen=True, repr=False)
class TapeFileBackup:
    """A backup that begins on the tape in a drive.

    Attributes:
        entry: The tape file with which it begins.
        drive: The drive.
        label: The label of the tape; None if it has none.
        on_next_volume: Loads the next tape, as for `TarStreamSource`.
    """

    entry: TapeEntry
    drive: TapeDrive
    label: str | None
    on_next_volume: LoadVolume | None = None

    def __repr__(self) -> str:
        return short_repr(self, short_text(self))

    @property
    def info(self) -> BackupInfo:
        """What the backup says about itself."""
        assert self.entry.info is not None
        return self.entry.info

    @property
    def place(self) -> str:
        """On which tape it is, and in which file."""
        tape = f"tape {self.label}" if self.label else f"the tape in {self.drive.path}"
        return f"{tape}, file {self.entry.file}"

    @property
    def problem(self) -> str | None:
        """Why it is not complete; None if it is, as far as this tape shows."""
        if self.entry.complete:
            return None
        return "it has no end, because it was aborted or cut off by the end of the tape"

    @property
    def identity(self) -> Hashable:
        """The tape and the file."""
        return self.label or self.drive.path, self.entry.file

    def open(self, *, cancel: Cancel | None = None) -> Source:
        """Open it; see `StoredBackup.open`."""
        return TarStreamSource(
            self.drive, expect=self.entry, on_next_volume=self.on_next_volume, cancel=cancel
        )


def read_tape(
    drive: TapeDrive,
    *,
    on_next_volume: LoadVolume | None = None,
    cancel: Cancel | None = None,
) -> Archive:
    """Make an archive of all backups that begin on the tape in a drive.

    This winds the tape from file to file, as `TapeDrive.scan` does. No label is necessary.

    Args:
        drive: The drive, with the tape.
        on_next_volume: Loads a tape on which a backup continues, as for `TarStreamSource`.
        cancel: Ends the scan.

    Raises:
        OperationCancelledError: The scan was cancelled.
        TapeError: The drive failed.
    """
    with drive.turn(cancel=cancel):
        entries = list(drive.scan(cancel=cancel))
        label = drive.label
    backups: list[TapeFileBackup] = []
    skipped: list[Skipped] = []
    unreadable: list[Skipped] = []
    for entry in entries:
        one = TapeFileBackup(entry, drive, label, on_next_volume)
        if entry.info is not None and entry.volume == 1:
            backups.append(one)
        elif entry.info is not None:
            skipped.append(Skipped(one.place, f"volume {entry.volume} of a backup"))
        elif entry.is_unknown:
            unreadable.append(Skipped(one.place, entry.problem or "it cannot be read"))
        else:
            what = "the label of the tape" if entry.label else entry.problem or "it is empty"
            skipped.append(Skipped(one.place, what))
    return Archive(backups, ignored=skipped, unreadable=unreadable)


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
