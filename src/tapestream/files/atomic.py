"""A file that gets its name only when it is complete."""

from __future__ import annotations

import errno
import io
import os
import stat
import warnings
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ..errors import LocalIOError, NotDurableError, UsageError
from .descriptors import as_local_error, close_file
from .locks import lock_exclusive

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".partial"


class AtomicFile:
    """A regular file, written under a temporary name beside its final one.

    A new file is created with mode 0600, since a backup is as secret as the disk, and is removed
    when aborted. An older file of that name stays until the commit.

    With `modify`, an existing file is itself moved to the temporary name. It keeps its owner, mode
    and contents. If it is aborted after `touched` was set, it stays there: it is neither the old
    file nor the new one.

    A file that is neither committed nor aborted is aborted when it is garbage collected, with a
    `ResourceWarning`.

    Args:
        path: The final name. If it is a symbolic link, the name of the file that it points to.
        modify: Write into the file of that name, if there is one, instead of replacing it.

    Attributes:
        path: The final name.
        created: True if the file is new, and so empty.
        touched: The user sets this to True before the contents are changed.

    Raises:
        LocalIOError: The file cannot be created or moved.
        UsageError: The path exists and is not a regular file; or, with `modify`, the file is in
            use; or the path belongs to a device that does not exist.
    """

    # The temporary name; None before the file is created and after it has its final name.
    _partial: str | None = None
    _file: io.FileIO | None = None
    _size = 0

    def __init__(self, path: str | os.PathLike[str], *, modify: bool = False) -> None:
        self.path = os.path.realpath(path)
        self._directory, self._name = os.path.split(self.path)
        self.touched = False
        with as_local_error(f"cannot look at {self.path}"):
            found = _look(self.path)
            is_device = found is None and _is_for_devices(self._directory)
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{self.path} is not a regular file")
        if is_device:
            raise UsageError(
                f"there is no {self.path}, and a file there would be kept in memory",
                hint="Is the device on, and its driver loaded ('modprobe st' for a tape drive)?",
            )
        self.created = not modify or found is None
        with as_local_error(f"cannot create {self.path}", self.abort):
            if self.created:
                self._file = self._create()
            else:
                self._file = io.FileIO(self.path, "r+b", opener=os.open)
                self._take_aside()

    @property
    def file(self) -> io.FileIO:
        """The open file, unbuffered.

        Raises:
            LocalIOError: It is not open any more.
        """
        if self._file is None:
            raise LocalIOError(f"{self.path} is closed")
        return self._file

    @property
    def fd(self) -> int:
        """The descriptor of the open file."""
        return self.file.fileno()

    def resize(self, size: int, *, empty: bool) -> None:
        """Set the size of the file.

        Args:
            size: The size in bytes.
            empty: Drop all contents: the whole file then reads as zeros.

        Raises:
            LocalIOError: It cannot have this size. If it should grow, its contents are unchanged.
        """
        with as_local_error(f"cannot resize {self.path} to {size} bytes"):
            if size > self._size:  # this may fail, so it comes first
                os.ftruncate(self.fd, size)
            if empty and not self.created:
                os.ftruncate(self.fd, 0)
                self.touched = True
            os.ftruncate(self.fd, size)

    def commit(self) -> None:
        """Put the file on stable storage, and give it its name.

        Raises:
            LocalIOError: The file is not on stable storage, or could not be renamed. It must still
                be aborted.
            NotDurableError: The file is complete and has its name, but a power failure soon could
                undo the renaming: the directory could not be put on stable storage.
        """
        assert self._partial is not None
        directory = _Directory(self._directory)
        try:
            with as_local_error(f"cannot finish {self.path}"):
                os.fsync(self.fd)
                directory.open()
                os.rename(self._partial, self.path)
                self._partial = None
            try:
                directory.sync(self.fd)
            except OSError as e:
                raise NotDurableError(
                    f"{self.path} is complete, but its directory is not on stable storage", e
                ) from e
            self._close()
        finally:
            directory.close()

    def abort(self) -> Path | None:
        """Remove the half-written file, or rename an unchanged one back. A commit stays.

        Returns:
            The temporary name of an existing file that was already changed; None otherwise.

        Raises:
            LocalIOError: It can be neither removed nor renamed; it still has its temporary name.
        """
        left = None
        try:
            if self._partial is not None:
                left = self._take_away(self._partial)
        except LocalIOError:
            self._end()
            raise
        self._end()
        return left

    def __del__(self) -> None:
        if self._partial is not None:
            warnings.warn(f"{self.path} was neither finished nor closed", ResourceWarning, 1, self)
            self.abort()

    def _create(self) -> io.FileIO:
        while True:
            self._partial = self._beside(f".{_short(self._name)}.{os.urandom(4).hex()}{SUFFIX}")
            try:
                return io.FileIO(self._partial, "x+b", opener=partial(os.open, mode=0o600))
            except FileExistsError:
                continue
            except OSError:
                self._partial = None
                raise

    def _beside(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _take_aside(self) -> None:
        lock_exclusive(self.fd, self.path)
        name = _short(self._name) + SUFFIX
        aside = self._beside(name)
        if _look(aside) is not None:
            raise FileExistsError(
                errno.EEXIST, f"{name} is left from an earlier, failed run: remove it first"
            )
        self._size = os.fstat(self.fd).st_size
        self._partial = aside
        os.rename(self.path, aside)

    def _take_away(self, temporary: str) -> Path | None:
        try:
            if self.created:
                os.unlink(temporary)
            elif self._is_as_it_was():
                os.rename(temporary, self.path)
            elif _look(temporary) is not None:
                from pathlib import Path  # noqa: PLC0415 - takes 3 ms, and few restores fail

                return Path(temporary)
        except FileNotFoundError:
            return None  # somebody removed it, or it has its name already
        except OSError as e:
            raise LocalIOError(f"cannot remove {temporary}", e) from e
        return None

    def _is_as_it_was(self) -> bool:
        """True if an existing file was not changed. If it only grew, it is shrunk again."""
        size = os.fstat(self.fd).st_size
        if self.touched or size < self._size:
            return False
        if size > self._size:
            os.ftruncate(self.fd, self._size)
        return True

    def _end(self) -> None:
        self._partial = None
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            close_file(file, self.path)  # after a commit, all of it is on stable storage


class _Directory:
    """The directory of a file that is renamed: puts the new name on stable storage."""

    def __init__(self, path: str) -> None:
        # At most one descriptor, in a list: append() and pop() cannot be interrupted half-way.
        self._fds: list[int] = []
        self._path = path

    def open(self) -> None:
        """Find out, before anything in it is changed, how to put it on stable storage.

        Raises:
            OSError: That is not possible.
        """
        try:
            self._fds.append(os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            os.fsync(self._fds[0])
        except OSError as e:
            # We may write it but not read it, or its file system does not sync directories.
            if e.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP):
                raise
            self.close()

    def sync(self, fd: int) -> None:
        """Put the directory on stable storage, or its whole file system if it could not be opened.

        Args:
            fd: A file in it.

        Raises:
            OSError: That failed.
        """
        if self._fds:
            os.fsync(self._fds[0])
            return
        import ctypes  # noqa: PLC0415 - expensive, and hardly ever needed

        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Close it, if it is open."""
        with suppress(OSError):
            while self._fds:
                os.close(self._fds.pop())

    def __del__(self) -> None:
        with suppress(AttributeError):  # its constructor was interrupted
            self.close()


def _look(path: str) -> os.stat_result | None:
    """What is there; None if nothing is."""
    try:
        return os.stat(path)
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return None


def _is_for_devices(directory: str) -> bool:
    """True for /dev and everything below it, except for /dev/shm, which is for files."""
    devices = os.stat("/dev").st_dev
    found = _look(directory)
    return (
        found is not None
        and stat.S_ISDIR(found.st_mode)
        and found.st_dev == devices != os.stat("/").st_dev
        and directory.split("/")[1:3] != ["dev", "shm"]
    )


def _short(name: str) -> str:
    """Cut a name to leave room for a suffix: most file systems take names of up to 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:230])
