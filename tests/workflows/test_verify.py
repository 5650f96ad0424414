"""verify(): all that is wrong with a stream is told, and where; of what is right, nothing."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import threading
from pathlib import Path

import pytest

from tapestream import (
    BackupInfo,
    Damage,
    DiscardSink,
    Extent,
    RawImageSource,
    TarStreamSource,
    VerifyReport,
    copy,
    verify,
)
from tapestream.errors import (
    CorruptStreamError,
    DigestMismatchError,
    LocalIOError,
    TapestreamError,
    UsageError,
)
from tapestream.testing.memory import MemorySource
from tests.disks import noise
from tests.tar.layouts import Layout, flipped
from tests.tar.tars import DISK, EXTENTS, SIZE, make_tar, tar_of_disk
from tests.workflows.verifying import CHECKSUMS, LAYOUT, MIB, TAR, assert_good, bad_header, verified

pytestmark = pytest.mark.timeout(120)


# --- What is good ---


@pytest.mark.parametrize("part_size", [512, 1024, 1536, 4096, MIB, None])
@pytest.mark.parametrize("checksum", [*CHECKSUMS, None])
def test_a_good_stream(checksum: str | None, part_size: int | None) -> None:
    report = verified(make_tar(checksum=checksum, part_size=part_size))
    assert_good(report, checksum=checksum)
    assert report.data_bytes == 700 + 2672 + 1
    assert report.info.vm_id == "7f5c"
    how = f"against {checksum}" if checksum else "without digests"
    assert str(report) == f"good: 3373 bytes of data, read {how}. The end is there."


@pytest.mark.parametrize("attachments", [{}, {"a": b""}, {"a": b"1" * 512, "b": b"2" * 3000}])
def test_good_attachments(attachments: dict[str, bytes]) -> None:
    assert_good(verified(make_tar(attachments=attachments)))


@pytest.mark.parametrize(
    ("disk", "extents"),
    [
        (b"", []),
        (bytes(9000), [Extent(0, 9000, zero=True)]),
        (noise(9000), [Extent(0, 9000)]),
        (noise(9000), [Extent(0, 9000, zero=False, dirty=False)]),
        (
            noise(9000),
            [
                Extent(0, 3000, dirty=True),
                Extent(3000, 3000, zero=True, dirty=True),
                Extent(6000, 2000, dirty=False),
                Extent(8000, 1000, zero=True, dirty=False),
            ],
        ),
    ],
    ids=["empty", "all zero", "all data", "nothing changed", "incremental"],
)
def test_good_disks(disk: bytes, extents: list[Extent]) -> None:
    report = verified(tar_of_disk(disk, extents))
    assert_good(report)
    assert report.info.size == len(disk)
    assert report.data_bytes == sum(
        e.length for e in extents if e.dirty is not False and not e.zero
    )


def test_good_through_a_path_and_file_objects(tmp_path: Path) -> None:
    path = tmp_path / "disk.tar"
    path.write_bytes(TAR)
    with TarStreamSource(path) as source:
        assert_good(verify(source))
    for buffering in (-1, 0):
        with path.open("rb", buffering=buffering) as file, TarStreamSource(file) as source:
            assert_good(verify(source))
            assert file.tell() == len(TAR)
    with gzip.open(io.BytesIO(gzip.compress(TAR))) as zipped, TarStreamSource(zipped) as source:
        assert_good(verify(source))


def test_good_through_a_pipe() -> None:
    read, write = os.pipe()

    def feed() -> None:
        with os.fdopen(write, "wb") as out:
            out.write(TAR)

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(read, "rb") as pipe, TarStreamSource(pipe) as source:
        assert_good(verify(source))
    thread.join()


def test_only_this_stream_is_read_and_the_source_stays_open() -> None:
    file = io.BytesIO(TAR + TAR)
    for end in (len(TAR), 2 * len(TAR)):
        source = TarStreamSource(file)
        assert_good(verify(source))
        assert file.tell() == end
        assert source.attachments["vm.ovf"]
        with pytest.raises(UsageError, match="read once"):
            verify(source)
        source.close()


def test_once_more_after_a_rewind() -> None:
    damaged = flipped(TAR, LAYOUT.data[1].data)
    for tar in (TAR, damaged):
        with TarStreamSource(io.BytesIO(tar)) as source:
            first = verify(source)
            source.rewind()
            assert verify(source) == first
            assert first.ok is (tar is TAR)


def test_damage_is_strict_again_after_a_rewind() -> None:
    with TarStreamSource(io.BytesIO(flipped(TAR, LAYOUT.data[1].data))) as source:
        assert not verify(source).ok
        source.rewind()
        with pytest.raises(DigestMismatchError):
            copy(source, DiscardSink())


def test_options_are_those_of_a_copy() -> None:
    class Progress:
        total = done = 0

        def update(self, n: int) -> None:
            self.done += n

    progress = Progress()
    with TarStreamSource(io.BytesIO(TAR)) as source:
        verify(source, progress=progress, buffer_size=4096, buffer_memory=8192)
    assert (progress.total, progress.done) == (3373, 3373)


def test_other_sources(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(noise(9000))
    with RawImageSource(tmp_path / "disk.raw") as source:
        report = verify(source)
        assert_good(report, checksum=None)
        assert report.data_bytes == 9000

    def fail(start: int, length: int) -> None:
        raise LocalIOError("it broke")

    with (
        MemorySource(DISK, EXTENTS, before_read=fail) as broken,
        pytest.raises(LocalIOError, match="it broke"),
    ):
        verify(broken)


@pytest.mark.parametrize("error", [LocalIOError("it broke"), CorruptStreamError("it is bad")])
def test_other_sources_without_extents(error: TapestreamError) -> None:
    class Broken(MemorySource):
        def extents(self) -> list[Extent]:
            raise error

    with Broken(DISK, EXTENTS) as broken, pytest.raises(type(error), match=str(error.args[0])):
        verify(broken)


def test_what_is_ok() -> None:
    found = Damage(0, 1, "extent-1@0", missing=False)
    for complete, damage, problems in itertools.product(
        (True, False), ((), (found,)), ((), ("x",))
    ):
        report = VerifyReport(BackupInfo(), complete, damage, problems, 0, None)
        assert report.ok is (complete and not damage and not problems)


# --- Fixed damage, and exactly what is said of it ---


def test_two_bad_segments_and_a_bad_header() -> None:
    damaged = flipped(
        TAR,
        LAYOUT.place("extent-2@5120").data + 1023,
        LAYOUT.place("extent-2@6144").header + 10,
        LAYOUT.place("extent-3@7000").data,
    )
    report = verified(damaged)
    assert report == VerifyReport(
        info=report.info,
        complete=True,
        damage=(
            Damage(5120, 1024, "extent-2@5120", missing=False),
            Damage(7000, 1, "extent-3@7000", missing=False),
        ),
        problems=(bad_header("extent-2@6144"),),
        data_bytes=3373,
        checksum="sha256",
    )
    assert not report.ok
    assert str(report) == (
        "bad: 3373 bytes of data, read against sha256. The end is there.\n"
        f"{bad_header('extent-2@6144')}\n"
        "1024 bytes at disk offset 5120 are damaged (extent-2@5120)\n"
        "1 bytes at disk offset 7000 are damaged (extent-3@7000)"
    )


def test_a_line_for_each_whatever_the_names() -> None:
    damage = (Damage(0, 1, "extent\n1\x1b[2J", missing=True),)
    report = VerifyReport(BackupInfo(), True, damage, ("a member\u2028good: ü",), 0, None)
    assert str(report).splitlines()[1:] == [
        "a member\\u2028good: ü",
        "1 bytes at disk offset 0 are missing (extent\\n1\\x1b[2J)",
    ]


def test_a_cut_and_damage_before_it() -> None:
    """Without the manifest nobody knows of the damage, but the rest is missing."""
    place = LAYOUT.place("extent-2@5120")
    report = verified(flipped(TAR, LAYOUT.data[0].data)[: place.data + 24])
    assert report.damage == (
        Damage(5144, 1000, "extent-2@5120", missing=True),
        Damage(6144, 624, "extent-2@6144", missing=True),
        Damage(7000, 1, "extent-3@7000", missing=True),
    )
    assert report.problems == (f"BytesIO ends after {place.data + 24} bytes, in extent-2@5120",)
    assert not report.complete
    assert report.checksum is None
    assert report.data_bytes == 700 + 1024 + 24
    assert str(report).startswith(
        "bad: 1748 bytes of data, read without digests. The end is missing, or damaged.\n"
    )


def test_segments_that_touch_are_one_in_one_member_only() -> None:
    tar = make_tar(part_size=1536)  # three segments of 512
    layout = Layout(tar)
    first, second = layout.place("extent-2@4096"), layout.place("extent-2@5632")
    report = verified(flipped(tar, first.data + 512, first.data + 1024, second.data))
    assert report.damage == (
        Damage(4096 + 512, 1024, "extent-2@4096", missing=False),
        Damage(5632, 512, "extent-2@5632", missing=False),
    )


@pytest.mark.parametrize("tar", [TAR, make_tar(checksum=None)], ids=["sha256", "no digests"])
def test_damaged_extents_hide_the_disk(tar: bytes) -> None:
    report = verified(flipped(tar, Layout(tar).place("extents.json").data))
    assert report.damage == (Damage(0, SIZE, "extents.json", missing=True),)
    assert len(report.problems) == 1
    assert "extents.json" in report.problems[0]
    assert (report.complete, report.data_bytes) == (False, 0)


@pytest.mark.parametrize("name", ["attachments/vm.ovf", "extents.json"])
def test_a_damaged_text_hides_nothing_where_it_can_be_read(name: str) -> None:
    """Of `extents.json`, this changes a word that means nothing to a restore."""
    place = LAYOUT.place(name)
    at = place.data if name != "extents.json" else TAR.index(b'"hole"', place.data) + 1
    bad = flipped(TAR, LAYOUT.place("extent-2@5120").data)
    damaged = bad[:at] + b"H" + bad[at + 1 :]
    report = verified(damaged)
    assert report.problems == (f"{name} does not match its digest in manifest.json",)
    assert report.damage == (Damage(5120, 1024, "extent-2@5120", missing=False),)
    assert report.complete


def test_without_digests_only_the_structure_is_checked() -> None:
    tar = make_tar(checksum=None)
    layout = Layout(tar)
    everywhere = flipped(tar, *layout.data_offsets())
    for report in (
        verified(everywhere),
        verified(flipped(TAR, *LAYOUT.data_offsets()), verify=False),
    ):
        assert_good(report, checksum=None)
        assert "without digests" in str(report)
