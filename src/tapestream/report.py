"""What a backup to tape was, for the `CopyResult` and the catalog."""

from __future__ import annotations

from dataclasses import dataclass

from .expected import Expected
from .info import BackupInfo


@dataclass(frozen=True)
class TapePlace:
    """Where one volume of a backup is.

    Attributes:
        drive: Path of the drive that wrote it.
        label: Label of the tape, as far as the drive had read it.
        file: Number of the tape file, from 0; None where the driver had lost count.
        volume: Number of the volume, from 1.
    """

    drive: str
    label: str | None
    file: int | None
    volume: int


@dataclass(frozen=True)
class TapeReport:
    """How a backup went to tape.

    Attributes:
        info: What the backup says of itself.
        set_id: Identifies the volumes of the backup.
        places: Where they are, in order.
        records: Number of records written.
        record_bytes: Bytes in them.
        seconds: How long the drive took to write them.
    """

    info: BackupInfo
    set_id: str
    places: tuple[TapePlace, ...]
    records: int
    record_bytes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes per second while the drive was writing."""
        return self.record_bytes / self.seconds if self.seconds else 0.0

    @property
    def expected(self) -> Expected:
        """What must be there when it is read later: the tape may be another one by then."""
        first = self.places[0] if self.places else None
        return Expected(
            self.info,
            self.set_id,
            first.file if first else None,
            first.label if first else None,
            whole_info=True,
        )
