"""What a backup to tape was, for the `CopyResult` and the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..model.expected import Expected
from ..model.info import BackupInfo


@dataclass(frozen=True)
class TapeLabel:
    """What a tape says of itself, in its first tape file.

    Attributes:
        name: What it is called.
        tape_id: Identifies the tape since it was labelled: labelling it again gives another one.
        replaces: The `tape_id`s that the tape had before, newest first: all that was on the tape
            then is gone.
    """

    name: str
    tape_id: str | None = None
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class TapePlace:
    """Where one volume of a backup is.

    Attributes:
        drive: Path of the drive that wrote it.
        label: Label of the tape, as far as the drive had read it.
        file: Number of the tape file, from 0; None where the driver had lost count.
        volume: Number of the volume, from 1.
        tape_id: Identifies the tape, where two have one label; None where that is not known.
        replaces: The `tape_id`s that the tape had before it was labelled again.
    """

    drive: str
    label: str | None
    file: int | None
    volume: int
    tape_id: str | None = None
    replaces: tuple[str, ...] = ()


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
        complete: All of it is on tape, with its end. False for a backup that has not ended yet, or
            was aborted.
        ended: When it was; None where that is not known.
    """

    info: BackupInfo
    set_id: str
    places: tuple[TapePlace, ...]
    records: int
    record_bytes: int
    seconds: float
    complete: bool = True
    ended: datetime | None = None

    @property
    def rate(self) -> float:
        """Bytes per second while the drive was writing."""
        return self.record_bytes / self.seconds if self.seconds else 0.0

    @property
    def expected(self) -> Expected:
        """What a later restore compares with the tape: it may be another one by then."""
        first = self.places[0] if self.places else None
        return Expected(
            self.info,
            self.set_id,
            first.file if first else None,
            first.label if first else None,
            whole_info=True,
        )
