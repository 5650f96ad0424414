"""TapeInput: reads a stream from a tape file, and from the tape files on the next tapes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from .._log import Log
from .._typing import override
from ..backend.running import waiting
from ..cancel import Cancel
from ..drive.records import RecordReader
from ..errors import (
    IncompleteStreamError,
    StreamError,
    TapeError,
    UsageError,
    WrongTapeError,
)
from ..model.info import describe
from ..tar.format import INFO, MAX_INFO
from ..tar.medium import InputMedium, VolumeId
from ..tar.members import MemberReader
from ..tar.preamble import Preamble
from .drive import TapeDrive
from .scan import TapeEntry, holds_data, read_entry, scan
from .volumes import LoadVolume, VolumeRequest, place_in_words, request_volume

log = Log("tapestream.tape")


class TapeInput(InputMedium):
    """Reads a stream from a tape file, and from the tape files on the next tapes.

    Args:
        drive: The drive with the tape.
        file: Number of the tape file; None for the one at whose beginning the tape stands.
        on_next_volume: Loads the next tape; None to fail if the backup continues on another tape.
        cancel: Ends a wait for a drive.

    Attributes:
        backup: Description of the backup; None until it is known.
        device: Real path of the device of the drive in which the stream begins.
    """

    def __init__(
        self,
        drive: TapeDrive,
        file: int | None,
        on_next_volume: LoadVolume | None,
        cancel: Cancel | None = None,
    ) -> None:
        self.backup: str | None = None
        self.device = os.path.realpath(drive.path)
        self._drive = drive
        self._file = file
        self._on_next_volume = on_next_volume
        self._lease = drive.turn(cancel=cancel)
        # The tape's label and the tape file's number. The drive forgets them after an error.
        self._place: tuple[str | None, int | None] = (None, file)
        # What `_is_at` found instead of the backup.
        self._found = "another"
        self._lease.acquire(partial(waiting, "drive"))
        try:
            self._lease.check_cancelled()
            if file is not None:
                drive.go_to_file(file)
            self._place = drive.label, file
            self._reader = RecordReader(drive.raw)
        except BaseException:
            self._lease.release()
            raise

    @property
    @override
    def name(self) -> str:
        """Where the stream is, for people: the current drive, the tape, the file, the backup."""
        return place_in_words(self._lease.drive.path, *self._place, self.backup)

    @property
    def knows_file(self) -> bool:
        """True if this can return to its tape file after others have used the drive."""
        return self._file is not None

    def place(self) -> str:
        """The `name`, with the tape's label; winds the tape to read that if it is not known."""
        if self._lease.drive.raw.remembered is None and self._file is not None:
            with suppress(StreamError, TapeError):
                self._lease.drive.read_label()
                self._place = self._lease.drive.label, self._file
        return self.name

    @override
    def readinto(self, buffer: memoryview) -> int:
        try:
            return self._reader.readinto(buffer)
        except TapeError as e:
            e.add_context(self.name, self._lease.drive.path)
            raise

    @override
    def check_position(self) -> None:
        self._reader.check_place()

    @override
    def skip_unreadable(self, length: int) -> int:
        """Skip one record, of whatever size; all records of a backup have the same size.

        Returns 0 if the tape does not stand at the record: the drive was reset, or has another
        tape now.
        """
        try:
            return self._reader.pass_over()
        except TapeError as e:
            log.warning("cannot go past the record: %s", e)
            return 0

    @override
    def peek(self, offset: int, length: int) -> None:
        """Return None: the tape would have to be wound there."""

    @override
    def rewind(self) -> None:
        """Let others use the drive; `go_back` winds the tape later, and checks what is there."""
        self._known_file()
        self._lease.is_cancelled = False
        self.leave()

    def go_back(self, preamble: Preamble) -> None:
        """Take the drive, and go to the beginning of the tape file that has this preamble.

        If another tape is loaded, `on_next_volume` is asked to load the right one.

        Raises:
            WrongTapeError: Another tape is loaded, and there is no `on_next_volume`.
            UsageError: The number of the tape file is not known.
        """
        if self._is_at(preamble):
            self._reader = RecordReader(self._drive.raw)
        elif self._on_next_volume is None or preamble.set_id is None:
            raise self._wrong_tape(preamble)
        else:
            self._load(VolumeId(preamble.set_id, preamble.volume, describe(preamble.info)))

    def leave(self) -> None:
        """Let others use the drive until `go_back`."""
        self._lease.release()

    def check_complete(self, preamble: Preamble) -> None:
        """Look at the end of the tape file if its tape is loaded; do not ask for other tapes.

        Raises:
            WrongTapeError: Another tape is loaded, and there is no `on_next_volume`.
            IncompleteStreamError: The tape file has no end.
        """
        if self._file is None:
            return
        may_ask = self._on_next_volume is not None and preamble.set_id is not None
        try:
            if not self._is_at(preamble):
                if may_ask:
                    return
                raise self._wrong_tape(preamble)
            entry = read_entry(self._drive.raw, self._file)
        finally:
            self.rewind()
        # A volume that was cut off by the end of its tape has no end; the next one repeats it.
        if not (entry and entry.complete) and not may_ask:
            raise IncompleteStreamError(f"{self.name}: tape file {self._file} has no end")

    @override
    def next_volume(self, volume: VolumeId) -> None:
        if self._on_next_volume is None:
            raise IncompleteStreamError(
                f"{self.name}: the backup continues on volume {volume.number}",
                hint="Pass on_next_volume=, which loads the tapes that follow.",
            )
        self._load(volume)

    def end_file(self) -> None:
        """Go past the filemark; let others use the drive if this can return to its tape file."""
        try:
            if not self._reader.ended:
                self._lease.drive.raw.forward_files(1)
        except TapeError as e:
            # The power failed before it was written. All data before it was read.
            log.warning("the tape file has no filemark: %s", e)
        if self.knows_file:
            self.leave()

    @override
    def cancel(self) -> None:
        """Make a wait for the drive fail; a read of a record that has begun cannot be cancelled."""
        self._lease.is_cancelled = True

    @override
    def close(self) -> None:
        self._lease.release()

    def _is_at(self, preamble: Preamble) -> bool:
        """Take the drive, and go to the tape file; False if it does not have this preamble."""
        file = self._known_file()
        self._lease.acquire(partial(waiting, "drive"))
        self._lease.move(self._drive)
        try:
            self._drive.go_to_file(file)
            self._place = self._drive.label, file
            found = _preamble_here(self._drive)
            self._found = describe(found.info) if found else "no backup"
            self._drive.go_to_file(file)
        except TapeError as e:
            log.warning("cannot go to tape file %d: %s", file, e)
            return False
        return found == preamble

    def _known_file(self) -> int:
        if self._file is None:
            raise UsageError(
                f"{self.name}: the number of the tape file is not known",
                hint="Pass file=, the number that scan() or the catalog shows.",
            )
        return self._file

    def _load(self, volume: VolumeId) -> None:
        assert self._on_next_volume is not None
        request = VolumeRequest(self._lease.drive, volume.set_id, volume.number, volume.backup)

        def accept(drive: TapeDrive) -> None:
            _find_volume(drive, request, self._lease.check_cancelled)

        request_volume(self._lease, request, self._on_next_volume, accept)
        drive = self._lease.drive
        self._place = drive.label, drive.status().file
        self._reader = RecordReader(drive.raw)

    def _wrong_tape(self, preamble: Preamble) -> WrongTapeError:
        label = f" of tape {self._place[0]}" if self._place[0] else ""
        return WrongTapeError(
            f"{self._drive.path}: file {self._file}{label} is not the backup of "
            f"{describe(preamble.info)}, but {self._found}"
        )


def _preamble_here(drive: TapeDrive) -> Preamble | None:
    """The preamble of the tape file at whose beginning the tape stands; None if it is no backup."""
    try:
        return Preamble.decode(
            MemberReader(RecordReader(drive.raw)).read_first_member(INFO, MAX_INFO)
        )
    except StreamError:
        return None


def _find_volume(drive: TapeDrive, request: VolumeRequest, check: Callable[[], object]) -> None:
    """Go to the beginning of the volume; raise WrongTapeError if the tape does not hold it."""
    cut_off: list[TapeEntry] = []
    for entry in scan(drive.raw, check):
        if (entry.set_id, entry.volume) == (request.set_id, request.volume):
            if entry.complete:
                return drive.go_to_file(entry.file)
            cut_off.append(entry)
    for entry in cut_off:
        drive.go_to_file(entry.file)
        if holds_data(drive.raw, check):  # otherwise the volume was begun again on another tape
            return drive.go_to_file(entry.file)
    label = f"tape {drive.label}" if drive.label else "this tape"
    raise WrongTapeError(
        f"{drive.path}: {label} does not hold volume {request.volume} of {request.backup}"
    )
