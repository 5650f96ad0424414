"""Where everything lies in a tar, as Python's own `tarfile` sees it, and what damage there means.

What `verify` and a salvage must say is computed from this: nothing here comes from the code that
is tested, but `Damage` itself.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from tapestream import Damage

MIB = 1024**2


class Place(NamedTuple):
    """A member of the tar.

    Attributes:
        name: Its name.
        header: Offset of its header in the tar.
        data: Offset of its data in the tar.
        size: Bytes of data.
    """

    name: str
    header: int
    data: int
    size: int

    @property
    def end(self) -> int:
        """Offset behind its data, in the tar."""
        return self.data + self.size

    @property
    def start(self) -> int:
        """Offset of its data in the disk."""
        return int(self.name.partition("@")[2])


class Layout:
    """Where everything lies in a good tar.

    Attributes:
        tar: The tar.
        places: All members.
        data: Those of them that are the disk's data.
        segment_size: Bytes in one digest.
        disk_size: Of the disk.
    """

    def __init__(self, tar: bytes) -> None:
        self.tar = tar
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            self.places = [Place(m.name, m.offset, m.offset_data, m.size) for m in opened]
        self.data = [place for place in self.places if place.name.startswith("extent-")]
        info = json.loads(self.contents("backup-info.json"))
        self.segment_size = math.gcd(info["part_size"], 16 * MIB)
        self.disk_size: int = info["size"]

    def place(self, name: str) -> Place:
        return next(place for place in self.places if place.name == name)

    def contents(self, name: str) -> bytes:
        place = self.place(name)
        return self.tar[place.data : place.end]

    @property
    def first_header(self) -> int:
        """Offset of the first header behind the attachments."""
        place = self.data[0] if self.data else self.place("manifest.json")
        return place.header

    @property
    def data_bytes(self) -> int:
        return sum(place.size for place in self.data)

    def data_offsets(self) -> list[int]:
        """Where in the tar there is data of the disk, byte by byte."""
        return [offset for place in self.data for offset in range(place.data, place.end)]

    def segments_with(self, offsets: Collection[int]) -> list[Damage]:
        """The segments that hold one of these bytes of the tar; those that touch are one."""
        hit = [
            self._is_hit(place.data + first, place.data + last, offsets)
            for place, first, last in self._segments()
        ]
        return joined(
            Damage(place.start + first, last - first, place.name, missing=False)
            for (place, first, last), bad in zip(self._segments(), hit, strict=True)
            if bad
        )

    def missing(self, start: int, end: int) -> list[Damage]:
        """The bytes of the disk that lie between two offsets of the tar."""
        found = []
        for place in self.data:
            first, last = max(start, place.data), min(end, place.end)
            if first < last:
                at = place.start + first - place.data
                found.append(Damage(at, last - first, place.name, missing=True))
        return found

    def image(self, tar: bytes) -> bytes:
        """What a salvage of this damaged tar of the same layout must make of a full backup."""
        image = bytearray(self.disk_size)
        for place in self.data:
            data = tar[place.data : place.end]
            image[place.start : place.start + len(data)] = data
        return bytes(image)

    def is_harmless(self, damaged: bytes) -> bool:
        """True where the tar means just the same: a header can be written in several ways."""
        same = bytearray(damaged)
        for place in self.places:
            block = damaged[place.header : place.data]
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            except (tarfile.HeaderError, ValueError):
                continue
            if (header.name, header.size, header.isreg()) == (place.name, place.size, True):
                same[place.header : place.data] = self.tar[place.header : place.data]
        return bytes(same) == self.tar

    def _segments(self) -> Iterator[tuple[Place, int, int]]:
        for place in self.data:
            for first in range(0, place.size, self.segment_size):
                yield place, first, min(first + self.segment_size, place.size)

    @staticmethod
    def _is_hit(first: int, end: int, offsets: Collection[int]) -> bool:
        return any(first <= offset < end for offset in offsets)


def joined(found: Iterable[Damage]) -> list[Damage]:
    """The same, where what goes on in the same member is one."""
    all_of_it: list[Damage] = []
    for damage in found:
        before = all_of_it[-1] if all_of_it else None
        if before and (before.start + before.length, before.member) == (
            damage.start,
            damage.member,
        ):
            length = before.length + damage.length
            all_of_it[-1] = Damage(before.start, length, before.member, before.missing)
        else:
            all_of_it.append(damage)
    return all_of_it


def flipped(tar: bytes, *offsets: int) -> bytes:
    """The same with all bits of some bytes turned."""
    damaged = bytearray(tar)
    for offset in offsets:
        damaged[offset] ^= 0xFF
    return bytes(damaged)


def zeroed(tar: bytes, start: int, length: int) -> bytes:
    """The same with a stretch of zeros."""
    end = min(start + length, len(tar))
    return tar[:start] + bytes(end - start) + tar[end:]


def differing(a: bytes, b: bytes) -> list[int]:
    """Where two byte strings of one length differ."""
    assert len(a) == len(b)
    return [i for i, (one, other) in enumerate(zip(a, b, strict=True)) if one != other]
