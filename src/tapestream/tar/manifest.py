"""`manifest.json`, the last member: what the stream must contain, and the digests of all of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import CorruptStreamError, DigestMismatchError
from ..model.extents import Extents, Segment, cut
from .digests import digest_of
from .fields import choice, decode_object, number, string
from .format import END, MANIFEST, MAX_INFO, VERSION, Member, data_members
from .preamble import Preamble

_DIGESTS_PER_CHUNK = 10_000


class Manifest(NamedTuple):
    """The contents of `manifest.json`: what the stream must contain.

    If a tape ended before its manifest could be written, the manifest on the next volume covers
    the complete data members of both.

    Attributes:
        checksum: Name of the digest; None if there are no digests.
        data_extents: Number of data extents that have data in the members it covers.
        data_members: Number of data members that it covers.
        data_bytes: Bytes in these members.
        members: By name, the digest in hex (or None) of every member of this volume that is not
            data.
        segments: The digests of all segments, concatenated, in the order of the stream.
        start: Disk offset of the first data that it covers.
        set_id: The preamble's `set_id`.
        volume: Number of this volume.
        continues: True when another volume follows.
    """

    checksum: str | None
    data_extents: int
    data_members: int
    data_bytes: int
    members: Mapping[str, str | None]
    segments: bytes
    start: int = 0
    set_id: str | None = None
    volume: int = 1
    continues: bool = False

    def encode(self) -> Iterator[bytes]:
        """Yield it as JSON without white space, in chunks: a large disk has a million digests."""
        head, tail = self._frame()
        yield head
        step = self._digest_size * _DIGESTS_PER_CHUNK
        for i in range(0, len(self.segments), step):
            digests = self.segments[i : i + step].hex(",", self._digest_size)
            quoted = digests.replace(",", '","')
            yield (f',"{quoted}"' if i else f'"{quoted}"').encode()
        yield tail

    @property
    def length(self) -> int:
        """Bytes in all chunks of `encode` together."""
        return self.length_with(len(self.segments) // self._digest_size)

    def length_with(self, count: int) -> int:
        """Bytes that it would have with `count` segments."""
        per_digest = 2 * self._digest_size + len('"",')
        return sum(map(len, self._frame())) + max(0, count * per_digest - len(","))

    def longest(self, segments: int) -> int:
        """An upper limit for the bytes of any manifest of this stream.

        It leaves room for the white space of other writers, and for members that were not found.

        Args:
            segments: The largest number of segments that there can be.
        """
        return 2 * self.length_with(segments if self.checksum else 0) + MAX_INFO

    def differences(
        self, text: bytes, extents: Extents, preamble: Preamble, *, data_too: bool = True
    ) -> Iterator[CorruptStreamError]:
        """Compare this object, made from what was read, with the manifest of the stream.

        Args:
            text: The stream's manifest.
            extents: The stream's extents, to say where on the disk the damage is.
            preamble: The stream's preamble, for the same purpose.
            data_too: True to compare the digests of the data, too.

        Yields:
            A DigestMismatchError for every segment that does not match its digest; before them,
            other errors for whatever else differs.

        Raises:
            CorruptStreamError: The text is not a manifest of the same form, so the rest of it
                cannot be compared.
        """
        wanted, found = decode_object(MANIFEST, text), self._values()
        if wanted.keys() != found.keys():
            raise CorruptStreamError(f"{MANIFEST} is damaged: it does not have the expected keys")
        for key in found:
            if key not in ("members", "segments") and wanted[key] != found[key]:
                yield CorruptStreamError(
                    f"{MANIFEST} says {key} is {wanted[key]!r}, but the stream has {found[key]!r}"
                )
        if wanted["members"] != found["members"]:
            yield CorruptStreamError(_differing_member(wanted["members"], found["members"]))
        listed, size = wanted["segments"], self._digest_size
        is_list = isinstance(listed, list)
        if not is_list or (data_too and len(listed) * size != len(self.segments)):
            raise CorruptStreamError(
                f"{MANIFEST} is damaged: it does not list the expected segments"
            )
        if data_too:
            vouched = segments(extents, preamble, self.start)
            for i, ((member, segment), there) in enumerate(zip(vouched, listed, strict=False)):
                if self.segments[i * size : (i + 1) * size].hex() != there:
                    yield DigestMismatchError(member.name, segment.start, segment.length)

    @property
    def _digest_size(self) -> int:
        return len(digest_of(self.checksum, b"")) if self.checksum else 1

    def _frame(self) -> tuple[bytes, bytes]:
        """Everything before the first digest of a segment, and after the last.

        What comes after them says which stream this was: it is in the last record.
        """
        text = json.dumps(self._values(), separators=(",", ":"), ensure_ascii=False).encode()
        before, segments, after = text.partition(b'"segments":[')
        return before + segments, after

    def _values(self) -> dict[str, Any]:
        """All values, without the digests of the segments."""
        return {
            "version": VERSION,
            "data_extents": self.data_extents,
            "data_members": self.data_members,
            "data_bytes": self.data_bytes,
            "checksum": self.checksum,
            "members": dict(self.members),
            "segments": [],
            "start": self.start,
            "set_id": self.set_id,
            "volume": self.volume,
            "continues": self.continues,
        }


class ManifestBuilder:
    """Counts the data members since the last manifest, and makes the next manifest.

    Attributes:
        start: Disk offset of the first data.
        members: Number of data members.
        bytes: Bytes in them.
        segments: The digests of their segments, concatenated.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.members = self.bytes = 0
        self.segments = bytearray()
        self._first = self._last = 0

    def add(self, member: Member) -> None:
        """Count a member."""
        self._first = self._first or member.number
        self._last = member.number
        self.members += 1
        self.bytes += member.length

    def add_lost(self, first: int, last: int, members: int, length: int) -> None:
        """Count missing members; `first` and `last` are the numbers of their extents."""
        self._first = self._first or first
        self._last = last
        self.members += members
        self.bytes += length

    def manifest(
        self, preamble: Preamble, digests: Mapping[str, str | None], *, continues: bool
    ) -> Manifest:
        """Make the manifest of a volume.

        Args:
            preamble: The volume's preamble.
            digests: By name, the digests of its members that are not data.
            continues: True when another volume follows.
        """
        return Manifest(
            checksum=preamble.checksum,
            data_extents=self._last - self._first + 1 if self._first else 0,
            data_members=self.members,
            data_bytes=self.bytes,
            members=digests,
            segments=bytes(self.segments),
            start=self.start,
            set_id=preamble.set_id,
            volume=preamble.volume,
            continues=continues,
        )


class Ending(NamedTuple):
    """The values in the last bytes of a manifest."""

    start: int
    set_id: str | None
    volume: int
    continues: bool


def ending(last: bytes) -> Ending | None:
    """Read the end of the manifest from the last bytes of a stream; None if it is not there.

    Args:
        last: The last record, or the last two if the last has only padding.
    """
    text = last.rstrip(b"\0")
    if len(last) - len(text) < len(END):
        return None
    match = re.search(rb'\],("start":[^\[\]{}]{1,200}\})$', text)
    try:
        values = decode_object(MANIFEST, b"{" + match[1]) if match else {}
        return Ending(
            number(values, "start", 0, 2**63),
            string(values, "set_id"),
            number(values, "volume", 1, 2**31),
            choice(values, "continues", (True, False)),
        )
    except (CorruptStreamError, ValueError):
        return None


def segments(
    extents: Extents, preamble: Preamble, start: int = 0
) -> Iterator[tuple[Member, Segment]]:
    """All segments of members from disk offset `start`, with their members, in manifest order."""
    for member in data_members(extents, preamble.part_size, start):
        for segment in cut(member.start, member.length, preamble.segment_size):
            yield member, segment


def _differing_member(wanted: object, found: Mapping[str, str | None]) -> str:
    if isinstance(wanted, dict) and wanted.keys() == found.keys():
        damaged = [name for name, digest in found.items() if wanted[name] != digest]
        return f"{', '.join(damaged)} does not match its digest in {MANIFEST}"
    return f"{MANIFEST} lists other members than the stream has"
