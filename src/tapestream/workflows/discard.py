"""DiscardSink: reads and checks everything, keeps nothing."""

from __future__ import annotations

from .._typing import override
from ..backend.protocols import Sink, Writer
from ..model.extents import Extents
from ..model.info import BackupInfo


class DiscardSink(Sink):
    """Verify a backup, or measure a source: every byte is read and dropped.

    `copy(TarStreamSource(path), DiscardSink())` returns if the whole stream could be read and
    matches its manifest. Otherwise it raises the first thing that is wrong.
    """

    max_writers = 1
    sequential = False

    # Without this, help() shows the arguments of Protocol's constructor until an object was made.
    def __init__(self) -> None:
        """Make a sink. There are no options."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @override
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        """Nothing to do."""

    @override
    def open_writer(self) -> Writer:
        return _DiscardWriter()

    @override
    def commit(self) -> None:
        """Nothing to do."""

    @override
    def abort(self) -> None:
        """Nothing to do."""

    @override
    def close(self) -> None:
        """Nothing to do."""


class _DiscardWriter(Writer):
    @override
    def write(self, start: int, buffer: memoryview) -> None:
        """Drop the data."""

    @override
    def zero(self, start: int, length: int) -> None:
        """Drop the zeros."""

    @override
    def close(self) -> None:
        """Nothing to release."""
