"""Who reads a local file, and who changes it: so that no copy destroys what it reads.

By flock(2), which tells the same file by any of its names, in this process and in others. Where a
file system has no locks, nobody is warned.
"""

from __future__ import annotations

import fcntl
import os

from .errors import UsageError


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
