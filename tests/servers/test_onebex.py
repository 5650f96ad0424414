"""Backups from OpenNebula's OneBEX, against a double of it: see `onebex.py`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    ImageioHTTPSource,
    ImageioUploadSink,
    TapestreamError,
    TarStreamSource,
    compare,
    copy,
)
from tapestream.errors import (
    ExtentsError,
    ServerError,
    ServerProtocolError,
    UnsupportedError,
)
from tapestream.testing import MemorySink, MemorySource
from tests.servers.onebex import OneBEX, changed_blocks, nbd_blocks, whole_disk
from tests.servers.support import (
    FULL,
    HOLE,
    INCREMENTAL,
    KIB,
    MIB,
    MONDAY,
    SUNDAY,
    back_up,
    restored,
)

ALLOCATION = nbd_blocks(
    (MIB, "data"),
    (HOLE, "hole,zero"),
    (300 * KIB, "data"),
    (HOLE, "zero"),
    (65 * KIB + 512, "data"),
)
BITMAP = nbd_blocks((HOLE, "clean"), (HOLE, "dirty"), (len(MONDAY) - MIB, "clean"))


def source(server: OneBEX, **options: Any) -> ImageioHTTPSource:
    return ImageioHTTPSource(server.transfer_url, secure=False, **options)


def test_a_full_backup_comes_back_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """OneBEX never says how large the disk is, and answers 500 for a byte after its end."""
    tar = tmp_path / "disk.tar"
    with caplog.at_level(logging.WARNING), OneBEX(SUNDAY, ALLOCATION) as server:
        result = back_up(source(server), tar)
    assert not caplog.messages
    assert result.data_bytes == len(SUNDAY) - HOLE  # "hole,zero" is data for OneBEX
    assert restored([tar], tmp_path / "disk.raw") == SUNDAY


def test_a_disk_of_lvm_or_ceph_is_read_whole() -> None:
    sink = MemorySink()
    with OneBEX(SUNDAY, whole_disk(len(SUNDAY))) as server, source(server) as src, sink:
        copy(src, sink)
    assert sink.disk == SUNDAY


def test_only_one_request_is_under_way() -> None:
    """OneBEX allows one reader, and starts a program for each GET."""
    sink = MemorySink()
    with OneBEX(SUNDAY, ALLOCATION) as server, source(server) as src, sink:
        assert src.max_readers == 1
        copy(src, sink)
        assert server.count("GET") < 12
    assert sink.disk == SUNDAY


def test_an_incremental_backup_restores_with_its_full_one(tmp_path: Path) -> None:
    tars = [tmp_path / "sunday.tar", tmp_path / "monday.tar"]
    with OneBEX(SUNDAY, ALLOCATION) as server:
        back_up(source(server, info=FULL), tars[0])
    with OneBEX(MONDAY, BITMAP) as server:
        result = back_up(source(server, context="dirty", info=INCREMENTAL), tars[1])
    assert result.data_bytes == HOLE
    assert restored(tars, tmp_path / "disk.raw") == MONDAY


def test_a_backup_is_compared_with_what_is_exported(tmp_path: Path) -> None:
    with OneBEX(SUNDAY, ALLOCATION) as server:
        back_up(source(server), tmp_path / "disk.tar")
        with source(server) as live, TarStreamSource(tmp_path / "disk.tar") as kept:
            assert compare(live, kept).equal


# --- What it cannot do ---


def test_an_incremental_backup_of_a_full_export_is_refused() -> None:
    with OneBEX(SUNDAY, ALLOCATION) as server:
        with source(server, context="dirty") as src, pytest.raises(UnsupportedError) as caught:
            src.extents()
        assert "fallback='full'" in str(caught.value)
        sink = MemorySink()
        with source(server, context="dirty", fallback="full") as src, sink:
            copy(src, sink)
    assert sink.disk == SUNDAY
    assert sink.info.fallback
    assert sink.info.context == "zero"


@pytest.mark.parametrize("context", ["zero", "dirty"])
@pytest.mark.parametrize(
    ("ranges", "error"),
    [
        ([(HOLE, 64 * KIB, False), (MIB, 64 * KIB, True)], ExtentsError),
        ([(0, 64 * KIB, False), (MIB, 64 * KIB, False)], ExtentsError),
        ([(0, HOLE, False), (HOLE, HOLE, True)], ServerProtocolError),  # it could be a small disk
        ([], ServerProtocolError),
    ],
)
def test_a_list_of_nothing_but_changes_is_refused(
    ranges: list[tuple[int, int, bool]], error: type[TapestreamError], context: Any
) -> None:
    """OneBEX lists nothing else for an incremental export of LVM or Ceph."""
    sink = MemorySink()
    with (
        OneBEX(MONDAY, changed_blocks(ranges)) as server,
        source(server, context=context, fallback="full") as src,
        sink,
        pytest.raises(error) as caught,
    ):
        copy(src, sink)
    assert not sink.writes
    assert "full" in caught.value.hint


def test_a_restore_is_refused() -> None:
    with (
        OneBEX(bytes(len(SUNDAY)), nbd_blocks((len(SUNDAY), "hole,zero"))) as server,
        MemorySource(SUNDAY) as src,
        ImageioUploadSink(server.transfer_url, secure=False) as dst,
    ):
        with pytest.raises(UnsupportedError) as caught:
            copy(src, dst)
        assert server.count("PUT", "?flush=n") == 1  # it is not tried again
    assert "Write operation not implemented" in str(caught.value)
    assert "RawImageSink" in caught.value.hint


def test_a_block_hash_is_refused_although_it_is_announced() -> None:
    with OneBEX(SUNDAY, ALLOCATION) as server, source(server) as src:
        with pytest.raises(UnsupportedError, match="block hashes: 404") as caught:
            src.block_hash()
        assert "block_hash=True" in caught.value.hint
        assert copy(src, MemorySink(), block_hash=True).block_hash is not None


def test_a_transfer_that_it_does_not_know() -> None:
    """Its OPTIONS does not look, so this shows only when the extents are requested."""
    with OneBEX(SUNDAY, ALLOCATION) as server:
        server.transfer_url += "0"
        with (
            source(server) as src,
            pytest.raises(ServerError, match="Transfer not found") as caught,
        ):
            src.extents()
    assert caught.value.status == 404
    assert "does not know this transfer" in caught.value.hint
