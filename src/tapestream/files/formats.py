"""The format of a file of this machine, so that no other format is overwritten."""

from __future__ import annotations

import io
import os
import stat

from ..model.formats import SECTOR, format_of


def known_format(fd: int, *, streams: bool = True) -> str | None:
    """Which format an open file has, see `format_of`; None for a raw image.

    Raises:
        OSError: It cannot be read.
    """
    last = max(0, os.lseek(fd, 0, os.SEEK_END) - SECTOR)
    return format_of(os.pread(fd, SECTOR, 0), os.pread(fd, SECTOR, last), streams=streams)


def format_at(path: str, *, streams: bool = True) -> str | None:
    """The same for a path; None if it cannot be read, as the caller finds out."""
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            return None  # not even opened: that would take a fifo's data, or wind a tape
        with io.FileIO(path, "rb") as file:
            return known_format(file.fileno(), streams=streams)
    except OSError:
        return None
