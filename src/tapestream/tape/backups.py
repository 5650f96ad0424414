"""The backups in a catalog: where their volumes are, and whether they hold the whole backup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .._shown import short_repr
from ..errors import UsageError
from ..model.expected import Expected
from ..model.info import BackupInfo, describe
from .report import TapeReport


@dataclass(frozen=True)
class CatalogVolume:
    """Where a volume is.

    Attributes:
        label: The label of its tape.
        file: The number of its tape file, from 0.
        volume: Its number in the backup, from 1.
        complete: True if it is known to end with its manifest. After `Catalog.add`, this is known
            only for the last volume, because the others may have been cut off by the end of their
            tapes; a scan of the tape shows it.
        continues: True if another volume follows, according to its manifest or to the report that
            was added.
        length: Its bytes on the tape; 0 if that is not known, as in a catalog of an earlier
            version. Volumes are equal whatever it is.
    """

    label: str
    file: int
    volume: int
    complete: bool
    continues: bool
    length: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, repr=False)
class CatalogBackup:
    """A backup, and where its volumes are.

    Attributes:
        info: What the backup says about itself.
        set_id: Identifies its volumes.
        volumes: The volumes in the order in which a restore needs them. If there are several copies
            of a volume, one that is known to be complete comes first.
        complete: True if the catalog knows all volumes up to the last, and knows that each is
            complete, or that later volumes repeat what it lacks.
    """

    info: BackupInfo
    set_id: str
    volumes: tuple[CatalogVolume, ...]
    complete: bool

    def __repr__(self) -> str:
        places = ", ".join(f"{volume.label}:{volume.file}" for volume in self.volumes)
        state = "" if self.complete else ", not known to be complete"
        return short_repr(self, f"{describe(self.info)}, on {places}{state}")

    @property
    def expected(self) -> Expected:
        """What a restore compares with the tape, which may have changed since.

        Raises:
            UsageError: The catalog does not know on which tape the backup begins.
        """
        first = self.volumes[0]
        if first.volume != 1:
            raise UsageError(
                f"the catalog does not know on which tape the backup of {describe(self.info)} "
                "begins",
                hint="Let Catalog.scan read the tape on which it begins.",
            )
        set_id = None if self.set_id == own_set(first) else self.set_id
        return Expected(self.info, set_id, first.file, first.label, whole_info=True)


class CatalogRow(NamedTuple):
    """What the catalog keeps about a volume.

    Attributes:
        volume: Where it is.
        set_id: Identifies the volumes of its backup.
        info: What the backup says about itself.
        start: Disk offset of its first data, from a scan. None if it was not scanned, or if it has
            no complete data member, so that another volume has replaced it.
        vouches_from: See `TapeEntry`.
    """

    volume: CatalogVolume
    set_id: str
    info: BackupInfo
    start: int | None = None
    vouches_from: int | None = None


def reported_rows(backup: TapeReport) -> list[CatalogRow]:
    """Make the catalog's rows for the volumes of a backup that was just made.

    Raises:
        UsageError: It is not known where a volume is.
    """
    if not backup.places:
        raise UsageError(f"the backup of {describe(backup.info)} is on no tape")
    rows = []
    for place in backup.places:
        if place.label is None or place.file is None:
            what = "on a tape without a label" if place.label is None else "in an unknown tape file"
            raise UsageError(
                f"volume {place.volume} of the backup of {describe(backup.info)} is {what}, so no "
                "catalog can find it",
                hint="Label each tape with TapeDrive.write_label before its first backup. "
                "TapeDrive.find finds this backup without a catalog.",
            )
        is_last = place is backup.places[-1]
        volume = CatalogVolume(
            place.label,
            place.file,
            place.volume,
            # The report does not say whether the others have a manifest.
            complete=is_last and backup.complete,
            continues=not is_last and backup.complete,
            length=place.length,
        )
        # We trust the report for all of the data, until a scan reads the manifest.
        vouches_from = 0 if volume.complete else None
        rows.append(CatalogRow(volume, backup.set_id, backup.info, vouches_from=vouches_from))
    return rows


def own_set(volume: CatalogVolume) -> str:
    """Make a set id for a stream that has none, such as one that was copied to tape from a file."""
    return f"{volume.label}/{volume.file}"


def backup_of(rows: Sequence[CatalogRow]) -> CatalogBackup:
    """Put the volumes of a backup in order, and find out whether they are all."""
    rows = sorted(
        rows,
        key=lambda row: (
            row.volume.volume,
            not row.volume.complete,
            not row.volume.continues,
            row.start is None,
            row.volume.label,
            row.volume.file,
        ),
    )
    return CatalogBackup(
        rows[0].info, rows[0].set_id, tuple(row.volume for row in rows), _is_complete(rows)
    )


def _is_complete(rows: Sequence[CatalogRow]) -> bool:
    """Whether these volumes are known to hold the whole backup."""
    last = max((row.volume.volume for row in rows if _ends(row.volume)), default=0)
    whole = {row.volume.volume for row in rows if _is_whole(row, rows)}
    return last > 0 and whole >= set(range(1, last + 1))


def _ends(volume: CatalogVolume) -> bool:
    return volume.complete and not volume.continues


def _is_whole(row: CatalogRow, rows: Sequence[CatalogRow]) -> bool:
    """Whether a volume is known to hold its part of the backup.

    That is so if it has its manifest, or if a completed backup has reported it, or if it was cut
    off by the end of its tape and a later volume's manifest covers its data.
    """
    if row.volume.complete or row.volume.continues:
        return True
    return row.start is not None and any(
        other.volume.complete
        and other.volume.volume > row.volume.volume
        and other.vouches_from is not None
        and other.vouches_from <= row.start
        for other in rows
    )
