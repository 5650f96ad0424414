"""Locks on local files, so that no copy destroys what it reads.

flock(2) recognizes a file under all of its names, in this process and in others. On a file system
without locks, nothing is checked.
"""

from __future__ import annotations

import fcntl
import os

from ..errors import UsageError


def lock_shared(fd: int) -> None:
    """Lock a file that is read, until its descriptor is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return  # another process is changing the file, and knows it; or there are no locks


def lock_exclusive(fd: int, path: str | os.PathLike[str]) -> None:
    """Lock a file that is going to be changed, until its descriptor is closed.

    Raises:
        UsageError: Another descriptor reads it or changes it.
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
