"""verify(): all that is wrong with a stream is told, and where; of what is right, nothing."""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import os
import random
import shutil
import stat
import subprocess
import threading
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tapestream import (
    BackupInfo,
    Damage,
    DiscardSink,
    Extent,
    RawImageSource,
    TarStreamSink,
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
from tapestream.model.damage import MAX_PROBLEMS, Findings
from tapestream.workflows.verify import MAX_LINES
from tests.memory import MemorySink, MemorySource
from tests.strategies import extent_lists
from tests.tar.layouts import Layout, Place, differing, flipped, joined, zeroed
from tests.tar.sectors import SECTOR, Bad, BadSectors, real_bad_sectors
from tests.tar.tars import CREATED, DISK, EXTENTS, SIZE, Part, join, make_tar, split

pytestmark = pytest.mark.timeout(120)

CHECKSUMS = ("sha256", "blake2b", "crc32")
KIB, MIB = 1024, 1024**2
TAR = make_tar()
LAYOUT = Layout(TAR)
BAD_HEADER = "a tar header is damaged or not ours: its checksum is wrong"


def bad_header(name: str) -> str:
    """What is said of a member with a flipped byte in its header."""
    return f"{name}: {BAD_HEADER}"


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def sector_at(offset: int) -> tuple[int, int]:
    """The sector that holds this byte."""
    return offset // SECTOR * SECTOR, offset // SECTOR * SECTOR + SECTOR


def tar_of(disk: bytes, extents: Sequence[Extent] | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    source = MemorySource(disk, extents, info=BackupInfo(vm_id="vm", created=CREATED))
    with source, TarStreamSink(out, **options) as sink:
        copy(source, sink)
    return out.getvalue()


def verified(tar: bytes, **options: Any) -> VerifyReport:
    with TarStreamSource(io.BytesIO(tar), **options) as source:
        return verify(source)


def assert_good(report: VerifyReport, *, checksum: str | None = "sha256") -> None:
    assert report.ok
    assert report.complete
    assert (report.damage, report.problems) == ((), ())
    assert report.checksum == checksum


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
    report = verified(tar_of(disk, extents))
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


# --- A larger stream ---

# In KiB: members of 192, 192 and 116; zeros; members of 192 and 8. Segments have 64.
BIG_EXTENTS = [
    Extent(0, 500 * KIB),
    Extent(500 * KIB, 300 * KIB, zero=True),
    Extent(800 * KIB, 200 * KIB),
]
BIG = tar_of(noise(1000 * KIB), BIG_EXTENTS, part_size=192 * KIB, checksum="crc32")
BIG_LAYOUT = Layout(BIG)


def missing_and_damaged(layout: Layout, bad: Bad) -> list[Damage]:
    """What is to be told of bad sectors: the bytes, and the segments that they belong to."""
    missing = joined(damage for stretch in bad for damage in layout.missing(*stretch))
    return missing + layout.segments_with([at for stretch in bad for at in range(*stretch)])


def in_member(number: int, offset: int) -> tuple[int, int]:
    return sector_at(BIG_LAYOUT.data[number].data + offset)


ONE = [in_member(1, 100 * KIB)]
SEVERAL = [
    in_member(0, 30 * KIB),
    in_member(0, 90 * KIB),
    in_member(1, 100 * KIB),
    in_member(4, 4 * KIB),
]
HEADER = [sector_at(BIG_LAYOUT.data[1].header)]
SECTORS = {"one": ONE, "several": SEVERAL, "a header": HEADER}

DEAD_AT = BIG_LAYOUT.data[1].data + 70_001
DEAD_IN_HEADER = BIG_LAYOUT.data[2].header + 7


# --- A damaged header hides nothing ---

HOW = ("flipped", "zeroed", "noise", "renamed")


def with_header(tar: bytes, name: str, how: str, layout: Layout | None = None) -> bytes:
    """The tar with a damaged header of a member; with its layout where it is damaged already."""
    layout = layout or Layout(tar)
    at = layout.place(name).header
    other = layout.place("backup-info.json").header
    header = {
        "flipped": flipped(tar, at)[at : at + 512],
        "size": flipped(tar, at + 124)[at : at + 512],
        "larger": tar[at : at + 124] + b"7" + tar[at + 125 : at + 512],
        "smaller": tar[at : at + 124] + b"%011o" % 0 + tar[at + 135 : at + 511] + b"x",
        "zeroed": bytes(512),
        "noise": noise(512),
        "renamed": tar[other : other + 512],  # a good one, of another member
    }[how]
    return tar[:at] + header + tar[at + 512 :]


@pytest.mark.parametrize("name", [*(place.name for place in LAYOUT.data), "manifest.json"])
@pytest.mark.parametrize("how", HOW)
def test_a_damaged_header_does_not_hide_what_follows(name: str, how: str) -> None:
    bad = LAYOUT.place("extent-2@5120").data
    report = verified(with_header(flipped(TAR, bad), name, how))
    assert report.damage == (Damage(5120, 1024, "extent-2@5120", missing=False),)
    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"{name}: ")
    assert report.checksum == "sha256"
    assert report.complete


@pytest.mark.parametrize("name", [place.name for place in LAYOUT.data])
def test_a_damaged_header_alone_is_bad(name: str) -> None:
    """The digests vouch for what is behind it."""
    report = verified(flipped(TAR, LAYOUT.place(name).header))
    assert (report.damage, report.problems, report.complete) == ((), (bad_header(name),), True)
    assert not report.ok
    assert str(report).startswith("bad: ")


def test_all_headers_of_the_data_are_damaged() -> None:
    damaged = flipped(TAR, *(place.header + 3 for place in LAYOUT.data))
    report = verified(damaged)
    assert (report.damage, report.complete) == ((), True)
    assert report.problems == tuple(bad_header(place.name) for place in LAYOUT.data)


def test_a_damaged_header_of_an_attachment_with_its_size() -> None:
    """It tells where the next member is: the data is read, and compared."""
    for at in (0, 50, 150, 300):  # not its size
        damaged = flipped(TAR, LAYOUT.place("attachments/vm.ovf").header + at)
        assert_only_the_attachment_is_lost(damaged)


def assert_only_the_attachment_is_lost(damaged: bytes) -> None:
    for tar, wrong in (
        (damaged, ()),
        (
            flipped(damaged, LAYOUT.place("extent-2@5120").data),
            (Damage(5120, 1024, "extent-2@5120", missing=False),),
        ),
    ):
        report = verified(tar)
        assert report.damage == wrong
        assert "a tar header is damaged or not ours: " in report.problems[0]
        assert "vm.ovf" in report.problems[0].partition(":")[0]
        assert report.problems[1:] == ("manifest.json lists other members than the stream has",)
        assert (report.complete, report.checksum) == (True, "sha256")


def test_the_other_attachments_are_read() -> None:
    kept = {"a": b"1" * 700, "b": b"2" * 512, "c": b"3"}
    tar = make_tar(attachments=kept)
    for name in kept:
        damaged = with_header(tar, f"attachments/{name}", "flipped")
        with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
            assert source.attachments == {n: text for n, text in kept.items() if n != name}
            sink = MemorySink()
            copy(source, sink)
            assert bytes(sink.disk) == DISK


@pytest.mark.parametrize("how", ["size", "larger", "smaller", "zeroed", "noise", "renamed"])
@pytest.mark.parametrize("checksum", ["sha256", None])
@pytest.mark.parametrize("name", ["a", "b", "empty"])
def test_a_damaged_header_of_an_attachment_without_its_size(
    name: str, checksum: str | None, how: str
) -> None:
    """The data begins where the header of its first member is: nothing else is lost."""
    kept = {"a": noise(3000), "b": b"<ovf/>" * 100, "empty": b""}
    tar = make_tar(checksum=checksum, attachments=kept)
    damaged = with_header(tar, f"attachments/{name}", how)
    report = verified(damaged)
    assert (report.damage, report.complete, report.checksum) == ((), True, checksum)
    assert len(report.problems) == 2
    with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
        sink = MemorySink()
        copy(source, sink)
        assert bytes(sink.disk) == DISK
        assert name not in source.attachments
        assert source.attachments.items() <= kept.items()


@pytest.mark.parametrize("how", ["larger", "zeroed", "noise"])
def test_a_damaged_header_of_an_attachment_where_there_is_no_data(how: str) -> None:
    tar = tar_of(bytes(9000), [Extent(0, 9000, zero=True)], attachments={"a": noise(3000)})
    report = verified(with_header(tar, "attachments/a", how))
    assert (report.damage, report.complete) == ((), True)
    assert len(report.problems) == 2


@pytest.mark.parametrize("how", ["flipped", "noise", "zeroed"])
@pytest.mark.parametrize("bad", SECTORS.values(), ids=SECTORS)
def test_what_is_looked_at_for_the_data_is_not_lost(bad: Bad, how: str) -> None:
    """The header may be that of an attachment, for all that can be told, and is of the data."""
    damaged = with_header(BIG, BIG_LAYOUT.data[0].name, how)
    with TarStreamSource(BadSectors(damaged, bad)) as source:
        report = verify(source)
    assert list(report.damage) == missing_and_damaged(BIG_LAYOUT, bad)
    assert report.complete


@pytest.mark.parametrize("how", ["flipped", "noise", "zeroed"])
def test_a_device_that_dies_where_the_data_is_looked_for(how: str) -> None:
    damaged = with_header(BIG, BIG_LAYOUT.data[0].name, how)
    file = BadSectors(damaged, [(DEAD_AT, DEAD_AT + 1)], seekable=False)
    with TarStreamSource(file) as source:
        report = verify(source)
    assert [d for d in report.damage if d.missing] == BIG_LAYOUT.missing(DEAD_AT, len(BIG))
    assert report.data_bytes == 700 * KIB - missing_bytes(report)


@pytest.mark.parametrize("how", ["noise", "zeroed"])
def test_the_data_is_not_looked_for_in_the_next_stream(how: str) -> None:
    file = io.BytesIO(with_header(TAR, LAYOUT.data[0].name, how) + TAR)
    with TarStreamSource(file) as source:
        report = verify(source)
        assert (report.damage, report.complete) == ((), True)
        assert file.tell() == len(TAR)


@pytest.mark.parametrize("how", ["noise", "zeroed"])
def test_a_tar_on_the_disk_is_not_taken_for_the_stream(how: str) -> None:
    disk = make_tar(attachments={"a": b"1", "b": noise(3000)})
    tar = tar_of(disk, attachments={"vm.ovf": b"<ovf/>"})
    report = verified(with_header(tar, "extent-1@0", how))
    assert (report.damage, report.complete) == ((), True)
    assert len(report.problems) == 1


# --- Attachments that are refused ---


def test_attachments_that_are_too_large_together(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"a": noise(700), "b": noise(700), "c": noise(300)}
    tar = make_tar(attachments=kept)
    monkeypatch.setattr("tapestream.tar.format.MAX_ATTACHMENTS", 1000)
    with (
        TarStreamSource(io.BytesIO(tar)) as source,
        pytest.raises(CorruptStreamError, match="attachments/b is too large: 700 bytes"),
    ):
        copy(source, DiscardSink())
    with TarStreamSource(io.BytesIO(tar)) as source:
        report = verify(source)
        assert source.attachments == {"a": kept["a"], "c": kept["c"]}
    assert (report.damage, report.complete) == ((), True)
    assert report.problems == (
        "attachments/b: attachments/b is too large: 700 bytes",
        "manifest.json lists other members than the stream has",
    )


@pytest.mark.parametrize("name", ["vm.ovf", "../x", ""])
def test_an_attachment_with_a_name_that_cannot_be(name: str) -> None:
    """The second of one name, too: it is passed over, for its size is known."""
    parts = split(TAR)
    parts.insert(3, Part(f"attachments/{name}", noise(1500)))
    report = verified(join(parts))
    assert (report.damage, report.complete, report.checksum) == ((), True, "sha256")
    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"attachments/{name}: ")


# --- Suspects: what is around a damaged header, and nobody vouches for ---


def told(report: VerifyReport) -> set[int]:
    """Every byte of the disk that is missing or damaged."""
    return {at for d in report.damage for at in range(d.start, d.start + d.length)}


def all_of(layout: Layout) -> set[int]:
    return {at for place in layout.data for at in range(place.start, place.start + place.size)}


def suspects(*places: Place) -> list[Damage]:
    return [Damage(place.start, place.size, place.name, missing=False) for place in places]


def around(places: Sequence[Place], *numbers: int) -> list[Damage]:
    """The suspects where the headers of these members are damaged: bytes may be lost before."""
    return suspects(*(places[n] for n in range(len(places)) if {n, n + 1} & set(numbers)))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "numbers", [[0], [2], [1, 2], [4], [0, 4], [1, 3], [0, 1, 2, 3, 4]], ids=str
)
def test_suspects_are_damaged_where_there_are_no_digests(numbers: list[int], how: str) -> None:
    for tar, options in ((make_tar(checksum=None), {}), (TAR, {"verify": False})):
        layout = Layout(tar)
        hit = [layout.data[number] for number in numbers]
        damaged = tar
        for place in hit:
            damaged = with_header(damaged, place.name, how, layout)
        report = verified(damaged, **options)
        assert list(report.damage) == around(layout.data, *numbers)
        assert len(report.problems) == len(hit)
        assert (report.complete, report.checksum) == (True, None)
        assert report.data_bytes == layout.data_bytes  # it is there


@pytest.mark.parametrize(
    "end",
    [
        lambda tar: tar[: LAYOUT.place("manifest.json").header],
        lambda tar: tar[: LAYOUT.place("manifest.json").data + 100],
        lambda tar: flipped(tar, LAYOUT.place("manifest.json").data),
        lambda tar: zeroed(tar, LAYOUT.place("manifest.json").data, 512),
    ],
    ids=["missing", "cut", "flipped", "zeroed"],
)
def test_suspects_are_damaged_where_the_manifest_is(end: Any) -> None:
    report = verified(end(flipped(TAR, LAYOUT.data[2].header)))
    assert list(report.damage) == around(LAYOUT.data, 2)
    assert (report.complete, report.checksum) == (False, None)
    assert "read without digests. The end is missing, or damaged." in str(report)
    report = verified(end(TAR))
    assert report.damage == ()
    assert (report.complete, report.checksum) == (False, None)
    assert report.problems


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_header_of_the_manifest_makes_the_member_before_it_a_suspect(how: str) -> None:
    """Where nobody vouches for it: bytes of it may be lost."""
    manifest = LAYOUT.place("manifest.json")
    cut = with_header(TAR, "manifest.json", how)[: manifest.data]
    for tar, numbers in ((cut, [5]), (flipped(cut, LAYOUT.data[2].header), [2, 5])):
        report = verified(tar)
        assert list(report.damage) == around(LAYOUT.data, *numbers)
        assert (report.complete, report.checksum) == (False, None)
        assert report.problems
    for bad in ((), (LAYOUT.data[2].header,)):
        report = verified(flipped(with_header(TAR, "manifest.json", how), *bad))
        assert report.damage == ()  # the digests vouch
        assert (report.complete, report.checksum) == (True, "sha256")
        assert report.problems[-1].startswith("manifest.json: ")
    no_digests = make_tar(checksum=None)
    report = verified(with_header(no_digests, "manifest.json", how))
    assert list(report.damage) == around(Layout(no_digests).data, 5)
    assert (report.complete, report.checksum) == (True, None)


def test_a_suspect_of_which_all_is_missing_is_told_once() -> None:
    before, place = LAYOUT.data[1:3]
    damaged = flipped(TAR, place.header)
    for cut in (place.data, place.data + 1, place.end - 1, place.end):
        report = verified(damaged[:cut])
        there = suspects(before) if cut == place.data else suspects(before, place)
        assert list(report.damage) == LAYOUT.missing(cut, len(TAR)) + there
        assert report.data_bytes == sum(max(0, min(p.end, cut) - p.data) for p in LAYOUT.data)


def test_members_behind_headers_that_cannot_be_read_are_no_suspects() -> None:
    """How many bytes could not be read is known: what is behind them is where it should be."""
    tar = tar_of(noise(64 * KIB), part_size=KIB, checksum=None)
    layout = Layout(tar)
    start, end = sector_at(layout.data[9].header)
    with TarStreamSource(BadSectors(tar, [(start, end)])) as source:
        report = verify(source)
    hit = [place for place in layout.data if start <= place.header < end]
    assert [place.end <= end for place in hit] == [True, True, False]
    assert list(report.damage) == layout.missing(start, end)
    assert len(report.problems) == len(hit)
    assert (report.complete, report.checksum) == (True, None)


@pytest.mark.parametrize("checksum", ["sha256", None])
@pytest.mark.parametrize("change", ["inserted", "removed"])
def test_all_that_is_behind_lost_bytes_is_damaged(change: str, checksum: str | None) -> None:
    tar = make_tar(checksum=checksum)
    layout = Layout(tar)
    for number, place in enumerate(layout.data[:-1]):
        for offset in {0, place.size // 2, place.size - 1}:
            report = verified(out_of_step(tar, place.data + offset, change))
            behind = {
                at for p in layout.data[number + 1 :] for at in range(p.start, p.start + p.size)
            }
            assert behind <= told(report)
            assert (report.checksum, report.complete) == (None, False)


@pytest.mark.parametrize("checksum", ["sha256", None])
@pytest.mark.parametrize("change", ["inserted", "removed"])
def test_the_member_in_which_bytes_were_lost_is_damaged(change: str, checksum: str | None) -> None:
    tar = make_tar(checksum=checksum)
    for place in Layout(tar).data:
        for offset in {0, place.size // 2, place.size - 1}:
            report = verified(out_of_step(tar, place.data + offset, change))
            assert set(range(place.start, place.start + place.size)) <= told(report)


def out_of_step(tar: bytes, at: int, change: str) -> bytes:
    """A byte more, or less, than it should have."""
    return tar[:at] + b"x" + tar[at:] if change == "inserted" else tar[:at] + tar[at + 1 :]


# --- What was compared ---


def test_what_was_compared() -> None:
    manifest = LAYOUT.place("manifest.json")
    bad = LAYOUT.data[1].data
    for tar, compared in (
        (TAR, True),
        (flipped(TAR, bad), True),
        (flipped(TAR, LAYOUT.data[1].header), True),
        (flipped(TAR, LAYOUT.place("attachments/vm.ovf").data), True),
        (flipped(TAR, manifest.header), True),
        (flipped(TAR, len(TAR) - 1), True),  # the padding
        (TAR[:-1], True),
        (TAR[: manifest.end], True),  # all data is there, and nothing else follows
        (flipped(TAR, manifest.data + 3), False),
        (TAR[: manifest.end - 1], False),
        (TAR[:bad], False),
        (flipped(TAR, LAYOUT.place("extents.json").data), False),
    ):
        report = verified(tar)
        assert report.checksum == ("sha256" if compared else None)
        assert ("read against sha256" in str(report)) is compared
        assert report.ok is (tar is TAR)
        if manifest.end <= len(tar) < len(TAR):
            assert len(report.problems) == 1
            assert f"ends after {len(tar)} bytes" in report.problems[0]


@pytest.mark.parametrize("header_too", [False, True])
def test_a_damaged_key_of_the_manifest(header_too: bool) -> None:
    """Either the damage is told, or that nobody looked."""
    place = LAYOUT.place("extent-2@5120")
    key = TAR.index(b'"data_bytes"', LAYOUT.place("manifest.json").data) + 5
    damaged = flipped(TAR, place.data)
    damaged = damaged[:key] + b"X" + damaged[key + 1 :]
    report = verified(flipped(damaged, place.header) if header_too else damaged)
    assert report.problems
    if header_too:
        assert report.damage
    assert report.damage or report.checksum is None


@pytest.mark.parametrize("gone", [{"seekable": False}, {"seek_fails": True}], ids=str)
def test_a_manifest_that_cannot_be_read(gone: dict[str, Any]) -> None:
    place = BIG_LAYOUT.data[1]
    at = BIG_LAYOUT.place("manifest.json").data + 1
    file = BadSectors(flipped(BIG, place.header, place.data), [(at, len(BIG) + 1)], **gone)
    with TarStreamSource(file) as source:
        report = verify(source)
    assert list(report.damage) == around(BIG_LAYOUT.data, 1)
    assert (report.complete, report.checksum) == (False, None)


@pytest.mark.parametrize(
    "verify_data",
    [True, False],
)
def test_a_damaged_attachment_leaves_the_end_there(verify_data: bool) -> None:
    report = verified(flipped(TAR, LAYOUT.place("attachments/vm.ovf").data), verify=verify_data)
    assert report.problems == ("attachments/vm.ovf does not match its digest in manifest.json",)
    assert report.complete


# --- Only one reading is lenient ---


def test_options_that_cannot_be_leave_a_strict_source() -> None:
    damaged = flipped(TAR, LAYOUT.data[1].data)
    with TarStreamSource(io.BytesIO(damaged)) as source:
        with pytest.raises(UsageError):
            verify(source, max_workers=0)
        assert source.findings is None
        assert source.checksum == "sha256"
        with pytest.raises(DigestMismatchError):
            copy(source, DiscardSink())


def test_after_such_options_it_can_be_verified() -> None:
    for tar in (TAR, flipped(TAR, LAYOUT.data[1].data), with_header(TAR, "extent-1@0", "noise")):
        with TarStreamSource(io.BytesIO(tar)) as source:
            with pytest.raises(UsageError):
                verify(source, max_workers=0)
            assert verify(source) == verified(tar)


def test_a_damaged_attachment_does_not_make_a_strict_source_lenient() -> None:
    damaged = with_header(TAR, "attachments/vm.ovf", "flipped")
    with TarStreamSource(io.BytesIO(damaged)) as source:
        with pytest.raises(UsageError):
            verify(source, max_workers=0)
        with pytest.raises(CorruptStreamError):
            copy(source, DiscardSink())


def test_an_error_of_the_progress_leaves_a_strict_source() -> None:
    class Broken:
        total = 0

        def update(self, n: int) -> None:
            raise RuntimeError("broken")

    with TarStreamSource(io.BytesIO(flipped(TAR, LAYOUT.data[1].data))) as source:
        with pytest.raises(RuntimeError, match="broken"):
            verify(source, progress=Broken())
        assert source.findings is None
        source.rewind()
        with pytest.raises(DigestMismatchError):
            copy(source, DiscardSink())


def test_allow_incomplete_stays() -> None:
    damaged = flipped(TAR, LAYOUT.data[1].data)
    with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
        for _ in range(2):
            report = verify(source)
            assert report == verified(damaged)
            source.rewind()
            assert source.findings == Findings()
        copy(source, DiscardSink())
        assert source.findings is not None
        assert tuple(source.findings.damage) == report.damage
        assert (source.findings.compared, source.checksum) == ("sha256", None)


def test_strict_bad_sectors_after_a_rewind() -> None:
    with TarStreamSource(BadSectors(BIG, ONE)) as source:
        assert_bad_sectors(verify(source), ONE)
        source.rewind()
        with pytest.raises(LocalIOError):
            copy(source, DiscardSink())
        source.rewind()
        assert_bad_sectors(verify(source), ONE)


def test_a_damaged_attachment_is_told_once_more_after_a_rewind() -> None:
    with TarStreamSource(io.BytesIO(with_header(TAR, "attachments/vm.ovf", "flipped"))) as source:
        first = verify(source)
        source.rewind()
        assert verify(source) == first


@pytest.mark.parametrize("sectors", [False, True], ids=["header", "bad sector"])
def test_nothing_is_read_behind_a_rewind_that_failed(sectors: bool) -> None:
    """Either it is refused, or all that is good is called so."""
    at = BEGUN_LAYOUT.place("attachments/a").data + SECTOR
    file: Any = BadSectors(BEGUN, [sector_at(at)])
    if not sectors:
        file = io.BytesIO(with_header(BEGUN, "attachments/a", "flipped"))
    with TarStreamSource(file) as source:
        first = verify(source)
        assert first.damage == ()
        with suppress(TapestreamError):
            source.rewind()
        try:
            again = verify(source)
        except TapestreamError:
            return
        assert again == first


def test_a_strict_source_that_was_read_past_a_bad_sector_must_be_rewound() -> None:
    """What zeros stand for must not be read as data."""

    class Broken:
        total = done = 0

        def update(self, n: int) -> None:
            self.done += n
            if self.done > 400 * KIB:
                raise RuntimeError("broken")

    with TarStreamSource(BadSectors(BIG, ONE)) as source:
        with pytest.raises(RuntimeError, match="broken"):
            verify(source, progress=Broken(), buffer_size=4096, buffer_memory=8192)
        for _ in range(2):
            with pytest.raises(UsageError, match="rewind it"):
                source.extents()
        with pytest.raises(UsageError):
            copy(source, DiscardSink())
        source.rewind()
        assert source.extents()
        assert_bad_sectors(verify(source), ONE)


def test_a_damaged_attachment_is_told_where_it_was_read_before() -> None:
    damaged = with_header(TAR, "attachments/vm.ovf", "flipped")
    with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
        assert source.attachments == {}
        assert verify(source) == verified(damaged)


def test_allow_incomplete_stays_where_verify_fails() -> None:
    damaged = flipped(TAR, LAYOUT.data[1].data)
    with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
        with pytest.raises(UsageError):
            verify(source, max_workers=0)
        copy(source, DiscardSink())
        assert source.findings is not None
        assert source.findings.damage == LAYOUT.segments_with([LAYOUT.data[1].data])


# One sector has the first header, and data behind it.
BEGUN = tar_of(noise(100 * KIB), part_size=16 * KIB, attachments={"a": noise(8000)})
BEGUN_LAYOUT = Layout(BEGUN)
BEGUN_BAD = [sector_at(BEGUN_LAYOUT.first_header)]


def verified_at_once(source: TarStreamSource) -> VerifyReport:
    return verify(source)


def verified_after_its_extents(source: TarStreamSource) -> VerifyReport:
    source.extents()
    return verify(source)


def verified_after_an_error(source: TarStreamSource) -> VerifyReport:
    with pytest.raises(UsageError):
        verify(source, max_workers=0)
    return verify(source)


def verified_after_a_rewind(source: TarStreamSource) -> VerifyReport:
    copy(source, DiscardSink())
    source.rewind()
    return verify(source)


@pytest.mark.parametrize(
    "how",
    [
        verified_at_once,
        verified_after_its_extents,
        verified_after_an_error,
        verified_after_a_rewind,
    ],
)
def test_a_bad_sector_across_the_first_header(how: Any) -> None:
    """However it was read before: what is behind the sector is where it was."""
    (start, end), place = BEGUN_BAD[0], BEGUN_LAYOUT.data[0]
    assert start < place.header < place.data < end
    with TarStreamSource(BadSectors(BEGUN, BEGUN_BAD), allow_incomplete=True) as source:
        report = how(source)
    assert list(report.damage) == missing_and_damaged(BEGUN_LAYOUT, BEGUN_BAD)
    assert report.complete


# --- Interrupted ---


class Interrupts(io.BytesIO):
    """Raises once, where a read has come by an offset, having read up to there."""

    def __init__(self, data: bytes, at: int, error: BaseException | None) -> None:
        super().__init__(data)
        self._at = at
        self._error = error
        self._done = False

    def readinto(self, buffer: Any) -> Any:
        left = self._at - self.tell()
        if left > 0:
            return super().readinto(memoryview(buffer)[:left])
        if self._done:
            return super().readinto(buffer)
        self._done = True
        if self._error is None:
            return None  # it is not ready
        raise self._error


INTERRUPTED_IN = {
    "extents.json": LAYOUT.place("extents.json").data + 5,
    "an attachment": LAYOUT.place("attachments/vm.ovf").data + 5,
    "the first header": LAYOUT.first_header + 5,
}


@pytest.mark.parametrize("at", INTERRUPTED_IN.values(), ids=INTERRUPTED_IN)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), None], ids=repr)
def test_an_interrupted_reading_of_the_extents_is_not_taken_up(
    at: int, error: BaseException | None
) -> None:
    """Part of a member is gone: to read on there would be out of step."""
    with TarStreamSource(Interrupts(TAR, at, error)) as source:
        with pytest.raises(type(error) if error else UsageError):
            source.extents()
        for _ in range(2):
            with pytest.raises(UsageError, match="open it anew"):
                source.extents()
        with pytest.raises(UsageError, match="open it anew"):
            copy(source, DiscardSink())


@pytest.mark.parametrize("at", INTERRUPTED_IN.values(), ids=INTERRUPTED_IN)
def test_nor_by_verify(at: int) -> None:
    with TarStreamSource(Interrupts(TAR, at, KeyboardInterrupt())) as source:
        with pytest.raises(KeyboardInterrupt):
            source.extents()
        with pytest.raises(UsageError, match="open it anew"):
            verify(source)


def test_an_interrupt_ends_verify() -> None:
    for at in (*INTERRUPTED_IN.values(), LAYOUT.data[1].data + 5, len(TAR) - 3):
        with TarStreamSource(Interrupts(TAR, at, KeyboardInterrupt())) as source:
            with pytest.raises(KeyboardInterrupt):
                verify(source)
            assert source.findings is None


def test_a_damaged_attachment_is_raised_until_it_is_tolerated() -> None:
    damaged = with_header(TAR, "attachments/vm.ovf", "flipped")
    with TarStreamSource(io.BytesIO(damaged)) as source:
        for _ in range(2):
            with pytest.raises(CorruptStreamError):
                source.extents()
        assert verify(source) == verified(damaged)


# --- Any damage, of any stream ---


@st.composite
def streams(draw: st.DrawFn, checksums: Sequence[str | None] = CHECKSUMS) -> Layout:
    extents = draw(extent_lists(min_size=draw(st.integers(0, 4)), max_size=8, max_length=3000))
    size = sum(extent.length for extent in extents)
    tar = tar_of(
        noise(size, draw(st.integers(0, 9))),
        extents,
        part_size=draw(st.sampled_from([512, 1024, 1536, 4096])),
        record_size=draw(st.sampled_from([512, 2048, 10240])),
        checksum=draw(st.sampled_from(checksums)),
        attachments=draw(st.sampled_from([{}, {"vm.ovf": b"<ovf/>" * 100, "b": b""}])),
    )
    return Layout(tar)


@st.composite
def damages(draw: st.DrawFn, layout: Layout) -> bytes:
    """The tar with some bytes turned, and some stretches zeroed: in each member alike."""
    tar = layout.tar
    borders = [0, *(at for p in layout.places[1:] for at in (p.header, p.data, p.end)), len(tar)]
    regions = [(a, b) for a, b in itertools.pairwise(borders) if a < b]
    # What hits the preamble is soon tested.
    anywhere = st.sampled_from(regions[1:] * 4 + regions[:1]).flatmap(
        lambda region: st.integers(region[0], region[1] - 1)
    )
    for _ in range(draw(st.integers(0, 4))):
        tar = flipped(tar, draw(anywhere))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        tar = zeroed(tar, draw(anywhere), draw(st.integers(1, 3000)))
    return tar


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_damage(data: st.DataObject) -> None:
    layout = data.draw(streams((*CHECKSUMS, None)))
    tar = layout.tar
    damaged = data.draw(damages(layout))
    cut = data.draw(st.sampled_from([len(tar)] * 3 + [p.data + 9 for p in layout.places]))
    where = set(differing(tar, damaged))
    damaged = damaged[:cut]
    preamble = layout.place("backup-info.json").end
    try:
        source = TarStreamSource(io.BytesIO(damaged))
    except TapestreamError:
        assert cut < preamble or min(where) < preamble
        return
    with source:
        report = verify(source)  # whatever it is, it is reported
    if damaged == tar:
        assert_good(report, checksum=source.checksum)
        return
    if source.checksum is not None:
        assert not report.ok or layout.is_harmless(damaged)
    assert report.complete <= (cut == len(tar))
    if report.checksum is not None:  # what is wrong is told
        wrong = {at - p.data + p.start for p in layout.data for at in where if p.data <= at < p.end}
        assert wrong <= told(report)
    # All that is needed to locate the damage is there.
    manifest = layout.place("manifest.json")
    before = layout.first_header
    can_tell = not any(at < before or manifest.data <= at < manifest.end for at in where)
    if can_tell and source.checksum and cut == len(tar):
        assert list(report.damage) == layout.segments_with(where)
        assert report.checksum == source.checksum


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_data_is_exactly_the_segments_that_hold_it(data: st.DataObject) -> None:
    layout = data.draw(streams())
    offsets = layout.data_offsets()
    assume(offsets)
    bad = data.draw(st.sets(st.sampled_from(offsets), min_size=1, max_size=8))
    report = verified(flipped(layout.tar, *bad))
    assert list(report.damage) == layout.segments_with(bad)
    assert (report.problems, report.complete, report.ok) == ((), True, False)
    assert report.data_bytes == layout.data_bytes


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_cut_is_exactly_what_is_missing(data: st.DataObject) -> None:
    layout = data.draw(streams((*CHECKSUMS, None)))
    cut = data.draw(st.integers(layout.place("extents.json").end, len(layout.tar) - 1))
    report = verified(layout.tar[:cut])
    assert list(report.damage) == layout.missing(cut, len(layout.tar))
    assert report.data_bytes == sum(max(0, min(p.end, cut) - p.data) for p in layout.data)
    assert not report.complete
    assert not report.ok
    assert len(report.problems) == 1
    assert f"ends after {cut} bytes" in report.problems[0]


@pytest.mark.parametrize("cut", range(LAYOUT.place("extents.json").data + 512, len(TAR), 512))
def test_a_cut_at_every_block(cut: int) -> None:
    for length in (cut - 1, cut, cut + 1):
        report = verified(TAR[:length])
        assert list(report.damage) == LAYOUT.missing(length, len(TAR))
        compared = length >= LAYOUT.place("manifest.json").end
        assert (report.complete, report.checksum) == (False, "sha256" if compared else None)


@pytest.mark.parametrize("name", ["attachments/vm.ovf", "extent-1@0"])
def test_a_cut_before_the_data(name: str) -> None:
    """All that was read is fine: just the data is missing, not the whole disk."""
    report = verified(TAR[: LAYOUT.place(name).header + 3])
    assert list(report.damage) == LAYOUT.missing(0, len(TAR))


def test_a_cut_in_the_extents() -> None:
    place = LAYOUT.place("extents.json")
    for cut in (place.header, place.header + 1, place.data, place.end - 1):
        report = verified(TAR[:cut])
        assert report.damage == (Damage(0, SIZE, "extents.json", missing=True),)
        assert not report.complete


def test_a_cut_in_the_preamble_is_no_backup() -> None:
    place = LAYOUT.place("backup-info.json")
    for cut in (0, 100, 512, place.end - 1):
        with pytest.raises(TapestreamError):
            TarStreamSource(io.BytesIO(TAR[:cut]))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_cut_gzip(keep: float) -> None:
    disk = noise(200 * KIB)
    tar = tar_of(disk, part_size=16 * KIB)
    packed = gzip.compress(tar, mtime=0)
    with (
        gzip.open(io.BytesIO(packed[: int(len(packed) * keep)])) as zipped,
        TarStreamSource(zipped) as source,
    ):
        report = verify(source)
    assert not report.complete
    assert all(damage.missing for damage in report.damage)
    starts = [damage.start for damage in report.damage]
    first = report.damage[0]
    assert starts == sorted(starts)
    assert sum(damage.length for damage in report.damage) == len(disk) - first.start
    assert abs(first.start - keep * len(disk)) < 0.2 * len(disk)


def test_a_damaged_gzip_ends() -> None:
    packed = gzip.compress(tar_of(noise(200 * KIB), part_size=16 * KIB), mtime=0)
    for at in range(6000, len(packed), 9001):
        with TarStreamSource(gzip.open(io.BytesIO(flipped(packed, at)))) as source:
            assert not verify(source).ok


# --- Out of step ---


@pytest.mark.parametrize("change", ["inserted", "removed"])
def test_a_stream_out_of_step_has_few_problems_and_takes_no_memory(change: str) -> None:
    tar = tar_of(noise(2000 * 512), part_size=512)
    layout = Layout(tar)
    at = layout.data[1000].data + 5
    damaged = out_of_step(tar, at, change)
    tracemalloc.start()
    try:
        report = verified(damaged)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not report.ok
    assert not report.complete
    assert list(report.damage) == suspects(*layout.data[1000:])
    assert str(report).splitlines()[-1] == f"and {1000 - MAX_LINES} stretches more"
    assert MAX_PROBLEMS <= len(report.problems) <= MAX_PROBLEMS + 1
    assert report.problems[-1] == "and more"
    assert len(str(report)) < 20_000
    assert peak < 4 * MIB


def test_the_first_problems_are_those_that_are_kept() -> None:
    tar = tar_of(noise(300 * 512), part_size=512)
    layout = Layout(tar)
    members = layout.data[1:]
    headers = [place.header for place in members]
    for count in (MAX_PROBLEMS - 1, MAX_PROBLEMS, MAX_PROBLEMS + 1, 299):
        report = verified(flipped(tar, *headers[:count]))
        more = ("and more",) if count > MAX_PROBLEMS else ()
        first = tuple(bad_header(p.name) for p in members[: min(count, MAX_PROBLEMS)])
        assert report.problems == first + more
        assert (report.damage, report.complete) == ((), True)


# --- Bad sectors ---


def test_what_is_bad_below() -> None:
    assert BIG_LAYOUT.segment_size == 64 * KIB
    assert [p.size // KIB for p in BIG_LAYOUT.data] == [192, 192, 116, 192, 8]
    # The sector with a header takes something of the members on both sides with it.
    assert [d.member for d in BIG_LAYOUT.missing(*HEADER[0])] == ["extent-1@0", "extent-1@196608"]
    assert_good(verified(BIG), checksum="crc32")


def missing_bytes(report: VerifyReport) -> int:
    return sum(damage.length for damage in report.damage if damage.missing)


def assert_bad_sectors(report: VerifyReport, bad: Bad) -> None:
    assert list(report.damage) == missing_and_damaged(BIG_LAYOUT, bad)
    headers = [p for p in BIG_LAYOUT.data if any(a <= p.header < b for a, b in bad)]
    assert len(report.problems) == len(headers)
    assert report.complete
    assert report.data_bytes == 700 * KIB - missing_bytes(report)


@pytest.mark.parametrize("wrap", [lambda file: file, io.BufferedReader], ids=["raw", "buffered"])
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
    tar = tar_of(noise(64 * KIB), attachments={"vm.ovf": noise(9000)}, part_size=16 * KIB)
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
    tar = tar_of(noise(64 * KIB), part_size=512)
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
    tar = tar_of(noise(40 * MIB), part_size=8 * MIB, checksum="crc32")
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
        patched.setattr("tapestream.files.streams.os.fstat", fstat)
        source = TarStreamSource(path)
    with source:
        source.check_complete()
        assert verify(source).ok
        source.rewind()
        copy(source, DiscardSink())


def test_bad_sectors_of_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with real_bad_sectors(BIG, SEVERAL) as path:
        with monkeypatch.context() as patched:
            patched.setattr("tapestream.files.streams.stat.S_ISBLK", stat.S_ISREG)
            patched.setattr("tapestream.files.streams.stat.S_ISREG", lambda mode: False)
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
