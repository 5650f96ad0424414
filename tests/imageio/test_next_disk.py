"""What was learnt on one disk of a server is what the next one begins with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestream import CopyResult, DiscardSink, ImageioHTTPSource, copy
from tapestream.backend import ForwardingSource, Shape
from tapestream.backend.checks import server_of
from tapestream.engine.learning.gap import OF_LOCAL, USE, Known
from tapestream.engine.learning.memory import MEMORY
from tapestream.engine.learning.shape import KnownShape
from tapestream.testing import ImageioDaemon, serve_image
from tests.imageio.support import eventually, gets_of_connections

KIB, MIB = 1024, 1024**2
PIECE = 64 * KIB
REQUEST = 16 * MIB  # the largest
# So small that all of it is requested before a second has passed, however slow the machine is.
SMALL = 2 * REQUEST
# So large that it is not over before the trials.
LARGE = 8 * REQUEST


class Remote(ForwardingSource):
    """The daemon, as if it were on another host: nothing is known about those."""

    server_is_local = False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """Pieces of 64 KiB with holes that are as long, for the daemon."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as f:
        for start in range(0, LARGE, 2 * PIECE):
            f.seek(start)
            f.write(b"%64d" % start * KIB)
    with serve_image(path, format="raw") as nbd_url:
        yield nbd_url


def back_up(source: ForwardingSource | ImageioHTTPSource) -> CopyResult:
    with source, DiscardSink() as sink:
        return copy(source, sink, max_workers=1)


def requests_for(size: int, max_gap: int | None) -> int:
    """Requests for that much of the disk which read through gaps of up to `max_gap` bytes."""
    return size // (REQUEST if max_gap and max_gap >= PIECE else 2 * PIECE)


def test_the_second_disk_begins_where_the_first_ended(daemon: ImageioDaemon, disk: str) -> None:
    sources = [
        Remote(ImageioHTTPSource(daemon.add_ticket(disk, LARGE), cafile=daemon.cafile))
        for _ in range(2)
    ]
    first = back_up(sources[0])
    assert requests_for(LARGE, MIB) < first.requests < requests_for(LARGE, 0)  # it tried both
    known = MEMORY.recall(server_of(sources[1]), Known)
    assert known is not None
    assert known.phase == USE  # for longer than the second disk takes
    assert back_up(sources[1]).requests == requests_for(LARGE, known.max_gap)


def test_of_a_server_on_this_host_something_is_known_from_the_start(
    daemon: ImageioDaemon, disk: str
) -> None:
    sources = [
        ImageioHTTPSource(daemon.add_ticket(disk, SMALL), cafile=daemon.cafile) for _ in range(2)
    ]
    assert back_up(sources[0]).requests == requests_for(SMALL, OF_LOCAL.max_gap)
    # Another disk has shown something else meanwhile.
    MEMORY.remember(server_of(sources[1]), Known(0, USE, 60.0))
    assert back_up(sources[1]).requests == requests_for(SMALL, 0)
    known = MEMORY.recall(server_of(sources[1]), Known)
    assert known is not None
    assert known.seen.requests == requests_for(SMALL, 0)


def test_a_small_disk_is_asked_in_the_shape_that_is_known(daemon: ImageioDaemon, disk: str) -> None:
    source = ImageioHTTPSource(daemon.add_ticket(disk, SMALL), cafile=daemon.cafile)
    server, shape = server_of(source), Shape(16 * MIB, 1)
    MEMORY.remember(server, Known(MIB, USE, 60.0))
    MEMORY.remember(server, KnownShape(shape, 1.0))
    since = len(daemon.read_log())
    back_up(source)
    # One GET of 16 MiB, one of 8 MiB as the first, and the rest.
    eventually(lambda: gets_of_connections(daemon, since) == [3])
    known = MEMORY.recall(server, KnownShape)
    assert known is not None
    assert known.shape == shape
    assert known.seconds > 1.0


def test_a_small_disk_teaches_no_shape(daemon: ImageioDaemon, disk: str) -> None:
    source = ImageioHTTPSource(daemon.add_ticket(disk, SMALL), cafile=daemon.cafile)
    back_up(source)
    assert MEMORY.recall(server_of(source), KnownShape) is None
