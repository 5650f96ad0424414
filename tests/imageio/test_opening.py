"""A server, or its storage, that is still starting when a transfer is opened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, ImageioHTTPSource, ImageioUploadSink, copy
from tapestream.errors import ServerError, TicketError, TransferError, UsageError
from tapestream.testing import ImageioDaemon, ImageServer, MemorySink, create_image, write_pattern
from tests.disks import noise
from tests.hostile import CloseBeforeReply, Cut, Fault, Garbage, HostileServer, Reset, Stall, Status
from tests.imageio.support import FOREVER, KIB, MIB, TLSServer, always, asked
from tests.imageio.test_real_daemon import closed_port

IMAGE = noise(64 * KIB)
OPEN: list[Callable[..., Any]] = [ImageioHTTPSource, ImageioUploadSink]

FAULTS = [
    Status(500, "the storage is not ready yet"),
    Status(503),
    CloseBeforeReply(),
    Reset(0),
    Cut(1),
    Garbage(),
    Stall(None, FOREVER),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("open_", OPEN)
def test_the_first_request_is_tried_again(open_: Callable[..., Any], fault: Fault) -> None:
    def first_two(n: int) -> Fault | None:
        return fault if n <= 2 else None

    with HostileServer(IMAGE, on_options=first_two) as server:
        with open_(server.url, secure=False, read_timeout=0.2):
            pass
        assert len(asked(server, "OPTIONS")) == 3


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("open_", OPEN)
def test_not_more_often_than_wanted(open_: Callable[..., Any], retries: int) -> None:
    with HostileServer(IMAGE, on_options=always(Status(500))) as server:
        with pytest.raises(ServerError, match="500") as caught:
            open_(server.url, secure=False, retries=retries)
        assert len(asked(server, "OPTIONS")) == retries + 1
    assert (f"tried {retries + 1} times" in str(caught.value)) is (retries > 0)


@pytest.mark.parametrize("code", [400, 403, 404, 416])
@pytest.mark.parametrize("open_", OPEN)
def test_a_refusal_is_final(open_: Callable[..., Any], code: int) -> None:
    with HostileServer(IMAGE, on_options=always(Status(code))) as server:
        with pytest.raises(TransferError):
            open_(server.url, secure=False)
        assert len(asked(server, "OPTIONS")) == 1


@pytest.mark.parametrize("retries", [-1, 1.5, "8", None])
@pytest.mark.parametrize("open_", OPEN)
def test_retries_that_are_none(open_: Callable[..., Any], retries: Any) -> None:
    with HostileServer(IMAGE) as server:
        with pytest.raises(UsageError, match="retries"):
            open_(server.url, secure=False, retries=retries)
        assert not server.requests


class LateServer(TLSServer):
    """The double, which takes its first two connections for nothing: it is starting."""

    def _accept(self) -> None:
        with suppress(OSError):
            for _ in range(2):
                self._listener.accept()[0].close()
            super()._accept()


@pytest.mark.parametrize("open_", OPEN)
def test_a_host_that_starts_is_not_left_for_the_proxy(open_: Callable[..., Any]) -> None:
    with LateServer(IMAGE) as server, HostileServer(IMAGE) as proxy:
        with open_(server.url, proxy_url=proxy.url, secure=False):
            pass
        assert not proxy.requests
        assert asked(server, "OPTIONS")


@pytest.mark.parametrize("open_", OPEN)
def test_a_host_that_cannot_be_reached_is_not_tried_for_long(open_: Callable[..., Any]) -> None:
    """As long as one connection may take, however many retries there are."""
    unreachable = f"http://127.0.0.1:{closed_port()}/images/ticket"
    with HostileServer(IMAGE) as proxy:
        with open_(
            unreachable, proxy_url=proxy.url, secure=False, connect_timeout=0.1, retries=10**9
        ):
            pass
        assert asked(proxy, "OPTIONS")


def test_a_qemu_nbd_that_starts_late(daemon: ImageioDaemon, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    create_image(path, MIB)
    write_pattern(path, ["write -P 7 0 64k"])
    disk = ImageServer(path)
    url = daemon.add_ticket(disk.url, MIB)
    logged = len(daemon.read_log())
    started = threading.Thread(target=_start_after_a_failure, args=(daemon, logged, disk))
    started.start()
    try:
        with ImageioHTTPSource(url, cafile=daemon.cafile, retries=5000) as source:
            sink = MemorySink()
            copy(source, sink)
    finally:
        started.join()
        disk.__exit__()
    assert sink.disk[: 64 * KIB] == b"\7" * (64 * KIB)


def _start_after_a_failure(daemon: ImageioDaemon, logged: int, disk: ImageServer) -> None:
    pause = threading.Event()
    while "ERROR" not in daemon.read_log()[logged:]:
        pause.wait(0.01)
    disk.start()


def test_a_ticket_that_is_unknown_is_not_waited_for(daemon: ImageioDaemon) -> None:
    with pytest.raises(TicketError) as caught:
        ImageioHTTPSource(f"https://127.0.0.1:{daemon.port}/images/none", cafile=daemon.cafile)
    assert "tried" not in str(caught.value)


# --- What is known when ---


@pytest.mark.parametrize("open_", [ImageioHTTPSource, ImageioUploadSink])
def test_no_property_makes_a_request(open_: Callable[..., Any]) -> None:
    options = {"record_block_hash": True} if open_ is ImageioHTTPSource else {}
    with HostileServer(IMAGE) as server, open_(server.url, secure=False, **options) as opened:
        made = len(server.requests)
        names = [name for name in dir(opened) if not name.startswith("_")]
        values = {name: getattr(opened, name) for name in names}
        assert {"over_unix_socket", "close"} <= set(values)
        assert repr(opened)
        assert len(server.requests) == made


def test_info_is_complete_after_the_extents() -> None:
    given = BackupInfo(disk_name="mail", size=123, context="zero", fallback=True)
    with (
        HostileServer(IMAGE) as server,
        ImageioHTTPSource(
            server.url, secure=False, context="dirty", fallback="full", info=given
        ) as source,
    ):
        assert source.info == replace(given, size=0, context="dirty", fallback=False)
        size = source.extents().size
        made = len(server.requests)
        assert source.info == replace(given, size=size, context="zero", fallback=True)
        assert source.size == size == len(IMAGE)
        assert len(server.requests) == made


def test_extents_that_fail_complete_nothing() -> None:
    with (
        HostileServer(IMAGE, on_extents=always(Status(403))) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        for _ in range(2):
            with pytest.raises(TicketError):
                source.extents()
            assert source.info.size == 0
