"""DiscardSink: reads and checks everything, keeps nothing."""

from __future__ import annotations

from ..backend.protocols import Sink, Writer
from ..model.extents import Extents
from ..model.info import BackupInfo


class DiscardSink(Sink):
    """Verify a backup, or measure a source: every byte is read and dropped.

    `copy(TarStreamSource(path), DiscardSink())` returns when the whole stream was read and
    matches its manifest, and raises what is wrong with it otherwise.
    """

    max_writers = 1
    sequential = False

    # Without it, help() shows the arguments of Protocol's own, until one was made.
    def __init__(self) -> None:
        """Make one; there is nothing to choose."""

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        """See `Sink.begin`."""

    def open_writer(self) -> Writer:
        """See `Sink.open_writer`."""
        return _DiscardWriter()

    def commit(self) -> None:
        """See `Sink.commit`."""

    def abort(self) -> None:
        """See `Sink.abort`."""

    def close(self) -> None:
        """See `Sink.close`."""


class _DiscardWriter(Writer):
    def write(self, start: int, buffer: memoryview) -> None:
        """Drop the data."""

    def zero(self, start: int, length: int) -> None:
        """Drop the zeros."""

    def close(self) -> None:
        """Nothing to release."""
