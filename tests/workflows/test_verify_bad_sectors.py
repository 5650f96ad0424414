"""verify() of what cannot be read: bad sectors, and devices that do not come back."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestream import Damage, DiscardSink, TarStreamSource, VerifyReport, copy, verify
from tests.disks import noise
from tests.tar.layouts import Layout, flipped, joined
from tests.tar.sectors import SECTOR, Bad, BadSectors, real_bad_sectors
from tests.tar.tars import make_tar, tar_of_disk
from tests.workflows.verifying import (
    BIG,
    BIG_LAYOUT,
    DEAD_AT,
    DEAD_IN_HEADER,
    HEADER,
    KIB,
    MIB,
    ONE,
    SECTORS,
    SEVERAL,
    TAR,
    assert_bad_sectors,
    assert_good,
    in_member,
    missing_and_damaged,
    missing_bytes,
    sector_at,
    verified,
)

pytestmark = pytest.mark.timeout(120)


# --- Bad sectors ---


def test_what_is_bad_below() -> None:
    assert BIG_LAYOUT.segment_size == 64 * KIB
    assert [p.size // KIB for p in BIG_LAYOUT.data] == [192, 192, 116, 192, 8]
    # The sector with a header takes something of the members on both sides with it.
    assert [d.member for d in BIG_LAYOUT.missing(*HEADER[0])] == ["extent-1@0", "extent-1@196608"]
    assert_good(verified(BIG), checksum="crc32")


def buffered(file: io.RawIOBase) -> io.BufferedReader:
    """Since Python 3.14 the buffer is larger by default: a bad sector then takes more with it."""
    return io.BufferedReader(file, buffer_size=8192)


@pytest.mark.parametrize("wrap", [lambda file: file, buffered], ids=["raw", "buffered"])
@pytest.mark.parametrize("bad", SECTORS.values(), ids=SECTORS)
def test_bad_sectors(bad: Bad, wrap: Any) -> None:
    with wrap(BadSectors(BIG, bad)) as file, TarStreamSource(file) as source:
        assert_bad_sectors(verify(source), bad)
        assert file.tell() == len(BIG)


def test_bad_sectors_in_any_buffers() -> None:
    for buffer_size in (4096, 12288, 65536):
        with TarStreamSource(BadSectors(BIG, SEVERAL)) as source:
            report = verify(source, buffer_size=buffer_size, buffer_memory=4 * buffer_size)
        assert_bad_sectors(report, SEVERAL)


def test_a_bad_sector_and_other_damage() -> None:
    bad = [in_member(0, 30 * KIB)]
    other = BIG_LAYOUT.data[3].data
    with TarStreamSource(BadSectors(flipped(BIG, other), bad)) as source:
        report = verify(source)
    every = [other, *range(*bad[0])]
    assert list(report.damage) == BIG_LAYOUT.missing(*bad[0]) + BIG_LAYOUT.segments_with(every)


def test_bad_sectors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with TarStreamSource(BadSectors(BIG, ONE)) as source:
        verify(source)
    assert logged(caplog) == ["reading on behind: cannot read a bad disk: Input/output error"]


def test_a_bad_place_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bad = [(160 * KIB, 400 * KIB), (600 * KIB, 608 * KIB)]
    with TarStreamSource(BadSectors(BIG, bad)) as source:
        verify(source)
    assert logged(caplog) == ["reading on behind: cannot read a bad disk: Input/output error"] * 2


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "tapestream.tar"]


# Aligned to their size, as what a disk loses together mostly is.
ALIGNED = [(sector * SECTOR, 2 * sector * SECTOR) for sector in (4, 8, 16, 32)]


@pytest.mark.parametrize("bad", ALIGNED, ids=str)
def test_of_a_large_block_nothing_else_is_given_up(bad: tuple[int, int]) -> None:
    with TarStreamSource(BadSectors(BIG, [bad])) as source:
        assert list(verify(source).damage) == missing_and_damaged(BIG_LAYOUT, [bad])
    with real_bad_sectors(BIG, [bad]) as path, TarStreamSource(path) as source:
        assert list(verify(source).damage) == missing_and_damaged(BIG_LAYOUT, [bad])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=5))
def test_what_is_given_up_is_what_is_bad_and_little_more(runs: list[tuple[int, int]]) -> None:
    """Errors that follow each other are passed over in larger and larger steps, but not too far."""
    bad, at = [], BIG_LAYOUT.first_header // SECTOR + 1
    for gap, length in runs:
        at += gap
        bad.append((at * SECTOR, (at + length) * SECTOR))
        at += 3 * length  # as far as it may go
    with TarStreamSource(BadSectors(BIG, bad)) as source:
        report = verify(source)
    told = {at for d in report.damage if d.missing for at in range(d.start, d.start + d.length)}
    must = bytes_of_the_disk(bad)
    may = bytes_of_the_disk([(a, b + 2 * (b - a)) for a, b in bad])
    assert must <= told <= may


def bytes_of_the_disk(bad: Bad) -> set[int]:
    found = (damage for stretch in bad for damage in BIG_LAYOUT.missing(*stretch))
    return {at for d in found for at in range(d.start, d.start + d.length)}


@pytest.mark.parametrize(
    "name", ["extents.json", "attachments/vm.ovf", "extent-1@0", "manifest.json"]
)
@pytest.mark.parametrize("part", ["header", "data"])
def test_a_bad_sector_around_the_data(name: str, part: str) -> None:
    tar = tar_of_disk(noise(64 * KIB), attachments={"vm.ovf": noise(9000)}, part_size=16 * KIB)
    layout = Layout(tar)
    place = layout.place(name)
    start: int = getattr(place, part)
    behind = sector_at(start)[1]  # it is given up to the end of the sector
    with TarStreamSource(BadSectors(tar, [(start, start + 512)])) as source:
        report = verify(source)
    assert not report.ok
    if name == "extents.json":
        assert report.damage == (Damage(0, 64 * KIB, "extents.json", missing=True),)
    else:
        assert list(report.damage) == missing_and_damaged(layout, [(start, behind)])
    assert report.complete is (name in ("extent-1@0", "attachments/vm.ovf"))


def test_a_bad_sector_in_the_manifest() -> None:
    tar = tar_of_disk(noise(64 * KIB), part_size=512)
    layout = Layout(tar)
    bad = [sector_at(layout.place("manifest.json").data + SECTOR)]
    with TarStreamSource(BadSectors(tar, bad)) as source:
        report = verify(source)
    assert report.damage == ()
    assert len(report.problems) == 1
    assert "manifest.json" in report.problems[0]


# --- Devices that do not come back ---


def assert_the_rest_is_missing(report: VerifyReport, start: int) -> None:
    assert list(report.damage) == BIG_LAYOUT.missing(start, len(BIG))
    assert not report.complete
    assert 1 <= len(report.problems) <= len(BIG_LAYOUT.places)


@pytest.mark.parametrize("start", [DEAD_AT, DEAD_IN_HEADER], ids=["data", "header"])
def test_the_rest_is_missing_where_it_is_not_seekable(start: int) -> None:
    file = BadSectors(BIG, [(start, start + 1)], seekable=False)
    with TarStreamSource(file) as source:
        report = verify(source)
    assert_the_rest_is_missing(report, start)
    assert report.problems == ("cannot read a bad disk: Input/output error",)
    assert file.failed == 1


@pytest.mark.parametrize("start", [DEAD_AT, DEAD_IN_HEADER], ids=["data", "header"])
def test_the_rest_is_missing_where_nothing_works_any_more(start: int) -> None:
    file = BadSectors(BIG, [(start, len(BIG) + 1)], seek_fails=True)
    with TarStreamSource(file) as source:
        report = verify(source)
    assert_the_rest_is_missing(report, start)
    assert file.failed == 1


@pytest.mark.parametrize("start", [DEAD_AT, DEAD_IN_HEADER], ids=["data", "header"])
def test_the_rest_is_missing_where_nothing_can_be_read_any_more(start: int) -> None:
    file = BadSectors(BIG, [(start, len(BIG))])
    with TarStreamSource(file) as source:
        assert_the_rest_is_missing(verify(source), start)
    assert file.tell() == len(BIG)


def test_a_dead_disk_is_given_up_soon() -> None:
    tar = tar_of_disk(noise(40 * MIB), part_size=8 * MIB, checksum="crc32")
    start = 3 * MIB + 5
    file = BadSectors(tar, [(start, len(tar))])
    with TarStreamSource(file) as source:
        report = verify(source)
    assert list(report.damage) == Layout(tar).missing(start, len(tar))
    assert file.failed < 8 + 40  # 4 KiB, 8 KiB, ... and then a MiB each


@pytest.mark.parametrize("behind", [0, 1, 100, SECTOR, 20 * KIB])
def test_a_bad_sector_right_before_a_cut(behind: int) -> None:
    bad = in_member(1, 100 * KIB)
    file = BadSectors(BIG[: bad[1] + behind], [bad])
    with TarStreamSource(file) as source:
        report = verify(source)
    missing = joined(BIG_LAYOUT.missing(*bad) + BIG_LAYOUT.missing(bad[1] + behind, len(BIG)))
    assert list(report.damage) == missing
    assert report.data_bytes == 700 * KIB - missing_bytes(report)


@pytest.mark.parametrize("behind", [1, 100, SECTOR, 20 * KIB])
def test_a_bad_sector_right_before_the_device_is_gone(behind: int) -> None:
    """What is given up at once grows: the second error follows too late for that."""
    bad = in_member(1, 100 * KIB)

    class Goes(BadSectors):
        def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
            if self.failed > 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().seek(offset, whence)

    with TarStreamSource(Goes(BIG, [bad, (bad[1] + behind, len(BIG))])) as source:
        report = verify(source)
    missing = joined(BIG_LAYOUT.missing(*bad) + BIG_LAYOUT.missing(bad[1] + behind, len(BIG)))
    assert list(report.damage) == missing
    assert not report.complete


LARGE_ATTACHMENT = make_tar(attachments={"large": noise(3 * MIB)})


def test_a_device_that_is_gone_in_a_large_attachment() -> None:
    layout = Layout(LARGE_ATTACHMENT)
    at = layout.place("attachments/large").data + 5
    file = BadSectors(LARGE_ATTACHMENT, [(at, len(LARGE_ATTACHMENT))], seekable=False)
    with TarStreamSource(file) as source:
        report = verify(source)
    assert list(report.damage) == layout.missing(at, len(LARGE_ATTACHMENT))
    assert not report.complete


def test_a_gzip_that_was_cut_in_a_large_attachment() -> None:
    packed = gzip.compress(LARGE_ATTACHMENT, mtime=0)
    with (
        gzip.open(io.BytesIO(packed[: len(packed) // 4])) as zipped,
        TarStreamSource(zipped) as source,
    ):
        report = verify(source)
    layout = Layout(LARGE_ATTACHMENT)
    assert list(report.damage) == layout.missing(0, len(LARGE_ATTACHMENT))
    assert not report.complete


# --- Disks ---


def test_a_disk_is_as_seekable_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A double: no more than what `fstat` says of a disk, which has no size."""

    def fstat(fd: int) -> os.stat_result:
        found = list(os.stat_result(fstat_of_a_file(fd)))
        found[stat.ST_MODE] = stat.S_IFBLK | 0o600
        found[stat.ST_SIZE] = 0
        return os.stat_result(found)

    fstat_of_a_file = os.fstat
    path = tmp_path / "disk.tar"
    path.write_bytes(TAR)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", fstat)
        source = TarStreamSource(path)
    with source:
        source.check_complete()
        assert verify(source).ok
        source.rewind()
        copy(source, DiscardSink())


def test_bad_sectors_of_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with real_bad_sectors(BIG, SEVERAL) as path:
        with monkeypatch.context() as patched:
            patched.setattr(stat, "S_ISBLK", stat.S_ISREG)
            patched.setattr(stat, "S_ISREG", lambda mode: False)
            source = TarStreamSource(path)
        with source:
            assert_bad_sectors(verify(source), SEVERAL)


def test_a_real_disk(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(TAR)  # 512-byte sectors, and a whole number of them
    tool = shutil.which("losetup")
    if tool is None or os.geteuid():
        pytest.skip("needs losetup, as root")
    command = [tool, "--find", "--show", "--read-only", str(image)]
    attached = subprocess.run(command, capture_output=True, text=True, check=False)
    if attached.returncode:
        pytest.skip(f"no loop device: {attached.stderr.strip()}")
    device = attached.stdout.strip()
    try:
        with TarStreamSource(device) as source:
            source.check_complete()
            assert_good(verify(source))
            source.rewind()
            assert_good(verify(source))
    finally:
        subprocess.run([tool, "--detach", device], check=True)


# --- Real bad sectors ---


@pytest.mark.parametrize("bad", SECTORS.values(), ids=SECTORS)
def test_real_bad_sectors(bad: Bad) -> None:
    with real_bad_sectors(BIG, bad) as path, TarStreamSource(path) as source:
        assert_bad_sectors(verify(source), bad)


@pytest.mark.parametrize("buffering", [0, -1])
def test_real_bad_sectors_in_a_file_object(buffering: int) -> None:
    with (
        real_bad_sectors(BIG, SEVERAL) as path,
        path.open("rb", buffering=buffering) as file,
        TarStreamSource(file) as source,
    ):
        assert_bad_sectors(verify(source), SEVERAL)


def test_the_double_does_what_the_kernel_does() -> None:
    with real_bad_sectors(BIG, SEVERAL) as path:
        for step in (1000, 4096, 100_000):
            with path.open("rb", buffering=0) as file:
                assert trace(file, step) == trace(BadSectors(BIG, SEVERAL), step)


def trace(file: io.RawIOBase, step: int) -> list[tuple[int, int | None]]:
    """Position and length of all reads up to the end; None for the length of one that fails."""
    buffer = memoryview(bytearray(step))
    found: list[tuple[int, int | None]] = []
    while not found or found[-1][1] != 0:
        at = file.tell()
        try:
            count = file.readinto(buffer)
            assert buffer[: count or 0] == BIG[at : at + (count or 0)]
        except OSError as e:
            count = None if e.errno == errno.EIO else -1
            assert file.tell() == at
            file.seek(at + SECTOR)
        found.append((at, count))
    return found
