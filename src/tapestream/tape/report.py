"""The report of a backup to tape: on which tapes it is. For the `CopyResult` and the catalog."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from .._readable import rate_text, size_text
from .._shown import Shown
from .._typing import override
from ..model.expected import Expected
from ..model.info import BackupInfo, describe


@dataclass(frozen=True)
class TapeLabel:
    """The label of a tape, from its first tape file.

    Attributes:
        name: The name of the tape.
        tape_id: Identifies the tape; each time it is labelled, it gets a new id.
        replaces: The ids that the tape had before, newest first. Everything that was on the tape
            with those ids is gone.
    """

    name: str
    tape_id: str | None = None
    replaces: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class TapePlace:
    """Where one volume of a backup is.

    Attributes:
        drive: Path of the drive that wrote it.
        label: Label of the tape; None if it has none.
        file: Number of the tape file, from 0; None if the driver had lost count.
        volume: Number of the volume, from 1.
        tape_id: Identifies the tape even if two have the same label; None if it is not known.
        replaces: The `tape_id`s that the tape had before it was labelled again.
        length: Bytes of it on the tape; 0 if that is not known. Places are equal whatever it is.
    """

    drive: str
    label: str | None
    file: int | None
    volume: int
    tape_id: str | None = field(default=None, repr=False)
    replaces: tuple[str, ...] = field(default=(), repr=False)
    length: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, repr=False)
class TapeReport(Shown):
    """What was written to tape for a backup, and where.

    Attributes:
        info: What the backup says about itself.
        set_id: Identifies the volumes of the backup.
        places: Where the volumes are, in order.
        records: Number of records written.
        record_bytes: Bytes in these records.
        seconds: Seconds that the drive took to write them.
        complete: True if the whole backup is on tape, with its end. False for a backup that has not
            ended yet, or was aborted.
        ended: When it was complete; None if that is not known.
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

    @override
    def _in_short(self) -> str:
        places = ", ".join(f"{place.label or place.drive}:{place.file}" for place in self.places)
        state = "" if self.complete else ", not complete"
        return (
            f"{describe(self.info)}, on {places or 'no tape'}, {size_text(self.record_bytes)} at "
            f"{rate_text(self.rate)}{state}"
        )

    @property
    def expected(self) -> Expected:
        """What a later restore compares with the tape, which may be another one by then."""
        first = self.places[0] if self.places else None
        return Expected(
            self.info,
            self.set_id,
            first.file if first else None,
            first.label if first else None,
            whole_info=True,
        )
