"""Finds and makes holes in files."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from functools import cache

from ..model.extents import Extent

# linux/falloc.h
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2


def data_and_holes(fd: int, size: int) -> Iterator[Extent]:
    """Yield the data and the holes of a file, as far as its file system knows them.

    Args:
        fd: The file, or a block device, which is all data.
        size: Its size in bytes.

    Raises:
        OSError: They cannot be found.
    """
    position = 0
    while position < size:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.EINVAL:  # a block device, or a file system without holes
                data = position
            elif e.errno == errno.ENXIO:  # lseek(2): no data follows
                data = size
            else:
                raise
        if data > position:
            yield Extent(position, data - position, zero=True, hole=True)
        if data < size:
            position = _end_of_data(fd, data, size)
            yield Extent(data, position - data, zero=False, hole=False)
        else:
            position = size


def _end_of_data(fd: int, start: int, size: int) -> int:
    try:
        return min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as e:
        if e.errno == errno.EINVAL:
            return size
        raise


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def punch_hole(fd: int, start: int, length: int) -> bool:
    """Deallocate a range of a file, which then reads as zeros.

    Args:
        fd: The file, or a block device.
        start: Offset of the range, in bytes.
        length: Its length in bytes.

    Returns:
        False if that is not possible: the caller must write zeros.
    """
    # Both libraries take 64-bit offsets under this name, also on 32-bit machines.
    fallocate = getattr(_libc(), "fallocate64", None) or _libc().fallocate
    mode = ctypes.c_int(_FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE)
    done: int = fallocate(fd, mode, ctypes.c_int64(start), ctypes.c_int64(length))
    return done == 0
