"""A wrapper that never lets a tar check itself is warned of: damage would go unnoticed."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest

from tapestream import BackupInfo, DiscardSink, Extent, Reader, Source, TarStreamSink, copy
from tapestream import TarStreamSource as Tar
from tapestream.backend import ForwardingSource
from tapestream.errors import DigestMismatchError
from tapestream.testing import MemorySource
from tests.disks import noise


class Opaque(Source):
    """Has the core alone, and no `wrapped`."""

    info = BackupInfo()
    max_readers = 1
    sequential = True

    def __init__(self, other: Source) -> None:
        self._other = other
        self.info = other.info

    def extents(self) -> Iterable[Extent]:
        return self._other.extents()

    def open_reader(self) -> Reader:
        return self._other.open_reader()

    def close(self) -> None:
        self._other.close()


@pytest.fixture
def damaged() -> io.BytesIO:
    target = io.BytesIO()
    copy(MemorySource(noise(10_000)), TarStreamSink(target))
    stream = bytearray(target.getvalue())
    stream[stream.index(noise(10_000)) + 5_000] ^= 1
    return io.BytesIO(stream)


def test_a_wrapper_that_checks_nothing(
    damaged: io.BytesIO, caplog: pytest.LogCaptureFixture
) -> None:
    with Opaque(Tar(damaged)) as source:
        assert copy(source, DiscardSink()).verified is None
    assert "not checked for damage" in caplog.text


def test_a_wrapper_that_lets_it_check_itself(
    damaged: io.BytesIO, caplog: pytest.LogCaptureFixture
) -> None:
    with ForwardingSource(Tar(damaged)) as source, pytest.raises(DigestMismatchError):
        copy(source, DiscardSink())
    assert not caplog.text
