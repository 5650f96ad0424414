"""TapeOutput: a stream into a tape file, and further ones on the tapes that follow."""

from __future__ import annotations

from datetime import datetime, timezone

from ..drive.position import expected_block
from ..drive.records import RecordWriter, check_record_size
from ..errors import EndOfTapeError, TapeError, WriteProtectedError, WrongTapeError
from ..model.info import BackupInfo, describe
from ..tar.format import Preamble
from .drive import TapeDrive
from .label import knows_label, remember_label
from .report import TapeLabel, TapePlace, TapeReport
from .volumes import LoadVolume, VolumeRequest, place_in_words, request_volume


class TapeOutput:
    """Writes a stream in records to a tape file, and further ones on the tapes that follow.

    It waits for its turn before the first write.

    Args:
        drive: Its tape is appended to.
        record_size: Bytes in every record.
        on_volume_full: Loads the next tape; None to fail at the end of the first.

    Attributes:
        backup: What is written, in words; None until that is known.
    """

    def __init__(
        self,
        drive: TapeDrive,
        record_size: int,
        on_volume_full: LoadVolume | None,
    ) -> None:
        self.backup: str | None = None
        check_record_size(record_size)
        self._record_size = record_size
        self.began_empty = False
        self._on_volume_full = on_volume_full
        self._lease = drive.turn()
        self._writer: RecordWriter | None = None
        self._volume = 1
        self._places: list[TapePlace] = []
        self._records = self._bytes = 0
        self._seconds = 0.0
        self._ended: datetime | None = None

    @property
    def name(self) -> str:
        """Where it is written, for people: the drive that is used now, tape, file, and backup."""
        place = self._places[-1] if self._places else None
        label, file = (place.label, place.file) if place else (None, None)
        return place_in_words(self._lease.drive.path, label, file, self.backup)

    @property
    def accepted(self) -> int:
        """Bytes of this volume that are on tape."""
        return self._writer.accepted if self._writer else 0

    @property
    def is_ending(self) -> bool:
        """True when the tape has warned that it will soon be full, and another can follow."""
        return (
            self._on_volume_full is not None and self._writer is not None and self._writer.is_ending
        )

    def write(self, data: memoryview) -> None:
        """See `Output`.

        Raises:
            VolumeFull: The tape is full.
        """
        try:
            if self._writer is None:
                self._lease.acquire()
                _append(self._lease.drive)
                self._begin_file()
            assert self._writer is not None
            self._writer.write(data)
        except TapeError as e:
            e.tell_where(self.name, self._lease.drive.path)
            raise

    def next_volume(self, preamble: Preamble, left: int) -> None:
        """End this tape file, and get the next tape, which is appended to.

        Args:
            preamble: That of the next volume.
            left: Bytes that are still to be written.

        Raises:
            EndOfTapeError: There is nobody to load a tape.
            TapeError: The wait for it was cancelled, or the drive failed.
        """
        self._end_file()
        if preamble.volume == self._volume:
            self._places.pop()  # what is there is void
        if self._on_volume_full is None:
            raise EndOfTapeError(f"{self.name}: the tape is full, with {left} bytes to go")
        full, end = self._lease.drive, self._lease.drive.tell()

        def accept(drive: TapeDrive) -> None:
            _append(drive)
            if drive is full and drive.tell() == end:
                raise WrongTapeError(f"{drive.path}: this is still the tape that is full")

        request = VolumeRequest(
            full, preamble.set_id or "", preamble.volume, describe(preamble.info), left
        )
        request_volume(self._lease, request, self._on_volume_full, accept)
        self._volume = preamble.volume
        self._begin_file()

    def cancel(self) -> None:
        """See `Output`: ends a wait for a drive; a record that it writes cannot be called back."""
        self._lease.cancelled.set()

    def commit(self) -> None:
        """See `Output`: writes the filemark; everything is on tape when this returns."""
        self._end_file()
        self._ended = datetime.now(timezone.utc)
        self._lease.release()

    def abort(self) -> None:
        """See `Output`: ends the tape file, without its manifest, if the tape is still ours."""
        try:
            if self._writer is not None and self._writer.accepted:
                self._end_file()
        finally:
            self._lease.release()

    def report(self, info: BackupInfo, set_id: str) -> TapeReport:
        """How a backup, with this info and this name of its volumes, went to tape so far."""
        return TapeReport(
            info,
            set_id,
            tuple(self._places),
            self._records,
            self._bytes,
            self._seconds,
            self._ended is not None,
            self._ended,
        )

    def _begin_file(self) -> None:
        drive = self._lease.drive
        drive.begin_file()
        if expected_block(drive) == 0:
            remember_label(drive, None)  # what is written here takes its place
        self._writer = RecordWriter(drive, self._record_size)
        status = drive.status()
        self.began_empty = status.at_beginning or (status.file == 1 and drive.label is not None)
        label = drive.tape_label or TapeLabel("")
        self._places.append(
            TapePlace(
                drive.path,
                drive.label,
                status.file,
                self._volume,
                label.tape_id,
                label.replaces,
            )
        )

    def _end_file(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._records += writer.records
        self._bytes += writer.accepted
        self._seconds += writer.seconds
        try:
            writer.end_file()
        except TapeError as e:
            e.tell_where(self.name, self._lease.drive.path)
            raise


def _append(drive: TapeDrive) -> None:
    """Go past everything that is on a tape: a restore, or a person, may have moved it."""
    status = drive.status()
    if status.write_protected:
        raise WriteProtectedError(f"{drive.path}: the cartridge is write-protected")
    if not knows_label(drive) or status.file is None:
        drive.read_label()
    drive.end_of_data()
