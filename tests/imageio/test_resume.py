"""A broken download goes on at the byte where it broke, until that is no use."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tapestream import ImageioHTTPSource, copy
from tapestream.errors import ServerError, TransferError
from tapestream.testing import MemorySink
from tests.disks import noise
from tests.hostile import CloseBeforeReply, Cut, Fault, Garbage, HostileServer, Reset, Stall, Status
from tests.imageio.downloads import BREAKS, HOLE, IMAGE, SIZE, SPARSE, check_status
from tests.imageio.support import (
    FOREVER,
    KIB,
    MIB,
    SMALL,
    Speak,
    TLSServer,
    always,
    asked,
    authority,
    download,
    gets,
    in_turn,
    on,
)

# --- Resuming ---


@pytest.mark.parametrize("after", BREAKS)
def test_a_cut_download_goes_on_at_the_byte_where_it_broke(after: int) -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, on_get=on(1, Cut(after))) as server:
        download(server, sink, retries=1)
        assert gets(server) == [(0, SIZE), (after, SIZE)]
    assert sink.disk == IMAGE
    assert sink.state == "committed"


@pytest.mark.parametrize("step", [997, 64 * KIB, 64 * KIB + 7])
def test_a_download_that_is_cut_again_and_again_goes_on(step: int) -> None:
    """Every byte that comes starts the count of failures anew."""
    sink = MemorySink()
    with HostileServer(IMAGE, on_get=always(Cut(step))) as server:
        download(server, sink, retries=1)
        assert gets(server) == [(at, SIZE) for at in range(0, SIZE, step)]
    assert sink.disk == IMAGE


def test_all_kinds_of_breaks_in_one_download() -> None:
    faults = [
        Cut(1000),
        Garbage(),
        Cut(0),
        Status(500),
        CloseBeforeReply(),
        Cut(70_000),
        Status(503, early=True),
        Cut(SIZE - 71_000 - 1),
    ]
    at = [0, 1000, 1000, 1000, 1000, 1000, 71_000, 71_000, SIZE - 1]
    sink = MemorySink()
    with HostileServer(IMAGE, on_get=in_turn(faults)) as server:
        download(server, sink, retries=5)
        assert gets(server) == [(start, SIZE) for start in at]
    assert sink.disk == IMAGE


@pytest.mark.parametrize("after", BREAKS)
def test_a_reset_download_goes_on(after: int) -> None:
    """How much of what was sent before a RST arrives is up to the kernel."""
    sink = MemorySink()
    with HostileServer(IMAGE, on_get=on(1, Reset(after))) as server:
        download(server, sink, retries=1)
        first, (resumed, end) = gets(server)
    assert first == (0, SIZE)
    assert resumed <= after
    assert end == SIZE
    assert sink.disk == IMAGE


@pytest.mark.parametrize("after", [None, 0, 1, 64 * KIB, 64 * KIB + 1, SIZE - 1])
def test_a_stalled_download_goes_on_after_the_read_timeout(after: int | None) -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, on_get=on(1, Stall(after, FOREVER))) as server:
        download(server, sink, read_timeout=0.3, retries=1)
        first, (resumed, end) = gets(server)
    assert first == (0, SIZE)
    assert resumed <= (after or 0)
    assert end == SIZE
    assert sink.disk == IMAGE


@pytest.mark.parametrize("after", [40_000, 64 * KIB + 30_000])
def test_a_stalled_download_goes_on_at_the_byte_where_it_stalled(after: int) -> None:
    with HostileServer(IMAGE, on_get=on(1, Stall(after, FOREVER))) as server:
        download(server, MemorySink(), read_timeout=0.3, retries=1)
        assert gets(server) == [(0, SIZE), (after, SIZE)]


def test_a_download_that_stalls_again_and_again_within_a_block_goes_on() -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, on_get=always(Stall(40_000, FOREVER))) as server:
        download(server, sink, read_timeout=0.2, retries=1)
    assert sink.disk == IMAGE


@pytest.mark.parametrize("fault", [Cut(70_000), Reset(70_000), Garbage(), CloseBeforeReply()])
def test_a_download_over_tls_goes_on(fault: Fault, tmp_path: Path) -> None:
    cafile = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(cafile)
    sink = MemorySink()
    with (
        TLSServer(IMAGE, on_get=on(1, fault)) as server,
        ImageioHTTPSource(server.url, cafile=cafile, retries=1) as source,
    ):
        copy(source, sink, **SMALL)
        assert len(gets(server)) == 2
    assert sink.disk == IMAGE


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("fault", [Status(500, "no"), Status(503, early=True), Status(599)])
def test_an_error_of_the_server_is_tried_again(n: int, fault: Fault) -> None:
    sink = MemorySink()
    with HostileServer(SPARSE, on_get=on(n, fault), max_readers=1) as server:
        download(server, sink, retries=1)
        data = [(0, HOLE), (2 * HOLE, 3 * HOLE), (4 * HOLE, len(SPARSE))]
        first, again = gets(server)[:n], gets(server)[n:]
        assert first == data[:n]
        # What was under way behind it is lost with it.
        assert again in (data[n - 1 :], [*data[n : n + 1], *data[n - 1 :]])
    assert sink.disk == SPARSE


@pytest.mark.parametrize("fault", [Garbage(), CloseBeforeReply()])
def test_a_connection_that_ends_without_a_reply_is_tried_again(fault: Fault) -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, on_get=on(1, fault), on_extents=on(1, fault)) as server:
        download(server, sink, retries=1)
        assert gets(server) == [(0, SIZE)] * 2
        assert len(asked(server, "GET", "/extents")) == 2
    assert sink.disk == IMAGE


def test_connections_that_are_dropped_while_idle() -> None:
    sink = MemorySink()
    with HostileServer(SPARSE, close_after_each=True) as server:
        download(server, sink, retries=1)
        assert len({request.connection for request in server.requests}) == len(server.requests)
    assert sink.disk == SPARSE


def test_many_readers_with_many_breaks() -> None:
    image = noise(24 * MIB)
    sink = MemorySink()
    cuts = itertools.cycle([Cut(1_000_000), None, Reset(300_000), Status(500), Cut(0), None])
    with (
        HostileServer(image, on_get=lambda *_: next(cuts)) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        copy(source, sink, max_workers=4, buffer_memory=8 * MIB)
    assert sink.disk == image


# --- Giving up ---


@pytest.mark.parametrize("code", [400, 403, 404, 405, 416, 302, 204])
@pytest.mark.parametrize("n", [1, 2])
def test_a_permanent_error_is_not_tried_again(code: int, n: int) -> None:
    sink = MemorySink()
    refused = on(n, Status(code, "this is why"))
    with HostileServer(SPARSE, on_get=refused, max_readers=1) as server:
        with pytest.raises(TransferError) as caught:
            download(server, sink)
        assert len(set(gets(server))) == len(gets(server))
        assert n <= len(gets(server)) <= 2 * n - 1  # the third was under way behind the second
    check_status(caught.value, code)
    assert sink.state == "aborted"


@pytest.mark.parametrize("code", [400, 403, 404, 405, 416, 501])
def test_a_permanent_error_of_the_extents_is_not_tried_again(code: int) -> None:
    with HostileServer(IMAGE, on_extents=always(Status(code, "this is why"))) as server:
        with pytest.raises(TransferError) as caught:
            download(server, MemorySink())
        assert len(asked(server, "GET", "/extents")) == 1
        assert not asked(server, "GET")
    check_status(caught.value, code)


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Status(500, "this is why"), 500),
        (Status(503), 503),
        (CloseBeforeReply(), None),
        (Garbage(), None),
        (Cut(0), None),
        (Reset(0), None),
    ],
)
def test_too_many_failures_in_a_row(retries: int, fault: Fault, status: int | None) -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, on_get=always(fault)) as server:
        with pytest.raises(ServerError) as caught:
            download(server, sink, retries=retries)
        assert gets(server) == [(0, SIZE)] * (retries + 1)
    assert caught.value.status == status
    assert not sink.writes
    assert sink.state == "aborted"


def test_what_is_no_reply_is_not_quoted_at_length() -> None:
    noise_line = b"x" * 60_000 + b"\r\n\r\n"
    with (
        HostileServer(IMAGE, on_get=always(Speak(noise_line))) as server,
        pytest.raises(
            ServerError, match=r"the connection broke: the server does not speak HTTP$"
        ) as caught,
    ):
        download(server, MemorySink(), retries=0)
    assert len(caught.value.args[0]) < 1100


def test_a_server_that_never_answers() -> None:
    with HostileServer(IMAGE, on_get=always(Stall(None, FOREVER))) as server:
        with pytest.raises(ServerError, match="in time"):
            download(server, MemorySink(), read_timeout=0.2, retries=1)
        assert gets(server) == [(0, SIZE)] * 2
