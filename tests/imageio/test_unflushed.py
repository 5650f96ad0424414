"""A sink that wraps an upload and forgets its writer's flush must not pass for a restored disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tapestream import ImageioUploadSink, Writer, copy
from tapestream.backend import ForwardingSink
from tapestream.errors import UsageError
from tapestream.testing import MemorySource
from tests.disks import noise
from tests.hostile import HostileServer, Status
from tests.imageio.support import KIB, SMALL, content, on

IMAGE = noise(256 * KIB)


class Forgetful(ForwardingSink):
    """Its writers have the core alone, of which `flush` is no part."""

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


@pytest.fixture(params=[True, False], ids=["can flush", "cannot flush"])
def server(request: pytest.FixtureRequest) -> Iterator[HostileServer]:
    features = ("extents", "zero", "flush") if request.param else ("extents", "zero")
    with HostileServer(bytes(len(IMAGE)), features=features) as running:
        yield running


def test_writes_that_are_not_flushed_are_an_error(server: HostileServer) -> None:
    with (
        ImageioUploadSink(server.url, secure=False) as sink,
        pytest.raises(UsageError, match="flush"),
    ):
        copy(MemorySource(IMAGE), Forgetful(sink), **SMALL)


def test_a_refused_write_is_no_success_though_its_reply_is_never_read() -> None:
    with (
        HostileServer(bytes(len(IMAGE)), on_put=on(4, Status(500)), max_writers=1) as server,
        ImageioUploadSink(server.url, secure=False) as sink,
    ):
        with pytest.raises(UsageError, match="flush"):
            copy(MemorySource(IMAGE), Forgetful(sink), **SMALL)
        assert content(server) != IMAGE
