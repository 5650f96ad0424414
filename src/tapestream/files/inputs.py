"""What a tar is read from: a file, a fifo, a pipe, "-", or any file object."""

from __future__ import annotations

import io
import os
import stat
import sys
from abc import abstractmethod
from functools import partial
from typing import Protocol, cast

from .._typing import override
from ..errors import IncompleteStreamError, LocalIOError, UsageError
from ..model.extents import MAX_OFFSET
from ..tar.medium import InputMedium, VolumeId
from .descriptors import OpenFile, as_local_error, check_was_open, own_copy
from .locks import lock_shared
from .objects import BorrowedFile, check_object, leave_buffer, name_of, plain_file


class BinaryInput(Protocol):
    """A file object to read from."""

    def read(self, n: int, /) -> bytes | None:
        """Return up to `n` bytes; no bytes at the end."""


class PlainInput(InputMedium):
    """A medium of one volume. If its `start` is None, it can be read only once."""

    name = ""

    def __init__(self, name: str, start: int | None) -> None:
        self.name = name
        self._start = start

    @abstractmethod
    def _seek(self, offset: int, whence: int) -> int:
        """Go to a place in the file, and return its offset in the file."""

    @override
    def rewind(self) -> None:
        if self._start is None:
            raise UsageError(
                f"{self.name} can be read only once",
                hint="Restore from a file or a tape, or without verify_first.",
            )
        try:
            self._seek(self._start, os.SEEK_SET)
        except LocalIOError:
            raise
        except Exception as e:
            raise LocalIOError(f"cannot read {self.name} from its beginning", e) from e

    @override
    def skip_unreadable(self, length: int) -> int:
        if self._start is None:
            return 0
        try:
            here = self._seek(0, os.SEEK_CUR)
            there = min(here + length - here % length, self._seek(0, os.SEEK_END))
            self._seek(there, os.SEEK_SET)
        except Exception:  # noqa: BLE001 - the error that led here is the one to raise
            return 0
        return there - here

    @override
    def check_position(self) -> None:
        """Do nothing: nobody else moves the position."""

    @override
    def next_volume(self, volume: VolumeId) -> None:
        raise IncompleteStreamError(
            f"{self.name}: the backup continues on volume {volume.number}",
            hint="Restore it from the tapes that it was written to.",
        )


class DescriptorInput(PlainInput):
    """Reads an open file.

    Args:
        file: The file, which is closed at the end.
        before: Bytes that were already read from the file. They come first.
    """

    def __init__(self, file: OpenFile, before: bytes = b"") -> None:
        super().__init__(file.name, file.start)
        self._file = file
        self._before = before

    @override
    def readinto(self, buffer: memoryview) -> int:
        if self._before:
            count = min(len(self._before), len(buffer))
            buffer[:count], self._before = self._before[:count], self._before[count:]
            return count
        try:
            return self._file.readinto(buffer)
        except OSError as e:
            raise LocalIOError(f"cannot read {self.name}", e) from e

    @override
    def _seek(self, offset: int, whence: int) -> int:
        return os.lseek(self._file.fd, offset, whence)

    @override
    def peek(self, offset: int, length: int) -> bytes | None:
        if self._start is None:
            return None
        if self._start + offset + length > MAX_OFFSET:
            return b""  # no file is that long
        with as_local_error(f"cannot read {self.name}"):
            return os.pread(self._file.fd, length, self._start + offset)

    @override
    def cancel(self) -> None:
        self._file.cancel()

    @override
    def close(self) -> None:
        self._file.close()


class ObjectInput(PlainInput):
    """Reads a file object of the caller by its methods, and leaves it open."""

    def __init__(self, file: BinaryInput) -> None:
        super().__init__(name_of(file), _tell(file))
        self._file = file
        # readinto() of a BufferedReader reads several times: an error would lose the earlier reads.
        one_read = isinstance(file, io.BufferedReader)
        readinto = getattr(file, "readinto1" if one_read else "readinto", None)
        self._readinto = readinto or partial(_read_into, file)

    @override
    def readinto(self, buffer: memoryview) -> int:
        try:
            count: int | None = self._readinto(buffer)
        except EOFError as e:  # what gzip and its like raise for a file that was cut
            raise IncompleteStreamError(f"{self.name} ends too early: {e}") from e
        except Exception as e:
            raise LocalIOError(f"cannot read {self.name}", e) from e
        if count is None:
            raise UsageError(f"{self.name} must be in blocking mode")
        return count

    @override
    def _seek(self, offset: int, whence: int) -> int:
        return cast(io.IOBase, self._file).seek(offset, whence)

    @override
    def peek(self, offset: int, length: int) -> None:
        """Return None: a GzipFile, for example, would have to unpack everything before it."""

    @override
    def cancel(self) -> None:
        """Do nothing: a call of a file object cannot be interrupted."""

    @override
    def close(self) -> None:
        """Do nothing: the caller closes it."""


def open_input(target: str | os.PathLike[str] | BinaryInput) -> InputMedium:
    """Open what a tar is read from.

    Args:
        target: A path, "-" for standard input, or a binary file object, which stays the
            caller's to close. Reading a fifo waits for a writer.

    Raises:
        LocalIOError: It cannot be opened.
        UsageError: It is neither a path nor an open binary file object.
    """
    if not isinstance(target, (str, os.PathLike)):
        return _open_object(target)
    if target == "-":
        with as_local_error("cannot open standard input"):
            check_was_open(sys.__stdin__)
            file = own_copy(0)
        return DescriptorInput(OpenFile(file, "standard input"))
    name = os.fspath(target)
    with as_local_error(f"cannot open {name}"):
        file = io.FileIO(name, "rb", opener=_open_without_waiting)
    lock_shared(file.fileno())
    return DescriptorInput(OpenFile(file, name))


def _open_without_waiting(name: str, flags: int) -> int:
    """Open a file. For a fifo, `OpenFile` waits for the writer, because that can be cancelled."""
    is_fifo = stat.S_ISFIFO(os.stat(name).st_mode)
    return os.open(name, flags | os.O_NONBLOCK if is_fifo else flags)


def _open_object(target: BinaryInput) -> InputMedium:
    check_object(target, "read")
    file = plain_file(target)
    if file is None:
        return ObjectInput(target)
    name = name_of(file)
    with as_local_error(f"cannot open {name}"):
        borrowed = BorrowedFile(file)
        before = leave_buffer(file)
    return DescriptorInput(OpenFile(borrowed, name, borrowed.give_back), before)


def _read_into(file: BinaryInput, buffer: memoryview) -> int | None:
    data = file.read(len(buffer))
    if data is None:
        return None
    buffer[: len(data)] = data
    return len(data)


def _tell(file: BinaryInput) -> int | None:
    """The position of a file object; None if it cannot go back there later."""
    try:
        return int(file.tell()) if file.seekable() else None  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return None
