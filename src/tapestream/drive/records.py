"""Writes a stream of bytes as the records of a tape file, and reads them back.

One record is one `write()` call, and so one block on the tape. A tape file is a sequence of
records that ends with a filemark. Buffers begin at a page, so that the drive's host adapter can
read them directly, without a copy (kernel, Documentation/scsi/st.rst, "Buffering").
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from ..errors import (
    BlockSizeError,
    EndOfTapeError,
    LocalIOError,
    PositionLostError,
    TapeError,
    UsageError,
)
from .position import PositionedDrive

BLOCK, KIB, MIB = 512, 1024, 1024**2

RECORD_SIZE = MIB
MIN_RECORD, MAX_RECORD = 64 * KIB, 16 * MIB - 1
# The driver's errors for a buffer that is too large for the drive or the host adapter.
_TOO_LARGE = (errno.EINVAL, errno.EBUSY)
# Bytes of the first buffer for reading. The records of other programs are smaller.
_FIRST_BUFFER = MIB
# Records are cut from pieces of memory of this size. The kernel limits the number of pieces, and
# gives huge pages only to large ones; with those, the first write to it takes a fifth of the time.
SLAB = 16 * MIB
# Fewer bytes are copied without unlocking the interpreter.
_UNLOCKED = 32 * KIB


class RecordPool:
    """Page-aligned memory for records, allocated when needed and used again.

    It comes in slabs of adjacent records. One thread at a time may use it.

    Args:
        size: Bytes in every record.
        slab: About how many bytes a slab has; at least one record.

    Attributes:
        step: Bytes from the start of a record to the start of the next one.
        count: How many records a slab has.
    """

    def __init__(self, size: int, *, slab: int = SLAB) -> None:
        self.size = size
        self.step = size + -size % mmap.PAGESIZE
        self.count = max(1, slab // self.step)
        self._idle: list[memoryview] = []

    def take(self) -> memoryview:
        """Get a slab; its contents are undefined.

        Raises:
            LocalIOError: There is no memory for another one.
        """
        if self._idle:
            return self._idle.pop()
        try:
            memory = mmap.mmap(
                -1, self.count * self.step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            )
        except OSError as e:
            raise LocalIOError(
                f"cannot get memory for {self.count} records of {self.size} bytes",
                e,
                hint="Free memory, raise this program's limit, or pass a smaller part_size.",
            ) from e
        with suppress(OSError):  # a kernel may have no huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memoryview(memory)

    def give_back(self, slab: memoryview) -> None:
        """Return memory that `take` gave."""
        self._idle.append(slab)


class RecordWriter:
    """Writes one tape file; writes nothing if somebody has moved the tape.

    Records stay in memory until `forget` frees them, so that those that are not on the tape in the
    end can be written again.

    Args:
        drive: Stands where the file will begin, as after `begin_file`.
        pool: Gives the memory for the records; its `size` is the record size.

    Attributes:
        length: Bytes that were put into records.
        accepted: Bytes of the file that are on tape.
        records: How many records these are.
        seconds: Seconds that the drive took to write them.
        is_ending: True after the tape has warned that it will soon be full.
        is_full: True at the hard end of the tape: it accepts no more records, only a filemark.
    """

    def __init__(self, drive: PositionedDrive, pool: RecordPool) -> None:
        block_size = drive.block_size
        if block_size and pool.size % block_size:
            raise UsageError(
                f"{drive.path} is in fixed mode: record_size must be a multiple of {block_size}, "
                f"not {pool.size}",
                hint="Or use variable mode: drive.set_block_size(0).",
            )
        self.length = self.accepted = self.records = 0
        self.seconds = 0.0
        self.is_ending = self.is_full = False
        self._drive = drive
        self._block_size = block_size
        self._pool = pool
        # The slabs with records that are kept or will be written, by number in the file.
        self._slabs: dict[int, memoryview] = {}
        self._first = 0  # number of the first slab that is kept
        self._lock = threading.Lock()
        self._lends = pool.step == pool.size
        self._lent = False
        self._next_block = drive.tell()
        self._open_count = drive.open_count

    def write(self, data: memoryview | bytes) -> None:
        """Put data into records, and write the records that are full.

        Raises:
            EndOfTapeError: The tape is full; only the `accepted` bytes are on it. The data is in
                records all the same.
            PositionLostError: The tape was moved since the last record, or since the drive was last
                asked. No more is written.
            TapeError: Nothing more should be written.
        """
        left = memoryview(data)
        while left:
            number, at = divmod(self.length, self._pool.size)
            record = self._record(number)
            count = min(len(left), self._pool.size - at)
            _copy(left[:count], record[at : at + count])
            self.length += count
            left = left[count:]
            if at + count == self._pool.size and not self.is_full:
                self._write_record(record)
        if self.is_full:
            raise EndOfTapeError(f"{self._drive.path}: the tape is full")

    def memory(self, offset: int, length: int) -> memoryview | None:
        """Lend the memory in which bytes of the file will be.

        `write` does not copy data that is there already. May be called in another thread.

        Args:
            offset: Offset of the first byte in the file. It must not be written yet.
            length: How many bytes.

        Returns:
            The memory; None if these bytes will not be adjacent in memory.
        """
        number, at = divmod(offset, self._pool.count * self._pool.size)
        if at + length > self._pool.count * self._pool.size:
            return None
        with self._lock:
            if not self._lends:
                return None
            self._lent = True
            return self._slab(number)[at : at + length]

    def stop_lending(self) -> None:
        """Lend no more memory, and write nothing more into memory that was lent."""
        with self._lock:
            self._lends = False
            if not self._lent:
                return
            number, at = divmod(self.length, self._pool.count * self._pool.size)
            lent = self._slabs.get(number)
            self._slabs = {n: slab for n, slab in self._slabs.items() if n < number}
            if lent is not None and at:
                self._slab(number)[:at] = lent[:at]

    def forget(self, offset: int | None = None) -> None:
        """Free all slabs whose records end at or before `offset`; None frees all slabs."""
        with self._lock:
            if offset is None:
                self._slabs.clear()  # readers may still fill them: the pool must not get them
                return
            first = offset // self._pool.size // self._pool.count
            while self._first < first:
                self._pool.give_back(self._slabs.pop(self._first))
                self._first += 1

    def kept(self, start: int, end: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `end` of the file, and free each record after use."""
        while start < end:
            self.forget(start)
            number, at = divmod(start, self._pool.size)
            piece = self._record(number)[at:][: end - start]
            yield piece
            start += len(piece)
        self.forget()

    def end_file(self) -> None:
        """Write the filemark, and wait until everything before it is on the tape.

        Bytes that do not fill a record are dropped; a stream is padded to whole records.

        Raises:
            PositionLostError: The tape was moved since the last record, or since the drive was last
                asked.
            TapeError: Something before the filemark may not be on the tape.
        """
        self._check_place()
        self._drive.write_filemark()

    def _record(self, number: int) -> memoryview:
        slab, place = divmod(number, self._pool.count)
        with self._lock:
            return self._slab(slab)[place * self._pool.step :][: self._pool.size]

    def _slab(self, number: int) -> memoryview:
        if number not in self._slabs:
            self._slabs[number] = self._pool.take()
        return self._slabs[number]

    def _write_record(self, record: memoryview) -> None:
        while record:
            self._check_place()
            count = self._write_once(record)
            if self.is_full:
                return
            self.accepted += count
            self._next_block += count // self._block_size if self._block_size else 1
            record = record[count:]
        self.records += 1

    def _write_once(self, record: memoryview) -> int:
        """Write; try again once if the early warning refused it. Return 0 if the tape is full."""
        began = time.monotonic()
        try:
            try:
                return self._drive.write_record(record)
            except EndOfTapeError:
                self.is_ending = True
            try:
                return self._drive.write_record(record)
            except EndOfTapeError:
                self.is_full = True
                return 0
        finally:
            self.seconds += time.monotonic() - began

    def _check_place(self) -> None:
        """Make sure that nobody moved the tape, or closed the device, since our last record.

        `PositionedDrive` knows only where the tape should be after its last command, and another
        user of the object may have given that.
        """
        drive = self._drive
        if (drive.expected_block(), drive.open_count) != (self._next_block, self._open_count):
            raise PositionLostError(
                f"{drive.path} was moved, or closed, before block {self._next_block} was written"
            )


def _copy(data: memoryview, record: memoryview) -> None:
    """Copy data into a part of a record that has the same length, unless it is there already.

    ctypes unlocks the interpreter during the copy, so that readers can receive the next data. It
    needs writable memory, and takes a few microseconds.
    """
    if len(data) < _UNLOCKED or data.readonly:
        record[:] = data
        return
    there, here = (ctypes.addressof(ctypes.c_char.from_buffer(view)) for view in (record, data))
    if there != here:
        ctypes.memmove(there, here, len(data))


class RecordReader:
    """Reads one tape file with records of any size, and finds out how large they are.

    Args:
        drive: Stands at the beginning of the file; nobody else may use it until the file is read.

    Attributes:
        ended: True after the filemark was read; the tape then stands after it.

    Raises:
        PositionLostError: After an error, it is not known where the tape stands.
    """

    def __init__(self, drive: PositionedDrive) -> None:
        self.name = drive.path
        self._drive = drive
        self._memory = mmap.mmap(-1, _FIRST_BUFFER)
        self._too_small, self._too_large = 0, MAX_RECORD + 1
        self._unread = memoryview(b"")
        if drive.is_lost:
            raise PositionLostError(
                f"{drive.path}: since an error it is not known where the tape stands"
            )
        self._next_block = drive.tell()
        self._open_count = drive.open_count
        self._length = 0
        self._lost: str | None = None
        self.ended = False

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one byte; return 0 at the filemark, which the tape then has passed.

        Raises:
            PositionLostError: The tape was moved since the last record, or since the drive was last
                asked: what was read since may come from elsewhere.
            TapeError: The record cannot be read. The tape stands before or after it; `pass_over`
                finds out which.
        """
        if not self._unread:
            self._unread = self.record()
        count = min(len(buffer), len(self._unread))
        buffer[:count], self._unread = self._unread[:count], self._unread[count:]
        return count

    def record(self) -> memoryview:
        """Read the next whole record; empty at the filemark. Valid until the next one is read.

        Raises:
            TapeError: The same errors as in `readinto`.
        """
        if self._lost is not None:
            raise PositionLostError(self._lost)
        if self.ended:
            return memoryview(b"")
        self._check_place()
        while True:
            view = memoryview(self._memory)
            try:
                count = self._drive.read_record(view)
            except OSError as e:
                self._learn(e)
                continue
            self.ended = count == 0
            self._next_block += 1
            self._length = count
            if self._drive.check_is_due:
                self.check_place()
            return view[:count]

    def read_again(self, record: bytes) -> None:
        """Let `readinto` begin with a record that was read before."""
        self._unread = memoryview(record)

    def pass_over(self) -> int:
        """Go past a record that cannot be read.

        Returns:
            Its size in bytes, which is that of the record before; 0 if that is not known, or if the
            tape stands elsewhere.
        """
        # After the error, a drive stands before the record or after it.
        beside = self._drive.tell() in (self._next_block, self._next_block + 1)
        if not beside or not self._length or self._drive.block_size:
            return 0
        self._next_block += 1
        self._drive.seek(self._next_block)
        return self._length

    def check_place(self) -> None:
        """Ask the drive, to make sure that the tape stands after the last record that was read.

        In fixed mode this does nothing: the driver cannot report it without moving the tape.

        Raises:
            PositionLostError: The tape stands elsewhere: what was read may come from elsewhere.
        """
        if self._drive.block_size:
            return
        self._check_place()
        found = self._drive.tell()
        # The end of data reads like a filemark, but is not a block.
        if found not in (self._next_block, self._next_block - self.ended):
            raise self._moved(found)

    def _moved(self, found: int) -> PositionLostError:
        return self._stop(
            f"{self.name} should stand at block {self._next_block}, but stands at block {found}: "
            "what was read may come from elsewhere"
        )

    def _stop(self, why: str) -> PositionLostError:
        """Make every later read fail: a salvage must not continue elsewhere on the tape."""
        self._lost = why
        return PositionLostError(why)

    def _check_place(self) -> None:
        """Make sure that nobody moved the tape or closed the device, without asking the drive."""
        drive = self._drive
        if (
            drive.expected_block() not in (None, self._next_block)
            or drive.open_count != self._open_count
        ):
            raise self._stop(
                f"{self.name} was moved, or closed, before block {self._next_block} was read"
            )

    def _learn(self, error: OSError) -> None:
        """Change the size of the buffer after an error, and go back before the record if needed."""
        size = len(self._memory)
        if error.errno == errno.ENOMEM:  # the record is larger than the buffer, and was passed
            self._drive.backward_records(1)
            self._too_small = max(self._too_small, size)
        elif error.errno in _TOO_LARGE and size > self._too_small:
            self._too_large = min(self._too_large, size)
        else:
            raise self._unreadable(error)
        size = self._next_size(size)
        if not self._too_small < size < self._too_large:
            raise TapeError(
                f"{self.name}: cannot read the next record: it has more than {self._too_small} "
                f"bytes, and the drive, or this host, takes no more than {self._too_large - 1}",
                hint="Nothing is damaged: read it on a host that takes larger transfers, such as "
                "the one that wrote it.",
            )
        self._memory = mmap.mmap(-1, size)

    def _next_size(self, size: int) -> int:
        if self._too_large > MAX_RECORD:
            return min(2 * size, MAX_RECORD)
        if not self._too_small:
            return size // 2
        return (self._too_small + self._too_large) // 2

    def _unreadable(self, error: OSError) -> LocalIOError:
        """The error for an unreadable record, or for a moved tape: a reset looks like the first."""
        drive, unreadable = (
            self._drive,
            TapeError(f"{self.name}: cannot read the next record", error),
        )
        if error.errno != errno.EIO:
            return unreadable
        try:
            found = drive.tell()
        except PositionLostError as e:
            return self._stop(e.message)
        except TapeError:
            return unreadable
        if not drive.block_size:
            beside = found in (self._next_block, self._next_block + 1)
            return unreadable if beside else self._moved(found)
        is_first = not self._length and found == self._next_block
        size = _measured_block(drive) if is_first else 0
        if size not in (0, drive.block_size):
            return BlockSizeError(
                f"{self.name} is in fixed mode, with blocks of {drive.block_size} bytes, but the "
                f"tape file has a block of {size}"
            )
        return unreadable


def _measured_block(drive: PositionedDrive) -> int:
    """The size of the next block, for a drive in fixed mode; 0 if it cannot be read.

    In fixed mode the driver does not report the size of a block that has another size than it
    should. The tape must be wound after this.
    """
    fixed = drive.block_size
    try:
        drive.set_block_size(0)
        return len(RecordReader(drive).record())
    except TapeError:
        return 0
    finally:
        drive.set_block_size(fixed)
        drive.forget_position()


def check_record_size(size: int) -> None:
    """Make sure that a drive can write records of this size, in bytes.

    Raises:
        UsageError: It cannot.
    """
    if type(size) is not int or not MIN_RECORD <= size <= MAX_RECORD or size % BLOCK:
        raise UsageError(
            f"on tape, record_size must be a multiple of {BLOCK} from {MIN_RECORD} to "
            f"{MAX_RECORD}, not {size!r}"
        )
