"""Linux's tape driver, `st`, and the protocol that any replacement for it must follow.

Numbers and structures come from `<linux/mtio.h>`; the kernel's Documentation/scsi/st.rst says what
the calls do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, IntFlag
from typing import NamedTuple, Protocol

from .._log import Log
from .._process import OfThisProcess

log = Log("tapestream.tape")


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
    """The driver's status, which it reports without waiting for the drive.

    Attributes:
        flags: The general status.
        file: Number of the tape file, from 0; -1 when the driver has lost count.
        block: Number of the block in the file, from 0; -1 when the driver has lost count.
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
        """Write one block, or in fixed mode whole blocks; return how many bytes are on tape."""

    @abstractmethod
    def readinto(self, buffer: memoryview) -> int:
        """Read one block, or in fixed mode as many as fit; return their bytes, 0 at a filemark."""

    @abstractmethod
    def command(self, command: Command, count: int = 1) -> None:
        """Do what MTIOCTOP does."""

    @abstractmethod
    def status(self) -> DeviceStatus:
        """Do what MTIOCGET does."""

    @abstractmethod
    def position(self) -> int:
        """Do what MTIOCPOS does: the logical block number, in which a filemark counts too."""

    @abstractmethod
    def close(self) -> None:
        """Close the device. If something was written last, this writes a filemark, and may fail."""


_OPERATION = struct.Struct("@hi")
_STATUS = struct.Struct("@lllllii")
_POSITION = struct.Struct("@l")


def _request(number: int, size: int, *, write: bool) -> int:
    """The number of an ioctl, as `_IOW` and `_IOR` of <asm-generic/ioctl.h> make it."""
    return (1 if write else 2) << 30 | size << 16 | ord("m") << 8 | number


_MTIOCTOP = _request(1, _OPERATION.size, write=True)
_MTIOCGET = _request(2, _STATUS.size, write=False)
_MTIOCPOS = _request(3, _POSITION.size, write=False)


class StDevice(OfThisProcess, TapeDevice):
    """A device of the `st` driver.

    It is opened with O_NONBLOCK: otherwise the driver would wait two minutes for a cartridge.

    While it is open, no other program on this machine can open it, nor, if possible, the drive's
    SCSI generic device /dev/sgN: see `_keep_others_out`.

    Args:
        path: Path of the device, such as "/dev/nst0".
        read_only: True to open a write-protected cartridge.
    """

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        access = os.O_RDONLY if read_only else os.O_RDWR
        # Held during each call, so that `close` waits for it. Otherwise another file could get the
        # descriptor's number, and another thread's record would go into that file.
        self._lock = threading.Lock()
        self._fd = self._generic = -1
        try:
            self._fd = os.open(path, access | os.O_NONBLOCK | os.O_CLOEXEC)
            self._generic = _keep_others_out(os.fstat(self._fd).st_rdev)
        except BaseException:  # KeyboardInterrupt, too
            self.close()
            raise

    def write(self, record: memoryview) -> int:
        """See `TapeDevice`."""
        with self._open() as fd:
            return os.write(fd, record)

    def readinto(self, buffer: memoryview) -> int:
        """See `TapeDevice`."""
        with self._open() as fd:
            return os.readv(fd, [buffer])

    def command(self, command: Command, count: int = 1) -> None:
        """See `TapeDevice`."""
        with self._open() as fd:
            fcntl.ioctl(fd, _MTIOCTOP, _OPERATION.pack(command, count))

    def status(self) -> DeviceStatus:
        """See `TapeDevice`."""
        with self._open() as fd:
            answer = fcntl.ioctl(fd, _MTIOCGET, bytes(_STATUS.size))
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
        with self._open() as fd:
            answer = fcntl.ioctl(fd, _MTIOCPOS, bytes(_POSITION.size))
        return int(_POSITION.unpack(answer)[0])

    @contextmanager
    def _open(self) -> Iterator[int]:
        with self._lock:
            if self._fd < 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            yield self._fd

    def close(self) -> None:
        """See `TapeDevice`."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        generic, self._generic = self._generic, -1
        try:
            if fd >= 0:
                os.close(fd)
        finally:
            if generic >= 0:
                os.close(generic)


def _keep_others_out(tape: int) -> int:
    """Open the SCSI generic device of a drive, so that nobody else can; -1 if that fails.

    `st` allows only one program, but a program that opens /dev/sgN can rewind the tape, and `st`
    does not notice. O_EXCL keeps later openers out. It fails if the device is open already, if we
    may not write to it, or if there is none; and it does not keep out users of /dev/bsg or another
    host. So the position is checked all the same.

    MTLOCK is not used: it locks the drive's door, not the tape, and stays when a program is killed.

    Args:
        tape: Device number of the `st` device.
    """
    try:
        names = os.listdir(f"/sys/dev/char/{os.major(tape)}:{os.minor(tape)}/device/scsi_generic")
        flags = os.O_RDWR | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(f"/dev/{names[0]}", flags)
    except (OSError, IndexError) as e:
        log.debug("the drive's SCSI generic device stays open to others: %s", e)
        return -1


_ALL_FLAGS = sum(Flag)
