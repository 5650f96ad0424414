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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from ..errors import IncompleteStreamError, LocalIOError, UsageError
from ..model.extents import MAX_OFFSET
from ..model.formats import format_at
from .atomic import PartialFile
from .locks import begin_reading, close_file, descriptor

MIB = 1024**2


class BinaryInput(Protocol):
    """A file object to read from."""

    def read(self, n: int, /) -> bytes | None:
        """Return up to `n` bytes; none at the end."""
        ...


class BinaryOutput(Protocol):
    """A file object to write to."""

    def write(self, data: memoryview, /) -> int | None:
        """Write the data, and return how much of it; None means all."""
        ...


class Input(Protocol):
    """Where a tar is read from."""

    @property
    def name(self) -> str:
        """What it is called, for people."""
        ...

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
        """Go on after a place that could not be read.

        Args:
            length: About how many bytes to give up.

        Returns:
            How many bytes were given up; 0 where it is not possible.
        """
        ...

    def peek(self, offset: int, length: int) -> bytes | None:
        """The bytes that lie `offset` after where it began; None where that is not known."""
        ...

    def cancel(self) -> None:
        """Make a read that blocks, now or later, fail."""

    def close(self) -> None:
        """Close what this opened itself."""


class Output(Protocol):
    """Where a tar is written to."""

    @property
    def name(self) -> str:
        """What it is called, for people."""
        ...

    def write(self, data: memoryview) -> None:
        """Write all of it."""
        ...

    def cancel(self) -> None:
        """Make a write that blocks, now or later, fail."""

    def commit(self) -> None:
        """Make what was written final."""

    def abort(self) -> None:
        """Leave nothing that looks complete, where that is possible."""


class _Own(io.FileIO):
    """A descriptor that goes with its user: who gave us an open file need not know of it."""

    def __del__(self) -> None:
        self.close()  # without a ResourceWarning


class _Cancel:
    """A flag that a thread blocked in poll() notices."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # nothing is written to what is being closed
        self._is_set = False
        # In one step: whatever interrupts this, the descriptors have an owner that closes them.
        self._read, self._write = map(_Own, os.pipe2(os.O_CLOEXEC), ("rb", "wb"))

    def set(self) -> None:
        with self._lock:
            if not (self._is_set or self._write.closed):
                self._is_set = True
                self._write.write(b"x")

    def wait(self, fd: int, event: int) -> None:
        """Block until `fd` is ready, or fail when cancelled."""
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self._read, select.POLLIN)
        if any(ready != fd for ready, _ in poll.poll()):
            raise LocalIOError("cancelled")

    def close(self) -> None:
        with self._lock:
            self._read.close()
            self._write.close()


class DescriptorInput:
    """Reads a file, a fifo or a pipe, after what was read from it before; closes it at the end.

    Raises:
        LocalIOError: It cannot be used, or no other descriptor is left, which it needs.
    """

    def __init__(self, file: io.FileIO, name: str, *, before: bytes = b"") -> None:
        self.name = name
        self._before = before
        self._file = file
        self._cancel: _Cancel | None = None
        with _closed_on_error(self.close, name):
            self._cancel = _Cancel()
            self._may_block = _may_block(file.fileno())
            if self._may_block:
                _widen_pipe(file.fileno())
            self._start = _offset(file.fileno())

    def readinto(self, buffer: memoryview) -> int:
        """See `Input`."""
        if self._before:
            count = min(len(self._before), len(buffer))
            buffer[:count], self._before = self._before[:count], self._before[count:]
            return count
        fd = descriptor(self._file, self.name)
        try:
            if self._may_block and self._cancel is not None:
                self._cancel.wait(fd, select.POLLIN)
            return os.readv(fd, [buffer])
        except OSError as e:
            raise LocalIOError(f"cannot read {self.name}", e) from e

    def rewind(self) -> None:
        """See `Input`: a regular file can."""
        if self._start is None:
            raise _read_once(self.name)
        with _local_errors(f"cannot read {self.name} from its beginning"):
            os.lseek(descriptor(self._file, self.name), self._start, os.SEEK_SET)

    def pass_over(self, length: int) -> int:
        """See `Input`: a regular file can."""
        if self._start is None:
            return 0
        fd = descriptor(self._file, self.name)
        with _local_errors(f"cannot skip a part of {self.name}"):
            here = os.lseek(fd, 0, os.SEEK_CUR)
            there = min(here + length - here % length, os.lseek(fd, 0, os.SEEK_END))
            os.lseek(fd, there, os.SEEK_SET)
        return there - here

    def peek(self, offset: int, length: int) -> bytes | None:
        """See `Input`: a regular file can."""
        if self._start is None:
            return None
        return _peek(self, descriptor(self._file, self.name), self._start + offset, length)

    def cancel(self) -> None:
        """See `Input`."""
        if self._cancel is not None:
            self._cancel.set()

    def close(self) -> None:
        """See `Input`."""
        if self._cancel is not None:
            self._cancel.close()
        close_file(self._file, self.name)


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
        return _peek(self, descriptor(raw, self.name), self._start + offset, length)

    def cancel(self) -> None:
        """See `Input`: not possible."""

    def close(self) -> None:
        """See `Input`: it is not ours."""


class DescriptorOutput:
    """Writes a fifo, a pipe or a device; closes it at the end.

    Raises:
        LocalIOError: It cannot be used, or no other descriptor is left, which it needs.
    """

    def __init__(self, file: io.FileIO, name: str) -> None:
        self.name = name
        self._file = file
        self._cancel: _Cancel | None = None
        with _closed_on_error(self.abort, name):
            self._cancel = _Cancel()
            self._may_block = _may_block(file.fileno())
            if self._may_block:
                _widen_pipe(file.fileno())

    def write(self, data: memoryview) -> None:
        """See `Output`."""
        while data:
            fd = descriptor(self._file, self.name)
            try:
                if self._may_block and self._cancel is not None:
                    self._cancel.wait(fd, select.POLLOUT)
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                continue
            except OSError as e:
                raise _cannot_write(self.name, e) from e

    def cancel(self) -> None:
        """See `Output`."""
        if self._cancel is not None:
            self._cancel.set()

    def commit(self) -> None:
        """See `Output`: what was written cannot be called back.

        Raises:
            LocalIOError: It is not on stable storage, where there is one.
        """
        try:
            if not _sync(descriptor(self._file, self.name)):
                self._file.close()  # which may report an error
        except OSError as e:
            raise LocalIOError(f"cannot finish {self.name}", e) from e
        self.abort()

    def abort(self) -> None:
        """See `Output`: close, and so end what the other side reads."""
        if self._cancel is not None:
            self._cancel.close()
        close_file(self._file, self.name)


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
    """Writes a caller's file object, and leaves it open.

    Args:
        file: The caller's.
        own: Written instead: the same file, but ours to close; None for the caller's.
    """

    def __init__(self, file: BinaryOutput, own: io.FileIO | None = None) -> None:
        self.name = _name_of(file)
        self._file = file
        self._own = own

    def write(self, data: memoryview) -> None:
        """See `Output`."""
        out = self._own or self._file
        while data:
            try:
                written = out.write(data)
            except Exception as e:
                raise _cannot_write(self.name, e) from e
            if written is None and not isinstance(out, io.RawIOBase):
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
        self.abort()

    def abort(self) -> None:
        """See `Output`: without its manifest it does not look complete."""
        if self._own is not None:
            close_file(self._own, self.name)


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
        with _local_errors(f"cannot open {_name_of(target)}"):
            return _input_of_object(target)
    if target == "-":
        _require_open(0, "standard input")
        return DescriptorInput(_copy_of(0, "standard input"), "standard input")
    name = os.fspath(target)
    try:
        file = io.FileIO(name, "rb", opener=os.open)
    except OSError as e:
        raise LocalIOError(f"cannot open {name}", e) from e
    begin_reading(file.fileno())
    return DescriptorInput(file, name)


def open_output(target: str | os.PathLike[str] | BinaryOutput) -> Output:
    """Open what a tar is written to.

    Args:
        target: A path, "-" for standard output, or a binary file object, which stays the
            caller's to close. Opening a fifo waits for a reader. A path that does not exist, or
            is a regular file, is written under a temporary name and renamed on commit.

    Raises:
        LocalIOError: It cannot be opened or created.
        UsageError: It is a directory or a terminal, or holds an image in a known format.
    """
    if not isinstance(target, (str, os.PathLike)):
        _check_object(target, "write")
        with _local_errors(f"cannot open {_name_of(target)}"):
            return _pipe_of_object(target) or _unbuffered(target)
    if target == "-":
        _require_open(1, "standard output")
        if os.isatty(1):
            raise UsageError("will not write a tar to a terminal: redirect standard output")
        with _local_errors("cannot open standard output"):
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
    found = format_at(name, streams=False)
    if found is not None:
        raise UsageError(
            f"{name} is {found}: its contents would be lost",
            hint="Pass another path for the tar, or remove what is there first.",
        )
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return FileOutput(name)
    try:
        file = io.FileIO(os.open(name, os.O_WRONLY | os.O_CLOEXEC), "wb")
    except OSError as e:
        raise LocalIOError(f"cannot open {name}", e) from e
    with _closed_on_error(partial(close_file, file, name), name):
        os.set_blocking(file.fileno(), not _may_block(file.fileno()))
    return DescriptorOutput(file, name)


def _pipe_of_others(fd: int, name: str) -> Output:
    """Write a descriptor that other processes share.

    Non-blocking mode belongs to the open file, not to the descriptor, so a pipe is opened anew
    to leave the others theirs.
    """
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            own = io.FileIO(os.open(f"/proc/self/fd/{fd}", flags), "wb")
        except OSError:
            pass  # no /proc, or not ours to open: then a blocked write cannot be cancelled
        else:
            return DescriptorOutput(own, name)
    return DescriptorOutput(_copy_of(fd, name), name)


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


def _unbuffered(file: BinaryOutput) -> Output:
    """Write past the buffer of a plain file object.

    What a full disk refuses must not stay in a buffer, to fail once more when that is closed.
    """
    raw = file.raw if isinstance(file, io.BufferedWriter) else file
    if type(raw) is not io.FileIO:
        return ObjectOutput(file)
    if isinstance(file, io.BufferedWriter):
        try:
            file.flush()
        except OSError as e:
            raise _cannot_write(_name_of(file), e) from e
    return ObjectOutput(raw, _copy_of(raw.fileno(), _name_of(file)))


def _copy_of(fd: int, name: str) -> io.FileIO:
    """Open what somebody else may close: its number could then become another file's."""
    try:
        return _Own(os.dup(fd), "r+b")
    except OSError as e:
        raise LocalIOError(f"cannot open {name}", e) from e


def _input_of_object(file: BinaryInput) -> Input:
    """Read the pipe under a plain file object directly: there a blocked read can be cancelled."""
    if type(file) is io.FileIO:
        return DescriptorInput(_copy_of(file.fileno(), _name_of(file)), _name_of(file))
    if isinstance(file, io.BufferedReader) and type(file.raw) is io.FileIO:
        fd = file.fileno()
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            name = _name_of(file)
            return DescriptorInput(_copy_of(fd, name), name, before=_buffered(file))
    return ObjectInput(file)


@contextmanager
def _closed_on_error(close: Callable[[], None], name: str) -> Iterator[None]:
    """Close what cannot be used, when this block raises."""
    try:
        yield
    except OSError as e:
        close()
        raise LocalIOError(f"cannot open {name}", e) from e
    except BaseException:
        close()
        raise


@contextmanager
def _local_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise LocalIOError(doing, e) from e


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


def _sync(fd: int) -> bool:
    """Only here the kernel reports what it could not write; False for a pipe: no storage."""
    is_storage = _is_storage(fd)
    if is_storage:
        os.fsync(fd)
    return is_storage


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
    """A pipe holds 64 KiB by default: too little for two busy processes."""
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
    if getattr(file, "closed", False):
        raise UsageError(f"{_name_of(file)} is closed: a tar needs an open file")
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
