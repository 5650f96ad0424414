"""TapeOutput: writes a tar to a tape file, and to further tape files on the next tapes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial

from .._typing import override
from ..backend.running import waiting
from ..cancel import Cancel
from ..drive.records import RECORD_SIZE, RecordPool, RecordWriter, check_record_size
from ..errors import EndOfTapeError, TapeError, WriteProtectedError, WrongTapeError
from ..model.info import BackupInfo
from ..tar.medium import Lender, OutputMedium, VolumeFull, VolumeId
from .drive import TapeDrive
from .label import NO_LABEL
from .replay import TapeFile
from .report import TapeLabel, TapePlace, TapeReport
from .volumes import LoadVolume, VolumeRequest, place_in_words, request_volume


class TapeOutput(OutputMedium):
    """Writes a tar in records to a tape file, and to further tape files on the next tapes.

    It waits for its turn at the drive before the first write.

    Args:
        drive: The drive whose tape is appended to.
        record_size: Bytes in every record; None for `RECORD_SIZE`.
        on_volume_full: Loads the next tape; None to fail at the end of the first.
        cancel: Ends a wait for a drive.

    Attributes:
        backup: Description of the backup; None until it is known.
        record_size: Bytes in every record.
        set_id: Identifies the volumes of this backup.
    """

    def __init__(
        self,
        drive: TapeDrive,
        record_size: int | None,
        on_volume_full: LoadVolume | None,
        cancel: Cancel | None = None,
    ) -> None:
        self.backup: str | None = None
        self.record_size = RECORD_SIZE if record_size is None else record_size
        self.set_id = str(uuid.uuid4())
        check_record_size(self.record_size)
        self._on_volume_full = on_volume_full
        self._lease = drive.turn(cancel=cancel)
        self._file: TapeFile | None = None
        # The tape file on the tape before, until what it did not hold is written again.
        self._before: TapeFile | None = None
        self._began_empty = False
        self._volume = 1
        self._places: list[TapePlace] = []
        self._records = self._bytes = 0
        self._seconds = 0.0
        self._ended: datetime | None = None

    @property
    @override
    def name(self) -> str:
        """Where the tar is written, for people: the current drive, tape, file and backup."""
        place = self._places[-1] if self._places else None
        label, file = (place.label, place.file) if place else (None, None)
        return place_in_words(self._lease.drive.path, label, file, self.backup)

    @property
    @override
    def length(self) -> int:
        return self._file.writer.length if self._file else 0

    @property
    @override
    def is_ending(self) -> bool:
        return (
            self._on_volume_full is not None
            and self._file is not None
            and self._file.writer.is_ending
            and self._file.has_member
        )

    @override
    def write(self, data: memoryview | bytes) -> None:
        with self._errors():
            if self._file is None:
                self._lease.acquire(partial(waiting, "drive"))
                _append(self._lease.drive, self._lease.check_cancelled)
                self._file = self._begin_file()
            _write(self._file, data)

    @override
    def lender(self) -> Lender | None:
        return self._file.writer.memory if self._file else None

    @override
    def flush(self) -> None:
        """Do nothing: a record is written when it is full."""

    @override
    def boundary(self, start: int | None) -> None:
        assert self._file is not None
        if self._before is None:
            self._file.boundary(start)
            return
        before, self._before = self._before, None
        with self._errors():
            for piece in self._file.take_over(before):
                with suppress(VolumeFull):  # all data must get into records, to be written again
                    _write(self._file, piece)
            if self._file.writer.is_full:
                raise VolumeFull(self._file.start)

    @override
    def next_volume(self, volume: VolumeId, left: int) -> None:
        """End this tape file, ask for the next tape, and begin a tape file after what is on it.

        Raises:
            EndOfTapeError: There is no `on_volume_full`; or this tape was empty, and is too small
                for one data member.
            TapeError: The wait for the tape was cancelled, or the drive failed.
        """
        assert self._file is not None
        if not self._file.whole and self._began_empty:
            raise EndOfTapeError(
                f"{self.name}: not one part of the backup fits on the whole tape",
                hint="Use larger tapes, or pass a smaller part_size.",
            )
        if self._file.has_preamble:
            self._before = self._file
        left += self._before.length if self._before else 0
        self._end_file()
        if volume.number == self._volume:
            self._places.pop()  # it holds no complete data member: the next tape replaces it
        if self._on_volume_full is None:
            raise EndOfTapeError(f"{self.name}: the tape is full, with {left} bytes to go")
        full, end = self._lease.drive, self._lease.drive.raw.tell()

        def accept(drive: TapeDrive) -> None:
            _append(drive, self._lease.check_cancelled)
            if drive is full and drive.raw.tell() == end:
                raise WrongTapeError(f"{drive.path}: this is still the tape that is full")

        request = VolumeRequest(full, volume.set_id, volume.number, volume.backup, left)
        request_volume(self._lease, request, self._on_volume_full, accept)
        self._volume = volume.number
        self._file = self._begin_file()

    @override
    def cancel(self) -> None:
        """Make a wait for a drive fail; a write of a record that has begun cannot be cancelled."""
        self._lease.is_cancelled = True

    @override
    def commit(self) -> None:
        """Write the filemark; everything is on tape when this returns."""
        self._end_file()
        self._ended = datetime.now(timezone.utc)
        self._close()

    @override
    def abort(self) -> None:
        """End the tape file without its manifest, if anything was written to it."""
        try:
            if self._file is not None and self._file.writer.accepted:
                self._end_file()
        finally:
            self._close()

    def report(self, info: BackupInfo) -> TapeReport:
        """Make the report of what was written so far, for the backup with this info."""
        return TapeReport(
            info,
            self.set_id,
            tuple(self._places),
            self._records,
            self._bytes,
            self._seconds,
            self._ended is not None,
            self._ended,
        )

    def _begin_file(self) -> TapeFile:
        drive = self._lease.drive
        drive.raw.begin_file()
        if drive.raw.expected_block() == 0:
            drive.raw.remembered = NO_LABEL  # this tape file overwrites a label
        writer = RecordWriter(drive.raw, RecordPool(self.record_size))
        status = drive.status()
        self._began_empty = status.at_beginning or (status.file == 1 and drive.label is not None)
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
        return TapeFile(writer)

    def _end_file(self) -> None:
        """Write the filemark; keep the records that the next volume needs."""
        file, self._file = self._file, None
        if file is None:
            return
        if file is not self._before:
            file.writer.forget()
        self._records += file.writer.records
        self._bytes += file.writer.accepted
        self._places[-1] = replace(self._places[-1], length=file.writer.accepted)
        self._seconds += file.writer.seconds
        with self._errors():
            file.writer.end_file()

    def _close(self) -> None:
        self._file = self._before = None
        self._lease.release()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Add the drive, tape, file and backup to an error."""
        try:
            yield
        except TapeError as e:
            e.add_context(self.name, self._lease.drive.path)
            raise


def _write(file: TapeFile, data: memoryview | bytes) -> None:
    """Put data into the records of a tape file, and write the full records.

    Raises:
        VolumeFull: The tape is full. The data is in the records nevertheless.
    """
    try:
        file.writer.write(data)
    except EndOfTapeError as e:
        file.confirm()
        raise VolumeFull(file.start) from e
    file.confirm()


def _append(drive: TapeDrive, check: Callable[[], object]) -> None:
    """Go to the end of data, wherever a restore or a person has left the tape; read its label.

    Args:
        drive: The drive.
        check: Called between two commands that can take long; it may raise.
    """
    check()
    status = drive.status()
    if status.write_protected:
        raise WriteProtectedError(f"{drive.path}: the cartridge is write-protected")
    if drive.raw.remembered is None or status.file is None:
        drive.read_label()
    check()
    drive.end_of_data()
    check()
