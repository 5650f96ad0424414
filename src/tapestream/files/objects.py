"""File objects of the caller.

Those of io itself, with or without a buffer over an io.FileIO, are read and written by their
descriptor: there a read that blocks in a pipe can be cancelled, and what a full disk refuses stays
in no buffer. Anything else is used only by its methods: a GzipFile has a fileno(), too, but that is
the packed file's.
"""

from __future__ import annotations

import io
import os
from typing import TypeAlias, cast

from ..errors import UsageError
from .descriptors import is_storage

PlainFile: TypeAlias = "io.FileIO | io.BufferedReader | io.BufferedWriter | io.BufferedRandom"


def plain_file(file: object) -> PlainFile | None:
    """The same object if it is one of io's own over a descriptor; None for anything else."""
    if type(file) in (io.BufferedReader, io.BufferedWriter, io.BufferedRandom):
        return cast(PlainFile, file) if type(file.raw) is io.FileIO else None  # type: ignore[attr-defined]
    return file if type(file) is io.FileIO else None


def raw_file(file: PlainFile) -> io.FileIO:
    """What is below the buffer of a file object, if it has one."""
    return file if isinstance(file, io.FileIO) else cast(io.FileIO, file.raw)


def leave_buffer(file: PlainFile) -> bytes:
    """Empty the buffer of one of io's own file objects: its descriptor then stands where it does.

    Returns:
        What was read ahead from a pipe or a device, and cannot be given back to it.

    Raises:
        OSError: The buffer held data that cannot be written.
    """
    if isinstance(file, io.FileIO):
        return b""
    if is_storage(file.fileno()):
        position = file.tell()
        file.seek(0, os.SEEK_END)  # for a position inside the buffer, seek() keeps the buffer
        file.seek(position)
    elif isinstance(file, io.BufferedReader):
        return _read_ahead(file)
    else:
        file.flush()
    return b""


def return_to_buffer(file: PlainFile) -> None:
    """Let a file object notice where its descriptor stands now."""
    if not file.closed and file.seekable():
        file.seek(0, os.SEEK_CUR)


def _read_ahead(file: io.BufferedReader) -> bytes:
    """Take what a file object has read ahead, without waiting for more."""
    fd = file.fileno()
    blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    try:
        return file.read(len(file.peek()))
    finally:
        os.set_blocking(fd, blocking)


def name_of(file: object) -> str:
    """What a file object is called, for people."""
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
        UsageError: It is in text mode, closed, or no file object.
    """
    if isinstance(file, io.TextIOBase):
        raise UsageError(f"{name_of(file)} is open in text mode: a tar needs binary mode")
    if getattr(file, "closed", False):
        raise UsageError(f"{name_of(file)} is closed: a tar needs an open file")
    if not callable(getattr(file, method, None)):
        raise UsageError(f"{file!r} is neither a path nor a file object with {method}()")
