from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trustme

from tapestream import (
    BackupInfo,
    DiscardSink,
    Extent,
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSource,
    Reader,
    TapestreamError,
    copy,
)
from tapestream.errors import (
    CertificateError,
    ClosedError,
    ServerUnreachableError,
    TargetSizeError,
    TicketError,
    UsageError,
)
from tapestream.imageio.connection import Connection
from tapestream.model.extents import Extents
from tapestream.testing import (
    ImageioDaemon,
    ImageServer,
    MemorySink,
    MemorySource,
    compare_images,
    create_image,
    serve_image,
)
from tests.disks import noise
from tests.engine.kept import copy_kept_alive
from tests.hostile import HostileServer
from tests.imageio.support import KIB, MIB, SMALL, TLSServer, authority, eventually
from tests.throttle import Throttled

SIZE = 64 * MIB
BOTH = pytest.mark.parametrize("unix", [False, True], ids=["tls", "unix"])
OPEN: tuple[Callable[..., ImageioHTTPSource | ImageioUploadSink], ...] = (
    ImageioHTTPSource,
    ImageioUploadSink,
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw image of 64 MiB, the first half of which is data."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    with path.open("wb") as f:
        f.write(noise(SIZE // 2))
        f.truncate(SIZE)
    return path


@pytest.fixture
def export(disk: Path) -> Iterator[str]:
    with serve_image(disk, format="raw") as nbd_url:
        yield nbd_url


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    """The export of an empty image, whose path is target.qcow2."""
    create_image(tmp_path / "target.qcow2", SIZE)
    with serve_image(tmp_path / "target.qcow2", read_only=False) as nbd_url:
        yield nbd_url


@pytest.fixture
def url(daemon: ImageioDaemon, export: str) -> str:
    return daemon.add_ticket(export, SIZE)


@pytest.fixture
def upload_url(daemon: ImageioDaemon, target: str) -> str:
    return daemon.add_ticket(target, SIZE, ops=["write"])


@pytest.fixture
def wrong_ca(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


def refused(url: str, daemon: ImageioDaemon) -> bool:
    try:
        ImageioHTTPSource(url, cafile=daemon.cafile).close()
    except TicketError:
        return True
    return False


# --- Trust ---


@pytest.mark.parametrize("open_", OPEN)
def test_a_wrong_ca(open_: Callable[..., Any], upload_url: str, wrong_ca: Path) -> None:
    with pytest.raises(CertificateError) as caught:
        open_(upload_url, cafile=wrong_ca)
    assert "engine's internal CA" in str(caught.value)
    assert "pki-resource" in str(caught.value)


def test_the_ca_of_the_system_is_not_the_engines(url: str) -> None:
    with pytest.raises(CertificateError, match="engine's internal CA"):
        ImageioHTTPSource(url)


def test_a_certificate_of_another_host(tmp_path: Path) -> None:
    """It is that of 127.0.0.1, and by no other name."""
    cafile = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(cafile)
    with TLSServer(b"disk") as server:
        with pytest.raises(CertificateError, match="localhost"):
            ImageioHTTPSource(server.url.replace("127.0.0.1", "localhost"), cafile=cafile)
        assert not server.requests


@pytest.mark.parametrize("trusted", [False, True])
def test_not_secure(url: str, upload_url: str, wrong_ca: Path, trusted: bool) -> None:
    cafile = wrong_ca if trusted else None
    with (
        ImageioHTTPSource(url, cafile=cafile, secure=False, use_unix_socket=False) as source,
        ImageioUploadSink(upload_url, cafile=cafile, secure=False, use_unix_socket=False) as sink,
    ):
        copy(source, sink)


@pytest.mark.parametrize("name", ["missing.pem", "empty.pem", "junk.pem", "."])
def test_a_ca_file_that_is_none(url: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.pem").touch()
    (tmp_path / "junk.pem").write_text("not a certificate")
    with pytest.raises(UsageError, match="cafile"):
        ImageioHTTPSource(url, cafile=tmp_path / name)


# --- Tickets ---


@pytest.mark.parametrize("open_", OPEN)
def test_an_unknown_ticket(
    open_: Callable[..., Any], daemon: ImageioDaemon, upload_url: str
) -> None:
    unknown = f"{upload_url.rpartition('/')[0]}/{uuid4()}"
    with pytest.raises(TicketError):
        open_(unknown, cafile=daemon.cafile)


def test_an_expired_ticket(daemon: ImageioDaemon, export: str) -> None:
    url = daemon.add_ticket(export, SIZE, timeout=1)
    with ImageioHTTPSource(url, cafile=daemon.cafile) as source:
        time.sleep(2.5)
        with pytest.raises(TicketError, match="expired"):
            copy(source, DiscardSink())


@BOTH
def test_a_ticket_that_is_removed_in_the_middle(
    daemon: ImageioDaemon, url: str, unix: bool
) -> None:
    remover = threading.Thread(target=daemon.remove_ticket, args=(url,))

    def remove(start: int, length: int) -> None:
        if remover.ident is None:
            remover.start()
            eventually(lambda: refused(url, daemon))

    sink = MemorySink(before_write=remove)
    with (
        ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=unix) as source,
        pytest.raises(TicketError),
    ):
        copy(source, sink, max_workers=1, buffer_size=MIB, buffer_memory=2 * MIB)
    remover.join()
    assert sink.state == "aborted"
    data = noise(SIZE // 2)
    for start, length in sink.writes:
        assert sink.disk[start : start + length] == data[start : start + length]


@pytest.mark.parametrize(
    ("unix", "size"),
    [
        (True, MIB),
        (True, 16 * MIB),
        # Not run: whether a small body fits into the kernel's buffers is chance.
        (False, MIB),
        (False, 16 * MIB),
    ],
)
def test_an_upload_ticket_that_is_removed_in_the_middle(
    daemon: ImageioDaemon, upload_url: str, unix: bool, size: int
) -> None:
    class Remove:
        def update(self, n: int) -> None:
            with suppress(LookupError):
                daemon.remove_ticket(upload_url)

    with (
        ImageioUploadSink(upload_url, cafile=daemon.cafile, use_unix_socket=unix) as sink,
        pytest.raises(TicketError),
    ):
        copy(
            MemorySource(noise(SIZE)),
            sink,
            max_workers=1,
            buffer_size=size,
            buffer_memory=2 * size,
            progress=Remove(),
        )


@BOTH
def test_a_download_ticket_does_not_allow_to_write(
    daemon: ImageioDaemon, url: str, unix: bool
) -> None:
    with pytest.raises(TicketError, match="does not allow to write"):
        ImageioUploadSink(url, cafile=daemon.cafile, use_unix_socket=unix)


@BOTH
def test_nothing_is_left_of_a_copy(
    daemon: ImageioDaemon, url: str, upload_url: str, unix: bool
) -> None:
    """So that the engine can finalize the transfer at once."""
    with (
        ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=unix) as source,
        ImageioUploadSink(upload_url, cafile=daemon.cafile, use_unix_socket=unix) as sink,
    ):
        copy(source, sink)
        for ticket in (url, upload_url):
            eventually(lambda t=ticket: daemon.ticket_info(t)["connections"] == 0)  # type: ignore[misc]
            daemon.remove_ticket(ticket)


@pytest.mark.parametrize(
    "unix",
    [
        pytest.param(False, id="tls"),
        pytest.param(True, id="unix"),
    ],
)
def test_nothing_is_left_of_a_copy_that_failed(daemon: ImageioDaemon, url: str, unix: bool) -> None:
    def fail(start: int, length: int) -> None:
        raise TapestreamError("the tape is full")

    with (
        ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=unix) as source,
        pytest.raises(TapestreamError, match="the tape is full"),
    ):
        copy(source, MemorySink(before_write=fail))
    eventually(lambda: daemon.ticket_info(url)["connections"] == 0)
    daemon.remove_ticket(url)


# --- Sizes ---


@BOTH
def test_a_target_that_is_too_small(daemon: ImageioDaemon, upload_url: str, unix: bool) -> None:
    with (
        ImageioUploadSink(upload_url, cafile=daemon.cafile, use_unix_socket=unix) as sink,
        pytest.raises(TargetSizeError, match=str(SIZE + 512)),
    ):
        copy(MemorySource(bytes(SIZE + 512), [Extent(0, SIZE + 512, zero=True)]), sink)


# --- Ways to the server ---


def test_the_unix_socket_is_used_here(daemon: ImageioDaemon, url: str, upload_url: str) -> None:
    with (
        ImageioHTTPSource(url, cafile=daemon.cafile) as source,
        ImageioUploadSink(upload_url, cafile=daemon.cafile) as sink,
    ):
        assert source.over_unix_socket
        assert source.server_is_local
        assert sink.over_unix_socket
        assert sink.server_is_local
        copy(source, sink)
    assert uses_of_unix_socket(daemon, url) > 0
    assert uses_of_unix_socket(daemon, upload_url) > 0


def test_the_unix_socket_is_not_used_when_not_wanted(
    daemon: ImageioDaemon, url: str, upload_url: str
) -> None:
    with (
        ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=False) as source,
        ImageioUploadSink(upload_url, cafile=daemon.cafile, use_unix_socket=False) as sink,
    ):
        assert not source.over_unix_socket
        assert source.server_is_local
        assert not sink.over_unix_socket
        assert sink.server_is_local
        copy(source, sink)
    assert uses_of_unix_socket(daemon, url) == 0


def test_a_server_on_another_host(
    daemon: ImageioDaemon, url: str, upload_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "is_local", lambda self: False)
    with (
        ImageioHTTPSource(url, cafile=daemon.cafile) as source,
        ImageioUploadSink(upload_url, cafile=daemon.cafile) as sink,
    ):
        assert not source.over_unix_socket
        assert not source.server_is_local
        assert not sink.server_is_local


def uses_of_unix_socket(daemon: ImageioDaemon, url: str) -> int:
    """How often the daemon has logged this ticket with a client of the local service."""
    name = url.rpartition("/")[2][:18]
    lines = [s for s in daemon.read_log().splitlines() if name in s and "[images]" in s]
    assert lines
    return sum("[local]" in line for line in lines)


def test_an_abstract_unix_socket(tmp_path: Path, export: str, target: str) -> None:
    address = f"\0tapestream-test-{os.getpid()}"
    with ImageioDaemon(tmp_path / "daemon", local_socket=address) as daemon:
        url = daemon.add_ticket(export, SIZE)
        upload_url = daemon.add_ticket(target, SIZE, ops=["write"])
        with (
            ImageioHTTPSource(url, cafile=daemon.cafile) as source,
            ImageioUploadSink(upload_url, cafile=daemon.cafile) as sink,
        ):
            assert source.over_unix_socket
            assert sink.over_unix_socket
            copy(source, sink)


@pytest.mark.parametrize(
    "path", ["/nonexistent/socket", "\0tapestream-nobody-listens", "x" * 200, "", "sock\udcff"]
)
def test_a_unix_socket_that_does_not_answer(path: str, caplog: pytest.LogCaptureFixture) -> None:
    image = noise(KIB)
    sink = MemorySink()
    with (
        HostileServer(image, unix_socket=path) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        assert not source.over_unix_socket
        copy(source, sink)
    assert sink.disk == image
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == (1 if path else 0)
    assert all("unix socket" in record.getMessage() for record in warnings)


def test_a_unix_socket_of_another_daemon(
    tmp_path: Path, daemon: ImageioDaemon, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not know the ticket."""
    image = noise(KIB)
    with (
        HostileServer(image, unix_socket=daemon.local_socket) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        assert not source.over_unix_socket
        copy(source, DiscardSink())
    assert "unix socket" in caplog.text


def test_the_proxy_is_used_when_the_host_cannot_be_reached(
    daemon: ImageioDaemon, url: str, upload_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(url: str) -> str:
        return url.replace(str(daemon.port), str(closed_port()))

    with (
        ImageioHTTPSource(unreachable(url), proxy_url=url, cafile=daemon.cafile) as source,
        ImageioUploadSink(
            unreachable(upload_url), proxy_url=upload_url, cafile=daemon.cafile
        ) as sink,
    ):
        copy(source, sink)
    assert caplog.text.count("Using the proxy") == 2


@pytest.mark.parametrize("open_", OPEN)
def test_neither_host_nor_proxy_can_be_reached(open_: Callable[..., Any]) -> None:
    url, proxy_url = (f"https://127.0.0.1:{closed_port()}/images/ticket" for _ in range(2))
    with pytest.raises(ServerUnreachableError, match=proxy_url.split("/")[2]):
        open_(url, proxy_url=proxy_url)
    with pytest.raises(ServerUnreachableError, match="proxy_url"):
        open_(url)


def test_a_host_without_a_name() -> None:
    with pytest.raises(ServerUnreachableError, match=r"nowhere\.invalid"):
        ImageioHTTPSource("https://nowhere.invalid:54322/images/ticket")


def test_the_proxy_is_not_used_when_the_host_refuses(daemon: ImageioDaemon, url: str) -> None:
    unknown = f"{url.rpartition('/')[0]}/{uuid4()}"
    with pytest.raises(TicketError):
        ImageioHTTPSource(unknown, proxy_url=url, cafile=daemon.cafile)


def test_the_proxy_is_not_used_when_the_host_is_not_trusted(
    daemon: ImageioDaemon, url: str, wrong_ca: Path
) -> None:
    with pytest.raises(CertificateError):
        ImageioHTTPSource(url, proxy_url=url, cafile=wrong_ca)


# --- URLs ---

MALFORMED = [
    "",
    "ticket",
    "/images/ticket",
    "host/images/ticket",
    "https://",
    "https://host",
    "https://host/",
    "https://host/images/",
    "https:///images/ticket",
    "https://host:port/images/ticket",
    "https://host:99999/images/ticket",
    "https://[::1/images/ticket",
    "https://host/images/ticket?close=y",
    "https://host/images/ticket#part",
    "https://host/images/tic ket",
    "https://host/images/t\xefcket",
    "https://host/images/tick\x7fet",
    "ftp://host/images/ticket",
    "file:///images/ticket",
    "nbd:unix:/socket",
    "https://127.0.0.1:1/images/ticket ",
    "https://127.0.0.1:1/images/ticke\u0165",
]


@pytest.mark.parametrize("open_", OPEN)
@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url(open_: Callable[..., Any], url: str) -> None:
    with pytest.raises(UsageError):
        open_(url)


@pytest.mark.parametrize("open_", OPEN)
def test_plain_http_is_asked_for(open_: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="secure=False"):
        open_("http://127.0.0.1:1/images/ticket")


@pytest.mark.parametrize("open_", OPEN)
@pytest.mark.parametrize("url", ["ticket", "http://127.0.0.1:1/images/ticket"])
def test_a_malformed_proxy_url_is_found_at_once(open_: Callable[..., Any], url: str) -> None:
    with pytest.raises(UsageError):
        open_("https://127.0.0.1:1/images/ticket", proxy_url=url)


@pytest.mark.parametrize("open_", OPEN)
def test_http_must_be_wanted(open_: Callable[..., Any]) -> None:
    with (
        HostileServer(b"disk") as server,
        pytest.raises(UsageError, match="secure=False"),
    ):
        open_(server.url)
    assert not server.requests


def test_a_url_with_an_unknown_context() -> None:
    with pytest.raises(UsageError, match="context"):
        ImageioHTTPSource("https://host/images/ticket", context="full")  # type: ignore[arg-type]


# --- A raw image behind the daemon itself ---


@BOTH
def test_a_file_in_both_directions(
    daemon: ImageioDaemon, disk: Path, tmp_path: Path, unix: bool
) -> None:
    restored = tmp_path / "restored.raw"
    with restored.open("wb") as f:
        f.write(b"old" * MIB)
        f.truncate(SIZE)
    url = daemon.add_ticket(disk.as_uri(), SIZE)
    upload_url = daemon.add_ticket(restored.as_uri(), SIZE, ops=["write"])
    with (
        ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=unix) as source,
        ImageioUploadSink(upload_url, cafile=daemon.cafile, use_unix_socket=unix) as sink,
    ):
        assert sink.max_writers == 1
        assert [(e.start, e.length, e.zero) for e in source.extents()] == [(0, SIZE, False)]
        result = copy(source, sink)
    assert result.data_bytes == SIZE
    compare_images(disk, restored, a_format="raw", b_format="raw")


@BOTH
def test_zeros_and_the_tail_of_a_file(
    daemon: ImageioDaemon, disk: Path, tmp_path: Path, unix: bool
) -> None:
    restored = tmp_path / "restored.raw"
    size = SIZE + 2 * MIB
    restored.write_bytes(b"x" * size)
    upload_url = daemon.add_ticket(restored.as_uri(), size, ops=["write"])
    with (
        RawImageSource(disk) as source,
        ImageioUploadSink(upload_url, cafile=daemon.cafile, use_unix_socket=unix) as sink,
    ):
        copy(source, sink)
    compare_images(disk, restored, a_format="raw", b_format="raw")


def test_dirty_extents_of_a_file(daemon: ImageioDaemon, disk: Path) -> None:
    url = daemon.add_ticket(disk.as_uri(), SIZE, dirty=True)
    with (
        ImageioHTTPSource(url, cafile=daemon.cafile, context="dirty") as source,
        pytest.raises(TapestreamError, match="full backup"),
    ):
        source.extents()


# --- Idle connections ---


@BOTH
def test_a_slow_sink(
    daemon: ImageioDaemon, disk: Path, export: str, tmp_path: Path, unix: bool
) -> None:
    """The daemon drops the connection in the middle of a download."""
    url = daemon.add_ticket(export, SIZE, inactivity_timeout=1)
    idle = iter([3.0])

    def wait(start: int, length: int) -> None:
        if start >= 4 * MIB:
            time.sleep(next(idle, 0))

    sink = MemorySink(before_write=wait)
    with ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=unix) as source:
        copy(source, sink, max_workers=1, buffer_size=MIB, buffer_memory=2 * MIB)
    assert sink.disk == disk.read_bytes()


@BOTH
def test_a_slow_source(
    daemon: ImageioDaemon, target: str, disk: Path, tmp_path: Path, unix: bool
) -> None:
    """The daemon drops the connection between two uploads."""
    url = daemon.add_ticket(target, SIZE, ops=["write"], inactivity_timeout=1)
    idle = iter([3.0])

    class Slow:
        def update(self, n: int) -> None:
            time.sleep(next(idle, 0))

    with (
        RawImageSource(disk) as source,
        ImageioUploadSink(url, cafile=daemon.cafile, use_unix_socket=unix) as sink,
    ):
        copy(source, sink, max_workers=1, progress=Slow())
    restored = MemorySink()
    url = daemon.add_ticket(target, SIZE)
    with ImageioHTTPSource(url, cafile=daemon.cafile, info=BackupInfo(vm_id="1")) as restored_disk:
        assert restored_disk.info.vm_id == "1"
        copy(restored_disk, restored)
    assert restored.disk == disk.read_bytes()


def test_small_blocks_over_tls(daemon: ImageioDaemon, disk: Path, url: str) -> None:
    sink = MemorySink()
    with ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=False) as source:
        copy(source, sink, **SMALL)
    assert sink.disk == disk.read_bytes()


# --- A ticket that nobody uses for longer than it lives ---


class StalledSink(MemorySink):
    """Waits before the first byte, as for a drive that others use."""

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        time.sleep(4)
        super().begin(info, extents)


class StalledSource(RawImageSource):
    """Waits before the first byte, as for a tape that is being loaded."""

    def open_reader(self) -> Reader:
        time.sleep(4)
        return super().open_reader()


@pytest.mark.parametrize("often", [True, False])
@BOTH
def test_the_ticket_of_a_download_outlives_a_stall(
    daemon: ImageioDaemon,
    disk: Path,
    export: str,
    unix: bool,
    often: bool,
) -> None:
    """And it would not, were it not used meanwhile."""
    interval = 0.5 if often else 1000
    url = daemon.add_ticket(export, SIZE, timeout=2)
    sink = StalledSink()
    with ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=unix) as source:
        if often:
            copy_kept_alive(source, sink, interval=interval)
            assert sink.disk == disk.read_bytes()
        else:
            with pytest.raises(TicketError):
                copy_kept_alive(source, sink, interval=interval)


@pytest.mark.parametrize("often", [True, False])
@BOTH
def test_the_ticket_of_an_upload_outlives_a_stall(
    daemon: ImageioDaemon,
    disk: Path,
    target: str,
    unix: bool,
    often: bool,
) -> None:
    interval = 0.5 if often else 1000
    url = daemon.add_ticket(target, SIZE, ops=["write"], timeout=2)
    with (
        StalledSource(disk) as source,
        ImageioUploadSink(url, cafile=daemon.cafile, use_unix_socket=unix) as sink,
    ):
        if not often:
            with pytest.raises(TicketError):
                copy_kept_alive(source, sink, interval=interval)
            return
        copy_kept_alive(source, sink, interval=interval)
    restored = MemorySink()
    with ImageioHTTPSource(daemon.add_ticket(target, SIZE), cafile=daemon.cafile) as back:
        copy(back, restored)
    assert restored.disk == disk.read_bytes()


# --- A wrapper that knows nothing of servers ---


@BOTH
def test_the_ticket_of_a_throttled_download_outlives_a_stall(
    daemon: ImageioDaemon, disk: Path, export: str, unix: bool
) -> None:
    url = daemon.add_ticket(export, SIZE, timeout=2)
    sink = StalledSink()
    source = Throttled(ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=unix))
    with source:
        result = copy_kept_alive(source, sink, interval=0.5, max_workers=1)
    assert sink.disk == disk.read_bytes()
    assert result.requests < len(source.counts)  # and ranges were asked for in one request


@BOTH
def test_a_throttled_download_that_hangs_is_cancelled(
    daemon: ImageioDaemon, disk: Path, unix: bool
) -> None:
    with ImageServer(disk, format="raw") as nbd, ThreadPoolExecutor() as pool:
        url = daemon.add_ticket(nbd.url, SIZE)
        inner = ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=unix)
        source = Throttled(inner, rate=16 * MIB)
        sink = HangingSink(nbd.pid)
        try:
            copying = pool.submit(copy, source, sink)
            assert sink.hangs.wait(30)
            began = time.monotonic()
            source.close()
            with pytest.raises(ClosedError):
                copying.result(30)
            assert time.monotonic() - began < 20  # read_timeout is 60 seconds
        finally:
            os.kill(nbd.pid, signal.SIGCONT)


class HangingSink(MemorySink):
    """Stops the server's storage after the first byte."""

    def __init__(self, pid: int) -> None:
        super().__init__(before_write=self._stop)
        self.hangs = threading.Event()
        self._pid = pid

    def _stop(self, start: int, length: int) -> None:
        os.kill(self._pid, signal.SIGSTOP)
        self.hangs.set()
