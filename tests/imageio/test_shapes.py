"""Readers and writers use the shape that was learnt: what the real daemon is asked, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from tapestream import BackupInfo, Extent, Extents, ImageioHTTPSource, ImageioUploadSink
from tapestream.backend import Shape
from tapestream.imageio.reader import HTTPReader
from tapestream.imageio.writer import WHOLE
from tapestream.testing import ImageioDaemon, serve_image
from tests.disks import noise
from tests.hostile import Cut, Fault, HostileServer, Reset, Status
from tests.imageio.support import MIB, eventually, gets, gets_of_connections

SIZE = 128 * MIB
DATA = noise(MIB)


@pytest.fixture
def url(daemon: ImageioDaemon, tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "disk.raw"
    with path.open("wb") as f:
        for _ in range(SIZE // MIB):
            f.write(DATA)
    with serve_image(path, format="raw") as nbd:
        yield daemon.add_ticket(nbd, SIZE)


def read(reader: HTTPReader, start: int) -> None:
    """Read half of the disk, all of which is announced first."""
    buffer = memoryview(bytearray(SIZE // 2))
    reader.prefetch(start, len(buffer))
    reader.readinto(start, buffer)
    assert buffer == DATA * (len(buffer) // MIB)


@pytest.mark.parametrize(
    ("shape", "gets"),
    [
        (Shape(4 * MIB, 2), 15),
        (Shape(4 * MIB, 1), 15),
        (Shape(4 * MIB, 4), 15),
        # 8, three times 16, and 8 MiB
        (Shape(16 * MIB, 2), 5),
        (Shape(16 * MIB, 1), 5),
    ],
)
def test_the_daemon_is_asked_in_the_shape_in_use(
    daemon: ImageioDaemon, url: str, shape: Shape, gets: int
) -> None:
    since = len(daemon.read_log())
    with ImageioHTTPSource(url, cafile=daemon.cafile) as source:
        with closing(source.open_reader()) as reader:
            assert shape in reader.shapes(1)
            reader.use(shape)
            read(reader, 0)
        eventually(lambda: sum(gets_of_connections(daemon, since)) >= gets)
    numbers = gets_of_connections(daemon, since)
    assert (len(numbers), sum(numbers)) == (shape.connections, gets)


def test_connections_that_are_not_used_any_more_are_closed(daemon: ImageioDaemon, url: str) -> None:
    """Not immediately: the next stretch of a trial needs them again."""
    since = len(daemon.read_log())
    with (
        ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=False) as source,
        closing(source.open_reader()) as reader,
    ):
        reader.use(Shape(4 * MIB, 4))
        read(reader, 0)
        reader.use(Shape(16 * MIB, 1))
        source.keep_alive()
        assert daemon.ticket_info(url)["connections"] == 4
        read(reader, SIZE // 2)
        source.keep_alive()  # the others were idle since the last time
        eventually(lambda: len(gets_of_connections(daemon, since)) == 3)
        assert daemon.ticket_info(url)["connections"] == 1
        reader.use(Shape(4 * MIB, 2))
        read(reader, 0)
        assert daemon.ticket_info(url)["connections"] == 2


# --- What breaks while the shape changes ---

WIDE = noise(40 * MIB)
ENDS = [0, 8, 12, 16, 20, 36, 40]
PIECES = [(start * MIB, end * MIB) for start, end in pairwise(ENDS)]


def in_three_shapes(reader: HTTPReader) -> None:
    """Announce all of `WIDE`: it is cut into `PIECES`."""
    reader.use(Shape(4 * MIB, 4))
    reader.prefetch(0, 20 * MIB)
    reader.use(Shape(16 * MIB, 2))
    reader.prefetch(20 * MIB, 16 * MIB)
    reader.use(Shape(4 * MIB, 1))
    reader.prefetch(36 * MIB, 4 * MIB)


@pytest.mark.parametrize("start", [start for start, _ in PIECES])
@pytest.mark.parametrize("fault", [Cut(MIB), Reset(0), Status(503)], ids=repr)
def test_a_piece_continues_in_the_shape_in_which_it_was_announced(start: int, fault: Fault) -> None:
    broken: list[int] = []

    def once(n: int, at: int, length: int) -> Fault | None:
        if at != start or broken:
            return None
        broken.append(at)
        return fault

    buffer = memoryview(bytearray(len(WIDE)))
    with (
        HostileServer(WIDE, on_get=once) as server,
        ImageioHTTPSource(server.url, secure=False, retries=1) as source,
        closing(source.open_reader()) as reader,
    ):
        in_three_shapes(reader)
        reader.readinto(0, buffer)
        assert sorted({end for _, end in gets(server)}) == [end for _, end in PIECES]
    assert broken
    assert buffer == WIDE


@pytest.mark.parametrize("position", [0, MIB, 8 * MIB, 15 * MIB, 16 * MIB, 33 * MIB])
def test_a_keep_alive_while_the_shape_changes(position: int) -> None:
    """It gives up the replies under way, also those on connections that are spare from now on."""
    buffer = memoryview(bytearray(len(WIDE)))
    with (
        HostileServer(WIDE) as server,
        ImageioHTTPSource(server.url, secure=False, retries=0) as source,
        closing(source.open_reader()) as reader,
    ):
        in_three_shapes(reader)
        reader.readinto(0, buffer[:position])
        source.keep_alive()
        source.keep_alive()  # nothing was read since the last time
        reader.readinto(position, buffer[position:])
        assert sorted({end for _, end in gets(server)}) == [end for _, end in PIECES]
    assert buffer == WIDE


# --- Uploads ---

SENT = re.compile(r"\[write (\d+) ops, .*\[flush (\d+) ops, ")


def puts_of_connections(daemon: ImageioDaemon, since: int) -> list[tuple[int, int]]:
    """How many PUTs and flushes each connection had that was closed since."""
    found = SENT.findall(daemon.read_log()[since:])
    return sorted((int(puts), int(flushes)) for puts, flushes in found)


@pytest.mark.parametrize(
    ("shapes", "puts"),
    [
        ([Shape(WHOLE, 2)], [(2, 1), (2, 1)]),
        ([Shape(WHOLE, 1)], [(4, 1)]),
        ([Shape(MIB, 2)], [(8, 1), (8, 1)]),
        ([Shape(MIB, 3)], [(5, 1), (5, 1), (6, 1)]),
        # What is not used any more is flushed, too.
        ([Shape(WHOLE, 4), Shape(MIB, 1)], [(1, 1), (9, 1)]),
    ],
)
def test_the_daemon_is_sent_the_data_in_the_shape_in_use(
    daemon: ImageioDaemon, tmp_path: Path, shapes: list[Shape], puts: list[tuple[int, int]]
) -> None:
    size, path = 16 * MIB, tmp_path / "disk.raw"
    path.write_bytes(bytes(size))
    data = memoryview(noise(4 * MIB))
    since = len(daemon.read_log())
    with serve_image(path, format="raw", read_only=False) as nbd:
        url = daemon.add_ticket(nbd, size, ops=["read", "write"])
        with ImageioUploadSink(url, cafile=daemon.cafile) as sink:
            sink.begin(BackupInfo(size=size), Extents.of([Extent(0, size)]))
            with closing(sink.open_writer()) as writer:
                for number in range(4):
                    if number * len(shapes) % 4 == 0:
                        shape = shapes[number * len(shapes) // 4]
                        assert shape in writer.shapes(1)
                        writer.use(shape)
                    writer.write(number * len(data), data)
                writer.flush()
            sink.commit()
        eventually(lambda: puts_of_connections(daemon, since) == puts)
    assert path.read_bytes() == bytes(data) * 4


@pytest.mark.parametrize(("writers", "most"), [(1, 4), (2, 3), (3, 2), (6, 1), (9, 1)])
def test_writers_stay_within_the_limit_of_the_server(
    daemon: ImageioDaemon, tmp_path: Path, writers: int, most: int
) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(MIB))
    with serve_image(path, format="raw", read_only=False) as nbd:
        url = daemon.add_ticket(nbd, MIB, ops=["read", "write"])
        with ImageioUploadSink(url, cafile=daemon.cafile) as sink:
            sink.begin(BackupInfo(size=MIB), Extents.of([Extent(0, MIB)]))
            with closing(sink.open_writer()) as writer:
                assert max(shape.connections for shape in writer.shapes(writers)) == most
