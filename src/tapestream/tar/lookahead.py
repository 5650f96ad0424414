"""Reads a stream, and looks ahead in it: what it looked at is read again later."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from typing_extensions import Buffer

from ..errors import IncompleteStreamError, LocalIOError


class Readable(Protocol):
    """Where members are read from: a medium, or a medium with zeros for unreadable places."""

    @property
    def name(self) -> str:
        """The medium's name, for people."""

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one byte; return 0 at the end."""


class LookAhead:
    """A stream, and the bytes that were read ahead from it.

    Args:
        stream: Where to read from.

    Attributes:
        offset: How many bytes were read, without those that were only looked at.
    """

    def __init__(self, stream: Readable) -> None:
        self.offset = 0
        self._stream = stream
        self._ahead = memoryview(b"")
        self._error: IncompleteStreamError | LocalIOError | None = None

    def go_on_with(self, stream: Readable) -> None:
        """Read the rest from another object, which is at the same place of the stream."""
        self._stream, self._error = stream, None

    @property
    def ahead(self) -> int:
        """How many bytes after `offset` are in memory already."""
        return len(self._ahead)

    def _fill(self, view: memoryview) -> int:
        """Fill the view; return how many bytes there were, fewer than all only at the end."""
        done = len(self._ahead[: len(view)])
        view[:done], self._ahead = self._ahead[:done], self._ahead[done:] or memoryview(b"")
        self.offset += done
        while done < len(view):
            count = self._read(view[done:])
            if count == 0:
                break
            done += count
            self.offset += count
        return done

    def _read(self, view: memoryview) -> int:
        """Read from the stream; after an error while looking ahead, raise that error again."""
        if self._error is not None:
            raise self._error
        try:
            return self._stream.readinto(view)
        except (IncompleteStreamError, LocalIOError) as e:
            self._error = e
            raise

    def _read_on(self, length: int) -> bytearray:
        """Read up to `length` bytes; an error ends this, and is raised when the rest is read."""
        data = bytearray(length)
        begin = self.offset
        with suppress(LocalIOError, IncompleteStreamError):
            self._fill(memoryview(data))
        count = self.offset - begin
        return data if count == length else data[:count]

    def _next_bytes(self, length: int) -> bytes:
        """The next bytes of the stream; they are read again later."""
        ahead = memoryview(bytearray(length))
        self._push_back(ahead[: self._fill(ahead)])
        return bytes(self._ahead[:length])

    def _push_back(self, data: Buffer) -> None:
        """Put back the bytes that were read last, so that they are read once more."""
        data = memoryview(data)
        self.offset -= len(data)
        self._ahead = memoryview(bytes(data) + self._ahead) if self._ahead else data
