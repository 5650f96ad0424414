"""Wrappers whose readers and writers have the core of a backend alone: their abilities are lost."""

from __future__ import annotations

from tapestream import Reader, Writer
from tapestream.backend import ForwardingSink, ForwardingSource


class ForgetfulSource(ForwardingSource):
    """Its readers cannot `prefetch`."""

    def open_reader(self) -> Reader:
        return _ForgetfulReader(super().open_reader())


class _ForgetfulReader(Reader):
    def __init__(self, other: Reader) -> None:
        self._other = other

    def readinto(self, start: int, buffer: memoryview) -> None:
        self._other.readinto(start, buffer)

    def close(self) -> None:
        self._other.close()


class ForgetfulSink(ForwardingSink):
    """Its writers cannot `flush`, and take no digests."""

    def open_writer(self) -> Writer:
        return _ForgetfulWriter(super().open_writer())


class _ForgetfulWriter(Writer):
    def __init__(self, other: Writer) -> None:
        self._other = other

    def write(self, start: int, buffer: memoryview) -> None:
        self._other.write(start, buffer)

    def zero(self, start: int, length: int) -> None:
        self._other.zero(start, length)

    def close(self) -> None:
        self._other.close()
