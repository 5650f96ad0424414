from __future__ import annotations

import gc
import itertools
import json
import tarfile
import threading
import warnings
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tapestream import ImageioHTTPSource, TapestreamError, TarStreamSink, copy
from tapestream.errors import (
    ExtentsError,
    ServerError,
    ServerProtocolError,
    ServerUnreachableError,
    TicketError,
    TransferError,
    UnsupportedError,
)
from tapestream.imageio.http import Exchange
from tests.hostile import (
    HONEST,
    Chunked,
    CloseBeforeReply,
    Cut,
    Endless,
    Fault,
    Garbage,
    HostileServer,
    Reset,
    SparseImage,
    Stall,
    Status,
    Whole,
    WrongLength,
    WrongRange,
)
from tests.imageio.support import (
    FOREVER,
    GIB,
    KIB,
    MIB,
    SMALL,
    DiskSink,
    Last,
    Say,
    Speak,
    TLSServer,
    always,
    asked,
    authority,
    download,
    gets,
    in_turn,
    noise,
    on,
    to_json,
)

# Four blocks, the last of which is not full.
SIZE = 3 * 64 * KIB + 5 * 512
IMAGE = noise(SIZE)
# Too large for many to be under way: two of them are over one connection.
HOLE = 192 * KIB
LAST = HOLE + 512
SPARSE = noise(HOLE) + bytes(HOLE) + noise(HOLE) + bytes(HOLE) + noise(LAST)

OLD_SERVERS: dict[str, dict[str, Any]] = {
    "405": {"options_status": 405},
    "204": {"options_status": 204},
    "501": {"options_status": 501, "features": ()},
    "no extents": {"features": ("zero", "flush")},
    "no features": {"features": ()},
}
BREAKS = [0, 1, 511, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, SIZE - 1]


# --- Old servers ---


@pytest.mark.parametrize("behaviour", OLD_SERVERS.values(), ids=list(OLD_SERVERS))
def test_an_old_server_gives_the_whole_disk_as_one_data_extent(behaviour: dict[str, Any]) -> None:
    sink = DiskSink()
    with HostileServer(SPARSE, max_readers=None, **behaviour) as server:
        with ImageioHTTPSource(server.url, secure=False) as source:
            assert source.max_readers == 1
            result = copy(source, sink, max_workers=4, buffer_size=64 * KIB)
        assert not asked(server, "GET", "/extents")
        assert gets(server) == [(0, len(SPARSE))]
    assert sink.image == SPARSE
    assert (result.extents, result.data_bytes, result.zero_bytes) == (1, len(SPARSE), 0)


@pytest.mark.parametrize(
    ("announced", "readers"),
    [(None, 1), (0, 1), (-3, 1), (1, 1), (2, 1), (5, 1), (6, 2), (8, 3), (16, 7)],
)
def test_readers_that_the_server_allows(announced: int | None, readers: int) -> None:
    with (
        HostileServer(IMAGE, max_readers=announced) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        assert source.max_readers == readers


@pytest.mark.parametrize(
    "options",
    [
        b"",
        b"[]",
        b"null",
        b'"extents"',
        b'{"features": 5}',
        b'{"features": [[]]}',
        b'{"max_readers": "many"}',
        b'{"max_readers": [8]}',
        b"\xff\xfe",
        b'{"max_readers": 1e999}',
        b"[" * 100_000,
        b'{"unix_socket": 5}',
    ],
    ids=lambda options: options[:24].decode("latin1"),
)
def test_options_that_make_no_sense(options: bytes) -> None:
    with (
        HostileServer(IMAGE, on_options=always(Say(200, options))) as server,
        pytest.raises(ServerProtocolError, match="OPTIONS"),
    ):
        ImageioHTTPSource(server.url, secure=False)


# --- Resuming ---


@pytest.mark.parametrize("after", BREAKS)
def test_a_cut_download_goes_on_at_the_byte_where_it_broke(after: int) -> None:
    sink = DiskSink()
    with HostileServer(IMAGE, on_get=on(1, Cut(after))) as server:
        download(server, sink, retries=1)
        assert gets(server) == [(0, SIZE), (after, SIZE)]
    assert sink.image == IMAGE
    assert sink.committed


@pytest.mark.parametrize("step", [997, 64 * KIB, 64 * KIB + 7])
def test_a_download_that_is_cut_again_and_again_goes_on(step: int) -> None:
    """Every byte that comes starts the count of failures anew."""
    sink = DiskSink()
    with HostileServer(IMAGE, on_get=always(Cut(step))) as server:
        download(server, sink, retries=1)
        assert gets(server) == [(at, SIZE) for at in range(0, SIZE, step)]
    assert sink.image == IMAGE


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
    sink = DiskSink()
    with HostileServer(IMAGE, on_get=in_turn(faults)) as server:
        download(server, sink, retries=5)
        assert gets(server) == [(start, SIZE) for start in at]
    assert sink.image == IMAGE


@pytest.mark.parametrize("after", BREAKS)
def test_a_reset_download_goes_on(after: int) -> None:
    """How much of what was sent before a RST arrives is up to the kernel."""
    sink = DiskSink()
    with HostileServer(IMAGE, on_get=on(1, Reset(after))) as server:
        download(server, sink, retries=1)
        first, (resumed, end) = gets(server)
    assert first == (0, SIZE)
    assert resumed <= after
    assert end == SIZE
    assert sink.image == IMAGE


@pytest.mark.parametrize("after", [None, 0, 1, 64 * KIB, 64 * KIB + 1, SIZE - 1])
def test_a_stalled_download_goes_on_after_the_read_timeout(after: int | None) -> None:
    sink = DiskSink()
    with HostileServer(IMAGE, on_get=on(1, Stall(after, FOREVER))) as server:
        download(server, sink, read_timeout=0.3, retries=1)
        first, (resumed, end) = gets(server)
    assert first == (0, SIZE)
    assert resumed <= (after or 0)
    assert end == SIZE
    assert sink.image == IMAGE


@pytest.mark.parametrize("after", [40_000, 64 * KIB + 30_000])
def test_a_stalled_download_goes_on_at_the_byte_where_it_stalled(after: int) -> None:
    with HostileServer(IMAGE, on_get=on(1, Stall(after, FOREVER))) as server:
        download(server, DiskSink(), read_timeout=0.3, retries=1)
        assert gets(server) == [(0, SIZE), (after, SIZE)]


def test_a_download_that_stalls_again_and_again_within_a_block_goes_on() -> None:
    sink = DiskSink()
    with HostileServer(IMAGE, on_get=always(Stall(40_000, FOREVER))) as server:
        download(server, sink, read_timeout=0.2, retries=1)
    assert sink.image == IMAGE


@pytest.mark.parametrize("fault", [Cut(70_000), Reset(70_000), Garbage(), CloseBeforeReply()])
def test_a_download_over_tls_goes_on(fault: Fault, tmp_path: Path) -> None:
    cafile = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(cafile)
    sink = DiskSink()
    with (
        TLSServer(IMAGE, on_get=on(1, fault)) as server,
        ImageioHTTPSource(server.url, cafile=cafile, retries=1) as source,
    ):
        copy(source, sink, **SMALL)
        assert len(gets(server)) == 2
    assert sink.image == IMAGE


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("fault", [Status(500, "no"), Status(503, early=True), Status(599)])
def test_an_error_of_the_server_is_tried_again(n: int, fault: Fault) -> None:
    sink = DiskSink()
    with HostileServer(SPARSE, on_get=on(n, fault), max_readers=1) as server:
        download(server, sink, retries=1)
        data = [(0, HOLE), (2 * HOLE, 3 * HOLE), (4 * HOLE, len(SPARSE))]
        first, again = gets(server)[:n], gets(server)[n:]
        assert first == data[:n]
        # What was under way behind it is lost with it.
        assert again in (data[n - 1 :], [*data[n : n + 1], *data[n - 1 :]])
    assert sink.image == SPARSE


@pytest.mark.parametrize("fault", [Garbage(), CloseBeforeReply()])
def test_a_connection_that_ends_without_a_reply_is_tried_again(fault: Fault) -> None:
    sink = DiskSink()
    with HostileServer(IMAGE, on_get=on(1, fault), on_extents=on(1, fault)) as server:
        download(server, sink, retries=1)
        assert gets(server) == [(0, SIZE)] * 2
        assert len(asked(server, "GET", "/extents")) == 2
    assert sink.image == IMAGE


def test_connections_that_are_dropped_while_idle() -> None:
    sink = DiskSink()
    with HostileServer(SPARSE, close_after_each=True) as server:
        download(server, sink, retries=1)
        assert len({request.connection for request in server.requests}) == len(server.requests)
    assert sink.image == SPARSE


def test_many_readers_with_many_breaks() -> None:
    image = noise(24 * MIB)
    sink = DiskSink()
    cuts = itertools.cycle([Cut(1_000_000), None, Reset(300_000), Status(500), Cut(0), None])
    with (
        HostileServer(image, on_get=lambda *_: next(cuts)) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        copy(source, sink, max_workers=4, buffer_memory=8 * MIB)
    assert sink.image == image


# --- Giving up ---


@pytest.mark.parametrize("code", [400, 403, 404, 405, 416, 302, 204])
@pytest.mark.parametrize("n", [1, 2])
def test_a_permanent_error_is_not_tried_again(code: int, n: int) -> None:
    sink = DiskSink()
    refused = on(n, Status(code, "this is why"))
    with HostileServer(SPARSE, on_get=refused, max_readers=1) as server:
        with pytest.raises(TransferError) as caught:
            download(server, sink)
        assert len(set(gets(server))) == len(gets(server))
        assert n <= len(gets(server)) <= 2 * n - 1  # the third was under way behind the second
    check_status(caught.value, code)
    assert sink.aborted
    assert not sink.committed


@pytest.mark.parametrize("code", [400, 403, 404, 405, 416, 501])
def test_a_permanent_error_of_the_extents_is_not_tried_again(code: int) -> None:
    with HostileServer(IMAGE, on_extents=always(Status(code, "this is why"))) as server:
        with pytest.raises(TransferError) as caught:
            download(server, DiskSink())
        assert len(asked(server, "GET", "/extents")) == 1
        assert not asked(server, "GET")
    check_status(caught.value, code)


def check_status(error: TransferError, code: int) -> None:
    if code == 403:
        assert type(error) is TicketError
    else:
        assert type(error) is ServerError
        assert error.status == code
    assert str(code) in str(error)
    assert code == 204 or "this is why" in str(error)


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
    sink = DiskSink()
    with HostileServer(IMAGE, on_get=always(fault)) as server:
        with pytest.raises(ServerError) as caught:
            download(server, sink, retries=retries)
        assert gets(server) == [(0, SIZE)] * (retries + 1)
    assert caught.value.status == status
    assert not sink.writes
    assert sink.aborted


def test_what_is_no_reply_is_not_quoted_at_length() -> None:
    noise_line = b"x" * 60_000 + b"\r\n\r\n"
    with (
        HostileServer(IMAGE, on_get=always(Speak(noise_line))) as server,
        pytest.raises(ServerError, match=r"the connection broke: x+$") as caught,
    ):
        download(server, DiskSink(), retries=0)
    assert len(caught.value.args[0]) < 1100


def test_a_server_that_never_answers() -> None:
    with HostileServer(IMAGE, on_get=always(Stall(None, FOREVER))) as server:
        with pytest.raises(ServerError, match="in time"):
            download(server, DiskSink(), read_timeout=0.2, retries=1)
        assert gets(server) == [(0, SIZE)] * 2


# --- Lies about data ---

LIES = {
    "a byte too many": WrongLength(1),
    "a byte too few": WrongLength(-1),
    "nothing": WrongLength(-HOLE),
    "much more": WrongLength(len(SPARSE)),
    "the whole disk": Whole(),
    "a sector further": WrongRange(512),
    "a byte before": WrongRange(-1),
    "chunked": Chunked(),
    "without a range": Say(206, bytes(HOLE)),
    "a range of another unit": Say(206, bytes(HOLE), {"Content-Range": f"clusters 0-{HOLE}/*"}),
    "a range that is none": Say(206, bytes(HOLE), {"Content-Range": "bytes 1-2-3"}),
    "an unsatisfied range": Say(206, bytes(HOLE), {"Content-Range": f"bytes */{len(SPARSE)}"}),
    "200 with the length asked for": Say(200, bytes(HOLE)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
def test_a_lie_is_found_out_before_a_byte_of_it_is_used(lie: Fault) -> None:
    sink = DiskSink()
    with HostileServer(SPARSE, on_get=on(2, lie), max_readers=1) as server:
        with pytest.raises(ServerProtocolError):
            download(server, sink)
        assert len(set(gets(server))) == len(gets(server))  # it is not asked again
    check_written(sink, SPARSE)
    assert all(start < HOLE for start, _ in sink.writes)
    assert sink.aborted


@pytest.mark.parametrize("lie", [Whole(), WrongRange(-1), WrongLength(1), Chunked()])
def test_a_lie_in_the_middle_is_found_out(lie: Fault) -> None:
    sink = DiskSink()
    with HostileServer(IMAGE, on_get=in_turn([Cut(70_000), lie])) as server:
        with pytest.raises(ServerProtocolError):
            download(server, sink)
        assert gets(server) == [(0, SIZE), (70_000, SIZE)]
    check_written(sink, IMAGE)


def check_written(sink: DiskSink, image: bytes) -> None:
    for start, length in sink.writes:
        assert sink.image[start : start + length] == image[start : start + length]


ENDLESS = Say(206, IMAGE, {"Content-Range": f"bytes 0-{SIZE - 1}/*"}, close=True)


@pytest.mark.parametrize(
    "behaviour",
    [
        {"on_get": always(ENDLESS)},
        {"on_get": always(Last(WrongLength(1)))},
        {"on_extents": always(Last(Stall(5, FOREVER)))},
    ],
)
def test_no_socket_is_left_to_the_garbage_collector(behaviour: dict[str, Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with (
            HostileServer(IMAGE, **behaviour) as server,
            suppress(TransferError),
        ):
            download(server, DiskSink(), read_timeout=0.2, extents_timeout=0.2, retries=0)
        gc.collect()
    assert not caught


def test_a_reply_without_a_length_is_not_believed() -> None:
    with warnings.catch_warnings(), HostileServer(IMAGE, on_get=always(ENDLESS)) as server:
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(ServerProtocolError):
            download(server, DiskSink())
        gc.collect()


def test_200_is_right_for_the_whole_disk() -> None:
    sink = DiskSink()
    with HostileServer(IMAGE, on_get=always(Whole())) as server:
        download(server, sink)
    assert sink.image == IMAGE


# --- Extents ---

X: dict[str, Any] = {"start": 0, "length": SIZE, "zero": False, "hole": False}
HALF = SIZE // 2

LYING_EXTENTS: dict[str, bytes] = {
    "gap": to_json({**X, "length": 512}, {**X, "start": 1024, "length": SIZE - 1024}),
    "overlap": to_json({**X, "length": 1024}, {**X, "start": 512, "length": SIZE - 512}),
    "twice": to_json(X, X),
    "backwards": to_json({**X, "start": HALF, "length": SIZE - HALF}, {**X, "length": HALF}),
    "does not start at 0": to_json({**X, "start": 512, "length": SIZE - 512}),
    "negative start": to_json({**X, "start": -512, "length": SIZE + 512}),
    "zero length": to_json({**X, "length": 0}, X),
    "negative length": to_json({**X, "length": -SIZE}),
    "strings": to_json({**X, "start": "0"}),
    "string length": to_json({**X, "length": str(SIZE)}),
    "string zero": to_json({**X, "zero": "false"}),
    "number zero": to_json({**X, "zero": 0}),
    "float": to_json({**X, "length": float(SIZE)}),
    "bool": to_json({**X, "start": False}),
    "null": to_json({**X, "length": None}),
    "without length": to_json({"start": 0, "zero": False}),
    "without start": to_json({"length": SIZE, "zero": False}),
    "without either": to_json({"zero": False}),
    "empty objects": b"[{}]",
    "numbers": b"[0, 512]",
    "nested lists": b"[[" + to_json(X) + b"]]",
    "nested extent": to_json({**X, "start": HALF, "below": {**X, "length": HALF}}),
    "an extent and junk": b"[" + json.dumps(X).encode() + b", null]",
    "an object": json.dumps(X).encode(),
    "an object with a list": b'{"extents": ' + to_json(X) + b"}",
    "empty": b"",
    "null list": b"null",
    "not JSON": b"<html>I am a proxy</html>",
    "half": to_json(X)[:-1],
    "not UTF-8": b'["\xff\xfe\xfd"]',
    "huge length": to_json({**X, "length": 2**63}),
    "huge start": to_json({**X, "start": 2**64}),
    "a number without end": b'[{"start": 0, "length": 1' + b"0" * 10_000 + b"}]",
    "infinite": b'[{"start": 0, "length": Infinity}]',
    "bottomless": b"[" * 100_000,
}


@pytest.mark.parametrize("extents", LYING_EXTENTS.values(), ids=list(LYING_EXTENTS))
def test_extents_that_lie(extents: bytes) -> None:
    sink = DiskSink()
    with HostileServer(IMAGE, extents=extents) as server:
        with pytest.raises((ExtentsError, ServerProtocolError)):
            download(server, sink)
        assert not asked(server, "GET")
        assert len(asked(server, "GET", "/extents")) == 1
    assert not sink.writes


def test_extents_that_end_before_the_disk() -> None:
    """What they leave out would be missing from the backup, and nobody would know."""
    short = to_json({"start": 0, "length": SIZE - 512, "zero": False})
    sink = DiskSink()
    says = f"{SIZE} bytes.*only {SIZE - 512}"
    with (
        HostileServer(IMAGE, extents=short) as server,
        pytest.raises(ServerProtocolError, match=says),
    ):
        download(server, sink)
    assert sink.aborted


@pytest.mark.parametrize(
    "extents",
    [
        b'[{"start":0,"length":%d}]' % SIZE,
        b'[{"zero":false,"length":%d,"start":0}]' % SIZE,
        b' [ {"start": 0, "length": %d, "hole": true, "zero": false} ]\n' % SIZE,
        b'[{"start":0,"length":512},{"start":512,"length":%d,"hole":false}]' % (SIZE - 512),
        b'[{"start":0,"length":%d,"zero":null,"compressed":true,"\xc3\xa9":[{"a":{"b":1}}]}]'
        % SIZE,
    ],
)
def test_extents_go_into_the_tar_as_they_are(extents: bytes, tmp_path: Path) -> None:
    with HostileServer(IMAGE, extents=extents) as server:
        download(server, TarStreamSink(tmp_path / "disk.tar"))
    with tarfile.open(tmp_path / "disk.tar") as tar:
        kept = tar.extractfile("extents.json")
        data = [tar.extractfile(member) for member in tar if "@" in member.name]
        assert kept
        assert kept.read() == extents
        assert b"".join(part.read() for part in data if part) == IMAGE


def test_zero_extents_are_not_read() -> None:
    sink = DiskSink()
    with HostileServer(SPARSE) as server:
        download(server, sink)
        assert sorted(gets(server)) == [
            (0, HOLE),
            (2 * HOLE, 3 * HOLE),
            (4 * HOLE, len(SPARSE)),
        ]
    assert sink.image == SPARSE
    assert sink.zeros == [(HOLE, HOLE), (3 * HOLE, HOLE)]


def test_extents_may_take_longer_than_data() -> None:
    sink = DiskSink()
    with HostileServer(IMAGE, on_extents=always(Stall(None, 1))) as server:
        download(server, sink, read_timeout=0.3, retries=0)
        assert len(asked(server, "GET", "/extents")) == 1
    assert sink.image == IMAGE


@pytest.mark.parametrize("after", [None, 0, 5])
def test_extents_that_do_not_come_in_time(after: int | None) -> None:
    with HostileServer(IMAGE, on_extents=always(Stall(after, FOREVER))) as server:
        with pytest.raises(ServerError, match="in time"):
            download(server, DiskSink(), extents_timeout=0.2, retries=1)
        assert len(asked(server, "GET", "/extents")) == 2


@pytest.mark.parametrize(
    "fault", [Status(500), Status(503, early=True), Cut(7), Reset(7), CloseBeforeReply()]
)
def test_extents_are_tried_again(fault: Fault) -> None:
    sink = DiskSink()
    with HostileServer(IMAGE, on_extents=in_turn([fault, fault])) as server:
        download(server, sink, retries=2)
        assert len(asked(server, "GET", "/extents")) == 3
    assert sink.image == IMAGE


def test_extents_are_asked_for_once() -> None:
    with (
        HostileServer(IMAGE) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        assert source.info.size == source.size == source.extents().size == SIZE
        copy(source, DiskSink())
        assert len(asked(server, "GET", "/extents")) == 1


# --- Dirty extents ---


def dirty(start: int, length: int, dirty: bool, **more: bool) -> dict[str, Any]:
    return {"start": start, "length": length, "dirty": dirty, **more}


@pytest.mark.parametrize("zero", [{}, {"zero": False}], ids=["without zero", "with zero"])
def test_only_what_changed_is_read(zero: dict[str, bool]) -> None:
    """Old servers leave `zero` out of dirty extents."""
    extents = to_json(
        dirty(0, HOLE, True, **zero),
        dirty(HOLE, HOLE, True, zero=True),
        dirty(2 * HOLE, 2 * HOLE, False, **zero),
        dirty(4 * HOLE, LAST, True, **zero),
    )
    sink = DiskSink()
    with HostileServer(SPARSE, extents={"dirty": extents}) as server:
        result = download(server, sink, context="dirty")
        assert sorted(gets(server)) == [(0, HOLE), (4 * HOLE, len(SPARSE))]
    untouched = slice(2 * HOLE, 4 * HOLE)
    assert sink.image[untouched] == b"\xaa" * (2 * HOLE)
    sink.image[untouched] = SPARSE[untouched]
    assert sink.image == SPARSE
    assert result.context == "dirty"


def test_a_disk_without_dirty_extents() -> None:
    with HostileServer(IMAGE) as server:
        with pytest.raises(UnsupportedError) as caught:
            download(server, DiskSink(), context="dirty")
        # And once for the full list: is it the transfer that the server does not know?
        assert len(asked(server, "GET", "/extents")) == 2
    assert "full backup" in caught.value.hint
    assert caught.value.hint in str(caught.value)


@pytest.mark.parametrize("behaviour", OLD_SERVERS.values(), ids=list(OLD_SERVERS))
def test_a_server_without_dirty_extents(behaviour: dict[str, Any]) -> None:
    with HostileServer(IMAGE, **behaviour) as server:
        with pytest.raises(UnsupportedError) as caught:
            download(server, DiskSink(), context="dirty")
        assert not asked(server, "GET")
    assert "full backup" in caught.value.hint


@pytest.mark.parametrize("value", [{}, {"dirty": None}, {"dirty": "yes"}, {"dirty": 1}])
def test_dirty_extents_that_do_not_say_what_is_dirty(value: dict[str, Any]) -> None:
    with HostileServer(IMAGE, extents={"dirty": to_json({**X, **value})}) as server:
        with pytest.raises(ExtentsError, match="dirty"):
            download(server, DiskSink(), context="dirty")
        assert not asked(server, "GET")


# --- Large disks ---


def test_data_beyond_8_gib() -> None:
    data = noise(64 * KIB)
    image = SparseImage(64 * 1024 * GIB, {9 * GIB: data, 63 * 1024 * GIB + 512: b"end"})
    found: dict[int, bytes] = {}
    with HostileServer(image) as server:
        with ImageioHTTPSource(server.url, secure=False) as source:
            assert source.size == image.size
            reader = source.open_reader()
            for extent in source.extents():
                if not extent.zero:
                    buffer = bytearray(extent.length)
                    reader.request(extent.start, extent.length)
                    reader.readinto(extent.start, memoryview(buffer))
                    found[extent.start] = bytes(buffer)
            reader.close()
        at = 63 * 1024 * GIB
        assert gets(server) == [(9 * GIB, 9 * GIB + 64 * KIB), (at, at + 64 * KIB)]
    assert found[9 * GIB] == data
    assert found[at] == (bytes(512) + b"end").ljust(64 * KIB, b"\0")


class EnoughError(Exception):
    pass


class Enough:
    """A progress that gives up after some data."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.total = 0

    def update(self, n: int) -> None:
        self.left -= n
        if self.left < 0:
            raise EnoughError


def test_one_data_extent_of_more_than_8_gib(tmp_path: Path) -> None:
    size = 9 * GIB + 512
    progress = Enough(40 * MIB)
    image = SparseImage(size, {0: noise(MIB), 20 * MIB: noise(MIB)})
    path = tmp_path / "disk.tar"
    with (
        HostileServer(image, extents=to_json({**X, "length": size})) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
        TarStreamSink(path) as sink,
        pytest.raises(EnoughError),
    ):
        copy(source, sink, progress=progress)
    ranges = sorted(gets(server))
    assert progress.total == size
    assert ranges[0][0] == 0
    assert [start for start, _ in ranges[1:]] == [end for _, end in ranges[:-1]]
    assert not list(tmp_path.iterdir())


def test_the_last_bytes_of_an_extent_of_more_than_8_gib() -> None:
    size = 9 * GIB + 512
    image = SparseImage(size, {size - 512: noise(512)})
    with (
        HostileServer(
            image, extents=to_json({**X, "length": size}), on_get=on(1, Cut(300))
        ) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        reader = source.open_reader()
        buffer = bytearray(1024)
        reader.request(size - 1024, 1024)
        reader.readinto(size - 1024, memoryview(buffer))
        reader.close()
        assert gets(server) == [(size - 1024, size), (size - 724, size)]
    assert buffer == bytes(512) + noise(512)


# --- Hanging up ---


@pytest.mark.parametrize("fault", [Stall(70_000, FOREVER), Last(Stall(70_000, FOREVER))])
def test_closing_a_reader_while_data_is_on_its_way(fault: Fault) -> None:
    """A reader that wants no more closes its connection, instead of reading to the end."""
    with HostileServer(IMAGE, on_get=always(fault)) as server:
        source = ImageioHTTPSource(server.url, secure=False)
        source.extents()
        reader = source.open_reader()
        reader.request(0, SIZE)
        buffer = bytearray(1000)
        reader.readinto(0, memoryview(buffer))
        reader.close()
        source.close()
    assert buffer == IMAGE[:1000]


@pytest.mark.parametrize("error", [TapestreamError("the sink is full"), ValueError("a bug")])
def test_an_error_of_the_sink_ends_the_download(error: Exception) -> None:
    def fail(start: int) -> None:
        raise error

    with HostileServer(IMAGE) as server, pytest.raises(type(error)) as caught:
        download(server, DiskSink(on_write=fail))
    assert caught.value is error


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
    sink = DiskSink()
    with HostileServer(SPARSE, on_get=in_pairs) as server:
        download(server, sink)
        by_range = dict(zip(gets(server), asked(server, "GET"), strict=True))
        connections = [by_range[each].connection for each in sorted(by_range)]
        assert connections[0] == connections[2] != connections[1]
    assert sink.image == SPARSE


def test_a_long_range_is_asked_for_in_pieces_of_which_the_first_is_the_largest() -> None:
    sink = DiskSink()
    with HostileServer(WIDE) as server:
        result = download(server, sink)
        assert sorted(gets(server)) == WIDE_PIECES
    assert sink.image == WIDE
    assert result.read_bytes == len(WIDE)


@pytest.mark.parametrize(
    ("size", "pieces"), [(6 * MIB, [4 * MIB, 2 * MIB]), (8 * MIB, [4 * MIB] * 2), (MIB, [MIB])]
)
def test_of_extents_of_one_size_the_first_is_asked_for_whole(size: int, pieces: list[int]) -> None:
    image = (noise(size) + bytes(size)) * 3
    sink = DiskSink()
    with HostileServer(image) as server:
        download(server, sink)
        asked_for = sorted(gets(server))
    assert [end - start for start, end in asked_for] == [size, *pieces * 2]
    assert sink.image == image


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

    sink = DiskSink()
    with HostileServer(WIDE, on_get=once) as server:
        download(server, sink, retries=1)
        ends = [end for _, end in gets(server)]
        assert sorted(set(ends)) == [end for _, end in WIDE_PIECES]
        # The one that broke comes again, and what was under way behind it on its connection: one
        # more, and the last, which is small.
        assert len(WIDE_PIECES) < len(ends) <= len(WIDE_PIECES) + 3
    assert broken
    assert sink.image == WIDE


@pytest.mark.parametrize("start", [0, 8 * MIB, 16 * MIB])
def test_a_refusal_of_any_piece_is_told(start: int) -> None:
    def refuse(n: int, at: int, length: int) -> Fault | None:
        return Status(403, "this is why") if at == start else None

    sink = DiskSink()
    with HostileServer(WIDE, on_get=refuse) as server, pytest.raises(TicketError, match="is why"):
        download(server, sink)
    assert sink.aborted
    assert sum(length for _, length in sink.writes) <= start


def test_an_error_is_not_read_to_the_end_of_its_text() -> None:
    refuse = always(Endless(403, "this is why"))
    with HostileServer(IMAGE, on_get=refuse) as server, pytest.raises(TicketError, match="is why"):
        download(server, DiskSink(), read_timeout=2)


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
    for name in ("MAX_REPLY", "SMALL_REPLY"):
        monkeypatch.setattr(f"tapestream.imageio.connection.{name}", 5_000)
    with (
        HostileServer(IMAGE, **{where: always(fault)}) as server,  # type: ignore[arg-type]
        pytest.raises(ServerProtocolError, match="more than 5000 bytes"),
    ):
        download(server, DiskSink(), read_timeout=2)


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
        reader.request(0, 1024)
        with pytest.raises(RuntimeError, match="512"):
            reader.readinto(512, memoryview(bytearray(512)))


# --- Small ranges, several of which are under way on one connection ---

PIECE = 64 * KIB
CRUMBS = b"".join(noise(PIECE) + bytes(PIECE) for _ in range(20))
PIECES = [(start, start + PIECE) for start in range(0, len(CRUMBS), 2 * PIECE)]


def test_small_ranges_come_over_one_connection() -> None:
    sink = DiskSink()
    with HostileServer(CRUMBS) as server:
        download(server, sink)
        assert gets(server) == PIECES
        assert len({request.connection for request in asked(server, "GET")}) == 1
    assert sink.image == CRUMBS


def test_small_and_large_ranges_in_turn() -> None:
    sizes = [512, 200 * KIB, 512, 512, 8 * MIB, 300 * KIB, 512, 17 * MIB, 512]
    image = b"".join(noise(size) + bytes(PIECE) for size in sizes)
    sink = DiskSink()
    with HostileServer(image) as server:
        download(server, sink)
    assert sink.image == image


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
    sink = DiskSink()
    with HostileServer(CRUMBS, on_get=on(n, fault)) as server:
        download(server, sink, retries=1)
        assert len(gets(server)) >= len(PIECES)
    assert sink.image == CRUMBS
    assert sorted(sink.writes) == [(start, PIECE) for start, _ in PIECES]


def test_a_server_that_ends_every_connection() -> None:
    sink = DiskSink()
    with HostileServer(CRUMBS, on_get=always(Last(HONEST))) as server:
        download(server, sink, retries=0)
        assert gets(server) == PIECES
    assert sink.image == CRUMBS


def test_no_request_follows_a_reply_that_is_the_last() -> None:
    sink = DiskSink()
    with HostileServer(WIDE, on_get=always(Last(HONEST))) as server:
        download(server, sink, retries=0)
        assert sorted(gets(server)) == WIDE_PIECES
    assert sink.image == WIDE


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
            copy(source, DiskSink(), **SMALL)
    assert len(tries) == 2  # ahead, and when the first was wanted


@pytest.mark.parametrize("n", [1, 2, 9, 20])
@pytest.mark.parametrize("code", [403, 404])
def test_a_refusal_of_one_of_many_is_told(n: int, code: int) -> None:
    sink = DiskSink()
    with (
        HostileServer(CRUMBS, on_get=on(n, Status(code, "this is why"))) as server,
        pytest.raises(TransferError) as caught,
    ):
        download(server, sink)
    check_status(caught.value, code)
    assert sink.aborted
    assert len(sink.writes) < n


def test_the_reply_to_another_range_is_refused() -> None:
    """It would corrupt the disk."""
    sink = DiskSink()
    with (
        HostileServer(CRUMBS, on_get=on(3, WrongRange(PIECE))) as server,
        pytest.raises(ServerProtocolError),
    ):
        download(server, sink)
    check_written(sink, CRUMBS)
