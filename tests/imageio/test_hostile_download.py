"""Downloads from servers that are old, large, or hang up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapestream import ImageioHTTPSource, TapestreamError, TarStreamSink, copy
from tapestream.errors import ServerProtocolError
from tapestream.testing import MemorySink
from tests.disks import noise
from tests.hostile import Cut, Fault, HostileServer, SparseImage, Stall
from tests.imageio.downloads import IMAGE, OLD_SERVERS, SIZE, SPARSE, X
from tests.imageio.support import (
    FOREVER,
    GIB,
    KIB,
    MIB,
    Last,
    Say,
    always,
    asked,
    download,
    gets,
    on,
    to_json,
)

# --- Old servers ---


@pytest.mark.parametrize("behaviour", OLD_SERVERS.values(), ids=list(OLD_SERVERS))
def test_an_old_server_gives_the_whole_disk_as_one_data_extent(behaviour: dict[str, Any]) -> None:
    sink = MemorySink()
    with HostileServer(SPARSE, max_readers=None, **behaviour) as server:
        with ImageioHTTPSource(server.url, secure=False) as source:
            assert source.max_readers == 1
            result = copy(source, sink, max_workers=4, buffer_size=64 * KIB)
        assert not asked(server, "GET", "/extents")
        assert gets(server) == [(0, len(SPARSE))]
    assert sink.disk == SPARSE
    assert (result.extents, result.data_bytes, result.zero_bytes) == (1, len(SPARSE), 0)


@pytest.mark.parametrize(
    ("announced", "readers"),
    [(None, 1), (0, 1), (-3, 1), (1, 1), (2, 1), (5, 1), (6, 2), (8, 3), (16, 7)],
)
def test_readers_that_the_server_allows(announced: int | None, readers: int) -> None:
    with (
        HostileServer(IMAGE, max_readers=announced) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        assert source.max_readers == readers


@pytest.mark.parametrize(
    "options",
    [
        b"",
        b"[]",
        b"null",
        b'"extents"',
        b'{"features": 5}',
        b'{"features": [[]]}',
        b'{"max_readers": "many"}',
        b'{"max_readers": [8]}',
        b"\xff\xfe",
        b'{"max_readers": 1e999}',
        b"[" * 100_000,
        b'{"unix_socket": 5}',
    ],
    ids=lambda options: options[:24].decode("latin1"),
)
def test_options_that_make_no_sense(options: bytes) -> None:
    with (
        HostileServer(IMAGE, on_options=always(Say(200, options))) as server,
        pytest.raises(ServerProtocolError, match="OPTIONS"),
    ):
        ImageioHTTPSource(server.url, secure=False)


# --- Large disks ---


def test_data_beyond_8_gib() -> None:
    data = noise(64 * KIB)
    image = SparseImage(64 * 1024 * GIB, {9 * GIB: data, 63 * 1024 * GIB + 512: b"end"})
    found: dict[int, bytes] = {}
    with HostileServer(image) as server:
        with ImageioHTTPSource(server.url, secure=False) as source:
            extents = source.extents()
            assert source.size == image.size
            reader = source.open_reader()
            for extent in extents:
                if not extent.zero:
                    buffer = bytearray(extent.length)
                    reader.prefetch(extent.start, extent.length)
                    reader.readinto(extent.start, memoryview(buffer))
                    found[extent.start] = bytes(buffer)
            reader.close()
        at = 63 * 1024 * GIB
        assert gets(server) == [(9 * GIB, 9 * GIB + 64 * KIB), (at, at + 64 * KIB)]
    assert found[9 * GIB] == data
    assert found[at] == (bytes(512) + b"end").ljust(64 * KIB, b"\0")


class EnoughError(Exception):
    pass


class Enough:
    """A progress that gives up after some data."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.total = 0

    def update(self, n: int) -> None:
        self.left -= n
        if self.left < 0:
            raise EnoughError


def test_one_data_extent_of_more_than_8_gib(tmp_path: Path) -> None:
    size = 9 * GIB + 512
    progress = Enough(40 * MIB)
    image = SparseImage(size, {0: noise(MIB), 20 * MIB: noise(MIB)})
    path = tmp_path / "disk.tar"
    with (
        HostileServer(image, extents=to_json({**X, "length": size})) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
        TarStreamSink(path) as sink,
        pytest.raises(EnoughError),
    ):
        copy(source, sink, progress=progress)
    ranges = sorted(gets(server))
    assert progress.total == size
    assert ranges[0][0] == 0
    assert [start for start, _ in ranges[1:]] == [end for _, end in ranges[:-1]]
    assert not list(tmp_path.iterdir())


def test_the_last_bytes_of_an_extent_of_more_than_8_gib() -> None:
    size = 9 * GIB + 512
    image = SparseImage(size, {size - 512: noise(512)})
    with (
        HostileServer(
            image, extents=to_json({**X, "length": size}), on_get=on(1, Cut(300))
        ) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        reader = source.open_reader()
        buffer = bytearray(1024)
        reader.prefetch(size - 1024, 1024)
        reader.readinto(size - 1024, memoryview(buffer))
        reader.close()
        assert gets(server) == [(size - 1024, size), (size - 724, size)]
    assert buffer == bytes(512) + noise(512)


# --- Hanging up ---


@pytest.mark.parametrize("fault", [Stall(70_000, FOREVER), Last(Stall(70_000, FOREVER))])
def test_closing_a_reader_while_data_is_on_its_way(fault: Fault) -> None:
    """A reader that wants no more closes its connection, instead of reading to the end."""
    with HostileServer(IMAGE, on_get=always(fault)) as server:
        source = ImageioHTTPSource(server.url, secure=False)
        source.extents()
        reader = source.open_reader()
        reader.prefetch(0, SIZE)
        buffer = bytearray(1000)
        reader.readinto(0, memoryview(buffer))
        reader.close()
        source.close()
    assert buffer == IMAGE[:1000]


@pytest.mark.parametrize("error", [TapestreamError("the sink is full"), ValueError("a bug")])
def test_an_error_of_the_sink_ends_the_download(error: Exception) -> None:
    def fail(start: int, length: int) -> None:
        raise error

    with HostileServer(IMAGE) as server, pytest.raises(type(error)) as caught:
        download(server, MemorySink(before_write=fail))
    assert caught.value is error
