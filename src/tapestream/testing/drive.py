"""A simulated tape drive: a double of Linux's `st` driver, its drive and its cartridges, in memory.

    drive = FakeDrive(Cartridge(capacity=8 * 1024**2, early_warning=1024**2))
    tape = TapeDrive("/dev/nst0", open_device=drive.open)
    drive.fail("write", 3)  # a medium error at the third record from now
    drive.power_cycle()  # while somebody has it open

Unlike a real drive, it is always there, takes no time, and fails at any record that you choose. It
has three layers, as the real one:

- A `Cartridge` holds records and filemarks.
- A `FakeDrive` moves it, and raises `DriveError` where a SCSI drive returns sense data.
- A `FakeDevice` is the driver: it turns these errors into error numbers, and counts files and
  records, with the driver's own bugs.

The same tests run on it and on the real driver, with kernels 6.1 and 6.12. These kernels differ in
what the driver does after a reset of the drive: see `Resets`. Do not rely on behaviour that those
tests do not cover. These are not simulated:

- Partitions, setmarks, compression and time.
- A drive forgets its block size when it is switched off.
- In fixed mode, after a read of a part of a block, the driver holds back what is written, until the
  device is opened again.
- In fixed mode, a newer driver may miss a second reset while it still handles the first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import Literal

from .._shown import short_repr
from .._typing import override
from ..drive.device import Command, DeviceStatus, Flag, TapeDevice

DENSITY = 0x58
Operation = Literal[
    "open",
    "write",
    "read",
    "filemark",
    "position",
    "status",
    "space",
    "rewind",
    "seek",
    "erase",
    "load",
    "unload",
    "close",
]


class Cartridge:
    """One tape: what is on it, and where it ends.

    Args:
        capacity: In bytes. A record takes 8 bytes more than its data, and a filemark 4 bytes.
        early_warning: The drive warns from this many bytes before the end on.
        protected: True if the write-protect tab is set. It can be changed at any time.
        name: For messages.

    Attributes:
        blocks: The records, in order. An empty one is a filemark.
        used: How many bytes of the capacity they take.
        bad: Positions whose record or filemark cannot be read. A drive can space over them.
    """

    def __init__(
        self,
        capacity: int = 64 * 1024**2,
        early_warning: int = 4 * 1024**2,
        *,
        protected: bool = False,
        name: str = "T0001",
    ) -> None:
        self.capacity = capacity
        self.early_warning = early_warning
        self.protected = protected
        self.name = name
        self.blocks: list[bytes] = []
        self.bad: Container[int] = ()
        self.used = 0

    def __repr__(self) -> str:
        return f"<Cartridge {self.name}: {self.used} of {self.capacity} bytes>"

    @property
    def files(self) -> list[list[bytes]]:
        """The records of each tape file; the last one may lack its filemark."""
        files: list[list[bytes]] = [[]]
        for block in self.blocks:
            if block:
                files[-1].append(block)
            else:
                files.append([])
        return files if files[-1] else files[:-1]

    @property
    def warns(self) -> bool:
        """True after the early warning."""
        return self.used > self.capacity - self.early_warning

    def put(self, position: int, block: bytes) -> bool:
        """Put a record there, and forget everything after it; False if it does not fit."""
        used = self.used - sum(map(_cost, self.blocks[position:])) + _cost(block)
        if used > self.capacity:
            return False
        self.blocks[position:] = [block]
        self.used = used
        return True

    def cut(self, position: int) -> None:
        """Forget everything from there on."""
        self.used -= sum(map(_cost, self.blocks[position:]))
        del self.blocks[position:]


def _cost(block: bytes) -> int:
    return 8 + len(block) + len(block) % 2 if block else 4


class Reason(Enum):
    """Why a command of a drive did not simply succeed."""

    RESET = auto()  # the drive was reset; it reports this once
    NEW_MEDIUM = auto()  # it has another cartridge; it reports this once
    NOT_READY = auto()
    PROTECTED = auto()
    MEDIUM = auto()
    FILEMARK = auto()
    BEGINNING = auto()
    BLANK = auto()  # the end of data
    LENGTH = auto()  # a block of another size than requested
    EARLY_WARNING = auto()  # the command was done completely
    OVERFLOW = auto()  # the end of the tape


class DriveError(Exception):
    """The answer of a drive to a command that did not simply succeed.

    Args:
        reason: Why.
        left: How much was not done: bytes for a write, otherwise filemarks or records.
        data: What had been read.
    """

    def __init__(self, reason: Reason, left: int = 0, data: bytes = b"") -> None:
        super().__init__(reason, left)
        self.reason = reason
        self.left = left
        self.data = data


class Resets(Enum):
    """What the driver does after the drive has reported a reset."""

    # It fails once, and then goes on at the beginning of the tape. Kernel 6.1 does this.
    FORGOTTEN = auto()
    # It does not read, write or report a position until the tape is wound to a known place, for
    # example rewound. Kernel 6.12 does this.
    REMEMBERED = auto()
    # It also does not report its status. The first kernels that remembered did this, such as 6.13,
    # before they allowed MTIOCGET again. No test compares this with a real driver.
    STATUS_REFUSED = auto()


class Mark(IntEnum):
    """What the driver met last; the order matters to it."""

    NOTHING = 0
    FILEMARK_AHEAD = 1  # read, but not yet reported: the next read returns 0
    FILEMARK = 2
    END_OF_TAPE = 3  # the next write is refused
    WRITE_LOST = 4
    WRITE_REFUSED = 5  # the next write is let through
    END_OF_DATA_TOLD = 6
    END_OF_DATA = 7


@dataclass
class Memory:
    """What the driver remembers of a tape from one open to the next."""

    file: int = 0
    block: int = 0
    mark: Mark = Mark.NOTHING
    protected: bool = False
    position_unknown: bool = False  # after a reset, if the driver remembers resets

    def forget_place(self) -> None:
        """Count neither files nor records until the place is known again."""
        self.file = self.block = -1
        self.mark = Mark.NOTHING


@dataclass
class _Fault:
    due: int
    number: int


@dataclass(repr=False)
class FakeDrive:
    """A simulated drive: pass its `open` as `open_device` of a `TapeDrive`.

    Attributes:
        cartridge: The tape in the drive; None if there is none.
        largest_block: Larger blocks, and larger reads, are refused with EINVAL.
        host_limit: The host adapter refuses larger transfers with EBUSY. None for no limit.
        fast_eod: The driver goes to the end of data without counting files.
        write_behind: The driver copies a record, and reports with the next call whether it was
            written. `st` does so in variable mode if it cannot pass the caller's memory to the
            adapter: if it does not begin at a multiple of 4, or has more pages than the adapter
            can take.
        resets: What the driver does after a reset.
    """

    cartridge: Cartridge | None = None
    largest_block: int = 1024**2
    host_limit: int | None = None
    write_behind: bool = False
    fast_eod: bool = False
    resets: Resets = Resets.FORGOTTEN
    memory: Memory = field(default_factory=Memory)
    in_use: bool = False
    loaded: bool = False
    news: Literal[Reason.RESET, Reason.NEW_MEDIUM] | None = Reason.RESET
    position: int = 0
    block_size: int = 0
    _faults: dict[Operation, _Fault] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loaded = self.cartridge is not None

    def __repr__(self) -> str:
        return short_repr(self, repr(self.cartridge) if self.cartridge else "no cartridge")

    def open(self, path: str, *, read_only: bool = False) -> FakeDevice:
        """Open the drive, as `StDevice` does. The path does not matter."""
        self.fault("open")
        if self.in_use:
            raise _error(errno.EBUSY)
        return FakeDevice(self, read_only=read_only)

    # What an operator does

    def load(self, cartridge: Cartridge) -> None:
        """Put a cartridge into the empty drive."""
        assert self.cartridge is None, "there is a cartridge in the drive"
        self.cartridge = cartridge
        self.loaded, self.news, self.position = True, Reason.NEW_MEDIUM, 0

    def eject(self) -> Cartridge | None:
        """Take the cartridge out, and return it; None if there is none."""
        cartridge, self.cartridge = self.cartridge, None
        self.loaded, self.position = False, 0
        return cartridge

    def swap(self, cartridge: Cartridge) -> None:
        """Change the cartridge. A program that has the drive open is not asked."""
        self.eject()
        self.load(cartridge)

    def power_cycle(self) -> None:
        """Switch it off and on. The tape is then at its beginning; the next call gets an EIO."""
        self.news, self.position = Reason.RESET, 0

    def move(self, block: int) -> None:
        """Wind the tape to a block without a report, as another host or a program with sg can."""
        self.position = block

    def fail(self, operation: Operation, nth: int = 1, number: int = errno.EIO) -> None:
        """Make the nth `operation` from now fail, without doing anything.

        Args:
            operation: What fails. A "filemark" may also be one that a close or a rewind writes.
            nth: 1 for the next one.
            number: The error number. EIO of a write, a read, a filemark and so on is a medium
                error. Any other number comes from the host.
        """
        self._faults[operation] = _Fault(nth, number)

    # What it does for the driver

    def begin(self, operation: Operation) -> Cartridge:
        """The cartridge, if the drive can begin with this operation.

        Raises:
            DriveError: It cannot.
        """
        self._tell_news()
        if self.cartridge is None or not (self.loaded or operation in ("load", "unload")):
            raise DriveError(Reason.NOT_READY)
        if self.cartridge.protected and operation in ("write", "filemark", "erase"):
            raise DriveError(Reason.PROTECTED)
        self.fault(operation)
        return self.cartridge

    def write(self, record: bytes, block_size: int) -> None:
        """Write a record, or in fixed mode several; see `DriveError` for what goes wrong."""
        cartridge = self.begin("write")
        size = block_size or len(record)
        for start in range(0, len(record), size):
            if not cartridge.put(self.position, record[start : start + size]):
                raise DriveError(Reason.OVERFLOW, len(record) - start)
            self.position += 1
        if cartridge.warns:
            raise DriveError(Reason.EARLY_WARNING)

    def write_filemarks(self, count: int) -> None:
        """Write this many filemarks."""
        cartridge = self.begin("filemark")
        for left in range(count, 0, -1):
            if not cartridge.put(self.position, b""):
                raise DriveError(Reason.OVERFLOW, left)
            self.position += 1
        if count and cartridge.warns:
            raise DriveError(Reason.EARLY_WARNING)

    def read(self, count: int, block_size: int) -> bytes:
        """Read one block, or in fixed mode `count` of them."""
        cartridge = self.begin("read")
        data = b""
        for left in range(count if block_size else 1, 0, -1):
            if self.position in cartridge.bad:
                raise DriveError(Reason.MEDIUM, left, data)
            if self.position == len(cartridge.blocks):
                raise DriveError(Reason.BLANK, left, data)
            block = cartridge.blocks[self.position]
            self.position += 1
            if not block:
                raise DriveError(Reason.FILEMARK, left, data)
            if block_size and len(block) != block_size:
                raise DriveError(Reason.LENGTH, left, data)
            data += block
        return data

    def space(self, count: int, *, files: bool) -> None:
        """Go over `count` filemarks or records; backwards if it is negative."""
        blocks = self.begin("space").blocks
        step = 1 if count > 0 else -1
        left = abs(count)
        while left:
            if self.position == (len(blocks) if count > 0 else 0):
                raise DriveError(Reason.BLANK if count > 0 else Reason.BEGINNING, left)
            is_record = bool(blocks[min(self.position, self.position + step)])
            self.position += step
            if not is_record and not files:
                raise DriveError(Reason.FILEMARK, left)
            left -= is_record is not files

    def seek(self, block: int) -> None:
        """Go to a record, counted from the beginning of the tape."""
        end = len(self.begin("seek").blocks)
        self.position = min(block, end)
        if block > end:
            raise DriveError(Reason.BLANK)

    def rewind(self) -> None:
        """Go to the beginning of the tape."""
        self.begin("rewind")
        self.position = 0

    def erase(self) -> None:
        """Erase everything from here on."""
        self.begin("erase").cut(self.position)

    def load_or_unload(self, *, load: bool) -> None:
        """Thread the tape, or unthread it."""
        self.begin("load" if load else "unload")
        self.loaded, self.position = load, 0

    def set_block_size(self, size: int) -> None:
        """Use fixed mode, or variable mode with 0."""
        self._tell_news()
        self.block_size = size

    def _tell_news(self) -> None:
        news, self.news = self.news, None
        if news is not None:
            self.remember(news)
            raise DriveError(news)

    def remember(self, news: Reason | None) -> None:
        """Report a reset to the driver."""
        if news is Reason.RESET and self.resets is not Resets.FORGOTTEN:
            self.memory.position_unknown = True

    def fault(self, operation: Operation) -> None:
        """Fail if `fail` was called for this.

        Raises:
            DriveError: The medium is bad here.
            OSError: The host fails.
        """
        fault = self._faults.get(operation)
        if fault is None:
            return
        fault.due -= 1
        if fault.due == 0:
            del self._faults[operation]
            if fault.number == errno.EIO and operation not in ("open", "status", "close"):
                raise DriveError(Reason.MEDIUM)
            raise _error(fault.number)


class _Doing(Enum):
    NOTHING = auto()
    READING = auto()
    WRITING = auto()


# Before these, the driver does not step back over what it read in advance.
_LEAVING = frozenset(
    {
        Command.REWIND,
        Command.EJECT,
        Command.END_OF_DATA,
        Command.LOAD,
        Command.FORWARD_FILES,
        Command.BACKWARD_FILES,
        Command.SEEK,
    }
)
# If the driver remembers a reset, only these are allowed after it.
_FIND_PLACE = frozenset(
    {Command.REWIND, Command.EJECT, Command.ERASE, Command.SEEK, Command.END_OF_DATA, Command.LOAD}
)
# After a write, these write a filemark first.
_ENDS_FILE = frozenset({Command.REWIND, Command.EJECT, Command.SEEK, Command.BACKWARD_FILES})
_ALL_FILES = 0x7FFFFF


class FakeDevice(TapeDevice):
    """The driver, while it has the drive open; see `FakeDrive.open`."""

    def __init__(self, drive: FakeDrive, *, read_only: bool) -> None:
        self._drive = drive
        self._memory = drive.memory
        self._read_only = read_only
        self._write_protected = read_only
        self._doing = _Doing.NOTHING
        # The record that was taken but whose fate was not reported: what the drive said to it.
        self._pending: list[DriveError | None] = []
        # The rest of a block of which a read took only a part.
        self._rest = b""
        self._ready = False
        self._block_size = 0
        self._density = 0
        self._commands: dict[Command, Callable[[int], None]] = {
            Command.FORWARD_FILES: self._forward_files,
            Command.BACKWARD_FILES: self._backward_files,
            Command.FORWARD_RECORDS: self._forward_records,
            Command.BACKWARD_RECORDS: self._backward_records,
            Command.WRITE_FILEMARKS: self._write_filemarks,
            Command.REWIND: self._rewind,
            Command.EJECT: lambda _: self._load(load=False),
            Command.LOAD: lambda _: self._load(load=True),
            Command.END_OF_DATA: self._end_of_data,
            Command.ERASE: self._erase,
            Command.SET_BLOCK_SIZE: self._set_block_size,
            Command.SEEK: self._seek,
        }
        self._look()
        drive.in_use = True

    @override
    def write(self, record: memoryview) -> int:
        if self._read_only:
            raise _error(errno.EBADF)
        self._check_transfer(len(record))
        if not record:
            return 0
        memory = self._memory
        if self._block_size and len(record) % self._block_size:
            raise _error(errno.EINVAL)
        if self._write_protected:
            raise _error(errno.EACCES)
        if self._doing is _Doing.READING:
            self._flush()
            self._doing = _Doing.WRITING
        late = self._settle()
        if late:
            memory.mark = Mark.END_OF_TAPE if late == errno.ENOSPC else Mark.WRITE_LOST
        if memory.mark is Mark.END_OF_TAPE:
            memory.mark = Mark.WRITE_REFUSED
            raise _error(errno.ENOSPC)
        if memory.mark is Mark.WRITE_LOST:
            raise _error(errno.EIO)
        self._doing = _Doing.WRITING
        self._check_host(len(record))
        behind = self._drive.write_behind and not self._block_size
        if behind and memory.mark < Mark.END_OF_TAPE:
            self._pending.append(self._attempt(record))
            return len(record)
        return self._write_through(record)

    def _attempt(self, record: memoryview) -> DriveError | None:
        try:
            self._drive.write(bytes(record), self._block_size)
        except DriveError as answer:
            return answer.with_traceback(None)  # its frames would keep the record in memory
        return None

    def _write_through(self, record: memoryview) -> int:
        memory, done = self._memory, len(record)
        answer = self._attempt(record)
        if answer is None:
            refused = memory.mark in (Mark.WRITE_REFUSED, Mark.END_OF_TAPE)
            memory.mark = Mark.END_OF_TAPE if refused else Mark.NOTHING
        elif answer.reason in (Reason.EARLY_WARNING, Reason.OVERFLOW):
            memory.mark = Mark.END_OF_TAPE
            done -= answer.left
        else:
            memory.block = -1
            raise _error(errno.EIO)
        if not done:
            raise _error(errno.ENOSPC)
        self._advance(done // self._block_size if self._block_size else 1)
        return done

    @override
    def readinto(self, buffer: memoryview) -> int:
        if not buffer:
            return 0
        self._check_transfer(len(buffer))
        memory = self._memory
        if self._doing is _Doing.WRITING:
            self._flush()
            self._doing = _Doing.READING
        if not self._rest and memory.mark >= Mark.WRITE_REFUSED:
            if memory.mark is Mark.END_OF_DATA:
                raise _error(errno.EIO)
            memory.mark = Mark(memory.mark + 1)
            return 0
        self._doing = _Doing.READING
        self._check_host(len(buffer))
        data = self._read_fixed(len(buffer)) if self._block_size else self._read_one(len(buffer))
        buffer[: len(data)] = data
        if data:
            if memory.mark is Mark.FILEMARK:
                memory.mark = Mark.NOTHING
        elif memory.mark is Mark.FILEMARK_AHEAD:
            memory.mark = Mark.FILEMARK
            memory.block = 0
            self._next_file()
        elif memory.mark is Mark.END_OF_DATA_TOLD:
            memory.mark = Mark.END_OF_DATA
        return len(data)

    def _read_one(self, size: int) -> bytes:
        try:
            data = self._drive.read(1, 0)
        except DriveError as answer:
            self._read_stopped(answer)
            return b""
        self._advance(1)
        if len(data) > size:
            raise _error(errno.ENOMEM)
        return data

    def _read_fixed(self, size: int) -> bytes:
        data, self._rest = self._rest, b""
        stopped = self._memory.mark is Mark.FILEMARK_AHEAD
        while len(data) < size and not stopped:
            blocks = max((size - len(data)) // self._block_size, 1)
            try:
                more = self._drive.read(blocks, self._block_size)
            except DriveError as answer:
                # At the end of data, what had been read is lost.
                more = b"" if answer.reason is Reason.BLANK else answer.data
                stopped = True
                if answer.reason is Reason.LENGTH:
                    self._drive.space(-1, files=False)
                    self._memory.mark = Mark.NOTHING
                    if not more:
                        raise _error(errno.EIO) from None
                else:
                    self._read_stopped(answer)
            self._advance(len(more) // self._block_size)
            data += more
        self._rest = data[size:]
        return data[:size]

    def _read_stopped(self, answer: DriveError) -> None:
        memory = self._memory
        if answer.reason is Reason.FILEMARK:
            memory.mark = Mark.FILEMARK_AHEAD
            return
        memory.block = -1
        if answer.reason is not Reason.BLANK or memory.mark is not Mark.FILEMARK:
            raise _error(errno.EIO)
        memory.mark = Mark.END_OF_DATA_TOLD

    @override
    def command(self, command: Command, count: int = 1) -> None:
        memory = self._memory
        if memory.position_unknown:
            self._find_place(command)
        elif memory.mark is Mark.FILEMARK_AHEAD:
            if command in (Command.FORWARD_FILES, Command.END_OF_DATA):
                count -= 1
                self._next_file()
            elif command is Command.BACKWARD_FILES:
                count += 1
                self._next_file()
        self._flush(leaving=command in _LEAVING)
        if self._doing is _Doing.WRITING and command in _ENDS_FILE:
            self._write_filemarks(1)
            count += command is Command.BACKWARD_FILES
        if command is not Command.SET_BLOCK_SIZE:
            self._doing = _Doing.NOTHING
        if not self._ready and command is not Command.LOAD:
            raise _error(errno.EIO if command is Command.SEEK else errno.ENOMEDIUM)
        self._commands[command](count)

    def _find_place(self, command: Command) -> None:
        refused = self._drive.resets is Resets.STATUS_REFUSED and command is Command.LOAD
        if command not in _FIND_PLACE or refused:
            raise _error(errno.EIO)
        self._memory.position_unknown = False
        self._memory.forget_place()
        self._doing = _Doing.NOTHING

    def _forward_files(self, count: int) -> None:
        memory = self._memory
        try:
            self._drive.space(count, files=True)
        except DriveError as answer:
            if memory.file >= 0:
                memory.file += count - answer.left
            memory.block = -1
            memory.mark = _mark_after(answer)
            raise _error(errno.EIO) from None
        if memory.file >= 0:
            memory.file += count
        memory.block = 0
        memory.mark = Mark.FILEMARK

    def _backward_files(self, count: int) -> None:
        memory = self._memory
        memory.mark = Mark.NOTHING
        try:
            self._drive.space(-count, files=True)
        except DriveError as answer:
            if memory.file >= 0:
                memory.file += answer.left - count
            memory.block = 0
            raise _error(errno.EIO) from None
        if memory.file >= 0:
            memory.file -= count
        memory.block = -1

    def _forward_records(self, count: int) -> None:
        memory = self._memory
        try:
            self._drive.space(count, files=False)
        except DriveError as answer:
            if answer.reason is Reason.FILEMARK:
                memory.block = 0
                memory.mark = Mark.FILEMARK
                self._next_file()
            else:
                done = count - answer.left
                memory.block = memory.block + done if memory.block >= 0 else -1
                memory.mark = _mark_after(answer)
            raise _error(errno.EIO) from None
        memory.mark = Mark.NOTHING
        self._advance(count)

    def _backward_records(self, count: int) -> None:
        memory = self._memory
        memory.mark = Mark.NOTHING
        try:
            self._drive.space(-count, files=False)
        except DriveError as answer:
            if answer.reason is Reason.FILEMARK:
                memory.file -= 1
                memory.block = -1
            elif memory.block >= 0 or answer.reason is Reason.BEGINNING:
                memory.block = (memory.block - count if memory.block >= 0 else -1) + answer.left
            raise _error(errno.EIO) from None
        self._advance(-count)

    def _write_filemarks(self, count: int) -> None:
        memory = self._memory
        if self._write_protected:
            raise _error(errno.EACCES)
        memory.mark = Mark.NOTHING
        try:
            self._drive.write_filemarks(count)
        except DriveError as answer:
            if answer.reason is Reason.OVERFLOW:
                memory.block = 0
                self._next_file(count - answer.left)
                if answer.left == count:
                    memory.mark = Mark.END_OF_TAPE
            if answer.reason is not Reason.EARLY_WARNING:
                raise _error(errno.EIO) from None
        self._next_file(count)
        memory.block = 0
        self._doing = _Doing.NOTHING

    def _rewind(self, _: int) -> None:
        memory = self._memory
        memory.mark = Mark.NOTHING
        _as_eio(self._drive.rewind)
        memory.file = memory.block = 0

    def _end_of_data(self, _: int) -> None:
        if self._drive.fast_eod:
            self._to_end_of_data()
            return
        # The driver looks for more files than a tape holds, to count them.
        try:
            self._forward_files(_ALL_FILES)
        except OSError as e:
            if self._memory.mark is Mark.END_OF_DATA:
                return
            if e.errno != errno.EIO:
                raise
        # It did not get that far, as after a reset: then without counting, and with a wrong number.
        file = self._memory.file
        self._to_end_of_data()
        self._memory.file = file

    def _to_end_of_data(self) -> None:
        self._memory.file = self._memory.block = -1
        self._memory.mark = Mark.END_OF_DATA
        try:
            cartridge = self._drive.begin("space")
        except DriveError:
            raise _error(errno.EIO) from None
        self._drive.position = len(cartridge.blocks)

    def _erase(self, _: int) -> None:
        if self._write_protected:
            raise _error(errno.EACCES)
        self._memory.mark = Mark.NOTHING
        _as_eio(self._drive.erase)

    def _set_block_size(self, size: int) -> None:
        if size > self._drive.largest_block:
            raise _error(errno.EINVAL)
        _as_eio(lambda: self._drive.set_block_size(size))
        self._block_size = size

    def _seek(self, block: int) -> None:
        memory = self._memory
        memory.file = memory.block = -1
        memory.mark = Mark.NOTHING
        _as_eio(lambda: self._drive.seek(block))
        if block == 0:
            memory.file = memory.block = 0

    def _load(self, *, load: bool) -> None:
        try:
            self._drive.load_or_unload(load=load)
        except DriveError:
            self._memory.file = self._memory.block = -1
            raise _error(errno.EIO) from None
        if load:
            self._look()
        else:
            self._ready = False

    @override
    def status(self) -> DeviceStatus:
        self._drive.fault("status")
        memory = self._memory
        if not memory.position_unknown or self._drive.resets is Resets.STATUS_REFUSED:
            self._flush()
        if memory.position_unknown and self._ready:
            memory.forget_place()
            self._doing = _Doing.NOTHING
        flags = Flag(0)
        if memory.protected:
            flags |= Flag.WRITE_PROTECTED
        if memory.block == 0:
            flags |= Flag.BEGINNING if memory.file == 0 else Flag.FILEMARK
        if memory.mark in (Mark.END_OF_TAPE, Mark.WRITE_LOST):
            flags |= Flag.END_OF_TAPE
        elif memory.mark > Mark.WRITE_LOST:
            flags |= Flag.END_OF_DATA
        flags |= Flag.ONLINE if self._ready else Flag.NO_MEDIUM
        return DeviceStatus(flags, memory.file, memory.block, self._block_size, self._density)

    @override
    def position(self) -> int:
        self._flush()
        if not self._ready:
            raise _error(errno.EIO)
        _as_eio(lambda: self._drive.begin("position"))
        if self._drive.position == 0:
            self._memory.file = self._memory.block = 0
        return self._drive.position

    @override
    def close(self) -> None:
        if not self._drive.in_use:
            return
        try:
            if self._doing is _Doing.WRITING and not self._memory.position_unknown:
                self._end_file()
            else:
                self._flush()
            self._drive.fault("close")
        finally:
            self._drive.in_use = False

    def _end_file(self) -> None:
        late = self._settle()
        if late not in (0, errno.ENOSPC):
            raise _error(late)
        mark = self._memory.mark
        try:
            self._write_filemarks(1)
            mark = Mark.FILEMARK
        finally:
            self._memory.mark = mark
        if late:
            raise _error(late)

    def _look(self) -> None:
        """See what lies in the drive; the driver does so when it opens or loads, and never else."""
        drive, memory = self._drive, self._memory
        news, drive.news = drive.news, None
        self._ready = drive.cartridge is not None and drive.loaded
        if not self._ready or drive.cartridge is None:
            memory.file = memory.block = -1
            self._block_size = self._density = 0
            self._write_protected = False
            drive.remember(news)
            return
        if news:
            memory.file = memory.block = 0
            memory.mark = Mark.NOTHING
            memory.position_unknown = False
        memory.protected = drive.cartridge.protected
        self._write_protected |= memory.protected
        self._block_size = drive.block_size
        self._density = DENSITY

    def _check_transfer(self, size: int) -> None:
        if not self._ready:
            raise _error(errno.ENOMEDIUM)
        if self._memory.position_unknown:
            raise _error(errno.EIO)
        if not self._block_size and size > self._drive.largest_block:
            raise _error(errno.EINVAL)

    def _check_host(self, size: int) -> None:
        if self._drive.host_limit is not None and size > self._drive.host_limit:
            self._memory.block = -1
            raise _error(errno.EBUSY)

    def _settle(self) -> int:
        """The error number of the pending record, or 0."""
        if not self._pending:
            return 0
        answer = self._pending.pop()
        self._advance(1)
        if answer is None:
            return 0
        if answer.reason is Reason.EARLY_WARNING:
            return errno.ENOSPC
        self._memory.block = -1
        return errno.EIO

    def _flush(self, *, leaving: bool = False) -> None:
        """Bring the tape to where the caller believes it to be."""
        memory = self._memory
        if not self._ready:
            return
        if memory.position_unknown:
            raise _error(errno.EIO)
        if self._doing is _Doing.WRITING:
            late = self._settle()
            if late:
                raise _error(late)
            return
        self._rest = b""
        if memory.mark is Mark.FILEMARK_AHEAD:
            memory.mark = Mark.NOTHING
            if leaving:
                self._next_file()
                memory.block = 0
            else:
                _as_eio(lambda: self._drive.space(-1, files=True))

    def _advance(self, blocks: int) -> None:
        if self._memory.block >= 0:
            self._memory.block += blocks

    def _next_file(self, count: int = 1) -> None:
        if self._memory.file >= 0:
            self._memory.file += count


def _mark_after(answer: DriveError) -> Mark:
    return Mark.END_OF_DATA if answer.reason is Reason.BLANK else Mark.NOTHING


def _as_eio(function: Callable[[], object]) -> None:
    try:
        function()
    except DriveError:
        raise _error(errno.EIO) from None


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
