"""Recognizes the format of a local file, so that no file in another format is overwritten."""

from __future__ import annotations

import io
import os
import stat

from ..model.formats import SECTOR, format_of


def known_format(fd: int, *, streams: bool = True) -> str | None:
    """The format of an open file, see `format_of`; None for a raw image.

    Raises:
        OSError: It cannot be read.
    """
    last = max(0, os.lseek(fd, 0, os.SEEK_END) - SECTOR)
    return format_of(os.pread(fd, SECTOR, 0), os.pread(fd, SECTOR, last), streams=streams)


def format_at(path: str, *, streams: bool = True) -> str | None:
    """The format of the file at a path. None if it cannot be read: the caller will see that."""
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            return None  # do not even open it: that would take data from a fifo, or wind a tape
        with io.FileIO(path, "rb") as file:
            return known_format(file.fileno(), streams=streams)
    except OSError:
        return None
