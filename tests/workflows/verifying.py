"""Streams to verify, and what is said of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from tapestream import Damage, Extent, TarStreamSource, VerifyReport, verify
from tests.disks import noise
from tests.tar.layouts import Layout, Place, flipped, joined
from tests.tar.sectors import SECTOR, Bad
from tests.tar.tars import make_tar, tar_of_disk

CHECKSUMS = ("sha256", "blake2b", "crc32")
KIB, MIB = 1024, 1024**2
TAR = make_tar()
LAYOUT = Layout(TAR)
BAD_HEADER = "a tar header is damaged or not ours: its checksum is wrong"


def bad_header(name: str) -> str:
    """What is said of a member with a flipped byte in its header."""
    return f"{name}: {BAD_HEADER}"


def sector_at(offset: int) -> tuple[int, int]:
    """The sector that holds this byte."""
    return offset // SECTOR * SECTOR, offset // SECTOR * SECTOR + SECTOR


def verified(tar: bytes, **options: Any) -> VerifyReport:
    with TarStreamSource(io.BytesIO(tar), **options) as source:
        return verify(source)


def assert_good(report: VerifyReport, *, checksum: str | None = "sha256") -> None:
    assert report.ok
    assert report.complete
    assert (report.damage, report.problems) == ((), ())
    assert report.checksum == checksum


# In KiB: members of 192, 192 and 116; zeros; members of 192 and 8. Segments have 64.
BIG_EXTENTS = [
    Extent(0, 500 * KIB),
    Extent(500 * KIB, 300 * KIB, zero=True),
    Extent(800 * KIB, 200 * KIB),
]
BIG = tar_of_disk(noise(1000 * KIB), BIG_EXTENTS, part_size=192 * KIB, checksum="crc32")
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


def out_of_step(tar: bytes, at: int, change: str) -> bytes:
    """A byte more, or less, than it should have."""
    return tar[:at] + b"x" + tar[at:] if change == "inserted" else tar[:at] + tar[at + 1 :]


def missing_bytes(report: VerifyReport) -> int:
    return sum(damage.length for damage in report.damage if damage.missing)


def assert_bad_sectors(report: VerifyReport, bad: Bad) -> None:
    assert list(report.damage) == missing_and_damaged(BIG_LAYOUT, bad)
    headers = [p for p in BIG_LAYOUT.data if any(a <= p.header < b for a, b in bad)]
    assert len(report.problems) == len(headers)
    assert report.complete
    assert report.data_bytes == 700 * KIB - missing_bytes(report)
