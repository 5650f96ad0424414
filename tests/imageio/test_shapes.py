"""A reader uses the shape that was learnt: what the real daemon is asked, and over what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from tapestream import ImageioHTTPSource
from tapestream.backend import Shape
from tapestream.imageio.reader import HTTPReader
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
