"""What wraps an upload or a download with the core of a backend alone, and loses all abilities.

A download then still is right. An upload that is not flushed must not pass for a restored disk.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tapestream import ImageioHTTPSource, ImageioUploadSink, copy
from tapestream.errors import UsageError
from tapestream.testing import MemorySink, MemorySource
from tests.disks import noise
from tests.forgetful import ForgetfulSink, ForgetfulSource
from tests.hostile import HostileServer, Status
from tests.imageio.support import KIB, SMALL, content, on

IMAGE = noise(256 * KIB)


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
        copy(MemorySource(IMAGE), ForgetfulSink(sink), **SMALL)


def test_a_refused_write_is_no_success_though_its_reply_is_never_read() -> None:
    with (
        HostileServer(bytes(len(IMAGE)), on_put=on(4, Status(500)), max_writers=1) as server,
        ImageioUploadSink(server.url, secure=False) as sink,
    ):
        with pytest.raises(UsageError, match="flush"):
            copy(MemorySource(IMAGE), ForgetfulSink(sink), **SMALL)
        assert content(server) != IMAGE


@pytest.mark.parametrize("max_readers", [1, 8])
def test_what_was_not_announced_is_requested_when_it_is_read(max_readers: int) -> None:
    sink = MemorySink()
    image = noise(3 * 64 * KIB) + bytes(64 * KIB) + noise(64 * KIB + 512)
    with (
        HostileServer(image, max_readers=max_readers) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        copy(ForgetfulSource(source), sink, block_hash=True, **SMALL)
    assert sink.disk == image
