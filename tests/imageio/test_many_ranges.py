"""Several connections, and many small ranges under way on each."""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from typing import NoReturn

import pytest

from tapestream import ImageioHTTPSource, copy
from tapestream.errors import (
    ServerProtocolError,
    ServerUnreachableError,
    TicketError,
    TransferError,
)
from tapestream.imageio.connection import Connection
from tapestream.imageio.http import Exchange
from tapestream.testing import MemorySink
from tests.disks import noise
from tests.hostile import (
    HONEST,
    CloseBeforeReply,
    Cut,
    Endless,
    Fault,
    Garbage,
    HostileServer,
    Reset,
    Status,
    WrongRange,
)
from tests.imageio.downloads import IMAGE, SPARSE, check_status, check_written
from tests.imageio.support import KIB, MIB, SMALL, Last, Speak, always, asked, download, gets, on

# --- Several connections ---

WIDE = noise(20 * MIB + 512)
WIDE_PIECES = [
    (0, 8 * MIB),
    *((start, min(start + 4 * MIB, len(WIDE))) for start in range(8 * MIB, len(WIDE), 4 * MIB)),
]


def test_a_reader_asks_for_the_next_range_while_it_waits() -> None:
    def in_pairs(n: int, start: int, length: int) -> Fault | None:
        assert n > 1 or second.wait(10)
        if n == 2:
            second.set()
        return None

    second = threading.Event()
    sink = MemorySink()
    with HostileServer(SPARSE, on_get=in_pairs) as server:
        download(server, sink)
        by_range = dict(zip(gets(server), asked(server, "GET"), strict=True))
        connections = [by_range[each].connection for each in sorted(by_range)]
        assert connections[0] == connections[2] != connections[1]
    assert sink.disk == SPARSE


def test_a_long_range_is_asked_for_in_pieces_of_which_the_first_is_the_largest() -> None:
    sink = MemorySink()
    with HostileServer(WIDE) as server:
        result = download(server, sink)
        assert sorted(gets(server)) == WIDE_PIECES
    assert sink.disk == WIDE
    assert result.read_bytes == len(WIDE)


@pytest.mark.parametrize(
    ("size", "pieces"), [(6 * MIB, [4 * MIB, 2 * MIB]), (8 * MIB, [4 * MIB] * 2), (MIB, [MIB])]
)
def test_of_extents_of_one_size_the_first_is_asked_for_whole(size: int, pieces: list[int]) -> None:
    image = (noise(size) + bytes(size)) * 3
    sink = MemorySink()
    with HostileServer(image) as server:
        download(server, sink)
        asked_for = sorted(gets(server))
    assert [end - start for start, end in asked_for] == [size, *pieces * 2]
    assert sink.disk == image


@pytest.mark.parametrize("start", [0, 8 * MIB, 16 * MIB])
@pytest.mark.parametrize(
    "fault", [Cut(1_000), Cut(0), Reset(500_000), Garbage(), CloseBeforeReply(), Status(503)]
)
def test_each_piece_goes_on_where_it_broke(start: int, fault: Fault) -> None:
    broken: list[int] = []

    def once(n: int, at: int, length: int) -> Fault | None:
        if at != start or broken:
            return None
        broken.append(at)
        return fault

    sink = MemorySink()
    with HostileServer(WIDE, on_get=once) as server:
        download(server, sink, retries=1)
        ends = [end for _, end in gets(server)]
        assert sorted(set(ends)) == [end for _, end in WIDE_PIECES]
        # The one that broke comes again, and what was under way behind it on its connection: one
        # more, and the last, which is small.
        assert len(WIDE_PIECES) < len(ends) <= len(WIDE_PIECES) + 3
    assert broken
    assert sink.disk == WIDE


@pytest.mark.parametrize("start", [0, 8 * MIB, 16 * MIB])
def test_a_refusal_of_any_piece_is_told(start: int) -> None:
    def refuse(n: int, at: int, length: int) -> Fault | None:
        return Status(403, "this is why") if at == start else None

    sink = MemorySink()
    with HostileServer(WIDE, on_get=refuse) as server, pytest.raises(TicketError, match="is why"):
        download(server, sink)
    assert sink.state == "aborted"
    assert sum(length for _, length in sink.writes) <= start


def test_an_error_is_not_read_to_the_end_of_its_text() -> None:
    refuse = always(Endless(403, "this is why"))
    with HostileServer(IMAGE, on_get=refuse) as server, pytest.raises(TicketError, match="is why"):
        download(server, MemorySink(), read_timeout=2)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("where", ["on_options", "on_extents"])
@pytest.mark.parametrize(
    "fault",
    [
        Endless(200, "[]"),
        Speak(CHUNKED + b"5\r\n[    \r\n" * 100_000),
        Speak(CHUNKED + b"e8d4a51000\r\n" + bytes(300_000)),
    ],
    ids=["declared", "many chunks", "one chunk"],
)
def test_a_huge_reply_is_refused(fault: Fault, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "largest_reply", 5_000)
    monkeypatch.setattr(Connection, "largest_list", 5_000)
    with (
        HostileServer(IMAGE, **{where: always(fault)}) as server,  # type: ignore[arg-type]
        pytest.raises(ServerProtocolError, match="more than 5000 bytes"),
    ):
        download(server, MemorySink(), read_timeout=2)


def test_a_server_that_resets_behind_its_reply() -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    with HostileServer(IMAGE, on_options=always(Speak(reply, reset=True))) as server:
        for _ in range(20):
            with suppress(TransferError):
                ImageioHTTPSource(server.url, secure=False)


def test_a_reader_is_read_in_the_order_that_it_heard_of() -> None:
    with (
        HostileServer(IMAGE) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
        closing(source.open_reader()) as reader,
    ):
        reader.prefetch(0, 1024)
        with pytest.raises(RuntimeError, match="512"):
            reader.readinto(512, memoryview(bytearray(512)))


# --- Small ranges, several of which are under way on one connection ---

PIECE = 64 * KIB
CRUMBS = b"".join(noise(PIECE) + bytes(PIECE) for _ in range(20))
PIECES = [(start, start + PIECE) for start in range(0, len(CRUMBS), 2 * PIECE)]


def test_small_ranges_come_over_one_connection() -> None:
    sink = MemorySink()
    with HostileServer(CRUMBS) as server:
        download(server, sink)
        assert gets(server) == PIECES
        assert len({request.connection for request in asked(server, "GET")}) == 1
    assert sink.disk == CRUMBS


def test_small_and_large_ranges_in_turn() -> None:
    sizes = [512, 200 * KIB, 512, 512, 8 * MIB, 300 * KIB, 512, 17 * MIB, 512]
    image = b"".join(noise(size) + bytes(PIECE) for size in sizes)
    sink = MemorySink()
    with HostileServer(image) as server:
        download(server, sink)
    assert sink.disk == image


@pytest.mark.parametrize("n", [1, 2, 9, 20])
@pytest.mark.parametrize(
    "fault",
    [
        Cut(0),
        Cut(PIECE - 1),
        Reset(100),
        Garbage(),
        CloseBeforeReply(),
        Status(503),
        Status(503, early=True),
        Last(HONEST),
    ],
    ids=repr,
)
def test_what_was_under_way_is_asked_for_again(n: int, fault: Fault) -> None:
    sink = MemorySink()
    with HostileServer(CRUMBS, on_get=on(n, fault)) as server:
        download(server, sink, retries=1)
        assert len(gets(server)) >= len(PIECES)
    assert sink.disk == CRUMBS
    assert sorted(sink.writes) == [(start, PIECE) for start, _ in PIECES]


def test_a_server_that_ends_every_connection() -> None:
    sink = MemorySink()
    with HostileServer(CRUMBS, on_get=always(Last(HONEST))) as server:
        download(server, sink, retries=0)
        assert gets(server) == PIECES
    assert sink.disk == CRUMBS


def test_no_request_follows_a_reply_that_is_the_last() -> None:
    sink = MemorySink()
    with HostileServer(WIDE, on_get=always(Last(HONEST))) as server:
        download(server, sink, retries=0)
        assert sorted(gets(server)) == WIDE_PIECES
    assert sink.disk == WIDE


def test_a_server_that_is_gone_is_not_tried_for_every_range() -> None:
    tries: list[Exchange] = []

    def connect(exchange: Exchange) -> NoReturn:
        tries.append(exchange)
        raise ConnectionRefusedError

    with (
        HostileServer(CRUMBS) as server,
        ImageioHTTPSource(server.url, secure=False, retries=0) as source,
        pytest.MonkeyPatch.context() as patch,
    ):
        source.extents()
        patch.setattr(Exchange, "connect", connect)
        with pytest.raises(ServerUnreachableError):
            copy(source, MemorySink(), **SMALL)
    assert len(tries) == 2  # ahead, and when the first was wanted


@pytest.mark.parametrize("n", [1, 2, 9, 20])
@pytest.mark.parametrize("code", [403, 404])
def test_a_refusal_of_one_of_many_is_told(n: int, code: int) -> None:
    sink = MemorySink()
    with (
        HostileServer(CRUMBS, on_get=on(n, Status(code, "this is why"))) as server,
        pytest.raises(TransferError) as caught,
    ):
        download(server, sink)
    check_status(caught.value, code)
    assert sink.state == "aborted"
    assert len(sink.writes) < n


def test_the_reply_to_another_range_is_refused() -> None:
    """It would corrupt the disk."""
    sink = MemorySink()
    with (
        HostileServer(CRUMBS, on_get=on(3, WrongRange(PIECE))) as server,
        pytest.raises(ServerProtocolError),
    ):
        download(server, sink)
    check_written(sink, CRUMBS)
