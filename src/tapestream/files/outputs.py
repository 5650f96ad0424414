"""What a tar is written to: a file, a fifo, a pipe, a device, "-", or any file object."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import time
from abc import abstractmethod
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, cast

from .._typing import override
from ..backend.checks import done
from ..cancel import Cancel
from ..errors import BackendError, LocalIOError, UsageError
from ..tar.medium import OutputMedium, VolumeId
from .atomic import AtomicFile
from .descriptors import (
    OpenFile,
    as_local_error,
    check_was_open,
    close_file,
    is_pipe,
    is_storage,
    may_block,
    own_copy,
)
from .formats import format_at
from .objects import BorrowedFile, check_object, leave_buffer, name_of, plain_file

# Bytes. Small writes are gathered up to this. Data of half of this or more is written uncopied.
GATHER_SIZE = 1024**2
# Seconds between two attempts to open a fifo.
WAKE_UP = 0.05


class BinaryOutput(Protocol):
    """A file object to write to.

    If it also has the methods `commit()` and `abort()`, one of them is called at the end; see
    `TarStreamSink`.
    """

    def write(self, data: memoryview, /) -> int | None:
        """Write data, and return how many bytes were written; None means all of them."""


class PlainOutput(OutputMedium):
    """A medium of one volume. Small writes are gathered. Nothing is kept for a second volume."""

    name = ""
    length = 0
    is_ending = False

    def __init__(self, name: str) -> None:
        self.name = name
        # Used again and again: new memory would cost more than the copy into it.
        self._gathered = memoryview(bytearray(GATHER_SIZE))
        self._filled = 0

    @override
    def write(self, data: memoryview | bytes) -> None:
        size = len(data)
        self.length += size
        if size >= GATHER_SIZE // 2:
            self.flush()
            self._write(memoryview(data))
            return
        if self._filled + size > GATHER_SIZE:
            self.flush()
        end = self._filled + size
        self._gathered[self._filled : end] = data
        self._filled = end

    @override
    def flush(self) -> None:
        filled, self._filled = self._filled, 0
        if filled:
            self._write(self._gathered[:filled])

    @override
    def boundary(self, start: int | None) -> None:
        """Keep nothing."""

    @override
    def next_volume(self, volume: VolumeId, left: int) -> None:
        raise LocalIOError(f"{self.name}: there is no further volume")

    @override
    def cancel(self) -> None:
        """Do nothing: a file system does not block for long, and a file object cannot be woken."""

    @override
    def commit(self) -> None:
        self.flush()
        self._finish()

    @abstractmethod
    def _write(self, data: memoryview) -> None:
        """Write all of it."""

    @abstractmethod
    def _finish(self) -> None:
        """Make what was written final."""


class DescriptorOutput(PlainOutput):
    """Writes an open file, and closes it at the end, so that the reader of a pipe sees the end."""

    def __init__(self, file: OpenFile) -> None:
        super().__init__(file.name)
        self._file = file

    @override
    def _write(self, data: memoryview) -> None:
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as e:
            raise _cannot_write(self.name, e) from e

    @override
    def cancel(self) -> None:
        self._file.cancel()

    @override
    def _finish(self) -> None:
        with as_local_error(f"cannot finish {self.name}"):
            self._file.finish()

    @override
    def abort(self) -> None:
        self._file.close()


class FileOutput(DescriptorOutput):
    """Writes a regular file, which gets its name only when it is complete."""

    def __init__(self, path: str) -> None:
        self._atomic = AtomicFile(path)
        super().__init__(OpenFile(self._atomic.file, path, self._atomic.abort))

    @override
    def _finish(self) -> None:
        self._atomic.commit()


class ObjectOutput(PlainOutput):
    """Writes to a file object of the caller with its methods, and leaves it open.

    If it has both `commit` and `abort`, one of them is called at the end. If it has only one of
    them, as the files of fsspec do, that one means something else.
    """

    def __init__(self, file: BinaryOutput) -> None:
        super().__init__(name_of(file))
        self._file = file
        self._ends = all(callable(getattr(file, name, None)) for name in ("commit", "abort"))

    @override
    def _write(self, data: memoryview) -> None:
        while data:
            try:
                written = self._file.write(data)
            except Exception as e:
                raise _cannot_write(self.name, e) from e
            if written is None and not isinstance(self._file, io.RawIOBase):
                return
            if not written:  # a raw file returns None if it is not ready
                raise UsageError(f"{self.name} takes no data: it must be in blocking mode")
            data = data[written:]

    @override
    def _finish(self) -> None:
        """Flush the file object, fsync its file if it has a descriptor, and call its `commit`."""
        file = cast(Any, self._file)
        try:
            if hasattr(file, "flush"):
                file.flush()
            if hasattr(file, "fileno"):
                with suppress(io.UnsupportedOperation):
                    fd = file.fileno()
                    if is_storage(fd):
                        os.fsync(fd)
            if self._ends:
                done(file, "commit")
        except BackendError:
            raise
        except Exception as e:
            raise LocalIOError(f"cannot finish {self.name}", e) from e

    @override
    def abort(self) -> None:
        """Call its `abort`. Even if that fails, a tar without a manifest does not look complete."""
        if self._ends:
            try:
                cast(Any, self._file).abort()
            except Exception as e:
                raise LocalIOError(f"cannot abort {self.name}", e) from e


def open_output(
    target: str | os.PathLike[str] | BinaryOutput, cancel: Cancel | None = None
) -> OutputMedium:
    """Open what a tar is written to.

    Args:
        target: A path, "-" for standard output, or a binary file object, which stays the
            caller's to close. Opening a fifo waits for a reader. A path that does not exist, or
            is a regular file, is written under a temporary name and renamed on commit.
        cancel: Ends the wait for the reader of a fifo.

    Raises:
        LocalIOError: It cannot be opened or created.
        UsageError: It is a directory or a terminal, holds an image in a known format, or is
            neither a path nor an open binary file object.
    """
    if not isinstance(target, (str, os.PathLike)):
        return _open_object(target)
    if target == "-":
        return _open_standard_output()
    name = os.fspath(target)
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        return FileOutput(name)
    except OSError as e:
        raise LocalIOError(f"cannot open {name}", e) from e
    found = format_at(name, streams=False)
    if found is not None:
        raise UsageError(
            f"{name} is {found}: its contents would be lost",
            hint="Pass another path for the tar, or remove what is there first.",
        )
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return FileOutput(name)
    return DescriptorOutput(_open_special(name, cancel))


def _open_special(name: str, cancel: Cancel | None) -> OpenFile:
    """Open a fifo, which waits for its reader, or a device."""
    with as_local_error(f"cannot open {name}"):
        if stat.S_ISFIFO(os.stat(name).st_mode):
            file = _open_fifo(name, cancel)
        else:
            file = io.FileIO(os.open(name, os.O_WRONLY | os.O_CLOEXEC), "wb")
    with as_local_error(f"cannot open {name}", partial(close_file, file, name)):
        # In blocking mode, a large write would not notice that it is cancelled.
        os.set_blocking(file.fileno(), not may_block(file.fileno()))
    return OpenFile(file, name)


def _open_fifo(name: str, cancel: Cancel | None) -> io.FileIO:
    """Wait for the reader of a fifo. A blocking open could not be cancelled."""
    while True:
        try:
            return io.FileIO(os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), "wb")
        except OSError as e:
            if e.errno != errno.ENXIO:  # nobody reads it yet
                raise
        if cancel is not None:
            cancel.check()
        time.sleep(WAKE_UP)


def _open_standard_output() -> OutputMedium:
    if os.isatty(1):
        raise UsageError("will not write a tar to a terminal: redirect standard output")
    name = "standard output"
    with as_local_error(f"cannot open {name}"):
        check_was_open(sys.__stdout__)
        if sys.stdout is not None:
            sys.stdout.flush()
        file = _reopened_pipe(1) or own_copy(1)
    return DescriptorOutput(OpenFile(file, name))


def _open_object(target: BinaryOutput) -> OutputMedium:
    check_object(target, "write")
    file = plain_file(target)
    if file is None:
        return ObjectOutput(target)
    name = name_of(file)
    with as_local_error(f"cannot open {name}"):
        leave_buffer(file)
        pipe = _reopened_pipe(file.fileno())
        if pipe is None:
            borrowed = BorrowedFile(file)
            return DescriptorOutput(OpenFile(borrowed, name, borrowed.give_back))
    return DescriptorOutput(OpenFile(pipe, name))


def _reopened_pipe(fd: int) -> io.FileIO | None:
    """Open a pipe a second time, in non-blocking mode, so that a blocked write can be cancelled.

    The mode belongs to the open file, not to the descriptor, and other processes may share the
    caller's open file. So it cannot be changed there.

    Returns:
        The new file. None if this is not a pipe, or if it cannot be opened again: there is no
        /proc, or the pipe belongs to another user.
    """
    if not is_pipe(fd):
        return None
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return io.FileIO(os.open(f"/proc/self/fd/{fd}", flags), "wb")
    except OSError:
        return None


def _cannot_write(name: str, error: Exception) -> LocalIOError:
    gone = isinstance(error, (BrokenPipeError, ConnectionResetError))
    hint = "The reader of the pipe ended: its exit status and messages say why." if gone else None
    return LocalIOError(f"cannot write {name}", error, hint=hint)
