"""Salvage: all that is still there comes back, zeros for the rest, and a list of what is wrong."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapestream import (
    Damage,
    DiscardSink,
    RawImageSink,
    TarStreamSink,
    TarStreamSource,
    copy,
    merge_chain,
    restore_chain,
    verify,
)
from tapestream.errors import (
    CorruptStreamError,
    DigestMismatchError,
    IncompleteStreamError,
    LocalIOError,
    StreamError,
    UsageError,
)
from tapestream.model.damage import Findings
from tapestream.model.extents import Kind
from tapestream.testing.memory import MemorySink
from tests.chains import WEEK, K, Link
from tests.tar.layouts import Layout, flipped, zeroed
from tests.tar.sectors import SECTOR, BadSectors, real_bad_sectors
from tests.tar.tars import DISK, EXTENTS, SIZE, make_tar, tar_of_disk

pytestmark = pytest.mark.timeout(120)

TAR = make_tar()
LAYOUT = Layout(TAR)
BAD_HEADER = "a tar header is damaged or not ours: its checksum is wrong"


def salvage(tar: bytes, image: Path, **options: Any) -> Findings:
    with (
        TarStreamSource(io.BytesIO(tar), allow_incomplete=True) as source,
        RawImageSink(image) as sink,
    ):
        result = copy(source, sink, **options)
        assert result.size == len(image.read_bytes())
        assert source.findings is not None
        return source.findings


CUT = LAYOUT.place("extent-2@5120").data + 24
BEHIND_DATA = LAYOUT.place("manifest.json").header
FLIPPED = [LAYOUT.data[0].data + 3, LAYOUT.place("extent-2@6144").data]

# What is damaged, the error of a strict source, and what the salvage must tell.
CASES: dict[str, tuple[bytes, type[StreamError], Findings]] = {
    "cut": (
        TAR[:CUT],
        IncompleteStreamError,
        Findings(
            LAYOUT.missing(CUT, len(TAR)),
            [f"BytesIO ends after {CUT} bytes, in extent-2@5120"],
        ),
    ),
    "flipped": (
        flipped(TAR, *FLIPPED),
        DigestMismatchError,
        Findings(LAYOUT.segments_with(FLIPPED), [], complete=True, digest_name="sha256"),
    ),
    "zeroed": (
        zeroed(TAR, LAYOUT.data[1].data + 1000, 600),
        CorruptStreamError,
        Findings(
            LAYOUT.segments_with(range(LAYOUT.data[1].data + 1000, LAYOUT.data[1].data + 1600)),
            ["extent-2@5120: the archive ends where extent-2@5120 should be"],
            complete=True,
            digest_name="sha256",
        ),
    ),
    "header": (
        flipped(TAR, LAYOUT.data[2].header),
        CorruptStreamError,
        Findings([], [f"extent-2@5120: {BAD_HEADER}"], complete=True, digest_name="sha256"),
    ),
    "both": (
        flipped(TAR, FLIPPED[0], LAYOUT.data[1].header)[:CUT],
        CorruptStreamError,
        Findings(
            # No digest vouches for what is on both sides of the damaged header.
            [
                *LAYOUT.missing(CUT, len(TAR)),
                Damage(0, 700, "extent-1@0", missing=False),
                Damage(4096, 1024, "extent-2@4096", missing=False),
            ],
            [f"extent-2@4096: {BAD_HEADER}", f"BytesIO ends after {CUT} bytes, in extent-2@5120"],
        ),
    ),
    "no manifest": (
        TAR[:BEHIND_DATA],
        IncompleteStreamError,
        Findings(
            [],
            [f"BytesIO ends after {BEHIND_DATA} bytes, in the header behind extent-3@7000"],
        ),
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[bytes, type[StreamError], Findings]:
    name: str = request.param
    return CASES[name]


def test_what_is_damaged_below() -> None:
    """Of the zeroed stretch, the header of the next member is in the middle."""
    place = LAYOUT.place("extent-2@5120")
    assert LAYOUT.data[1].data + 1000 < place.header < place.data < LAYOUT.data[1].data + 1600
    assert [place.name for place in LAYOUT.data[1:3]] == ["extent-2@4096", "extent-2@5120"]
    assert LAYOUT.image(TAR) == DISK
    assert len({tar for tar, _, _ in CASES.values()} | {TAR}) == len(CASES) + 1


# --- The image ---


def test_a_strict_source_leaves_nothing(
    case: tuple[bytes, type[StreamError], Findings], tmp_path: Path
) -> None:
    tar, error, _ = case
    with TarStreamSource(io.BytesIO(tar)) as source, RawImageSink(tmp_path / "disk.raw") as sink:
        assert source.findings is None
        with pytest.raises((error, IncompleteStreamError)):
            copy(source, sink)
    assert list(tmp_path.iterdir()) == []


def test_a_raw_image(case: tuple[bytes, type[StreamError], Findings], tmp_path: Path) -> None:
    tar, _, findings = case
    image = tmp_path / "disk.raw"
    assert salvage(tar, image) == findings
    assert image.read_bytes() == LAYOUT.image(tar)


def test_a_raw_image_in_small_buffers(
    case: tuple[bytes, type[StreamError], Findings], tmp_path: Path
) -> None:
    tar, _, findings = case
    image = tmp_path / "disk.raw"
    found = salvage(tar, image, buffer_size=4096, buffer_memory=8192, max_gap=0)
    assert found == findings
    assert image.read_bytes() == LAYOUT.image(tar)


def test_another_tar(case: tuple[bytes, type[StreamError], Findings], tmp_path: Path) -> None:
    """It is a good tar of what there was."""
    tar, _, findings = case
    target = tmp_path / "salvaged.tar"
    with (
        TarStreamSource(io.BytesIO(tar), allow_incomplete=True) as source,
        TarStreamSink(target, part_size=2048) as sink,
    ):
        copy(source, sink)
        assert source.findings == findings
    with TarStreamSource(target) as source:
        assert verify(source).ok
    restored = MemorySink()
    with TarStreamSource(target) as source:
        copy(source, restored)
    assert bytes(restored.disk) == LAYOUT.image(tar)


def test_findings_are_those_of_verify(case: tuple[bytes, type[StreamError], Findings]) -> None:
    tar, _, findings = case
    with TarStreamSource(io.BytesIO(tar)) as source:
        report = verify(source)
    assert list(report.damage) == findings.damage
    assert list(report.problems) == findings.problems
    assert report.complete == findings.complete


def test_the_checksum_is_known_at_the_end(
    case: tuple[bytes, type[StreamError], Findings],
) -> None:
    """None where something is damaged, and where the end was not compared."""
    tar, _, findings = case
    for stream, expected in (
        (tar, None if findings.damage else findings.digest_name),
        (TAR, "sha256"),
    ):
        with TarStreamSource(io.BytesIO(stream), allow_incomplete=True) as source:
            assert source.digest_name is None
            copy(source, DiscardSink())
            assert source.digest_name == expected
    with TarStreamSource(io.BytesIO(tar), allow_incomplete=True, verify=False) as source:
        copy(source, DiscardSink())
        assert source.findings is not None
        assert source.findings.digest_name is source.digest_name is None


@pytest.mark.parametrize("checksum", ["sha256", None])
def test_a_good_stream(checksum: str | None, tmp_path: Path) -> None:
    findings = salvage(make_tar(checksum=checksum), tmp_path / "disk.raw")
    assert findings == Findings([], [], complete=True, digest_name=checksum)
    assert (tmp_path / "disk.raw").read_bytes() == DISK


def test_without_digests_what_is_missing_is_told_but_not_what_is_damaged(tmp_path: Path) -> None:
    tar = make_tar(checksum=None)
    layout = Layout(tar)
    cut = layout.place("extent-3@7000").data
    damaged = flipped(tar, layout.data[0].data)[:cut]
    findings = salvage(damaged, tmp_path / "disk.raw")
    assert findings.damage == layout.missing(cut, len(tar))
    assert (tmp_path / "disk.raw").read_bytes() == layout.image(damaged)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda tar: tar[: LAYOUT.data[0].header + 1], id="cut"),
        pytest.param(
            lambda tar: tar[: LAYOUT.place("attachments/vm.ovf").data + 1],
            id="cut in an attachment",
        ),
        pytest.param(lambda tar: flipped(tar, LAYOUT.data[0].header), id="header"),
        pytest.param(
            lambda tar: flipped(tar, LAYOUT.place("attachments/vm.ovf").header),
            id="header of an attachment",
        ),
    ],
)
def test_damage_before_the_data(damage: Any, tmp_path: Path) -> None:
    tar = damage(TAR)
    findings = salvage(tar, tmp_path / "disk.raw")
    assert findings.problems
    assert findings.damage == LAYOUT.missing(len(tar), len(TAR))
    assert findings.complete is (len(tar) == len(TAR))
    assert findings.digest_name == ("sha256" if findings.complete else None)
    assert (tmp_path / "disk.raw").read_bytes() == LAYOUT.image(tar)


@pytest.mark.parametrize("at", [LAYOUT.places[1].data, LAYOUT.places[1].end - 1])
def test_nothing_is_salvaged_without_extents(at: int, tmp_path: Path) -> None:
    source = TarStreamSource(io.BytesIO(flipped(TAR, at)), allow_incomplete=True)
    with (
        source,
        RawImageSink(tmp_path / "disk.raw") as sink,
        pytest.raises(CorruptStreamError, match="tar --ignore-zeros"),
    ):
        copy(source, sink)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("attachments", [{}, {"vm.ovf": b"<ovf/>"}])
@pytest.mark.parametrize("how", ["flipped", "larger", "zeroed", "noise", "lost", "renamed"])
def test_a_damaged_header_of_the_extents(how: str, attachments: Any, tmp_path: Path) -> None:
    """What is behind it is read all the same."""
    tar = make_tar(attachments=attachments)
    place = Layout(tar).place("extents.json")
    header = {
        "flipped": flipped(tar, place.header)[place.header : place.data],
        "larger": tar[place.header : place.header + 124]
        + b"7"
        + tar[place.header + 125 : place.data],
        "zeroed": bytes(512),
        "noise": random.Random(1).randbytes(512),
        "lost": b"",
        "renamed": tar[:512],
    }[how]
    findings = salvage(tar[: place.header] + header + tar[place.data :], tmp_path / "disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == DISK
    assert findings.damage == []
    assert findings.digest_name == "sha256"
    assert findings.problems[0].startswith("extents.json: ")


def test_a_stream_that_is_none_is_refused_also_for_a_salvage() -> None:
    for stream in (b"", bytes(10240), TAR[:100]):
        with pytest.raises(StreamError):
            TarStreamSource(io.BytesIO(stream), allow_incomplete=True)


def test_findings_are_of_one_reading() -> None:
    with TarStreamSource(io.BytesIO(flipped(TAR, *FLIPPED)), allow_incomplete=True) as source:
        for _ in range(2):
            copy(source, DiscardSink())
            assert source.findings == CASES["flipped"][2]
            source.rewind()
        assert source.findings == Findings()


def test_a_salvage_is_read_once() -> None:
    with TarStreamSource(io.BytesIO(TAR), allow_incomplete=True) as source:
        copy(source, DiscardSink())
        with pytest.raises(UsageError, match="read once"):
            copy(source, DiscardSink())


# --- Any damage ---


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_damage(data: st.DataObject) -> None:
    """Where each byte belongs follows from the extents, whatever the headers say."""
    part_size = data.draw(st.sampled_from([512, 1024, 1536, 4096]))
    tar = make_tar(part_size=part_size, checksum=data.draw(st.sampled_from(["crc32", None])))
    layout = Layout(tar)
    first = layout.first_header
    damaged = tar
    for _ in range(data.draw(st.integers(0, 5))):
        damaged = flipped(damaged, data.draw(st.integers(first, len(tar) - 1)))
    for _ in range(data.draw(st.integers(0, 2))):
        start, length = data.draw(st.integers(first, len(tar) - 1)), data.draw(st.integers(1, 3000))
        damaged = zeroed(damaged, start, length)
    cut = data.draw(
        st.sampled_from([len(tar)] * 3 + [p.data for p in layout.data[1:]] + [len(tar) - 1])
    )
    damaged = damaged[:cut]
    sink = MemorySink()
    with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
        assert source.digest_name is None  # it is not known yet
        copy(source, sink)
        findings = source.findings
    assert findings is not None
    image = layout.image(damaged)
    assert bytes(sink.disk) == image
    assert findings.complete <= (cut == len(tar))
    if findings.digest_name:  # all that is wrong is told
        told = {at for d in findings.damage for at in range(d.start, d.start + d.length)}
        assert {at for at in range(SIZE) if image[at] != DISK[at]} <= told
    missing = [damage for damage in findings.damage if damage.missing]
    assert missing == layout.missing(cut, len(tar))


BAD = [(5 * SECTOR, 6 * SECTOR), (30 * SECTOR, 31 * SECTOR)]
LARGE = tar_of_disk(random.Random(3).randbytes(200 * K), part_size=64 * K)


def salvage_bad_sectors(target: Any, image: Path) -> None:
    """Zeros, and nothing else is lost."""
    layout = Layout(LARGE)
    readable = LARGE
    for start, end in BAD:
        readable = zeroed(readable, start, end - start)
    missing = [damage for stretch in BAD for damage in layout.missing(*stretch)]
    damaged = layout.segments_with([at for stretch in BAD for at in range(*stretch)])
    with TarStreamSource(target, allow_incomplete=True) as source, RawImageSink(image) as sink:
        copy(source, sink, buffer_size=16 * K, buffer_memory=32 * K)  # with old data in them
        assert source.findings == Findings(
            missing + damaged, [], complete=True, digest_name="sha256"
        )
    assert image.read_bytes() == layout.image(readable)


def test_bad_sectors(tmp_path: Path) -> None:
    salvage_bad_sectors(BadSectors(LARGE, BAD), tmp_path / "disk.raw")


def test_real_bad_sectors(tmp_path: Path) -> None:
    with real_bad_sectors(LARGE, BAD) as path:
        salvage_bad_sectors(path, tmp_path / "disk.raw")


def test_a_strict_source_does_not_pass_over_bad_sectors(tmp_path: Path) -> None:
    with (
        TarStreamSource(BadSectors(LARGE, BAD)) as source,
        RawImageSink(tmp_path / "disk.raw") as sink,
        pytest.raises(LocalIOError),
    ):
        copy(source, sink)
    assert list(tmp_path.iterdir()) == []


# --- Incremental backups, and chains ---


def applied(image: bytes, link: Link, tar: bytes, layout: Layout) -> bytes:
    """A disk after an incremental backup, with the data that is in this damaged tar."""
    changed = bytearray(image.ljust(len(link.disk), b"\0"))
    data = layout.image(tar)
    for extent in link.extents:
        here = slice(extent.start, extent.start + extent.length)
        if extent.kind is Kind.DATA:
            changed[here] = data[here]
        elif extent.kind is Kind.ZERO:
            changed[here] = bytes(extent.length)
    return bytes(changed)


def test_an_incremental_onto_an_image(tmp_path: Path) -> None:
    day = WEEK[1]
    tar = day.tar(part_size=1024)
    layout = Layout(tar)
    cut = layout.data[4].data + 100
    damaged = flipped(tar, layout.data[1].data)[:cut]
    image = tmp_path / "disk.raw"

    image.write_bytes(WEEK[0].disk)
    with (
        TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source,
        RawImageSink(image) as sink,
    ):
        copy(source, sink)
        assert source.findings is not None
        assert source.findings.damage == layout.missing(cut, len(tar))
    expected = applied(WEEK[0].disk, day, damaged, layout)
    assert image.read_bytes() == expected
    assert expected not in (day.disk, WEEK[0].disk)

    image.write_bytes(WEEK[0].disk)
    with (
        TarStreamSource(io.BytesIO(damaged)) as source,
        RawImageSink(image) as sink,
        pytest.raises(IncompleteStreamError),
    ):
        copy(source, sink)
    # All of this backup is read before the first block is written: the image is what it was.
    assert image.read_bytes() == WEEK[0].disk
    assert list(tmp_path.iterdir()) == [image]


@pytest.mark.parametrize("how", ["flipped", "cut"])
@pytest.mark.parametrize("merged", [False, True], ids=["restore_chain", "merge_chain"])
def test_a_chain_with_a_salvaged_link(how: str, merged: bool, tmp_path: Path) -> None:
    tars = [day.tar(part_size=1024) for day in WEEK]
    layout = Layout(tars[1])
    # What the third day has anew must not be damaged by the second.
    cut = layout.data[5].data + 10
    bad = [layout.data[1].data + 5, layout.data[3].data]
    damaged = flipped(tars[1], *bad) if how == "flipped" else tars[1][:cut]
    image = tmp_path / "disk.raw"
    paths = [tmp_path / f"{number}.tar" for number in range(3)]
    for path, tar in zip(paths, (tars[0], damaged, tars[2]), strict=True):
        path.write_bytes(tar)
    sources = [TarStreamSource(p, allow_incomplete=p is paths[1]) for p in paths]
    with RawImageSink(image) as sink:
        if merged:
            copy(merge_chain(sources), sink)
        else:
            restore_chain(sources, sink)
    for_one = applied(WEEK[0].disk, WEEK[1], damaged, layout)
    expected = applied(for_one, WEEK[2], tars[2], Layout(tars[2]))
    assert image.read_bytes() == expected
    assert expected != WEEK[2].disk
    found = layout.segments_with(bad) if how == "flipped" else layout.missing(cut, len(tars[1]))
    assert sources[1].findings is not None
    assert sources[1].findings.damage == found
    assert sources[0].findings is sources[2].findings is None

    strict = [TarStreamSource(path) for path in paths]
    with RawImageSink(tmp_path / "strict.raw") as sink, pytest.raises(StreamError):
        restore_chain(strict, sink)
    for source in (*sources, *strict):
        source.close()
    assert not (tmp_path / "strict.raw").exists()


def test_a_chain_is_verified_first_and_findings_are_not_told_twice(tmp_path: Path) -> None:
    tars = [day.tar(part_size=1024) for day in WEEK]
    layout = Layout(tars[1])
    bad = layout.data[1].data
    sources = [
        TarStreamSource(io.BytesIO(tars[0])),
        TarStreamSource(io.BytesIO(flipped(tars[1], bad)), allow_incomplete=True),
        TarStreamSource(io.BytesIO(tars[2])),
    ]
    with RawImageSink(tmp_path / "disk.raw") as sink:
        restore_chain(sources, sink, verify_first=True)
    found = layout.segments_with([bad])
    assert sources[1].findings == Findings(found, [], complete=True, digest_name="sha256")


# --- Findings ---


def test_what_goes_on_becomes_one() -> None:
    findings = Findings()
    findings.add(Damage(0, 10, "a", missing=True))
    findings.add(Damage(10, 5, "a", missing=True))
    findings.add(Damage(15, 5, "a", missing=False))
    findings.add(Damage(20, 5, "b", missing=False))
    findings.add(Damage(26, 5, "b", missing=False))
    assert [(d.start, d.length) for d in findings.damage] == [(0, 15), (15, 5), (20, 5), (26, 5)]


def test_the_disk_that_is_damaged_here() -> None:
    assert sum(extent.length for extent in EXTENTS) == SIZE == len(DISK)
