"""From one tape to the next: what a backup does when a tape is full, and a restore at its end."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import (
    EndOfTapeError,
    IncompleteStreamError,
    NoMediumError,
    StreamError,
    TapeError,
    UsageError,
    WriteProtectedError,
    WrongTapeError,
)
from ..info import BackupInfo
from ..report import TapePlace, TapeReport
from ..tar.format import INFO, MAX_INFO, Preamble
from ..tar.members import MemberReader
from .drive import TapeDrive
from .records import RecordReader, RecordWriter, check_record_size
from .scan import TapeEntry, holds_data, look, scan
from .transport import is_tape

log = logging.getLogger("tapestream.tape")

# How often to ask for a tape when the one that was loaded will not do.
MAX_REQUESTS = 10
# A drive takes 15 to 60 s to take a cartridge; the kernel, too, waits for two minutes.
LOAD_SECONDS = 120.0


@dataclass(frozen=True)
class VolumeRequest:
    """Asks for a tape: the next one to write, or the one on which a backup goes on.

    Attributes:
        drive: Where the last volume was. It is released: other programs may use it.
        set_id: Identifies the volumes of the backup.
        volume: Number of the volume that is wanted.
        backup: What the backup is, for people: VM, disk and date.
        left: Bytes that are still to be written, more or less; None when reading.
        problem: Why the tape that was loaded last will not do; None the first time.
    """

    drive: TapeDrive
    set_id: str
    volume: int
    backup: str
    left: int | None = None
    problem: str | None = None


# Loads the tape; returns the drive it is in: None for the same one.
OnVolumeFull = Callable[[VolumeRequest], TapeDrive | None]
OnNextVolume = Callable[[VolumeRequest], TapeDrive | None]


class _Turn:
    """The drive in use; taken when first needed, and changed from one volume to the next."""

    def __init__(self, drive: TapeDrive, *, ours: bool) -> None:
        self.drive = drive
        self._given = drive
        self._ours = ours
        self._has_turn = False
        self.cancelled = threading.Event()

    def begin(self) -> None:
        if not self._has_turn:
            self.drive.begin_turn(self.cancelled)
            self._has_turn = True

    def adopt(self) -> None:
        if self._has_turn:
            self.drive.adopt_turn()

    def change(self, drive: TapeDrive) -> None:
        if drive is not self.drive:
            self.end()
            self.drive = drive
            self.begin()

    def pause(self) -> None:
        """End the turn; a drive that was opened for this stream can be opened for another."""
        if self._has_turn and self._ours:
            self.drive.release()
        self.end()

    def end(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self.drive.end_turn()

    def close(self) -> None:
        """End the turn, and close the drive if it was opened for this stream."""
        self.end()
        if self._ours:
            self._given.close()


def _ask(
    turn: _Turn,
    request: VolumeRequest,
    load: Callable[[VolumeRequest], TapeDrive | None],
    accept: Callable[[TapeDrive], None],
) -> None:
    """Ask for a tape until one is accepted."""
    for _ in range(MAX_REQUESTS):
        turn.drive.release()
        turn.drive.adopt_turn()
        turn.change(load(request) or turn.drive)
        try:
            _wait_for_cartridge(turn.drive)
            return accept(turn.drive)
        except (EndOfTapeError, NoMediumError, WriteProtectedError, WrongTapeError) as e:
            log.warning("volume %d: %s", request.volume, e)
            problem = e
            request = replace(request, drive=turn.drive, problem=str(e.args[0]))
    raise problem


def _wait_for_cartridge(drive: TapeDrive) -> None:
    """Wait for a drive without a cartridge not for long, for one that is at work on it for ever."""
    try:
        drive.wait_ready(LOAD_SECONDS)
    except NoMediumError:
        if drive.status().is_empty:
            raise
        drive.wait_ready()


class TapeOutput:
    """Writes a stream in records to a tape file, and further ones on the tapes that follow.

    It waits for its turn before the first write.

    Args:
        drive: Its tape is appended to.
        record_size: Bytes in every record.
        on_volume_full: Loads the next tape; None to fail at the end of the first.
        ours: True to close the drive at the end.
    """

    def __init__(
        self,
        drive: TapeDrive,
        record_size: int,
        on_volume_full: OnVolumeFull | None,
        *,
        ours: bool,
    ) -> None:
        self.name = drive.path
        check_record_size(record_size)
        self._record_size = record_size
        self.began_empty = False
        self._on_volume_full = on_volume_full
        self._turn = _Turn(drive, ours=ours)
        self._writer: RecordWriter | None = None
        self._volume = 1
        self._places: list[TapePlace] = []
        self._records = self._bytes = 0
        self._seconds = 0.0

    @property
    def accepted(self) -> int:
        """Bytes of this volume that are on tape."""
        return self._writer.accepted if self._writer else 0

    @property
    def is_ending(self) -> bool:
        """True when the tape has told that it will soon be full, and another can follow."""
        return (
            self._on_volume_full is not None and self._writer is not None and self._writer.is_ending
        )

    def write(self, data: memoryview) -> None:
        """See `Output`.

        Raises:
            VolumeFull: The tape is full.
        """
        if self._writer is None:
            self._turn.begin()
            _append(self._turn.drive)
            self._begin_file()
        assert self._writer is not None
        self._writer.write(data)

    def next_volume(self, preamble: Preamble, left: int) -> None:
        """End this tape file, and get the next tape, which is appended to.

        Args:
            preamble: That of the next volume.
            left: Bytes that are still to be written.

        Raises:
            EndOfTapeError: There is nobody to load a tape.
        """
        self._end_file()
        if preamble.volume == self._volume:
            self._places.pop()  # what is there is void
        if self._on_volume_full is None:
            raise EndOfTapeError(f"{self.name}: the tape is full, with {left} bytes to go")
        full, end = self._turn.drive, self._turn.drive.tell()

        def accept(drive: TapeDrive) -> None:
            _append(drive)
            if drive is full and drive.tell() == end:
                raise WrongTapeError(f"{drive.path}: this is still the tape that is full")

        request = VolumeRequest(
            full, preamble.set_id or "", preamble.volume, describe(preamble), left
        )
        _ask(self._turn, request, self._on_volume_full, accept)
        self.name = self._turn.drive.path
        self._volume = preamble.volume
        self._begin_file()

    def cancel(self) -> None:
        """See `Output`: a record that the drive is writing cannot be called back."""

    def commit(self) -> None:
        """See `Output`: writes the filemark; everything is on tape when this returns."""
        self._end_file()
        self._turn.close()

    def abort(self) -> None:
        """See `Output`: ends the tape file, without its manifest, if the tape is still ours."""
        try:
            if self._writer is not None and self._writer.accepted:
                self._end_file()
        finally:
            self._turn.close()

    def report(self, info: BackupInfo, set_id: str) -> TapeReport:
        """How a backup, with this info and this name of its volumes, went to tape so far."""
        return TapeReport(
            info, set_id, tuple(self._places), self._records, self._bytes, self._seconds
        )

    def _begin_file(self) -> None:
        drive = self._turn.drive
        drive.begin_file()
        self._writer = RecordWriter(drive, self._record_size)
        status = drive.status()
        self.began_empty = status.at_beginning or (status.file == 1 and drive.label is not None)
        self._places.append(TapePlace(drive.path, drive.label, status.file, self._volume))

    def _end_file(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._records += writer.records
        self._bytes += writer.accepted
        self._seconds += writer.seconds
        writer.end_file()


class TapeInput:
    """Reads a stream from a tape file, and from those on the tapes that follow.

    Args:
        drive: Its tape is read.
        file: Number of the tape file; None for the one at whose beginning it stands.
        on_next_volume: Loads the next tape; None to fail where the backup goes on elsewhere.
        ours: True to close the drive at the end.

    Attributes:
        name: Path of the drive that is read now.
        device: That of the drive where it begins, by which others know it.
    """

    def __init__(
        self,
        drive: TapeDrive,
        file: int | None,
        on_next_volume: OnNextVolume | None,
        *,
        ours: bool,
    ) -> None:
        self.name = drive.path
        self.device = os.path.realpath(drive.path)
        self._drive = drive
        self._file = file
        self._on_next_volume = on_next_volume
        self._turn = _Turn(drive, ours=ours)
        self._left_at: tuple[int, int] | None = None
        self._turn.begin()
        try:
            if file is not None:
                drive.go_to_file(file)
            self._reader = RecordReader(drive)
        except BaseException:
            self._turn.close()
            raise

    @property
    def knows_file(self) -> bool:
        """True when it can come back to its tape file, after others have used the drive."""
        return self._file is not None

    def readinto(self, buffer: memoryview) -> int:
        """See `Input`."""
        return self._reader.readinto(buffer)

    def pass_over(self, length: int) -> int:
        """See `Input`: a record; all those of a backup are of one size.

        Not where the drive stands elsewhere: it was reset, or has another tape by now.
        """
        try:
            return self._reader.pass_over()
        except TapeError as e:
            log.warning("cannot go behind the record: %s", e)
            return 0

    def peek(self, offset: int, length: int) -> bytes | None:
        """See `Input`: a tape would have to be wound there."""
        return None

    def rewind(self) -> None:
        """See `Input`: `go_back` does, which knows what to look for."""
        raise UsageError(f"{self.name}: which backup it is, is not known")

    def go_back(self, preamble: Preamble) -> None:
        """Go to the beginning of the tape file that has this preamble.

        Where another tape is loaded by now, the right one is asked for.

        Raises:
            WrongTapeError: There is nobody to load it.
            UsageError: The number of the tape file is not known.
        """
        if self._is_at(preamble):
            self._reader = RecordReader(self._drive)
        elif self._on_next_volume is None or preamble.set_id is None:
            raise self._wrong_tape(preamble)
        else:
            self._load(preamble.volume, preamble)

    def pause(self) -> None:
        """Let others use the drive until `resume`."""
        try:
            self._left_at = _where(self._turn.drive)
        except TapeError as e:
            log.warning("it will be wound back: %s", e)
            self._left_at = None
        self._turn.pause()

    def leave(self) -> None:
        """Let others use the drive, until it must go back to the beginning of the backup."""
        self._known_file()
        self._left_at = None
        self._turn.cancelled.clear()
        self._turn.pause()

    def resume(self) -> bool:
        """Take the drive again; True when the tape stands where it was left."""
        self._turn.begin()
        try:
            return self._left_at is not None and _where(self._turn.drive) == self._left_at
        except NoMediumError:
            return False

    def check_complete(self, preamble: Preamble) -> None:
        """Look at the end of the tape file, if its tape is loaded; other tapes are not asked for.

        Raises:
            WrongTapeError: Another tape is loaded, and nobody there to load the right one.
            IncompleteStreamError: It has no end.
        """
        if self._file is None:
            return
        may_ask = self._on_next_volume is not None and preamble.set_id is not None
        try:
            if not self._is_at(preamble):
                if may_ask:
                    return
                raise self._wrong_tape(preamble)
            entry = look(self._drive, self._file)
        finally:
            self.leave()
        # A volume that the end of its tape tore is incomplete; the next makes up for it.
        if not (entry and entry.complete) and not may_ask:
            raise IncompleteStreamError(f"{self.name}: tape file {self._file} has no end")

    def next_volume(self, preamble: Preamble, error: IncompleteStreamError | None) -> None:
        """Find the volume after the one with this preamble.

        Args:
            preamble: That of the volume that was read.
            error: How it ended, where it was torn.

        Raises:
            IncompleteStreamError: There is nobody to load the tape.
        """
        wanted = preamble.volume + 1
        if self._on_next_volume is None or preamble.set_id is None:
            raise error or IncompleteStreamError(
                f"{self.name}: the backup goes on on volume {wanted}",
                hint="Pass on_next_volume=, which loads the tapes that follow.",
            )
        self._load(wanted, preamble)

    def end_file(self) -> None:
        """Go behind the filemark, and let others use the drive if this can come back."""
        try:
            if not self._reader.ended:
                self._turn.drive.forward_files(1)
        except TapeError as e:
            # The power failed before it was written: all that it would close has been read.
            log.warning("the tape file has no filemark: %s", e)
        if self.knows_file:
            self.pause()

    def cancel(self) -> None:
        """See `Input`: ends a wait for the drive; a record that it reads cannot be called back."""
        self._turn.cancelled.set()

    def adopt(self) -> None:
        """Go on in this thread: the one that has read is about to end."""
        self._turn.adopt()

    def close(self) -> None:
        """See `Input`."""
        self._turn.close()

    def _is_at(self, preamble: Preamble) -> bool:
        """Take the drive, and go to the tape file; False where that is not this backup's."""
        file = self._known_file()
        self._turn.begin()
        self._turn.change(self._drive)
        self.name = self._drive.path
        try:
            self._drive.go_to_file(file)
            found = _preamble_here(self._drive)
            self._drive.go_to_file(file)
        except TapeError as e:
            log.warning("cannot go to tape file %d: %s", file, e)
            return False
        return found == preamble

    def _known_file(self) -> int:
        if self._file is None:
            raise UsageError(
                f"{self.name}: the number of the tape file is not known",
                hint="Pass file=, as scan() or the catalog tells it.",
            )
        return self._file

    def _load(self, volume: int, preamble: Preamble) -> None:
        assert self._on_next_volume is not None
        request = VolumeRequest(self._turn.drive, preamble.set_id or "", volume, describe(preamble))

        def accept(drive: TapeDrive) -> None:
            _find_volume(drive, request)

        _ask(self._turn, request, self._on_next_volume, accept)
        self.name = self._turn.drive.path
        self._reader = RecordReader(self._turn.drive)

    def _wrong_tape(self, preamble: Preamble) -> WrongTapeError:
        return WrongTapeError(
            f"{self.name}: tape file {self._file} is not the backup of {describe(preamble)}"
        )


def drive_of(target: object) -> tuple[TapeDrive, bool] | None:
    """The drive that a target is or names, and True if it was opened here; None for others."""
    if isinstance(target, TapeDrive):
        return target, False
    if isinstance(target, (str, os.PathLike)) and is_tape(os.fspath(target)):
        return TapeDrive(os.fspath(target)), True
    return None


def describe(preamble: Preamble) -> str:
    """What a backup is, for people."""
    info = preamble.info
    vm = info.vm_name or info.vm_id or "unknown VM"
    disk = info.disk_name or info.disk_id or "unknown disk"
    when = f" of {info.created:%Y-%m-%d %H:%M} UTC" if info.created else ""
    return f"{vm}, {disk}{when}"


def _where(drive: TapeDrive) -> tuple[int, int]:
    """Where a tape stands; where the drive was closed meanwhile, it may be another tape."""
    return drive.tell(), drive.openings


def _preamble_here(drive: TapeDrive) -> Preamble | None:
    """What the tape file at whose beginning the drive stands says of itself, if it is a backup."""
    try:
        return Preamble.decode(MemberReader(RecordReader(drive)).first(INFO, MAX_INFO))
    except StreamError:
        return None


def _append(drive: TapeDrive) -> None:
    """Go behind everything that is on a tape: a restore, or a person, may have moved it."""
    status = drive.status()
    if status.write_protected:
        raise WriteProtectedError(f"{drive.path}: the cartridge is write-protected")
    if not drive.knows_label or status.file is None:
        drive.read_label()
    drive.end_of_data()


def _find_volume(drive: TapeDrive, request: VolumeRequest) -> None:
    """Go to the beginning of the volume, or tell what the tape holds instead."""
    torn: list[TapeEntry] = []
    for entry in scan(drive):
        if (entry.set_id, entry.volume) == (request.set_id, request.volume):
            if entry.complete:
                return drive.go_to_file(entry.file)
            torn.append(entry)
    for entry in torn:
        drive.go_to_file(entry.file)
        if holds_data(drive):  # otherwise it is void, and the real one on another tape
            return drive.go_to_file(entry.file)
    label = f"tape {drive.label}" if drive.label else "this tape"
    raise WrongTapeError(
        f"{drive.path}: {label} does not hold volume {request.volume} of {request.backup}"
    )
