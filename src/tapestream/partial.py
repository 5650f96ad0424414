"""A file that has its name only while it is complete."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from .errors import LocalIOError, UsageError
from .inuse import begin_changing

SUFFIX = ".partial"


class PartialFile:
    """A regular file, written under a temporary name beside its final one.

    A new file is created with mode 0600, for a backup is as secret as the disk, and is removed
    when aborted; until the commit an older file of that name stays. With `modify`, an existing
    file is itself moved to the temporary name, keeping its owner, mode and contents, and stays
    there when aborted after `touched` was set: it is then neither the old nor the new.

    Args:
        path: The final name; where it is a symbolic link, that of the file it points to.
        modify: Write into the file of that name, if there is one, instead of replacing it.

    Attributes:
        fd: The descriptor, open for reading and writing.
        path: The final name.
        created: True when the file is new, and so empty.
        touched: Set by the user once an existing file was changed.

    Raises:
        LocalIOError: The file cannot be created or moved.
        UsageError: The path names something that is not a regular file, or, with `modify`, one
            that somebody reads; or it is that of a device that is not there.
    """

    def __init__(self, path: str | os.PathLike[str], *, modify: bool = False) -> None:
        self.path = Path(os.path.realpath(path))
        self.touched = False
        exists = self.path.exists()
        if exists and not self.path.is_file():
            raise UsageError(f"{self.path} is not a regular file")
        if not exists and _is_for_devices(self.path.parent):
            raise UsageError(
                f"there is no {self.path}, and a file there would be kept in memory",
                hint="Is the device on, and its driver loaded ('modprobe st' for a tape drive)?",
            )
        self.created = not (modify and exists)
        try:
            if self.created:
                self.fd, name = tempfile.mkstemp(
                    prefix=f".{_short(self.path.name)}.", suffix=SUFFIX, dir=self.path.parent
                )
                self._partial = Path(name)
            else:
                self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
                self._partial = self.path.with_name(_short(self.path.name) + SUFFIX)
                self._take_aside()
        except OSError as e:
            raise LocalIOError(f"cannot create {self.path}", e) from e
        self._open = True

    def commit(self) -> None:
        """Put the file on stable storage, and give it its name.

        Raises:
            LocalIOError: The file is not complete on stable storage, or has not got its name.
        """
        try:
            os.fsync(self.fd)
            self._partial.rename(self.path)
            self._close()
            _sync_directory(self.path.parent)
        except OSError as e:
            raise LocalIOError(f"cannot finish {self.path}", e) from e

    def abort(self) -> Path | None:
        """Take the half-written file away; does nothing after a commit.

        Returns:
            Where an existing file is now that had been changed already; None otherwise.

        Raises:
            LocalIOError: It cannot be taken away; it still has its temporary name.
        """
        if not self._open:
            return None
        self._close()
        try:
            if self.created:
                self._partial.unlink()
            elif not self.touched:
                self._partial.rename(self.path)
            else:
                return self._partial
        except FileNotFoundError:
            return None  # somebody removed it, or it has its name already
        except OSError as e:
            raise LocalIOError(f"cannot take {self._partial} away", e) from e
        return None

    def _take_aside(self) -> None:
        try:
            begin_changing(self.fd, self.path)
            if self._partial.exists():
                raise FileExistsError(
                    errno.EEXIST,
                    f"{self._partial.name} is left from an earlier, failed run: remove it first",
                )
            self.path.rename(self._partial)
        except BaseException:
            os.close(self.fd)
            raise

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.fd)


def _is_for_devices(directory: Path) -> bool:
    """True for /dev and what is below it, but for /dev/shm, which is for files."""
    devices = os.stat("/dev").st_dev
    return (
        directory.is_dir()
        and directory.stat().st_dev == devices != os.stat("/").st_dev
        and directory.parts[:3] != ("/", "dev", "shm")
    )


def _short(name: str) -> str:
    """Leave room for what is added: a file system counts bytes, mostly up to 255."""
    return os.fsdecode(os.fsencode(name)[:230])


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
