"""Extents that lie, come late, or are dirty."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tapestream import ImageioHTTPSource, TarStreamSink, copy
from tapestream.errors import ExtentsError, ServerError, ServerProtocolError, UnsupportedError
from tapestream.testing import MemorySink
from tests.hostile import CloseBeforeReply, Cut, Fault, HostileServer, Reset, Stall, Status
from tests.imageio.downloads import HOLE, IMAGE, LAST, OLD_SERVERS, SIZE, SPARSE, X
from tests.imageio.support import FOREVER, always, asked, download, gets, in_turn, to_json

# --- Extents ---


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
    sink = MemorySink()
    with HostileServer(IMAGE, extents=extents) as server:
        with pytest.raises((ExtentsError, ServerProtocolError)):
            download(server, sink)
        assert not asked(server, "GET")
        assert len(asked(server, "GET", "/extents")) == 1
    assert not sink.writes


def test_extents_that_end_before_the_disk() -> None:
    """What they leave out would be missing from the backup, and nobody would know."""
    short = to_json({"start": 0, "length": SIZE - 512, "zero": False})
    sink = MemorySink()
    says = f"{SIZE} bytes.*only {SIZE - 512}"
    with (
        HostileServer(IMAGE, extents=short) as server,
        pytest.raises(ServerProtocolError, match=says),
    ):
        download(server, sink)
    assert sink.state == "aborted"


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
    sink = MemorySink()
    with HostileServer(SPARSE) as server:
        download(server, sink)
        assert sorted(gets(server)) == [
            (0, HOLE),
            (2 * HOLE, 3 * HOLE),
            (4 * HOLE, len(SPARSE)),
        ]
    assert sink.disk == SPARSE
    assert sink.zeros == [(HOLE, HOLE), (3 * HOLE, HOLE)]


def test_extents_may_take_longer_than_data() -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, on_extents=always(Stall(None, 1))) as server:
        download(server, sink, read_timeout=0.3, retries=0)
        assert len(asked(server, "GET", "/extents")) == 1
    assert sink.disk == IMAGE


@pytest.mark.parametrize("after", [None, 0, 5])
def test_extents_that_do_not_come_in_time(after: int | None) -> None:
    with HostileServer(IMAGE, on_extents=always(Stall(after, FOREVER))) as server:
        with pytest.raises(ServerError, match="in time"):
            download(server, MemorySink(), extents_timeout=0.2, retries=1)
        assert len(asked(server, "GET", "/extents")) == 2


@pytest.mark.parametrize(
    "fault", [Status(500), Status(503, early=True), Cut(7), Reset(7), CloseBeforeReply()]
)
def test_extents_are_tried_again(fault: Fault) -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, on_extents=in_turn([fault, fault])) as server:
        download(server, sink, retries=2)
        assert len(asked(server, "GET", "/extents")) == 3
    assert sink.disk == IMAGE


def test_extents_are_asked_for_once() -> None:
    with (
        HostileServer(IMAGE) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        source.extents()
        assert source.info.size == source.size == source.extents().size == SIZE
        copy(source, MemorySink())
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
    sink = MemorySink()
    with HostileServer(SPARSE, extents={"dirty": extents}) as server:
        result = download(server, sink, context="dirty")
        assert sorted(gets(server)) == [(0, HOLE), (4 * HOLE, len(SPARSE))]
    untouched = slice(2 * HOLE, 4 * HOLE)
    assert sink.disk[untouched] == bytes([MemorySink.FILL]) * (2 * HOLE)
    sink.disk[untouched] = SPARSE[untouched]
    assert sink.disk == SPARSE
    assert result.context == "dirty"


def test_a_disk_without_dirty_extents() -> None:
    with HostileServer(IMAGE) as server:
        with pytest.raises(UnsupportedError) as caught:
            download(server, MemorySink(), context="dirty")
        # And once for the full list: is it the transfer that the server does not know?
        assert len(asked(server, "GET", "/extents")) == 2
    assert "full backup" in caught.value.hint
    assert caught.value.hint in str(caught.value)


@pytest.mark.parametrize("behaviour", OLD_SERVERS.values(), ids=list(OLD_SERVERS))
def test_a_server_without_dirty_extents(behaviour: dict[str, Any]) -> None:
    with HostileServer(IMAGE, **behaviour) as server:
        with pytest.raises(UnsupportedError) as caught:
            download(server, MemorySink(), context="dirty")
        assert not asked(server, "GET")
    assert "full backup" in caught.value.hint


@pytest.mark.parametrize("value", [{}, {"dirty": None}, {"dirty": "yes"}, {"dirty": 1}])
def test_dirty_extents_that_do_not_say_what_is_dirty(value: dict[str, Any]) -> None:
    with HostileServer(IMAGE, extents={"dirty": to_json({**X, **value})}) as server:
        with pytest.raises(ExtentsError, match="dirty"):
            download(server, MemorySink(), context="dirty")
        assert not asked(server, "GET")
