"""Backups from and restores to CloudStack's image server, against a double: see `cloudstack.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from tapestream import (
    Extent,
    ImageioHTTPSource,
    ImageioUploadSink,
    TarStreamSource,
    copy,
    restore_chain,
)
from tapestream.errors import ServerError, TargetSizeError, TicketError, UnsupportedError
from tapestream.testing import MemorySink, MemorySource
from tests.disks import noise
from tests.servers.cloudstack import ImageServer
from tests.servers.double import authority
from tests.servers.support import (
    CHANGED,
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

Protocol = Literal["HTTP/1.0", "HTTP/1.1"]
# The early versions spoke HTTP/1.0 by mistake: each connection ends after one request.
protocols = pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])


def source(server: ImageServer, **options: Any) -> ImageioHTTPSource:
    return ImageioHTTPSource(server.transfer_url, secure=False, **options)


def sink(server: ImageServer, **options: Any) -> ImageioUploadSink:
    return ImageioUploadSink(server.transfer_url, secure=False, **options)


def clusters(disk: bytes) -> list[Extent]:
    """The extents of a disk, in clusters."""
    with ImageServer(disk) as server:
        return [Extent(**extent) for extent in server.allocation()]


@protocols
def test_a_full_backup_comes_back(protocol: Protocol, tmp_path: Path) -> None:
    with ImageServer(SUNDAY, read_only=True, protocol=protocol) as server:
        result = back_up(source(server), tmp_path / "disk.tar")
        assert server.count("GET", "context=zero") == 1
    assert result.zero_bytes > HOLE
    assert restored([tmp_path / "disk.tar"], tmp_path / "disk.raw") == SUNDAY


@protocols
def test_an_incremental_backup_restores_with_its_full_one(
    protocol: Protocol, tmp_path: Path
) -> None:
    tars = [tmp_path / "sunday.tar", tmp_path / "monday.tar"]
    with ImageServer(SUNDAY, read_only=True, protocol=protocol) as server:
        back_up(source(server, info=FULL), tars[0])
    with ImageServer(MONDAY, read_only=True, bitmap=[CHANGED], protocol=protocol) as server:
        result = back_up(source(server, context="dirty", info=INCREMENTAL), tars[1])
    assert (result.data_bytes, result.zero_bytes) == (128 * KIB, HOLE - 128 * KIB)
    assert restored(tars, tmp_path / "disk.raw") == MONDAY


@pytest.mark.parametrize(
    "changes",
    [{}, {"bitmap": [CHANGED], "bitmap_is_lost": True}],
    ids=["without a bitmap", "with a bitmap that is lost"],
)
def test_without_its_bitmap_an_incremental_backup_holds_everything(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """It is as large as a full one, but right."""
    tars = [tmp_path / "sunday.tar", tmp_path / "monday.tar"]
    with ImageServer(SUNDAY, read_only=True) as server:
        full = back_up(source(server, info=FULL), tars[0])
    with ImageServer(MONDAY, read_only=True, **changes) as server:
        result = back_up(source(server, context="dirty", info=INCREMENTAL), tars[1])
    assert result.context == "dirty"
    assert result.data_bytes + result.zero_bytes == full.data_bytes + full.zero_bytes
    assert restored(tars, tmp_path / "disk.raw") == MONDAY


@pytest.mark.parametrize(
    ("disk", "copied"),
    [(SUNDAY, 0), (noise(MIB), MIB)],
    ids=["a disk with zeros", "a disk without zeros"],
)
def test_nothing_changed(disk: bytes, copied: int, tmp_path: Path) -> None:
    """If there is one extent, which is clean, the server takes the bitmap for missing."""
    tars = [tmp_path / "sunday.tar", tmp_path / "monday.tar"]
    with ImageServer(disk, read_only=True, bitmap=[]) as server:
        back_up(source(server, info=FULL), tars[0])
        result = back_up(source(server, context="dirty", info=INCREMENTAL), tars[1])
    assert result.data_bytes + result.zero_bytes == copied
    assert restored(tars, tmp_path / "disk.raw") == disk


def test_a_backup_and_a_restore_over_tls(tmp_path: Path) -> None:
    """With a CA of CloudStack's own."""
    cafile, tar = tmp_path / "ca.pem", tmp_path / "disk.tar"
    authority.cert_pem.write_to_path(cafile)
    with ImageServer(SUNDAY, read_only=True, tls=True) as server:
        back_up(ImageioHTTPSource(server.transfer_url, cafile=cafile), tar)
    with (
        ImageServer(bytes(len(SUNDAY)), tls=True) as server,
        TarStreamSource(tar) as src,
        ImageioUploadSink(server.transfer_url, cafile=cafile) as dst,
    ):
        copy(src, dst)
    assert server.durable == SUNDAY


@protocols
@pytest.mark.parametrize("old", [bytes(len(SUNDAY)), noise(len(SUNDAY), 7)], ids=["new", "old"])
def test_a_restore_is_whole_and_survives_a_power_failure(protocol: Protocol, old: bytes) -> None:
    with (
        ImageServer(old, protocol=protocol) as server,
        MemorySource(SUNDAY, clusters(SUNDAY)) as src,
        sink(server) as dst,
    ):
        copy(src, dst, buffer_size=64 * KIB)
    assert server.disk == SUNDAY
    assert server.durable == SUNDAY


def test_a_restore_is_whole_although_the_nbd_server_dies() -> None:
    """Unlike imageio's, this server flushes an upload only when it is asked to.

    With HTTP/1.0, no connection shows that the NBD server was another one before.
    """
    disk = noise(len(SUNDAY))
    with (
        ImageServer(bytes(len(disk)), protocol="HTTP/1.0", dies_after=3) as server,
        MemorySource(disk) as src,
        sink(server) as dst,
    ):
        copy(src, dst, buffer_size=64 * KIB)
        assert server.dies_after < 0
    assert server.durable == disk


@protocols
def test_a_chain_is_restored_to_it(protocol: Protocol, tmp_path: Path) -> None:
    tars = [tmp_path / "sunday.tar", tmp_path / "monday.tar"]
    with ImageServer(SUNDAY, read_only=True) as server:
        back_up(source(server, info=FULL), tars[0])
    with ImageServer(MONDAY, read_only=True, bitmap=[CHANGED]) as server:
        back_up(source(server, context="dirty", info=INCREMENTAL), tars[1])
    with (
        ImageServer(bytes(len(MONDAY)), protocol=protocol) as server,
        TarStreamSource(tars[0]) as full,
        TarStreamSource(tars[1]) as incremental,
        sink(server) as dst,
    ):
        restore_chain([full, incremental], dst)
    assert server.durable == MONDAY


def test_a_disk_that_is_too_small_is_not_touched() -> None:
    old = noise(MIB)
    with (
        ImageServer(old) as server,
        MemorySource(SUNDAY) as src,
        sink(server) as dst,
        pytest.raises(TargetSizeError, match=f"{MIB} bytes"),
    ):
        copy(src, dst)
    assert server.disk == old


# --- What it cannot do ---


def test_a_transfer_that_it_does_not_know() -> None:
    """Other servers answer 403. Transfers that were idle for ten minutes are unknown, too."""
    with ImageServer(SUNDAY) as server:
        server.transfer_url += "0"
        with pytest.raises(ServerError, match="unknown image_id") as caught:
            source(server)
    assert caught.value.status == 404
    assert "does not know this transfer" in caught.value.hint


def test_a_restore_into_a_download_is_refused() -> None:
    with (
        ImageServer(SUNDAY, read_only=True) as server,
        pytest.raises(TicketError, match="does not allow to write"),
    ):
        sink(server)


def test_a_block_hash_is_refused() -> None:
    with (
        ImageServer(SUNDAY, read_only=True) as server,
        source(server) as src,
        pytest.raises(UnsupportedError, match="block hashes") as caught,
    ):
        src.block_hash()
    assert "block_hash=True" in caught.value.hint


# --- Its backend for files ---


def test_a_file_is_backed_up_as_it_is() -> None:
    """The file, not the disk in it: only for a raw image are they the same."""
    memory = MemorySink()
    with ImageServer(SUNDAY, backend="file") as server, source(server) as src, memory:
        result = copy(src, memory)
    assert memory.disk == SUNDAY
    assert result.data_bytes == len(SUNDAY)


def test_an_incremental_backup_of_a_file_is_refused() -> None:
    with ImageServer(SUNDAY, backend="file") as server:
        with source(server, context="dirty") as src, pytest.raises(UnsupportedError) as caught:
            src.extents()
        assert "full backup" in caught.value.hint
        with source(server, context="dirty", fallback="full") as src, MemorySink() as memory:
            copy(src, memory)
    assert memory.disk == SUNDAY


def test_a_restore_to_a_file_is_refused() -> None:
    """It takes a file only in one request, and not in parts."""
    old = noise(len(SUNDAY), 7)
    with (
        ImageServer(old, backend="file") as server,
        MemorySource(SUNDAY) as src,
        sink(server) as dst,
        pytest.raises(ServerError, match="use full PUT") as caught,
    ):
        copy(src, dst)
    assert caught.value.status == 400
    assert "RawImageSink" in caught.value.hint
    assert server.disk == old
