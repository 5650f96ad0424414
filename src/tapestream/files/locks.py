"""Who uses a local file: so that no copy destroys what it reads, and none uses a closed file.

By flock(2), which knows a file by any of its names, in this process and in others. A file system
without locks gives no warning.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os

from ..errors import LocalIOError, UsageError

log = logging.getLogger("tapestream.files")


def begin_reading(fd: int) -> None:
    """Tell that a file is read, until its descriptor is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return  # somebody changes it, which is his to know; or there are no locks


def begin_changing(fd: int, path: str | os.PathLike[str]) -> None:
    """Take a file for oneself, until its descriptor is closed.

    Raises:
        UsageError: Somebody reads it, or changes it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"{os.fspath(path)} is in use: it is being read, or restored to",
            hint="Nothing was changed. Pass another target, or close what reads it.",
        ) from None
    except OSError:
        return


def descriptor(file: io.FileIO, name: str) -> int:
    """The descriptor of an open file.

    Ask for it again for each use: once the file is closed, the number may be another file's.

    Raises:
        LocalIOError: It is closed.
    """
    try:
        return file.fileno()
    except ValueError:
        raise LocalIOError(f"{name} is closed") from None


def close_file(file: io.FileIO, name: str) -> None:
    """Close a file. An error is only logged: the copy has not failed because of it."""
    try:
        file.close()
    except OSError as e:
        log.warning("%s could not be closed cleanly: %s", name, e)
