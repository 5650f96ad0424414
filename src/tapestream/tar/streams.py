"""The byte streams a tar travels through: file, fifo, pipe, "-", or any file object.

Strictly forward, both ways. A read or write that blocks in a pipe can be cancelled by another
thread; one inside a caller's file object cannot.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import stat
import sys
import threading
from typing import Protocol

from ..errors import IncompleteStreamError, LocalIOError, UsageError
from ..extents import MAX_OFFSET
from ..inuse import begin_reading
from ..partial import PartialFile

MIB = 1024**2


class BinaryInput(Protocol):
    """A file object to read from."""

    def read(self, n: int, /) -> bytes | None:
        """Return up to `n` bytes; none at the end."""
        ...


class BinaryOutput(Protocol):
    """A file object to write to."""

    def write(self, data: memoryview, /) -> int | None:
        """Write the data, and tell how much of it; None means all."""
        ...


class Input(Protocol):
    """Where a tar is read from."""

    name: str

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one byte; 0 at the end."""
        ...

    def rewind(self) -> None:
        """Go back to where it began.

        Raises:
            UsageError: It can be read only once.
        """
        ...

    def pass_over(self, length: int) -> int:
        """Go on behind a place that could not be read.

        Args:
            length: About how many bytes to give up.

        Returns:
            How many bytes were given up; 0 where it is not possible.
        """
        ...

    def peek(self, offset: int, length: int) -> bytes | None:
        """The bytes that lie `offset` behind where it began; None where that cannot be told."""
        ...

    def cancel(self) -> None:
        """Make a read that blocks, now or later, fail."""

    def close(self) -> None:
        """Close what this opened itself."""


class Output(Protocol):
    """Where a tar is written to."""

    name: str

    def write(self, data: memoryview) -> None:
        """Write all of it."""
        ...

    def cancel(self) -> None:
        """Make a write that blocks, now or later, fail."""

    def commit(self) -> None:
        """Make what was written final."""

    def abort(self) -> None:
        """Leave nothing that looks complete, where that is possible."""


class _Cancel:
    """A flag that a thread blocked in poll() notices."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # nothing is written to what is being closed
        self._read, self._write = os.pipe2(os.O_CLOEXEC)
        self._is_set = False

    def set(self) -> None:
        with self._lock:
            if self._write >= 0 and not self._is_set:
                self._is_set = True
                os.write(self._write, b"x")

    def wait(self, fd: int, event: int) -> None:
        """Block until `fd` is ready, or fail when cancelled."""
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self._read, select.POLLIN)
        if any(ready == self._read for ready, _ in poll.poll()):
            raise LocalIOError("cancelled")

    def close(self) -> None:
        with self._lock:
            if self._write >= 0:
                os.close(self._read)
                os.close(self._write)
                self._read = self._write = -1


def _cancel_of(fd: int, name: str, *, close: bool) -> _Cancel:
    try:
        return _Cancel()
    except OSError as e:
        if close:
            os.close(fd)
        raise LocalIOError(f"cannot open {name}", e) from e


class DescriptorInput:
    """Reads a file descriptor, after what was read from it before.

    Raises:
        LocalIOError: There is no other descriptor left, which it needs; a descriptor that is to
            be closed is closed.
    """

    def __init__(self, fd: int, name: str, *, close: bool, before: bytes = b"") -> None:
        self.name = name
        self._before = before
        self._fd = fd
        self._close = close
        self._cancel = _cancel_of(fd, name, close=close)
        self._may_block = _may_block(fd)
        if self._may_block:
            _widen_pipe(fd)
        self._start = _offset(fd)

    def readinto(self, buffer: memoryview) -> int:
        """See `Input`."""
        if self._before:
            count = min(len(self._before), len(buffer))
            buffer[:count], self._before = self._before[:count], self._before[count:]
            return count
        try:
            if self._may_block:
                self._cancel.wait(self._fd, select.POLLIN)
            return os.readv(self._fd, [buffer])
        except OSError as e:
            raise LocalIOError(f"cannot read {self.name}", e) from e

    def rewind(self) -> None:
        """See `Input`: a regular file can."""
        if self._start is None:
            raise _read_once(self.name)
        os.lseek(self._fd, self._start, os.SEEK_SET)

    def pass_over(self, length: int) -> int:
        """See `Input`: a regular file can."""
        if self._start is None:
            return 0
        here = os.lseek(self._fd, 0, os.SEEK_CUR)
        there = min(here + length - here % length, os.lseek(self._fd, 0, os.SEEK_END))
        os.lseek(self._fd, there, os.SEEK_SET)
        return there - here

    def peek(self, offset: int, length: int) -> bytes | None:
        """See `Input`: a regular file can."""
        return None if self._start is None else _peek(self, self._fd, self._start + offset, length)

    def cancel(self) -> None:
        """See `Input`."""
        self._cancel.set()

    def close(self) -> None:
        """See `Input`."""
        self._cancel.close()
        if self._close and self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class ObjectInput:
    """Reads a caller's file object, and leaves it open."""

    def __init__(self, file: BinaryInput) -> None:
        self.name = _name_of(file)
        self._file = file
        self._start = _tell(file)

    def readinto(self, buffer: memoryview) -> int:
        """See `Input`."""
        # What readinto() of a BufferedReader had read before an error would be lost.
        one_read = isinstance(self._file, io.BufferedReader)
        readinto = getattr(self._file, "readinto1" if one_read else "readinto", None)
        try:
            if readinto is not None:
                count: int | None = readinto(buffer)
            else:
                data = self._file.read(len(buffer))
                count = None if data is None else len(data)
                buffer[: count or 0] = data or b""
        except EOFError as e:  # what gzip and its like raise for a file that was cut
            raise IncompleteStreamError(f"{self.name} ends too early: {e}") from e
        except Exception as e:
            raise LocalIOError(f"cannot read {self.name}", e) from e
        if count is None:
            raise UsageError(f"{self.name} must be in blocking mode")
        return count

    def rewind(self) -> None:
        """See `Input`: what is seekable can."""
        if self._start is None:
            raise _read_once(self.name)
        try:
            self._file.seek(self._start)  # type: ignore[attr-defined]
        except Exception as e:
            raise LocalIOError(f"cannot read {self.name} from its beginning", e) from e

    def pass_over(self, length: int) -> int:
        """See `Input`: what is seekable can; one that cannot read there does not say how far."""
        if self._start is None:
            return 0
        try:
            here = self._file.tell()  # type: ignore[attr-defined]
            end = self._file.seek(0, os.SEEK_END)  # type: ignore[attr-defined]
            there = min(here + length - here % length, end)
            self._file.seek(there)  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001 - the error that led here is the one to raise
            return 0
        return int(there - here)

    def peek(self, offset: int, length: int) -> bytes | None:
        """See `Input`: a regular file can; a GzipFile would have to unpack all that is before."""
        raw = getattr(self._file, "raw", None)
        if self._start is None or type(raw) is not io.FileIO:
            return None
        return _peek(self, raw.fileno(), self._start + offset, length)

    def cancel(self) -> None:
        """See `Input`: not possible."""

    def close(self) -> None:
        """See `Input`: it is not ours."""


class DescriptorOutput:
    """Writes a fifo, a pipe or a device.

    Raises:
        LocalIOError: There is no other descriptor left, which it needs; a descriptor that is to
            be closed is closed.
    """

    def __init__(self, fd: int, name: str, *, close: bool) -> None:
        self.name = name
        self._fd = fd
        self._close = close
        self._cancel = _cancel_of(fd, name, close=close)
        self._may_block = _may_block(fd)
        if self._may_block:
            _widen_pipe(fd)

    def write(self, data: memoryview) -> None:
        """See `Output`."""
        while data:
            try:
                if self._may_block:
                    self._cancel.wait(self._fd, select.POLLOUT)
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                continue
            except OSError as e:
                raise _cannot_write(self.name, e) from e

    def cancel(self) -> None:
        """See `Output`."""
        self._cancel.set()

    def commit(self) -> None:
        """See `Output`: what was written cannot be called back.

        Raises:
            LocalIOError: It is not on stable storage, where there is one.
        """
        try:
            _sync(self._fd)
            self.abort()
        except OSError as e:
            raise LocalIOError(f"cannot finish {self.name}", e) from e

    def abort(self) -> None:
        """See `Output`: close, and so end what the other side reads."""
        self._cancel.close()
        fd, self._fd = self._fd, -1
        if self._close and fd >= 0:
            os.close(fd)


class FileOutput:
    """Writes a regular file, which gets its name only when it is complete."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._file = PartialFile(path)

    def write(self, data: memoryview) -> None:
        """See `Output`."""
        try:
            while data:
                data = data[os.write(self._file.fd, data) :]
        except OSError as e:
            raise _cannot_write(self.name, e) from e

    def cancel(self) -> None:
        """See `Output`: the file system does not block for long."""

    def commit(self) -> None:
        """See `Output`."""
        self._file.commit()

    def abort(self) -> None:
        """See `Output`."""
        self._file.abort()


class ObjectOutput:
    """Writes a caller's file object, and leaves it open."""

    def __init__(self, file: BinaryOutput) -> None:
        self.name = _name_of(file)
        self._file = file

    def write(self, data: memoryview) -> None:
        """See `Output`."""
        while data:
            try:
                written = self._file.write(data)
            except Exception as e:
                raise _cannot_write(self.name, e) from e
            if written is None and not isinstance(self._file, io.RawIOBase):
                return
            if not written:  # None of a raw file: it is not ready
                raise UsageError(f"{self.name} takes no data: it must be in blocking mode")
            data = data[written:]

    def cancel(self) -> None:
        """See `Output`: not possible."""

    def commit(self) -> None:
        """See `Output`: a file object over a regular file or a disk is fsynced; others cannot be.

        Raises:
            LocalIOError: What was written is not on stable storage.
        """
        flush = getattr(self._file, "flush", None)
        try:
            if flush is not None:
                flush()
            fd = _descriptor_of(self._file)
            if fd is not None:
                _sync(fd)
        except Exception as e:
            raise LocalIOError(f"cannot finish {self.name}", e) from e

    def abort(self) -> None:
        """See `Output`: without its manifest it does not look complete."""


def open_input(target: str | os.PathLike[str] | BinaryInput) -> Input:
    """Open what a tar is read from.

    Args:
        target: A path, "-" for standard input, or a binary file object, which stays the
            caller's to close. Opening a fifo waits for a writer.

    Raises:
        LocalIOError: It cannot be opened.
    """
    if not isinstance(target, (str, os.PathLike)):
        _check_object(target, "read")
        return _input_of_object(target)
    if target == "-":
        _require_open(0, "standard input")
        return DescriptorInput(0, "standard input", close=False)
    name = os.fspath(target)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise LocalIOError(f"cannot open {name}", e) from e
    begin_reading(fd)
    return DescriptorInput(fd, name, close=True)


def open_output(target: str | os.PathLike[str] | BinaryOutput) -> Output:
    """Open what a tar is written to.

    Args:
        target: A path, "-" for standard output, or a binary file object, which stays the
            caller's to close. Opening a fifo waits for a reader. A path that does not exist, or
            is a regular file, is written under a temporary name and renamed on commit.

    Raises:
        LocalIOError: It cannot be opened or created.
        UsageError: It is a directory or a terminal.
    """
    if not isinstance(target, (str, os.PathLike)):
        _check_object(target, "write")
        return _pipe_of_object(target) or ObjectOutput(_unbuffered(target))
    if target == "-":
        _require_open(1, "standard output")
        if os.isatty(1):
            raise UsageError("will not write a tar to a terminal: redirect standard output")
        if sys.stdout is not None:
            sys.stdout.flush()
        return _pipe_of_others(1, "standard output")
    name = os.fspath(target)
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        return FileOutput(name)
    except OSError as e:
        raise LocalIOError(f"cannot open {name}", e) from e
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return FileOutput(name)
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC)
        os.set_blocking(fd, not _may_block(fd))
    except OSError as e:
        raise LocalIOError(f"cannot open {name}", e) from e
    return DescriptorOutput(fd, name, close=True)


def _pipe_of_others(fd: int, name: str) -> Output:
    """Write a descriptor that other processes share.

    Non-blocking mode belongs to the open file, not to the descriptor, so a pipe is opened anew
    to leave the others theirs.
    """
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            pass  # no /proc, or not ours to open: then a blocked write cannot be cancelled
        else:
            return DescriptorOutput(own, name, close=True)
    return DescriptorOutput(fd, name, close=False)


def _pipe_of_object(file: BinaryOutput) -> Output | None:
    """Write the pipe under a plain file object directly: there a blocked write can be cancelled.

    Nothing but io's own file objects: a GzipFile, too, has the fileno of what it writes to.
    """
    raw = file.raw if isinstance(file, io.BufferedWriter) else file
    if type(raw) is not io.FileIO or not stat.S_ISFIFO(os.fstat(raw.fileno()).st_mode):
        return None
    if isinstance(file, io.BufferedWriter):
        file.flush()
    return _pipe_of_others(raw.fileno(), _name_of(file))


def _unbuffered(file: BinaryOutput) -> BinaryOutput:
    """What a full disk refuses must not stay in a buffer, to fail once more when that is closed."""
    if not isinstance(file, io.BufferedWriter) or type(file.raw) is not io.FileIO:
        return file
    try:
        file.flush()
    except OSError as e:
        raise _cannot_write(_name_of(file), e) from e
    return file.raw


def _input_of_object(file: BinaryInput) -> Input:
    """Read the pipe under a plain file object directly: there a blocked read can be cancelled."""
    if type(file) is io.FileIO:
        return DescriptorInput(file.fileno(), _name_of(file), close=False)
    if isinstance(file, io.BufferedReader) and type(file.raw) is io.FileIO:
        fd = file.fileno()
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return DescriptorInput(fd, _name_of(file), close=False, before=_buffered(file))
    return ObjectInput(file)


def _buffered(file: io.BufferedReader) -> bytes:
    """Take what a file object has read ahead, without waiting for more."""
    fd = file.fileno()
    blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    try:
        return file.read(len(file.peek()))
    finally:
        os.set_blocking(fd, blocking)


def _peek(stream: Input, fd: int, offset: int, length: int) -> bytes:
    if offset + length > MAX_OFFSET:
        return b""  # no file is so long
    try:
        return os.pread(fd, length, offset)
    except OSError as e:
        raise LocalIOError(f"cannot read {stream.name}", e) from e


def _is_storage(fd: int) -> bool:
    """True for a regular file, or a disk."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def _sync(fd: int) -> None:
    """Only here the kernel tells what it could not write; a pipe has nothing to be synced."""
    if _is_storage(fd):
        os.fsync(fd)


def _offset(fd: int) -> int | None:
    """Where a regular file, or a disk, stands; None for anything else."""
    return os.lseek(fd, 0, os.SEEK_CUR) if _is_storage(fd) else None


def _tell(file: BinaryInput) -> int | None:
    """Where a file object stands; None for one that cannot go back there."""
    try:
        return int(file.tell()) if file.seekable() else None  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return None


def _read_once(name: str) -> UsageError:
    return UsageError(
        f"{name} can be read only once",
        hint="Restore from a file or a tape, or without the first pass.",
    )


def _require_open(fd: int, name: str) -> None:
    """Fail before a descriptor of our own gets the number of one that is closed."""
    try:
        os.fstat(fd)
    except OSError as e:
        raise LocalIOError(f"cannot open {name}", e) from e


def _may_block(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _widen_pipe(fd: int) -> None:
    """A pipe holds 64 KiB unless told otherwise: too little for two busy processes."""
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, MIB)
        except OSError:
            return  # the limit for this user is reached; it works all the same


def _name_of(file: object) -> str:
    name = getattr(file, "name", None)
    if isinstance(name, int):
        return f"file descriptor {name}"
    return str(name or type(file).__name__)


def _check_object(file: object, method: str) -> None:
    if isinstance(file, io.TextIOBase):
        raise UsageError(f"{_name_of(file)} is open in text mode: a tar needs binary mode")
    if not callable(getattr(file, method, None)):
        raise UsageError(f"{file!r} is neither a path nor a file object with {method}()")


def _descriptor_of(file: object) -> int | None:
    try:
        return int(file.fileno())  # type: ignore[attr-defined]
    except (AttributeError, io.UnsupportedOperation):
        return None


def _cannot_write(name: str, error: Exception) -> LocalIOError:
    gone = isinstance(error, (BrokenPipeError, ConnectionResetError))
    hint = "The reader of the pipe ended: its exit status and messages say why." if gone else None
    return LocalIOError(f"cannot write {name}", error, hint=hint)
