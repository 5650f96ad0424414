"""File objects of the caller.

An io.FileIO, alone or inside a buffered object of io, is read and written through a copy of its
descriptor. So a read that blocks in a pipe can be cancelled, and data that a full disk refuses does
not stay in a buffer. Any other object is used only through its methods: a GzipFile has a fileno(),
too, but that is the descriptor of the packed file.
"""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import TypeAlias, cast

from .._typing import override
from ..errors import UsageError
from .descriptors import OwnFile, close_file, is_storage

PlainFile: TypeAlias = "io.FileIO | io.BufferedReader | io.BufferedWriter | io.BufferedRandom"


def plain_file(file: object) -> PlainFile | None:
    """The same object if it is one of io's own over an io.FileIO; None for anything else."""
    if type(file) in (io.BufferedReader, io.BufferedWriter, io.BufferedRandom):
        return cast(PlainFile, file) if type(file.raw) is io.FileIO else None  # type: ignore[attr-defined]
    return file if type(file) is io.FileIO else None


class BorrowedFile(OwnFile):
    """Our own descriptor for a file object of the caller, who may close that object at any time.

    After that, this one cannot be used either. But a call that has already begun still reaches the
    right file: the number of our descriptor does not change, and that of the caller's may.
    """

    def __init__(self, file: PlainFile) -> None:
        super().__init__(os.dup(file.fileno()), "r+b")
        self._theirs = file

    @override
    def fileno(self) -> int:
        self._theirs.fileno()  # raises a ValueError if it is closed
        return super().fileno()

    def give_back(self) -> None:
        """Close this one, and let the caller's object notice its new position."""
        close_file(self, name_of(self._theirs))
        with suppress(ValueError, OSError):  # it is closed, or its descriptor is
            if self._theirs.seekable():
                self._theirs.seek(0, os.SEEK_CUR)


def leave_buffer(file: PlainFile) -> bytes:
    """Empty the buffer of one of io's own file objects.

    Its descriptor then has the same position as the object.

    Returns:
        What was read ahead from a pipe or a device: it cannot be given back.

    Raises:
        OSError: The buffer held data that cannot be written.
    """
    if isinstance(file, io.FileIO):
        return b""
    if is_storage(file.fileno()):
        position = file.tell()
        file.seek(0, os.SEEK_END)  # a seek() to a position inside the buffer would keep the buffer
        file.seek(position)
    elif isinstance(file, io.BufferedReader):
        return _read_ahead(file)
    else:
        file.flush()
    return b""


def _read_ahead(file: io.BufferedReader) -> bytes:
    """Take the data that a file object has read ahead, without waiting for more."""
    fd = file.fileno()
    blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    try:
        return file.read(len(file.peek()))
    finally:
        os.set_blocking(fd, blocking)


def name_of(file: object) -> str:
    """The name of a file object, for people."""
    name = getattr(file, "name", None)
    if isinstance(name, int):
        return f"file descriptor {name}"
    return str(name or type(file).__name__)


def check_object(file: object, method: str) -> None:
    """Make sure that a file object can be used.

    Args:
        file: What the caller passed.
        method: The method that it must have.

    Raises:
        UsageError: It is in text mode, closed, or not a file object.
    """
    if isinstance(file, io.TextIOBase):
        raise UsageError(f"{name_of(file)} is open in text mode: a tar needs binary mode")
    if getattr(file, "closed", False):
        raise UsageError(f"{name_of(file)} is closed: a tar needs an open file")
    if not callable(getattr(file, method, None)):
        raise UsageError(f"{file!r} is neither a path nor a file object with {method}()")
