"""The tape driver of Linux, `st`, and what a stand-in for it must do.

Numbers and structures are those of `<linux/mtio.h>`; what the calls do is told in the kernel's
Documentation/scsi/st.rst.
"""

from __future__ import annotations

import fcntl
import os
import struct
from abc import abstractmethod
from enum import IntEnum, IntFlag
from typing import NamedTuple, Protocol


class Command(IntEnum):
    """The operations of the MTIOCTOP ioctl."""

    FORWARD_FILES = 1
    BACKWARD_FILES = 2
    FORWARD_RECORDS = 3
    BACKWARD_RECORDS = 4
    WRITE_FILEMARKS = 5
    REWIND = 6
    EJECT = 7
    END_OF_DATA = 12
    ERASE = 13
    SET_BLOCK_SIZE = 20
    SEEK = 22
    LOAD = 30


class Flag(IntFlag):
    """The general status of the MTIOCGET ioctl."""

    FILEMARK = 0x80000000
    BEGINNING = 0x40000000
    END_OF_TAPE = 0x20000000
    END_OF_DATA = 0x08000000
    WRITE_PROTECTED = 0x04000000
    ONLINE = 0x01000000
    NO_MEDIUM = 0x00040000


class DeviceStatus(NamedTuple):
    """What the driver tells at once, without asking the drive.

    Attributes:
        flags: The general status.
        file: Number of the tape file, from 0; -1 when the driver has lost count.
        block: Number of the block in the file; -1 when the driver has lost count.
        block_size: Size of all blocks in bytes; 0 in variable mode.
        density: Density code of the medium.
    """

    flags: Flag
    file: int
    block: int
    block_size: int
    density: int


class TapeDevice(Protocol):
    """One open tape device. Every method raises OSError, with the numbers that `st` uses."""

    @abstractmethod
    def write(self, record: memoryview) -> int:
        """Write one block, or in fixed mode whole blocks; how many bytes are on tape."""
        ...

    @abstractmethod
    def readinto(self, buffer: memoryview) -> int:
        """Read one block, or in fixed mode as many as fit; 0 at a filemark."""
        ...

    @abstractmethod
    def command(self, command: Command, count: int = 1) -> None:
        """Do what MTIOCTOP does."""
        ...

    @abstractmethod
    def status(self) -> DeviceStatus:
        """Do what MTIOCGET does."""
        ...

    @abstractmethod
    def position(self) -> int:
        """Do what MTIOCPOS does: the logical block number, in which a filemark counts too."""
        ...

    @abstractmethod
    def close(self) -> None:
        """Close it; after a write this writes a filemark, and may fail."""
        ...


_OPERATION = struct.Struct("@hi")
_STATUS = struct.Struct("@lllllii")
_POSITION = struct.Struct("@l")


def _request(number: int, size: int, *, write: bool) -> int:
    """The number of an ioctl, as `_IOW` and `_IOR` of <asm-generic/ioctl.h> make it."""
    return (1 if write else 2) << 30 | size << 16 | ord("m") << 8 | number


_MTIOCTOP = _request(1, _OPERATION.size, write=True)
_MTIOCGET = _request(2, _STATUS.size, write=False)
_MTIOCPOS = _request(3, _POSITION.size, write=False)


class StDevice(TapeDevice):
    """A device of the `st` driver.

    Opened without waiting: the driver would wait two minutes for a cartridge.

    Args:
        path: Of the device, such as "/dev/nst0".
        read_only: True to open a write-protected cartridge.
    """

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        access = os.O_RDONLY if read_only else os.O_RDWR
        self._fd = os.open(path, access | os.O_NONBLOCK | os.O_CLOEXEC)

    def write(self, record: memoryview) -> int:
        """See `TapeDevice`."""
        return os.write(self._fd, record)

    def readinto(self, buffer: memoryview) -> int:
        """See `TapeDevice`."""
        return os.readv(self._fd, [buffer])

    def command(self, command: Command, count: int = 1) -> None:
        """See `TapeDevice`."""
        fcntl.ioctl(self._fd, _MTIOCTOP, _OPERATION.pack(command, count))

    def status(self) -> DeviceStatus:
        """See `TapeDevice`."""
        answer = fcntl.ioctl(self._fd, _MTIOCGET, bytes(_STATUS.size))
        _, _, registers, general, _, file, block = _STATUS.unpack(answer)
        return DeviceStatus(
            Flag(general & _ALL_FLAGS),
            file,
            block,
            block_size=registers & 0xFFFFFF,
            density=registers >> 24 & 0xFF,
        )

    def position(self) -> int:
        """See `TapeDevice`."""
        answer = fcntl.ioctl(self._fd, _MTIOCPOS, bytes(_POSITION.size))
        return int(_POSITION.unpack(answer)[0])

    def close(self) -> None:
        """See `TapeDevice`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_ALL_FLAGS = sum(Flag)
