"""A server's limit on connections: qemu-nbd serves eight, as on oVirt's hosts; the ninth hangs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, Extent, ImageioHTTPSource, ImageioUploadSink, copy
from tapestream.model.extents import Extents
from tapestream.testing import ImageioDaemon, MemorySink, MemorySource, create_image, serve_image
from tests.disks import noise
from tests.engine.kept import copy_kept_alive
from tests.hostile import HostileServer, Request
from tests.imageio.support import KIB, MIB, asked, content, eventually

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
            reader.prefetch(number * 16 * MIB, 16 * MIB)  # asked for over all of its connections
            reader.readinto(number * 16 * MIB, buffer)
        source.keep_alive()
        # The daemon may not have accepted yet what was asked for ahead.
        eventually(lambda: daemon.ticket_info(url)["connections"] >= 6)
        with ImageioHTTPSource(url, **options):
            source.keep_alive()


# --- Keep-alive ---


def paused(image: bytes, wait: Callable[[], None]) -> MemorySource:
    """A source that waits once in the middle."""
    waits = iter([wait])

    def pause(start: int, length: int) -> None:
        if start >= SIZE // 2:
            next(waits, lambda: None)()

    return MemorySource(image, before_read=pause)


class Pause:
    """Lasts until every connection was used several times to keep the ticket.

    Attributes:
        requests: What the server was asked meanwhile, once every connection had carried data.
    """

    def __init__(self, server: HostileServer, method: str, connections: int) -> None:
        self.requests: list[Request] = []
        self._server, self._method, self._connections = server, method, connections

    def __call__(self, _: int = 0) -> None:
        eventually(lambda: self._used() >= self._connections)
        # Until then it was asked over another connection, and may be so once more: one such
        # request may be on its way, and be counted next.
        self._wait_for(2)
        before = len(self._server.requests)
        self._wait_for(4 * self._connections)
        self.requests = self._server.requests[before:]

    def _used(self) -> int:
        return len({request.connection for request in asked(self._server, self._method)})

    def _wait_for(self, number: int) -> None:
        enough = len(asked(self._server, "OPTIONS")) + number
        eventually(lambda: len(asked(self._server, "OPTIONS")) >= enough)


@pytest.mark.parametrize("limit", [1, 2, 8])
def test_to_keep_the_ticket_of_an_upload_takes_no_connection_more(limit: int) -> None:
    """It asks over those that upload."""
    data = noise(SIZE)
    with (
        HostileServer(bytes(SIZE), max_writers=limit) as server,
        ImageioUploadSink(server.url, secure=False) as sink,
    ):
        pause = Pause(server, "PUT", 2 if limit == 8 else 1)
        copy_kept_alive(paused(data, pause), sink, max_workers=1, interval=0.01)
        assert content(server) == data
        used = {put.connection for put in asked(server, "PUT")}
    assert {r.connection for r in pause.requests if r.method == "OPTIONS"} <= used


@pytest.mark.parametrize("limit", [1, 2, 8])
def test_to_keep_the_ticket_of_a_download_takes_no_connection_more(limit: int) -> None:
    """It asks over those that download, each of which is made anew: its reply came to nobody."""
    data = noise(SIZE)
    with (
        HostileServer(data, max_readers=limit) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        pause = Pause(server, "GET", 2 if limit == 8 else 1)
        waits = iter([pause])

        def wait(start: int, length: int) -> None:
            for once in waits:
                once()

        sink = MemorySink(before_write=wait)
        copy_kept_alive(
            source, sink, max_workers=1, buffer_size=MIB, buffer_memory=2 * MIB, interval=0.01
        )
        used = {get.connection for get in asked(server, "GET")}
    assert sink.disk == data
    assert {r.connection for r in pause.requests if r.method == "OPTIONS"} <= used


@BOTH
def test_connections_are_not_idle_while_the_source_pauses(
    daemon: ImageioDaemon,
    tmp_path: Path,
    unix: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The daemon would close them, and give the ticket up."""
    path = tmp_path / "target.raw"
    create_image(path, SIZE, "raw")
    data = noise(SIZE)
    with serve_image(path, format="raw", read_only=False) as nbd:
        url = daemon.add_ticket(nbd, SIZE, ops=["write"], timeout=4, inactivity_timeout=4)
        with ImageioUploadSink(url, cafile=daemon.cafile, use_unix_socket=unix) as sink:
            copy_kept_alive(paused(data, lambda: time.sleep(8)), sink, interval=0.5)
    assert "sent again" not in caplog.text
    assert path.read_bytes() == data


class Firewall:
    """Forwards connections to a port, and forgets those that are idle: nobody hears of that."""

    def __init__(self, port: int, idle: float) -> None:
        self._port, self._idle = port, idle
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Firewall:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in [self._listener, *self._sockets]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                last = [time.monotonic()]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(*ends, last), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, last: list[float]) -> None:
        with suppress(OSError):
            while data := source.recv(64 * KIB):
                if time.monotonic() - last[0] > self._idle:
                    last[0] = 0
                    continue
                last[0] = time.monotonic()
                target.sendall(data)
            if time.monotonic() - last[0] <= self._idle:
                target.shutdown(socket.SHUT_WR)


def test_a_firewall_that_forgets_the_connections_of_an_upload(
    daemon: ImageioDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "target.raw"
    create_image(path, SIZE, "raw")
    data = noise(SIZE)
    with (
        Firewall(daemon.port, idle=4) as firewall,
        serve_image(path, format="raw", read_only=False) as nbd,
    ):
        url = daemon.add_ticket(nbd, SIZE, ops=["write"])
        url = url.replace(f":{daemon.port}/", f":{firewall.port}/")
        with ImageioUploadSink(
            url, cafile=daemon.cafile, use_unix_socket=False, read_timeout=10
        ) as sink:
            copy_kept_alive(paused(data, lambda: time.sleep(6)), sink, interval=0.3)
    assert path.read_bytes() == data


def test_a_firewall_that_forgets_the_connections_of_a_download(
    daemon: ImageioDaemon, tmp_path: Path
) -> None:
    """What was asked for comes over new ones."""
    path = tmp_path / "disk.raw"
    data = noise(SIZE)
    path.write_bytes(data)
    waits = iter([6.0])

    def wait(start: int, length: int) -> None:
        if start >= SIZE // 4:
            time.sleep(next(waits, 0))

    with (
        Firewall(daemon.port, idle=4) as firewall,
        serve_image(path, format="raw") as nbd,
    ):
        url = daemon.add_ticket(nbd, SIZE).replace(f":{daemon.port}/", f":{firewall.port}/")
        sink = MemorySink(before_write=wait)
        with ImageioHTTPSource(
            url, cafile=daemon.cafile, use_unix_socket=False, read_timeout=3
        ) as source:
            copy(source, sink, max_workers=1, buffer_size=MIB, buffer_memory=2 * MIB)
    assert sink.disk == data
