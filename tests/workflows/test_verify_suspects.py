"""verify(): what is around a damaged header, and what was compared."""

from __future__ import annotations

from typing import Any

import pytest

from tapestream import TarStreamSource, verify
from tests.disks import noise
from tests.tar.layouts import Layout, flipped, zeroed
from tests.tar.sectors import BadSectors
from tests.tar.tars import make_tar, tar_of_disk
from tests.workflows.verifying import (
    BIG,
    BIG_LAYOUT,
    HOW,
    KIB,
    LAYOUT,
    TAR,
    around,
    out_of_step,
    sector_at,
    suspects,
    told,
    verified,
    with_header,
)

pytestmark = pytest.mark.timeout(120)


# --- Suspects: what is around a damaged header, and nobody vouches for ---


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
    tar = tar_of_disk(noise(64 * KIB), part_size=KIB, checksum=None)
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
