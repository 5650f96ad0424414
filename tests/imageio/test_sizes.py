"""The sizes of an upload: of the volume, of what its ticket allows, and of the backup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tapestream import Extent, ImageioUploadSink, copy
from tapestream.errors import TargetSizeError, UsageError
from tapestream.testing import ImageioDaemon, MemorySource, serve_image
from tests.disks import noise
from tests.imageio.support import KIB, MIB

OLD = b"\xee"
SIZE = 8 * MIB + 512
IMAGE = noise(2 * MIB) + bytes(4 * MIB) + noise(SIZE - 6 * MIB)
EXTENTS = [Extent(0, 2 * MIB), Extent(2 * MIB, 4 * MIB, zero=True), Extent(6 * MIB, SIZE - 6 * MIB)]
BOTH = pytest.mark.parametrize("backend", ["nbd", "file"])


@contextmanager
def upload_url(daemon: ImageioDaemon, backend: str, path: Path, size: int) -> Iterator[str]:
    """A ticket of this size for a raw volume, through a qemu-nbd or not."""
    if backend == "file":
        yield daemon.add_ticket(path.as_uri(), size, ops=["write"])
        return
    with serve_image(path, format="raw", read_only=False) as nbd:
        yield daemon.add_ticket(nbd, size, ops=["write"])


def restore(daemon: ImageioDaemon, url: str, **options: Any) -> None:
    with ImageioUploadSink(url, cafile=daemon.cafile, **options) as sink:
        copy(MemorySource(IMAGE, EXTENTS), sink)


@BOTH
@pytest.mark.parametrize("more", [4 * MIB - 512, 4 * KIB, 3584])
def test_a_volume_that_is_larger_than_its_ticket(
    daemon: ImageioDaemon, tmp_path: Path, backend: str, more: int
) -> None:
    """LVM rounds up; what lies after the disk is not ours."""
    path = tmp_path / "volume"
    path.write_bytes(OLD * (SIZE + more))
    with upload_url(daemon, backend, path, SIZE) as url:
        restore(daemon, url)
        restore(daemon, url)
    assert path.read_bytes() == IMAGE + OLD * more


@BOTH
def test_a_ticket_that_is_larger_than_the_backup(
    daemon: ImageioDaemon, tmp_path: Path, backend: str
) -> None:
    path = tmp_path / "volume"
    path.write_bytes(OLD * (SIZE + 2 * MIB))
    with upload_url(daemon, backend, path, SIZE + MIB) as url:
        restore(daemon, url)
    assert path.read_bytes() == IMAGE + bytes(MIB) + OLD * MIB


@pytest.mark.parametrize("odd", [0, 1, 300])
@pytest.mark.parametrize("short", [0, 512, 4 * MIB, SIZE])
def test_a_file_is_restored_to_again(
    daemon: ImageioDaemon, tmp_path: Path, odd: int, short: int
) -> None:
    """The daemon writes whole blocks, of up to 4096 bytes, and a file that is too short grows."""
    path = tmp_path / "file"
    size = SIZE + odd
    image = IMAGE + noise(odd)
    path.write_bytes(OLD * (SIZE - short))
    with upload_url(daemon, "file", path, size) as url:
        for _ in range(3):
            with ImageioUploadSink(url, cafile=daemon.cafile) as sink:
                copy(MemorySource(image, [*EXTENTS[:2], Extent(6 * MIB, size - 6 * MIB)]), sink)
    restored = path.read_bytes()
    assert restored[:size] == image
    assert len(restored) < size + 4 * KIB


@BOTH
def test_a_ticket_that_is_smaller_than_the_backup(
    daemon: ImageioDaemon, tmp_path: Path, backend: str
) -> None:
    path = tmp_path / "volume"
    path.write_bytes(OLD * (SIZE + MIB))
    with (
        upload_url(daemon, backend, path, SIZE - 512) as url,
        pytest.raises(TargetSizeError, match=str(SIZE - 512)),
    ):
        restore(daemon, url)
    assert path.read_bytes() == OLD * (SIZE + MIB)


def test_a_volume_that_is_smaller_than_its_ticket(daemon: ImageioDaemon, tmp_path: Path) -> None:
    """And cannot grow: qemu-nbd serves it as it is."""
    path = tmp_path / "volume"
    path.write_bytes(OLD * (SIZE - 512))
    with (
        upload_url(daemon, "nbd", path, SIZE) as url,
        pytest.raises(TargetSizeError, match=str(SIZE - 512)),
    ):
        restore(daemon, url)
    assert path.read_bytes() == OLD * (SIZE - 512)


@BOTH
def test_the_block_hash_of_a_volume_is_not_that_of_the_disk(
    daemon: ImageioDaemon, tmp_path: Path, backend: str
) -> None:
    """The server reads all of the volume, which is no reason to think that the restore failed."""
    path = tmp_path / "volume"
    path.write_bytes(OLD * (SIZE + 3584))
    with (
        upload_url(daemon, backend, path, SIZE) as url,
        ImageioUploadSink(url, cafile=daemon.cafile) as sink,
    ):
        result = copy(MemorySource(IMAGE, EXTENTS), sink, block_hash=True)
        with pytest.raises(UsageError, match=str(SIZE + 3584)):
            sink.check(result.block_hash)


def test_the_block_hash_of_a_file_that_grew(daemon: ImageioDaemon, tmp_path: Path) -> None:
    path = tmp_path / "file"
    image = noise(MIB + 300)
    path.write_bytes(OLD * len(image))
    with (
        upload_url(daemon, "file", path, len(image)) as url,
        ImageioUploadSink(url, cafile=daemon.cafile) as sink,
    ):
        result = copy(MemorySource(image), sink, block_hash=True)
        assert path.stat().st_size > len(image)
        with pytest.raises(UsageError, match="block hash"):
            sink.check(result.block_hash)
