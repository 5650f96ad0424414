"""An open file, by its descriptor. A read or write that blocks in a pipe can be cancelled."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import select
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from .._log import Log
from ..errors import LocalIOError

log = Log("tapestream.files")

# Bytes. A pipe holds 64 KiB by default: too little for two busy processes.
PIPE_SIZE = 1024**2


class OpenFile:
    """A file, a pipe, a socket or a device.

    Args:
        file: The open file.
        name: Its name, for people.
        release: Called at the end instead of closing the file.

    Attributes:
        start: The position of a regular file or a disk when this was made; None for anything else.

    Raises:
        LocalIOError: It cannot be used, or no descriptor is left: a pipe needs two more.
    """

    def __init__(
        self, file: io.FileIO, name: str, release: Callable[[], object] | None = None
    ) -> None:
        self.name = name
        self._file = file
        self._release = release or partial(close_file, file, name)
        self._cancel: _Cancel | None = None
        with as_local_error(f"cannot open {name}", self.close):
            fd = self.fd
            self.start = os.lseek(fd, 0, os.SEEK_CUR) if is_storage(fd) else None
            if may_block(fd):
                self._cancel = _Cancel()
                _widen_pipe(fd)

    @property
    def fd(self) -> int:
        """The descriptor. See `descriptor` for when to use it."""
        return descriptor(self._file, self.name)

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one byte; 0 at the end.

        Raises:
            OSError: It cannot be read.
            LocalIOError: The read was cancelled, or the file is closed.
        """
        if self._cancel is None:
            return os.readv(self.fd, [buffer])
        return self._when_ready(self._cancel, select.POLLIN, lambda fd: os.readv(fd, [buffer]))

    def write(self, data: memoryview) -> int:
        """Write at least one byte.

        Returns:
            How many bytes were written.

        Raises:
            OSError: It cannot be written.
            LocalIOError: The write was cancelled, or the file is closed.
        """
        if self._cancel is None:
            return os.write(self.fd, data)
        return self._when_ready(self._cancel, select.POLLOUT, lambda fd: _write_what_fits(fd, data))

    def _when_ready(self, cancel: _Cancel, event: int, call: Callable[[int], int]) -> int:
        """Read or write a pipe when it is ready, unless another process was faster."""
        while True:
            fd = self.fd
            cancel.wait(fd, event)
            with suppress(BlockingIOError):
                return call(fd)

    def finish(self) -> None:
        """Put what was written on stable storage, if the file is on one, and close.

        Raises:
            OSError: The kernel could not write all of it, and reports it here.
        """
        if self.start is not None:
            os.fsync(self.fd)
        else:
            self._file.close()
        self.close()

    def cancel(self) -> None:
        """Make a read or write that blocks in a pipe, now or later, fail.

        A signal handler may call it.
        """
        if self._cancel is not None:
            self._cancel.set()

    def close(self) -> None:
        """Close the file."""
        if self._cancel is not None:
            self._cancel.close()
        self._release()


class OwnFile(io.FileIO):
    """A file that is closed when nothing refers to it any more, without a ResourceWarning."""

    def __del__(self) -> None:
        self.close()


class _Cancel:
    """A flag that a thread blocked in poll() notices."""

    def __init__(self) -> None:
        # So that `set` does not write to a closed descriptor. It is reentrant: a signal handler may
        # call `set` while its thread holds the lock.
        self._lock = threading.RLock()
        self._is_set = False
        # In one step, so that after any interrupt the descriptors have an owner that closes them.
        self._read, self._write = map(OwnFile, os.pipe2(os.O_CLOEXEC), ("rb", "wb"))

    def set(self) -> None:
        with self._lock:
            if not (self._is_set or self._write.closed):
                self._is_set = True
                with suppress(BrokenPipeError):  # `close` is running
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


def descriptor(file: io.FileIO, name: str) -> int:
    """The descriptor of an open file.

    Get it again for each use: after the file is closed, the number may belong to another file.

    Raises:
        LocalIOError: It is closed.
    """
    try:
        return file.fileno()
    except ValueError:
        raise LocalIOError(f"{name} is closed") from None


def close_file(file: io.FileIO, name: str) -> None:
    """Close a file. An error is only logged: it does not make the copy fail."""
    try:
        file.close()
    except OSError as e:
        log.warning("%s could not be closed cleanly: %s", name, e)


def check_was_open(stream: object | None) -> None:
    """Check that a standard stream (`sys.__stdin__`) was open when Python started.

    If it was not, any file that was opened since may have its number. For example, libffi keeps one
    open, as soon as ctypes is imported.

    Raises:
        OSError: It was closed.
    """
    if stream is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def own_copy(fd: int) -> io.FileIO:
    """Duplicate a descriptor that somebody else may close."""
    return OwnFile(os.dup(fd), "r+b")


@contextmanager
def as_local_error(doing: str, close: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Raise an error of the system as a LocalIOError.

    Args:
        doing: What failed, such as "cannot open NAME".
        close: Called after any error, to close what cannot be used.
    """
    try:
        yield
    except OSError as e:
        close()
        raise LocalIOError(doing, e) from e
    except BaseException:
        close()
        raise


def is_storage(fd: int) -> bool:
    """True for a regular file or a disk."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def may_block(fd: int) -> bool:
    """True for a pipe or a socket: its other end decides how long a read or write takes."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _write_what_fits(fd: int, data: memoryview) -> int:
    """Write to a pipe or a socket that has room, without waiting for more.

    In blocking mode, a write would wait until all of the data fits, and nothing could cancel it.
    The mode cannot be changed: other processes may share the open file.
    """
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        with socket.socket(fileno=os.dup(fd)) as sock:
            return sock.send(data, socket.MSG_DONTWAIT)
    # If a pipe has room at all, this many bytes fit: see pipe(7).
    return os.write(fd, data[: select.PIPE_BUF] if os.get_blocking(fd) else data)


def is_pipe(fd: int) -> bool:
    """True for a pipe or a fifo."""
    return stat.S_ISFIFO(os.fstat(fd).st_mode)


def _widen_pipe(fd: int) -> None:
    if is_pipe(fd):
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            return  # this user's limit is reached; the pipe works with its old size, too
