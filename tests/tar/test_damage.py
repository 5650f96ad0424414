"""A damaged, cut, rearranged or foreign stream is always reported, by its right name."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestream import DiscardSink, RawImageSink, Sink, TarStreamSink, TarStreamSource, copy, verify
from tapestream.errors import (
    CorruptStreamError,
    DigestMismatchError,
    ForeignStreamError,
    IncompleteStreamError,
    NewerFormatError,
    StreamError,
    WrongVolumeError,
)
from tapestream.testing.memory import MemorySink, MemorySource
from tests.tar.tars import (
    DISK,
    EXTENTS,
    PART_SIZE,
    RECORD_SIZE,
    Edit,
    Part,
    Parts,
    disk,
    edited,
    join,
    make_tar,
    replaced,
    sealed,
    split,
    unlisted,
)

CHECKSUMS = ("sha256", "blake2b", "crc32")
TAR = make_tar()
PARTS = split(TAR)
NAMES = [part.name for part in PARTS]
BLOCKS = range(0, len(TAR), 512)


def restore(tar: bytes, sink: Sink, *, verify: bool = True) -> None:
    with sink, TarStreamSource(io.BytesIO(tar), verify=verify) as source:
        copy(source, sink)


def error_of(tar: bytes, *, verify: bool = True) -> StreamError | None:
    """What is wrong with a tar; where nothing is found, the restored disk must be the backup's."""
    sink = MemorySink()
    try:
        restore(tar, sink, verify=verify)
    except StreamError as e:
        assert sink.state == "aborted"
        return e
    assert sink.state == "committed"
    return None


def restored(tar: bytes, *, verify: bool = True) -> bytes:
    sink = MemorySink()
    restore(tar, sink, verify=verify)
    return bytes(sink.disk)


def test_what_is_damaged_below() -> None:
    assert NAMES == [
        "backup-info.json",
        "extents.json",
        "attachments/vm.ovf",
        "extent-1@0",
        "extent-2@4096",
        "extent-2@5120",
        "extent-2@6144",
        "extent-3@7000",
        "manifest.json",
    ]
    assert len(TAR) % RECORD_SIZE == 0
    assert restored(TAR) == restored(join(PARTS)) == restored(join(sealed(PARTS))) == DISK


# --- Cut ---

CUTS = sorted({cut for block in BLOCKS for cut in (block - 1, block, block + 1) if cut >= 0})


def assert_cut_is_found(tar: bytes, sink: Sink, *, verify: bool = True) -> None:
    padding = r"the padding at its end \(all data is there\)\. .*allow_incomplete"
    where = rf"ends after \d+ bytes, in ({padding}|.*not a complete)"
    with pytest.raises(IncompleteStreamError, match=where):
        restore(tar, sink, verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_a_cut_is_found_at_every_block(verify: bool) -> None:
    for cut in [*CUTS, len(TAR) - 1]:
        sink = MemorySink()
        assert_cut_is_found(TAR[:cut], sink, verify=verify)
        assert sink.state == "aborted"


@given(st.integers(0, len(TAR) - 1))
def test_a_cut_is_found_anywhere(cut: int) -> None:
    assert_cut_is_found(TAR[:cut], MemorySink())


def test_a_cut_leaves_no_image(tmp_path: Path) -> None:
    for cut in CUTS:
        assert_cut_is_found(TAR[:cut], RawImageSink(tmp_path / "disk.raw"))
        assert not list(tmp_path.iterdir())


def test_a_cut_in_the_padding_says_that_the_data_is_there() -> None:
    with pytest.raises(IncompleteStreamError, match="all data is there"):
        restore(TAR[:-1], MemorySink())


# --- Flipped bits ---


def flipped(tar: bytes, offset: int) -> bytes:
    damaged = bytearray(tar)
    damaged[offset] ^= 1 << offset * 5 % 8
    return bytes(damaged)


def members(tar: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return opened.getmembers()


def bodies(tar: bytes) -> set[int]:
    """Offsets of all bytes that are some member's data."""
    return {m.offset_data + i for m in members(tar) for i in range(m.size)}


def header_checksums(tar: bytes) -> set[int]:
    return {m.offset + i for m in members(tar) for i in range(148, 156)}


def bytes_of_data(tar: bytes) -> Iterator[tuple[int, int, int]]:
    """(Offset in the tar, start, length) for all data: of each byte, and of its segment."""
    for member in members(tar):
        if member.name.startswith("extent-"):
            start = int(member.name.partition("@")[2])
            for offset in range(member.size):
                yield member.offset_data + offset, start, member.size


@pytest.mark.parametrize(("checksum", "stride"), [("sha256", 1), ("blake2b", 13), ("crc32", 11)])
def test_a_flipped_bit_is_found_in_every_byte(checksum: str, stride: int) -> None:
    tar = make_tar(checksum=checksum)
    harmless = header_checksums(tar)
    for offset in range(0, len(tar), stride):
        damaged = flipped(tar, offset)
        # In a header's checksum a leading zero may become a space, a NUL a space: the same number.
        assert error_of(damaged) or (offset in harmless and restored(damaged) == DISK), offset


def test_a_flipped_bit_without_checksums() -> None:
    """What is found is all that the structure tells: headers, padding, what extents.json implies.

    What is not: damage inside of data and attachments, and inside of the JSON members where it
    leaves JSON that means the same layout: ids, names, metadata, `hole`, keys that are unknown.
    """
    tar = make_tar(checksum=None)
    may_pass = header_checksums(tar) | bodies(tar)
    for offset in range(0, len(tar), 3):
        assert error_of(flipped(tar, offset)) or offset in may_pass, offset


@pytest.mark.parametrize("checksum", CHECKSUMS)
def test_a_flipped_bit_in_data_tells_where_it_is(checksum: str) -> None:
    tar = make_tar(checksum=checksum)
    for offset, start, length in [*bytes_of_data(tar)][:: 1 if checksum == "crc32" else 7]:
        error = error_of(flipped(tar, offset))
        assert isinstance(error, DigestMismatchError)
        assert (error.start, error.length) == (start, length)
        assert f"the {length} bytes at disk offset {start} " in str(error)


def test_the_segment_is_named_where_a_member_has_several() -> None:
    tar = make_tar(part_size=3 * 512)  # the largest segment that divides it has 512 bytes
    for offset, start, length in bytes_of_data(tar):
        if start == 4096 and length == 1536:
            error = error_of(flipped(tar, offset))
            assert isinstance(error, DigestMismatchError)
            assert error.length == 512
            at = offset - next(m.offset_data for m in members(tar) if m.name == "extent-2@4096")
            assert error.start == start + at // 512 * 512


def test_unverified_data_may_be_wrong_but_nothing_else_may() -> None:
    offset, _, _ = next(bytes_of_data(TAR))
    assert restored(flipped(TAR, offset), verify=False) != DISK
    data = {offset for offset, _, _ in bytes_of_data(TAR)}
    digests = range(TAR.index(b'"segments":[') + 12, TAR.rindex(b'],"start"'))  # of the data
    unverified = data | {*digests} | header_checksums(TAR)
    for offset in set(range(0, len(TAR), 7)) - unverified:
        assert error_of(flipped(TAR, offset), verify=False), offset


# --- Rearranged ---


def order(*names: str) -> Callable[[Parts], Parts]:
    return lambda parts: [next(p for p in parts if p.name == name) for name in names]


def without(name: str) -> Callable[[Parts], Parts]:
    return lambda parts: [p for p in parts if p.name != name]


def renamed(name: str, new: str) -> Callable[[Parts], Parts]:
    return lambda parts: [p._replace(name=new) if p.name == name else p for p in parts]


def inserted(index: int, *new: Part) -> Callable[[Parts], Parts]:
    return lambda parts: [*parts[:index], *new, *parts[index:]]


def swapped(first: str, second: str) -> Callable[[Parts], Parts]:
    """The data of two members changes places, their names do not."""

    def swap(parts: Parts) -> Parts:
        data = {p.name: p.data for p in parts}
        data[first], data[second] = data[second], data[first]
        return [Part(p.name, data[p.name]) for p in parts]

    return swap


ODD = Part("notes.txt", b"hello")
OVF = Part("attachments/vm.ovf", b"<ovf/>" * 20)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (order(*NAMES[1:]), ForeignStreamError, "does not begin with backup-info.json"),
        (order(*NAMES[1::-1], *NAMES[2:]), ForeignStreamError, "does not begin with backup-info"),
        (order(*NAMES[:1], *NAMES[2:]), CorruptStreamError, "where extents.json should be"),
        (order(*NAMES[:2], *NAMES[3:]), CorruptStreamError, "lists other members"),
        (order(*NAMES[:3], *NAMES[4:]), CorruptStreamError, "where extent-1@0 should be"),
        (order(*NAMES[:5], *NAMES[6:]), CorruptStreamError, "where extent-2@5120 should be"),
        (order(*NAMES[:7], *NAMES[8:]), CorruptStreamError, "where extent-3@7000 should be"),
        (order(*NAMES[:8]), IncompleteStreamError, "ends where manifest.json should be"),
        (order(*NAMES[:5]), IncompleteStreamError, "ends where extent-2@5120 should be"),
        (order(*NAMES[:1]), IncompleteStreamError, "ends where extents.json should be"),
        (order(*NAMES[:4], NAMES[5], NAMES[4], *NAMES[6:]), CorruptStreamError, "2@4096 should"),
        (order(*NAMES[:7], NAMES[8], NAMES[7]), CorruptStreamError, "3@7000 should"),
        (order(*NAMES[:2], NAMES[3], NAMES[2], *NAMES[4:]), CorruptStreamError, "4096 should"),
        (order(NAMES[0], *NAMES), CorruptStreamError, "where extents.json should be"),
        (order(*NAMES[:2], *NAMES[1:]), CorruptStreamError, "where extent-1@0 should be"),
        (order(*NAMES[:4], *NAMES[3:]), CorruptStreamError, "where extent-2@4096 should be"),
        (order(*NAMES[:8], *NAMES[7:]), CorruptStreamError, "where manifest.json should be"),
        (order(*NAMES, NAMES[8]), CorruptStreamError, "more behind manifest.json"),
        (order(*NAMES, *NAMES), CorruptStreamError, "more behind manifest.json"),
        (renamed("backup-info.json", "./backup-info.json"), ForeignStreamError, "does not begin"),
        (renamed("backup-info.json", "backup-info.json2"), ForeignStreamError, "does not begin"),
        (renamed("extents.json", "Extents.json"), CorruptStreamError, "'Extents.json' where"),
        (renamed("attachments/vm.ovf", "attachments/a"), CorruptStreamError, "other members"),
        (renamed("attachments/vm.ovf", "attachments/../x"), CorruptStreamError, "bad name"),
        (renamed("attachments/vm.ovf", "attachments/"), CorruptStreamError, "bad name"),
        (renamed("attachments/vm.ovf", "vm.ovf"), CorruptStreamError, "'vm.ovf' where"),
        (renamed("extent-1@0", "extent-1@00"), CorruptStreamError, "'extent-1@00' where"),
        (renamed("extent-3@7000", "extent-3@7168"), CorruptStreamError, "3@7000 should be"),
        (renamed("extent-3@7000", "extent-4@7000"), CorruptStreamError, "3@7000 should be"),
        (inserted(0, ODD), ForeignStreamError, "does not begin with"),
        (inserted(1, ODD), CorruptStreamError, "where extents.json should be"),
        (inserted(2, ODD), CorruptStreamError, "where extent-1@0 should be"),
        (inserted(2, Part("attachments/more", b"")), CorruptStreamError, "lists other members"),
        (inserted(5, ODD), CorruptStreamError, "where extent-2@5120 should be"),
        (inserted(8, ODD), CorruptStreamError, "where manifest.json should be"),
        (inserted(9, ODD), CorruptStreamError, "more behind manifest.json"),
        (inserted(8, Part("extent-4@7500", b"a")), CorruptStreamError, "manifest.json should be"),
        (swapped("extent-2@4096", "extent-2@5120"), DigestMismatchError, "disk offset 4096 "),
        *(
            (
                inserted(2, Part("attachments/vm.ovf", data)),
                CorruptStreamError,
                "attachments/vm.ovf",
            )
            for data in (OVF.data, b"another")
        ),
    ],
)
def test_rearranged_members(
    change: Callable[[Parts], Parts], error: type[StreamError], message: str
) -> None:
    with pytest.raises(error, match=message):
        restore(join(change(PARTS)), MemorySink())


@pytest.mark.parametrize("size", [0, 1023, 1025, 512, 2048])
@pytest.mark.parametrize("name", ["extent-2@4096", "extent-2@6144"])
def test_a_data_member_of_another_size(name: str, size: int) -> None:
    parts = replaced(PARTS, name, Part(name, bytes(size)))
    with pytest.raises(CorruptStreamError, match=f"{name} has {size} bytes, but extents.json says"):
        restore(join(parts), MemorySink())


@pytest.mark.parametrize("name", NAMES)
def test_a_header_that_claims_another_size(name: str) -> None:
    for wrong in (-1, 1, -512, 512):
        part = next(p for p in PARTS if p.name == name)
        claim = len(part.data) + wrong
        if claim >= 0:
            tar = join(replaced(PARTS, name, part._replace(claim=claim)))
            with pytest.raises(StreamError):
                restore(tar, MemorySink())


@pytest.mark.parametrize("name", ["backup-info.json", "extents.json", "manifest.json"])
@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 50_000, b"null", b"[1]", b"{}"])
def test_json_members_that_are_not_what_they_should_be(name: str, text: bytes) -> None:
    with pytest.raises(StreamError, match=rf"{name}.*( not |the keys)"):
        restore(join(replaced(PARTS, name, Part(name, text))), MemorySink())


# --- JSON that lies, with digests that are right ---


def extent(index: int, **values: Any) -> Edit:
    return lambda listed: [{**e, **values} if i == index else e for i, e in enumerate(listed)]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (extent(1, start=701), "leaves a gap"),
        (extent(1, start=699), "overlaps"),
        (extent(0, start=1, length=699), "leaves a gap"),
        (extent(0, start=-1, length=701), "overlaps"),
        (extent(1, length=0), "has length 0"),
        (extent(5, length=999), "covers 8000 bytes of a disk of 7999"),
        (extent(5, length=2**62), "of a disk of 7999"),
        (extent(5, length=2**63), "ends beyond any disk"),
        (extent(5, length=997), "covers 7998 bytes of a disk of 7999"),
        (extent(5, length=998.0), "length is not a whole number"),
        (extent(0, zero=1), "zero is not true or false"),
        (extent(0, zero=True), "'extent-1@0' where extent-1@4096 should be"),
        (extent(1, zero=False), "'extent-2@4096' where extent-2@700 should be"),
        (extent(5, zero=False), "'manifest.json' where extent-4@7001 should be"),
        (extent(4, zero=True), "'extent-3@7000' where manifest.json should be"),
        (lambda listed: listed[:-1], "covers 7001 bytes of a disk of 7999"),
        (lambda listed: listed[::-1], "leaves a gap"),
        (lambda _: [], "covers 0 bytes of a disk of 7999"),
        (lambda _: [{"start": 0, "length": 7999, "zero": True}], "where manifest.json should be"),
        (lambda _: [{"start": 0, "length": 7999}], "extent-1@0 has 700 bytes, but .* says 1024"),
        (lambda listed: [*listed, 5], "something that is not an extent"),
        (lambda listed: {"extents": listed}, "not a list"),
        (lambda _: b"[{", "not JSON"),
        (lambda _: b"[" * 100_000, "not JSON"),
        (lambda _: b"", "not JSON"),
        (lambda _: b"\xff\xfe\xfd", "not JSON"),
    ],
)
def test_extents_that_lie(edit: Edit, message: str) -> None:
    with pytest.raises(CorruptStreamError, match=message):
        restore(join(edited(PARTS, "extents.json", edit)), MemorySink())


def setting(**values: Any) -> Edit:
    return lambda found: {**found, **values}


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (setting(format="qcow2"), ForeignStreamError, "does not say"),
        (setting(version=2), NewerFormatError, "version 2"),
        (setting(version="2"), CorruptStreamError, "version is '2'"),
        (setting(size=8000), CorruptStreamError, "covers 7999 bytes of a disk of 8000"),
        (setting(context="dirty"), CorruptStreamError, "does not say if it is dirty"),
        (setting(checksum="crc32"), CorruptStreamError, "says checksum is 'sha256'"),
        (setting(checksum=None), CorruptStreamError, "says checksum is 'sha256'"),
        (setting(volume=2), WrongVolumeError, "volume 2"),
        (setting(part_size=2048, segment_size=2048), CorruptStreamError, "says 2048"),
        (setting(part_size=1024, segment_size=512), CorruptStreamError, "segment_size is 512"),
        (setting(record_size=1024**2), IncompleteStreamError, "all data is there"),
    ],
)
def test_a_preamble_that_lies(edit: Edit, error: type[StreamError], message: str) -> None:
    with pytest.raises(error, match=message):
        restore(join(edited(PARTS, "backup-info.json", edit)), MemorySink())


@pytest.mark.parametrize(
    "edit",
    [
        setting(version=2),
        setting(volume=2),
        setting(continues=True),
        setting(data_extents=2),
        setting(data_members=4),
        setting(data_bytes=0),
        setting(checksum=None),
        setting(members={}),
        setting(segments=[]),
        setting(more=1),
    ],
)
def test_a_manifest_that_lies(edit: Edit) -> None:
    with pytest.raises(CorruptStreamError):
        restore(join(edited(PARTS, "manifest.json", edit)), MemorySink())


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (make_tar(disk(2)), DigestMismatchError, "extent-1@0: the 700 bytes at disk offset 0 "),
        (make_tar(vm_id="another"), CorruptStreamError, "backup-info.json does not match"),
        (make_tar(attachments={}), CorruptStreamError, "lists other members"),
        (make_tar(part_size=4096), CorruptStreamError, "data_members"),
        (make_tar(checksum="crc32"), CorruptStreamError, "checksum|backup-info.json"),
    ],
)
def test_the_manifest_of_another_stream(
    other: bytes, error: type[StreamError], message: str
) -> None:
    with pytest.raises(error, match=message):
        restore(join([*PARTS[:-1], split(other)[-1]]), MemorySink())


# --- Sizes that lie ---

HUGE = 8**11 - 1
UNLISTED = unlisted(PARTS)


def disk_of_gigabytes(parts: Parts) -> Parts:
    """The preamble, the extents and a header agree on a disk that is not there."""
    size = 7 * 1024**3
    layout = setting(size=size, part_size=size, segment_size=16 * 1024**2)
    parts = edited(parts, "backup-info.json", layout)
    parts = edited(parts, "extents.json", lambda _: [{"start": 0, "length": size, "zero": False}])
    return replaced(parts, "extent-1@0", Part("extent-1@0", b"", size))


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([Part(NAMES[0], b"{}", HUGE)], CorruptStreamError),
        ([Part(NAMES[0], b"{}", 16 * 1024**2)], IncompleteStreamError),
        ([PARTS[0], Part(NAMES[1], b"[]", HUGE)], CorruptStreamError),
        ([UNLISTED[0], Part(NAMES[1], b"[]", HUGE)], IncompleteStreamError),
        ([*PARTS[:2], Part(NAMES[2], b"a", HUGE)], CorruptStreamError),
        ([*UNLISTED[:2], Part(NAMES[2], b"a", HUGE)], CorruptStreamError),
        ([*PARTS[:2], Part(NAMES[2], b"a", 64 * 1024**2)], CorruptStreamError),
        ([*UNLISTED[:2], Part(NAMES[2], b"a", 64 * 1024**2)], IncompleteStreamError),
        ([*PARTS[:3], Part(NAMES[3], b"a", HUGE)], CorruptStreamError),
        ([*PARTS[:8], Part(NAMES[8], b"{}", HUGE)], CorruptStreamError),
        ([*PARTS[:8], Part(NAMES[8], b"{}", 16 * 1024**2)], IncompleteStreamError),
        (disk_of_gigabytes(PARTS), IncompleteStreamError),
        (edited(PARTS, NAMES[0], setting(record_size=1024**3)), IncompleteStreamError),
    ],
)
def test_a_size_that_lies_takes_no_memory(parts: Parts, error: type[StreamError]) -> None:
    tar = join(parts)
    tracemalloc.start()
    try:
        with pytest.raises(error):
            restore(tar, DiscardSink())
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024**2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("verify_data", [True, False])
def test_a_manifest_that_is_too_large_is_not_read(verify_data: bool) -> None:
    """How long it can be follows from the extents."""
    tar = join([*PARTS[:8], Part(NAMES[8], bytes(40 * 1024**2))])
    file = io.BytesIO(tar)
    with (
        TarStreamSource(file, verify=verify_data) as source,
        pytest.raises(CorruptStreamError, match="is too large: 41943040 bytes"),
    ):
        copy(source, DiscardSink())
    assert file.tell() < len(tar) - 40 * 1024**2
    file.seek(0)
    with TarStreamSource(file, verify=verify_data) as source:
        report = verify(source)
    assert (report.problems, report.complete) == (
        ("manifest.json is too large: 41943040 bytes",),
        False,
    )


@pytest.mark.timeout(10)
@pytest.mark.parametrize("size", [2**50, 2**62, 2**63 - 1])
def test_a_small_stream_of_a_huge_disk_is_soon_told_as_incomplete(
    size: int, tmp_path: Path
) -> None:
    layout = setting(size=size, part_size=512, segment_size=512)
    parts = edited(PARTS, "backup-info.json", layout)
    parts = edited(parts, "extents.json", lambda _: [{"start": 0, "length": size, "zero": False}])
    path = tmp_path / "disk.tar"
    path.write_bytes(join(parts[:2]))
    with TarStreamSource(path) as source, pytest.raises(IncompleteStreamError, match="manifest"):
        source.check_complete()
    with TarStreamSource(io.BytesIO(path.read_bytes())) as source:
        source.check_complete()  # it cannot be told


# --- Foreign ---


def gnu_tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("etc/passwd")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"root"))
    return out.getvalue()


@pytest.mark.parametrize(
    "stream",
    [
        gnu_tar(),
        random.Random(1).randbytes(20_000),
        bytes(10_240),  # an empty tar
        b"a" * 100,
        b"# Notes\n" * 200,
        b"{}",
        b"backup-info.jso" + bytes(1000),
        b"backup-info.json " + bytes(1000),
        json.dumps([e.to_dict() for e in EXTENTS]).encode(),
    ],
    ids=lambda stream: repr(stream[:10]),
)
def test_foreign_streams(stream: bytes) -> None:
    sink = MemorySink()
    with pytest.raises(ForeignStreamError, match="tar -tf"):
        restore(stream, sink)
    assert sink.state == "aborted"


@pytest.mark.parametrize(
    ("stream", "packer"),
    [
        (gzip.compress(TAR), "gzip"),
        (lzma.compress(TAR), "xz"),
        (bz2.compress(TAR), "bzip2"),
        (b"\x28\xb5\x2f\xfd" + bytes(1000), "zstd"),  # as `file` knows it, and the next
        (b"\x04\x22\x4d\x18" + bytes(1000), "lz4"),
    ],
    ids=["gzip", "xz", "bzip2", "zstd", "lz4"],
)
def test_a_packed_stream_is_told_how_to_unpack(stream: bytes, packer: str) -> None:
    sink = MemorySink()
    with pytest.raises(ForeignStreamError, match=f"'{packer} -dc'"):
        restore(stream, sink)
    assert sink.state == "aborted"


def test_an_error_says_in_which_stream_and_member(tmp_path: Path) -> None:
    path = tmp_path / "disk.tar"
    damaged = bytearray(TAR)
    damaged[TAR.index(b"extent-2@") + 20] ^= 1
    path.write_bytes(damaged)
    with TarStreamSource(path) as source, pytest.raises(CorruptStreamError) as caught:
        copy(source, MemorySink())
    assert str(caught.value).startswith(f"{path}: extent-2@")
    path.write_bytes(b"{" + TAR[1:])
    with pytest.raises(ForeignStreamError, match=f"^{path}"):
        TarStreamSource(path)
    path.write_bytes(TAR[:100])
    with pytest.raises(IncompleteStreamError, match=f"^{path}"):
        TarStreamSource(path)
    path.write_bytes(TAR.replace(b"{", b"[", 1))
    with pytest.raises(StreamError, match=f"^{path}"):
        TarStreamSource(path)


@pytest.mark.parametrize("missing", [1, 512])
def test_a_stream_whose_last_record_is_not_full(missing: int) -> None:
    with pytest.raises(IncompleteStreamError, match=r"all data is there.*allow_incomplete"):
        restore(TAR[:-missing], MemorySink())
    sink = MemorySink()
    with TarStreamSource(io.BytesIO(TAR[:-missing]), allow_incomplete=True) as source:
        copy(source, sink)
    assert bytes(sink.disk) == DISK


def test_an_empty_stream_is_incomplete() -> None:
    # As is what a backup leaves that dies at once.
    with pytest.raises(IncompleteStreamError, match="ends after 0 bytes"):
        restore(b"", MemorySink())


@given(st.binary(max_size=2000))
def test_any_bytes_are_a_stream_error(stream: bytes) -> None:
    with pytest.raises(StreamError):
        restore(stream, MemorySink())


@given(st.binary(max_size=2000), st.sampled_from([*BLOCKS]))
def test_any_bytes_behind_a_good_start_are_a_stream_error(stream: bytes, cut: int) -> None:
    if not TAR[cut:].startswith(stream):
        with pytest.raises(StreamError):
            restore(TAR[:cut] + stream, MemorySink())


def test_the_parts_of_the_disk_have_the_size_they_should() -> None:
    assert all(len(p.data) <= PART_SIZE for p in PARTS if p.name.startswith("extent-"))


def test_a_manifest_in_other_words_is_as_good() -> None:
    """Of another writer: white space and the order of keys mean nothing."""
    manifest = json.loads(next(part.data for part in PARTS if part.name == "manifest.json"))
    text = json.dumps(dict(reversed(manifest.items())), indent=2).encode()
    tar = join(replaced(PARTS, "manifest.json", Part("manifest.json", text)))
    assert restored(tar) == DISK


@pytest.mark.parametrize("byte", [0, 11_000 * 512 + 7])
def test_damage_in_a_long_list_of_digests_is_located(byte: int) -> None:
    """More digests than are compared at once."""
    content = random.Random(5).randbytes(12_000 * 512)
    out = io.BytesIO()
    copy(MemorySource(content), TarStreamSink(out, part_size=512, checksum="crc32"))
    assert restored(out.getvalue()) == content
    damaged = bytearray(out.getvalue())
    damaged[damaged.index(content[byte : byte + 64])] ^= 1
    error = error_of(bytes(damaged))
    assert isinstance(error, DigestMismatchError)
    assert error.start == byte // 512 * 512
