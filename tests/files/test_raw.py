"""Raw images and block devices: sparse both ways, and honest names."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapestream import (
    BackupInfo,
    DiscardSink,
    Extent,
    RawImageSink,
    RawImageSource,
    TarStreamSink,
    TarStreamSource,
    copy,
)
from tapestream.errors import LocalIOError, TapestreamError, TargetSizeError, UsageError
from tapestream.files import raw
from tapestream.model.extents import Extents, Kind
from tapestream.model.info import Context
from tapestream.tape import Catalog
from tapestream.testing import create_image
from tapestream.testing.memory import MemorySource

KIB, MIB = 1024, 1024**2


def sparse(path: Path, size: int, writes: dict[int, bytes]) -> Path:
    with path.open("wb") as f:
        for offset, data in writes.items():
            f.seek(offset)
            f.write(data)
        f.truncate(size)
    return path


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def partials(directory: Path) -> list[str]:
    return [p.name for p in directory.iterdir() if "partial" in p.name]


def test_extents_are_what_the_file_system_knows(tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", 10 * MIB, {MIB: b"x" * MIB, 5 * MIB: b"y"})
    with RawImageSource(image) as source:
        runs = list(source.extents().runs())
    assert runs[0] == (0, MIB, Kind.ZERO)
    assert runs[1] == (MIB, MIB, Kind.DATA)
    assert runs[3] == (5 * MIB, 4096, Kind.DATA)
    assert runs[-1][2] is Kind.ZERO


@pytest.mark.parametrize(
    ("size", "writes"),
    [
        (0, {}),
        (1, {}),
        (1, {0: b"x"}),
        (MIB, {}),
        (MIB + 1, {MIB: b"x"}),
        (MIB - 1, {0: b"x" * (MIB - 1)}),
        (3 * MIB, {0: b"x", 3 * MIB - 1: b"y"}),
    ],
)
def test_round_trip(size: int, writes: dict[int, bytes], tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", size, writes)
    with RawImageSource(image) as src, TarStreamSink(tmp_path / "a.tar") as dst:
        copy(src, dst)
    with TarStreamSource(tmp_path / "a.tar") as stream, RawImageSink(tmp_path / "b") as sink:
        copy(stream, sink)
    assert (tmp_path / "b").read_bytes() == image.read_bytes()
    assert allocated(tmp_path / "b") <= allocated(image)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    writes=st.lists(
        st.tuples(st.integers(0, 500_000), st.binary(min_size=1, max_size=9000)), max_size=8
    ),
    size=st.integers(509_000, 600_000),
    buffer_size=st.sampled_from([4096, 65536, MIB]),
    gap=st.integers(0, 100_000),
)
def test_any_image(
    writes: list[tuple[int, bytes]], size: int, buffer_size: int, gap: int, tmp_path: Path
) -> None:
    image = sparse(tmp_path / "a", size, dict(writes))
    target = tmp_path / "b"
    target.unlink(missing_ok=True)
    with RawImageSource(image) as src, RawImageSink(target) as dst:
        copy(src, dst, buffer_size=buffer_size, max_gap=gap)
    assert target.read_bytes() == image.read_bytes()


def test_an_existing_image_is_zeroed_where_the_backup_is_zero(tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", 8 * MIB, {MIB: b"x" * MIB, 4 * MIB + 5: b"y"})
    target = tmp_path / "b"
    target.write_bytes(random.Random(1).randbytes(8 * MIB))
    target.chmod(0o640)
    inode = target.stat().st_ino
    with RawImageSource(image) as src, RawImageSink(target) as dst:
        copy(src, dst)
    assert target.read_bytes() == image.read_bytes()
    assert allocated(target) <= allocated(image)
    assert target.stat().st_ino == inode
    assert target.stat().st_mode & 0o777 == 0o640
    assert partials(tmp_path) == []


@pytest.mark.parametrize(("before", "asked", "after"), [(5, None, 8), (12, None, 8), (5, 9, 9)])
def test_the_size_becomes_that_of_the_backup(
    before: int, asked: int | None, after: int, tmp_path: Path
) -> None:
    image = sparse(tmp_path / "a", 8 * MIB, {MIB: b"x" * MIB})
    target = tmp_path / "b"
    target.write_bytes(b"\xee" * before * MIB)
    size = None if asked is None else asked * MIB
    with RawImageSource(image) as src, RawImageSink(target, size=size) as dst:
        copy(src, dst)
    assert target.read_bytes() == image.read_bytes().ljust(after * MIB, b"\0")


def test_a_new_image_is_private_and_has_no_name_before_the_end(tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", 2 * MIB, {MIB: b"x"})
    seen: list[list[str]] = []

    class Progress:
        def update(self, n: int) -> None:
            seen.append(sorted(p.name for p in tmp_path.iterdir()))

    with RawImageSource(image) as src, RawImageSink(tmp_path / "b") as dst:
        copy(src, dst, progress=Progress())
    assert all("b" not in names and len(names) == 2 for names in seen)
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    assert partials(tmp_path) == []


class FailingSource(RawImageSource):
    def finish(self) -> None:
        raise RuntimeError("late")


def test_a_new_image_that_fails_is_gone(tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", 2 * MIB, {MIB: b"x"})
    with FailingSource(image) as src, pytest.raises(RuntimeError, match="late"):
        copy(src, RawImageSink(tmp_path / "b"))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_existing_image_that_fails_loses_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = sparse(tmp_path / "a", 2 * MIB, {MIB: b"x"})
    target = tmp_path / "b"
    target.write_bytes(b"old")
    with FailingSource(image) as src, pytest.raises(RuntimeError, match="late"):
        copy(src, RawImageSink(target))
    assert not target.exists()
    assert (tmp_path / "b.partial").exists()
    assert "b.partial" in caplog.text
    with RawImageSource(image) as again:
        copy(again, RawImageSink(target))
    assert target.read_bytes() == image.read_bytes()
    with RawImageSource(image) as once_more, pytest.raises(LocalIOError, match="remove it first"):
        copy(once_more, RawImageSink(target))
    assert target.read_bytes() == image.read_bytes()


def test_a_sink_that_never_began_touches_nothing(tmp_path: Path) -> None:
    target = tmp_path / "b"
    target.write_bytes(b"old")
    with RawImageSink(target):
        pass
    RawImageSink(target).abort()
    assert target.read_bytes() == b"old"
    assert partials(tmp_path) == []


def test_an_image_that_cannot_become_so_large_keeps_its_name(tmp_path: Path) -> None:
    target = tmp_path / "b"
    target.write_bytes(b"precious")

    class Huge(RawImageSource):
        @property
        def info(self) -> BackupInfo:
            return BackupInfo(size=2**62)

        def extents(self) -> Extents:
            return Extents.of([Extent(0, 2**62, zero=True)])

    image = sparse(tmp_path / "a", MIB, {0: b"x"})
    with Huge(image) as src, pytest.raises(LocalIOError, match="large"):
        copy(src, RawImageSink(target))
    assert target.read_bytes() == b"precious"
    assert partials(tmp_path) == []


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_an_image_is_not_copied_onto_itself(
    link: Callable[[Path, Path], None] | None, tmp_path: Path
) -> None:
    image = sparse(tmp_path / "a", MIB, {0: b"precious"})
    before = image.read_bytes()
    target = image if link is None else tmp_path / "b"
    if link is not None:
        link(image, target)
    with RawImageSource(image) as src, pytest.raises(UsageError, match="in use"):
        copy(src, RawImageSink(target))
    assert image.read_bytes() == before
    assert partials(tmp_path) == []


def test_a_qcow2_image_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = tmp_path / "disk.qcow2"
    create_image(image, MIB)
    with RawImageSource(image):
        assert "is a qcow2 image" in caplog.text


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qcow2", []),
        ("qcow", []),
        ("qed", []),
        ("vmdk", []),
        ("vmdk", ["-o", "subformat=monolithicFlat"]),
        ("vdi", []),
        ("vhdx", []),
        ("vpc", []),
        ("vpc", ["-o", "subformat=fixed"]),
        ("parallels", []),
    ],
)
@pytest.mark.parametrize("context", ["zero", "dirty"])
def test_an_image_of_another_format_is_not_overwritten(
    context: Context, kind: str, options: list[str], tmp_path: Path
) -> None:
    """As qemu-img makes them."""
    target = tmp_path / "vm.img"
    made = ["qemu-img", "create", "-q", "-f", kind, *options, str(target), "4M"]
    subprocess.run(made, check=True)
    _is_kept(target, context)


def test_a_disk_whose_guest_has_encrypted_it_is_a_raw_image(tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    made = ["--object", "secret,id=key,data=x", "-o", "key-secret=key,iter-time=10"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "luks", *made, target, "4M"], check=True)
    with RawImageSink(target) as sink:
        copy(MemorySource(b"x" * 4096), sink)
    assert target.read_bytes() == b"x" * 4096


def _is_kept(target: Path, context: Context) -> None:
    before = target.read_bytes()
    with pytest.raises(UsageError, match=f"{target} is an? .*, not a raw image") as caught:
        RawImageSink(target)
    assert "remove what is there" in caught.value.hint
    target.rename(aside := target.with_suffix(".aside"))
    sink = RawImageSink(target)
    aside.rename(target)
    dirty = None if context == "zero" else True
    with sink, pytest.raises(UsageError, match="not a raw image"):  # it came meanwhile
        copy(MemorySource(b"x" * 4096, [Extent(0, 4096, dirty=dirty)]), sink)
    assert target.read_bytes() == before


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vdi", "vhdx", "vpc -o subformat=fixed"])
def test_an_image_is_not_replaced_by_a_tar(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "vm.img"
    made = ["qemu-img", "create", "-q", "-f", *kind.split(), str(target), "4M"]
    subprocess.run(made, check=True)
    before = target.read_bytes()
    with pytest.raises(UsageError, match=f"{target} is a .* image: its contents would be lost"):
        TarStreamSink(target)
    assert target.read_bytes() == before


def test_an_image_is_kept_where_there_is_no_memory_for_a_buffer(tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(b"x" * 4096)
    with RawImageSink(target) as sink, pytest.raises(LocalIOError, match="memory for buffer"):
        copy(MemorySource(b"y" * 4096), sink, buffer_size=2**60, buffer_memory=2**62)
    assert target.read_bytes() == b"x" * 4096


def test_a_tar_replaces_an_older_one(tmp_path: Path) -> None:
    for content in (b"x" * 4096, b"y" * 4096):
        copy(MemorySource(content), TarStreamSink(tmp_path / "disk.tar"))
    with TarStreamSource(tmp_path / "disk.tar") as src, RawImageSink(tmp_path / "disk") as dst:
        copy(src, dst)
    assert (tmp_path / "disk").read_bytes() == b"y" * 4096


BZIP2 = "import bz2, sys; sys.stdout.buffer.write(bz2.compress(sys.stdin.buffer.read()))"


@pytest.mark.parametrize(
    "pack", [["cat"], ["gzip"], ["xz"], ["zstd", "-q"], [sys.executable, "-c", BZIP2]]
)
def test_a_backup_is_not_taken_for_a_raw_image(pack: list[str], tmp_path: Path) -> None:
    tar = tmp_path / "disk.tar"
    copy(MemorySource(b"x" * 4096), TarStreamSink(tar))
    packed = subprocess.run(pack, input=tar.read_bytes(), capture_output=True, check=True).stdout
    target = tmp_path / "disk"
    target.write_bytes(packed)
    _is_kept(target, "zero")


def test_a_catalog_is_not_taken_for_a_raw_image(tmp_path: Path) -> None:
    Catalog(tmp_path / "tapes").close()
    _is_kept(tmp_path / "tapes", "zero")


@pytest.mark.parametrize("content", [b"", b"Q", b"\x55\xaa", b"QFI", bytes(4096), b"x" * 512])
def test_a_raw_image_is_overwritten(content: bytes, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(content)
    with RawImageSink(target) as sink:
        copy(MemorySource(b"y" * 4096), sink)
    assert target.read_bytes() == b"y" * 4096


def test_a_backup_is_not_restored_onto_itself(tmp_path: Path) -> None:
    image, tar = sparse(tmp_path / "a", MIB, {0: b"x"}), tmp_path / "a.tar"
    with RawImageSource(image) as src, TarStreamSink(tar) as sink:
        copy(src, sink)
    before = tar.read_bytes()
    with TarStreamSource(tar) as backup, pytest.raises(UsageError, match="in use"):
        copy(backup, RawImageSink(tar))
    assert tar.read_bytes() == before


@pytest.mark.skipif(
    os.stat("/dev").st_dev == os.stat("/").st_dev, reason="/dev is a directory like others"
)
def test_no_image_is_made_where_a_device_should_be() -> None:
    missing = Path("/dev/tapestream-no-such-device")
    with pytest.raises(UsageError, match="no /dev/tapestream"):
        RawImageSink(missing).begin(BackupInfo(size=0), Extents.of([]))
    assert not missing.exists()


@pytest.mark.parametrize("name", ["磁" * 80, "n" * 255])
def test_long_names(name: str, tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", MIB, {0: b"x"})
    for _ in range(2):  # new, and in place
        with RawImageSource(image) as src:
            copy(src, RawImageSink(tmp_path / name))
    assert (tmp_path / name).read_bytes() == image.read_bytes()


def test_the_target_is_smaller(tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", 2 * MIB, {})
    target = tmp_path / "b"
    target.write_bytes(b"old")
    with RawImageSource(image) as src, pytest.raises(TargetSizeError, match="2097152"):
        copy(src, RawImageSink(target, size=MIB))
    assert target.read_bytes() == b"old"


INCREMENT = [
    Extent(0, MIB, zero=False, dirty=False),
    Extent(MIB, MIB, zero=False, dirty=True),
    Extent(2 * MIB, MIB, zero=True, dirty=True),
    Extent(3 * MIB, MIB, zero=True, dirty=False),
]


def increment() -> MemorySource:
    return MemorySource(b"n" * 4 * MIB, INCREMENT, info=BackupInfo(context="dirty", size=4 * MIB))


def test_an_incremental_changes_only_what_is_dirty(tmp_path: Path) -> None:
    target = tmp_path / "b"
    target.write_bytes(b"o" * 4 * MIB)
    copy(increment(), RawImageSink(target))
    old, new, zero = b"o" * MIB, b"n" * MIB, bytes(MIB)
    assert target.read_bytes() == old + new + zero + old


def test_an_incremental_keeps_what_lies_behind_it(tmp_path: Path) -> None:
    target = tmp_path / "b"
    target.write_bytes(b"o" * 5 * MIB)
    copy(increment(), RawImageSink(target))
    assert target.read_bytes()[4 * MIB :] == b"o" * MIB


def test_an_incremental_needs_its_base(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Restore the backup it is based on"):
        copy(increment(), RawImageSink(tmp_path / "b"))
    (tmp_path / "b").write_bytes(b"o" * 3 * MIB)
    with pytest.raises(TargetSizeError):
        copy(increment(), RawImageSink(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"o" * 3 * MIB


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "device"])
def test_what_is_not_an_image(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/null")
    elif kind == "fifo":
        os.mkfifo(path)
        held = os.open(path, os.O_RDWR)
    with pytest.raises((LocalIOError, UsageError)):
        RawImageSource(path)
    if kind == "fifo":
        os.close(held)


@pytest.mark.parametrize("path", ["missing/x", "."])
def test_where_no_image_can_be(path: str, tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", MIB, {})
    with RawImageSource(image) as src, pytest.raises(TapestreamError):
        copy(src, RawImageSink(tmp_path / path))


def test_an_image_that_becomes_shorter(tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", 8 * MIB, {0: b"x" * 8 * MIB})
    with RawImageSource(image) as src:
        src.extents()

        class Progress:
            def update(self, n: int) -> None:
                os.truncate(image, MIB)

        with pytest.raises(LocalIOError, match=r"became shorter .*\. .*stop the VM"):
            copy(src, DiscardSink(), buffer_size=4096, buffer_memory=8192, progress=Progress())


@pytest.mark.parametrize("size", [MIB, 3 * MIB])
def test_an_image_that_has_another_size_when_its_extents_are_listed(
    size: int, tmp_path: Path
) -> None:
    """What is missing would be taken for a hole, and what is new would be left out."""
    image = sparse(tmp_path / "a", 2 * MIB, {0: b"x" * 2 * MIB})
    with RawImageSource(image) as src:
        os.truncate(image, size)
        with pytest.raises(LocalIOError, match=rf"{size} bytes, but had {2 * MIB} .*stop the VM"):
            src.extents()


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", MIB, {0: b"x"})
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "b")
    with RawImageSource(image) as src:
        copy(src, RawImageSink(link))
    assert link.is_symlink()
    assert (tmp_path / "real" / "b").read_bytes() == image.read_bytes()


@pytest.fixture
def block_device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 8 MiB, full of old data."""
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xee" * 8 * MIB)
    found = subprocess.run(
        ["losetup", "--find", "--show", backing], capture_output=True, text=True, check=False
    )
    if found.returncode != 0:
        pytest.skip(f"no loop device for a test of block devices: {found.stderr.strip()}")
    device = Path(found.stdout.strip())
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_block_device(block_device: Path, tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", 6 * MIB + 512, {MIB + 7: b"x" * MIB, 6 * MIB: b"y"})
    with RawImageSource(image) as src, RawImageSink(block_device) as dst:
        copy(src, dst)
    with RawImageSource(block_device) as src:
        assert src.size == 8 * MIB
        assert [e.kind for e in src.extents()][-1] in (Kind.DATA, Kind.ZERO)
        with RawImageSink(tmp_path / "back") as back:
            copy(src, back)
    assert (tmp_path / "back").read_bytes() == image.read_bytes().ljust(8 * MIB, b"\0")


def test_a_cancelled_device_is_not_zeroed_to_its_end(block_device: Path) -> None:
    """Where holes cannot be punched, that may take hours."""
    source = MemorySource(bytes(4 * MIB))
    with RawImageSink(block_device) as sink:
        sink.begin(source.info, Extents.of(source.extents()))
        sink.cancel()
        with pytest.raises(LocalIOError, match="cancelled"):
            sink.open_writer()
    assert block_device.read_bytes() == b"\xee" * 8 * MIB


def test_a_block_device_that_is_too_small(block_device: Path, tmp_path: Path) -> None:
    image = sparse(tmp_path / "a", 9 * MIB, {0: b"x"})
    with RawImageSource(image) as src, pytest.raises(TargetSizeError, match="8388608"):
        copy(src, RawImageSink(block_device))
    assert block_device.read_bytes() == b"\xee" * 8 * MIB


def test_logs_are_quiet_when_all_is_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    image = sparse(tmp_path / "a", MIB, {0: b"x"})
    with RawImageSource(image) as src:
        copy(src, RawImageSink(tmp_path / "b"))
    assert caplog.records == []


def test_zeros_that_must_be_written_can_be_cancelled() -> None:
    """As on a file system without holes: /dev/null takes data, and no hole."""
    image: Any = SimpleNamespace(touched=False)
    with open("/dev/null", "r+b", 0) as null, ThreadPoolExecutor(1) as pool:
        writer = raw._RawWriter(null.fileno(), "image", blank=False, changed=image)
        zeroing = pool.submit(writer.zero, 0, 2**62)
        deadline = time.monotonic() + 10
        while not image.touched:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        writer.cancel()
        with pytest.raises(LocalIOError, match="cancelled"):
            zeroing.result(10)


@pytest.mark.parametrize("size", [None, 1000, 5000])
@pytest.mark.parametrize("dirty", [None, True])
def test_an_image_is_not_changed_before_the_readers_are_open(
    tmp_path: Path, dirty: bool | None, size: int | None
) -> None:
    """Neither emptied nor resized; then it has its name again."""
    image, old = tmp_path / "image", random.Random(1).randbytes(3000)
    image.write_bytes(old)
    seen = []

    class Unreadable(MemorySource):
        def open_reader(self) -> Any:
            seen.append((tmp_path / "image.partial").read_bytes())
            raise LocalIOError("cannot be opened")

    source = Unreadable(b"new", [Extent(0, 3, dirty=dirty)])
    with RawImageSink(image, size=size) as sink, pytest.raises(LocalIOError, match="be opened"):
        copy(source, sink)
    assert seen == [old]
    assert image.read_bytes() == old
