"""Full backup and restore through the real daemon: every disk by every way, compared whole."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from tapestream import (
    BackupInfo,
    CopyResult,
    DiscardSink,
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSink,
    TarStreamSink,
    TarStreamSource,
    copy,
)
from tapestream.testing import (
    ImageioDaemon,
    compare_images,
    create_image,
    serve_image,
    virtual_size,
    write_pattern,
)

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4


def ext4(path: Path) -> None:
    """A file system with files in it."""
    raw = path.with_suffix(".ext4")
    with raw.open("wb") as f:
        f.truncate(96 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-d", Path(__file__).parents[1] / "src", raw], check=True)
    convert(raw, path)


def empty(path: Path) -> None:
    create_image(path, 64 * MIB)


def all_data(path: Path) -> None:
    raw = path.with_suffix(".data")
    raw.write_bytes(random.Random(1).randbytes(40 * MIB))
    convert(raw, path)


def first_and_last_byte(path: Path) -> None:
    create_image(path, 50 * MIB)
    write_pattern(path, ["write -P 0x11 0 1", f"write -P 0x22 {50 * MIB - 1} 1"])


def unaligned_size(path: Path) -> None:
    """A multiple of 512, as qemu wants, but not of 4096."""
    create_image(path, 10 * MIB + 3 * 512)
    write_pattern(path, ["write -P 0x33 5M 4M", f"write -P 0x44 {10 * MIB + 1000} 536"])


def fragmented(path: Path) -> None:
    """64 KiB of data, 64 KiB of nothing, 2500 times."""
    raw = path.with_suffix(".fragmented")
    with raw.open("wb") as f:
        rng = random.Random(2)
        for i in range(2500):
            f.seek(i * 128 * KIB)
            f.write(rng.randbytes(64 * KIB))
        f.truncate(2500 * 128 * KIB)
    convert(raw, path)


def six_tib(path: Path) -> None:
    create_image(path, 6 * TIB)
    write_pattern(
        path, ["write -P 0x55 3M 2M", "write -P 0x66 2T 1M", f"write -P 0x77 {6 * TIB - MIB} 1M"]
    )


def convert(raw: Path, path: Path) -> None:
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    raw.unlink()


DISKS = [ext4, empty, all_data, first_and_last_byte, unaligned_size, fragmented, six_tib]


@pytest.fixture(scope="module", params=DISKS, ids=lambda make: make.__name__)
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("disk") / f"{request.param.__name__}.qcow2"
    request.param(path)
    return path


Channel = Callable[[ImageioHTTPSource, ImageioUploadSink, Path], tuple[CopyResult, CopyResult]]


def through_file(
    src: ImageioHTTPSource, dst: ImageioUploadSink, tmp_path: Path
) -> tuple[CopyResult, CopyResult]:
    tar = tmp_path / "backup.tar"
    with TarStreamSink(tar) as out:
        backup = copy(src, out)
    with TarStreamSource(tar) as stream:
        return backup, copy(stream, dst)


def through_fifo(
    src: ImageioHTTPSource, dst: ImageioUploadSink, tmp_path: Path
) -> tuple[CopyResult, CopyResult]:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    return at_the_same_time(src, dst, fifo, fifo)


def through_pipe(
    src: ImageioHTTPSource, dst: ImageioUploadSink, tmp_path: Path
) -> tuple[CopyResult, CopyResult]:
    read, write = os.pipe()
    with open(read, "rb") as source, open(write, "wb", buffering=0) as sink:
        return at_the_same_time(src, dst, source, sink)


def at_the_same_time(
    src: ImageioHTTPSource,
    dst: ImageioUploadSink,
    read_from: Path | BinaryIO,
    write_to: Path | BinaryIO,
) -> tuple[CopyResult, CopyResult]:
    """Restore from one end of a pipe what a thread backs up into the other."""
    results: list[CopyResult] = []

    def backup() -> None:
        with TarStreamSink(write_to) as out:
            results.append(copy(src, out))

    thread = threading.Thread(target=backup)
    thread.start()
    try:
        with TarStreamSource(read_from) as stream:
            results.append(copy(stream, dst))
    finally:
        thread.join()
    backed_up, restored = results
    return backed_up, restored


@contextmanager
def download(daemon: ImageioDaemon, disk: Path, *, unix: bool) -> Iterator[ImageioHTTPSource]:
    with serve_image(disk) as nbd:
        url = daemon.add_ticket(nbd, virtual_size(disk))
        with ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=unix) as source:
            assert source.over_unix_socket is unix
            yield source
        daemon.remove_ticket(url)


@contextmanager
def upload(
    daemon: ImageioDaemon, disk: Path, *, unix: bool, disk_is_zero: bool = False
) -> Iterator[ImageioUploadSink]:
    with serve_image(disk, read_only=False) as nbd:
        url = daemon.add_ticket(nbd, virtual_size(disk), ops=["read", "write"])
        with ImageioUploadSink(
            url, cafile=daemon.cafile, use_unix_socket=unix, disk_is_zero=disk_is_zero
        ) as sink:
            assert sink.over_unix_socket is unix
            yield sink
        daemon.remove_ticket(url)


@pytest.mark.parametrize("unix", [False, True], ids=["tls", "unix"])
@pytest.mark.parametrize("channel", [through_file, through_fifo, through_pipe])
def test_round_trip(
    daemon: ImageioDaemon, disk: Path, tmp_path: Path, channel: Channel, unix: bool
) -> None:
    target = tmp_path / "restored.qcow2"
    create_image(target, virtual_size(disk))
    with (
        download(daemon, disk, unix=unix) as src,
        upload(daemon, target, unix=unix, disk_is_zero=True) as dst,
    ):
        backup, restore = channel(src, dst, tmp_path)
    compare_images(disk, target)
    assert backup.data_bytes == restore.data_bytes
    assert backup.size == restore.size == virtual_size(disk)
    assert backup.data_bytes + backup.zero_bytes == backup.size


@pytest.mark.parametrize("checksum", ["sha256", "crc32", "blake2b", None])
def test_into_a_disk_that_holds_other_data(
    daemon: ImageioDaemon, disk: Path, tmp_path: Path, checksum: str | None
) -> None:
    """What is zero in the backup must become zero."""
    target = tmp_path / "restored.qcow2"
    create_image(target, virtual_size(disk))
    size = virtual_size(disk)
    write_pattern(target, [f"write -P 0xee {start} 2M" for start in (0, 3 * MIB, size - 2 * MIB)])
    tar = tmp_path / "backup.tar"
    with download(daemon, disk, unix=True) as src, TarStreamSink(tar, checksum=checksum) as out:
        assert copy(src, out).checksum == checksum
    with upload(daemon, target, unix=True) as dst, TarStreamSource(tar) as stream:
        copy(stream, dst)
    compare_images(disk, target)


def test_into_a_raw_image(daemon: ImageioDaemon, disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "restored.raw"
    with download(daemon, disk, unix=True) as src, TarStreamSink(tmp_path / "b.tar") as out:
        copy(src, out)
    with TarStreamSource(tmp_path / "b.tar") as stream, RawImageSink(target) as dst:
        result = copy(stream, dst)
    compare_images(disk, target, b_format="raw")
    assert target.stat().st_blocks * 512 <= result.data_bytes + MIB


def test_directly_from_disk_to_disk(daemon: ImageioDaemon, disk: Path, tmp_path: Path) -> None:
    """No tar in between: many readers and many writers at once."""
    target = tmp_path / "restored.qcow2"
    create_image(target, virtual_size(disk))
    with (
        download(daemon, disk, unix=True) as src,
        upload(daemon, target, unix=False) as dst,
    ):
        copy(src, dst)
    compare_images(disk, target)


def test_the_info_comes_back(daemon: ImageioDaemon, tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    first_and_last_byte(image)
    info = BackupInfo(vm_id="v", disk_id="d", backup_id="b", metadata={"note": "ünïcode"})
    with serve_image(image) as nbd:
        url = daemon.add_ticket(nbd, virtual_size(image))
        with (
            ImageioHTTPSource(url, cafile=daemon.cafile, info=info) as src,
            TarStreamSink(tmp_path / "b.tar", attachments={"vm.ovf": b"<ovf/>"}) as dst,
        ):
            listed = src.extents()
            copy(src, dst)
    with TarStreamSource(tmp_path / "b.tar") as stream:
        found = stream.info
        assert (found.vm_id, found.disk_id, found.backup_id) == ("v", "d", "b")
        assert found.metadata == {"note": "ünïcode"}
        assert found.size == stream.size == 50 * MIB
        assert found.created is not None
        assert stream.attachments == {"vm.ovf": b"<ovf/>"}
        assert stream.extents().json == listed.json


ODD_SIZES = pytest.mark.parametrize(
    "size", [5 * MIB + 1, 512 * 1001 - 1], ids=["odd", "almost-a-sector"]
)


@ODD_SIZES
@pytest.mark.parametrize("unix", [False, True], ids=["tls", "unix"])
@pytest.mark.parametrize("channel", [through_file, through_fifo, through_pipe])
def test_a_file_backed_ticket_of_any_size(
    daemon: ImageioDaemon, tmp_path: Path, size: int, channel: Channel, unix: bool
) -> None:
    """qemu rounds sizes to sectors; `file://` does not. The whole disk is one data extent."""
    image, uploaded = tmp_path / "disk.raw", tmp_path / "uploaded.raw"
    image.write_bytes(random.Random(size).randbytes(size))
    uploaded.write_bytes(b"\xee" * size)
    url = daemon.add_ticket(f"file://{image}", size)
    upload_url = daemon.add_ticket(f"file://{uploaded}", size, ops=["read", "write"])
    with (
        ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=unix) as src,
        ImageioUploadSink(upload_url, cafile=daemon.cafile, use_unix_socket=unix) as dst,
    ):
        assert (src.over_unix_socket, dst.over_unix_socket) == (unix, unix)
        assert dst.max_writers == 1
        backup, _ = channel(src, dst, tmp_path)
    assert (backup.data_extents, backup.data_bytes) == (1, size)
    # The server's direct I/O fills up the last block of the file.
    assert uploaded.read_bytes()[:size] == image.read_bytes()


@ODD_SIZES
def test_a_raw_image_of_any_size(daemon: ImageioDaemon, tmp_path: Path, size: int) -> None:
    image, restored = tmp_path / "disk.raw", tmp_path / "restored.raw"
    image.write_bytes(random.Random(size).randbytes(size))
    url = daemon.add_ticket(f"file://{image}", size)
    with ImageioHTTPSource(url, cafile=daemon.cafile) as src, RawImageSink(restored) as dst:
        copy(src, dst)
    assert restored.read_bytes() == image.read_bytes()


@pytest.mark.parametrize("unix", [False, True], ids=["tls", "unix"])
def test_one_extent_above_8_gib(daemon: ImageioDaemon, tmp_path: Path, unix: bool) -> None:
    """More than a ustar header can count, in one extent, restored while it is backed up.

    A sparse file behind a file-backed ticket; qemu drops the zeros on the other side, so that
    no disk of 8 GiB is needed.
    """
    size = 8 * GIB + 70 * KIB
    image, target = tmp_path / "disk.raw", tmp_path / "restored.qcow2"
    with image.open("wb") as f:
        for offset in (0, 1000 * MIB + 7, 4 * GIB - 5, 8 * GIB - 100, size - 11):
            f.seek(offset)
            f.write(random.Random(offset).randbytes(min(3 * MIB, size - offset)))
        f.truncate(size)
    create_image(target, size)
    read, write = os.pipe()
    with (
        serve_image(target, read_only=False, detect_zeroes=True) as nbd,
        open(read, "rb", buffering=0) as source,
        open(write, "wb", buffering=0) as sink,
    ):
        url = daemon.add_ticket(f"file://{image}", size)
        upload_url = daemon.add_ticket(nbd, size, ops=["read", "write"])
        with (
            ImageioHTTPSource(url, cafile=daemon.cafile, use_unix_socket=unix) as src,
            ImageioUploadSink(upload_url, cafile=daemon.cafile, use_unix_socket=unix) as dst,
        ):
            backup, restore = at_the_same_time(src, dst, source, sink)
    assert (backup.data_extents, backup.data_bytes) == (1, size)
    assert restore.data_bytes == size
    compare_images(image, target, a_format="raw")
    assert target.stat().st_size < 100 * MIB


def test_verify_reads_all_and_keeps_nothing(
    daemon: ImageioDaemon, disk: Path, tmp_path: Path
) -> None:
    with download(daemon, disk, unix=True) as src, TarStreamSink(tmp_path / "b.tar") as out:
        backup = copy(src, out)
    with TarStreamSource(tmp_path / "b.tar") as stream:
        assert copy(stream, DiscardSink()).data_bytes == backup.data_bytes
