"""The block hash, end to end: ours, that of the daemon and that of imageio's own tools are one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    BackupInfo,
    CopyResult,
    DiscardSink,
    Extent,
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSink,
    RawImageSource,
    Sink,
    Source,
    TarStreamSink,
    TarStreamSource,
    copy,
)
from tapestream.errors import (
    BlockHashMismatchError,
    ServerError,
    ServerProtocolError,
    TapestreamError,
    TicketError,
    UnsupportedError,
    UsageError,
)
from tapestream.model.blockhash import BlockHash
from tapestream.testing import (
    ImageioDaemon,
    MemorySink,
    MemorySource,
    create_image,
    serve_image,
    virtual_size,
    write_pattern,
)
from tests.disks import noise
from tests.engine.test_hashing import reference
from tests.hostile import CloseBeforeReply, Cut, Fault, HostileServer, Reset, Stall, Status
from tests.imageio.support import FOREVER, KIB, MIB, ChecksumServer, Say, asked, on

BOTH = pytest.mark.parametrize("unix", [False, True], ids=["tls", "unix"])
# 64 KiB, of other sizes than the grid: pieces cross its borders everywhere.
SMALL: dict[str, Any] = {"buffer_size": 68 * KIB, "buffer_memory": 2 * MIB}
WRONG = BlockHash("00" * 32)


def contiguous(path: Path) -> None:
    create_image(path, 40 * MIB)
    write_pattern(path, ["write -P 1 0 10M", "write -P 2 10M 15M"])


def fragmented(path: Path) -> None:
    """64 KiB of data, 64 KiB of nothing, 200 times; a long gap; a little data."""
    create_image(path, 100 * MIB)
    commands = [f"write -P {i + 1} {i * 128}k 64k" for i in range(200)]
    write_pattern(path, [*commands, "write -P 201 77M 64k"])


def odd(path: Path) -> None:
    """A multiple of 512, as qemu wants, but not of 4096; data in its last sector."""
    create_image(path, 9 * MIB + 3 * 512)
    write_pattern(path, ["write -P 1 3M 2M", f"write -P 2 {9 * MIB + 1024} 512"])


def empty(path: Path) -> None:
    create_image(path, 30 * MIB)


def raw(path: Path) -> None:
    """Data that is zeros, too."""
    with path.open("wb") as f:
        f.write(noise(5 * MIB) + bytes(3 * MIB))
        f.truncate(21 * MIB)


DISKS: list[Callable[[Path], None]] = [contiguous, fragmented, odd, empty, raw]


class Disk:
    """A served image."""

    def __init__(self, path: Path, nbd_url: str, daemon: ImageioDaemon) -> None:
        self.path = path
        self.size = virtual_size(path)
        self._nbd_url = nbd_url
        self._daemon = daemon

    def source(self, **options: Any) -> ImageioHTTPSource:
        url = self._daemon.add_ticket(self._nbd_url, self.size)
        return ImageioHTTPSource(url, cafile=self._daemon.cafile, **options)

    def sink(self, **options: Any) -> ImageioUploadSink:
        url = self._daemon.add_ticket(self._nbd_url, self.size, ops=["write"])
        return ImageioUploadSink(url, cafile=self._daemon.cafile, **options)


@pytest.fixture(params=DISKS, ids=lambda make: make.__name__)
def disk(request: pytest.FixtureRequest, daemon: ImageioDaemon, tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk.img"
    request.param(path)
    image_format = "raw" if request.param is raw else "qcow2"
    with serve_image(path, format=image_format) as nbd_url:
        yield Disk(path, nbd_url, daemon)


@pytest.fixture
def target(disk: Disk, daemon: ImageioDaemon, tmp_path: Path) -> Iterator[Disk]:
    """An empty disk of the same size."""
    path = tmp_path / "target.qcow2"
    create_image(path, disk.size)
    with serve_image(path, read_only=False) as nbd_url:
        yield Disk(path, nbd_url, daemon)


only = pytest.mark.parametrize("disk", [contiguous], indirect=True, ids=["contiguous"])


def as_imageio_says(path: Path) -> BlockHash:
    """What `ovirt-img checksum` prints: this is the function behind it.

    The command itself wants the engine's SDK. The function leaves a socket to the garbage
    collector: it gets a process of its own.
    """
    program = (
        "import json, sys; from ovirt_imageio.client import checksum; "
        "print(json.dumps(checksum(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return BlockHash.from_dict(json.loads(run.stdout))


def hash_of_copy(src: Source, dst: Sink, **options: Any) -> BlockHash:
    with src, dst:
        found = copy(src, dst, block_hash=True, **options).block_hash
    assert found is not None
    return found


# --- One hash, by every way ---


@BOTH
def test_all_ways_give_the_same(disk: Disk, target: Disk, tmp_path: Path, unix: bool) -> None:
    expected = as_imageio_says(disk.path)
    tar, restored = tmp_path / "disk.tar", tmp_path / "restored.raw"

    source = disk.source(use_unix_socket=unix)
    assert source.over_unix_socket is unix
    assert source.block_hash() == expected
    assert hash_of_copy(source, TarStreamSink(tar)) == expected
    assert hash_of_copy(TarStreamSource(tar), RawImageSink(restored)) == expected
    assert hash_of_copy(RawImageSource(restored), DiscardSink()) == expected
    with TarStreamSource(tar) as src, target.sink(use_unix_socket=unix) as sink:
        assert copy(src, sink, block_hash=True).block_hash == expected
        assert sink.block_hash() == expected
        sink.check(expected)


@pytest.mark.parametrize("options", [{}, {"max_gap": 0}, SMALL], ids=["default", "no gap", "small"])
@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_readers(disk: Disk, workers: int, options: dict[str, Any]) -> None:
    found = hash_of_copy(disk.source(), MemorySink(), max_workers=workers, **options)
    assert found == as_imageio_says(disk.path)


def test_a_file(daemon: ImageioDaemon, tmp_path: Path) -> None:
    """Without qemu-nbd. The daemon fails where the size is no multiple of 512."""
    path = tmp_path / "disk.raw"
    image = noise(5 * MIB + 512)
    path.write_bytes(image)
    url = daemon.add_ticket(path.as_uri(), len(image))
    with ImageioHTTPSource(url, cafile=daemon.cafile) as source:
        assert source.block_hash().checksum == reference(image)
        assert hash_of_copy(source, DiscardSink()).checksum == reference(image)


# --- Recorded with the backup ---


@BOTH
@only
def test_a_backup_records_the_block_hash(disk: Disk, tmp_path: Path, unix: bool) -> None:
    tar = tmp_path / "disk.tar"
    with (
        disk.source(use_unix_socket=unix, record_block_hash=True) as source,
        TarStreamSink(tar) as sink,
    ):
        result = copy(source, sink, block_hash=True)
    with TarStreamSource(tar) as src:
        assert src.info.block_hash == result.block_hash == as_imageio_says(disk.path)
        assert copy(src, DiscardSink(), block_hash=True).block_hash == result.block_hash
    text = subprocess.run(["tar", "-xOf", tar, "backup-info.json"], capture_output=True, check=True)
    assert result.block_hash is not None
    assert json.loads(text.stdout)["block_hash"] == result.block_hash.to_dict()


@only
def test_no_block_hash_is_recorded_unless_asked_for(disk: Disk) -> None:
    with disk.source() as source:
        source.extents()
        assert source.info.block_hash is None
    with disk.source(info=BackupInfo(block_hash=WRONG)) as source:
        source.extents()
        assert source.info.block_hash == WRONG
    with disk.source(info=BackupInfo(block_hash=WRONG), record_block_hash=True) as source:
        source.extents()
        assert source.info.block_hash == as_imageio_says(disk.path)


def test_an_incremental_backup_records_that_of_the_whole_disk(
    daemon: ImageioDaemon, tmp_path: Path
) -> None:
    path, tar = tmp_path / "disk.qcow2", tmp_path / "disk.tar"
    contiguous(path)
    subprocess.run(["qemu-img", "bitmap", "--add", path, "since-full"], check=True)
    write_pattern(path, ["write -P 9 30M 1M"])
    with serve_image(path, bitmap="since-full") as nbd_url:
        url = daemon.add_ticket(nbd_url, virtual_size(path), dirty=True)
        with (
            ImageioHTTPSource(
                url, cafile=daemon.cafile, context="dirty", record_block_hash=True
            ) as source,
            TarStreamSink(tar) as sink,
        ):
            copy(source, sink)
    with TarStreamSource(tar) as src:
        assert src.info.context == "dirty"
        assert src.info.block_hash == as_imageio_says(path)


# --- Another disk than it should be ---


@only
@pytest.mark.parametrize("target_of", [TarStreamSink, RawImageSink])
def test_what_is_read_is_not_what_was_recorded(
    disk: Disk, tmp_path: Path, target_of: Callable[[Path], Sink]
) -> None:
    info = BackupInfo(block_hash=WRONG)
    with (
        disk.source(info=info) as source,
        target_of(tmp_path / "copy") as sink,
        pytest.raises(BlockHashMismatchError) as caught,
    ):
        copy(source, sink, block_hash=True)
    assert caught.value.expected == WRONG.checksum
    assert caught.value.found == as_imageio_says(disk.path).checksum
    assert [path.name for path in tmp_path.iterdir()] == ["disk.img"]


@only
@pytest.mark.parametrize("at", [0, 17 * MIB + 5, 40 * MIB - 1])
def test_one_wrong_byte_on_the_server(disk: Disk, target: Disk, at: int) -> None:
    with disk.source() as source, target.sink() as sink:
        result = copy(source, sink, block_hash=True)
        assert result.block_hash is not None
        sink.check(result.block_hash)
        with target.sink() as vandal:
            vandal.begin(BackupInfo(size=target.size, context="dirty"), source.extents())
            writer = vandal.open_writer()
            writer.write(at, memoryview(b"\x77"))
            writer.flush()
            writer.close()
        with pytest.raises(BlockHashMismatchError, match="the disk on the server") as caught:
            sink.check(result.block_hash)
    assert caught.value.expected == result.block_hash.checksum
    assert "another one" in str(caught.value)


@only
def test_a_block_hash_that_cannot_be_compared(disk: Disk, target: Disk) -> None:
    with target.sink() as sink, pytest.raises(UsageError, match="sha256"):
        sink.check(replace(WRONG, algorithm="sha256"))


@only
@pytest.mark.parametrize("expected", ["00" * 32, b"", 5, {"checksum": "00"}])
def test_what_is_no_block_hash(expected: Any, target: Disk) -> None:
    """Before the server reads the whole disk to compute one."""
    with target.sink() as sink, pytest.raises(UsageError, match="BlockHash is needed"):
        sink.check(expected)


@only
def test_a_larger_disk_is_not_compared(disk: Disk, target: Disk, tmp_path: Path) -> None:
    with MemorySource(noise(MIB)) as source, target.sink() as sink:
        result = copy(source, sink, block_hash=True)
        assert result.block_hash is not None
        with pytest.raises(UsageError, match=f"{39 * MIB} bytes larger"):
            sink.check(result.block_hash)


# --- Tickets, and time ---


def test_the_ticket_is_in_use_meanwhile(daemon: ImageioDaemon, tmp_path: Path) -> None:
    """One that expires after two seconds is active for longer, and lives on."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as f:
        f.truncate(32 * 1024 * MIB)
    url = daemon.add_ticket(path.as_uri(), path.stat().st_size, timeout=2)
    with ImageioHTTPSource(url, cafile=daemon.cafile) as source:
        thread = threading.Thread(target=source.block_hash)
        thread.start()
        time.sleep(2.2)
        info = daemon.ticket_info(url)
        assert thread.is_alive(), "make the disk larger"
        assert (info["active"], info["idle_time"]) == (True, 0)
        thread.join()
        source.keep_alive()


@only
def test_a_ticket_that_is_gone(disk: Disk, daemon: ImageioDaemon) -> None:
    url = daemon.add_ticket(disk.path.as_uri(), disk.size)
    with ImageioHTTPSource(url, cafile=daemon.cafile) as source:
        daemon.remove_ticket(url)
        with pytest.raises(TicketError):
            source.block_hash()


# --- With the double ---

IMAGE = noise(200 * KIB)
HASH = BlockHash(reference(IMAGE))


def say(**changes: Any) -> Fault:
    return Say(200, json.dumps({**HASH.to_dict(), **changes}).encode())


def record(server: HostileServer, **options: Any) -> CopyResult:
    with ImageioHTTPSource(server.url, secure=False, record_block_hash=True, **options) as source:
        return copy(source, MemorySink(), block_hash=True)


def test_the_request() -> None:
    with ChecksumServer(IMAGE, say()) as server:
        with ImageioHTTPSource(server.url, secure=False, record_block_hash=True) as source:
            assert not asked(server, "GET", "/checksum")
            source.extents()
            assert source.info.block_hash == source.info.block_hash == source.block_hash() == HASH
            copy(source, MemorySink(), block_hash=True)
        [request] = asked(server, "GET", "/checksum")
        assert request.path.endswith("/checksum?algorithm=blake2b&block_size=4194304")
        data = [r for r in asked(server, "GET") if "range" in r.headers]
        assert server.requests.index(request) < server.requests.index(data[0])


def test_a_server_that_changes_the_disk() -> None:
    with (
        ChecksumServer(IMAGE, say(checksum="00" * 32)) as server,
        pytest.raises(BlockHashMismatchError),
    ):
        record(server)


LIES = {
    "nothing": Say(200, b""),
    "not JSON": Say(200, b"<html>"),
    "not UTF-8": Say(200, b'{"algorithm": "\xff"}'),
    "a list": Say(200, b"[]"),
    "null": Say(200, b"null"),
    "deep": Say(200, b"[" * 100_000),
    "no checksum": Say(200, b'{"algorithm": "blake2b", "block_size": 4194304}'),
    "no hex": say(checksum="z" * 64),
    "a number": say(checksum=64),
    "short": say(checksum="00" * 31),
    "long": say(checksum="00" * 64),
    "another algorithm": say(algorithm="sha256"),
    "another block size": say(block_size=MIB),
    "no block size": say(block_size=0),
    "a block size of no number": say(block_size="4194304"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
def test_a_reply_that_makes_no_sense(lie: Fault) -> None:
    with ChecksumServer(IMAGE, lie) as server:
        with pytest.raises(ServerProtocolError, match="block hash"):
            record(server)
        with (
            ImageioUploadSink(server.url, secure=False) as sink,
            pytest.raises(ServerProtocolError, match="block hash"),
        ):
            sink.check(HASH)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(403), TicketError),
        (Status(404), UnsupportedError),
        (Status(405), UnsupportedError),
        (Status(501), UnsupportedError),
        (Status(400), ServerError),
        (Status(500), ServerError),
        (Cut(0), ServerError),
        (Reset(0), ServerError),
        (CloseBeforeReply(), ServerError),
        (Stall(None, FOREVER), ServerError),
    ],
    ids=str,
)
def test_a_failure_is_not_tried_again(fault: Fault, error: type[TapestreamError]) -> None:
    """The server may still be at work on the first try."""
    with ChecksumServer(IMAGE, fault) as server:
        with pytest.raises(error):
            record(server, checksum_timeout=0.3)
        assert len(asked(server, "GET", "/checksum")) == 1


def test_a_transfer_that_is_gone_is_not_a_server_without_block_hashes() -> None:
    """A server that answers 404 for a transfer that it does not know any more."""
    gone = on(2, Status(404))
    with ChecksumServer(IMAGE, Status(404), on_options=gone) as server:
        with pytest.raises(ServerError, match="not know this transfer"):
            record(server)
        assert len(asked(server, "GET", "/checksum")) == 1


def test_the_block_hash_may_take_longer_than_the_extents() -> None:
    class Slow(Say):
        def play(self, *args: Any) -> None:
            time.sleep(0.5)
            super().play(*args)

    with ChecksumServer(IMAGE, Slow(200, json.dumps(HASH.to_dict()).encode())) as server:
        options = {"connect_timeout": 0.2, "read_timeout": 0.2, "extents_timeout": 0.2}
        assert record(server, **options).block_hash == HASH


@pytest.mark.parametrize(
    "behaviour", [{"options_status": 405}, {"options_status": 204}, {"features": ("extents",)}]
)
def test_a_server_without_the_feature(behaviour: dict[str, Any]) -> None:
    with ChecksumServer(IMAGE, say(), **behaviour) as server:
        with pytest.raises(UnsupportedError, match="block_hash=True"):
            record(server)
        with ImageioHTTPSource(server.url, secure=False) as source:
            assert hash_of_copy(source, MemorySink()) == HASH
        with (
            ImageioUploadSink(server.url, secure=False) as sink,
            pytest.raises(UnsupportedError, match="block_hash=True"),
        ):
            sink.check(HASH)
        assert not asked(server, "GET", "/checksum")


def test_a_disk_whose_extents_lie_has_another_block_hash() -> None:
    """What was zeros for the extents is data for the server."""
    size = len(IMAGE)
    extents = json.dumps([Extent(0, size // 2).to_dict(), zeros(size // 2, size)]).encode()
    with (
        ChecksumServer(IMAGE, say(), extents=extents) as server,
        pytest.raises(BlockHashMismatchError),
    ):
        record(server)


def zeros(start: int, end: int) -> dict[str, Any]:
    return Extent(start, end - start, zero=True).to_dict()
