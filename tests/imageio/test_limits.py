"""A server's limit on connections: qemu-nbd serves eight, as on oVirt's hosts; the ninth hangs."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, Extent, ImageioHTTPSource, ImageioUploadSink
from tapestream.extents import Extents
from tapestream.testing import ImageioDaemon, create_image, serve_image
from tests.imageio.support import KIB, MIB, noise

SIZE = 64 * MIB
PIECE = 256 * KIB
BOTH = pytest.mark.parametrize("unix", [False, True], ids=["tls", "unix"])


@BOTH
def test_writers_leave_room_to_keep_the_ticket_and_to_connect_again(
    daemon: ImageioDaemon, tmp_path: Path, unix: bool
) -> None:
    create_image(tmp_path / "target.qcow2", SIZE)
    data = memoryview(noise(PIECE))
    with serve_image(tmp_path / "target.qcow2", read_only=False) as nbd, ExitStack() as stack:
        url = daemon.add_ticket(nbd, SIZE, ops=["write"])
        options: dict[str, Any] = {
            "cafile": daemon.cafile,
            "use_unix_socket": unix,
            "read_timeout": 10,
        }
        sink = stack.enter_context(ImageioUploadSink(url, **options))
        sink.begin(BackupInfo(size=SIZE), Extents.of([Extent(0, SIZE)]))
        for number in range(sink.max_writers):
            writer = stack.enter_context(closing(sink.open_writer()))
            for start in (0, PIECE):  # one for each of its connections
                writer.write(number * MIB + start, data)
            writer.flush()
        assert daemon.ticket_info(url)["connections"] == 6
        sink.keep_alive()
        with ImageioUploadSink(url, **options):
            sink.keep_alive()


@BOTH
def test_readers_leave_room_to_keep_the_ticket_and_to_connect_again(
    daemon: ImageioDaemon, tmp_path: Path, unix: bool
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(noise(SIZE))
    with serve_image(disk, format="raw") as nbd, ExitStack() as stack:
        url = daemon.add_ticket(nbd, SIZE)
        options: dict[str, Any] = {
            "cafile": daemon.cafile,
            "use_unix_socket": unix,
            "read_timeout": 10,
        }
        source = stack.enter_context(ImageioHTTPSource(url, **options))
        source.extents()
        buffer = memoryview(bytearray(PIECE))
        for number in range(source.max_readers):
            reader = stack.enter_context(closing(source.open_reader()))
            reader.request(number * 16 * MIB, 16 * MIB)  # asked for over all of its connections
            reader.readinto(number * 16 * MIB, buffer)
        source.keep_alive()
        assert daemon.ticket_info(url)["connections"] >= 6
        with ImageioHTTPSource(url, **options):
            source.keep_alive()
