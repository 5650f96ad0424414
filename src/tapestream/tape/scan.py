"""Finds out what is on a tape, from the first record and the end of every tape file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from .._shown import short_repr
from ..drive.position import PositionedDrive
from ..drive.records import RecordReader
from ..errors import (
    BlockSizeError,
    PositionLostError,
    StreamError,
    TapeError,
    UnreadableLabelError,
    UsageError,
)
from ..model.expected import Expected
from ..model.info import BackupInfo, describe
from ..tar import format as fmt
from ..tar.manifest import ending
from ..tar.members import MemberReader
from ..tar.preamble import Preamble
from .label import NO_LABEL, is_label, read_label
from .report import TapeLabel

# Bytes of text, and of zeros after it, that are kept to find the end of a manifest in them.
_END_SIZE = 4 * fmt.BLOCK
# Bytes of a record that are copied at a time.
_STEP = 64 * 1024


@dataclass(frozen=True, repr=False)
class TapeEntry:
    """One tape file.

    Attributes:
        file: Its number, from 0: `drive.go_to_file(file)` goes there.
        info: The backup that it holds; None for a foreign file, a label, or an unreadable file.
        complete: True if it ends with a manifest, as a backup should. False for an aborted backup,
            and also for a volume that was cut off by the end of its tape; that backup then
            continues on the next volume.
        tape_label: The tape's label, if this file is one.
        set_id: Identifies the volumes of a backup.
        volume: Number of the volume, from 1.
        volume_start: Disk offset of the volume's first data.
        continues: True if the backup continues on another volume.
        vouches_from: For a complete volume, the disk offset from which its manifest covers the
            data. This is less than `volume_start` if the volume before was cut off by the end of
            its tape.
        problem: Why the file cannot be read, or None.
        is_unknown: True if it is not known what the file is: its first record cannot be read, or
            it is a damaged label.
        length: Bytes on the tape, in whole records; 0 if that is not known. Entries are equal
            whatever it is.
    """

    file: int
    info: BackupInfo | None = None
    complete: bool = False
    tape_label: TapeLabel | None = None
    set_id: str | None = None
    volume: int = 1
    volume_start: int = 0
    continues: bool = False
    vouches_from: int | None = None
    problem: str | None = None
    is_unknown: bool = False
    length: int = field(default=0, compare=False)

    def __repr__(self) -> str:
        return short_repr(self, f"file {self.file}, {self.what}")

    @property
    def what(self) -> str:
        """What the file is, in a few words."""
        if self.info is not None:
            volume = f", volume {self.volume}" if self.volume > 1 or self.continues else ""
            end = "" if self.complete else ", without an end"
            return f"{describe(self.info)}{volume}{end}"
        if self.tape_label is not None:
            return f"label {self.tape_label.name}"
        return self.problem or "empty"

    @property
    def label(self) -> str | None:
        """The name of the tape, if this file is its label."""
        return self.tape_label.name if self.tape_label else None

    @property
    def expected(self) -> Expected:
        """What a later restore compares with the tape, which may be another one by then."""
        if self.info is None:
            raise UsageError(f"tape file {self.file} holds no backup")
        return Expected(self.info, self.set_id, self.file, whole_info=True)


def nothing() -> None:
    """The check of a scan that nobody can cancel."""


def scan(drive: PositionedDrive, check: Callable[[], object] = nothing) -> Iterator[TapeEntry]:
    """Rewind, and look at one tape file after another.

    The first record and the end of each file are read; the drive spaces over the rest. The tape
    must not be moved between two entries.

    Args:
        drive: The drive, with a cartridge.
        check: Called between two commands of the drive that can take long; it may raise.

    Raises:
        BlockSizeError: The drive is in fixed mode, and the tape has blocks of another size.
        TapeError: The drive failed.
    """
    check()
    drive.rewind()
    entry = read_entry(drive, 0, check)
    if entry is None or not entry.is_unknown:
        drive.remembered = (entry and entry.tape_label) or NO_LABEL
    while entry is not None:
        yield entry
        entry = read_entry(drive, entry.file + 1, check)


def first_label(drive: PositionedDrive) -> TapeLabel | None:
    """Rewind and read the label; None if the tape has none. The tape may stand anywhere then.

    Only the first record is read, unless that fails.

    Raises:
        BlockSizeError: The drive is in fixed mode, and the tape has blocks of another size.
        UnreadableLabelError: It is not known whether the tape has a label.
        TapeError: The drive failed.
    """
    drive.rewind()
    reader = RecordReader(drive)
    try:
        first = bytes(reader.record())
    except BlockSizeError:
        raise
    except TapeError:
        # Reading a blank tape fails, too: only winding shows the difference from a bad record.
        entry = next(scan(drive), None)
    else:
        entry = _recognized(0, first, reader)[0] if is_label(first) else None
        if entry is None or not entry.is_unknown:
            drive.remembered = (entry and entry.tape_label) or NO_LABEL
    if entry is not None and entry.is_unknown:
        raise unreadable_label(drive, entry)
    return entry.tape_label if entry else None


def unreadable_label(drive: PositionedDrive, entry: TapeEntry) -> UnreadableLabelError:
    """The error for a first tape file that may be a label, but cannot be read."""
    return UnreadableLabelError(
        f"{drive.path}: cannot tell if the tape has a label, or which: {entry.problem}"
    )


def read_entry(
    drive: PositionedDrive, file: int, check: Callable[[], object] = nothing
) -> TapeEntry | None:
    """Look at the tape file at which the drive stands, and go past it; None if there is none."""
    check()
    start = drive.tell()
    first, problem = b"", None
    reader = RecordReader(drive)
    try:
        first = bytes(reader.record())
    except BlockSizeError:
        raise
    except TapeError as e:
        problem = e.message
    record_size = 0
    if first:
        entry, record_size = _recognized(file, first, reader)
    elif problem is None:
        if drive.status().at_end_of_data:
            return None
        return TapeEntry(file)  # two filemarks in a row: an empty file
    else:
        entry = TapeEntry(file, problem=problem, is_unknown=True)
    check()
    if not reader.ended:
        # A read error may have reported a reset, or another tape.
        if drive.tell() < start:
            raise PositionLostError(f"{drive.path} went back to the beginning of its tape")
        if not _found_filemark(drive):
            # The power failed before the filemark was written, or there is no tape file.
            return entry if first else None
    if entry.info is None:
        return entry
    check()
    block = drive.block_size or len(first)
    entry = replace(entry, length=(drive.tell() - 1 - start) * block)
    return _with_end(entry, _tail(drive, start, block, record_size))


def _found_filemark(drive: PositionedDrive) -> bool:
    """Go past the next filemark, or to the end of data; False if the end of data came first."""
    try:
        drive.forward_files(1)
    except TapeError:
        if not drive.status().at_end_of_data:
            raise
        return False
    return True


def _recognized(file: int, first: bytes, reader: RecordReader) -> tuple[TapeEntry, int]:
    """The entry for a tape file, from its first record; and a backup's record size in bytes."""
    reader.read_again(first)
    members = MemberReader(reader)
    try:
        if is_label(first):
            return TapeEntry(file, complete=True, tape_label=read_label(members)), 0
        preamble = Preamble.decode(members.read_first_member(fmt.INFO, fmt.MAX_INFO))
    except (StreamError, TapeError) as e:
        unknown = is_label(first) or isinstance(e, TapeError)
        return TapeEntry(file, problem=e.message, is_unknown=unknown), 0
    entry = TapeEntry(
        file,
        preamble.info,
        set_id=preamble.set_id,
        volume=preamble.volume,
        volume_start=preamble.volume_start,
    )
    return entry, preamble.record_size


def _tail(drive: PositionedDrive, start: int, block: int, record_size: int) -> bytes:
    """The end of the last record before the filemark that was just passed.

    If the last record does not hold the whole end of the manifest, the last two are read. A record
    may be several blocks on the tape: in fixed mode, or if another program copied it there.
    """
    end = drive.tell() - 1
    tail = b""
    for size in (record_size, 2 * record_size):
        drive.before_filemark()
        drive.backward_records(min(-(-size // block), end - start))
        reader = RecordReader(drive)
        tail = b""
        try:
            while record := reader.record():
                tail = _end(tail, record)
        except TapeError:
            tail = b""
        if not reader.ended:
            drive.forward_files(1)
        if drive.tell() != end + 1:
            raise PositionLostError(f"{drive.path} does not stand after the tape file")
        if ending(tail) is not None:
            break
    return tail


def _end(tail: bytes, record: memoryview) -> bytes:
    """Add a record to the end of a stream, and keep only what is needed to find its manifest's end.

    A record may be large, and the padding even larger, so neither is kept completely.
    """
    for start in range(0, len(record), _STEP):
        tail += record[start : start + _STEP]
        text = tail.rstrip(b"\0")
        zeros = min(len(tail) - len(text), _END_SIZE)
        tail = text[-_END_SIZE:] + bytes(zeros)
    return tail


def is_empty(entry: TapeEntry) -> bool:
    """Whether a tape file has no records, so that nothing is lost if it is overwritten."""
    return entry == TapeEntry(entry.file)


def holds_data(drive: PositionedDrive, check: Callable[[], object] = nothing) -> bool:
    """Whether the tape file at whose beginning the tape stands has a complete data member."""
    members = MemberReader(RecordReader(drive))
    try:
        while (header := members.header()) is not None:
            check()
            members.enter(header.name)
            members.skip(header.size)
            if header.name.startswith("extent-"):
                return True
    except StreamError:
        pass  # the file was cut off before its first data member was complete
    return False


def _with_end(entry: TapeEntry, last: bytes) -> TapeEntry:
    end = ending(last)
    if end is None or (end.set_id, end.volume) != (entry.set_id, entry.volume):
        return entry
    return replace(entry, complete=True, continues=end.continues, vouches_from=end.start)
