from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapestream import Extent, ImageioUploadSink, TapestreamError, copy
from tapestream.errors import (
    ServerError,
    ServerProtocolError,
    TargetSizeError,
    TicketError,
    TransferError,
    UsageError,
)
from tapestream.imageio.target import Target
from tapestream.testing import MemorySource, Pattern
from tests.disks import noise
from tests.hostile import (
    HONEST,
    Answer,
    BytesImage,
    CloseBeforeReply,
    Cut,
    Fault,
    Garbage,
    HostileServer,
    Reply,
    Request,
    SparseImage,
    Stall,
    Status,
)
from tests.imageio.support import (
    FOREVER,
    GIB,
    KIB,
    MIB,
    SMALL,
    Last,
    SlowImage,
    TLSServer,
    always,
    asked,
    authority,
    content,
    gets,
    on,
    to_json,
    upload,
)

K64 = 64 * KIB
# Data, zeros, data, zeros, and data that does not fill a block.
EXTENTS = [
    Extent(0, 2 * K64),
    Extent(2 * K64, K64, zero=True),
    Extent(3 * K64, 3 * K64 + 512),
    Extent(6 * K64 + 512, K64 - 512, zero=True),
    Extent(7 * K64, 512),
]
SIZE = 7 * K64 + 512
ZEROS = [(e.start, e.length) for e in EXTENTS if e.zero]
DATA = [(e.start, e.length) for e in EXTENTS if not e.zero]
IMAGE = b"".join(bytes(e.length) if e.zero else noise(e.length) for e in EXTENTS)
OLD = b"\xee"

OLD_SERVERS: dict[str, dict[str, Any]] = {
    "405": {"options_status": 405},
    "204": {"options_status": 204},
    "501": {"options_status": 501, "features": ()},
    "no features": {"features": ()},
}


def source() -> MemorySource:
    return MemorySource(IMAGE, EXTENTS)


def old_disk(size: int = SIZE) -> bytes:
    return OLD * size


def sent(server: HostileServer) -> list[tuple[int, int]]:
    """The ranges (start, length) that were put, after a look at the headers."""
    return [check_put(request) for request in asked(server, "PUT")]


def check_put(request: Request) -> tuple[int, int]:
    match = re.fullmatch(r"bytes (\d+)-(\d+)/\*", request.headers["content-range"])
    assert match
    start, last = int(match[1]), int(match[2])
    assert "transfer-encoding" not in request.headers
    assert int(request.headers["content-length"]) == last + 1 - start > 0
    return start, last + 1 - start


def blocks(extents: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Extents, cut into the blocks of a small copy."""
    return [
        (at, min(K64, start + length - at))
        for start, length in extents
        for at in range(start, start + length, K64)
    ]


# --- What is sent ---


def test_what_a_modern_server_is_sent() -> None:
    with HostileServer(old_disk(), max_writers=1) as server:
        result = upload(server, source())
        puts = asked(server, "PUT")
        assert all(put.path.endswith("?flush=n") for put in puts)
        assert sorted(sent(server)) == blocks(DATA)
        assert server.unflushed_puts == len(puts)
        assert len(asked(server, "PATCH")) == len(ZEROS) + 1
        assert server.flushed == 1
        assert server.requests[-1].method == "PATCH"
        assert content(server) == IMAGE
    assert result.data_bytes == sum(length for _, length in DATA)


@pytest.mark.parametrize(
    ("announced", "writers"), [(8, 3), (6, 2), (4, 1), (3, 1), (2, 1), (1, 1), (None, 1)]
)
@pytest.mark.parametrize("workers", [1, 3])
def test_every_connection_is_flushed_once_at_its_end(
    announced: int | None, workers: int, writers: int
) -> None:
    with (
        HostileServer(old_disk(), max_writers=announced) as server,
        ImageioUploadSink(server.url, secure=False) as sink,
    ):
        assert sink.max_writers == writers
        copy(source(), sink, max_workers=workers, buffer_size=4 * KIB)
        assert content(server) == IMAGE
        by_connection = defaultdict(list)
        for request in server.requests:
            by_connection[request.connection].append(request)
        used = [done for done in by_connection.values() if done[0].method in ("PUT", "PATCH")]
        assert server.flushed == len(used) <= max(1, (announced or 1) - 2)
    for done in used:
        # A flush is shorter than what zeroes.
        shortest = min(r.body_length for r in done if r.method == "PATCH")
        assert done[-1].method == "PATCH"
        assert done[-1].body_length == shortest


@pytest.mark.parametrize(("size", "first"), [(16 * MIB, [(0, 8 * MIB)]), (16 * MIB - 512, [])])
def test_before_much_is_sent_the_server_reads_once(
    size: int, first: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "warm_up_from", 16 * MIB)
    data = bytes(size)
    with HostileServer(SparseImage(size, {})) as server:
        upload(server, MemorySource(data))
        assert gets(server) == first
        methods = [r.method for r in server.requests if r.method in ("GET", "PUT")]
        assert set(methods[1 + len(first) :]) == {"PUT"}  # the one is for the extents


@pytest.mark.parametrize("fault", [Status(403), Status(500), Cut(1_000), CloseBeforeReply()])
def test_a_disk_that_cannot_be_read_is_written_all_the_same(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "warm_up_from", 16 * MIB)
    data = noise(16 * MIB)
    with HostileServer(SparseImage(len(data), {}), on_get=always(fault)) as server:
        upload(server, MemorySource(data))
        assert content(server) == data


@pytest.mark.parametrize("behaviour", OLD_SERVERS.values(), ids=list(OLD_SERVERS))
def test_an_old_server_gets_its_zeros_as_data(behaviour: dict[str, Any]) -> None:
    with HostileServer(old_disk(), max_writers=None, **behaviour) as server:
        upload(server, source())
        assert not any("flush" in request.path for request in asked(server, "PUT"))
        assert not asked(server, "PATCH")
        assert sorted(sent(server)) == sorted(blocks(DATA) + ZEROS)
        assert content(server) == IMAGE


def test_long_zeros_go_to_an_old_server_in_pieces() -> None:
    size = 9 * MIB + 512
    with HostileServer(old_disk(size), features=("extents",)) as server:
        upload(server, MemorySource(bytes(size), [Extent(0, size, zero=True)]))
        assert sum(length for _, length in sent(server)) == size
        assert max(length for _, length in sent(server)) <= 8 * MIB
        assert content(server) == bytes(size)


def test_a_server_that_cannot_flush() -> None:
    with HostileServer(old_disk(), features=("extents", "zero")) as server:
        upload(server, source())
        assert not any("flush" in request.path for request in asked(server, "PUT"))
        assert len(asked(server, "PATCH")) == server.flushed_zeros == len(ZEROS)
        assert server.flushed == 0
        assert content(server) == IMAGE


TIB = 1024 * GIB


def zeroed(image: SparseImage) -> list[tuple[int, int]]:
    return [(start, length) for start, length, data in image._writes if data is None]


def test_zeros_of_any_length_go_in_one_request() -> None:
    size, at = 100 * TIB, 9 * GIB + 512
    image = SparseImage(size, {})
    preallocated = to_json({"start": 0, "length": size, "zero": False})
    extents = [
        Extent(0, at, zero=True),
        Extent(at, 512),
        Extent(at + 512, size - at - 512, zero=True),
    ]
    with HostileServer(image, extents=preallocated, max_writers=1) as server:
        upload(server, MemorySource(Pattern(b"\0", size), extents))
        assert sent(server) == [(at, 512)]
        assert len(asked(server, "PATCH")) == 3
    assert zeroed(image) == [(0, at), (at + 512, size - at - 512)]


def test_only_what_is_not_zero_yet_is_zeroed() -> None:
    size = 100 * TIB
    image = SparseImage(size, {10 * GIB: b"old", 20 * GIB + 64 * KIB: b"old", size - 3: b"old"})
    extents = [
        Extent(0, 20 * GIB, zero=True),
        Extent(20 * GIB, 512),
        Extent(20 * GIB + 512, size - 20 * GIB - 512, zero=True),
    ]
    with HostileServer(image) as server:
        upload(server, MemorySource(Pattern(b"\0", size), extents))
    assert zeroed(image) == [
        (10 * GIB, 64 * KIB),
        (20 * GIB + 64 * KIB, 64 * KIB),
        (size - 64 * KIB, 64 * KIB),
    ]


# --- A disk that is zero ---


@pytest.mark.parametrize("features", [("extents", "zero", "flush"), ("extents",), ()])
def test_zeros_are_not_sent_to_a_disk_that_is_zero(features: tuple[str, ...]) -> None:
    with HostileServer(bytes(SIZE), features=features, max_writers=1) as server:
        upload(server, source(), disk_is_zero=True)
        assert len(asked(server, "PATCH")) == server.flushed == ("flush" in features)
        assert sorted(sent(server)) == blocks(DATA)
        assert content(server) == IMAGE


def incremental() -> MemorySource:
    extents = [
        Extent(0, 2 * K64, dirty=False),
        Extent(2 * K64, K64, zero=True, dirty=True),
        Extent(3 * K64, K64, dirty=True),
        Extent(4 * K64, SIZE - 4 * K64, dirty=False),
    ]
    return MemorySource(IMAGE, extents)


@pytest.mark.parametrize("disk_is_zero", [False, True])
@pytest.mark.parametrize("more", [0, 1000])
def test_an_incremental_backup_changes_nothing_else(disk_is_zero: bool, more: int) -> None:
    """After the full backup below it, the disk is no longer zero, and the rest is not its own."""
    expected = bytearray(old_disk(SIZE + more))
    expected[2 * K64 : 4 * K64] = IMAGE[2 * K64 : 4 * K64]
    with HostileServer(old_disk(SIZE + more), max_writers=1) as server:
        upload(server, incremental(), disk_is_zero=disk_is_zero)
        assert content(server) == expected
        assert server.flushed == 1


# --- The size of the disk ---


@pytest.mark.parametrize("behaviour", [{}, *OLD_SERVERS.values()])
def test_a_smaller_disk_is_not_touched(behaviour: dict[str, Any]) -> None:
    disk = old_disk(SIZE - 1)
    with HostileServer(disk, **behaviour) as server:
        with pytest.raises(TargetSizeError) as caught:
            upload(server, source())
        assert not asked(server, "PUT")
        assert not asked(server, "PATCH")
        assert content(server) == disk
    assert str(SIZE) in str(caught.value)
    assert str(SIZE - 1) in str(caught.value)


@pytest.mark.parametrize("behaviour", [{}, OLD_SERVERS["405"]])
def test_an_empty_disk_is_too_small(behaviour: dict[str, Any]) -> None:
    with HostileServer(b"", **behaviour) as server, pytest.raises(TargetSizeError):
        upload(server, source())


@pytest.mark.parametrize("behaviour", [{}, *OLD_SERVERS.values()])
@pytest.mark.parametrize("more", [1, 512, 5 * MIB])
def test_the_tail_of_a_larger_disk_is_zeroed(behaviour: dict[str, Any], more: int) -> None:
    with HostileServer(old_disk(SIZE + more), **behaviour) as server:
        upload(server, source())
        assert content(server) == IMAGE + bytes(more)


def test_the_tail_of_a_larger_disk_that_is_zero_is_left_alone() -> None:
    with HostileServer(bytes(SIZE + 1000)) as server:
        upload(server, source(), disk_is_zero=True)
        assert len(asked(server, "PATCH")) == server.flushed
        assert content(server) == IMAGE + bytes(1000)


@pytest.mark.parametrize("code", [400, 403, 404, 405])
def test_an_old_server_that_does_not_tell_the_size(code: int) -> None:
    refuse = always(Status(code))
    with HostileServer(old_disk(), options_status=405, on_get=refuse) as server:
        upload(server, source())
        assert content(server) == IMAGE


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_that_says_that_it_lists_extents_and_refuses_them(status: int) -> None:
    with HostileServer(old_disk(SIZE + 1000), extents_status=status) as server:
        upload(server, source())
        assert content(server) == IMAGE + bytes(1000)


@pytest.mark.parametrize("code", [400, 403, 404, 500])
def test_a_larger_disk_that_cannot_be_read(code: int) -> None:
    """What the ticket allows is not to be known: all that the server lists, it is assumed."""
    refuse = always(Status(code))
    with HostileServer(old_disk(SIZE + 1000), on_get=refuse) as server:
        upload(server, source())
        assert content(server) == IMAGE + bytes(1000)


@pytest.mark.parametrize("more", [1, 1000])
def test_a_volume_of_which_the_ticket_allows_less_without_saying_how_much(more: int) -> None:
    """It refuses by a 416 without a "Content-Range"."""

    class Allows(HostileServer):
        def answer(self, request: Request, body: Iterator[bytes]) -> Answer:
            try:
                return super().answer(request, body)
            except Exception as e:
                if getattr(e, "reply", Reply()).status != 416:
                    raise
                return Reply(), Status(416)

    listed = to_json({"start": 0, "length": SIZE + more, "zero": False})
    with Allows(old_disk(), extents=listed) as server:
        upload(server, source())
        assert content(server) == IMAGE


def test_a_server_that_fails_to_tell_the_size() -> None:
    """It may tell the next time: to write without knowing could leave the end of the disk."""
    with HostileServer(old_disk(), options_status=405, on_get=always(Status(500))) as server:
        with pytest.raises(ServerError):
            upload(server, source())
        assert not asked(server, "PUT")


def test_a_put_that_is_not_taken_in_full_is_not_written() -> None:
    """Whatever the reply says, a server that closed before the end has not got everything."""
    size = 32 * MIB
    early = always(Status(200, early=True))
    with (
        HostileServer(SparseImage(size, {}), on_put=early) as server,
        ImageioUploadSink(server.url, secure=False) as sink,
        pytest.raises(ServerError, match="connection broke"),
    ):
        copy(MemorySource(Pattern(b"\0", size)), sink, buffer_size=size, buffer_memory=2 * size)


def test_a_writer_before_the_sink_has_begun() -> None:
    with (
        HostileServer(old_disk()) as server,
        ImageioUploadSink(server.url, secure=False) as sink,
        pytest.raises(UsageError, match="not begun"),
    ):
        sink.open_writer()


def test_an_old_server_that_does_not_tell_the_size_refuses_what_does_not_fit() -> None:
    refuse = always(Status(405))
    with HostileServer(old_disk(SIZE - 1), options_status=405, on_get=refuse) as server:
        with pytest.raises(ServerError) as caught:
            upload(server, source())
        assert caught.value.status == 416


@pytest.mark.parametrize(
    "extents", [b"", b"null", to_json({"start": 5, "length": SIZE}), to_json({"start": 0})]
)
def test_a_size_that_cannot_be_trusted(extents: bytes) -> None:
    with HostileServer(old_disk(), extents=extents) as server:
        with pytest.raises(TapestreamError):
            upload(server, source())
        assert not asked(server, "PUT")
        assert not asked(server, "PATCH")


# --- Refusals and breaks ---


def check_reason(error: TransferError, code: int) -> None:
    assert "the storage is on fire" in str(error)
    if code == 403:
        assert type(error) is TicketError
    else:
        assert type(error) is ServerError
        assert error.status == code


@pytest.mark.parametrize("code", [400, 403, 404, 416, 500, 503])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_refused_put_says_why(code: int, early: bool, n: int) -> None:
    refusal = Status(code, "the storage is on fire", early=early)
    with HostileServer(old_disk(), on_put=on(n, refusal), max_writers=1) as server:
        with pytest.raises(TransferError) as caught:
            upload(server, source())
        assert len(asked(server, "PUT")) >= n  # others are under way already
        assert server.flushed == 0
    check_reason(caught.value, code)


@pytest.mark.parametrize(
    "tls",
    [
        False,
        True,
    ],
)
@pytest.mark.parametrize("code", [403, 500])
def test_a_put_that_is_cut_off_while_it_is_sent_says_why(
    tls: bool, code: int, tmp_path: Path
) -> None:
    """The body is too large for the buffers of the kernel: sending it fails."""
    size = 32 * MIB
    refusal = Status(code, "the storage is on fire", early=True)
    cafile = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(cafile)
    with (TLSServer if tls else HostileServer)(BytesImage(size), on_put=always(refusal)) as server:
        sink = ImageioUploadSink(server.url, secure=tls, cafile=cafile if tls else None)
        with sink, pytest.raises(TransferError) as caught:
            copy(
                MemorySource(bytes(size)),
                sink,
                max_workers=1,
                buffer_size=16 * MIB,
                buffer_memory=32 * MIB,
            )
        assert server.flushed == 0
    check_reason(caught.value, code)


@pytest.mark.parametrize("n", [1, len(ZEROS), len(ZEROS) + 1])
@pytest.mark.parametrize("code", [400, 403, 500])
def test_a_refused_patch_says_why(n: int, code: int) -> None:
    refusal = Status(code, "the storage is on fire")
    with HostileServer(old_disk(), on_patch=on(n, refusal)) as server:
        with pytest.raises(TransferError) as caught:
            upload(server, source())
        assert server.flushed == 0
        assert len(asked(server, "PATCH")) == n
    check_reason(caught.value, code)


@pytest.mark.parametrize("fault", [CloseBeforeReply(), Garbage()])
@pytest.mark.parametrize("n", [1, 3])
def test_a_put_without_a_reply_fails(fault: Fault, n: int) -> None:
    """Whether it was carried out is not known."""
    with HostileServer(old_disk(), on_put=on(n, fault)) as server:
        with pytest.raises(ServerError) as caught:
            upload(server, source())
        assert caught.value.status is None
        assert server.flushed == 0


@pytest.mark.parametrize("fault", [CloseBeforeReply(), Garbage()])
def test_a_flush_without_a_reply_fails(fault: Fault) -> None:
    with HostileServer(old_disk(), on_patch=on(len(ZEROS) + 1, fault)) as server:
        with pytest.raises(ServerError):
            upload(server, source())
        assert server.flushed == 0


def test_a_put_that_is_not_answered_in_time() -> None:
    with HostileServer(old_disk(), on_put=on(2, Stall(None, FOREVER))) as server:
        with pytest.raises(ServerError, match="in time"):
            upload(server, source(), read_timeout=0.3)
        assert server.flushed == 0


def test_a_put_may_take_longer_than_its_next_bytes() -> None:
    size = 24 * MIB
    options: dict[str, Any] = {"buffer_size": size, "buffer_memory": 2 * size}
    with (
        HostileServer(SlowImage(size, {}), max_writers=1) as server,
        ImageioUploadSink(server.url, secure=False, read_timeout=1) as sink,
    ):
        copy(MemorySource(bytes(size)), sink, **options)  # takes the server 2.4 s
        assert sorted(sent(server)) == [(0, 16 * MIB), (16 * MIB, 8 * MIB)]


def test_zeroing_may_take_longer_than_data() -> None:
    with HostileServer(old_disk(), on_patch=always(Stall(None, 0.6))) as server:
        upload(server, source(), read_timeout=0.2)
        assert content(server) == IMAGE


def test_zeroing_that_does_not_end_in_time() -> None:
    with (
        HostileServer(old_disk(), on_patch=always(Stall(None, FOREVER))) as server,
        pytest.raises(ServerError, match="in time"),
    ):
        upload(server, source(), zero_timeout=0.2)


def test_connections_that_are_dropped_while_idle() -> None:
    """A slow source: whenever there is something to send, the server has hung up."""

    class Slow:
        puts = 0

        def update(self, n: int) -> None:
            self.puts += 1
            while len(asked(server, "PUT")) < self.puts or any(
                thread.is_alive() for _, thread in server._connections
            ):
                time.sleep(0.001)

    with (
        HostileServer(old_disk(), close_after_each=True, max_writers=1) as server,
        ImageioUploadSink(server.url, secure=False) as sink,
    ):
        extents = [Extent(0, SIZE)]
        copy(MemorySource(IMAGE, extents), sink, progress=Slow(), **SMALL)
        assert server.flushed == 1
        assert content(server) == IMAGE


class Answering(HostileServer):
    """Answers whatever it has written with this status, as other servers of this API do."""

    status = 200

    def answer(self, request: Request, body: Iterator[bytes]) -> tuple[Reply, Fault]:
        reply, fault = super().answer(request, body)
        if request.method in ("PUT", "PATCH"):
            reply = replace(reply, status=self.status)
        return reply, fault


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("features", [("extents", "zero", "flush"), ()])
def test_every_2xx_says_that_it_was_written(status: int, features: tuple[str, ...]) -> None:
    with Answering(old_disk(), features=features) as server:
        server.status = status
        upload(server, source())
        assert content(server) == IMAGE


# --- Read only, and other mistakes ---


@pytest.mark.parametrize("limit", [0, -1])
def test_a_transfer_without_writers_is_a_download(limit: int) -> None:
    """So some servers say it; their "allow" is that of every transfer."""
    disk = old_disk()
    with HostileServer(disk, max_writers=limit) as server:
        with pytest.raises(TicketError, match="does not allow to write"):
            upload(server, source())
        assert {request.method for request in server.requests} == {"OPTIONS"}
        assert content(server) == disk


def test_a_ticket_that_does_not_allow_to_write() -> None:
    disk = old_disk()
    with HostileServer(disk, ops=("read",)) as server:
        with pytest.raises(TicketError):
            upload(server, source())
        assert content(server) == disk
        assert server.flushed == 0


def test_a_sink_takes_one_backup() -> None:
    with (
        HostileServer(old_disk()) as server,
        ImageioUploadSink(server.url, secure=False) as sink,
    ):
        copy(source(), sink)
        with pytest.raises(UsageError, match="one backup"):
            copy(source(), sink)
        assert content(server) == IMAGE


@pytest.mark.parametrize("status", [200, 405])
def test_a_disk_whose_size_comes_with_a_cut(status: int) -> None:
    """Old servers tell the size in the head of a download; its body is not wanted."""
    behaviour: dict[str, Any] = {"on_get": always(Cut(0)), "on_extents": always(Stall(None, 0))}
    with HostileServer(old_disk(), options_status=status, **behaviour) as server:
        upload(server, source())
        assert content(server) == IMAGE


def test_a_source_that_fails_at_its_end_fails_the_upload() -> None:
    class Broken(MemorySource):
        def finish(self) -> None:
            raise ServerProtocolError("this backup is worthless")

    with HostileServer(old_disk()) as server, pytest.raises(ServerProtocolError, match="worthless"):
        upload(server, Broken(IMAGE, EXTENTS))


# --- Several connections ---


@pytest.mark.parametrize("zeros", [0, K64], ids=["data only", "zeros between"])
def test_a_writer_sends_the_next_bytes_while_it_waits(zeros: int) -> None:
    """Large ones go over two connections: the first is not confirmed before the second is there."""
    second = threading.Event()
    piece = 128 * KIB
    image = (noise(piece) + bytes(zeros)) * 4
    extents = [
        extent
        for start in range(0, len(image), piece + zeros)
        for extent in (Extent(start, piece), Extent(start + piece, zeros, zero=True))
        if extent.length
    ]

    def both(n: int, start: int, length: int) -> Fault | None:
        if n == 2:
            second.set()
        assert second.wait(10)
        return None

    with (
        HostileServer(bytes(len(image)), on_put=both) as server,
        ImageioUploadSink(server.url, secure=False) as sink,
    ):
        copy(MemorySource(image, extents), sink, max_workers=1, buffer_size=piece)
        assert len({put.connection for put in asked(server, "PUT")}) == 2
        assert content(server) == image


def test_small_uploads_go_over_one_connection() -> None:
    image = noise(50 * K64)
    with HostileServer(bytes(len(image))) as server:
        upload(server, MemorySource(image))
        assert len({put.connection for put in asked(server, "PUT")}) == 1
        assert content(server) == image


def test_a_server_that_ends_every_connection() -> None:
    image = noise(10 * K64)
    with HostileServer(bytes(len(image)), on_put=always(Last(HONEST))) as server:
        upload(server, MemorySource(image))
        assert content(server) == image


@pytest.mark.parametrize("n", [2, 9])
def test_uploads_that_the_server_hung_up_on_are_not_taken_for_done(n: int) -> None:
    """It says that a reply is its last, while others are under way."""
    gone = threading.Event()
    image = noise(10 * K64)

    def hang_up(count: int, start: int, length: int) -> Fault | None:
        if count == n:
            assert gone.wait(10)
        return Last(HONEST) if count == n else None

    class Behind:
        """Lets the last reply come when one more upload was sent."""

        blocks = 0

        def update(self, _: int) -> None:
            self.blocks += 1
            if self.blocks > n:
                gone.set()

    with (
        HostileServer(bytes(len(image)), on_put=hang_up) as server,
        ImageioUploadSink(server.url, secure=False) as sink,
    ):
        with pytest.raises(ServerError, match="connection"):
            copy(MemorySource(image), sink, progress=Behind(), **SMALL)
        assert server.flushed == 0


@pytest.mark.parametrize("blank", [True, False])
def test_an_incremental_backup_into_a_disk_of_zeros_is_warned_of(
    blank: bool, caplog: pytest.LogCaptureFixture
) -> None:
    changed = [replace(extent, dirty=True) for extent in EXTENTS]
    with HostileServer(bytes(SIZE) if blank else old_disk()) as server:
        upload(server, MemorySource(IMAGE, changed))
    assert ("restore_chain" in caplog.text) == blank


def test_data_does_not_overtake_the_zeros_around_it() -> None:
    """A server that cannot zero gets them over one connection, and the data over the other."""
    block, before, piece, behind = 256 * KIB, 64 * KIB, 160 * KIB, 32 * KIB
    image = noise(block) + bytes(before) + noise(piece) + bytes(behind)
    stretch, inside = (block, block), (block + before, piece)

    class SlowZeros(BytesImage):
        def write(self, start: int, data: bytes) -> None:
            if not any(data):
                time.sleep(0.05)
            super().write(start, data)

    extents = [
        Extent(0, block),
        Extent(block, before, zero=True),
        Extent(block + before, piece),
        Extent(block + before + piece, behind, zero=True),
    ]
    options: dict[str, Any] = {"buffer_size": block, "buffer_memory": 4 * block, "max_gap": block}
    with HostileServer(SlowZeros(old_disk(len(image))), features=("extents",)) as server:
        with ImageioUploadSink(server.url, secure=False) as sink:
            copy(MemorySource(image, extents), sink, max_workers=1, **options)
        _, zeros, data = asked(server, "PUT")
        assert (check_put(zeros), check_put(data)) == (stretch, inside)
        assert zeros.connection != data.connection
        assert content(server) == image


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_every_refusal_is_told_before_the_flush(n: int) -> None:
    refusal = Status(500, "the storage is on fire")
    with HostileServer(bytes(SIZE), on_put=on(n, refusal)) as server:
        with pytest.raises(ServerError, match="on fire"):
            upload(server, MemorySource(IMAGE))
        assert server.flushed == 0
